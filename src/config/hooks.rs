//! `[hook]`: what is asked before the gateway acts.

use std::time::Duration;

use super::file;
use super::settings::Hooks;
use crate::document::Table;
use crate::hooks::rewrite::Rule;

/// Clients give up on a CONNECT within a minute or less.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

pub(super) fn read(root: &Table<'_>) -> Hooks {
    let Some(table) = root.table("hook", &file::HOOK) else {
        return Hooks::default();
    };
    Hooks {
        timeout: table.duration("timeout", Duration::from_millis(100)..=TIMEOUT_MAX),
        rewrite: (table.tables("rewrite", &file::REWRITE).iter())
            .filter_map(read_rule)
            .collect(),
    }
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
