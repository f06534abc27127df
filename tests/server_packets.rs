//! What the server sends: only what its client can read, and never more than it takes.
//!
//! Every conversation has a witness who reads what is sent as the client would; here it is given something to read.

mod conversation;

use conversation::*;
use tidegate::broker::{Input, Output, Verdict};
use tidegate::mqtt::{
    Ack, Connect, ConnectProperties, DecodeError, Disconnect, DisconnectProperties, Packet, QoS, ReasonCode,
    SubAck, TopicError,
};

fn taking(packet_bytes_max: u32, connect: Connect) -> Connect {
    let properties = ConnectProperties {
        packet_bytes_max: Some(packet_bytes_max),
        ..connect.properties
    };
    Connect {
        properties,
        ..connect
    }
}

fn with_password(connect: Connect) -> Connect {
    Connect {
        user_name: Some(text("bill")),
        password: Some("secret".into()),
        ..connect
    }
}

#[test]
fn a_client_that_does_not_take_its_connack_is_not_let_in() {
    let mut house = House::new();
    let victim = house.join(client(V5, "bill"));
    let (link, outputs) = house.connect(taking(15, client(V5, "bill")));
    assert_eq!(
        acts(outputs),
        [send(link, refusal(ReasonCode::PacketTooLarge)), close(link)]
    );
    let (link, outputs) = house.connect(taking(4, client(V5, "bill")));
    assert_eq!(acts(outputs), [close(link)], "not even the refusal fits");
    assert_eq!(
        house.receive(victim, Packet::PingReq),
        [send(victim, Packet::PingResp)]
    );
    let (link, outputs) = house.connect(taking(16, client(V5, "carl")));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    let nameless = Connect {
        client_id: None,
        ..client(V5, "")
    };
    let (link, outputs) = house.connect(taking(59, nameless));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::PacketTooLarge);
    assert_eq!(house.stats().sessions, 2);
}

#[test]
fn an_answer_larger_than_the_client_takes_ends_the_connection() {
    for (filters, fits) in [(19, true), (20, false)] {
        let mut house = House::new();
        let link = house.join(taking(24, client(V5, "bill")));
        let wanted: Vec<_> = (0..filters)
            .map(|number| subscription(&format!("t/{number}"), QoS::AtMostOnce))
            .collect();
        let outputs = acts(house.receive(link, subscribe_packet(&wanted)));
        if fits {
            assert_eq!(suback(&outputs, link).len(), filters);
        } else {
            assert_eq!(
                outputs,
                [send(link, disconnect(ReasonCode::PacketTooLarge)), close(link)]
            );
        }
    }
}

#[test]
fn a_refusal_has_only_reasons_that_connack_has() {
    let filter_invalid = DecodeError::FilterInvalid(TopicError::MisplacedHash);
    for (input, reason) in [
        (None, ReasonCode::ServerUnavailable),
        (Some(filter_invalid), ReasonCode::ProtocolError),
        (Some(DecodeError::TopicAliasZero), ReasonCode::ProtocolError),
        (
            Some(DecodeError::TopicHoldsWildcard),
            ReasonCode::TopicNameInvalid,
        ),
    ] {
        let mut house = House::new();
        let link = house.arrive_at_locked_door();
        let connect = with_password(client(V5, "bill"));
        house.receive(link, Packet::Connect(Box::new(connect)));
        let version = Some(V5);
        let outputs = acts(house.step(match input {
            None => Input::Shutdown,
            Some(error) => Input::Malformed { link, version, error },
        }));
        assert_eq!(outputs, [send(link, refusal(reason)), close(link)]);
    }
}

#[test]
fn before_connack_there_is_no_disconnect_and_after_it_no_second_one() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    let connect = with_password(client(V5, "bill"));
    house.receive(link, Packet::Connect(Box::new(connect.clone())));
    let outputs = acts(house.receive(link, Packet::Connect(Box::new(connect.clone()))));
    assert_eq!(
        outputs,
        [send(link, refusal(ReasonCode::ProtocolError)), close(link)]
    );

    let link = house.arrive_at_locked_door();
    house.receive(link, Packet::Connect(Box::new(connect.clone())));
    let connacks = |outputs: &[Output]| {
        let sent = sent(outputs, link).into_iter();
        sent.filter(|packet| matches!(packet, Packet::ConnAck(_))).count()
    };
    assert_eq!(connacks(&house.verified(link, Verdict::Allow)), 1);
    assert_eq!(house.verified(link, Verdict::Allow), []);
    let outputs = acts(house.receive(link, Packet::Connect(Box::new(connect))));
    assert_eq!(
        outputs,
        [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
    );
    assert_eq!(
        house.receive(link, Packet::PingReq),
        [],
        "nothing follows DISCONNECT"
    );
}

#[test]
fn the_first_packet_of_the_server_is_connack_though_messages_wait() {
    let mut house = House::new();
    let bill = house.join(resuming(V5, "bill"));
    house.subscribe(bill, "t", QoS::AtLeastOnce);
    house.close(bill);
    house.step(own("t", "x", QoS::AtLeastOnce, false));
    let (bill, outputs) = house.connect(resuming(V5, "bill"));
    assert!(matches!(
        sent(&outputs, bill).as_slice(),
        [Packet::ConnAck(_), Packet::Publish(_)]
    ));
}

#[test]
fn a_client_that_wants_no_problem_information_gets_it_in_no_acknowledgement() {
    let mut house = House::new();
    let bill = house.join(Connect {
        properties: ConnectProperties {
            request_problem_information: Some(false),
            ..ConnectProperties::default()
        },
        ..client(V5, "bill")
    });
    let deep = "a/".repeat(40);
    let outputs = house.receive(bill, subscribe_packet(&[subscription(&deep, QoS::AtMostOnce)]));
    let plain_suback = Packet::SubAck(Box::new(SubAck {
        packet_id: id(1),
        reasons: [ReasonCode::TopicFilterInvalid].as_slice().into(),
        properties: None,
    }));
    assert_eq!(outputs, [send(bill, plain_suback)]);
    let denied = ReasonCode::NotAuthorized;
    let not_found = ReasonCode::PacketIdentifierNotFound;
    for (packet, answer) in [
        (
            Packet::Publish(message1(1, "$SYS/x", "lie")),
            puback_with(1, denied),
        ),
        (
            Packet::Publish(message2(2, "$SYS/x", "lie")),
            pubrec_with(2, denied),
        ),
        (pubrel(7), Packet::PubComp(Ack::with_reason(id(7), not_found))),
        (pubrec(7), Packet::PubRel(Ack::with_reason(id(7), not_found))),
    ] {
        assert_eq!(house.receive(bill, packet), [send(bill, answer)]);
    }
    let Packet::UnsubAck(unsuback) =
        sent(&house.receive(bill, unsubscribe_packet(&["never"])), bill)[0].clone()
    else {
        panic!("UNSUBSCRIBE has no answer")
    };
    assert_eq!(unsuback.properties, None);
}

#[test]
fn a_disconnect_of_the_server_says_nothing_of_the_sessions_life() {
    let mut house = House::new();
    let bill = house.join(resuming(V5, "bill"));
    let outputs = house.step(Input::Shutdown);
    let [Packet::Disconnect(farewell)] = sent(&outputs, bill)[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(farewell.properties.session_expiry_secs, None);
}

/// What a witness must not let pass, as if a broker had sent it.
fn witnessed(connect: Connect, packets: &[Packet], closed: bool) {
    let mut house = House::new();
    let (link, _) = house.connect(connect);
    let mut outputs: Vec<_> = packets.iter().map(|packet| send(link, packet.clone())).collect();
    if closed {
        outputs.push(close(link));
    }
    house.witness(&outputs);
}

#[test]
fn the_witness_reads_what_a_client_can_read() {
    witnessed(client(V5, "bill"), &[Packet::PingResp, puback(1)], false);
    witnessed(client(V5, "bill"), &[disconnect(ReasonCode::ServerBusy)], true);
}

#[test]
#[should_panic(expected = "SecondConnAck")]
fn the_witness_notices_a_second_connack() {
    witnessed(client(V5, "bill"), &[refusal(ReasonCode::Success)], false);
}

#[test]
#[should_panic(expected = "ReasonCodeNotAllowed")]
fn the_witness_notices_a_reason_that_is_not_the_packets() {
    witnessed(
        client(V5, "bill"),
        &[puback_with(1, ReasonCode::ServerBusy)],
        false,
    );
}

#[test]
#[should_panic(expected = "PropertyWrongDirection")]
fn the_witness_notices_a_property_only_clients_send() {
    let properties = DisconnectProperties {
        session_expiry_secs: Some(1),
        ..DisconnectProperties::default()
    };
    let farewell = Disconnect {
        reason: ReasonCode::ServerBusy,
        properties,
    };
    witnessed(
        client(V5, "bill"),
        &[Packet::Disconnect(Box::new(farewell))],
        true,
    );
}

#[test]
#[should_panic(expected = "PacketTooLarge")]
fn the_witness_notices_a_packet_larger_than_the_client_takes() {
    let large = Packet::Publish(message("t", &"x".repeat(30)));
    witnessed(taking(30, client(V5, "bill")), &[large], false);
}

#[test]
#[should_panic(expected = "nobody began")]
fn the_witness_notices_an_authentication_nobody_began() {
    witnessed(client(V5, "bill"), &[Packet::Auth(Box::default())], false);
}

#[test]
#[should_panic(expected = "stayed open")]
fn the_witness_notices_a_connection_that_outlives_its_farewell() {
    witnessed(client(V5, "bill"), &[disconnect(ReasonCode::ServerBusy)], false);
}

#[test]
#[should_panic(expected = "after the end")]
fn the_witness_notices_a_packet_after_the_farewell() {
    let packets = [disconnect(ReasonCode::ServerBusy), Packet::PingResp];
    witnessed(client(V5, "bill"), &packets, true);
}
