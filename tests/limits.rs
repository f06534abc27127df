//! Bounds: what happens to those who ask for more, that everything dropped is counted, and that nobody else
//! notices.

mod conversation;

use conversation::*;
use tidegate::broker::{DetachReason, Event, Input, Limits, LinkId, Overflow, QueueClass, Refusal};
use tidegate::mqtt::{Connect, ConnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode};

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
fn a_client_that_publishes_too_fast_is_told_and_sent_away() {
    for (version, word) in [
        (V311, None),
        (V5, Some(disconnect(ReasonCode::MessageRateTooHigh))),
    ] {
        let mut house = House::within(Limits {
            publish_rate_max: 10,
            ..Limits::default()
        });
        let writer = house.join(client(version, "writer"));
        for _ in 0..10 {
            assert_eq!(house.publish(writer, message("t", "x")), []);
        }
        let outputs = house.publish(writer, message("t", "x"));
        assert_eq!(limit_events(&outputs), ["publish_rate_max"]);
        let mut expected: Vec<_> = word.map(|packet| send(writer, packet)).into_iter().collect();
        expected.push(close(writer));
        assert_eq!(acts(outputs), expected);
    }
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
