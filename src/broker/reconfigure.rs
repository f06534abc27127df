//! Other rules while the broker runs: what is new is held to them, and who is not let in by them any more goes.
//!
//! Nothing that is there is dropped because a bound is lower now: a queue keeps the room it has until it is empty,
//! sessions, subscriptions and retained messages stay, and one more is refused until there are few enough. A client
//! that was told a Receive Maximum or a Topic Alias Maximum may go by it until its connection ends.

use std::rc::Rc;
use std::time::Instant;

use super::hooked::Installation;
use super::kick::KickReason;
use super::limits::{Limits, QueueClass};
use super::link::Stage;
use super::policy::ListenerPolicy;
use super::queue_rules::QueueRules;
use super::settings::Settings;
use super::{Broker, DetachReason};
use crate::auth::Identity;
use crate::auth::access::Rights;
use crate::mqtt::Utf8String;

/// Everything that can change while the broker runs, in one piece: no input comes between its parts.
#[derive(Debug)]
pub struct Reconfiguration {
    /// Every bound.
    pub limits: Limits,
    /// What an operator decided.
    pub settings: Settings,
    /// Who may do what; `None` where that stays as it is.
    pub rights: Option<Rights>,
    /// The doors there are now. Connections through others that have not come to an end of their CONNECT are ended;
    /// clients that are in stay.
    pub listeners: Vec<Rc<ListenerPolicy>>,
    /// Users whose proof holds no more, in alphabetical order: their connections are ended with 0x87.
    pub revoked: Vec<Utf8String>,
    /// The hooks of the configuration; `None` where those stay as they are.
    pub hooks: Option<Installation>,
}

impl Limits {
    /// Makes each bound that is asked for again, of what was let in before, the looser of two.
    fn loosen(&mut self, other: &Self) {
        fn raise<T: Ord + Copy>(bound: &mut T, other: T) {
            *bound = (*bound).max(other);
        }
        raise(
            &mut self.subscriptions_per_client_max,
            other.subscriptions_per_client_max,
        );
        raise(&mut self.subscriptions_max, other.subscriptions_max);
        raise(
            &mut self.subscriptions_per_user_max,
            other.subscriptions_per_user_max,
        );
        raise(&mut self.wills_bytes_total_max, other.wills_bytes_total_max);
        raise(&mut self.inflight_max, other.inflight_max);
        raise(&mut self.receive_maximum, other.receive_maximum);
        raise(&mut self.topic_alias_maximum, other.topic_alias_maximum);
        raise(&mut self.queue_class, other.queue_class);
        raise(&mut self.queue_bytes_max, other.queue_bytes_max);
        raise(&mut self.queued_bytes_total_max, other.queued_bytes_total_max);
        raise(&mut self.spill_bytes_max, other.spill_bytes_max);
        raise(&mut self.spill_bytes_total_max, other.spill_bytes_total_max);
        raise(&mut self.sessions_max, other.sessions_max);
        raise(&mut self.sessions_per_user_max, other.sessions_per_user_max);
        raise(&mut self.retained_max, other.retained_max);
        raise(&mut self.retained_bytes_max, other.retained_bytes_max);
        raise(&mut self.retained_per_user_max, other.retained_per_user_max);
        raise(
            &mut self.retained_bytes_per_user_max,
            other.retained_bytes_per_user_max,
        );
        raise(&mut self.bans_max, other.bans_max);
        raise(&mut self.memory_bytes_max, other.memory_bytes_max);
        raise(&mut self.connections_max, other.connections_max);
    }
}

impl Broker {
    /// What was kept before the gateway was stopped stays, though a bound may be lower now.
    pub(super) fn loosen_for_what_is_there(&mut self) {
        let mut there = Limits {
            subscriptions_per_client_max: 0,
            subscriptions_max: self.subscriptions.len(),
            subscriptions_per_user_max: 0,
            queue_class: QueueClass::N16,
            queue_bytes_max: 0,
            queued_bytes_total_max: usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX),
            spill_bytes_max: 0,
            spill_bytes_total_max: usize::try_from(self.stats.spilled_bytes).unwrap_or(usize::MAX),
            sessions_max: self.sessions.len(),
            sessions_per_user_max: 0,
            retained_max: self.retained.len(),
            retained_bytes_max: self.retained.size_bytes(),
            retained_per_user_max: 0,
            retained_bytes_per_user_max: 0,
            bans_max: self.bans().count(),
            wills_bytes_total_max: usize::try_from(self.stats.wills_bytes).unwrap_or(usize::MAX),
            memory_bytes_max: self.memory_bytes(),
            ..self.limits.clone()
        };
        for (_, session) in self.sessions.iter() {
            let (waiting, bytes) = (session.queue.len(), session.held_bytes());
            let class = QueueClass::ALL
                .into_iter()
                .find(|class| class.messages() >= waiting);
            let class = class.unwrap_or(QueueClass::N4096);
            let in_flight = u16::try_from(session.inflight.len()).unwrap_or(u16::MAX);
            let filters = session.places.len();
            there.queue_class = there.queue_class.max(class);
            there.queue_bytes_max = there.queue_bytes_max.max(bytes);
            there.inflight_max = there.inflight_max.max(in_flight);
            there.subscriptions_per_client_max = there.subscriptions_per_client_max.max(filters);
        }
        for (_, usage) in self.owners.iter() {
            there.sessions_per_user_max = there.sessions_per_user_max.max(usage.sessions);
            there.subscriptions_per_user_max = there.subscriptions_per_user_max.max(usage.subscriptions);
            there.retained_per_user_max = there.retained_per_user_max.max(usage.retained);
            there.retained_bytes_per_user_max = there.retained_bytes_per_user_max.max(usage.retained_bytes);
        }
        self.loosest.loosen(&there);
    }

    #[inline(never)]
    pub(super) fn handle_reconfigured(&mut self, now: Instant, changed: Reconfiguration) {
        let Reconfiguration {
            limits,
            settings,
            rights,
            listeners,
            revoked,
            hooks,
        } = changed;
        if let Some(rights) = rights {
            self.handle_rights(rights);
        }
        self.settings = settings;
        if limits != self.limits {
            self.loosest.loosen(&limits);
            self.budget.set_limits(&limits);
            self.limits = limits;
        }
        self.go_by_queue_rules();
        self.attachments += 1; // what was found out under the old rules is void
        let leaving: Vec<_> = (self.links.iter())
            .filter_map(|(link, content)| {
                let reason = self.reason_to_go(&content.stage, &listeners, &revoked)?;
                Some((link, reason))
            })
            .collect();
        for (link, reason) in leaving {
            self.detach(now, link, DetachReason::Kicked(reason));
        }
        if let Some(installation) = hooks {
            self.install(now, installation); // who goes is not asked about any more
        }
        // There may be more room than before.
        let waiting: Vec<_> = (self.sessions.iter())
            .filter(|(_, session)| session.link.is_some())
            .map(|(key, _)| key)
            .collect();
        for key in waiting {
            self.pump(now, key);
        }
    }

    /// Has all queues go by the rules and limits of the moment.
    pub(super) fn go_by_queue_rules(&mut self) {
        let may_keep_qos0 = self.queues.may_keep_qos0;
        self.queues = QueueRules::new(&self.settings.queue_rules, &self.limits);
        // Messages at QoS 0 that wait already have to be looked for, so that none overtakes them.
        self.queues.may_keep_qos0 |= may_keep_qos0;
        let (class, bytes_max) = self.queues.largest();
        self.loosest.queue_class = self.loosest.queue_class.max(class);
        self.loosest.queue_bytes_max = self.loosest.queue_bytes_max.max(bytes_max);
        self.try_all_again();
        for session in self.sessions.iter_mut() {
            session.fitting = self.queues.fitting(&session.client, &session.identity);
        }
    }

    fn reason_to_go(
        &self,
        stage: &Stage,
        listeners: &[Rc<ListenerPolicy>],
        revoked: &[Utf8String],
    ) -> Option<KickReason> {
        match stage {
            Stage::Arrived(arrival) => {
                let is_there = (listeners.iter()).any(|listener| Rc::ptr_eq(listener, &arrival.listener));
                (!is_there).then_some(KickReason::SERVER_BUSY)
            }
            Stage::Attached(attachment) => {
                let goes = match &*self.sessions.get(attachment.session)?.identity {
                    Identity::Anonymous => (listeners.iter())
                        .find(|listener| listener.name == attachment.listener.name)
                        .is_some_and(|listener| !listener.anonymous),
                    Identity::User(user) => revoked.binary_search(user).is_ok(),
                    Identity::Gateway => false,
                };
                goes.then_some(KickReason::NOT_AUTHORIZED)
            }
        }
    }
}
