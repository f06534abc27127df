//! Every bound on what a peer can grow, in one place; a board profile sets them.
//!
//! What is bounded at the door, before the core hears of it, stands in `net::listener::ListenerSettings`: connections
//! through one door, from one address, those on their way in, and how fast they may come.
//!
//! # What happens when a bound bites
//! It is counted in [`Stats`](super::Stats) each time and told as [`Event::LimitReached`] once an episode. The client
//! that asked for more is told where its version has a word for it: 0x97 for what is full, 0x95 for a packet too large,
//! 0x93 for more unfinished QoS 2 than Receive Maximum, 0x90 and 0x8F for topics too long or too deep. Who publishes
//! faster than it may is not read for a while, and its own queue at its own end grows. Nobody else notices, but where
//! the operator wants it so: a reader's full queue may be its publisher's business ([`Overflow::Reject`]).
//!
//! # When memory is short
//! `memory_bytes_max` bounds everything together, by an account of what it really costs (see `budget`). As it fills,
//! memory is refused in this order, which is that of what is missed least:
//!
//! 1. from 70 % on: QoS 0 to readers that have more than 32 KiB on their way, whatever `unsent_bytes_max` says;
//! 2. from 75 %: retained messages that need more room than the one they replace;
//! 3. from 80 %: new sessions, wills, subscriptions;
//! 4. from 85 %: messages of QoS 1 and 2 that would have to wait: what gives way is decided as when a queue is full;
//! 5. from 90 %: connections, those to a session that is there included, which come so late because they drain it,
//!    and new topic aliases;
//! 6. from 95 %: packets of which a part has arrived, with their connection, and messages of QoS 1 and 2 that could go
//!    out at once;
//! 7. at 100 %: whatever else is on its way to those who read; and the connection that holds most in buffers goes, as
//!    does one that is owed an answer then.
//!
//! What is given to be stored and is not yet is on the account, too, and makes the others give way; where it goes
//! beyond, it is bounded by itself: above 4 MiB who publishes is not read for a while.
//!
//! All of it ends by itself when memory is free again, and what waits is sent then.
//!
//! # Who gives way where many share
//! No user may take all there is of sessions, subscriptions and retained messages (`..._per_user_max`); those who gave
//! no name count by the address they came from. Where all queues together are full, a session that holds more than its
//! fair share loses messages, and one that holds less takes the room it needs from the session that holds most.
//!
//! What a queue lets in whose overflow policy is to refuse the publisher or to send the reader away is a promise, and
//! gives way to nobody; it is dropped only where it has expired, or with its session.
//!
//! What was sent and not acknowledged cannot give way. So when three eighths of what all queues may hold are in flight,
//! a session gets its next message only when it has acknowledged all before, from five eighths on only up to its part
//! of an eighth by the number of sessions there may be; whatever waits for that waits in its queue.

use std::time::{Duration, Instant};

use super::budget::{Budget, LINK_BYTES, RETAINED_BYTES, SESSION_BYTES, Use};
use super::kept::{Kept, Queued};
use super::subscriptions::SUBSCRIPTION_BYTES_MIN;
use super::{Broker, Event, Output};
use crate::mqtt::{ClientId, UserProperties};

/// The bounds of the core. The values of [`Limits::default`] are those of `boards/base.toml`, held to it by a
/// test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those without CONNECT included.
    pub connections_max: usize,
    /// From accept to CONNECT, and again from there to the verdict on a password.
    pub connect_timeout: Duration,
    /// Server Keep Alive for 5.0 clients that ask for more, or for none (section 3.2.2.3.14).
    pub keep_alive_max_secs: u16,
    /// The largest packet accepted, in bytes with its fixed header; told to 5.0 clients.
    pub packet_bytes_max: u32,
    /// The largest CONNECT accepted, in bytes with its fixed header, from whoever it is.
    pub connect_bytes_max: u32,
    /// Topic names and filters, client identifiers and user names, in bytes.
    pub topic_bytes_max: usize,
    /// Levels of a topic name or filter.
    pub topic_levels_max: usize,
    /// Topic filters of one client.
    pub subscriptions_per_client_max: usize,
    /// Topic filters of all clients.
    pub subscriptions_max: usize,
    /// Topic filters of all sessions of one user, or of those who gave no name and came from one address.
    pub subscriptions_per_user_max: usize,
    /// User properties of one packet.
    pub user_properties_max: usize,
    /// Names and values of the user properties of one packet, in bytes.
    pub user_properties_bytes_max: usize,
    /// A will with its topic and properties, in bytes.
    pub will_bytes_max: usize,
    /// The wills of all sessions, in bytes.
    pub wills_bytes_total_max: usize,
    /// Unfinished QoS 1 and 2 deliveries to one client, whatever more it would accept.
    pub inflight_max: u16,
    /// Receive Maximum told to 5.0 clients: unfinished QoS 2 deliveries of one connection. With what earlier ones
    /// left, and of an older client, which cannot be told, all 65,535 identifiers may be under way; that takes 8 KiB
    /// at most.
    pub receive_maximum: u16,
    /// Topic Alias Maximum told to clients.
    pub topic_alias_maximum: u16,
    /// Messages waiting for one client.
    pub queue_class: QueueClass,
    /// Payload, topic and property bytes waiting for one client, queued or unacknowledged.
    pub queue_bytes_max: usize,
    /// What gives way when a queue is full.
    pub queue_overflow: Overflow,
    /// Whether messages at QoS 0 wait for clients that are away, which the standard leaves to the server.
    pub queue_qos0: bool,
    /// How long a client before 5.0 waits for the acknowledgement of a message that a receiver with
    /// [`Overflow::Reject`] has no room for; then its connection ends.
    pub publish_wait_max: Duration,
    /// Payload, topic and property bytes waiting for all clients, counted once for each.
    pub queued_bytes_total_max: usize,
    /// Payload, topic and property bytes waiting for one client beyond its queue, in the journal alone; 0: none.
    pub spill_bytes_max: usize,
    /// The same of all clients.
    pub spill_bytes_total_max: usize,
    /// How old what waits there may get, in the long run; zero: any.
    pub spill_age_max: Duration,
    /// Bytes handed to a link and not yet out, after which nothing but acknowledgements is sent to it, in
    /// bytes.
    pub unsent_bytes_max: usize,
    /// Sessions kept, connected or not.
    pub sessions_max: usize,
    /// Sessions kept for one user, or for those who gave no name and came from one address. One more takes the place
    /// of the one that has been absent longest.
    pub sessions_per_user_max: usize,
    /// Session Expiry Interval granted at most.
    pub session_expiry_max: Duration,
    /// Retained messages.
    pub retained_max: usize,
    /// Payload, topic and property bytes of retained messages.
    pub retained_bytes_max: usize,
    /// Retained messages of one user, or of those who gave no name and came from one address.
    pub retained_per_user_max: usize,
    /// The bytes of these.
    pub retained_bytes_per_user_max: usize,
    /// Messages one client may publish, and topic filters it may send, within a second; more wait unread.
    pub publish_rate_max: u32,
    /// The bytes of these messages, topics and payloads, within a second; more wait unread.
    pub publish_bytes_rate_max: u32,
    /// The least time between two slices of kicks.
    pub kick_gap_min: Duration,
    /// Clients that one slice of kicks sends away at most.
    pub kicks_per_tick_max: usize,
    /// Kicks asked for and not begun; the next one is refused.
    pub kick_queue_class: KickQueueClass,
    /// Clients, users and networks kept out at one time.
    pub bans_max: usize,
    /// Everything together, in bytes; see above.
    pub memory_bytes_max: usize,
}

impl Limits {
    /// What the numbers alone cost in memory, in bytes: as many connections, sessions, topic filters and retained
    /// messages as there may be, with the shortest of texts, while nothing waits and nothing is on its way.
    pub fn standing_bytes(&self) -> [(&'static str, u64); 4] {
        let cost = |count: usize, bytes: usize| {
            let wide = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
            wide(count).saturating_mul(wide(bytes))
        };
        [
            ("connections_max", cost(self.connections_max, LINK_BYTES)),
            ("sessions_max", cost(self.sessions_max, SESSION_BYTES)),
            (
                "subscriptions_max",
                cost(self.subscriptions_max, SUBSCRIPTION_BYTES_MIN),
            ),
            (
                "retained_max",
                cost(self.retained_max, RETAINED_BYTES + Kept::BYTES_MIN),
            ),
        ]
    }

    /// How many messages of `size_bytes`, each for one client, may wait at one time: bounded by their bytes, and by
    /// what they cost in memory beside what the numbers cost alone.
    pub fn queued_messages_fitting(&self, size_bytes: usize) -> usize {
        let standing = self.standing_bytes().into_iter();
        let standing = standing.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes));
        let standing = usize::try_from(standing).unwrap_or(usize::MAX);
        let memory_bytes = Budget::new(self).mark_bytes(Use::Queue).saturating_sub(standing);
        let by_memory = memory_bytes / (size_bytes + Kept::BYTES_MIN + size_of::<Queued>());
        by_memory.min(self.queued_bytes_total_max / size_bytes.max(1))
    }

    /// Whether a packet may bring these user properties.
    pub(super) fn allow_user_properties(&self, properties: &UserProperties) -> bool {
        let sizes = properties
            .iter()
            .map(|(name, value)| name.as_str().len() + value.as_str().len());
        properties.len() <= self.user_properties_max && sizes.sum::<usize>() <= self.user_properties_bytes_max
    }
}

/// How many messages a client's `heapless` ring holds; classes, because its capacity is part of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueClass {
    /// 16 messages.
    N16,
    /// 64 messages.
    N64,
    /// 256 messages.
    N256,
    /// 1,024 messages.
    N1024,
    /// 4,096 messages.
    N4096,
}

/// How many kicks may wait: classes, because the capacity of a `heapless` table is part of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KickQueueClass {
    /// 64 kicks.
    N64,
    /// 256 kicks.
    N256,
    /// 1,024 kicks.
    N1024,
}

/// What gives way when a client's queue is full; every drop is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The message that waited longest: one absent reader must not stop a publisher.
    #[default]
    DropOldest,
    /// The message that just came.
    DropNewest,
    /// The publisher: a message at QoS 1 or 2 that a receiver has no room for is kept for nobody and not acknowledged.
    /// Publishers of 5.0 are told 0x97, others wait up to [`Limits::publish_wait_max`]. What was acknowledged is not
    /// dropped for a message that comes later.
    Reject,
    /// The reader: its connection ends with 0x97 and its session with all that waits in it, for a session with a gap
    /// would be a promise that nobody keeps. It finds no session when it comes back.
    Disconnect,
}

impl Overflow {
    /// Whether what was let in is not dropped to make room for others.
    pub(super) const fn keeps_what_waits(self) -> bool {
        matches!(self, Self::Reject | Self::Disconnect)
    }
}

impl QueueClass {
    /// Every class, smallest first.
    pub const ALL: [Self; 5] = [Self::N16, Self::N64, Self::N256, Self::N1024, Self::N4096];

    /// The capacity in messages.
    pub const fn messages(self) -> usize {
        match self {
            Self::N16 => 16,
            Self::N64 => 64,
            Self::N256 => 256,
            Self::N1024 => 1024,
            Self::N4096 => 4096,
        }
    }
}

impl KickQueueClass {
    /// Every class, smallest first.
    pub const ALL: [Self; 3] = [Self::N64, Self::N256, Self::N1024];

    /// The capacity in kicks.
    pub const fn kicks(self) -> usize {
        match self {
            Self::N64 => 64,
            Self::N256 => 256,
            Self::N1024 => 1024,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            connect_timeout: Duration::from_secs(10),
            keep_alive_max_secs: 1200,
            packet_bytes_max: 256 * 1024,
            connect_bytes_max: 32 * 1024,
            topic_bytes_max: 256,
            topic_levels_max: 32,
            subscriptions_per_client_max: 1024,
            subscriptions_max: 16 * 1024,
            subscriptions_per_user_max: 12 * 1024,
            user_properties_max: 32,
            user_properties_bytes_max: 8 * 1024,
            will_bytes_max: 16 * 1024,
            wills_bytes_total_max: 1024 * 1024,
            inflight_max: 32,
            receive_maximum: 64,
            topic_alias_maximum: 16,
            queue_class: QueueClass::N1024,
            queue_bytes_max: 1024 * 1024,
            queue_overflow: Overflow::DropOldest,
            queue_qos0: false,
            publish_wait_max: Duration::from_secs(30),
            queued_bytes_total_max: 32 * 1024 * 1024,
            spill_bytes_max: 8 * 1024 * 1024,
            spill_bytes_total_max: 16 * 1024 * 1024,
            spill_age_max: Duration::from_secs(7 * 24 * 3600),
            unsent_bytes_max: 256 * 1024,
            sessions_max: 1024,
            sessions_per_user_max: 512,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            retained_max: 4096,
            retained_bytes_max: 8 * 1024 * 1024,
            retained_per_user_max: 3072,
            retained_bytes_per_user_max: 6 * 1024 * 1024,
            publish_rate_max: 10_000_000,
            publish_bytes_rate_max: 1024 * 1024 * 1024,
            kick_gap_min: Duration::from_millis(10),
            kicks_per_tick_max: 64,
            kick_queue_class: KickQueueClass::N256,
            bans_max: 256,
            memory_bytes_max: 128 * 1024 * 1024,
        }
    }
}

/// The limits of the whole broker that bit lately, so that each is told once and not once a message.
#[derive(Debug, Default)]
pub(super) struct Episodes {
    last_bites: Vec<(&'static str, Option<Instant>)>,
}

/// An episode is over when its limit has not bitten for this long: long enough that a log holds a line a
/// burst, short enough that the next evening's burst is told again.
const EPISODE_GAP: Duration = Duration::from_secs(10);

/// Notes that a limit bites `now`; whether that begins an episode.
pub(super) fn begins_episode(last_bite: &mut Option<Instant>, now: Instant) -> bool {
    let before = last_bite.replace(now);
    before.is_none_or(|at| now.saturating_duration_since(at) >= EPISODE_GAP)
}

impl Broker {
    /// Tells that a limit of the whole broker bites, once an episode.
    pub(super) fn limit_reached(&mut self, now: Instant, limit: &'static str) {
        self.limit_reached_by(now, limit, None);
    }

    /// Tells that a limit bites, once an episode, and which client it was that began it.
    pub(super) fn limit_reached_by(&mut self, now: Instant, limit: &'static str, client: Option<ClientId>) {
        let known = self
            .episodes
            .last_bites
            .iter_mut()
            .find(|(other, _)| *other == limit);
        let begins = match known {
            Some((_, last_bite)) => begins_episode(last_bite, now),
            None => {
                self.episodes.last_bites.push((limit, Some(now)));
                true
            }
        };
        if begins {
            self.outputs
                .push_back(Output::Event(Event::LimitReached { limit, client }));
        }
    }

    /// Tells that a limit bites for one client; who calls knows whether it was told before.
    pub(super) fn limit_reached_for(&mut self, limit: &'static str, client: &ClientId) {
        let client = Some(client.clone());
        self.outputs
            .push_back(Output::Event(Event::LimitReached { limit, client }));
    }
}
