//! Coming back: whatever the moment a connection was lost at, the session goes on where it was.

mod conversation;

use std::collections::BTreeSet;

use conversation::*;
use tidegate::broker::{Limits, LinkId, Output};
use tidegate::mqtt::{Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode};

/// All packets sent on `link` but CONNACK.
fn said(outputs: &[Output], link: LinkId) -> Vec<Packet> {
    (sent(outputs, link).into_iter())
        .filter(|packet| !matches!(packet, Packet::ConnAck(_)))
        .cloned()
        .collect()
}

fn back(house: &mut House, connect: &Connect) -> (LinkId, Vec<Packet>) {
    let (link, outputs) = house.connect(connect.clone());
    assert!(connack(&outputs, link).session_present);
    (link, said(&outputs, link))
}

#[test]
fn a_delivery_at_qos_2_goes_on_from_every_step_it_was_dropped_at() {
    for version in [V31, V311, V5] {
        for drops in 1..4 {
            let mut house = House::new();
            let connect = resuming(version, "bill");
            let mut bill = house.join(connect.clone());
            house.subscribe(bill, "t", QoS::ExactlyOnce);
            house.step(own("t", "before", QoS::ExactlyOnce, false));
            let first = house.step(own("t", "x", QoS::ExactlyOnce, false));
            assert_eq!(said(&first, bill), [Packet::Publish(message2(2, "t", "x"))]);
            // Dropped after our PUBLISH: repeated with its identifier and DUP, as often as it takes.
            for _ in 0..drops {
                house.close(bill);
                let (link, words) = back(&mut house, &connect);
                bill = link;
                let expected = [
                    Packet::Publish(repeated(message2(1, "t", "before"))),
                    Packet::Publish(repeated(message2(2, "t", "x"))),
                ];
                assert_eq!(words, expected, "{version}");
            }
            // Dropped after PUBREC and our PUBREL: PUBREL again, and never the message.
            assert_eq!(house.receive(bill, pubrec(2)), [send(bill, pubrel(2))]);
            for _ in 0..drops {
                house.close(bill);
                let (link, words) = back(&mut house, &connect);
                bill = link;
                let expected = [Packet::Publish(repeated(message2(1, "t", "before"))), pubrel(2)];
                assert_eq!(words, expected, "{version}");
            }
            // PUBCOMP got lost on the way here: the client, which has done with it, answers again.
            assert_eq!(house.receive(bill, pubcomp(2)), []);
            assert_eq!(house.receive(bill, pubcomp(2)), []);
            house.receive(bill, pubrec(1));
            house.receive(bill, pubcomp(1));
            house.close(bill);
            let (bill, words) = back(&mut house, &connect);
            assert_eq!(words, []);
            let outputs = house.step(own("t", "next", QoS::ExactlyOnce, false));
            assert_eq!(said(&outputs, bill), [Packet::Publish(message2(3, "t", "next"))]);
        }
    }
}

#[test]
fn a_message_at_qos_2_from_a_client_arrives_once_whatever_step_it_was_dropped_at() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "t", QoS::AtMostOnce);
        let connect = resuming(version, "bill");
        let mut bill = house.join(connect.clone());
        let unknown = match version {
            V5 => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        let mut received = 0;
        for number in [7, 8, 7, 7] {
            // PUBREC was lost, again and again.
            for attempt in 0..3 {
                let publish = message2(number, "t", "x");
                let publish = if attempt == 0 { publish } else { repeated(publish) };
                let outputs = house.publish(bill, publish);
                assert_eq!(said(&outputs, bill), [pubrec(number)]);
                received += payloads(&outputs, reader).len();
                house.close(bill);
                bill = back(&mut house, &connect).0;
            }
            // PUBCOMP was lost: PUBREL comes again, and is answered again.
            for attempt in 0..3 {
                let reason = if attempt == 0 {
                    ReasonCode::Success
                } else {
                    unknown
                };
                let expected = Packet::PubComp(tidegate::mqtt::Ack::with_reason(id(number), reason));
                assert_eq!(house.receive(bill, pubrel(number)), [send(bill, expected)]);
                house.close(bill);
                bill = back(&mut house, &connect).0;
            }
        }
        assert_eq!(
            received, 4,
            "{version}: each message once, identifiers used again"
        );
    }
}

#[test]
fn on_a_live_connection_nothing_is_ever_sent_again() {
    for version in [V311, V5] {
        let mut house = House::new();
        let bill = house.join(Connect {
            keep_alive_secs: 1200,
            ..resuming(version, "bill")
        });
        house.subscribe(bill, "t", QoS::ExactlyOnce);
        let mut seen = BTreeSet::new();
        let mut see = |outputs: &[Output]| {
            for publish in messages(outputs, bill) {
                assert!(!publish.dup && seen.insert(publish.packet_id), "{publish:?}");
            }
        };
        for number in 0..6 {
            let qos = if number % 2 == 0 {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            };
            see(&house.step(own("t", "x", qos, false)));
        }
        let mut releases = said(&house.receive(bill, pubrec(2)), bill);
        for _ in 0..50 {
            let mut outputs = house.wait(secs(600));
            outputs.extend(house.receive(bill, Packet::PingReq));
            outputs.extend(house.flush(bill));
            outputs.extend(house.receive(bill, subscribe_packet(&[subscription("t", QoS::ExactlyOnce)])));
            see(&outputs);
            releases.extend(
                said(&outputs, bill)
                    .into_iter()
                    .filter(|packet| matches!(packet, Packet::PubRel(_))),
            );
        }
        see(&house.receive(bill, puback(1)));
        see(&house.step(own("t", "x", QoS::AtLeastOnce, false)));
        assert_eq!(releases, [pubrel(2)]);
        assert_eq!(house.stats().inflight_messages, 6);
    }
}

#[test]
fn seventy_thousand_messages_give_no_identifier_out_that_is_still_in_use() {
    for (version, qos) in [(V311, QoS::AtLeastOnce), (V5, QoS::ExactlyOnce)] {
        let mut house = House::new();
        let connect = resuming(version, "bill");
        let mut bill = house.join(connect.clone());
        house.subscribe(bill, "t", QoS::ExactlyOnce);
        let mut stuck = BTreeSet::new();
        for number in 0..70_000_u32 {
            let outputs = house.step(own("t", "x", qos, false));
            let given = messages(&outputs, bill)[0].packet_id.expect("not at QoS 0");
            assert!(!stuck.contains(&given), "{given:?} is in use");
            if number % 9_000 == 17 {
                // Never acknowledged, or at QoS 2 every other one never completed.
                if qos == QoS::ExactlyOnce && number % 2 == 0 {
                    house.receive(bill, pubrec(given.get()));
                }
                stuck.insert(given);
            } else if qos == QoS::AtLeastOnce {
                house.receive(bill, puback(given.get()));
            } else {
                house.receive(bill, pubrec(given.get()));
                house.receive(bill, pubcomp(given.get()));
            }
            if number % 20_000 == 19_999 {
                house.close(bill);
                let (link, words) = back(&mut house, &connect);
                bill = link;
                assert_eq!(words.len(), stuck.len());
            }
        }
        assert_eq!(stuck.len(), 8);
        assert_eq!(house.stats().inflight_messages, 8);
    }
}

#[test]
fn a_clean_start_discards_everything_the_session_held() {
    for version in [V31, V311, V5] {
        for online in [true, false] {
            let mut house = House::new();
            let mut connect = resuming(version, "bill");
            if version == V5 {
                connect.properties.receive_maximum = Some(3);
            }
            let bill = house.join(connect.clone());
            house.step(own("r/1", "retained", QoS::AtLeastOnce, true));
            house.subscribe(bill, "t", QoS::ExactlyOnce);
            house.subscribe(bill, "$share/g/t", QoS::ExactlyOnce);
            for payload in ["1", "2", "3"] {
                house.step(own("t", payload, QoS::ExactlyOnce, false));
            }
            house.receive(bill, pubrec(1));
            house.subscribe(bill, "r/#", QoS::AtLeastOnce);
            house.publish(bill, message2(9, "elsewhere", "x"));
            if !online {
                house.close(bill);
                house.step(own("t", "4", QoS::ExactlyOnce, false));
            }
            let (link, outputs) = house.connect(Connect {
                clean_start: true,
                ..connect.clone()
            });
            assert!(!connack(&outputs, link).session_present);
            assert_eq!(said(&outputs, link), [], "{version}");
            let stats = house.stats();
            assert_eq!(
                (
                    stats.sessions,
                    stats.subscriptions,
                    stats.inflight_messages,
                    stats.queued_bytes
                ),
                (1, 0, 0, 0)
            );
            assert_eq!(house.flush(link), []);
            assert_eq!(house.step(own("t", "5", QoS::ExactlyOnce, false)), []);
            // Identifiers start afresh, both ways.
            house.subscribe(link, "t", QoS::ExactlyOnce);
            house.subscribe(link, "elsewhere", QoS::AtMostOnce);
            let outputs = house.publish(link, message2(9, "elsewhere", "new"));
            assert_eq!(payloads(&outputs, link), ["new"]);
            let outputs = house.step(own("t", "6", QoS::ExactlyOnce, false));
            assert_eq!(said(&outputs, link), [Packet::Publish(message2(1, "t", "6"))]);
        }
    }
}

/// Identifiers that look like something else, or are as long as they may be.
fn odd_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "#",
        "+",
        "+/x",
        "a/b",
        "/",
        "//",
        "$SYS",
        "$share/g/t",
        "%c",
        "%u",
        ".*",
        "[a-z]",
        "a b",
        " ",
        "\t",
        "\u{1}",
        "..",
        "../../etc/passwd",
        "'; drop table",
        "\u{feff}",
        "ünïcødé",
        "日本",
        "👩‍🌾",
        "tidegate-0",
        "A",
        "a",
    ]
    .map(String::from)
    .into();
    ids.push("x".repeat(256));
    ids
}

#[test]
fn clients_with_odd_identifiers_are_clients_like_any_other_and_each_itself() {
    for version in [V311, V5] {
        let mut house = House::new();
        let connect = |name: &str| {
            let properties = ConnectProperties {
                session_expiry_secs: (version == V5).then_some(300),
                ..ConnectProperties::default()
            };
            // A clean start with an expiry is a session that is kept; before 5.0 there is no such thing.
            Connect {
                clean_start: version == V5,
                properties,
                ..client(version, name)
            }
        };
        let ids = odd_ids();
        let links: Vec<_> = ids.iter().map(|name| house.join(connect(name))).collect();
        for (number, &link) in links.iter().enumerate() {
            for filter in [
                "all/+".into(),
                "all/#".into(),
                format!("one/{number}"),
                format!("$share/{number}/all/x"),
            ] {
                house.subscribe(link, &filter, QoS::AtLeastOnce);
            }
        }
        for &link in &links {
            house.close(link);
        }
        house.step(own("all/x", "to all", QoS::AtLeastOnce, false));
        for number in 0..ids.len() {
            house.step(own(
                &format!("one/{number}"),
                &format!("to {number}"),
                QoS::ExactlyOnce,
                false,
            ));
        }
        for (number, name) in ids.iter().enumerate() {
            let (link, outputs) = house.connect(Connect {
                clean_start: false,
                ..connect(name)
            });
            assert!(connack(&outputs, link).session_present, "{name:?}");
            // Once for the two filters that overlap, once for the shared subscription.
            let expected = ["to all".to_string(), "to all".to_string(), format!("to {number}")];
            assert_eq!(payloads(&outputs, link), expected, "{name:?}");
        }
        assert_eq!(house.stats().clients_connected, ids.len() as u64);
        assert_eq!((house.stats().takeovers, house.stats().queued_messages), (0, 0));
    }
}

#[test]
fn an_identifier_as_long_as_the_wire_can_say_is_refused_with_its_reason_and_kept_nowhere() {
    for version in [V31, V311, V5] {
        for bytes in [257, 65_535] {
            let mut house = House::new();
            let (link, outputs) = house.connect(resuming(version, &"x".repeat(bytes)));
            let expected = [
                send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
                close(link),
            ];
            assert_eq!(acts(outputs), expected);
            assert_eq!((house.stats().sessions, house.stats().links), (0, 0));
        }
        let limits = Limits {
            topic_bytes_max: 65_535,
            ..Limits::default()
        };
        let mut house = House::within(limits);
        let name = "x".repeat(65_535);
        let link = house.join(resuming(version, &name));
        house.close(link);
        back(&mut house, &resuming(version, &name));
    }
}

#[test]
fn an_empty_identifier_is_assigned_one_that_can_be_resumed_by_its_name() {
    let mut house = House::new();
    for clean_start in [true, false] {
        let nameless = Connect {
            client_id: None,
            clean_start,
            ..resuming(V5, "")
        };
        let (link, outputs) = house.connect(nameless.clone());
        let assigned = connack(&outputs, link)
            .properties
            .assigned_client_id
            .expect("assigned");
        assert!(!connack(&outputs, link).session_present);
        house.subscribe(link, "t", QoS::AtLeastOnce);
        house.close(link);
        house.step(own("t", "x", QoS::AtLeastOnce, false));
        let named = Connect {
            client_id: Some(assigned),
            clean_start: false,
            ..nameless.clone()
        };
        let (link, outputs) = house.connect(named);
        let connack = connack(&outputs, link);
        assert!(connack.session_present && connack.properties.assigned_client_id.is_none());
        assert_eq!(payloads(&outputs, link), ["x"]);
        house.receive(link, disconnect(ReasonCode::Success));
    }
    // Two without a name never share a session, whatever they ask for.
    let ends: [(ProtocolVersion, bool); 3] = [(V311, true), (V5, true), (V5, false)];
    for (version, clean_start) in ends {
        let nameless = Connect {
            client_id: None,
            clean_start,
            ..client(version, "")
        };
        let before = house.stats().takeovers;
        let (one, two) = (house.join(nameless.clone()), house.join(nameless));
        assert_ne!(one, two);
        assert_eq!(house.stats().takeovers, before);
        house.close(one);
        house.close(two);
    }
    assert_eq!(house.stats().links, 0);
}
