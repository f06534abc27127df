//! `tidegate ctl`: what an operator asks of a running gateway, through its socket.
//!
//! - `request`: a question and its answer. `table`: answers for people. `top`: the live view.

mod request;
mod table;
mod top;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{FAILURE, UsageError};
use crate::document::duration_from;
use request::{ask, ask_pages, encoded};
use table::{Column, at, cell};

/// Ask a running gateway, and tell it what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate ctl clients --client 'sensor-*'
  tidegate ctl kick lamp-7 --ban 10m
  tidegate ctl subs --topic plant/line1/temperature     who would receive it
  tidegate ctl top

Whoever may write to the socket's file may do everything; sudo where that is another user. Exit codes: 0 done, 1 not \
done or nobody found, 2 the command line is wrong.")]
pub(super) struct Arguments {
    /// The socket of the gateway
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        default_value = "/run/tidegate/admin.sock"
    )]
    socket: PathBuf,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the clients that are connected
    Clients(Sessions),
    /// List the sessions, of clients that are connected or not
    Sessions(Sessions),
    /// List the subscriptions
    Subs {
        /// Only those of this client
        #[arg(long, value_name = "ID", conflicts_with = "topic")]
        client: Option<String>,
        /// Say instead who would receive a message on this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        #[command(flatten)]
        most: Most,
    },
    /// List the retained messages, show one, or take one away
    Retained {
        /// Only those whose topics match
        #[arg(value_name = "FILTER", default_value = "#")]
        filter: String,
        /// Print the payload of the one on this topic
        #[arg(long, value_name = "TOPIC", conflicts_with = "delete")]
        show: Option<String>,
        /// Take away the one on this topic; its subscribers learn of it
        #[arg(long, value_name = "TOPIC")]
        delete: Option<String>,
        #[command(flatten)]
        most: Most,
    },
    /// Send clients away
    Kick {
        #[command(flatten)]
        target: Target,
        /// All connections through this listener
        #[arg(long, value_name = "NAME", group = "whom")]
        listener: Option<String>,
        /// All clients with such an identifier: * stands for any characters, ? for one
        #[arg(long, value_name = "PATTERN", group = "whom")]
        pattern: Option<String>,
        /// All clients
        #[arg(long, group = "whom")]
        everyone: bool,
        /// Keep them out for so long, such as 10m, or "forever"
        #[arg(long, value_name = "TIME")]
        ban: Option<String>,
        /// Forget the session, too
        #[arg(long)]
        purge: bool,
        /// Do not send the will
        #[arg(long)]
        discard_will: bool,
        /// The reason code a 5.0 client is told, such as 0x98
        #[arg(long, value_name = "CODE", value_parser = code_from)]
        reason: Option<u64>,
        /// Where a 5.0 client is to go instead, with reason 0x9C (for now) or 0x9D (for good)
        #[arg(long, value_name = "SERVER")]
        server_reference: Option<String>,
    },
    /// List who is kept out, keep somebody out, or let somebody in again
    Ban {
        #[command(flatten)]
        target: Target,
        /// For how long, such as 10m
        #[arg(long = "for", value_name = "TIME", default_value = "forever")]
        time: String,
        /// Let in again
        #[arg(long)]
        lift: bool,
    },
    /// Print every counter and gauge
    Stats,
    /// Watch what passes
    Top {
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = interval_from)]
        interval: u64,
    },
    /// Have the configuration read again: all of it holds, or none
    Reload,
    /// List the listeners
    Listeners,
    /// List the serial ports
    Serial,
    /// Print every value of the configuration that holds, and where it comes from
    Config,
    /// Say how much is logged, or change it until the gateway stops
    Log {
        /// error, warn, info, debug or trace
        level: Option<String>,
    },
    /// Print everything a bug report needs, without secrets, as JSON
    Diag {
        /// Into this file, which only you may read
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Sessions {
    /// Only identifiers like this: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    client: Option<String>,
    /// Only those of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only those connected through this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    most: Most,
}

#[derive(Debug, Args)]
struct Most {
    /// At most so many
    #[arg(long = "limit", value_name = "NUMBER", default_value_t = 10_000, value_parser = most_from)]
    most: usize,
}

#[derive(Debug, Args)]
struct Target {
    /// The client with this identifier
    #[arg(value_name = "CLIENT", group = "whom")]
    client: Option<String>,
    /// All clients of this user
    #[arg(long, value_name = "NAME", group = "whom")]
    user: Option<String>,
    /// All connections from this address or network, such as 10.0.0.0/8
    #[arg(long, value_name = "ADDRESS", group = "whom")]
    address: Option<String>,
}

const CLIENTS: &[Column] = &[
    ("CLIENT", &["client"]),
    ("USER", &["user"]),
    ("ADDRESS", &["connection", "address"]),
    ("LISTENER", &["connection", "listener"]),
    ("MQTT", &["connection", "version"]),
    ("SECS", &["connection", "connected_secs"]),
    ("SUBS", &["subscriptions"]),
    ("QUEUED", &["queued_messages"]),
    ("LOST", &["lost", "total"]),
    ("RECEIVED", &["connection", "received_bytes"]),
    ("SENT", &["connection", "sent_bytes"]),
];
const SESSIONS: &[Column] = &[
    ("CLIENT", &["client"]),
    ("USER", &["user"]),
    ("ADDRESS", &["connection", "address"]),
    ("SUBS", &["subscriptions"]),
    ("QUEUED", &["queued_messages"]),
    ("INFLIGHT", &["inflight_messages"]),
    ("BYTES", &["queued_bytes"]),
    ("LOST", &["lost", "total"]),
    ("WILL", &["has_will"]),
    ("EXPIRY", &["expiry_secs"]),
    ("ENDS IN", &["expires_in_secs"]),
];
const SUBSCRIPTIONS: &[Column] = &[
    ("CLIENT", &["client"]),
    ("FILTER", &["filter"]),
    ("QOS", &["qos"]),
    ("NO LOCAL", &["no_local"]),
    ("ID", &["subscription_id"]),
];
const RECEIVERS: &[Column] = &[
    ("CLIENT", &["client"]),
    ("CONNECTED", &["connected"]),
    ("QOS", &["qos"]),
    ("ONE OF SHARE", &["share"]),
    ("MAY", &["may_receive"]),
];
const RETAINED: &[Column] = &[
    ("TOPIC", &["topic"]),
    ("QOS", &["qos"]),
    ("BYTES", &["payload_bytes"]),
    ("USER", &["user"]),
    ("EXPIRES IN", &["expires_in_secs"]),
];
const BANS: &[Column] = &[
    ("KIND", &["kind"]),
    ("WHO", &["value"]),
    ("ENDS IN", &["ends_in_secs"]),
];
const LISTENERS: &[Column] = &[
    ("LISTENER", &["name"]),
    ("ADDRESS", &["address"]),
    ("TRANSPORT", &["transport"]),
    ("CONNECTIONS", &["connections"]),
    ("PENDING", &["pending"]),
    ("ACCEPTED", &["accepted"]),
    ("REFUSED", &["refused"]),
];
const SERIAL: &[Column] = &[
    ("PORT", &["name"]),
    ("PATH", &["path"]),
    ("STATUS", &["status"]),
    ("HEALTH", &["health"]),
];
const VALUES: &[Column] = &[
    ("KEY", &["key"]),
    ("SOURCE", &["source"]),
    ("LINE", &["line"]),
    ("VALUE", &["value"]),
];

/// Asks, and prints the answer.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let desk = Desk {
        socket: &arguments.socket,
        json: arguments.json,
    };
    match &arguments.command {
        Command::Clients(wanted) => desk.pages("/api/v1/clients", &wanted.query(), wanted.most.most, CLIENTS),
        Command::Sessions(wanted) => {
            desk.pages("/api/v1/sessions", &wanted.query(), wanted.most.most, SESSIONS)
        }
        Command::Subs {
            client,
            topic: None,
            most,
        } => desk.pages(
            "/api/v1/subscriptions",
            &query("client", client),
            most.most,
            SUBSCRIPTIONS,
        ),
        Command::Subs { topic, most, .. } => {
            desk.pages("/api/v1/receivers", &query("topic", topic), most.most, RECEIVERS)
        }
        Command::Retained {
            filter,
            show,
            delete,
            most,
        } => match (show, delete) {
            (Some(topic), _) => desk.retained_message(topic),
            (None, Some(topic)) => desk.answer(ask(
                desk.socket,
                "DELETE",
                &format!("/api/v1/retained/{}", encoded(topic)),
                None,
            )?),
            (None, None) => {
                let query = format!("&filter={}", encoded(filter));
                desk.pages("/api/v1/retained", &query, most.most, RETAINED)
            }
        },
        Command::Kick { .. } => desk.kick(&arguments.command),
        Command::Ban { target, time, lift } => desk.ban(target, time, *lift),
        Command::Stats => desk.statistics(),
        Command::Top { interval } => top::run(desk.socket, Duration::from_secs(*interval)),
        Command::Reload => desk.answer(ask(desk.socket, "POST", "/api/v1/reload", None)?),
        Command::Listeners => desk.list("/api/v1/listeners", LISTENERS),
        Command::Serial => desk.list("/api/v1/serial", SERIAL),
        Command::Config => desk.list("/api/v1/configuration", VALUES),
        Command::Log { level } => {
            let answer = match level {
                None => ask(desk.socket, "GET", "/api/v1/log", None)?,
                Some(level) => {
                    let body = object(&[("level", Value::from(level.as_str()))]);
                    ask(desk.socket, "PUT", "/api/v1/log", Some(&body))?
                }
            };
            desk.answer(answer)
        }
        Command::Diag { output } => diagnose(desk.socket, output.as_deref()),
    }
}

/// The gateway that is asked, and how its answers are printed.
struct Desk<'a> {
    socket: &'a Path,
    json: bool,
}

impl Desk<'_> {
    /// Prints a list that comes in pages.
    fn pages(&self, target: &str, query: &str, most: usize, columns: &[Column]) -> anyhow::Result<ExitCode> {
        self.items(ask_pages(self.socket, target, query, most)?, columns)
    }

    /// Prints a list that comes whole.
    fn list(&self, target: &str, columns: &[Column]) -> anyhow::Result<ExitCode> {
        let mut answer = ask(self.socket, "GET", target, None)?;
        let items = answer.get_mut("items").map(Value::take);
        match items {
            Some(Value::Array(items)) => self.items(items, columns),
            _ => self.items(Vec::new(), columns),
        }
    }

    fn items(&self, items: Vec<Value>, columns: &[Column]) -> anyhow::Result<ExitCode> {
        if self.json {
            return print_json(&Value::Array(items));
        }
        let text = table::text(columns, &items);
        super::print(|out| out.write_all(text.as_bytes()))
    }

    /// Prints an object, a line for each field; nothing for nothing.
    fn answer(&self, answer: Value) -> anyhow::Result<ExitCode> {
        if self.json {
            return print_json(&answer);
        }
        let fields = answer.as_object().map(Map::iter).into_iter().flatten();
        let text: String = fields
            .map(|(name, value)| format!("{name}: {}\n", cell(value)))
            .collect();
        super::print(|out| out.write_all(text.as_bytes()))
    }

    fn statistics(&self) -> anyhow::Result<ExitCode> {
        let mut answer = ask(self.socket, "GET", "/api/v1/statistics", None)?;
        let statistics = answer.get_mut("figures").map(Value::take).unwrap_or_default();
        if self.json {
            return print_json(&statistics);
        }
        let fields = statistics.as_object().map(Map::iter).into_iter().flatten();
        let text: String = fields
            .map(|(name, value)| format!("{name:<30} {:>15}\n", cell(value)))
            .collect();
        super::print(|out| out.write_all(text.as_bytes()))
    }

    fn retained_message(&self, topic: &str) -> anyhow::Result<ExitCode> {
        let message = ask(
            self.socket,
            "GET",
            &format!("/api/v1/retained/{}", encoded(topic)),
            None,
        )?;
        if self.json {
            return print_json(&message);
        }
        // What is no text is told as what it is.
        let payload = match at(&message, &["payload"]) {
            Value::Null => format!("base64:{}", cell(at(&message, &["payload_base64"]))),
            text => cell(text),
        };
        super::print(|out| writeln!(out, "{payload}"))
    }

    fn kick(&self, command: &Command) -> anyhow::Result<ExitCode> {
        let Command::Kick {
            target,
            listener,
            pattern,
            everyone,
            ban,
            purge,
            discard_will,
            reason,
            server_reference,
        } = command
        else {
            return Ok(ExitCode::from(FAILURE));
        };
        let others = [("listener", listener), ("pattern", pattern)];
        let whom = match (target.whom(), *everyone) {
            (None, true) => Some(("everyone", None)),
            (whom, _) => whom.or_else(|| {
                let mut others = others.iter();
                others.find_map(|(kind, value)| {
                    Some((*kind, value.as_deref())).filter(|(_, value)| value.is_some())
                })
            }),
        };
        let Some((kind, value)) = whom else {
            return Err(UsageError::new(
                "nobody to send away, expected a client, --user, --address, --listener, --pattern or --everyone",
            ));
        };
        let keep_out = ban.as_deref().map(ban_secs).transpose()?;
        let body = object(&[
            ("target", Value::from(kind)),
            ("value", Value::from(value)),
            ("reason", Value::from(*reason)),
            ("server_reference", Value::from(server_reference.as_deref())),
            ("discard_will", Value::from(*discard_will)),
            ("purge", Value::from(*purge)),
            ("keep_out_secs", Value::from(keep_out)),
        ]);
        self.kicked(&body)
    }

    /// Asks for a kick, and says what it came to.
    fn kicked(&self, body: &Value) -> anyhow::Result<ExitCode> {
        let outcome = ask(self.socket, "POST", "/api/v1/kicks", Some(body))?;
        let found = at(&outcome, &["found"]).as_str().unwrap_or_default();
        let is_banned = at(&outcome, &["banned"]) == &Value::Bool(true);
        let printed = if self.json {
            print_json(&outcome)?
        } else {
            let count = |name| at(&outcome, &[name]).as_u64().unwrap_or(0);
            let mut text = match found {
                "nobody" => "nobody found".to_owned(),
                "already_gone" => format!("{} away already", count("away")),
                _ => format!("{} sent away", count("kicked") + count("pending")),
            };
            if count("purged") > 0 {
                let _ = write!(text, ", {} sessions forgotten", count("purged"));
            }
            if is_banned {
                text += ", kept out";
            }
            super::print(|out| writeln!(out, "{text}"))?
        };
        let is_done = found != "nobody" || is_banned;
        Ok(if is_done { printed } else { ExitCode::from(FAILURE) })
    }

    fn ban(&self, target: &Target, time: &str, lift: bool) -> anyhow::Result<ExitCode> {
        let Some((kind, value)) = target.whom() else {
            if lift {
                return Err(UsageError::new(
                    "nobody to let in again, expected a client, --user or --address",
                ));
            }
            return self.list("/api/v1/bans", BANS);
        };
        if lift {
            let value = encoded(value.unwrap_or_default());
            return self.answer(ask(
                self.socket,
                "DELETE",
                &format!("/api/v1/bans?kind={kind}&value={value}"),
                None,
            )?);
        }
        self.kicked(&object(&[
            ("target", Value::from(kind)),
            ("value", Value::from(value)),
            ("keep_out_secs", Value::from(ban_secs(time)?)),
        ]))
    }
}

impl Sessions {
    fn query(&self) -> String {
        query("client", &self.client) + &query("user", &self.user) + &query("listener", &self.listener)
    }
}

impl Target {
    /// The kind of the target, and whom it names.
    fn whom(&self) -> Option<(&'static str, Option<&str>)> {
        let all = [
            ("client", &self.client),
            ("user", &self.user),
            ("address", &self.address),
        ];
        let mut named = all
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, Some(value.as_deref()?))));
        named.next()
    }
}

fn query(name: &str, value: &Option<String>) -> String {
    match value {
        Some(value) => format!("&{name}={}", encoded(value)),
        None => String::new(),
    }
}

/// An object of the fields that say something.
fn object(fields: &[(&str, Value)]) -> Value {
    let said = fields.iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        said.map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

fn print_json(value: &Value) -> anyhow::Result<ExitCode> {
    super::print(|out| writeln!(out, "{value:#}"))
}

fn diagnose(socket: &Path, output: Option<&Path>) -> anyhow::Result<ExitCode> {
    use std::os::unix::fs::OpenOptionsExt;

    let bundle = ask(socket, "GET", "/api/v1/diagnostics", None)?;
    let Some(path) = output else {
        return print_json(&bundle);
    };
    let mut text = String::new();
    writeln!(text, "{bundle:#}").context("cannot write to memory")?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| {
            format!(
                "cannot write {}, expected a new file in a folder of yours",
                path.display()
            )
        })?;
    Ok(ExitCode::SUCCESS)
}

/// How long somebody is kept out, in seconds; 0: until it is lifted.
fn ban_secs(text: &str) -> anyhow::Result<u64> {
    if text == "forever" {
        return Ok(0);
    }
    match duration_from(text).map(|duration| duration.as_secs()) {
        Some(secs) if secs > 0 => Ok(secs),
        _ => Err(UsageError::new(format!(
            "found the time {text:?}, expected at least a second such as 30s, 10m, 1h or 7d, or forever"
        ))),
    }
}

/// A value parser for reason codes.
fn code_from(text: &str) -> Result<u64, String> {
    let code = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    code.map_err(|_| "expected a reason code such as 0x98 or 152".to_owned())
}

/// A value parser for the pause between two looks.
fn interval_from(text: &str) -> Result<u64, String> {
    let secs = text.parse().ok().filter(|secs| (1..=3600).contains(secs));
    secs.ok_or_else(|| "expected seconds from 1 to 3600".to_owned())
}

/// A value parser for how much is listed.
fn most_from(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|most| *most > 0)
        .ok_or_else(|| "expected a number from 1 up".to_owned())
}
