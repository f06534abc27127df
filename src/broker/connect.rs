//! The way in (sections 3.1 and 3.2): CONNECT, the check of a password, and only then the session.

mod admission;
mod admit;
mod waiting;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Charge, LINK_BYTES, Use};
use super::link::{Arrival, Link, LinkId, Proof, Stage, Verifying};
use super::timers::Timer;
use super::{Broker, DetachReason, Event, ListenerPolicy, Output, Refusal, Verdict};
use crate::auth::Identity;
use crate::hooks::Interests;
use crate::mqtt::{ClientId, Connect, Packet, ProtocolVersion, Utf8String};

pub(super) use admission::{Admission, Credentials};
pub(super) use waiting::{WAITING_BYTES_MAX, WAITING_PACKETS_MAX, detached};

/// Connections beyond `connections_max` that are heard, so that they can be told why they may not stay.
const SURPLUS_MAX: usize = 16;

/// The longest client identifier that 3.1 knows, in characters.
const CLIENT_ID_CHARS_MAX_3_1: usize = 23;

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
}
