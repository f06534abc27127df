//! The client side of MQTT, without I/O and without a clock.
//!
//! **One thing in, then drain:** call one of `handle_*`, [`Session::publish`], [`Session::subscribe`],
//! [`Session::unsubscribe`] or [`Session::disconnect`]; then [`Session::poll_packet`] and [`Session::poll_event`]
//! until `None`; then wait until [`Session::poll_timeout`]. After [`Event::Disconnected`] the byte stream is to be
//! closed, once what [`Session::poll_packet`] still gives is out.
//!
//! A session outlives its connections: [`Session::handle_opened`] on a new byte stream takes up what the last one
//! left unfinished (section 4.4).
//!
//! What holds at any time:
//! 1. No message of QoS 1 or 2 is acknowledged before [`Session::poll_event`] has given it away: whoever takes it
//!    has it, or it will be sent again.
//! 2. A message of QoS 2 is given away once, however often it is sent, as long as this value and the server's
//!    session live.
//! 3. Every [`Token`] given out for a message comes back in exactly one [`Event::Published`] or
//!    [`Event::Forgotten`], as long as the session goes on connecting.
//! 4. Everything that a server can make grow is bounded by [`Options`].
//!
//! This file is one connection after the other; `sending` is the way of our messages, `receiving` that of theirs,
//! `requests` what is asked for and answered, `grants` what the server allows.

mod disconnection;
mod event;
mod grants;
mod receiving;
mod requests;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::grants::Grants;
use self::requests::{REQUESTS_MAX, Request};
use self::sending::{Unfinished, WINDOW_MAX};
use super::options::{Options, OptionsError};
use crate::mqtt::{
    ClientId, ConnAck, DecodeError, Disconnect, Packet, PacketId, ProtocolVersion, QoS, ReasonCode,
};

pub use self::disconnection::Disconnection;
pub use self::event::{Connected, Event, Published};
pub use self::requests::RequestError;
pub use crate::broker::Message;

/// One client's session with a server. See the module's text for how it is driven.
#[derive(Debug)]
pub struct Session {
    options: Options,
    /// As asked for, or as the server assigned it.
    client_id: Option<ClientId>,
    phase: Phase,
    /// Whether a server has ever accepted this session.
    known: bool,
    /// What the server allows on this connection.
    grants: Grants,
    /// Connections so far; an acknowledgement belongs to the one its message came by.
    connection: u64,
    /// Messages sent and not finished, on this connection or an earlier one.
    unfinished: BTreeMap<PacketId, Unfinished>,
    /// How many of them count against the server's Receive Maximum on this connection (section 4.9).
    window_used: usize,
    /// Those to be sent again, oldest first.
    resend: VecDeque<PacketId>,
    /// Messages not sent yet.
    waiting: VecDeque<(Token, Message)>,
    /// SUBSCRIBE and UNSUBSCRIBE packets without an answer.
    requests: BTreeMap<PacketId, Request>,
    /// QoS 2 messages received and not released: "method A" of section 4.3.3.
    received: BTreeSet<PacketId>,
    /// QoS 1 messages in `events` whose PUBACK is due on this connection.
    puback_due: usize,
    /// Control packets to send; messages come after them, straight from `resend` and `waiting`, so that a full window
    /// holds back none of these [MQTT-3.3.4-8].
    outgoing: VecDeque<Packet>,
    events: VecDeque<Queued>,
    /// QoS 0 messages in `events`.
    untaken: usize,
    dropped: u64,
    timers: Timers,
    last_packet_id: PacketId,
    last_token: u64,
    /// Counts messages and releases, so that they are sent again in their order [MQTT-4.6.0-1].
    last_order: u64,
}

/// Names one call of [`Session::publish`], [`Session::subscribe`] or [`Session::unsubscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No byte stream, or one that is to be closed.
    Offline,
    /// CONNECT is out, with this Clean Start.
    Connecting { clean_start: bool },
    /// CONNACK came.
    Online,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    /// What taking the event lets go, on the connection with this number.
    acknowledgement: Option<(u64, Packet)>,
}

#[derive(Debug, Default)]
struct Timers {
    /// When CONNACK or PINGRESP is overdue.
    answer: Option<Instant>,
    /// When to send PINGREQ.
    ping: Option<Instant>,
    ping_interval: Option<Duration>,
}

const _: () = assert!(REQUESTS_MAX + (WINDOW_MAX as usize) < u16::MAX as usize);

impl Session {
    /// A session that has never been connected.
    ///
    /// # Errors
    /// [`OptionsError`] where the options contradict each other or the standard.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self {
            client_id: options.client_id.clone(),
            options,
            phase: Phase::Offline,
            known: false,
            grants: Grants::default(),
            connection: 0,
            unfinished: BTreeMap::new(),
            window_used: 0,
            resend: VecDeque::new(),
            waiting: VecDeque::new(),
            requests: BTreeMap::new(),
            received: BTreeSet::new(),
            puback_due: 0,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            untaken: 0,
            dropped: 0,
            timers: Timers::default(),
            last_packet_id: PacketId::MIN,
            last_token: 0,
            last_order: 0,
        })
    }

    /// What the session was made from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the server has let us in and nothing has ended since.
    pub fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// Messages of ours that wait or are unfinished.
    pub fn unfinished(&self) -> usize {
        self.waiting.len() + self.unfinished.len()
    }

    /// QoS 0 messages dropped because [`Options::events_max`] of them had not been taken.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Ends the connection; acknowledgements due go first, messages that wait stay for the next connection.
    ///
    /// [`ReasonCode::DisconnectWithWillMessage`] has a 5.0 server publish the will all the same.
    pub fn disconnect(&mut self, reason: ReasonCode) {
        let online = self.is_online();
        let acknowledgements = std::mem::take(&mut self.outgoing);
        self.end(Disconnection::Requested);
        if online {
            self.outgoing = acknowledgements;
            self.say_disconnect(reason);
        }
    }

    /// A byte stream to the server is open: CONNECT goes out.
    pub fn handle_opened(&mut self, now: Instant) {
        self.end_quietly();
        self.connection += 1;
        // Before 5.0 the flag also says whether the session ends with the connection, so it never changes.
        let resumes = self.known && self.options.version == ProtocolVersion::V5;
        let clean_start = self.options.clean_start && !resumes;
        self.phase = Phase::Connecting { clean_start };
        self.timers.answer = Some(now + self.options.answer_timeout);
        let connect = self.options.connect(self.client_id.clone(), clean_start);
        self.outgoing.push_back(Packet::Connect(Box::new(connect)));
    }

    /// The byte stream ended.
    pub fn handle_closed(&mut self) {
        self.end(Disconnection::Closed);
    }

    /// The bytes that came are no MQTT.
    pub fn handle_malformed(&mut self, error: DecodeError) {
        if self.phase != Phase::Offline {
            self.end(Disconnection::Malformed(error));
            self.say_disconnect(error.reason());
        }
    }

    /// A packet came from the server.
    pub fn handle_packet(&mut self, now: Instant, packet: Packet) {
        match (self.phase, packet) {
            (Phase::Offline, _) => {} // what was under way when we hung up
            (Phase::Connecting { clean_start }, Packet::ConnAck(ack)) => {
                self.handle_connack(now, clean_start, *ack)
            }
            (Phase::Connecting { .. }, _) => {
                self.fail(ReasonCode::ProtocolError, "a packet before CONNACK") // [MQTT-3.2.0-1]
            }
            (Phase::Online, packet) => {
                // Whatever comes shows that the server lives; PINGRESP may stand behind a long queue.
                self.timers.answer = None;
                self.handle_online(packet);
            }
        }
    }

    /// [`Session::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timers.answer.is_some_and(|due| due <= now) {
            let connecting = matches!(self.phase, Phase::Connecting { .. });
            self.end(if connecting {
                Disconnection::ConnectTimeout
            } else {
                Disconnection::KeepAliveTimeout
            });
            return;
        }
        if let (Some(due), Some(interval)) = (self.timers.ping, self.timers.ping_interval)
            && due <= now
        {
            self.outgoing.push_back(Packet::PingReq); // [MQTT-3.1.2-20]
            self.timers.ping = Some(now + interval);
            self.timers
                .answer
                .get_or_insert(now + self.options.answer_timeout);
        }
    }

    /// When to call [`Session::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.answer, self.timers.ping].into_iter().flatten().min()
    }

    /// The next packet to send.
    ///
    /// Not calling it holds back the messages that wait: that is how a slow link slows its publisher.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.outgoing.pop_front().or_else(|| self.poll_publish())
    }

    /// The next thing that has happened. A message is acknowledged by being taken here [MQTT-4.5.0-2].
    pub fn poll_event(&mut self) -> Option<Event> {
        let queued = self.events.pop_front()?;
        Some(self.take(queued))
    }

    /// Takes out of its turn what has become of `token`, if anything has.
    ///
    /// For whoever waits for one answer and leaves all else where it is.
    pub fn take_outcome(&mut self, token: Token) -> Option<Event> {
        let at = self
            .events
            .iter()
            .position(|queued| queued.event.token() == Some(token))?;
        let queued = self.events.remove(at)?;
        Some(self.take(queued))
    }

    /// Takes out of its turn the answer to CONNECT, or the end of the connection, if either has come.
    pub fn take_connected(&mut self) -> Option<Event> {
        let wanted = |queued: &Queued| matches!(queued.event, Event::Connected(_) | Event::Disconnected(_));
        let at = self.events.iter().position(wanted)?;
        let queued = self.events.remove(at)?;
        Some(self.take(queued))
    }

    /// Whether the end of the connection waits to be taken.
    pub fn has_ended(&self) -> bool {
        self.events
            .iter()
            .any(|queued| matches!(queued.event, Event::Disconnected(_)))
    }

    fn take(&mut self, queued: Queued) -> Event {
        if let Event::Message(Message {
            qos: QoS::AtMostOnce, ..
        }) = queued.event
        {
            self.untaken -= 1;
        }
        if let Some((connection, packet)) = queued.acknowledgement
            && connection == self.connection
            && self.is_online()
        {
            if matches!(packet, Packet::PubAck(_)) {
                self.puback_due -= 1;
            }
            self.outgoing.push_back(packet);
        }
        queued.event
    }

    fn handle_connack(&mut self, now: Instant, clean_start: bool, ack: ConnAck) {
        if ack.reason.is_error() {
            self.end(Disconnection::Refused(ack.reason, ack.properties.reason_string));
            return;
        }
        // A session present where we asked for none is the server's mistake [MQTT-3.2.2-2]. One where we know of none
        // is not refused, against [MQTT-3.2.2-4]: a program started again has forgotten what was under way, and
        // still wants the subscriptions it left behind.
        if ack.session_present && clean_start {
            return self.fail(
                ReasonCode::ProtocolError,
                "a session present where a clean start was asked for",
            );
        }
        self.phase = Phase::Online;
        self.known = true;
        if let Some(assigned) = &ack.properties.assigned_client_id {
            self.client_id = Some(assigned.detached()); // section 3.2.2.3.7
        }
        self.grants = Grants::from(&ack.properties);
        let keep_alive_secs = ack
            .properties
            .server_keep_alive_secs
            .unwrap_or(self.options.keep_alive_secs); // [MQTT-3.2.2-21]
        // Every three quarters of the keep-alive, whatever else is said: the answer is also how a dead connection is
        // noticed by one who only listens, or who only sends QoS 0.
        let interval = Duration::from_secs(u64::from(keep_alive_secs)) * 3 / 4;
        self.timers.answer = None;
        self.timers.ping_interval = (!interval.is_zero()).then_some(interval);
        self.timers.ping = self.timers.ping_interval.map(|interval| now + interval);

        // 3.1 has no flag for it.
        let resumed = ack.session_present || (self.options.version == ProtocolVersion::V31 && !clean_start);
        self.tell(Event::Connected(Box::new(Connected {
            session_present: ack.session_present,
            client_id: self.client_id.clone(),
            properties: ack.properties,
        })));
        if resumed { self.resume() } else { self.forget() }
    }

    fn handle_online(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => self.handle_puback(ack),
            Packet::PubRec(ack) => self.handle_pubrec(ack),
            Packet::PubRel(ack) => self.handle_pubrel(ack),
            Packet::PubComp(ack) => self.handle_pubcomp(ack),
            Packet::SubAck(ack) => self.handle_suback(*ack),
            Packet::UnsubAck(ack) => self.handle_unsuback(*ack),
            Packet::PingResp => {}
            Packet::Disconnect(packet) => {
                self.end(Disconnection::Ended(
                    packet.reason,
                    packet.properties.reason_string,
                ));
            }
            Packet::ConnAck(_) => self.fail(ReasonCode::ProtocolError, "a second CONNACK"), // [MQTT-3.2.0-2]
            Packet::Auth(_) => {
                // We name no method [MQTT-4.12.0-3] [MQTT-4.12.0-6].
                self.fail(ReasonCode::ProtocolError, "AUTH without an authentication method")
            }
            Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq => {
                self.fail(ReasonCode::ProtocolError, "a packet that only clients send")
            }
        }
    }

    fn fail(&mut self, reason: ReasonCode, found: &'static str) {
        self.end(Disconnection::Violation { reason, found });
        self.say_disconnect(reason);
    }

    /// Before 5.0 a DISCONNECT means that all is well, and hanging up says the opposite.
    fn say_disconnect(&mut self, reason: ReasonCode) {
        if self.options.version == ProtocolVersion::V5 || !reason.is_error() {
            let packet = Disconnect {
                reason,
                ..Disconnect::default()
            };
            self.outgoing.push_back(Packet::Disconnect(Box::new(packet)));
        }
    }

    /// The only end of a connection, told once.
    fn end(&mut self, why: Disconnection) {
        if self.phase != Phase::Offline {
            self.end_quietly();
            self.tell(Event::Disconnected(why));
        }
    }

    fn end_quietly(&mut self) {
        self.phase = Phase::Offline;
        self.outgoing.clear();
        self.requests.clear();
        self.resend.clear();
        self.puback_due = 0;
        self.window_used = 0;
        self.timers = Timers::default();
        for sent in self.unfinished.values_mut() {
            sent.in_window = false;
        }
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(Queued {
            event,
            acknowledgement: None,
        });
    }

    /// An identifier not in use [MQTT-2.2.1-3]; there always is one, see [`WINDOW_MAX`].
    fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.next();
            let id = self.last_packet_id;
            if !self.unfinished.contains_key(&id) && !self.requests.contains_key(&id) {
                return id;
            }
        }
    }

    fn next_token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }
}

#[cfg(test)]
mod tests;
