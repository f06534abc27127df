//! Where the rest of the core gives what is to be stored; each does nothing where nothing is, or not this.

use std::net::IpAddr;
use std::time::Instant;

use super::change::{Change, SessionNumber};
use super::checkpoint::subscribed;
use crate::auth::Identity;
use crate::broker::Broker;
use crate::broker::bans::BanSubject;
use crate::broker::kept::Queued;
use crate::broker::session::SessionKey;
use crate::broker::subscriptions::Place;

impl Broker {
    /// Gives the head of a stored session as it is now.
    pub(in crate::broker) fn store_session(&mut self, key: SessionKey) {
        let Some(durable) = &mut self.durable else { return };
        if let Some(session) = self.sessions.get(key)
            && session.number != 0
        {
            let head = durable.head_of(session);
            durable.give(&mut self.outputs, Change::Session(Box::new(head)));
        }
    }

    /// A client has come to its session: decides whether that is stored from here on, and gives it.
    pub(in crate::broker) fn attach_stored(&mut self, key: SessionKey, peer: Option<IpAddr>) {
        let Some(durable) = &mut self.durable else { return };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        match (session.number, session.expiry_secs) {
            (0, 0) => return,
            // What has spilled is in its records alone: it stays stored until it ends.
            (number, 0) if session.spilled.is_none() => {
                // It ends with its connection now.
                session.number = 0;
                let session = SessionNumber(number);
                return durable.give(&mut self.outputs, Change::SessionEnded { session });
            }
            (0, _) => {
                session.number = durable.number_session().0;
                session.peer = peer
                    .filter(|_| *session.identity == Identity::Anonymous)
                    .map(Box::new);
            }
            _ => {}
        }
        self.store_session(key);
    }

    /// Gives a change of a session where that is stored.
    pub(in crate::broker) fn store_change(
        &mut self,
        key: SessionKey,
        change: impl FnOnce(SessionNumber) -> Change,
    ) {
        if let Some(durable) = &mut self.durable
            && let Some(session) = self.sessions.get(key)
            && session.number != 0
        {
            durable.give(&mut self.outputs, change(SessionNumber(session.number)));
        }
    }

    /// A stored session has ended.
    pub(in crate::broker) fn store_end(&mut self, number: u64) {
        self.settle();
        if let Some(durable) = &mut self.durable {
            let session = SessionNumber(number);
            durable.give(&mut self.outputs, Change::SessionEnded { session });
        }
    }

    /// Gives a subscription of a session, where that is stored.
    pub(in crate::broker) fn store_subscription(&mut self, key: SessionKey, place: Place) {
        if let Some(durable) = &mut self.durable
            && let Some(session) = self.sessions.get(key)
            && session.number != 0
            && let Some(change) = subscribed(&self.subscriptions, key, session, place)
        {
            durable.give(&mut self.outputs, change);
        }
    }

    /// The will of a session is sent next.
    pub(in crate::broker) fn store_will_sent(&mut self, key: SessionKey) {
        self.settle();
        if let Some(durable) = &mut self.durable
            && let Some(session) = self.sessions.get(key)
            && session.number != 0
        {
            durable.note_will_sent(session.number);
        }
    }

    /// Gives a ban.
    pub(in crate::broker) fn store_ban(&mut self, subject: &BanSubject, until: Option<Instant>) {
        if let Some(durable) = &mut self.durable {
            let until = until.map(|until| durable.at(until));
            let subject = subject.clone();
            durable.give(&mut self.outputs, Change::Banned { subject, until });
        }
    }

    /// Gives the end of a ban.
    pub(in crate::broker) fn store_unbanned(&mut self, subject: &BanSubject) {
        if let Some(durable) = &mut self.durable {
            let subject = subject.clone();
            durable.give(&mut self.outputs, Change::Unbanned { subject });
        }
    }

    /// A delivery that waited has ended without being sent.
    pub(in crate::broker) fn store_dropped(&mut self, key: SessionKey, queued: &Queued) {
        if queued.number != 0
            && let Some(durable) = &mut self.durable
            && let Some(session) = self.sessions.get(key)
            && session.number != 0
        {
            durable.note_dropped(&mut self.outputs, session.number, queued.number);
        }
    }
}
