//! Topic aliases towards clients: fewer bytes for who asks, and never a topic that cannot be told.

mod conversation;

use conversation::*;
use tidegate::broker::Limits;
use tidegate::mqtt::{Connect, ConnectProperties, ProtocolVersion, Publish, PublishProperties, QoS};

const TOPIC: &str = "building/7/floor/3/temperature";

fn accepting(topic_alias_maximum: u16) -> Connect {
    Connect {
        properties: ConnectProperties {
            topic_alias_maximum: Some(topic_alias_maximum),
            session_expiry_secs: Some(3600),
            ..ConnectProperties::default()
        },
        ..resuming(V5, "reader")
    }
}

fn with_alias(mut publish: Publish, alias: u16) -> Publish {
    let properties = publish.properties.get_or_insert_with(Box::default);
    properties.topic_alias = Some(alias);
    publish
}

fn nameless(publish: Publish, alias: u16) -> Publish {
    with_alias(
        Publish {
            topic: None,
            ..publish
        },
        alias,
    )
}

fn reader(house: &mut House, connect: Connect, qos: QoS) -> tidegate::broker::LinkId {
    let link = house.join(connect);
    house.subscribe(link, "#", qos);
    link
}

#[test]
fn a_topic_gets_an_alias_with_its_first_message_and_then_goes_by_it() {
    let mut house = House::new();
    let link = reader(&mut house, accepting(10), QoS::ExactlyOnce);
    let mut publish = |qos| {
        let outputs = house.step(own(TOPIC, "21.5", qos, false));
        messages(&outputs, link)
    };
    assert_eq!(publish(QoS::AtMostOnce), [with_alias(message(TOPIC, "21.5"), 1)]);
    assert_eq!(publish(QoS::AtMostOnce), [nameless(message(TOPIC, "21.5"), 1)]);
    assert_eq!(
        publish(QoS::AtLeastOnce),
        [nameless(message1(1, TOPIC, "21.5"), 1)]
    );
    assert_eq!(
        publish(QoS::ExactlyOnce),
        [nameless(message2(2, TOPIC, "21.5"), 1)]
    );
}

#[test]
fn who_does_not_ask_for_aliases_gets_none() {
    for connect in [client(V5, "reader"), accepting(0), client(V311, "reader")] {
        let mut house = House::new();
        let link = reader(&mut house, connect, QoS::AtMostOnce);
        for _ in 0..3 {
            let outputs = house.step(own(TOPIC, "21.5", QoS::AtMostOnce, false));
            assert_eq!(messages(&outputs, link), [message(TOPIC, "21.5")]);
        }
    }
}

#[test]
fn no_alias_is_above_the_clients_maximum_or_ours() {
    for (of_client, of_house, expected) in [(3, 100, 3), (100, 2, 2), (u16::MAX, u16::MAX, 64)] {
        let mut house = House::within(Limits {
            topic_alias_maximum: of_house,
            ..Limits::default()
        });
        let link = reader(&mut house, accepting(of_client), QoS::AtMostOnce);
        let mut highest = 0;
        for round in 0..3 {
            for number in 0..60 {
                let topic = format!("building/7/sensor/{number}");
                for _ in 0..2 {
                    let outputs = house.step(own(&topic, "x", QoS::AtMostOnce, false));
                    house.flush(link);
                    let alias = messages(&outputs, link)
                        .into_iter()
                        .find_map(|publish| publish.properties?.topic_alias);
                    highest = highest.max(alias.unwrap_or(0));
                }
            }
            assert!(highest <= expected, "{highest} in round {round}");
        }
        assert!(highest >= expected.min(60), "{highest} of {expected}");
    }
}

#[test]
fn aliases_end_with_the_connection_and_a_resend_names_its_topic() {
    let mut house = House::new();
    let link = reader(&mut house, accepting(10), QoS::AtLeastOnce);
    for _ in 0..3 {
        house.step(own(TOPIC, "x", QoS::AtLeastOnce, false));
    }
    house.close(link);
    let (link, outputs) = house.connect(accepting(10));
    assert_eq!(
        messages(&outputs, link),
        [
            with_alias(repeated(message1(1, TOPIC, "x")), 1),
            nameless(repeated(message1(2, TOPIC, "x")), 1),
            nameless(repeated(message1(3, TOPIC, "x")), 1),
        ]
    );
    house.close(link);
    let (link, outputs) = house.connect(resuming(V5, "reader"));
    assert!(
        messages(&outputs, link)
            .iter()
            .all(|publish| publish.topic == Some(topic(TOPIC)))
    );
}

#[test]
fn an_alias_whose_first_message_is_too_large_is_not_given() {
    let mut house = House::new();
    let mut connect = accepting(10);
    connect.properties.packet_bytes_max = Some(60);
    let link = reader(&mut house, connect, QoS::AtMostOnce);
    let (fits, fits_without_alias, too_large) = ("x".repeat(8), "x".repeat(24), "x".repeat(60));
    let mut publish = |payload: &str| {
        let outputs = house.step(own(TOPIC, payload, QoS::AtMostOnce, false));
        messages(&outputs, link)
    };
    assert_eq!(publish(&too_large), []);
    assert_eq!(
        publish(&fits_without_alias),
        [message(TOPIC, &fits_without_alias)]
    );
    assert_eq!(publish(&fits), [with_alias(message(TOPIC, &fits), 1)]);
    let fits_nameless = "x".repeat(50);
    assert_eq!(
        publish(&fits_nameless),
        [nameless(message(TOPIC, &fits_nameless), 1)]
    );
    assert_eq!(publish(&too_large), []);
    assert_eq!(house.stats().dropped_too_large, 2);
}

#[test]
fn an_alias_goes_beside_the_other_properties_of_a_message() {
    let mut house = House::new();
    let link = reader(&mut house, accepting(10), QoS::AtMostOnce);
    let publisher = house.join(client(V5, "publisher"));
    let telling = || Publish {
        properties: Some(Box::new(PublishProperties {
            content_type: Some(text("text/plain")),
            ..PublishProperties::default()
        })),
        ..message(TOPIC, "x")
    };
    let outputs = house.publish(publisher, telling());
    assert_eq!(messages(&outputs, link), [with_alias(telling(), 1)]);
    let outputs = house.publish(publisher, telling());
    assert_eq!(messages(&outputs, link), [nameless(telling(), 1)]);
}

#[test]
fn one_reader_with_aliases_leaves_the_bytes_of_the_others_shared() {
    let mut house = House::new();
    let keen = reader(&mut house, accepting(10), QoS::AtMostOnce);
    let plain: Vec<_> = (["one", "two", "three"].iter())
        .map(|name| reader(&mut house, client(ProtocolVersion::V5, name), QoS::AtMostOnce))
        .collect();
    for _ in 0..3 {
        house
            .broker
            .handle(house.now, own(TOPIC, "x", QoS::AtMostOnce, false));
        let outputs: Vec<_> = std::iter::from_fn(|| house.broker.poll_output()).collect();
        let [
            tidegate::broker::Output::Send { link, .. },
            tidegate::broker::Output::SendToEach { links, .. },
        ] = outputs.as_slice()
        else {
            panic!("not one for {keen:?} and one for the others: {outputs:?}");
        };
        assert_eq!(*link, keen);
        assert_eq!(links.as_ref(), plain.as_slice());
    }
}
