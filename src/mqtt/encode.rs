//! Packets to bytes.
//!
//! Each packet's layout is written down once, over a [`Sink`]: one sink appends, another only counts. So the
//! lengths that stand before their content on the wire cannot disagree with it.

use bytes::{BufMut, Bytes, BytesMut};

use super::ids::{PacketId, ProtocolVersion, Utf8String};
use super::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, SubAck, Subscribe, Subscription, UnsubAck,
    Unsubscribe,
};
use super::properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UserProperties, WillProperties,
};
use super::property as id;
use super::reason::ReasonCode;
use super::return_code;
use super::topic::TopicName;

/// The largest Remaining Length four bytes can say (section 1.5.5).
const REMAINING_BYTES_MAX: usize = 268_435_455;

/// Appends `packet` to `out` as `version` writes it; leaves out what the version cannot say.
///
/// Appends nothing where the version cannot say the packet at all (AUTH before 5.0), and where the packet is
/// larger than any version can say (a Remaining Length over 268,435,455). The caller keeps binary fields
/// (password, payload of a will, correlation and authentication data) within the 65,535 bytes their length
/// can say, as the decoder does; what is longer is a bug, and cut.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) {
    if let Packet::Publish(publish) = packet {
        // The one packet that is worth a way of its own: its payload is not counted by walking over it.
        return encode_publish(publish, version, out);
    }
    let Some(first) = first_byte(packet, version) else {
        return;
    };
    let remaining = body_len(packet, version);
    if remaining > REMAINING_BYTES_MAX {
        debug_assert!(
            false,
            "a {} of {remaining} bytes fits into no packet",
            packet.name()
        );
        return;
    }
    out.reserve(5 + remaining);
    out.u8(first);
    out.varint(remaining);
    body(packet, version, out);
}

/// The length in bytes, fixed header included, that [`encode`] would append.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> usize {
    if first_byte(packet, version).is_none() {
        return 0;
    }
    let remaining = body_len(packet, version);
    if remaining > REMAINING_BYTES_MAX {
        0
    } else {
        1 + varint_len(remaining) + remaining
    }
}

/// The packet type with its flags (section 2.1); `None` where `version` does not have the packet.
fn first_byte(packet: &Packet, version: ProtocolVersion) -> Option<u8> {
    Some(match packet {
        Packet::Connect(_) => 0x10,
        Packet::ConnAck(_) => 0x20,
        Packet::Publish(publish) => publish_first_byte(publish),
        Packet::PubAck(_) => 0x40,
        Packet::PubRec(_) => 0x50,
        Packet::PubRel(_) => 0x62, // [MQTT-3.6.1-1]
        Packet::PubComp(_) => 0x70,
        Packet::Subscribe(_) => 0x82, // [MQTT-3.8.1-1]
        Packet::SubAck(_) => 0x90,
        Packet::Unsubscribe(_) => 0xA2, // [MQTT-3.10.1-1]
        Packet::UnsubAck(_) => 0xB0,
        Packet::PingReq => 0xC0,
        Packet::PingResp => 0xD0,
        Packet::Disconnect(_) => 0xE0,
        Packet::Auth(_) if version == ProtocolVersion::V5 => 0xF0,
        Packet::Auth(_) => return None,
    })
}

fn publish_first_byte(publish: &Publish) -> u8 {
    0x30 | u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain)
}

/// The Remaining Length of the packet.
fn body_len(packet: &Packet, version: ProtocolVersion) -> usize {
    let mut counted = Count(0);
    body(packet, version, &mut counted);
    counted.0
}

/// [`encode`] for a PUBLISH.
pub fn encode_publish(publish: &Publish, version: ProtocolVersion, out: &mut BytesMut) {
    let topic_len = publish.topic.as_ref().map_or(0, |topic| topic.as_str().len());
    let mut counted = Count(2 + topic_len + publish.payload.len());
    publish_middle(publish, version, &mut counted);
    let remaining = counted.0;
    if remaining > REMAINING_BYTES_MAX {
        debug_assert!(false, "a PUBLISH of {remaining} bytes fits into no packet");
        return;
    }
    out.reserve(5 + remaining);
    // Appending is dearer than the few bytes before the topic, so they are appended together.
    let mut head = Head::default();
    head.u8(publish_first_byte(publish));
    head.varint(remaining);
    head.u16(u16::try_from(topic_len).unwrap_or(u16::MAX)); // it is a UTF-8 Encoded String
    out.slice(head.bytes.get(..head.len).unwrap_or_default());
    out.slice(publish.topic.as_ref().map_or("", TopicName::as_str).as_bytes());
    publish_middle(publish, version, out);
    out.slice(&publish.payload);
}

/// Where the bytes go.
trait Sink {
    fn slice(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.slice(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.slice(&value.to_be_bytes());
    }

    /// A Variable Byte Integer (section 1.5.5), in as few bytes as possible [MQTT-1.5.5-1].
    fn varint(&mut self, value: usize) {
        let mut rest = value;
        while rest > 0x7F {
            self.u8(rest as u8 & 0x7F | 0x80);
            rest >>= 7;
        }
        self.u8(rest as u8);
    }

    fn packet_id(&mut self, packet_id: PacketId) {
        self.u16(packet_id.get());
    }

    /// Binary Data (section 1.5.6).
    fn binary(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        debug_assert_eq!(
            usize::from(len),
            bytes.len(),
            "binary data longer than its length can say"
        );
        self.u16(len);
        self.slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
    }

    /// A UTF-8 Encoded String (section 1.5.4).
    fn string(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }

    fn byte_property(&mut self, identifier: u8, value: Option<u8>) {
        if let Some(value) = value {
            self.slice(&[identifier, value]);
        }
    }

    fn flag_property(&mut self, identifier: u8, value: Option<bool>) {
        self.byte_property(identifier, value.map(u8::from));
    }

    fn u16_property(&mut self, identifier: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(identifier);
            self.u16(value);
        }
    }

    fn u32_property(&mut self, identifier: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(identifier);
            self.u32(value);
        }
    }

    fn varint_property(&mut self, identifier: u8, value: u32) {
        self.u8(identifier);
        self.varint(value as usize);
    }

    fn string_property(&mut self, identifier: u8, value: Option<&Utf8String>) {
        if let Some(value) = value {
            self.u8(identifier);
            self.string(value.as_str());
        }
    }

    fn binary_property(&mut self, identifier: u8, value: Option<&Bytes>) {
        if let Some(value) = value {
            self.u8(identifier);
            self.binary(value);
        }
    }

    fn user_properties(&mut self, properties: &UserProperties) {
        for (name, value) in properties {
            self.u8(id::USER_PROPERTY);
            self.string(name.as_str());
            self.string(value.as_str());
        }
    }
}

impl Sink for BytesMut {
    fn slice(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

/// The fixed header of a PUBLISH and the length of its topic, at most seven bytes.
#[derive(Default)]
struct Head {
    bytes: [u8; 8],
    len: usize,
}

impl Sink for Head {
    #[inline(always)]
    fn slice(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }
}

/// Counts instead of writing.
struct Count(usize);

impl Sink for Count {
    fn slice(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The content of a property section (section 2.2.2).
trait Section {
    fn write<S: Sink>(&self, out: &mut S);
}

/// Writes a property section: its length, then its content; an empty one is a length of 0 [MQTT-2.2.2-1].
fn section<S: Sink>(out: &mut S, properties: &impl Section) {
    let mut counted = Count(0);
    properties.write(&mut counted);
    out.varint(counted.0);
    properties.write(out);
}

fn body<S: Sink>(packet: &Packet, version: ProtocolVersion, out: &mut S) {
    match packet {
        Packet::Connect(packet) => connect(packet, out),
        Packet::ConnAck(packet) => connack(packet, version, out),
        Packet::Publish(packet) => publish_body(packet, version, out),
        Packet::PubAck(packet)
        | Packet::PubRec(packet)
        | Packet::PubRel(packet)
        | Packet::PubComp(packet) => {
            ack(packet, version, out);
        }
        Packet::Subscribe(packet) => subscribe(packet, version, out),
        Packet::SubAck(packet) => suback(packet, version, out),
        Packet::Unsubscribe(packet) => unsubscribe(packet, version, out),
        Packet::UnsubAck(packet) => unsuback(packet, version, out),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(packet) => disconnect(packet, version, out),
        Packet::Auth(packet) => auth(packet, out),
    }
}

/// CONNECT brings its own version.
fn connect<S: Sink>(packet: &Connect, out: &mut S) {
    let version = packet.version;
    out.string(if version == ProtocolVersion::V31 {
        "MQIsdp"
    } else {
        "MQTT"
    });
    let bridge = packet.bridge && version != ProtocolVersion::V5;
    out.u8(version as u8 | u8::from(bridge) << 7);

    // Before 5.0 a password needs a user name [MQTT-3.1.2-22 of 3.1.1].
    let password = packet
        .password
        .as_ref()
        .filter(|_| version == ProtocolVersion::V5 || packet.user_name.is_some());
    let mut flags = u8::from(packet.clean_start) << 1;
    if let Some(will) = &packet.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(password.is_some()) << 6 | u8::from(packet.user_name.is_some()) << 7;
    out.u8(flags);
    out.u16(packet.keep_alive_secs);

    if version == ProtocolVersion::V5 {
        section(out, &packet.properties);
    }
    out.string(
        packet
            .client_id
            .as_ref()
            .map_or("", |client_id| client_id.as_str()),
    );
    if let Some(will) = &packet.will {
        if version == ProtocolVersion::V5 {
            section(out, &will.properties);
        }
        out.string(will.topic.as_str());
        out.binary(&will.payload);
    }
    if let Some(user_name) = &packet.user_name {
        out.string(user_name.as_str());
    }
    if let Some(password) = password {
        out.binary(password);
    }
}

impl Section for ConnectProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_secs);
        out.u16_property(id::RECEIVE_MAXIMUM, self.receive_maximum);
        out.u32_property(id::MAXIMUM_PACKET_SIZE, self.packet_bytes_max);
        out.u16_property(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        out.flag_property(
            id::REQUEST_RESPONSE_INFORMATION,
            self.request_response_information,
        );
        out.flag_property(id::REQUEST_PROBLEM_INFORMATION, self.request_problem_information);
        out.string_property(id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        out.binary_property(id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
        out.user_properties(&self.user_properties);
    }
}

impl Section for WillProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(id::WILL_DELAY_INTERVAL, self.delay_secs);
        message_properties(&self.publish, out);
    }
}

fn connack<S: Sink>(packet: &ConnAck, version: ProtocolVersion, out: &mut S) {
    // [MQTT-3.2.2-6]; 3.1 does not use the byte.
    let present = packet.session_present && !packet.reason.is_error() && version != ProtocolVersion::V31;
    out.u8(u8::from(present));
    if version == ProtocolVersion::V5 {
        out.u8(packet.reason as u8);
        section(out, &packet.properties);
    } else {
        out.u8(return_code::connack_to_v3(packet.reason));
    }
}

impl Section for ConnAckProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_secs);
        out.u16_property(id::RECEIVE_MAXIMUM, self.receive_maximum);
        out.byte_property(id::MAXIMUM_QOS, self.maximum_qos.map(|qos| qos as u8));
        out.flag_property(id::RETAIN_AVAILABLE, self.retain_available);
        out.u32_property(id::MAXIMUM_PACKET_SIZE, self.packet_bytes_max);
        out.string_property(
            id::ASSIGNED_CLIENT_IDENTIFIER,
            self.assigned_client_id
                .as_ref()
                .map(|client_id| client_id.as_utf8()),
        );
        out.u16_property(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        out.string_property(id::REASON_STRING, self.reason_string.as_ref());
        out.flag_property(id::WILDCARD_SUBSCRIPTION_AVAILABLE, self.wildcard_available);
        out.flag_property(
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            self.subscription_ids_available,
        );
        out.flag_property(id::SHARED_SUBSCRIPTION_AVAILABLE, self.shared_available);
        out.u16_property(id::SERVER_KEEP_ALIVE, self.server_keep_alive_secs);
        out.string_property(id::RESPONSE_INFORMATION, self.response_information.as_ref());
        out.string_property(id::SERVER_REFERENCE, self.server_reference.as_ref());
        out.string_property(id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        out.binary_property(id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
        out.user_properties(&self.user_properties);
    }
}

fn publish_body<S: Sink>(packet: &Publish, version: ProtocolVersion, out: &mut S) {
    out.string(packet.topic.as_ref().map_or("", TopicName::as_str));
    publish_middle(packet, version, out);
    out.slice(&packet.payload);
}

/// What stands between topic and payload: mostly nothing, or a byte.
#[inline(always)]
fn publish_middle<S: Sink>(packet: &Publish, version: ProtocolVersion, out: &mut S) {
    debug_assert_eq!(
        packet.packet_id.is_some(),
        packet.qos != super::ids::QoS::AtMostOnce,
        "[MQTT-2.2.1-2]"
    );
    if let Some(packet_id) = packet.packet_id {
        out.packet_id(packet_id);
    }
    if version == ProtocolVersion::V5 {
        match &packet.properties {
            None => out.u8(0),
            Some(properties) => section(out, &**properties),
        }
    }
}

impl Section for PublishProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        message_properties(self, out);
        out.u16_property(id::TOPIC_ALIAS, self.topic_alias);
        for &subscription_id in &self.subscription_ids {
            out.varint_property(id::SUBSCRIPTION_IDENTIFIER, subscription_id);
        }
    }
}

/// The properties that PUBLISH and the will share.
fn message_properties<S: Sink>(properties: &PublishProperties, out: &mut S) {
    out.flag_property(id::PAYLOAD_FORMAT_INDICATOR, properties.payload_is_utf8);
    out.u32_property(id::MESSAGE_EXPIRY_INTERVAL, properties.message_expiry_secs);
    out.string_property(
        id::RESPONSE_TOPIC,
        properties.response_topic.as_ref().map(TopicName::as_utf8),
    );
    out.binary_property(id::CORRELATION_DATA, properties.correlation_data.as_ref());
    out.string_property(id::CONTENT_TYPE, properties.content_type.as_ref());
    out.user_properties(&properties.user_properties);
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
fn ack<S: Sink>(packet: &Ack, version: ProtocolVersion, out: &mut S) {
    out.packet_id(packet.packet_id);
    if version != ProtocolVersion::V5 {
        return;
    }
    match &packet.properties {
        // Both may be left out, from the end (sections 3.4.2.1 and 3.4.2.2.1).
        None if packet.reason == ReasonCode::Success => {}
        None => out.u8(packet.reason as u8),
        Some(properties) => {
            out.u8(packet.reason as u8);
            section(out, &**properties);
        }
    }
}

impl Section for AckProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.string_property(id::REASON_STRING, self.reason_string.as_ref());
        out.user_properties(&self.user_properties);
    }
}

/// Of SUBACK and UNSUBACK, which cannot leave the section out.
fn required_ack_properties<S: Sink>(properties: Option<&AckProperties>, out: &mut S) {
    match properties {
        None => out.u8(0),
        Some(properties) => section(out, properties),
    }
}

fn subscribe<S: Sink>(packet: &Subscribe, version: ProtocolVersion, out: &mut S) {
    out.packet_id(packet.packet_id);
    if version == ProtocolVersion::V5 {
        section(out, &packet.properties);
    }
    for subscription in &packet.subscriptions {
        out.string(subscription.filter.as_str());
        out.u8(subscription_options(subscription, version));
    }
}

fn subscription_options(subscription: &Subscription, version: ProtocolVersion) -> u8 {
    let qos = subscription.qos as u8;
    if version != ProtocolVersion::V5 {
        return qos; // [MQTT-3.8.3-4 of 3.1.1]
    }
    qos | u8::from(subscription.no_local) << 2
        | u8::from(subscription.retain_as_published) << 3
        | (subscription.retain_handling as u8) << 4
}

impl Section for SubscribeProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        if let Some(subscription_id) = self.subscription_id {
            out.varint_property(id::SUBSCRIPTION_IDENTIFIER, subscription_id);
        }
        out.user_properties(&self.user_properties);
    }
}

fn suback<S: Sink>(packet: &SubAck, version: ProtocolVersion, out: &mut S) {
    out.packet_id(packet.packet_id);
    if version == ProtocolVersion::V5 {
        required_ack_properties(packet.properties.as_deref(), out);
    }
    for &reason in &packet.reasons {
        out.u8(if version == ProtocolVersion::V5 {
            reason as u8
        } else {
            return_code::suback_to_v3(reason)
        });
    }
}

fn unsubscribe<S: Sink>(packet: &Unsubscribe, version: ProtocolVersion, out: &mut S) {
    out.packet_id(packet.packet_id);
    if version == ProtocolVersion::V5 {
        section(out, &packet.user_properties);
    }
    for filter in &packet.filters {
        out.string(filter.as_str());
    }
}

impl Section for UserProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.user_properties(self);
    }
}

fn unsuback<S: Sink>(packet: &UnsubAck, version: ProtocolVersion, out: &mut S) {
    out.packet_id(packet.packet_id);
    if version == ProtocolVersion::V5 {
        required_ack_properties(packet.properties.as_deref(), out);
        for &reason in &packet.reasons {
            out.u8(reason as u8);
        }
    }
}

fn disconnect<S: Sink>(packet: &Disconnect, version: ProtocolVersion, out: &mut S) {
    if version != ProtocolVersion::V5 {
        return;
    }
    // Both may be left out, from the end (sections 3.14.2.1 and 3.14.2.2.1).
    if packet.properties != DisconnectProperties::default() {
        out.u8(packet.reason as u8);
        section(out, &packet.properties);
    } else if packet.reason != ReasonCode::Success {
        out.u8(packet.reason as u8);
    }
}

impl Section for DisconnectProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(id::SESSION_EXPIRY_INTERVAL, self.session_expiry_secs);
        out.string_property(id::REASON_STRING, self.reason_string.as_ref());
        out.string_property(id::SERVER_REFERENCE, self.server_reference.as_ref());
        out.user_properties(&self.user_properties);
    }
}

fn auth<S: Sink>(packet: &Auth, out: &mut S) {
    // Both may be left out together (section 3.15.2.1).
    if packet.reason == ReasonCode::Success && packet.properties == AuthProperties::default() {
        return;
    }
    out.u8(packet.reason as u8);
    section(out, &packet.properties);
}

impl Section for AuthProperties {
    fn write<S: Sink>(&self, out: &mut S) {
        out.string_property(id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        out.binary_property(id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
        out.string_property(id::REASON_STRING, self.reason_string.as_ref());
        out.user_properties(&self.user_properties);
    }
}
