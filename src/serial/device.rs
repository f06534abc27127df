//! Devices: what speaks on a line, when it counts as online, and what its points are worth.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::broker::{Message, Now};

use super::points::{Point, PointSettings};
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
    health: Health,
}

/// What a device said so far, counted in readings, and the last one in values.
#[derive(Debug, Default, Clone, Copy)]
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
        let Counters {
            good,
            bad,
            overlong,
            fragments,
            invalid_values,
        } = self.counters;
        let text = json!({
            "status": if self.offline_at.is_some() { "online" } else { "offline" },
            "quality": quality.word(),
            "good": good,
            "bad": bad,
            "overlong": overlong,
            "fragments": fragments,
            "invalid_values": invalid_values,
        })
        .to_string();
        out.extend(self.health.handle_text(now.mono, text));
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
