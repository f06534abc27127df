//! What one client did not get, and why.

use std::time::Instant;

use super::Broker;
use super::session::{Session, SessionKey};
use super::stats::Stats;

/// Messages that did not reach one client since its session began, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Its queue, or the room for all queues, was full.
    pub queue_full: u64,
    /// They expired before they could be sent.
    pub expired: u64,
    /// Larger than its Maximum Packet Size.
    pub too_large: u64,
    /// The rights, or a hook, forbade the delivery.
    pub denied: u64,
    /// QoS 0 while it was away.
    pub offline: u64,
    /// QoS 0 while it did not read what it had been sent.
    pub slow: u64,
    /// They waited in the journal alone, and its medium did not give them back.
    pub damaged: u64,
}

/// The reasons of [`Lost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    QueueFull,
    Expired,
    TooLarge,
    Denied,
    Offline,
    Slow,
    Damaged,
}

/// The losses of one session, kept only where there are any.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) lost: Lost,
    /// Those its client has not been told of: all but what had expired and what it may not have.
    untold: u64,
    /// When a message last found its queue full.
    pub(super) queue_full_at: Option<Instant>,
}

impl Lost {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.queue_full
            + self.expired
            + self.too_large
            + self.denied
            + self.offline
            + self.slow
            + self.damaged
    }
}

impl Losses {
    pub(super) fn untold(&self) -> u64 {
        self.untold
    }

    /// Notes that the client was told of all of them.
    pub(super) fn told(&mut self) {
        self.untold = 0;
    }
}

impl Session {
    /// Counts a message that does not reach the client, for the client and in the totals.
    #[inline(never)]
    pub(super) fn lose(&mut self, stats: &mut Stats, loss: Loss) {
        let losses = self.losses_mut();
        let lost = &mut losses.lost;
        let (of_client, of_all, is_owed) = match loss {
            Loss::QueueFull => (&mut lost.queue_full, &mut stats.dropped_queue_full, true),
            Loss::Expired => (&mut lost.expired, &mut stats.dropped_expired, false),
            Loss::TooLarge => (&mut lost.too_large, &mut stats.dropped_too_large, true),
            Loss::Denied => (&mut lost.denied, &mut stats.deliveries_denied, false),
            Loss::Offline => (&mut lost.offline, &mut stats.dropped_offline, true),
            Loss::Damaged => (&mut lost.damaged, &mut stats.dropped_damaged, true),
            Loss::Slow => (&mut lost.slow, &mut stats.dropped_slow, true),
        };
        *of_client += 1;
        *of_all += 1;
        losses.untold += u64::from(is_owed);
    }
}

impl Broker {
    /// The same by the key of the session.
    #[inline(never)]
    pub(super) fn note_loss(&mut self, key: SessionKey, loss: Loss) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.lose(&mut self.stats, loss);
        }
    }
}
