//! Keep-alive: a silent client is noticed after one and a half times its keep-alive, and no other is
//! disturbed.

mod conversation;

use conversation::*;
use tidegate::broker::{DetachReason, Event, Input, Limits, Output};
use tidegate::mqtt::{Connect, Packet, ReasonCode};

fn alive(version: tidegate::mqtt::ProtocolVersion, keep_alive_secs: u16) -> Connect {
    Connect {
        keep_alive_secs,
        ..client(version, "bill")
    }
}

#[test]
fn a_ping_is_answered() {
    let mut house = House::new();
    let bill = house.join(alive(V311, 10));
    assert_eq!(
        house.receive(bill, Packet::PingReq),
        [send(bill, Packet::PingResp)]
    );
}

#[test]
fn silence_ends_the_connection_after_one_and_a_half_keep_alives() {
    for (version, word) in [
        (V31, None),
        (V311, None),
        (V5, Some(disconnect(ReasonCode::KeepAliveTimeout))),
    ] {
        let mut house = House::new();
        let bill = house.join(alive(version, 5));
        assert_eq!(house.wait(secs(7)), []);
        let mut expected: Vec<_> = word.map(|packet| send(bill, packet)).into_iter().collect();
        expected.push(close(bill));
        let reason = DetachReason::KeepAliveTimeout;
        expected.push(Output::Event(Event::ClientDisconnected {
            link: bill,
            client: client_id("bill"),
            reason,
        }));
        assert_eq!(house.wait(secs(1)), expected);
        assert_eq!(house.stats().keep_alive_timeouts, 1);
    }
}

#[test]
fn any_packet_is_a_sign_of_life() {
    let mut house = House::new();
    let bill = house.join(alive(V311, 10));
    for packet in [
        Packet::PingReq,
        Packet::Publish(message("t", "x")),
        puback(1),
        pubrel(1),
    ] {
        assert_eq!(house.wait(secs(14)), []);
        house.receive(bill, packet);
    }
    assert_eq!(house.wait(secs(14)), []);
    assert_eq!(acts(house.wait(secs(1))), [close(bill)]);
}

#[test]
fn what_the_house_sends_is_no_sign_of_life_of_the_client() {
    let mut house = House::new();
    let bill = house.join(alive(V311, 10));
    house.subscribe(bill, "t", tidegate::mqtt::QoS::AtMostOnce);
    for _ in 0..14 {
        house.wait(secs(1));
        house.step(own("t", "x", tidegate::mqtt::QoS::AtMostOnce, false));
        house.flush(bill);
    }
    assert_eq!(acts(house.wait(secs(1))), [close(bill)]);
}

#[test]
fn an_old_client_that_turned_keep_alive_off_may_be_silent() {
    let mut house = House::new();
    house.join(alive(V311, 0));
    assert_eq!(house.wait(secs(7 * 24 * 3600)), []);
    assert_eq!(house.broker.poll_timeout(), None);
}

#[test]
fn a_5_0_client_is_held_to_the_keep_alive_the_server_sets() {
    let mut house = House::within(Limits {
        keep_alive_max_secs: 100,
        ..Limits::default()
    });
    for asked in [0, 101, u16::MAX] {
        let (bill, outputs) = house.connect(alive(V5, asked));
        assert_eq!(
            connack(&outputs, bill).properties.server_keep_alive_secs,
            Some(100)
        );
        assert_eq!(house.wait(secs(149)), []);
        assert_eq!(
            acts(house.wait(secs(1))),
            [send(bill, disconnect(ReasonCode::KeepAliveTimeout)), close(bill)]
        );
    }
    let (bill, outputs) = house.connect(alive(V5, 100));
    assert_eq!(connack(&outputs, bill).properties.server_keep_alive_secs, None);
}

#[test]
fn a_tick_before_its_time_does_nothing_and_a_late_one_everything() {
    let mut house = House::new();
    let bill = house.join(alive(V311, 10));
    assert_eq!(house.step(Input::Tick), []);
    house.now.mono += secs(600);
    assert_eq!(acts(house.step(Input::Tick)), [close(bill)]);
    assert_eq!(house.step(Input::Tick), []);
}

#[test]
fn what_is_handed_over_before_a_tick_counts_however_late_both_are() {
    let mut house = House::new();
    let bill = house.join(alive(V311, 10));
    let anna = house.join(Connect {
        keep_alive_secs: 10,
        ..client(V311, "anna")
    });
    let arrived = house.arrive();
    // The house stood still; what was said meanwhile is read first.
    house.now.mono += secs(600);
    assert_eq!(
        house.receive(bill, Packet::PingReq),
        [send(bill, Packet::PingResp)]
    );
    house.receive(arrived, Packet::Connect(Box::new(client(V311, "carl"))));
    assert_eq!(acts(house.step(Input::Tick)), [close(anna)]);
    // From then on bill has the whole of his time again.
    assert_eq!(acts(house.wait(secs(14))), []);
    assert_eq!(acts(house.wait(secs(1))), [close(bill)]);
}

#[test]
fn a_client_that_comes_and_goes_leaves_no_deadline_behind() {
    let mut house = House::new();
    for _ in 0..100 {
        let bill = house.join(alive(V5, 60));
        house.receive(bill, disconnect(ReasonCode::Success));
    }
    assert_eq!(house.broker.poll_timeout(), None);
}
