//! The `tidegate` program as a person at a shell meets it: what it refuses, what it prints, what it exits with.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use bytes::Bytes;
use peer::{Peer, run};
use smallvec::smallvec;
use tidegate::mqtt::{
    Ack, ConnAck, Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, SubAck, TopicName, Utf8String,
};
use tidegate::net::link::Stream;
use tokio::net::TcpListener;

mod peer;

/// The program with `arguments`, hearing nothing and seeing no password of ours.
fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("TIDEGATE_PASSWORD");
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    read(&tidegate(arguments).output().unwrap())
}

fn read(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A listener and the arguments that lead to it.
async fn listen() -> (TcpListener, [String; 4]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (
        listener,
        ["-h".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), port],
    )
}

fn start(arguments: &[&str], server: &[String]) -> Command {
    let mut command = tidegate(arguments);
    command
        .args(server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Gives `input` to the child, closes it, and waits for its end on another thread.
fn finish(mut child: Child, input: &'static [u8]) -> thread::JoinHandle<Output> {
    thread::spawn(move || {
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    })
}

async fn connect_of(peer: &mut Peer) -> Box<Connect> {
    let Some(Packet::Connect(connect)) = peer.hear().await else {
        panic!("expected CONNECT")
    };
    peer.say(Packet::ConnAck(Box::default())).await;
    connect
}

async fn publish_of(peer: &mut Peer) -> Publish {
    let Some(Packet::Publish(publish)) = peer.hear().await else {
        panic!("expected PUBLISH")
    };
    publish
}

/// Answers SUBSCRIBE with `reason`.
async fn grant(peer: &mut Peer, reason: ReasonCode) {
    let Some(Packet::Subscribe(subscribe)) = peer.hear().await else {
        panic!("expected SUBSCRIBE")
    };
    let answer = SubAck {
        packet_id: subscribe.packet_id,
        reasons: smallvec![reason],
        properties: None,
    };
    peer.say(Packet::SubAck(Box::new(answer))).await;
}

fn live(topic: &str, payload: &'static [u8]) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::try_from(topic).unwrap()),
        packet_id: None,
        payload: Bytes::from_static(payload),
        properties: None,
    })
}

async fn is_goodbye(peer: &mut Peer) -> bool {
    matches!(peer.hear().await, Some(Packet::Disconnect(packet)) if packet.reason == ReasonCode::Success)
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
    for (arguments, said) in [
        (&["pub", "-t", "a/+", "-m", "x"][..], "only a topic filter may"),
        (&["pub", "-t", "a"], "--message"),
        (&["pub", "-t", "a", "-m", "x", "-n"], "cannot be used with"),
        (&["pub", "-t", "a", "-m", "x", "-q", "3"], "expected 0, 1 or 2"),
        (&["pub", "-t", "a", "-m", "x", "-P", "hush"], "--password-file"),
        (&["pub", "-t", "a", "-m", "x", "-Phush"], "--password-file"),
        (
            &["pub", "-t", "a", "-m", "x", "-V", "3.1.1", "--content-type", "y"],
            "-V 5",
        ),
        (
            &["pub", "-t", "a", "-m", "x", "--user-property", "y"],
            "NAME=VALUE",
        ),
        (
            &["pub", "-t", "a", "-m", "x", "--will-payload", "y"],
            "--will-topic",
        ),
        (&["pub", "-t", "a", "-m", "x", "--url", "http://b"], "mqtt://"),
        (
            &["pub", "-t", "a", "-m", "x", "--url", "mqtt://u:hush@b"],
            "password file",
        ),
        (
            &["pub", "-t", "a", "-m", "x", "--url", "mqtt://b", "--insecure"],
            "mqtts://",
        ),
        (&["pub", "-h"], "--help"),
        (&["sub"], "--topic"),
        (&["sub", "-t", "a/#/b"], "'#' must stand alone"),
        (&["sub", "-t", "a", "-F", "%y"], "unknown conversion '%y'"),
        (&["sub", "-t", "a", "-F", "%p", "-v"], "cannot be used with"),
        (&["sub", "-t", "a", "-C", "0"], "0 is not in"),
        (&["sub", "-t", "a", "-W", "soon"], "number of seconds"),
        (&["sub", "-t", "a", "-V", "3.1.1", "-c"], "--id"),
        (
            &["sub", "-t", "a", "-V", "3.1.1", "--retain-handling", "new"],
            "-V 5",
        ),
        (&["bench", "--size", "19"], "from 20"),
        (&["bench", "--spawn", "mosquitto"], "{port}"),
        (
            &[
                "bench",
                "--scenario",
                "pairs",
                "--publishers",
                "2",
                "--subscribers",
                "3",
            ],
            "as many of each",
        ),
        (&["completions", "sand"], "possible values"),
        (&["publish"], "pub"),
        (&[], "Usage"),
    ] {
        let (code, out, err) = output(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?} said: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(!err.contains("hush"), "a password is not repeated: {err}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    for command in [
        "run",
        "check",
        "demo",
        "boards",
        "passwd",
        "acl explain",
        "cert",
        "pub",
        "sub",
        "bench",
        "completions",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let (code, out, _) = output(&words);
        assert_eq!(code, Some(0), "{command}");
        assert!(
            out.contains("Examples:") && out.contains(&format!("tidegate {command}")),
            "{command}: {out}"
        );
    }
}

#[test]
fn version_names_the_protocols() {
    let (code, out, _) = output(&["version"]);
    assert_eq!(code, Some(0));
    assert!(
        out.starts_with(concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n"))
            && out.contains("MQTT 3.1, 3.1.1, 5.0")
    );
}

#[test]
fn completions_exist_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = output(&["completions", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(out.contains("retain-handling"), "{shell}");
    }
}

#[test]
fn a_server_that_is_not_there_exits_with_1_and_is_named() {
    run(async {
        let (listener, server) = listen().await;
        drop(listener);
        for command in [&["pub", "-t", "a", "-m", "x"][..], &["sub", "-t", "a"]] {
            let (code, _, err) = read(&start(command, &server).output().unwrap());
            assert_eq!(code, Some(1));
            assert!(
                err.contains(&format!("cannot connect to 127.0.0.1 port {}", server[3])),
                "{err}"
            );
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_is_told_once() {
    let (code, _, err) = output(&["pub", "-t", "a", "-m", "x", "--cafile", "no/such.pem"]);
    assert_eq!(code, Some(1));
    assert_eq!(err.matches("No such file").count(), 1, "{err}");
}

#[test]
fn an_address_to_listen_on_that_is_none_is_told_with_what_was_expected() {
    let (code, _, err) = output(&["run", "--listen", "localhost:1883"]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("localhost:1883") && err.contains("127.0.0.1:1883"),
        "{err}"
    );
}

/// A program that ends with its test, also where that fails.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a gateway started with `arguments` answers to `said`, and what it logs from then on.
fn answer_and_log(arguments: &[&str], said: &[u8]) -> (Vec<u8>, String) {
    let mut gateway = Ending(tidegate(arguments).stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(gateway.0.stderr.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the gateway listens");
        if let Some((_, address)) = line.trim_end().split_once("address=") {
            break address.to_owned();
        }
    };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(said).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    drop(gateway);
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    (answer, rest)
}

#[test]
fn a_malformed_connect_is_one_debug_line() {
    // Protocol level 6.
    let said = b"\x10\x0d\0\x04MQTT\x06\x02\0\x3c\0\x01x";
    let (answer, log) = answer_and_log(&["run", "-v", "--listen", "127.0.0.1:0"], said);
    assert_eq!(answer, b"\x20\x03\0\x84\0");
    assert_eq!(log.matches("protocol level 6").count(), 1, "{log}");
}

#[test]
fn a_wrong_password_is_one_line_of_the_audit_and_is_not_repeated_there() {
    let folder = tempfile::tempdir().unwrap();
    let (users, config) = (folder.path().join("users"), folder.path().join("t.toml"));
    let users = users.to_str().unwrap();
    let mut passwd = tidegate(&["passwd", users, "ann", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    passwd.stdin.take().unwrap().write_all(b"right\n").unwrap();
    assert!(passwd.wait().unwrap().success());
    let text =
        format!("[authentication]\npassword_file = {users:?}\n[listener.a]\naddress = '127.0.0.1:0'\n");
    fs::write(&config, text).unwrap();
    // 3.1.1, client x, user ann, password guess.
    let said = b"\x10\x19\0\x04MQTT\x04\xc2\0\x3c\0\x01x\0\x03ann\0\x05guess";
    let (answer, log) = answer_and_log(&["run", "--config", config.to_str().unwrap()], said);
    assert_eq!(answer, b"\x20\x02\0\x04");
    let told: Vec<_> = log.lines().filter(|line| line.contains("audit: ")).collect();
    assert!(told.len() == 1 && told[0].contains("ann"), "{log}");
    assert!(!log.contains("guess"), "{log}");
}

#[test]
fn a_demonstration_nobody_reads_any_more_ends_without_an_error() {
    let mut demonstration = tidegate(&["demo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(demonstration.stdout.take());
    let (code, _, err) = read(&demonstration.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

#[test]
fn pub_sends_what_its_options_say_and_exits_with_0_once_it_is_acknowledged() {
    run(async {
        let (listener, server) = listen().await;
        let arguments = "pub -t a/b -m on -q 1 -r -i probe -k 7 -u alice --will-topic gone --will-payload bye \
             --will-qos 1 --will-retain --message-expiry 60 --content-type text/plain --response-topic answers \
             --correlation-data c7 --user-property room=4 --payload-utf8";
        let arguments: Vec<&str> = arguments.split_ascii_whitespace().collect();
        let child = start(&arguments, &server)
            .env("TIDEGATE_PASSWORD", "secret")
            .spawn()
            .unwrap();
        let child = finish(child, b"");

        let mut peer = Peer::accept(&listener).await;
        let connect = connect_of(&mut peer).await;
        assert_eq!(connect.client_id.unwrap().as_str(), "probe");
        assert_eq!(connect.keep_alive_secs, 7);
        assert_eq!(connect.user_name.unwrap().as_str(), "alice");
        assert_eq!(connect.password.unwrap(), "secret");
        assert!(connect.clean_start);
        let will = connect.will.unwrap();
        assert_eq!((will.topic.as_str(), &will.payload[..]), ("gone", &b"bye"[..]));
        assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, true));

        let publish = publish_of(&mut peer).await;
        assert_eq!(publish.topic.unwrap().as_str(), "a/b");
        assert_eq!(
            (&publish.payload[..], publish.qos, publish.retain),
            (&b"on"[..], QoS::AtLeastOnce, true)
        );
        let text = |text: &str| Utf8String::try_from(text).unwrap();
        let expected = PublishProperties {
            payload_is_utf8: Some(true),
            message_expiry_secs: Some(60),
            response_topic: Some(TopicName::try_from("answers").unwrap()),
            correlation_data: Some(Bytes::from_static(b"c7")),
            user_properties: vec![(text("room"), text("4"))],
            content_type: Some(text("text/plain")),
            ..PublishProperties::default()
        };
        assert_eq!(publish.properties.as_deref(), Some(&expected));
        peer.say(Packet::PubAck(Ack::success(publish.packet_id.unwrap())))
            .await;
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(
            read(&child.join().unwrap()),
            (Some(0), String::new(), String::new())
        );
    });
}

#[test]
fn pub_takes_the_password_from_the_first_line_of_a_file() {
    run(async {
        let (listener, server) = listen().await;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"from file\nnot this\n").unwrap();
        let arguments = [
            "pub",
            "-t",
            "a",
            "-n",
            "-u",
            "alice",
            "--password-file",
            file.path().to_str().unwrap(),
        ];
        let child = finish(start(&arguments, &server).spawn().unwrap(), b"");
        let mut peer = Peer::accept(&listener).await;
        assert_eq!(connect_of(&mut peer).await.password.unwrap(), "from file");
        assert_eq!(publish_of(&mut peer).await.payload, "");
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(child.join().unwrap().status.code(), Some(0));
    });
}

#[test]
fn pub_sends_each_line_of_its_input_as_a_message() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["pub", "-t", "a", "-l", "-q", "2"], &server)
                .spawn()
                .unwrap(),
            b"one\ntwo\n\nfour",
        );
        let mut peer = Peer::welcome(&listener).await;
        let mut lines = Vec::new();
        loop {
            match peer.hear().await.unwrap() {
                Packet::Publish(publish) => {
                    peer.say(Packet::PubRec(Ack::success(publish.packet_id.unwrap())))
                        .await;
                    lines.push(publish.payload);
                }
                Packet::PubRel(ack) => peer.say(Packet::PubComp(ack)).await,
                Packet::Disconnect(_) => break,
                other => panic!("unexpected {}", other.name()),
            }
        }
        assert_eq!(lines, ["one", "two", "", "four"]);
        drop(peer);
        assert_eq!(child.join().unwrap().status.code(), Some(0));
    });
}

#[test]
fn pub_sends_its_whole_input_as_one_message() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["pub", "-t", "a", "-s"], &server).spawn().unwrap(),
            b"one\n\0two\n",
        );
        let mut peer = Peer::welcome(&listener).await;
        assert_eq!(publish_of(&mut peer).await.payload, "one\n\0two\n");
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(child.join().unwrap().status.code(), Some(0));
    });
}

#[test]
fn a_refused_message_exits_with_1_and_the_reason() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["pub", "-t", "a", "-m", "x", "-q", "1"], &server)
                .spawn()
                .unwrap(),
            b"",
        );
        let mut peer = Peer::welcome(&listener).await;
        let packet_id = publish_of(&mut peer).await.packet_id.unwrap();
        peer.say(Packet::PubAck(Ack::with_reason(
            packet_id,
            ReasonCode::NotAuthorized,
        )))
        .await;
        let (code, _, err) = read(&child.join().unwrap());
        assert_eq!(code, Some(1));
        assert!(err.contains("not authorized"), "{err}");
    });
}

#[test]
fn a_refused_connection_exits_with_1_and_the_reason() {
    run(async {
        let (listener, server) = listen().await;
        for command in [&["pub", "-t", "a", "-m", "x"][..], &["sub", "-t", "a"]] {
            let child = finish(start(command, &server).spawn().unwrap(), b"");
            let mut peer = Peer::accept(&listener).await;
            peer.hear().await.unwrap();
            let reason = ReasonCode::BadUserNameOrPassword;
            peer.say(Packet::ConnAck(Box::new(ConnAck {
                reason,
                ..ConnAck::default()
            })))
            .await;
            let (code, _, err) = read(&child.join().unwrap());
            assert_eq!(code, Some(1));
            assert!(err.contains("bad user name or password"), "{err}");
        }
    });
}

#[test]
fn sub_prints_as_it_is_told_and_ends_after_the_count() {
    for (options, printed) in [
        (&[][..], "21.5\nwarm\n"),
        (&["-v"], "site/t 21.5\nsite/u warm\n"),
        (&["-N"], "21.5warm"),
        (&["-F", "%t=%p (%l)"], "site/t=21.5 (4)\nsite/u=warm (4)\n"),
        (&["-F", "%x"], "32312e35\n7761726d\n"),
    ] {
        run(async {
            let (listener, server) = listen().await;
            let arguments = [&["sub", "-t", "site/#", "-T", "site/hidden", "-C", "2"], options].concat();
            let child = finish(start(&arguments, &server).spawn().unwrap(), b"");
            let mut peer = Peer::welcome(&listener).await;
            grant(&mut peer, ReasonCode::Success).await;
            peer.say(live("site/t", b"21.5")).await;
            peer.say(live("site/hidden", b"x")).await;
            peer.say(live("site/u", b"warm")).await;
            assert!(is_goodbye(&mut peer).await);
            drop(peer);
            assert_eq!(
                read(&child.join().unwrap()),
                (Some(0), printed.to_owned(), String::new()),
                "{options:?}"
            );
        });
    }
}

#[test]
fn sub_prints_json_that_can_be_read_back() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["sub", "-t", "#", "-C", "1", "--json"], &server)
                .spawn()
                .unwrap(),
            b"",
        );
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        peer.say(live("site/\"t\"", b"{\"v\":1}")).await;
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        let (_, out, _) = read(&child.join().unwrap());
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (value["topic"].as_str(), value["payload"].as_str()),
            (Some("site/\"t\""), Some("{\"v\":1}"))
        );
    });
}

#[test]
fn sub_exits_with_27_when_its_time_is_over_even_if_the_server_never_says_a_word() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["sub", "-t", "a", "-W", "0.05"], &server).spawn().unwrap(),
            b"",
        );
        assert_eq!(child.join().unwrap().status.code(), Some(27));
        drop(listener);
    });
}

#[test]
fn sub_exits_with_1_when_no_subscription_is_granted() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(start(&["sub", "-t", "secret"], &server).spawn().unwrap(), b"");
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::NotAuthorized).await;
        while peer.hear().await.is_some() {}
        let (code, _, err) = read(&child.join().unwrap());
        assert_eq!(code, Some(1));
        assert!(err.contains("secret") && err.contains("not authorized"), "{err}");
    });
}

#[test]
fn sub_connects_again_and_subscribes_anew() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["sub", "-t", "a", "-C", "1"], &server).spawn().unwrap(),
            b"",
        );
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        drop(peer);
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        peer.say(live("a", b"back")).await;
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        let (code, out, err) = read(&child.join().unwrap());
        assert_eq!((code, out.as_str()), (Some(0), "back\n"));
        assert!(err.contains("connecting again"), "{err}");
    });
}

#[test]
fn sub_without_reconnect_exits_with_1_when_the_connection_breaks() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["sub", "-t", "a", "--no-reconnect"], &server)
                .spawn()
                .unwrap(),
            b"",
        );
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        drop(peer);
        assert_eq!(child.join().unwrap().status.code(), Some(1));
    });
}

#[test]
fn sub_ends_quietly_when_nobody_reads_it_any_more() {
    run(async {
        let (listener, server) = listen().await;
        let mut child = start(&["sub", "-t", "a"], &server).spawn().unwrap();
        drop(child.stdout.take());
        let child = finish(child, b"");
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        peer.say(live("a", b"to nobody")).await;
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(
            read(&child.join().unwrap()),
            (Some(0), String::new(), String::new())
        );
    });
}

#[test]
fn sub_says_goodbye_when_it_is_told_to_end() {
    run(async {
        let (listener, server) = listen().await;
        let child = start(&["sub", "-t", "a"], &server).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let child = finish(child, b"");
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(child.join().unwrap().status.code(), Some(0));
    });
}

#[test]
fn sub_with_retained_only_ends_with_the_first_live_message() {
    run(async {
        let (listener, server) = listen().await;
        let child = finish(
            start(&["sub", "-t", "a", "--retained-only"], &server)
                .spawn()
                .unwrap(),
            b"",
        );
        let mut peer = Peer::welcome(&listener).await;
        grant(&mut peer, ReasonCode::Success).await;
        let Packet::Publish(mut retained) = live("a", b"kept") else {
            unreachable!()
        };
        retained.retain = true;
        peer.say(Packet::Publish(retained)).await;
        peer.say(live("a", b"live")).await;
        assert!(is_goodbye(&mut peer).await);
        drop(peer);
        assert_eq!(
            read(&child.join().unwrap()),
            (Some(0), "kept\n".to_owned(), String::new())
        );
    });
}

#[test]
fn bench_counts_every_loss_and_every_duplicate() {
    run(async {
        let (listener, server) = listen().await;
        let arguments = ["bench", "--count", "100", "--window", "4", "-V", "5"];
        let child = finish(start(&arguments, &server).spawn().unwrap(), b"");
        let mut subscriber = Peer::welcome(&listener).await;
        grant(&mut subscriber, ReasonCode::Success).await;
        let mut publisher = Peer::welcome(&listener).await;
        // A broker that loses the message with number 10 and sends the one with number 20 twice.
        for number in 0..100 {
            let publish = publish_of(&mut publisher).await;
            let copies = match number {
                10 => 0,
                20 => 2,
                _ => 1,
            };
            for _ in 0..copies {
                subscriber.say(Packet::Publish(publish.clone())).await;
            }
        }
        let (code, out, err) = read(&child.join().unwrap());
        assert_eq!(code, Some(0), "{err}");
        let figures: Vec<&str> = out.lines().last().unwrap().split_ascii_whitespace().collect();
        let [name, _rate, cpu, _p50, _p99, _p999, lost, duplicates, late] = figures[..] else {
            panic!("{out}")
        };
        assert_eq!(
            [name, cpu, lost, duplicates, late],
            ["broker", "unknown", "1", "1", "0"],
            "{out}"
        );
    });
}

#[test]
fn a_login_that_is_refused_says_what_was_missing() {
    let without_user = "name the user with -u NAME (the password is asked for, or comes from --password-file or \
                        TIDEGATE_PASSWORD)";
    let without_password = "give the user's password by --password-file FILE or TIDEGATE_PASSWORD";
    let commands: [&[&str]; 3] = [
        &["sub", "-t", "a"],
        &["pub", "-t", "a", "-m", "b"],
        &["bench", "--count", "1"],
    ];
    for command in commands {
        for (user, password, expected) in [
            (None, None, Some(without_user)),
            (Some("probe"), None, Some(without_password)),
            (Some("probe"), Some("wrong"), None),
        ] {
            run(async {
                let (listener, server) = listen().await;
                let mut program = start(command, &server);
                program.args(user.iter().flat_map(|user| ["-u", user]));
                if let Some(password) = password {
                    program.env("TIDEGATE_PASSWORD", password);
                }
                let child = finish(program.spawn().unwrap(), b"");
                let mut peer = Peer::accept(&listener).await;
                let Some(Packet::Connect(connect)) = peer.hear().await else {
                    panic!("expected CONNECT")
                };
                assert_eq!(connect.user_name.as_ref().map(Utf8String::as_str), user);
                assert_eq!(connect.password.as_deref(), password.map(str::as_bytes));
                peer.say(Packet::ConnAck(Box::new(ConnAck {
                    reason: ReasonCode::NotAuthorized,
                    ..ConnAck::default()
                })))
                .await;
                drop(peer);
                let (code, _, err) = read(&child.join().unwrap());
                assert_eq!(code, Some(1), "{err}");
                assert!(err.contains("not authorized"), "{err}");
                for hint in [without_user, without_password] {
                    assert_eq!(
                        err.contains(hint),
                        expected == Some(hint),
                        "{command:?} {user:?}: {err}"
                    );
                }
            });
        }
    }
}

#[test]
fn bench_and_pub_refuse_a_password_among_the_arguments() {
    for command in [
        &["bench", "-P", "secret"][..],
        &["pub", "-t", "a", "-m", "b", "-P", "secret"],
    ] {
        let (code, _, err) = output(command);
        assert_eq!(code, Some(2));
        assert!(
            err.contains("can be read by every user") && !err.contains("secret"),
            "{err}"
        );
    }
}

#[test]
fn pub_reaches_a_unix_socket_by_option_and_by_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let shown = path.to_str().unwrap();
    for way in [
        vec!["--unix".to_owned(), shown.to_owned()],
        vec!["--url".to_owned(), format!("unix:{shown}")],
        vec!["--url".to_owned(), format!("mqtt+unix://{shown}")],
    ] {
        run(async {
            let _ = std::fs::remove_file(&path);
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let child = finish(start(&["pub", "-t", "a", "-m", "b"], &way).spawn().unwrap(), b"");
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer::new(Stream::Unix(stream));
            assert!(matches!(peer.hear().await, Some(Packet::Connect(_))));
            peer.say(Packet::ConnAck(Box::default())).await;
            assert_eq!(publish_of(&mut peer).await.payload, "b");
            assert!(is_goodbye(&mut peer).await);
            drop(peer);
            assert_eq!(child.join().unwrap().status.code(), Some(0));
        });
    }
    let (code, _, err) = output(&[
        "pub",
        "-t",
        "a",
        "-m",
        "b",
        "--unix",
        "/nowhere/mqtt.sock",
        "--cafile",
        "x",
    ]);
    assert_eq!(code, Some(2));
    assert!(err.contains("of no use to unix:/nowhere/mqtt.sock"), "{err}");
}

/// A folder with an ACL file and a configuration that names it.
fn rules() -> (tempfile::TempDir, String, String) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let acl = write(
        "acl",
        "topic read public/#\nuser ann\ntopic deny plant/secret\ntopic plant/#\npattern write of/%c\n",
    );
    let config = write(
        "tidegate.toml",
        "[access]\nacl_file = 'acl'\n\n[access.groups]\noperators = ['bill']\n\n\
         [[access.rule]]\nallow = 'read'\ngroup = 'operators'\ntopics = 'plant/#'\n",
    );
    (folder, acl, config)
}

#[test]
fn acl_explain_names_the_line_that_decided_and_exits_with_0_or_1() {
    let (_folder, acl, config) = rules();
    let explain = |arguments: &[&str]| {
        let (code, out, err) = output(&[&["acl", "explain"], arguments].concat());
        assert_eq!(err, "");
        (code, out.replace(&acl, "acl").replace(&config, "tidegate.toml"))
    };
    for (arguments, code, expected) in [
        (
            &["ann", "plant/1", "--acl-file", &acl][..],
            0,
            "publish    allowed  acl:4 allows publish, subscribe, receive of plant/#\n\
             subscribe  allowed  acl:4 allows publish, subscribe, receive of plant/#\n\
             receive    allowed  acl:4 allows publish, subscribe, receive of plant/#\n\
             rules that ask for the client identifier were left out; give it with --client\n",
        ),
        (
            &[
                "ann",
                "plant/secret",
                "--client",
                "c",
                "--action",
                "publish",
                "--config",
                &config,
            ],
            1,
            "publish    denied   acl:3 denies publish, subscribe, receive of plant/secret\n",
        ),
        (
            &["ann", "plant/#", "--client", "c", "--acl-file", &acl],
            0,
            "subscribe  allowed  acl:4 allows publish, subscribe, receive of plant/#\n",
        ),
        (
            &["ann", "$share/g/#", "--client", "c", "--acl-file", &acl],
            1,
            "subscribe  denied   no rule matched, so it is denied\n",
        ),
        (
            &["-", "public/x", "--client", "c", "--config", &config],
            1,
            "publish    denied   no rule matched, so it is denied\n\
             subscribe  allowed  acl:1 allows subscribe, receive of public/#\n\
             receive    allowed  acl:1 allows subscribe, receive of public/#\n",
        ),
        (
            &[
                "bill", "plant/x", "--client", "c", "--action", "receive", "--config", &config,
            ],
            0,
            "receive    allowed  tidegate.toml:10 allows subscribe, receive of plant/#\n",
        ),
        (
            &[
                "eve",
                "plant/x",
                "--client",
                "c",
                "--action",
                "receive",
                "--groups",
                "operators",
                "--config",
                &config,
            ],
            0,
            "receive    allowed  tidegate.toml:10 allows subscribe, receive of plant/#\n",
        ),
        (
            &[
                "eve", "of/c", "--client", "c", "--action", "publish", "--config", &config,
            ],
            0,
            "publish    allowed  acl:5 allows publish of of/%c\n",
        ),
        (
            &[
                "eve", "of/c", "--client", "+", "--action", "publish", "--config", &config,
            ],
            1,
            "publish    denied   acl:5 cannot be asked: the client identifier holds '+', '#' or '/', and a rule has it \
             as %c\nsuch a client is not let in at all: the client identifier holds '+', '#' or '/', and a rule has \
             it as %c\n",
        ),
        (
            &[
                "eve", "$SYS/x", "--client", "c", "--action", "publish", "--config", &config,
            ],
            1,
            "publish    denied   topics that begin with \"$\" are written by the gateway alone\n",
        ),
    ] {
        assert_eq!(
            explain(arguments),
            (Some(code), expected.to_owned()),
            "{arguments:?}"
        );
    }
}

#[test]
fn acl_explain_exits_with_2_where_there_is_nothing_to_explain() {
    let (folder, acl, config) = rules();
    let wrong = folder.path().join("wrong").display().to_string();
    std::fs::write(&wrong, "topic raed a\n\nusr ann\n").unwrap();
    for (arguments, expected) in [
        (&["ann", "a"][..], "--config"),
        (&["ann", "", "--acl-file", &acl], "no topic"),
        (
            &["ann", "a/#", "--action", "publish", "--acl-file", &acl],
            "is a topic filter",
        ),
        (
            &["ann", "a", "--groups", "g", "--config", &config],
            "expected one of [access.groups]",
        ),
        (
            &["-", "a", "--groups", "operators", "--config", &config],
            "in no group",
        ),
        (
            &["ann", "a", "--acl-file", "/nowhere/acl"],
            "cannot read /nowhere/acl",
        ),
        (
            &["ann", "a", "--acl-file", &wrong],
            "wrong:1: found \"raed\" before a topic filter",
        ),
        (&["ann", "a", "--acl-file", &wrong], "wrong:3: found \"usr\""),
        (&["ann", "a", "--acl-file", &wrong], "2 mistakes"),
    ] {
        let (code, out, err) = output(&[&["acl", "explain"], arguments].concat());
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}
