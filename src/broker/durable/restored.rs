//! What was stored, put together again from its records.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::SystemTime;

use super::change::{
    Accepted, Author, Change, Delivery, DeliveryNumber, JournalTime, MessageBody, MessageNumber, Owed,
    SessionNumber, StoredSession, StoredSubscription, Terms, Unfinished, UnfinishedDelivery,
};
use crate::broker::bans::BanSubject;
use crate::mqtt::{PacketId, TopicFilter, TopicName};

/// Everything that was stored, as far as its records have been [applied](Restored::apply).
///
/// 1. A record whose key is not known changes nothing; the same record twice is as good as once.
/// 2. `messages` has what a delivery or a topic still names, and while a checkpoint is being given what one named.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    pub(super) clock: Option<(JournalTime, SystemTime)>,
    pub(super) sessions: BTreeMap<SessionNumber, RestoredSession>,
    pub(super) messages: BTreeMap<MessageNumber, RestoredMessage>,
    pub(super) retained: BTreeMap<TopicName, (MessageNumber, Author)>,
    pub(super) bans: BTreeMap<BanSubject, Option<JournalTime>>,
    /// The highest number there ever was of a session, a message and a delivery.
    pub(super) highest: (u64, u64, u64),
    /// What has been given since a checkpoint began: all there is, as soon as that ends.
    again: Option<Box<Restored>>,
    /// Whether a checkpoint has begun and not ended: what nobody names may be named yet.
    in_checkpoint: bool,
    /// The number of the record that is applied; 0: not known.
    record: u64,
    /// The number of the last one that had any.
    last: u64,
    /// Whether changes are missing in between: damaged, or made while nothing could be stored.
    has_gaps: bool,
    /// Whether what waits far back is only known by where it stands.
    is_sparing: bool,
    /// Terms that came lately: mostly they come again.
    recent_terms: VecDeque<Rc<Terms>>,
    /// Messages that nobody names.
    unnamed: BTreeSet<MessageNumber>,
    /// Of an image: what it knows of what has spilled.
    pub(super) elsewhere: BTreeMap<SessionNumber, Elsewhere>,
}

/// What one session has spilled, as far as it is known without reading it.
#[derive(Debug, Clone, Default)]
pub(super) struct Elsewhere {
    pub(super) count: usize,
    /// Stretches of deliveries, with the first and the last of each.
    pub(super) deliveries: Vec<(u64, u64)>,
}

/// One session with all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RestoredSession {
    pub(super) head: StoredSession,
    pub(super) subscriptions: BTreeMap<TopicFilter, StoredSubscription>,
    pub(super) queue: BTreeMap<DeliveryNumber, (MessageNumber, Rc<Terms>, Standing)>,
    pub(super) sent: Vec<UnfinishedDelivery>,
    pub(super) receiving: BTreeSet<PacketId>,
    pub(super) gaps: Gaps,
}

/// Deliveries that wait no more, though one before them does: one of those between the same two that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Gaps(BTreeSet<DeliveryNumber>);

impl PartialEq for Gaps {
    fn eq(&self, _: &Self) -> bool {
        true // what was is nothing of what is
    }
}

impl Gaps {
    /// Whether something that waits no more came between the two.
    pub(super) fn part(&self, first: DeliveryNumber, second: DeliveryNumber) -> bool {
        self.0.range(first..second).next().is_some()
    }
}

/// A message and how many deliveries and topics name it.
#[derive(Debug, Clone)]
pub(super) struct RestoredMessage {
    /// `None` where it is left where it stands.
    pub(super) body: Option<Box<MessageBody>>,
    /// What it counts against limits.
    pub(super) size_bytes: usize,
    pub(super) standing: Standing,
    names: usize,
}

/// Deliveries of one session whose messages are kept at hand; what is behind them is left where it stands.
const AT_HAND: usize = 64;

/// Terms that are compared with those that come.
const RECENT_TERMS: usize = 8;

/// In which record something stands; says where, not what.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing(pub(super) u64);

impl PartialEq for Standing {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Restored {
    /// One that leaves the messages that wait far back where they stand, so that it needs little memory however many
    /// there are; what is [wanted](Self::wanted) after the last record has to be read once more.
    pub fn sparing() -> Self {
        Self {
            is_sparing: true,
            ..Self::default()
        }
    }

    /// The changes that have to be read once more and [given](Self::supply), after the last record: messages that were
    /// left where they stand and are needed at hand.
    pub fn wanted(&self) -> Vec<u64> {
        let of_missing = |number: &MessageNumber| {
            let message = self.messages.get(number)?;
            message.body.is_none().then_some(message.standing.0)
        };
        let mut wanted = BTreeSet::new();
        for session in self.sessions.values() {
            let sent = session.sent.iter().filter_map(|sent| sent.message.as_ref());
            wanted.extend(sent.filter_map(|(message, _)| of_missing(message)));
            // What does not stand together, delivery and message, cannot be read again later, and all before it is
            // sent before it.
            let is_apart = |(message, _, standing): &(MessageNumber, Rc<Terms>, Standing)| {
                let message = self.messages.get(message);
                message.is_some_and(|message| message.standing.0 != standing.0)
            };
            let behind = session
                .queue
                .values()
                .rev()
                .skip_while(|waiting| !is_apart(waiting));
            wanted.extend(behind.filter_map(|(message, ..)| of_missing(message)));
        }
        wanted.into_iter().collect()
    }

    /// Takes a message again that was [wanted](Self::wanted).
    pub fn supply(&mut self, accepted: Accepted) {
        if let Some(message) = self.messages.get_mut(&accepted.message) {
            message.body = accepted.body.or(message.body.take());
        }
    }

    /// Takes the next record, the change of this number: by it what waits can be read again.
    pub fn apply_numbered(&mut self, number: u64, change: Change) {
        self.come_to(number);
        if let Some(again) = &mut self.again {
            again.come_to(number);
        }
        self.apply(change);
        self.record = 0;
        if let Some(again) = &mut self.again {
            again.record = 0;
        }
    }

    fn come_to(&mut self, number: u64) {
        self.has_gaps |= self.last != 0 && number > self.last.saturating_add(1);
        self.last = number;
        self.record = number;
    }

    /// Takes the next record, where nobody reads it again.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::CheckpointBegun => return self.begin_again(),
            Change::CheckpointEnded => return self.end_again(),
            _ => {}
        }
        if let Some(again) = &mut self.again {
            again.apply_one(change.clone());
        }
        self.apply_one(change);
    }

    /// There is no record to come: a checkpoint that has not ended never was.
    pub fn finish(&mut self) {
        self.again = None;
        self.in_checkpoint = false;
        self.tidy();
    }

    fn begin_again(&mut self) {
        let is_empty = self.sessions.is_empty()
            && self.messages.is_empty()
            && self.retained.is_empty()
            && self.bans.is_empty();
        self.in_checkpoint = true;
        if !is_empty {
            self.again = Some(Box::new(Self {
                in_checkpoint: true,
                highest: self.highest,
                clock: self.clock,
                is_sparing: self.is_sparing,
                ..Self::default()
            }));
        }
    }

    /// What was not given again since the checkpoint began is gone: so much may have ended while nothing was stored.
    fn end_again(&mut self) {
        if let Some(again) = self.again.take() {
            *self = *again;
        }
        self.in_checkpoint = false;
        self.tidy();
    }

    fn apply_one(&mut self, change: Change) {
        match change {
            Change::Clock { at, wall } => self.clock = Some((at, wall)),
            Change::Session(head) => self.apply_session(*head),
            Change::SessionEnded { session } => self.end_session(session),
            Change::Subscribed(subscription) => {
                if let Some(session) = self.sessions.get_mut(&subscription.session) {
                    let filter = subscription.filter.clone();
                    session.subscriptions.insert(filter, *subscription);
                }
            }
            Change::Unsubscribed { session, filter } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.subscriptions.remove(&filter);
                }
            }
            Change::Accepted(accepted) => self.apply_accepted(*accepted),
            Change::Sent {
                session,
                delivery,
                packet_id,
            } => {
                if let Some(session) = self.sessions.get_mut(&session)
                    && let Some((message, terms, _)) = session.end_waiting(delivery)
                {
                    let before = session.send(packet_id, (message, Terms::clone(&terms)));
                    self.unname_replaced(before);
                }
            }
            Change::Released { session, packet_id } => {
                let sent = self.sent_by(session, packet_id);
                if let Some(message) = sent.and_then(|sent| sent.message.take()) {
                    self.unname(message.0);
                }
            }
            Change::Finished { session, packet_id } => self.end_delivery(session, packet_id),
            Change::Dropped { session, delivery } => {
                let session = self.sessions.get_mut(&session);
                if let Some((message, ..)) = session.and_then(|session| session.end_waiting(delivery)) {
                    self.unname(message);
                }
            }
            Change::Forgotten { session, packet_id } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.receiving.remove(&packet_id);
                }
            }
            Change::Unfinished(unfinished) => self.apply_unfinished(*unfinished),
            Change::WillGone { session } => self.forget_will(session),
            Change::Unretained { topic } => {
                if let Some((message, _)) = self.retained.remove(&topic) {
                    self.unname(message);
                }
            }
            Change::Banned { subject, until } => _ = self.bans.insert(subject, until),
            Change::Unbanned { subject } => _ = self.bans.remove(&subject),
            Change::CheckpointBegun | Change::CheckpointEnded => {}
        }
    }

    /// Forgets messages that nobody names.
    pub(super) fn tidy(&mut self) {
        for number in std::mem::take(&mut self.unnamed) {
            if self
                .messages
                .get(&number)
                .is_some_and(|message| message.names == 0)
            {
                self.messages.remove(&number);
            }
        }
    }

    /// What the board's clock showed when that was stored last.
    pub fn told_at(&self) -> Option<SystemTime> {
        self.clock.map(|(_, wall)| wall)
    }

    /// How many sessions, messages and retained messages there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.messages.len(), self.retained.len())
    }

    fn apply_session(&mut self, head: StoredSession) {
        self.highest.0 = self.highest.0.max(head.number.0);
        match self.sessions.get_mut(&head.number) {
            Some(session) => session.head = head,
            None => {
                // The one its client had before has ended, though the record of it may be damaged, or never have been.
                let is_its = |session: &RestoredSession| session.head.client == head.client;
                let mut known = self.sessions.iter();
                if (self.has_gaps || self.again.is_some())
                    && let Some((&before, _)) = known.find(|(_, session)| is_its(session))
                {
                    self.end_session(before);
                }
                let session = RestoredSession {
                    subscriptions: BTreeMap::new(),
                    queue: BTreeMap::new(),
                    sent: Vec::new(),
                    receiving: BTreeSet::new(),
                    gaps: Gaps::default(),
                    head,
                };
                self.sessions.insert(session.head.number, session);
            }
        }
    }

    fn end_session(&mut self, number: SessionNumber) {
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        for (message, ..) in session.queue.into_values() {
            self.unname(message);
        }
        for (message, _) in session.sent.into_iter().filter_map(|sent| sent.message) {
            self.unname(message);
        }
    }

    fn apply_accepted(&mut self, accepted: Accepted) {
        let Accepted {
            message,
            body,
            deliveries,
            retained_by,
            received,
            will_of,
        } = accepted;
        self.highest.1 = self.highest.1.max(message.0);
        let standing = Standing(self.record);
        // Only checkpoints give a message before what names it: the record that began this one may be damaged.
        self.in_checkpoint |= body.is_some()
            && deliveries.is_empty()
            && retained_by.is_none()
            && received.is_none()
            && will_of.is_none();
        if let Some(body) = body {
            let size_bytes = body.size_bytes();
            let is_left = retained_by.is_none() && self.is_far(&deliveries);
            let body = Some(body).filter(|_| !is_left);
            match self.messages.entry(message) {
                Entry::Occupied(known) => {
                    let known = known.into_mut();
                    known.standing = standing;
                    known.body = known.body.take().or(body);
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(RestoredMessage {
                        body,
                        size_bytes,
                        standing,
                        names: 0,
                    });
                    self.unnamed.insert(message);
                }
            }
        }
        if let Some((session, packet_id)) = received
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.receiving.insert(packet_id);
        }
        if let Some(session) = will_of {
            self.forget_will(session);
        }
        for mut delivery in deliveries {
            self.highest.2 = self.highest.2.max(delivery.number.0);
            if !self.messages.contains_key(&message) {
                continue; // the record that had it is damaged
            }
            let is_new = |filter: &mut TopicFilter| filter.share().is_none();
            let new = delivery.terms.share.take_if(is_new);
            let topic = new.as_ref().and_then(|_| self.topic_of(message));
            let terms = match delivery.packet_id {
                None => self.shared(delivery.terms.clone()),
                Some(_) => Rc::default(),
            };
            let Some(session) = self.sessions.get_mut(&delivery.session) else {
                continue;
            };
            if let Some(filter) = new
                && let Some(subscription) = session.subscriptions.get_mut(&filter)
                && subscription.owed != Owed::Nothing
            {
                subscription.owed = Owed::After(topic);
            }
            let before = match delivery.packet_id {
                None => {
                    let waiting = (message, terms, standing);
                    let before = session.queue.insert(delivery.number, waiting);
                    before.map(|(message, ..)| message)
                }
                Some(packet_id) => {
                    let before = session.send(packet_id, (message, delivery.terms));
                    before.map(|(message, _)| message)
                }
            };
            self.name(message);
            if let Some(before) = before {
                self.unname(before);
            }
        }
        if let Some(author) = retained_by
            && let Some(topic) = self.topic_of(message)
        {
            self.name(message);
            if let Some((before, _)) = self.retained.insert(topic, (message, author)) {
                self.unname(before);
            }
        }
        if !self.in_checkpoint {
            self.tidy();
        }
    }

    fn apply_unfinished(&mut self, unfinished: Unfinished) {
        let Unfinished {
            session,
            sent,
            receiving,
        } = unfinished;
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        known.receiving = receiving.into_iter().collect();
        let before = std::mem::take(&mut known.sent);
        let messages = &self.messages;
        let mut sent = sent;
        // What a damaged record had cannot be sent again.
        sent.retain(|sent| (sent.message.as_ref()).is_none_or(|(message, _)| messages.contains_key(message)));
        let named: Vec<_> = (sent.iter())
            .filter_map(|sent| Some(sent.message.as_ref()?.0))
            .collect();
        known.sent = sent;
        for message in named {
            self.name(message);
        }
        for (message, _) in before.into_iter().filter_map(|sent| sent.message) {
            self.unname(message);
        }
    }

    fn end_delivery(&mut self, session: SessionNumber, packet_id: PacketId) {
        let Some(session) = self.sessions.get_mut(&session) else {
            return;
        };
        let Some(index) = session.sent.iter().position(|sent| sent.packet_id == packet_id) else {
            return;
        };
        if let Some((message, _)) = session.sent.remove(index).message {
            self.unname(message);
        }
    }

    fn sent_by(&mut self, session: SessionNumber, packet_id: PacketId) -> Option<&mut UnfinishedDelivery> {
        let session = self.sessions.get_mut(&session)?;
        session.sent.iter_mut().find(|sent| sent.packet_id == packet_id)
    }

    fn forget_will(&mut self, session: SessionNumber) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.head.will = None;
        }
    }

    /// Adds a message that something names, unless it is there; the one more name is counted.
    pub(super) fn add_named(&mut self, number: MessageNumber, body: impl FnOnce() -> MessageBody) {
        let message = self.messages.entry(number).or_insert_with(|| RestoredMessage {
            body: Some(Box::new(body())),
            size_bytes: 0,
            standing: Standing::default(),
            names: 0,
        });
        message.names += 1;
    }

    /// Whether a message waits far back wherever it is owed.
    fn is_far(&self, deliveries: &[Delivery]) -> bool {
        let is_far = |delivery: &Delivery| {
            let session = self.sessions.get(&delivery.session);
            delivery.packet_id.is_none() && session.is_none_or(|session| session.queue.len() >= AT_HAND)
        };
        self.is_sparing && self.record != 0 && !deliveries.is_empty() && deliveries.iter().all(is_far)
    }

    /// The same terms, in one place where they came lately.
    fn shared(&mut self, terms: Terms) -> Rc<Terms> {
        if let Some(known) = self.recent_terms.iter().find(|known| ***known == terms) {
            return known.clone();
        }
        let terms = Rc::new(terms);
        self.recent_terms.truncate(RECENT_TERMS - 1);
        self.recent_terms.push_front(terms.clone());
        terms
    }

    fn topic_of(&self, message: MessageNumber) -> Option<TopicName> {
        let body = self.messages.get(&message)?.body.as_ref()?;
        Some(body.topic.clone())
    }

    /// Takes away of a session what has spilled; whether it is as much as is known.
    pub(super) fn takes_away(&mut self, session: SessionNumber, elsewhere: &Elsewhere) -> bool {
        let Some(known) = self.sessions.get_mut(&session) else {
            return false;
        };
        let is_there = |delivery: &DeliveryNumber| {
            let mut stretches = elsewhere.deliveries.iter();
            stretches.any(|(first, last)| (*first..=*last).contains(&delivery.0))
        };
        let taken: Vec<_> = known
            .queue
            .extract_if(.., |delivery, _| is_there(delivery))
            .collect();
        for (_, (message, ..)) in &taken {
            self.unname(*message);
        }
        taken.len() == elsewhere.count
    }

    fn name(&mut self, message: MessageNumber) {
        if let Some(message) = self.messages.get_mut(&message) {
            message.names += 1;
        }
    }

    fn unname_replaced(&mut self, named: Option<(MessageNumber, Terms)>) {
        if let Some((number, _)) = named {
            self.unname(number);
        }
    }

    fn unname(&mut self, number: MessageNumber) {
        let Some(message) = self.messages.get_mut(&number) else {
            return;
        };
        message.names = message.names.saturating_sub(1);
        if message.names > 0 {
            return;
        }
        match self.in_checkpoint {
            true => _ = self.unnamed.insert(number),
            false => _ = self.messages.remove(&number),
        }
    }
}

impl RestoredSession {
    /// A delivery waits no more.
    fn end_waiting(&mut self, delivery: DeliveryNumber) -> Option<(MessageNumber, Rc<Terms>, Standing)> {
        let ended = self.queue.remove(&delivery)?;
        if let Some((&before, _)) = self.queue.range(..delivery).next_back() {
            let after = self.queue.range(delivery..).next().map(|(number, _)| *number);
            let is_told = match after {
                Some(after) => self.gaps.part(before, after),
                None => self.gaps.0.range(before..).next().is_some(),
            };
            if !is_told {
                self.gaps.0.insert(delivery);
            }
        }
        Some(ended)
    }

    /// What is sent by an identifier takes the place of what had it, whose end was not recorded; that is given back.
    fn send(
        &mut self,
        packet_id: PacketId,
        message: (MessageNumber, Terms),
    ) -> Option<(MessageNumber, Terms)> {
        let known = self.sent.iter().position(|sent| sent.packet_id == packet_id);
        let before = known.and_then(|index| self.sent.remove(index).message);
        let message = Some(message);
        self.sent.push(UnfinishedDelivery { packet_id, message });
        before
    }
}

/// The clock apart: it says when, not what.
impl PartialEq for Restored {
    fn eq(&self, other: &Self) -> bool {
        self.sessions == other.sessions
            && self.messages == other.messages
            && self.retained == other.retained
            && self.bans == other.bans
    }
}

/// Where it stands apart: that says where, not what.
impl PartialEq for RestoredMessage {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.names == other.names
    }
}
