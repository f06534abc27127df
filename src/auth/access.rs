//! The one door for rights: nothing reaches a queue, a subscription or a reader without passing here.

use std::sync::Arc;

use super::Identity;
use super::acl::{Acl, Actions, AmbiguousName, Decision, Effect, Reason, Rule, Source, Whom};
use super::groups::{self, Groups};
use crate::mqtt::{ClientId, TopicFilter};

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

/// Who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Who it has proved to be.
    pub identity: &'a Identity,
    /// By which client identifier; `None` for the gateway itself.
    pub client: Option<&'a ClientId>,
    /// The groups it is in, besides those that list its name.
    pub groups: &'a Groups,
}

impl<'a> Who<'a> {
    /// The gateway itself.
    pub const GATEWAY: Who<'static> = Who {
        identity: &Identity::Gateway,
        client: None,
        groups: &groups::NONE,
    };

    /// A client.
    #[inline(always)]
    pub fn client(identity: &'a Identity, client: &'a ClientId) -> Self {
        Self::new(identity, Some(client))
    }

    /// Somebody whose client identifier may not be known.
    #[inline(always)]
    pub fn new(identity: &'a Identity, client: Option<&'a ClientId>) -> Self {
        Self {
            identity,
            client,
            groups: &groups::NONE,
        }
    }

    /// The same, in these groups as well.
    #[inline(always)]
    #[must_use]
    pub fn in_groups(self, groups: &'a Groups) -> Self {
        Self { groups, ..self }
    }

    /// The user name, where there is one.
    pub fn user(self) -> Option<&'a str> {
        match self.identity {
            Identity::User(name) => Some(name.as_str()),
            Identity::Anonymous | Identity::Gateway => None,
        }
    }
}

/// The rules in force; without access rules, those of the standard alone.
///
/// Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    acl: Option<Arc<Acl>>,
}

/// Something clients may not do that they otherwise might.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Who may not; `None`: no client.
    pub identity: Option<Identity>,
    /// What they may not do.
    pub action: Action,
    /// With which topics; for [`Action::Subscribe`] with filters that [`TopicFilter::covers`] finds inside it.
    pub topics: TopicFilter,
}

impl Rights {
    /// The rules of the standard, and of what they allow only what `acl` does.
    pub fn within(acl: Acl) -> Self {
        Self {
            acl: Some(Arc::new(acl)),
        }
    }

    /// The rules of the standard, less what `denials` take away.
    pub fn denying(denials: Vec<Denial>) -> Self {
        if denials.is_empty() {
            return Self::default();
        }
        let mut acl = Acl::new(Effect::Allow);
        let file: Arc<str> = Arc::from("");
        for Denial {
            identity,
            action,
            topics,
        } in denials
        {
            let whom = match identity {
                None => Whom::Everybody,
                Some(Identity::Anonymous) => Whom::Anonymous,
                Some(Identity::User(name)) => Whom::User(name),
                Some(Identity::Gateway) => continue, // which may do everything
            };
            let source = Source {
                file: file.clone(),
                line: 0,
            };
            let rule = Rule {
                effect: Effect::Deny,
                actions: Actions::of(action),
                topics: topics.into(),
                client: None,
                source,
            };
            acl.push(&whom, rule);
        }
        Self::within(acl)
    }

    /// The access rules, where there are any.
    pub fn acl(&self) -> Option<&Acl> {
        self.acl.as_deref()
    }

    /// Whether `who` may do `action` with `topic`, a topic name or for [`Action::Subscribe`] a topic filter.
    ///
    /// Topics that start with `$` belong to the server (section 4.7.2): clients read them and never write them, but
    /// for the one by which a broker that bridges says whether it is there. The gateway itself may do everything.
    #[inline]
    pub fn authorize(&self, who: Who<'_>, action: Action, topic: &str) -> bool {
        let is_reserved = action == Action::Publish && topic.starts_with('$');
        (self.acl.is_none() && !is_reserved) || self.explain(who, action, topic).allowed
    }

    /// The same, with what decided it.
    #[inline(never)]
    pub fn explain(&self, who: Who<'_>, action: Action, topic: &str) -> Decision<'_> {
        let (allowed, reason) = match (who.identity, action, &self.acl) {
            (Identity::Gateway, ..) => (true, Reason::Gateway),
            (_, Action::Publish, _) if topic.starts_with('$') && !is_bridge_state(topic) => {
                (false, Reason::Reserved)
            }
            (.., None) => (true, Reason::NoAcl),
            (.., Some(acl)) => return acl.decide(who, action, topic),
        };
        Decision { allowed, reason }
    }

    /// The name by which `who` cannot be let in, because rules have it stand in topics and it would be a wildcard
    /// there, or more than one level.
    pub fn ambiguity(&self, who: Who<'_>) -> Option<AmbiguousName> {
        self.acl.as_ref()?.ambiguity(who)
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
    use crate::mqtt::Utf8String;

    fn user(name: &str) -> Identity {
        Identity::User(Utf8String::try_from(name).unwrap())
    }

    fn who(identity: &Identity) -> Who<'_> {
        Who::new(identity, None)
    }

    fn denial(identity: Option<Identity>, action: Action, topics: &str) -> Denial {
        let topics = TopicFilter::try_from(topics).unwrap();
        Denial {
            identity,
            action,
            topics,
        }
    }

    #[test]
    fn a_denial_binds_whom_it_names_in_what_it_names() {
        let rights = Rights::denying(vec![
            denial(Some(user("eve")), Action::Publish, "valves/#"),
            denial(None, Action::Receive, "+/secret"),
            denial(Some(user("eve")), Action::Subscribe, "a/+"),
        ]);
        for (identity, action, topic, allowed) in [
            (user("eve"), Action::Publish, "valves/1/set", false),
            (user("eve"), Action::Publish, "valves", false),
            (user("eve"), Action::Receive, "valves/1/set", true),
            (user("bill"), Action::Publish, "valves/1/set", true),
            (Identity::Anonymous, Action::Receive, "a/secret", false),
            (Identity::Gateway, Action::Receive, "a/secret", true),
            (Identity::Gateway, Action::Publish, "$SYS/uptime", true),
            (user("bill"), Action::Publish, "$SYS/uptime", false),
            (user("eve"), Action::Subscribe, "a/b", false),
            (user("eve"), Action::Subscribe, "a/+", false),
            (user("eve"), Action::Subscribe, "a/#", true),
        ] {
            assert_eq!(
                rights.authorize(who(&identity), action, topic),
                allowed,
                "{identity} {action:?} {topic}"
            );
        }
    }

    #[test]
    fn a_name_that_looks_like_a_filter_is_a_name() {
        let rights = Rights::denying(vec![denial(Some(user("bill")), Action::Publish, "t")]);
        for name in ["#", "+", "bill/#", "b+", "bil", "Bill", "bill "] {
            assert!(rights.authorize(who(&user(name)), Action::Publish, "t"), "{name}");
        }
        let rights = Rights::denying(vec![denial(Some(user("#")), Action::Publish, "t")]);
        assert!(rights.authorize(who(&user("bill")), Action::Publish, "t"));
        assert!(!rights.authorize(who(&user("#")), Action::Publish, "t"));
    }

    #[test]
    fn of_the_topics_with_a_dollar_a_client_may_write_the_state_of_a_bridge_only() {
        let may = |action, topic| Rights::default().authorize(who(&Identity::Anonymous), action, topic);
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
