//! Who may come in and who may do what: pure look-ups, no files, no clock, no thread.
//!
//! - [`passwords`]: the password file's text to users, and the (slow) check of one password.
//! - [`groups`]: groups that a token or a server says a client is in.
//! - [`guessing`]: delays for those who fail again and again.
//! - [`imported`]: the hashes of mosquitto's password file.
//! - [`remembered`]: passwords that were right a moment ago.
//! - [`tokens`], [`token_keys`]: JSON Web Tokens in the place of passwords, and the keys they are verified by.
//! - [`access`]: the one door for rights, [`access::Rights::authorize`].
//! - [`acl`]: the rules behind it; [`acl::mosquitto`] reads those of mosquitto's `acl_file`.
//! - [`network`]: a range of addresses.

pub mod access;
pub mod acl;
pub mod groups;
pub mod guessing;
pub mod imported;
pub mod network;
pub mod passwords;
pub mod remembered;
pub mod token_keys;
pub mod tokens;

use crate::mqtt::Utf8String;

/// Who a client has proved to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// Nobody in particular: the listener asks for no proof.
    Anonymous,
    /// A user, by password or by certificate.
    User(Utf8String),
    /// The gateway itself: sensors, status topics, the operator.
    Gateway,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => std::fmt::Display::fmt(name, f),
            Self::Gateway => f.write_str("the gateway"),
        }
    }
}
