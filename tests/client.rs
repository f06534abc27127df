//! The awaitable client against a server that says what its script tells it to, over TCP.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use smallvec::smallvec;
use tidegate::cli::cert::Certificates;
use tidegate::client::{Address, Client, ClientError, Disconnection, Event, Message, Options, Target};
use tidegate::mqtt::{
    Ack, ClientId, ConnAck, ConnAckProperties, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode,
    SubAck, SubscribeProperties, Subscription, TopicFilter, TopicName, Utf8String,
};
use tidegate::net::listener::{Listener, ListenerSettings};
use tidegate::net::tls::{ClientCertificates, ClientSettings, Roots, ServerSettings};
use tokio::net::TcpListener;

use peer::{Peer, run};

mod peer;

async fn listen() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(listener.local_addr().unwrap());
    (listener, target)
}

fn target(address: SocketAddr) -> Target {
    let address = Address::new(&address.ip().to_string(), Some(address.port()), false);
    Target::new(address, &ClientSettings::default(), Duration::from_secs(20)).unwrap()
}

fn message(text: &'static str, qos: QoS) -> Message {
    Message {
        topic: TopicName::try_from("a/b").unwrap(),
        payload: Bytes::from_static(text.as_bytes()),
        qos,
        retain: false,
        properties: None,
    }
}

fn publish(text: &'static str, qos: QoS, packet_id: Option<u16>) -> Packet {
    let Message {
        topic,
        payload,
        qos,
        retain,
        properties,
    } = message(text, qos);
    let packet_id = packet_id.and_then(PacketId::new);
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain,
        topic: Some(topic),
        packet_id,
        payload,
        properties,
    })
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

#[test]
fn connect_returns_what_the_server_says_of_the_session() {
    run(async {
        let (listener, target) = listen().await;
        let assigned = ClientId::new(Utf8String::try_from("auto-1").unwrap());
        let server = async {
            let mut peer = Peer::accept(&listener).await;
            assert!(matches!(peer.hear().await, Some(Packet::Connect(_))));
            let properties = ConnAckProperties {
                assigned_client_id: assigned.clone(),
                ..ConnAckProperties::default()
            };
            peer.say(Packet::ConnAck(Box::new(ConnAck {
                properties,
                ..ConnAck::default()
            })))
            .await;
        };
        let mut client = Client::new(Options::default()).unwrap();
        let (connected, ()) = tokio::join!(client.reconnect(&target), server);
        assert_eq!(connected.unwrap().client_id, assigned);
        assert!(client.is_online());
    });
}

#[test]
fn a_refused_connect_is_an_error_with_the_reason() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::accept(&listener).await;
            peer.hear().await;
            let reason = ReasonCode::BadUserNameOrPassword;
            peer.say(Packet::ConnAck(Box::new(ConnAck {
                reason,
                ..ConnAck::default()
            })))
            .await;
        };
        let (client, ()) = tokio::join!(Client::connect(&target, Options::default()), server);
        let refused = Disconnection::Refused(ReasonCode::BadUserNameOrPassword, None);
        assert!(matches!(client, Err(ClientError::Disconnected(why)) if why == refused));
    });
}

#[test]
fn a_server_that_is_not_there_is_named_in_the_error() {
    run(async {
        let (listener, target) = listen().await;
        let port = listener.local_addr().unwrap().port().to_string();
        drop(listener);
        let error = Client::connect(&target, Options::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Dial(_)));
        let text = error.to_string();
        assert!(text.contains("127.0.0.1") && text.contains(&port), "{text}");
    });
}

#[test]
fn publish_returns_when_the_server_has_the_message() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            assert_eq!(peer.hear().await, Some(publish("0", QoS::AtMostOnce, None)));
            assert_eq!(peer.hear().await, Some(publish("1", QoS::AtLeastOnce, Some(2))));
            peer.say(Packet::PubAck(Ack::success(PacketId::new(2).unwrap())))
                .await;
            assert_eq!(peer.hear().await, Some(publish("2", QoS::ExactlyOnce, Some(3))));
            let ack = Ack::success(PacketId::new(3).unwrap());
            peer.say(Packet::PubRec(ack.clone())).await;
            assert_eq!(peer.hear().await, Some(Packet::PubRel(ack.clone())));
            peer.say(Packet::PubComp(ack)).await;
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            for (text, qos) in [
                ("0", QoS::AtMostOnce),
                ("1", QoS::AtLeastOnce),
                ("2", QoS::ExactlyOnce),
            ] {
                assert_eq!(
                    client.publish(message(text, qos)).await.unwrap().reason,
                    ReasonCode::Success
                );
            }
            assert_eq!(client.unfinished(), 0);
        };
        tokio::join!(server, client);
    });
}

#[test]
fn a_refused_message_is_an_error_with_the_reason() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            peer.hear().await;
            let ack = Ack::with_reason(PacketId::new(2).unwrap(), ReasonCode::NotAuthorized);
            peer.say(Packet::PubAck(ack)).await;
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            let outcome = client.publish(message("1", QoS::AtLeastOnce)).await;
            assert!(matches!(
                outcome,
                Err(ClientError::Refused(ReasonCode::NotAuthorized, None))
            ));
        };
        tokio::join!(server, client);
    });
}

#[test]
fn subscribe_tells_what_was_granted_for_each_filter_and_messages_follow() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            let Some(Packet::Subscribe(subscribe)) = peer.hear().await else {
                panic!("expected SUBSCRIBE")
            };
            // A message may overtake the SUBACK (section 3.8.4).
            peer.say(publish("early", QoS::AtLeastOnce, Some(7))).await;
            peer.say(Packet::SubAck(Box::new(SubAck {
                packet_id: subscribe.packet_id,
                reasons: smallvec![ReasonCode::GrantedQos1, ReasonCode::NotAuthorized],
                properties: None,
            })))
            .await;
            peer.say(publish("late", QoS::AtMostOnce, None)).await;
            let puback = Packet::PubAck(Ack::success(PacketId::new(7).unwrap()));
            assert_eq!(peer.hear().await, Some(puback));
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            let subscriptions = ["a/#", "secret"].map(|text| Subscription {
                filter: filter(text),
                qos: QoS::ExactlyOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: Default::default(),
            });
            let reasons = client
                .subscribe(subscriptions, SubscribeProperties::default())
                .await
                .unwrap();
            assert_eq!(
                reasons.as_slice(),
                [ReasonCode::GrantedQos1, ReasonCode::NotAuthorized]
            );
            assert_eq!(
                client.next_message().await.unwrap(),
                message("early", QoS::AtLeastOnce)
            );
            assert_eq!(
                client.next_message().await.unwrap(),
                message("late", QoS::AtMostOnce)
            );
            client.flush().await.unwrap();
        };
        tokio::join!(server, client);
    });
}

#[test]
fn messages_received_before_the_end_are_still_given_and_then_the_reason() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            peer.say(publish("last", QoS::AtMostOnce, None)).await;
            let reason = ReasonCode::ServerShuttingDown;
            peer.say(Packet::Disconnect(Box::new(Disconnect {
                reason,
                ..Disconnect::default()
            })))
            .await;
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            assert_eq!(
                client.next_event().await,
                Ok(Event::Message(message("last", QoS::AtMostOnce)))
            );
            let ended = Disconnection::Ended(ReasonCode::ServerShuttingDown, None);
            assert_eq!(client.next_event().await, Err(ended.clone()));
            assert_eq!(client.next_message().await, Err(ended), "the reason stays");
        };
        tokio::join!(server, client);
    });
}

#[test]
fn a_message_published_into_a_broken_connection_arrives_by_the_next() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            assert_eq!(peer.hear().await, Some(publish("1", QoS::AtLeastOnce, Some(2))));
            drop(peer);
            let mut peer = Peer::accept(&listener).await;
            let Some(Packet::Connect(connect)) = peer.hear().await else {
                panic!("expected CONNECT")
            };
            assert!(!connect.clean_start);
            peer.say(Packet::ConnAck(Box::new(ConnAck {
                session_present: true,
                ..ConnAck::default()
            })))
            .await;
            let Some(Packet::Publish(again)) = peer.hear().await else {
                panic!("expected PUBLISH")
            };
            assert!(again.dup);
            peer.say(Packet::PubAck(Ack::success(PacketId::new(2).unwrap())))
                .await;
        };
        let client = async {
            let options = Options {
                session_expiry_secs: 60,
                ..Options::default()
            };
            let mut client = Client::connect(&target, options).await.unwrap();
            let outcome = client.publish(message("1", QoS::AtLeastOnce)).await;
            assert!(matches!(
                outcome,
                Err(ClientError::Disconnected(Disconnection::Closed))
            ));
            assert_eq!(client.unfinished(), 1);
            client.reconnect(&target).await.unwrap();
            assert!(matches!(client.next_event().await, Ok(Event::Published(_))));
            assert_eq!(client.unfinished(), 0);
        };
        tokio::join!(server, client);
    });
}

#[test]
fn disconnect_says_goodbye_and_closes() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            // Unread bytes at the client's end must not cost it its DISCONNECT.
            peer.say(publish("unread", QoS::AtMostOnce, None)).await;
            assert!(matches!(peer.hear().await, Some(Packet::Disconnect(_))));
            assert_eq!(peer.hear().await, None);
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            client.disconnect(ReasonCode::Success).await;
            assert_eq!(client.next_event().await, Err(Disconnection::Requested));
        };
        tokio::join!(server, client);
    });
}

/// A TLS listener whose certificate names localhost, and the file with its authority.
fn listen_over_tls(directory: &Path) -> (Listener, PathBuf) {
    let made = Certificates::make(&["localhost".to_owned()], SystemTime::now()).unwrap();
    let write = |name: &str, text: String| {
        let file = directory.join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let (certificate, key) = (
        write("server.pem", made.server),
        write("server-key.pem", made.server_key),
    );
    let tls = ServerSettings {
        certificate,
        key,
        client_certificates: ClientCertificates::Ignored,
        user_name_from: None,
        client_id_from: None,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = ListenerSettings {
        tls: Some(tls),
        handshake_timeout: Duration::from_secs(20),
        ..ListenerSettings::new("tls", address, 8)
    };
    (Listener::bind(settings, None).unwrap(), write("ca.pem", made.ca))
}

fn target_over_tls(listener: &Listener, settings: &ClientSettings) -> Target {
    let address = Address::new("127.0.0.1", Some(listener.local_addr().unwrap().port()), true);
    Target::new(address, settings, Duration::from_secs(20)).unwrap()
}

#[test]
fn over_tls_messages_arrive_from_a_server_whose_authority_is_trusted() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (listener, ca) = listen_over_tls(directory.path());
        let settings = ClientSettings {
            roots: Roots::File(ca),
            server_name: Some("localhost".to_owned()),
            ..ClientSettings::default()
        };
        let target = target_over_tls(&listener, &settings);
        let server = async {
            let incoming = listener.accept().await.handshake().await.unwrap();
            let mut peer = Peer::new(incoming.stream);
            assert!(matches!(peer.hear().await, Some(Packet::Connect(_))));
            peer.say(Packet::ConnAck(Box::default())).await;
            peer.say(publish("secret", QoS::AtMostOnce, None)).await;
            assert!(matches!(peer.hear().await, Some(Packet::Disconnect(_))));
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            assert_eq!(
                client.next_message().await.unwrap(),
                message("secret", QoS::AtMostOnce)
            );
            client.disconnect(ReasonCode::Success).await;
        };
        tokio::join!(server, client);
    });
}

#[test]
fn over_tls_a_server_that_is_not_trusted_hears_nothing() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (listener, ca) = listen_over_tls(directory.path());
        let stranger = Certificates::make(&["localhost".to_owned()], SystemTime::now()).unwrap();
        let strangers_ca = directory.path().join("stranger.pem");
        fs::write(&strangers_ca, stranger.ca).unwrap();
        let with = |roots: PathBuf, server_name: &str| ClientSettings {
            roots: Roots::File(roots),
            server_name: Some(server_name.to_owned()),
            ..ClientSettings::default()
        };
        for settings in [with(strangers_ca, "localhost"), with(ca, "another.example")] {
            let target = target_over_tls(&listener, &settings);
            let server = async { listener.accept().await.handshake().await.is_err() };
            let (client, refused) = tokio::join!(Client::connect(&target, Options::default()), server);
            assert!(matches!(client, Err(ClientError::Dial(_))), "{client:?}");
            assert!(refused);
        }
    });
}

#[test]
fn bytes_that_are_no_mqtt_end_the_connection() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            stream
        };
        let (client, _stream) = tokio::join!(Client::connect(&target, Options::default()), server);
        assert!(
            matches!(
                client,
                Err(ClientError::Disconnected(Disconnection::Malformed(_)))
            ),
            "{client:?}"
        );
    });
}

#[test]
fn a_future_dropped_while_it_waits_loses_no_message() {
    run(async {
        let (listener, target) = listen().await;
        let (send, receive) = tokio::sync::oneshot::channel();
        let server = async {
            let mut peer = Peer::welcome(&listener).await;
            receive.await.unwrap();
            peer.say(publish("1", QoS::AtMostOnce, None)).await;
            peer
        };
        let client = async {
            let mut client = Client::connect(&target, Options::default()).await.unwrap();
            tokio::select! {
                biased;
                _ = client.next_message() => panic!("nothing was sent yet"),
                () = std::future::ready(()) => {}
            }
            send.send(()).unwrap();
            assert_eq!(
                client.next_message().await.unwrap(),
                message("1", QoS::AtMostOnce)
            );
        };
        tokio::join!(server, client);
    });
}

#[test]
fn a_server_that_says_nothing_is_found_out() {
    run(async {
        let (listener, target) = listen().await;
        let server = async {
            let mut peer = Peer::accept(&listener).await;
            assert!(matches!(peer.hear().await, Some(Packet::Connect(_))));
            assert_eq!(peer.hear().await, None, "the client hangs up");
        };
        let client = async {
            let options = Options {
                answer_timeout: Duration::from_millis(1),
                ..Options::default()
            };
            let client = Client::connect(&target, options).await;
            assert!(matches!(
                client,
                Err(ClientError::Disconnected(Disconnection::ConnectTimeout))
            ));
        };
        tokio::join!(server, client);
    });
}
