//! What outlives the gateway: acknowledgements that wait, what they promise, and what is there after a power cut.

mod conversation;

use std::time::Duration;

use conversation::*;
use tidegate::auth::access::{Action, Rights};
use tidegate::broker::{
    Broker, Change, DetachReason, Event, Input, KickOptions, Limits, LinkId, Now, Output, Refusal, Restored,
    StoreHealth,
};
use tidegate::mqtt::{
    Connect, ConnectProperties, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, Will,
    WillProperties,
};

/// A house in which what is given is stored when the test says so.
fn house() -> House {
    House::new().with_store().storing_when_told()
}

/// A client whose session is kept.
fn kept(version: ProtocolVersion, id: &str) -> Connect {
    let mut connect = resuming(version, id);
    if version == V5 {
        connect.properties.session_expiry_secs = Some(1000);
    }
    connect
}

/// Lets a client in whose session is kept, and stores it.
fn come(house: &mut House, version: ProtocolVersion, id: &str) -> LinkId {
    let (link, outputs) = house.connect(kept(version, id));
    assert_eq!(sent(&outputs, link), Vec::<&Packet>::new(), "CONNACK waits");
    let outputs = house.store();
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    link
}

/// The same with a subscription; its client has left.
fn absent(house: &mut House, version: ProtocolVersion, id: &str, filter: &str, qos: QoS) {
    let link = come(house, version, id);
    house.receive(link, subscribe_packet(&[subscription(filter, qos)]));
    house.store();
    house.close(link);
    house.store();
}

/// The power goes and comes back at once.
fn cut(house: &mut House) -> Vec<Output> {
    cut_for(house, Duration::ZERO)
}

fn cut_for(house: &mut House, off: Duration) -> Vec<Output> {
    let broker = Broker::new(Limits::default(), Rights::default(), 8);
    house.restart(broker, off, true)
}

/// The packets of `outputs`, whomever they are for.
fn packets(outputs: &[Output]) -> Vec<&Packet> {
    (outputs.iter())
        .filter_map(|output| match output {
            Output::Send { packet, .. } => Some(packet),
            _ => None,
        })
        .collect()
}

#[test]
fn an_acknowledgement_waits_until_its_message_is_stored() {
    for (publish, answer) in [
        (message1(7, "t", "x"), puback(7)),
        (message2(7, "t", "x"), pubrec(7)),
    ] {
        let mut house = house();
        absent(&mut house, V311, "reader", "t", QoS::ExactlyOnce);
        let writer = house.join(client(V5, "writer"));
        assert_eq!(house.publish(writer, publish), []);
        assert!(house.broker.waits_for_store());
        assert_eq!(house.store(), [send(writer, answer)]);
        assert!(!house.broker.waits_for_store());
    }
}

#[test]
fn nobody_waits_for_what_is_not_to_be_stored() {
    let mut house = house();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    let outputs = house.publish(writer, message1(1, "t", "x"));
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(sent(&outputs, writer), [&puback(1)]);
    assert_eq!(
        house.receive(writer, Packet::PingReq),
        [send(writer, Packet::PingResp)]
    );
    assert_eq!(house.broker.store().expect("a store").given, 0);
}

#[test]
fn what_a_client_does_besides_stays_in_its_order() {
    let mut house = house();
    absent(&mut house, V311, "reader", "kept", QoS::AtLeastOnce);
    let writer = house.join(client(V311, "writer"));
    assert_eq!(house.publish(writer, message1(1, "kept", "x")), []);
    // This one rests on nothing, and its acknowledgement must not come before that of the first [MQTT-4.6.0-2].
    assert_eq!(house.publish(writer, message1(2, "unheard", "x")), []);
    assert_eq!(house.store(), [send(writer, puback(1)), send(writer, puback(2))]);
}

#[test]
fn a_message_that_waits_to_be_stored_holds_up_nobody_else() {
    let mut house = house();
    absent(&mut house, V311, "reader", "kept", QoS::AtLeastOnce);
    let (writer, other) = (
        house.join(client(V311, "writer")),
        house.join(client(V311, "other")),
    );
    house.publish(writer, message1(1, "kept", "x"));
    let outputs = house.publish(other, message1(1, "unheard", "x"));
    assert_eq!(outputs, [send(other, puback(1))]);
}

#[test]
fn a_session_is_stored_before_its_client_hears_that_it_is_in_and_nothing_goes_before_that() {
    for version in [V31, V311, V5] {
        let mut house = house();
        let writer = house.join(client(V5, "writer"));
        house.publish(writer, retained(message("t", "old")));
        house.store();
        let (link, outputs) = house.connect(kept(version, "reader"));
        assert_eq!(packets(&outputs), Vec::<&Packet>::new());
        // It need not wait for CONNACK, section 3.1.4.
        house.receive(link, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
        let outputs = house.publish(writer, message("t", "new"));
        assert_eq!(sent(&outputs, link), Vec::<&Packet>::new());
        let outputs = house.store();
        let heard = sent(&outputs, link);
        assert!(matches!(heard[0], Packet::ConnAck(_)), "{heard:?}");
        assert!(heard.iter().any(|packet| matches!(packet, Packet::SubAck(_))));
        assert_eq!(payloads(&outputs, link), ["old"]);
    }
}

#[test]
fn who_has_not_heard_that_it_is_in_is_not_told_that_it_is_out() {
    let mut house = house();
    let (first, _) = house.connect(kept(V5, "bill"));
    let (second, outputs) = house.connect(kept(V5, "bill"));
    assert_eq!(packets(&outputs), Vec::<&Packet>::new());
    assert!(outputs.contains(&close(first)));
    let outputs = house.store();
    assert_eq!(sent(&outputs, first), Vec::<&Packet>::new());
    assert!(
        connack(&outputs, second).session_present,
        "it was there when the second came"
    );
}

#[test]
fn subscriptions_of_a_stored_session_are_stored_before_they_are_granted_and_before_they_are_said_to_be_gone()
{
    let mut house = house();
    let link = come(&mut house, V5, "reader");
    assert_eq!(
        house.receive(link, subscribe_packet(&[subscription("t", QoS::AtLeastOnce)])),
        []
    );
    assert_eq!(suback(&house.store(), link), [ReasonCode::GrantedQos1]);
    assert_eq!(house.receive(link, unsubscribe_packet(&["t"])), []);
    assert!(matches!(packets(&house.store())[..], [Packet::UnsubAck(_)]));
}

#[test]
fn a_qos_2_delivery_goes_out_when_its_identifier_is_stored_and_is_released_when_that_is() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::ExactlyOnce)]));
    house.store();
    let writer = house.join(client(V5, "writer"));
    assert_eq!(house.publish(writer, message2(1, "t", "x")), []);
    let outputs = house.store();
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(house.receive(reader, pubrec(1)), []);
    assert_eq!(house.store(), [send(reader, pubrel(1))]);
    assert_eq!(house.receive(reader, pubcomp(1)), []);
}

#[test]
fn a_qos_1_delivery_to_a_client_that_is_there_does_not_wait() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtLeastOnce)]));
    house.store();
    let writer = house.join(client(V5, "writer"));
    let outputs = house.publish(writer, message1(1, "t", "x"));
    assert_eq!(payloads(&outputs, reader), ["x"]);
    assert_eq!(sent(&outputs, writer), Vec::<&Packet>::new());
}

#[test]
fn the_identifier_of_a_qos_2_message_is_free_when_that_is_stored() {
    let mut house = house();
    let writer = come(&mut house, V5, "writer");
    house.publish(writer, message2(9, "t", "x"));
    house.store();
    assert_eq!(house.receive(writer, pubrel(9)), []);
    assert_eq!(house.store(), [send(writer, pubcomp(9))]);
}

#[test]
fn after_a_power_cut_what_was_acknowledged_is_there_in_its_order() {
    for version in [V31, V311, V5] {
        let mut house = house();
        absent(&mut house, version, "reader", "t", QoS::ExactlyOnce);
        let writer = house.join(client(V5, "writer"));
        for number in 1..=20 {
            house.publish(writer, message1(number, "t", &number.to_string()));
        }
        house.store();
        house.publish(writer, message1(21, "t", "not stored"));
        cut(&mut house);
        let (reader, _) = house.connect(kept(version, "reader"));
        let outputs = house.store();
        assert!(version == V31 || connack(&outputs, reader).session_present);
        let expected: Vec<_> = (1..=20).map(|number| number.to_string()).collect();
        assert_eq!(payloads(&outputs, reader), expected);
    }
}

#[test]
fn after_a_power_cut_what_was_sent_is_sent_again_by_its_identifier_and_released_goes_on() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::ExactlyOnce)]));
    house.store();
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message2(1, "t", "released"));
    house.store();
    house.receive(reader, pubrec(1));
    house.publish(writer, message1(2, "t", "sent"));
    house.publish(writer, message2(3, "t", "sent, too"));
    house.store();
    cut(&mut house);
    let (reader, _) = house.connect(kept(V5, "reader"));
    let outputs = house.store();
    let again = |publish| Packet::Publish(repeated(publish));
    assert_eq!(
        sent(&outputs, reader)[1..],
        [
            &pubrel(1),
            &again(message1(2, "t", "sent")),
            &again(message2(3, "t", "sent, too"))
        ]
    );
    // None of these identifiers is given to another message.
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message1(9, "t", "new"));
    assert_eq!(
        payloads(&house.receive(reader, pubcomp(1)), reader),
        Vec::<String>::new()
    );
}

#[test]
fn after_a_power_cut_a_qos_2_message_that_comes_again_is_the_same() {
    let mut house = house();
    absent(&mut house, V311, "reader", "t", QoS::ExactlyOnce);
    let writer = come(&mut house, V311, "writer");
    house.publish(writer, message2(5, "t", "once"));
    house.store();
    cut(&mut house);
    let writer = come(&mut house, V311, "writer");
    let outputs = house.publish(writer, repeated(message2(5, "t", "once")));
    assert_eq!(outputs, [send(writer, pubrec(5))]);
    assert_eq!(house.stats().queued_messages, 1);
    house.receive(writer, pubrel(5));
    house.store();
    house.publish(writer, message2(5, "t", "another"));
    assert_eq!(house.stats().queued_messages, 2);
}

#[test]
fn after_a_power_cut_topics_have_their_retained_messages_and_those_that_were_cleared_have_none() {
    let mut house = house();
    let writer = house.join(client(V5, "writer"));
    for (number, topic, payload) in [(1, "a", "1"), (2, "b", "2"), (3, "a", "3"), (4, "c", "4")] {
        house.publish(writer, retained(message1(number, topic, payload)));
    }
    assert_eq!(house.publish(writer, retained(message1(5, "c", ""))), []);
    assert_eq!(packets(&house.store()).len(), 5);
    cut(&mut house);
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("#", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, reader), ["3", "2"]);
}

/// A reader that takes one message at a time.
fn narrow() -> Connect {
    let mut connect = kept(V5, "reader");
    connect.properties.receive_maximum = Some(1);
    connect
}

#[test]
fn retained_messages_that_a_new_subscription_is_still_owed_come_after_a_power_cut_each_once() {
    for (granted, with_checkpoint) in [
        (QoS::AtLeastOnce, false),
        (QoS::ExactlyOnce, false),
        (QoS::ExactlyOnce, true),
    ] {
        let mut house = house();
        let writer = house.join(client(V5, "writer"));
        house.publish(writer, retained(message("t/0", "not kept for anybody")));
        for (number, topic) in [(1, "t/1"), (2, "t/2"), (3, "t/3"), (4, "u/4"), (5, "t/5")] {
            house.publish(writer, retained(message2(number, topic, topic)));
            house.store();
            house.receive(writer, pubrel(number));
            house.store();
        }
        let (mut reader, _) = house.connect(narrow());
        house.store();
        let filters = [subscription("t/+", granted), subscription("u/#", granted)];
        house.receive(reader, subscribe_packet(&filters));
        let outputs = house.store();
        assert_eq!(suback(&outputs, reader).len(), 2, "it is promised");
        let mut heard = Vec::new();
        for _ in 0..5 {
            cut(&mut house);
            (reader, _) = house.connect(narrow());
            let outputs = house.store();
            let messages = messages(&outputs, reader);
            assert_eq!(messages.len(), 1, "the window is full: {outputs:?}");
            assert!(messages[0].retain);
            heard.extend(payloads(&outputs, reader));
            let number = messages[0].packet_id.expect("QoS 1 or 2").get();
            if granted == QoS::AtLeastOnce {
                house.receive(reader, puback(number));
            } else {
                house.receive(reader, pubrec(number));
                house.store();
                house.receive(reader, pubcomp(number));
            }
            if with_checkpoint {
                house.step(Input::Checkpoint);
            }
            house.store();
        }
        assert_eq!(heard, ["t/1", "t/2", "t/3", "t/5", "u/4"]);
        cut(&mut house);
        let (reader, _) = house.connect(narrow());
        assert_eq!(
            payloads(&house.store(), reader),
            Vec::<String>::new(),
            "all is paid"
        );
    }
}

#[test]
fn what_the_gateway_tells_of_itself_below_dollar_topics_is_not_stored() {
    let mut house = house();
    house.step(own("$SYS/broker/uptime", "1", QoS::AtMostOnce, true));
    assert_eq!(house.broker.store().expect("a store").given, 0);
    house.step(own("boiler/temperature", "71", QoS::AtMostOnce, true));
    assert!(house.broker.store().expect("a store").given > 0);
    assert!(!house.broker.waits_for_store(), "nobody is told about it");
}

fn mortal(id: &str, delay_secs: u32) -> Connect {
    Connect {
        will: Some(Will {
            properties: WillProperties {
                delay_secs: Some(delay_secs),
                ..WillProperties::default()
            },
            qos: QoS::AtLeastOnce,
            ..will("wills", id)
        }),
        properties: ConnectProperties {
            session_expiry_secs: Some(1000),
            ..ConnectProperties::default()
        },
        ..resuming(V5, id)
    }
}

#[test]
fn a_power_cut_is_no_goodbye_and_the_will_is_sent_once() {
    for (delay_secs, is_delayed) in [(0, false), (30, true)] {
        let mut house = house();
        absent(&mut house, V5, "reader", "wills", QoS::AtLeastOnce);
        house.connect(mortal("bill", delay_secs));
        house.store();
        cut(&mut house);
        assert_eq!(house.stats().wills_sent, u64::from(!is_delayed));
        house.wait(secs(31));
        assert_eq!(house.stats().wills_sent, 1);
        house.store();
        // And the next one has none left to send.
        cut(&mut house);
        house.wait(secs(31));
        assert_eq!(house.stats().wills_sent, 0);
        let (reader, _) = house.connect(kept(V5, "reader"));
        assert_eq!(payloads(&house.store(), reader), ["bill"]);
    }
}

#[test]
fn a_will_whose_client_said_goodbye_does_not_come_back_with_the_power() {
    let mut house = house();
    absent(&mut house, V5, "reader", "wills", QoS::AtLeastOnce);
    let (bill, _) = house.connect(mortal("bill", 0));
    house.store();
    house.receive(bill, disconnect(ReasonCode::Success));
    house.store();
    cut(&mut house);
    assert_eq!(house.stats().wills_sent, 0);
}

#[test]
fn sessions_expire_by_the_time_that_passed_while_the_gateway_was_off_and_on() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    house.wait(secs(300));
    house.now.wall += secs(300);
    cut_for(&mut house, secs(300));
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(390));
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(20));
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_clock_that_is_not_trusted_ends_no_session_early() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let broker = Broker::new(Limits::default(), Rights::default(), 8);
    house.restart(broker, secs(1_000_000), false);
    house.wait(secs(990));
    assert_eq!(house.stats().sessions, 1);
    house.wait(secs(20));
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn setting_the_clock_ends_no_session_early_however_far_it_jumps() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    house.wait(secs(100));
    // The board started in 1970, and finds the time.
    house.now.wall += secs(56 * 365 * 86_400);
    come(&mut house, V5, "other");
    cut_for(&mut house, secs(100));
    house.wait(secs(790));
    assert_eq!(house.stats().sessions, 2);
    house.wait(secs(20));
    assert_eq!(house.stats().sessions, 1);
}

#[test]
fn a_message_says_how_long_it_has_left_to_live_after_a_power_cut_and_is_dropped_when_it_has_not() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    for (number, expiry_secs) in [(1, 50), (2, 500)] {
        let mut publish = message1(number, "t", &expiry_secs.to_string());
        publish.properties = Some(Box::new(PublishProperties {
            message_expiry_secs: Some(expiry_secs),
            ..PublishProperties::default()
        }));
        house.publish(writer, publish);
    }
    house.store();
    house.wait(secs(20));
    house.now.wall += secs(20);
    cut_for(&mut house, secs(80));
    let (reader, _) = house.connect(kept(V5, "reader"));
    let outputs = house.store();
    let heard = messages(&outputs, reader);
    let left: Vec<_> = heard
        .iter()
        .map(|publish| {
            publish
                .properties
                .as_ref()
                .expect("properties")
                .message_expiry_secs
        })
        .collect();
    assert_eq!(left, [Some(400)]);
}

#[test]
fn who_was_kept_out_is_kept_out_after_a_power_cut_as_long_as_it_was_to_be() {
    let mut house = house();
    let options = KickOptions {
        keep_out: Some(secs(100)),
        ..KickOptions::default()
    };
    house.step(kick_with(1, known_as("mallory"), options));
    house.store();
    cut_for(&mut house, secs(40));
    let (link, outputs) = house.connect(client(V5, "mallory"));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Banned);
    house.wait(secs(61));
    let (link, outputs) = house.connect(client(V5, "mallory"));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
}

#[test]
fn a_session_that_ended_is_not_there_after_a_power_cut() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let (link, _) = house.connect(client(V5, "reader"));
    // Its CONNACK says that nothing is left of the old session, so that must be stored.
    assert!(!connack(&house.store(), link).session_present);
    cut(&mut house);
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_shared_subscription_goes_on_after_a_power_cut_and_what_one_left_another_gets() {
    let mut house = house();
    absent(&mut house, V5, "first", "$share/g/t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message1(1, "t", "x"));
    house.store();
    cut(&mut house);
    let second = come(&mut house, V5, "second");
    house.receive(
        second,
        subscribe_packet(&[subscription("$share/g/t", QoS::AtLeastOnce)]),
    );
    house.store();
    let (first, _) = house.connect(client(V5, "first"));
    let outputs = house.store();
    assert_eq!(payloads(&outputs, first), Vec::<String>::new());
    assert_eq!(house.stats().messages_sent, 1, "the second has it");
}

/// What only the records since the last checkpoint come to.
fn since_checkpoint(house: &House) -> Restored {
    let begun = (house.journal.iter()).rposition(|change| *change == Change::CheckpointBegun);
    let mut restored = Restored::default();
    for change in &house.journal[begun.expect("a checkpoint")..] {
        restored.apply(change.clone());
    }
    restored.finish();
    restored
}

#[test]
fn a_checkpoint_gives_everything_again_while_life_goes_on() {
    let mut house = house();
    let payload = "x".repeat(1000);
    for number in 0..30 {
        absent(&mut house, V5, &format!("reader-{number}"), "t", QoS::ExactlyOnce);
    }
    let writer = house.join(client(V5, "writer"));
    for number in 1..=200 {
        house.publish(writer, message1(number, "t", &payload));
        house.store();
    }
    house.publish(writer, retained(message1(201, "kept", "retained")));
    house.store();
    house.step(Input::Checkpoint);
    let mut slices = 0;
    for number in 1.. {
        // One takes its messages, one ends, others get more.
        let (reader, _) = house.connect(kept(V5, "reader-17"));
        house.store();
        house.receive(reader, pubrec(1));
        house.close(reader);
        house.publish(writer, message1(202 + number, "t", "new"));
        if number == 3 {
            house.connect(client(V5, "reader-3"));
        }
        house.store();
        slices += 1;
        assert!(slices < 1000, "a checkpoint comes to an end");
        if house.journal.last() == Some(&Change::CheckpointEnded)
            || house
                .journal
                .iter()
                .rev()
                .take(200)
                .any(|change| *change == Change::CheckpointEnded)
        {
            break;
        }
    }
    assert!(slices > 3, "in slices");
    house.store();
    let image = house.broker.image().expect("a store");
    assert!(since_checkpoint(&house).is_like(&image));
}

#[test]
fn while_there_is_no_room_nothing_new_is_promised_and_all_else_goes_on() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let (writer, old) = (house.join(client(V5, "writer")), house.join(client(V311, "old")));
    house.publish(writer, message1(1, "t", "kept"));
    house.store();
    house.step(Input::Store(StoreHealth::Full));
    let refused = puback_with(2, ReasonCode::QuotaExceeded);
    assert_eq!(
        house.publish(writer, message1(2, "t", "x")),
        [send(writer, refused)]
    );
    let outputs = house.publish(old, message1(1, "t", "x"));
    let reason = DetachReason::Refused(Refusal::NotStored);
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Event(Event::ClientDisconnected { reason: told, .. }) if *told == reason
    )));
    // Nobody is promised anything by these.
    let outputs = house.publish(writer, message1(3, "unheard", "x"));
    let nobody = puback_with(3, ReasonCode::NoMatchingSubscribers);
    assert_eq!(outputs, [send(writer, nobody)]);
    house.publish(writer, message("t", "at most once"));
    let (new, outputs) = house.connect(kept(V5, "new"));
    assert_eq!(connack(&outputs, new).reason, ReasonCode::QuotaExceeded);
    // What was promised is kept, and what makes room is recorded.
    let (reader, _) = house.connect(kept(V5, "reader"));
    let outputs = house.store();
    assert_eq!(payloads(&outputs, reader), ["kept"]);
    house.receive(reader, puback(1));
    house.store();
    let outputs = house.receive(reader, subscribe_packet(&[subscription("u", QoS::AtLeastOnce)]));
    assert_eq!(suback(&outputs, reader), [ReasonCode::QuotaExceeded]);
    house.step(Input::Store(StoreHealth::Ready));
    house.publish(writer, message1(4, "t", "again"));
    assert_eq!(packets(&house.store()).len(), 1);
}

#[test]
fn after_a_failure_everything_is_stored_again_before_anybody_is_told_that_something_is() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    absent(&mut house, V5, "gone", "t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message1(1, "t", "in the air"));
    let given = house.journal.len();
    house.step(Input::Store(StoreHealth::Failed));
    // Its record is lost, nobody knows; and what ends now is not recorded.
    house.connect(client(V5, "gone"));
    assert_eq!(house.journal.len(), given);
    house.is_healing = true;
    house.step(Input::Store(StoreHealth::Ready));
    let upto = house.broker.store().expect("a store").given - 1;
    assert_eq!(house.step(Input::Stored { upto }), [], "it is not whole yet");
    assert_eq!(house.store(), [send(writer, puback(1))]);
    // What was lost was all that stood before.
    let image = house.broker.image().expect("a store");
    assert!(since_checkpoint(&house).is_like(&image));
    cut(&mut house);
    assert_eq!(house.stats().sessions, 1);
    let (reader, _) = house.connect(kept(V5, "reader"));
    assert_eq!(payloads(&house.store(), reader), ["in the air"]);
}

/// The broker that goes on with `changes`.
fn recovered(now: Now, changes: &[Change]) -> Broker {
    let mut restored = Restored::default();
    for change in changes {
        restored.apply(change.clone());
    }
    restored.finish();
    let mut broker = Broker::new(Limits::default(), Rights::default(), 8).with_store(now);
    broker.restore(now, restored, changes.len() as u64, true);
    broker
}

/// All that was given before the end of the last checkpoint.
fn before_its_end(house: &House) -> &[Change] {
    let is_end = |change: &Change| *change == Change::CheckpointEnded;
    let end = house
        .journal
        .iter()
        .rposition(is_end)
        .expect("a checkpoint was given");
    &house.journal[..end]
}

#[test]
fn a_power_cut_amid_the_checkpoint_after_a_failure_leaves_a_client_one_session() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    house.step(Input::Store(StoreHealth::Failed));
    let starting_clean = Connect {
        clean_start: true,
        ..kept(V5, "reader")
    };
    house.connect(starting_clean); // the end of the session before is not recorded
    house.is_healing = true;
    house.step(Input::Store(StoreHealth::Ready));
    let broker = recovered(house.now, before_its_end(&house));
    assert_eq!(broker.check_invariants(), Ok(()));
    assert_eq!((broker.stats().sessions, broker.stats().subscriptions), (1, 0));
}

#[test]
fn a_power_cut_amid_the_checkpoint_after_a_failure_leaves_what_was_sent_meanwhile() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtLeastOnce)]));
    house.store();
    house.step(Input::Store(StoreHealth::Failed));
    house.step(own("t", "meanwhile", QoS::AtLeastOnce, false));
    house.is_healing = true;
    house.step(Input::Store(StoreHealth::Ready));
    let broker = recovered(house.now, before_its_end(&house));
    assert_eq!(broker.check_invariants(), Ok(()));
    assert_eq!(broker.stats().inflight_messages, 1);
}

#[test]
fn a_damaged_record_of_the_end_of_a_session_leaves_its_client_the_one_that_came_after_it() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let starting_clean = Connect {
        clean_start: true,
        ..kept(V5, "reader")
    };
    house.connect(starting_clean);
    house.store();
    let is_end = |change: &Change| matches!(change, Change::SessionEnded { .. });
    let damaged = house.journal.iter().position(is_end).expect("it was given");
    house.journal.remove(damaged);
    house.numbers.remove(damaged);
    cut(&mut house);
    assert_eq!((house.stats().sessions, house.stats().subscriptions), (1, 0));
}

#[test]
fn a_checkpoint_whose_first_record_is_damaged_gives_back_what_was_on_its_way() {
    let mut house = house();
    let (reader, _) = house.connect(kept(V5, "reader"));
    house.store();
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtLeastOnce)]));
    house.step(own("t", "sent", QoS::AtLeastOnce, false));
    house.store();
    house.step(Input::Checkpoint);
    house.store();
    let begun = house
        .journal
        .iter()
        .position(|change| *change == Change::CheckpointBegun);
    let begun = begun.expect("it was given");
    house.journal.drain(..=begun);
    house.numbers.drain(..=begun);
    cut(&mut house);
    assert_eq!(house.stats().inflight_messages, 1);
}

#[test]
fn an_identifier_whose_end_was_not_recorded_may_be_given_again() {
    let mut house = house();
    let mut connect = kept(V5, "reader");
    connect.properties.receive_maximum = Some(1);
    let (reader, _) = house.connect(connect);
    house.store();
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::AtLeastOnce)]));
    house.step(own("t", "first", QoS::AtLeastOnce, false));
    house.step(own("t", "second", QoS::AtLeastOnce, false));
    house.receive(reader, puback(1));
    // While the store had failed the first was acknowledged, and all identifiers had their turn.
    let mut changes = house.journal.clone();
    changes.retain(|change| !matches!(change, Change::Finished { .. }));
    for change in &mut changes {
        if let Change::Sent { packet_id, .. } = change {
            *packet_id = id(1);
        }
    }
    let broker = recovered(house.now, &changes);
    assert_eq!(broker.check_invariants(), Ok(()));
    assert_eq!(
        (broker.stats().inflight_messages, broker.stats().queued_messages),
        (1, 0)
    );
}

#[test]
fn a_store_that_cannot_keep_up_makes_publishers_wait() {
    let mut house = house();
    absent(&mut house, V5, "reader", "t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    let payload = "x".repeat(200_000);
    let mut paused = None;
    for number in 1..=50 {
        let outputs = house.publish(writer, message1(number, "t", &payload));
        if outputs.contains(&Output::Pause { link: writer }) {
            paused = Some(number);
            break;
        }
    }
    let paused = paused.expect("the writer has to wait");
    assert!((15..30).contains(&paused), "after {paused} messages");
    house.store();
    assert!(house.wait(secs(3)).contains(&Output::Resume { link: writer }));
}

#[test]
fn what_waits_to_be_stored_is_not_sent_to_a_client_that_may_not_have_it_any_more() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("#", QoS::ExactlyOnce)]));
    house.store();
    house.step(own("secret", "parked", QoS::ExactlyOnce, false));
    let denials = vec![denial(None, Action::Receive, "secret")];
    house.step(Input::RightsChanged(Rights::denying(denials)));
    assert_eq!(payloads(&house.store(), reader), Vec::<String>::new());
    assert_eq!(
        (house.stats().deliveries_denied, house.stats().inflight_messages),
        (1, 0)
    );
    // Its place in the window is free, and its record gone.
    house.step(own("open", "next", QoS::ExactlyOnce, false));
    assert_eq!(payloads(&house.store(), reader), ["next"]);
    cut(&mut house);
    assert_eq!(house.stats().inflight_messages, 1);
}

#[test]
fn a_pubrel_waits_for_a_pubrec_that_came_behind_connect() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::ExactlyOnce)]));
    house.store();
    house.step(own("t", "once", QoS::ExactlyOnce, false));
    assert_eq!(payloads(&house.store(), reader), ["once"]);
    house.close(reader);
    house.store();
    // Clients need not wait for CONNACK; its session is stored, what PUBREC said is not.
    let (reader, _) = house.connect(kept(V5, "reader"));
    let upto = house.broker.store().expect("a store").given;
    house.receive(reader, pubrec(1));
    let outputs = house.step(Input::Stored { upto });
    assert_eq!(connack(&outputs, reader).reason, ReasonCode::Success);
    let is_pubrel = |packet: &&Packet| matches!(packet, Packet::PubRel(_));
    assert!(!sent(&outputs, reader).iter().any(is_pubrel), "{outputs:?}");
    let outputs = house.store();
    assert!(sent(&outputs, reader).iter().any(is_pubrel), "{outputs:?}");
}

#[test]
fn a_qos_2_delivery_whose_identifier_may_not_be_stored_is_not_sent_to_who_comes_back_while_nothing_can_be() {
    let mut house = house();
    let reader = come(&mut house, V5, "reader");
    house.receive(reader, subscribe_packet(&[subscription("t", QoS::ExactlyOnce)]));
    house.store();
    house.step(own("t", "once", QoS::ExactlyOnce, false));
    house.step(Input::Store(StoreHealth::Failed));
    house.close(reader);
    let (reader, outputs) = house.connect(kept(V5, "reader"));
    assert!(connack(&outputs, reader).session_present);
    assert_eq!(payloads(&outputs, reader), Vec::<String>::new());
    house.is_healing = true;
    house.step(Input::Store(StoreHealth::Ready));
    assert_eq!(payloads(&house.store(), reader), ["once"]);
}
