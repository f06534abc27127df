//! Packets by name: what stands on the wire, and what it means or which rule it breaks.
//!
//! The bytes are written by hand from the standards, not by our encoder, so they judge it. Shared by the
//! tests of the codec and of the broker.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses its own part of the catalogue"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what stands here is written by hand; a mistake in it must fail the test"
)]

pub mod arbitrary;
mod malformed;
mod valid;

use bytes::Bytes;
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{
    ClientId, DecodeError, Decoder, Packet, PacketId, ProtocolVersion, TopicFilter, TopicName, Utf8String,
};

pub use malformed::malformed;
pub use valid::valid;

/// The largest packet the catalogue's decoders accept, in bytes.
pub const PACKET_BYTES_MAX: u32 = 2048;

/// When a packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before anything else on its connection.
    First,
    /// After CONNECT and CONNACK.
    Later,
}

/// A packet as it should be.
#[derive(Debug, Clone)]
pub struct Valid {
    pub name: &'static str,
    pub version: ProtocolVersion,
    /// Who reads it.
    pub side: Side,
    pub place: Place,
    pub bytes: Bytes,
    pub packet: Packet,
    /// Whether our encoder writes it in just these bytes (order of properties, shortest form).
    pub canonical: bool,
}

/// Bytes that break a rule.
#[derive(Debug, Clone)]
pub struct Malformed {
    pub name: &'static str,
    pub version: ProtocolVersion,
    /// Who reads it.
    pub side: Side,
    pub place: Place,
    pub bytes: Bytes,
    pub error: DecodeError,
}

/// A packet: `first`, the length of `body`, `body`.
pub fn framed(first: u8, body: &[u8]) -> Bytes {
    let mut bytes = vec![first];
    let mut rest = body.len();
    while rest > 127 {
        bytes.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes.extend_from_slice(body);
    Bytes::from(bytes)
}

/// A decoder in the state in which the packet would meet it.
pub fn decoder(version: ProtocolVersion, side: Side, place: Place) -> Decoder {
    let mut decoder = match side {
        Side::Server => Decoder::server(PACKET_BYTES_MAX),
        Side::Client => Decoder::client(version, PACKET_BYTES_MAX),
    };
    if place == Place::Later {
        decoder.feed(greeting(version, side));
        assert!(decoder.poll_packet().expect("the greeting is valid").is_some());
        assert_eq!(decoder.poll_packet(), Ok(None));
    }
    decoder
}

/// The plainest CONNECT, or CONNACK, of `version`.
pub fn greeting(version: ProtocolVersion, side: Side) -> Bytes {
    match (side, version) {
        (Side::Server, ProtocolVersion::V31) => framed(0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\x01c"),
        (Side::Server, ProtocolVersion::V311) => framed(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c"),
        (Side::Server, ProtocolVersion::V5) => framed(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01c"),
        (Side::Client, ProtocolVersion::V5) => framed(0x20, b"\0\0\0"),
        (Side::Client, _) => framed(0x20, b"\0\0"),
    }
}

pub fn text(text: &str) -> Utf8String {
    Utf8String::try_from(text).unwrap()
}

pub fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

pub fn client_id(id: &str) -> ClientId {
    ClientId::new(text(id)).unwrap()
}

pub fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}
