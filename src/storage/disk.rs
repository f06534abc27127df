//! What the journal wants of a file system, and the real one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, fstatvfs, openat, renameat, unlinkat};

/// A folder on a medium that forgets, at a power cut, what was not synced to it.
///
/// What an implementation promises and what not, which is what file systems do:
/// 1. What was written is on the medium after [`sync_data`](Self::sync_data) of the file said `Ok`; before, any part
///    of it may be there, in any order.
/// 2. A name that was made, changed or removed is so after [`sync_directory`](Self::sync_directory) said `Ok`;
///    before, it may be either way, each on its own.
/// 3. After an error of either nothing is known of what was not synced, and asking again proves nothing.
pub trait Disk {
    /// An open file. It stays usable when its name changes or goes.
    type File;

    /// The names of the files in the folder, in any order; folders and symbolic links are left out.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// Makes an empty file that must not exist, for reading and writing.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that exists, for reading and, where the folder allows it, writing.
    ///
    /// # Errors
    /// What the disk says; a file that is none (a folder, a symbolic link, a pipe) is refused.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// How many bytes the file has.
    ///
    /// # Errors
    /// What the disk says.
    fn length(&mut self, file: &Self::File) -> io::Result<u64>;

    /// Reads from `offset` and says how many bytes; 0 at the end of the file.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&mut self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset` and says how many bytes, which may be fewer than were given.
    ///
    /// # Errors
    /// What the disk says; any part may have been written.
    fn write_at(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until what was written to the file is on the medium, and its length.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_data(&mut self, file: &Self::File) -> io::Result<()>;

    /// Waits until the names in the folder are on the medium.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_directory(&mut self) -> io::Result<()>;

    /// Gives a file another name; a file that had it is gone.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file's name away.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// How many bytes could still be written to new files.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&mut self) -> io::Result<u64>;
}

/// A folder of the machine. Every call may wait for the medium, so it belongs to a thread that may wait.
#[derive(Debug)]
pub struct RealDisk {
    folder: File,
}

/// Files are for us alone.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// How every file is opened. A pipe somebody put there must not make us wait.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
/// A folder of ours holds some dozens; more than this is not looked at.
const LISTED_MAX: usize = 100_000;

impl RealDisk {
    /// The disk below an open folder, which is ours alone; see [`super::StateDirectory::journal`].
    pub fn new(folder: File) -> Self {
        Self { folder }
    }
}

impl Disk for RealDisk {
    type File = File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)?.take(LISTED_MAX) {
            let entry = entry?;
            let is_file = matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            if let Ok(name) = entry.file_name().to_str()
                && is_file
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | FILE_FLAGS;
        Ok(File::from(openat(&self.folder, name, flags, FILE_MODE)?))
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        let open = |access| openat(&self.folder, name, access | FILE_FLAGS, Mode::empty());
        let file = match open(OFlags::RDWR) {
            // What cannot be written can still be read.
            Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => open(OFlags::RDONLY),
            other => other,
        }?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "expected a plain file",
            ));
        }
        Ok(File::from(file))
    }

    fn length(&mut self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&mut self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(file, buffer, offset)
    }

    fn write_at(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(file, bytes, offset)
    }

    fn sync_data(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let figures = fstatvfs(&self.folder)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn disk(path: &std::path::Path) -> RealDisk {
        RealDisk::new(File::open(path).unwrap())
    }

    #[test]
    fn what_is_written_is_read_from_files_for_us_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = disk(folder.path());
        let file = disk.create("one").unwrap();
        assert_eq!(disk.write_at(&file, 3, b"abc").unwrap(), 3);
        disk.sync_data(&file).unwrap();
        disk.rename("one", "two").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(disk.list().unwrap(), ["two"]);
        let file = disk.open("two").unwrap();
        let mut content = [9; 8];
        assert_eq!(disk.read_at(&file, 0, &mut content).unwrap(), 6);
        assert_eq!(&content[..6], b"\0\0\0abc");
        assert_eq!(disk.length(&file).unwrap(), 6);
        assert_eq!(
            fs::metadata(folder.path().join("two")).unwrap().mode() & 0o777,
            0o600
        );
        assert!(disk.create("two").is_err(), "it exists");
        disk.remove("two").unwrap();
        assert_eq!(disk.list().unwrap(), [""; 0]);
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn what_is_no_file_is_neither_listed_nor_opened() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("precious");
        fs::write(&target, "untouched").unwrap();
        symlink(&target, folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(File::open(folder.path()).unwrap(), "pipe", mode).unwrap();
        let mut disk = disk(folder.path());
        assert_eq!(disk.list().unwrap(), [""; 0]);
        for name in ["link", "folder", "pipe"] {
            assert!(disk.open(name).is_err(), "{name}");
            assert!(disk.create(name).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
    }
}
