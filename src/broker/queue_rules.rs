//! How long which client's queue is, and what gives way in it: rules by client and by topic, over the limits of all.

use super::limits::{Limits, Overflow, QueueClass};
use super::pattern::Pattern;
use crate::auth::Identity;
use crate::mqtt::{ClientId, TopicFilter, TopicName};

/// What an operator says of some queues, or of some messages in them.
///
/// Each of its settings holds where no rule before it says the same thing for that client and topic; what no rule says
/// is as [`Limits`] have it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueRule {
    /// Users it is for; empty: whoever they are, those without a name included.
    pub users: Vec<Pattern>,
    /// Client identifiers it is for; empty: all.
    pub clients: Vec<Pattern>,
    /// The topics of the messages it is for, as they stand in the whole tree; empty: all.
    pub topics: Vec<TopicFilter>,
    /// Messages that wait for one client; of a rule with topics it is not looked at, for a client has one queue.
    pub class: Option<QueueClass>,
    /// Payload, topic and property bytes that wait for one client; likewise.
    pub bytes_max: Option<usize>,
    /// Bytes of these that wait for one client beyond its queue, in the journal alone; likewise.
    pub spill_bytes_max: Option<usize>,
    /// What gives way when the queue is full.
    pub overflow: Option<Overflow>,
    /// Whether messages at QoS 0 wait for a client that is away.
    pub qos0: Option<bool>,
}

/// How many rules there may be: a session remembers those that fit its client as one bit each.
pub const QUEUE_RULES_MAX: usize = 64;

const _: () = assert!(QUEUE_RULES_MAX <= u64::BITS as usize);

/// The rules in their order, and the limits behind them.
#[derive(Debug)]
pub(super) struct QueueRules {
    rules: Vec<QueueRule>,
    class: QueueClass,
    bytes_max: usize,
    spill_bytes_max: usize,
    overflow: Overflow,
    qos0: bool,
    /// Whether any message may be refused for want of room.
    pub(super) may_reject: bool,
    /// Whether any message at QoS 0 may wait.
    pub(super) may_keep_qos0: bool,
}

/// The rules that are for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fitting(u64);

impl QueueRules {
    /// The first [`QUEUE_RULES_MAX`] of `rules` over `limits`.
    pub(super) fn new(rules: &[QueueRule], limits: &Limits) -> Self {
        let rules: Vec<QueueRule> = rules.iter().take(QUEUE_RULES_MAX).cloned().collect();
        let policies = rules.iter().filter_map(|rule| rule.overflow);
        let may_reject = policies
            .chain([limits.queue_overflow])
            .any(|policy| policy == Overflow::Reject);
        let may_keep_qos0 = limits.queue_qos0 || rules.iter().any(|rule| rule.qos0 == Some(true));
        Self {
            rules,
            class: limits.queue_class,
            bytes_max: limits.queue_bytes_max,
            spill_bytes_max: limits.spill_bytes_max,
            overflow: limits.queue_overflow,
            qos0: limits.queue_qos0,
            may_reject,
            may_keep_qos0,
        }
    }

    /// The rules that are for a client, which are asked for once and not with each message.
    pub(super) fn fitting(&self, client: &ClientId, identity: &Identity) -> Fitting {
        let bits = self
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.is_for(client, identity));
        Fitting(bits.fold(0, |bits, (index, _)| bits | 1 << index))
    }

    /// How many messages and bytes may wait for a client.
    pub(super) fn size(&self, fitting: Fitting) -> (QueueClass, usize) {
        let of_queues = || self.of(fitting).filter(|rule| rule.topics.is_empty());
        (
            of_queues().find_map(|rule| rule.class).unwrap_or(self.class),
            of_queues()
                .find_map(|rule| rule.bytes_max)
                .unwrap_or(self.bytes_max),
        )
    }

    /// How many bytes may wait for a client beyond its queue.
    pub(super) fn spill_bytes_max(&self, fitting: Fitting) -> usize {
        let mut of_queues = self.of(fitting).filter(|rule| rule.topics.is_empty());
        of_queues
            .find_map(|rule| rule.spill_bytes_max)
            .unwrap_or(self.spill_bytes_max)
    }

    /// What gives way when a message on `topic` finds a client's queue full.
    pub(super) fn overflow(&self, fitting: Fitting, topic: &TopicName) -> Overflow {
        let mut rules = self.of(fitting).filter(|rule| rule.is_about(topic));
        rules.find_map(|rule| rule.overflow).unwrap_or(self.overflow)
    }

    /// Whether a message at QoS 0 on `topic` waits for a client that is away.
    pub(super) fn keeps_qos0(&self, fitting: Fitting, topic: &TopicName) -> bool {
        let mut rules = self.of(fitting).filter(|rule| rule.is_about(topic));
        rules.find_map(|rule| rule.qos0).unwrap_or(self.qos0)
    }

    /// The most messages and bytes that may wait for any client.
    pub(super) fn largest(&self) -> (QueueClass, usize) {
        let classes = self.rules.iter().filter_map(|rule| rule.class);
        let bytes = self.rules.iter().filter_map(|rule| rule.bytes_max);
        (
            classes.fold(self.class, QueueClass::max),
            bytes.fold(self.bytes_max, usize::max),
        )
    }

    fn of(&self, fitting: Fitting) -> impl Iterator<Item = &QueueRule> {
        let mut bits = fitting.0;
        std::iter::from_fn(move || {
            let index = (bits != 0).then(|| bits.trailing_zeros())?;
            bits &= bits - 1;
            self.rules.get(usize::try_from(index).unwrap_or(usize::MAX))
        })
    }
}

impl QueueRule {
    fn is_for(&self, client: &ClientId, identity: &Identity) -> bool {
        let user = || match identity {
            Identity::User(user) => self.users.iter().any(|pattern| pattern.matches(user.as_str())),
            Identity::Anonymous | Identity::Gateway => false,
        };
        let client = || {
            self.clients
                .iter()
                .any(|pattern| pattern.matches(client.as_str()))
        };
        (self.users.is_empty() || user()) && (self.clients.is_empty() || client())
    }

    fn is_about(&self, topic: &TopicName) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::Utf8String;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        let parse = |text: &&str| Pattern::parse(text).expect("a pattern of the test");
        texts.iter().map(parse).collect()
    }

    fn fitting(rules: &QueueRules, client: &str, user: Option<&str>) -> Fitting {
        let text = |text: &str| Utf8String::try_from(text).expect("a text of the test");
        let client = ClientId::new(text(client)).expect("an identifier of the test");
        let identity = user.map_or(Identity::Anonymous, |user| Identity::User(text(user)));
        rules.fitting(&client, &identity)
    }

    #[test]
    fn each_setting_is_that_of_the_first_rule_that_fits_and_says_it() {
        let topic = |text: &str| TopicName::try_from(text).expect("a topic of the test");
        let rules = QueueRules::new(
            &[
                QueueRule {
                    topics: vec![TopicFilter::try_from("alarm/#").expect("a filter of the test")],
                    overflow: Some(Overflow::Reject),
                    ..QueueRule::default()
                },
                QueueRule {
                    clients: patterns(&["meter-*", "pump-?"]),
                    class: Some(QueueClass::N16),
                    ..QueueRule::default()
                },
                QueueRule {
                    users: patterns(&["plant*"]),
                    class: Some(QueueClass::N4096),
                    overflow: Some(Overflow::Disconnect),
                    qos0: Some(true),
                    ..QueueRule::default()
                },
            ],
            &Limits::default(),
        );
        let of = |client, user, on: &str| {
            let fitting = fitting(&rules, client, user);
            let topic = topic(on);
            (
                rules.size(fitting).0,
                rules.overflow(fitting, &topic),
                rules.keeps_qos0(fitting, &topic),
            )
        };
        use {Overflow::*, QueueClass::*};
        assert_eq!(of("panel", None, "t"), (N1024, DropOldest, false));
        assert_eq!(of("panel", None, "alarm/fire"), (N1024, Reject, false));
        assert_eq!(of("meter-1", None, "t"), (N16, DropOldest, false));
        assert_eq!(of("meter-1", Some("plant 2"), "t"), (N16, Disconnect, true));
        assert_eq!(of("panel", Some("plant 2"), "alarm"), (N4096, Reject, true));
        assert_eq!(of("panel", Some("a plant"), "t"), (N1024, DropOldest, false));
        assert_eq!(rules.largest().0, N4096);
        assert!(rules.may_reject && rules.may_keep_qos0);
    }

    #[test]
    fn the_last_rule_there_may_be_counts_and_none_behind_it() {
        let rule = |class| QueueRule {
            class,
            ..QueueRule::default()
        };
        let mut rules = vec![rule(None); QUEUE_RULES_MAX - 1];
        rules.push(rule(Some(QueueClass::N16)));
        rules.push(QueueRule {
            overflow: Some(Overflow::Reject),
            ..QueueRule::default()
        });
        let rules = QueueRules::new(&rules, &Limits::default());
        assert_eq!(rules.size(fitting(&rules, "a", None)).0, QueueClass::N16);
        assert!(!rules.may_reject);
    }
}
