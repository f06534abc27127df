//! Enhanced authentication (section 4.12): the exchange of AUTH packets, before CONNACK and on a living
//! connection.
//!
//! The broker keeps the order of the exchange and its time limit; what the data means is known to whoever answers
//! [`Output::Authenticate`].

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::connect::Admission;
use super::link::{Link, LinkId, Proof, Stage, Verifying};
use super::tailor::fits;
use super::timers::Timer;
use super::{Broker, Claims, Output, Refusal};
use crate::auth::Identity;
use crate::mqtt::{Auth, AuthProperties, Connect, Packet, ProtocolVersion, ReasonCode, Utf8String};

/// The answer to [`Output::Authenticate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The exchange goes on: the client gets this in an AUTH and answers with another.
    Continue {
        /// Authentication Data.
        data: Option<Bytes>,
    },
    /// The client has proved who it is.
    Allow {
        /// Who that is; on a living connection the one it was.
        identity: Identity,
        /// Authentication Data of the last packet, by which the server may prove itself.
        data: Option<Bytes>,
    },
    /// It has not: 0x87.
    Deny,
    /// It could not be found out: 0x88, and on a living connection 0x89.
    Unavailable,
}

/// One exchange of AUTH packets.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Of CONNECT, for as long as the connection lives.
    pub(super) method: Utf8String,
    pub(super) turn: Turn,
    /// When the exchange on a living connection must be over; [`Timer::Authentication`] runs until then.
    pub(super) due: Option<Instant>,
}

/// Whose answer an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody's: it is over.
    Nobody,
    /// That of whoever knows the method.
    Judge,
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
        if !self.settings.authentication_methods.contains(method) {
            return self.refuse(now, link, Refusal::AuthenticationMethod); // [MQTT-4.12.0-1]
        }
        let method = method.detached();
        let exchange = Exchange {
            method: method.clone(),
            turn: Turn::Judge,
            due: None,
        };
        let proof = Proof::Exchange(exchange);
        let verifying = Verifying::new(admission, proof, &self.budget.account);
        if self.wait_for_proof(now, link, verifying) {
            let claims = Claims {
                user: connect.user_name.as_ref().map(Utf8String::detached),
                certificate_user,
            };
            self.outputs.push_back(Output::Authenticate {
                link,
                method,
                data: connect.properties.authentication_data.as_ref().map(copied),
                claims: (claims != Claims::default()).then(|| Box::new(claims)),
            });
        }
    }

    /// A packet before CONNACK of a client that named a method: AUTH and DISCONNECT are all it may send
    /// [MQTT-3.1.2-30].
    pub(super) fn handle_packet_of_exchange(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let Some(Stage::Arrived(arrival)) = self.links.get_mut(link).map(|link| &mut link.stage) else {
            return;
        };
        let Some(Proof::Exchange(exchange)) =
            arrival.verifying.as_mut().map(|verifying| &mut verifying.proof)
        else {
            return;
        };
        match packet {
            Packet::Auth(auth) => match exchange.answer(&auth) {
                Ok(data) => {
                    let method = exchange.method.clone();
                    self.ask(link, method, data);
                }
                Err(refusal) => self.refuse(now, link, refusal),
            },
            Packet::Disconnect(disconnect) => {
                self.detach(
                    now,
                    link,
                    super::DetachReason::ClientDisconnect(disconnect.reason),
                );
            }
            _ => self.refuse(now, link, Refusal::NotAuth),
        }
    }

    /// AUTH on a living connection: to authenticate again, or to go on with that (section 4.12.1).
    pub(super) fn handle_auth(&mut self, now: Instant, link: LinkId, auth: &Auth) {
        let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) else {
            return;
        };
        let Some(exchange) = &mut attachment.exchange else {
            return self.refuse(now, link, Refusal::AuthWithoutMethod); // [MQTT-4.12.0-7]
        };
        let answer = match (auth.reason, exchange.turn) {
            (ReasonCode::Reauthenticate, Turn::Nobody) => exchange.take(auth),
            (ReasonCode::Reauthenticate, _) => Err(Refusal::UnexpectedAuth),
            _ => exchange.answer(auth),
        };
        let data = match answer {
            Ok(data) => data,
            Err(refusal) => return self.refuse(now, link, refusal),
        };
        if exchange.due.is_none() {
            exchange.due = now.checked_add(self.limits.connect_timeout);
            if let Some(at) = exchange.due {
                self.timers.set(at, Timer::Authentication(link));
            }
        }
        let method = exchange.method.clone();
        self.ask(link, method, data);
    }

    fn ask(&mut self, link: LinkId, method: Utf8String, data: Option<Bytes>) {
        self.outputs.push_back(Output::Authenticate {
            link,
            method,
            data,
            claims: None,
        });
    }

    /// The answer to [`Output::Authenticate`]; void where nobody waits for one.
    pub(super) fn handle_authenticated(&mut self, now: Instant, link: LinkId, answer: Authentication) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        let exchange = match &mut known.stage {
            Stage::Attached(attachment) => attachment.exchange.as_deref_mut(),
            Stage::Arrived(arrival) => {
                let proof = arrival.verifying.as_mut().map(|verifying| &mut verifying.proof);
                match proof {
                    Some(Proof::Exchange(exchange)) => Some(exchange),
                    _ => None,
                }
            }
        };
        let Some(exchange) = exchange.filter(|exchange| exchange.turn == Turn::Judge) else {
            return;
        };
        match answer {
            Authentication::Continue { data } => {
                exchange.turn = Turn::Client;
                let method = exchange.method.clone();
                self.send_auth(now, link, ReasonCode::ContinueAuthentication, method, data); // [MQTT-4.12.0-2]
            }
            Authentication::Allow { identity, data } => self.prove(now, link, identity, data),
            Authentication::Deny => self.refuse(now, link, Refusal::AuthenticationFailed), // [MQTT-4.12.0-4]
            Authentication::Unavailable => self.refuse(now, link, Refusal::CheckUnavailable),
        }
    }

    /// The client has proved to be `identity`.
    fn prove(&mut self, now: Instant, link: LinkId, identity: Identity, data: Option<Bytes>) {
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        match &mut known.stage {
            Stage::Arrived(arrival) => {
                if let Some(Verifying { admission, proof, .. }) = arrival.verifying.take()
                    && let Proof::Exchange(exchange) = proof
                {
                    let proved = Some((exchange, data));
                    self.admit(now, link, admission, Rc::new(identity), proved);
                }
            }
            Stage::Attached(attachment) => {
                let session = self.sessions.get(attachment.session);
                if session.is_none_or(|session| *session.identity != identity) {
                    // A session belongs to one identity for as long as it lives.
                    return self.refuse(now, link, Refusal::AuthenticationFailed); // [MQTT-4.12.1-2]
                }
                if let Some(exchange) = &mut attachment.exchange {
                    exchange.turn = Turn::Nobody;
                    self.timers
                        .cancel(exchange.due.take(), Timer::Authentication(link));
                    let method = exchange.method.clone();
                    self.send_auth(now, link, ReasonCode::Success, method, data);
                }
            }
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
                self.outputs.push_back(Output::Send { link, packet });
            }
            Some(Stage::Arrived(_)) => self.refuse(now, link, Refusal::PacketTooLarge), // [MQTT-3.1.2-24]
            None => {}
        }
    }

    /// An exchange on a living connection took too long.
    pub(super) fn handle_authentication_timer(&mut self, now: Instant, link: LinkId) {
        let attachment = self.links.get_mut(link).and_then(Link::attachment_mut);
        if let Some(exchange) = attachment.and_then(|attachment| attachment.exchange.as_mut()) {
            exchange.due = None;
            self.refuse(now, link, Refusal::AuthenticationTimeout);
        }
    }
}

impl Exchange {
    /// The client's answer to an AUTH of ours, which is to continue [MQTT-4.12.0-3].
    fn answer(&mut self, auth: &Auth) -> Result<Option<Bytes>, Refusal> {
        if auth.reason != ReasonCode::ContinueAuthentication || self.turn != Turn::Client {
            return Err(Refusal::UnexpectedAuth);
        }
        self.take(auth)
    }

    /// Takes the data of an AUTH, which must name the method of CONNECT.
    fn take(&mut self, auth: &Auth) -> Result<Option<Bytes>, Refusal> {
        if auth.properties.authentication_method.as_ref() != Some(&self.method) {
            return Err(Refusal::OtherMethod); // [MQTT-4.12.1-1]
        }
        self.turn = Turn::Judge;
        Ok(auth.properties.authentication_data.as_ref().map(copied))
    }
}

/// The bytes without the read buffer they share.
fn copied(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
