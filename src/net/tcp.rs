//! TCP: listening sockets, dialling, and what every connection is set to.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Connects to `host`, a name or an IP address, trying each of its addresses in the order the system gives
/// them.
///
/// The time is shared out: an address that swallows packets cannot use up what the ones after it need.
///
/// # Errors
/// [`ConnectError`] when the name is unknown, when every address refused, or when `timeout` is over.
pub async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + timeout;
    let fails = |reason| ConnectError {
        host: host.to_owned(),
        port,
        reason,
    };
    let addresses: Vec<SocketAddr> = match timeout_at(deadline, tokio::net::lookup_host((host, port))).await {
        Err(_) => return Err(fails(ConnectReason::TimedOut(timeout))),
        Ok(Err(error)) => return Err(fails(ConnectReason::Unresolved(error))),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let mut refusals = Vec::new();
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share =
            deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = prepare(&SockRef::from(&stream)) {
                    refusals.push((*address, error));
                    continue;
                }
                return Ok(stream);
            }
            Ok(Err(error)) => refusals.push((*address, error)),
            Err(_) => refusals.push((*address, io::ErrorKind::TimedOut.into())),
        }
    }
    Err(fails(if refusals.is_empty() {
        ConnectReason::NoAddress
    } else {
        ConnectReason::Refused(refusals)
    }))
}

/// A socket that listens on `address`, `0.0.0.0` and `[::]` side by side if need be; must be called inside a
/// runtime.
///
/// The connections it accepts inherit its settings (NODELAY, keep-alive, the limit on unacknowledged bytes),
/// which saves five system calls for each.
///
/// # Errors
/// What the system says, [`io::ErrorKind::AddrInUse`] first of all.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_beside(address, false)
}

/// The same; where `is_shared`, beside other sockets of this process's user that [share](set_shared) an address.
pub(super) fn listen_beside(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(StdListener::from(socket))
}

/// Whether others of this process's user may listen where `socket` does, as far as they share it as well.
pub(super) fn set_shared(socket: &TcpListener, is_shared: bool) -> io::Result<()> {
    SockRef::from(socket).set_reuse_port(is_shared)
}

/// Why a connection could not be made.
#[derive(Debug)]
pub struct ConnectError {
    /// As it was asked for.
    pub host: String,
    /// As it was asked for.
    pub port: u16,
    /// What went wrong.
    pub reason: ConnectReason,
}

/// What stood in the way of a connection.
#[derive(Debug)]
pub enum ConnectReason {
    /// The name could not be looked up.
    Unresolved(io::Error),
    /// The name exists and has no address.
    NoAddress,
    /// The time was over before the name was looked up.
    TimedOut(Duration),
    /// What each address said.
    Refused(Vec<(SocketAddr, io::Error)>),
}

/// Connections the kernel keeps for us until they are accepted: a whole site that reconnects after a power
/// cut.
const BACKLOG: i32 = 1024;
/// Quiet time before the kernel asks whether the peer is alive; catches those whose MQTT keep-alive is 0.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions after which the connection is dead.
const KEEPALIVE_PROBES: u32 = 6;
/// For how long sent bytes may stay unacknowledged. On Linux it also overrides the count of probes, so it is
/// their sum: a dead peer is found after two minutes, whether we were sending or not.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);

const _: () = assert!(
    UNACKNOWLEDGED_MAX.as_secs()
        == KEEPALIVE_IDLE.as_secs() + KEEPALIVE_INTERVAL.as_secs() * KEEPALIVE_PROBES as u64
);

/// Sets what every connection needs.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    // A link's bytes are written once per turn, so waiting for more of them only delays.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, reason } = self;
        write!(f, "cannot connect to {host} port {port}: ")?;
        match reason {
            ConnectReason::Unresolved(error) => write!(f, "cannot look up the name: {error}"),
            ConnectReason::NoAddress => f.write_str("the name has no address"),
            ConnectReason::TimedOut(limit) => write!(
                f,
                "no answer from the name server within {} s",
                limit.as_secs_f32()
            ),
            ConnectReason::Refused(refusals) => {
                for (index, (address, error)) in refusals.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {error}", address.ip())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConnectError {}
