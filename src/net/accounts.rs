//! Users and groups of the operating system, by name and by number, from `/etc/passwd` and `/etc/group`.
//!
//! The files are read here, and no C library is asked: a static binary has none that knows more.

use std::fs::File;
use std::io::{self, Read};

/// The number of the user called `name`; a number stands for itself.
///
/// # Errors
/// Where there is no such user, or the file cannot be read.
pub fn uid_of(name: &str) -> io::Result<u32> {
    id_of(name, "/etc/passwd", "user")
}

/// The number of the group called `name`; a number stands for itself.
///
/// # Errors
/// Where there is no such group, or the file cannot be read.
pub fn gid_of(name: &str) -> io::Result<u32> {
    id_of(name, "/etc/group", "group")
}

/// The name of the user with this number; `None` where it has none.
pub fn name_of(uid: u32) -> Option<String> {
    let text = read("/etc/passwd").ok()?;
    entries(&text)
        .find(|(_, id)| *id == uid)
        .map(|(name, _)| name.to_owned())
}

fn id_of(name: &str, file: &str, kind: &str) -> io::Result<u32> {
    if let Ok(id) = name.parse::<u32>() {
        // The greatest number means "leave it" to chown(2).
        return (id != u32::MAX)
            .then_some(id)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{id} can be no {kind}")));
    }
    let text = read(file)?;
    let found = entries(&text).find(|(known, _)| *known == name).map(|(_, id)| id);
    found.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {kind} {name:?} in {file}"),
        )
    })
}

/// Names and numbers: the first and the third field of both files.
fn entries(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let id = fields.nth(1)?.parse().ok()?;
        Some((name, id))
    })
}

/// No file of accounts on a machine of ours is longer, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn read(file: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    // A name that is not UTF-8 is none that anything here could compare or carry.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_stand_in_the_first_and_third_field() {
        let text =
            "root:x:0:0:root:/:/bin/sh\n# a comment:x:5\n\nbroken\n:x:3\nodd:x:many\nalice:x:1000:7::/:\n";
        let found: Vec<_> = entries(text).collect();
        assert_eq!(found, [("root", 0), ("alice", 1000)]);
    }

    #[test]
    fn a_number_stands_for_itself_and_root_is_known_on_every_machine() {
        assert_eq!(uid_of("1234").ok(), Some(1234));
        assert_eq!((uid_of("root").ok(), gid_of("root").ok()), (Some(0), Some(0)));
        assert_eq!(name_of(0).as_deref(), Some("root"));
        let unknown = uid_of("nobody-has-this-name").map_err(|error| error.to_string());
        assert!(unknown.is_err_and(|error| error.contains("there is no user \"nobody-has-this-name\"")));
        assert!(uid_of("4294967295").is_err());
    }
}
