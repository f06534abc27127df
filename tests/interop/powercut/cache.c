// Gives the guest's disk the cache that disks have, which is lost with the power. What the guest writes goes to one file,
// DISK_CACHE, which is all it ever reads; when it flushes, the sectors that have changed are copied to another, DISK_MEDIUM.
// Which sectors are only in the cache stands in a map, DISK_DIRTY, a byte for each, so that whoever cuts the power can decide
// for every one of them whether the medium has got it: in any order, and with writes of several sectors torn.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR 512

// One thread of the guest's kernel does all of this, one call after the other.
static struct stat cache;
static int medium = -1;
static unsigned char *dirty;
static off_t sectors;

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("DISK_CACHE");
  if (!name || stat(name, &cache)) return;
  sectors = cache.st_size / SECTOR;
  int map = open(getenv("DISK_DIRTY"), O_RDWR | O_CLOEXEC);
  medium = open(getenv("DISK_MEDIUM"), O_RDWR | O_CLOEXEC);
  dirty = mmap(0, sectors, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  if (map < 0 || medium < 0 || dirty == MAP_FAILED) abort();
}

static int is_cache(int file) {
  struct stat found;
  return dirty && !fstat(file, &found) && found.st_dev == cache.st_dev && found.st_ino == cache.st_ino;
}

static void change(int file, off_t at, off_t size) {
  if (!is_cache(file)) return;
  for (off_t sector = at / SECTOR; sector < sectors && sector * SECTOR < at + size; sector++) dirty[sector] = 1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  change(file, at, size);
  return syscall(SYS_pwrite64, file, data, size, at);
}

int fallocate64(int file, int mode, off64_t at, off64_t size) {
  change(file, at, size);
  return syscall(SYS_fallocate, file, mode, at, size);
}

int fdatasync(int file) {
  if (!is_cache(file)) return syscall(SYS_fdatasync, file);
  for (off_t sector = 0; sector < sectors; sector++) {
    char data[SECTOR];
    unsigned long eight;
    if (sector % 8 == 0 && (memcpy(&eight, dirty + sector, 8), !eight)) {
      sector += 7;
      continue;
    }
    if (!dirty[sector]) continue;
    if (syscall(SYS_pread64, file, data, SECTOR, sector * SECTOR) != SECTOR) abort();
    if (syscall(SYS_pwrite64, medium, data, SECTOR, sector * SECTOR) != SECTOR) abort();
    dirty[sector] = 0;
  }
  return 0;
}

int fsync(int file) { return is_cache(file) ? fdatasync(file) : syscall(SYS_fsync, file); }
