//! `[gateway]`, `[authentication]` and `[limits]`: the gateway itself, its users and its bounds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::{Depth, file, settings};
use crate::auth::passwords::Users;
use crate::board::{Board, Boards, limits};
use crate::broker::{self, Limits};
use crate::document::{Mistake, Table, nearest};
use crate::mqtt::{TopicName, Utf8String};
use crate::storage;

/// What those tables say.
pub(super) struct Gateway {
    pub(super) name: TopicName,
    pub(super) log: Level,
    pub(super) storage: Option<storage::Settings>,
    pub(super) board: Board,
    pub(super) limits: Limits,
    pub(super) statistics_interval: Option<Duration>,
    pub(super) choices: broker::Settings,
}

/// The users, and whether there should be any.
pub(super) enum WrittenUsers {
    /// The file says nothing of a password file.
    None,
    /// It names one, and there is a mistake in it.
    Wrong,
    /// It names one.
    Known(Arc<Users>),
}

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// Statistics told less often say nothing of a gateway's health.
const STATISTICS_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Permissions by which others than the owner could let themselves in.
const WRITABLE_BY_OTHERS: u32 = 0o022;

pub(super) fn read(root: &Table<'_>, boards: &Boards, depth: Depth) -> Gateway {
    let table = root.table("gateway", &file::GATEWAY);
    let table = table.as_ref();
    let name = table.and_then(|table| table.parsed("name", |text| TopicName::try_from(text)));
    let log = table.and_then(|table| table.choice("log", &LEVELS));
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
    let statistics_interval = table
        .and_then(|table| table.duration("statistics_interval", Duration::ZERO..=STATISTICS_INTERVAL_MAX))
        .unwrap_or(settings::STATISTICS_INTERVAL);
    Gateway {
        name: name.unwrap_or_else(settings::default_name),
        log: log.unwrap_or(Level::INFO),
        storage: directory.map(|directory| storage::Settings { directory }),
        board: board.clone(),
        limits,
        statistics_interval: (!statistics_interval.is_zero()).then_some(statistics_interval),
        choices: table.map(read_choices).unwrap_or_default(),
    }
}

/// What MQTT leaves to the server.
fn read_choices(table: &Table<'_>) -> broker::Settings {
    broker::Settings {
        authentication_methods: Vec::new(),
        server_reference: table.parsed("server_reference", |text| Utf8String::try_from(text)),
        response_information: table.parsed("response_topics", |text| TopicName::try_from(text)),
        check_payload_format: table.flag("check_payload_format").unwrap_or(false),
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

pub(super) fn read_users(root: &Table<'_>) -> WrittenUsers {
    let Some(table) = root.table("authentication", &file::AUTHENTICATION) else {
        return WrittenUsers::None;
    };
    if !table.has("password_file") {
        return WrittenUsers::None;
    }
    let Some(path) = table.path("password_file") else {
        return WrittenUsers::Wrong;
    };
    let text = match read_guarded(&path) {
        Ok(text) => text,
        Err(message) => {
            table.mistake("password_file", message);
            return WrittenUsers::Wrong;
        }
    };
    match Users::parse(&text) {
        Ok(users) => {
            for (line, name) in users.weak() {
                let message = format!(
                    "the password of user {name:?}, line {line} of {}, is hashed with SHA-512 once, which is weak; set \
                     it again with \"tidegate passwd\"",
                    path.display()
                );
                table.document().warning(&table.place("password_file"), message);
            }
            WrittenUsers::Known(Arc::new(users))
        }
        Err(mistakes) => {
            for mistake in mistakes {
                table.document().mistake_elsewhere(Mistake {
                    file: path.clone(),
                    line: mistake.line,
                    column: 0,
                    key: String::new(),
                    message: mistake.kind.to_string(),
                });
            }
            WrittenUsers::Wrong
        }
    }
}

/// The text of a file that decides who comes in; an error is a message.
fn read_guarded(path: &Path) -> Result<String, String> {
    let shown = PathBuf::from(path);
    let shown = shown.display();
    let cannot = |error| {
        format!(
            "cannot read {shown}: {error}; make it with \"tidegate passwd {shown} NAME\", or remove this key"
        )
    };
    let mode = fs::metadata(path).map_err(cannot)?.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "{shown} has permissions {mode:04o}, so others may add users; expected 0600 or 0640 (chmod 600)"
        ));
    }
    fs::read_to_string(path).map_err(cannot)
}

impl WrittenUsers {
    /// Whether clients can come in by password, once all mistakes are mended.
    pub(super) fn are_meant(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(super) fn into_users(self) -> Option<Arc<Users>> {
        match self {
            Self::Known(users) => Some(users),
            Self::None | Self::Wrong => None,
        }
    }
}
