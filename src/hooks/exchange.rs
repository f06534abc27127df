//! Enhanced authentication (section 4.12), as a hook takes part in it: a client names a method in CONNECT, and client
//! and hook send each other data in AUTH packets until the hook knows enough.
//!
//! ```text
//!   client                        broker                   hook that speaks the method
//!   CONNECT, method, data ───────▶ ──── Moment::Begin ────▶
//!                   ◀─── AUTH 0x18 ◀── Judgement::Continue
//!   AUTH 0x18, data ─────────────▶ ──── Moment::Next ─────▶
//!                   ◀─── CONNACK 0 ◀── Judgement::Allow       and then exchange_ended(Allowed)
//!            the client is in, its messages come and go
//!   AUTH 0x19, data ─────────────▶ ──── Moment::Again ────▶   another exchange, with a number of its own
//! ```
//!
//! **What a hook keeps of an exchange it keeps under its [`ExchangeId`]**, and lets go of when
//! [`Hook::exchange_ended`](super::Hook::exchange_ended) says so: that is called once for each exchange, however it
//! ends. At most one exchange is open on a connection, so connections bound what is kept. A client has
//! [`Limits::connect_timeout`](crate::broker::Limits) for all its parts of one exchange together, and the hook has its
//! own time limit for each answer.
//!
//! The broker sees to the rules: the method stays that of CONNECT, everybody speaks in turn, until CONNACK a client
//! sends nothing else, and who it is does not change while it is connected. Bans, the client identifier and the will
//! are looked at after the hook has allowed, and only then sessions are touched.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::{Client, Login};
use crate::auth::groups::Groups;
use crate::mqtt::{ReasonCode, Utf8String};

/// One exchange, by a number that never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(u64);

/// A client's part of an exchange, to be judged.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Of which exchange.
    pub exchange: ExchangeId,
    /// Its Authentication Method, one of [`Hook::authentication_methods`](super::Hook::authentication_methods).
    pub method: &'a Utf8String,
    /// Authentication Data, as the method has it; `None` where the packet has none. Never to be logged.
    pub data: Option<&'a [u8]>,
    /// How far the exchange is.
    pub moment: Moment<'a>,
}

/// How far an exchange is.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// CONNECT came, and says this of the client; its user name proves nothing.
    Begin(&'a Login<'a>),
    /// The client, which is in by the same method, begins to prove itself again (section 4.12.1).
    Again(&'a Client<'a>),
    /// The client answers the last [`Judgement::Continue`].
    Next,
}

/// What a hook makes of a client's part of an exchange.
#[derive(Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The exchange goes on: the client gets this in an AUTH, and has to answer with another.
    Continue {
        /// Authentication Data, at most 65,535 bytes.
        data: Option<Bytes>,
    },
    /// The client has proved who it is.
    Allow(Box<Proved>),
    /// It has not.
    Deny(DenialReason),
    /// It could not be found out: 0x88, and on a living connection 0x89.
    Unavailable,
    /// [`Later::answer`](super::Later::answer) was called, and what it gave will answer; after the time limit that is
    /// [`Judgement::Unavailable`].
    Later,
}

/// What a client has proved.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proved {
    /// The user it is. `None`: whom its verified certificate names, or nobody in particular; what CONNECT says is not
    /// believed. A client that proves itself again is to be who it was, which `None` says as well.
    pub user: Option<Utf8String>,
    /// Of `[access.groups]`, those whose rules bind it as well, besides those that list it; others mean nothing. They
    /// take the place of what was said before.
    pub groups: Groups,
    /// When that holds no more, and the connection ends with 0xA0 unless the client has proved itself again before;
    /// `None`: never. Takes the place of what was said before.
    pub expires_at: Option<Instant>,
    /// Authentication Data of CONNACK or of the last AUTH, by which the server may prove itself; at most 65,535 bytes.
    pub data: Option<Bytes>,
}

/// The reason a client is refused with: one that CONNACK has for it (section 3.2.2.2). A client that is in and cannot
/// prove itself again is told in DISCONNECT, which says "not authorized" for "bad user name or password" and "banned".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenialReason(ReasonCode);

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The hook allowed. Who is let in by it is told by [`Hook::connected`](super::Hook::connected): a ban or a client
    /// identifier that is somebody else's may still be in the way.
    Allowed,
    /// The hook did not allow, or the client broke a rule.
    Refused,
    /// The client, or the hook's answer, did not come in time.
    TimedOut,
    /// The connection ended otherwise.
    Gone,
}

impl ExchangeId {
    /// The `number`th exchange, for whoever asks a hook.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl Judgement {
    /// What the client is to be sent, where there is anything.
    pub(crate) fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Continue { data } => data.as_ref(),
            Self::Allow(proved) => proved.data.as_ref(),
            Self::Deny(_) | Self::Unavailable | Self::Later => None,
        }
    }
}

impl DenialReason {
    /// The client has not proved who it is, 0x87.
    pub const NOT_AUTHORIZED: Self = Self(ReasonCode::NotAuthorized);
    /// There is no such user, or the proof is not its own, 0x86.
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(ReasonCode::BadUserNameOrPassword);

    /// Takes a reason; `None` for one that CONNACK does not have, or that only the broker's own rules give.
    pub const fn new(reason: ReasonCode) -> Option<Self> {
        match reason {
            ReasonCode::UnspecifiedError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::Banned
            | ReasonCode::BadAuthenticationMethod
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded => Some(Self(reason)),
            _ => None,
        }
    }

    /// As the packet says it.
    pub const fn code(self) -> ReasonCode {
        self.0
    }
}

impl Default for DenialReason {
    fn default() -> Self {
        Self::NOT_AUTHORIZED
    }
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("exchange", &self.exchange)
            .field("method", &self.method)
            .field("moment", &self.moment)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue { .. } => f.write_str("Continue"),
            Self::Allow(proved) => write!(f, "Allow({proved:?})"),
            Self::Deny(reason) => write!(f, "Deny({})", reason.0),
            Self::Unavailable => f.write_str("Unavailable"),
            Self::Later => f.write_str("Later"),
        }
    }
}

impl fmt::Debug for Proved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proved")
            .field("user", &self.user)
            .field("groups", &self.groups)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
