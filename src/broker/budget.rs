//! The memory budget: one honest account of what peers make the gateway hold, and who gives way as it fills.
//!
//! Whatever costs memory for a peer's sake holds a [`Charge`], or is booked where it is made and where it ends, at
//! what it really costs: structs, tables and the allocator's own bytes included, a message that many wait for once.
//! So the account needs no adding up, and [`Broker::check_invariants`] can add it up to see that it is right.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use super::inflight::Inflight;
use super::limits::Limits;
use super::link::{Attachment, Link, LinkId};
use super::session::SessionKey;
use super::{Broker, DetachReason, Refusal};

/// What every allocation costs beside its own bytes: the allocator's header, and what rounding up loses.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// What an idle connection costs beside its session: its entries in the tables of broker and loop with the room these
/// grow into, its task, its socket's entry in the event queue, its deadline.
///
/// Measured as the resident memory that a gateway of the profile "quick" takes more for connections that have said
/// CONNECT and nothing else, divided by their number: with 256 to 10,000 of them 1,630 to 1,940 bytes with the session,
/// mostly 1,770. The table that has just grown makes the difference.
pub(super) const LINK_BYTES: usize = 1280;

/// What a session costs with nothing in it: its entry in two tables with the room these grow into, and its deadline.
///
/// Measured likewise, with clients that came for a session that is kept and left again: 460 to 640 bytes, mostly 570.
pub(super) const SESSION_BYTES: usize = 600;

/// What `Bytes` that are shared cost beside their content: two allocations, one of 24 bytes that counts the owners.
pub(super) const SHARED_BYTES: usize = 24 + 2 * ALLOCATION_BYTES;

/// What the entry of a retained message in the ordered table costs, whose nodes are two thirds full, with what its
/// topic takes beside its text.
pub(super) const RETAINED_BYTES: usize = 104 + SHARED_BYTES;

/// What a link may have on its way once memory is short: what one turn of the loop writes before it ends. Who has
/// more on its way does not read.
const UNSENT_BYTES_WHEN_SHORT: usize = 32 * 1024;

/// The account: how many bytes are held for peers at this moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Account(Rc<Cell<usize>>);

impl Account {
    pub(super) fn bytes(&self) -> usize {
        self.0.get()
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }

    pub(super) fn take_off(&self, bytes: usize) {
        debug_assert!(bytes <= self.0.get(), "what is taken off was booked");
        self.0.set(self.0.get().saturating_sub(bytes));
    }
}

/// Bytes on the account, which are off it when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge {
    account: Account,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(account: &Account, bytes: usize) -> Self {
        account.add(bytes);
        Self {
            account: account.clone(),
            bytes,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What would be on the account with `bytes` more.
    pub(super) fn with_more(&self, bytes: usize) -> usize {
        self.account.bytes().saturating_add(bytes)
    }

    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.account.take_off(self.bytes);
            self.account.add(bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.take_off(self.bytes);
    }
}

/// What memory is wanted for, in the order in which it is refused as the budget fills; the shares are those of
/// [`Limits::memory_bytes_max`] up to which each may fill it, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// QoS 0 for a reader that has more than 32 KiB on its way.
    SlowReader = 70,
    /// A retained message, of a topic that has none or larger than the one it has.
    Retained = 75,
    /// A session, a will, a subscription.
    Session = 80,
    /// A message of QoS 1 or 2 that has to wait.
    Queue = 85,
    /// A connection, be it to a session that is there: it may have come for what waits. A topic alias.
    Connection = 90,
    /// A packet of which a part has arrived, a message of QoS 1 or 2 that goes out at once.
    Packet = 95,
    /// What is on its way to those who read.
    Transit = 100,
}

/// The account and its marks.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) account: Account,
    memory_bytes_max: usize,
    slow_reader_mark_bytes: usize,
    unsent_bytes_max: usize,
    packet_bytes_max: usize,
    /// Sessions with a link to which nothing could be sent because the budget was spent.
    starved: BTreeSet<SessionKey>,
    /// Payload, topic and property bytes in flight to all clients: part of what `queued_bytes_total_max` bounds.
    pub(super) in_flight: Account,
    shares: Shares,
    /// Sessions with a link whose next message waits for others to acknowledge theirs.
    held_back: BTreeSet<SessionKey>,
    /// How much was in flight at most when these were held back.
    held_back_at_bytes: usize,
    /// Whether somebody who reads got nothing since, because those who do not hold it all.
    is_spent: bool,
}

/// What may be in flight of the bytes that all queues share, which nothing but an acknowledgement makes free again: at
/// most three quarters in all, so that there is always something that can give way.
#[derive(Debug)]
struct Shares {
    /// As long as all together have no more, everybody's window is open: three eighths.
    of_all_bytes: usize,
    /// Up to here each may have one message in flight: five eighths.
    one_each_bytes: usize,
    /// What each session may always have in flight: one eighth, by the number of sessions there can be.
    of_each_bytes: usize,
}

impl Shares {
    fn new(limits: &Limits) -> Self {
        let eighth_bytes = limits.queued_bytes_total_max / 8;
        Self {
            of_all_bytes: 3 * eighth_bytes,
            one_each_bytes: 5 * eighth_bytes,
            of_each_bytes: eighth_bytes / limits.sessions_max.max(1),
        }
    }
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            account: Account::default(),
            memory_bytes_max: limits.memory_bytes_max,
            slow_reader_mark_bytes: mark(limits.memory_bytes_max, Use::SlowReader),
            unsent_bytes_max: limits.unsent_bytes_max,
            packet_bytes_max: usize::try_from(limits.packet_bytes_max).unwrap_or(usize::MAX),
            starved: BTreeSet::new(),
            in_flight: Account::default(),
            shares: Shares::new(limits),
            held_back: BTreeSet::new(),
            held_back_at_bytes: 0,
            is_spent: false,
        }
    }

    /// Goes by other limits from here on; what is on the account stays there.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        let before = std::mem::replace(self, Self::new(limits));
        self.account = before.account;
        self.in_flight = before.in_flight;
        self.starved = before.starved;
        self.held_back = before.held_back;
        // All of them have their turn, whatever they were held back by.
        self.held_back_at_bytes = usize::MAX;
    }

    /// Whether `bytes` more may be held for `what`.
    pub(super) fn allows(&self, what: Use, bytes: usize) -> bool {
        self.account.bytes().saturating_add(bytes) <= mark(self.memory_bytes_max, what)
    }

    /// Up to where `what` may fill the account.
    pub(super) fn mark_bytes(&self, what: Use) -> usize {
        mark(self.memory_bytes_max, what)
    }

    /// Whether a message of `size_bytes` may go out to a client that has `inflight` to acknowledge.
    ///
    /// Who acknowledges nothing holds what was sent for as long as it likes; so it gets no more as soon as all like it
    /// hold much, and waits, while those who hold little are served.
    pub(super) fn lets_out(&self, inflight: &Inflight, size_bytes: usize) -> bool {
        let (of_all, own) = (self.in_flight.bytes(), inflight.size_bytes());
        let with_it = |bytes: usize| bytes.saturating_add(size_bytes);
        with_it(of_all) <= self.shares.of_all_bytes
            || with_it(own) <= self.shares.of_each_bytes
            || (own == 0 && with_it(of_all) <= self.shares.one_each_bytes)
            // Larger than any share: one at a time.
            || of_all == 0
    }

    /// Whether `bytes` more leave everybody what the limits promise them.
    #[inline(always)]
    pub(super) fn is_ample(&self, bytes: usize) -> bool {
        self.account.bytes().saturating_add(bytes) <= self.slow_reader_mark_bytes
    }

    /// What a link may have on its way before it has to wait until that is out: less while memory is short, and nothing
    /// while there is no room for one more packet.
    #[inline(always)]
    pub(super) fn unsent_bytes_max(&self) -> usize {
        if self.is_ample(0) {
            self.unsent_bytes_max
        } else {
            self.unsent_bytes_max_when_short()
        }
    }

    #[inline(never)]
    fn unsent_bytes_max_when_short(&self) -> usize {
        match self.allows(Use::Transit, self.packet_bytes_max) {
            true => self.unsent_bytes_max.min(UNSENT_BYTES_WHEN_SHORT),
            false => 0,
        }
    }

    /// What a link that reads may have on its way at least, but for a budget that is spent.
    pub(super) fn unsent_bytes_promised(&self) -> usize {
        self.unsent_bytes_max().min(UNSENT_BYTES_WHEN_SHORT)
    }
}

/// Up to where `what` may fill the budget.
fn mark(memory_bytes_max: usize, what: Use) -> usize {
    // Divided first: a 32-bit board cannot multiply its whole memory.
    memory_bytes_max / 100 * what as usize
}

impl Broker {
    /// The bytes held for peers at this moment, by the broker's account.
    pub fn memory_bytes(&self) -> usize {
        self.budget.account.bytes()
    }

    /// Whether `bytes` more may be held for `what`; where not, it is counted and told.
    pub(super) fn has_memory(&mut self, now: Instant, what: Use, bytes: usize) -> bool {
        if self.budget.allows(what, bytes) {
            return true;
        }
        self.stats.memory_refusals += 1;
        self.limit_reached(now, "memory_bytes_max");
        false
    }

    /// The transport of a link holds `bytes` for it; see [`super::Input::Holding`].
    pub(super) fn handle_holding(&mut self, now: Instant, link: LinkId, bytes: usize) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        let more = (LINK_BYTES + bytes).saturating_sub(known.charge.bytes());
        known.charge.set(LINK_BYTES + bytes);
        if more > 0 && !self.has_memory(now, Use::Packet, 0) {
            self.detach(now, link, DetachReason::Refused(Refusal::MemoryShort));
        }
    }

    /// Notes that a session has to wait for memory, if that is what it waits for.
    pub(super) fn note_starved(&mut self, key: SessionKey) {
        if self.budget.unsent_bytes_max() == 0 {
            self.budget.starved.insert(key);
            self.budget.is_spent = true;
        }
    }

    /// Notes that the next message of a session waits for others to acknowledge theirs.
    pub(super) fn hold_back(&mut self, now: Instant, key: SessionKey) {
        let in_flight = self.budget.in_flight.bytes();
        let budget = &mut self.budget;
        budget.held_back_at_bytes = match budget.held_back.is_empty() {
            true => in_flight,
            false => budget.held_back_at_bytes.max(in_flight),
        };
        budget.held_back.insert(key);
        self.limit_reached(now, "queued_bytes_total_max");
    }

    /// The message that a session was to send next is gone from its queue, or less of what it was sent is held: what it
    /// has to send now may be small enough to go.
    pub(super) fn look_again_at(&mut self, key: SessionKey) {
        if self.budget.held_back.contains(&key) {
            self.budget.held_back_at_bytes = usize::MAX; // looks at all who are held back once more
        }
    }

    /// A message of QoS 0 was not sent to a link with `unsent_bytes` on its way; whether memory was the reason.
    pub(super) fn is_short_for(&mut self, now: Instant, unsent_bytes: usize) -> bool {
        let is_short = unsent_bytes < self.limits.unsent_bytes_max;
        if is_short {
            self.stats.memory_refusals += 1;
            self.limit_reached(now, "memory_bytes_max");
            self.budget.is_spent |= self.budget.unsent_bytes_max() == 0;
        }
        is_short
    }

    /// After an input: where the budget is spent, takes the most from whom it is held for; where it is not any more,
    /// sends to those who waited.
    #[inline(always)]
    pub(super) fn keep_house(&mut self, now: Instant) {
        if self.budget.is_spent || !self.budget.starved.is_empty() || !self.budget.held_back.is_empty() {
            self.make_ends_meet(now);
        }
    }

    #[inline(never)]
    fn make_ends_meet(&mut self, now: Instant) {
        if std::mem::take(&mut self.budget.is_spent) {
            self.shed_link(now);
        }
        for _ in 0..self.budget.starved.len() {
            if self.budget.unsent_bytes_max() == 0 {
                break;
            }
            if let Some(key) = self.budget.starved.pop_first() {
                self.pump(now, key);
            }
        }
        if self.budget.in_flight.bytes() < self.budget.held_back_at_bytes {
            for key in std::mem::take(&mut self.budget.held_back) {
                self.pump(now, key); // which holds it back again where it is not its time yet
            }
        }
    }

    /// Ends the link that holds most in buffers: it does not read, or does not finish its packet.
    fn shed_link(&mut self, now: Instant) {
        let holding = |link: &Link| {
            let sent = link.attachment().map_or(0, Attachment::booked_bytes);
            sent + link.charge.bytes().saturating_sub(LINK_BYTES)
        };
        let most = self.links.iter().max_by_key(|(_, link)| holding(link));
        if let Some((link, _)) = most.filter(|(_, link)| holding(link) > UNSENT_BYTES_WHEN_SHORT / 2) {
            self.stats.memory_refusals += 1;
            self.detach(now, link, DetachReason::Refused(Refusal::MemoryShort));
        }
    }
}
