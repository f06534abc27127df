//! Bytes that are no MQTT: the peer is told where its version lets us, and nobody else notices.

mod conversation;

use conversation::*;
use tidegate::broker::{DetachReason, Event, Input, Output};
use tidegate::mqtt::{DecodeError, Packet, QoS, ReasonCode};

#[test]
fn a_connected_5_0_client_gets_a_disconnect_with_the_reason() {
    for (error, reason) in [
        (DecodeError::Truncated, ReasonCode::MalformedPacket),
        (DecodeError::SecondConnect, ReasonCode::ProtocolError),
        (DecodeError::PacketTooLarge, ReasonCode::PacketTooLarge),
    ] {
        let mut house = House::new();
        let link = house.join(client(V5, "bill"));
        let outputs = house.step(Input::Malformed {
            link,
            version: Some(V5),
            error,
        });
        let told = Event::ClientDisconnected {
            link,
            client: client_id("bill"),
            reason: DetachReason::Malformed(error),
        };
        assert_eq!(
            outputs,
            [send(link, disconnect(reason)), close(link), Output::Event(told)]
        );
    }
}

#[test]
fn an_older_client_is_closed_without_a_word() {
    for version in [V31, V311] {
        let mut house = House::new();
        let link = house.join(client(version, "bill"));
        let error = DecodeError::Truncated;
        assert_eq!(
            acts(house.step(Input::Malformed {
                link,
                version: Some(version),
                error
            })),
            [close(link)]
        );
    }
}

#[test]
fn a_malformed_connect_is_answered_where_its_version_was_read() {
    let error = DecodeError::ConnectReservedFlag;
    for (version, answer) in [
        (None, None),
        (Some(V311), None),
        (Some(V5), Some(ReasonCode::MalformedPacket)),
    ] {
        let mut house = House::new();
        let link = house.arrive();
        let mut expected: Vec<_> = answer
            .map(|reason| send(link, refusal(reason)))
            .into_iter()
            .collect();
        expected.push(close(link));
        assert_eq!(
            acts(house.step(Input::Malformed { link, version, error })),
            expected
        );
    }
}

#[test]
fn a_version_we_do_not_speak_is_answered_in_the_nearest_we_do() {
    let error = DecodeError::UnsupportedProtocolLevel(6);
    for version in [V311, V5] {
        let mut house = House::new();
        let link = house.arrive();
        let outputs = acts(house.step(Input::Malformed {
            link,
            version: Some(version),
            error,
        }));
        assert_eq!(
            outputs,
            [
                send(link, refusal(ReasonCode::UnsupportedProtocolVersion)),
                close(link)
            ]
        );
    }
}

#[test]
fn malformed_bytes_while_a_password_is_checked_end_the_connection() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    let mut connect = client(V5, "bill");
    connect.user_name = Some(text("bill"));
    house.receive(link, Packet::Connect(Box::new(connect)));
    let outputs = acts(house.step(Input::Malformed {
        link,
        version: Some(V5),
        error: DecodeError::Truncated,
    }));
    assert_eq!(
        outputs,
        [send(link, refusal(ReasonCode::MalformedPacket)), close(link)]
    );
    assert_eq!(house.verified(link, tidegate::broker::Verdict::Allow), []);
}

#[test]
fn nobody_else_is_disturbed() {
    let mut house = House::new();
    let witness = house.join(client(V5, "witness"));
    house.subscribe(witness, "#", QoS::AtMostOnce);
    let link = house.join(client(V5, "bill"));
    let outputs = house.step(Input::Malformed {
        link,
        version: Some(V5),
        error: DecodeError::Truncated,
    });
    assert_eq!(sent(&outputs, witness), [] as [&Packet; 0]);
    assert_eq!(
        payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), witness),
        ["x"]
    );
}

#[test]
fn a_packet_only_servers_send_is_a_protocol_error() {
    for packet in [Packet::PingResp, refusal(ReasonCode::Success)] {
        let mut house = House::new();
        let link = house.join(client(V5, "bill"));
        let outputs = acts(house.receive(link, packet));
        assert_eq!(
            outputs,
            [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
        );
    }
}
