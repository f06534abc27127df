//! Clients as the standards of 3.1, 3.1.1 and 5.0 describe them (section 4.3 and 4.4): what they remember between
//! connections, what they send again, and what they answer. Written apart from `src/client`, to disagree with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate::broker::LinkId;
use tidegate::mqtt::{Ack, ConnAck, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicName};

use crate::oracle::{Held, hold};

/// A message at QoS 1 or 2 that its publisher has not done with.
#[derive(Debug, Clone)]
pub struct Unfinished {
    pub packet_id: PacketId,
    /// `None` once PUBREC came: PUBREL is what is repeated.
    pub publish: Option<Publish>,
}

/// One client, over any number of connections.
#[derive(Debug)]
pub struct Client {
    pub name: String,
    /// `None` comes without a name, by the open door.
    pub user: Option<String>,
    pub version: ProtocolVersion,
    pub link: Option<LinkId>,
    /// Whether CONNACK came.
    pub is_in: bool,
    /// Whether it reads what it is sent.
    pub reads: bool,
    /// What it has to answer, in its order.
    pub answers: VecDeque<Packet>,
    pub unfinished: Vec<Unfinished>,
    /// Whether it began its connection without a session, and whether that may outlive the connection.
    pub starts_clean: bool,
    lasts: bool,
    /// Whether a connection ended before CONNACK: there may be a new session that it was not told of.
    doubts: bool,
    /// QoS 2 messages it was sent and not asked to forget.
    receiving: BTreeSet<PacketId>,
    /// What its session has been handed at QoS 2, by its number.
    handed: BTreeSet<u32>,
    /// Whether messages may come to it by more than one way.
    pub shares: bool,
    /// Whether it has said what no client says, so that what it knows of itself is not right any more.
    pub strays: bool,
    next_id: u16,
    /// What CONNACK allows.
    pub receive_maximum: u16,
    pub topic_alias_maximum: u16,
    pub packet_bytes_max: u32,
    aliases: BTreeMap<u16, TopicName>,
    pub given_aliases: BTreeMap<TopicName, u16>,
    /// SUBSCRIBE and UNSUBSCRIBE that were not answered.
    pub requests: BTreeSet<PacketId>,
    /// Of each topic that brought a message with RETAIN the last payload, where anybody asked to keep it.
    pub kept: Option<BTreeMap<String, bytes::Bytes>>,
}

/// What a 3.1.1 client has under way at most, as it is told no Receive Maximum.
const WINDOW: u16 = 6;

impl Client {
    pub fn new(name: String, user: Option<String>, version: ProtocolVersion) -> Self {
        Self {
            name,
            user,
            version,
            link: None,
            is_in: false,
            reads: true,
            answers: VecDeque::new(),
            unfinished: Vec::new(),
            starts_clean: false,
            lasts: false,
            doubts: false,
            receiving: BTreeSet::new(),
            handed: BTreeSet::new(),
            shares: false,
            strays: false,
            next_id: 0,
            receive_maximum: WINDOW,
            topic_alias_maximum: 0,
            packet_bytes_max: u32::MAX,
            aliases: BTreeMap::new(),
            given_aliases: BTreeMap::new(),
            requests: BTreeSet::new(),
            kept: None,
        }
    }

    /// A new connection begins; what an earlier one brought is forgotten with it.
    pub fn begin(&mut self, link: LinkId, starts_clean: bool, lasts: bool) {
        self.end();
        self.link = Some(link);
        self.starts_clean = starts_clean;
        self.lasts = lasts;
        self.reads = true;
    }

    /// The connection is over.
    pub fn end(&mut self) {
        match (self.link, self.is_in) {
            (Some(_), true) if !self.lasts => self.forget(),
            (Some(_), false) => self.doubts = true,
            _ => {}
        }
        self.link = None;
        self.is_in = false;
        self.answers.clear();
        self.aliases.clear();
        self.given_aliases.clear();
        self.requests.clear();
    }

    /// Its session is over.
    fn forget(&mut self) {
        self.unfinished.clear();
        self.receiving.clear();
        self.handed.clear();
    }

    /// An identifier that nothing unfinished has [MQTT-2.2.1-3].
    pub fn free_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id % 40 + 1;
            let packet_id = PacketId::new(self.next_id).unwrap_or(PacketId::MIN);
            let is_used = self.unfinished.iter().any(|one| one.packet_id == packet_id);
            if !is_used && !self.requests.contains(&packet_id) {
                return packet_id;
            }
        }
    }

    /// Whether one more message at QoS 1 or 2 may be sent [MQTT-3.3.4-7].
    pub fn has_window(&self) -> bool {
        self.unfinished.len() < usize::from(self.receive_maximum.min(WINDOW))
    }

    /// Notes a message that it sends.
    pub fn note_sent(&mut self, publish: &Publish) {
        if let Some(packet_id) = publish.packet_id {
            self.unfinished.push(Unfinished {
                packet_id,
                publish: Some(publish.clone()),
            });
        }
    }

    /// A packet arrives; what it calls for waits in `answers`.
    ///
    /// # Errors
    /// What no server may do to a client.
    pub fn take(&mut self, packet: Packet) -> Held {
        let is_early = !self.is_in && !matches!(packet, Packet::ConnAck(_));
        hold(!is_early, "P1", || {
            format!("{} got {packet:?} before CONNACK", self.name)
        })?;
        match packet {
            Packet::ConnAck(connack) => self.take_connack(&connack),
            Packet::Publish(publish) => self.take_publish(publish),
            Packet::PubAck(ack) => self.finish(&ack, false, "PUBACK"),
            Packet::PubComp(ack) => self.finish(&ack, true, "PUBCOMP"),
            Packet::PubRec(ack) if ack.reason.is_error() => self.finish(&ack, false, "PUBREC"),
            Packet::PubRec(ack) => {
                let known = self
                    .unfinished
                    .iter_mut()
                    .find(|one| one.packet_id == ack.packet_id);
                let Some(known) = known else {
                    return hold(self.strays, "D2", || {
                        format!("{} has no use for {ack:?}", self.name)
                    });
                };
                known.publish = None;
                self.answers
                    .push_back(Packet::PubRel(Ack::success(ack.packet_id)));
                Ok(())
            }
            Packet::PubRel(ack) => {
                let was_there = self.receiving.remove(&ack.packet_id);
                let reason = match self.version {
                    ProtocolVersion::V5 if !was_there => ReasonCode::PacketIdentifierNotFound,
                    _ => ReasonCode::Success,
                };
                self.answers
                    .push_back(Packet::PubComp(Ack::with_reason(ack.packet_id, reason)));
                Ok(())
            }
            Packet::SubAck(suback) => self.finish_request(suback.packet_id),
            Packet::UnsubAck(unsuback) => self.finish_request(unsuback.packet_id),
            Packet::PingResp | Packet::Disconnect(_) => Ok(()),
            packet => hold(false, "P1", || format!("{} got {packet:?}", self.name)),
        }
    }

    fn take_connack(&mut self, connack: &ConnAck) -> Held {
        hold(!self.is_in, "P1", || "a second CONNACK".into())?;
        if connack.reason.is_error() {
            return Ok(());
        }
        self.is_in = true;
        let is_v5 = self.version == ProtocolVersion::V5;
        self.receive_maximum = connack.properties.receive_maximum.unwrap_or(u16::MAX);
        self.topic_alias_maximum = connack.properties.topic_alias_maximum.unwrap_or(0);
        self.packet_bytes_max = connack.properties.packet_bytes_max.unwrap_or(u32::MAX);
        // 3.1 tells nothing of the session: it is as it was asked for.
        let is_resumed = match self.version {
            ProtocolVersion::V31 => !self.starts_clean,
            _ => connack.session_present,
        };
        hold(!(is_resumed && self.starts_clean), "S1", || {
            format!("{} started clean, and is told otherwise", self.name)
        })?;
        if !is_resumed {
            self.forget(); // [MQTT-3.2.2-5]
            self.doubts = false;
        }
        if self.doubts {
            // Sent again in a session that is not the one it was sent in, it would be another message.
            self.unfinished.clear();
        }
        // [MQTT-4.4.0-1]: in the order of the first time. What is more than the window waits for nobody here: a server
        // that takes fewer than before is told of none at all.
        if is_v5 && self.unfinished.len() > usize::from(self.receive_maximum) {
            self.unfinished.truncate(usize::from(self.receive_maximum));
        }
        for one in &self.unfinished {
            self.answers.push_back(match &one.publish {
                Some(publish) => Packet::Publish(Publish {
                    dup: true,
                    ..publish.clone()
                }),
                None => Packet::PubRel(Ack::success(one.packet_id)),
            });
        }
        Ok(())
    }

    /// Ends a message of its own.
    fn finish(&mut self, ack: &Ack, was_released: bool, name: &str) -> Held {
        let before = self.unfinished.len();
        self.unfinished
            .retain(|one| one.packet_id != ack.packet_id || one.publish.is_none() != was_released);
        hold(self.unfinished.len() < before || self.strays, "P1", || {
            format!("{} has no use for {name} {ack:?}", self.name)
        })
    }

    fn finish_request(&mut self, packet_id: PacketId) -> Held {
        let was_there = self.requests.remove(&packet_id);
        hold(was_there, "P1", || {
            format!("{} asked nothing as {packet_id}", self.name)
        })
    }

    fn take_publish(&mut self, publish: Publish) -> Held {
        let alias = publish
            .properties
            .as_deref()
            .and_then(|properties| properties.topic_alias);
        let topic = match (publish.topic.clone(), alias) {
            (Some(topic), Some(alias)) => {
                self.aliases.insert(alias, topic.clone());
                Some(topic)
            }
            (Some(topic), None) => Some(topic),
            (None, alias) => alias.and_then(|alias| self.aliases.get(&alias)).cloned(),
        };
        let Some(topic) = topic else {
            return hold(false, "D6", || {
                format!("{} got {publish:?} without a topic", self.name)
            });
        };
        if let Some(packet_id) = publish.packet_id {
            let is_new = publish.qos != QoS::ExactlyOnce
                || self.receiving.insert(packet_id)
                || (self.doubts && !publish.dup);
            self.answers.push_back(match publish.qos {
                QoS::ExactlyOnce => Packet::PubRec(Ack::success(packet_id)),
                _ => Packet::PubAck(Ack::success(packet_id)),
            });
            if !is_new {
                // In 3.1 nobody is told that the session it was in use in has ended.
                let may_be_another = self.version == ProtocolVersion::V31;
                return hold(publish.dup || self.strays || may_be_another, "D2", || {
                    format!("{} got {publish:?} with an identifier in use", self.name)
                });
            }
        }
        if let Some(kept) = &mut self.kept
            && publish.retain
        {
            kept.insert(topic.as_str().into(), publish.payload.clone());
        }
        if publish.qos == QoS::ExactlyOnce
            && !publish.retain
            && !self.shares
            && !self.strays
            && let Some(number) = number_of(&publish.payload)
        {
            let is_new = self.handed.insert(number);
            return hold(is_new, "D2", || {
                format!("{} was handed message {number} twice", self.name)
            });
        }
        Ok(())
    }
}

/// The number a payload begins with. Empty ones have none, nor have those of 3.1 clients: they cannot know whether
/// their session was there, and may have published twice what they send again.
pub fn number_of(payload: &[u8]) -> Option<u32> {
    let digits = payload.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(payload.get(..digits)?).ok()?.parse().ok()
}
