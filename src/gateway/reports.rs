//! What people are told: events in the log, statistics below `$SYS`.

use std::time::Instant;

use tracing::{debug, info, warn};

use super::state::Core;
use super::supervisor::Supervisor;
use crate::admin::statistics::Sample;
use crate::broker::{DetachReason, Event, Input, Now};
use crate::mqtt::Packet;

impl Core {
    pub(super) fn tell(&mut self, event: &Event) {
        match event {
            Event::ClientConnected {
                link,
                client,
                identity,
                session_present,
            } => {
                let Some(slot) = self.links.get_mut(*link) else {
                    return;
                };
                slot.link.set_packet_bytes_max(slot.packet_bytes_max);
                slot.permit.admitted();
                info!(?client, ?identity, peer = %slot.peer, session_present, ?link, "client connected");
                self.audit_login(*link, client, identity);
            }
            // Told once for all of them.
            Event::ClientDisconnected {
                link,
                client,
                reason: reason @ DetachReason::Kicked(_),
            } => {
                debug!(?client, %reason, ?link, "client disconnected");
                self.audit_end(*link, client, *reason);
            }
            Event::ClientDisconnected { link, client, reason } => {
                info!(?client, %reason, ?link, "client disconnected");
                self.audit_end(*link, client, *reason);
            }
            // Told when it came.
            Event::ConnectionRefused {
                reason: DetachReason::Malformed(_),
                ..
            } => {}
            Event::ConnectionRefused { link, reason } => {
                debug!(%reason, ?link, "connection refused");
                if let DetachReason::Refused(refusal) = reason {
                    self.audit_refusal(*link, *refusal);
                }
            }
            Event::Denied(denied) => {
                debug!(link = ?denied.link, client = ?denied.client, topic = ?denied.topic, "denied");
                self.audit_denial(denied);
            }
            Event::HookPanicked { hook } => warn!(hook, "a hook panicked; its question counts as refused"),
            Event::BanLifted { subject, is_over } => {
                let why = if *is_over {
                    "its time is over"
                } else {
                    "it was taken back"
                };
                info!(who = %subject, why, "ban lifted");
                self.audit_ban_lifted(subject, why);
            }
            Event::LimitReached { limit, client } => match client {
                Some(client) => warn!(limit, ?client, "limit reached"),
                None => warn!(limit, "limit reached"),
            },
        }
    }

    /// Says what there is when the end begins: on a gateway that was long up, what should be few and is many tells what
    /// its clients left behind.
    pub(super) fn tell_end(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.stopping();
        }
        let sessions = self.broker.stats().sessions;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        self.audit.tell_end();
        info!(connections = self.links.len(), sessions, tasks, "stopping");
    }

    /// Tells `supervisor` that everybody can come in by `doors` doors, and from here on how it goes.
    pub(super) fn supervise(&mut self, supervisor: Option<Supervisor>, doors: usize) {
        self.supervisor = supervisor;
        self.tell_ready(doors);
    }

    /// Tells the supervisor that everybody can come in by `doors` doors.
    pub(super) fn tell_ready(&mut self, doors: usize) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.ready(Instant::now(), doors);
        }
        self.arm();
    }

    /// When the statistics are told next; `None` while nobody reads them.
    pub(super) fn statistics_due(&self) -> Option<Instant> {
        let statistics = self.statistics.as_ref()?;
        self.broker
            .has_readers_of_statistics()
            .then(|| statistics.poll_timeout())
    }

    /// Publishes what has changed of the statistics.
    pub(super) fn tell_statistics(&mut self, now: Now) {
        let Some(statistics) = &mut self.statistics else {
            return;
        };
        let sample = Sample {
            stats: self.broker.stats(),
            traffic: &self.traffic,
            shared_subscriptions: self.broker.shared_subscriptions(),
            reloads: self.reloads,
        };
        for message in statistics.poll(now.mono, &sample) {
            self.input(now, Input::Publish(message));
        }
    }

    /// Tells the statistics to somebody who is about to subscribe to them, so that the retained ones are not those of
    /// when they were last read.
    pub(super) fn refresh_statistics(&mut self, now: Now, packet: &Packet) {
        if let Packet::Subscribe(subscribe) = packet
            && let mut filters = subscribe
                .subscriptions
                .iter()
                .map(|subscription| &subscription.filter)
            && filters.any(|filter| filter.levels().next() == Some("$SYS"))
            && let Some(statistics) = &self.statistics
            && statistics.poll_timeout() <= now.mono
        {
            self.tell_statistics(now);
        }
    }
}
