//! The fifteen control packets (section 3), one type for every protocol version.

use bytes::Bytes;
use smallvec::SmallVec;

use super::ids::{ClientId, PacketId, ProtocolVersion, QoS, Utf8String};
use super::properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UserProperties, WillProperties,
};
use super::reason::ReasonCode;
use super::topic::{TopicFilter, TopicName};

/// An MQTT Control Packet.
///
/// What a version cannot carry (properties and most reason codes before 5.0) the decoder leaves at its default and
/// the encoder leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Box<Subscribe>),
    SubAck(Box<SubAck>),
    Unsubscribe(Box<Unsubscribe>),
    UnsubAck(Box<UnsubAck>),
    PingReq,
    PingResp,
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

/// CONNECT, connection request (section 3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// What the client speaks from here on.
    pub version: ProtocolVersion,
    /// Bit 7 of the protocol level, by which another broker says that it bridges (3.1 and 3.1.1 only; no standard).
    pub bridge: bool,
    /// Clean Start; Clean Session before 5.0.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// `None` asks the server to assign one.
    pub client_id: Option<ClientId>,
    /// The message to publish when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User Name.
    pub user_name: Option<Utf8String>,
    /// Password: binary data.
    pub password: Option<Bytes>,
    /// 5.0 only.
    pub properties: ConnectProperties,
}

/// The Will Message of CONNECT (sections 3.1.2.5 and 3.1.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where the message goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// At which quality it is published.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// 5.0 only.
    pub properties: WillProperties,
}

/// CONNACK, connect acknowledgement (section 3.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnAck {
    /// Whether the server resumed a stored session.
    pub session_present: bool,
    /// 3.1 and 3.1.1 carry the nearest of their five return codes.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: ConnAckProperties,
}

/// PUBLISH (section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Whether this may be a repetition (DUP).
    pub dup: bool,
    /// The quality of this delivery.
    pub qos: QoS,
    /// Store as, or sent because of, a retained message.
    pub retain: bool,
    /// `None` where a topic alias stands for it (5.0 only, section 3.3.2.3.4).
    pub topic: Option<TopicName>,
    /// Present exactly when `qos` is 1 or 2 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// The application message.
    pub payload: Bytes,
    /// 5.0 only; `None` when there are none.
    pub properties: Option<Box<PublishProperties>>,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7), which differ by their place only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The PUBLISH this answers.
    pub packet_id: PacketId,
    /// Success before 5.0.
    pub reason: ReasonCode,
    /// 5.0 only; `None` when there are none.
    pub properties: Option<Box<AckProperties>>,
}

/// SUBSCRIBE (section 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Echoed by SUBACK.
    pub packet_id: PacketId,
    /// At least one [MQTT-3.8.3-2].
    pub subscriptions: SmallVec<[Subscription; 1]>,
    /// 5.0 only.
    pub properties: SubscribeProperties,
}

/// One topic filter of SUBSCRIBE with its options (section 3.8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What to receive.
    pub filter: TopicFilter,
    /// The highest quality wanted.
    pub qos: QoS,
    /// Whether messages of this very client stay away; 5.0 only.
    pub no_local: bool,
    /// Whether the RETAIN flag passes through as it was published; 5.0 only.
    pub retain_as_published: bool,
    /// When retained messages are sent; 5.0 only, otherwise [`RetainHandling::Send`].
    pub retain_handling: RetainHandling,
}

/// Whether a subscription brings the retained messages with it (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send = 0,
    /// Only where the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK (section 3.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each topic filter, in its order [MQTT-3.8.4-6].
    pub reasons: SmallVec<[ReasonCode; 8]>,
    /// 5.0 only; `None` when there are none.
    pub properties: Option<Box<AckProperties>>,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Echoed by UNSUBACK.
    pub packet_id: PacketId,
    /// At least one [MQTT-3.10.3-2].
    pub filters: SmallVec<[TopicFilter; 1]>,
    /// 5.0 only.
    pub user_properties: UserProperties,
}

/// UNSUBACK (section 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each topic filter, in its order; not on the wire before 5.0 (the decoder leaves it empty).
    pub reasons: SmallVec<[ReasonCode; 8]>,
    /// 5.0 only; `None` when there are none.
    pub properties: Option<Box<AckProperties>>,
}

/// DISCONNECT (section 3.14).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disconnect {
    /// Success (Normal disconnection) before 5.0.
    pub reason: ReasonCode,
    /// 5.0 only.
    pub properties: DisconnectProperties,
}

/// AUTH, authentication exchange (section 3.15); 5.0 only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// The method and its data.
    pub properties: AuthProperties,
}

impl Ack {
    /// A plain acknowledgement: success, no properties.
    pub const fn success(packet_id: PacketId) -> Self {
        Self {
            packet_id,
            reason: ReasonCode::Success,
            properties: None,
        }
    }

    /// An acknowledgement with a reason and no properties.
    pub const fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: None,
        }
    }
}

impl Packet {
    /// The standard's name of the packet, for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "CONNECT",
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::PubAck(_) => "PUBACK",
            Self::PubRec(_) => "PUBREC",
            Self::PubRel(_) => "PUBREL",
            Self::PubComp(_) => "PUBCOMP",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::SubAck(_) => "SUBACK",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::UnsubAck(_) => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect(_) => "DISCONNECT",
            Self::Auth(_) => "AUTH",
        }
    }
}
