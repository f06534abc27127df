//! Everything given again, a slice at a time: what came before the checkpoint began may then be forgotten.
//!
//! Between two slices life goes on, and its changes are given like always; so a checkpoint is no picture of one moment.
//! It need not be: whoever puts the records together from where it began comes to what is there now. For each session
//! first its head and subscriptions are given, then what waits, then what was sent: a delivery that is sent while its
//! turn to be given has not come is among the last, and one that was taken since the head was given was given then.
//! What has spilled comes when all heads have been given: it is read and given again, message by message.

use std::collections::VecDeque;

use super::change::{
    Accepted, Author, Change, Delivery, DeliveryNumber, MessageNumber, Owed, SessionNumber,
    StoredSubscription, Unfinished, UnfinishedDelivery,
};
use super::spill::Carrying;
use super::{Durable, Stamp, StoreHealth, filter_of, terms_of};
use crate::broker::inflight::Stage;
use crate::broker::kept::Kept;
use crate::broker::session::{Session, SessionKey};
use crate::broker::subscriptions::{Place, Subscriptions};
use crate::broker::{Broker, Output};
use crate::mqtt::{QoS, TopicName};

/// How far a checkpoint has come.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// Stored sessions whose turn has not come, the next one last.
    sessions: Vec<SessionKey>,
    /// The deliveries of the last of these up to this one have been given, and all that comes before them.
    given_upto: Option<u64>,
    /// The first delivery that was taken since the head of that session was given, and was not ignored then.
    first_new: u64,
    /// Retained messages up to this topic have been given.
    topic: Option<TopicName>,
    /// How far what has spilled was moved; `None` while its turn has not come.
    pub(super) carrying: Option<Carrying>,
}

/// Bytes of records given in one slice, roughly: what a slow card writes in a tenth of a second.
const SLICE_BYTES: usize = 64 * 1024;

impl Broker {
    /// Begins to give everything again, where that is not being done already.
    pub(in crate::broker) fn begin_checkpoint(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let is_running = durable.checkpoint.is_some() || durable.ended_at.is_some();
        if is_running || durable.health == StoreHealth::Failed {
            return;
        }
        durable.epoch = durable.epoch.wrapping_add(1);
        durable.give(&mut self.outputs, Change::CheckpointBegun);
        durable.tell_clock(&mut self.outputs);
        for ban in self.bans.iter() {
            let until = ban.until.map(|until| durable.at(until));
            let subject = ban.subject.clone();
            durable.give(&mut self.outputs, Change::Banned { subject, until });
        }
        let stored = (self.sessions.iter()).filter(|(_, session)| session.number != 0);
        let mut sessions: Vec<_> = stored.map(|(key, session)| (session.number, key)).collect();
        sessions.sort_unstable_by(|one, other| other.cmp(one));
        durable.checkpoint = Some(Checkpoint {
            sessions: sessions.into_iter().map(|(_, key)| key).collect(),
            given_upto: None,
            first_new: 0,
            topic: None,
            carrying: None,
        });
        self.go_on_with_checkpoint();
    }

    /// Gives the next slice of a checkpoint that has begun.
    pub(super) fn go_on_with_checkpoint(&mut self) {
        let Some(durable) = self.durable.as_deref_mut() else {
            return;
        };
        let Some(mut checkpoint) = durable.checkpoint.take() else {
            return;
        };
        let outputs = &mut self.outputs;
        durable.finish_accepting(outputs);
        let mut left_bytes = SLICE_BYTES;
        while let Some(&key) = checkpoint.sessions.last() {
            if left_bytes == 0 {
                durable.checkpoint = Some(checkpoint);
                return;
            }
            let session = self.sessions.get(key).filter(|session| session.number != 0);
            let is_done = session.is_none_or(|session| {
                let tree = &self.subscriptions;
                durable.give_session(outputs, tree, key, session, &mut checkpoint, &mut left_bytes)
            });
            if is_done {
                checkpoint.sessions.pop();
                checkpoint.given_upto = None;
            }
        }
        while let Some((message, by)) = self.retained.next_after(checkpoint.topic.as_ref()) {
            if left_bytes == 0 {
                durable.checkpoint = Some(checkpoint);
                return;
            }
            checkpoint.topic = Some(message.topic());
            if !message.is_reserved() {
                let message = message.clone();
                let author = by.stored();
                durable.give_message(outputs, &message, Vec::new(), Some(author), &mut left_bytes);
            }
        }
        self.go_on_carrying(checkpoint);
    }

    /// Everything is given but for what has spilled.
    fn go_on_carrying(&mut self, mut checkpoint: Checkpoint) {
        let mut carrying = match checkpoint.carrying.take() {
            Some(carrying) => carrying,
            None => self.begin_carrying(),
        };
        let Some(durable) = self.durable.as_deref_mut() else {
            return;
        };
        if let Some(recall) = carrying.next() {
            self.outputs.push_back(Output::Recall(recall));
        }
        if !carrying.is_done() {
            checkpoint.carrying = Some(carrying);
            durable.checkpoint = Some(checkpoint);
            return;
        }
        durable.give(&mut self.outputs, Change::CheckpointEnded);
        durable.ended_at = Some(durable.given);
        if durable.whole_again_at.is_some() {
            durable.whole_again_at = Some(durable.given);
        }
    }
}

impl Durable {
    /// Gives what is left of a session, as far as a slice goes; whether that is all of it.
    fn give_session(
        &mut self,
        outputs: &mut VecDeque<Output>,
        tree: &Subscriptions,
        key: SessionKey,
        session: &Session,
        checkpoint: &mut Checkpoint,
        left_bytes: &mut usize,
    ) -> bool {
        let number = SessionNumber(session.number);
        if checkpoint.given_upto.is_none() {
            let head = self.head_of(session);
            checkpoint.first_new = self.next_delivery;
            self.give_counted(outputs, Change::Session(Box::new(head)), left_bytes);
            for &place in &session.places {
                if let Some(change) = subscribed(tree, key, session, place) {
                    self.give_counted(outputs, change, left_bytes);
                }
            }
            self.give_fresh(outputs, tree, key, number, left_bytes);
        }
        let upto = checkpoint.given_upto.unwrap_or(0);
        checkpoint.given_upto = Some(upto);
        for queued in session.queue.iter().skip_while(|queued| queued.number <= upto) {
            if queued.number >= checkpoint.first_new {
                break;
            }
            if *left_bytes == 0 {
                return false;
            }
            let delivery = Delivery {
                session: number,
                number: DeliveryNumber(queued.number),
                packet_id: None,
                terms: terms_of(tree, queued),
            };
            self.give_message(outputs, &queued.message, vec![delivery], None, left_bytes);
            checkpoint.given_upto = Some(queued.number);
        }
        // In one record: the order in which they were sent is that of the list.
        let mut sent = Vec::with_capacity(session.inflight.len());
        for entry in session.inflight.iter() {
            let message = match &entry.stage {
                Stage::Released => None,
                Stage::Published(queued) => {
                    let message = self.give_body(outputs, &queued.message, left_bytes);
                    Some((message, terms_of(tree, queued)))
                }
            };
            let packet_id = entry.packet_id;
            sent.push(UnfinishedDelivery { packet_id, message });
        }
        let unfinished = Unfinished {
            session: number,
            sent,
            receiving: session.receiving.iter().collect(),
        };
        if !unfinished.sent.is_empty() || !unfinished.receiving.is_empty() {
            self.give_counted(outputs, Change::Unfinished(Box::new(unfinished)), left_bytes);
        }
        true
    }

    /// Gives again what of a session has spilled and is not stored: it cannot be read yet.
    fn give_fresh(
        &mut self,
        outputs: &mut VecDeque<Output>,
        tree: &Subscriptions,
        key: SessionKey,
        session: SessionNumber,
        left_bytes: &mut usize,
    ) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for one in fresh.iter_mut().filter(|one| one.key == key) {
            let delivery = Delivery {
                session,
                number: DeliveryNumber(one.queued.number),
                packet_id: None,
                terms: terms_of(tree, &one.queued),
            };
            // The body stands with it, whatever else has it.
            let stamp = &one.queued.message.stamp;
            let number = stamp.get().number().map_or(0, |number| number.0);
            stamp.set(Stamp::new(number, self.epoch.wrapping_sub(1)));
            self.give_message(outputs, &one.queued.message, vec![delivery], None, left_bytes);
            one.record = self.given;
        }
        self.fresh = fresh;
    }

    /// Gives a message with those who name it, and its body unless this checkpoint has it.
    pub(super) fn give_message(
        &mut self,
        outputs: &mut VecDeque<Output>,
        message: &Kept,
        deliveries: Vec<Delivery>,
        retained_by: Option<Author>,
        left_bytes: &mut usize,
    ) {
        let (number, wants_body) = self.stamp(message, true);
        let accepted = Accepted {
            message: number,
            body: wants_body.then(|| Box::new(self.body_of(message))),
            deliveries,
            retained_by,
            received: None,
            will_of: None,
        };
        self.give_counted(outputs, Change::Accepted(Box::new(accepted)), left_bytes);
    }

    /// Gives the body of a message, unless this checkpoint has it.
    fn give_body(
        &mut self,
        outputs: &mut VecDeque<Output>,
        message: &Kept,
        left_bytes: &mut usize,
    ) -> MessageNumber {
        match message.stamp.get().number() {
            Some(number) if message.stamp.get().is_of(self.epoch) => number,
            _ => {
                self.give_message(outputs, message, Vec::new(), None, left_bytes);
                message.stamp.get().number().unwrap_or(MessageNumber(0))
            }
        }
    }

    fn give_counted(&mut self, outputs: &mut VecDeque<Output>, change: Change, left_bytes: &mut usize) {
        let bytes = super::CHANGE_BYTES + change.text_bytes();
        *left_bytes = left_bytes.saturating_sub(bytes);
        self.give(outputs, change);
    }
}

/// The record of a subscription.
pub(super) fn subscribed(
    tree: &Subscriptions,
    key: SessionKey,
    session: &Session,
    place: Place,
) -> Option<Change> {
    let options = tree.options(key, place)?;
    let mut replays = session.replays.iter().filter(|_| options.qos != QoS::AtMostOnce);
    let replay = replays.find(|replay| replay.place == place);
    Some(Change::Subscribed(Box::new(StoredSubscription {
        session: SessionNumber(session.number),
        filter: filter_of(tree, place)?,
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        subscription_id: options.subscription_id,
        owed: replay.map_or(Owed::Nothing, |replay| Owed::After(replay.cursor().clone())),
    })))
}
