//! `[access]`: who may do what, from the rules of the file and those of an `acl_file` of mosquitto's.

use std::path::Path;
use std::sync::Arc;

use super::file;
use super::guarded;
use crate::auth::access::Rights;
use crate::auth::acl::{Acl, Actions, Effect, Rule, Source, Topics, Whom, mosquitto};
use crate::document::{Mistake, Table, nearest};
use crate::mqtt::{ClientId, Utf8String};

/// Reads who may do what; without the table, everybody everything.
pub(super) fn read(root: &Table<'_>) -> Rights {
    if !root.has("access") {
        return Rights::default();
    }
    let mut acl = Acl::new(Effect::Deny);
    let Some(table) = root.table("access", &file::ACCESS) else {
        return Rights::within(acl);
    };
    for (name, members) in table.named_texts("groups") {
        let members = members
            .into_iter()
            .filter_map(|member| Utf8String::try_from(member).ok());
        acl.add_group(name, members.collect());
    }
    for rule in table.tables("rule", &file::ACCESS_RULE) {
        read_rule(&rule, &mut acl);
    }
    if let Some(path) = table.path("acl_file") {
        let way_out = "write it, or remove this key";
        match guarded::read(&path, "change the rules", way_out) {
            Ok(text) => {
                for mistake in parse_file(&path, &text, &mut acl) {
                    table.document().mistake_elsewhere(mistake);
                }
            }
            Err(message) => table.mistake("acl_file", message),
        }
    }
    if acl.is_empty() {
        let message = "there is no rule, so no client may publish or read anything";
        table.document().warning(&table.own_place(), message);
    }
    Rights::within(acl)
}

/// Reads an `acl_file` of mosquitto's on its own.
///
/// # Errors
/// Every line that is wrong, or that the file cannot be read.
pub fn read_acl_file(path: &Path) -> Result<Rights, Vec<Mistake>> {
    let mut acl = Acl::new(Effect::Deny);
    let mistakes = match guarded::read(path, "change the rules", "expected an acl_file") {
        Ok(text) => parse_file(path, &text, &mut acl),
        Err(message) => vec![mistake_in(path, 0, message)],
    };
    if mistakes.is_empty() {
        Ok(Rights::within(acl))
    } else {
        Err(mistakes)
    }
}

fn parse_file(path: &Path, text: &str, acl: &mut Acl) -> Vec<Mistake> {
    let mistakes = mosquitto::parse(text, &shown(path), acl)
        .err()
        .unwrap_or_default();
    let mistakes = mistakes.into_iter();
    mistakes
        .map(|mistake| mistake_in(path, mistake.line, mistake.kind.to_string()))
        .collect()
}

fn mistake_in(path: &Path, line: usize, message: String) -> Mistake {
    Mistake {
        file: path.to_owned(),
        line,
        column: 0,
        key: String::new(),
        message,
    }
}

fn shown(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

/// One `[[access.rule]]`: a rule for each of its topics and each of those it binds.
fn read_rule(table: &Table<'_>, acl: &mut Acl) {
    let (effect, key) = match (table.has("allow"), table.has("deny")) {
        (true, false) => (Effect::Allow, "allow"),
        (false, true) => (Effect::Deny, "deny"),
        (false, false) => return table.missing("allow"),
        (true, true) => {
            return table.mistake("deny", "found beside allow, expected one of the two in a rule");
        }
    };
    let client = table.parsed("client", |text| Utf8String::try_from(text));
    let client = client.and_then(ClientId::new);
    let whom = read_whom(table, acl);
    let actions = read_actions(table, key);
    if !table.has("topics") {
        table.missing("topics");
    }
    for (text, place) in table.texts("topics").unwrap_or_default() {
        let topics = match Topics::pattern(text) {
            Ok(topics) => topics,
            Err(error) => {
                let message = format!("found {text:?}, {error}");
                table.document().mistake(&place, message);
                continue;
            }
        };
        let source = Source {
            file: shown(table.document().file()),
            line: table.document().line(&place),
        };
        let rule = Rule {
            effect,
            actions,
            topics,
            client: client.clone(),
            source,
        };
        for whom in &whom {
            acl.push(whom, rule.clone());
        }
    }
}

fn read_actions(table: &Table<'_>, key: &str) -> Actions {
    let mut actions = Actions::NONE;
    for (word, place) in table.texts(key).unwrap_or_default() {
        match Actions::of_word(word) {
            Some(known) => actions = actions.and(known),
            None => {
                let words = || Actions::WORDS.iter().map(|(word, _)| *word);
                let expected: Vec<_> = words().collect();
                let mut message = format!("found {word:?}, expected one of {}", expected.join(", "));
                if let Some(near) = nearest(word, words()) {
                    message += &format!("; did you mean {near:?}?");
                }
                table.document().mistake(&place, message);
            }
        }
    }
    actions
}

/// Whom a rule binds: all that it names, or everybody.
fn read_whom(table: &Table<'_>, acl: &Acl) -> Vec<Whom> {
    let mut whom = Vec::new();
    for (name, place) in table.texts("user").unwrap_or_default() {
        match Utf8String::try_from(name) {
            Ok(name) => whom.push(Whom::User(name)),
            Err(error) => table
                .document()
                .mistake(&place, format!("found {name:?}, {error}")),
        }
    }
    for (name, place) in table.texts("group").unwrap_or_default() {
        if acl.has_group(name) {
            whom.push(Whom::Group(name.to_owned()));
        } else {
            let message = format!("found {name:?}, expected a group of [access.groups]");
            table.document().mistake(&place, message);
        }
    }
    let is_for_anonymous = table.flag("anonymous") == Some(true);
    if is_for_anonymous {
        whom.push(Whom::Anonymous);
    }
    if !table.has("user") && !table.has("group") && !is_for_anonymous {
        whom.push(Whom::Everybody);
    }
    whom
}
