// Lets Debian's User Mode Linux run where the processor has more registers than it knows of (AMX): it saves and restores
// those of its processes by ptrace with a buffer of a fixed size, and a kernel takes the whole set or nothing. Here what is
// too short is completed by what the process has at the moment, which no program of the guest uses. Preloaded; elsewhere
// it changes nothing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define X86_XSTATE 0x202

static char whole[65536];

long ptrace(enum __ptrace_request request, ...) {
  static long (*next)(enum __ptrace_request, ...);
  va_list arguments;
  va_start(arguments, request);
  pid_t pid = va_arg(arguments, pid_t);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);
  if (!next) next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
  if (request == PTRACE_SETREGSET && (unsigned long)address == X86_XSTATE) {
    struct iovec *given = data;
    struct iovec now = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, pid, address, &now) == 0 && given->iov_len < now.iov_len) {
      memcpy(whole, given->iov_base, given->iov_len);
      return next(PTRACE_SETREGSET, pid, address, &now);
    }
  }
  return next(request, pid, address, data);
}
