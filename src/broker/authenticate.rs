//! Enhanced authentication (section 4.12): the exchange of AUTH packets, before CONNACK and on a living
//! connection.
//!
//! The broker keeps the order of the exchange and its time limits; what the data means is known to the hook that speaks
//! the method. It is asked at once; an answer that it gives later holds up nobody but the exchange.

use std::time::Instant;

use bytes::Bytes;

use super::connect::{Admission, Credentials};
use super::hooked::{client_of, login_of};
use super::link::{Link, LinkId, Proof, Stage, Verifying};
use super::session::Session;
use super::tailor::fits;
use super::timers::Timer;
use super::{Broker, DetachReason, Refusal};
use crate::auth::Identity;
use crate::hooks::{ExchangeEnd, ExchangeId, Judgement, Moment, Proved, Question, Step};
use crate::mqtt::{Auth, AuthProperties, Connect, Packet, ProtocolVersion, ReasonCode, Utf8String};

/// One exchange of AUTH packets, and on a living connection the next one.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Of CONNECT, for as long as the connection lives.
    pub(super) method: Utf8String,
    /// The exchange that is open, or was last.
    id: ExchangeId,
    pub(super) turn: Turn,
    /// When the client must have done all its parts of it.
    ends_at: Instant,
    /// When whose turn it is must have done its part, on a living connection; [`Timer::Authentication`] runs until
    /// then. Before CONNACK it is the link's own deadline.
    pub(super) due: Option<Instant>,
    /// The user the verified certificate names, until the client is in.
    certificate_user: Option<Utf8String>,
}

/// Whose part of an exchange comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody's: it is over.
    Nobody,
    /// That of the hook, which is asked this.
    Judge(Question),
    /// The client's.
    Client,
}

impl Broker {
    /// CONNECT names an authentication method.
    pub(super) fn begin_authentication(
        &mut self,
        now: Instant,
        link: LinkId,
        (connect, admission): (&Connect, Admission),
        method: &Utf8String,
        certificate_user: Option<Utf8String>,
    ) {
        let Some(hooked) = self.hooked.as_mut().filter(|hooked| hooked.speaks(method)) else {
            return self.refuse(now, link, Refusal::AuthenticationMethod); // [MQTT-4.12.0-1]
        };
        let (id, question) = (hooked.next_exchange(), hooked.next_question(link));
        let method = method.detached();
        let exchange = Exchange {
            method: method.clone(),
            id,
            turn: Turn::Judge(question),
            ends_at: now.checked_add(self.limits.connect_timeout).unwrap_or(now),
            due: None,
            certificate_user: certificate_user.clone(),
        };
        let proof = Proof::Exchange(Box::new(exchange));
        let verifying = Verifying::new(admission, proof, &self.budget.account);
        if !self.wait_for_proof(now, link, verifying, self.limits.connect_timeout) {
            return;
        }
        let (Some(hooked), Some(Stage::Arrived(arrival))) =
            (&mut self.hooked, self.links.get(link).map(|link| &link.stage))
        else {
            return;
        };
        let credentials = Credentials {
            certificate_user,
            user: connect.user_name.clone(),
            password: connect.password.clone(),
        };
        let login = login_of(arrival, connect.client_id.as_ref(), &credentials);
        let step = Step {
            exchange: id,
            method: &method,
            data: connect.properties.authentication_data.as_deref(),
            moment: Moment::Begin(&login),
        };
        let judgement = hooked.judge(question, &step);
        self.handle_judgement(now, link, judgement);
    }

    /// A packet before CONNACK of a client that named a method: AUTH and DISCONNECT are all it may send
    /// [MQTT-3.1.2-30].
    pub(super) fn handle_packet_of_exchange(&mut self, now: Instant, link: LinkId, packet: Packet) {
        match packet {
            Packet::Auth(auth) => self.handle_auth(now, link, &auth),
            Packet::Disconnect(disconnect) => {
                self.detach(now, link, DetachReason::ClientDisconnect(disconnect.reason));
            }
            _ => self.refuse(now, link, Refusal::NotAuth),
        }
    }

    /// AUTH, before CONNACK to go on with the exchange, on a living connection also to authenticate again
    /// (section 4.12.1).
    pub(super) fn handle_auth(&mut self, now: Instant, link: LinkId, auth: &Auth) {
        let ends_at = now.checked_add(self.limits.connect_timeout).unwrap_or(now);
        let (Some(hooked), Some(known)) = (&mut self.hooked, self.links.get_mut(link)) else {
            return self.refuse(now, link, Refusal::AuthWithoutMethod); // [MQTT-4.12.0-7]
        };
        let Some(exchange) = known.exchange_mut() else {
            return self.refuse(now, link, Refusal::AuthWithoutMethod); // [MQTT-4.12.0-7]
        };
        let is_again = match (auth.reason, exchange.turn) {
            // Before CONNACK it is always somebody's turn.
            (ReasonCode::Reauthenticate, Turn::Nobody) => true,
            (ReasonCode::ContinueAuthentication, Turn::Client) => false,
            _ => return self.refuse(now, link, Refusal::UnexpectedAuth), // [MQTT-4.12.0-3]
        };
        if auth.properties.authentication_method.as_ref() != Some(&exchange.method) {
            return self.refuse(now, link, Refusal::OtherMethod); // [MQTT-4.12.1-1]
        }
        if is_again {
            exchange.id = hooked.next_exchange();
            exchange.ends_at = ends_at;
        }
        let question = hooked.next_question(link);
        exchange.turn = Turn::Judge(question);
        let (id, method) = (exchange.id, exchange.method.clone());
        let client = client_of(&self.links, &self.sessions, link).filter(|_| is_again);
        let step = Step {
            exchange: id,
            method: &method,
            data: auth.properties.authentication_data.as_deref(),
            moment: client.as_ref().map_or(Moment::Next, Moment::Again),
        };
        let judgement = hooked.judge(question, &step);
        self.handle_judgement(now, link, judgement);
    }

    /// The hook gives its answer later; void where nobody waits for it any more.
    pub(super) fn handle_late_judgement(&mut self, now: Instant, question: Question, judgement: Judgement) {
        let link = Self::link_of(question);
        let exchange = self.links.get_mut(link).and_then(Link::exchange_mut);
        if exchange.is_some_and(|exchange| exchange.turn == Turn::Judge(question)) {
            let judgement = match judgement {
                Judgement::Later => Judgement::Unavailable,
                judgement => judgement,
            };
            self.handle_judgement(now, link, judgement);
        }
    }

    /// The hook has judged the client's part of an exchange.
    fn handle_judgement(&mut self, now: Instant, link: LinkId, judgement: Judgement) {
        if judgement.data().is_some_and(|data| data.len() > DATA_BYTES_MAX) {
            return self.refuse(now, link, Refusal::CheckUnavailable);
        }
        match judgement {
            Judgement::Continue { data } => self.go_on_with_exchange(now, link, data),
            Judgement::Allow(proved) => self.prove(now, link, *proved),
            Judgement::Deny(reason) => self.refuse(now, link, Refusal::AuthenticationDenied(reason)), // [MQTT-4.12.0-4]
            Judgement::Unavailable => self.refuse(now, link, Refusal::CheckUnavailable),
            Judgement::Later => {
                self.stats.hook_answers_awaited += 1;
                let timeout = self.hooked.as_ref().map(|hooked| hooked.timeout());
                let due = timeout.and_then(|timeout| now.checked_add(timeout));
                self.watch_exchange(link, due.unwrap_or(now));
            }
        }
    }

    /// It is the client's turn.
    fn go_on_with_exchange(&mut self, now: Instant, link: LinkId, data: Option<Bytes>) {
        let Some(exchange) = self.links.get_mut(link).and_then(Link::exchange_mut) else {
            return;
        };
        exchange.turn = Turn::Client;
        let (method, ends_at) = (exchange.method.clone(), exchange.ends_at);
        if ends_at <= now {
            return self.end_late_exchange(now, link);
        }
        self.watch_exchange(link, ends_at);
        self.send_auth(now, link, ReasonCode::ContinueAuthentication, method, data); // [MQTT-4.12.0-2]
    }

    /// Sees to it that whose turn it is has done its part by `due`.
    fn watch_exchange(&mut self, link: LinkId, due: Instant) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        let (running, timer) = match &mut known.stage {
            Stage::Arrived(_) => (&mut known.timer_at, Timer::Link(link)),
            Stage::Attached(attachment) => match &mut attachment.exchange {
                Some(exchange) => (&mut exchange.due, Timer::Authentication(link)),
                None => return,
            },
        };
        self.timers.cancel(running.replace(due), timer);
        self.timers.set(due, timer);
    }

    /// The hook says that the client has proved who it is.
    fn prove(&mut self, now: Instant, link: LinkId, proved: Proved) {
        let Proved {
            user,
            groups,
            expires_at,
            data,
        } = proved;
        if expires_at.is_some_and(|at| at <= now) {
            return self.refuse(now, link, Refusal::AuthenticationFailed);
        }
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        let attachment = match &mut known.stage {
            Stage::Arrived(arrival) => {
                let Some(mut verifying) = arrival.verifying.take() else {
                    return;
                };
                let Proof::Exchange(mut exchange) = std::mem::replace(&mut verifying.proof, Proof::Unasked)
                else {
                    return;
                };
                exchange.turn = Turn::Nobody;
                let user = user.or(exchange.certificate_user.take());
                if let Some(hooked) = &mut self.hooked {
                    hooked.end_exchange(&exchange.method, exchange.id, ExchangeEnd::Allowed);
                }
                let identity = self.identity_of(user);
                let mut admission = verifying.admission;
                admission.groups = groups;
                if let Some(at) = expires_at {
                    admission.expire_at(at);
                }
                return self.admit(now, link, admission, identity, Some((exchange, data)));
            }
            Stage::Attached(attachment) => attachment,
        };
        let is_same = |session: &&mut Session| match (&user, &*session.identity) {
            (None, _) => true,
            (Some(user), Identity::User(known)) => user == known,
            (Some(_), Identity::Anonymous | Identity::Gateway) => false,
        };
        let key = attachment.session;
        let Some(session) = self.sessions.get_mut(key).filter(is_same) else {
            // A session belongs to one identity for as long as it lives.
            return self.refuse(now, link, Refusal::AuthenticationFailed); // [MQTT-4.12.1-2]
        };
        let mut is_other = false;
        if session.groups != groups {
            self.retained.forget_author(key); // what it publishes from here on is in the name of others
            session.set_groups(groups);
            self.attachments += 1; // what it may receive was found out under the old ones
            is_other = true;
        }
        let expired_at = attachment.login_expires_at.take().map(|at| *at);
        attachment.login_expires_at = expires_at.map(Box::new);
        self.timers.cancel(expired_at, Timer::LoginExpiry(link));
        if let Some(at) = expires_at {
            self.timers.set(at, Timer::LoginExpiry(link));
        }
        if is_other {
            self.store_session(key);
        }
        if let Some(method) = self.end_exchange(link, ExchangeEnd::Allowed) {
            self.send_auth(now, link, ReasonCode::Success, method, data);
        }
    }

    /// Ends the exchange that is open on a link that stays, or whose end is told otherwise; its method.
    fn end_exchange(&mut self, link: LinkId, end: ExchangeEnd) -> Option<Utf8String> {
        let exchange = self.links.get_mut(link)?.exchange_mut()?;
        exchange.turn = Turn::Nobody;
        self.timers
            .cancel(exchange.due.take(), Timer::Authentication(link));
        let method = exchange.method.clone();
        if let Some(hooked) = &mut self.hooked {
            hooked.end_exchange(&exchange.method, exchange.id, end);
        }
        Some(method)
    }

    /// A link has ended: with it the exchange that was open on it.
    #[inline(never)]
    pub(super) fn forget_exchange(&mut self, link: LinkId, ended: &Link, reason: DetachReason) {
        let Some(exchange) = ended.exchange() else {
            return;
        };
        self.timers.cancel(exchange.due, Timer::Authentication(link));
        let end = match reason {
            DetachReason::Refused(_) | DetachReason::Malformed(_) => ExchangeEnd::Refused,
            _ => ExchangeEnd::Gone,
        };
        if exchange.turn != Turn::Nobody
            && let Some(hooked) = &mut self.hooked
        {
            hooked.end_exchange(&exchange.method, exchange.id, end);
        }
    }

    fn send_auth(
        &mut self,
        now: Instant,
        link: LinkId,
        reason: ReasonCode,
        method: Utf8String,
        authentication_data: Option<Bytes>,
    ) {
        let properties = AuthProperties {
            authentication_method: Some(method), // [MQTT-4.12.0-5]
            authentication_data,
            ..AuthProperties::default()
        };
        let packet = Packet::Auth(Box::new(Auth { reason, properties }));
        match self.links.get(link).map(|link| &link.stage) {
            Some(Stage::Attached(_)) => self.send_control(now, link, packet),
            Some(Stage::Arrived(arrival)) if fits(&packet, ProtocolVersion::V5, arrival.packet_bytes_max) => {
                self.outputs.push_back(super::Output::Send { link, packet });
            }
            Some(Stage::Arrived(_)) => self.refuse(now, link, Refusal::PacketTooLarge), // [MQTT-3.1.2-24]
            None => {}
        }
    }

    /// An exchange on a living connection took too long.
    pub(super) fn handle_authentication_timer(&mut self, now: Instant, link: LinkId) {
        if let Some(exchange) = self.links.get_mut(link).and_then(Link::exchange_mut) {
            exchange.due = None;
            self.end_late_exchange(now, link);
        }
    }

    /// Whose turn it is has not done its part of an exchange in time.
    pub(super) fn end_late_exchange(&mut self, now: Instant, link: LinkId) {
        let exchange = self.links.get_mut(link).and_then(Link::exchange_mut);
        let refusal = match exchange.map(|exchange| exchange.turn) {
            Some(Turn::Judge(_)) => {
                self.stats.hook_timeouts += 1;
                Refusal::CheckUnavailable
            }
            _ => Refusal::AuthenticationTimeout,
        };
        self.end_exchange(link, ExchangeEnd::TimedOut);
        self.refuse(now, link, refusal);
    }
}

/// What the length of Authentication Data can say (section 1.5.6).
const DATA_BYTES_MAX: usize = u16::MAX as usize;
