//! How `sub` prints a message: a template with `%` conversions, or JSON.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::client::Message;
use crate::mqtt::PublishProperties;

/// How a message is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format(Vec<Piece>);

/// The conversions, for the help text.
pub(super) const CONVERSIONS: &str = "Conversions of --format:
  %t  topic               %q  quality of service     %I  time of arrival, ISO 8601 in UTC
  %p  payload             %r  retained, 0 or 1       %U  time of arrival, Unix seconds
  %x  payload in hex      %l  payload length         %j  JSON, payload as text
  %X  the same, capitals  %C  content type           %J  JSON, payload as JSON
  %E  message expiry      %R  response topic         %D  correlation data
  %P  user properties     %S  subscription ids       %F  payload is UTF-8, 0 or 1
  %%  a percent sign      \\n \\t \\r \\0 \\a \\e \\\\ as elsewhere
A line end follows each message, unless -N.";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Conversion(Conversion),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    Topic,
    Payload,
    HexLower,
    HexUpper,
    Length,
    Qos,
    Retain,
    IsoTime,
    UnixTime,
    Json,
    JsonParsed,
    ContentType,
    CorrelationData,
    Expiry,
    PayloadIsUtf8,
    ResponseTopic,
    UserProperties,
    SubscriptionIds,
}

impl Format {
    /// The payload and nothing else.
    pub(super) fn payload() -> Self {
        Self(vec![Piece::Conversion(Conversion::Payload)])
    }

    /// Topic and payload, a space between.
    pub(super) fn verbose() -> Self {
        Self(vec![
            Piece::Conversion(Conversion::Topic),
            Piece::Text(" ".to_owned()),
            Piece::Conversion(Conversion::Payload),
        ])
    }

    /// One JSON object for each message.
    pub(super) fn json() -> Self {
        Self(vec![Piece::Conversion(Conversion::Json)])
    }

    /// Reads a template; the error says what is wrong with it.
    pub(super) fn parse(template: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut letters = template.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => {
                    let letter = letters
                        .next()
                        .ok_or("ends in a lone '%', expected a letter after it or '%%'")?;
                    if letter == '%' {
                        text.push('%');
                        continue;
                    }
                    let conversion = Conversion::from_letter(letter).ok_or_else(|| {
                        format!("unknown conversion '%{letter}', see --help for the known ones")
                    })?;
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Conversion(conversion));
                }
                '\\' => {
                    let letter = letters
                        .next()
                        .ok_or("ends in a lone backslash, expected a letter after it")?;
                    text.push(match letter {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        '0' => '\0',
                        'a' => '\x07',
                        'e' => '\x1b',
                        '\\' => '\\',
                        _ => {
                            return Err(format!(
                                "unknown escape '\\{letter}', expected \\n \\t \\r \\0 \\a \\e or \\\\"
                            ));
                        }
                    });
                }
                _ => text.push(letter),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self(pieces))
    }

    /// Appends `message`, which arrived at `time`, to `out`.
    pub(super) fn render(&self, message: &Message, time: SystemTime, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Conversion(conversion) => conversion.render(message, time, out),
            }
        }
    }
}

impl Conversion {
    fn from_letter(letter: char) -> Option<Self> {
        Some(match letter {
            't' => Self::Topic,
            'p' => Self::Payload,
            'x' => Self::HexLower,
            'X' => Self::HexUpper,
            'l' => Self::Length,
            'q' => Self::Qos,
            'r' => Self::Retain,
            'I' => Self::IsoTime,
            'U' => Self::UnixTime,
            'j' => Self::Json,
            'J' => Self::JsonParsed,
            'C' => Self::ContentType,
            'D' => Self::CorrelationData,
            'E' => Self::Expiry,
            'F' => Self::PayloadIsUtf8,
            'R' => Self::ResponseTopic,
            'P' => Self::UserProperties,
            'S' => Self::SubscriptionIds,
            _ => return None,
        })
    }

    fn render(self, message: &Message, time: SystemTime, out: &mut Vec<u8>) {
        let properties = message.properties.as_deref();
        let text = match self {
            Self::Topic => message.topic.to_string(),
            Self::Payload => return out.extend_from_slice(&message.payload),
            Self::HexLower => hex(&message.payload),
            Self::HexUpper => hex(&message.payload).to_uppercase(),
            Self::Length => message.payload.len().to_string(),
            Self::Qos => message.qos.to_string(),
            Self::Retain => u8::from(message.retain).to_string(),
            Self::IsoTime => iso_time(time),
            Self::UnixTime => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
            }
            Self::Json => json(message, time, false),
            Self::JsonParsed => json(message, time, true),
            Self::ContentType => optional(properties.and_then(|given| given.content_type.as_ref())),
            Self::CorrelationData => {
                let data = properties.and_then(|given| given.correlation_data.as_ref());
                return out.extend_from_slice(data.map_or(&[], |data| data));
            }
            Self::Expiry => optional(properties.and_then(|given| given.message_expiry_secs)),
            Self::PayloadIsUtf8 => optional(properties.and_then(|given| given.payload_is_utf8).map(u8::from)),
            Self::ResponseTopic => optional(properties.and_then(|given| given.response_topic.as_ref())),
            Self::UserProperties => {
                let pairs = properties.into_iter().flat_map(|given| &given.user_properties);
                pairs
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Self::SubscriptionIds => {
                let ids = properties.into_iter().flat_map(|given| &given.subscription_ids);
                ids.map(u32::to_string).collect::<Vec<_>>().join(" ")
            }
        };
        out.extend_from_slice(text.as_bytes());
    }
}

fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes every text");
            text
        })
}

/// The names are those of `mosquitto_sub`, so that what reads its lines reads these.
fn json(message: &Message, time: SystemTime, parsed: bool) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("tst", json!(iso_time(time)));
    put("topic", json!(message.topic.as_str()));
    put("qos", json!(message.qos as u8));
    put("retain", json!(u8::from(message.retain)));
    put("payloadlen", json!(message.payload.len()));
    if let Some(properties) = message
        .properties
        .as_deref()
        .map(json_properties)
        .filter(|found| !found.is_empty())
    {
        put("properties", Value::Object(properties));
    }
    let document = parsed
        .then(|| serde_json::from_slice::<Value>(&message.payload).ok())
        .flatten();
    match (document, std::str::from_utf8(&message.payload)) {
        (Some(document), _) => put("payload", document),
        (None, Ok(text)) => put("payload", json!(text)),
        // JSON has text only.
        (None, Err(_)) => put("payload_hex", json!(hex(&message.payload))),
    };
    Value::Object(object).to_string()
}

fn json_properties(properties: &PublishProperties) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    put(
        "payload-format-indicator",
        properties.payload_is_utf8.map(|is| json!(u8::from(is))),
    );
    put(
        "message-expiry-interval",
        properties.message_expiry_secs.map(Value::from),
    );
    put(
        "content-type",
        properties.content_type.as_ref().map(|text| json!(text.as_str())),
    );
    put(
        "response-topic",
        properties
            .response_topic
            .as_ref()
            .map(|topic| json!(topic.as_str())),
    );
    put(
        "correlation-data",
        properties
            .correlation_data
            .as_ref()
            .map(|data| json!(String::from_utf8_lossy(data))),
    );
    let pairs = &properties.user_properties;
    let pairs = pairs
        .iter()
        .map(|(name, value)| json!({ name.as_str(): value.as_str() }))
        .collect::<Vec<_>>();
    put(
        "user-properties",
        (!pairs.is_empty()).then(|| Value::Array(pairs)),
    );
    let ids = &properties.subscription_ids;
    put(
        "subscription-identifiers",
        (!ids.is_empty()).then(|| json!(ids.as_slice())),
    );
    object
}

/// As in 2026-11-21T23:05:00.123Z. In UTC, because a static binary knows no time zones.
fn iso_time(time: SystemTime) -> String {
    // Before 1970 there is no clock to show.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

/// Year, month and day, `days` after 1970-01-01 in the Gregorian calendar.
fn civil_date(mut days: u64) -> (u64, usize, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // The calendar repeats after 400 years, so the loops below are short.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{QoS, TopicName, Utf8String};
    use bytes::Bytes;

    fn message(payload: &'static [u8]) -> Message {
        Message {
            topic: TopicName::try_from("site/a").unwrap(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: None,
        }
    }

    fn rendered(template: &str, message: &Message) -> String {
        let mut out = Vec::new();
        let time = UNIX_EPOCH + Duration::from_millis(1_795_302_300_123);
        Format::parse(template).unwrap().render(message, time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_conversion_prints_its_part_of_the_message() {
        let mut message = message(b"\x01on");
        message.properties = Some(Box::new(PublishProperties {
            payload_is_utf8: Some(true),
            message_expiry_secs: Some(60),
            response_topic: Some(TopicName::try_from("answers").unwrap()),
            correlation_data: Some(Bytes::from_static(b"c7")),
            user_properties: ["1", "2"]
                .map(|value| {
                    (
                        Utf8String::try_from("n").unwrap(),
                        Utf8String::try_from(value).unwrap(),
                    )
                })
                .to_vec(),
            subscription_ids: [3, 4].into_iter().collect(),
            content_type: Some(Utf8String::try_from("text/plain").unwrap()),
            topic_alias: None,
        }));
        for (template, expected) in [
            ("%t %p", "site/a \x01on"),
            ("%x %X", "016f6e 016F6E"),
            ("%l/%q/%r", "3/1/1"),
            ("%I", "2026-11-21T23:05:00.123Z"),
            ("%U", "1795302300.123000000"),
            ("%C %D %E %F %R", "text/plain c7 60 1 answers"),
            ("%P %S", "n:1 n:2 3 4"),
            (r"100%%\t\\\n", "100%\t\\\n"),
            ("", ""),
        ] {
            assert_eq!(rendered(template, &message), expected, "{template}");
        }
    }

    #[test]
    fn json_carries_text_as_text_and_other_bytes_as_hex() {
        let text = rendered("%j", &message(b"{\"t\": 21.50}"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["topic"], "site/a");
        assert_eq!(value["payload"], "{\"t\": 21.50}");
        assert_eq!(value["payloadlen"], 12);
        assert_eq!(value["qos"], 1);
        assert_eq!(value["retain"], 1);
        assert_eq!(value["tst"], "2026-11-21T23:05:00.123Z");
        let value: Value = serde_json::from_str(&rendered("%j", &message(b"\xff\x00"))).unwrap();
        assert_eq!(value["payload_hex"], "ff00");
        let value: Value = serde_json::from_str(&rendered("%J", &message(b"{\"t\": 21.5}"))).unwrap();
        assert_eq!(value["payload"]["t"], 21.5);
    }

    #[test]
    fn a_template_with_a_mistake_is_refused_with_what_was_found() {
        for (template, found) in [
            ("%", "lone '%'"),
            ("%y", "%y"),
            ("\\", "lone backslash"),
            ("\\q", "\\q"),
        ] {
            let error = Format::parse(template).unwrap_err();
            assert!(error.contains(found), "{error}");
        }
    }

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (146_097, (2370, 1, 1)),
        ] {
            assert_eq!(civil_date(days), date, "{days}");
        }
    }
}
