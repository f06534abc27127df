//! `tidegate passwd`: users and their passwords.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use super::{UsageError, check, password};
use crate::auth::passwords::{self, CheckMemory, Cost, SALT_BYTES, Users};
use crate::board::Boards;

/// Add, change, remove or check a user of a password file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate passwd users alice                 asks for the password, twice
  pwgen 20 1 | tidegate passwd users alice --stdin
  tidegate passwd users alice --check         exits with 0 if it is hers, with 1 if not
  tidegate passwd users alice --delete

A password is never an argument: everybody on the machine could read it. A new file is readable by you alone: give it \
to the gateway's user with chown. The gateway reads it when it starts. Lines that mosquitto_passwd wrote are right as \
they are; a password that is set again is hashed with Argon2id.")]
pub(super) struct Arguments {
    /// The password file; a new one is made where there is none
    file: PathBuf,

    /// The user
    name: String,

    /// Read the password from the first line of standard input
    #[arg(long, conflicts_with = "delete")]
    stdin: bool,

    /// Say whether the password is the user's, and change nothing
    #[arg(long, conflicts_with = "delete")]
    check: bool,

    /// Remove the user
    #[arg(long)]
    delete: bool,

    /// The board the gateway runs on, which says what a check may cost; detected where nothing is said
    #[arg(long, value_name = "NAME")]
    board: Option<String>,

    /// A folder of board profiles instead of /etc/tidegate/boards
    #[arg(long, value_name = "DIR")]
    boards: Option<PathBuf>,
}

/// The longest password the wire can carry, in bytes.
const PASSWORD_BYTES_MAX: usize = 65_535;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { file, name, .. } = arguments;
    passwords::check_name(name).map_err(UsageError::new)?;
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !arguments.check && !arguments.delete => {
            String::new()
        }
        read => read.with_context(|| format!("cannot read {}", file.display()))?,
    };
    // A file without users yet is fine to add one to; any other mistake is not ours to write over.
    let users = if text.trim().is_empty() {
        None
    } else {
        Some(parse(file, &text)?)
    };
    let is_known = users.as_ref().is_some_and(|users| users.contains(name));

    if arguments.check {
        let password = read_password(arguments.stdin, false)?;
        let is_right = users.is_some_and(|users| users.verify(name, &password, &mut CheckMemory::default()));
        return say(
            if is_right {
                "the password is right"
            } else {
                "no such user, or another password"
            },
            !is_right,
        );
    }
    if arguments.delete {
        let Some(users) = users.filter(|_| is_known) else {
            bail!("{} has no user {name:?}", file.display());
        };
        if users.len() == 1 {
            bail!(
                "{name:?} is the last user of {}, and the gateway does not start with an empty password file; \
                 remove the file and password_file from the configuration",
                file.display()
            );
        }
        let edited = passwords::with_line(&text, name, None).map_err(UsageError::new)?;
        replace(file, &edited)?;
        return say(&format!("removed {name}"), false);
    }
    let boards = match Boards::load(arguments.boards.as_deref()) {
        Ok(boards) => boards,
        Err(mistakes) => return Ok(check::tell(&mistakes)),
    };
    let cost = cost(&boards, arguments.board.as_deref())?;
    let password = read_password(arguments.stdin, true)?;
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).context("no random numbers to be had from the system")?;
    let hash = passwords::hash(&password, cost, &salt)?;
    let edited = passwords::with_line(&text, name, Some(&hash)).map_err(UsageError::new)?;
    parse(file, &edited)?;
    replace(file, &edited)?;
    say(
        &format!("{} {name}", if is_known { "changed" } else { "added" }),
        false,
    )
}

fn say(text: &str, is_failure: bool) -> anyhow::Result<ExitCode> {
    let done = super::print(|out| writeln!(out, "{text}"))?;
    Ok(if is_failure {
        ExitCode::from(super::FAILURE)
    } else {
        done
    })
}

fn cost(boards: &Boards, name: Option<&str>) -> anyhow::Result<Cost> {
    let Some(name) = name else {
        return Ok(boards.detect_here().password_cost);
    };
    let board = boards.get(name);
    let board =
        board.ok_or_else(|| UsageError::new(format!("no board {name:?}, see \"tidegate boards list\"")))?;
    Ok(board.password_cost)
}

fn parse(file: &Path, text: &str) -> anyhow::Result<Users> {
    Users::parse(text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes
            .iter()
            .map(|mistake| format!("{}:{}: {}", file.display(), mistake.line, mistake.kind))
            .collect();
        anyhow::anyhow!(
            "the password file is wrong and stays as it is\n{}",
            lines.join("\n")
        )
    })
}

/// The first line of standard input, or what a person types; `is_new` asks twice.
fn read_password(from_stdin: bool, is_new: bool) -> anyhow::Result<Vec<u8>> {
    let password = if from_stdin {
        let mut text = Vec::new();
        let bytes_max = u64::try_from(PASSWORD_BYTES_MAX)
            .unwrap_or(u64::MAX)
            .saturating_add(3);
        io::stdin()
            .take(bytes_max)
            .read_to_end(&mut text)
            .context("cannot read standard input")?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        line.strip_suffix(b"\r").unwrap_or(line).to_vec()
    } else {
        if !password::can_ask() {
            return Err(UsageError::new(
                "there is no terminal to ask on, expected --stdin and the password on it",
            ));
        }
        let typed = password::ask("Password: ").context("cannot read the password from the terminal")?;
        if is_new
            && typed != password::ask("Again: ").context("cannot read the password from the terminal")?
        {
            bail!("the passwords differ, nothing was changed");
        }
        typed
    };
    match password.len() {
        0 => bail!("the password is empty, expected at least one character"),
        length if length > PASSWORD_BYTES_MAX => {
            bail!("the password is too long, expected at most {PASSWORD_BYTES_MAX} bytes")
        }
        _ => Ok(password),
    }
}

/// Puts `text` into the place of `file` so that a reader, or a power cut, sees the old one or the new one whole.
///
/// Owner and group stay those of the old file, or the gateway could not read it any more; a new file is 0600.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    // A link stays a link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let cannot = || format!("cannot write {}", file.display());
    let mut beside = file.clone().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = write_beside(&beside, &file, text).and_then(|()| fs::rename(&beside, &file));
    if written.is_err() {
        // What failed is told; the leftover is removed as well as can be.
        let _ = fs::remove_file(&beside);
    }
    written.with_context(cannot)?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(cannot)
}

fn write_beside(beside: &Path, old: &Path, text: &str) -> io::Result<()> {
    // A leftover of a try that was cut short would stand in the way of create_new.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(beside)?;
    if let Ok(old) = fs::metadata(old) {
        let made = new.metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            fchown(
                &new,
                Some(Uid::from_raw(old.uid())),
                Some(Gid::from_raw(old.gid())),
            )?;
        }
        // Its group may go on reading; nobody else could before either, or may now.
        fchmod(&new, Mode::from_raw_mode(old.mode() & 0o040 | 0o600))?;
    }
    new.write_all(text.as_bytes())?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_file_is_the_owners_alone_and_an_old_one_keeps_its_group() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("users");
        let mode = || fs::metadata(&file).expect("there").permissions().mode() & 0o777;
        replace(&file, "one").expect("written");
        assert_eq!(
            (fs::read_to_string(&file).expect("text").as_str(), mode()),
            ("one", 0o600)
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permitted");
        replace(&file, "two").expect("written");
        assert_eq!(
            (fs::read_to_string(&file).expect("text").as_str(), mode()),
            ("two", 0o640)
        );
        assert_eq!(
            fs::read_dir(folder.path()).expect("a folder").count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "one").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        replace(&link, "two").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&real).expect("text"), "two");
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let missing = folder.path().join("none/users");
        let told = replace(&missing, "x").expect_err("no folder").to_string();
        assert!(told.starts_with("cannot write "), "{told}");
    }
}
