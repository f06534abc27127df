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

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use rustls::time_provider::TimeProvider;
use slotmap::SlotMap;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, info, trace, warn};

use crate::admin::statistics::{Sample, Statistics, Traffic};
use crate::auth::access::Rights;
use crate::auth::passwords::{CheckMemory, Users};
use crate::auth::remembered::Remembered;
use crate::broker::{
    Authentication, Broker, DetachReason, Event, Input, LinkId, ListenerPolicy, Message, Now, Output, Verdict,
};
use crate::config::Settings;
use crate::mqtt::{Packet, Publish, Utf8String, encode};
use crate::net::clock::FlooredClock;
use crate::net::endpoint::{Endpoint, Peer};
use crate::net::link::{Buffers, Link};
use crate::net::listener::{ConnectionPermit, Entrance, Incoming, Listener, NetError, descriptors_left};
use crate::serial;
use crate::storage::{StateDirectory, StorageError};

/// Reads of one link before the others have their go: 4 × 64 KiB.
const READS_PER_TURN: usize = 4;

/// Unsent bytes of one link at which it is written before the turn ends, so that a burst does not gather in memory.
const FLUSH_EARLY_BYTES: usize = 32 * 1024;

/// Unsent bytes of answers at which a link is not read any more: who does not read its acknowledgements gets no new
/// ones. Messages do not count, the broker bounds them: a subscriber that is slow to take a flood must still be
/// heard, or its keep-alive would end it.
const READ_PAUSE_BYTES: usize = 64 * 1024;

/// What may be held for a link without the broker's knowing: a packet that happened to be cut at the end of a read.
const HOLDING_BYTES_UNTOLD: usize = 1024;

/// The least time between two goes of the tick task: what is due in the same tenth of a second, as the keep-alive of
/// clients that came together, wakes the processor once. Deadlines are whole seconds, and may be this late.
const TICK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What is kept to encode packets for many links in; a larger one was an exception.
const ENCODED_BYTES_KEPT: usize = 4 * 1024;

/// How long a closed link may take to receive what it is still owed, such as its DISCONNECT.
const LINGER: Duration = Duration::from_secs(2);

/// Password checks that may wait; more are answered "unavailable" at once. Each takes tens of milliseconds here and
/// near half a second on the smallest board, and only one runs at a time, so longer queues would only time out.
const CHECKS_WAITING_MAX: usize = 64;

/// How long the memory for password checks is kept after the last one: a crowd's next client comes sooner.
const CHECK_MEMORY_KEPT: Duration = Duration::from_secs(5);

/// How often the time is offered to the state directory, which writes it once an hour.
const CLOCK_NOTE_INTERVAL: Duration = Duration::from_secs(300);

/// A gateway whose listeners are bound and whose files are read, ready to run.
pub struct Gateway {
    settings: Settings,
    listeners: Vec<(Rc<Listener>, Rc<ListenerPolicy>)>,
    state: Option<Arc<Mutex<StateDirectory>>>,
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
        Ok(Self {
            settings,
            listeners,
            state,
        })
    }

    /// The listeners by name, each with the address it really has.
    pub fn addresses(&self) -> Vec<(String, Endpoint)> {
        self.listeners
            .iter()
            .map(|(listener, policy)| (policy.name.clone(), listener.endpoint().clone()))
            .collect()
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

    async fn serve(self, core: Hold, stop: impl Future<Output = ()>) {
        let broken = core.borrow().broken.clone();
        let _end = End(core.clone());

        let statistics = self.settings.statistics_interval;
        core.borrow_mut().statistics = statistics.map(|interval| Statistics::new(interval, Instant::now()));

        let mut tasks = JoinSet::new();
        tasks.spawn_local(flush_links(core.clone()));
        tasks.spawn_local(tick(core.clone()));
        tasks.spawn_local(check_passwords(core.clone(), self.settings.users));
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
            core.remove_all();
        }
    }
}

/// A task's hold of the core.
///
/// When the task panics, it may leave the core half changed: [`Gateway::run`] learns of it and serves no more.
#[derive(Clone)]
struct Hold(Rc<RefCell<Core>>);

impl Hold {
    fn new(broker: Broker) -> Self {
        Self(Rc::new(RefCell::new(Core::new(broker))))
    }
}

impl std::ops::Deref for Hold {
    type Target = RefCell<Core>;

    fn deref(&self) -> &RefCell<Core> {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(core) = self.0.try_borrow()
        {
            core.broken.notify_one();
        }
    }
}

/// All that the tasks of the loop share. They run on one thread and borrow it for one poll at a time.
///
/// Invariants:
/// 1. Every link the broker knows has a slot; a slot that is closing is unknown to the broker.
/// 2. A link with unsent bytes is in `dirty`, or its task waits for the socket to become writable.
/// 3. No borrow is held across an await.
struct Core {
    broker: Broker,
    links: SlotMap<LinkId, Slot>,
    buffers: Buffers,
    /// Where a packet for many links is encoded; kept for its memory.
    encoded: BytesMut,
    /// Links with unsent bytes that nobody has tried to write since.
    dirty: Vec<LinkId>,
    /// The flush task's own list, kept for its memory.
    writing: Vec<LinkId>,
    /// Inputs that came up while outputs were carried out.
    arisen: VecDeque<Input>,
    /// Closing links, by the instant they are cut off.
    lingering: VecDeque<(Instant, LinkId)>,
    /// Passwords that need no check.
    remembered: Remembered,
    /// Password checks asked for and not begun.
    checks: VecDeque<PasswordCheck>,
    /// Told whenever `checks` grows.
    check_waiting: Rc<Notify>,
    /// What is told below `$SYS`; `None` where that is not wanted.
    statistics: Option<Statistics>,
    traffic: Traffic,
    flush_task: Option<Waker>,
    tick_task: Option<Waker>,
    /// What the tick task sleeps until.
    armed: Option<Instant>,
    /// The tick task has had its go; it has the next one not before this.
    next_tick: Option<Instant>,
    /// Told whenever a link is gone.
    gone: Rc<Notify>,
    /// Told when a task panicked.
    broken: Rc<Notify>,
}

/// One connection as the loop sees it.
struct Slot {
    link: Link,
    /// The largest packet accepted once its client is in.
    packet_bytes_max: u32,
    peer: Peer,
    permit: ConnectionPermit,
    /// Of the link's task; `None` until it has run for the first time.
    task: Option<Waker>,
    state: SlotState,
    /// Of what was sent since everything was out: the bytes of packets that are no PUBLISH.
    unsent_answers_bytes: usize,
    /// What the broker knows to be held for it.
    holding_bytes: usize,
    /// Whether the broker wants nothing more from it for now.
    is_paused: bool,
    /// Whether the link stands in [`Core::dirty`].
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Open,
    /// The kernel took no more bytes; the link's task waits until it does.
    Blocked,
    /// The broker is done with it; what it is owed is still going out.
    Closing,
}

struct PasswordCheck {
    link: LinkId,
    user: Utf8String,
    password: Bytes,
}

/// Whether `slot`, whose client is not in, has to make room for another. The task is woken when it has to.
#[inline(never)]
fn gives_way(slot: &Slot, cx: &mut Context<'_>) -> bool {
    slot.permit.poll_gives_way(cx).is_ready()
}

/// Whether the broker still knows `link`.
fn is_known(links: &SlotMap<LinkId, Slot>, link: LinkId) -> bool {
    links
        .get(link)
        .is_some_and(|slot| slot.state != SlotState::Closing)
}

fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: SystemTime::now(),
    }
}

impl Core {
    fn new(broker: Broker) -> Self {
        Self {
            broker,
            links: SlotMap::with_key(),
            buffers: Buffers::new(),
            encoded: BytesMut::new(),
            dirty: Vec::new(),
            writing: Vec::new(),
            arisen: VecDeque::new(),
            lingering: VecDeque::new(),
            remembered: Remembered::new(&random_bytes()),
            checks: VecDeque::new(),
            check_waiting: Rc::new(Notify::new()),
            statistics: None,
            traffic: Traffic::default(),
            flush_task: None,
            tick_task: None,
            armed: None,
            next_tick: None,
            gone: Rc::new(Notify::new()),
            broken: Rc::new(Notify::new()),
        }
    }

    /// Takes in a connection that a listener has let through.
    fn connect(&mut self, incoming: Incoming, policy: Rc<ListenerPolicy>) -> LinkId {
        let peer = incoming.peer;
        let packet_bytes_max = policy.packet_bytes_max(self.broker.limits());
        let link = self.links.insert(Slot {
            // Whoever it is may bring a CONNECT; larger packets are for those who were let in.
            link: Link::server(
                incoming.stream,
                packet_bytes_max.min(self.broker.limits().connect_bytes_max),
            ),
            packet_bytes_max,
            peer,
            permit: incoming.permit,
            task: None,
            // Nobody could be woken to write before the link's task has run; it begins by writing.
            state: SlotState::Blocked,
            unsent_answers_bytes: 0,
            holding_bytes: 0,
            is_paused: false,
            dirty: false,
        });
        debug!(?link, %peer, listener = policy.name, "connection accepted");
        let certificate_user = incoming.certificate_user;
        self.input(
            now(),
            Input::Connected {
                link,
                listener: policy,
                peer: peer.ip(),
                certificate_user,
            },
        );
        self.tell_holding(now(), link);
        link
    }

    /// Hands the broker one input, carries out all that follows, and sees to the next tick.
    fn input(&mut self, now: Now, input: Input) {
        self.step(now, input);
        self.arm();
    }

    /// The one way into the broker: hands it one input and carries out all that follows. [`Core::arm`] is owed after.
    fn step(&mut self, now: Now, input: Input) {
        self.broker.handle(now, input);
        self.drain(now);
        while let Some(arisen) = self.arisen.pop_front() {
            self.broker.handle(now, arisen);
            self.drain(now);
        }
    }

    /// Wakes the tick task where there is an earlier deadline than the one it sleeps until.
    fn arm(&mut self) {
        let earlier = match (self.next_deadline(), self.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if earlier && let Some(task) = &self.tick_task {
            task.wake_by_ref();
        }
    }

    /// Carries out what the broker asked for, in its order.
    fn drain(&mut self, now: Now) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send { link, packet } => self.send(link, &packet),
                Output::SendToEach { links, publish } => self.send_to_each(&links, publish),
                Output::Pause { link } => self.set_paused(link, true),
                Output::Resume { link } => self.set_paused(link, false),
                Output::Close { link } => self.close(now, link),
                Output::Verify { link, user, password } => {
                    self.verify(PasswordCheck { link, user, password })
                }
                // No method is in the broker's settings, so this cannot come; whoever is to know them answers here.
                Output::Authenticate { link, method, .. } => {
                    warn!(?link, ?method, "nobody answers for the authentication method");
                    let answer = Authentication::Deny;
                    self.arisen.push_back(Input::Authenticated { link, answer });
                }
                Output::Event(event) => self.tell(&event),
            }
        }
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        trace!(?link, packet = packet.name(), "sent");
        let unsent = slot.link.unsent();
        slot.link.send(packet, &mut self.buffers);
        let bytes = slot.link.unsent().saturating_sub(unsent);
        self.traffic.packets_sent += 1;
        self.traffic.bytes_sent += bytes as u64;
        match packet {
            Packet::Publish(publish) => self.traffic.payload_bytes_sent += publish.payload.len() as u64,
            _ => slot.unsent_answers_bytes += bytes,
        }
        self.plan_flush(link);
    }

    /// Encodes `publish` once and hands the bytes to each link.
    fn send_to_each(&mut self, links: &[LinkId], publish: Publish) {
        // The broker puts links together that take the same bytes, so the first one's version is everybody's.
        let Some(version) = links
            .iter()
            .find_map(|&link| self.links.get(link))
            .map(|slot| slot.link.version_to_send())
        else {
            return;
        };
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        let payload_bytes = publish.payload.len();
        encode(&Packet::Publish(publish), version, &mut encoded);
        self.traffic.packets_sent += links.len() as u64;
        self.traffic.bytes_sent += (links.len() * encoded.len()) as u64;
        self.traffic.payload_bytes_sent += (links.len() * payload_bytes) as u64;
        for &link in links {
            let Some(slot) = self.links.get_mut(link) else {
                continue;
            };
            slot.link.send_encoded(&encoded, &mut self.buffers);
            // Most links of a fan-out wait for the end of the turn already.
            if !slot.dirty || slot.link.unsent() >= FLUSH_EARLY_BYTES {
                self.plan_flush(link);
            }
        }
        if encoded.capacity() <= ENCODED_BYTES_KEPT {
            self.encoded = encoded;
        }
    }

    /// Sees to it that what `link` is owed is written: at once where much has gathered, or when the turn ends.
    fn plan_flush(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        match slot.state {
            SlotState::Blocked => {}
            _ if slot.link.unsent() >= FLUSH_EARLY_BYTES => self.flush(link),
            _ if slot.dirty => {}
            _ => self.mark_dirty(link),
        }
    }

    fn mark_dirty(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(link);
            if self.dirty.len() == 1
                && let Some(task) = &self.flush_task
            {
                task.wake_by_ref();
            }
        }
    }

    /// Writes what `link` is owed, as far as the kernel takes it.
    fn flush(&mut self, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        let Some(task) = &slot.task else { return };
        let mut cx = Context::from_waker(task);
        match (slot.state, slot.link.poll_flush(&mut cx, &mut self.buffers)) {
            // Its own task finishes it: it also has to shut the stream down.
            (SlotState::Closing, _) => task.wake_by_ref(),
            (_, Poll::Ready(Ok(()))) => {
                slot.state = SlotState::Open;
                slot.unsent_answers_bytes = 0;
                self.arisen.push_back(Input::Flushed { link });
            }
            (_, Poll::Ready(Err(error))) => self.lost(link, &error),
            (_, Poll::Pending) => slot.state = SlotState::Blocked,
        }
    }

    /// Starts the end of a link: what it is owed goes out, then the stream is shut down, within [`LINGER`].
    fn close(&mut self, now: Now, link: LinkId) {
        let Some(slot) = self.links.get_mut(link) else {
            return;
        };
        slot.state = SlotState::Closing;
        slot.permit.leave();
        self.lingering.push_back((now.mono + LINGER, link));
        if let Some(task) = &slot.task {
            task.wake_by_ref();
        }
    }

    /// The stream broke: the broker is told, unless it was done with the link anyway.
    fn lost(&mut self, link: LinkId, error: &dyn std::fmt::Display) {
        debug!(?link, %error, "connection lost");
        if is_known(&self.links, link) {
            self.arisen.push_back(Input::Closed { link });
        }
        self.remove(link);
    }

    fn remove(&mut self, link: LinkId) {
        if let Some(slot) = self.links.remove(link) {
            if let Some(task) = slot.task {
                task.wake();
            }
            self.gone.notify_waiters();
            self.forget_lingering();
        }
    }

    /// Forgets the deadlines of links that are gone, as most are long before: nobody has to wake up for them.
    fn forget_lingering(&mut self) {
        while let Some((_, link)) = self.lingering.front()
            && !self.links.contains_key(*link)
        {
            self.lingering.pop_front();
        }
    }

    /// Cuts off whoever is left.
    fn remove_all(&mut self) {
        for (_, slot) in self.links.drain() {
            if let Some(task) = slot.task {
                task.wake();
            }
        }
    }

    fn verify(&mut self, check: PasswordCheck) {
        // Who was right before does not wait behind those who guess.
        if self.remembered.knows(&check.user, &check.password) {
            self.arisen.push_back(Input::Verified {
                link: check.link,
                verdict: Verdict::Allow,
            });
            return;
        }
        if let Some(slot) = self.links.get(check.link) {
            slot.permit.hold();
        }
        if self.checks.len() == CHECKS_WAITING_MAX {
            let links = &self.links;
            self.checks.retain(|check| is_known(links, check.link));
        }
        if self.checks.len() < CHECKS_WAITING_MAX {
            self.checks.push_back(check);
            self.check_waiting.notify_one();
        } else {
            warn!(waiting = self.checks.len(), "too many password checks waiting");
            self.arisen.push_back(Input::Verified {
                link: check.link,
                verdict: Verdict::Unavailable,
            });
        }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::ClientConnected {
                link,
                client,
                identity,
                session_present,
            } => {
                let Some(slot) = self.links.get_mut(*link) else {
                    return;
                };
                slot.link.set_packet_bytes_max(slot.packet_bytes_max);
                slot.permit.admitted();
                info!(?client, ?identity, peer = %slot.peer, session_present, ?link, "client connected");
            }
            Event::ClientDisconnected { link, client, reason } => {
                info!(?client, %reason, ?link, "client disconnected");
            }
            // Told when it came.
            Event::ConnectionRefused {
                reason: DetachReason::Malformed(_),
                ..
            } => {}
            // Who tries passwords is worth a line wherever anybody reads the log.
            Event::ConnectionRefused {
                link,
                reason: reason @ DetachReason::Refused(refusal),
            } if refusal.is_of_credentials() => {
                let peer = self.links.get(*link).map(|slot| slot.peer.to_string());
                info!(%reason, peer, ?link, "connection refused");
            }
            Event::ConnectionRefused { link, reason } => debug!(%reason, ?link, "connection refused"),
            Event::LimitReached { limit, client } => match client {
                Some(client) => warn!(limit, ?client, "limit reached"),
                None => warn!(limit, "limit reached"),
            },
        }
    }

    /// Says what there is when the end begins: on a gateway that was long up, what should be few and is many tells what
    /// its clients left behind.
    fn tell_end(&self) {
        let sessions = self.broker.stats().sessions;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        info!(connections = self.links.len(), sessions, tasks, "stopping");
    }

    /// When the statistics are told next; `None` while nobody reads them.
    fn statistics_due(&self) -> Option<Instant> {
        let statistics = self.statistics.as_ref()?;
        self.broker
            .has_readers_of_statistics()
            .then(|| statistics.poll_timeout())
    }

    /// Publishes what has changed of the statistics.
    fn tell_statistics(&mut self, now: Now) {
        let Some(statistics) = &mut self.statistics else {
            return;
        };
        let sample = Sample {
            stats: self.broker.stats(),
            traffic: &self.traffic,
            shared_subscriptions: self.broker.shared_subscriptions(),
        };
        for message in statistics.poll(now.mono, &sample) {
            self.input(now, Input::Publish(message));
        }
    }

    /// Tells the statistics to somebody who is about to subscribe to them, so that the retained ones are not those of
    /// when they were last read.
    fn refresh_statistics(&mut self, now: Now, packet: &Packet) {
        if let Packet::Subscribe(subscribe) = packet
            && let mut filters = subscribe
                .subscriptions
                .iter()
                .map(|subscription| &subscription.filter)
            && filters.any(|filter| filter.levels().next() == Some("$SYS"))
            && let Some(statistics) = &self.statistics
            && statistics.poll_timeout() <= now.mono
        {
            self.tell_statistics(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let lingering = self.lingering.front().map(|(deadline, _)| *deadline);
        let deadlines = [self.broker.poll_timeout(), lingering, self.statistics_due()];
        let deadline = deadlines.into_iter().flatten().min()?;
        Some(self.next_tick.map_or(deadline, |next| deadline.max(next)))
    }

    /// One go of a link's task; ready when the link is gone.
    fn poll_link(&mut self, link: LinkId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.links.get_mut(link) else {
            return Poll::Ready(());
        };
        match &mut slot.task {
            Some(task) => task.clone_from(cx.waker()),
            None => slot.task = Some(cx.waker().clone()),
        }

        // Priority 1: the end. What the peer still says is read and forgotten meanwhile: it may not read its farewell
        // before it has said all, and a stream that is dropped with unread bytes is reset, farewell and all.
        if slot.state == SlotState::Closing {
            let is_closed = slot.link.poll_close(cx, &mut self.buffers).is_ready();
            let is_silent = slot.link.poll_discard(cx, &mut self.buffers).is_ready();
            if is_closed && is_silent || slot.permit.is_pending() && gives_way(slot, cx) {
                self.remove(link);
                return Poll::Ready(());
            }
            return Poll::Pending;
        }
        if slot.permit.is_pending() && gives_way(slot, cx) {
            self.lost(link, &"it said nothing and gave way to a newer connection");
            self.take_arisen();
            return Poll::Ready(());
        }

        // Priority 2: what the link is owed and the kernel would not take before.
        if slot.state == SlotState::Blocked {
            self.flush(link);
            self.take_arisen();
        }

        // Priority 3: what it has to say, within a budget, so that no link keeps the others waiting.
        for _ in 0..READS_PER_TURN {
            let Some(slot) = self.links.get_mut(link) else {
                return Poll::Ready(());
            };
            if slot.state == SlotState::Closing {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if slot.is_paused {
                return Poll::Pending; // woken when the broker wants to hear it again
            }
            if slot.unsent_answers_bytes >= READ_PAUSE_BYTES {
                self.flush(link);
                self.take_arisen();
                let Some(slot) = self.links.get(link) else {
                    return Poll::Ready(());
                };
                if slot.state == SlotState::Blocked {
                    return Poll::Pending; // woken when the kernel takes bytes again
                }
                continue;
            }
            match slot.link.poll_receive(cx, &mut self.buffers) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.lost(link, &"closed by the peer"),
                Poll::Ready(Ok(bytes)) => {
                    self.traffic.bytes_received += bytes as u64;
                    self.take_packets(link);
                }
                Poll::Ready(Err(error)) => self.lost(link, &error),
            }
            self.take_arisen();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands the broker every whole packet that has arrived on `link`.
    fn take_packets(&mut self, link: LinkId) {
        let now = now();
        while let Some(slot) = self.links.get_mut(link)
            && slot.state != SlotState::Closing
        {
            match slot.link.poll_packet() {
                Ok(None) => break,
                Ok(Some(packet)) => {
                    trace!(?link, packet = packet.name(), "received");
                    match &packet {
                        Packet::Publish(publish) => {
                            self.traffic.payload_bytes_received += publish.payload.len() as u64;
                        }
                        Packet::Subscribe(_) => self.refresh_statistics(now, &packet),
                        _ => {}
                    }
                    self.step(now, Input::Received { link, packet });
                }
                Err(error) => {
                    debug!(?link, %error, "malformed packet");
                    let version = slot.link.version();
                    self.step(now, Input::Malformed { link, version, error });
                    break;
                }
            }
        }
        self.tell_holding(now, link);
        self.arm();
    }

    /// Tells the broker what is held for `link` where that has become much more or much less.
    #[inline(always)]
    fn tell_holding(&mut self, now: Now, link: LinkId) {
        if let Some(slot) = self.links.get_mut(link)
            && slot.state != SlotState::Closing
            && slot.link.holding_bytes().abs_diff(slot.holding_bytes) > HOLDING_BYTES_UNTOLD
        {
            slot.holding_bytes = slot.link.holding_bytes();
            let bytes = slot.holding_bytes;
            self.step(now, Input::Holding { link, bytes });
        }
    }

    /// Stops or goes on reading a link.
    fn set_paused(&mut self, link: LinkId, is_paused: bool) {
        if let Some(slot) = self.links.get_mut(link) {
            slot.is_paused = is_paused;
            if let Some(task) = &slot.task
                && !is_paused
            {
                task.wake_by_ref();
            }
        }
    }

    /// Hands the broker what came up outside of [`Core::input`].
    fn take_arisen(&mut self) {
        if let Some(input) = self.arisen.pop_front() {
            self.input(now(), input);
        }
    }

    /// One go of the flush task: the end of the turn.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flush_task = Some(cx.waker().clone());
        // What is marked while this runs waits for the next turn, so that links take turns in being written, too.
        std::mem::swap(&mut self.dirty, &mut self.writing);
        while let Some(link) = self.writing.pop() {
            if let Some(slot) = self.links.get_mut(link) {
                slot.dirty = false;
                self.flush(link);
            }
        }
        self.take_arisen();
        Poll::Pending
    }

    /// Does what is due; returns when the next is.
    fn tick(&mut self) -> Option<Instant> {
        let now = now();
        while let Some((deadline, link)) = self.lingering.front().copied()
            && deadline <= now.mono
        {
            self.lingering.pop_front();
            self.remove(link);
        }
        self.forget_lingering();
        self.next_tick = Some(now.mono + TICK_INTERVAL_MIN);
        if self
            .broker
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now.mono)
        {
            self.input(now, Input::Tick);
        }
        if self.statistics_due().is_some_and(|deadline| deadline <= now.mono) {
            self.tell_statistics(now);
        }
        self.next_deadline()
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
            core.armed = core.tick();
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

/// Checks passwords one after the other on a thread of their own; the answers come back as inputs.
async fn check_passwords(core: Hold, users: Option<Arc<Users>>) {
    let waiting = core.borrow().check_waiting.clone();
    let mut memory = CheckMemory::default();
    loop {
        let next = core.borrow_mut().checks.pop_front();
        let Some(PasswordCheck { link, user, password }) = next else {
            // Kept for the next of a crowd, given back when it is over.
            if tokio::time::timeout(CHECK_MEMORY_KEPT, waiting.notified())
                .await
                .is_err()
            {
                memory = CheckMemory::default();
                waiting.notified().await;
            }
            continue;
        };
        if !is_known(&core.borrow().links, link) {
            continue; // a check is dear, and nobody wants to know any more
        }
        let verdict = match &users {
            None => Verdict::NoUsers,
            // Its twin was checked while it waited.
            Some(_) if core.borrow().remembered.knows(&user, &password) => Verdict::Allow,
            Some(users) => {
                let check = {
                    let (users, user, password) = (users.clone(), user.clone(), password.clone());
                    let mut memory = std::mem::take(&mut memory);
                    move || (users.verify(user.as_str(), &password, &mut memory), memory)
                };
                match tokio::task::spawn_blocking(check).await {
                    Ok((is_right, used)) => {
                        memory = used;
                        if is_right {
                            core.borrow_mut().remembered.remember(&user, &password);
                        }
                        if is_right { Verdict::Allow } else { Verdict::Deny }
                    }
                    Err(_) => Verdict::Unavailable,
                }
            }
        };
        core.borrow_mut().input(now(), Input::Verified { link, verdict });
    }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::config;

    #[test]
    fn nothing_wakes_a_gateway_whose_clients_have_gone() {
        let runtime = runtime().expect("an event queue");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = folder.path().join("tidegate.toml");
            std::fs::write(&file, "[listener.local]\naddress = \"127.0.0.1:0\"\n").expect("written");
            let settings = config::load(&file, None).expect("right");
            let core = Hold::new(Broker::new(settings.limits.clone(), Rights::default(), 1));
            let gateway = Gateway::bind(settings).expect("a free port");
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
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = folder.path().join("tidegate.toml");
            std::fs::write(&file, "[listener.local]\naddress = \"127.0.0.1:0\"\n").expect("written");
            let settings = config::load(&file, None).expect("right");
            let core = Hold::new(Broker::new(settings.limits.clone(), Rights::default(), 1));
            let gateway = Gateway::bind(settings).expect("a free port");
            let running = tokio::task::spawn_local(gateway.serve(core.clone(), std::future::pending()));

            let ends = core.clone();
            tokio::task::spawn_local(async move { drop(ends) })
                .await
                .expect("no panic");
            tokio::task::yield_now().await;
            assert!(!running.is_finished(), "a task may end");

            let task = async move { core.borrow_mut().checks.reserve(usize::MAX) };
            assert!(
                tokio::task::spawn_local(task)
                    .await
                    .is_err_and(|error| error.is_panic())
            );
            assert!(running.await.is_err_and(|error| error.is_panic()));
        });
    }
}
