//! The peer dies in the middle of what it is being sent, at every byte: the messages stay in its session, and it is
//! gone once.

mod running;
mod witness;

use bytes::{Bytes, BytesMut};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use running::{Peer, connect, publish, stored};
use witness::{Program, Setup, watched};

#[test]
fn a_peer_that_dies_at_any_byte_of_two_messages_finds_both_again_and_is_gone_once_each_time() {
    watched(Setup::default(), async |program| {
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            let payloads = ["first", "second"].map(Bytes::from);
            leave_behind(program, version, &payloads).await;
            for cut in 0..=wire_bytes(version, &payloads) {
                for reset in [false, true] {
                    let mut mortal = resume(program.stream().await, version).await;
                    mortal
                        .read_exact(&mut vec![0; cut])
                        .await
                        .expect("the gateway sends both");
                    if reset {
                        mortal.set_zero_linger().expect("the option is known");
                    }
                    die_once(program, mortal).await;
                }
            }
            find_again(program, version, &payloads).await;
        }
    });
}

#[test]
fn a_peer_that_dies_while_the_gateway_has_more_to_write_finds_everything_again() {
    // More than the kernel keeps for one socket, which is four megabytes as it comes.
    const MESSAGES: usize = 24;
    const PAYLOAD_BYTES: usize = 250_000;
    /// No divisor of anything.
    const STEP: usize = 25_013;
    let setup = Setup {
        limits: "queue_bytes_max = '8 MiB'\nunsent_bytes_max = '6 MiB'",
        ..Setup::default()
    };
    watched(setup, async |program| {
        let version = ProtocolVersion::V5;
        let payloads: [Bytes; MESSAGES] = std::array::from_fn(|number| {
            let mark = u8::try_from(number).expect("few");
            Bytes::from(vec![mark; PAYLOAD_BYTES])
        });
        leave_behind(program, version, &payloads).await;
        let all = wire_bytes(version, &payloads);
        let mut cut_by_kernel = 0;
        for cut in (0..PAYLOAD_BYTES).step_by(STEP) {
            let stream = program.narrow_stream().await;
            let address = stream.local_addr().expect("it is connected");
            let mut mortal = resume(stream, version).await;
            mortal
                .read_exact(&mut vec![0; cut])
                .await
                .expect("the gateway sends");
            cut_by_kernel += usize::from(cut + program.bytes_in_kernel(address) < all);
            die_once(program, mortal).await;
        }
        assert!(cut_by_kernel > 0, "the gateway never had to wait for the kernel");
        find_again(program, version, &payloads).await;
    });
}

/// What the log says when the peer has died.
const DEATH: [&str; 3] = ["client disconnected", "\"mortal\"", "connection lost"];

/// Drops a peer; it must be gone, and no more than once.
async fn die_once(program: &Program, mortal: TcpStream) {
    let deaths = program.count_logged(&DEATH);
    drop(mortal);
    program.until_logged(&DEATH, deaths + 1).await;
    assert_eq!(program.count_logged(&DEATH), deaths + 1);
}

/// Makes a session that has `payloads` waiting, and nobody there.
async fn leave_behind(program: &Program, version: ProtocolVersion, payloads: &[Bytes]) {
    let stream = program.stream().await;
    let mut reader = Peer::stranger(stream, version);
    assert!(!reader.enter(mortal(version)).await);
    reader.subscribe("cut", QoS::AtLeastOnce).await;
    let deaths = program.count_logged(&DEATH);
    drop(reader);
    program.until_logged(&DEATH, deaths + 1).await;
    let mut publisher = program.peer(connect("publisher")).await;
    for payload in payloads {
        publisher.say(&publish("cut", payload.clone(), Some(1))).await;
        assert!(matches!(publisher.hear().await, Some(Packet::PubAck(_))));
    }
}

/// Takes the session up again, byte by byte; what follows is what waits.
async fn resume(mut stream: TcpStream, version: ProtocolVersion) -> TcpStream {
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(mortal(version))), version, &mut bytes);
    stream.write_all(&bytes).await.expect("the gateway takes it");
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.expect("the gateway answers");
    let [kind, length, session_present, reason] = head;
    assert_eq!((kind, session_present, reason), (0x20, 1, 0));
    let rest = usize::from(length) - 2;
    stream.read_exact(&mut vec![0; rest]).await.expect("CONNACK ends");
    stream
}

/// Hears and acknowledges what nobody has acknowledged, and ends the session.
async fn find_again(program: &Program, version: ProtocolVersion, payloads: &[Bytes]) {
    let mut heir = Peer::stranger(program.stream().await, version);
    assert!(heir.enter(mortal(version)).await);
    let mut first_id = None;
    for (payload, place) in payloads.iter().zip(0..) {
        let publish = heir.hear_publish().await;
        assert!(publish.dup, "it was sent before");
        assert!(publish.payload == payload, "another message");
        let id = publish.packet_id.expect("QoS 1").get();
        assert_eq!(
            id - *first_id.get_or_insert(id),
            place,
            "another packet identifier"
        );
        heir.acknowledge(publish.packet_id).await;
    }
    heir.ping().await;
    heir.say(&Packet::Disconnect(Box::default())).await;
    assert_eq!(heir.hear().await, None);
    let mut last = Peer::stranger(program.stream().await, version);
    let clean = Connect {
        clean_start: true,
        ..connect("mortal")
    };
    assert!(!last.enter(Connect { version, ..clean }).await);
}

fn mortal(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        ..stored("mortal")
    }
}

fn wire_bytes(version: ProtocolVersion, payloads: &[Bytes]) -> usize {
    let mut bytes = BytesMut::new();
    for payload in payloads {
        encode(&publish("cut", payload.clone(), Some(1)), version, &mut bytes);
    }
    bytes.len()
}
