//! What a listener grants: less than `[limits]`, never more.

use std::fmt::Display;
use std::time::Duration;

use crate::broker::{ClientIds, Limits, ListenerPolicy, MountPoint, Versions};
use crate::document::{Table, duration_text, size_text};
use crate::mqtt::ProtocolVersion;

/// Versions by the names people know them by.
const VERSIONS: [(&str, ProtocolVersion); 4] = [
    ("3.1", ProtocolVersion::V31),
    ("3.1.1", ProtocolVersion::V311),
    ("5.0", ProtocolVersion::V5),
    ("5", ProtocolVersion::V5),
];

/// Reads all that a listener's table says of its clients.
pub(super) fn read(table: &Table<'_>, name: &str, anonymous: bool, limits: &Limits) -> ListenerPolicy {
    let bounds = Bounds { table };
    let packet_bytes_max = table
        .size("packet_bytes_max", 1024..=16 << 20)
        .and_then(|bytes| u32::try_from(bytes).ok());
    let keep_alive_max = read_seconds(table, "keep_alive_max", 10..=65_535);
    let session_expiry_max = table.duration(
        "session_expiry_max",
        Duration::ZERO..=Duration::from_secs(365 * 24 * 3600),
    );
    let receive_maximum = read_count(table, "receive_maximum", 1);
    let topic_alias_maximum = read_count(table, "topic_alias_maximum", 0);
    let bytes = |bytes: u32| size_text(bytes.into());
    let seconds = |seconds: u16| duration_text(Duration::from_secs(seconds.into()));
    ListenerPolicy {
        versions: read_versions(table),
        mount_point: table.parsed("mount_point", MountPoint::parse),
        packet_bytes_max: bounds.within(
            "packet_bytes_max",
            packet_bytes_max,
            limits.packet_bytes_max,
            bytes,
        ),
        keep_alive_max_secs: bounds.within(
            "keep_alive_max",
            keep_alive_max,
            limits.keep_alive_max_secs,
            seconds,
        ),
        receive_maximum: bounds.within(
            "receive_maximum",
            receive_maximum,
            limits.receive_maximum,
            |count| count,
        ),
        topic_alias_maximum: bounds.within(
            "topic_alias_maximum",
            topic_alias_maximum,
            limits.topic_alias_maximum,
            |count| count,
        ),
        session_expiry_max: bounds.within(
            "session_expiry_max",
            session_expiry_max,
            limits.session_expiry_max,
            duration_text,
        ),
        client_ids: read_client_ids(table, anonymous),
        strict_client_ids: table.flag("strict_client_ids").unwrap_or(false),
        ..ListenerPolicy::new(name, anonymous)
    }
}

/// Bounds that a listener may only lower.
pub(super) struct Bounds<'a> {
    pub(super) table: &'a Table<'a>,
}

impl Bounds<'_> {
    /// What was found, where it is less than the limits grant; tells where it is more.
    pub(super) fn within<T: PartialOrd + Copy, S: Display>(
        &self,
        key: &str,
        found: Option<T>,
        of_limits: T,
        shown: impl Fn(T) -> S,
    ) -> Option<T> {
        if let Some(found) = found
            && found > of_limits
        {
            let (found, most) = (shown(found), shown(of_limits));
            self.table.mistake(
                key,
                format!("found {found}, expected at most the {most} of [limits]"),
            );
        }
        found.filter(|found| *found < of_limits)
    }
}

fn read_client_ids(table: &Table<'_>, anonymous: bool) -> ClientIds {
    let kinds = [
        ("any", ClientIds::Any),
        ("user", ClientIds::User),
        ("user-prefix", ClientIds::UserPrefix),
    ];
    let found = table.choice("client_ids", &kinds).unwrap_or_default();
    if anonymous && found != ClientIds::Any {
        let message = "keeps out everybody who gives no user name, whom this listener lets in; expected \
                       anonymous = false beside it";
        table.mistake("client_ids", message);
    }
    found
}

fn read_count(table: &Table<'_>, key: &str, least: u64) -> Option<u16> {
    let count = table.integer(key, least..=65_535);
    count.and_then(|count| u16::try_from(count).ok())
}

fn read_seconds(table: &Table<'_>, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u16> {
    let (least, most) = (*range.start(), *range.end());
    let duration = table.duration(key, Duration::from_secs(least)..=Duration::from_secs(most))?;
    if duration.subsec_nanos() != 0 {
        table.mistake(key, "expected whole seconds");
    }
    u16::try_from(duration.as_secs()).ok()
}

fn read_versions(table: &Table<'_>) -> Versions {
    let Some(texts) = table.texts("versions") else {
        return Versions::ALL;
    };
    if texts.is_empty() {
        table.mistake("versions", "found an empty list, expected at least one version");
    }
    let mut versions = Versions::NONE;
    for (text, place) in texts {
        match VERSIONS.iter().find(|(name, _)| *name == text) {
            Some((_, version)) => versions = versions.with(*version),
            None => {
                let message = format!("found {text:?}, expected \"3.1\", \"3.1.1\" or \"5.0\"");
                table.document().mistake(&place, message);
            }
        }
    }
    versions
}
