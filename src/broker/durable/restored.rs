//! What was stored, put together again from its records.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::change::{
    Accepted, Author, Change, DeliveryNumber, JournalTime, MessageBody, MessageNumber, SessionNumber,
    StoredSession, StoredSubscription, Terms, Unfinished, UnfinishedDelivery,
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
    /// Messages that nobody names.
    unnamed: BTreeSet<MessageNumber>,
}

/// One session with all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RestoredSession {
    pub(super) head: StoredSession,
    pub(super) subscriptions: BTreeMap<TopicFilter, StoredSubscription>,
    pub(super) queue: BTreeMap<DeliveryNumber, (MessageNumber, Terms)>,
    pub(super) sent: Vec<UnfinishedDelivery>,
    pub(super) receiving: BTreeSet<PacketId>,
}

/// A message and how many deliveries and topics name it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RestoredMessage {
    pub(super) body: MessageBody,
    names: usize,
}

impl Restored {
    /// Takes the next record.
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
                    && let Some(message) = session.queue.remove(&delivery)
                {
                    let before = session.send(packet_id, message);
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
                if let Some((message, _)) = session.and_then(|session| session.queue.remove(&delivery)) {
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
                // The one its client had before may have ended while nothing was stored.
                let is_its = |session: &RestoredSession| session.head.client == head.client;
                let mut known = self.sessions.iter();
                if self.again.is_some()
                    && let Some((&before, _)) = known.find(|(_, session)| is_its(session))
                {
                    self.end_session(before);
                }
                let session = RestoredSession {
                    subscriptions: BTreeMap::new(),
                    queue: BTreeMap::new(),
                    sent: Vec::new(),
                    receiving: BTreeSet::new(),
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
        for (message, _) in session.queue.into_values() {
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
        if let Some(body) = body
            && let Entry::Vacant(vacant) = self.messages.entry(message)
        {
            let body = *body;
            vacant.insert(RestoredMessage { body, names: 0 });
            self.unnamed.insert(message);
        }
        if let Some((session, packet_id)) = received
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.receiving.insert(packet_id);
        }
        if let Some(session) = will_of {
            self.forget_will(session);
        }
        for delivery in deliveries {
            self.highest.2 = self.highest.2.max(delivery.number.0);
            if !self.messages.contains_key(&message) {
                continue; // the record that had it is damaged
            }
            let Some(session) = self.sessions.get_mut(&delivery.session) else {
                continue;
            };
            let before = match delivery.packet_id {
                None => session.queue.insert(delivery.number, (message, delivery.terms)),
                Some(packet_id) => session.send(packet_id, (message, delivery.terms)),
            };
            self.name(message);
            self.unname_replaced(before);
        }
        if let Some(author) = retained_by
            && let Some(topic) = self.messages.get(&message).map(|known| known.body.topic.clone())
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
            body: body(),
            names: 0,
        });
        message.names += 1;
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
