//! What stands at an edge: of a packet, of a read, of the standard. Everything else is tested with the codec and the
//! core; here it comes through sockets.

mod catalogue;
mod running;
mod witness;

use std::collections::BTreeSet;

use bytes::BytesMut;
use catalogue::{Place, greeting, malformed, valid};
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use running::{Peer, client_id, connect, farewell_for_good, publish, stored};
use witness::{DOORS, Setup, watched};

#[test]
fn every_packet_cut_at_every_byte_by_the_end_of_its_connection_leaves_nothing() {
    let mut cuts = 0;
    watched(Setup::default(), async |program| {
        for entry in valid().into_iter().filter(|entry| entry.side == Side::Server) {
            for cut in 0..entry.bytes.len() {
                let mut bytes = BytesMut::new();
                if entry.place == Place::Later {
                    bytes.extend_from_slice(&greeting(entry.version, Side::Server));
                }
                bytes.extend_from_slice(&entry.bytes[..cut]);
                let mut stream = program.stream().await;
                stream.write_all(&bytes).await.expect("the gateway takes it");
                cuts += 1;
                if cuts % 2 == 0 {
                    stream.set_zero_linger().expect("the option is known");
                } else {
                    stream.shutdown().await.expect("the stream stands");
                    // With CONNACK or without: it need not be written any more once the end was read.
                    stream.read_to_end(&mut Vec::new()).await.expect(entry.name);
                }
            }
        }
    });
    assert!(cuts > 1000, "the catalogue has lost its packets");
}

#[test]
fn every_malformed_packet_ends_its_connection() {
    // The bound the catalogue was written for.
    assert_eq!(catalogue::PACKET_BYTES_MAX, 2048);
    let setup = Setup {
        limits: "packet_bytes_max = '2 KiB'\nwill_bytes_max = '1 KiB'",
        ..Setup::default()
    };
    watched(setup, async |program| {
        for entry in malformed().into_iter().filter(|entry| entry.side == Side::Server) {
            let mut stream = program.stream().await;
            let mut bytes = BytesMut::new();
            if entry.place == Place::Later {
                bytes.extend_from_slice(&greeting(entry.version, Side::Server));
            }
            bytes.extend_from_slice(&entry.bytes);
            stream.write_all(&bytes).await.expect("the gateway takes it");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect(entry.name);
        }
    });
}

/// What the gateway reads at most in one go.
const READ_BYTES: usize = 64 * 1024;

#[test]
fn packets_that_end_at_or_near_the_end_of_a_read_are_heard_whole_through_every_door() {
    watched(Setup::default(), async |program| {
        let mut reader = program.peer(connect("reader")).await;
        reader.subscribe("edge", QoS::AtMostOnce).await;
        for door in &DOORS {
            let talker = connect("talker");
            let mut peer = program
                .stranger_at(door, &talker)
                .await
                .expect("the door is open");
            peer.enter(talker).await;
            for reads in [1, 2] {
                for beyond in -6..=6 {
                    let end = (reads * READ_BYTES).checked_add_signed(beyond).expect("small");
                    let packets = packets_of(end);
                    // All of it waits in the socket when the gateway reads, as far as the socket takes it.
                    program
                        .frozen(async {
                            packets.iter().for_each(|packet| peer.prepare(packet));
                            peer.say_rest_now().await
                        })
                        .await;
                    peer.finish_saying().await.expect("the gateway listens");
                    for packet in &packets {
                        let Packet::Publish(said) = packet else {
                            panic!("only messages are said")
                        };
                        let heard = reader.hear_publish().await;
                        assert!(heard.payload == said.payload, "another message at {end}");
                        match peer.hear().await {
                            Some(Packet::PubAck(ack)) => assert_eq!(Some(ack.packet_id), said.packet_id),
                            other => panic!("expected PUBACK, found {other:?}"),
                        }
                    }
                }
            }
            peer.ping().await;
        }
    });
}

/// Messages that take `bytes` on the wire, the last of them ten.
fn packets_of(bytes: usize) -> Vec<Packet> {
    const LARGE: usize = 9_000;
    /// The fixed header, which says the length in two bytes, the topic, and the packet identifier.
    const HEAD: usize = 1 + 2 + 2 + 4 + 2 + 1;
    let mut packets = Vec::new();
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        number += 1;
        let wire = match left {
            left if left > 2 * LARGE => LARGE,
            left if left > LARGE => left - 300,
            left => left,
        };
        let fill = u8::try_from(number).expect("few");
        packets.push(publish("edge", vec![fill; wire - HEAD], Some(number)));
        left -= wire;
    }
    let mut encoded = BytesMut::new();
    for packet in &packets {
        encode(packet, ProtocolVersion::V5, &mut encoded);
    }
    assert_eq!(encoded.len(), bytes);
    packets
}

#[test]
fn a_second_connect_ends_the_connection_and_the_session_is_as_it_was() {
    watched(Setup::default(), async |program| {
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            let connect = Connect {
                version,
                ..stored("twice")
            };
            let mut peer = Peer::stranger(program.stream().await, version);
            assert!(!peer.enter(connect.clone()).await);
            peer.subscribe("twice", QoS::AtLeastOnce).await;
            // In one breath with what must not be heard any more.
            peer.prepare(&Packet::Connect(Box::new(Connect {
                clean_start: true,
                ..connect.clone()
            })));
            peer.prepare(&publish("twice", "never", None));
            peer.finish_saying().await.expect("the gateway listens");
            match version {
                ProtocolVersion::V5 => peer.hear_farewell(ReasonCode::ProtocolError).await,
                _ => assert_eq!(peer.hear().await, None),
            }
            let mut back = Peer::stranger(program.stream().await, version);
            let was_present = back.enter(connect.clone()).await;
            assert!(
                was_present || version == ProtocolVersion::V31,
                "3.1 cannot say so"
            );
            back.say(&publish("twice", "heard", None)).await;
            assert_eq!(back.hear_publish().await.payload, "heard");
            back.ping().await;
            drop(back);
            let mut last = Peer::stranger(program.stream().await, version);
            last.enter(Connect {
                version,
                ..running::connect("twice")
            })
            .await;
        }
    });
}

#[test]
fn an_empty_client_id_is_given_a_name_where_the_version_allows_it_and_refused_where_it_does_not() {
    let nameless = |version, clean_start| Connect {
        version,
        clean_start,
        client_id: None,
        properties: ConnectProperties {
            session_expiry_secs: Some(300),
            ..ConnectProperties::default()
        },
        ..connect("unused")
    };
    watched(Setup::default(), async |program| {
        for (version, clean_start) in [
            (ProtocolVersion::V31, true),
            (ProtocolVersion::V31, false),
            (ProtocolVersion::V311, false),
        ] {
            let mut peer = Peer::stranger(program.stream().await, version);
            let connack = peer.knock(nameless(version, clean_start)).await;
            assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
            assert_eq!(peer.hear().await, None);
        }
        let mut old = program.peer(nameless(ProtocolVersion::V311, true)).await;
        old.ping().await;

        let mut names = BTreeSet::new();
        for clean_start in [true, false] {
            for _ in 0..10 {
                let mut peer = Peer::stranger(program.stream().await, ProtocolVersion::V5);
                let connack = peer.knock(nameless(ProtocolVersion::V5, clean_start)).await;
                assert_eq!(
                    (connack.reason, connack.session_present),
                    (ReasonCode::Success, false)
                );
                let name = connack.properties.assigned_client_id.expect("a name is given");
                let name = name.as_str().to_owned();
                assert!(names.insert(name.clone()), "{name} is given twice");
                drop(peer);
                // The name leads back to the session.
                let mut back = Peer::stranger(program.stream().await, ProtocolVersion::V5);
                let by_name = Connect {
                    client_id: client_id(&name),
                    ..nameless(ProtocolVersion::V5, false)
                };
                assert!(back.enter(by_name).await, "{name} is not known any more");
                back.say(&farewell_for_good()).await;
                assert_eq!(back.hear().await, None);
            }
        }
    });
}
