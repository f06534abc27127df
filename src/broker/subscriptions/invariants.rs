//! The walk over everything that [`Subscriptions`] promises, for tests.

use super::answers::ANSWERS_WEIGHT_MAX;
use super::{Place, Subscriber, Subscriptions};

impl Subscriptions {
    /// Every subscription with its place, for the walk over all state.
    pub(in crate::broker) fn iter(&self) -> impl Iterator<Item = (Subscriber, Place)> {
        let plain = self.nodes.iter().flat_map(|(node, content)| {
            content
                .subscribers
                .iter()
                .map(move |&subscriber| (subscriber, Place { node, group: None }))
        });
        let shared = self.groups.iter().flat_map(|(group, content)| {
            let place = Place {
                node: content.node,
                group: Some(group),
            };
            content.members.iter().map(move |&subscriber| (subscriber, place))
        });
        plain.chain(shared)
    }

    /// Walks over everything the type promises.
    pub(in crate::broker) fn check(&self) -> Result<(), String> {
        let ordered = |list: &[Subscriber]| list.is_sorted_by(|a, b| a.session < b.session);
        for (key, node) in &self.nodes {
            if key != self.root {
                if node.is_empty() {
                    return Err(format!("the node of level {:?} is of no use", node.level));
                }
                if self.child(node.parent, &node.level) != Some(key) {
                    return Err(format!(
                        "the node of level {:?} is not found from its parent",
                        node.level
                    ));
                }
            }
            if !ordered(&node.subscribers) {
                return Err(format!(
                    "the subscribers at level {:?} are out of order",
                    node.level
                ));
            }
            if node
                .groups
                .iter()
                .any(|&group| self.groups.get(group).is_none_or(|group| group.node != key))
            {
                return Err(format!("a shared subscription at level {:?} is gone", node.level));
            }
            if !node.groups.is_sorted_by_key(|&group| &self.groups[group].name) {
                return Err(format!(
                    "the shared subscriptions at level {:?} are out of order",
                    node.level
                ));
            }
        }
        for (key, group) in &self.groups {
            if group.members.is_empty() || !ordered(&group.members) {
                return Err(format!(
                    "the shared subscription {:?} is empty or out of order",
                    group.name
                ));
            }
            if !self
                .nodes
                .get(group.node)
                .is_some_and(|node| node.groups.contains(&key))
            {
                return Err(format!(
                    "the shared subscription {:?} is not found from its node",
                    group.name
                ));
            }
        }
        let count = self.iter().count();
        if count != self.count {
            return Err(format!(
                "{count} subscriptions are in the tree, {} are counted",
                self.count
            ));
        }
        let answers = self.answers.entries.iter();
        let weight: usize = answers.map(|answer| answer.resolved.weight).sum();
        if weight != self.answers.weight || weight > ANSWERS_WEIGHT_MAX {
            return Err(format!(
                "answers of weight {weight} are remembered, {} is counted, at most {ANSWERS_WEIGHT_MAX} may be",
                self.answers.weight
            ));
        }
        Ok(())
    }
}
