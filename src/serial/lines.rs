//! Sensors that send lines of text: JSON, key=value, CSV columns, or whatever a regular expression finds.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::{Duration, Instant};

use regex_lite::Regex;

use super::device::DeviceSettings;
use super::line::LineSettings;
use super::points::PointSettings;
use super::settings::SettingsError;
use super::template::Name;
use super::{Content, Driver, Garble, Raw, Reading, Sample};

/// Everything about a line on which one device sends text.
#[derive(Debug, Clone)]
pub struct LinesSettings {
    device: DeviceSettings,
    extractor: Extractor,
    framing: Framing,
}

/// What ends a line.
///
/// A line feed, a carriage return or both always do; empty lines say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    line_bytes_max: usize,
    idle_gap: Option<Duration>,
}

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

/// Why text or numbers are no part of [`LinesSettings`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinesError {
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
    /// The longest line is not within [`Framing::LINE_BYTES_MIN`] and [`Framing::LINE_BYTES_MAX`].
    LineBytes(usize),
    /// The idle gap is not within [`Framing::IDLE_GAP_MIN`] and [`Framing::IDLE_GAP_MAX`].
    IdleGap(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A format with the place of every point, in the order of the device's points.
#[derive(Debug, Clone)]
enum Extractor {
    Json(Vec<JsonPath>),
    KeyValue(Separators, Vec<String>),
    /// Columns from 0.
    Csv(Delimiter, Vec<usize>),
    Regex(Pattern, Vec<String>),
}

impl LinesSettings {
    /// A device that sends lines in `format`; it is offline after `offline_after` without a good line.
    ///
    /// # Errors
    /// [`SettingsError`] where the points do not fit each other or the format.
    pub fn new(
        device: Name,
        offline_after: Duration,
        format: Format,
        points: Vec<LinePoint>,
        framing: Framing,
    ) -> Result<Self, SettingsError> {
        let extractor = Extractor::new(format, &points)?;
        let points = points.into_iter().map(|point| point.settings).collect();
        Ok(Self {
            device: DeviceSettings::new(device, points, offline_after)?,
            extractor,
            framing,
        })
    }

    /// The device that speaks.
    pub fn device(&self) -> &DeviceSettings {
        &self.device
    }
}

impl Framing {
    /// The shortest bound on a line, in bytes without its end.
    pub const LINE_BYTES_MIN: usize = 16;
    /// The highest bound on a line, in bytes without its end: what a reading may cost in memory.
    pub const LINE_BYTES_MAX: usize = 64 * 1024;
    /// The bound on a line where nothing else is said, in bytes without its end.
    pub const LINE_BYTES: usize = 1024;
    /// The shortest idle gap: a USB adapter hands over what it has every 16 ms, and less would cut lines in two.
    pub const IDLE_GAP_MIN: Duration = Duration::from_millis(20);
    /// The longest idle gap.
    pub const IDLE_GAP_MAX: Duration = Duration::from_secs(60);

    /// Lines of at most `line_bytes_max` bytes, which also end after `idle_gap` without a byte.
    ///
    /// # Errors
    /// [`LinesError::LineBytes`], [`LinesError::IdleGap`].
    pub fn new(line_bytes_max: usize, idle_gap: Option<Duration>) -> Result<Self, LinesError> {
        if !(Self::LINE_BYTES_MIN..=Self::LINE_BYTES_MAX).contains(&line_bytes_max) {
            return Err(LinesError::LineBytes(line_bytes_max));
        }
        match idle_gap {
            Some(gap) if !(Self::IDLE_GAP_MIN..=Self::IDLE_GAP_MAX).contains(&gap) => {
                Err(LinesError::IdleGap(gap))
            }
            _ => Ok(Self {
                line_bytes_max,
                idle_gap,
            }),
        }
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            line_bytes_max: Self::LINE_BYTES,
            idle_gap: None,
        }
    }
}

impl Separators {
    /// Takes the characters of `pair` and of `key`, each of which separates alone.
    ///
    /// # Errors
    /// [`LinesError::Separators`].
    pub fn new(pair: &str, key: &str) -> Result<Self, LinesError> {
        let both_useful =
            !pair.is_empty() && !key.is_empty() && pair.chars().chain(key.chars()).all(separates);
        if !both_useful || pair.chars().any(|character| key.contains(character)) {
            return Err(LinesError::Separators);
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
    type Err = LinesError;

    fn from_str(text: &str) -> Result<Self, LinesError> {
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) if separates(character) => Ok(Self(character)),
            _ => Err(LinesError::Delimiter(text.to_owned())),
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
    type Err = LinesError;

    fn from_str(text: &str) -> Result<Self, LinesError> {
        let regex = Regex::new(text).map_err(|error| LinesError::Pattern(error.to_string()))?;
        if regex.capture_names().flatten().next().is_none() {
            return Err(LinesError::PatternWithoutCapture);
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
    type Err = LinesError;

    fn from_str(text: &str) -> Result<Self, LinesError> {
        let refused = || LinesError::Path(text.to_owned());
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
    fn new(format: Format, points: &[LinePoint]) -> Result<Self, SettingsError> {
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

/// The driver: cuts bytes into lines, and lines into values.
///
/// The first bytes after the line opened may be the rest of a line, and `21.5` without its `2` is still a number. So
/// what comes before the first line end is thrown away, unless the line was silent long enough to be between lines.
#[derive(Debug)]
pub struct Lines {
    settings: LinesSettings,
    /// How long a line is silent at least when nobody is in the middle of one.
    silence: Duration,
    state: State,
    line: Vec<u8>,
    last_byte_at: Option<Instant>,
    readings: VecDeque<Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Open, and nothing came yet: before `silent_at` it would be the rest of a line.
    Listening { silent_at: Instant },
    /// What comes until the line end is the rest of a line.
    SkippingFragment,
    /// What comes until the line end belongs to a line that was too long.
    SkippingOverlong,
    /// What comes belongs to the line.
    Collecting,
}

impl Lines {
    /// A USB adapter hands over what it has every 16 ms, and a busy kernel takes its time; people's pauses between
    /// two lines are longer.
    const SILENCE_MIN: Duration = Duration::from_millis(100);

    /// A driver for a line that is not open yet.
    pub fn new(settings: LinesSettings, line: LineSettings) -> Self {
        Self {
            settings,
            silence: Self::SILENCE_MIN + 3 * line.character_time(),
            state: State::Collecting,
            line: Vec::new(),
            last_byte_at: None,
            readings: VecDeque::new(),
        }
    }

    /// Takes bytes without a line end.
    fn take(&mut self, bytes: &[u8]) {
        if self.state != State::Collecting || bytes.is_empty() {
            return;
        }
        if bytes.len()
            > self
                .settings
                .framing
                .line_bytes_max
                .saturating_sub(self.line.len())
        {
            self.line.clear();
            self.state = State::SkippingOverlong;
            self.push(Content::Garbled(Garble::Overlong));
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        match self.state {
            State::Listening { .. } | State::SkippingOverlong => {}
            State::SkippingFragment => self.push(Content::Fragment),
            State::Collecting => {
                if !self.line.trim_ascii().is_empty() {
                    let content = self.settings.extractor.extract(&self.line);
                    self.push(content);
                }
                self.line.clear();
            }
        }
        self.state = State::Collecting;
        self.last_byte_at = None;
    }

    fn push(&mut self, content: Content) {
        self.readings.push_back(Reading { device: 0, content });
    }
}

impl Driver for Lines {
    fn handle_opened(&mut self, now: Instant) {
        self.line.clear();
        self.last_byte_at = None;
        self.state = State::Listening {
            silent_at: now + self.silence,
        };
    }

    fn feed(&mut self, now: Instant, bytes: &[u8]) {
        // Bytes and the deadline may come in either order; the gap was there all the same.
        self.handle_timeout(now);
        if let State::Listening { silent_at } = self.state
            && !bytes.is_empty()
        {
            self.state = if now < silent_at {
                State::SkippingFragment
            } else {
                State::Collecting
            };
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, after) = rest.split_at(end);
            self.take(line);
            self.end_line();
            rest = after.get(1..).unwrap_or_default();
        }
        if !rest.is_empty() {
            self.take(rest);
            self.last_byte_at = Some(now);
        }
    }

    fn handle_lost(&mut self) {
        if self.state == State::SkippingFragment || !self.line.is_empty() {
            self.push(Content::Fragment);
        }
        self.line.clear();
        self.last_byte_at = None;
        self.state = State::Collecting;
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.end_line();
        }
    }

    fn poll_reading(&mut self) -> Option<Reading> {
        self.readings.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.last_byte_at? + self.settings.framing.idle_gap?)
    }
}

impl Extractor {
    /// What `line` says.
    fn extract(&self, line: &[u8]) -> Content {
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

impl fmt::Display for LinesError {
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
            Self::LineBytes(found) => write!(
                f,
                "a longest line of {found} bytes, expected {} to {}",
                Framing::LINE_BYTES_MIN,
                Framing::LINE_BYTES_MAX
            ),
            Self::IdleGap(found) => write!(
                f,
                "an idle gap of {found:?}, expected {:?} to {:?}",
                Framing::IDLE_GAP_MIN,
                Framing::IDLE_GAP_MAX
            ),
        }
    }
}

impl std::error::Error for LinesError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::TopicName;

    const SECOND: Duration = Duration::from_secs(1);

    fn points(places: &[(&str, Option<Place>)]) -> Vec<LinePoint> {
        let point = |(name, place): &(&str, Option<Place>)| LinePoint {
            settings: PointSettings::new(name.parse().unwrap(), TopicName::try_from(*name).unwrap()),
            place: place.clone(),
        };
        places.iter().map(point).collect()
    }

    fn try_settings(
        format: Format,
        places: &[(&str, Option<Place>)],
    ) -> Result<LinesSettings, SettingsError> {
        let framing = Framing::new(32, None).unwrap();
        LinesSettings::new("sensor".parse().unwrap(), SECOND, format, points(places), framing)
    }

    fn driver(format: Format, places: &[(&str, Option<Place>)]) -> Lines {
        Lines::new(try_settings(format, places).unwrap(), LineSettings::default())
    }

    fn column(number: u16) -> Option<Place> {
        NonZeroU16::new(number).map(Place::Column)
    }

    fn csv() -> Lines {
        driver(
            Format::Csv(Delimiter::default()),
            &[("t", column(1)), ("h", column(3))],
        )
    }

    fn drain(driver: &mut Lines) -> Vec<Content> {
        std::iter::from_fn(|| driver.poll_reading())
            .map(|reading| reading.content)
            .collect()
    }

    fn contents(mut driver: Lines, bytes: &[u8]) -> Vec<Content> {
        driver.feed(Instant::now(), bytes);
        drain(&mut driver)
    }

    fn values<const N: usize>(values: [(usize, Raw); N]) -> Content {
        Content::Values(values.map(|(point, raw)| Sample { point, raw }).into())
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    const MALFORMED: Content = Content::Garbled(Garble::Malformed);
    const UNKNOWN: Content = Content::Garbled(Garble::NothingKnown);
    const OVERLONG: Content = Content::Garbled(Garble::Overlong);

    #[test]
    fn json_values_are_found_by_path() {
        let path = |path: &str| Some(Place::Path(path.parse().unwrap()));
        let places = [
            ("t", None),
            ("a.b", None),
            ("deep", path("$.e.l[1]")),
            ("on", path("on")),
        ];
        let json = || driver(Format::Json, &places);
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
            contents(driver(Format::Json, &[("t", path("$"))]), b"5\n"),
            [values([(0, Raw::Number(5.0))])]
        );
    }

    #[test]
    fn key_values_are_found_by_key() {
        let places = [("temperature", Some(Place::Key("T".to_owned()))), ("h", None)];
        let plain = || driver(Format::KeyValue(Separators::default()), &places);
        assert_eq!(
            contents(plain(), b"T=21.5;h:48,x=1\n"),
            [values([(0, text("21.5")), (1, text("48"))])]
        );
        assert_eq!(contents(plain(), b"node7 h=48\n"), [values([(1, text("48"))])]);
        assert_eq!(
            contents(plain(), b"h=\nT 21.5\n"),
            [values([(1, Raw::Nothing)]), UNKNOWN]
        );
        let spaced = driver(Format::KeyValue(Separators::new("|", ">").unwrap()), &places);
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
        let semicolon = driver(Format::Csv(";".parse().unwrap()), &[("t", column(2))]);
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
            contents(driver(pattern(), &places), lines),
            [
                values([(0, text("21.5")), (1, text("48"))]),
                values([(0, text("20"))]),
                MALFORMED
            ]
        );
    }

    #[test]
    fn every_line_end_ends_a_line_once() {
        let line = || values([(0, text("1")), (1, text("2"))]);
        assert_eq!(
            contents(csv(), b"1,,2\n1,,2\r\n1,,2\r1,,2\n\n \n\r"),
            [line(), line(), line(), line()]
        );
    }

    #[test]
    fn an_overlong_line_is_told_once_and_skipped_to_its_end() {
        let mut bytes = vec![b'9'; 33];
        bytes.extend(b",,1\n1,,2\n");
        assert_eq!(
            contents(csv(), &bytes),
            [OVERLONG, values([(0, text("1")), (1, text("2"))])]
        );
        let mut exact = vec![b'9'; 29];
        exact.extend(b",,1\n");
        assert_eq!(
            contents(csv(), &exact),
            [values([(0, text(&"9".repeat(29))), (1, text("1"))])]
        );
    }

    #[test]
    fn the_memory_of_an_endless_line_is_bounded() {
        let mut driver = csv();
        for _ in 0..1000 {
            driver.feed(Instant::now(), &[b'9'; 100]);
        }
        assert!(driver.line.capacity() <= 64);
        assert_eq!(drain(&mut driver), [OVERLONG]);
    }

    #[test]
    fn silence_ends_a_line_where_a_gap_is_set() {
        let gap = Duration::from_millis(50);
        let mut settings = try_settings(Format::Csv(Delimiter::default()), &[("t", column(1))]).unwrap();
        settings.framing = Framing::new(32, Some(gap)).unwrap();
        let mut driver = Lines::new(settings, LineSettings::default());
        let start = Instant::now();
        driver.feed(start, b"21");
        driver.feed(start + gap / 2, b".5");
        assert_eq!(driver.poll_timeout(), Some(start + gap / 2 + gap));
        driver.handle_timeout(start + gap);
        assert_eq!(drain(&mut driver), []);
        driver.handle_timeout(start + gap / 2 + gap);
        assert_eq!(drain(&mut driver), [values([(0, text("21.5"))])]);
        assert_eq!(driver.poll_timeout(), None);
        // Bytes that overtake the timer do not join the line before the gap.
        driver.feed(start + 10 * gap, b"1");
        driver.feed(start + 12 * gap, b"2\n");
        assert_eq!(
            drain(&mut driver),
            [values([(0, text("1"))]), values([(0, text("2"))])]
        );
    }

    #[test]
    fn the_rest_of_a_line_that_began_before_the_opening_tells_nothing() {
        let start = Instant::now();
        let mut driver = csv();
        driver.handle_opened(start);
        driver.feed(start + Duration::from_millis(5), b"1.5,,");
        driver.feed(start + SECOND, b"48\n20.5,,47\n");
        assert_eq!(
            drain(&mut driver),
            [Content::Fragment, values([(0, text("20.5")), (1, text("47"))])]
        );
    }

    #[test]
    fn a_line_that_begins_after_a_silence_is_whole() {
        let start = Instant::now();
        let mut driver = csv();
        driver.handle_opened(start);
        driver.feed(start + SECOND, b"20.5,,47\n");
        assert_eq!(drain(&mut driver), [values([(0, text("20.5")), (1, text("47"))])]);
    }

    #[test]
    fn a_line_cut_by_the_loss_of_the_port_tells_nothing() {
        let start = Instant::now();
        let mut driver = csv();
        driver.feed(start, b"20.5,,4");
        driver.handle_lost();
        assert_eq!(drain(&mut driver), [Content::Fragment]);
        driver.handle_opened(start);
        driver.feed(start + SECOND, b"7,,8\n");
        assert_eq!(drain(&mut driver), [values([(0, text("7")), (1, text("8"))])]);
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
            let error = try_settings(format, &[("t", place)]).unwrap_err();
            assert_eq!(
                error,
                SettingsError::Place {
                    point: "t".parse().unwrap(),
                    found,
                    expected
                }
            );
        }
        let error = try_settings(regex(), &[("u", None)]).unwrap_err();
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
                Err(LinesError::Path(text.to_owned())),
                "{text}"
            );
        }
        for text in ["a", "$.a", "a.b", "$[0]", "[0].a", "a[0][1].b", "$"] {
            assert!(text.parse::<JsonPath>().is_ok(), "{text}");
        }
    }

    #[test]
    fn separators_patterns_and_bounds_that_cannot_work_are_refused() {
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
                Err(LinesError::Separators),
                "{pair:?} {key:?}"
            );
        }
        for text in ["", ",,", "a", "\r"] {
            assert_eq!(
                text.parse::<Delimiter>(),
                Err(LinesError::Delimiter(text.to_owned())),
                "{text:?}"
            );
        }
        assert!(matches!("(?<t>".parse::<Pattern>(), Err(LinesError::Pattern(_))));
        assert_eq!(
            "t=(.*)".parse::<Pattern>().unwrap_err(),
            LinesError::PatternWithoutCapture
        );
        assert_eq!(Framing::new(15, None), Err(LinesError::LineBytes(15)));
        let gap = Duration::from_millis(19);
        assert_eq!(Framing::new(16, Some(gap)), Err(LinesError::IdleGap(gap)));
    }

    fn every_format() -> Vec<Lines> {
        let key_value = Format::KeyValue(Separators::default());
        vec![
            driver(Format::Json, &[("t", None), ("h", None)]),
            driver(key_value, &[("t", None), ("h", None)]),
            csv(),
            driver(Format::Regex("t=(?<t>[^;]*)".parse().unwrap()), &[("t", None)]),
        ]
    }

    /// Bytes made of the words of every format, so that whole lines are as likely as noise.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just(b"{\"t\":1}".to_vec()),
            Just(b"t=21.5;h=4".to_vec()),
            Just(b"1,2,3".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ];
        proptest::collection::vec(word, 0..20).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_readings(
            stream in stream(),
            cuts in proptest::collection::vec(1usize..9, 1..20),
            opened in any::<bool>(),
        ) {
            let now = Instant::now();
            for (mut whole, mut split) in every_format().into_iter().zip(every_format()) {
                if opened {
                    whole.handle_opened(now);
                    split.handle_opened(now);
                }
                whole.feed(now, &stream);
                let mut rest = stream.as_slice();
                for cut in cuts.iter().cycle() {
                    let (chunk, after) = rest.split_at(rest.len().min(*cut));
                    split.feed(now, chunk);
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                whole.handle_lost();
                split.handle_lost();
                prop_assert_eq!(drain(&mut whole), drain(&mut split));
            }
        }

        #[test]
        fn whatever_arrives_the_next_whole_line_is_read(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut driver = csv();
            driver.feed(Instant::now(), &noise);
            driver.feed(Instant::now(), b"\n1,,2\n");
            let last = drain(&mut driver).pop();
            prop_assert_eq!(last, Some(values([(0, text("1")), (1, text("2"))])));
        }
    }
}
