//! `tidegate run`: the gateway itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{debug, info, warn};

use super::{UsageError, check, logging};
use crate::admin::log_level;
use crate::board::Boards;
use crate::config::{self, Mistake, Settings};
use crate::gateway::reload::ReloadHandle;
use crate::gateway::{self, Gateway, Supervisor};
use crate::net::listener::raise_descriptor_limit;

/// The arguments of `tidegate run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without a configuration the gateway serves this machine's own programs only, anonymously and in memory.

Examples:
  tidegate run
  tidegate run --listen 127.0.0.1:2883
  tidegate run --config /etc/tidegate/tidegate.toml

It ends on Ctrl-C or SIGTERM, after telling its clients, and at once on a second of these. On SIGHUP it reads the \
configuration and the files it names again: all of it takes effect, or with one mistake in it nothing. Exit codes: \
0 it was told to end, 1 it could not start (a port in use, a certificate that cannot be read) or was told to end at \
once, 2 the configuration is wrong.")]
pub(super) struct Arguments {
    /// Read the configuration from FILE
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Without a configuration: listen on this loopback address instead of 127.0.0.1:1883 and [::1]:1883 (repeatable)
    #[arg(short, long, value_name = "ADDRESS:PORT", conflicts_with = "config", value_parser = socket_address)]
    listen: Vec<SocketAddr>,
    /// A folder of board profiles instead of /etc/tidegate/boards
    #[arg(long, value_name = "DIR")]
    boards: Option<PathBuf>,
    /// Log more: -v the turns off the usual path, -vv every packet
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs the gateway until it is told to end.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let settings = match settings(arguments)? {
        Ok(settings) => settings,
        Err(mistakes) => return Ok(check::tell(&mistakes)),
    };
    let verbose = arguments.verbose;
    let level = move |configured| logging::level(LevelFilter::from_level(configured), verbose);
    logging::start(level(settings.log));
    let board = &settings.board.name;
    match raise_descriptor_limit() {
        Ok(descriptors) => info!(
            version = env!("CARGO_PKG_VERSION"),
            board, descriptors, "starting"
        ),
        Err(error) => warn!(%error, "the limit of open files could not be raised"),
    }
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    if arguments.config.is_none() {
        info!("no configuration: serving this machine only, anonymously, in memory");
    }
    let runtime = gateway::runtime().context("cannot start the event loop")?;
    let again = Arc::new(arguments.clone());
    let load = move || self::settings(&again).unwrap_or_else(|error| Err(vec![of_command_line(&error)]));
    let is_at_once = runtime.block_on(async {
        let gateway = Gateway::bind(settings)?
            .reloading(load, move |configured| log_level::set(level(configured)))
            .supervised(Supervisor::from_environment());
        // Before anybody can read that the gateway is there and tell it to end.
        let stop = stop_signal()?;
        let again = reload_signal(gateway.reload_handle())?;
        let mut signals = StopSignals::new()?;
        for (listener, address) in gateway.addresses() {
            info!(listener, %address, "listening");
        }
        let at_once = async {
            signals.next().await; // which the gateway stops by
            signals.next().await;
        };
        tokio::select! {
            () = gateway.run(stop) => anyhow::Ok(false),
            () = at_once => Ok(true),
            () = again => Ok(false),
        }
    })?;
    // A serial port that hangs in its driver while it is being opened keeps nobody waiting.
    runtime.shutdown_background();
    if is_at_once {
        warn!("told to end at once, not every client was told");
        return Ok(ExitCode::FAILURE);
    }
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// A mistake on the command line, as one of a file that is not there.
fn of_command_line(error: &anyhow::Error) -> Mistake {
    Mistake {
        file: PathBuf::from("tidegate run"),
        line: 0,
        column: 0,
        key: String::new(),
        message: error.to_string(),
    }
}

/// Asks for a reload with every SIGHUP; never ready.
fn reload_signal(reload: ReloadHandle) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            // The gateway tells the log what it comes to.
            drop(reload.ask());
        }
        debug!("no more signals");
        std::future::pending().await
    })
}

fn settings(arguments: &Arguments) -> anyhow::Result<Result<Settings, Vec<Mistake>>> {
    let boards = arguments.boards.as_deref();
    match &arguments.config {
        Some(path) => Ok(config::load(path, boards)),
        None => match Boards::load(boards) {
            Ok(boards) => match Settings::local(&arguments.listen, boards.detect_here().clone()) {
                Ok(settings) => Ok(Ok(settings)),
                Err(off_loopback) => Err(UsageError::new(off_loopback)),
            },
            Err(mistakes) => Ok(Err(mistakes)),
        },
    }
}

/// A value parser for where to listen.
fn socket_address(given: &str) -> Result<SocketAddr, String> {
    given.parse().map_err(|_| {
        "expected an IP address and a port from 0 to 65535, such as 127.0.0.1:1883 or [::1]:1883".to_owned()
    })
}

/// Ready when the process is asked to end.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::new()?;
    Ok(async move { signals.next().await })
}

/// The signals by which the process is asked to end.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
        })
    }

    /// Ready with the next of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
