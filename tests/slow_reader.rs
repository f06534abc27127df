//! A subscriber that stops reading, so that its window closes: what it costs, whom it disturbs, and what it finds when
//! it reads again.

mod running;
mod witness;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::BytesMut;
use tidegate::mqtt::{Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, encode};

use running::{Peer, connect, farewell_for_good, publish, stored};
use witness::{Program, Setup, watched};

/// Of the broker's default limits: bytes handed to one connection and not yet out.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Large enough that a flood fills a socket, small enough that the window bites in the middle of many.
const PAYLOAD_BYTES: usize = 16 * 1024;

#[test]
fn a_flood_at_qos_0_fills_one_window_of_a_subscriber_that_does_not_read_and_no_more() {
    const FLOOD: u32 = 1000;
    watched(Setup::default(), async |program| {
        let (mut sleeper, address) = narrow_peer(program, connect("sleeper")).await;
        sleeper.subscribe("flood", QoS::AtMostOnce).await;
        let mut reader = program.peer(connect("reader")).await;
        reader.subscribe("flood", QoS::AtMostOnce).await;
        let mut publisher = program.peer(connect("publisher")).await;
        flood(&mut publisher, &mut reader, QoS::AtMostOnce, 0..FLOOD).await;
        let told = ["limit reached", "unsent_bytes_max", "\"sleeper\""];
        program.until_logged(&told, 1).await;

        // Whoever does not read is heard all the same, and a word of his opens no second window.
        reader.subscribe("word", QoS::AtMostOnce).await;
        for number in FLOOD..FLOOD + 100 {
            sleeper.say(&publish("word", "I am here", None)).await;
            assert_eq!(reader.hear_publish().await.payload, "I am here");
            flood(&mut publisher, &mut reader, QoS::AtMostOnce, number..number + 1).await;
        }
        let in_kernel = program.bytes_in_kernel(address);
        assert!(in_kernel > PAYLOAD_BYTES, "the window is closed");

        let heard: Vec<u32> = hear_until_ping(&mut sleeper)
            .await
            .iter()
            .map(number_of)
            .collect();
        assert!(
            heard.windows(2).all(|pair| pair[0] < pair[1]),
            "out of order: {heard:?}"
        );
        let message_bytes = wire_bytes(&numbered(0, QoS::AtMostOnce));
        let held_by_gateway = (heard.len() * message_bytes).saturating_sub(in_kernel);
        assert!(
            held_by_gateway <= UNSENT_BYTES_MAX + message_bytes,
            "the gateway held {held_by_gateway} bytes"
        );
        // And again as if nothing had been.
        flood(&mut publisher, &mut reader, QoS::AtMostOnce, 5000..5010).await;
        for number in 5000..5010 {
            assert_eq!(number_of(&sleeper.hear_publish().await), number);
        }
        sleeper.ping().await;
    });
}

#[test]
fn a_flood_at_qos_1_stops_at_the_receive_maximum_and_then_the_oldest_give_way() {
    let setup = Setup {
        limits: "inflight_max = 20\nqueue_messages_max = 64\nqueue_bytes_max = '8 MiB'",
        ..Setup::default()
    };
    flood_a_sleeper_at_qos_1(setup, |_| FLOOD - 64..FLOOD);
}

#[test]
fn a_flood_at_qos_1_stops_at_the_receive_maximum_and_then_the_newest_give_way_where_it_is_set_so() {
    let setup = Setup {
        limits: "inflight_max = 20\nqueue_messages_max = 64\nqueue_bytes_max = '8 MiB'\nqueue_overflow = 'drop-newest'",
        ..Setup::default()
    };
    flood_a_sleeper_at_qos_1(setup, |inflight| inflight..inflight + 64);
}

/// Messages of a flood at QoS 1.
const FLOOD: u32 = 400;

/// The sleeper must find what was in flight when it closed its eyes and then the messages `kept` says, given how many
/// were in flight: in order, each once.
fn flood_a_sleeper_at_qos_1(setup: Setup, kept: impl Fn(u32) -> Range<u32>) {
    let of_version = |version| Connect {
        version,
        ..connect("sleeper")
    };
    let modest = Connect {
        properties: ConnectProperties {
            receive_maximum: Some(10),
            ..ConnectProperties::default()
        },
        ..connect("sleeper")
    };
    watched(setup, async |program| {
        let mut publisher = program.peer(connect("publisher")).await;
        let mut reader = program.peer(connect("reader")).await;
        reader.subscribe("flood", QoS::AtLeastOnce).await;
        for (connect, inflight) in [
            (modest, 10),
            (of_version(ProtocolVersion::V5), 20),
            (of_version(ProtocolVersion::V311), 20),
        ] {
            let (mut sleeper, address) = narrow_peer(program, connect).await;
            sleeper.subscribe("flood", QoS::AtLeastOnce).await;
            flood(&mut publisher, &mut reader, QoS::AtLeastOnce, 0..FLOOD).await;
            assert!(
                program.bytes_in_kernel(address) > PAYLOAD_BYTES,
                "the window is closed"
            );

            // Nothing is acknowledged yet: no more than the window comes.
            let mut unacknowledged = hear_until_ping(&mut sleeper).await;
            let numbers: Vec<u32> = unacknowledged.iter().map(number_of).collect();
            assert_eq!(numbers, (0..inflight).collect::<Vec<_>>());
            sleeper.ping().await;

            // Each acknowledgement makes room for one.
            for number in kept(inflight) {
                let oldest = unacknowledged.pop_front().and_then(|publish| publish.packet_id);
                sleeper.acknowledge(oldest).await;
                let publish = sleeper.hear_publish().await;
                assert!(!publish.dup, "nothing is sent again while the connection stands");
                assert_eq!(number_of(&publish), number);
                unacknowledged.push_back(publish);
            }
            for publish in unacknowledged {
                sleeper.acknowledge(publish.packet_id).await;
            }
            sleeper.ping().await;
            // And on as if nothing had been.
            flood(&mut publisher, &mut reader, QoS::AtLeastOnce, FLOOD..FLOOD + 10).await;
            for number in FLOOD..FLOOD + 10 {
                let publish = sleeper.hear_publish().await;
                assert_eq!(number_of(&publish), number);
                sleeper.acknowledge(publish.packet_id).await;
            }
            sleeper.say(&farewell_for_good()).await;
            assert_eq!(sleeper.hear().await, None);
        }
        program
            .until_logged(&["limit reached", "queue_class", "\"sleeper\""], 3)
            .await;
    });
}

#[test]
fn a_subscriber_that_never_reads_again_is_ended_by_its_keep_alive_and_finds_its_messages_when_it_returns() {
    let setup = Setup {
        limits: "queue_messages_max = 64\nqueue_bytes_max = '8 MiB'\ninflight_max = 20",
        ..Setup::default()
    };
    watched(setup, async |program| {
        let silent = Connect {
            keep_alive_secs: 1,
            ..stored("sleeper")
        };
        let (mut sleeper, address) = narrow_peer(program, silent).await;
        sleeper.subscribe("flood", QoS::AtLeastOnce).await;
        let mut reader = program.peer(connect("reader")).await;
        reader.subscribe("flood", QoS::AtLeastOnce).await;
        let mut publisher = program.peer(connect("publisher")).await;
        flood(&mut publisher, &mut reader, QoS::AtLeastOnce, 0..80).await;
        assert!(
            program.bytes_in_kernel(address) > PAYLOAD_BYTES,
            "the window is closed"
        );
        let ended = ["client disconnected", "\"sleeper\"", "keep alive timeout"];
        program.until_logged(&ended, 1).await;

        let mut heir = Peer::stranger(program.stream().await, ProtocolVersion::V5);
        assert!(heir.enter(stored("sleeper")).await, "the session is kept");
        for number in 0..80 {
            let publish = heir.hear_publish().await;
            assert_eq!((number_of(&publish), publish.dup), (number, number < 20));
            heir.acknowledge(publish.packet_id).await;
        }
        heir.ping().await;
        heir.say(&farewell_for_good()).await;
        assert_eq!(heir.hear().await, None);
        drop(sleeper); // it has not noticed
    });
}

/// A client with so little room to receive that its window is soon closed, and where it speaks from.
async fn narrow_peer(program: &Program, connect: Connect) -> (Peer, SocketAddr) {
    let stream = program.narrow_stream().await;
    let address = stream.local_addr().expect("it is connected");
    (Peer::new(stream, connect).await, address)
}

/// What comes before the answer to a PINGREQ.
async fn hear_until_ping(sleeper: &mut Peer) -> VecDeque<Publish> {
    sleeper.say(&Packet::PingReq).await;
    let mut heard = VecDeque::new();
    loop {
        match sleeper.hear().await {
            Some(Packet::Publish(publish)) => heard.push_back(publish),
            other => {
                assert_eq!(other, Some(Packet::PingResp));
                return heard;
            }
        }
    }
}

/// Publishes `numbers`, in step with a reader who must miss nothing.
async fn flood(publisher: &mut Peer, reader: &mut Peer, qos: QoS, numbers: Range<u32>) {
    for number in numbers {
        publisher.say(&numbered(number, qos)).await;
        let publish = reader.hear_publish().await;
        assert_eq!(number_of(&publish), number, "a gap");
        if qos == QoS::AtLeastOnce {
            reader.acknowledge(publish.packet_id).await;
            assert!(matches!(publisher.hear().await, Some(Packet::PubAck(_))));
        }
    }
}

fn numbered(number: u32, qos: QoS) -> Packet {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(PAYLOAD_BYTES, 0);
    publish("flood", payload, (qos == QoS::AtLeastOnce).then_some(1))
}

fn number_of(publish: &Publish) -> u32 {
    let number = publish.payload.first_chunk().expect("a number comes first");
    u32::from_be_bytes(*number)
}

/// What `packet` takes on the wire.
fn wire_bytes(packet: &Packet) -> usize {
    let mut bytes = BytesMut::new();
    encode(packet, ProtocolVersion::V5, &mut bytes);
    bytes.len()
}
