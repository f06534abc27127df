//! The doors: Unix sockets, balancers, bounds of each listener, and who gives way when there is no more room.

#![allow(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::cell::Cell;
use std::fs;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use running::{
    Doors, IN_VAIN, Papers, Peer, connect, message, options, publish, settings, settings_with_tls,
    with_gateway,
};
use tempfile::TempDir;
use tidegate::broker::ListenerPolicy;
use tidegate::client::{Address, Client, ClientError, DialError, Disconnection, Target};
use tidegate::config::{Listener as Door, Settings};
use tidegate::gateway::{Gateway, StartError};
use tidegate::mqtt::{Packet, ProtocolVersion, QoS, ReasonCode, SubscribeProperties};
use tidegate::net::accounts;
use tidegate::net::clock::FlooredClock;
use tidegate::net::endpoint::{Endpoint, UnixEndpoint};
use tidegate::net::link::{Buffers, Link, Stream};
use tidegate::net::listener::{Listener, ListenerSettings, NetError, ProxySettings};
use tidegate::net::tls::{ClientSettings, Connector, Roots};
use tidegate::net::websocket::upgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod running;

// Unix sockets.

#[test]
fn a_message_passes_from_a_unix_socket_to_tcp_and_back() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    with_gateway(with_door(settings(), unix_door(&path)), async |doors| {
        let mut local = Client::connect(&unix_target(&path), options("local"))
            .await
            .unwrap();
        let mut other = doors.client(options("other")).await;
        subscribe(&mut local, "to/local").await;
        subscribe(&mut other, "to/other").await;
        local
            .publish(message("to/other", "up", QoS::AtLeastOnce))
            .await
            .unwrap();
        assert_eq!(other.next_message().await.unwrap().payload, "up");
        other
            .publish(message("to/local", "down", QoS::ExactlyOnce))
            .await
            .unwrap();
        assert_eq!(local.next_message().await.unwrap().payload, "down");
    });
}

#[test]
fn the_socket_has_the_permissions_it_is_given_and_is_gone_when_the_gateway_is() {
    for mode in [0o600, 0o660, 0o666] {
        let folder = folder();
        let path = folder.path().join("mqtt.sock");
        let mut door = unix_door(&path);
        if let Endpoint::Unix(unix) = &mut door.net.endpoint {
            unix.mode = mode;
            unix.owner = Some(rustix::process::getuid().as_raw());
            unix.group = Some(rustix::process::getgid().as_raw());
        }
        with_gateway(with_door(settings(), door), async |_| {
            let found = fs::symlink_metadata(&path).unwrap();
            assert!(found.file_type().is_socket());
            assert_eq!(found.permissions().mode() & 0o7777, mode, "{mode:o}");
        });
        assert!(!path.exists());
    }
}

#[test]
fn the_socket_of_a_dead_process_is_replaced() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "what a process leaves behind that is killed");
    with_gateway(with_door(settings(), unix_door(&path)), async |_| {
        Client::connect(&unix_target(&path), options("client"))
            .await
            .unwrap();
    });
}

#[test]
fn the_socket_of_a_live_process_is_left_alone_and_the_start_refused() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    with_gateway(with_door(settings(), unix_door(&path)), async |_| {
        let Err(StartError::Net(refused)) = Gateway::bind(with_door(settings(), unix_door(&path))) else {
            panic!("two gateways share a socket");
        };
        assert!(
            matches!(&refused, NetError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
        );
        let told = refused.to_string();
        assert!(
            told.contains(
                "mqtt.sock: a process that is alive listens there; stop it, or choose another path"
            ),
            "{told}"
        );
        Client::connect(&unix_target(&path), options("client"))
            .await
            .unwrap();
    });
}

#[test]
fn a_file_that_somebody_put_in_place_of_the_socket_is_not_removed() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    with_gateway(with_door(settings(), unix_door(&path)), async |_| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
}

#[test]
fn no_socket_is_opened_where_it_would_be_unsafe_or_something_else_stands() {
    let folder = folder();
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let long = folder.path().join("x".repeat(UnixEndpoint::PATH_BYTES_MAX));
    let runtime = tidegate::gateway::runtime().unwrap();
    let inside = runtime.enter();
    for (path, expected) in [
        (
            open.join("mqtt.sock"),
            "every user could put another socket in place",
        ),
        (file.clone(), "is there and is no socket"),
        (file.join("mqtt.sock"), "is no folder"),
        (folder.path().join("none/mqtt.sock"), "cannot use the folder"),
        (PathBuf::from("mqtt.sock"), "expected one from the root"),
        (long, "expected at most the 107"),
    ] {
        let Err(StartError::Net(refused)) = Gateway::bind(with_door(settings(), unix_door(&path))) else {
            panic!("{} is taken", path.display());
        };
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    drop(inside);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    // Where files belong to their owners whoever may write there, as in /tmp, one may.
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    with_gateway(
        with_door(settings(), unix_door(&open.join("mqtt.sock"))),
        async |_| {},
    );
}

#[test]
fn who_runs_as_a_user_is_that_user_where_the_door_takes_it_from_there_and_nobody_elsewhere() {
    let folder = folder();
    let (named, plain) = (folder.path().join("named.sock"), folder.path().join("plain.sock"));
    let mut doors = [unix_door(&named), unix_door(&plain)];
    for door in &mut doors {
        door.policy.anonymous = false;
    }
    doors[0].net.peer_user_name = true;
    let [first, second] = doors;
    let settings = with_door(with_door(settings(), first), second);
    with_gateway(settings, async |_| {
        let refused = refusal(Client::connect(&unix_target(&plain), options("client")).await);
        assert_eq!(refused, Some(ReasonCode::NotAuthorized));
        let expected = match accounts::name_of(rustix::process::getuid().as_raw()) {
            Some(_) => None,
            // A user without a name proves nothing.
            None => Some(ReasonCode::NotAuthorized),
        };
        let named = refusal(Client::connect(&unix_target(&named), options("client")).await);
        assert_eq!(named, expected);
    });
}

#[test]
fn a_socket_that_is_not_there_is_told_with_its_path() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    with_gateway(settings(), async |_| {
        let error = Client::connect(&unix_target(&path), options("client"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ClientError::Dial(DialError::Unix { .. })),
            "{error}"
        );
        assert!(error.to_string().contains("mqtt.sock: No such file"), "{error}");
        assert!(error.to_string().contains("is the server running?"), "{error}");
    });
}

#[test]
fn websocket_goes_over_a_unix_socket_too() {
    let folder = folder();
    let path = folder.path().join("mqtt.sock");
    let mut door = unix_door(&path);
    door.net.websocket = Some(websocket());
    with_gateway(with_door(settings(), door), async |_| {
        let target = Address {
            websocket: Some("/mqtt".to_owned()),
            ..Address::unix(&path)
        };
        let target = Target::new(target, &ClientSettings::default(), IN_VAIN).unwrap();
        Client::connect(&target, options("client")).await.unwrap();
    });
}

// Balancers.

#[test]
fn a_client_comes_in_behind_each_header_of_a_balancer() {
    let v2 = binary(0x21, 0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 200, 1, 34, 179]);
    let headers: [&[u8]; 4] = [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 51201 8883\r\n",
        b"PROXY UNKNOWN\r\n",
        &v2,
        &binary(0x20, 0, &[]),
    ];
    with_gateway(with_door(settings(), balanced_door()), async |doors| {
        for header in headers {
            for is_in_pieces in [false, true] {
                let mut stream = balanced(doors).await;
                match is_in_pieces {
                    false => stream.write_all(header).await.unwrap(),
                    true => {
                        for byte in header {
                            stream.write_all(&[*byte]).await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    }
                }
                Peer::new(stream, connect("client")).await.ping().await;
            }
        }
    });
}

#[test]
fn a_header_and_what_follows_it_may_come_together_and_nothing_of_it_is_lost() {
    with_gateway(with_door(settings(), balanced_door()), async |doors| {
        let mut bytes = bytes::BytesMut::from(&b"PROXY TCP4 192.0.2.7 192.0.2.1 51201 8883\r\n"[..]);
        let version = ProtocolVersion::V5;
        tidegate::mqtt::encode(&Packet::Connect(Box::new(connect("client"))), version, &mut bytes);
        let mut stream = balanced(doors).await;
        stream.write_all(&bytes).await.unwrap();
        let mut peer = Peer::stranger(stream, version);
        assert!(matches!(peer.hear().await, Some(Packet::ConnAck(ack)) if !ack.reason.is_error()));
    });
}

#[test]
fn without_a_header_or_from_elsewhere_nobody_comes_in_behind_a_balancer() {
    let mut elsewhere = balanced_door();
    elsewhere.net.name = "elsewhere".to_owned();
    elsewhere.policy.name = "elsewhere".to_owned();
    elsewhere.net.proxy.as_mut().unwrap().from = vec!["192.0.2.0/24".parse().unwrap()];
    let settings = with_door(with_door(settings(), balanced_door()), elsewhere);
    with_gateway(settings, async |doors| {
        let packet = Packet::Connect(Box::new(connect("client")));
        let mut bare = Peer::stranger(balanced(doors).await, ProtocolVersion::V5);
        bare.say(&packet).await;
        assert_eq!(bare.hear().await, None);

        let mut stranger = TcpStream::connect(doors.address("elsewhere")).await.unwrap();
        let _ = stranger
            .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 51201 8883\r\n")
            .await;
        let mut stranger = Peer::stranger(stranger, ProtocolVersion::V5);
        let _ = stranger.try_say(&packet).await;
        assert_eq!(stranger.hear().await, None);

        // Elsewhere a header is what it is to MQTT: rubbish.
        let mut stream = doors.stream().await;
        stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    });
}

#[test]
fn a_header_that_does_not_come_ends_with_the_time_for_it() {
    let mut door = balanced_door();
    door.net.handshake_timeout = Duration::from_millis(50);
    with_gateway(with_door(settings(), door), async |doors| {
        let mut silent = balanced(doors).await;
        let mut slow = balanced(doors).await;
        slow.write_all(b"PROXY TCP4 192.0.2.7").await.unwrap();
        for stream in [&mut silent, &mut slow] {
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
    });
}

#[test]
fn bounds_for_an_address_count_the_one_the_balancer_told() {
    let mut door = balanced_door();
    door.net.connections_per_address_max = Some(1);
    with_gateway(with_door(settings(), door), async |doors| {
        let in_from = async |host: &str, id: &str| {
            let mut stream = balanced(doors).await;
            let header = format!("PROXY TCP4 {host} 192.0.2.1 51201 8883\r\n");
            stream.write_all(header.as_bytes()).await.unwrap();
            let mut peer = Peer::stranger(stream, ProtocolVersion::V5);
            let _ = peer.try_say(&Packet::Connect(Box::new(connect(id)))).await;
            let answer = peer.hear().await;
            (peer, answer.is_some())
        };
        let (_first, is_in) = in_from("192.0.2.7", "first").await;
        assert!(is_in);
        let (_second, is_in) = in_from("192.0.2.7", "second").await;
        assert!(!is_in, "one more from the same address");
        let (_third, is_in) = in_from("192.0.2.8", "third").await;
        assert!(is_in, "another address");
    });
}

#[test]
fn tls_begins_right_behind_the_header() {
    let papers = Papers::new();
    let mut door = balanced_door();
    door.net.tls = Some(papers.server.clone());
    with_gateway(with_door(settings(), door), async |doors| {
        let mut stream = balanced(doors).await;
        stream.write_all(&binary(0x21, 0x11, &[9; 12])).await.unwrap();
        let settings = ClientSettings {
            roots: Roots::File(papers.ca.clone()),
            ..ClientSettings::default()
        };
        let connector = Connector::new(&settings, Arc::new(FlooredClock::default())).unwrap();
        let stream = connector.connect(stream, "127.0.0.1", IN_VAIN).await.unwrap();
        assert!(is_let_in(stream).await);
    });
}

#[test]
fn the_name_of_a_certificate_that_a_balancer_verified_is_the_user_where_the_door_says_so() {
    for (common_name_is_user, flags) in [(true, 3), (true, 1), (false, 3)] {
        let mut door = balanced_door();
        door.policy.anonymous = false;
        door.net.proxy.as_mut().unwrap().common_name_is_user = common_name_is_user;
        // TLS (0x20): flags, verified, common name (0x22).
        let ssl = [&[0x20, 0, 13, flags, 0, 0, 0, 0, 0x22, 0, 5][..], b"probe"].concat();
        let header = binary(0x21, 0x11, &[&[9; 12][..], &ssl].concat());
        with_gateway(with_door(settings(), door), async |doors| {
            let mut stream = balanced(doors).await;
            stream.write_all(&header).await.unwrap();
            let is_in = is_let_in(Stream::Tcp(stream)).await;
            assert_eq!(is_in, common_name_is_user && flags == 3);
        });
    }
}

// What each listener bounds.

#[test]
fn one_address_has_no_more_connections_than_its_listener_grants() {
    let mut settings = settings();
    settings.listeners[0].net.connections_per_address_max = Some(2);
    with_gateway(settings, async |doors| {
        let first = doors.peer(connect("first")).await;
        let _second = doors.peer(connect("second")).await;
        let mut refused = doors.stream().await;
        assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
        drop(first);
        // Its end may not have been noticed yet.
        loop {
            if is_let_in(Stream::Tcp(doors.stream().await)).await {
                break;
            }
        }
    });
}

#[test]
fn a_packet_within_the_limits_may_be_too_large_for_a_listener() {
    let mut settings = settings();
    settings.listeners[0].policy.packet_bytes_max = Some(1024);
    with_gateway(settings, async |doors| {
        let mut peer = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
        peer.say(&Packet::Connect(Box::new(connect("client")))).await;
        let Some(Packet::ConnAck(ack)) = peer.hear().await else {
            panic!("expected CONNACK");
        };
        assert_eq!(ack.properties.packet_bytes_max, Some(1024));
        peer.say(&publish("a", vec![0; 900], None)).await;
        peer.ping().await;
        peer.say(&publish("a", vec![0; 1100], None)).await;
        peer.hear_farewell(ReasonCode::PacketTooLarge).await;
    });
}

#[tokio::test]
async fn connections_that_come_faster_than_they_may_wait_and_are_not_refused() {
    let settings = ListenerSettings {
        connect_rate_max: Some(5),
        ..ListenerSettings::new("paced", anywhere(), 100)
    };
    let listener = Listener::bind(settings, None).unwrap();
    let address = listener.local_addr().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..7 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let begin = std::time::Instant::now();
    let mut accepted = Vec::new();
    for _ in 0..7 {
        accepted.push(listener.accept().await);
    }
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        (listener.counters().accepted, listener.counters().paced > 0),
        (7, true)
    );
}

// Floods.

#[test]
fn hundreds_of_half_open_connections_at_every_kind_of_door_lock_nobody_out() {
    const FLOOD: usize = 150;
    let papers = Papers::new();
    let mut settings = settings_with_tls(&papers);
    // Nothing but giving way could make room.
    settings.limits.connect_timeout = Duration::from_secs(3600);
    let mut web = settings.listeners[0].clone();
    rename(&mut web, "web");
    web.net.websocket = Some(websocket());
    settings.listeners.push(web);
    settings.listeners.push(balanced_door());
    for door in &mut settings.listeners {
        door.net.handshake_timeout = Duration::from_secs(3600);
    }
    with_gateway(settings, async |doors| {
        let mut witness = doors.client(options("witness")).await;
        subscribe(&mut witness, "seen").await;
        // What a slow client has said before it falls silent.
        let begun: [(&str, &[u8]); 6] = [
            ("local", b""),
            ("local", &[0x10, 40, 0, 4, b'M']),
            ("tls", b""),
            ("tls", &[22, 3, 1, 2, 0, 1]),
            ("web", b"GET /mqtt HTTP/1.1\r\nHost: gateway\r\n"),
            ("balanced", b"PROXY TCP4 192.0.2"),
        ];
        for (door, begun) in begun {
            let mut flood = Vec::new();
            for _ in 0..FLOOD {
                let mut stream = TcpStream::connect(doors.address(door)).await.unwrap();
                // It may have given way already.
                let _ = stream.write_all(begun).await;
                flood.push(stream);
            }
            let mut honest = honest(doors, door, &papers).await;
            honest
                .publish(message("seen", door, QoS::AtLeastOnce))
                .await
                .unwrap();
            assert_eq!(witness.next_message().await.unwrap().payload, door);
        }
    });
}

#[test]
fn a_flood_at_one_door_that_fills_the_gateway_locks_nobody_out_of_another() {
    let mut settings = settings();
    settings.limits.connections_max = 20;
    settings.limits.connect_timeout = Duration::from_secs(3600);
    let mut flooded = settings.listeners[0].clone();
    rename(&mut flooded, "flooded");
    flooded.net.connections_max = 20;
    settings.listeners.push(flooded);
    with_gateway(settings, async |doors| {
        let mut flood = Vec::new();
        for _ in 0..30 {
            flood.push(TcpStream::connect(doors.address("flooded")).await.unwrap());
        }
        doors.client(options("honest")).await;
    });
}

#[test]
fn with_few_descriptors_an_honest_client_comes_in_through_a_flood_and_all_are_given_back() {
    let folder = folder();
    let config = folder.path().join("tidegate.toml");
    let text = "[listener.local]\naddress = \"127.0.0.1:0\"\n[limits]\nconnect_timeout = \"5m\"\n";
    fs::write(&config, text).unwrap();
    let running = Running::start(&config, Some(64));
    let said = running.said.join("\n");
    assert!(
        said.contains("the limit of open files has no room for connections_max"),
        "{said}"
    );
    let runtime = tokio::runtime::LocalRuntime::new().unwrap();
    let rest = runtime.block_on(async {
        let target = tcp_target(running.address);
        let mut witness = Client::connect(&target, options("witness")).await.unwrap();
        subscribe(&mut witness, "seen").await;
        let baseline = running.descriptors();
        let mut flood = Vec::new();
        for _ in 0..300 {
            flood.push(TcpStream::connect(running.address).await.unwrap());
        }
        let mut honest = Client::connect(&target, options("honest")).await.unwrap();
        honest
            .publish(message("seen", "honest", QoS::AtLeastOnce))
            .await
            .unwrap();
        assert_eq!(witness.next_message().await.unwrap().payload, "honest");
        assert!(running.descriptors() < 64);
        honest.disconnect(ReasonCode::Success).await;
        drop((flood, honest));
        while running.descriptors() > baseline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running
    });
    let said = rest.end();
    assert!(
        said.contains("connections that say nothing give way to newer ones"),
        "{said}"
    );
    assert!(!said.contains("cannot accept connections"), "{said}");
}

// Keys that everybody can read.

#[test]
fn a_key_that_every_user_can_read_stops_the_start_and_check_says_so() {
    let folder = folder();
    let papers = Papers::new();
    for (from, to) in [
        (&papers.server.certificate, "server.pem"),
        (&papers.server.key, "key.pem"),
    ] {
        fs::copy(from, folder.path().join(to)).unwrap();
    }
    let config = folder.path().join("tidegate.toml");
    let text = "[listener.field]\naddress = \"127.0.0.1:0\"\nanonymous = true\n[listener.field.tls]\n\
                certificate = \"server.pem\"\nkey = \"key.pem\"\n";
    fs::write(&config, text).unwrap();
    for (mode, is_right) in [(0o600, true), (0o640, true), (0o644, false)] {
        let key = folder.path().join("key.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let expected = format!("key.pem has permissions {mode:04o}, so every user can read it");
        for command in ["check", "run"] {
            if command == "run" && is_right {
                drop(Running::start(&config, None));
                continue;
            }
            let ended = tidegate()
                .arg(command)
                .arg("--config")
                .arg(&config)
                .output()
                .unwrap();
            assert_eq!(ended.status.success(), is_right, "{mode:o}");
            let said = String::from_utf8(ended.stderr).unwrap();
            assert_eq!(said.contains(&expected), !is_right, "{mode:o}: {said}");
        }
    }
}

// What the tests stand on.

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn with_door(mut settings: Settings, door: Door) -> Settings {
    settings.listeners.push(door);
    settings
}

fn rename(door: &mut Door, name: &str) {
    door.net.name = name.to_owned();
    door.policy.name = name.to_owned();
}

fn door(name: &str, endpoint: Endpoint) -> Door {
    Door {
        net: ListenerSettings::new(name, endpoint, 100),
        policy: ListenerPolicy::new(name, true),
        may_be_absent: false,
    }
}

fn unix_door(path: &Path) -> Door {
    let unix = UnixEndpoint {
        path: path.to_owned(),
        mode: UnixEndpoint::MODE,
        owner: None,
        group: None,
    };
    door("socket", Endpoint::Unix(unix))
}

/// A door for balancers of this machine.
fn balanced_door() -> Door {
    let mut door = door("balanced", anywhere().into());
    door.net.proxy = Some(ProxySettings {
        from: vec!["127.0.0.0/8".parse().unwrap()],
        common_name_is_user: false,
    });
    door
}

fn websocket() -> upgrade::ServerSettings {
    upgrade::ServerSettings {
        paths: vec!["/mqtt".to_owned()],
        origins: upgrade::Origins::SameHost,
    }
}

fn unix_target(path: &Path) -> Target {
    Target::new(Address::unix(path), &ClientSettings::default(), IN_VAIN).unwrap()
}

fn tcp_target(address: SocketAddr) -> Target {
    let address = Address::new(&address.ip().to_string(), Some(address.port()), false);
    Target::new(address, &ClientSettings::default(), IN_VAIN).unwrap()
}

/// A byte stream from where balancers are believed.
async fn balanced(doors: &Doors) -> TcpStream {
    TcpStream::connect(doors.address("balanced")).await.unwrap()
}

/// A header of version 2 of the PROXY protocol.
fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([version_and_command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Somebody who says who he is at once, through the door called `name`.
async fn honest(doors: &Doors, name: &str, papers: &Papers) -> Client {
    let target = match name {
        "tls" => doors.tls_target(papers),
        "web" => {
            let address = doors.address("web");
            let address = format!("ws://{address}/mqtt").parse().unwrap();
            Target::new(address, &ClientSettings::default(), IN_VAIN).unwrap()
        }
        // A client of ours says no header: through this door somebody else proves that it is open.
        "balanced" => {
            let mut stream = balanced(doors).await;
            stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
            Peer::new(stream, connect("behind")).await.ping().await;
            doors.target()
        }
        _ => tcp_target(doors.address(name)),
    };
    Client::connect(&target, options("honest")).await.unwrap()
}

async fn subscribe(client: &mut Client, filter: &str) {
    let Packet::Subscribe(subscribe) = running::subscribe(filter, QoS::AtLeastOnce) else {
        unreachable!()
    };
    client
        .subscribe(subscribe.subscriptions, SubscribeProperties::default())
        .await
        .unwrap();
}

/// Why a client was refused; `None` where it was not.
fn refusal(connected: Result<Client, ClientError>) -> Option<ReasonCode> {
    match connected {
        Ok(_) => None,
        Err(ClientError::Disconnected(Disconnection::Refused(reason, _))) => Some(reason),
        Err(other) => panic!("{other}"),
    }
}

/// Whether CONNECT on `stream` is accepted.
async fn is_let_in(stream: Stream) -> bool {
    let mut link = Link::client(stream, ProtocolVersion::V5, 1024);
    let mut buffers = Buffers::new();
    link.send(&Packet::Connect(Box::new(connect("client"))), &mut buffers);
    if poll_fn(|cx| link.poll_flush(cx, &mut buffers)).await.is_err() {
        return false;
    }
    loop {
        if let Some(packet) = link.poll_packet().unwrap() {
            return matches!(packet, Packet::ConnAck(ack) if !ack.reason.is_error());
        }
        if let Ok(0) | Err(_) = poll_fn(|cx| link.poll_receive(cx, &mut buffers)).await {
            return false;
        }
    }
}

fn tidegate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
}

/// The program, running with one listener.
struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    /// What it said until it listened.
    said: Vec<String>,
    address: SocketAddr,
    is_over: Cell<bool>,
}

impl Running {
    /// Starts it with `config`, and with no more descriptors than that.
    fn start(config: &Path, descriptors: Option<u32>) -> Self {
        let mut command = match descriptors {
            None => tidegate(),
            Some(descriptors) => {
                let mut shell = Command::new("sh");
                shell.arg("-c");
                shell.arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""));
                shell.arg(env!("CARGO_BIN_EXE_tidegate"));
                shell
            }
        };
        let mut child = command
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = Vec::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended: {said:#?}");
            let address = line
                .split_once("address=")
                .map(|(_, address)| address.trim().parse());
            said.push(line);
            if let Some(address) = address {
                break address.unwrap();
            }
        };
        Self {
            child,
            stderr,
            said,
            address,
            is_over: Cell::new(false),
        }
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Tells it to end, and returns what it said since it listened.
    fn end(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        self.is_over.set(true);
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over.get() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
