//! The bounds of the core as a person writes them, in a board's profile and in the configuration's `[limits]`.

use std::time::Duration;

use crate::broker::{KickQueueClass, Limits, Overflow, QueueClass};
use crate::document::{Key, Section, Table, duration_text, size_text};

/// One list makes the keys, the reading and the showing: key, field, how it is written, range, what it bounds.
macro_rules! limits {
    ($($key:literal $field:ident $form:ident($($range:tt)*) $about:literal;)*) => {
        /// The table `[limits]`.
        pub static SECTION: Section = Section {
            name: "limits",
            about: "What peers may grow; the values of the board hold where nothing is said.",
            keys: &[$(Key { name: $key, expects: $form::EXPECTS, default: "the board's", about: $about },)*],
        };

        /// Sets in `limits` what `table` says.
        pub fn read(table: &Table<'_>, limits: &mut Limits) {
            $($form::read(table, $key, $($range)*, &mut limits.$field);)*
            for (key, message) in contradictions(limits) {
                if table.has(key) {
                    table.mistake(key, message);
                }
            }
        }

        /// Every key with its value as it would be written.
        pub fn shown(limits: &Limits) -> Vec<(&'static str, String)> {
            vec![$(($key, $form::shown(&limits.$field)),)*]
        }
    };
}

limits! {
    "connections_max" connections_max count(1..=65_536)
        "Connections at one time, those without CONNECT included.";
    "connect_timeout" connect_timeout time(1, 300)
        "From accept to CONNECT.";
    "keep_alive_max" keep_alive_max_secs seconds(10, 65_535)
        "The keep-alive told to 5.0 clients that ask for more, or for none.";
    "packet_bytes_max" packet_bytes_max bytes(1024..=16 << 20)
        "The largest packet accepted, with its header.";
    "connect_bytes_max" connect_bytes_max bytes(1024..=16 << 20)
        "The largest CONNECT accepted, with its header, from whoever it is.";
    "topic_bytes_max" topic_bytes_max bytes(16..=65_535)
        "Topic names and filters.";
    "topic_levels_max" topic_levels_max count(2..=1024)
        "Levels of a topic name or filter.";
    "subscriptions_per_client_max" subscriptions_per_client_max count(1..=1 << 20)
        "Topic filters of one client.";
    "subscriptions_max" subscriptions_max count(1..=16 << 20)
        "Topic filters of all clients.";
    "subscriptions_per_user_max" subscriptions_per_user_max count(1..=16 << 20)
        "Topic filters of all sessions of one user, or without a name of one address.";
    "user_properties_max" user_properties_max count(0..=1024)
        "User properties of one packet.";
    "user_properties_bytes_max" user_properties_bytes_max bytes(0..=16 << 20)
        "Names and values of the user properties of one packet.";
    "will_bytes_max" will_bytes_max bytes(0..=16 << 20)
        "A will with its topic and properties.";
    "wills_bytes_total_max" wills_bytes_total_max bytes(0..=1 << 30)
        "The wills of all sessions.";
    "inflight_max" inflight_max count(1..=65_535)
        "Unfinished QoS 1 and 2 deliveries to one client.";
    "receive_maximum" receive_maximum count(1..=65_535)
        "Unfinished QoS 2 deliveries from one 5.0 client.";
    "topic_alias_maximum" topic_alias_maximum count(0..=65_535)
        "Topic aliases of one client.";
    "queue_messages_max" queue_class class(())
        "Messages waiting for one client.";
    "queue_bytes_max" queue_bytes_max bytes(1024..=1 << 30)
        "Payload and topic bytes waiting for one client.";
    "queue_overflow" queue_overflow overflow(())
        "What gives way when a queue is full: a message, its publisher, or its reader; every drop is counted.";
    "queue_qos0" queue_qos0 flag(())
        "Whether messages at QoS 0 wait for clients that are away, too.";
    "publish_wait_max" publish_wait_max time(0, 3600)
        "With \"reject\": how long a client before 5.0 waits for its acknowledgement; then its connection ends.";
    "queued_bytes_total_max" queued_bytes_total_max bytes(1024..=3 << 30)
        "Payload and topic bytes waiting for all clients.";
    "spill_bytes_max" spill_bytes_max bytes(0..=1 << 40)
        "Payload and topic bytes waiting for one client beyond its queue, in the journal alone; \"0 B\": none.";
    "spill_bytes_total_max" spill_bytes_total_max bytes(0..=1 << 40)
        "The same for all clients; with a journal at most a quarter of its bytes_max.";
    "spill_age_max" spill_age_max time(0, 365 * 24 * 3600)
        "How old what waits there may get before it is dropped; \"0s\": any.";
    "unsent_bytes_max" unsent_bytes_max bytes(4096..=64 << 20)
        "Bytes handed to a connection and not yet out.";
    "sessions_max" sessions_max count(1..=1 << 20)
        "Sessions kept, connected or not.";
    "sessions_per_user_max" sessions_per_user_max count(1..=1 << 20)
        "Sessions kept for one user, or without a name for one address; the longest absent gives way.";
    "session_expiry_max" session_expiry_max time(0, 365 * 24 * 3600)
        "How long a session outlives its connection at most.";
    "retained_max" retained_max count(0..=16 << 20)
        "Retained messages.";
    "retained_bytes_max" retained_bytes_max bytes(0..=3 << 30)
        "Payload and topic bytes of retained messages.";
    "retained_per_user_max" retained_per_user_max count(0..=16 << 20)
        "Retained messages of one user, or without a name of one address.";
    "retained_bytes_per_user_max" retained_bytes_per_user_max bytes(0..=3 << 30)
        "Payload and topic bytes of these.";
    "publish_rate_max" publish_rate_max count(1..=u64::from(u32::MAX))
        "Messages and topic filters a second from one client, in the long run; more wait unread.";
    "publish_bytes_rate_max" publish_bytes_rate_max bytes(1024..=3 << 30)
        "Bytes a second of messages from one client, in the long run; more wait unread.";
    "kick_gap_min" kick_gap_min millis(1, 1000)
        "The least time between two goes at kicks.";
    "kicks_per_tick_max" kicks_per_tick_max count(1..=1 << 20)
        "Clients sent away in one go.";
    "kick_queue_max" kick_queue_class kick_class(())
        "Kicks asked for and not begun; one more is refused.";
    "bans_max" bans_max count(0..=65_536)
        "Clients, users and networks kept out at one time.";
    "memory_bytes_max" memory_bytes_max bytes(1 << 20..=3 << 30)
        "Everything peers grow together, at what it costs in memory.";
}

/// How many messages wait for a client, where `table` says so.
pub fn read_queue_class(table: &Table<'_>, key: &str) -> Option<QueueClass> {
    class::find(table, key)
}

/// What gives way in a full queue, where `table` says so.
pub fn read_overflow(table: &Table<'_>, key: &str) -> Option<Overflow> {
    overflow::find(table, key)
}

/// How the classes of queues are written, and what may give way in one.
pub const QUEUE_EXPECTS: (&str, &str) = (class::EXPECTS, overflow::EXPECTS);

/// Bounds that cannot hold together: the key to change and why.
pub fn contradictions(limits: &Limits) -> Vec<(&'static str, String)> {
    let packet_bytes_max = usize::try_from(limits.packet_bytes_max).unwrap_or(usize::MAX);
    // The first must not exceed the second.
    let pairs = [
        (
            "packet_bytes_max",
            packet_bytes_max,
            "queue_bytes_max",
            limits.queue_bytes_max,
        ),
        (
            "spill_bytes_max",
            limits.spill_bytes_max,
            "spill_bytes_total_max",
            limits.spill_bytes_total_max,
        ),
        (
            "queue_bytes_max",
            limits.queue_bytes_max,
            "queued_bytes_total_max",
            limits.queued_bytes_total_max,
        ),
        (
            "will_bytes_max",
            limits.will_bytes_max,
            "packet_bytes_max",
            packet_bytes_max,
        ),
        (
            "will_bytes_max",
            limits.will_bytes_max,
            "connect_bytes_max",
            usize::try_from(limits.connect_bytes_max).unwrap_or(usize::MAX),
        ),
        (
            "queued_bytes_total_max",
            limits.queued_bytes_total_max,
            "memory_bytes_max",
            limits.memory_bytes_max,
        ),
        (
            "retained_bytes_max",
            limits.retained_bytes_max,
            "memory_bytes_max",
            limits.memory_bytes_max,
        ),
        (
            "topic_bytes_max",
            limits.topic_bytes_max,
            "packet_bytes_max",
            packet_bytes_max,
        ),
        (
            "connections_max",
            limits.connections_max,
            "sessions_max",
            limits.sessions_max,
        ),
        (
            "subscriptions_per_client_max",
            limits.subscriptions_per_client_max,
            "subscriptions_max",
            limits.subscriptions_max,
        ),
    ];
    let wrong = pairs.into_iter().filter(|(_, less, _, more)| less > more);
    let small = packet_bytes_max > limits.memory_bytes_max / PACKETS_IN_MEMORY_MIN;
    let small = small.then(|| {
        let memory = limits.memory_bytes_max;
        let message = format!(
            "packet_bytes_max is {packet_bytes_max} and must not exceed a twentieth of memory_bytes_max, which is \
             {memory}"
        );
        [("packet_bytes_max", message.clone()), ("memory_bytes_max", message)]
    });
    wrong
        .flat_map(|(less_key, less, more_key, more)| {
            let message = format!("{less_key} is {less} and must not exceed {more_key}, which is {more}");
            [(less_key, message.clone()), (more_key, message)]
        })
        .chain(small.into_iter().flatten())
        .collect()
}

/// How many of the largest packets there must be room for: the last part of the memory budget, from which packets are
/// refused of which a part has arrived, is a twentieth, and one of them must fit into it.
const PACKETS_IN_MEMORY_MIN: usize = 20;

/// What the program takes for itself, in bytes: its code, certificates, the buffers all links share, the stacks of its
/// threads. Measured 5 MiB; the rest is for the allocator's losses.
pub const PROGRAM_BYTES: u64 = 12 * 1024 * 1024;

/// The part of a board's memory that is the gateway's: the system and the kernel's socket buffers need theirs.
const BOARD_SHARE: u64 = 2;

/// The most that memory_bytes_max may be where a board has `ram_mib` and a password check takes `password_kib`.
pub fn memory_bytes_fitting(ram_mib: u64, password_kib: u32) -> u64 {
    let share = ram_mib.saturating_mul(1024 * 1024) / BOARD_SHARE;
    share
        .saturating_sub(PROGRAM_BYTES)
        .saturating_sub(u64::from(password_kib) * 1024)
}

/// Bounds that do not fit into the memory of their board: the keys one of which has to change, and why.
pub fn misfits(limits: &Limits, ram_mib: u64, password_kib: u32) -> Vec<(Vec<&'static str>, String)> {
    let memory = u64::try_from(limits.memory_bytes_max).unwrap_or(u64::MAX);
    let fitting = memory_bytes_fitting(ram_mib, password_kib);
    let mut misfits = Vec::new();
    if memory > fitting {
        let message = format!(
            "memory_bytes_max is {}, expected at most {} KiB: half of the {ram_mib} MiB this board has, less {} for \
             the program and {} for a password check; lower it, or write a profile of a board with more ram_mib",
            size_text(memory),
            fitting / 1024,
            size_text(PROGRAM_BYTES),
            size_text(u64::from(password_kib) * 1024),
        );
        misfits.push((vec!["memory_bytes_max"], message));
    }
    let mut standing = limits.standing_bytes();
    standing.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let total = standing
        .iter()
        .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if total > memory {
        let parts: Vec<String> = standing
            .iter()
            .map(|(key, bytes)| format!("{key} {} KiB", bytes / 1024))
            .collect();
        let message = format!(
            "memory_bytes_max is {}, and the numbers alone need {} KiB ({}); lower one of these, or raise it",
            size_text(memory),
            total / 1024,
            parts.join(", ")
        );
        let keys = standing.iter().map(|(key, _)| *key);
        misfits.push((keys.chain(["memory_bytes_max"]).collect(), message));
    }
    misfits
}

/// Tells `misfits` where the first of their keys is written.
pub fn tell_misfits(table: &Table<'_>, misfits: Vec<(Vec<&'static str>, String)>) -> bool {
    let mut all_told = true;
    for (keys, message) in misfits {
        match keys.into_iter().find(|key| table.has(key)) {
            Some(key) => table.mistake(key, message),
            None => all_told = false,
        }
    }
    all_told
}

mod count {
    use super::*;
    use std::ops::RangeInclusive;

    pub(super) const EXPECTS: &str = "an integer";

    pub(super) fn read<T: TryFrom<u64>>(
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        field: &mut T,
    ) {
        if let Some(value) = table
            .integer(key, range)
            .and_then(|value| T::try_from(value).ok())
        {
            *field = value;
        }
    }

    pub(super) fn shown<T: ToString>(field: &T) -> String {
        field.to_string()
    }
}

mod bytes {
    use super::*;
    use std::ops::RangeInclusive;

    pub(super) const EXPECTS: &str = "a size such as \"64 KiB\"";

    pub(super) fn read<T: TryFrom<u64>>(
        table: &Table<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        field: &mut T,
    ) {
        if let Some(value) = table.size(key, range).and_then(|value| T::try_from(value).ok()) {
            *field = value;
        }
    }

    pub(super) fn shown<T: Copy + TryInto<u64>>(field: &T) -> String {
        format!("{:?}", size_text((*field).try_into().unwrap_or(u64::MAX)))
    }
}

mod time {
    use super::*;

    pub(super) const EXPECTS: &str = "a duration such as \"10s\"";

    pub(super) fn read(table: &Table<'_>, key: &str, secs_min: u64, secs_max: u64, field: &mut Duration) {
        let range = Duration::from_secs(secs_min)..=Duration::from_secs(secs_max);
        if let Some(value) = table.duration(key, range) {
            *field = value;
        }
    }

    pub(super) fn shown(field: &Duration) -> String {
        format!("{:?}", duration_text(*field))
    }
}

/// A duration below seconds.
mod millis {
    use super::*;

    pub(super) const EXPECTS: &str = "a duration such as \"10ms\"";

    pub(super) fn read(table: &Table<'_>, key: &str, millis_min: u64, millis_max: u64, field: &mut Duration) {
        let range = Duration::from_millis(millis_min)..=Duration::from_millis(millis_max);
        if let Some(value) = table.duration(key, range) {
            *field = value;
        }
    }

    pub(super) use super::time::shown;
}

/// A duration kept as whole seconds.
mod seconds {
    use super::*;

    pub(super) const EXPECTS: &str = "a duration such as \"20m\"";

    pub(super) fn read(table: &Table<'_>, key: &str, secs_min: u64, secs_max: u64, field: &mut u16) {
        let mut duration = Duration::from_secs((*field).into());
        time::read(table, key, secs_min, secs_max, &mut duration);
        if duration.subsec_nanos() != 0 {
            table.mistake(key, "expected whole seconds");
        } else if let Ok(secs) = u16::try_from(duration.as_secs()) {
            *field = secs;
        }
    }

    pub(super) fn shown(field: &u16) -> String {
        time::shown(&Duration::from_secs((*field).into()))
    }
}

mod class {
    use super::*;

    pub(super) const EXPECTS: &str = "16, 64, 256, 1024 or 4096";

    pub(super) fn find(table: &Table<'_>, key: &str) -> Option<QueueClass> {
        let messages = table.integer(key, 16..=4096)?;
        let mut classes = QueueClass::ALL.into_iter();
        let found = classes.find(|class| usize::try_from(messages) == Ok(class.messages()));
        if found.is_none() {
            table.mistake(key, format!("found {messages}, expected {EXPECTS}"));
        }
        found
    }

    pub(super) fn read(table: &Table<'_>, key: &str, (): (), field: &mut QueueClass) {
        if let Some(class) = find(table, key) {
            *field = class;
        }
    }

    pub(super) fn shown(field: &QueueClass) -> String {
        field.messages().to_string()
    }
}

mod kick_class {
    use super::*;

    pub(super) const EXPECTS: &str = "64, 256 or 1024";

    pub(super) fn read(table: &Table<'_>, key: &str, (): (), field: &mut KickQueueClass) {
        let Some(kicks) = table.integer(key, 64..=1024) else {
            return;
        };
        let mut classes = KickQueueClass::ALL.into_iter();
        match classes.find(|class| usize::try_from(kicks) == Ok(class.kicks())) {
            Some(class) => *field = class,
            None => table.mistake(key, format!("found {kicks}, expected {EXPECTS}")),
        }
    }

    pub(super) fn shown(field: &KickQueueClass) -> String {
        field.kicks().to_string()
    }
}

mod flag {
    use super::*;

    pub(super) const EXPECTS: &str = "true or false";

    pub(super) fn read(table: &Table<'_>, key: &str, (): (), field: &mut bool) {
        if let Some(value) = table.flag(key) {
            *field = value;
        }
    }

    pub(super) fn shown(field: &bool) -> String {
        field.to_string()
    }
}

mod overflow {
    use super::*;

    pub(super) const EXPECTS: &str = "\"drop-oldest\", \"drop-newest\", \"reject\" or \"disconnect\"";

    const CHOICES: [(&str, Overflow); 4] = [
        ("drop-oldest", Overflow::DropOldest),
        ("drop-newest", Overflow::DropNewest),
        ("reject", Overflow::Reject),
        ("disconnect", Overflow::Disconnect),
    ];

    pub(super) fn find(table: &Table<'_>, key: &str) -> Option<Overflow> {
        table.choice(key, &CHOICES)
    }

    pub(super) fn read(table: &Table<'_>, key: &str, (): (), field: &mut Overflow) {
        if let Some(value) = find(table, key) {
            *field = value;
        }
    }

    pub(super) fn shown(field: &Overflow) -> String {
        let choice = CHOICES.iter().find(|(_, value)| value == field);
        choice.map(|(name, _)| format!("{name:?}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use std::path::Path;

    static SECTIONS: &[&Section] = &[&SECTION];

    fn read_over_default(text: &str) -> (Limits, Vec<String>) {
        let document = Document::parse(Path::new("a"), text, SECTIONS);
        let mut limits = Limits::default();
        read(&document.root(&SECTION), &mut limits);
        (
            limits,
            document.into_mistakes().iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let limits = Limits {
            connections_max: 77,
            keep_alive_max_secs: 61,
            queue_class: QueueClass::N64,
            queue_overflow: Overflow::DropNewest,
            packet_bytes_max: 65_537,
            ..Limits::default()
        };
        let text: String = shown(&limits)
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        assert_eq!(read_over_default(&text), (limits, Vec::new()));
    }

    #[test]
    fn a_queue_has_one_of_five_lengths() {
        let (_, told) = read_over_default("queue_messages_max = 100");
        assert_eq!(
            told,
            ["a:1: queue_messages_max: found 100, expected 16, 64, 256, 1024 or 4096"]
        );
    }

    #[test]
    fn kicks_have_bounds_of_their_own() {
        let (limits, told) = read_over_default("kick_gap_min = '25ms'\nkick_queue_max = 1024\nbans_max = 0");
        assert_eq!(told, [""; 0]);
        assert_eq!(limits.kick_gap_min, Duration::from_millis(25));
        assert_eq!(
            (limits.kick_queue_class, limits.bans_max),
            (KickQueueClass::N1024, 0)
        );
        let (_, told) = read_over_default("kick_queue_max = 100");
        assert_eq!(told, ["a:1: kick_queue_max: found 100, expected 64, 256 or 1024"]);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_told_at_the_key_that_was_written() {
        let (_, told) = read_over_default("packet_bytes_max = '4 MiB'");
        assert_eq!(
            told,
            [
                "a:1: packet_bytes_max: packet_bytes_max is 4194304 and must not exceed queue_bytes_max, \
                which is 1048576"
            ]
        );
    }

    #[test]
    fn the_default_limits_do_not_contradict_each_other() {
        assert_eq!(contradictions(&Limits::default()), []);
    }
}
