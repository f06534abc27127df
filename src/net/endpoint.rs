//! Where a listener is, and who came: an address of IP, or a Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixEndpoint),
}

/// A Unix socket in the file system, and who may come through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixEndpoint {
    /// Its file, by an absolute path of at most [`UnixEndpoint::PATH_BYTES_MAX`] bytes.
    pub path: PathBuf,
    /// The permissions of the file, as in chmod(1): who may write to it may connect.
    pub mode: u32,
    /// The user id the file belongs to; `None` leaves that of the process.
    pub owner: Option<u32>,
    /// The group id the file belongs to; `None` leaves that of the process.
    pub group: Option<u32>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address: the socket's, or the one a trusted balancer told.
    Ip(SocketAddr),
    /// A program of this machine.
    Unix(Credentials),
}

/// Whom the kernel says a Unix socket's peer is, as of its connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Its user id.
    pub uid: u32,
    /// Its process, where the kernel knows one.
    pub pid: Option<i32>,
}

/// Whom a connection counts for where each may have so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Those at this address.
    Address(IpAddr),
    /// The programs of this machine that run under this user id, by a Unix socket.
    User(u32),
}

impl Origin {
    /// Whether those who have nothing to do with each other share it: the programs of this machine, by TCP.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Address(address) if address.is_loopback())
    }
}

impl UnixEndpoint {
    /// What stands before a path wherever one may stand for an address.
    pub const SCHEME: &str = "unix:";

    /// The longest path: `sun_path` without its last 0.
    pub const PATH_BYTES_MAX: usize = 107;

    /// The permissions where nothing is said: the programs of its owner and of its group.
    pub const MODE: u32 = 0o660;
}

impl Endpoint {
    /// The address of IP; `None` for a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only programs of this machine reach it; `::ffff:127.0.0.1` counts as what it stands for.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl Peer {
    /// Whom the connection counts for.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Ip(address) => Origin::Address(address.ip().to_canonical()),
            Self::Unix(credentials) => Origin::User(credentials.uid),
        }
    }

    /// The address; `None` for programs on a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(unix) => write!(f, "{}{}", UnixEndpoint::SCHEME, unix.path.display()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(Credentials { uid, pid: Some(pid) }) => write!(f, "unix:uid={uid},pid={pid}"),
            Self::Unix(Credentials { uid, pid: None }) => write!(f, "unix:uid={uid}"),
        }
    }
}
