//! `tidegate pub`: publishes one message, or one for each line of standard input.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ArgAction;
use tokio::sync::mpsc;

use super::UsageError;
use super::login::Login;
use super::server::{self, PACKET_BYTES_MAX, Persistence, ServerArguments};
use crate::client::{Client, Disconnection, Event, Message, Published, Target};
use crate::mqtt::{ProtocolVersion, PublishProperties, QoS, ReasonCode, TopicName, Utf8String};

/// Publish messages
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the message goes
    #[arg(short, long, value_parser = server::topic_name)]
    topic: TopicName,
    #[command(flatten)]
    content: Content,
    /// Quality of service: 0 sent, 1 acknowledged, 2 exactly once
    #[arg(short, long, default_value = "0", value_parser = server::qos)]
    qos: QoS,
    /// Make it the topic's retained message
    #[arg(short, long)]
    retain: bool,
    /// Publish the message as many times
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "1",
        conflicts_with = "lines",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    repeat: u32,
    /// Seconds between repetitions, fractions allowed
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = seconds)]
    repeat_delay: Duration,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    properties: Properties,
    #[command(flatten)]
    server: ServerArguments,
}

/// Where the payload comes from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Content {
    /// The payload
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// A file with the payload
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One message for each line of standard input; connects again where the connection breaks
    #[arg(short, long = "stdin-line")]
    lines: bool,
    /// All of standard input as one message
    #[arg(short, long = "stdin-file")]
    stdin: bool,
    /// No payload; with --retain it removes the retained message
    #[arg(short, long)]
    null_message: bool,
}

/// What 5.0 lets a message say of itself.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Properties (5.0 only)")]
struct Properties {
    /// Seconds after which the message is of no use any more
    #[arg(long, value_name = "SECS")]
    message_expiry: Option<u32>,
    /// What the payload is, as in application/json
    #[arg(long, value_name = "TYPE", value_parser = server::text)]
    content_type: Option<Utf8String>,
    /// Where an answer goes
    #[arg(long, value_name = "TOPIC", value_parser = server::topic_name)]
    response_topic: Option<TopicName>,
    /// By which an answer is told from others
    #[arg(long, value_name = "TEXT")]
    correlation_data: Option<String>,
    /// A property of your own; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = user_property)]
    user_property: Vec<(Utf8String, Utf8String)>,
    /// Say that the payload is text in UTF-8
    #[arg(long)]
    payload_utf8: bool,
}

const EXAMPLES: &str = "Examples:
  tidegate pub -t site/lamp -m on
  tidegate pub -h gateway.local -t site/lamp -m on -q 1 -r
  tidegate pub --url mqtts://probe@gateway.local --cafile ca.pem -t site/lamp -m on
  sensor --follow | tidegate pub -t site/raw -l -q 1
  tidegate pub -t site/lamp -n -r        remove the retained message

-h is the host, as with other MQTT clients. There is no option for the password itself: every
user of this machine can read the arguments of a process.

Exit codes:
  0   published; for QoS 1 and 2, the server has it    2   wrong command line
  1   not published";

/// The longest line of standard input, in bytes: what one packet can carry.
const LINE_BYTES_MAX: u64 = PACKET_BYTES_MAX as u64;

/// Lines read ahead of the server.
const LINES_AHEAD: usize = 64;

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let properties = arguments.properties.build();
    let takes_stdin = arguments.content.lines || arguments.content.stdin;
    let (target, options) = arguments.server.prepare(!takes_stdin)?;
    if properties.is_some() && options.version != ProtocolVersion::V5 {
        return Err(UsageError::new(format_args!(
            "MQTT {} carries no properties, expected -V 5",
            options.version
        )));
    }
    let login = Login::of(&options);
    let template = Message {
        topic: arguments.topic,
        payload: Bytes::new(),
        qos: arguments.qos,
        retain: arguments.retain,
        properties,
    };
    if arguments.content.lines {
        let window = usize::from(options.inflight_max);
        let published = server::run(async {
            let mut client = Client::connect(&target, options).await?;
            tokio::select! {
                result = publish_lines(&mut client, &target, &template, window) => result?,
                ended = server::asked_to_end() => ended?,
            }
            client.disconnect(ReasonCode::Success).await;
            if client.unfinished() > 0 {
                bail!(
                    "ended with {} messages that the server has not acknowledged",
                    client.unfinished()
                );
            }
            Ok(ExitCode::SUCCESS)
        });
        return published.map_err(|error| login.advise(error));
    }
    let message = Message {
        payload: arguments.content.payload()?,
        ..template
    };
    let published = server::run(async {
        let mut client = Client::connect(&target, options).await?;
        for round in 0..arguments.repeat {
            if round > 0 {
                pause(&mut client, arguments.repeat_delay).await?;
            }
            client.publish(message.clone()).await?;
        }
        client.disconnect(ReasonCode::Success).await;
        Ok(ExitCode::SUCCESS)
    });
    published.map_err(|error| login.advise(error))
}

/// Waits without letting the connection die of silence.
async fn pause(client: &mut Client, pause: Duration) -> Result<(), Disconnection> {
    let pause = tokio::time::sleep(pause);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return Ok(()),
            event = client.next_event() => drop(event?),
        }
    }
}

async fn publish_lines(
    client: &mut Client,
    target: &Target,
    template: &Message,
    window: usize,
) -> anyhow::Result<()> {
    let mut lines = read_lines();
    let mut persistence = Persistence::new();
    let mut more = true;
    while more || client.unfinished() > 0 {
        let event = tokio::select! {
            line = lines.recv(), if more && client.unfinished() < window => {
                match line {
                    None => more = false,
                    Some(line) => {
                        let payload = line.context("cannot read standard input")?;
                        client.enqueue(Message { payload, ..template.clone() })?;
                    }
                }
                continue;
            }
            event = client.next_event() => event,
        };
        match event {
            Ok(Event::Published(Published { reason, .. })) if reason.is_error() => {
                bail!("the server refused: {reason}");
            }
            Ok(Event::Forgotten { .. }) => {
                bail!("the server forgot a message halfway; whether it arrived is unknown");
            }
            Ok(_) => {}
            Err(why) => {
                persistence.reconnect(client, target, why).await?;
            }
        }
    }
    client.flush().await?;
    Ok(())
}

/// Reads on a thread of its own, because reading a terminal or a pipe blocks; at most [`LINES_AHEAD`] lines ahead.
fn read_lines() -> mpsc::Receiver<io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let line = read_line(&mut input).transpose();
            let Some(line) = line else { break };
            let failed = line.is_err();
            if send.blocking_send(line).is_err() || failed {
                break;
            }
        }
    });
    receive
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    if input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    } else if line.len() as u64 == LINE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line is longer than a message can be",
        ));
    }
    Ok(Some(Bytes::from(line)))
}

impl Content {
    fn payload(&self) -> anyhow::Result<Bytes> {
        if let Some(text) = &self.message {
            return Ok(Bytes::from(text.clone()));
        }
        let mut payload = Vec::new();
        if let Some(file) = &self.file {
            let name = file.display();
            let source = std::fs::File::open(file).with_context(|| format!("cannot open {name}"))?;
            source
                .take(LINE_BYTES_MAX)
                .read_to_end(&mut payload)
                .with_context(|| format!("cannot read {name}"))?;
        } else if self.stdin {
            let source = io::stdin().lock().take(LINE_BYTES_MAX);
            { source }
                .read_to_end(&mut payload)
                .context("cannot read standard input")?;
        }
        if payload.len() as u64 == LINE_BYTES_MAX {
            bail!("the payload is larger than a message can be, which is 256 MiB");
        }
        Ok(Bytes::from(payload))
    }
}

impl Properties {
    fn build(&self) -> Option<Box<PublishProperties>> {
        let properties = PublishProperties {
            payload_is_utf8: self.payload_utf8.then_some(true),
            message_expiry_secs: self.message_expiry,
            topic_alias: None,
            response_topic: self.response_topic.clone(),
            correlation_data: self.correlation_data.clone().map(Bytes::from),
            user_properties: self.user_property.clone(),
            subscription_ids: Default::default(),
            content_type: self.content_type.clone(),
        };
        (!properties.is_empty()).then(|| Box::new(properties))
    }
}

fn user_property(given: &str) -> Result<(Utf8String, Utf8String), String> {
    let (name, value) = given.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((server::text(name)?, server::text(value)?))
}

/// A value parser for seconds with a fraction.
pub(super) fn seconds(given: &str) -> Result<Duration, String> {
    let seconds: f64 = given
        .parse()
        .map_err(|_| "expected a number of seconds, such as 2 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "expected seconds that are neither negative nor endless".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_without_their_ends_and_the_last_needs_none() {
        let mut input = io::Cursor::new(b"one\n\ntwo\r\nthree".as_slice());
        let lines: Vec<Bytes> = std::iter::from_fn(|| read_line(&mut input).unwrap()).collect();
        assert_eq!(lines, ["one", "", "two", "three"]);
    }

    #[test]
    fn seconds_are_read_with_a_fraction_and_nothing_else() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["-1", "inf", "NaN", "1e300", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
