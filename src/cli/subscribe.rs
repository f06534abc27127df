//! `tidegate sub`: subscribes, and prints the messages that come.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::ArgAction;
use clap::builder::PossibleValue;

use super::format::{CONVERSIONS, Format};
use super::login::Login;
use super::publish::seconds;
use super::server::{self, Persistence, ServerArguments};
use super::{UsageError, tell};
use crate::client::{Client, ClientError, Message, Target};
use crate::mqtt::{
    ProtocolVersion, QoS, ReasonCode, RetainHandling, SubscribeProperties, Subscription, TopicFilter,
};

/// Subscribe, and print the messages that come
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = after_help())]
pub(super) struct Arguments {
    /// What to receive, wildcards allowed; may be given more than once
    #[arg(short, long = "topic", required = true, value_name = "FILTER", value_parser = server::topic_filter)]
    topics: Vec<TopicFilter>,
    /// What not to print; may be given more than once
    #[arg(short = 'T', long, value_name = "FILTER", value_parser = server::topic_filter)]
    filter_out: Vec<TopicFilter>,
    /// The highest quality of service wanted
    #[arg(short, long, default_value = "0", value_parser = server::qos)]
    qos: QoS,
    /// End after as many printed messages
    #[arg(short = 'C', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End with exit code 27 after as many seconds, fractions allowed
    #[arg(short = 'W', long, value_name = "SECS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// End once the server has answered the subscription
    #[arg(short = 'E', long)]
    exit_when_subscribed: bool,
    /// End when the connection breaks, with exit code 1, instead of connecting again
    #[arg(long)]
    no_reconnect: bool,

    /// Print the topic before the payload
    #[arg(short, long, group = "printing", help_heading = "Printing")]
    verbose: bool,
    /// Print each message as the template says
    #[arg(
        short = 'F',
        long,
        group = "printing",
        value_name = "TEMPLATE",
        value_parser = Format::parse,
        help_heading = "Printing"
    )]
    format: Option<Format>,
    /// Print each message as a JSON object on its own line
    #[arg(long, group = "printing", help_heading = "Printing")]
    json: bool,
    /// No line end after each message
    #[arg(short = 'N', long, help_heading = "Printing")]
    no_newline: bool,

    /// Print retained messages only, and end with the first that is not
    #[arg(long, help_heading = "Retained messages")]
    retained_only: bool,
    /// Print no retained messages
    #[arg(
        short = 'R',
        long,
        conflicts_with = "retained_only",
        help_heading = "Retained messages"
    )]
    no_retained: bool,
    /// When the server sends them; 5.0 only
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "always",
        value_enum,
        help_heading = "Retained messages"
    )]
    retain_handling: Handling,
    /// Show the retain flag of live messages as it was published; 5.0 only
    #[arg(long, help_heading = "Retained messages")]
    retain_as_published: bool,

    #[command(flatten)]
    server: ServerArguments,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Handling(RetainHandling);

fn after_help() -> String {
    format!(
        "{CONVERSIONS}

Examples:
  tidegate sub -t 'site/#' -v
  tidegate sub -h gateway.local -t site/lamp -C 1 -W 5
  tidegate sub --url mqtts://probe@gateway.local --cafile ca.pem -t '#' --json
  tidegate sub -t 'site/+/temperature' -F '%I %t %p'

-h is the host, as with other MQTT clients. There is no option for the password itself: every
user of this machine can read the arguments of a process.

Exit codes:
  0   ended by --count, Ctrl-C or a closed pipe    2   wrong command line
  1   it failed                                    27  the time of --timeout is over"
    )
}

/// The exit code of a time limit that is over; the one scripts know from other MQTT clients.
const TIMED_OUT: u8 = 27;

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (target, options) = arguments.server.prepare(true)?;
    if options.version != ProtocolVersion::V5
        && (arguments.retain_handling.0 != RetainHandling::Send || arguments.retain_as_published)
    {
        return Err(UsageError::new(
            "--retain-handling and --retain-as-published need MQTT 5.0, expected -V 5",
        ));
    }
    let login = Login::of(&options);
    let ended = server::run(async {
        let timeout = async {
            match arguments.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let mut client = Client::new(options)?;
        let code = tokio::select! {
            result = receive(&mut client, &target, &arguments) => {
                result?;
                ExitCode::SUCCESS
            }
            () = timeout => ExitCode::from(TIMED_OUT),
            ended = server::asked_to_end() => {
                ended?;
                ExitCode::SUCCESS
            }
        };
        client.disconnect(ReasonCode::Success).await;
        if client.dropped() > 0 {
            tell(format_args!(
                "{} messages of QoS 0 came faster than they could be printed",
                client.dropped()
            ));
        }
        Ok(code)
    });
    ended.map_err(|error| login.advise(error))
}

/// Prints what comes, until there is a reason to end.
async fn receive(client: &mut Client, target: &Target, arguments: &Arguments) -> anyhow::Result<()> {
    client.reconnect(target).await?;
    subscribe(client, arguments).await?;
    if arguments.exit_when_subscribed {
        return Ok(());
    }
    let mut persistence = Persistence::new();
    let mut printer = Printer::new(arguments);
    loop {
        match client.next_message().await {
            Ok(message) => {
                if !printer.take(&message)? {
                    return Ok(());
                }
            }
            Err(why) if arguments.no_reconnect => return Err(why.into()),
            Err(mut why) => loop {
                let connected = persistence.reconnect(client, target, why).await?;
                if connected.session_present {
                    break;
                }
                match subscribe(client, arguments).await {
                    Ok(()) => break,
                    Err(error) => match error.downcast::<ClientError>()? {
                        ClientError::Disconnected(again) => why = again,
                        error => return Err(error.into()),
                    },
                }
            },
        }
    }
}

/// Subscribes to everything; what is refused is told, and all of it refused is an error.
async fn subscribe(client: &mut Client, arguments: &Arguments) -> anyhow::Result<()> {
    let subscriptions = arguments.topics.iter().map(|filter| Subscription {
        filter: filter.clone(),
        qos: arguments.qos,
        no_local: false,
        retain_as_published: arguments.retain_as_published,
        retain_handling: arguments.retain_handling.0,
    });
    let reasons = client
        .subscribe(subscriptions, SubscribeProperties::default())
        .await?;
    for (filter, reason) in arguments.topics.iter().zip(&reasons) {
        if reason.is_error() {
            tell(format_args!(
                "the server refused the subscription to {filter}: {reason}"
            ));
        }
    }
    if reasons.iter().all(|reason| reason.is_error()) {
        bail!("no subscription was granted");
    }
    Ok(())
}

struct Printer<'a> {
    arguments: &'a Arguments,
    format: Format,
    printed: u64,
    line: Vec<u8>,
}

impl<'a> Printer<'a> {
    fn new(arguments: &'a Arguments) -> Self {
        let format = match &arguments.format {
            Some(format) => format.clone(),
            None if arguments.json => Format::json(),
            None if arguments.verbose => Format::verbose(),
            None => Format::payload(),
        };
        Self {
            arguments,
            format,
            printed: 0,
            line: Vec::new(),
        }
    }

    /// Prints `message` if it is wanted; returns whether more are.
    fn take(&mut self, message: &Message) -> anyhow::Result<bool> {
        let arguments = self.arguments;
        if arguments.retained_only && !message.retain {
            return Ok(false);
        }
        let hidden = arguments.no_retained && message.retain
            || arguments
                .filter_out
                .iter()
                .any(|filter| filter.matches(&message.topic));
        if hidden {
            return Ok(true);
        }
        self.line.clear();
        self.format.render(message, SystemTime::now(), &mut self.line);
        if !arguments.no_newline {
            self.line.push(b'\n');
        }
        let mut out = io::stdout().lock();
        match out.write_all(&self.line).and_then(|()| out.flush()) {
            Ok(()) => {}
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error).context("cannot print the message"),
        }
        self.printed += 1;
        Ok(arguments.count.is_none_or(|count| self.printed < count))
    }
}

impl clap::ValueEnum for Handling {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(RetainHandling::Send),
            Self(RetainHandling::SendIfNew),
            Self(RetainHandling::DoNotSend),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            RetainHandling::Send => PossibleValue::new("always"),
            RetainHandling::SendIfNew => PossibleValue::new("new"),
            RetainHandling::DoNotSend => PossibleValue::new("never"),
        })
    }
}
