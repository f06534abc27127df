//! Deadlines: one small ordered table, looked at only when its first entry is due.

use std::collections::BTreeSet;
use std::time::Instant;

use super::bans::BanKey;
use super::link::LinkId;
use super::session::SessionKey;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// When to look whether a link still owes its CONNECT, or has been silent for too long.
    Link(LinkId),
    /// When an exchange of AUTH packets on a living connection must be over.
    Authentication(LinkId),
    /// When what a client came in by has expired.
    LoginExpiry(LinkId),
    /// When to send a delayed will.
    Will(SessionKey),
    /// When to end a session nobody came back to.
    SessionExpiry(SessionKey),
    /// When to look whether what a session has spilled is too old.
    Spilled(SessionKey),
    /// When to let somebody in again.
    Ban(BanKey),
    /// When to go on with kicks.
    Kicks,
    /// When the answer of a hook must have come that a link's packet waits for.
    Hook(LinkId),
    /// When a link's message must have found room.
    Room(LinkId),
    /// When to tick hooks.
    HookTick,
}

/// The deadlines that are running.
///
/// 1. Whoever set a deadline remembers its moment, and with it takes the entry out again: the table holds
///    nothing for a link or a session that is gone.
/// 2. A keep-alive is not moved by each packet: it fires, looks when the link last spoke, and is set anew.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.due.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, at: Option<Instant>, timer: Timer) {
        if let Some(at) = at {
            self.due.remove(&(at, timer));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Takes out the earliest deadline if it has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let &(at, _) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }

    pub(super) fn contains(&self, at: Instant, timer: Timer) -> bool {
        self.due.contains(&(at, timer))
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}
