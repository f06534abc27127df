//! The way out: whom a message reaches, and what the window of each lets through.
//!
//! Connected or not, a message of QoS 1 or 2 takes one way: into the session, and from there to the link as
//! soon as everything before it was sent and the window is open. It is only not put into the queue first when
//! the queue is empty.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use slotmap::SecondaryMap;

use super::budget::{Account, Use};
use super::durable::Origin;
use super::hooked::may_receive;
use super::inflight;
use super::kept::{Kept, Queued, SubscriptionIds, Texts, properties_bytes};
use super::limits::{Overflow, begins_episode};
use super::link::{Attachment, Link, LinkId, Stage, publish_bytes, send_publish, send_publish_or_wait};
use super::losses::Loss;
use super::queue_rules::QueueRules;
use super::retained::{Retained, Writer};
use super::room::{Load, Room};
use super::session::{Session, SessionKey};
use super::subscriptions::{Grant, GroupKey, Resolved, Subscriber};
use super::tailor::TooLarge;
use super::{Broker, Change, Output, Settings};
use crate::hooks;
use crate::mqtt::{
    Ack, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, TopicName, Utf8String,
};

/// A message on its way through the broker; copied only when somebody has to keep it, and then once.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    pub(super) properties: Option<Box<PublishProperties>>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Whether it goes to nobody where it cannot be retained.
    pub(super) is_all_or_nothing: bool,
    expires_at: Option<Instant>,
    /// The shared subscription it is delivered by at the moment.
    group: Option<GroupKey>,
    kept: Option<Kept>,
}

/// How soon a member of a shared subscription can be sent a message, soonest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    /// Now.
    Open,
    /// When it has read or acknowledged what it was sent before.
    Busy,
    /// When it is back.
    Absent,
    /// Not without a loss: its queue is full.
    Full,
    /// Not at all: its queue is full, and then the publisher is refused.
    Refusing,
}

impl Passing {
    pub(super) fn new(
        topic: TopicName,
        payload: Bytes,
        properties: Option<Box<PublishProperties>>,
        qos: QoS,
        retain: bool,
        expires_at: Option<Instant>,
    ) -> Self {
        Self {
            topic,
            payload,
            properties,
            qos,
            retain,
            is_all_or_nothing: false,
            expires_at,
            group: None,
            kept: None,
        }
    }

    /// A message that was kept, and sets out now.
    pub(super) fn of_kept(message: &Kept, expires_at: Option<Instant>) -> Self {
        Self {
            topic: message.topic(),
            payload: message.payload(),
            properties: message.properties().cloned().map(Box::new),
            qos: message.qos,
            retain: message.retain,
            is_all_or_nothing: false,
            expires_at,
            group: None,
            kept: (message.expires_at() == expires_at).then(|| message.clone()),
        }
    }

    /// The same as a hook sees it.
    pub(super) fn as_seen(&self) -> hooks::Message<'_> {
        hooks::Message {
            topic: &self.topic,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
        }
    }

    /// What it costs to keep it, where nobody has done so yet.
    pub(super) fn keeping_bytes(&self) -> usize {
        match &self.kept {
            Some(_) => 0,
            None => {
                let properties = self.properties.as_deref();
                Kept::cost_bytes(&self.topic, &self.payload, properties, self.expires_at)
            }
        }
    }

    /// What it counts against limits when it is kept for a client with `subscription_ids`.
    pub(super) fn size_bytes(&self, subscription_ids: &SubscriptionIds) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_bytes);
        let ids = size_of_val(subscription_ids.as_slice());
        self.topic.as_str().len() + self.payload.len() + properties + ids
    }

    pub(super) fn keep(&mut self, account: &Account) -> Kept {
        let copy = || {
            let properties = self.properties.as_deref();
            Kept::copy(
                account,
                &self.topic,
                &self.payload,
                properties,
                (self.qos, self.retain),
                self.expires_at,
            )
        };
        self.kept.get_or_insert_with(copy).clone()
    }
}

impl Broker {
    /// Hands a message to everybody who subscribed to its topic; whether there was anybody.
    ///
    /// Who may publish it was asked before; who may receive it is asked here.
    #[inline(always)]
    pub(super) fn route(&mut self, now: Instant, publisher: Option<SessionKey>, passing: Passing) -> bool {
        if passing.is_plain()
            && let Some(links) = self.everyone(passing.topic.as_str(), &passing.payload)
        {
            self.send_to_everyone(now, links, passing);
            return true;
        }
        self.route_to_each(now, publisher, passing)
    }

    #[inline(never)]
    fn route_to_each(&mut self, now: Instant, publisher: Option<SessionKey>, mut passing: Passing) -> bool {
        // [MQTT-3.3.1-8]
        if passing.retain {
            self.retain(now, publisher, &mut passing);
            if self.retain_refused && passing.is_all_or_nothing {
                return false;
            }
        }
        let mut resolved = self.subscriptions.resolve(&passing.topic);
        let mut reached = false;
        for target in &resolved.targets {
            if let Some(grant) = target.grant(publisher) {
                reached |= self.deliver(now, target.session, grant, &mut passing);
            }
        }
        for &group in &resolved.groups {
            reached |= self.deliver_to_one(now, group, &mut passing);
        }
        self.send_gathered(&mut resolved, passing);
        self.subscriptions.put_back(resolved);
        reached
    }

    /// Makes a message the one its topic keeps; an empty one clears it (section 3.3.1.3).
    fn retain(&mut self, now: Instant, publisher: Option<SessionKey>, passing: &mut Passing) {
        if passing.payload.is_empty() {
            self.retained.clear(&passing.topic, &mut self.owners); // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
            self.retain_refused = false;
        } else {
            self.retain_refused = !self.store_retained(now, publisher, passing);
            if self.retain_refused {
                self.stats.dropped_retained_full += 1;
            }
        }
        self.count_retained();
    }

    pub(super) fn count_retained(&mut self) {
        self.stats.retained_messages = self.retained.len() as u64;
        self.stats.retained_bytes = self.retained.size_bytes() as u64;
    }

    /// Keeps a message for its topic; where there is no room for it, the one before goes all the same.
    fn store_retained(&mut self, now: Instant, publisher: Option<SessionKey>, passing: &mut Passing) -> bool {
        let before = self.retained.cost_bytes(&passing.topic);
        let after = passing.keeping_bytes() + Retained::entry_bytes(&passing.topic);
        let more = after.saturating_sub(before);
        if more > 0 && !self.has_memory(now, Use::Retained, more) {
            self.retained.clear(&passing.topic, &mut self.owners);
            return false;
        }
        let session = publisher.and_then(|key| Some((key, self.sessions.get(key)?)));
        let writer = match session {
            Some((key, session)) => Writer {
                author: (self.retained).author(key, session, &self.budget.account),
                owner: Some(session.owner),
            },
            None => Writer {
                author: self.gateway.clone(),
                owner: None,
            },
        };
        let message = passing.keep(&self.budget.account); // [MQTT-3.3.1-5]
        let author = writer.author.stored();
        let stored = (self.retained).store(&message, writer, now, &self.limits, &mut self.owners);
        if stored.is_ok()
            && let Some(durable) = &mut self.durable
        {
            durable.note_retained(&mut self.outputs, &message, author);
        }
        if let Err(limit) = stored {
            let client = publisher.and_then(|key| self.sessions.get(key));
            // The whole is nobody's in particular.
            let client = client.filter(|_| limit.contains("per_user"));
            let client = client.map(|session| session.client.clone());
            self.limit_reached_by(now, limit, client);
        }
        stored.is_ok()
    }

    /// One delivery to one session; whether the session may receive it.
    fn deliver(&mut self, now: Instant, key: SessionKey, grant: &Grant, passing: &mut Passing) -> bool {
        let Some(session) = self.sessions.get(key) else {
            debug_assert!(false, "a subscription ends before its session");
            return false;
        };
        if !may_receive(
            &mut self.hooked,
            &self.rights,
            self.attachments,
            (key, session),
            passing.as_seen(),
        ) {
            self.note_loss(key, Loss::Denied);
            return false;
        }
        let qos = passing.qos.min(grant.qos); // [MQTT-3.8.4-8]
        let retain = passing.retain && grant.retain_as_published; // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        if qos != QoS::AtMostOnce
            || self.queues.may_keep_qos0 && waits_at_qos0(&self.queues, session, &passing.topic)
        {
            self.keep_and_enqueue(now, key, grant, passing, (qos, retain));
            return true;
        }
        let Some((link, attachment)) = attached(session, &mut self.links) else {
            self.note_loss(key, Loss::Offline);
            return true;
        };
        if attachment.is_stalled(self.budget.unsent_bytes_max()) {
            self.drop_for_slow_reader(now, key);
            return true;
        }
        let speaks_5 = attachment.version == ProtocolVersion::V5;
        let is_bare =
            !speaks_5 || (passing.properties.is_none() && grant.subscription_ids.as_slice().is_empty());
        let has_lost = self.settings.loss_property.is_some() && session.untold_losses() > 0;
        if is_bare && attachment.tailoring.is_none() && !has_lost {
            let bytes = publish_bytes(passing.topic.as_str(), &passing.payload);
            attachment.unsent_bytes += bytes;
            self.budget.account.add(bytes);
            self.gathered.push(link, speaks_5, retain);
            self.stats.messages_sent += 1;
            return true;
        }
        self.send_apart(now, link, grant, passing, retain);
        true
    }

    /// Drops a delivery at QoS 0 to a client with too much on its way.
    #[inline(never)]
    fn drop_for_slow_reader(&mut self, now: Instant, key: SessionKey) {
        let awaits_connack = (self.sessions.get(key)).is_some_and(|session| self.awaits_connack(session));
        if awaits_connack {
            return self.note_loss(key, Loss::Offline);
        }
        self.note_loss(key, Loss::Slow);
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let Some((_, attachment)) = attached(session, &mut self.links) else {
            return;
        };
        let (client, unsent_bytes) = (session.client.clone(), attachment.unsent_bytes);
        let begins = begins_episode(&mut attachment.slow_at, now);
        if !self.is_short_for(now, unsent_bytes) && begins {
            self.limit_reached_for("unsent_bytes_max", &client);
        }
    }

    /// A delivery at QoS 1 or 2, or at QoS 0 to who is away and has it kept; apart, so that the many at QoS 0 do not
    /// pay for its room on the stack.
    #[inline(never)]
    fn keep_and_enqueue(
        &mut self,
        now: Instant,
        key: SessionKey,
        grant: &Grant,
        passing: &mut Passing,
        (qos, retain): (QoS, bool),
    ) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if !session.reaches(&passing.topic) {
            return; // a wildcard matched what is out of its part of the tree
        }
        let subscription_ids = grant.subscription_ids.clone();
        let load = Load {
            count: 1,
            size_bytes: passing.size_bytes(&subscription_ids),
            keeping_bytes: passing.keeping_bytes(),
        };
        let overflow = match self.queues.overflow(session.fitting, &passing.topic) {
            // At QoS 0 nobody was promised anything.
            Overflow::Reject | Overflow::Disconnect if qos == QoS::AtMostOnce => Overflow::DropNewest,
            overflow => overflow,
        };
        let Some(room) = self.make_room(now, key, load, overflow) else {
            return;
        };
        let message = passing.keep(&self.budget.account);
        let queued = Queued {
            message,
            subscription_ids,
            qos,
            retain,
            group: passing.group,
            is_firm: overflow.keeps_what_waits(),
            number: 0,
        };
        if room == Room::Journal {
            return self.spill(key, queued);
        }
        let texts = Texts {
            topic: passing.topic.clone(),
            payload: passing.payload.clone(),
        };
        self.enqueue(now, key, queued, texts);
    }

    /// A delivery at QoS 0 in bytes of its own: with properties, or to a client that takes only small packets.
    #[inline(never)]
    fn send_apart(&mut self, now: Instant, link: LinkId, grant: &Grant, passing: &Passing, retain: bool) {
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(attachment.session) else {
            return;
        };
        if let Some(tailoring) = &attachment.tailoring
            && !tailoring.reaches(&passing.topic)
        {
            return;
        }
        let properties = (passing.properties.as_deref(), passing.expires_at);
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain,
            topic: Some(passing.topic.clone()),
            packet_id: None,
            payload: passing.payload.clone(),
            properties: outgoing_properties(attachment.version, properties, &grant.subscription_ids, now),
        };
        let out = (&mut self.outputs, &self.budget.account);
        match send_telling(&self.settings, out, (link, attachment), session, publish, true) {
            Ok(()) => self.stats.messages_sent += 1,
            Err(TooLarge) => session.lose(&mut self.stats, Loss::TooLarge),
        }
    }

    /// One delivery to one member of a shared subscription (section 4.8.2): in turn to those who can be sent it at
    /// once, or else to those who are connected, or else to those who are not, or else to those whose queue is full; at
    /// the quality and with the identifier of that member [MQTT-4.8.2-3] [MQTT-3.3.4-5].
    fn deliver_to_one(&mut self, now: Instant, group: GroupKey, passing: &mut Passing) -> bool {
        let Some((turn, member)) = self.best_member(group, passing) else {
            return false;
        };
        self.subscriptions.advance(group, turn);
        passing.group = Some(group);
        let reached = self.deliver(now, member.session, &Grant::of([member].iter()), passing);
        passing.group = None;
        reached
    }

    /// The member of a shared subscription that a message goes to, and how far it is from the one whose turn it is.
    pub(super) fn best_member(&mut self, group: GroupKey, passing: &Passing) -> Option<(usize, Subscriber)> {
        let mut best: Option<(Readiness, usize, Subscriber)> = None;
        let mut turn = 0;
        while let Some(member) = self.subscriptions.member(group, turn) {
            let readiness = self.readiness(member, passing);
            if let Some(readiness) = readiness
                && best.is_none_or(|(known, ..)| readiness < known)
            {
                best = Some((readiness, turn, member));
            }
            if readiness == Some(Readiness::Open) {
                break;
            }
            turn += 1;
        }
        best.map(|(_, turn, member)| (turn, member))
    }

    /// How soon a member of a shared subscription can be sent a message; `None` if it may not have it.
    fn readiness(&mut self, member: Subscriber, passing: &Passing) -> Option<Readiness> {
        let session = self.sessions.get(member.session)?;
        let may_receive = may_receive(
            &mut self.hooked,
            &self.rights,
            self.attachments,
            (member.session, session),
            passing.as_seen(),
        );
        if !may_receive || !session.reaches(&passing.topic) {
            return None;
        }
        let qos = passing.qos.min(member.options.qos);
        let Some((_, attachment)) = attached(session, &mut self.links) else {
            return Some(self.readiness_to_wait(member.session, passing, qos, Readiness::Absent));
        };
        let unsent_bytes_max = self.budget.unsent_bytes_max();
        let is_open = match qos {
            QoS::AtMostOnce => !attachment.is_stalled(unsent_bytes_max),
            _ => {
                session.queue.is_empty()
                    && !session.spills()
                    && !session.inflight.owes_resend()
                    && attachment.takes_more(&session.inflight, unsent_bytes_max)
                    && (self.budget)
                        .lets_out(&session.inflight, passing.size_bytes(&SubscriptionIds::default()))
            }
        };
        Some(match is_open {
            true => Readiness::Open,
            false => self.readiness_to_wait(member.session, passing, qos, Readiness::Busy),
        })
    }

    /// The same of a member for whom the message would have to wait, `if_it_can` where there is room for it.
    fn readiness_to_wait(
        &self,
        key: SessionKey,
        passing: &Passing,
        qos: QoS,
        if_it_can: Readiness,
    ) -> Readiness {
        let Some(session) = self.sessions.get(key).filter(|_| qos != QoS::AtMostOnce) else {
            return if_it_can;
        };
        let load = Load {
            count: 1,
            size_bytes: passing.size_bytes(&SubscriptionIds::default()),
            keeping_bytes: passing.keeping_bytes(),
        };
        match self.bound_in_the_way(session, load) {
            None => if_it_can,
            Some(_) => match self.queues.overflow(session.fitting, &passing.topic) {
                Overflow::Reject => Readiness::Refusing,
                Overflow::DropOldest | Overflow::DropNewest | Overflow::Disconnect => Readiness::Full,
            },
        }
    }

    /// Gives a message that one member of a shared subscription did not take to another; it is counted as dropped
    /// where there is none.
    pub(super) fn give_back(&mut self, now: Instant, queued: &Queued) {
        let message = &queued.message;
        if message.is_expired(now) {
            self.stats.dropped_expired += 1;
            return;
        }
        let mut passing = Passing::of_kept(message, message.expires_at());
        let is_taken = match queued.group {
            Some(group) => self.deliver_to_one(now, group, &mut passing),
            None => false,
        };
        if !is_taken {
            self.stats.dropped_session_ended += 1;
        }
        self.send_gathered(&mut Resolved::default(), passing);
        self.settle();
    }

    /// Takes a QoS 1 or 2 delivery into a session that has room for it, whether its client is there or not
    /// [MQTT-3.1.2-5 of 3.1.1]: sent at once if the window is open, kept otherwise.
    ///
    /// `texts` are those of the message, for the case that it is sent.
    fn enqueue(&mut self, now: Instant, key: SessionKey, mut queued: Queued, texts: Texts) {
        let size_bytes = queued.size_bytes();
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (class, _) = self.queues.size(session.fitting);
        self.stats.queued_bytes += size_bytes as u64;
        if session.number != 0
            && let Some(durable) = &mut self.durable
        {
            queued.number = durable.number_delivery();
        }
        let waits = if session.queue.is_empty() {
            self.start(now, key, queued, texts, Origin::New)
        } else {
            Err(queued)
        };
        if let (Err(queued), Some(session)) = (waits, self.sessions.get_mut(key)) {
            if session.number != 0
                && let Some(durable) = &mut self.durable
            {
                let (outputs, tree) = (&mut self.outputs, &self.subscriptions);
                durable.note_new(outputs, tree, session.number, (&queued, None), false);
            }
            match session.queue.push(queued, class) {
                Ok(()) => {
                    self.stats.queued_messages += 1;
                    self.note_starved(key);
                }
                Err(_) => {
                    debug_assert!(false, "room was made before");
                    self.stats.queued_bytes -= size_bytes as u64;
                    self.note_loss(key, Loss::QueueFull);
                }
            }
        }
    }

    /// Sends a QoS 1 or 2 message for the first time, or gives it back when its time has not come.
    ///
    /// Its bytes are already counted; they are uncounted here if it turns out that it cannot be sent at all.
    pub(super) fn start(
        &mut self,
        now: Instant,
        key: SessionKey,
        queued: Queued,
        texts: Texts,
        origin: Origin,
    ) -> Result<(), Queued> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(queued);
        };
        let Some((link, attachment)) = attached(session, &mut self.links) else {
            return Err(queued);
        };
        if queued.qos == QoS::AtMostOnce {
            return self.start_at_qos0(now, key, queued, texts, origin);
        }
        if session.inflight.owes_resend()
            || !attachment.takes_more(&session.inflight, self.budget.unsent_bytes_max())
        {
            return Err(queued);
        }
        if !self.budget.lets_out(&session.inflight, queued.size_bytes()) {
            self.hold_back(now, key);
            return Err(queued);
        }
        // [MQTT-4.3.2-1] [MQTT-4.3.3-1]
        let Some(packet_id) = session.inflight.begin(queued.clone()) else {
            return Err(queued);
        };
        // Whatever DUP the publisher had set [MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2].
        let publish = publish_of(&queued, texts, attachment.version, Some(packet_id), false, now);
        let number = session.number;
        let durable = self.durable.as_deref_mut().filter(|_| number != 0);
        // What its client may hold by halves must be found under its identifier, whatever happens: it is stored first.
        let (outputs, at_once) = match durable {
            Some(durable) if queued.qos == QoS::ExactlyOnce => (durable.hold(), false),
            _ => (&mut self.outputs, true),
        };
        let out = (outputs, &self.budget.account);
        match send_telling(&self.settings, out, (link, attachment), session, publish, at_once) {
            Ok(()) => {
                self.stats.messages_sent += 1;
                self.stats.inflight_messages += 1;
                if number != 0
                    && let Some(durable) = &mut self.durable
                {
                    let (outputs, tree) = (&mut self.outputs, &self.subscriptions);
                    durable.note_sent(outputs, tree, number, (&queued, packet_id), origin);
                }
            }
            Err(TooLarge) => {
                session.inflight.abandon(packet_id); // [MQTT-3.1.2-25]: as if it had been sent
                self.stats.queued_bytes -= queued.size_bytes() as u64;
                session.lose(&mut self.stats, Loss::TooLarge);
                if origin == Origin::Queue {
                    self.store_dropped(key, &queued);
                }
            }
        }
        Ok(())
    }

    /// The same at QoS 0, which no window holds back: it is over with this.
    #[inline(never)]
    fn start_at_qos0(
        &mut self,
        now: Instant,
        key: SessionKey,
        queued: Queued,
        texts: Texts,
        origin: Origin,
    ) -> Result<(), Queued> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(queued);
        };
        let Some((link, attachment)) = attached(session, &mut self.links) else {
            return Err(queued);
        };
        if session.inflight.owes_resend() || attachment.is_stalled(self.budget.unsent_bytes_max()) {
            return Err(queued);
        }
        let publish = publish_of(&queued, texts, attachment.version, None, false, now);
        self.stats.queued_bytes -= queued.size_bytes() as u64;
        let out = (&mut self.outputs, &self.budget.account);
        match send_telling(&self.settings, out, (link, attachment), session, publish, true) {
            Ok(()) => self.stats.messages_sent += 1,
            Err(TooLarge) => session.lose(&mut self.stats, Loss::TooLarge),
        }
        if origin == Origin::Queue {
            self.store_dropped(key, &queued); // it is over
        }
        Ok(())
    }

    /// Sends what a session owes its client, as far as the window and the link let it: first again what an
    /// earlier link was sent, then what waits, then retained messages for new subscriptions.
    pub(super) fn pump(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if session.owes_nothing() || self.awaits_connack(session) {
            return;
        }
        if self.resend(now, key) {
            self.send_queued(now, key);
            if self.sessions.get(key).is_some_and(Session::spills) {
                self.refill(key);
            }
            self.replay(now, key);
        }
        self.note_starved(key);
    }

    /// Sends unfinished deliveries again, in their order [MQTT-4.4.0-1] [MQTT-4.6.0-1]; whether all were.
    ///
    /// They are never too old for it [MQTT-4.3.3-7], and are this session's for good, shared subscription or not
    /// [MQTT-4.8.2-4].
    fn resend(&mut self, now: Instant, key: SessionKey) -> bool {
        loop {
            let Some(session) = self.sessions.get_mut(key) else {
                return false;
            };
            let Some((link, attachment)) = attached(session, &mut self.links) else {
                return false;
            };
            let Some(entry) = session.inflight.next_resend() else {
                return true;
            };
            let packet_id = entry.packet_id;
            let queued = match &entry.stage {
                inflight::Stage::Released => {
                    let packet = Packet::PubRel(Ack::success(packet_id)); // [MQTT-4.3.3-5]
                    session.inflight.resent();
                    // Its PUBREC may have come on this very connection, behind CONNECT.
                    self.send_when_stored(link, packet);
                    continue;
                }
                inflight::Stage::Published(queued) => queued,
            };
            if session.inflight.outstanding() >= attachment.send_window
                || attachment.is_stalled(self.budget.unsent_bytes_max())
            {
                return false;
            }
            // Its identifier may not be stored, and cannot be now.
            let is_unsure = self.durable.as_ref().is_some_and(|durable| durable.is_unsure());
            if is_unsure && session.number != 0 && queued.qos == QoS::ExactlyOnce {
                return false;
            }
            let (size_bytes, texts) = (queued.size_bytes(), queued.message.texts());
            let qos = queued.qos;
            let seen = texts.as_seen(queued.message.qos, queued.retain);
            if !may_receive(
                &mut self.hooked,
                &self.rights,
                self.attachments,
                (key, session),
                seen,
            ) {
                session.lose(&mut self.stats, Loss::Denied);
            } else {
                // [MQTT-3.3.1-1]: DUP, with the identifier it had.
                let publish = publish_of(queued, texts, attachment.version, Some(packet_id), true, now);
                match send_publish(&mut self.outputs, &self.budget.account, link, attachment, publish) {
                    Ok(()) => {
                        self.stats.messages_sent += 1;
                        session.inflight.resent();
                        continue;
                    }
                    Err(TooLarge) => session.lose(&mut self.stats, Loss::TooLarge),
                }
            }
            self.stats.queued_bytes -= size_bytes as u64;
            if qos == QoS::ExactlyOnce {
                // Its client may have got it and remember the identifier until that is released [MQTT-4.3.3-12]: under
                // the same one, another message would be taken for this [MQTT-2.2.1-4].
                session.inflight.release(packet_id);
                self.store_change(key, |session| Change::Released { session, packet_id });
                continue;
            }
            session.inflight.drop_resend();
            self.store_change(key, |session| Change::Finished { session, packet_id });
            self.stats.inflight_messages -= 1;
        }
    }

    /// Sends what waits in the queue, in its order [MQTT-4.6.0-5] [MQTT-4.6.0-6].
    fn send_queued(&mut self, now: Instant, key: SessionKey) {
        loop {
            let Some(session) = self.sessions.get_mut(key) else {
                return;
            };
            let Some((_, attachment)) = attached(session, &mut self.links) else {
                return;
            };
            let unsent_bytes_max = self.budget.unsent_bytes_max();
            match session.queue.front() {
                None => return,
                Some(next) if next.qos == QoS::AtMostOnce => {
                    if attachment.is_stalled(unsent_bytes_max) {
                        return;
                    }
                }
                Some(_) if !attachment.takes_more(&session.inflight, unsent_bytes_max) => return,
                Some(next) if !self.budget.lets_out(&session.inflight, next.size_bytes()) => {
                    return self.hold_back(now, key);
                }
                Some(_) => {}
            }
            let Some(queued) = session.queue.pop() else {
                return;
            };
            self.stats.queued_messages -= 1;
            let (size_bytes, texts) = (queued.size_bytes() as u64, queued.message.texts());
            let seen = texts.as_seen(queued.message.qos, queued.retain);
            if queued.message.is_expired(now) {
                session.lose(&mut self.stats, Loss::Expired); // [MQTT-3.3.2-5]
                self.store_dropped(key, &queued);
            } else if !may_receive(
                &mut self.hooked,
                &self.rights,
                self.attachments,
                (key, session),
                seen,
            ) {
                session.lose(&mut self.stats, Loss::Denied);
                self.store_dropped(key, &queued);
            } else if self.start(now, key, queued, texts, Origin::Queue).is_ok() {
                continue;
            } else {
                debug_assert!(false, "the window was found open");
                self.note_loss(key, Loss::QueueFull);
            }
            self.stats.queued_bytes -= size_bytes;
        }
    }
}

/// The link a session is attached to, and its parameters.
#[inline(always)]
pub(super) fn attached<'a>(
    session: &Session,
    links: &'a mut SecondaryMap<LinkId, Link>,
) -> Option<(LinkId, &'a mut Attachment)> {
    let link = session.link?;
    match links.get_mut(link) {
        Some(Link {
            stage: Stage::Attached(attachment),
            ..
        }) => Some((link, attachment)),
        _ => None,
    }
}

/// Whether a message at QoS 0 waits for a session: its client is away and has such messages kept, or others wait that
/// it must not overtake [MQTT-4.6.0-6].
#[inline(never)]
fn waits_at_qos0(queues: &QueueRules, session: &Session, topic: &TopicName) -> bool {
    session.queue.holds_qos0()
        || session.spills()
        || session.link.is_none() && queues.keeps_qos0(session.fitting, topic)
}

/// Sends `publish`, with the number of messages that its client has lost where it is to be told.
///
/// That number is left out where it would make the packet too large. What is not sent `at_once` may be overtaken.
fn send_telling(
    settings: &Settings,
    (outputs, account): (&mut VecDeque<Output>, &Account),
    (link, attachment): (LinkId, &mut Attachment),
    session: &mut Session,
    publish: Publish,
    at_once: bool,
) -> Result<(), TooLarge> {
    if let Some(name) = &settings.loss_property
        && attachment.version == ProtocolVersion::V5
        && session.untold_losses() > 0
        && let Ok(count) = Utf8String::try_from(session.untold_losses().to_string().as_str())
    {
        let mut telling = publish.clone();
        let properties = telling.properties.get_or_insert_default();
        properties.user_properties.push((name.clone(), count));
        if send_publish_or_wait(outputs, account, link, attachment, telling, at_once).is_ok() {
            session.losses_mut().told();
            return Ok(());
        }
    }
    send_publish_or_wait(outputs, account, link, attachment, publish, at_once)
}

/// The PUBLISH of a delivery that was kept.
fn publish_of(
    queued: &Queued,
    texts: Texts,
    version: ProtocolVersion,
    packet_id: Option<PacketId>,
    dup: bool,
    now: Instant,
) -> Publish {
    let message = &queued.message;
    let properties = (message.properties(), message.expires_at());
    Publish {
        dup,
        qos: queued.qos,
        retain: queued.retain,
        topic: Some(texts.topic),
        packet_id,
        payload: texts.payload,
        properties: outgoing_properties(version, properties, &queued.subscription_ids, now),
    }
}

/// The properties of one delivery: the message's own, unchanged [MQTT-3.3.2-4] [MQTT-3.3.2-15]
/// [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20], with what is left of its life
/// [MQTT-3.3.2-6] and the identifiers of the subscriptions it answers [MQTT-3.3.4-3] [MQTT-3.3.4-4].
#[inline(always)]
pub(super) fn outgoing_properties(
    version: ProtocolVersion,
    (properties, expires_at): (Option<&PublishProperties>, Option<Instant>),
    subscription_ids: &SubscriptionIds,
    now: Instant,
) -> Option<Box<PublishProperties>> {
    let none = properties.is_none() && subscription_ids.is_empty();
    if none || version != ProtocolVersion::V5 {
        return None;
    }
    Some(some_properties(
        properties,
        expires_at,
        subscription_ids.as_slice(),
        now,
    ))
}

fn some_properties(
    properties: Option<&PublishProperties>,
    expires_at: Option<Instant>,
    ids: &[u32],
    now: Instant,
) -> Box<PublishProperties> {
    let mut outgoing = properties.cloned().unwrap_or_default();
    outgoing.subscription_ids.extend_from_slice(ids);
    if let Some(at) = expires_at {
        // Less the whole seconds that have passed: what is left of a second still counts, so that nothing that lives
        // is sent with 0, which other clients take for the end.
        let left = at.saturating_duration_since(now);
        let left_secs = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        outgoing.message_expiry_secs = Some(u32::try_from(left_secs).unwrap_or(u32::MAX));
    }
    Box::new(outgoing)
}
