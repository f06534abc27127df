//! What the server allows on one connection.

use super::Message;
use super::sending::publish;
use crate::mqtt::{ConnAckProperties, PacketId, ProtocolVersion, QoS, ReasonCode, encoded_len};

/// What CONNACK allows (section 3.2.2.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Grants {
    pub(super) receive_maximum: u16,
    qos_max: QoS,
    retain: bool,
    pub(super) packet_bytes_max: u32,
}

impl Grants {
    /// Why the server would not take `message`, if it would not.
    pub(super) fn refuse(&self, message: &Message, version: ProtocolVersion) -> Option<ReasonCode> {
        if message.qos > self.qos_max {
            return Some(ReasonCode::QosNotSupported); // [MQTT-3.2.2-11]
        }
        if message.retain && !self.retain {
            return Some(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        if self.packet_bytes_max < u32::MAX {
            let packet_id = (message.qos != QoS::AtMostOnce).then_some(PacketId::MIN);
            let packet = publish(message.clone(), packet_id, false);
            if encoded_len(&packet, version) > usize::try_from(self.packet_bytes_max).unwrap_or(usize::MAX) {
                return Some(ReasonCode::PacketTooLarge); // [MQTT-3.2.2-15]
            }
        }
        None
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            qos_max: QoS::ExactlyOnce,
            retain: true,
            packet_bytes_max: u32::MAX,
        }
    }
}

impl From<&ConnAckProperties> for Grants {
    fn from(properties: &ConnAckProperties) -> Self {
        let assumed = Self::default();
        Self {
            receive_maximum: properties.receive_maximum.unwrap_or(assumed.receive_maximum),
            qos_max: properties.maximum_qos.unwrap_or(assumed.qos_max),
            retain: properties.retain_available.unwrap_or(assumed.retain),
            packet_bytes_max: properties.packet_bytes_max.unwrap_or(assumed.packet_bytes_max),
        }
    }
}
