//! The one door for rights: nothing reaches a queue, a subscription or a reader without passing here.

use super::Identity;

/// What somebody wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send to a topic name, a will included.
    Publish,
    /// Ask for a topic filter (without its share name).
    Subscribe,
    /// Be handed a message of a topic name.
    Receive,
}

/// The rules in force.
#[derive(Debug, Clone, Default)]
pub struct Rights {}

impl Rights {
    /// Whether `identity` may do `action` with `topic`, a topic name or for [`Action::Subscribe`] a topic filter.
    ///
    /// Topics that start with `$` belong to the server (section 4.7.2): clients read them and never write them.
    pub fn authorize(&self, identity: &Identity, action: Action, topic: &str) -> bool {
        match (identity, action) {
            (Identity::Gateway, _) => true,
            (_, Action::Publish) => !topic.starts_with('$'),
            (_, Action::Subscribe | Action::Receive) => true,
        }
    }
}
