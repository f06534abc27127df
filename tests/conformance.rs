//! Holds `tests/CONFORMANCE.md` to the standards, to the tests it names and to `src/`. The tests at the end seed
//! mistakes and expect to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A standard, as its own list of normative statements (Appendix B) counts them.
struct Standard {
    /// The heading of its table.
    heading: &'static str,
    /// What stands behind its numbers in the sources, inside the brackets.
    mark: &'static str,
    /// Each section that holds statements, and the first and last number it gives them.
    sections: &'static [(&'static str, u32, u32)],
}

const MQTT_5_0: Standard = Standard {
    heading: "## MQTT 5.0",
    mark: "",
    // Section 4.2 is written without its third number where the statement stands; Appendix B calls it 4.2.0.
    sections: &[
        ("1.5.4", 1, 3),
        ("1.5.5", 1, 1),
        ("1.5.7", 1, 1),
        ("2.1.3", 1, 1),
        ("2.2.1", 2, 6),
        ("2.2.2", 1, 1),
        ("3.1.0", 1, 2),
        ("3.1.2", 1, 30),
        ("3.1.3", 1, 12),
        ("3.1.4", 1, 6),
        ("3.2.0", 1, 2),
        ("3.2.2", 1, 22),
        ("3.3.1", 1, 13),
        ("3.3.2", 1, 20),
        ("3.3.4", 1, 10),
        ("3.4.2", 1, 3),
        ("3.5.2", 1, 3),
        ("3.6.1", 1, 1),
        ("3.6.2", 1, 3),
        ("3.7.2", 1, 3),
        ("3.8.1", 1, 1),
        ("3.8.3", 1, 5),
        ("3.8.4", 1, 8),
        ("3.9.2", 1, 2),
        ("3.9.3", 1, 2),
        ("3.10.1", 1, 1),
        ("3.10.3", 1, 2),
        ("3.10.4", 1, 6),
        ("3.11.2", 1, 2),
        ("3.11.3", 1, 2),
        ("3.12.4", 1, 1),
        ("3.14.0", 1, 1),
        ("3.14.1", 1, 1),
        ("3.14.2", 1, 4),
        ("3.14.4", 1, 3),
        ("3.15.1", 1, 1),
        ("3.15.2", 1, 3),
        ("4.1.0", 1, 2),
        ("4.2", 1, 1),
        ("4.3.1", 1, 1),
        ("4.3.2", 1, 5),
        ("4.3.3", 1, 13),
        ("4.4.0", 1, 2),
        ("4.5.0", 1, 2),
        ("4.6.0", 1, 6),
        ("4.7.0", 1, 1),
        ("4.7.1", 1, 2),
        ("4.7.2", 1, 1),
        ("4.7.3", 1, 4),
        ("4.8.2", 1, 6),
        ("4.9.0", 1, 3),
        ("4.12.0", 1, 7),
        ("4.12.1", 1, 2),
        ("4.13.1", 1, 1),
        ("4.13.2", 1, 1),
        ("6.0.0", 1, 4),
    ],
};

const MQTT_3_1_1: Standard = Standard {
    heading: "## MQTT 3.1.1",
    mark: " of 3.1.1",
    // Appendix B writes 3.1.2-7 with a third point, and 3.8.3-4 with one dash too many.
    sections: &[
        ("1.5.3", 1, 3),
        ("2.2.2", 1, 2),
        ("2.3.1", 1, 7),
        ("3.1.0", 1, 2),
        ("3.1.2", 1, 24),
        ("3.1.3", 1, 11),
        ("3.1.4", 1, 5),
        ("3.2.0", 1, 1),
        ("3.2.2", 1, 6),
        ("3.3.1", 1, 12),
        ("3.3.2", 1, 3),
        ("3.3.4", 1, 1),
        ("3.3.5", 1, 2),
        ("3.6.1", 1, 1),
        ("3.8.1", 1, 1),
        ("3.8.3", 1, 4),
        ("3.8.4", 1, 6),
        ("3.9.3", 1, 2),
        ("3.10.1", 1, 1),
        ("3.10.3", 1, 2),
        ("3.10.4", 1, 6),
        ("3.12.4", 1, 1),
        ("3.14.1", 1, 1),
        ("3.14.4", 1, 3),
        ("4.1.0", 1, 2),
        ("4.3.1", 1, 1),
        ("4.3.2", 1, 2),
        ("4.3.3", 1, 2),
        ("4.4.0", 1, 1),
        ("4.5.0", 1, 2),
        ("4.6.0", 1, 6),
        ("4.7.1", 1, 3),
        ("4.7.2", 1, 1),
        ("4.7.3", 1, 4),
        ("4.8.0", 1, 2),
        ("6.0.0", 1, 4),
        ("7.0.0", 1, 2),
        ("7.1.1", 1, 1),
        ("7.1.2", 1, 1),
    ],
};

#[test]
fn every_statement_of_3_1_1_is_kept_and_shown() {
    hold(&MQTT_3_1_1);
}

#[test]
fn every_point_of_3_1_is_shown() {
    let (papers, _, tests) = package();
    let lines = papers.lines().skip_while(|line| *line != "## MQTT 3.1").skip(1);
    let rows: Vec<Vec<&str>> = lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "there is no table under the heading of 3.1");
    for row in rows {
        let &["", point, what_we_do, shown_by, ""] = row.as_slice() else {
            panic!("not a row of three cells: {row:?}");
        };
        assert!(!what_we_do.is_empty(), "{point}: the row does not say what we do");
        assert_eq!(check_tests(point, shown_by, &tests), [""; 0]);
    }
}

/// One statement's row.
#[derive(Debug)]
struct Row {
    /// Without "MQTT-".
    number: String,
    /// The number of 5.0 under which the same rule stands in the sources.
    number_of_5_0: Option<String>,
    what_we_do: String,
    shown_by: String,
}

#[test]
fn every_statement_of_5_0_is_kept_and_shown() {
    hold(&MQTT_5_0);
}

/// Files by their path under the root of the package.
type Sources = BTreeMap<PathBuf, String>;

impl Standard {
    fn numbers(&self) -> Vec<String> {
        self.sections
            .iter()
            .flat_map(|(section, first, last)| (*first..=*last).map(move |n| format!("{section}-{n}")))
            .collect()
    }
}

/// What is wrong with the table of `standard` in `papers`.
fn check(standard: &Standard, papers: &str, src: &Sources, tests: &Sources) -> Vec<String> {
    let rows = match rows(standard, papers) {
        Ok(rows) => rows,
        Err(mistake) => return vec![mistake],
    };
    let mut mistakes = Vec::new();
    let expected = standard.numbers();
    let found: Vec<&str> = rows.iter().map(|row| row.number.as_str()).collect();
    for number in &expected {
        match found.iter().filter(|found| *found == number).count() {
            1 => {}
            count => mistakes.push(format!("MQTT-{number} has {count} rows, expected one")),
        }
    }
    for number in &found {
        if !expected.iter().any(|expected| expected == number) {
            mistakes.push(format!("MQTT-{number} is no statement of the standard"));
        }
    }
    if mistakes.is_empty() && found != expected {
        mistakes.push("the rows do not stand in the order of the standard".into());
    }
    let in_src = numbers_named(standard, src, true);
    let in_src_of_5_0 = numbers_named(&MQTT_5_0, src, true);
    for row in &rows {
        let stands_in_src = match &row.number_of_5_0 {
            None => in_src.contains(&row.number),
            Some(number) => in_src_of_5_0.contains(number),
        };
        mistakes.extend(check_row(row, stands_in_src, tests));
    }
    let everywhere = numbers_named(standard, src, false)
        .into_iter()
        .chain(numbers_named(standard, tests, false));
    for number in everywhere.collect::<BTreeSet<_>>() {
        if !expected.contains(&number) {
            mistakes.push(format!(
                "src or tests name [MQTT-{number}{}], which the standard does not have",
                standard.mark
            ));
        }
    }
    mistakes
}

fn check_row(row: &Row, stands_in_src: bool, tests: &Sources) -> Vec<String> {
    let number = &row.number;
    let mut mistakes = Vec::new();
    if row.what_we_do.is_empty() {
        mistakes.push(format!("MQTT-{number}: the row does not say what we do"));
    }
    mistakes.extend(check_tests(&format!("MQTT-{number}"), &row.shown_by, tests));
    let is_shown = row.shown_by.contains('`');
    if is_shown && !stands_in_src {
        let under = row.number_of_5_0.as_ref();
        let under = under.map_or(String::new(), |number| format!(", nor does {number} of 5.0"));
        mistakes.push(format!("MQTT-{number} stands in no comment of src{under}"));
    }
    mistakes
}

/// What is wrong with the tests that the row `of` names.
fn check_tests(of: &str, shown_by: &str, tests: &Sources) -> Vec<String> {
    let mut mistakes = Vec::new();
    let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        if !shown_by.starts_with("not applicable: ") {
            mistakes.push(format!(
                "{of}: names no test and does not say \"not applicable: \" and why"
            ));
        }
        return mistakes;
    }
    for name in names {
        let Some((file, test)) = name.rsplit_once("::") else {
            mistakes.push(format!("{of}: `{name}` is not file::test"));
            continue;
        };
        let path = if file.ends_with(".rs") {
            PathBuf::from(file)
        } else {
            Path::new("tests").join(file).with_extension("rs")
        };
        if file == "catalogue" {
            if !catalogued(tests, test) {
                mistakes.push(format!("{of}: the catalogue has no entry \"{test}\""));
            }
            continue;
        }
        match tests.get(&path) {
            None => mistakes.push(format!("{of}: there is no {}", path.display())),
            Some(text) if !holds_test(text, test) => {
                mistakes.push(format!("{of}: {} has no test {test}", path.display()));
            }
            Some(_) => {}
        }
    }
    mistakes
}

/// The rows of the table under the heading of `standard`.
fn rows(standard: &Standard, papers: &str) -> Result<Vec<Row>, String> {
    let mut lines = papers.lines().skip_while(|line| *line != standard.heading);
    if lines.next().is_none() {
        return Err(format!("there is no heading `{}`", standard.heading));
    }
    lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| MQTT-"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            match cells.as_slice() {
                ["", number, what_we_do, shown_by, ""] => {
                    let number = number.trim_start_matches("MQTT-").trim_end_matches(')');
                    let (number, number_of_5_0) = match number.split_once(" (5.0: ") {
                        Some((number, number_of_5_0)) => (number, Some(number_of_5_0.into())),
                        None => (number, None),
                    };
                    Ok(Row {
                        number: number.into(),
                        number_of_5_0,
                        what_we_do: (*what_we_do).into(),
                        shown_by: (*shown_by).into(),
                    })
                }
                _ => Err(format!("not a row of three cells: {line}")),
            }
        })
        .collect()
}

/// Whether an entry of the catalogue of packets has this name.
fn catalogued(tests: &Sources, name: &str) -> bool {
    let quoted = format!("\"{name}\"");
    ["valid", "malformed"].iter().any(|file| {
        let path = Path::new("tests/catalogue").join(file).with_extension("rs");
        tests.get(&path).is_some_and(|text| text.contains(&quoted))
    })
}

/// Whether `text` has a function `name` with an attribute that makes it a test.
fn holds_test(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let is_function = line.starts_with(&head) || line.starts_with(&format!("async {head}"));
        is_function
            && lines[..at]
                .iter()
                .rev()
                .take_while(|above| above.starts_with("#[") || above.starts_with("//"))
                .any(|above| above.starts_with("#[") && above.contains("test"))
    })
}

/// The numbers of `standard` that `sources` name, or only those named in a comment.
fn numbers_named(standard: &Standard, sources: &Sources, in_comments: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, text) in sources {
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with(file!()) {
            continue;
        }
        for line in text.lines() {
            let line = match (in_comments, line.split_once("//")) {
                (false, _) => line,
                (true, Some((_, comment))) => comment,
                (true, None) => continue,
            };
            for (at, opening) in line.match_indices("[MQTT-") {
                let rest = &line[at + opening.len()..];
                let Some((inside, _)) = rest.split_once(']') else {
                    found.insert(format!("{rest} (not closed on its line)"));
                    continue;
                };
                let digits = inside.find(|c: char| !(c.is_ascii_digit() || ".-".contains(c)));
                let (number, mark) = inside.split_at(digits.unwrap_or(inside.len()));
                if mark == standard.mark {
                    found.insert(number.into());
                }
            }
        }
    }
    found
}

fn read_tree(root: &Path, folder: &Path) -> Sources {
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
            found.extend(read_tree(root, &path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path());
            found.insert(
                path.clone(),
                text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            );
        }
    }
    found
}

/// The table, `src/`, and all that may hold a test.
fn package() -> (String, Sources, Sources) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let papers = fs::read_to_string(root.join("tests/CONFORMANCE.md")).expect("the table can be read");
    let src = read_tree(root, Path::new("src"));
    let mut tests = read_tree(root, Path::new("tests"));
    tests.extend(src.clone());
    (papers, src, tests)
}

/// The whole package against the table of `standard`.
fn hold(standard: &Standard) {
    let (papers, src, tests) = package();
    let mistakes = check(standard, &papers, &src, &tests);
    assert!(
        mistakes.is_empty(),
        "{} mistakes in tests/CONFORMANCE.md:\n{}\n",
        mistakes.len(),
        mistakes.join("\n")
    );
}

// =====================================================================================================================

const SEEDED: Standard = Standard {
    heading: "## Seeded",
    mark: " of a seed",
    sections: &[("1.1.1", 1, 2), ("1.1.2", 1, 1)],
};

const SEEDED_TEST: &str = "#[test]\n#[ignore]\nfn shown() {}\nfn helper() {}\n";

fn seeded(rows: &str, source: &str) -> Vec<String> {
    let src = Sources::from([("src/a.rs".into(), source.into())]);
    let tests = Sources::from([
        ("tests/a.rs".into(), SEEDED_TEST.into()),
        ("tests/catalogue/valid.rs".into(), "entry(\"a packet\")".into()),
    ]);
    check(&SEEDED, &format!("## Seeded\n{rows}\n## Another\n"), &src, &tests)
}

const GOOD_ROWS: &str = "\
    | MQTT-1.1.1-1 | This. | `a::shown` |\n\
    | MQTT-1.1.1-2 | That. | client: `tests/a.rs::shown`, `catalogue::a packet` |\n\
    | MQTT-1.1.2-1 | Nothing. | not applicable: we are no printer |";

const GOOD_SOURCE: &str =
    "a(); // [MQTT-1.1.1-1 of a seed]\n/// [MQTT-1.1.1-2 of a seed] [MQTT-9.9.9-9] of another\n";

#[test]
fn a_table_that_agrees_with_the_sources_is_taken() {
    assert_eq!(seeded(GOOD_ROWS, GOOD_SOURCE), [""; 0]);
}

#[test]
fn every_mistake_in_a_table_is_told() {
    let told = |from: &str, to: &str| {
        assert!(GOOD_ROWS.contains(from));
        seeded(&GOOD_ROWS.replace(from, to), GOOD_SOURCE)
    };
    assert_eq!(
        told("| MQTT-1.1.1-1 |", "| MQTT-1.1.1-3 |"),
        [
            "MQTT-1.1.1-1 has 0 rows, expected one",
            "MQTT-1.1.1-3 is no statement of the standard",
            "MQTT-1.1.1-3 stands in no comment of src",
        ]
    );
    assert_eq!(
        told("MQTT-1.1.1-2", "MQTT-1.1.1-1"),
        [
            "MQTT-1.1.1-1 has 2 rows, expected one",
            "MQTT-1.1.1-2 has 0 rows, expected one",
        ]
    );
    assert_eq!(
        told("`a::shown`", "`a::helper`"),
        ["MQTT-1.1.1-1: tests/a.rs has no test helper"]
    );
    assert_eq!(
        told("`a::shown`", "`b::shown`"),
        ["MQTT-1.1.1-1: there is no tests/b.rs"]
    );
    assert_eq!(
        told("`a::shown`", "`shown`"),
        ["MQTT-1.1.1-1: `shown` is not file::test"]
    );
    assert_eq!(
        told("a packet", "a pocket"),
        ["MQTT-1.1.1-2: the catalogue has no entry \"a pocket\""]
    );
    assert_eq!(
        told("not applicable: ", "who knows "),
        ["MQTT-1.1.2-1: names no test and does not say \"not applicable: \" and why"]
    );
    assert_eq!(
        told("This.", ""),
        ["MQTT-1.1.1-1: the row does not say what we do"]
    );
    assert_eq!(
        told("| This. |", "| This. | or | that. |"),
        ["not a row of three cells: | MQTT-1.1.1-1 | This. | or | that. | `a::shown` |"]
    );
    let swapped: Vec<&str> = GOOD_ROWS.lines().rev().collect();
    assert_eq!(
        seeded(&swapped.join("\n"), GOOD_SOURCE),
        ["the rows do not stand in the order of the standard"]
    );
}

#[test]
fn a_rule_that_stands_under_its_number_of_5_0_is_found_there_and_only_there() {
    let rows = GOOD_ROWS.replace("| MQTT-1.1.1-1 |", "| MQTT-1.1.1-1 (5.0: 3.1.0-1) |");
    assert_eq!(
        seeded(&rows, &format!("{GOOD_SOURCE}// [MQTT-3.1.0-1]\n")),
        [""; 0]
    );
    assert_eq!(
        seeded(&rows, GOOD_SOURCE),
        ["MQTT-1.1.1-1 stands in no comment of src, nor does 3.1.0-1 of 5.0"]
    );
}

#[test]
fn a_number_that_only_one_side_knows_is_told() {
    assert_eq!(
        seeded(
            GOOD_ROWS,
            &GOOD_SOURCE.replace("// [MQTT-1.1.1-1", "[MQTT-1.1.1-1")
        ),
        ["MQTT-1.1.1-1 stands in no comment of src"]
    );
    assert_eq!(
        seeded(GOOD_ROWS, &format!("{GOOD_SOURCE}// [MQTT-1.1.3-1 of a seed]")),
        ["src or tests name [MQTT-1.1.3-1 of a seed], which the standard does not have"]
    );
}
