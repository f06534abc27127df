//! The server's end of a connection, for tests that script what it says.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "a test that panics has failed; not every test needs all of it"
)]

use std::future::poll_fn;

use tidegate::mqtt::Packet;
use tidegate::net::link::{Buffers, Link, Stream};
use tokio::net::TcpListener;

/// The server's end of one connection.
pub struct Peer {
    link: Link,
    buffers: Buffers,
}

impl Peer {
    pub async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        Self::new(Stream::Tcp(stream))
    }

    pub fn new(stream: Stream) -> Self {
        Self {
            link: Link::server(stream, 1024 * 1024),
            buffers: Buffers::new(),
        }
    }

    /// Accepts, and answers CONNECT with success.
    pub async fn welcome(listener: &TcpListener) -> Self {
        let mut peer = Self::accept(listener).await;
        assert!(matches!(peer.hear().await, Some(Packet::Connect(_))));
        peer.say(Packet::ConnAck(Box::default())).await;
        peer
    }

    pub async fn hear(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.link.poll_packet().expect("the client sends MQTT") {
                return Some(packet);
            }
            if let Ok(0) | Err(_) = poll_fn(|cx| self.link.poll_receive(cx, &mut self.buffers)).await {
                return None;
            }
        }
    }

    pub async fn say(&mut self, packet: Packet) {
        self.link.send(&packet, &mut self.buffers);
        poll_fn(|cx| self.link.poll_flush(cx, &mut self.buffers))
            .await
            .unwrap();
    }
}

/// Runs a test on this thread.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
