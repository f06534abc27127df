//! Doors that are pushed at, held and leant on: whoever means well is served at once all the same, through every kind
//! of door there is.

mod running;
mod witness;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tidegate::mqtt::{Packet, ProtocolVersion, encode};
use tokio::io::AsyncWriteExt;

use running::connect;
use witness::{DOORS, Door, Program, Setup, slam, watched};

/// Attempts of each kind: more than may be on their way in at one time.
const ATTEMPTS: usize = 80;

/// Slow clients at one door: nearly all that may be on their way in at one time.
const SLOW: usize = 60;

#[test]
fn after_eighty_aborted_handshakes_of_each_kind_the_next_good_client_is_served() {
    watched(Setup::default(), async |program| {
        for door in &DOORS {
            for opening in openings(door) {
                for number in 0..ATTEMPTS {
                    let mut stream = program.stream_to(door.name).await;
                    // A slammed door is no failure of ours.
                    stream.write_all(&opening).await.ok();
                    if number % 2 == 0 {
                        slam(&stream);
                    }
                }
                serve_a_good_client(program, door).await;
            }
        }
    });
}

#[test]
fn while_slow_clients_hold_a_door_the_next_good_client_is_served() {
    watched(Setup::default(), async |program| {
        for door in &DOORS {
            let mut slow = Vec::new();
            for number in 0..SLOW {
                let mut stream = program.stream_to(door.name).await;
                let opening = openings(door).swap_remove(number % openings(door).len());
                stream.write_all(&opening).await.ok();
                slow.push(stream);
            }
            for _ in 0..5 {
                // A byte each, as slow loris does it.
                for stream in &mut slow {
                    stream.write_all(&[0]).await.ok();
                }
                serve_a_good_client(program, door).await;
            }
        }
    });
}

/// What an attacker says before he stops, or leaves.
fn openings(door: &Door) -> Vec<Bytes> {
    let mut connect_bytes = BytesMut::new();
    let connect = Packet::Connect(Box::new(connect("slow")));
    encode(&connect, ProtocolVersion::V5, &mut connect_bytes);
    let mut openings = vec![
        after_header(door, b""),
        after_header(door, &connect_bytes[..1]),
        after_header(door, &connect_bytes[..10]),
        after_header(door, b"GET / HTTP/1.1\r\n"),
    ];
    if !door.header.is_empty() {
        // Balancers that say nothing, stop in the middle, or pass on what is none of their protocol.
        openings.push(Bytes::new());
        openings.push(Bytes::from_static(&door.header[..1]));
        openings.push(Bytes::from_static(&door.header[..door.header.len() - 1]));
        openings.push(connect_bytes.freeze());
    }
    if matches!(door.scheme, "ws" | "wss") {
        // An upgrade that never ends, and one that nobody asked for.
        openings.push(Bytes::from_static(
            b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
        ));
        openings.push(Bytes::from_static(b"POST /mqtt HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    if matches!(door.scheme, "mqtts" | "wss") {
        let hello = client_hello();
        openings.push(hello.slice(..5)); // the head of a record
        openings.push(hello.slice(..hello.len() / 2));
        openings.push(hello); // and never an answer to the server's
    }
    openings
}

/// What comes to a door as the words of its client.
fn after_header(door: &Door, words: &[u8]) -> Bytes {
    [door.header, words].concat().into()
}

/// The first flight of a handshake that could go on.
fn client_hello() -> Bytes {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("memory takes all");
    Bytes::from(hello)
}

/// Comes in, and is answered.
async fn serve_a_good_client(program: &Program, door: &Door) {
    let good = connect("good");
    let mut peer = program.stranger_at(door, &good).await.expect("the door is open");
    peer.enter(good).await;
    peer.ping().await;
}
