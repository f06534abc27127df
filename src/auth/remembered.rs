//! Passwords that were right a moment ago, so that a power cut does not make a thousand devices wait for a thousand
//! slow hashes when they all come back at once.

use std::collections::VecDeque;

use ring::hmac;

use crate::mqtt::Utf8String;

/// A bounded memory of verified passwords, each kept as a keyed hash under a key that dies with the process.
///
/// It remembers successes only: a wrong password always costs the full check.
pub struct Remembered {
    key: hmac::Key,
    entries: VecDeque<(Utf8String, hmac::Tag)>,
}

impl Remembered {
    /// How many users are remembered; the one remembered longest gives way. About 100 bytes each.
    pub const USERS_MAX: usize = 256;

    /// An empty memory under `key`, which must not be guessable.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            entries: VecDeque::new(),
        }
    }

    /// Whether `password` was right for `user` when it was last checked.
    pub fn knows(&self, user: &Utf8String, password: &[u8]) -> bool {
        self.entries
            .iter()
            .find(|(name, _)| name == user)
            .is_some_and(|(_, tag)| hmac::verify(&self.key, password, tag.as_ref()).is_ok())
    }

    /// Forgets the password of `user`.
    pub fn forget(&mut self, user: &Utf8String) {
        self.entries.retain(|(name, _)| name != user);
    }

    /// Notes that `password` is right for `user`.
    pub fn remember(&mut self, user: &Utf8String, password: &[u8]) {
        self.entries.retain(|(name, _)| name != user);
        if self.entries.len() == Self::USERS_MAX {
            self.entries.pop_front();
        }
        self.entries
            .push_back((user.detached(), hmac::sign(&self.key, password)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Utf8String {
        Utf8String::try_from(text).unwrap()
    }

    #[test]
    fn only_the_password_that_was_right_is_known_and_only_for_its_user() {
        let mut remembered = Remembered::new(&[7; 32]);
        remembered.remember(&name("ann"), b"right");
        assert!(remembered.knows(&name("ann"), b"right"));
        assert!(!remembered.knows(&name("ann"), b"wrong"));
        assert!(!remembered.knows(&name("bob"), b"right"));
    }

    #[test]
    fn a_new_password_replaces_the_old_one() {
        let mut remembered = Remembered::new(&[7; 32]);
        remembered.remember(&name("ann"), b"old");
        remembered.remember(&name("ann"), b"new");
        assert!(remembered.knows(&name("ann"), b"new"));
        assert!(!remembered.knows(&name("ann"), b"old"));
    }

    #[test]
    fn the_user_remembered_longest_gives_way() {
        let mut remembered = Remembered::new(&[7; 32]);
        for number in 0..=Remembered::USERS_MAX {
            remembered.remember(&name(&format!("user{number}")), b"password");
        }
        assert!(!remembered.knows(&name("user0"), b"password"));
        assert!(remembered.knows(&name("user1"), b"password"));
        assert!(remembered.knows(&name("user256"), b"password"));
    }
}
