//! The way in (sections 3.1 and 3.2): CONNECT, the check of a password, and only then the session.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Account, Charge, LINK_BYTES, Use};
use super::kept::Kept;
use super::link::{Arrival, Attachment, Link, LinkId, RETAINED_SLICE, Stage, Verifying};
use super::owners::Owner;
use super::pace::Pace;
use super::session::{Session, SessionKey};
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
        peer: Option<IpAddr>,
        certificate_user: Option<Utf8String>,
    ) {
        if self.links.contains_key(link) {
            return;
        }
        self.stats.links_accepted += 1;
        let mut surplus = self.links.len() >= self.limits.connections_max;
        if surplus {
            self.limit_reached(now, "connections_max");
        }
        surplus |= !self.has_memory(now, Use::Connection, LINK_BYTES);
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
            peer,
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
                charge: Charge::new(&self.budget.account, LINK_BYTES),
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
                    verifying.charge.set(verifying.waiting_bytes);
                    if verifying.waiting.len() > WAITING_PACKETS_MAX
                        || verifying.waiting_bytes > WAITING_BYTES_MAX
                        || !self.budget.allows(Use::Packet, 0)
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
        let certificate_user = arrival.certificate_user.take();
        if surplus {
            return self.refuse(now, link, ReasonCode::QuotaExceeded);
        }
        if let Err(reason) = self.check_connect(connect) {
            return self.refuse(now, link, reason);
        }
        let admission = Admission::new(connect, &self.budget.account);
        match (certificate_user, &connect.user_name) {
            (Some(user), _) => self.admit(now, link, admission, Rc::new(Identity::User(user))),
            (None, Some(user)) => {
                let user = user.detached();
                let password = Bytes::copy_from_slice(connect.password.as_deref().unwrap_or_default());
                let Some(Link {
                    stage: Stage::Arrived(arrival),
                    timer_at,
                    ..
                }) = self.links.get_mut(link)
                else {
                    return;
                };
                let (waiting, waiting_bytes) = (Vec::new(), 0);
                let charge = Charge::new(&self.budget.account, 0);
                arrival.verifying = Some(Verifying {
                    admission,
                    user: user.clone(),
                    waiting,
                    waiting_bytes,
                    charge,
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
    fn check_connect(&self, connect: &Connect) -> Result<(), ReasonCode> {
        let limits = &self.limits;
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BadAuthenticationMethod); // [MQTT-4.12.0-1]
        }
        if !limits.allow_user_properties(&connect.properties.user_properties) {
            return Err(ReasonCode::QuotaExceeded);
        }
        match &connect.client_id {
            Some(client) if client.as_str().len() > limits.topic_bytes_max => {
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
            if bytes > limits.will_bytes_max || !limits.allow_user_properties(&properties.user_properties) {
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
        let peer = match self.links.get(link).map(|link| &link.stage) {
            Some(Stage::Arrived(arrival)) => arrival.peer,
            _ => None,
        };
        let owner = self.owners.owner(&identity, peer);
        let known = self.sessions.find(&client);
        let is_others = (known.and_then(|key| self.sessions.get(key)))
            .is_some_and(|session| session.identity != identity);
        if !is_others && !self.has_room_for(now, known, owner, &client, admission.will.as_deref()) {
            self.stats.sessions_refused += 1;
            return self.refuse(now, link, ReasonCode::QuotaExceeded);
        }
        if let Some(session) = known.and_then(|key| self.sessions.get(key)) {
            if session.identity != identity {
                return self.refuse(now, link, ReasonCode::ClientIdentifierNotValid);
            }
            if let Some(old) = session.link {
                self.stats.takeovers += 1;
                self.detach(now, old, DetachReason::TakenOver); // [MQTT-3.1.4-3]
            }
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
            self.owners.change(owner, |usage| usage.sessions += 1);
            let session = Session::new(client.clone(), identity.clone(), owner, &self.budget.account);
            self.sessions.insert(session)
        });
        let granted = self.grant(&admission);
        if let Some(session) = self.sessions.get_mut(key) {
            session.link = Some(link);
            session.expiry_secs = granted.session_expiry_secs;
            session.will = admission.will.take();
            let will = session.will.as_ref();
            self.stats.wills_bytes += will.map_or(0, |will| will.message().size_bytes as u64);
        }
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        self.timers.cancel(entry.timer_at.take(), Timer::Link(link));
        let silence_max = Duration::from_millis(u64::from(granted.keep_alive_secs) * 1500);
        entry.timer_at = Link::keep_alive_deadline(now, silence_max);
        if let Some(at) = entry.timer_at {
            self.timers.set(at, Timer::Link(link));
        }
        entry.stage = Stage::Attached(Attachment {
            session: key,
            version: admission.version,
            bridge: admission.bridge,
            silence_max,
            last_received: now,
            send_window: admission.receive_maximum.min(self.limits.inflight_max).max(1),
            packet_bytes_max: admission.packet_bytes_max,
            aliases: None,
            pace: Pace::new(now),
            unsent_bytes: 0,
            unsent_control_bytes: 0,
            retained_left: RETAINED_SLICE,
            slow_at: None,
        });
        self.stats.clients_accepted += 1;
        self.stats.clients_connected += 1;
        let properties = match admission.version {
            ProtocolVersion::V5 => {
                self.connack_properties(&admission, &granted, assigned.then(|| client.clone()))
            }
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

    /// Whether there is room for the session and the will of a client whose session is `known`.
    ///
    /// An owner that has all the sessions it may have loses the one that has been absent longest.
    fn has_room_for(
        &mut self,
        now: Instant,
        known: Option<SessionKey>,
        owner: Owner,
        client: &ClientId,
        will: Option<&Testament>,
    ) -> bool {
        if let Some(will) = will {
            let before = known.and_then(|key| self.sessions.get(key)?.will.as_ref());
            let before = before.map_or(0, |will| will.message().size_bytes);
            let others = usize::try_from(self.stats.wills_bytes).unwrap_or(usize::MAX) - before;
            if others.saturating_add(will.message().size_bytes) > self.limits.wills_bytes_total_max {
                self.limit_reached(now, "wills_bytes_total_max");
                return false;
            }
            // It was charged when it was copied.
            if !self.has_memory(now, Use::Session, 0) {
                return false;
            }
        }
        if known.is_some() {
            return true;
        }
        while self.owners.usage(owner).sessions >= self.limits.sessions_per_user_max {
            self.limit_reached_by(now, "sessions_per_user_max", Some(client.clone()));
            let absent = (self.sessions.iter())
                .filter(|(_, session)| session.owner == owner && session.link.is_none())
                .min_by_key(|(_, session)| session.left);
            let Some((key, _)) = absent else {
                return false;
            };
            self.stats.sessions_displaced += 1;
            self.end_session(now, key);
        }
        if self.sessions.len() >= self.limits.sessions_max {
            self.limit_reached(now, "sessions_max");
            return false;
        }
        self.has_memory(now, Use::Session, Session::cost_bytes(client))
    }

    /// What the client gets of what it asked for.
    fn grant(&self, admission: &Admission) -> Granted {
        let expiry_max = self.session_expiry_max_secs();
        let asked = admission.keep_alive_secs;
        let keep_alive_max = self.limits.keep_alive_max_secs;
        let keep_alive_secs = match admission.version {
            // Only 5.0 can be told [MQTT-3.1.2-21]; an older client keeps what it believes to have.
            ProtocolVersion::V5 if asked == 0 || asked > keep_alive_max => keep_alive_max,
            _ => asked,
        };
        Granted {
            session_expiry_secs: admission.session_expiry_secs.min(expiry_max),
            keep_alive_secs,
        }
    }

    /// The longest Session Expiry Interval, in seconds.
    pub(super) fn session_expiry_max_secs(&self) -> u32 {
        u32::try_from(self.limits.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
    }

    fn connack_properties(
        &self,
        admission: &Admission,
        granted: &Granted,
        assigned_client_id: Option<ClientId>,
    ) -> ConnAckProperties {
        let differs_from =
            |asked: u32| (granted.session_expiry_secs != asked).then_some(granted.session_expiry_secs);
        let limits = &self.limits;
        ConnAckProperties {
            session_expiry_secs: differs_from(admission.session_expiry_secs),
            receive_maximum: (limits.receive_maximum < u16::MAX).then_some(limits.receive_maximum.max(1)),
            packet_bytes_max: Some(limits.packet_bytes_max),
            assigned_client_id, // [MQTT-3.2.2-16]
            topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
            server_keep_alive_secs: (granted.keep_alive_secs != admission.keep_alive_secs)
                .then_some(granted.keep_alive_secs),
            ..ConnAckProperties::default()
        }
    }
}

struct Granted {
    session_expiry_secs: u32,
    keep_alive_secs: u16,
}

impl Admission {
    /// The will it brings.
    pub(super) fn will(&self) -> Option<&Kept> {
        self.will.as_deref().map(Testament::message)
    }

    fn new(connect: &Connect, account: &Account) -> Self {
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
            will: connect
                .will
                .as_ref()
                .map(|will| Box::new(Testament::new(will, account))),
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
