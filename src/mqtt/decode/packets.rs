//! Reads the body of each packet: what follows the fixed header (chapter 3).

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::reader::Reader;
use super::reasons::{self, Carrier};
use super::{DecodeError, FILTERS_MAX, Side, properties};
use crate::mqtt::ids::{ClientId, ProtocolVersion, QoS};
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Publish, RetainHandling, SubAck, Subscribe, Subscription,
    UnsubAck, Unsubscribe, Will,
};
use crate::mqtt::properties::{ConnAckProperties, ConnectProperties, SubscribeProperties, WillProperties};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::return_code;

/// Bits of the Connect Flags (section 3.1.2.3).
mod connect_flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

/// Bit 7 of the protocol level, by which other brokers say that they bridge; an extension that nobody has to use
/// [MQTT-7.0.0-2 of 3.1.1].
const BRIDGE: u8 = 0x80;

/// CONNECT; `version` is set as soon as it is known, so that the answer to a malformed rest can be given in
/// its form.
pub(super) fn connect(
    body: &mut Reader<'_>,
    known_version: &mut Option<ProtocolVersion>,
) -> Result<Connect, DecodeError> {
    let is_v31_name = match body.raw()? {
        b"MQTT" => false,
        b"MQIsdp" => true,
        _ => return Err(DecodeError::UnknownProtocolName), // [MQTT-3.1.2-1]
    };
    let level = body.u8()?;
    let bridge = level & BRIDGE != 0;
    let version = match (is_v31_name, level & !BRIDGE) {
        (true, 3) => ProtocolVersion::V31,
        (false, 4) => ProtocolVersion::V311,
        (false, 5) if !bridge => ProtocolVersion::V5,
        (_, other) => {
            *known_version = Some(if other > 4 {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V311
            });
            return Err(DecodeError::UnsupportedProtocolLevel(level)); // [MQTT-3.1.2-2]
        }
    };
    *known_version = Some(version);

    let flags = body.u8()?;
    let has = |flag| flags & flag != 0;
    // 3.1 does not use this bit, nor those of a will without a will (its section 3.1).
    let is_strict = version != ProtocolVersion::V31;
    if is_strict && has(connect_flag::RESERVED) {
        return Err(DecodeError::ConnectReservedFlag); // [MQTT-3.1.2-3]
    }
    // [MQTT-3.1.2-12]
    let will_bits = connect_flag::WILL_QOS | connect_flag::WILL_RETAIN;
    let will_flags = if is_strict || has(connect_flag::WILL) {
        flags & will_bits
    } else {
        0
    };
    let will_qos =
        QoS::from_bits((will_flags & connect_flag::WILL_QOS) >> 3).ok_or(DecodeError::WillQosThree)?;
    if !has(connect_flag::WILL) && will_flags != 0 {
        return Err(DecodeError::WillFlagsWithoutWill); // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
    }
    if version != ProtocolVersion::V5 && has(connect_flag::PASSWORD) && !has(connect_flag::USER_NAME) {
        return Err(DecodeError::PasswordWithoutUserName); // [MQTT-3.1.2-22 of 3.1.1]
    }

    let keep_alive_secs = body.u16()?;
    let properties = match version {
        ProtocolVersion::V5 => properties::connect(body)?,
        _ => ConnectProperties::default(),
    };
    // The payload, in the order of section 3.1.3 [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.3-4].
    let client_id = ClientId::new(body.string()?);
    let will = if has(connect_flag::WILL) {
        let properties = match version {
            ProtocolVersion::V5 => properties::will(body)?,
            _ => WillProperties::default(),
        };
        let topic = body.topic_name()?; // [MQTT-3.1.2-9] [MQTT-3.1.3-11]
        let payload = body.binary()?;
        Some(Will {
            topic,
            payload,
            qos: will_qos,
            retain: has(connect_flag::WILL_RETAIN),
            properties,
        })
    } else {
        None
    };
    // In 3.1 the end of the packet takes precedence over the flags of user name and password (its section
    // 3.1).
    let absent = |body: &Reader<'_>| version == ProtocolVersion::V31 && body.is_empty();
    let user_name = if has(connect_flag::USER_NAME) && !absent(body) {
        Some(body.string()?) // [MQTT-3.1.2-17] [MQTT-3.1.3-12]
    } else {
        None // [MQTT-3.1.2-16]
    };
    let password = if has(connect_flag::PASSWORD) && !absent(body) {
        Some(body.binary()?) // [MQTT-3.1.2-19]
    } else {
        None // [MQTT-3.1.2-18]
    };

    Ok(Connect {
        version,
        bridge,
        clean_start: has(connect_flag::CLEAN_START),
        keep_alive_secs,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

pub(super) fn connack(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<ConnAck, DecodeError> {
    let flags = body.u8()?;
    let code = body.u8()?;
    // The first byte is not used in 3.1 (its section 3.2).
    if version != ProtocolVersion::V31 && flags & 0xFE != 0 {
        return Err(DecodeError::ConnAckReservedFlag); // [MQTT-3.2.2-1]
    }
    let session_present = version != ProtocolVersion::V31 && flags == 1;
    // A server of 3.1.1 refuses 5.0 in its own words [MQTT-3.1.2-2 of 3.1.1]; in 5.0 there is no such
    // CONNACK.
    let refusal_of_v5 = version == ProtocolVersion::V5 && body.is_empty() && code == 1;
    let reason = if version == ProtocolVersion::V5 && !refusal_of_v5 {
        reasons::reason(Carrier::ConnAck, Side::Client, code)?
    } else {
        return_code::connack_from_v3(code).ok_or(DecodeError::ReasonCodeNotAllowed(code))?
    };
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::SessionPresentOnRefusal); // [MQTT-3.2.2-6]
    }
    let properties = if version == ProtocolVersion::V5 && !refusal_of_v5 {
        properties::connack(body)?
    } else {
        ConnAckProperties::default()
    };
    Ok(ConnAck {
        session_present,
        reason,
        properties,
    })
}

/// PUBLISH, the one packet that is worth a way of its own: it takes `packet` over, so the payload is what is
/// left of it and not one more handle.
pub(super) fn publish(
    first: u8,
    body_at: usize,
    mut packet: Bytes,
    version: ProtocolVersion,
    side: Side,
) -> Result<Packet, DecodeError> {
    let qos = QoS::from_bits((first >> 1) & 0b11).ok_or(DecodeError::QosThree)?; // [MQTT-3.3.1-4]
    let mut body = Reader::new(&packet, body_at);
    let topic = body.optional_topic_name()?; // [MQTT-3.3.2-1]
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(body.packet_id()?)
    }; // [MQTT-2.2.1-2]
    let properties = match version {
        ProtocolVersion::V5 => properties::publish(&mut body, side)?,
        _ => None,
    };
    if topic.is_none()
        && properties
            .as_ref()
            .is_none_or(|properties| properties.topic_alias.is_none())
    {
        return Err(DecodeError::TopicEmpty); // [MQTT-4.7.3-1], section 3.3.2.1
    }
    let payload_at = packet.len() - body.len();
    packet.advance(payload_at);
    Ok(Packet::Publish(Publish {
        dup: first & 0b1000 != 0,
        qos,
        retain: first & 0b0001 != 0,
        topic,
        packet_id,
        payload: packet,
        properties,
    }))
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
pub(super) fn ack(
    body: &mut Reader<'_>,
    version: ProtocolVersion,
    carrier: Carrier,
    side: Side,
) -> Result<Ack, DecodeError> {
    let packet_id = body.packet_id()?;
    // Both may be left out, from the end (section 3.4.2.1 and 3.4.2.2.1).
    if version != ProtocolVersion::V5 || body.is_empty() {
        return Ok(Ack::success(packet_id));
    }
    let reason = reasons::reason(carrier, side, body.u8()?)?;
    let properties = if body.is_empty() {
        None
    } else {
        properties::ack(body)?
    };
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

pub(super) fn subscribe(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<Subscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = match version {
        ProtocolVersion::V5 => properties::subscribe(body)?,
        _ => SubscribeProperties::default(),
    };
    let mut subscriptions = SmallVec::new();
    while !body.is_empty() {
        if subscriptions.len() >= FILTERS_MAX {
            return Err(DecodeError::TooManyFilters);
        }
        subscriptions.push(subscription(body, version)?);
    }
    if subscriptions.is_empty() {
        return Err(DecodeError::NoFilter); // [MQTT-3.8.3-2]
    }
    Ok(Subscribe {
        packet_id,
        subscriptions,
        properties,
    })
}

/// ```text
///   7 6       5 4                3                     2          1 0
///  reserved   retain handling    retain as published   no local   maximum QoS
/// ```
/// Before 5.0 all but the last two are reserved.
fn subscription(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<Subscription, DecodeError> {
    let filter = body.topic_filter()?; // [MQTT-3.8.3-1]
    let options = body.u8()?;
    let reserved = if version == ProtocolVersion::V5 {
        0xC0
    } else {
        0xFC
    };
    if options & reserved != 0 {
        return Err(DecodeError::SubscriptionOptionsReserved); // [MQTT-3.8.3-5]
    }
    let qos = QoS::from_bits(options & 0b11).ok_or(DecodeError::SubscriptionQosThree)?;
    let no_local = options & 0b100 != 0;
    if no_local && filter.share().is_some() {
        return Err(DecodeError::NoLocalOnShared); // [MQTT-3.8.3-4]
    }
    let retain_handling = match options >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::RetainHandlingThree),
    };
    Ok(Subscription {
        filter,
        qos,
        no_local,
        retain_as_published: options & 0b1000 != 0,
        retain_handling,
    })
}

pub(super) fn suback(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<SubAck, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = match version {
        ProtocolVersion::V5 => properties::ack(body)?,
        _ => None,
    };
    let mut reasons = SmallVec::new();
    while !body.is_empty() {
        let code = body.u8()?;
        reasons.push(match version {
            ProtocolVersion::V5 => reasons::reason(Carrier::SubAck, Side::Client, code)?,
            // [MQTT-3.9.3-2 of 3.1.1]
            _ => return_code::suback_from_v3(code).ok_or(DecodeError::ReasonCodeNotAllowed(code))?,
        });
    }
    if reasons.is_empty() {
        return Err(DecodeError::NoReasonCode); // [MQTT-3.8.4-6]
    }
    Ok(SubAck {
        packet_id,
        reasons,
        properties,
    })
}

pub(super) fn unsubscribe(
    body: &mut Reader<'_>,
    version: ProtocolVersion,
) -> Result<Unsubscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let user_properties = match version {
        ProtocolVersion::V5 => properties::unsubscribe(body)?,
        _ => Vec::new(),
    };
    let mut filters = SmallVec::new();
    while !body.is_empty() {
        if filters.len() >= FILTERS_MAX {
            return Err(DecodeError::TooManyFilters);
        }
        filters.push(body.topic_filter()?); // [MQTT-3.10.3-1]
    }
    if filters.is_empty() {
        return Err(DecodeError::NoFilter); // [MQTT-3.10.3-2]
    }
    Ok(Unsubscribe {
        packet_id,
        filters,
        user_properties,
    })
}

pub(super) fn unsuback(body: &mut Reader<'_>, version: ProtocolVersion) -> Result<UnsubAck, DecodeError> {
    let packet_id = body.packet_id()?;
    let mut reasons = SmallVec::new();
    if version != ProtocolVersion::V5 {
        return Ok(UnsubAck {
            packet_id,
            reasons,
            properties: None,
        });
    }
    let properties = properties::ack(body)?;
    while !body.is_empty() {
        reasons.push(reasons::reason(Carrier::UnsubAck, Side::Client, body.u8()?)?);
    }
    if reasons.is_empty() {
        return Err(DecodeError::NoReasonCode); // [MQTT-3.11.3-1]
    }
    Ok(UnsubAck {
        packet_id,
        reasons,
        properties,
    })
}

pub(super) fn disconnect(
    body: &mut Reader<'_>,
    version: ProtocolVersion,
    side: Side,
) -> Result<Disconnect, DecodeError> {
    // Both may be left out, from the end (sections 3.14.2.1 and 3.14.2.2.1).
    if version != ProtocolVersion::V5 || body.is_empty() {
        return Ok(Disconnect::default());
    }
    let reason = reasons::reason(Carrier::Disconnect, side, body.u8()?)?;
    let properties = if body.is_empty() {
        Default::default()
    } else {
        properties::disconnect(body, side)?
    };
    Ok(Disconnect { reason, properties })
}

pub(super) fn auth(body: &mut Reader<'_>, side: Side) -> Result<Auth, DecodeError> {
    if body.is_empty() {
        // Stands for Success without properties (section 3.15.2.1), which only a server may say (table 3-11).
        return Ok(Auth {
            reason: reasons::reason(Carrier::Auth, side, 0)?,
            ..Auth::default()
        });
    }
    let reason = reasons::reason(Carrier::Auth, side, body.u8()?)?;
    Ok(Auth {
        reason,
        properties: properties::auth(body)?,
    })
}
