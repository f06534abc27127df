//! What a gateway tells of its ports and devices, beside their readings.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::Message;
use crate::mqtt::{QoS, TopicError, TopicName};

use super::template::Name;

/// The two retained topics of a port or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusTopics {
    /// `GATEWAY/port/PORT/status` or `GATEWAY/device/DEVICE/status`: `online` or `offline`.
    pub status: TopicName,
    /// The same with `health`: counters and the reason as JSON.
    pub health: TopicName,
}

impl StatusTopics {
    /// Those of a port.
    ///
    /// # Errors
    /// [`TopicError::NotText`] where they are too long.
    pub fn of_port(gateway: &TopicName, port: &Name) -> Result<Self, TopicError> {
        Self::under(&format!("{gateway}/port/{port}"))
    }

    /// Those of a device.
    ///
    /// # Errors
    /// [`TopicError::NotText`] where they are too long.
    pub fn of_device(gateway: &TopicName, device: &Name) -> Result<Self, TopicError> {
        Self::under(&format!("{gateway}/device/{device}"))
    }

    fn under(base: &str) -> Result<Self, TopicError> {
        Ok(Self {
            status: TopicName::try_from(format!("{base}/status").as_str())?,
            health: TopicName::try_from(format!("{base}/health").as_str())?,
        })
    }

    /// Both of them.
    pub fn both(&self) -> [&TopicName; 2] {
        [&self.status, &self.health]
    }
}

/// Says `online` or `offline`, retained, so that who comes late knows too.
pub(super) fn status_message(topics: &StatusTopics, online: bool) -> Message {
    let payload = Bytes::from_static(if online { b"online" } else { b"offline" });
    Message {
        topic: topics.status.clone(),
        payload,
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: None,
    }
}

/// A health topic: published when its text changed, and no oftener than every [`Health::INTERVAL`] unless hurried.
#[derive(Debug)]
pub(super) struct Health {
    topic: TopicName,
    published: String,
    /// Whether a newer text waits.
    pending: bool,
    /// Until when the next text waits.
    quiet_until: Option<Instant>,
}

impl Health {
    /// The shortest time between two texts: counters are for people, and a retained message may cost a flash page.
    const INTERVAL: Duration = Duration::from_secs(10);

    pub(super) fn new(topic: TopicName) -> Self {
        Self {
            topic,
            published: String::new(),
            pending: false,
            quiet_until: None,
        }
    }

    /// Lets the next text go out at once: something happened that explains a status.
    pub(super) fn hurry(&mut self) {
        self.quiet_until = None;
    }

    /// Takes the text of this moment, and gives a message if it is time for one.
    pub(super) fn handle_text(&mut self, now: Instant, text: String) -> Option<Message> {
        if text == self.published {
            self.pending = false;
            return None;
        }
        if self.quiet_until.is_some_and(|quiet_until| quiet_until > now) {
            self.pending = true;
            return None;
        }
        self.pending = false;
        self.quiet_until = Some(now + Self::INTERVAL);
        let payload = Bytes::copy_from_slice(text.as_bytes());
        self.published = text;
        let topic = self.topic.clone();
        Some(Message {
            topic,
            payload,
            qos: QoS::AtMostOnce,
            retain: true,
            properties: None,
        })
    }

    /// When a text that waits may go out.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.pending)
    }
}
