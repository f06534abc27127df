//! The password file: `NAME:$argon2id$…`, one user a line; and the check of one password.
//!
//! ```text
//! # comment
//! alice:$argon2id$v=19$m=4096,t=3,p=1$SALT$HASH
//! bob:$7$101$SALT$HASH                             as mosquitto wrote it
//! ```
//!
//! 1. [`Users`] holds at least one user, and every hash in it can be computed on a small board.
//! 2. A file that is wrong in one line gives no [`Users`] at all: a security file is right or it is refused.

use std::collections::BTreeMap;
use std::fmt;

use argon2::password_hash::{
    PasswordHasher,
    phc::{Output, PasswordHash},
};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::imported::{ImportError, ImportedHash};

/// The users of a password file and what is needed to check their passwords.
#[derive(Clone)]
pub struct Users {
    hashes: BTreeMap<String, Hash>,
    /// Computed for a user that does not exist, so that the time taken does not tell who does.
    decoy: Hash,
    /// The lines of hashes that are weak, with their users.
    weak: Vec<(usize, String)>,
}

/// What stands after a colon.
#[derive(Clone, PartialEq)]
enum Hash {
    /// Our own.
    Argon2id(PasswordHash),
    /// Mosquitto's.
    Imported(ImportedHash),
}

/// The memory in which passwords are checked, for many checks in a row: megabytes that are asked for and given back
/// with each of them leave some allocators with a hole for each.
#[derive(Default)]
pub struct CheckMemory(Vec<Block>);

/// What computing one hash takes: Argon2id, one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
}

/// One line of a password file that is wrong, or the file where it holds no user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordMistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub kind: PasswordMistakeKind,
}

/// What can be wrong with a line of a password file; secrets are never repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordMistakeKind {
    /// No colon between name and hash.
    NoColon,
    /// The name cannot be a user's.
    Name(NameError),
    /// The name stood in an earlier line.
    Duplicate {
        /// The name.
        name: String,
        /// Where it stood first.
        first_line: usize,
    },
    /// What follows the colon is no hash `tidegate passwd` or `mosquitto_passwd` would write.
    NoHash {
        /// The name.
        name: String,
    },
    /// The hash asks for more than [`Cost::MEMORY_KIB_MAX`], [`Cost::PASSES_MAX`] or [`LANES_MAX`], or more than
    /// [`ImportedHash::ITERATIONS_MAX`].
    TooCostly {
        /// The name.
        name: String,
    },
    /// The file ends without a single user.
    NoUsers,
}

/// Why text is not a user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// No character at all.
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    TooLong,
    /// Holds `:`, which ends the name in the file.
    HoldsColon,
    /// Starts with `#`, which makes the line a comment.
    StartsAsComment,
    /// Starts or ends with white space.
    SpaceAround,
    /// Holds a control character or a byte order mark.
    HoldsControl,
}

/// The longest user name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// The most lanes a hash made elsewhere may ask for; ours are made with one.
pub const LANES_MAX: u32 = 4;

/// The length of a salt, in bytes, as RFC 9106 section 3.1 recommends.
pub const SALT_BYTES: usize = 16;

impl Users {
    /// Takes the text of a password file.
    ///
    /// Empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the lines; a file without users is one.
    pub fn parse(text: &str) -> Result<Self, Vec<PasswordMistake>> {
        let mut hashes: BTreeMap<String, Hash> = BTreeMap::new();
        let mut weak = Vec::new();
        let mut first_lines: BTreeMap<&str, usize> = BTreeMap::new();
        let mut mistakes = Vec::new();
        let mut last_line = 1;
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            last_line = line;
            let outcome = match parse_line(content) {
                Ok(None) => continue,
                Ok(Some((name, hash))) => match first_lines.insert(name, line) {
                    None => Ok((name, hash)),
                    Some(first_line) => {
                        first_lines.insert(name, first_line);
                        Err(PasswordMistakeKind::Duplicate {
                            name: name.to_owned(),
                            first_line,
                        })
                    }
                },
                Err(kind) => Err(kind),
            };
            match outcome {
                Ok((name, hash)) => {
                    if matches!(&hash, Hash::Imported(hash) if hash.is_weak()) {
                        weak.push((line, name.to_owned()));
                    }
                    hashes.insert(name.to_owned(), hash);
                }
                Err(kind) => mistakes.push(PasswordMistake { line, kind }),
            }
        }
        // The dearest hash stands in for users that do not exist.
        let decoy = hashes.values().max_by_key(|hash| hash.cost()).cloned();
        match decoy {
            Some(decoy) if mistakes.is_empty() => Ok(Self { hashes, decoy, weak }),
            None if mistakes.is_empty() => Err(vec![PasswordMistake {
                line: last_line,
                kind: PasswordMistakeKind::NoUsers,
            }]),
            _ => Err(mistakes),
        }
    }

    /// Whether `password` is `user`'s. Slow by intent: never call it on the loop's thread. `memory` is what the check
    /// works in.
    ///
    /// A wrong password takes as long as an unknown user, which is as long as the dearest hash there is: where that of
    /// a known user is cheaper, as those taken over from mosquitto are, the dearest is computed as well. The empty
    /// password, which is also that of a client that gives none, is nobody's, even where a hash made elsewhere is its.
    pub fn verify(&self, user: &str, password: &[u8], memory: &mut CheckMemory) -> bool {
        let own = self.hashes.get(user);
        let is_right = own.is_some_and(|hash| hash.matches(password, memory)) & !password.is_empty();
        if !is_right && own.is_none_or(|hash| hash.cost() < self.decoy.cost()) {
            // Whatever comes out is nobody's password, and must not be left out as unneeded.
            std::hint::black_box(self.decoy.matches(password, memory));
        }
        is_right
    }

    /// The users whose hashes, taken over from mosquitto, are weak, each with the line it stands in, from 1.
    pub fn weak(&self) -> &[(usize, String)] {
        &self.weak
    }

    /// The names of those whose password may be another one in `newer`, or who are gone from it, in alphabetical
    /// order.
    pub fn revoked_by<'a>(&'a self, newer: Option<&Self>) -> impl Iterator<Item = &'a str> {
        let revoked = move |name: &str, hash| newer.and_then(|newer| newer.hashes.get(name)) != Some(hash);
        let hashes = self.hashes.iter();
        hashes.filter_map(move |(name, hash)| revoked(name, hash).then_some(name.as_str()))
    }

    /// Whether there is such a user. For people at a shell; a client must not be able to find out.
    pub fn contains(&self, user: &str) -> bool {
        self.hashes.contains_key(user)
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.keys().map(String::as_str)
    }

    /// How many users there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a file without users is refused")]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }
}

impl Hash {
    /// Whether it is that of `password`; the comparison takes the same time wherever the first difference is.
    fn matches(&self, password: &[u8], memory: &mut CheckMemory) -> bool {
        match self {
            Self::Argon2id(hash) => hash.hash.is_some() && hash_again(hash, password, memory) == hash.hash,
            Self::Imported(hash) => hash.matches(password),
        }
    }

    /// The time one check takes, up to a factor: KiB times passes; 0 for a hash that was never admitted.
    ///
    /// An iteration of PBKDF2-SHA512 takes about as long as a pass over one KiB: a microsecond on a PC.
    fn cost(&self) -> u64 {
        match self {
            Self::Argon2id(hash) => Params::try_from(hash).map_or(0, |params| {
                u64::from(params.m_cost()) * u64::from(params.t_cost())
            }),
            Self::Imported(hash) => u64::from(hash.iterations()),
        }
    }
}

/// The hash of `password` as `hash` was made; `None` where it cannot be computed.
fn hash_again(hash: &PasswordHash, password: &[u8], memory: &mut CheckMemory) -> Option<Output> {
    let params = Params::try_from(hash).ok()?;
    let version = match hash.version {
        Some(version) => Version::try_from(version).ok()?,
        None => Version::default(),
    };
    let salt = hash.salt.as_ref()?;
    let mut output = [0; Output::MAX_LENGTH];
    let output = output.get_mut(..hash.hash.as_ref()?.len())?;
    let CheckMemory(blocks) = memory;
    if blocks.len() < params.block_count() {
        blocks.resize(params.block_count(), Block::default());
    }
    Argon2::new(Algorithm::Argon2id, version, params)
        .hash_password_into_with_memory(password, salt, output, blocks)
        .ok()?;
    Output::new(output).ok()
}

impl fmt::Debug for CheckMemory {
    /// Not what stands in it, which comes of passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckMemory").finish_non_exhaustive()
    }
}

impl fmt::Debug for Users {
    /// Names only: hashes do not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hashes.keys()).finish()
    }
}

impl Cost {
    /// The least memory for one hash, in KiB: below it a graphics card guesses at leisure.
    pub const MEMORY_KIB_MIN: u32 = 1024;
    /// The most memory for one hash, in KiB: a check must not push a 256 MiB board into swapping.
    pub const MEMORY_KIB_MAX: u32 = 64 * 1024;
    /// The most passes over the memory.
    pub const PASSES_MAX: u32 = 16;

    /// A cost of `memory_kib` KiB and `passes` passes; `None` out of
    /// [`Cost::MEMORY_KIB_MIN`]..=[`Cost::MEMORY_KIB_MAX`] and 1..=[`Cost::PASSES_MAX`].
    pub const fn new(memory_kib: u32, passes: u32) -> Option<Self> {
        if memory_kib < Self::MEMORY_KIB_MIN || memory_kib > Self::MEMORY_KIB_MAX {
            return None;
        }
        if passes < 1 || passes > Self::PASSES_MAX {
            return None;
        }
        Some(Self { memory_kib, passes })
    }

    /// Memory for one hash, in KiB.
    pub const fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub const fn passes(self) -> u32 {
        self.passes
    }
}

impl Default for Cost {
    /// 4 MiB and 3 passes: some 14 ms on a PC, under a second on the slowest board.
    fn default() -> Self {
        Self {
            memory_kib: 4 * 1024,
            passes: 3,
        }
    }
}

/// The hash of `password` as it stands after the colon; `salt` must be random and used once.
///
/// # Errors
/// [`OutOfMemory`] when [`Cost::memory_kib`] cannot be had.
pub fn hash(password: &[u8], cost: Cost, salt: &[u8; SALT_BYTES]) -> Result<String, OutOfMemory> {
    let params =
        Params::new(cost.memory_kib, cost.passes, 1, None).expect("every Cost is within what Argon2 allows");
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = hasher
        .hash_password_with_salt(password, salt)
        .map_err(|_| OutOfMemory)?;
    Ok(hash.to_string())
}

/// The memory for one hash could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// `text` with the line of `name` set to `hash`, or without it for `None`; every other line as it was.
///
/// # Errors
/// [`NameError`] when `name` cannot be a user's.
pub fn with_line(text: &str, name: &str, hash: Option<&str>) -> Result<String, NameError> {
    check_name(name)?;
    let mut replacement = hash.map(|hash| format!("{name}:{hash}\n"));
    let mut edited = String::with_capacity(text.len() + 128);
    for line in text.lines() {
        let is_ours = line.split_once(':').is_some_and(|(before, _)| before == name);
        if !is_ours {
            edited.push_str(line);
            edited.push('\n');
        } else if let Some(ours) = replacement.take() {
            edited.push_str(&ours);
        }
    }
    edited.extend(replacement);
    Ok(edited)
}

/// Whether `name` can be a user's.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > NAME_BYTES_MAX {
        Err(NameError::TooLong)
    } else if name.contains(':') {
        Err(NameError::HoldsColon)
    } else if name.starts_with('#') {
        Err(NameError::StartsAsComment)
    } else if name.trim() != name {
        Err(NameError::SpaceAround)
    } else if name
        .chars()
        .any(|character| character.is_control() || character == '\u{feff}')
    {
        Err(NameError::HoldsControl)
    } else {
        Ok(())
    }
}

/// Name and hash of one line; `None` where it says nothing.
fn parse_line(line: &str) -> Result<Option<(&str, Hash)>, PasswordMistakeKind> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line.split_once(':').ok_or(PasswordMistakeKind::NoColon)?;
    check_name(name).map_err(PasswordMistakeKind::Name)?;
    let no_hash = || PasswordMistakeKind::NoHash {
        name: name.to_owned(),
    };
    let too_costly = || PasswordMistakeKind::TooCostly {
        name: name.to_owned(),
    };
    match ImportedHash::parse(hash) {
        None => {}
        Some(Ok(hash)) => return Ok(Some((name, Hash::Imported(hash)))),
        Some(Err(ImportError::Form)) => return Err(no_hash()),
        Some(Err(ImportError::TooCostly)) => return Err(too_costly()),
    }
    let hash = PasswordHash::new(hash).map_err(|_| no_hash())?;
    let salt_bytes = hash.salt.as_ref().map_or(0, |salt| salt.len());
    let hash_bytes = hash.hash.as_ref().map_or(0, |output| output.len());
    // A shorter salt repeats; a hash of another length is one that was cut.
    if hash.algorithm != argon2::ARGON2ID_IDENT
        || hash.version != Some(Version::V0x13.into())
        || salt_bytes < 8
        || hash_bytes != Params::DEFAULT_OUTPUT_LEN
    {
        return Err(no_hash());
    }
    let params = Params::try_from(&hash).map_err(|_| no_hash())?;
    if params.m_cost() > Cost::MEMORY_KIB_MAX
        || params.t_cost() > Cost::PASSES_MAX
        || params.p_cost() > LANES_MAX
    {
        return Err(too_costly());
    }
    Ok(Some((name, Hash::Argon2id(hash))))
}

impl fmt::Display for PasswordMistakeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoColon => f.write_str(
                "found no colon, expected NAME:$argon2id$…; add users with \"tidegate passwd FILE NAME\"",
            ),
            Self::Name(error) => write!(f, "{error}"),
            Self::Duplicate { name, first_line } => {
                write!(
                    f,
                    "user {name:?} stands twice, first in line {first_line}; remove one"
                )
            }
            Self::NoHash { name } => write!(
                f,
                "the hash of user {name:?} is not of the form $argon2id$v=19$m=…,t=…,p=…$SALT$HASH, nor one of \
                 mosquitto's ($7$ITERATIONS$SALT$HASH or $6$SALT$HASH); set the password again with \"tidegate \
                 passwd FILE NAME\""
            ),
            Self::TooCostly { name } => write!(
                f,
                "the hash of user {name:?} costs too much, expected at most m={} (KiB), t={} and p={LANES_MAX}, or {} \
                 iterations; set the password again with \"tidegate passwd FILE NAME\"",
                Cost::MEMORY_KIB_MAX,
                Cost::PASSES_MAX,
                ImportedHash::ITERATIONS_MAX
            ),
            Self::NoUsers => f.write_str(
                "found no user, expected at least one; add one with \"tidegate passwd FILE NAME\", \
                 or remove password_file from the configuration",
            ),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the user name is empty"),
            Self::TooLong => write!(f, "the user name is longer than {NAME_BYTES_MAX} bytes"),
            Self::HoldsColon => f.write_str("the user name holds a colon, which would end it in the file"),
            Self::StartsAsComment => f.write_str("the user name starts with \"#\", which makes a comment"),
            Self::SpaceAround => f.write_str("the user name starts or ends with a space"),
            Self::HoldsControl => f.write_str("the user name holds a control character"),
        }
    }
}

impl std::error::Error for NameError {}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory left for hashing a password")
    }
}

impl std::error::Error for OutOfMemory {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least a test can pay.
    const CHEAP: Cost = Cost {
        memory_kib: Cost::MEMORY_KIB_MIN,
        passes: 1,
    };
    const SALT: [u8; SALT_BYTES] = *b"sixteen bytes ok";

    fn line(name: &str, password: &str) -> String {
        format!(
            "{name}:{}\n",
            hash(password.as_bytes(), CHEAP, &SALT).expect("memory")
        )
    }

    fn kinds(text: &str) -> Vec<(usize, PasswordMistakeKind)> {
        Users::parse(text)
            .expect_err("wrong")
            .into_iter()
            .map(|mistake| (mistake.line, mistake.kind))
            .collect()
    }

    #[test]
    fn a_user_comes_in_with_the_right_password_only() {
        let users = Users::parse(&(line("alice", "tide") + &line("bob", "ebb"))).expect("right");
        assert!(users.verify("alice", b"tide", &mut CheckMemory::default()));
        assert!(users.verify("bob", b"ebb", &mut CheckMemory::default()));
        assert!(!users.verify("alice", b"ebb", &mut CheckMemory::default()));
        assert!(!users.verify("alice", b"", &mut CheckMemory::default()));
        assert!(!users.verify("Alice", b"tide", &mut CheckMemory::default()));
    }

    #[test]
    fn an_empty_password_lets_nobody_in_whatever_the_file_says() {
        let users = Users::parse(&line("alice", "")).expect("right");
        assert!(!users.verify("alice", b"", &mut CheckMemory::default()));
    }

    #[test]
    fn an_unknown_user_is_refused_whatever_the_decoy_says() {
        let users = Users::parse(&line("alice", "tide")).expect("right");
        assert!(
            !users.verify("mallory", b"tide", &mut CheckMemory::default()),
            "the decoy is alice's hash, and that must not let mallory in"
        );
    }

    #[test]
    fn the_decoy_is_the_dearest_hash_of_the_file() {
        let dear = Cost::new(2048, 2).expect("within bounds");
        let dear_line = format!("bob:{}\n", hash(b"x", dear, &SALT).expect("memory"));
        let users = Users::parse(&(line("alice", "x") + &dear_line + &line("zoe", "x"))).expect("right");
        assert_eq!(users.decoy.cost(), 2048 * 2);
    }

    /// Mosquitto's, of `water mark`.
    const IMPORTED: &str = "$7$101$zKBniu2Qn9b0oPRC$fFKbdn9+D/NM/9+VtTHXh1yymsN3nrxuhNSrEZPo7fazdw\
                        DY2jfH8GjiQpMzXBNoz1viU88ZfMmAyHS4pdX+aA==";
    const WEAK: &str = "$6$BtyM5VLKIHrKlsjj$xKTS+OOZqz/4Cn7qzmIgYvWgOeR7OQhzowW9CmaobEy60YUxcV\
                        VM5qwvaaIqYa4X5mcPbWnMWckm9UvYtgRgyw==";

    #[test]
    fn users_of_mosquitto_come_in_beside_our_own() {
        let text = format!("{}bob:{IMPORTED}\nold:{WEAK}\n", line("alice", "tide"));
        let users = Users::parse(&text).expect("right");
        let memory = &mut CheckMemory::default();
        for (user, password) in [("alice", "tide"), ("bob", "water mark"), ("old", "water mark")] {
            assert!(users.verify(user, password.as_bytes(), memory), "{user}");
            assert!(!users.verify(user, b"ebb", memory), "{user}");
            assert!(!users.verify(user, b"", memory), "{user}");
        }
        assert!(!users.verify("mallory", b"water mark", memory));
        assert_eq!(users.weak(), [(3, "old".to_owned())]);
    }

    #[test]
    fn the_decoy_beside_hashes_of_mosquitto_is_the_dearest_of_both_kinds() {
        let cheap = format!("bob:{IMPORTED}\nold:{WEAK}\n");
        assert_eq!(Users::parse(&cheap).expect("right").decoy.cost(), 101);
        let mixed = cheap.clone() + &line("alice", "tide");
        assert_eq!(Users::parse(&mixed).expect("right").decoy.cost(), 1024);
        let dear = cheap.replacen("$101$", "$200000$", 1) + &line("alice", "tide");
        assert_eq!(Users::parse(&dear).expect("right").decoy.cost(), 200_000);
    }

    #[test]
    fn a_wrong_line_of_mosquitto_refuses_the_file() {
        let text = format!(
            "bob:{}\nzoe:{}\n",
            IMPORTED.replacen("101", "0", 1),
            IMPORTED.replacen("101", "999999", 1)
        );
        assert_eq!(
            kinds(&text),
            [
                (1, PasswordMistakeKind::NoHash { name: "bob".into() }),
                (2, PasswordMistakeKind::TooCostly { name: "zoe".into() }),
            ]
        );
    }

    #[test]
    fn a_changed_password_leaves_the_lines_of_mosquitto_as_they_were() {
        let text = format!("bob:{IMPORTED}\nold:{WEAK}\n");
        let hash = hash(b"new", CHEAP, &SALT).expect("memory");
        let edited = with_line(&text, "old", Some(&hash)).expect("a name");
        assert_eq!(edited, format!("bob:{IMPORTED}\nold:{hash}\n"));
        assert!(Users::parse(&edited).expect("right").weak().is_empty());
    }

    #[test]
    fn the_hash_has_the_form_the_file_documents() {
        let text = hash(b"tide", Cost::default(), &SALT).expect("memory");
        assert!(text.starts_with("$argon2id$v=19$m=4096,t=3,p=1$"), "{text}");
    }

    #[test]
    fn comments_empty_lines_and_dos_line_ends_are_fine() {
        let text = format!(
            "# who may come in\r\n\r\n{}",
            line("alice", "tide").replace('\n', "\r\n")
        );
        let users = Users::parse(&text).expect("right");
        assert_eq!(users.names().collect::<Vec<_>>(), ["alice"]);
        assert!(users.contains("alice") && !users.contains("bob"));
        assert_eq!(users.len(), 1);
    }

    #[test]
    fn a_file_without_users_is_refused() {
        assert_eq!(kinds(""), [(1, PasswordMistakeKind::NoUsers)]);
        assert_eq!(kinds("# nobody\n\n"), [(2, PasswordMistakeKind::NoUsers)]);
    }

    #[test]
    fn every_wrong_line_is_told_with_its_number() {
        let good = line("alice", "tide");
        let text =
            format!("{good}bob\n:x\n{good}carol:secret\ndave:$argon2i$v=19$m=4096,t=3,p=1$c2l4dGVlbg$YQ\n");
        assert_eq!(
            kinds(&text),
            [
                (2, PasswordMistakeKind::NoColon),
                (3, PasswordMistakeKind::Name(NameError::Empty)),
                (
                    4,
                    PasswordMistakeKind::Duplicate {
                        name: "alice".into(),
                        first_line: 1
                    }
                ),
                (5, PasswordMistakeKind::NoHash { name: "carol".into() }),
                (6, PasswordMistakeKind::NoHash { name: "dave".into() }),
            ]
        );
    }

    #[test]
    fn a_hash_too_dear_for_a_board_is_refused() {
        for (from, to) in [("m=1024", "m=65537"), ("t=1", "t=17"), ("p=1", "p=5")] {
            let text = line("alice", "tide").replace(from, to);
            assert_eq!(
                kinds(&text),
                [(1, PasswordMistakeKind::TooCostly { name: "alice".into() })],
                "{text}"
            );
        }
    }

    #[test]
    fn a_cut_line_is_refused_at_every_length() {
        let whole = line("alice", "tide");
        let whole = whole.trim_end();
        for length in 1..whole.len() {
            assert!(Users::parse(&whole[..length]).is_err(), "{}", &whole[..length]);
        }
    }

    #[test]
    fn no_message_repeats_a_password_somebody_wrote_into_the_file() {
        for mistake in Users::parse("alice:hunter2\nbob hunter2\n").expect_err("wrong") {
            assert!(!mistake.kind.to_string().contains("hunter2"), "{}", mistake.kind);
        }
    }

    #[test]
    fn editing_changes_one_line_and_keeps_the_others() {
        let text = "# door\nalice:old\n\nbob:b\n";
        assert_eq!(
            with_line(text, "alice", Some("new")).as_deref(),
            Ok("# door\nalice:new\n\nbob:b\n")
        );
        assert_eq!(
            with_line(text, "carol", Some("c")).as_deref(),
            Ok("# door\nalice:old\n\nbob:b\ncarol:c\n")
        );
        assert_eq!(with_line(text, "alice", None).as_deref(), Ok("# door\n\nbob:b\n"));
        assert_eq!(
            with_line("bob:b", "carol", Some("c")).as_deref(),
            Ok("bob:b\ncarol:c\n")
        );
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        for (name, error) in [
            ("", NameError::Empty),
            ("a:b", NameError::HoldsColon),
            ("#a", NameError::StartsAsComment),
            (" a", NameError::SpaceAround),
            ("a\nb", NameError::HoldsControl),
            ("\u{feff}a", NameError::HoldsControl),
        ] {
            assert_eq!(with_line("", name, Some("x")), Err(error), "{name:?}");
        }
        assert_eq!(check_name(&"x".repeat(257)), Err(NameError::TooLong));
        assert_eq!(check_name("Zoë Müller"), Ok(()));
    }

    #[test]
    fn costs_out_of_bounds_do_not_exist() {
        assert_eq!(Cost::new(1023, 3), None);
        assert_eq!(Cost::new(65 * 1024, 3), None);
        assert_eq!(Cost::new(4096, 0), None);
        assert_eq!(Cost::new(4096, 17), None);
        assert_eq!(Cost::new(4096, 3), Some(Cost::default()));
    }
}
