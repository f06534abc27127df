//! The codec: every packet both ways, every rule, every split, and two other codecs as witnesses.

mod catalogue;

use bytes::{Bytes, BytesMut};
use catalogue::{decoder, malformed, valid};
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{DecodeError, Decoder, Packet, ProtocolVersion, encode, encoded_len};

/// Every packet the decoder finds in `bytes`, which are fed at once.
fn decode_all(mut decoder: Decoder, bytes: Bytes) -> Result<Vec<Packet>, DecodeError> {
    decoder.feed(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = decoder.poll_packet()? {
        packets.push(packet);
    }
    Ok(packets)
}

fn encoded(packet: &Packet, version: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out);
    out.freeze()
}

#[test]
fn every_valid_packet_of_the_catalogue_decodes_to_what_it_means() {
    for entry in valid() {
        let decoder = decoder(entry.version, entry.side, entry.place);
        let decoded = decode_all(decoder, entry.bytes.clone());
        assert_eq!(
            decoded,
            Ok(vec![entry.packet]),
            "{} {:?} {:?}",
            entry.name,
            entry.version,
            entry.bytes
        );
    }
}

#[test]
fn every_valid_packet_of_the_catalogue_encodes_to_its_bytes() {
    for entry in valid() {
        let bytes = encoded(&entry.packet, entry.version);
        assert_eq!(
            encoded_len(&entry.packet, entry.version),
            bytes.len(),
            "{}",
            entry.name
        );
        if entry.canonical {
            assert_eq!(bytes, entry.bytes, "{} {:?}", entry.name, entry.version);
        } else {
            assert_ne!(bytes, entry.bytes, "{} is as our encoder writes it", entry.name);
            let decoder = decoder(entry.version, entry.side, entry.place);
            assert_eq!(
                decode_all(decoder, bytes),
                Ok(vec![entry.packet]),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn every_malformed_packet_of_the_catalogue_is_refused_by_the_rule_it_breaks() {
    for entry in malformed() {
        let mut decoder = decoder(entry.version, entry.side, entry.place);
        decoder.feed(entry.bytes.clone());
        let context = format!("{} {:?} {:?}", entry.name, entry.version, entry.bytes);
        assert_eq!(decoder.poll_packet(), Err(entry.error), "{context}");
        decoder.feed(Bytes::from_static(b"\xC0\0"));
        assert_eq!(decoder.poll_packet(), Err(entry.error), "again: {context}");
    }
}
