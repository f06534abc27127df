//! `tidegate boards`: the board profiles, and which one this machine gets.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{UsageError, check};
use crate::board::{BASE, Board, Boards, COMPATIBLE, Clock, journal, limits};
use crate::document::{duration_text, nearest, size_text};

/// Show the board profiles
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate boards list
  tidegate boards detect
  tidegate boards show pi-4b

A profile of your own goes to /etc/tidegate/boards/NAME.toml.")]
pub(super) struct Arguments {
    /// A folder of board profiles instead of /etc/tidegate/boards
    #[arg(long, value_name = "DIR", global = true)]
    boards: Option<PathBuf>,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List every profile
    List,
    /// Show one profile, complete
    Show {
        /// As "tidegate boards list" names it
        name: String,
    },
    /// Say which profile this machine gets, and why
    Detect,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let boards = match Boards::load(arguments.boards.as_deref()) {
        Ok(boards) => boards,
        Err(mistakes) => return Ok(check::tell(&mistakes)),
    };
    let text = match &arguments.action {
        Action::List => list(&boards),
        Action::Show { name } => show(boards.get(name).ok_or_else(|| unknown(name, &boards))?),
        Action::Detect => detect(&boards, &fs::read(COMPATIBLE).unwrap_or_default()),
    };
    super::print(|out| out.write_all(text.as_bytes()))
}

fn unknown(name: &str, boards: &Boards) -> anyhow::Error {
    let names = || boards.iter().map(|board| board.name.as_str());
    let mut text = format!(
        "no board {name:?}, expected one of {}",
        names().collect::<Vec<_>>().join(", ")
    );
    if let Some(near) = nearest(name, names()) {
        text += &format!("; did you mean {near:?}?");
    }
    UsageError::new(text)
}

fn list(boards: &Boards) -> String {
    let mut text = format!(
        "{:<18}{:<28}{:>9}  {:<32}{}\n",
        "NAME", "BOARD", "MEMORY", "TARGET", "VERIFIED"
    );
    for board in boards.iter() {
        let target = board.target.as_deref().unwrap_or("any");
        let verified = board.verified.as_deref().unwrap_or("no");
        let memory = size_text(board.ram_mib * 1024 * 1024);
        let _ = writeln!(
            text,
            "{:<18}{:<28}{memory:>9}  {target:<32}{verified}",
            board.name, board.title
        );
    }
    text
}

fn detect(boards: &Boards, compatible: &[u8]) -> String {
    let board = boards.detect(compatible);
    let names: Vec<&str> = compatible
        .split(|byte| *byte == 0)
        .filter_map(|name| str::from_utf8(name).ok())
        .filter(|name| !name.is_empty())
        .collect();
    let why = if names.is_empty() {
        format!("there is no {COMPATIBLE}")
    } else if board.name == BASE {
        format!("no profile knows {}", names.join(", "))
    } else {
        format!("{COMPATIBLE} says {}", names.join(", "))
    };
    format!("{}: {}\n  {why}\n", board.name, board.title)
}

/// The profile as a file could say it.
fn show(board: &Board) -> String {
    let mut text = format!(
        "# {}\ntitle = {:?}\ncompatible = {:?}\n",
        board.name, board.title, board.compatible
    );
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key} = {value}");
    };
    if let Some(target) = &board.target {
        line("target", format!("{target:?}"));
    }
    line("ram_mib", board.ram_mib.to_string());
    line(
        "verified",
        board
            .verified
            .as_ref()
            .map_or("false".to_owned(), |verified| format!("{verified:?}")),
    );
    if let Some(storage) = &board.storage {
        line("storage", format!("{storage:?}"));
    }
    let clock = match board.clock {
        Clock::None => "none",
        Clock::BatteryMissing => "battery-missing",
        Clock::Battery => "battery",
    };
    line("clock", format!("{clock:?}"));
    list_lines(&mut text, "notes", &board.notes);
    if let Some(watchdog) = &board.watchdog {
        let _ = writeln!(text, "\n[watchdog]\ndriver = {:?}", watchdog.driver);
        if let Some(longest) = watchdog.hardware_max {
            let _ = writeln!(text, "hardware_max = {:?}", duration_text(longest));
        }
        let _ = writeln!(text, "stoppable = {}", watchdog.stoppable);
    }
    let cost = board.password_cost;
    let memory = size_text(u64::from(cost.memory_kib()) * 1024);
    let _ = writeln!(
        text,
        "\n[password]\nmemory = {memory:?}\npasses = {}",
        cost.passes()
    );
    let fitting = board.memory_bytes_fitting() / (1024 * 1024);
    let _ = writeln!(
        text,
        "\n# At most {fitting} MiB of memory_bytes_max fit this board.\n[limits]"
    );
    for (key, value) in limits::shown(&board.limits) {
        let _ = writeln!(text, "{key} = {value}");
    }
    let _ = writeln!(text, "\n[journal]");
    for (key, value) in journal::shown(&board.journal) {
        let _ = writeln!(text, "{key} = {value}");
    }
    for uart in &board.uarts {
        let _ = writeln!(
            text,
            "\n[[uart]]\nname = {:?}\ndevice = {:?}",
            uart.name, uart.device
        );
        if !uart.links.is_empty() {
            let _ = writeln!(text, "links = {:?}", uart.links);
        }
        let _ = writeln!(text, "kind = {:?}\nparity = {}", uart.kind, uart.parity);
        if let Some(user) = &uart.used_by {
            let _ = writeln!(text, "used_by = {user:?}");
        }
        list_lines(&mut text, "free", &uart.free);
    }
    text
}

fn list_lines(text: &mut String, key: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "{key} = [");
    for item in items {
        let _ = writeln!(text, "    {item:?},");
    }
    text.push_str("]\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_board_is_a_profile_of_that_board() {
        let boards = Boards::compiled_in();
        let folder = tempfile::tempdir().expect("a temporary folder");
        for board in boards.iter() {
            fs::write(folder.path().join(format!("{}.toml", board.name)), show(board)).expect("written");
        }
        let read = Boards::load(Some(folder.path())).expect("right");
        for board in boards.iter() {
            assert_eq!(read.get(&board.name), Some(board));
        }
    }

    #[test]
    fn detection_says_why() {
        let boards = Boards::compiled_in();
        assert_eq!(
            detect(&boards, b""),
            format!("base: any Linux board or PC\n  there is no {COMPATIBLE}\n")
        );
        assert!(detect(&boards, b"acme,7\0").ends_with("no profile knows acme,7\n"));
        assert!(detect(&boards, b"raspberrypi,5-model-b\0").starts_with("pi-5: Raspberry Pi 5\n"));
    }

    #[test]
    fn an_unknown_board_gets_the_nearest_name() {
        let told = unknown("pi4b", &Boards::compiled_in()).to_string();
        assert!(told.ends_with("did you mean \"pi-4b\"?"), "{told}");
    }
}
