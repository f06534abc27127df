//! A listener without descriptors. In a program of its own, for the limit on descriptors holds for all of it.

#![allow(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tidegate::net::listener::{Listener, ListenerSettings, raise_descriptor_limit};
use tokio::task::LocalSet;

#[tokio::test]
async fn without_descriptors_clients_are_closed_on_without_spinning_and_served_again_when_there_are_some() {
    const WAITING: usize = 100;
    let listener = Rc::new(Listener::bind(settings(), None).unwrap());
    let address = listener.local_addr().into();
    let new_socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let sockets: Vec<_> = (0..WAITING).map(|_| new_socket()).collect();
    let late = new_socket();

    let before = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(256),
            ..before
        },
    )
    .unwrap();
    let fillers: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for socket in &sockets {
        socket.connect(&address).unwrap();
    }

    LocalSet::new()
        .run_until(async {
            let accepting = Rc::clone(&listener);
            let accepted = tokio::task::spawn_local(async move { accepting.accept().await });
            until(|| listener.counters().shed == WAITING as u64).await;
            for socket in sockets {
                let mut stream = TcpStream::from(socket);
                assert_eq!(
                    stream.read(&mut [0]).unwrap(),
                    0,
                    "expected the listener to close"
                );
            }
            // Each failure closed on many and was followed by a pause; a spinning listener would fail without
            // end.
            let failures = listener.counters().shortages;
            assert!(
                (1..=8).contains(&failures),
                "failed {failures} times for {WAITING} connections"
            );
            assert_eq!(listener.counters().accepted, 0);

            let raised = raise_descriptor_limit().unwrap();
            assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
            assert!(raised > 256, "the test needs a limit that can be raised");
            late.connect(&address).unwrap();
            let accepted = accepted.await.unwrap();
            assert_eq!(accepted.peer(), late.local_addr().unwrap().as_socket().unwrap());
            assert_eq!(listener.counters().accepted, 1);
        })
        .await;
    drop(fillers);
}

fn settings() -> ListenerSettings {
    ListenerSettings {
        name: "test".to_owned(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        tls: None,
        connections_max: 1000,
        pending_max: 64,
        pending_per_address_max: 8,
        handshake_timeout: Duration::from_secs(60),
    }
}

/// Lets the other tasks run until `state` holds.
async fn until(state: impl Fn() -> bool) {
    while !state() {
        tokio::task::yield_now().await;
    }
}
