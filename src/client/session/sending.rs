//! The way of our messages to the server: the window, what is unfinished, and what is sent again (section 4.4).

use super::{Event, Message, Published, RequestError, Session, Token};
use crate::mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};

/// Unfinished messages of ours at most: with the requests there are then fewer than packet identifiers.
pub(super) const WINDOW_MAX: u16 = 65_000;

#[derive(Debug)]
pub(super) struct Unfinished {
    token: Token,
    order: u64,
    stage: Stage,
    /// Whether it was sent on this connection, and so counts against the window.
    pub(super) in_window: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// PUBLISH is out; PUBACK or PUBREC is due.
    Published(Message),
    /// PUBREL is out; PUBCOMP is due.
    Released,
}

impl Session {
    /// Takes `message` for sending; it may wait for a connection and for the server's window, in its order.
    ///
    /// What the server does not allow comes back as [`Event::Published`] with the reason, without having been sent.
    ///
    /// # Errors
    /// [`RequestError::Full`] when [`Options::waiting_max`] messages wait.
    pub fn publish(&mut self, mut message: Message) -> Result<Token, RequestError> {
        if self.waiting.len() >= self.options.waiting_max {
            return Err(RequestError::Full);
        }
        if let Some(properties) = &mut message.properties {
            // What belonged to the delivery of a message that is passed on; aliases of our own we give none
            // [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9] [MQTT-3.3.4-6].
            properties.topic_alias = None;
            properties.subscription_ids.clear();
        }
        let token = self.next_token();
        self.waiting.push_back((token, message));
        Ok(token)
    }

    pub(super) fn poll_publish(&mut self) -> Option<Packet> {
        if !self.is_online() {
            return None; // [MQTT-3.1.2-30]
        }
        let window = usize::from(
            self.grants
                .receive_maximum
                .min(self.options.inflight_max)
                .min(WINDOW_MAX),
        );
        while let Some(&packet_id) = self.resend.front() {
            if self.window_used >= window {
                return None; // [MQTT-4.9.0-2]
            }
            self.resend.pop_front();
            if let Some(unfinished) = self.unfinished.get_mut(&packet_id)
                && let Stage::Published(message) = &unfinished.stage
            {
                unfinished.in_window = true;
                self.window_used += 1;
                return Some(publish(message.clone(), Some(packet_id), true)); // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
            }
        }
        loop {
            let (token, message) = self.waiting.front()?;
            let token = *token;
            let acknowledged = message.qos != QoS::AtMostOnce;
            if let Some(reason) = self.grants.refuse(message, self.options.version) {
                self.waiting.pop_front();
                self.tell(Event::Published(Published {
                    token,
                    reason,
                    reason_string: None,
                }));
                continue;
            }
            if acknowledged && (self.window_used >= window || self.unfinished.len() >= window) {
                return None; // [MQTT-3.3.4-9]
            }
            let (_, message) = self.waiting.pop_front()?;
            if !acknowledged {
                let published = Published {
                    token,
                    reason: ReasonCode::Success,
                    reason_string: None,
                };
                self.tell(Event::Published(published));
                return Some(publish(message, None, false));
            }
            let packet_id = self.next_packet_id();
            let stage = Stage::Published(message.clone());
            let unfinished = Unfinished {
                token,
                order: self.next_order(),
                stage,
                in_window: true,
            };
            self.unfinished.insert(packet_id, unfinished);
            self.window_used += 1;
            return Some(publish(message, Some(packet_id), false));
        }
    }

    /// Sends again what the server has not acknowledged, in its order (section 4.4).
    pub(super) fn resume(&mut self) {
        let mut again: Vec<(u64, PacketId)> = self
            .unfinished
            .iter()
            .map(|(id, sent)| (sent.order, *id))
            .collect();
        again.sort_unstable();
        for (_, packet_id) in again {
            match self.unfinished.get(&packet_id).map(|sent| &sent.stage) {
                Some(Stage::Released) => self.outgoing.push_back(Packet::PubRel(Ack::success(packet_id))),
                _ => self.resend.push_back(packet_id),
            }
        }
    }

    /// Gives up what only the forgotten session of the server could finish [MQTT-3.2.2-5].
    pub(super) fn forget(&mut self) {
        self.received.clear();
        // Those that wait to be taken are ours all the same; only nobody expects their acknowledgement any more.
        self.events
            .iter_mut()
            .for_each(|queued| queued.acknowledgement = None);
        let mut lost: Vec<Unfinished> = std::mem::take(&mut self.unfinished).into_values().collect();
        lost.sort_unstable_by_key(|unfinished| std::cmp::Reverse(unfinished.order));
        let mut forgotten = Vec::new();
        for unfinished in lost {
            match unfinished.stage {
                Stage::Published(message) if message.qos == QoS::AtLeastOnce => {
                    self.waiting.push_front((unfinished.token, message));
                }
                _ => forgotten.push(unfinished.token),
            }
        }
        for token in forgotten.into_iter().rev() {
            self.tell(Event::Forgotten { token });
        }
    }

    pub(super) fn handle_puback(&mut self, ack: Ack) {
        match self.unfinished.get(&ack.packet_id).map(|sent| &sent.stage) {
            Some(Stage::Published(message)) if message.qos == QoS::AtLeastOnce => self.finish(ack),
            Some(_) => self.fail(ReasonCode::ProtocolError, "PUBACK for a message of QoS 2"),
            None => {} // the answer to a message sent twice
        }
    }

    pub(super) fn handle_pubrec(&mut self, ack: Ack) {
        let order = self.next_order();
        match self.unfinished.get_mut(&ack.packet_id) {
            None => {
                // [MQTT-4.3.3-4] with the reason of section 3.6.2.1
                let answer = Ack::with_reason(ack.packet_id, ReasonCode::PacketIdentifierNotFound);
                self.outgoing.push_back(Packet::PubRel(answer));
            }
            Some(sent) => match &sent.stage {
                Stage::Published(message) if message.qos == QoS::AtLeastOnce => {
                    self.fail(ReasonCode::ProtocolError, "PUBREC for a message of QoS 1");
                }
                _ if ack.reason.is_error() => self.finish(ack), // section 4.3.3
                _ => {
                    sent.stage = Stage::Released;
                    sent.order = order;
                    self.outgoing
                        .push_back(Packet::PubRel(Ack::success(ack.packet_id))); // [MQTT-4.3.3-4] [MQTT-4.6.0-4]
                }
            },
        }
    }

    pub(super) fn handle_pubcomp(&mut self, ack: Ack) {
        match self.unfinished.get(&ack.packet_id).map(|sent| &sent.stage) {
            // "Not found" after PUBREC: the server has it and has forgotten that it had.
            Some(Stage::Released) => self.finish(Ack::success(ack.packet_id)),
            Some(Stage::Published(_)) => self.fail(ReasonCode::ProtocolError, "PUBCOMP before PUBREC"),
            None => {}
        }
    }

    pub(super) fn finish(&mut self, ack: Ack) {
        if let Some(sent) = self.unfinished.remove(&ack.packet_id) {
            if sent.in_window {
                self.window_used -= 1; // section 4.9
            }
            let reason_string = ack.properties.and_then(|properties| properties.reason_string);
            self.tell(Event::Published(Published {
                token: sent.token,
                reason: ack.reason,
                reason_string,
            }));
        }
    }
}

pub(super) fn publish(message: Message, packet_id: Option<PacketId>, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos: message.qos,
        retain: message.retain,
        topic: Some(message.topic),
        packet_id,
        payload: message.payload,
        properties: message.properties,
    })
}
