//! The HTTP server that is asked who may come in and who may do what: a small one in the test answers as it is told.

mod conversation;
mod running;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use conversation::{V5, client, message1, puback, puback_with, subscribe_packet, subscription};
use running::{Doors, IN_VAIN, settings, with_gateway};
use serde_json::{Value, json};
use tidegate::auth::passwords::{Cost, Users, hash};
use tidegate::callback;
use tidegate::config::Settings;
use tidegate::hooks::Interests;
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, Utf8String};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What a server says to a question.
type Script = Box<dyn Fn(&Value) -> Vec<u8>>;

/// A server that answers by a script.
struct Server {
    answer: RefCell<Script>,
    asked: RefCell<Vec<Value>>,
    connections: RefCell<usize>,
    heard: Notify,
}

impl Server {
    fn begin(listener: std::net::TcpListener, answer: impl Fn(&Value) -> Vec<u8> + 'static) -> Rc<Self> {
        let server = Rc::new(Self {
            answer: RefCell::new(Box::new(answer)),
            asked: RefCell::default(),
            connections: RefCell::default(),
            heard: Notify::new(),
        });
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let serving = server.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.connections.borrow_mut() += 1;
                tokio::task::spawn_local(serving.clone().serve(stream));
            }
        });
        server
    }

    async fn serve(self: Rc<Self>, mut stream: TcpStream) {
        let mut read = Vec::new();
        loop {
            let question = loop {
                let text = String::from_utf8_lossy(&read).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    assert!(
                        head.starts_with("POST /ask HTTP/1.1\r\nHost: 127.0.0.1:"),
                        "{head}"
                    );
                    let length = head.split("Content-Length: ").nth(1).expect("a length");
                    let length: usize = length.parse().expect("the last field is a number");
                    if body.len() >= length {
                        assert_eq!(body.len(), length, "one question at a time");
                        break serde_json::from_str(body).expect("JSON");
                    }
                }
                match stream.read_buf(&mut read).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            read.clear();
            let answer = (self.answer.borrow())(&question);
            self.asked.borrow_mut().push(question);
            self.heard.notify_one();
            let says_nothing = answer.is_empty();
            let hangs_up = answer.ends_with(b"bye");
            if stream.write_all(&answer).await.is_err() || hangs_up {
                return;
            }
            if says_nothing {
                return std::future::pending().await;
            }
        }
    }

    fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.borrow_mut())
    }
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A gateway that asks a server about `events`, within `timeout`.
fn asking(events: Interests, timeout: Duration) -> (Settings, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let mut settings = settings();
    settings.hooks.http = Some(callback::Settings {
        url: format!("http://{address}/ask").parse().expect("a URL"),
        timeout,
        cache_time: IN_VAIN,
        denied_cache_time: IN_VAIN,
        cache_entries_max: 100,
        ca: None,
        events,
    });
    (settings, listener)
}

fn login(user: &str, password: &str) -> Connect {
    Connect {
        user_name: Utf8String::try_from(user).ok(),
        password: Some(password.to_owned().into()),
        ..client(V5, &format!("of-{user}"))
    }
}

async fn knock(doors: &Doors, connect: Connect) -> ReasonCode {
    let mut peer = running::Peer::stranger(doors.stream().await, connect.version);
    peer.knock(connect).await.reason
}

#[test]
fn a_server_says_who_comes_in_and_is_not_asked_twice() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |question| match question["password"] == "right" {
            true => answer("200 OK", "{\"user\": \"somebody\"}"),
            false => answer("403 Forbidden", "no"),
        });
        for _ in 0..3 {
            assert_eq!(knock(doors, login("ann", "right")).await, ReasonCode::Success);
            assert_eq!(
                knock(doors, login("ann", "wrong")).await,
                ReasonCode::BadUserNameOrPassword
            );
        }
        let asked = |password: &str| {
            json!({
                "action": "authenticate", "user": "ann", "password": password,
                "client_id": "of-ann", "peer": "127.0.0.1", "listener": "local",
            })
        };
        assert_eq!(server.asked(), [asked("right"), asked("wrong")]);
    });
}

#[test]
fn a_server_says_who_may_do_what() {
    let (settings, listener) = asking(Interests::PUBLISH | Interests::SUBSCRIBE, IN_VAIN);
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |question| {
            match question["topic"]
                .as_str()
                .is_some_and(|topic| topic.starts_with("own/"))
            {
                true => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                false => answer("401 Unauthorized", ""),
            }
        });
        let mut peer = doors.peer(client(V5, "bill")).await;
        let filters = ["own/#", "#"].map(|filter| subscription(filter, QoS::AtMostOnce));
        peer.say(&subscribe_packet(&filters)).await;
        let Some(Packet::SubAck(suback)) = peer.hear().await else {
            panic!("no SUBACK");
        };
        assert_eq!(
            suback.reasons[..],
            [ReasonCode::Success, ReasonCode::NotAuthorized]
        );
        for number in 1..=20 {
            peer.prepare(&Packet::Publish(message1(number, "other", "x")));
        }
        peer.prepare(&Packet::Publish(message1(21, "own/x", "x")));
        peer.finish_saying().await.expect("the gateway listens");
        for number in 1..=20 {
            let refused = puback_with(number, ReasonCode::NotAuthorized);
            assert_eq!(peer.hear().await, Some(refused));
        }
        assert!(matches!(peer.hear().await, Some(Packet::Publish(_))));
        assert_eq!(peer.hear().await, Some(puback(21)));
        let asked = server.asked();
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert_eq!(
            asked[2],
            json!({
                "action": "publish", "client_id": "bill", "peer": "127.0.0.1", "listener": "local",
                "topic": "other", "qos": 1, "retain": false,
            })
        );
    });
}

#[test]
fn a_server_that_fails_lets_nobody_in_and_is_asked_again() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| Vec::new());
        for said in [
            answer("500 Internal Server Error", ""),
            answer("302 Found", ""),
            answer("429 Too Many Requests", ""),
            answer("200 OK", "{\"user\": \"\"}"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n".to_vec(),
            b"SSH-2.0-OpenSSH\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nbye".to_vec(),
        ] {
            let shown = String::from_utf8_lossy(&said).into_owned();
            *server.answer.borrow_mut() = Box::new(move |_| said.clone());
            let reason = knock(doors, login("ann", "right")).await;
            assert_eq!(reason, ReasonCode::ServerUnavailable, "{shown}");
        }
        for said in [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n".to_vec(),
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            b"HTTP/1.0 200 OK\r\n\r\nbye".to_vec(),
        ] {
            let name = format!("ann{}", said.len());
            *server.answer.borrow_mut() = Box::new(move |_| said.clone());
            assert_eq!(knock(doors, login(&name, "right")).await, ReasonCode::Success);
        }
    });
}

#[test]
fn a_server_that_says_nothing_is_waited_for_no_longer_than_it_may_take() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, Duration::from_millis(100));
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| Vec::new());
        assert_eq!(
            knock(doors, login("ann", "right")).await,
            ReasonCode::ServerUnavailable
        );
        assert_eq!(server.asked().len(), 1);
    });
}

#[test]
fn who_goes_while_the_server_is_asked_leaves_nothing_behind() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |question| match question["user"] == "ann" {
            true => Vec::new(),
            false => answer("200 OK", ""),
        });
        let mut peer = running::Peer::stranger(doors.stream().await, V5);
        peer.say(&Packet::Connect(Box::new(login("ann", "right")))).await;
        server.heard.notified().await;
        drop(peer);
        assert_eq!(knock(doors, login("bill", "right")).await, ReasonCode::Success);
    });
}

#[test]
fn connections_are_kept_and_one_that_was_closed_meanwhile_is_opened_again() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| answer("200 OK", ""));
        for number in 0..30 {
            let name = format!("kept-{number}");
            assert_eq!(knock(doors, login(&name, "x")).await, ReasonCode::Success);
        }
        let kept = *server.connections.borrow();
        assert!(
            kept <= 8,
            "{kept} connections for questions that came one after the other"
        );
        *server.answer.borrow_mut() = Box::new(|_| answer("200 OK", "bye"));
        for number in 0..30 {
            let name = format!("closed-{number}");
            assert_eq!(knock(doors, login(&name, "x")).await, ReasonCode::Success);
        }
    });
}

/// TLS as a server with these papers does it.
fn acceptor(papers: &running::Papers) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    let certificates = std::fs::read(&papers.server.certificate).expect("a certificate");
    let key = std::fs::read(&papers.server.key).expect("a key");
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(&certificates);
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&key).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// Answers one question of each connection, and leaves it open.
async fn answer_by_tls(listener: std::net::TcpListener, acceptor: tokio_rustls::TlsAcceptor) {
    let listener = TcpListener::from_std(listener).expect("a runtime");
    let mut open = Vec::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(tcp).await else {
            continue;
        };
        let mut read = [0; 4096];
        if stream.read(&mut read).await.is_ok_and(|count| count > 0) {
            let said = stream.write_all(&answer("200 OK", "")).await;
            said.expect("the gateway listens");
            stream.flush().await.expect("the gateway listens");
        }
        open.push(stream);
    }
}

#[test]
fn a_server_is_believed_by_its_certificate_only() {
    let papers = running::Papers::new();
    let acceptor = acceptor(&papers);
    for is_trusted in [true, false] {
        let (mut settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
        let port = listener.local_addr().expect("bound").port();
        let other = running::Papers::new();
        if let Some(http) = &mut settings.hooks.http {
            http.url = format!("https://127.0.0.1:{port}/ask").parse().expect("a URL");
            http.ca = Some(if is_trusted {
                papers.ca.clone()
            } else {
                other.ca.clone()
            });
        }
        let acceptor = acceptor.clone();
        with_gateway(settings, async |doors| {
            tokio::task::spawn_local(answer_by_tls(listener, acceptor));
            let expected = match is_trusted {
                true => ReasonCode::Success,
                false => ReasonCode::ServerUnavailable,
            };
            assert_eq!(knock(doors, login("ann", "right")).await, expected);
        });
    }
}

#[test]
fn a_server_is_not_believed_under_another_name_than_its_own() {
    let papers = running::Papers::new();
    let (mut settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let port = listener.local_addr().expect("bound").port();
    if let Some(http) = &mut settings.hooks.http {
        // Its certificate is for the address 127.0.0.1.
        http.url = format!("https://localhost:{port}/ask").parse().expect("a URL");
        http.ca = Some(papers.ca.clone());
    }
    let acceptor = acceptor(&papers);
    with_gateway(settings, async |doors| {
        tokio::task::spawn_local(answer_by_tls(listener, acceptor));
        let reason = knock(doors, login("ann", "right")).await;
        assert_eq!(reason, ReasonCode::ServerUnavailable);
    });
}

#[test]
fn a_reload_has_another_server_asked_and_forgets_what_the_old_one_said() {
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let (other, other_listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let changed = Settings {
        hooks: other.hooks,
        ..settings.clone()
    };
    with_gateway(settings.clone(), async |doors| {
        let server = Server::begin(listener, |_| answer("200 OK", ""));
        let other = Server::begin(other_listener, |_| answer("403 Forbidden", ""));
        let mut inside = doors.peer(login("ann", "right")).await;
        assert_eq!(server.asked().len(), 1);
        let reloaded = doors.reload(settings.clone()).await.expect("nothing is wrong");
        assert!(!reloaded.hooks_changed);
        assert_eq!(knock(doors, login("ann", "right")).await, ReasonCode::Success);
        assert_eq!(server.asked().len(), 0, "the answer is known");
        inside.hear_farewell(ReasonCode::SessionTakenOver).await;

        let mut inside = doors.peer(login("ann", "right")).await;
        let reloaded = doors.reload(changed).await.expect("nothing is wrong");
        assert!(reloaded.hooks_changed);
        assert_eq!(
            knock(doors, login("ann", "right")).await,
            ReasonCode::BadUserNameOrPassword
        );
        assert_eq!((server.asked().len(), other.asked().len()), (0, 1));
        inside.ping().await; // who is in stays
        doors.reload(settings).await.expect("nothing is wrong");
        assert_eq!(knock(doors, login("ann", "right")).await, ReasonCode::Success);
        assert_eq!(server.asked().len(), 1, "what it said before is forgotten");
    });
}

#[test]
fn a_question_that_is_open_when_another_server_takes_over_is_asked_of_that_one() {
    let (settings, listener) = asking(Interests::AUTHENTICATE | Interests::PUBLISH, IN_VAIN);
    let (other, other_listener) = asking(Interests::AUTHENTICATE | Interests::PUBLISH, IN_VAIN);
    let changed = Settings {
        hooks: other.hooks,
        ..settings.clone()
    };
    let none = Settings {
        hooks: Default::default(),
        ..settings.clone()
    };
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| Vec::new());
        let _other = Server::begin(other_listener, |question| match question["action"] == "publish" {
            true => Vec::new(),
            false => answer("200 OK", "{\"user\": \"somebody\"}"),
        });
        let mut peer = running::Peer::stranger(doors.stream().await, V5);
        peer.say(&Packet::Connect(Box::new(login("ann", "right")))).await;
        server.heard.notified().await;
        doors.reload(changed).await.expect("nothing is wrong");
        match peer.hear().await {
            Some(Packet::ConnAck(connack)) => assert_eq!(connack.reason, ReasonCode::Success),
            other => panic!("expected CONNACK, found {other:?}"),
        }
        peer.say(&Packet::Publish(message1(1, "t", "x"))).await;
        doors.reload(none).await.expect("nothing is wrong");
        let taken = puback_with(1, ReasonCode::NoMatchingSubscribers);
        assert_eq!(peer.hear().await, Some(taken), "nobody is asked any more");
        // And nobody who would have been asked comes in by a name that nobody vouches for.
        let connack = knock(doors, client(V5, "bill")).await;
        assert_eq!(connack, ReasonCode::Success);
    });
}

#[test]
fn a_server_that_is_asked_from_a_reload_on_is_asked() {
    let (changed, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let settings = Settings {
        hooks: Default::default(),
        ..changed.clone()
    };
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| answer("403 Forbidden", ""));
        assert_eq!(knock(doors, client(V5, "bill")).await, ReasonCode::Success);
        doors.reload(changed).await.expect("nothing is wrong");
        assert_eq!(
            knock(doors, client(V5, "bill")).await,
            ReasonCode::BadUserNameOrPassword
        );
        assert_eq!(server.asked().len(), 1);
    });
}

#[test]
fn a_reload_tells_the_callback_who_is_in_the_password_file() {
    let users = |text: &str| {
        let text = format!("{text}:{}\n", quick_hash("right"));
        Some(Arc::new(Users::parse(&text).expect("it is in order")))
    };
    let (settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let settings = Settings {
        users: users("ann"),
        ..settings
    };
    let changed = Settings {
        users: users("bob"),
        ..settings.clone()
    };
    with_gateway(settings, async |doors| {
        let server = Server::begin(listener, |_| answer("403 Forbidden", ""));
        let ann = async || knock(doors, login("ann", "right")).await;
        let bob = async || knock(doors, login("bob", "right")).await;
        assert_eq!(
            (ann().await, bob().await),
            (ReasonCode::Success, ReasonCode::BadUserNameOrPassword)
        );
        doors.reload(changed).await.expect("nothing is wrong");
        assert_eq!(
            (ann().await, bob().await),
            (ReasonCode::BadUserNameOrPassword, ReasonCode::Success)
        );
        assert_eq!(
            server.asked().len(),
            2,
            "each is asked about while not in the file"
        );
    });
}

fn quick_hash(password: &str) -> String {
    let cost = Cost::new(Cost::MEMORY_KIB_MIN, 1).expect("the least there is");
    hash(password.as_bytes(), cost, &[7; 16]).expect("some megabytes")
}

#[test]
fn a_reload_reads_the_authorities_again_by_which_the_server_is_known() {
    let (papers, others) = (running::Papers::new(), running::Papers::new());
    let (mut settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let port = listener.local_addr().expect("bound").port();
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    std::fs::copy(&papers.ca, &ca).expect("the folder is ours");
    if let Some(http) = &mut settings.hooks.http {
        http.url = format!("https://127.0.0.1:{port}/ask").parse().expect("a URL");
        http.ca = Some(ca.clone());
        http.cache_time = Duration::ZERO;
    }
    let acceptor = acceptor(&papers);
    with_gateway(settings.clone(), async |doors| {
        tokio::task::spawn_local(answer_by_tls(listener, acceptor));
        assert_eq!(knock(doors, login("ann", "right")).await, ReasonCode::Success);
        std::fs::copy(&others.ca, &ca).expect("the folder is ours");
        doors.reload(settings.clone()).await.expect("nothing is wrong");
        let reason = knock(doors, login("bob", "right")).await;
        assert_eq!(
            reason,
            ReasonCode::ServerUnavailable,
            "not by the old connection either"
        );
        std::fs::write(&ca, "no PEM").expect("the folder is ours");
        let refused = doors
            .reload(settings)
            .await
            .expect_err("there is no authority in it");
        let told = refused.to_string();
        assert!(
            told.starts_with("1 mistake, all stays as it was; hook.http: "),
            "{told}"
        );
    });
}

#[test]
fn a_server_says_which_groups_a_client_is_in_and_their_rules_bind_it() {
    let (mut settings, listener) = asking(Interests::AUTHENTICATE, IN_VAIN);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let rules = "[access.groups]\noperators = []\n\
                 [[access.rule]]\nallow = 'all'\ngroup = 'operators'\ntopics = 'plant/#'\n";
    std::fs::write(&file, rules).expect("the folder is ours");
    settings.rights = tidegate::config::load(&file, None).expect("right").rights;
    with_gateway(settings, async |doors| {
        let _server = Server::begin(listener, |question| {
            let groups = question["user"].as_str().expect("a name");
            answer("200 OK", &format!("{{\"groups\": [\"{groups}\"]}}"))
        });
        for (user, reason) in [
            ("operators", ReasonCode::NoMatchingSubscribers),
            ("guests", ReasonCode::NotAuthorized),
        ] {
            let mut peer = doors.peer(login(user, "right")).await;
            peer.say(&Packet::Publish(message1(1, "plant/x", "x"))).await;
            assert_eq!(peer.hear().await, Some(puback_with(1, reason)), "{user}");
        }
    });
}
