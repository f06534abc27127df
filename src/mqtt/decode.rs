//! Bytes to packets: incremental, strict, and bounded before it allocates.
//!
//! This file cuts the byte stream into packets and holds what no single packet can know (version, direction,
//! which packet comes first); `packets` reads their bodies, `properties` the property sections of 5.0.

mod error;
mod packets;
mod properties;
mod reader;
mod reasons;

use std::mem;

use bytes::{Buf, Bytes};

pub use self::error::DecodeError;
use self::reader::{Reader, VarInt};
use super::ids::ProtocolVersion;
use super::packet::{Ack, Packet};

/// The most user properties one packet (or one will) may bring; more are refused before they are stored.
///
/// A user property takes 5 bytes on the wire and over 60 in memory; nobody is known to send more than a
/// handful.
pub const USER_PROPERTIES_MAX: usize = 64;

/// The most topic filters one SUBSCRIBE or UNSUBSCRIBE may bring.
///
/// A filter takes 4 bytes on the wire and over 40 in memory; large public brokers stop at 8 to 1,000.
pub const FILTERS_MAX: usize = 1024;

/// Turns the bytes of one connection, split anywhere, into packets.
///
/// 1. At most one of `unread` and `unfinished` is not empty once `poll_packet` has returned `None`, and it is
///    `unfinished`: what was fed is either decoded, or copied.
/// 2. `unfinished` never has room for more than the packet it waits for, which is at most `packet_bytes_max`,
///    nor for more than twice what has arrived of it or [`FIRST_ROOM_BYTES`], whichever is more.
/// 3. Without an unfinished packet it owns no heap memory.
/// 4. After an error it holds nothing and takes nothing.
#[derive(Debug)]
pub struct Decoder {
    /// What was fed and not yet decoded.
    unread: Bytes,
    /// The head of a packet whose end was not fed yet.
    unfinished: Vec<u8>,
    packet_bytes_max: u32,
    version: Option<ProtocolVersion>,
    side: Side,
    /// Whether the packet that must come first (CONNECT, CONNACK) was read.
    greeted: bool,
    failed: Option<DecodeError>,
}

/// Which end of the connection the decoder reads for: some packets and properties go one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Reads what clients send; the first packet must be CONNECT [MQTT-3.1.0-1].
    Server,
    /// Reads what servers send.
    Client,
}

/// The room an unfinished packet gets at first: most packets fit, and a peer that only announces a large one
/// costs no more than this.
const FIRST_ROOM_BYTES: usize = 1024;

/// The first byte and the Remaining Length of a packet (section 2.1).
#[derive(Debug, Clone, Copy)]
struct FixedHeader {
    first: u8,
    /// How many bytes the header takes, 2 to 5.
    len: usize,
    /// How many bytes the packet takes, header included.
    packet_len: usize,
    /// Whether the Remaining Length was said in as few bytes as possible.
    minimal: bool,
}

impl Decoder {
    /// A decoder for the server's end; learns the version from CONNECT.
    pub fn server(packet_bytes_max: u32) -> Self {
        Self::new(Side::Server, None, packet_bytes_max)
    }

    /// A decoder for the client's end, which knows the version it asked for.
    pub fn client(version: ProtocolVersion, packet_bytes_max: u32) -> Self {
        Self::new(Side::Client, Some(version), packet_bytes_max)
    }

    fn new(side: Side, version: Option<ProtocolVersion>, packet_bytes_max: u32) -> Self {
        Self {
            unread: Bytes::new(),
            unfinished: Vec::new(),
            packet_bytes_max,
            version,
            side,
            greeted: false,
            failed: None,
        }
    }

    /// The version in force, which is also the one to answer in.
    ///
    /// At the server's end it is `None` until the protocol level of a CONNECT was read, and stays so when the
    /// protocol name is not MQTT's, because then no answer would be understood. It is known when the rest of
    /// CONNECT is malformed; and when the level is not supported, it is the version whose CONNACK such a
    /// client reads best: 3.1.1 below level 5 [MQTT-3.1.2-2 of 3.1.1], 5.0 above.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Changes the largest packet accepted from here on, in bytes with its fixed header.
    pub fn set_packet_bytes_max(&mut self, packet_bytes_max: u32) {
        self.packet_bytes_max = packet_bytes_max;
    }

    /// The memory it owns, in bytes: room for the packet of which a part has arrived.
    pub fn held_bytes(&self) -> usize {
        self.unfinished.capacity()
    }

    /// Takes the next bytes of the connection; packets that lie whole in `bytes` will share them.
    ///
    /// Meant to be followed by [`Decoder::poll_packet`] until it returns `None`; bytes fed before that are
    /// copied.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.failed.is_some() {
            return;
        }
        if self.unread.is_empty() {
            self.unread = bytes;
        } else {
            let mut joined = Vec::with_capacity(self.unread.len() + bytes.len());
            joined.extend_from_slice(&self.unread);
            joined.extend_from_slice(&bytes);
            self.unread = Bytes::from(joined);
        }
    }

    /// The next whole packet, or `None` until more bytes are fed.
    ///
    /// When it returns `None` the decoder holds no reference to what was fed: the head of an unfinished
    /// packet is copied into a buffer of its own, so the caller's read buffer is free again.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection must then be closed, and every further call returns the same error.
    pub fn poll_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let polled = if self.unfinished.is_empty() {
            self.next_packet()
        } else {
            self.resume_packet()
        };
        if let Err(error) = polled {
            self.failed = Some(error);
            self.unread = Bytes::new();
            self.unfinished = Vec::new();
        }
        polled
    }

    /// The next packet, where none is unfinished.
    fn next_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        match self.fixed_header(&self.unread)? {
            Some(header) if header.packet_len <= self.unread.len() => {
                if let Some(packet) = self.plain_ack(header) {
                    self.unread.advance(header.packet_len);
                    return Ok(Some(packet));
                }
                let packet = self.unread.split_to(header.packet_len);
                self.decode(header, packet).map(Some)
            }
            header => {
                let unread = mem::take(&mut self.unread);
                if let Some(header) = header {
                    self.make_room(unread.len(), header.packet_len);
                }
                self.unfinished.extend_from_slice(&unread);
                Ok(None)
            }
        }
    }

    /// The unfinished packet, with what was fed since.
    fn resume_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        let header = loop {
            if let Some(header) = self.fixed_header(&self.unfinished)? {
                break header;
            }
            if !self.unread.has_remaining() {
                self.unread = Bytes::new();
                return Ok(None);
            }
            self.unfinished.push(self.unread.get_u8()); // at most five: then the header is whole or an error
        };
        let missing = header.packet_len.saturating_sub(self.unfinished.len());
        let arrived = self.unread.split_to(missing.min(self.unread.len()));
        self.make_room(self.unfinished.len() + arrived.len(), header.packet_len);
        self.unfinished.extend_from_slice(&arrived);
        if arrived.len() < missing {
            self.unread = Bytes::new();
            return Ok(None);
        }
        let packet = Bytes::from(mem::take(&mut self.unfinished));
        self.decode(header, packet).map(Some)
    }

    /// Makes room in `unfinished` for `len` bytes of a packet of `packet_len`, and for as many again.
    fn make_room(&mut self, len: usize, packet_len: usize) {
        if len > self.unfinished.capacity() {
            let room = packet_len.min((2 * len).max(FIRST_ROOM_BYTES));
            self.unfinished
                .reserve_exact(room.saturating_sub(self.unfinished.len()));
        }
    }

    /// Reads the fixed header off `bytes` and checks it; `None` until it is whole.
    ///
    /// Everything the first bytes can break is found here, before the rest is waited for or room is made for
    /// it.
    fn fixed_header(&self, bytes: &[u8]) -> Result<Option<FixedHeader>, DecodeError> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        self.check_first_byte(first)?;
        let Some(remaining) = VarInt::read(rest)? else {
            return Ok(None);
        };
        let len = 1 + remaining.len;
        let packet_len = len as u64 + u64::from(remaining.value);
        if packet_len > u64::from(self.packet_bytes_max) {
            return Err(DecodeError::PacketTooLarge); // [MQTT-3.1.2-24] [MQTT-3.2.2-15]
        }
        // The version is known here for all packets but CONNECT, for which it is checked again afterwards.
        if !remaining.minimal && self.version == Some(ProtocolVersion::V5) {
            return Err(DecodeError::VarIntNotMinimal); // [MQTT-1.5.5-1]
        }
        let packet_len = usize::try_from(packet_len).map_err(|_| DecodeError::PacketTooLarge)?;
        Ok(Some(FixedHeader {
            first,
            len,
            packet_len,
            minimal: remaining.minimal,
        }))
    }

    /// Whether a packet that begins with `first` may come now and from that end.
    fn check_first_byte(&self, first: u8) -> Result<(), DecodeError> {
        let kind = first >> 4;
        let flags = first & 0x0F;
        match self.side {
            Side::Server if !self.greeted && kind != kind::CONNECT => {
                return Err(DecodeError::FirstPacketNotConnect); // [MQTT-3.1.0-1]
            }
            Side::Server if self.greeted && kind == kind::CONNECT => {
                return Err(DecodeError::SecondConnect); // [MQTT-3.1.0-2]
            }
            Side::Client
                if !self.greeted
                    && kind != kind::CONNACK
                    && !(kind == kind::AUTH && self.version == Some(ProtocolVersion::V5)) =>
            {
                return Err(DecodeError::FirstPacketNotConnAck); // [MQTT-3.2.0-1]
            }
            Side::Client if self.greeted && kind == kind::CONNACK => {
                return Err(DecodeError::SecondConnAck); // [MQTT-3.2.0-2]
            }
            _ => {}
        }
        if kind == kind::PUBLISH {
            return match flags & 0b0110 {
                0b0110 => Err(DecodeError::QosThree), // [MQTT-3.3.1-4]
                0b0000 if flags & 0b1000 != 0 => Err(DecodeError::DupAtQosZero), // [MQTT-3.3.1-2]
                _ => Ok(()),
            };
        }
        let (from_client, from_server, expected_flags) = match kind {
            kind::CONNECT => (true, false, 0),
            kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP => (false, true, 0),
            kind::PUBACK | kind::PUBREC | kind::PUBCOMP => (true, true, 0),
            kind::PUBREL => (true, true, 0b0010),
            kind::SUBSCRIBE | kind::UNSUBSCRIBE => (true, false, 0b0010),
            kind::PINGREQ => (true, false, 0),
            kind::DISCONNECT => (true, self.version == Some(ProtocolVersion::V5), 0),
            kind::AUTH if self.version == Some(ProtocolVersion::V5) => (true, true, 0),
            _ => return Err(DecodeError::ReservedPacketType),
        };
        let allowed = match self.side {
            Side::Server => from_client,
            Side::Client => from_server,
        };
        if !allowed {
            return Err(DecodeError::WrongDirection);
        }
        // 3.1 gives PUBREL, SUBSCRIBE and UNSUBSCRIBE a quality and lets whoever repeats them set DUP (its section
        // 2.1). Nothing depends on either, and clients of its time are known to write zeroes.
        let flags_count = self.version != Some(ProtocolVersion::V31) || expected_flags == 0;
        if flags != expected_flags && flags_count {
            // [MQTT-2.1.3-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
            return Err(DecodeError::FixedHeaderFlags);
        }
        Ok(())
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP of four bytes at the front of `unread`: the commonest packets that
    /// share nothing of what was fed, so they take no handle to it.
    fn plain_ack(&self, header: FixedHeader) -> Option<Packet> {
        let [_, 2, high, low] = *self.unread.get(..header.packet_len)? else {
            return None;
        };
        let wrap = match header.first >> 4 {
            kind::PUBACK => Packet::PubAck,
            kind::PUBREC => Packet::PubRec,
            kind::PUBREL => Packet::PubRel,
            kind::PUBCOMP => Packet::PubComp,
            _ => return None,
        };
        // Packet identifier 0 is left to the usual way, which knows the error.
        Some(wrap(Ack::success(super::ids::PacketId::new(
            u16::from_be_bytes([high, low]),
        )?)))
    }

    /// Decodes `packet`, which is whole.
    fn decode(&mut self, header: FixedHeader, packet: Bytes) -> Result<Packet, DecodeError> {
        let kind = header.first >> 4;
        if kind == kind::PUBLISH {
            return packets::publish(
                header.first,
                header.len,
                packet,
                self.version_in_force(),
                self.side,
            );
        }
        let mut body = Reader::new(&packet, header.len);
        if kind == kind::CONNECT {
            let connect = packets::connect(&mut body, &mut self.version)?;
            if !header.minimal && connect.version == ProtocolVersion::V5 {
                return Err(DecodeError::VarIntNotMinimal); // [MQTT-1.5.5-1]
            }
            body.finish()?;
            self.greeted = true;
            return Ok(Packet::Connect(Box::new(connect)));
        }
        let version = self.version_in_force();
        let decoded = match kind {
            kind::CONNACK => {
                let connack = packets::connack(&mut body, version)?;
                self.greeted = true;
                Packet::ConnAck(Box::new(connack))
            }
            kind::PUBACK => Packet::PubAck(packets::ack(
                &mut body,
                version,
                reasons::Carrier::PubAckOrPubRec,
                self.side,
            )?),
            kind::PUBREC => Packet::PubRec(packets::ack(
                &mut body,
                version,
                reasons::Carrier::PubAckOrPubRec,
                self.side,
            )?),
            kind::PUBREL => Packet::PubRel(packets::ack(
                &mut body,
                version,
                reasons::Carrier::PubRelOrPubComp,
                self.side,
            )?),
            kind::PUBCOMP => Packet::PubComp(packets::ack(
                &mut body,
                version,
                reasons::Carrier::PubRelOrPubComp,
                self.side,
            )?),
            kind::SUBSCRIBE => Packet::Subscribe(Box::new(packets::subscribe(&mut body, version)?)),
            kind::SUBACK => Packet::SubAck(Box::new(packets::suback(&mut body, version)?)),
            kind::UNSUBSCRIBE => Packet::Unsubscribe(Box::new(packets::unsubscribe(&mut body, version)?)),
            kind::UNSUBACK => Packet::UnsubAck(Box::new(packets::unsuback(&mut body, version)?)),
            kind::PINGREQ => Packet::PingReq,
            kind::PINGRESP => Packet::PingResp,
            kind::DISCONNECT => {
                Packet::Disconnect(Box::new(packets::disconnect(&mut body, version, self.side)?))
            }
            kind::AUTH => Packet::Auth(Box::new(packets::auth(&mut body, self.side)?)),
            _ => return Err(DecodeError::ReservedPacketType),
        };
        body.finish()?;
        Ok(decoded)
    }

    /// The version of every packet but CONNECT: `check_first_byte` lets none of them pass before CONNECT has
    /// set it.
    fn version_in_force(&self) -> ProtocolVersion {
        self.version.unwrap_or(ProtocolVersion::V311)
    }
}

/// The packet types (table 2-1).
mod kind {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const CONNACK: u8 = 2;
    pub(super) const PUBLISH: u8 = 3;
    pub(super) const PUBACK: u8 = 4;
    pub(super) const PUBREC: u8 = 5;
    pub(super) const PUBREL: u8 = 6;
    pub(super) const PUBCOMP: u8 = 7;
    pub(super) const SUBSCRIBE: u8 = 8;
    pub(super) const SUBACK: u8 = 9;
    pub(super) const UNSUBSCRIBE: u8 = 10;
    pub(super) const UNSUBACK: u8 = 11;
    pub(super) const PINGREQ: u8 = 12;
    pub(super) const PINGRESP: u8 = 13;
    pub(super) const DISCONNECT: u8 = 14;
    pub(super) const AUTH: u8 = 15;
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PACKET_BYTES_MAX: u32 = 4096;

    const CONNECT: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c";

    fn assert_bounded(decoder: &Decoder) {
        assert!(decoder.unread.is_empty());
        let len = decoder.unfinished.len();
        let room = decoder.unfinished.capacity();
        assert!(room <= PACKET_BYTES_MAX as usize, "{len} bytes in {room}");
        assert!(room <= (2 * len).max(FIRST_ROOM_BYTES), "{len} bytes in {room}");
        assert!(room == 0 || len > 0, "{room} bytes of room for nothing");
    }

    #[test]
    fn an_idle_decoder_owns_nothing_and_is_small() {
        let mut decoder = Decoder::server(PACKET_BYTES_MAX);
        for piece in CONNECT.chunks(3) {
            decoder.feed(Bytes::from_static(piece));
            let _ = decoder.poll_packet();
        }
        assert_eq!(decoder.version(), Some(ProtocolVersion::V311));
        assert_eq!(decoder.unfinished.capacity(), 0);
        assert!(size_of::<Decoder>() <= 80);
    }

    #[test]
    fn a_peer_that_announces_a_large_packet_costs_little_until_it_sends_it() {
        let mut decoder = Decoder::server(1 << 20);
        decoder.feed(Bytes::from_static(b"\x10\xF0\xFF\x3F\0\x04MQTT"));
        assert_eq!(decoder.poll_packet(), Ok(None));
        assert_eq!(decoder.unfinished.capacity(), FIRST_ROOM_BYTES);
    }

    #[test]
    fn an_unfinished_packet_grows_to_its_length_and_no_further() {
        let mut decoder = Decoder::server(PACKET_BYTES_MAX);
        decoder.feed(Bytes::from_static(CONNECT));
        assert!(matches!(decoder.poll_packet(), Ok(Some(_))));
        // 3,000 bytes in all: three of header, the rest zeroes but for the topic's length.
        let mut packet = vec![0; 3000];
        packet[..7].copy_from_slice(b"\x30\xB5\x17\0\x02ab");
        let mut packets = 0;
        for piece in packet.chunks(100) {
            decoder.feed(Bytes::copy_from_slice(piece));
            match decoder.poll_packet() {
                Ok(Some(_)) => packets += 1,
                polled => assert_eq!(polled, Ok(None)),
            }
            assert_bounded(&decoder);
        }
        assert_eq!(packets, 1);
        assert_eq!(decoder.unfinished.capacity(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_never_make_it_hold_more_than_the_bound(
            greeted in any::<bool>(),
            pieces in vec(vec(any::<u8>(), 0..40), 0..12),
            first in prop_oneof![Just(0x10_u8), Just(0x30), Just(0x82), any::<u8>()],
            announced in 0_u32..6000,
        ) {
            let mut decoder = Decoder::server(PACKET_BYTES_MAX);
            if greeted {
                decoder.feed(Bytes::from_static(CONNECT));
                prop_assert!(matches!(decoder.poll_packet(), Ok(Some(_))));
            }
            let header = [first, announced as u8 | 0x80, (announced >> 7) as u8 & 0x7F];
            decoder.feed(Bytes::copy_from_slice(&header));
            for piece in pieces {
                while let Ok(Some(_)) = decoder.poll_packet() {}
                assert_bounded(&decoder);
                decoder.feed(Bytes::from(piece));
            }
        }
    }
}
