//! What waits for clients that are away or slow: how much, what gives way, who is told, and how it drains.

mod conversation;

use std::time::Duration;

use conversation::*;
use tidegate::broker::{
    DetachReason, Event, Input, Limits, LinkId, Output, Overflow, Pattern, QueueClass, QueueRule,
    Reconfiguration, Refusal, Settings,
};
use tidegate::mqtt::{Connect, ConnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode};

const SMALL: usize = QueueClass::N16.messages();

/// Limits with small queues in which `overflow` says what gives way.
fn small(overflow: Overflow) -> Limits {
    Limits {
        queue_class: QueueClass::N16,
        queue_overflow: overflow,
        ..Limits::default()
    }
}

fn ruled(limits: Limits, rules: &[QueueRule]) -> House {
    House::within(limits).decided(Settings {
        queue_rules: rules.to_vec(),
        ..Settings::default()
    })
}

fn for_clients(pattern: &str) -> QueueRule {
    QueueRule {
        clients: vec![Pattern::parse(pattern).expect("a pattern of the test")],
        ..QueueRule::default()
    }
}

fn for_topics(text: &str, overflow: Overflow) -> QueueRule {
    QueueRule {
        topics: vec![filter(text)],
        overflow: Some(overflow),
        ..QueueRule::default()
    }
}

/// A client that has subscribed at QoS 1 and gone, its session kept.
fn absent(house: &mut House, name: &str, filter: &str) {
    let link = house.join(resuming(V5, name));
    house.subscribe(link, filter, QoS::AtLeastOnce);
    house.close(link);
}

/// The numbers of these messages as payloads of the gateway's own messages at QoS 1.
fn fill(house: &mut House, topic: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        house.step(own(topic, &number.to_string(), QoS::AtLeastOnce, false));
    }
}

fn limits_told(outputs: &[Output]) -> Vec<(&'static str, Option<String>)> {
    let told = events(outputs).into_iter().filter_map(|event| match event {
        Event::LimitReached { limit, client } => Some((*limit, client.as_ref().map(ToString::to_string))),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_rule_gives_some_clients_other_queues_than_the_limits_do() {
    let rules = [
        QueueRule {
            class: Some(QueueClass::N64),
            overflow: Some(Overflow::DropNewest),
            ..for_clients("meter-*")
        },
        QueueRule {
            users: vec![Pattern::parse("plant").expect("a pattern of the test")],
            bytes_max: Some(30),
            ..QueueRule::default()
        },
    ];
    let mut house = ruled(small(Overflow::DropOldest), &rules);
    absent(&mut house, "panel", "t");
    absent(&mut house, "meter-1", "t");
    let link = house.join_as("plant", resuming(V5, "bounded"));
    house.subscribe(link, "t", QoS::AtLeastOnce);
    house.close(link);
    fill(&mut house, "t", 10..90);
    // Three bytes each, and no more than thirty.
    assert_eq!(house.stats().queued_messages, (SMALL + 64 + 10) as u64);
    assert_eq!(
        house.stats().dropped_queue_full,
        (80 - SMALL + 80 - 64 + 80 - 10) as u64
    );
    assert_eq!(drained(&mut house, "panel"), texts(90 - SMALL..90));
    assert_eq!(drained(&mut house, "meter-1"), texts(10..74));
}

#[test]
fn a_message_that_a_receiver_has_no_room_for_is_kept_for_nobody_and_its_publisher_is_told() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "full", "t/full");
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t/#", QoS::AtLeastOnce);
    let publisher = house.join(client(V5, "publisher"));
    for number in 0..SMALL {
        let outputs = house.publish(publisher, message1(1, "t/full", &number.to_string()));
        assert_eq!(sent(&outputs, publisher), [&puback(1)]);
        assert_eq!(drain(&mut house, reader, outputs).len(), 1);
    }
    let outputs = house.publish(publisher, retained(message1(7, "t/full", "too much")));
    assert_eq!(limits_told(&outputs), [("queue_class", Some("full".to_owned()))]);
    let told = [send(publisher, puback_with(7, ReasonCode::QuotaExceeded))];
    assert_eq!(acts(outputs), told);
    let outputs = house.publish(publisher, message2(8, "t/full", "too much"));
    assert_eq!(
        outputs,
        [send(publisher, pubrec_with(8, ReasonCode::QuotaExceeded))]
    );
    assert_eq!(
        (house.stats().publishes_refused, house.stats().retained_messages),
        (2, 0)
    );
    // Nothing is remembered of it: the identifier is free, and other topics find room.
    let outputs = house.publish(publisher, message2(8, "t/other", "room"));
    assert_eq!(sent(&outputs, publisher), [&pubrec(8)]);
    assert_eq!(payloads(&outputs, reader), ["room"]);

    assert_eq!(drained(&mut house, "full"), texts(0..SMALL));
    let outputs = house.publish(publisher, message1(9, "t/full", "room again"));
    assert_eq!(sent(&outputs, publisher), [&puback(9)]);
    assert_eq!(
        house.stats().dropped(),
        0,
        "nothing that was acknowledged is lost"
    );
    assert_eq!(drained(&mut house, "full"), ["room again"]);
}

#[test]
fn room_that_all_queues_share_is_weighed_for_all_receivers_of_a_message_at_once() {
    let mut house = House::within(Limits {
        queued_bytes_total_max: 100,
        ..small(Overflow::Reject)
    });
    absent(&mut house, "first", "t/#");
    absent(&mut house, "second", "t/both");
    let publisher = house.join(client(V5, "publisher"));
    // Six bytes of topic, and 30 each of payload: 36 for one, and 72 for two.
    let long = "x".repeat(30);
    let outputs = house.publish(publisher, message1(1, "t/itself", &long));
    assert_eq!(outputs, [send(publisher, puback(1))]);
    let outputs = house.publish(publisher, message1(2, "t/both", &long));
    assert_eq!(limits_told(&outputs), [("queued_bytes_total_max", None)]);
    let told = [send(publisher, puback_with(2, ReasonCode::QuotaExceeded))];
    assert_eq!(acts(outputs), told);
    assert_eq!(house.stats().queued_messages, 1);
    let outputs = house.publish(publisher, message1(3, "t/both", "short"));
    assert_eq!(outputs, [send(publisher, puback(3))]);
    assert_eq!((house.stats().queued_messages, house.stats().dropped()), (3, 0));
}

#[test]
fn a_publisher_that_speaks_an_older_version_waits_for_room_in_its_order() {
    for version in [V31, V311] {
        let mut house = House::within(small(Overflow::Reject));
        absent(&mut house, "reader", "t");
        fill(&mut house, "t", 0..SMALL);
        let publisher = house.join(client(version, "publisher"));
        let other = house.join(client(version, "other"));
        assert_eq!(acts(house.publish(publisher, message1(1, "t", "16"))), []);
        assert_eq!(acts(house.publish(publisher, message2(2, "t", "17"))), []);
        assert_eq!(acts(house.publish(other, message1(1, "t", "18"))), []);
        assert_eq!(
            house.receive(publisher, Packet::PingReq),
            [send(publisher, Packet::PingResp)],
            "it is heard all the same"
        );
        assert_eq!(house.stats().publishes_held, 2);

        // The whole queue is on its way, so there is room for all, behind what waited before.
        let (reader, outputs) = house.connect(resuming(V5, "reader"));
        assert_eq!(sent(&outputs, publisher), [&puback(1), &pubrec(2)]);
        assert_eq!(sent(&outputs, other), [&puback(1)]);
        let came = drain(&mut house, reader, outputs);
        let mut numbers: Vec<_> = came.iter().map(|publish| publish.payload.clone()).collect();
        assert_eq!(numbers.split_off(SMALL).len(), 3);
        assert_eq!(numbers, texts(0..SMALL));
        assert_eq!(house.stats().dropped(), 0);
        assert_eq!(house.wait(Duration::from_secs(40)), [], "nothing is due any more");
    }
}

#[test]
fn who_finds_no_room_in_time_is_disconnected_and_keeps_its_message() {
    let mut house = House::within(Limits {
        publish_wait_max: Duration::from_secs(20),
        ..small(Overflow::Reject)
    });
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..SMALL);
    let publisher = house.join(Connect {
        keep_alive_secs: 4,
        ..client(V311, "publisher")
    });
    for number in 1..=8 {
        assert_eq!(acts(house.publish(publisher, message1(number, "t", "late"))), []);
    }
    // Behind the first there is room for eight more, and then it is not read any more; nor has it to be heard.
    let outputs = house.publish(publisher, message1(9, "t", "late"));
    assert_eq!(outputs, [Output::Pause { link: publisher }]);
    assert_eq!(house.wait(Duration::from_secs(19)), []);
    let outputs = house.wait(Duration::from_secs(1));
    let reason = DetachReason::Refused(Refusal::NoRoom);
    assert!(
        events(&outputs).iter().any(|event| {
            matches!(event, Event::ClientDisconnected { reason: why, .. } if *why == reason)
        })
    );
    assert_eq!(acts(outputs), [close(publisher)]);
    assert_eq!(
        (house.stats().publishes_held, house.stats().publishers_given_up),
        (1, 1)
    );
    assert_eq!(
        drained(&mut house, "reader"),
        texts(0..SMALL),
        "none of it was taken"
    );
}

#[test]
fn a_client_that_waits_for_room_in_its_own_queue_makes_it_itself() {
    let mut house = House::within(Limits {
        inflight_max: 1,
        ..small(Overflow::Reject)
    });
    let link = house.join(resuming(V311, "both"));
    house.subscribe(link, "t", QoS::AtLeastOnce);
    fill(&mut house, "t", 0..SMALL + 1);
    assert_eq!(acts(house.publish(link, message1(1, "t", "its own"))), []);
    let outputs = house.receive(link, puback(1));
    assert_eq!(payloads(&outputs, link), ["1"]);
    assert!(sent(&outputs, link).contains(&&puback(1)), "{outputs:?}");
}

#[test]
fn what_came_behind_a_message_that_waited_is_taken_when_it_has_found_room() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..SMALL);
    let publisher = house.join(client(V311, "publisher"));
    house.publish(publisher, message1(1, "t", "waits"));
    for number in 2..=9 {
        house.publish(publisher, message1(number, "elsewhere", "behind"));
    }
    let (_, outputs) = house.connect(resuming(V5, "reader"));
    let acknowledged: Vec<Packet> = (1..=9).map(puback).collect();
    assert_eq!(sent(&outputs, publisher), acknowledged.iter().collect::<Vec<_>>());
    let resumed = Output::Resume { link: publisher };
    assert_eq!(outputs.iter().filter(|output| **output == resumed).count(), 1);
    assert_eq!(
        house.stats().packets_received,
        house.stats().messages_received + 4
    );
}

#[test]
fn who_goes_while_its_message_waits_takes_it_back() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..SMALL);
    for goodbye in [true, false] {
        let publisher = house.join(client(V311, "publisher"));
        house.publish(publisher, message1(1, "t", "taken back"));
        match goodbye {
            true => house.receive(publisher, disconnect(ReasonCode::Success)),
            false => house.close(publisher),
        };
    }
    assert_eq!(drained(&mut house, "reader"), texts(0..SMALL));
    assert_eq!(house.stats().publishers_given_up, 0);
}

#[test]
fn wills_and_messages_of_the_gateway_go_to_those_who_have_room_and_are_counted_for_the_others() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "full", "t");
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtMostOnce);
    fill(&mut house, "t", 0..SMALL);
    let outputs = house.step(own("t", "status", QoS::AtLeastOnce, false));
    assert_eq!(payloads(&outputs, reader), ["status"]);
    let mut connect = client(V5, "dying");
    connect.will = Some(tidegate::mqtt::Will {
        qos: QoS::AtLeastOnce,
        ..will("t", "gone")
    });
    let dying = house.join(connect);
    let outputs = house.close(dying);
    assert_eq!(payloads(&outputs, reader), ["gone"]);
    assert_eq!(house.stats().dropped_queue_full, 2);
    assert_eq!(drained(&mut house, "full"), texts(0..SMALL));
}

#[test]
fn messages_at_qos_0_ask_nobody_for_room() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "full", "t");
    fill(&mut house, "t", 0..SMALL);
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtMostOnce);
    let publisher = house.join(client(V311, "publisher"));
    let outputs = house.publish(publisher, message("t", "now"));
    assert_eq!(payloads(&outputs, reader), ["now"]);
    assert_eq!(house.stats().publishes_held, 0);
    // And who gets a message at QoS 0 is no reason to refuse it.
    let light = house.join(client(V5, "light"));
    house.subscribe(light, "light", QoS::AtMostOnce);
    let outputs = house.publish(publisher, message1(1, "light", "now"));
    assert_eq!(sent(&outputs, publisher), [&puback(1)]);
}

#[test]
fn what_was_promised_makes_no_room_for_what_may_be_dropped() {
    let rules = [for_topics("alarm/#", Overflow::Reject)];
    let mut house = ruled(small(Overflow::DropOldest), &rules);
    absent(&mut house, "reader", "#");
    fill(&mut house, "alarm/fire", 0..4);
    fill(&mut house, "value", 100..130);
    fill(&mut house, "alarm/fire", 4..6);
    // The alarms found the queue full: of the gateway's own messages nobody can be told.
    assert_eq!(house.stats().dropped_queue_full, 30 - 12 + 2);
    let mut expected = texts(0..4);
    expected.extend(texts(118..130));
    assert_eq!(drained(&mut house, "reader"), expected);

    fill(&mut house, "alarm/fire", 0..SMALL);
    fill(&mut house, "value", 0..1);
    assert_eq!(drained(&mut house, "reader"), texts(0..SMALL));
}

#[test]
fn of_a_shared_subscription_whoever_has_room_is_asked_before_the_publisher_is_refused() {
    for overflow in [Overflow::Reject, Overflow::DropOldest, Overflow::Disconnect] {
        let mut house = House::within(small(overflow));
        absent(&mut house, "one", "$share/g/t");
        absent(&mut house, "two", "$share/g/t");
        absent(&mut house, "one", "own");
        fill(&mut house, "own", 0..SMALL);
        let publisher = house.join(client(V5, "publisher"));
        for number in 0..SMALL {
            let outputs = house.publish(publisher, message1(1, "t", &number.to_string()));
            assert_eq!(outputs, [send(publisher, puback(1))], "{overflow:?}");
        }
        assert_eq!(house.stats().dropped(), 0);
        if overflow == Overflow::Reject {
            let outputs = house.publish(publisher, message1(1, "t", "one too many"));
            let told = puback_with(1, ReasonCode::QuotaExceeded);
            assert_eq!(sent(&outputs, publisher), [&told]);
        }
        assert_eq!(drained(&mut house, "two"), texts(0..SMALL));
        assert_eq!(drained(&mut house, "one"), texts(0..SMALL));
    }
}

#[test]
fn a_reader_whose_queue_is_full_goes_with_its_session_where_it_is_to_be_disconnected() {
    let rules = [QueueRule {
        overflow: Some(Overflow::Disconnect),
        ..for_clients("slow-*")
    }];
    let limits = Limits {
        inflight_max: 1,
        ..small(Overflow::DropOldest)
    };
    for version in [V5, V311] {
        let mut house = ruled(limits.clone(), &rules);
        let slow = house.join(resuming(version, "slow-1"));
        house.subscribe(slow, "t", QoS::AtLeastOnce);
        absent(&mut house, "slow-2", "t");
        absent(&mut house, "other", "t");
        fill(&mut house, "t", 0..SMALL);
        assert_eq!(house.stats().sessions_overflowed, 0);
        // The one has a message in flight beside those that wait, the other has not.
        fill(&mut house, "t", SMALL..SMALL + 1);
        assert_eq!(
            (house.stats().sessions_overflowed, house.stats().sessions),
            (1, 2)
        );
        let outputs = house.step(own("t", "last", QoS::AtLeastOnce, false));
        let farewell = send(slow, disconnect(ReasonCode::QuotaExceeded));
        let expected = match version {
            V5 => vec![farewell, close(slow)],
            _ => vec![close(slow)],
        };
        assert_eq!(acts(outputs), expected);
        assert_eq!(
            (house.stats().sessions_overflowed, house.stats().sessions),
            (2, 1)
        );
        for name in ["slow-1", "slow-2"] {
            let (link, outputs) = house.connect(resuming(version, name));
            assert!(!connack(&outputs, link).session_present, "it learns of the gap");
        }
    }
}

#[test]
fn what_waits_for_a_reader_that_goes_is_for_the_other_members_of_its_shared_subscription() {
    let rules = [QueueRule {
        overflow: Some(Overflow::Disconnect),
        ..for_clients("slow")
    }];
    let mut house = ruled(small(Overflow::DropNewest), &rules);
    absent(&mut house, "slow", "$share/g/t");
    absent(&mut house, "slow", "own");
    fill(&mut house, "t", 0..SMALL);
    absent(&mut house, "other", "$share/g/t");
    house.step(own("own", "one too many", QoS::AtLeastOnce, false));
    assert_eq!(house.stats().sessions_overflowed, 1);
    assert_eq!(drained(&mut house, "other"), texts(0..SMALL));
}

#[test]
fn what_has_expired_makes_room_before_anything_else_does() {
    for overflow in [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Reject,
        Overflow::Disconnect,
    ] {
        let mut house = House::within(small(overflow));
        absent(&mut house, "reader", "t");
        let publisher = house.join(client(V5, "publisher"));
        for number in 0..SMALL {
            let mut publish = message1(1, "t", &number.to_string());
            if number % 2 == 0 {
                publish.properties = Some(Box::new(PublishProperties {
                    message_expiry_secs: Some(5),
                    ..PublishProperties::default()
                }));
            }
            house.publish(publisher, publish);
        }
        house.wait(Duration::from_secs(5));
        for number in 0..8 {
            let outputs = house.publish(publisher, message1(1, "t", &(100 + number).to_string()));
            assert_eq!(outputs, [send(publisher, puback(1))], "{overflow:?}");
        }
        assert_eq!(
            (house.stats().dropped_expired, house.stats().dropped_queue_full),
            (8, 0)
        );
        let mut expected = texts((1..SMALL).step_by(2));
        expected.extend(texts(100..108));
        assert_eq!(drained(&mut house, "reader"), expected);
    }
}

#[test]
fn messages_at_qos_0_wait_by_option_and_are_not_overtaken() {
    let rules = [QueueRule {
        topics: vec![filter("state/#")],
        qos0: Some(true),
        ..QueueRule::default()
    }];
    for (limits, rules, waits) in [
        (Limits::default(), &rules[..0], false),
        (Limits::default(), &rules[..], true),
        (
            Limits {
                queue_qos0: true,
                ..Limits::default()
            },
            &rules[..0],
            true,
        ),
    ] {
        let mut house = ruled(
            Limits {
                inflight_max: 1,
                ..limits
            },
            rules,
        );
        let link = house.join(resuming(V5, "reader"));
        house.subscribe(link, "state/#", QoS::AtLeastOnce);
        house.close(link);
        for (qos, payload) in [
            (QoS::AtMostOnce, "a"),
            (QoS::AtLeastOnce, "b"),
            (QoS::AtLeastOnce, "c"),
            (QoS::AtMostOnce, "d"),
        ] {
            house.step(own("state/x", payload, qos, false));
        }
        assert_eq!(house.stats().dropped_offline, if waits { 0 } else { 2 });
        let (link, outputs) = house.connect(resuming(V5, "reader"));
        let mut came = payloads(&outputs, link);
        // What comes now finds the window closed; at QoS 0 it goes behind what waits at QoS 0.
        came.extend(payloads(
            &house.step(own("state/x", "e", QoS::AtMostOnce, false)),
            link,
        ));
        came.extend(payloads(&house.receive(link, puback(1)), link));
        came.extend(payloads(&house.receive(link, puback(2)), link));
        came.extend(payloads(
            &house.step(own("state/x", "f", QoS::AtMostOnce, false)),
            link,
        ));
        match waits {
            true => assert_eq!(came, ["a", "b", "c", "d", "e", "f"]),
            false => assert_eq!(came, ["b", "e", "c", "f"]),
        }
        assert_eq!(house.stats().queued_messages, 0);
    }
}

#[test]
fn a_payload_that_waits_for_many_is_held_and_charged_once() {
    let mut house = House::new();
    for number in 0..50 {
        absent(&mut house, &format!("reader-{number}"), "t");
    }
    let before = house.broker.memory_bytes();
    let payload = "x".repeat(10_000);
    house.step(own("t", &payload, QoS::AtLeastOnce, false));
    let of_first = house.broker.memory_bytes() - before;
    // The rings of fifty queues, and one message.
    assert!((10_000..10_000 + 50 * 1000).contains(&of_first), "{of_first}");
    let before = house.broker.memory_bytes();
    house.step(own("t", &payload, QoS::AtLeastOnce, false));
    let of_second = house.broker.memory_bytes() - before;
    assert!((10_000..10_300).contains(&of_second), "{of_second}");
    assert_eq!(house.stats().queued_messages, 100);
    for number in 0..50 {
        assert_eq!(drained(&mut house, &format!("reader-{number}")).len(), 2);
    }
    assert!(house.broker.memory_bytes() < before - 10_000);
}

#[test]
fn a_short_message_that_waits_costs_little_beside_its_own_bytes() {
    const MESSAGES: usize = 1024;
    let mut house = House::new();
    absent(&mut house, "reader", "site/7/value");
    let before = house.broker.memory_bytes();
    for _ in 0..MESSAGES {
        let message = own("site/7/value", &"x".repeat(64), QoS::AtLeastOnce, false);
        house.broker.handle(house.now, message);
    }
    // With the ring, the allocator's headers, the numbers it is stored by and the 76 bytes of topic and payload.
    let each = (house.broker.memory_bytes() - before) / MESSAGES;
    assert!(each <= 212, "{each} bytes a message");
    assert_eq!(drained(&mut house, "reader").len(), MESSAGES);
}

#[test]
fn a_thousand_messages_for_each_of_a_hundred_clients_drain_by_acknowledgements_alone() {
    const CLIENTS: usize = 100;
    const MESSAGES: usize = 1000;
    let mut house = House::new();
    for number in 0..CLIENTS {
        absent(&mut house, &format!("reader-{number}"), "t");
    }
    for number in 0..MESSAGES {
        // Not by `step`, which looks at everything there is each time.
        house
            .broker
            .handle(house.now, own("t", &number.to_string(), QoS::AtLeastOnce, false));
    }
    assert_eq!(house.stats().queued_messages, (CLIENTS * MESSAGES) as u64);
    let mut came = vec![0; CLIENTS];
    let mut unacknowledged = std::collections::VecDeque::new();
    let hear = |house: &mut House, reader: usize, link: LinkId, packet: Packet| {
        house.broker.handle(house.now, Input::Received { link, packet });
        let outputs: Vec<Output> = std::iter::from_fn(|| house.broker.poll_output()).collect();
        let sent = messages(&outputs, link).into_iter();
        sent.map(|publish| (reader, link, publish)).collect::<Vec<_>>()
    };
    for reader in 0..CLIENTS {
        let link = house.arrive();
        let connect = resuming(V5, &format!("reader-{reader}"));
        let sent = hear(&mut house, reader, link, Packet::Connect(Box::new(connect)));
        assert_eq!(sent.len(), 32, "the window is filled at once");
        unacknowledged.extend(sent);
    }
    while let Some((reader, link, publish)) = unacknowledged.pop_front() {
        assert_eq!(publish.payload, came[reader].to_string());
        came[reader] += 1;
        let packet = puback(publish.packet_id.expect("QoS 1").get());
        unacknowledged.extend(hear(&mut house, reader, link, packet));
    }
    assert_eq!(came, [MESSAGES; CLIENTS]);
    assert_eq!((house.stats().queued_messages, house.stats().dropped()), (0, 0));
    house.broker.check_invariants().expect("all adds up");
}

#[test]
fn a_backlog_of_both_qualities_comes_in_order_with_what_is_left_of_its_life() {
    let mut house = House::new();
    let link = house.join(resuming(V5, "reader"));
    house.subscribe(link, "t", QoS::ExactlyOnce);
    house.close(link);
    let publisher = house.join(client(V5, "publisher"));
    for number in 0..1000_usize {
        let publish = match number % 2 {
            0 => message1(1, "t", &number.to_string()),
            _ => message2(2, "t", &number.to_string()),
        };
        let message_expiry_secs = Some(if number % 3 == 0 { 60 } else { 600 });
        let properties = PublishProperties {
            message_expiry_secs,
            ..PublishProperties::default()
        };
        house.publish(
            publisher,
            Publish {
                properties: Some(Box::new(properties)),
                ..publish
            },
        );
        house.receive(publisher, pubrel(2));
    }
    house.wait(Duration::from_secs(100));
    let (link, mut outputs) = house.connect(resuming(V5, "reader"));
    let mut came = Vec::new();
    while !outputs.is_empty() {
        let mut next = Vec::new();
        for packet in sent(&outputs, link) {
            let answer = match packet {
                Packet::Publish(publish) => {
                    assert!(!publish.dup);
                    let left = (publish.properties.as_ref()).and_then(|own| own.message_expiry_secs);
                    assert_eq!(left, Some(500));
                    came.push(String::from_utf8_lossy(&publish.payload).into_owned());
                    let number = publish.packet_id.expect("QoS 1 or 2").get();
                    match publish.qos {
                        QoS::ExactlyOnce => pubrec(number),
                        _ => puback(number),
                    }
                }
                Packet::PubRel(ack) => pubcomp(ack.packet_id.get()),
                _ => continue,
            };
            next.push(answer);
        }
        outputs = next
            .into_iter()
            .flat_map(|answer| house.receive(link, answer))
            .collect();
    }
    assert_eq!(came, texts((0..1000).filter(|number| number % 3 != 0)));
    assert_eq!(house.stats().dropped_expired, 334);
}

#[test]
fn other_rules_hold_for_queues_that_are_there_and_drop_nothing() {
    let mut house = House::within(small(Overflow::DropNewest));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..20);
    let reconfigured = |rules: &[QueueRule]| {
        Input::Reconfigured(Box::new(Reconfiguration {
            hooks: None,
            limits: small(Overflow::DropNewest),
            settings: Settings {
                queue_rules: rules.to_vec(),
                ..Settings::default()
            },
            rights: None,
            listeners: Vec::new(),
            revoked: Vec::new(),
        }))
    };
    house.step(reconfigured(&[QueueRule {
        class: Some(QueueClass::N64),
        ..for_clients("r*")
    }]));
    fill(&mut house, "t", 20..40);
    assert_eq!(house.stats().queued_messages, 36);
    house.step(reconfigured(&[]));
    fill(&mut house, "t", 40..41);
    // The ring that is there stays until it is empty.
    assert_eq!(house.stats().queued_messages, 37);
    let mut expected = texts(0..SMALL);
    expected.extend(texts(20..41));
    assert_eq!(drained(&mut house, "reader"), expected);
    fill(&mut house, "t", 0..20);
    assert_eq!(house.stats().queued_messages, SMALL as u64);
}

#[test]
fn a_message_that_waits_is_tried_again_when_other_rules_hold() {
    let mut house = House::within(small(Overflow::Reject));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..SMALL);
    let publisher = house.join(client(V311, "publisher"));
    house.publish(publisher, message1(1, "t", "patient"));
    let outputs = house.step(Input::Reconfigured(Box::new(Reconfiguration {
        hooks: None,
        limits: small(Overflow::DropOldest),
        settings: Settings::default(),
        rights: None,
        listeners: Vec::new(),
        revoked: Vec::new(),
    })));
    assert_eq!(sent(&outputs, publisher), [&puback(1)]);
    // What was let in under the old rules keeps its place.
    assert_eq!(house.stats().dropped_queue_full, 1);
    assert_eq!(drained(&mut house, "reader"), texts(0..SMALL));
}

/// What a message says of those before it that were lost.
fn told_losses(outputs: &[Output], to: LinkId) -> Vec<Option<String>> {
    let messages = messages(outputs, to);
    let told = messages.iter().map(|publish| {
        let properties = publish.properties.as_ref()?;
        let (_, count) = (properties.user_properties.iter()).find(|(name, _)| name.as_str() == "lost")?;
        Some(count.to_string())
    });
    told.collect()
}

fn telling(limits: Limits) -> House {
    House::within(limits).decided(Settings {
        loss_property: Some(text("lost")),
        ..Settings::default()
    })
}

#[test]
fn the_first_message_after_a_loss_tells_a_5_0_client_how_many_were_lost() {
    let mut house = telling(small(Overflow::DropOldest));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..20);
    house.step(own("t", "not kept", QoS::AtMostOnce, false));
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    let told = told_losses(&outputs, link);
    assert_eq!(told[0].as_deref(), Some("5"));
    assert!(told.len() == SMALL && told[1..].iter().all(Option::is_none));
    // Once told it is over, until something is lost again.
    house.close(link);
    house.step(own("t", "not kept", QoS::AtMostOnce, false));
    let (link, _) = house.connect(resuming(V5, "reader"));
    let outputs = house.step(own("t", "here", QoS::AtMostOnce, false));
    assert_eq!(told_losses(&outputs, link), [Some("1".to_owned())]);
    let outputs = house.step(own("t", "here", QoS::AtMostOnce, false));
    assert_eq!(told_losses(&outputs, link), [None]);
}

#[test]
fn losses_are_told_in_fan_outs_too_and_to_nobody_who_lost_nothing() {
    let mut house = telling(Limits {
        unsent_bytes_max: 4096,
        ..Limits::default()
    });
    let slow = house.join(client(V5, "slow"));
    let quick = house.join(client(V5, "quick"));
    for link in [slow, quick] {
        house.subscribe(link, "t", QoS::AtMostOnce);
    }
    let long = "x".repeat(3000);
    for _ in 0..5 {
        house.step(own("t", &long, QoS::AtMostOnce, false));
        house.flush(quick);
    }
    house.flush(slow);
    let outputs = house.step(own("t", "more", QoS::AtMostOnce, false));
    assert_eq!(told_losses(&outputs, slow), [Some("3".to_owned())]);
    assert_eq!(told_losses(&outputs, quick), [None]);
    let outputs = house.step(own("t", "more", QoS::AtMostOnce, false));
    assert_eq!(told_losses(&outputs, slow), [None]);
}

#[test]
fn losses_are_not_told_where_the_version_or_the_packet_has_no_room_for_it() {
    let mut house = telling(small(Overflow::DropOldest));
    let narrow = Connect {
        properties: ConnectProperties {
            packet_bytes_max: Some(100),
            session_expiry_secs: Some(3600),
            ..ConnectProperties::default()
        },
        ..resuming(V5, "reader")
    };
    for connect in [resuming(V311, "reader"), narrow] {
        let link = house.join(connect.clone());
        house.subscribe(link, "t", QoS::AtLeastOnce);
        house.close(link);
        // Four bytes less than what the narrow one takes, and the property has eleven.
        for _ in 0..20 {
            house.step(own("t", &"x".repeat(88), QoS::AtLeastOnce, false));
        }
        let (link, outputs) = house.connect(connect);
        let came = drain(&mut house, link, outputs);
        assert_eq!(came.len(), SMALL);
        assert!(came.iter().all(|publish| publish.properties.is_none()));
        let goodbye = Packet::Disconnect(Box::default());
        house.receive(link, goodbye);
        house.join(client(V5, "reader"));
    }
    // Nor where nobody asked for it.
    let mut house = House::within(small(Overflow::DropOldest));
    absent(&mut house, "reader", "t");
    fill(&mut house, "t", 0..20);
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    assert!(
        messages(&outputs, link)
            .iter()
            .all(|publish| publish.properties.is_none())
    );
}
