//! Other hooks while the broker runs: those of the configuration, which stand before an embedder's own.
//!
//! No question is lost by it. One that waits for a hook that is gone is asked anew, of the hooks there are now, and the
//! old answer is void; one that waits for a hook that stays is waited for.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Held, Hooked, Installed};
use crate::broker::link::{LinkId, Proof, Stage, Verifying};
use crate::broker::timers::Timer;
use crate::broker::{Broker, Output};
use crate::hooks::{Hook, Interests, Post, Verdict};

/// The hooks that the configuration names; they take the place of those it named before.
pub struct Installation {
    /// In the order they are asked, before all others.
    pub hooks: Vec<Box<dyn Hook>>,
    /// Where answers go that are given later, if there was no hook before.
    pub post: Arc<dyn Post>,
    /// How long an answer may take, of these and of all other hooks.
    pub timeout: Duration,
}

/// What waits for the answer of a hook that is gone.
enum Orphan {
    Packet(Held),
    Newcomer(Verifying),
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.hooks.iter().map(|hook| hook.name()).collect();
        f.debug_struct("Installation").field("hooks", &names).finish()
    }
}

impl Hooked {
    /// Puts `hooks` in the place of those the configuration named before; how many those were.
    fn replace_configured(&mut self, now: Instant, hooks: Vec<Box<dyn Hook>>) -> usize {
        let before = std::mem::replace(&mut self.configured, hooks.len());
        self.hooks
            .splice(..before, hooks.into_iter().map(|hook| Installed::new(hook, now)));
        self.interests = (self.hooks.iter()).fold(Interests::NONE, |all, hook| all | hook.interests);
        self.tick_due = self.hooks.iter().filter_map(|hook| hook.tick_at).min();
        before
    }
}

impl Broker {
    /// The same broker with the hooks of the configuration, before those it has.
    pub fn with_installation(mut self, now: Instant, installation: Installation) -> Self {
        self.install(now, installation);
        self
    }

    #[inline(never)]
    pub(in crate::broker) fn install(&mut self, now: Instant, installation: Installation) {
        let Installation { hooks, post, timeout } = installation;
        if hooks.is_empty() && self.hooked.is_none() {
            return;
        }
        let questions = self.hook_questions;
        let hooked = (self.hooked).get_or_insert_with(|| {
            let mut hooked = Hooked::new(now, Vec::new(), post, timeout);
            hooked.questions = questions; // an answer to one of before must find nothing
            Box::new(hooked)
        });
        hooked.timeout = timeout;
        let tick_was_due = hooked.tick_due;
        let installed = hooks.len();
        let gone = hooked.replace_configured(now, hooks);
        let tick_due = hooked.tick_due;
        self.timers.cancel(tick_was_due, Timer::HookTick);
        if let Some(at) = tick_due {
            self.timers.set(at, Timer::HookTick);
        }
        let orphans = self.take_orphans(gone, installed);
        for (link, orphan) in orphans {
            match orphan {
                Orphan::Packet(held) => self.go_on(now, link, held, Verdict::Abstain),
                Orphan::Newcomer(verifying) => {
                    self.outputs.push_back(Output::Resume { link });
                    self.go_on_at_door(now, link, verifying, Verdict::Abstain);
                }
            }
        }
        if let Some(hooked) = &self.hooked
            && hooked.hooks.is_empty()
        {
            self.hook_questions = hooked.questions;
            self.hooked = None;
        }
    }

    /// Takes what waits for one of the first `gone` hooks, to be asked from the first hook on; what waits for another
    /// goes on behind `installed` others.
    fn take_orphans(&mut self, gone: usize, installed: usize) -> Vec<(LinkId, Orphan)> {
        let is_orphan = |next_hook: &mut usize| match *next_hook <= gone {
            true => {
                *next_hook = 0;
                true
            }
            false => {
                *next_hook = *next_hook - gone + installed;
                false
            }
        };
        let mut orphans = Vec::new();
        let held: Vec<LinkId> = (self.hooked.iter()).flat_map(|hooked| hooked.links()).collect();
        for link in held {
            let held = (self.hooked.as_mut()).and_then(|hooked| hooked.held.get_mut(&link));
            if held.is_some_and(|held| is_orphan(&mut held.next_hook)) {
                orphans.extend(self.take_held(link).map(|held| (link, Orphan::Packet(held))));
            }
        }
        for (link, known) in &mut self.links {
            let Stage::Arrived(arrival) = &mut known.stage else {
                continue;
            };
            let waits = |verifying: &mut Verifying| match &mut verifying.proof {
                Proof::Hook(asked) => is_orphan(&mut asked.next_hook),
                _ => false,
            };
            let newcomer = arrival.verifying.take_if(waits);
            orphans.extend(newcomer.map(|verifying| (link, Orphan::Newcomer(verifying))));
        }
        orphans
    }
}
