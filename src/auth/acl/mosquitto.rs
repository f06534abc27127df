//! The `acl_file` of mosquitto, read as mosquitto reads it.
//!
//! ```text
//! # comment
//! topic read public/#            before the first user: for clients without a user name
//! user ann
//! topic readwrite plant/#        for ann; readwrite is what holds where nothing is said
//! topic deny plant/secret        a denial comes before all that is allowed, wherever it stands
//! pattern write sensors/%u/data  for every client, wherever it stands; after what a user's own lines say
//! ```
//!
//! Two things are stricter. A subscription has to be inside of what is allowed, where mosquitto grants every one and
//! looks at messages only. And a file that is wrong in one line is refused as a whole.

use std::fmt;
use std::sync::Arc;

use super::{Acl, Actions, Effect, Rule, Source, Topics, TopicsError, Whom};
use crate::mqtt::Utf8String;

/// One line of the file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclMistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub kind: AclMistakeKind,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AclMistakeKind {
    /// It begins with another word than `user`, `topic` and `pattern`.
    Keyword(String),
    /// There is no name after `user`, or none that a client could come with.
    User,
    /// There is nothing after `topic` or `pattern`.
    NoTopic,
    /// There is an access and no topic after it; mosquitto takes the access for the topic.
    OnlyAccess(&'static str),
    /// The first of two words is no access.
    Access(String),
    /// The topic cannot be a rule's.
    Topic(String, TopicsError),
}

/// The words for an access.
const ACCESS: [(&str, Effect, Actions); 4] = [
    ("read", Effect::Allow, Actions::READ),
    ("write", Effect::Allow, Actions::PUBLISH),
    ("readwrite", Effect::Allow, Actions::ALL),
    ("deny", Effect::Deny, Actions::ALL),
];

/// Adds the rules of `text`, the content of `file`, behind those that are there.
///
/// # Errors
/// Every line that is wrong; nothing is added then.
pub fn parse(text: &str, file: &Arc<str>, acl: &mut Acl) -> Result<(), Vec<AclMistake>> {
    let mut whom = Whom::Anonymous;
    let mut rules = Vec::new();
    let mut mistakes = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        match parse_line(content) {
            Ok(Line::Nothing) => {}
            Ok(Line::User(name)) => whom = Whom::User(name),
            Ok(Line::Topic(is_pattern, effect, actions, topics)) => {
                let whom = if is_pattern { Whom::Everybody } else { whom.clone() };
                let source = Source {
                    file: file.clone(),
                    line,
                };
                let rule = Rule {
                    effect,
                    actions,
                    topics,
                    client: None,
                    source,
                };
                rules.push((is_pattern, whom, rule));
            }
            Err(kind) => mistakes.push(AclMistake { line, kind }),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    // Stable: what is alike stays in the order of the file.
    rules.sort_by_key(|(is_pattern, _, rule)| (*is_pattern, rule.effect == Effect::Allow));
    for (_, whom, rule) in rules {
        acl.push(&whom, rule);
    }
    Ok(())
}

enum Line {
    Nothing,
    User(Utf8String),
    /// Whether it is a pattern.
    Topic(bool, Effect, Actions, Topics),
}

fn parse_line(content: &str) -> Result<Line, AclMistakeKind> {
    let content = content.trim();
    if content.is_empty() || content.starts_with('#') {
        return Ok(Line::Nothing);
    }
    let (keyword, rest) = split_word(content);
    let is_pattern = match keyword {
        "user" => {
            let name = Utf8String::try_from(rest).ok().filter(|_| !rest.is_empty());
            return name.map(Line::User).ok_or(AclMistakeKind::User);
        }
        "topic" => false,
        "pattern" => true,
        _ => return Err(AclMistakeKind::Keyword(keyword.to_owned())),
    };
    let (access, topic) = split_word(rest);
    let known = ACCESS.iter().find(|(word, ..)| *word == access);
    let (effect, actions, topic) = match known {
        Some(&(word, ..)) if topic.is_empty() => return Err(AclMistakeKind::OnlyAccess(word)),
        Some(&(_, effect, actions)) => (effect, actions, topic),
        None if rest.is_empty() => return Err(AclMistakeKind::NoTopic),
        None if topic.is_empty() => (Effect::Allow, Actions::ALL, rest),
        None => return Err(AclMistakeKind::Access(access.to_owned())),
    };
    let topics = match is_pattern {
        true => Topics::pattern(topic),
        false => Topics::literal(topic),
    };
    match topics {
        Ok(topics) => Ok(Line::Topic(is_pattern, effect, actions, topics)),
        Err(error) => Err(AclMistakeKind::Topic(topic.to_owned(), error)),
    }
}

/// The first word, and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once([' ', '\t']) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

impl fmt::Display for AclMistakeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyword(found) => write!(f, "found {found:?}, expected \"user\", \"topic\" or \"pattern\""),
            Self::User => f.write_str("expected a user name after \"user\""),
            Self::NoTopic => f.write_str("expected a topic filter, such as in \"topic read plant/#\""),
            Self::OnlyAccess(access) => write!(
                f,
                "found no topic filter after {access:?}, expected one, such as in \"topic {access} plant/#\""
            ),
            Self::Access(found) => write!(
                f,
                "found {found:?} before a topic filter, expected \"read\", \"write\", \"readwrite\" or \"deny\""
            ),
            Self::Topic(found, error) => write!(f, "found {found:?}, {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Identity;
    use crate::auth::access::{Action, Who};
    use crate::auth::acl::Reason;

    fn read(text: &str) -> Result<Acl, Vec<AclMistake>> {
        let mut acl = Acl::new(Effect::Deny);
        parse(text, &Arc::from("acl"), &mut acl).map(|()| acl)
    }

    fn line(acl: &Acl, user: &str, action: Action, topic: &str) -> Option<usize> {
        let identity = Identity::User(Utf8String::try_from(user).unwrap());
        let who = Who::new(&identity, None);
        match acl.decide(who, action, topic).reason {
            Reason::Rule(rule) => Some(rule.source.line),
            _ => None,
        }
    }

    #[test]
    fn spaces_tabs_comments_and_line_ends_of_other_systems_are_fine() {
        let acl = read(
            "\u{feff}# head\r\nuser\t ann of site \r\n\r\n  topic   read\ta topic/of it/# \r\ntopic\tb\r\n  # end",
        )
        .expect("right");
        assert_eq!(
            line(&acl, "ann of site", Action::Receive, "a topic/of it/x"),
            Some(4)
        );
        assert_eq!(
            line(&acl, "ann of site", Action::Publish, "a topic/of it/x"),
            None
        );
        assert_eq!(line(&acl, "ann of site", Action::Publish, "b"), Some(5));
    }

    #[test]
    fn a_denial_comes_before_what_is_allowed_but_a_pattern_after_what_is_the_users_own() {
        let acl = read(
            "pattern deny a/#\npattern read b/#\npattern deny b/x\nuser ann\ntopic a/1\ntopic b/#\ntopic deny b/y\n",
        )
        .expect("right");
        for (user, topic, expected) in [
            ("ann", "a/1", 5),
            ("ann", "a/2", 1),
            ("ann", "b/x", 6),
            ("ann", "b/y", 7),
            ("bill", "b/x", 3),
            ("bill", "b/y", 2),
        ] {
            assert_eq!(
                line(&acl, user, Action::Receive, topic),
                Some(expected),
                "{user}: {topic}"
            );
        }
    }

    #[test]
    fn names_stand_for_themselves_in_a_topic_and_for_the_client_in_a_pattern() {
        let acl = read("user ann\ntopic of/%u\npattern by/%u\n").expect("right");
        assert_eq!(line(&acl, "ann", Action::Publish, "of/%u"), Some(2));
        assert_eq!(line(&acl, "ann", Action::Publish, "of/ann"), None);
        assert_eq!(line(&acl, "ann", Action::Publish, "by/ann"), Some(3));
        assert_eq!(line(&acl, "ann", Action::Publish, "by/%u"), None);
    }

    #[test]
    fn a_file_with_one_wrong_line_adds_nothing() {
        let mut acl = Acl::new(Effect::Deny);
        let mistakes = parse("topic a\nwrite b\nuser \n", &Arc::from("acl"), &mut acl).expect_err("wrong");
        assert_eq!(
            mistakes,
            [
                AclMistake {
                    line: 2,
                    kind: AclMistakeKind::Keyword("write".into())
                },
                AclMistake {
                    line: 3,
                    kind: AclMistakeKind::User
                },
            ]
        );
        assert!(acl.is_empty());
    }
}
