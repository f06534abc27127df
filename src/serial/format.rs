//! How a line of text tells its values: JSON, key=value, CSV columns, or named captures of a regular expression.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use regex_lite::Regex;

use super::points::PointSettings;
use super::settings::SettingsError;
use super::template::Name;
use super::{Content, Garble, Raw, Sample};

/// How a line tells its values.
#[derive(Debug, Clone)]
pub enum Format {
    /// Each line is one JSON text; points are found by path.
    Json,
    /// `temperature=21.5;humidity=48`; points are found by key.
    KeyValue(Separators),
    /// `21.5,48`; points are found by column.
    Csv(Delimiter),
    /// Anything; points are the named captures.
    Regex(Pattern),
}

/// The characters that part key=value pairs from each other, and keys from values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Separators {
    pair: Box<[char]>,
    key: Box<[char]>,
}

/// The character between two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(char);

/// A regular expression with at least one named capture, such as `T=(?<temperature>[0-9.]+)`.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// A point of a line: what it is, and where the line holds it.
#[derive(Debug, Clone)]
pub struct LinePoint {
    /// What it is.
    pub settings: PointSettings,
    /// Where it is; `None`: where its name says, which CSV columns have not.
    pub place: Option<Place>,
}

/// Where a line holds a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In JSON: the way to the value.
    Path(JsonPath),
    /// In key=value text: the key.
    Key(String),
    /// In CSV: the column, from 1.
    Column(NonZeroU16),
    /// In a regular expression: the name of the capture.
    Capture(String),
}

/// The way to a value in a JSON text: `temperature`, `$.env.temp`, `sensors[0].value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Box<[Step]>);

/// Why text is no part of a [`Format`] or of a [`Place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// A JSON path with an empty step, or with an index that is no number.
    Path(String),
    /// No separator, one that is a line end, a letter or a digit, or one in both lists.
    Separators,
    /// Not one character, or one that is a line end, a letter or a digit.
    Delimiter(String),
    /// No regular expression, and why.
    Pattern(String),
    /// A regular expression without a named capture.
    PatternWithoutCapture,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A format with the place of every point, in the order of the device's points.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Extractor {
    Json(Vec<JsonPath>),
    KeyValue(Separators, Vec<String>),
    /// Columns from 0.
    Csv(Delimiter, Vec<usize>),
    Regex(Pattern, Vec<String>),
}

impl PartialEq for Pattern {
    /// Whether both are written alike.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Separators {
    /// Takes the characters of `pair` and of `key`, each of which separates alone.
    ///
    /// # Errors
    /// [`FormatError::Separators`].
    pub fn new(pair: &str, key: &str) -> Result<Self, FormatError> {
        let both_useful =
            !pair.is_empty() && !key.is_empty() && pair.chars().chain(key.chars()).all(separates);
        if !both_useful || pair.chars().any(|character| key.contains(character)) {
            return Err(FormatError::Separators);
        }
        Ok(Self {
            pair: pair.chars().collect(),
            key: key.chars().collect(),
        })
    }
}

impl Default for Separators {
    /// Pairs parted by comma, semicolon, space or tab, keys and values by `=` or `:`.
    fn default() -> Self {
        Self {
            pair: [',', ';', ' ', '\t'].into(),
            key: ['=', ':'].into(),
        }
    }
}

impl FromStr for Delimiter {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) if separates(character) => Ok(Self(character)),
            _ => Err(FormatError::Delimiter(text.to_owned())),
        }
    }
}

impl Default for Delimiter {
    fn default() -> Self {
        Self(',')
    }
}

/// Whether a character can stand between values: a line end never arrives, the others are what values are made of.
fn separates(character: char) -> bool {
    !matches!(character, '\n' | '\r') && !character.is_alphanumeric()
}

impl FromStr for Pattern {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let regex = Regex::new(text).map_err(|error| FormatError::Pattern(error.to_string()))?;
        if regex.capture_names().flatten().next().is_none() {
            return Err(FormatError::PatternWithoutCapture);
        }
        Ok(Self(regex))
    }
}

impl JsonPath {
    /// The path of one key, whatever characters it is made of.
    pub fn key(key: &str) -> Self {
        Self([Step::Key(key.to_owned())].into())
    }
}

impl FromStr for JsonPath {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let refused = || FormatError::Path(text.to_owned());
        let mut steps = Vec::new();
        let path = match text.strip_prefix('$') {
            Some("") => return Ok(Self([].into())),
            Some(rest) if rest.starts_with('[') => rest,
            Some(rest) => rest.strip_prefix('.').ok_or_else(refused)?,
            None => text,
        };
        for (position, dotted) in path.split('.').enumerate() {
            let (key, indices) = dotted.split_at(dotted.find('[').unwrap_or(dotted.len()));
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            } else if position > 0 || indices.is_empty() {
                return Err(refused());
            }
            let mut rest = indices;
            while let Some(after) = rest.strip_prefix('[') {
                let (index, after) = after.split_once(']').ok_or_else(refused)?;
                steps.push(Step::Index(index.parse().map_err(|_| refused())?));
                rest = after;
            }
            if !rest.is_empty() {
                return Err(refused());
            }
        }
        Ok(Self(steps.into()))
    }
}

impl Extractor {
    pub(super) fn new(format: Format, points: &[LinePoint]) -> Result<Self, SettingsError> {
        Ok(match format {
            Format::Json => Self::Json(collect(points, "a path", |name, place| match place {
                None => Some(JsonPath::key(name.as_str())),
                Some(Place::Path(path)) => Some(path.clone()),
                Some(_) => None,
            })?),
            Format::KeyValue(separators) => Self::KeyValue(
                separators,
                collect(points, "a key", |name, place| match place {
                    None => Some(name.as_str().to_owned()),
                    Some(Place::Key(key)) => Some(key.clone()),
                    Some(_) => None,
                })?,
            ),
            Format::Csv(delimiter) => Self::Csv(
                delimiter,
                collect(points, "a column", |_, place| match place {
                    Some(Place::Column(column)) => Some(usize::from(column.get()) - 1),
                    _ => None,
                })?,
            ),
            Format::Regex(pattern) => {
                let captures = collect(points, "a capture", |name, place| match place {
                    None => Some(name.as_str().to_owned()),
                    Some(Place::Capture(capture)) => Some(capture.clone()),
                    Some(_) => None,
                })?;
                for (point, capture) in points.iter().zip(&captures) {
                    let known = || pattern.0.capture_names().flatten();
                    if !known().any(|name| name == capture) {
                        return Err(SettingsError::UnknownCapture {
                            point: point.settings.name.clone(),
                            capture: capture.clone(),
                            known: known().map(str::to_owned).collect(),
                        });
                    }
                }
                Self::Regex(pattern, captures)
            }
        })
    }
}

/// The place of every point; `place` gives `None` where the format cannot use what was written.
fn collect<P>(
    points: &[LinePoint],
    expected: &'static str,
    place: impl Fn(&Name, Option<&Place>) -> Option<P>,
) -> Result<Vec<P>, SettingsError> {
    points
        .iter()
        .map(|point| {
            place(&point.settings.name, point.place.as_ref()).ok_or_else(|| SettingsError::Place {
                point: point.settings.name.clone(),
                found: match point.place {
                    None => "no place",
                    Some(Place::Path(_)) => "a path",
                    Some(Place::Key(_)) => "a key",
                    Some(Place::Column(_)) => "a column",
                    Some(Place::Capture(_)) => "a capture",
                },
                expected,
            })
        })
        .collect()
}

impl Extractor {
    /// What `line` says.
    pub(super) fn extract(&self, line: &[u8]) -> Content {
        // No text has them; noise and a wrong speed do.
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Content::Garbled(Garble::Malformed);
        }
        // Bytes that are no text become U+FFFD, which no number holds and no text point accepts: noise in a label
        // nobody asked for, or a degree sign in an old character set, does no harm.
        let samples = match self {
            Self::Json(paths) => json_values(paths, line),
            Self::KeyValue(separators, keys) => {
                Some(key_values(separators, keys, &String::from_utf8_lossy(line)))
            }
            Self::Csv(delimiter, columns) => csv_values(*delimiter, columns, &String::from_utf8_lossy(line)),
            Self::Regex(pattern, captures) => {
                captured_values(pattern, captures, &String::from_utf8_lossy(line))
            }
        };
        match samples {
            None => Content::Garbled(Garble::Malformed),
            Some(samples) if samples.is_empty() => Content::Garbled(Garble::NothingKnown),
            Some(samples) => Content::Values(samples),
        }
    }
}

fn json_values(paths: &[JsonPath], line: &[u8]) -> Option<Vec<Sample>> {
    let text: serde_json::Value = serde_json::from_slice(line).ok()?;
    let found = |(point, path): (usize, &JsonPath)| {
        let value = path.0.iter().try_fold(&text, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })?;
        let raw = match value {
            serde_json::Value::Number(number) => number.as_f64().map_or(Raw::Nothing, Raw::Number),
            serde_json::Value::String(text) => Raw::Text(text.trim().to_owned()),
            serde_json::Value::Bool(truth) => Raw::Text(truth.to_string()),
            // A sensor that measured nothing sends null; a list or an object is no value.
            _ => Raw::Nothing,
        };
        Some(Sample { point, raw })
    };
    Some(paths.iter().enumerate().filter_map(found).collect())
}

fn key_values(separators: &Separators, keys: &[String], line: &str) -> Vec<Sample> {
    let pairs: Vec<(&str, &str)> = line
        .split(&*separators.pair)
        .filter_map(|pair| pair.split_once(&*separators.key))
        .collect();
    let found = |(point, key): (usize, &String)| {
        let (_, value) = pairs.iter().find(|(name, _)| name.trim() == key)?;
        Some(Sample {
            point,
            raw: raw_text(value),
        })
    };
    keys.iter().enumerate().filter_map(found).collect()
}

/// `None` where a column is missing: then the line is cut short, and its last column may be too.
fn csv_values(delimiter: Delimiter, columns: &[usize], line: &str) -> Option<Vec<Sample>> {
    let fields: Vec<&str> = line.split(delimiter.0).collect();
    let found = |(point, column): (usize, &usize)| {
        let field = fields.get(*column)?.trim();
        let unquoted = field
            .strip_prefix('"')
            .and_then(|field| field.strip_suffix('"'))
            .unwrap_or(field);
        Some(Sample {
            point,
            raw: raw_text(unquoted),
        })
    };
    columns.iter().enumerate().map(found).collect()
}

fn captured_values(pattern: &Pattern, captures: &[String], line: &str) -> Option<Vec<Sample>> {
    let matched = pattern.0.captures(line)?;
    let found = |(point, capture): (usize, &String)| {
        Some(Sample {
            point,
            raw: raw_text(matched.name(capture)?.as_str()),
        })
    };
    Some(captures.iter().enumerate().filter_map(found).collect())
}

fn raw_text(text: &str) -> Raw {
    match text.trim() {
        "" => Raw::Nothing,
        text => Raw::Text(text.to_owned()),
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(found) => {
                write!(
                    f,
                    "{found:?} is no path, expected one such as temperature, $.env.temp or sensors[0].value"
                )
            }
            Self::Separators => f.write_str(
                "expected at least one separator of each kind, none of them a letter, a digit or a line end, \
                 and none of both kinds",
            ),
            Self::Delimiter(found) => {
                write!(
                    f,
                    "delimiter {found:?}, expected one character that is no letter, digit or line end"
                )
            }
            Self::Pattern(why) => write!(f, "no regular expression: {why}"),
            Self::PatternWithoutCapture => {
                f.write_str("no named capture, expected at least one such as (?<temperature>[0-9.]+)")
            }
        }
    }
}

impl std::error::Error for FormatError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicName;

    fn try_extractor(format: Format, places: &[(&str, Option<Place>)]) -> Result<Extractor, SettingsError> {
        let point = |(name, place): &(&str, Option<Place>)| LinePoint {
            settings: PointSettings::new(name.parse().unwrap(), TopicName::try_from(*name).unwrap()),
            place: place.clone(),
        };
        let points: Vec<LinePoint> = places.iter().map(point).collect();
        Extractor::new(format, &points)
    }

    fn extractor(format: Format, places: &[(&str, Option<Place>)]) -> Extractor {
        try_extractor(format, places).unwrap()
    }

    fn column(number: u16) -> Option<Place> {
        NonZeroU16::new(number).map(Place::Column)
    }

    fn csv() -> Extractor {
        extractor(
            Format::Csv(Delimiter::default()),
            &[("t", column(1)), ("h", column(3))],
        )
    }

    fn contents(extractor: Extractor, lines: &[u8]) -> Vec<Content> {
        lines
            .trim_ascii_end()
            .split(|byte| *byte == b'\n')
            .map(|line| extractor.extract(line))
            .collect()
    }

    fn values<const N: usize>(values: [(usize, Raw); N]) -> Content {
        Content::Values(values.map(|(point, raw)| Sample { point, raw }).into())
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    const MALFORMED: Content = Content::Garbled(Garble::Malformed);
    const UNKNOWN: Content = Content::Garbled(Garble::NothingKnown);

    #[test]
    fn json_values_are_found_by_path() {
        let path = |path: &str| Some(Place::Path(path.parse().unwrap()));
        let places = [
            ("t", None),
            ("a.b", None),
            ("deep", path("$.e.l[1]")),
            ("on", path("on")),
        ];
        let json = || extractor(Format::Json, &places);
        assert_eq!(
            contents(json(), b"{\"t\":21.5,\"x\":1}\n"),
            [values([(0, Raw::Number(21.5))])]
        );
        assert_eq!(
            contents(json(), b"{\"a.b\":\" 7 \"}\n"),
            [values([(1, text("7"))])]
        );
        assert_eq!(
            contents(json(), b"{\"e\":{\"l\":[0,null]}}\n"),
            [values([(2, Raw::Nothing)])]
        );
        assert_eq!(
            contents(json(), b"{\"on\":true,\"t\":{}}\n"),
            [values([(0, Raw::Nothing), (3, text("true"))])]
        );
        assert_eq!(
            contents(json(), b"{\"t\":21.\n{\"u\":1}\n[]\n"),
            [MALFORMED, UNKNOWN, UNKNOWN]
        );
        assert_eq!(
            contents(extractor(Format::Json, &[("t", path("$"))]), b"5\n"),
            [values([(0, Raw::Number(5.0))])]
        );
    }

    #[test]
    fn key_values_are_found_by_key() {
        let places = [("temperature", Some(Place::Key("T".to_owned()))), ("h", None)];
        let plain = || extractor(Format::KeyValue(Separators::default()), &places);
        assert_eq!(
            contents(plain(), b"T=21.5;h:48,x=1\n"),
            [values([(0, text("21.5")), (1, text("48"))])]
        );
        assert_eq!(contents(plain(), b"node7 h=48\n"), [values([(1, text("48"))])]);
        assert_eq!(
            contents(plain(), b"h=\nT 21.5\n"),
            [values([(1, Raw::Nothing)]), UNKNOWN]
        );
        let spaced = extractor(Format::KeyValue(Separators::new("|", ">").unwrap()), &places);
        assert_eq!(
            contents(spaced, b"T > 21.5 | h > 4=8\n"),
            [values([(0, text("21.5")), (1, text("4=8"))])]
        );
    }

    #[test]
    fn csv_values_are_found_by_column() {
        assert_eq!(
            contents(csv(), b"21.5,x, \"48\" ,y\n"),
            [values([(0, text("21.5")), (1, text("48"))])]
        );
        assert_eq!(
            contents(csv(), b",,\n"),
            [values([(0, Raw::Nothing), (1, Raw::Nothing)])]
        );
        let semicolon = extractor(Format::Csv(";".parse().unwrap()), &[("t", column(2))]);
        assert_eq!(contents(semicolon, b"a;21,5\n"), [values([(0, text("21,5"))])]);
    }

    #[test]
    fn a_line_cut_before_a_wanted_column_tells_nothing() {
        assert_eq!(contents(csv(), b"21.5,x\n"), [MALFORMED]);
    }

    #[test]
    fn a_line_with_control_characters_tells_nothing() {
        assert_eq!(
            contents(csv(), b"21.5,\0,48\n21.5,\x1b,48\n"),
            [MALFORMED, MALFORMED]
        );
        assert_eq!(
            contents(csv(), b"21.5,\xb0,\t48\n"),
            [values([(0, text("21.5")), (1, text("48"))])]
        );
    }

    #[test]
    fn captured_values_are_found_by_name() {
        let pattern = || Format::Regex("T=(?<t>[0-9.]+)C(?: H=(?<hum>[0-9]+))?".parse().unwrap());
        let places = [("t", None), ("h", Some(Place::Capture("hum".to_owned())))];
        let lines = b"at 12:00 T=21.5C H=48\nT=20C\nT=C\n";
        assert_eq!(
            contents(extractor(pattern(), &places), lines),
            [
                values([(0, text("21.5")), (1, text("48"))]),
                values([(0, text("20"))]),
                MALFORMED
            ]
        );
    }

    #[test]
    fn a_place_the_format_cannot_use_is_refused_with_what_it_needs() {
        let key = || Some(Place::Key("k".to_owned()));
        let regex = || Format::Regex("(?<t>.)".parse().unwrap());
        for (format, place, found, expected) in [
            (Format::Json, key(), "a key", "a path"),
            (
                Format::KeyValue(Separators::default()),
                column(1),
                "a column",
                "a key",
            ),
            (Format::Csv(Delimiter::default()), None, "no place", "a column"),
            (regex(), key(), "a key", "a capture"),
        ] {
            let error = try_extractor(format, &[("t", place)]).unwrap_err();
            assert_eq!(
                error,
                SettingsError::Place {
                    point: "t".parse().unwrap(),
                    found,
                    expected
                }
            );
        }
        let error = try_extractor(regex(), &[("u", None)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "point u is capture u, which the pattern does not have; expected one of t"
        );
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "", "a..b", ".a", "a.", "$a", "$.", "a[x]", "a[1", "a[1]b", "a[-1]", "$..a",
        ] {
            assert_eq!(
                text.parse::<JsonPath>(),
                Err(FormatError::Path(text.to_owned())),
                "{text}"
            );
        }
        for text in ["a", "$.a", "a.b", "$[0]", "[0].a", "a[0][1].b", "$"] {
            assert!(text.parse::<JsonPath>().is_ok(), "{text}");
        }
    }

    #[test]
    fn separators_and_patterns_that_cannot_work_are_refused() {
        for (pair, key) in [
            ("", "="),
            (";", ""),
            (";=", "="),
            ("a", "="),
            ("\n", "="),
            (";", "7"),
        ] {
            assert_eq!(
                Separators::new(pair, key),
                Err(FormatError::Separators),
                "{pair:?} {key:?}"
            );
        }
        for text in ["", ",,", "a", "\r"] {
            assert_eq!(
                text.parse::<Delimiter>(),
                Err(FormatError::Delimiter(text.to_owned())),
                "{text:?}"
            );
        }
        assert!(matches!("(?<t>".parse::<Pattern>(), Err(FormatError::Pattern(_))));
        assert_eq!(
            "t=(.*)".parse::<Pattern>().unwrap_err(),
            FormatError::PatternWithoutCapture
        );
    }
}
