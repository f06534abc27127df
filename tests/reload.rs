//! The configuration read again while the program runs: as a whole or not at all, and nobody else notices.

mod running;
mod witness;

use std::cell::Cell;
use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use running::*;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tidegate::auth::passwords::{Cost, hash};
use tidegate::client::{Address, Target};
use tidegate::gateway;
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode};
use tidegate::net::tls::{ClientSettings, Roots};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use witness::*;

/// Runs `story` with the program.
fn with_program(story: impl AsyncFnOnce(&mut Program)) {
    let mut program = Program::start(Setup::default());
    let runtime = gateway::runtime().expect("an event queue");
    runtime.block_on(async {
        if timeout(IN_VAIN, story(&mut program)).await.is_err() {
            panic!("waited in vain:\n{}", program.log());
        }
    });
}

fn as_user(id: &str, user: &str, password: &str) -> Connect {
    Connect {
        user_name: Some(text(user)),
        password: Some(password.to_owned().into()),
        ..connect(id)
    }
}

fn set_users(program: &Program, users: &[(&str, &str)]) {
    let cost = Cost::new(Cost::MEMORY_KIB_MIN, 1).expect("within bounds");
    let line = |(name, password): &(&str, &str)| {
        let hash = hash(password.as_bytes(), cost, &[2; 16]).expect("some megabytes");
        format!("{name}:{hash}\n")
    };
    let lines: String = users.iter().map(line).collect();
    witness::write(&program.folder().join("users"), &lines);
}

async fn peer_at(address: SocketAddr, connect: Connect) -> Peer {
    Peer::new(
        TcpStream::connect(address).await.expect("the door is open"),
        connect,
    )
    .await
}

#[test]
fn a_door_that_is_added_opens_and_one_that_is_removed_closes_while_its_clients_stay() {
    with_program(async |program| {
        let mut stays = program.peer(connect("stays")).await;
        program.configure(|text| text + "[listener.added]\naddress = '127.0.0.1:0'\nanonymous = true\n");
        // `[limits]` is the last table, and empty.
        program.reload().await;
        let added = program.opened("added");
        let mut comes = peer_at(added, connect("comes")).await;
        comes.ping().await;
        program.configure(|text| {
            text.replace(
                "[listener.added]\naddress = '127.0.0.1:0'\nanonymous = true\n",
                "",
            )
        });
        program.reload().await;
        assert!(
            TcpStream::connect(added).await.is_err(),
            "nobody listens there any more"
        );
        comes.ping().await;
        stays.ping().await;
    });
}

#[test]
fn a_file_with_a_mistake_in_it_changes_nothing_and_every_mistake_is_told_with_its_line() {
    with_program(async |program| {
        let mut stays = program.peer(connect("stays")).await;
        let right = fs::read_to_string(program.folder().join("tidegate.toml")).expect("it is there");
        let lines = right.lines().count();
        program.configure(|text| {
            text + "packet_bytes_max = '2 KiB'\nsessions_maxx = 7\n[listener.added]\naddress = 'nowhere'\n"
        });
        fs::remove_file(program.folder().join("users")).expect("it is there");
        program.reload_in_vain().await;
        for (line, key) in [
            (lines + 2, "sessions_maxx"),
            (lines + 4, "listener.added.address"),
            (2, "password_file"),
        ] {
            let place = format!("tidegate.toml:{line}");
            assert_eq!(
                program.count_logged(&["WARN", &place, key]),
                1,
                "{}",
                program.log()
            );
        }
        let connack = Peer::stranger(program.stream().await, connect("x").version)
            .knock(connect("x"))
            .await;
        assert_eq!(
            connack.properties.packet_bytes_max,
            Some(256 * 1024),
            "the old bound holds"
        );
        let mut ann = program.peer(as_user("ann", "ann", "right")).await;
        ann.ping().await;
        stays.ping().await;
        assert_eq!(program.count_logged(&["listening", "added"]), 0);
    });
}

#[test]
fn who_is_gone_from_the_password_file_or_has_another_password_is_told_so_and_nobody_else_is() {
    with_program(async |program| {
        let mut ann = program.peer(as_user("a", "ann", "right")).await;
        let mut bob = program.peer(as_user("b", "bob", "right")).await;
        let mut nobody = program.peer(connect("n")).await;
        set_users(program, &[("bob", "new")]);
        program.reload().await;
        ann.hear_farewell(ReasonCode::NotAuthorized).await;
        bob.hear_farewell(ReasonCode::NotAuthorized).await;
        nobody.ping().await;
        for (user, password, reason) in [
            ("ann", "right", ReasonCode::BadUserNameOrPassword),
            ("bob", "right", ReasonCode::BadUserNameOrPassword),
            ("bob", "new", ReasonCode::Success),
        ] {
            let connect = as_user("again", user, password);
            let connack = Peer::stranger(program.stream().await, connect.version)
                .knock(connect)
                .await;
            assert_eq!(connack.reason, reason, "{user} {password}");
        }
        // Nothing has changed since, so nobody goes.
        let mut bob = program.peer(as_user("b", "bob", "new")).await;
        program.reload().await;
        bob.ping().await;
    });
}

#[test]
fn a_door_that_is_not_anonymous_any_more_keeps_those_who_have_proved_who_they_are() {
    with_program(async |program| {
        let mut ann = program.peer(as_user("a", "ann", "right")).await;
        let mut nobody = program.peer(connect("n")).await;
        let mut elsewhere = Peer::on(tidegate::net::link::Link::client(
            program.stream_to("socket").await,
            connect("e").version,
            1024 * 1024,
        ));
        elsewhere.enter(connect("e")).await;
        // It has said nothing yet, and was let in by the old rules.
        let mut pending = Peer::stranger(program.stream().await, connect("p").version);
        program.configure(|text| {
            text.replacen(
                "[listener.local]\nanonymous = true",
                "[listener.local]\nanonymous = false",
                1,
            )
        });
        program.reload().await;
        nobody.hear_farewell(ReasonCode::NotAuthorized).await;
        ann.ping().await;
        elsewhere.ping().await;
        assert!(!pending.try_enter(connect("p")).await, "the old rules are gone");
        let connack = Peer::stranger(program.stream().await, connect("x").version)
            .knock(connect("x"))
            .await;
        assert_eq!(connack.reason, ReasonCode::NotAuthorized);
    });
}

#[test]
fn bounds_hold_for_who_comes_and_a_door_keeps_its_address() {
    with_program(async |program| {
        let mut stays = program.peer(connect("stays")).await;
        program.configure(|text| text + "packet_bytes_max = '40 KiB'\nreceive_maximum = 7\n");
        program.reload().await;
        let connack = Peer::stranger(program.stream().await, connect("x").version)
            .knock(connect("x"))
            .await;
        assert_eq!(connack.properties.packet_bytes_max, Some(40 * 1024));
        assert_eq!(connack.properties.receive_maximum, Some(7));
        // It was told 256 KiB.
        stays.say(&publish("t", vec![b'x'; 48 * 1024], Some(1))).await;
        assert!(matches!(stays.hear().await, Some(Packet::PubAck(_))));
    });
}

#[test]
fn a_door_may_move_to_an_address_that_includes_the_one_it_had() {
    with_program(async |program| {
        let added = "[listener.added]\nanonymous = true\naddress = ";
        program.configure(|text| text + added + "'127.0.0.1:0'\n");
        program.reload().await;
        let port = program.opened("added").port();
        let fixed = format!("{added}'127.0.0.1:{port}'\n");
        // Its port was left to the system before, so that another socket takes its place, at the very same address.
        program.configure(|text| text.replace(&format!("{added}'127.0.0.1:0'\n"), &fixed));
        program.reload().await;
        let wide = format!(
            "{added}'0.0.0.0:{port}'\nallow_plaintext_off_loopback = true\nallow_anonymous_off_loopback = true\n"
        );
        program.configure(|text| text.replace(&fixed, &wide));
        program.reload().await;
        let mut peer = peer_at(([127, 0, 0, 1], port).into(), connect("x")).await;
        peer.ping().await;
        assert!(
            std::net::TcpListener::bind(("0.0.0.0", port)).is_err(),
            "nobody else can have it"
        );
    });
}

#[test]
fn without_descriptors_to_read_it_by_the_old_security_stays() {
    with_program(async |program| {
        let mut ann = program.peer(as_user("a", "ann", "right")).await;
        set_users(program, &[("bob", "new")]);
        // No number is free below it.
        let limit = |current| Rlimit {
            current: Some(current),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        let before = prlimit(Some(program.pid()), Resource::Nofile, limit(3)).expect("a process of ours");
        program.reload_in_vain().await;
        prlimit(Some(program.pid()), Resource::Nofile, before).expect("a process of ours");
        ann.ping().await;
        let mut again = program.peer(as_user("b", "bob", "right")).await;
        again.ping().await;
        program.reload().await;
        again.hear_farewell(ReasonCode::NotAuthorized).await;
    });
}

#[test]
fn the_log_tells_more_and_less_by_a_reload() {
    with_program(async |program| {
        let told = |program: &Program| program.count_logged(&["DEBUG", "connection accepted"]);
        let plain = fs::read_to_string(program.folder().join("tidegate.toml")).expect("it is there");
        let mut first = program.peer(connect("first")).await;
        program.until_logged(&["client connected", "first"], 1).await;
        assert_eq!(told(program), 0);
        program.configure(|text| text + "[gateway]\nlog = 'debug'\n");
        program.reload().await;
        let _second = program.peer(connect("second")).await;
        program.until_logged(&["client connected", "second"], 1).await;
        assert_eq!(told(program), 1, "{}", program.log());
        program.configure(|_| plain);
        program.reload().await;
        let _third = program.peer(connect("third")).await;
        program.until_logged(&["client connected", "third"], 1).await;
        assert_eq!(told(program), 1, "{}", program.log());
        first.ping().await;
    });
}

#[test]
fn the_file_of_a_unix_socket_gets_other_permissions_and_nobody_at_it_notices() {
    with_program(async |program| {
        let path = program.folder().join("mqtt.sock");
        let found = || {
            let metadata = fs::metadata(&path).expect("the socket is there");
            (metadata.permissions().mode() & 0o777, metadata.ino())
        };
        let (_, file) = found();
        let enter = async |name: &str| {
            let stream = program.stream_to("socket").await;
            let connect = connect(name);
            let mut peer = Peer::on(tidegate::net::link::Link::client(
                stream,
                connect.version,
                1024 * 1024,
            ));
            peer.enter(connect).await;
            peer
        };
        let mut stays = enter("stays").await;
        let plain = fs::read_to_string(program.folder().join("tidegate.toml")).expect("it is there");
        for mode in [0o600, 0o660, 0o666] {
            let with_mode = format!("mqtt.sock'\nmode = '{mode:04o}'\n");
            program.configure(|_| plain.replacen("mqtt.sock'\n", &with_mode, 1));
            program.reload().await;
            assert_eq!(found(), (mode, file), "the same socket");
            enter("comes").await.ping().await;
        }
        // One mistake elsewhere, and the file stays as it is.
        program.configure(|_| {
            let text = plain.replacen("mqtt.sock'\n", "mqtt.sock'\nmode = '0600'\n", 1);
            text + "[listener.added]\nanonymous = true\naddress = '192.0.2.1:0'\n\
                    allow_plaintext_off_loopback = true\nallow_anonymous_off_loopback = true\n"
        });
        program.reload_in_vain().await;
        assert_eq!(found(), (0o666, file));
        stays.ping().await;
    });
}

/// Half of the rules; the other half is the same with `a` and `b` the other way round.
fn rules(open: &str, closed: &str) -> String {
    format!(
        "[[access.rule]]\ndeny = 'publish'\ntopics = '{closed}/#'\n\
         [[access.rule]]\nallow = 'readwrite'\ntopics = ['{open}/#', 'witness/#', 'load/#']\n"
    )
}

/// How often the configuration is read again, and how many messages a second pass meanwhile.
const RELOADS: usize = 50;
const LOAD_PAUSE: Duration = Duration::from_micros(833);

#[test]
fn fifty_reloads_at_1200_messages_a_second_lose_nothing_and_everybody_sees_the_old_or_the_new() {
    watched(Setup::default(), async |program| {
        let plain = fs::read_to_string(program.folder().join("tidegate.toml")).expect("it is there");
        let papers = [Papers::new(), Papers::new()];
        let both = program.folder().join("both.pem");
        let roots = [&papers[0].ca, &papers[1].ca, &program.papers().ca];
        let roots = roots.map(|file| fs::read_to_string(file).expect("it is there"));
        witness::write(&both, &roots.concat());
        let configure = |round: usize| {
            let (open, closed) = if round.is_multiple_of(2) {
                ("a", "b")
            } else {
                ("b", "a")
            };
            let of_round = &papers[round % 2].server;
            for (from, to) in [
                (&of_round.certificate, &program.papers().server.certificate),
                (&of_round.key, &program.papers().server.key),
            ] {
                fs::copy(from, to).expect("the folders are ours");
            }
            let inflight = 20 + round % 2;
            let text = format!("{plain}inflight_max = {inflight}\n{}", rules(open, closed));
            program.configure(|_| text);
        };
        configure(0);
        program.reload().await;
        let is_over = Cell::new(false);

        let load = async {
            let mut publisher = program.peer(connect("load-publisher")).await;
            let mut subscriber = program.peer(connect("load-subscriber")).await;
            subscriber.subscribe("load/seq", QoS::AtMostOnce).await;
            let mut beat = interval(LOAD_PAUSE);
            beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut number: u64 = 0;
            while !is_over.get() {
                beat.tick().await;
                publisher
                    .say(&publish("load/seq", number.to_string(), None))
                    .await;
                let heard = subscriber.hear_publish().await;
                assert_eq!(heard.payload, number.to_string(), "a gap or a duplicate");
                number += 1;
            }
            number
        };
        let judged = async {
            let mut peer = program.peer(connect("judge")).await;
            let mut packet_id = 0;
            let mut seen = [0; 2];
            while !is_over.get() {
                // Both in one write, so that they are read in one turn: no change can come between.
                for topic in ["a/x", "b/x"] {
                    packet_id = packet_id % 65_000 + 1;
                    peer.prepare(&publish(topic, "x", Some(packet_id)));
                }
                peer.finish_saying().await.expect("the gateway listens");
                let mut verdict = async || match peer.hear().await {
                    Some(Packet::PubAck(ack)) => ack.reason,
                    other => panic!("expected PUBACK, found {other:?}"),
                };
                let verdicts = (verdict().await, verdict().await);
                let is_refused = |reason| reason == ReasonCode::NotAuthorized;
                assert_ne!(
                    is_refused(verdicts.0),
                    is_refused(verdicts.1),
                    "neither old nor new: {verdicts:?}"
                );
                seen[usize::from(is_refused(verdicts.0))] += 1;
            }
            assert!(seen.iter().all(|&count| count > 0), "both were seen: {seen:?}");
        };
        let coming = async {
            let settings = ClientSettings {
                roots: Roots::File(both.clone()),
                ..ClientSettings::default()
            };
            let address = Address::new("127.0.0.1", Some(program.address("tls").port()), true);
            let target = Target::new(address, &settings, IN_VAIN).expect("the authorities are in order");
            while !is_over.get() {
                let link = target
                    .dial(&options("comes"))
                    .await
                    .expect("one of both certificates");
                let mut peer = Peer::on(link);
                peer.enter(connect("comes")).await;
                peer.say(&farewell_for_good()).await;
                assert_eq!(peer.hear().await, None);
            }
        };
        let reloading = async {
            for round in 1..=RELOADS {
                configure(round);
                program.reload().await;
            }
            is_over.set(true);
        };
        let (passed, (), (), ()) = tokio::join!(load, judged, coming, reloading);
        assert!(passed > 0);
        program.configure(|_| plain);
        program.reload().await;
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    with_program(async |program| {
        // It does not hang up, so the first one would wait for it.
        let deaf = program.peer(connect("deaf")).await;
        program.ask_to_stop();
        program.until_logged(&["stopping"], 1).await;
        program.ask_to_stop();
        assert_eq!(program.until_over().await, Some(1), "{}", program.log());
        drop(deaf);
    });
}

#[test]
fn a_client_that_does_not_hang_up_is_told_and_does_not_hold_up_the_end() {
    with_program(async |program| {
        let mut deaf = program.peer(connect("deaf")).await;
        program.ask_to_stop();
        assert_eq!(program.until_over().await, Some(0), "{}", program.log());
        deaf.hear_farewell(ReasonCode::ServerShuttingDown).await;
    });
}

/// What the supervisor hears next.
fn hear(socket: &UnixDatagram) -> String {
    let mut text = [0; 512];
    let count = socket.recv(&mut text).expect("the program says something");
    String::from_utf8(text[..count].to_vec()).expect("text")
}

fn start_supervised(folder: &Path, socket: &Path) -> (std::process::Child, Pid) {
    let file = folder.join("tidegate.toml");
    witness::write(&file, "[listener.local]\naddress = '127.0.0.1:0'\n");
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("run")
        .arg("--config")
        .arg(&file)
        .env_remove("JOURNAL_STREAM")
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", "60000000")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is there");
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a number");
    (child, pid)
}

#[test]
fn systemd_is_told_when_everybody_can_come_in_when_it_reloads_and_when_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the folder is ours");
    socket.set_read_timeout(Some(IN_VAIN)).expect("a socket");
    let (mut child, pid) = start_supervised(folder.path(), &path);
    assert!(hear(&socket).starts_with("READY=1\n"));
    assert_eq!(hear(&socket), "WATCHDOG=1");
    for is_right in [true, false] {
        if !is_right {
            witness::write(&folder.path().join("tidegate.toml"), "no TOML");
        }
        kill_process(pid, Signal::HUP).expect("the process lives");
        let reloading = hear(&socket);
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert!(hear(&socket).starts_with("READY=1\n"), "whatever comes of it");
        assert_eq!(hear(&socket), "WATCHDOG=1");
    }
    kill_process(pid, Signal::TERM).expect("the process lives");
    assert!(hear(&socket).starts_with("STOPPING=1\n"));
    assert_eq!(child.wait().expect("a child of ours").code(), Some(0));
    let mut log = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut log)
        .expect("text");
    assert!(log.contains("was not reloaded"), "{log}");
}
