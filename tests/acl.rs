//! Access rules: who may publish, subscribe and receive what, by files as operators write them.

mod conversation;

use std::sync::Arc;

use conversation::chance::{Chance, for_seeds};
use conversation::*;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Rights, Who};
use tidegate::auth::acl::{Acl, Effect, Reason, mosquitto};
use tidegate::broker::{Input, LinkId, Output};
use tidegate::config;
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode, Will, WillProperties};

/// The rules of a file in mosquitto's form.
fn rights(file: &str) -> Rights {
    let mut acl = Acl::new(Effect::Deny);
    mosquitto::parse(file, &Arc::from("acl"), &mut acl).expect("the file is right");
    Rights::within(acl)
}

/// The rules of a configuration.
fn configured(access: &str) -> Rights {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, boards) = (folder.path().join("tidegate.toml"), folder.path().join("boards"));
    std::fs::create_dir(&boards).expect("a folder");
    std::fs::write(&file, access).expect("written");
    let settings = config::load(&file, Some(&boards));
    settings.unwrap_or_else(|told| panic!("{told:#?}")).rights
}

fn ruled(rights: Rights) -> House {
    let mut house = House::new();
    change(&mut house, rights);
    house
}

fn change(house: &mut House, rights: Rights) {
    assert_eq!(house.step(Input::RightsChanged(rights)), []);
}

/// What a user may do with a topic; `-` is a client without a user name.
fn may(rights: &Rights, user: &str, client: &str, action: Action, topic: &str) -> bool {
    let identity = match user {
        "-" => Identity::Anonymous,
        name => Identity::User(text(name)),
    };
    rights.authorize(Who::client(&identity, &client_id(client)), action, topic)
}

/// The same for all three actions, as the letters of those that are allowed: publish, subscribe, receive.
fn allowed(rights: &Rights, user: &str, client: &str, topic: &str) -> String {
    let all = [
        ('p', Action::Publish),
        ('s', Action::Subscribe),
        ('r', Action::Receive),
    ];
    let allowed = all
        .iter()
        .filter(|(_, action)| may(rights, user, client, *action, topic));
    allowed.map(|(letter, _)| letter).collect()
}

fn back(house: &mut House, user: &str, client: &str) -> (LinkId, Vec<Output>) {
    house.connect_as(user, resuming(V5, client))
}

const ANYTHING: &str = "pattern readwrite #\n";

#[test]
fn with_rules_nothing_is_allowed_that_no_rule_allows() {
    for file in ["", "# nothing\n", "user bill\ntopic readwrite #\n"] {
        for version in [V31, V311, V5] {
            let mut house = ruled(rights(file));
            house.step(own("a", "old", QoS::AtLeastOnce, true));
            let ann = house.join_as("ann", client(version, "ann"));
            let failure = match version {
                V5 => ReasonCode::NotAuthorized,
                V311 => ReasonCode::UnspecifiedError,
                _ => ReasonCode::Success, // which has no word for it either
            };
            for filter in ["a", "#", "+", "$SYS/#", "$share/g/a"] {
                assert_eq!(house.subscribe(ann, filter, QoS::AtMostOnce), failure, "{filter}");
            }
            let answer = match version {
                V5 => puback_with(1, ReasonCode::NotAuthorized),
                _ => puback(1), // which has no word for it: taken and dropped
            };
            assert_eq!(house.publish(ann, message1(1, "a", "x")), [send(ann, answer)]);
            let last = Connect {
                will: Some(will("a", "x")),
                ..client(version, "other")
            };
            let (link, outputs) = house.connect_as("ann", last);
            assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
            let stats = house.stats();
            assert_eq!((stats.subscriptions, stats.messages_sent), (0, 0));
        }
    }
}

#[test]
fn a_file_of_mosquittos_means_what_it_means_there() {
    let read = rights(
        "# for who gives no name\n\
         topic read public/#\n\
         topic chat\n\
         topic write in/+/box\n\
         \n\
         user ann\n\
         topic readwrite plant/#\n\
         topic deny plant/secret/#\n\
         topic read $SYS/#\n\
         topic read with space/#\n\
         \n\
         user bill smith\n\
         topic read plant/secret/#\n\
         pattern write sensors/%u/data\n\
         pattern read  sensors/%u/set\n\
         pattern deny  sensors/%u/data/raw\n\
         pattern readwrite clients/%c/#\n\
         pattern write $SYS/broker/connection/%c/state\n\
         \n\
         user ann\n\
         topic write late\n\
         topic deny sensors/ann/set\n",
    );
    for (user, topic, expected) in [
        // What stands before the first user is for those without a name.
        ("-", "public/a", "sr"),
        ("-", "public", "sr"),
        ("-", "chat", "psr"),
        ("-", "in/a/box", "p"),
        ("-", "in/a/b/box", ""),
        ("-", "plant/a", ""),
        ("ann", "public/a", ""),
        ("ann", "chat", ""),
        // A user's own lines, all sections of a name together; a denial wins wherever it stands.
        ("ann", "plant/a", "psr"),
        ("ann", "plant/secret/a", ""),
        ("ann", "plant/secret", ""),
        ("ann", "late", "p"),
        ("ann", "with space/a", "sr"),
        ("bill smith", "plant/secret/a", "sr"),
        ("bill smith", "plant/a", ""),
        ("bill", "plant/secret/a", ""),
        // A pattern is for everybody, wherever it stands, and after what a user's own lines say.
        ("ann", "sensors/ann/data", "p"),
        ("bill smith", "sensors/bill smith/data", "p"),
        ("bill smith", "sensors/bill smith/set", "sr"),
        ("ann", "sensors/ann/set", ""),
        ("ann", "sensors/bill smith/data", ""),
        ("ann", "sensors/ann/data/raw", ""),
        ("-", "sensors/-/data", ""),
        ("-", "sensors/%u/data", ""),
        ("-", "clients/c1/a/b", "psr"),
        ("ann", "clients/c1", "psr"),
        ("ann", "clients/c2/a", ""),
        // Topics of the server.
        ("ann", "$SYS/broker/uptime", "sr"),
        ("bill smith", "$SYS/broker/uptime", ""),
        ("ann", "$SYS/broker/connection/c1/state", "psr"),
        ("-", "$SYS/broker/connection/c1/state", "p"),
        ("-", "$SYS/broker/connection/c2/state", ""),
    ] {
        assert_eq!(allowed(&read, user, "c1", topic), expected, "{user}: {topic}");
    }
}

#[test]
fn everything_but_what_begins_with_a_dollar_is_no_more_than_that() {
    let read = rights("pattern readwrite #\npattern readwrite +/x\npattern readwrite %c/y\n");
    for (topic, expected) in [
        ("a", "psr"),
        ("a/b", "psr"),
        ("$SYS/x", ""),
        ("$SYS/y", ""),
        ("$x", ""),
    ] {
        assert_eq!(allowed(&read, "ann", "$SYS", topic), expected, "{topic}");
    }
    let subscribe = |filter| may(&read, "ann", "$SYS", Action::Subscribe, filter);
    assert!(subscribe("#") && subscribe("+/#"));
    assert!(!subscribe("$SYS/#") && !subscribe("$SYS/+"));
}

#[test]
fn a_subscription_has_to_be_inside_of_what_is_allowed() {
    let mut house = ruled(rights(
        "user ann\ntopic read a/+/b\ntopic read c/#\ntopic deny c/d/#\n",
    ));
    let ann = house.join_as("ann", client(V5, "ann"));
    for (filter, granted) in [
        ("a/+/b", true),
        ("a/x/b", true),
        ("a/#", false),
        ("a/+/+", false),
        ("+/x/b", false),
        ("#", false),
        ("c", true),
        ("c/#", true),
        ("c/+/e", true), // c/d/e is kept back when it comes
        ("c/d", false),
        ("c/d/+", false),
        ("$share/g/a/x/b", true),
        ("$share/g/a/#", false),
        ("$share/c/d/#", false),
        ("$share/a/c/#", true),
    ] {
        let expected = match granted {
            true => ReasonCode::Success,
            false => ReasonCode::NotAuthorized,
        };
        assert_eq!(
            house.subscribe(ann, filter, QoS::AtMostOnce),
            expected,
            "{filter}"
        );
    }
}

#[test]
fn what_is_denied_inside_of_what_is_allowed_is_kept_back_when_it_comes() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut house = ruled(rights("user ann\ntopic read a/#\ntopic deny a/secret/#\n"));
        house.step(own("a/open", "1", qos, true));
        house.step(own("a/secret/1", "2", qos, true));
        let ann = house.join_as("ann", resuming(V5, "ann"));
        let outputs = house.receive(ann, subscribe_packet(&[subscription("a/#", QoS::AtMostOnce)]));
        assert_eq!(payloads(&outputs, ann), ["1"]);
        for (topic_name, expected) in [
            ("a/open", vec!["3"]),
            ("a/secret/1", vec![]),
            ("a/secret", vec![]),
        ] {
            let outputs = house.step(own(topic_name, "3", qos, false));
            assert_eq!(payloads(&outputs, ann), expected, "{topic_name}");
        }
        house.subscribe(ann, "a/#", QoS::AtLeastOnce);
        house.close(ann);
        house.step(own("a/secret/1", "4", qos, false));
        assert_eq!(house.stats().queued_messages, 0);
    }
}

#[test]
fn to_publish_to_subscribe_and_to_receive_are_allowed_apart() {
    let read = configured(
        "[[access.rule]]\nallow = 'publish'\ntopics = 'p'\n\
         [[access.rule]]\nallow = 'subscribe'\ntopics = 's'\n\
         [[access.rule]]\nallow = 'receive'\ntopics = ['r', 'x/#']\n\
         [[access.rule]]\nallow = ['subscribe', 'write']\ntopics = 'x/+'\n\
         [[access.rule]]\nallow = 'read'\ntopics = 'read'\n\
         [[access.rule]]\nallow = 'readwrite'\ntopics = 'all'\n",
    );
    for (topic, expected) in [
        ("p", "p"),
        ("s", "s"),
        ("r", "r"),
        ("x/1", "psr"),
        ("x/1/2", "r"),
        ("read", "sr"),
        ("all", "psr"),
        ("other", ""),
    ] {
        assert_eq!(allowed(&read, "ann", "c", topic), expected, "{topic}");
    }
}

#[test]
fn the_first_rule_that_fits_decides_whoever_it_names() {
    let read = configured(
        "[access.groups]\noperators = ['ann', 'bill', 'ann']\nnobody = []\n\
         [[access.rule]]\ndeny = 'write'\nuser = 'bill'\ntopics = 'valves/#'\n\
         [[access.rule]]\nallow = 'all'\ngroup = ['operators', 'nobody']\ntopics = 'valves/#'\n\
         [[access.rule]]\ndeny = 'all'\ntopics = 'valves/+/secret'\n\
         [[access.rule]]\nallow = 'read'\nuser = ['eve', 'mia']\nanonymous = true\ntopics = 'valves/#'\n\
         [[access.rule]]\nallow = 'write'\nclient = 'c1'\ntopics = 'door'\n\
         [[access.rule]]\nallow = 'write'\nuser = 'mia'\nclient = 'c2'\ntopics = 'door'\n",
    );
    for (user, client, topic, expected) in [
        ("ann", "c", "valves/1", "psr"),
        ("ann", "c", "valves/1/secret", "psr"),
        ("bill", "c", "valves/1", "sr"),
        ("eve", "c", "valves/1", "sr"),
        ("mia", "c", "valves/1", "sr"),
        ("eve", "c", "valves/1/secret", ""),
        ("-", "c", "valves/1", "sr"),
        ("-", "c", "valves/1/secret", ""),
        ("zoe", "c", "valves/1", ""),
        ("zoe", "c1", "door", "p"),
        ("-", "c1", "door", "p"),
        ("mia", "c2", "door", "p"),
        ("zoe", "c2", "door", ""),
    ] {
        assert_eq!(
            allowed(&read, user, client, topic),
            expected,
            "{user}/{client}: {topic}"
        );
    }
}

#[test]
fn every_decision_names_the_line_it_comes_from() {
    let read = rights("user ann\n\ntopic read a/#\ntopic deny a/b\npattern write c/%c\n");
    let line = |user: &str, client: &str, action, topic: &str| {
        let identity = Identity::User(text(user));
        match read
            .explain(Who::client(&identity, &client_id(client)), action, topic)
            .reason
        {
            Reason::Rule(rule) | Reason::Name(rule, _) => Some(rule.source.line),
            _ => None,
        }
    };
    assert_eq!(line("ann", "x", Action::Receive, "a/c"), Some(3));
    assert_eq!(line("ann", "x", Action::Receive, "a/b"), Some(4));
    assert_eq!(line("ann", "x", Action::Publish, "c/x"), Some(5));
    assert_eq!(line("ann", "a/b", Action::Publish, "c/x"), Some(5));
    assert_eq!(line("ann", "x", Action::Publish, "d"), None);
}

#[test]
fn who_could_be_taken_for_a_filter_is_not_let_in_where_rules_depend_on_the_name() {
    let by_client = "pattern readwrite devices/%c/#\n";
    let by_user = "pattern readwrite devices/%u/#\n";
    for version in [V31, V311, V5] {
        for name in ["+", "#", "a/b", "a+", "/", "#/", "devices/+"] {
            for (file, user, client_name, reason) in [
                (by_client, "ann", name, ReasonCode::ClientIdentifierNotValid),
                (by_user, name, "c", ReasonCode::NotAuthorized),
            ] {
                let mut house = ruled(rights(file));
                let connect = Connect {
                    will: Some(will("devices/c/x", "x")),
                    ..client(version, client_name)
                };
                let (link, outputs) = house.connect_as(user, connect);
                assert!(outputs.contains(&close(link)), "{name}");
                assert_eq!(connack(&outputs, link).reason, reason, "{name}");
                assert_eq!((house.stats().sessions, house.stats().wills_sent), (0, 0));
            }
            // Where no rule has the name stand in a topic it is a name like any other.
            for (file, user, client_name) in [
                (by_user, "ann", name),
                (by_client, name, "c"),
                ("user ann\ntopic read x\n", name, name),
            ] {
                ruled(rights(file)).join_as(user, client(version, client_name));
            }
        }
    }
    // A client without a user name has none that could be misread.
    ruled(rights(by_user)).join(client(V5, "c"));
}

#[test]
fn a_name_put_into_a_topic_is_one_level_and_no_wildcard() {
    let read = rights("pattern readwrite by/%c/#\npattern readwrite of/%u\n");
    for name in ["+", "#", "a/b", "+/#"] {
        for topic in ["by/a/b", "by/a/x", "by/b", "of/a", "of/a/b", "by/+/x", "of/+"] {
            assert_eq!(allowed(&read, name, name, topic), "", "{name}: {topic}");
        }
        let subscribe = |filter: &str| may(&read, name, name, Action::Subscribe, filter);
        assert!(!subscribe("by/+/x") && !subscribe("by/#") && !subscribe("of/+"));
    }
    assert_eq!(allowed(&read, "%c", "%u", "by/%u/x"), "psr");
    assert_eq!(allowed(&read, "%c", "%u", "by/%c/x"), "");
}

#[test]
fn who_was_let_in_before_the_rules_gains_nothing_by_a_name_they_would_refuse() {
    let mut house = House::new();
    let plus = house.join(client(V5, "+"));
    house.subscribe(plus, "devices/+/x", QoS::AtLeastOnce);
    change(&mut house, rights("pattern readwrite devices/%c/#\n"));
    assert_eq!(
        payloads(
            &house.step(own("devices/a/x", "1", QoS::AtLeastOnce, false)),
            plus
        ),
        [""; 0]
    );
    let denied = puback_with(1, ReasonCode::NotAuthorized);
    assert_eq!(
        house.publish(plus, message1(1, "devices/a/x", "2")),
        [send(plus, denied)]
    );
    assert_eq!(
        house.subscribe(plus, "devices/+/x", QoS::AtMostOnce),
        ReasonCode::NotAuthorized
    );
}

#[test]
fn a_subscription_of_yesterday_brings_nothing_that_is_denied_today() {
    let mut house = ruled(rights(ANYTHING));
    let ann = house.join_as("ann", resuming(V5, "ann"));
    let bridge = Connect {
        bridge: true,
        ..client(V311, "bridge")
    };
    let bridge = house.join_as("bridge", bridge);
    for link in [ann, bridge] {
        house.subscribe(link, "#", QoS::ExactlyOnce);
        house.subscribe(link, "$share/g/jobs/#", QoS::ExactlyOnce);
    }
    let bill = house.join_as("bill", client(V5, "bill"));
    house.subscribe(bill, "$share/g/jobs/#", QoS::AtMostOnce);
    change(
        &mut house,
        rights("user bill\ntopic read jobs/#\nuser ann\ntopic read open\n"),
    );
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let outputs = house.step(own("secret", "x", qos, false));
        assert_eq!(acts(outputs), [], "{qos:?}");
        let outputs = house.step(own("jobs/1", "x", qos, false));
        let reached = [ann, bridge, bill].map(|link| payloads(&outputs, link).len());
        assert_eq!(reached, [0, 0, 1], "{qos:?}");
    }
    let outputs = house.step(own("open", "y", QoS::AtMostOnce, false));
    assert_eq!(
        (payloads(&outputs, ann), payloads(&outputs, bridge).len()),
        (vec!["y".to_owned()], 0)
    );
}

#[test]
fn what_waits_and_what_is_in_flight_is_lost_with_the_right_to_it() {
    let mut house = ruled(rights(ANYTHING));
    let mut connect = resuming(V5, "ann");
    connect.properties.receive_maximum = Some(2);
    let ann = house.join_as("ann", connect);
    house.subscribe(ann, "#", QoS::AtLeastOnce);
    // Two are in flight, the others wait.
    for topic_name in ["secret/1", "open/1", "secret/2", "open/2"] {
        house.step(own(topic_name, topic_name, QoS::AtLeastOnce, false));
    }
    house.close(ann);
    house.step(own("secret/3", "secret/3", QoS::AtLeastOnce, false));
    change(&mut house, rights("pattern read open/#\n"));
    let (ann, outputs) = back(&mut house, "ann", "ann");
    assert_eq!(payloads(&outputs, ann), ["open/1", "open/2"]);
    assert_eq!(house.stats().deliveries_denied, 3);
}

#[test]
fn retained_messages_still_owed_are_asked_for_one_by_one() {
    let mut house = ruled(rights(ANYTHING));
    for topic_name in ["a/1", "a/2", "b/1"] {
        house.step(own(topic_name, topic_name, QoS::AtLeastOnce, true));
    }
    let mut connect = client(V5, "ann");
    connect.properties.receive_maximum = Some(1);
    let ann = house.join_as("ann", connect);
    let outputs = house.receive(ann, subscribe_packet(&[subscription("#", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, ann), ["a/1"]);
    change(&mut house, rights("pattern read b/#\n"));
    assert_eq!(payloads(&house.receive(ann, puback(1)), ann), ["b/1"]);
}

#[test]
fn what_a_client_retained_goes_with_its_right_to_write_it_also_when_its_session_is_gone() {
    let mut house = ruled(rights(ANYTHING));
    for (client_name, topic_name) in [
        ("c1", "by/c1/1"),
        ("c1", "by/c2/1"),
        ("c2", "by/c2/2"),
        ("c2", "by/c1/2"),
    ] {
        let link = house.join_as("ann", client(V5, client_name));
        house.publish(link, retained(message(topic_name, topic_name)));
        house.close(link);
    }
    let last = Connect {
        will: Some(Will {
            retain: true,
            ..will("by/c1/3", "by/c1/3")
        }),
        ..client(V5, "c2")
    };
    let link = house.join_as("ann", last);
    house.close(link);
    house.step(own("by/c3/1", "by/c3/1", QoS::AtMostOnce, true));
    assert_eq!((house.stats().sessions, house.stats().retained_messages), (0, 6));
    change(
        &mut house,
        rights("pattern write by/%c/#\nuser reader\ntopic read by/#\n"),
    );
    let reader = house.join_as("reader", client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("by/#", QoS::AtMostOnce)]));
    assert_eq!(payloads(&outputs, reader), ["by/c1/1", "by/c2/2", "by/c3/1"]);
}

#[test]
fn a_will_is_asked_for_when_it_is_left_and_again_when_it_is_sent() {
    let rules = "user reader\ntopic read #\npattern write last/%c\n";
    let leaving = |client_name: &str, topic_name: &str, delay_secs| Connect {
        will: Some(Will {
            properties: WillProperties {
                delay_secs,
                ..WillProperties::default()
            },
            ..will(topic_name, "x")
        }),
        ..resuming(V5, client_name)
    };
    for delay_secs in [None, Some(10)] {
        for is_lost in [false, true] {
            let mut house = ruled(rights(rules));
            let reader = house.join_as(
                "reader",
                Connect {
                    keep_alive_secs: 0,
                    ..client(V5, "reader")
                },
            );
            house.subscribe(reader, "#", QoS::AtMostOnce);
            let (link, outputs) = house.connect_as("ann", leaving("c1", "last/c2", delay_secs));
            assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
            let ann = house.join_as("ann", leaving("c1", "last/c1", delay_secs));
            let mut outputs = Vec::new();
            if delay_secs.is_some() {
                outputs.extend(house.close(ann));
            }
            if is_lost {
                change(&mut house, rights("user reader\ntopic read #\n"));
            }
            outputs.extend(house.close(ann));
            outputs.extend(house.wait(secs(20)));
            assert_eq!(payloads(&outputs, reader).len(), usize::from(!is_lost));
        }
    }
}

#[test]
fn a_mounted_client_is_bound_by_what_its_topics_are_in_the_whole_tree() {
    let mut house = ruled(rights("topic readwrite site/a\ntopic readwrite b\n"));
    let reader = house.join_at("site/", client(V5, "reader"));
    assert_eq!(house.subscribe(reader, "a", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(
        house.subscribe(reader, "b", QoS::AtMostOnce),
        ReasonCode::NotAuthorized
    );
    assert_eq!(payloads(&house.publish(reader, message("a", "1")), reader), ["1"]);
    assert_eq!(house.publish(reader, message("b", "2")), []);
}

#[test]
fn no_rule_lets_a_client_write_what_is_the_servers() {
    let read = rights("pattern readwrite $SYS/#\npattern readwrite $CONTROL/#\n");
    for (topic, expected) in [
        ("$SYS/broker/uptime", "sr"),
        ("$CONTROL/x", "sr"),
        ("$SYS/broker/connection/hub/state", "psr"),
    ] {
        assert_eq!(allowed(&read, "ann", "c", topic), expected, "{topic}");
    }
    let without = rights(ANYTHING);
    assert_eq!(
        allowed(&without, "ann", "c", "$SYS/broker/connection/hub/state"),
        ""
    );
}

#[test]
fn old_clients_are_told_as_far_as_their_version_has_words() {
    let mut house = ruled(rights("user reader\ntopic read #\n"));
    let reader = house.join_as("reader", client(V5, "reader"));
    house.subscribe(reader, "#", QoS::ExactlyOnce);
    for version in [V31, V311, V5] {
        let reason = match version {
            V5 => ReasonCode::NotAuthorized,
            _ => ReasonCode::Success,
        };
        let ann = house.join_as("ann", client(version, "ann"));
        assert_eq!(house.publish(ann, message("a", "x")), []);
        assert_eq!(
            house.publish(ann, message1(1, "a", "x")),
            [send(ann, puback_with(1, reason))]
        );
        assert_eq!(
            house.publish(ann, message2(2, "a", "x")),
            [send(ann, pubrec_with(2, reason))]
        );
        assert_eq!(messages(&house.receive(ann, pubrel(2)), reader), []);
        assert_eq!(house.receive(ann, Packet::PingReq), [send(ann, Packet::PingResp)]);
    }
    let versions: [ProtocolVersion; 3] = [V31, V311, V5];
    assert_eq!(house.stats().publishes_denied, 3 * versions.len() as u64);
}

#[test]
fn whatever_stands_in_a_file_it_becomes_rules_or_mistakes_that_stand_where_they_say() {
    const WORDS: [&str; 22] = [
        "topic",
        "pattern",
        "user",
        "read",
        "write",
        "readwrite",
        "deny",
        "ann",
        "a/#",
        "+/%c",
        "%u",
        "a%u",
        "#/a",
        "$SYS/#",
        "$share/g/a",
        "\u{feff}",
        "\u{0}",
        "\u{e9}",
        " ",
        "\t",
        "\r",
        "#",
    ];
    for_seeds(1..=2_000, |seed| {
        let mut chance = Chance(seed);
        let lines: Vec<String> = (0..chance.below(8))
            .map(|_| {
                let words = (0..chance.below(6)).map(|_| chance.of(&WORDS));
                words
                    .collect::<Vec<_>>()
                    .join([" ", ""][(seed % 7 == 0) as usize])
            })
            .collect();
        let mut acl = Acl::new(Effect::Deny);
        match mosquitto::parse(&lines.join("\n"), &Arc::from("acl"), &mut acl) {
            Ok(()) => {
                let rights = Rights::within(acl);
                for topic in ["a", "a/b", "ann/x", "x/c", "$SYS/x", "$share/g/a", "%u"] {
                    let letters = allowed(&rights, "ann", "c", topic);
                    assert!(!topic.starts_with('$') || !letters.starts_with('p'), "{lines:?}");
                }
            }
            Err(mistakes) => {
                assert!(acl.is_empty() && !mistakes.is_empty());
                for mistake in mistakes {
                    let content = &lines[mistake.line - 1];
                    assert!(!content.trim().is_empty() && !mistake.kind.to_string().is_empty());
                }
            }
        }
    });
}
