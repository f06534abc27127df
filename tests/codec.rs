//! The codec: every packet both ways, every rule, every split, and two other codecs as witnesses.

mod catalogue;

use bytes::{Bytes, BytesMut};
use catalogue::arbitrary::{self, version_and_side};
use catalogue::{Place, decoder, greeting, malformed, valid};
use proptest::collection::vec;
use proptest::prelude::*;
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{DecodeError, Decoder, Packet, ProtocolVersion, encode, encoded_len};
use tokio_util::codec::{Decoder as _, Encoder as _};

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

#[test]
fn a_packet_cut_short_anywhere_is_no_packet_and_its_rest_completes_it() {
    for entry in valid() {
        for cut in 0..entry.bytes.len() {
            let mut decoder = decoder(entry.version, entry.side, entry.place);
            decoder.feed(entry.bytes.slice(..cut));
            assert_eq!(decoder.poll_packet(), Ok(None), "{} cut at {cut}", entry.name);
            decoder.feed(entry.bytes.slice(cut..));
            assert_eq!(
                decoder.poll_packet(),
                Ok(Some(entry.packet.clone())),
                "{} cut at {cut}",
                entry.name
            );
            assert_eq!(decoder.poll_packet(), Ok(None), "{} cut at {cut}", entry.name);
        }
    }
}

#[test]
fn a_malformed_packet_cut_short_anywhere_is_never_a_packet() {
    for entry in malformed() {
        for cut in 0..entry.bytes.len() {
            let mut decoder = decoder(entry.version, entry.side, entry.place);
            decoder.feed(entry.bytes.slice(..cut));
            match decoder.poll_packet() {
                Ok(None) => {
                    decoder.feed(entry.bytes.slice(cut..));
                    assert_eq!(
                        decoder.poll_packet(),
                        Err(entry.error),
                        "{} cut at {cut}",
                        entry.name
                    );
                }
                other => assert_eq!(other, Err(entry.error), "{} cut at {cut}", entry.name),
            }
        }
    }
}

#[test]
fn a_packet_whose_length_is_one_too_small_is_refused_or_says_something_else() {
    for entry in valid() {
        if !entry.canonical || entry.bytes.len() < 3 || entry.bytes[1] & 0x80 != 0 {
            continue;
        }
        // One byte less than the fields need: for most packets the last field is cut, others just say less.
        let mut shorter = BytesMut::from(&entry.bytes[..entry.bytes.len() - 1]);
        shorter[1] -= 1;
        match decode_all(decoder(entry.version, entry.side, entry.place), shorter.freeze()) {
            Ok(packets) => assert_ne!(packets, [entry.packet], "{}", entry.name),
            Err(error) => assert!(error.reason().is_error(), "{}", entry.name),
        }
    }
}

#[test]
fn a_packet_that_lies_whole_in_what_was_fed_shares_it() {
    let bytes = catalogue::framed(0x30, b"\0\x03a/bhi");
    let within = bytes.as_ptr_range();
    let decoder = decoder(ProtocolVersion::V311, Side::Server, Place::Later);
    let packets = decode_all(decoder, bytes.clone()).unwrap();
    let [Packet::Publish(publish)] = packets.as_slice() else {
        panic!("{packets:?}")
    };
    assert!(within.contains(&publish.payload.as_ptr()));
    assert!(within.contains(&publish.topic.as_ref().unwrap().as_utf8().as_bytes().as_ptr()));
}

#[test]
fn what_was_fed_is_let_go_as_soon_as_no_whole_packet_is_left_in_it() {
    for tail in [b"".as_slice(), b"\x30", b"\x30\x07", b"\x30\x07\0\x03a"] {
        let fed = Bytes::from([b"\xC0\0\x40\x02\0\x01", tail].concat());
        let mut decoder = decoder(ProtocolVersion::V311, Side::Server, Place::Later);
        decoder.feed(fed.clone());
        while decoder.poll_packet().unwrap().is_some() {}
        assert!(fed.is_unique(), "tail {tail:?}");
    }
}

#[test]
fn the_version_is_known_as_soon_as_connect_has_said_it() {
    let version_after = |bytes: Bytes| {
        let mut decoder = Decoder::server(catalogue::PACKET_BYTES_MAX);
        decoder.feed(bytes);
        (decoder.poll_packet().map(|_| ()), decoder.version())
    };
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        assert_eq!(
            version_after(greeting(version, Side::Server)),
            (Ok(()), Some(version))
        );
    }
    let with_reserved_flag = catalogue::framed(0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\0");
    assert_eq!(
        version_after(with_reserved_flag),
        (Err(DecodeError::ConnectReservedFlag), Some(ProtocolVersion::V5))
    );
    let of_the_future = catalogue::framed(0x10, b"\0\x04MQTT\x06\x02\0\0\0\0\0");
    assert_eq!(
        version_after(of_the_future),
        (
            Err(DecodeError::UnsupportedProtocolLevel(6)),
            Some(ProtocolVersion::V5)
        )
    );
    let of_the_past = catalogue::framed(0x10, b"\0\x04MQTT\x02\x02\0\0\0\0");
    assert_eq!(
        version_after(of_the_past),
        (
            Err(DecodeError::UnsupportedProtocolLevel(2)),
            Some(ProtocolVersion::V311)
        )
    );
    let of_others = catalogue::framed(0x10, b"\0\x04AMQP\x01\x02\0\0\0\0");
    assert_eq!(
        version_after(of_others),
        (Err(DecodeError::UnknownProtocolName), None)
    );
}

#[test]
fn what_a_version_cannot_say_is_left_out() {
    for entry in valid()
        .into_iter()
        .filter(|entry| entry.version == ProtocolVersion::V5)
    {
        let says_alias_only = matches!(&entry.packet, Packet::Publish(publish) if publish.topic.is_none());
        if matches!(entry.packet, Packet::Connect(_)) || says_alias_only {
            continue; // CONNECT brings its own version; an alias can be said in 5.0 only.
        }
        let bytes = encoded(&entry.packet, ProtocolVersion::V311);
        assert_eq!(
            encoded_len(&entry.packet, ProtocolVersion::V311),
            bytes.len(),
            "{}",
            entry.name
        );
        if matches!(entry.packet, Packet::Auth(_)) {
            assert_eq!(bytes.len(), 0);
            continue;
        }
        if entry.side == Side::Client && matches!(entry.packet, Packet::Disconnect(_)) {
            continue; // before 5.0 a server closes without a word
        }
        let decoded = decode_all(decoder(ProtocolVersion::V311, entry.side, entry.place), bytes);
        assert_eq!(decoded.map(|packets| packets.len()), Ok(1), "{}", entry.name);
    }
}

/// Cuts `bytes` at `cuts`, feeds the pieces one by one and reads after each.
fn decode_in_pieces(mut decoder: Decoder, bytes: &Bytes, cuts: &[usize]) -> Result<Vec<Packet>, DecodeError> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(0);
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut packets = Vec::new();
    for piece in cuts.windows(2) {
        decoder.feed(bytes.slice(piece[0]..piece[1]));
        while let Some(packet) = decoder.poll_packet()? {
            packets.push(packet);
        }
    }
    Ok(packets)
}

/// A version, a side, and packets that may come in a row after the greeting.
fn conversation() -> impl Strategy<Value = (ProtocolVersion, Side, Vec<Packet>)> {
    version_and_side().prop_flat_map(|(version, side)| {
        vec(arbitrary::packet(version, side), 1..8).prop_map(move |packets| {
            let later = packets.into_iter().filter(|(place, _)| *place == Place::Later);
            (version, side, later.map(|(_, packet)| packet).collect())
        })
    })
}

fn any_packet() -> impl Strategy<Value = (ProtocolVersion, Side, Place, Packet)> {
    version_and_side().prop_flat_map(|(version, side)| {
        arbitrary::packet(version, side).prop_map(move |(place, packet)| (version, side, place, packet))
    })
}

/// A decoder that accepts whatever the strategies make.
fn wide_decoder(version: ProtocolVersion, side: Side, place: Place) -> Decoder {
    let mut decoder = decoder(version, side, place);
    decoder.set_packet_bytes_max(u32::MAX);
    decoder
}

/// What `mqtt-proto` makes of `bytes`, said again in its own words; `None` where it refuses them.
fn through_mqtt_proto(version: ProtocolVersion, bytes: &[u8]) -> Option<Bytes> {
    let again = match version {
        ProtocolVersion::V5 => mqtt_proto::v5::Packet::decode(bytes).ok()??.encode().ok()?,
        _ => mqtt_proto::v3::Packet::decode(bytes).ok()??.encode().ok()?,
    };
    Some(Bytes::copy_from_slice(again.as_ref()))
}

/// What `rmqtt-codec` makes of `bytes`, said again in its own words; `None` where it refuses them.
fn through_rmqtt(version: ProtocolVersion, bytes: &[u8]) -> Option<Bytes> {
    use rmqtt_codec::{MqttCodec, v3, v5};
    let mut codec = match version {
        ProtocolVersion::V5 => MqttCodec::V5(v5::Codec::new(0, 0)),
        _ => MqttCodec::V3(v3::Codec::new(0)),
    };
    let (packet, _) = codec.decode(&mut BytesMut::from(bytes)).ok()??;
    let mut again = BytesMut::new();
    codec.encode(packet, &mut again).ok()?;
    Some(again.freeze())
}

/// What `mqtt-proto` keeps: it writes the failure of a SUBACK of 3.1.1 as 3 and not as 0x80.
fn survives_mqtt_proto(version: ProtocolVersion, packet: &Packet) -> bool {
    match packet {
        Packet::SubAck(suback) if version != ProtocolVersion::V5 => {
            suback.reasons.iter().all(|reason| !reason.is_error())
        }
        _ => true,
    }
}

/// What `rmqtt-codec` keeps: it writes CONNECT of 3.1 with the level of 3.1.1.
fn survives_rmqtt(version: ProtocolVersion, packet: &Packet) -> bool {
    !(version == ProtocolVersion::V31 && matches!(packet, Packet::Connect(_)))
}

/// `packet` without the properties that say what their absence says, which `rmqtt-codec` does not tell apart.
fn without_defaults(mut packet: Packet) -> Packet {
    fn drop_default<T: PartialEq>(place: &mut Option<T>, default: T) {
        place.take_if(|value| *value == default);
    }
    match &mut packet {
        Packet::Connect(connect) => {
            let properties = &mut connect.properties;
            drop_default(&mut properties.session_expiry_secs, 0);
            drop_default(&mut properties.receive_maximum, u16::MAX);
            drop_default(&mut properties.topic_alias_maximum, 0);
            drop_default(&mut properties.request_response_information, false);
            drop_default(&mut properties.request_problem_information, true);
        }
        Packet::ConnAck(connack) => {
            let properties = &mut connack.properties;
            drop_default(&mut properties.receive_maximum, u16::MAX);
            drop_default(&mut properties.topic_alias_maximum, 0);
            for flag in [
                &mut properties.retain_available,
                &mut properties.wildcard_available,
                &mut properties.subscription_ids_available,
                &mut properties.shared_available,
            ] {
                drop_default(flag, true);
            }
        }
        Packet::Publish(publish) => {
            if let Some(properties) = &mut publish.properties {
                drop_default(&mut properties.payload_is_utf8, false);
            }
            publish.properties.take_if(|properties| properties.is_empty());
        }
        _ => {}
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn to_encode_and_to_decode_is_identity((version, side, place, packet) in any_packet()) {
        let bytes = encoded(&packet, version);
        prop_assert_eq!(encoded_len(&packet, version), bytes.len());
        let decoded = decode_all(wide_decoder(version, side, place), bytes);
        prop_assert_eq!(decoded, Ok(vec![packet]));
    }

    #[test]
    fn any_split_of_a_stream_gives_the_same_packets(
        (version, side, packets) in conversation(),
        cuts in vec(any::<usize>(), 0..40),
    ) {
        let mut bytes = BytesMut::new();
        for packet in &packets {
            encode(packet, version, &mut bytes);
        }
        let decoded = decode_in_pieces(wide_decoder(version, side, Place::Later), &bytes.freeze(), &cuts);
        prop_assert_eq!(decoded, Ok(packets));
    }

    #[test]
    fn any_split_of_arbitrary_bytes_gives_the_same_packets_and_the_same_error(
        (version, side) in version_and_side(),
        place in prop_oneof![Just(Place::First), Just(Place::Later)],
        bytes in vec(any::<u8>(), 0..200),
        cuts in vec(any::<usize>(), 0..20),
    ) {
        let bytes = Bytes::from(bytes);
        let at_once = decode_all(decoder(version, side, place), bytes.clone());
        let in_pieces = decode_in_pieces(decoder(version, side, place), &bytes, &cuts);
        prop_assert_eq!(at_once, in_pieces);
    }

    #[test]
    fn a_valid_packet_with_bytes_changed_is_refused_or_reads_as_a_packet_that_encodes_again(
        (version, side, place, packet) in any_packet(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = BytesMut::from(&encoded(&packet, version)[..]);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let mut decoder = wide_decoder(version, side, place);
        decoder.feed(bytes.freeze());
        if let Ok(Some(packet)) = decoder.poll_packet() {
            let version = decoder.version().unwrap();
            let again = decode_all(wide_decoder(version, side, place), encoded(&packet, version));
            prop_assert_eq!(again, Ok(vec![packet]));
        }
    }

    #[test]
    fn mqtt_proto_reads_and_writes_the_same_packets((version, side, place, packet) in any_packet()) {
        prop_assume!(survives_mqtt_proto(version, &packet));
        let bytes = encoded(&packet, version);
        let again = through_mqtt_proto(version, &bytes);
        prop_assume!(again.is_some());
        let decoded = decode_all(wide_decoder(version, side, place), again.unwrap());
        prop_assert_eq!(decoded, Ok(vec![packet]));
    }

    #[test]
    fn rmqtt_codec_reads_and_writes_the_same_packets((version, side, place, packet) in any_packet()) {
        prop_assume!(survives_rmqtt(version, &packet));
        let bytes = encoded(&packet, version);
        let again = through_rmqtt(version, &bytes);
        prop_assume!(again.is_some());
        let decoded = decode_all(wide_decoder(version, side, place), again.unwrap());
        let decoded = decoded.map(|packets| packets.into_iter().map(without_defaults).collect());
        prop_assert_eq!(decoded, Ok(vec![without_defaults(packet)]));
    }
}
