//! A pattern of client identifiers, as in `meter-*`.

use std::fmt;

use crate::mqtt::Utf8String;

/// What some client identifiers have in common: `*` stands for any characters, none included, `?` for one, and every
/// other character for itself.
///
/// 1. It has 1 to [`Pattern::CHARS_MAX`] characters, so a look at an identifier takes at most that many steps for each
///    of its characters.
///
/// Made by [`Pattern::parse`] only: a client identifier is never taken for a pattern, whatever it contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Box<[char]>);

/// Why text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    /// It is empty: no client identifier is.
    Empty,
    /// It is longer than [`Pattern::CHARS_MAX`].
    TooLong,
}

impl Pattern {
    /// The longest pattern, in characters.
    pub const CHARS_MAX: usize = 128;

    /// Takes `text` as a pattern.
    ///
    /// # Errors
    /// [`PatternError`] where it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let characters: Box<[char]> = text.chars().take(Self::CHARS_MAX + 1).collect();
        match characters.len() {
            0 => Err(PatternError::Empty),
            length if length > Self::CHARS_MAX => Err(PatternError::TooLong),
            _ => Ok(Self(characters)),
        }
    }

    /// Whether the whole of `text` is what the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        let mut pattern: &[char] = &self.0;
        let mut rest = text.chars();
        // Behind the last `*`: what follows it in the pattern, and where in the text that was last tried.
        let mut retry: Option<(&[char], std::str::Chars<'_>)> = None;
        loop {
            if let ['*', behind @ ..] = pattern {
                pattern = behind;
                retry = Some((behind, rest.clone()));
                continue;
            }
            let is_over = rest.as_str().is_empty();
            match pattern {
                [] if is_over => return true,
                [first, behind @ ..]
                    if !is_over && (*first == '?' || rest.clone().next() == Some(*first)) =>
                {
                    pattern = behind;
                    rest.next();
                }
                // An earlier `*` need not be tried again: whatever it could take, the last one can.
                _ => match &mut retry {
                    Some((behind, from)) => {
                        if from.next().is_none() {
                            return false;
                        }
                        pattern = behind;
                        rest = from.clone();
                    }
                    None => return false,
                },
            }
        }
    }

    /// Whether it says nothing but `*`, which every client identifier is.
    pub fn is_everything(&self) -> bool {
        self.0.iter().all(|character| *character == '*')
    }
}

impl TryFrom<&Utf8String> for Pattern {
    type Error = PatternError;

    fn try_from(text: &Utf8String) -> Result<Self, PatternError> {
        Self::parse(text.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|character| write!(f, "{character}"))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty, expected a pattern such as \"meter-*\""),
            Self::TooLong => write!(f, "longer than {} characters", Pattern::CHARS_MAX),
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern of the test")
    }

    #[test]
    fn a_star_is_any_characters_and_a_question_mark_is_one() {
        for (text, expected) in [
            ("meter-*", ["meter-", "meter-1", "meter-1-b"].as_slice()),
            ("*-b", &["meter-1-b"]),
            ("meter-?", &["meter-1"]),
            ("*e*-*", &["meter-", "meter-1", "meter-1-b"]),
            ("?", &["x", "é"]),
            ("**", &["meter-", "meter-1", "meter-1-b", "x", "é"]),
            ("meter", &[]),
            ("METER-*", &[]),
        ] {
            let pattern = pattern(text);
            let names = ["meter-", "meter-1", "meter-1-b", "x", "é"];
            let found: Vec<_> = names.into_iter().filter(|name| pattern.matches(name)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_last_star_tries_every_place() {
        assert!(pattern("*ab*ab").matches("abxabab"));
        assert!(!pattern("*ab*abc").matches("abxabab"));
        assert!(pattern("a*?b").matches("axxb"));
        assert!(!pattern("a*?b").matches("ab"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert!(Pattern::parse(&"é".repeat(128)).is_ok());
        assert_eq!(Pattern::parse(&"*".repeat(129)), Err(PatternError::TooLong));
    }

    /// The meaning, with no thought for the time it takes.
    fn matches_slowly(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', behind @ ..], _) => (0..=text.len())
                .any(|taken| text.get(taken..).is_some_and(|rest| matches_slowly(behind, rest))),
            ([one, behind @ ..], [first, rest @ ..]) => {
                (*one == '?' || one == first) && matches_slowly(behind, rest)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn every_pattern_means_what_its_characters_mean(pattern in "[ab?*]{1,8}", text in "[abc]{0,10}") {
            let characters: Vec<char> = text.chars().collect();
            let slowly = matches_slowly(&pattern.chars().collect::<Vec<_>>(), &characters);
            prop_assert_eq!(Pattern::parse(&pattern).expect("short").matches(&text), slowly);
        }
    }
}
