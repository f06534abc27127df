//! The folder the gateway keeps its state in.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat};
use rustix::process::geteuid;

use super::RealDisk;
use super::clock::Stamp;

/// A folder that belongs to this gateway alone as long as the value lives.
///
/// **Invariants**
/// 1. The folder is ours, nobody else may write to it, and no symbolic link led to it.
/// 2. Its lock is held: no other gateway has it open.
/// 3. Every file in it is opened by its name within the open folder, never by following a symbolic link.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    folder: File,
    stamp: Stamp,
    /// Held for its lock.
    _lock: File,
}

impl StateDirectory {
    /// Opens the folder at `path`, making it where it is missing (its parent must exist), and locks it.
    ///
    /// # Errors
    /// [`StorageError`] when it is not ours alone, cannot be written to, or another gateway has it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let fails = |source| StorageError::Unusable {
            path: path.to_owned(),
            source,
        };
        match DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fails(error)),
            Err(_) => {}
            Ok(()) => sync_parent(path).map_err(fails)?,
        }
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::DIRECTORY | OFlags::NOFOLLOW))
            .open(path)
            .map_err(|error| not_a_folder(path, error))?;
        let metadata = folder.metadata().map_err(fails)?;
        let user = geteuid().as_raw();
        if metadata.uid() != user {
            return Err(StorageError::ForeignOwner {
                path: path.to_owned(),
                owner: metadata.uid(),
                user,
            });
        }
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(StorageError::Exposed {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        let lock = create_in(&folder, LOCK_FILE, OFlags::empty()).map_err(fails)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => StorageError::InUse {
                path: path.to_owned(),
            },
            other => fails(other.into()),
        })?;
        let mut directory = Self {
            path: path.to_owned(),
            folder,
            stamp: Stamp::default(),
            _lock: lock,
        };
        directory.stamp = Stamp::read(&directory);
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The latest time that was ever saved here; `None` where there is none that can be read.
    pub fn last_seen(&self) -> Option<SystemTime> {
        self.stamp.last_seen()
    }

    /// Notes that it is `now` by the clock that certificates are checked against: saves it when the last
    /// saved time is an hour old. Cheap otherwise; waits for the disk when it does save.
    ///
    /// # Errors
    /// What the disk says; the time saved before is still there.
    pub fn note_time(&mut self, now: SystemTime) -> io::Result<()> {
        if self.stamp.is_due(now) {
            self.save_time(now)
        } else {
            Ok(())
        }
    }

    /// Saves that it is `now`, at the end of a run. An earlier time than the one saved is not saved.
    ///
    /// # Errors
    /// What the disk says; the time saved before is still there.
    pub fn save_time(&mut self, now: SystemTime) -> io::Result<()> {
        match self.stamp.advanced(now) {
            None => Ok(()),
            Some(stamp) => {
                self.replace(super::clock::FILE, stamp.to_text().as_bytes())?;
                self.stamp = stamp;
                Ok(())
            }
        }
    }

    /// The folder in it for the journal, which is made where it is missing. It is ours as long as this value lives.
    ///
    /// # Errors
    /// What the disk says.
    pub fn journal(&self) -> io::Result<RealDisk> {
        match mkdirat(&self.folder, JOURNAL_FOLDER, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => {}
            made => {
                made?;
                self.folder.sync_all()?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | FILE_FLAGS;
        Ok(RealDisk::new(File::from(openat(
            &self.folder,
            JOURNAL_FOLDER,
            flags,
            Mode::empty(),
        )?)))
    }

    /// The content of the file `name`, at most `bytes_max` of it; `None` where there is no such file.
    ///
    /// # Errors
    /// What the disk says, and [`io::ErrorKind::FileTooLarge`].
    pub(super) fn read(&self, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match openat(&self.folder, name, OFlags::RDONLY | FILE_FLAGS, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            other => File::from(other?),
        };
        let mut content = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        if file.take(limit).read_to_end(&mut content)? > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }

    /// Puts `content` in place of the file `name`: after a power cut there is the old one or the new one,
    /// whole.
    ///
    /// # Errors
    /// What the disk says; the old file is still there.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let fresh = format!("{name}.new");
        let written = create_in(&self.folder, &fresh, OFlags::TRUNC).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // What is left over takes room that may be what was missing.
            let _ = unlinkat(&self.folder, &fresh, AtFlags::empty());
            return Err(error);
        }
        renameat(&self.folder, &fresh, &self.folder, name)?;
        self.folder.sync_all()
    }
}

/// Why the state directory cannot be used.
#[derive(Debug)]
pub enum StorageError {
    /// There is something else at the path.
    NotAFolder {
        /// Which.
        path: PathBuf,
    },
    /// The folder belongs to another user.
    ForeignOwner {
        /// Which.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The number of the user this program runs as.
        user: u32,
    },
    /// Other users may write to the folder.
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another gateway runs on the folder.
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The folder cannot be made, opened or written to.
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder is for us alone.
const FOLDER_MODE: u32 = 0o700;
/// So are the files in it.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Permissions by which others could change what we keep.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Empty; the lock on it says that a gateway runs.
const LOCK_FILE: &str = "lock";
/// Where the journal's segments are.
const JOURNAL_FOLDER: &str = "journal";
/// How every file in the folder is opened.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

fn create_in(folder: &File, name: &str, extra: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | FILE_FLAGS | extra;
    Ok(File::from(openat(folder, name, flags, FILE_MODE)?))
}

/// Makes a new folder's entry in its parent outlast a power cut.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn not_a_folder(path: &Path, error: io::Error) -> StorageError {
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => StorageError::NotAFolder {
            path: path.to_owned(),
        },
        _ => StorageError::Unusable {
            path: path.to_owned(),
            source: error,
        },
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFolder { path } => write!(
                f,
                "the state directory {} is a file or a symbolic link, expected a folder; name its real path",
                path.display()
            ),
            Self::ForeignOwner { path, owner, user } => write!(
                f,
                "the state directory {0} belongs to user {owner}, expected user {user}, as whom this runs; \
                 run as its owner or chown {user} {0}",
                path.display()
            ),
            Self::Exposed { path, mode } => write!(
                f,
                "the state directory {0} has permissions {mode:04o}, so others may write to it; \
                 expected 0700 (chmod 700 {0})",
                path.display()
            ),
            Self::InUse { path } => write!(
                f,
                "the state directory {} is in use by another gateway; \
                 stop that one or give this one its own folder",
                path.display()
            ),
            Self::Unusable { path, source } if source.kind() == io::ErrorKind::NotFound => write!(
                f,
                "cannot make the state directory {}: the folder it should stand in does not exist",
                path.display()
            ),
            Self::Unusable { path, source } => {
                write!(f, "cannot use the state directory {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unusable { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_missing_folder_is_made_for_us_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let _directory = StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        for entry in fs::read_dir(&path).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o077, 0);
        }
    }

    #[test]
    fn two_gateways_never_share_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let first = StateDirectory::open(&path).unwrap();
        let refused = StateDirectory::open(&path).unwrap_err();
        assert!(
            matches!(&refused, StorageError::InUse { path: named } if *named == path),
            "{refused}"
        );
        drop(first);
        assert!(StateDirectory::open(&path).is_ok());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o702] {
            fs::set_permissions(parent.path(), Permissions::from_mode(mode)).unwrap();
            let refused = StateDirectory::open(parent.path()).unwrap_err();
            assert!(
                matches!(refused, StorageError::Exposed { mode: told, .. } if told == mode),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_symbolic_link_is_refused_as_folder_and_as_lock() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = parent.path().join("state");
        symlink(elsewhere.path(), &link).unwrap();
        assert!(matches!(
            StateDirectory::open(&link),
            Err(StorageError::NotAFolder { .. })
        ));

        let target = elsewhere.path().join("precious");
        fs::write(&target, "untouched").unwrap();
        let folder = parent.path().join("other");
        DirBuilder::new().mode(0o700).create(&folder).unwrap();
        symlink(&target, folder.join(LOCK_FILE)).unwrap();
        assert!(matches!(
            StateDirectory::open(&folder),
            Err(StorageError::Unusable { .. })
        ));
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
    }

    #[test]
    fn a_file_in_the_folders_place_is_told_as_such() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        fs::write(&path, "").unwrap();
        assert!(matches!(
            StateDirectory::open(&path),
            Err(StorageError::NotAFolder { .. })
        ));
    }

    #[test]
    fn replacing_a_file_leaves_the_new_one_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&parent.path().join("state")).unwrap();
        assert_eq!(directory.read("thing", 10).unwrap(), None);
        for content in [&b"old"[..], b"new", b""] {
            directory.replace("thing", content).unwrap();
            assert_eq!(directory.read("thing", 10).unwrap().as_deref(), Some(content));
        }
        assert!(!directory.path().join("thing.new").exists());
    }

    #[test]
    fn a_file_longer_than_expected_is_not_read() {
        let parent = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&parent.path().join("state")).unwrap();
        directory.replace("thing", &[0; 11]).unwrap();
        assert_eq!(
            directory.read("thing", 10).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }
}
