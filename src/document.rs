//! A TOML file read by hand with every mistake told: where it stands, what was found, what was expected.
//!
//! The known keys of a table stand in one [`Section`]: it feeds the reading, the suggestions and the help.
//! A getter that finds nothing, or something wrong, returns `None`; what was wrong is kept in the [`Document`].

mod quantity;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use quantity::{duration_from, duration_text, size_from, size_text};

/// One mistake in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file, as it was named by whoever asked.
    pub file: PathBuf,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 where a line or a file as a whole is meant.
    pub column: usize,
    /// The key with its tables, `listener.lan.address`; empty where the text is no TOML.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
}

/// The keys a table may hold.
#[derive(Debug)]
pub struct Section {
    /// Its path, with `NAME` where the person writing chooses: `listener.NAME.tls`.
    pub name: &'static str,
    /// What it is for, one sentence.
    pub about: &'static str,
    /// In the order of the help.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What must follow it: `a duration such as "10s"`.
    pub expects: &'static str,
    /// What holds without it, for the help.
    pub default: &'static str,
    /// What it does, one sentence.
    pub about: &'static str,
}

/// A file's text as a document, and the mistakes found in it so far.
#[derive(Debug)]
pub struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    sections: &'static [&'static Section],
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
    /// Lines that are no TOML. What is missing may have been lost there.
    broken_lines: Vec<usize>,
}

/// A table of the document, with the keys it may hold.
#[derive(Debug, Clone)]
pub struct Table<'d> {
    document: &'d Document<'d>,
    entries: &'d DeTable<'d>,
    section: &'static Section,
    path: String,
    span: Range<usize>,
}

/// A value that is no table, as it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf<'t> {
    /// The names that lead to it; each table of a list has its number behind its name, from 0: `point[0]`. The last is
    /// empty for a table with nothing in it.
    pub path: Vec<String>,
    /// As it is written.
    pub text: &'t str,
    /// Its line, from 1.
    pub line: usize,
}

/// Where something stands in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    offset: usize,
    key: String,
}

impl<'t> Document<'t> {
    /// Takes `text`, the content of `file`; `sections` are all tables there are, for suggestions.
    ///
    /// What is no TOML becomes a mistake, and the rest is read on.
    pub fn parse(file: &Path, text: &'t str, sections: &'static [&'static Section]) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file: file.to_owned(),
            text,
            root,
            sections,
            mistakes: RefCell::default(),
            warnings: RefCell::default(),
            broken_lines: Vec::new(),
        };
        for error in errors {
            let offset = error.span().map_or(text.len(), |span| span.start);
            document.mistake(
                &Place {
                    offset,
                    key: String::new(),
                },
                error.message(),
            );
        }
        document.broken_lines = document
            .mistakes
            .borrow()
            .iter()
            .map(|mistake| mistake.line)
            .collect();
        document
    }

    /// The table of the whole file.
    pub fn root(&self, section: &'static Section) -> Table<'_> {
        Table::open(self, self.root.get_ref(), section, String::new(), 0..0)
    }

    /// Notes a mistake. On a line that is no TOML nothing else is told.
    pub fn mistake(&self, place: &Place, message: impl Into<String>) {
        let mistake = self.told(place, message);
        if self.broken_lines.contains(&mistake.line) {
            return;
        }
        let mut mistakes = self.mistakes.borrow_mut();
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }

    /// Notes what is no mistake and yet worth a look.
    pub fn warning(&self, place: &Place, message: impl Into<String>) {
        let warning = self.told(place, message);
        self.warnings.borrow_mut().push(warning);
    }

    /// What was worth a look so far.
    pub fn warnings(&self) -> Vec<Mistake> {
        self.warnings.borrow().clone()
    }

    fn told(&self, place: &Place, message: impl Into<String>) -> Mistake {
        let (line, column) = line_and_column(self.text, place.offset);
        Mistake {
            file: self.file.clone(),
            line,
            column,
            key: place.key.clone(),
            message: message.into(),
        }
    }

    /// The file, as it was named by whoever asked.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line of a place, from 1.
    pub fn line(&self, place: &Place) -> usize {
        line_and_column(self.text, place.offset).0
    }

    /// Notes a mistake found in another file this one names.
    pub fn mistake_elsewhere(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// How much was wrong so far.
    pub fn mistake_count(&self) -> usize {
        self.mistakes.borrow().len()
    }

    /// Everything that was wrong, by line.
    pub fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        // Stable: of one place in the order they were found.
        mistakes.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        mistakes
    }

    /// Every value there is, in the order of the tables' names.
    pub fn leaves(&self) -> Vec<Leaf<'t>> {
        let mut leaves = Vec::new();
        self.gather(&mut Vec::new(), self.root.get_ref(), &mut leaves);
        leaves
    }

    fn gather(&self, path: &mut Vec<String>, table: &DeTable<'t>, leaves: &mut Vec<Leaf<'t>>) {
        if table.is_empty() && !path.is_empty() {
            path.push(String::new());
            leaves.push(self.leaf(path, 0..0));
            path.pop();
        }
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(inner) => {
                    path.push(name.to_owned());
                    self.gather(path, inner, leaves);
                    path.pop();
                }
                DeValue::Array(list)
                    if list
                        .iter()
                        .any(|item| matches!(item.get_ref(), DeValue::Table(_))) =>
                {
                    for (number, item) in list.iter().enumerate() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            path.push(format!("{name}[{number}]"));
                            self.gather(path, inner, leaves);
                            path.pop();
                        }
                    }
                }
                _ => {
                    path.push(name.to_owned());
                    leaves.push(self.leaf(path, value.span()));
                    path.pop();
                }
            }
        }
    }

    fn leaf(&self, path: &[String], span: Range<usize>) -> Leaf<'t> {
        Leaf {
            path: path.to_vec(),
            line: line_and_column(self.text, span.start).0,
            text: self.text.get(span).unwrap_or_default(),
        }
    }

    /// `path` as seen from the folder of this file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        match self.file.parent() {
            Some(folder) => folder.join(path),
            None => PathBuf::from(path),
        }
    }
}

impl<'d> Table<'d> {
    fn open(
        document: &'d Document<'d>,
        entries: &'d DeTable<'d>,
        section: &'static Section,
        path: String,
        span: Range<usize>,
    ) -> Self {
        let table = Self {
            document,
            entries,
            section,
            path,
            span,
        };
        for name in entries.keys() {
            let known = section.keys.iter().any(|key| key.name == name.get_ref().as_ref());
            if !known {
                table.unknown_key(name);
            }
        }
        table
    }

    /// A string; an empty one is refused.
    pub fn text(&self, key: &str) -> Option<&'d str> {
        match self.value(key)?.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text),
            other => self.expected(key, other),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)?.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => self.expected(key, other),
        }
    }

    /// An integer within `range`.
    pub fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let found = self.value(key)?.get_ref();
        match found {
            DeValue::Integer(integer) => {
                let integer = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
                let inside = integer.filter(|integer| range.contains(integer));
                if inside.is_none() {
                    let (least, most) = (range.start(), range.end());
                    self.mistake(
                        key,
                        format!(
                            "found {}, expected an integer from {least} to {most}",
                            shown(found)
                        ),
                    );
                }
                inside
            }
            other => self.expected(key, other),
        }
    }

    /// A number, whole or not; never infinite, never NaN.
    pub fn number(&self, key: &str) -> Option<f64> {
        let found = self.value(key)?.get_ref();
        let number: Option<f64> = match found {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() => Some(number),
            _ => self.expected(key, found),
        }
    }

    /// A duration within `range`, `"500ms"`, `"10s"`, `"5m"`, `"1h"` or `"7d"`.
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let found = self.value(key)?.get_ref();
        let duration = found.as_str().and_then(duration_from);
        match duration {
            Some(duration) if range.contains(&duration) => Some(duration),
            Some(_) => {
                let (least, most) = (duration_text(*range.start()), duration_text(*range.end()));
                self.mistake(
                    key,
                    format!(
                        "found {}, expected a duration from {least:?} to {most:?}",
                        shown(found)
                    ),
                );
                None
            }
            None => self.expected(key, found),
        }
    }

    /// A number of bytes within `range`: an integer, or `"64 KiB"`, `"1 MiB"`.
    pub fn size(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let found = self.value(key)?.get_ref();
        let bytes = match found {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            DeValue::String(text) => size_from(text),
            _ => None,
        };
        match bytes {
            Some(bytes) if range.contains(&bytes) => Some(bytes),
            Some(_) => {
                let (least, most) = (size_text(*range.start()), size_text(*range.end()));
                self.mistake(
                    key,
                    format!("found {}, expected a size from {least} to {most}", shown(found)),
                );
                None
            }
            None => self.expected(key, found),
        }
    }

    /// A path, seen from the folder of the file it stands in.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.document.resolve(self.text(key)?))
    }

    /// One path or a list of paths, each with its place.
    pub fn paths(&self, key: &str) -> Option<Vec<(PathBuf, Place)>> {
        let texts = self.texts(key)?.into_iter();
        let paths = texts.map(|(text, place)| (self.document.resolve(text), place));
        Some(paths.collect())
    }

    /// One of a few words.
    pub fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let found = self.value(key)?.get_ref();
        let word = found.as_str();
        if let Some((_, value)) = choices.iter().find(|(name, _)| Some(*name) == word) {
            return Some(value.clone());
        }
        let names = choices.iter().map(|(name, _)| *name);
        let near = word.and_then(|word| nearest(word, names.clone()));
        let mut message = format!("found {}, expected {}", shown(found), one_of(names));
        if let Some(near) = near {
            message += &format!(", did you mean {near:?}?");
        }
        self.mistake(key, message);
        None
    }

    /// A string that `parse` turns into something; its error is told after what was found.
    pub fn parsed<T, E: fmt::Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(key, format!("found {text:?}, {error}"));
                None
            }
        }
    }

    /// One string or a list of strings, none of them empty, each with its place.
    pub fn texts(&self, key: &str) -> Option<Vec<(&'d str, Place)>> {
        let found = self.value(key)?;
        let items: Vec<&'d Spanned<DeValue<'d>>> = match found.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![found],
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in &items {
            match item.get_ref() {
                DeValue::String(text) if !text.is_empty() => {
                    texts.push((
                        text.as_ref(),
                        Place {
                            offset: item.span().start,
                            key: self.path_of(key),
                        },
                    ));
                }
                other => return self.expected(key, other),
            }
        }
        Some(texts)
    }

    /// The value as it stands, for what no other getter reads.
    pub fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        debug_assert!(
            self.section.keys.iter().any(|known| known.name == key),
            "{key} is read but not listed in [{}]",
            self.section.name
        );
        self.entries.get(key)
    }

    /// A table within this one.
    pub fn table(&self, key: &str, section: &'static Section) -> Option<Table<'d>> {
        let found = self.value(key)?;
        match found.get_ref() {
            DeValue::Table(entries) => Some(Self::open(
                self.document,
                entries,
                section,
                self.path_of(key),
                found.span(),
            )),
            other => self.expected(key, other),
        }
    }

    /// The tables `[key.NAME]`, each with its name, in the order of the file.
    pub fn named_tables(&self, key: &str, section: &'static Section) -> Vec<(&'d str, Table<'d>)> {
        let Some(found) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Table(tables) = found.get_ref() else {
            self.expected::<()>(key, found.get_ref());
            return Vec::new();
        };
        let mut named = Vec::with_capacity(tables.len());
        for (name, value) in tables {
            let path = format!("{}.{}", self.path_of(key), name.get_ref());
            match value.get_ref() {
                DeValue::Table(entries) => {
                    let span = name.span();
                    let table = Self::open(self.document, entries, section, path, span);
                    named.push((name.span().start, name.get_ref().as_ref(), table));
                }
                other => {
                    let place = Place {
                        offset: value.span().start,
                        key: path,
                    };
                    let message = format!(
                        "found {}, expected a table: name it, as in [{}.NAME]",
                        shown(other),
                        self.path_of(key)
                    );
                    self.document.mistake(&place, message);
                }
            }
        }
        named.sort_by_key(|(offset, _, _)| *offset);
        named.into_iter().map(|(_, name, table)| (name, table)).collect()
    }

    /// The tables `[[key]]`, in the order of the file.
    pub fn tables(&self, key: &str, section: &'static Section) -> Vec<Table<'d>> {
        let Some(found) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = found.get_ref() else {
            self.expected::<()>(key, found.get_ref());
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(array.len());
        for item in array {
            match item.get_ref() {
                DeValue::Table(entries) => {
                    let path = self.path_of(key);
                    tables.push(Self::open(self.document, entries, section, path, item.span()));
                }
                other => {
                    self.expected::<()>(key, other);
                }
            }
        }
        tables
    }

    /// The lists of strings of a table whose keys are names of the writer's own; none of the strings is empty.
    pub fn named_texts(&self, key: &str) -> Vec<(&'d str, Vec<&'d str>)> {
        let Some(found) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Table(entries) = found.get_ref() else {
            self.expected::<()>(key, found.get_ref());
            return Vec::new();
        };
        let mut named = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let place = Place {
                offset: value.span().start,
                key: format!("{}.{}", self.path_of(key), name.get_ref()),
            };
            let texts: Option<Vec<&str>> = value.get_ref().as_array().and_then(|items| {
                let texts = items.iter().map(|item| item.get_ref().as_str());
                texts.map(|text| text.filter(|text| !text.is_empty())).collect()
            });
            match texts {
                Some(texts) => named.push((name.get_ref().as_ref(), texts)),
                None => {
                    let message = format!("found {}, expected a list of strings", shown(value.get_ref()));
                    self.document.mistake(&place, message);
                }
            }
        }
        named
    }

    /// Whether the key is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Every key that is there, known or not.
    pub fn names(&self) -> impl Iterator<Item = &'d str> {
        self.entries.keys().map(|name| name.get_ref().as_ref())
    }

    /// Notes that a key must be there.
    pub fn missing(&self, key: &str) {
        // Where a line is no TOML, the key may stand in it.
        if self.document.broken_lines.is_empty() {
            let expects = self.key(key).expects;
            self.mistake(key, format!("missing, expected {expects}"));
        }
    }

    /// Notes that something is wrong with a key.
    pub fn mistake(&self, key: &str, message: impl Into<String>) {
        self.document.mistake(&self.place(key), message);
    }

    /// Where the key's value stands; where it is not there, the table.
    pub fn place(&self, key: &str) -> Place {
        let offset = self
            .entries
            .get(key)
            .map_or(self.span.start, |value| value.span().start);
        Place {
            offset,
            key: self.path_of(key),
        }
    }

    /// Where the table itself stands.
    pub fn own_place(&self) -> Place {
        Place {
            offset: self.span.start,
            key: self.path.clone(),
        }
    }

    /// The document it is a part of.
    pub fn document(&self) -> &'d Document<'d> {
        self.document
    }

    fn key(&self, key: &str) -> &'static Key {
        let mut keys = self.section.keys.iter();
        keys.find(|known| known.name == key)
            .expect("the code asks for keys of the section only")
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes that `found` is not what the key expects.
    fn expected<T>(&self, key: &str, found: &DeValue<'_>) -> Option<T> {
        self.mistake(
            key,
            format!("found {}, expected {}", shown(found), self.key(key).expects),
        );
        None
    }

    fn unknown_key(&self, name: &Spanned<Cow<'_, str>>) {
        let text = name.get_ref().as_ref();
        let here = self.section.keys.iter().map(|key| key.name);
        let mut homes = self.document.sections.iter().filter(|section| {
            section.keys.iter().any(|key| key.name == text) && section.name != self.section.name
        });
        let message = if let (Some(home), true) = (homes.next(), nearest_is_far(text, here.clone())) {
            format!("unknown key here, it belongs into {}", heading(home.name))
        } else if let Some(near) = nearest(text, here.clone()) {
            format!("unknown key, did you mean {near:?}?")
        } else {
            format!("unknown key, expected {}", one_of(here))
        };
        let place = Place {
            offset: name.span().start,
            key: self.path_of(text),
        };
        self.document.mistake(&place, message);
    }
}

impl Place {
    /// The key with its tables.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            key,
            message,
        } = self;
        let file = file.display();
        match (line, column) {
            (0, _) => write!(f, "{file}: {message}"),
            (_, 0) => write!(f, "{file}:{line}: {message}"),
            _ if key.is_empty() => write!(f, "{file}:{line}:{column}: {message}"),
            _ => write!(f, "{file}:{line}: {key}: {message}"),
        }
    }
}

/// The known word `text` was meant to be, if one is near.
pub fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let plain = text.to_lowercase().replace('-', "_");
    words
        .map(|word| (strsim::jaro_winkler(&plain, word), word))
        .filter(|(similarity, word)| {
            // In a word of three or four letters a slip weighs too much for the similarity to show it.
            *similarity >= NEAR || (word.len() > 2 && strsim::damerau_levenshtein(&plain, word) <= 1)
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// `cert` is as near to `certificate` as anything should be.
const NEAR: f64 = 0.8;

/// Nearer than this it is a slip of the pen, wherever else the word is known.
fn nearest_is_far<'w>(text: &str, mut words: impl Iterator<Item = &'w str>) -> bool {
    !words.any(|word| strsim::damerau_levenshtein(text, word) <= 1)
}

/// `"a", "b" or "c"`.
fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => "nothing".to_owned(),
    }
}

fn heading(section: &str) -> String {
    if section.is_empty() {
        "the top of the file".to_owned()
    } else {
        format!("[{section}]")
    }
}

/// A value as a message repeats it, cut where it is long.
fn shown(value: &DeValue<'_>) -> String {
    const CHARACTERS_MAX: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() > CHARACTERS_MAX => {
            let head: String = text.chars().take(CHARACTERS_MAX).collect();
            format!("{head:?}…")
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => format!("the integer {integer}"),
        DeValue::Float(float) => format!("the number {float}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(datetime) => format!("the date {datetime}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before.get(start..).unwrap_or("").chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    static ROOT: Section = Section {
        name: "",
        about: "All.",
        keys: &[
            Key {
                name: "name",
                expects: "a name",
                default: "",
                about: "",
            },
            Key {
                name: "certificate",
                expects: "a path",
                default: "",
                about: "",
            },
            Key {
                name: "count",
                expects: "an integer",
                default: "",
                about: "",
            },
            Key {
                name: "wait",
                expects: "a duration such as \"10s\"",
                default: "",
                about: "",
            },
            Key {
                name: "bytes",
                expects: "a size such as \"64 KiB\"",
                default: "",
                about: "",
            },
            Key {
                name: "mode",
                expects: "a word",
                default: "",
                about: "",
            },
            Key {
                name: "factor",
                expects: "a number",
                default: "",
                about: "",
            },
            Key {
                name: "on",
                expects: "true or false",
                default: "",
                about: "",
            },
            Key {
                name: "list",
                expects: "a string or a list of strings",
                default: "",
                about: "",
            },
            Key {
                name: "door",
                expects: "tables such as [door.NAME]",
                default: "",
                about: "",
            },
            Key {
                name: "point",
                expects: "tables such as [[point]]",
                default: "",
                about: "",
            },
        ],
    };
    static DOOR: Section = Section {
        name: "door.NAME",
        about: "A door.",
        keys: &[Key {
            name: "address",
            expects: "an address",
            default: "",
            about: "",
        }],
    };
    static SECTIONS: &[&Section] = &[&ROOT, &DOOR];

    fn told(text: &str, read: impl Fn(&Table<'_>)) -> Vec<String> {
        let document = Document::parse(Path::new("etc/a.toml"), text, SECTIONS);
        read(&document.root(&ROOT));
        document.into_mistakes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_key_gets_the_nearest_known_one() {
        assert_eq!(
            told("\ncert = 'x'\n", |_| ()),
            ["etc/a.toml:2: cert: unknown key, did you mean \"certificate\"?"]
        );
    }

    #[test]
    fn an_unknown_key_that_another_table_knows_is_sent_there() {
        assert_eq!(
            told("address = 'x'", |_| ()),
            ["etc/a.toml:1: address: unknown key here, it belongs into [door.NAME]"]
        );
    }

    #[test]
    fn an_unknown_key_like_no_other_gets_them_all() {
        assert_eq!(
            told("[door.front]\nzzz = 1", |root| {
                root.named_tables("door", &DOOR);
            }),
            ["etc/a.toml:2: door.front.zzz: unknown key, expected \"address\""]
        );
    }

    #[test]
    fn two_letters_of_a_short_key_that_changed_places_are_a_slip() {
        assert_eq!(nearest("lgo", ["name", "log"].into_iter()), Some("log"));
        assert_eq!(nearest("zzz", ["name", "log"].into_iter()), None);
    }

    #[test]
    fn a_wrong_type_is_told_with_what_was_found_and_expected() {
        let text = "name = 5\non = 'yes'\nlist = [1]\nfactor = nan\nwait = 10\n";
        let told = told(text, |root| {
            root.text("name");
            root.flag("on");
            root.texts("list");
            root.number("factor");
            root.duration("wait", Duration::ZERO..=Duration::MAX);
        });
        assert_eq!(
            told,
            [
                "etc/a.toml:1: name: found the integer 5, expected a name",
                "etc/a.toml:2: on: found \"yes\", expected true or false",
                "etc/a.toml:3: list: found the integer 1, expected a string or a list of strings",
                "etc/a.toml:4: factor: found the number nan, expected a number",
                "etc/a.toml:5: wait: found the integer 10, expected a duration such as \"10s\"",
            ]
        );
    }

    #[test]
    fn a_value_out_of_range_is_told_with_the_range() {
        let text = "count = -1\nwait = '2h'\nbytes = '1 GiB'\nmode = 'requird'\n";
        let told = told(text, |root| {
            root.integer("count", 1..=10);
            root.duration("wait", Duration::from_secs(1)..=Duration::from_secs(60));
            root.size("bytes", 1024..=1024 * 1024);
            root.choice("mode", &[("none", 0), ("required", 1)]);
        });
        assert_eq!(
            told,
            [
                "etc/a.toml:1: count: found the integer -1, expected an integer from 1 to 10",
                "etc/a.toml:2: wait: found \"2h\", expected a duration from \"1s\" to \"1m\"",
                "etc/a.toml:3: bytes: found \"1 GiB\", expected a size from 1 KiB to 1 MiB",
                "etc/a.toml:4: mode: found \"requird\", expected \"none\" or \"required\", did you mean \"required\"?",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_told_and_the_rest_still_read() {
        let text = "count = \nname = 5\nname = 6\nmodee = 'x'\n";
        let told = told(text, |root| {
            root.text("name");
            root.missing("mode");
        });
        assert_eq!(told.len(), 4, "{told:#?}");
        assert!(told[0].starts_with("etc/a.toml:1:"), "{}", told[0]);
        assert_eq!(
            told[1],
            "etc/a.toml:2: name: found the integer 5, expected a name"
        );
        assert!(
            told[2].starts_with("etc/a.toml:3:1: duplicate key"),
            "{}",
            told[2]
        );
        assert_eq!(
            told[3],
            "etc/a.toml:4: modee: unknown key, did you mean \"mode\"?"
        );
    }

    #[test]
    fn a_missing_key_is_told_at_its_table() {
        let told = told("\n[door.front]\n[door.back]\naddress='x'", |root| {
            for (_, door) in root.named_tables("door", &DOOR) {
                if door.text("address").is_none() {
                    door.missing("address");
                }
            }
        });
        assert_eq!(
            told,
            ["etc/a.toml:2: door.front.address: missing, expected an address"]
        );
    }

    #[test]
    fn tables_come_in_the_order_of_the_file() {
        let text = "[door.z]\n[door.a]\n[[point]]\nx=1\n[[point]]\n";
        let document = Document::parse(Path::new("a"), text, SECTIONS);
        let root = document.root(&ROOT);
        let names: Vec<_> = root
            .named_tables("door", &DOOR)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["z", "a"]);
        assert_eq!(root.tables("point", &DOOR).len(), 2);
    }

    #[test]
    fn paths_are_seen_from_the_folder_of_the_file() {
        let document = Document::parse(
            Path::new("etc/a.toml"),
            "name = 'tls/x'\ncertificate='/y'",
            SECTIONS,
        );
        let root = document.root(&ROOT);
        assert_eq!(root.path("name"), Some(PathBuf::from("etc/tls/x")));
        assert_eq!(root.path("certificate"), Some(PathBuf::from("/y")));
    }
}
