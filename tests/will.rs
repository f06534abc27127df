//! Wills: sent once, when a client goes without a word, and never otherwise.

mod conversation;

use conversation::*;
use tidegate::broker::{Input, LinkId, Output};
use tidegate::mqtt::{
    Connect, ConnectProperties, DecodeError, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode,
    Will, WillProperties,
};

/// A house with a reader of `gone`.
fn house() -> (House, LinkId) {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "gone", QoS::ExactlyOnce);
    (house, reader)
}

fn mortal(version: ProtocolVersion) -> Connect {
    Connect {
        will: Some(will("gone", "bill")),
        ..client(version, "bill")
    }
}

/// A client whose will waits `delay_secs` and whose session outlives it by `expiry_secs`.
fn delayed(delay_secs: u32, expiry_secs: u32) -> Connect {
    let properties = WillProperties {
        delay_secs: Some(delay_secs),
        ..WillProperties::default()
    };
    Connect {
        clean_start: false,
        will: Some(Will {
            properties,
            ..will("gone", "bill")
        }),
        properties: ConnectProperties {
            session_expiry_secs: Some(expiry_secs),
            ..ConnectProperties::default()
        },
        ..client(V5, "bill")
    }
}

#[test]
fn a_lost_connection_sends_the_will() {
    for version in [V31, V311, V5] {
        let (mut house, reader) = house();
        let bill = house.join(mortal(version));
        assert_eq!(payloads(&house.close(bill), reader), ["bill"]);
        assert_eq!(house.stats().wills_sent, 1);
        assert_eq!(house.close(bill), []);
    }
}

#[test]
fn a_goodbye_discards_the_will() {
    for version in [V31, V311, V5] {
        let (mut house, reader) = house();
        let bill = house.join(mortal(version));
        let outputs = house.receive(bill, disconnect(ReasonCode::Success));
        assert_eq!(
            (payloads(&outputs, reader).len(), acts(outputs)),
            (0, vec![close(bill)])
        );
        assert_eq!(house.close(bill), []);
        assert_eq!(house.stats().wills_sent, 0);
    }
}

#[test]
fn a_goodbye_with_will_or_with_an_error_sends_it() {
    for reason in [
        ReasonCode::DisconnectWithWillMessage,
        ReasonCode::UnspecifiedError,
    ] {
        let (mut house, reader) = house();
        let bill = house.join(mortal(V5));
        assert_eq!(
            payloads(&house.receive(bill, disconnect(reason)), reader),
            ["bill"]
        );
    }
}

#[test]
fn silence_protocol_errors_and_the_end_of_the_house_send_the_will() {
    let (mut house, reader) = house();
    house.join(Connect {
        keep_alive_secs: 10,
        ..mortal(V311)
    });
    assert_eq!(payloads(&house.wait(secs(15)), reader), ["bill"]);
    let bill = house.join(mortal(V311));
    assert_eq!(payloads(&house.receive(bill, Packet::PingResp), reader), ["bill"]);
    let first = house.join(Connect {
        will: Some(will("end", "x")),
        ..client(V5, "first")
    });
    house.subscribe(reader, "end", QoS::AtMostOnce);
    house.close(first);
    assert_eq!(house.stats().wills_sent, 3);
    house.join(mortal(V5));
    house.step(Input::Shutdown);
    assert_eq!(house.stats().wills_sent, 4);
}

#[test]
fn a_will_keeps_its_quality_its_properties_and_its_place_as_retained_message() {
    let (mut house, reader) = house();
    let publish = PublishProperties {
        content_type: Some(text("text/plain")),
        ..PublishProperties::default()
    };
    let properties = WillProperties {
        delay_secs: None,
        publish: publish.clone(),
    };
    let will = Will {
        qos: QoS::ExactlyOnce,
        retain: true,
        properties,
        ..will("gone", "bill")
    };
    let bill = house.join(Connect {
        will: Some(will),
        ..client(V5, "bill")
    });
    let expected = message2(1, "gone", "bill");
    let expected = tidegate::mqtt::Publish {
        properties: Some(Box::new(publish)),
        ..expected
    };
    assert_eq!(messages(&house.close(bill), reader), [expected]);
    assert_eq!(house.stats().retained_messages, 1);
}

#[test]
fn a_delayed_will_is_sent_when_its_delay_is_over() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(30, 300));
    assert_eq!(payloads(&house.close(bill), reader), [] as [&str; 0]);
    assert_eq!(house.wait(secs(29)), []);
    assert_eq!(payloads(&house.wait(secs(1)), reader), ["bill"]);
    assert_eq!(payloads(&house.wait(secs(3600)), reader), [] as [&str; 0]);
}

#[test]
fn a_delayed_will_is_sent_when_the_session_ends_before() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(300, 30));
    house.close(bill);
    assert_eq!(house.wait(secs(29)), []);
    assert_eq!(payloads(&house.wait(secs(1)), reader), ["bill"]);
    let bill = house.join(delayed(300, 0));
    assert_eq!(payloads(&house.close(bill), reader), ["bill"]);
}

#[test]
fn a_client_that_returns_in_time_keeps_its_delayed_will_unsent() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(30, 300));
    house.close(bill);
    house.wait(secs(20));
    let bill = house.join(delayed(30, 300));
    assert_eq!(payloads(&house.wait(secs(20)), reader), [] as [&str; 0]);
    house.receive(bill, disconnect(ReasonCode::Success));
    house.wait(secs(3600));
    assert_eq!(house.stats().wills_sent, 0);
}

#[test]
fn a_client_that_returns_with_a_clean_start_ends_the_old_session_and_sends_its_will() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(30, 300));
    house.close(bill);
    let (_, outputs) = house.connect(client(V5, "bill"));
    assert_eq!(payloads(&outputs, reader), ["bill"]);
}

#[test]
fn a_takeover_sends_the_will_unless_it_is_delayed_and_the_session_resumes() {
    for (first, second, expected) in [
        (mortal(V311), client(V311, "bill"), 1),
        (mortal(V311), resuming(V311, "bill"), 1),
        (delayed(0, 300), resuming(V5, "bill"), 1),
        (delayed(30, 300), resuming(V5, "bill"), 0),
        (delayed(30, 300), client(V5, "bill"), 1),
        (delayed(30, 0), resuming(V5, "bill"), 1),
    ] {
        let (mut house, reader) = house();
        house.join(first.clone());
        let (_, outputs) = house.connect(second.clone());
        assert_eq!(
            payloads(&outputs, reader).len(),
            expected,
            "{first:?} then {second:?}"
        );
        house.wait(secs(3600));
        assert_eq!(house.stats().wills_sent, expected as u64);
    }
}

#[test]
fn a_new_connect_replaces_the_will_of_the_one_before() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(0, 300));
    house.receive(bill, disconnect(ReasonCode::Success));
    let bill = house.join(Connect {
        will: Some(will("gone", "second")),
        ..resuming(V5, "bill")
    });
    assert_eq!(payloads(&house.close(bill), reader), ["second"]);
    let bill = house.join(resuming(V5, "bill"));
    assert_eq!(payloads(&house.close(bill), reader), [] as [&str; 0]);
}

#[test]
fn the_life_of_a_will_counts_from_its_sending() {
    let (mut house, reader) = house();
    let publish = PublishProperties {
        message_expiry_secs: Some(10),
        ..PublishProperties::default()
    };
    let properties = WillProperties {
        delay_secs: Some(60),
        publish,
    };
    let will = Will {
        properties,
        ..will("gone", "bill")
    };
    let bill = house.join(Connect {
        will: Some(will),
        ..delayed(60, 300)
    });
    house.close(bill);
    let outputs = house.wait(secs(60));
    let properties = messages(&outputs, reader)[0].properties.clone().unwrap();
    assert_eq!(properties.message_expiry_secs, Some(10));
}

#[test]
fn a_subscriber_that_dies_two_thousand_times_leaves_one_will_each_time_and_nothing_else() {
    let (mut house, reader) = house();
    let publisher = house.join(client(V311, "publisher"));
    let connect = || Connect {
        will: Some(will("gone", "bill")),
        ..client(V311, "bill")
    };
    let bill = house.join(connect());
    house.subscribe(bill, "test", QoS::AtLeastOnce);
    house.close(bill);
    let baseline = house.stats().clone();
    for number in 1..=2000 {
        let bill = house.join(connect());
        house.subscribe(bill, "test", QoS::AtLeastOnce);
        let outputs = house.publish(publisher, message1(number, "test", "x"));
        assert_eq!(payloads(&outputs, bill), ["x"]);
        assert_eq!(payloads(&house.close(bill), reader), ["bill"]);
        assert_eq!(
            house.publish(publisher, message1(number, "test", "x")),
            [send(publisher, puback(number))]
        );
    }
    let stats = house.stats().clone();
    assert_eq!(stats.wills_sent - baseline.wills_sent, 2000);
    for (now, before) in [
        (stats.links, baseline.links),
        (stats.clients_connected, baseline.clients_connected),
        (stats.sessions, baseline.sessions),
        (stats.subscriptions, baseline.subscriptions),
        (stats.queued_messages, baseline.queued_messages),
        (stats.inflight_messages, baseline.inflight_messages),
        (stats.queued_bytes, baseline.queued_bytes),
    ] {
        assert_eq!(now, before);
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Disconnect(ReasonCode),
    Closed,
    Silence,
    Malformed,
    AgainstTheProtocol,
    TakenOver { clean_start: bool },
}

/// What comes after it, some seconds later.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Return {
    Never,
    Resuming(u64),
    Clean(u64),
}

/// When the standard wants the will, in seconds after the connection ended; `None`: never (sections 3.1.2.5,
/// 3.1.3.2.2 and 4.1.1).
fn wanted(end: End, delay_secs: u64, expiry_secs: u64, back: Return) -> Option<u64> {
    let due = delay_secs.min(expiry_secs);
    match (end, back) {
        (End::Disconnect(ReasonCode::Success), _) => None,
        (End::TakenOver { clean_start: true }, _) => Some(0),
        (End::TakenOver { clean_start: false }, _) => (due == 0).then_some(0),
        (_, Return::Resuming(at)) if at < due => None,
        (_, Return::Clean(at)) if at < due => Some(at),
        _ => Some(due),
    }
}

/// Ends the connection of `bill`; what follows at that moment, and the connection that took over if one did.
fn end(house: &mut House, bill: LinkId, way: End, next: &Connect) -> (Vec<Output>, Option<LinkId>) {
    match way {
        End::Disconnect(reason) => (house.receive(bill, disconnect(reason)), None),
        End::Closed => (house.close(bill), None),
        End::Silence => {
            assert_eq!(house.wait(secs(89)), []);
            (house.wait(secs(1)), None)
        }
        End::Malformed => {
            let (link, version, error) = (bill, Some(next.version), DecodeError::Truncated);
            (house.step(Input::Malformed { link, version, error }), None)
        }
        End::AgainstTheProtocol => (house.receive(bill, Packet::PingResp), None),
        End::TakenOver { clean_start } => {
            let connect = Connect {
                clean_start,
                ..next.clone()
            };
            let (link, outputs) = house.connect(connect);
            (outputs, Some(link))
        }
    }
}

#[test]
fn at_every_end_the_will_is_sent_exactly_when_the_standard_says_and_once() {
    let ends = [
        End::Disconnect(ReasonCode::Success),
        End::Disconnect(ReasonCode::DisconnectWithWillMessage),
        End::Disconnect(ReasonCode::UnspecifiedError),
        End::Closed,
        End::Silence,
        End::Malformed,
        End::AgainstTheProtocol,
        End::TakenOver { clean_start: false },
        End::TakenOver { clean_start: true },
    ];
    let returns = [
        Return::Never,
        Return::Resuming(3),
        Return::Resuming(200),
        Return::Clean(3),
        Return::Clean(200),
    ];
    let mut cases = 0;
    for way in ends {
        for (delay_secs, expiry_secs) in [(0, 0), (0, 60), (10, 0), (10, 60), (60, 10), (10, 10), (500, 300)]
        {
            for back in returns {
                let taken_over = matches!(way, End::TakenOver { .. });
                if taken_over && back != Return::Never {
                    continue;
                }
                let (mut house, reader) = house();
                house.close(reader);
                let reader = house.join(Connect {
                    keep_alive_secs: 0,
                    ..client(V311, "reader")
                });
                house.subscribe(reader, "gone", QoS::AtMostOnce);
                let bill = house.join(delayed(delay_secs, expiry_secs));
                let mut next = Connect {
                    will: None,
                    ..delayed(0, 3600)
                };
                next.keep_alive_secs = 1000;
                let case = format!("{way:?} after {delay_secs} s of {expiry_secs} s, then {back:?}");
                let (mut outputs, new) = end(&mut house, bill, way, &next);
                let mut sent_at = Vec::new();
                let mut back_at = match back {
                    Return::Never => None,
                    Return::Resuming(at) | Return::Clean(at) => Some(at),
                };
                for second in 0..=600 {
                    if back_at == Some(second) {
                        back_at = None;
                        let clean_start = matches!(back, Return::Clean(_));
                        outputs.extend(
                            house
                                .connect(Connect {
                                    clean_start,
                                    ..next.clone()
                                })
                                .1,
                        );
                    }
                    sent_at.extend(payloads(&outputs, reader).iter().map(|_| second));
                    outputs = house.wait(secs(1));
                }
                let expected = wanted(way, u64::from(delay_secs), u64::from(expiry_secs), back);
                assert_eq!(sent_at, expected.into_iter().collect::<Vec<_>>(), "{case}");
                assert_eq!(house.stats().wills_sent, expected.iter().count() as u64, "{case}");
                if let Some(new) = new {
                    assert_eq!(house.receive(new, Packet::PingReq), [send(new, Packet::PingResp)]);
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 7 * 5 * 7 + 2 * 7);
}

#[test]
fn a_goodbye_that_ends_the_session_at_once_does_not_wait_for_the_wills_delay() {
    let (mut house, reader) = house();
    let bill = house.join(delayed(30, 300));
    let properties = tidegate::mqtt::DisconnectProperties {
        session_expiry_secs: Some(0),
        ..Default::default()
    };
    let goodbye = tidegate::mqtt::Disconnect {
        reason: ReasonCode::DisconnectWithWillMessage,
        properties,
    };
    let outputs = house.receive(bill, Packet::Disconnect(Box::new(goodbye)));
    assert_eq!(payloads(&outputs, reader), ["bill"]);
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(1000));
    assert_eq!(house.stats().wills_sent, 1);
}

#[test]
fn a_will_keeps_its_user_properties_in_their_order() {
    let (mut house, reader) = house();
    let user_properties = vec![
        (text("b"), text("1")),
        (text("a"), text("2")),
        (text("b"), text("0")),
    ];
    let properties = WillProperties {
        delay_secs: None,
        publish: PublishProperties {
            user_properties: user_properties.clone(),
            ..PublishProperties::default()
        },
    };
    let bill = house.join(Connect {
        will: Some(Will {
            properties,
            ..will("gone", "bill")
        }),
        ..client(V5, "bill")
    });
    let outputs = house.close(bill);
    let properties = messages(&outputs, reader)[0].properties.clone().unwrap();
    assert_eq!(properties.user_properties, user_properties);
}

#[test]
fn a_will_is_retained_only_where_it_asks_to_be() {
    for (retain, expected) in [(false, 0), (true, 1)] {
        let (mut house, _) = house();
        let bill = house.join(Connect {
            will: Some(Will {
                retain,
                ..will("gone", "bill")
            }),
            ..client(V5, "bill")
        });
        assert_eq!(house.stats().retained_messages, 0);
        house.close(bill);
        assert_eq!(house.stats().retained_messages, expected);
    }
}
