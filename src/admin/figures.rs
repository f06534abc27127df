//! Everything the gateway counts, in one list: statistics in JSON and Prometheus' metrics are read from it.

use std::time::Duration;

use super::operator::JournalView;
use super::statistics::Sample;

/// What the figures are read from.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'a> {
    /// What broker and links count.
    pub sample: Sample<'a>,
    /// What peers make the gateway hold.
    pub memory_bytes: usize,
    /// Its bound.
    pub memory_bytes_max: usize,
    /// What the process holds, where the system tells.
    pub resident_bytes: u64,
    /// Since the start.
    pub uptime: Duration,
    /// What outlives the process.
    pub journal: JournalView,
}

/// One figure.
#[derive(Debug)]
pub struct Figure {
    /// What it is called in JSON; among the metrics `tidegate_` stands before it, and `_total` behind a counter.
    pub name: &'static str,
    /// What tells it from the others of its metric, as name and value, where several belong together.
    pub label: Option<(&'static str, &'static str)>,
    /// Whether it only grows.
    pub is_counter: bool,
    /// What it is, for a person.
    pub about: &'static str,
    /// Reads it.
    pub read: fn(&Figures<'_>) -> u64,
}

impl Figure {
    /// What it is called in JSON, label and all.
    pub fn key(&self) -> String {
        match self.label {
            Some((_, value)) => format!("{}_{value}", self.name),
            None => self.name.to_owned(),
        }
    }
}

macro_rules! figures {
    ($($kind:ident $name:ident $([$label:ident $value:ident])? $about:literal $read:expr;)*) => {
        /// Every figure, those of one metric side by side.
        pub static FIGURES: &[Figure] = &[$(Figure {
            name: stringify!($name),
            label: figures!(@label $($label $value)?),
            is_counter: figures!(@kind $kind),
            about: $about,
            read: $read,
        },)*];
    };
    (@label) => { None };
    (@label $label:ident $value:ident) => { Some((stringify!($label), stringify!($value))) };
    (@kind counter) => { true };
    (@kind gauge) => { false };
}

figures! {
    gauge uptime_seconds "Seconds since the start." |of| of.uptime.as_secs();
    gauge memory_bytes "What peers make the gateway hold." |of| of.memory_bytes as u64;
    gauge memory_bytes_max "The bound of memory_bytes." |of| of.memory_bytes_max as u64;
    gauge resident_bytes "Resident memory of the process." |of| of.resident_bytes;
    gauge links "Byte streams open, those without CONNECT included." |of| of.sample.stats.links;
    gauge clients_connected "Clients connected." |of| of.sample.stats.clients_connected;
    gauge clients_connected_max "The most clients connected at one time." |of| of.sample.stats.clients_connected_max;
    gauge sessions "Sessions, connected or not." |of| of.sample.stats.sessions;
    gauge subscriptions "Subscriptions of all sessions." |of| of.sample.stats.subscriptions;
    gauge shared_subscriptions "Those that are shared." |of| of.sample.shared_subscriptions as u64;
    gauge retained_messages "Retained messages." |of| of.sample.stats.retained_messages;
    gauge retained_bytes "Bytes of retained messages." |of| of.sample.stats.retained_bytes;
    gauge queued_messages "Messages waiting for clients." |of| of.sample.stats.queued_messages;
    gauge inflight_messages "Messages sent and not acknowledged." |of| of.sample.stats.inflight_messages;
    gauge queued_bytes "Bytes waiting or not acknowledged." |of| of.sample.stats.queued_bytes;
    gauge spilled_messages "Messages waiting beyond queues, in the journal alone."
        |of| of.sample.stats.spilled_messages;
    gauge spilled_bytes "Bytes of these." |of| of.sample.stats.spilled_bytes;
    gauge wills_bytes "Bytes of all wills." |of| of.sample.stats.wills_bytes;
    counter links_accepted "Byte streams accepted." |of| of.sample.stats.links_accepted;
    counter clients_accepted "Clients that came in." |of| of.sample.stats.clients_accepted;
    counter connections_refused "Connections that ended before a client came in."
        |of| of.sample.stats.connections_refused;
    counter takeovers "Clients whose connection another one took over." |of| of.sample.stats.takeovers;
    counter keep_alive_timeouts "Clients that were silent for too long." |of| of.sample.stats.keep_alive_timeouts;
    counter packets_received "Packets received." |of| of.sample.stats.packets_received;
    counter packets_sent "Packets sent." |of| of.sample.traffic.packets_sent;
    counter bytes_received "Bytes received, those of TLS and WebSocket not counted."
        |of| of.sample.traffic.bytes_received;
    counter bytes_sent "Bytes sent, counted the same way." |of| of.sample.traffic.bytes_sent;
    counter messages_received "Messages received from clients." |of| of.sample.stats.messages_received;
    counter messages_sent "Messages sent to clients, repetitions included." |of| of.sample.stats.messages_sent;
    counter payload_bytes_received "Payload bytes of messages received."
        |of| of.sample.traffic.payload_bytes_received;
    counter payload_bytes_sent "Payload bytes of messages sent." |of| of.sample.traffic.payload_bytes_sent;
    counter messages_dropped [reason offline] "Messages dropped, by reason." |of| of.sample.stats.dropped_offline;
    counter messages_dropped [reason slow] "Messages dropped, by reason." |of| of.sample.stats.dropped_slow;
    counter messages_dropped [reason queue_full] "Messages dropped, by reason."
        |of| of.sample.stats.dropped_queue_full;
    counter messages_dropped [reason damaged] "Messages dropped, by reason." |of| of.sample.stats.dropped_damaged;
    counter messages_dropped [reason expired] "Messages dropped, by reason." |of| of.sample.stats.dropped_expired;
    counter messages_dropped [reason too_large] "Messages dropped, by reason."
        |of| of.sample.stats.dropped_too_large;
    counter messages_dropped [reason session_ended] "Messages dropped, by reason."
        |of| of.sample.stats.dropped_session_ended;
    counter messages_dropped [reason retained_full] "Messages dropped, by reason."
        |of| of.sample.stats.dropped_retained_full;
    counter messages_dropped [reason hook] "Messages dropped, by reason." |of| of.sample.stats.dropped_by_hooks;
    counter publishes_refused "Messages refused because a receiver had no room for them."
        |of| of.sample.stats.publishes_refused;
    counter publishes_held "Messages of clients before 5.0 that waited for such room."
        |of| of.sample.stats.publishes_held;
    counter publishers_given_up "Clients whose connection ended because such a message waited too long."
        |of| of.sample.stats.publishers_given_up;
    counter sessions_overflowed "Sessions that ended because their queue was full."
        |of| of.sample.stats.sessions_overflowed;
    counter duplicates_suppressed "QoS 2 messages that had arrived before."
        |of| of.sample.stats.duplicates_suppressed;
    counter publishes_denied "Publishes and wills the rights forbade." |of| of.sample.stats.publishes_denied;
    counter deliveries_denied "Deliveries the rights forbade." |of| of.sample.stats.deliveries_denied;
    counter wills_sent "Wills sent." |of| of.sample.stats.wills_sent;
    counter sessions_expired "Sessions to which nobody came back." |of| of.sample.stats.sessions_expired;
    counter sessions_displaced "Sessions that gave way to a newer one of their user."
        |of| of.sample.stats.sessions_displaced;
    counter sessions_refused "Clients for whose session or will there was no room."
        |of| of.sample.stats.sessions_refused;
    counter subscriptions_refused "Topic filters for which there was no room."
        |of| of.sample.stats.subscriptions_refused;
    counter publishers_paused "Times a client published too fast and was not read."
        |of| of.sample.stats.publishers_paused;
    counter logins_refused "Connections of clients that could not prove who they are, or may not be who they say."
        |of| of.sample.stats.logins_refused;
    counter reloads "Times the configuration was read again and took effect." |of| of.sample.reloads.done;
    counter reloads_rejected "Times it was read again and was rejected for a mistake."
        |of| of.sample.reloads.rejected;
    gauge bans "Clients, users and networks that are kept out." |of| of.sample.stats.bans;
    counter kicks "Kicks that were begun." |of| of.sample.stats.kicks;
    counter kicks_in_vain "Kicks that found nobody." |of| of.sample.stats.kicks_in_vain;
    counter clients_kicked "Connected clients that were kicked." |of| of.sample.stats.clients_kicked;
    counter sessions_purged "Sessions that a kick forgot." |of| of.sample.stats.sessions_purged;
    counter connections_banned "Connections of those who are kept out." |of| of.sample.stats.connections_banned;
    gauge journal_health "Whether the journal takes what comes: 0; 1: it is full, 2: it has failed."
        |of| of.journal.health;
    gauge journal_bytes "Bytes of the journal's files." |of| of.journal.bytes;
    gauge journal_waiting_changes "Changes given to the journal and not stored yet." |of| of.journal.waiting_changes;
    gauge journal_parked_packets "Packets that wait until something is stored." |of| of.journal.parked_packets;
    gauge journal_device_bytes_today "Bytes the medium was given within the running day, counted from the start."
        |of| of.journal.device_bytes_today;
    counter journal_device_bytes "Bytes the medium was given." |of| of.journal.device_bytes;
    counter journal_records "Records written." |of| of.journal.records;
    counter journal_syncs "Times the journal waited for the medium." |of| of.journal.syncs;
    counter journal_failures "Times the disk failed or was full." |of| of.journal.failures;
    counter memory_refusals "Times something was refused or given up for want of memory."
        |of| of.sample.stats.memory_refusals;
}

/// Resident memory of this process; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let kib = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    kib().unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_metric_stand_side_by_side_and_have_names_of_their_own() {
        let mut keys: Vec<String> = FIGURES.iter().map(Figure::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), FIGURES.len());
        let metrics = FIGURES.chunk_by(|a, b| a.name == b.name).count();
        let mut names: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), metrics);
    }

    #[test]
    fn resident_memory_is_what_a_running_process_has() {
        assert!(resident_bytes() > 64 * 1024);
    }
}
