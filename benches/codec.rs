//! The hot path of the codec, a 64-byte PUBLISH at QoS 0, beside two published crates.
//!
//! ```text
//! cargo bench --bench codec
//! ```

use bytes::{Bytes, BytesMut};
use divan::{Bencher, black_box};
use tidegate::mqtt::{Decoder, Packet, ProtocolVersion, Publish, QoS, TopicName, encode};
use tokio_util::codec::{Decoder as _, Encoder as _};

fn main() {
    divan::main();
}

/// How many packets lie in one read, as under load; each figure is for all of them.
const PACKETS: usize = 100;

const TOPIC: &str = "site/line4/temperature";

fn publish() -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::try_from(TOPIC).expect("a topic name")),
        packet_id: None,
        payload: Bytes::from_static(&[b'7'; 64]),
        properties: None,
    })
}

/// One read: `PACKETS` times the same PUBLISH.
fn read(version: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    for _ in 0..PACKETS {
        encode(&publish(), version, &mut out);
    }
    out.freeze()
}

/// A decoder that has read its CONNECT.
fn connected(version: ProtocolVersion) -> Decoder {
    let mut decoder = Decoder::server(1 << 20);
    let connect: &[u8] = match version {
        ProtocolVersion::V5 => b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c",
        _ => b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c",
    };
    decoder.feed(Bytes::from_static(connect));
    assert!(matches!(decoder.poll_packet(), Ok(Some(_))));
    decoder
}

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

#[divan::bench(args = VERSIONS)]
fn decode_100_ours(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let bytes = read(version);
    let mut decoder = connected(version);
    bencher.bench_local(|| {
        decoder.feed(bytes.clone());
        let mut count = 0;
        while let Ok(Some(packet)) = decoder.poll_packet() {
            black_box(&packet);
            count += 1;
        }
        assert_eq!(count, PACKETS);
    });
}

#[divan::bench(args = VERSIONS)]
fn decode_100_rmqtt(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    use rmqtt_codec::{MqttCodec, v3, v5};
    let bytes = read(version);
    let mut codec = match version {
        ProtocolVersion::V5 => MqttCodec::V5(v5::Codec::new(0, 0)),
        _ => MqttCodec::V3(v3::Codec::new(0)),
    };
    bencher
        .with_inputs(|| BytesMut::from(&bytes[..]))
        .bench_local_refs(|bytes| {
            let mut count = 0;
            while let Ok(Some(packet)) = codec.decode(bytes) {
                black_box(&packet);
                count += 1;
            }
            assert_eq!(count, PACKETS);
        });
}

#[divan::bench(args = VERSIONS)]
fn decode_100_mqtt_proto(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let bytes = read(version);
    let len = bytes.len() / PACKETS;
    bencher.bench_local(|| {
        for one in bytes.chunks_exact(len) {
            match version {
                ProtocolVersion::V5 => {
                    black_box(&mqtt_proto::v5::Packet::decode(one).expect("a valid packet"));
                }
                _ => {
                    black_box(&mqtt_proto::v3::Packet::decode(one).expect("a valid packet"));
                }
            }
        }
    });
}

#[divan::bench(args = VERSIONS)]
fn encode_100_ours(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let packet = publish();
    let mut out = BytesMut::with_capacity(1 << 16);
    bencher.bench_local(|| {
        out.clear();
        for _ in 0..PACKETS {
            encode(black_box(&packet), version, &mut out);
        }
        black_box(&out);
    });
}

#[divan::bench(args = VERSIONS)]
fn encode_100_rmqtt(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
    let mut bytes = BytesMut::from(&read(version)[..]);
    let mut codec = match version {
        ProtocolVersion::V5 => MqttCodec::V5(v5::Codec::new(0, 0)),
        _ => MqttCodec::V3(v3::Codec::new(0)),
    };
    let (packet, _) = codec
        .decode(&mut bytes)
        .expect("a valid packet")
        .expect("a whole packet");
    let mut out = BytesMut::with_capacity(1 << 16);
    bencher.bench_local(|| {
        out.clear();
        for _ in 0..PACKETS {
            // Its encoder takes the packet over, so a packet for many receivers is cloned.
            let packet = match black_box(&packet) {
                MqttPacket::V5(packet) => MqttPacket::V5(packet.clone()),
                MqttPacket::V3(packet) => MqttPacket::V3(packet.clone()),
                MqttPacket::Version(version) => MqttPacket::Version(*version),
            };
            codec.encode(packet, &mut out).expect("a valid packet");
        }
        black_box(&out);
    });
}

#[divan::bench(args = VERSIONS)]
fn encode_100_mqtt_proto(bencher: Bencher<'_, '_>, version: ProtocolVersion) {
    let bytes = read(version);
    let one = &bytes[..bytes.len() / PACKETS];
    let mut out = BytesMut::with_capacity(1 << 16);
    match version {
        ProtocolVersion::V5 => {
            let packet = mqtt_proto::v5::Packet::decode(one)
                .expect("a valid packet")
                .expect("a whole packet");
            bencher.bench_local(|| {
                out.clear();
                for _ in 0..PACKETS {
                    out.extend_from_slice(black_box(&packet).encode().expect("a valid packet").as_ref());
                }
                black_box(&out);
            });
        }
        _ => {
            let packet = mqtt_proto::v3::Packet::decode(one)
                .expect("a valid packet")
                .expect("a whole packet");
            bencher.bench_local(|| {
                out.clear();
                for _ in 0..PACKETS {
                    out.extend_from_slice(black_box(&packet).encode().expect("a valid packet").as_ref());
                }
                black_box(&out);
            });
        }
    }
}
