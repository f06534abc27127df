//! Room for what has to wait: who gives way when a queue is full, or all of them together.

use std::time::Instant;

use super::Broker;
use super::budget::Use;
use super::limits::{Limits, Overflow, begins_episode};
use super::losses::Loss;
use super::session::{Session, SessionKey};

/// Which bound stands in the way of one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The session's own queue, by the named limit.
    Own(&'static str),
    /// What all queues share, by the named limit.
    Shared(&'static str),
}

/// What room is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Messages.
    pub(super) count: usize,
    /// What they count against limits.
    pub(super) size_bytes: usize,
    /// What they cost to keep, beside a larger ring.
    pub(super) keeping_bytes: usize,
}

/// Where there is room for one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// In the queue.
    Queue,
    /// In the journal alone.
    Journal,
}

impl Broker {
    /// Drops by policy until a session has room for one more message, and says where. Where there is none the message
    /// is lost to it, and counted.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        key: SessionKey,
        load: Load,
        overflow: Overflow,
    ) -> Option<Room> {
        let (mut bites, mut slack_bytes) = (None, 0);
        let room = loop {
            let session = self.sessions.get(key)?;
            let Some(full) = self.ring_bound_in_the_way(session, load) else {
                break Some(Room::Queue);
            };
            let Some(full) = self.spill_bound(session, load, full, slack_bytes) else {
                break Some(Room::Journal);
            };
            if session.spills() && !self.may_spill(session) {
                bites = Some(full);
                break None; // whatever gave way in the queue, it would have to stand behind the rest
            }
            if self.drop_expired(now, key) {
                continue;
            }
            bites = Some(full);
            let gives_way = match full {
                Full::Shared(_) if self.has_less_than_its_share(key, load) => self.fattest(),
                _ => (overflow == Overflow::DropOldest).then_some(key),
            };
            let Some(loser) = gives_way else { break None };
            if !self.drop_one(loser, overflow) {
                break None;
            }
            // What waits in the journal comes up behind it.
            slack_bytes = self.queues.size(self.sessions.get(key)?.fitting).1;
        };
        if let Some(full) = bites {
            self.tell_full(now, key, full);
        }
        if room.is_none() {
            self.note_loss(key, Loss::QueueFull);
            if overflow == Overflow::Disconnect {
                self.end_soon(key);
            }
        }
        room
    }

    /// Makes room in what all queues share, where another session gives way to one that has less than its share;
    /// whether one did.
    pub(super) fn displace(&mut self, key: SessionKey, load: Load) -> bool {
        self.has_less_than_its_share(key, load)
            && (self.fattest()).is_some_and(|loser| self.drop_one(loser, Overflow::DropOldest))
    }

    /// Drops a message that waits for a session, by policy; whether there was one that may be dropped.
    fn drop_one(&mut self, loser: SessionKey, overflow: Overflow) -> bool {
        let Some(session) = self.sessions.get_mut(loser) else {
            return false;
        };
        // Where the newest goes by policy, another session's newest goes for this one.
        let dropped = match overflow {
            Overflow::DropNewest => session.queue.pop_newest_loose(),
            Overflow::DropOldest | Overflow::Reject | Overflow::Disconnect => {
                session.queue.pop_oldest_loose()
            }
        };
        let Some(dropped) = dropped else {
            return false;
        };
        session.lose(&mut self.stats, Loss::QueueFull);
        self.stats.queued_messages -= 1;
        self.stats.queued_bytes -= dropped.size_bytes() as u64;
        self.store_dropped(loser, &dropped);
        self.look_again_at(loser);
        self.refill(loser);
        true
    }

    /// Drops what has expired in a session's queue; whether there was anything [MQTT-3.3.2-5].
    pub(super) fn drop_expired(&mut self, now: Instant, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let expired = session.queue.take_expired(now);
        for queued in &expired {
            session.lose(&mut self.stats, Loss::Expired);
            self.stats.queued_messages -= 1;
            self.stats.queued_bytes -= queued.size_bytes() as u64;
        }
        for queued in &expired {
            self.store_dropped(key, queued);
        }
        if !expired.is_empty() {
            self.look_again_at(key);
            self.refill(key);
        }
        !expired.is_empty()
    }

    /// Tells which limit bites, once an episode.
    pub(super) fn tell_full(&mut self, now: Instant, key: SessionKey, full: Full) {
        match full {
            Full::Shared(limit) => {
                if limit == MEMORY {
                    self.stats.memory_refusals += 1;
                }
                self.limit_reached(now, limit);
            }
            Full::Own(limit) => {
                if let Some(session) = self.sessions.get_mut(key)
                    && begins_episode(&mut session.losses_mut().queue_full_at, now)
                {
                    let client = session.client.clone();
                    self.limit_reached_for(limit, &client);
                }
            }
        }
    }

    /// What stands in the way of one more message, or of as many as `load` says, in the queue and beyond it.
    pub(super) fn bound_in_the_way(&self, session: &Session, load: Load) -> Option<Full> {
        let full = self.ring_bound_in_the_way(session, load)?;
        self.spill_bound(session, load, full, 0)
    }

    /// The same in the queue alone.
    pub(super) fn ring_bound_in_the_way(&self, session: &Session, load: Load) -> Option<Full> {
        let own = self.own_ring_bound(session, load);
        own.or_else(|| self.shared_ring_bound(session, load, Load::default()))
    }

    /// The same by what is the session's own.
    pub(super) fn own_bound_in_the_way(&self, session: &Session, load: Load) -> Option<Full> {
        let full = self.own_ring_bound(session, load)?;
        self.spill_bound(session, load, full, 0)
    }

    /// The same by what all share, when `before` has found room there.
    pub(super) fn shared_bound_in_the_way(
        &self,
        session: &Session,
        load: Load,
        before: Load,
    ) -> Option<Full> {
        let full = self.shared_ring_bound(session, load, before)?;
        self.spill_bound(session, load, full, 0)
    }

    /// What stands in the way of a message that has its place at the end of the queue, though more wait beyond.
    pub(super) fn bound_in_the_ring(&self, session: &Session, load: Load) -> Option<Full> {
        let own = self.ring_bound(session, load);
        own.or_else(|| self.shared_ring_bound(session, load, Load::default()))
    }

    fn own_ring_bound(&self, session: &Session, load: Load) -> Option<Full> {
        match session.spills() {
            true => Some(Full::Own("spill_bytes_max")), // it would overtake what waits there
            false => self.ring_bound(session, load),
        }
    }

    fn ring_bound(&self, session: &Session, load: Load) -> Option<Full> {
        let (class, bytes_max) = self.queues.size(session.fitting);
        if !session.queue.takes(load.count, class) {
            Some(Full::Own("queue_class"))
        } else if session.held_bytes().saturating_add(load.size_bytes) > bytes_max {
            Some(Full::Own("queue_bytes_max"))
        } else {
            None
        }
    }

    fn shared_ring_bound(&self, session: &Session, load: Load, before: Load) -> Option<Full> {
        let Limits {
            queued_bytes_total_max,
            ..
        } = self.limits;
        let total_bytes = usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX);
        let wanted_bytes = before.size_bytes.saturating_add(load.size_bytes);
        let cost_bytes = before.keeping_bytes + load.keeping_bytes + session.queue.growth_bytes();
        if total_bytes.saturating_add(wanted_bytes) > queued_bytes_total_max {
            Some(Full::Shared("queued_bytes_total_max"))
        } else if !self
            .budget
            .allows(self.use_of(session, load.size_bytes), cost_bytes)
        {
            Some(Full::Shared(MEMORY))
        } else {
            None
        }
    }

    /// What memory is wanted for by one more message: to wait, or to go out at once and be acknowledged.
    fn use_of(&self, session: &Session, size_bytes: usize) -> Use {
        let attachment = session.link.and_then(|link| self.links.get(link)?.attachment());
        let goes_out = attachment.is_some_and(|attachment| {
            session.owes_nothing()
                && attachment.takes_more(&session.inflight, self.budget.unsent_bytes_max())
                && self.budget.lets_out(&session.inflight, size_bytes)
        });
        if goes_out { Use::Packet } else { Use::Queue }
    }

    fn has_less_than_its_share(&self, key: SessionKey, load: Load) -> bool {
        let session = self.sessions.get(key);
        session.is_some_and(|session| session.held_bytes() + load.size_bytes < self.fair_share_bytes())
    }

    /// What waits and is unacknowledged, by the number of sessions.
    fn fair_share_bytes(&self) -> usize {
        let total_bytes = usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX);
        total_bytes / self.sessions.len().max(1)
    }

    /// The session with most in its queue that may be dropped.
    ///
    /// Looks through all sessions, but only while all queues together are full, for a session that has less than its
    /// share, and not again as long as the one it found has more than its own.
    fn fattest(&mut self) -> Option<SessionKey> {
        let waiting_bytes = |session: &Session| session.queue.loose_bytes();
        let share_bytes = self.fair_share_bytes();
        let known = self.fattest.filter(|&key| {
            let session = self.sessions.get(key);
            session.is_some_and(|session| waiting_bytes(session) > share_bytes)
        });
        if known.is_none() {
            let most = (self.sessions.iter()).max_by_key(|(_, session)| waiting_bytes(session));
            self.fattest = most.map(|(key, _)| key);
        }
        self.fattest
    }
}

const MEMORY: &str = "memory_bytes_max";
