//! `tidegate run`: the gateway itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::{UsageError, check, logging};
use crate::board::Boards;
use crate::config::{self, Mistake, Settings};
use crate::gateway::{self, Gateway};
use crate::net::listener::raise_descriptor_limit;

/// The arguments of `tidegate run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a configuration the gateway serves this machine's own programs only, anonymously and in memory.

Examples:
  tidegate run
  tidegate run --listen 127.0.0.1:2883
  tidegate run --config /etc/tidegate/tidegate.toml

It ends on Ctrl-C or SIGTERM, after telling its clients. Exit codes: 0 it was told to end, 1 it could not start (a \
port in use, a certificate that cannot be read), 2 the configuration is wrong.")]
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
    logging::start(logging::level(
        LevelFilter::from_level(settings.log),
        arguments.verbose,
    ));
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
    runtime.block_on(async {
        let gateway = Gateway::bind(settings)?;
        // Before anybody can read that the gateway is there and tell it to end.
        let stop = stop_signal()?;
        for (listener, address) in gateway.addresses() {
            info!(listener, %address, "listening");
        }
        gateway.run(stop).await;
        anyhow::Ok(())
    })?;
    // A serial port that hangs in its driver while it is being opened keeps nobody waiting.
    runtime.shutdown_background();
    info!("stopped");
    Ok(ExitCode::SUCCESS)
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
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
