//! Clients that do anything at all, from a seed: the state holds together after every step, and what each
//! client sees is what the standard promises it.

mod conversation;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use conversation::anything::{self, Whims};
use conversation::chance::{Chance, for_seeds};
use conversation::judge::Judge;
use conversation::*;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Denial, Rights, Who};
use tidegate::auth::acl::Effect;
use tidegate::auth::network::Network;
use tidegate::broker::{
    BanSubject, Broker, Event, Input, KickOptions, KickedSession, KickedWill, Limits, LinkId, ListenerPolicy,
    MountPoint, Output, Overflow, Pattern, QueueClass, QueueRule, Settings, StoreHealth, Target, Verdict,
    Versions,
};
use tidegate::hooks::Hook;
use tidegate::hooks::{DenialReason, Judgement, Proved};
use tidegate::mqtt::{
    Auth, AuthProperties, ClientId, Connect, ConnectProperties, DecodeError, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Subscription, TopicName,
    Will, WillProperties,
};

/// What a client at the other end of a link knows.
#[derive(Default)]
struct Peer {
    version: Option<ProtocolVersion>,
    receive_maximum: usize,
    packet_bytes_max: u32,
    topic_alias_maximum: u16,
    /// What the house's topic aliases stand for.
    aliases: BTreeMap<u16, TopicName>,
    /// Whether its door is mounted, so that it sees nothing of what starts with `$`.
    mounted: bool,
    /// Whether it named an authentication method.
    proves_itself: bool,
    connected: bool,
    address: Option<IpAddr>,
    identity: Option<Identity>,
    client: Option<ClientId>,
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
    limits: Limits,
    settings: Settings,
    chance: Chance,
    peers: BTreeMap<LinkId, Peer>,
    /// A hook of whims, in every other walk.
    whims: Option<Whims>,
    denials: Vec<Denial>,
    /// A hook that speaks an authentication method, in every other pair of walks.
    judge: Option<Judge>,
    /// What hooks have answered later.
    letters: Arc<Letters>,
    /// Whether the power has gone, and with it what was told and not stored.
    restarted: bool,
    /// Steps after which something waited in the journal alone.
    has_spilled: u64,
    rights: Rights,
    /// Who each session of a client identifier belongs to, as far as we were told.
    owners: BTreeMap<ClientId, Identity>,
    /// Everything the house did, as one number.
    trace: u64,
    delivered: u64,
    /// What has come up at least once.
    seen: BTreeSet<&'static str>,
}

const NAMES: [&str; 6] = ["ann", "bill", "carl", "+/#", "$SYS", "eve"];
const USERS: [&str; 5] = ["ann", "bill", "+/#", "Ann", "anonymous"];
const TOPICS: [&str; 10] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "b/c",
    "$SYS/a",
    "a//c",
    "c",
    "site/temperature",
    "site/m/pressure",
];
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
/// What a kick may come to, by the number of `Found`.
const KICKS: [&str; 4] = [
    "a kicked client",
    "a purged session",
    "a kick too late",
    "a kick in vain",
];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

const POLICIES: [Overflow; 4] = [
    Overflow::DropOldest,
    Overflow::DropNewest,
    Overflow::Reject,
    Overflow::Disconnect,
];

fn queue_rule(chance: &mut Chance) -> QueueRule {
    let patterns = |texts: Option<&str>| {
        let parse = |text| Pattern::parse(text).expect("a pattern");
        texts.into_iter().map(parse).collect()
    };
    let topics: &[&str] = chance.of(&[&[][..], &["a/#"], &["+/b", "c"]]);
    QueueRule {
        users: patterns(chance.of(&[None, None, Some("ann")])),
        clients: patterns(chance.of(&[None, Some("b*"), Some("?*l?")])),
        topics: topics.iter().map(|text| filter(text)).collect(),
        class: chance.of(&[None, Some(QueueClass::N16), Some(QueueClass::N256)]),
        bytes_max: chance.of(&[None, Some(200), Some(3000)]),
        spill_bytes_max: None,
        overflow: chance.one_in(2).then(|| chance.of(&POLICIES)),
        qos0: chance.of(&[None, Some(true), Some(false)]),
    }
}

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
            // Each in some walk: left to chance, one may come in none.
            queue_overflow: POLICIES[(seed / 2 % 4) as usize],
            queue_qos0: chance.one_in(3),
            publish_wait_max: chance.of(&[Duration::from_secs(1), Duration::from_secs(100)]),
            queued_bytes_total_max: chance.of(&[800, 5000]),
            spill_bytes_max: Chance(seed).of(&[0, 60, 2000]),
            spill_bytes_total_max: Chance(seed).of(&[300, 5000]),
            spill_age_max: Duration::from_secs(Chance(!seed).of(&[0, 10, 1000])),
            unsent_bytes_max: chance.of(&[200, 1000, 100_000]),
            sessions_max: 6,
            session_expiry_max: Duration::from_secs(500),
            retained_max: 5,
            retained_bytes_max: 300,
            retained_per_user_max: chance.of(&[2, 5]),
            retained_bytes_per_user_max: chance.of(&[100, 300]),
            publish_rate_max: chance.of(&[1000, 5]),
            packet_bytes_max: 2000,
            sessions_per_user_max: chance.of(&[3, 6]),
            subscriptions_per_user_max: chance.of(&[7, 12]),
            wills_bytes_total_max: 100,
            kicks_per_tick_max: chance.of(&[1, 64]),
            bans_max: 2,
            memory_bytes_max: chance.of(&[20_000, 30_000, 1_000_000]),
            ..Limits::default()
        };
        let queue_rules = (0..chance.below(4)).map(|_| queue_rule(&mut chance)).collect();
        let loss_property = chance.one_in(2).then(|| text("lost"));
        let settings = Settings {
            takes_tokens: false,
            server_reference: Some(text("other.example")),
            response_information: Some(topic("replies")),
            check_payload_format: true,
            queue_rules,
            loss_property,
        };
        let house = House::within(limits.clone()).decided(settings.clone());
        let judge = (seed & 2 != 0).then(|| Judge::of(&["METHOD"]));
        let whims = seed.is_multiple_of(2).then(|| {
            let mut own_chance = Chance(!seed);
            Whims::new(Whims::all(), true, move || match own_chance.one_in(6) {
                true => own_chance.next() as u8,
                false => Whims::NONE,
            })
        });
        let (house, letters) = house.asking(hooks_of(&judge, &whims));
        // Every other walk has a store, and every other of these is kept waiting by it.
        let house = match seed % 4 {
            0 => {
                let mut house = house.with_store().storing_when_told();
                house.recalls_at_once = false;
                house
            }
            2 => house.with_store(),
            _ => house,
        };
        Self {
            house,
            limits,
            settings,
            chance,
            peers: BTreeMap::new(),
            whims,
            denials: Vec::new(),
            judge,
            letters,
            restarted: false,
            has_spilled: 0,
            rights: Rights::default(),
            owners: BTreeMap::new(),
            trace: 0,
            delivered: 0,
            seen: BTreeSet::new(),
        }
    }

    fn step(&mut self) {
        let outputs = match self.chance.below(40) {
            0..=3 => self.arrive(),
            8..=9 => self.answer_an_authentication(),
            4 => self.answer_a_verification(),
            7 if self.chance.one_in(15) => {
                let input = self.kick();
                self.house.step(input)
            }
            7 if self.chance.one_in(15) => {
                let subject = self.ban_subject();
                self.house.step(Input::Unban { subject })
            }
            10..=11 if self.whims.is_some() => self.answer_a_question(),
            5 => {
                let pause = self.chance.of(&[1, 100, 2_000, 20_000, 100_000, 600_000]);
                self.house.wait(Duration::from_millis(pause))
            }
            7 if self.chance.one_in(20) => self.change_the_rights(),
            7 | 12 | 13 if self.house.stored.is_some() => self.store(),
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
        self.has_spilled += u64::from(self.house.stats().spilled_messages > 0);
    }

    /// Something happens to what is stored.
    fn store(&mut self) -> Vec<Output> {
        match self.chance.below(200) {
            0 => {
                let health = match self.chance.below(8) {
                    0 => StoreHealth::Full,
                    1 => StoreHealth::Failed,
                    _ => StoreHealth::Ready,
                };
                let before = self.house.broker.store().map(|view| view.health);
                self.house.is_healing |= before == Some(StoreHealth::Failed) && health != StoreHealth::Failed;
                self.house.step(Input::Store(health))
            }
            1..=4 => self.house.step(Input::Checkpoint),
            5 if self
                .house
                .broker
                .store()
                .is_some_and(|view| view.health != StoreHealth::Failed)
                && !self.house.is_healing =>
            {
                self.peers.clear();
                let broker = Broker::new(self.limits.clone(), Rights::default(), 7);
                let mut broker = broker.with_settings(self.settings.clone());
                // Whoever was being judged has to begin again.
                self.judge = self.judge.as_ref().map(|_| Judge::of(&["METHOD"]));
                self.letters = Arc::default();
                self.rights = Rights::default();
                let hooks = hooks_of(&self.judge, &self.whims);
                broker = broker.with_hooks(self.house.now.mono, hooks, self.letters.clone(), secs(5));
                let off = Duration::from_secs(self.chance.of(&[0, 3, 1000]));
                let trusted = self.chance.one_in(2);
                self.denials.clear();
                self.owners.clear();
                self.restarted = true;
                self.house.restart(broker, off, trusted)
            }
            6..=50 => self.house.store_one(),
            51..=80 => self.house.read_again(),
            _ => self.house.store(),
        }
    }

    fn kick(&mut self) -> Input {
        let name = self.chance.of(&NAMES);
        let target = match self.chance.below(40) {
            0 => Target::Everyone,
            1 => Target::Listener("door".into()),
            2 => Target::User(text(self.chance.of(&USERS))),
            3 => Target::Pattern(Pattern::parse("?*").expect("a pattern")),
            4 => Target::Address(self.address()),
            5 => Target::Network(Network::around(self.address(), 31)),
            _ => known_as(name),
        };
        let options = KickOptions {
            will: self.chance.of(&[KickedWill::Publish, KickedWill::Discard]),
            session: self.chance.of(&[KickedSession::Keep, KickedSession::Purge]),
            keep_out: self
                .chance
                .one_in(10)
                .then(|| Duration::from_secs(self.chance.next() % 20)),
            ..KickOptions::default()
        };
        kick_with(0, target, options)
    }

    fn address(&mut self) -> IpAddr {
        [10, 0, 0, self.chance.of(&[1, 2, 3, 4])].into()
    }

    fn ban_subject(&mut self) -> BanSubject {
        match self.chance.below(4) {
            0 => BanSubject::User(text(self.chance.of(&USERS))),
            1 => BanSubject::Network(Network::of(self.address())),
            2 => BanSubject::Network(Network::around(self.address(), 31)),
            _ => BanSubject::Client(client_id(self.chance.of(&NAMES))),
        }
    }

    fn arrive(&mut self) -> Vec<Output> {
        let locked = self.chance.one_in(3);
        let mounted = self.chance.one_in(4);
        let certified = self.chance.one_in(5);
        let certificate_user = certified.then(|| self.chance.of(&USERS));
        let policy = ListenerPolicy {
            mount_point: mounted.then(|| MountPoint::parse("site").expect("a mount point")),
            versions: self
                .chance
                .of(&[Versions::ALL, Versions::ALL, Versions::NONE.with(V5)]),
            topic_alias_maximum: self.chance.of(&[None, Some(1)]),
            receive_maximum: self.chance.of(&[None, Some(2)]),
            ..ListenerPolicy::new("door", !locked)
        };
        let address = self.chance.one_in(2).then(|| self.address());
        let (link, arrival) = self.house.arrival(policy, certificate_user, address);
        let peer = Peer {
            mounted,
            address,
            ..Peer::default()
        };
        self.peers.insert(link, peer);
        for output in self.house.step(arrival) {
            self.see(output);
        }
        if !self.peers.contains_key(&link) {
            return Vec::new();
        }
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
            let message_expiry_secs = (version == V5).then(|| self.chance.of(&[0, 1, 1000]));
            let properties = WillProperties {
                delay_secs,
                publish: PublishProperties {
                    message_expiry_secs,
                    ..PublishProperties::default()
                },
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
                packet_bytes_max: self.chance.of(&[None, None, Some(12), Some(30), Some(45)]),
                topic_alias_maximum: self.chance.of(&[None, Some(1), Some(9)]),
                request_problem_information: self.chance.of(&[None, Some(false)]),
                request_response_information: self.chance.of(&[None, Some(true)]),
                authentication_method: self.chance.one_in(3).then(|| text("METHOD")),
                ..ConnectProperties::default()
            };
        }
        if connect.properties.authentication_method.is_some() && !self.chance.one_in(8) {
            // Few others come by her name, and so by another identity.
            connect.client_id = client(version, "dora").client_id;
        }
        if locked && !self.chance.one_in(8) {
            connect.user_name = Some(text(self.chance.of(&USERS)));
        }
        self.say_hello(link, connect)
    }

    fn say_hello(&mut self, link: LinkId, connect: Connect) -> Vec<Output> {
        let peer = self.peers.entry(link).or_default();
        peer.version = Some(connect.version);
        peer.receive_maximum = connect.properties.receive_maximum.map_or(65_535, usize::from);
        peer.packet_bytes_max = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
        peer.proves_itself = connect.properties.authentication_method.is_some();
        peer.topic_alias_maximum = connect.properties.topic_alias_maximum.unwrap_or(0);
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
        if waiting.is_empty() {
            return Vec::new();
        }
        let link = self.chance.of(&waiting);
        self.peers.entry(link).or_default().verifying = false;
        self.house.verified(link, verdict)
    }

    /// The hook answers, or forgets, one of the questions it was asked.
    fn answer_a_question(&mut self) -> Vec<Output> {
        let (which, verdict) = (self.chance.next() as u8, self.chance.next() as u8);
        let Some(whims) = &self.whims else {
            return Vec::new();
        };
        whims.answer(which, anything::verdict(verdict));
        self.house.take_answers(&self.letters)
    }

    /// Other rules, from now on.
    fn change_the_rights(&mut self) -> Vec<Output> {
        if self.chance.one_in(2) {
            return self.change_the_rules();
        }
        self.denials = (0..self.chance.below(4))
            .map(|_| {
                let user = self.chance.of(&[None, Some("ann"), Some("+/#")]);
                let action = self
                    .chance
                    .of(&[Action::Publish, Action::Subscribe, Action::Receive]);
                denial(user, action, self.chance.of(&["a/b/#", "b/c", "c", "$SYS/#"]))
            })
            .collect();
        self.rights = Rights::denying(self.denials.clone());
        self.house.step(Input::RightsChanged(self.rights.clone()))
    }

    /// Access rules, of which the first that fits decides.
    fn change_the_rules(&mut self) -> Vec<Output> {
        self.denials.clear();
        let rules: Vec<_> = (0..self.chance.below(5))
            .map(|_| (self.chance.next() as u32).to_be_bytes())
            .collect();
        let otherwise = self.chance.of(&[Effect::Allow, Effect::Allow, Effect::Deny]);
        self.rights = anything::rights(otherwise, &rules);
        self.house.step(Input::RightsChanged(self.rights.clone()))
    }

    fn answer_an_authentication(&mut self) -> Vec<Output> {
        let Some(judge) = &self.judge else {
            return Vec::new();
        };
        // What it said too late, or to nobody any more, must do nothing.
        let user = self
            .chance
            .of(&[Some("ann"), Some("ann"), Some("ann"), Some("bill"), None]);
        let life_secs = self.chance.of(&[None, None, None, Some(0), Some(1), Some(600)]);
        let judgement = match self.chance.below(8) {
            0 => Judgement::Deny(DenialReason::default()),
            1 => Judgement::Unavailable,
            2..=3 => Judgement::Continue { data: None },
            _ => Judgement::Allow(Box::new(Proved {
                user: user.map(text),
                expires_at: life_secs.map(|secs| self.house.now.mono + Duration::from_secs(secs)),
                data: Some("proof".into()),
                ..Proved::default()
            })),
        };
        match self.chance.below(8) {
            0 => judge.forget(),
            1 => _ = judge.give(judgement),
            _ => judge.give_last(judgement),
        }
        let outputs = self.house.take_answers(&self.letters);
        let connections = usize::try_from(self.house.stats().links).expect("few");
        assert!(judge.open() <= connections, "an exchange outlived its connection");
        outputs
    }

    /// One of the peers, also one that was closed, says something.
    fn speak(&mut self) -> Vec<Output> {
        let links: Vec<_> = self.peers.keys().copied().collect();
        if links.is_empty() {
            return Vec::new();
        }
        let link = self.chance.of(&links);
        let version = self.peers[&link].version;
        let proves_itself = self.peers[&link].proves_itself;
        match self.chance.below(70) {
            64..=69 if !proves_itself && !self.chance.one_in(40) => self.house.receive(link, Packet::PingReq),
            64..=69 => {
                let reason = match self.chance.one_in(4) {
                    true => ReasonCode::ContinueAuthentication,
                    false => ReasonCode::Reauthenticate,
                };
                let properties = AuthProperties {
                    authentication_method: Some(text("METHOD")),
                    ..AuthProperties::default()
                };
                let auth = Packet::Auth(Box::new(Auth { reason, properties }));
                let mut outputs = self.house.receive(link, auth);
                // Left to chance, most would have gone before they are answered.
                if self.chance.one_in(2) {
                    outputs.extend(self.answer_an_authentication());
                }
                outputs
            }
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
                let error = self.chance.of(&[
                    DecodeError::Truncated,
                    DecodeError::ReservedPacketType,
                    DecodeError::SecondConnect,
                ]);
                self.house.step(Input::Malformed { link, version, error })
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
        let (topic, mut payload) = (self.chance.of(&TOPICS), self.payload());
        if self.peers.get(&link).is_some_and(|peer| peer.mounted) {
            payload = payload.replace('x', "m");
        }
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
            Output::Event(event) => self.see_event(event),
            Output::Store(_) | Output::Recall(_) => unreachable!("the house keeps these"),
            Output::Kicked { outcome, .. } => {
                self.seen.insert(KICKS[outcome.found() as usize]);
            }
            Output::Pause { .. } | Output::Resume { .. } => {}
        }
    }

    fn see_event(&mut self, event: Event) {
        if let Event::ClientConnected {
            link,
            client,
            identity,
            session_present,
        } = event
        {
            let peer = self.peers.entry(link).or_default();
            peer.identity = Some(identity.clone());
            peer.client = Some(client.clone());
            let now = self.house.now.mono;
            for ban in self.house.broker.bans() {
                let is_meant = match &ban.subject {
                    BanSubject::Client(banned) => *banned == client,
                    BanSubject::User(banned) => identity == Identity::User(banned.clone()),
                    BanSubject::Network(banned) => peer.address.is_some_and(|from| banned.contains(from)),
                };
                assert!(
                    !is_meant || ban.until.is_some_and(|until| until <= now),
                    "{ban:?}"
                );
            }
            let before = self.owners.insert(client, identity.clone());
            assert!(
                !session_present || before == Some(identity) || (before.is_none() && self.restarted),
                "somebody else's session"
            );
        }
    }

    fn see_packet(&mut self, link: LinkId, packet: Packet) {
        let peer = self
            .peers
            .get_mut(&link)
            .expect("nothing is sent on a link that ended");
        let version = peer.version.expect("nothing is sent before CONNECT");
        let length = tidegate::mqtt::encoded_len(&packet, version);
        assert!(
            u32::try_from(length).unwrap_or(u32::MAX) <= peer.packet_bytes_max,
            "larger than the client takes: {packet:?}"
        );
        match &packet {
            Packet::ConnAck(connack) => {
                assert!(!peer.connected, "CONNACK comes once");
                peer.connected = connack.reason == ReasonCode::Success;
                if connack.reason == ReasonCode::Banned {
                    self.seen.insert("a client that is kept out");
                }
                assert!(peer.connected || !connack.session_present);
            }
            Packet::Publish(publish) => {
                assert!(peer.connected);
                self.delivered += 1;
                assert!(version == V5 || publish.properties.is_none());
                let alias = (publish.properties.as_ref()).and_then(|properties| properties.topic_alias);
                assert!(alias.unwrap_or(0) <= peer.topic_alias_maximum);
                let topic = match (alias, &publish.topic) {
                    (Some(alias), Some(topic)) => {
                        peer.aliases.insert(alias, topic.clone());
                        topic
                    }
                    (Some(alias), None) => {
                        self.seen.insert("a message by its alias");
                        peer.aliases.get(&alias).expect("an alias that was given")
                    }
                    (None, topic) => topic.as_ref().expect("a topic where there is no alias"),
                };
                let whole = format!("{}{}", if peer.mounted { "site/" } else { "" }, topic.as_str());
                let whole = tidegate::mqtt::TopicName::try_from(whole.as_str()).expect("a topic");
                let denied = |denial: &Denial| {
                    denial.action == Action::Receive
                        && (denial.identity.is_none() || denial.identity == peer.identity)
                        && denial.topics.matches(&whole)
                };
                // Behind CONNACK the event tells who it is; what is resent at once comes after both.
                let (Some(identity), Some(client)) = (&peer.identity, &peer.client) else {
                    panic!("{publish:?} to nobody");
                };
                let who = Who::client(identity, client);
                assert!(
                    !self.denials.iter().any(denied)
                        && self.rights.authorize(who, Action::Receive, whole.as_str()),
                    "{publish:?}"
                );
                assert!(
                    self.whims.is_none() || who.user() != Some("bill") || whole.as_str() != Whims::SECRET,
                    "the hook let nobody of that name have it"
                );
                if peer.mounted {
                    self.seen.insert("a message behind a mount point");
                    assert!(!topic.is_reserved());
                    assert!(
                        !publish.payload.starts_with(b"x")
                            || ["temperature", "m/pressure"].contains(&topic.as_str()),
                        "{topic} is beyond the mount point"
                    );
                }
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
            Packet::Auth(auth) => {
                assert_eq!(version, V5);
                assert!(peer.proves_itself, "it named no method");
                if auth.reason == ReasonCode::Success {
                    assert!(peer.connected, "the first proof ends with CONNACK");
                    self.seen.insert("a client that proved itself again");
                }
            }
            _ => assert!(peer.connected),
        }
    }
}

/// The hooks of a walk, each of which answers to the same letters.
fn hooks_of(judge: &Option<Judge>, whims: &Option<Whims>) -> Vec<Box<dyn Hook>> {
    let judge = judge
        .iter()
        .map(|judge| -> Box<dyn Hook> { Box::new(judge.clone()) });
    let whims = whims
        .iter()
        .map(|whims| -> Box<dyn Hook> { Box::new(whims.clone()) });
    judge.chain(whims).collect()
}

fn walk(seed: u64, steps: u32) -> Walk {
    let mut walk = Walk::new(seed);
    for _ in 0..steps {
        walk.step();
    }
    let stats = walk.house.stats();
    for (count, what) in [
        (stats.publishes_refused, "a message that was refused"),
        (stats.publishes_held, "a message that had to wait"),
        (stats.publishers_given_up, "a message that waited in vain"),
        (stats.sessions_overflowed, "a reader that had to go"),
        (walk.has_spilled, "a message that waited in the journal alone"),
    ] {
        if count > 0 {
            walk.seen.insert(what);
        }
    }
    walk
}

#[test]
fn twenty_thousand_random_inputs_leave_the_state_whole_and_break_no_promise() {
    let seen = std::sync::Mutex::new(BTreeSet::new());
    for_seeds(1..=8, |seed| {
        let walk = walk(seed, 20_000);
        let delivered = walk.delivered;
        let mut seen = seen.lock().expect("no walk panicked before");
        seen.extend(walk.seen);
        seen.extend(walk.whims.iter().flat_map(|whims| whims.seen()));
        assert!(
            delivered > 200,
            "delivered {delivered}: the walk has come to a standstill"
        );
    });
    let seen = seen.into_inner().expect("no walk panicked");
    assert_eq!(seen.len(), 15, "the walk went past the rest: {seen:?}");
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    assert_eq!(walk(42, 5_000).trace, walk(42, 5_000).trace);
    assert_ne!(walk(42, 5_000).trace, walk(43, 5_000).trace);
}
