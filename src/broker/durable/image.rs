//! What the records that were given should come to: the core's own state, told in their words.

use std::rc::Rc;

use super::change::{Change, DeliveryNumber, MessageNumber, Owed, SessionNumber, UnfinishedDelivery};
use super::checkpoint::subscribed;
use super::restored::{Elsewhere, Restored, Standing};
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
            if let Some(change) = subscribed(&self.subscriptions, key, session, place) {
                image.apply(change);
            }
        }
        let mut queue = Vec::new();
        for queued in session.queue.iter() {
            let message = add_message(durable, &queued.message, image);
            let terms = terms_of(&self.subscriptions, queued);
            let standing = Standing::default();
            queue.push((DeliveryNumber(queued.number), (message, Rc::new(terms), standing)));
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
        if let Some(spilled) = &session.spilled {
            let fresh = durable.fresh.iter().filter(|fresh| fresh.key == key);
            let fresh = fresh.map(|fresh| (fresh.queued.number, fresh.queued.number));
            let elsewhere = Elsewhere {
                count: spilled.count(),
                deliveries: spilled.deliveries().chain(fresh).collect(),
            };
            image.elsewhere.insert(number, elsewhere);
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
    /// message came and which has ended since, that they do not say which retained messages nobody was to be sent, and
    /// that of what is in the journal alone an image knows no more than how many deliveries there are, and between
    /// which.
    pub fn is_like(&self, image: &Self) -> bool {
        let mut like = self.clone();
        for (number, elsewhere) in &image.elsewhere {
            if !like.takes_away(*number, elsewhere) {
                return false;
            }
        }
        like.tidy(); // amid a checkpoint it holds what may be named yet
        for (number, session) in &mut like.sessions {
            let Some(other) = image.sessions.get(number) else {
                return false;
            };
            for (delivery, (_, terms, _)) in &mut session.queue {
                let told = other.queue.get(delivery);
                let terms = Rc::make_mut(terms);
                terms.share = terms
                    .share
                    .take()
                    .filter(|_| told.is_some_and(|(_, terms, _)| terms.share.is_some()));
            }
            for (filter, subscription) in &mut session.subscriptions {
                if let (Owed::After(after), Some(Owed::After(told))) = (
                    &mut subscription.owed,
                    other.subscriptions.get(filter).map(|told| &told.owed),
                ) && *after <= *told
                {
                    after.clone_from(told);
                }
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
