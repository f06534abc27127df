//! What holds, key by key, and where each value comes from: the file, the board's profile, or the program.

use std::path::PathBuf;

use super::file::{ROOT, SECTIONS};
use crate::board::{journal, limits};
use crate::broker::Limits;
use crate::document::{Document, Leaf, Section};
use crate::storage::JournalSettings;

/// The file the settings were read from, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

/// A value that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The key with its tables: `listener.lan.address`.
    pub key: String,
    /// As it is written in the file; of what is not, what holds instead. A secret is not shown.
    pub text: String,
    /// Where it comes from.
    pub source: Source,
    /// The line of the file.
    pub line: Option<usize>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration file.
    File,
    /// The board's profile.
    Board,
    /// Nobody has said anything.
    Default,
}

impl Source {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Board => "board",
            Self::Default => "default",
        }
    }
}

/// Every value that holds, in the order of the help; without a file, those of a gateway that has none.
pub fn values(written: Option<&Written>, limits: &Limits, journal: &JournalSettings) -> Vec<Value> {
    let (file, text) = written.map_or((PathBuf::new(), ""), |written| {
        (written.file.clone(), written.text.as_str())
    });
    let document = Document::parse(&file, text, SECTIONS);
    let leaves = document.leaves();
    let of_boards = [
        (limits::SECTION.name, limits::shown(limits)),
        (journal::SECTION.name, journal::shown(journal)),
    ];
    let mut values = Vec::new();
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let mut tables = tables_of(section, &leaves);
        if tables.is_empty() && !section.name.contains('.') {
            tables.push(vec![section.name.to_owned()]);
        }
        let of_board = of_boards.iter().find(|(name, _)| *name == section.name);
        let of_board = of_board.map_or(&[] as &[_], |(_, shown)| shown.as_slice());
        for table in tables {
            for key in section.keys {
                let own_table = format!("{}.{}", section.name, key.name);
                if SECTIONS.iter().any(|other| other.name == own_table) {
                    continue;
                }
                let path = format!("{}.{}", table.join("."), key.name);
                let is_it = |leaf: &&Leaf<'_>| {
                    leaf.path
                        .split_last()
                        .is_some_and(|(last, above)| last == key.name && above == table)
                };
                let of_board = of_board.iter().find(|(name, _)| *name == key.name);
                values.push(match (leaves.iter().find(is_it), of_board) {
                    (Some(leaf), _) => Value {
                        key: path,
                        text: shown(key.name, leaf.text),
                        source: Source::File,
                        line: Some(leaf.line),
                    },
                    (None, Some((_, text))) => Value {
                        key: path,
                        text: text.clone(),
                        source: Source::Board,
                        line: None,
                    },
                    (None, _) => Value {
                        key: path,
                        // What must be there with another key that is not there.
                        text: if key.default.starts_with("must be there") {
                            "none"
                        } else {
                            key.default
                        }
                        .to_owned(),
                        source: Source::Default,
                        line: None,
                    },
                });
            }
        }
    }
    // Of tables that have names, what holds where there is none.
    for key in ROOT.keys.iter().filter(|key| key.expects.contains("NAME")) {
        let is_there = |leaf: &Leaf<'_>| leaf.path.first().is_some_and(|first| first == key.name);
        if !leaves.iter().any(is_there) {
            values.push(Value {
                key: key.name.to_owned(),
                text: key.default.to_owned(),
                source: Source::Default,
                line: None,
            });
        }
    }
    values
}

/// The tables of the file that are of `section`, each by its path, in the order of the file.
fn tables_of(section: &Section, leaves: &[Leaf<'_>]) -> Vec<Vec<String>> {
    let pattern: Vec<&str> = section.name.split('.').collect();
    let mut tables: Vec<Vec<String>> = Vec::new();
    for leaf in leaves {
        let Some(path) = leaf.path.get(..pattern.len()) else {
            continue;
        };
        let is_of_section = path.len() < leaf.path.len()
            && pattern.iter().zip(path).all(|(level, name)| {
                // Of a list of tables each has its number behind it.
                *level == "NAME" || name.split('[').next() == Some(level)
            });
        if is_of_section && !tables.iter().any(|known| known == path) {
            tables.push(path.to_vec());
        }
    }
    tables
}

/// A value as an operator may see it.
fn shown(key: &str, text: &str) -> String {
    if ["password", "secret", "token"]
        .iter()
        .any(|secret| key.ends_with(secret))
    {
        return "(not shown)".to_owned();
    }
    // A URL may hold a password before its host.
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest
        .find(['/', '?', '#'])
        .map_or(rest, |end| rest.get(..end).unwrap_or(rest));
    match authority.rsplit_once('@') {
        Some((secret, _)) => {
            let after = rest.get(secret.len() + 1..).unwrap_or_default();
            format!("{scheme}://(not shown)@{after}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values_of(text: &str) -> Vec<Value> {
        let written = Written {
            file: PathBuf::from("tidegate.toml"),
            text: text.to_owned(),
        };
        values(Some(&written), &Limits::default(), &JournalSettings::default())
    }

    fn of(values: &[Value], key: &str) -> (String, Source, Option<usize>) {
        let mut found = values.iter().filter(|value| value.key == key);
        let value = found.next().unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(found.next(), None, "{key} is there once");
        (value.text.clone(), value.source, value.line)
    }

    #[test]
    fn every_value_tells_where_it_comes_from() {
        let values = values_of(
            "[gateway]\nname = \"site/a\"\n\n[listener.\"a.b\"]\naddress = [\"127.0.0.1:1\",\n  \"[::1]:1\"]\n\
             [listener.\"a.b\".websocket]\n[limits]\nretained_max = 7\n",
        );
        assert_eq!(
            of(&values, "gateway.name"),
            ("\"site/a\"".into(), Source::File, Some(2))
        );
        assert_eq!(
            of(&values, "gateway.log"),
            ("\"info\"".into(), Source::Default, None)
        );
        let address = "[\"127.0.0.1:1\",\n  \"[::1]:1\"]".to_owned();
        assert_eq!(
            of(&values, "listener.a.b.address"),
            (address, Source::File, Some(5))
        );
        assert_eq!(of(&values, "listener.a.b.mode").1, Source::Default);
        assert_eq!(of(&values, "listener.a.b.websocket.path").1, Source::Default);
        assert_eq!(
            of(&values, "limits.retained_max"),
            ("7".into(), Source::File, Some(9))
        );
        assert_eq!(
            of(&values, "limits.sessions_max"),
            ("1024".into(), Source::Board, None)
        );
        assert_eq!(of(&values, "serial").1, Source::Default);
        assert!(
            !values
                .iter()
                .any(|value| value.key == "listener.a.b.tls.certificate")
        );
    }

    #[test]
    fn each_of_several_tables_of_one_name_is_told() {
        let values = values_of(
            "[serial.p]\npath = \"/dev/x\"\n[serial.p.lines]\nformat = \"csv\"\n\
             [[serial.p.lines.point]]\nname = \"a\"\n[[serial.p.lines.point]]\nname = \"b\"\n",
        );
        assert_eq!(of(&values, "serial.p.lines.point[0].name").0, "\"a\"");
        assert_eq!(of(&values, "serial.p.lines.point[1].name").0, "\"b\"");
        assert_eq!(of(&values, "serial.p.lines.point[1].scale").1, Source::Default);
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(shown("token", "\"abc\""), "(not shown)");
        assert_eq!(shown("token_file", "\"abc\""), "\"abc\"");
        assert_eq!(
            shown("url", "\"https://me:pass@word@host:1/a@b\""),
            "\"https://(not shown)@host:1/a@b\""
        );
        assert_eq!(shown("url", "\"https://host/a@b\""), "\"https://host/a@b\"");
    }
}
