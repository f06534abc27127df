//! The memory budget: what floods of every kind do to it, in which order is refused as it fills, and that all is well
//! again afterwards.

mod conversation;

use conversation::*;
use tidegate::broker::{Event, Input, Limits, LinkId, ListenerPolicy, Output, QueueClass};
use tidegate::mqtt::{Connect, Publish, QoS, ReasonCode};

const BUDGET_BYTES: usize = 2 * 1024 * 1024;

/// A house whose memory is small and whose other bounds are not, so that it is the memory that is short.
fn small_house() -> House {
    House::within(Limits {
        memory_bytes_max: BUDGET_BYTES,
        packet_bytes_max: 32 * 1024,
        connections_max: 10_000,
        sessions_max: 10_000,
        sessions_per_user_max: 10_000,
        subscriptions_max: 100_000,
        subscriptions_per_user_max: 100_000,
        wills_bytes_total_max: BUDGET_BYTES,
        queue_class: QueueClass::N4096,
        queued_bytes_total_max: BUDGET_BYTES,
        retained_max: 100_000,
        retained_bytes_max: BUDGET_BYTES,
        retained_per_user_max: 100_000,
        retained_bytes_per_user_max: BUDGET_BYTES,
        ..Limits::default()
    })
}

/// A publisher and a subscriber who read and acknowledge, and miss nothing.
struct Witness {
    writer: LinkId,
    reader: LinkId,
    said: u16,
}

impl Witness {
    fn new(house: &mut House) -> Self {
        let writer = house.join_as("witness", client(V5, "witness-writer"));
        let reader = house.join_as("witness", client(V5, "witness-reader"));
        house.flush(writer);
        house.flush(reader);
        assert_eq!(
            house.subscribe(reader, "witness/#", QoS::AtLeastOnce),
            ReasonCode::GrantedQos1
        );
        house.flush(reader);
        Self {
            writer,
            reader,
            said: 0,
        }
    }

    /// Says two messages, and must hear both, in their order and at once.
    fn speak(&mut self, house: &mut House) {
        self.said += 1;
        let payload = self.said.to_string();
        let mut outputs = house.publish(self.writer, message("witness/0", &payload));
        outputs.extend(house.publish(self.writer, message1(self.said, "witness/1", &payload)));
        let heard = messages(&outputs, self.reader);
        let topics = heard.iter().map(|publish| publish.topic.clone());
        assert_eq!(
            topics.collect::<Vec<_>>(),
            [Some(topic("witness/0")), Some(topic("witness/1"))],
            "message {payload}"
        );
        assert_eq!(
            payloads(&outputs, self.reader),
            [payload.as_str(), payload.as_str()]
        );
        for publish in heard {
            if let Some(packet_id) = publish.packet_id {
                house.receive(self.reader, puback(packet_id.get()));
            }
        }
        house.flush(self.reader);
        house.flush(self.writer);
    }
}

/// Fills the budget to `percent` by what the transport holds for `link`.
fn fill_to(house: &mut House, link: LinkId, percent: usize) {
    house.step(Input::Holding { link, bytes: 0 });
    let wanted = BUDGET_BYTES / 100 * percent + BUDGET_BYTES / 200;
    let bytes = wanted - house.broker.memory_bytes();
    house.step(Input::Holding { link, bytes });
    assert!(house.broker.memory_bytes().abs_diff(wanted) < 4096);
}

/// A byte stream that has just come; whether it may stay.
fn may_stay(house: &mut House) -> bool {
    let (link, arrival) = house.arrival(ListenerPolicy::new("door", true), None, None);
    let outputs = house.step(arrival);
    !outputs.contains(&close(link))
}

fn is_memory_told(outputs: &[Output]) -> bool {
    events(outputs).iter().any(|event| {
        matches!(
            event,
            Event::LimitReached {
                limit: "memory_bytes_max",
                ..
            }
        )
    })
}

#[test]
fn a_flood_of_every_kind_stays_within_the_budget_and_a_witness_misses_nothing() {
    let mut house = small_house();
    let mut witness = Witness::new(&mut house);
    let honest = house.join_as("honest", resuming(V5, "honest"));
    house.subscribe(honest, "honest", QoS::AtLeastOnce);
    house.close(honest);
    witness.speak(&mut house);
    let baseline = house.broker.memory_bytes();
    let as_eve = |connect: Connect| Connect {
        keep_alive_secs: 0,
        ..connect
    };
    let eve = house.join_as("eve", as_eve(client(V311, "eve")));
    let bulk = "x".repeat(8 * 1024);
    let mut peak = 0;
    let mut links = vec![eve];
    let say = |house: &mut House, publish: Publish| {
        house.publish(eve, publish);
        house.flush(eve);
    };
    for round in 0..120_u16 {
        // Readers that do not read, absent sessions with a queue, topics that keep something, filters, wills, packets
        // of which only a part comes.
        if round % 8 == 0 {
            let (slow, _) = house.connect_as("eve", as_eve(client(V311, &format!("slow{round}"))));
            house.receive(
                slow,
                subscribe_packet(&[subscription("flood/#", QoS::AtMostOnce)]),
            );
            links.push(slow);
            let (absent, _) = house.connect_as("eve", as_eve(resuming(V311, &format!("absent{round}"))));
            house.receive(
                absent,
                subscribe_packet(&[subscription("queue/#", QoS::AtLeastOnce)]),
            );
            house.close(absent);
            let (half, _) = house.connect_as("eve", as_eve(client(V311, &format!("half{round}"))));
            house.step(Input::Holding {
                link: half,
                bytes: 30 * 1024,
            });
            links.push(half);
        }
        say(&mut house, message(&format!("flood/{round}"), &bulk));
        say(&mut house, message1(1, &format!("queue/{round}"), &bulk));
        say(
            &mut house,
            retained(message(&format!("keep/{round}"), &bulk[..2000])),
        );
        let filters: Vec<_> = (0..8)
            .map(|number| subscription(&format!("bomb/{round}/{number}/+"), QoS::AtLeastOnce))
            .collect();
        house.receive(eve, subscribe_packet(&filters));
        house.flush(eve);
        let testament = Connect {
            will: Some(will("will", &bulk)),
            ..as_eve(resuming(V311, &format!("will{round}")))
        };
        links.push(house.connect_as("eve", testament).0);
        peak = peak.max(house.broker.memory_bytes());
        witness.speak(&mut house);
    }
    assert!(peak > BUDGET_BYTES / 100 * 80, "{peak} bytes");
    assert!(peak <= BUDGET_BYTES, "{peak} bytes");
    assert!(house.stats().memory_refusals > 0);

    // An honest client that was away finds its session; its queue had its share of the room.
    house.publish(witness.writer, message1(7, "honest", "still here"));
    let link = house.arrive_at_locked_door();
    let outputs = house.log_in("honest", link, resuming(V5, "honest"));
    if connack(&outputs, link).reason == ReasonCode::Success {
        assert_eq!(payloads(&outputs, link), ["still here"]);
        house.receive(link, puback(1));
    }
    house.close(link);

    // Without a word from anybody all is as before once the flood is over.
    for link in links {
        house.close(link);
    }
    for round in 0..120 {
        house.step(own(&format!("keep/{round}"), "", QoS::AtMostOnce, true));
    }
    house.wait(house.broker.limits().session_expiry_max);
    assert_eq!(house.stats().sessions, 0, "keep-alive has ended the witness, too");
    let mut witness = Witness::new(&mut house);
    let honest = house.join_as("honest", resuming(V5, "honest"));
    house.subscribe(honest, "honest", QoS::AtLeastOnce);
    house.close(honest);
    witness.speak(&mut house);
    assert_eq!(house.broker.memory_bytes(), baseline);
}

#[test]
fn memory_is_refused_in_the_stated_order_and_the_witness_hears_all_the_while() {
    // Below which share of the budget each still gets what it asks for.
    for (percent, slow, keep, session, queue, connection) in [
        (69, true, true, true, true, true),
        (71, false, true, true, true, true),
        (76, false, false, true, true, true),
        (81, false, false, false, true, true),
        (86, false, false, false, false, true),
        (91, false, false, false, false, false),
    ] {
        let mut house = small_house();
        let mut witness = Witness::new(&mut house);
        let filler = house.join(client(V5, "filler"));
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "slow", QoS::AtMostOnce);
        let absent = house.join(resuming(V5, "absent"));
        house.subscribe(absent, "queue", QoS::AtLeastOnce);
        house.close(absent);
        let writer = house.join(client(V5, "writer"));
        house.step(own("slow", &"x".repeat(20_000), QoS::AtMostOnce, false));
        house.step(own("slow", &"x".repeat(20_000), QoS::AtMostOnce, false));
        fill_to(&mut house, filler, percent);
        witness.speak(&mut house);

        let outputs = house.step(own("slow", "x", QoS::AtMostOnce, false));
        assert_eq!(
            messages(&outputs, reader).len(),
            usize::from(slow),
            "{percent} %: slow reader"
        );
        assert_eq!(is_memory_told(&outputs), !slow, "{percent} %: told");
        assert_eq!(house.stats().dropped_slow, u64::from(!slow));

        let outputs = house.publish(writer, retained(message1(1, "keep", "x")));
        let expected = if keep {
            ReasonCode::NoMatchingSubscribers
        } else {
            ReasonCode::QuotaExceeded
        };
        assert_eq!(
            outputs,
            [send(writer, puback_with(1, expected))],
            "{percent} %: retained"
        );
        assert_eq!(house.stats().dropped_retained_full, u64::from(!keep));

        let expected = if session {
            ReasonCode::Success
        } else {
            ReasonCode::QuotaExceeded
        };
        let outcome = house.subscribe(writer, "filter", QoS::AtMostOnce);
        assert_eq!(outcome, expected, "{percent} %: filter");
        let (link, outputs) = house.connect(client(V5, "new"));
        assert_eq!(connack(&outputs, link).reason, expected, "{percent} %: session");
        house.close(link);
        let bequest = Connect {
            will: Some(will("will", "x")),
            ..client(V5, "writer")
        };
        let (link, outputs) = house.connect(bequest);
        assert_eq!(connack(&outputs, link).reason, expected, "{percent} %: will");
        house.close(link);

        house.step(own("queue", "x", QoS::AtLeastOnce, false));
        assert_eq!(
            house.stats().queued_messages,
            u64::from(queue),
            "{percent} %: queue"
        );
        assert_eq!(house.stats().dropped_queue_full, u64::from(!queue));

        let expected = if connection {
            ReasonCode::Success
        } else {
            ReasonCode::QuotaExceeded
        };
        let (link, outputs) = house.connect(resuming(V5, "absent"));
        assert_eq!(
            connack(&outputs, link).reason,
            expected,
            "{percent} %: connection"
        );
        house.close(link);
        witness.speak(&mut house);

        // From 95 % on a packet of which a part has come, with its connection.
        let half = house.arrive();
        let bytes = (BUDGET_BYTES / 100 * 95 + 4096).saturating_sub(house.broker.memory_bytes());
        let outputs = acts(house.step(Input::Holding { link: half, bytes }));
        assert_eq!(
            outputs,
            [close(half)],
            "it has not said in which version it could be told"
        );
        witness.speak(&mut house);

        // And all is granted again.
        house.close(filler);
        assert_eq!(
            house.subscribe(reader, "filter", QoS::AtMostOnce),
            ReasonCode::Success
        );
        let outputs = house.step(own("slow", "x", QoS::AtMostOnce, false));
        assert_eq!(messages(&outputs, reader).len(), 1);
    }
}

#[test]
fn when_the_budget_is_spent_the_connection_that_holds_most_goes_and_those_who_waited_are_served() {
    let mut house = small_house();
    let mut witness = Witness::new(&mut house);
    let reader = house.join(resuming(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    house.close(reader);
    for payload in ["1", "2", "3"] {
        house.step(own("t", payload, QoS::AtLeastOnce, false));
    }
    let filler = house.join(client(V5, "filler"));
    let readers = ["bulk/1", "bulk/2"].map(|name| {
        let reader = house.join(client(V5, name));
        house.subscribe(reader, name, QoS::AtMostOnce);
        reader
    });
    fill_to(&mut house, filler, 89);
    let mut connect = resuming(V5, "reader");
    connect.properties.receive_maximum = Some(1);
    let (reader, outputs) = house.connect(connect);
    assert_eq!(payloads(&outputs, reader), ["1"]);
    house.flush(reader);
    // As full as it may become by what arrives, and then by what is on its way to somebody who reads.
    fill_to(&mut house, filler, 94);
    for (name, reader) in ["bulk/1", "bulk/1", "bulk/2"]
        .into_iter()
        .zip([readers[0], readers[0], readers[1]])
    {
        let outputs = house.step(own(name, &"x".repeat(30_000), QoS::AtMostOnce, false));
        assert_eq!(messages(&outputs, reader).len(), 1);
    }
    assert_eq!(house.stats().clients_connected, 6);
    let outputs = house.receive(reader, puback(1));
    assert_eq!(sent(&outputs, filler), [&disconnect(ReasonCode::QuotaExceeded)]);
    assert!(outputs.contains(&close(filler)));
    assert_eq!(payloads(&outputs, reader), ["2"]);
    house.flush(reader);
    assert_eq!(payloads(&house.receive(reader, puback(2)), reader), ["3"]);
    witness.speak(&mut house);
}

#[test]
fn a_message_for_many_is_on_the_account_once() {
    let mut house = small_house();
    for number in 0..20 {
        let link = house.join(resuming(V5, &format!("reader{number}")));
        house.subscribe(link, "t", QoS::AtLeastOnce);
        house.close(link);
    }
    let before = house.broker.memory_bytes();
    house.step(own("t", &"x".repeat(10_000), QoS::AtLeastOnce, false));
    let cost = house.broker.memory_bytes() - before;
    assert!((10_000..25_000).contains(&cost), "{cost} bytes");
    assert_eq!(house.stats().queued_messages, 20);
}

#[test]
fn one_users_absent_sessions_do_not_take_the_room_of_anothers() {
    let mut house = House::within(Limits {
        queued_bytes_total_max: 20_000,
        ..Limits::default()
    });
    for number in 0..4 {
        let link = house.join_as("eve", resuming(V5, &format!("eve{number}")));
        house.subscribe(link, "#", QoS::AtLeastOnce);
        house.close(link);
    }
    let honest = house.join_as("honest", resuming(V5, "honest"));
    house.subscribe(honest, "honest", QoS::AtLeastOnce);
    house.close(honest);
    for number in 0..200 {
        house.step(own("flood", &format!("{number:0100}"), QoS::AtLeastOnce, false));
    }
    assert!(house.stats().queued_bytes > 19_000);
    for number in 0..10 {
        house.step(own("honest", &number.to_string(), QoS::AtLeastOnce, false));
    }
    let link = house.arrive_at_locked_door();
    let mut connect = resuming(V5, "honest");
    connect.properties.receive_maximum = Some(100);
    let outputs = house.log_in("honest", link, connect);
    let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&outputs, link), expected);
}

#[test]
fn answers_that_are_not_read_are_part_of_the_budget_and_end_with_it() {
    let mut house = small_house();
    let mut silent: Vec<_> = (0..24)
        .map(|number| house.join(client(V5, &format!("silent{number}"))))
        .collect();
    // Near the end of the budget, by what its transport holds for somebody else.
    let other = house.join(client(V5, "other"));
    let held = BUDGET_BYTES / 100 * 95 - house.broker.memory_bytes();
    house.step(Input::Holding {
        link: other,
        bytes: held,
    });
    // Each may be owed half a megabyte; all together only what is left, which the invariants see to.
    let question = subscribe_packet(&vec![subscription("a/b", QoS::AtMostOnce); 2000]);
    for _ in 0..200 {
        silent.retain(|&link| {
            let outputs = house.receive(link, question.clone());
            !outputs.contains(&Output::Close { link })
        });
    }
    assert!(silent.len() < 24);
    assert!(house.stats().memory_refusals > 0);
}

/// A reader with two large messages unfinished that comes back while memory is short, so that only the first of them is
/// sent again; and memory is free again before that one is out.
fn back_in_a_short_time(house: &mut House) -> LinkId {
    let filler = house.join(client(V5, "filler"));
    let reader = house.join(resuming(V5, "reader"));
    house.subscribe(reader, "own", QoS::AtLeastOnce);
    house.subscribe(reader, "$share/group/shared", QoS::AtLeastOnce);
    let large = "x".repeat(40 * 1024);
    for number in ["1", "2"] {
        let outputs = house.step(own("own", &format!("{number}{large}"), QoS::AtLeastOnce, false));
        assert_eq!(messages(&outputs, reader).len(), 1);
    }
    house.close(reader);
    fill_to(house, filler, 72);
    let (reader, outputs) = house.connect(resuming(V5, "reader"));
    assert_eq!(starts(&outputs, reader), [("1".to_owned(), true)]);
    house.step(Input::Holding {
        link: filler,
        bytes: 0,
    });
    reader
}

/// How the payload of each PUBLISH to `link` begins, and its DUP.
fn starts(outputs: &[Output], link: LinkId) -> Vec<(String, bool)> {
    let start = |payload: &[u8]| String::from_utf8_lossy(payload).chars().take(1).collect();
    let found = messages(outputs, link).into_iter();
    found
        .map(|publish| (start(&publish.payload), publish.dup))
        .collect()
}

#[test]
fn what_is_new_stays_behind_what_has_to_be_sent_again_also_when_memory_was_short_between() {
    let mut house = small_house();
    let reader = back_in_a_short_time(&mut house);
    let outputs = house.step(own("own", "3", QoS::AtLeastOnce, false));
    assert_eq!(starts(&outputs, reader), [], "the second comes first");
    let outputs = house.flush(reader);
    assert_eq!(
        starts(&outputs, reader),
        [("2".to_owned(), true), ("3".to_owned(), false)]
    );
}

#[test]
fn a_member_that_has_to_be_sent_something_again_is_not_the_first_choice_of_its_shared_subscription() {
    let mut house = small_house();
    let reader = back_in_a_short_time(&mut house);
    let other = house.join(client(V5, "other"));
    house.subscribe(other, "$share/group/shared", QoS::AtLeastOnce);
    for payload in ["3", "4"] {
        let outputs = house.step(own("shared", payload, QoS::AtLeastOnce, false));
        assert_eq!(payloads(&outputs, other), [payload]);
        assert_eq!(payloads(&outputs, reader), [""; 0]);
    }
}

#[test]
fn connections_that_say_nothing_stay_within_the_budget() {
    let mut house = small_house();
    let other = house.join(client(V5, "other"));
    fill_to(&mut house, other, 89);
    // Who comes above 90 % may stay to be told why it cannot come in, while there is room for that. The invariants see
    // to the rest.
    let came = (0..1000).filter(|_| may_stay(&mut house)).count();
    assert!((10..200).contains(&came), "{came}");
    assert_eq!(house.stats().connections_refused, 1000 - came as u64);
}
