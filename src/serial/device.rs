//! Devices: what speaks on a line, when it counts as online, and what its points are worth.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::broker::{Message, Now};

use super::points::{Point, PointSettings, Quality};
use super::settings::{SettingsError, check_time};
use super::status::{Health, StatusTopics, status_message};
use super::template::Name;
use super::{Content, Garble, Sample};

/// Everything about one device on a line, whatever its protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSettings {
    name: Name,
    points: Vec<PointSettings>,
    offline_after: Duration,
}

impl DeviceSettings {
    /// The silence after which a device counts as offline where nothing else is said.
    pub const OFFLINE_AFTER: Duration = Duration::from_secs(60);
    /// The most points of one device.
    pub const POINTS_MAX: usize = 256;

    /// A device with its points; it is offline after `offline_after` without a good reading.
    ///
    /// # Errors
    /// [`SettingsError`] where there is no point, there are too many, two have one name, or a time is out of bounds.
    pub fn new(
        name: Name,
        points: Vec<PointSettings>,
        offline_after: Duration,
    ) -> Result<Self, SettingsError> {
        if points.is_empty() {
            return Err(SettingsError::NoPoints { device: name });
        }
        if points.len() > Self::POINTS_MAX {
            return Err(SettingsError::TooManyPoints {
                device: name,
                found: points.len(),
            });
        }
        check_time("offline_after", offline_after)?;
        for (index, point) in points.iter().enumerate() {
            if points
                .iter()
                .take(index)
                .any(|earlier| earlier.name == point.name)
            {
                return Err(SettingsError::DuplicatePoint {
                    point: point.name.clone(),
                });
            }
            if let Some(stale_after) = point.stale_after {
                check_time("stale_after", stale_after)?;
            }
        }
        Ok(Self {
            name,
            points,
            offline_after,
        })
    }

    /// Unique within the gateway, for it names the topics of the device's status.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// In the order they were given.
    pub fn points(&self) -> &[PointSettings] {
        &self.points
    }

    /// How long the device may be without a good reading and still be online.
    pub fn offline_after(&self) -> Duration {
        self.offline_after
    }
}

/// A device at work.
///
/// 1. It is online from its first good reading until it was silent for too long or its line is gone.
/// 2. While it is offline none of its points is good.
#[derive(Debug)]
pub(super) struct Device {
    topics: StatusTopics,
    offline_after: Duration,
    points: Vec<Point>,
    /// When it counts as offline; `None` while it does.
    offline_at: Option<Instant>,
    counters: Counters,
    health: Health<(Quality, Counters)>,
}

/// What a device said so far, counted in readings, and the last one in values.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Counters {
    good: u64,
    bad: u64,
    overlong: u64,
    fragments: u64,
    invalid_values: u64,
}

impl Device {
    /// A device that has said nothing yet.
    pub(super) fn new(settings: &DeviceSettings, topics: &StatusTopics) -> Self {
        Self {
            topics: topics.clone(),
            offline_after: settings.offline_after,
            points: settings.points.iter().cloned().map(Point::new).collect(),
            offline_at: None,
            counters: Counters::default(),
            health: Health::new(topics.health.clone()),
        }
    }

    /// Takes what the device said.
    pub(super) fn handle_content(&mut self, now: Now, content: &Content, out: &mut VecDeque<Message>) {
        match content {
            Content::Values(samples) => self.handle_samples(now, samples, out),
            Content::Garbled(garble) => {
                match garble {
                    Garble::Overlong => self.counters.overlong += 1,
                    Garble::Malformed | Garble::NothingKnown => self.counters.bad += 1,
                }
                // Which of its values the noise hit nobody can tell, so none is believed until it comes again.
                out.extend(
                    self.points
                        .iter_mut()
                        .filter_map(|point| point.handle_garbled(now)),
                );
            }
            Content::Fragment => self.counters.fragments += 1,
        }
        self.publish_health(now, out);
    }

    fn handle_samples(&mut self, now: Now, samples: &[Sample], out: &mut VecDeque<Message>) {
        let mut messages = Vec::with_capacity(samples.len());
        let mut good = 0u32;
        for sample in samples {
            let Some(point) = self.points.get_mut(sample.point) else {
                continue;
            };
            match point.handle_raw(now, &sample.raw) {
                Ok(message) => {
                    good += 1;
                    messages.push(message);
                }
                Err(message) => {
                    self.counters.invalid_values += 1;
                    messages.extend(message);
                }
            }
        }
        if good > 0 {
            self.counters.good += 1;
            if self.offline_at.is_none() {
                self.health.hurry();
                out.push_back(status_message(&self.topics, true));
            }
            self.offline_at = Some(now.mono + self.offline_after);
        } else {
            self.counters.bad += 1;
        }
        out.extend(messages);
    }

    /// Learns that the line is gone.
    pub(super) fn handle_lost(&mut self, now: Now, out: &mut VecDeque<Message>) {
        self.go_offline(now, out);
        self.publish_health(now, out);
    }

    /// Acts on the deadlines that are due.
    pub(super) fn handle_timeout(&mut self, now: Now, out: &mut VecDeque<Message>) {
        if self.offline_at.is_some_and(|offline_at| offline_at <= now.mono) {
            self.go_offline(now, out);
        }
        out.extend(
            self.points
                .iter_mut()
                .filter_map(|point| point.handle_timeout(now)),
        );
        self.publish_health(now, out);
    }

    fn go_offline(&mut self, now: Now, out: &mut VecDeque<Message>) {
        if self.offline_at.take().is_some() {
            self.health.hurry();
            out.push_back(status_message(&self.topics, false));
        }
        out.extend(
            self.points
                .iter_mut()
                .filter_map(|point| point.handle_offline(now)),
        );
    }

    fn publish_health(&mut self, now: Now, out: &mut VecDeque<Message>) {
        let quality = self.points.iter().map(Point::quality).max().unwrap_or_default();
        out.extend(
            self.health
                .handle_state(now.mono, &(quality, self.counters), |(quality, counters)| {
                    let Counters {
                        good,
                        bad,
                        overlong,
                        fragments,
                        invalid_values,
                    } = counters;
                    json!({
                        "quality": quality.word(),
                        "good": good,
                        "bad": bad,
                        "overlong": overlong,
                        "fragments": fragments,
                        "invalid_values": invalid_values,
                    })
                    .to_string()
                }),
        );
    }

    /// When [`Device::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let points = self.points.iter().filter_map(Point::poll_timeout);
        points
            .chain(self.offline_at)
            .chain(self.health.poll_timeout())
            .min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::mqtt::TopicName;
    use crate::serial::{PayloadForm, Raw};

    const SECOND: Duration = Duration::from_secs(1);

    /// A device `d` with the points `json` and `value`, which are told in these forms, on topics of these names.
    fn device() -> Device {
        let point = |name: &str, payload| PointSettings {
            payload,
            ..PointSettings::new(name.parse().unwrap(), TopicName::try_from(name).unwrap())
        };
        let points = vec![
            point("json", PayloadForm::Json),
            point("value", PayloadForm::Value),
        ];
        let settings = DeviceSettings::new("d".parse().unwrap(), points, 60 * SECOND).unwrap();
        let topics = StatusTopics::of_device(&TopicName::try_from("gw").unwrap(), settings.name()).unwrap();
        Device::new(&settings, &topics)
    }

    /// A clock that nobody set, so that no message tells the time.
    fn at(start: Instant, secs: u32) -> Now {
        Now {
            mono: start + secs * SECOND,
            wall: UNIX_EPOCH,
        }
    }

    fn both(raw: &str) -> Content {
        Content::Values(
            [0, 1]
                .map(|point| Sample {
                    point,
                    raw: Raw::Text(raw.to_owned()),
                })
                .into(),
        )
    }

    fn told(out: &mut VecDeque<Message>) -> Vec<String> {
        let show =
            |message: Message| format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload));
        out.drain(..).map(show).collect()
    }

    /// All that was told but the health.
    fn told_without_health(out: &mut VecDeque<Message>) -> Vec<String> {
        told(out)
            .into_iter()
            .filter(|text| !text.starts_with("gw/device/d/health"))
            .collect()
    }

    #[test]
    fn a_device_is_online_with_its_first_good_value_and_told_so_before_it() {
        let (start, mut device, mut out) = (Instant::now(), device(), VecDeque::new());
        device.handle_content(at(start, 0), &Content::Garbled(Garble::Malformed), &mut out);
        assert_eq!(told_without_health(&mut out), [r#"json {"v":null,"q":"bad"}"#]);
        device.handle_content(at(start, 1), &both("x"), &mut out);
        assert_eq!(told_without_health(&mut out), [""; 0]);
        device.handle_content(at(start, 2), &both("7"), &mut out);
        assert_eq!(
            told(&mut out),
            [
                "gw/device/d/status online",
                r#"json {"v":7,"q":"good"}"#,
                "value 7",
                concat!(
                    r#"gw/device/d/health {"quality":"good","good":1,"bad":2,"overlong":0,"#,
                    r#""fragments":0,"invalid_values":2}"#
                ),
            ]
        );
        device.handle_content(at(start, 3), &both("8"), &mut out);
        assert_eq!(told(&mut out), [r#"json {"v":8,"q":"good"}"#, "value 8"]);
    }

    #[test]
    fn a_silent_device_is_offline_and_its_points_are_stale() {
        let (start, mut device, mut out) = (Instant::now(), device(), VecDeque::new());
        device.handle_content(at(start, 0), &both("7"), &mut out);
        device.handle_content(at(start, 30), &both("8"), &mut out);
        // What nobody can read is no sign of life.
        device.handle_content(at(start, 89), &Content::Fragment, &mut out);
        device.handle_timeout(at(start, 89), &mut out);
        out.clear();
        device.handle_timeout(at(start, 90), &mut out);
        assert_eq!(
            told(&mut out),
            [
                "gw/device/d/status offline",
                r#"json {"v":null,"q":"stale"}"#,
                concat!(
                    r#"gw/device/d/health {"quality":"stale","good":2,"bad":0,"overlong":0,"#,
                    r#""fragments":1,"invalid_values":0}"#
                ),
            ]
        );
        assert_eq!(device.poll_timeout(), None);
    }

    #[test]
    fn one_bad_value_spoils_one_point() {
        let (start, mut device, mut out) = (Instant::now(), device(), VecDeque::new());
        device.handle_content(at(start, 0), &both("7"), &mut out);
        out.clear();
        let mixed = [(0, "x"), (1, "8")].map(|(point, raw)| Sample {
            point,
            raw: Raw::Text(raw.to_owned()),
        });
        device.handle_content(at(start, 1), &Content::Values(mixed.into()), &mut out);
        assert_eq!(told(&mut out), [r#"json {"v":null,"q":"bad"}"#, "value 8"]);
    }

    #[test]
    fn a_lost_line_is_told_once() {
        let (start, mut device, mut out) = (Instant::now(), device(), VecDeque::new());
        device.handle_content(at(start, 0), &both("7"), &mut out);
        out.clear();
        device.handle_lost(at(start, 1), &mut out);
        let expected = ["gw/device/d/status offline", r#"json {"v":null,"q":"stale"}"#];
        assert_eq!(told_without_health(&mut out), expected);
        device.handle_lost(at(start, 2), &mut out);
        assert_eq!(told(&mut out), [""; 0]);
    }

    #[test]
    fn a_device_without_points_with_twins_or_with_a_time_out_of_bounds_is_refused() {
        let name: Name = "d".parse().unwrap();
        let point = || PointSettings::new("p".parse().unwrap(), TopicName::try_from("p").unwrap());
        let refused =
            |points, offline_after| DeviceSettings::new(name.clone(), points, offline_after).unwrap_err();
        assert_eq!(
            refused(vec![], SECOND),
            SettingsError::NoPoints { device: name.clone() }
        );
        assert_eq!(
            refused(vec![point(), point()], SECOND),
            SettingsError::DuplicatePoint {
                point: "p".parse().unwrap()
            }
        );
        assert_eq!(
            refused(vec![point()], Duration::MAX),
            SettingsError::Time {
                what: "offline_after",
                found: Duration::MAX
            }
        );
        let stale = PointSettings {
            stale_after: Some(Duration::ZERO),
            ..point()
        };
        assert_eq!(
            refused(vec![stale], SECOND),
            SettingsError::Time {
                what: "stale_after",
                found: Duration::ZERO
            }
        );
        let many = vec![point(); DeviceSettings::POINTS_MAX + 1];
        assert_eq!(
            refused(many, SECOND),
            SettingsError::TooManyPoints {
                device: name.clone(),
                found: 257
            }
        );
    }
}
