//! Whom the topics published lately reach, so that the tree is not asked again.

use std::hash::BuildHasher;

use super::target::Target;
use super::{GroupKey, Subscriptions};
use crate::broker::fan_out::Everyone;
use crate::mqtt::TopicName;

/// Whom a topic reaches.
#[derive(Debug, Default)]
pub(in crate::broker) struct Resolved {
    pub(in crate::broker) targets: Vec<Target>,
    pub(in crate::broker) groups: Vec<GroupKey>,
    /// Where that is all there is to know for a plain message.
    pub(in crate::broker) everyone: Option<Everyone>,
    answer: Option<usize>,
    /// What it takes to remember it, in targets.
    pub(super) weight: usize,
}

/// The answers for the topics published lately: a table that is overwritten, not searched.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) entries: Vec<Answer>,
    /// The sum over all answers.
    pub(super) weight: usize,
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    version: u64,
    topic: String,
    pub(super) resolved: Resolved,
}

/// A power of two: the topics of a gateway's sensors, at some 100 bytes each.
const ANSWERS_MAX: usize = 256;

/// What all answers together may remember, in targets of some 40 bytes; shared subscriptions and subscription
/// identifiers count like targets.
pub(super) const ANSWERS_WEIGHT_MAX: usize = 4096;

impl Subscriptions {
    /// Everyone whom a plain message of `topic` reaches, where the last one found that out.
    pub(in crate::broker) fn everyone(&self, topic: &str) -> Option<&Everyone> {
        let answer = self.answers.entries.get(self.slot(topic))?;
        let holds = answer.version == self.version && answer.topic == topic;
        answer.resolved.everyone.as_ref().filter(|_| holds)
    }

    /// Where the answer for `topic` is remembered.
    fn slot(&self, topic: &str) -> usize {
        self.hasher.hash_one(topic) as usize % ANSWERS_MAX // any part of the hash will do
    }

    /// Whom `topic` reaches; give it back with [`Subscriptions::put_back`] when done.
    pub(in crate::broker) fn resolve(&mut self, topic: &TopicName) -> Resolved {
        if self.count == 0 {
            return Resolved::default();
        }
        if self.answers.entries.is_empty() {
            self.answers.entries.resize_with(ANSWERS_MAX, Answer::default);
        }
        let slot = self.slot(topic.as_str());
        let answer = &mut self.answers.entries[slot];
        let mut resolved = std::mem::take(&mut answer.resolved);
        self.answers.weight -= resolved.weight;
        resolved.answer = Some(slot);
        if answer.version == self.version && answer.topic == topic.as_str() {
            return resolved;
        }
        answer.version = self.version;
        answer.topic.clear();
        answer.topic.push_str(topic.as_str());
        resolved.targets.clear();
        resolved.groups.clear();
        resolved.everyone = None;
        self.fill(topic, &mut resolved);
        resolved
    }

    /// Remembers the answer for the next message of its topic.
    pub(in crate::broker) fn put_back(&mut self, resolved: Resolved) {
        let Some(slot) = resolved.answer else { return };
        let weight = resolved.weight;
        if weight > ANSWERS_WEIGHT_MAX {
            self.answers.entries[slot] = Answer::default();
            return;
        }
        if self.answers.weight + weight > ANSWERS_WEIGHT_MAX {
            self.answers.entries.clear();
            self.answers.entries.resize_with(ANSWERS_MAX, Answer::default);
            self.answers.weight = 0;
            return;
        }
        self.answers.weight += weight;
        self.answers.entries[slot].resolved = resolved;
    }

    /// The answers that still hold, where they name everyone.
    pub(in crate::broker) fn remembered(&self) -> impl Iterator<Item = (&Resolved, &Everyone)> {
        let answers = self
            .answers
            .entries
            .iter()
            .filter(|answer| answer.version == self.version);
        answers.filter_map(|answer| Some((&answer.resolved, answer.resolved.everyone.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::super::Options;
    use super::super::tests::{PLAIN, filter, reached};
    use super::*;
    use crate::broker::budget::Account;
    use crate::broker::session::SessionKey;

    #[test]
    fn a_remembered_answer_follows_every_change() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let (one, two) = (keys.insert(()), keys.insert(()));
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        let place = subscriptions.insert(one, &filter("a/+"), PLAIN);
        assert_eq!(reached(&mut subscriptions, "a/b"), [one]);
        assert_eq!(reached(&mut subscriptions, "a/b"), [one]);
        subscriptions.insert(two, &filter("a/#"), PLAIN);
        assert_eq!(reached(&mut subscriptions, "a/b"), [one, two]);
        subscriptions.remove(one, place);
        assert_eq!(reached(&mut subscriptions, "a/b"), [two]);
        subscriptions.check().unwrap();
    }

    #[test]
    fn answers_with_many_identifiers_and_shared_subscriptions_are_not_remembered_for_ever() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let key = keys.insert(());
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        for number in 1..=1000 {
            let options = Options {
                subscription_id: number,
                ..PLAIN
            };
            subscriptions.insert(
                key,
                &filter(&format!("{}#", "+/".repeat(number as usize % 20))),
                options,
            );
            subscriptions.insert(key, &filter(&format!("$share/group{number}/t/#")), PLAIN);
        }
        for number in 0..300 {
            reached(&mut subscriptions, &format!("t/{number}"));
            subscriptions.check().unwrap();
        }
    }

    #[test]
    fn more_targets_than_are_remembered_are_still_found() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        for _ in 0..3000 {
            let key = keys.insert(());
            subscriptions.insert(key, &filter("news/#"), PLAIN);
        }
        for _ in 0..3 {
            assert_eq!(reached(&mut subscriptions, "news/a").len(), 3000);
            assert_eq!(reached(&mut subscriptions, "news/b").len(), 3000);
            subscriptions.check().unwrap();
        }
    }
}
