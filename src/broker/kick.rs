//! Kicks: whom an operator, a hook or a program sends away, and what becomes of what they leave.
//!
//! An order is carried out between two other inputs, when nobody is walking over a session, and a bounded part of it
//! at a time: [`Limits::kicks_per_tick_max`](super::Limits::kicks_per_tick_max) clients, and the rest after
//! [`Limits::kick_gap_min`](super::Limits::kick_gap_min). Orders are carried out one after the other, as they came.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bans::{BanSubject, KeptOut};
use super::link::{Link, LinkId, Stage};
use super::pattern::Pattern;
use super::session::{Session, SessionKey};
use super::timers::Timer;
use super::{Broker, DetachReason, Output};
use crate::auth::Identity;
use crate::auth::network::Network;
use crate::mqtt::{ClientId, ReasonCode, Utf8String};

/// The number of a kick, by which its outcome is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KickId(pub u64);

/// One order to send somebody away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    /// Chosen by the caller.
    pub id: KickId,
    /// Whom.
    pub target: Target,
    /// How.
    pub options: KickOptions,
}

/// Whom a kick means.
///
/// It means those who are there when its turn comes: who connects again while it is carried out stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The client with this identifier, whatever characters it is made of.
    Client(ClientId),
    /// All clients of this user, those who are away included.
    User(Utf8String),
    /// All connections from this address, those whose client is not in yet included.
    Address(IpAddr),
    /// All connections from these addresses, those whose client is not in yet included.
    Network(Network),
    /// All connections through the listener of this name, those whose client is not in yet included.
    Listener(String),
    /// All clients with such an identifier, those who are away included.
    Pattern(Pattern),
    /// All clients, those who are away included, and all connections whose client is not in yet.
    Everyone,
}

/// How somebody is sent away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KickOptions {
    /// What a 5.0 client is told.
    pub reason: KickReason,
    /// Where a 5.0 client is to go instead; sent with 0x9C and 0x9D only. Without one that of
    /// [`Settings::server_reference`](super::Settings::server_reference) is sent.
    pub server_reference: Option<Utf8String>,
    /// What becomes of the will.
    pub will: KickedWill,
    /// What becomes of the session.
    pub session: KickedSession,
    /// How long the client, the user or the addresses are kept out; [`Duration::MAX`]: until the ban is taken back.
    ///
    /// Other targets are no subject of a ban; see [`Target::ban_subject`].
    pub keep_out: Option<Duration>,
}

/// The reason a kicked client is told: one of those a server may give in DISCONNECT (section 3.14.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KickReason(ReasonCode);

/// What becomes of the will of a kicked client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KickedWill {
    /// It is sent, after its delay, as of any client that did not take its leave.
    #[default]
    Publish,
    /// Nobody learns of it.
    Discard,
}

/// What becomes of the session of a kicked client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KickedSession {
    /// It outlives the connection for as long as the client asked for.
    #[default]
    Keep,
    /// It is forgotten with all that waits for the client, also where the client is away.
    Purge,
}

/// What a kick came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KickOutcome {
    /// Connected clients that were sent away.
    pub kicked: usize,
    /// Connections that were ended before their client was in.
    pub pending: usize,
    /// Sessions that were forgotten and would have stayed otherwise.
    pub purged: usize,
    /// Clients that were meant and had gone by themselves; their sessions stay.
    pub away: usize,
    /// Whether they are kept out.
    pub kept_out: KeptOut,
}

/// What a kick came to, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Somebody was connected, and is not any more.
    Online,
    /// Nobody was connected; at least one session was forgotten.
    Purged,
    /// Everybody who was meant was away already.
    AlreadyGone,
    /// Nobody was meant: there is neither such a connection nor such a session.
    Nobody,
}

impl Target {
    /// Who a ban would keep out; `None` where that is none of the three that can be.
    pub fn ban_subject(&self) -> Option<BanSubject> {
        match self {
            Self::Client(client) => Some(BanSubject::Client(client.detached())),
            Self::User(user) => Some(BanSubject::User(user.detached())),
            Self::Address(address) => Some(BanSubject::Network(Network::of(*address))),
            Self::Network(network) => Some(BanSubject::Network(*network)),
            Self::Listener(_) | Self::Pattern(_) | Self::Everyone => None,
        }
    }

    /// The same, with text of its own and addresses in one form, to be kept and compared.
    #[must_use]
    pub fn detached(self) -> Self {
        match self {
            Self::Client(client) => Self::Client(client.detached()),
            Self::User(user) => Self::User(user.detached()),
            Self::Address(address) => Self::Address(address.to_canonical()),
            target => target,
        }
    }

    /// Whether a session is meant, whoever is connected to it.
    fn means_session(&self, session: &Session) -> bool {
        match self {
            Self::Client(client) => session.client == *client,
            Self::User(user) => matches!(&*session.identity, Identity::User(name) if name == user),
            Self::Pattern(pattern) => pattern.matches(session.client.as_str()),
            Self::Everyone => true,
            Self::Address(_) | Self::Network(_) | Self::Listener(_) => false,
        }
    }

    /// Whether a connection is meant, whoever's it is.
    fn means_link(&self, link: &Link) -> bool {
        let (listener, peer) = match &link.stage {
            Stage::Arrived(arrival) => (&arrival.listener, arrival.peer),
            Stage::Attached(attachment) => (&attachment.listener, attachment.peer),
        };
        match self {
            Self::Address(address) => peer.is_some_and(|peer| peer.to_canonical() == address.to_canonical()),
            Self::Network(network) => peer.is_some_and(|peer| network.contains(peer)),
            Self::Listener(name) => listener.name == *name,
            Self::Everyone => true,
            Self::Client(_) | Self::User(_) | Self::Pattern(_) => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => write!(f, "client {:?}", client.as_str()),
            Self::User(user) => write!(f, "user {:?}", user.as_str()),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Network(network) => write!(f, "address {network}"),
            Self::Listener(name) => write!(f, "listener {name:?}"),
            Self::Pattern(pattern) => write!(f, "clients {pattern:?}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

impl KickOptions {
    /// These, and what is stronger in `other`: a will that is discarded, a session that is purged and the longer ban
    /// win; the reason and where to go instead stay.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self {
            will: match (self.will, other.will) {
                (KickedWill::Publish, KickedWill::Publish) => KickedWill::Publish,
                _ => KickedWill::Discard,
            },
            session: match (self.session, other.session) {
                (KickedSession::Keep, KickedSession::Keep) => KickedSession::Keep,
                _ => KickedSession::Purge,
            },
            keep_out: self.keep_out.max(other.keep_out),
            ..self
        }
    }
}

impl KickReason {
    /// An operator's decision, 0x98.
    pub const ADMINISTRATIVE_ACTION: Self = Self(ReasonCode::AdministrativeAction);
    /// To use another server from now on for a time, 0x9C.
    pub const USE_ANOTHER_SERVER: Self = Self(ReasonCode::UseAnotherServer);
    /// To use another server for ever, 0x9D.
    pub const SERVER_MOVED: Self = Self(ReasonCode::ServerMoved);
    /// That it has no right to be there any more, 0x87.
    pub const NOT_AUTHORIZED: Self = Self(ReasonCode::NotAuthorized);
    /// To come again, 0x89.
    pub const SERVER_BUSY: Self = Self(ReasonCode::ServerBusy);
    /// To publish less, 0x96.
    pub const MESSAGE_RATE_TOO_HIGH: Self = Self(ReasonCode::MessageRateTooHigh);

    /// Takes a reason; `None` for one that a server may not give, or that only its own rules give.
    pub const fn new(reason: ReasonCode) -> Option<Self> {
        match reason {
            ReasonCode::UnspecifiedError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::ServerBusy
            | ReasonCode::ServerShuttingDown
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::AdministrativeAction
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved
            | ReasonCode::ConnectionRateExceeded
            | ReasonCode::MaximumConnectTime => Some(Self(reason)),
            _ => None,
        }
    }

    /// As the packet says it.
    pub const fn code(self) -> ReasonCode {
        self.0
    }

    /// Whether the client is to go to another server (section 4.11).
    pub const fn sends_elsewhere(self) -> bool {
        matches!(self.0, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved)
    }
}

impl Default for KickReason {
    fn default() -> Self {
        Self::ADMINISTRATIVE_ACTION
    }
}

impl fmt::Display for KickReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl KickOutcome {
    /// The same in one word.
    pub const fn found(&self) -> Found {
        match self {
            Self { kicked: 1.., .. } | Self { pending: 1.., .. } => Found::Online,
            Self { purged: 1.., .. } => Found::Purged,
            Self { away: 1.., .. } => Found::AlreadyGone,
            _ => Found::Nobody,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "kicked",
            Self::Purged => "session purged",
            Self::AlreadyGone => "already gone",
            Self::Nobody => "not found",
        })
    }
}

/// Orders that are not carried out yet.
///
/// 1. While there are any, [`Timer::Kicks`] runs at `due`.
#[derive(Debug, Default)]
pub(super) struct Kicks {
    waiting: VecDeque<Kick>,
    current: Option<Order>,
    /// When the slice began that `left` is of.
    began: Option<Instant>,
    /// How much more may be done in it.
    left: usize,
    pub(super) due: Option<Instant>,
}

/// An order that is being carried out.
#[derive(Debug)]
struct Order {
    kick: Kick,
    /// Who was meant when its turn came, the last one first: 24 bytes for each session and each connection at most, for
    /// one order at a time. What these cost on the account of the memory budget is rounded up by more.
    meant: Vec<Meant>,
    outcome: KickOutcome,
}

/// One who is meant: a session and the connection it had, or one that had no session yet.
#[derive(Debug, Clone, Copy)]
struct Meant {
    session: Option<SessionKey>,
    link: Option<LinkId>,
}

/// Sessions that may be looked at for the price of one kick.
const SESSIONS_LOOKED_AT: usize = 64;

impl Order {
    fn new(kick: Kick) -> Self {
        Self {
            kick,
            meant: Vec::new(),
            outcome: KickOutcome::default(),
        }
    }
}

const _: () = assert!(size_of::<Meant>() <= 24);

impl Broker {
    /// When [`super::Input::Kick`] may come next; `None`: at once. One that comes earlier waits in the broker.
    pub fn kicks_taken_at(&self, now: Instant) -> Option<Instant> {
        let kicks = &self.kicks;
        let next = kicks.began?.checked_add(self.limits.kick_gap_min)?;
        let may_go_on = kicks.current.is_none() && kicks.left > 0 && kicks.began == Some(now);
        (next > now && !may_go_on).then_some(next)
    }

    /// When orders that were begun go on; `None` where there are none.
    pub fn kicks_due(&self) -> Option<Instant> {
        self.kicks.due
    }

    #[inline(never)]
    pub(super) fn handle_kick(&mut self, now: Instant, kick: Kick) {
        self.kicks.waiting.push_back(kick);
        match self.kicks_taken_at(now) {
            None => self.carry_out_kicks(now),
            Some(next) => self.go_on_with_kicks(next),
        }
    }

    /// The next slice may begin.
    pub(super) fn handle_kicks_timer(&mut self, now: Instant) {
        self.carry_out_kicks(now);
    }

    fn go_on_with_kicks(&mut self, at: Instant) {
        if self.kicks.due.is_none() {
            self.kicks.due = Some(at);
            self.timers.set(at, Timer::Kicks);
        }
    }

    fn carry_out_kicks(&mut self, now: Instant) {
        self.timers.cancel(self.kicks.due.take(), Timer::Kicks);
        if self.kicks.began != Some(now) {
            self.kicks.began = Some(now);
            self.kicks.left = self.limits.kicks_per_tick_max.max(1);
        }
        while self.kicks.left > 0 {
            let order = match self.kicks.current.take() {
                Some(order) => order,
                None => match self.kicks.waiting.pop_front() {
                    Some(kick) => self.begin_order(now, kick),
                    None => return,
                },
            };
            self.carry_out(now, order);
        }
        if self.kicks.current.is_some() || !self.kicks.waiting.is_empty() {
            let next = now.checked_add(self.limits.kick_gap_min).unwrap_or(now);
            self.go_on_with_kicks(next);
        }
    }

    /// Bans whom it is to, so that nobody of them comes back while the others go, and notes who is meant.
    fn begin_order(&mut self, now: Instant, kick: Kick) -> Order {
        self.stats.kicks += 1;
        let mut order = Order::new(kick);
        let Kick { target, options, .. } = &order.kick;
        if let (Some(duration), Some(subject)) = (options.keep_out, target.ban_subject()) {
            order.outcome.kept_out = self.ban(now, subject, duration);
        }
        let purges = options.session == KickedSession::Purge;
        let mut note = |key: SessionKey, session: &Session| match session.link {
            None if !purges => order.outcome.away += 1,
            link => order.meant.push(Meant {
                session: Some(key),
                link,
            }),
        };
        if let Target::Client(client) = target {
            self.kicks.left -= 1;
            if let Some(key) = self.sessions.find(client)
                && let Some(session) = self.sessions.get(key)
            {
                note(key, session);
            }
        } else {
            let looked_at = self.sessions.len().max(self.links.len());
            self.kicks.left = (self.kicks.left - 1).saturating_sub(looked_at / SESSIONS_LOOKED_AT);
            for (key, session) in self.sessions.iter() {
                let link = session.link.and_then(|link| self.links.get(link));
                if target.means_session(session) || link.is_some_and(|link| target.means_link(link)) {
                    note(key, session);
                }
            }
            for (link, content) in &self.links {
                if content.attachment().is_none() && target.means_link(content) {
                    order.meant.push(Meant {
                        session: None,
                        link: Some(link),
                    });
                }
            }
        }
        order.meant.reverse();
        order
    }

    /// Sends away whoever is left of those who are meant, as far as this slice goes.
    fn carry_out(&mut self, now: Instant, mut order: Order) {
        let is_many = !matches!(order.kick.target, Target::Client(_));
        while let Some(meant) = order.meant.last().copied() {
            if is_many {
                if self.kicks.left == 0 {
                    self.kicks.current = Some(order);
                    return;
                }
                self.kicks.left -= 1;
            }
            order.meant.pop();
            self.send_away(now, meant, &order.kick.options, &mut order.outcome);
        }
        self.stats.kicks_in_vain += u64::from(order.outcome.found() == Found::Nobody);
        self.stats.clients_kicked += order.outcome.kicked as u64;
        self.stats.sessions_purged += order.outcome.purged as u64;
        self.outputs.push_back(Output::Kicked {
            id: order.kick.id,
            outcome: order.outcome,
        });
    }

    /// Ends one connection, and its session where that is asked for. Who has gone since and come back stays: the
    /// connection of now is another one.
    fn send_away(&mut self, now: Instant, meant: Meant, options: &KickOptions, outcome: &mut KickOutcome) {
        let mut key = meant.session;
        if let Some(link) = meant.link
            && let Some(known) = self.links.get(link)
        {
            // A client that was not in yet may be by now, by the very connection that is meant.
            key = known.attachment().map(|attachment| attachment.session).or(key);
            match key {
                Some(_) => outcome.kicked += 1,
                None => outcome.pending += 1,
            }
            if let Some(key) = key
                && options.will == KickedWill::Discard
            {
                self.drop_will(key);
            }
            let elsewhere = options.server_reference.as_ref();
            self.detach_to(now, link, DetachReason::Kicked(options.reason), elsewhere);
        } else if meant.link.is_some() || self.has_link(key) {
            outcome.away += 1;
        }
        if let Some(key) = key
            && options.session == KickedSession::Purge
            && self
                .sessions
                .get(key)
                .is_some_and(|session| session.link.is_none())
        {
            if options.will == KickedWill::Discard {
                self.drop_will(key);
            }
            outcome.purged += 1;
            self.end_session(now, key);
        }
    }

    fn has_link(&self, key: Option<SessionKey>) -> bool {
        key.and_then(|key| self.sessions.get(key))
            .is_some_and(|session| session.link.is_some())
    }
}
