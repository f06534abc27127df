//! Sessions: what outlives a connection, who may have it, and how one connection takes over from another.

mod conversation;

use conversation::*;
use tidegate::auth::Identity;
use tidegate::broker::{DetachReason, Event, Input, Limits, LinkId, Output, Verdict};
use tidegate::mqtt::{
    Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, ProtocolVersion, QoS, ReasonCode,
};

fn present(outputs: &[Output], link: LinkId) -> bool {
    connack(outputs, link).session_present
}

fn expiring(secs: u32) -> Connect {
    let properties = ConnectProperties {
        session_expiry_secs: Some(secs),
        ..ConnectProperties::default()
    };
    Connect {
        properties,
        clean_start: false,
        ..client(V5, "bill")
    }
}

fn goodbye_with_expiry(secs: u32) -> Packet {
    let properties = DisconnectProperties {
        session_expiry_secs: Some(secs),
        ..DisconnectProperties::default()
    };
    Packet::Disconnect(Box::new(Disconnect {
        reason: ReasonCode::Success,
        properties,
    }))
}

#[test]
fn a_kept_session_resumes_with_its_subscriptions_and_what_came_meanwhile() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let bill = house.join(resuming(version, "bill"));
        house.subscribe(bill, "t", QoS::AtLeastOnce);
        house.close(bill);
        house.step(own("t", "1", QoS::AtLeastOnce, false));
        house.step(own("t", "dropped", QoS::AtMostOnce, false));
        house.step(own("t", "2", QoS::ExactlyOnce, false));
        assert_eq!(
            (house.stats().queued_messages, house.stats().dropped_offline),
            (2, 1)
        );
        let (bill, outputs) = house.connect(resuming(version, "bill"));
        assert!(present(&outputs, bill));
        assert_eq!(
            messages(&outputs, bill),
            [message1(1, "t", "1"), message1(2, "t", "2")]
        );
        assert_eq!(
            payloads(&house.step(own("t", "3", QoS::AtMostOnce, false)), bill),
            ["3"]
        );
    }
}

#[test]
fn a_clean_start_discards_the_session() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let bill = house.join(resuming(version, "bill"));
        house.subscribe(bill, "t", QoS::AtLeastOnce);
        house.close(bill);
        house.step(own("t", "1", QoS::AtLeastOnce, false));
        let (bill, outputs) = house.connect(client(version, "bill"));
        assert!(!present(&outputs, bill));
        assert_eq!(messages(&outputs, bill), []);
        assert_eq!(house.step(own("t", "2", QoS::AtLeastOnce, false)), []);
        assert_eq!(
            (house.stats().sessions, house.stats().dropped_session_ended),
            (1, 1)
        );
    }
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    for connect in [
        client(V311, "bill"),
        Connect {
            clean_start: false,
            ..client(V5, "bill")
        },
    ] {
        let mut house = House::new();
        let bill = house.join(connect.clone());
        house.close(bill);
        assert_eq!(house.stats().sessions, 0);
        let (bill, outputs) = house.connect(connect);
        assert!(!present(&outputs, bill));
    }
}

#[test]
fn a_clean_start_with_an_expiry_is_kept_for_the_next_connection() {
    let mut house = House::new();
    let bill = house.join(Connect {
        clean_start: true,
        ..expiring(300)
    });
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    house.close(bill);
    house.step(own("t", "1", QoS::AtLeastOnce, false));
    let (bill, outputs) = house.connect(expiring(300));
    assert_eq!(
        (present(&outputs, bill), payloads(&outputs, bill)),
        (true, vec!["1".to_string()])
    );
}

#[test]
fn a_session_expires_when_nobody_comes_back_in_time() {
    let mut house = House::new();
    let bill = house.join(expiring(300));
    house.close(bill);
    house.wait(secs(299));
    let bill = house.join(expiring(300));
    house.wait(secs(20));
    house.close(bill);
    house.wait(secs(300));
    assert_eq!((house.stats().sessions, house.stats().sessions_expired), (0, 1));
    let (bill, outputs) = house.connect(expiring(300));
    assert!(!present(&outputs, bill));
}

#[test]
fn an_old_clients_session_is_kept_as_long_as_any_is() {
    let mut house = House::within(Limits {
        session_expiry_max: secs(1000),
        ..Limits::default()
    });
    let bill = house.join(resuming(V311, "bill"));
    house.close(bill);
    house.wait(secs(999));
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(1));
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_hundred_sessions_that_end_together_end_quietly() {
    let mut house = House::new();
    let links: Vec<_> = (0..100)
        .map(|number| house.join(resuming(V5, &format!("client-{number}"))))
        .collect();
    for &link in &links {
        house.subscribe(link, "t/#", QoS::AtLeastOnce);
    }
    for link in links {
        house.close(link);
    }
    house.step(own("t/x", "1", QoS::AtLeastOnce, false));
    assert_eq!(house.stats().queued_messages, 100);
    house.wait(secs(3600));
    let stats = house.stats();
    assert_eq!(
        (
            stats.sessions,
            stats.subscriptions,
            stats.queued_messages,
            stats.queued_bytes
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn a_goodbye_may_change_how_long_the_session_is_kept() {
    let mut house = House::new();
    let bill = house.join(expiring(300));
    house.receive(bill, goodbye_with_expiry(0));
    assert_eq!(house.stats().sessions, 0);
    let bill = house.join(expiring(300));
    house.receive(bill, goodbye_with_expiry(600));
    house.wait(secs(599));
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(1));
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_goodbye_may_not_make_a_session_last_that_was_not_to() {
    let mut house = House::new();
    let bill = house.join(client(V5, "bill"));
    let outputs = acts(house.receive(bill, goodbye_with_expiry(600)));
    assert_eq!(
        outputs,
        [send(bill, disconnect(ReasonCode::ProtocolError)), close(bill)]
    );
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_takeover_tells_the_old_connection_and_closes_it() {
    for (version, word) in [(V311, None), (V5, Some(disconnect(ReasonCode::SessionTakenOver)))] {
        let mut house = House::new();
        let old = house.join(resuming(version, "bill"));
        house.subscribe(old, "t", QoS::AtMostOnce);
        let (new, outputs) = house.connect(resuming(version, "bill"));
        assert!(present(&outputs, new));
        let mut expected: Vec<_> = word.map(|packet| send(old, packet)).into_iter().collect();
        expected.push(close(old));
        assert_eq!(acts(outputs)[..expected.len()], expected);
        assert_eq!(
            payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), new),
            ["x"]
        );
        assert_eq!((house.stats().clients_connected, house.stats().takeovers), (1, 1));
    }
}

#[test]
fn everything_a_taken_over_link_still_says_is_ignored() {
    let mut house = House::new();
    let old = house.join(resuming(V5, "bill"));
    house.subscribe(old, "t", QoS::ExactlyOnce);
    house.step(own("t", "x", QoS::AtLeastOnce, false));
    let (new, outputs) = house.connect(resuming(V5, "bill"));
    assert_eq!(messages(&outputs, new), [repeated(message1(1, "t", "x"))]);
    for late in [
        puback(1),
        Packet::PingReq,
        unsubscribe_packet(&["t"]),
        Packet::Publish(message("t", "late")),
        disconnect(ReasonCode::Success),
    ] {
        assert_eq!(house.receive(old, late), []);
    }
    assert_eq!(house.flush(old), []);
    assert_eq!(house.close(old), []);
    assert_eq!(
        (house.stats().clients_connected, house.stats().inflight_messages),
        (1, 1)
    );
    assert_eq!(house.receive(new, Packet::PingReq), [send(new, Packet::PingResp)]);
    house.wait(secs(89));
    assert_eq!(house.stats().clients_connected, 1);
}

#[test]
fn twenty_connections_that_want_one_session_leave_one() {
    let mut house = House::new();
    let mut last = None;
    for round in 0..20 {
        let (link, outputs) = house.connect(resuming(V5, "bill"));
        assert_eq!(present(&outputs, link), round > 0);
        for filter in ["a/#", "a/+", "a/b"] {
            house.subscribe(link, filter, QoS::AtLeastOnce);
        }
        house.step(own("a/b", &round.to_string(), QoS::AtLeastOnce, false));
        assert_eq!(house.stats().clients_connected, 1);
        last = Some(link);
    }
    assert_eq!(house.stats().subscriptions, 3);
    assert_eq!(house.stats().inflight_messages, 20);
    house.close(last.unwrap());
    let (link, outputs) = house.connect(resuming(V5, "bill"));
    let expected: Vec<_> = (0..20).map(|round| round.to_string()).collect();
    assert_eq!(payloads(&outputs, link), expected);
}

#[test]
fn a_wrong_password_with_a_living_clients_identifier_touches_nobody() {
    for clean_start in [true, false] {
        let mut house = House::new();
        let victim = house.join_as("bill", resuming(V5, "bill"));
        house.subscribe(victim, "#", QoS::AtLeastOnce);
        let before = house.stats().clone();
        let link = house.arrive_at_locked_door();
        let connect = Connect {
            user_name: Some(text("bill")),
            password: Some("guess".into()),
            will: Some(will("gone", "attacker")),
            clean_start,
            ..resuming(V5, "bill")
        };
        house.receive(link, Packet::Connect(Box::new(connect)));
        let outputs = house.verified(link, Verdict::Deny);
        assert_eq!(
            acts(outputs),
            [
                send(link, refusal(ReasonCode::BadUserNameOrPassword)),
                close(link)
            ]
        );
        let after = house.stats().clone();
        assert_eq!(
            (after.sessions, after.subscriptions, after.takeovers),
            (before.sessions, 1, 0)
        );
        assert_eq!(
            payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), victim),
            ["x"]
        );
    }
}

#[test]
fn somebody_elses_client_identifier_is_refused_and_its_owner_notices_nothing() {
    for (version, online) in [(V311, true), (V5, true), (V311, false), (V5, false)] {
        let mut house = House::new();
        let bill = house.join_as("bill", resuming(version, "shared-name"));
        house.subscribe(bill, "t", QoS::AtLeastOnce);
        if !online {
            house.close(bill);
            house.step(own("t", "secret", QoS::AtLeastOnce, false));
        }
        let link = house.arrive_at_locked_door();
        let connect = Connect {
            user_name: Some(text("eve")),
            password: Some("x".into()),
            ..client(version, "shared-name")
        };
        house.receive(link, Packet::Connect(Box::new(connect)));
        let outputs = house.verified(link, Verdict::Allow);
        assert_eq!(
            acts(outputs),
            [
                send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
                close(link)
            ]
        );
        let (link, outputs) = house.connect(client(version, "shared-name"));
        assert_eq!(
            connack(&outputs, link).reason,
            ReasonCode::ClientIdentifierNotValid
        );
        if online {
            assert_eq!(
                payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), bill),
                ["x"]
            );
        } else {
            assert_eq!((house.stats().sessions, house.stats().queued_messages), (1, 1));
        }
    }
}

#[test]
fn a_client_identifier_is_free_again_when_its_session_ended() {
    let mut house = House::new();
    let bill = house.join_as("bill", client(V5, "shared-name"));
    house.close(bill);
    house.join_as("eve", client(V5, "shared-name"));
    assert_eq!(house.stats().sessions, 1);
}

#[test]
fn unfinished_deliveries_are_repeated_with_their_identifiers_in_their_order() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let bill = house.join(resuming(version, "bill"));
        house.subscribe(bill, "t", QoS::ExactlyOnce);
        for (payload, qos) in [
            ("1", QoS::AtLeastOnce),
            ("2", QoS::ExactlyOnce),
            ("3", QoS::ExactlyOnce),
        ] {
            house.step(own("t", payload, qos, false));
        }
        house.receive(bill, pubrec(2));
        house.close(bill);
        house.step(own("t", "4", QoS::AtLeastOnce, false));
        let (bill, outputs) = house.connect(resuming(version, "bill"));
        let found: Vec<_> = sent(&outputs, bill).into_iter().skip(1).cloned().collect();
        let expected = [
            Packet::Publish(repeated(message1(1, "t", "1"))),
            pubrel(2),
            Packet::Publish(repeated(message2(3, "t", "3"))),
            Packet::Publish(message1(4, "t", "4")),
        ];
        assert_eq!(found, expected);
        assert_eq!(house.receive(bill, pubcomp(2)), []);
        assert_eq!(house.stats().inflight_messages, 3);
    }
}

#[test]
fn nothing_is_repeated_while_the_connection_lives() {
    let mut house = House::new();
    let bill = house.join(Connect {
        keep_alive_secs: 0,
        ..resuming(V311, "bill")
    });
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    house.step(own("t", "1", QoS::AtLeastOnce, false));
    assert_eq!(house.wait(secs(24 * 3600)), []);
    assert_eq!(house.flush(bill), []);
}

#[test]
fn a_client_that_comes_back_with_a_smaller_window_gets_no_more_than_that_at_once() {
    let mut house = House::new();
    let bill = house.join(resuming(V5, "bill"));
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    for payload in ["1", "2", "3", "4"] {
        house.step(own("t", payload, QoS::AtLeastOnce, false));
    }
    house.close(bill);
    house.step(own("t", "5", QoS::AtLeastOnce, false));
    let mut connect = resuming(V5, "bill");
    connect.properties.receive_maximum = Some(2);
    let (bill, outputs) = house.connect(connect);
    assert_eq!(payloads(&outputs, bill), ["1", "2"]);
    for (number, expected) in [(1, "3"), (2, "4"), (3, "5")] {
        assert_eq!(payloads(&house.receive(bill, puback(number)), bill), [expected]);
    }
}

#[test]
fn a_client_that_never_completes_gathers_no_more_with_every_connection() {
    let mut house = House::new();
    let bill = house.join(resuming(V311, "bill"));
    house.subscribe(bill, "t", QoS::ExactlyOnce);
    house.close(bill);
    for _ in 0..5 {
        for _ in 0..64 {
            house.step(own("t", "x", QoS::ExactlyOnce, false));
        }
        let (bill, outputs) = house.connect(resuming(V311, "bill"));
        for publish in messages(&outputs, bill) {
            house.receive(bill, pubrec(publish.packet_id.unwrap().get()));
        }
        house.close(bill);
        assert_eq!(house.stats().inflight_messages, 32);
    }
}

#[test]
fn a_qos_2_message_from_a_client_arrives_once_across_its_connections() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtMostOnce);
    let bill = house.join(resuming(V5, "bill"));
    assert_eq!(
        payloads(&house.publish(bill, message2(9, "t", "x")), reader),
        ["x"]
    );
    house.close(bill);
    let bill = house.join(resuming(V5, "bill"));
    assert_eq!(
        house.publish(bill, repeated(message2(9, "t", "x"))),
        [send(bill, pubrec(9))]
    );
    house.receive(bill, pubrel(9));
    house.close(bill);
    let bill = house.join(resuming(V5, "bill"));
    let outputs = house.receive(bill, pubrel(9));
    assert_eq!(sent(&outputs, bill).len(), 1);
    assert_eq!(payloads(&outputs, reader), [] as [&str; 0]);
}

#[test]
fn a_thousand_messages_that_waited_come_in_order_as_fast_as_they_are_acknowledged() {
    let mut house = House::new();
    let bill = house.join(resuming(V311, "bill"));
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    house.close(bill);
    for number in 0..1000 {
        house.step(own("t", &number.to_string(), QoS::AtLeastOnce, false));
    }
    let (bill, outputs) = house.connect(resuming(V311, "bill"));
    let mut received = messages(&outputs, bill);
    assert_eq!(received.len(), 32);
    let mut acked = 0;
    while acked < received.len() {
        let number = received[acked].packet_id.unwrap();
        acked += 1;
        received.extend(messages(&house.receive(bill, puback(number.get())), bill));
    }
    let found: Vec<_> = received
        .iter()
        .map(|publish| String::from_utf8_lossy(&publish.payload))
        .collect();
    let expected: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(found, expected);
    assert_eq!(
        (house.stats().queued_messages, house.stats().inflight_messages),
        (0, 0)
    );
}

#[test]
fn a_link_nobody_knows_does_nothing() {
    let mut house = House::new();
    let link = house.unknown_link();
    for input in [
        Input::Received {
            link,
            packet: Packet::PingReq,
        },
        Input::Flushed { link },
        Input::Closed { link },
        Input::Verified {
            link,
            verdict: Verdict::Allow,
        },
        Input::Tick,
    ] {
        assert_eq!(house.step(input), []);
    }
}

#[test]
fn coming_and_going_is_told_once_each() {
    let mut house = House::new();
    let (link, outputs) = house.connect(resuming(ProtocolVersion::V5, "bill"));
    let client = client_id("bill");
    let identity = Identity::Anonymous;
    let came = Event::ClientConnected {
        link,
        client: client.clone(),
        identity,
        session_present: false,
    };
    assert_eq!(events(&outputs), [&came]);
    let reason = DetachReason::ConnectionLost;
    assert_eq!(
        house.close(link),
        [Output::Event(Event::ClientDisconnected { link, client, reason })]
    );
    assert_eq!(house.close(link), []);
}

#[test]
fn a_session_lives_as_long_as_its_connection_however_short_its_expiry() {
    let mut house = House::new();
    let bill = house.join(Connect {
        keep_alive_secs: 600,
        ..expiring(10)
    });
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    house.wait(secs(500));
    let outputs = house.step(own("t", "1", QoS::AtLeastOnce, false));
    assert_eq!(payloads(&outputs, bill), ["1"]);
    house.close(bill);
    house.wait(secs(9));
    let (bill, outputs) = house.connect(expiring(10));
    assert_eq!(
        (present(&outputs, bill), payloads(&outputs, bill)),
        (true, vec!["1".to_string()])
    );
}

#[test]
fn what_a_client_refused_is_not_sent_again() {
    let mut house = House::new();
    let bill = house.join(resuming(V5, "bill"));
    house.subscribe(bill, "t", QoS::ExactlyOnce);
    house.step(own("t", "1", QoS::AtLeastOnce, false));
    house.step(own("t", "2", QoS::ExactlyOnce, false));
    house.receive(bill, puback_with(1, ReasonCode::ImplementationSpecificError));
    house.receive(bill, pubrec_with(2, ReasonCode::ImplementationSpecificError));
    house.close(bill);
    let (bill, outputs) = house.connect(resuming(V5, "bill"));
    assert!(present(&outputs, bill));
    assert_eq!(sent(&outputs, bill).len(), 1, "CONNACK alone");
}

#[test]
fn a_client_without_a_session_gets_a_new_one_and_a_new_one_each_clean_start() {
    let mut house = House::new();
    let (bill, outputs) = house.connect(resuming(V5, "bill"));
    assert_eq!((present(&outputs, bill), house.stats().sessions), (false, 1));
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    let (bill, outputs) = house.connect(Connect {
        clean_start: true,
        ..resuming(V5, "bill")
    });
    assert_eq!((present(&outputs, bill), house.stats().sessions), (false, 1));
    assert_eq!(house.step(own("t", "x", QoS::AtLeastOnce, false)), []);
}

#[test]
fn two_client_identifiers_are_two_sessions_whatever_else_is_the_same() {
    let mut house = House::new();
    let one = house.join(resuming(V5, "bill"));
    let two = house.join(resuming(V5, "Bill"));
    house.subscribe(one, "t", QoS::AtLeastOnce);
    assert_eq!(house.stats().sessions, 2);
    let outputs = house.step(own("t", "x", QoS::AtLeastOnce, false));
    assert_eq!(
        (messages(&outputs, one).len(), messages(&outputs, two).len()),
        (1, 0)
    );
}
