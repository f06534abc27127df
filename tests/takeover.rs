//! One session, many who want it: twins, thieves, late answers and late words, in every order.

mod conversation;

use conversation::*;
use tidegate::broker::{Event, Input, LinkId, Output, Verdict};
use tidegate::mqtt::{
    Connect, DecodeError, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, Will, WillProperties,
};

/// Every order of `items`.
fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, &first) in items.iter().enumerate() {
        let rest: Vec<_> = [&items[..index], &items[index + 1..]].concat();
        for mut order in orders(&rest) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}

fn mortal(version: ProtocolVersion, will_payload: &str) -> Connect {
    Connect {
        will: Some(Will {
            retain: true,
            ..will(&format!("gone/{will_payload}"), will_payload)
        }),
        ..resuming(version, "bill")
    }
}

/// What follows a CONNECT whose verdict is owed, from somebody who does not wait for it.
fn impatience() -> Vec<Packet> {
    vec![
        subscribe_packet(&[subscription("secret/#", QoS::AtLeastOnce)]),
        Packet::Publish(retained(message("planted", "x"))),
        unsubscribe_packet(&["t"]),
        puback(1),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Happening {
    /// A wrong password with the owner's name and identifier.
    DenyThief,
    /// A right password of somebody else, with the owner's identifier.
    AllowStranger,
    /// The owner's password.
    AllowTwin,
    /// Nobody could tell.
    GiveUpOnOther,
    CloseThief,
    CloseTwin,
}

#[test]
fn verdicts_that_come_late_in_any_order_leave_one_client_and_no_ghost() {
    use Happening::*;
    let happenings = [
        DenyThief,
        AllowStranger,
        AllowTwin,
        GiveUpOnOther,
        CloseThief,
        CloseTwin,
    ];
    for order in orders(&happenings) {
        for owner_is_in in [true, false] {
            let mut house = House::new();
            let witness = house.join(client(V5, "witness"));
            house.subscribe(witness, "gone/#", QoS::AtMostOnce);
            house.subscribe(witness, "planted", QoS::AtMostOnce);
            let owner = house.join_as("bill", mortal(V311, "owner"));
            house.subscribe(owner, "t", QoS::AtLeastOnce);
            house.step(own("t", "unfinished", QoS::AtLeastOnce, false));
            if !owner_is_in {
                house.receive(owner, disconnect(ReasonCode::Success));
            }
            let thief = house.knock("bill", mortal(V5, "thief"));
            let stranger = house.knock("eve", mortal(V5, "stranger"));
            let twin = house.knock("bill", mortal(V5, "twin"));
            let other = house.knock("bill", mortal(V5, "other"));
            for link in [thief, stranger, other] {
                for packet in impatience() {
                    assert_eq!(house.receive(link, packet), []);
                }
            }
            let mut outputs = Vec::new();
            for &happening in &order {
                outputs.extend(match happening {
                    DenyThief => house.verified(thief, Verdict::Deny),
                    AllowStranger => house.verified(stranger, Verdict::Allow),
                    AllowTwin => house.verified(twin, Verdict::Allow),
                    GiveUpOnOther => house.verified(other, Verdict::Unavailable),
                    CloseThief => house.close(thief),
                    CloseTwin => house.close(twin),
                });
            }
            let place = |wanted| order.iter().position(|happening| *happening == wanted);
            let twin_was_in = place(AllowTwin) < place(CloseTwin);
            let mut wills = Vec::new();
            if twin_was_in {
                wills.extend(owner_is_in.then_some("owner"));
                wills.push("twin");
            }
            assert_eq!(payloads(&outputs, witness), wills, "{order:?}");
            let came: Vec<_> = (events(&outputs).into_iter())
                .filter_map(|event| match event {
                    Event::ClientConnected {
                        link,
                        session_present,
                        ..
                    } => Some((*link, *session_present)),
                    _ => None,
                })
                .collect();
            assert_eq!(came, if twin_was_in { vec![(twin, true)] } else { vec![] });
            if twin_was_in {
                let expected = [repeated(message1(1, "t", "unfinished"))];
                assert_eq!(messages(&outputs, twin), expected, "{order:?}");
            }
            let owner_still_in = owner_is_in && !twin_was_in;
            let stats = house.stats();
            assert_eq!(stats.links, 1 + u64::from(owner_still_in), "{order:?}");
            assert_eq!(stats.clients_connected, stats.links, "no ghost");
            assert_eq!((stats.sessions, stats.subscriptions), (2, 3), "{order:?}");
            assert_eq!(stats.inflight_messages, 1);
            assert_eq!(stats.retained_messages, wills.len() as u64);
            // The session is whole: its owner gets what is meant for it.
            let link = if owner_still_in {
                owner
            } else {
                house.join_as("bill", resuming(V5, "bill"))
            };
            let outputs = house.step(own("t", "next", QoS::AtLeastOnce, false));
            assert_eq!(payloads(&outputs, link), ["next"]);
            assert_eq!(house.step(own("secret/a", "x", QoS::AtLeastOnce, false)), []);
        }
    }
}

#[test]
fn twins_whose_verdicts_come_in_any_order_leave_the_last_and_one_will_each() {
    for version in [V31, V311, V5] {
        for order in orders(&[0_usize, 1, 2, 3]) {
            let mut house = House::new();
            let witness = house.join(client(V5, "witness"));
            house.subscribe(witness, "gone/#", QoS::AtMostOnce);
            let names = ["a", "b", "c", "d"];
            let twins = names.map(|name| house.knock("bill", mortal(version, name)));
            let mut wills = Vec::new();
            for &turn in &order {
                let outputs = house.verified(twins[turn], Verdict::Allow);
                assert_eq!(connack(&outputs, twins[turn]).reason, ReasonCode::Success);
                wills.extend(payloads(&outputs, witness));
                assert_eq!(house.stats().clients_connected, 2);
            }
            let last = order[3];
            wills.extend(payloads(&house.close(twins[last]), witness));
            let expected: Vec<_> = order.iter().map(|&turn| names[turn].to_string()).collect();
            assert_eq!(wills, expected);
            for twin in twins {
                assert_eq!(house.verified(twin, Verdict::Deny), []);
                assert_eq!(house.close(twin), []);
            }
            assert_eq!((house.stats().links, house.stats().sessions), (1, 2));
        }
    }
}

/// What a link may still say, or have said of it, after another took its session.
fn late_words(link: LinkId) -> Vec<Input> {
    let received = |packet| Input::Received { link, packet };
    vec![
        received(puback(1)),
        received(pubrec(2)),
        received(pubrel(9)),
        received(pubcomp(3)),
        received(Packet::Publish(message("t", "late"))),
        received(Packet::Publish(retained(message2(9, "t", "late")))),
        received(subscribe_packet(&[subscription("#", QoS::AtLeastOnce)])),
        received(unsubscribe_packet(&["t"])),
        received(Packet::PingReq),
        received(disconnect(ReasonCode::Success)),
        received(disconnect(ReasonCode::DisconnectWithWillMessage)),
        received(Packet::Connect(Box::new(client(V5, "bill")))),
        Input::Flushed { link },
        Input::Malformed {
            link,
            version: Some(V5),
            error: DecodeError::Truncated,
        },
        Input::Verified {
            link,
            verdict: Verdict::Allow,
        },
        Input::Verified {
            link,
            verdict: Verdict::Deny,
        },
        Input::Closed { link },
        Input::Closed { link },
    ]
}

#[test]
fn whatever_an_old_connection_still_says_after_a_takeover_does_nothing() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let old = house.join(mortal(version, "old"));
        house.subscribe(old, "t", QoS::ExactlyOnce);
        for (payload, qos) in [
            ("1", QoS::AtLeastOnce),
            ("2", QoS::ExactlyOnce),
            ("3", QoS::ExactlyOnce),
        ] {
            house.step(own("t", payload, qos, false));
        }
        house.receive(old, pubrec(3));
        house.publish(old, message2(9, "elsewhere", "x"));
        let (new, outputs) = house.connect(resuming(version, "bill"));
        let resumed: Vec<_> = sent(&outputs, new).into_iter().skip(1).cloned().collect();
        let expected = [
            Packet::Publish(repeated(message1(1, "t", "1"))),
            Packet::Publish(repeated(message2(2, "t", "2"))),
            pubrel(3),
        ];
        assert_eq!(resumed, expected, "{version}");
        let before = house.stats().clone();
        for input in late_words(old) {
            let said = format!("{input:?}");
            assert_eq!(house.step(input), [], "{said}");
        }
        let after = house.stats().clone();
        assert_eq!(after, before, "{version}: a stale link changes no count");
        // The new connection finds everything as it was.
        assert_eq!(
            house.publish(new, repeated(message2(9, "elsewhere", "x"))),
            [send(new, pubrec(9))]
        );
        assert_eq!(house.receive(new, pubrec(2)), [send(new, pubrel(2))]);
        for packet in [puback(1), pubcomp(2), pubcomp(3)] {
            assert_eq!(house.receive(new, packet), []);
        }
        assert_eq!(house.stats().inflight_messages, 0);
    }
}

#[test]
fn the_keep_alive_of_an_old_connection_ends_nobody_after_a_takeover() {
    for version in [V311, V5] {
        let mut house = House::new();
        house.join(Connect {
            keep_alive_secs: 1,
            ..mortal(version, "old")
        });
        let (new, _) = house.connect(resuming(version, "bill"));
        assert_eq!(house.wait(secs(80)), []);
        assert_eq!(house.receive(new, Packet::PingReq), [send(new, Packet::PingResp)]);
        assert_eq!(
            (house.stats().keep_alive_timeouts, house.stats().clients_connected),
            (0, 1)
        );
    }
}

#[test]
fn a_stored_session_is_as_safe_from_strangers_as_a_living_one() {
    for (version, online) in [(V311, true), (V5, true), (V311, false), (V5, false)] {
        let mut house = House::new();
        let properties = WillProperties {
            delay_secs: (version == V5).then_some(500),
            publish: PublishProperties::default(),
        };
        let connect = Connect {
            will: Some(Will {
                properties,
                ..will("gone", "bill")
            }),
            keep_alive_secs: 0,
            ..resuming(version, "bill")
        };
        let witness = house.join(Connect {
            keep_alive_secs: 0,
            ..client(V311, "witness")
        });
        house.subscribe(witness, "gone", QoS::AtMostOnce);
        house.subscribe(witness, "stolen", QoS::AtMostOnce);
        let bill = house.join_as("bill", connect);
        house.subscribe(bill, "t", QoS::ExactlyOnce);
        house.step(own("t", "1", QoS::ExactlyOnce, false));
        house.publish(bill, message2(9, "elsewhere", "x"));
        if !online {
            house.close(bill);
            house.step(own("t", "2", QoS::ExactlyOnce, false));
        }
        let before = house.stats().clone();
        let thief = Connect {
            will: Some(Will {
                retain: true,
                ..will("stolen", "x")
            }),
            ..client(version, "bill")
        };
        // Without a name, by a certificate, by another's password, and once more with a clean start or not.
        for clean_start in [true, false] {
            let connect = Connect {
                clean_start,
                ..thief.clone()
            };
            let doors = [
                house.arrive(),
                house.arrive_through(false, Some("mallory")),
                house.arrive_through(true, Some("Bill")),
                house.arrive_through(true, Some("bill ")),
            ];
            for link in doors {
                let outputs = house.receive(link, Packet::Connect(Box::new(connect.clone())));
                let refused = [
                    send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
                    close(link),
                ];
                assert_eq!(acts(outputs), refused);
            }
            for user in ["eve", "BILL", "#", "+", "bill/#"] {
                let link = house.knock(user, connect.clone());
                let outputs = house.verified(link, Verdict::Allow);
                let refused = [
                    send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
                    close(link),
                ];
                assert_eq!(acts(outputs), refused, "{user}");
            }
        }
        assert_eq!(
            house.wait(secs(100)),
            [],
            "no will of a thief, no end of the owner"
        );
        let after = house.stats().clone();
        for (found, expected) in [
            (after.links, before.links),
            (after.sessions, before.sessions),
            (after.clients_connected, before.clients_connected),
            (after.takeovers, before.takeovers),
            (after.wills_sent, before.wills_sent),
            (after.subscriptions, before.subscriptions),
            (after.queued_messages, before.queued_messages),
            (after.inflight_messages, before.inflight_messages),
            (after.queued_bytes, before.queued_bytes),
            (after.retained_messages, before.retained_messages),
        ] {
            assert_eq!(found, expected);
        }
        let (link, mut outputs) = if online {
            (bill, Vec::new())
        } else {
            let link = house.knock("bill", resuming(version, "bill"));
            (link, house.verified(link, Verdict::Allow))
        };
        outputs.extend(house.step(own("t", "3", QoS::ExactlyOnce, false)));
        let expected: &[&str] = if online { &["3"] } else { &["1", "2", "3"] };
        assert_eq!(payloads(&outputs, link), expected);
        let again = house.publish(link, repeated(message2(9, "elsewhere", "x")));
        assert_eq!(again, [send(link, pubrec(9))], "the QoS 2 message is still known");
    }
}

#[test]
fn whoever_proves_the_same_in_two_ways_is_the_same() {
    let mut house = House::new();
    let by_password = house.join_as("pump-7", resuming(V5, "pump"));
    house.subscribe(by_password, "t", QoS::AtLeastOnce);
    let by_certificate = house.arrive_through(false, Some("pump-7"));
    let outputs = house.receive(by_certificate, Packet::Connect(Box::new(resuming(V5, "pump"))));
    assert!(connack(&outputs, by_certificate).session_present);
    assert!(outputs.contains(&send(by_password, disconnect(ReasonCode::SessionTakenOver))));
}

#[test]
fn a_name_in_connect_is_nothing_beside_the_name_in_a_certificate() {
    let mut house = House::new();
    let bill = house.join_as("bill", resuming(V5, "bill"));
    let eve = house.arrive_through(true, Some("eve"));
    let connect = Connect {
        user_name: Some(text("bill")),
        password: Some("secret".into()),
        ..resuming(V5, "bill")
    };
    let outputs = house.receive(eve, Packet::Connect(Box::new(connect)));
    assert_eq!(
        connack(&outputs, eve).reason,
        ReasonCode::ClientIdentifierNotValid
    );
    assert_eq!(
        house.receive(bill, Packet::PingReq),
        [send(bill, Packet::PingResp)]
    );
}

#[test]
fn a_second_connect_ends_its_sender_whoever_it_claims_to_be() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let witness = house.join(client(V5, "witness"));
        house.subscribe(witness, "gone/#", QoS::AtMostOnce);
        let victim = house.join(resuming(version, "victim"));
        house.subscribe(victim, "t", QoS::AtLeastOnce);
        let bill = house.join(mortal(version, "first"));
        let second = Connect {
            client_id: Some(client_id("victim")),
            ..mortal(version, "second")
        };
        let outputs = house.receive(bill, Packet::Connect(Box::new(second)));
        let words = sent(&outputs, bill);
        let expected = disconnect(ReasonCode::ProtocolError);
        assert_eq!(words, if version == V5 { vec![&expected] } else { vec![] });
        assert!(outputs.contains(&close(bill)));
        assert_eq!(
            payloads(&outputs, witness),
            ["first"],
            "the will of the first CONNECT, and no other"
        );
        assert_eq!(
            payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), victim),
            ["x"]
        );
        // Before the verdict on the first.
        let bill = house.knock("bill", client(version, "new"));
        let outputs = house.receive(bill, Packet::Connect(Box::new(client(version, "victim"))));
        assert!(outputs.contains(&close(bill)));
        assert_eq!(house.verified(bill, Verdict::Allow), []);
        assert_eq!(house.stats().clients_connected, 2);
    }
}

#[test]
fn a_refused_clients_words_are_not_read_before_or_after_its_refusal() {
    for verdict in [Verdict::Deny, Verdict::Unavailable, Verdict::NoUsers] {
        for version in [V31, V311, V5] {
            let mut house = House::new();
            let witness = house.join(client(V5, "witness"));
            house.subscribe(witness, "#", QoS::AtMostOnce);
            let baseline = house.stats().clone();
            let link = house.knock("eve", mortal(version, "eve"));
            for packet in impatience() {
                assert_eq!(house.receive(link, packet), []);
            }
            let outputs = house.verified(link, verdict);
            let mut words = sent(&outputs, link).len();
            assert_eq!(outputs.iter().filter(|output| **output == close(link)).count(), 1);
            for packet in impatience() {
                let outputs = house.receive(link, packet);
                words += outputs.len();
            }
            house.wait(secs(50));
            assert_eq!(words, 1, "the refusal and nothing else");
            assert!(
                !outputs
                    .iter()
                    .any(|output| matches!(output, Output::Send { link, .. } if *link == witness))
            );
            let stats = house.stats();
            assert_eq!(stats.messages_received, baseline.messages_received);
            assert_eq!(
                (stats.sessions, stats.subscriptions, stats.retained_messages),
                (1, 1, 0)
            );
        }
    }
}
