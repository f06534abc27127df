//! Names of ports, devices and points, and the templates that make topic names of them.

use std::fmt;
use std::str::FromStr;

use crate::mqtt::{TopicError, TopicName};

/// The name of a port, a device or a point: one level of a topic name.
///
/// 1 to 64 bytes without `/`, `+`, `#` and control characters, and not starting with `$` or a space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// Why text is not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// No character at all.
    Empty,
    /// More than [`Name::BYTES_MAX`] bytes.
    TooLong,
    /// Holds this character, which a level of a topic name may not, or which nobody could see.
    Forbidden(char),
}

/// A pattern such as `{gateway}/{port}/{device}/{point}`, which makes the topic name of every point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate(Vec<Part>);

/// What stands where the placeholders of a [`TopicTemplate`] are.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// For `{gateway}`: the gateway's name, which may be several levels.
    pub gateway: &'a TopicName,
    /// For `{port}`.
    pub port: &'a Name,
    /// For `{device}`.
    pub device: &'a Name,
    /// For `{point}`.
    pub point: &'a Name,
}

/// Why text is not a [`TopicTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// `{` without `}`, or the other way round.
    UnmatchedBrace,
    /// `{…}` with none of the known words in it.
    UnknownPlaceholder(String),
    /// Whatever the names, the outcome is no topic name.
    Topic(TopicError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Gateway,
    Port,
    Device,
    Point,
}

impl Name {
    /// The longest name, in bytes: four of them and the slashes stay within the shortest topic limit in use.
    pub const BYTES_MAX: usize = 64;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong);
        }
        let forbidden = |character: &char| matches!(character, '/' | '+' | '#') || character.is_control();
        match text
            .chars()
            .find(forbidden)
            .or_else(|| text.chars().next().filter(|c| matches!(c, '$' | ' ')))
        {
            Some(character) => Err(NameError::Forbidden(character)),
            None => Ok(Self(text.into())),
        }
    }
}

impl TopicTemplate {
    /// What is used where nothing else is said.
    pub const DEFAULT: &'static str = "{gateway}/{port}/{device}/{point}";

    /// The topic name the template makes of `names`.
    ///
    /// # Errors
    /// [`TopicError::NotText`] where the outcome is longer than a topic name can be.
    pub fn fill(&self, names: Names<'_>) -> Result<TopicName, TopicError> {
        let text: String = self
            .0
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.as_str(),
                Part::Gateway => names.gateway.as_str(),
                Part::Port => names.port.as_str(),
                Part::Device => names.device.as_str(),
                Part::Point => names.point.as_str(),
            })
            .collect();
        TopicName::try_from(text.as_str())
    }
}

impl Default for TopicTemplate {
    fn default() -> Self {
        Self::DEFAULT
            .parse()
            .expect("the default template is a template, held to it by a test")
    }
}

impl FromStr for TopicTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').ok_or(TemplateError::UnmatchedBrace)?;
            if literal.contains('}') || word.contains('{') {
                return Err(TemplateError::UnmatchedBrace);
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match word {
                "gateway" => Part::Gateway,
                "port" => Part::Port,
                "device" => Part::Device,
                "point" => Part::Point,
                _ => return Err(TemplateError::UnknownPlaceholder(word.to_owned())),
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err(TemplateError::UnmatchedBrace);
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        // A name adds neither a wildcard nor a leading `$`, so one letter for each name shows every fault.
        let sample: String = parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.as_str(),
                _ => "n",
            })
            .collect();
        TopicName::try_from(sample.as_str()).map_err(TemplateError::Topic)?;
        Ok(Self(parts))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| {
            f.write_str(match part {
                Part::Literal(text) => text,
                Part::Gateway => "{gateway}",
                Part::Port => "{port}",
                Part::Device => "{device}",
                Part::Point => "{point}",
            })
        })
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty, expected a name of at least one character"),
            Self::TooLong => write!(
                f,
                "longer than {} bytes, expected a shorter name",
                Name::BYTES_MAX
            ),
            Self::Forbidden(found) => write!(
                f,
                "{found:?} found, expected a name without '/', '+', '#' and control characters, \
                 not starting with '$' or a space"
            ),
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnmatchedBrace => f.write_str("a brace stands alone, expected pairs such as {point}"),
            Self::UnknownPlaceholder(word) => {
                write!(
                    f,
                    "unknown placeholder {{{word}}}, expected {{gateway}}, {{port}}, {{device}} or {{point}}"
                )
            }
            Self::Topic(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for NameError {}
impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> String {
        let gateway = TopicName::try_from("site/gw1").unwrap();
        let [port, device, point] = ["wire", "meter", "power"].map(|name| name.parse::<Name>().unwrap());
        let names = Names {
            gateway: &gateway,
            port: &port,
            device: &device,
            point: &point,
        };
        template
            .parse::<TopicTemplate>()
            .unwrap()
            .fill(names)
            .unwrap()
            .as_str()
            .to_owned()
    }

    #[test]
    fn every_placeholder_is_filled_with_its_name() {
        assert_eq!(filled(TopicTemplate::DEFAULT), "site/gw1/wire/meter/power");
        assert_eq!(
            filled("plant/{device}-{port}/x{point}y"),
            "plant/meter-wire/xpowery"
        );
        assert_eq!(filled("fixed"), "fixed");
    }

    #[test]
    fn a_template_shows_as_it_was_written() {
        for text in [TopicTemplate::DEFAULT, "a{point}", "a", "{port}{device}"] {
            assert_eq!(text.parse::<TopicTemplate>().unwrap().to_string(), text);
        }
        assert_eq!(TopicTemplate::default().to_string(), TopicTemplate::DEFAULT);
    }

    #[test]
    fn a_template_that_makes_no_topic_name_is_refused() {
        for (text, error) in [
            ("", TemplateError::Topic(TopicError::Empty)),
            ("{point}/#", TemplateError::Topic(TopicError::WildcardInName)),
            ("a/+/{point}", TemplateError::Topic(TopicError::WildcardInName)),
            ("{point", TemplateError::UnmatchedBrace),
            ("point}", TemplateError::UnmatchedBrace),
            ("}{point}", TemplateError::UnmatchedBrace),
            ("{{point}}", TemplateError::UnmatchedBrace),
            (
                "{gatewy}/{point}",
                TemplateError::UnknownPlaceholder("gatewy".to_owned()),
            ),
        ] {
            assert_eq!(text.parse::<TopicTemplate>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_name_is_one_level_of_a_topic_name() {
        for (text, error) in [
            ("", NameError::Empty),
            ("a/b", NameError::Forbidden('/')),
            ("a+", NameError::Forbidden('+')),
            ("#", NameError::Forbidden('#')),
            ("a\n", NameError::Forbidden('\n')),
            ("$SYS", NameError::Forbidden('$')),
            (" a", NameError::Forbidden(' ')),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text:?}");
        }
        assert_eq!("a".repeat(65).parse::<Name>(), Err(NameError::TooLong));
        assert_eq!("Zähler 1".parse::<Name>().unwrap().as_str(), "Zähler 1");
    }
}
