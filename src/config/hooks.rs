//! `[hook]`: what is asked before the gateway acts.

use std::time::Duration;

use super::file;
use super::settings::Hooks;
use crate::callback;
use crate::document::{Place, Table};
use crate::hooks::Interests;
use crate::hooks::rewrite::Rule;

/// Clients give up on a CONNECT within a minute or less.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Who was dismissed must not come in for longer.
const CACHE_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Some 10 MB.
const CACHE_ENTRIES_MAX: u64 = 100_000;

pub(super) fn read(root: &Table<'_>) -> Hooks {
    let Some(table) = root.table("hook", &file::HOOK) else {
        return Hooks::default();
    };
    Hooks {
        timeout: table.duration("timeout", Duration::from_millis(100)..=TIMEOUT_MAX),
        rewrite: (table.tables("rewrite", &file::REWRITE).iter())
            .filter_map(read_rule)
            .collect(),
        http: (table.table("http", &file::HTTP)).and_then(|table| read_http(&table)),
    }
}

fn read_http(table: &Table<'_>) -> Option<callback::Settings> {
    if !table.has("url") {
        table.missing("url");
    }
    let url = table.parsed("url", |text| text.parse());
    let events = match table.texts("events") {
        None => Some(Interests::AUTHENTICATE | Interests::PUBLISH | Interests::SUBSCRIBE),
        Some(words) => read_events(table, &words),
    };
    let time = |key, range| table.duration(key, range);
    let entries = table.integer("cache_entries_max", 0..=CACHE_ENTRIES_MAX);
    Some(callback::Settings {
        timeout: time("request_timeout", Duration::from_millis(100)..=TIMEOUT_MAX)
            .unwrap_or(Duration::from_secs(2)),
        cache_time: time("cache_time", Duration::ZERO..=CACHE_TIME_MAX).unwrap_or(Duration::from_secs(60)),
        denied_cache_time: time("denied_cache_time", Duration::ZERO..=CACHE_TIME_MAX)
            .unwrap_or(Duration::from_secs(5)),
        cache_entries_max: entries
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(1024),
        ca: table.path("ca"),
        url: url?,
        events: events?,
    })
}

fn read_events(table: &Table<'_>, words: &[(&str, Place)]) -> Option<Interests> {
    let mut events = Interests::NONE;
    for (word, place) in words {
        events = match *word {
            "authenticate" => events | Interests::AUTHENTICATE,
            "publish" => events | Interests::PUBLISH,
            "subscribe" => events | Interests::SUBSCRIBE,
            word => {
                let message =
                    format!("found {word:?}, expected \"authenticate\", \"publish\" or \"subscribe\"");
                table.document().mistake(place, message);
                return None;
            }
        };
    }
    Some(events)
}

fn read_rule(table: &Table<'_>) -> Option<Rule> {
    let (from, to) = (table.text("from"), table.text("to"));
    for (key, found) in [("from", from), ("to", to)] {
        if found.is_none() && !table.has(key) {
            table.missing(key);
        }
    }
    let (from, to) = (from?, to?);
    match Rule::parse(from, to) {
        Ok(rule) => Some(rule),
        Err(error) => {
            let (key, found) = match error.is_of_from(from) {
                true => ("from", from),
                false => ("to", to),
            };
            table.mistake(key, format!("found {found:?}, {error}"));
            None
        }
    }
}
