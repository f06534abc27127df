//! The properties of MQTT 5.0 (section 2.2.2), one struct for each packet that carries them.
//!
//! A field is `None`, or empty, where the property is absent; what the standard then assumes stands at the field.

use bytes::Bytes;
use smallvec::SmallVec;

use super::ids::{ClientId, QoS, Utf8String};
use super::topic::TopicName;

/// User Property (0x26): names and values in the order they came, names may repeat.
pub type UserProperties = Vec<(Utf8String, Utf8String)>;

/// Properties of CONNECT (section 3.1.2.11).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectProperties {
    /// Session Expiry Interval (0x11) in seconds; absent: 0; 0xFFFFFFFF: never.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum (0x21), never 0; absent: 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size (0x27) in bytes, never 0; absent: no limit.
    pub packet_bytes_max: Option<u32>,
    /// Topic Alias Maximum (0x22); absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information (0x19); absent: false.
    pub request_response_information: Option<bool>,
    /// Request Problem Information (0x17); absent: true.
    pub request_problem_information: Option<bool>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
    /// Authentication Method (0x15).
    pub authentication_method: Option<Utf8String>,
    /// Authentication Data (0x16), only with a method.
    pub authentication_data: Option<Bytes>,
}

/// Properties of the Will (section 3.1.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WillProperties {
    /// Will Delay Interval (0x18) in seconds; absent: 0.
    pub delay_secs: Option<u32>,
    /// What the published will carries; its topic alias and subscription identifiers are never set.
    pub publish: PublishProperties,
}

/// Properties of CONNACK (section 3.2.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAckProperties {
    /// Session Expiry Interval (0x11) in seconds; absent: as the client asked.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum (0x21), never 0; absent: 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum QoS (0x24): 0 or 1; absent: 2.
    pub maximum_qos: Option<QoS>,
    /// Retain Available (0x25); absent: true.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size (0x27) in bytes, never 0; absent: no limit.
    pub packet_bytes_max: Option<u32>,
    /// Assigned Client Identifier (0x12).
    pub assigned_client_id: Option<ClientId>,
    /// Topic Alias Maximum (0x22); absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String (0x1F).
    pub reason_string: Option<Utf8String>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available (0x28); absent: true.
    pub wildcard_available: Option<bool>,
    /// Subscription Identifiers Available (0x29); absent: true.
    pub subscription_ids_available: Option<bool>,
    /// Shared Subscription Available (0x2A); absent: true.
    pub shared_available: Option<bool>,
    /// Server Keep Alive (0x13) in seconds; absent: as the client asked.
    pub server_keep_alive_secs: Option<u16>,
    /// Response Information (0x1A).
    pub response_information: Option<Utf8String>,
    /// Server Reference (0x1C).
    pub server_reference: Option<Utf8String>,
    /// Authentication Method (0x15).
    pub authentication_method: Option<Utf8String>,
    /// Authentication Data (0x16).
    pub authentication_data: Option<Bytes>,
}

/// Properties of PUBLISH (section 3.3.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishProperties {
    /// Payload Format Indicator (0x01): whether the payload is UTF-8 text; absent: false.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval (0x02) in seconds; absent: never.
    pub message_expiry_secs: Option<u32>,
    /// Topic Alias (0x23), never 0.
    pub topic_alias: Option<u16>,
    /// Response Topic (0x08).
    pub response_topic: Option<TopicName>,
    /// Correlation Data (0x09).
    pub correlation_data: Option<Bytes>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
    /// Subscription Identifier (0x0B), each 1 to 268,435,455; from server to client only.
    pub subscription_ids: SmallVec<[u32; 2]>,
    /// Content Type (0x03).
    pub content_type: Option<Utf8String>,
}

/// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK (sections 3.4.2.2 and the like).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckProperties {
    /// Reason String (0x1F).
    pub reason_string: Option<Utf8String>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
}

/// Properties of SUBSCRIBE (section 3.8.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscribeProperties {
    /// Subscription Identifier (0x0B): 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
}

/// Properties of DISCONNECT (section 3.14.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DisconnectProperties {
    /// Session Expiry Interval (0x11) in seconds; from client to server only.
    pub session_expiry_secs: Option<u32>,
    /// Reason String (0x1F).
    pub reason_string: Option<Utf8String>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
    /// Server Reference (0x1C); from server to client only.
    pub server_reference: Option<Utf8String>,
}

/// Properties of AUTH (section 3.15.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthProperties {
    /// Authentication Method (0x15).
    pub authentication_method: Option<Utf8String>,
    /// Authentication Data (0x16).
    pub authentication_data: Option<Bytes>,
    /// Reason String (0x1F).
    pub reason_string: Option<Utf8String>,
    /// User Property (0x26).
    pub user_properties: UserProperties,
}

impl PublishProperties {
    /// Whether every property is absent, so that a packet need not carry the struct.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
