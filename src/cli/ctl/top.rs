//! `tidegate ctl top`: what passes through a gateway, look by look, until q or Ctrl-C.
//!
//! Where standard output is no terminal it tells once what passed in one interval.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use serde_json::{Value, json};

use super::request::{ask, ask_pages};
use super::table::{self, Column, at};
use crate::document::size_text;

/// Clients looked at; what the busiest of more do is not told.
const CLIENTS_MAX: usize = 2000;
/// Lines of the table where the terminal does not say how high it is.
const LINES_USUAL: usize = 24;
/// Lines above the table.
const LINES_ABOVE: usize = 6;

const COLUMNS: &[Column] = &[
    ("CLIENT", &["client"]),
    ("USER", &["user"]),
    ("ADDRESS", &["connection", "address"]),
    ("IN B/s", &["in"]),
    ("OUT B/s", &["out"]),
    ("QUEUED", &["queued_messages"]),
    ("SUBS", &["subscriptions"]),
];

/// What was seen in one look.
struct Look {
    at: Instant,
    statistics: Value,
    clients: Vec<Value>,
}

pub(super) fn run(socket: &Path, interval: Duration) -> anyhow::Result<ExitCode> {
    let mut before = Look::take(socket)?;
    let Some(screen) = Screen::open() else {
        std::thread::sleep(interval);
        let text = Look::take(socket)?.text(&before, usize::MAX);
        return super::super::print(|out| out.write_all(text.as_bytes()));
    };
    let mut due = Instant::now() + Duration::from_millis(500);
    loop {
        if screen.is_told_to_end(due.saturating_duration_since(Instant::now())) {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() < due {
            continue;
        }
        let look = Look::take(socket)?;
        screen.show(&look.text(&before, screen.lines().saturating_sub(LINES_ABOVE)))?;
        before = look;
        due = Instant::now() + interval;
    }
}

impl Look {
    fn take(socket: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            statistics: ask(socket, "GET", "/api/v1/statistics", None)?,
            clients: ask_pages(socket, "/api/v1/clients", "", CLIENTS_MAX)?,
        })
    }

    fn count(&self, name: &str) -> u64 {
        at(&self.statistics, &["figures", name]).as_u64().unwrap_or(0)
    }

    /// What happened since `before`, with the busiest clients first, as many as `rows` has room for.
    fn text(&self, before: &Self, rows: usize) -> String {
        let secs = self
            .at
            .saturating_duration_since(before.at)
            .as_secs_f64()
            .max(0.001);
        let per_second = |now: u64, then: u64| (now.saturating_sub(then) as f64 / secs).round() as u64;
        let rate = |name: &str| per_second(self.count(name), before.count(name));
        let dropped = |look: &Self| -> u64 {
            let statistics = at(&look.statistics, &["figures"]).as_object();
            let fields = statistics.into_iter().flatten();
            let dropped = fields.filter(|(name, _)| name.starts_with("messages_dropped_"));
            dropped.filter_map(|(_, count)| count.as_u64()).sum()
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "up {} s   clients {}   sessions {}   subscriptions {}   retained {}",
            self.count("uptime_seconds"),
            self.count("clients_connected"),
            self.count("sessions"),
            self.count("subscriptions"),
            self.count("retained_messages"),
        );
        let _ = writeln!(
            text,
            "messages/s in {}  out {}  dropped {}   bytes/s in {}  out {}",
            rate("messages_received"),
            rate("messages_sent"),
            per_second(dropped(self), dropped(before)),
            rate("bytes_received"),
            rate("bytes_sent"),
        );
        let _ = writeln!(
            text,
            "queued {}   in flight {}   memory {} of {}   resident {}\n",
            self.count("queued_messages"),
            self.count("inflight_messages"),
            short_size(self.count("memory_bytes")),
            short_size(self.count("memory_bytes_max")),
            short_size(self.count("resident_bytes")),
        );
        let bytes = |client: &Value, name| at(client, &["connection", name]).as_u64().unwrap_or(0);
        let known: HashMap<&str, &Value> = (before.clients.iter())
            .filter_map(|client| Some((at(client, &["client"]).as_str()?, client)))
            .collect();
        let mut clients: Vec<(u64, Value)> = (self.clients.iter())
            .map(|client| {
                let known = at(client, &["client"])
                    .as_str()
                    .and_then(|name| known.get(name).copied());
                // Who has connected anew since has counted from 0 again.
                let address = |client| at(client, &["connection", "address"]);
                let known = known
                    .filter(|known| address(known) == address(client))
                    .unwrap_or(&Value::Null);
                let rate = |name| per_second(bytes(client, name), bytes(known, name));
                let (received, sent) = (rate("received_bytes"), rate("sent_bytes"));
                let mut shown = client.clone();
                if let Value::Object(fields) = &mut shown {
                    fields.insert("in".to_owned(), json!(received));
                    fields.insert("out".to_owned(), json!(sent));
                }
                (received.saturating_add(sent), shown)
            })
            .collect();
        clients.sort_by_key(|(busy, _)| Reverse(*busy));
        let shown: Vec<Value> = clients.into_iter().map(|(_, client)| client).take(rows).collect();
        text + &table::text(COLUMNS, &shown)
    }
}

/// The size in the largest unit that leaves a number of at least 10.
fn short_size(bytes: u64) -> String {
    let unit = match bytes {
        0..10_240 => 1,
        10_240..10_485_760 => 1024,
        _ => 1024 * 1024,
    };
    size_text(bytes / unit * unit)
}

/// A terminal that is ours until this is dropped.
struct Screen {
    before: Termios,
}

/// Its own screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

impl Screen {
    /// Takes the terminal over; `None` where there is none to watch and to type on.
    fn open() -> Option<Self> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut keys = before.clone();
        // Keys come one by one and unseen; Ctrl-C as well, so that the terminal is put in order again before the end.
        keys.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        keys.special_codes[SpecialCodeIndex::VMIN] = 0;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &keys).ok()?;
        let screen = Self { before };
        write!(io::stdout(), "{ENTER}")
            .and_then(|()| io::stdout().flush())
            .ok()?;
        Some(screen)
    }

    fn lines(&self) -> usize {
        let size = tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_row));
        size.ok().filter(|lines| *lines > 0).unwrap_or(LINES_USUAL)
    }

    fn columns(&self) -> usize {
        let size = tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_col));
        size.ok().filter(|columns| *columns > 0).unwrap_or(usize::MAX)
    }

    fn show(&self, text: &str) -> io::Result<()> {
        let columns = self.columns();
        let mut shown = String::from("\x1b[H");
        for line in text.lines() {
            shown.extend(line.chars().take(columns));
            shown += "\x1b[K\r\n";
        }
        shown += "\x1b[Jq ends it";
        let mut out = io::stdout().lock();
        out.write_all(shown.as_bytes())?;
        out.flush()
    }

    /// Waits for a key, at most `patience`; whether it was one that ends.
    fn is_told_to_end(&self, patience: Duration) -> bool {
        let stdin = io::stdin();
        let patience = Timespec::try_from(patience).ok();
        let mut awaited = [PollFd::new(&stdin, PollFlags::IN)];
        if !matches!(poll(&mut awaited, patience.as_ref()), Ok(1..)) {
            return false;
        }
        let mut keys = [0; 16];
        match rustix::io::read(&stdin, &mut keys) {
            Ok(count @ 1..) => keys
                .iter()
                .take(count)
                .any(|key| matches!(key, b'q' | b'Q' | 3 | 4)),
            // The terminal has gone.
            _ => true,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody may be there any more, and then there is nothing to put in order.
        let _ = write!(io::stdout(), "{LEAVE}").and_then(|()| io::stdout().flush());
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
