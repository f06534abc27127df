//! Why a connection ended.

use std::fmt;

use crate::mqtt::{DecodeError, ReasonCode, Utf8String};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnection {
    /// We asked for it.
    Requested,
    /// The byte stream ended without a word.
    Closed,
    /// CONNACK said no.
    Refused(ReasonCode, Option<Utf8String>),
    /// DISCONNECT came from the server.
    Ended(ReasonCode, Option<Utf8String>),
    /// No CONNACK within the time limit.
    ConnectTimeout,
    /// No PINGRESP within the time limit.
    KeepAliveTimeout,
    /// The server's bytes are no MQTT.
    Malformed(DecodeError),
    /// The server broke a rule of the protocol.
    Violation {
        /// What we tell it.
        reason: ReasonCode,
        /// What it did.
        found: &'static str,
    },
}

impl fmt::Display for Disconnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |f: &mut fmt::Formatter<'_>,
                    what: &str,
                    reason: &ReasonCode,
                    text: &Option<Utf8String>| match text {
            Some(text) => write!(f, "{what}: {reason}, {text:?}"),
            None => write!(f, "{what}: {reason}"),
        };
        match self {
            Self::Requested => f.write_str("disconnected as asked"),
            Self::Closed => f.write_str("the server closed the connection without a reason"),
            Self::Refused(reason, text) => said(f, "the server refused the connection", reason, text),
            Self::Ended(reason, text) => said(f, "the server ended the connection", reason, text),
            Self::ConnectTimeout => f.write_str("the server did not answer CONNECT in time"),
            Self::KeepAliveTimeout => f.write_str("the server did not answer a ping in time"),
            Self::Malformed(error) => write!(
                f,
                "the server sent what is not MQTT: {error} (is it a TLS port, or something else than a broker?)"
            ),
            Self::Violation { found, .. } => write!(f, "the server broke the protocol: {found}"),
        }
    }
}

impl std::error::Error for Disconnection {}
