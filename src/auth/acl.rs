//! Access rules: who may do what with which topics. The first rule that fits decides; where none does, the answer is
//! no.

pub mod mosquitto;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Identity;
use super::access::{Action, Who};
use crate::mqtt::{ClientId, TopicError, TopicFilter, Utf8String};

/// Access rules in their order, sorted by whom they bind.
///
/// 1. Every list of rules is in the order of the rules, without a rule twice.
/// 2. The rules of a group stand in the list of each of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    rules: Vec<Rule>,
    /// Those that bind every client.
    everybody: Vec<usize>,
    /// Those that bind clients without a user name.
    anonymous: Vec<usize>,
    /// Those that bind one user, by name or as a member of a group.
    users: BTreeMap<Utf8String, Vec<usize>>,
    groups: BTreeMap<String, Group>,
    /// What holds where no rule fits.
    otherwise: Effect,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub effect: Effect,
    /// To which actions.
    pub actions: Actions,
    /// With which topics.
    pub topics: Topics,
    /// Only where they are one client's; `None`: by whatever client.
    pub client: Option<ClientId>,
    /// Where it is written.
    pub source: Source,
}

/// Whom a rule binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// Every client.
    Everybody,
    /// Clients without a user name.
    Anonymous,
    /// One user.
    User(Utf8String),
    /// The members of a group that is known already.
    Group(String),
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It grants.
    Allow,
    /// It refuses.
    Deny,
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions(u8);

/// The topics of a rule: a topic filter in which the levels `%c` and `%u` may stand for the client's identifier and its
/// user name.
///
/// A name is put in literally and as one level, so one that looks like a filter is no filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    filter: TopicFilter,
    /// Whether `%c` stands for the client identifier.
    names_client: bool,
    /// Whether `%u` stands for the user name.
    names_user: bool,
    /// What every topic in it begins with.
    prefix_bytes: usize,
}

/// Where a rule is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, as it was named by whoever asked.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

/// An answer, and what decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why.
    pub reason: Reason<'a>,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'a> {
    /// The first rule that fits.
    Rule(&'a Rule),
    /// The client's name cannot stand in the topics of this rule, so nothing behind it is asked.
    Name(&'a Rule, AmbiguousName),
    /// No rule fits.
    NoRule,
    /// There are no rules.
    NoAcl,
    /// The topic begins with `$` and is the server's.
    Reserved,
    /// The gateway itself asks.
    Gateway,
}

/// A name that would be more than one level of a topic, or a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmbiguousName {
    /// The client identifier, where a rule has `%c`.
    Client,
    /// The user name, where a rule has `%u`.
    User,
}

/// Why text cannot be the topics of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicsError {
    /// It is no topic filter.
    Filter(TopicError),
    /// It is a shared subscription, whose share name no rule is asked about.
    Shared,
    /// `%c` or `%u` beside other characters in its level.
    Placeholder,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    members: Vec<Utf8String>,
    rules: Vec<usize>,
}

impl Acl {
    /// Rules that are still to come; `otherwise` holds where none of them fits.
    pub fn new(otherwise: Effect) -> Self {
        Self {
            rules: Vec::new(),
            everybody: Vec::new(),
            anonymous: Vec::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            otherwise,
        }
    }

    /// Makes a group known, before the rules that name it.
    pub fn add_group(&mut self, name: &str, members: Vec<Utf8String>) {
        let rules = Vec::new();
        self.groups.insert(name.to_owned(), Group { members, rules });
    }

    /// Whether there is such a group.
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// Adds the next rule; one for a group that is not known binds nobody.
    pub fn push(&mut self, whom: &Whom, rule: Rule) {
        let index = self.rules.len();
        self.rules.push(rule);
        match whom {
            Whom::Everybody => self.everybody.push(index),
            Whom::Anonymous => self.anonymous.push(index),
            Whom::User(name) => self.users.entry(name.clone()).or_default().push(index),
            Whom::Group(name) => {
                let Some(group) = self.groups.get_mut(name) else {
                    return;
                };
                group.rules.push(index);
                for member in &group.members {
                    let rules = self.users.entry(member.clone()).or_default();
                    if rules.last() != Some(&index) {
                        rules.push(index);
                    }
                }
            }
        }
    }

    /// Takes a user into a group as well; whether there is such a group.
    pub fn join(&mut self, user: &Utf8String, group: &str) -> bool {
        let Some(group) = self.groups.get(group) else {
            return false;
        };
        let rules = self.users.entry(user.clone()).or_default();
        rules.extend(&group.rules);
        rules.sort_unstable();
        rules.dedup();
        true
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule for `identity` asks for the client identifier.
    pub fn asks_for_client(&self, identity: &Identity) -> bool {
        let mut rules = self.rules_for(identity);
        rules.any(|rule| rule.client.is_some() || rule.topics.names_client)
    }

    /// Whether `who` may do `action` with `topic`, a topic name or for [`Action::Subscribe`] a topic filter without its
    /// share name, which is to be inside a rule's topics as a whole.
    ///
    /// Costs as much as there are rules for that user.
    pub fn decide(&self, who: Who<'_>, action: Action, topic: &str) -> Decision<'_> {
        match who.groups.is_empty() {
            true => self.decide_by(self.rules_for(who.identity), who, action, topic),
            false => self.decide_by(self.rules_for_member(who), who, action, topic),
        }
    }

    fn decide_by<'a>(
        &'a self,
        rules: impl Iterator<Item = &'a Rule>,
        who: Who<'_>,
        action: Action,
        topic: &str,
    ) -> Decision<'a> {
        for rule in rules {
            if !rule.actions.contains(action) || !rule.is_for(who) {
                continue;
            }
            if let Some(name) = rule.topics.ambiguity(who) {
                return Decision {
                    allowed: false,
                    reason: Reason::Name(rule, name),
                };
            }
            if rule.topics.cover(topic, who) {
                return Decision {
                    allowed: rule.effect == Effect::Allow,
                    reason: Reason::Rule(rule),
                };
            }
        }
        Decision {
            allowed: self.otherwise == Effect::Allow,
            reason: Reason::NoRule,
        }
    }

    /// The name by which `who` cannot be let in, because a rule has it stand in topics.
    pub fn ambiguity(&self, who: Who<'_>) -> Option<AmbiguousName> {
        let mut rules = self.rules_for_member(who).filter(|rule| rule.is_for(who));
        rules.find_map(|rule| rule.topics.ambiguity(who))
    }

    /// The rules that bind `who` with those of its groups, in their order; a group that is not known has none.
    fn rules_for_member<'a>(&'a self, who: Who<'_>) -> impl Iterator<Item = &'a Rule> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let groups = who.groups.names().iter();
            let of_groups = groups.filter_map(|name| self.groups.get(name.as_str()));
            let lists = [self.own_rules(who.identity), self.everybody.as_slice()].into_iter();
            let lists = lists.chain(of_groups.map(|group| group.rules.as_slice()));
            let firsts = lists.filter_map(|list| list.get(list.partition_point(|&rule| rule < from)));
            let next = *firsts.min()?;
            from = next + 1;
            self.rules.get(next)
        })
    }

    /// Those that bind `identity` and not everybody.
    fn own_rules(&self, identity: &Identity) -> &[usize] {
        match identity {
            Identity::Anonymous => self.anonymous.as_slice(),
            Identity::User(name) => self.users.get(name).map_or(&[][..], Vec::as_slice),
            Identity::Gateway => &[],
        }
    }

    /// The rules that bind `identity`, in their order.
    fn rules_for(&self, identity: &Identity) -> impl Iterator<Item = &Rule> {
        let mut own = self.own_rules(identity).iter().peekable();
        let mut everybody = self.everybody.iter().peekable();
        std::iter::from_fn(move || {
            let is_own_turn = match (own.peek(), everybody.peek()) {
                (Some(own), Some(everybody)) => own < everybody,
                (own, _) => own.is_some(),
            };
            let next = if is_own_turn { own.next() } else { everybody.next() };
            self.rules.get(*next?)
        })
    }
}

impl Rule {
    fn is_for(&self, who: Who<'_>) -> bool {
        self.client.is_none() || self.client.as_ref() == who.client
    }
}

impl Actions {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// To send, a will included.
    pub const PUBLISH: Self = Self(1);
    /// To ask for a topic filter.
    pub const SUBSCRIBE: Self = Self(2);
    /// To be handed messages.
    pub const RECEIVE: Self = Self(4);
    /// To subscribe and to receive.
    pub const READ: Self = Self(6);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// The words for them.
    pub const WORDS: [(&'static str, Self); 7] = [
        ("publish", Self::PUBLISH),
        ("write", Self::PUBLISH),
        ("subscribe", Self::SUBSCRIBE),
        ("receive", Self::RECEIVE),
        ("read", Self::READ),
        ("readwrite", Self::ALL),
        ("all", Self::ALL),
    ];

    /// The actions a word means.
    pub fn of_word(word: &str) -> Option<Self> {
        let known = Self::WORDS.iter().find(|(name, _)| *name == word);
        known.map(|(_, actions)| *actions)
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn contains(self, action: Action) -> bool {
        self.0 & Self::of(action).0 != 0
    }

    /// The set of one action.
    pub const fn of(action: Action) -> Self {
        match action {
            Action::Publish => Self::PUBLISH,
            Action::Subscribe => Self::SUBSCRIBE,
            Action::Receive => Self::RECEIVE,
        }
    }
}

/// What stands for the client identifier, alone in its level.
const CLIENT: &str = "%c";

/// What stands for the user name, alone in its level.
const USER: &str = "%u";

impl Topics {
    /// The topics of a filter in which `%c` and `%u` are text like any other.
    ///
    /// # Errors
    /// [`TopicsError::Filter`] and [`TopicsError::Shared`].
    pub fn literal(text: &str) -> Result<Self, TopicsError> {
        let filter = TopicFilter::try_from(text).map_err(TopicsError::Filter)?;
        match filter.share() {
            Some(_) => Err(TopicsError::Shared),
            None => Ok(filter.into()),
        }
    }

    /// The topics of a filter in which `%c` and `%u` stand for names.
    ///
    /// # Errors
    /// [`TopicsError`].
    pub fn pattern(text: &str) -> Result<Self, TopicsError> {
        let mut topics = Self::literal(text)?;
        let mut prefix_bytes = 0;
        for level in text.split('/') {
            match level {
                CLIENT => topics.names_client = true,
                USER => topics.names_user = true,
                _ if level.contains(CLIENT) || level.contains(USER) => return Err(TopicsError::Placeholder),
                _ if topics.names_client || topics.names_user => {}
                _ => prefix_bytes += level.len() + 1,
            }
        }
        // The slash before the first name may be missing from no topic; a wildcard may have ended the prefix before.
        topics.prefix_bytes = topics.prefix_bytes.min(prefix_bytes);
        Ok(topics)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.filter.as_str()
    }

    /// Whether `topic`, a name or a filter, is inside of it for `who`, whose names are no ambiguity.
    fn cover(&self, topic: &str, who: Who<'_>) -> bool {
        let filter = self.filter.matched();
        let prefix = filter.as_bytes().get(..self.prefix_bytes).unwrap_or_default();
        if !topic.as_bytes().starts_with(prefix) {
            return false;
        }
        // [MQTT-4.7.2-1], and no name leads there either.
        if topic.starts_with('$') && !filter.starts_with('$') {
            return false;
        }
        self.filter.covers_as(topic, |level| match level {
            CLIENT if self.names_client => who.client.map(ClientId::as_str),
            USER if self.names_user => who.user(),
            level => Some(level),
        })
    }

    /// The name of `who` that cannot stand for a level of it.
    fn ambiguity(&self, who: Who<'_>) -> Option<AmbiguousName> {
        let is_ambiguous = |name: &str| name.bytes().any(|byte| matches!(byte, b'+' | b'#' | b'/' | 0));
        if self.names_client && who.client.is_some_and(|client| is_ambiguous(client.as_str())) {
            Some(AmbiguousName::Client)
        } else if self.names_user && who.user().is_some_and(is_ambiguous) {
            Some(AmbiguousName::User)
        } else {
            None
        }
    }
}

impl From<TopicFilter> for Topics {
    /// The topics of a filter, its share name aside, without names in it.
    fn from(filter: TopicFilter) -> Self {
        let matched = filter.matched();
        let before_wildcard = matched.split(['+', '#']).next().unwrap_or(matched);
        // "sport/#" matches "sport" too.
        let prefix_bytes = match before_wildcard.len() < matched.len() {
            true => before_wildcard.strip_suffix('/').unwrap_or(before_wildcard).len(),
            false => matched.len(),
        };
        Self {
            filter,
            names_client: false,
            names_user: false,
            prefix_bytes,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = [Self::PUBLISH, Self::SUBSCRIBE, Self::RECEIVE];
        let words = Self::WORDS.iter().filter(|(word, actions)| {
            single.contains(actions) && *word != "write" && self.0 & actions.0 != 0
        });
        let words: Vec<_> = words.map(|(word, _)| *word).collect();
        f.write_str(&words.join(", "))
    }
}

impl fmt::Display for TopicsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(error) => write!(f, "no topic filter: {error}"),
            Self::Shared => {
                f.write_str("a shared subscription, expected the topic filter behind its share name")
            }
            Self::Placeholder => f.write_str("%c and %u must stand alone in their level"),
        }
    }
}

impl std::error::Error for TopicsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Utf8String {
        Utf8String::try_from(text).unwrap()
    }

    fn rule(effect: Effect, topics: &str, line: usize) -> Rule {
        Rule {
            effect,
            actions: Actions::ALL,
            topics: Topics::pattern(topics).unwrap(),
            client: None,
            source: Source {
                file: "rules".into(),
                line,
            },
        }
    }

    fn line(acl: &Acl, user: &str, topic: &str) -> Option<usize> {
        let identity = Identity::User(text(user));
        let client = ClientId::new(text("c")).unwrap();
        let who = Who::client(&identity, &client);
        match acl.decide(who, Action::Receive, topic).reason {
            Reason::Rule(rule) => Some(rule.source.line),
            _ => None,
        }
    }

    #[test]
    fn topics_cover_what_their_filter_covers_whatever_it_begins_with() {
        let levels = ["a", "b", "ab", "", "+", "$a", "%c", "%u"];
        let mut filters = vec!["#".to_owned()];
        for first in levels {
            filters.push(first.to_owned());
            filters.push(format!("{first}/#"));
            for second in levels {
                filters.push(format!("{first}/{second}"));
                filters.push(format!("{first}/{second}/#"));
            }
        }
        filters.retain(|filter| !filter.is_empty());
        let identity = Identity::User(text("b"));
        let client = ClientId::new(text("a")).unwrap();
        let who = Who::client(&identity, &client);
        let mut covered = 0;
        for filter in &filters {
            let meant = filter.replace("%c", "a").replace("%u", "b");
            let meant = TopicFilter::try_from(meant.as_str()).unwrap();
            let topics = Topics::pattern(filter).unwrap();
            let literal = Topics::literal(filter).unwrap();
            let as_written = TopicFilter::try_from(filter.as_str()).unwrap();
            for other in &filters {
                assert_eq!(
                    topics.cover(other, who),
                    meant.covers(other),
                    "{filter} and {other}"
                );
                assert_eq!(
                    literal.cover(other, who),
                    as_written.covers(other),
                    "{filter} and {other}"
                );
                covered += u32::from(meant.covers(other));
            }
        }
        assert!(covered > 500, "{covered}");
    }

    #[test]
    fn rules_for_everybody_and_for_one_are_asked_in_the_order_they_were_written() {
        let mut acl = Acl::new(Effect::Deny);
        let ann = Whom::User(text("ann"));
        let group = Whom::Group("g".to_owned());
        acl.add_group("g", vec![text("ann"), text("bill"), text("ann")]);
        acl.push(&ann, rule(Effect::Allow, "1", 1));
        acl.push(&Whom::Everybody, rule(Effect::Allow, "1", 2));
        acl.push(&group, rule(Effect::Allow, "+", 3));
        acl.push(&Whom::Everybody, rule(Effect::Deny, "2", 4));
        acl.push(&Whom::Group("nobody".to_owned()), rule(Effect::Allow, "#", 5));
        acl.push(&ann, rule(Effect::Allow, "a/#", 6));
        acl.push(&Whom::Anonymous, rule(Effect::Allow, "#", 7));
        for (user, topic, expected) in [
            ("ann", "1", Some(1)),
            ("bill", "1", Some(2)),
            ("ann", "2", Some(3)),
            ("eve", "2", Some(4)),
            ("ann", "a/b", Some(6)),
            ("bill", "a/b", None),
        ] {
            assert_eq!(line(&acl, user, topic), expected, "{user}: {topic}");
        }
        assert!(acl.join(&text("eve"), "g") && !acl.join(&text("eve"), "h"));
        assert_eq!(line(&acl, "eve", "2"), Some(3));
        assert!(acl.join(&text("ann"), "g"));
        assert_eq!(acl.rules_for(&Identity::User(text("ann"))).count(), 5);
    }

    #[test]
    fn a_set_of_actions_is_told_by_their_names() {
        for (word, expected) in [
            ("write", "publish"),
            ("read", "subscribe, receive"),
            ("readwrite", "publish, subscribe, receive"),
        ] {
            assert_eq!(Actions::of_word(word).unwrap().to_string(), expected);
        }
        assert_eq!(Actions::of_word("Read"), None);
        assert_eq!(
            Actions::PUBLISH.and(Actions::RECEIVE).to_string(),
            "publish, receive"
        );
    }
}
