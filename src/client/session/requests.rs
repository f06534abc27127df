//! What is asked of the server: subscriptions, and their end.

use std::fmt;

use smallvec::SmallVec;

use super::{Event, Session, Token};
use crate::mqtt::{
    Packet, PacketId, ProtocolVersion, ReasonCode, SubAck, Subscribe, SubscribeProperties, Subscription,
    TopicFilter, UnsubAck, Unsubscribe, UserProperties, encoded_len,
};

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

/// SUBSCRIBE and UNSUBSCRIBE packets that may wait for their answer: far more than a program has reason for, and few
/// enough that a silent server costs nothing.
pub(super) const REQUESTS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    token: Token,
    filters: usize,
    kind: RequestKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Subscribe,
    Unsubscribe,
}

impl Session {
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

    pub(super) fn handle_suback(&mut self, ack: SubAck) {
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

    pub(super) fn handle_unsuback(&mut self, mut ack: UnsubAck) {
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
}

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
