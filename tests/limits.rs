//! Bounds: what happens to those who ask for more, that everything dropped is counted, and that nobody else
//! notices.

mod conversation;

use conversation::*;
use tidegate::broker::{DetachReason, Event, Input, Limits, LinkId, Output, Overflow, QueueClass, Refusal};
use tidegate::mqtt::{
    Connect, ConnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscribeProperties,
};

/// An absent client that waits for `t`, in a house within `limits`.
fn absent_reader(limits: Limits) -> House {
    let mut house = House::within(limits);
    let reader = house.join(resuming(V5, "reader"));
    house.subscribe(reader, "t/#", QoS::AtLeastOnce);
    house.close(reader);
    house
}

fn returned(house: &mut House) -> Vec<String> {
    let mut connect = resuming(V5, "reader");
    connect.properties.receive_maximum = Some(u16::MAX);
    let (reader, outputs) = house.connect(connect);
    payloads(&outputs, reader)
}

const fn millis(millis: u64) -> std::time::Duration {
    std::time::Duration::from_millis(millis)
}

fn limit_events(outputs: &[tidegate::broker::Output]) -> Vec<&'static str> {
    (events(outputs).iter())
        .filter_map(|event| {
            if let Event::LimitReached { limit, .. } = event {
                Some(*limit)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_full_queue_drops_the_oldest_or_the_newest_as_the_limits_say() {
    let small = Limits {
        queue_class: QueueClass::N16,
        ..Limits::default()
    };
    for (overflow, expected) in [(Overflow::DropOldest, 4..20), (Overflow::DropNewest, 0..16)] {
        let mut house = absent_reader(Limits {
            queue_overflow: overflow,
            ..small.clone()
        });
        let mut told = Vec::new();
        for number in 0..20 {
            told.extend(limit_events(&house.step(own(
                "t",
                &number.to_string(),
                QoS::AtLeastOnce,
                false,
            ))));
        }
        assert_eq!(
            (house.stats().queued_messages, house.stats().dropped_queue_full),
            (16, 4)
        );
        assert_eq!(told, ["queue_class"]);
        assert_eq!(
            returned(&mut house),
            expected.map(|number: i32| number.to_string()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let mut house = absent_reader(Limits {
        queue_bytes_max: 100,
        ..Limits::default()
    });
    for payload in ["a".repeat(59), "b".repeat(39), "c".repeat(39)] {
        house.step(own("t", &payload, QoS::AtLeastOnce, false));
    }
    assert_eq!(
        (house.stats().queued_messages, house.stats().queued_bytes),
        (2, 80)
    );
    house.step(own("t", &"d".repeat(100), QoS::AtLeastOnce, false));
    assert_eq!(
        (house.stats().queued_messages, house.stats().queued_bytes),
        (0, 0)
    );
    assert_eq!(house.stats().dropped_queue_full, 4);
}

#[test]
fn what_is_unacknowledged_counts_like_what_waits() {
    let mut house = House::within(Limits {
        queue_bytes_max: 100,
        ..Limits::default()
    });
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    for payload in ["a".repeat(59), "b".repeat(59)] {
        house.step(own("t", &payload, QoS::AtLeastOnce, false));
    }
    assert_eq!(
        (house.stats().inflight_messages, house.stats().dropped_queue_full),
        (1, 1)
    );
    house.receive(reader, puback(1));
    let outputs = house.step(own("t", &"b".repeat(59), QoS::AtLeastOnce, false));
    assert_eq!(messages(&outputs, reader).len(), 1);
}

#[test]
fn all_queues_together_are_bounded() {
    let mut house = House::within(Limits {
        queued_bytes_total_max: 100,
        ..Limits::default()
    });
    for number in 0..3 {
        let link = house.join(resuming(V5, &format!("reader-{number}")));
        house.subscribe(link, "t", QoS::AtLeastOnce);
        house.close(link);
    }
    let outputs = house.step(own("t", &"x".repeat(39), QoS::AtLeastOnce, false));
    assert_eq!(limit_events(&outputs), ["queued_bytes_total_max"]);
    assert_eq!(
        (house.stats().queued_messages, house.stats().queued_bytes),
        (2, 80)
    );
    let outputs = house.step(own("t", &"y".repeat(39), QoS::AtLeastOnce, false));
    assert_eq!(limit_events(&outputs), [] as [&str; 0]);
    assert_eq!(
        (house.stats().queued_bytes, house.stats().dropped_queue_full),
        (80, 4)
    );
}

/// A reader of `t` that has so much on its way that it is stalled.
fn stalled_reader(qos: QoS) -> (House, LinkId) {
    let mut house = House::within(Limits {
        unsent_bytes_max: 1000,
        ..Limits::default()
    });
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", qos);
    let outputs = house.step(own("t", &"x".repeat(1000), QoS::AtMostOnce, false));
    assert_eq!(messages(&outputs, reader).len(), 1);
    (house, reader)
}

#[test]
fn a_client_that_reads_too_slowly_loses_qos_0_and_is_told_of_once() {
    let (mut house, reader) = stalled_reader(QoS::AtMostOnce);
    let witness = house.join(client(V5, "witness"));
    house.subscribe(witness, "t", QoS::AtMostOnce);
    let mut told = Vec::new();
    for _ in 0..10 {
        let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
        told.extend(limit_events(&outputs));
        assert_eq!(
            (
                messages(&outputs, reader).len(),
                messages(&outputs, witness).len()
            ),
            (0, 1)
        );
    }
    assert_eq!((house.stats().dropped_slow, told), (10, vec!["unsent_bytes_max"]));
    assert_eq!(
        house.receive(reader, Packet::PingReq),
        [send(reader, Packet::PingResp)]
    );
    house.flush(reader);
    assert_eq!(
        payloads(&house.step(own("t", "y", QoS::AtMostOnce, false)), reader),
        ["y"]
    );
}

#[test]
fn a_limit_that_bites_again_after_a_while_is_told_again() {
    let (mut house, _) = stalled_reader(QoS::AtMostOnce);
    let mut told = 0;
    for _ in 0..40 {
        told += limit_events(&house.step(own("t", "x", QoS::AtMostOnce, false))).len();
        house.wait(secs(1));
    }
    house.wait(secs(9));
    told += limit_events(&house.step(own("t", "x", QoS::AtMostOnce, false))).len();
    assert_eq!((told, house.stats().dropped_slow), (2, 41));
}

#[test]
fn a_client_that_reads_too_slowly_finds_qos_1_waiting_in_order() {
    let (mut house, reader) = stalled_reader(QoS::AtLeastOnce);
    for payload in ["1", "2", "3"] {
        assert_eq!(house.step(own("t", payload, QoS::AtLeastOnce, false)), []);
    }
    assert_eq!(house.stats().queued_messages, 3);
    assert_eq!(payloads(&house.flush(reader), reader), ["1", "2", "3"]);
}

#[test]
fn a_client_that_publishes_and_never_reads_its_acknowledgements_is_sent_away() {
    let mut house = House::within(Limits {
        unsent_bytes_max: 100,
        ..Limits::default()
    });
    let writer = house.join(client(V5, "writer"));
    let mut acked = 0;
    let last = loop {
        let outputs = acts(house.publish(writer, message1(1, "t", "x")));
        if outputs.len() > 1 {
            break outputs;
        }
        acked += 1;
        assert!(acked < 1000, "never sent away");
    };
    assert_eq!(
        last[1..],
        [send(writer, disconnect(ReasonCode::QuotaExceeded)), close(writer)]
    );
    let writer = house.join(client(V5, "writer"));
    for _ in 0..1000 {
        house.publish(writer, message1(1, "t", "x"));
        house.flush(writer);
    }
    assert_eq!(house.stats().clients_connected, 1);
}

#[test]
fn a_client_that_publishes_too_fast_is_not_read_until_its_rate_allows_it_and_loses_nothing() {
    for version in [V311, V5] {
        let mut house = House::within(Limits {
            publish_rate_max: 10,
            ..Limits::default()
        });
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "t", QoS::AtMostOnce);
        let writer = house.join(client(version, "writer"));
        for _ in 0..10 {
            assert_eq!(acts(house.publish(writer, message("t", "x"))).len(), 1);
        }
        let outputs = house.publish(writer, message("t", "x"));
        assert_eq!(limit_events(&outputs), ["publish_rate_max"]);
        assert!(outputs.contains(&Output::Pause { link: writer }));
        assert_eq!(payloads(&outputs, reader), ["x"]);
        // What had been read before it was paused is taken, and counts.
        for _ in 0..25 {
            let outputs = house.publish(writer, message("t", "x"));
            assert_eq!(acts(outputs).len(), 1, "one message, and no second pause");
        }
        assert_eq!(house.stats().publishers_paused, 1);
        assert_eq!(house.wait(millis(2_900)), []);
        assert_eq!(house.wait(millis(200)), [Output::Resume { link: writer }]);
        // Of 36 messages three seconds have paid for 30.
        for _ in 0..4 {
            assert_eq!(acts(house.publish(writer, message("t", "x"))).len(), 1);
        }
        let outputs = house.publish(writer, message("t", "x"));
        assert!(outputs.contains(&Output::Pause { link: writer }));
        house.close(writer);
        assert_eq!(house.wait(secs(10)), []);
    }
}

#[test]
fn a_client_is_bounded_in_bytes_a_second_too_and_in_topic_filters() {
    let mut house = House::within(Limits {
        publish_rate_max: 10,
        publish_bytes_rate_max: 1000,
        ..Limits::default()
    });
    let writer = house.join(client(V311, "writer"));
    assert_eq!(house.publish(writer, message("t", &"x".repeat(999))), []);
    let outputs = house.publish(writer, message("t", ""));
    assert_eq!(acts(outputs), [Output::Pause { link: writer }]);
    let filters = |count: usize| -> Vec<_> {
        (0..count)
            .map(|number| subscription(&number.to_string(), QoS::AtMostOnce))
            .collect()
    };
    let reader = house.join(client(V311, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&filters(10)));
    assert!(!outputs.contains(&Output::Pause { link: reader }));
    let outputs = house.receive(reader, unsubscribe_packet(&["1"]));
    assert!(outputs.contains(&Output::Pause { link: reader }));
}

#[test]
fn a_client_that_is_not_read_cannot_be_too_silent() {
    let mut house = House::within(Limits {
        publish_rate_max: 1,
        ..Limits::default()
    });
    let writer = house.join(Connect {
        keep_alive_secs: 1,
        ..client(V5, "writer")
    });
    for _ in 0..8 {
        house.publish(writer, message("t", "x"));
    }
    assert_eq!(house.wait(millis(8_100)), [Output::Resume { link: writer }]);
    assert_eq!(house.wait(millis(1_000)), []);
    house.receive(writer, Packet::PingReq);
    assert_eq!(house.wait(millis(1_400)), []);
    let outputs = house.wait(millis(200));
    assert!(outputs.contains(&close(writer)), "now it has been silent");
}

#[test]
fn no_client_and_no_user_takes_all_topic_filters() {
    let mut house = House::within(Limits {
        subscriptions_per_client_max: 3,
        subscriptions_per_user_max: 5,
        subscriptions_max: 7,
        ..Limits::default()
    });
    let join = |house: &mut House, user: &str, id: &str| house.join_as(user, client(V5, id));
    let (one, two) = (join(&mut house, "eve", "one"), join(&mut house, "eve", "two"));
    let subscribe = |house: &mut House, link: LinkId, name: &str| {
        let outputs = house.receive(link, subscribe_packet(&[subscription(name, QoS::AtMostOnce)]));
        (suback(&outputs, link)[0], limit_events(&outputs))
    };
    for name in ["a", "b", "c"] {
        assert_eq!(subscribe(&mut house, one, name), (ReasonCode::Success, vec![]));
    }
    let full = (ReasonCode::QuotaExceeded, vec!["subscriptions_per_client_max"]);
    assert_eq!(subscribe(&mut house, one, "d"), full);
    assert_eq!(
        subscribe(&mut house, one, "c").0,
        ReasonCode::Success,
        "it has that one"
    );
    for name in ["a", "b"] {
        assert_eq!(subscribe(&mut house, two, name).0, ReasonCode::Success);
    }
    let full = (ReasonCode::QuotaExceeded, vec!["subscriptions_per_user_max"]);
    assert_eq!(subscribe(&mut house, two, "c"), full);
    let honest = join(&mut house, "honest", "honest");
    for name in ["a", "b"] {
        assert_eq!(subscribe(&mut house, honest, name).0, ReasonCode::Success);
    }
    let full = (ReasonCode::QuotaExceeded, vec!["subscriptions_max"]);
    assert_eq!(subscribe(&mut house, honest, "c"), full);
    assert_eq!(house.stats().subscriptions_refused, 3);
    // Room that is given back is there for others, and 3.1.1 knows one failure only.
    house.receive(one, unsubscribe_packet(&["a"]));
    assert_eq!(subscribe(&mut house, two, "c").0, ReasonCode::Success);
    let old = house.join_as("old", client(V311, "old"));
    assert_eq!(subscribe(&mut house, old, "c").0, ReasonCode::UnspecifiedError);
}

#[test]
fn sessions_under_ever_new_names_displace_only_those_of_their_own_user() {
    let mut house = House::within(Limits {
        sessions_per_user_max: 3,
        ..Limits::default()
    });
    let honest = house.join_as("honest", resuming(V5, "honest"));
    house.close(honest);
    let stays = house.join_as("eve", resuming(V5, "stays"));
    for number in 0..50 {
        let link = house.join_as("eve", resuming(V5, &format!("eve{number}")));
        house.close(link);
    }
    assert_eq!(
        (house.stats().sessions, house.stats().sessions_displaced),
        (4, 48)
    );
    for (name, present) in [("eve49", true), ("eve47", false)] {
        let (link, outputs) = house.connect_as("eve", resuming(V5, name));
        assert_eq!(connack(&outputs, link).session_present, present, "{name}");
        house.close(link);
    }
    let (_, outputs) = house.connect_as("honest", resuming(V5, "honest"));
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Send { packet: Packet::ConnAck(connack), .. } if connack.session_present
    )));
    // Who is connected displaces nobody and is not displaced.
    for name in ["two", "three"] {
        house.join_as("eve", client(V5, name));
    }
    let (link, outputs) = house.connect_as("eve", client(V5, "four"));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    assert_eq!(
        limit_events(&outputs),
        [] as [&str; 0],
        "told at the first one displaced"
    );
    assert_eq!(house.stats().sessions_refused, 1);
    assert_eq!(
        house.receive(stays, Packet::PingReq),
        [send(stays, Packet::PingResp)]
    );
}

#[test]
fn one_user_has_a_share_of_what_is_retained_and_leaves_the_rest_to_others() {
    let mut house = House::within(Limits {
        retained_max: 6,
        retained_per_user_max: 3,
        retained_bytes_per_user_max: 60,
        ..Limits::default()
    });
    let [eve, eves_other] = ["one", "two"].map(|id| house.join_as("eve", client(V5, id)));
    let honest = house.join_as("honest", client(V5, "honest"));
    let mut retain = |link, number, topic: &str, payload: &str| {
        let outputs = house.publish(link, retained(message1(number, topic, payload)));
        let limits: Vec<_> = limit_events(&outputs);
        let [Packet::PubAck(ack)] = sent(&outputs, link)[..] else {
            panic!("expected one answer: {outputs:?}");
        };
        (ack.reason, limits)
    };
    let kept = (ReasonCode::NoMatchingSubscribers, vec![]);
    for (number, link) in [(1, eve), (2, eves_other), (3, eve)] {
        assert_eq!(retain(link, number, &format!("eve/{number}"), "x"), kept);
    }
    let full = (ReasonCode::QuotaExceeded, vec!["retained_per_user_max"]);
    assert_eq!(retain(eves_other, 4, "eve/4", "x"), full);
    // Her own she may replace, within her bytes, and those who come after her have their room.
    assert_eq!(retain(eve, 5, "eve/1", "y"), kept);
    let full = (ReasonCode::QuotaExceeded, vec!["retained_bytes_per_user_max"]);
    assert_eq!(retain(eve, 6, "eve/1", &"x".repeat(60)), full);
    assert_eq!(retain(eve, 7, "eve/4", "x"), kept);
    for number in 8..11 {
        assert_eq!(retain(honest, number, &format!("honest/{number}"), "x"), kept);
    }
    // A topic counts for whoever wrote it last.
    assert_eq!(retain(eve, 11, "honest/8", ""), kept);
    assert_eq!(retain(honest, 12, "eve/2", "x"), kept);
    assert_eq!(retain(eve, 13, "eve/5", "x"), kept);
    assert_eq!(
        (
            house.stats().retained_messages,
            house.stats().dropped_retained_full
        ),
        (6, 2)
    );
}

#[test]
fn what_the_gateway_itself_retains_counts_for_no_user() {
    let mut house = House::within(Limits {
        retained_per_user_max: 0,
        retained_bytes_per_user_max: 0,
        ..Limits::default()
    });
    house.step(own("t", "x", QoS::AtMostOnce, true));
    assert_eq!(house.stats().retained_messages, 1);
}

#[test]
fn those_without_a_name_count_by_the_address_they_came_from() {
    let mut house = House::within(Limits {
        sessions_per_user_max: 2,
        ..Limits::default()
    });
    let mut outcome = |address: &str, id: &str| {
        let (link, outputs) = house.join_from(address, client(V5, id));
        connack(&outputs, link).reason
    };
    for id in ["a", "b"] {
        assert_eq!(outcome("192.0.2.1", id), ReasonCode::Success);
    }
    assert_eq!(outcome("192.0.2.1", "c"), ReasonCode::QuotaExceeded);
    assert_eq!(
        outcome("::ffff:192.0.2.1", "c"),
        ReasonCode::QuotaExceeded,
        "the same"
    );
    assert_eq!(outcome("192.0.2.2", "c"), ReasonCode::Success);
    // A network of IPv6 is one place: it has more addresses than there is room for sessions.
    for (address, id) in [("2001:db8::1", "d"), ("2001:db8::2", "e")] {
        assert_eq!(outcome(address, id), ReasonCode::Success);
    }
    assert_eq!(outcome("2001:db8::3", "f"), ReasonCode::QuotaExceeded);
    assert_eq!(outcome("2001:db8:0:1::1", "f"), ReasonCode::Success);
}

#[test]
fn those_without_a_name_have_no_more_sessions_by_beginning_them_at_another_address() {
    let mut house = House::within(Limits {
        sessions_per_user_max: 2,
        ..Limits::default()
    });
    for id in ["a", "b"] {
        house.join_from("192.0.2.1", client(V5, id));
    }
    let (roaming, _) = house.join_from("192.0.2.2", resuming(V5, "c"));
    house.close(roaming);
    let mut outcome = |connect| {
        let (link, outputs) = house.join_from("192.0.2.1", connect);
        connack(&outputs, link)
    };
    assert_eq!(outcome(client(V5, "c")).reason, ReasonCode::QuotaExceeded);
    // What is there already counts where it began.
    assert!(outcome(resuming(V5, "c")).session_present);
    assert_eq!(outcome(client(V5, "a")).reason, ReasonCode::Success);
    assert_eq!(outcome(client(V5, "c")).reason, ReasonCode::QuotaExceeded);
    // Of one that would end with its connection, another would begin.
    house.join_from("192.0.2.2", client(V5, "d"));
    let (link, outputs) = house.join_from("192.0.2.1", resuming(V5, "d"));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
}

#[test]
fn wills_are_bounded_one_by_one_and_all_together() {
    let mut house = House::within(Limits {
        will_bytes_max: 100,
        wills_bytes_total_max: 250,
        ..Limits::default()
    });
    let bequest = |version, id: &str, bytes: usize| Connect {
        will: Some(will("will", &"x".repeat(bytes))),
        ..client(version, id)
    };
    let (link, outputs) = house.connect(bequest(V5, "large", 97));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    let one = house.join(bequest(V5, "one", 80));
    house.join(bequest(V5, "two", 80));
    house.join(bequest(V5, "three", 70));
    let (link, outputs) = house.connect(bequest(V5, "four", 80));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    assert_eq!(limit_events(&outputs), ["wills_bytes_total_max"]);
    let (link, outputs) = house.connect(bequest(V311, "four", 80));
    assert!(acts(outputs).contains(&close(link)));
    // Whoever comes back brings a new will for the old one.
    let one_again = house.join(bequest(V5, "one", 80));
    assert_ne!(one, one_again);
    assert_eq!(house.stats().wills_bytes, 84 + 84 + 74);
    house.close(one_again);
    house.join(bequest(V5, "four", 80));
}

#[test]
fn user_properties_are_bounded_in_bytes_wherever_they_stand() {
    let mut house = House::within(Limits {
        user_properties_bytes_max: 100,
        ..Limits::default()
    });
    let large = || vec![(text("name"), text(&"x".repeat(97)))];
    let connect = Connect {
        properties: ConnectProperties {
            user_properties: large(),
            ..ConnectProperties::default()
        },
        ..client(V5, "writer")
    };
    let (link, outputs) = house.connect(connect);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    let mut bequest = will("will", "x");
    bequest.properties.publish.user_properties = large();
    let (link, outputs) = house.connect(Connect {
        will: Some(bequest),
        ..client(V5, "writer")
    });
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    let writer = house.join(client(V5, "writer"));
    let crowded = Publish {
        properties: Some(Box::new(PublishProperties {
            user_properties: large(),
            ..PublishProperties::default()
        })),
        ..message1(1, "t", "x")
    };
    let outputs = house.publish(writer, crowded);
    assert_eq!(outputs, [send(writer, puback_with(1, ReasonCode::QuotaExceeded))]);
    let subscribe = Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(1),
        subscriptions: [subscription("t", QoS::AtMostOnce)].into_iter().collect(),
        properties: SubscribeProperties {
            user_properties: large(),
            ..SubscribeProperties::default()
        },
    }));
    let outputs = house.receive(writer, subscribe);
    assert_eq!(suback(&outputs, writer), [ReasonCode::QuotaExceeded]);
}

#[test]
fn a_message_that_cannot_be_retained_is_passed_on_and_its_publisher_told_where_there_is_a_word() {
    let mut house = House::within(Limits {
        retained_max: 1,
        ..Limits::default()
    });
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let writer = house.join(client(V5, "writer"));
    let old = house.join(client(V311, "old"));
    house.publish(writer, retained(message("a", "x")));
    let outputs = house.publish(writer, retained(message1(1, "b", "y")));
    assert_eq!(payloads(&outputs, reader), ["y"]);
    assert_eq!(
        sent(&outputs, writer),
        [&puback_with(1, ReasonCode::QuotaExceeded)]
    );
    let outputs = house.publish(writer, retained(message2(2, "b", "y")));
    assert_eq!(
        sent(&outputs, writer),
        [&pubrec_with(2, ReasonCode::QuotaExceeded)]
    );
    // At QoS 2 that means nobody got it: its publisher may send it again as another, and nobody gets it twice.
    assert_eq!(payloads(&outputs, reader), [""; 0]);
    let outputs = house.publish(old, retained(message1(1, "b", "y")));
    assert_eq!(sent(&outputs, old), [&puback(1)]);
    let outputs = house.publish(writer, message1(3, "b", "y"));
    assert_eq!(
        sent(&outputs, writer),
        [&puback(3)],
        "what is not to be retained is not refused"
    );
    assert_eq!(house.stats().dropped_retained_full, 3);
}

#[test]
fn all_packet_identifiers_may_be_in_flight_and_none_is_given_twice() {
    let mut house = House::within(Limits {
        inflight_max: u16::MAX,
        queue_bytes_max: 100 << 20,
        queued_bytes_total_max: 100 << 20,
        unsent_bytes_max: usize::MAX / 4,
        ..Limits::default()
    });
    // Without the walk over all state after each step, which costs as much as there is.
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..u32::from(u16::MAX) + 10 {
        house
            .broker
            .handle(house.now, own("t", "", QoS::AtLeastOnce, false));
        while let Some(output) = house.broker.poll_output() {
            if let Output::Send {
                packet: Packet::Publish(publish),
                ..
            } = output
            {
                assert!(ids.insert(publish.packet_id), "{:?} is in use", publish.packet_id);
            }
        }
    }
    assert_eq!(ids.len(), usize::from(u16::MAX));
    assert_eq!(house.stats().queued_messages, 10);
    let outputs = house.receive(reader, puback(40_000));
    assert_eq!(
        messages(&outputs, reader)[0].packet_id,
        Some(id(40_000)),
        "the only one that is free"
    );
    house.close(reader);
    assert_eq!(house.stats().queued_bytes, 0);
}

#[test]
fn a_client_within_its_rate_may_publish_for_ever() {
    let mut house = House::within(Limits {
        publish_rate_max: 10,
        ..Limits::default()
    });
    let writer = house.join(Connect {
        keep_alive_secs: 0,
        ..client(V311, "writer")
    });
    for _ in 0..1000 {
        assert_eq!(house.publish(writer, message("t", "x")), []);
        house.wait(std::time::Duration::from_millis(100));
    }
}

#[test]
fn more_unfinished_qos_2_than_receive_maximum_ends_the_connection() {
    let mut house = House::within(Limits {
        receive_maximum: 3,
        ..Limits::default()
    });
    let writer = house.join(client(V5, "writer"));
    for number in 1..=3 {
        house.publish(writer, message2(number, "t", "x"));
    }
    assert_eq!(
        house.publish(writer, repeated(message2(1, "t", "x"))),
        [send(writer, pubrec(1))]
    );
    let word = disconnect(ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(
        acts(house.publish(writer, message2(4, "t", "x"))),
        [send(writer, word), close(writer)]
    );
}

#[test]
fn a_message_at_qos_1_beyond_the_receive_maximum_ends_the_connection_too() {
    let mut house = House::within(Limits {
        receive_maximum: 2,
        ..Limits::default()
    });
    let writer = house.join(client(V5, "writer"));
    for number in 1..=2 {
        house.publish(writer, message2(number, "t", "x"));
    }
    assert_eq!(house.publish(writer, message("t", "qos 0 does not count")), []);
    let word = disconnect(ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(
        acts(house.publish(writer, message1(3, "t", "x"))),
        [send(writer, word), close(writer)]
    );
}

#[test]
fn what_an_earlier_connection_left_unfinished_does_not_count_in_the_receive_maximum() {
    let mut house = House::within(Limits {
        receive_maximum: 2,
        ..Limits::default()
    });
    let mut writer = house.join(resuming(V5, "writer"));
    for connection in 0..3 {
        for number in 1..=2 {
            let number = 2 * connection + number;
            let received = pubrec_with(number, ReasonCode::NoMatchingSubscribers);
            assert_eq!(
                house.publish(writer, message2(number, "t", "x")),
                [send(writer, received)]
            );
        }
        house.close(writer);
        writer = house.join(resuming(V5, "writer"));
    }
    // It is remembered all the same.
    assert_eq!(
        house.publish(writer, repeated(message2(1, "t", "x"))),
        [send(writer, pubrec(1))]
    );
    assert_eq!(house.receive(writer, pubrel(1)), [send(writer, pubcomp(1))]);
    for number in 7..=8 {
        house.publish(writer, message2(number, "t", "x"));
    }
    let word = disconnect(ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(
        acts(house.publish(writer, message2(9, "t", "x"))),
        [send(writer, word), close(writer)]
    );
}

#[test]
fn an_old_client_that_cannot_be_told_a_receive_maximum_may_use_every_identifier() {
    for version in [V31, V311] {
        let mut house = House::new();
        let writer = house.join(resuming(version, "writer"));
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "t", QoS::AtMostOnce);
        for number in 1..=u16::MAX {
            let publish = Packet::Publish(message2(number, "t", "x"));
            let received = Input::Received {
                link: writer,
                packet: publish,
            };
            house.broker.handle(house.now, received);
            let outputs: Vec<_> = std::iter::from_fn(|| house.broker.poll_output()).collect();
            assert_eq!(outputs[1..], [send(writer, pubrec(number))]);
            if number % 1024 == 0 {
                house.flush(writer);
                house.flush(reader);
            }
        }
        assert_eq!(
            house.publish(writer, repeated(message2(40_000, "t", "x"))),
            [send(writer, pubrec(40_000))]
        );
        assert_eq!(
            house.receive(writer, pubrel(40_000)),
            [send(writer, pubcomp(40_000))]
        );
        let outputs = house.publish(writer, message2(40_000, "t", "new"));
        assert_eq!(payloads(&outputs, reader), ["new"]);
    }
}

#[test]
fn a_topic_beyond_the_limits_is_refused_where_there_is_a_word_for_it() {
    let long = "x".repeat(257);
    let deep = "/".repeat(40);
    for name in [&long, &deep] {
        let mut house = House::new();
        let writer = house.join(client(V5, "writer"));
        let outputs = house.publish(writer, message1(1, name, "x"));
        assert_eq!(
            outputs,
            [send(writer, puback_with(1, ReasonCode::TopicNameInvalid))]
        );
        let outputs = house.publish(writer, message2(1, name, "x"));
        assert_eq!(
            outputs,
            [send(writer, pubrec_with(1, ReasonCode::TopicNameInvalid))]
        );
        let outputs = acts(house.publish(writer, message(name, "x")));
        assert_eq!(
            outputs,
            [
                send(writer, disconnect(ReasonCode::TopicNameInvalid)),
                close(writer)
            ]
        );
        let old = house.join(client(V311, "old"));
        assert_eq!(acts(house.publish(old, message1(1, name, "x"))), [close(old)]);
    }
}

#[test]
fn the_deepest_topic_allowed_passes() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    let deepest = "a/".repeat(31) + "a";
    assert_eq!(
        house.subscribe(reader, "+/".repeat(31).trim_end_matches('/'), QoS::AtMostOnce),
        ReasonCode::Success
    );
    assert_eq!(
        house.subscribe(reader, &deepest, QoS::AtMostOnce),
        ReasonCode::Success
    );
    assert_eq!(
        payloads(&house.publish(reader, message(&deepest, "x")), reader),
        ["x"]
    );
}

#[test]
fn too_many_user_properties_are_refused() {
    let crowd = || {
        (0..33)
            .map(|number| (text("name"), text(&number.to_string())))
            .collect::<Vec<_>>()
    };
    let mut house = House::new();
    let properties = ConnectProperties {
        user_properties: crowd(),
        ..ConnectProperties::default()
    };
    let (link, outputs) = house.connect(Connect {
        properties,
        ..client(V5, "writer")
    });
    assert_eq!(connack(&outputs, link).reason, ReasonCode::QuotaExceeded);
    let writer = house.join(client(V5, "writer"));
    let properties = PublishProperties {
        user_properties: crowd(),
        ..PublishProperties::default()
    };
    let crowded = |publish| Publish {
        properties: Some(Box::new(properties.clone())),
        ..publish
    };
    let outputs = house.publish(writer, crowded(message1(1, "t", "x")));
    assert_eq!(outputs, [send(writer, puback_with(1, ReasonCode::QuotaExceeded))]);
    let outputs = acts(house.publish(writer, crowded(message("t", "x"))));
    assert_eq!(
        outputs,
        [send(writer, disconnect(ReasonCode::QuotaExceeded)), close(writer)]
    );
}

#[test]
fn a_stalled_reader_does_not_hold_up_the_retained_messages_of_another() {
    let (mut house, stalled) = stalled_reader(QoS::AtLeastOnce);
    house.step(own("r/1", "x", QoS::AtMostOnce, true));
    let outputs = house.receive(stalled, subscribe_packet(&[subscription("r/#", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, stalled), []);
    let other = house.join(client(V5, "other"));
    let outputs = house.receive(other, subscribe_packet(&[subscription("r/#", QoS::AtMostOnce)]));
    assert_eq!(payloads(&outputs, other), ["x"]);
    assert_eq!(payloads(&house.flush(stalled), stalled), ["x"]);
}

#[test]
fn a_refused_link_is_counted_and_its_reason_told() {
    let mut house = House::within(Limits {
        receive_maximum: 1,
        ..Limits::default()
    });
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message2(1, "t", "x"));
    let outputs = house.publish(writer, message2(2, "t", "x"));
    let reason = DetachReason::Refused(Refusal::ReceiveMaximum);
    assert_eq!(
        events(&outputs),
        [&Event::ClientDisconnected {
            link: writer,
            client: client_id("writer"),
            reason
        }]
    );
}

/// Thirty-two clients that are sent messages of 1,000 bytes and acknowledge none, until no more can be had.
fn house_of_hogs() -> (House, Vec<LinkId>) {
    house_after(20)
}

/// The same after so many messages to each.
fn house_after(messages: usize) -> (House, Vec<LinkId>) {
    let mut house = House::within(Limits {
        queued_bytes_total_max: 64 * 1024,
        queue_bytes_max: 16 * 1024,
        queue_class: QueueClass::N16,
        sessions_max: 64,
        ..Limits::default()
    });
    let hogs: Vec<_> = (0..32)
        .map(|number| {
            let hog = house.join(client(V5, &format!("hog{number}")));
            house.subscribe(hog, "hog", QoS::AtLeastOnce);
            hog
        })
        .collect();
    for _ in 0..messages {
        house.step(own("hog", &"x".repeat(1000), QoS::AtLeastOnce, false));
        for &hog in &hogs {
            house.flush(hog);
        }
    }
    (house, hogs)
}

#[test]
fn clients_that_never_acknowledge_keep_nobody_else_from_messages() {
    let (mut house, hogs) = house_of_hogs();
    let held_before = house.stats().queued_bytes;
    assert!(held_before > 60 * 1024, "{held_before}");
    let newcomer = house.join(client(V5, "newcomer"));
    house.subscribe(newcomer, "news", QoS::AtLeastOnce);
    for number in 1..=50 {
        // Large ones one after the other.
        let outputs = house.step(own(
            "news",
            &number.to_string().repeat(500),
            QoS::AtLeastOnce,
            false,
        ));
        assert_eq!(messages(&outputs, newcomer).len(), 1, "{number}");
        house.receive(newcomer, puback(number));
        house.flush(newcomer);
    }
    // Small ones without a word in between, and a large one that waits until they are acknowledged.
    let quiet = house.join(client(V5, "quiet"));
    house.subscribe(quiet, "small", QoS::AtLeastOnce);
    for _ in 0..8 {
        let outputs = house.step(own("small", "x", QoS::AtLeastOnce, false));
        assert_eq!(payloads(&outputs, quiet), ["x"]);
    }
    let large = "y".repeat(1000);
    let outputs = house.step(own("small", &large, QoS::AtLeastOnce, false));
    assert_eq!(messages(&outputs, quiet), []);
    for number in 1..=8 {
        let outputs = house.receive(quiet, puback(number));
        assert_eq!(
            messages(&outputs, quiet).len(),
            usize::from(number == 8),
            "{number}"
        );
    }
    // The hogs are there still, and have lost what waited for them and nothing they were sent.
    for &hog in &hogs {
        assert_eq!(house.receive(hog, Packet::PingReq), [send(hog, Packet::PingResp)]);
    }
    assert!(house.stats().dropped_queue_full > 0);
}

#[test]
fn whoever_was_held_back_goes_on_as_soon_as_others_acknowledge() {
    let (mut house, hogs) = house_of_hogs();
    // Only the first of them acknowledge; all the others are sent more for it.
    let before = house.stats().messages_sent;
    for &hog in &hogs[..16] {
        house.receive(hog, puback(1));
    }
    assert!(house.stats().messages_sent > before);
    for round in 1..40 {
        for &hog in &hogs {
            house.receive(hog, puback(round));
            house.flush(hog);
        }
    }
    assert_eq!(
        (house.stats().queued_messages, house.stats().queued_bytes),
        (0, 0)
    );
}

#[test]
fn what_a_pubrec_frees_is_there_for_the_next_message_to_the_same_client() {
    let (mut house, _) = house_after(1);
    let [quiet, other] = ["quiet", "other"].map(|name| {
        let link = house.join(client(V5, name));
        house.subscribe(link, name, QoS::ExactlyOnce);
        link
    });
    for number in 1..=2 {
        let outputs = house.step(own("quiet", &"x".repeat(500), QoS::ExactlyOnce, false));
        assert_eq!(messages(&outputs, quiet).len(), usize::from(number == 1));
    }
    // What others are sent meanwhile outweighs what is acknowledged.
    let outputs = house.step(own("other", &"y".repeat(1000), QoS::ExactlyOnce, false));
    assert_eq!(messages(&outputs, other).len(), 1);
    let outputs = house.receive(quiet, pubrec(1));
    assert_eq!(messages(&outputs, quiet).len(), 1);
}

#[test]
fn wills_of_those_whose_password_is_being_checked_are_held_to_the_budget() {
    let limits = Limits {
        memory_bytes_max: 60_000,
        packet_bytes_max: 3_000,
        ..Limits::default()
    };
    let mut house = House::within(limits);
    let mut refused = 0;
    for number in 0..30 {
        let link = house.arrive_at_locked_door();
        let connect = Connect {
            user_name: Some(text("ann")),
            password: Some("secret".into()),
            will: Some(will("gone", &"x".repeat(2_500))),
            ..client(V5, &format!("client{number}"))
        };
        let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
        assert!(house.broker.memory_bytes() <= 60_000, "after {number}");
        let is_refused = |output: &Output| matches!(output, Output::Close { .. });
        refused += usize::from(outputs.iter().any(is_refused));
    }
    assert!((5..30).contains(&refused), "{refused} were refused");
}
