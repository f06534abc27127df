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
    /// The same with `health`: counters as JSON, with why a port is closed, or how
    /// good a device's points are.
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

/// A health topic: published when what it tells changed, and no oftener than every ten seconds unless hurried.
#[derive(Debug)]
pub(super) struct Health<T> {
    topic: TopicName,
    published: Option<T>,
    /// Whether something newer waits.
    pending: bool,
    /// Until when it waits.
    quiet_until: Option<Instant>,
}

/// The shortest time between two health messages: counters are for people, and a retained message may cost a flash
/// page.
const HEALTH_INTERVAL: Duration = Duration::from_secs(10);

impl<T: Clone + PartialEq> Health<T> {
    pub(super) fn new(topic: TopicName) -> Self {
        Self {
            topic,
            published: None,
            pending: false,
            quiet_until: None,
        }
    }

    /// Lets the next message go out at once: something happened that explains a status.
    pub(super) fn hurry(&mut self) {
        self.quiet_until = None;
    }

    /// Takes what is to be told at this moment, and gives a message if it is time for one.
    pub(super) fn handle_state(
        &mut self,
        now: Instant,
        state: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Option<Message> {
        let changed = self.published.as_ref() != Some(state);
        self.pending = changed && self.quiet_until.is_some_and(|quiet_until| quiet_until > now);
        if !changed || self.pending {
            return None;
        }
        self.quiet_until = Some(now + HEALTH_INTERVAL);
        self.published = Some(state.clone());
        let (topic, payload) = (self.topic.clone(), Bytes::from(text(state)));
        Some(Message {
            topic,
            payload,
            qos: QoS::AtMostOnce,
            retain: true,
            properties: None,
        })
    }

    /// When what waits may go out.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_tell_ports_from_devices() {
        let gateway = TopicName::try_from("site/gw1").unwrap();
        let name: Name = "wire".parse().unwrap();
        let port = StatusTopics::of_port(&gateway, &name).unwrap();
        assert_eq!(
            port.both().map(TopicName::as_str),
            ["site/gw1/port/wire/status", "site/gw1/port/wire/health"]
        );
        let device = StatusTopics::of_device(&gateway, &name).unwrap();
        assert_eq!(
            device.both().map(TopicName::as_str),
            ["site/gw1/device/wire/status", "site/gw1/device/wire/health"]
        );
    }

    #[test]
    fn health_is_told_at_once_and_then_at_its_interval_and_only_when_it_changed() {
        let start = Instant::now();
        let mut health = Health::new(TopicName::try_from("h").unwrap());
        let mut told = |after_secs, state: u8| {
            let message = health.handle_state(start + Duration::from_secs(after_secs), &state, u8::to_string);
            (message.map(|message| message.payload), health.poll_timeout())
        };
        let due = Some(start + HEALTH_INTERVAL);
        assert_eq!(told(0, 1), (Some(Bytes::from("1")), None));
        assert_eq!(told(1, 2), (None, due));
        assert_eq!(told(2, 3), (None, due));
        assert_eq!(told(3, 1), (None, None));
        assert_eq!(told(4, 4), (None, due));
        assert_eq!(told(10, 5), (Some(Bytes::from("5")), None));
        assert_eq!(told(60, 5), (None, None));
        assert_eq!(told(61, 6), (Some(Bytes::from("6")), None));
    }

    #[test]
    fn health_in_a_hurry_does_not_wait() {
        let start = Instant::now();
        let mut health = Health::new(TopicName::try_from("h").unwrap());
        assert!(health.handle_state(start, &1, u8::to_string).is_some());
        health.hurry();
        assert!(health.handle_state(start, &2, u8::to_string).is_some());
    }
}
