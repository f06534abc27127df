//! `[gateway]` and `[limits]`: the gateway itself and its bounds.

use std::time::Duration;

use tracing::Level;

use super::settings::AuditSettings;
use super::{Depth, file, settings};
use crate::board::{Board, Boards, journal, limits};
use crate::broker::{self, Limits};
use crate::document::{Table, nearest};
use crate::mqtt::{TopicName, Utf8String};
use crate::storage;

/// What those tables say.
pub(super) struct Gateway {
    pub(super) name: TopicName,
    pub(super) log: Level,
    pub(super) audit: AuditSettings,
    pub(super) storage: Option<storage::Settings>,
    pub(super) board: Board,
    pub(super) limits: Limits,
    pub(super) statistics_interval: Option<Duration>,
    pub(super) choices: broker::Settings,
}

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

const AUDITS: [(&str, AuditSettings); 3] = [
    ("off", AuditSettings::Off),
    ("refusals", AuditSettings::Refusals),
    ("all", AuditSettings::All),
];

/// Statistics told less often say nothing of a gateway's health.
const STATISTICS_INTERVAL_MAX: Duration = Duration::from_secs(3600);

pub(super) fn read(root: &Table<'_>, boards: &Boards, depth: Depth) -> Gateway {
    let table = root.table("gateway", &file::GATEWAY);
    let table = table.as_ref();
    let name = table.and_then(|table| table.parsed("name", |text| TopicName::try_from(text)));
    let log = table.and_then(|table| table.choice("log", &LEVELS));
    let audit = table.and_then(|table| table.choice("audit", &AUDITS));
    let directory = table.and_then(|table| {
        let directory = table.path("state_directory")?;
        if depth == Depth::Files && directory.exists() && !directory.is_dir() {
            let message = format!(
                "{} is no folder, expected one or nothing yet",
                directory.display()
            );
            table.mistake("state_directory", message);
        }
        Some(directory)
    });
    let board = table
        .and_then(|table| read_board(table, boards))
        .unwrap_or_else(|| boards.detect_here());
    let mut limits = board.limits.clone();
    if let Some(table) = root.table("limits", &limits::SECTION) {
        limits::read(&table, &mut limits);
        let misfits = limits::misfits(&limits, board.ram_mib, board.password_cost.memory_kib());
        limits::tell_misfits(&table, misfits);
    }
    let mut journal = board.journal;
    if let Some(table) = root.table("journal", &journal::SECTION) {
        journal::read(&table, &mut journal);
        if directory.is_none() {
            root.mistake(
                "journal",
                "expected gateway.state_directory with it, for there is nowhere to keep it",
            );
        }
    }
    // A checkpoint writes again what waits in the journal, and new promises need room beside it.
    let spill_max = usize::try_from(journal.bytes_max / 4).unwrap_or(usize::MAX);
    limits.spill_bytes_total_max = limits.spill_bytes_total_max.min(spill_max);
    limits.spill_bytes_max = limits.spill_bytes_max.min(limits.spill_bytes_total_max);
    let statistics_interval = table
        .and_then(|table| table.duration("statistics_interval", Duration::ZERO..=STATISTICS_INTERVAL_MAX))
        .unwrap_or(settings::STATISTICS_INTERVAL);
    Gateway {
        name: name.unwrap_or_else(settings::default_name),
        log: log.unwrap_or(Level::INFO),
        audit: audit.unwrap_or_default(),
        storage: directory.map(|directory| storage::Settings { directory, journal }),
        board: board.clone(),
        limits,
        statistics_interval: (!statistics_interval.is_zero()).then_some(statistics_interval),
        choices: table.map(read_choices).unwrap_or_default(),
    }
}

/// What MQTT leaves to the server.
fn read_choices(table: &Table<'_>) -> broker::Settings {
    broker::Settings {
        takes_tokens: false,
        server_reference: table.parsed("server_reference", |text| Utf8String::try_from(text)),
        response_information: table.parsed("response_topics", |text| TopicName::try_from(text)),
        check_payload_format: table.flag("check_payload_format").unwrap_or(false),
        queue_rules: Vec::new(),
        loss_property: table.parsed("loss_property", |text| Utf8String::try_from(text)),
    }
}

/// The board that is named; `None` for `auto`.
fn read_board<'b>(table: &Table<'_>, boards: &'b Boards) -> Option<&'b Board> {
    let name = table.text("board")?;
    if name == "auto" {
        return None;
    }
    let board = boards.get(name);
    if board.is_none() {
        let names = || boards.iter().map(|board| board.name.as_str());
        let mut message = format!(
            "found {name:?}, expected \"auto\" or one of {}",
            names().collect::<Vec<_>>().join(", ")
        );
        if let Some(near) = nearest(name, names()) {
            message += &format!("; did you mean {near:?}?");
        }
        table.mistake("board", message);
    }
    board
}
