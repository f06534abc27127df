//! The walk through the tree for one topic (section 4.7).

use smallvec::SmallVec;

use super::answers::{ANSWERS_WEIGHT_MAX, Resolved};
use super::target::Target;
use super::{GroupKey, NodeKey, Subscriber, Subscriptions};
use crate::mqtt::TopicName;

impl Subscriptions {
    pub(super) fn fill(&mut self, topic: &TopicName, resolved: &mut Resolved) {
        let levels: SmallVec<[&str; 16]> = topic.levels().collect();
        let mut found = std::mem::take(&mut self.scratch);
        self.visit(
            self.root,
            &levels,
            topic.is_reserved(),
            &mut found,
            &mut resolved.groups,
        );
        found.sort_by_key(|subscriber| subscriber.session);
        for of_one_session in found.chunk_by(|a, b| a.session == b.session) {
            resolved.targets.push(Target::of(of_one_session));
        }
        let ids = |target: &Target| target.grant.subscription_ids.as_slice().len();
        let targets = resolved.targets.iter().map(|target| 1 + ids(target));
        resolved.weight = targets.sum::<usize>() + resolved.groups.len();
        found.clear();
        found.shrink_to(ANSWERS_WEIGHT_MAX);
        self.scratch = found;
    }

    /// Every subscription that `topic` matches, and the shared ones, without remembering the answer.
    pub(in crate::broker) fn matching(&self, topic: &TopicName) -> (Vec<Subscriber>, Vec<GroupKey>) {
        let levels: SmallVec<[&str; 16]> = topic.levels().collect();
        let (mut found, mut groups) = (Vec::new(), Vec::new());
        self.visit(self.root, &levels, topic.is_reserved(), &mut found, &mut groups);
        (found, groups)
    }

    /// Collects what matches `levels` below `node`, byte by byte [MQTT-3.3.2-3] [MQTT-4.7.3-4]; no deeper than the
    /// longest filter, which a limit bounds.
    fn visit(
        &self,
        node: NodeKey,
        levels: &[&str],
        no_wildcard: bool,
        found: &mut Vec<Subscriber>,
        groups: &mut Vec<GroupKey>,
    ) {
        #[cfg(test)]
        self.visited.update(|visited| visited + 1);
        let node = &self.nodes[node];
        if let Some(hash) = node.hash
            && !no_wildcard
        {
            self.collect(hash, found, groups); // "#" also matches the parent level, section 4.7.1.2
        }
        let Some((level, rest)) = levels.split_first() else {
            found.extend_from_slice(&node.subscribers);
            groups.extend_from_slice(&node.groups);
            return;
        };
        if let Some(child) = node.children.get(&self.nodes, level) {
            self.visit(child, rest, false, found, groups);
        }
        if let Some(plus) = node.plus
            && !no_wildcard
        // [MQTT-4.7.2-1]
        {
            self.visit(plus, rest, false, found, groups);
        }
    }

    fn collect(&self, node: NodeKey, found: &mut Vec<Subscriber>, groups: &mut Vec<GroupKey>) {
        found.extend_from_slice(&self.nodes[node].subscribers);
        groups.extend_from_slice(&self.nodes[node].groups);
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
    use crate::mqtt::TopicFilter;

    /// Every filter and topic of up to three levels from a small alphabet.
    fn texts(alphabet: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = alphabet.iter().map(|&level| level.to_string()).collect();
        for _ in 0..2 {
            let longer: Vec<_> = all
                .iter()
                .flat_map(|head| alphabet.iter().map(move |level| format!("{head}/{level}")))
                .collect();
            all.extend(longer);
        }
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn the_tree_matches_as_the_definition_of_section_4_7_does() {
        let mut keys: SlotMap<SessionKey, TopicFilter> = SlotMap::with_key();
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        for text in texts(&["a", "", "$b", "+", "#"]) {
            if let Ok(filter) = TopicFilter::try_from(text.as_str()) {
                let key = keys.insert(filter.clone());
                subscriptions.insert(key, &filter, PLAIN);
            }
        }
        subscriptions.check().unwrap();
        for text in texts(&["a", "", "$b"]) {
            let Ok(topic) = TopicName::try_from(text.as_str()) else {
                continue;
            };
            let expected: Vec<_> = keys
                .iter()
                .filter(|(_, filter)| filter.matches(&topic))
                .map(|(key, _)| key)
                .collect();
            assert_eq!(reached(&mut subscriptions, &text), expected, "{text}");
        }
        let places: Vec<_> = subscriptions.iter().collect();
        for (subscriber, place) in places {
            subscriptions.remove(subscriber.session, place);
            subscriptions.check().unwrap();
        }
        assert_eq!((subscriptions.nodes.len(), subscriptions.len()), (1, 0));
    }

    #[test]
    fn wildcards_cost_no_more_than_the_filters_that_hold_them() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let key = keys.insert(());
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        // Every mixture of `+` and `a` in ten levels: each level of a topic doubles the ways through the tree.
        for mixture in 0..1024_u32 {
            let levels: Vec<&str> = (0..10)
                .map(|bit| ["a", "+"][(mixture >> bit & 1) as usize])
                .collect();
            subscriptions.insert(key, &filter(&levels.join("/")), PLAIN);
        }
        assert_eq!(subscriptions.nodes.len(), 2047);
        assert_eq!(reached(&mut subscriptions, &["a"; 10].join("/")), [key]);
        assert_eq!(subscriptions.visited.take(), 2047, "each node once");
        // Levels below what anybody asked for cost nothing.
        assert_eq!(reached(&mut subscriptions, &["a"; 32].join("/")), []);
        assert_eq!(subscriptions.visited.take(), 2047);
        assert_eq!(reached(&mut subscriptions, &["b"; 32].join("/")), []);
        assert_eq!(subscriptions.visited.take(), 11);
        // What was asked before is remembered.
        assert_eq!(reached(&mut subscriptions, &["a"; 10].join("/")), [key]);
        assert_eq!(subscriptions.visited.take(), 0);
        subscriptions.check().unwrap();
    }

    #[test]
    fn a_hundred_thousand_overlapping_filters_are_each_looked_at_once() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        for _ in 0..1000 {
            let key = keys.insert(());
            for number in 0..100 {
                let filter = filter(&format!("{}#", "+/".repeat(number % 30)));
                subscriptions.insert(
                    key,
                    &filter,
                    Options {
                        subscription_id: 7,
                        ..PLAIN
                    },
                );
            }
        }
        assert_eq!(
            subscriptions.len(),
            30_000,
            "a filter that is there already is replaced"
        );
        assert_eq!(reached(&mut subscriptions, &["a"; 32].join("/")).len(), 1000);
        assert!(subscriptions.visited.take() <= 60);
        subscriptions.check().unwrap();
        for _ in 0..100_000 - 30_000 {
            let (key, number) = (keys.insert(()), subscriptions.len());
            subscriptions.insert(key, &filter(&format!("a/{number}/#")), PLAIN);
        }
        assert_eq!(reached(&mut subscriptions, "a/30001/x").len(), 1001);
        assert!(subscriptions.visited.take() <= 10);
    }
}
