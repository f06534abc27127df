//! PUBLISH and its acknowledgements, both ways, at every quality of service.

mod conversation;

use conversation::*;
use tidegate::broker::{Limits, LinkId, Output};
use tidegate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode,
};

/// A house with a publisher and a reader of `#` at `qos`.
fn pair(version: tidegate::mqtt::ProtocolVersion, qos: QoS) -> (House, LinkId, LinkId) {
    let mut house = House::new();
    let writer = house.join(client(version, "writer"));
    let reader = house.join(client(version, "reader"));
    house.subscribe(reader, "#", qos);
    (house, writer, reader)
}

fn with_properties(publish: Publish, properties: PublishProperties) -> Publish {
    Publish {
        properties: Some(Box::new(properties)),
        ..publish
    }
}

#[test]
fn a_message_at_qos_0_reaches_its_reader_and_nobody_answers() {
    for version in [V31, V311, V5] {
        let (mut house, writer, reader) = pair(version, QoS::ExactlyOnce);
        let outputs = house.publish(writer, message("a/b", "hello"));
        assert_eq!(outputs, [send_message(reader, message("a/b", "hello"))]);
    }
}

#[test]
fn a_message_is_delivered_at_the_lower_of_what_was_published_and_granted() {
    let published = [message("t", "x"), message1(9, "t", "x"), message2(9, "t", "x")];
    for (granted, expected) in [
        (
            QoS::AtMostOnce,
            [message("t", "x"), message("t", "x"), message("t", "x")],
        ),
        (
            QoS::AtLeastOnce,
            [message("t", "x"), message1(1, "t", "x"), message1(2, "t", "x")],
        ),
        (
            QoS::ExactlyOnce,
            [message("t", "x"), message1(1, "t", "x"), message2(2, "t", "x")],
        ),
    ] {
        let (mut house, writer, reader) = pair(V311, granted);
        for (publish, expected) in published.iter().zip(expected) {
            let outputs = house.publish(writer, publish.clone());
            assert_eq!(messages(&outputs, reader), [expected], "granted {granted}");
        }
    }
}

#[test]
fn a_message_at_qos_1_is_acknowledged_to_its_publisher_and_by_its_reader() {
    for version in [V31, V311, V5] {
        let (mut house, writer, reader) = pair(version, QoS::AtLeastOnce);
        let outputs = house.publish(writer, message1(7, "t", "x"));
        assert_eq!(
            outputs,
            [
                send_message(reader, message1(1, "t", "x")),
                send(writer, puback(7))
            ]
        );
        assert_eq!(
            (house.stats().inflight_messages, house.stats().queued_bytes),
            (1, 2)
        );
        assert_eq!(house.receive(reader, puback(1)), []);
        assert_eq!(
            (house.stats().inflight_messages, house.stats().queued_bytes),
            (0, 0)
        );
    }
}

#[test]
fn a_message_at_qos_2_goes_through_all_four_packets_both_ways() {
    for version in [V31, V311, V5] {
        let (mut house, writer, reader) = pair(version, QoS::ExactlyOnce);
        let outputs = house.publish(writer, message2(7, "t", "x"));
        assert_eq!(
            outputs,
            [
                send_message(reader, message2(1, "t", "x")),
                send(writer, pubrec(7))
            ]
        );
        assert_eq!(house.receive(writer, pubrel(7)), [send(writer, pubcomp(7))]);
        assert_eq!(house.receive(reader, pubrec(1)), [send(reader, pubrel(1))]);
        assert_eq!(house.stats().inflight_messages, 1);
        assert_eq!(house.receive(reader, pubcomp(1)), []);
        assert_eq!(house.stats().inflight_messages, 0);
    }
}

#[test]
fn a_qos_2_message_that_comes_again_is_acknowledged_and_not_delivered() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    house.publish(writer, message2(7, "t", "x"));
    let outputs = house.publish(writer, repeated(message2(7, "t", "x")));
    assert_eq!(outputs, [send(writer, pubrec(7))]);
    house.receive(writer, pubrel(7));
    let outputs = house.publish(writer, message2(7, "t", "y"));
    assert_eq!(payloads(&outputs, reader), ["y"]);
    assert_eq!(house.stats().duplicates_suppressed, 1);
}

#[test]
fn a_pubrel_nobody_expects_is_completed_with_identifier_not_found() {
    let mut house = House::new();
    for (version, reason) in [
        (V311, ReasonCode::Success),
        (V5, ReasonCode::PacketIdentifierNotFound),
    ] {
        let writer = house.join(client(version, "writer"));
        let pubcomp = Packet::PubComp(Ack::with_reason(id(5), reason));
        assert_eq!(house.receive(writer, pubrel(5)), [send(writer, pubcomp)]);
    }
}

#[test]
fn a_pubrec_nobody_expects_is_released_with_identifier_not_found() {
    let mut house = House::new();
    for (version, reason) in [
        (V311, ReasonCode::Success),
        (V5, ReasonCode::PacketIdentifierNotFound),
    ] {
        let reader = house.join(client(version, "reader"));
        let pubrel = Packet::PubRel(Ack::with_reason(id(5), reason));
        assert_eq!(house.receive(reader, pubrec(5)), [send(reader, pubrel)]);
    }
}

#[test]
fn a_pubrec_with_an_error_ends_the_delivery() {
    let (mut house, writer, reader) = pair(V5, QoS::ExactlyOnce);
    house.publish(writer, message2(7, "t", "x"));
    assert_eq!(
        house.receive(reader, pubrec_with(1, ReasonCode::QuotaExceeded)),
        []
    );
    assert_eq!(
        (house.stats().inflight_messages, house.stats().queued_bytes),
        (0, 0)
    );
}

#[test]
fn a_late_acknowledgement_of_nothing_harms_nobody() {
    let (mut house, _, reader) = pair(V311, QoS::ExactlyOnce);
    assert_eq!(house.receive(reader, puback(3)), []);
    assert_eq!(house.receive(reader, pubcomp(3)), []);
    assert_eq!(house.stats().clients_connected, 2);
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    for (publish, wrong) in [
        (message2(7, "t", "x"), puback(1)),
        (message2(7, "t", "x"), pubcomp(1)),
        (message1(7, "t", "x"), pubrec(1)),
        (message1(7, "t", "x"), pubcomp(1)),
        (message1(7, "t", "x"), pubrec_with(1, ReasonCode::QuotaExceeded)),
    ] {
        let (mut house, writer, reader) = pair(V5, QoS::ExactlyOnce);
        house.publish(writer, publish);
        let outputs = acts(house.receive(reader, wrong));
        assert_eq!(
            outputs,
            [send(reader, disconnect(ReasonCode::ProtocolError)), close(reader)]
        );
    }
}

#[test]
fn a_5_0_publisher_learns_that_nobody_listens() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let outputs = house.publish(writer, message1(1, "t", "x"));
    assert_eq!(
        outputs,
        [send(writer, puback_with(1, ReasonCode::NoMatchingSubscribers))]
    );
    let outputs = house.publish(writer, message2(2, "t", "x"));
    assert_eq!(
        outputs,
        [send(writer, pubrec_with(2, ReasonCode::NoMatchingSubscribers))]
    );
    assert_eq!(house.receive(writer, pubrel(2)), [send(writer, pubcomp(2))]);
    let old = house.join(client(V311, "old"));
    assert_eq!(house.publish(old, message1(1, "t", "x")), [send(old, puback(1))]);
}

#[test]
fn acknowledgements_leave_in_the_order_the_messages_came() {
    let (mut house, writer, _) = pair(V5, QoS::AtMostOnce);
    let mut outputs = Vec::new();
    for publish in [
        message1(3, "t", "x"),
        message2(1, "t", "x"),
        message1(2, "t", "x"),
        message2(9, "t", "x"),
    ] {
        outputs.extend(house.publish(writer, publish));
    }
    let acks: Vec<_> = sent(&outputs, writer).into_iter().cloned().collect();
    assert_eq!(acks, [puback(3), pubrec(1), puback(2), pubrec(9)]);
}

#[test]
fn nobody_but_the_house_writes_what_starts_with_a_dollar() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "$SYS/#", QoS::AtMostOnce);
    let writer = house.join(client(V5, "writer"));
    assert_eq!(house.publish(writer, message("$SYS/x", "lie")), []);
    let refused = puback_with(1, ReasonCode::NotAuthorized);
    assert_eq!(
        house.publish(writer, message1(1, "$SYS/x", "lie")),
        [send(writer, refused)]
    );
    let refused = pubrec_with(2, ReasonCode::NotAuthorized);
    assert_eq!(
        house.publish(writer, message2(2, "$SYS/x", "lie")),
        [send(writer, refused)]
    );
    let old = house.join(client(V311, "old"));
    assert_eq!(
        house.publish(old, message1(1, "$SYS/x", "lie")),
        [send(old, puback(1))]
    );
    assert_eq!(
        house.publish(old, message2(2, "$SYS/x", "lie")),
        [send(old, pubrec(2))]
    );
    assert_eq!(house.receive(old, pubrel(2)), [send(old, pubcomp(2))]);
    assert_eq!(house.stats().publishes_denied, 5);
    let outputs = house.step(own("$SYS/x", "truth", QoS::AtMostOnce, false));
    assert_eq!(payloads(&outputs, reader), ["truth"]);
}

#[test]
fn an_alias_stands_for_the_topic_it_was_given_with() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    let alias = |publish, number| {
        with_properties(
            publish,
            PublishProperties {
                topic_alias: Some(number),
                ..PublishProperties::default()
            },
        )
    };
    let bare = |payload| Publish {
        topic: None,
        ..message("unused", payload)
    };
    let outputs = house.publish(writer, alias(message("a", "1"), 16));
    assert_eq!(messages(&outputs, reader), [message("a", "1")]);
    let outputs = house.publish(writer, alias(bare("2"), 16));
    assert_eq!(messages(&outputs, reader), [message("a", "2")]);
    house.publish(writer, alias(message("b", "3"), 16));
    let outputs = house.publish(writer, alias(bare("4"), 16));
    assert_eq!(messages(&outputs, reader), [message("b", "4")]);
}

#[test]
fn an_alias_nobody_gave_or_beyond_the_maximum_ends_the_connection() {
    for (alias, topic_name, reason) in [
        (3, None, ReasonCode::ProtocolError),
        (17, Some("a"), ReasonCode::TopicAliasInvalid),
        (0, Some("a"), ReasonCode::TopicAliasInvalid),
    ] {
        let (mut house, writer, _) = pair(V5, QoS::AtMostOnce);
        let publish = Publish {
            topic: topic_name.map(topic),
            ..message("unused", "x")
        };
        let properties = PublishProperties {
            topic_alias: Some(alias),
            ..PublishProperties::default()
        };
        let outputs = acts(house.publish(writer, with_properties(publish, properties)));
        assert_eq!(outputs, [send(writer, disconnect(reason)), close(writer)]);
    }
}

#[test]
fn properties_pass_through_unchanged_and_not_to_older_clients() {
    let (mut house, writer, reader) = pair(V5, QoS::AtLeastOnce);
    let old = house.join(client(V311, "old"));
    house.subscribe(old, "#", QoS::AtMostOnce);
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        response_topic: Some(topic("answer")),
        correlation_data: Some("42".into()),
        user_properties: vec![(text("a"), text("1")), (text("a"), text("2"))],
        content_type: Some(text("text/plain")),
        ..PublishProperties::default()
    };
    let outputs = house.publish(writer, with_properties(message1(1, "t", "x"), properties.clone()));
    assert_eq!(
        messages(&outputs, reader),
        [with_properties(message1(1, "t", "x"), properties)]
    );
    assert_eq!(messages(&outputs, old), [message("t", "x")]);
}

#[test]
fn a_message_that_waited_is_sent_with_what_is_left_of_its_life_or_not_at_all() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let reader = house.join(resuming(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtLeastOnce);
    house.close(reader);
    let living = |secs| PublishProperties {
        message_expiry_secs: Some(secs),
        ..PublishProperties::default()
    };
    house.publish(writer, with_properties(message1(1, "t", "short"), living(10)));
    house.publish(writer, with_properties(message1(2, "t", "long"), living(100)));
    house.wait(secs(30));
    let (reader, outputs) = house.connect(resuming(V5, "reader"));
    assert_eq!(
        messages(&outputs, reader),
        [with_properties(message1(1, "t", "long"), living(70))]
    );
    assert_eq!(house.stats().dropped_expired, 1);
}

#[test]
fn what_is_left_of_a_life_is_counted_down_by_whole_seconds_that_have_passed() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let living = |secs| PublishProperties {
        message_expiry_secs: Some(secs),
        ..PublishProperties::default()
    };
    house.publish(writer, retained(with_properties(message("t", "x"), living(2))));
    for (wait, left) in [(0, 2), (999, 2), (1, 1), (999, 1)] {
        house.wait(std::time::Duration::from_millis(wait));
        let reader = house.join(client(V5, "reader"));
        let outputs = house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
        let expected = retained(with_properties(message("t", "x"), living(left)));
        assert_eq!(messages(&outputs, reader), [expected]);
    }
    house.wait(std::time::Duration::from_millis(1));
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, reader), []);
}

#[test]
fn no_more_is_sent_than_the_client_wants_unfinished() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let properties = ConnectProperties {
        receive_maximum: Some(2),
        ..ConnectProperties::default()
    };
    let reader = house.join(Connect {
        properties,
        ..client(V5, "reader")
    });
    house.subscribe(reader, "#", QoS::ExactlyOnce);
    let mut outputs = Vec::new();
    for (number, payload) in [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")] {
        outputs.extend(house.publish(writer, message2(number, "t", payload)));
    }
    assert_eq!(payloads(&outputs, reader), ["1", "2"]);
    assert_eq!(
        (house.stats().inflight_messages, house.stats().queued_messages),
        (2, 3)
    );
    assert_eq!(house.receive(reader, pubrec(1)), [send(reader, pubrel(1))]);
    assert_eq!(
        house.receive(reader, pubcomp(1)),
        [send_message(reader, message2(3, "t", "3"))]
    );
    let outputs = house.receive(reader, pubrec_with(2, ReasonCode::UnspecifiedError));
    assert_eq!(payloads(&outputs, reader), ["4"]);
    assert_eq!(
        payloads(&house.publish(writer, message("t", "urgent")), reader),
        ["urgent"]
    );
}

#[test]
fn no_identifier_in_use_is_given_out_again_through_all_65535() {
    let limits = Limits {
        inflight_max: u16::MAX,
        queue_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let mut house = House::within(Limits {
        unsent_bytes_max: usize::MAX / 4,
        ..limits
    });
    let reader = house.join(client(V311, "reader"));
    house.subscribe(reader, "#", QoS::AtLeastOnce);
    let give = |house: &mut House| {
        house
            .broker
            .handle(house.now, own("t", "x", QoS::AtLeastOnce, false));
        std::iter::from_fn(|| house.broker.poll_output()).find_map(|output| match output {
            Output::Send {
                packet: Packet::Publish(publish),
                ..
            } => publish.packet_id.map(PacketId::get),
            _ => None,
        })
    };
    for expected in 1..=u16::MAX {
        assert_eq!(give(&mut house), Some(expected));
    }
    assert_eq!(give(&mut house), None);
    house.broker.check_invariants().unwrap();
    let outputs = house.receive(reader, puback(40_000));
    assert_eq!(messages(&outputs, reader)[0].packet_id, Some(id(40_000)));
    house.receive(reader, puback(3));
    house.receive(reader, puback(5));
    assert_eq!(give(&mut house), Some(3));
    assert_eq!(give(&mut house), Some(5));
    assert_eq!(give(&mut house), None);
    house.broker.check_invariants().unwrap();
}

#[test]
fn a_message_larger_than_the_client_takes_is_dropped_for_it_alone() {
    let (mut house, writer, reader) = pair(V5, QoS::AtLeastOnce);
    let properties = ConnectProperties {
        packet_bytes_max: Some(24),
        ..ConnectProperties::default()
    };
    let small = house.join(Connect {
        properties,
        ..client(V5, "small")
    });
    house.subscribe(small, "#", QoS::AtLeastOnce);
    // 2 bytes of header, 3 of topic, 2 of identifier, 1 of properties, and the payload.
    let outputs = house.publish(writer, message1(1, "t", &"x".repeat(16)));
    assert_eq!(messages(&outputs, small).len(), 1);
    let outputs = house.publish(writer, message1(2, "t", &"x".repeat(17)));
    assert_eq!(
        (messages(&outputs, small).len(), messages(&outputs, reader).len()),
        (0, 1)
    );
    let outputs = house.publish(writer, message("t", &"x".repeat(20)));
    assert_eq!(
        (messages(&outputs, small).len(), messages(&outputs, reader).len()),
        (0, 1)
    );
    assert_eq!(house.stats().dropped_too_large, 2);
    let outputs = house.publish(writer, message1(3, "t", "x"));
    assert_eq!(messages(&outputs, small).len(), 1);
}

#[test]
fn every_message_sent_is_counted() {
    let (mut house, writer, _) = pair(V5, QoS::AtLeastOnce);
    for number in 1..=10 {
        house.publish(writer, message1(number, "t", "x"));
    }
    assert_eq!(
        (house.stats().messages_received, house.stats().messages_sent),
        (10, 10)
    );
}

#[test]
fn an_acknowledged_qos_1_identifier_stands_for_a_new_message_whatever_dup_says() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    let outputs = house.publish(writer, message1(7, "t", "1"));
    assert_eq!(payloads(&outputs, reader), ["1"]);
    let outputs = house.publish(writer, repeated(message1(7, "t", "2")));
    assert_eq!(payloads(&outputs, reader), ["2"]);
    assert_eq!(sent(&outputs, writer), [&puback(7)]);
}

#[test]
fn dup_is_not_passed_on() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut house, writer, reader) = pair(V5, qos);
        let outputs = house.publish(writer, repeated(message1(7, "t", "x")));
        assert_eq!(messages(&outputs, reader), [message1(1, "t", "x")]);
        let outputs = house.publish(writer, repeated(message2(8, "t", "x")));
        assert!(!messages(&outputs, reader)[0].dup);
    }
}

#[test]
fn the_identifier_of_a_refused_qos_2_message_is_free_at_once() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    let refused = pubrec_with(7, ReasonCode::NotAuthorized);
    assert_eq!(
        house.publish(writer, message2(7, "$SYS/x", "lie")),
        [send(writer, refused)]
    );
    let outputs = house.publish(writer, message2(7, "t", "x"));
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(sent(&outputs, writer), [&pubrec(7)]);
}

#[test]
fn a_message_that_expires_halfway_through_qos_2_is_finished_all_the_same() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let reader = house.join(resuming(V5, "reader"));
    house.subscribe(reader, "#", QoS::ExactlyOnce);
    let living = PublishProperties {
        message_expiry_secs: Some(10),
        ..PublishProperties::default()
    };
    house.publish(writer, with_properties(message2(7, "t", "x"), living));
    house.close(reader);
    house.wait(secs(30));
    // As receiver: the writer's handshake goes on.
    assert_eq!(house.receive(writer, pubrel(7)), [send(writer, pubcomp(7))]);
    // As sender: what was sent once is sent again, with no life left.
    let (reader, outputs) = house.connect(resuming(V5, "reader"));
    let again = messages(&outputs, reader);
    assert_eq!(
        (again.len(), again[0].dup, again[0].packet_id),
        (1, true, Some(id(1)))
    );
    assert_eq!(house.receive(reader, pubrec(1)), [send(reader, pubrel(1))]);
    assert_eq!(house.receive(reader, pubcomp(1)), []);
    assert_eq!(house.stats().dropped_expired, 0);
}

#[test]
fn an_alias_ends_with_the_connection_it_was_given_on() {
    let mut house = House::new();
    let given = PublishProperties {
        topic_alias: Some(1),
        ..PublishProperties::default()
    };
    let writer = house.join(resuming(V5, "writer"));
    house.publish(writer, with_properties(message("t", "x"), given.clone()));
    house.close(writer);
    let writer = house.join(resuming(V5, "writer"));
    let bare = Publish {
        topic: None,
        ..message("unused", "x")
    };
    let outputs = acts(house.publish(writer, with_properties(bare, given)));
    assert_eq!(
        outputs,
        [send(writer, disconnect(ReasonCode::ProtocolError)), close(writer)]
    );
}

#[test]
fn every_alias_up_to_the_maximum_is_taken() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    let aliased = |topic_name: Option<&str>, number| {
        let publish = Publish {
            topic: topic_name.map(topic),
            ..message("unused", "x")
        };
        let properties = PublishProperties {
            topic_alias: Some(number),
            ..PublishProperties::default()
        };
        with_properties(publish, properties)
    };
    for number in 1..=16 {
        house.publish(writer, aliased(Some(&format!("t/{number}")), number));
    }
    for number in 1..=16 {
        let outputs = house.publish(writer, aliased(None, number));
        assert_eq!(messages(&outputs, reader), [message(&format!("t/{number}"), "x")]);
    }
}

#[test]
fn messages_of_one_publisher_arrive_in_the_order_they_were_sent() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut house, writer, reader) = pair(V5, qos);
        let mut outputs = Vec::new();
        for number in 1..=20 {
            let publish = Publish {
                qos,
                packet_id: (qos != QoS::AtMostOnce).then(|| id(number)),
                ..message("t", &number.to_string())
            };
            outputs.extend(house.publish(writer, publish));
        }
        let expected: Vec<_> = (1..=20).map(|number: u16| number.to_string()).collect();
        assert_eq!(payloads(&outputs, reader), expected);
    }
}

#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let (mut house, writer, reader) = pair(V5, QoS::AtMostOnce);
    let forged = PublishProperties {
        subscription_ids: [5].as_slice().into(),
        ..PublishProperties::default()
    };
    let outputs = acts(house.publish(writer, with_properties(message1(1, "t", "x"), forged)));
    assert_eq!(
        outputs,
        [send(writer, disconnect(ReasonCode::ProtocolError)), close(writer)]
    );
    assert_eq!(
        house.receive(reader, Packet::PingReq),
        [send(reader, Packet::PingResp)]
    );
}
