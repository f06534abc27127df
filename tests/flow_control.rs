//! Flow control (section 4.9): a full window holds back messages of QoS 1 and 2, and nothing else.

mod conversation;

use conversation::*;
use tidegate::broker::LinkId;
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
