//! A message that outlives the call it came in.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{ALLOCATION_BYTES, Account, SHARED_BYTES};
use super::durable::Stamp;
use super::subscriptions::GroupKey;
use crate::hooks;
use crate::mqtt::{PublishProperties, QoS, TopicName, Utf8String};

/// A message kept for later: in a queue, in flight, retained, as a will.
///
/// 1. It owns its bytes: nothing in it shares the read buffer its packet came in, so keeping 64 bytes never
///    keeps 64 KiB.
/// 2. It is copied once and shared by all who wait for it. A short one takes two small pieces of memory, and its topic
///    and payload are copied once more for each packet; a long payload is shared by the packets, too.
#[derive(Debug)]
pub(super) struct Kept {
    /// The topic, and behind it the payload where that is short.
    texts: Box<[u8]>,
    rest: Option<Box<Rest>>,
    /// Where it is charged, once for all who wait for it.
    account: Account,
    topic_bytes: u16,
    /// As published.
    pub(super) qos: QoS,
    /// RETAIN, as published.
    pub(super) retain: bool,
    /// By which it is stored.
    pub(super) stamp: Cell<Stamp>,
}

/// What only some messages have.
#[derive(Debug)]
struct Rest {
    /// Without topic alias and subscription identifiers, which belong to one delivery.
    properties: Option<Box<PublishProperties>>,
    /// What these count against limits.
    properties_bytes: usize,
    expires_at: Option<Instant>,
    /// A payload that is not short; otherwise empty.
    payload: Bytes,
}

/// From how many bytes on a payload is shared by the packets it goes out in: copying less is cheaper than counting
/// owners.
const LONG_BYTES: usize = 1024;

/// What a packet needs of a message.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
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
    /// By which it is stored, in the order of the session's queue; 0 where it is not.
    pub(super) number: u64,
}

impl Kept {
    /// Copies the parts of a message out of whatever buffer they share.
    pub(super) fn copy(
        account: &Account,
        topic: &TopicName,
        payload: &Bytes,
        properties: Option<&PublishProperties>,
        (qos, retain): (QoS, bool),
        expires_at: Option<Instant>,
    ) -> Self {
        let topic = topic.as_str().as_bytes();
        let is_long = payload.len() >= LONG_BYTES;
        let short = if is_long { &[][..] } else { payload };
        let texts = [topic, short].concat().into_boxed_slice();
        let rest = (is_long || properties.is_some() || expires_at.is_some()).then(|| {
            Box::new(Rest {
                properties: properties.map(|properties| Box::new(detached_properties(properties))),
                properties_bytes: properties.map_or(0, properties_bytes),
                expires_at,
                payload: if is_long {
                    Bytes::copy_from_slice(payload)
                } else {
                    Bytes::new()
                },
            })
        });
        let kept = Self {
            texts,
            rest,
            account: account.clone(),
            topic_bytes: u16::try_from(topic.len())
                .expect("a topic has no more bytes than its length can say"),
            qos,
            retain,
            stamp: Cell::default(),
        };
        account.add(kept.charged_bytes());
        kept
    }

    /// What any message costs beside its texts, in bytes; the two counts are those of `Rc`.
    pub(super) const BYTES_MIN: usize = size_of::<Self>() + 2 * size_of::<usize>() + 2 * ALLOCATION_BYTES;

    /// What a copy of these parts costs in memory.
    pub(super) fn cost_bytes(
        topic: &TopicName,
        payload: &Bytes,
        properties: Option<&PublishProperties>,
        expires_at: Option<Instant>,
    ) -> usize {
        let texts = topic.as_str().len() + payload.len();
        let is_long = payload.len() >= LONG_BYTES;
        let has_rest = is_long || properties.is_some() || expires_at.is_some();
        Self::BYTES_MIN + texts + rest_cost_bytes(has_rest, is_long, properties)
    }

    /// What it costs in memory.
    pub(super) fn charged_bytes(&self) -> usize {
        let long_bytes = self.rest.as_ref().map_or(0, |rest| rest.payload.len());
        let rest = rest_cost_bytes(self.rest.is_some(), long_bytes > 0, self.properties());
        Self::BYTES_MIN + self.texts.len() + long_bytes + rest
    }

    /// The topic as text.
    pub(super) fn topic_str(&self) -> &str {
        let topic = self
            .texts
            .get(..usize::from(self.topic_bytes))
            .unwrap_or_default();
        std::str::from_utf8(topic).unwrap_or_default()
    }

    /// Whether its topic starts with `$`.
    pub(super) fn is_reserved(&self) -> bool {
        self.topic_str().starts_with('$')
    }

    /// A copy of the topic.
    pub(super) fn topic(&self) -> TopicName {
        TopicName::try_from(self.topic_str()).expect("what is kept as a topic was one")
    }

    /// The payload: a copy of a short one.
    pub(super) fn payload(&self) -> Bytes {
        match &self.rest {
            Some(rest) if !rest.payload.is_empty() => rest.payload.clone(),
            _ => Bytes::copy_from_slice(self.short_payload()),
        }
    }

    /// Both.
    pub(super) fn texts(&self) -> Texts {
        Texts {
            topic: self.topic(),
            payload: self.payload(),
        }
    }

    /// The payload where it is short; otherwise nothing.
    fn short_payload(&self) -> &[u8] {
        self.texts
            .get(usize::from(self.topic_bytes)..)
            .unwrap_or_default()
    }

    /// Without topic alias and subscription identifiers, which belong to one delivery.
    pub(super) fn properties(&self) -> Option<&PublishProperties> {
        self.rest.as_ref()?.properties.as_deref()
    }

    /// When it has lost its meaning (Message Expiry Interval).
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.rest.as_ref()?.expires_at
    }

    /// What it counts against limits: topic, payload and properties.
    pub(super) fn size_bytes(&self) -> usize {
        let rest = self.rest.as_ref();
        self.texts.len() + rest.map_or(0, |rest| rest.payload.len() + rest.properties_bytes)
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.account.take_off(self.charged_bytes());
    }
}

impl Texts {
    /// The same as a hook sees it.
    pub(super) fn as_seen(&self, qos: QoS, retain: bool) -> hooks::Message<'_> {
        hooks::Message {
            topic: &self.topic,
            payload: &self.payload,
            qos,
            retain,
        }
    }
}

impl Queued {
    /// What it counts against limits: the message, and the identifiers that go along.
    pub(super) fn size_bytes(&self) -> usize {
        self.message.size_bytes() + size_of_val(self.subscription_ids.as_slice())
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

/// What a message costs that is not plain and short, beside its texts.
fn rest_cost_bytes(has_rest: bool, is_long: bool, properties: Option<&PublishProperties>) -> usize {
    let own = if has_rest {
        size_of::<Rest>() + ALLOCATION_BYTES
    } else {
        0
    };
    let long = if is_long { SHARED_BYTES } else { 0 };
    own + long + properties.map_or(0, properties_cost_bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(account: &Account, payload: &Bytes, properties: Option<&PublishProperties>) -> Kept {
        let topic = TopicName::try_from("site/7/temperature").expect("a topic");
        let expires_at = properties.and_then(|properties| expiry(Some(properties), Instant::now()));
        let cost = Kept::cost_bytes(&topic, payload, properties, expires_at);
        let kept = Kept::copy(
            account,
            &topic,
            payload,
            properties,
            (QoS::AtLeastOnce, false),
            expires_at,
        );
        assert_eq!(
            (kept.charged_bytes(), account.bytes()),
            (cost, cost),
            "as was said before"
        );
        assert_eq!((kept.topic(), kept.payload()), (topic, payload.clone()));
        kept
    }

    #[test]
    fn a_message_is_what_was_kept_however_long_it_is_and_is_charged_until_it_is_gone() {
        for length in [0, 1, LONG_BYTES - 1, LONG_BYTES, 5 * LONG_BYTES] {
            let payload = Bytes::from(vec![b'x'; length]);
            let with_expiry = PublishProperties {
                message_expiry_secs: Some(5),
                ..PublishProperties::default()
            };
            for properties in [None, Some(&with_expiry)] {
                let account = Account::default();
                let kept = kept(&account, &payload, properties);
                assert_eq!(kept.properties(), properties);
                assert_eq!(kept.expires_at().is_some(), properties.is_some());
                assert_eq!(
                    kept.size_bytes(),
                    18 + length + properties.map_or(0, properties_bytes)
                );
                drop(kept);
                assert_eq!(account.bytes(), 0);
            }
        }
    }

    #[test]
    fn a_short_message_that_waits_costs_little_beside_its_own_bytes() {
        let account = Account::default();
        let kept = kept(&account, &Bytes::from(vec![b'x'; 64]), None);
        let own_bytes = kept.size_bytes();
        let waiting = kept.charged_bytes() + size_of::<Queued>();
        assert!(waiting <= own_bytes + 136, "{waiting} bytes for {own_bytes}");
    }
}
