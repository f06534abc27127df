//! Retained messages: one for each topic, handed to whoever subscribes, never in one flood.

mod conversation;

use conversation::*;
use tidegate::broker::{Event, Limits};
use tidegate::mqtt::{Connect, ConnectProperties, Publish, PublishProperties, QoS};

fn living(publish: Publish, secs: u32) -> Publish {
    let properties = PublishProperties {
        message_expiry_secs: Some(secs),
        ..PublishProperties::default()
    };
    Publish {
        properties: Some(Box::new(properties)),
        ..publish
    }
}

#[test]
fn a_new_subscription_brings_the_retained_message_after_its_suback() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let writer = house.join(client(version, "writer"));
        house.publish(writer, retained(message("a/b", "x")));
        house.publish(writer, retained(message("a/b", "y")));
        let reader = house.join(client(version, "reader"));
        let outputs = house.receive(reader, subscribe_packet(&[subscription("a/+", QoS::AtMostOnce)]));
        assert_eq!(suback(&outputs[..1], reader).len(), 1);
        assert_eq!(
            outputs[1..],
            [send_message(reader, retained(message("a/b", "y")))]
        );
    }
}

#[test]
fn an_empty_message_clears_what_was_retained_and_is_delivered_itself() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    let reader = house.join(client(V5, "reader"));
    house.publish(writer, retained(message("a", "x")));
    assert_eq!(
        (house.stats().retained_messages, house.stats().retained_bytes),
        (1, 2)
    );
    house.subscribe(reader, "a", QoS::AtMostOnce);
    let outputs = house.publish(writer, retained(message("a", "")));
    assert_eq!(messages(&outputs, reader), [message("a", "")]);
    assert_eq!(
        (house.stats().retained_messages, house.stats().retained_bytes),
        (0, 0)
    );
    let outputs = house.receive(reader, subscribe_packet(&[subscription("a", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, reader), []);
}

#[test]
fn retained_messages_are_sent_at_the_lower_quality() {
    let mut house = House::new();
    for (name, qos) in [
        ("a", QoS::AtMostOnce),
        ("b", QoS::AtLeastOnce),
        ("c", QoS::ExactlyOnce),
    ] {
        house.step(own(name, "x", qos, true));
    }
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("+", QoS::AtLeastOnce)]));
    let expected = [
        retained(message("a", "x")),
        retained(message1(1, "b", "x")),
        retained(message1(2, "c", "x")),
    ];
    assert_eq!(messages(&outputs, reader), expected);
}

#[test]
fn filters_find_exactly_the_retained_messages_they_match() {
    let mut house = House::new();
    for name in [
        "sport",
        "sport/",
        "sport/a",
        "sport/a/b",
        "sport-x",
        "sportx/a",
        "other",
        "$SYS/a",
        "/sport",
    ] {
        house.step(own(name, name, QoS::AtMostOnce, true));
    }
    for (filter, expected) in [
        ("sport/#", vec!["sport", "sport/", "sport/a", "sport/a/b"]),
        ("sport/+", vec!["sport/", "sport/a"]),
        ("sport", vec!["sport"]),
        ("+", vec!["other", "sport", "sport-x"]),
        ("+/a", vec!["sport/a", "sportx/a"]),
        ("/+", vec!["/sport"]),
        ("$SYS/#", vec!["$SYS/a"]),
        (
            "#",
            vec![
                "/sport",
                "other",
                "sport",
                "sport-x",
                "sport/",
                "sport/a",
                "sport/a/b",
                "sportx/a",
            ],
        ),
        ("nothing/#", vec![]),
    ] {
        let reader = house.join(client(V5, "reader"));
        let outputs = house.receive(reader, subscribe_packet(&[subscription(filter, QoS::AtMostOnce)]));
        assert_eq!(payloads(&outputs, reader), expected, "{filter}");
    }
}

#[test]
fn thousands_of_retained_messages_come_in_slices_and_all_of_them() {
    let mut house = House::new();
    for number in 0..4096 {
        house.broker.handle(
            house.now,
            own(&format!("t/{number:04}"), "x", QoS::AtMostOnce, true),
        );
    }
    let reader = house.join(client(V5, "reader"));
    let mut outputs = house.receive(reader, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
    let mut topics = Vec::new();
    loop {
        let slice = messages(&outputs, reader);
        assert!(slice.len() <= 64, "{} at once", slice.len());
        if slice.is_empty() {
            break;
        }
        topics.extend(slice.into_iter().filter_map(|publish| publish.topic));
        outputs = house.flush(reader);
    }
    let expected: Vec<_> = (0..4096).map(|number| topic(&format!("t/{number:04}"))).collect();
    assert_eq!(topics, expected);
}

#[test]
fn retained_messages_at_qos_1_wait_for_the_window() {
    let mut house = House::new();
    for number in 0..10 {
        house.step(own(
            &format!("t/{number}"),
            &number.to_string(),
            QoS::AtLeastOnce,
            true,
        ));
    }
    let properties = ConnectProperties {
        receive_maximum: Some(3),
        ..ConnectProperties::default()
    };
    let reader = house.join(Connect {
        properties,
        ..client(V5, "reader")
    });
    let outputs = house.receive(reader, subscribe_packet(&[subscription("t/+", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, reader), ["0", "1", "2"]);
    assert_eq!(house.flush(reader), []);
    for number in 3..10 {
        assert_eq!(
            payloads(&house.receive(reader, puback(number - 2)), reader),
            [number.to_string()]
        );
    }
    assert_eq!(house.receive(reader, puback(8)), []);
}

#[test]
fn a_subscription_taken_back_stops_its_retained_messages() {
    let mut house = House::new();
    for number in 0..200 {
        house.step(own(&format!("t/{number:03}"), "x", QoS::AtMostOnce, true));
    }
    let reader = house.join(client(V5, "reader"));
    house.receive(reader, subscribe_packet(&[subscription("t/+", QoS::AtMostOnce)]));
    house.receive(reader, unsubscribe_packet(&["t/+"]));
    assert_eq!(house.flush(reader), []);
}

#[test]
fn a_subscription_that_is_replaced_while_its_retained_messages_come_brings_each_once_from_then_on() {
    let mut house = House::new();
    for number in 0..200 {
        house.step(own(&format!("t/{number:03}"), "x", QoS::AtMostOnce, true));
    }
    let reader = house.join(client(V5, "reader"));
    let subscribe = subscribe_packet(&[subscription("t/+", QoS::AtMostOnce)]);
    let outputs = house.receive(reader, subscribe.clone());
    assert_eq!(messages(&outputs, reader).len(), 64);
    let mut outputs = house.receive(reader, subscribe);
    for _ in 0..10 {
        outputs.extend(house.flush(reader));
    }
    let topics: Vec<_> = messages(&outputs, reader)
        .into_iter()
        .filter_map(|publish| publish.topic)
        .collect();
    let all: Vec<_> = (0..200).map(|number| topic(&format!("t/{number:03}"))).collect();
    assert_eq!(topics, all);
}

#[test]
fn retained_messages_owed_to_a_session_are_sent_after_it_resumed() {
    let mut house = House::new();
    for number in 0..100 {
        house.step(own(&format!("t/{number:03}"), "x", QoS::AtMostOnce, true));
    }
    let reader = house.join(resuming(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("t/+", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, reader).len(), 64);
    house.close(reader);
    let (reader, outputs) = house.connect(resuming(V5, "reader"));
    assert_eq!(messages(&outputs, reader).len(), 36);
}

#[test]
fn an_expired_message_is_retained_no_more() {
    let mut house = House::within(Limits {
        retained_max: 2,
        ..Limits::default()
    });
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, living(retained(message("a", "x")), 10));
    house.publish(writer, living(retained(message("b", "x")), 100));
    house.wait(secs(20));
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
    assert_eq!(
        messages(&outputs, reader),
        [living(retained(message("b", "x")), 80)]
    );
    house.publish(writer, retained(message("c", "x")));
    assert_eq!(
        (
            house.stats().retained_messages,
            house.stats().dropped_retained_full
        ),
        (2, 0)
    );
}

#[test]
fn what_finds_no_room_is_delivered_counted_told_once_and_not_retained() {
    let mut house = House::within(Limits {
        retained_max: 3,
        retained_bytes_max: 100,
        ..Limits::default()
    });
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    for number in 0..3 {
        house.step(own(&format!("t/{number}"), "x", QoS::AtMostOnce, true));
    }
    let outputs = house.step(own("t/3", "x", QoS::AtMostOnce, true));
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(
        events(&outputs),
        [&Event::LimitReached {
            limit: "retained_max",
            client: None
        }]
    );
    assert_eq!(
        events(&house.step(own("t/4", "x", QoS::AtMostOnce, true))),
        [] as [&Event; 0]
    );
    assert_eq!(
        (
            house.stats().retained_messages,
            house.stats().dropped_retained_full
        ),
        (3, 2)
    );
    house.step(own("t/0", "", QoS::AtMostOnce, true));
    house.step(own("t/4", "x", QoS::AtMostOnce, true));
    assert_eq!(house.stats().retained_messages, 3);
    house.step(own("t/4", &"x".repeat(100), QoS::AtMostOnce, true));
    assert_eq!(
        (
            house.stats().retained_messages,
            house.stats().dropped_retained_full
        ),
        (2, 3)
    );
}

#[test]
fn a_retained_message_too_large_for_the_client_does_not_stop_the_others() {
    let mut house = House::new();
    house.step(own("a", &"x".repeat(100), QoS::AtLeastOnce, true));
    house.step(own("b", "x", QoS::AtLeastOnce, true));
    let properties = ConnectProperties {
        packet_bytes_max: Some(50),
        ..ConnectProperties::default()
    };
    let reader = house.join(Connect {
        properties,
        ..client(V5, "reader")
    });
    let outputs = house.receive(reader, subscribe_packet(&[subscription("+", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(house.stats().dropped_too_large, 1);
}

#[test]
fn a_message_without_the_flag_leaves_what_is_retained_as_it_is() {
    let mut house = House::new();
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message("b", "x"));
    house.publish(writer, retained(message("a", "kept")));
    house.publish(writer, message("a", "passing"));
    house.publish(writer, message("a", ""));
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("+", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, reader), [retained(message("a", "kept"))]);
}
