//! Everything about one serial port, checked as a whole before the port is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::{TopicError, TopicName};

use super::Driver;
use super::device::DeviceSettings;
use super::line::LineSettings;
use super::lines::{Lines, LinesSettings};
use super::status::StatusTopics;
use super::template::Name;

/// Everything about one serial port and what speaks on it.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSettings {
    name: Name,
    path: PathBuf,
    line: LineSettings,
    reopen: ReopenSettings,
    decoder: DecoderSettings,
    topics: StatusTopics,
    device_topics: Vec<StatusTopics>,
}

/// What is spoken on a port.
#[derive(Debug, Clone, PartialEq)]
pub enum DecoderSettings {
    /// Lines of text from one device.
    Lines(LinesSettings),
}

/// How long to wait before a lost port is opened again: `min`, then twice as long each time, up to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReopenSettings {
    min: Duration,
    max: Duration,
}

/// Why settings that are right one by one do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsError {
    /// A device without a point.
    NoPoints {
        /// The device.
        device: Name,
    },
    /// More points than [`DeviceSettings::POINTS_MAX`].
    TooManyPoints {
        /// The device.
        device: Name,
        /// How many it has.
        found: usize,
    },
    /// Two points of one device have this name.
    DuplicatePoint {
        /// The name.
        point: Name,
    },
    /// Two points, or a point and a status, publish on this topic.
    DuplicateTopic {
        /// The topic.
        topic: TopicName,
    },
    /// A status topic is longer than a topic name can be.
    Topic(TopicError),
    /// A point is found in another way than the format finds points.
    Place {
        /// The point.
        point: Name,
        /// What was written.
        found: &'static str,
        /// What the format needs.
        expected: &'static str,
    },
    /// The regular expression has no such capture.
    UnknownCapture {
        /// The point.
        point: Name,
        /// The name that was looked for.
        capture: String,
        /// The names the expression has.
        known: Vec<String>,
    },
    /// A time that is not within [`PortSettings::TIME_MIN`] and [`PortSettings::TIME_MAX`].
    Time {
        /// Its key.
        what: &'static str,
        /// What it is.
        found: Duration,
    },
    /// The shortest wait before re-opening is longer than the longest.
    ReopenOrder,
    /// The path is not absolute.
    Path(PathBuf),
}

impl PortSettings {
    /// The shortest time of any kind that may be set.
    pub const TIME_MIN: Duration = Duration::from_millis(1);
    /// The longest time of any kind that may be set: a year, so that no deadline is beyond what a clock can say.
    pub const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// A port of the gateway `gateway`, which is the first level or levels of every status topic.
    ///
    /// `path` should be one that stays when the adapter is plugged in elsewhere, as in `/dev/serial/by-id/`.
    ///
    /// # Errors
    /// [`SettingsError`] where the path is not absolute or two topics are the same.
    pub fn new(
        gateway: &TopicName,
        name: Name,
        path: PathBuf,
        line: LineSettings,
        reopen: ReopenSettings,
        decoder: DecoderSettings,
    ) -> Result<Self, SettingsError> {
        if !path.is_absolute() {
            return Err(SettingsError::Path(path));
        }
        let topics = StatusTopics::of_port(gateway, &name).map_err(SettingsError::Topic)?;
        let device_topics = decoder
            .devices()
            .iter()
            .map(|device| StatusTopics::of_device(gateway, device.name()).map_err(SettingsError::Topic))
            .collect::<Result<_, _>>()?;
        let settings = Self {
            name,
            path,
            line,
            reopen,
            decoder,
            topics,
            device_topics,
        };
        let mut seen: Vec<&TopicName> = settings.topics().collect();
        seen.sort();
        match seen
            .windows(2)
            .find_map(|pair| pair.first().filter(|topic| pair.last() == Some(topic)))
        {
            Some(topic) => Err(SettingsError::DuplicateTopic {
                topic: (*topic).clone(),
            }),
            None => Ok(settings),
        }
    }

    /// Unique within the gateway.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where the port is found; resolved anew at each opening.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the line is driven.
    pub fn line(&self) -> LineSettings {
        self.line
    }

    /// How a lost port is opened again.
    pub fn reopen(&self) -> ReopenSettings {
        self.reopen
    }

    /// What is spoken on it.
    pub fn decoder(&self) -> &DecoderSettings {
        &self.decoder
    }

    /// Every topic the port publishes on; no two ports may share one.
    pub fn topics(&self) -> impl Iterator<Item = &TopicName> {
        let statuses = std::iter::once(&self.topics).chain(&self.device_topics);
        let points = self.decoder.devices().iter().flat_map(DeviceSettings::points);
        statuses
            .flat_map(StatusTopics::both)
            .chain(points.map(|point| &point.topic))
    }

    /// The topics of the port's own status.
    pub fn status_topics(&self) -> &StatusTopics {
        &self.topics
    }

    /// Every device with the topics of its status, in the order of the decoder.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceSettings, &StatusTopics)> {
        self.decoder.devices().iter().zip(&self.device_topics)
    }
}

impl DecoderSettings {
    /// The devices on the line.
    pub fn devices(&self) -> &[DeviceSettings] {
        match self {
            Self::Lines(lines) => std::slice::from_ref(lines.device()),
        }
    }

    /// A driver that speaks it over a line with these settings.
    pub fn driver(&self, line: LineSettings) -> Box<dyn Driver> {
        match self {
            Self::Lines(lines) => Box::new(Lines::new(lines.clone(), line)),
        }
    }
}

impl ReopenSettings {
    /// Waits between `min` and `max`.
    ///
    /// # Errors
    /// [`SettingsError::Time`], [`SettingsError::ReopenOrder`].
    pub fn new(min: Duration, max: Duration) -> Result<Self, SettingsError> {
        check_time("reopen_min", min)?;
        check_time("reopen_max", max)?;
        if min > max {
            return Err(SettingsError::ReopenOrder);
        }
        Ok(Self { min, max })
    }

    /// The first wait.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// The longest wait.
    pub fn max(&self) -> Duration {
        self.max
    }
}

impl Default for ReopenSettings {
    /// From half a second, which a replugged adapter needs to appear, to half a minute.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(500),
            max: Duration::from_secs(30),
        }
    }
}

impl SettingsError {
    /// The point at fault, where it is one.
    pub fn point(&self) -> Option<&Name> {
        match self {
            Self::DuplicatePoint { point }
            | Self::Place { point, .. }
            | Self::UnknownCapture { point, .. } => Some(point),
            _ => None,
        }
    }
}

/// Holds the time written as `what` to the bounds of all times.
pub(super) fn check_time(what: &'static str, found: Duration) -> Result<(), SettingsError> {
    match (PortSettings::TIME_MIN..=PortSettings::TIME_MAX).contains(&found) {
        true => Ok(()),
        false => Err(SettingsError::Time { what, found }),
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPoints { device } => write!(f, "device {device} has no point, expected at least one"),
            Self::TooManyPoints { device, found } => {
                write!(
                    f,
                    "device {device} has {found} points, expected at most {}",
                    DeviceSettings::POINTS_MAX
                )
            }
            Self::DuplicatePoint { point } => {
                write!(f, "two points have the name {point}, expected different names")
            }
            Self::DuplicateTopic { topic } => {
                write!(
                    f,
                    "topic {topic} is used twice, expected a topic for each point, such as with {{point}} in it"
                )
            }
            Self::Topic(error) => write!(f, "the name of the gateway makes a status topic that is {error}"),
            Self::Place {
                point,
                found,
                expected,
            } => {
                write!(
                    f,
                    "point {point} has {found}, expected {expected}, by which this format finds points"
                )
            }
            Self::UnknownCapture {
                point,
                capture,
                known,
            } => write!(
                f,
                "point {point} is capture {capture}, which the pattern does not have; expected one of {}",
                known.join(", ")
            ),
            Self::Time { what, found } => write!(
                f,
                "{what} is {found:?}, expected a time from {:?} to {:?}",
                PortSettings::TIME_MIN,
                PortSettings::TIME_MAX
            ),
            Self::ReopenOrder => {
                f.write_str("reopen_min is longer than reopen_max, expected it to be shorter")
            }
            Self::Path(found) => {
                write!(
                    f,
                    "path {} is not absolute, expected one such as /dev/serial/by-id/...",
                    found.display()
                )
            }
        }
    }
}

impl std::error::Error for SettingsError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::{Format, Framing, LinePoint, PointSettings};

    fn port(path: &str, topics: &[&str]) -> Result<PortSettings, SettingsError> {
        let point = |(index, topic): (usize, &&str)| LinePoint {
            settings: PointSettings::new(
                format!("p{index}").parse().unwrap(),
                TopicName::try_from(*topic).unwrap(),
            ),
            place: None,
        };
        let points = topics.iter().enumerate().map(point).collect();
        let offline_after = DeviceSettings::OFFLINE_AFTER;
        let device = "d".parse().unwrap();
        let lines =
            LinesSettings::new(device, offline_after, Format::Json, points, Framing::default()).unwrap();
        PortSettings::new(
            &TopicName::try_from("gw").unwrap(),
            "wire".parse().unwrap(),
            path.into(),
            LineSettings::default(),
            ReopenSettings::default(),
            DecoderSettings::Lines(lines),
        )
    }

    #[test]
    fn a_port_names_every_topic_it_publishes_on() {
        let port = port("/dev/ttyS0", &["a", "b"]).unwrap();
        let topics: Vec<&str> = port.topics().map(TopicName::as_str).collect();
        assert_eq!(
            topics,
            [
                "gw/port/wire/status",
                "gw/port/wire/health",
                "gw/device/d/status",
                "gw/device/d/health",
                "a",
                "b"
            ]
        );
    }

    #[test]
    fn two_points_or_a_point_and_a_status_on_one_topic_are_refused() {
        for topics in [
            ["a", "a"],
            ["a", "gw/device/d/status"],
            ["gw/port/wire/health", "a"],
        ] {
            assert!(
                matches!(
                    port("/dev/ttyS0", &topics),
                    Err(SettingsError::DuplicateTopic { .. })
                ),
                "{topics:?}"
            );
        }
    }

    #[test]
    fn a_path_that_depends_on_where_one_stands_is_refused() {
        assert_eq!(
            port("ttyS0", &["a"]).unwrap_err(),
            SettingsError::Path("ttyS0".into())
        );
    }

    #[test]
    fn waits_out_of_order_or_out_of_bounds_are_refused() {
        let [second, zero] = [1, 0].map(Duration::from_secs);
        assert_eq!(
            ReopenSettings::new(2 * second, second),
            Err(SettingsError::ReopenOrder)
        );
        let error = SettingsError::Time {
            what: "reopen_min",
            found: zero,
        };
        assert_eq!(ReopenSettings::new(zero, second), Err(error));
        let error = SettingsError::Time {
            what: "reopen_max",
            found: Duration::MAX,
        };
        assert_eq!(ReopenSettings::new(second, Duration::MAX), Err(error));
    }
}
