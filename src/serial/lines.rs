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
