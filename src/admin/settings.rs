//! What the operator's doors are told to be.

use std::fmt;

use ring::digest::{SHA256, digest};

use crate::net::listener::ListenerSettings;

/// The operator's doors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// None where there is no place for a socket and nothing else was asked for.
    pub doors: Vec<DoorSettings>,
}

/// One of the operator's doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorSettings {
    /// Where it is, and whom it lets wait.
    pub net: ListenerSettings,
    /// What a client has to show; `None` on Unix sockets, whose file decides.
    pub token: Option<Token>,
    /// Whether the gateway starts without it: a socket nobody asked for, at the usual place.
    pub may_be_absent: bool,
}

/// A secret by which an operator is known, kept as its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// The name of the operator's doors in the log and among the gateway's addresses.
pub const DOOR: &str = "admin";

/// Connections at one of these doors at one time: a person, a dashboard and what watches, each with a few.
pub const CONNECTIONS_MAX: usize = 16;

impl Token {
    /// The fewest characters of a token: 96 bits, where they are random letters and digits.
    pub const CHARACTERS_MIN: usize = 16;

    /// Takes the text of a token file, white space around it left out; `None` where it is too short, or no single word.
    pub fn parse(text: &str) -> Option<Self> {
        let token = text.trim();
        let is_word = token.bytes().all(|byte| byte.is_ascii_graphic());
        (is_word && token.len() >= Self::CHARACTERS_MIN).then(|| Self::hash(token))
    }

    /// Whether `given` is this token; it takes as long for any answer.
    pub fn is(&self, given: &str) -> bool {
        let given = Self::hash(given);
        let difference = self.0.iter().zip(given.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    fn hash(text: &str) -> Self {
        let mut hash = [0; 32];
        let digest = digest(&SHA256, text.as_bytes());
        hash.iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(hash)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_long_word_and_only_itself() {
        let token = Token::parse(" 0123456789abcdef\n").expect("long enough");
        assert!(token.is("0123456789abcdef"));
        assert!(!token.is("0123456789abcdeF") && !token.is("0123456789abcdef ") && !token.is(""));
        for text in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n0"] {
            assert_eq!(Token::parse(text), None, "{text:?}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }
}
