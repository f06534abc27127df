//! Letting a client in that has proved who it is: its session, and what it gets of what it asked for.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Admission;
use crate::auth::Identity;
use crate::auth::access::{Action, Who};
use crate::auth::acl::AmbiguousName;
use crate::broker::authenticate::Exchange;
use crate::broker::budget::Use;
use crate::broker::link::{Attachment, Link, LinkId, RETAINED_SLICE, Stage};
use crate::broker::owners::Owner;
use crate::broker::pace::Pace;
use crate::broker::session::{Session, SessionKey};
use crate::broker::tailor::{Tailoring, fits};
use crate::broker::timers::Timer;
use crate::broker::will::Testament;
use crate::broker::{Broker, DetachReason, Event, ListenerPolicy, Output, Refusal};
use crate::hooks::Interests;
use crate::mqtt::{ClientId, ConnAck, ConnAckProperties, Packet, ProtocolVersion, ReasonCode};

impl Broker {
    /// Lets a client in that has proved to be `identity`: from here on, and not before, sessions are touched.
    ///
    /// `proved` is the exchange it came in by, with the data the client is still to get.
    pub(in crate::broker) fn admit(
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
    pub(super) fn refuse_banned(&mut self, now: Instant, link: LinkId) {
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
