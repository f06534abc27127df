//! SUBSCRIBE and UNSUBSCRIBE, their options, and what overlapping filters mean.

mod conversation;

use conversation::*;
use smallvec::smallvec;
use tidegate::mqtt::{
    Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe,
    SubscribeProperties, Subscription, UnsubAck, Unsubscribe,
};

fn suback_packet(reasons: &[ReasonCode]) -> Packet {
    Packet::SubAck(Box::new(SubAck {
        packet_id: id(1),
        reasons: reasons.into(),
        properties: None,
    }))
}

fn with_ids(publish: Publish, ids: &[u32]) -> Publish {
    let properties = PublishProperties {
        subscription_ids: ids.into(),
        ..PublishProperties::default()
    };
    Publish {
        properties: Some(Box::new(properties)),
        ..publish
    }
}

#[test]
fn each_filter_is_answered_in_its_place() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    let deep = "a/".repeat(40);
    let packet = subscribe_packet(&[
        subscription("a", QoS::ExactlyOnce),
        subscription(&deep, QoS::AtMostOnce),
        subscription("b/#", QoS::AtLeastOnce),
        subscription("+", QoS::AtMostOnce),
    ]);
    let expected = [
        ReasonCode::GrantedQos2,
        ReasonCode::TopicFilterInvalid,
        ReasonCode::GrantedQos1,
        ReasonCode::Success,
    ];
    assert_eq!(
        house.receive(link, packet),
        [send(link, suback_packet(&expected))]
    );
    assert_eq!(house.stats().subscriptions, 3);
}

#[test]
fn a_3_1_1_client_is_told_of_a_failure_by_0x80() {
    let mut house = House::new();
    let link = house.join(client(V311, "reader"));
    let outputs = house.receive(
        link,
        subscribe_packet(&[subscription(&"a/".repeat(40), QoS::AtMostOnce)]),
    );
    assert_eq!(
        outputs,
        [send(link, suback_packet(&[ReasonCode::UnspecifiedError]))]
    );
}

#[test]
fn what_was_unsubscribed_is_delivered_no_more() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.subscribe(link, "a", QoS::AtMostOnce);
    house.subscribe(link, "b", QoS::AtMostOnce);
    let outputs = house.receive(link, unsubscribe_packet(&["a", "never"]));
    let reasons = smallvec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let expected = Packet::UnsubAck(Box::new(UnsubAck {
        packet_id: id(2),
        reasons,
        properties: None,
    }));
    assert_eq!(outputs, [send(link, expected)]);
    assert_eq!(house.step(own("a", "x", QoS::AtMostOnce, false)), []);
    assert_eq!(
        payloads(&house.step(own("b", "x", QoS::AtMostOnce, false)), link),
        ["x"]
    );
    assert_eq!(house.stats().subscriptions, 1);
}

#[test]
fn what_already_waits_is_delivered_after_unsubscribe() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.subscribe(link, "a", QoS::AtLeastOnce);
    for _ in 0..33 {
        house.step(own("a", "x", QoS::AtLeastOnce, false));
    }
    house.receive(link, unsubscribe_packet(&["a"]));
    assert_eq!(payloads(&house.receive(link, puback(1)), link), ["x"]);
}

#[test]
fn a_second_subscription_to_the_same_filter_replaces_the_first() {
    let mut house = House::new();
    let link = house.join(client(V311, "reader"));
    house.subscribe(link, "a", QoS::ExactlyOnce);
    house.subscribe(link, "a", QoS::AtMostOnce);
    assert_eq!(house.stats().subscriptions, 1);
    let outputs = house.step(own("a", "x", QoS::ExactlyOnce, false));
    assert_eq!(messages(&outputs, link), [message("a", "x")]);
}

#[test]
fn overlapping_filters_bring_one_message_at_the_highest_quality_with_all_identifiers() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.receive(
        link,
        subscribe_with_id(subscription("a/#", QoS::AtMostOnce), 268_435_455),
    );
    house.receive(link, subscribe_with_id(subscription("a/+", QoS::AtLeastOnce), 1));
    house.receive(link, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
    let outputs = house.step(own("a/b", "x", QoS::ExactlyOnce, false));
    let found = messages(&outputs, link);
    let mut ids = found[0].properties.clone().unwrap().subscription_ids.to_vec();
    ids.sort_unstable();
    assert_eq!(
        (found.len(), found[0].qos, ids),
        (1, QoS::AtLeastOnce, vec![1, 268_435_455])
    );
}

#[test]
fn a_subscription_identifier_comes_with_every_message_it_brought() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.receive(link, subscribe_with_id(subscription("a", QoS::AtMostOnce), 5));
    let outputs = house.step(own("a", "x", QoS::AtMostOnce, false));
    assert_eq!(messages(&outputs, link), [with_ids(message("a", "x"), &[5])]);
    house.subscribe(link, "a", QoS::AtMostOnce);
    let outputs = house.step(own("a", "x", QoS::AtMostOnce, false));
    assert_eq!(messages(&outputs, link), [message("a", "x")]);
}

#[test]
fn no_local_keeps_a_clients_own_messages_away_from_it_alone() {
    let mut house = House::new();
    let one = house.join(client(V5, "one"));
    let two = house.join(client(V5, "two"));
    for link in [one, two] {
        let filter = Subscription {
            no_local: true,
            ..subscription("a", QoS::AtMostOnce)
        };
        house.receive(link, subscribe_packet(&[filter]));
    }
    let outputs = house.publish(one, message("a", "x"));
    assert_eq!(outputs, [send_message(two, message("a", "x"))]);
}

#[test]
fn a_filter_without_no_local_still_brings_own_messages_at_its_own_quality() {
    let mut house = House::new();
    let link = house.join(client(V5, "one"));
    let quiet = Subscription {
        no_local: true,
        ..subscription("a/#", QoS::ExactlyOnce)
    };
    house.receive(
        link,
        subscribe_packet(&[quiet, subscription("a/b", QoS::AtMostOnce)]),
    );
    let outputs = house.publish(link, message1(1, "a/b", "own"));
    assert_eq!(messages(&outputs, link), [message("a/b", "own")]);
    let outputs = house.step(own("a/b", "other", QoS::ExactlyOnce, false));
    assert_eq!(messages(&outputs, link), [message2(1, "a/b", "other")]);
}

#[test]
fn retain_passes_through_where_it_was_asked_for() {
    let mut house = House::new();
    let plain = house.join(client(V5, "plain"));
    let keen = house.join(client(V5, "keen"));
    house.subscribe(plain, "a", QoS::AtMostOnce);
    let filter = Subscription {
        retain_as_published: true,
        ..subscription("a", QoS::AtMostOnce)
    };
    house.receive(keen, subscribe_packet(&[filter]));
    let outputs = house.step(own("a", "x", QoS::AtMostOnce, true));
    assert_eq!(messages(&outputs, plain), [message("a", "x")]);
    assert_eq!(messages(&outputs, keen), [retained(message("a", "x"))]);
}

#[test]
fn a_bridge_gets_retain_as_published_and_nothing_of_its_own() {
    let mut house = House::new();
    let bridge = house.join(Connect {
        bridge: true,
        ..client(V311, "bridge")
    });
    house.subscribe(bridge, "#", QoS::AtMostOnce);
    assert_eq!(house.publish(bridge, message("a", "own")), []);
    let outputs = house.step(own("a", "x", QoS::AtMostOnce, true));
    assert_eq!(messages(&outputs, bridge), [retained(message("a", "x"))]);
}

#[test]
fn retained_messages_come_by_the_handling_that_was_asked_for() {
    let mut house = House::new();
    house.step(own("a", "x", QoS::AtMostOnce, true));
    for (handling, first, second) in [
        (RetainHandling::Send, 1, 1),
        (RetainHandling::SendIfNew, 1, 0),
        (RetainHandling::DoNotSend, 0, 0),
    ] {
        let link = house.join(client(V5, "reader"));
        for expected in [first, second] {
            let filter = Subscription {
                retain_handling: handling,
                ..subscription("a", QoS::AtMostOnce)
            };
            let outputs = house.receive(link, subscribe_packet(&[filter]));
            assert_eq!(messages(&outputs, link).len(), expected, "{handling:?}");
        }
        house.close(link);
    }
}

#[test]
fn leading_wildcards_do_not_match_what_starts_with_a_dollar() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.subscribe(link, "#", QoS::AtMostOnce);
    house.subscribe(link, "+/x", QoS::AtMostOnce);
    assert_eq!(house.step(own("$SYS/x", "1", QoS::AtMostOnce, true)), []);
    house.subscribe(link, "$SYS/+", QoS::AtMostOnce);
    assert_eq!(
        payloads(&house.step(own("$SYS/x", "2", QoS::AtMostOnce, false)), link),
        ["2"]
    );
}

#[test]
fn subscriptions_end_at_the_limit_of_the_client_and_of_the_house() {
    let limits = tidegate::broker::Limits {
        subscriptions_per_client_max: 2,
        subscriptions_max: 3,
        ..tidegate::broker::Limits::default()
    };
    let mut house = House::within(limits);
    let one = house.join(client(V5, "one"));
    assert_eq!(house.subscribe(one, "a", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(house.subscribe(one, "b", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(
        house.subscribe(one, "c", QoS::AtMostOnce),
        ReasonCode::QuotaExceeded
    );
    assert_eq!(
        house.subscribe(one, "a", QoS::AtLeastOnce),
        ReasonCode::GrantedQos1
    );
    let two = house.join(client(V5, "two"));
    assert_eq!(house.subscribe(two, "a", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(
        house.subscribe(two, "b", QoS::AtMostOnce),
        ReasonCode::QuotaExceeded
    );
    house.close(one);
    assert_eq!(house.subscribe(two, "b", QoS::AtMostOnce), ReasonCode::Success);
}

#[test]
fn a_subscription_ends_with_its_session() {
    let mut house = House::new();
    let link = house.join(client(V311, "reader"));
    house.subscribe(link, "a/b/c", QoS::AtMostOnce);
    house.close(link);
    assert_eq!(house.stats().subscriptions, 0);
    assert_eq!(house.step(own("a/b/c", "x", QoS::AtMostOnce, false)), []);
}

#[test]
fn several_filters_in_one_packet_count_as_one_after_the_other() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.step(own("a", "kept", QoS::AtMostOnce, true));
    let packet = subscribe_packet(&[
        subscription("a", QoS::ExactlyOnce),
        Subscription {
            retain_handling: RetainHandling::SendIfNew,
            ..subscription("a", QoS::AtMostOnce)
        },
    ]);
    let outputs = house.receive(link, packet);
    assert_eq!(
        suback(&outputs, link),
        [ReasonCode::GrantedQos2, ReasonCode::Success]
    );
    assert_eq!(payloads(&outputs, link), ["kept"]);
    assert_eq!(house.stats().subscriptions, 1);
    let outputs = house.step(own("a", "x", QoS::ExactlyOnce, false));
    assert_eq!(messages(&outputs, link), [message("a", "x")]);
    let outputs = house.receive(link, unsubscribe_packet(&["a", "a"]));
    let expected = Packet::UnsubAck(Box::new(UnsubAck {
        packet_id: id(2),
        reasons: smallvec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
        properties: None,
    }));
    assert_eq!(outputs, [send(link, expected)]);
}

#[test]
fn a_replaced_subscription_brings_retained_messages_again_and_loses_none_that_wait() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    house.step(own("a", "kept", QoS::AtMostOnce, true));
    house.subscribe(link, "a", QoS::AtLeastOnce);
    for number in 1..=40 {
        house.step(own("a", &number.to_string(), QoS::AtLeastOnce, false));
    }
    let waiting = house.stats().queued_messages;
    assert!(waiting > 0);
    let outputs = house.receive(link, subscribe_packet(&[subscription("a", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, link), ["kept"]);
    assert_eq!(house.stats().queued_messages, waiting);
    let mut found = Vec::new();
    for number in 1..=40 {
        found.extend(payloads(&house.receive(link, puback(number)), link));
    }
    let expected: Vec<_> = (41 - waiting..=40).map(|number| number.to_string()).collect();
    assert_eq!(found, expected);
}

#[test]
fn unsubscribe_takes_the_filter_of_the_same_letters_and_no_other() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    for filter in ["a/b", "a/+", "a/#", "A/b", "/a/b"] {
        house.subscribe(link, filter, QoS::AtMostOnce);
    }
    for stranger in ["a/c", "+/b", "#", "a/B", "a/b/", "a"] {
        let outputs = house.receive(link, unsubscribe_packet(&[stranger]));
        let [Packet::UnsubAck(unsuback)] = sent(&outputs, link)[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(
            unsuback.reasons[..],
            [ReasonCode::NoSubscriptionExisted],
            "{stranger}"
        );
    }
    assert_eq!(house.stats().subscriptions, 5);
    house.receive(link, unsubscribe_packet(&["a/+"]));
    assert_eq!(house.stats().subscriptions, 4);
}

#[test]
fn names_that_only_look_alike_do_not_match() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    // One letter, and the same as a letter with a combining accent: not one to the broker.
    let composed = "caf\u{E9}";
    house.subscribe(link, composed, QoS::AtMostOnce);
    house.subscribe(link, "a//b", QoS::AtMostOnce);
    for (name, expected) in [
        (composed, 1),
        ("cafe\u{301}", 0),
        ("CAF\u{C9}", 0),
        ("\u{FEFF}caf\u{E9}", 0),
        ("caf\u{E9} ", 0),
        ("a//b", 1),
        ("a/b", 0),
        ("a/./b", 0),
        ("a///b", 0),
    ] {
        let outputs = house.step(own(name, "x", QoS::AtMostOnce, false));
        assert_eq!(messages(&outputs, link).len(), expected, "{name}");
    }
}

#[test]
fn a_message_that_is_taken_waits_in_every_session_that_subscribed() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    for (name, filter) in [("one", "a/#"), ("two", "a/+"), ("three", "b")] {
        let link = house.join(resuming(V5, name));
        house.subscribe(link, filter, QoS::AtLeastOnce);
        house.close(link);
    }
    assert_eq!(
        house.publish(writer, message1(1, "a/b", "x")),
        [send(writer, puback(1))]
    );
    for (name, expected) in [("one", 1), ("two", 1), ("three", 0)] {
        let (link, outputs) = house.connect(resuming(V5, name));
        assert_eq!(messages(&outputs, link).len(), expected, "{name}");
    }
}

#[test]
fn every_answer_carries_the_identifier_of_its_request() {
    let mut house = House::new();
    let link = house.join(client(V5, "reader"));
    for number in [1, 7, 300, u16::MAX] {
        let subscribe = Subscribe {
            packet_id: id(number),
            subscriptions: smallvec![subscription("a", QoS::AtMostOnce)],
            properties: SubscribeProperties::default(),
        };
        let outputs = house.receive(link, Packet::Subscribe(Box::new(subscribe)));
        assert!(matches!(sent(&outputs, link)[..], [Packet::SubAck(ack)] if ack.packet_id == id(number)));
        for _ in 0..2 {
            let unsubscribe = Unsubscribe {
                packet_id: id(number),
                filters: smallvec![filter("a")],
                user_properties: Vec::new(),
            };
            let outputs = house.receive(link, Packet::Unsubscribe(Box::new(unsubscribe)));
            assert!(
                matches!(sent(&outputs, link)[..], [Packet::UnsubAck(ack)] if ack.packet_id == id(number))
            );
        }
    }
}
