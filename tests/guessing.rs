//! Who fails to log in again and again is heard less and less often, others as before; and the audit log tells it.

mod running;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidegate::config::{self, Settings};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use tokio::io::AsyncWriteExt;
use tracing_subscriber::fmt::MakeWriter;

use running::{Doors, Peer, connect, publish, text, with_gateway};

const BAD: ReasonCode = ReasonCode::BadUserNameOrPassword;
const LATER: ReasonCode = ReasonCode::ConnectionRateExceeded;
const IN: ReasonCode = ReasonCode::Success;

/// A gateway behind a balancer on this machine, which tells where its clients come from.
fn settings(audit: &str) -> Settings {
    let folder = tempfile::tempdir().expect("a folder");
    // Of mosquitto_passwd, for "water mark".
    let hash = "$7$101$zKBniu2Qn9b0oPRC$fFKbdn9+D/NM/9+VtTHXh1yymsN3nrxuhNSrEZPo7fazdwDY2jfH8GjiQpMzXBNoz1viU88ZfMmA\
                yHS4pdX+aA==";
    let users = folder.path().join("users");
    fs::write(&users, format!("ann:{hash}\nbob:{hash}\n")).expect("written");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("permitted");
    let file = folder.path().join("tidegate.toml");
    let text = format!(
        "[gateway]\naudit = '{audit}'\n[authentication]\npassword_file = 'users'\nfailures_max = 3\n\
         failures_window = '1h'\ndelay_max = '1h'\n[listener.local]\naddress = '127.0.0.1:0'\nproxy_protocol = true\n\
         proxy_from = ['127.0.0.1']\n"
    );
    fs::write(&file, text).expect("written");
    config::load(&file, None).expect("right")
}

/// A client from `address` that logs in; the answer, and the client.
async fn log_in(doors: &Doors, address: &str, user: &str, password: &str) -> (ReasonCode, Peer) {
    let mut stream = doors.stream().await;
    let family = if address.contains(':') { "TCP6" } else { "TCP4" };
    let to = if address.contains(':') { "::1" } else { "127.0.0.1" };
    let header = format!("PROXY {family} {address} {to} 40000 1883\r\n");
    stream.write_all(header.as_bytes()).await.expect("taken");
    let mut peer = Peer::stranger(stream, ProtocolVersion::V5);
    let connect = Connect {
        user_name: Some(text(user)),
        password: Some(Bytes::copy_from_slice(password.as_bytes())),
        ..connect(&format!("of-{address}"))
    };
    (peer.knock(connect).await.reason, peer)
}

async fn answer(doors: &Doors, address: &str, user: &str, password: &str) -> ReasonCode {
    log_in(doors, address, user, password).await.0
}

#[test]
fn who_fails_too_often_is_refused_unchecked_and_somebody_elsewhere_comes_in() {
    with_gateway(settings("off"), async |doors| {
        for _ in 0..3 {
            assert_eq!(answer(doors, "192.0.2.1", "ann", "guess").await, BAD);
        }
        // Further ones begin delays that are longer and longer.
        let mut refused = 0;
        for _ in 0..20 {
            match answer(doors, "192.0.2.1", "ann", "guess").await {
                LATER => refused += 1,
                reason => assert_eq!(reason, BAD),
            }
        }
        assert!(refused > 0, "every guess was checked");
        assert_eq!(answer(doors, "192.0.2.2", "ann", "water mark").await, IN);
    });
}

#[test]
fn a_network_of_ipv6_is_one_guesser() {
    with_gateway(settings("off"), async |doors| {
        let mut refused = 0;
        for host in 1..40 {
            let address = format!("2001:db8:1:2::{host}");
            match answer(doors, &address, "ann", "guess").await {
                LATER => refused += 1,
                reason => assert_eq!(reason, BAD),
            }
        }
        assert!(refused > 0, "every guess was checked");
        assert_eq!(answer(doors, "2001:db8:1:3::1", "ann", "water mark").await, IN);
    });
}

#[test]
fn a_user_who_was_right_before_comes_in_from_the_address_of_one_who_guesses() {
    with_gateway(settings("off"), async |doors| {
        assert_eq!(answer(doors, "192.0.2.1", "ann", "water mark").await, IN);
        let mut refused = 0;
        for _ in 0..20 {
            refused += u32::from(answer(doors, "192.0.2.1", "mallory", "guess").await == LATER);
        }
        assert!(refused > 0, "every guess was checked");
        assert_eq!(answer(doors, "192.0.2.1", "ann", "water mark").await, IN);
    });
}

/// What the log has said.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("nobody panicked").clone();
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The audit log's lines of a gateway whose clients do `story`.
fn audited(audit: &str, story: impl AsyncFnOnce(&Doors)) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || with_gateway(settings(audit), story));
    let lines = log.lines();
    lines.into_iter().filter(|line| line.contains("audit")).collect()
}

#[test]
fn the_audit_log_tells_who_was_refused_and_no_client_can_write_a_line_of_its_own() {
    let evil = "eve\" peer=192.0.2.9\u{1b}[31m\u{202e}\u{85}\u{2028}";
    let lines = audited("refusals", async |doors| {
        assert_eq!(answer(doors, "192.0.2.1", evil, "hunter2").await, BAD);
        let (reason, mut ann) = log_in(doors, "192.0.2.2", "ann", "water mark").await;
        assert_eq!(reason, IN);
        // Topics that begin so are the gateway's own.
        ann.say(&publish("$SYS/mine", "x", Some(1))).await;
        assert!(matches!(ann.hear().await, Some(Packet::PubAck(_))));
        ann.subscribe("t", QoS::AtMostOnce).await;
    });
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let expected = "INFO audit: audit: connection refused reason=bad user name or password user=\"eve\\\" \
                    peer=192.0.2.9\\u{1b}[31m\\u{202e}\\u{85}\\u{2028}\" client=\"of-192.0.2.1\" \
                    peer=\"192.0.2.1:40000\" listener=\"local\"";
    assert_eq!(lines[0].trim_start(), expected);
    let expected = "INFO audit: audit: denied action=\"publish\" topic=\"$SYS/mine\" user=\"ann\" \
                    client=\"of-192.0.2.2\" peer=\"192.0.2.2:40000\"";
    assert_eq!(lines[1].trim_start(), expected);
}

#[test]
fn the_audit_log_tells_who_came_in_and_gave_way_where_it_is_asked_for_all() {
    let lines = audited("all", async |doors| {
        let (_, mut first) = log_in(doors, "192.0.2.2", "ann", "water mark").await;
        let (_, _second) = log_in(doors, "192.0.2.2", "ann", "water mark").await;
        while first.hear().await.is_some() {}
    });
    let phrases: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split("audit: ").nth(2))
        .collect();
    assert!(
        phrases[0].starts_with("login user=\"ann\" client=\"of-192.0.2.2\""),
        "{lines:#?}"
    );
    assert!(
        phrases
            .iter()
            .any(|phrase| phrase.starts_with("taken over client=\"of-192.0.2.2\"")),
        "{lines:#?}"
    );
}

#[test]
fn an_audit_log_that_is_off_tells_nothing() {
    let lines = audited("off", async |doors| {
        assert_eq!(answer(doors, "192.0.2.1", "eve", "hunter2").await, BAD);
    });
    assert_eq!(lines, [""; 0]);
}
