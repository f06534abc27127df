//! Clients that do anything at all, from a seed: the state holds together after every step, and what each
//! client sees is what the standard promises it.

mod conversation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conversation::*;
use tidegate::broker::{Input, Limits, LinkId, Output, Overflow, QueueClass, Verdict};
use tidegate::mqtt::{
    Connect, ConnectProperties, DecodeError, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, RetainHandling, Subscription, Will, WillProperties,
};

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// What a client at the other end of a link knows.
#[derive(Default)]
struct Peer {
    version: Option<ProtocolVersion>,
    receive_maximum: usize,
    packet_bytes_max: u32,
    connected: bool,
    verifying: bool,
    /// Deliveries it has not finished.
    unfinished: BTreeMap<PacketId, Delivery>,
    /// Its own unfinished QoS 2 messages.
    unreleased: BTreeSet<PacketId>,
    /// What it said PUBREC for without having received it.
    strays: BTreeSet<PacketId>,
}

impl Peer {
    /// What the peer knows after it said `packet`.
    fn note_own(&mut self, packet: &Packet) {
        match packet {
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id);
            }
            Packet::PubRec(ack) => match self.unfinished.get_mut(&ack.packet_id) {
                Some(delivery) => delivery.received = true,
                None => {
                    self.strays.insert(ack.packet_id);
                }
            },
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.unfinished.remove(&ack.packet_id);
            }
            _ => {}
        }
    }
}

/// A delivery as its receiver knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Delivery {
    qos: QoS,
    /// Whether PUBREC was said.
    received: bool,
    /// Whether its PUBLISH came on this connection, so that Receive Maximum counts it.
    counted: bool,
}

struct Walk {
    house: House,
    chance: Chance,
    peers: BTreeMap<LinkId, Peer>,
    /// Everything the house did, as one number.
    trace: u64,
    delivered: u64,
}

const NAMES: [&str; 5] = ["ann", "bill", "carl", "dora", "eve"];
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "b", "b/c", "$SYS/a", "a//c", "c"];
const FILTERS: [&str; 12] = [
    "#",
    "a/#",
    "+/b",
    "a/+/c",
    "b",
    "+",
    "a",
    "$SYS/#",
    "$share/g/a/#",
    "$share/h/#",
    "$share/g/+/b",
    "a/b/c",
];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

impl Walk {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let limits = Limits {
            connections_max: 8,
            subscriptions_per_client_max: 5,
            subscriptions_max: 12,
            inflight_max: chance.of(&[1, 3, 32]),
            receive_maximum: 4,
            topic_alias_maximum: 2,
            queue_class: chance.of(&[QueueClass::N16, QueueClass::N64]),
            queue_bytes_max: chance.of(&[300, 2000]),
            queue_overflow: chance.of(&[Overflow::DropOldest, Overflow::DropNewest]),
            queued_bytes_total_max: chance.of(&[800, 5000]),
            unsent_bytes_max: chance.of(&[200, 1000, 100_000]),
            sessions_max: 6,
            session_expiry_max: Duration::from_secs(500),
            retained_max: 5,
            retained_bytes_max: 300,
            publish_rate_max: chance.of(&[1000, 5]),
            packet_bytes_max: 2000,
            sessions_per_user_max: chance.of(&[3, 6]),
            subscriptions_per_user_max: chance.of(&[7, 12]),
            wills_bytes_total_max: 100,
            memory_bytes_max: chance.of(&[20_000, 30_000, 1_000_000]),
            ..Limits::default()
        };
        Self {
            house: House::within(limits),
            chance,
            peers: BTreeMap::new(),
            trace: 0,
            delivered: 0,
        }
    }

    fn step(&mut self) {
        let outputs = match self.chance.below(40) {
            0..=3 => self.arrive(),
            4 => self.answer_a_verification(),
            5 => {
                let pause = self.chance.of(&[1, 100, 2_000, 20_000, 100_000]);
                self.house.wait(Duration::from_millis(pause))
            }
            6 => {
                let (topic, qos) = (self.chance.of(&TOPICS), self.chance.of(&QUALITIES));
                let (payload, retain) = (self.payload(), self.chance.one_in(2));
                self.house.step(own(topic, &payload, qos, retain))
            }
            _ => self.speak(),
        };
        for output in outputs {
            self.see(output);
        }
    }

    fn arrive(&mut self) -> Vec<Output> {
        let locked = self.chance.one_in(3);
        let link = if locked {
            self.house.arrive_at_locked_door()
        } else {
            self.house.arrive()
        };
        self.peers.insert(link, Peer::default());
        if self.chance.one_in(10) {
            return self.house.wait(Duration::ZERO);
        }
        let version = self.chance.of(&[V31, V311, V5, V5]);
        let name = self.chance.of(&NAMES);
        let mut connect = client(version, name);
        connect.clean_start = self.chance.one_in(3);
        connect.bridge = version != V5 && self.chance.one_in(8);
        connect.keep_alive_secs = self.chance.of(&[0, 1, 60]);
        if self.chance.one_in(12) {
            connect.client_id = None;
        }
        if self.chance.one_in(2) {
            let delay_secs = (version == V5).then(|| self.chance.of(&[0, 1, 100]));
            let properties = WillProperties {
                delay_secs,
                publish: PublishProperties::default(),
            };
            let qos = self.chance.of(&QUALITIES);
            let topic = self.chance.of(&TOPICS);
            connect.will = Some(Will {
                qos,
                retain: self.chance.one_in(3),
                properties,
                ..will(topic, "will")
            });
        }
        if version == V5 {
            connect.properties = ConnectProperties {
                session_expiry_secs: self.chance.of(&[None, Some(0), Some(5), Some(u32::MAX)]),
                receive_maximum: self.chance.of(&[None, Some(1), Some(5)]),
                packet_bytes_max: self.chance.of(&[None, None, Some(30)]),
                ..ConnectProperties::default()
            };
        }
        if locked && !self.chance.one_in(8) {
            connect.user_name = Some(text(self.chance.of(&["ann", "bill"])));
        }
        self.say_hello(link, connect)
    }

    fn say_hello(&mut self, link: LinkId, connect: Connect) -> Vec<Output> {
        let peer = self.peers.entry(link).or_default();
        peer.version = Some(connect.version);
        peer.receive_maximum = connect.properties.receive_maximum.map_or(65_535, usize::from);
        peer.packet_bytes_max = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
        self.house.receive(link, Packet::Connect(Box::new(connect)))
    }

    fn answer_a_verification(&mut self) -> Vec<Output> {
        let waiting: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.verifying)
            .map(|(&link, _)| link)
            .collect();
        let verdict = self.chance.of(&[
            Verdict::Allow,
            Verdict::Allow,
            Verdict::Deny,
            Verdict::Unavailable,
        ]);
        match waiting.first() {
            Some(&link) => {
                self.peers.entry(link).or_default().verifying = false;
                self.house.verified(link, verdict)
            }
            None => Vec::new(),
        }
    }

    /// One of the peers, also one that was closed, says something.
    fn speak(&mut self) -> Vec<Output> {
        let links: Vec<_> = self.peers.keys().copied().collect();
        if links.is_empty() {
            return Vec::new();
        }
        let link = self.chance.of(&links);
        let version = self.peers[&link].version;
        match self.chance.below(64) {
            0..=15 => {
                let publish = self.publish(link);
                self.house.publish(link, publish)
            }
            16..=21 => {
                let count = 1 + self.chance.below(2);
                let subscriptions: Vec<_> = (0..count)
                    .map(|_| self.subscription(version == Some(V5)))
                    .collect();
                self.house.receive(link, subscribe_packet(&subscriptions))
            }
            22..=23 => {
                let filter = self.chance.of(&FILTERS);
                self.house.receive(link, unsubscribe_packet(&[filter]))
            }
            24..=44 => self.acknowledge(link),
            45 => {
                let number = 1 + self.chance.below(9) as u16;
                let stray = [puback(number), pubrec(number), pubrel(number), pubcomp(number)];
                let packet = stray[self.chance.below(4)].clone();
                self.peers.entry(link).or_default().note_own(&packet);
                self.house.receive(link, packet)
            }
            46..=55 => self.house.flush(link),
            56 => self.house.receive(link, Packet::PingReq),
            57 => {
                let reason = self
                    .chance
                    .of(&[ReasonCode::Success, ReasonCode::DisconnectWithWillMessage]);
                self.house.receive(link, disconnect(reason))
            }
            58..=59 => {
                self.peers.remove(&link);
                self.house.close(link)
            }
            60 => {
                let version = self.peers[&link].version;
                self.house.step(Input::Malformed {
                    link,
                    version,
                    error: DecodeError::Truncated,
                })
            }
            _ => {
                let mut outputs = Vec::new();
                for _ in 0..3 {
                    outputs.extend(self.acknowledge(link));
                }
                outputs
            }
        }
    }

    fn payload(&mut self) -> String {
        let length = self.chance.of(&[0, 1, 8, 60, 250]);
        "x".repeat(length)
    }

    fn publish(&mut self, link: LinkId) -> Publish {
        let (topic, payload) = (self.chance.of(&TOPICS), self.payload());
        let number = 1 + self.chance.below(6) as u16;
        let mut publish = match self.chance.below(3) {
            0 => message(topic, &payload),
            1 => message1(number, topic, &payload),
            _ => message2(number, topic, &payload),
        };
        publish.retain = self.chance.one_in(4);
        let peer = self.peers.entry(link).or_default();
        if publish.qos == QoS::ExactlyOnce {
            peer.unreleased.insert(id(number));
        }
        if peer.version == Some(V5) && self.chance.one_in(3) {
            let properties = PublishProperties {
                message_expiry_secs: self.chance.of(&[None, Some(1), Some(1000)]),
                topic_alias: self.chance.of(&[None, Some(1), Some(2)]),
                ..PublishProperties::default()
            };
            if properties.topic_alias.is_some() && self.chance.one_in(4) {
                publish.topic = None;
            }
            publish.properties = Some(Box::new(properties));
        }
        publish
    }

    fn subscription(&mut self, is_5_0: bool) -> Subscription {
        let (filter, qos) = (self.chance.of(&FILTERS), self.chance.of(&QUALITIES));
        let plain = subscription(filter, qos);
        if !is_5_0 {
            return plain;
        }
        Subscription {
            no_local: self.chance.one_in(4) && plain.filter.share().is_none(),
            retain_as_published: self.chance.one_in(3),
            retain_handling: self.chance.of(&[
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ]),
            ..plain
        }
    }

    /// A peer finishes the oldest of its unfinished business.
    fn acknowledge(&mut self, link: LinkId) -> Vec<Output> {
        let Some(peer) = self.peers.get_mut(&link).filter(|peer| peer.connected) else {
            return Vec::new();
        };
        if let Some(packet_id) = peer.unreleased.pop_first() {
            return self.house.receive(link, pubrel(packet_id.get()));
        }
        let Some((packet_id, delivery)) = peer.unfinished.first_key_value() else {
            return Vec::new();
        };
        let packet = match (delivery.qos, delivery.received) {
            (QoS::ExactlyOnce, false) => pubrec(packet_id.get()),
            (QoS::ExactlyOnce, true) => pubcomp(packet_id.get()),
            _ => puback(packet_id.get()),
        };
        peer.note_own(&packet);
        self.house.receive(link, packet)
    }

    /// What a peer sees must be what it was promised.
    fn see(&mut self, output: Output) {
        for byte in format!("{output:?}").bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        match output {
            Output::Send { link, packet } => self.see_packet(link, packet),
            Output::SendToEach { .. } => unreachable!("the house tells what goes to many link by link"),
            Output::Close { link } => {
                assert!(self.peers.remove(&link).is_some(), "{link:?} was closed before");
            }
            Output::Verify { link, .. } => {
                self.peers.get_mut(&link).expect("a link that lives").verifying = true
            }
            Output::Event(_) | Output::Pause { .. } | Output::Resume { .. } => {}
        }
    }

    fn see_packet(&mut self, link: LinkId, packet: Packet) {
        let peer = self
            .peers
            .get_mut(&link)
            .expect("nothing is sent on a link that ended");
        let version = peer.version.expect("nothing is sent before CONNECT");
        match &packet {
            Packet::ConnAck(connack) => {
                assert!(!peer.connected, "CONNACK comes once");
                peer.connected = connack.reason == ReasonCode::Success;
                assert!(peer.connected || !connack.session_present);
            }
            Packet::Publish(publish) => {
                assert!(peer.connected);
                self.delivered += 1;
                let length = tidegate::mqtt::encoded_len(&packet, version);
                assert!(
                    u32::try_from(length).unwrap_or(u32::MAX) <= peer.packet_bytes_max,
                    "larger than the client takes"
                );
                assert!(version == V5 || publish.properties.is_none());
                if let Some(packet_id) = publish.packet_id {
                    let delivery = Delivery {
                        qos: publish.qos,
                        received: false,
                        counted: true,
                    };
                    let before = peer.unfinished.insert(packet_id, delivery);
                    assert_eq!(before, None, "an identifier in use was given out again");
                    let outstanding = peer
                        .unfinished
                        .values()
                        .filter(|delivery| delivery.counted)
                        .count();
                    assert!(outstanding <= peer.receive_maximum, "{outstanding} unfinished");
                }
            }
            Packet::PubRel(ack) => {
                let resumed = Delivery {
                    qos: QoS::ExactlyOnce,
                    received: true,
                    counted: false,
                };
                if !peer.strays.remove(&ack.packet_id) {
                    peer.unfinished.entry(ack.packet_id).or_insert(resumed);
                }
            }
            Packet::Disconnect(_) => assert_eq!(version, V5),
            _ => assert!(peer.connected),
        }
    }
}

fn walk(seed: u64, steps: u32) -> (u64, u64) {
    let mut walk = Walk::new(seed);
    for _ in 0..steps {
        walk.step();
    }
    (walk.trace, walk.delivered)
}

#[test]
fn twenty_thousand_random_inputs_leave_the_state_whole_and_break_no_promise() {
    for seed in 1..=4 {
        let (_, delivered) = walk(seed, 20_000);
        assert!(
            delivered > 500,
            "seed {seed} delivered {delivered}: the walk has come to a standstill"
        );
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    assert_eq!(walk(42, 5_000), walk(42, 5_000));
    assert_ne!(walk(42, 5_000), walk(43, 5_000));
}
