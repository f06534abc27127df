//! Hooks: what an embedder's own code is asked before the broker acts, and told after it did.
//!
//! **Verdicts, not side effects:** a hook says what it thinks, the broker does what follows. A hook that wants somebody
//! gone asks a kick handle, from anywhere, and the next tick carries it out.
//!
//! - [`Hook`]: the trait; every method has a default, and [`Interests`] say which are called at all.
//! - [`answer`]: an answer that is given later, from any thread.
//! - [`exchange`]: enhanced authentication, in which a hook and a client take turns.
//! - [`rewrite`]: the hook that ships with the broker to rename topics.
//!
//! # In which order
//! Hooks are asked in the order they were installed, those of the configuration before an embedder's own; a reload may
//! put others in the place of the former, and what waits for one that is gone is asked anew. The rights come first
//! where both have a say, and a hook can only take away what they grant: **one denial is enough**. In authentication
//! the first that decides has decided; where all abstain, certificate, password file and `anonymous` decide as without
//! hooks. A client that names an authentication method is the business of the first hook that speaks it, and of nobody
//! else. A message goes through all hooks, each sees what the one before made of it, and only what comes out is asked
//! for rights.
//!
//! # When a hook panics
//! The panic is contained, counted ([`Stats::hook_panics`](crate::broker::Stats)), and taken for a refusal where a
//! verdict was asked, a message dropped where a message was shown. The hook is asked again the next time: one poisonous
//! message must not keep everybody out. That needs a binary built with `panic = "unwind"`; Tidegate's own release is
//! built with `panic = "abort"`, and the hooks it brings cannot panic.

pub mod answer;
pub mod exchange;
pub mod rewrite;

use std::net::IpAddr;
use std::ops::BitOr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::Identity;
use crate::auth::groups::Groups;
use crate::mqtt::{ClientId, QoS, ReasonCode, TopicFilter, TopicName, Utf8String};

pub use answer::{Answer, Answered, Later, Post, Question, Reply, Said};
pub use exchange::{DenialReason, ExchangeEnd, ExchangeId, Judgement, Moment, Proved, Step};

/// Code of an embedder's own that the broker asks before it acts.
///
/// Every method is called on the loop's thread and holds up everybody while it runs: what takes longer than some
/// microseconds says [`Verdict::Later`]. Only what [`Hook::interests`] names is called, and for the methods it speaks
/// its part in exchanges.
pub trait Hook {
    /// Its name, for the log.
    fn name(&self) -> &str;

    /// What it wants to be asked and told; looked at once, when it is installed.
    fn interests(&self) -> Interests;

    /// A byte stream was accepted, and nothing is known of it but where it comes from.
    fn arrival(&mut self, _from: &Origin<'_>) -> Ruling {
        Ruling::Allow
    }

    /// A client says who it is, without an authentication method of its own; bans were looked at before.
    fn authenticate(&mut self, _login: &Login<'_>, _later: &mut Later<'_>) -> Verdict {
        Verdict::Abstain
    }

    /// The authentication methods it speaks (section 4.12), as clients name them; looked at once, when it is installed.
    /// What no hook speaks is refused with 0x8C.
    fn authentication_methods(&self) -> Vec<Utf8String> {
        Vec::new()
    }

    /// A client has done its part of an exchange by one of these methods; bans were looked at before.
    fn exchange(&mut self, _step: &Step<'_>, _later: &mut Later<'_, Judgement>) -> Judgement {
        Judgement::Unavailable
    }

    /// An exchange of which [`Hook::exchange`] was asked is over; said once, and nothing more is asked of it.
    fn exchange_ended(&mut self, _exchange: ExchangeId, _end: ExchangeEnd) {}

    /// A message came from a client, or from the gateway itself (except on topics that start with `$`), or a client
    /// brings it as its will; its topic is the one the client says, without a mount point. Whether what comes of it may
    /// be published is asked after.
    fn message(&mut self, _from: &Client<'_>, _message: &Message<'_>) -> Change {
        Change::Keep
    }

    /// A client wants to publish, now or as its will, what its rights allow.
    fn publish(&mut self, _from: &Client<'_>, _message: &Message<'_>, _later: &mut Later<'_>) -> Verdict {
        Verdict::Abstain
    }

    /// A client names `filter` in a SUBSCRIBE or an UNSUBSCRIBE; `Some` is taken in its place, before rights are
    /// asked. It must say the same each time, or what was subscribed to cannot be unsubscribed from.
    fn filter(&mut self, _from: &Client<'_>, _filter: &TopicFilter) -> Option<TopicFilter> {
        None
    }

    /// A client wants to subscribe to what its rights allow.
    fn subscribe(
        &mut self,
        _from: &Client<'_>,
        _filter: &TopicFilter,
        _qos: QoS,
        _later: &mut Later<'_>,
    ) -> Verdict {
        Verdict::Abstain
    }

    /// A client is about to be handed a message its rights let it receive, or to have it queued; asked at both.
    /// Where it comes from is not known of `to`, which may be away.
    fn delivery(&mut self, _to: &Client<'_>, _message: &Message<'_>) -> Ruling {
        Ruling::Allow
    }

    /// A client is in.
    fn connected(&mut self, _client: &Client<'_>) {}

    /// A client has subscribed, and was granted this.
    fn subscribed(&mut self, _client: &Client<'_>, _filter: &TopicFilter, _qos: QoS) {}

    /// A client that was in is out.
    fn disconnected(&mut self, _client: &Client<'_>, _departure: Departure) {}

    /// The tick: called when it is installed, and again after the time it returns (at least [`TICK_MIN`]); `None`:
    /// not again.
    fn tick(&mut self, _now: Instant) -> Option<Duration> {
        None
    }
}

/// The shortest time between two ticks of one hook.
pub const TICK_MIN: Duration = Duration::from_millis(10);

/// A set of what a hook wants to be asked or told, each named as the method of [`Hook`] that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interests(u16);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Its address; `None` where the transport has none.
    pub peer: Option<IpAddr>,
    /// The door it came through.
    pub listener: &'a str,
    /// The user its verified certificate names.
    pub certificate_user: Option<&'a Utf8String>,
}

/// Who a client says it is.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// Where it comes from.
    pub origin: Origin<'a>,
    /// The client identifier it asks for; `None` where it is to be given one.
    pub client: Option<&'a ClientId>,
    /// As CONNECT says it.
    pub user: Option<&'a Utf8String>,
    /// As CONNECT says it. Never to be logged.
    pub password: Option<&'a [u8]>,
}

/// Who acts, or is acted for.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Who it has proved to be.
    pub identity: &'a Identity,
    /// Its client identifier; `None` for the gateway itself.
    pub client: Option<&'a ClientId>,
    /// Its address, where it is known.
    pub peer: Option<IpAddr>,
    /// The door it came through, where it is known.
    pub listener: Option<&'a str>,
}

/// A message as a hook sees it. But for [`Hook::message`] its topic is whole, with the mount point of who sent it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Where it goes.
    pub topic: &'a TopicName,
    /// What it says.
    pub payload: &'a [u8],
    /// At which quality it was published.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
}

/// What a hook thinks of a question that may take its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In authentication: the client is the user it says, or nobody in particular where it says none. Elsewhere: no
    /// objection, the next hook is asked.
    Allow,
    /// In authentication: the client is this user, whatever it says. Elsewhere as [`Verdict::Allow`].
    AllowAs(Utf8String),
    /// In authentication: the client is this user, or without one whom it says; and the access rules of these groups
    /// bind it as well, until it logs in anew. Elsewhere as [`Verdict::Allow`].
    AllowIn {
        /// Who it is.
        user: Option<Utf8String>,
        /// Of `[access.groups]`, besides those that list it; others mean nothing.
        groups: Groups,
    },
    /// No: 0x86 in authentication, 0x87 elsewhere, or what the client's version has for it.
    Deny,
    /// Somebody else may decide.
    Abstain,
    /// It could not be found out: 0x88 in authentication, elsewhere a refusal like any other.
    Unavailable,
    /// [`Later::answer`] was called, and what it gave will answer. The client waits, and what it sends meanwhile; after
    /// the time limit it is refused.
    Later,
}

/// What a hook thinks of a question that cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// No objection.
    Allow,
    /// No.
    Deny,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It goes on as it is.
    Keep,
    /// It goes nowhere; its client is told that it was taken.
    Drop,
    /// It goes on otherwise.
    Replace {
        /// To here; `None`: where it was going.
        topic: Option<TopicName>,
        /// With this; `None`: what it said.
        payload: Option<Bytes>,
    },
}

/// How a client went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// By DISCONNECT.
    Goodbye(ReasonCode),
    /// Without a word.
    Lost,
    /// It was sent away: by a rule, a kick or another connection of its name.
    SentAway,
}

impl Interests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// [`Hook::arrival`].
    pub const ARRIVAL: Self = Self(1);
    /// [`Hook::authenticate`].
    pub const AUTHENTICATE: Self = Self(1 << 1);
    /// [`Hook::message`].
    pub const MESSAGE: Self = Self(1 << 2);
    /// [`Hook::publish`].
    pub const PUBLISH: Self = Self(1 << 3);
    /// [`Hook::filter`].
    pub const FILTER: Self = Self(1 << 4);
    /// [`Hook::subscribe`].
    pub const SUBSCRIBE: Self = Self(1 << 5);
    /// [`Hook::delivery`]; every delivery costs more then, and a message to many is not sent in one go any more.
    pub const DELIVERY: Self = Self(1 << 6);
    /// [`Hook::connected`].
    pub const CONNECTED: Self = Self(1 << 7);
    /// [`Hook::subscribed`].
    pub const SUBSCRIBED: Self = Self(1 << 8);
    /// [`Hook::disconnected`].
    pub const DISCONNECTED: Self = Self(1 << 9);
    /// [`Hook::tick`].
    pub const TICK: Self = Self(1 << 10);

    /// These and `others`.
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether any of `others` is among them.
    pub const fn hold(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for Interests {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.with(others)
    }
}

impl std::fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("origin", &self.origin)
            .field("client", &self.client)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
