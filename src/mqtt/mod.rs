//! MQTT on the wire: packets, topics, properties, reason codes, and the codec between bytes and packets.
//!
//! One [`Packet`] type serves 3.1, 3.1.1 and 5.0; only [`decode`] and [`encode`] know the difference. Nothing in
//! here knows a session, a socket or a clock. A value that exists is valid: [`ClientId`], [`TopicName`],
//! [`TopicFilter`], [`PacketId`] and [`Utf8String`] are made by parsing only.
//!
//! Section numbers are those of the OASIS standards, "MQTT Version 5.0" where nothing else is said.

pub mod decode;
pub mod encode;
mod ids;
mod packet;
mod properties;
mod property;
mod reason;
mod return_code;
mod topic;

pub use decode::{DecodeError, Decoder};
pub use encode::{encode, encode_publish, encoded_len};
pub use ids::{ClientId, PacketId, ProtocolVersion, QoS, StringError, Utf8String};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, RetainHandling, SubAck, Subscribe,
    Subscription, UnsubAck, Unsubscribe, Will,
};
pub use properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UserProperties, WillProperties,
};
pub use reason::ReasonCode;
pub use topic::{TopicError, TopicFilter, TopicName};
