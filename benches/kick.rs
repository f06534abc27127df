//! How long a kick takes on an idle gateway: from the call on another thread until the client reads its DISCONNECT, and
//! until it reads the end of its stream.
//!
//! ```text
//! cargo bench --bench kick
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate::board::Boards;
use tidegate::broker::{KickOptions, Target};
use tidegate::config::Settings;
use tidegate::gateway::{self, Gateway};
use tidegate::mqtt::{ClientId, Connect, ConnectProperties, Packet, ProtocolVersion, Utf8String, encode};

/// Enough that one in a hundred is a few.
const KICKS: usize = 500;

/// Long enough that nothing of the last kick goes on, and in step with no timer of the gateway.
const PAUSE: Duration = Duration::from_micros(13_700);

/// DISCONNECT with the reason 0x98 and no properties: what the client reads.
const FAREWELL: [u8; 3] = [0xE0, 0x01, 0x98];

fn main() {
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = thread::spawn(move || {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let board = Boards::compiled_in().base().clone();
        let settings = Settings::local(&[anywhere], board).expect("loopback");
        gateway::runtime().expect("an event queue").block_on(async {
            let gateway = Gateway::bind(settings).expect("a free port");
            let address = gateway.addresses()[0].1.ip().expect("it listens on TCP");
            tell.send((address, gateway.kick_handle()))
                .expect("somebody waits");
            gateway.run(async { stopped.await.unwrap_or_default() }).await;
        });
    });
    let (address, kicks) = told.recv().expect("the gateway starts");

    let (mut to_farewell, mut to_end) = (Vec::new(), Vec::new());
    for _ in 0..KICKS {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(&connect()).expect("it listens");
        let read = stream.read(&mut [0; 256]).expect("CONNACK");
        assert!(read > 0, "expected CONNACK");
        thread::sleep(PAUSE);

        let asked = Instant::now();
        let ticket = kicks.kick(Target::Client(bill()), KickOptions::default());
        let mut farewell = [0; FAREWELL.len()];
        stream.read_exact(&mut farewell).expect("DISCONNECT");
        to_farewell.push(asked.elapsed());
        assert_eq!(farewell, FAREWELL);
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
        to_end.push(asked.elapsed());
        let outcome = ticket.expect("there is room").wait().expect("it runs");
        assert_eq!(outcome.kicked, 1);
    }
    show("to DISCONNECT", to_farewell);
    show("to the end", to_end);
    drop(stop);
    running.join().expect("the gateway does not panic");
}

fn bill() -> ClientId {
    ClientId::new(Utf8String::try_from("bill").expect("text")).expect("an identifier")
}

fn connect() -> BytesMut {
    let packet = Packet::Connect(Box::new(Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: Some(bill()),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }));
    let mut bytes = BytesMut::new();
    encode(&packet, ProtocolVersion::V5, &mut bytes);
    bytes
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!(
        "{KICKS} kicks {what}: median {:?}, 99th percentile {:?}, longest {:?}",
        at(50),
        at(99),
        times[times.len() - 1]
    );
}
