//! The `tidegate` program: parse, run, exit.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
