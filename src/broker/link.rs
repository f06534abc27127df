//! What belongs to one connection and ends with it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::aliases::IncomingAliases;
use super::authenticate::Exchange;
use super::budget::{Account, Charge, Use};
use super::connect::Admission;
use super::hooked::AtDoor;
use super::inflight::Inflight;
use super::kept::properties_bytes;
use super::pace::Pace;
use super::session::SessionKey;
use super::tailor::{Tailoring, TooLarge, fits};
use super::timers::Timer;
use super::{Broker, DetachReason, Event, ListenerPolicy, Output, Refusal};
use crate::hooks::{Interests, Origin};
use crate::mqtt::{
    ClientId, ConnAck, ConnAckProperties, DecodeError, Disconnect, DisconnectProperties, Packet,
    ProtocolVersion, Publish, ReasonCode, Utf8String,
};

slotmap::new_key_type! {
    /// One connection, by a key that is never used again: a stale one finds nothing and does nothing.
    pub struct LinkId;
}

/// One connection.
///
/// 1. It is in exactly one stage, and only [`Stage::Attached`] knows a session.
/// 2. A link that is attached to a session is the one that session knows, and the other way round.
/// 3. `timer_at` is the moment of its one running deadline.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stage: Stage,
    pub(super) timer_at: Option<Instant>,
    /// What it costs, with what its transport holds for it.
    pub(super) charge: Charge,
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// CONNECT is owed, or its password is being checked.
    Arrived(Box<Arrival>),
    /// The client is in.
    Attached(Attachment),
}

/// What is known of a connection before its client is in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) listener: Rc<ListenerPolicy>,
    pub(super) peer: Option<IpAddr>,
    pub(super) certificate_user: Option<Utf8String>,
    pub(super) certificate_client: Option<Box<ClientId>>,
    /// Accepted beyond `connections_max`, to be told so.
    pub(super) surplus: bool,
    /// What CONNECT says the client speaks.
    pub(super) version: Option<ProtocolVersion>,
    /// Request Problem Information of CONNECT; false before it, for who cannot be read may not read us either.
    pub(super) wants_reasons: bool,
    /// Maximum Packet Size of CONNECT.
    pub(super) packet_bytes_max: u32,
    /// Set from CONNECT until its password was checked, or its exchange of AUTH packets is over.
    pub(super) verifying: Option<Verifying>,
}

/// A CONNECT whose client has yet to prove who it is, and what came after it.
#[derive(Debug)]
pub(super) struct Verifying {
    pub(super) admission: Admission,
    pub(super) proof: Proof,
    /// What the client sent without waiting for CONNACK (section 3.1.4), in its order, free of the read
    /// buffer.
    pub(super) waiting: Vec<Packet>,
    pub(super) waiting_bytes: usize,
    pub(super) charge: Charge,
}

/// How a client is to prove who it is.
#[derive(Debug)]
pub(super) enum Proof {
    /// It has not been asked for any.
    Unasked,
    /// By what a hook will say of it, or of its will.
    Hook(Box<AtDoor>),
    /// By the password of this user.
    Password(Utf8String),
    /// By an exchange of AUTH packets.
    Exchange(Box<Exchange>),
}

/// The parameters of a connected client, by value.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) session: SessionKey,
    /// The door it came through.
    pub(super) listener: Rc<ListenerPolicy>,
    /// From where; `None` where the transport has no address.
    pub(super) peer: Option<IpAddr>,
    pub(super) version: ProtocolVersion,
    /// Whether the peer is a broker that bridges, which wants RETAIN as published and nothing of its own
    /// back.
    pub(super) bridge: bool,
    /// The silence after which the link ends: one and a half keep-alives, in milliseconds; 0: never.
    pub(super) silence_max_ms: u32,
    pub(super) last_received: Instant,
    /// PUBLISH packets of QoS 1 and 2 that may be unfinished.
    pub(super) send_window: u16,
    /// QoS 2 messages that came by this connection and were not released yet, as far as Receive Maximum counts them.
    pub(super) unreleased: u16,
    /// Why it is sent bytes of its own; `None` for most.
    pub(super) tailoring: Option<Box<Tailoring>>,
    /// What the client's topic aliases stand for, once it has given one.
    pub(super) aliases: Option<Box<IncomingAliases>>,
    /// Request Problem Information: whether it wants to read why (5.0 only).
    pub(super) wants_reasons: bool,
    /// Whether its CONNACK waits for its session to be stored, and everything else waits behind it.
    pub(super) awaits_connack: bool,
    /// Of a client that came in by an authentication method: it may do so again.
    pub(super) exchange: Option<Box<Exchange>>,
    /// When what it came in by expires, where it does: [`Timer::LoginExpiry`] runs until then. Boxed, for most have
    /// none.
    pub(super) login_expires_at: Option<Box<Instant>>,
    /// How fast it publishes.
    pub(super) pace: Pace,
    /// PUBLISH bytes sent since the last [`super::Input::Flushed`]; on the account of the memory budget, as the next.
    pub(super) unsent_bytes: usize,
    /// Bytes of all other packets sent since.
    pub(super) unsent_control_bytes: usize,
    /// Retained messages that may be sent before the next [`super::Input::Flushed`].
    pub(super) retained_left: u16,
    /// When this client last lost a message because it reads too slowly.
    pub(super) slow_at: Option<Instant>,
}

/// Retained messages sent to one link in one go: enough for a dashboard's first screen, few enough that
/// others wait for tens of microseconds only.
pub(super) const RETAINED_SLICE: u16 = 64;

/// Roughly what an acknowledgement takes on the wire, in bytes.
const CONTROL_BYTES: usize = 4;

impl Verifying {
    pub(super) fn new(admission: Admission, proof: Proof, account: &Account) -> Self {
        Self {
            admission,
            proof,
            waiting: Vec::new(),
            waiting_bytes: 0,
            charge: Charge::new(account, 0),
        }
    }
}

impl Link {
    /// When a client that was heard at `now` has been silent for `silence_max`; zero: never.
    pub(super) fn keep_alive_deadline(now: Instant, silence_max: Duration) -> Option<Instant> {
        (!silence_max.is_zero()).then(|| now + silence_max)
    }

    /// What the client that came in by this link has agreed on; `None` before that.
    pub(super) fn attachment(&self) -> Option<&Attachment> {
        match &self.stage {
            Stage::Attached(attachment) => Some(attachment),
            _ => None,
        }
    }

    /// The same, to change it.
    pub(super) fn attachment_mut(&mut self) -> Option<&mut Attachment> {
        match &mut self.stage {
            Stage::Attached(attachment) => Some(attachment),
            _ => None,
        }
    }

    /// The exchange of AUTH packets that its client came in by, or is to.
    pub(super) fn exchange(&self) -> Option<&Exchange> {
        match &self.stage {
            Stage::Attached(attachment) => attachment.exchange.as_deref(),
            Stage::Arrived(arrival) => match &arrival.verifying.as_ref()?.proof {
                Proof::Exchange(exchange) => Some(exchange),
                _ => None,
            },
        }
    }

    /// The same, to change it.
    pub(super) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match &mut self.stage {
            Stage::Attached(attachment) => attachment.exchange.as_deref_mut(),
            Stage::Arrived(arrival) => match &mut arrival.verifying.as_mut()?.proof {
                Proof::Exchange(exchange) => Some(exchange),
                _ => None,
            },
        }
    }

    /// What the client speaks, once it has said so.
    fn version(&self) -> Option<ProtocolVersion> {
        match &self.stage {
            Stage::Arrived(arrival) => arrival.version,
            Stage::Attached(attachment) => Some(attachment.version),
        }
    }
}

impl Attachment {
    /// The silence after which the link ends; zero: never.
    pub(super) const fn silence_max(&self) -> Duration {
        Duration::from_millis(self.silence_max_ms as u64)
    }

    /// What is on its way to the client, as it is booked on the account of the memory budget.
    pub(super) fn booked_bytes(&self) -> usize {
        self.unsent_bytes + self.unsent_control_bytes
    }

    /// Whether so much is on its way to the client that nothing but acknowledgements is added.
    pub(super) fn is_stalled(&self, unsent_bytes_max: usize) -> bool {
        self.unsent_bytes >= unsent_bytes_max || self.awaits_connack
    }

    /// Whether another QoS 1 or 2 message may be sent for the first time [MQTT-3.3.4-9] [MQTT-4.9.0-2].
    ///
    /// What an earlier connection left unfinished counts too, although Receive Maximum does not ask for it: a
    /// client that never completes would otherwise gather more with every connection.
    pub(super) fn takes_more(&self, inflight: &Inflight, unsent_bytes_max: usize) -> bool {
        inflight.len() < usize::from(self.send_window) && !self.is_stalled(unsent_bytes_max)
    }
}

impl Broker {
    /// Ends a link: the only way out, whoever opened it. A second call for the same link does nothing.
    ///
    /// It is forgotten first, so nothing follows its farewell [MQTT-3.14.4-1].
    pub(super) fn detach(&mut self, now: Instant, link: LinkId, reason: DetachReason) {
        self.detach_to(now, link, reason, None);
    }

    /// The same, for a client that is to go `elsewhere`; without that where the settings say.
    pub(super) fn detach_to(
        &mut self,
        now: Instant,
        link: LinkId,
        reason: DetachReason,
        elsewhere: Option<&Utf8String>,
    ) {
        let Some(ended) = self.links.remove(link) else {
            return;
        };
        self.timers.cancel(ended.timer_at, Timer::Link(link));
        if self.hooked.is_some() {
            self.forget_exchange(link, &ended, reason);
            self.forget_held(link);
        }
        self.forget_parked(link);
        if self.crowd.is_some() {
            self.forget_waiting(link);
        }
        if let Some(expires_at) =
            (ended.attachment()).and_then(|attachment| attachment.login_expires_at.as_deref())
        {
            self.timers.cancel(Some(*expires_at), Timer::LoginExpiry(link));
        }
        self.stats.links -= 1;
        if reason != DetachReason::ConnectionLost {
            let elsewhere = elsewhere.or(self.settings.server_reference.as_ref());
            // Who has not been told that it is in is not told that it is out [MQTT-3.2.0-1].
            let is_told = !(ended.attachment()).is_some_and(|attachment| attachment.awaits_connack);
            if is_told && let Some(farewell) = farewell(&ended, reason, elsewhere) {
                self.outputs.push_back(Output::Send {
                    link,
                    packet: farewell,
                });
            }
            // [MQTT-3.2.2-7] [MQTT-3.14.4-2] [MQTT-4.13.2-1]
            self.outputs.push_back(Output::Close { link });
        }
        match ended.stage {
            Stage::Arrived(_) => {
                self.stats.connections_refused += 1;
                let is_login = matches!(reason, DetachReason::Refused(refusal) if refusal.is_of_identity());
                self.stats.logins_refused += u64::from(is_login);
                self.outputs
                    .push_back(Output::Event(Event::ConnectionRefused { link, reason }));
            }
            Stage::Attached(attachment) => {
                self.attachments += 1;
                self.budget.account.take_off(attachment.booked_bytes());
                if self.has_hooks_for(Interests::DISCONNECTED) {
                    let door = Origin {
                        peer: attachment.peer,
                        listener: &attachment.listener.name,
                        certificate_user: None,
                    };
                    self.tell_disconnected(attachment.session, &door, reason);
                }
                self.leave(now, link, attachment.session, reason);
            }
        }
    }

    /// Ends a link whose peer was refused, or broke a rule.
    pub(super) fn refuse(&mut self, now: Instant, link: LinkId, refusal: Refusal) {
        self.detach(now, link, DetachReason::Refused(refusal));
    }

    /// Sends a packet that is no PUBLISH.
    ///
    /// These go out even to a client that reads too slowly, for it is owed them; one that makes us owe it
    /// more than twice what may be on its way to it is not reading at all. No window holds them back
    /// [MQTT-3.3.4-10] [MQTT-4.9.0-3].
    pub(super) fn send_control(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let bytes = match &packet {
            Packet::SubAck(ack) => CONTROL_BYTES + ack.reasons.len(),
            Packet::UnsubAck(ack) => CONTROL_BYTES + ack.reasons.len(),
            _ => CONTROL_BYTES,
        };
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
        if let Some(tailoring) = &attachment.tailoring
            && !tailoring.takes_packet(&packet, attachment.version)
        {
            // The client waits for an answer that it does not let us give.
            return self.refuse(now, link, Refusal::PacketTooLarge); // [MQTT-3.1.2-24]
        }
        if !self.budget.allows(Use::Transit, bytes) {
            // Who has us owe it answers while all memory is held goes: they cannot be left out.
            self.stats.memory_refusals += 1;
            self.limit_reached(now, "memory_bytes_max");
            return self.refuse(now, link, Refusal::MemoryShort);
        }
        attachment.unsent_control_bytes += bytes;
        let is_not_reading = attachment.unsent_control_bytes > self.limits.unsent_bytes_max.saturating_mul(2);
        self.budget.account.add(bytes);
        match &self.durable {
            None => self.outputs.push_back(Output::Send { link, packet }),
            Some(_) => self.send_when_stored(link, packet),
        }
        if is_not_reading {
            self.refuse(now, link, Refusal::NotReading);
        }
    }

    /// The bytes are no MQTT [MQTT-3.1.4-1] [MQTT-4.13.1-1].
    pub(super) fn handle_malformed(
        &mut self,
        now: Instant,
        link: LinkId,
        version: Option<ProtocolVersion>,
        error: DecodeError,
    ) {
        if let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get_mut(link)
        {
            arrival.version = arrival.version.or(version);
        }
        self.detach(now, link, DetachReason::Malformed(error));
    }

    /// Everything sent is out: more may follow.
    pub(super) fn handle_flushed(&mut self, now: Instant, link: LinkId) {
        if let Some(Link {
            stage: Stage::Attached(attachment),
            ..
        }) = self.links.get_mut(link)
        {
            self.budget.account.take_off(attachment.booked_bytes());
            attachment.unsent_bytes = 0;
            attachment.unsent_control_bytes = 0;
            attachment.retained_left = RETAINED_SLICE;
            let session = attachment.session;
            self.pump(now, session);
        }
    }

    /// A link's deadline came: for its CONNECT, for its next sign of life, to be read again, or to be sent more.
    pub(super) fn handle_link_timer(&mut self, now: Instant, link: LinkId) {
        self.resume(now, link);
        let held_until = self.held_until(link);
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        known.timer_at = None;
        match &known.stage {
            Stage::Arrived(_) if known.exchange().is_some() => self.end_late_exchange(now, link),
            Stage::Arrived(_) => self.detach(now, link, DetachReason::ConnectTimeout),
            Stage::Attached(attachment) => {
                let heard_at = held_until.unwrap_or(attachment.last_received);
                let silent_at = Link::keep_alive_deadline(heard_at, attachment.silence_max());
                // Whoever is not read cannot be too silent.
                let due = attachment.pace.paused_until.or(silent_at);
                if due.is_some_and(|due| due <= now) {
                    self.stats.keep_alive_timeouts += 1;
                    return self.detach(now, link, DetachReason::KeepAliveTimeout); // [MQTT-3.1.2-22]
                }
                known.timer_at = due;
                let session = attachment.session;
                if let Some(due) = due {
                    self.timers.set(due, Timer::Link(link));
                }
                self.pump(now, session);
            }
        }
    }

    /// Has [`Broker::pump`] called again for a session that is attached, at `at` or before.
    pub(super) fn pump_soon(&mut self, at: Instant, key: SessionKey) {
        let link = self.sessions.get(key).and_then(|session| session.link);
        if let Some(link) = link
            && let Some(known) = self.links.get_mut(link)
            && known.timer_at.is_none_or(|earlier| earlier > at)
        {
            self.timers.cancel(known.timer_at, Timer::Link(link));
            known.timer_at = Some(at);
            self.timers.set(at, Timer::Link(link));
        }
    }
}

/// Sends `publish` on a link, or says that it is larger than the client takes [MQTT-3.1.2-24].
///
/// Takes the parts of the broker it needs, so that it can be called while a session is being looked at;
/// inlined, so that the packet is built where the outputs wait and not moved there.
#[inline(always)]
pub(super) fn send_publish(
    outputs: &mut VecDeque<Output>,
    account: &Account,
    link: LinkId,
    attachment: &mut Attachment,
    publish: Publish,
) -> Result<(), TooLarge> {
    send_publish_or_wait(outputs, account, link, attachment, publish, true)
}

/// The same for one that may wait in `outputs` while others overtake it, where it is not sent `at_once`.
#[inline(always)]
pub(super) fn send_publish_or_wait(
    outputs: &mut VecDeque<Output>,
    account: &Account,
    link: LinkId,
    attachment: &mut Attachment,
    mut publish: Publish,
    at_once: bool,
) -> Result<(), TooLarge> {
    let bytes = wire_bytes(&publish);
    if let Some(tailoring) = &mut attachment.tailoring {
        tailoring.fit(&mut publish, bytes, attachment.version, at_once)?;
    }
    attachment.unsent_bytes += bytes;
    account.add(bytes);
    outputs.push_back(Output::Send {
        link,
        packet: Packet::Publish(publish),
    });
    Ok(())
}

/// What a PUBLISH takes on the wire, or a few bytes more.
#[inline(always)]
pub(super) fn wire_bytes(publish: &Publish) -> usize {
    let bytes = match &publish.topic {
        Some(topic) => publish_bytes(topic.as_str(), &publish.payload),
        None => FIXED_BYTES + publish.payload.len(),
    };
    bytes
        + (publish.properties.as_deref()).map_or(0, |properties| {
            properties_bytes(properties) + 5 * properties.subscription_ids.len()
        })
}

/// What a PUBLISH without properties takes on the wire, or a few bytes more.
pub(super) fn publish_bytes(topic: &str, payload: &[u8]) -> usize {
    FIXED_BYTES + topic.len() + payload.len()
}

/// Of a PUBLISH: fixed header, the topic's length, packet identifier, and the length of no properties.
const FIXED_BYTES: usize = 10;

/// The last packet a peer gets, where its version has one for the occasion and it takes one so large.
fn farewell(link: &Link, reason: DetachReason, elsewhere: Option<&Utf8String>) -> Option<Packet> {
    let (code, text) = match reason {
        DetachReason::ClientDisconnect(_) | DetachReason::ConnectionLost => return None,
        // Its password could not be checked in time; who never said CONNECT has no version, and is told nothing.
        DetachReason::ConnectTimeout => (ReasonCode::ServerUnavailable, None),
        DetachReason::KeepAliveTimeout => (ReasonCode::KeepAliveTimeout, None),
        DetachReason::TakenOver => (ReasonCode::SessionTakenOver, None),
        DetachReason::Malformed(error) => (error.reason(), Some(error.to_string())),
        DetachReason::Refused(refusal) => (refusal.reason(), Some(refusal.to_string())),
        DetachReason::Kicked(reason) => (reason.code(), None),
        DetachReason::Shutdown => (ReasonCode::ServerShuttingDown, None),
    };
    let elsewhere = match reason {
        DetachReason::Shutdown | DetachReason::Refused(Refusal::ConnectionsFull | Refusal::SessionsFull) => {
            elsewhere.cloned()
        }
        DetachReason::Kicked(reason) if reason.sends_elsewhere() => elsewhere.cloned(),
        _ => None,
    };
    let version = link.version()?;
    let is_in = link.attachment().is_some();
    if version != ProtocolVersion::V5 {
        // Before 5.0 a server has no DISCONNECT: it closes.
        return (!is_in && has_return_code(code)).then(|| refusal(code, None, None));
    }
    let (wants_reasons, bytes_max) = match &link.stage {
        Stage::Arrived(arrival) => (arrival.wants_reasons, arrival.packet_bytes_max),
        Stage::Attached(attachment) => {
            let bytes_max = attachment.tailoring.as_ref();
            let bytes_max = bytes_max.map_or(u32::MAX, |tailoring| tailoring.packet_bytes_max);
            (attachment.wants_reasons, bytes_max)
        }
    };
    // To go elsewhere is one thing, where that is another: it may be too long to say (section 4.11).
    let code = match elsewhere {
        Some(_) if code != ReasonCode::ServerMoved => ReasonCode::UseAnotherServer,
        _ => in_words_of(is_in, code),
    };
    // [MQTT-3.14.0-1]
    let packet = |(text, elsewhere)| match is_in {
        true => goodbye(code, text, elsewhere),
        false => refusal(code, text, elsewhere),
    };
    let text = text.filter(|_| wants_reasons);
    let text = text.and_then(|text| Utf8String::try_from(text.as_str()).ok());
    // A reason is left out where it would make the packet too large [MQTT-3.2.2-19] [MQTT-3.14.2-3]; user
    // properties there are none [MQTT-3.14.2-4].
    [(text, elsewhere.clone()), (None, elsewhere), (None, None)]
        .into_iter()
        .map(packet)
        .find(|packet| fits(packet, version, bytes_max)) // [MQTT-3.1.2-24]
}

/// The reason for a DISCONNECT (`is_in`) or a CONNACK, neither of which has a word for all of them
/// [MQTT-3.2.2-8] [MQTT-3.14.2-1].
const fn in_words_of(is_in: bool, reason: ReasonCode) -> ReasonCode {
    match (is_in, reason) {
        (true, ReasonCode::ServerUnavailable) => ReasonCode::ServerBusy,
        (true, ReasonCode::BadUserNameOrPassword | ReasonCode::Banned) => ReasonCode::NotAuthorized,
        (false, ReasonCode::ServerShuttingDown) => ReasonCode::ServerUnavailable,
        (false, ReasonCode::AdministrativeAction | ReasonCode::MaximumConnectTime) => {
            ReasonCode::NotAuthorized
        }
        (false, ReasonCode::MessageRateTooHigh) => ReasonCode::QuotaExceeded,
        (false, ReasonCode::TopicFilterInvalid | ReasonCode::TopicAliasInvalid) => ReasonCode::ProtocolError,
        (_, reason) => reason,
    }
}

fn goodbye(
    reason: ReasonCode,
    reason_string: Option<Utf8String>,
    server_reference: Option<Utf8String>,
) -> Packet {
    let properties = DisconnectProperties {
        reason_string,
        server_reference,
        ..DisconnectProperties::default()
    };
    Packet::Disconnect(Box::new(Disconnect { reason, properties }))
}

/// CONNACK that refuses; never with a session present [MQTT-3.2.2-6].
fn refusal(
    reason: ReasonCode,
    reason_string: Option<Utf8String>,
    server_reference: Option<Utf8String>,
) -> Packet {
    let properties = ConnAckProperties {
        reason_string,
        server_reference,
        ..ConnAckProperties::default()
    };
    Packet::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason,
        properties,
    }))
}

/// Whether one of the five return codes of 3.1 and 3.1.1 says it (section 3.2.2.3 of 3.1.1); otherwise the
/// connection is closed without CONNACK [MQTT-3.2.2-6 of 3.1.1].
fn has_return_code(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnsupportedProtocolVersion
            | ReasonCode::ClientIdentifierNotValid
            | ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::ServerShuttingDown
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::Banned
    )
}
