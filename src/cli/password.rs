//! Where a password comes from: a file, the environment, or a person at the terminal.
//!
//! Never an argument: every user of the machine can read the arguments of every process, and shells write them down.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Read where no file is named, so that a service manager can hand the password over.
pub(super) const VARIABLE: &str = "TIDEGATE_PASSWORD";

/// The longest password the wire can carry.
const BYTES_MAX: u64 = 65_535;

/// The password of `file`, or of [`VARIABLE`], or of the person at the terminal where `may_ask`; `None` where there is
/// none.
///
/// # Errors
/// Where the file cannot be read or is empty, or the terminal is closed.
pub(super) fn find(file: Option<&Path>, may_ask: bool) -> anyhow::Result<Option<Vec<u8>>> {
    if let Some(file) = file {
        return from_file(file).map(Some);
    }
    if let Some(password) = std::env::var_os(VARIABLE).filter(|password| !password.is_empty()) {
        return Ok(Some(password.into_encoded_bytes()));
    }
    if may_ask && can_ask() {
        let password = ask("Password: ").context("cannot read the password from the terminal")?;
        return Ok((!password.is_empty()).then_some(password));
    }
    Ok(None)
}

/// Its first line.
fn from_file(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = file.display();
    let source = fs::File::open(file).with_context(|| format!("cannot open the password file {name}"))?;
    let mut text = Vec::new();
    source
        .take(BYTES_MAX + 2)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        bail!("the password file {name} has an empty first line, expected the password");
    }
    Ok(line.to_vec())
}

/// Whether there is a person at a terminal.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks without showing what is typed.
pub(super) fn ask(prompt: &str) -> io::Result<Vec<u8>> {
    let mut screen = io::stderr();
    screen.write_all(prompt.as_bytes())?;
    screen.flush()?;
    let quiet = Quiet::new()?;
    let mut typed = Vec::new();
    let mut input = io::stdin().lock().bytes();
    loop {
        match input.next().transpose()? {
            None | Some(b'\r' | b'\n') => break,
            Some(INTERRUPT) => {
                drop(quiet);
                screen.write_all(b"\n")?;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(ERASE | BACKSPACE) => {
                typed.pop();
            }
            Some(byte) => typed.push(byte),
        }
    }
    drop(quiet);
    screen.write_all(b"\n")?;
    Ok(typed)
}

/// Ctrl-C, delete and Ctrl-H as a terminal in the mode of [`Quiet`] sends them.
const INTERRUPT: u8 = 3;
const ERASE: u8 = 127;
const BACKSPACE: u8 = 8;

/// A terminal that shows nothing and sends each key at once, Ctrl-C as a key too: killed by it we could not give the
/// terminal back as it was.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
