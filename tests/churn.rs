//! Connections that come and go by the thousand, and what they leave behind: nothing.

mod running;
mod witness;

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, Will, WillProperties, encode};
use tokio::io::AsyncWriteExt;

use running::{Peer, connect, publish, topic};
use witness::{DOORS, Program, Setup, WITNESSED, slam, watched};

/// The story this gateway was founded on. A dashboard called `bill` lost its radio again and again; after some
/// hundred resets its broker had two minds about who was connected, the will came twice or never, descriptors ran
/// out, and the sensors next door were silent.
#[test]
fn a_subscriber_that_is_killed_and_reset_thousands_of_times_disturbs_nobody_and_leaves_nothing() {
    const KILLS: usize = 2000;
    const RESETS: usize = 2000;
    watched(Setup::default(), async |program| {
        let mut heir = program.peer(connect("heir")).await;
        heir.subscribe("will/bill", QoS::AtLeastOnce).await;
        let is_done = Cell::new(false);

        let hear_wills = async {
            for _ in 0..KILLS + RESETS {
                let will = heir.hear_publish().await;
                assert_eq!(will.payload, "gone");
                heir.acknowledge(will.packet_id).await;
            }
            // Not one more: a PINGRESP comes after whatever is owed.
            while !is_done.get() {
                heir.ping().await;
            }
            heir.ping().await;
        };
        // As fast as it goes: some hundred a second, while the witness hears its two hundred messages.
        let end_bill = async {
            for round in 0..KILLS + RESETS {
                let stream = program.stream().await;
                if round % 2 == 0 {
                    // A radio that is lost sends no end of the stream; a process that is killed does.
                    stream.set_zero_linger().expect("the option is known");
                }
                let mut bill = Peer::stranger(stream, ProtocolVersion::V5);
                let was_known = bill
                    .enter(Connect {
                        clean_start: false,
                        will: will("will/bill"),
                        ..connect("bill")
                    })
                    .await;
                assert!(!was_known, "the session of round {round} outlived its connection");
                bill.subscribe(WITNESSED, QoS::AtLeastOnce).await;
                // In the middle of what it receives, and mostly before.
                if round % 20 < 2 {
                    bill.hear_publish().await;
                }
            }
            is_done.set(true);
        };
        tokio::join!(hear_wills, end_bill);
        let gone = ["client disconnected", "\"bill\"", "connection lost"];
        program.until_logged(&gone, KILLS + RESETS).await;
    });
}

#[test]
fn whoever_never_gets_as_far_as_connect_leaves_nothing() {
    let mut bytes = BytesMut::new();
    encode(
        &Packet::Connect(Box::new(connect("cut"))),
        ProtocolVersion::V5,
        &mut bytes,
    );
    encode(&publish("a", "b", None), ProtocolVersion::V5, &mut bytes);
    watched(Setup::default(), async |program| {
        let mut neighbour = program.peer(connect("neighbour")).await;
        for round in 0..1000 {
            for door in DOORS {
                half_way(program, door.name, &bytes[..round % bytes.len()], round % 2 == 0).await;
            }
            neighbour.ping().await;
        }
    });
}

/// Says `bytes` at a door and is gone.
async fn half_way(program: &Program, door: &str, bytes: &[u8], reset: bool) {
    let mut stream = program.stream_to(door).await;
    // A slammed door is no failure of ours.
    stream.write_all(bytes).await.ok();
    if reset {
        slam(&stream);
    }
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
