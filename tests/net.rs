//! MQTT over TCP and TLS: what a client sees of a listener, and what a listener lets a client do.

#![allow(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rcgen::string::{BmpString, Ia5String};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use socket2::SockRef;
use tempfile::TempDir;
use tidegate::mqtt::{
    ClientId, Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, TopicName, Utf8String,
    encode,
};
use tidegate::net::clock::FlooredClock;
use tidegate::net::endpoint::Peer;
use tidegate::net::link::{Buffers, Link, Stream};
use tidegate::net::listener::{Accepted, ConnectionPermit, Incoming, Listener, ListenerSettings, NetError};
use tidegate::net::tcp::{self, ConnectReason};
use tidegate::net::tls::{
    CertificateError, CertificateField, ClientCertificates, ClientSettings, ClientTrust, Connector,
    HandshakeError, Roots, ServerSettings, TlsError,
};
use tidegate::net::websocket::upgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::{TlsConnector, TlsStream};

// Packets over every transport.

#[tokio::test]
async fn packets_pass_both_ways_over_every_transport_and_version() {
    let papers = Papers::new();
    for transport in [
        Transport::Tcp4,
        Transport::Tcp6,
        Transport::Tls12,
        Transport::Tls13,
        Transport::WebSocket,
        Transport::WebSocketTls,
    ] {
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            let (client, server, _permit) = transport.connected(&papers).await;
            let mut client = End::new(Link::client(client, version, BYTES_MAX));
            let mut server = End::new(Link::server(server, BYTES_MAX));
            let upwards = [
                connect(version),
                publish(0),
                publish(1),
                publish(5_000),
                publish(200_000),
                Packet::PingReq,
            ];
            let downwards = [
                connack(),
                publish(300_000),
                publish(0),
                publish(17),
                Packet::PingResp,
            ];
            pass(&mut client, &mut server, &upwards).await;
            assert_eq!(server.link.version(), Some(version), "{transport:?}");
            pass(&mut server, &mut client, &downwards).await;
            assert_eq!(
                (client.link.unsent(), server.link.unsent()),
                (0, 0),
                "{transport:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_gives_the_same_packets() {
    let packets = [
        connect(ProtocolVersion::V5),
        publish(3),
        Packet::PingReq,
        publish(300),
        publish(0),
    ];
    let mut bytes = BytesMut::new();
    for packet in &packets {
        encode(packet, ProtocolVersion::V5, &mut bytes);
    }
    for size in [1, 2, 3, 7, 64, 1000] {
        let (client, server, _permit) = Transport::Tcp4.connected(&Papers::new()).await;
        let Stream::Tcp(mut client) = client else {
            panic!("the transport is TCP")
        };
        let mut server = End::new(Link::server(server, BYTES_MAX));
        let send = async {
            for chunk in bytes.chunks(size) {
                client.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(send, server.expect(&packets));
    }
}

#[tokio::test]
async fn what_a_slow_reader_is_owed_arrives_in_order_however_the_writes_are_cut() {
    let papers = Papers::new();
    for transport in [
        Transport::Tcp4,
        Transport::Tls13,
        Transport::WebSocket,
        Transport::WebSocketTls,
    ] {
        let (client, server, _permit) = transport.connected(&papers).await;
        let mut client = End::new(Link::client(client, ProtocolVersion::V5, BYTES_MAX));
        let mut server = End::new(Link::server(server, BYTES_MAX));
        pass(&mut client, &mut server, &[connect(ProtocolVersion::V5)]).await;
        pass(&mut server, &mut client, &[connack()]).await;
        // 18 MB, of which the kernel takes a part off our hands. One packet is read for eight that are sent,
        // so that sending, flushing and reading meet in every state.
        let packets: Vec<_> = (0..300).map(|round| publish(60_000 + round)).collect();
        let (mut to_send, mut received, mut waited) = (packets.iter(), 0, 0);
        while received < packets.len() {
            for packet in to_send.by_ref().take(8) {
                server.link.send(packet, &mut server.buffers);
            }
            waited += usize::from(server.flush_once().await.is_pending() && server.link.unsent() > 0);
            if let Some(packet) = client.receive_now().await {
                assert_eq!(packet, packets[received], "{transport:?}");
                received += 1;
            }
            tokio::task::yield_now().await;
        }
        assert!(
            waited > 0,
            "the kernel took everything at once, which proves nothing"
        );
        server.flush().await.unwrap();
        assert_eq!(server.link.unsent(), 0);
    }
}

#[tokio::test]
async fn what_tls_holds_back_is_unsent_and_goes_out_with_the_next_flush() {
    let (client, server, _permit) = Transport::Tls13.connected(&Papers::new()).await;
    let mut client = End::new(Link::client(client, ProtocolVersion::V5, BYTES_MAX));
    let mut server = End::new(Link::server(server, BYTES_MAX));
    pass(&mut client, &mut server, &[connect(ProtocolVersion::V5)]).await;
    // The kernel's buffers fill up, and the message that does not fit is with TLS, which takes it whole.
    let mut packets = vec![connack()];
    server.link.send(&connack(), &mut server.buffers);
    while server.flush_once().await.is_ready() {
        packets.push(publish(8_000));
        server.link.send(&publish(8_000), &mut server.buffers);
    }
    assert_eq!(server.link.unsent(), 1);
    let (flushed, ()) = tokio::join!(server.flush(), client.expect(&packets));
    flushed.unwrap();
    assert_eq!(server.link.unsent(), 0);
}

#[tokio::test]
async fn the_last_packet_before_a_close_arrives_though_the_peer_was_still_talking() {
    let papers = Papers::new();
    for transport in [
        Transport::Tcp4,
        Transport::Tls12,
        Transport::Tls13,
        Transport::WebSocket,
        Transport::WebSocketTls,
    ] {
        let (client, server, _permit) = transport.connected(&papers).await;
        let mut client = End::new(Link::client(client, ProtocolVersion::V5, BYTES_MAX));
        let mut server = End::new(Link::server(server, BYTES_MAX));
        pass(&mut client, &mut server, &[connect(ProtocolVersion::V5)]).await;
        pass(&mut server, &mut client, &[connack()]).await;
        client.send(&[publish(30_000)]).await;

        server
            .link
            .send(&Packet::Disconnect(Box::default()), &mut server.buffers);
        let close = async {
            poll_fn(|cx| server.link.poll_close(cx, &mut server.buffers))
                .await
                .unwrap();
            poll_fn(|cx| server.link.poll_discard(cx, &mut server.buffers)).await;
            drop(server);
        };
        let read = async {
            let last = client.receive().await;
            assert!(
                matches!(last, Some(Packet::Disconnect(_))),
                "{transport:?}: {last:?}"
            );
            assert_eq!(client.receive().await, None, "{transport:?}");
            // The connection was ended, not reset: what the client still says is taken. Over WebSocket it has answered
            // the close frame by now, and may say nothing behind that.
            let is_websocket = matches!(transport, Transport::WebSocket | Transport::WebSocketTls);
            for _ in 0..if is_websocket { 0 } else { 3 } {
                client.send(&[Packet::PingReq]).await;
            }
            drop(client);
        };
        tokio::join!(close, read);
    }
}

#[tokio::test]
async fn a_tls_peer_that_vanishes_is_an_end_of_stream() {
    let (client, server, _permit) = Transport::Tls13.connected(&Papers::new()).await;
    let mut server = End::new(Link::server(server, BYTES_MAX));
    let Stream::Tls(client) = client else {
        panic!("the transport is TLS")
    };
    let TlsStream::Client(client) = *client else {
        panic!("the stream is a client's")
    };
    drop(client.into_inner().0);
    assert_eq!(server.receive().await, None);
}

// Sockets.

#[tokio::test]
async fn accepted_connections_have_the_options_of_their_listener() {
    for transport in [Transport::Tcp4, Transport::Tcp6] {
        let (client, server, _permit) = transport.connected(&Papers::new()).await;
        for stream in [&client, &server] {
            let Stream::Tcp(stream) = stream else {
                panic!("the transport is TCP")
            };
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
        }
    }
}

#[tokio::test]
async fn both_families_can_listen_on_one_port() {
    let ipv4 = listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), None, |_| {});
    let port = ipv4.local_addr().unwrap().port();
    let ipv6 = listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), None, |_| {});
    for (host, listener) in [("127.0.0.1", &ipv4), ("::1", &ipv6)] {
        let (dialled, accepted) = tokio::join!(tcp::connect(host, port, LONG), listener.accept());
        assert_eq!(Peer::Ip(dialled.unwrap().local_addr().unwrap()), accepted.peer());
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_address() {
    let first = listener(LOCAL4, None, |_| {});
    let settings = ListenerSettings {
        endpoint: first.endpoint().clone(),
        ..settings(LOCAL4, None)
    };
    let refused = Listener::bind(settings, None).unwrap_err();
    assert!(matches!(&refused, NetError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse));
    assert!(
        refused.to_string().contains(&first.endpoint().to_string()),
        "{refused}"
    );
}

#[tokio::test]
async fn a_refused_connection_names_the_address_that_refused() {
    let port = listener(LOCAL4, None, |_| {}).local_addr().unwrap().port();
    let refused = tcp::connect("127.0.0.1", port, LONG).await.unwrap_err();
    let ConnectReason::Refused(refusals) = &refused.reason else {
        panic!("{refused}")
    };
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].1.kind(), io::ErrorKind::ConnectionRefused);
    assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
}

// Bounds.

#[tokio::test]
async fn silent_connections_over_the_bound_give_way_to_whoever_comes_the_oldest_first() {
    LocalSet::new()
        .run_until(async {
            let papers = Papers::new();
            // Silent before TLS, and before CONNECT.
            for tls in [None, Some(papers.server())] {
                let listener = Rc::new(listener(LOCAL4, tls.clone(), |settings| settings.pending_max = 4));
                let port = listener.local_addr().unwrap().port();
                tokio::task::spawn_local(serve(Rc::clone(&listener)));
                let mut silent = Vec::new();
                for _ in 0..4 {
                    silent.push(tcp::connect("127.0.0.1", port, LONG).await.unwrap());
                }
                until(|| listener.pending() == 4).await;
                for oldest in 0..3 {
                    let mut honest = match &tls {
                        None => honest_client(port).await,
                        Some(_) => {
                            let stream = papers.dial(port).await.unwrap();
                            let mut client = End::new(Link::client(stream, ProtocolVersion::V5, BYTES_MAX));
                            client.send(&[connect(ProtocolVersion::V5)]).await;
                            client
                        }
                    };
                    honest.expect(&[connack()]).await;
                    let ended = silent[oldest].read(&mut [0]).await;
                    assert!(
                        matches!(ended, Ok(0)),
                        "expected the oldest to be closed: {ended:?}"
                    );
                    // Its place is for the next silent one.
                    silent.push(tcp::connect("127.0.0.1", port, LONG).await.unwrap());
                    until(|| listener.pending() == 4).await;
                }
                assert_eq!(listener.counters().refused_pending, 0);
            }
        })
        .await;
}

#[tokio::test]
async fn a_crowd_of_honest_clients_larger_than_the_bound_gets_in() {
    LocalSet::new()
        .run_until(async {
            let listener = Rc::new(listener(LOCAL4, None, |settings| settings.pending_max = 4));
            let port = listener.local_addr().unwrap().port();
            let crowd: Vec<_> = (0..100)
                .map(|_| tokio::task::spawn_local(honest_client(port)))
                .collect();
            tokio::task::spawn_local(serve(Rc::clone(&listener)));
            for client in crowd {
                client.await.unwrap().expect(&[connack()]).await;
            }
            assert_eq!(listener.counters().refused_pending, 0);
            assert_eq!(listener.counters().accepted, 100);
        })
        .await;
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_until_one_leaves() {
    LocalSet::new()
        .run_until(async {
            let listener = Rc::new(listener(LOCAL4, None, |settings| settings.connections_max = 2));
            let port = listener.local_addr().unwrap().port();
            tokio::task::spawn_local(serve(Rc::clone(&listener)));
            let mut clients = vec![honest_client(port).await, honest_client(port).await];
            for client in &mut clients {
                client.expect(&[connack()]).await;
            }
            let mut refused = tcp::connect("127.0.0.1", port, LONG).await.unwrap();
            assert_eq!(
                refused.read(&mut [0]).await.unwrap(),
                0,
                "expected the listener to close"
            );
            assert_eq!(listener.counters().refused_connections, 1);
            clients.pop();
            until(|| listener.connections() == 1).await;
            honest_client(port).await.expect(&[connack()]).await;
        })
        .await;
}

#[tokio::test]
async fn a_client_that_resets_at_once_leaves_the_door_open() {
    LocalSet::new()
        .run_until(async {
            let listener = Rc::new(listener(LOCAL4, None, |_| {}));
            let port = listener.local_addr().unwrap().port();
            for _ in 0..100 {
                let stream = tcp::connect("127.0.0.1", port, LONG).await.unwrap();
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            tokio::task::spawn_local(serve(Rc::clone(&listener)));
            honest_client(port).await.expect(&[connack()]).await;
            until(|| listener.pending() == 0 && listener.connections() == 0).await;
        })
        .await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_at_the_end_of_the_handshakes_time() {
    let papers = Papers::new();
    let listener = listener(LOCAL4, Some(papers.server()), |settings| {
        settings.handshake_timeout = Duration::from_millis(50);
    });
    let port = listener.local_addr().unwrap().port();
    let (client, accepted) = tokio::join!(tcp::connect("127.0.0.1", port, LONG), listener.accept());
    assert_eq!(listener.pending(), 1);
    let refused = accepted.handshake().await.unwrap_err();
    assert!(matches!(refused, HandshakeError::TimedOut(_)), "{refused}");
    assert_eq!((listener.pending(), listener.connections()), (0, 0));
    assert_eq!(client.unwrap().read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn silent_tls_clients_keep_nobody_waiting() {
    LocalSet::new()
        .run_until(async {
            let papers = Papers::new();
            let listener = Rc::new(listener(LOCAL4, Some(papers.server()), |_| {}));
            let port = listener.local_addr().unwrap().port();
            tokio::task::spawn_local(serve(Rc::clone(&listener)));
            let mut silent = Vec::new();
            for round in 0..20 {
                let mut stream = tcp::connect("127.0.0.1", port, LONG).await.unwrap();
                if round % 2 == 0 {
                    // A handshake record begins, and that is all.
                    stream.write_all(&[22, 3, 1]).await.unwrap();
                }
                silent.push(stream);
            }
            until(|| listener.pending() == 20).await;
            let stream = papers.dial(port).await.unwrap();
            let mut client = End::new(Link::client(stream, ProtocolVersion::V5, BYTES_MAX));
            client.send(&[connect(ProtocolVersion::V5)]).await;
            client.expect(&[connack()]).await;
            assert_eq!(listener.pending(), 20);
        })
        .await;
}

// Who is who in TLS.

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let (client, server) = papers.meet(papers.server(), strangers.client()).await;
    let refused = client.unwrap_err();
    assert!(refused.to_string().contains("check the CA file"), "{refused}");
    assert!(server.is_err());
}

#[tokio::test]
async fn a_server_under_another_name_is_refused_unless_that_name_is_asked_for() {
    let papers = Papers::new();
    let settings = ServerSettings {
        ..papers.signed_server(|params| params.subject_alt_names = vec![dns("gate")])
    };
    let (client, _) = papers.meet(settings.clone(), papers.client()).await;
    assert!(matches!(
        client,
        Err(HandshakeError::Refused(rustls::Error::InvalidCertificate(_)))
    ));
    let named = ClientSettings {
        server_name: Some("gate".to_owned()),
        ..papers.client()
    };
    let (client, server) = papers.meet(settings, named).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn an_insecure_client_takes_any_server() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let settings = ClientSettings {
        insecure: true,
        ..strangers.client()
    };
    let (client, server) = papers.meet(papers.server(), settings).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn the_offer_of_an_unknown_application_protocol_is_ignored() {
    let papers = Papers::new();
    let listener = listener(LOCAL4, Some(papers.server()), |_| {});
    let mut config = papers.rustls_client(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"x-amzn-mqtt-ca".to_vec(), b"mqtt".to_vec()];
    let tcp = tcp::connect("127.0.0.1", listener.local_addr().unwrap().port(), LONG)
        .await
        .unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = async { listener.accept().await.handshake().await };
    let (client, server) = tokio::join!(connector.connect(loopback_name(), tcp), handshake);
    assert!(server.is_ok());
    assert_eq!(client.unwrap().get_ref().1.alpn_protocol(), None);
}

#[tokio::test]
async fn a_client_without_tls_is_told_apart() {
    let papers = Papers::new();
    let listener = listener(LOCAL4, Some(papers.server()), |_| {});
    let mut client = tcp::connect("127.0.0.1", listener.local_addr().unwrap().port(), LONG)
        .await
        .unwrap();
    let mut bytes = BytesMut::new();
    encode(&connect(ProtocolVersion::V5), ProtocolVersion::V5, &mut bytes);
    client.write_all(&bytes).await.unwrap();
    let refused = listener.accept().await.handshake().await.unwrap_err();
    assert!(refused.to_string().contains("does not speak TLS"), "{refused}");
}

#[tokio::test]
async fn a_required_certificate_that_is_missing_foreign_or_expired_lets_nobody_in() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let required = papers.asking(
        ClientCertificates::Required(ClientTrust::of(papers.ca.clone())),
        None,
    );

    let (_, server) = papers.meet(required.clone(), papers.client()).await;
    let refused = server.unwrap_err();
    assert!(refused.to_string().contains("shows no certificate"), "{refused}");

    let foreign = strangers.signed_client(|_| {});
    let (_, server) = papers
        .meet(
            required.clone(),
            ClientSettings {
                certificate: Some(foreign),
                ..papers.client()
            },
        )
        .await;
    assert!(matches!(
        server,
        Err(HandshakeError::Refused(rustls::Error::InvalidCertificate(_)))
    ));

    let expired = papers.signed_client(|params| params.not_after = (now() - HOUR).into());
    let config = papers.rustls_client_with(expired);
    let server = papers.meet_rustls(required, config).await;
    assert!(server.unwrap_err().to_string().contains("expired"));
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    let optional = papers.asking(
        ClientCertificates::Optional(ClientTrust::of(papers.ca.clone())),
        Some(CertificateField::CommonName),
    );

    let (client, server) = papers.meet(optional.clone(), papers.client()).await;
    assert!(client.is_ok());
    assert_eq!(server.unwrap().certificate_user, None);

    let known = papers.signed_client(|params| params.distinguished_name = common_name("pump"));
    let (_, server) = papers
        .meet(
            optional.clone(),
            ClientSettings {
                certificate: Some(known),
                ..papers.client()
            },
        )
        .await;
    assert_eq!(server.unwrap().certificate_user, Some(text("pump")));

    let foreign = strangers.signed_client(|params| params.distinguished_name = common_name("pump"));
    let (_, server) = papers
        .meet(
            optional,
            ClientSettings {
                certificate: Some(foreign),
                ..papers.client()
            },
        )
        .await;
    assert!(server.is_err());
}

#[tokio::test]
async fn the_user_name_comes_from_the_field_that_was_asked_for() {
    let papers = Papers::new();
    let certificate = papers.signed_client(|params| {
        params.distinguished_name = common_name("Pumpe Süd");
        params.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::Rfc822Name(ia5("pump@example.org")),
            SanType::URI(ia5("urn:dev:pump:7")),
            dns("pump-7.example.org"),
            dns("other.example.org"),
        ];
    });
    for (field, expected) in [
        (CertificateField::CommonName, "Pumpe Süd"),
        (CertificateField::SanDns, "pump-7.example.org"),
        (CertificateField::SanUri, "urn:dev:pump:7"),
        (CertificateField::SanEmail, "pump@example.org"),
    ] {
        let server = papers.asking(
            ClientCertificates::Required(ClientTrust::of(papers.ca.clone())),
            Some(field),
        );
        let client = ClientSettings {
            certificate: Some(certificate.clone()),
            ..papers.client()
        };
        let (_, server) = papers.meet(server, client).await;
        assert_eq!(server.unwrap().certificate_user, Some(text(expected)));
    }
}

#[tokio::test]
async fn a_certificate_that_names_nobody_for_certain_lets_nobody_in() {
    let papers = Papers::new();
    let bmp = DnValue::BmpString(BmpString::try_from("pump").unwrap());
    let names: [(CertificateField, DistinguishedName, Vec<SanType>); 7] = [
        (
            CertificateField::CommonName,
            DistinguishedName::new(),
            vec![dns("pump")],
        ),
        (CertificateField::CommonName, common_name(""), vec![]),
        (
            CertificateField::CommonName,
            common_name("admin\0.example.org"),
            vec![],
        ),
        (CertificateField::CommonName, common_name(bmp), vec![]),
        (CertificateField::SanDns, common_name("pump"), vec![]),
        (CertificateField::SanUri, common_name("pump"), vec![dns("pump")]),
        (
            CertificateField::SanDns,
            common_name("pump"),
            vec![dns("admin\0.example.org")],
        ),
    ];
    for (field, subject, alternatives) in names {
        let certificate = papers.signed_client(|params| {
            params.distinguished_name = subject;
            params.subject_alt_names = alternatives;
        });
        let server = papers.asking(
            ClientCertificates::Required(ClientTrust::of(papers.ca.clone())),
            Some(field),
        );
        let client = ClientSettings {
            certificate: Some(certificate),
            ..papers.client()
        };
        let (_, server) = papers.meet(server, client).await;
        assert!(
            matches!(server, Err(HandshakeError::Certificate(_))),
            "{field:?}: {server:?}"
        );
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_life_of_its_certificate() {
    let papers = Papers::new();
    let clock = Arc::new(HandClock::at(now()));
    let server = papers.asking(
        ClientCertificates::Required(ClientTrust::of(papers.ca.clone())),
        None,
    );
    let listener = Listener::bind(
        settings(LOCAL4, Some(server)),
        Some(Arc::clone(&clock) as Arc<dyn TimeProvider>),
    )
    .unwrap();
    let certificate = papers.signed_client(|params| params.not_after = (now() + HOUR).into());
    let client = ClientSettings {
        certificate: Some(certificate),
        ..papers.client()
    };
    let connector = Connector::new(&client, Arc::new(FlooredClock::default())).unwrap();
    for (moment, is_expired) in [
        (now(), false),
        (now() + HOUR / 2, false),
        (now() + 2 * HOUR, true),
    ] {
        clock.set(moment);
        let (client, server) = meet(&listener, &connector).await;
        if is_expired {
            assert!(
                matches!(
                    server,
                    Err(HandshakeError::Certificate(CertificateError::Expired))
                ),
                "{server:?}"
            );
            continue;
        }
        // A client has its ticket once it has read something.
        let mut server = End::new(Link::server(server.unwrap().stream, BYTES_MAX));
        let mut client = End::new(Link::client(client.unwrap(), ProtocolVersion::V5, BYTES_MAX));
        pass(&mut client, &mut server, &[connect(ProtocolVersion::V5)]).await;
        pass(&mut server, &mut client, &[connack()]).await;
    }
}

#[tokio::test]
async fn certificates_are_checked_against_the_clock_that_was_given() {
    let papers = Papers::new();
    let server = papers.signed_server(|params| params.not_after = (now() + HOUR).into());
    let later: Arc<dyn TimeProvider> = Arc::new(HandClock::at(now() + 2 * HOUR));
    let refused = Listener::bind(settings(LOCAL4, Some(server.clone())), Some(later)).unwrap_err();
    assert!(
        matches!(
            refused,
            NetError::Tls {
                source: TlsError::Expired { .. },
                ..
            }
        ),
        "{refused}"
    );
    // A board that woke up in 1970 cannot use a certificate without the floor under its clock, and can with
    // it.
    let fresh = papers.signed_server(|params| params.not_before = (now() - HOUR).into());
    let listener = listener(LOCAL4, Some(fresh), |_| {});
    for (clock, is_usable) in [
        (
            Arc::new(HandClock::at(UNIX_EPOCH)) as Arc<dyn TimeProvider>,
            false,
        ),
        (Arc::new(FlooredClock::new(Some(now()))), true),
    ] {
        let connector = Connector::new(&papers.client(), clock).unwrap();
        let (client, _) = meet(&listener, &connector).await;
        assert_eq!(client.is_ok(), is_usable);
    }
}

// Files.

#[tokio::test]
async fn a_file_that_is_not_what_it_should_be_stops_the_start_and_is_named() {
    let papers = Papers::new();
    let good = papers.server();
    let missing = papers.folder.path().join("missing.pem");
    let empty = papers.write("empty.pem", "");
    let noise = papers.write(
        "noise.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let torn = papers.write("torn.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let encrypted = papers.write(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let old_style = papers.write(
        "old-style.pem",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
         -----END RSA PRIVATE KEY-----\n",
    );
    let other_key = papers.write("other-key.pem", &KeyPair::generate().unwrap().serialize_pem());
    let exposed = papers.write("exposed.pem", &std::fs::read_to_string(&good.key).unwrap());
    set_mode(&exposed, 0o620);
    let half_good = papers.write(
        "half-good.pem",
        &format!(
            "{}{}",
            std::fs::read_to_string(&papers.ca).unwrap(),
            std::fs::read_to_string(&noise).unwrap()
        ),
    );
    let expired = papers.signed_server(|params| params.not_after = (now() - HOUR).into());
    let asking =
        |ca: &Path| papers.asking(ClientCertificates::Required(ClientTrust::of(ca.to_owned())), None);
    let certificate = |file: &Path| ServerSettings {
        certificate: file.to_owned(),
        ..good.clone()
    };
    let key = |file: &Path| ServerSettings {
        key: file.to_owned(),
        ..good.clone()
    };
    let cases: [(ServerSettings, &Path, &str); 14] = [
        (certificate(&missing), &missing, "cannot read"),
        (certificate(&empty), &empty, "holds no certificate"),
        (certificate(&good.key), &good.key, "holds no certificate"),
        (certificate(&noise), &noise, "cannot be used"),
        (certificate(&torn), &torn, "cannot be used"),
        (expired.clone(), &expired.certificate, "expired on"),
        (key(&missing), &missing, "cannot read"),
        (key(&good.certificate), &good.certificate, "holds no private key"),
        (key(&encrypted), &encrypted, "is encrypted"),
        (key(&old_style), &old_style, "is encrypted"),
        (key(&other_key), &other_key, "does not belong to the certificate"),
        (key(&exposed), &exposed, "0620"),
        (asking(&empty), &empty, "holds no certificate"),
        (asking(&half_good), &half_good, "cannot be used"),
    ];
    for (tls, file, expected) in cases {
        let refused = Listener::bind(settings(LOCAL4, Some(tls)), None)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(expected) && refused.contains(&file.display().to_string()),
            "{refused}"
        );
    }
    let unasked = ServerSettings {
        user_name_from: Some(CertificateField::CommonName),
        ..good
    };
    let refused = Listener::bind(settings(LOCAL4, Some(unasked)), None)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("clients are not asked"), "{refused}");
}

// Helpers.

const LOCAL4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LOCAL6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
const BYTES_MAX: u32 = 1024 * 1024;
/// So long that only a fault reaches it.
const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn settings(address: SocketAddr, tls: Option<ServerSettings>) -> ListenerSettings {
    ListenerSettings {
        tls,
        handshake_timeout: LONG,
        ..ListenerSettings::new("test", address, 1000)
    }
}

fn listener(
    address: SocketAddr,
    tls: Option<ServerSettings>,
    change: impl FnOnce(&mut ListenerSettings),
) -> Listener {
    let mut settings = settings(address, tls);
    change(&mut settings);
    Listener::bind(settings, None).unwrap()
}

/// A gateway in small: whoever sends CONNECT is admitted, answered and kept until it goes.
async fn serve(listener: Rc<Listener>) {
    loop {
        tokio::task::spawn_local(serve_one(listener.accept().await));
    }
}

async fn serve_one(accepted: Accepted) {
    let Ok(Incoming { stream, permit, .. }) = accepted.handshake().await else {
        return;
    };
    let mut end = End::new(Link::server(stream, BYTES_MAX));
    loop {
        let packet = tokio::select! {
            () = poll_fn(|cx| permit.poll_gives_way(cx)) => return,
            packet = end.receive() => packet,
        };
        match packet {
            Some(Packet::Connect(_)) => {
                permit.admitted();
                end.send(&[connack()]).await;
            }
            Some(_) => {}
            None => return,
        }
    }
}

async fn honest_client(port: u16) -> End {
    let stream = tcp::connect("127.0.0.1", port, LONG).await.unwrap();
    let mut client = End::new(Link::client(Stream::Tcp(stream), ProtocolVersion::V5, BYTES_MAX));
    client.send(&[connect(ProtocolVersion::V5)]).await;
    client
}

/// Lets the other tasks run until `state` holds.
async fn until(state: impl Fn() -> bool) {
    while !state() {
        tokio::task::yield_now().await;
    }
}

async fn meet(
    listener: &Listener,
    connector: &Connector,
) -> (Result<Stream, HandshakeError>, Result<Incoming, HandshakeError>) {
    let dial = async {
        let tcp = tcp::connect("127.0.0.1", listener.local_addr().unwrap().port(), LONG)
            .await
            .unwrap();
        connector.connect(tcp, "127.0.0.1", LONG).await
    };
    tokio::join!(dial, async { listener.accept().await.handshake().await })
}

/// One end of a connection with buffers of its own.
struct End {
    link: Link,
    buffers: Buffers,
}

impl End {
    fn new(link: Link) -> Self {
        Self {
            link,
            buffers: Buffers::new(),
        }
    }

    async fn send(&mut self, packets: &[Packet]) {
        for packet in packets {
            self.link.send(packet, &mut self.buffers);
        }
        self.flush().await.unwrap();
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.link.poll_flush(cx, &mut self.buffers)).await
    }

    async fn flush_once(&mut self) -> Poll<io::Result<()>> {
        poll_fn(|cx| Poll::Ready(self.link.poll_flush(cx, &mut self.buffers))).await
    }

    /// The next packet; `None` at the end of the stream.
    async fn receive(&mut self) -> Option<Packet> {
        poll_fn(|cx| {
            loop {
                if let Some(packet) = self.link.poll_packet().unwrap() {
                    return Poll::Ready(Some(packet));
                }
                match ready!(self.link.poll_receive(cx, &mut self.buffers)) {
                    Ok(0) | Err(_) => return Poll::Ready(None),
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The next packet if it is there already.
    async fn receive_now(&mut self) -> Option<Packet> {
        let mut receive = std::pin::pin!(self.receive());
        poll_fn(|cx| match receive.as_mut().poll(cx) {
            Poll::Ready(packet) => Poll::Ready(Some(packet.expect("the stream is open"))),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    async fn expect(&mut self, packets: &[Packet]) {
        for expected in packets {
            assert_eq!(self.receive().await.as_ref(), Some(expected));
        }
    }
}

async fn pass(from: &mut End, to: &mut End, packets: &[Packet]) {
    tokio::join!(from.send(packets), to.expect(packets));
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Tcp4,
    Tcp6,
    Tls12,
    Tls13,
    WebSocket,
    WebSocketTls,
}

impl Transport {
    /// Both ends of a new connection.
    async fn connected(self, papers: &Papers) -> (Stream, Stream, ConnectionPermit) {
        let address = if matches!(self, Self::Tcp6) {
            LOCAL6
        } else {
            LOCAL4
        };
        let tls = matches!(self, Self::Tls12 | Self::Tls13 | Self::WebSocketTls).then(|| papers.server());
        let is_websocket = matches!(self, Self::WebSocket | Self::WebSocketTls);
        let listener = listener(address, tls, |settings| {
            settings.websocket = is_websocket.then(|| upgrade::ServerSettings {
                paths: vec!["/mqtt".to_owned()],
                origins: upgrade::Origins::SameHost,
            });
        });
        let address = listener.local_addr().unwrap();
        let accept = async { listener.accept().await.handshake().await.unwrap() };
        let dial = async {
            let tcp = tcp::connect(&address.ip().to_string(), address.port(), LONG)
                .await
                .unwrap();
            let stream = match self {
                Self::Tcp4 | Self::Tcp6 | Self::WebSocket => Stream::Tcp(tcp),
                Self::Tls12 => secured(tcp, papers, &rustls::version::TLS12).await,
                Self::Tls13 | Self::WebSocketTls => secured(tcp, papers, &rustls::version::TLS13).await,
            };
            if !is_websocket {
                return stream;
            }
            let place = upgrade::Place {
                host: "127.0.0.1",
                port: address.port(),
                tls: matches!(self, Self::WebSocketTls),
                path: "/mqtt",
            };
            Stream::WebSocket(Box::new(upgrade::connect(stream, place, LONG).await.unwrap()))
        };
        let (client, server) = tokio::join!(dial, accept);
        (client, server.stream, server.permit)
    }
}

async fn secured(
    tcp: TcpStream,
    papers: &Papers,
    version: &'static rustls::SupportedProtocolVersion,
) -> Stream {
    let connector = TlsConnector::from(Arc::new(papers.rustls_client(&[version])));
    let stream = connector.connect(loopback_name(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    Stream::Tls(Box::new(TlsStream::Client(stream)))
}

fn loopback_name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// An authority and what it signed, in files.
struct Papers {
    folder: TempDir,
    ca: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    count: AtomicU64,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = common_name("test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            folder,
            ca,
            issuer: Issuer::new(params, key),
            count: AtomicU64::new(0),
        }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        set_mode(&file, 0o600);
        file
    }

    /// A certificate and its key.
    fn signed(&self, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            self.write(&format!("{number}.pem"), &certificate.pem()),
            self.write(&format!("{number}-key.pem"), &key.serialize_pem()),
        )
    }

    fn signed_server(&self, change: impl FnOnce(&mut CertificateParams)) -> ServerSettings {
        let (certificate, key) = self.signed(|params| {
            params.subject_alt_names = vec![SanType::IpAddress(LOCAL4.ip())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            change(params);
        });
        ServerSettings {
            certificate,
            key,
            client_certificates: ClientCertificates::Ignored,
            user_name_from: None,
            client_id_from: None,
        }
    }

    fn signed_client(&self, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
        self.signed(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    fn server(&self) -> ServerSettings {
        self.signed_server(|_| {})
    }

    fn asking(
        &self,
        client_certificates: ClientCertificates,
        user_name_from: Option<CertificateField>,
    ) -> ServerSettings {
        ServerSettings {
            client_certificates,
            user_name_from,
            ..self.server()
        }
    }

    fn client(&self) -> ClientSettings {
        ClientSettings {
            roots: Roots::File(self.ca.clone()),
            ..ClientSettings::default()
        }
    }

    async fn dial(&self, port: u16) -> Result<Stream, HandshakeError> {
        let connector = Connector::new(&self.client(), Arc::new(FlooredClock::default())).unwrap();
        let tcp = tcp::connect("127.0.0.1", port, LONG).await.unwrap();
        connector.connect(tcp, "127.0.0.1", LONG).await
    }

    /// What both sides of a handshake say; where TLS 1.3 lets a client believe in success too early, the
    /// server's word counts.
    async fn meet(
        &self,
        server: ServerSettings,
        client: ClientSettings,
    ) -> (Result<Stream, HandshakeError>, Result<Incoming, HandshakeError>) {
        let connector = Connector::new(&client, Arc::new(FlooredClock::default())).unwrap();
        meet(&listener(LOCAL4, Some(server), |_| {}), &connector).await
    }

    /// The same with a client that does not look at its own certificate first.
    async fn meet_rustls(
        &self,
        server: ServerSettings,
        config: rustls::ClientConfig,
    ) -> Result<Incoming, HandshakeError> {
        let listener = listener(LOCAL4, Some(server), |_| {});
        let tcp = tcp::connect("127.0.0.1", listener.local_addr().unwrap().port(), LONG)
            .await
            .unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let dial = connector.connect(loopback_name(), tcp);
        tokio::join!(dial, async { listener.accept().await.handshake().await }).1
    }

    fn rustls_builder(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.ca).unwrap())
            .unwrap();
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
    }

    fn rustls_client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
        self.rustls_builder(versions).with_no_client_auth()
    }

    fn rustls_client_with(&self, (certificate, key): (PathBuf, PathBuf)) -> rustls::ClientConfig {
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
        self.rustls_builder(rustls::ALL_VERSIONS)
            .with_client_auth_cert(chain, key)
            .unwrap()
    }
}

/// A clock that is set by hand.
#[derive(Debug)]
struct HandClock(AtomicU64);

impl HandClock {
    fn at(moment: SystemTime) -> Self {
        Self(AtomicU64::new(unix_secs(moment)))
    }

    fn set(&self, moment: SystemTime) {
        self.0.store(unix_secs(moment), Ordering::Relaxed);
    }
}

impl TimeProvider for HandClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::Relaxed),
        )))
    }
}

fn unix_secs(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn now() -> SystemTime {
    FlooredClock::default().now()
}

fn set_mode(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn common_name(name: impl Into<DnValue>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).unwrap()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(ia5(name))
}

fn text(text: &str) -> Utf8String {
    Utf8String::try_from(text).unwrap()
}

fn connect(version: ProtocolVersion) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: ClientId::new(text("pump-7")),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

fn connack() -> Packet {
    Packet::ConnAck(Box::default())
}

/// A message of `length` bytes that differ.
fn publish(length: usize) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::parse(text("site/pump/7/pressure")).unwrap()),
        packet_id: None,
        payload: (0..length)
            .map(|index| (index % 251).to_le_bytes()[0])
            .collect::<Bytes>(),
        properties: None,
    })
}
