//! `tidegate acl explain`: which line decides what somebody may do with a topic.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{FAILURE, UsageError, check, print};
use crate::auth::Identity;
use crate::auth::access::{Action, Rights, Who};
use crate::auth::acl::{Acl, AmbiguousName, Decision, Effect, Reason};
use crate::config;
use crate::mqtt::{ClientId, TopicFilter, TopicName, Utf8String};

/// Say who may do what
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a user may publish, subscribe to and receive a topic, and which line decides it
    Explain(Explain),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate acl explain ann plant/1/set --config /etc/tidegate/tidegate.toml
  tidegate acl explain - 'plant/#' --action subscribe --acl-file acl
  tidegate acl explain ann sensors/7 --client s7 --config tidegate.toml

It reads the files, not a running gateway. A topic is told as the whole tree has it, with the mount point of a \
listener in front. Exit codes: 0 allowed, 1 denied, in one of the actions asked for; 2 the command line or a file is \
wrong.")]
struct Explain {
    /// The user; \"-\" is a client without a user name
    user: String,

    /// The topic name, or for \"subscribe\" a topic filter
    topic: String,

    /// The configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "acl_file",
        conflicts_with = "acl_file"
    )]
    config: Option<PathBuf>,

    /// A file in the form of mosquitto's acl_file, instead of a configuration
    #[arg(long, value_name = "FILE")]
    acl_file: Option<PathBuf>,

    /// The client identifier, where rules ask for it
    #[arg(long, value_name = "ID")]
    client: Option<String>,

    /// The action in question
    #[arg(long, value_enum, default_value_t = Question::All)]
    action: Question,

    /// Groups the user is taken to be in as well
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "config")]
    groups: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    Publish,
    Subscribe,
    Receive,
    All,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Command::Explain(explain) = &arguments.command;
    let read = match (&explain.config, &explain.acl_file) {
        (_, Some(file)) => config::read_acl_file(file),
        (Some(file), None) => config::load(file, None).map(|settings| settings.rights),
        (None, None) => return Err(UsageError::new("expected --config FILE or --acl-file FILE")),
    };
    match read {
        Ok(rights) => explain.answer(rights),
        Err(mistakes) => Ok(check::tell(&mistakes)),
    }
}

impl Explain {
    fn answer(&self, rights: Rights) -> anyhow::Result<ExitCode> {
        let identity = match self.user.as_str() {
            "-" => Identity::Anonymous,
            name => Identity::User(Utf8String::try_from(name).map_err(UsageError::new)?),
        };
        let client = match &self.client {
            None => None,
            Some(text) => ClientId::new(Utf8String::try_from(text.as_str()).map_err(UsageError::new)?),
        };
        let rights = self.joined(rights, &identity)?;
        let who = Who::new(&identity, client.as_ref());
        let filter = TopicFilter::try_from(self.topic.as_str())
            .map_err(|error| UsageError::new(format_args!("{:?} is no topic: {error}", self.topic)))?;
        let is_name = TopicName::try_from(self.topic.as_str()).is_ok() && filter.share().is_none();
        let actions: &[Action] = match self.action {
            Question::Publish => &[Action::Publish],
            Question::Subscribe => &[Action::Subscribe],
            Question::Receive => &[Action::Receive],
            Question::All if is_name => &[Action::Publish, Action::Subscribe, Action::Receive],
            // Nobody publishes on a filter, or is handed one.
            Question::All => &[Action::Subscribe],
        };
        if !is_name && actions != [Action::Subscribe] {
            return Err(UsageError::new(format_args!(
                "{:?} is a topic filter, expected a topic name, or --action subscribe",
                self.topic
            )));
        }
        let mut text = String::new();
        let mut all_allowed = true;
        for &action in actions {
            let decision = rights.explain(who, action, filter.matched());
            all_allowed &= decision.allowed;
            text += &told(action, decision);
        }
        if let Some(name) = rights.ambiguity(who) {
            text += &format!("such a client is not let in at all: {}\n", told_name(name));
            all_allowed = false;
        }
        if client.is_none() && rights.acl().is_some_and(|acl| acl.asks_for_client(&identity)) {
            text += "rules that ask for the client identifier were left out; give it with --client\n";
        }
        print(|out| out.write_all(text.as_bytes()))?;
        Ok(if all_allowed {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILURE)
        })
    }

    /// The rights where the user is in `--groups`, too.
    fn joined(&self, rights: Rights, identity: &Identity) -> anyhow::Result<Rights> {
        if self.groups.is_empty() {
            return Ok(rights);
        }
        let Identity::User(user) = identity else {
            return Err(UsageError::new("a client without a user name is in no group"));
        };
        let mut acl = rights.acl().cloned().unwrap_or_else(|| Acl::new(Effect::Allow));
        for group in &self.groups {
            if !acl.join(user, group) {
                return Err(UsageError::new(format_args!(
                    "found the group {group:?}, expected one of [access.groups]"
                )));
            }
        }
        Ok(Rights::within(acl))
    }
}

fn told(action: Action, decision: Decision<'_>) -> String {
    let action = match action {
        Action::Publish => "publish",
        Action::Subscribe => "subscribe",
        Action::Receive => "receive",
    };
    let verdict = if decision.allowed { "allowed" } else { "denied" };
    let why = match decision.reason {
        Reason::Rule(rule) => {
            let effect = if rule.effect == Effect::Allow {
                "allows"
            } else {
                "denies"
            };
            format!(
                "{} {effect} {} of {}",
                rule.source,
                rule.actions,
                rule.topics.as_str()
            )
        }
        Reason::Name(rule, name) => format!("{} cannot be asked: {}", rule.source, told_name(name)),
        Reason::NoRule => "no rule matched, so it is denied".to_owned(),
        Reason::NoAcl => "there are no access rules, so it is allowed".to_owned(),
        Reason::Reserved => "topics that begin with \"$\" are written by the gateway alone".to_owned(),
        Reason::Gateway => "the gateway may do everything".to_owned(),
    };
    format!("{action:<10} {verdict:<8} {why}\n")
}

fn told_name(name: AmbiguousName) -> &'static str {
    match name {
        AmbiguousName::Client => "the client identifier holds '+', '#' or '/', and a rule has it as %c",
        AmbiguousName::User => "the user name holds '+', '#' or '/', and a rule has it as %u",
    }
}
