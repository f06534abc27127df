//! What all tasks of the loop share, and the one way into the broker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use slotmap::SlotMap;
use tokio::sync::Notify;
use tracing::debug;

use super::audit::{Audit, Claimed};
use super::random_bytes;
use super::store::Store;
use super::supervisor::Supervisor;
use super::turns::Turns;
use crate::admin::statistics::{Reloads, Statistics, Traffic};
use crate::auth::guessing::{Guessing, GuessingLimits};
use crate::auth::passwords::Users;
use crate::auth::remembered::Remembered;
use crate::auth::tokens::Tokens;
use crate::broker::{Broker, Input, LinkId, ListenerPolicy, Now, Output};
use crate::config::settings::AuditSettings;
use crate::kick::KickQueue;
use crate::net::endpoint::Peer;
use crate::net::link::{Buffers, Link};
use crate::net::listener::{ConnectionPermit, Incoming};
use crate::watch::Shop;

/// The least time between two goes of the tick task: what is due in the same tenth of a second, as the keep-alive of
/// clients that came together, wakes the processor once. Deadlines are whole seconds, and may be this late.
pub(super) const TICK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How long a closed link may take to receive what it is still owed, such as its DISCONNECT.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A task's hold of the core.
///
/// When the task panics, it may leave the core half changed: [`super::Gateway::run`] learns of it and serves no more.
#[derive(Clone)]
pub(super) struct Hold(Rc<RefCell<Core>>);

impl Hold {
    pub(super) fn new(broker: Broker) -> Self {
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
pub(super) struct Core {
    pub(super) broker: Broker,
    pub(super) links: SlotMap<LinkId, Slot>,
    pub(super) buffers: Buffers,
    /// Where a packet for many links is encoded; kept for its memory.
    pub(super) encoded: BytesMut,
    /// Links with unsent bytes that nobody has tried to write since.
    pub(super) dirty: Vec<LinkId>,
    /// The flush task's own list, kept for its memory.
    pub(super) writing: Vec<LinkId>,
    /// Inputs that came up while outputs were carried out.
    pub(super) arisen: VecDeque<Input>,
    /// Closing links, by the instant they are cut off.
    pub(super) lingering: VecDeque<(Instant, LinkId)>,
    /// Who may come in by password; `None` where there is no password file.
    pub(super) users: Option<Arc<Users>>,
    /// Who may come in by a token, the same way.
    pub(super) tokens: Option<Arc<Tokens>>,
    /// Passwords that need no check.
    pub(super) remembered: Remembered,
    /// Password checks asked for and not begun.
    pub(super) checks: Turns,
    /// When it was last told that more came than can wait.
    pub(super) crowd_told: Option<Instant>,
    /// Where those come from who failed lately.
    pub(super) guessing: Guessing,
    pub(super) audit: Audit,
    /// Told whenever `checks` grows.
    pub(super) check_waiting: Rc<Notify>,
    /// Kicks from other threads and from hooks; `None` where nobody can ask for any.
    pub(super) kicks: Option<KickQueue>,
    /// When the next of them may be carried out; `None` where none wait.
    pub(super) kicks_at: Option<Instant>,
    /// Where goes what is to outlive the process; `None` where nothing does.
    pub(super) store: Option<Store>,
    /// What other threads see of the clients.
    pub(super) shop: Option<Shop>,
    /// What is told below `$SYS`; `None` where that is not wanted.
    pub(super) statistics: Option<Statistics>,
    pub(super) traffic: Traffic,
    pub(super) reloads: Reloads,
    /// Who is told how it goes; `None` where nobody watches.
    pub(super) supervisor: Option<Supervisor>,
    pub(super) flush_task: Option<Waker>,
    pub(super) tick_task: Option<Waker>,
    /// What the tick task sleeps until.
    pub(super) armed: Option<Instant>,
    /// The tick task has had its go; it has the next one not before this.
    pub(super) next_tick: Option<Instant>,
    /// Told whenever a link is gone.
    pub(super) gone: Rc<Notify>,
    /// Told when a task panicked.
    pub(super) broken: Rc<Notify>,
}

/// One connection as the loop sees it.
pub(super) struct Slot {
    pub(super) link: Link,
    /// The largest packet accepted once its client is in.
    pub(super) packet_bytes_max: u32,
    pub(super) peer: Peer,
    /// When it was accepted.
    pub(super) since: Instant,
    /// Bytes read and written, those of TLS and WebSocket not counted.
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) permit: ConnectionPermit,
    /// Who it says it is, until it is in.
    pub(super) claimed: Option<Box<Claimed>>,
    /// Of the link's task; `None` until it has run for the first time.
    pub(super) task: Option<Waker>,
    pub(super) state: SlotState,
    /// Of what was sent since everything was out: the bytes of packets that are no PUBLISH.
    pub(super) unsent_answers_bytes: usize,
    /// What the broker knows to be held for it.
    pub(super) holding_bytes: usize,
    /// Whether the broker wants nothing more from it for now.
    pub(super) is_paused: bool,
    /// Whether packets may have arrived that it has not been given.
    pub(super) has_unread: bool,
    /// Whether the link stands in [`Core::dirty`].
    pub(super) dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    Open,
    /// The kernel took no more bytes; the link's task waits until it does.
    Blocked,
    /// The broker is done with it; what it is owed is still going out.
    Closing,
}

impl Core {
    pub(super) fn new(broker: Broker) -> Self {
        Self {
            broker,
            links: SlotMap::with_key(),
            buffers: Buffers::new(),
            encoded: BytesMut::new(),
            dirty: Vec::new(),
            writing: Vec::new(),
            arisen: VecDeque::new(),
            lingering: VecDeque::new(),
            users: None,
            tokens: None,
            remembered: Remembered::new(&random_bytes()),
            checks: Turns::default(),
            crowd_told: None,
            guessing: Guessing::new(GuessingLimits::default()),
            audit: Audit::new(AuditSettings::default(), Instant::now()),
            check_waiting: Rc::new(Notify::new()),
            kicks: None,
            shop: None,
            store: None,
            kicks_at: None,
            statistics: None,
            traffic: Traffic::default(),
            reloads: Reloads::default(),
            supervisor: None,
            flush_task: None,
            tick_task: None,
            armed: None,
            next_tick: None,
            gone: Rc::new(Notify::new()),
            broken: Rc::new(Notify::new()),
        }
    }

    /// Takes in a connection that a listener has let through.
    pub(super) fn connect(&mut self, incoming: Incoming, policy: Rc<ListenerPolicy>) -> LinkId {
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
            since: Instant::now(),
            received_bytes: 0,
            sent_bytes: 0,
            permit: incoming.permit,
            claimed: Some(Claimed::new(policy.clone())),
            task: None,
            // Nobody could be woken to write before the link's task has run; it begins by writing.
            state: SlotState::Blocked,
            unsent_answers_bytes: 0,
            holding_bytes: 0,
            is_paused: false,
            has_unread: false,
            dirty: false,
        });
        debug!(?link, %peer, listener = policy.name, "connection accepted");
        let certificate_user = incoming.certificate_user;
        let certificate_client = incoming.certificate_client.map(Box::new);
        self.input(
            now(),
            Input::Connected {
                link,
                listener: policy,
                peer: peer.ip(),
                certificate_user,
                certificate_client,
            },
        );
        self.tell_holding(now(), link);
        link
    }

    /// Hands the broker one input, carries out all that follows, and sees to the next tick.
    pub(super) fn input(&mut self, now: Now, input: Input) {
        self.step(now, input);
        self.arm();
    }

    /// The one way into the broker: hands it one input and carries out all that follows. [`Core::arm`] is owed after.
    pub(super) fn step(&mut self, now: Now, input: Input) {
        self.broker.handle(now, input);
        self.drain(now);
        while let Some(arisen) = self.arisen.pop_front() {
            self.broker.handle(now, arisen);
            self.drain(now);
        }
    }

    /// Wakes the tick task where there is an earlier deadline than the one it sleeps until.
    pub(super) fn arm(&mut self) {
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
    pub(super) fn drain(&mut self, now: Now) {
        while let Some(output) = self.broker.poll_output() {
            // Looked at where it lies: moving it is a good part of what a delivery costs.
            match output {
                Output::Send { link, ref packet } => self.send(link, packet),
                Output::SendToEach {
                    ref links,
                    ref publish,
                } => self.send_to_each(links, publish),
                rare => self.carry_out(now, rare),
            }
        }
    }

    /// Carries out what is not sent.
    #[inline(never)]
    fn carry_out(&mut self, now: Now, output: Output) {
        match output {
            Output::Send { link, packet } => self.send(link, &packet),
            Output::SendToEach { links, publish } => self.send_to_each(&links, &publish),
            Output::Pause { link } => self.set_paused(link, true),
            Output::Resume { link } => self.set_paused(link, false),
            Output::Close { link } => self.close(now, link),
            Output::Verify { link, user, password } => self.verify(link, user, password),
            Output::Kicked { id, outcome } => self.answer_kick(id, outcome),
            Output::Store(change) => self.store(&change),
            Output::Recall(recall) => self.recall(recall),
            Output::Event(event) => self.tell(&event),
        }
    }

    /// Hands the broker what came up outside of [`Core::input`].
    pub(super) fn take_arisen(&mut self) {
        if let Some(input) = self.arisen.pop_front() {
            self.input(now(), input);
        }
    }

    /// The tick: does what is due, in an order that ARCHITECTURE.md promises; returns when the next is.
    ///
    /// `sleeper` is woken by the next kick.
    pub(super) fn tick(&mut self, sleeper: &Waker) -> Option<Instant> {
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
        self.kicks_at = self.carry_out_kicks(now, sleeper);
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.tick(now.mono);
        }
        if let Some(shop) = &mut self.shop {
            shop.show(sleeper, || self.broker.published());
        }
        if self.statistics_due().is_some_and(|deadline| deadline <= now.mono) {
            self.tell_statistics(now);
        }
        self.next_deadline()
    }

    /// Whether the next tick ends somebody who did not speak, or did not listen, in time.
    pub(super) fn has_deadline_come(&self) -> bool {
        let lingering = self.lingering.front().map(|(deadline, _)| *deadline);
        let deadlines = [self.broker.poll_timeout(), lingering];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lingering = self.lingering.front().map(|(deadline, _)| *deadline);
        let sign_of_life = self.supervisor.as_ref().and_then(|supervisor| supervisor.due);
        let deadlines = [
            self.broker.poll_timeout(),
            lingering,
            self.statistics_due(),
            sign_of_life,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let deadline = deadline.map(|deadline| self.next_tick.map_or(deadline, |next| deadline.max(next)));
        // Kicks have a gap of their own.
        let deadlines = [deadline, self.kicks_at, self.broker.kicks_due()];
        deadlines.into_iter().flatten().min()
    }

    /// Starts the end of a link: what it is owed goes out, then the stream is shut down, within [`LINGER`].
    pub(super) fn close(&mut self, now: Now, link: LinkId) {
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
    pub(super) fn lost(&mut self, link: LinkId, error: &dyn std::fmt::Display) {
        debug!(?link, %error, "connection lost");
        if is_known(&self.links, link) {
            self.arisen.push_back(Input::Closed { link });
        }
        self.remove(link);
    }

    pub(super) fn remove(&mut self, link: LinkId) {
        if let Some(slot) = self.links.remove(link) {
            if let Some(task) = slot.task {
                task.wake();
            }
            self.gone.notify_waiters();
            self.forget_lingering();
        }
    }

    /// Forgets the deadlines of links that are gone, as most are long before: nobody has to wake up for them.
    pub(super) fn forget_lingering(&mut self) {
        while let Some((_, link)) = self.lingering.front()
            && !self.links.contains_key(*link)
        {
            self.lingering.pop_front();
        }
    }

    /// Cuts off whoever is left.
    pub(super) fn remove_all(&mut self) {
        for (_, slot) in self.links.drain() {
            if let Some(task) = slot.task {
                task.wake();
            }
        }
    }
}

/// Whether the broker still knows `link`.
pub(super) fn is_known(links: &SlotMap<LinkId, Slot>, link: LinkId) -> bool {
    links
        .get(link)
        .is_some_and(|slot| slot.state != SlotState::Closing)
}

pub(super) fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: SystemTime::now(),
    }
}
