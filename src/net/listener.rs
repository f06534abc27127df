//! A door: accepts connections, within bounds and time limits, and never stops doing so.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::time_provider::TimeProvider;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsStream;
use tracing::{debug, warn};

use super::endpoint::{Endpoint, Peer};
use super::episode::Episode;
use super::link::Stream;
use super::network::Network;
use super::places::{Bounds, Places};
use super::tls::{self, HandshakeError, TlsError};
use super::unix::UnixDoor;
use super::websocket::upgrade;
use super::{accounts, clock::FlooredClock, proxy, tcp};
use crate::mqtt::Utf8String;

pub use super::places::{Bound, ConnectionPermit, Entrance};

/// What one door is and whom it lets wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// `None` is plain TCP, and the only choice on a Unix socket.
    pub tls: Option<tls::ServerSettings>,
    /// `None` is MQTT without frames around it.
    pub websocket: Option<upgrade::ServerSettings>,
    /// `None` where clients come by themselves.
    pub proxy: Option<ProxySettings>,
    /// Whether a client on a Unix socket is, without a password, the user its program runs as.
    pub peer_user_name: bool,
    /// Connections through this door at one time, those on their way in included.
    pub connections_max: usize,
    /// The same, from one address, or on a Unix socket of one user of this machine; `None` leaves it to
    /// `connections_max`.
    pub connections_per_address_max: Option<usize>,
    /// Connections accepted in one second, in the long run; what comes faster waits its turn in the kernel's queue.
    /// `None` is as fast as they come.
    pub connect_rate_max: Option<u32>,
    /// Connections that were accepted and have not sent a CONNECT yet.
    pub pending_max: usize,
    /// The same, from one address, or on a Unix socket of one user of this machine; addresses of this very machine are
    /// exempt, its programs share one.
    pub pending_per_address_max: usize,
    /// From accept to the end of the handshakes: the header of a balancer, TLS and WebSocket together.
    pub handshake_timeout: Duration,
}

/// How a listener behind a balancer learns who comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    /// The balancers: nobody else gets in, and nobody else is believed.
    pub from: Vec<Network>,
    /// Whether the common name of a certificate that the balancer has verified is the user name.
    pub common_name_is_user: bool,
}

impl ListenerSettings {
    /// A door at `endpoint` for `connections_max` connections, in the clear, with the usual bounds.
    pub fn new(name: impl Into<String>, endpoint: impl Into<Endpoint>, connections_max: usize) -> Self {
        let endpoint = endpoint.into();
        Self {
            name: name.into(),
            pending_per_address_max: Self::pending_per_address_max(&endpoint),
            endpoint,
            tls: None,
            websocket: None,
            proxy: None,
            peer_user_name: false,
            connections_max,
            connections_per_address_max: None,
            connect_rate_max: None,
            pending_max: Self::PENDING_MAX,
            handshake_timeout: Self::HANDSHAKE_TIMEOUT,
        }
    }

    /// Connections that have not sent a CONNECT yet, where nothing else is said.
    pub const PENDING_MAX: usize = 64;

    /// The same, from one address.
    pub const PENDING_PER_ADDRESS_MAX: usize = 8;

    /// The same, of one user by a Unix socket: many a machine runs all its programs under one, and starts them at once.
    pub const PENDING_PER_USER_MAX: usize = 32;

    /// The bound on those that come from one place to `endpoint`, where nothing else is said.
    pub fn pending_per_address_max(endpoint: &Endpoint) -> usize {
        match endpoint {
            Endpoint::Tcp(_) => Self::PENDING_PER_ADDRESS_MAX,
            Endpoint::Unix(_) => Self::PENDING_PER_USER_MAX,
        }
    }

    /// From accept to the end of the handshakes, where nothing else is said.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
}

/// A socket that listens, and the places behind it.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Door,
    pace: Option<Pace>,
    places: Rc<Places>,
    way_in: Rc<WayIn>,
    /// Held in reserve: given up for a moment when there is no other descriptor, to close on those who wait.
    spare: RefCell<Option<File>>,
    pause: Cell<Duration>,
    shortage: Episode,
    refusals: Episode,
    crowds: Episode,
    counters: Cell<Counters>,
}

/// What a listener asks of every connection before it speaks MQTT.
#[derive(Debug)]
struct WayIn {
    name: String,
    tls: Option<tls::Server>,
    websocket: Option<upgrade::ServerSettings>,
    proxy: Option<ProxySettings>,
    peer_user_name: bool,
    timeout: Duration,
    /// First steps of TLS in one turn of the loop.
    turns: Semaphore,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(UnixDoor),
}

/// A connection nothing has been read from.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Listens as `settings` say, with room of its own; `clock` is what certificates are checked against. Called
    /// inside a runtime.
    ///
    /// # Errors
    /// [`NetError`] when the address cannot be had or a file of TLS is not what it should be.
    pub fn bind(settings: ListenerSettings, clock: Option<Arc<dyn TimeProvider>>) -> Result<Self, NetError> {
        Self::bind_at(&Entrance::unbounded(), settings, clock)
    }

    /// Does what [`Listener::bind`] does, for one door of several that share the room of `entrance`.
    ///
    /// # Errors
    /// [`NetError`] when the address cannot be had or a file of TLS is not what it should be.
    pub fn bind_at(
        entrance: &Rc<Entrance>,
        settings: ListenerSettings,
        clock: Option<Arc<dyn TimeProvider>>,
    ) -> Result<Self, NetError> {
        let ListenerSettings { name, endpoint, .. } = settings;
        let tls = match settings.tls {
            None => None,
            Some(tls) => {
                let clock = clock.unwrap_or_else(|| Arc::new(FlooredClock::default()));
                match tls::Server::new(&tls, clock) {
                    Ok(server) => Some(server),
                    Err(source) => return Err(NetError::Tls { name, source }),
                }
            }
        };
        let (endpoint, socket) = match Door::open(&endpoint, tls.is_some() || settings.proxy.is_some()) {
            Ok(open) => open,
            Err(source) => {
                return Err(NetError::Listen {
                    name,
                    endpoint,
                    source,
                });
            }
        };
        let bounds = Bounds {
            connections_max: settings.connections_max,
            connections_per_address_max: settings.connections_per_address_max,
            pending_max: settings.pending_max,
            pending_per_address_max: settings.pending_per_address_max,
        };
        Ok(Self {
            endpoint,
            socket,
            pace: settings.connect_rate_max.map(Pace::new),
            places: Places::new(bounds, Rc::clone(entrance)),
            way_in: Rc::new(WayIn {
                name,
                tls,
                websocket: settings.websocket,
                proxy: settings.proxy,
                peer_user_name: settings.peer_user_name,
                timeout: settings.handshake_timeout,
                turns: Semaphore::new(HANDSHAKES_PER_TURN),
            }),
            spare: RefCell::new(open_spare()),
            pause: Cell::new(PAUSE_MIN),
            shortage: Episode::default(),
            refusals: Episode::default(),
            crowds: Episode::default(),
            counters: Cell::default(),
        })
    }

    /// Where it listens; the port the system chose, where the settings left it open.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its address; `None` where it listens on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.endpoint.ip()
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.way_in.name
    }

    /// What came to this door since it was opened.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Connections that are through, and those on their way in.
    pub fn connections(&self) -> usize {
        self.places.connections()
    }

    /// Connections on their way in.
    pub fn pending(&self) -> usize {
        self.places.pending()
    }

    /// The next connection that finds a place; the others are closed on the way.
    ///
    /// It never fails: without descriptors or memory it waits and tries again. Dropping the future loses at
    /// most one connection, which was waiting for a place.
    pub async fn accept(&self) -> Accepted {
        loop {
            self.keep_pace().await;
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    self.pause.set(PAUSE_MIN);
                    self.pace.iter().for_each(|pace| pace.take(Instant::now()));
                    match self.admit(peer).await {
                        Ok(permit) => {
                            self.count(|counters| &mut counters.accepted);
                            return Accepted {
                                socket,
                                peer,
                                permit,
                                way_in: Rc::clone(&self.way_in),
                                deadline: Instant::now() + self.way_in.timeout,
                            };
                        }
                        Err(refusal) => self.refuse(peer, refusal),
                    }
                }
                // That connection's own trouble, and it is gone from the queue.
                Err(error) if is_of_one_connection(&error) => {
                    debug!(listener = self.name(), %error, "accept failed")
                }
                Err(error) => self.wait_out(error).await,
            }
        }
    }

    /// Waits while connections come faster than they may.
    async fn keep_pace(&self) {
        let Some(at) = self.pace.as_ref().and_then(|pace| pace.next(Instant::now())) else {
            return;
        };
        self.count(|counters| &mut counters.paced);
        if self.crowds.begins(Instant::now()) {
            warn!(
                listener = self.name(),
                limit = "connect_rate_max",
                "connections come too fast, the next ones wait"
            );
        }
        sleep_until(at).await;
    }

    async fn admit(&self, peer: Peer) -> Result<ConnectionPermit, Refusal> {
        let origin = match &self.way_in.proxy {
            None => Some(peer.origin()),
            Some(proxy) if !proxy.believes(peer) => return Err(Refusal::NoBalancer),
            Some(_) => None, // It tells later whom it brings.
        };
        self.places.admit(origin).await.map_err(Refusal::Bound)
    }

    fn refuse(&self, peer: Peer, refusal: Refusal) {
        self.count(|counters| match refusal {
            Refusal::Bound(Bound::Connections | Bound::AllConnections | Bound::Descriptors) => {
                &mut counters.refused_connections
            }
            Refusal::Bound(Bound::ConnectionsOfAddress) => &mut counters.refused_connections_per_address,
            Refusal::Bound(Bound::Pending) => &mut counters.refused_pending,
            Refusal::Bound(Bound::PendingOfAddress) => &mut counters.refused_pending_per_address,
            Refusal::NoBalancer => &mut counters.refused_strangers,
        });
        if self.refusals.begins(Instant::now()) {
            match refusal {
                Refusal::Bound(limit) => {
                    warn!(listener = self.name(), %peer, %limit, "refusing connections")
                }
                Refusal::NoBalancer => {
                    warn!(listener = self.name(), %peer, "refusing connections that are not from a balancer")
                }
            }
        }
    }

    /// Without descriptors or memory: the oldest connection that has said nothing gives way, or else those who wait
    /// are closed on, as far as the spare descriptor helps; then it pauses.
    async fn wait_out(&self, error: io::Error) {
        self.count(|counters| &mut counters.shortages);
        let pause = self.pause.get();
        if self.shortage.begins(Instant::now()) {
            warn!(listener = self.name(), %error, "cannot accept connections, trying again");
        }
        let is_of_descriptors = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
        if is_of_descriptors && !self.places.entrance().relieve() {
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
            if !self.socket.shed_one().await {
                break;
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

impl Door {
    /// Opens a door where `endpoint` says, and tells where that came to be.
    fn open(endpoint: &Endpoint, needs_tcp: bool) -> io::Result<(Endpoint, Self)> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = tcp::listen(*address)?;
                Ok((socket.local_addr()?.into(), Self::Tcp(socket)))
            }
            Endpoint::Unix(_) if needs_tcp => {
                let message = "TLS and the PROXY protocol are for TCP, expected neither on a Unix socket";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            Endpoint::Unix(unix) => Ok((endpoint.clone(), Self::Unix(UnixDoor::bind(unix)?))),
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Socket::Tcp(stream), Peer::Ip(peer)))
            }
            Self::Unix(door) => {
                let (stream, credentials) = door.accept().await?;
                Ok((Socket::Unix(stream), Peer::Unix(credentials)))
            }
        }
    }

    /// Accepts and closes one connection that waits; whether there was one.
    async fn shed_one(&self) -> bool {
        let accepted = match self {
            Self::Tcp(socket) => poll_fn(|cx| Poll::Ready(socket.poll_accept(cx).map_ok(drop))).await,
            Self::Unix(door) => poll_fn(|cx| Poll::Ready(door.socket().poll_accept(cx).map_ok(drop))).await,
        };
        matches!(accepted, Poll::Ready(Ok(())))
    }
}

impl ProxySettings {
    /// Whether `peer` is one of the balancers.
    fn believes(&self, peer: Peer) -> bool {
        peer.ip()
            .is_some_and(|address| self.from.iter().any(|network| network.contains(address)))
    }
}

/// A connection that has a place and has not done its handshake.
#[derive(Debug)]
pub struct Accepted {
    socket: Socket,
    peer: Peer,
    permit: ConnectionPermit,
    way_in: Rc<WayIn>,
    deadline: Instant,
}

impl Accepted {
    /// From where it came.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Reads what a balancer says of it and does the handshakes the listener asks for, TLS and then WebSocket. It
    /// belongs in a task of its own: a client may take all the time there is.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed and its place free.
    pub async fn handshake(self) -> Result<Incoming, HandshakeError> {
        let Self {
            socket,
            peer,
            permit,
            way_in,
            deadline,
        } = self;
        if way_in.is_open() {
            return Ok(Incoming {
                stream: socket.into(),
                peer,
                certificate_user: way_in.user_of(peer),
                permit,
            });
        }
        // Boxed, so that the task of a connection that needs none of this does not carry room for it.
        let steps = Box::pin(way_in.enter(socket, peer, &permit));
        let entered = tokio::select! {
            biased;
            () = poll_fn(|cx| permit.poll_gives_way(cx)) => return Err(HandshakeError::GaveWay),
            entered = timeout_at(deadline, steps) => entered,
        };
        let Entered {
            stream,
            peer,
            certificate_user,
        } = entered.map_err(|_| HandshakeError::TimedOut(way_in.timeout))??;
        Ok(Incoming {
            stream,
            peer,
            certificate_user,
            permit,
        })
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(tcp) => Self::Tcp(tcp),
            Socket::Unix(unix) => Self::Unix(unix),
        }
    }
}

/// What a connection has become before it is known to keep its place.
struct Entered {
    stream: Stream,
    peer: Peer,
    certificate_user: Option<Utf8String>,
}

impl WayIn {
    /// Whether MQTT may begin at once.
    fn is_open(&self) -> bool {
        self.tls.is_none() && self.websocket.is_none() && self.proxy.is_none()
    }

    /// All that comes before MQTT, in its order.
    async fn enter(
        &self,
        socket: Socket,
        mut peer: Peer,
        permit: &ConnectionPermit,
    ) -> Result<Entered, HandshakeError> {
        let mut certificate_user = self.user_of(peer);
        let stream = match socket {
            Socket::Unix(unix) => Stream::Unix(unix),
            Socket::Tcp(mut tcp) => {
                if let Some(proxy) = &self.proxy {
                    (peer, certificate_user) = self.ask_balancer(&mut tcp, proxy, peer, permit).await?;
                }
                match &self.tls {
                    None => Stream::Tcp(tcp),
                    Some(server) => {
                        let (stream, user) = secure(tcp, server, &self.turns).await?;
                        certificate_user = user.or(certificate_user);
                        Stream::Tls(stream)
                    }
                }
            }
        };
        let stream = match &self.websocket {
            None => stream,
            Some(settings) => {
                let upgraded = upgrade::accept(stream, settings, peer.ip()).await;
                Stream::WebSocket(Box::new(upgraded.map_err(HandshakeError::Upgrade)?))
            }
        };
        Ok(Entered {
            stream,
            peer,
            certificate_user,
        })
    }

    /// Who comes, and as which user, by the word of `balancer`; the connection counts under that address from here on.
    async fn ask_balancer(
        &self,
        tcp: &mut TcpStream,
        settings: &ProxySettings,
        balancer: Peer,
        permit: &ConnectionPermit,
    ) -> Result<(Peer, Option<Utf8String>), HandshakeError> {
        let (peer, user) = match read_proxy_header(tcp).await? {
            // Who speaks for itself counts as what it is.
            proxy::Header::Local => (balancer, None),
            proxy::Header::Client { address, common_name } => (
                address.into(),
                common_name.filter(|_| settings.common_name_is_user),
            ),
        };
        permit.told(peer.origin()).map_err(HandshakeError::Bound)?;
        debug!(listener = self.name, %balancer, %peer, "told by a balancer");
        Ok((peer, user))
    }

    /// The user that a program on a Unix socket runs as, where the listener takes its word for it.
    fn user_of(&self, peer: Peer) -> Option<Utf8String> {
        match peer {
            Peer::Unix(credentials) if self.peer_user_name => {
                let name = accounts::name_of(credentials.uid)?;
                Utf8String::try_from(name.as_str()).ok()
            }
            _ => None,
        }
    }
}

/// Reads the header of a balancer and nothing of what follows it.
async fn read_proxy_header(tcp: &mut TcpStream) -> Result<proxy::Header, HandshakeError> {
    let mut reader = proxy::Reader::default();
    let mut waiting = [0; 512];
    loop {
        let count = tcp.peek(&mut waiting).await.map_err(HandshakeError::Broken)?;
        if count == 0 {
            return Err(HandshakeError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let (taken, header) = reader
            .take(waiting.get(..count).unwrap_or_default())
            .map_err(HandshakeError::Proxy)?;
        let taken = waiting.get_mut(..taken).unwrap_or_default();
        tcp.read_exact(taken).await.map_err(HandshakeError::Broken)?;
        if let Some(header) = header {
            return Ok(header);
        }
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
    server: &tls::Server,
    turns: &Semaphore,
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
    /// From where it came; behind a balancer, from where that says.
    pub peer: Peer,
    /// Who has proved to be this user before CONNECT: by a verified client certificate, or by running as that user
    /// on this machine, where the listener takes the name from there.
    pub certificate_user: Option<Utf8String>,
    /// Its place; to be kept as long as the connection is.
    pub permit: ConnectionPermit,
}

/// What came to a listener since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that got a place.
    pub accepted: u64,
    /// Closed at once, because `connections_max` were there, or as many as there are descriptors for.
    pub refused_connections: u64,
    /// Closed at once, because `connections_per_address_max` from the same address were there.
    pub refused_connections_per_address: u64,
    /// Closed, because `pending_max` were on their way in and none of them could give way.
    pub refused_pending: u64,
    /// Closed at once, because `pending_per_address_max` from the same address were on their way in.
    pub refused_pending_per_address: u64,
    /// Closed at once, because they came from none of the balancers.
    pub refused_strangers: u64,
    /// Times that connections waited, because they came faster than `connect_rate_max`.
    pub paced: u64,
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
        /// Where it should be.
        endpoint: Endpoint,
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
                endpoint,
                source,
            } => {
                write!(f, "listener {name:?} cannot listen on {endpoint}: ")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse if endpoint.ip().is_none() => {
                        f.write_str("a process that is alive listens there; stop it, or choose another path")
                    }
                    io::ErrorKind::PermissionDenied if endpoint.ip().is_none() => write!(
                        f,
                        "{source}; its folder must belong to the gateway's user, as RuntimeDirectory= of systemd \
                         sees to"
                    ),
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

/// Descriptors this process may still open.
pub fn descriptors_left() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // The directory is a descriptor itself while it is read.
    let open =
        std::fs::read_dir("/proc/self/fd").map_or(DESCRIPTORS_OPEN, |open| open.count().saturating_sub(1));
    usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(open)
}

/// What is open at the start of a process like ours, where /proc does not tell: standard streams, the loop's, the
/// state directory's.
const DESCRIPTORS_OPEN: usize = 16;

/// First steps of TLS handshakes in one turn of the loop: 5 to 10 ms each on the slowest boards, which is
/// what everybody else waits at most.
const HANDSHAKES_PER_TURN: usize = 4;
/// The first pause without descriptors or memory; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest of these pauses: what a client would wait for the gateway once there are descriptors again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections closed with the spare descriptor before one pause: the kernel's whole queue in half a minute.
const SHED_MAX: usize = 32;
const _: () = assert!(PAUSE_MIN.as_millis() <= PAUSE_MAX.as_millis());

/// Why a connection was closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Bound(Bound),
    NoBalancer,
}

/// Connections in a second: a second's worth may come at once, and then they come evenly.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    /// The moment at which everything accepted so far is paid for.
    paid_at: Cell<Option<Instant>>,
}

impl Pace {
    const BURST: Duration = Duration::from_secs(1);

    fn new(per_second: u32) -> Self {
        Self {
            interval: Self::BURST / per_second.max(1),
            paid_at: Cell::new(None),
        }
    }

    /// When the next connection may be accepted; `None` for now.
    fn next(&self, now: Instant) -> Option<Instant> {
        let debt = self.paid_at.get()?.saturating_duration_since(now) + self.interval;
        let wait = debt.saturating_sub(Self::BURST);
        (!wait.is_zero()).then(|| now + wait)
    }

    fn take(&self, now: Instant) {
        let paid_at = self.paid_at.get().map_or(now, |paid_at| paid_at.max(now));
        self.paid_at.set(Some(paid_at + self.interval));
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

    #[test]
    fn a_seconds_worth_of_connections_may_come_at_once_and_then_they_come_evenly() {
        let pace = Pace::new(4);
        let mut now = Instant::now();
        for _ in 0..4 {
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        for _ in 0..10 {
            let quarter = Duration::from_millis(250);
            assert_eq!(pace.next(now), Some(now + quarter));
            now += quarter;
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        now += Duration::from_secs(3600);
        for _ in 0..4 {
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        assert!(
            pace.next(now).is_some(),
            "a quiet hour saves up one second's worth"
        );
    }
}
