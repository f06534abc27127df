//! Clients that take all they can get: each comes up against its bound, and a witness pair sees no gap.

mod conversation;

use std::collections::BTreeSet;

use conversation::*;
use tidegate::broker::{Event, Limits, LinkId};
use tidegate::mqtt::{
    Connect, ConnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscribeProperties, Utf8String, Will, WillProperties,
};

/// A publisher and a subscriber whose messages are numbered: any gap is seen at once.
struct Witnesses {
    publisher: LinkId,
    subscriber: LinkId,
    number: u32,
}

impl Witnesses {
    fn join(house: &mut House) -> Self {
        let patient = |name| Connect {
            keep_alive_secs: 0,
            ..client(V311, name)
        };
        let publisher = house.join(patient("witness-publisher"));
        let subscriber = house.join(patient("witness-subscriber"));
        house.subscribe(subscriber, "witness/+/x", QoS::AtLeastOnce);
        Self {
            publisher,
            subscriber,
            number: 0,
        }
    }

    /// One message more, through.
    fn speak(&mut self, house: &mut House) {
        self.number += 1;
        let payload = self.number.to_string();
        let outputs = house.publish(self.publisher, message1(1, "witness/a/x", &payload));
        let received = messages(&outputs, self.subscriber);
        assert_eq!(received.len(), 1, "{outputs:?}");
        assert_eq!(received[0].payload, payload);
        assert!(outputs.contains(&send(self.publisher, puback(1))));
        let packet_id = received[0].packet_id.expect("at QoS 1").get();
        assert_eq!(
            messages(
                &house.receive(self.subscriber, puback(packet_id)),
                self.subscriber
            ),
            []
        );
        house.flush(self.subscriber);
        house.flush(self.publisher);
    }
}

/// What is counted now and must be as before when the attackers are gone and forgotten.
fn gauges(house: &House) -> [u64; 8] {
    let stats = house.stats();
    [
        stats.links,
        stats.clients_connected,
        stats.sessions,
        stats.subscriptions,
        stats.queued_messages,
        stats.queued_bytes,
        stats.inflight_messages,
        stats.retained_bytes,
    ]
}

fn limits() -> Limits {
    Limits {
        connections_max: 20,
        sessions_max: 20,
        subscriptions_per_client_max: 50,
        subscriptions_max: 120,
        retained_max: 40,
        retained_bytes_max: 4_000,
        queue_bytes_max: 2_000,
        queued_bytes_total_max: 10_000,
        unsent_bytes_max: 2_000,
        session_expiry_max: secs(1_000),
        ..Limits::default()
    }
}

fn attacker(number: usize) -> Connect {
    Connect {
        clean_start: true,
        ..resuming(V5, &format!("attacker-{number}"))
    }
}

/// Runs `attack` in a house of small limits with witnesses, then sends all attackers away for good.
fn under_attack(attack: impl Fn(&mut House, &mut Witnesses) -> Vec<LinkId>) {
    let mut house = House::within(limits());
    let mut witnesses = Witnesses::join(&mut house);
    witnesses.speak(&mut house);
    let before = gauges(&house);
    let attackers = attack(&mut house, &mut witnesses);
    for link in attackers {
        house.close(link);
        witnesses.speak(&mut house);
    }
    house.wait(secs(1_100));
    assert_eq!(gauges(&house), before, "what attackers leave behind");
    witnesses.speak(&mut house);
}

fn many_user_properties(count: usize) -> Vec<(Utf8String, Utf8String)> {
    (0..count)
        .map(|number| (text("name"), text(&number.to_string())))
        .collect()
}

#[test]
fn a_subscription_bomb_ends_at_the_clients_bound_and_at_the_houses() {
    under_attack(|house, witnesses| {
        let mut granted = 0;
        let links: Vec<_> = (0..4).map(|number| house.join(attacker(number))).collect();
        for (number, &link) in links.iter().enumerate() {
            for round in 0..30 {
                let filters: Vec<_> = (0..10)
                    .map(|index| {
                        let wild = if index % 2 == 0 {
                            "+/".repeat(round % 31)
                        } else {
                            "deep/".repeat(round % 31)
                        };
                        subscription(&format!("{wild}{number}/{round}/{index}"), QoS::ExactlyOnce)
                    })
                    .collect();
                // Levels beyond the limit are refused one by one; the others count.
                let outputs = house.receive(link, subscribe_packet(&filters));
                let reasons = suback(&outputs, link);
                assert_eq!(reasons.len(), 10);
                granted += reasons.iter().filter(|reason| !reason.is_error()).count() as u64;
                witnesses.speak(house);
            }
            assert!(house.stats().subscriptions <= 120);
        }
        assert_eq!((granted, house.stats().subscriptions), (119, 120));
        links
    });
}

#[test]
fn ten_thousand_filters_in_one_packet_are_each_answered_and_few_granted() {
    under_attack(|house, witnesses| {
        let link = house.join(attacker(0));
        let subscriptions = (0..10_000)
            .map(|number| subscription(&format!("t/{number}"), QoS::AtMostOnce))
            .collect();
        let packet = Packet::Subscribe(Box::new(Subscribe {
            packet_id: id(1),
            subscriptions,
            properties: SubscribeProperties::default(),
        }));
        let outputs = house.receive(link, packet);
        let reasons = suback(&outputs, link);
        assert_eq!(reasons.len(), 10_000);
        assert_eq!(reasons.iter().filter(|reason| !reason.is_error()).count(), 50);
        assert_eq!(reasons[50], ReasonCode::QuotaExceeded);
        witnesses.speak(house);
        vec![link]
    });
}

#[test]
fn subscriptions_made_and_taken_back_without_end_leave_nothing() {
    under_attack(|house, witnesses| {
        let link = house.join(attacker(0));
        for round in 0..300 {
            let filters: Vec<_> = (0..20).map(|index| format!("{round}/+/{index}/#")).collect();
            let subscriptions: Vec<_> = filters
                .iter()
                .map(|filter| subscription(filter, QoS::AtMostOnce))
                .collect();
            house.receive(link, subscribe_packet(&subscriptions));
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            house.receive(link, unsubscribe_packet(&filters));
            house.flush(link);
            witnesses.speak(house);
        }
        assert_eq!(house.stats().subscriptions, 1);
        vec![link]
    });
}

#[test]
fn a_retained_bomb_ends_at_the_houses_bound_and_what_was_there_stays() {
    let mut house = House::within(limits());
    let mut witnesses = Witnesses::join(&mut house);
    let keeper = house.join(client(V5, "keeper"));
    house.publish(keeper, retained(message("kept", "by the keeper")));
    let link = house.join(attacker(0));
    let mut told = 0;
    for number in 0..2_000 {
        let payload = "x".repeat(number % 300);
        let outputs = house.publish(link, retained(message(&format!("bomb/{number}"), &payload)));
        told += (events(&outputs).iter())
            .filter(|event| {
                matches!(
                    event,
                    Event::LimitReached {
                        limit: "retained_max",
                        ..
                    }
                )
            })
            .count();
        witnesses.speak(&mut house);
    }
    let stats = house.stats();
    assert!(stats.retained_messages <= 40 && stats.retained_bytes <= 4_000);
    assert!(told == 1 && stats.dropped_retained_full > 1_900);
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("kept", QoS::AtMostOnce)]));
    assert_eq!(payloads(&outputs, reader), ["by the keeper"]);
    // Whoever clears gives the room back.
    for number in 0..2_000 {
        house.publish(link, retained(message(&format!("bomb/{number}"), "")));
    }
    assert_eq!(house.stats().retained_messages, 1);
}

#[test]
fn a_thousand_filters_that_match_none_of_four_thousand_retained_messages_are_looked_up_in_slices() {
    for keep_alive_secs in [0, 60] {
        let mut house = House::new();
        let mut witnesses = Witnesses::join(&mut house);
        for number in 0..4_000 {
            let message = own(&format!("home/{number}/state"), "x", QoS::AtMostOnce, true);
            house.broker.handle(house.now, message);
        }
        house.step(own("zebra/1/state", "the last", QoS::AtMostOnce, true));
        let link = house.join(Connect {
            keep_alive_secs,
            ..client(V311, "attacker")
        });
        let mut filters: Vec<_> = (0..20)
            .map(|number| subscription(&format!("+/+/nothing/{number}"), QoS::AtMostOnce))
            .collect();
        filters.push(subscription("+/1/state", QoS::AtLeastOnce));
        let outputs = house.receive(link, subscribe_packet(&filters));
        assert_eq!(messages(&outputs, link), [], "not all at once");
        // Others are served meanwhile, and what is owed comes, though the client never says a word.
        let mut found = Vec::new();
        let mut slices = 0;
        while found.len() < 2 {
            witnesses.speak(&mut house);
            let due = house.broker.poll_timeout().expect("the look goes on");
            let pause = due.saturating_duration_since(house.now.mono);
            assert!(pause <= secs(1), "nothing goes on for {pause:?}");
            found.extend(payloads(&house.wait(pause), link));
            slices += 1;
        }
        assert_eq!(found, ["x", "the last"]);
        assert!(slices > 80, "{slices} slices for 84,000 looks");
        // And then the deadline is the keep-alive again, or none at all.
        house.wait(secs(1));
        let next = house.broker.poll_timeout();
        assert_eq!(next.is_some(), keep_alive_secs > 0);
        assert_eq!(house.stats().clients_connected, 3);
    }
}

#[test]
fn a_user_property_bomb_is_refused_in_every_packet_that_can_carry_one() {
    under_attack(|house, witnesses| {
        let crowd = many_user_properties(5_000);
        let mut connect = attacker(0);
        connect.properties.user_properties = crowd.clone();
        let (link, outputs) = house.connect(connect);
        assert_eq!(
            acts(outputs),
            [send(link, refusal(ReasonCode::QuotaExceeded)), close(link)]
        );
        let publish = PublishProperties {
            user_properties: crowd.clone(),
            ..PublishProperties::default()
        };
        let properties = WillProperties {
            delay_secs: None,
            publish: publish.clone(),
        };
        let (link, outputs) = house.connect(Connect {
            will: Some(Will {
                properties,
                ..will("gone", "x")
            }),
            ..attacker(0)
        });
        assert_eq!(
            acts(outputs),
            [send(link, refusal(ReasonCode::QuotaExceeded)), close(link)]
        );
        let link = house.join(attacker(0));
        house.subscribe(link, "bomb", QoS::AtLeastOnce);
        for number in 1..=100 {
            let bomb = Publish {
                properties: Some(Box::new(publish.clone())),
                ..retained(message1(number, "bomb", "x"))
            };
            let expected = puback_with(number, ReasonCode::QuotaExceeded);
            assert_eq!(house.publish(link, bomb), [send(link, expected)]);
            witnesses.speak(house);
        }
        let properties = SubscribeProperties {
            user_properties: crowd,
            ..SubscribeProperties::default()
        };
        let packet = Packet::Subscribe(Box::new(Subscribe {
            packet_id: id(1),
            subscriptions: [subscription("t", QoS::AtMostOnce)].into_iter().collect(),
            properties,
        }));
        let outputs = house.receive(link, packet);
        assert_eq!(suback(&outputs, link), [ReasonCode::QuotaExceeded]);
        assert_eq!(house.stats().subscriptions, 2);
        vec![link]
    });
}

#[test]
fn topics_of_sixty_five_thousand_slashes_go_nowhere_and_are_kept_nowhere() {
    let deep = "/".repeat(65_535);
    for number in [1, 2, 3] {
        under_attack(|house, witnesses| {
            let link = house.join(attacker(0));
            let (publish, answer) = match number {
                1 => (
                    retained(message1(1, &deep, "x")),
                    Some(puback_with(1, ReasonCode::TopicNameInvalid)),
                ),
                2 => (
                    retained(message2(1, &deep, "x")),
                    Some(pubrec_with(1, ReasonCode::TopicNameInvalid)),
                ),
                _ => (retained(message(&deep, "x")), None),
            };
            let outputs = acts(house.publish(link, publish));
            let expected = match answer {
                Some(answer) => vec![send(link, answer)],
                None => vec![send(link, disconnect(ReasonCode::TopicNameInvalid)), close(link)],
            };
            assert_eq!(outputs, expected);
            assert_eq!(house.stats().retained_messages, 0);
            witnesses.speak(house);
            let link = house.join(attacker(1));
            for filter in [
                deep.clone(),
                "+/".repeat(32_000),
                format!("$share/g/{}", "a/".repeat(30_000)),
            ] {
                assert_eq!(
                    house.subscribe(link, &filter, QoS::AtMostOnce),
                    ReasonCode::TopicFilterInvalid
                );
                let outputs = house.receive(link, unsubscribe_packet(&[&filter]));
                assert_eq!(sent(&outputs, link).len(), 1);
                witnesses.speak(house);
            }
            let (refused, outputs) = house.connect(Connect {
                will: Some(will(&deep, "x")),
                ..attacker(2)
            });
            assert_eq!(connack(&outputs, refused).reason, ReasonCode::TopicNameInvalid);
            vec![link]
        });
    }
}

#[test]
fn a_topic_beyond_the_limits_is_given_no_alias() {
    under_attack(|house, witnesses| {
        let link = house.join(attacker(0));
        let aliased = |publish: Publish, alias| {
            let properties = PublishProperties {
                topic_alias: Some(alias),
                ..PublishProperties::default()
            };
            Publish {
                properties: Some(Box::new(properties)),
                ..publish
            }
        };
        for alias in 1..=16 {
            let long = aliased(message1(1, &"x".repeat(65_000), "x"), alias);
            let expected = puback_with(1, ReasonCode::TopicNameInvalid);
            assert_eq!(house.publish(link, long), [send(link, expected)]);
            witnesses.speak(house);
        }
        // None of them stands for anything: sixteen of the longest topics would be a megabyte a client.
        let by_alias = Publish {
            topic: None,
            ..aliased(message1(1, "t", "x"), 7)
        };
        let outputs = acts(house.publish(link, by_alias));
        assert_eq!(
            outputs,
            [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
        );
        vec![link]
    });
}

#[test]
fn identifiers_of_qos_2_that_are_never_released_end_at_the_receive_maximum_of_each_connection() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let mut witnesses = Witnesses::join(&mut house);
        let connect = resuming(version, "attacker");
        let mut taken = BTreeSet::new();
        let mut closed = 0;
        for _ in 0..3 {
            let link = house.join(connect.clone());
            for number in 1..=1_000 {
                let outputs = house.publish(link, message2(number, "t", "x"));
                witnesses.speak(&mut house);
                house.flush(link);
                if outputs.contains(&close(link)) {
                    closed += 1;
                    break;
                }
                taken.insert(number);
            }
            house.close(link);
        }
        // An older client cannot be told of a maximum; what it may take is for the chapter of limits to say.
        if version == V5 {
            assert_eq!((taken.len(), closed), (3 * 64, 3));
        }
        // What was taken is still known, is not delivered again, and can be released.
        house.subscribe(witnesses.subscriber, "t", QoS::AtMostOnce);
        let link = house.join(connect);
        for &number in &taken {
            let again = house.publish(link, repeated(message2(number, "t", "x")));
            assert_eq!(again, [send(link, pubrec(number))], "{version}");
            assert_eq!(house.receive(link, pubrel(number)), [send(link, pubcomp(number))]);
            house.flush(link);
        }
        let outputs = house.publish(link, message2(1, "t", "new"));
        assert_eq!(payloads(&outputs, witnesses.subscriber), ["new"]);
    }
}

#[test]
fn readers_that_never_acknowledge_and_never_read_are_held_to_their_bytes() {
    under_attack(|house, witnesses| {
        let mut links = Vec::new();
        for number in 0..10 {
            let link = house.join(attacker(number));
            house.subscribe(link, "#", QoS::ExactlyOnce);
            house.subscribe(link, "$share/g/#", QoS::AtLeastOnce);
            links.push(link);
        }
        for number in 0..200_u16 {
            let payload = "x".repeat(100);
            house.publish(
                links[usize::from(number) % 10],
                message1(number + 1, "flood", &payload),
            );
            assert!(house.stats().queued_bytes <= 10_000);
            witnesses.speak_through_flood(house);
        }
        assert!(house.stats().dropped_queue_full > 0);
        links
    });
}

impl Witnesses {
    /// As [`Witnesses::speak`], at QoS 0: who waits for a share of the bytes of all queues is not asked to wait
    /// for them here.
    fn speak_through_flood(&mut self, house: &mut House) {
        self.number += 1;
        let payload = self.number.to_string();
        let outputs = house.publish(self.publisher, message("witness/a/x", &payload));
        assert_eq!(payloads(&outputs, self.subscriber), [payload]);
        house.flush(self.subscriber);
        house.flush(self.publisher);
    }
}

#[test]
fn sessions_of_made_up_identifiers_end_at_the_houses_bound_and_their_owners_stay_in() {
    let mut house = House::within(limits());
    let mut witnesses = Witnesses::join(&mut house);
    let mut refused = 0;
    for number in 0..500 {
        let (link, outputs) = house.connect(attacker(number));
        match connack(&outputs, link).reason {
            ReasonCode::Success => {
                house.close(link);
            }
            reason => {
                assert_eq!(reason, ReasonCode::QuotaExceeded);
                refused += 1;
            }
        }
        witnesses.speak(&mut house);
    }
    assert_eq!((house.stats().sessions, refused), (20, 500 - 18));
    // Whoever has a session comes back to it, and the others make room when they expire.
    let (link, outputs) = house.connect(resuming(V5, "attacker-3"));
    assert!(connack(&outputs, link).session_present);
    house.receive(link, disconnect(ReasonCode::Success));
    house.wait(secs(1_000));
    house.join(client(V5, "honest"));
    assert_eq!(house.stats().sessions, 3);
}

#[test]
fn wills_beyond_their_bound_and_a_thousand_within_it_harm_nobody() {
    let mut house = House::within(limits());
    let mut witnesses = Witnesses::join(&mut house);
    for number in 0..1_000 {
        let link = house.join(Connect {
            will: Some(Will {
                retain: true,
                qos: QoS::ExactlyOnce,
                ..will(&format!("gone/{number}"), &"x".repeat(number))
            }),
            properties: ConnectProperties::default(),
            ..client(V5, "attacker")
        });
        house.close(link);
        witnesses.speak(&mut house);
    }
    let stats = house.stats();
    assert_eq!((stats.wills_sent, stats.sessions, stats.links), (1_000, 2, 2));
    assert!(stats.retained_messages <= 40 && stats.retained_bytes <= 4_000);
}
