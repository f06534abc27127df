//! What the shell is told.

use std::process::ExitCode;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked for.
    Done = 0,
    /// It could not: a file, an address, a connection.
    Failure = 1,
    /// It was asked for something that cannot be: a wrong argument, a wrong configuration.
    BadConfiguration = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
