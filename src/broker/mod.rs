//! The core: every MQTT rule, one owner, `&mut self`; no I/O, no clock, no lock, no task.
//!
//! **One input, then drain:** [`Broker::handle`], then [`Broker::poll_output`] until `None`, then wait until
//! [`Broker::poll_timeout`] or the next input.
//!
//! # Layout, in the order a message passes
//! - `link`: one connection, and the one way out of it. `connect`: the way in. `authenticate`: the longer way in.
//!   `timers`: deadlines.
//! - `session`: what outlives a connection; `will`, `inflight`, `offline` are its parts.
//! - `publish`: what clients send. `subscriptions`: whom it reaches. `retained`: what topics keep. `kept`:
//!   messages that outlive their call.
//! - `deliver`: into sessions and out of them. `fan_out`: to many at once. `tailor`, `aliases`: the last touch
//!   for clients unlike the others. `subscribe`: new readers, and the retained messages they are owed.
//! - `settings`: what an operator decides. `policy`: what a door grants. `limits`: every bound.
//!   `reconfigure`: when these change. `budget`: what it
//!   costs in memory, and who gives way. `owners`: who takes up what all share. `room`: who gives way in full queues.
//!   `queue_rules`: whose queue is how long, and what gives way in it. `scarcity`: whether a message is to be refused
//!   for want of room. `crowd`: publishers that wait for it, and readers that have to go. `losses`: what a client did
//!   not get. `pace`: who publishes too fast.
//! - `kick`: who is sent away. `bans`: who is kept out. `pattern`: whose identifier looks like this.
//! - `durable`: what outlives the process, and what waits until it is stored.
//! - `hooked`: where an embedder's hooks are asked, and what waits for their answers.
//! - `refusal`: every rule a peer may break. `stats`: every count. `views`: what an operator may see.
//!   `invariants`: the walk over all of it.

mod aliases;
mod authenticate;
mod bans;
mod budget;
mod connect;
mod crowd;
mod decided;
mod deliver;
mod durable;
mod fan_out;
mod hooked;
mod inflight;
mod invariants;
mod kept;
mod kick;
mod limits;
mod link;
mod losses;
mod offline;
mod owners;
mod pace;
mod pattern;
mod policy;
mod publish;
mod queue_rules;
mod reconfigure;
mod refusal;
mod retained;
mod room;
mod scarcity;
mod session;
mod settings;
mod stats;
mod subscribe;
mod subscriptions;
mod tailor;
mod timers;
mod views;
mod vouch;
mod will;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use slotmap::SecondaryMap;

use crate::auth::Identity;
use crate::auth::access::{Action, Rights, Who};
use crate::hooks::{Answered, Interests};
use crate::mqtt::{
    ClientId, DecodeError, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName,
    Utf8String,
};

use bans::Bans;
use budget::Budget;
use connect::AssignedIds;
use crowd::Crowd;
use decided::Decided;
use deliver::Passing;
use durable::Durable;
use fan_out::Gathered;
use hooked::Hooked;
use kick::Kicks;
use limits::Episodes;
use link::{Link, Stage};
use owners::Owners;
use queue_rules::QueueRules;
use retained::{Author, Retained};
use session::{SessionKey, Sessions};
use subscriptions::Subscriptions;
use timers::{Timer, Timers};

pub use bans::{Ban, BanSubject, KeptOut};
pub use change::Change;
pub use durable::change;
pub use durable::restored::Restored;
pub use durable::spill::{RECALLED_BYTES, Recall, Recalled};
pub use durable::{StoreHealth, StoreView};
pub use hooked::Installation;
pub use kick::{
    Found, Kick, KickId, KickOptions, KickOutcome, KickReason, KickedSession, KickedWill, Target,
};
pub use limits::{KickQueueClass, Limits, Overflow, QueueClass};
pub use link::LinkId;
pub use losses::Lost;
pub use pace::Published;
pub use pattern::{Pattern, PatternError};
pub use policy::{ClientIds, ListenerPolicy, MountPoint, MountPointError, Versions};
pub use queue_rules::{QUEUE_RULES_MAX, QueueRule};
pub use reconfigure::Reconfiguration;
pub use refusal::Refusal;
pub use settings::Settings;
pub use stats::Stats;
pub use views::{
    ConnectionView, Page, Portion, ReceiverView, RetainedView, SessionFilter, SessionView, SubscriptionView,
};
pub use vouch::Voucher;

/// The moment an input arrived; the core never asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For every interval and deadline.
    pub mono: Instant,
    /// For what must outlast a restart, and nothing else.
    pub wall: SystemTime,
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
        /// The identifier that certificate gives, where the listener takes it from there: the client's whatever user
        /// it is, and no other. Boxed, because few have one.
        certificate_client: Option<Box<ClientId>>,
    },
    /// The certificate its client came in with is revoked, or its authority is not trusted any more.
    Untrusted {
        /// Which.
        link: LinkId,
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
        /// The version to answer in, as the decoder knows it: it may have read it from the very CONNECT that
        /// is wrong.
        version: Option<ProtocolVersion>,
        /// The broken rule.
        error: DecodeError,
    },
    /// Everything sent on the link so far is out; more may be sent.
    ///
    /// Owed for every link sooner or later after a [`Output::Send`]: a client that has
    /// [`Limits::unsent_bytes_max`] on its way, or a slice of retained messages, is sent no more before it.
    Flushed {
        /// This link.
        link: LinkId,
    },
    /// What the transport holds for a link has changed.
    ///
    /// Owed where that is not little; the broker keeps account of it and ends the link where memory is short.
    Holding {
        /// This link.
        link: LinkId,
        /// The part of a packet that has arrived, and the state of encryption; what is on its way out is not in it.
        bytes: usize,
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
    /// The answer to [`Output::Verify`] where the password was a token that says who comes, and until when; void if the
    /// link is gone meanwhile.
    Vouched {
        /// The link that asked.
        link: LinkId,
        /// What the token says; boxed, as it is larger than most inputs.
        voucher: Box<Voucher>,
    },
    /// A hook answers what it was asked before; void where nobody waits for it any more.
    Answered(Answered),
    /// Somebody is to be sent away; answered by [`Output::Kicked`].
    ///
    /// As much of it as one slice may do is done at once, the rest at the next [`Input::Tick`]; see
    /// [`Broker::kicks_taken_at`].
    Kick(Box<Kick>),
    /// Somebody is not kept out any more; nobody of that name is no mistake.
    Unban {
        /// Who was.
        subject: BanSubject,
    },
    /// A message of the gateway's own: a reading, a status.
    Publish(Message),
    /// What was given as [`Output::Store`] is stored, as far as to this number: the first that was ever given is 1.
    Stored {
        /// The last that is.
        upto: u64,
    },
    /// What is given can be stored, or cannot any more.
    Store(StoreHealth),
    /// The answer to [`Output::Recall`]; void where nobody waits for it any more. Owed for each, whatever the medium
    /// gives.
    Recalled(Box<Recalled>),
    /// Everything that is stored is to be given again, in slices that go on with each [`Input::Stored`].
    Checkpoint,
    /// Other rules hold from now on, for what waits, is in flight or is retained as well.
    RightsChanged(Rights),
    /// The operator has other rules.
    Reconfigured(Box<Reconfiguration>),
    /// A deadline is due. What arrived before it did is to be handed over first, or who spoke is taken for silent.
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
    /// Send one PUBLISH on many links: what a fan-out comes to, said once so that it is encoded once.
    SendToEach {
        /// On these, which all speak 5.0 or all do not, so that the bytes are the same for each.
        links: Rc<[LinkId]>,
        /// As it is.
        publish: Publish,
    },
    /// Read nothing more from this link until [`Output::Resume`], and take no packet of it that was read already: its
    /// client publishes faster than it may, or a hook has yet to say what becomes of its last packet.
    Pause {
        /// This link.
        link: LinkId,
    },
    /// Read this link again.
    Resume {
        /// This link.
        link: LinkId,
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
        /// As CONNECT said it; empty where it said none and [`Settings::takes_tokens`].
        user: Utf8String,
        /// As CONNECT said it.
        password: Bytes,
    },
    /// Store this, behind all that was given before, and say so by [`Input::Stored`]; only of a broker
    /// [with a store](Broker::with_store).
    Store(Change),
    /// Read again some of what is stored and answer with [`Input::Recalled`], before anything is let go that
    /// what is given after this may make needless.
    Recall(Recall),
    /// A kick was carried out, to the end.
    Kicked {
        /// Which one.
        id: KickId,
        /// What it came to.
        outcome: KickOutcome,
    },
    /// Something an operator may want to read.
    Event(Event),
}

// Every message passes as one of each, and is moved more than once: a few instructions up to this size.
const _: () = assert!(size_of::<Output>() <= 96 && size_of::<Input>() <= 96);

/// The outcome of a password check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// User and password belong together.
    Allow,
    /// They do not.
    Deny,
    /// The gateway keeps no users to compare with: whoever comes counts as one that gave no name, and is let in where
    /// the listener is anonymous.
    NoUsers,
    /// It could not be found out (too many checks waiting, no password file): CONNACK 0x88.
    Unavailable,
    /// It was not looked at, for who comes from there has failed too often lately: CONNACK 0x9F.
    TooManyFailures,
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
    ClientConnected {
        /// By this connection.
        link: LinkId,
        /// Its client identifier, perhaps one we assigned.
        client: ClientId,
        /// Who it has proved to be.
        identity: Identity,
        /// Whether it resumed a session.
        session_present: bool,
    },
    /// A connected client is out.
    ClientDisconnected {
        /// The connection that ended.
        link: LinkId,
        /// Its client identifier.
        client: ClientId,
        /// Who ended it, and why.
        reason: DetachReason,
    },
    /// A connection ended before a client came in.
    ConnectionRefused {
        /// The connection that ended.
        link: LinkId,
        /// Who ended it, and why.
        reason: DetachReason,
    },
    /// A hook panicked; it was contained.
    HookPanicked {
        /// Its name.
        hook: String,
    },
    /// A client was refused what it wanted to do with a topic.
    Denied(Box<Denied>),
    /// A ban has ended.
    BanLifted {
        /// Who may come in again.
        subject: BanSubject,
        /// Whether its time was over; otherwise it was taken back.
        is_over: bool,
    },
    /// A limit bit; told once per episode, counted always.
    LimitReached {
        /// The field of [`Limits`].
        limit: &'static str,
        /// Whose limit it is; `None` for those of the whole broker.
        client: Option<ClientId>,
    },
}

/// What the rights forbade a client that is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// By which connection.
    pub link: LinkId,
    /// Its client identifier.
    pub client: ClientId,
    /// Who it is.
    pub identity: Identity,
    /// What it wanted to do.
    pub action: Action,
    /// With this topic, or filter.
    pub topic: Utf8String,
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
    /// No CONNECT within the time limit, or no verdict on its password.
    ConnectTimeout,
    /// Another connection came with the same client identifier [MQTT-3.1.4-3].
    TakenOver,
    /// The peer broke a rule of the wire.
    Malformed(DecodeError),
    /// The peer was refused, or broke a rule of the protocol.
    Refused(Refusal),
    /// The client was sent away.
    Kicked(KickReason),
    /// The gateway stops.
    Shutdown,
}

impl std::fmt::Display for DetachReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientDisconnect(reason) => write!(f, "DISCONNECT: {reason}"),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::KeepAliveTimeout => f.write_str("keep alive timeout"),
            Self::ConnectTimeout => f.write_str("no CONNECT in time, or no verdict on its password"),
            Self::TakenOver => f.write_str("session taken over"),
            Self::Malformed(error) => write!(f, "malformed packet: {error}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}, {}", refusal.reason()),
            Self::Kicked(reason) => write!(f, "kicked: {reason}"),
            Self::Shutdown => f.write_str("the gateway stops"),
        }
    }
}

/// The broker. See the module's text for how it is driven.
///
/// 1. All state is here, and changes in [`Broker::handle`] only.
/// 2. The same inputs give the same outputs: nothing depends on a clock, an address or the order of a hash
///    table.
/// 3. A key that is stale, a link's or a session's, finds nothing and does nothing.
/// 4. Every message that is dropped is counted in [`Stats`].
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    /// The loosest there were: what clients were told, and what was let in, stays right.
    loosest: Limits,
    rights: Decided,
    settings: Settings,
    links: SecondaryMap<LinkId, Link>,
    sessions: Sessions,
    owners: Owners,
    budget: Budget,
    queues: QueueRules,
    /// What full queues have left to be done; `None` mostly, and then nothing but this is looked at.
    crowd: Option<Box<Crowd>>,
    /// The session with most in its queue, when that was last looked for.
    fattest: Option<SessionKey>,
    /// Whether the message that was routed last was to be retained and found no room.
    retain_refused: bool,
    subscriptions: Subscriptions,
    retained: Retained,
    timers: Timers,
    outputs: VecDeque<Output>,
    gathered: Gathered,
    /// Changes whenever a client comes or goes, or what it may receive does: what was found out before is void.
    attachments: u64,
    stats: Stats,
    episodes: Episodes,
    assigned_ids: AssignedIds,
    kicks: Kicks,
    bans: Bans,
    /// `None` where there are no hooks, and then nothing but this is looked at.
    hooked: Option<Box<Hooked>>,
    /// Questions that were asked by hooks that are gone.
    hook_questions: u64,
    /// What most sessions share where a listener asks for no proof.
    anonymous: Rc<Identity>,
    /// The writer of what we retain ourselves.
    gateway: Rc<Author>,
    stopping: bool,
    /// `None` where nothing outlives the process.
    durable: Option<Box<Durable>>,
    /// How many clients have left.
    departures: u64,
}

/// Outputs for which room is kept when all are taken; a burst beyond gives its memory back.
const OUTPUTS_KEPT: usize = 256;

impl Broker {
    /// An empty broker within `limits`; `seed` feeds every choice that must not be guessable.
    pub fn new(limits: Limits, rights: Rights, seed: u64) -> Self {
        let budget = Budget::new(&limits);
        Self {
            sessions: Sessions::new(seed),
            owners: Owners::new(seed),
            subscriptions: Subscriptions::new(seed, &budget.account),
            retained: Retained::new(&budget.account),
            budget,
            queues: QueueRules::new(&[], &limits),
            crowd: None,
            fattest: None,
            retain_refused: false,
            loosest: limits.clone(),
            limits,
            rights: Decided::new(rights),
            settings: Settings::default(),
            links: SecondaryMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            gathered: Gathered::default(),
            attachments: 0,
            stats: Stats::default(),
            episodes: Episodes::default(),
            assigned_ids: AssignedIds::new(seed),
            kicks: Kicks::default(),
            bans: Bans::default(),
            hooked: None,
            hook_questions: 0,
            anonymous: Rc::new(Identity::Anonymous),
            gateway: Rc::new(Author::gateway()),
            stopping: false,
            durable: None,
            departures: 0,
        }
    }

    /// The same broker with what an operator decided.
    pub fn with_settings(self, settings: Settings) -> Self {
        let mut broker = Self { settings, ..self };
        broker.go_by_queue_rules();
        broker
    }

    /// The bounds it keeps.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes one input; what follows from it waits in [`Broker::poll_output`].
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.durable.is_some() {
            self.begin_input(now);
        }
        let now = now.mono;
        match input {
            Input::Received { link, packet } => self.handle_packet(now, link, packet),
            Input::Flushed { link } => self.handle_flushed(now, link),
            Input::Publish(message) => self.handle_own_message(now, message),
            Input::Stored { upto } => self.handle_stored(now, upto),
            Input::Store(health) => self.handle_store_health(health),
            Input::Checkpoint => self.begin_checkpoint(),
            Input::Recalled(recalled) => self.handle_recalled(now, *recalled),
            Input::Connected {
                link,
                listener,
                peer,
                certificate_user,
                certificate_client,
            } => {
                let names = (certificate_user, certificate_client);
                self.handle_connected(now, link, listener, peer, names);
            }
            Input::Untrusted { link } => self.refuse(now, link, Refusal::Untrusted),
            Input::Malformed { link, version, error } => self.handle_malformed(now, link, version, error),
            Input::Holding { link, bytes } => self.handle_holding(now, link, bytes),
            Input::Closed { link } => self.detach(now, link, DetachReason::ConnectionLost),
            Input::Verified { link, verdict } => self.handle_verified(now, link, verdict),
            Input::Vouched { link, voucher } => self.handle_vouched(now, link, *voucher),
            Input::Answered(answered) => self.handle_answered(now, answered),
            Input::Kick(kick) => self.handle_kick(now, *kick),
            Input::Unban { subject } => _ = self.unban(&subject),
            Input::RightsChanged(rights) => self.handle_rights(rights),
            Input::Reconfigured(changed) => self.handle_reconfigured(now, *changed),
            Input::Tick => self.handle_tick(now),
            Input::Shutdown => self.handle_shutdown(now),
        }
        if self.hooked.is_some() {
            self.note_panics();
        }
        self.keep_house(now);
        if self.crowd.is_some() {
            self.relieve(now);
        }
        if self.durable.is_some() {
            self.end_input();
        }
    }

    /// The next thing to do, `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            if self.outputs.capacity() > OUTPUTS_KEPT {
                self.outputs.shrink_to(OUTPUTS_KEPT);
            }
            return None; // said before any output is moved
        }
        self.outputs.pop_front()
    }

    /// When the next [`Input::Tick`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether anybody has subscribed to topics that start with `$SYS`; a leading wildcard does not count
    /// [MQTT-4.7.2-1].
    pub fn has_readers_of_statistics(&self) -> bool {
        self.subscriptions.has_level("$SYS")
    }

    /// Subscriptions that are shared (section 4.8.2), among those of [`Stats::subscriptions`].
    pub fn shared_subscriptions(&self) -> usize {
        self.subscriptions.shared_len()
    }

    /// What has been counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    #[inline(always)]
    fn handle_packet(&mut self, now: Instant, link: LinkId, packet: Packet) {
        if self.hooked.is_some() || self.crowd.is_some() {
            return self.handle_packet_in_turn(now, link, packet);
        }
        self.handle_free_packet(now, link, packet);
    }

    /// A packet came, and one before it may wait.
    #[inline(never)]
    fn handle_packet_in_turn(&mut self, now: Instant, link: LinkId, packet: Packet) {
        if self.waits_for_room(link) {
            self.handle_packet_behind(now, link, packet);
        } else if self.hooked.is_some() {
            self.handle_packet_hooked(now, link, packet);
        } else {
            self.handle_free_packet(now, link, packet);
        }
    }

    /// A packet came, and none before it waits.
    #[inline(always)]
    fn handle_free_packet(&mut self, now: Instant, link: LinkId, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(now, link, publish),
            other => self.handle_other_packet(now, link, other),
        }
    }

    /// A packet came that is no PUBLISH.
    #[inline(never)]
    fn handle_other_packet(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let Some(known) = self.links.get_mut(link) else {
            return; // taken over, kicked, closed: whatever it still says is ignored
        };
        self.stats.packets_received += 1;
        match &mut known.stage {
            Stage::Attached(attachment) => attachment.last_received = now,
            Stage::Arrived(_) => return self.handle_early_packet(now, link, packet),
        }
        match packet {
            Packet::PubAck(ack) => self.handle_puback(now, link, &ack),
            Packet::PubRec(ack) => self.handle_pubrec(now, link, &ack),
            Packet::PubRel(ack) => self.handle_pubrel(now, link, &ack),
            Packet::PubComp(ack) => self.handle_pubcomp(now, link, &ack),
            Packet::Subscribe(subscribe) => self.handle_subscribe(now, link, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(now, link, &unsubscribe),
            Packet::PingReq => self.send_control(now, link, Packet::PingResp), // [MQTT-3.12.4-1]
            Packet::Disconnect(disconnect) => self.handle_disconnect(now, link, &disconnect),
            Packet::Auth(auth) => self.handle_auth(now, link, &auth),
            Packet::Connect(_) => self.refuse(now, link, Refusal::SecondConnect), // [MQTT-3.1.0-2]
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.refuse(now, link, Refusal::ServerPacket)
            }
            Packet::Publish(_) => debug_assert!(false, "a PUBLISH has a way of its own"),
        }
    }

    /// A message of the gateway's own; the client rules do not bind it, the rights do.
    fn handle_own_message(&mut self, now: Instant, mut message: Message) {
        if self.has_hooks_for(Interests::MESSAGE)
            && !message.topic.is_reserved()
            && !self.show_own_message(&mut message)
        {
            return;
        }
        let Message {
            topic,
            payload,
            qos,
            retain,
            properties,
        } = message;
        if !self
            .rights
            .authorize(Who::GATEWAY, Action::Publish, topic.as_str())
        {
            self.stats.publishes_denied += 1;
            return;
        }
        let properties = properties.filter(|properties| !properties.is_empty());
        let expires_at = kept::expiry(properties.as_deref(), now);
        self.route(
            now,
            None,
            Passing::new(topic, payload, properties, qos, retain, expires_at),
        );
    }

    /// Forgets what is retained by those who may not write it any more; all else is asked for when it is sent.
    fn handle_rights(&mut self, rights: Rights) {
        self.rights = Decided::new(rights);
        self.attachments += 1; // what was found out under the old rules is void
        self.try_all_again();
        let rights = &self.rights;
        let dropped = self.retained.drop_where(
            |writer, topic| !rights.authorize(writer.who(), Action::Publish, topic),
            &mut self.owners,
        );
        self.stats.publishes_denied += dropped;
        self.count_retained();
    }

    fn handle_tick(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Link(link) => self.handle_link_timer(now, link),
                Timer::Authentication(link) => self.handle_authentication_timer(now, link),
                Timer::LoginExpiry(link) => self.handle_login_expiry(now, link),
                Timer::Will(key) => self.handle_will_timer(now, key),
                Timer::SessionExpiry(key) => self.handle_session_expiry(now, key),
                Timer::Spilled(key) => self.handle_spilled_timer(now, key),
                Timer::Ban(key) => self.handle_ban_timer(key),
                Timer::Kicks => self.handle_kicks_timer(now),
                Timer::Hook(link) => self.handle_hook_timer(now, link),
                Timer::HookTick => self.handle_hook_tick(now),
                Timer::Room(link) => self.handle_room_timer(now, link),
            }
        }
    }

    fn handle_shutdown(&mut self, now: Instant) {
        self.stopping = true;
        let links: Vec<_> = self.links.keys().collect();
        for link in links {
            self.detach(now, link, DetachReason::Shutdown);
        }
    }
}
