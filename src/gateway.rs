//! The loop: one thread. It lets the broker decide, carries out what it asked for, and ticks.
//!
//! ```text
//!   listener ─ accept, TLS handshake ─┐
//!                                     ▼
//!   link task ── bytes ─ packets ─▶ Core::input ─▶ Broker::handle
//!        ▲                            │                 │
//!        │ woken when writable        ▼                 ▼
//!   flush task ◀── dirty links ── Core::drain ◀── Broker::poll_output
//!   tick task  ◀── next deadline ─────┘
//!   serial task ── readings ─▶ Core::input
//! ```
//!
//! **One input, then drain:** every task calls the broker directly, inside one borrow of [`Core`], and carries out all
//! that the broker asked for before it returns. Packets are only encoded then; the flush task, which runs when
//! every task that was ready has had its go, writes each dirty link once. So a thousand messages to one client cost
//! one write, and an idle link holds no buffer.

mod audit;
mod kicks;
mod links;
mod logins;
mod reports;
mod state;
mod turns;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use rustls::time_provider::TimeProvider;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::admin::statistics::Statistics;
use crate::auth::access::Rights;
use crate::auth::guessing::Guessing;
use crate::broker::{Broker, Input, LinkId, ListenerPolicy, Message};
use crate::config::Settings;
use crate::kick::{self, KickHandle, KickQueue};
use crate::net::clock::FlooredClock;
use crate::net::endpoint::Endpoint;
use crate::net::listener::{Entrance, Listener, NetError, descriptors_left};
use crate::serial;
use crate::storage::{StateDirectory, StorageError};
use audit::Audit;
use logins::{Judge, check_passwords};
use state::{Hold, LINGER, now};

/// How often the time is offered to the state directory, which writes it once an hour.
const CLOCK_NOTE_INTERVAL: Duration = Duration::from_secs(300);

/// A gateway whose listeners are bound and whose files are read, ready to run.
pub struct Gateway {
    settings: Settings,
    listeners: Vec<(Rc<Listener>, Rc<ListenerPolicy>)>,
    state: Option<Arc<Mutex<StateDirectory>>>,
    kick_handle: KickHandle,
    kicks: KickQueue,
    /// What certificates and tokens expire by.
    clock: Arc<dyn TimeProvider>,
}

impl Gateway {
    /// Reads the files that `settings` names and binds its listeners; call it inside the runtime that will run it.
    ///
    /// # Errors
    /// [`StartError`] for the first file that cannot be used or address that cannot be bound.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let state = settings
            .storage
            .as_ref()
            .map(|state| StateDirectory::open(&state.directory));
        let state = state.transpose().map_err(StartError::Storage)?;
        let clock = FlooredClock::new(state.as_ref().and_then(StateDirectory::last_seen));
        let clock: Arc<dyn TimeProvider> = Arc::new(clock);
        let entrance = Entrance::new(settings.limits.connections_max, room_for_connections(&settings));
        let mut listeners = Vec::new();
        for door in &settings.listeners {
            match Listener::bind_at(&entrance, door.net.clone(), Some(clock.clone())) {
                Ok(listener) => listeners.push((Rc::new(listener), Rc::new(door.policy.clone()))),
                Err(NetError::Listen { source, .. }) if door.may_be_absent && is_no_such_address(&source) => {
                    debug!(address = %door.net.endpoint, "this machine has no such address, going on without");
                }
                Err(error) => return Err(StartError::Net(error)),
            }
        }
        let state = state.map(|state| Arc::new(Mutex::new(state)));
        let (kick_handle, kicks) = kick::queue(&settings.limits);
        Ok(Self {
            settings,
            listeners,
            state,
            kick_handle,
            kicks,
            clock,
        })
    }

    /// The listeners by name, each with the address it really has.
    pub fn addresses(&self) -> Vec<(String, Endpoint)> {
        self.listeners
            .iter()
            .map(|(listener, policy)| (policy.name.clone(), listener.endpoint().clone()))
            .collect()
    }

    /// What clients are sent away by, from any thread, before the gateway runs and while it does.
    pub fn kick_handle(&self) -> KickHandle {
        self.kick_handle.clone()
    }

    /// Serves until `stop` is ready, then tells every client, and returns when they are gone or two seconds later.
    ///
    /// Runs on a [`tokio::runtime::LocalRuntime`], see [`runtime`].
    ///
    /// # Panics
    /// When one of its tasks did: that is a bug, and half a gateway is worse than none.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let seed = u64::from_ne_bytes(random_bytes());
        let broker = Broker::new(self.settings.limits.clone(), Rights::default(), seed);
        let broker = broker.with_settings(self.settings.choices.clone());
        self.serve(Hold::new(broker), stop).await;
    }

    async fn serve(mut self, core: Hold, stop: impl Future<Output = ()>) {
        let broken = core.borrow().broken.clone();
        let _end = End(core.clone());

        self.kicks.runs_here();
        core.borrow_mut().kicks = Some(self.kicks);

        let statistics = self.settings.statistics_interval;
        core.borrow_mut().statistics = statistics.map(|interval| Statistics::new(interval, Instant::now()));

        let mut tasks = JoinSet::new();
        tasks.spawn_local(flush_links(core.clone()));
        tasks.spawn_local(tick(core.clone()));
        let judge = Judge {
            users: self.settings.users,
            tokens: self.settings.tokens,
            clock: self.clock,
        };
        core.borrow_mut().guessing = Guessing::new(self.settings.guessing);
        core.borrow_mut().audit = Audit::new(self.settings.audit, Instant::now());
        tasks.spawn_local(check_passwords(core.clone(), judge));
        let mut doors = JoinSet::new();
        for (listener, policy) in self.listeners {
            doors.spawn_local(accept(core.clone(), listener, policy));
        }
        let mut farewells = Vec::new();
        for port in self.settings.serial {
            farewells.extend(serial::offline_messages(&port));
            let core = core.clone();
            doors.spawn_local(async move {
                serial::run(port, |message| {
                    core.borrow_mut().input(now(), Input::Publish(message))
                })
                .await;
            });
        }
        if let Some(state) = &self.state {
            tasks.spawn_local(keep_time(state.clone()));
        }

        tokio::select! {
            () = stop => {}
            () = broken.notified() => panic!("a task of the gateway panicked; what it left half done is not served"),
        }
        core.borrow().tell_end();
        // Whoever asks for a kick from here on is told that nobody is left to carry it out.
        core.borrow_mut().kicks = None;
        // First the doors, so that nobody who was told to go finds one open.
        doors.shutdown().await;
        shut_down(&core, farewells).await;
        if let Some(state) = &self.state {
            tell_time(lock(state).save_time(SystemTime::now()));
        }
    }
}

/// The runtime a [`Gateway`] runs on: one thread, tasks that need not be `Send`.
///
/// # Errors
/// Where the operating system refuses an event queue.
pub fn runtime() -> std::io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Password checks and name look-ups; one thread each is plenty and a stack is all it holds.
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build_local(tokio::runtime::LocalOptions::default())
}

/// Why a gateway cannot start.
#[derive(Debug)]
pub enum StartError {
    /// A listener.
    Net(NetError),
    /// The state directory.
    Storage(StorageError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(error) => std::fmt::Display::fmt(error, f),
            Self::Storage(error) => std::fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for StartError {}

/// Descriptors for what is open for a moment, and for what nobody thought of: files of the state directory while they
/// are written, those of accounts, name look-ups.
const DESCRIPTORS_RESERVED: usize = 16;

/// Connections that there are descriptors for, once everything else the gateway opens has its own.
fn room_for_connections(settings: &Settings) -> usize {
    // Of a listener: its socket, and the spare to close on others with.
    let own = settings.listeners.len() * 2 + settings.serial.len() + DESCRIPTORS_RESERVED;
    let room = descriptors_left().saturating_sub(own).max(1);
    let connections_max = settings.limits.connections_max;
    if room < connections_max {
        warn!(
            connections_max,
            room,
            "the limit of open files has no room for connections_max, expected a higher one (LimitNOFILE= of \
             systemd, ulimit -n)"
        );
    }
    room
}

/// Whether a listener failed because the machine lacks the address, or the whole protocol family.
fn is_no_such_address(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Tells every client that the gateway stops, and waits until they have heard it.
async fn shut_down(core: &Hold, farewells: Vec<Message>) {
    let gone = {
        let mut core = core.borrow_mut();
        let now = now();
        for message in farewells {
            core.input(now, Input::Publish(message));
        }
        core.input(now, Input::Shutdown);
        core.gone.clone()
    };
    let all_gone = async {
        while !core.borrow().links.is_empty() {
            gone.notified().await;
        }
    };
    if tokio::time::timeout(LINGER, all_gone).await.is_err() {
        debug!("some clients did not read their farewell");
    }
}

/// Cuts off whoever is left, however the gateway ends: the tasks of links are their own.
struct End(Hold);

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut core) = self.0.try_borrow_mut() {
            core.kicks = None;
            core.remove_all();
        }
    }
}

/// Takes connections from `listener` for ever; each finishes its handshake in a task of its own, so that nobody waits
/// for a slow one.
async fn accept(core: Hold, listener: Rc<Listener>, policy: Rc<ListenerPolicy>) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = {
            let mut next = pin!(listener.accept());
            loop {
                tokio::select! {
                    accepted = &mut next => break accepted,
                    Some(_) = handshakes.join_next() => {}
                }
            }
        };
        let (core, policy) = (core.clone(), policy.clone());
        handshakes.spawn_local(async move {
            match accepted.handshake().await {
                Ok(incoming) => {
                    let link = core.borrow_mut().connect(incoming, policy);
                    // Another task, because this one's memory has room for a handshake and lives as long as it does,
                    // and because this one ends with its door.
                    tokio::task::spawn_local(serve_link(core, link));
                }
                Err(error) => debug!(%error, listener = policy.name, "handshake failed"),
            }
        });
    }
}

async fn serve_link(core: Hold, link: LinkId) {
    poll_fn(|cx| core.borrow_mut().poll_link(link, cx)).await;
}

async fn flush_links(core: Hold) {
    poll_fn(|cx| core.borrow_mut().poll_flush(cx)).await;
}

/// Wakes at the next deadline, whichever it has become.
async fn tick(core: Hold) {
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| {
        let mut core = core.borrow_mut();
        core.tick_task = Some(cx.waker().clone());
        loop {
            core.armed = core.tick(cx.waker());
            let Some(deadline) = core.armed else {
                return Poll::Pending;
            };
            sleep.as_mut().reset(deadline.into());
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Keeps the latest time known, for the next start of a board without a clock. What it writes is synced, which a
/// memory card may take a second over, so that happens on a thread of its own.
async fn keep_time(state: Arc<Mutex<StateDirectory>>) {
    let mut ticks = tokio::time::interval(CLOCK_NOTE_INTERVAL);
    loop {
        ticks.tick().await;
        let state = state.clone();
        let note = move || tell_time(lock(&state).note_time(SystemTime::now()));
        if let Err(error) = tokio::task::spawn_blocking(note).await {
            warn!(%error, "the time could not be noted");
        }
    }
}

fn lock(state: &Mutex<StateDirectory>) -> MutexGuard<'_, StateDirectory> {
    // Whoever panicked over it left at worst an old stamp.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell_time(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        warn!(%error, "the time could not be saved in the state directory");
    }
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes; without them nothing here is safe");
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::runtime::Handle;
    use tokio::task::yield_now;

    use super::*;
    use crate::config;
    use crate::mqtt::{QoS, TopicName};

    /// A gateway on a free port, and the core it will run on.
    fn bound() -> (Gateway, Hold) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, "[listener.local]\naddress = \"127.0.0.1:0\"\n").expect("written");
        let settings = config::load(&file, None).expect("right");
        let core = Hold::new(Broker::new(settings.limits.clone(), Rights::default(), 1));
        (Gateway::bind(settings).expect("a free port"), core)
    }

    #[test]
    fn nothing_wakes_a_gateway_whose_clients_have_gone() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (gateway, core) = bound();
            let (_, endpoint) = gateway.addresses()[0].clone();
            let address = endpoint.ip().expect("it listens on TCP");
            tokio::task::spawn_local(gateway.serve(core.clone(), std::future::pending()));
            for _ in 0..20 {
                let mut stream = TcpStream::connect(address).await.expect("the door is open");
                // CONNECT with a keep-alive of a minute, and DISCONNECT.
                let said = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\xe0\x00";
                stream.write_all(said).await.expect("the gateway listens");
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.expect("an end");
                assert_eq!(heard, b"\x20\x02\x00\x00");
            }
            let gone = core.borrow().gone.clone();
            while !core.borrow().links.is_empty() {
                gone.notified().await;
            }
            let core = core.borrow();
            assert_eq!((core.lingering.len(), core.next_deadline()), (0, None));
        });
    }

    #[test]
    fn a_gateway_does_not_go_on_when_a_task_panicked_over_its_state() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (gateway, core) = bound();
            let running = tokio::task::spawn_local(gateway.serve(core.clone(), std::future::pending()));

            let ends = core.clone();
            tokio::task::spawn_local(async move { drop(ends) })
                .await
                .expect("no panic");
            yield_now().await;
            assert!(!running.is_finished(), "a task may end");

            let task = async move { core.borrow_mut().dirty.reserve(usize::MAX) };
            assert!(
                tokio::task::spawn_local(task)
                    .await
                    .is_err_and(|error| error.is_panic())
            );
            assert!(running.await.is_err_and(|error| error.is_panic()));
        });
    }

    /// A gateway that runs in this runtime: its core, and its address.
    fn running() -> (Hold, SocketAddr) {
        let (gateway, core) = bound();
        let (_, endpoint) = gateway.addresses()[0].clone();
        tokio::task::spawn_local(gateway.serve(core.clone(), std::future::pending()));
        (core, endpoint.ip().expect("it listens on TCP"))
    }

    /// A client "a" that is in.
    async fn come(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("the door is open");
        let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
        stream.write_all(connect).await.expect("the gateway listens");
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.expect("an answer");
        assert_eq!(connack, *b"\x20\x02\x00\x00");
        stream
    }

    #[test]
    fn a_client_that_speaks_and_does_not_read_has_no_more_held_for_it_than_may_be_on_its_way() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (core, address) = running();
            let mut reader = come(address).await;
            let subscribe = b"\x82\x06\x00\x01\x00\x01t\x00";
            reader.write_all(subscribe).await.expect("the gateway listens");
            let mut suback = [0; 5];
            reader.read_exact(&mut suback).await.expect("an answer");
            let message = Message {
                topic: TopicName::try_from("t").expect("a topic"),
                payload: vec![b'x'; 16 * 1024].into(),
                qos: QoS::AtMostOnce,
                retain: false,
                properties: None,
            };
            let held_max = core.borrow().broker.limits().unsent_bytes_max + message.payload.len() + 1024;
            for _ in 0..8 {
                let dropped_before = core.borrow().broker.stats().dropped_slow;
                for _ in 0..10_000 {
                    core.borrow_mut().input(now(), Input::Publish(message.clone()));
                    yield_now().await;
                    let core = core.borrow();
                    let held: usize = core.links.values().map(|slot| slot.link.unsent()).sum();
                    assert!(held <= held_max, "{held} bytes");
                    if core.broker.stats().dropped_slow > dropped_before {
                        break;
                    }
                }
                assert!(core.borrow().broker.stats().dropped_slow > dropped_before);
                let heard_before = core.borrow().traffic.bytes_received;
                reader.write_all(b"\xc0\x00").await.expect("the gateway listens");
                while core.borrow().traffic.bytes_received == heard_before {
                    yield_now().await;
                }
            }
        });
    }

    #[test]
    fn a_client_that_is_sent_away_learns_it_before_it_is_cut_off() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (core, address) = running();
            let mut first = come(address).await;
            let _second = come(address).await;
            let mut heard = Vec::new();
            first.read_to_end(&mut heard).await.expect("an end");
            assert_eq!(heard, b"");
            assert_eq!(core.borrow().links.len(), 2, "it may still have something to say");
        });
    }

    #[test]
    fn the_task_of_a_connection_that_is_cut_off_ends() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (core, address) = running();
            let _stream = come(address).await;
            let tasks = || Handle::current().metrics().num_alive_tasks();
            let before = tasks();
            let link = core.borrow().links.keys().next().expect("it is in");
            core.borrow_mut().remove(link);
            yield_now().await;
            assert_eq!(tasks(), before - 1);
        });
    }
}
