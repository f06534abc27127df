//! What may happen in a step. An act is a kind and a number that all its choices are drawn from, so that a history is a
//! list of acts, and any part of it is a history too: an act that finds nothing to do does nothing.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Denial, Rights};
use tidegate::broker::{
    BanSubject, Input, Kick, KickId, KickOptions, KickedSession, KickedWill, Limits, Message, QueueClass,
    Reconfiguration, Settings, StoreHealth, Target, Verdict,
};
use tidegate::mqtt::{
    Ack, ClientId, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscribeProperties, Subscription, TopicFilter, TopicName, Unsubscribe, Utf8String, Will, WillProperties,
};

use crate::chance::Chance;
use crate::oracle::{Cause, Held};
use crate::world::World;

/// One step of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    pub kind: Kind,
    pub entropy: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client that is away connects; sometimes one that is not.
    Connect,
    Publish,
    Subscribe,
    Unsubscribe,
    Ping,
    /// A client answers what it has read.
    Answer,
    /// Bytes go to the gateway, or to a client.
    Up,
    Down,
    Clock,
    /// Passwords are found right, or not.
    Verify,
    /// A message of the gateway's own.
    Own,
    Disconnect,
    /// From here on faults. The same client identifier comes again while it is there.
    Takeover,
    /// A connection is lost, with any part of what was on its way.
    Cut,
    HalfClose,
    /// A client stops reading, or goes on.
    StopReading,
    /// Bytes that are no MQTT.
    Garbage,
    /// A packet that is in its place nowhere, or an acknowledgement of nothing.
    Stray,
    /// Somebody else with a client's identifier.
    Thief,
    Kick,
    /// Other rules.
    Rights,
    /// Time goes by and nobody ticks.
    LateClock,
    /// The wall clock jumps.
    WallJump,
    /// A connection's certificate is revoked.
    Untrust,
    /// The operator changes limits.
    Reload,
    /// What was given is stored, or some of it. No fault, but it stands here for its weight in worlds without a store.
    Commit,
    /// Everything is given again.
    Checkpoint,
    /// The disk fails, fills up, or is well again.
    Health,
    /// The process ends, and another goes on.
    Crash,
}

impl Kind {
    pub const ALL: [Self; 29] = [
        Self::Connect,
        Self::Publish,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Ping,
        Self::Answer,
        Self::Up,
        Self::Down,
        Self::Clock,
        Self::Verify,
        Self::Own,
        Self::Disconnect,
        Self::Takeover,
        Self::Cut,
        Self::HalfClose,
        Self::StopReading,
        Self::Garbage,
        Self::Stray,
        Self::Thief,
        Self::Kick,
        Self::Rights,
        Self::LateClock,
        Self::WallJump,
        Self::Untrust,
        Self::Reload,
        Self::Commit,
        Self::Checkpoint,
        Self::Health,
        Self::Crash,
    ];

    pub const fn is_fault(self) -> bool {
        self as usize > Self::Disconnect as usize
    }

    /// How often it comes where nothing is special.
    pub const fn usual_weight(self) -> u32 {
        match self {
            Self::Publish => 60,
            Self::Up | Self::Down | Self::Answer => 60,
            Self::Connect => 40,
            Self::Verify => 20,
            Self::Subscribe => 10,
            Self::Clock => 8,
            Self::Commit => 30,
            Self::Own | Self::Cut => 6,
            Self::Unsubscribe | Self::Ping | Self::Disconnect => 4,
            Self::Takeover | Self::StopReading | Self::Stray => 3,
            _ => 2,
        }
    }
}

impl Act {
    pub fn draw(chance: &mut Chance, weights: &[u32]) -> Self {
        let total: u32 = weights.iter().sum();
        let mut at = (chance.next() % u64::from(total.max(1))) as u32;
        let mut kind = Kind::Publish;
        for (candidate, &weight) in Kind::ALL.into_iter().zip(weights) {
            if at < weight {
                kind = candidate;
                break;
            }
            at -= weight;
        }
        Self {
            kind,
            entropy: chance.next(),
        }
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    /// Carries out one act.
    pub fn act(&mut self, act: Act) -> Held {
        let mut chance = Chance(act.entropy);
        let who = chance.below(self.clients.len());
        match act.kind {
            Kind::Connect if self.clients[who].link.is_some() => {
                self.clients[who].reads = true;
                self.speak(who)
            }
            Kind::Connect | Kind::Takeover => self.connect(&mut chance, who),
            Kind::Thief => self.steal(&mut chance, who),
            Kind::Publish => self.publish(&mut chance, who),
            Kind::Subscribe => self.subscribe(&mut chance, who),
            Kind::Unsubscribe => self.unsubscribe(&mut chance, who),
            Kind::Ping => self.say(who, Packet::PingReq),
            Kind::Answer => self.answer(who, 1 + chance.below(6)),
            Kind::Up => self.carry_some_up(&mut chance),
            Kind::Down => self.carry_some_down(&mut chance),
            Kind::Clock => {
                let pause_ms = chance.of(&self.setup.pauses_ms);
                self.wait(Duration::from_millis(
                    pause_ms + chance.next() % (1 + pause_ms / 2),
                ))
            }
            Kind::LateClock => {
                let pause_ms = chance.of(&[1_000, 20_000, 600_000]);
                self.advance(Duration::from_millis(pause_ms));
                Ok(())
            }
            Kind::WallJump => {
                let years = chance.next() % 80;
                let year = Duration::from_secs(365 * 24 * 3600);
                self.now.wall = std::time::SystemTime::UNIX_EPOCH + year * years as u32;
                Ok(())
            }
            Kind::Verify => self.verify(&mut chance),
            Kind::Own => self.publish_own(&mut chance),
            Kind::Disconnect => self.disconnect(&mut chance, who),
            Kind::Cut => self.cut(&mut chance, who),
            Kind::HalfClose => {
                self.half_close(who);
                Ok(())
            }
            Kind::StopReading => {
                let client = &mut self.clients[who];
                client.reads = !client.reads || chance.one_in(2);
                Ok(())
            }
            Kind::Garbage => {
                let garbage: Vec<u8> = (0..1 + chance.below(20)).map(|_| chance.next() as u8).collect();
                self.say_bytes(who, &garbage);
                Ok(())
            }
            Kind::Stray => self.stray(&mut chance, who),
            Kind::Kick => self.kick(&mut chance, who),
            Kind::Rights => self.change_rights(&mut chance),
            Kind::Untrust => match self.clients[who].link {
                Some(link) if self.knows(link) => {
                    self.input(Cause::Provoked { link }, Input::Untrusted { link })
                }
                _ => Ok(()),
            },
            Kind::Reload => self.reload(&mut chance),
            Kind::Commit => {
                let count = chance.of(&[usize::MAX, usize::MAX, 1, 3]);
                match chance.below(8) {
                    0..2 => self.write(count),
                    2..5 => self.commit(count),
                    _ => {
                        self.commit(count)?;
                        self.tell_recalled(count)
                    }
                }
            }
            Kind::Checkpoint if self.store.is_some() => self.input(Cause::Checkpoint, Input::Checkpoint),
            Kind::Health => {
                let health = chance.of(&[
                    StoreHealth::Ready,
                    StoreHealth::Ready,
                    StoreHealth::Full,
                    StoreHealth::Failed,
                ]);
                self.set_health(health)
            }
            Kind::Crash => {
                let off_ms = chance.of(&[0, 10, 3_000, 200_000]);
                self.crash(chance.below(64), Duration::from_millis(off_ms))
            }
            Kind::Checkpoint => Ok(()),
        }?;
        self.after_act()
    }

    fn connect(&mut self, chance: &mut Chance, who: usize) -> Held {
        let version = self.clients[who].version;
        let is_v5 = version == ProtocolVersion::V5;
        let mut connect = Connect {
            clean_start: chance.one_in(4),
            keep_alive_secs: chance.of(&self.setup.keep_alives),
            ..self.plain_connect(who)
        };
        if self.setup.wills && chance.one_in(2) {
            connect.will = Some(self.will(chance, who));
        }
        if is_v5 {
            connect.properties = ConnectProperties {
                session_expiry_secs: match chance.below(4) {
                    0 => None,
                    _ => Some(chance.of(&self.setup.expiries)),
                },
                receive_maximum: chance.of(&self.setup.receive_maxima),
                packet_bytes_max: match self.setup.is_roomy {
                    false => chance.of(&[None, None, Some(60), Some(200)]),
                    true => None,
                },
                topic_alias_maximum: self.setup.aliases.then(|| chance.of(&[0, 1, 5])),
                ..ConnectProperties::default()
            };
        }
        self.open(who, connect)
    }

    pub fn plain_connect(&self, who: usize) -> Connect {
        let client = &self.clients[who];
        Connect {
            version: client.version,
            bridge: false,
            clean_start: false,
            keep_alive_secs: 0,
            client_id: ClientId::new(text(&client.name)),
            will: None,
            user_name: client.user.as_deref().map(text),
            password: client.user.as_ref().map(|_| Bytes::from_static(b"right")),
            properties: ConnectProperties::default(),
        }
    }

    fn will(&mut self, chance: &mut Chance, who: usize) -> Will {
        let is_v5 = self.clients[who].version == ProtocolVersion::V5;
        let payload = self.payload(chance, ProtocolVersion::V5);
        Will {
            topic: self.topic(chance),
            payload,
            qos: quality(chance),
            retain: chance.one_in(4),
            properties: WillProperties {
                delay_secs: is_v5.then(|| chance.of(&[0, 1, 30])),
                publish: PublishProperties {
                    message_expiry_secs: (is_v5 && chance.one_in(4)).then(|| chance.of(&[1, 60])),
                    ..PublishProperties::default()
                },
            },
        }
    }

    fn steal(&mut self, chance: &mut Chance, who: usize) -> Held {
        let mut connect = self.plain_connect(who);
        connect.clean_start = true;
        connect.user_name = Some(text("thief"));
        connect.password = Some(Bytes::from_static(b"right"));
        connect.version = chance.of(&[ProtocolVersion::V311, ProtocolVersion::V5]);
        self.open_as_thief(who, connect)
    }

    /// Some passwords were checked, not in the order in which they came.
    fn verify(&mut self, chance: &mut Chance) -> Held {
        for _ in 0..1 + chance.below(4) {
            if self.verifying.is_empty() {
                break;
            }
            let link = self.verifying.swap_remove(chance.below(self.verifying.len()));
            let verdict = match chance.below(20) {
                0 => Verdict::Deny,
                1 => Verdict::Unavailable,
                _ => Verdict::Allow,
            };
            let is_right = verdict == Verdict::Allow;
            self.input(
                Cause::Verified { link, is_right },
                Input::Verified { link, verdict },
            )?;
        }
        Ok(())
    }

    fn topic(&self, chance: &mut Chance) -> TopicName {
        let mut topic = String::new();
        if self.setup.shares && chance.one_in(3) {
            topic.push_str("shared/");
        }
        for level in 0..1 + chance.below(self.setup.levels) {
            if level > 0 {
                topic.push('/');
            }
            topic.push_str(NAMES[chance.below(self.setup.names)]);
        }
        TopicName::try_from(&*topic).expect("made of letters")
    }

    /// What is shared is apart from what is not: by which of two ways a message came nobody could tell.
    fn filter(&self, chance: &mut Chance) -> TopicFilter {
        let mut filter = String::new();
        if self.setup.shares && chance.one_in(3) {
            return TopicFilter::try_from("$share/g/shared/#").expect("a filter");
        }
        let levels = 1 + chance.below(self.setup.levels);
        for level in 0..levels {
            if level > 0 {
                filter.push('/');
            }
            let is_last = level + 1 == levels;
            match chance.below(6) {
                0 | 1 if self.setup.shares && level == 0 => filter.push('a'),
                0 => filter.push('+'),
                1 if is_last => filter.push('#'),
                _ => filter.push_str(NAMES[chance.below(self.setup.names)]),
            }
        }
        TopicFilter::try_from(&*filter).expect("made of levels and wildcards")
    }

    /// A payload that is no other message's, unless it is empty.
    fn payload(&mut self, chance: &mut Chance, version: ProtocolVersion) -> Bytes {
        self.number += 1;
        let mut payload = match version {
            ProtocolVersion::V31 => format!("o{}.", self.number),
            _ => format!("{}.", self.number),
        };
        let filler = chance.below(self.setup.payload_bytes_max);
        payload.extend(std::iter::repeat_n('x', filler));
        Bytes::from(payload)
    }

    fn publish(&mut self, chance: &mut Chance, who: usize) -> Held {
        let client = &self.clients[who];
        if !client.is_in {
            return self.speak(who);
        }
        let version = client.version;
        let mut qos = quality(chance);
        if !client.has_window() {
            qos = QoS::AtMostOnce;
        }
        let retain = chance.one_in(6);
        let payload = match retain && chance.one_in(3) {
            true => Bytes::new(),
            false => self.payload(chance, version),
        };
        // One that is too large would be sent again for ever.
        if payload.len() + 100 > self.setup.limits.packet_bytes_max as usize {
            qos = QoS::AtMostOnce;
        }
        let topic = self.topic(chance);
        // Which of two that are empty came by which way, nobody could tell.
        let payload = match topic.as_str().starts_with("shared/") && payload.is_empty() {
            true => {
                self.number += 1;
                Bytes::from(format!("o{}.", self.number))
            }
            false => payload,
        };
        let mut properties = PublishProperties::default();
        if version == ProtocolVersion::V5 && self.setup.properties && chance.one_in(2) {
            let life = chance.of(&[None, Some(1), Some(60)]);
            // Of two that are empty nobody could tell which was to live longer.
            properties.message_expiry_secs = life.filter(|_| !payload.is_empty());
            properties.content_type = chance.one_in(4).then(|| text("text/plain"));
            properties.payload_is_utf8 = chance.one_in(4).then_some(true);
            properties.correlation_data = chance.one_in(6).then(|| Bytes::from_static(b"who"));
            if chance.one_in(4) {
                properties.user_properties.push((text("name"), text("value")));
            }
        }
        let client = &mut self.clients[who];
        let packet_id = (qos != QoS::AtMostOnce).then(|| client.free_id());
        let mut publish = Publish {
            dup: false,
            qos,
            retain,
            topic: Some(topic.clone()),
            packet_id,
            payload,
            properties: (!properties.is_empty()).then(|| Box::new(properties)),
        };
        client.note_sent(&publish);
        if self.setup.aliases && client.topic_alias_maximum > 0 && chance.one_in(2) {
            let known = client.given_aliases.get(&topic).copied();
            let alias =
                known.unwrap_or_else(|| 1 + (chance.next() % u64::from(client.topic_alias_maximum)) as u16);
            if known.is_none() {
                client.given_aliases.retain(|_, other| *other != alias);
                client.given_aliases.insert(topic, alias);
            } else {
                publish.topic = None;
            }
            publish.properties.get_or_insert_default().topic_alias = Some(alias);
        }
        self.say(who, Packet::Publish(publish))
    }

    fn publish_own(&mut self, chance: &mut Chance) -> Held {
        let message = Message {
            topic: self.topic(chance),
            payload: self.payload(chance, ProtocolVersion::V5),
            qos: quality(chance),
            retain: chance.one_in(4),
            properties: None,
        };
        self.input(Cause::Own(message.clone()), Input::Publish(message))
    }

    fn subscribe(&mut self, chance: &mut Chance, who: usize) -> Held {
        if !self.clients[who].is_in || self.clients[who].requests.len() > 4 {
            return self.speak(who);
        }
        let is_v5 = self.clients[who].version == ProtocolVersion::V5;
        let subscriptions: smallvec::SmallVec<[Subscription; 1]> = (0..1 + chance.below(3))
            .map(|_| {
                let filter = self.filter(chance);
                let is_shared = filter.share().is_some();
                self.clients[who].shares |= is_shared;
                Subscription {
                    qos: quality(chance),
                    no_local: is_v5 && !is_shared && chance.one_in(4),
                    retain_as_published: is_v5 && chance.one_in(3),
                    retain_handling: match is_v5 {
                        true => chance.of(&[
                            RetainHandling::Send,
                            RetainHandling::SendIfNew,
                            RetainHandling::DoNotSend,
                        ]),
                        false => RetainHandling::Send,
                    },
                    filter,
                }
            })
            .collect();
        let subscription_id =
            (is_v5 && self.setup.properties && chance.one_in(2)).then(|| 1 + chance.below(9) as u32);
        let client = &mut self.clients[who];
        let packet_id = client.free_id();
        client.requests.insert(packet_id);
        let subscribe = Subscribe {
            packet_id,
            subscriptions,
            properties: SubscribeProperties {
                subscription_id,
                ..SubscribeProperties::default()
            },
        };
        self.say(who, Packet::Subscribe(Box::new(subscribe)))
    }

    fn unsubscribe(&mut self, chance: &mut Chance, who: usize) -> Held {
        if !self.clients[who].is_in || self.clients[who].requests.len() > 4 {
            return self.speak(who);
        }
        let filters = (0..1 + chance.below(2)).map(|_| self.filter(chance)).collect();
        let client = &mut self.clients[who];
        let packet_id = client.free_id();
        client.requests.insert(packet_id);
        let unsubscribe = Unsubscribe {
            packet_id,
            filters,
            user_properties: Vec::new(),
        };
        self.say(who, Packet::Unsubscribe(Box::new(unsubscribe)))
    }

    fn disconnect(&mut self, chance: &mut Chance, who: usize) -> Held {
        let client = &self.clients[who];
        if !client.is_in {
            return Ok(());
        }
        let mut disconnect = Disconnect::default();
        if client.version == ProtocolVersion::V5 {
            disconnect.reason = chance.of(&[ReasonCode::Success, ReasonCode::DisconnectWithWillMessage]);
            disconnect.properties = DisconnectProperties {
                session_expiry_secs: chance.one_in(6).then(|| chance.of(&[0, 20])),
                ..DisconnectProperties::default()
            };
        }
        self.say(who, Packet::Disconnect(Box::new(disconnect)))?;
        self.leave(who, chance.one_in(2));
        Ok(())
    }

    fn cut(&mut self, chance: &mut Chance, who: usize) -> Held {
        let Some(link) = self.clients[who].link else {
            return Ok(());
        };
        let on_its_way = self
            .connections
            .get(link)
            .map_or(0, |connection| connection.up_bytes());
        let part = chance.below(on_its_way + 1);
        let kept = chance.of(&[0, on_its_way, part]);
        self.abandon(link, kept);
        self.clients[who].end();
        Ok(())
    }

    fn stray(&mut self, chance: &mut Chance, who: usize) -> Held {
        let number = 1 + chance.below(9) as u16;
        // An identifier of its own would have it publish the same message twice.
        let unused = PacketId::new(60_000 + number).unwrap_or(PacketId::MIN);
        // And what waits to be stored before it is sent has one that nobody has seen.
        let ack = Ack::success(match self.store.is_some() {
            true => unused,
            false => PacketId::new(number).unwrap_or(PacketId::MIN),
        });
        let packet = match chance.below(5) {
            0 => Packet::PubRel(Ack::success(unused)),
            // What is not a client's to say, or said twice.
            1 => Packet::Connect(Box::new(self.plain_connect(who))),
            // Acknowledged, and never sent; or sent, and acknowledged before it was read.
            2 => Packet::PubAck(ack),
            3 => Packet::PubRec(ack),
            _ => Packet::PubComp(ack),
        };
        self.clients[who].strays = true;
        self.say(who, packet)
    }

    fn kick(&mut self, chance: &mut Chance, who: usize) -> Held {
        let client = ClientId::new(text(&self.clients[who].name)).expect("it has a name");
        let target = match chance.below(8) {
            0 => Target::Everyone,
            1 => Target::User(text(chance.of(&["user0", "user1"]))),
            _ => Target::Client(client),
        };
        let is_one = matches!(target, Target::Client(_));
        self.kicks += 1;
        let kick = Kick {
            id: KickId(self.kicks),
            options: KickOptions {
                will: chance.of(&[KickedWill::Publish, KickedWill::Discard]),
                session: match is_one && chance.one_in(3) {
                    true => KickedSession::Purge,
                    false => KickedSession::Keep,
                },
                keep_out: (is_one && chance.one_in(4)).then(|| Duration::from_secs(1 + chance.next() % 20)),
                ..KickOptions::default()
            },
            target,
        };
        self.input(Cause::Kick(kick.clone()), Input::Kick(Box::new(kick)))
    }

    /// Bounds change while everything runs; what clients were told stays right.
    fn reload(&mut self, chance: &mut Chance) -> Held {
        let mut limits = self.broker.limits().clone();
        limits.inflight_max = chance.of(&[1, 2, 8, 32]);
        limits.receive_maximum = chance.of(&[1, 4, 64]);
        limits.unsent_bytes_max = chance.of(&[300, 5_000, 1_000_000]);
        if !self.setup.is_roomy {
            limits.queue_class = chance.of(&[QueueClass::N16, QueueClass::N64]);
            limits.queue_bytes_max = chance.of(&[300, 2_000, 100_000]);
            limits.retained_max = chance.of(&[2, 100]);
        }
        self.reconfigure(limits)
    }

    /// Lets everybody in at one time.
    pub fn make_room(&mut self) -> Held {
        let mut limits = self.broker.limits().clone();
        limits.connections_max = 10_000;
        self.reconfigure(limits)
    }

    fn reconfigure(&mut self, limits: Limits) -> Held {
        let changed = Reconfiguration {
            hooks: None,
            limits,
            settings: Settings::default(),
            rights: None,
            listeners: self.doors.to_vec(),
            revoked: Vec::new(),
        };
        self.input(Cause::Reconfigured, Input::Reconfigured(Box::new(changed)))
    }

    /// Lets everybody in again.
    pub fn unban_all(&mut self) -> Held {
        for who in 0..self.clients.len() {
            let name = self.clients[who].name.clone();
            let subject = BanSubject::Client(ClientId::new(text(&name)).expect("it has a name"));
            self.input(Cause::Unban(Rc::from(&*name)), Input::Unban { subject })?;
        }
        Ok(())
    }

    fn change_rights(&mut self, chance: &mut Chance) -> Held {
        let denials = (0..chance.below(3))
            .map(|_| {
                let identity = chance.of(&[None, Some("user0"), Some("user1")]);
                let filter = self.filter(chance);
                Denial {
                    identity: identity.map(|user| Identity::User(text(user))),
                    action: chance.of(&[Action::Publish, Action::Receive]),
                    topics: TopicFilter::try_from(filter.matched()).expect("part of a filter"),
                }
            })
            .collect();
        self.set_rights(denials)
    }

    pub fn set_rights(&mut self, denials: Vec<Denial>) -> Held {
        let rights = Rights::denying(denials.clone());
        self.denials.clone_from(&denials);
        self.input(Cause::Rights(denials), Input::RightsChanged(rights))
    }
}

fn quality(chance: &mut Chance) -> QoS {
    chance.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

pub fn text(text: &str) -> Utf8String {
    Utf8String::try_from(text).expect("a text of the simulator")
}
