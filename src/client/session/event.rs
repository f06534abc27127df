//! What has come of it all.

use smallvec::SmallVec;

use super::{Disconnection, Message, Token};
use crate::mqtt::{ClientId, ConnAckProperties, ReasonCode, Utf8String};

/// What has come of it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server let us in.
    Connected(Box<Connected>),
    /// A message came; taking it acknowledges it.
    Message(Message),
    /// A message of ours is through, or will never be.
    Published(Published),
    /// SUBACK: one reason for each filter, in their order. Lost with the connection.
    Subscribed {
        /// The request.
        token: Token,
        /// What was granted, or why not.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// UNSUBACK: one reason for each filter, in their order. Lost with the connection.
    Unsubscribed {
        /// The request.
        token: Token,
        /// Success throughout, before 5.0.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// The server forgot the session with this QoS 2 message halfway through. Whether it was delivered cannot be
    /// known, and sending it again could deliver it twice; that is for its owner to decide.
    Forgotten {
        /// The message.
        token: Token,
    },
    /// The connection is over; the session is not.
    Disconnected(Disconnection),
}

/// What the server answered to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Whether it kept our subscriptions and unfinished messages.
    pub session_present: bool,
    /// The identifier in force; `None` where the server chose one and did not tell (before 5.0).
    pub client_id: Option<ClientId>,
    /// 5.0 only.
    pub properties: ConnAckProperties,
}

/// The end of a message's way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The message.
    pub token: Token,
    /// Below 0x80 the server has it; for QoS 0, it has been handed to [`Session::poll_packet`].
    pub reason: ReasonCode,
    /// What the server adds in words.
    pub reason_string: Option<Utf8String>,
}

impl Event {
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            Self::Published(Published { token, .. })
            | Self::Subscribed { token, .. }
            | Self::Unsubscribed { token, .. }
            | Self::Forgotten { token } => Some(*token),
            Self::Connected(_) | Self::Message(_) | Self::Disconnected(_) => None,
        }
    }
}
