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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::options::{Options, OptionsError};
use crate::mqtt::{
    Ack, ClientId, ConnAck, ConnAckProperties, DecodeError, Disconnect, Packet, PacketId, ProtocolVersion,
    Publish, QoS, ReasonCode, SubAck, Subscribe, SubscribeProperties, Subscription, TopicFilter, UnsubAck,
    Unsubscribe, UserProperties, Utf8String, encoded_len,
};

pub use crate::broker::Message;

/// SUBSCRIBE and UNSUBSCRIBE packets that may wait for their answer: far more than a program has reason for, and few
/// enough that a silent server costs nothing.
const REQUESTS_MAX: usize = 64;

/// Unfinished messages of ours at most: with the requests there are then fewer than packet identifiers.
const WINDOW_MAX: u16 = 65_000;

const _: () = assert!(REQUESTS_MAX + (WINDOW_MAX as usize) < u16::MAX as usize);

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

/// What has come of it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server let us in.
    Connected(Box<Connected>),
    /// A message came; taking it acknowledges it.
    Message(Message),
    /// A message of ours is through, or will never be.
    Published(Published),
    /// SUBACK: one reason for each filter, in their order. Lost with the connection.
    Subscribed {
        /// The request.
        token: Token,
        /// What was granted, or why not.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// UNSUBACK: one reason for each filter, in their order. Lost with the connection.
    Unsubscribed {
        /// The request.
        token: Token,
        /// Success throughout, before 5.0.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// The server forgot the session with this QoS 2 message halfway through. Whether it was delivered cannot be
    /// known, and sending it again could deliver it twice; that is for its owner to decide.
    Forgotten {
        /// The message.
        token: Token,
    },
    /// The connection is over; the session is not.
    Disconnected(Disconnection),
}

/// What the server answered to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Whether it kept our subscriptions and unfinished messages.
    pub session_present: bool,
    /// The identifier in force; `None` where the server chose one and did not tell (before 5.0).
    pub client_id: Option<ClientId>,
    /// 5.0 only.
    pub properties: ConnAckProperties,
}

/// The end of a message's way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The message.
    pub token: Token,
    /// Below 0x80 the server has it; for QoS 0, it has been handed to [`Session::poll_packet`].
    pub reason: ReasonCode,
    /// What the server adds in words.
    pub reason_string: Option<Utf8String>,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnection {
    /// We asked for it.
    Requested,
    /// The byte stream ended without a word.
    Closed,
    /// CONNACK said no.
    Refused(ReasonCode, Option<Utf8String>),
    /// DISCONNECT came from the server.
    Ended(ReasonCode, Option<Utf8String>),
    /// No CONNACK within the time limit.
    ConnectTimeout,
    /// No PINGRESP within the time limit.
    KeepAliveTimeout,
    /// The server's bytes are no MQTT.
    Malformed(DecodeError),
    /// The server broke a rule of the protocol.
    Violation {
        /// What we tell it.
        reason: ReasonCode,
        /// What it did.
        found: &'static str,
    },
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The queue is full; it empties as the server acknowledges.
    Full,
    /// There is no connection to ask on.
    Offline,
    /// No topic filter was given [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    Empty,
    /// Together the filters make a packet larger than the server takes [MQTT-3.2.2-15].
    TooLarge,
}

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
struct Unfinished {
    token: Token,
    order: u64,
    stage: Stage,
    /// Whether it was sent on this connection, and so counts against the window.
    in_window: bool,
}

#[derive(Debug)]
enum Stage {
    /// PUBLISH is out; PUBACK or PUBREC is due.
    Published(Message),
    /// PUBREL is out; PUBCOMP is due.
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    token: Token,
    filters: usize,
    kind: RequestKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Subscribe,
    Unsubscribe,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    /// What taking the event lets go, on the connection with this number.
    acknowledgement: Option<(u64, Packet)>,
}

/// What CONNACK allows (section 3.2.2.3).
#[derive(Debug, Clone, Copy)]
struct Grants {
    receive_maximum: u16,
    qos_max: QoS,
    retain: bool,
    packet_bytes_max: u32,
}

#[derive(Debug, Default)]
struct Timers {
    /// When CONNACK or PINGRESP is overdue.
    answer: Option<Instant>,
    /// When to send PINGREQ.
    ping: Option<Instant>,
    ping_interval: Option<Duration>,
}

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

    /// Takes `message` for sending; it may wait for a connection and for the server's window, in its order.
    ///
    /// What the server does not allow comes back as [`Event::Published`] with the reason, without having been sent.
    ///
    /// # Errors
    /// [`RequestError::Full`] when [`Options::waiting_max`] messages wait.
    pub fn publish(&mut self, mut message: Message) -> Result<Token, RequestError> {
        if self.waiting.len() >= self.options.waiting_max {
            return Err(RequestError::Full);
        }
        if let Some(properties) = &mut message.properties {
            // What belonged to the delivery of a message that is passed on; aliases of our own we give none
            // [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9] [MQTT-3.3.4-6].
            properties.topic_alias = None;
            properties.subscription_ids.clear();
        }
        let token = self.next_token();
        self.waiting.push_back((token, message));
        Ok(token)
    }

    /// Asks for `subscriptions`; [`Event::Subscribed`] brings the answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn subscribe(
        &mut self,
        subscriptions: impl IntoIterator<Item = Subscription>,
        properties: SubscribeProperties,
    ) -> Result<Token, RequestError> {
        let subscriptions: SmallVec<[Subscription; 1]> = subscriptions.into_iter().collect();
        let (packet_id, token) = self.next_request(RequestKind::Subscribe, subscriptions.len())?;
        let packet = Subscribe {
            packet_id,
            subscriptions,
            properties,
        };
        self.ask(packet_id, Packet::Subscribe(Box::new(packet)))?;
        Ok(token)
    }

    /// Gives up `filters`; [`Event::Unsubscribed`] brings the answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn unsubscribe(
        &mut self,
        filters: impl IntoIterator<Item = TopicFilter>,
    ) -> Result<Token, RequestError> {
        let filters: SmallVec<[TopicFilter; 1]> = filters.into_iter().collect();
        let (packet_id, token) = self.next_request(RequestKind::Unsubscribe, filters.len())?;
        let packet = Unsubscribe {
            packet_id,
            filters,
            user_properties: UserProperties::new(),
        };
        self.ask(packet_id, Packet::Unsubscribe(Box::new(packet)))?;
        Ok(token)
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

    fn poll_publish(&mut self) -> Option<Packet> {
        if !self.is_online() {
            return None; // [MQTT-3.1.2-30]
        }
        let window = usize::from(
            self.grants
                .receive_maximum
                .min(self.options.inflight_max)
                .min(WINDOW_MAX),
        );
        while let Some(&packet_id) = self.resend.front() {
            if self.window_used >= window {
                return None; // [MQTT-4.9.0-2]
            }
            self.resend.pop_front();
            if let Some(unfinished) = self.unfinished.get_mut(&packet_id)
                && let Stage::Published(message) = &unfinished.stage
            {
                unfinished.in_window = true;
                self.window_used += 1;
                return Some(publish(message.clone(), Some(packet_id), true)); // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
            }
        }
        loop {
            let (token, message) = self.waiting.front()?;
            let token = *token;
            let acknowledged = message.qos != QoS::AtMostOnce;
            if let Some(reason) = self.grants.refuse(message, self.options.version) {
                self.waiting.pop_front();
                self.tell(Event::Published(Published {
                    token,
                    reason,
                    reason_string: None,
                }));
                continue;
            }
            if acknowledged && (self.window_used >= window || self.unfinished.len() >= window) {
                return None; // [MQTT-3.3.4-9]
            }
            let (_, message) = self.waiting.pop_front()?;
            if !acknowledged {
                let published = Published {
                    token,
                    reason: ReasonCode::Success,
                    reason_string: None,
                };
                self.tell(Event::Published(published));
                return Some(publish(message, None, false));
            }
            let packet_id = self.next_packet_id();
            let stage = Stage::Published(message.clone());
            let unfinished = Unfinished {
                token,
                order: self.next_order(),
                stage,
                in_window: true,
            };
            self.unfinished.insert(packet_id, unfinished);
            self.window_used += 1;
            return Some(publish(message, Some(packet_id), false));
        }
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

    /// Sends again what the server has not acknowledged, in its order (section 4.4).
    fn resume(&mut self) {
        let mut again: Vec<(u64, PacketId)> = self
            .unfinished
            .iter()
            .map(|(id, sent)| (sent.order, *id))
            .collect();
        again.sort_unstable();
        for (_, packet_id) in again {
            match self.unfinished.get(&packet_id).map(|sent| &sent.stage) {
                Some(Stage::Released) => self.outgoing.push_back(Packet::PubRel(Ack::success(packet_id))),
                _ => self.resend.push_back(packet_id),
            }
        }
    }

    /// Gives up what only the forgotten session of the server could finish [MQTT-3.2.2-5].
    fn forget(&mut self) {
        self.received.clear();
        // Those that wait to be taken are ours all the same; only nobody expects their acknowledgement any more.
        self.events
            .iter_mut()
            .for_each(|queued| queued.acknowledgement = None);
        let mut lost: Vec<Unfinished> = std::mem::take(&mut self.unfinished).into_values().collect();
        lost.sort_unstable_by_key(|unfinished| std::cmp::Reverse(unfinished.order));
        let mut forgotten = Vec::new();
        for unfinished in lost {
            match unfinished.stage {
                Stage::Published(message) if message.qos == QoS::AtLeastOnce => {
                    self.waiting.push_front((unfinished.token, message));
                }
                _ => forgotten.push(unfinished.token),
            }
        }
        for token in forgotten.into_iter().rev() {
            self.tell(Event::Forgotten { token });
        }
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

    fn handle_publish(&mut self, publish: Publish) {
        let aliased = publish
            .properties
            .as_ref()
            .is_some_and(|properties| properties.topic_alias.is_some());
        let Some(topic) = publish.topic.filter(|_| !aliased) else {
            // We announce a Topic Alias Maximum of 0 [MQTT-3.1.2-26] [MQTT-3.3.2-10].
            return self.fail(
                ReasonCode::TopicAliasInvalid,
                "a topic alias where none is allowed",
            );
        };
        let acknowledgement = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => {
                if self.untaken >= self.options.events_max {
                    self.dropped += 1;
                    return;
                }
                self.untaken += 1;
                None
            }
            (_, None) => {
                return self.fail(
                    ReasonCode::MalformedPacket,
                    "a message without a packet identifier",
                );
            }
            (QoS::AtLeastOnce, Some(packet_id)) => {
                if self.is_receive_window_full() {
                    return self.fail(
                        ReasonCode::ReceiveMaximumExceeded,
                        "more messages than we can take",
                    );
                }
                self.puback_due += 1;
                Some(Packet::PubAck(Ack::success(packet_id)))
            }
            (QoS::ExactlyOnce, Some(packet_id)) => {
                if self.received.contains(&packet_id) {
                    return self.handle_repetition(packet_id);
                }
                if self.is_receive_window_full() {
                    return self.fail(
                        ReasonCode::ReceiveMaximumExceeded,
                        "more messages than we can take",
                    );
                }
                self.received.insert(packet_id);
                Some(Packet::PubRec(Ack::success(packet_id)))
            }
        };
        let message = Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
        };
        let acknowledgement = acknowledgement.map(|packet| (self.connection, packet));
        self.events.push_back(Queued {
            event: Event::Message(message),
            acknowledgement,
        });
    }

    /// A QoS 2 message that was given away, or waits to be, came once more [MQTT-4.3.3-10].
    fn handle_repetition(&mut self, packet_id: PacketId) {
        let pubrec = Packet::PubRec(Ack::success(packet_id));
        let waits = |queued: &&mut Queued| {
            queued
                .acknowledgement
                .as_ref()
                .is_some_and(|(_, due)| *due == pubrec)
        };
        match self.events.iter_mut().find(waits) {
            // It came by an earlier connection and is acknowledged on this one, when it is taken.
            Some(Queued {
                acknowledgement: Some((connection, _)),
                ..
            }) => *connection = self.connection,
            _ => self.outgoing.push_back(pubrec),
        }
    }

    /// Whether the server has as many messages unfinished as we said we take [MQTT-3.3.4-9].
    fn is_receive_window_full(&self) -> bool {
        self.received.len() + self.puback_due >= usize::from(self.receive_maximum())
    }

    /// Before 5.0 the server cannot be told, so it is held to what the standard assumes.
    fn receive_maximum(&self) -> u16 {
        if self.options.version == ProtocolVersion::V5 {
            self.options.receive_maximum
        } else {
            u16::MAX
        }
    }

    fn handle_puback(&mut self, ack: Ack) {
        match self.unfinished.get(&ack.packet_id).map(|sent| &sent.stage) {
            Some(Stage::Published(message)) if message.qos == QoS::AtLeastOnce => self.finish(ack),
            Some(_) => self.fail(ReasonCode::ProtocolError, "PUBACK for a message of QoS 2"),
            None => {} // the answer to a message sent twice
        }
    }

    fn handle_pubrec(&mut self, ack: Ack) {
        let order = self.next_order();
        match self.unfinished.get_mut(&ack.packet_id) {
            None => {
                // [MQTT-4.3.3-4] with the reason of section 3.6.2.1
                let answer = Ack::with_reason(ack.packet_id, ReasonCode::PacketIdentifierNotFound);
                self.outgoing.push_back(Packet::PubRel(answer));
            }
            Some(sent) => match &sent.stage {
                Stage::Published(message) if message.qos == QoS::AtLeastOnce => {
                    self.fail(ReasonCode::ProtocolError, "PUBREC for a message of QoS 1");
                }
                _ if ack.reason.is_error() => self.finish(ack), // section 4.3.3
                _ => {
                    sent.stage = Stage::Released;
                    sent.order = order;
                    self.outgoing
                        .push_back(Packet::PubRel(Ack::success(ack.packet_id))); // [MQTT-4.3.3-4] [MQTT-4.6.0-4]
                }
            },
        }
    }

    fn handle_pubrel(&mut self, ack: Ack) {
        let known = self.received.remove(&ack.packet_id);
        let reason = if known {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        self.outgoing
            .push_back(Packet::PubComp(Ack::with_reason(ack.packet_id, reason))); // [MQTT-4.3.3-11]
    }

    fn handle_pubcomp(&mut self, ack: Ack) {
        match self.unfinished.get(&ack.packet_id).map(|sent| &sent.stage) {
            // "Not found" after PUBREC: the server has it and has forgotten that it had.
            Some(Stage::Released) => self.finish(Ack::success(ack.packet_id)),
            Some(Stage::Published(_)) => self.fail(ReasonCode::ProtocolError, "PUBCOMP before PUBREC"),
            None => {}
        }
    }

    fn finish(&mut self, ack: Ack) {
        if let Some(sent) = self.unfinished.remove(&ack.packet_id) {
            if sent.in_window {
                self.window_used -= 1; // section 4.9
            }
            let reason_string = ack.properties.and_then(|properties| properties.reason_string);
            self.tell(Event::Published(Published {
                token: sent.token,
                reason: ack.reason,
                reason_string,
            }));
        }
    }

    fn handle_suback(&mut self, ack: SubAck) {
        match self.requests.remove(&ack.packet_id) {
            Some(request)
                if request.kind == RequestKind::Subscribe && request.filters == ack.reasons.len() =>
            {
                self.tell(Event::Subscribed {
                    token: request.token,
                    reasons: ack.reasons,
                });
            }
            _ => self.fail(
                ReasonCode::ProtocolError,
                "a SUBACK that answers nothing we asked",
            ), // [MQTT-3.8.4-6]
        }
    }

    fn handle_unsuback(&mut self, mut ack: UnsubAck) {
        match self.requests.remove(&ack.packet_id) {
            Some(request) if request.kind == RequestKind::Unsubscribe => {
                if self.options.version != ProtocolVersion::V5 {
                    ack.reasons = SmallVec::from_elem(ReasonCode::Success, request.filters);
                }
                if ack.reasons.len() != request.filters {
                    return self.fail(
                        ReasonCode::ProtocolError,
                        "an UNSUBACK with another number of reasons",
                    );
                }
                self.tell(Event::Unsubscribed {
                    token: request.token,
                    reasons: ack.reasons,
                });
            }
            _ => self.fail(
                ReasonCode::ProtocolError,
                "an UNSUBACK that answers nothing we asked",
            ),
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

    fn next_request(&mut self, kind: RequestKind, filters: usize) -> Result<(PacketId, Token), RequestError> {
        if filters == 0 {
            return Err(RequestError::Empty);
        }
        if !self.is_online() {
            return Err(RequestError::Offline);
        }
        if self.requests.len() >= REQUESTS_MAX {
            return Err(RequestError::Full);
        }
        let (packet_id, token) = (self.next_packet_id(), self.next_token());
        self.requests.insert(packet_id, Request { token, filters, kind });
        Ok((packet_id, token))
    }

    /// Sends the packet of a request, if the server takes one so large.
    fn ask(&mut self, packet_id: PacketId, packet: Packet) -> Result<(), RequestError> {
        let allowed = usize::try_from(self.grants.packet_bytes_max).unwrap_or(usize::MAX);
        if encoded_len(&packet, self.options.version) > allowed {
            self.requests.remove(&packet_id);
            return Err(RequestError::TooLarge); // [MQTT-3.2.2-15]
        }
        self.outgoing.push_back(packet);
        Ok(())
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

impl Event {
    fn token(&self) -> Option<Token> {
        match self {
            Self::Published(Published { token, .. })
            | Self::Subscribed { token, .. }
            | Self::Unsubscribed { token, .. }
            | Self::Forgotten { token } => Some(*token),
            Self::Connected(_) | Self::Message(_) | Self::Disconnected(_) => None,
        }
    }
}

impl Grants {
    /// Why the server would not take `message`, if it would not.
    fn refuse(&self, message: &Message, version: ProtocolVersion) -> Option<ReasonCode> {
        if message.qos > self.qos_max {
            return Some(ReasonCode::QosNotSupported); // [MQTT-3.2.2-11]
        }
        if message.retain && !self.retain {
            return Some(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        if self.packet_bytes_max < u32::MAX {
            let packet_id = (message.qos != QoS::AtMostOnce).then_some(PacketId::MIN);
            let packet = publish(message.clone(), packet_id, false);
            if encoded_len(&packet, version) > usize::try_from(self.packet_bytes_max).unwrap_or(usize::MAX) {
                return Some(ReasonCode::PacketTooLarge); // [MQTT-3.2.2-15]
            }
        }
        None
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            receive_maximum: u16::MAX,
            qos_max: QoS::ExactlyOnce,
            retain: true,
            packet_bytes_max: u32::MAX,
        }
    }
}

impl From<&ConnAckProperties> for Grants {
    fn from(properties: &ConnAckProperties) -> Self {
        let assumed = Self::default();
        Self {
            receive_maximum: properties.receive_maximum.unwrap_or(assumed.receive_maximum),
            qos_max: properties.maximum_qos.unwrap_or(assumed.qos_max),
            retain: properties.retain_available.unwrap_or(assumed.retain),
            packet_bytes_max: properties.packet_bytes_max.unwrap_or(assumed.packet_bytes_max),
        }
    }
}

fn publish(message: Message, packet_id: Option<PacketId>, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos: message.qos,
        retain: message.retain,
        topic: Some(message.topic),
        packet_id,
        payload: message.payload,
        properties: message.properties,
    })
}

impl fmt::Display for Disconnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |f: &mut fmt::Formatter<'_>,
                    what: &str,
                    reason: &ReasonCode,
                    text: &Option<Utf8String>| match text {
            Some(text) => write!(f, "{what}: {reason}, {text:?}"),
            None => write!(f, "{what}: {reason}"),
        };
        match self {
            Self::Requested => f.write_str("disconnected as asked"),
            Self::Closed => f.write_str("the server closed the connection without a reason"),
            Self::Refused(reason, text) => said(f, "the server refused the connection", reason, text),
            Self::Ended(reason, text) => said(f, "the server ended the connection", reason, text),
            Self::ConnectTimeout => f.write_str("the server did not answer CONNECT in time"),
            Self::KeepAliveTimeout => f.write_str("the server did not answer a ping in time"),
            Self::Malformed(error) => write!(
                f,
                "the server sent what is not MQTT: {error} (is it a TLS port, or something else than a broker?)"
            ),
            Self::Violation { found, .. } => write!(f, "the server broke the protocol: {found}"),
        }
    }
}

impl std::error::Error for Disconnection {}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "too much waits for the server already",
            Self::Offline => "not connected",
            Self::Empty => "no topic filter given, expected at least one",
            Self::TooLarge => {
                "the topic filters make a packet larger than the server takes, give fewer at once"
            }
        })
    }
}

impl std::error::Error for RequestError {}

#[cfg(test)]
mod tests;
