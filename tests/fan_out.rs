//! One topic over and over: whom a message reaches is remembered from the last one, and must still be true.

mod conversation;

use bytes::Bytes;
use conversation::*;
use tidegate::broker::{Limits, LinkId};
use tidegate::mqtt::{ConnectProperties, PublishProperties, QoS, Subscription};

/// Two readers of `t` who have had some messages of it already.
fn warm(house: &mut House) -> [LinkId; 2] {
    let readers = ["one", "two"].map(|id| {
        let reader = house.join(resuming(V5, id));
        house.subscribe(reader, "t", QoS::AtLeastOnce);
        reader
    });
    for payload in ["a", "b", "c"] {
        assert_eq!(reached(house, payload, readers), [payload, payload]);
    }
    readers
}

/// What each of `readers` got of one message; "" for nothing.
fn reached<const N: usize>(house: &mut House, payload: &str, readers: [LinkId; N]) -> [String; N] {
    let outputs = house.step(own("t", payload, QoS::AtMostOnce, false));
    for reader in readers {
        house.flush(reader);
    }
    readers.map(|reader| payloads(&outputs, reader).concat())
}

#[test]
fn a_reader_who_came_since_the_last_message_gets_the_next() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    let third = house.join(client(V311, "three"));
    house.subscribe(third, "#", QoS::AtMostOnce);
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two, third]), ["d", "d", "d"]);
    }
}

#[test]
fn a_reader_who_left_gets_no_more_and_the_loss_is_counted() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    house.close(one);
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two]), ["", "d"]);
    }
    assert_eq!(house.stats().dropped_offline, 2);
    let back = house.join(resuming(V5, "one"));
    assert_eq!(reached(&mut house, "e", [one, two, back]), ["", "e", "e"]);
}

#[test]
fn a_connection_that_took_a_session_over_is_the_one_reached() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    let again = house.join(resuming(V5, "one"));
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two, again]), ["", "d", "d"]);
    }
}

#[test]
fn who_unsubscribed_gets_no_more() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    house.receive(one, unsubscribe_packet(&["t"]));
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two]), ["", "d"]);
    }
}

#[test]
fn a_publisher_who_wants_nothing_of_his_own_gets_nothing_back() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    let no_local = Subscription {
        no_local: true,
        ..subscription("t", QoS::AtMostOnce)
    };
    house.receive(one, subscribe_packet(&[no_local]));
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two]), ["d", "d"]);
        let outputs = house.publish(one, message("t", "mine"));
        assert_eq!(
            (payloads(&outputs, one).len(), payloads(&outputs, two).len()),
            (0, 1)
        );
    }
}

#[test]
fn a_reader_who_takes_only_small_packets_is_spared_a_large_one() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    let properties = ConnectProperties {
        packet_bytes_max: Some(20),
        ..ConnectProperties::default()
    };
    let small = house.join(tidegate::mqtt::Connect {
        properties,
        ..client(V5, "small")
    });
    house.subscribe(small, "t", QoS::AtMostOnce);
    let large = "x".repeat(20);
    for _ in 0..2 {
        assert_eq!(reached(&mut house, "d", [one, two, small]), ["d", "d", "d"]);
        assert_eq!(
            reached(&mut house, &large, [one, two, small]),
            [large.as_str(), &large, ""]
        );
    }
}

#[test]
fn a_message_that_is_not_plain_arrives_as_it_was_sent() {
    let mut house = House::new();
    let [one, two] = warm(&mut house);
    let publisher = house.join(client(V5, "publisher"));
    let properties = PublishProperties {
        content_type: Some(text("text/plain")),
        ..PublishProperties::default()
    };
    let with_properties = tidegate::mqtt::Publish {
        properties: Some(Box::new(properties)),
        ..message("t", "p")
    };
    let outputs = house.publish(publisher, with_properties.clone());
    assert_eq!(messages(&outputs, one), std::slice::from_ref(&with_properties));
    assert_eq!(messages(&outputs, two), [with_properties]);
    let outputs = house.publish(publisher, message1(9, "t", "q"));
    assert_eq!(messages(&outputs, one)[0].qos, QoS::AtLeastOnce);
    let outputs = house.publish(publisher, retained(message("t", "r")));
    assert_eq!(payloads(&outputs, two), ["r"]);
    let late = house.join(client(V5, "late"));
    let outputs = house.receive(late, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
    assert_eq!(messages(&outputs, late)[0].payload, Bytes::from("r"));
}

#[test]
fn a_reader_who_fell_behind_loses_messages_and_the_others_none() {
    let mut house = House::within(Limits {
        unsent_bytes_max: 1000,
        ..Limits::default()
    });
    let [one, two] = warm(&mut house);
    let much = "x".repeat(1000);
    let before = house.stats().messages_sent;
    house.step(own("t", &much, QoS::AtMostOnce, false));
    house.flush(two);
    let mut told = 0;
    for payload in ["d", "e"] {
        let outputs = house.step(own("t", payload, QoS::AtMostOnce, false));
        told += events(&outputs).len();
        assert_eq!(
            (payloads(&outputs, one).len(), payloads(&outputs, two)),
            (0, vec![payload.to_owned()])
        );
    }
    assert_eq!((house.stats().dropped_slow, told), (2, 1));
    assert_eq!(house.stats().messages_sent - before, 4);
    house.flush(one);
    assert_eq!(reached(&mut house, "f", [one, two]), ["f", "f"]);
}
