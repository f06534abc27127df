//! One message to many links at QoS 0: gathered into as few outputs as there are kinds of bytes, and remembered, so
//! that the next message of the topic need not ask again whom it reaches.

use std::rc::Rc;
use std::time::Instant;

use super::deliver::Passing;
use super::limits::begins_episode;
use super::link::{Link, LinkId, publish_bytes};
use super::losses::Loss;
use super::subscriptions::Resolved;
use super::{Broker, Output};
use crate::hooks::Interests;
use crate::mqtt::{Packet, Publish, QoS};

/// Where one message goes at QoS 0 in the same bytes, gathered while its targets are gone through.
///
/// Empty between two messages, and kept for their memory.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// By whether the client speaks 5.0, and by the RETAIN flag.
    links: [[Vec<LinkId>; 2]; 2],
    /// Whether there is any link in them.
    any: bool,
}

/// The links a plain message of a topic reaches, where all of them take it in the same bytes.
///
/// 1. It holds for messages that are plain: QoS 0, not retained, without properties.
/// 2. It holds while [`Broker::attachments`] is what it was, and the subscriptions are what they were: every one of
///    the links is attached, may receive the topic, and has no option that would change the bytes.
#[derive(Debug)]
pub(super) struct Everyone {
    attachments: u64,
    links: Rc<[LinkId]>,
}

impl Gathered {
    pub(super) fn push(&mut self, link: LinkId, speaks_5: bool, retain: bool) {
        self.any = true;
        self.links[usize::from(speaks_5)][usize::from(retain)].push(link);
    }

    /// The links of the one kind there is, if there is but one.
    fn of_one_kind(&self) -> Option<&[LinkId]> {
        let mut kinds = self.links.iter().flatten().filter(|links| !links.is_empty());
        let only = kinds.next()?;
        kinds.next().is_none().then_some(only)
    }
}

impl Passing {
    /// Whether it goes out in the same bytes to everybody who speaks the same version.
    pub(super) fn is_plain(&self) -> bool {
        self.qos == QoS::AtMostOnce && !self.retain && self.properties.is_none()
    }

    /// The packet it becomes at QoS 0, without properties.
    #[inline(always)]
    fn into_publish(self, retain: bool) -> Publish {
        Publish {
            dup: false, // [MQTT-4.3.1-1]
            qos: QoS::AtMostOnce,
            retain,
            topic: Some(self.topic),
            packet_id: None,
            payload: self.payload,
            properties: None,
        }
    }
}

impl Broker {
    /// The links that a plain message of `topic` reaches in the same bytes, where the last one found that out; `None`
    /// also where memory is so short that each link is to be looked at.
    #[inline(always)]
    pub(super) fn everyone(&self, topic: &str, payload: &[u8]) -> Option<Rc<[LinkId]>> {
        let everyone = self.subscriptions.everyone(topic)?;
        let bytes = publish_bytes(topic, payload);
        let holds = everyone.attachments == self.attachments
            && self.budget.is_ample(bytes.saturating_mul(everyone.links.len()));
        holds.then(|| everyone.links.clone())
    }

    /// Sends a plain message to `links`, which are [everyone](Broker::everyone) it reaches.
    #[inline(always)]
    pub(super) fn send_to_everyone(&mut self, now: Instant, links: Rc<[LinkId]>, passing: Passing) {
        let bytes = publish_bytes(passing.topic.as_str(), &passing.payload);
        let mut slow = Vec::new();
        for &link in &*links {
            match self.links.get_mut(link).and_then(Link::attachment_mut) {
                Some(attachment) if !attachment.is_stalled(self.limits.unsent_bytes_max) => {
                    attachment.unsent_bytes += bytes;
                }
                _ => slow.push(link),
            }
        }
        let count = links.len() - slow.len();
        self.budget.account.add(bytes * count);
        self.stats.messages_sent += count as u64;
        let links = match slow.is_empty() {
            true => links,
            false => self.without_slow(now, &links, &slow),
        };
        self.send_on(links, passing.into_publish(false));
    }

    /// The `links` that are not `slow`; what the others do not get is counted.
    #[cold]
    #[inline(never)]
    fn without_slow(&mut self, now: Instant, links: &[LinkId], slow: &[LinkId]) -> Rc<[LinkId]> {
        self.drop_for_slow(now, slow);
        let links = links.iter().copied();
        links.filter(|link| !slow.contains(link)).collect()
    }

    /// Counts a message that is not sent to links which are behind with what they were sent before.
    fn drop_for_slow(&mut self, now: Instant, slow: &[LinkId]) {
        for &link in slow {
            let attachment = self.links.get_mut(link).and_then(Link::attachment_mut);
            let found = attachment.and_then(|attachment| {
                let session = self.sessions.get_mut(attachment.session)?;
                Some((attachment, session))
            });
            let Some((attachment, session)) = found else {
                self.stats.dropped_slow += 1;
                continue;
            };
            if attachment.awaits_connack {
                session.lose(&mut self.stats, Loss::Offline);
                continue;
            }
            session.lose(&mut self.stats, Loss::Slow);
            if begins_episode(&mut attachment.slow_at, now) {
                let client = session.client.clone();
                self.limit_reached_for("unsent_bytes_max", &client);
            }
        }
    }

    /// Sends what was gathered of one message, each kind of bytes once on all its links, and remembers the links where
    /// they are all there is to know.
    pub(super) fn send_gathered(&mut self, resolved: &mut Resolved, passing: Passing) {
        if !std::mem::take(&mut self.gathered.any) {
            return;
        }
        resolved.everyone = match self.gathered.of_one_kind() {
            Some(links)
                if passing.is_plain()
                    && !self.has_hooks_for(Interests::DELIVERY)
                    // Who has lost something is told so in bytes of its own.
                    && self.settings.loss_property.is_none()
                    && links.len() == resolved.targets.len()
                    && resolved.groups.is_empty()
                    && resolved
                        .targets
                        .iter()
                        .all(|target| target.is_for_any_publisher()) =>
            {
                Some(Everyone {
                    attachments: self.attachments,
                    links: links.into(),
                })
            }
            _ => None,
        };
        let mut gathered = std::mem::take(&mut self.gathered);
        let kinds = gathered.links.iter_mut();
        let kinds = kinds.flat_map(|of_version| [false, true].into_iter().zip(of_version));
        let mut kinds = kinds.filter(|(_, links)| !links.is_empty()).peekable();
        let mut message = Some(passing.into_publish(false));
        while let Some((retain, links)) = kinds.next() {
            // The last kind takes the message itself: counting owners is a good part of what a delivery costs.
            let publish = if kinds.peek().is_some() {
                message.clone()
            } else {
                message.take()
            };
            let Some(publish) = publish else { break };
            self.send_on(links.as_slice().into(), Publish { retain, ..publish });
            links.clear();
        }
        self.gathered = gathered;
    }

    #[inline(always)]
    fn send_on(&mut self, links: Rc<[LinkId]>, publish: Publish) {
        match *links {
            [] => {}
            [link] => self.outputs.push_back(Output::Send {
                link,
                packet: Packet::Publish(publish),
            }),
            _ => self.outputs.push_back(Output::SendToEach { links, publish }),
        }
    }

    /// Checks that what is remembered of fan-outs is still true (see [`Everyone`]).
    pub(super) fn check_everyone(&self) -> Result<(), String> {
        let remembered = self.subscriptions.remembered();
        for (resolved, everyone) in
            remembered.filter(|(_, everyone)| everyone.attachments == self.attachments)
        {
            let links = resolved
                .targets
                .iter()
                .map(|target| self.sessions.get(target.session)?.link);
            if !links.eq(everyone.links.iter().map(|&link| Some(link))) {
                return Err(
                    "a fan-out is remembered that reaches other links than its subscribers have".into(),
                );
            }
        }
        Ok(())
    }
}
