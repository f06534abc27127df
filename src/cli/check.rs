//! `tidegate check`: what is wrong with a configuration, without starting anything.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::USAGE;
use crate::broker::QueueClass;
use crate::config::{self, Mistake, Settings, file};
use crate::document::size_text;
use crate::gateway::reload::KEPT;
use crate::storage::Mode;

/// Check a configuration file and the files it names, without starting anything
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate check --config /etc/tidegate/tidegate.toml
  tidegate check --keys | less        every key there is

Every mistake is told with file, line and key; what is merely unwise is a warning. Exit codes: 0 right, 2 wrong.")]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", required_unless_present = "keys")]
    config: Option<PathBuf>,

    /// A folder of board profiles instead of /etc/tidegate/boards
    #[arg(long, value_name = "DIR")]
    boards: Option<PathBuf>,

    /// Print every table and key a configuration may hold
    #[arg(long, exclusive = true)]
    keys: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(config) = &arguments.config else {
        let kept = KEPT.join(" and ");
        let text = format!(
            "{}\nA running gateway takes all of it anew on SIGHUP, but for {kept}, which want a restart.\n",
            file::reference()
        );
        return super::print(|out| out.write_all(text.as_bytes()));
    };
    match config::check(config, arguments.boards.as_deref()) {
        Ok(settings) => {
            let warnings: String = settings
                .warnings
                .iter()
                .map(|warning| format!("warning: {warning}\n"))
                .collect();
            // Nobody may be there to read it, which is no reason to panic.
            let _ = std::io::stderr().write_all(warnings.as_bytes());
            let text = format!("{} is right\n{}", config.display(), summary(&settings));
            super::print(|out| out.write_all(text.as_bytes()))
        }
        Err(mistakes) => Ok(tell(&mistakes)),
    }
}

/// Tells every mistake on standard error, one a line; what to exit with.
pub(super) fn tell(mistakes: &[Mistake]) -> ExitCode {
    let mut text = String::new();
    for mistake in mistakes {
        text += &format!("{mistake}\n");
    }
    let count = match mistakes.len() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    text += &format!("tidegate: {count} in the configuration\n");
    // Nobody may be there to read it, which is no reason to panic.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(USAGE)
}

/// What may wait for clients, weighed: how many full queues there is room for, and how many small messages, by what
/// they cost in memory.
fn queues(settings: &Settings) -> String {
    let limits = &settings.limits;
    let rules = &settings.choices.queue_rules;
    let classes = rules
        .iter()
        .filter_map(|rule| rule.class)
        .chain([limits.queue_class]);
    let messages = classes.map(QueueClass::messages).max().unwrap_or_default();
    let sizes = rules
        .iter()
        .filter_map(|rule| rule.bytes_max)
        .chain([limits.queue_bytes_max]);
    let bytes = sizes.max().unwrap_or_default();
    let wide = |bytes: usize| size_text(u64::try_from(bytes).unwrap_or(u64::MAX));
    let ruled = match rules.len() {
        0 => String::new(),
        1 => ", 1 rule".to_owned(),
        count => format!(", {count} rules"),
    };
    let storage = settings.storage.as_ref();
    let has_journal = storage.is_some_and(|storage| storage.journal.mode != Mode::Memory);
    let beyond = match limits.spill_bytes_max {
        0 => String::new(),
        _ if !has_journal => String::new(),
        bytes => format!(
            "            and in the journal alone {} more for a client, {} for all\n",
            wide(bytes),
            wide(limits.spill_bytes_total_max)
        ),
    };
    format!(
        "  queues:   {messages} messages or {} at most for a client{ruled}; {} for all: {} full ones, or {} messages \
         of {SMALL_BYTES} bytes\n{beyond}",
        wide(bytes),
        wide(limits.queued_bytes_total_max),
        (limits.queued_bytes_total_max / bytes.max(1)).min(limits.sessions_max),
        limits.queued_messages_fitting(SMALL_BYTES),
    )
}

/// A message as sensors send it: topic and payload together.
const SMALL_BYTES: usize = 80;

/// What would run, a line for each door and port.
fn summary(settings: &Settings) -> String {
    let mut text = format!(
        "  gateway:  {}\n  board:    {} ({})\n",
        settings.name, settings.board.name, settings.board.title
    );
    let memory = u64::try_from(settings.limits.memory_bytes_max).unwrap_or(u64::MAX);
    let _ = writeln!(
        text,
        "  memory:   {} for what clients grow, of the {} MiB the board has",
        size_text(memory),
        settings.board.ram_mib
    );
    text += &queues(settings);
    let state = settings
        .storage
        .as_ref()
        .map(|storage| storage.directory.display().to_string());
    text += &format!("  state:    {}\n", state.as_deref().unwrap_or("in memory"));
    for listener in &settings.listeners {
        let transport = match (listener.net.tls.is_some(), listener.net.websocket.is_some()) {
            (false, false) => "plain",
            (true, false) => "TLS",
            (false, true) => "WebSocket, plain",
            (true, true) => "WebSocket over TLS",
        };
        let door = if listener.policy.anonymous {
            "anonymous"
        } else {
            "by password or certificate"
        };
        let _ = writeln!(
            text,
            "  listener: {} on {}, {transport}, {door}",
            listener.net.name, listener.net.endpoint
        );
    }
    if let Some(users) = &settings.users {
        let _ = writeln!(text, "  users:    {}", users.len());
    }
    if let Some(acl) = settings.rights.acl() {
        let _ = writeln!(text, "  access:   {} rules", acl.len());
    }
    if let Some(tokens) = &settings.tokens {
        let _ = writeln!(text, "  tokens:   {} keys", tokens.keys());
    }
    for port in &settings.serial {
        let points: usize = port.devices().map(|(device, _)| device.points().len()).sum();
        let _ = writeln!(
            text,
            "  serial:   {} on {}, {points} points",
            port.name(),
            port.path().display()
        );
    }
    text
}
