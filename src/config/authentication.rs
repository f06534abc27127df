//! `[authentication]`: the users, the keys of tokens, and how those are answered who fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{file, guarded};
use crate::auth::guessing::GuessingLimits;
use crate::auth::passwords::Users;
use crate::auth::token_keys::{KeyMistake, TokenKey};
use crate::auth::tokens::{Algorithm, TokenRules, Tokens};
use crate::document::{Mistake, Table};

/// The users, and whether there should be any.
#[derive(Default)]
pub(super) struct WrittenUsers {
    /// Whether the file names a password file or keys of tokens, right or wrong.
    is_meant: bool,
    pub(super) users: Option<Arc<Users>>,
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) guessing: GuessingLimits,
}

/// Anybody may read it.
const NO_SECRET: u32 = 0;

/// A permission by which everybody could read a secret.
const READABLE_BY_ALL: u32 = 0o004;

/// The largest file of keys or of a secret, in bytes: a set of sixteen RSA keys has some 8 KiB.
const KEYS_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn read(root: &Table<'_>) -> WrittenUsers {
    let Some(table) = root.table("authentication", &file::AUTHENTICATION) else {
        return WrittenUsers::default();
    };
    let jwt = table.table("jwt", &file::JWT);
    WrittenUsers {
        is_meant: table.has("password_file") || table.has("jwt"),
        users: read_users(&table),
        tokens: jwt.and_then(|jwt| read_tokens(&jwt)).map(Arc::new),
        guessing: read_guessing(&table),
    }
}

fn read_guessing(table: &Table<'_>) -> GuessingLimits {
    let usual = GuessingLimits::default();
    let failures_max = table.integer("failures_max", 0..=1000);
    let hour = Duration::from_secs(3600);
    GuessingLimits {
        failures_max: failures_max
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(usual.failures_max),
        failures_window: table
            .duration("failures_window", Duration::from_secs(1)..=hour)
            .unwrap_or(usual.failures_window),
        delay_max: table
            .duration("delay_max", Duration::from_secs(1)..=hour)
            .unwrap_or(usual.delay_max),
    }
}

fn read_users(table: &Table<'_>) -> Option<Arc<Users>> {
    let path = table.path("password_file")?;
    let make = format!("make it with \"tidegate passwd {} NAME\"", path.display());
    let text = read_guarded(table, "password_file", &path, NO_SECRET, &make)?;
    match Users::parse(&text) {
        Ok(users) => {
            for (line, name) in users.weak() {
                let message = format!(
                    "the password of user {name:?}, line {line} of {}, is hashed with SHA-512 once, which is weak; set \
                     it again with \"tidegate passwd\"",
                    path.display()
                );
                table.document().warning(&table.place("password_file"), message);
            }
            Some(Arc::new(users))
        }
        Err(mistakes) => {
            for mistake in mistakes {
                table.document().mistake_elsewhere(Mistake {
                    file: path.clone(),
                    line: mistake.line,
                    column: 0,
                    key: String::new(),
                    message: mistake.kind.to_string(),
                });
            }
            None
        }
    }
}

/// The rules for tokens; `None` only where there are mistakes.
fn read_tokens(table: &Table<'_>) -> Option<Tokens> {
    let mut keys = Vec::new();
    for (path, _) in table.texts("keys").unwrap_or_default() {
        let path = table.document().resolve(path);
        let text = read_guarded(table, "keys", &path, NO_SECRET, "it is the issuer's to make")?;
        match TokenKey::parse(&text) {
            Ok(found) => keys.extend(found),
            Err(mistake) => table.mistake("keys", format!("{}: {mistake}", path.display())),
        }
    }
    if let Some(path) = table.path("secret") {
        let make = "make one with \"openssl rand -base64 48\"";
        let text = read_guarded(table, "secret", &path, READABLE_BY_ALL, make)?;
        // An editor ends a file with a line end, which is not meant.
        match TokenKey::secret(text.trim_end_matches(['\r', '\n']).as_bytes()) {
            Ok(key) => keys.push(key),
            Err(mistake) => table.mistake("secret", format!("{}: {mistake}", path.display())),
        }
    }
    if !table.has("keys") && !table.has("secret") {
        table.missing("keys");
    }
    if keys.len() > TokenKey::KEYS_MAX {
        table.mistake("keys", KeyMistake::TooMany.to_string());
    }
    let usual = TokenRules::default();
    let rules = TokenRules {
        issuer: table.text("issuer").map(str::to_owned),
        audience: table.text("audience").map(str::to_owned),
        user_claim: table.text("user_claim").map_or(usual.user_claim, str::to_owned),
        client_id_claim: table.text("client_id_claim").map(str::to_owned),
        groups_claim: table.text("groups_claim").map(str::to_owned),
        leeway: table
            .duration("leeway", Duration::ZERO..=Duration::from_secs(600))
            .unwrap_or(usual.leeway),
        token_bytes_max: table
            .size("token_bytes_max", 256..=16 * 1024)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usual.token_bytes_max),
    };
    let keys = keep_allowed(table, keys);
    (!keys.is_empty()).then(|| Tokens::new(keys, rules))
}

/// The keys of the algorithms that are allowed.
fn keep_allowed(table: &Table<'_>, mut keys: Vec<TokenKey>) -> Vec<TokenKey> {
    let Some(names) = table.texts("algorithms") else {
        return keys;
    };
    let mut allowed = Vec::new();
    for (name, place) in names {
        match Algorithm::named(name) {
            Some(algorithm) => allowed.push(algorithm),
            None => {
                let message =
                    format!("found {name:?}, expected \"RS256\", \"ES256\", \"EdDSA\" or \"HS256\"");
                table.document().mistake(&place, message);
            }
        }
    }
    let had_keys = !keys.is_empty();
    keys.retain(|key| allowed.contains(&key.algorithm()));
    if had_keys && keys.is_empty() {
        table.mistake(
            "algorithms",
            "no key is left, expected the algorithm of one at least",
        );
    }
    keys
}

/// The text of a file that decides who comes in; `None` where there is a mistake. `make` says how one comes by it.
fn read_guarded(table: &Table<'_>, key: &str, path: &Path, forbidden: u32, make: &str) -> Option<String> {
    match read_file(path, forbidden, key, make) {
        Ok(text) => Some(text),
        Err(message) => {
            table.mistake(key, message);
            None
        }
    }
}

fn read_file(path: &Path, forbidden: u32, key: &str, make: &str) -> Result<String, String> {
    let shown = path.display();
    if let Ok(metadata) = fs::metadata(path) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & forbidden != 0 {
            return Err(format!(
                "{shown} has permissions {mode:04o}, so everybody may read the secret; expected 0600 or 0640 \
                 (chmod 600)"
            ));
        }
        if key != "password_file" && metadata.len() > KEYS_BYTES_MAX {
            return Err(format!(
                "{shown} has more than {KEYS_BYTES_MAX} bytes, expected a file of keys"
            ));
        }
    }
    guarded::read(path, "add users", &format!("{make}, or remove this key"))
}

impl WrittenUsers {
    /// Whether clients can come in by password or token, once all mistakes are mended.
    pub(super) fn are_meant(&self) -> bool {
        self.is_meant
    }
}
