//! Access rules in arbitrary text, ours where it starts with `[` and mosquitto's elsewhere: a mistake stands in a line
//! there is, and what decides is the rule that a plain reading finds.

#![no_main]

use std::fs;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Rights, Who};
use tidegate::auth::acl::{Acl, Decision, Effect, Reason, mosquitto};
use tidegate::config;
use tidegate::mqtt::{ClientId, TopicFilter, TopicName, Utf8String};

const USERS: [Option<&str>; 5] = [None, Some("ann"), Some("bill"), Some("$SYS"), Some("a/+")];
const CLIENTS: [&str; 3] = ["pump", "ann", "#"];
const TOPICS: [&str; 11] = [
    "a",
    "a/b",
    "a/ann/c",
    "a/pump",
    "ann/pump/x",
    "$SYS/a",
    "$SYS/broker/connection/x/state",
    "/",
    "a//c",
    "%u/a",
    "of/%c",
];
const FILTERS: [&str; 8] = ["#", "a/#", "+/b", "a/+/c", "+/+", "$SYS/#", "/#", "ann/pump/+"];
/// Words of the text that are asked for besides.
const WORDS_MAX: usize = 16;

fuzz_target!(|text: &str| {
    if text.starts_with('[') {
        read_ours(text);
    } else {
        read_mosquittos(text);
    }
});

fn read_ours(text: &str) {
    // Of this process, so that several may run side by side.
    let path = std::env::temp_dir().join(format!("tidegate-fuzz-acl-{}.toml", std::process::id()));
    fs::write(&path, text).expect("the folder for temporary files takes one");
    let rights = match config::load(&path, None) {
        Ok(settings) => settings.rights,
        Err(mistakes) => return assert!(!mistakes.is_empty(), "refused, and nobody is told why"),
    };
    let lines = text.lines().count();
    ask(&rights, text, |who, action, topic, decision| {
        match decision.reason {
            Reason::Rule(rule) => {
                assert!((1..=lines).contains(&rule.source.line), "no line of the file");
                assert!(
                    rule.client
                        .as_ref()
                        .is_none_or(|client| Some(client) == who.client)
                );
                let topics = rule.topics.as_str();
                assert!(
                    action == Action::Subscribe || fits(topics, true, who, topic),
                    "{topics}: {topic}"
                );
                assert_eq!(decision.allowed, rule.effect == Effect::Allow);
            }
            Reason::NoAcl => assert!(decision.allowed && rights.acl().is_none()),
            _ => assert!(!decision.allowed),
        }
    });
}

fn read_mosquittos(text: &str) {
    let mut acl = Acl::new(Effect::Deny);
    if let Err(mistakes) = mosquitto::parse(text, &Arc::from("file"), &mut acl) {
        let lines = text.lines().count();
        assert!(!mistakes.is_empty() && acl.is_empty());
        assert!(mistakes.iter().all(|mistake| (1..=lines).contains(&mistake.line)));
        return;
    }
    let rules = plain_reading(text);
    assert_eq!(acl.len(), rules.len());
    ask(&Rights::within(acl), text, |who, action, topic, decision| {
        if decision.reason == Reason::Reserved || action == Action::Subscribe {
            return;
        }
        let wants = match action {
            Action::Publish => "write",
            _ => "read",
        };
        let asked = rules.iter().find(|rule| {
            let binds = rule.is_pattern || rule.user == who.user();
            let means = ["deny", "readwrite", wants].contains(&rule.access);
            binds && means && (rule.is_ambiguous(who) || fits(rule.topics, rule.is_pattern, who, topic))
        });
        let (line, allowed) = asked.map_or((0, false), |rule| {
            (rule.line, rule.access != "deny" && !rule.is_ambiguous(who))
        });
        let found = match decision.reason {
            Reason::Rule(rule) | Reason::Name(rule, _) => rule.source.line,
            _ => 0,
        };
        assert_eq!(
            (found, decision.allowed),
            (line, allowed),
            "{who:?} {action:?} {topic}"
        );
    });
}

/// Asks for everything that somebody may want, and that what is granted for a filter is granted for what it matches.
fn ask(rights: &Rights, text: &str, mut see: impl FnMut(Who<'_>, Action, &str, Decision<'_>)) {
    let words = text
        .split([' ', '\t', '\n', '"'])
        .filter(|word| TopicName::try_from(*word).is_ok());
    let topics: Vec<_> = TOPICS.into_iter().chain(words.take(WORDS_MAX)).collect();
    for user in USERS {
        let identity = match user {
            Some(name) => Identity::User(Utf8String::try_from(name).expect("a name")),
            None => Identity::Anonymous,
        };
        for client in CLIENTS {
            let client = ClientId::new(Utf8String::try_from(client).expect("a name")).expect("not empty");
            let who = Who::client(&identity, &client);
            for topic in &topics {
                for action in [Action::Publish, Action::Receive, Action::Subscribe] {
                    see(who, action, topic, rights.explain(who, action, topic));
                }
            }
            for text in FILTERS {
                let decision = rights.explain(who, Action::Subscribe, text);
                see(who, Action::Subscribe, text, decision);
                let (true, Reason::Rule(rule)) = (decision.allowed, decision.reason) else {
                    continue;
                };
                let filter = TopicFilter::try_from(text).expect("a filter");
                let means_names = rule.topics.as_str().contains('%');
                for topic in &topics {
                    let name = TopicName::try_from(*topic).expect("a topic");
                    assert!(
                        !filter.matches(&name)
                            || means_names
                            || fits(rule.topics.as_str(), false, who, topic),
                        "{text} is not inside of {}",
                        rule.topics.as_str()
                    );
                }
            }
        }
    }
}

/// A rule of mosquitto's file.
struct Plain<'a> {
    line: usize,
    user: Option<&'a str>,
    is_pattern: bool,
    access: &'a str,
    topics: &'a str,
}

impl Plain<'_> {
    fn is_ambiguous(&self, who: Who<'_>) -> bool {
        let has = |word: &str| self.is_pattern && self.topics.split('/').any(|level| level == word);
        let is_wild = |name: &str| name.contains(['+', '#', '/']);
        (has("%u") && who.user().is_some_and(is_wild))
            || (has("%c") && who.client.is_some_and(|client| is_wild(client.as_str())))
    }
}

/// The rules of a file without mistakes, in the order in which they are asked.
fn plain_reading(text: &str) -> Vec<Plain<'_>> {
    let mut user = None;
    let mut rules = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        let (keyword, rest) = content.split_once([' ', '\t']).unwrap_or((content, ""));
        let rest = rest.trim();
        match keyword {
            "user" => user = Some(rest),
            "topic" | "pattern" => {
                let words = rest.split_once([' ', '\t']);
                let (access, topics) = words.unwrap_or(("readwrite", rest));
                rules.push(Plain {
                    line,
                    user,
                    is_pattern: keyword == "pattern",
                    access,
                    topics: topics.trim(),
                });
            }
            _ => {}
        }
    }
    rules.sort_by_key(|rule| (rule.is_pattern, rule.access != "deny"));
    rules
}

/// Whether the name `topic` is one of `topics`, level by level.
fn fits(topics: &str, has_names: bool, who: Who<'_>, topic: &str) -> bool {
    if topic.starts_with('$') && !topics.starts_with('$') {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in topics.split('/') {
        let wanted = match wanted {
            "#" => return true,
            "%u" if has_names => who.user(),
            "%c" if has_names => who.client.map(ClientId::as_str),
            other => Some(other),
        };
        let (Some(wanted), Some(level)) = (wanted, levels.next()) else {
            return false;
        };
        if wanted != "+" && wanted != level {
            return false;
        }
    }
    levels.next().is_none()
}
