//! Room for what has to wait: who gives way when a queue is full, or all of them together.

use std::time::Instant;

use super::Broker;
use super::budget::Use;
use super::limits::{Limits, Overflow, begins_episode};
use super::session::{Session, SessionKey};

/// Which bound stands in the way of one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    /// The session's own queue, by the named limit.
    Own(&'static str),
    /// What all queues share, by the named limit.
    Shared(&'static str),
}

impl Broker {
    /// Drops by policy until a session has room for a message of `size_bytes` that costs `keeping_bytes` to keep;
    /// whether it has.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        key: SessionKey,
        size_bytes: usize,
        keeping_bytes: usize,
    ) -> bool {
        let mut bites = None;
        let has_room = loop {
            let Some(session) = self.sessions.get(key) else {
                return false;
            };
            let Some(full) = self.bound_in_the_way(session, size_bytes, keeping_bytes) else {
                break true;
            };
            bites = Some(full);
            let held_bytes = session.held_bytes() + size_bytes;
            let policy = self.limits.queue_overflow;
            let gives_way = match full {
                Full::Shared(_) if held_bytes < self.fair_share_bytes() => self.fattest(),
                _ => (policy == Overflow::DropOldest).then_some(key),
            };
            self.stats.dropped_queue_full += 1;
            let Some(loser) = gives_way else { break false };
            let Some(gives_way) = self.sessions.get_mut(loser) else {
                break false;
            };
            // Where the newest goes by policy, another session's newest goes for this one.
            let dropped = match policy {
                Overflow::DropOldest => gives_way.queue.pop(),
                Overflow::DropNewest => gives_way.queue.pop_newest(),
            };
            let Some(dropped) = dropped else {
                break false;
            };
            self.stats.queued_messages -= 1;
            self.stats.queued_bytes -= dropped.size_bytes() as u64;
            self.store_dropped(loser, &dropped);
            self.next_has_changed(loser);
        };
        match bites {
            Some(Full::Shared(limit)) => {
                if limit == MEMORY {
                    self.stats.memory_refusals += 1;
                }
                self.limit_reached(now, limit);
            }
            Some(Full::Own(limit)) => {
                if let Some(session) = self.sessions.get_mut(key)
                    && begins_episode(&mut session.queue_full_at, now)
                {
                    let client = session.client.clone();
                    self.limit_reached_for(limit, &client);
                }
            }
            None => {}
        }
        has_room
    }

    fn bound_in_the_way(&self, session: &Session, size_bytes: usize, keeping_bytes: usize) -> Option<Full> {
        let Limits {
            queue_class,
            queue_bytes_max,
            queued_bytes_total_max,
            ..
        } = self.limits;
        let total_bytes = usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX);
        let cost_bytes = keeping_bytes + session.queue.growth_bytes();
        if session.queue.is_full(queue_class) {
            Some(Full::Own("queue_class"))
        } else if session.held_bytes().saturating_add(size_bytes) > queue_bytes_max {
            Some(Full::Own("queue_bytes_max"))
        } else if total_bytes.saturating_add(size_bytes) > queued_bytes_total_max {
            Some(Full::Shared("queued_bytes_total_max"))
        } else if !self.budget.allows(self.use_of(session, size_bytes), cost_bytes) {
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

    /// What waits and is unacknowledged, by the number of sessions.
    fn fair_share_bytes(&self) -> usize {
        let total_bytes = usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX);
        total_bytes / self.sessions.len().max(1)
    }

    /// The session with most in its queue.
    ///
    /// Looks through all sessions, but only while all queues together are full, for a session that has less than its
    /// share, and not again as long as the one it found has more than its own.
    fn fattest(&mut self) -> Option<SessionKey> {
        let waiting_bytes = |session: &Session| session.queue.size_bytes();
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
