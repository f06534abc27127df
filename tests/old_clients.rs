//! What clients of 3.1.1 and 3.1 are owed where the older standards have words of their own.

mod conversation;

use conversation::*;
use smallvec::smallvec;
use tidegate::broker::{Input, Limits, LinkId, Output};
use tidegate::mqtt::{
    Connect, Packet, ProtocolVersion, QoS, ReasonCode, SubAck, Subscribe, SubscribeProperties, Subscription,
    UnsubAck, Unsubscribe, Will,
};

const OLD: [ProtocolVersion; 2] = [V31, V311];

/// SUBSCRIBE under a packet identifier of its own.
fn subscribe_as(number: u16, subscriptions: &[Subscription]) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(number),
        subscriptions: subscriptions.into(),
        properties: SubscribeProperties::default(),
    }))
}

fn suback_as(number: u16, reasons: &[ReasonCode]) -> Packet {
    Packet::SubAck(Box::new(SubAck {
        packet_id: id(number),
        reasons: reasons.into(),
        properties: None,
    }))
}

fn unsubscribe_as(number: u16, filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id(number),
        filters: filters.iter().map(|text| filter(text)).collect(),
        user_properties: Vec::new(),
    }))
}

/// The packet identifier of the one UNSUBACK sent on a link. Before 5.0 it says nothing else.
fn unsuback(outputs: &[Output], to: LinkId) -> u16 {
    match sent(outputs, to).as_slice() {
        [Packet::UnsubAck(ack)] => ack.packet_id.get(),
        other => panic!("not one UNSUBACK: {other:?}"),
    }
}

/// A house with a writer, and a reader of `filter` at QoS 2.
fn pair(version: ProtocolVersion, filter: &str) -> (House, LinkId, LinkId) {
    let mut house = House::new();
    let writer = house.join(client(version, "writer"));
    let reader = house.join(client(version, "reader"));
    house.subscribe(reader, filter, QoS::ExactlyOnce);
    (house, writer, reader)
}

// ---------------------------------------------------------------------------------------------------------
// CONNECT and CONNACK

#[test]
fn client_identifiers_of_1_to_23_letters_and_digits_are_let_in() {
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in OLD {
        let mut house = House::new();
        for start in 0..all.len() {
            let rest = &all[start..];
            let name = &rest[..rest.len().min(1 + start % 23)];
            house.join(client(version, name));
        }
        assert_eq!(house.stats().clients_connected, all.len() as u64);
    }
}

#[test]
fn clients_of_3_1_1_without_an_identifier_are_kept_apart() {
    let mut house = House::new();
    let nameless = || Connect {
        client_id: None,
        ..client(V311, "")
    };
    let one = house.join(nameless());
    let two = house.join(nameless());
    house.subscribe(one, "a", QoS::AtMostOnce);
    let outputs = house.publish(two, message("a", "x"));
    assert_eq!(outputs, [send_message(one, message("a", "x"))]);
    assert_eq!((house.stats().sessions, house.stats().takeovers), (2, 0));
}

#[test]
fn a_refused_identifier_is_told_by_return_code_2_and_the_connection_closed() {
    let mut house = House::new();
    let nameless = Connect {
        client_id: None,
        ..resuming(V311, "")
    };
    for connect in [nameless, client(V311, &"x".repeat(257)), client(V31, "")] {
        let link = house.arrive();
        let outputs = acts(house.receive(link, Packet::Connect(Box::new(connect))));
        // Table 3.1 of 3.1.1: the codec writes this reason as 0x02.
        let rejected = refusal(ReasonCode::ClientIdentifierNotValid);
        assert_eq!(outputs, [send(link, rejected), close(link)]);
    }
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn what_no_return_code_says_closes_without_connack() {
    for version in OLD {
        let mut house = House::new();
        let deep = Connect {
            will: Some(will(&"a/".repeat(40), "x")),
            ..client(version, "bill")
        };
        let (link, outputs) = house.connect(deep);
        assert_eq!(acts(outputs), [close(link)]);
    }
}

#[test]
fn the_first_packet_a_client_gets_is_its_connack() {
    for version in OLD {
        let mut house = House::new();
        let bill = house.join(resuming(version, "bill"));
        house.subscribe(bill, "t", QoS::AtLeastOnce);
        house.step(own("t", "unfinished", QoS::AtLeastOnce, false));
        house.close(bill);
        house.step(own("t", "waiting", QoS::AtLeastOnce, false));
        let (bill, outputs) = house.connect(resuming(version, "bill"));
        let found = sent(&outputs, bill);
        assert!(
            matches!(found[0], Packet::ConnAck(connack) if connack.session_present),
            "{found:?}"
        );
        assert_eq!(payloads(&outputs, bill), ["unfinished", "waiting"]);
    }
}

#[test]
fn a_session_lasts_while_its_connection_does() {
    for connect in [client(V311, "bill"), resuming(V311, "bill"), client(V31, "bill")] {
        let mut house = House::within(Limits {
            session_expiry_max: secs(10),
            ..Limits::default()
        });
        let bill = house.join(Connect {
            keep_alive_secs: 0,
            ..connect
        });
        house.subscribe(bill, "t", QoS::AtMostOnce);
        house.wait(secs(24 * 3600));
        let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
        assert_eq!(payloads(&outputs, bill), ["x"]);
    }
}

#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    for version in OLD {
        let mut house = House::new();
        let writer = house.join(client(version, "writer"));
        house.publish(writer, retained(message("t", "x")));
        house.receive(writer, disconnect(ReasonCode::Success));
        house.join(client(version, "writer"));
        let reader = house.join(client(version, "reader"));
        let outputs = house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
        assert_eq!(messages(&outputs, reader), [retained(message("t", "x"))]);
    }
}

// ---------------------------------------------------------------------------------------------------------
// Wills

#[test]
fn a_client_without_a_will_leaves_no_message() {
    for version in OLD {
        let (mut house, _, reader) = pair(version, "#");
        let bill = house.join(client(version, "bill"));
        let outputs = house.close(bill);
        assert_eq!(messages(&outputs, reader), []);
        assert_eq!(house.stats().wills_sent, 0);
    }
}

#[test]
fn a_will_is_retained_if_its_flag_says_so_and_only_then() {
    for version in OLD {
        for (qos, retain) in [
            (QoS::AtMostOnce, false),
            (QoS::AtLeastOnce, true),
            (QoS::ExactlyOnce, false),
        ] {
            let (mut house, _, reader) = pair(version, "gone");
            let will = Will {
                qos,
                retain,
                ..will("gone", "bill")
            };
            let bill = house.join(Connect {
                will: Some(will),
                ..client(version, "bill")
            });
            let outputs = house.close(bill);
            let found = messages(&outputs, reader);
            assert_eq!((found.len(), found[0].qos, found[0].retain), (1, qos, false));
            let late = house.join(client(version, "late"));
            let outputs = house.receive(late, subscribe_packet(&[subscription("gone", QoS::AtMostOnce)]));
            let expected = if retain {
                vec![retained(message("gone", "bill"))]
            } else {
                vec![]
            };
            assert_eq!(messages(&outputs, late), expected);
        }
    }
}

#[test]
fn what_follows_a_disconnect_is_not_heard() {
    for version in OLD {
        let (mut house, writer, _) = pair(version, "t");
        assert_eq!(
            acts(house.receive(writer, disconnect(ReasonCode::Success))),
            [close(writer)]
        );
        assert_eq!(house.publish(writer, message1(1, "t", "x")), []);
        assert_eq!(house.close(writer), []);
    }
}

// ---------------------------------------------------------------------------------------------------------
// PUBLISH

#[test]
fn dup_of_a_publisher_is_not_passed_on() {
    for version in OLD {
        let (mut house, writer, reader) = pair(version, "t");
        let outputs = house.publish(writer, repeated(message1(7, "t", "x")));
        assert_eq!(messages(&outputs, reader), [message1(1, "t", "x")]);
        let outputs = house.publish(writer, repeated(message2(8, "t", "y")));
        assert_eq!(messages(&outputs, reader), [message2(2, "t", "y")]);
    }
}

#[test]
fn a_qos_1_message_after_its_puback_is_a_new_one_whatever_its_dup_says() {
    for version in OLD {
        let (mut house, writer, reader) = pair(version, "t");
        for publish in [message1(7, "t", "x"), repeated(message1(7, "t", "x"))] {
            let outputs = house.publish(writer, publish);
            assert_eq!(payloads(&outputs, reader), ["x"]);
            assert!(outputs.contains(&send(writer, puback(7))));
        }
    }
}

#[test]
fn a_message_that_is_not_retained_leaves_the_retained_one_alone() {
    for version in OLD {
        let (mut house, writer, _) = pair(version, "other");
        house.publish(writer, retained(message("t", "kept")));
        house.publish(writer, message("t", "passing"));
        house.publish(writer, message("t", ""));
        house.publish(writer, message("u", "passing"));
        let late = house.join(client(version, "late"));
        let outputs = house.receive(late, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
        assert_eq!(messages(&outputs, late), [retained(message("t", "kept"))]);
    }
}

#[test]
fn retain_is_set_for_a_new_subscription_and_not_for_an_established_one() {
    for version in OLD {
        let (mut house, writer, reader) = pair(version, "t");
        let outputs = house.publish(writer, retained(message("t", "x")));
        assert_eq!(messages(&outputs, reader), [message("t", "x")]);
        let late = house.join(client(version, "late"));
        let outputs = house.receive(late, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
        assert_eq!(messages(&outputs, late), [retained(message("t", "x"))]);
        let outputs = house.publish(writer, retained(message1(3, "t", "")));
        assert_eq!(messages(&outputs, reader), [message1(1, "t", "")]);
        let outputs = house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
        assert_eq!(messages(&outputs, reader), []);
    }
}

// ---------------------------------------------------------------------------------------------------------
// SUBSCRIBE and UNSUBSCRIBE

#[test]
fn each_filter_is_answered_in_its_place_under_the_identifier_that_asked() {
    let deep = "a/".repeat(40);
    let asked = [
        subscription("a", QoS::ExactlyOnce),
        subscription(&deep, QoS::AtLeastOnce),
        subscription("b", QoS::AtMostOnce),
        subscription("c", QoS::AtLeastOnce),
    ];
    // 3.1 has no word for a failure: what was asked for is granted, and brings nothing.
    for (version, failure) in [
        (V31, ReasonCode::GrantedQos1),
        (V311, ReasonCode::UnspecifiedError),
    ] {
        let mut house = House::new();
        let link = house.join(client(version, "reader"));
        let expected = [
            ReasonCode::GrantedQos2,
            failure,
            ReasonCode::Success,
            ReasonCode::GrantedQos1,
        ];
        assert_eq!(
            house.receive(link, subscribe_as(777, &asked)),
            [send(link, suback_as(777, &expected))]
        );
        assert_eq!(house.stats().subscriptions, 3);
    }
}

#[test]
fn a_subscribe_with_several_filters_is_like_several_with_one() {
    for version in OLD {
        let mut house = House::new();
        house.step(own("a/b", "x", QoS::AtLeastOnce, true));
        let together = house.join(client(version, "together"));
        let apart = house.join(client(version, "apart"));
        let asked = [
            subscription("a/#", QoS::AtLeastOnce),
            subscription("+/b", QoS::AtMostOnce),
            subscription("a/#", QoS::AtMostOnce),
        ];
        let outputs = house.receive(together, subscribe_as(3, &asked));
        assert_eq!(suback(&outputs, together).len(), 3);
        for one in &asked {
            house.receive(apart, subscribe_as(3, std::slice::from_ref(one)));
        }
        let outputs = house.step(own("a/b", "y", QoS::ExactlyOnce, false));
        assert_eq!(messages(&outputs, together), [message("a/b", "y")]);
        assert_eq!(messages(&outputs, apart), messages(&outputs, together));
    }
}

#[test]
fn a_subscription_made_again_brings_its_retained_messages_again() {
    for version in OLD {
        let (mut house, writer, reader) = pair(version, "t");
        house.publish(writer, retained(message1(1, "t", "x")));
        house.receive(reader, puback(1));
        for (qos, reason) in [
            (QoS::ExactlyOnce, ReasonCode::GrantedQos2),
            (QoS::AtMostOnce, ReasonCode::Success),
        ] {
            let outputs = house.receive(reader, subscribe_as(9, &[subscription("t", qos)]));
            assert_eq!(sent(&outputs, reader)[0], &suback_as(9, &[reason]));
            assert_eq!(payloads(&outputs, reader), ["x"]);
        }
        assert_eq!(house.stats().subscriptions, 2 - 1);
        let outputs = house.publish(writer, message2(2, "t", "y"));
        assert_eq!(messages(&outputs, reader), [message("t", "y")]);
    }
}

#[test]
fn overlapping_filters_bring_one_message_at_the_highest_quality_among_them() {
    for version in OLD {
        let mut house = House::new();
        let reader = house.join(client(version, "reader"));
        house.subscribe(reader, "a/#", QoS::AtMostOnce);
        house.subscribe(reader, "a/+", QoS::ExactlyOnce);
        house.subscribe(reader, "#", QoS::AtLeastOnce);
        let outputs = house.step(own("a/b", "x", QoS::ExactlyOnce, false));
        assert_eq!(messages(&outputs, reader), [message2(1, "a/b", "x")]);
        let outputs = house.step(own("a/b/c", "x", QoS::ExactlyOnce, false));
        assert_eq!(messages(&outputs, reader), [message1(2, "a/b/c", "x")]);
    }
}

#[test]
fn an_unsubscribe_takes_filters_character_by_character_and_is_answered_once() {
    for version in OLD {
        let mut house = House::new();
        let link = house.join(client(version, "reader"));
        for text in ["a/b", "a/+", "A/b", "a"] {
            house.subscribe(link, text, QoS::AtMostOnce);
        }
        let outputs = house.receive(link, unsubscribe_as(901, &["a/#", "a/c", "A/B", "/a"]));
        assert_eq!((unsuback(&outputs, link), house.stats().subscriptions), (901, 4));
        let outputs = house.receive(link, unsubscribe_as(902, &["a/+", "never", "a"]));
        assert_eq!((unsuback(&outputs, link), house.stats().subscriptions), (902, 2));
        assert_eq!(house.step(own("a", "x", QoS::AtMostOnce, false)), []);
        assert_eq!(house.step(own("a/c", "x", QoS::AtMostOnce, false)), []);
        let outputs = house.step(own("a/b", "x", QoS::AtMostOnce, false));
        assert_eq!(payloads(&outputs, link), ["x"]);
    }
}

#[test]
fn a_delivery_that_was_begun_is_finished_after_unsubscribe_and_on_the_next_connection() {
    for version in OLD {
        let mut house = House::new();
        let bill = house.join(resuming(version, "bill"));
        house.subscribe(bill, "t", QoS::ExactlyOnce);
        house.step(own("t", "1", QoS::AtLeastOnce, false));
        house.step(own("t", "2", QoS::ExactlyOnce, false));
        let outputs = house.receive(bill, unsubscribe_as(5, &["t"]));
        assert_eq!(unsuback(&outputs, bill), 5);
        assert_eq!(house.step(own("t", "3", QoS::ExactlyOnce, false)), []);
        house.close(bill);
        let (bill, outputs) = house.connect(resuming(version, "bill"));
        let expected = [repeated(message1(1, "t", "1")), repeated(message2(2, "t", "2"))];
        assert_eq!(messages(&outputs, bill), expected);
        assert_eq!(house.receive(bill, pubrec(2)), [send(bill, pubrel(2))]);
        house.receive(bill, pubcomp(2));
        house.receive(bill, puback(1));
        assert_eq!(house.stats().inflight_messages, 0);
    }
}

#[test]
fn topics_are_compared_as_they_are_written() {
    // Capitals, an empty level, a byte order mark, and two ways to write one accented letter.
    let names = ["a", "A", "a/", "/a", "\u{FEFF}a", "\u{E4}", "a\u{308}", " a"];
    for version in OLD {
        for subscribed in names {
            let mut house = House::new();
            let reader = house.join(client(version, "reader"));
            house.subscribe(reader, subscribed, QoS::AtMostOnce);
            for name in names {
                let outputs = house.step(own(name, "x", QoS::AtMostOnce, true));
                let expected = (name == subscribed).then(|| message(name, "x"));
                assert_eq!(messages(&outputs, reader), Vec::from_iter(expected));
            }
            let late = house.join(client(version, "late"));
            let outputs = house.receive(
                late,
                subscribe_packet(&[subscription(subscribed, QoS::AtMostOnce)]),
            );
            assert_eq!(messages(&outputs, late), [retained(message(subscribed, "x"))]);
        }
    }
}

#[test]
fn topics_under_a_wildcard_are_compared_as_they_are_written_too() {
    for version in OLD {
        let mut house = House::new();
        for name in ["b/a", "b/A", "B/a", "b/\u{FEFF}a"] {
            house.step(own(name, name, QoS::AtMostOnce, true));
        }
        let reader = house.join(client(version, "reader"));
        for (filter, expected) in [
            ("+/a", vec!["B/a", "b/a"]),
            ("b/+", vec!["b/A", "b/a", "b/\u{FEFF}a"]),
        ] {
            let asked = subscribe_packet(&[subscription(filter, QoS::AtMostOnce)]);
            assert_eq!(payloads(&house.receive(reader, asked), reader), expected);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------
// 3.1 alone, and brokers that bridge

#[test]
fn a_resumed_session_of_3_1_is_not_told_so() {
    let mut house = House::new();
    let bill = house.join(resuming(V31, "bill"));
    house.subscribe(bill, "t", QoS::AtMostOnce);
    house.close(bill);
    let (bill, outputs) = house.connect(resuming(V31, "bill"));
    let mut bytes = bytes::BytesMut::new();
    for packet in sent(&outputs, bill) {
        tidegate::mqtt::encode(packet, V31, &mut bytes);
    }
    assert_eq!(&bytes[..], b"\x20\x02\0\0");
    assert_eq!(
        payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), bill),
        ["x"]
    );
}

#[test]
fn a_filter_3_1_may_not_have_is_granted_and_brings_nothing() {
    let mut house = House::within(Limits {
        subscriptions_per_client_max: 1,
        ..Limits::default()
    });
    let link = house.join(client(V31, "reader"));
    house.subscribe(link, "a", QoS::AtMostOnce);
    assert_eq!(
        house.subscribe(link, "b", QoS::AtLeastOnce),
        ReasonCode::GrantedQos1
    );
    assert_eq!(house.stats().subscriptions, 1);
    assert_eq!(house.step(own("b", "x", QoS::AtLeastOnce, false)), []);
}

#[test]
fn a_bridge_says_that_it_is_there_and_its_will_that_it_is_not() {
    let state = "$SYS/broker/connection/hub.upstream/state";
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let reader = house.join(client(V311, "reader"));
        house.subscribe(reader, "$SYS/#", QoS::AtMostOnce);
        let will = Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            ..will(state, "0")
        };
        let bridge = house.join(Connect {
            bridge: version != V5,
            will: Some(will),
            ..resuming(version, "hub.upstream")
        });
        let outputs = house.publish(bridge, retained(message1(1, state, "1")));
        assert_eq!(messages(&outputs, reader), [message(state, "1")]);
        assert_eq!(payloads(&house.close(bridge), reader), ["0"]);
        let late = house.join(client(V311, "late"));
        let outputs = house.receive(late, subscribe_packet(&[subscription("$SYS/#", QoS::AtMostOnce)]));
        assert_eq!(messages(&outputs, late), [retained(message(state, "0"))]);
    }
}

#[test]
fn two_bridges_hear_each_other_and_never_themselves() {
    for version in OLD {
        let mut house = House::new();
        let bridge = |name| Connect {
            bridge: true,
            ..resuming(version, name)
        };
        let [one, two] = ["one", "two"].map(|name| house.join(bridge(name)));
        for link in [one, two] {
            house.receive(link, subscribe_packet(&[subscription("#", QoS::AtLeastOnce)]));
        }
        for publish in [message1(1, "a", "x"), retained(message1(2, "a", "y"))] {
            let outputs = house.publish(one, publish.clone());
            let found = messages(&outputs, two);
            assert_eq!(found.len(), 1);
            assert_eq!(
                (&found[0].payload, found[0].retain),
                (&publish.payload, publish.retain)
            );
            assert_eq!(messages(&outputs, one), []);
        }
        // What came while one of them was away reaches it once, and what it wrote itself does not wait for it.
        house.close(one);
        house.publish(two, message1(1, "a", "z"));
        let (one, outputs) = house.connect(bridge("one"));
        assert_eq!(payloads(&outputs, one), ["z"]);
        assert_eq!(house.stats().queued_messages, 0);
    }
}

#[test]
fn the_old_handshake_ends_in_silence_for_every_malformed_packet() {
    for version in OLD {
        let mut house = House::new();
        let bill = house.join(Connect {
            will: Some(will("gone", "bill")),
            ..client(version, "bill")
        });
        let reader = house.join(client(version, "reader"));
        house.subscribe(reader, "gone", QoS::AtMostOnce);
        let error = tidegate::mqtt::DecodeError::FixedHeaderFlags;
        let outputs = acts(house.step(Input::Malformed {
            link: bill,
            version: Some(version),
            error,
        }));
        let expected = [close(bill), send_message(reader, message("gone", "bill"))];
        assert_eq!(outputs, expected);
    }
}

#[test]
fn acknowledgements_of_3_1_carry_identifiers_alone() {
    let (mut house, writer, _) = pair(V31, "t");
    let outputs = house.receive(writer, unsubscribe_as(4, &["never"]));
    let reasons = smallvec![ReasonCode::NoSubscriptionExisted];
    let answer = UnsubAck {
        packet_id: id(4),
        reasons,
        properties: None,
    };
    assert_eq!(outputs, [send(writer, Packet::UnsubAck(Box::new(answer)))]);
    let mut bytes = bytes::BytesMut::new();
    for output in outputs {
        if let Output::Send { packet, .. } = output {
            tidegate::mqtt::encode(&packet, V31, &mut bytes);
        }
    }
    assert_eq!(&bytes[..], b"\xB0\x02\0\x04");
}
