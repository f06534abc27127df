//! A whole gateway, from socket to socket: what one client does to the others, and how connections end.

mod running;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tidegate::auth::access::Rights;
use tidegate::auth::acl::{Acl, Effect, mosquitto};
use tidegate::auth::passwords::{Cost, Users, hash};
use tidegate::client::{Client, ClientError, Disconnection};
use tidegate::config::Settings;
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, Will, WillProperties, encode};
use tidegate::serial::{
    DecoderSettings, Format, Framing, LinePoint, LinesSettings, PayloadForm, PointSettings, PortSettings,
    ReopenSettings, Separators,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use running::{
    Doors, Papers, Peer, connect, filter, message, options, publish, settings, settings_with_tls, subscribe,
    text, topic, with_gateway,
};

// Messages.

#[test]
fn a_message_reaches_its_subscriber_at_every_quality_in_every_version_over_tcp_and_tls() {
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers), async |doors| {
        for target in [doors.target(), doors.tls_target(&papers)] {
            for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
                let options = |id| tidegate::client::Options {
                    version,
                    ..options(id)
                };
                let mut subscriber = Client::connect(&target, options("reader")).await.expect("let in");
                let mut publisher = Client::connect(&target, options("writer")).await.expect("let in");
                assert_eq!(
                    subscriber
                        .subscribe_to(filter("a/#"), QoS::ExactlyOnce)
                        .await
                        .ok(),
                    Some(QoS::ExactlyOnce)
                );
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    for length in [0, 100, 100_000] {
                        let sent = message("a/b", vec![7; length], qos);
                        let (published, heard) =
                            tokio::join!(publisher.publish(sent.clone()), subscriber.next_message());
                        published.expect("the gateway takes the message");
                        assert_eq!(heard.expect("the connection stands"), sent);
                    }
                }
            }
        }
    });
}

#[test]
fn a_new_subscriber_gets_every_retained_message_however_many_there_are() {
    const TOPICS: usize = 500;
    with_gateway(settings(), async |doors| {
        let mut publisher = doors.client(options("publisher")).await;
        for number in 0..TOPICS {
            let mut message = message(&format!("kept/{number}"), "x", QoS::AtMostOnce);
            message.retain = true;
            publisher.publish(message).await.expect("taken");
        }
        let mut subscriber = doors.peer(connect("subscriber")).await;
        subscriber.subscribe("kept/+", QoS::AtMostOnce).await;
        let mut heard = std::collections::BTreeSet::new();
        while heard.len() < TOPICS {
            assert!(heard.insert(subscriber.hear_publish().await.topic), "heard twice");
        }
        subscriber.ping().await;
    });
}

#[test]
fn the_access_rules_of_the_settings_bind_whoever_comes() {
    let mut acl = Acl::new(Effect::Deny);
    let file = "topic write in/#\npattern read out/%c\n";
    mosquitto::parse(file, &Arc::from("acl"), &mut acl).expect("the file is right");
    let settings = Settings {
        rights: Rights::within(acl),
        ..settings()
    };
    with_gateway(settings, async |doors| {
        let mut client = doors.peer(connect("c1")).await;
        client.say(&subscribe("out/c2", QoS::AtMostOnce)).await;
        let Some(Packet::SubAck(suback)) = client.hear().await else {
            panic!("no SUBACK");
        };
        assert_eq!(suback.reasons[..], [ReasonCode::NotAuthorized]);
        client.subscribe("out/c1", QoS::AtMostOnce).await;
        for (topic, reason) in [
            ("in/a", ReasonCode::NoMatchingSubscribers),
            ("out/c1", ReasonCode::NotAuthorized),
        ] {
            client.say(&publish(topic, "x", Some(1))).await;
            let Some(Packet::PubAck(ack)) = client.hear().await else {
                panic!("no PUBACK");
            };
            assert_eq!(ack.reason, reason, "{topic}");
        }
        let stream = TcpStream::connect(doors.address("local")).await.expect("a door");
        let mut wild = Peer::stranger(stream, ProtocolVersion::V5);
        let connack = wild.knock(connect("+")).await;
        assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    });
}

// Who does not read.

#[test]
fn a_subscriber_that_stops_reading_holds_up_nobody_and_is_served_again_when_it_reads() {
    const MESSAGES: usize = 3000;
    const PAYLOAD_BYTES: usize = 16 * 1024;
    with_gateway(settings(), async |doors| {
        let mut sleeper = doors.narrow_peer(connect("sleeper")).await;
        sleeper.subscribe("flood/#", QoS::AtMostOnce).await;
        let mut reader = doors.peer(connect("reader")).await;
        reader.subscribe("flood/#", QoS::AtMostOnce).await;
        let mut publisher = doors.peer(connect("publisher")).await;
        let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
        for _ in 0..MESSAGES {
            // In step with the reader, who must miss nothing.
            publisher.say(&publish("flood/all", payload.clone(), None)).await;
            assert_eq!(reader.hear_publish().await.payload.len(), PAYLOAD_BYTES);
        }

        sleeper.say(&Packet::PingReq).await;
        let mut heard = 0;
        while let Some(Packet::Publish(publish)) = sleeper.hear().await {
            assert_eq!(publish.payload, payload);
            heard += 1;
        }
        assert!(heard > 0);
        assert!(
            heard < MESSAGES / 2,
            "{heard} messages waited for somebody who does not read"
        );
        publisher.say(&publish("flood/last", "again", None)).await;
        assert_eq!(sleeper.hear_publish().await.payload, "again");
    });
}

#[test]
fn what_waits_for_a_subscriber_that_pauses_arrives_in_order_and_without_a_gap() {
    const MESSAGES: u16 = 1000;
    let mut settings = settings();
    // More than the kernel's buffers hold, so that the gateway has to wait for the client.
    settings.limits.inflight_max = MESSAGES;
    settings.limits.queue_bytes_max = 32 * 1024 * 1024;
    with_gateway(settings, async |doors| {
        let mut sleeper = doors.narrow_peer(connect("sleeper")).await;
        sleeper.subscribe("data", QoS::AtLeastOnce).await;
        let mut publisher = doors.client(options("publisher")).await;
        for number in 0..MESSAGES {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(16 * 1024, 0);
            publisher
                .publish(message("data", payload, QoS::AtLeastOnce))
                .await
                .expect("taken");
        }
        for number in 0..MESSAGES {
            let publish = sleeper.hear_publish().await;
            assert_eq!(publish.payload[..2], number.to_be_bytes());
            sleeper.acknowledge(publish.packet_id).await;
        }
        sleeper.ping().await;
    });
}

#[test]
fn what_waits_for_a_subscriber_over_tls_arrives_in_order_too() {
    const MESSAGES: u16 = 1000;
    let papers = Papers::new();
    let mut settings = settings_with_tls(&papers);
    settings.limits.inflight_max = MESSAGES;
    settings.limits.queue_bytes_max = 32 * 1024 * 1024;
    with_gateway(settings, async |doors| {
        let options = tidegate::client::Options {
            receive_maximum: MESSAGES,
            ..options("sleeper")
        };
        let mut sleeper = Client::connect(&doors.tls_target(&papers), options)
            .await
            .expect("let in");
        sleeper
            .subscribe_to(filter("data"), QoS::AtLeastOnce)
            .await
            .expect("granted");
        // Nothing is read while nobody asks the client for anything.
        let mut publisher = doors.client(running::options("publisher")).await;
        for number in 0..MESSAGES {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(16 * 1024, 0);
            publisher
                .publish(message("data", payload, QoS::AtLeastOnce))
                .await
                .expect("taken");
        }
        for number in 0..MESSAGES {
            let message = sleeper.next_message().await.expect("the connection stands");
            assert_eq!(message.payload[..2], number.to_be_bytes());
        }
    });
}

#[test]
fn a_publisher_that_does_not_read_its_acknowledgements_is_not_read_and_harms_nobody() {
    const BATCH: u16 = 1000;
    const BATCHES_MAX: usize = 20_000;
    with_gateway(settings(), async |doors| {
        let mut publisher = doors.narrow_peer(connect("publisher")).await;
        let mut witness = Witness::new(doors).await;
        let batch: Vec<_> = (1..=BATCH).map(|id| publish("nowhere", "x", Some(id))).collect();
        // The gateway is done with it once nothing more is taken from it while others are served as ever.
        let (mut batches, mut idle_rounds) = (0, 0);
        while idle_rounds < 100 && batches < BATCHES_MAX {
            if publisher.say_rest_now().await {
                batches += 1;
                idle_rounds = 0;
                batch.iter().for_each(|packet| publisher.prepare(packet));
            } else {
                idle_rounds += 1;
                witness.look().await;
            }
        }
        assert!(batches < BATCHES_MAX, "the gateway reads on and on");

        for number in 0..batches {
            for id in 1..=BATCH {
                match publisher.hear().await {
                    Some(Packet::PubAck(ack)) => assert_eq!(ack.packet_id.get(), id),
                    other => panic!("expected acknowledgement {id} of batch {number}, found {other:?}"),
                }
            }
        }
        publisher.ping().await;
    });
}

#[test]
fn a_subscriber_that_is_behind_is_still_heard() {
    with_gateway(settings(), async |doors| {
        let mut sleeper = doors.narrow_peer(connect("sleeper")).await;
        sleeper.subscribe("flood", QoS::AtMostOnce).await;
        fall_behind(doors, "flood").await;
        let mut witness = doors.peer(connect("reader")).await;
        witness.subscribe("word", QoS::AtMostOnce).await;
        sleeper.say(&publish("word", "I am here", None)).await;
        assert_eq!(witness.hear_publish().await.payload, "I am here");
    });
}

// Farewells.

#[test]
fn a_client_hears_why_it_must_go_though_it_was_still_talking() {
    let wrong: [(&str, &[u8], ReasonCode); 3] = [
        ("a packet of type 0", &[0x00, 0x00], ReasonCode::MalformedPacket),
        (
            "a PUBACK for packet 0",
            &[0x40, 0x02, 0x00, 0x00],
            ReasonCode::ProtocolError,
        ),
        (
            "a second CONNECT",
            b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c",
            ReasonCode::ProtocolError,
        ),
    ];
    with_gateway(settings(), async |doors| {
        for (name, bytes, reason) in wrong {
            let mut stream = doors.stream().await;
            let mut all = BytesMut::new();
            encode(
                &Packet::Connect(Box::new(connect("talker"))),
                ProtocolVersion::V5,
                &mut all,
            );
            all.extend_from_slice(bytes);
            for _ in 0..5 {
                encode(
                    &publish("a", vec![0; 100_000], None),
                    ProtocolVersion::V5,
                    &mut all,
                );
            }
            stream.write_all(&all).await.expect("the gateway takes all of it");
            let mut talker = Peer::stranger(stream, ProtocolVersion::V5);
            assert!(matches!(talker.hear().await, Some(Packet::ConnAck(_))), "{name}");
            talker.hear_farewell(reason).await;
        }
    });
}

#[test]
fn a_client_that_is_behind_and_talks_without_end_hears_that_it_was_taken_over() {
    with_gateway(settings(), async |doors| {
        let mut old = doors.narrow_peer(connect("twin")).await;
        old.subscribe("flood", QoS::AtMostOnce).await;
        fall_behind(doors, "flood").await;
        let mut new = doors.peer(connect("twin")).await;
        // More than the kernel keeps for the gateway, and nothing is read before it is said.
        for _ in 0..1000 {
            old.say(&publish("nowhere", vec![0; 16 * 1024], None)).await;
        }
        old.hear_farewell(ReasonCode::SessionTakenOver).await;
        new.ping().await;
    });
}

#[test]
fn a_client_too_old_for_a_farewell_is_closed_at_once_and_may_finish_what_it_says() {
    with_gateway(settings(), async |doors| {
        let version = ProtocolVersion::V311;
        let mut old = doors
            .peer(Connect {
                version,
                ..connect("twin")
            })
            .await;
        let mut new = doors
            .peer(Connect {
                version,
                ..connect("twin")
            })
            .await;
        assert_eq!(old.hear().await, None);
        // A stream that had been given up would be reset at the second of these.
        for _ in 0..10 {
            old.say(&Packet::PingReq).await;
            new.ping().await;
        }
    });
}

#[test]
fn of_twenty_connections_with_one_client_id_one_lives() {
    with_gateway(settings(), async |doors| {
        let mut twins = Vec::new();
        for _ in 0..20 {
            let mut twin = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
            twin.say(&Packet::Connect(Box::new(connect("twin")))).await;
            twins.push(twin);
        }
        let mut last = None;
        let mut taken_over = 0;
        for mut twin in twins {
            assert!(matches!(twin.hear().await, Some(Packet::ConnAck(_))));
            twin.try_say(&Packet::PingReq).await.ok();
            match twin.hear().await {
                Some(Packet::PingResp) => {
                    assert!(last.replace(twin).is_none(), "two of them live");
                }
                Some(Packet::Disconnect(disconnect)) => {
                    assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
                    assert_eq!(twin.hear().await, None);
                    taken_over += 1;
                }
                other => panic!("expected PINGRESP or DISCONNECT, found {other:?}"),
            }
        }
        assert_eq!(taken_over, 19);
        last.expect("one of them lives").ping().await;
    });
}

#[test]
fn a_client_that_falls_silent_is_told_and_its_will_published() {
    with_gateway(settings(), async |doors| {
        let mut witness = doors.peer(connect("witness")).await;
        witness.subscribe("will", QoS::AtMostOnce).await;
        let mut silent = doors
            .peer(Connect {
                keep_alive_secs: 1,
                will: will("will"),
                ..connect("silent")
            })
            .await;
        assert_eq!(witness.hear_publish().await.payload, "gone");
        silent.hear_farewell(ReasonCode::KeepAliveTimeout).await;
    });
}

#[test]
fn whoever_says_nothing_is_closed_after_the_time_for_connect() {
    let mut settings = settings();
    settings.limits.connect_timeout = Duration::from_millis(100);
    with_gateway(settings, async |doors| {
        let mut early = doors.peer(connect("early")).await;
        let mut stranger = doors.stream().await;
        assert_eq!(stranger.read(&mut [0]).await.expect("closed, not reset"), 0);
        early.ping().await;
    });
}

#[test]
fn clients_that_are_in_leave_the_way_in_free_for_others() {
    let mut settings = settings();
    settings.listeners[0].net.pending_max = 2;
    with_gateway(settings, async |doors| {
        let mut clients = Vec::new();
        for number in 0..20 {
            clients.push(doors.peer(connect(&format!("client-{number}"))).await);
        }
        for client in &mut clients {
            client.ping().await;
        }
    });
}

#[test]
fn a_client_that_never_hangs_up_is_cut_off() {
    with_gateway(settings(), async |doors| {
        let mut rude = doors.peer(connect("rude")).await;
        rude.say(&Packet::Disconnect(Box::default())).await;
        assert_eq!(rude.hear().await, None);
        // The gateway has ended its half; ours stays open, and is reset in the end.
        while rude.try_say(&Packet::PingReq).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_connection_cut_anywhere_leaves_the_gateway_as_it_was() {
    let mut bytes = BytesMut::new();
    for packet in [
        Packet::Connect(Box::new(Connect {
            will: will("will"),
            ..connect("cut")
        })),
        subscribe("a/#", QoS::AtLeastOnce),
        publish("a/b", "hello", Some(2)),
        Packet::Disconnect(Box::default()),
    ] {
        encode(&packet, ProtocolVersion::V5, &mut bytes);
    }
    with_gateway(settings(), async |doors| {
        let mut witness = Witness::new(doors).await;
        for reset in [false, true] {
            for length in 0..=bytes.len() {
                let mut stream = doors.stream().await;
                stream
                    .write_all(&bytes[..length])
                    .await
                    .expect("the gateway takes it");
                if reset {
                    stream.set_zero_linger().expect("the option is known");
                }
                drop(stream);
                witness.look().await;
            }
        }
    });
}

// Passwords.

#[test]
fn a_wrong_password_is_refused_and_the_client_of_that_name_notices_nothing() {
    let mut settings = settings();
    settings.users = Some(users());
    with_gateway(settings, async |doors| {
        let mut owner = doors.peer(with_password("pump", "right")).await;
        owner.subscribe("a", QoS::AtMostOnce).await;
        let target = doors.target();
        for password in ["wrong", ""] {
            let options = tidegate::client::Options {
                user_name: Some(text("ann")),
                password: Some(Bytes::from(password)),
                ..options("pump")
            };
            match Client::connect(&target, options).await {
                Err(ClientError::Disconnected(Disconnection::Refused(reason, _))) => {
                    assert_eq!(reason, ReasonCode::BadUserNameOrPassword);
                }
                other => panic!("expected a refusal, found {other:?}"),
            }
            owner.say(&publish("a", "still here", None)).await;
            assert_eq!(owner.hear_publish().await.payload, "still here");
        }
        // The right one takes over, and what was said before the answer is heard after it.
        let mut stream = doors.stream().await;
        let mut all = BytesMut::new();
        encode(
            &Packet::Connect(Box::new(with_password("pump", "right"))),
            ProtocolVersion::V5,
            &mut all,
        );
        encode(&subscribe("b", QoS::AtMostOnce), ProtocolVersion::V5, &mut all);
        encode(&publish("b", "early", None), ProtocolVersion::V5, &mut all);
        stream.write_all(&all).await.expect("the gateway takes it");
        let mut heir = Peer::stranger(stream, ProtocolVersion::V5);
        assert!(matches!(heir.hear().await, Some(Packet::ConnAck(_))));
        assert!(matches!(heir.hear().await, Some(Packet::SubAck(_))));
        assert_eq!(heir.hear_publish().await.payload, "early");
        owner.hear_farewell(ReasonCode::SessionTakenOver).await;
    });
}

#[test]
fn clients_that_leave_while_their_password_is_checked_hold_up_nobody() {
    let mut settings = settings();
    settings.users = Some(users());
    with_gateway(settings, async |doors| {
        // Twice as many as may wait: were those who left still checked, the last would be told to come again.
        for _ in 0..128 {
            let mut hasty = doors.stream().await;
            let mut bytes = BytesMut::new();
            encode(
                &Packet::Connect(Box::new(with_password("hasty", "wrong"))),
                ProtocolVersion::V5,
                &mut bytes,
            );
            hasty.write_all(&bytes).await.expect("the gateway takes it");
        }
        let mut patient = doors.peer(with_password("patient", "right")).await;
        patient.ping().await;
    });
}

#[test]
fn without_a_password_file_a_name_opens_only_the_doors_that_are_open_to_all() {
    let mut settings = settings();
    let mut strict = settings.listeners[0].clone();
    strict.policy.name = "strict".to_owned();
    strict.policy.anonymous = false;
    settings.listeners.push(strict);
    with_gateway(settings, async |doors| {
        doors.peer(with_password("named", "any")).await.ping().await;
        let stream = TcpStream::connect(doors.address("strict"))
            .await
            .expect("the door is there");
        let mut stranger = Peer::stranger(stream, ProtocolVersion::V5);
        stranger
            .say(&Packet::Connect(Box::new(with_password("stranger", "any"))))
            .await;
        match stranger.hear().await {
            Some(Packet::ConnAck(connack)) => assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword),
            other => panic!("expected CONNACK, found {other:?}"),
        }
        assert_eq!(stranger.hear().await, None);
    });
}

// The end.

#[test]
fn a_gateway_that_stops_tells_every_client_and_closes_its_doors() {
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers), async |doors| {
        let mut plain = doors.peer(connect("plain")).await;
        let mut secured = Client::connect(&doors.tls_target(&papers), options("secured"))
            .await
            .expect("let in");
        let mut old = doors
            .peer(Connect {
                version: ProtocolVersion::V311,
                ..connect("old")
            })
            .await;
        let mut sleeper = doors.narrow_peer(connect("sleeper")).await;
        sleeper.subscribe("flood", QoS::AtMostOnce).await;
        fall_behind(doors, "flood").await;
        let mut stranger = doors.stream().await;

        doors.ask_to_stop();
        plain.hear_farewell(ReasonCode::ServerShuttingDown).await;
        match secured.next_event().await {
            Err(Disconnection::Ended(reason, _)) => assert_eq!(reason, ReasonCode::ServerShuttingDown),
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
        assert_eq!(old.hear().await, None);
        assert!(matches!(stranger.read(&mut [0]).await, Ok(0)));
        let refused = TcpStream::connect(doors.address("local")).await;
        assert_eq!(
            refused.map_err(|error| error.kind()).err(),
            Some(std::io::ErrorKind::ConnectionRefused)
        );
        // Somebody who does not read is not waited for.
        doors.until_over().await;
        drop(sleeper);
    });
}

#[test]
fn a_gateway_in_the_middle_of_a_handshake_stops() {
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers), async |doors| {
        let mut half = TcpStream::connect(doors.address("tls"))
            .await
            .expect("the door is open");
        // The header of a ClientHello, and no more.
        half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
            .await
            .expect("the gateway takes it");
        // Whoever comes later is accepted later.
        Client::connect(&doors.tls_target(&papers), options("later"))
            .await
            .expect("let in");
        doors.ask_to_stop();
        assert!(matches!(half.read(&mut [0]).await, Ok(0) | Err(_)));
        doors.until_over().await;
    });
}

// Sensors.

#[test]
fn a_reading_of_a_serial_line_reaches_a_subscriber_and_the_end_of_the_line_does_too() {
    let sensor = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&sensor).expect("the terminal is ours");
    unlockpt(&sensor).expect("the terminal is ours");
    let name = ptsname(&sensor, Vec::new()).expect("the terminal has a name");
    let mut settings = settings();
    settings.serial = vec![port(Path::new(name.to_str().expect("the name is text")))];
    with_gateway(settings, async |doors| {
        let mut subscriber = doors.peer(connect("subscriber")).await;
        subscriber.subscribe("gw/#", QoS::AtLeastOnce).await;
        // Again and again, as sensors do: what comes in while the line is being opened is not heard.
        let mut repeat = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = repeat.tick() => say(&sensor, "t=21.5\n"),
                heard = next_from(&mut subscriber) => {
                    if heard == ("gw/t".to_owned(), Bytes::from_static(b"21.5")) {
                        break;
                    }
                }
            }
        }
        doors.ask_to_stop();
        let offline = ("gw/port/wire/status".to_owned(), Bytes::from_static(b"offline"));
        while next_from(&mut subscriber).await != offline {}
        subscriber.hear_farewell(ReasonCode::ServerShuttingDown).await;
    });
}

async fn next_from(subscriber: &mut Peer) -> (String, Bytes) {
    let publish = subscriber.hear_publish().await;
    if publish.packet_id.is_some() {
        subscriber.acknowledge(publish.packet_id).await;
    }
    (
        publish.topic.expect("no aliases were agreed").as_str().to_owned(),
        publish.payload,
    )
}

fn say(sensor: &OwnedFd, line: &str) {
    let written = rustix::io::write(sensor, line.as_bytes()).expect("the terminal takes a line");
    assert_eq!(written, line.len());
}

fn port(path: &Path) -> PortSettings {
    let point = PointSettings {
        payload: PayloadForm::Value,
        ..PointSettings::new("t".parse().expect("a name"), topic("gw/t"))
    };
    let lines = LinesSettings::new(
        "sensor".parse().expect("a name"),
        Duration::from_secs(60),
        Format::KeyValue(Separators::default()),
        vec![LinePoint {
            settings: point,
            place: None,
        }],
        Framing::default(),
    );
    let millis = Duration::from_millis;
    PortSettings::new(
        &topic("gw"),
        "wire".parse().expect("a name"),
        path.to_owned(),
        "115200 8N1".parse().expect("a line setting"),
        ReopenSettings::new(millis(1), millis(10)).expect("in order"),
        DecoderSettings::Lines(lines.expect("the point fits the format")),
    )
    .expect("settings that go together")
}

/// A publisher and a subscriber, who must never notice anything.
struct Witness {
    publisher: Peer,
    subscriber: Peer,
    count: u64,
}

impl Witness {
    async fn new(doors: &Doors) -> Self {
        let publisher = doors.peer(connect("witness-publisher")).await;
        let mut subscriber = doors.peer(connect("witness-subscriber")).await;
        subscriber.subscribe("witness", QoS::AtMostOnce).await;
        Self {
            publisher,
            subscriber,
            count: 0,
        }
    }

    /// Passes one message.
    async fn look(&mut self) {
        self.count += 1;
        self.publisher
            .say(&publish("witness", self.count.to_string(), None))
            .await;
        assert_eq!(
            self.subscriber.hear_publish().await.payload,
            self.count.to_string()
        );
    }
}

/// Publishes until those who subscribed to `name` and do not read are owed all that the gateway holds for them.
async fn fall_behind(doors: &Doors, name: &str) {
    let mut flood = doors.peer(connect("flood")).await;
    for _ in 0..1000 {
        flood.say(&publish(name, vec![0; 16 * 1024], None)).await;
    }
    flood.ping().await;
}

fn will(name: &str) -> Option<Will> {
    Some(Will {
        topic: topic(name),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: WillProperties::default(),
    })
}

fn users() -> Arc<Users> {
    let cost = Cost::new(Cost::MEMORY_KIB_MIN, 1).expect("within bounds");
    let line = hash(b"right", cost, &[1; 16]).expect("a megabyte");
    Arc::new(Users::parse(&format!("ann:{line}\n")).expect("one user"))
}

fn with_password(id: &str, password: &'static str) -> Connect {
    Connect {
        user_name: Some(text("ann")),
        password: Some(Bytes::from_static(password.as_bytes())),
        ..connect(id)
    }
}

// Bounds.

#[test]
fn a_client_that_publishes_too_fast_waits_and_loses_nothing() {
    let mut settings = settings();
    settings.limits.publish_rate_max = 100;
    with_gateway(settings, async |doors| {
        let mut reader = doors.peer(connect("reader")).await;
        reader.subscribe("t", QoS::AtMostOnce).await;
        let mut writer = doors.peer(connect("writer")).await;
        // Both in one write: the second hundred makes it wait, and what it says then is read later.
        for number in 0..150_u32 {
            writer.prepare(&publish("t", number.to_string(), None));
        }
        writer.prepare(&Packet::PingReq);
        writer.finish_saying().await.expect("the gateway listens");
        for number in 0..150_u32 {
            assert_eq!(reader.hear_publish().await.payload, number.to_string());
        }
        assert_eq!(writer.hear().await, Some(Packet::PingResp));
        for number in 150..200_u32 {
            writer.say(&publish("t", number.to_string(), None)).await;
            assert_eq!(reader.hear_publish().await.payload, number.to_string());
        }
        writer.ping().await;
    });
}

#[test]
fn nobody_who_was_not_let_in_may_send_a_large_packet() {
    with_gateway(settings(), async |doors| {
        let large = |id| Connect {
            password: Some(vec![b'x'; 40 * 1024].into()),
            user_name: Some(text("user")),
            ..connect(id)
        };
        let mut stranger = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
        // The gateway may have hung up before all of it is said.
        let _ = stranger
            .try_say(&Packet::Connect(Box::new(large("stranger"))))
            .await;
        assert_eq!(stranger.hear().await, None);
        // Who is in may, at once.
        let mut peer = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
        peer.prepare(&Packet::Connect(Box::new(connect("peer"))));
        peer.prepare(&publish("t", vec![0; 200 * 1024], Some(1)));
        peer.finish_saying().await.expect("the gateway listens");
        assert!(matches!(peer.hear().await, Some(Packet::ConnAck(_))));
        assert!(matches!(peer.hear().await, Some(Packet::PubAck(_))));
    });
}

#[test]
fn parts_of_packets_that_never_end_are_given_up_where_memory_is_short() {
    let mut settings = settings();
    settings.limits.memory_bytes_max = 6 * 1024 * 1024;
    with_gateway(settings, async |doors| {
        let mut reader = doors.peer(connect("reader")).await;
        reader.subscribe("t", QoS::AtLeastOnce).await;
        let mut whole = BytesMut::new();
        encode(
            &publish("half", vec![0; 250 * 1024], None),
            ProtocolVersion::V5,
            &mut whole,
        );
        let mut halves = Vec::new();
        let mut refused = 0;
        for number in 0..60 {
            let id = format!("half{number}");
            let mut stream = doors.stream().await;
            let mut greeting = BytesMut::new();
            encode(
                &Packet::Connect(Box::new(connect(&id))),
                ProtocolVersion::V5,
                &mut greeting,
            );
            greeting.extend_from_slice(&whole[..240 * 1024]);
            // Once memory is short it is not let in, or not heard to the end.
            if stream.write_all(&greeting).await.is_err() {
                refused += 1;
            }
            halves.push(stream);
            reader.ping().await;
            reader.say(&publish("t", number.to_string(), None)).await;
            assert_eq!(reader.hear_publish().await.payload, number.to_string());
        }
        for stream in &mut halves {
            let mut heard = Vec::new();
            // Those that were given up have their end in their stream, the others hear no more than CONNACK.
            let ended = tokio::time::timeout(Duration::from_millis(50), stream.read_to_end(&mut heard)).await;
            refused += usize::from(ended.is_ok());
        }
        assert!(refused > 20, "{refused} of 60");
        drop(halves);
        // A turn of the loop, in which it hears that they are gone.
        reader.ping().await;
        reader.ping().await;
        let mut late = doors.peer(connect("late")).await;
        late.ping().await;
    });
}
