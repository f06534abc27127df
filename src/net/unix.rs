//! Unix sockets: listening ones that belong to one process, and dialling.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use super::endpoint::{Credentials, UnixEndpoint};

/// A Unix socket that listens; its file goes with it.
///
/// **Invariants**
/// 1. Nobody gets in before the file has its owner and its permissions: connect(2) refuses until listen(2).
/// 2. Only a file that this process made is ever removed when it ends.
#[derive(Debug)]
pub struct UnixDoor {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known again.
    identity: (u64, u64),
}

/// Connections the kernel keeps for us until they are accepted; as for TCP.
const BACKLOG: i32 = 1024;

/// How long another process may be about to open a socket in the same folder.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks whether it is done.
const TURN_POLL: Duration = Duration::from_millis(5);

/// Permission by which every user may put a file in place of the socket's.
const WRITABLE_BY_ALL: u32 = 0o002;

/// With this on a folder, a file of it belongs to its owner whoever else may write there, as in `/tmp`.
const STICKY: u32 = 0o1000;

impl UnixDoor {
    /// Listens as `endpoint` says; called inside a runtime.
    ///
    /// A socket file that a dead process left behind is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] where a live process listens there, and whatever makes the place unfit: no
    /// socket stands at the path, the folder lets every user replace it, the owner cannot be given.
    pub fn bind(endpoint: &UnixEndpoint) -> io::Result<Self> {
        let path = &endpoint.path;
        check_path(path)?;
        // From the look at what is there to listen(2) nobody else of us may come between: what is bound and does
        // not listen yet looks like a dead one's.
        let _turn = take_turn(parent_of(path)?)?;
        remove_dead(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // The file gets these less the process's mask, and never more than what is wanted.
        fchmod(&socket, Mode::from_raw_mode(endpoint.mode))?;
        socket.bind(&SockAddr::unix(path)?)?;
        let made = fs::symlink_metadata(path)?;
        let identity = (made.dev(), made.ino());
        match prepare(socket, endpoint) {
            Ok(socket) => Ok(Self {
                socket,
                path: path.clone(),
                identity,
            }),
            Err(error) => {
                remove_own(path, identity);
                Err(error)
            }
        }
    }

    /// The next connection, and whom the kernel says it is from.
    ///
    /// # Errors
    /// Those of accept(2).
    pub(super) async fn accept(&self) -> io::Result<(UnixStream, Credentials)> {
        let (stream, _) = self.socket.accept().await?;
        let credentials = stream.peer_cred()?;
        Ok((
            stream,
            Credentials {
                uid: credentials.uid(),
                pid: credentials.pid(),
            },
        ))
    }

    /// The listening socket, to shed what waits there.
    pub(super) fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        remove_own(&self.path, self.identity);
    }
}

/// Connects to the Unix socket at `path`.
///
/// # Errors
/// What the system says, or that `timeout` is over: a listener whose queue is full keeps callers waiting.
pub async fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let next = tokio::time::Instant::now() + TURN_POLL;
                if next >= deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                tokio::time::sleep_until(next).await;
            }
            connected => return connected,
        }
    }
}

/// Refuses a path at which no socket that is safe could be opened, without opening one.
///
/// # Errors
/// What is wrong with the path, its folder, or what stands at it.
pub fn check_path(path: &Path) -> io::Result<()> {
    let wrong = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    let bytes = path.as_os_str().len();
    if !path.is_absolute() || path.file_name().is_none() {
        return wrong(format!(
            "found the path {:?}, expected one from the root to a file such as \"/run/tidegate/mqtt.sock\"",
            path.display()
        ));
    }
    if bytes > UnixEndpoint::PATH_BYTES_MAX {
        return wrong(format!(
            "the path has {bytes} bytes, expected at most the {} that the system takes",
            UnixEndpoint::PATH_BYTES_MAX
        ));
    }
    let folder = parent_of(path)?;
    let shown = folder.display();
    let found = fs::metadata(folder)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot use the folder {shown}: {error}")))?;
    if !found.is_dir() {
        return wrong(format!("{shown} is no folder"));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 {
        return wrong(format!(
            "the folder {shown} has permissions {mode:04o}, so every user could put another socket in place of \
             this one; expected 0755 or less (chmod o-w)"
        ));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => wrong(format!(
            "{} is there and is no socket; remove it, or choose another path",
            path.display()
        )),
        _ => Ok(()),
    }
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder"))
}

/// Gives the file its permissions and its owner, and only then listens.
fn prepare(socket: Socket, endpoint: &UnixEndpoint) -> io::Result<UnixListener> {
    set_permissions(endpoint)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

/// Gives the file its permissions and its owner.
pub(super) fn set_permissions(endpoint: &UnixEndpoint) -> io::Result<()> {
    let path = &endpoint.path;
    fs::set_permissions(path, fs::Permissions::from_mode(endpoint.mode))?;
    if endpoint.owner.is_some() || endpoint.group.is_some() {
        lchown(path, endpoint.owner, endpoint.group).map_err(|error| {
            let message = format!("the socket cannot be given to its owner and group: {error}");
            io::Error::new(error.kind(), message)
        })?;
    }
    Ok(())
}

/// Waits for the lock on `folder` that whoever opens or replaces a socket there holds meanwhile.
fn take_turn(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(fs::TryLockError::Error(error)) => return Err(error),
            Err(fs::TryLockError::WouldBlock) if begin.elapsed() < TURN_WAIT_MAX => {
                std::thread::sleep(TURN_POLL)
            }
            Err(fs::TryLockError::WouldBlock) => {
                let message = format!(
                    "another process holds the folder {}, perhaps to open a socket there",
                    folder.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
        }
    }
}

/// Removes the socket of a dead process at `path`.
fn remove_dead(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue must not keep us waiting.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(path = %path.display(), "replacing the socket of a process that is gone");
            fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            let message = format!("cannot find out whether the socket that is there is in use: {error}");
            Err(io::Error::new(error.kind(), message))
        }
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Removes the file at `path` if it is the one that `identity` names.
fn remove_own(path: &Path, identity: (u64, u64)) {
    let is_ours = fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == identity);
    if is_ours && let Err(error) = fs::remove_file(path) {
        warn!(path = %path.display(), %error, "the socket's file could not be removed");
    }
}
