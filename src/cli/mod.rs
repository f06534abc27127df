//! The command line: one file for each command, and what they share.
//!
//! - `server`: the options that lead to a server, of `pub`, `sub` and `bench`.
//! - `login`: as whom a client comes. `password`: where a password comes from.
//! - `format`: how `sub` prints a message.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

mod acl;
mod bench;
mod boards;
pub mod cert;
mod check;
mod completions;
mod ctl;
mod demo;
mod format;
mod logging;
mod login;
mod passwd;
mod password;
mod publish;
mod run;
mod server;
mod subscribe;
mod version;

/// The exit code of what could not be done.
const FAILURE: u8 = 1;
/// The exit code of a wrong command line or configuration; clap's own.
const USAGE: u8 = 2;

/// An MQTT broker for small gateways, with the serial field sensors built in
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 all went well, 1 it failed, 2 the command line or the configuration is wrong."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::Arguments),
    /// Show the gateway's main job, with nothing installed and no hardware
    Demo(demo::Arguments),
    /// Check a configuration file and the files it names
    Check(check::Arguments),
    /// Show the board profiles
    Boards(boards::Arguments),
    /// Add, change, remove or check a user of a password file
    Passwd(passwd::Arguments),
    /// Say who may do what, and which line decides it
    Acl(acl::Arguments),
    /// Make a certificate authority and a server certificate
    Cert(cert::Arguments),
    /// Ask a running gateway, and tell it what to do
    Ctl(Box<ctl::Arguments>),
    /// Publish messages
    Pub(Box<publish::Arguments>),
    /// Subscribe, and print the messages that come
    Sub(Box<subscribe::Arguments>),
    /// Measure a broker, or several against each other
    Bench(Box<bench::Arguments>),
    /// Print version, target and protocol versions
    Version(version::Arguments),
    /// Print the completion script of a shell
    Completions(completions::Arguments),
}

/// Writes to standard output; whoever stopped reading it has seen enough, and that is no failure.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Tells the person at the shell something on standard error; nobody may be there to read it, which is no reason to
/// panic.
fn tell(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "tidegate: {text}");
}

impl Cli {
    /// Runs the command; returns what the process exits with, having said on standard error what went wrong.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Run(arguments) => run::run(&arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Boards(arguments) => boards::run(&arguments),
            Command::Passwd(arguments) => passwd::run(&arguments),
            Command::Acl(arguments) => acl::run(&arguments),
            Command::Cert(arguments) => cert::run(&arguments),
            Command::Ctl(arguments) => ctl::run(&arguments),
            Command::Pub(arguments) => publish::run(*arguments),
            Command::Sub(arguments) => subscribe::run(*arguments),
            Command::Bench(arguments) => bench::run(*arguments),
            Command::Version(arguments) => version::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
        };
        result.unwrap_or_else(|error| {
            tell(format_args!("{error:#}"));
            ExitCode::from(if error.is::<UsageError>() { USAGE } else { FAILURE })
        })
    }
}

/// A command line that clap takes and that means nothing all the same; exits with [`USAGE`].
#[derive(Debug)]
struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl UsageError {
    #[allow(
        clippy::new_ret_no_self,
        reason = "made to be returned, by functions that fail in other ways too"
    )]
    fn new(text: impl fmt::Display) -> anyhow::Error {
        Self(text.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_holds_no_contradiction() {
        Cli::command().debug_assert();
    }
}
