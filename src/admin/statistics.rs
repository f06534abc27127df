//! `$SYS`: what the gateway counts, as retained messages under the names that mosquitto gave them, for dashboards
//! depend on those.
//!
//! What mosquitto has no name for stands below `$SYS/tidegate`.
//!
//! A statistic is published when it has changed, at most once an interval, and only while somebody has subscribed to
//! a topic that starts with `$SYS`: an idle gateway stays idle.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::{Message, Stats};
use crate::mqtt::{QoS, TopicName};

/// What is looked at to tell the statistics.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// What the broker counts.
    pub stats: &'a Stats,
    /// What passed the links.
    pub traffic: &'a Traffic,
    /// Subscriptions that are shared (section 4.8.2).
    pub shared_subscriptions: usize,
    /// How often the configuration was read again.
    pub reloads: Reloads,
}

/// What became of the reloads that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Those that took effect.
    pub done: u64,
    /// Those that were rejected for a mistake.
    pub rejected: u64,
}

/// What passed all links since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read, those of TLS and WebSocket around MQTT not counted.
    pub bytes_received: u64,
    /// Bytes sent or about to be, counted the same way.
    pub bytes_sent: u64,
    /// Packets sent or about to be.
    pub packets_sent: u64,
    /// Payload bytes of PUBLISH packets received.
    pub payload_bytes_received: u64,
    /// Payload bytes of PUBLISH packets sent.
    pub payload_bytes_sent: u64,
}

/// The statistics as they were last told.
///
/// 1. `due` is an interval after the last time, so that nothing is told more often.
/// 2. `told` has an entry for each of [`COUNTS`] and [`OWN_COUNTS`], `loads` one for each of [`RATES`], in their order.
#[derive(Debug)]
pub struct Statistics {
    interval: Duration,
    started: Instant,
    due: Instant,
    sampled: Instant,
    told_version: bool,
    told_uptime_secs: Option<u64>,
    told: Vec<Option<u64>>,
    loads: Vec<Load>,
}

/// How fast something goes, averaged over three spans of time.
#[derive(Debug, Clone, Default)]
struct Load {
    /// The counter when it was last looked at.
    count: u64,
    /// A minute, by span.
    per_minute: [f64; SPANS.len()],
    /// What was told, in hundredths.
    told: [Option<u64>; SPANS.len()],
}

/// What is published, and from what it is read; two names for one thing are two names dashboards use.
type Count = (&'static str, fn(&Sample<'_>) -> u64);

const COUNTS: &[Count] = &[
    ("clients/total", |sample| sample.stats.sessions),
    ("clients/maximum", |sample| sample.stats.clients_connected_max),
    ("clients/connected", |sample| sample.stats.clients_connected),
    ("clients/active", |sample| sample.stats.clients_connected),
    ("clients/disconnected", disconnected),
    ("clients/inactive", disconnected),
    ("clients/expired", |sample| sample.stats.sessions_expired),
    ("subscriptions/count", |sample| sample.stats.subscriptions),
    ("shared_subscriptions/count", |sample| {
        sample.shared_subscriptions as u64
    }),
    ("retained messages/count", |sample| sample.stats.retained_messages),
    ("messages/received", |sample| sample.stats.packets_received),
    ("messages/sent", |sample| sample.traffic.packets_sent),
    ("messages/inflight", |sample| sample.stats.inflight_messages),
    ("messages/stored", stored),
    ("store/messages/count", stored),
    ("store/messages/bytes", |sample| {
        sample.stats.retained_bytes + sample.stats.queued_bytes + sample.stats.spilled_bytes
    }),
    ("bytes/received", |sample| sample.traffic.bytes_received),
    ("bytes/sent", |sample| sample.traffic.bytes_sent),
    ("packet/out/count", |sample| sample.traffic.packets_sent),
    ("packet/out/bytes", |sample| sample.traffic.bytes_sent),
    ("publish/messages/received", |sample| {
        sample.stats.messages_received
    }),
    ("publish/messages/sent", |sample| sample.stats.messages_sent),
    ("publish/messages/dropped", |sample| sample.stats.dropped()),
    // Mosquitto has one number for all of these.
    ("publish/messages/dropped/offline", |sample| {
        sample.stats.dropped_offline
    }),
    ("publish/messages/dropped/slow", |sample| {
        sample.stats.dropped_slow
    }),
    ("publish/messages/dropped/queue_full", |sample| {
        sample.stats.dropped_queue_full
    }),
    ("publish/messages/dropped/expired", |sample| {
        sample.stats.dropped_expired
    }),
    ("publish/messages/dropped/damaged", |sample| {
        sample.stats.dropped_damaged
    }),
    ("publish/messages/dropped/too_large", |sample| {
        sample.stats.dropped_too_large
    }),
    ("publish/messages/dropped/session_ended", |sample| {
        sample.stats.dropped_session_ended
    }),
    ("publish/messages/dropped/retained_full", |sample| {
        sample.stats.dropped_retained_full
    }),
    ("publish/messages/dropped/hook", |sample| {
        sample.stats.dropped_by_hooks
    }),
    ("publish/messages/denied", |sample| sample.stats.deliveries_denied),
    ("publish/messages/refused", |sample| {
        sample.stats.publishes_refused
    }),
    ("publish/bytes/received", |sample| {
        sample.traffic.payload_bytes_received
    }),
    ("publish/bytes/sent", |sample| sample.traffic.payload_bytes_sent),
    ("connections/socket/count", |sample| sample.stats.links),
];

/// The same below `$SYS/tidegate`.
const OWN_COUNTS: &[Count] = &[
    ("kicks", |sample| sample.stats.kicks),
    ("kicks_in_vain", |sample| sample.stats.kicks_in_vain),
    ("clients_kicked", |sample| sample.stats.clients_kicked),
    ("sessions_purged", |sample| sample.stats.sessions_purged),
    ("bans", |sample| sample.stats.bans),
    ("connections_banned", |sample| sample.stats.connections_banned),
    ("logins_refused", |sample| sample.stats.logins_refused),
    ("reloads", |sample| sample.reloads.done),
    ("reloads_rejected", |sample| sample.reloads.rejected),
];

/// Counters whose speed is told.
const RATES: &[Count] = &[
    ("messages/received", |sample| sample.stats.packets_received),
    ("messages/sent", |sample| sample.traffic.packets_sent),
    ("publish/received", |sample| sample.stats.messages_received),
    ("publish/sent", |sample| sample.stats.messages_sent),
    ("publish/dropped", |sample| sample.stats.dropped()),
    ("bytes/received", |sample| sample.traffic.bytes_received),
    ("bytes/sent", |sample| sample.traffic.bytes_sent),
    ("sockets", |sample| sample.stats.links_accepted),
    ("connections", |sample| sample.stats.clients_accepted),
];

/// Where mosquitto's names stand.
const BROKER: &str = "$SYS/broker";

/// Where those stand that are our own.
const OWN: &str = "$SYS/tidegate";

/// The spans of the averages, in minutes, with their names.
const SPANS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

fn disconnected(sample: &Sample<'_>) -> u64 {
    sample
        .stats
        .sessions
        .saturating_sub(sample.stats.clients_connected)
}

fn stored(sample: &Sample<'_>) -> u64 {
    let stats = sample.stats;
    stats.retained_messages + stats.queued_messages + stats.inflight_messages + stats.spilled_messages
}

impl Statistics {
    /// Nothing told yet; `interval` is the shortest time between two times.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            started: now,
            due: now,
            sampled: now,
            told_version: false,
            told_uptime_secs: None,
            told: vec![None; COUNTS.len() + OWN_COUNTS.len()],
            loads: vec![Load::default(); RATES.len()],
        }
    }

    /// When the statistics may be told again.
    pub fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// What has changed since it was last told, as messages to publish.
    pub fn poll(&mut self, now: Instant, sample: &Sample<'_>) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut tell_below = |branch: &str, name: &str, value| messages.push(message(branch, name, value));
        self.due = now + self.interval;
        let counts = COUNTS.iter().map(|count| (BROKER, count));
        let own_counts = OWN_COUNTS.iter().map(|count| (OWN, count));
        for ((branch, (name, count)), told) in counts.chain(own_counts).zip(&mut self.told) {
            let count = count(sample);
            if told.replace(count) != Some(count) {
                tell_below(branch, name, count.to_string());
            }
        }
        let mut tell = |name: &str, value: String| tell_below(BROKER, name, value);
        if !std::mem::replace(&mut self.told_version, true) {
            tell(
                "version",
                concat!("tidegate version ", env!("CARGO_PKG_VERSION")).to_owned(),
            );
        }
        let uptime_secs = now.saturating_duration_since(self.started).as_secs();
        if self.told_uptime_secs.replace(uptime_secs) != Some(uptime_secs) {
            tell("uptime", format!("{uptime_secs} seconds"));
        }
        let minutes = now.saturating_duration_since(self.sampled).as_secs_f64() / 60.0;
        self.sampled = now;
        for ((name, count), load) in RATES.iter().zip(&mut self.loads) {
            load.pass(minutes, count(sample));
            for (((_, span), per_minute), told) in SPANS.iter().zip(load.per_minute).zip(&mut load.told) {
                let hundredths = (per_minute * 100.0).round() as u64; // saturates, and nobody counts so fast
                if told.replace(hundredths) != Some(hundredths) {
                    tell(&format!("load/{name}/{span}"), format!("{per_minute:.2}"));
                }
            }
        }
        messages
    }
}

impl Load {
    /// Takes in what happened in the last `minutes`: what is older counts less, by the span of each average.
    fn pass(&mut self, minutes: f64, count: u64) {
        let happened = count.saturating_sub(self.count) as f64;
        if minutes <= 0.0 {
            return; // nothing can have a speed in no time; it is counted the next time
        }
        self.count = count;
        for (per_minute, (span, _)) in self.per_minute.iter_mut().zip(SPANS) {
            let older = (-minutes / span).exp();
            *per_minute = *per_minute * older + happened / minutes * (1.0 - older);
        }
    }
}

/// At QoS 0: an absent reader should not find a queue of old figures when it comes back; the topic keeps the last.
fn message(branch: &str, name: &str, value: String) -> Message {
    let topic = format!("{branch}/{name}");
    Message {
        topic: TopicName::try_from(topic.as_str()).expect("the names above have no wildcard"),
        payload: Bytes::from(value),
        qos: QoS::AtMostOnce,
        retain: true,
        properties: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn told(
        statistics: &mut Statistics,
        now: Instant,
        stats: &Stats,
        traffic: &Traffic,
    ) -> Vec<(String, String)> {
        let sample = Sample {
            stats,
            traffic,
            shared_subscriptions: 0,
            reloads: Reloads::default(),
        };
        let messages = statistics.poll(now, &sample).into_iter();
        let shown = messages.map(|message| {
            let value = String::from_utf8(message.payload.to_vec()).expect("a figure");
            let topic = message.topic.as_str();
            let name = topic.strip_prefix("$SYS/broker/").unwrap_or(topic);
            (name.to_owned(), value)
        });
        shown.collect()
    }

    fn value<'a>(told: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let found = told.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }

    #[test]
    fn everything_is_told_once_and_then_what_has_changed() {
        let start = Instant::now();
        let mut statistics = Statistics::new(INTERVAL, start);
        let (mut stats, mut traffic) = (Stats::default(), Traffic::default());
        let first = told(&mut statistics, start, &stats, &traffic);
        assert_eq!(
            first.len(),
            2 + COUNTS.len() + OWN_COUNTS.len() + RATES.len() * SPANS.len()
        );
        assert_eq!(value(&first, "clients/connected"), Some("0"));
        assert_eq!(told(&mut statistics, start, &stats, &traffic), []);

        stats.clients_connected = 3;
        stats.clients_kicked = 2;
        stats.logins_refused = 4;
        stats.sessions = 5;
        traffic.bytes_sent = 70;
        let next = told(&mut statistics, start + INTERVAL, &stats, &traffic);
        for (name, expected) in [
            ("uptime", "10 seconds"),
            ("clients/connected", "3"),
            ("clients/active", "3"),
            ("clients/total", "5"),
            ("clients/disconnected", "2"),
            ("bytes/sent", "70"),
            ("$SYS/tidegate/clients_kicked", "2"),
            ("$SYS/tidegate/logins_refused", "4"),
        ] {
            assert_eq!(value(&next, name), Some(expected), "{name}");
        }
        assert_eq!(
            (value(&next, "version"), value(&next, "messages/received")),
            (None, None)
        );
    }

    #[test]
    fn a_load_nears_the_speed_that_lasts_and_forgets_the_one_that_does_not() {
        let mut now = Instant::now();
        let mut statistics = Statistics::new(INTERVAL, now);
        let (mut stats, traffic) = (Stats::default(), Traffic::default());
        let mut latest = std::collections::BTreeMap::new();
        for _ in 0..1200 {
            now += INTERVAL;
            stats.messages_received += 20; // 120 a minute
            latest.extend(told(&mut statistics, now, &stats, &traffic));
        }
        for span in ["1min", "5min", "15min"] {
            assert_eq!(latest[&format!("load/publish/received/{span}")], "120.00");
        }
        now += INTERVAL * 6;
        latest.extend(told(&mut statistics, now, &stats, &traffic));
        // A minute of silence leaves 1/e of the average over one minute.
        assert_eq!(latest["load/publish/received/1min"], "44.15");
        assert_eq!(latest["load/publish/received/5min"], "98.25");
    }

    #[test]
    fn it_is_due_an_interval_after_it_was_told() {
        let now = Instant::now();
        let mut statistics = Statistics::new(INTERVAL, now);
        assert_eq!(statistics.poll_timeout(), now);
        told(&mut statistics, now, &Stats::default(), &Traffic::default());
        assert_eq!(statistics.poll_timeout(), now + INTERVAL);
    }
}
