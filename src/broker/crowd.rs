//! What full queues leave to be done when an input is over: publishers that wait for room, and readers that go.
//!
//! A client before 5.0 cannot be told that its message finds no room: it waits for its acknowledgement. It is heard
//! meanwhile, for what it acknowledges itself may be what makes the room, and what else it sends waits behind its
//! message, in its order; when that has become much it is not read any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::budget::{Charge, Use};
use super::connect::{WAITING_PACKETS_MAX, detached};
use super::deliver::Passing;
use super::kept::Kept;
use super::link::{Link, LinkId};
use super::scarcity::Scarce;
use super::session::SessionKey;
use super::timers::Timer;
use super::{Broker, DetachReason, Output, Refusal};
use crate::auth::access::Action;
use crate::mqtt::{Packet, PacketId};

/// Who waits, and who has to go.
///
/// 1. Whoever waits stands in one line, by whose room was missing last; the first is tried again when there may be
///    more, the others after it.
/// 2. Only a link whose client is in waits, and then [`Timer::Room`] runs for it.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    held: BTreeMap<LinkId, Held>,
    lines: BTreeMap<Scarce, VecDeque<LinkId>>,
    /// What there was when everybody was tried last.
    tried_at: Option<Signs>,
    /// Sessions that end with their connection, for their queue was full.
    leaving: BTreeSet<SessionKey>,
}

/// A message that waits for room, and what came after it.
#[derive(Debug)]
struct Held {
    message: Kept,
    packet_id: Option<PacketId>,
    /// The line it stands in.
    scarce: Scarce,
    due: Instant,
    behind: VecDeque<Packet>,
    behind_bytes: usize,
    is_unread: bool,
    charge: Charge,
}

/// What changes when there is more room, though not only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signs {
    queued_messages: u64,
    queued_bytes: u64,
    sessions: u64,
    subscriptions: u64,
    /// Looked at only where memory is short.
    memory_bytes: usize,
}

/// Packets behind a message that waits, from which on their client is not read: enough for those who send a window of
/// messages and then acknowledge what they were sent.
const BEHIND_MAX: usize = WAITING_PACKETS_MAX / 2;

/// The bytes of these packets.
const BEHIND_BYTES_MAX: usize = 8 * 1024;

impl Crowd {
    /// What is charged to those who wait, beside their messages.
    pub(super) fn charged_bytes(&self) -> usize {
        self.held.values().map(|held| held.charge.bytes()).sum()
    }

    /// The messages that wait.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Kept> {
        self.held.values().map(|held| &held.message)
    }

    /// Those who wait.
    pub(super) fn links(&self) -> impl Iterator<Item = LinkId> {
        self.held.keys().copied()
    }

    /// The deadlines that have to run.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (Instant, Timer)> {
        self.held
            .iter()
            .map(|(&link, held)| (held.due, Timer::Room(link)))
    }

    /// When a link must have found room that is not read until then.
    pub(super) fn unread_until(&self, link: LinkId) -> Option<Instant> {
        let held = self.held.get(&link).filter(|held| held.is_unread)?;
        Some(held.due)
    }

    fn remove(&mut self, link: LinkId) -> Option<Held> {
        let held = self.held.remove(&link)?;
        self.leave_line(held.scarce, link);
        Some(held)
    }

    fn leave_line(&mut self, scarce: Scarce, link: LinkId) {
        if let Some(line) = self.lines.get_mut(&scarce) {
            line.retain(|&other| other != link);
            if line.is_empty() {
                self.lines.remove(&scarce);
            }
        }
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        let in_lines = self.lines.iter();
        let mut in_lines: Vec<_> = in_lines
            .flat_map(|(&scarce, line)| line.iter().map(move |&link| (link, scarce)))
            .collect();
        in_lines.sort_unstable();
        let held: Vec<_> = self
            .held
            .iter()
            .map(|(&link, held)| (link, held.scarce))
            .collect();
        if in_lines != held {
            return Err(format!("{held:?} wait for room, and {in_lines:?} stand in line"));
        }
        if let Some(key) = self.leaving.first() {
            return Err(format!("{key:?} has a full queue and is still there"));
        }
        Ok(())
    }
}

impl Broker {
    /// Whether a message of a link waits for room.
    pub(super) fn waits_for_room(&self, link: LinkId) -> bool {
        (self.crowd.as_ref()).is_some_and(|crowd| crowd.held.contains_key(&link))
    }

    /// Notes that a session ends, for its queue is full.
    pub(super) fn end_soon(&mut self, key: SessionKey) {
        self.crowd.get_or_insert_default().leaving.insert(key);
    }

    /// Keeps a message that finds no room until there is some.
    pub(super) fn wait_for_room(
        &mut self,
        now: Instant,
        link: LinkId,
        mut passing: Passing,
        packet_id: Option<PacketId>,
        scarce: Scarce,
    ) {
        if !self.has_memory(now, Use::Packet, passing.keeping_bytes()) {
            return self.refuse(now, link, Refusal::MemoryShort);
        }
        let due = now.checked_add(self.limits.publish_wait_max).unwrap_or(now);
        let held = Held {
            message: passing.keep(&self.budget.account),
            packet_id,
            scarce,
            due,
            behind: VecDeque::new(),
            behind_bytes: 0,
            is_unread: false,
            charge: Charge::new(&self.budget.account, 0),
        };
        let crowd = self.crowd.get_or_insert_default();
        crowd.held.insert(link, held);
        crowd.lines.entry(scarce).or_default().push_back(link);
        self.timers.set(due, Timer::Room(link));
        self.stats.publishes_held += 1;
    }

    /// A packet came from a client whose message waits for room.
    pub(super) fn handle_packet_behind(&mut self, now: Instant, link: LinkId, packet: Packet) {
        match packet {
            // These stand in no order to what a client publishes, and the first may make room.
            Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::PingReq
            | Packet::Disconnect(_) => return self.handle_free_packet(now, link, packet),
            _ => {}
        }
        self.stats.packets_received += 1;
        if let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) {
            attachment.last_received = now;
        }
        let held = (self.crowd.as_mut()).and_then(|crowd| crowd.held.get_mut(&link));
        let (Some(held), Some((packet, bytes))) = (held, detached(packet)) else {
            // Nothing else may come now, and it is not looked at out of its turn.
            return self.refuse(now, link, Refusal::SecondConnect);
        };
        held.behind.push_back(packet);
        held.behind_bytes += bytes;
        held.charge.set(held.behind_bytes);
        let is_much = held.behind.len() >= BEHIND_MAX || held.behind_bytes >= BEHIND_BYTES_MAX;
        if is_much && !std::mem::replace(&mut held.is_unread, true) {
            self.outputs.push_back(Output::Pause { link });
        }
        if held.behind.len() > WAITING_PACKETS_MAX {
            self.refuse(now, link, Refusal::TooEager);
        } else if !self.has_memory(now, Use::Packet, 0) {
            self.refuse(now, link, Refusal::MemoryShort);
        }
    }

    /// A link has ended: its message was not acknowledged, and is its client's again.
    #[inline(never)]
    pub(super) fn forget_waiting(&mut self, link: LinkId) {
        if let Some(held) = self.crowd.as_mut().and_then(|crowd| crowd.remove(link)) {
            self.timers.cancel(Some(held.due), Timer::Room(link));
        }
    }

    /// A message has waited for as long as it may: it has a last try.
    pub(super) fn handle_room_timer(&mut self, now: Instant, link: LinkId) {
        self.try_again(now, link);
        if self.waits_for_room(link) {
            self.stats.publishers_given_up += 1;
            self.refuse(now, link, Refusal::NoRoom);
        }
    }

    /// Has everybody who waits tried again, for other rules hold.
    pub(super) fn try_all_again(&mut self) {
        if let Some(crowd) = &mut self.crowd {
            crowd.tried_at = None;
        }
    }

    /// After an input: sends away whose queue was full, and tries the messages again that may have found room, until
    /// nobody is left who has to go.
    #[inline(never)]
    pub(super) fn relieve(&mut self, now: Instant) {
        loop {
            while let Some(key) = self.crowd.as_mut().and_then(|crowd| crowd.leaving.pop_first()) {
                self.end_overflowed(now, key);
            }
            let signs = self.signs();
            let Some(crowd) = &mut self.crowd else { return };
            if !crowd.held.is_empty() && crowd.tried_at.replace(signs) != Some(signs) {
                let lines: Vec<Scarce> = crowd.lines.keys().copied().collect();
                for scarce in lines {
                    self.try_line(now, scarce);
                }
                let signs = self.signs();
                if let Some(crowd) = &mut self.crowd {
                    crowd.tried_at = Some(signs);
                }
            }
            self.keep_house(now); // there may be more room for others, too
            let Some(crowd) = &self.crowd else { return };
            if crowd.leaving.is_empty() {
                if crowd.held.is_empty() {
                    self.crowd = None;
                }
                return;
            }
        }
    }

    fn signs(&self) -> Signs {
        let is_shared = |crowd: &Crowd| crowd.lines.contains_key(&Scarce::Shared);
        let looks_at_memory = self.crowd.as_deref().is_some_and(is_shared);
        Signs {
            queued_messages: self.stats.queued_messages,
            queued_bytes: self.stats.queued_bytes,
            sessions: self.stats.sessions,
            subscriptions: self.stats.subscriptions,
            memory_bytes: if looks_at_memory {
                self.budget.account.bytes()
            } else {
                0
            },
        }
    }

    /// Ends a session whose queue was full: its client finds none when it comes back, and so learns of the gap.
    fn end_overflowed(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        self.stats.sessions_overflowed += 1;
        if let Some(link) = session.link {
            self.detach(now, link, DetachReason::Refused(Refusal::QueueFull));
        }
        if self.sessions.get(key).is_some() {
            self.end_session(now, key);
        }
    }

    /// Tries the messages of a line in their order, until one finds no room in the same place.
    fn try_line(&mut self, now: Instant, scarce: Scarce) {
        let first = |crowd: &Crowd| crowd.lines.get(&scarce)?.front().copied();
        let mut last = None;
        while let Some(link) = self.crowd.as_deref().and_then(first)
            && last.replace(link) != Some(link)
        {
            self.try_again(now, link);
        }
    }

    /// Tries a message again; where it finds no room, it stands in the line for what is missing now.
    fn try_again(&mut self, now: Instant, link: LinkId) {
        let held = (self.crowd.as_ref()).and_then(|crowd| crowd.held.get(&link));
        let (Some(held), Some(attachment)) = (held, self.links.get(link).and_then(Link::attachment)) else {
            return;
        };
        let (key, version) = (attachment.session, attachment.version);
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let topic = held.message.topic_str();
        let is_allowed = self.rights.authorize(session.who(), Action::Publish, topic);
        let (packet_id, before) = (held.packet_id, held.scarce);
        let mut passing = Passing::of_kept(&held.message, held.message.expires_at());
        if is_allowed && let Some(scarce) = self.lacks_room(now, Some(key), &mut passing) {
            if scarce != before
                && let Some(crowd) = &mut self.crowd
                && let Some(held) = crowd.held.get_mut(&link)
            {
                held.scarce = scarce;
                crowd.leave_line(before, link);
                crowd.lines.entry(scarce).or_default().push_back(link);
            }
            return;
        }
        let Some(held) = self.crowd.as_mut().and_then(|crowd| crowd.remove(link)) else {
            return;
        };
        self.timers.cancel(Some(held.due), Timer::Room(link));
        if is_allowed {
            self.pass_on(now, link, (key, version), passing, packet_id);
        } else {
            self.stats.publishes_denied += 1;
            self.reject_publish(now, link, passing.qos, packet_id, Refusal::PublishDenied);
        }
        self.go_on_behind(now, link, held);
    }

    /// Takes what came behind a message that has found room; should one of these have to wait, those after it wait
    /// behind it again.
    fn go_on_behind(&mut self, now: Instant, link: LinkId, held: Held) {
        let Held {
            is_unread, behind, ..
        } = held;
        for packet in behind {
            if !self.links.contains_key(link) {
                return;
            }
            self.stats.packets_received -= 1; // it was counted when it came
            self.handle_packet(now, link, packet);
        }
        if is_unread
            && !self.is_held(link)
            && let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut)
        {
            attachment.last_received = now; // it was not read
            if attachment.pace.paused_until.is_none() {
                self.outputs.push_back(Output::Resume { link });
            }
        }
    }
}
