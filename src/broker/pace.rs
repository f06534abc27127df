//! How fast a client may publish: who is faster is not read for a while, and waits at its own end.

use std::time::{Duration, Instant};

use super::limits::Limits;
use super::link::{Link, LinkId};
use super::timers::Timer;
use super::{Broker, Output};
use crate::auth::Identity;
use crate::mqtt::{ClientId, Utf8String};

/// What a client has published within the second that runs, and what it owes of the seconds before.
///
/// 1. Each second takes off what may come within one, so in the long run no more comes than may.
#[derive(Debug)]
pub(super) struct Pace {
    messages: u32,
    bytes: u32,
    /// All messages and topic filters since the connection began.
    total: u64,
    /// When the link is read again; `None` while it is read.
    pub(super) paused_until: Option<Instant>,
    /// When the second ends.
    until: Instant,
}

/// How much a connected client has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Who.
    pub client: ClientId,
    /// As which user; `None` for one that gave no proof.
    pub user: Option<Utf8String>,
    /// Messages, and topic filters it sent, since it connected.
    pub messages: u64,
}

const SECOND: Duration = Duration::from_secs(1);

/// The longest pause: short of it a limit far below the size of a packet would keep a client unheard for hours.
const PAUSE_SECS_MAX: u32 = 10;

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            messages: 0,
            bytes: 0,
            total: 0,
            paused_until: None,
            until: now,
        }
    }

    /// Counts what came; whether that is more than may come within a second.
    #[inline(always)]
    pub(super) fn exceeds(&mut self, now: Instant, messages: u32, bytes: usize, limits: &Limits) -> bool {
        if now >= self.until {
            self.begin_second(now, limits);
        }
        self.messages = self.messages.saturating_add(messages);
        self.total += u64::from(messages);
        self.bytes = self
            .bytes
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.messages > limits.publish_rate_max || self.bytes > limits.publish_bytes_rate_max
    }

    #[inline(never)]
    fn begin_second(&mut self, now: Instant, limits: &Limits) {
        let over = now.saturating_duration_since(self.until).as_secs();
        let seconds = u32::try_from(over).unwrap_or(u32::MAX).saturating_add(1);
        let pay =
            |owed: &mut u32, rate_max: u32| *owed = owed.saturating_sub(rate_max.saturating_mul(seconds));
        pay(&mut self.messages, limits.publish_rate_max);
        pay(&mut self.bytes, limits.publish_bytes_rate_max);
        self.until = now + SECOND;
    }

    /// When so little is owed that more may come.
    fn resumes_at(&self, limits: &Limits) -> Instant {
        let seconds = |owed: u32, rate_max: u32| owed / rate_max.max(1);
        let messages = seconds(self.messages, limits.publish_rate_max);
        let bytes = seconds(self.bytes, limits.publish_bytes_rate_max);
        // The second that runs takes off its share when it ends.
        let more = messages.max(bytes).clamp(1, PAUSE_SECS_MAX) - 1;
        self.until + SECOND * more
    }
}

impl Broker {
    /// How much each connected client has published on its connection.
    pub fn published(&self) -> impl Iterator<Item = Published> {
        self.links.values().filter_map(|link| {
            let attachment = link.attachment()?;
            let session = self.sessions.get(attachment.session)?;
            Some(Published {
                client: session.client.clone(),
                user: match &*session.identity {
                    Identity::User(user) => Some(user.clone()),
                    Identity::Anonymous | Identity::Gateway => None,
                },
                messages: attachment.pace.total,
            })
        })
    }

    /// Does not read a link until its client owes nothing to its rate.
    #[inline(never)]
    pub(super) fn pause(&mut self, now: Instant, link: LinkId) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        let before = known.timer_at;
        let Some(attachment) = known.attachment_mut() else {
            return;
        };
        let at = attachment.pace.resumes_at(&self.limits);
        let was_paused = attachment.pace.paused_until.replace(at).is_some();
        let key = attachment.session;
        // An earlier deadline finds the pause, and goes on with this one.
        if before.is_none_or(|before| before > at) {
            self.timers.cancel(before, Timer::Link(link));
            known.timer_at = Some(at);
            self.timers.set(at, Timer::Link(link));
        }
        if was_paused {
            return; // what had been read before
        }
        self.stats.publishers_paused += 1;
        self.outputs.push_back(Output::Pause { link });
        let client = self.sessions.get(key).map(|session| session.client.clone());
        self.limit_reached_by(now, "publish_rate_max", client);
    }

    /// Reads a paused link again where its time has come: its client has been silent since now at the earliest.
    pub(super) fn resume(&mut self, now: Instant, link: LinkId) {
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
        if attachment.pace.paused_until.take_if(|at| *at <= now).is_some() {
            attachment.last_received = now;
            self.outputs.push_back(Output::Resume { link });
        }
    }
}
