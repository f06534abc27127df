//! Topics that are renamed on their way in: what devices call them, and what everybody else knows them by.
//!
//! A client publishes on `a/1/b/x` and it is `c/1/x` to everybody; it subscribes to `a/1/b/#` and gets what is on
//! `c/1/#`, under that name. Rights are asked for the new name. The first rule that fits is taken, and what it makes is
//! not looked at again, so there are no circles.

use std::fmt;

use super::{Change, Client, Hook, Interests, Message};
use crate::mqtt::{TopicError, TopicFilter, TopicName};

/// The rules of renaming, as a hook.
#[derive(Debug, Clone, Default)]
pub struct Rewriting {
    rules: Vec<Rule>,
}

/// One rule: `a/+/b/#` to `c/$1/$2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    from: TopicFilter,
    to: Vec<Level>,
}

/// A level of the new topic.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    /// What the wildcard of this number stands for, from 0.
    Wildcard(usize),
}

/// Why two texts are no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleError {
    /// `from` is no topic filter.
    From(TopicError),
    /// `from` or `to` starts with `$`.
    Reserved,
    /// `to` is no topic name, but for its `$1`.
    To(TopicError),
    /// `to` names a wildcard that `from` does not have; this many are there.
    NoSuchWildcard(usize),
    /// `to` has the rest of `#` anywhere but at its end, where alone it can be subscribed to.
    RestNotLast,
}

impl Rule {
    /// Takes `from`, a topic filter, and `to`, whose levels `$1`, `$2` … are what its wildcards stood for, `#` being
    /// the last of them.
    ///
    /// # Errors
    /// [`RuleError`] where a topic that matches could become something that is no topic.
    pub fn parse(from: &str, to: &str) -> Result<Self, RuleError> {
        let from = TopicFilter::try_from(from).map_err(RuleError::From)?;
        if from.as_str().starts_with('$') {
            return Err(RuleError::Reserved);
        }
        let wildcards = from.levels().filter(|level| matches!(*level, "+" | "#")).count();
        let has_rest = from.levels().last() == Some("#");
        // With every wildcard in its place it must be a topic name.
        TopicName::try_from(to).map_err(RuleError::To)?;
        let levels_count = to.split('/').count();
        let mut levels = Vec::with_capacity(levels_count);
        for (index, text) in to.split('/').enumerate() {
            let number = text.strip_prefix('$').map(str::parse::<usize>);
            let Some(Ok(number)) = number else {
                if index == 0 && text.starts_with('$') {
                    return Err(RuleError::Reserved);
                }
                levels.push(Level::Text(text.to_owned()));
                continue;
            };
            if number == 0 || number > wildcards {
                return Err(RuleError::NoSuchWildcard(wildcards));
            }
            if has_rest && number == wildcards && index + 1 < levels_count {
                return Err(RuleError::RestNotLast);
            }
            levels.push(Level::Wildcard(number - 1));
        }
        Ok(Self { from, to: levels })
    }

    /// What `text`, a topic name or a filter without its share name, becomes; `None` where the rule does not fit, or
    /// what it makes would start with `$` or be empty.
    fn apply(&self, text: &str) -> Option<String> {
        if !self.from.covers(text) {
            return None;
        }
        let mut found = Vec::new();
        let mut rest = Some(text);
        for level in self.from.levels() {
            if level == "#" {
                found.push(rest); // of the parent level itself there is no rest
                break;
            }
            let (this, after) = match rest?.split_once('/') {
                Some((this, after)) => (this, Some(after)),
                None => (rest?, None),
            };
            if level == "+" {
                found.push(Some(this));
            }
            rest = after;
        }
        let mut renamed = String::new();
        for (index, level) in self.to.iter().enumerate() {
            let part = match level {
                Level::Text(text) => text,
                Level::Wildcard(number) => match found.get(*number).copied().flatten() {
                    Some(part) => part,
                    None => continue,
                },
            };
            if index > 0 {
                renamed.push('/');
            }
            renamed.push_str(part);
        }
        let is_topic = !renamed.is_empty() && !renamed.starts_with('$');
        is_topic.then_some(renamed)
    }
}

impl Rewriting {
    /// These rules; of several that fit, the first is taken.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    fn apply(&self, text: &str) -> Option<String> {
        self.rules.iter().find_map(|rule| rule.apply(text))
    }

    /// What a topic is called from here on; `None` where it keeps its name.
    pub fn topic(&self, topic: &TopicName) -> Option<TopicName> {
        TopicName::try_from(self.apply(topic.as_str())?.as_str()).ok()
    }

    /// The filter that stands for `filter` from here on; `None` where it stays. A share name stays before it.
    pub fn filter(&self, filter: &TopicFilter) -> Option<TopicFilter> {
        let renamed = self.apply(filter.matched())?;
        let renamed = match filter.share() {
            Some((name, _)) => format!("$share/{name}/{renamed}"),
            None => renamed,
        };
        TopicFilter::try_from(renamed.as_str()).ok()
    }
}

impl Hook for Rewriting {
    fn name(&self) -> &str {
        "rewrite"
    }

    fn interests(&self) -> Interests {
        Interests::MESSAGE | Interests::FILTER
    }

    fn message(&mut self, _: &Client<'_>, message: &Message<'_>) -> Change {
        match self.topic(message.topic) {
            None => Change::Keep,
            topic => Change::Replace { topic, payload: None },
        }
    }

    fn filter(&mut self, _: &Client<'_>, filter: &TopicFilter) -> Option<TopicFilter> {
        Rewriting::filter(self, filter)
    }
}

impl RuleError {
    /// Whether the mistake is in `from`; otherwise it is in `to`.
    pub fn is_of_from(&self, from: &str) -> bool {
        match self {
            Self::From(_) => true,
            Self::Reserved => from.starts_with('$'),
            Self::To(_) | Self::NoSuchWildcard(_) | Self::RestNotLast => false,
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(error) | Self::To(error) => fmt::Display::fmt(error, f),
            Self::Reserved => f.write_str("topics that start with '$' are the server's, expected another"),
            Self::NoSuchWildcard(0) => {
                f.write_str("\"from\" has no wildcard that '$' and a number could stand for")
            }
            Self::NoSuchWildcard(count) => {
                write!(f, "expected $1 to ${count}, one for each wildcard of \"from\"")
            }
            Self::RestNotLast => f.write_str("what '#' stands for can only be the last level"),
        }
    }
}

impl std::error::Error for RuleError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriting(rules: &[(&str, &str)]) -> Rewriting {
        let rule = |(from, to): &(&str, &str)| Rule::parse(from, to).unwrap();
        Rewriting::new(rules.iter().map(rule).collect())
    }

    fn topic(rewriting: &Rewriting, text: &str) -> String {
        let topic = TopicName::try_from(text).unwrap();
        rewriting.topic(&topic).unwrap_or(topic).to_string()
    }

    fn filter(rewriting: &Rewriting, text: &str) -> String {
        let filter = TopicFilter::try_from(text).unwrap();
        rewriting.filter(&filter).unwrap_or(filter).to_string()
    }

    #[test]
    fn a_topic_is_renamed_by_the_first_rule_that_fits_and_once() {
        let rules = rewriting(&[
            ("a/+/b/#", "c/$1/$2"),
            ("c/#", "never/$1"),
            ("x", "y"),
            ("y", "x"),
        ]);
        for (before, after) in [
            ("a/1/b/x/y", "c/1/x/y"),
            ("a/1/b", "c/1"),
            ("a/1/b/", "c/1/"),
            ("a//b/x", "c//x"),
            ("a/1/c", "a/1/c"),
            ("c/1", "never/1"),
            ("x", "y"),
            ("y", "x"),
            ("a/$1/b/$2", "c/$1/$2"),
        ] {
            assert_eq!(topic(&rules, before), after, "{before}");
        }
    }

    #[test]
    fn filters_are_renamed_as_the_topics_they_match() {
        let rules = rewriting(&[("a/+/b/#", "c/$1/$2")]);
        for (before, after) in [
            ("a/+/b/#", "c/+/#"),
            ("a/1/b/+", "c/1/+"),
            ("a/1/b/#", "c/1/#"),
            ("a/1/b", "c/1"),
            ("$share/g/a/1/b/t", "$share/g/c/1/t"),
            // These match other topics as well, which keep their names.
            ("a/#", "a/#"),
            ("a/+/+/t", "a/+/+/t"),
            ("#", "#"),
        ] {
            assert_eq!(filter(&rules, before), after, "{before}");
        }
    }

    #[test]
    fn nothing_is_renamed_into_a_topic_of_the_server() {
        let rules = rewriting(&[("device/+/#", "$1/$2"), ("tail/#", "$1")]);
        assert_eq!(topic(&rules, "device/$SYS/x"), "device/$SYS/x");
        assert_eq!(topic(&rules, "device/lamp/x"), "lamp/x");
        // There would be nothing left of it.
        assert_eq!(topic(&rules, "tail"), "tail");
    }

    #[test]
    fn what_could_become_no_topic_is_no_rule() {
        for (from, to, error) in [
            ("", "x", RuleError::From(TopicError::Empty)),
            ("a/#/b", "x", RuleError::From(TopicError::MisplacedHash)),
            ("$SYS/#", "x", RuleError::Reserved),
            ("$share/g/a", "x", RuleError::Reserved),
            ("a", "$SYS/a", RuleError::Reserved),
            ("a", "", RuleError::To(TopicError::Empty)),
            ("a/+", "b/+", RuleError::To(TopicError::WildcardInName)),
            ("a/+", "b/$2", RuleError::NoSuchWildcard(1)),
            ("a/+", "b/$0", RuleError::NoSuchWildcard(1)),
            ("a", "b/$1", RuleError::NoSuchWildcard(0)),
            ("a/+/#", "$2/$1", RuleError::RestNotLast),
        ] {
            assert_eq!(Rule::parse(from, to), Err(error), "{from} to {to}");
        }
    }
}
