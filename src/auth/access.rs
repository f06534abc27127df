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
    /// Topics that start with `$` belong to the server (section 4.7.2): clients read them and never write them, but
    /// for the one by which a broker that bridges says whether it is there.
    pub fn authorize(&self, identity: &Identity, action: Action, topic: &str) -> bool {
        match (identity, action) {
            (Identity::Gateway, _) => true,
            (_, Action::Publish) => !topic.starts_with('$') || is_bridge_state(topic),
            (_, Action::Subscribe | Action::Receive) => true,
        }
    }
}

/// Whether `topic` is `$SYS/broker/connection/NAME/state`, where mosquitto's bridges publish `1` when they come and
/// leave `0` as their will; refused that, they do not connect at all.
#[inline(never)]
fn is_bridge_state(topic: &str) -> bool {
    let mut levels = topic.split('/');
    let mut next = || levels.next();
    next() == Some("$SYS")
        && next() == Some("broker")
        && next() == Some("connection")
        && next().is_some_and(|name| !name.is_empty())
        && next() == Some("state")
        && next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_topics_with_a_dollar_a_client_may_write_the_state_of_a_bridge_only() {
        let may = |action, topic| Rights::default().authorize(&Identity::Anonymous, action, topic);
        assert!(may(Action::Publish, "$SYS/broker/connection/hub.upstream/state"));
        for topic in [
            "$SYS",
            "$SYS/broker/uptime",
            "$SYS/broker/connection",
            "$SYS/broker/connection/state",
            "$SYS/broker/connection//state",
            "$SYS/broker/connection/hub/state/more",
            "$SYS/broker/connection/hub/other",
            "$SYS/broker/connections/hub/state",
            "$other/broker/connection/hub/state",
        ] {
            assert!(!may(Action::Publish, topic), "{topic}");
            assert!(
                may(Action::Subscribe, topic) && may(Action::Receive, topic),
                "{topic}"
            );
        }
    }
}
