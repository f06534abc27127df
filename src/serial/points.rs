//! Points: what a raw value means, whether it can be believed, and how it is told.

use std::fmt;
use std::time::Duration;

use crate::mqtt::{QoS, TopicName};

use super::template::Name;

/// Everything about one point: a quantity a device tells, and where its readings go.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSettings {
    /// Unique within its device.
    pub name: Name,
    /// Where its readings are published; unique within the gateway.
    pub topic: TopicName,
    /// At which quality they are published.
    pub qos: QoS,
    /// Whether the last one is retained. With [`PayloadForm::Value`] a late subscriber cannot tell how old it is.
    pub retain: bool,
    /// What a reading looks like.
    pub payload: PayloadForm,
    /// What a raw value must be.
    pub kind: PointKind,
    /// The unit after scaling, told in [`PayloadForm::Json`].
    pub unit: Option<String>,
    /// How long a good value stays fresh; `None`: as long as its device is online.
    pub stale_after: Option<Duration>,
}

/// What a reading looks like on its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadForm {
    /// The value alone, as in `21.5`; nothing is published while the value is bad or stale.
    #[default]
    Value,
    /// `{"v":21.5,"ts":"2026-01-31T12:00:00.000Z","q":"good","unit":"°C"}`; `v` is null unless `q` is good, and `ts`
    /// is left out while the clock cannot be believed.
    Json,
}

/// What a raw value must be to be good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PointKind {
    /// A number, which is scaled and checked.
    Number(Scaling),
    /// Text without control characters, taken as it is.
    Text,
}

/// What becomes of a number: `raw × scale + offset`, rounded, within limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    scale: f64,
    offset: f64,
    decimals: Option<u8>,
    valid_min: Option<f64>,
    valid_max: Option<f64>,
}

/// Why numbers are no [`Scaling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalingError {
    /// `scale` is 0, infinite or no number.
    Scale,
    /// `offset` is infinite or no number.
    Offset,
    /// `decimals` is more than [`Scaling::DECIMALS_MAX`].
    Decimals,
    /// `valid_min` or `valid_max` is infinite or no number, or the smaller one is not the smaller.
    Range,
}

impl PointSettings {
    /// A number published as it comes, at QoS 0, not retained.
    pub fn new(name: Name, topic: TopicName) -> Self {
        Self {
            name,
            topic,
            qos: QoS::AtMostOnce,
            retain: false,
            payload: PayloadForm::default(),
            kind: PointKind::default(),
            unit: None,
            stale_after: None,
        }
    }
}

impl Default for PointKind {
    fn default() -> Self {
        Self::Number(Scaling::default())
    }
}

impl Scaling {
    /// The most decimals; a double has no more to tell.
    pub const DECIMALS_MAX: u8 = 15;

    /// Takes the five numbers; `valid_min` and `valid_max` bound the scaled value and are part of the range.
    ///
    /// # Errors
    /// [`ScalingError`] names the number that cannot be.
    pub fn new(
        scale: f64,
        offset: f64,
        decimals: Option<u8>,
        valid_min: Option<f64>,
        valid_max: Option<f64>,
    ) -> Result<Self, ScalingError> {
        if !scale.is_normal() {
            return Err(ScalingError::Scale);
        }
        if !offset.is_finite() {
            return Err(ScalingError::Offset);
        }
        if decimals.is_some_and(|decimals| decimals > Self::DECIMALS_MAX) {
            return Err(ScalingError::Decimals);
        }
        let lower = valid_min.unwrap_or(f64::MIN);
        let upper = valid_max.unwrap_or(f64::MAX);
        if !lower.is_finite() || !upper.is_finite() || lower > upper {
            return Err(ScalingError::Range);
        }
        Ok(Self {
            scale,
            offset,
            decimals,
            valid_min,
            valid_max,
        })
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            scale: 1.0,
            offset: 0.0,
            decimals: None,
            valid_min: None,
            valid_max: None,
        }
    }
}

impl fmt::Display for ScalingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale => f.write_str("expected a finite scale other than 0"),
            Self::Offset => f.write_str("expected a finite offset"),
            Self::Decimals => write!(f, "expected at most {} decimals", Scaling::DECIMALS_MAX),
            Self::Range => f.write_str("expected finite limits, valid_min not above valid_max"),
        }
    }
}

impl std::error::Error for ScalingError {}
