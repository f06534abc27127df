//! What belongs to one connection and ends with it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{ALLOCATION_BYTES, Account, Budget, Charge, SHARED_BYTES, Use};
use super::connect::Admission;
use super::inflight::Inflight;
use super::kept::properties_bytes;
use super::pace::Pace;
use super::session::SessionKey;
use super::timers::Timer;
use super::{Broker, DetachReason, Event, ListenerPolicy, Output};
use crate::mqtt::{
    ConnAck, DecodeError, Disconnect, Packet, ProtocolVersion, Publish, ReasonCode, TopicName, Utf8String,
    encoded_len,
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
    /// Accepted beyond `connections_max`, to be told so.
    pub(super) surplus: bool,
    /// What CONNECT says the client speaks.
    pub(super) version: Option<ProtocolVersion>,
    /// Set from CONNECT until its password was checked.
    pub(super) verifying: Option<Verifying>,
}

/// A CONNECT whose password is being checked, and what came after it.
#[derive(Debug)]
pub(super) struct Verifying {
    pub(super) admission: Admission,
    pub(super) user: Utf8String,
    /// What the client sent without waiting for CONNACK (section 3.1.4), in its order, free of the read
    /// buffer.
    pub(super) waiting: Vec<Packet>,
    pub(super) waiting_bytes: usize,
    pub(super) charge: Charge,
}

/// The parameters of a connected client, by value.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) session: SessionKey,
    pub(super) version: ProtocolVersion,
    /// Whether the peer is a broker that bridges, which wants RETAIN as published and nothing of its own
    /// back.
    pub(super) bridge: bool,
    /// The silence after which the link ends: one and a half keep-alives; zero: never.
    pub(super) silence_max: Duration,
    pub(super) last_received: Instant,
    /// PUBLISH packets of QoS 1 and 2 that may be unfinished.
    pub(super) send_window: u16,
    /// Maximum Packet Size of the client.
    pub(super) packet_bytes_max: u32,
    /// What the client's topic aliases stand for; `None` until there is one.
    pub(super) aliases: Option<Box<Aliases>>,
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

/// What topic aliases stand for, from 1 on.
#[derive(Debug)]
pub(super) struct Aliases {
    topics: Vec<Option<TopicName>>,
    pub(super) charge: Charge,
}

/// Retained messages sent to one link in one go: enough for a dashboard's first screen, few enough that
/// others wait for tens of microseconds only.
pub(super) const RETAINED_SLICE: u16 = 64;

/// Roughly what an acknowledgement takes on the wire, in bytes.
const CONTROL_BYTES: usize = 4;

impl Link {
    /// When a client that was heard `now` has been silent for `silence_max`; zero: never.
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

    /// What the client speaks, once it has said so.
    fn version(&self) -> Option<ProtocolVersion> {
        match &self.stage {
            Stage::Arrived(arrival) => arrival.version,
            Stage::Attached(attachment) => Some(attachment.version),
        }
    }
}

impl Attachment {
    /// What is on its way to the client, as it is booked on the account of the memory budget.
    pub(super) fn booked_bytes(&self) -> usize {
        self.unsent_bytes + self.unsent_control_bytes
    }

    /// Whether so much is on its way to the client that nothing but acknowledgements is added.
    pub(super) fn is_stalled(&self, unsent_bytes_max: usize) -> bool {
        self.unsent_bytes >= unsent_bytes_max
    }

    /// Whether the client takes no packet as large as this one, which has roughly `bytes`.
    #[inline(never)]
    fn is_too_large(&self, publish: &Publish, bytes: usize) -> bool {
        let allowed = usize::try_from(self.packet_bytes_max).unwrap_or(usize::MAX);
        bytes + 16 > allowed && encoded_len(&Packet::Publish(publish.clone()), self.version) > allowed
    }

    /// Whether another QoS 1 or 2 message may be sent for the first time [MQTT-3.3.4-9].
    ///
    /// What an earlier connection left unfinished counts too, although Receive Maximum does not ask for it: a
    /// client that never completes would otherwise gather more with every connection.
    pub(super) fn takes_more(&self, inflight: &Inflight, unsent_bytes_max: usize) -> bool {
        inflight.len() < usize::from(self.send_window) && !self.is_stalled(unsent_bytes_max)
    }

    /// The topic of a PUBLISH that carries `alias` (section 3.3.2.3.4).
    ///
    /// # Errors
    /// What the client is told in DISCONNECT.
    pub(super) fn resolve_alias(
        &mut self,
        topic: Option<TopicName>,
        alias: u16,
        alias_max: u16,
        budget: &Budget,
    ) -> Result<TopicName, ReasonCode> {
        if alias == 0 || alias > alias_max {
            return Err(ReasonCode::TopicAliasInvalid); // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
        }
        let index = usize::from(alias) - 1;
        match topic {
            Some(topic) => {
                let aliases = self.aliases.get_or_insert_with(|| {
                    Box::new(Aliases {
                        topics: Vec::new(),
                        charge: Charge::new(&budget.account, size_of::<Aliases>() + ALLOCATION_BYTES),
                    })
                });
                aliases.set(index, &topic, budget)?;
                Ok(topic)
            }
            None => (self.aliases.as_ref())
                .and_then(|aliases| aliases.topics.get(index)?.clone())
                .ok_or(ReasonCode::ProtocolError),
        }
    }
}

impl Aliases {
    /// Lets the alias of `index` stand for `topic`.
    ///
    /// # Errors
    /// Quota Exceeded where memory is short.
    fn set(&mut self, index: usize, topic: &TopicName, budget: &Budget) -> Result<(), ReasonCode> {
        if self.topics.len() <= index {
            self.topics.resize(index + 1, None);
        }
        let Some(known) = self.topics.get_mut(index) else {
            return Ok(());
        };
        if known.as_ref() == Some(topic) {
            return Ok(());
        }
        *known = Some(topic.detached());
        let texts = self.topics.iter().flatten();
        let texts: usize = texts.map(|topic| SHARED_BYTES + topic.as_str().len()).sum();
        let table = self.topics.capacity() * size_of::<Option<TopicName>>() + ALLOCATION_BYTES;
        let before = self.charge.bytes();
        self.charge
            .set(size_of::<Self>() + ALLOCATION_BYTES + table + texts);
        match self.charge.bytes() <= before || budget.allows(Use::Connection, 0) {
            true => Ok(()),
            false => Err(ReasonCode::QuotaExceeded),
        }
    }
}

impl Broker {
    /// Ends a link: the only way out, whoever opened it. A second call for the same link does nothing.
    pub(super) fn detach(&mut self, now: Instant, link: LinkId, reason: DetachReason) {
        let Some(ended) = self.links.remove(link) else {
            return;
        };
        self.timers.cancel(ended.timer_at, Timer::Link(link));
        self.stats.links -= 1;
        if reason != DetachReason::ConnectionLost {
            if let Some(farewell) = farewell(&ended, reason) {
                self.outputs.push_back(Output::Send {
                    link,
                    packet: farewell,
                });
            }
            self.outputs.push_back(Output::Close { link });
        }
        match ended.stage {
            Stage::Arrived(_) => {
                self.stats.connections_refused += 1;
                self.outputs
                    .push_back(Output::Event(Event::ConnectionRefused { link, reason }));
            }
            Stage::Attached(attachment) => {
                self.budget.account.take_off(attachment.booked_bytes());
                self.leave(now, link, attachment.session, reason);
            }
        }
    }

    /// Ends a link whose peer was refused, or broke a rule.
    pub(super) fn refuse(&mut self, now: Instant, link: LinkId, reason: ReasonCode) {
        self.detach(now, link, DetachReason::Refused(reason));
    }

    /// Sends a packet that is no PUBLISH.
    ///
    /// These go out even to a client that reads too slowly, for it is owed them; one that makes us owe it
    /// more than twice what may be on its way to it is not reading at all.
    pub(super) fn send_control(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let bytes = match &packet {
            Packet::SubAck(ack) => CONTROL_BYTES + ack.reasons.len(),
            Packet::UnsubAck(ack) => CONTROL_BYTES + ack.reasons.len(),
            _ => CONTROL_BYTES,
        };
        self.outputs.push_back(Output::Send { link, packet });
        if let Some(Link {
            stage: Stage::Attached(attachment),
            ..
        }) = self.links.get_mut(link)
        {
            attachment.unsent_control_bytes += bytes;
            self.budget.account.add(bytes);
            if attachment.unsent_control_bytes > self.limits.unsent_bytes_max.saturating_mul(2) {
                self.refuse(now, link, ReasonCode::QuotaExceeded);
            }
        }
    }

    /// The bytes are no MQTT [MQTT-4.13.1-1].
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

    /// A link's deadline came: for its CONNECT, or for its next sign of life.
    pub(super) fn handle_link_timer(&mut self, now: Instant, link: LinkId) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        known.timer_at = None;
        match &known.stage {
            Stage::Arrived(_) => self.detach(now, link, DetachReason::ConnectTimeout),
            Stage::Attached(attachment) if attachment.pace.is_paused => self.resume(now, link),
            Stage::Attached(attachment) => {
                let due = attachment.last_received + attachment.silence_max;
                if due <= now {
                    self.stats.keep_alive_timeouts += 1;
                    self.detach(now, link, DetachReason::KeepAliveTimeout); // [MQTT-3.1.2-22]
                } else {
                    known.timer_at = Some(due);
                    self.timers.set(due, Timer::Link(link));
                }
            }
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
    let mut bytes = match &publish.topic {
        Some(topic) => publish_bytes(topic, &publish.payload),
        None => FIXED_BYTES + publish.payload.len(),
    };
    if let Some(properties) = publish.properties.as_deref() {
        bytes += properties_bytes(properties) + 5 * properties.subscription_ids.len();
    }
    if attachment.packet_bytes_max < u32::MAX && attachment.is_too_large(&publish, bytes) {
        return Err(TooLarge);
    }
    attachment.unsent_bytes += bytes;
    account.add(bytes);
    outputs.push_back(Output::Send {
        link,
        packet: Packet::Publish(publish),
    });
    Ok(())
}

/// What a PUBLISH without properties takes on the wire, or a few bytes more.
pub(super) fn publish_bytes(topic: &TopicName, payload: &Bytes) -> usize {
    FIXED_BYTES + topic.as_str().len() + payload.len()
}

/// Of a PUBLISH: fixed header, the topic's length, packet identifier, and the length of no properties.
const FIXED_BYTES: usize = 10;

/// The packet is larger than the client's Maximum Packet Size.
#[derive(Debug)]
pub(super) struct TooLarge;

/// The last packet a peer gets, where its version has one for the occasion.
fn farewell(link: &Link, reason: DetachReason) -> Option<Packet> {
    let code = match reason {
        DetachReason::ClientDisconnect(_) | DetachReason::ConnectionLost | DetachReason::ConnectTimeout => {
            return None;
        }
        DetachReason::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
        DetachReason::TakenOver => ReasonCode::SessionTakenOver,
        DetachReason::Malformed(error) => error.reason(),
        DetachReason::Refused(code) => code,
        DetachReason::Shutdown => ReasonCode::ServerShuttingDown,
    };
    let version = link.version()?;
    match (&link.stage, version) {
        (Stage::Attached(_), ProtocolVersion::V5) => Some(Packet::Disconnect(Box::new(Disconnect {
            reason: code,
            ..Disconnect::default()
        }))),
        // Before 5.0 a server has no DISCONNECT: it closes.
        (Stage::Attached(_), _) => None,
        (_, ProtocolVersion::V5) => Some(refusal(code)),
        (_, _) => has_return_code(code).then(|| refusal(code)),
    }
}

/// CONNACK that refuses; never with a session present [MQTT-3.2.2-6].
fn refusal(reason: ReasonCode) -> Packet {
    Packet::ConnAck(Box::new(ConnAck {
        reason,
        ..ConnAck::default()
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
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
    )
}
