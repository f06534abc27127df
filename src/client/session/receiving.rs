//! The way of the server's messages to us: each given away once, and acknowledged as it is taken.

use super::{Event, Message, Queued, Session};
use crate::mqtt::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

impl Session {
    pub(super) fn handle_publish(&mut self, publish: Publish) {
        let aliased = publish
            .properties
            .as_ref()
            .is_some_and(|properties| properties.topic_alias.is_some());
        let Some(topic) = publish.topic.filter(|_| !aliased) else {
            // We announce a Topic Alias Maximum of 0 [MQTT-3.1.2-26] [MQTT-3.3.2-10].
            return self.fail(
                ReasonCode::TopicAliasInvalid,
                "a topic alias where none is allowed",
            );
        };
        let acknowledgement = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => {
                if self.untaken >= self.options.events_max {
                    self.dropped += 1;
                    return;
                }
                self.untaken += 1;
                None
            }
            (_, None) => {
                return self.fail(
                    ReasonCode::MalformedPacket,
                    "a message without a packet identifier",
                );
            }
            (QoS::AtLeastOnce, Some(packet_id)) => {
                if self.is_receive_window_full() {
                    return self.fail(
                        ReasonCode::ReceiveMaximumExceeded,
                        "more messages than we can take",
                    );
                }
                self.puback_due += 1;
                Some(Packet::PubAck(Ack::success(packet_id)))
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if self.received.contains(&packet_id) {
                    return self.handle_repetition(packet_id);
                }
                if self.is_receive_window_full() {
                    return self.fail(
                        ReasonCode::ReceiveMaximumExceeded,
                        "more messages than we can take",
                    );
                }
                self.received.insert(packet_id);
                Some(Packet::PubRec(Ack::success(packet_id)))
            }
        };
        let message = Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
        };
        let acknowledgement = acknowledgement.map(|packet| (self.connection, packet));
        self.events.push_back(Queued {
            event: Event::Message(message),
            acknowledgement,
        });
    }

    /// A QoS 2 message that was given away, or waits to be, came once more [MQTT-4.3.3-10].
    pub(super) fn handle_repetition(&mut self, packet_id: PacketId) {
        let pubrec = Packet::PubRec(Ack::success(packet_id));
        let waits = |queued: &&mut Queued| {
            queued
                .acknowledgement
                .as_ref()
                .is_some_and(|(_, due)| *due == pubrec)
        };
        match self.events.iter_mut().find(waits) {
            // It came by an earlier connection and is acknowledged on this one, when it is taken.
            Some(Queued {
                acknowledgement: Some((connection, _)),
                ..
            }) => *connection = self.connection,
            _ => self.outgoing.push_back(pubrec),
        }
    }

    /// Whether the server has as many messages unfinished as we said we take [MQTT-3.3.4-9].
    pub(super) fn is_receive_window_full(&self) -> bool {
        self.received.len() + self.puback_due >= usize::from(self.receive_maximum())
    }

    /// Before 5.0 the server cannot be told, so it is held to what the standard assumes.
    pub(super) fn receive_maximum(&self) -> u16 {
        if self.options.version == ProtocolVersion::V5 {
            self.options.receive_maximum
        } else {
            u16::MAX
        }
    }

    pub(super) fn handle_pubrel(&mut self, ack: Ack) {
        let known = self.received.remove(&ack.packet_id);
        let reason = if known {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        self.outgoing
            .push_back(Packet::PubComp(Ack::with_reason(ack.packet_id, reason))); // [MQTT-4.3.3-11]
    }
}
