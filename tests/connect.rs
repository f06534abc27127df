//! CONNECT and CONNACK: who is let in, and what everybody else is told.

mod conversation;

use conversation::*;
use tidegate::auth::Identity;
use tidegate::broker::{
    ClientIds, DetachReason, Event, Input, Limits, ListenerPolicy, Output, Refusal, Verdict, Versions,
};
use tidegate::mqtt::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode,
};

fn connect_packet(connect: Connect) -> Packet {
    Packet::Connect(Box::new(connect))
}

fn with_password(connect: Connect, user: &str) -> Connect {
    Connect {
        user_name: Some(text(user)),
        password: Some("secret".into()),
        ..connect
    }
}

#[test]
fn a_3_1_1_client_gets_a_connack_without_properties() {
    let mut house = House::new();
    let (link, outputs) = house.connect(client(V311, "bill"));
    let client = client_id("bill");
    assert_eq!(
        outputs,
        [
            send(link, refusal(ReasonCode::Success)),
            Output::Event(Event::ClientConnected {
                link,
                client,
                identity: Identity::Anonymous,
                session_present: false
            }),
        ]
    );
}

#[test]
fn a_5_0_client_is_told_the_limits_that_bind_it() {
    let mut house = House::new();
    let (link, outputs) = house.connect(client(V5, "bill"));
    let expected = ConnAckProperties {
        receive_maximum: Some(64),
        packet_bytes_max: Some(256 * 1024),
        topic_alias_maximum: Some(16),
        ..ConnAckProperties::default()
    };
    assert_eq!(connack(&outputs, link).properties, expected);
}

#[test]
fn a_5_0_client_that_asks_for_more_than_we_grant_is_told_what_it_gets() {
    let mut house = House::new();
    let properties = ConnectProperties {
        session_expiry_secs: Some(u32::MAX),
        ..ConnectProperties::default()
    };
    let (link, outputs) = house.connect(Connect {
        keep_alive_secs: 0,
        properties,
        ..client(V5, "bill")
    });
    let told = connack(&outputs, link).properties;
    assert_eq!(told.session_expiry_secs, Some(7 * 24 * 3600));
    assert_eq!(told.server_keep_alive_secs, Some(1200));
}

#[test]
fn a_door_may_grant_less_than_the_house_and_tells_so() {
    let mut house = House::new();
    let policy = ListenerPolicy {
        packet_bytes_max: Some(2000),
        keep_alive_max_secs: Some(30),
        receive_maximum: Some(3),
        topic_alias_maximum: Some(0),
        session_expiry_max: Some(secs(100)),
        ..ListenerPolicy::new("door", true)
    };
    let (link, outputs) = house.connect_at(policy, resuming(V5, "bill"));
    let expected = ConnAckProperties {
        session_expiry_secs: Some(100),
        receive_maximum: Some(3),
        packet_bytes_max: Some(2000),
        server_keep_alive_secs: Some(30),
        ..ConnAckProperties::default()
    };
    assert_eq!(connack(&outputs, link).properties, expected);
    for number in 1..=3 {
        house.publish(link, message2(number, "t", "x"));
    }
    let outputs = house.publish(link, message2(4, "t", "x"));
    assert_eq!(
        sent(&outputs, link),
        [&disconnect(ReasonCode::ReceiveMaximumExceeded)]
    );
    assert!(house.wait(secs(99)).is_empty());
    house.wait(secs(2));
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_version_the_door_does_not_speak_is_refused_in_its_own_words() {
    let mut house = House::new();
    for (spoken, asked) in [(V311, V31), (V5, V311), (V311, V5)] {
        let policy = ListenerPolicy {
            versions: Versions::NONE.with(spoken),
            ..ListenerPolicy::new("door", true)
        };
        let (link, outputs) = house.connect_at(policy.clone(), client(asked, "bill"));
        assert_eq!(
            acts(outputs),
            [
                send(link, refusal(ReasonCode::UnsupportedProtocolVersion)),
                close(link)
            ]
        );
        let (link, outputs) = house.connect_at(policy, client(spoken, "bill"));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    }
}

#[test]
fn a_strict_door_holds_3_1_clients_to_identifiers_of_23_characters() {
    let mut house = House::new();
    let (longest, longer) = ("ä".repeat(23), "a".repeat(24));
    let strict = ListenerPolicy {
        strict_client_ids: true,
        ..ListenerPolicy::new("door", true)
    };
    let lenient = ListenerPolicy::new("door", true);
    for (policy, version, id, reason) in [
        (&strict, V31, &longest, ReasonCode::Success),
        (&strict, V31, &longer, ReasonCode::ClientIdentifierNotValid),
        (&strict, V311, &longer, ReasonCode::Success),
        (&lenient, V31, &longer, ReasonCode::Success),
    ] {
        let (link, outputs) = house.connect_at(policy.clone(), client(version, id));
        assert_eq!(connack(&outputs, link).reason, reason, "{version} {id}");
    }
}

#[test]
fn a_door_that_keeps_identifiers_for_their_users_lets_nobody_be_first_with_anothers() {
    use ClientIds::{Any, User, UserPrefix};

    let mut house = House::new();
    for (client_ids, user, id, is_theirs) in [
        (Any, Some("eve"), "pump", true),
        (User, Some("pump"), "pump", true),
        (User, Some("eve"), "pump", false),
        (User, Some("pump"), "pump:1", false),
        (User, None, "pump", false),
        (UserPrefix, Some("pump"), "pump:1", true),
        (UserPrefix, Some("pump"), "pump:", true),
        (UserPrefix, Some("a:b"), "a:b:c", true),
        (UserPrefix, Some("a"), "a:b:c", false),
        (UserPrefix, Some("pump"), "pump", false),
        (UserPrefix, Some("pump"), "pumps:1", false),
        (UserPrefix, Some("eve"), "pump:1", false),
        (UserPrefix, None, "pump:1", false),
    ] {
        for version in [V31, V311, V5] {
            let policy = ListenerPolicy {
                client_ids,
                ..ListenerPolicy::new("door", true)
            };
            let link = house.arrive_at(policy, user);
            let outputs = house.receive(link, Packet::Connect(Box::new(client(version, id))));
            let expected = match is_theirs {
                true => ReasonCode::Success,
                false => ReasonCode::ClientIdentifierNotValid,
            };
            let case = format!("{client_ids:?} {user:?} {id} {version}");
            assert_eq!(connack(&outputs, link).reason, expected, "{case}");
            house.close(link);
        }
    }
    // What was refused has touched no session.
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_door_that_keeps_identifiers_for_their_users_assigns_one_with_the_users_name_before_it() {
    let mut house = House::new();
    for (client_ids, user, begins) in [
        (ClientIds::UserPrefix, Some("pump"), Some("pump:tidegate-")),
        (ClientIds::User, Some("pump"), None),
        (ClientIds::UserPrefix, None, None),
    ] {
        let policy = ListenerPolicy {
            client_ids,
            ..ListenerPolicy::new("door", true)
        };
        let link = house.arrive_at(policy, user);
        let nameless = Connect {
            client_id: None,
            ..client(V5, "")
        };
        let outputs = house.receive(link, Packet::Connect(Box::new(nameless)));
        let ConnAck {
            reason, properties, ..
        } = connack(&outputs, link);
        let assigned = properties.assigned_client_id;
        match begins {
            Some(begins) => assert!(assigned.is_some_and(|id| id.as_str().starts_with(begins))),
            None => assert_eq!((reason, assigned), (ReasonCode::ClientIdentifierNotValid, None)),
        }
    }
}

#[test]
fn a_client_without_an_identifier_is_assigned_one_nobody_else_has() {
    let mut house = House::new();
    let nameless = || Connect {
        client_id: None,
        ..client(V5, "")
    };
    let (one, outputs) = house.connect(nameless());
    let first = connack(&outputs, one)
        .properties
        .assigned_client_id
        .expect("assigned");
    let (two, outputs) = house.connect(nameless());
    let second = connack(&outputs, two)
        .properties
        .assigned_client_id
        .expect("assigned");
    assert_ne!(first, second);
    assert_eq!(house.stats().clients_connected, 2);
}

#[test]
fn a_session_is_known_by_the_identifier_that_was_assigned() {
    let mut house = House::new();
    let nameless = Connect {
        client_id: None,
        ..resuming(V5, "")
    };
    let (link, outputs) = house.connect(nameless);
    let assigned = connack(&outputs, link).properties.assigned_client_id;
    house.subscribe(link, "t", QoS::AtLeastOnce);
    house.close(link);
    house.step(own("t", "while away", QoS::AtLeastOnce, false));
    let named = resuming(V5, assigned.expect("assigned").as_str());
    let (link, outputs) = house.connect(named);
    assert!(connack(&outputs, link).session_present);
    assert_eq!(connack(&outputs, link).properties.assigned_client_id, None);
    assert_eq!(payloads(&outputs, link), ["while away"]);
}

#[test]
fn an_empty_identifier_needs_a_clean_session_in_3_1_1_and_is_none_at_all_in_3_1() {
    let mut house = House::new();
    for (version, clean_start, reason) in [
        (V311, false, ReasonCode::ClientIdentifierNotValid),
        (V311, true, ReasonCode::Success),
        (V31, true, ReasonCode::ClientIdentifierNotValid),
        (V31, false, ReasonCode::ClientIdentifierNotValid),
        (V5, false, ReasonCode::Success),
    ] {
        let (link, outputs) = house.connect(Connect {
            client_id: None,
            clean_start,
            ..client(version, "")
        });
        assert_eq!(
            connack(&outputs, link).reason,
            reason,
            "{version} with clean start {clean_start}"
        );
    }
}

#[test]
fn an_identifier_longer_than_a_topic_may_be_is_refused() {
    let mut house = House::new();
    let (link, outputs) = house.connect(client(V5, &"x".repeat(257)));
    assert_eq!(
        connack(&outputs, link).reason,
        ReasonCode::ClientIdentifierNotValid
    );
    assert_eq!(outputs[1], close(link));
}

#[test]
fn a_door_that_asks_for_proof_refuses_who_brings_none() {
    for (version, reason) in [(V311, ReasonCode::NotAuthorized), (V5, ReasonCode::NotAuthorized)] {
        let mut house = House::new();
        let link = house.arrive_at_locked_door();
        let outputs = house.receive(link, connect_packet(client(version, "bill")));
        let reason_of_event = DetachReason::Refused(Refusal::NoCredentials);
        assert_eq!(
            outputs,
            [
                send(link, refusal(reason)),
                close(link),
                Output::Event(Event::ConnectionRefused {
                    link,
                    reason: reason_of_event
                }),
            ]
        );
        assert_eq!(house.stats().sessions, 0);
    }
}

#[test]
fn a_password_is_checked_before_anything_else_happens() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    let outputs = house.receive(link, connect_packet(with_password(client(V5, "bill"), "bill")));
    assert_eq!(
        outputs,
        [Output::Verify {
            link,
            user: text("bill"),
            password: "secret".into()
        }]
    );
    assert_eq!(house.stats().sessions, 0);
    let outputs = house.verified(link, Verdict::Allow);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    let identity = Identity::User(text("bill"));
    assert!(events(&outputs).contains(&&Event::ClientConnected {
        link,
        client: client_id("bill"),
        identity,
        session_present: false
    }));
}

#[test]
fn each_verdict_has_its_answer() {
    for (verdict, reason) in [
        (Verdict::Deny, ReasonCode::BadUserNameOrPassword),
        (Verdict::Unavailable, ReasonCode::ServerUnavailable),
    ] {
        for version in [V31, V311, V5] {
            let mut house = House::new();
            let link = house.arrive_at_locked_door();
            house.receive(
                link,
                connect_packet(with_password(client(version, "bill"), "bill")),
            );
            let outputs = acts(house.verified(link, verdict));
            assert_eq!(outputs, [send(link, refusal(reason)), close(link)], "{version}");
            assert_eq!((house.stats().sessions, house.stats().links), (0, 0));
        }
    }
}

#[test]
fn where_the_gateway_keeps_no_users_a_name_counts_for_nothing() {
    let mut house = House::new();
    let link = house.arrive();
    house.receive(link, connect_packet(with_password(client(V311, "bill"), "bill")));
    let outputs = house.verified(link, Verdict::NoUsers);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    assert!(events(&outputs).contains(&&Event::ClientConnected {
        link,
        client: client_id("bill"),
        identity: Identity::Anonymous,
        session_present: false
    }));

    let link = house.arrive_at_locked_door();
    house.receive(link, connect_packet(with_password(client(V311, "ann"), "ann")));
    let outputs = acts(house.verified(link, Verdict::NoUsers));
    assert_eq!(
        outputs,
        [
            send(link, refusal(ReasonCode::BadUserNameOrPassword)),
            close(link)
        ]
    );
}

#[test]
fn a_certificate_user_needs_no_password() {
    let mut house = House::new();
    let link = house.arrive_through(false, Some("pump-7"));
    let outputs = house.receive(link, connect_packet(client(V311, "bill")));
    let identity = Identity::User(text("pump-7"));
    assert!(events(&outputs).contains(&&Event::ClientConnected {
        link,
        client: client_id("bill"),
        identity,
        session_present: false
    }));
}

#[test]
fn what_a_client_sends_behind_its_connect_waits_for_the_verdict_and_keeps_its_order() {
    let mut house = House::new();
    let reader = house.join(client(V311, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let link = house.arrive_at_locked_door();
    house.receive(link, connect_packet(with_password(client(V311, "bill"), "bill")));
    for payload in ["1", "2", "3"] {
        assert_eq!(house.publish(link, message("t", payload)), []);
    }
    let outputs = house.verified(link, Verdict::Allow);
    assert_eq!(payloads(&outputs, reader), ["1", "2", "3"]);
}

#[test]
fn nothing_a_refused_client_sent_is_looked_at() {
    let mut house = House::new();
    let reader = house.join(client(V311, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        will: Some(will("gone", "bill")),
        ..with_password(client(V311, "bill"), "bill")
    };
    house.receive(link, connect_packet(connect));
    house.publish(link, message("t", "1"));
    let outputs = house.verified(link, Verdict::Deny);
    assert_eq!(sent(&outputs, reader), [] as [&Packet; 0]);
    assert_eq!(house.receive(link, Packet::PingReq), []);
}

#[test]
fn a_client_that_says_too_much_before_the_verdict_is_sent_away() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    house.receive(link, connect_packet(with_password(client(V5, "bill"), "bill")));
    let outputs = house.publish(link, message("t", &"x".repeat(16 * 1024)));
    assert_eq!(
        acts(outputs),
        [send(link, refusal(ReasonCode::QuotaExceeded)), close(link)]
    );
    assert_eq!(house.verified(link, Verdict::Allow), []);
}

#[test]
fn a_verdict_for_a_link_that_is_gone_is_void() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    house.receive(link, connect_packet(with_password(client(V5, "bill"), "bill")));
    house.close(link);
    assert_eq!(house.verified(link, Verdict::Allow), []);
    assert_eq!((house.stats().sessions, house.stats().clients_connected), (0, 0));
}

#[test]
fn a_verdict_nobody_asked_for_changes_nothing() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    assert_eq!(house.verified(link, Verdict::Allow), []);
    let outputs = house.receive(link, connect_packet(client(V5, "bill")));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
    let member = house.join(client(V5, "carl"));
    assert_eq!(house.verified(member, Verdict::Deny), []);
}

#[test]
fn a_client_that_does_not_connect_in_time_is_closed_without_a_word() {
    let mut house = House::new();
    let link = house.arrive();
    assert_eq!(house.wait(secs(9)), []);
    let reason = DetachReason::ConnectTimeout;
    assert_eq!(
        house.wait(secs(1)),
        [
            close(link),
            Output::Event(Event::ConnectionRefused { link, reason })
        ]
    );
}

#[test]
fn a_verdict_that_does_not_come_in_time_ends_the_connection_with_server_unavailable() {
    for version in [V311, V5] {
        let mut house = House::new();
        let link = house.arrive_at_locked_door();
        house.receive(
            link,
            connect_packet(with_password(client(version, "bill"), "bill")),
        );
        assert_eq!(
            acts(house.wait(secs(10))),
            [send(link, refusal(ReasonCode::ServerUnavailable)), close(link)]
        );
        assert_eq!(house.verified(link, Verdict::Allow), []);
    }
}

#[test]
fn the_check_of_a_password_has_its_own_time() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    house.wait(secs(9));
    house.receive(link, connect_packet(with_password(client(V5, "bill"), "bill")));
    assert_eq!(house.wait(secs(9)), []);
    let outputs = house.verified(link, Verdict::Allow);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
}

#[test]
fn a_first_packet_that_is_not_connect_ends_the_connection() {
    let mut house = House::new();
    let link = house.arrive();
    assert_eq!(acts(house.receive(link, Packet::PingReq)), [close(link)]);
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    for (version, word) in [(V311, None), (V5, Some(disconnect(ReasonCode::ProtocolError)))] {
        let mut house = House::new();
        let link = house.join(client(version, "bill"));
        let outputs = acts(house.receive(link, connect_packet(client(version, "bill"))));
        let mut expected: Vec<_> = word.map(|packet| send(link, packet)).into_iter().collect();
        expected.push(close(link));
        assert_eq!(outputs, expected, "{version}");
        assert_eq!(house.stats().sessions, 0);
    }
}

#[test]
fn an_unknown_authentication_method_is_refused() {
    let mut house = House::new();
    let properties = ConnectProperties {
        authentication_method: Some(text("SCRAM")),
        ..ConnectProperties::default()
    };
    let (link, outputs) = house.connect(Connect {
        properties,
        ..client(V5, "bill")
    });
    assert_eq!(
        connack(&outputs, link).reason,
        ReasonCode::BadAuthenticationMethod
    );
    let link = house.join(client(V5, "bill"));
    let outputs = acts(house.receive(link, Packet::Auth(Box::default())));
    assert_eq!(
        outputs,
        [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
    );
}

#[test]
fn a_connection_too_many_is_told_so_and_a_flood_is_closed_at_once() {
    let mut house = House::within(Limits {
        connections_max: 2,
        ..Limits::default()
    });
    let one = house.join(client(V5, "one"));
    house.join(client(V311, "two"));
    for version in [V311, V5] {
        let (link, outputs) = house.connect(client(version, "three"));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    }
    for _ in 0..100 {
        house.arrive();
    }
    house.wait(secs(0));
    assert_eq!(house.stats().links, 2 + 16);
    house.wait(secs(10));
    assert_eq!(house.stats().links, 2);
    house.close(one);
    house.join(client(V5, "three"));
}

#[test]
fn a_will_nobody_may_publish_keeps_its_client_out() {
    for (version, reason) in [(V311, ReasonCode::NotAuthorized), (V5, ReasonCode::NotAuthorized)] {
        let mut house = House::new();
        let (link, outputs) = house.connect(Connect {
            will: Some(will("$SYS/x", "y")),
            ..client(version, "bill")
        });
        assert_eq!(connack(&outputs, link).reason, reason);
        assert_eq!(house.stats().sessions, 0);
    }
}

#[test]
fn a_will_beyond_the_limits_keeps_its_client_out() {
    let mut house = House::new();
    let large = will("gone", &"x".repeat(16 * 1024));
    let (link, outputs) = house.connect(Connect {
        will: Some(large),
        ..client(V5, "bill")
    });
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    let deep = will(&"a/".repeat(40), "x");
    let (link, outputs) = house.connect(Connect {
        will: Some(deep),
        ..client(V5, "bill")
    });
    assert_eq!(connack(&outputs, link).reason, ReasonCode::TopicNameInvalid);
}

#[test]
fn a_hundred_wrong_passwords_in_a_row_leave_nothing_behind() {
    let mut house = House::new();
    for _ in 0..100 {
        let link = house.arrive_at_locked_door();
        house.receive(link, connect_packet(with_password(client(V311, "bill"), "bill")));
        house.verified(link, Verdict::Deny);
    }
    let stats = house.stats();
    assert_eq!(
        (stats.links, stats.sessions, stats.connections_refused),
        (0, 0, 100)
    );
    assert_eq!(house.broker.poll_timeout(), None);
}

#[test]
fn no_more_sessions_are_opened_than_the_limit_allows() {
    let mut house = House::within(Limits {
        sessions_max: 1,
        ..Limits::default()
    });
    let one = house.join(resuming(V5, "one"));
    house.close(one);
    let (link, outputs) = house.connect(client(V5, "two"));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    assert!(events(&outputs).contains(&&Event::LimitReached {
        limit: "sessions_max",
        client: None
    }));
    let (_, outputs) = house.connect(client(V5, "two"));
    assert!(!events(&outputs).contains(&&Event::LimitReached {
        limit: "sessions_max",
        client: None
    }));
    house.join(resuming(V5, "one"));
}

#[test]
fn a_house_that_stops_says_so_to_those_who_understand_it() {
    let mut house = House::new();
    let old = house.join(client(V311, "old"));
    let new = house.join(client(V5, "new"));
    let outputs = acts(house.step(Input::Shutdown));
    assert_eq!(
        outputs,
        [
            close(old),
            send(new, disconnect(ReasonCode::ServerShuttingDown)),
            close(new)
        ]
    );
    let link = house.arrive();
    assert_eq!(acts(house.wait(secs(0))), []);
    assert_eq!(
        house.receive(link, connect_packet(client(ProtocolVersion::V5, "late"))),
        [
            close(link),
            Output::Event(Event::ConnectionRefused {
                link,
                reason: DetachReason::Refused(Refusal::ConnectionsFull)
            })
        ]
    );
}

#[test]
fn every_identifier_the_standard_asks_us_to_take_is_taken() {
    let mut house = House::new();
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for start in 0..letters.len() - 23 {
        for len in [1, 23] {
            house.join(client(V5, &letters[start..start + len]));
        }
    }
    assert_eq!(house.stats().sessions, 2 * 39);
    // These we may take, and do.
    for more in [
        &"x".repeat(256),
        "/+#$ \u{1}\u{FEFF}\u{FFFF}",
        "\u{E4}\u{4E2D}\u{1F600}",
    ] {
        house.join(client(V5, more));
    }
    assert_eq!(house.stats().sessions, 2 * 39 + 3);
}

#[test]
fn the_server_may_be_asked_for_every_quality_and_says_so_by_silence() {
    let mut house = House::new();
    let (link, outputs) = house.connect(Connect {
        will: Some(tidegate::mqtt::Will {
            qos: QoS::ExactlyOnce,
            retain: true,
            ..will("gone", "x")
        }),
        ..client(V5, "bill")
    });
    let told = connack(&outputs, link).properties;
    assert_eq!((told.maximum_qos, told.retain_available), (None, None));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert!(!house.subscribe(link, "t", qos).is_error());
    }
    assert_eq!(
        messages(&house.publish(link, message2(1, "t", "x")), link).len(),
        1
    );
}

#[test]
fn without_being_asked_the_server_gives_no_response_information() {
    let mut house = House::new();
    for asked in [None, Some(false)] {
        let properties = ConnectProperties {
            request_response_information: asked,
            ..ConnectProperties::default()
        };
        let (link, outputs) = house.connect(Connect {
            properties,
            ..client(V5, "bill")
        });
        assert_eq!(connack(&outputs, link).properties.response_information, None);
    }
}
