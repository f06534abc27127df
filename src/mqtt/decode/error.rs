//! The broken rules, what they mean to a person, and what the peer is told.

use std::fmt;

use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicError;

/// Why bytes are no packet; one variant for each rule of the standard.
///
/// The numbers are those of 5.0; 3.1.1 has the same rule under another number unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A packet type that is reserved: 0, and 15 (AUTH) before 5.0 (table 2-1).
    ReservedPacketType,
    /// Flags of the fixed header that are not the packet's [MQTT-2.1.3-1].
    FixedHeaderFlags,
    /// A packet that only the other end may send (table 2-1).
    WrongDirection,
    /// A client began with something else than CONNECT [MQTT-3.1.0-1].
    FirstPacketNotConnect,
    /// A second CONNECT on one connection [MQTT-3.1.0-2].
    SecondConnect,
    /// A server began with something else than CONNACK or AUTH [MQTT-3.2.0-1].
    FirstPacketNotConnAck,
    /// A second CONNACK on one connection [MQTT-3.2.0-2].
    SecondConnAck,
    /// A packet larger than we said we accept [MQTT-3.1.2-24] [MQTT-3.2.2-15].
    PacketTooLarge,
    /// A Variable Byte Integer of more than four bytes (section 1.5.5).
    VarIntTooLong,
    /// A Variable Byte Integer that fewer bytes could say [MQTT-1.5.5-1]; 3.1.1 does not forbid it.
    VarIntNotMinimal,
    /// The packet ends inside one of its fields.
    Truncated,
    /// The packet goes on after its last field.
    TrailingBytes,
    /// A string that is not well-formed UTF-8 [MQTT-1.5.4-1].
    StringNotUtf8,
    /// A string with U+0000 in it [MQTT-1.5.4-2].
    StringHoldsNull,
    /// Packet Identifier 0 [MQTT-2.2.1-3].
    PacketIdZero,

    /// CONNECT with a protocol name that is neither `MQTT` nor `MQIsdp` [MQTT-3.1.2-1].
    UnknownProtocolName,
    /// CONNECT with this protocol level, which we do not speak [MQTT-3.1.2-2].
    UnsupportedProtocolLevel(u8),
    /// CONNECT with its reserved flag set [MQTT-3.1.2-3].
    ConnectReservedFlag,
    /// CONNECT with Will QoS or Will Retain but no will [MQTT-3.1.2-11] [MQTT-3.1.2-13].
    WillFlagsWithoutWill,
    /// CONNECT with Will QoS 3 [MQTT-3.1.2-12].
    WillQosThree,
    /// CONNECT with a password but no user name; before 5.0 only ([MQTT-3.1.2-22 of 3.1.1]).
    PasswordWithoutUserName,

    /// CONNACK with a reserved acknowledge flag set [MQTT-3.2.2-1].
    ConnAckReservedFlag,
    /// CONNACK that refuses and yet says Session Present [MQTT-3.2.2-6].
    SessionPresentOnRefusal,
    /// A reason or return code that this packet from that end cannot carry, such as [MQTT-3.4.2-1].
    ReasonCodeNotAllowed(u8),

    /// PUBLISH with both QoS bits set [MQTT-3.3.1-4].
    QosThree,
    /// PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2].
    DupAtQosZero,
    /// A topic name of no characters [MQTT-4.7.3-1], without a topic alias that stands for it (section
    /// 3.3.2.1).
    TopicEmpty,
    /// A topic name with a wildcard [MQTT-3.3.2-2].
    TopicHoldsWildcard,
    /// Topic Alias 0 [MQTT-3.3.2-8].
    TopicAliasZero,
    /// A Response Topic that is no topic name [MQTT-3.3.2-14].
    ResponseTopicInvalid,

    /// A topic filter that section 4.7.1 or 4.8.2 forbids.
    FilterInvalid(TopicError),
    /// SUBSCRIBE or UNSUBSCRIBE without a topic filter [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    NoFilter,
    /// More topic filters in one packet than [`FILTERS_MAX`](super::FILTERS_MAX).
    TooManyFilters,
    /// Reserved bits of the subscription options set [MQTT-3.8.3-5].
    SubscriptionOptionsReserved,
    /// Maximum QoS 3 in the subscription options (section 3.8.3.1).
    SubscriptionQosThree,
    /// Retain Handling 3 (section 3.8.3.1).
    RetainHandlingThree,
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared,
    /// SUBACK or UNSUBACK without a reason code [MQTT-3.8.4-6] [MQTT-3.11.3-1].
    NoReasonCode,

    /// A property identifier that the standard does not assign (section 2.2.2.2).
    PropertyUnknown(u32),
    /// A property that this packet cannot carry (section 2.2.2.2).
    PropertyNotAllowed(u8),
    /// A property that this packet carries the other way only [MQTT-3.3.4-6] [MQTT-3.14.2-2].
    PropertyWrongDirection(u8),
    /// A property a second time where one is allowed, such as section 3.1.2.11.2.
    PropertyTwice(u8),
    /// A property with a value that is not among its values, such as section 3.1.2.11.3.
    PropertyOutOfRange(u8),
    /// More user properties in one packet than [`USER_PROPERTIES_MAX`](super::USER_PROPERTIES_MAX).
    TooManyUserProperties,
    /// Authentication Data without Authentication Method (section 3.1.2.11.10).
    AuthenticationDataWithoutMethod,
    /// AUTH without Authentication Method (section 3.15.2.2.2).
    AuthenticationMethodMissing,
}

impl DecodeError {
    /// What the peer is told, in CONNACK before it is connected and in DISCONNECT after.
    ///
    /// The division of section 1.2: what cannot be parsed is malformed, what can be parsed but is not allowed
    /// is a protocol error, unless the standard names a code of its own.
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::UnknownProtocolName => ReasonCode::UnsupportedProtocolVersion, // [MQTT-3.1.2-1]
            Self::UnsupportedProtocolLevel(_) => ReasonCode::UnsupportedProtocolVersion, // [MQTT-3.1.2-2]
            Self::PacketTooLarge => ReasonCode::PacketTooLarge,                  // [MQTT-3.1.2-24]
            Self::TopicHoldsWildcard => ReasonCode::TopicNameInvalid,            // [MQTT-3.3.2-2]
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,               // [MQTT-3.3.2-8]
            Self::FilterInvalid(_) => ReasonCode::TopicFilterInvalid,            // [MQTT-4.7.1-1]
            // Our bounds, not the standard's.
            Self::TooManyFilters | Self::TooManyUserProperties => ReasonCode::QuotaExceeded,

            Self::ReservedPacketType
            | Self::FixedHeaderFlags // [MQTT-2.1.3-1]
            | Self::VarIntTooLong
            | Self::VarIntNotMinimal // [MQTT-1.5.5-1]
            | Self::Truncated
            | Self::TrailingBytes
            | Self::StringNotUtf8 // [MQTT-1.5.4-1]
            | Self::StringHoldsNull // [MQTT-1.5.4-2]
            | Self::ConnectReservedFlag // [MQTT-3.1.2-3]
            | Self::WillFlagsWithoutWill
            | Self::WillQosThree // [MQTT-3.1.2-12]
            | Self::PasswordWithoutUserName
            | Self::ConnAckReservedFlag
            | Self::QosThree // [MQTT-3.3.1-4]
            | Self::DupAtQosZero
            | Self::SubscriptionOptionsReserved // [MQTT-3.8.3-5]
            | Self::PropertyUnknown(_)
            | Self::PropertyNotAllowed(_) => ReasonCode::MalformedPacket, // section 2.2.2.2

            Self::WrongDirection
            | Self::FirstPacketNotConnect
            | Self::SecondConnect // [MQTT-3.1.0-2]
            | Self::FirstPacketNotConnAck
            | Self::SecondConnAck
            | Self::PacketIdZero
            | Self::SessionPresentOnRefusal
            | Self::ReasonCodeNotAllowed(_)
            | Self::TopicEmpty // section 3.3.2.1
            | Self::ResponseTopicInvalid
            | Self::NoFilter // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
            | Self::SubscriptionQosThree // section 3.8.3.1
            | Self::RetainHandlingThree // section 3.8.3.1
            | Self::NoLocalOnShared // [MQTT-3.8.3-4]
            | Self::NoReasonCode
            | Self::PropertyWrongDirection(_)
            | Self::PropertyTwice(_)
            | Self::PropertyOutOfRange(_)
            | Self::AuthenticationDataWithoutMethod // section 3.1.2.11.10
            | Self::AuthenticationMethodMissing => ReasonCode::ProtocolError, // section 3.15.2.2.2
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::UnsupportedProtocolLevel(level) => {
                return write!(
                    f,
                    "protocol level {level}, expected 3 (3.1), 4 (3.1.1) or 5 (5.0)"
                );
            }
            Self::ReasonCodeNotAllowed(code) => {
                return write!(f, "reason code 0x{code:02X}, which this packet cannot carry");
            }
            Self::FilterInvalid(error) => return write!(f, "topic filter not valid: {error}"),
            Self::PropertyUnknown(id) => {
                return write!(f, "property 0x{id:02X}, which the standard does not assign");
            }
            Self::PropertyNotAllowed(id) => {
                return write!(f, "property 0x{id:02X}, which this packet cannot carry");
            }
            Self::PropertyWrongDirection(id) => {
                return write!(
                    f,
                    "property 0x{id:02X}, which only the other end may send in this packet"
                );
            }
            Self::PropertyTwice(id) => return write!(f, "property 0x{id:02X} twice, expected at most once"),
            Self::PropertyOutOfRange(id) => {
                return write!(f, "property 0x{id:02X} with a value that is not allowed");
            }
            Self::ReservedPacketType => "reserved packet type",
            Self::FixedHeaderFlags => "flags of the fixed header that do not belong to the packet type",
            Self::WrongDirection => "packet that only the other end may send",
            Self::FirstPacketNotConnect => "first packet is not CONNECT",
            Self::SecondConnect => "second CONNECT on one connection",
            Self::FirstPacketNotConnAck => "first packet is neither CONNACK nor AUTH",
            Self::SecondConnAck => "second CONNACK on one connection",
            Self::PacketTooLarge => "packet larger than the maximum packet size",
            Self::VarIntTooLong => "variable byte integer of more than four bytes",
            Self::VarIntNotMinimal => "variable byte integer longer than its value needs",
            Self::Truncated => "packet ends inside a field",
            Self::TrailingBytes => "packet goes on after its last field",
            Self::StringNotUtf8 => "string is not well-formed UTF-8",
            Self::StringHoldsNull => "string holds the character U+0000",
            Self::PacketIdZero => "packet identifier 0, expected 1 to 65535",
            Self::UnknownProtocolName => "unknown protocol name, expected MQTT or MQIsdp",
            Self::ConnectReservedFlag => "reserved flag of CONNECT is set",
            Self::WillFlagsWithoutWill => "will QoS or will retain is set without the will flag",
            Self::WillQosThree => "will QoS 3, expected 0 to 2",
            Self::PasswordWithoutUserName => "password without user name, which only 5.0 allows",
            Self::ConnAckReservedFlag => "reserved flag of CONNACK is set",
            Self::SessionPresentOnRefusal => "CONNACK refuses the connection, yet says session present",
            Self::QosThree => "QoS 3, expected 0 to 2",
            Self::DupAtQosZero => "DUP is set at QoS 0",
            Self::TopicEmpty => "empty topic name without a topic alias",
            Self::TopicHoldsWildcard => "topic name holds '+' or '#', which only a topic filter may",
            Self::TopicAliasZero => "topic alias 0, expected 1 to 65535",
            Self::ResponseTopicInvalid => "response topic is empty or holds a wildcard",
            Self::NoFilter => "no topic filter, expected at least one",
            Self::TooManyFilters => "more topic filters in one packet than are accepted",
            Self::SubscriptionOptionsReserved => "reserved bits of the subscription options are set",
            Self::SubscriptionQosThree => "subscription with QoS 3, expected 0 to 2",
            Self::RetainHandlingThree => "retain handling 3, expected 0 to 2",
            Self::NoLocalOnShared => "no local on a shared subscription",
            Self::NoReasonCode => "no reason code, expected one for each topic filter",
            Self::TooManyUserProperties => "more user properties in one packet than are accepted",
            Self::AuthenticationDataWithoutMethod => "authentication data without an authentication method",
            Self::AuthenticationMethodMissing => "AUTH without an authentication method",
        };
        f.write_str(text)
    }
}

impl std::error::Error for DecodeError {}
