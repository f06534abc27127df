//! What a person may write, and what the program runs on.
//!
//! - [`file`]: every table and key there is, with what it expects, its default and what it does.
//! - [`effective`]: every value that holds, and where it comes from.
//! - [`settings`]: the outcome, complete and typed; each part is the `Settings` of the module it belongs to.
//!
//! A file is read as a whole: every mistake in it is told, and a file with one mistake gives no [`Settings`].

mod access;
mod admin;
mod authentication;
pub mod effective;
mod endpoints;
pub mod file;
mod gateway;
mod guarded;
mod hooks;
mod listeners;
mod policy;
mod queues;
mod sensors;
pub mod settings;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::board::{Board, Boards};
use crate::broker;
use crate::document::Document;
use effective::Written;

pub use crate::document::Mistake;
pub use access::read_acl_file;
pub use settings::{Listener, OffLoopback, Settings};

/// Reads the configuration file `path`, with the board profiles of `boards` as in [`Boards::load`].
///
/// Certificates and keys are opened by whoever uses them; the password file and the ACL file are read here.
///
/// # Errors
/// Every mistake in the file, the board profiles, the password file and the ACL file.
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
        written: Some(Arc::new(Written {
            file: path.to_owned(),
            text: text.clone(),
        })),
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
    let queue_rules = queues::read(&root, &gateway.limits);
    let users = authentication::read(&root);
    let rights = access::read(&root);
    let hooks = hooks::read(&root);
    let listeners = listeners::read(
        &root,
        &gateway.limits,
        users.are_meant() || hooks.ask_users(),
        depth,
    );
    let state_directory = gateway.storage.as_ref().map(|state| state.directory.as_path());
    let admin = admin::read(&root, state_directory, depth);
    let serial = sensors::read(&root, &gateway.name, &board, &gateway.limits);
    Some(Settings {
        name: gateway.name,
        log: gateway.log,
        storage: gateway.storage,
        limits: gateway.limits,
        choices: broker::Settings {
            takes_tokens: users.tokens.is_some(),
            queue_rules,
            ..gateway.choices
        },
        board,
        listeners,
        users: users.users,
        rights,
        hooks,
        tokens: users.tokens,
        guessing: users.guessing,
        audit: gateway.audit,
        statistics_interval: gateway.statistics_interval,
        serial,
        admin,
        written: None,
        warnings: Vec::new(),
    })
}
