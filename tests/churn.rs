//! Connections that come and go by the thousand, and what they leave behind: nothing. In a program of its own, for
//! its descriptors are counted.

mod running;

use std::cell::Cell;
use std::fs;

use bytes::{Bytes, BytesMut};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, Will, WillProperties, encode};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, Notify};

use running::{
    Doors, Papers, Peer, connect, message, options, publish, settings, settings_with_tls, subscribe, topic,
    with_gateway,
};

/// One test at a time: they count the descriptors of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The story this gateway was founded on. A dashboard called `bill` lost its radio again and again; after some
/// hundred resets its broker had two minds about who was connected, the will came twice or never, descriptors ran
/// out, and the sensors next door were silent.
#[test]
fn a_subscriber_that_is_reset_two_thousand_times_disturbs_nobody_and_leaves_nothing() {
    const RESETS: usize = 2000;
    let _alone = ONE_AT_A_TIME.blocking_lock();
    with_gateway(settings(), async |doors| {
        let told = Told::default();
        let mut witness = doors.peer(connect("witness")).await;
        witness.subscribe("data/#", QoS::AtLeastOnce).await;
        witness.say(&subscribe("will/bill", QoS::AtLeastOnce)).await;
        assert!(matches!(witness.hear().await, Some(Packet::SubAck(_))));
        let mut publisher = doors.client(options("publisher")).await;
        let before = descriptors();

        let publish_until_done = async {
            while !told.is_done.get() {
                let number = told.published.get();
                told.published.set(number + 1);
                let reading = message("data/seq", number.to_string(), QoS::AtLeastOnce);
                publisher
                    .publish(reading)
                    .await
                    .expect("the gateway takes the reading");
                // Not further ahead of the witness than its queue is long.
                while number > told.heard.get() + 500 {
                    told.news.notified().await;
                }
            }
        };
        let listen_until_done = async {
            while !told.is_done.get() || told.heard.get() < told.published.get() || told.wills.get() < RESETS
            {
                let publish = witness.hear_publish().await;
                witness.acknowledge(publish.packet_id).await;
                match publish.topic.as_ref().map(|topic| topic.as_str()) {
                    Some("will/bill") => told.wills.set(told.wills.get() + 1),
                    _ => {
                        assert_eq!(publish.payload, told.heard.get().to_string(), "a gap");
                        told.heard.set(told.heard.get() + 1);
                    }
                }
                told.news.notify_waiters();
            }
        };
        let reset_bill = async {
            for round in 0..RESETS {
                let stream = doors.stream().await;
                // A radio that is lost sends no end of the stream.
                stream.set_zero_linger().expect("the option is known");
                let mut bill = Peer::new(
                    stream,
                    Connect {
                        will: will("will/bill"),
                        ..connect("bill")
                    },
                )
                .await;
                bill.subscribe("data/#", QoS::AtLeastOnce).await;
                // In the middle of what it receives, and sometimes before.
                for _ in 0..round % 4 {
                    bill.hear_publish().await;
                }
            }
            told.is_done.set(true);
        };
        tokio::join!(publish_until_done, listen_until_done, reset_bill);
        until(|| descriptors() == before).await;

        // One will for each reset, and not one more: whatever else had been sent would come before this.
        publisher
            .publish(message("data/seq", "end", QoS::AtLeastOnce))
            .await
            .expect("taken");
        assert_eq!(witness.hear_publish().await.payload, "end");
        assert_eq!(told.wills.get(), RESETS);
    });
}

#[test]
fn a_storm_of_twins_leaves_one_of_them_and_no_descriptor() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    with_gateway(settings(), async |doors| {
        let mut survivor = doors.peer(connect("twin")).await;
        let before = descriptors();
        for _ in 0..50 {
            let mut twins = Vec::new();
            for _ in 0..20 {
                let mut twin = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
                twin.say(&Packet::Connect(Box::new(connect("twin")))).await;
                twins.push(twin);
            }
            let mut alive = Vec::new();
            for mut twin in twins {
                assert!(matches!(twin.hear().await, Some(Packet::ConnAck(_))));
                // Those who were taken over may have lost the stream already.
                twin.try_say(&Packet::PingReq).await.ok();
                if twin.hear().await == Some(Packet::PingResp) {
                    alive.push(twin);
                }
            }
            assert_eq!(alive.len(), 1);
            survivor = alive.remove(0);
        }
        until(|| descriptors() == before).await;
        survivor.ping().await;
    });
}

#[test]
fn whoever_never_gets_as_far_as_connect_leaves_no_descriptor() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers), async |doors| {
        let mut witness = doors.peer(connect("witness")).await;
        let before = descriptors();
        let mut bytes = BytesMut::new();
        encode(
            &Packet::Connect(Box::new(connect("cut"))),
            ProtocolVersion::V5,
            &mut bytes,
        );
        encode(&publish("a", "b", None), ProtocolVersion::V5, &mut bytes);
        for round in 0..1000 {
            for door in ["local", "tls"] {
                half_way(doors, door, &bytes[..round % bytes.len()], round % 2 == 0).await;
            }
            witness.ping().await;
        }
        until(|| descriptors() == before).await;
        witness.ping().await;
    });
}

/// Says `bytes` at a door and is gone.
async fn half_way(doors: &Doors, door: &str, bytes: &[u8], reset: bool) {
    let address = doors.address(door);
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("the door is open");
    stream.write_all(bytes).await.expect("the gateway takes it");
    if reset {
        stream.set_zero_linger().expect("the option is known");
    }
}

/// What was published, and what the witness heard of it.
#[derive(Default)]
struct Told {
    published: Cell<u64>,
    heard: Cell<u64>,
    wills: Cell<usize>,
    is_done: Cell<bool>,
    news: Notify,
}

fn will(name: &str) -> Option<Will> {
    Some(Will {
        topic: topic(name),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: WillProperties::default(),
    })
}

/// The open descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("the system tells").count()
}

/// Lets the gateway run until `state` holds.
async fn until(state: impl Fn() -> bool) {
    while !state() {
        tokio::task::yield_now().await;
    }
}
