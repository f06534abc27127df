//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 to 3.11), and the retained messages a subscription brings.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::budget::{ALLOCATION_BYTES, Account, Charge, SHARED_BYTES, Use};
use super::deliver::{attached, outgoing_properties};
use super::durable::{Origin, filter_of};
use super::hooked::may_receive;
use super::kept::{Queued, SubscriptionIds};
use super::link::{Link, LinkId, send_publish};
use super::losses::Loss;
use super::retained::{Cursor, Next};
use super::session::SessionKey;
use super::subscriptions::{Options, Place, Subscriptions};
use super::tailor::TooLarge;
use super::{Broker, Change, Refusal};
use crate::auth::access::Action;
use crate::hooks::Interests;
use crate::mqtt::{
    Packet, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription,
    TopicFilter, TopicName, UnsubAck, Unsubscribe,
};

/// Retained messages owed to a new subscription: a place in the store, not a copy of it, so that `#` with
/// thousands of retained messages costs no more than any other subscription.
#[derive(Debug)]
pub(super) struct Replay {
    filter: TopicFilter,
    pub(super) place: Place,
    cursor: Cursor,
    /// It is owed from before a restart: what goes at QoS 0 is not, for it may have been sent.
    is_restored: bool,
    charge: Charge,
}

/// What a replay costs beside its filter's text: its entry, and the topic its cursor holds, which it mostly shares.
const REPLAY_BYTES: usize = size_of::<Replay>() * 3 / 2 + SHARED_BYTES + ALLOCATION_BYTES;

impl Replay {
    fn new(filter: &TopicFilter, place: Place, account: &Account) -> Self {
        Self {
            filter: filter.detached(),
            place,
            cursor: Cursor::default(),
            is_restored: false,
            charge: Charge::new(account, REPLAY_BYTES + filter.as_str().len()),
        }
    }

    /// One that had come as far as this topic when the gateway stopped.
    pub(super) fn again(
        filter: &TopicFilter,
        place: Place,
        topic: Option<TopicName>,
        account: &Account,
    ) -> Self {
        Self {
            cursor: Cursor::behind(topic),
            is_restored: true,
            ..Self::new(filter, place, account)
        }
    }

    /// The topic it has come to.
    pub(super) fn cursor(&self) -> &Option<TopicName> {
        self.cursor.stands_behind()
    }

    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }
}

/// Retained messages looked at in one go for one client: some tenths of a millisecond on a small board, however
/// many filters that match nothing a SUBSCRIBE holds.
const LOOKS_MAX: usize = 512;

/// Of these, looked at to find out whether a new subscription brings any.
const FIRST_LOOKS: usize = 8;

/// How long everybody else has before they are looked at again.
const LOOKS_PAUSE: Duration = Duration::from_millis(1);

impl Broker {
    pub(super) fn handle_subscribe(&mut self, now: Instant, link: LinkId, subscribe: &Subscribe) {
        if self.links.get(link).and_then(Link::attachment).is_none() {
            return;
        }
        self.pace_filters(now, link, subscribe.subscriptions.len());
        if self.has_hooks_for(Interests::FILTER | Interests::SUBSCRIBE) {
            return self.ask_about_subscribe(now, link, subscribe);
        }
        self.finish_subscribe(now, link, subscribe, &[]);
    }

    /// Subscribes to what is not `refused`, which is told of the first filters, and to all behind them.
    pub(super) fn finish_subscribe(
        &mut self,
        now: Instant,
        link: LinkId,
        subscribe: &Subscribe,
        refused: &[bool],
    ) {
        let Some(attachment) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        let (key, bridge, version) = (attachment.session, attachment.bridge, attachment.version);
        let mut subscriptions = subscribe.subscriptions.iter();
        if subscriptions.any(|subscription| subscription.no_local && subscription.filter.share().is_some()) {
            return self.refuse(now, link, Refusal::NoLocalOnShared); // [MQTT-3.8.3-4]
        }
        let crowded = !self
            .limits
            .allow_user_properties(&subscribe.properties.user_properties);
        let subscription_id = subscribe.properties.subscription_id.unwrap_or(0);
        // One after the other, as if each had come alone [MQTT-3.8.4-5] [MQTT-3.9.3-1].
        let tells_hooks = self.has_hooks_for(Interests::SUBSCRIBED);
        let reasons = (subscribe.subscriptions.iter().enumerate())
            .map(|(index, subscription)| {
                let shared = subscription.filter.share().is_some();
                let options = Options {
                    qos: subscription.qos,
                    // A broker that bridges cannot say so before 5.0, but means it.
                    no_local: subscription.no_local || (bridge && !shared),
                    retain_as_published: subscription.retain_as_published || bridge,
                    subscription_id,
                };
                let reason = match crowded {
                    true => Err(ReasonCode::QuotaExceeded),
                    false if refused.get(index) == Some(&true) => Err(ReasonCode::NotAuthorized),
                    false => self.subscribe(now, key, subscription, options),
                };
                if tells_hooks && reason.is_ok() {
                    self.tell_subscribed(link, &subscription.filter, subscription.qos);
                }
                match reason {
                    Ok(()) => granted(subscription.qos), // [MQTT-3.8.4-7]
                    Err(reason) => failed(version, subscription.qos, reason),
                }
            })
            .collect();
        self.stats.subscriptions = self.subscriptions.len() as u64;
        let ack = SubAck {
            packet_id: subscribe.packet_id, // [MQTT-2.2.1-6] [MQTT-3.8.4-2]
            reasons,
            properties: None,
        };
        self.send_control(now, link, Packet::SubAck(Box::new(ack))); // [MQTT-3.8.4-1] [MQTT-3.8.4-6]
        self.pump(now, key);
    }

    /// One topic filter of SUBSCRIBE.
    fn subscribe(
        &mut self,
        now: Instant,
        key: SessionKey,
        subscription: &Subscription,
        options: Options,
    ) -> Result<(), ReasonCode> {
        let Some(session) = self.sessions.get(key) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let filter = match &session.mount_point {
            None => Cow::Borrowed(&subscription.filter),
            Some(mount_point) => match mount_point.mounted_filter(&subscription.filter) {
                Some(filter) => Cow::Owned(filter),
                None => return Err(ReasonCode::TopicFilterInvalid),
            },
        };
        let filter = &*filter;
        if session.is_promised() && !self.can_promise() {
            return Err(ReasonCode::QuotaExceeded);
        }
        if !self
            .rights
            .authorize(session.who(), Action::Subscribe, filter.matched())
        {
            let link = session.link.unwrap_or_default();
            let denied = session.denied(link, Action::Subscribe, filter.matched());
            self.outputs.extend(denied.map(super::Output::Event));
            return Err(ReasonCode::NotAuthorized);
        }
        if !self.is_topic_within_limits(filter.as_str()) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let known = self.subscriptions.find(key, filter);
        if known.is_none() && !self.has_room_for_filter(now, key, filter) {
            self.stats.subscriptions_refused += 1;
            return Err(ReasonCode::QuotaExceeded);
        }
        let place = self.subscriptions.insert(key, filter, options);
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        if known.is_none() {
            session.places.push(place);
            let owner = session.owner;
            self.owners.change(owner, |usage| usage.subscriptions += 1);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let wanted = match subscription.retain_handling {
            RetainHandling::Send => true,                 // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew => known.is_none(), // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false,           // [MQTT-3.3.1-11]
        };
        // [MQTT-3.8.4-4]: also where it replaces one. A shared subscription brings no retained messages, section
        // 4.8.2.
        if wanted && place.group.is_none() {
            session.replays.retain(|replay| replay.place != place);
            // Where there is nothing, nothing is to be stored either.
            let mut looks = FIRST_LOOKS;
            if !matches!(
                self.retained.next(filter, &mut Cursor::default(), &mut looks),
                Next::End
            ) {
                session
                    .replays
                    .push(Replay::new(filter, place, &self.budget.account));
            }
        }
        self.store_subscription(key, place);
        Ok(())
    }

    /// Counts topic filters like messages: each changes the tree, and may bring retained messages.
    fn pace_filters(&mut self, now: Instant, link: LinkId, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut)
            && attachment.pace.exceeds(now, count, 0, &self.limits)
        {
            self.pause(now, link);
        }
    }

    /// Whether a session may have one more filter.
    fn has_room_for_filter(&mut self, now: Instant, key: SessionKey, filter: &TopicFilter) -> bool {
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        if session.places.len() >= self.limits.subscriptions_per_client_max {
            let client = session.client.clone();
            self.limit_reached_by(now, "subscriptions_per_client_max", Some(client));
            return false;
        }
        if self.owners.usage(session.owner).subscriptions >= self.limits.subscriptions_per_user_max {
            self.limit_reached(now, "subscriptions_per_user_max");
            return false;
        }
        if self.subscriptions.len() >= self.limits.subscriptions_max {
            self.limit_reached(now, "subscriptions_max");
            return false;
        }
        let replay = REPLAY_BYTES + filter.as_str().len();
        self.has_memory(now, Use::Session, Subscriptions::cost_bytes_max(filter) + replay)
    }

    pub(super) fn handle_unsubscribe(&mut self, now: Instant, link: LinkId, unsubscribe: &Unsubscribe) {
        let Some(attachment) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        let key = attachment.session;
        self.pace_filters(now, link, unsubscribe.filters.len());
        // One after the other, as if each had come alone [MQTT-3.10.4-6] [MQTT-3.11.3-1].
        let reasons = (unsubscribe.filters.iter())
            .map(|filter| match self.find_named(link, key, filter) {
                // [MQTT-3.10.4-1]
                Some(place) => {
                    self.unsubscribe(now, key, place);
                    ReasonCode::Success
                }
                None => ReasonCode::NoSubscriptionExisted,
            })
            .collect();
        self.stats.subscriptions = self.subscriptions.len() as u64;
        let ack = UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons,
            properties: None,
        };
        self.send_control(now, link, Packet::UnsubAck(Box::new(ack))); // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
    }

    /// The same for a filter that hooks may have renamed.
    fn find_named(&mut self, link: LinkId, key: SessionKey, filter: &TopicFilter) -> Option<Place> {
        match self.has_hooks_for(Interests::FILTER) {
            false => self.find_own(key, filter),
            true => {
                let renamed = self.renamed(link, filter);
                self.find_own(key, renamed.as_ref().unwrap_or(filter))
            }
        }
    }

    /// Where a client has subscribed to what is `filter` to it.
    fn find_own(&self, key: SessionKey, filter: &TopicFilter) -> Option<Place> {
        match &self.sessions.get(key)?.mount_point {
            None => self.subscriptions.find(key, filter),
            Some(mount_point) => self.subscriptions.find(key, &mount_point.mounted_filter(filter)?),
        }
    }

    /// What already waits is still delivered [MQTT-3.10.4-3]; retained messages that were not yet taken are
    /// not. What waits by a shared subscription that others are left in goes to them.
    fn unsubscribe(&mut self, now: Instant, key: SessionKey, place: Place) {
        if self.durable.is_some()
            && let Some(filter) = filter_of(&self.subscriptions, place)
        {
            self.store_change(key, |session| Change::Unsubscribed { session, filter });
        }
        self.subscriptions.remove(key, place); // [MQTT-3.10.4-2]
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.places.retain(|&other| other != place);
        self.owners
            .change(session.owner, |usage| usage.subscriptions -= 1);
        session.replays.retain(|replay| replay.place != place);
        if let Some(group) = place.group
            && self.subscriptions.member(group, 0).is_some()
        {
            let held_before = session.held_bytes();
            let given = session.queue.take_where(|queued| queued.group == Some(group));
            self.stats.queued_messages -= given.len() as u64;
            self.stats.queued_bytes -= (held_before - session.held_bytes()) as u64;
            for queued in &given {
                self.give_back(now, queued);
                self.store_dropped(key, queued);
            }
            self.look_again_at(key);
        }
    }

    /// Sends retained messages to new subscriptions, a slice at a time; goes on when the slice is out or
    /// acknowledged, or after a moment where nothing was found so far.
    pub(super) fn replay(&mut self, now: Instant, key: SessionKey) {
        let mut looks = LOOKS_MAX;
        while looks > 0 && self.replay_one(now, key, &mut looks) {}
        if looks == 0 {
            self.pump_soon(now + LOOKS_PAUSE, key);
        }
    }

    /// Sends the next retained message; whether there may be more to send at once.
    fn replay_one(&mut self, now: Instant, key: SessionKey, looks: &mut usize) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let Some(replay) = session.replays.first() else {
            return false;
        };
        let Some((link, attachment)) = attached(session, &mut self.links) else {
            return false;
        };
        if attachment.retained_left == 0 || attachment.is_stalled(self.budget.unsent_bytes_max()) {
            return false;
        }
        let (place, is_restored, mut cursor) = (replay.place, replay.is_restored, replay.cursor.clone());
        *looks = looks.saturating_sub(1);
        let next = self.retained.next(&replay.filter, &mut cursor, looks);
        let options = self.subscriptions.options(key, place);
        let (message, options) = match (next, options) {
            (Next::Message(message), Some(options)) => (message, options),
            (Next::Pause, Some(_)) => {
                if let Some(replay) = session.replays.first_mut() {
                    replay.cursor = cursor;
                }
                return false;
            }
            (Next::End, options) | (_, options @ None) => {
                session.replays.remove(0);
                if session.replays.is_empty() {
                    session.replays = Vec::new();
                }
                if options.is_some_and(|options| options.qos != QoS::AtMostOnce) {
                    self.settle();
                    self.store_subscription(key, place); // it brings nothing more
                }
                return true;
            }
        };
        let qos = message.qos.min(options.qos); // [MQTT-3.8.4-8]
        let ids = if options.subscription_id == 0 {
            Vec::new()
        } else {
            vec![options.subscription_id]
        };
        let subscription_ids = SubscriptionIds::new(ids);
        let size_bytes = message.size_bytes() + size_of_val(subscription_ids.as_slice());
        let texts = message.texts();
        if !session.reaches(&texts.topic) {
            // A wildcard matched what is out of its part of the tree.
        } else if message.is_expired(now) {
            session.lose(&mut self.stats, Loss::Expired);
        } else if !may_receive(
            &mut self.hooked,
            &self.rights,
            self.attachments,
            (key, session),
            texts.as_seen(message.qos, true),
        ) {
            session.lose(&mut self.stats, Loss::Denied);
        } else if qos == QoS::AtMostOnce && is_restored {
            // It may have been sent, and must not be twice [MQTT-4.3.1-1].
        } else if qos == QoS::AtMostOnce {
            let properties = (message.properties(), message.expires_at());
            let publish = Publish {
                dup: false,
                qos,
                retain: true, // section 3.3.1.3 [MQTT-3.3.1-8 of 3.1.1]
                topic: Some(texts.topic),
                packet_id: None,
                payload: texts.payload,
                properties: outgoing_properties(attachment.version, properties, &subscription_ids, now),
            };
            attachment.retained_left -= 1;
            match send_publish(&mut self.outputs, &self.budget.account, link, attachment, publish) {
                Ok(()) => self.stats.messages_sent += 1,
                Err(TooLarge) => session.lose(&mut self.stats, Loss::TooLarge),
            }
        } else {
            let total_bytes = usize::try_from(self.stats.queued_bytes).unwrap_or(usize::MAX);
            let has_room = session.held_bytes().saturating_add(size_bytes)
                <= self.queues.size(session.fitting).1
                && total_bytes.saturating_add(size_bytes) <= self.limits.queued_bytes_total_max;
            if has_room {
                attachment.retained_left -= 1;
                self.stats.queued_bytes += size_bytes as u64;
                let queued = Queued {
                    message,
                    subscription_ids,
                    qos,
                    retain: true,
                    group: None,
                    is_firm: false,
                    number: 0,
                };
                if self
                    .start(now, key, queued, texts, Origin::Retained(place))
                    .is_err()
                {
                    self.stats.queued_bytes -= size_bytes as u64;
                    return false; // the cursor has not moved: an acknowledgement brings us back
                }
            } else if session.inflight.len() > 0 {
                return false;
            } else {
                session.lose(&mut self.stats, Loss::QueueFull);
            }
        }
        if let Some(replay) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.replays.first_mut())
        {
            replay.cursor = cursor;
        }
        true
    }
}

/// How a client is told that a subscription failed.
const fn failed(version: ProtocolVersion, qos: QoS, reason: ReasonCode) -> ReasonCode {
    match version {
        // 3.1 has no word for it: a filter nobody may subscribe to is granted, and brings nothing (section 3.8 of 3.1).
        ProtocolVersion::V31 => granted(qos),
        ProtocolVersion::V311 => ReasonCode::UnspecifiedError, // the only failure it knows [MQTT-3.9.3-2 of 3.1.1]
        ProtocolVersion::V5 => reason,
    }
}

const fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}
