//! What outlives the process: which changes are given to be stored, and which outputs wait until they are.
//!
//! - [`change`]: the records. [`restored`]: what they come to. `image`: what they should come to at any moment.
//! - `given`: where the rest of the core gives what is to be stored. `promises`: what waits for that.
//! - `restore`: a broker that goes on where another ended. `checkpoint`: everything given again, a slice at a time.
//! - `spill`: what waits there alone, beyond what a queue holds in memory.
//!
//! **An acknowledgement is a promise.** PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK and the CONNACK of a stored session
//! are parked until every change they rest on is stored ([`super::Input::Stored`]); so are PUBLISH at QoS 2 and PUBREL
//! to a stored session, for a client that has seen them must find them again under their identifier.
//!
//! A session is stored that may outlive its connection, which is one with a Session Expiry Interval above 0; one that
//! has it no more is as long as something of it waits in the journal alone. A message is stored for the stored sessions
//! it is owed to at QoS 1 or 2, and where its topic retains it. Topics that start with `$` are the gateway's own, and
//! gone with it.

pub mod change;
mod checkpoint;
mod given;
mod image;
mod promises;
mod restore;
pub(super) mod restored;
pub(super) mod spill;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use self::change::{
    Accepted, Author, Change, Delivery, DeliveryNumber, JournalTime, MessageBody, MessageNumber,
    SessionNumber, StoredSession, StoredWill, Terms,
};
use self::checkpoint::Checkpoint;
use self::spill::{Carrying, Fresh};
use super::budget::{Account, Charge};
use super::kept::{Kept, Queued};
use super::link::LinkId;
use super::session::{Session, SessionKey};
use super::subscriptions::{Place, Subscriptions};
use super::{Broker, Now, Output};
use crate::mqtt::{PacketId, TopicFilter};

/// Whether what is given can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreHealth {
    /// It can.
    #[default]
    Ready,
    /// There is room for what ends something and for acknowledgements, and for nothing new.
    Full,
    /// Nothing can be stored. What is given is not; when it can be again, a whole checkpoint is.
    Failed,
}

/// How it stands with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreView {
    /// Whether it can be.
    pub health: StoreHealth,
    /// Changes given since the state directory was new.
    pub given: u64,
    /// Of these, stored.
    pub stored: u64,
    /// Packets that wait for that.
    pub parked: usize,
    /// What was given and is not stored yet, roughly, in bytes.
    pub pending_bytes: usize,
}

/// The part of the broker that has what is to be stored.
///
/// 1. Changes are numbered in the order they are given, from 1; `stored <= given`.
/// 2. What is parked stands in the order of the changes it waits for; none of it waits for one that is stored.
/// 3. What is sent on a link while something of it is parked is parked behind it, but for PUBLISH, which needs no
///    place among acknowledgements.
/// 4. Between two inputs no message is `accepting`.
#[derive(Debug)]
pub(super) struct Durable {
    health: StoreHealth,
    given: u64,
    stored: u64,
    /// `given` when the input of the moment came.
    given_before: u64,
    parked: VecDeque<Parked>,
    /// Links with something parked, and the last change that waits for.
    waiting: BTreeMap<LinkId, u64>,
    accepting: Option<Accepting>,
    /// Packets that wait for the change that is given next.
    holding: VecDeque<Output>,
    next_session: u64,
    next_message: u64,
    next_delivery: u64,
    /// Which checkpoint what is stored now belongs to.
    epoch: u8,
    checkpoint: Option<Checkpoint>,
    /// What must be stored before anything is said to be: the checkpoint after a failure.
    whole_again_at: Option<u64>,
    /// The end of a checkpoint that is given and not stored: what has spilled stands in two places until it is.
    ended_at: Option<u64>,
    /// What has spilled and is not stored, in the order of its changes as far as they are known.
    fresh: VecDeque<Fresh>,
    /// When the journal's clock was `since`.
    started: Instant,
    since: JournalTime,
    /// What both clocks said when that was given last; `None` where they have parted since.
    clock: Option<Now>,
    /// When the input of the moment came.
    now: Now,
    /// Changes not stored and what they cost, by the last number of each input.
    pending: VecDeque<(u64, usize)>,
    charge: Charge,
}

#[derive(Debug)]
struct Parked {
    after: u64,
    output: Output,
}

/// A message that is being taken: what will be one record.
#[derive(Debug)]
struct Accepting {
    message: Option<Kept>,
    record: Accepted,
    /// What of it has spilled.
    spilled: Vec<(SessionKey, Queued)>,
}

/// From where a delivery comes that is sent for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its message was just taken.
    New,
    /// It has waited.
    Queue,
    /// Its topic retains it, and its receiver has just subscribed here.
    Retained(Place),
}

/// What one change not yet stored costs beside the texts it has.
const CHANGE_BYTES: usize = 96;

/// What one packet costs that is parked.
const PARKED_BYTES: usize = size_of::<Parked>();

/// What may be given and not stored before who publishes is not read for a while: what a slow card writes in a second.
const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How far the clocks may part before it is told: a board sets its clock once, when it finds the time.
const CLOCKS_PART: Duration = Duration::from_secs(5);

/// How often the time is told where something is stored.
const CLOCK_TOLD_EVERY: Duration = Duration::from_secs(60);

/// The number of a message and the checkpoint its body was stored in, in one word; 0: never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(u64);

impl Stamp {
    fn new(number: u64, epoch: u8) -> Self {
        Self(number << 8 | u64::from(epoch))
    }

    pub(super) fn number(self) -> Option<MessageNumber> {
        (self.0 != 0).then_some(MessageNumber(self.0 >> 8))
    }

    fn is_of(self, epoch: u8) -> bool {
        self.0 != 0 && self.0.to_le_bytes()[0] == epoch
    }
}

impl Durable {
    pub(super) fn new(now: Now, account: &Account) -> Self {
        Self {
            health: StoreHealth::Ready,
            given: 0,
            stored: 0,
            given_before: 0,
            parked: VecDeque::new(),
            waiting: BTreeMap::new(),
            accepting: None,
            holding: VecDeque::new(),
            next_session: 1,
            next_message: 1,
            next_delivery: 1,
            epoch: 1,
            checkpoint: None,
            whole_again_at: None,
            ended_at: None,
            fresh: VecDeque::new(),
            started: now.mono,
            since: JournalTime::default(),
            clock: None,
            now,
            pending: VecDeque::new(),
            charge: Charge::new(account, 0),
        }
    }

    /// What it costs.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Whether something new can be promised.
    pub(super) fn can_promise(&self) -> bool {
        self.health == StoreHealth::Ready
    }

    /// Whether nothing can be stored.
    fn has_failed(&self) -> bool {
        self.health == StoreHealth::Failed
    }

    /// Whether what was given may be lost: the store has failed, and is not whole again.
    pub(super) fn is_unsure(&self) -> bool {
        self.whole_again_at.is_some()
    }

    /// Whether what has spilled may stand elsewhere soon, so that it is not read now.
    pub(super) fn is_moving(&self) -> bool {
        self.ended_at.is_some() || self.is_unsure()
    }

    /// Whether so much waits to be stored that publishers should wait.
    pub(super) fn is_behind(&self) -> bool {
        self.charge.bytes() > PENDING_BYTES_MAX
    }

    /// A moment of the monotonic clock on the journal's.
    pub(super) fn at(&self, instant: Instant) -> JournalTime {
        match instant.checked_duration_since(self.started) {
            Some(later) => self.since.after(later),
            None => {
                let before = self.started.saturating_duration_since(instant);
                let millis = u64::try_from(before.as_millis()).unwrap_or(u64::MAX);
                JournalTime(self.since.0.saturating_sub(millis))
            }
        }
    }

    /// The same the other way round; what the monotonic clock has no moment for is due at the start.
    pub(super) fn instant(&self, at: JournalTime) -> Instant {
        let moment = match at >= self.since {
            true => self.started.checked_add(at.since(self.since)),
            false => self.started.checked_sub(self.since.since(at)),
        };
        moment.unwrap_or(self.started)
    }

    /// A number for one more delivery.
    pub(super) fn number_delivery(&mut self) -> u64 {
        let number = self.next_delivery;
        self.next_delivery += 1;
        number
    }

    fn number_session(&mut self) -> SessionNumber {
        let number = self.next_session;
        self.next_session += 1;
        SessionNumber(number)
    }

    /// The number of a message, and whether its body has to be stored with what names it.
    ///
    /// It has been where its topic retains it still; anywhere else it may be forgotten already.
    fn stamp(&mut self, message: &Kept, is_named: bool) -> (MessageNumber, bool) {
        let stamp = message.stamp.get();
        let number = match stamp.number() {
            Some(number) => number,
            None => {
                self.next_message += 1;
                MessageNumber(self.next_message - 1)
            }
        };
        let is_there = is_named && stamp.is_of(self.epoch);
        message.stamp.set(Stamp::new(number.0, self.epoch));
        (number, !is_there)
    }

    /// Gives one change to be stored.
    pub(super) fn give(&mut self, outputs: &mut VecDeque<Output>, change: Change) {
        self.given += 1;
        if self.health == StoreHealth::Failed {
            return; // the checkpoint that ends the failure has it
        }
        let bytes = CHANGE_BYTES + change.text_bytes();
        match self.pending.back_mut() {
            Some((_, more)) if self.given_before < self.given - 1 => {
                *more += bytes;
            }
            _ => self.pending.push_back((self.given, bytes)),
        }
        if let Some((last, _)) = self.pending.back_mut() {
            *last = self.given;
        }
        self.charge.set(self.charge.bytes() + bytes);
        outputs.push_back(Output::Store(change));
    }

    /// Parks an output until all that was given so far is stored.
    fn park(&mut self, link: LinkId, output: Output) {
        let after = self.given;
        self.waiting.insert(link, after);
        self.charge.set(self.charge.bytes() + PARKED_BYTES);
        self.parked.push_back(Parked { after, output });
    }

    /// Whether the answer to the input of the moment has to wait.
    fn must_wait(&self, link: LinkId, is_stored: bool) -> bool {
        self.given > self.stored
            && (is_stored || self.given > self.given_before || self.waiting.contains_key(&link))
    }

    /// The record that is being made of `message`; of another one, that is given first.
    fn accepting(&mut self, outputs: &mut VecDeque<Output>, message: &Kept, is_named: bool) -> &mut Accepted {
        let is_other = self.accepting.as_ref().is_some_and(|accepting| {
            (accepting.message.as_ref()).is_some_and(|other| !other.is_same(message))
        });
        if is_other {
            self.finish_accepting(outputs);
        }
        if (self.accepting.as_ref()).is_none_or(|accepting| accepting.message.is_none()) {
            let (number, wants_body) = self.stamp(message, is_named);
            let body = wants_body.then(|| Box::new(self.body_of(message)));
            let accepting = self.accepting.get_or_insert_with(Accepting::default);
            accepting.message = Some(message.clone());
            accepting.record.message = number;
            accepting.record.body = body;
        }
        &mut self.accepting.get_or_insert_with(Accepting::default).record
    }

    /// Gives the record of the message that is being taken, and parks what waits for it.
    pub(super) fn finish_accepting(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(accepting) = self.accepting.take() {
            let record = accepting.record;
            let change = match (record.will_of, record.is_empty()) {
                (Some(session), true) => Some(Change::WillGone { session }),
                (None, true) => None,
                (_, false) => Some(Change::Accepted(Box::new(record))),
            };
            if let Some(change) = change {
                self.give(outputs, change);
            }
            for (key, queued) in accepting.spilled {
                self.add_fresh(self.given, key, queued);
            }
        }
        self.park_held(outputs);
    }

    fn tell_clock(&mut self, outputs: &mut VecDeque<Output>) {
        let (at, wall) = (self.at(self.now.mono), self.now.wall);
        self.clock = Some(self.now);
        self.give(outputs, Change::Clock { at, wall });
    }

    fn park_held(&mut self, outputs: &mut VecDeque<Output>) {
        while let Some(output) = self.holding.pop_front() {
            match output {
                Output::Send { link, .. } if self.given > self.stored => self.park(link, output),
                output => outputs.push_back(output),
            }
        }
    }

    pub(super) fn body_of(&self, message: &Kept) -> MessageBody {
        MessageBody {
            topic: message.topic(),
            payload: message.payload(),
            properties: message.properties().cloned().map(Box::new),
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at().map(|at| self.at(at)),
        }
    }

    fn head_of(&self, session: &Session) -> StoredSession {
        StoredSession {
            number: SessionNumber(session.number),
            client: session.client.clone(),
            identity: (*session.identity).clone(),
            groups: session.groups.clone(),
            mount_point: session.mount_point.clone(),
            peer: session.peer.as_deref().copied(),
            expiry_secs: session.expiry_secs,
            left_at: match session.link {
                Some(_) => None,
                None => Some(self.left_at(session)),
            },
            will: session.will.as_ref().map(|will| {
                Box::new(StoredWill {
                    message: self.body_of(will.message()),
                    delay: will.delay,
                    due_at: will.due.map(|due| self.at(due)),
                })
            }),
        }
    }

    /// When the client of a session left; of those that never expire nobody needs to know.
    fn left_at(&self, session: &Session) -> JournalTime {
        let expiry_millis = u64::from(session.expiry_secs) * 1000;
        let expires_at = session.expires_at.map(|at| self.at(at));
        expires_at.map_or(JournalTime::default(), |at| {
            JournalTime(at.0.saturating_sub(expiry_millis))
        })
    }

    /// A delivery of a stored session was sent for the first time.
    ///
    /// [`Durable::hold`] parks what was said of it.
    pub(super) fn note_sent(
        &mut self,
        outputs: &mut VecDeque<Output>,
        subscriptions: &Subscriptions,
        session: u64,
        (queued, packet_id): (&Queued, PacketId),
        origin: Origin,
    ) {
        match origin {
            Origin::New => self.note_new(outputs, subscriptions, session, (queued, Some(packet_id)), false),
            Origin::Retained(place) => {
                let is_named = !queued.message.is_reserved();
                let delivery = (queued, Some(packet_id));
                self.note_new(outputs, subscriptions, session, delivery, is_named);
                // These have no number of their own: they never wait.
                let record = self.accepting.as_mut().map(|accepting| &mut accepting.record);
                if let Some(delivery) = record.and_then(|record| record.deliveries.last_mut()) {
                    delivery.terms.share = filter_of(subscriptions, place);
                }
            }
            Origin::Queue if self.being_taken(queued.number).is_some() => {
                if let Some(delivery) = self.being_taken(queued.number) {
                    delivery.packet_id = Some(packet_id);
                }
            }
            Origin::Queue => {
                let change = Change::Sent {
                    session: SessionNumber(session),
                    delivery: DeliveryNumber(queued.number),
                    packet_id,
                };
                self.give(outputs, change);
                self.park_held(outputs);
            }
        }
    }

    /// A message is owed to a stored session.
    pub(super) fn note_new(
        &mut self,
        outputs: &mut VecDeque<Output>,
        subscriptions: &Subscriptions,
        session: u64,
        (queued, packet_id): (&Queued, Option<PacketId>),
        is_named: bool,
    ) {
        let delivery = Delivery {
            session: SessionNumber(session),
            number: DeliveryNumber(queued.number),
            packet_id,
            terms: terms_of(subscriptions, queued),
        };
        let record = self.accepting(outputs, &queued.message, is_named);
        record.deliveries.push(delivery);
    }

    /// The delivery that was just noted is kept in the journal alone.
    fn note_spilled(&mut self, key: SessionKey, queued: Queued) {
        let Some(mut accepting) = self.accepting.take() else {
            return;
        };
        let body = || Box::new(self.body_of(&queued.message));
        accepting.record.body.get_or_insert_with(body);
        accepting.spilled.push((key, queued));
        self.accepting = Some(accepting);
    }

    fn add_fresh(&mut self, record: u64, key: SessionKey, queued: Queued) {
        self.charge.set(self.charge.bytes() + size_of::<Fresh>());
        self.fresh.push_back(Fresh { record, key, queued });
    }

    /// What has spilled and is stored by now, one after the other.
    fn take_settled(&mut self) -> Option<Fresh> {
        let stored = self.stored;
        let fresh = self.fresh.pop_front_if(|fresh| fresh.record <= stored)?;
        self.charge.set(self.charge.bytes() - size_of::<Fresh>());
        Some(fresh)
    }

    /// The messages that are held until they are stored, and nowhere else.
    pub(super) fn fresh_messages(&self) -> impl Iterator<Item = &Kept> {
        self.fresh.iter().map(|fresh| &fresh.queued.message)
    }

    /// How the checkpoint that runs moves what has spilled, if it has come to that.
    fn carrying(&mut self) -> Option<&mut Carrying> {
        self.checkpoint.as_mut()?.carrying.as_mut()
    }

    /// A delivery has come back from the journal into the queue: a checkpoint that runs may have passed both.
    fn give_if_moving(&mut self, outputs: &mut VecDeque<Output>, message: &Kept, delivery: Delivery) {
        if self.checkpoint.is_some() {
            self.give_message(outputs, message, vec![delivery], None, &mut 0);
        }
    }

    /// A delivery of a stored session has ended without being sent.
    fn note_dropped(&mut self, outputs: &mut VecDeque<Output>, session: u64, number: u64) {
        if self.being_taken(number).is_some()
            && let Some(accepting) = &mut self.accepting
        {
            // It made room for another delivery of its own message.
            (accepting.record.deliveries).retain(|delivery| delivery.number.0 != number);
            return;
        }
        let change = Change::Dropped {
            session: SessionNumber(session),
            delivery: DeliveryNumber(number),
        };
        self.give(outputs, change);
    }

    /// The delivery of this number, where its message is just being taken.
    fn being_taken(&mut self, number: u64) -> Option<&mut Delivery> {
        let record = &mut self.accepting.as_mut()?.record;
        record
            .deliveries
            .iter_mut()
            .find(|delivery| delivery.number.0 == number)
    }

    /// Where packets go that must not be seen before what is given next is stored.
    pub(super) fn hold(&mut self) -> &mut VecDeque<Output> {
        &mut self.holding
    }

    /// A topic retains a message.
    pub(super) fn note_retained(&mut self, outputs: &mut VecDeque<Output>, message: &Kept, by: Author) {
        if !message.is_reserved() {
            self.accepting(outputs, message, false).retained_by = Some(by);
        }
    }

    /// A QoS 2 message came from a stored session by this identifier.
    pub(super) fn note_received(&mut self, session: u64, packet_id: PacketId) {
        let accepting = self.accepting.get_or_insert_with(Accepting::default);
        accepting.record.received = Some((SessionNumber(session), packet_id));
    }

    /// The message that is sent next is the will of a stored session.
    pub(super) fn note_will_sent(&mut self, session: u64) {
        let accepting = self.accepting.get_or_insert_with(Accepting::default);
        accepting.record.will_of = Some(SessionNumber(session));
    }
}

impl Change {
    /// The bytes of the texts it has, roughly.
    fn text_bytes(&self) -> usize {
        let body = |body: &MessageBody| body.topic.as_str().len() + body.payload.len();
        match self {
            Self::Accepted(accepted) => {
                accepted.body.as_deref().map_or(0, body) + accepted.deliveries.len() * size_of::<Delivery>()
            }
            Self::Session(head) => {
                head.client.as_str().len() + head.will.as_ref().map_or(0, |will| body(&will.message))
            }
            Self::Subscribed(subscription) => subscription.filter.as_str().len(),
            Self::Unfinished(unfinished) => unfinished.sent.len() * size_of::<Delivery>(),
            _ => 0,
        }
    }
}

/// Under which terms a message is delivered.
fn terms_of(subscriptions: &Subscriptions, queued: &Queued) -> Terms {
    Terms {
        qos: queued.qos,
        retain: queued.retain,
        is_firm: queued.is_firm,
        subscription_ids: queued.subscription_ids.as_slice().to_vec(),
        share: queued.group.and_then(|group| subscriptions.group_filter(group)),
    }
}

/// The topic filter of a place, as one.
pub(super) fn filter_of(subscriptions: &Subscriptions, place: Place) -> Option<TopicFilter> {
    TopicFilter::try_from(subscriptions.filter_text(place).as_str()).ok()
}

impl Default for Accepting {
    fn default() -> Self {
        Self {
            message: None,
            record: Accepted {
                message: MessageNumber(0),
                body: None,
                deliveries: Vec::new(),
                retained_by: None,
                received: None,
                will_of: None,
            },
            spilled: Vec::new(),
        }
    }
}

impl Accepted {
    /// Whether nothing follows from it but that a will is sent.
    fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.retained_by.is_none() && self.received.is_none()
    }
}

impl Broker {
    /// The same broker with a store: what has to outlive it is given as [`Output::Store`], and what is promised waits
    /// until [`super::Input::Stored`] says that it is stored.
    pub fn with_store(mut self, now: Now) -> Self {
        self.retained.note_what_goes();
        self.durable = Some(Box::new(Durable::new(now, &self.budget.account)));
        self
    }

    /// How it stands with what is stored; `None` where nothing is.
    pub fn store(&self) -> Option<StoreView> {
        let durable = self.durable.as_deref()?;
        Some(StoreView {
            health: durable.health,
            given: durable.given,
            stored: durable.stored,
            parked: durable.parked.len(),
            pending_bytes: durable.charge.bytes(),
        })
    }

    /// What is kept that a checkpoint would give again, roughly, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        let stats = &self.stats;
        let places = stats.sessions + stats.subscriptions;
        let bytes = stats.queued_bytes + stats.spilled_bytes + stats.retained_bytes + stats.wills_bytes;
        bytes + (places + stats.spilled_messages) * CHANGE_BYTES as u64
    }

    /// Whether somebody waits for what was given to be stored; otherwise it may take its time.
    pub fn waits_for_store(&self) -> bool {
        (self.durable.as_ref()).is_some_and(|durable| !durable.parked.is_empty())
    }

    /// An input is about to be taken.
    #[inline(never)]
    pub(super) fn begin_input(&mut self, now: Now) {
        let Some(durable) = &mut self.durable else { return };
        durable.given_before = durable.given;
        if let Some(told) = durable.clock
            && let Some(later) = now.mono.checked_duration_since(told.mono)
        {
            let expected = told.wall.checked_add(later);
            let parted = expected.map(|expected| match now.wall.duration_since(expected) {
                Ok(ahead) => ahead,
                Err(behind) => behind.duration(),
            });
            if parted.is_some_and(|parted| parted > CLOCKS_PART) {
                durable.clock = None;
            }
        }
        durable.now = now;
    }

    /// Gives what the input of the moment has done so far, as far as that was put off.
    pub(super) fn settle(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        durable.finish_accepting(&mut self.outputs);
        for topic in self.retained.take_gone() {
            if self.retained.get(&topic).is_none() {
                durable.give(&mut self.outputs, Change::Unretained { topic });
            }
        }
    }

    /// An input was taken: nothing is left half given.
    #[inline(never)]
    pub(super) fn end_input(&mut self) {
        self.settle();
        let Some(durable) = &mut self.durable else { return };
        let is_old = durable
            .clock
            .is_none_or(|told| durable.now.mono.saturating_duration_since(told.mono) >= CLOCK_TOLD_EVERY);
        if durable.given > durable.given_before && is_old {
            durable.tell_clock(&mut self.outputs);
        }
    }
}
