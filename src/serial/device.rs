//! Devices: what speaks on a line, when it counts as online, and what its points are worth.

use std::time::Duration;

use super::points::PointSettings;
use super::settings::SettingsError;
use super::template::Name;

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
    /// [`SettingsError`] where there is no point, there are too many, two have one name, or a time is zero.
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
        if offline_after.is_zero() {
            return Err(SettingsError::ZeroTime {
                what: "offline_after",
            });
        }
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
            if point.stale_after.is_some_and(|stale_after| stale_after.is_zero()) {
                return Err(SettingsError::ZeroTime { what: "stale_after" });
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
