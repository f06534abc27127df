//! Mount points: clients of a listener live in a part of the topic tree, take it for the whole, and reach nothing
//! else.

mod conversation;

use conversation::*;
use tidegate::broker::{ListenerPolicy, MountPoint};
use tidegate::mqtt::{Connect, ConnectProperties, Packet, PublishProperties, QoS, ReasonCode};

#[test]
fn what_a_mounted_client_publishes_stands_below_its_mount_point_for_everybody_else() {
    let mut house = House::new();
    let outside = house.join(client(V5, "outside"));
    let inside = house.join_at("site/a", client(V5, "inside"));
    let beside = house.join_at("site/b", client(V5, "beside"));
    for link in [outside, inside, beside] {
        house.subscribe(link, "#", QoS::AtMostOnce);
    }
    let outputs = house.publish(inside, message("pump/1", "x"));
    assert_eq!(messages(&outputs, outside), [message("site/a/pump/1", "x")]);
    assert_eq!(messages(&outputs, inside), [message("pump/1", "x")]);
    assert_eq!(messages(&outputs, beside), []);
}

#[test]
fn a_mounted_client_is_sent_what_it_asked_for_at_every_quality_and_when_it_was_away() {
    let mut house = House::new();
    let link = house.join_at("site/a", resuming(V311, "inside"));
    assert_eq!(
        house.subscribe(link, "pump/+", QoS::ExactlyOnce),
        ReasonCode::GrantedQos2
    );
    let outputs = house.step(own("site/a/pump/1", "at once", QoS::AtLeastOnce, false));
    assert_eq!(messages(&outputs, link), [message1(1, "pump/1", "at once")]);
    house.close(link);
    house.step(own("site/a/pump/1", "meanwhile", QoS::ExactlyOnce, false));
    house.step(own("pump/1", "elsewhere", QoS::ExactlyOnce, false));
    let link = house.arrive_at(mounted("site/a"), None);
    let outputs = house.receive(link, Packet::Connect(Box::new(resuming(V311, "inside"))));
    assert_eq!(
        messages(&outputs, link),
        [
            repeated(message1(1, "pump/1", "at once")),
            message2(2, "pump/1", "meanwhile"),
        ]
    );
}

fn mounted(mount_point: &str) -> ListenerPolicy {
    ListenerPolicy {
        mount_point: MountPoint::parse(mount_point).ok(),
        ..ListenerPolicy::new("mounted", true)
    }
}

#[test]
fn wildcards_stop_at_the_mount_point_and_its_own_root_is_out_of_reach() {
    let mut house = House::new();
    for topic in [
        "site/a",
        "site/ab",
        "site/b/t",
        "t",
        "$SYS/uptime",
        "site/a/$SYS/uptime",
    ] {
        house.step(own(topic, "outside", QoS::AtMostOnce, true));
    }
    house.step(own("site/a/t", "inside", QoS::AtLeastOnce, true));
    let link = house.join_at("site/a", client(V5, "inside"));
    for filter in ["#", "+", "+/+", "../#", "site/a/#", "$SYS/#", "$share/g/#"] {
        let outputs = house.receive(link, subscribe_packet(&[subscription(filter, QoS::AtLeastOnce)]));
        assert!(
            messages(&outputs, link)
                .iter()
                .all(|publish| publish.payload == "inside"),
            "{filter}: {outputs:?}"
        );
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            for topic in [
                "site/a",
                "site/ab",
                "site/b/t",
                "t",
                "$SYS/uptime",
                "site/a/$SYS/x",
            ] {
                let outputs = house.step(own(topic, "outside", qos, false));
                assert_eq!(messages(&outputs, link), [], "{filter} and {topic}");
            }
        }
    }
    assert_eq!(house.stats().queued_messages, 0);
}

#[test]
fn retained_messages_and_wills_are_mounted_too() {
    let mut house = House::new();
    let outside = house.join(client(V311, "outside"));
    house.subscribe(outside, "site/a/#", QoS::AtMostOnce);
    let mortal = Connect {
        will: Some(will("state", "gone")),
        ..client(V311, "mortal")
    };
    let link = house.join_at("site/a", mortal);
    let outputs = house.publish(link, retained(message("state", "here")));
    assert_eq!(messages(&outputs, outside), [message("site/a/state", "here")]);
    let outputs = house.close(link);
    assert_eq!(messages(&outputs, outside), [message("site/a/state", "gone")]);
    let reader = house.join_at("site/a", client(V311, "reader"));
    let outputs = house.receive(
        reader,
        subscribe_packet(&[subscription("state", QoS::AtMostOnce)]),
    );
    assert_eq!(messages(&outputs, reader), [retained(message("state", "here"))]);
}

#[test]
fn a_mounted_client_gives_up_exactly_what_it_subscribed_to() {
    let mut house = House::new();
    let link = house.join_at("site/a", client(V5, "inside"));
    house.subscribe(link, "t", QoS::AtMostOnce);
    house.subscribe(link, "$share/g/u", QoS::AtMostOnce);
    let outputs = house.receive(link, unsubscribe_packet(&["site/a/t", "t", "$share/g/u"]));
    let Some(Packet::UnsubAck(ack)) = sent(&outputs, link).first().copied() else {
        panic!("no UNSUBACK in {outputs:?}");
    };
    assert_eq!(
        ack.reasons.as_slice(),
        [
            ReasonCode::NoSubscriptionExisted,
            ReasonCode::Success,
            ReasonCode::Success
        ]
    );
    assert_eq!(house.stats().subscriptions, 0);
}

#[test]
fn members_of_a_shared_subscription_meet_wherever_they_are_mounted() {
    let mut house = House::new();
    let inside = house.join_at("site/a", client(V5, "inside"));
    let outside = house.join(client(V5, "outside"));
    house.subscribe(inside, "$share/g/jobs", QoS::AtMostOnce);
    house.subscribe(outside, "$share/g/site/a/jobs", QoS::AtMostOnce);
    let mut topics = Vec::new();
    for _ in 0..2 {
        let outputs = house.step(own("site/a/jobs", "x", QoS::AtMostOnce, false));
        for link in [inside, outside] {
            topics.extend(
                messages(&outputs, link)
                    .into_iter()
                    .filter_map(|publish| publish.topic),
            );
        }
    }
    topics.sort();
    assert_eq!(topics, [topic("jobs"), topic("site/a/jobs")]);
}

#[test]
fn a_mounted_client_writes_what_starts_with_a_dollar_no_more_than_others() {
    let mut house = House::new();
    let outside = house.join(client(V5, "outside"));
    house.subscribe(outside, "site/a/#", QoS::AtMostOnce);
    let link = house.join_at("site/a", client(V5, "inside"));
    let outputs = house.publish(link, message1(1, "$SYS/uptime", "0"));
    assert_eq!(outputs, [send(link, puback_with(1, ReasonCode::NotAuthorized))]);
    assert_eq!(house.publish(link, message("$SYS/uptime", "0")), []);
    let forged = Connect {
        will: Some(will("$SYS/uptime", "0")),
        ..client(V5, "forger")
    };
    let (link, outputs) = house.connect_at(mounted("site/a"), forged);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
    assert_eq!(house.stats().publishes_denied, 3);
}

#[test]
fn a_session_is_found_again_only_where_it_is_mounted() {
    let mut house = House::new();
    let owner = house.join_at("site/a", resuming(V5, "bill"));
    for policy in [mounted("site/b"), ListenerPolicy::new("door", true)] {
        let (link, outputs) = house.connect_at(policy, resuming(V5, "bill"));
        assert_eq!(
            acts(outputs),
            [
                send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
                close(link)
            ]
        );
    }
    assert_eq!(house.stats().takeovers, 0);
    house.close(owner);
    let (link, outputs) = house.connect_at(mounted("site/a"), resuming(V5, "bill"));
    assert!(connack(&outputs, link).session_present);
}

#[test]
fn a_topic_counts_with_its_mount_point_against_the_limits() {
    let mut house = House::new();
    let link = house.join_at("site/a", client(V5, "inside"));
    let fits = "x".repeat(256 - "site/a/".len());
    let longer = format!("{fits}x");
    let outputs = house.publish(link, message1(1, &fits, ""));
    assert_eq!(
        outputs,
        [send(link, puback_with(1, ReasonCode::NoMatchingSubscribers))]
    );
    let outputs = house.publish(link, message1(2, &longer, ""));
    assert_eq!(
        outputs,
        [send(link, puback_with(2, ReasonCode::TopicNameInvalid))]
    );
    assert_eq!(
        house.subscribe(link, &longer, QoS::AtMostOnce),
        ReasonCode::TopicFilterInvalid
    );
    let beyond_any_topic = "x".repeat(65_530);
    assert_eq!(
        house.subscribe(link, &beyond_any_topic, QoS::AtMostOnce),
        ReasonCode::TopicFilterInvalid
    );
    let outputs = house.publish(link, message1(3, &beyond_any_topic, ""));
    assert_eq!(
        outputs,
        [send(link, puback_with(3, ReasonCode::TopicNameInvalid))]
    );
}

#[test]
fn aliases_of_mounted_clients_stand_for_their_own_topics() {
    let mut house = House::new();
    let asking = Connect {
        properties: ConnectProperties {
            topic_alias_maximum: Some(5),
            ..ConnectProperties::default()
        },
        ..client(V5, "inside")
    };
    let link = house.join_at("site/a", asking);
    house.subscribe(link, "#", QoS::AtMostOnce);
    let with_alias = |mut publish: tidegate::mqtt::Publish| {
        publish.properties = Some(Box::new(PublishProperties {
            topic_alias: Some(1),
            ..PublishProperties::default()
        }));
        publish
    };
    let nameless = tidegate::mqtt::Publish {
        topic: None,
        ..message("pump/pressure", "x")
    };
    let outputs = house.publish(link, with_alias(message("pump/pressure", "x")));
    assert_eq!(
        messages(&outputs, link),
        [with_alias(message("pump/pressure", "x"))]
    );
    let outputs = house.publish(link, with_alias(nameless.clone()));
    assert_eq!(messages(&outputs, link), [with_alias(nameless)]);
}
