//! Which rule a peer broke, or why it may not stay; what a person reads of it, and what the peer is told.

use std::fmt;

use crate::hooks::DenialReason;
use crate::mqtt::{ProtocolVersion, ReasonCode};

/// Why the broker ends a connection that the peer would have kept.
///
/// What the bytes alone show is a [`DecodeError`](crate::mqtt::DecodeError) instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Something else came before CONNECT [MQTT-3.1.0-1].
    NotConnect,
    /// A second CONNECT on one connection [MQTT-3.1.0-2].
    SecondConnect,
    /// A packet that only servers send (table 2-1).
    ServerPacket,
    /// CONNECT of a version the listener does not speak [MQTT-3.1.2-2].
    Version(ProtocolVersion),
    /// As many connections as there may be.
    ConnectionsFull,
    /// As many sessions as are kept.
    SessionsFull,
    /// As many sessions as are kept for one user, all of them in use.
    SessionsOfUserFull,
    /// As many bytes of wills as are kept.
    WillsFull,
    /// There is no memory for what the peer wants kept.
    MemoryShort,
    /// CONNECT with a client identifier beyond the limits.
    ClientIdTooLong,
    /// CONNECT of an old version with an empty client identifier that is to keep its session ([MQTT-3.1.3-8] of
    /// 3.1.1).
    ClientIdEmpty,
    /// CONNECT with the client identifier of somebody else's session.
    ClientIdTaken,
    /// CONNECT with a client identifier that the listener keeps for another user.
    ClientIdOfOther,
    /// No client identifier could be made, or the listener wants clients to bring their own.
    ClientIdNotMade,
    /// CONNECT with a client identifier that access rules have stand in topics, and that would be a wildcard there or
    /// more than one level.
    ClientIdAmbiguous,
    /// The same of the user name.
    UserNameAmbiguous,
    /// CONNECT without a user name, or not the right password.
    BadCredentials,
    /// CONNECT without a user name where one is needed [MQTT-3.1.4-2].
    NoCredentials,
    /// The certificate that the client came in with was revoked since, or its authority is not trusted any more.
    Untrusted,
    /// The client, the user or the address is kept out.
    Banned,
    /// A hook lets nobody in from there.
    ByHook,
    /// Who the client is could not be found out.
    CheckUnavailable,
    /// Who comes from there has failed too often lately, and the password was not checked.
    TooManyFailures,
    /// What the client came in by has expired: it was let in until now and no longer.
    LoginExpired,
    /// CONNECT with an authentication method that no hook speaks [MQTT-4.12.0-1].
    AuthenticationMethod,
    /// The hook that speaks the client's authentication method says that it has not proved who it is, or on a living
    /// connection that it still is.
    AuthenticationDenied(DenialReason),
    /// What the client has proved by an exchange of AUTH packets is over already, or on a living connection that it is
    /// somebody else.
    AuthenticationFailed,
    /// The client took too long over its part of an exchange of AUTH packets.
    AuthenticationTimeout,
    /// Something else than AUTH or DISCONNECT between CONNECT and CONNACK of an exchange [MQTT-3.1.2-30].
    NotAuth,
    /// AUTH where CONNECT named no method [MQTT-4.12.0-7].
    AuthWithoutMethod,
    /// AUTH out of turn, or with another reason than its turn asks for [MQTT-4.12.0-3].
    UnexpectedAuth,
    /// AUTH with another method than CONNECT named [MQTT-4.12.1-1].
    OtherMethod,
    /// More user properties than the limits allow.
    UserProperties,
    /// A will whose topic, payload or properties are beyond the limits.
    WillTooLarge,
    /// A will for a topic name beyond the limits.
    WillTopic,
    /// A will the client may not publish.
    WillDenied,
    /// A will that says it is UTF-8 and is not.
    WillNotUtf8,
    /// More packets behind CONNECT than are kept until the client is in.
    TooEager,
    /// PUBLISH with neither a topic nor an alias (section 3.3.2.1).
    NoTopic,
    /// PUBLISH with a topic alias beyond Topic Alias Maximum [MQTT-3.3.2-9].
    AliasTooHigh,
    /// PUBLISH with a topic alias that was given no topic (section 3.3.2.3.4).
    AliasUnknown,
    /// PUBLISH on a topic the client may not write.
    PublishDenied,
    /// PUBLISH on a topic name beyond the limits.
    TopicTooLong,
    /// PUBLISH that says it is UTF-8 and is not (section 3.3.2.3.2).
    PayloadNotUtf8,
    /// PUBLISH with a Subscription Identifier [MQTT-3.3.4-6].
    SubscriptionIdentifier,
    /// PUBLISH at QoS 1 or 2 without a Packet Identifier [MQTT-2.2.1-2].
    NoPacketIdentifier,
    /// A message at QoS 1 or 2 while as many are unfinished as Receive Maximum allows [MQTT-3.3.4-7].
    ReceiveMaximum,
    /// What the client wants to outlive the gateway cannot be stored now.
    NotStored,
    /// An acknowledgement of another kind than the delivery waits for.
    UnexpectedAck,
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared,
    /// DISCONNECT with a Session Expiry Interval where CONNECT had none (section 3.14.2.2.2).
    ExpiryAfterNone,
    /// More acknowledgements are owed to the client than it reads.
    NotReading,
    /// Its queue is full, and such a reader is to go.
    QueueFull,
    /// A message found no room for as long as its client may wait.
    NoRoom,
    /// Something that has to be sent to the client is larger than its Maximum Packet Size [MQTT-3.1.2-24].
    PacketTooLarge,
}

impl Refusal {
    /// What the peer is told, in CONNACK before it is connected and in DISCONNECT after.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::NotConnect // [MQTT-3.1.0-1]
            | Self::SecondConnect // [MQTT-3.1.0-2]
            | Self::ServerPacket
            | Self::NotAuth // [MQTT-3.1.2-30]
            | Self::AuthWithoutMethod // [MQTT-4.12.0-7]
            | Self::UnexpectedAuth // [MQTT-4.12.0-3]
            | Self::NoTopic
            | Self::AliasUnknown
            | Self::SubscriptionIdentifier // [MQTT-3.3.4-6]
            | Self::NoPacketIdentifier // [MQTT-2.2.1-2]
            | Self::UnexpectedAck
            | Self::NoLocalOnShared // [MQTT-3.8.3-4]
            | Self::ExpiryAfterNone => ReasonCode::ProtocolError, // section 3.14.2.2.2
            Self::Version(_) => ReasonCode::UnsupportedProtocolVersion, // [MQTT-3.1.2-2]
            Self::ClientIdTooLong
            | Self::ClientIdEmpty
            | Self::ClientIdTaken
            | Self::ClientIdOfOther
            | Self::ClientIdNotMade
            | Self::ClientIdAmbiguous => ReasonCode::ClientIdentifierNotValid, // [MQTT-3.1.3-8]
            Self::BadCredentials => ReasonCode::BadUserNameOrPassword,
            Self::NoCredentials
            | Self::Untrusted
            | Self::AuthenticationFailed // [MQTT-4.12.0-4]
            | Self::AuthenticationTimeout
            | Self::UserNameAmbiguous
            | Self::WillDenied
            | Self::ByHook
            | Self::PublishDenied => ReasonCode::NotAuthorized,
            Self::AuthenticationDenied(reason) => reason.code(), // [MQTT-4.12.0-4]
            Self::Banned => ReasonCode::Banned,
            Self::CheckUnavailable => ReasonCode::ServerUnavailable,
            Self::TooManyFailures => ReasonCode::ConnectionRateExceeded,
            // "The maximum connection time authorized for this connection has been exceeded": table 3-13 has this very
            // case. "Not authorized" would say that another attempt with the same name is in vain.
            Self::LoginExpired => ReasonCode::MaximumConnectTime,
            Self::AuthenticationMethod | Self::OtherMethod => ReasonCode::BadAuthenticationMethod, // [MQTT-4.12.0-1]
            Self::WillTopic | Self::TopicTooLong => ReasonCode::TopicNameInvalid,
            Self::WillNotUtf8 | Self::PayloadNotUtf8 => ReasonCode::PayloadFormatInvalid,
            Self::AliasTooHigh => ReasonCode::TopicAliasInvalid, // [MQTT-3.3.2-9]
            Self::ReceiveMaximum => ReasonCode::ReceiveMaximumExceeded, // [MQTT-3.3.4-7]
            Self::PacketTooLarge => ReasonCode::PacketTooLarge, // [MQTT-3.1.2-24]
            Self::ConnectionsFull
            | Self::SessionsFull
            | Self::SessionsOfUserFull
            | Self::WillsFull
            | Self::MemoryShort
            | Self::NotStored
            | Self::UserProperties
            | Self::WillTooLarge
            | Self::TooEager
            | Self::QueueFull
            | Self::NoRoom
            | Self::NotReading => ReasonCode::QuotaExceeded,
        }
    }

    /// Whether who comes, or says it does, is why: what an audit asks for.
    pub const fn is_of_identity(self) -> bool {
        self.is_of_credentials()
            || matches!(
                self,
                Self::Banned
                    | Self::TooManyFailures
                    | Self::CheckUnavailable
                    | Self::ClientIdTaken
                    | Self::ClientIdOfOther
                    | Self::AuthenticationMethod
            )
    }

    /// Whether somebody may be trying passwords or names, which is worth a line wherever anybody reads the log.
    pub const fn is_of_credentials(self) -> bool {
        matches!(
            self,
            Self::BadCredentials
                | Self::NoCredentials
                | Self::AuthenticationDenied(_)
                | Self::AuthenticationFailed
                | Self::ClientIdAmbiguous
                | Self::UserNameAmbiguous
                | Self::WillDenied
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnect => "the first packet is not CONNECT",
            Self::SecondConnect => "a second CONNECT",
            Self::ServerPacket => "a packet that only servers send",
            Self::Version(version) => return write!(f, "MQTT {version} is not spoken here"),
            Self::ConnectionsFull => "too many connections",
            Self::SessionsFull => "too many sessions",
            Self::SessionsOfUserFull => "too many sessions of one user",
            Self::WillsFull => "too many wills",
            Self::MemoryShort => "memory is short",
            Self::ClientIdTooLong => "the client identifier is too long",
            Self::ClientIdEmpty => "an empty client identifier needs a clean session",
            Self::ClientIdTaken => "the client identifier is in use",
            Self::ClientIdOfOther => "the client identifier is not this client's",
            Self::ClientIdAmbiguous => {
                "the client identifier holds '+', '#' or '/', and access rules depend on it"
            }
            Self::UserNameAmbiguous => "the user name holds '+', '#' or '/', and access rules depend on it",
            Self::ClientIdNotMade => "no client identifier could be assigned",
            Self::BadCredentials => "bad user name or password",
            Self::NoCredentials => "a user name and password are needed",
            Self::Untrusted => "the client's certificate is not trusted any more",
            Self::Banned => "kept out for a time",
            Self::ByHook => "a hook lets nobody in from there",
            Self::TooManyFailures => "too many failed logins, try again later",
            Self::LoginExpired => "the login has expired",
            Self::CheckUnavailable => "who the client is cannot be found out now",
            Self::AuthenticationMethod => "the authentication method is not known here",
            Self::AuthenticationDenied(_) | Self::AuthenticationFailed => "authentication failed",
            Self::AuthenticationTimeout => "authentication took too long",
            Self::NotAuth => "a packet other than AUTH before CONNACK",
            Self::AuthWithoutMethod => "an AUTH after a CONNECT without authentication method",
            Self::UnexpectedAuth => "an AUTH out of turn",
            Self::OtherMethod => "an authentication method other than that of CONNECT",
            Self::UserProperties => "too many user properties",
            Self::WillTooLarge => "the will is too large",
            Self::WillTopic => "the topic of the will is too long or too deep",
            Self::WillDenied => "the will may not be published",
            Self::WillNotUtf8 => "the will is not the UTF-8 it says it is",
            Self::TooEager => "too many packets before CONNACK",
            Self::NoTopic => "a PUBLISH without topic and alias",
            Self::AliasTooHigh => "a topic alias above the maximum",
            Self::AliasUnknown => "a topic alias that was given no topic",
            Self::PublishDenied => "the topic may not be published on",
            Self::TopicTooLong => "the topic is too long or too deep",
            Self::PayloadNotUtf8 => "the payload is not the UTF-8 it says it is",
            Self::SubscriptionIdentifier => "a PUBLISH with a subscription identifier",
            Self::NoPacketIdentifier => "a PUBLISH without packet identifier",
            Self::ReceiveMaximum => "more unfinished messages than the receive maximum",
            Self::NotStored => "the store is full or has failed",
            Self::UnexpectedAck => "an acknowledgement of the wrong kind",
            Self::NoLocalOnShared => "no local on a shared subscription",
            Self::ExpiryAfterNone => "a session expiry in DISCONNECT after none in CONNECT",
            Self::NotReading => "acknowledgements are not read",
            Self::QueueFull => "its queue is full, and its session has ended",
            Self::NoRoom => "a message found no room in time",
            Self::PacketTooLarge => "an answer is larger than the maximum packet size",
        })
    }
}
