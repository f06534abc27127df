//! A listener without descriptors. In a program of its own, for the limit on descriptors holds for all of it.

#![allow(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tidegate::net::endpoint::Peer;
use tidegate::net::listener::{Listener, ListenerSettings, raise_descriptor_limit};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

#[test]
fn without_descriptors_clients_are_closed_on_and_served_again_when_there_are_some() {
    const WAITING: usize = 100;
    let limit = Limited::to(256);
    let runtime = runtime();
    let _inside = runtime.enter();
    let listener = Rc::new(Listener::bind(settings(), None).unwrap());
    let address = listener.local_addr().unwrap().into();
    let sockets: Vec<_> = (0..WAITING).map(|_| new_socket()).collect();
    let late = new_socket();
    let _fillers = fill();
    for socket in &sockets {
        socket.connect(&address).unwrap();
    }
    runtime.block_on(LocalSet::new().run_until(async {
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
        assert_eq!(listener.counters().accepted, 0);

        limit.raise();
        late.connect(&address).unwrap();
        let accepted = accepted.await.unwrap();
        assert_eq!(accepted.peer(), peer(&late));
        assert_eq!(listener.counters().accepted, 1);
    }));
}

#[test]
fn without_even_a_spare_descriptor_a_listener_pauses_longer_and_longer_instead_of_spinning() {
    let limit = Limited::to(64);
    let runtime = runtime();
    let _inside = runtime.enter();
    let waiting = new_socket();
    let mut fillers = fill();
    fillers.pop(); // For the listener's socket; its spare finds none.
    let listener = Rc::new(Listener::bind(settings(), None).unwrap());
    waiting.connect(&listener.local_addr().unwrap().into()).unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let accepting = Rc::clone(&listener);
        let begin = Instant::now();
        let accepted = tokio::task::spawn_local(async move { accepting.accept().await });
        until(|| listener.counters().shortages == 4).await;
        assert!(
            begin.elapsed() >= Duration::from_millis(10 + 20 + 40),
            "{:?}",
            begin.elapsed()
        );

        limit.raise();
        let accepted = accepted.await.unwrap();
        assert_eq!(accepted.peer(), peer(&waiting));
        assert_eq!(listener.counters().shed, 0);
    }));
}

/// The limit on descriptors, lowered for one test at a time.
struct Limited {
    before: Rlimit,
    _only_one: MutexGuard<'static, ()>,
}

impl Limited {
    fn to(descriptors: u64) -> Self {
        static ONLY_ONE: Mutex<()> = Mutex::new(());
        let only_one = ONLY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(descriptors),
                ..before
            },
        )
        .unwrap();
        Self {
            before,
            _only_one: only_one,
        }
    }

    fn raise(&self) {
        let raised = raise_descriptor_limit().unwrap();
        assert_eq!(raised, self.before.maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, self.before.maximum);
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.before).unwrap();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn new_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

fn peer(socket: &Socket) -> Peer {
    Peer::Ip(socket.local_addr().unwrap().as_socket().unwrap())
}

/// Takes every descriptor there is.
fn fill() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn settings() -> ListenerSettings {
    ListenerSettings::new("test", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1000)
}

/// Lets the other tasks run until `state` holds.
async fn until(state: impl Fn() -> bool) {
    while !state() {
        tokio::task::yield_now().await;
    }
}
