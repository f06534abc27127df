//! Who wants what: the tree of topic filters, and the answers it gave lately.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::FixedState;
use slotmap::SlotMap;
use smallvec::SmallVec;

use super::budget::{ALLOCATION_BYTES, Account, Charge};
use super::fan_out::Everyone;
use super::kept::SubscriptionIds;
use super::session::SessionKey;
use crate::mqtt::{QoS, TopicFilter, TopicName};

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

#[derive(Debug)]
struct Node {
    parent: NodeKey,
    level: Rc<str>,
    children: Children,
    plus: Option<NodeKey>,
    hash: Option<NodeKey>,
    subscribers: Vec<Subscriber>,
    groups: SmallVec<[GroupKey; 1]>,
}

/// The levels below a node that are no wildcards: few are looked through, many are hashed.
#[derive(Debug)]
enum Children {
    Few(SmallVec<[NodeKey; 2]>),
    #[allow(
        clippy::box_collection,
        reason = "most nodes have few children, and should be no larger for the others"
    )]
    Many(Box<HashMap<Rc<str>, NodeKey, FixedState>>),
}

/// Above this many children of one node a hash table is quicker.
const FEW_CHILDREN_MAX: usize = 8;

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

/// What a session gets of a message that matches: one delivery, whatever the number of its filters that
/// match.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grant {
    /// The highest of the matching filters.
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) subscription_ids: SubscriptionIds,
}

/// One session that a topic reaches.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) session: SessionKey,
    grant: Grant,
    own: OwnMessages,
}

/// What a session gets of the messages it published itself.
#[derive(Debug)]
enum OwnMessages {
    /// As of everybody's.
    Same,
    /// Nothing: every matching filter says No Local.
    Nothing,
    /// What is left without the filters that say No Local.
    Less(Box<Grant>),
}

/// Whom a topic reaches.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) targets: Vec<Target>,
    pub(super) groups: Vec<GroupKey>,
    /// Where that is all there is to know for a plain message.
    pub(super) everyone: Option<Everyone>,
    answer: Option<usize>,
    /// What it takes to remember it, in targets.
    weight: usize,
}

/// The answers for the topics published lately: a table that is overwritten, not searched.
#[derive(Debug, Default)]
struct Answers {
    entries: Vec<Answer>,
    /// The sum over all answers.
    weight: usize,
}

#[derive(Debug, Default)]
struct Answer {
    version: u64,
    topic: String,
    resolved: Resolved,
}

/// A power of two: the topics of a gateway's sensors, at some 100 bytes each.
const ANSWERS_MAX: usize = 256;

/// What all answers together may remember, in targets of some 40 bytes; shared subscriptions and subscription
/// identifiers count like targets.
const ANSWERS_WEIGHT_MAX: usize = 4096;

/// What a node costs with its level's text, its entry among the children of another, and the room tables grow into.
const NODE_BYTES: usize = size_of::<Node>() * 3 / 2 + 2 * ALLOCATION_BYTES + 48;

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
                let &group = node_ref
                    .groups
                    .iter()
                    .find(|&&group| &*self.groups[group].name == name)?;
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

    /// Whom `topic` reaches; give it back with [`Subscriptions::put_back`] when done.
    pub(super) fn resolve(&mut self, topic: &TopicName) -> Resolved {
        if self.count == 0 {
            return Resolved::default();
        }
        if self.answers.entries.is_empty() {
            self.answers.entries.resize_with(ANSWERS_MAX, Answer::default);
        }
        let hash = self.hasher.hash_one(topic.as_str());
        let slot = hash as usize % ANSWERS_MAX; // any part of the hash will do
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
    pub(super) fn put_back(&mut self, resolved: Resolved) {
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
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&Resolved, &Everyone)> {
        let answers = self
            .answers
            .entries
            .iter()
            .filter(|answer| answer.version == self.version);
        answers.filter_map(|answer| Some((&answer.resolved, answer.resolved.everyone.as_ref()?)))
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

    fn fill(&mut self, topic: &TopicName, resolved: &mut Resolved) {
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

    fn group_or_new(&mut self, node: NodeKey, name: &str) -> GroupKey {
        let known = self.nodes[node]
            .groups
            .iter()
            .find(|&&group| &*self.groups[group].name == name);
        if let Some(&group) = known {
            return group;
        }
        let group = self.groups.insert(Group {
            node,
            name: name.into(),
            members: Vec::new(),
            next: 0,
        });
        self.nodes[node].groups.push(group);
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

    /// Every subscription with its place, for the walk over all state.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Subscriber, Place)> {
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
    pub(super) fn check(&self) -> Result<(), String> {
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

impl Node {
    fn new(parent: NodeKey, level: Rc<str>) -> Self {
        Self {
            parent,
            level,
            children: Children::default(),
            plus: None,
            hash: None,
            subscribers: Vec::new(),
            groups: SmallVec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
            && self.groups.is_empty()
            && self.plus.is_none()
            && self.hash.is_none()
            && self.children.is_empty()
    }
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Children {
    fn get(&self, nodes: &SlotMap<NodeKey, Node>, level: &str) -> Option<NodeKey> {
        match self {
            Self::Few(few) => few.iter().copied().find(|&child| &*nodes[child].level == level),
            Self::Many(many) => many.get(level).copied(),
        }
    }

    fn insert(&mut self, nodes: &SlotMap<NodeKey, Node>, level: Rc<str>, child: NodeKey, hasher: FixedState) {
        match self {
            Self::Few(few) if few.len() < FEW_CHILDREN_MAX => few.push(child),
            Self::Few(few) => {
                let mut many = HashMap::with_hasher(hasher);
                many.extend(few.iter().map(|&child| (nodes[child].level.clone(), child)));
                many.insert(level, child);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => {
                many.insert(level, child);
            }
        }
    }

    fn remove(&mut self, level: &str, child: NodeKey) {
        match self {
            Self::Few(few) => few.retain(|&mut other| other != child),
            Self::Many(many) => {
                many.remove(level);
                if many.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }
}

impl Target {
    /// Puts the subscriptions of one session that match together.
    fn of(matching: &[Subscriber]) -> Self {
        let session = matching
            .first()
            .map(|subscriber| subscriber.session)
            .unwrap_or_default();
        let grant = Grant::of(matching.iter());
        let own = match matching
            .iter()
            .filter(|subscriber| subscriber.options.no_local)
            .count()
        {
            0 => OwnMessages::Same,
            count if count == matching.len() => OwnMessages::Nothing,
            _ => {
                let rest = matching.iter().filter(|subscriber| !subscriber.options.no_local);
                OwnMessages::Less(Box::new(Grant::of(rest)))
            }
        };
        Self { session, grant, own }
    }

    /// Whether the session gets the same whoever publishes.
    pub(super) fn is_for_any_publisher(&self) -> bool {
        matches!(self.own, OwnMessages::Same)
    }

    /// What the session gets of a message of `publisher` [MQTT-3.8.3-3].
    pub(super) fn grant(&self, publisher: Option<SessionKey>) -> Option<&Grant> {
        match &self.own {
            _ if publisher != Some(self.session) => Some(&self.grant),
            OwnMessages::Same => Some(&self.grant),
            OwnMessages::Nothing => None,
            OwnMessages::Less(grant) => Some(grant),
        }
    }
}

impl Grant {
    /// One delivery for overlapping subscriptions: the highest quality [MQTT-3.3.4-2], all identifiers
    /// [MQTT-3.3.4-3].
    pub(super) fn of<'a>(matching: impl Iterator<Item = &'a Subscriber>) -> Self {
        let mut grant = Self {
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            subscription_ids: SubscriptionIds::default(),
        };
        let mut ids = Vec::new();
        for Subscriber { options, .. } in matching {
            grant.qos = grant.qos.max(options.qos);
            grant.retain_as_published |= options.retain_as_published;
            if options.subscription_id != 0 {
                ids.push(options.subscription_id);
            }
        }
        grant.subscription_ids = SubscriptionIds::new(ids);
        grant
    }
}

fn position(list: &[Subscriber], session: SessionKey) -> Result<usize, usize> {
    list.binary_search_by_key(&session, |subscriber| subscriber.session)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options = Options {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).unwrap()
    }

    fn reached(subscriptions: &mut Subscriptions, topic: &str) -> Vec<SessionKey> {
        let resolved = subscriptions.resolve(&TopicName::try_from(topic).unwrap());
        let sessions = resolved.targets.iter().map(|target| target.session).collect();
        subscriptions.put_back(resolved);
        sessions
    }

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
