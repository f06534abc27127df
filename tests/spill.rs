//! What waits beyond a client's queue: in the journal alone, in its order, until its client comes back for it.

mod conversation;

use std::time::Duration;

use conversation::*;
use tidegate::auth::access::Rights;
use tidegate::broker::{
    Broker, Change, Input, Limits, LinkId, Overflow, QueueClass, QueueRule, Restored, Settings, StoreHealth,
};
use tidegate::mqtt::{Ack, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode};

const SMALL: usize = QueueClass::N16.messages();

fn small() -> Limits {
    Limits {
        queue_class: QueueClass::N16,
        ..Limits::default()
    }
}

/// A house with small queues, in which everything is stored and read at once.
fn house() -> House {
    House::within(small()).with_store()
}

/// A client that has subscribed to `t` and gone, its session kept.
fn absent(house: &mut House, name: &str, qos: QoS) {
    let link = house.join(resuming(V5, name));
    house.subscribe(link, "t", qos);
    house.close(link);
}

/// Publishes these numbers on `t`; whether each was acknowledged with success.
fn fill(house: &mut House, writer: LinkId, numbers: std::ops::Range<usize>) -> Vec<bool> {
    let publish = |number: usize| message1(1, "t", &number.to_string());
    numbers
        .map(|number| house.publish(writer, publish(number)) == [send(writer, puback(1))])
        .collect()
}

/// The same at QoS 2.
fn fill_exactly(house: &mut House, writer: LinkId, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let outputs = house.publish(writer, message2(1, "t", &number.to_string()));
        assert_eq!(outputs, [send(writer, pubrec(1))]);
        house.receive(writer, pubrel(1));
    }
}

fn restart(house: &mut House) {
    let limits = house.broker.limits().clone();
    house.restart(Broker::new(limits, Rights::default(), 8), Duration::ZERO, true);
}

#[test]
fn nothing_that_was_acknowledged_is_lost_beyond_a_full_queue_and_all_of_it_comes_in_its_order() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut house = house();
        absent(&mut house, "reader", qos);
        let writer = house.join(client(V5, "writer"));
        match qos {
            QoS::ExactlyOnce => fill_exactly(&mut house, writer, 0..200),
            _ => assert_eq!(fill(&mut house, writer, 0..200), [true; 200]),
        }
        let stats = house.stats();
        assert_eq!((stats.queued_messages, stats.spilled_messages), (16, 184));
        assert_eq!(stats.dropped(), 0);
        assert_eq!(drained(&mut house, "reader"), texts(0..200));
        let stats = house.stats();
        assert_eq!((stats.spilled_messages, stats.spilled_bytes), (0, 0));
        assert_eq!((stats.queued_messages, stats.queued_bytes), (0, 0));
        // And then its way is the short one again.
        let (reader, _) = house.connect(resuming(V5, "reader"));
        let outputs = house.publish(writer, message1(1, "t", "now"));
        assert_eq!(payloads(&outputs, reader), ["now"]);
    }
}

#[test]
fn what_comes_while_a_client_drains_comes_behind_what_waits() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    let mut came = messages(&outputs, link);
    let mut waiting: std::collections::VecDeque<_> = came.iter().filter_map(|it| it.packet_id).collect();
    for number in 100..300 {
        let mut outputs = house.publish(writer, message1(1, "t", &number.to_string()));
        for _ in 0..2 {
            if let Some(packet_id) = waiting.pop_front() {
                outputs.extend(house.receive(link, puback(packet_id.get())));
            }
        }
        let new = messages(&outputs, link);
        waiting.extend(new.iter().filter_map(|it| it.packet_id));
        came.extend(new);
    }
    let rest: Vec<_> = waiting
        .into_iter()
        .flat_map(|packet_id| house.receive(link, puback(packet_id.get())))
        .collect();
    came.extend(drain(&mut house, link, rest));
    let came: Vec<_> = came
        .iter()
        .map(|publish| String::from_utf8_lossy(&publish.payload).into_owned())
        .collect();
    assert_eq!(came, texts(0..300));
}

#[test]
fn what_waits_in_the_journal_costs_next_to_no_memory_however_much_it_is() {
    let mut house = House::within(Limits {
        spill_bytes_max: 1 << 30,
        spill_bytes_total_max: 1 << 30,
        ..small()
    })
    .with_store();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    house.flush(writer);
    let few = house.broker.memory_bytes();
    house.stored = None; // it would be compared after each step
    fill(&mut house, writer, 100..5_000);
    house.flush(writer);
    let many = house.broker.memory_bytes();
    assert_eq!(house.stats().spilled_messages, 5_000 - SMALL as u64);
    assert!(many < few + 2_000, "{few} bytes for 100, {many} for 5,000");
}

#[test]
fn a_message_for_many_who_are_away_is_stored_once() {
    let mut house = house();
    for number in 0..20 {
        absent(&mut house, &format!("reader-{number}"), QoS::AtLeastOnce);
    }
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..SMALL);
    let before = house.journal.len();
    fill(&mut house, writer, SMALL..SMALL + 30);
    assert_eq!(house.journal.len() - before, 30);
    for number in 0..20 {
        assert_eq!(
            drained(&mut house, &format!("reader-{number}")),
            texts(0..SMALL + 30)
        );
    }
}

#[test]
fn after_a_power_cut_all_of_it_is_there_and_still_not_in_memory() {
    let mut house = house();
    absent(&mut house, "reader", QoS::ExactlyOnce);
    let writer = house.join(client(V5, "writer"));
    fill_exactly(&mut house, writer, 0..200);
    restart(&mut house);
    let stats = house.stats();
    assert_eq!((stats.queued_messages, stats.spilled_messages), (16, 184));
    // A part of it is taken, and the power goes again.
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    let came = messages(&outputs, link);
    assert_eq!(came.len(), 32, "as much as may be in flight");
    for publish in came.iter().take(20) {
        let number = publish.packet_id.expect("QoS 2").get();
        house.receive(link, pubrec(number));
        house.receive(link, pubcomp(number));
    }
    restart(&mut house);
    let writer = house.join(client(V5, "writer"));
    fill_exactly(&mut house, writer, 200..220);
    assert_eq!(drained(&mut house, "reader"), texts(20..220));
}

#[test]
fn what_was_dropped_in_the_middle_before_a_power_cut_stays_dropped() {
    let firm = QueueRule {
        topics: vec![filter("firm")],
        overflow: Some(Overflow::Reject),
        ..QueueRule::default()
    };
    let settings = Settings {
        queue_rules: vec![firm],
        ..Settings::default()
    };
    let without_spill = Limits {
        spill_bytes_max: 0,
        queue_class: QueueClass::N64,
        ..Limits::default()
    };
    let mut house = House::within(without_spill).decided(settings).with_store();
    let link = house.join(resuming(V5, "reader"));
    house.subscribe(link, "#", QoS::AtLeastOnce);
    house.close(link);
    let writer = house.join(client(V5, "writer"));
    // Twenty that stay, and of a hundred behind them the last forty-four.
    for number in 0..20 {
        house.publish(writer, message1(1, "firm", &number.to_string()));
    }
    fill(&mut house, writer, 20..120);
    let expected = [texts(0..20), texts(76..120)].concat();
    house.restart(Broker::new(small(), Rights::default(), 8), Duration::ZERO, true);
    assert_eq!(house.stats().spilled_messages, 64 - SMALL as u64);
    house.step(Input::Checkpoint);
    house.read_again();
    assert_eq!(drained(&mut house, "reader"), expected);
    assert_eq!(house.stats().dropped(), 0);
}

#[test]
fn what_is_larger_than_a_queue_may_hold_by_now_comes_alone() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    let large = "x".repeat(2_000);
    for payload in ["small", &large, "smaller"] {
        house.publish(writer, message1(1, "t", payload));
    }
    let limits = Limits {
        queue_bytes_max: 1_000,
        ..small()
    };
    house.restart(Broker::new(limits, Rights::default(), 8), Duration::ZERO, true);
    assert_eq!(drained(&mut house, "reader"), ["small", &large, "smaller"]);
}

#[test]
fn after_a_power_cut_there_is_as_much_room_as_before() {
    let limits = Limits {
        queue_class: QueueClass::N256,
        spill_bytes_max: 400,
        queue_overflow: Overflow::DropOldest,
        ..Limits::default()
    };
    let mut house = House::within(limits).with_store();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 100..430);
    restart(&mut house);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 430..440);
    assert_eq!(house.stats().dropped(), 0);
    assert_eq!(drained(&mut house, "reader"), texts(100..440));
}

#[test]
fn a_session_that_is_to_end_with_its_connection_gets_all_of_it_before() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let mut connect = resuming(V5, "reader");
    connect.properties.session_expiry_secs = None;
    let (link, outputs) = house.connect(connect.clone());
    house.step(Input::Checkpoint);
    assert_eq!(drain(&mut house, link, outputs).len(), 100);
    house.close(link);
    assert_eq!(house.stats().sessions, 1, "the writer's");
    // Nor does it outlive a power cut.
    absent(&mut house, "reader", QoS::AtLeastOnce);
    fill(&mut house, writer, 0..100);
    house.connect(connect);
    restart(&mut house);
    assert_eq!(house.stats().sessions, 0);
    assert_eq!(house.stats().spilled_messages, 0);
}

#[test]
fn what_is_not_stored_yet_is_not_acknowledged_and_not_forgotten() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..50);
    let mut house = house.storing_when_told();
    assert_eq!(house.publish(writer, message1(7, "t", "50")), []);
    let held = house.broker.memory_bytes();
    assert_eq!(house.store(), [send(writer, puback(7))]);
    assert!(house.broker.memory_bytes() < held);
    // What the power takes was promised to nobody.
    house.publish(writer, message1(8, "t", "lost"));
    restart(&mut house);
    house.stores_at_once = true;
    assert_eq!(drained(&mut house, "reader"), texts(0..51));
}

#[test]
fn a_checkpoint_moves_what_waits_there_while_life_goes_on() {
    let mut house = house();
    for name in ["one", "two", "three", "ended"] {
        absent(&mut house, name, QoS::AtLeastOnce);
    }
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let mut house = house.storing_when_told();
    house.recalls_at_once = false;
    house.step(Input::Checkpoint);
    let mut next = 100;
    let (two, mut outputs) = house.connect(resuming(V5, "two"));
    outputs.extend(house.store());
    let mut came = Vec::new();
    for _ in 0..1_000 {
        outputs.extend(house.publish(writer, message1(1, "t", &next.to_string())));
        next += 1;
        let new = messages(&outputs, two);
        outputs.clear();
        for publish in &new {
            let number = publish.packet_id.expect("QoS 1").get();
            outputs.extend(house.receive(two, puback(number)));
        }
        came.extend(new);
        outputs.extend(house.store());
        outputs.extend(house.read_again());
        if next == 110 {
            house.connect(client(V5, "ended"));
        }
        if house
            .journal
            .iter()
            .rev()
            .take(50)
            .any(|change| *change == Change::CheckpointEnded)
        {
            break;
        }
    }
    let image = house.broker.image().expect("a store");
    let begun = (house.journal.iter()).rposition(|change| *change == Change::CheckpointBegun);
    let mut restored = Restored::default();
    for change in &house.journal[begun.expect("a checkpoint")..] {
        restored.apply(change.clone());
    }
    restored.finish();
    assert!(restored.is_like(&image));
    outputs.extend(house.store());
    house.stores_at_once = true;
    house.recalls_at_once = true;
    outputs.extend(house.read_again());
    came.extend(drain(&mut house, two, outputs));
    let came: Vec<_> = came
        .iter()
        .map(|publish| String::from_utf8_lossy(&publish.payload).into_owned())
        .collect();
    assert_eq!(came, texts(0..next));
    assert_eq!(drained(&mut house, "one"), texts(0..next));
    restart(&mut house);
    assert_eq!(drained(&mut house, "three"), texts(0..next));
    assert_eq!(house.stats().dropped(), 0);
}

#[test]
fn one_checkpoint_after_the_other_keeps_all_of_it() {
    let mut house = house();
    absent(&mut house, "one", QoS::AtLeastOnce);
    absent(&mut house, "two", QoS::AtLeastOnce);
    for round in 0..5 {
        let writer = house.join(client(V5, "writer"));
        fill(&mut house, writer, round * 40..round * 40 + 40);
        house.step(Input::Checkpoint);
        if round == 2 {
            restart(&mut house);
        }
    }
    assert_eq!(drained(&mut house, "one"), texts(0..200));
    house.step(Input::Checkpoint);
    assert_eq!(drained(&mut house, "two"), texts(0..200));
}

#[test]
fn a_store_that_fails_takes_nothing_that_has_spilled() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let mut house = house.storing_when_told();
    house.publish(writer, message1(1, "t", "100")); // in the air
    let (given, count) = (house.broker.store().expect("a store").given, house.journal.len());
    house.step(Input::Store(StoreHealth::Failed));
    house.journal.truncate(count - 1);
    house.numbers.truncate(count - 1);
    house.publish(writer, message1(2, "t", "x"));
    house.is_healing = true;
    house.stored = None;
    let mut outputs = house.step(Input::Store(StoreHealth::Ready));
    for _ in 0..100 {
        outputs.extend(house.store());
    }
    assert!(house.broker.store().expect("a store").stored > given);
    let refused = puback_with(2, ReasonCode::QuotaExceeded);
    assert_eq!(outputs, [send(writer, puback(1)), send(writer, refused)]);
    restart(&mut house);
    house.stores_at_once = true;
    assert_eq!(drained(&mut house, "reader"), texts(0..101));
}

/// It stood in the journal twice, and came twice.
#[test]
fn what_a_checkpoint_that_was_cut_short_gave_again_comes_once() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..18);
    let mut house = house.storing_when_told();
    house.recalls_at_once = false;
    house.publish(writer, message1(1, "t", "18"));
    house.step(Input::Checkpoint);
    house.store();
    assert!(!house.journal.contains(&Change::CheckpointEnded));
    let is_last = |change: &&Change| {
        matches!(change, Change::Accepted(accepted)
            if accepted.body.as_ref().is_some_and(|body| body.payload == "18"))
    };
    assert_eq!(house.journal.iter().filter(is_last).count(), 2);
    restart(&mut house);
    (house.stores_at_once, house.recalls_at_once) = (true, true);
    assert_eq!(drained(&mut house, "reader"), texts(0..19));
    assert_eq!(house.stats().dropped(), 0);
}

#[test]
fn a_failure_in_the_middle_of_a_checkpoint_leaves_it_where_it_stood() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let mut house = house.storing_when_told();
    house.stored = None;
    let kept = house.journal.len();
    house.step(Input::Checkpoint);
    house.step(Input::Store(StoreHealth::Failed));
    house.journal.truncate(kept);
    house.numbers.truncate(kept);
    house.step(Input::Store(StoreHealth::Ready));
    for _ in 0..100 {
        house.store();
    }
    house.stores_at_once = true;
    assert_eq!(drained(&mut house, "reader"), texts(0..100));
}

#[test]
fn what_the_medium_does_not_give_back_is_told() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    let is_hit = |change: &Change| match change {
        Change::Accepted(accepted) => {
            let body = accepted.body.as_ref().expect("a body");
            ["40", "41", "42", "99"].contains(&std::str::from_utf8(&body.payload).unwrap())
        }
        _ => false,
    };
    house.stored = None;
    let keep: Vec<_> = house.journal.iter().map(|change| !is_hit(change)).collect();
    let mut kept = keep.iter();
    house.journal.retain(|_| *kept.next().unwrap());
    let mut kept = keep.iter();
    house.numbers.retain(|_| *kept.next().unwrap());
    let came = drained(&mut house, "reader");
    assert_eq!(came, texts((0..40).chain(43..99)));
    let stats = house.stats();
    assert_eq!((stats.dropped_damaged, stats.spilled_messages), (4, 0));
    assert_eq!(stats.dropped(), 4);
}

/// A small queue and room for some twenty messages beyond it.
fn bounded(overflow: Overflow) -> House {
    let limits = Limits {
        queue_overflow: overflow,
        spill_bytes_max: 60,
        publish_wait_max: Duration::from_secs(5),
        ..small()
    };
    House::within(limits).with_store()
}

#[test]
fn where_the_journal_has_no_more_room_for_a_client_its_policy_says_what_gives_way() {
    let mut house = bounded(Overflow::DropOldest);
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 10..99);
    let came = drained(&mut house, "reader");
    assert!((30..=44).contains(&came.len()), "{}", came.len());
    assert_eq!(came, texts(99 - came.len()..99));
    assert_eq!(house.stats().dropped_queue_full, 89 - came.len() as u64);

    let mut house = bounded(Overflow::DropNewest);
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 10..99);
    assert_eq!(drained(&mut house, "reader"), texts(10..46));

    let mut house = bounded(Overflow::Reject);
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    assert_eq!(fill(&mut house, writer, 10..46), [true; 36]);
    let outputs = house.publish(writer, message1(1, "t", "46"));
    let refused = Packet::PubAck(Ack {
        reason: ReasonCode::QuotaExceeded,
        ..Ack::success(id(1))
    });
    assert_eq!(sent(&outputs, writer), [&refused]);
    assert_eq!(drained(&mut house, "reader"), texts(10..46));
    assert_eq!(house.stats().dropped(), 0);

    let mut house = bounded(Overflow::Disconnect);
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 10..47);
    assert_eq!(house.stats().sessions_overflowed, 1);
    assert_eq!(house.stats().spilled_messages, 0);
}

#[test]
fn all_clients_together_have_so_much_room_there_and_no_more() {
    let limits = Limits {
        queue_overflow: Overflow::DropNewest,
        spill_bytes_max: 60,
        spill_bytes_total_max: 90,
        ..small()
    };
    let mut house = House::within(limits).with_store();
    absent(&mut house, "one", QoS::AtLeastOnce);
    absent(&mut house, "two", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 10..99);
    assert_eq!(house.stats().spilled_bytes, 90);
    let all = drained(&mut house, "one").len() + drained(&mut house, "two").len();
    assert_eq!(all, 2 * SMALL + 30);
}

#[test]
fn what_has_expired_there_is_not_sent_and_what_has_not_says_how_long_it_lives() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..20);
    for (number, secs) in [(20, 5), (21, 100)] {
        let mut publish = message1(1, "t", &number.to_string());
        publish.properties = Some(Box::new(PublishProperties {
            message_expiry_secs: Some(secs),
            ..PublishProperties::default()
        }));
        house.publish(writer, publish);
    }
    fill(&mut house, writer, 22..30);
    house.wait(Duration::from_secs(30));
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    let came = drain(&mut house, link, outputs);
    let secs: Vec<_> = (came.iter())
        .filter_map(|publish| publish.properties.as_ref()?.message_expiry_secs)
        .collect();
    assert_eq!((came.len(), secs), (29, vec![70]));
    assert_eq!(house.stats().dropped_expired, 1);
}

#[test]
fn what_is_too_old_there_is_dropped_and_told() {
    let limits = Limits {
        spill_age_max: Duration::from_secs(60),
        ..small()
    };
    let mut house = House::within(limits).with_store();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..30);
    house.wait(Duration::from_secs(61));
    assert_eq!(
        drained(&mut house, "reader"),
        texts(0..SMALL),
        "those of its queue are not there"
    );
    assert_eq!(house.stats().dropped_expired, 30 - SMALL as u64);
    assert_eq!(house.stats().spilled_messages, 0);
}

/// It went when its client came back, and until then what was new found no room.
#[test]
fn what_is_too_old_there_makes_room_though_its_client_stays_away() {
    let limits = Limits {
        queue_overflow: Overflow::DropNewest,
        spill_bytes_max: 60,
        spill_age_max: Duration::from_secs(60),
        ..small()
    };
    let mut house = House::within(limits).with_store();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 10..46);
    assert_eq!(house.stats().spilled_messages, 20);
    house.wait(Duration::from_secs(61));
    let stats = house.stats();
    assert_eq!((stats.spilled_messages, stats.spilled_bytes), (0, 0));
    assert_eq!(stats.dropped_expired, 20);
    fill(&mut house, writer, 50..70);
    assert_eq!(house.stats().spilled_messages, 20);
    assert_eq!(drained(&mut house, "reader"), texts((10..26).chain(50..70)));
}

#[test]
fn a_session_that_ends_takes_it_along_and_it_is_counted() {
    let mut house = house();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    house.connect(client(V5, "reader"));
    let stats = house.stats();
    assert_eq!((stats.spilled_messages, stats.dropped_session_ended), (0, 100));
}

#[test]
fn where_nothing_is_to_spill_the_queue_is_all_there_is() {
    let limits = Limits {
        spill_bytes_max: 0,
        ..small()
    };
    let mut house = House::within(limits).with_store();
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    assert_eq!(drained(&mut house, "reader"), texts(100 - SMALL..100));
    // Nor of a session that is not stored, or without a store.
    let mut house = House::within(small());
    absent(&mut house, "reader", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..100);
    assert_eq!(drained(&mut house, "reader"), texts(100 - SMALL..100));
}

#[test]
fn an_older_client_gets_it_as_well() {
    let mut house = house();
    let version = ProtocolVersion::V311;
    let link = house.join(resuming(version, "reader"));
    house.subscribe(link, "t", QoS::AtLeastOnce);
    house.close(link);
    let writer = house.join(client(V5, "writer"));
    fill(&mut house, writer, 0..60);
    let (link, outputs) = house.connect(resuming(version, "reader"));
    assert_eq!(drain(&mut house, link, outputs).len(), 60);
}
