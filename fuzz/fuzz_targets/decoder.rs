//! The decoder under arbitrary bytes: any split gives the same packets, and what was understood can be said again.
//!
//! The first byte of an input says for which end and version, the second how the rest is split.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tidegate::mqtt::{DecodeError, Decoder, Packet, ProtocolVersion, encode, encoded_len};

/// What a connection came to: its packets, and the broken rule it ended by.
type Outcome = (Vec<Packet>, Option<DecodeError>, Option<ProtocolVersion>);

fuzz_target!(|input: &[u8]| {
    let [setting, split, bytes @ ..] = input else {
        return;
    };
    let version = match setting & 3 {
        0 => ProtocolVersion::V31,
        1 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    let is_server = setting & 4 == 0;
    let is_greeted = setting & 8 == 0;
    let packet_bytes_max = if setting & 16 == 0 { 2048 } else { 40 };
    let decoder = || {
        let mut decoder = if is_server {
            Decoder::server(packet_bytes_max)
        } else {
            Decoder::client(version, packet_bytes_max)
        };
        if is_greeted {
            greet(&mut decoder, is_server, version);
        }
        decoder
    };

    let whole = outcome(decoder(), [bytes]);
    let pieces = outcome(
        decoder(),
        Pieces {
            bytes,
            state: u32::from(*split),
        },
    );
    assert_eq!(whole, pieces, "another split gives something else");

    let (packets, _, version) = whole;
    for packet in packets {
        let version = version.expect("a packet was read");
        let mut again = BytesMut::new();
        encode(&packet, version, &mut again);
        assert_eq!(again.len(), encoded_len(&packet, version), "{packet:?}");
        let mut decoder = if is_server {
            Decoder::server(u32::MAX)
        } else {
            Decoder::client(version, u32::MAX)
        };
        if !matches!(packet, Packet::Connect(_) | Packet::ConnAck(_)) {
            greet(&mut decoder, is_server, version);
        }
        let (packets, error, _) = outcome(decoder, [&again[..]]);
        assert_eq!((packets, error), (vec![packet], None), "{again:?}");
    }
});

/// Reads the plainest CONNECT or CONNACK, behind which the other packets may come.
fn greet(decoder: &mut Decoder, is_server: bool, version: ProtocolVersion) {
    let greeting: &[u8] = match (is_server, version) {
        (true, ProtocolVersion::V31) => b"\x10\x0F\0\x06MQIsdp\x03\x02\0\0\0\x01c",
        (true, ProtocolVersion::V311) => b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c",
        (true, ProtocolVersion::V5) => b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c",
        (false, ProtocolVersion::V5) => b"\x20\x03\0\0\0",
        (false, _) => b"\x20\x02\0\0",
    };
    decoder.feed(Bytes::from_static(greeting));
    assert!(matches!(decoder.poll_packet(), Ok(Some(_))));
    assert_eq!(decoder.poll_packet(), Ok(None));
}

fn outcome<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut packets = Vec::new();
    for piece in pieces {
        decoder.feed(Bytes::copy_from_slice(piece));
        loop {
            match decoder.poll_packet() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.poll_packet(), Err(error), "an error is for good");
                    return (packets, Some(error), decoder.version());
                }
            }
        }
    }
    (packets, None, decoder.version())
}

/// Pieces of 1 to 8 bytes, and now and then of 64 more.
struct Pieces<'a> {
    bytes: &'a [u8],
    state: u32,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.bytes.is_empty() {
            return None;
        }
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let random = self.state >> 24;
        let length = 1 + (random & 7) + if random & 0xC0 == 0 { 64 } else { 0 };
        let (piece, rest) = self.bytes.split_at((length as usize).min(self.bytes.len()));
        self.bytes = rest;
        Some(piece)
    }
}
