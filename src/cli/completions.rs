//! `tidegate completions`: the completion script of a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::shells::{Bash, Fish, Zsh};

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidegate completions bash > /etc/bash_completion.d/tidegate
  tidegate completions zsh > ~/.zfunc/_tidegate
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish")]
pub(super) struct Arguments {
    /// Which shell
    shell: Shell,
}

/// Those of the systems that gateways and their keepers run.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (mut command, mut script) = (super::Cli::command(), Vec::new());
    match arguments.shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, "tidegate", &mut script),
        Shell::Fish => clap_complete::generate(Fish, &mut command, "tidegate", &mut script),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, "tidegate", &mut script),
    }
    super::print(|out| out.write_all(&script))
}
