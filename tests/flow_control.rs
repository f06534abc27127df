//! Flow control (section 4.9): a full window holds back messages of QoS 1 and 2, and nothing else.

mod conversation;

use std::time::Duration;

use conversation::*;
use tidegate::broker::{Limits, LinkId, Output};
use tidegate::mqtt::{Connect, ConnectProperties, Packet, QoS, ReasonCode};

fn receiving(receive_maximum: u16, connect: Connect) -> Connect {
    let properties = ConnectProperties {
        receive_maximum: Some(receive_maximum),
        ..connect.properties
    };
    Connect {
        properties,
        ..connect
    }
}

/// A reader whose window is full, with `waiting` messages behind it.
fn stuck(receive_maximum: u16, waiting: u16) -> (House, LinkId) {
    let mut house = House::new();
    let reader = house.join(receiving(receive_maximum, resuming(V5, "reader")));
    house.subscribe(reader, "t", QoS::ExactlyOnce);
    for number in 1..=receive_maximum + waiting {
        house.step(own("t", &number.to_string(), QoS::ExactlyOnce, false));
    }
    (house, reader)
}

#[test]
fn the_window_opens_at_the_clients_receive_maximum() {
    for receive_maximum in [1, 2, 7] {
        let mut house = House::new();
        let reader = house.join(receiving(receive_maximum, client(V5, "reader")));
        house.subscribe(reader, "t", QoS::AtLeastOnce);
        let mut outputs = Vec::new();
        for _ in 0..20 {
            outputs.extend(house.step(own("t", "x", QoS::AtLeastOnce, false)));
        }
        assert_eq!(messages(&outputs, reader).len(), usize::from(receive_maximum));
    }
}

#[test]
fn a_full_window_holds_back_nothing_but_messages() {
    let (mut house, reader) = stuck(1, 3);
    assert_eq!(
        house.receive(reader, Packet::PingReq),
        [send(reader, Packet::PingResp)]
    );
    let outputs = house.receive(
        reader,
        subscribe_packet(&[subscription("other", QoS::AtLeastOnce)]),
    );
    assert_eq!(suback(&outputs, reader), [ReasonCode::GrantedQos1]);
    let outputs = house.receive(reader, unsubscribe_packet(&["other"]));
    assert!(matches!(sent(&outputs, reader)[..], [Packet::UnsubAck(_)]));
    for (publish, answer) in [
        (
            message1(7, "nobody/1", "x"),
            puback_with(7, ReasonCode::NoMatchingSubscribers),
        ),
        (
            message2(8, "nobody/2", "x"),
            pubrec_with(8, ReasonCode::NoMatchingSubscribers),
        ),
    ] {
        assert_eq!(house.publish(reader, publish), [send(reader, answer)]);
    }
    assert_eq!(house.receive(reader, pubrel(8)), [send(reader, pubcomp(8))]);
    assert_eq!(house.receive(reader, pubrec(1)), [send(reader, pubrel(1))]);
}

#[test]
fn messages_of_qos_0_pass_a_full_window() {
    let (mut house, reader) = stuck(1, 3);
    let outputs = house.step(own("t", "now", QoS::AtMostOnce, false));
    assert_eq!(payloads(&outputs, reader), ["now"]);
}

#[test]
fn the_window_moves_on_with_puback_with_pubcomp_and_with_a_pubrec_that_refuses() {
    let (mut house, reader) = stuck(3, 3);
    assert_eq!(payloads(&house.receive(reader, pubrec(1)), reader), [""; 0]);
    assert_eq!(payloads(&house.receive(reader, pubcomp(1)), reader), ["4"]);
    let refused = pubrec_with(2, ReasonCode::QuotaExceeded);
    assert_eq!(payloads(&house.receive(reader, refused), reader), ["5"]);

    let mut house = House::new();
    let reader = house.join(receiving(1, client(V5, "reader")));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    for payload in ["1", "2"] {
        house.step(own("t", payload, QoS::AtLeastOnce, false));
    }
    assert_eq!(payloads(&house.receive(reader, puback(1)), reader), ["2"]);
}

#[test]
fn an_acknowledgement_nobody_awaits_opens_no_window() {
    let (mut house, reader) = stuck(1, 3);
    for stray in [puback(9), pubcomp(9), pubrec_with(9, ReasonCode::QuotaExceeded)] {
        let outputs = house.receive(reader, stray);
        assert_eq!(payloads(&outputs, reader), [""; 0]);
    }
}

#[test]
fn a_client_that_is_not_read_for_a_while_is_sent_its_retained_messages_meanwhile_and_then_read_again() {
    // Between two messages that match lie more than are looked at in one go.
    const APART: usize = 1_200;
    for (keep_alive_secs, subscribes_first) in [(60, false), (60, true), (0, false), (0, true)] {
        let mut house = House::within(Limits {
            publish_rate_max: 3,
            ..Limits::default()
        });
        house.step(own("a/last", "first", QoS::AtMostOnce, true));
        for number in 0..APART {
            let input = own(&format!("b/{number}"), "x", QoS::AtMostOnce, true);
            house.broker.handle(house.now, input);
        }
        house.step(own("c/last", "second", QoS::AtLeastOnce, true));
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "said", QoS::AtLeastOnce);
        let writer = house.join(Connect {
            keep_alive_secs,
            ..client(V311, "writer")
        });

        // One more than it may within a second, whichever comes last; all of it had been read.
        let subscribe = subscribe_packet(&[subscription("+/last", QoS::AtLeastOnce)]);
        let mut outputs = Vec::new();
        if subscribes_first {
            outputs.extend(house.receive(writer, subscribe.clone()));
        }
        for number in 1..=3 {
            outputs.extend(house.publish(writer, message1(number, "said", &number.to_string())));
        }
        if !subscribes_first {
            outputs.extend(house.receive(writer, subscribe));
        }
        let is_pause = |output: &&Output| **output == Output::Pause { link: writer };
        assert_eq!(outputs.iter().filter(is_pause).count(), 1);
        assert_eq!(payloads(&outputs, reader), ["1", "2", "3"]);
        assert_eq!(payloads(&outputs, writer), ["first"]);

        let outputs = house.wait(Duration::from_millis(10));
        assert_eq!(payloads(&outputs, writer), ["second"], "within some milliseconds");
        assert_eq!(outputs.len(), 1);
        assert_eq!(house.receive(writer, puback(1)), []);
        assert_eq!(house.wait(Duration::from_millis(900)), []);
        assert_eq!(
            house.wait(Duration::from_millis(100)),
            [Output::Resume { link: writer }]
        );

        // Its keep-alive runs from there on, if it has one.
        house.receive(reader, puback(1));
        for _ in 0..2 {
            house.receive(reader, Packet::PingReq);
            let outputs = house.wait(Duration::from_secs(44));
            assert_eq!(outputs, []);
        }
        house.receive(reader, Packet::PingReq);
        let outputs = house.wait(Duration::from_secs(3));
        assert_eq!(outputs.contains(&close(writer)), keep_alive_secs > 0);
    }
}
