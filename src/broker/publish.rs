//! What clients publish, and the acknowledgements both ways (sections 3.3 to 3.7 and 4.3).

use std::time::Instant;

use super::deliver::Passing;
use super::inflight::Acked;
use super::kept::expiry;
use super::link::{Link, LinkId, Stage};
use super::policy::MountPoint;
use super::{Broker, Refusal};
use crate::auth::access::Action;
use crate::mqtt::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, TopicName};

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
        if attachment.exceeds_rate(now, self.limits.publish_rate_max) {
            if let Some(client) = self.sessions.get(key).map(|session| session.client.clone()) {
                self.limit_reached_for("publish_rate_max", &client);
            }
            return self.refuse(now, link, Refusal::PublishRate);
        }
        let alias = properties
            .as_deref_mut()
            .and_then(|properties| properties.topic_alias.take());
        let topic = match (topic, alias) {
            (Some(topic), None) => topic,
            (topic, Some(alias)) => {
                let alias_max = attachment.listener.topic_alias_maximum(&self.limits);
                let aliases = attachment.aliases.get_or_insert_default();
                match aliases.resolve(topic, alias, alias_max) {
                    Ok(topic) => topic,
                    Err(refusal) => return self.refuse(now, link, refusal),
                }
            }
            (None, None) => return self.refuse(now, link, Refusal::NoTopic),
        };
        let mounted = match attachment
            .tailoring
            .as_ref()
            .and_then(|own| own.mount_point.as_ref())
        {
            None => Ok(topic),
            Some(mount_point) => mount(mount_point, topic),
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
        // An older client was told no Receive Maximum, and is bounded by the identifiers there are.
        if qos == QoS::ExactlyOnce
            && version == ProtocolVersion::V5
            && session.receiving.len() >= usize::from(attachment.listener.receive_maximum(&self.limits))
        {
            return self.refuse(now, link, Refusal::ReceiveMaximum); // [MQTT-3.3.4-7]
        }
        let topic = match mounted {
            Ok(topic) => topic,
            Err(refusal) => {
                self.stats.publishes_denied += u64::from(refusal == Refusal::PublishDenied);
                return self.reject_publish(now, link, qos, packet_id, refusal);
            }
        };
        let mut refusal = None;
        if !self
            .rights
            .authorize(&session.identity, Action::Publish, topic.as_str())
        {
            refusal = Some(Refusal::PublishDenied);
            self.stats.publishes_denied += 1;
        }
        if !self.is_topic_within_limits(topic.as_str()) {
            refusal = Some(Refusal::TopicTooLong);
        }
        if let Some(properties) = properties.as_deref() {
            if !properties.subscription_ids.is_empty() {
                return self.refuse(now, link, Refusal::SubscriptionIdentifier); // [MQTT-3.3.4-6]
            }
            if properties.user_properties.len() > self.limits.user_properties_max {
                refusal = Some(Refusal::UserProperties);
            }
            if self.is_falsely_utf8(properties.payload_is_utf8, &payload) {
                refusal = Some(Refusal::PayloadNotUtf8);
            }
        }
        if let Some(refusal) = refusal {
            return self.reject_publish(now, link, qos, packet_id, refusal);
        }
        let properties = properties.filter(|properties| !properties.is_empty());
        let expires_at = expiry(properties.as_deref(), now);
        let passing = Passing::new(topic, payload, properties, qos, retain, expires_at);
        let reached = self.route(now, Some(key), passing); // [MQTT-4.5.0-1]: before it is acknowledged
        let reason = match version {
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
                // Nothing remembers the identifier [MQTT-4.3.2-5].
                self.send_control(now, link, Packet::PubAck(ack)); // [MQTT-4.3.2-4]
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                // [MQTT-4.3.3-9]: one that is refused is not remembered.
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
            (_, None) => self.refuse(now, link, Refusal::NoPacketIdentifier), // [MQTT-2.2.1-2]
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
        // Whatever has become of the message [MQTT-4.3.3-12] [MQTT-4.3.3-13].
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
            // [MQTT-4.3.3-4] [MQTT-4.4.0-2] [MQTT-4.8.2-6]
            return self.handle_ack(now, link, |inflight| inflight.reject(ack.packet_id));
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
        let levels_max = self.limits.topic_levels_max;
        topic.len() <= self.limits.topic_bytes_max
            && (topic.len() < levels_max || topic.bytes().filter(|&byte| byte == b'/').count() < levels_max)
    }
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
