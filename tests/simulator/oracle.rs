//! What has to be true of every broker, held against everything this one hears and says.
//!
//! Written from the standard by the naive definition: sessions in a map, queues as lists, filters compared level by
//! level. The oracle stands between network and broker: it is told each input and everything that followed from it, and
//! says which invariant does not hold. It knows of the broker's own mind only the public counters.
//!
//! | id | what holds |
//! | --- | --- |
//! | D1 | what was acknowledged to a publisher is delivered, or owed, to every session that matched at that moment |
//! | D2 | a QoS 2 message is delivered once to a session; PUBREL of an unknown identifier is answered and no more |
//! | D3 | deliveries come in the order they were published in; DUP is on repetitions alone, which come in their order |
//! | D4 | whatever is not delivered is counted, and nothing is dropped where there is room |
//! | D5 | what a topic retains is its last accepted write; an empty one deletes it; nothing expires early or late |
//! | D6 | nothing appears that nobody published; payload, properties and topic are the same bytes |
//! | W1 | a will is sent once where the connection ended without DISCONNECT 0x00, after its delay; otherwise never |
//! | T1 | at no moment has a session two connections; the old one is told 0x8E and nothing follows its end |
//! | T2 | a kick ends when it is carried out, in the order asked; who is kept out does not come in |
//! | S1 | Session Present is told exactly where the session is there |
//! | A1 | nobody gets or publishes what the rules of the moment forbid, and a wrong password lets nobody in |
//! | A2 | who does not say CONNECT in time is gone |
//! | P1 | packet identifiers are unique in flight, Receive Maximum and packet sizes are kept, every answer comes |
//! | P2 | a client that keeps to the rules is not sent away; one that is silent too long is, and not before |
//! | L2 | what follows from an input is bounded by the clients it is about, and comes in slices |
//!
//! M1 and M2 are the broker's `check_invariants()` and the empty house at the end of every run; R1 and L1 are the
//! world's to check, and E1 the runner's.

mod ends;
pub mod found;
mod hearing;
pub mod model;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Denial};
use tidegate::broker::change::Accepted;
use tidegate::broker::{Change, Event, Kick, LinkId, Output, Stats, StoreHealth, Target};
use tidegate::mqtt::{Ack, Packet, Publish, PublishProperties, QoS};

use model::{Filter, Group, Link, Message, Owed, Session, SessionNumber, Stage, matches};

/// An invariant that does not hold, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub id: &'static str,
    pub text: String,
    /// The line that found it, so that a shorter history is held to the same.
    pub line: u32,
}

impl Violation {
    #[track_caller]
    pub fn new(id: &'static str, text: String) -> Self {
        let line = std::panic::Location::caller().line();
        Self { id, text, line }
    }
}

pub type Held = Result<(), Violation>;

/// That `condition` holds, by the id of its invariant.
#[track_caller]
pub fn hold(condition: bool, id: &'static str, text: impl FnOnce() -> String) -> Held {
    match condition {
        true => Ok(()),
        false => Err(Violation::new(id, text())),
    }
}

/// What is put to the broker, as far as the oracle has to know.
#[derive(Debug, Clone)]
pub enum Cause {
    Arrived {
        link: LinkId,
        is_open: bool,
    },
    Received {
        link: LinkId,
        packet: Packet,
    },
    /// Its client broke a rule, or is not trusted any more.
    Provoked {
        link: LinkId,
    },
    Closed,
    Flushed,
    Verified {
        link: LinkId,
        is_right: bool,
    },
    Own(tidegate::broker::Message),
    Kick(Kick),
    Unban(Rc<str>),
    Rights(Vec<Denial>),
    Reconfigured,
    Tick,
    /// What was given is stored; all of it.
    Stored {
        is_all: bool,
    },
    Health(StoreHealth),
    Checkpoint,
    Recalled,
}

/// How far what is stored has come, after an input.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub given: u64,
    pub stored: u64,
}

/// What the world's limits come to, as far as the standard leaves it to them.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whether everything has room, so that nothing may be dropped or refused for want of it.
    pub is_roomy: bool,
    pub session_expiry_max_secs: u32,
    pub keep_alive_max_secs: u16,
    pub connect_timeout: Duration,
    /// Whether what has to outlive the process is stored.
    pub stores: bool,
    /// Deliveries at QoS 1 and 2 that a client may have unfinished.
    pub window_max: usize,
    /// Retained messages at QoS 0 that one input may bring one client.
    pub slice_max: usize,
    /// Changes that one input may give to be stored.
    pub changes_max: usize,
}

/// A delivery that any member of a shared subscription may get.
#[derive(Debug, Clone)]
struct Shared {
    group: Group,
    /// All that the message is owed to: who is in two of them may get either's.
    groups: Rc<[Group]>,
    message: Rc<Message>,
    batch: u64,
    /// Whether it may have been lost with a session that was not stored.
    is_unsure: bool,
    after: u64,
    /// The highest quality at which anybody could get it.
    qos: QoS,
}

/// What a topic retains.
#[derive(Debug, Clone)]
pub(crate) struct Retained {
    message: Rc<Message>,
    author: Identity,
}

/// An acknowledgement that a client had said behind its CONNECT.
#[derive(Debug, Clone)]
struct Ahead {
    /// In the order in which they were said.
    place: u64,
    link: LinkId,
    number: SessionNumber,
    packet: Packet,
    ack: Ack,
    /// What it acknowledged, as that was before, and where.
    flight: Option<(usize, model::Flight)>,
}

/// A SUBSCRIBE that is not answered: by which connection and identifier, and what each filter was before.
type Subscribing = (LinkId, u16, Vec<(Rc<str>, Option<Filter>)>);

/// The reference model, and the judge.
#[derive(Clone)]
pub struct Oracle {
    terms: Terms,
    now: Instant,
    /// The number of inputs so far.
    step: u64,
    /// The number of routings so far whose order is known.
    batch: u64,
    /// The first of this step.
    batch_began: u64,
    /// The number of messages routed in this step.
    routed: usize,
    links: BTreeMap<LinkId, Link>,
    sessions: BTreeMap<SessionNumber, Session>,
    names: BTreeMap<Rc<str>, SessionNumber>,
    last_session: SessionNumber,
    shared: Vec<Shared>,
    /// At QoS 0: sent in this step or never.
    instant: Vec<(SessionNumber, Owed)>,
    retained: BTreeMap<Rc<str>, (u64, Vec<Option<Retained>>)>,
    /// What topics retained before, the last that went: a subscription may have taken it along to be stored before it
    /// is sent, and it may be another by then.
    once_retained: VecDeque<Rc<Message>>,
    /// Messages whose publishers went without an answer, or were told no: who was to get them nobody can tell.
    unsure: Vec<Rc<Message>>,
    denials: Vec<Denial>,
    /// Whether anything was ever denied.
    has_denied: bool,
    /// Whether a client ever said how large its packets may be.
    has_small_clients: bool,
    /// What was asked for, and when.
    kicks: VecDeque<(Kick, Instant)>,
    /// Who is kept out, client identifiers and user names alike, and until when.
    bans: BTreeMap<Rc<str>, Instant>,
    /// Sessions that ended in this step: a will of the same step may have reached them before.
    just_ended: Vec<Session>,
    subscribing: Vec<Subscribing>,
    stats: Stats,
    /// Deliveries that will never come.
    lost: u64,
    /// Those of them that had lost their meaning.
    lost_expired: u64,
    /// Deliveries that may or may not have come to be.
    slack: u64,
    wills_sent: u64,
    /// Drops that were counted before a crash and not found yet.
    credit: u64,
    health: StoreHealth,
    progress: Progress,
    /// The change that the answers to the input of the moment rest on; 0: none.
    rests_on: u64,
    /// Whether a message of this step was not retained for want of room.
    retains_nothing: bool,
    /// Whether something was just said before what it rests on was stored.
    early: bool,
    /// The messages that were given to be stored as taken in this step, by the numbers of their changes.
    taken: Vec<(u64, Box<Accepted>)>,
    /// Acknowledgements that clients had said behind their CONNECT and that are heard in this step.
    ahead: Vec<Ahead>,
    said_ahead: u64,
    /// Those that were heard in this step: one that ends the connection takes back what stands behind it.
    heard_ahead: Vec<Ahead>,
    /// Messages delivered, for whoever wants to know that something happened.
    pub delivered: u64,
    /// Messages accepted at QoS 1 and 2.
    pub accepted: u64,
}

impl Oracle {
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self {
            terms,
            now,
            step: 0,
            batch: 0,
            batch_began: 0,
            routed: 0,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            last_session: 0,
            shared: Vec::new(),
            instant: Vec::new(),
            retained: BTreeMap::new(),
            once_retained: VecDeque::new(),
            unsure: Vec::new(),
            denials: Vec::new(),
            has_denied: false,
            has_small_clients: false,
            kicks: VecDeque::new(),
            bans: BTreeMap::new(),
            just_ended: Vec::new(),
            subscribing: Vec::new(),
            stats: Stats::default(),
            lost: 0,
            lost_expired: 0,
            slack: 0,
            wills_sent: 0,
            credit: 0,
            health: StoreHealth::Ready,
            progress: Progress::default(),
            rests_on: 0,
            retains_nothing: false,
            early: false,
            taken: Vec::new(),
            ahead: Vec::new(),
            said_ahead: 0,
            heard_ahead: Vec::new(),
            delivered: 0,
            accepted: 0,
        }
    }

    /// Judges one input by all that followed from it.
    pub fn judge(
        &mut self,
        now: Instant,
        cause: &Cause,
        outputs: &[Output],
        (stats, progress): (&Stats, Progress),
    ) -> Held {
        self.now = now;
        self.rests_on = rests_on(cause, outputs, progress.given);
        self.taken = taken(outputs, progress.given);
        self.progress = progress;
        self.retains_nothing = stats.dropped_retained_full > self.stats.dropped_retained_full;
        self.step += 1;
        self.batch += 1;
        self.batch_began = self.batch;
        self.routed = 0;
        self.just_ended.clear();
        self.heard_ahead.clear();
        self.hear(cause, outputs)?;
        for (index, output) in outputs.iter().enumerate() {
            self.purge_ahead(&outputs[index..]);
            self.see(output)?;
            if let Output::Store(change) = output {
                self.note_stored(change, &outputs[index..]);
            }
        }
        self.check_work(cause, outputs)?;
        self.settle(cause, stats)
    }

    /// Which sessions outlive the process, as it is told. One that ends with its connection does until then, where
    /// something of it waits in the journal alone.
    fn note_stored(&mut self, change: &Change, behind: &[Output]) {
        match change {
            Change::Session(head) => {
                // One that ends here may have left its name to another.
                let end = Change::SessionEnded { session: head.number };
                if behind.contains(&Output::Store(end)) {
                    return;
                }
                let number = self.names.get(head.client.as_str());
                if let Some(session) = number.and_then(|number| self.sessions.get_mut(number)) {
                    (session.is_stored, session.was_stored) = (true, true);
                    session.stored_as = head.number.0;
                }
            }
            Change::SessionEnded { session: ended } => {
                let mut sessions = self.sessions.values_mut();
                if let Some(session) = sessions.find(|session| session.stored_as == ended.0) {
                    (session.is_stored, session.was_stored) = (false, false);
                }
            }
            _ => {}
        }
    }

    /// L2: what follows from one input is bounded by what it is about: each routed message goes to each client once at
    /// most, one client may get its window and a slice of what topics retain, and every client may be sent away. What
    /// is given to be stored comes in slices, too. What waited to be stored is let go at once, however much it is.
    fn check_work(&self, cause: &Cause, outputs: &[Output]) -> Held {
        if outputs.len() <= self.terms.window_max {
            return Ok(());
        }
        let changes = (outputs.iter())
            .filter(|output| matches!(output, Output::Store(_)))
            .count();
        let others = outputs.len() - changes;
        let is_there = |link: &&Link| !matches!(link.stage, Stage::Ended) || link.ended_in == self.step;
        let clients = self.links.values().filter(is_there).count() + 1;
        let bursts_max = self.terms.window_max + self.terms.slice_max;
        let others_max = clients * (self.routed + 4) + 2 * bursts_max;
        let is_bounded = others <= others_max || matches!(cause, Cause::Stored { .. });
        hold(is_bounded && changes <= self.terms.changes_max, "L2", || {
            format!("{others} outputs, at most {others_max}, and {changes} changes of one input")
        })?;
        let mut bursts: BTreeMap<LinkId, [usize; 2]> = BTreeMap::new();
        let mut note = |link: LinkId, publish: &Publish| {
            bursts.entry(link).or_default()[usize::from(publish.qos != QoS::AtMostOnce)] += 1;
        };
        for output in outputs {
            match output {
                Output::Send {
                    link,
                    packet: Packet::Publish(publish),
                } => note(*link, publish),
                Output::SendToEach { links, publish } => links.iter().for_each(|&link| note(link, publish)),
                _ => {}
            }
        }
        for (link, [at_most_once, others]) in bursts {
            // Who is left of a shared subscription may get all that waited for one who has gone.
            let is_heir = self
                .just_ended
                .iter()
                .any(|session| !session.groups_ever.is_empty());
            let is_slice = at_most_once <= self.terms.slice_max + self.routed || is_heir;
            // What was acknowledged behind CONNECT makes room at once.
            let window_max = self.terms.window_max + self.heard_ahead.len();
            hold(is_slice && others <= window_max, "L2", || {
                format!("{at_most_once} deliveries at QoS 0 and {others} others go to {link:?} at once")
            })?;
        }
        Ok(())
    }

    pub(super) fn message(
        &self,
        topic: &str,
        (payload, qos, retain): (&bytes::Bytes, QoS, bool),
        mut properties: PublishProperties,
        publisher: Option<SessionNumber>,
    ) -> Rc<Message> {
        properties.topic_alias = None;
        let life = properties
            .message_expiry_secs
            .map(|secs| Duration::from_secs(u64::from(secs)));
        Rc::new(Message {
            topic: Rc::from(topic),
            payload: payload.clone(),
            qos,
            retain,
            properties,
            expires_at: life.map(|life| self.now + life),
            publisher,
        })
    }

    /// Everybody who subscribed to the topic is owed the message; whether there is anybody.
    pub(super) fn route(&mut self, message: Rc<Message>, author: &Identity) -> bool {
        self.routed += 1;
        if message.retain {
            self.retain(&message, author);
        }
        let after = self.stored_by(&message);
        let (mut reached, mut withheld) = (false, 0);
        let mut groups: BTreeMap<Group, QoS> = BTreeMap::new();
        for (&number, session) in &mut self.sessions {
            let mut grant: Option<(QoS, [bool; 2])> = None;
            let mut ids = Vec::new();
            for filter in session.filters.values() {
                if !matches(&filter.matched, &message.topic) {
                    continue;
                }
                if let Some(group) = &filter.group {
                    if may(&self.denials, &session.identity, Action::Receive, &message.topic) {
                        let qos = groups.entry(group.clone()).or_insert(QoS::AtMostOnce);
                        *qos = filter.qos.max(*qos);
                    }
                    continue;
                }
                if filter.no_local && message.publisher == Some(number) {
                    continue; // [MQTT-3.8.3-3]
                }
                let (qos, flags) = grant.get_or_insert((QoS::AtMostOnce, [false; 2]));
                *qos = filter.qos.max(*qos);
                flags[usize::from(filter.retain_as_published)] = true;
                if filter.id > 0 {
                    ids.push(filter.id);
                }
            }
            let Some((qos, flags)) = grant else { continue };
            if !may(&self.denials, &session.identity, Action::Receive, &message.topic) {
                withheld += 1;
                continue;
            }
            reached = true;
            ids.sort_unstable();
            let owed = Owed {
                qos: qos.min(message.qos), // [MQTT-3.8.4-8]
                retain: match flags {
                    _ if !message.retain => Some(false),
                    [true, true] => None,
                    [_, as_published] => Some(as_published), // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
                },
                ids,
                batch: self.batch,
                after,
                message: message.clone(),
            };
            match owed.qos {
                QoS::AtMostOnce => self.instant.push((number, owed)),
                _ => session.owed.push_back(owed),
            }
        }
        (0..withheld).for_each(|_| self.lose(&message));
        reached |= !groups.is_empty();
        let all: Rc<[Group]> = groups.keys().cloned().collect();
        let shared = groups.into_iter().map(|(group, qos)| Shared {
            group,
            groups: all.clone(),
            batch: self.batch,
            is_unsure: false,
            after,
            qos: qos.min(message.qos),
            message: message.clone(),
        });
        self.shared.extend(shared);
        for ended in &self.just_ended {
            let filters = ended.filters.values();
            self.slack += filters
                .filter(|filter| matches(&filter.matched, &message.topic))
                .count() as u64;
        }
        reached
    }

    /// The change by which a message that was just taken is stored; 0: none.
    fn stored_by(&self, message: &Message) -> u64 {
        let is_it = |accepted: &Accepted| {
            (accepted.body.as_deref())
                .is_some_and(|body| *body.topic.as_str() == *message.topic && body.payload == message.payload)
        };
        let found = self.taken.iter().find(|(_, accepted)| is_it(accepted));
        found.map_or(0, |(number, _)| *number)
    }

    fn retain(&mut self, message: &Rc<Message>, author: &Identity) {
        if message.payload.is_empty() && !self.is_amid_wills(&message.topic) {
            return self.forget_retained(&message.topic); // [MQTT-3.3.1-6]
        }
        let value = (!message.payload.is_empty()).then(|| Retained {
            message: message.clone(),
            author: author.clone(),
        });
        if self.is_expired_there(&message.topic) {
            // Who was to be brought the one before may have been told, or not, that it had expired.
            for (_, topics) in self
                .sessions
                .values_mut()
                .flat_map(|session| &mut session.replays)
            {
                self.slack += u64::from(topics.remove(&message.topic));
            }
        }
        // What had yet to be brought when the process ended is brought at QoS 1 and 2 alone.
        if message.qos == QoS::AtMostOnce {
            for session in self.sessions.values_mut().filter(|session| session.was_found) {
                for (_, topics) in &mut session.replays {
                    self.slack += u64::from(topics.remove(&message.topic));
                }
            }
        }
        // Who is still being brought others may come to this one, and be told that it has expired by then.
        if message.expires_at.is_some() {
            for session in self.sessions.values() {
                let comes = |(filter, topics): &&(Rc<str>, BTreeSet<Rc<str>>)| {
                    (session.was_found || !topics.is_empty()) && matches(filter, &message.topic)
                };
                self.slack += session.replays.iter().filter(comes).count() as u64;
            }
        }
        let batch = self.batch;
        let (written, values) = self.retained.entry(message.topic.clone()).or_default();
        let before = match *written == batch {
            true => Vec::new(),
            false => std::mem::take(values),
        };
        *written = batch;
        values.push(value);
        self.remember_retained(before);
    }

    /// What a topic retained is remembered for a while, where something is stored.
    pub(super) fn remember_retained(&mut self, values: Vec<Option<Retained>>) {
        if !self.terms.stores {
            return;
        }
        let messages = values.into_iter().flatten().map(|retained| retained.message);
        self.once_retained.extend(messages);
        let surplus = self.once_retained.len().saturating_sub(ONCE_RETAINED_MAX);
        self.once_retained.drain(..surplus);
    }

    /// Whether what a topic retains has expired, or may have.
    fn is_expired_there(&self, topic: &str) -> bool {
        let values = self.retained.get(topic).map_or(&[][..], |(_, values)| values);
        (values.iter().flatten()).any(|retained| retained.message.is_expired(self.now))
    }

    /// Whether nobody can tell if a message was taken.
    fn is_unsure(&self, message: &Message) -> bool {
        self.unsure.iter().any(|unsure| std::ptr::eq(&**unsure, message))
    }

    /// A publisher went without an answer to this, or was told that it was not taken, where that may have been for want
    /// of room.
    pub(super) fn doubt(&mut self, message: Rc<Message>) {
        if !self.terms.is_roomy {
            self.unsure.push(message);
        }
    }

    /// Whether another will was retained for the topic in this very step, so that either may be the last.
    fn is_amid_wills(&self, topic: &str) -> bool {
        self.retained
            .get(topic)
            .is_some_and(|(written, _)| *written == self.batch)
    }

    pub(super) fn forget_retained(&mut self, topic: &str) {
        if let Some((_, values)) = self.retained.remove(topic) {
            self.remember_retained(values);
        }
        for session in self.sessions.values_mut() {
            for (_, topics) in &mut session.replays {
                self.slack += u64::from(topics.remove(topic));
            }
        }
    }

    /// The end of a step: what had to follow at once has followed.
    fn settle(&mut self, cause: &Cause, stats: &Stats) -> Held {
        self.take_ahead(|_, _| true);
        for shared in &mut self.shared {
            // A member that ended in this step may have ended before.
            let is_member = |session: &Session| {
                shared
                    .groups
                    .iter()
                    .any(|group| session.groups_ever.contains(group))
            };
            shared.is_unsure |= shared.batch >= self.batch_began && self.just_ended.iter().any(is_member);
        }
        let over = |shared: &mut Shared| shared.qos == QoS::AtMostOnce;
        let (unsure, shared): (Vec<_>, Vec<_>) =
            (self.shared.extract_if(.., over)).partition(|shared| shared.is_unsure);
        self.slack += unsure.len() as u64;
        let instant = std::mem::take(&mut self.instant).into_iter();
        // Who ended in this step may have ended before.
        let (there, ended): (Vec<_>, Vec<_>) =
            instant.partition(|(number, _)| self.sessions.contains_key(number));
        self.slack += ended.len() as u64;
        let instant: Vec<_> = there.into_iter().map(|(_, owed)| owed.message).collect();
        let shared = shared.iter().map(|shared| &shared.message);
        for message in shared.chain(&instant) {
            self.lose(message);
        }
        if self.retains_nothing {
            let began = self.batch_began;
            for (written, values) in self.retained.values_mut() {
                if *written >= began {
                    values.push(None);
                }
            }
        }
        if let Cause::Stored { is_all: true } = cause {
            let owes = |link: &&Link| matches!(link.stage, Stage::In(_)) && !link.answers.is_empty();
            let owing = self.links.values().find(owes);
            hold(owing.is_none(), "P1", || {
                format!("all is stored, and answers did not come: {owing:?}")
            })?;
        }
        if let Cause::Received { link, .. } | Cause::Verified { link, .. } = cause
            && !self.terms.stores
            && let Some(known) = self.links.get(link)
            && matches!(known.stage, Stage::In(_))
        {
            hold(known.answers.is_empty(), "P1", || {
                format!("{:?} is owed and did not come", known.answers)
            })?;
        }
        if let Cause::Tick = cause {
            self.check_deadlines()?;
        }
        self.check_counts(stats)?;
        self.stats.clone_from(stats);
        self.links
            .retain(|_, link| !matches!(link.stage, Stage::Ended) || link.ended_in + 64 > self.step);
        for link in self.links.values_mut() {
            link.unanswered.remove(&0);
        }
        Ok(())
    }

    fn check_counts(&self, stats: &Stats) -> Held {
        let sessions = self.sessions.len() as u64;
        hold(stats.sessions == sessions, "S1", || {
            format!("{} sessions are told, {sessions} are there", stats.sessions)
        })?;
        let attached = self
            .sessions
            .values()
            .filter(|session| session.link.is_some())
            .count() as u64;
        hold(stats.clients_connected == attached, "T1", || {
            format!(
                "{} clients are told, {attached} are there",
                stats.clients_connected
            )
        })?;
        let filters: usize = self.sessions.values().map(|session| session.filters.len()).sum();
        hold(stats.subscriptions == filters as u64, "D1", || {
            format!(
                "{} subscriptions are told, {filters} were made",
                stats.subscriptions
            )
        })?;
        hold(stats.wills_sent == self.wills_sent, "W1", || {
            format!(
                "{} wills were sent, {} had to be",
                stats.wills_sent, self.wills_sent
            )
        })?;
        let counted = dropped(stats) + self.credit;
        hold(self.lost <= counted, "D4", || {
            format!("{} deliveries are lost, {counted} were counted", self.lost)
        })?;
        let is_cramped = stats.dropped_queue_full + stats.memory_refusals + stats.dropped_retained_full > 0;
        hold(!self.terms.is_roomy || !is_cramped, "D4", || {
            format!("there is room, and something was dropped for want of it: {stats:?}")
        })
    }

    /// When everything has been drained: nothing is owed, and what did not come was counted.
    pub fn check_final(&self) -> Held {
        let (mut lost, mut lost_expired, mut slack) = (self.lost, self.lost_expired, self.slack);
        for session in self.sessions.values() {
            let replays = session.replays.iter().flat_map(|(_, topics)| topics);
            for topic in replays {
                lost += 1;
                let retained = self
                    .retained
                    .get(topic)
                    .and_then(|(_, values)| values.last()?.as_ref());
                let may_be_missing = |message: &Message| {
                    // At QoS 0 it may have been sent before the process ended, and is not sent twice.
                    message.is_expired(self.now) || (session.was_found && message.qos == QoS::AtMostOnce)
                };
                if retained.is_none_or(|retained| may_be_missing(&retained.message)) {
                    slack += 1;
                    lost -= 1;
                }
            }
            for owed in session.owed.iter().map(|owed| &owed.message) {
                if self.is_unsure(owed) {
                    slack += 1;
                    continue;
                }
                lost += 1;
                lost_expired += u64::from(owed.is_expired(self.now));
            }
            for flight in &session.flights {
                // What was denied when its client came back is not sent again: counted like all that is dropped.
                let is_dropped = !flight.released && flight.sent_on != session.link;
                hold(is_dropped, "L1", || {
                    format!("{} was sent {flight:?} and it never ended", session.client)
                })?;
                lost += 1;
                lost_expired += u64::from(flight.owed.message.is_expired(self.now));
            }
        }
        let is_unsure = |shared: &&Shared| shared.is_unsure || self.is_unsure(&shared.message);
        let unsure = self.shared.iter().filter(is_unsure).count() as u64;
        slack += unsure;
        lost += self.shared.len() as u64 - unsure;
        let expired = self
            .shared
            .iter()
            .filter(|shared| shared.message.is_expired(self.now));
        lost_expired += expired.count() as u64;
        // What was counted before a crash may have been found before it, or not.
        let counted = dropped(&self.stats);
        hold(
            lost <= counted + self.credit && counted <= lost + slack,
            "D1",
            || {
                let owed: Vec<_> = (self.sessions.values())
                    .flat_map(|session| {
                        session
                            .owed
                            .iter()
                            .map(|owed| (session.client.clone(), owed.clone()))
                    })
                    .take(4)
                    .collect();
                format!(
                    "{} to {} deliveries did not come, {counted} were counted as dropped; owed: {owed:?}, {:?}",
                    lost,
                    lost + slack,
                    self.shared.first()
                )
            },
        )?;
        let dropped_expired = self.stats.dropped_expired;
        hold(dropped_expired <= lost_expired + slack, "D5", || {
            format!("{dropped_expired} were dropped as expired, {lost_expired} were")
        })?;
        hold(self.kicks.is_empty(), "T2", || {
            format!("nobody heard of {:?}", self.kicks)
        })
    }

    /// Whether a client of this name has a session.
    pub fn has_session(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// What the topics retain, as far as it is certain and will not expire: topic and payload.
    pub fn retained(&self) -> impl Iterator<Item = (&str, &bytes::Bytes)> {
        self.retained
            .iter()
            .filter_map(|(topic, (_, values))| match &values[..] {
                [Some(retained)] if retained.message.expires_at.is_none() => {
                    Some((&**topic, &retained.message.payload))
                }
                _ => None,
            })
    }
}

/// Retained messages that are remembered after others took their place.
const ONCE_RETAINED_MAX: usize = 64;

/// Deliveries that were dropped, by the broker's own count.
fn dropped(stats: &Stats) -> u64 {
    stats.dropped_offline
        + stats.dropped_slow
        + stats.dropped_queue_full
        + stats.dropped_expired
        + stats.dropped_too_large
        + stats.dropped_session_ended
        + stats.deliveries_denied
}

/// The shared subscription that a filter stands for, if it does, and what it asks for.
fn parts_of(filter: &Rc<str>) -> (Option<Group>, Rc<str>) {
    match filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((_, matched)) => (Some(filter.clone()), Rc::from(matched)),
        None => (None, filter.clone()),
    }
}

/// Whether `identity` may do it by the denials of the moment.
fn may(denials: &[Denial], identity: &Identity, action: Action, topic: &str) -> bool {
    *identity == Identity::Gateway
        || !denials.iter().any(|denial| {
            denial.action == action
                && denial.identity.as_ref().is_none_or(|denied| denied == identity)
                && matches(denial.topics.as_str(), topic)
        })
}

/// The messages among `outputs` that are given to be stored as taken, by the numbers of their changes.
fn taken(outputs: &[Output], given: u64) -> Vec<(u64, Box<Accepted>)> {
    let is_change = |output: &&Output| matches!(output, Output::Store(_));
    let before = given - (outputs.iter().filter(is_change).count() as u64).min(given);
    let numbered = outputs.iter().filter(is_change).zip(before + 1..);
    (numbered)
        .filter_map(|(output, number)| match output {
            Output::Store(Change::Accepted(accepted)) => Some((number, accepted.clone())),
            _ => None,
        })
        .collect()
}

/// The last change that the answer to an input rests on; 0: none.
///
/// What follows behind the answer is not waited for: the time, retained messages for a new subscription, what the room
/// is used for that an acknowledgement makes, and what a client had said behind its CONNECT.
fn rests_on(cause: &Cause, outputs: &[Output], given: u64) -> u64 {
    let changes = outputs
        .iter()
        .filter(|output| matches!(output, Output::Store(_)))
        .count() as u64;
    let packet = match cause {
        Cause::Received { packet, .. } => Some(packet),
        _ => None,
    };
    let (mut number, mut last) = (given - changes.min(given), 0);
    let mut filters = BTreeSet::new();
    for output in outputs {
        match output {
            Output::Store(change) => {
                number += 1;
                let counts = match (packet, change) {
                    // An answer may make room for others.
                    (_, Change::Clock { .. } | Change::Sent { .. }) => false,
                    // Said again it is how far its retained messages have come.
                    (Some(Packet::Subscribe(subscribe)), Change::Subscribed(subscribed)) => {
                        let mut asked = subscribe.subscriptions.iter();
                        asked.any(|asked| asked.filter == subscribed.filter)
                            && filters.insert(&subscribed.filter)
                    }
                    (_, Change::Subscribed(_)) | (Some(Packet::Subscribe(_)), _) => false,
                    (Some(Packet::PubRec(_)), change) => matches!(change, Change::Released { .. }),
                    _ => true,
                };
                if counts {
                    last = number;
                }
            }
            Output::Event(Event::ClientConnected { .. }) => break,
            _ => {}
        }
    }
    last
}

/// Whether a kick means a session.
fn means(target: &Target, session: &Session) -> bool {
    match target {
        Target::Client(client) => *client.as_str() == *session.client,
        Target::User(user) => session.identity == Identity::User(user.clone()),
        Target::Pattern(pattern) => pattern.matches(&session.client),
        Target::Everyone => true,
        Target::Address(_) | Target::Network(_) | Target::Listener(_) => true,
    }
}
