//! What a client says of itself in CONNECT, and the bounds it keeps.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::mqtt::{ClientId, Connect, ConnectProperties, ProtocolVersion, UserProperties, Utf8String, Will};

/// Everything a [`super::Session`] is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What to speak.
    pub version: ProtocolVersion,
    /// `None` asks the server to assign one.
    pub client_id: Option<ClientId>,
    /// Whether to begin anew. In 5.0 this concerns the first connection of a [`super::Session`] only: later ones
    /// take up where the one before ended. Before 5.0 it is Clean Session, which also ends the session with the
    /// connection.
    pub clean_start: bool,
    /// How long the server keeps the session after the connection, in seconds; 5.0 only.
    pub session_expiry_secs: u32,
    /// The longest silence in seconds; 0 turns it off. A 5.0 server may set another.
    pub keep_alive_secs: u16,
    /// User Name.
    pub user_name: Option<Utf8String>,
    /// Password.
    pub password: Option<Bytes>,
    /// What the server publishes when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// Bit 7 of the protocol level, by which some brokers know a bridge; not in 5.0.
    pub bridge: bool,
    /// User properties of CONNECT; 5.0 only.
    pub user_properties: UserProperties,
    /// Unfinished QoS 1 and 2 messages accepted from the server, from 1.
    pub receive_maximum: u16,
    /// The largest packet accepted from the server, in bytes with its fixed header, from 1.
    pub packet_bytes_max: u32,
    /// Unfinished QoS 1 and 2 messages sent to the server, whatever more it would accept, from 1.
    pub inflight_max: u16,
    /// Messages that wait for their turn, after which [`super::Session::publish`] refuses.
    pub waiting_max: usize,
    /// QoS 0 messages received and not yet taken, after which further ones are dropped and counted.
    pub events_max: usize,
    /// How long the server may take over CONNACK and PINGRESP.
    pub answer_timeout: Duration,
}

/// Why no session can be made from the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionsError {
    /// Before 5.0 a session that outlives its connection needs a client identifier of the client's own choice
    /// (3.1.1, section 3.1.3.1).
    ResumingNeedsClientId,
    /// 3.1 knows identifiers of 1 to 23 bytes only.
    ClientIdLength,
    /// Before 5.0 a password needs a user name [MQTT-3.1.2-22 of 3.1.1].
    PasswordWithoutUser,
    /// A bound is 0 where it must be at least 1.
    ZeroBound,
    /// The password is longer than the 65,535 bytes the wire can say.
    PasswordTooLong,
}

impl Options {
    /// The options' one contradiction, if they have any.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.receive_maximum == 0 || self.packet_bytes_max == 0 || self.inflight_max == 0 {
            return Err(OptionsError::ZeroBound);
        }
        if self
            .password
            .as_ref()
            .is_some_and(|password| password.len() > usize::from(u16::MAX))
        {
            return Err(OptionsError::PasswordTooLong);
        }
        if self.version == ProtocolVersion::V5 {
            return Ok(());
        }
        if self.password.is_some() && self.user_name.is_none() {
            return Err(OptionsError::PasswordWithoutUser); // [MQTT-3.1.2-22 of 3.1.1]
        }
        if self.client_id.is_none() && !self.clean_start {
            return Err(OptionsError::ResumingNeedsClientId); // [MQTT-3.1.3-7 of 3.1.1]
        }
        let length = self.client_id.as_ref().map_or(0, |id| id.as_str().len());
        if self.version == ProtocolVersion::V31 && !(1..=23).contains(&length) {
            return Err(OptionsError::ClientIdLength);
        }
        Ok(())
    }

    /// The CONNECT these options make.
    pub(super) fn connect(&self, client_id: Option<ClientId>, clean_start: bool) -> Connect {
        let properties = if self.version == ProtocolVersion::V5 {
            ConnectProperties {
                session_expiry_secs: (self.session_expiry_secs != 0).then_some(self.session_expiry_secs),
                receive_maximum: (self.receive_maximum != u16::MAX).then_some(self.receive_maximum),
                packet_bytes_max: Some(self.packet_bytes_max),
                user_properties: self.user_properties.clone(),
                ..ConnectProperties::default()
            }
        } else {
            ConnectProperties::default()
        };
        Connect {
            version: self.version,
            bridge: self.bridge && self.version != ProtocolVersion::V5,
            clean_start,
            keep_alive_secs: self.keep_alive_secs,
            client_id,
            will: self.will.clone(),
            user_name: self.user_name.clone(),
            password: self.password.clone(),
            properties,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: ProtocolVersion::V5,
            client_id: None,
            clean_start: true,
            session_expiry_secs: 0,
            keep_alive_secs: 60,
            user_name: None,
            password: None,
            will: None,
            bridge: false,
            user_properties: UserProperties::new(),
            receive_maximum: 64,
            // Twice the largest packet our own broker lets through by default, so that a stranger's may be larger.
            packet_bytes_max: 512 * 1024,
            inflight_max: 32,
            waiting_max: 1024,
            events_max: 1024,
            answer_timeout: Duration::from_secs(20),
        }
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResumingNeedsClientId => {
                "a session that outlives its connection needs a client identifier before MQTT 5.0; give \
                 one, or start clean"
            }
            Self::ClientIdLength => "MQTT 3.1 wants a client identifier of 1 to 23 bytes",
            Self::PasswordWithoutUser => "a password needs a user name before MQTT 5.0",
            Self::ZeroBound => {
                "the receive maximum, the largest packet and the messages in flight must be at least 1"
            }
            Self::PasswordTooLong => "the password is longer than 65535 bytes",
        })
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Option<ClientId> {
        ClientId::new(Utf8String::try_from(text).unwrap())
    }

    #[test]
    fn the_default_options_hold_no_contradiction() {
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn each_contradiction_is_named() {
        let v311 = Options {
            version: ProtocolVersion::V311,
            ..Options::default()
        };
        let v31 = Options {
            version: ProtocolVersion::V31,
            ..Options::default()
        };
        let password = Some(Bytes::from_static(b"secret"));
        for (options, error) in [
            (
                Options {
                    clean_start: false,
                    ..v311.clone()
                },
                OptionsError::ResumingNeedsClientId,
            ),
            (
                Options {
                    password: password.clone(),
                    ..v311.clone()
                },
                OptionsError::PasswordWithoutUser,
            ),
            (v31.clone(), OptionsError::ClientIdLength),
            (
                Options {
                    client_id: id("twenty-four-bytes-of-name"),
                    ..v31.clone()
                },
                OptionsError::ClientIdLength,
            ),
            (
                Options {
                    receive_maximum: 0,
                    ..Options::default()
                },
                OptionsError::ZeroBound,
            ),
            (
                Options {
                    password: Some(Bytes::from(vec![0; 65_536])),
                    ..Options::default()
                },
                OptionsError::PasswordTooLong,
            ),
        ] {
            assert_eq!(options.check(), Err(error));
        }
        assert_eq!(
            Options {
                password,
                ..Options::default()
            }
            .check(),
            Ok(()),
            "5.0 allows a password alone"
        );
        assert_eq!(
            Options {
                client_id: id("short"),
                ..v31
            }
            .check(),
            Ok(())
        );
    }

    #[test]
    fn a_connect_before_5_0_carries_no_properties() {
        let options = Options {
            version: ProtocolVersion::V311,
            session_expiry_secs: 60,
            ..Options::default()
        };
        assert_eq!(
            options.connect(None, true).properties,
            ConnectProperties::default()
        );
    }
}
