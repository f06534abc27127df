//! Retained messages (section 3.3.1.3): one for each topic, bounded, handed out in slices.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Instant;

use super::budget::{Account, Charge, RETAINED_BYTES};
use super::kept::Kept;
use crate::mqtt::{TopicFilter, TopicName};

/// The retained message of every topic, in the order of their names.
///
/// 1. Each message stands under its own topic.
/// 2. `size_bytes` is the sum over all messages.
/// 3. No message expires before `earliest_expiry`.
#[derive(Debug)]
pub(super) struct Retained {
    messages: BTreeMap<Key, Rc<Kept>>,
    size_bytes: usize,
    earliest_expiry: Option<Instant>,
    /// What the table costs; the messages in it are charged for themselves.
    charge: Charge,
}

/// Where a walk over retained messages stands: after the topic it holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cursor(Option<TopicName>);

#[derive(Debug, PartialEq, Eq)]
struct Key(TopicName);

impl Retained {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            messages: BTreeMap::new(),
            size_bytes: 0,
            earliest_expiry: None,
            charge: Charge::new(account, 0),
        }
    }

    /// What the message of `topic` costs.
    pub(super) fn cost_bytes(&self, topic: &TopicName) -> usize {
        let known = self.messages.get(topic.as_str());
        known.map_or(0, |message| message.charged_bytes() + RETAINED_BYTES)
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Keeps `message` in place of the one its topic had; whether there was room for it.
    ///
    /// Where there is none the old message goes all the same, for it would be taken for the last one
    /// published.
    pub(super) fn store(
        &mut self,
        message: &Rc<Kept>,
        now: Instant,
        count_max: usize,
        bytes_max: usize,
    ) -> bool {
        self.clear(&message.topic);
        if !self.has_room(message, count_max, bytes_max) {
            self.drop_expired(now);
            if !self.has_room(message, count_max, bytes_max) {
                return false;
            }
        }
        self.size_bytes += message.size_bytes;
        self.earliest_expiry = match (self.earliest_expiry, message.expires_at) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
        self.messages.insert(Key(message.topic.clone()), message.clone());
        self.charge.set(self.messages.len() * RETAINED_BYTES);
        true
    }

    /// Forgets the message of `topic`.
    pub(super) fn clear(&mut self, topic: &TopicName) {
        if let Some(message) = self.messages.remove(topic.as_str()) {
            self.size_bytes -= message.size_bytes;
            self.charge.set(self.messages.len() * RETAINED_BYTES);
        }
    }

    /// The next message that `filter` matches after `cursor`, which moves on to it.
    pub(super) fn next(&self, filter: &TopicFilter, cursor: &mut Cursor) -> Option<Rc<Kept>> {
        let matched = filter.matched();
        let prefix = matched.split(['+', '#']).next().unwrap_or(matched);
        // "sport/#" matches "sport" too, which comes before everything that starts with "sport/".
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let from = match &cursor.0 {
            Some(topic) => Bound::Excluded(topic.as_str()),
            None => Bound::Included(prefix),
        };
        let mut candidates = (self.messages.range::<str, _>((from, Bound::Unbounded)))
            .take_while(|(key, _)| key.0.as_str().starts_with(prefix));
        let (_, message) = candidates.find(|(key, _)| filter.matches(&key.0))?;
        cursor.0 = Some(message.topic.clone());
        Some(message.clone())
    }

    pub(super) fn drop_expired(&mut self, now: Instant) {
        if self.earliest_expiry.is_none_or(|at| at > now) {
            return;
        }
        let size_bytes = &mut self.size_bytes;
        self.messages.retain(|_, message| {
            let keep = !message.is_expired(now);
            if !keep {
                *size_bytes -= message.size_bytes;
            }
            keep
        });
        self.charge.set(self.messages.len() * RETAINED_BYTES);
        self.earliest_expiry = self
            .messages
            .values()
            .filter_map(|message| message.expires_at)
            .min();
    }

    fn has_room(&self, message: &Kept, count_max: usize, bytes_max: usize) -> bool {
        self.messages.len() < count_max && self.size_bytes.saturating_add(message.size_bytes) <= bytes_max
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Kept>> {
        self.messages.values()
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        let size_bytes: usize = self.messages.values().map(|message| message.size_bytes).sum();
        if size_bytes != self.size_bytes {
            return Err(format!(
                "{size_bytes} bytes are retained, {} are counted",
                self.size_bytes
            ));
        }
        for (key, message) in &self.messages {
            if key.0 != message.topic || message.payload.is_empty() {
                return Err(format!(
                    "the retained message of {} is not its own, or empty",
                    key.0
                ));
            }
            if let Some(at) = message.expires_at
                && self.earliest_expiry.is_none_or(|earliest| earliest > at)
            {
                return Err(format!("the retained message of {} expires unnoticed", key.0));
            }
        }
        Ok(())
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}
