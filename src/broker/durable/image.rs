//! What the records that were given should come to: the core's own state, told in their words.

use super::change::{Change, DeliveryNumber, MessageNumber, SessionNumber, UnfinishedDelivery};
use super::checkpoint::subscribed;
use super::restored::Restored;
use super::{Durable, terms_of};
use crate::broker::Broker;
use crate::broker::inflight::Stage;
use crate::broker::kept::Kept;
use crate::broker::session::{Session, SessionKey};

impl Broker {
    /// What should be stored at this moment, as [`Restored`] that was put together from every
    /// [`Output::Store`](crate::broker::Output::Store) would have it; `None` where nothing is stored.
    ///
    /// Costs as much as there is state; for tests and simulations.
    pub fn image(&self) -> Option<Restored> {
        let durable = self.durable.as_deref()?;
        let mut image = Restored::default();
        for (key, session) in self.sessions.iter().filter(|(_, session)| session.number != 0) {
            self.add_session(durable, key, session, &mut image);
        }
        for (message, author) in self.retained.written() {
            if !message.is_reserved() {
                let number = add_message(durable, message, &mut image);
                let author = author.stored();
                image.retained.insert(message.topic(), (number, author));
            }
        }
        for ban in self.bans.iter() {
            let until = ban.until.map(|until| durable.at(until));
            image.bans.insert(ban.subject.clone(), until);
        }
        Some(image)
    }

    fn add_session(&self, durable: &Durable, key: SessionKey, session: &Session, image: &mut Restored) {
        let number = SessionNumber(session.number);
        image.apply(Change::Session(Box::new(durable.head_of(session))));
        for &place in &session.places {
            if let Some(change) = subscribed(&self.subscriptions, key, number, place) {
                image.apply(change);
            }
        }
        let mut queue = Vec::new();
        for queued in session.queue.iter() {
            let message = add_message(durable, &queued.message, image);
            let terms = terms_of(&self.subscriptions, queued);
            queue.push((DeliveryNumber(queued.number), (message, terms)));
        }
        let mut sent = Vec::new();
        for entry in session.inflight.iter() {
            let message = match &entry.stage {
                Stage::Released => None,
                Stage::Published(queued) => {
                    let message = add_message(durable, &queued.message, image);
                    Some((message, terms_of(&self.subscriptions, queued)))
                }
            };
            let packet_id = entry.packet_id;
            sent.push(UnfinishedDelivery { packet_id, message });
        }
        if let Some(known) = image.sessions.get_mut(&number) {
            known.queue.extend(queue);
            known.sent = sent;
            known.receiving.extend(session.receiving.iter());
        }
    }
}

fn add_message(durable: &Durable, message: &Kept, image: &mut Restored) -> MessageNumber {
    let number = message.stamp.get().number().unwrap_or(MessageNumber(0));
    image.add_named(number, || durable.body_of(message));
    number
}

impl Restored {
    /// Whether this is what `image` says: all of it, but that records still name a shared subscription by which a
    /// message came and which has ended since.
    pub fn is_like(&self, image: &Self) -> bool {
        let mut like = self.clone();
        like.tidy(); // amid a checkpoint it holds what may be named yet
        for (number, session) in &mut like.sessions {
            let Some(other) = image.sessions.get(number) else {
                return false;
            };
            for (delivery, (_, terms)) in &mut session.queue {
                let told = other.queue.get(delivery);
                terms.share = terms
                    .share
                    .take()
                    .filter(|_| told.is_some_and(|(_, terms)| terms.share.is_some()));
            }
            for (sent, told) in session.sent.iter_mut().zip(&other.sent) {
                let has_share = (told.message.as_ref()).is_some_and(|(_, terms)| terms.share.is_some());
                if let Some((_, terms)) = &mut sent.message {
                    terms.share = terms.share.take().filter(|_| has_share);
                }
            }
        }
        like == *image
    }
}
