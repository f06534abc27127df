//! Groups that somebody else says a client is in: the server that let it in, or the token it came by.

use std::sync::Arc;

use crate::mqtt::Utf8String;

/// The names of groups, for access rules that name them; none for most clients.
///
/// Cheap to clone. In alphabetical order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups(Option<Arc<Vec<Utf8String>>>);

/// No groups.
pub(super) static NONE: Groups = Groups(None);

impl Groups {
    /// The most groups of one client.
    pub const GROUPS_MAX: usize = 32;

    /// The longest name of one, in bytes.
    pub const NAME_BYTES_MAX: usize = 128;

    /// The groups of these names; `None` where there are too many, or one is empty or too long.
    pub fn of(mut names: Vec<Utf8String>) -> Option<Self> {
        let is_name = |name: &Utf8String| (1..=Self::NAME_BYTES_MAX).contains(&name.as_str().len());
        if names.len() > Self::GROUPS_MAX || !names.iter().all(is_name) {
            return None;
        }
        names.sort_unstable();
        names.dedup();
        names.shrink_to_fit();
        Some(Self((!names.is_empty()).then(|| Arc::new(names))))
    }

    /// The groups that a JSON value names: a list of names, or one name; `None` where it is neither, or they are too
    /// many or too long.
    pub fn of_json(value: &serde_json::Value) -> Option<Self> {
        let name = |value: &serde_json::Value| Utf8String::try_from(value.as_str()?).ok();
        match value.as_array() {
            Some(values) if values.len() <= Self::GROUPS_MAX => {
                Self::of(values.iter().map(name).collect::<Option<_>>()?)
            }
            Some(_) => None,
            None => Self::of(vec![name(value)?]),
        }
    }

    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Their names.
    pub fn names(&self) -> &[Utf8String] {
        self.0.as_ref().map_or(&[], |names| names.as_slice())
    }

    /// What they hold, in bytes.
    pub fn bytes(&self) -> usize {
        let of_names = self.names().iter();
        of_names
            .map(|name| size_of::<Utf8String>() + name.as_str().len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn groups_are_a_list_of_names_or_one_and_anything_else_is_none() {
        let names = |value: Value| {
            let groups = Groups::of_json(&value)?;
            let names = groups.names().iter().map(|name| name.as_str().to_owned());
            Some(names.collect::<Vec<_>>())
        };
        for (value, expected) in [
            (json!(["b", "a", "b"]), &["a", "b"][..]),
            (json!("a b"), &["a b"]),
            (json!([]), &[]),
            (json!(vec!["x".repeat(128); 32]), &["x".repeat(128).as_str()]),
        ] {
            assert_eq!(names(value.clone()).expect("right"), expected, "{value}");
        }
        for value in [
            json!(null),
            json!(7),
            json!({"a": true}),
            json!(["a", 7]),
            json!([["a"]]),
            json!(""),
            json!([""]),
            json!("a\u{0}b"),
            json!("x".repeat(129)),
            json!(vec!["a"; 33]),
        ] {
            assert_eq!(names(value.clone()), None, "{value}");
        }
    }
}
