//! Who wants what: the tree of topic filters.
//!
//! This file grows and prunes the tree; `node` is one level of it, `matching` walks it for a topic, `answers` remembers
//! what that found, and `target` is what it means for one session.

mod answers;
mod invariants;
mod matching;
mod node;
mod target;

use std::rc::Rc;

use foldhash::fast::FixedState;
use slotmap::SlotMap;

use self::answers::Answers;
use self::node::{NODE_BYTES, Node};
use super::budget::{ALLOCATION_BYTES, Account, Charge};
use super::session::SessionKey;
use crate::mqtt::{QoS, TopicFilter};

pub(super) use self::answers::Resolved;
pub(super) use self::target::Grant;

slotmap::new_key_type! {
    /// One level of one or more topic filters.
    pub(super) struct NodeKey;
    /// One shared subscription: a share name and a topic filter (section 4.8.2).
    pub(super) struct GroupKey;
}

/// All subscriptions of all sessions.
///
/// 1. A filter stands at exactly one node, reached from the root by its levels; `+` and `#` are nodes of
///    their own.
/// 2. A node's subscribers, and a group's members, are in the order of their session keys, each session once.
///    A node's groups are in the order of their share names, so that many on one filter are found as soon as few.
/// 3. A node without subscribers, groups and children does not exist, the root excepted; nor does an empty
///    group.
/// 4. `version` changes with every change, and no remembered answer is older than the version it carries.
#[derive(Debug)]
pub(super) struct Subscriptions {
    nodes: SlotMap<NodeKey, Node>,
    root: NodeKey,
    groups: SlotMap<GroupKey, Group>,
    count: usize,
    version: u64,
    answers: Answers,
    hasher: FixedState,
    scratch: Vec<Subscriber>,
    /// Nodes looked at since the start: what answering costs.
    #[cfg(test)]
    visited: std::cell::Cell<usize>,
    /// The bytes of all levels and share names.
    text_bytes: usize,
    /// What the tree costs.
    charge: Charge,
}

/// The options of one subscription (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    /// 0 where there is none.
    pub(super) subscription_id: u32,
}

/// Where a session's subscription stands in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: NodeKey,
    pub(super) group: Option<GroupKey>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Subscriber {
    pub(super) session: SessionKey,
    pub(super) options: Options,
}

#[derive(Debug)]
pub(super) struct Group {
    node: NodeKey,
    name: Rc<str>,
    members: Vec<Subscriber>,
    /// The member whose turn it is.
    next: usize,
}

/// What a subscriber costs: its entry at the node, its session's own entry for the place, and room to grow.
const ENTRY_BYTES: usize = (size_of::<Subscriber>() + size_of::<Place>()) * 3 / 2 + ALLOCATION_BYTES;

/// What a topic filter costs that shares all levels but one with others.
pub(super) const SUBSCRIPTION_BYTES_MIN: usize = NODE_BYTES + ENTRY_BYTES;

/// What a shared subscription costs.
const GROUP_BYTES: usize = size_of::<Group>() * 3 / 2 + 3 * ALLOCATION_BYTES;

impl Subscriptions {
    pub(super) fn new(seed: u64, account: &Account) -> Self {
        let mut nodes = SlotMap::with_key();
        let root = nodes.insert_with_key(|key| Node::new(key, "".into()));
        Self {
            nodes,
            root,
            groups: SlotMap::with_key(),
            count: 0,
            version: 1,
            answers: Answers::default(),
            hasher: FixedState::with_seed(seed),
            scratch: Vec::new(),
            #[cfg(test)]
            visited: std::cell::Cell::default(),
            text_bytes: 0,
            charge: Charge::new(account, 0),
        }
    }

    /// What one more subscription to `filter` costs at most.
    pub(super) fn cost_bytes_max(filter: &TopicFilter) -> usize {
        filter.levels().count() * NODE_BYTES + GROUP_BYTES + ENTRY_BYTES + filter.as_str().len()
    }

    fn charge_all(&mut self) {
        let nodes = (self.nodes.len() - 1) * NODE_BYTES; // the root costs no peer
        let groups = self.groups.len() * GROUP_BYTES;
        let entries = self.count * ENTRY_BYTES;
        self.charge.set(nodes + groups + entries + self.text_bytes);
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// The number of subscriptions of all sessions.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number of those that are shared.
    pub(super) fn shared_len(&self) -> usize {
        self.groups.values().map(|group| group.members.len()).sum()
    }

    /// Whether any filter starts with `level`.
    pub(super) fn has_level(&self, level: &str) -> bool {
        self.child(self.root, level).is_some()
    }

    /// Where `session` has subscribed to exactly `filter`.
    pub(super) fn find(&self, session: SessionKey, filter: &TopicFilter) -> Option<Place> {
        let mut node = self.root;
        for level in filter.levels() {
            node = self.child(node, level)?;
        }
        let node_ref = self.nodes.get(node)?;
        match filter.share() {
            None => position(&node_ref.subscribers, session)
                .ok()
                .map(|_| Place { node, group: None }),
            Some((name, _)) => {
                let group = *node_ref.groups.get(self.group_position(node, name).ok()?)?;
                let found = position(&self.groups[group].members, session);
                found.ok().map(|_| Place {
                    node,
                    group: Some(group),
                })
            }
        }
    }

    /// Subscribes, or changes the options of the subscription that is there [MQTT-3.8.4-3].
    pub(super) fn insert(&mut self, session: SessionKey, filter: &TopicFilter, options: Options) -> Place {
        let mut node = self.root;
        for level in filter.levels() {
            node = self.child_or_new(node, level);
        }
        let group = filter.share().map(|(name, _)| self.group_or_new(node, name));
        let list = match group {
            Some(group) => &mut self.groups[group].members,
            None => &mut self.nodes[node].subscribers,
        };
        let subscriber = Subscriber { session, options };
        match position(list, session) {
            Ok(index) => list[index] = subscriber,
            Err(index) => {
                list.insert(index, subscriber);
                self.count += 1;
            }
        }
        self.version += 1;
        self.charge_all();
        Place { node, group }
    }

    /// Takes the subscription of `session` at `place` out, and what nobody needs any more with it.
    pub(super) fn remove(&mut self, session: SessionKey, place: Place) {
        let list = match place.group {
            Some(group) => self.groups.get_mut(group).map(|group| &mut group.members),
            None => self.nodes.get_mut(place.node).map(|node| &mut node.subscribers),
        };
        let Some(list) = list else { return };
        let Ok(index) = position(list, session) else {
            return;
        };
        list.remove(index);
        if list.capacity() > 16 && list.len() * 4 < list.capacity() {
            list.shrink_to(list.len() * 2);
        }
        self.count -= 1;
        self.version += 1;
        if let Some(group) = place.group
            && self.groups[group].members.is_empty()
        {
            let ended = self.groups.remove(group);
            self.text_bytes -= ended.map_or(0, |group| group.name.len());
            self.nodes[place.node].groups.retain(|&mut other| other != group);
        }
        self.prune(place.node);
        self.charge_all();
    }

    /// The options of the subscription of `session` at `place`.
    pub(super) fn options(&self, session: SessionKey, place: Place) -> Option<Options> {
        let list = match place.group {
            Some(group) => &self.groups.get(group)?.members,
            None => &self.nodes.get(place.node)?.subscribers,
        };
        position(list, session).ok().map(|index| list[index].options)
    }

    /// The topic filter of `place`, with the share name before it where it is shared.
    pub(super) fn filter_text(&self, place: Place) -> String {
        let mut levels: Vec<&str> = Vec::new();
        let mut node = place.node;
        while node != self.root
            && let Some(known) = self.nodes.get(node)
        {
            levels.push(&known.level);
            node = known.parent;
        }
        levels.reverse();
        let matched = levels.join("/");
        match place.group.and_then(|group| self.groups.get(group)) {
            Some(group) => format!("$share/{}/{matched}", group.name),
            None => matched,
        }
    }

    /// The topic filter of a shared subscription, whole.
    pub(super) fn group_filter(&self, key: GroupKey) -> Option<TopicFilter> {
        let group = self.groups.get(key)?;
        let place = Place {
            node: group.node,
            group: Some(key),
        };
        TopicFilter::try_from(self.filter_text(place).as_str()).ok()
    }

    /// The name of a shared subscription, and all its members.
    pub(super) fn members(&self, group: GroupKey) -> (&str, &[Subscriber]) {
        let group = self.groups.get(group);
        group.map_or(("", &[]), |group| (&*group.name, group.members.as_slice()))
    }

    /// The members of a shared subscription from the one whose turn it is, and their number.
    pub(super) fn member(&self, group: GroupKey, turn: usize) -> Option<Subscriber> {
        let group = self.groups.get(group)?;
        if turn >= group.members.len() {
            return None;
        }
        group
            .members
            .get((group.next + turn) % group.members.len())
            .copied()
    }

    /// Makes it the turn of the member after the one `turn` places on.
    pub(super) fn advance(&mut self, group: GroupKey, turn: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.next = (group.next + turn + 1) % group.members.len().max(1);
        }
    }

    fn child(&self, node: NodeKey, level: &str) -> Option<NodeKey> {
        let node = self.nodes.get(node)?;
        match level {
            "+" => node.plus,
            "#" => node.hash,
            _ => node.children.get(&self.nodes, level),
        }
    }

    fn child_or_new(&mut self, node: NodeKey, level: &str) -> NodeKey {
        if let Some(child) = self.child(node, level) {
            return child;
        }
        let level: Rc<str> = level.into();
        let child = self.nodes.insert(Node::new(node, level.clone()));
        self.text_bytes += level.len();
        match &*level {
            "+" => self.nodes[node].plus = Some(child),
            "#" => self.nodes[node].hash = Some(child),
            _ => {
                let mut children = std::mem::take(&mut self.nodes[node].children);
                children.insert(&self.nodes, level, child, self.hasher.clone());
                self.nodes[node].children = children;
            }
        }
        child
    }

    /// Where the group `name` stands at `node`, or where it would.
    fn group_position(&self, node: NodeKey, name: &str) -> Result<usize, usize> {
        let name_of = |group: GroupKey| &*self.groups[group].name;
        (self.nodes[node].groups).binary_search_by(|&group| name_of(group).cmp(name))
    }

    fn group_or_new(&mut self, node: NodeKey, name: &str) -> GroupKey {
        let index = match self.group_position(node, name) {
            Ok(index) => return self.nodes[node].groups[index],
            Err(index) => index,
        };
        let group = self.groups.insert(Group {
            node,
            name: name.into(),
            members: Vec::new(),
            next: 0,
        });
        self.nodes[node].groups.insert(index, group);
        self.text_bytes += name.len();
        group
    }

    /// Removes `node` and its ancestors as far as nobody needs them.
    fn prune(&mut self, mut node: NodeKey) {
        while node != self.root && self.nodes[node].is_empty() {
            let Some(Node { parent, level, .. }) = self.nodes.remove(node) else {
                return;
            };
            self.text_bytes -= level.len();
            let above = &mut self.nodes[parent];
            match &*level {
                "+" => above.plus = None,
                "#" => above.hash = None,
                _ => above.children.remove(&level, node),
            }
            node = parent;
        }
    }
}

fn position(list: &[Subscriber], session: SessionKey) -> Result<usize, usize> {
    list.binary_search_by_key(&session, |subscriber| subscriber.session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicName;

    pub(super) const PLAIN: Options = Options {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };

    pub(super) fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    pub(super) fn reached(subscriptions: &mut Subscriptions, topic: &str) -> Vec<SessionKey> {
        let resolved = subscriptions.resolve(&TopicName::try_from(topic).unwrap());
        let sessions = resolved.targets.iter().map(|target| target.session).collect();
        subscriptions.put_back(resolved);
        sessions
    }

    #[test]
    fn many_children_of_one_level_are_found_and_forgotten() {
        let mut keys: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let key = keys.insert(());
        let mut subscriptions = Subscriptions::new(7, &Account::default());
        let places: Vec<_> = (0..100)
            .map(|number| subscriptions.insert(key, &filter(&format!("devices/{number}/set")), PLAIN))
            .collect();
        assert_eq!(reached(&mut subscriptions, "devices/42/set"), [key]);
        assert_eq!(reached(&mut subscriptions, "devices/100/set"), []);
        for place in places {
            subscriptions.remove(key, place);
            subscriptions.check().unwrap();
        }
        assert_eq!(subscriptions.nodes.len(), 1);
    }
}
