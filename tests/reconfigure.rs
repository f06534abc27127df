//! Other limits while the broker runs: what comes is held to them, and nothing that is there is lost.

mod conversation;

use conversation::*;
use tidegate::broker::{Input, Limits, Output, QueueClass, Reconfiguration, Settings};
use tidegate::mqtt::{Packet, QoS, ReasonCode};

fn reconfigure(house: &mut House, change: impl FnOnce(&mut Limits)) -> Vec<Output> {
    let mut limits = house.broker.limits().clone();
    change(&mut limits);
    house.step(Input::Reconfigured(Box::new(Reconfiguration {
        limits,
        settings: Settings::default(),
        rights: None,
        listeners: Vec::new(),
        revoked: Vec::new(),
        hooks: None,
    })))
}

#[test]
fn a_queue_that_may_hold_less_keeps_what_waits_until_it_is_empty() {
    let mut house = House::new();
    let reader = house.join(resuming(V5, "reader"));
    assert_eq!(
        house.subscribe(reader, "t", QoS::AtLeastOnce),
        ReasonCode::GrantedQos1
    );
    house.close(reader);
    let writer = house.join(client(V5, "writer"));
    for number in 1..=60 {
        house.publish(writer, message1(number, "t", &number.to_string()));
    }
    reconfigure(&mut house, |limits| limits.queue_class = QueueClass::N16);
    assert_eq!(house.stats().queued_messages, 60);
    for number in 61..=64 {
        house.publish(writer, message1(number, "t", &number.to_string()));
    }
    assert_eq!(
        (house.stats().queued_messages, house.stats().dropped_queue_full),
        (64, 0)
    );
    // It has no more room than it had, and the next one costs one.
    house.publish(writer, message1(65, "t", "65"));
    assert_eq!(
        (house.stats().queued_messages, house.stats().dropped_queue_full),
        (64, 1)
    );
}

#[test]
fn a_client_goes_by_the_receive_maximum_it_was_told_and_the_next_by_the_new_one() {
    let mut house = House::new();
    let old = house.join(client(V5, "old"));
    reconfigure(&mut house, |limits| limits.receive_maximum = 2);
    for number in 1..=8 {
        let outputs = house.publish(old, message2(number, "t", "x"));
        assert!(
            matches!(&outputs[..], [Output::Send { packet: Packet::PubRec(ack), .. }] if !ack.reason.is_error()),
            "{outputs:?}"
        );
    }
    let (_, outputs) = house.connect(client(V5, "new"));
    let told = outputs.iter().find_map(|output| match output {
        Output::Send {
            packet: Packet::ConnAck(connack),
            ..
        } => connack.properties.receive_maximum,
        _ => None,
    });
    assert_eq!(told, Some(2));
}

#[test]
fn what_waited_for_a_wider_bound_goes_out_when_it_comes() {
    let mut house = House::within(Limits {
        queued_bytes_total_max: 4096,
        ..Limits::default()
    });
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "t", QoS::AtLeastOnce);
    let writer = house.join(client(V5, "writer"));
    for number in 1..=3 {
        house.publish(writer, message1(number, "t", &"x".repeat(900)));
    }
    let waiting = house.stats().queued_messages;
    assert!(waiting > 0, "some wait for an acknowledgement");
    let outputs = reconfigure(&mut house, |limits| limits.queued_bytes_total_max = 1024 * 1024);
    let is_publish = |output: &&Output| {
        matches!(
            output,
            Output::Send {
                packet: Packet::Publish(_),
                ..
            }
        )
    };
    assert_eq!(outputs.iter().filter(is_publish).count() as u64, waiting);
}
