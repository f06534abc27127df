//! The way in (sections 3.1 and 3.2): CONNECT, the check of a password, and only then the session.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::authenticate::Exchange;
use super::budget::{Account, Charge, LINK_BYTES, Use};
use super::kept::Kept;
use super::link::{Arrival, Attachment, Link, LinkId, Proof, RETAINED_SLICE, Stage, Verifying};
use super::owners::Owner;
use super::pace::Pace;
use super::policy::MountPoint;
use super::session::{Session, SessionKey};
use super::tailor::{Tailoring, fits};
use super::timers::Timer;
use super::will::Testament;
use super::{Broker, DetachReason, Event, ListenerPolicy, Output, Refusal, Verdict};
use crate::auth::Identity;
use crate::auth::access::{Action, Who};
use crate::auth::acl::AmbiguousName;
use crate::auth::groups::Groups;
use crate::hooks::Interests;
use crate::mqtt::{
    Ack, ClientId, ConnAck, ConnAckProperties, Connect, Disconnect, DisconnectProperties, Packet,
    ProtocolVersion, ReasonCode, Subscribe, SubscribeProperties, Unsubscribe, UserProperties, Utf8String,
};

/// Connections beyond `connections_max` that are heard, so that they can be told why they may not stay.
const SURPLUS_MAX: usize = 16;

/// Packets a client may send behind its CONNECT while its password is checked: a SUBSCRIBE and a few
/// messages.
pub(super) const WAITING_PACKETS_MAX: usize = 16;

/// The bytes of these packets; small, for nobody has proved anything yet.
pub(super) const WAITING_BYTES_MAX: usize = 16 * 1024;

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
    pub(super) will: Option<Box<Testament>>,
    /// Whether the hooks have seen the will, or there are none to see it.
    pub(super) is_will_asked: bool,
    session_expiry_secs: u32,
    receive_maximum: u16,
    packet_bytes_max: u32,
    topic_alias_maximum: u16,
    wants_reasons: bool,
    wants_response_information: bool,
    /// When what proved its client expires; `None`: never.
    login_expires_at: Option<Instant>,
    /// The groups it is in by the word of what proved it.
    pub(super) groups: Groups,
}

/// What a client shows to prove who it is.
pub(super) struct Credentials {
    /// The user its verified certificate names.
    pub(super) certificate_user: Option<Utf8String>,
    /// As CONNECT says it.
    pub(super) user: Option<Utf8String>,
    /// As CONNECT says it.
    pub(super) password: Option<Bytes>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {:?}", self.user)
    }
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
        (certificate_user, certificate_client): (Option<Utf8String>, Option<Box<ClientId>>),
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
        // One too many stays to be told so, as long as there is room for that.
        let has_room = self.budget.allows(Use::Packet, LINK_BYTES);
        let is_full = self.links.len() >= self.limits.connections_max.saturating_add(SURPLUS_MAX);
        if self.stopping || is_full || !has_room {
            self.stats.connections_refused += 1;
            let reason = DetachReason::Refused(match has_room {
                true => Refusal::ConnectionsFull,
                false => Refusal::MemoryShort,
            });
            self.outputs.push_back(Output::Close { link });
            self.outputs
                .push_back(Output::Event(Event::ConnectionRefused { link, reason }));
            return;
        }
        let arrival = Arrival {
            listener,
            peer,
            certificate_user,
            certificate_client,
            surplus,
            version: None,
            wants_reasons: false,
            packet_bytes_max: u32::MAX,
            verifying: None,
        };
        if self.has_hooks_for(Interests::ARRIVAL) && !self.allows_arrival(&arrival) {
            self.stats.connections_refused += 1;
            let reason = DetachReason::Refused(Refusal::ByHook);
            self.outputs.push_back(Output::Close { link });
            self.outputs
                .push_back(Output::Event(Event::ConnectionRefused { link, reason }));
            return;
        }
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
            (
                Some(Verifying {
                    proof: Proof::Exchange(_),
                    ..
                }),
                packet,
            ) => {
                self.handle_packet_of_exchange(now, link, packet);
            }
            (None, Packet::Connect(connect)) => self.handle_connect(now, link, &connect),
            (None, _) => self.refuse(now, link, Refusal::NotConnect), // [MQTT-3.1.0-1]
            // It named no authentication method.
            (Some(_), Packet::Auth(_)) => self.refuse(now, link, Refusal::SecondConnect),
            (Some(verifying), packet) => match detached(packet) {
                Some((packet, bytes)) => {
                    verifying.waiting.push(packet);
                    verifying.waiting_bytes += bytes;
                    verifying.charge.set(verifying.waiting_bytes);
                    if verifying.waiting.len() > WAITING_PACKETS_MAX
                        || verifying.waiting_bytes > WAITING_BYTES_MAX
                        || !self.budget.allows(Use::Packet, 0)
                    {
                        self.refuse(now, link, Refusal::TooEager);
                    }
                }
                None => self.refuse(now, link, Refusal::SecondConnect),
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
        arrival.wants_reasons = connect.properties.request_problem_information != Some(false);
        arrival.packet_bytes_max = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
        let surplus = arrival.surplus;
        let peer = arrival.peer;
        let listener = arrival.listener.clone();
        let certificate_user = arrival.certificate_user.take();
        let own_client = arrival.certificate_client.clone();
        if !listener.versions.contains(connect.version) {
            // [MQTT-3.1.2-2]
            return self.refuse(now, link, Refusal::Version(connect.version));
        }
        if surplus {
            return self.refuse(now, link, Refusal::ConnectionsFull);
        }
        if let Err(reason) = self.check_connect(connect, &listener) {
            return self.refuse(now, link, reason);
        }
        // Before anybody is asked for a proof, which costs much more than this.
        let user = certificate_user.as_ref().or(connect.user_name.as_ref());
        let client = connect.client_id.as_ref().or(own_client.as_deref());
        if self.is_banned(client, user, peer) {
            return self.refuse_banned(now, link);
        }
        let mount_point = listener.mount_point.as_ref();
        let admission = match Admission::new(connect, mount_point, &self.budget.account) {
            Ok(admission) => admission,
            Err(refusal) => {
                self.stats.publishes_denied += u64::from(refusal == Refusal::WillDenied);
                return self.refuse(now, link, refusal);
            }
        };
        // It is kept from here on, and nobody has proved anything yet.
        if admission.will.is_some() && !self.has_memory(now, Use::Session, 0) {
            return self.refuse(now, link, Refusal::MemoryShort);
        }
        if let Some(method) = &connect.properties.authentication_method {
            let asked = (connect, admission);
            return self.begin_authentication(now, link, asked, method, certificate_user);
        }
        let verifying = Verifying::new(admission, Proof::Unasked, &self.budget.account);
        let credentials = Credentials {
            certificate_user,
            user: connect.user_name.as_ref().map(Utf8String::detached),
            password: connect.password.as_deref().map(Bytes::copy_from_slice),
        };
        match self.has_hooks_for(Interests::AUTHENTICATE) {
            true => self.ask_about_login(now, link, verifying, credentials, 0),
            false => self.log_in(now, link, verifying, credentials),
        }
    }

    /// Lets a client in or asks for its proof, as certificate, password file and listener have it.
    pub(super) fn log_in(
        &mut self,
        now: Instant,
        link: LinkId,
        verifying: Verifying,
        credentials: Credentials,
    ) {
        let Some(Stage::Arrived(arrival)) = self.links.get(link).map(|link| &link.stage) else {
            return;
        };
        let anonymous = arrival.listener.anonymous;
        let Credentials {
            certificate_user,
            user,
            password,
        } = credentials;
        match (certificate_user, user) {
            (Some(user), _) => self.admit_with_all(now, link, verifying, Rc::new(Identity::User(user))),
            (None, Some(user)) => self.ask_for_check(now, link, verifying, user, password),
            // Its password may be a token, which names the user.
            (None, None) if self.settings.takes_tokens && password.is_some() => {
                self.ask_for_check(now, link, verifying, Utf8String::default(), password);
            }
            (None, None) if anonymous => {
                let anonymous = self.anonymous.clone();
                self.admit_with_all(now, link, verifying, anonymous);
            }
            (None, None) => self.refuse(now, link, Refusal::NoCredentials), // [MQTT-3.1.4-2]
        }
    }

    /// Has a password checked.
    fn ask_for_check(
        &mut self,
        now: Instant,
        link: LinkId,
        mut verifying: Verifying,
        user: Utf8String,
        password: Option<Bytes>,
    ) {
        let password = password.unwrap_or_default();
        verifying.proof = Proof::Password(user.clone());
        if self.wait_for_proof(now, link, verifying, self.limits.connect_timeout) {
            self.outputs.push_back(Output::Verify { link, user, password });
        }
    }

    /// Lets a client in, with what it sent behind its CONNECT.
    pub(super) fn admit_with_all(
        &mut self,
        now: Instant,
        link: LinkId,
        verifying: Verifying,
        identity: Rc<Identity>,
    ) {
        let Verifying {
            admission, waiting, ..
        } = verifying;
        self.admit(now, link, admission, identity, None);
        for packet in waiting {
            self.handle_packet(now, link, packet); // [MQTT-3.1.4-5]
        }
    }

    /// Keeps a CONNECT until its client has proved who it is, for as long as `timeout`; whether the link is there.
    pub(super) fn wait_for_proof(
        &mut self,
        now: Instant,
        link: LinkId,
        verifying: Verifying,
        timeout: Duration,
    ) -> bool {
        let Some(Link {
            stage: Stage::Arrived(arrival),
            timer_at,
            ..
        }) = self.links.get_mut(link)
        else {
            return false;
        };
        arrival.verifying = Some(verifying);
        // The client has done its part in time; the check, which may queue behind others, has its own.
        self.timers.cancel(*timer_at, Timer::Link(link));
        *timer_at = now.checked_add(timeout);
        if let Some(at) = *timer_at {
            self.timers.set(at, Timer::Link(link));
        }
        true
    }

    /// What is wrong with a CONNECT whoever sent it.
    fn check_connect(&self, connect: &Connect, listener: &ListenerPolicy) -> Result<(), Refusal> {
        let limits = &self.limits;
        if !limits.allow_user_properties(&connect.properties.user_properties) {
            return Err(Refusal::UserProperties);
        }
        match &connect.client_id {
            Some(client) if client.as_str().len() > limits.topic_bytes_max => {
                return Err(Refusal::ClientIdTooLong); // [MQTT-3.1.3-8]
            }
            Some(client)
                if listener.strict_client_ids
                    && connect.version == ProtocolVersion::V31
                    && client.as_str().chars().count() > CLIENT_ID_CHARS_MAX_3_1 =>
            {
                return Err(Refusal::ClientIdTooLong);
            }
            // [MQTT-3.1.3-5]: and with any characters.
            Some(_) => {}
            // 3.1 knows no empty identifier, 3.1.1 only with a clean session [MQTT-3.1.3-8 of 3.1.1].
            None if connect.version == ProtocolVersion::V31 => {
                return Err(Refusal::ClientIdEmpty);
            }
            None if connect.version == ProtocolVersion::V311 && !connect.clean_start => {
                return Err(Refusal::ClientIdEmpty);
            }
            None => {}
        }
        if connect
            .user_name
            .as_ref()
            .is_some_and(|user| user.as_str().len() > limits.topic_bytes_max)
        {
            return Err(Refusal::BadCredentials);
        }
        if let Some(will) = &connect.will {
            if !self.is_topic_within_limits(will.topic.as_str()) {
                return Err(Refusal::WillTopic);
            }
            let properties = &will.properties.publish;
            let bytes =
                will.topic.as_str().len() + will.payload.len() + super::kept::properties_bytes(properties);
            if bytes > limits.will_bytes_max || !limits.allow_user_properties(&properties.user_properties) {
                return Err(Refusal::WillTooLarge);
            }
            if self.is_falsely_utf8(properties.payload_is_utf8, &will.payload) {
                return Err(Refusal::WillNotUtf8);
            }
        }
        Ok(())
    }

    /// The answer to [`Output::Verify`].
    pub(super) fn handle_verified(&mut self, now: Instant, link: LinkId, verdict: Verdict) {
        let Some((asked, user, anonymous)) = self.take_asked(link) else {
            return;
        };
        let identity = match verdict {
            Verdict::Allow => Rc::new(Identity::User(user)),
            Verdict::NoUsers if anonymous => self.anonymous.clone(),
            Verdict::NoUsers | Verdict::Deny => {
                // What waited behind CONNECT is dropped unread [MQTT-3.1.4-6].
                return self.refuse(now, link, Refusal::BadCredentials);
            }
            // [MQTT-4.8.0-2 of 3.1.1]
            Verdict::Unavailable => return self.refuse(now, link, Refusal::CheckUnavailable),
            Verdict::TooManyFailures => return self.refuse(now, link, Refusal::TooManyFailures),
        };
        self.admit_with_all(now, link, asked, identity);
    }

    /// Takes what waits for the check of a password, the user that is to be proved, and whether the door is open to
    /// all; `None` where the link is gone, or already in: nothing was asked.
    pub(super) fn take_asked(&mut self, link: LinkId) -> Option<(Verifying, Utf8String, bool)> {
        let Stage::Arrived(arrival) = &mut self.links.get_mut(link)?.stage else {
            return None;
        };
        let anonymous = arrival.listener.anonymous;
        let is_asked = |verifying: &mut Verifying| matches!(verifying.proof, Proof::Password(_));
        let verifying = arrival.verifying.take_if(is_asked)?;
        let Proof::Password(user) = &verifying.proof else {
            return None;
        };
        let user = user.clone();
        Some((verifying, user, anonymous))
    }

    /// Lets a client in that has proved to be `identity`: from here on, and not before, sessions are touched.
    ///
    /// `proved` is the exchange it came in by, with the data the client is still to get.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        link: LinkId,
        mut admission: Admission,
        identity: Rc<Identity>,
        proved: Option<(Box<Exchange>, Option<Bytes>)>,
    ) {
        let Some(Link {
            stage: Stage::Arrived(arrival),
            ..
        }) = self.links.get(link)
        else {
            return;
        };
        let (listener, peer) = (arrival.listener.clone(), arrival.peer);
        if admission.will.is_some()
            && !admission.is_will_asked
            && self.has_hooks_for(Interests::MESSAGE | Interests::PUBLISH)
        {
            return self.ask_about_will(now, link, admission, identity, proved, None);
        }
        let own = arrival.certificate_client.clone();
        let asked = admission.client_id.take();
        let is_others = |client: &ClientId| {
            own.as_deref().is_some_and(|own| own != client) || !listener.client_ids.allow(&identity, client)
        };
        let assigned = asked.is_none();
        let (client, assigned) = match asked.or_else(|| own.as_deref().cloned()) {
            Some(client) if is_others(&client) => {
                return self.refuse(now, link, Refusal::ClientIdOfOther); // [MQTT-3.1.3-8]
            }
            Some(client) if client.as_str().len() > self.limits.topic_bytes_max => {
                return self.refuse(now, link, Refusal::ClientIdTooLong); // [MQTT-3.1.3-8]
            }
            Some(client) => (client, assigned), // [MQTT-3.1.3-6] [MQTT-3.1.3-7]
            None => {
                let unused = self.assigned_ids.next();
                match unused.and_then(|unused| listener.client_ids.assign(&identity, unused)) {
                    Some(client) => (client, true), // [MQTT-3.1.3-6] [MQTT-3.1.3-7]
                    None => return self.refuse(now, link, Refusal::ClientIdNotMade),
                }
            }
        };
        let who = Who::client(&identity, &client).in_groups(&admission.groups);
        match self.rights.ambiguity(who) {
            None => {}
            Some(AmbiguousName::Client) => return self.refuse(now, link, Refusal::ClientIdAmbiguous),
            Some(AmbiguousName::User) => return self.refuse(now, link, Refusal::UserNameAmbiguous),
        }
        if let Some(will) = &admission.will
            && !self
                .rights
                .authorize(who, Action::Publish, will.message().topic_str())
        {
            self.stats.publishes_denied += 1;
            return self.refuse(now, link, Refusal::WillDenied);
        }
        let user = match &*identity {
            Identity::User(user) => Some(user),
            Identity::Anonymous | Identity::Gateway => None,
        };
        if self.is_banned(Some(&client), user, peer) {
            return self.refuse_banned(now, link); // since it was asked for its proof
        }
        let granted = self.grant(&admission, &listener);
        let (exchange, data) = proved.unzip();
        let properties = match admission.version {
            ProtocolVersion::V5 => ConnAckProperties {
                assigned_client_id: assigned.then(|| client.clone()), // [MQTT-3.2.2-16]
                response_information: (admission.wants_response_information)
                    .then(|| self.settings.response_information(&client))
                    .flatten(), // [MQTT-3.1.2-28]
                authentication_method: exchange.as_ref().map(|exchange| exchange.method.clone()), // [MQTT-4.12.0-5]
                authentication_data: data.flatten(),
                ..connack_properties(&admission, &granted)
            },
            _ => ConnAckProperties::default(),
        };
        let mut connack = Box::new(ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties,
        });
        if admission.packet_bytes_max < u32::MAX
            && !fits(
                &Packet::ConnAck(connack.clone()),
                admission.version,
                admission.packet_bytes_max,
            )
        {
            return self.refuse(now, link, Refusal::PacketTooLarge); // [MQTT-3.1.2-24]
        }
        let owner = self.owners.owner(&identity, peer);
        let known = self.sessions.find(&client); // [MQTT-3.1.3-2]
        if let Some(session) = known.and_then(|key| self.sessions.get(key))
            && (session.identity != identity || session.mount_point != listener.mount_point)
        {
            return self.refuse(now, link, Refusal::ClientIdTaken);
        }
        if granted.session_expiry_secs > 0 && known.is_none() && !self.can_promise() {
            self.stats.sessions_refused += 1;
            return self.refuse(now, link, Refusal::NotStored);
        }
        let (clean_start, will) = (admission.clean_start, admission.will.as_deref());
        if let Err(refusal) = self.make_room_for(now, known, owner, &client, (clean_start, will)) {
            self.stats.sessions_refused += 1;
            return self.refuse(now, link, refusal);
        }
        if let Some(session) = known.and_then(|key| self.sessions.get(key))
            && let Some(old) = session.link
        {
            self.stats.takeovers += 1;
            self.detach(now, old, DetachReason::TakenOver); // [MQTT-3.1.4-3]
        }
        // The session may have ended with the connection that was taken over.
        let kept = match self.sessions.find(&client) {
            Some(key) if admission.clean_start => {
                self.end_session(now, key); // [MQTT-3.1.2-4] [MQTT-3.1.4-4]
                None
            }
            kept => kept,
        };
        if let Some(key) = kept {
            self.resume_session(key); // [MQTT-3.1.2-5]
        }
        let session_present = kept.is_some(); // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
        connack.session_present = session_present;
        let key = kept.unwrap_or_else(|| {
            self.stats.sessions += 1; // [MQTT-3.1.2-6]
            self.owners.change(owner, |usage| usage.sessions += 1);
            self.sessions.insert(Session::new(
                client.clone(),
                identity.clone(),
                owner,
                listener.mount_point.clone(),
                &self.budget,
                &self.queues,
            ))
        });
        if let Some(session) = self.sessions.get_mut(key) {
            session.link = Some(link);
            if session.groups != admission.groups {
                self.retained.forget_author(key); // what it publishes from here on is in the name of others
                session.set_groups(std::mem::take(&mut admission.groups));
            }
            session.expiry_secs = granted.session_expiry_secs;
            session.will = admission.will.take(); // [MQTT-3.1.2-7]
            let will = session.will.as_ref();
            self.stats.wills_bytes += will.map_or(0, |will| will.message().size_bytes() as u64);
        }
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        self.timers.cancel(entry.timer_at.take(), Timer::Link(link));
        let silence_max_ms = u32::from(granted.keep_alive_secs) * 1500;
        let silence_max = Duration::from_millis(u64::from(silence_max_ms));
        entry.timer_at = Link::keep_alive_deadline(now, silence_max);
        if let Some(at) = entry.timer_at {
            self.timers.set(at, Timer::Link(link));
        }
        if let Some(at) = admission.login_expires_at {
            self.timers.set(at, Timer::LoginExpiry(link));
        }
        self.attachments += 1;
        entry.stage = Stage::Attached(Attachment {
            session: key,
            version: admission.version,
            bridge: admission.bridge,
            silence_max_ms,
            last_received: now,
            // [MQTT-4.9.0-1]
            send_window: admission.receive_maximum.min(self.limits.inflight_max).max(1),
            unreleased: 0,
            tailoring: Tailoring::new(
                admission.packet_bytes_max,
                listener.mount_point.clone(),
                admission.topic_alias_maximum.min(granted.topic_alias_maximum),
                &self.budget,
            ),
            aliases: None, // [MQTT-3.3.2-7]
            wants_reasons: admission.wants_reasons,
            awaits_connack: false,
            exchange,
            listener,
            peer,
            login_expires_at: admission.login_expires_at.map(Box::new),
            pace: Pace::new(now),
            unsent_bytes: 0,
            unsent_control_bytes: 0,
            retained_left: RETAINED_SLICE,
            slow_at: None,
        });
        self.stats.clients_accepted += 1;
        self.stats.clients_connected += 1;
        self.stats.clients_connected_max = self.stats.clients_connected_max.max(self.stats.clients_connected);
        // [MQTT-3.1.4-5] [MQTT-3.2.0-1]: before anything else.
        self.send_connack(link, key, peer, Packet::ConnAck(connack));
        let identity = (*identity).clone();
        self.outputs.push_back(Output::Event(Event::ClientConnected {
            link,
            client,
            identity,
            session_present,
        }));
        if self.has_hooks_for(Interests::CONNECTED) {
            self.tell_connected(link);
        }
        self.pump(now, key);
    }

    #[inline(never)]
    fn refuse_banned(&mut self, now: Instant, link: LinkId) {
        self.stats.connections_banned += 1;
        self.refuse(now, link, Refusal::Banned);
    }

    /// Sees to it that there is room for the session and the will of a client whose session is `known`.
    ///
    /// An owner that has all the sessions it may have loses the one that has been absent longest.
    ///
    /// # Errors
    /// What there is no room for.
    fn make_room_for(
        &mut self,
        now: Instant,
        known: Option<SessionKey>,
        owner: Owner,
        client: &ClientId,
        (clean_start, will): (bool, Option<&Testament>),
    ) -> Result<(), Refusal> {
        if let Some(will) = will {
            let before = known.and_then(|key| self.sessions.get(key)?.will.as_ref());
            let before = before.map_or(0, |will| will.message().size_bytes());
            let others = usize::try_from(self.stats.wills_bytes).unwrap_or(usize::MAX) - before;
            if others.saturating_add(will.message().size_bytes()) > self.limits.wills_bytes_total_max {
                self.limit_reached(now, "wills_bytes_total_max");
                return Err(Refusal::WillsFull);
            }
            // It was charged when it was copied.
            if !self.has_memory(now, Use::Session, 0) {
                return Err(Refusal::MemoryShort);
            }
        }
        let known = known.and_then(|key| self.sessions.get(key));
        let goes_on = |session: &Session| {
            let ends = clean_start || (session.link.is_some() && session.expiry_secs == 0);
            // Nobody is counted who comes from another address for a session that stays that of the first.
            session.owner == owner || !ends
        };
        if known.is_some_and(goes_on) {
            return Ok(());
        }
        let takes_a_place = known.is_none();
        while self.owners.usage(owner).sessions >= self.limits.sessions_per_user_max {
            self.limit_reached_by(now, "sessions_per_user_max", Some(client.clone()));
            let absent = (self.sessions.iter())
                .filter(|(_, session)| session.owner == owner && session.link.is_none())
                .min_by_key(|(_, session)| session.left);
            let Some((key, _)) = absent else {
                return Err(Refusal::SessionsOfUserFull);
            };
            self.stats.sessions_displaced += 1;
            self.end_session(now, key);
        }
        if !takes_a_place {
            return Ok(());
        }
        if self.sessions.len() >= self.limits.sessions_max {
            self.limit_reached(now, "sessions_max");
            return Err(Refusal::SessionsFull);
        }
        match self.has_memory(now, Use::Session, Session::cost_bytes(client)) {
            true => Ok(()),
            false => Err(Refusal::MemoryShort),
        }
    }

    /// What the client gets of what it asked for.
    fn grant(&self, admission: &Admission, listener: &ListenerPolicy) -> Granted {
        let limits = &self.limits;
        let asked = admission.keep_alive_secs;
        let keep_alive_max = listener.keep_alive_max_secs(limits);
        let keep_alive_secs = match admission.version {
            // Only 5.0 can be told [MQTT-3.1.2-21]; an older client keeps what it believes to have.
            ProtocolVersion::V5 if asked == 0 || asked > keep_alive_max => keep_alive_max,
            _ => asked, // [MQTT-3.2.2-22]
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

/// What CONNACK tells of what was granted; that wildcards, shared subscriptions, identifiers, retained messages and
/// every QoS are available goes without saying [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-12] [MQTT-3.2.2-13].
///
/// A CONNACK that lets in has no Reason String, and none has a User Property [MQTT-3.2.2-20].
fn connack_properties(admission: &Admission, granted: &Granted) -> ConnAckProperties {
    let differs_from =
        |asked: u32| (granted.session_expiry_secs != asked).then_some(granted.session_expiry_secs);
    ConnAckProperties {
        session_expiry_secs: differs_from(admission.session_expiry_secs),
        receive_maximum: (granted.receive_maximum < u16::MAX).then_some(granted.receive_maximum),
        packet_bytes_max: Some(granted.packet_bytes_max),
        topic_alias_maximum: (granted.topic_alias_maximum > 0).then_some(granted.topic_alias_maximum),
        server_keep_alive_secs: (granted.keep_alive_secs != admission.keep_alive_secs)
            .then_some(granted.keep_alive_secs),
        ..ConnAckProperties::default()
    }
}

impl Admission {
    /// The client identifier it asks for.
    pub(super) fn client_id(&self) -> Option<&ClientId> {
        self.client_id.as_ref()
    }

    /// Notes that what proved its client expires at `at`.
    pub(super) fn expire_at(&mut self, at: Instant) {
        self.login_expires_at = Some(at);
    }

    /// The will it brings.
    pub(super) fn will_message(&self) -> Option<&Kept> {
        self.will.as_deref().map(Testament::message)
    }

    /// # Errors
    /// What is wrong with a will that is to be mounted.
    fn new(connect: &Connect, mount_point: Option<&MountPoint>, account: &Account) -> Result<Self, Refusal> {
        let properties = &connect.properties;
        let session_expiry_secs = match connect.version {
            ProtocolVersion::V5 => properties.session_expiry_secs.unwrap_or(0),
            // A session that is not clean is kept as long as we keep any.
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let will = match (&connect.will, mount_point) {
            (None, _) => None,
            (Some(will), None) => Some(Testament::new(will, &will.topic, account)),
            (Some(will), Some(_)) if will.topic.is_reserved() => return Err(Refusal::WillDenied),
            (Some(will), Some(mount_point)) => {
                let topic = mount_point.mounted(&will.topic).ok_or(Refusal::WillTopic)?;
                Some(Testament::new(will, &topic, account))
            }
        };
        Ok(Self {
            version: connect.version,
            bridge: connect.bridge,
            clean_start: connect.clean_start,
            keep_alive_secs: connect.keep_alive_secs,
            client_id: connect.client_id.as_ref().map(ClientId::detached),
            will: will.map(Box::new),
            is_will_asked: false,
            session_expiry_secs,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_bytes_max: properties.packet_bytes_max.unwrap_or(u32::MAX),
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            wants_reasons: properties.request_problem_information != Some(false),
            wants_response_information: properties.request_response_information == Some(true),
            login_expires_at: None,
            groups: Groups::default(),
        })
    }
}

/// A copy of what matters in a packet, free of the read buffer, and its size; `None` where no client that is
/// not in yet may send it.
pub(super) fn detached(packet: Packet) -> Option<(Packet, usize)> {
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
        Packet::Auth(auth) => {
            let mut auth = *auth;
            let properties = &mut auth.properties;
            properties.user_properties = UserProperties::new();
            properties.reason_string = None;
            let method = properties.authentication_method.take();
            properties.authentication_method = method.map(|method| method.detached());
            let data = properties.authentication_data.take();
            let bytes = data.as_ref().map_or(0, Bytes::len);
            properties.authentication_data = data.map(|data| Bytes::copy_from_slice(&data));
            (Packet::Auth(Box::new(auth)), small + bytes)
        }
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
        | Packet::PingResp => return None,
    })
}
