//! The way in (sections 3.1 and 3.2): CONNECT, the check of a password, and only then the session.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::{Arrival, Attachment, Link, LinkId, RETAINED_SLICE, Stage, Verifying};
use super::session::Session;
use super::timers::Timer;
use super::will::Testament;
use super::{Broker, DetachReason, Event, ListenerPolicy, Output, Verdict};
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::mqtt::{
    Ack, ClientId, ConnAck, ConnAckProperties, Connect, Disconnect, DisconnectProperties, Packet,
    ProtocolVersion, ReasonCode, Subscribe, SubscribeProperties, Unsubscribe, UserProperties, Utf8String,
};

/// Connections beyond `connections_max` that are heard, so that they can be told why they may not stay.
const SURPLUS_MAX: usize = 16;

/// Packets a client may send behind its CONNECT while its password is checked: a SUBSCRIBE and a few
/// messages.
const WAITING_PACKETS_MAX: usize = 16;

/// The bytes of these packets; small, for nobody has proved anything yet.
const WAITING_BYTES_MAX: usize = 16 * 1024;

/// The longest client identifier that 3.1 knows, in characters.
const CLIENT_ID_CHARS_MAX_3_1: usize = 23;

/// What is kept of a CONNECT: nothing in it shares the read buffer.
#[derive(Debug)]
pub(super) struct Admission {
    version: ProtocolVersion,
    bridge: bool,
    clean_start: bool,
    keep_alive_secs: u16,
    client_id: Option<ClientId>,
    will: Option<Box<Testament>>,
    session_expiry_secs: u32,
    receive_maximum: u16,
    packet_bytes_max: u32,
}

/// Makes client identifiers that cannot be guessed from others of its making.
#[derive(Debug)]
pub(super) struct AssignedIds {
    seed: u64,
    count: u64,
}

impl AssignedIds {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    fn next(&mut self) -> Option<ClientId> {
        self.count += 1;
        let half = |part: u8| {
            let mut hasher = DefaultHasher::new();
            (self.seed, self.count, part, self.seed).hash(&mut hasher);
            hasher.finish()
        };
        let text = format!("tidegate-{:016x}{:016x}", half(0), half(1));
        Utf8String::try_from(text.as_str()).ok().and_then(ClientId::new)
    }
}

impl Broker {
    pub(super) fn handle_connected(
        &mut self,
        now: Instant,
        link: LinkId,
        listener: Rc<ListenerPolicy>,
        certificate_user: Option<Utf8String>,
    ) {
        if self.links.contains_key(link) {
            return;
        }
        self.stats.links_accepted += 1;
        let surplus = self.links.len() >= self.limits.connections_max;
        if surplus {
            self.limit_reached(now, "connections_max");
        }
        if self.stopping || self.links.len() >= self.limits.connections_max.saturating_add(SURPLUS_MAX) {
            self.stats.connections_refused += 1;
            let reason = DetachReason::Refused(ReasonCode::QuotaExceeded);
            self.outputs.push_back(Output::Close { link });
            self.outputs
                .push_back(Output::Event(Event::ConnectionRefused { link, reason }));
            return;
        }
        let arrival = Arrival {
            listener,
            certificate_user,
            surplus,
            version: None,
            verifying: None,
        };
        let timer_at = now.checked_add(self.limits.connect_timeout);
        if let Some(at) = timer_at {
            self.timers.set(at, Timer::Link(link));
        }
        self.links.insert(
            link,
            Link {
                stage: Stage::Arrived(Box::new(arrival)),
                timer_at,
            },
        );
        self.stats.links += 1;
    }

    /// A packet from a link whose client is not in yet.
    pub(super) fn handle_early_packet(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get_mut(link)
        else {
            return;
        };
        match (&mut arrival.verifying, packet) {
            (None, Packet::Connect(connect)) => self.handle_connect(now, link, &connect),
            (None, _) => self.refuse(now, link, ReasonCode::ProtocolError), // [MQTT-3.1.0-1]
            (Some(verifying), packet) => match detached(packet) {
                Some((packet, bytes)) => {
                    verifying.waiting.push(packet);
                    verifying.waiting_bytes += bytes;
                    if verifying.waiting.len() > WAITING_PACKETS_MAX
                        || verifying.waiting_bytes > WAITING_BYTES_MAX
                    {
                        self.refuse(now, link, ReasonCode::QuotaExceeded);
                    }
                }
                None => self.refuse(now, link, ReasonCode::ProtocolError),
            },
        }
    }

    fn handle_connect(&mut self, now: Instant, link: LinkId, connect: &Connect) {
        let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get_mut(link)
        else {
            return;
        };
        arrival.version = Some(connect.version);
        let surplus = arrival.surplus;
        let anonymous = arrival.listener.anonymous;
        let listener = arrival.listener.clone();
        let certificate_user = arrival.certificate_user.take();
        if !listener.versions.contains(connect.version) {
            // [MQTT-3.1.2-2]
            return self.refuse(now, link, ReasonCode::UnsupportedProtocolVersion);
        }
        if surplus {
            return self.refuse(now, link, ReasonCode::QuotaExceeded);
        }
        if let Err(reason) = self.check_connect(connect, &listener) {
            return self.refuse(now, link, reason);
        }
        let admission = Admission::new(connect);
        match (certificate_user, &connect.user_name) {
            (Some(user), _) => self.admit(now, link, admission, Rc::new(Identity::User(user))),
            (None, Some(user)) => {
                let user = user.detached();
                let password = Bytes::copy_from_slice(connect.password.as_deref().unwrap_or_default());
                let Some(Link {
                    stage: Stage::Arrived(arrival),
                    timer_at,
                }) = self.links.get_mut(link)
                else {
                    return;
                };
                let (waiting, waiting_bytes) = (Vec::new(), 0);
                arrival.verifying = Some(Verifying {
                    admission,
                    user: user.clone(),
                    waiting,
                    waiting_bytes,
                });
                // The client has done its part in time; the check, which may queue behind others, has its own.
                self.timers.cancel(*timer_at, Timer::Link(link));
                *timer_at = now.checked_add(self.limits.connect_timeout);
                if let Some(at) = *timer_at {
                    self.timers.set(at, Timer::Link(link));
                }
                self.outputs.push_back(Output::Verify { link, user, password });
            }
            (None, None) if anonymous => {
                let anonymous = self.anonymous.clone();
                self.admit(now, link, admission, anonymous);
            }
            (None, None) => self.refuse(now, link, ReasonCode::NotAuthorized), // [MQTT-3.1.4-2]
        }
    }

    /// What is wrong with a CONNECT whoever sent it.
    fn check_connect(&self, connect: &Connect, listener: &ListenerPolicy) -> Result<(), ReasonCode> {
        let limits = &self.limits;
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BadAuthenticationMethod); // [MQTT-4.12.0-1]
        }
        if connect.properties.user_properties.len() > limits.user_properties_max {
            return Err(ReasonCode::QuotaExceeded);
        }
        match &connect.client_id {
            Some(client) if client.as_str().len() > limits.topic_bytes_max => {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
            Some(client)
                if listener.strict_client_ids
                    && connect.version == ProtocolVersion::V31
                    && client.as_str().chars().count() > CLIENT_ID_CHARS_MAX_3_1 =>
            {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
            Some(_) => {}
            // 3.1 knows no empty identifier, 3.1.1 only with a clean session [MQTT-3.1.3-8 of 3.1.1].
            None if connect.version == ProtocolVersion::V31 => {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
            None if connect.version == ProtocolVersion::V311 && !connect.clean_start => {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
            None => {}
        }
        if connect
            .user_name
            .as_ref()
            .is_some_and(|user| user.as_str().len() > limits.topic_bytes_max)
        {
            return Err(ReasonCode::BadUserNameOrPassword);
        }
        if let Some(will) = &connect.will {
            if !self.is_topic_within_limits(will.topic.as_str()) {
                return Err(ReasonCode::TopicNameInvalid);
            }
            let properties = &will.properties.publish;
            let bytes =
                will.topic.as_str().len() + will.payload.len() + super::kept::properties_bytes(properties);
            if bytes > limits.will_bytes_max || properties.user_properties.len() > limits.user_properties_max
            {
                return Err(ReasonCode::QuotaExceeded);
            }
        }
        Ok(())
    }

    /// The answer to [`Output::Verify`].
    pub(super) fn handle_verified(&mut self, now: Instant, link: LinkId, verdict: Verdict) {
        let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get_mut(link)
        else {
            return; // the link is gone, or already in: nothing was asked
        };
        let anonymous = arrival.listener.anonymous;
        let Some(Verifying {
            admission,
            user,
            waiting,
            ..
        }) = arrival.verifying.take()
        else {
            return;
        };
        let identity = match verdict {
            Verdict::Allow => Rc::new(Identity::User(user)),
            Verdict::NoUsers if anonymous => self.anonymous.clone(),
            Verdict::NoUsers | Verdict::Deny => {
                return self.refuse(now, link, ReasonCode::BadUserNameOrPassword);
            }
            Verdict::Unavailable => return self.refuse(now, link, ReasonCode::ServerUnavailable),
        };
        self.admit(now, link, admission, identity);
        for packet in waiting {
            self.handle_packet(now, link, packet); // [MQTT-3.1.4-5]
        }
    }

    /// Lets a client in that has proved to be `identity`: from here on, and not before, sessions are touched.
    fn admit(&mut self, now: Instant, link: LinkId, mut admission: Admission, identity: Rc<Identity>) {
        if let Some(will) = &admission.will
            && !self
                .rights
                .authorize(&identity, Action::Publish, will.message().topic.as_str())
        {
            self.stats.publishes_denied += 1;
            return self.refuse(now, link, ReasonCode::NotAuthorized);
        }
        let (client, assigned) = match admission.client_id.take() {
            Some(client) => (client, false),
            None => match self.assigned_ids.next() {
                Some(client) => (client, true), // [MQTT-3.1.3-6]
                None => return self.refuse(now, link, ReasonCode::ClientIdentifierNotValid),
            },
        };
        let known = self.sessions.find(&client);
        if let Some(session) = known.and_then(|key| self.sessions.get(key)) {
            if session.identity != identity {
                return self.refuse(now, link, ReasonCode::ClientIdentifierNotValid);
            }
            if let Some(old) = session.link {
                self.stats.takeovers += 1;
                self.detach(now, old, DetachReason::TakenOver); // [MQTT-3.1.4-3]
            }
        } else if self.sessions.len() >= self.limits.sessions_max {
            self.limit_reached(now, "sessions_max");
            return self.refuse(now, link, ReasonCode::QuotaExceeded);
        }
        // The session may have ended with the connection that was taken over.
        let kept = match self.sessions.find(&client) {
            Some(key) if admission.clean_start => {
                self.end_session(now, key); // [MQTT-3.1.2-4]
                None
            }
            kept => kept,
        };
        if let Some(key) = kept {
            self.resume_session(key);
        }
        let session_present = kept.is_some(); // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
        let key = kept.unwrap_or_else(|| {
            self.stats.sessions += 1;
            self.sessions
                .insert(Session::new(client.clone(), identity.clone()))
        });
        let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get(link)
        else {
            return;
        };
        let listener = arrival.listener.clone();
        let granted = self.grant(&admission, &listener);
        if let Some(session) = self.sessions.get_mut(key) {
            session.link = Some(link);
            session.expiry_secs = granted.session_expiry_secs;
            session.will = admission.will.take();
        }
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        self.timers.cancel(entry.timer_at.take(), Timer::Link(link));
        let silence_max_ms = u32::from(granted.keep_alive_secs) * 1500;
        if silence_max_ms > 0 {
            let at = now + Duration::from_millis(u64::from(silence_max_ms));
            entry.timer_at = Some(at);
            self.timers.set(at, Timer::Link(link));
        }
        entry.stage = Stage::Attached(Attachment {
            session: key,
            listener,
            version: admission.version,
            bridge: admission.bridge,
            silence_max_ms,
            last_received: now,
            send_window: admission.receive_maximum.min(self.limits.inflight_max).max(1),
            packet_bytes_max: admission.packet_bytes_max,
            aliases: Vec::new(),
            rate_count: 0,
            rate_until: now,
            unsent_bytes: 0,
            unsent_control_bytes: 0,
            retained_left: RETAINED_SLICE,
            slow_at: None,
        });
        self.stats.clients_accepted += 1;
        self.stats.clients_connected += 1;
        let properties = match admission.version {
            ProtocolVersion::V5 => connack_properties(&admission, &granted, assigned.then(|| client.clone())),
            _ => ConnAckProperties::default(),
        };
        let connack = ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties,
        };
        self.outputs.push_back(Output::Send {
            link,
            packet: Packet::ConnAck(Box::new(connack)),
        });
        let identity = (*identity).clone();
        self.outputs.push_back(Output::Event(Event::ClientConnected {
            link,
            client,
            identity,
            session_present,
        }));
        self.pump(now, key);
    }

    /// What the client gets of what it asked for.
    fn grant(&self, admission: &Admission, listener: &ListenerPolicy) -> Granted {
        let limits = &self.limits;
        let asked = admission.keep_alive_secs;
        let keep_alive_max = listener.keep_alive_max_secs(limits);
        let keep_alive_secs = match admission.version {
            // Only 5.0 can be told [MQTT-3.1.2-21]; an older client keeps what it believes to have.
            ProtocolVersion::V5 if asked == 0 || asked > keep_alive_max => keep_alive_max,
            _ => asked,
        };
        Granted {
            session_expiry_secs: (admission.session_expiry_secs)
                .min(listener.session_expiry_max_secs(limits)),
            keep_alive_secs,
            receive_maximum: listener.receive_maximum(limits),
            packet_bytes_max: listener.packet_bytes_max(limits),
            topic_alias_maximum: listener.topic_alias_maximum(limits),
        }
    }
}

/// What a client gets of what it asked for.
struct Granted {
    session_expiry_secs: u32,
    keep_alive_secs: u16,
    receive_maximum: u16,
    packet_bytes_max: u32,
    topic_alias_maximum: u16,
}

fn connack_properties(
    admission: &Admission,
    granted: &Granted,
    assigned_client_id: Option<ClientId>,
) -> ConnAckProperties {
    let differs_from =
        |asked: u32| (granted.session_expiry_secs != asked).then_some(granted.session_expiry_secs);
    ConnAckProperties {
        session_expiry_secs: differs_from(admission.session_expiry_secs),
        receive_maximum: (granted.receive_maximum < u16::MAX).then_some(granted.receive_maximum),
        packet_bytes_max: Some(granted.packet_bytes_max),
        assigned_client_id, // [MQTT-3.2.2-16]
        topic_alias_maximum: (granted.topic_alias_maximum > 0).then_some(granted.topic_alias_maximum),
        server_keep_alive_secs: (granted.keep_alive_secs != admission.keep_alive_secs)
            .then_some(granted.keep_alive_secs),
        ..ConnAckProperties::default()
    }
}

impl Admission {
    fn new(connect: &Connect) -> Self {
        let properties = &connect.properties;
        let session_expiry_secs = match connect.version {
            ProtocolVersion::V5 => properties.session_expiry_secs.unwrap_or(0),
            // A session that is not clean is kept as long as we keep any.
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        Self {
            version: connect.version,
            bridge: connect.bridge,
            clean_start: connect.clean_start,
            keep_alive_secs: connect.keep_alive_secs,
            client_id: connect.client_id.as_ref().map(ClientId::detached),
            will: connect.will.as_ref().map(|will| Box::new(Testament::new(will))),
            session_expiry_secs,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_bytes_max: properties.packet_bytes_max.unwrap_or(u32::MAX),
        }
    }
}

/// A copy of what matters in a packet, free of the read buffer, and its size; `None` where no client that is
/// not in yet may send it.
fn detached(packet: Packet) -> Option<(Packet, usize)> {
    let plain = |ack: Ack| Ack {
        properties: None,
        ..ack
    };
    let small = size_of::<Packet>();
    Some(match packet {
        Packet::Publish(mut publish) => {
            let properties = publish
                .properties
                .as_deref()
                .map(super::kept::detached_properties);
            publish.topic = publish.topic.map(|topic| topic.detached());
            publish.payload = Bytes::copy_from_slice(&publish.payload);
            let bytes = publish.topic.as_ref().map_or(0, |topic| topic.as_str().len())
                + publish.payload.len()
                + properties.as_ref().map_or(0, super::kept::properties_bytes);
            publish.properties = properties.map(Box::new);
            (Packet::Publish(publish), small + bytes)
        }
        Packet::Subscribe(subscribe) => {
            let Subscribe {
                packet_id,
                mut subscriptions,
                properties,
            } = *subscribe;
            let mut bytes = 0;
            for subscription in &mut subscriptions {
                subscription.filter = subscription.filter.detached();
                bytes += small + subscription.filter.as_str().len();
            }
            let properties = SubscribeProperties {
                user_properties: UserProperties::new(),
                ..properties
            };
            (
                Packet::Subscribe(Box::new(Subscribe {
                    packet_id,
                    subscriptions,
                    properties,
                })),
                bytes,
            )
        }
        Packet::Unsubscribe(unsubscribe) => {
            let Unsubscribe {
                packet_id,
                mut filters,
                ..
            } = *unsubscribe;
            let mut bytes = 0;
            for filter in &mut filters {
                *filter = filter.detached();
                bytes += small + filter.as_str().len();
            }
            let user_properties = UserProperties::new();
            (
                Packet::Unsubscribe(Box::new(Unsubscribe {
                    packet_id,
                    filters,
                    user_properties,
                })),
                bytes,
            )
        }
        Packet::PubAck(ack) => (Packet::PubAck(plain(ack)), small),
        Packet::PubRec(ack) => (Packet::PubRec(plain(ack)), small),
        Packet::PubRel(ack) => (Packet::PubRel(plain(ack)), small),
        Packet::PubComp(ack) => (Packet::PubComp(plain(ack)), small),
        Packet::PingReq => (Packet::PingReq, small),
        Packet::Disconnect(disconnect) => {
            let session_expiry_secs = disconnect.properties.session_expiry_secs;
            let properties = DisconnectProperties {
                session_expiry_secs,
                ..DisconnectProperties::default()
            };
            (
                Packet::Disconnect(Box::new(Disconnect {
                    reason: disconnect.reason,
                    properties,
                })),
                small,
            )
        }
        Packet::Connect(_)
        | Packet::ConnAck(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp
        | Packet::Auth(_) => return None,
    })
}
