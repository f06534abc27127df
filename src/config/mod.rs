//! What a person may write, and what the program runs on.
//!
//! - [`file`]: every table and key there is, with what it expects, its default and what it does.
//! - [`settings`]: the outcome, complete and typed; each part is the `Settings` of the module it belongs to.
//!
//! A file is read as a whole: every mistake in it is told, and a file with one mistake gives no [`Settings`].

mod authentication;
mod endpoints;
pub mod file;
mod gateway;
mod listeners;
mod policy;
mod sensors;
pub mod settings;

use std::fs;
use std::path::Path;

use crate::board::{Board, Boards};
use crate::broker;
use crate::document::Document;

pub use crate::document::Mistake;
pub use settings::{Listener, OffLoopback, Settings};

/// Reads the configuration file `path`, with the board profiles of `boards` as in [`Boards::load`].
///
/// Certificates and keys are opened by whoever uses them; the password file is read here.
///
/// # Errors
/// Every mistake in the file, the board profiles and the password file.
pub fn load(path: &Path, boards: Option<&Path>) -> Result<Settings, Vec<Mistake>> {
    read(path, boards, Depth::Text)
}

/// Does what [`load`] does, and tries the files the configuration names, without starting anything; what is unwise
/// about them and no mistake stands in [`Settings::warnings`].
///
/// # Errors
/// Those of [`load`], and every certificate, key and folder that cannot be used.
pub fn check(path: &Path, boards: Option<&Path>) -> Result<Settings, Vec<Mistake>> {
    read(path, boards, Depth::Files)
}

/// How far a file is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What it says, and the password file.
    Text,
    /// The files it names, too.
    Files,
}

fn read(path: &Path, boards: Option<&Path>, depth: Depth) -> Result<Settings, Vec<Mistake>> {
    let text = fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read: {error}");
        vec![Mistake {
            file: path.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            message,
        }]
    })?;
    let (boards, board_mistakes) = match Boards::load(boards) {
        Ok(boards) => (boards, Vec::new()),
        // The file is read on with what is compiled in, so that all its own mistakes are told, too.
        Err(mistakes) => (Boards::compiled_in(), mistakes),
    };
    let document = Document::parse(path, &text, file::SECTIONS);
    let settings = settings_of(&document, &boards, depth).map(|settings| Settings {
        warnings: document.warnings(),
        ..settings
    });
    let mut mistakes = board_mistakes;
    mistakes.extend(document.into_mistakes());
    match settings {
        Some(settings) if mistakes.is_empty() => Ok(settings),
        _ => Err(mistakes),
    }
}

/// The settings a document says; `None` only where it has mistakes.
fn settings_of(document: &Document<'_>, boards: &Boards, depth: Depth) -> Option<Settings> {
    let root = document.root(&file::ROOT);
    let gateway = gateway::read(&root, boards, depth);
    let board: Board = gateway.board;
    let users = authentication::read(&root);
    let listeners = listeners::read(&root, &gateway.limits, &users, depth);
    let serial = sensors::read(&root, &gateway.name, &board, &gateway.limits);
    Some(Settings {
        name: gateway.name,
        log: gateway.log,
        storage: gateway.storage,
        limits: gateway.limits,
        choices: broker::Settings {
            takes_tokens: users.tokens.is_some(),
            ..gateway.choices
        },
        board,
        listeners,
        users: users.users,
        tokens: users.tokens,
        guessing: users.guessing,
        audit: gateway.audit,
        statistics_interval: gateway.statistics_interval,
        serial,
        warnings: Vec::new(),
    })
}
