//! Sensors that send lines of text: where a line ends, and which lines can be read at all.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::device::DeviceSettings;
use super::format::{Extractor, Format, LinePoint};
use super::line::LineSettings;
use super::settings::SettingsError;
use super::template::Name;
use super::{Content, Driver, Garble, Reading};

/// Everything about a line on which one device sends text.
#[derive(Debug, Clone, PartialEq)]
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

/// Why numbers are no [`Framing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FramingError {
    /// The longest line is not within [`Framing::LINE_BYTES_MIN`] and [`Framing::LINE_BYTES_MAX`].
    LineBytes(usize),
    /// The idle gap is not within [`Framing::IDLE_GAP_MIN`] and [`Framing::IDLE_GAP_MAX`].
    IdleGap(Duration),
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
    /// [`FramingError::LineBytes`], [`FramingError::IdleGap`].
    pub fn new(line_bytes_max: usize, idle_gap: Option<Duration>) -> Result<Self, FramingError> {
        if !(Self::LINE_BYTES_MIN..=Self::LINE_BYTES_MAX).contains(&line_bytes_max) {
            return Err(FramingError::LineBytes(line_bytes_max));
        }
        match idle_gap {
            Some(gap) if !(Self::IDLE_GAP_MIN..=Self::IDLE_GAP_MAX).contains(&gap) => {
                Err(FramingError::IdleGap(gap))
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
        let room = self
            .settings
            .framing
            .line_bytes_max
            .saturating_sub(self.line.len());
        if bytes.len() > room {
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

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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

impl std::error::Error for FramingError {}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::TopicName;
    use crate::serial::{Delimiter, Place, PointSettings, Raw, Sample, Separators};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(format: Format, places: &[(&str, Option<Place>)]) -> LinesSettings {
        let point = |(name, place): &(&str, Option<Place>)| LinePoint {
            settings: PointSettings::new(name.parse().unwrap(), TopicName::try_from(*name).unwrap()),
            place: place.clone(),
        };
        let points = places.iter().map(point).collect();
        let framing = Framing::new(32, None).unwrap();
        LinesSettings::new("sensor".parse().unwrap(), SECOND, format, points, framing).unwrap()
    }

    fn driver(format: Format, places: &[(&str, Option<Place>)]) -> Lines {
        Lines::new(settings(format, places), LineSettings::default())
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

    const OVERLONG: Content = Content::Garbled(Garble::Overlong);

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
        let mut settings = settings(Format::Csv(Delimiter::default()), &[("t", column(1))]);
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
    fn bounds_that_cannot_work_are_refused() {
        assert_eq!(Framing::new(15, None), Err(FramingError::LineBytes(15)));
        let gap = Duration::from_millis(19);
        assert_eq!(Framing::new(16, Some(gap)), Err(FramingError::IdleGap(gap)));
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
