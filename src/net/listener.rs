//! A door: accepts connections, within bounds and time limits, and never stops doing so.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::time_provider::TimeProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsStream;
use tracing::{debug, warn};

use super::link::Stream;
use super::tls::{self, HandshakeError, TlsError};
use super::websocket::upgrade;
use super::{clock::FlooredClock, tcp};
use crate::mqtt::Utf8String;

/// What one door is and whom it lets wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// `None` is plain TCP.
    pub tls: Option<tls::ServerSettings>,
    /// `None` is MQTT without frames around it.
    pub websocket: Option<upgrade::ServerSettings>,
    /// Connections through this door at one time, those on their way in included.
    pub connections_max: usize,
    /// Connections that were accepted and have not sent a CONNECT yet.
    pub pending_max: usize,
    /// The same, from one address; addresses of this very machine are exempt, its programs share one.
    pub pending_per_address_max: usize,
    /// From accept to the end of the handshakes, TLS and WebSocket together.
    pub handshake_timeout: Duration,
}

/// A socket that listens, and the places behind it.
#[derive(Debug)]
pub struct Listener {
    name: String,
    address: SocketAddr,
    socket: TcpListener,
    tls: Option<Rc<tls::Server>>,
    websocket: Option<Rc<upgrade::ServerSettings>>,
    handshake_timeout: Duration,
    handshake_turns: Rc<Semaphore>,
    places: Rc<Places>,
    /// Held in reserve: given up for a moment when there is no other descriptor, to close on those who wait.
    spare: RefCell<Option<File>>,
    pause: Cell<Duration>,
    shortage: Episode,
    refusals: Episode,
    counters: Cell<Counters>,
}

impl Listener {
    /// Listens as `settings` say; `clock` is what certificates are checked against. Called inside a runtime.
    ///
    /// # Errors
    /// [`NetError`] when the address cannot be had or a file of TLS is not what it should be.
    pub fn bind(settings: ListenerSettings, clock: Option<Arc<dyn TimeProvider>>) -> Result<Self, NetError> {
        let ListenerSettings {
            name,
            address,
            tls,
            websocket,
            handshake_timeout,
            ..
        } = settings;
        let tls = match tls {
            None => None,
            Some(tls) => {
                let clock = clock.unwrap_or_else(|| Arc::new(FlooredClock::default()));
                match tls::Server::new(&tls, clock) {
                    Ok(server) => Some(Rc::new(server)),
                    Err(source) => return Err(NetError::Tls { name, source }),
                }
            }
        };
        let bound = tcp::listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = match bound {
            Ok(bound) => bound,
            Err(source) => {
                return Err(NetError::Listen {
                    name,
                    address,
                    source,
                });
            }
        };
        Ok(Self {
            name,
            address,
            socket,
            tls,
            websocket: websocket.map(Rc::new),
            handshake_timeout,
            handshake_turns: Rc::new(Semaphore::new(HANDSHAKES_PER_TURN)),
            places: Rc::new(Places {
                connections_max: settings.connections_max,
                pending_max: settings.pending_max,
                pending_per_address_max: settings.pending_per_address_max,
                connections: Cell::new(0),
                pending: Cell::new(0),
                pending_by_address: RefCell::default(),
                are_turning_over: Cell::new(true),
                freed: Notify::new(),
            }),
            spare: RefCell::new(open_spare()),
            pause: Cell::new(PAUSE_MIN),
            shortage: Episode::default(),
            refusals: Episode::default(),
            counters: Cell::default(),
        })
    }

    /// Where it listens; the port the system chose, where the settings left it open.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What came to this door since it was opened.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Connections that are through, and those on their way in.
    pub fn connections(&self) -> usize {
        self.places.connections.get()
    }

    /// Connections on their way in.
    pub fn pending(&self) -> usize {
        self.places.pending.get()
    }

    /// The next connection that finds a place; the others are closed on the way.
    ///
    /// It never fails: without descriptors or memory it waits and tries again. Dropping the future loses at
    /// most one connection, which was waiting for a place.
    pub async fn accept(&self) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    self.pause.set(PAUSE_MIN);
                    match self.admit(peer).await {
                        Ok(permit) => {
                            self.count(|counters| &mut counters.accepted);
                            return Accepted {
                                stream,
                                peer,
                                permit,
                                tls: self.tls.clone(),
                                websocket: self.websocket.clone(),
                                turns: Rc::clone(&self.handshake_turns),
                                timeout: self.handshake_timeout,
                                deadline: Instant::now() + self.handshake_timeout,
                            };
                        }
                        Err(refusal) => self.refuse(peer, refusal),
                    }
                }
                // That connection's own trouble, and it is gone from the queue.
                Err(error) if is_of_one_connection(&error) => {
                    debug!(listener = self.name, %error, "accept failed")
                }
                Err(error) => self.wait_out(error).await,
            }
        }
    }

    /// Gives `peer` a place. When all pending places are taken, a crowd of honest clients is through in a
    /// moment, so it waits for one of them; where that was in vain the places are held by somebody who says
    /// nothing, and until one moves everybody else is refused at once.
    async fn admit(&self, peer: SocketAddr) -> Result<ConnectionPermit, Refusal> {
        let places = &self.places;
        let address = peer.ip().to_canonical();
        match places.take(address) {
            Err(Refusal::Pending) if places.are_turning_over.get() => {
                let waited = timeout(PATIENCE, places.freed.notified()).await;
                places.are_turning_over.set(waited.is_ok());
                places.take(address)
            }
            decided => decided,
        }
    }

    fn refuse(&self, peer: SocketAddr, refusal: Refusal) {
        self.count(|counters| match refusal {
            Refusal::Connections => &mut counters.refused_connections,
            Refusal::Pending => &mut counters.refused_pending,
            Refusal::PendingOfAddress => &mut counters.refused_pending_per_address,
        });
        if self.refusals.begins(Instant::now()) {
            warn!(listener = self.name, %peer, limit = %refusal, "refusing connections");
        }
    }

    /// Without descriptors or memory: closes on those who wait, as far as the spare descriptor helps, and
    /// pauses.
    async fn wait_out(&self, error: io::Error) {
        self.count(|counters| &mut counters.shortages);
        let pause = self.pause.get();
        if self.shortage.begins(Instant::now()) {
            warn!(listener = self.name, %error, "cannot accept connections, trying again");
        }
        if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) {
            self.shed().await;
        }
        sleep(pause).await;
        self.pause.set(PAUSE_MAX.min(pause * 2));
    }

    /// Accepts and closes what waits, with the descriptor held in reserve: an end is more use to a client
    /// than silence, for then it tries again.
    async fn shed(&self) {
        drop(self.spare.take());
        for _ in 0..SHED_MAX {
            let waiting = poll_fn(|cx| Poll::Ready(self.socket.poll_accept(cx))).await;
            match waiting {
                Poll::Ready(Ok(connection)) => drop(connection),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
            self.count(|counters| &mut counters.shed);
        }
        self.spare.replace(open_spare());
    }

    fn count(&self, which: impl FnOnce(&mut Counters) -> &mut u64) {
        let mut counters = self.counters.get();
        *which(&mut counters) += 1;
        self.counters.set(counters);
    }
}

/// A connection that has a place and has not done its handshake.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    tls: Option<Rc<tls::Server>>,
    websocket: Option<Rc<upgrade::ServerSettings>>,
    turns: Rc<Semaphore>,
    timeout: Duration,
    deadline: Instant,
}

impl Accepted {
    /// From where it came.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Does the handshakes the listener asks for, TLS and then WebSocket. It belongs in a task of its own: a client may
    /// take all the time there is.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed and its place free.
    pub async fn handshake(self) -> Result<Incoming, HandshakeError> {
        let Self {
            stream,
            peer,
            permit,
            tls,
            websocket,
            turns,
            timeout,
            deadline,
        } = self;
        if tls.is_none() && websocket.is_none() {
            return Ok(Incoming {
                stream: Stream::Tcp(stream),
                peer,
                certificate_user: None,
                permit,
            });
        }
        // Boxed, so that the task of a connection that needs none of this does not carry room for it.
        let handshakes = Box::pin(async move {
            let (stream, certificate_user) = match tls {
                None => (Stream::Tcp(stream), None),
                Some(server) => {
                    let (stream, certificate_user) = secure(stream, server, turns).await?;
                    (Stream::Tls(stream), certificate_user)
                }
            };
            let stream = match websocket {
                None => stream,
                Some(settings) => {
                    let upgraded = upgrade::accept(stream, &settings, peer.ip()).await;
                    Stream::WebSocket(Box::new(upgraded.map_err(HandshakeError::Upgrade)?))
                }
            };
            Ok((stream, certificate_user))
        });
        let (stream, certificate_user) = timeout_at(deadline, handshakes)
            .await
            .map_err(|_| HandshakeError::TimedOut(timeout))??;
        Ok(Incoming {
            stream,
            peer,
            certificate_user,
            permit,
        })
    }
}

/// The server's side of the handshake.
///
/// A client that says nothing costs no state of TLS. When one does speak, key exchange and signature take
/// milliseconds of a small board in which the loop does nothing else, so only [`HANDSHAKES_PER_TURN`] of
/// these are done before everybody else has had their turn. The place is held over that one turn and not
/// until the client answers, so nobody can keep it.
async fn secure(
    stream: TcpStream,
    server: Rc<tls::Server>,
    turns: Rc<Semaphore>,
) -> Result<(Box<TlsStream<TcpStream>>, Option<Utf8String>), HandshakeError> {
    stream.readable().await.map_err(HandshakeError::Broken)?;
    let turn = turns.acquire().await.expect("the semaphore is never closed");
    let mut handshake = pin!(server.accept(stream));
    let first = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
    if let Poll::Ready(result) = first {
        return result;
    }
    tokio::task::yield_now().await;
    drop(turn);
    handshake.await
}

/// A connection that may speak MQTT.
#[derive(Debug)]
pub struct Incoming {
    /// Its bytes.
    pub stream: Stream,
    /// From where it came.
    pub peer: SocketAddr,
    /// The user its verified client certificate names, where the listener takes it from there.
    pub certificate_user: Option<Utf8String>,
    /// Its place; to be kept as long as the connection is.
    pub permit: ConnectionPermit,
}

/// A connection's place behind its listener, given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    places: Rc<Places>,
    address: IpAddr,
    is_pending: Cell<bool>,
}

impl ConnectionPermit {
    /// Tells that the client is in: its CONNECT was accepted, and it no longer counts as pending. Once is
    /// enough.
    pub fn admitted(&self) {
        if self.is_pending.replace(false) {
            self.places.leave_pending(self.address);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admitted();
        self.places.connections.set(self.places.connections.get() - 1);
    }
}

/// What came to a listener since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that got a place.
    pub accepted: u64,
    /// Closed at once, because `connections_max` were there.
    pub refused_connections: u64,
    /// Closed at once, because `pending_max` were on their way in.
    pub refused_pending: u64,
    /// Closed at once, because `pending_per_address_max` from the same address were on their way in.
    pub refused_pending_per_address: u64,
    /// Closed at once, because there was no descriptor to keep them.
    pub shed: u64,
    /// Times that accepting failed for want of descriptors or memory.
    pub shortages: u64,
}

/// Why a door cannot be opened.
#[derive(Debug)]
pub enum NetError {
    /// The address cannot be had.
    Listen {
        /// The listener's name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    Tls {
        /// The listener's name.
        name: String,
        /// Why.
        source: TlsError,
    },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen {
                name,
                address,
                source,
            } => {
                write!(f, "listener {name:?} cannot listen on {address}: ")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "the port is in use by another program; \
                         stop it (ss -ltnp shows which) or take another port"
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address (ip address shows which it has)")
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(
                            f,
                            "{source}; ports below 1024 need a privilege, MQTT's are 1883 and 8883"
                        )
                    }
                    _ => write!(f, "{source}"),
                }
            }
            Self::Tls { name, source } => write!(f, "listener {name:?} cannot use TLS: {source}"),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
        }
    }
}

/// Raises the limit on open descriptors as far as the system lets this process, and returns it; for the
/// start.
///
/// # Errors
/// What the system says; the old limit is then still in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// First steps of TLS handshakes in one turn of the loop: 5 to 10 ms each on the slowest boards, which is
/// what everybody else waits at most.
const HANDSHAKES_PER_TURN: usize = 4;
/// How long one connection may wait for a pending place before its kind is refused at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// The first pause without descriptors or memory; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest of these pauses: what a client would wait for the gateway once there are descriptors again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections closed with the spare descriptor before one pause: the kernel's whole queue in half a minute.
const SHED_MAX: usize = 32;
/// Trouble that comes back within this time is the same trouble, and is not told again.
const EPISODE_GAP: Duration = Duration::from_secs(60);

const _: () = assert!(PAUSE_MIN.as_millis() <= PAUSE_MAX.as_millis());

/// Who is through this door and who is on the way in.
///
/// **Invariants**
/// 1. `connections` is the number of permits, `pending` of those that are pending.
/// 2. `pending_by_address` adds up to `pending`; no entry is 0, so it never holds more than `pending_max`.
#[derive(Debug)]
struct Places {
    connections_max: usize,
    pending_max: usize,
    pending_per_address_max: usize,
    connections: Cell<usize>,
    pending: Cell<usize>,
    pending_by_address: RefCell<HashMap<IpAddr, usize>>,
    /// Whether waiting for a pending place has not been in vain since the last one became free.
    are_turning_over: Cell<bool>,
    freed: Notify,
}

/// The bound that kept a connection out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Connections,
    Pending,
    PendingOfAddress,
}

impl Places {
    fn take(self: &Rc<Self>, address: IpAddr) -> Result<ConnectionPermit, Refusal> {
        if self.connections.get() >= self.connections_max {
            return Err(Refusal::Connections);
        }
        let mut pending_by_address = self.pending_by_address.borrow_mut();
        let of_address = pending_by_address.get(&address).copied().unwrap_or(0);
        // The programs of this machine share one address, and whoever floods from inside has easier ways.
        // Addresses of IPv6 count one by one, for a field network's honest devices share a prefix.
        if of_address >= self.pending_per_address_max && !address.is_loopback() {
            return Err(Refusal::PendingOfAddress);
        }
        if self.pending.get() >= self.pending_max {
            return Err(Refusal::Pending);
        }
        pending_by_address.insert(address, of_address + 1);
        self.pending.set(self.pending.get() + 1);
        self.connections.set(self.connections.get() + 1);
        Ok(ConnectionPermit {
            places: Rc::clone(self),
            address,
            is_pending: Cell::new(true),
        })
    }

    fn leave_pending(&self, address: IpAddr) {
        let mut pending_by_address = self.pending_by_address.borrow_mut();
        match pending_by_address.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                pending_by_address.remove(&address);
            }
        }
        self.pending.set(self.pending.get() - 1);
        self.are_turning_over.set(true);
        self.freed.notify_waiters();
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections_max",
            Self::Pending => "pending_max",
            Self::PendingOfAddress => "pending_per_address_max",
        })
    }
}

/// Trouble that is worth one line, however often it repeats.
#[derive(Debug, Default)]
struct Episode {
    last: Cell<Option<Instant>>,
}

impl Episode {
    /// Notes the trouble; true when it begins rather than goes on.
    fn begins(&self, now: Instant) -> bool {
        let last = self.last.replace(Some(now));
        last.is_none_or(|last| now.duration_since(last) > EPISODE_GAP)
    }
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Whether an error of accept(2) is about the connection it would have returned: Linux passes on what
/// happened to that one meanwhile. Errors that could stay (EPERM, EOPNOTSUPP) are not among them, for without
/// a pause they would spin.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::TIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections_max: usize, pending_max: usize, pending_per_address_max: usize) -> Rc<Places> {
        Rc::new(Places {
            connections_max,
            pending_max,
            pending_per_address_max,
            connections: Cell::new(0),
            pending: Cell::new(0),
            pending_by_address: RefCell::default(),
            are_turning_over: Cell::new(true),
            freed: Notify::new(),
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_address_cannot_take_all_pending_places() {
        let places = places(100, 10, 2);
        let _held = [places.take(address(1)).unwrap(), places.take(address(1)).unwrap()];
        assert_eq!(places.take(address(1)).unwrap_err(), Refusal::PendingOfAddress);
        assert!(places.take(address(2)).is_ok());
    }

    #[test]
    fn the_programs_of_this_machine_share_an_address_and_no_bound() {
        let places = places(100, 10, 2);
        let local = IpAddr::from([127, 0, 0, 1]);
        let held: Vec<_> = (0..10).map(|_| places.take(local).unwrap()).collect();
        assert_eq!(places.take(local).unwrap_err(), Refusal::Pending);
        drop(held);
    }

    #[test]
    fn an_admitted_client_frees_its_pending_place_and_keeps_its_connection() {
        let places = places(2, 1, 1);
        let first = places.take(address(1)).unwrap();
        assert_eq!(places.take(address(2)).unwrap_err(), Refusal::Pending);
        first.admitted();
        first.admitted();
        let second = places.take(address(1)).unwrap();
        assert_eq!(places.take(address(3)).unwrap_err(), Refusal::Connections);
        drop(first);
        drop(second);
        assert_eq!((places.connections.get(), places.pending.get()), (0, 0));
        assert!(places.pending_by_address.borrow().is_empty());
    }

    #[test]
    fn trouble_that_repeats_is_told_once_and_told_again_after_a_quiet_minute() {
        let episode = Episode::default();
        let mut now = Instant::now();
        assert!(episode.begins(now));
        for _ in 0..10 {
            now += EPISODE_GAP / 2;
            assert!(!episode.begins(now));
        }
        now += EPISODE_GAP * 2;
        assert!(episode.begins(now));
    }
}
