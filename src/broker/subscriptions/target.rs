//! What a session gets of a message that some of its filters match.

use super::Subscriber;
use crate::broker::kept::SubscriptionIds;
use crate::broker::session::SessionKey;
use crate::mqtt::QoS;

/// What a session gets of a message that matches: one delivery, whatever the number of its filters that
/// match.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::broker) struct Grant {
    /// The highest of the matching filters.
    pub(in crate::broker) qos: QoS,
    pub(in crate::broker) retain_as_published: bool,
    pub(in crate::broker) subscription_ids: SubscriptionIds,
}

/// One session that a topic reaches.
#[derive(Debug)]
pub(in crate::broker) struct Target {
    pub(in crate::broker) session: SessionKey,
    pub(super) grant: Grant,
    own: OwnMessages,
}

/// What a session gets of the messages it published itself.
#[derive(Debug)]
enum OwnMessages {
    /// As of everybody's.
    Same,
    /// Nothing: every matching filter says No Local.
    Nothing,
    /// What is left without the filters that say No Local.
    Less(Box<Grant>),
}

impl Target {
    /// Puts the subscriptions of one session that match together.
    pub(super) fn of(matching: &[Subscriber]) -> Self {
        let session = matching
            .first()
            .map(|subscriber| subscriber.session)
            .unwrap_or_default();
        let grant = Grant::of(matching.iter());
        let own = match matching
            .iter()
            .filter(|subscriber| subscriber.options.no_local)
            .count()
        {
            0 => OwnMessages::Same,
            count if count == matching.len() => OwnMessages::Nothing,
            _ => {
                let rest = matching.iter().filter(|subscriber| !subscriber.options.no_local);
                OwnMessages::Less(Box::new(Grant::of(rest)))
            }
        };
        Self { session, grant, own }
    }

    /// Whether the session gets the same whoever publishes.
    pub(in crate::broker) fn is_for_any_publisher(&self) -> bool {
        matches!(self.own, OwnMessages::Same)
    }

    /// What the session gets of a message of `publisher` [MQTT-3.8.3-3].
    pub(in crate::broker) fn grant(&self, publisher: Option<SessionKey>) -> Option<&Grant> {
        match &self.own {
            _ if publisher != Some(self.session) => Some(&self.grant),
            OwnMessages::Same => Some(&self.grant),
            OwnMessages::Nothing => None,
            OwnMessages::Less(grant) => Some(grant),
        }
    }
}

impl Grant {
    /// One delivery for overlapping subscriptions: the highest quality [MQTT-3.3.4-2], all identifiers
    /// [MQTT-3.3.4-3].
    pub(in crate::broker) fn of<'a>(matching: impl Iterator<Item = &'a Subscriber>) -> Self {
        let mut grant = Self {
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            subscription_ids: SubscriptionIds::default(),
        };
        let mut ids = Vec::new();
        for Subscriber { options, .. } in matching {
            grant.qos = grant.qos.max(options.qos);
            grant.retain_as_published |= options.retain_as_published;
            if options.subscription_id != 0 {
                ids.push(options.subscription_id);
            }
        }
        grant.subscription_ids = SubscriptionIds::new(ids);
        grant
    }
}
