//! What the broker says, held against what it owes.

use std::rc::Rc;

use tidegate::auth::access::Action;
use tidegate::broker::{BanSubject, Event, LinkId, Output};
use tidegate::mqtt::{Ack, Packet, ProtocolVersion, Publish, QoS, ReasonCode, encoded_len};

use super::model::{Answer, Filter, Flight, Message, Owed, Reached, SessionNumber, Stage, matches};
use super::{Held, Oracle, hold, may};

impl Oracle {
    pub(super) fn see(&mut self, output: &Output) -> Held {
        match output {
            Output::Send { link, packet } => self.sent(*link, packet),
            Output::SendToEach { links, publish } => {
                for &link in links.iter() {
                    self.check_open(link)?;
                    self.sent_publish(link, publish)?;
                }
                Ok(())
            }
            Output::Close { link } => match self.links.get_mut(link) {
                Some(known) => {
                    let was_closed = std::mem::replace(&mut known.closed, true);
                    hold(!was_closed, "T1", || "a connection was closed twice".into())
                }
                None => hold(false, "T1", || "a link nobody knows was closed".into()),
            },
            Output::Event(Event::ClientDisconnected { link, reason, .. }) => self.left(*link, *reason),
            Output::Event(Event::ConnectionRefused { link, reason }) => self.refused(*link, *reason),
            Output::Event(Event::BanLifted { subject, is_over }) => self.lifted(subject, *is_over),
            Output::Kicked { id, outcome } => self.kicked(*id, outcome),
            _ => Ok(()),
        }
    }

    fn lifted(&mut self, subject: &BanSubject, is_over: bool) -> Held {
        let name = match subject {
            BanSubject::Client(client) => client.as_str(),
            BanSubject::User(user) => user.as_str(),
            BanSubject::Network(_) => return Ok(()),
        };
        let until = self.bans.remove(name);
        hold(
            !is_over || until.is_none_or(|until| until <= self.now),
            "T2",
            || format!("the ban of {name} ended early"),
        )
    }

    /// Nothing is said after the last word.
    fn check_open(&self, link: LinkId) -> Held {
        let known = self.links.get(&link);
        let is_open = known.is_some_and(|known| {
            let is_over = matches!(known.stage, Stage::Ended) && known.ended_in != self.step;
            !known.farewell && !known.closed && !is_over
        });
        hold(is_open, "T1", || {
            format!("something was sent on a connection that has ended: {known:?}")
        })
    }

    fn sent(&mut self, link: LinkId, packet: &Packet) -> Held {
        self.early = false;
        self.sent_on_time(link, packet)?;
        self.check_stored(0, packet)
    }

    fn sent_on_time(&mut self, link: LinkId, packet: &Packet) -> Held {
        self.check_open(link)?;
        let Some(known) = self.links.get_mut(&link) else {
            return Ok(());
        };
        let (version, bytes_max) = (known.version, known.packet_bytes_max);
        if bytes_max < u32::MAX {
            let bytes = encoded_len(packet, version);
            hold(bytes <= bytes_max as usize, "P1", || {
                format!("{bytes} bytes were sent to a client that takes {bytes_max}: {packet:?}")
            })?;
        }
        let is_in = known.greeted;
        match packet {
            Packet::ConnAck(connack) if connack.reason.is_error() => {
                known.farewell = true;
                let was_in = known.session.is_some();
                hold(!was_in, "A1", || format!("{connack:?} to a client that is in"))
            }
            Packet::ConnAck(connack) => {
                known.greeted = true;
                let properties = &connack.properties;
                let greeting = known.greeting.take();
                let Some((was_there, expiry_secs, alive_secs, rests_on)) = greeting else {
                    return hold(false, "A1", || format!("{connack:?} to a client that is not in"));
                };
                hold(connack.session_present == was_there, "S1", || {
                    format!("{connack:?}, and the session was there: {was_there}")
                })?;
                let told = (properties.session_expiry_secs, properties.server_keep_alive_secs);
                hold(told == (expiry_secs, alive_secs), "S1", || {
                    format!("{connack:?} should tell {expiry_secs:?} and {alive_secs:?}")
                })?;
                self.check_stored(rests_on, packet)
            }
            Packet::Disconnect(_) => {
                known.farewell = true;
                hold(version == ProtocolVersion::V5, "P1", || {
                    "DISCONNECT to a client that knows none".into()
                })
            }
            _ if !is_in => hold(false, "P1", || format!("{packet:?} before CONNACK")),
            Packet::Publish(publish) => self.sent_publish(link, publish),
            Packet::PubAck(ack) => {
                let is_it = |answer: &Answer| matches!(answer, Answer::PubAck(..));
                self.sent_receipt(link, QoS::AtLeastOnce, ack, is_it)
            }
            Packet::PubRec(ack) => {
                let is_it = |answer: &Answer| matches!(answer, Answer::PubRec(..));
                self.sent_receipt(link, QoS::ExactlyOnce, ack, is_it)
            }
            Packet::PubRel(ack) => self.sent_pubrel(link, ack),
            Packet::PubComp(ack) => {
                let packet_id = ack.packet_id.get();
                let answer = self.answer(link, |answer| matches!(answer, Answer::PubComp(..)));
                let is_right = match answer {
                    Some(Answer::PubComp(awaited, was_there)) => {
                        let unknown = ack.reason == ReasonCode::PacketIdentifierNotFound;
                        awaited == packet_id
                            && (was_there || unknown || version != ProtocolVersion::V5)
                            && !(was_there && ack.reason != ReasonCode::Success)
                    }
                    _ => false,
                };
                hold(is_right, "D2", || format!("{ack:?} answers nothing"))
            }
            Packet::SubAck(suback) => {
                let packet_id = suback.packet_id.get();
                let answer = self.answer(link, |answer| matches!(answer, Answer::SubAck(..)));
                hold(
                    answer == Some(Answer::SubAck(packet_id, suback.reasons.len())),
                    "P1",
                    || format!("{suback:?} answers {answer:?}"),
                )?;
                self.granted(link, packet_id, &suback.reasons);
                Ok(())
            }
            Packet::UnsubAck(unsuback) => {
                let answer = self.answer(link, |answer| matches!(answer, Answer::UnsubAck(..)));
                let existed = |&reason: &ReasonCode| reason == ReasonCode::Success;
                let told = Answer::UnsubAck(
                    unsuback.packet_id.get(),
                    unsuback.reasons.iter().map(existed).collect(),
                );
                hold(answer.as_ref() == Some(&told), "P1", || {
                    format!("{told:?} answers {answer:?}")
                })
            }
            Packet::PingResp => {
                let answer = self.answer(link, |answer| *answer == Answer::PingResp);
                hold(answer.is_some(), "P1", || "a PINGRESP nobody asked for".into())
            }
            _ => hold(false, "P1", || format!("{packet:?} was sent to a client")),
        }
    }

    /// Takes the next answer of a kind that is owed on a connection; none, where what it rests on is not stored.
    fn answer(&mut self, link: LinkId, is_it: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let answers = &mut self.links.get_mut(&link)?.answers;
        let index = answers.iter().position(|(answer, _)| is_it(answer))?;
        let (answer, rests_on) = answers.remove(index)?;
        self.early |= rests_on > self.progress.stored;
        Some(answer)
    }

    /// What is a promise is said when it is stored, and not before.
    fn check_stored(&self, rests_on: u64, packet: &Packet) -> Held {
        let stored = self.progress.stored;
        hold(rests_on <= stored && !self.early, "D1", || {
            format!("{packet:?} rests on change {rests_on}, and {stored} are stored")
        })
    }

    /// PUBACK or PUBREC: from here on the message is ours.
    fn sent_receipt(&mut self, link: LinkId, qos: QoS, ack: &Ack, is_it: impl Fn(&Answer) -> bool) -> Held {
        let packet_id = ack.packet_id.get();
        let (awaited, reached) = match self.answer(link, is_it) {
            Some(Answer::PubAck(awaited, reached) | Answer::PubRec(awaited, reached)) => (awaited, reached),
            _ => return hold(false, "P1", || format!("{ack:?} answers nothing")),
        };
        // [MQTT-4.6.0-2] [MQTT-4.6.0-3]
        hold(awaited == packet_id, "D3", || {
            format!("{ack:?} comes before that of {awaited}")
        })?;
        let Some(known) = self.links.get_mut(&link) else {
            return Ok(());
        };
        let message = known.unanswered.remove(&packet_id);
        if let Some(message) = message.filter(|_| ack.reason.is_error()) {
            self.doubt(message); // one may have had no room for it, and others had
        }
        let Some(known) = self.links.get(&link) else {
            return Ok(());
        };
        let is_allowed = match (known.version, reached) {
            (ProtocolVersion::V5, Reached::Denied) => ack.reason == ReasonCode::NotAuthorized,
            (_, Reached::NotStored) => ack.reason == ReasonCode::QuotaExceeded,
            (ProtocolVersion::V5, Reached::Nobody) => {
                matches!(
                    ack.reason,
                    ReasonCode::NoMatchingSubscribers | ReasonCode::Success
                ) || (!self.terms.is_roomy && ack.reason == ReasonCode::QuotaExceeded)
            }
            (ProtocolVersion::V5, Reached::Somebody | Reached::Again) => {
                ack.reason == ReasonCode::Success
                    || (!self.terms.is_roomy && ack.reason == ReasonCode::QuotaExceeded)
            }
            _ => ack.reason == ReasonCode::Success,
        };
        hold(is_allowed, "D1", || {
            format!("{ack:?} for a message that reached {reached:?}")
        })?;
        self.accepted += 1;
        let session = known.session.and_then(|number| self.sessions.get_mut(&number));
        if let (QoS::ExactlyOnce, true, Some(session)) = (qos, ack.reason.is_error(), session) {
            session.receiving.remove(&packet_id);
        }
        Ok(())
    }

    fn sent_pubrel(&mut self, link: LinkId, ack: &Ack) -> Held {
        let packet_id = ack.packet_id.get();
        let stores = self.terms.stores;
        let may_have_waited = stores && (self.has_denied || self.has_small_clients);
        let answer = self.answer(link, |answer| *answer == Answer::PubRel(packet_id));
        let session = self.links.get(&link).and_then(|known| known.session);
        let flight = session.and_then(|session| self.flight(session, packet_id));
        let is_unknown = ack.reason == ReasonCode::PacketIdentifierNotFound;
        let is_right = match (answer, flight) {
            (Some(_), Some(flight)) if flight.is_in_doubt && is_unknown => {
                let message = flight.owed.message.clone();
                self.forget_flight(session, packet_id);
                self.lose(&message);
                return Ok(());
            }
            (Some(_), flight) => flight.is_some() == (ack.reason == ReasonCode::Success),
            // [MQTT-4.4.0-1]: repeated on a new connection, once.
            (None, Some(flight)) if flight.released && flight.sent_on != Some(link) => {
                flight.sent_on = Some(link);
                return Ok(());
            }
            // Its PUBREC came behind CONNECT, and was answered before.
            (None, Some(flight)) if stores && flight.released => return Ok(()),
            // What may not be sent again, and its client may have got, is released all the same.
            (None, Some(flight)) if flight.sent_on != Some(link) && flight.owed.qos == QoS::ExactlyOnce => {
                flight.released = true;
                let message = flight.owed.message.clone();
                self.lose(&message);
                return hold(may_have_waited || !self.may_be_sent(link, &message), "D1", || {
                    format!("{ack:?} before PUBREC, and {message:?} may be sent again")
                });
            }
            // Which one that was about to be sent when the process ended nobody can tell; it stays owed, and lost.
            (None, None) if may_have_waited => return Ok(()),
            _ => false,
        };
        let is_v5 = self
            .links
            .get(&link)
            .is_some_and(|known| known.version == ProtocolVersion::V5);
        hold(is_right || !is_v5, "D2", || format!("{ack:?} answers nothing"))
    }

    /// Whether nothing keeps a message from a client: neither its rights nor the size of packets that it takes.
    fn may_be_sent(&self, link: LinkId, message: &Message) -> bool {
        let Some(known) = self.links.get(&link) else {
            return false;
        };
        let session = known.session.and_then(|number| self.sessions.get(&number));
        known.packet_bytes_max == u32::MAX
            && session
                .is_some_and(|session| may(&self.denials, &session.identity, Action::Receive, &message.topic))
    }

    fn forget_flight(&mut self, session: Option<SessionNumber>, packet_id: u16) {
        if let Some(session) = session.and_then(|number| self.sessions.get_mut(&number)) {
            session.flights.retain(|flight| flight.packet_id != packet_id);
        }
    }

    /// SUBACK: what it refuses is as it was before.
    fn granted(&mut self, link: LinkId, packet_id: u16, reasons: &[ReasonCode]) {
        let is_it = |(asked, id, _): &super::Subscribing| *asked == link && *id == packet_id;
        let Some(index) = self.subscribing.iter().position(is_it) else {
            return;
        };
        let (.., before) = self.subscribing.remove(index);
        let session = self.links.get(&link).and_then(|known| known.session);
        let Some(session) = session.and_then(|number| self.sessions.get_mut(&number)) else {
            return;
        };
        // The last first: a filter may stand there twice, and what the later one made of it holds.
        let mut made = Vec::new();
        for ((text, old), reason) in before.into_iter().zip(reasons).rev() {
            if !reason.is_error() {
                made.push(text);
            } else if !made.contains(&text) {
                session.forget_replay(&text);
                match old {
                    Some(old) => session.filters.insert(text, old),
                    None => session.filters.remove(&text),
                };
            }
        }
    }

    fn sent_publish(&mut self, link: LinkId, publish: &Publish) -> Held {
        let Some(known) = self.links.get_mut(&link) else {
            return Ok(());
        };
        let Some(number) = known.session else {
            return hold(false, "P1", || "PUBLISH before CONNACK".into());
        };
        let version = known.version;
        let alias = publish
            .properties
            .as_deref()
            .and_then(|properties| properties.topic_alias);
        let topic: Rc<str> = match (&publish.topic, alias) {
            (Some(topic), None) => Rc::from(topic.as_str()),
            (Some(topic), Some(alias)) => {
                let topic: Rc<str> = Rc::from(topic.as_str());
                known.aliases[1].insert(alias, topic.clone());
                topic
            }
            (None, alias) => match alias.and_then(|alias| known.aliases[1].get(&alias)) {
                Some(topic) => topic.clone(),
                None => {
                    return hold(false, "D6", || {
                        format!("{publish:?} has an alias that was given no topic")
                    });
                }
            },
        };
        self.delivered += 1;
        let identity = self.sessions.get(&number).map(|session| session.identity.clone());
        let is_allowed =
            identity.is_none_or(|identity| may(&self.denials, &identity, Action::Receive, &topic));
        hold(is_allowed, "A1", || {
            format!("{publish:?} on {topic} may not be received")
        })?;
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => self.sent_at_most_once(link, number, &topic, publish, version),
            (_, Some(packet_id)) if publish.dup => {
                self.sent_again(link, number, &topic, publish, packet_id.get(), version)
            }
            (_, Some(packet_id)) => self.sent_first(link, number, &topic, publish, packet_id.get(), version),
            (_, None) => hold(false, "P1", || format!("{publish:?} has no identifier")),
        }
    }

    fn sent_at_most_once(
        &mut self,
        link: LinkId,
        number: SessionNumber,
        topic: &str,
        publish: &Publish,
        version: ProtocolVersion,
    ) -> Held {
        let is_own = |(session, owed): &(SessionNumber, Owed)| {
            *session == number && is_owed(owed, topic, publish, version)
        };
        let own = self.instant.iter().position(is_own);
        // Where its own subscriptions leave RETAIN open, another way may ask for the one without.
        let is_open = own.is_some_and(|index| self.instant[index].1.retain.is_none());
        if is_open
            && !publish.retain
            && let Some((_, owed)) = self.take_shared(number, topic, publish, version, true)
        {
            return self.check_life(&owed.message, publish, version);
        }
        if let Some(index) = own {
            let (_, owed) = self.instant.remove(index);
            return self.check_life(&owed.message, publish, version);
        }
        let brings = self.brings(number, topic, publish);
        match self.take_shared(number, topic, publish, version, brings) {
            Some((_, owed)) => self.check_life(&owed.message, publish, version),
            None => self
                .take_retained(link, number, topic, publish, version)
                .map(|_| ()),
        }
    }

    /// Whether a subscription of the session has yet to bring what its topic retains.
    fn brings(&self, number: SessionNumber, topic: &str, publish: &Publish) -> bool {
        let session = self.sessions.get(&number);
        publish.retain
            && session
                .is_some_and(|session| (session.replays.iter()).any(|(_, topics)| topics.contains(topic)))
    }

    /// A QoS 1 or 2 delivery for the first time.
    fn sent_first(
        &mut self,
        link: LinkId,
        number: SessionNumber,
        topic: &str,
        publish: &Publish,
        packet_id: u16,
        version: ProtocolVersion,
    ) -> Held {
        let stores = self.terms.stores;
        let Some(session) = self.sessions.get_mut(&number) else {
            return hold(false, "D6", || format!("{publish:?} to a session that is gone"));
        };
        // What had to be sent again before this and was not has been dropped.
        let mut dropped = Vec::new();
        session.flights.retain(|flight| {
            let stays = flight.sent_on == Some(link) || flight.released || publish.dup;
            if !stays {
                dropped.push(flight.owed.message.clone());
            }
            stays
        });
        let in_use = session.flights.iter().any(|flight| flight.packet_id == packet_id);
        hold(!in_use, "P1", || format!("{packet_id} is in use: {publish:?}"))?;
        // A publisher that had no answer may have sent the same once more; what is left of its life tells which it is.
        let session = &self.sessions[&number];
        let is_it = |owed: &Owed| is_owed(owed, topic, publish, version);
        let lives = |owed: &Owed| is_it(owed) && self.has_life(&owed.message, publish, version);
        let found = (session.owed.iter().position(lives)).or_else(|| session.owed.iter().position(is_it));
        // The same may be owed by another way, and earlier.
        let is_earlier = |index: &usize| {
            let own = session.owed.get(*index);
            let batch = own.map_or(0, |owed| owed.batch);
            let is_open = own.is_some_and(|owed| owed.retain.is_none()) && !publish.retain;
            let is_it = |shared: &super::Shared| {
                (shared.batch < batch || (is_open && shared.batch == batch))
                    && shared
                        .groups
                        .iter()
                        .any(|group| session.groups_ever.contains(group))
                    && shared.message.says_the_same(topic, publish, version)
            };
            !self.shared.iter().any(is_it)
        };
        let found = found.filter(is_earlier);
        // Nothing gives way to what a subscription brings; which of the two came nobody can tell.
        let brings = self.brings(number, topic, publish);
        let session = match self.sessions.get_mut(&number) {
            Some(session) => session,
            None => return Ok(()),
        };
        let skips = |index: &usize| {
            let batch = session.owed.get(*index).map_or(0, |owed| owed.batch);
            let mut before = session.owed.iter().take(*index);
            before.any(|other| other.batch < batch && !(stores && other.qos != publish.qos))
        };
        let unsure = found.filter(|index| brings && skips(index));
        let mut replayed = None;
        if let Some(index) = unsure {
            replayed = self.take_retained(link, number, topic, publish, version).ok();
            if replayed.is_some()
                && let Some(owed) = (self.sessions.get(&number)).and_then(|session| session.owed.get(index))
            {
                self.unsure.push(owed.message.clone());
            }
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        let taken = match found.filter(|_| replayed.is_none()) {
            Some(index) => {
                let owed = session.owed.remove(index);
                let batch = owed.as_ref().map_or(0, |owed| owed.batch);
                // Those before it gave way: a queue keeps its order.
                let mut place = 0;
                session.owed.retain(|other| {
                    // What is stored first may come after what is not; of each quality the order is kept.
                    let may_wait = stores && other.qos != publish.qos;
                    let stays = place >= index || other.batch >= batch || may_wait;
                    place += 1;
                    if !stays {
                        dropped.push(other.message.clone());
                    }
                    stays
                });
                owed.map(|owed| (None, owed))
            }
            None => None,
        };
        for message in dropped {
            self.lose(&message);
        }
        let taken = taken.or_else(|| replayed.map(|owed| (None, owed)));
        let taken = taken.or_else(|| {
            let (groups, owed) = self.take_shared(number, topic, publish, version, brings)?;
            Some((Some(groups), owed))
        });
        let (groups, owed) = match taken {
            Some(taken) => taken,
            None => (None, self.take_retained(link, number, topic, publish, version)?),
        };
        let has_waited = self.terms.stores && publish.qos == QoS::ExactlyOnce;
        hold(
            !owed.message.is_expired(self.now) || has_waited || publish.dup,
            "D5",
            || format!("{publish:?} had expired"),
        )?;
        self.check_life(&owed.message, publish, version)?;
        let is_stored = self
            .sessions
            .get(&number)
            .is_some_and(|session| session.is_stored);
        self.early |= is_stored && publish.qos == QoS::ExactlyOnce && owed.after > self.progress.stored;
        if let Some(session) = self.sessions.get_mut(&number) {
            // One that was about to be sent takes its place among those that were; PUBREL of what came before it may
            // yet have to be stored.
            let is_before = |flight: &Flight| {
                flight.sent_on == Some(link) || (flight.released && flight.owed.batch < owed.batch)
            };
            let place = match publish.dup {
                true => (session.flights.iter().rposition(is_before)).map_or(0, |last| last + 1),
                false => session.flights.len(),
            };
            let flight = Flight {
                packet_id,
                owed,
                groups,
                released: false,
                sent_on: Some(link),
                is_in_doubt: false,
            };
            session.flights.insert(place, flight);
        }
        self.note_outstanding(link, packet_id)
    }

    /// A delivery that an earlier connection left unfinished.
    fn sent_again(
        &mut self,
        link: LinkId,
        number: SessionNumber,
        topic: &str,
        publish: &Publish,
        packet_id: u16,
        version: ProtocolVersion,
    ) -> Held {
        let Some(session) = self.sessions.get_mut(&number) else {
            return hold(false, "D6", || format!("{publish:?} to a session that is gone"));
        };
        let index = session
            .flights
            .iter()
            .position(|flight| flight.packet_id == packet_id);
        let Some(index) = index else {
            // It was about to be sent when its connection, or the process, ended.
            hold(self.terms.stores, "D3", || {
                format!("{publish:?} is repeated and was never sent")
            })?;
            return self.sent_first(link, number, topic, publish, packet_id, version);
        };
        // Its identifier is another's that was about to be sent: what had it before was dropped instead.
        let stores = self.terms.stores;
        let known = &session.flights[index];
        if stores
            && !known.released
            && known.sent_on != Some(link)
            && !is_owed(&known.owed, topic, publish, version)
        {
            let dropped = session.flights.remove(index).owed.message;
            self.lose(&dropped);
            return self.sent_first(link, number, topic, publish, packet_id, version);
        }
        // What waited to be stored was overtaken by what did not; of each quality the order is kept.
        let was_later = session.flights[index + 1..].iter().any(|flight| {
            flight.sent_on == Some(link) && !flight.is_in_doubt && (!stores || flight.owed.qos == publish.qos)
        });
        let Some(flight) = session.flights.get_mut(index) else {
            return Ok(());
        };
        hold(!flight.released, "D2", || {
            format!("{publish:?} comes again after PUBREC")
        })?;
        hold(flight.sent_on != Some(link), "D3", || {
            format!("{publish:?} is repeated on the connection it was sent on")
        })?;
        hold(!was_later, "D3", || {
            format!("{publish:?} is repeated after what came after it")
        })?;
        flight.sent_on = Some(link);
        let is_same = is_owed(&flight.owed, topic, publish, version);
        let message = flight.owed.message.clone();
        hold(is_same, "D6", || {
            format!("{publish:?} is repeated, and was {message:?}")
        })?;
        self.note_outstanding(link, packet_id)
    }

    fn note_outstanding(&mut self, link: LinkId, packet_id: u16) -> Held {
        let Some(known) = self.links.get_mut(&link) else {
            return Ok(());
        };
        known.outstanding.insert(packet_id);
        let (outstanding, receive_maximum) = (known.outstanding.len(), known.receive_maximum);
        hold(outstanding <= usize::from(receive_maximum), "P1", || {
            format!("{outstanding} are unfinished, Receive Maximum is {receive_maximum}")
        })?;
        self.take_ahead(|to, ack| to == link && ack.packet_id.get() == packet_id);
        Ok(())
    }

    /// Takes a delivery that any member of a shared subscription may get, and this session is one; only of this very
    /// step, where it may be something else.
    fn take_shared(
        &mut self,
        number: SessionNumber,
        topic: &str,
        publish: &Publish,
        version: ProtocolVersion,
        is_new: bool,
    ) -> Option<(Rc<[super::Group]>, Owed)> {
        let session = self.sessions.get(&number)?;
        let owed_as = |shared: &super::Shared| {
            let is_member = shared
                .groups
                .iter()
                .any(|group| session.groups_ever.contains(group));
            let has_waited = self.terms.stores && publish.qos == QoS::ExactlyOnce;
            let is_over = shared.message.is_expired(self.now) && !has_waited && !publish.dup;
            if !is_member || (is_new && shared.batch != self.batch) || is_over {
                return None;
            }
            // It was a member, and what it had granted then is not kept here.
            let (qos, ids, retain) = match session.filters.get(&shared.group) {
                Some(filter) => {
                    let ids = if filter.id > 0 {
                        vec![filter.id]
                    } else {
                        Vec::new()
                    };
                    (
                        filter.qos.min(shared.message.qos),
                        ids,
                        Some(filter.retain_as_published && shared.message.retain),
                    )
                }
                None => (publish.qos, ids_of(publish), None),
            };
            // What waits keeps what was granted when it came; and which of two ways it came by nobody can tell.
            let same = self
                .shared
                .iter()
                .filter(|other| Rc::ptr_eq(&other.message, &shared.message));
            let is_exact = shared.batch == self.batch && same.count() == 1 && shared.groups.len() == 1;
            let owed = Owed {
                message: shared.message.clone(),
                qos: if is_exact { qos } else { publish.qos },
                retain: match retain.filter(|_| is_exact) {
                    // Who never asked for RETAIN as published does not get it by a shared subscription.
                    None if !session.ever_as_published => Some(false),
                    retain => retain,
                },
                ids: if is_exact { ids } else { ids_of(publish) },
                batch: shared.batch,
                after: shared.after,
            };
            is_owed(&owed, topic, publish, version).then_some(owed)
        };
        let found = self
            .shared
            .iter()
            .enumerate()
            .filter_map(|(index, shared)| Some((index, owed_as(shared)?)));
        // At QoS 0 rather what was just routed, of the others the oldest; and by the way that fits best.
        let (index, owed) = found.min_by_key(|(index, owed)| {
            let shared = &self.shared[*index];
            let is_fit = |filter: &Filter| filter.qos.min(shared.message.qos) == publish.qos;
            let fitness = match session.filters.get(&shared.group) {
                Some(filter) if is_fit(filter) => 0,
                _ if session.groups_ever.contains(&shared.group) => 1,
                _ => 2,
            };
            let age = if publish.qos == QoS::AtMostOnce {
                u64::MAX - owed.batch
            } else {
                owed.batch
            };
            (age, fitness, shared.qos)
        })?;
        let shared = self.shared.remove(index);
        Some((shared.groups, owed))
    }

    /// A retained message that a subscription brings.
    fn take_retained(
        &mut self,
        link: LinkId,
        number: SessionNumber,
        topic: &str,
        publish: &Publish,
        version: ProtocolVersion,
    ) -> Result<Owed, super::Violation> {
        let unknown = || {
            super::Violation::new(
                "D6",
                format!("{publish:?} on {topic} is owed to nobody on {link:?}"),
            )
        };
        let session = self.sessions.get_mut(&number).ok_or_else(unknown)?;
        let values = self
            .retained
            .get(topic)
            .map(|(_, values)| values.as_slice())
            .unwrap_or_default();
        let value = (values.iter().flatten())
            .find(|retained| retained.message.says_the_same(topic, publish, version));
        let has_waited = self.terms.stores && publish.qos == QoS::ExactlyOnce;
        let once = || {
            let is_it = |message: &&Rc<Message>| has_waited && message.says_the_same(topic, publish, version);
            self.once_retained.iter().find(is_it).cloned()
        };
        let message = value.map(|retained| retained.message.clone()).or_else(once);
        let Some(message) = message.filter(|_| publish.retain) else {
            return Err(unknown());
        };
        let ids = ids_of(publish);
        let by = (session.filters.iter()).find(|(_, filter)| {
            let own_ids = if filter.id > 0 {
                vec![filter.id]
            } else {
                Vec::new()
            };
            filter.group.is_none()
                && matches(&filter.matched, topic)
                && filter.qos.min(message.qos) == publish.qos
                && (own_ids == ids || version != ProtocolVersion::V5)
        });
        if by.is_none() && !has_waited {
            return Err(unknown());
        }
        hold(!message.is_expired(self.now) || has_waited, "D5", || {
            format!("{publish:?} had expired")
        })?;
        self.check_life(&message, publish, version)?;
        let session = self.sessions.get_mut(&number).ok_or_else(unknown)?;
        // The subscription that was made first brings it first, of those that were granted this quality.
        let is_granted = |text: &Rc<str>| {
            (session.filters.get(text)).is_some_and(|filter| filter.qos.min(message.qos) == publish.qos)
        };
        let brings = |(text, topics): &(Rc<str>, std::collections::BTreeSet<Rc<str>>)| {
            topics.contains(topic) && is_granted(text)
        };
        let index = (session.replays.iter().position(brings)).or_else(|| {
            session
                .replays
                .iter()
                .position(|(_, topics)| topics.contains(topic))
        });
        if let Some((_, topics)) = index.and_then(|index| session.replays.get_mut(index)) {
            topics.remove(topic);
        }
        Ok(Owed {
            message,
            qos: publish.qos,
            retain: Some(true),
            ids,
            batch: self.batch,
            after: 0,
        })
    }

    /// Whether a message may be sent now, as far as its life goes.
    fn has_life(&self, message: &Message, publish: &Publish, version: ProtocolVersion) -> bool {
        let has_waited = self.terms.stores && publish.qos == QoS::ExactlyOnce;
        let is_over = message.is_expired(self.now) && !has_waited && !publish.dup;
        !is_over && self.check_life(message, publish, version).is_ok()
    }

    /// [MQTT-3.3.2-6]: the life it has left, to the second; of what had to be stored first, what it had then.
    fn check_life(&self, message: &Message, publish: &Publish, version: ProtocolVersion) -> Held {
        let (Some(at), ProtocolVersion::V5) = (message.expires_at, version) else {
            return Ok(());
        };
        let left = at.saturating_duration_since(self.now);
        let left_secs = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let told = publish
            .properties
            .as_deref()
            .and_then(|properties| properties.message_expiry_secs);
        let has_waited = self.terms.stores && publish.qos == QoS::ExactlyOnce;
        let is_right = |told: u64| told == left_secs || (has_waited && told > left_secs);
        hold(told.is_some_and(|told| is_right(told.into())), "D5", || {
            format!("{left_secs} seconds are left, {told:?} are told")
        })
    }
}

/// The Subscription Identifiers of a delivery, in ascending order.
fn ids_of(publish: &Publish) -> Vec<u32> {
    let properties = publish.properties.as_deref();
    let mut ids = properties.map_or_else(Vec::new, |properties| properties.subscription_ids.to_vec());
    ids.sort_unstable();
    ids
}

/// Whether `publish`, which goes to `topic`, is this delivery.
fn is_owed(owed: &Owed, topic: &str, publish: &Publish, version: ProtocolVersion) -> bool {
    owed.qos == publish.qos
        && owed.retain.is_none_or(|retain| retain == publish.retain)
        && owed_says(owed, topic, publish, version)
}

fn owed_says(owed: &Owed, topic: &str, publish: &Publish, version: ProtocolVersion) -> bool {
    owed.message.says_the_same(topic, publish, version)
        && (version != ProtocolVersion::V5 || ids_of(publish) == owed.ids)
}
