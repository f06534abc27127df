//! A door: accepts connections, within bounds and time limits, and never stops doing so.
//!
//! This file accepts; `way_in` is what a connection goes through from there to its first packet.

mod descriptors;
mod door;
mod error;
mod pace;
mod settings;
mod way_in;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::time_provider::TimeProvider;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use self::door::Door;
use self::pace::Pace;
use self::way_in::{HANDSHAKES_PER_TURN, WayIn};
use super::clock::FlooredClock;
use super::endpoint::{Endpoint, Peer};
use super::episode::Episode;
use super::link::Link;
use super::places::{Bounds, Places};
use super::tls::{self, HandshakeError};

pub use self::descriptors::{descriptors_left, raise_descriptor_limit};
pub use self::error::NetError;
pub use self::settings::{ListenerSettings, ProxySettings};
pub use self::way_in::{Accepted, Incoming};
pub use super::places::{Bound, ConnectionPermit, Entrance};

/// A socket that listens, and the places behind it.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Rc<Door>,
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
    /// What certificates are checked against.
    clock: Arc<dyn TimeProvider>,
    /// Told when TLS is done by other files from here on.
    tls_replaced: Notify,
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

/// Why a connection was closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Bound(Bound),
    NoBalancer,
}

/// The first pause without descriptors or memory; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest of these pauses: what a client would wait for the gateway once there are descriptors again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections closed with the spare descriptor before one pause: the kernel's whole queue in half a minute.
const SHED_MAX: usize = 32;
const _: () = assert!(PAUSE_MIN.as_millis() <= PAUSE_MAX.as_millis());

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
        let clock = clock.unwrap_or_else(|| Arc::new(FlooredClock::default()));
        let tls = Self::tls_of(&settings, Arc::clone(&clock))?;
        Self::open(entrance, settings, tls, clock)
    }

    /// Reads the files of TLS that `settings` name, on any thread; `None` where there is no TLS.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a file is not what it should be.
    pub fn tls_of(
        settings: &ListenerSettings,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Option<tls::Server>, NetError> {
        let server = settings.tls.as_ref().map(|tls| tls::Server::new(tls, clock));
        server.transpose().map_err(|source| NetError::Tls {
            name: settings.name.clone(),
            source,
        })
    }

    /// Listens as `settings` say, with what [`Listener::tls_of`] made of them by `clock`.
    ///
    /// # Errors
    /// [`NetError::Listen`] when the address cannot be had.
    pub fn open(
        entrance: &Rc<Entrance>,
        settings: ListenerSettings,
        tls: Option<tls::Server>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, NetError> {
        Self::open_instead(entrance, settings, tls, clock, &[])
    }

    /// Does what [`Listener::open`] does, where `others` are about to be closed: their addresses may include the new
    /// one, or be included in it.
    ///
    /// # Errors
    /// [`NetError::Listen`] when the address cannot be had.
    pub fn open_instead(
        entrance: &Rc<Entrance>,
        settings: ListenerSettings,
        tls: Option<tls::Server>,
        clock: Arc<dyn TimeProvider>,
        others: &[&Self],
    ) -> Result<Self, NetError> {
        let needs_tcp = settings.tls.is_some() || settings.proxy.is_some();
        let opened = match Door::open(&settings.endpoint, needs_tcp, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !others.is_empty() => {
                // For this moment only: otherwise a second gateway could take every other client from this one.
                let shared = others.iter().try_for_each(|other| other.socket.set_shared(true));
                let opened = shared.and_then(|()| Door::open(&settings.endpoint, needs_tcp, true));
                let claimed = (others.iter().map(|other| &*other.socket))
                    .chain(opened.iter().map(|(_, socket)| socket))
                    .try_for_each(|socket| socket.set_shared(false));
                claimed.and(opened)
            }
            opened => opened,
        };
        match opened {
            Ok((endpoint, socket)) => {
                let places = Places::new(bounds_of(&settings), Rc::clone(entrance));
                Ok(Self::at(endpoint, Rc::new(socket), places, settings, tls, clock))
            }
            Err(source) => Err(NetError::Listen {
                name: settings.name,
                endpoint: settings.endpoint,
                source,
            }),
        }
    }

    /// A listener with other settings on the same socket, which takes the place of this one: whoever waits in the
    /// kernel's queue finds it, and who is in counts with its own. Where it listens stays as it is.
    #[must_use]
    pub fn changed(&self, settings: ListenerSettings, tls: Option<tls::Server>) -> Self {
        self.places.set_bounds(bounds_of(&settings));
        let (socket, places) = (Rc::clone(&self.socket), Rc::clone(&self.places));
        let clock = Arc::clone(&self.clock);
        let changed = Self::at(self.endpoint.clone(), socket, places, settings, tls, clock);
        changed.counters.set(self.counters.get());
        changed.tls_replaced.notify_one(); // who is in may not be trusted any more
        changed
    }

    /// Gives the file of a Unix socket the permissions and the owner that `endpoint` says.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_permissions(&self, endpoint: &Endpoint) -> io::Result<()> {
        self.socket.set_permissions(endpoint)
    }

    fn at(
        endpoint: Endpoint,
        socket: Rc<Door>,
        places: Rc<Places>,
        settings: ListenerSettings,
        tls: Option<tls::Server>,
        clock: Arc<dyn TimeProvider>,
    ) -> Self {
        Self {
            endpoint,
            socket,
            pace: settings.connect_rate_max.map(Pace::new),
            places,
            way_in: Rc::new(WayIn {
                name: settings.name,
                tls: RefCell::new(tls.map(Rc::new)),
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
            clock,
            tls_replaced: Notify::new(),
        }
    }

    /// Reads the files that `settings` names, and does TLS by them from here on: one change, or none.
    ///
    /// Who is in stays in; see [`Listener::refusal_of`] for those who should not. Handshakes that have begun end by
    /// what was in force then, and are held to the new as well. No session of before is resumed.
    ///
    /// # Errors
    /// [`NetError::Tls`] when a file is not wholly what it should be, or the listener has no TLS; nothing has changed.
    pub fn reload_tls(&self, settings: &tls::ServerSettings) -> Result<(), NetError> {
        self.replace_tls(self.read_tls(settings)?);
        Ok(())
    }

    /// Reads the files that `settings` names, for [`Listener::replace_tls`]; nothing has changed yet.
    ///
    /// # Errors
    /// Those of [`Listener::reload_tls`].
    pub fn read_tls(&self, settings: &tls::ServerSettings) -> Result<tls::Server, NetError> {
        let read = match self.has_tls() {
            true => tls::Server::new(settings, Arc::clone(&self.clock)),
            false => Err(tls::TlsError::NotInUse),
        };
        read.map_err(|source| NetError::Tls {
            name: self.name().to_owned(),
            source,
        })
    }

    /// The second half of [`Listener::reload_tls`], which cannot fail.
    pub fn replace_tls(&self, server: tls::Server) {
        self.way_in.tls.replace(Some(Rc::new(server)));
        self.tls_replaced.notify_one();
    }

    /// Waits until TLS is done by other files than when it was last asked; one at a time may wait.
    pub async fn tls_replaced(&self) {
        self.tls_replaced.notified().await;
    }

    /// Whether it speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.way_in.tls.borrow().is_some()
    }

    /// What of its certificates and revocation lists ends soon or has ended, a sentence for each.
    pub fn warnings(&self) -> Vec<String> {
        self.way_in
            .tls()
            .map_or_else(Vec::new, |server| server.warnings())
    }

    /// Whether the connection of `permit` came through this door.
    pub fn is_door_of(&self, permit: &ConnectionPermit) -> bool {
        permit.is_of(&self.places)
    }

    /// Why the client of `link`, a connection through this door, could not come in again: its certificate was revoked,
    /// or its authority is not trusted any more. `None` where it could.
    ///
    /// Some milliseconds of work on a small board. That a revocation list is missing or too old is no reason.
    pub fn refusal_of(&self, link: &Link) -> Option<HandshakeError> {
        let refusal = self.way_in.tls()?.refusal_of(link.peer_certificates())?;
        Some(HandshakeError::Refused(refusal))
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

fn bounds_of(settings: &ListenerSettings) -> Bounds {
    Bounds {
        connections_max: settings.connections_max,
        connections_per_address_max: settings.connections_per_address_max,
        pending_max: settings.pending_max,
        pending_per_address_max: settings.pending_per_address_max,
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
