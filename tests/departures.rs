//! How clients leave, and what the others hear of it: the will, as the standard says, exactly once; and a hundred at a
//! time.

mod running;
mod witness;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::mqtt::{
    Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, Will, WillProperties,
};

use running::{Peer, connect, farewell_for_good, publish, topic};
use witness::{Program, Setup, watched};

#[test]
fn the_will_is_published_exactly_once_however_its_client_ends_and_not_after_disconnect() {
    watched(Setup::default(), async |program| {
        let mut heir = Heir::new(program).await;
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            // DISCONNECT: the will is void.
            let mut mortal = program.peer(mortal(version, "polite", 0)).await;
            mortal.say(&Packet::Disconnect(Box::default())).await;
            assert_eq!(mortal.hear().await, None);

            // The end of the stream without it, and a reset.
            drop(program.peer(self::mortal(version, "killed", 0)).await);
            heir.hears("killed").await;
            let stream = program.stream().await;
            stream.set_zero_linger().expect("the option is known");
            drop(Peer::new(stream, self::mortal(version, "reset", 0)).await);
            heir.hears("reset").await;

            // A rule broken.
            let mut rude = program.peer(self::mortal(version, "rude", 0)).await;
            rude.say(&Packet::Connect(Box::new(self::mortal(version, "rude", 0))))
                .await;
            heir.hears("rude").await;
            while rude.hear().await.is_some() {}

            // Taken over, with a will of its own, which its DISCONNECT makes void.
            let mut old = program.peer(self::mortal(version, "taken", 0)).await;
            let mut new = program.peer(self::mortal(version, "taken", 0)).await;
            heir.hears("taken").await;
            while old.hear().await.is_some() {}
            new.say(&Packet::Disconnect(Box::default())).await;
            assert_eq!(new.hear().await, None);
        }
        // 5.0 lets a client ask for its will with DISCONNECT.
        let mut wishful = program.peer(mortal(ProtocolVersion::V5, "wishful", 0)).await;
        wishful
            .say(&Packet::Disconnect(Box::new(Disconnect {
                reason: ReasonCode::DisconnectWithWillMessage,
                ..Disconnect::default()
            })))
            .await;
        heir.hears("wishful").await;
        assert_eq!(wishful.hear().await, None);
        heir.hears_nothing_more().await;
    });
}

#[test]
fn the_will_of_a_client_that_falls_silent_comes_after_one_and_a_half_keep_alives() {
    watched(Setup::default(), async |program| {
        let mut heir = Heir::new(program).await;
        let mut silent = Vec::new();
        for (version, name) in [
            (ProtocolVersion::V31, "silent-3"),
            (ProtocolVersion::V311, "silent-4"),
            (ProtocolVersion::V5, "silent-5"),
        ] {
            let begin = Instant::now();
            let peer = program
                .peer(Connect {
                    keep_alive_secs: 1,
                    ..mortal(version, name, 0)
                })
                .await;
            silent.push((begin, name, peer));
        }
        for (begin, name, mut peer) in silent {
            heir.hears(name).await;
            assert!(begin.elapsed() >= Duration::from_millis(1500), "too early");
            while peer.hear().await.is_some() {}
        }
        heir.hears_nothing_more().await;
    });
}

/// A process that was stopped while it waited learns of the time when it goes on, and of nothing that has arrived: so
/// the gateway took everybody for silent whose time was over, with what they had said unread.
#[test]
fn after_the_gateway_stood_still_who_spoke_meanwhile_stays_and_who_was_silent_goes() {
    const STOOD_STILL: Duration = Duration::from_secs(2);
    watched(Setup::default(), async |program| {
        let mut heir = Heir::new(program).await;
        let alive = |id: &str| Connect {
            keep_alive_secs: 1,
            ..mortal(ProtocolVersion::V5, id, 0)
        };
        let mut talkers = Vec::new();
        for number in 0..20 {
            talkers.push(program.peer(alive(&format!("talker-{number}"))).await);
        }
        let mut silent = program.peer(alive("silent")).await;
        program
            .frozen(async {
                tokio::time::sleep(STOOD_STILL).await;
                for talker in &mut talkers {
                    talker.say(&Packet::PingReq).await;
                }
            })
            .await;
        for talker in &mut talkers {
            assert_eq!(talker.hear().await, Some(Packet::PingResp));
            talker.say(&Packet::Disconnect(Box::default())).await;
        }
        silent.hear_farewell(ReasonCode::KeepAliveTimeout).await;
        heir.hears("silent").await;
        heir.hears_nothing_more().await;
    });
}

#[test]
fn a_delayed_will_comes_after_its_delay_or_with_the_end_of_the_session_and_not_when_its_client_returns() {
    watched(Setup::default(), async |program| {
        let mut heir = Heir::new(program).await;
        let delayed = |id, delay_secs, expiry_secs| Connect {
            clean_start: false,
            properties: ConnectProperties {
                session_expiry_secs: Some(expiry_secs),
                ..ConnectProperties::default()
            },
            ..mortal(ProtocolVersion::V5, id, delay_secs)
        };
        let expect_session = async |connect: Connect, expected: bool| {
            let mut peer = Peer::stranger(program.stream().await, ProtocolVersion::V5);
            assert_eq!(peer.enter(connect).await, expected);
            peer
        };
        // Back in time, by way of a lost connection and by way of a takeover: no will.
        let first = expect_session(delayed("returns", 2, 60), false).await;
        drop(first);
        program
            .until_logged(&["client disconnected", "\"returns\"", "connection lost"], 1)
            .await;
        let second = expect_session(delayed("returns", 2, 60), true).await;
        let mut third = expect_session(delayed("returns", 2, 60), true).await;
        drop(second);
        third.say(&farewell_for_good()).await;
        assert_eq!(third.hear().await, None);

        // A new session instead: the old one's will comes with its end.
        drop(expect_session(delayed("replaced", 60, 60), false).await);
        program
            .until_logged(&["client disconnected", "\"replaced\"", "connection lost"], 1)
            .await;
        let mut fresh = program.peer(connect("replaced")).await;
        heir.hears("replaced").await;
        fresh.ping().await;

        // The delay goes by; the session ends first; there is no session to wait for.
        let begin = Instant::now();
        drop(expect_session(delayed("delayed", 2, 60), false).await);
        drop(expect_session(delayed("expired", 60, 1), false).await);
        drop(expect_session(delayed("unkept", 60, 0), false).await);
        heir.hears("unkept").await;
        heir.hears("expired").await;
        assert!(begin.elapsed() >= Duration::from_secs(1), "too early");
        heir.hears("delayed").await;
        assert!(begin.elapsed() >= Duration::from_secs(2), "too early");

        let mut last = expect_session(delayed("delayed", 0, 60), true).await;
        last.say(&farewell_for_good()).await;
        assert_eq!(last.hear().await, None);
        heir.hears_nothing_more().await;
    });
}

#[test]
fn a_hundred_clients_with_sessions_drop_together_and_find_what_they_left() {
    const CLIENTS: usize = 100;
    watched(Setup::default(), async |program| {
        let mut publisher = program.peer(connect("publisher")).await;
        // A 5.0 session of which nothing is said ends with its connection; one of 3.1.1 that is not clean is kept.
        for (version, kept) in [(ProtocolVersion::V5, false), (ProtocolVersion::V311, true)] {
            let connect = |id: usize| Connect {
                version,
                clean_start: false,
                ..connect(&format!("client-{id}"))
            };
            let mut clients = Vec::new();
            for id in 0..CLIENTS {
                let mut client = Peer::stranger(program.stream().await, version);
                assert!(!client.enter(connect(id)).await);
                client.subscribe(&format!("to/{id}"), QoS::AtLeastOnce).await;
                client.subscribe("to/all", QoS::AtLeastOnce).await;
                clients.push(client);
            }
            let gone = ["client disconnected", "\"client-", "connection lost"];
            let gone_before = program.count_logged(&gone);
            drop(clients);
            program.until_logged(&gone, gone_before + CLIENTS).await;

            publisher.say(&publish("to/all", "backlog", Some(1))).await;
            assert!(matches!(publisher.hear().await, Some(Packet::PubAck(_))));
            for id in 0..CLIENTS {
                let mut client = Peer::stranger(program.stream().await, version);
                assert_eq!(client.enter(connect(id)).await, kept);
                if kept {
                    let backlog = client.hear_publish().await;
                    assert_eq!(backlog.payload, "backlog");
                    client.acknowledge(backlog.packet_id).await;
                }
                client.ping().await;
                client.say(&Packet::Disconnect(Box::default())).await;
                assert_eq!(client.hear().await, None);
                // Nothing is left for the next.
                let mut last = Peer::stranger(program.stream().await, version);
                let clean = Connect {
                    clean_start: true,
                    ..connect(id)
                };
                assert!(!last.enter(clean).await);
                last.say(&Packet::Disconnect(Box::default())).await;
                assert_eq!(last.hear().await, None);
            }
        }
    });
}

#[test]
fn a_hundred_sessions_that_expire_in_the_same_second_end_with_a_hundred_wills() {
    const CLIENTS: usize = 100;
    watched(Setup::default(), async |program| {
        let mut heir = Heir::new(program).await;
        let mut clients = Vec::new();
        for id in 0..CLIENTS {
            let connect = Connect {
                properties: ConnectProperties {
                    session_expiry_secs: Some(1),
                    ..ConnectProperties::default()
                },
                ..mortal(ProtocolVersion::V5, &format!("client-{id}"), 300)
            };
            clients.push(program.peer(connect).await);
        }
        drop(clients);
        let mut wills = std::collections::BTreeSet::new();
        for _ in 0..CLIENTS {
            assert!(wills.insert(heir.next().await), "twice");
        }
        heir.hears_nothing_more().await;
    });
}

/// Whoever hears the wills.
struct Heir(Peer);

impl Heir {
    async fn new(program: &Program) -> Self {
        let mut heir = program.peer(connect("heir")).await;
        heir.subscribe("will/+", QoS::ExactlyOnce).await;
        Self(heir)
    }

    async fn next(&mut self) -> String {
        let will = self.0.hear_publish().await;
        self.0.acknowledge(will.packet_id).await;
        let topic = will.topic.expect("no aliases were agreed");
        topic.as_str().trim_start_matches("will/").to_owned()
    }

    async fn hears(&mut self, client: &str) {
        assert_eq!(self.next().await, client);
    }

    /// A word of its own would come after whatever is owed.
    async fn hears_nothing_more(&mut self) {
        self.0.say(&publish("will/none", "", None)).await;
        let last = self.0.hear_publish().await;
        assert_eq!(last.topic.expect("no aliases").as_str(), "will/none");
    }
}

/// Somebody with a will of QoS 1 on a topic of his own name.
fn mortal(version: ProtocolVersion, id: &str, delay_secs: u32) -> Connect {
    Connect {
        version,
        will: Some(Will {
            topic: topic(&format!("will/{id}")),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: WillProperties {
                delay_secs: (delay_secs > 0).then_some(delay_secs),
                ..WillProperties::default()
            },
        }),
        ..connect(id)
    }
}
