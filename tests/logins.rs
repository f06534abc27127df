//! Who cannot prove who he is touches nobody, however he tries; and a proof that takes long leaves no ghosts.

mod running;
mod witness;

use bytes::{Bytes, BytesMut};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, Will, WillProperties, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use running::{Peer, connect, farewell_for_good, publish, stored, subscribe, text, topic};
use witness::{Program, Setup, watched};

/// What somebody says who is not the client he claims to be, and the answer.
const IMPOSTORS: [(Option<&str>, Option<&str>, ReasonCode); 6] = [
    (Some("ann"), Some("wrong"), ReasonCode::BadUserNameOrPassword),
    (Some("ann"), Some(""), ReasonCode::BadUserNameOrPassword),
    (Some("ann"), None, ReasonCode::BadUserNameOrPassword),
    (Some("mallory"), Some("right"), ReasonCode::BadUserNameOrPassword),
    (Some("bob"), Some("right"), ReasonCode::ClientIdentifierNotValid),
    (None, None, ReasonCode::ClientIdentifierNotValid),
];

#[test]
fn an_impostor_is_refused_and_a_connected_victim_notices_nothing() {
    watched(Setup::default(), async |program| {
        let mut victim = victim(program).await;
        victim.subscribe("pump/#", QoS::AtLeastOnce).await;
        let mut spoils = program.peer(connect("spoils")).await;
        spoils.subscribe("spoils", QoS::AtLeastOnce).await;
        for attack in attacks() {
            attack.run(program).await;
            victim.ping().await;
            spoils.say(&publish("pump/word", "still here", None)).await;
            assert_eq!(victim.hear_publish().await.payload, "still here");
            spoils.ping().await;
        }
        victim.say(&farewell_for_good()).await;
        assert_eq!(victim.hear().await, None);
    });
}

#[test]
fn an_impostor_is_refused_and_the_session_of_an_absent_victim_is_as_it_was() {
    watched(Setup::default(), async |program| {
        let mut victim = victim(program).await;
        victim.subscribe("pump/#", QoS::AtLeastOnce).await;
        let mut spoils = program.peer(connect("spoils")).await;
        spoils.subscribe("spoils", QoS::AtLeastOnce).await;
        let leaves = ["client disconnected", "\"pump\""];
        for (attack, number) in attacks().into_iter().zip(1..) {
            drop(victim);
            program.until_logged(&leaves, number).await;
            spoils.say(&publish("pump/word", "wait", Some(1))).await;
            assert!(matches!(spoils.hear().await, Some(Packet::PubAck(_))));
            attack.run(program).await;
            spoils.ping().await;

            victim = Peer::stranger(program.stream().await, ProtocolVersion::V5);
            assert!(victim.enter(of_ann(stored("pump"))).await, "the session is gone");
            let waited = victim.hear_publish().await;
            assert_eq!((waited.dup, &waited.payload[..]), (false, &b"wait"[..]));
            victim.acknowledge(waited.packet_id).await;
            victim.ping().await;
        }
        victim.say(&farewell_for_good()).await;
        assert_eq!(victim.hear().await, None);
    });
}

#[test]
fn after_a_hundred_refused_logins_in_a_row_the_next_right_one_is_in() {
    watched(Setup::default(), async |program| {
        for number in 0..100 {
            let mut guess = Peer::stranger(program.stream().await, ProtocolVersion::V5);
            let connack = guess
                .knock(Connect {
                    user_name: Some(text("ann")),
                    password: Some(Bytes::from(number.to_string())),
                    ..connect("guess")
                })
                .await;
            assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword);
            assert_eq!(guess.hear().await, None);
        }
        program.peer(of_ann(connect("right"))).await.ping().await;
    });
}

/// A check that takes so long that whatever a test does comes while it is being made: some milliseconds, and as tests
/// are compiled hundreds.
const SLOW: (u32, u32) = (1024, 8);

/// Sixty of these take more than a second on any machine.
const TOO_SLOW: (u32, u32) = (2 * 1024, 16);

#[test]
fn clients_that_leave_or_talk_garbage_while_their_password_is_checked_leave_no_ghost() {
    let setup = Setup {
        password_cost: SLOW,
        ..Setup::default()
    };
    watched(setup, async |program| {
        let connect_bytes = |id: &str, password| {
            let mut bytes = BytesMut::new();
            let connect = Connect {
                user_name: Some(text("ann")),
                password: Some(Bytes::from_static(password)),
                will: spoils_will(),
                ..connect(id)
            };
            encode(
                &Packet::Connect(Box::new(connect)),
                ProtocolVersion::V5,
                &mut bytes,
            );
            bytes
        };
        let mut spoils = program.peer(connect("spoils")).await;
        spoils.subscribe("spoils", QoS::AtLeastOnce).await;
        let mut patient = Vec::new();
        for round in 0..60 {
            let mut hasty = program.stream().await;
            let id = format!("ghost-{}", round % 7);
            // The first few are right: they leave all the same.
            let password: &[u8] = if round < 10 { b"right" } else { b"wrong" };
            hasty
                .write_all(&connect_bytes(&id, password))
                .await
                .expect("the gateway takes it");
            match round % 4 {
                0 => hasty.set_zero_linger().expect("the option is known"),
                1 => {}
                2 => {
                    // No packet begins like this.
                    hasty.write_all(&[0x00; 64]).await.expect("taken");
                    patient.push(hasty);
                    continue;
                }
                _ => {
                    // A second CONNECT, and a half one.
                    let again = connect_bytes(&id, b"right");
                    hasty.write_all(&again).await.expect("taken");
                    hasty.write_all(&again[..9]).await.expect("taken");
                    patient.push(hasty);
                    continue;
                }
            }
            drop(hasty);
        }
        for mut stream in patient {
            let mut answer = Vec::new();
            // Reset, where more was on its way than it was read.
            stream.read_to_end(&mut answer).await.ok();
            assert!(
                !(answer.starts_with(&[0x20]) && answer.get(3) == Some(&0)),
                "let in"
            );
        }
        program.peer(of_ann(connect("right"))).await.ping().await;
        spoils.ping().await;
        assert_eq!(program.count_logged(&["client connected", "ghost"]), 0);
    });
}

#[test]
fn twins_whose_passwords_are_checked_at_the_same_time_become_one_client() {
    let setup = Setup {
        password_cost: SLOW,
        ..Setup::default()
    };
    watched(setup, async |program| {
        for round in 0..5 {
            let mut twins = Vec::new();
            for _ in 0..10 {
                let mut twin = Peer::stranger(program.stream().await, ProtocolVersion::V5);
                twin.say(&Packet::Connect(Box::new(of_ann(connect("twin")))))
                    .await;
                twins.push(twin);
            }
            for twin in &mut twins {
                match twin.hear().await {
                    Some(Packet::ConnAck(connack)) => assert_eq!(connack.reason, ReasonCode::Success),
                    other => panic!("expected CONNACK in round {round}, found {other:?}"),
                }
            }
            let mut alive = 0;
            for mut twin in twins {
                twin.try_say(&Packet::PingReq).await.ok();
                match twin.hear().await {
                    Some(Packet::PingResp) => alive += 1,
                    Some(Packet::Disconnect(farewell)) => {
                        assert_eq!(farewell.reason, ReasonCode::SessionTakenOver);
                    }
                    other => panic!("expected PINGRESP or DISCONNECT, found {other:?}"),
                }
            }
            assert_eq!(alive, 1);
        }
    });
}

#[test]
fn checks_that_come_too_late_refuse_with_server_unavailable_and_hold_up_nobody_else() {
    let setup = Setup {
        limits: "connect_timeout = '1s'",
        password_cost: TOO_SLOW,
        ..Setup::default()
    };
    watched(setup, async |program| {
        let mut waiting = Vec::new();
        for number in 0..60 {
            let version = match number % 2 {
                0 => ProtocolVersion::V5,
                _ => ProtocolVersion::V311,
            };
            let mut guess = Peer::stranger(program.stream().await, version);
            let connect = Connect {
                version,
                user_name: Some(text("ann")),
                password: Some(Bytes::from(number.to_string())),
                ..connect(&format!("guess-{number}"))
            };
            guess.say(&Packet::Connect(Box::new(connect))).await;
            waiting.push(guess);
        }
        // Whoever needs no check does not wait for these.
        program.peer(connect("neighbour")).await.ping().await;
        let mut too_late = 0;
        for mut guess in waiting {
            match guess.hear().await {
                Some(Packet::ConnAck(connack)) => match connack.reason {
                    ReasonCode::ServerUnavailable => too_late += 1,
                    reason => assert_eq!(reason, ReasonCode::BadUserNameOrPassword),
                },
                other => panic!("expected CONNACK, found {other:?}"),
            }
            assert_eq!(guess.hear().await, None);
        }
        assert!(too_late > 0, "every check was made in time");
        assert_eq!(program.count_logged(&["client connected", "guess"]), 0);
    });
}

#[test]
fn who_was_right_before_does_not_wait_behind_those_who_guess() {
    let setup = Setup {
        password_cost: TOO_SLOW,
        ..Setup::default()
    };
    watched(setup, async |program| {
        program.peer(of_ann(connect("pump"))).await.ping().await;
        let guesses = guesses(program, 60).await;
        program.peer(of_ann(connect("pump"))).await.ping().await;
        let refused = program.count_logged(&["connection refused"]);
        assert!(refused < guesses.len(), "she came in after all who guess");
    });
}

#[test]
fn the_memory_of_a_password_check_is_there_once_however_many_guess() {
    let setup = Setup {
        password_cost: (4 * 1024, 1),
        ..Setup::default()
    };
    watched(setup, async |program| {
        program.peer(of_ann(connect("pump"))).await.ping().await;
        let before_kib = program.resident_kib();
        for _ in 0..10 {
            for mut guess in guesses(program, 4).await {
                while guess.hear().await.is_some() {}
            }
        }
        let more_kib = program.resident_kib().saturating_sub(before_kib);
        assert!(
            more_kib < 8 * 1024,
            "{more_kib} KiB more after 40 checks of 4 MiB"
        );
    });
}

/// Clients that have said a wrong password and wait for the answer.
async fn guesses(program: &Program, count: usize) -> Vec<Peer> {
    let mut guesses = Vec::new();
    for number in 0..count {
        let mut guess = Peer::stranger(program.stream().await, ProtocolVersion::V5);
        let connect = Connect {
            user_name: Some(text("ann")),
            password: Some(Bytes::from(number.to_string())),
            ..connect(&format!("guess-{number}"))
        };
        guess.say(&Packet::Connect(Box::new(connect))).await;
        guesses.push(guess);
    }
    guesses
}

/// One impostor's attempt on the client `pump`.
struct Attack {
    version: ProtocolVersion,
    connect: Connect,
    answer: ReasonCode,
}

fn attacks() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        for clean_start in [false, true] {
            for (user, password, answer) in IMPOSTORS {
                let connect = Connect {
                    version,
                    clean_start,
                    user_name: user.map(text),
                    password: password.map(|password| Bytes::from_static(password.as_bytes())),
                    will: spoils_will(),
                    ..stored("pump")
                };
                attacks.push(Attack {
                    version,
                    connect,
                    answer,
                });
            }
        }
    }
    attacks
}

impl Attack {
    /// Says CONNECT and all the rest in one breath, and hears no more than the refusal.
    async fn run(self, program: &Program) {
        let Self {
            version,
            connect,
            answer,
        } = self;
        let what = format!("{connect:?}");
        let mut bytes = BytesMut::new();
        encode(&Packet::Connect(Box::new(connect)), version, &mut bytes);
        for packet in [
            subscribe("#", QoS::AtLeastOnce),
            publish("spoils", "spoilt", None),
            publish("spoils", "spoilt", Some(3)),
            publish("pump/word", "spoilt", Some(4)),
            Packet::PingReq,
        ] {
            encode(&packet, version, &mut bytes);
        }
        let mut stream: TcpStream = program.stream().await;
        stream.write_all(&bytes).await.expect("the gateway takes it");
        let mut impostor = Peer::stranger(stream, version);
        match impostor.hear().await {
            Some(Packet::ConnAck(connack)) => {
                assert_eq!(
                    (connack.reason, connack.session_present),
                    (answer, false),
                    "{what}"
                );
            }
            other => panic!("expected CONNACK for {what}, found {other:?}"),
        }
        assert_eq!(impostor.hear().await, None, "{what}");
    }
}

async fn victim(program: &Program) -> Peer {
    let mut victim = Peer::stranger(program.stream().await, ProtocolVersion::V5);
    assert!(!victim.enter(of_ann(stored("pump"))).await);
    victim
}

fn of_ann(connect: Connect) -> Connect {
    Connect {
        user_name: Some(text("ann")),
        password: Some(Bytes::from_static(b"right")),
        ..connect
    }
}

fn spoils_will() -> Option<Will> {
    Some(Will {
        topic: topic("spoils"),
        payload: Bytes::from_static(b"spoilt"),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: WillProperties::default(),
    })
}
