//! `[[queue]]`: whose queue is longer, and what gives way in it.

use super::file;
use crate::board::limits;
use crate::broker::{Limits, Pattern, QUEUE_RULES_MAX, QueueRule};
use crate::document::{Table, size_text};
use crate::mqtt::TopicFilter;

/// Reads all rules, in their order.
pub(super) fn read(root: &Table<'_>, limits: &Limits) -> Vec<QueueRule> {
    let tables = root.tables("queue", &file::QUEUE);
    if let Some(table) = tables.get(QUEUE_RULES_MAX) {
        let message = format!(
            "found {} tables, expected at most {QUEUE_RULES_MAX}",
            tables.len()
        );
        table.document().mistake(&table.own_place(), message);
    }
    tables.iter().map(|table| read_rule(table, limits)).collect()
}

fn read_rule(table: &Table<'_>, limits: &Limits) -> QueueRule {
    let rule = QueueRule {
        users: read_list(table, "user", Pattern::parse),
        clients: read_list(table, "client", Pattern::parse),
        topics: read_list(table, "topics", |text| TopicFilter::try_from(text)),
        class: limits::read_queue_class(table, "messages_max"),
        bytes_max: read_bytes_max(table, limits),
        spill_bytes_max: (table.size("spill_bytes_max", 0..=1 << 40))
            .and_then(|bytes| usize::try_from(bytes).ok()),
        overflow: limits::read_overflow(table, "overflow"),
        qos0: table.flag("qos0"),
    };
    if table.has("topics") {
        for key in ["messages_max", "bytes_max", "spill_bytes_max"]
            .into_iter()
            .filter(|key| table.has(key))
        {
            let message =
                "found beside topics, expected in a rule of its own: a client has one queue for all topics";
            table.mistake(key, message);
        }
    }
    let (topics, settings) = (
        rule.topics.iter(),
        ["messages_max", "bytes_max", "spill_bytes_max", "overflow", "qos0"],
    );
    for filter in topics.filter(|filter| filter.share().is_some()) {
        let message = format!(
            "found {:?}, expected a filter that is not shared",
            filter.as_str()
        );
        table.mistake("topics", message);
    }
    if !settings.iter().any(|key| table.has(key)) {
        let message = format!("sets nothing, expected one of {}", settings.join(", "));
        table.document().mistake(&table.own_place(), message);
    }
    rule
}

/// One text or a list of them, each as `parse` takes it.
fn read_list<T, E: std::fmt::Display>(
    table: &Table<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    let texts = table.texts(key).unwrap_or_default();
    if texts.is_empty() && table.has(key) {
        // Nobody means everybody by an empty list.
        table.mistake(key, "expected at least one, or no such line for all");
    }
    let mut list = Vec::with_capacity(texts.len());
    for (text, place) in texts {
        match parse(text) {
            Ok(item) => list.push(item),
            Err(error) => table
                .document()
                .mistake(&place, format!("found {text:?}, {error}")),
        }
    }
    list
}

/// A queue that has to hold the largest packet at least, and no more than all queues together.
fn read_bytes_max(table: &Table<'_>, limits: &Limits) -> Option<usize> {
    let bytes = table.size("bytes_max", 1024..=1 << 30)?;
    let (least, most) = (
        u64::from(limits.packet_bytes_max),
        u64::try_from(limits.queued_bytes_total_max).unwrap_or(u64::MAX),
    );
    if !(least..=most).contains(&bytes) {
        let message = format!(
            "found {}, expected at least the packet_bytes_max of [limits], {}, and at most its queued_bytes_total_max, \
             {}",
            size_text(bytes),
            size_text(least),
            size_text(most)
        );
        table.mistake("bytes_max", message);
    }
    usize::try_from(bytes).ok()
}
