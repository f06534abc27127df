//! What clients publish, and the acknowledgements both ways (sections 3.3 to 3.7 and 4.3).

use std::time::Instant;

use bytes::Bytes;

use super::aliases::IncomingAliases;
use super::budget::Use;
use super::decided::Asked;
use super::deliver::Passing;
use super::inflight::Acked;
use super::kept::{expiry, properties_bytes};
use super::limits::Limits;
use super::link::{Link, LinkId, Stage};
use super::policy::MountPoint;
use super::scarcity::Scarce;
use super::session::SessionKey;
use super::{Broker, Change, Refusal};
use crate::auth::access::Action;
use crate::mqtt::{
    Ack, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};

/// A message that a client publishes, its topic told in full.
pub(super) struct Incoming {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    pub(super) properties: Option<Box<PublishProperties>>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) packet_id: Option<PacketId>,
}

impl Broker {
    /// A PUBLISH came; most packets are, so it has a way of its own.
    #[inline(never)]
    pub(super) fn handle_publish(&mut self, now: Instant, link: LinkId, publish: Publish) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        self.stats.packets_received += 1;
        let Stage::Attached(attachment) = &mut known.stage else {
            return self.handle_early_packet(now, link, Packet::Publish(publish));
        };
        attachment.last_received = now;
        let Publish {
            qos,
            retain,
            topic,
            packet_id,
            payload,
            mut properties,
            ..
        } = publish;
        let (key, version) = (attachment.session, attachment.version);
        let bytes = payload.len()
            + topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + properties.as_deref().map_or(0, properties_bytes);
        let is_too_fast = attachment.pace.exceeds(now, 1, bytes, &self.limits);
        let alias = properties
            .as_deref_mut()
            .and_then(|properties| properties.topic_alias.take());
        let topic = match (topic, alias) {
            (Some(topic), None) => topic,
            // It is refused below, and would be kept as long as the connection lives.
            (Some(topic), Some(_)) if !is_topic_within(&self.limits, topic.as_str()) => topic,
            (topic, Some(alias)) => {
                let alias_max = attachment.listener.topic_alias_maximum(&self.loosest);
                let account = &self.budget.account;
                let aliases =
                    (attachment.aliases).get_or_insert_with(|| Box::new(IncomingAliases::new(account)));
                match aliases.resolve(topic, alias, alias_max, &self.budget) {
                    Ok(topic) => topic,
                    Err(refusal) => return self.refuse(now, link, refusal),
                }
            }
            (None, None) => return self.refuse(now, link, Refusal::NoTopic),
        };
        let attachment = match is_too_fast {
            false => attachment,
            true => {
                self.pause(now, link); // this one is taken all the same, the next ones wait
                match self.links.get_mut(link).and_then(Link::attachment_mut) {
                    Some(attachment) => attachment,
                    None => return,
                }
            }
        };
        self.stats.messages_received += 1;
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if let (QoS::ExactlyOnce, Some(packet_id)) = (qos, packet_id)
            && session.receiving.contains(packet_id)
        {
            self.stats.duplicates_suppressed += 1;
            let again = Packet::PubRec(Ack::success(packet_id)); // [MQTT-4.3.3-10]
            return self.send_control(now, link, again);
        }
        // A message at QoS 1 is answered before the next is read, so only those at QoS 2 can be unfinished. What an
        // earlier connection left does not count (section 4.9): a client that forgot it could never release it. An
        // older client was told no Receive Maximum, and is bounded by the identifiers there are.
        if qos != QoS::AtMostOnce
            && version == ProtocolVersion::V5
            && attachment.unreleased >= attachment.listener.receive_maximum(&self.loosest)
        {
            return self.refuse(now, link, Refusal::ReceiveMaximum); // [MQTT-3.3.4-7]
        }
        let incoming = Incoming {
            topic,
            payload,
            properties,
            qos,
            retain,
            packet_id,
        };
        if self.hooked.is_some() {
            return self.ask_about_publish(now, link, incoming);
        }
        if let Some(incoming) = self.checked_publish(now, link, key, incoming) {
            self.finish_publish(now, link, (key, version), incoming);
        }
    }

    /// The same message where it stands for everybody else, if its client may publish it; otherwise that is told.
    #[inline(always)]
    pub(super) fn checked_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        key: SessionKey,
        mut incoming: Incoming,
    ) -> Option<Incoming> {
        let (qos, packet_id) = (incoming.qos, incoming.packet_id);
        let session = self.sessions.get(key)?;
        if let Some(mount_point) = &session.mount_point {
            match mount(mount_point, incoming.topic) {
                Ok(topic) => incoming.topic = topic,
                Err(refusal) => {
                    self.stats.publishes_denied += u64::from(refusal == Refusal::PublishDenied);
                    self.reject_publish(now, link, qos, packet_id, refusal);
                    return None;
                }
            }
        }
        let topic = &incoming.topic;
        let mut refusal = None;
        let asked = Asked {
            session: key,
            who: session.who(),
            action: Action::Publish,
            topic: topic.as_str(),
        };
        if !self.rights.allows(self.attachments, &asked) {
            refusal = Some(Refusal::PublishDenied);
            self.stats.publishes_denied += 1;
            let denied = session.denied(link, Action::Publish, topic.as_str());
            self.outputs.extend(denied.map(super::Output::Event));
        }
        if !self.is_topic_within_limits(topic.as_str()) {
            refusal = Some(Refusal::TopicTooLong);
        }
        if let Some(properties) = incoming.properties.as_deref() {
            if !properties.subscription_ids.is_empty() {
                self.refuse(now, link, Refusal::SubscriptionIdentifier); // [MQTT-3.3.4-6]
                return None;
            }
            if !self.limits.allow_user_properties(&properties.user_properties) {
                refusal = Some(Refusal::UserProperties);
            }
            if self.is_falsely_utf8(properties.payload_is_utf8, &incoming.payload) {
                refusal = Some(Refusal::PayloadNotUtf8);
            }
        }
        if let Some(refusal) = refusal {
            self.reject_publish(now, link, qos, packet_id, refusal);
            return None;
        }
        Some(incoming)
    }

    /// Hands a message on and answers for it.
    #[inline(always)]
    pub(super) fn finish_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        (key, version): (SessionKey, ProtocolVersion),
        incoming: Incoming,
    ) {
        let Incoming {
            topic,
            payload,
            properties,
            qos,
            retain,
            packet_id,
        } = incoming;
        let (properties, expires_at) = match properties {
            Some(properties) => own_properties(properties, now),
            None => (None, None),
        };
        if qos != QoS::AtMostOnce && self.durable.is_some() && !self.may_be_promised(&topic, retain) {
            return self.reject_publish(now, link, qos, packet_id, Refusal::NotStored);
        }
        let mut passing = Passing::new(topic, payload, properties, qos, retain, expires_at);
        if qos != QoS::AtMostOnce
            && self.queues.may_reject
            && let Some(scarce) = self.lacks_room(now, Some(key), &mut passing)
        {
            return self.turn_away(now, link, version, (passing, packet_id), scarce);
        }
        self.pass_on(now, link, (key, version), passing, packet_id);
    }

    /// Hands a message on that all its receivers have room for, or none of them asks for it, and answers for it.
    #[inline(always)]
    pub(super) fn pass_on(
        &mut self,
        now: Instant,
        link: LinkId,
        (key, version): (SessionKey, ProtocolVersion),
        mut passing: Passing,
        packet_id: Option<PacketId>,
    ) {
        let Passing { qos, retain, .. } = passing;
        // Its publisher, told that it was refused, may send it again as another [MQTT-4.3.3-9].
        passing.is_all_or_nothing = qos == QoS::ExactlyOnce && version == ProtocolVersion::V5;
        let reached = self.route(now, Some(key), passing); // [MQTT-4.5.0-1]: before it is acknowledged
        if qos == QoS::AtMostOnce {
            return;
        }
        let reason = match version {
            // At QoS 1 it went to whoever is there, but nobody who comes will find it.
            ProtocolVersion::V5 if retain && std::mem::take(&mut self.retain_refused) => {
                ReasonCode::QuotaExceeded
            }
            ProtocolVersion::V5 if !reached => ReasonCode::NoMatchingSubscribers,
            _ => ReasonCode::Success,
        };
        self.acknowledge_publish(now, link, qos, packet_id, reason);
        if self.durable.as_ref().is_some_and(|durable| durable.is_behind()) {
            self.pause(now, link);
        }
    }

    /// Does not take a message that a receiver has no room for: who speaks 5.0 is told, who does not has to wait.
    #[inline(never)]
    fn turn_away(
        &mut self,
        now: Instant,
        link: LinkId,
        version: ProtocolVersion,
        (passing, packet_id): (Passing, Option<PacketId>),
        scarce: Scarce,
    ) {
        if version == ProtocolVersion::V5 {
            self.stats.publishes_refused += 1;
            // [MQTT-4.3.3-9]: nothing remembers the identifier.
            return self.acknowledge_publish(now, link, passing.qos, packet_id, ReasonCode::QuotaExceeded);
        }
        self.wait_for_room(now, link, passing, packet_id, scarce);
    }

    /// Refuses a message: in its acknowledgement where the version and the QoS have room for it.
    pub(super) fn reject_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        qos: QoS,
        packet_id: Option<PacketId>,
        refusal: Refusal,
    ) {
        let version = match self.links.get(link) {
            Some(Link {
                stage: Stage::Attached(attachment),
                ..
            }) => attachment.version,
            _ => return,
        };
        match (version, qos) {
            (ProtocolVersion::V5, QoS::AtLeastOnce | QoS::ExactlyOnce) => {
                self.acknowledge_publish(now, link, qos, packet_id, refusal.reason());
            }
            // Without a word for it the message is taken and dropped [MQTT-3.3.5-2 of 3.1.1].
            _ if refusal == Refusal::PublishDenied => {
                self.acknowledge_publish(now, link, qos, packet_id, ReasonCode::Success);
            }
            _ => self.refuse(now, link, refusal),
        }
    }

    /// [MQTT-3.3.4-1], with the identifier of the message [MQTT-2.2.1-5].
    ///
    /// [MQTT-4.6.0-2] [MQTT-4.6.0-3]: in the order the messages came, for each is answered before the next is
    /// read.
    pub(super) fn acknowledge_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        qos: QoS,
        packet_id: Option<PacketId>,
        reason: ReasonCode,
    ) {
        match (qos, packet_id) {
            (QoS::AtMostOnce, _) => {}
            (QoS::AtLeastOnce, Some(packet_id)) => {
                let ack = Ack::with_reason(packet_id, reason);
                // Nothing remembers the identifier [MQTT-4.3.2-5].
                self.send_control(now, link, Packet::PubAck(ack)); // [MQTT-4.3.2-4]
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                // [MQTT-4.3.3-9]: one that is refused is not remembered.
                if !reason.is_error()
                    && let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut)
                    && let Some(session) = self.sessions.get_mut(attachment.session)
                {
                    let is_new = !session.receiving.contains(packet_id);
                    attachment.unreleased = attachment.unreleased.saturating_add(u16::from(is_new));
                    let has_grown = session.receiving.insert(packet_id); // [MQTT-4.3.3-8]
                    if session.number != 0
                        && let Some(durable) = &mut self.durable
                    {
                        durable.note_received(session.number, packet_id);
                    }
                    if has_grown && !self.has_memory(now, Use::Packet, 0) {
                        return self.refuse(now, link, Refusal::MemoryShort);
                    }
                }
                self.send_control(now, link, Packet::PubRec(Ack::with_reason(packet_id, reason)));
            }
            (_, None) => self.refuse(now, link, Refusal::NoPacketIdentifier), // [MQTT-2.2.1-2]
        }
    }

    /// The publisher knows that we have its QoS 2 message and lets us forget the identifier.
    pub(super) fn handle_pubrel(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
        let version = attachment.version;
        let Some(session) = self.sessions.get_mut(attachment.session) else {
            return;
        };
        // Whatever has become of the message [MQTT-4.3.3-12] [MQTT-4.3.3-13].
        let known = session.receiving.remove(ack.packet_id);
        attachment.unreleased = attachment.unreleased.saturating_sub(u16::from(known));
        if known {
            let (key, packet_id) = (attachment.session, ack.packet_id);
            self.store_change(key, |session| Change::Forgotten { session, packet_id });
        }
        let reason = match version {
            ProtocolVersion::V5 if !known => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        };
        self.send_control(
            now,
            link,
            Packet::PubComp(Ack::with_reason(ack.packet_id, reason)),
        ); // [MQTT-4.3.3-11]
    }

    pub(super) fn handle_puback(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        self.handle_ack(now, link, ack.packet_id, |inflight| {
            inflight.acknowledge(ack.packet_id)
        });
    }

    pub(super) fn handle_pubcomp(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        self.handle_ack(now, link, ack.packet_id, |inflight| {
            inflight.complete(ack.packet_id)
        });
    }

    pub(super) fn handle_pubrec(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        if ack.reason.is_error() {
            // [MQTT-4.3.3-4] [MQTT-4.4.0-2] [MQTT-4.8.2-6]
            return self.handle_ack(now, link, ack.packet_id, |inflight| {
                inflight.reject(ack.packet_id)
            });
        }
        let Some(attachment) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        let version = attachment.version;
        let Some(session) = self.sessions.get_mut(attachment.session) else {
            return;
        };
        let held_before = session.held_bytes();
        let acked = session.inflight.release(ack.packet_id);
        self.stats.queued_bytes -= (held_before - session.held_bytes()) as u64;
        if acked == Acked::Done {
            let (key, packet_id) = (attachment.session, ack.packet_id);
            self.store_change(key, |session| Change::Released { session, packet_id });
            self.look_again_at(key);
        }
        let reason = match (acked, version) {
            (Acked::Done, _) => ReasonCode::Success,
            (Acked::Unknown, ProtocolVersion::V5) => ReasonCode::PacketIdentifierNotFound,
            (Acked::Unknown, _) => ReasonCode::Success,
            (Acked::Unexpected, _) => return self.refuse(now, link, Refusal::UnexpectedAck),
        };
        self.send_control(now, link, Packet::PubRel(Ack::with_reason(ack.packet_id, reason)));
    }

    /// Ends a delivery, which makes room in the window. An identifier nobody knows is a late echo and harms
    /// nobody.
    fn handle_ack(
        &mut self,
        now: Instant,
        link: LinkId,
        packet_id: PacketId,
        end: impl FnOnce(&mut super::inflight::Inflight) -> Acked,
    ) {
        let Some(attachment) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        let key = attachment.session;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let held_before = session.held_bytes();
        let acked = end(&mut session.inflight);
        self.stats.queued_bytes -= (held_before - session.held_bytes()) as u64;
        match acked {
            Acked::Done => {
                self.stats.inflight_messages -= 1;
                self.store_change(key, |session| Change::Finished { session, packet_id });
                self.pump(now, key);
            }
            Acked::Unknown => {}
            Acked::Unexpected => self.refuse(now, link, Refusal::UnexpectedAck),
        }
    }

    /// Whether a payload says it is UTF-8 and is not, where that is looked at (section 3.3.2.3.2).
    pub(super) fn is_falsely_utf8(&self, payload_is_utf8: Option<bool>, payload: &[u8]) -> bool {
        self.settings.check_payload_format
            && payload_is_utf8 == Some(true)
            && std::str::from_utf8(payload).is_err()
    }

    /// Whether a topic name or filter is short and shallow enough.
    pub(super) fn is_topic_within_limits(&self, topic: &str) -> bool {
        is_topic_within(&self.limits, topic)
    }
}

/// The properties a message keeps, if there are any left, and when it expires.
#[inline(never)]
fn own_properties(
    properties: Box<PublishProperties>,
    now: Instant,
) -> (Option<Box<PublishProperties>>, Option<Instant>) {
    let properties = Some(properties).filter(|properties| !properties.is_empty());
    let expires_at = expiry(properties.as_deref(), now);
    (properties, expires_at)
}

/// Where a client's `topic` stands for everybody else.
///
/// Topics that start with `$` are the server's and are not mounted: nobody writes them.
#[inline(never)]
fn mount(mount_point: &MountPoint, topic: TopicName) -> Result<TopicName, Refusal> {
    if topic.is_reserved() {
        return Err(Refusal::PublishDenied);
    }
    mount_point.mounted(&topic).ok_or(Refusal::TopicTooLong)
}

pub(super) fn is_topic_within(limits: &Limits, topic: &str) -> bool {
    let levels_max = limits.topic_levels_max;
    topic.len() <= limits.topic_bytes_max
        && (topic.len() < levels_max || topic.bytes().filter(|&byte| byte == b'/').count() < levels_max)
}
