//! What is said only when what it rests on is stored.

use std::net::IpAddr;
use std::time::Instant;

use super::PARKED_BYTES;
use super::StoreHealth;
use super::change::Change;
use super::spill::Fresh;
use crate::auth::access::Action;
use crate::broker::link::{Link, LinkId, wire_bytes};
use crate::broker::session::{Session, SessionKey};
use crate::broker::{Broker, Output};
use crate::mqtt::{Packet, PacketId, TopicName};

impl Broker {
    /// Sends a packet that is a promise, or is to stay behind one, as soon as all it rests on is stored.
    pub(in crate::broker) fn send_when_stored(&mut self, link: LinkId, packet: Packet) {
        let output = Output::Send { link, packet };
        self.settle();
        let Some(durable) = &mut self.durable else {
            return self.outputs.push_back(output);
        };
        let attachment = self.links.get(link).and_then(Link::attachment);
        let session = attachment.and_then(|attachment| self.sessions.get(attachment.session));
        let is_stored = session.is_some_and(|session| session.number != 0);
        match durable.must_wait(link, is_stored) {
            true => durable.park(link, output),
            false => self.outputs.push_back(output),
        }
    }

    /// Tells a client that it is in: once its session is stored, where that is to be.
    pub(in crate::broker) fn send_connack(
        &mut self,
        link: LinkId,
        key: SessionKey,
        peer: Option<IpAddr>,
        packet: Packet,
    ) {
        self.attach_stored(key, peer);
        self.settle();
        let output = Output::Send { link, packet };
        // A session that was there is promised already, and whoever comes to it while nothing can be stored may.
        if let Some(durable) = &mut self.durable
            && durable.health != StoreHealth::Failed
            && durable.must_wait(link, false)
            && let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut)
        {
            attachment.awaits_connack = true;
            return durable.park(link, output);
        }
        self.outputs.push_back(output);
    }

    /// All changes up to this number are stored.
    pub(in crate::broker) fn handle_stored(&mut self, now: Instant, upto: u64) {
        let Some(durable) = &mut self.durable else { return };
        if durable.whole_again_at.is_some_and(|whole| upto < whole) {
            return self.go_on_with_checkpoint(); // what is stored is not whole yet
        }
        let is_whole_again = durable.whole_again_at.take().is_some();
        durable.stored = durable.stored.max(upto.min(durable.given));
        let has_moved = durable
            .ended_at
            .take_if(|ended| *ended <= durable.stored)
            .is_some();
        let mut bytes = 0;
        while let Some(&(last, cost)) = durable.pending.front()
            && last <= durable.stored
        {
            bytes += cost;
            durable.pending.pop_front();
        }
        let (mut resumed, mut denied) = (Vec::new(), Vec::new());
        while let Some(parked) = durable.parked.front()
            && parked.after <= durable.stored
            && let Some(parked) = durable.parked.pop_front()
        {
            bytes += PARKED_BYTES;
            if let Output::Send { link, .. } = parked.output
                && let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut)
            {
                if durable
                    .waiting
                    .get(&link)
                    .is_some_and(|&last| last <= durable.stored)
                {
                    durable.waiting.remove(&link);
                }
                if let Output::Send {
                    packet: Packet::ConnAck(_),
                    ..
                } = &parked.output
                {
                    attachment.awaits_connack = false;
                    resumed.push(attachment.session);
                }
                // The rules may be others since it was parked.
                if let Output::Send {
                    packet: Packet::Publish(publish),
                    ..
                } = &parked.output
                    && let Some(packet_id) = publish.packet_id
                    && let Some(session) = self.sessions.get(attachment.session)
                    && let Some(topic) = session.inflight.topic_of(packet_id)
                    && !(self.rights).authorize(session.who(), Action::Receive, topic)
                {
                    let bytes = wire_bytes(publish).min(attachment.unsent_bytes);
                    attachment.unsent_bytes -= bytes;
                    self.budget.account.take_off(bytes);
                    denied.push((attachment.session, packet_id));
                    continue;
                }
                self.outputs.push_back(parked.output);
            }
        }
        durable.charge.set(durable.charge.bytes().saturating_sub(bytes));
        for (key, packet_id) in denied {
            self.withdraw(now, key, packet_id);
        }
        for key in resumed {
            self.attachments += 1;
            self.pump(now, key);
        }
        if has_moved {
            self.end_moving();
        }
        self.settle_spilled(now);
        if is_whole_again {
            self.pump_all(now); // what must not be sent before
        }
        self.go_on_with_checkpoint();
    }

    /// Sends every client that is there what it is owed.
    #[inline(never)]
    fn pump_all(&mut self, now: Instant) {
        let attached = self.links.values().filter_map(Link::attachment);
        let keys: Vec<_> = attached.map(|attachment| attachment.session).collect();
        for key in keys {
            self.pump(now, key);
        }
    }

    /// Gives up a delivery that was about to be sent, and may not be received any more.
    fn withdraw(&mut self, now: Instant, key: SessionKey, packet_id: PacketId) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let held_before = session.held_bytes();
        session.inflight.abandon(packet_id);
        self.stats.queued_bytes -= (held_before - session.held_bytes()) as u64;
        self.stats.inflight_messages -= 1;
        self.stats.messages_sent -= 1;
        self.stats.deliveries_denied += 1;
        self.store_change(key, |session| Change::Finished { session, packet_id });
        self.pump(now, key);
    }

    /// What is given can be stored, or cannot any more.
    pub(in crate::broker) fn handle_store_health(&mut self, health: StoreHealth) {
        let Some(durable) = &mut self.durable else { return };
        let before = std::mem::replace(&mut durable.health, health);
        match (before, health) {
            (StoreHealth::Failed, StoreHealth::Failed) => {}
            (_, StoreHealth::Failed) => {
                // Whether any of it was stored nobody knows; the checkpoint to come has it.
                let bytes: usize = durable.pending.drain(..).map(|(_, bytes)| bytes).sum();
                durable.charge.set(durable.charge.bytes().saturating_sub(bytes));
                durable.checkpoint = None;
                durable.ended_at = None;
                durable.whole_again_at = Some(u64::MAX);
                self.stop_moving();
            }
            (StoreHealth::Failed, _) => self.begin_checkpoint(),
            _ => {}
        }
    }

    /// A link has ended: what was parked of it is said to nobody.
    pub(in crate::broker) fn forget_parked(&mut self, link: LinkId) {
        if let Some(durable) = &mut self.durable {
            durable.waiting.remove(&link);
        }
    }

    /// Whether the client of a session has yet to be told that it is in.
    pub(in crate::broker) fn awaits_connack(&self, session: &Session) -> bool {
        let attachment = session.link.and_then(|link| self.links.get(link)?.attachment());
        attachment.is_some_and(|attachment| attachment.awaits_connack)
    }

    /// Whether something new can be promised to outlive the process; where nothing does, nothing is promised.
    pub(in crate::broker) fn can_promise(&self) -> bool {
        self.durable.as_ref().is_none_or(|durable| durable.can_promise())
    }

    /// Whether a message on `topic` at QoS 1 or 2 may be taken: not where that is a promise to store it that cannot be
    /// kept.
    pub(in crate::broker) fn may_be_promised(&mut self, topic: &TopicName, retain: bool) -> bool {
        self.can_promise() || topic.is_reserved() || !self.would_be_stored(topic, retain)
    }

    fn would_be_stored(&mut self, topic: &TopicName, retain: bool) -> bool {
        if retain {
            return true;
        }
        let resolved = self.subscriptions.resolve(topic);
        let is_stored = |key: SessionKey| self.sessions.get(key).is_some_and(Session::is_promised);
        let mut found = resolved.targets.iter().any(|target| is_stored(target.session));
        for &group in &resolved.groups {
            let (_, members) = self.subscriptions.members(group);
            found |= members.iter().any(|member| is_stored(member.session));
        }
        self.subscriptions.put_back(resolved);
        found
    }

    /// Walks over what the type promises.
    pub(in crate::broker) fn check_durable(&self) -> Result<(), String> {
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        if durable.stored > durable.given {
            return Err("more is stored than was given".into());
        }
        if durable.accepting.is_some() || !durable.holding.is_empty() {
            return Err("a message is being taken between two inputs".into());
        }
        if durable
            .parked
            .front()
            .is_some_and(|parked| parked.after <= durable.stored)
        {
            return Err("a packet is parked for what is stored".into());
        }
        let mut last = 0;
        for parked in &durable.parked {
            if parked.after < last {
                return Err("packets are parked out of order".into());
            }
            last = parked.after;
        }
        let pending: usize = durable.pending.iter().map(|(_, bytes)| bytes).sum();
        let fresh = durable.fresh.len() * size_of::<Fresh>();
        let bytes = pending + durable.parked.len() * PARKED_BYTES + fresh;
        if bytes != durable.charge.bytes() {
            return Err(format!(
                "{bytes} bytes wait to be stored, {} are charged",
                durable.charge.bytes()
            ));
        }
        for (_, session) in self.sessions.iter().filter(|(_, session)| session.number != 0) {
            let mut last = 0;
            for queued in session.queue.iter() {
                if queued.number <= last {
                    return Err(format!("the queue of {} is out of its order", session.client));
                }
                last = queued.number;
            }
            let Some(spilled) = &session.spilled else { continue };
            let first = spilled.deliveries().next();
            if first.is_some_and(|(first, _)| first <= last) {
                return Err(format!(
                    "{} would be sent what has spilled too late",
                    session.client
                ));
            }
            let client = &session.client;
            spilled.check().map_err(|error| format!("{client}: {error}"))?;
        }
        Ok(())
    }
}
