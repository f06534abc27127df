//! Packets that wait for an answer, and what came behind them.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::{Matter, Outcome, client_of};
use crate::auth::access::Action;
use crate::broker::budget::{Charge, Use};
use crate::broker::connect::{WAITING_BYTES_MAX, WAITING_PACKETS_MAX, detached};
use crate::broker::kept::{detached_properties, properties_bytes};
use crate::broker::link::{Link, LinkId};
use crate::broker::publish::Incoming;
use crate::broker::timers::Timer;
use crate::broker::{Broker, Output, Refusal};
use crate::hooks::{Interests, Message, Question, Verdict};
use crate::mqtt::{Packet, PublishProperties, ReasonCode, Subscribe, TopicName};

/// A packet that waits for an answer, and what came after it.
pub(super) struct Held {
    pub(super) question: Question,
    /// The hook that is asked next.
    pub(super) next_hook: usize,
    pub(super) due: Instant,
    what: Asked,
    /// What it costs itself.
    own_bytes: usize,
    behind: VecDeque<Packet>,
    behind_bytes: usize,
    pub(super) charge: Charge,
}

enum Asked {
    Publish(Incoming),
    /// Whether each of the first filters is refused; the next one is asked about.
    Subscribe(Box<Subscribe>, Vec<bool>),
}

impl Broker {
    /// A client has published something: shows it to the hooks, and asks them where its rights allow it.
    #[inline(never)]
    pub(in crate::broker) fn ask_about_publish(
        &mut self,
        now: Instant,
        link: LinkId,
        mut incoming: Incoming,
    ) {
        if let Some(hooked) = &mut self.hooked
            && hooked.interests.hold(Interests::MESSAGE)
            && let Some(client) = client_of(&self.links, &self.sessions, link)
        {
            let marks = (incoming.qos, incoming.retain);
            if !hooked.show(&client, &mut incoming.topic, &mut incoming.payload, marks) {
                self.stats.dropped_by_hooks += 1;
                let Incoming { qos, packet_id, .. } = incoming;
                return self.acknowledge_publish(now, link, qos, packet_id, ReasonCode::Success);
            }
        }
        let Some(known) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        if let Some(incoming) = self.checked_publish(now, link, known.session, incoming) {
            self.go_on_publishing(now, link, incoming, 0);
        }
    }

    fn go_on_publishing(&mut self, now: Instant, link: LinkId, incoming: Incoming, from: usize) {
        let outcome = match (&mut self.hooked, client_of(&self.links, &self.sessions, link)) {
            (Some(hooked), Some(client)) => {
                let message = Message {
                    topic: &incoming.topic,
                    payload: &incoming.payload,
                    qos: incoming.qos,
                    retain: incoming.retain,
                };
                hooked.ask(link, from, &Matter::Publish(&client, &message))
            }
            _ => return,
        };
        match outcome {
            Outcome::Abstain | Outcome::Allow(..) => self.finish_publish_of_hooks(now, link, incoming),
            Outcome::Deny | Outcome::Unavailable => self.deny_publish(now, link, &incoming),
            Outcome::Later(question, next_hook) => {
                let incoming = incoming.detached();
                let bytes = incoming.bytes();
                if self.budget.allows(Use::Packet, bytes) {
                    self.hold(now, link, question, next_hook, Asked::Publish(incoming), bytes);
                } else {
                    self.deny_publish(now, link, &incoming);
                }
            }
        }
    }

    fn may_publish(&self, link: LinkId, topic: &TopicName) -> bool {
        let attachment = self.links.get(link).and_then(Link::attachment);
        let session = attachment.and_then(|attachment| self.sessions.get(attachment.session));
        session.is_some_and(|session| {
            self.rights
                .authorize(session.who(), Action::Publish, topic.as_str())
        })
    }

    fn deny_publish(&mut self, now: Instant, link: LinkId, incoming: &Incoming) {
        self.stats.publishes_denied += 1;
        self.reject_publish(
            now,
            link,
            incoming.qos,
            incoming.packet_id,
            Refusal::PublishDenied,
        );
    }

    #[inline(never)]
    fn finish_publish_of_hooks(&mut self, now: Instant, link: LinkId, incoming: Incoming) {
        if let Some(known) = self.links.get(link).and_then(Link::attachment) {
            let whose = (known.session, known.version);
            self.finish_publish(now, link, whose, incoming);
        }
    }

    /// A client wants to subscribe: has the filters renamed, and asks the hooks for each where its rights allow it.
    #[inline(never)]
    pub(in crate::broker) fn ask_about_subscribe(
        &mut self,
        now: Instant,
        link: LinkId,
        subscribe: &Subscribe,
    ) {
        let mut subscribe = Box::new(subscribe.clone());
        for subscription in &mut subscribe.subscriptions {
            if let Some(renamed) = self.renamed(link, &subscription.filter) {
                subscription.filter = renamed;
            }
        }
        self.go_on_subscribing(now, link, subscribe, Vec::new(), 0);
    }

    fn go_on_subscribing(
        &mut self,
        now: Instant,
        link: LinkId,
        subscribe: Box<Subscribe>,
        mut refused: Vec<bool>,
        mut from: usize,
    ) {
        while let Some(subscription) = subscribe.subscriptions.get(refused.len()) {
            let (Some(hooked), Some(client), Some(known)) = (
                &mut self.hooked,
                client_of(&self.links, &self.sessions, link),
                self.links.get(link).and_then(Link::attachment),
            ) else {
                return;
            };
            let mounted = match &known.listener.mount_point {
                None => Some(subscription.filter.clone()),
                Some(mount_point) => mount_point.mounted_filter(&subscription.filter),
            };
            let Some(session) = self.sessions.get(known.session) else {
                return;
            };
            let who = session.who();
            let outcome = match &mounted {
                Some(filter) if self.rights.authorize(who, Action::Subscribe, filter.matched()) => {
                    hooked.ask(link, from, &Matter::Subscribe(&client, filter, subscription.qos))
                }
                _ => Outcome::Abstain, // it is refused in any case
            };
            from = 0;
            match outcome {
                Outcome::Abstain | Outcome::Allow(..) => refused.push(false),
                Outcome::Deny | Outcome::Unavailable => refused.push(true),
                Outcome::Later(question, next_hook) => {
                    let waiting = detached(Packet::Subscribe(subscribe));
                    if let Some((Packet::Subscribe(subscribe), bytes)) = waiting {
                        let asked = Asked::Subscribe(subscribe, refused);
                        self.hold(now, link, question, next_hook, asked, bytes);
                    }
                    return;
                }
            }
        }
        self.finish_subscribe(now, link, &subscribe, &refused);
    }

    /// Keeps a packet until it is answered for.
    fn hold(
        &mut self,
        now: Instant,
        link: LinkId,
        question: Question,
        next_hook: usize,
        what: Asked,
        bytes: usize,
    ) {
        let Some(hooked) = &mut self.hooked else { return };
        let due = now.checked_add(hooked.timeout).unwrap_or(now);
        let held = Held {
            question,
            next_hook,
            due,
            what,
            own_bytes: bytes,
            behind: VecDeque::new(),
            behind_bytes: 0,
            charge: Charge::new(&self.budget.account, bytes),
        };
        hooked.held.insert(link, held);
        self.timers.set(due, Timer::Hook(link));
        self.stats.hook_answers_awaited += 1;
        self.outputs.push_back(Output::Pause { link });
    }

    /// A packet came while there are hooks.
    #[inline(never)]
    pub(in crate::broker) fn handle_packet_hooked(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let held = (self.hooked.as_mut()).and_then(|hooked| hooked.held.get_mut(&link));
        let Some(held) = held else {
            return self.handle_free_packet(now, link, packet);
        };
        self.stats.packets_received += 1;
        let Some((packet, bytes)) = detached(packet) else {
            // Nothing else may come now, and it is not looked at out of its turn.
            return self.refuse(now, link, Refusal::SecondConnect);
        };
        held.behind.push_back(packet);
        held.behind_bytes += bytes;
        held.charge.set(held.own_bytes + held.behind_bytes);
        if held.behind.len() > WAITING_PACKETS_MAX
            || held.behind_bytes > WAITING_BYTES_MAX
            || !self.budget.allows(Use::Packet, 0)
        {
            self.refuse(now, link, Refusal::TooEager);
        }
    }

    /// Whether a link is not read, for one of its packets waits for an answer, or for room.
    pub(in crate::broker) fn is_held(&self, link: LinkId) -> bool {
        self.held_until(link).is_some()
    }

    /// Until when that is at the latest.
    pub(in crate::broker) fn held_until(&self, link: LinkId) -> Option<Instant> {
        let held = (self.hooked.as_ref()).and_then(|hooked| hooked.held.get(&link));
        let crowd = self.crowd.as_ref();
        held.map(|held| held.due)
            .or_else(|| crowd.and_then(|crowd| crowd.unread_until(link)))
    }

    /// A link has ended: whatever waited for an answer is not done.
    #[inline(never)]
    pub(in crate::broker) fn forget_held(&mut self, link: LinkId) {
        if let Some(held) = self.take_held(link)
            && let Asked::Publish(_) = held.what
        {
            self.stats.publishes_denied += 1;
        }
    }

    pub(super) fn take_held(&mut self, link: LinkId) -> Option<Held> {
        let held = self.hooked.as_mut()?.held.remove(&link)?;
        self.timers.cancel(Some(held.due), Timer::Hook(link));
        Some(held)
    }

    /// No answer came in time.
    pub(in crate::broker) fn handle_hook_timer(&mut self, now: Instant, link: LinkId) {
        if let Some(held) = self.take_held(link) {
            self.stats.hook_timeouts += 1;
            self.go_on(now, link, held, Verdict::Unavailable);
        }
    }

    /// Does what the answer says with a packet that waited, and then with those behind it.
    pub(super) fn go_on(&mut self, now: Instant, link: LinkId, held: Held, verdict: Verdict) {
        let Held {
            next_hook,
            what,
            mut behind,
            ..
        } = held;
        let is_allowed = matches!(
            verdict,
            Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. } | Verdict::Abstain
        );
        match what {
            // Its rights may be others since it was asked about.
            Asked::Publish(incoming) if is_allowed && self.may_publish(link, &incoming.topic) => {
                self.go_on_publishing(now, link, incoming, next_hook);
            }
            Asked::Publish(incoming) => self.deny_publish(now, link, &incoming),
            Asked::Subscribe(subscribe, refused) if is_allowed => {
                self.go_on_subscribing(now, link, subscribe, refused, next_hook);
            }
            Asked::Subscribe(subscribe, mut refused) => {
                refused.push(true);
                self.go_on_subscribing(now, link, subscribe, refused, 0);
            }
        }
        // Should one of them have to wait, those after it wait behind it again.
        while let Some(packet) = behind.pop_front().filter(|_| self.links.contains_key(link)) {
            self.stats.packets_received -= 1; // it was counted when it came
            self.handle_packet(now, link, packet);
        }
        if self.is_held(link) {
            return;
        }
        if let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) {
            attachment.last_received = now; // it was not read
            if attachment.pace.paused_until.is_none() {
                self.outputs.push_back(Output::Resume { link });
            }
        }
    }
}

impl Incoming {
    /// A copy that shares nothing with a read buffer.
    fn detached(self) -> Self {
        Self {
            topic: self.topic.detached(),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: (self.properties.as_deref())
                .map(|properties: &PublishProperties| Box::new(detached_properties(properties))),
            ..self
        }
    }

    fn bytes(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_bytes);
        size_of::<Packet>() + self.topic.as_str().len() + self.payload.len() + properties
    }
}
