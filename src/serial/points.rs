//! Points: what a raw value means, whether it can be believed, and how it is told.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::broker::{Message, Now};
use crate::mqtt::{QoS, TopicName};

use super::Raw;
use super::template::Name;
use super::timestamp::timestamp;

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

/// What a point is worth, the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Quality {
    /// The last value said is the value.
    Good,
    /// Nothing was said for too long, or never.
    #[default]
    Stale,
    /// Something was said that cannot be the value.
    Bad,
}

impl Quality {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale => "stale",
            Self::Bad => "bad",
        }
    }
}

/// A point at work. It keeps no value: what was said once is never said again as if it were fresh.
#[derive(Debug)]
pub(super) struct Point {
    settings: PointSettings,
    quality: Quality,
    /// When a good value becomes stale, beside its device going offline.
    stale_at: Option<Instant>,
}

impl Point {
    /// A point of which nothing is known yet.
    pub(super) fn new(settings: PointSettings) -> Self {
        Self {
            settings,
            quality: Quality::Stale,
            stale_at: None,
        }
    }

    pub(super) fn quality(&self) -> Quality {
        self.quality
    }

    /// Takes what a device sent for the point; gives the message of a good value.
    ///
    /// # Errors
    /// Where the value cannot be believed: the message that says so, if there is one.
    pub(super) fn handle_raw(&mut self, now: Now, raw: &Raw) -> Result<Message, Option<Message>> {
        let Some(value) = self.settings.kind.value(raw) else {
            return Err(self.degrade(now, Quality::Bad));
        };
        self.quality = Quality::Good;
        self.stale_at = self
            .settings
            .stale_after
            .map(|stale_after| now.mono + stale_after);
        let payload = match self.settings.payload {
            PayloadForm::Value => value.plain(),
            PayloadForm::Json => self.settings.json(&value.json(), Quality::Good, Some(now.wall)),
        };
        Ok(self.settings.message(payload))
    }

    /// Learns that its device said something nobody can read.
    pub(super) fn handle_garbled(&mut self, now: Now) -> Option<Message> {
        self.degrade(now, Quality::Bad)
    }

    /// Learns that its device is offline.
    pub(super) fn handle_offline(&mut self, now: Now) -> Option<Message> {
        self.degrade(now, Quality::Stale)
    }

    /// Becomes stale when it is time.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Option<Message> {
        match self.stale_at {
            Some(stale_at) if stale_at <= now.mono => self.degrade(now, Quality::Stale),
            _ => None,
        }
    }

    /// When [`Point::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.stale_at
    }

    /// Says once that there is no good value any more.
    fn degrade(&mut self, now: Now, quality: Quality) -> Option<Message> {
        self.stale_at = None;
        let before = std::mem::replace(&mut self.quality, quality);
        if before == quality {
            None
        } else {
            self.settings.without_value(quality, Some(now.wall))
        }
    }
}

impl PointSettings {
    /// The message of a point without a good value; the value alone has no way to say that.
    pub(super) fn without_value(&self, quality: Quality, wall: Option<SystemTime>) -> Option<Message> {
        match self.payload {
            PayloadForm::Value => None,
            PayloadForm::Json => Some(self.message(self.json("null", quality, wall))),
        }
    }

    fn message(&self, payload: String) -> Message {
        let Self {
            topic, qos, retain, ..
        } = self;
        Message {
            topic: topic.clone(),
            payload: Bytes::from(payload),
            qos: *qos,
            retain: *retain,
            properties: None,
        }
    }

    /// Written by hand, for a number keeps the decimals it was rounded to.
    fn json(&self, value: &str, quality: Quality, wall: Option<SystemTime>) -> String {
        let mut text = format!(r#"{{"v":{value}"#);
        if let Some(timestamp) = wall.and_then(timestamp) {
            text += &format!(r#","ts":"{timestamp}""#);
        }
        text += &format!(r#","q":"{}""#, quality.word());
        if let Some(unit) = &self.unit {
            text += &format!(r#","unit":{}"#, json_string(unit));
        }
        text.push('}');
        text
    }
}

/// A value that can be believed, ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// As JSON writes it.
    Number(String),
    /// Without control characters.
    Text(String),
}

impl Value {
    fn plain(self) -> String {
        match self {
            Self::Number(text) | Self::Text(text) => text,
        }
    }

    fn json(self) -> String {
        match self {
            Self::Number(text) => text,
            Self::Text(text) => json_string(&text),
        }
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl PointKind {
    /// What `raw` means, `None` where it cannot be believed.
    fn value(&self, raw: &Raw) -> Option<Value> {
        match (self, raw) {
            (_, Raw::Nothing) => None,
            (Self::Number(scaling), Raw::Number(number)) => scaling.apply(*number).map(Value::Number),
            (Self::Number(scaling), Raw::Text(text)) => scaling.apply(text.parse().ok()?).map(Value::Number),
            (Self::Text, Raw::Number(number)) => Some(Value::Text(number.to_string())),
            // U+FFFD stands where the line carried bytes that are no text.
            (Self::Text, Raw::Text(text)) => {
                let readable =
                    !text.contains(|character: char| character.is_control() || character == '\u{fffd}');
                readable.then(|| Value::Text(text.clone()))
            }
        }
    }
}

impl Scaling {
    /// The scaled, checked and rounded number as JSON writes it.
    fn apply(&self, raw: f64) -> Option<String> {
        let scaled = raw * self.scale + self.offset;
        let within = self.valid_min.is_none_or(|valid_min| scaled >= valid_min)
            && self.valid_max.is_none_or(|valid_max| scaled <= valid_max);
        if !scaled.is_finite() || !within {
            return None;
        }
        let text = match self.decimals {
            Some(decimals) => format!("{scaled:.*}", usize::from(decimals)),
            None => scaled.to_string(),
        };
        // No sensor means the sign of a zero that rounding left over.
        match text.strip_prefix('-') {
            Some(digits) if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) => Some(digits.to_owned()),
            _ => Some(text),
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(payload: PayloadForm) -> PointSettings {
        let topic = TopicName::try_from("gw/t").unwrap();
        PointSettings {
            payload,
            ..PointSettings::new("t".parse().unwrap(), topic)
        }
    }

    /// 2026-01-31T12:00:00.250Z.
    fn now() -> Now {
        Now {
            mono: Instant::now(),
            wall: UNIX_EPOCH + Duration::from_millis(1_769_860_800_250),
        }
    }

    fn later(now: Now, by: Duration) -> Now {
        Now {
            mono: now.mono + by,
            wall: now.wall + by,
        }
    }

    fn raw(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    fn text(message: &Message) -> &str {
        std::str::from_utf8(&message.payload).unwrap()
    }

    fn scaled(scaling: Scaling, text: &str) -> Option<String> {
        PointKind::Number(scaling).value(&raw(text)).map(Value::plain)
    }

    #[test]
    fn a_number_is_scaled_shifted_and_rounded() {
        let celsius = Scaling::new(0.1, -40.0, Some(1), None, None).unwrap();
        assert_eq!(scaled(celsius, "615").as_deref(), Some("21.5"));
        assert_eq!(scaled(celsius, "600").as_deref(), Some("20.0"));
        assert_eq!(scaled(Scaling::default(), "21.50").as_deref(), Some("21.5"));
        assert_eq!(scaled(Scaling::default(), "+7").as_deref(), Some("7"));
        assert_eq!(scaled(Scaling::default(), "1e3").as_deref(), Some("1000"));
        let whole = Scaling::new(1.0, 0.0, Some(0), None, None).unwrap();
        assert_eq!(scaled(whole, "-0.4").as_deref(), Some("0"));
        assert_eq!(scaled(Scaling::default(), "-0").as_deref(), Some("0"));
    }

    #[test]
    fn what_is_no_finite_number_within_its_limits_is_not_believed() {
        let percent = Scaling::new(1.0, 0.0, None, Some(0.0), Some(100.0)).unwrap();
        assert_eq!(scaled(percent, "0").as_deref(), Some("0"));
        assert_eq!(scaled(percent, "100").as_deref(), Some("100"));
        for text in [
            "100.1", "-0.1", "", "nan", "inf", "4x.5", "4 8", "1e999", "\u{fffd}",
        ] {
            assert_eq!(scaled(percent, text), None, "{text}");
        }
        let huge = Scaling::new(1e300, 0.0, None, None, None).unwrap();
        assert_eq!(scaled(huge, "1e300"), None);
        assert_eq!(PointKind::default().value(&Raw::Nothing), None);
    }

    #[test]
    fn a_scaling_that_cannot_be_is_refused() {
        for (scaling, error) in [
            (Scaling::new(0.0, 0.0, None, None, None), ScalingError::Scale),
            (Scaling::new(f64::NAN, 0.0, None, None, None), ScalingError::Scale),
            (
                Scaling::new(1.0, f64::INFINITY, None, None, None),
                ScalingError::Offset,
            ),
            (
                Scaling::new(1.0, 0.0, Some(16), None, None),
                ScalingError::Decimals,
            ),
            (
                Scaling::new(1.0, 0.0, None, Some(2.0), Some(1.0)),
                ScalingError::Range,
            ),
            (
                Scaling::new(1.0, 0.0, None, Some(f64::NAN), None),
                ScalingError::Range,
            ),
        ] {
            assert_eq!(scaling, Err(error));
        }
    }

    #[test]
    fn the_value_form_is_the_value_alone() {
        let mut point = Point::new(PointSettings {
            retain: true,
            ..settings(PayloadForm::Value)
        });
        let message = point.handle_raw(now(), &raw("21.5")).unwrap();
        assert_eq!(text(&message), "21.5");
        assert_eq!((message.topic.as_str(), message.retain), ("gw/t", true));
    }

    #[test]
    fn the_json_form_tells_value_time_quality_and_unit() {
        let unit = Some("\"°C\"".to_owned());
        let mut point = Point::new(PointSettings {
            unit,
            ..settings(PayloadForm::Json)
        });
        let message = point.handle_raw(now(), &Raw::Number(21.5)).unwrap();
        assert_eq!(
            text(&message),
            r#"{"v":21.5,"ts":"2026-01-31T12:00:00.250Z","q":"good","unit":"\"°C\""}"#
        );
        let unset = Now {
            wall: UNIX_EPOCH,
            ..now()
        };
        let message = point.handle_raw(unset, &Raw::Number(22.0)).unwrap();
        assert_eq!(text(&message), r#"{"v":22,"q":"good","unit":"\"°C\""}"#);
    }

    #[test]
    fn text_is_taken_as_it_is_if_it_can_be_read() {
        let kind = PointKind::Text;
        let mut point = Point::new(PointSettings {
            kind,
            ..settings(PayloadForm::Json)
        });
        let unset = Now {
            wall: UNIX_EPOCH,
            ..now()
        };
        assert_eq!(
            text(&point.handle_raw(unset, &raw("a \"b\"")).unwrap()),
            r#"{"v":"a \"b\"","q":"good"}"#
        );
        assert_eq!(
            text(&point.handle_raw(unset, &Raw::Number(5.0)).unwrap()),
            r#"{"v":"5","q":"good"}"#
        );
        let bad = point.handle_raw(unset, &raw("\u{fffd}pen")).unwrap_err().unwrap();
        assert_eq!(text(&bad), r#"{"v":null,"q":"bad"}"#);
        assert!(point.handle_raw(unset, &raw("o\u{7}pen")).is_err());
    }

    #[test]
    fn a_bad_value_is_told_once_and_repeats_no_old_value() {
        let mut point = Point::new(settings(PayloadForm::Json));
        point.handle_raw(now(), &raw("21.5")).unwrap();
        let bad = point.handle_garbled(now()).unwrap();
        assert_eq!(
            text(&bad),
            r#"{"v":null,"ts":"2026-01-31T12:00:00.250Z","q":"bad"}"#
        );
        assert_eq!(point.handle_garbled(now()), None);
        assert_eq!(point.handle_raw(now(), &raw("x")), Err(None));
        assert_eq!(point.quality(), Quality::Bad);
        point.handle_raw(now(), &raw("21.6")).unwrap();
        assert_eq!(point.quality(), Quality::Good);
    }

    #[test]
    fn a_bad_value_is_not_told_in_the_value_form() {
        let mut point = Point::new(settings(PayloadForm::Value));
        point.handle_raw(now(), &raw("21.5")).unwrap();
        assert_eq!(point.handle_garbled(now()), None);
        assert_eq!(point.quality(), Quality::Bad);
    }

    #[test]
    fn a_value_becomes_stale_when_no_other_follows_in_time() {
        let stale_after = Some(10 * SECOND);
        let mut point = Point::new(PointSettings {
            stale_after,
            ..settings(PayloadForm::Json)
        });
        let start = now();
        point.handle_raw(start, &raw("1")).unwrap();
        point.handle_raw(later(start, 5 * SECOND), &raw("2")).unwrap();
        assert_eq!(point.poll_timeout(), Some(start.mono + 15 * SECOND));
        assert_eq!(point.handle_timeout(later(start, 14 * SECOND)), None);
        let stale = point.handle_timeout(later(start, 15 * SECOND)).unwrap();
        assert_eq!(
            text(&stale),
            r#"{"v":null,"ts":"2026-01-31T12:00:15.250Z","q":"stale"}"#
        );
        assert_eq!((point.poll_timeout(), point.quality()), (None, Quality::Stale));
    }
}
