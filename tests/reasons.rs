//! What clients are told beside the bare code: why, where else to go, where answers are to be sent; and that none of
//! it makes a packet larger than they take.

mod conversation;

use conversation::*;
use tidegate::broker::{DetachReason, Event, Input, Limits, LinkId, Output, Refusal, Settings};
use tidegate::mqtt::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet,
    Publish, PublishProperties, QoS, ReasonCode, Will, encoded_len,
};

fn with(properties: ConnectProperties) -> Connect {
    Connect {
        properties,
        ..client(V5, "bill")
    }
}

fn disconnection(outputs: &[Output], link: LinkId) -> Option<Disconnect> {
    sent(outputs, link).into_iter().find_map(|packet| match packet {
        Packet::Disconnect(disconnect) => Some((**disconnect).clone()),
        _ => None,
    })
}

/// The client breaks a rule.
fn break_a_rule(house: &mut House, link: LinkId) -> Vec<Output> {
    house.receive(link, Packet::Connect(Box::new(client(V5, "bill"))))
}

#[test]
fn a_5_0_client_reads_which_rule_it_broke_and_so_does_the_log() {
    let mut house = House::new();
    house.tells_reasons = true;
    let link = house.join(client(V5, "bill"));
    let outputs = break_a_rule(&mut house, link);
    let expected = Disconnect {
        reason: ReasonCode::ProtocolError,
        properties: DisconnectProperties {
            reason_string: Some(text("a second CONNECT")),
            ..DisconnectProperties::default()
        },
    };
    assert_eq!(disconnection(&outputs, link), Some(expected));
    let reason = DetachReason::Refused(Refusal::SecondConnect);
    assert_eq!(
        reason.to_string(),
        "refused: a second CONNECT, protocol error (0x82)"
    );
    assert!(events(&outputs).contains(&&Event::ClientDisconnected {
        link,
        client: client_id("bill"),
        reason
    }));
    let (link, outputs) = house.connect(Connect {
        client_id: None,
        clean_start: false,
        ..client(V311, "")
    });
    assert_eq!(
        connack(&outputs, link),
        ConnAck {
            reason: ReasonCode::ClientIdentifierNotValid,
            ..ConnAck::default()
        },
        "3.1.1 has no room for it"
    );
}

#[test]
fn a_reason_is_left_out_where_it_was_not_asked_for_or_has_no_room() {
    let quiet = ConnectProperties {
        request_problem_information: Some(false),
        ..ConnectProperties::default()
    };
    let small = ConnectProperties {
        packet_bytes_max: Some(20),
        ..ConnectProperties::default()
    };
    for properties in [quiet, small] {
        let mut house = House::new();
        house.tells_reasons = true;
        let link = house.join(with(properties.clone()));
        let outputs = break_a_rule(&mut house, link);
        let bare = Disconnect {
            reason: ReasonCode::ProtocolError,
            ..Disconnect::default()
        };
        assert_eq!(disconnection(&outputs, link), Some(bare));

        let refused = Connect {
            client_id: client_id(&"x".repeat(300)).into(),
            ..with(properties)
        };
        let (link, outputs) = house.connect(refused);
        let bare = ConnAck {
            reason: ReasonCode::ClientIdentifierNotValid,
            ..ConnAck::default()
        };
        assert_eq!(connack(&outputs, link), bare);
    }
}

#[test]
fn nothing_larger_than_the_client_takes_is_sent_whatever_it_is() {
    for packet_bytes_max in 1..=40 {
        let mut house = House::new();
        house.tells_reasons = true;
        let properties = ConnectProperties {
            packet_bytes_max: Some(packet_bytes_max),
            topic_alias_maximum: Some(3),
            ..ConnectProperties::default()
        };
        let (link, mut outputs) = house.connect(with(properties));
        for payload in ["", "0123456789", "01234567890123456789"] {
            let filters = vec![subscription("a/topic/of/some/length", QoS::ExactlyOnce); 12];
            outputs.extend(house.receive(link, subscribe_packet(&filters)));
            outputs.extend(house.step(own("a/topic/of/some/length", payload, QoS::AtLeastOnce, false)));
            outputs.extend(house.publish(link, message2(1, "$forbidden", payload)));
        }
        outputs.extend(break_a_rule(&mut house, link));
        for packet in sent(&outputs, link) {
            assert!(
                encoded_len(packet, V5) <= packet_bytes_max as usize,
                "{packet:?} is larger than {packet_bytes_max}"
            );
        }
        assert_eq!(outputs.iter().filter(|output| **output == close(link)).count(), 1);
    }
}

#[test]
fn a_connack_or_suback_that_does_not_fit_ends_the_connection_with_0x95() {
    let mut house = House::new();
    let tiny = |packet_bytes_max| {
        with(ConnectProperties {
            packet_bytes_max: Some(packet_bytes_max),
            ..ConnectProperties::default()
        })
    };
    let (link, outputs) = house.connect(tiny(10));
    assert_eq!(
        acts(outputs),
        [send(link, refusal(ReasonCode::PacketTooLarge)), close(link)]
    );
    let link = house.join(tiny(24));
    let filters = vec![subscription("t", QoS::AtMostOnce); 40];
    let outputs = acts(house.receive(link, subscribe_packet(&filters)));
    assert_eq!(
        outputs,
        [send(link, disconnect(ReasonCode::PacketTooLarge)), close(link)]
    );
}

#[test]
fn a_full_or_stopping_house_names_another_where_it_knows_one() {
    let settings = Settings {
        server_reference: Some(text("other.example:8883")),
        ..Settings::default()
    };
    let mut house = House::with(settings.clone());
    let link = house.join(client(V5, "bill"));
    let old = house.join(client(V311, "old"));
    let outputs = house.step(Input::Shutdown);
    let elsewhere = Disconnect {
        reason: ReasonCode::UseAnotherServer,
        properties: DisconnectProperties {
            server_reference: settings.server_reference.clone(),
            ..DisconnectProperties::default()
        },
    };
    assert_eq!(disconnection(&outputs, link), Some(elsewhere));
    assert!(sent(&outputs, old).is_empty());

    let limits = Limits {
        sessions_max: 0,
        ..Limits::default()
    };
    let mut full = House::within(limits);
    full.broker = full.broker.with_settings(settings.clone());
    let (link, outputs) = full.connect(client(V5, "bill"));
    let elsewhere = ConnAck {
        session_present: false,
        reason: ReasonCode::UseAnotherServer,
        properties: ConnAckProperties {
            server_reference: settings.server_reference,
            ..ConnAckProperties::default()
        },
    };
    assert_eq!(connack(&outputs, link), elsewhere);
    let (link, outputs) = full.connect(client(V311, "old"));
    let mut bytes = bytes::BytesMut::new();
    tidegate::mqtt::encode(sent(&outputs, link)[0], V311, &mut bytes);
    assert_eq!(
        bytes[..],
        [0x20, 2, 0, 3],
        "server unavailable, in the words of 3.1.1"
    );
}

#[test]
fn where_else_to_go_is_said_also_where_the_reason_has_no_room_and_left_out_where_it_has_none_itself() {
    let limits = Limits {
        sessions_max: 0,
        ..Limits::default()
    };
    let elsewhere = text("other.example:8883");
    let mut full = House::within(limits).decided(Settings {
        server_reference: Some(elsewhere.clone()),
        ..Settings::default()
    });
    full.tells_reasons = true;
    // Fixed header, flags, reason, the properties' length, and the property.
    let bytes_min = 2 + 2 + 1 + 3 + 18;
    for (packet_bytes_max, told) in [(bytes_min, Some(elsewhere)), (bytes_min - 1, None)] {
        let (link, outputs) = full.connect(with(ConnectProperties {
            packet_bytes_max: Some(packet_bytes_max),
            ..ConnectProperties::default()
        }));
        let connack = connack(&outputs, link);
        assert_eq!(connack.reason, ReasonCode::UseAnotherServer);
        assert_eq!(connack.properties.server_reference, told);
        assert_eq!(connack.properties.reason_string, None);
    }
}

#[test]
fn who_asks_for_response_information_gets_a_topic_of_its_own() {
    let settings = Settings {
        response_information: Some(topic("replies")),
        ..Settings::default()
    };
    let asking = |id: &str| Connect {
        client_id: Some(client_id(id)),
        ..with(ConnectProperties {
            request_response_information: Some(true),
            ..ConnectProperties::default()
        })
    };
    let told = |house: &mut House, connect: Connect| {
        let (link, outputs) = house.connect(connect);
        connack(&outputs, link).properties.response_information
    };
    let mut house = House::with(settings);
    assert_eq!(told(&mut house, asking("bill")), Some(text("replies/bill")));
    assert_eq!(told(&mut house, client(V5, "bill")), None, "it did not ask");
    assert_eq!(
        told(&mut house, asking("b/+")),
        None,
        "that is no level of a filter"
    );
    assert_eq!(
        told(&mut House::new(), asking("bill")),
        None,
        "none is configured"
    );
}

#[test]
fn a_payload_that_is_not_the_text_it_says_is_refused_where_that_is_looked_at() {
    let settings = Settings {
        check_payload_format: true,
        ..Settings::default()
    };
    let text = PublishProperties {
        payload_is_utf8: Some(true),
        ..PublishProperties::default()
    };
    let wrong = |publish: Publish| Publish {
        payload: vec![0xFF, b'x'].into(),
        properties: Some(Box::new(text.clone())),
        ..publish
    };
    let mut house = House::with(settings);
    let link = house.join(client(V5, "bill"));
    let outputs = house.publish(link, wrong(message1(1, "t", "")));
    assert_eq!(
        outputs,
        [send(link, puback_with(1, ReasonCode::PayloadFormatInvalid))]
    );
    let outputs = house.publish(link, wrong(message2(2, "t", "")));
    assert_eq!(
        outputs,
        [send(link, pubrec_with(2, ReasonCode::PayloadFormatInvalid))]
    );
    let outputs = acts(house.publish(link, wrong(message("t", ""))));
    assert_eq!(
        outputs,
        [
            send(link, disconnect(ReasonCode::PayloadFormatInvalid)),
            close(link)
        ]
    );
    let mut mortal = client(V5, "bill");
    let mut testament = Will {
        payload: vec![0xFF].into(),
        ..will("t", "")
    };
    testament.properties.publish.payload_is_utf8 = Some(true);
    mortal.will = Some(testament);
    let (link, outputs) = house.connect(mortal.clone());
    assert_eq!(
        acts(outputs),
        [send(link, refusal(ReasonCode::PayloadFormatInvalid)), close(link)]
    );

    let mut lenient = House::new();
    let link = lenient.join(mortal);
    let outputs = lenient.publish(link, wrong(message1(1, "t", "")));
    assert_eq!(
        outputs,
        [send(link, puback_with(1, ReasonCode::NoMatchingSubscribers))]
    );
}

#[test]
fn an_operator_sends_a_client_away_and_its_session_and_will_stay_what_they_are() {
    for (version, farewell) in [
        (V5, Some(disconnect(ReasonCode::AdministrativeAction))),
        (V311, None),
    ] {
        let mut house = House::new();
        let reader = house.join(client(V311, "reader"));
        house.subscribe(reader, "will", QoS::AtMostOnce);
        let link = house.join(Connect {
            will: Some(will("will", "gone")),
            ..resuming(version, "bill")
        });
        let outputs = house.step(kick(known_as("bill")));
        assert_eq!(sent(&outputs, link), farewell.iter().collect::<Vec<_>>());
        assert!(outputs.contains(&close(link)));
        assert_eq!(payloads(&outputs, reader), ["gone"]);
        assert_eq!(house.stats().sessions, 2);
    }
}
