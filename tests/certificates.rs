//! Clients that prove themselves by certificate: their names, their authorities, and who is not trusted any more.

#![allow(clippy::unwrap_used, reason = "what a test cannot do without fails it")]

mod running;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tidegate::config::Settings;
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use tidegate::net::link::{Link, Stream};
use tidegate::net::listener::{Listener, ListenerSettings};
use tidegate::net::tls::{
    CertificateField, ClientCertificates, ClientTrust, CrlDepth, Doubt, Server, ServerSettings,
};
use tidegate::net::websocket::upgrade;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use running::{Doors, Papers, Peer, connect, publish, text, topic, with_gateway};

const HOUR: Duration = Duration::from_secs(3600);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[test]
fn a_certificate_says_which_client_identifier_its_client_has() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let server = ServerSettings {
        client_id_from: Some(CertificateField::SanDns),
        ..required(&papers, ClientTrust::of(&fleet.ca))
    };
    let config = fleet.client(1, &TLS13, &papers);
    with_gateway(settings(&server), async |doors| {
        let own = "pump-1.example";
        let mut peer = dial(doors, &config).await.unwrap();
        let connack = peer.knock(connect(own)).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        assert_eq!(connack.properties.assigned_client_id, None);

        let mut peer = dial(doors, &config).await.unwrap();
        let connack = peer.knock(nameless(ProtocolVersion::V5)).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        let assigned = connack.properties.assigned_client_id.expect("one of its own");
        assert_eq!(assigned.as_str(), own);

        let mut peer = dial(doors, &config).await.unwrap();
        let connack = peer.knock(connect("pump-2.example")).await;
        assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);

        let old = |id| Connect {
            version: ProtocolVersion::V311,
            ..connect(id)
        };
        let mut peer = old_dial(doors, &config).await;
        let connack = peer.knock(old("pump-2.example")).await;
        assert_eq!(
            connack.reason,
            ReasonCode::ClientIdentifierNotValid,
            "0x02 on the wire"
        );
        let mut peer = old_dial(doors, &config).await;
        assert_eq!(peer.knock(old(own)).await.reason, ReasonCode::Success);
    });
}

#[test]
fn a_certificate_names_its_user_by_common_name_or_alternative_name() {
    for field in [CertificateField::CommonName, CertificateField::SanDns] {
        let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
        let server = ServerSettings {
            user_name_from: Some(field),
            ..required(&papers, ClientTrust::of(&fleet.ca))
        };
        let mut settings = settings(&server);
        settings.listeners.last_mut().unwrap().policy.anonymous = false;
        settings.listeners.last_mut().unwrap().policy.client_ids = tidegate::broker::ClientIds::User;
        with_gateway(settings, async |doors| {
            let config = fleet.client(1, &TLS13, &papers);
            let user = match field {
                CertificateField::CommonName => "pump-1",
                _ => "pump-1.example",
            };
            dial(doors, &config).await.unwrap().enter(connect(user)).await;
            let connack = dial(doors, &config).await.unwrap().knock(connect("other")).await;
            assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
        });
    }
}

#[test]
fn certificates_of_every_authority_listed_are_accepted_and_of_no_other() {
    let papers = Papers::new();
    let [old, new, third, stranger] = ["old", "new", "third", "stranger"].map(Authority::new);
    // Two in one file, one in another.
    let both = [&old, &new].map(|authority| fs::read_to_string(&authority.ca).unwrap());
    let both = old.write("both.pem", both.concat());
    let trust = ClientTrust {
        ca: vec![both, third.ca.clone()],
        ..ClientTrust::of("")
    };
    with_gateway(settings(&required(&papers, trust)), async |doors| {
        for version in VERSIONS {
            for authority in [&old, &new, &third] {
                assert!(comes_in(doors, &authority.client(1, version, &papers)).await);
            }
            assert!(!comes_in(doors, &stranger.client(1, version, &papers)).await);
        }
    });
}

#[test]
fn a_revoked_certificate_lets_nobody_in_and_its_neighbour_does() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let pem = fleet.write("fleet.crl", fleet.crl(&[7], HOUR).pem().unwrap());
    let der = fleet.write("fleet-der.crl", fleet.crl(&[8], 2 * HOUR).der());
    for (file, revoked, good) in [(pem, 7, 8), (der, 8, 7)] {
        let trust = ClientTrust {
            crl: vec![file],
            ..ClientTrust::of(&fleet.ca)
        };
        with_gateway(settings(&required(&papers, trust)), async |doors| {
            for version in VERSIONS {
                assert!(!comes_in(doors, &fleet.client(revoked, version, &papers)).await);
                assert!(comes_in(doors, &fleet.client(good, version, &papers)).await);
            }
        });
    }
}

#[test]
fn of_two_lists_of_one_issuer_the_newer_counts_in_whatever_order_they_stand() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let mut lists = [
        fleet.write("old.crl", fleet.crl_of(&[], HOUR, 3 * HOUR).pem().unwrap()),
        fleet.write("new.crl", fleet.crl_of(&[7], HOUR, HOUR).pem().unwrap()),
    ];
    for _ in 0..2 {
        lists.reverse();
        let trust = ClientTrust {
            crl: lists.to_vec(),
            ..ClientTrust::of(&fleet.ca)
        };
        with_gateway(settings(&required(&papers, trust)), async |doors| {
            assert!(!comes_in(doors, &fleet.client(7, &TLS13, &papers)).await);
            assert!(comes_in(doors, &fleet.client(8, &TLS13, &papers)).await);
        });
    }
}

#[test]
fn where_a_list_is_missing_or_too_old_nobody_comes_in_unless_the_configuration_says_so() {
    let papers = Papers::new();
    let [fleet, other] = ["fleet", "other"].map(Authority::new);
    let of_other = other.write("other.crl", other.crl(&[], HOUR).pem().unwrap());
    let too_old = fleet.write(
        "old.crl",
        fleet.crl_of(&[7], Duration::ZERO, 2 * HOUR).pem().unwrap(),
    );
    let cases = [
        (&of_other, Doubt::Refuse, Doubt::Refuse, false),
        (&of_other, Doubt::Accept, Doubt::Refuse, true),
        (&too_old, Doubt::Refuse, Doubt::Refuse, false),
        (&too_old, Doubt::Refuse, Doubt::Accept, true),
    ];
    for (file, crl_missing, crl_expired, comes) in cases {
        let trust = ClientTrust {
            ca: vec![fleet.ca.clone(), other.ca.clone()],
            crl: vec![file.clone()],
            crl_missing,
            crl_expired,
            crl_depth: CrlDepth::Chain,
        };
        with_gateway(settings(&required(&papers, trust)), async |doors| {
            let config = fleet.client(8, &TLS13, &papers);
            assert_eq!(comes_in(doors, &config).await, comes, "{file:?}");
            // What an old list says against somebody holds all the same.
            let is_listed = file == &too_old;
            let config = fleet.client(7, &TLS13, &papers);
            assert_eq!(comes_in(doors, &config).await, comes && !is_listed, "{file:?}");
        });
    }
}

#[test]
fn a_reload_drops_nobody_who_is_still_trusted_and_new_clients_meet_the_new_certificates() {
    let (papers, new_papers) = (Papers::new(), Papers::new());
    let [old, new] = ["old", "new"].map(Authority::new);
    let trusting = |papers: &Papers, authorities: &[&Authority]| {
        let ca = authorities.iter().map(|authority| authority.ca.clone());
        let trust = ClientTrust {
            ca: ca.collect(),
            ..ClientTrust::of("")
        };
        required(papers, trust)
    };
    with_gateway(settings(&trusting(&papers, &[&old])), async |doors| {
        let mut hearer = dial(doors, &old.client(1, &TLS13, &papers)).await.unwrap();
        hearer.enter(connect("hearer")).await;
        hearer.subscribe("t", QoS::AtLeastOnce).await;
        let mut sayer = dial(doors, &old.client(2, &TLS12, &papers)).await.unwrap();
        sayer.enter(connect("sayer")).await;
        assert!(!comes_in(doors, &new.client(3, &TLS13, &papers)).await);

        let both = trusting(&new_papers, &[&old, &new]);
        for round in 1..=50_u16 {
            sayer.say(&publish("t", vec![b'x'; 64], Some(round))).await;
            doors.reload_tls("tls", &both).expect("right");
            assert!(matches!(sayer.hear().await, Some(Packet::PubAck(_))));
            let heard = hearer.hear_publish().await;
            hearer.acknowledge(heard.packet_id).await;
        }
        // The server's own certificate is another one, too.
        assert!(!comes_in(doors, &old.client(4, &TLS13, &papers)).await);
        for authority in [&old, &new] {
            assert!(comes_in(doors, &authority.client(5, &TLS13, &new_papers)).await);
        }

        let mut newcomer = dial(doors, &new.client(6, &TLS13, &new_papers)).await.unwrap();
        newcomer.enter(connect("newcomer")).await;
        doors
            .reload_tls("tls", &trusting(&new_papers, &[&new]))
            .expect("right");
        hearer.hear_farewell(ReasonCode::NotAuthorized).await;
        sayer.hear_farewell(ReasonCode::NotAuthorized).await;
        newcomer.ping().await;
    });
}

#[test]
fn who_is_in_by_a_certificate_that_is_revoked_is_told_and_ended_and_its_will_is_sent() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let (file, server) = with_revocations(&papers, &fleet);
    with_gateway(settings(&server), async |doors| {
        let mut others = Vec::new();
        for serial in 20..30 {
            let mut peer = dial(doors, &fleet.client(serial, &TLS13, &papers)).await.unwrap();
            peer.enter(connect(&format!("other{serial}"))).await;
            others.push(peer);
        }
        others[0].subscribe("wills", QoS::AtMostOnce).await;
        let mut stolen = Vec::new();
        for (serial, version) in [(7, &TLS12), (8, &TLS13)] {
            let mut peer = dial(doors, &fleet.client(serial, version, &papers))
                .await
                .unwrap();
            let will = tidegate::mqtt::Will {
                topic: topic("wills"),
                payload: text(&format!("{serial}")).as_bytes().clone(),
                qos: QoS::AtMostOnce,
                retain: false,
                properties: tidegate::mqtt::WillProperties::default(),
            };
            let connect = Connect {
                will: Some(will),
                ..connect(&format!("stolen{serial}"))
            };
            peer.enter(connect).await;
            stolen.push(peer);
        }
        // A list too old to let anybody in ends nobody it does not name.
        fs::write(&file, fleet.crl_of(&[7], Duration::ZERO, 2 * HOUR).pem().unwrap()).unwrap();
        doors.reload_tls("tls", &server).expect("right");
        stolen[0].hear_farewell(ReasonCode::NotAuthorized).await;
        assert_eq!(others[0].hear_publish().await.payload, "7");
        stolen[1].ping().await;

        fs::write(&file, fleet.crl(&[7, 8], HOUR).pem().unwrap()).unwrap();
        doors.reload_tls("tls", &server).expect("right");
        stolen[1].hear_farewell(ReasonCode::NotAuthorized).await;
        assert_eq!(others[0].hear_publish().await.payload, "8");
        for other in &mut others {
            other.ping().await;
        }
    });
}

#[test]
fn a_session_of_tls_is_not_resumed_past_the_revocation_of_its_certificate() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let (file, server) = with_revocations(&papers, &fleet);
    for version in VERSIONS {
        fs::write(&file, fleet.crl(&[], HOUR).pem().unwrap()).unwrap();
        with_gateway(settings(&server), async |doors| {
            let [good, bad] = [8, 7].map(|serial| fleet.client(serial, version, &papers));
            for config in [&good, &bad] {
                assert_eq!(visit(doors, config).await, Some(HandshakeKind::Full));
                assert_eq!(visit(doors, config).await, Some(HandshakeKind::Resumed));
            }
            fs::write(&file, fleet.crl(&[7], HOUR).pem().unwrap()).unwrap();
            doors.reload_tls("tls", &server).expect("right");
            assert_eq!(visit(doors, &bad).await, None);
            assert_eq!(visit(doors, &good).await, Some(HandshakeKind::Full));
        });
    }
}

#[test]
fn who_is_half_way_in_when_a_certificate_is_revoked_is_held_to_that() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let (file, server) = with_revocations(&papers, &fleet);
    let mut settings = settings(&server);
    settings.listeners.last_mut().unwrap().net.websocket = Some(upgrade::ServerSettings {
        paths: vec!["/mqtt".to_owned()],
        origins: upgrade::Origins::Any,
    });
    with_gateway(settings, async |doors| {
        // With TLS 1.2 the server is done when the client is; what is left is the request of the WebSocket.
        let mut half_way = Vec::new();
        for serial in [7, 8] {
            let config = fleet.client(serial, &TLS12, &papers);
            half_way.push(stream(doors, &config).await.unwrap());
        }
        fs::write(&file, fleet.crl(&[7], HOUR).pem().unwrap()).unwrap();
        doors.reload_tls("tls", &server).expect("right");
        let mut answers = Vec::new();
        for mut stream in half_way {
            let request = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Protocol: mqtt\r\n\r\n";
            // CONNECT of "a" in a frame, masked with zeros.
            let connect = b"\x82\x8f\0\0\0\0\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a";
            stream.write_all(request.as_bytes()).await.unwrap();
            // Whoever is refused may have hung up already.
            let _ = stream.write_all(connect).await;
            let _ = stream.flush().await;
            let mut heard = Vec::new();
            let connack = b"\x20\x02\0\0";
            while !heard.ends_with(connack) && stream.read_buf(&mut heard).await.is_ok_and(|count| count > 0)
            {
            }
            answers.push(heard.ends_with(connack));
        }
        assert_eq!(answers, [false, true]);
    });
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let file = fleet.write("fleet.crl", fleet.crl(&[7], HOUR).pem().unwrap());
    let trust = ClientTrust {
        crl: vec![file.clone()],
        ..ClientTrust::of(&fleet.ca)
    };
    let server = required(&papers, trust);
    with_gateway(settings(&server), async |doors| {
        let mut peer = dial(doors, &fleet.client(8, &TLS13, &papers)).await.unwrap();
        peer.enter(connect("a")).await;
        let whole = fs::read_to_string(&file).unwrap();
        let misspelt = whole.replace("X509 CRL", "X509 CLR");
        let ca = fs::read_to_string(&fleet.ca).unwrap();
        for bad in [
            String::new(),
            whole.replace("-----END", ""),
            format!("{whole}{misspelt}"),
            format!("{whole}{}", ca.replace("CERTIFICATE", "X509 CRL")),
            ca,
        ] {
            fs::write(&file, bad).unwrap();
            let error = doors.reload_tls("tls", &server).unwrap_err().to_string();
            assert!(error.contains("fleet.crl"), "{error}");
        }
        assert!(doors.reload_tls("local", &server).is_err(), "it has no TLS");
        peer.ping().await;
        assert!(comes_in(doors, &fleet.client(8, &TLS13, &papers)).await);
        assert!(!comes_in(doors, &fleet.client(7, &TLS13, &papers)).await);
    });
}

#[test]
fn a_revocation_list_that_is_not_whole_is_refused_with_the_reason() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let whole = fleet.crl(&[7], HOUR).der().to_vec();
    // The fields before it say when the list was made and when it is due, thirteen characters each; the next one says
    // when the certificate was revoked.
    let moments: Vec<usize> = (0..whole.len())
        .filter(|&at| whole[at..].starts_with(&[0x17, 13]))
        .collect();
    let [made_at, due_at, revoked_at] = moments[..] else {
        panic!("expected three moments: {moments:?}");
    };
    let damaged = |at: usize, byte| {
        let mut list = whole.clone();
        list[at] = byte;
        list
    };
    for (list, expected) in [
        ([&whole[..], b"\n"].concat(), "something stands behind it"),
        (damaged(due_at, 0x30), "does not say when it is to be replaced"),
        (damaged(made_at + 2, b'x'), "cannot be taken apart"),
        (damaged(due_at + 14, b'x'), "cannot be taken apart"),
        (whole[..whole.len() - 1].to_vec(), "cannot be taken apart"),
        (damaged(revoked_at + 2, b'x'), "cannot be used"),
    ] {
        let file = fleet.write("fleet.crl", list);
        let trust = ClientTrust {
            crl: vec![file],
            ..ClientTrust::of(&fleet.ca)
        };
        let refused = Server::new(&required(&papers, trust), clock()).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains("a revocation list in")
                && refused.contains("fleet.crl")
                && refused.contains(expected),
            "{refused}"
        );
    }
}

#[test]
fn a_file_of_authorities_that_is_not_read_to_its_end_is_refused() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let ca = fs::read_to_string(&fleet.ca).unwrap();
    let misspelt = ca.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let half = fleet.write("half.pem", format!("{ca}{misspelt}"));
    let refused = Server::new(&required(&papers, ClientTrust::of(&half)), clock()).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains("half.pem") && refused.contains("only 1"),
        "{refused}"
    );
}

#[test]
fn the_end_of_a_certificate_is_told_a_month_ahead() {
    let fleet = Authority::new("fleet");
    for (days, expected) in [
        (90, None),
        (20, Some("ends in 20 days")),
        (3, Some("within a week")),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = (SystemTime::now() + days * 24 * HOUR + HOUR).into();
        let certificate = params.signed_by(&key, &fleet.issuer).unwrap();
        let certificate = fleet.write("server.pem", certificate.pem());
        let server = ServerSettings::new(certificate, fleet.write("key.pem", key.serialize_pem()));
        let warnings = Server::new(&server, clock()).unwrap().warnings();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
        if let Some(expected) = expected {
            assert!(warnings[0].contains(expected), "{warnings:?}");
        }
    }
}

#[test]
fn an_authority_in_between_that_is_revoked_lets_nobody_in_unless_only_clients_are_looked_up() {
    let (papers, root) = (Papers::new(), Authority::new("root"));
    let between = Authority::between(&root, 40);
    let of_between = between.write("between.crl", between.crl(&[7], HOUR).pem().unwrap());
    let of_root = root.write("root.crl", root.crl(&[], HOUR).pem().unwrap());
    for crl_depth in [CrlDepth::Chain, CrlDepth::Client] {
        fs::write(&of_root, root.crl(&[], HOUR).pem().unwrap()).unwrap();
        let trust = ClientTrust {
            crl: vec![of_root.clone(), of_between.clone()],
            crl_depth,
            ..ClientTrust::of(&root.ca)
        };
        let server = required(&papers, trust);
        with_gateway(settings(&server), async |doors| {
            for version in VERSIONS {
                assert!(comes_in(doors, &between.client(8, version, &papers)).await);
                assert!(!comes_in(doors, &between.client(7, version, &papers)).await);
            }
            let mut inside = dial(doors, &between.client(9, &TLS13, &papers)).await.unwrap();
            inside.enter(connect("inside")).await;
            fs::write(&of_root, root.crl(&[40], HOUR).pem().unwrap()).unwrap();
            doors.reload_tls("tls", &server).expect("right");
            let is_asked = crl_depth == CrlDepth::Chain;
            match is_asked {
                true => inside.hear_farewell(ReasonCode::NotAuthorized).await,
                false => inside.ping().await,
            }
            for version in VERSIONS {
                let comes = comes_in(doors, &between.client(8, version, &papers)).await;
                assert_eq!(comes, !is_asked, "{crl_depth:?}");
            }
        });
    }
}

#[test]
fn where_only_clients_are_looked_up_the_list_of_the_authority_above_may_be_missing() {
    let (papers, root) = (Papers::new(), Authority::new("root"));
    let between = Authority::between(&root, 40);
    let of_between = between.write("between.crl", between.crl(&[7], HOUR).pem().unwrap());
    for (crl_depth, comes) in [(CrlDepth::Chain, false), (CrlDepth::Client, true)] {
        let trust = ClientTrust {
            crl: vec![of_between.clone()],
            crl_depth,
            ..ClientTrust::of(&root.ca)
        };
        with_gateway(settings(&required(&papers, trust)), async |doors| {
            let config = between.client(8, &TLS13, &papers);
            assert_eq!(comes_in(doors, &config).await, comes, "{crl_depth:?}");
            assert!(!comes_in(doors, &between.client(7, &TLS13, &papers)).await);
        });
    }
}

/// A clock that is moved by hand, in seconds of Unix time.
#[derive(Debug)]
struct HandClock(AtomicU64);

impl TimeProvider for HandClock {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

/// How TLS began with a client, as the client saw it; `None` where the listener did not let it through.
async fn meet(listener: &Listener, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let address = listener.endpoint().ip().expect("it listens on TCP");
    let client = async {
        let tcp = TcpStream::connect(address).await.ok()?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let mut stream = TlsConnector::from(config.clone()).connect(name, tcp).await.ok()?;
        // What lets it resume comes before this.
        let mut said = [0];
        stream.read_exact(&mut said).await.ok()?;
        stream.get_ref().1.handshake_kind()
    };
    let server = async {
        let mut incoming = listener.accept().await.handshake().await.ok()?;
        incoming.stream.write_all(b"x").await.ok()?;
        incoming.stream.flush().await.ok()?;
        Some(incoming)
    };
    let (kind, incoming) = tokio::join!(client, server);
    incoming.and(kind)
}

#[test]
fn a_session_of_tls_is_not_resumed_past_the_end_of_the_revocation_list_unless_old_ones_are_accepted() {
    let (papers, fleet) = (Papers::new(), Authority::new("fleet"));
    let file = fleet.write("fleet.crl", fleet.crl(&[], HOUR).pem().unwrap());
    for crl_expired in [Doubt::Refuse, Doubt::Accept] {
        let trust = ClientTrust {
            crl: vec![file.clone()],
            crl_expired,
            ..ClientTrust::of(&fleet.ca)
        };
        let runtime = tidegate::gateway::runtime().unwrap();
        runtime.block_on(async {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let clock = Arc::new(HandClock(AtomicU64::new(now.as_secs())));
            let anywhere = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut settings = ListenerSettings::new("tls", anywhere, 10);
            settings.tls = Some(required(&papers, trust));
            let listener = Listener::bind(settings, Some(clock.clone())).expect("a free port");
            let configs = VERSIONS.map(|version| fleet.client(8, version, &papers));
            for config in &configs {
                assert_eq!(meet(&listener, config).await, Some(HandshakeKind::Full));
                assert_eq!(meet(&listener, config).await, Some(HandshakeKind::Resumed));
            }
            // Tickets of rustls live longer than this, and the certificates do by far.
            clock.0.fetch_add(2 * 3600, Ordering::Relaxed);
            for config in &configs {
                let met = meet(&listener, config).await;
                assert_eq!(met.is_some(), crl_expired == Doubt::Accept, "{met:?}");
            }
        });
    }
}

// What the tests stand on.

/// An authority for the certificates of clients.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
    /// What its clients show behind their own certificate.
    shown: Vec<CertificateDer<'static>>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = folder.path().join(format!("{name}.pem"));
        fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
            ca,
            shown: Vec::new(),
        }
    }

    /// One that `above` has signed, with this serial number.
    fn between(above: &Self, serial: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let certificate = params.signed_by(&key, &above.issuer).unwrap();
        Self {
            folder,
            shown: vec![certificate.der().clone()],
            issuer: Issuer::new(params, key),
            ca: above.ca.clone(),
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, private).unwrap();
        path
    }

    /// A client called pump-N whose certificate has this serial number.
    fn client(
        &self,
        serial: u8,
        version: &'static SupportedProtocolVersion,
        papers: &Papers,
    ) -> Arc<ClientConfig> {
        let key = KeyPair::generate().unwrap();
        let name = format!("pump-{serial}");
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![SanType::DnsName(format!("{name}.example").try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();

        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&papers.ca).unwrap())
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.shown.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A list of those revoked, which holds for so long.
    fn crl(&self, revoked: &[u8], holds: Duration) -> rcgen::CertificateRevocationList {
        self.crl_of(revoked, holds, HOUR)
    }

    /// The same, made some time ago; one that holds for no time is over since a minute.
    fn crl_of(&self, revoked: &[u8], holds: Duration, age: Duration) -> rcgen::CertificateRevocationList {
        let now = SystemTime::now() - Duration::from_secs(60);
        let revoked_certs = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[serial]),
            revocation_time: (now - age).into(),
            reason_code: None,
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update: (now - age).into(),
            next_update: (now + holds).into(),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
    }
}

fn clock() -> Arc<tidegate::net::clock::FlooredClock> {
    Arc::default()
}

/// A server that asks for certificates of `fleet` and looks into its revocation list, which is that file and empty.
fn with_revocations(papers: &Papers, fleet: &Authority) -> (PathBuf, ServerSettings) {
    let file = fleet.write("fleet.crl", fleet.crl(&[], HOUR).pem().unwrap());
    let trust = ClientTrust {
        crl: vec![file.clone()],
        ..ClientTrust::of(&fleet.ca)
    };
    let server = required(papers, trust);
    (file, server)
}

/// A server that asks every client for a certificate and takes no name from it.
fn required(papers: &Papers, trust: ClientTrust) -> ServerSettings {
    ServerSettings {
        client_certificates: ClientCertificates::Required(trust),
        ..papers.server.clone()
    }
}

fn settings(server: &ServerSettings) -> Settings {
    let mut settings = running::settings();
    let mut door = settings.listeners[0].clone();
    door.net.name = "tls".to_owned();
    door.net.tls = Some(server.clone());
    door.policy.name = "tls".to_owned();
    settings.listeners.push(door);
    settings
}

fn nameless(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        client_id: None,
        ..connect("x")
    }
}

async fn stream(doors: &Doors, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(doors.address("tls")).await?;
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let stream = TlsConnector::from(config.clone()).connect(name, tcp).await?;
    Ok(TlsStream::Client(stream))
}

/// A client that has done its part of the handshake; with TLS 1.3 it may learn afterwards that it was refused.
async fn dial(doors: &Doors, config: &Arc<ClientConfig>) -> std::io::Result<Peer> {
    let stream = Stream::Tls(Box::new(stream(doors, config).await?));
    Ok(Peer::on(Link::client(stream, ProtocolVersion::V5, 1024 * 1024)))
}

async fn old_dial(doors: &Doors, config: &Arc<ClientConfig>) -> Peer {
    let stream = Stream::Tls(Box::new(stream(doors, config).await.unwrap()));
    Peer::on(Link::client(stream, ProtocolVersion::V311, 1024 * 1024))
}

async fn comes_in(doors: &Doors, config: &Arc<ClientConfig>) -> bool {
    match dial(doors, config).await {
        Ok(mut peer) => peer.try_enter(nameless(ProtocolVersion::V5)).await,
        Err(_) => false,
    }
}

/// How TLS began where a client comes in.
async fn visit(doors: &Doors, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let stream = stream(doors, config).await.ok()?;
    let kind = stream.get_ref().1.handshake_kind();
    let mut peer = Peer::on(Link::client(
        Stream::Tls(Box::new(stream)),
        ProtocolVersion::V5,
        1024 * 1024,
    ));
    peer.try_enter(nameless(ProtocolVersion::V5))
        .await
        .then_some(kind)?
}
