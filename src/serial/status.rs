//! What a gateway tells of its ports and devices, beside their readings.

use crate::mqtt::{TopicError, TopicName};

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
