//! How state is kept, as a person writes it: in a board's profile and in the configuration's `[journal]`.

use std::time::Duration;

use crate::document::{Key, Section, Table, duration_text, size_text};
use crate::storage::settings::SYNC_INTERVAL;
use crate::storage::{JournalSettings, Mode};

/// The table `[journal]`.
pub static SECTION: Section = Section {
    name: "journal",
    about: "What becomes of sessions, messages that wait and retained messages, where there is a state_directory.",
    keys: &[
        Key {
            name: "mode",
            expects: "\"durable\", \"relaxed\" or \"memory\"",
            default: "the board's",
            about: "When something counts as stored and is acknowledged: when the medium has it, at once (a power \
                    cut loses what was acknowledged in the last sync_interval), or nothing is stored.",
        },
        Key {
            name: "sync_interval",
            expects: "a duration from \"10ms\" to \"1h\"",
            default: "\"1s\"",
            about: "With mode = \"relaxed\": how old something may be that the medium does not have yet.",
        },
        Key {
            name: "idle_interval",
            expects: "a duration from \"0s\" to \"1h\"",
            default: "the board's",
            about: "How long is waited with what nobody is told about, such as retained messages at QoS 0, so that \
                    more of it is written together.",
        },
        Key {
            name: "bytes_max",
            expects: "a size from \"4 MiB\" to \"64 GiB\"",
            default: "the board's",
            about: "The size of the journal; two fifths of it at most are what is kept.",
        },
        Key {
            name: "free_bytes_min",
            expects: "a size up to \"64 GiB\"",
            default: "the board's",
            about: "What is left free on the file system for others.",
        },
        Key {
            name: "bytes_per_day_max",
            expects: "a size up to \"1 TiB\", or \"0 B\" for any",
            default: "the board's",
            about: "From how much written within a day on a warning is logged: cards wear out.",
        },
    ],
};

const KINDS: [(&str, Kind); 3] = [
    ("durable", Kind::Durable),
    ("relaxed", Kind::Relaxed),
    ("memory", Kind::Memory),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Durable,
    Relaxed,
    Memory,
}

/// Sets in `journal` what `table` says.
pub fn read(table: &Table<'_>, journal: &mut JournalSettings) {
    let hour = Duration::from_secs(3600);
    let sync_interval = table.duration("sync_interval", Duration::from_millis(10)..=hour);
    let before = match journal.mode {
        Mode::Durable => (Kind::Durable, SYNC_INTERVAL),
        Mode::Relaxed(interval) => (Kind::Relaxed, interval),
        Mode::Memory => (Kind::Memory, SYNC_INTERVAL),
    };
    let kind = table.choice("mode", &KINDS).unwrap_or(before.0);
    journal.mode = match kind {
        Kind::Durable => Mode::Durable,
        Kind::Relaxed => Mode::Relaxed(sync_interval.unwrap_or(before.1)),
        Kind::Memory => Mode::Memory,
    };
    let set = |key: &str, range, field: &mut u64| {
        if let Some(bytes) = table.size(key, range) {
            *field = bytes;
        }
    };
    set("bytes_max", 4 << 20..=64 << 30, &mut journal.bytes_max);
    set("free_bytes_min", 0..=64 << 30, &mut journal.free_bytes_min);
    set("bytes_per_day_max", 0..=1 << 40, &mut journal.bytes_per_day_max);
    if let Some(interval) = table.duration("idle_interval", Duration::ZERO..=hour) {
        journal.idle_interval = interval;
    }
}

/// Every key with its value as it would be written.
pub fn shown(journal: &JournalSettings) -> Vec<(&'static str, String)> {
    let kind = match journal.mode {
        Mode::Durable => Kind::Durable,
        Mode::Relaxed(_) => Kind::Relaxed,
        Mode::Memory => Kind::Memory,
    };
    let name = KINDS.iter().find(|(_, known)| *known == kind);
    let mut shown = vec![(
        "mode",
        name.map(|(name, _)| format!("{name:?}")).unwrap_or_default(),
    )];
    if let Mode::Relaxed(interval) = journal.mode {
        shown.push(("sync_interval", format!("{:?}", duration_text(interval))));
    }
    shown.push((
        "idle_interval",
        format!("{:?}", duration_text(journal.idle_interval)),
    ));
    for (key, bytes) in [
        ("bytes_max", journal.bytes_max),
        ("free_bytes_min", journal.free_bytes_min),
        ("bytes_per_day_max", journal.bytes_per_day_max),
    ] {
        shown.push((key, format!("{:?}", size_text(bytes))));
    }
    shown
}
