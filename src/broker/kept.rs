//! A message that outlives the call it came in.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{ALLOCATION_BYTES, Account, Charge, SHARED_BYTES};
use super::subscriptions::GroupKey;
use crate::hooks;
use crate::mqtt::{PublishProperties, QoS, TopicName, Utf8String};

/// A message kept for later: in a queue, in flight, retained, as a will.
///
/// 1. It owns its bytes: nothing in it shares the read buffer its packet came in, so keeping 64 bytes never
///    keeps 64 KiB.
/// 2. It is copied once and shared by all who wait for it; topic and payload share one allocation.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    /// Without topic alias and subscription identifiers, which belong to one delivery.
    pub(super) properties: Option<Box<PublishProperties>>,
    /// As published.
    pub(super) qos: QoS,
    /// When it has lost its meaning (Message Expiry Interval).
    pub(super) expires_at: Option<Instant>,
    /// What it counts against limits: topic, payload and properties.
    pub(super) size_bytes: usize,
    /// What it costs, once for all who wait for it.
    charge: Charge,
}

/// The Subscription Identifiers of one delivery; mostly none, and none takes no room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SubscriptionIds(Option<Rc<Vec<u32>>>);

/// A message on its way to one session.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) message: Rc<Kept>,
    pub(super) subscription_ids: SubscriptionIds,
    /// Of the delivery: the lower of what was published and what was granted.
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The shared subscription that chose this session; another member may take its place.
    pub(super) group: Option<GroupKey>,
    /// Whether it is not dropped to make room for others: its publisher was promised, or its reader has to go.
    pub(super) is_firm: bool,
}

impl Kept {
    /// Copies the parts of a message out of whatever buffer they share.
    pub(super) fn copy(
        account: &Account,
        topic: &TopicName,
        payload: &Bytes,
        properties: Option<&PublishProperties>,
        qos: QoS,
        expires_at: Option<Instant>,
    ) -> Self {
        let topic_bytes = topic.as_str().len();
        let mut bytes = Vec::with_capacity(topic_bytes + payload.len());
        bytes.extend_from_slice(topic.as_str().as_bytes());
        bytes.extend_from_slice(payload);
        let bytes = Bytes::from(bytes);
        let copied = Utf8String::from_bytes(bytes.slice(..topic_bytes)).ok();
        Self {
            topic: copied
                .and_then(|text| TopicName::parse(text).ok())
                .unwrap_or_else(|| topic.detached()),
            payload: bytes.slice(topic_bytes..),
            properties: properties.map(|properties| Box::new(detached_properties(properties))),
            qos,
            expires_at,
            size_bytes: topic.as_str().len() + payload.len() + properties.map_or(0, properties_bytes),
            charge: Charge::new(account, Self::cost_bytes(topic, payload, properties)),
        }
    }

    /// What any message costs beside its texts, in bytes; the two counts are those of `Rc`.
    pub(super) const BYTES_MIN: usize =
        size_of::<Self>() + 2 * size_of::<usize>() + ALLOCATION_BYTES + SHARED_BYTES;

    /// What a copy of these parts costs in memory.
    pub(super) fn cost_bytes(
        topic: &TopicName,
        payload: &Bytes,
        properties: Option<&PublishProperties>,
    ) -> usize {
        let texts = topic.as_str().len() + payload.len();
        Self::BYTES_MIN + texts + properties.map_or(0, properties_cost_bytes)
    }

    /// What it costs in memory.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// The same as a hook sees it.
    pub(super) fn as_seen(&self, retain: bool) -> hooks::Message<'_> {
        hooks::Message {
            topic: &self.topic,
            payload: &self.payload,
            qos: self.qos,
            retain,
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl Queued {
    /// What it counts against limits: the message, and the identifiers that go along.
    pub(super) fn size_bytes(&self) -> usize {
        self.message.size_bytes + size_of_val(self.subscription_ids.as_slice())
    }
}

impl SubscriptionIds {
    pub(super) fn new(ids: Vec<u32>) -> Self {
        Self((!ids.is_empty()).then(|| Rc::new(ids)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

/// When a message with `properties` that arrived `now` expires.
pub(super) fn expiry(properties: Option<&PublishProperties>, now: Instant) -> Option<Instant> {
    let secs = properties?.message_expiry_secs?;
    now.checked_add(Duration::from_secs(u64::from(secs)))
}

/// The bytes the variable parts of `properties` take, roughly as on the wire.
pub(super) fn properties_bytes(properties: &PublishProperties) -> usize {
    let text = |length: Option<usize>| length.map_or(0, |length| length + 3);
    let pairs = properties.user_properties.iter();
    8 + text(
        properties
            .response_topic
            .as_ref()
            .map(|topic| topic.as_str().len()),
    ) + text(properties.correlation_data.as_ref().map(Bytes::len))
        + text(properties.content_type.as_ref().map(|text| text.as_str().len()))
        + pairs
            .map(|(name, value)| name.as_str().len() + value.as_str().len() + 5)
            .sum::<usize>()
}

/// What a copy of `properties` costs in memory.
fn properties_cost_bytes(properties: &PublishProperties) -> usize {
    let strings = 3 + 2 * properties.user_properties.len();
    size_of::<PublishProperties>()
        + ALLOCATION_BYTES
        + properties.user_properties.len() * size_of::<(Utf8String, Utf8String)>()
        + strings * SHARED_BYTES
        + properties_bytes(properties)
}

/// A copy that shares no bytes with a read buffer.
pub(super) fn detached_properties(properties: &PublishProperties) -> PublishProperties {
    PublishProperties {
        payload_is_utf8: properties.payload_is_utf8,
        message_expiry_secs: properties.message_expiry_secs,
        topic_alias: properties.topic_alias,
        response_topic: properties.response_topic.as_ref().map(TopicName::detached),
        correlation_data: properties
            .correlation_data
            .as_ref()
            .map(|data| Bytes::copy_from_slice(data)),
        user_properties: (properties.user_properties.iter())
            .map(|(name, value)| (name.detached(), value.detached()))
            .collect(),
        subscription_ids: properties.subscription_ids.clone(),
        content_type: properties.content_type.as_ref().map(|text| text.detached()),
    }
}
