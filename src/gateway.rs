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

mod answers;
mod audit;
mod builder;
mod kicks;
mod links;
mod logins;
mod operator;
mod own_hooks;
pub mod reload;
mod reports;
mod state;
mod store;
mod supervisor;
mod ticks;
mod trust;
mod turns;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::time_provider::TimeProvider;
use tokio::task::JoinSet;
use tracing::{Level, debug, warn};

use crate::admin::server::{self, Door};
use crate::admin::settings::{CONNECTIONS_MAX, DOOR};
use crate::admin::statistics::Statistics;
use crate::auth::guessing::Guessing;
use crate::broker::{Broker, Input, LinkId, ListenerPolicy, Message};
use crate::callback;
use crate::config::{Mistake, Settings};
use crate::hooks::Hook;
use crate::kick::{KickHandle, KickQueue};
use crate::net::clock::FlooredClock;
use crate::net::endpoint::Endpoint;
use crate::net::listener::{Entrance, Listener, NetError, descriptors_left};
use crate::net::tls::{Connector, TlsError};
use crate::storage::{Mode, OpenError, StateDirectory, StorageError};
use crate::watch::{self, Shop, Watch};
use answers::take_answers;
use audit::Audit;
use logins::check_passwords;
use operator::Office;
use own_hooks::OwnHooks;
use reload::{OpenDoor, ReloadHandle, Running, Source, reload_when_asked};
use state::{Hold, LINGER, now};
use ticks::tick;

pub use builder::{Builder, HOOK_TIMEOUT};
pub use supervisor::Supervisor;

/// How long a client that was told that the gateway stops has to close the connection, where all it is owed is in the
/// kernel's hands: longer than a round trip over a mobile network.
const LINGER_WHEN_SAID: Duration = Duration::from_millis(500);

/// Between two looks whether all is in the kernel's hands, where it is not by then.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

const _: () = assert!(LINGER_WHEN_SAID.as_millis() < LINGER.as_millis());

/// How often the time is offered to the state directory, which writes it once an hour.
const CLOCK_NOTE_INTERVAL: Duration = Duration::from_secs(300);

/// A gateway whose listeners are bound and whose files are read, ready to run.
pub struct Gateway {
    running: Running,
    state: Option<Arc<Mutex<StateDirectory>>>,
    /// With whether the board's clock may be believed.
    journal: Option<(store::Opened, bool)>,
    kick_handle: KickHandle,
    kicks: KickQueue,
    /// The operators' doors.
    operators: Vec<Door>,
    reload_handle: ReloadHandle,
    source: Option<Source>,
    supervisor: Option<Supervisor>,
    watch: Watch,
    shop: Shop,
    /// The embedder's own.
    hooks: Vec<Box<dyn Hook>>,
    /// What the HTTP server is dialled by that is asked; `None` where none is, or without TLS.
    connector: Option<Connector>,
}

impl Gateway {
    /// Reads the files that `settings` names and binds its listeners; call it inside the runtime that will run it.
    ///
    /// # Errors
    /// [`StartError`] for the first file that cannot be used or address that cannot be bound.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        Self::builder(settings).bind()
    }

    /// A gateway to which hooks can be added before it is bound.
    pub fn builder(settings: Settings) -> Builder {
        Builder::new(settings)
    }

    fn build(builder: Builder) -> Result<Self, StartError> {
        let Builder {
            settings,
            hooks,
            hook_timeout,
            kick_handle,
            mut kicks,
        } = builder;
        let state = settings
            .storage
            .as_ref()
            .map(|state| StateDirectory::open(&state.directory));
        let state = state.transpose().map_err(StartError::Storage)?;
        let journal = match (&state, settings.storage.as_ref()) {
            (Some(state), Some(storage)) if storage.journal.mode != Mode::Memory => {
                let may_spill = settings.limits.spill_bytes_max > 0;
                Some(store::Opened::read(state, storage.journal, may_spill)?)
            }
            _ => None,
        };
        let clock = FlooredClock::new(state.as_ref().and_then(StateDirectory::last_seen));
        let is_clock_right = !clock.is_behind();
        let clock: Arc<dyn TimeProvider> = Arc::new(clock);
        let entrance = Entrance::new(settings.limits.connections_max, room_for_connections(&settings));
        let mut doors = Vec::new();
        for door in &settings.listeners {
            match Listener::bind_at(&entrance, door.net.clone(), Some(clock.clone())) {
                Ok(listener) => doors.push(OpenDoor::new(door, listener)),
                Err(NetError::Listen { source, .. }) if door.may_be_absent && is_no_such_address(&source) => {
                    debug!(address = %door.net.endpoint, "this machine has no such address, going on without");
                }
                Err(error) => return Err(StartError::Net(error)),
            }
        }
        let (mut operators, mut operator_listeners) = (Vec::new(), Vec::new());
        for door in &settings.admin.doors {
            let door = operator::open_door(door, &clock).map_err(StartError::Net)?;
            operator_listeners.push(door.as_ref().map(Door::listener));
            operators.extend(door);
        }
        let state = state.map(|state| Arc::new(Mutex::new(state)));
        let (watch, mut shop) = watch::window();
        // A gateway cannot leave its thread, so this is the one that would wait for itself.
        kicks.runs_here();
        shop.runs_here();
        let connector = (settings.hooks.http.as_ref()).map(|http| callback::connector(http, clock.clone()));
        let connector = connector.transpose().map_err(StartError::Callback)?.flatten();
        Ok(Self {
            running: Running {
                settings,
                entrance,
                clock,
                doors,
                ports: Vec::new(),
                closing: Vec::new(),
                operators: operator_listeners,
                own_hooks: OwnHooks::new(hook_timeout),
                tasks: JoinSet::new(),
            },
            state,
            journal: journal.map(|journal| (journal, is_clock_right)),
            kick_handle,
            kicks,
            operators,
            reload_handle: ReloadHandle::new(),
            source: None,
            supervisor: None,
            watch,
            shop,
            hooks,
            connector,
        })
    }

    /// The same gateway, which reads its settings again by `load` when it is asked to reload, on a thread of its own,
    /// and tells `set_log` what is to be logged from then on.
    #[must_use]
    pub fn reloading(
        self,
        load: impl Fn() -> Result<Settings, Vec<Mistake>> + Send + Sync + 'static,
        set_log: impl Fn(Level) + Send + Sync + 'static,
    ) -> Self {
        let source = Some(Source::new(load, set_log));
        Self { source, ..self }
    }

    /// The same gateway, which tells `supervisor` how it goes.
    #[must_use]
    pub fn supervised(self, supervisor: Option<Supervisor>) -> Self {
        Self { supervisor, ..self }
    }

    /// The listeners by name, each with the address it really has; the operators' doors come last.
    pub fn addresses(&self) -> Vec<(String, Endpoint)> {
        let mut addresses = self.running.addresses();
        let operators = self.operators.iter();
        addresses.extend(operators.map(|door| (DOOR.to_owned(), door.endpoint().clone())));
        addresses
    }

    /// What it is told to reload by, from any thread.
    pub fn reload_handle(&self) -> ReloadHandle {
        self.reload_handle.clone()
    }

    /// The doors, one for each address, for whoever replaces certificates while the gateway runs.
    pub fn listeners(&self) -> impl Iterator<Item = Rc<Listener>> {
        self.running.listeners()
    }

    /// What clients are sent away by, from any thread, before the gateway runs and while it does.
    pub fn kick_handle(&self) -> KickHandle {
        self.kick_handle.clone()
    }

    /// What its clients are watched by, from any thread but its own, while it runs.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Serves until `stop` is ready, then tells every client, and returns when they are gone, half a second later where
    /// nothing is owed to those who are left, and two seconds later in any case.
    ///
    /// Runs on a [`tokio::runtime::LocalRuntime`], see [`runtime`].
    ///
    /// # Panics
    /// When one of its tasks did: that is a bug, and half a gateway is worse than none.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let seed = u64::from_ne_bytes(random_bytes());
        let Running {
            settings,
            own_hooks,
            tasks,
            ..
        } = &mut self.running;
        let broker = Broker::new(settings.limits.clone(), settings.rights.clone(), seed);
        let broker = broker.with_settings(settings.choices.clone());
        let own = own_hooks.make(settings, self.connector.take(), tasks);
        let (now, hooks) = (Instant::now(), std::mem::take(&mut self.hooks));
        let broker = broker.with_hooks(now, hooks, own.post.clone(), own.timeout);
        let broker = broker.with_installation(now, own);
        let (broker, store) = match self.journal.take() {
            None => (broker, None),
            Some((journal, is_clock_right)) => {
                let (broker, store) = journal.begin(broker, is_clock_right);
                (broker, Some(store))
            }
        };
        let core = Hold::new(broker);
        core.borrow_mut().store = store;
        self.serve(core, stop).await;
    }

    async fn serve(mut self, core: Hold, stop: impl Future<Output = ()>) {
        let broken = core.borrow().broken.clone();
        let _end = End(core.clone());

        core.borrow_mut().kicks = Some(self.kicks);
        core.borrow_mut().shop = Some(self.shop);

        let settings = &self.running.settings;
        let statistics = settings.statistics_interval;
        core.borrow_mut().statistics = statistics.map(|interval| Statistics::new(interval, Instant::now()));

        let mut tasks = JoinSet::new();
        tasks.spawn_local(flush_links(core.clone()));
        tasks.spawn_local(tick(core.clone()));
        core.borrow_mut().users.clone_from(&settings.users);
        core.borrow_mut().tokens.clone_from(&settings.tokens);
        core.borrow_mut().guessing = Guessing::new(settings.guessing);
        core.borrow_mut().audit = Audit::new(settings.audit, Instant::now());
        tasks.spawn_local(check_passwords(core.clone(), self.running.clock.clone()));
        tasks.spawn_local(take_answers(core.clone(), self.running.own_hooks.letterbox()));
        self.running.begin(&core);
        let doors = self.running.addresses().len();
        let running = Rc::new(RefCell::new(self.running));
        core.borrow_mut().supervise(self.supervisor, doors);
        let office = Office::new(running.clone(), self.kick_handle, self.reload_handle.clone());
        let desk = operator::desk(core.clone(), office);
        // Not among the doors that close first: an operator may ask how the end goes.
        for door in self.operators {
            if door.listener().has_tls() {
                tasks.spawn_local(trust::watch(core.clone(), door.listener()));
            }
            tasks.spawn_local(server::serve(door, desk.clone()));
        }
        let reloads = tasks.spawn_local(reload_when_asked(
            core.clone(),
            running.clone(),
            self.reload_handle.clone(),
            self.source,
        ));
        if let Some(state) = &self.state {
            tasks.spawn_local(keep_time(state.clone()));
        }
        let news = core.borrow().store.as_ref().map(|store| store.news.clone());
        let hearing = news.map(|news| {
            // What the broker had to say when it went on where another ended.
            core.borrow_mut().drain(now());
            tasks.spawn_local(store::hear(core.clone(), news))
        });

        tokio::select! {
            () = stop => {}
            () = broken.notified() => panic!("a task of the gateway panicked; what it left half done is not served"),
        }
        core.borrow_mut().tell_end();
        // Whoever asks for a kick from here on is told that nobody is left to carry it out.
        core.borrow_mut().stop_serving_threads();
        // First the doors, so that nobody who was told to go finds one open; before them who could open more.
        self.reload_handle.close();
        reloads.abort();
        let farewells = running.borrow().farewells();
        let mut doors = std::mem::take(&mut running.borrow_mut().tasks);
        doors.shutdown().await;
        running.borrow_mut().close_doors();
        // From here on it is heard where something is waited for.
        hearing.inspect(|hearing| hearing.abort());
        store::settle(&core, LINGER).await;
        shut_down(&core, farewells).await;
        store::close(&core, LINGER).await;
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
    /// The journal in it.
    Journal(OpenError),
    /// The system has no thread for the journal.
    JournalThread(std::io::Error),
    /// The HTTP server that is to be asked.
    Callback(TlsError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(error) => std::fmt::Display::fmt(error, f),
            Self::Storage(error) => std::fmt::Display::fmt(error, f),
            Self::Journal(error) => write!(f, "journal: {error}"),
            Self::JournalThread(error) => write!(f, "journal: no thread for it: {error}"),
            Self::Callback(error) => write!(f, "hook.http: {error}"),
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
    let listeners = settings.listeners.len() * 2;
    let operators = settings.admin.doors.len() * (2 + CONNECTIONS_MAX);
    let own = listeners + operators + settings.serial.len() + DESCRIPTORS_RESERVED;
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
    let mut all_gone = pin!(all_gone);
    let all_said = || core.borrow().links.values().all(|slot| slot.link.unsent() == 0);
    let begin = Instant::now();
    // Not gone by then, and nothing is owed any more: what the kernel has taken it delivers without us.
    let mut until = begin + LINGER_WHEN_SAID;
    while tokio::time::timeout_at(until.into(), all_gone.as_mut())
        .await
        .is_err()
    {
        let now = Instant::now();
        if all_said() || now >= begin + LINGER {
            debug!("some clients did not close after their farewell");
            break;
        }
        until = now + LOOK_PAUSE;
    }
}

/// Cuts off whoever is left, however the gateway ends: the tasks of links are their own.
struct End(Hold);

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut core) = self.0.try_borrow_mut() {
            core.stop_serving_threads();
            core.remove_all();
        }
    }
}

/// Takes connections from `listener` for ever; each finishes its handshake in a task of its own, so that nobody waits
/// for a slow one.
///
/// Once `is_over` says so, nobody comes in any more, who was accepted before included.
async fn accept(core: Hold, listener: Rc<Listener>, policy: Rc<ListenerPolicy>, is_over: Rc<Cell<bool>>) {
    let mut handshakes = JoinSet::new();
    if listener.has_tls() {
        handshakes.spawn_local(trust::watch(core.clone(), listener.clone()));
    }
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
        let (core, policy, is_over) = (core.clone(), policy.clone(), is_over.clone());
        handshakes.spawn_local(async move {
            match accepted.handshake().await {
                Ok(_) if is_over.get() => {}
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
    use crate::admin::api::{self, Found};
    use crate::admin::http::Requests;
    use crate::auth::access::Rights;
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

    /// The status with which an operator is answered.
    fn status(desk: &server::Desk, said: &str) -> u16 {
        let mut requests = Requests::default();
        requests.feed(said.as_bytes());
        let request = requests.poll_request().expect("HTTP").expect("a whole request");
        let Found::Route(route, call) = api::find(&request) else {
            panic!("no route for {said}");
        };
        match desk(route, &call) {
            Ok(_) => 200,
            Err(trouble) => trouble.status,
        }
    }

    #[test]
    fn while_it_stops_an_operator_is_told_so_and_can_look() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let (gateway, core) = bound();
            let Gateway {
                running,
                kick_handle,
                kicks,
                reload_handle,
                ..
            } = gateway;
            core.borrow_mut().kicks = Some(kicks);
            let running = Rc::new(RefCell::new(running));
            let office = Office::new(running, kick_handle, reload_handle.clone());
            let desk = operator::desk(core.clone(), office);
            let body = r#"{"target":"everyone"}"#;
            let length = body.len();
            let kick =
                format!("POST /api/v1/kicks HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
            let ready = "GET /api/v1/ready HTTP/1.1\r\nHost: x\r\n\r\n";
            let look = "GET /api/v1/statistics HTTP/1.1\r\nHost: x\r\n\r\n";
            assert_eq!((status(&desk, ready), status(&desk, &kick)), (200, 200));

            core.borrow_mut().stop_serving_threads();
            reload_handle.close();
            core.borrow_mut().input(now(), Input::Shutdown);
            assert_eq!((status(&desk, ready), status(&desk, &kick)), (503, 503));
            assert_eq!(status(&desk, look), 200);
            let outcome = reload_handle.reload().await;
            assert_eq!(outcome, Err(reload::ReloadError::Closed));
            let reload = "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
            let mut requests = Requests::default();
            requests.feed(reload.as_bytes());
            let request = requests.poll_request().expect("HTTP").expect("a whole request");
            let Found::Route(route, call) = api::find(&request) else {
                panic!("no route for a reload");
            };
            let Ok(api::Done::Reload(reloading)) = desk(route, &call) else {
                panic!("a reload is waited for");
            };
            assert_eq!(reloading.await.expect_err("it ends").status, 503);
        });
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
