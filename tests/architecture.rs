//! Holds `src/` to the map in ARCHITECTURE.md: who may import whom, what the core may not name, and the house
//! rules that are cheap to hold. The tests below the first line of equals signs seed violations and expect to be told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The modules that know no runtime, no file, no socket and no clock.
const PURE: [&str; 4] = ["mqtt", "auth", "hooks", "broker"];

/// What a pure module may not name: a path's beginning, and why.
const IMPURE: [(&str, &str); 17] = [
    ("tokio", "the core knows no runtime"),
    ("tokio_rustls", "the core knows no runtime"),
    ("std::thread", "the core has one owner and starts nothing"),
    ("std::process", "the core starts nothing and ends nothing"),
    ("std::fs", "the core knows no files; storage does"),
    (
        "std::env",
        "the core is told what it needs; config reads the world",
    ),
    ("std::net::TcpStream", "the core knows no sockets; net does"),
    ("std::net::TcpListener", "the core knows no sockets; net does"),
    ("std::net::UdpSocket", "the core knows no sockets; net does"),
    (
        "std::net::ToSocketAddrs",
        "the core asks no name server; net does",
    ),
    (
        "std::net::*",
        "a glob hides sockets; name what you need, as `std::net::IpAddr`",
    ),
    ("std::os", "the core knows no operating system"),
    ("socket2", "the core knows no sockets; net does"),
    ("rustix", "the core knows no operating system"),
    ("serialport", "the core knows no serial ports; serial does"),
    ("std::time::Instant::now", "time is an argument: take `Now`"),
    ("std::time::SystemTime::now", "time is an argument: take `Now`"),
];

/// File and folder names that say nothing: a type lives beside the behaviour that owns it.
const NAMELESS: [&str; 6] = ["utils", "util", "types", "common", "helpers", "misc"];

/// The formatter wraps code at less; this bounds what it leaves alone (comments, strings, macros).
const LINE_COLUMNS_MAX: usize = 120;

#[test]
fn the_sources_keep_to_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let papers = read(&root.join("ARCHITECTURE.md"));
    let map = Map::parse(&papers).unwrap_or_else(|mistake| panic!("ARCHITECTURE.md: {mistake}"));
    let sources = read_tree(root, Path::new("src"), "rs");
    demand_none(&check_sources(&map, &sources));
}

#[test]
fn the_sources_keep_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = Vec::new();
    for folder in ["src", "tests", "benches", "boards", "deploy", "fuzz", ".ci"] {
        for (path, text) in read_tree(root, Path::new(folder), "") {
            violations.extend(check_names(&path));
            violations.extend(check_text(&path, &text));
        }
    }
    for name in ["README.md", "ARCHITECTURE.md", "Cargo.toml", "Cross.toml"] {
        violations.extend(check_text(Path::new(name), &read(&root.join(name))));
    }
    demand_none(&violations);
}

#[test]
fn every_file_in_tests_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = read_tree(root, Path::new("tests"), "");
    let mut mentions = read_tree(root, Path::new("src"), "");
    mentions.extend(tests.clone());
    mentions.extend(read_tree(root, Path::new(".ci"), ""));
    demand_none(&check_tests_used(&tests, &mentions));
}

#[test]
fn every_file_the_papers_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut violations = Vec::new();
    for paper in [
        "README.md",
        "ARCHITECTURE.md",
        "deploy/README.md",
        "boards/README.md",
    ] {
        violations.extend(check_named_files(
            Path::new(paper),
            &read(&root.join(paper)),
            |name| root.join(name).exists(),
        ));
    }
    demand_none(&violations);
}

/// One broken rule, at the line that breaks it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Violation {
    path: PathBuf,
    /// From 1; 0 when the whole file is meant.
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}: {}",
            self.path.display(),
            self.line.max(1),
            self.what
        )
    }
}

fn violation(path: &Path, line: usize, what: impl Into<String>) -> Violation {
    Violation {
        path: path.to_owned(),
        line,
        what: what.into(),
    }
}

fn demand_none(violations: &[Violation]) {
    let list: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(
        violations.is_empty(),
        "{} broken:\n{}\n",
        violations.len(),
        list.join("\n")
    );
}

/// The `imports` block: for every module what it may import. A module may name only what stands on a later line,
/// so the block cannot describe a circle.
#[derive(Debug)]
struct Map {
    allowed: BTreeMap<String, Vec<String>>,
}

impl Map {
    fn parse(papers: &str) -> Result<Self, String> {
        let mut blocks = papers.split("\n```imports\n").skip(1);
        let block = blocks.next().ok_or("no fenced block named `imports` found")?;
        if blocks.next().is_some() {
            return Err("more than one block named `imports`; the map is one".to_owned());
        }
        let (block, _) = block
            .split_once("\n```")
            .ok_or("the block `imports` is not closed")?;

        let mut lines = Vec::new();
        for line in block
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim())
        {
            if line.is_empty() {
                continue;
            }
            let (module, imports) = line
                .split_once(':')
                .ok_or_else(|| format!("`{line}`: expected `module: what it may import`"))?;
            lines.push((module.trim(), imports.split_whitespace().collect::<Vec<_>>()));
        }
        for (index, (module, imports)) in lines.iter().enumerate() {
            let lower: BTreeSet<&str> = lines[index + 1..].iter().map(|(lower, _)| *lower).collect();
            if lower.contains(module) {
                return Err(format!("`{module}` stands in the block twice"));
            }
            if let Some(wrong) = imports.iter().find(|import| !lower.contains(*import)) {
                return Err(format!(
                    "`{module}` may import `{wrong}`, which stands on no later line"
                ));
            }
        }
        let owned = |imports: Vec<&str>| imports.into_iter().map(str::to_owned).collect();
        Ok(Self {
            allowed: lines
                .into_iter()
                .map(|(module, list)| (module.to_owned(), owned(list)))
                .collect(),
        })
    }
}

type Sources = BTreeMap<PathBuf, String>;

/// Walks from `src/main.rs` and `src/lib.rs` through every `mod` to every file, and holds each to the map.
fn check_sources(map: &Map, sources: &Sources) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut reached = BTreeSet::new();
    let mut waiting = vec![
        SourceFile {
            path: "src/lib.rs".into(),
            module: Vec::new(),
            test: false,
        },
        SourceFile {
            path: "src/main.rs".into(),
            module: Vec::new(),
            test: false,
        },
    ];
    while let Some(file) = waiting.pop() {
        let Some(text) = sources.get(&file.path) else {
            continue;
        };
        if !reached.insert(file.path.clone()) {
            continue;
        }
        let tokens = tokenize(text);
        let layout = Layout::of(&tokens);
        for child in &layout.children {
            let candidates = file.child_paths(child);
            match candidates.iter().find(|path| sources.contains_key(*path)) {
                Some(path) => waiting.push(SourceFile {
                    path: path.clone(),
                    module: file
                        .module
                        .iter()
                        .chain(&child.inside)
                        .chain([&child.name])
                        .cloned()
                        .collect(),
                    test: file.test || child.test,
                }),
                None => violations.push(violation(
                    &file.path,
                    child.line,
                    format!("`mod {}` leads to none of {candidates:?}", child.name),
                )),
            }
        }
        violations.extend(check_file(map, &file, &tokens, &layout));
    }

    for path in sources.keys().filter(|path| !reached.contains(*path)) {
        violations.push(violation(
            path,
            0,
            "no `mod` leads to this file; declare it in its parent or remove it",
        ));
    }
    let modules: BTreeSet<String> = sources.keys().filter_map(|path| top_module(path)).collect();
    for module in modules.iter().filter(|module| !map.allowed.contains_key(*module)) {
        let what = format!(
            "module `{module}` is not in the block `imports` of ARCHITECTURE.md; say there what it may import"
        );
        violations.push(violation(&Path::new("src").join(module), 0, what));
    }
    for module in map.allowed.keys().filter(|module| !modules.contains(*module)) {
        let what = format!("the block `imports` names `{module}`, which does not exist in src/");
        violations.push(violation(Path::new("ARCHITECTURE.md"), 0, what));
    }
    violations.sort();
    // One line of `use` may name the same module twice.
    violations.dedup();
    violations
}

/// `src/broker/link.rs` and `src/broker.rs` belong to `broker`; the table of contents, `src/lib.rs`, to nobody.
fn top_module(path: &Path) -> Option<String> {
    let name = path.components().nth(1)?.as_os_str().to_str()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib").then(|| name.to_owned())
}

struct SourceFile {
    path: PathBuf,
    /// From the crate's root, without `crate`.
    module: Vec<String>,
    /// Reached through a `#[cfg(test)] mod`.
    test: bool,
}

impl SourceFile {
    fn child_paths(&self, child: &Child) -> [PathBuf; 2] {
        let mut folder = PathBuf::from("src");
        folder.extend(self.module.iter().chain(&child.inside));
        [
            folder.join(format!("{}.rs", child.name)),
            folder.join(&child.name).join("mod.rs"),
        ]
    }
}

fn check_file(map: &Map, file: &SourceFile, tokens: &[Token], layout: &Layout) -> Vec<Violation> {
    let own = top_module(&file.path);
    let nothing = Vec::new();
    let (name, allowed) = match &own {
        // What an unlisted module imports is moot: that it is unlisted is the finding.
        Some(name) => (name.as_str(), map.allowed.get(name).unwrap_or(&nothing)),
        None => ("lib", &nothing),
    };
    let may = if allowed.is_empty() {
        "nothing".to_owned()
    } else {
        allowed.join(" ")
    };
    let mut violations = Vec::new();
    let mut tell = |line: usize, what: String| violations.push(violation(&file.path, line, what));

    for (line, what) in layout.hidden.iter() {
        tell(*line, (*what).to_owned());
    }
    let pure = PURE.contains(&name) && !file.test;
    let paths = paths(tokens);
    // Where a file calls a thing otherwise, the true name counts.
    let names: HashMap<&str, &[String]> = paths
        .iter()
        .filter_map(|path| Some((path.bound.as_deref()?, &path.segments[..])))
        .collect();
    for path in &paths {
        if let Some(target) = target_module(file, path, layout) {
            let listed = target.as_str() == name || allowed.contains(&target);
            match target.as_str() {
                "*" => tell(
                    path.line,
                    "a glob of the crate's root hides what is imported; name it".to_owned(),
                ),
                "" => tell(
                    path.line,
                    "the crate's root under another name hides what is imported".to_owned(),
                ),
                _ if listed => {}
                _ => tell(
                    path.line,
                    format!("`{name}` names `{target}`, but may import only: {may}"),
                ),
            }
        }
        if pure && !layout.in_test(path.token) {
            let mut segments = path.segments.clone();
            if let Some(true_name) = names.get(segments[0].as_str()).filter(|_| path.bound.is_none()) {
                segments.splice(..1, true_name.iter().cloned());
            }
            if segments[0] == "core" {
                segments[0] = "std".to_owned();
            }
            if let Some((forbidden, why)) = IMPURE
                .iter()
                .find(|(forbidden, _)| begins_with(&segments, forbidden))
            {
                tell(path.line, format!("`{name}` names `{forbidden}`: {why}"));
            }
        }
    }
    if pure {
        for (index, window) in tokens
            .windows(3)
            .enumerate()
            .filter(|(index, _)| !layout.in_test(*index))
        {
            let words = [
                window[0].text.as_str(),
                window[1].text.as_str(),
                window[2].text.as_str(),
            ];
            match words {
                [".", "elapsed", "("] => tell(
                    tokens[index].line,
                    format!("`{name}` asks the clock by `.elapsed()`: time is an argument: take `Now`"),
                ),
                [">", "::", "now"] => {
                    tell(
                        tokens[index].line,
                        format!("`{name}` asks the clock by `>::now`: time is an argument: take `Now`"),
                    );
                }
                _ => {}
            }
        }
    }
    violations
}

/// Whether `segments` begins with the path `forbidden`; a type that is imported alone is known by its last two parts.
fn begins_with(segments: &[String], forbidden: &str) -> bool {
    let forbidden: Vec<&str> = forbidden.split("::").collect();
    if forbidden.last() == Some(&"now") {
        return segments
            .windows(2)
            .any(|pair| pair[0] == forbidden[2] && pair[1] == "now");
    }
    segments.len() >= forbidden.len()
        && segments
            .iter()
            .zip(&forbidden)
            .all(|(found, wanted)| found == wanted)
}

/// The top-level module that a path names, if it leaves its own: through `crate`, the crate's name, or `super`.
/// `*` for everything in the root, nothing for the root itself.
fn target_module(file: &SourceFile, path: &NamedPath, layout: &Layout) -> Option<String> {
    let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let climbs = segments
        .iter()
        .skip_while(|part| **part == "self")
        .take_while(|part| **part == "super")
        .count();
    let rest = match segments[0] {
        "crate" => &segments[1..],
        "tidegate" if segments.len() > 1 || path.imported => &segments[1..],
        "self" | "super" if climbs > 0 => {
            let depth = file.module.len() + layout.depth_at(path.token);
            if climbs < depth {
                return None;
            }
            let skipped = segments.iter().take_while(|part| **part == "self").count() + climbs;
            &segments[skipped..]
        }
        _ => return None,
    };
    // `pub(crate)` is a visibility, not a path.
    if rest.is_empty() && segments[0] == "crate" && !path.imported {
        return None;
    }
    Some(rest.first().copied().unwrap_or_default().to_owned())
}

/// A path as it stands in the source, groups of `use` spread out.
#[derive(Debug, PartialEq)]
struct NamedPath {
    line: usize,
    /// Where it begins in the tokens.
    token: usize,
    segments: Vec<String>,
    /// By `use` or `extern crate`.
    imported: bool,
    /// For an import: the name it goes by in the file.
    bound: Option<String>,
}

fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut importing = false;
    let mut index = 0;
    while index < tokens.len() {
        let text = tokens[index].text.as_str();
        match text {
            "use" | "extern" => importing = true,
            ";" => importing = false,
            // `extern "C" fn`, `extern "C" {`
            "\"" | "fn" => importing = false,
            _ => {}
        }
        let continues = index >= 2 && tokens[index - 1].text == "::" && ends_path(&tokens[index - 2].text);
        let member = index >= 1 && tokens[index - 1].text == ".";
        if begins_path(text) && !continues && !member {
            index = spread(tokens, index, &[], importing, &mut found);
        } else {
            index += 1;
        }
    }
    found
}

/// Reads one path from `index`, with what stands before its group, and returns the index behind it.
fn spread(
    tokens: &[Token],
    index: usize,
    prefix: &[String],
    imported: bool,
    found: &mut Vec<NamedPath>,
) -> usize {
    let start = index;
    let mut index = index;
    let mut segments = prefix.to_vec();
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    loop {
        match text(index) {
            "{" => {
                index += 1;
                while !matches!(text(index), "}" | "") {
                    index = if text(index) == "," {
                        index + 1
                    } else {
                        spread(tokens, index, &segments, imported, found)
                    };
                }
                return index + 1;
            }
            // `a::b::{self}` is `a::b`.
            "self" if !prefix.is_empty() => {}
            part => segments.push(part.to_owned()),
        }
        index += 1;
        if text(index) == "::" && text(index + 1) == "<" {
            index = behind_generics(tokens, index + 1);
        }
        if text(index) == "::" && (is_identifier(text(index + 1)) || matches!(text(index + 1), "{" | "*")) {
            index += 1;
        } else {
            break;
        }
    }
    let mut bound = imported.then(|| segments.last().cloned()).flatten();
    if imported && text(index) == "as" {
        bound = Some(text(index + 1).to_owned());
        index += 2;
    }
    if !segments.is_empty() {
        found.push(NamedPath {
            line: tokens[start].line,
            token: start,
            segments,
            imported,
            bound,
        });
    }
    // Always on, so that odd text cannot hold the walk in one place.
    index.max(start + 1)
}

fn behind_generics(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" if tokens[index - 1].text != "-" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn begins_path(text: &str) -> bool {
    const KEYWORDS: [&str; 33] = [
        "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "fn", "for",
        "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
        "struct", "trait", "type", "union", "unsafe", "use", "where", "while",
    ];
    is_identifier(text) && !KEYWORDS.contains(&text)
}

fn ends_path(text: &str) -> bool {
    begins_path(text) || text == ">"
}

/// What the nesting of a file says: which files belong to it, what stands in tests, and what would hide a file.
struct Layout {
    children: Vec<Child>,
    /// Modules written inside the file: tokens from and to, and whether they are tests.
    inline: Vec<(usize, usize, bool)>,
    hidden: Vec<(usize, &'static str)>,
}

struct Child {
    name: String,
    line: usize,
    /// The modules written inside the file that it stands in.
    inside: Vec<String>,
    test: bool,
}

impl Layout {
    fn of(tokens: &[Token]) -> Self {
        let mut layout = Self {
            children: Vec::new(),
            inline: Vec::new(),
            hidden: Vec::new(),
        };
        let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
        // Of every open brace: the module it opens, if it does.
        let mut open: Vec<Option<(usize, String, bool)>> = Vec::new();
        let mut test = false;
        for (index, token) in tokens.iter().enumerate() {
            match token.text.as_str() {
                "#" if (1..7)
                    .map(|ahead| text(index + ahead))
                    .eq(["[", "cfg", "(", "test", ")", "]"]) =>
                {
                    test = true
                }
                "#" if text(index + 1) == "[" && text(index + 2) == "path" => {
                    layout
                        .hidden
                        .push((token.line, "#[path] hides where a module lies; use its own place"));
                }
                "include" if text(index + 1) == "!" => {
                    layout
                        .hidden
                        .push((token.line, "include! hides source from the map; use `mod`"));
                }
                "mod" if is_identifier(text(index + 1)) && text(index + 2) == ";" => {
                    let enclosing = open.iter().flatten();
                    layout.children.push(Child {
                        name: text(index + 1).to_owned(),
                        line: token.line,
                        test: test || enclosing.clone().any(|(_, _, test)| *test),
                        inside: enclosing.map(|(_, name, _)| name.clone()).collect(),
                    });
                }
                "{" => {
                    let module = index >= 2 && text(index - 2) == "mod";
                    open.push(module.then(|| (index, text(index - 1).to_owned(), test)));
                    test = false;
                }
                "}" => {
                    if let Some(Some((start, _, test))) = open.pop() {
                        layout.inline.push((start, index, test));
                    }
                }
                ";" => test = false,
                _ => {}
            }
        }
        layout
    }

    fn around(&self, token: usize) -> impl Iterator<Item = &(usize, usize, bool)> {
        self.inline
            .iter()
            .filter(move |(start, end, _)| (*start..*end).contains(&token))
    }

    fn depth_at(&self, token: usize) -> usize {
        self.around(token).count()
    }

    fn in_test(&self, token: usize) -> bool {
        self.around(token).any(|(_, _, test)| *test)
    }
}

/// An identifier, `::`, or one sign. A string or character is `"`, a comment is nothing.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

fn tokenize(source: &str) -> Vec<Token> {
    let characters: Vec<char> = source.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < characters.len() {
        let start = index;
        let first = at(index);
        if first == '/' && at(index + 1) == '/' {
            while index < characters.len() && at(index) != '\n' {
                index += 1;
            }
        } else if first == '/' && at(index + 1) == '*' {
            index = behind_comment(&characters, index);
        } else if let Some(end) = behind_string(&characters, index) {
            tokens.push(Token {
                line,
                text: "\"".to_owned(),
            });
            index = end;
        } else if first.is_alphanumeric() || first == '_' {
            while at(index).is_alphanumeric() || at(index) == '_' {
                index += 1;
            }
            tokens.push(Token {
                line,
                text: characters[start..index].iter().collect(),
            });
        } else if first == ':' && at(index + 1) == ':' {
            index += 2;
            tokens.push(Token {
                line,
                text: "::".to_owned(),
            });
        } else {
            index += 1;
            if !first.is_whitespace() {
                tokens.push(Token {
                    line,
                    text: first.to_string(),
                });
            }
        }
        line += characters[start..index]
            .iter()
            .filter(|character| **character == '\n')
            .count();
    }
    tokens
}

fn behind_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = start;
    while index < characters.len() {
        match characters[index..].get(..2) {
            Some(['/', '*']) => (depth, index) = (depth + 1, index + 2),
            Some(['*', '/']) => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

/// Where the string, byte string, raw string or character that begins here ends; a lifetime is none of them.
fn behind_string(characters: &[char], start: usize) -> Option<usize> {
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        prefix
            .chars()
            .enumerate()
            .all(|(offset, wanted)| at(start + offset) == wanted)
    })?;
    let mut index = start + prefix.len();
    if prefix.ends_with('r') {
        let hashes = (index..).take_while(|index| at(*index) == '#').count();
        index += hashes;
        if at(index) != '"' {
            return None;
        }
        index += 1;
        while index < characters.len() {
            if at(index) == '"' && (1..=hashes).all(|ahead| at(index + ahead) == '#') {
                return Some(index + 1 + hashes);
            }
            index += 1;
        }
        return Some(index);
    }
    let quote = at(index);
    let lifetime = quote == '\'' && at(index + 1) != '\\' && at(index + 2) != '\'';
    if !matches!(quote, '"' | '\'') || lifetime {
        return None;
    }
    index += 1;
    while index < characters.len() && at(index) != quote {
        index += if at(index) == '\\' { 2 } else { 1 };
    }
    Some(index + 1)
}

fn check_names(path: &Path) -> Vec<Violation> {
    let nameless = |part: &std::path::Component<'_>| {
        let name = part.as_os_str().to_string_lossy();
        NAMELESS.contains(&name.strip_suffix(".rs").unwrap_or(&name))
    };
    if path.starts_with("src") && path.components().any(|part| nameless(&part)) {
        return vec![violation(
            path,
            0,
            "a name that says nothing; put each piece beside the behaviour that owns it",
        )];
    }
    Vec::new()
}

fn check_text(path: &Path, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, content) in text
        .lines()
        .enumerate()
        .map(|(index, content)| (index + 1, content))
    {
        let columns = content.chars().count();
        if path.extension().is_some_and(|extension| extension == "rs") && columns > LINE_COLUMNS_MAX {
            violations.push(violation(
                path,
                line,
                format!("{columns} columns, at most {LINE_COLUMNS_MAX} allowed"),
            ));
        }
        // Put together here, so that this file does not name what it forbids.
        for folder in ["home", "root", "work", "Users"].map(|name| format!("/{name}/")) {
            let machine = content.match_indices(&folder).any(|(at, _)| {
                !content[..at]
                    .ends_with(|before: char| before.is_alphanumeric() || "._-}*+)".contains(before))
            });
            if machine {
                violations.push(violation(
                    path,
                    line,
                    format!("`{folder}…` is a path of somebody's machine"),
                ));
            }
        }
    }
    violations
}

/// A Rust file of `tests/` is a test of its own or some `mod` leads to it; anything else is named by a file that uses
/// it.
fn check_tests_used(tests: &Sources, mentions: &Sources) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in tests.keys() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".rs").unwrap_or(&name);
        let depth = path.components().count();
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy();
        let used = if name.ends_with(".proptest-regressions") {
            // proptest finds these by the name of the test.
            true
        } else if name.ends_with(".rs") {
            let module = if stem == "mod" { folder.as_ref() } else { stem };
            depth == 2
                || (depth == 3 && stem == "main")
                || tests.iter().any(|(other, text)| {
                    other != path
                        && tokenize(text)
                            .windows(2)
                            .any(|pair| pair[0].text == "mod" && pair[1].text == module)
                })
        } else {
            let named = if depth > 2 {
                format!("{folder}/{name}")
            } else {
                name.to_string()
            };
            mentions.iter().any(|(other, text)| {
                other != path
                    && (text.contains(&named)
                        || (other.parent() == path.parent() && text.contains(name.as_ref())))
            })
        };
        if !used {
            violations.push(violation(
                path,
                0,
                "nothing uses this file; name it where it belongs or remove it",
            ));
        }
    }
    violations
}

/// Whatever a paper puts in backticks and that begins with a folder of ours must be there.
fn check_named_files(paper: &Path, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    const FOLDERS: [&str; 7] = [
        "src/", "tests/", "deploy/", "boards/", "benches/", "fuzz/", ".ci/",
    ];
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let name = quoted.split_whitespace().next().unwrap_or_default();
            let ours = FOLDERS.iter().any(|folder| name.starts_with(folder));
            if ours && !name.contains(['*', '{', '<']) && !exists(name) {
                violations.push(violation(
                    paper,
                    index + 1,
                    format!("names `{name}`, which does not exist"),
                ));
            }
        }
    }
    violations
}

/// All text files below `root/folder`, by their path from `root`; with `extension` empty, of every kind.
fn read_tree(root: &Path, folder: &Path, extension: &str) -> Sources {
    let mut found = Sources::new();
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return found,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            // cargo-fuzz builds inside its folder.
            if entry.file_name() != "target" {
                found.extend(read_tree(root, &path, extension));
            }
        } else if extension.is_empty() || path.extension().is_some_and(|found| found == extension) {
            let text = String::from_utf8_lossy(
                &fs::read(entry.path()).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            )
            .into_owned();
            found.insert(path, text);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// =====================================================================================================================

const SMALL_MAP: &str = "# House\n\n```imports\nnet: broker mqtt\nbroker: mqtt   # the core\nmqtt:\n```\n";

/// Checks one text as `src/broker/mod.rs` in a small house, and returns what was found, as `line: what`.
fn findings(text: &str) -> Vec<String> {
    let lib = "pub mod mqtt;\npub mod broker;\npub mod net;\n";
    let others = [
        ("src/lib.rs", lib),
        ("src/mqtt.rs", ""),
        ("src/net/mod.rs", ""),
        ("src/broker/mod.rs", text),
    ];
    findings_in(&others)
}

fn findings_in(files: &[(&str, &str)]) -> Vec<String> {
    let map = Map::parse(SMALL_MAP).expect("the small map is in order");
    let sources = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
        .collect();
    check_sources(&map, &sources)
        .iter()
        .map(Violation::to_string)
        .collect()
}

#[track_caller]
fn assert_found(text: &str, line: usize, what: &str) {
    let found = findings(text);
    let wanted = format!("src/broker/mod.rs:{line}: ");
    assert!(
        found.len() == 1 && found[0].starts_with(&wanted) && found[0].contains(what),
        "expected one finding `{wanted}…{what}…`, found {found:#?}"
    );
}

#[test]
fn an_allowed_import_is_no_finding() {
    assert_eq!(
        findings("use crate::mqtt::Packet;\nuse crate::broker::x;\npub(crate) fn f() {}\n"),
        [""; 0]
    );
}

#[test]
fn a_forbidden_import_is_found_with_its_line_and_what_is_allowed() {
    assert_found(
        "\nuse crate::net::Link;\n",
        2,
        "`broker` names `net`, but may import only: mqtt",
    );
}

#[test]
fn a_forbidden_import_is_found_inside_a_group_of_several_lines() {
    assert_found(
        "use crate::{\n    mqtt::{Packet, QoS},\n    net::{self, Link},\n};\n",
        3,
        "`net`",
    );
}

#[test]
fn a_forbidden_path_is_found_without_any_use() {
    assert_found("fn f() -> u8 {\n    crate::net::answer()\n}\n", 2, "`net`");
    assert_found("impl From<crate::net::Error> for u8 {}\n", 1, "`net`");
    assert_found("pub(in crate::net) fn f() {}\n", 1, "`net`");
}

#[test]
fn the_crates_own_name_is_as_good_as_crate() {
    assert_found("use ::tidegate::net;\n", 1, "`net`");
    assert_found("use tidegate as house;\n", 1, "another name");
    assert_found("use crate as house;\n", 1, "another name");
}

#[test]
fn super_that_leaves_the_module_is_found_and_super_that_stays_is_not() {
    assert_found("use super::net;\n", 1, "`net`");
    assert_found("mod inner {\n    use super::super::net::Link;\n}\n", 2, "`net`");
    assert_eq!(findings("mod inner {\n    use super::Broker;\n}\n"), [""; 0]);
}

#[test]
fn a_glob_of_the_root_is_found() {
    assert_found("use crate::*;\n", 1, "glob");
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = r####"// use crate::net;
        /* use crate::net; /* nested */ use std::fs; */
        /// [`crate::net::Link`]
        const A: &str = "crate::net \" crate::net";
        const B: &str = r##"crate::net "# crate::net"##;
        const C: (char, &'static [u8]) = ('"', b"crate::net");
        use crate::mqtt::Packet;"####;
    assert_eq!(findings(text), [""; 0]);
}

#[test]
fn code_behind_strings_and_lifetimes_is_still_read() {
    assert_found(
        "fn f<'a>(x: &'a str) -> char {\n '\\''\n}\nuse crate::net;\n",
        4,
        "`net`",
    );
    assert_found("const A: &str = r#\"\n\"#;\nuse crate::net;\n", 3, "`net`");
}

#[test]
fn impure_names_are_found_in_the_core() {
    assert_found("use tokio::time::sleep;\n", 1, "`tokio`");
    assert_found("use std::{fmt, fs};\n", 1, "`std::fs`");
    assert_found("use std::net::{IpAddr, TcpStream};\n", 1, "`std::net::TcpStream`");
    assert_found("use std::net::*;\n", 1, "glob");
    assert_found("fn f() { std::thread::spawn(|| ()); }\n", 1, "`std::thread`");
    assert_found(
        "use std::time::Instant;\nfn f() { Instant::now(); }\n",
        2,
        "Instant::now",
    );
    assert_found(
        "use std::time::SystemTime as Wall;\nfn f() { Wall::now(); }\n",
        2,
        "SystemTime::now",
    );
    assert_found("fn f(then: Instant) { then.elapsed(); }\n", 1, "elapsed");
    assert_found("fn f() { <Instant>::now(); }\n", 1, ">::now");
}

#[test]
fn types_without_a_socket_or_a_clock_are_pure() {
    let text = "use std::net::{IpAddr, SocketAddr};\nuse std::time::{Duration, Instant};\n";
    assert_eq!(findings(text), [""; 0]);
}

#[test]
fn tests_may_ask_the_clock_but_keep_to_the_map() {
    let clock = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { std::time::Instant::now(); }\n}\n";
    assert_eq!(findings(clock), [""; 0]);
    assert_found(
        "#[cfg(test)]\nmod tests {\n    use crate::net::Link;\n}\n",
        3,
        "`net`",
    );
    assert_found(
        "#[cfg(test)]\nuse x::y;\nmod not_tests {\n    use std::fs;\n}\n",
        4,
        "`std::fs`",
    );
}

#[test]
fn the_clock_is_free_above_the_core() {
    let files = [
        ("src/lib.rs", "pub mod mqtt;\npub mod broker;\npub mod net;\n"),
        ("src/mqtt.rs", ""),
        ("src/broker/mod.rs", ""),
        (
            "src/net/mod.rs",
            "use std::fs;\nuse tokio::net::TcpStream;\nuse crate::broker;\n",
        ),
    ];
    assert_eq!(findings_in(&files), [""; 0]);
}

#[test]
fn files_in_test_modules_of_their_own_count_as_tests() {
    let files = [
        ("src/lib.rs", "pub mod mqtt;\npub mod broker;\npub mod net;\n"),
        ("src/mqtt.rs", ""),
        ("src/net/mod.rs", ""),
        ("src/broker/mod.rs", "#[cfg(test)]\nmod tests;\n"),
        ("src/broker/tests.rs", "use std::fs;\n"),
    ];
    assert_eq!(findings_in(&files), [""; 0]);
}

#[test]
fn a_file_that_no_mod_reaches_is_found() {
    let files = [
        ("src/lib.rs", "pub mod mqtt;\npub mod broker;\npub mod net;\n"),
        ("src/mqtt.rs", ""),
        ("src/broker/mod.rs", "mod gone;\n"),
        ("src/broker/forgotten.rs", ""),
        ("src/net/mod.rs", ""),
    ];
    let found = findings_in(&files);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("src/broker/forgotten.rs:1: no `mod`"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("src/broker/mod.rs:1: `mod gone` leads to none of"),
        "{found:#?}"
    );
}

#[test]
fn ways_round_the_map_are_found() {
    assert_found("#[path = \"../net/mod.rs\"]\nmod net {}\n", 1, "#[path]");
    assert_found("include!(\"../net/mod.rs\");\n", 1, "include!");
}

#[test]
fn the_table_of_contents_imports_nothing() {
    let files = [
        (
            "src/lib.rs",
            "pub mod mqtt;\npub mod broker;\npub mod net;\npub use crate::broker::Broker;\n",
        ),
        ("src/mqtt.rs", ""),
        ("src/broker/mod.rs", ""),
        ("src/net/mod.rs", ""),
    ];
    let found = findings_in(&files);
    assert!(
        found.len() == 1 && found[0].starts_with("src/lib.rs:4: `lib` names `broker`"),
        "{found:#?}"
    );
}

#[test]
fn a_module_and_the_block_must_name_each_other() {
    let files = [
        ("src/lib.rs", "pub mod mqtt;\npub mod broker;\npub mod attic;\n"),
        ("src/mqtt.rs", ""),
        ("src/broker.rs", ""),
        ("src/attic/mod.rs", ""),
    ];
    let found = findings_in(&files);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("names `net`, which does not exist"),
        "{found:#?}"
    );
    assert!(found[1].contains("`attic` is not in the block"), "{found:#?}");
}

#[test]
fn a_map_that_points_up_or_repeats_itself_is_refused() {
    let map = |block: &str| {
        Map::parse(&format!("x\n```imports\n{block}\n```\n"))
            .err()
            .unwrap_or_default()
    };
    assert_eq!(map("mqtt: net\nnet:"), "");
    assert_eq!(
        map("mqtt:\nnet: mqtt"),
        "`net` may import `mqtt`, which stands on no later line"
    );
    assert_eq!(map("net:\nmqtt:\nnet:"), "`net` stands in the block twice");
    assert_eq!(map("net"), "`net`: expected `module: what it may import`");
    assert_eq!(
        Map::parse("nothing").err().as_deref(),
        Some("no fenced block named `imports` found")
    );
}

#[test]
fn house_rules_find_long_lines_and_nameless_files_and_paths_of_a_machine() {
    let long = format!("//{}\n", "x".repeat(LINE_COLUMNS_MAX));
    assert_eq!(check_text(Path::new("src/a.rs"), &long).len(), 1);
    assert_eq!(check_text(Path::new("README.md"), &long), []);
    let machine = format!("let a = \"/{}/me\";\n", "home");
    assert_eq!(check_text(Path::new("src/a.rs"), &machine).len(), 1);
    assert_eq!(
        check_text(Path::new("src/a.rs"), "let a = \"site/home/a\";\n"),
        []
    );
    assert_eq!(check_names(Path::new("src/broker/utils.rs")).len(), 1);
    assert_eq!(check_names(Path::new("src/types/a.rs")).len(), 1);
    assert_eq!(check_names(Path::new("src/broker/link.rs")), []);
}

#[test]
fn a_test_file_that_nothing_uses_is_found() {
    let tree = |files: &[(&str, &str)]| -> Sources {
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect()
    };
    let tests = tree(&[
        ("tests/a.rs", "mod catalogue;\nconst X: &str = \"data.bin\";"),
        ("tests/catalogue/mod.rs", ""),
        ("tests/lonely/part.rs", ""),
        ("tests/data.bin", ""),
        ("tests/stray.bin", ""),
        ("tests/interop/run", ""),
        ("tests/arm/run", ""),
    ]);
    let mut mentions = tests.clone();
    mentions.extend(tree(&[(".ci/run", "tests/interop/run\n")]));
    let found: Vec<_> = check_tests_used(&tests, &mentions)
        .into_iter()
        .map(|found| found.path)
        .collect();
    assert_eq!(
        found,
        ["tests/arm/run", "tests/lonely/part.rs", "tests/stray.bin"].map(PathBuf::from)
    );
}

#[test]
fn a_paper_that_names_a_missing_file_is_found() {
    let text =
        "see `src/here.rs` and `src/gone.rs`, `cargo test`, `deploy/build.sh TRIPLE`, `src/*/mod.rs`\n";
    let found = check_named_files(Path::new("README.md"), text, |name| {
        name == "src/here.rs" || name == "deploy/build.sh"
    });
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .to_string()
            .starts_with("README.md:1: names `src/gone.rs`")
    );
}
