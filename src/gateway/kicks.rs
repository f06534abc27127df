//! Kicks that were asked for anywhere: carried out in the tick, and answered.

use std::task::Waker;
use std::time::Instant;

use tracing::{debug, info};

use super::state::Core;
use crate::broker::{Found, Input, KickId, KickOutcome, Now};
use crate::kick::Asked;

impl Core {
    /// Gives the broker as many kicks as it takes now; when it takes the next, where some wait.
    ///
    /// What the broker has asked for before is in the links' outgoing bytes by now, so the acknowledgements a client is
    /// owed leave before its DISCONNECT.
    pub(super) fn carry_out_kicks(&mut self, now: Now, sleeper: &Waker) -> Option<Instant> {
        loop {
            if let Some(next) = self.broker.kicks_taken_at(now.mono) {
                return Some(next);
            }
            match self.kicks.as_mut()?.next(sleeper)? {
                Asked::Kick(kick) => self.step(now, Input::Kick(Box::new(kick))),
                Asked::Unban(subject) => self.step(now, Input::Unban { subject }),
            }
        }
    }

    /// Answers all other threads that nobody is here any more.
    pub(super) fn stop_serving_threads(&mut self) {
        self.kicks = None;
        self.shop = None;
    }

    /// Tells whoever asked for a kick, and the log, what it came to.
    pub(super) fn answer_kick(&mut self, id: KickId, outcome: KickOutcome) {
        let asked = self.kicks.as_mut().and_then(|kicks| kicks.answer(id, outcome));
        let Some((target, options)) = asked else {
            return;
        };
        let KickOutcome {
            kicked,
            pending,
            purged,
            away,
            kept_out,
        } = outcome;
        let reason = options.reason;
        let found = outcome.found();
        if found == Found::Nobody && options.keep_out.is_none() {
            debug!(%target, %reason, "kick found nobody");
            return;
        }
        let keep_out = options.keep_out;
        info!(%target, %found, %reason, kicked, pending, purged, away, ?keep_out, ?kept_out, "kick");
    }
}
