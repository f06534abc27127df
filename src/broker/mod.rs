//! The core: every MQTT rule, one owner, `&mut self`; no I/O, no clock, no lock, no task.
//!
//! **One input, then drain:** [`Broker::handle`], then [`Broker::poll_output`] until `None`, then wait until
//! [`Broker::poll_timeout`] or the next input.

mod limits;
mod link;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::auth::Identity;
use crate::auth::access::Rights;
use crate::mqtt::{ClientId, DecodeError, Packet, PublishProperties, QoS, ReasonCode, TopicName, Utf8String};

pub use limits::{Limits, Overflow, QueueClass};
pub use link::LinkId;

/// The moment an input arrived; the core never asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For every interval and deadline.
    pub mono: Instant,
    /// For what must outlast a restart, and nothing else.
    pub wall: SystemTime,
}

/// What a listener grants to those who come through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPolicy {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Whether a client may come without user name and password.
    pub anonymous: bool,
}

/// What happened in the world.
#[derive(Debug)]
pub enum Input {
    /// A byte stream was accepted (and its TLS handshake finished); CONNECT must follow within
    /// [`Limits::connect_timeout`].
    Connected {
        /// Chosen by the caller: a key that never comes back.
        link: LinkId,
        /// Through which door.
        listener: Rc<ListenerPolicy>,
        /// From where; `None` where the transport has no address.
        peer: Option<IpAddr>,
        /// The user the verified client certificate names, where the listener takes it from there.
        certificate_user: Option<Utf8String>,
    },
    /// A packet arrived whole.
    Received {
        /// On this link.
        link: LinkId,
        /// The packet; may share the bytes of a read buffer, so what is kept is detached.
        packet: Packet,
    },
    /// The link's bytes are no MQTT; the broker says so where the version lets it, and closes.
    Malformed {
        /// On this link.
        link: LinkId,
        /// The broken rule.
        error: DecodeError,
    },
    /// Everything sent on the link so far is out; more may be sent.
    Flushed {
        /// This link.
        link: LinkId,
    },
    /// The byte stream ended, whichever way; the link is gone.
    Closed {
        /// This link.
        link: LinkId,
    },
    /// The answer to [`Output::Verify`]; void if the link is gone meanwhile.
    Verified {
        /// The link that asked.
        link: LinkId,
        /// Whether the password was right.
        verdict: Verdict,
    },
    /// A message of the gateway's own: a reading, a status.
    Publish(Message),
    /// A deadline is due.
    Tick,
    /// The gateway stops: 5.0 clients are told 0x8B, everybody is closed.
    Shutdown,
}

/// What the broker wants done. The order is binding for one link.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this packet.
    Send {
        /// On this link.
        link: LinkId,
        /// As it is.
        packet: Packet,
    },
    /// Send what is still owed, then close; the link is gone, no input need confirm it.
    Close {
        /// This link.
        link: LinkId,
    },
    /// Check a password and answer with [`Input::Verified`].
    Verify {
        /// For this link, which waits.
        link: LinkId,
        /// As CONNECT said it.
        user: Utf8String,
        /// As CONNECT said it.
        password: Bytes,
    },
    /// Something an operator may want to read.
    Event(Event),
}

/// The outcome of a password check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// User and password belong together.
    Allow,
    /// They do not.
    Deny,
    /// It could not be found out (too many checks waiting, no password file): CONNACK 0x88.
    Unavailable,
}

/// An Application Message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// At which quality it was published.
    pub qos: QoS,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// `None` when there are none.
    pub properties: Option<Box<PublishProperties>>,
}

/// What the log tells of the broker's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client is in.
    ClientConnected { link: LinkId, client: ClientId, identity: Identity, session_present: bool },
    /// A connected client is out.
    ClientDisconnected { link: LinkId, client: ClientId, reason: DetachReason },
    /// A connection ended before a client came in.
    ConnectionRefused { link: LinkId, reason: DetachReason },
    /// A limit bit; told once per episode, counted always.
    LimitReached { limit: &'static str, client: Option<ClientId> },
}

/// Why a link ended; there is one way out, and this names who opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetachReason {
    /// DISCONNECT came.
    ClientDisconnect(ReasonCode),
    /// The byte stream ended without one.
    ConnectionLost,
    /// Nothing came for one and a half keep-alives [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// No CONNECT within the time limit.
    ConnectTimeout,
    /// Another connection came with the same client identifier [MQTT-3.1.4-3].
    TakenOver,
    /// The peer broke a rule of the wire.
    Malformed(DecodeError),
    /// The peer was refused, or broke a rule of the protocol.
    Refused(ReasonCode),
    /// The gateway stops.
    Shutdown,
}

/// The broker. See the module's text for how it is driven.
pub struct Broker {}

impl Broker {
    /// An empty broker within `limits`; `seed` feeds every choice that must not be guessable.
    pub fn new(limits: Limits, rights: Rights, seed: u64) -> Self {
        let _ = (limits, rights, seed);
        todo!()
    }

    /// Takes one input; what follows from it waits in [`Broker::poll_output`].
    pub fn handle(&mut self, now: Now, input: Input) {
        let _ = (now, input);
        todo!()
    }

    /// The next thing to do, `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// When the next [`Input::Tick`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
}
