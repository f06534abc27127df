//! MQTT over WebSocket: the HTTP request it begins with, its frames byte by byte, and what it may not do to others.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod running;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use running::{IN_VAIN, Papers, connect, filter, message, options, publish, subscribe, topic, with_gateway};
use tidegate::client::{Address, Client, ClientError, Target};
use tidegate::config::{Listener, Settings};
use tidegate::mqtt::{
    Connect, Packet, ProtocolVersion, QoS, ReasonCode, Will, WillProperties, decode::Decoder, encode,
};
use tidegate::net::clock::FlooredClock;
use tidegate::net::link::Stream;
use tidegate::net::tls::{
    CertificateField, ClientCertificates, ClientSettings, ClientTrust, Connector, Roots, ServerSettings,
};
use tidegate::net::websocket::upgrade::{self, Origins};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Message as Frame, protocol::CloseFrame};

// Messages.

#[test]
fn a_message_reaches_its_subscriber_at_every_quality_in_every_version_with_and_without_tls() {
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers.server), async |doors| {
        for target in [
            target(doors, "web"),
            secure_target(doors, &client_settings(&papers.ca)),
        ] {
            for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
                let options = |id| tidegate::client::Options {
                    version,
                    ..options(id)
                };
                let mut subscriber = Client::connect(&target, options("reader")).await.unwrap();
                let mut publisher = Client::connect(&target, options("writer")).await.unwrap();
                subscriber
                    .subscribe_to(filter("a/#"), QoS::ExactlyOnce)
                    .await
                    .unwrap();
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    for length in [0, 100, 100_000] {
                        let sent = message("a/b", vec![7; length], qos);
                        let (published, heard) =
                            tokio::join!(publisher.publish(sent.clone()), subscriber.next_message());
                        published.unwrap();
                        assert_eq!(heard.unwrap(), sent);
                    }
                }
                publisher.disconnect(ReasonCode::Success).await;
                subscriber.disconnect(ReasonCode::Success).await;
            }
        }
    });
}

#[test]
fn what_waits_for_a_subscriber_that_does_not_read_arrives_in_order_with_and_without_tls() {
    const MESSAGES: u16 = 500;
    let papers = Papers::new();
    let mut settings = settings_with_tls(&papers.server);
    settings.limits.inflight_max = MESSAGES;
    settings.limits.queue_bytes_max = 32 * 1024 * 1024;
    with_gateway(settings, async |doors| {
        for target in [
            target(doors, "web"),
            secure_target(doors, &client_settings(&papers.ca)),
        ] {
            let sleeper = tidegate::client::Options {
                receive_maximum: MESSAGES,
                ..options("sleeper")
            };
            let mut sleeper = Client::connect(&target, sleeper).await.unwrap();
            sleeper
                .subscribe_to(filter("data"), QoS::AtLeastOnce)
                .await
                .unwrap();
            let mut publisher = doors.client(options("publisher")).await;
            for number in 0..MESSAGES {
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(20 * 1024, 0);
                let message = message("data", payload, QoS::AtLeastOnce);
                publisher.publish(message).await.unwrap();
            }
            for number in 0..MESSAGES {
                let message = sleeper.next_message().await.unwrap();
                assert_eq!(message.payload[..2], number.to_be_bytes());
            }
        }
    });
}

// Frames. [MQTT-6.0.0-2]

#[test]
fn frames_split_and_join_packets_as_they_like() {
    with_gateway(settings(), async |doors| {
        let mut bytes = bytes_of(&Packet::Connect(Box::new(connect("framed"))));
        bytes.extend(bytes_of(&subscribe("a", QoS::AtMostOnce)));
        bytes.extend(bytes_of(&publish("a", vec![5; 1000], None)));
        bytes.extend(bytes_of(&Packet::PingReq));
        let whole = vec![frame(BINARY, &bytes)];
        let single_bytes = bytes.chunks(1).map(|byte| frame(BINARY, byte)).collect();
        let across = bytes.chunks(70).map(|chunk| frame(BINARY, chunk)).collect();
        let (mut fragments, last) = (bytes.chunks(100).collect::<Vec<_>>(), frame(FIN, b""));
        let mut fragmented = vec![frame(BINARY & !FIN, fragments.remove(0))];
        for fragment in fragments {
            // A control frame may come between the fragments of a message.
            fragmented.push(frame(PING, b"between"));
            fragmented.push(frame(CONTINUATION, fragment));
        }
        fragmented.push(last);
        for frames in [whole, single_bytes, across, fragmented] {
            let mut raw = Raw::open(doors.address("web")).await;
            raw.say(&frames.concat()).await;
            let heard: Vec<&str> = raw.hear_packets(4).await.iter().map(Packet::name).collect();
            assert_eq!(heard, ["CONNACK", "SUBACK", "PUBLISH", "PINGRESP"]);
        }
    });
}

#[test]
fn frames_cut_anywhere_on_the_wire_are_read_all_the_same() {
    with_gateway(settings(), async |doors| {
        let mut bytes = frame(BINARY, &bytes_of(&Packet::Connect(Box::new(connect("cut")))));
        bytes.extend(frame(PING, b"now and then"));
        bytes.extend(frame(BINARY, &bytes_of(&publish("a", vec![5; 300], None))));
        bytes.extend(frame(BINARY, PINGREQ));
        for cut in 1..bytes.len() {
            let mut raw = Raw::open(doors.address("web")).await;
            raw.say(&bytes[..cut]).await;
            tokio::task::yield_now().await;
            raw.say(&bytes[cut..]).await;
            let heard: Vec<&str> = raw.hear_packets(2).await.iter().map(Packet::name).collect();
            assert_eq!(heard, ["CONNACK", "PINGRESP"], "cut at {cut}");
        }
    });
}

#[test]
fn packets_of_one_turn_go_out_in_one_frame_without_a_mask() {
    with_gateway(settings(), async |doors| {
        let mut raw = Raw::let_in(doors.address("web"), connect("reader")).await;
        raw.say(&frame(BINARY, &bytes_of(&subscribe("a", QoS::AtMostOnce))))
            .await;
        raw.hear_packets(1).await;
        // In one read, so in one turn of the gateway.
        let many: Vec<u8> = (0..50).flat_map(|_| bytes_of(&publish("a", "x", None))).collect();
        let mut publisher = doors.peer(connect("writer")).await;
        publisher.ping().await;
        raw.say(&frame(BINARY, &many)).await;
        let (first, payload) = raw.hear_frame().await.unwrap();
        assert_eq!((first, payload.len()), (BINARY, many.len()));
    });
}

// [MQTT-6.0.0-1]
#[test]
fn a_frame_that_must_not_be_closes_the_connection_publishes_the_will_and_is_told() {
    with_gateway(settings(), async |doors| {
        let mut witness = doors.peer(connect("witness")).await;
        witness.subscribe("will", QoS::AtMostOnce).await;
        let unmasked = [&[BINARY, 2][..], PINGREQ].concat();
        let mut long_ping = frame(PING, &[0; 126]);
        long_ping.truncate(8);
        for (name, bytes, code) in [
            ("text", frame(FIN | 1, b"\xC0\x00"), 1003_u16),
            ("text in fragments", frame(1, b"\xC0"), 1003),
            ("unmasked", unmasked, 1002),
            ("reserved bit", frame(BINARY | 0x40, PINGREQ), 1002),
            ("unknown opcode", frame(FIN | 5, PINGREQ), 1002),
            ("unknown control opcode", frame(FIN | 0xC, b""), 1002),
            ("continuation of nothing", frame(FIN, PINGREQ), 1002),
            (
                "interrupted",
                [frame(2, b"\xC0"), frame(BINARY, b"\0")].concat(),
                1002,
            ),
            ("ping in fragments", frame(PING & !FIN, b""), 1002),
            ("long ping", long_ping, 1002),
            (
                "length in too many bytes",
                vec![BINARY, 0x80 | 126, 0, 2, 0, 0, 0, 0, 0xC0, 0],
                1002,
            ),
            (
                "negative length",
                vec![BINARY, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                1002,
            ),
        ] {
            let mut raw = Raw::let_in(doors.address("web"), with_will("wrong")).await;
            // What came before it is still heard.
            raw.say(&[frame(BINARY, &bytes_of(&publish("will", "before", None))), bytes].concat())
                .await;
            assert_eq!(raw.hear_end().await, Some(code), "{name}");
            assert_eq!(witness.hear_publish().await.payload, "before", "{name}");
            assert_eq!(witness.hear_publish().await.payload, "gone", "{name}");
        }
        witness.ping().await;
    });
}

#[test]
fn a_ping_is_answered_in_its_place_and_a_pong_that_nobody_asked_for_is_nothing() {
    with_gateway(settings(), async |doors| {
        let mut raw = Raw::open(doors.address("web")).await;
        raw.say(&frame(PING, b"before CONNECT")).await;
        assert_eq!(raw.hear_frame().await, Some((PONG, b"before CONNECT".to_vec())));
        raw.say(&frame(
            BINARY,
            &bytes_of(&Packet::Connect(Box::new(connect("pinging")))),
        ))
        .await;
        raw.hear_packets(1).await;
        for payload in [&b""[..], b"are you there", &[7; 125]] {
            raw.say(&frame(PING, payload)).await;
            assert_eq!(raw.hear_frame().await, Some((PONG, payload.to_vec())));
        }
        raw.say(&[frame(PONG, b"unasked"), frame(BINARY, PINGREQ)].concat())
            .await;
        assert_eq!(raw.hear_frame().await, Some((BINARY, PINGRESP.to_vec())));
    });
}

// [MQTT-3.1.2-24]: what keeps the connection alive is a packet of MQTT.
#[test]
fn pings_of_the_websocket_do_not_stand_for_those_of_mqtt() {
    with_gateway(settings(), async |doors| {
        let silent = Connect {
            keep_alive_secs: 1,
            ..connect("silent")
        };
        let mut raw = Raw::let_in(doors.address("web"), silent).await;
        let (mut reader, mut writer) = raw.stream.split();
        let pings = async {
            // A broken pipe ends it at the latest.
            while writer.write_all(&frame(PING, b"")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let end = async {
            let mut bytes = Vec::new();
            let _ = reader.read_to_end(&mut bytes).await;
            bytes
        };
        let bytes = tokio::select! {
            () = pings => panic!("the end comes first"),
            bytes = end => bytes,
        };
        let farewell = [
            &[BINARY, 4][..],
            &[0xE0, 2, ReasonCode::KeepAliveTimeout as u8, 0],
        ]
        .concat();
        let close = [FIN | 8, 2, 0x03, 0xE8];
        let is_told = bytes.windows(farewell.len()).any(|found| found == farewell)
            || bytes.windows(5).any(|found| found == [BINARY, 3, 0xE0, 1, 0x8D]);
        assert!(is_told, "{bytes:02X?}");
        assert!(bytes.ends_with(&close), "{bytes:02X?}");
    });
}

#[test]
fn a_close_frame_is_answered_and_ends_the_connection_with_its_will() {
    with_gateway(settings(), async |doors| {
        let mut witness = doors.peer(connect("witness")).await;
        witness.subscribe("will", QoS::AtMostOnce).await;
        for code in [1000_u16, 1001, 4000] {
            let mut raw = Raw::let_in(doors.address("web"), with_will("leaver")).await;
            raw.say(&frame(FIN | 8, &code.to_be_bytes())).await;
            assert_eq!(raw.hear_end().await, Some(code));
            assert_eq!(witness.hear_publish().await.payload, "gone");
        }
        let mut raw = Raw::let_in(doors.address("web"), with_will("polite")).await;
        raw.say(&frame(BINARY, &[0xE0, 0])).await;
        raw.say(&frame(FIN | 8, b"")).await;
        raw.hear_end().await;
        witness.ping().await; // and no will
    });
}

#[test]
fn a_client_that_must_go_hears_why_then_a_close_frame_then_the_end() {
    with_gateway(settings(), async |doors| {
        let mut first = Raw::let_in(doors.address("web"), connect("twin")).await;
        let mut second = Raw::let_in(doors.address("web"), connect("twin")).await;
        match &first.hear_packets(1).await[..] {
            [Packet::Disconnect(disconnect)] => assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver),
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
        assert_eq!(first.hear_end().await, Some(1000));
        second.say(&frame(BINARY, PINGREQ)).await;
        second.hear_packets(1).await;
        doors.ask_to_stop();
        match &second.hear_packets(1).await[..] {
            [Packet::Disconnect(disconnect)] => assert_eq!(disconnect.reason, ReasonCode::ServerShuttingDown),
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
        assert_eq!(second.hear_end().await, Some(1000));
        doors.until_over().await;
    });
}

#[test]
fn a_length_that_lies_does_not_widen_the_bound_on_a_packet() {
    let mut settings = settings();
    settings.limits.packet_bytes_max = 64 * 1024;
    with_gateway(settings, async |doors| {
        // A frame of 2^62 bytes is no fault of its own; the packet in it is.
        let mut raw = Raw::let_in(doors.address("web"), connect("liar")).await;
        let mut header = vec![BINARY, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header.extend_from_slice(PINGREQ);
        raw.say(&header).await;
        assert_eq!(raw.hear_packets(1).await, [Packet::PingResp]);
        raw.say(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        match &raw.hear_packets(1).await[..] {
            [Packet::Disconnect(disconnect)] => assert_eq!(disconnect.reason, ReasonCode::PacketTooLarge),
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
        assert_eq!(raw.hear_end().await, Some(1000));
    });
}

// The request.

#[test]
fn whoever_asks_for_something_else_gets_a_short_answer_to_read() {
    with_gateway(settings(), async |doors| {
        let web = doors.address("web");
        let browser = "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nAccept: text/html\r\n\r\n";
        let with_protocol = |protocol: &str| REQUEST.replace("mqtt\r\n\r\n", &format!("{protocol}\r\n\r\n"));
        let with_origin =
            |origin: &str| REQUEST.replace("Upgrade: w", &format!("Origin: {origin}\r\nUpgrade: w"));
        let cookies = format!(
            "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nCookie: {}\r\n\r\n",
            "x".repeat(20_000)
        );
        let connect = bytes_of(&Packet::Connect(Box::new(connect("plain"))));
        for (request, status) in [
            (browser.as_bytes(), "426 "),
            (REQUEST.replace("/mqtt", "/").as_bytes(), "404 "),
            (REQUEST.replace("GET", "POST").as_bytes(), "405 "),
            (b"SSH-2.0-OpenSSH_9.7\r\n", "400 "),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", "400 "),
            (&connect, "400 "),
            (b"\n\n\n\n", "400 "),
            (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "400 "),
            (cookies.as_bytes(), "431 "),
            // [MQTT-6.0.0-3]
            (
                REQUEST.replace("Sec-WebSocket-Protocol: mqtt\r\n", "").as_bytes(),
                "400 ",
            ),
            (with_protocol("chat").as_bytes(), "400 "),
            (with_origin("https://evil.example").as_bytes(), "403 "),
            (with_origin("http://gateway.example").as_bytes(), "403 "),
        ] {
            let answer = answer_to(web, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            let (_, text) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                text.len() > 10 && text.len() < 200 && text.ends_with('\n'),
                "{answer}"
            );
        }
        Raw::let_in(web, running::connect("after")).await;
    });
}

// [MQTT-6.0.0-4]
#[test]
fn the_subprotocol_is_answered_by_the_name_it_was_offered_under() {
    with_gateway(settings(), async |doors| {
        for (offer, chosen) in [
            ("mqtt", "mqtt"),
            ("mqttv3.1, mqtt", "mqtt"),
            ("mqttv3.1", "mqttv3.1"),
        ] {
            let request = REQUEST.replace("mqtt\r\n\r\n", &format!("{offer}\r\n\r\n"));
            let (_, head) = open(doors.address("web"), &request).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            let expected = format!("\r\nSec-WebSocket-Protocol: {chosen}\r\n");
            assert!(head.contains(&expected), "{head}");
        }
    });
}

#[test]
fn origins_and_paths_of_the_configuration_decide() {
    let mut settings = settings();
    let web = settings
        .listeners
        .last_mut()
        .unwrap()
        .net
        .websocket
        .as_mut()
        .unwrap();
    web.paths = vec!["/".to_owned(), "/broker".to_owned()];
    web.origins = Origins::Listed(vec!["https://page.example".parse().unwrap()]);
    with_gateway(settings, async |doors| {
        let ask = async |path: &str, origin: &str| {
            let request = REQUEST
                .replace("/mqtt", path)
                .replace("Upgrade: w", &format!("{origin}Upgrade: w"));
            open(doors.address("web"), &request).await.1[9..12].to_owned()
        };
        assert_eq!(ask("/broker", "").await, "101", "no browser, no origin");
        assert_eq!(ask("/?a=b", "Origin: https://page.example\r\n").await, "101");
        assert_eq!(ask("/mqtt", "").await, "404");
        assert_eq!(ask("/", "Origin: http://localhost\r\n").await, "403");
        let two = "Origin: https://page.example\r\nOrigin: https://evil.example\r\n";
        assert_eq!(ask("/", two).await, "403");
    });
}

#[test]
fn a_page_of_this_machine_may_connect_without_configuration() {
    with_gateway(settings(), async |doors| {
        let web = doors.address("web");
        for host in ["localhost", "127.0.0.1"] {
            let host = format!("Host: {host}:{}\r\nOrigin: http://localhost:3000", web.port());
            let (_, head) = open(web, &REQUEST.replace("Host: gateway", &host)).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        }
    });
}

// The way in.

#[test]
fn whoever_is_slow_with_the_request_is_closed_and_holds_up_nobody() {
    let papers = Papers::new();
    let mut settings = settings_with_tls(&papers.server);
    for door in &mut settings.listeners {
        // Time for the honest one, too, however busy the machine is.
        door.net.handshake_timeout = Duration::from_secs(2);
        door.net.pending_max = 20;
    }
    let connector = Connector::new(&client_settings(&papers.ca), Arc::new(FlooredClock::default())).unwrap();
    with_gateway(settings, async |doors| {
        for name in ["web", "secure"] {
            let address = doors.address(name);
            let mut slow = Vec::new();
            for number in 0..19 {
                let tcp = TcpStream::connect(address).await.unwrap();
                let mut stream = match name {
                    "web" => Stream::Tcp(tcp),
                    _ => connector.connect(tcp, "127.0.0.1", IN_VAIN).await.unwrap(),
                };
                stream.write_all(&REQUEST.as_bytes()[..number]).await.unwrap();
                stream.flush().await.unwrap();
                slow.push(stream);
            }
            // While they hold their places, and drip.
            let target = match name {
                "web" => target(doors, name),
                _ => secure_target(doors, &client_settings(&papers.ca)),
            };
            let mut honest = Client::connect(&target, options("honest")).await.unwrap();
            honest.publish(message("a", "b", QoS::AtLeastOnce)).await.unwrap();
            for mut stream in slow {
                let drip = async {
                    while stream.write_all(b"X").await.is_ok() && stream.flush().await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                drip.await;
            }
            honest.publish(message("a", "b", QoS::AtLeastOnce)).await.unwrap();
            honest.disconnect(ReasonCode::Success).await;
        }
    });
}

#[test]
fn after_eighty_aborted_upgrades_the_next_client_is_served() {
    let papers = Papers::new();
    with_gateway(settings_with_tls(&papers.server), async |doors| {
        for name in ["web", "secure"] {
            for number in 0..80 {
                let mut stream = TcpStream::connect(doors.address(name)).await.unwrap();
                let length = REQUEST.len() * number / 79;
                stream.write_all(&REQUEST.as_bytes()[..length]).await.unwrap();
                if number % 2 == 0 {
                    let socket = stream.into_std().unwrap();
                    socket2::SockRef::from(&socket)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                }
            }
            let target = match name {
                "web" => target(doors, name),
                _ => secure_target(doors, &client_settings(&papers.ca)),
            };
            let mut honest = Client::connect(&target, options("honest")).await.unwrap();
            honest.publish(message("a", "b", QoS::ExactlyOnce)).await.unwrap();
        }
    });
}

#[test]
fn a_connection_cut_anywhere_leaves_the_gateway_as_it_was() {
    with_gateway(settings(), async |doors| {
        let mut bytes = REQUEST.as_bytes().to_vec();
        bytes.extend(frame(
            BINARY,
            &bytes_of(&Packet::Connect(Box::new(with_will("cut")))),
        ));
        bytes.extend(frame(PING, b"ping"));
        bytes.extend(frame(BINARY, &bytes_of(&publish("a", "b", None))));
        for length in (0..bytes.len()).step_by(3) {
            let mut stream = TcpStream::connect(doors.address("web")).await.unwrap();
            stream.write_all(&bytes[..length]).await.unwrap();
        }
        let mut honest = Client::connect(&target(doors, "web"), options("honest"))
            .await
            .unwrap();
        honest.publish(message("a", "b", QoS::ExactlyOnce)).await.unwrap();
    });
}

#[test]
fn client_certificates_are_asked_for_and_name_the_user_as_they_do_without_websocket() {
    let authority = Authority::new();
    for required in [true, false] {
        let mut settings = settings_with_tls(&authority.server(required));
        settings.listeners.last_mut().unwrap().policy.anonymous = false;
        with_gateway(settings, async |doors| {
            let named = ClientSettings {
                certificate: Some(authority.certificate("pump-7")),
                ..client_settings(&authority.ca)
            };
            let mut client = Client::connect(&secure_target(doors, &named), options("pump"))
                .await
                .unwrap();
            client.publish(message("a", "b", QoS::AtLeastOnce)).await.unwrap();

            let nobody = secure_target(doors, &client_settings(&authority.ca));
            let refused = Client::connect(&nobody, options("nobody")).await;
            match (required, &refused) {
                // The handshake of TLS 1.3 is over for the client when the server looks at what it did not show.
                (true, Err(ClientError::Dial(_) | ClientError::Disconnected(_))) => {}
                (false, Err(ClientError::Disconnected(_))) => {}
                _ => panic!("required {required}: {refused:?}"),
            }
            let stranger = Authority::new();
            let foreign = ClientSettings {
                certificate: Some(stranger.certificate("pump-7")),
                ..client_settings(&authority.ca)
            };
            let refused = Client::connect(&secure_target(doors, &foreign), options("foreign")).await;
            assert!(matches!(refused, Err(ClientError::Dial(_))), "{refused:?}");
        });
    }
}

// Other people's WebSocket.

#[test]
fn a_client_of_another_library_is_served() {
    with_gateway(settings(), async |doors| {
        let web = doors.address("web");
        let mut request = format!("ws://{web}/mqtt").into_client_request().unwrap();
        let protocol = "mqtt".parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let stream = TcpStream::connect(web).await.unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");

        let mut decoder = Decoder::client(ProtocolVersion::V5, 1 << 20);
        let mut packets = async |socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>, count| {
            let mut packets = Vec::new();
            while packets.len() < count {
                match socket.next().await.unwrap().unwrap() {
                    Frame::Binary(bytes) => decoder.feed(bytes),
                    Frame::Pong(payload) => assert_eq!(payload, "there?"),
                    other => panic!("{other:?}"),
                }
                while let Some(packet) = decoder.poll_packet().unwrap() {
                    packets.push(packet);
                }
            }
            packets
        };
        let mut hello = bytes_of(&Packet::Connect(Box::new(connect("other"))));
        hello.extend(bytes_of(&subscribe("a", QoS::AtMostOnce)));
        socket.send(Frame::binary(hello)).await.unwrap();
        packets(&mut socket, 2).await;
        for length in [0, 1, 100, 120, 65_000, 65_530, 65_536, 200_000] {
            socket
                .send(Frame::Ping(Bytes::from_static(b"there?")))
                .await
                .unwrap();
            let payload = vec![length as u8; length];
            socket
                .send(Frame::binary(bytes_of(&publish("a", payload.clone(), None))))
                .await
                .unwrap();
            match &packets(&mut socket, 1).await[..] {
                [Packet::Publish(publish)] => assert!(publish.payload == payload, "{length}"),
                other => panic!("{other:?}"),
            }
        }
        socket.send(Frame::binary(vec![0xE0, 0])).await.unwrap();
        let close = CloseFrame {
            code: 1000.into(),
            reason: "".into(),
        };
        socket.send(Frame::Close(Some(close.clone()))).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if let Frame::Close(answer) = frame {
                assert_eq!(answer, Some(close.clone()));
            }
        }
    });
}

#[test]
fn our_client_speaks_to_a_server_of_another_library() {
    let runtime = tidegate::gateway::runtime().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            #[expect(clippy::result_large_err, reason = "the library's callback is so")]
            let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                assert_eq!(request.uri().path(), "/some/where");
                assert_eq!(request.uri().query(), Some("token=1"));
                assert_eq!(request.headers()["Host"], *format!("127.0.0.1:{port}"));
                let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
                response.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, answer).await.unwrap();
            let mut decoder = Decoder::server(1 << 20);
            let mut heard = Vec::new();
            loop {
                match socket.next().await {
                    Some(Ok(Frame::Binary(bytes))) => decoder.feed(bytes),
                    Some(Ok(Frame::Pong(payload))) => assert_eq!(payload, "there?"),
                    Some(Ok(Frame::Close(frame))) => {
                        assert_eq!(u16::from(frame.unwrap().code), 1000);
                        break;
                    }
                    other => panic!("{other:?}"),
                }
                while let Some(packet) = decoder.poll_packet().unwrap() {
                    let answer = match &packet {
                        Packet::Connect(_) => bytes_of(&Packet::ConnAck(Box::default())),
                        Packet::Publish(publish) => {
                            socket
                                .send(Frame::Ping(Bytes::from_static(b"there?")))
                                .await
                                .unwrap();
                            let id = publish.packet_id.unwrap();
                            bytes_of(&Packet::PubAck(tidegate::mqtt::Ack::success(id)))
                        }
                        _ => Vec::new(),
                    };
                    // In small pieces of one message, for it is the receiver's to put them together.
                    for piece in answer.chunks(3) {
                        socket.send(Frame::binary(piece.to_vec())).await.unwrap();
                    }
                    heard.push(packet.name());
                }
            }
            assert_eq!(heard, ["CONNECT", "PUBLISH", "PUBLISH", "PUBLISH", "DISCONNECT"]);
        };
        let client = async {
            let address: Address = format!("ws://127.0.0.1:{port}/some/where?token=1")
                .parse()
                .unwrap();
            let target = Target::new(address, &ClientSettings::default(), IN_VAIN).unwrap();
            let mut client = Client::connect(&target, options("ours")).await.unwrap();
            for length in [0, 20_000, 300_000] {
                client
                    .publish(message("a", vec![3; length], QoS::AtLeastOnce))
                    .await
                    .unwrap();
            }
            client.disconnect(ReasonCode::Success).await;
        };
        let both = async { tokio::join!(server, client) };
        tokio::time::timeout(IN_VAIN, both).await.unwrap();
    });
}

#[test]
fn a_server_that_takes_no_mqtt_is_told_by_name() {
    with_gateway(settings(), async |doors| {
        let dial = async |url: String| {
            let target = Target::new(url.parse().unwrap(), &ClientSettings::default(), IN_VAIN).unwrap();
            Client::connect(&target, options("lost"))
                .await
                .unwrap_err()
                .to_string()
        };
        let port = doors.address("web").port();
        let told = dial(format!("ws://127.0.0.1:{port}/nowhere")).await;
        assert!(
            told.contains(&format!("ws://127.0.0.1:{port}/nowhere")) && told.contains("404"),
            "{told}"
        );
        // MQTT without WebSocket: the broker hangs up on what is no CONNECT.
        let told = dial(format!("ws://127.0.0.1:{}/mqtt", doors.address("local").port())).await;
        assert!(told.contains("no WebSocket at"), "{told}");
    });
}

// Helpers.

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = FIN | 2;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 0xA;
const PINGREQ: &[u8] = &[0xC0, 0];
const PINGRESP: &[u8] = &[0xD0, 0];

/// As a client that is no browser asks.
const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A frame as a client writes it: its first byte, masked, its length in as few bytes as it takes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xA5, 0x01, 0xFE, 0x3C];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn bytes_of(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, ProtocolVersion::V5, &mut bytes);
    bytes.to_vec()
}

fn with_will(id: &str) -> Connect {
    Connect {
        will: Some(Will {
            topic: topic("will"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: WillProperties::default(),
        }),
        ..connect(id)
    }
}

/// Sends `request`, and reads the head of the answer.
async fn open(address: SocketAddr, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Sends `request` and nothing more, and reads all that comes back.
async fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The answer may come before all is said.
    let _ = stream.write_all(request).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A client frame by frame, with MQTT 5.0 in it.
struct Raw {
    stream: TcpStream,
    decoder: Decoder,
}

impl Raw {
    /// Makes a WebSocket.
    async fn open(address: SocketAddr) -> Self {
        let (stream, head) = open(address, REQUEST).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let decoder = Decoder::client(ProtocolVersion::V5, 1 << 20);
        Self { stream, decoder }
    }

    /// The same, and says `connect` and hears that it may stay.
    async fn let_in(address: SocketAddr, connect: Connect) -> Self {
        let mut raw = Self::open(address).await;
        raw.say(&frame(BINARY, &bytes_of(&Packet::Connect(Box::new(connect)))))
            .await;
        match &raw.hear_packets(1).await[..] {
            [Packet::ConnAck(connack)] => assert_eq!(connack.reason, ReasonCode::Success),
            other => panic!("expected CONNACK, found {other:?}"),
        }
        raw
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame: its first byte and its payload; `None` at the end of the stream.
    async fn hear_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let length = match self.stream.read_u8().await.unwrap() {
            126 => u64::from(self.stream.read_u16().await.unwrap()),
            127 => self.stream.read_u64().await.unwrap(),
            length => u64::from(length),
        };
        assert!(
            length < 1 << 20,
            "a server does not mask, and this is no length of ours"
        );
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.unwrap();
        Some((first, payload))
    }

    /// The next `count` packets; pongs between them are passed over.
    async fn hear_packets(&mut self, count: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        while packets.len() < count {
            match self.decoder.poll_packet().unwrap() {
                Some(packet) => packets.push(packet),
                None => match self.hear_frame().await {
                    Some((BINARY, payload)) => self.decoder.feed(Bytes::from(payload)),
                    Some((PONG, _)) => {}
                    other => panic!("expected packets, found {other:?} after {packets:?}"),
                },
            }
        }
        packets
    }

    /// Hears a close frame and then the end; the code it has.
    async fn hear_end(&mut self) -> Option<u16> {
        let Some((0x88, payload)) = self.hear_frame().await else {
            panic!("expected a close frame");
        };
        assert_eq!(self.hear_frame().await, None, "a close frame is the last");
        payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }
}

/// A gateway with the plain door and one called `web`, for WebSocket.
fn settings() -> Settings {
    let mut settings = running::settings();
    add_door(&mut settings, "web", None);
    settings
}

/// The same with a third called `secure`.
fn settings_with_tls(tls: &ServerSettings) -> Settings {
    let mut settings = settings();
    add_door(&mut settings, "secure", Some(tls.clone()));
    settings
}

fn add_door(settings: &mut Settings, name: &str, tls: Option<ServerSettings>) {
    let Listener {
        mut net, mut policy, ..
    } = settings.listeners[0].clone();
    net.name = name.to_owned();
    net.tls = tls;
    net.websocket = Some(upgrade::ServerSettings {
        paths: vec!["/mqtt".to_owned()],
        origins: Origins::SameHost,
    });
    policy.name = name.to_owned();
    settings.listeners.push(Listener {
        net,
        policy,
        may_be_absent: false,
    });
}

fn target(doors: &running::Doors, name: &str) -> Target {
    let address: Address = format!("ws://{}", doors.address(name)).parse().unwrap();
    Target::new(address, &ClientSettings::default(), IN_VAIN).unwrap()
}

fn secure_target(doors: &running::Doors, settings: &ClientSettings) -> Target {
    let address: Address = format!("wss://{}/mqtt", doors.address("secure")).parse().unwrap();
    Target::new(address, settings, IN_VAIN).unwrap()
}

fn client_settings(ca: &std::path::Path) -> ClientSettings {
    ClientSettings {
        roots: Roots::File(ca.to_owned()),
        ..ClientSettings::default()
    }
}

/// An authority that signs certificates of clients, too.
struct Authority {
    folder: tempfile::TempDir,
    ca: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new([]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        Self { folder, ca, issuer }
    }

    /// A certificate in a file with its key, for `common_name` on 127.0.0.1.
    fn certificate(&self, common_name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate = self.folder.path().join(format!("{common_name}.pem"));
        let key_file = self.folder.path().join(format!("{common_name}-key.pem"));
        std::fs::write(&certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key_file, private).unwrap();
        (certificate, key_file)
    }

    fn server(&self, requires_certificates: bool) -> ServerSettings {
        let (certificate, key) = self.certificate("gateway");
        let ca = self.ca.clone();
        ServerSettings {
            certificate,
            key,
            client_certificates: match requires_certificates {
                true => ClientCertificates::Required(ClientTrust::of(ca)),
                false => ClientCertificates::Optional(ClientTrust::of(ca)),
            },
            user_name_from: Some(CertificateField::CommonName),
            client_id_from: None,
        }
    }
}
