//! Rights: what a client may not do it cannot do by any way, and what was allowed yesterday is asked for again.

mod conversation;

use std::collections::BTreeMap;

use conversation::chance::{Chance, for_seeds};
use conversation::*;
use tidegate::auth::access::{Action, Denial, Rights};
use tidegate::auth::acl::{Acl, Actions, Effect, Rule, Source, Topics, Whom};
use tidegate::broker::{Input, LinkId, Output};
use tidegate::mqtt::{
    Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Will, WillProperties,
};

const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn aliased(publish: Publish, alias: u16) -> Publish {
    let properties = PublishProperties {
        topic_alias: Some(alias),
        ..PublishProperties::default()
    };
    Publish {
        properties: Some(Box::new(properties)),
        ..publish
    }
}

fn change(house: &mut House, denials: &[Denial]) {
    let outputs = house.step(Input::RightsChanged(Rights::denying(denials.to_vec())));
    assert_eq!(outputs, []);
}

fn nothing() -> [String; 0] {
    []
}

#[test]
fn a_publisher_without_the_right_reaches_nobody_and_is_told_where_there_is_a_word() {
    for version in [V31, V311, V5] {
        let mut house = House::denying(&[denial(Some("eve"), Action::Publish, "valves/#")]);
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "#", QoS::ExactlyOnce);
        let eve = house.join_as("eve", client(version, "eve"));
        let reason = match version {
            V5 => ReasonCode::NotAuthorized,
            _ => ReasonCode::Success,
        };
        for (publish, answer) in [
            (message("valves/1", "x"), None),
            (retained(message("valves/1", "x")), None),
            (message1(1, "valves/1", "x"), Some(puback_with(1, reason))),
            (message2(2, "valves/1", "x"), Some(pubrec_with(2, reason))),
            (
                repeated(message2(2, "valves/1", "x")),
                Some(pubrec_with(2, reason)),
            ),
        ] {
            let outputs = house.publish(eve, publish.clone());
            let expected: Vec<_> = answer.map(|packet| send(eve, packet)).into_iter().collect();
            assert_eq!(outputs, expected, "{version} {publish:?}");
        }
        let outputs = house.receive(eve, pubrel(2));
        assert_eq!(messages(&outputs, reader), []);
        assert_eq!(house.stats().retained_messages, 0);
    }
}

#[test]
fn an_alias_is_no_way_past_the_rights() {
    let mut house = House::denying(&[denial(Some("eve"), Action::Publish, "valves/#")]);
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtLeastOnce);
    let eve = house.join_as("eve", client(V5, "eve"));
    let by_alias = |number| Publish {
        topic: None,
        ..aliased(message1(number, "x", "by alias"), 1)
    };
    house.publish(eve, aliased(message1(1, "allowed", "1"), 1));
    house.publish(eve, aliased(message1(2, "valves/1", "2"), 1));
    let denied = puback_with(3, ReasonCode::NotAuthorized);
    assert_eq!(house.publish(eve, by_alias(3)), [send(eve, denied)]);
    house.publish(eve, aliased(message1(4, "allowed", "4"), 1));
    assert_eq!(payloads(&house.publish(eve, by_alias(5)), reader), ["by alias"]);
}

#[test]
fn a_right_lost_after_an_alias_was_given_is_lost_for_the_alias() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let eve = house.join_as("eve", client(V5, "eve"));
    house.publish(eve, aliased(message("valves/1", "1"), 1));
    change(&mut house, &[denial(Some("eve"), Action::Publish, "valves/#")]);
    let by_alias = Publish {
        topic: None,
        ..aliased(message("x", "2"), 1)
    };
    assert_eq!(house.publish(eve, by_alias), []);
}

#[test]
fn a_will_to_a_topic_its_client_may_not_write_keeps_the_client_out() {
    for version in [V31, V311, V5] {
        for topic_name in [
            "valves/1",
            "$SYS/broker/uptime",
            "$CONTROL/dynamic-security/v1",
            "$share/a/b",
        ] {
            let mut house = House::denying(&[denial(Some("eve"), Action::Publish, "valves/#")]);
            let reader = house.join(Connect {
                keep_alive_secs: 0,
                ..client(V311, "reader")
            });
            for filter in ["#", "$SYS/#", "$CONTROL/#", "valves/#"] {
                house.subscribe(reader, filter, QoS::AtLeastOnce);
            }
            let eve = house.arrive_at_locked_door();
            let connect = Connect {
                user_name: Some(text("eve")),
                will: Some(Will {
                    retain: true,
                    ..will(topic_name, "x")
                }),
                ..resuming(version, "eve")
            };
            house.receive(eve, Packet::Connect(Box::new(connect)));
            let outputs = house.verified(eve, tidegate::broker::Verdict::Allow);
            assert_eq!(
                acts(outputs),
                [send(eve, refusal(ReasonCode::NotAuthorized)), close(eve)]
            );
            assert_eq!(house.close(eve), []);
            assert_eq!(
                house.wait(secs(100_000)),
                [],
                "a will of somebody who never came in"
            );
            let stats = house.stats();
            assert_eq!(
                (stats.wills_sent, stats.sessions, stats.retained_messages),
                (0, 1, 0)
            );
        }
    }
}

#[test]
fn a_will_whose_right_was_lost_meanwhile_is_never_sent() {
    for delay_secs in [None, Some(30)] {
        let mut house = House::new();
        let reader = house.join(Connect {
            keep_alive_secs: 0,
            ..client(V311, "reader")
        });
        house.subscribe(reader, "#", QoS::AtLeastOnce);
        let properties = WillProperties {
            delay_secs,
            ..WillProperties::default()
        };
        let eve = house.join_as(
            "eve",
            Connect {
                will: Some(Will {
                    retain: true,
                    properties,
                    ..will("valves/1", "x")
                }),
                ..resuming(V5, "eve")
            },
        );
        if delay_secs.is_some() {
            house.close(eve);
        }
        change(&mut house, &[denial(Some("eve"), Action::Publish, "valves/#")]);
        let mut outputs = house.close(eve);
        outputs.extend(house.wait(secs(100_000)));
        assert_eq!(messages(&outputs, reader), []);
        let stats = house.stats();
        assert_eq!(
            (stats.wills_sent, stats.retained_messages, stats.publishes_denied),
            (0, 0, 1)
        );
    }
}

#[test]
fn what_somebody_retained_is_forgotten_with_their_right_to_write_it() {
    let mut house = House::new();
    for (name, topic_name) in [("eve", "valves/1"), ("eve", "t"), ("bill", "valves/2")] {
        let link = house.join_as(name, client(V5, name));
        house.publish(link, retained(message(topic_name, name)));
        house.close(link);
    }
    let eve = house.join_as(
        "eve",
        Connect {
            will: Some(Will {
                retain: true,
                ..will("valves/3", "eve's will")
            }),
            ..client(V5, "eve")
        },
    );
    house.close(eve);
    house.step(own("valves/4", "own", QoS::AtMostOnce, true));
    assert_eq!(house.stats().retained_messages, 5);
    change(&mut house, &[denial(Some("eve"), Action::Publish, "valves/#")]);
    assert_eq!(house.stats().retained_messages, 3);
    let reader = house.join(client(V5, "reader"));
    let outputs = house.receive(reader, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
    assert_eq!(payloads(&outputs, reader), ["eve", "bill", "own"]);
}

#[test]
fn a_reader_without_the_right_is_handed_nothing_by_any_way() {
    for qos in QUALITIES {
        let mut house = House::denying(&[denial(Some("eve"), Action::Receive, "secret/#")]);
        house.step(own("secret/old", "x", qos, true));
        let eve = house.join_as("eve", resuming(V5, "eve"));
        let mut outputs = Vec::new();
        for filter in [
            "#",
            "secret/#",
            "+/old",
            "secret/old",
            "$share/g/#",
            "$share/g/secret/+",
        ] {
            outputs.extend(house.receive(eve, subscribe_packet(&[subscription(filter, QoS::ExactlyOnce)])));
        }
        outputs.extend(house.flush(eve));
        outputs.extend(house.step(own("secret/new", "x", qos, false)));
        let bill = house.join_as(
            "bill",
            Connect {
                will: Some(will("secret/will", "x")),
                ..client(V5, "bill")
            },
        );
        outputs.extend(house.publish(bill, message1(1, "secret/bill", "x")));
        outputs.extend(house.close(bill));
        house.close(eve);
        house.step(own("secret/later", "x", qos, false));
        assert_eq!(
            house.stats().queued_messages,
            0,
            "what may not be received is not kept either"
        );
        let eve = house.join_as("eve", resuming(V5, "eve"));
        outputs.extend(house.flush(eve));
        assert_eq!(messages(&outputs, eve), []);
        assert!(house.stats().deliveries_denied > 0);
        assert_eq!(house.stats().messages_sent, 0);
    }
}

#[test]
fn a_filter_that_brings_nothing_but_what_is_denied_is_refused() {
    let mut house = House::denying(&[denial(Some("eve"), Action::Subscribe, "secret/#")]);
    for (version, failure) in [
        (V311, ReasonCode::UnspecifiedError),
        (V5, ReasonCode::NotAuthorized),
    ] {
        let eve = house.join_as("eve", client(version, "eve"));
        for filter in [
            "secret/#",
            "secret",
            "secret/+/a",
            "$share/g/secret/#",
            "$share/secret/secret/a",
        ] {
            assert_eq!(house.subscribe(eve, filter, QoS::AtMostOnce), failure, "{filter}");
        }
        assert_eq!(
            house.subscribe(eve, "$share/secret/public", QoS::AtMostOnce),
            ReasonCode::Success
        );
        assert_eq!(house.stats().subscriptions, 1);
    }
}

#[test]
fn in_a_shared_subscription_the_turn_goes_to_those_who_may() {
    let mut house = House::denying(&[denial(Some("eve"), Action::Receive, "jobs/#")]);
    let eve = house.join_as("eve", client(V5, "eve"));
    let bill = house.join_as("bill", client(V5, "bill"));
    for link in [eve, bill] {
        house.subscribe(link, "$share/g/jobs/#", QoS::AtLeastOnce);
    }
    for _ in 0..6 {
        let outputs = house.step(own("jobs/1", "x", QoS::AtMostOnce, false));
        assert_eq!(
            (payloads(&outputs, eve).len(), payloads(&outputs, bill).len()),
            (0, 1)
        );
    }
}

/// Eve resumes her session through the locked door: her connection, and what the last step came to.
fn come_back(house: &mut House) -> (LinkId, Vec<Output>) {
    let eve = house.arrive_at_locked_door();
    let connect = Connect {
        user_name: Some(text("eve")),
        ..resuming(V5, "eve")
    };
    house.receive(eve, Packet::Connect(Box::new(connect)));
    let outputs = house.verified(eve, tidegate::broker::Verdict::Allow);
    (eve, outputs)
}

/// Its client had got it, and took the next message under the same identifier for a repetition: that was lost.
#[test]
fn a_message_at_qos_2_that_is_not_sent_again_keeps_its_identifier_until_that_is_released() {
    let mut house = House::new().with_store();
    let eve = house.join_as("eve", resuming(V5, "eve"));
    house.subscribe(eve, "#", QoS::ExactlyOnce);
    house.step(own("secret", "1", QoS::ExactlyOnce, false));
    house.close(eve);
    change(&mut house, &[denial(Some("eve"), Action::Receive, "secret")]);
    house.step(own("t", "2", QoS::ExactlyOnce, false));
    let (eve, outputs) = come_back(&mut house);
    let [Packet::ConnAck(_), released, Packet::Publish(next)] = &sent(&outputs, eve)[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(**released, pubrel(1));
    assert_eq!(next.packet_id, Some(id(2)));
    assert_eq!(house.stats().deliveries_denied, 1);
    house.receive(eve, pubcomp(1));
    house.receive(eve, pubrec(2));
    house.receive(eve, pubcomp(2));
    let stats = house.stats();
    assert_eq!((stats.inflight_messages, stats.queued_bytes), (0, 0));
}

#[test]
fn what_waits_and_what_is_unfinished_is_lost_with_the_right_to_it() {
    let denials = [denial(Some("eve"), Action::Receive, "secret")];
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        // In flight when the right is lost; repeated on resume or not at all.
        let mut house = House::new();
        let eve = house.join_as("eve", resuming(V5, "eve"));
        house.subscribe(eve, "#", QoS::ExactlyOnce);
        house.step(own("secret", "1", qos, false));
        house.step(own("t", "2", qos, false));
        house.close(eve);
        house.step(own("secret", "3", qos, false));
        house.step(own("t", "4", qos, false));
        change(&mut house, &denials);
        let (eve, outputs) = come_back(&mut house);
        assert_eq!(payloads(&outputs, eve), ["2", "4"], "{qos:?}");
        assert_eq!(house.stats().deliveries_denied, 2);
        // Waiting behind a full window when the right is lost.
        let mut house = House::new();
        let mut connect = resuming(V5, "eve");
        connect.properties.receive_maximum = Some(1);
        let eve = house.join_as("eve", connect);
        house.subscribe(eve, "#", QoS::AtLeastOnce);
        for (topic_name, payload) in [("t", "1"), ("secret", "2"), ("t", "3")] {
            house.step(own(topic_name, payload, qos, false));
        }
        change(&mut house, &denials);
        assert_eq!(payloads(&house.receive(eve, puback(1)), eve), ["3"]);
    }
    // Retained messages still owed.
    let mut house = House::new();
    let mut connect = resuming(V5, "eve");
    connect.properties.receive_maximum = Some(1);
    house.step(own("a", "1", QoS::AtLeastOnce, true));
    house.step(own("secret", "2", QoS::AtLeastOnce, true));
    let eve = house.join_as("eve", connect);
    let outputs = house.receive(eve, subscribe_packet(&[subscription("#", QoS::AtLeastOnce)]));
    assert_eq!(payloads(&outputs, eve), ["1"]);
    change(&mut house, &denials);
    assert_eq!(payloads(&house.receive(eve, puback(1)), eve), nothing());
}

#[test]
fn whom_a_topic_reached_a_moment_ago_is_asked_again_when_the_rights_change() {
    let mut house = House::new();
    let eve = house.join_as("eve", client(V311, "eve"));
    let bill = house.join_as("bill", client(V311, "bill"));
    for link in [eve, bill] {
        house.subscribe(link, "t", QoS::AtMostOnce);
    }
    for _ in 0..3 {
        let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
        assert_eq!(
            (payloads(&outputs, eve).len(), payloads(&outputs, bill).len()),
            (1, 1)
        );
    }
    change(&mut house, &[denial(Some("eve"), Action::Receive, "t")]);
    for _ in 0..3 {
        let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
        assert_eq!(
            (payloads(&outputs, eve).len(), payloads(&outputs, bill).len()),
            (0, 1)
        );
    }
    change(&mut house, &[]);
    let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
    assert_eq!(
        (payloads(&outputs, eve).len(), payloads(&outputs, bill).len()),
        (1, 1)
    );
}

/// Clients that try everything while the rights change under them.
struct Siege {
    house: House,
    chance: Chance,
    /// In their order: whether it allows, whom it binds, what it is about.
    rules: Vec<(bool, Option<&'static str>, Action, &'static str)>,
    /// Whether what no rule is about is allowed.
    otherwise: bool,
    inside: BTreeMap<LinkId, (&'static str, ProtocolVersion)>,
    received: u32,
    packet_id: u16,
}

const USERS: [&str; 3] = ["ann", "bill", "eve"];
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "b", "b/c", "b/eve", "ann/x", "$SYS/a"];
const FILTERS: [&str; 10] = [
    "#",
    "a/#",
    "+/b",
    "b/+",
    "a",
    "$SYS/#",
    "$share/g/#",
    "$share/g/a/#",
    "$share/h/+/+",
    "a/b/c",
];

impl Siege {
    fn may(&self, name: &str, action: Action, topic_name: &str) -> bool {
        let decides = self.rules.iter().find(|(_, user, about, topics)| {
            // Of a client its user name is also its identifier.
            let topics = topics.replace("%u", name).replace("%c", name);
            *about == action
                && user.is_none_or(|user| user == name)
                && filter(&topics).matches(&topic(topic_name))
        });
        let is_the_servers = action == Action::Publish && topic_name.starts_with('$');
        decides.map_or(self.otherwise, |(allows, ..)| *allows) && !is_the_servers
    }

    fn rights(&self) -> Rights {
        let mut acl = Acl::new(if self.otherwise {
            Effect::Allow
        } else {
            Effect::Deny
        });
        let any_filter = (true, None, Action::Subscribe, "#");
        let of_the_server = (true, None, Action::Subscribe, "$SYS/#");
        for &(allows, user, action, topics) in self.rules.iter().chain([&any_filter, &of_the_server]) {
            let whom = user.map_or(Whom::Everybody, |user| Whom::User(text(user)));
            let rule = Rule {
                effect: if allows { Effect::Allow } else { Effect::Deny },
                actions: Actions::of(action),
                topics: Topics::pattern(topics).expect("topics of the test"),
                client: None,
                source: Source {
                    file: "".into(),
                    line: 0,
                },
            };
            acl.push(&whom, rule);
        }
        Rights::within(acl)
    }

    fn step(&mut self) {
        let links: Vec<_> = self.inside.keys().copied().collect();
        let outputs = match self.chance.below(24) {
            0 => {
                self.otherwise = self.chance.one_in(2);
                self.rules = (0..self.chance.below(10))
                    .map(|_| {
                        let user = self.chance.of(&[Some("ann"), Some("bill"), Some("eve"), None]);
                        let action = self
                            .chance
                            .of(&[Action::Publish, Action::Receive, Action::Receive]);
                        let topics =
                            (self.chance).of(&["a/#", "+/b", "b/#", "b", "a", "$SYS/#", "%u/#", "b/%c", "#"]);
                        let allows = self.chance.one_in(if self.otherwise { 4 } else { 2 });
                        (allows, user, action, topics)
                    })
                    .collect();
                self.house.step(Input::RightsChanged(self.rights()))
            }
            1..=3 => self.come(),
            4 => self.house.wait(secs(1)),
            5 => {
                let (topic_name, qos) = (self.chance.of(&TOPICS), self.chance.of(&QUALITIES));
                let retain = self.chance.one_in(3);
                self.house.step(own(topic_name, "gateway:allowed", qos, retain))
            }
            _ if links.is_empty() => Vec::new(),
            6 => {
                let link = self.chance.of(&links);
                self.inside.remove(&link);
                self.house.close(link)
            }
            7..=9 => {
                let (link, filter) = (self.chance.of(&links), self.chance.of(&FILTERS));
                let subscription = subscription(filter, self.chance.of(&QUALITIES));
                self.house.receive(link, subscribe_packet(&[subscription]))
            }
            10..=14 => {
                let link = self.chance.of(&links);
                self.house.flush(link)
            }
            _ => self.publish(links),
        };
        self.see(outputs);
    }

    fn come(&mut self) -> Vec<Output> {
        let name = self.chance.of(&USERS);
        let version = self.chance.of(&[V311, V5]);
        let link = self.house.arrive_at_locked_door();
        let mut connect = Connect {
            user_name: Some(text(name)),
            ..resuming(version, name)
        };
        if self.chance.one_in(2) {
            let topic_name = self.chance.of(&TOPICS);
            let delay_secs = (version == V5).then(|| self.chance.of(&[0, 2]));
            connect.will = Some(Will {
                retain: self.chance.one_in(2),
                properties: WillProperties {
                    delay_secs,
                    ..WillProperties::default()
                },
                ..will(topic_name, &format!("{name}:will"))
            });
        }
        self.house.receive(link, Packet::Connect(Box::new(connect)));
        self.inside.insert(link, (name, version));
        self.house.verified(link, tidegate::broker::Verdict::Allow)
    }

    fn publish(&mut self, links: Vec<LinkId>) -> Vec<Output> {
        let link = self.chance.of(&links);
        let (name, version) = self.inside[&link];
        let topic_name = self.chance.of(&TOPICS);
        let allowed = self.may(name, Action::Publish, topic_name);
        let payload = format!("{name}:{}", if allowed { "allowed" } else { "denied" });
        self.packet_id = self.packet_id % 60_000 + 1;
        let mut publish = match self.chance.below(3) {
            0 => message(topic_name, &payload),
            1 => message1(self.packet_id, topic_name, &payload),
            _ => message2(self.packet_id, topic_name, &payload),
        };
        publish.retain = self.chance.one_in(3);
        let alias = TOPICS
            .iter()
            .position(|known| *known == topic_name)
            .map_or(1, |at| at as u16 + 1);
        let mut outputs = Vec::new();
        if version == V5 && self.chance.one_in(2) {
            // Once to give the alias, once by the alias alone.
            outputs.extend(
                self.house
                    .publish(link, aliased(message(topic_name, &payload), alias)),
            );
            publish = Publish {
                topic: None,
                ..aliased(publish, alias)
            };
        }
        let packet_id = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce);
        outputs.extend(self.house.publish(link, publish));
        if let Some(packet_id) = packet_id {
            outputs.extend(self.house.receive(link, pubrel(packet_id.get())));
        }
        outputs
    }

    fn see(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Close { link } => {
                    self.inside.remove(&link);
                }
                Output::Send {
                    link,
                    packet: Packet::Publish(publish),
                } => {
                    let Some(&(reader, _)) = self.inside.get(&link) else {
                        panic!("a message to somebody who is not in");
                    };
                    self.received += 1;
                    let topic_name = publish
                        .topic
                        .as_ref()
                        .expect("no aliases were asked for")
                        .as_str();
                    assert!(
                        self.may(reader, Action::Receive, topic_name),
                        "{reader} got {publish:?}"
                    );
                    let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                    let (writer, how) = payload.split_once(':').expect("as it was written");
                    assert_ne!(how, "denied", "{publish:?}");
                    let sent_now = how == "will" && publish.qos == QoS::AtMostOnce;
                    let retained_still = publish.retain && !publish.dup;
                    if writer != "gateway" && (sent_now || retained_still) {
                        assert!(self.may(writer, Action::Publish, topic_name), "{publish:?}");
                    }
                    if let Some(packet_id) = publish.packet_id
                        && self.chance.one_in(2)
                    {
                        let number = packet_id.get();
                        let answers = match publish.qos {
                            QoS::ExactlyOnce => vec![pubrec(number), pubcomp(number)],
                            _ => vec![puback(number)],
                        };
                        for answer in answers {
                            let outputs = self.house.receive(link, answer);
                            self.see(outputs);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn no_way_from_bytes_to_a_reader_goes_round_the_rights() {
    for_seeds(1..=8, |seed| {
        let mut siege = Siege {
            house: House::new(),
            chance: Chance(seed),
            rules: Vec::new(),
            otherwise: true,
            inside: BTreeMap::new(),
            received: 0,
            packet_id: 0,
        };
        for _ in 0..3_000 {
            siege.step();
        }
        let stats = siege.house.stats();
        assert!(siege.received > 1_000, "{} messages", siege.received);
        assert!(stats.publishes_denied > 100 && stats.deliveries_denied > 100 && stats.wills_sent > 20);
    });
}
