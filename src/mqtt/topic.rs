//! Topic names and topic filters (section 4.7): what they may hold, and when one matches the other.

use std::fmt;

use super::ids::Utf8String;

/// A Topic Name (section 4.7): at least one character, no wildcard.
///
/// Cheap to clone; may share the bytes of the packet it came in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Utf8String);

/// A Topic Filter (section 4.7): a topic name that may hold `+` and `#` where the standard lets them stand.
///
/// The share name of a shared subscription (section 4.8.2) is part of the text; [`TopicFilter::share`] tells it apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Utf8String);

/// Why text is not a topic name or not a topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// Shorter than one character [MQTT-4.7.3-1].
    Empty,
    /// A topic name with `+` or `#` [MQTT-3.3.2-2] [MQTT-4.7.0-1].
    WildcardInName,
    /// `#` anywhere but alone in the last level [MQTT-4.7.1-1].
    MisplacedHash,
    /// `+` beside other characters in its level [MQTT-4.7.1-2].
    MisplacedPlus,
    /// `$share/` without a share name, with a wildcard in it, or without a filter after it [MQTT-4.8.2-1]
    /// [MQTT-4.8.2-2].
    MalformedShare,
    /// Not a UTF-8 Encoded String: not text, with U+0000 [MQTT-4.7.3-2], or too long [MQTT-4.7.3-3].
    NotText,
}

impl TopicName {
    /// Takes `text` as a topic name.
    ///
    /// # Errors
    /// [`TopicError::Empty`], [`TopicError::WildcardInName`].
    pub fn parse(text: Utf8String) -> Result<Self, TopicError> {
        if text.as_str().is_empty() {
            return Err(TopicError::Empty); // [MQTT-4.7.3-1]
        }
        if holds_wildcard(text.as_bytes()) {
            return Err(TopicError::WildcardInName); // [MQTT-3.3.2-2]
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as the string the wire carries.
    pub fn as_utf8(&self) -> &Utf8String {
        &self.0
    }

    /// The levels between the slashes; an empty level counts [section 4.7.1.1].
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.as_str().split('/')
    }

    /// Whether the name starts with `$`, so that no leading wildcard matches it [MQTT-4.7.2-1].
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with('$')
    }

    /// A copy that owns exactly its own bytes.
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl TopicFilter {
    /// Takes `text` as a topic filter.
    ///
    /// # Errors
    /// [`TopicError`] where section 4.7.1 or 4.8.2 forbids the text.
    pub fn parse(text: Utf8String) -> Result<Self, TopicError> {
        let filter = Self(text);
        let matched = match filter.as_str().strip_prefix("$share/") {
            None => filter.as_str(),
            Some(rest) => {
                // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
                let (name, matched) = rest.split_once('/').ok_or(TopicError::MalformedShare)?;
                if name.is_empty() || name.contains(['+', '#']) || matched.is_empty() {
                    return Err(TopicError::MalformedShare);
                }
                matched
            }
        };
        if matched.is_empty() {
            return Err(TopicError::Empty); // [MQTT-4.7.3-1]
        }
        let mut levels = matched.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash); // [MQTT-4.7.1-1]
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::MisplacedPlus); // [MQTT-4.7.1-2]
            }
        }
        Ok(filter)
    }

    /// The whole text, a share name included.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as the string the wire carries.
    pub fn as_utf8(&self) -> &Utf8String {
        &self.0
    }

    /// The share name and the filter behind it, where this is a shared subscription (section 4.8.2).
    pub fn share(&self) -> Option<(&str, &str)> {
        self.as_str()
            .strip_prefix("$share/")
            .and_then(|rest| rest.split_once('/'))
    }

    /// The text topics are matched against: without `$share/NAME/`.
    pub fn matched(&self) -> &str {
        self.share().map_or(self.as_str(), |(_, matched)| matched)
    }

    /// The levels of [`TopicFilter::matched`].
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.matched().split('/')
    }

    /// Whether this filter, level by level, matches all that `other` does, a topic name or a topic filter without
    /// its share name.
    pub fn covers(&self, other: &str) -> bool {
        self.covers_as(other, Some)
    }

    /// The same, where each level of this filter stands for what `meaning` makes of it: a level of its own, or `None`
    /// for one that nothing matches.
    pub fn covers_as<'a>(&'a self, other: &str, meaning: impl Fn(&'a str) -> Option<&'a str>) -> bool {
        if other.starts_with('$') && self.matched().starts_with(['+', '#']) {
            return false; // [MQTT-4.7.2-1]
        }
        let mut other_levels = other.split('/');
        for level in self.levels() {
            if level == "#" {
                return true; // also the parent level itself, section 4.7.1.2
            }
            match other_levels.next() {
                Some(other) if (level == "+" && other != "#") || meaning(level) == Some(other) => {}
                _ => return false,
            }
        }
        other_levels.next().is_none()
    }

    /// Whether `topic` matches, by section 4.7.
    pub fn matches(&self, topic: &TopicName) -> bool {
        let filter = self.matched();
        if topic.is_reserved() && filter.starts_with(['+', '#']) {
            return false; // [MQTT-4.7.2-1]
        }
        let mut topic_levels = topic.levels();
        for level in filter.split('/') {
            if level == "#" {
                return true; // also the parent level itself, section 4.7.1.2
            }
            match topic_levels.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        topic_levels.next().is_none()
    }

    /// A copy that owns exactly its own bytes.
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

/// Whether `+` or `#` occurs in `bytes`; eight at a time, because every PUBLISH asks.
fn holds_wildcard(bytes: &[u8]) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The two differ in bit 3 alone, so with that bit set both are `+`.
    const BIT: u8 = b'+' ^ b'#';
    const { assert!(BIT == 0x08 && b'+' & BIT == BIT) };
    let (eights, rest) = bytes.as_chunks::<8>();
    eights.iter().any(|eight| {
        let zero_where_found = (u64::from_ne_bytes(*eight) | (LOW * BIT as u64)) ^ (LOW * b'+' as u64);
        zero_where_found.wrapping_sub(LOW) & !zero_where_found & HIGH != 0
    }) || rest.iter().any(|byte| byte | BIT == b'+')
}

impl TryFrom<&str> for TopicName {
    type Error = TopicError;

    fn try_from(text: &str) -> Result<Self, TopicError> {
        Self::parse(Utf8String::try_from(text).map_err(|_| TopicError::NotText)?)
    }
}

impl TryFrom<&str> for TopicFilter {
    type Error = TopicError;

    fn try_from(text: &str) -> Result<Self, TopicError> {
        Self::parse(Utf8String::try_from(text).map_err(|_| TopicError::NotText)?)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty, expected at least one character",
            Self::WildcardInName => "holds '+' or '#', which only a topic filter may",
            Self::MisplacedHash => "'#' must stand alone in the last level",
            Self::MisplacedPlus => "'+' must stand alone in its level",
            Self::MalformedShare => "expected $share/NAME/FILTER with a NAME without wildcards",
            Self::NotText => {
                "not well-formed UTF-8, or with the character U+0000, or longer than 65535 bytes"
            }
        })
    }
}

impl std::error::Error for TopicError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::try_from(filter)
            .unwrap()
            .matches(&TopicName::try_from(topic).unwrap())
    }

    #[test]
    fn a_filter_matches_as_the_examples_of_the_standard_say() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("$share/readers/site/+", "site/a", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} against {topic}");
        }
    }

    #[test]
    fn a_filter_covers_the_names_it_matches_and_the_filters_inside_it() {
        for (filter, other, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/#", "a/+/b", true),
            ("a/#", "#", false),
            ("a/#", "+/b", false),
            ("a/+", "a/+", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/+", "a/b/c", false),
            ("+", "#", false),
            ("#", "#", true),
            ("#", "$SYS/#", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("a", "+", false),
            ("a/b", "a", false),
        ] {
            let covers = TopicFilter::try_from(filter).unwrap().covers(other);
            assert_eq!(covers, expected, "{filter} and {other}");
        }
    }

    #[test]
    fn a_filter_with_a_misplaced_wildcard_is_refused() {
        for (filter, error) in [
            ("", TopicError::Empty),
            ("sport/tennis#", TopicError::MisplacedHash),
            ("sport/tennis/#/ranking", TopicError::MisplacedHash),
            ("sport+", TopicError::MisplacedPlus),
            ("$share//a", TopicError::MalformedShare),
            ("$share/a", TopicError::MalformedShare),
            ("$share/a+/b", TopicError::MalformedShare),
            ("$share/a/", TopicError::MalformedShare),
        ] {
            assert_eq!(TopicFilter::try_from(filter), Err(error), "{filter}");
        }
    }

    #[test]
    fn a_wildcard_is_found_wherever_it_stands_and_nothing_else_is_taken_for_one() {
        for len in 1..20 {
            for at in 0..len {
                for byte in 1..=0x7F_u8 {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    let text = String::from_utf8(text).unwrap();
                    assert_eq!(
                        TopicName::try_from(text.as_str()).is_err(),
                        matches!(byte, b'+' | b'#'),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_topic_name_with_a_wildcard_is_refused() {
        assert_eq!(TopicName::try_from("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::try_from("a/#"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::try_from(""), Err(TopicError::Empty));
    }

    #[test]
    fn a_topic_longer_than_its_length_can_say_is_none() {
        let longest = "x".repeat(65_535);
        assert!(TopicName::try_from(longest.as_str()).is_ok());
        assert!(TopicFilter::try_from(longest.as_str()).is_ok());
        let longer = "x".repeat(65_536);
        assert_eq!(TopicName::try_from(longer.as_str()), Err(TopicError::NotText));
        assert_eq!(TopicFilter::try_from(longer.as_str()), Err(TopicError::NotText));
    }
}
