//! What clients publish, and the acknowledgements both ways (sections 3.3 to 3.7 and 4.3).

use std::time::Instant;

use super::Broker;
use super::deliver::Passing;
use super::inflight::Acked;
use super::kept::{expiry, properties_bytes};
use super::link::{Link, LinkId, Stage};
use crate::auth::access::Action;
use crate::mqtt::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

impl Broker {
    pub(super) fn handle_publish(&mut self, now: Instant, link: LinkId, publish: Publish) {
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
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
            (topic, Some(alias)) => {
                match attachment.resolve_alias(topic, alias, self.limits.topic_alias_maximum, &self.budget) {
                    Ok(topic) => topic,
                    Err(reason) => return self.refuse(now, link, reason),
                }
            }
            (None, None) => return self.refuse(now, link, ReasonCode::ProtocolError),
        };
        if is_too_fast {
            self.pause(now, link); // this one is taken all the same, the next ones wait
        }
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
        if qos == QoS::ExactlyOnce
            && session.receiving.len() >= usize::from(self.limits.receive_maximum.max(1))
        {
            return self.refuse(now, link, ReasonCode::ReceiveMaximumExceeded); // [MQTT-3.3.4-7]
        }
        let mut refusal = None;
        if !self
            .rights
            .authorize(&session.identity, Action::Publish, topic.as_str())
        {
            refusal = Some(ReasonCode::NotAuthorized);
            self.stats.publishes_denied += 1;
        }
        if !self.is_topic_within_limits(topic.as_str()) {
            refusal = Some(ReasonCode::TopicNameInvalid);
        }
        if let Some(properties) = properties.as_deref() {
            if !properties.subscription_ids.is_empty() {
                return self.refuse(now, link, ReasonCode::ProtocolError); // [MQTT-3.3.4-6]
            }
            if !self.limits.allow_user_properties(&properties.user_properties) {
                refusal = Some(ReasonCode::QuotaExceeded);
            }
        }
        if let Some(reason) = refusal {
            return self.reject_publish(now, link, qos, packet_id, reason);
        }
        let properties = properties.filter(|properties| !properties.is_empty());
        let expires_at = expiry(properties.as_deref(), now);
        let passing = Passing::new(topic, payload, properties, qos, retain, expires_at);
        let reached = self.route(now, Some(key), passing);
        let reason = match version {
            // It went to whoever is there, but nobody who comes will find it.
            ProtocolVersion::V5 if retain && std::mem::take(&mut self.retain_refused) => {
                ReasonCode::QuotaExceeded
            }
            ProtocolVersion::V5 if !reached => ReasonCode::NoMatchingSubscribers,
            _ => ReasonCode::Success,
        };
        self.acknowledge_publish(now, link, qos, packet_id, reason);
    }

    /// Refuses a message: in its acknowledgement where the version and the QoS have room for it.
    fn reject_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        qos: QoS,
        packet_id: Option<PacketId>,
        reason: ReasonCode,
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
                self.acknowledge_publish(now, link, qos, packet_id, reason);
            }
            // Without a word for it the message is taken and dropped [MQTT-3.3.5-2 of 3.1.1].
            _ if reason == ReasonCode::NotAuthorized => {
                self.acknowledge_publish(now, link, qos, packet_id, ReasonCode::Success);
            }
            _ => self.refuse(now, link, reason),
        }
    }

    /// [MQTT-4.6.0-2] [MQTT-4.6.0-3]: in the order the messages came, for each is answered before the next is
    /// read.
    fn acknowledge_publish(
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
                self.send_control(now, link, Packet::PubAck(ack)); // [MQTT-4.3.2-4]
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if !reason.is_error()
                    && let Some(Link {
                        stage: Stage::Attached(attachment),
                        ..
                    }) = self.links.get(link)
                    && let Some(session) = self.sessions.get_mut(attachment.session)
                {
                    session.receiving.insert(packet_id); // [MQTT-4.3.3-8]
                }
                self.send_control(now, link, Packet::PubRec(Ack::with_reason(packet_id, reason)));
            }
            (_, None) => self.refuse(now, link, ReasonCode::ProtocolError), // [MQTT-2.2.1-2]
        }
    }

    /// The publisher knows that we have its QoS 2 message and lets us forget the identifier.
    pub(super) fn handle_pubrel(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        let Some(attachment) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        let version = attachment.version;
        let Some(session) = self.sessions.get_mut(attachment.session) else {
            return;
        };
        let known = session.receiving.remove(ack.packet_id);
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
        self.handle_ack(now, link, |inflight| inflight.acknowledge(ack.packet_id));
    }

    pub(super) fn handle_pubcomp(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        self.handle_ack(now, link, |inflight| inflight.complete(ack.packet_id));
    }

    pub(super) fn handle_pubrec(&mut self, now: Instant, link: LinkId, ack: &Ack) {
        if ack.reason.is_error() {
            return self.handle_ack(now, link, |inflight| inflight.reject(ack.packet_id)); // [MQTT-4.3.3-4]
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
        let reason = match (acked, version) {
            (Acked::Done, _) => ReasonCode::Success,
            (Acked::Unknown, ProtocolVersion::V5) => ReasonCode::PacketIdentifierNotFound,
            (Acked::Unknown, _) => ReasonCode::Success,
            (Acked::Unexpected, _) => return self.refuse(now, link, ReasonCode::ProtocolError),
        };
        self.send_control(now, link, Packet::PubRel(Ack::with_reason(ack.packet_id, reason)));
    }

    /// Ends a delivery, which makes room in the window. An identifier nobody knows is a late echo and harms
    /// nobody.
    fn handle_ack(
        &mut self,
        now: Instant,
        link: LinkId,
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
                self.pump(now, key);
            }
            Acked::Unknown => {}
            Acked::Unexpected => self.refuse(now, link, ReasonCode::ProtocolError),
        }
    }

    /// Whether a topic name or filter is short and shallow enough.
    pub(super) fn is_topic_within_limits(&self, topic: &str) -> bool {
        let levels_max = self.limits.topic_levels_max;
        topic.len() <= self.limits.topic_bytes_max
            && (topic.len() < levels_max || topic.bytes().filter(|&byte| byte == b'/').count() < levels_max)
    }
}
