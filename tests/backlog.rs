//! What waits for clients that are away, through a running gateway: it drains when they come back, and where it is full
//! its publishers wait.

mod running;

use tidegate::broker::{Overflow, QueueClass};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use tidegate::storage;

use running::{Doors, Peer, connect, publish, settings, stored, with_gateway};

/// Publishes `numbers` on `flood` at QoS 1, and hears each acknowledged.
async fn flood(publisher: &mut Peer, numbers: std::ops::Range<u16>) {
    for number in numbers.clone() {
        publisher.prepare(&publish("flood", number.to_string(), Some(number + 1)));
    }
    publisher.finish_saying().await.expect("the gateway listens");
    for _ in numbers {
        match publisher.hear().await {
            Some(Packet::PubAck(ack)) => assert!(!ack.reason.is_error(), "{ack:?}"),
            other => panic!("expected PUBACK, found {other:?}"),
        }
    }
}

/// A session that has subscribed to `flood`, its client away.
async fn absent(doors: &Doors, name: &str) {
    let mut reader = doors.peer(stored(name)).await;
    reader.subscribe("flood", QoS::AtLeastOnce).await;
}

#[test]
fn a_thousand_messages_for_each_of_a_hundred_clients_drain_without_a_pause() {
    const CLIENTS: usize = 100;
    const MESSAGES: u16 = 1000;
    with_gateway(settings(), async |doors| {
        for client in 0..CLIENTS {
            absent(doors, &format!("reader-{client}")).await;
        }
        let mut publisher = doors.peer(connect("publisher")).await;
        for hundred in 0..MESSAGES / 100 {
            flood(&mut publisher, hundred * 100..(hundred + 1) * 100).await;
        }
        let mut readers = Vec::with_capacity(CLIENTS);
        for client in 0..CLIENTS {
            let mut reader = doors.peer(stored(&format!("reader-{client}"))).await;
            readers.push(tokio::task::spawn_local(async move {
                for number in 0..MESSAGES {
                    let publish = reader.hear_publish().await;
                    assert_eq!(publish.payload, number.to_string());
                    assert!(!publish.dup);
                    reader.acknowledge(publish.packet_id).await;
                }
                reader.ping().await;
            }));
        }
        for reader in readers {
            reader.await.expect("it hears everything");
        }
    });
}

#[test]
fn an_older_publisher_that_found_no_room_goes_on_when_the_reader_is_back() {
    let mut settings = settings();
    settings.limits.queue_class = QueueClass::N16;
    settings.limits.queue_overflow = Overflow::Reject;
    with_gateway(settings, async |doors| {
        absent(doors, "reader").await;
        let mut older = doors
            .peer(Connect {
                version: ProtocolVersion::V311,
                ..connect("older")
            })
            .await;
        flood(&mut older, 0..16).await;
        // More than it is read with one of them waiting.
        for number in 16..60 {
            older.prepare(&publish("flood", number.to_string(), Some(number + 1)));
        }
        older.finish_saying().await.expect("the socket takes it");
        let mut newer = doors.peer(connect("newer")).await;
        newer.say(&publish("flood", "told", Some(1))).await;
        match newer.hear().await {
            Some(Packet::PubAck(ack)) => assert_eq!(ack.reason, ReasonCode::QuotaExceeded),
            other => panic!("expected PUBACK, found {other:?}"),
        }
        let mut reader = doors.peer(stored("reader")).await;
        for number in 0..60 {
            let publish = reader.hear_publish().await;
            assert_eq!(publish.payload, number.to_string());
            reader.acknowledge(publish.packet_id).await;
        }
        for number in 16..60 {
            match older.hear().await {
                Some(Packet::PubAck(ack)) => assert_eq!(ack.packet_id.get(), number + 1),
                other => panic!("expected PUBACK, found {other:?}"),
            }
        }
    });
}

#[test]
fn a_reader_that_is_to_go_when_its_queue_is_full_is_told_and_finds_no_session() {
    let mut settings = settings();
    settings.limits.queue_class = QueueClass::N16;
    settings.limits.queue_overflow = Overflow::Disconnect;
    settings.limits.inflight_max = 1;
    with_gateway(settings, async |doors| {
        let mut reader = doors.peer(stored("reader")).await;
        reader.subscribe("flood", QoS::AtLeastOnce).await;
        let mut publisher = doors.peer(connect("publisher")).await;
        // One in flight, sixteen that wait, and one too many.
        flood(&mut publisher, 0..18).await;
        reader.hear_farewell(ReasonCode::QuotaExceeded).await;
        let mut reader = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
        assert!(!reader.enter(stored("reader")).await);
    });
}

#[test]
fn what_is_beyond_a_queue_waits_in_the_journal_and_comes_in_its_order_also_after_a_restart() {
    const MESSAGES: u16 = 3000;
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = settings();
    settings.limits.queue_class = QueueClass::N16;
    settings.storage = Some(storage::Settings {
        directory: folder.path().join("state"),
        journal: storage::JournalSettings::default(),
    });
    let drained = async |doors: &Doors, name: &str, numbers: std::ops::Range<u16>| {
        let mut reader = doors.peer(stored(name)).await;
        for number in numbers {
            let publish = reader.hear_publish().await;
            assert_eq!(publish.payload, number.to_string());
            reader.acknowledge(publish.packet_id).await;
        }
        // Whatever more it is sent meanwhile it does not acknowledge.
        reader.say(&Packet::PingReq).await;
        while reader.hear().await != Some(Packet::PingResp) {}
    };
    with_gateway(settings.clone(), async |doors| {
        for name in ["one", "two", "three"] {
            absent(doors, name).await;
        }
        let mut publisher = doors.peer(connect("publisher")).await;
        for hundred in 0..MESSAGES / 100 {
            flood(&mut publisher, hundred * 100..(hundred + 1) * 100).await;
        }
        drained(doors, "one", 0..MESSAGES).await;
        drained(doors, "two", 0..MESSAGES / 2).await;
    });
    with_gateway(settings, async |doors| {
        drained(doors, "two", MESSAGES / 2..MESSAGES).await;
        drained(doors, "three", 0..MESSAGES).await;
    });
}
