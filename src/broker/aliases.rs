//! Topic aliases (section 3.3.2.3.4): what a client's stand for, and which topics get one towards it.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::Refusal;
use super::budget::{ALLOCATION_BYTES, Account, Budget, Charge, SHARED_BYTES, Use};
use crate::mqtt::TopicName;

/// What the topic aliases of one client stand for.
///
/// 1. It holds no more entries than the highest alias that was accepted.
#[derive(Debug)]
pub(super) struct IncomingAliases {
    topics: Vec<Option<TopicName>>,
    charge: Charge,
}

/// The topic aliases used towards one client.
///
/// The first topics get one with their first message. When all are taken a topic gets one when it is sent a second
/// time within a while, for an alias that is used once costs more than it saves; and it takes that of a topic which
/// was not sent for longer than that.
///
/// 1. Alias `n` stands for `entries[n - 1]`, and the client was sent both together.
/// 2. No topic has two aliases.
/// 3. It holds no more than `count_max` entries.
#[derive(Debug)]
pub(super) struct OutgoingAliases {
    entries: Vec<Entry>,
    count_max: usize,
    /// Messages sent so far, which is what time is counted in here.
    sends: u32,
    /// Which topics were sent lately: the higher half of a topic's hash, at the place its lower half says.
    heard: [u16; HEARD],
    hasher: FixedState,
    charge: Charge,
    /// Up to where they may fill the account of the memory budget.
    mark_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    topic: TopicName,
    hash: u32,
    last_sent: u32,
}

/// How a topic is named in a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its name.
    Name,
    /// By its name, and by this alias from now on, if [`OutgoingAliases::give`] is told that it was sent.
    Both(u16),
    /// By this alias.
    Alias(u16),
}

/// The most aliases used towards one client, whatever more it accepts: they are looked through one by one.
const ALIASES_MAX: usize = 64;

/// Topics remembered as sent lately; a power of two.
const HEARD: usize = 64;

/// The shortest topic that is worth an alias, in bytes: the alias takes three.
const TOPIC_BYTES_MIN: usize = 4;

impl IncomingAliases {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            topics: Vec::new(),
            charge: Charge::new(account, size_of::<Self>() + ALLOCATION_BYTES),
        }
    }

    /// What they cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }
    /// The topic of a PUBLISH that carries `alias`, which is at most `alias_max`.
    ///
    /// # Errors
    /// The rule the client broke, or that memory is short.
    pub(super) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: u16,
        alias_max: u16,
        budget: &Budget,
    ) -> Result<TopicName, Refusal> {
        if alias == 0 || alias > alias_max {
            return Err(Refusal::AliasTooHigh); // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
        }
        let index = usize::from(alias) - 1;
        let Some(topic) = topic else {
            let known = self.topics.get(index).cloned().flatten();
            return known.ok_or(Refusal::AliasUnknown);
        };
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        if let Some(known) = self.topics.get_mut(index)
            && known.as_ref() != Some(&topic)
        {
            *known = Some(topic.detached()); // [MQTT-3.3.2-12]
            self.charge_all(budget)?;
        }
        Ok(topic)
    }

    /// # Errors
    /// That memory is short, where they have come to cost more.
    #[inline(never)]
    fn charge_all(&mut self, budget: &Budget) -> Result<(), Refusal> {
        let texts = self.topics.iter().flatten();
        let texts: usize = texts.map(|topic| SHARED_BYTES + topic.as_str().len()).sum();
        let table = self.topics.capacity() * size_of::<Option<TopicName>>() + ALLOCATION_BYTES;
        let before = self.charge.bytes();
        self.charge
            .set(size_of::<Self>() + ALLOCATION_BYTES + table + texts);
        match self.charge.bytes() <= before || budget.allows(Use::Connection, 0) {
            true => Ok(()),
            false => Err(Refusal::MemoryShort),
        }
    }
}

impl OutgoingAliases {
    /// Aliases within the client's Topic Alias Maximum and our own [MQTT-3.1.2-26] [MQTT-3.3.2-11]; `None` where
    /// there are none [MQTT-3.1.2-27].
    pub(super) fn new(topic_alias_maximum: u16, budget: &Budget) -> Option<Self> {
        let count_max = usize::from(topic_alias_maximum).min(ALIASES_MAX);
        (count_max > 0).then(|| Self {
            entries: Vec::new(),
            count_max,
            sends: 0,
            heard: [0; HEARD],
            hasher: FixedState::with_seed(0),
            charge: Charge::new(&budget.account, 0),
            mark_bytes: budget.mark_bytes(Use::Connection),
        })
    }

    /// What the topics cost that have one.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// How `topic` is to be named in the PUBLISH that is sent next.
    pub(super) fn name(&mut self, topic: &TopicName) -> Naming {
        let text = topic.as_str();
        if text.len() < TOPIC_BYTES_MIN {
            return Naming::Name;
        }
        self.sends = self.sends.wrapping_add(1);
        let hash = self.hash(text);
        let known = self
            .entries
            .iter_mut()
            .position(|entry| entry.hash == hash && entry.topic.as_str() == text);
        if let Some(index) = known {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.last_sent = self.sends;
            }
            return alias(index).map_or(Naming::Name, Naming::Alias);
        }
        let mark = (hash >> 16) as u16 | 1; // never 0, which stands for nothing heard
        let place = hash as usize % HEARD;
        let heard = self
            .heard
            .get_mut(place)
            .map(|heard| std::mem::replace(heard, mark));
        if heard != Some(mark) && self.entries.len() >= self.count_max || !self.has_memory(text) {
            return Naming::Name;
        }
        match self.free() {
            Some(index) => alias(index).map_or(Naming::Name, Naming::Both),
            None => Naming::Name,
        }
    }

    /// Notes that the client was sent `topic` together with `alias`, which [`OutgoingAliases::name`] gave.
    pub(super) fn give(&mut self, alias: u16, topic: &TopicName) {
        let entry = Entry {
            topic: topic.detached(),
            hash: self.hash(topic.as_str()),
            last_sent: self.sends,
        };
        let index = usize::from(alias).saturating_sub(1);
        match self.entries.get_mut(index) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
        let texts = self.entries.iter();
        let texts: usize = texts.map(|entry| SHARED_BYTES + entry.topic.as_str().len()).sum();
        let table = self.entries.capacity() * size_of::<Entry>() + ALLOCATION_BYTES;
        self.charge.set(table + texts);
    }

    /// Whether there is memory for an alias of the topic `text`, and for the table to grow as it may.
    fn has_memory(&self, text: &str) -> bool {
        let table = self.count_max * size_of::<Entry>() + ALLOCATION_BYTES;
        self.charge.with_more(SHARED_BYTES + text.len() + table) <= self.mark_bytes
    }

    /// The place for a new alias: one that was never used, or that of a topic not sent for long.
    fn free(&self) -> Option<usize> {
        if self.entries.len() < self.count_max {
            return Some(self.entries.len());
        }
        let age = |entry: &Entry| self.sends.wrapping_sub(entry.last_sent);
        let oldest = (self.entries.iter().enumerate()).max_by_key(|(_, entry)| age(entry));
        // A topic that comes round before every alias would have been used this often keeps its own.
        let idle_min = 8 * self.count_max;
        oldest
            .filter(|(_, entry)| usize::try_from(age(entry)).unwrap_or(usize::MAX) >= idle_min)
            .map(|(index, _)| index)
    }

    fn hash(&self, text: &str) -> u32 {
        let hash = self.hasher.hash_one(text);
        (hash ^ (hash >> 32)) as u32 // any half will do
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut topics: Vec<_> = self.entries.iter().map(|entry| entry.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        if topics.len() != self.entries.len() || topics.len() > self.count_max {
            return Err(format!(
                "a topic has two aliases, or there are more than {}",
                self.count_max
            ));
        }
        Ok(())
    }
}

fn alias(index: usize) -> Option<u16> {
    u16::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;

    fn topic(number: u32) -> TopicName {
        TopicName::try_from(format!("site/sensor/{number}").as_str()).expect("a topic of the test")
    }

    fn budget() -> Budget {
        Budget::new(&Limits::default())
    }

    /// Names `topic`, as if it were sent.
    fn send(aliases: &mut OutgoingAliases, topic: &TopicName) -> Naming {
        let naming = aliases.name(topic);
        if let Naming::Both(alias) = naming {
            aliases.give(alias, topic);
        }
        aliases.check().expect("it holds what it promises");
        naming
    }

    #[test]
    fn while_there_are_aliases_left_a_topic_gets_one_with_its_first_message() {
        let mut aliases = OutgoingAliases::new(2, &budget()).expect("some");
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Both(1));
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Alias(1));
        assert_eq!(send(&mut aliases, &topic(2)), Naming::Both(2));
        assert_eq!(send(&mut aliases, &topic(3)), Naming::Name);
        assert_eq!(send(&mut aliases, &topic(2)), Naming::Alias(2));
    }

    #[test]
    fn an_alias_that_was_not_sent_is_not_used() {
        let mut aliases = OutgoingAliases::new(10, &budget()).expect("some");
        let topic = topic(1);
        for _ in 0..3 {
            assert_eq!(aliases.name(&topic), Naming::Both(1));
        }
    }

    #[test]
    fn a_short_topic_is_not_worth_an_alias() {
        let mut aliases = OutgoingAliases::new(10, &budget()).expect("some");
        let short = TopicName::try_from("a/b").expect("a topic");
        for _ in 0..3 {
            assert_eq!(send(&mut aliases, &short), Naming::Name);
        }
    }

    #[test]
    fn topics_that_are_sent_once_each_leave_the_aliases_alone() {
        let mut aliases = OutgoingAliases::new(4, &budget()).expect("some");
        for number in 1..=4 {
            assert_eq!(
                send(&mut aliases, &topic(u32::from(number))),
                Naming::Both(number)
            );
        }
        for number in 5..10_000 {
            assert_eq!(send(&mut aliases, &topic(number)), Naming::Name);
        }
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Alias(1));
    }

    #[test]
    fn topics_in_use_keep_their_aliases_and_forgotten_ones_give_theirs_up() {
        let mut aliases = OutgoingAliases::new(2, &budget()).expect("some");
        for number in [1, 1, 2, 2, 3, 3] {
            send(&mut aliases, &topic(number));
        }
        assert_eq!(aliases.name(&topic(3)), Naming::Name, "both are in use");
        for _ in 0..40 {
            assert_eq!(send(&mut aliases, &topic(1)), Naming::Alias(1));
        }
        send(&mut aliases, &topic(4));
        assert_eq!(send(&mut aliases, &topic(4)), Naming::Both(2));
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Alias(1));
        assert_eq!(send(&mut aliases, &topic(2)), Naming::Name);
    }

    #[test]
    fn while_memory_is_short_topics_get_no_aliases_and_keep_those_they_have() {
        let budget = Budget::new(&Limits {
            memory_bytes_max: 1_000_000,
            ..Limits::default()
        });
        let mut aliases = OutgoingAliases::new(2, &budget).expect("some");
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Both(1));
        let elsewhere = Charge::new(&budget.account, 900_000);
        send(&mut aliases, &topic(2));
        assert_eq!(send(&mut aliases, &topic(2)), Naming::Name);
        assert_eq!(send(&mut aliases, &topic(1)), Naming::Alias(1));
        drop(elsewhere);
        assert_eq!(send(&mut aliases, &topic(2)), Naming::Both(2));
    }

    #[test]
    fn a_client_that_accepts_none_gets_none() {
        assert!(OutgoingAliases::new(0, &budget()).is_none());
        assert_eq!(
            OutgoingAliases::new(u16::MAX, &budget()).map(|aliases| aliases.count_max),
            Some(ALIASES_MAX)
        );
    }
}
