//! What clients and operators say, as the standard has it understood.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tidegate::auth::Identity;
use tidegate::auth::access::Action;
use tidegate::broker::{Event, LinkId, Output, StoreHealth};
use tidegate::mqtt::{
    Ack, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Subscribe, Unsubscribe,
};

use super::model::{self, Answer, Filter, Link, Reached, Session, SessionNumber, Stage, matches};
use super::{Ahead, Cause, Held, Oracle, Retained, hold, may, parts_of};

impl Oracle {
    pub(super) fn hear(&mut self, cause: &Cause, outputs: &[Output]) -> Held {
        match cause {
            Cause::Arrived { link, is_open } => {
                self.links.insert(*link, Link::new(*is_open, self.now));
            }
            Cause::Received { link, packet } => return self.hear_packet(*link, packet, outputs),
            Cause::Provoked { link } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.provoked = true;
                }
            }
            Cause::Verified { link, is_right } => return self.hear_verdict(*link, *is_right, outputs),
            Cause::Own(own) => {
                let properties = own.properties.as_deref().cloned().unwrap_or_default();
                let message = self.message(
                    own.topic.as_str(),
                    (&own.payload, own.qos, own.retain),
                    properties,
                    None,
                );
                self.route(message, &Identity::Gateway);
            }
            Cause::Kick(kick) => self.kicks.push_back((kick.clone(), self.now)),
            Cause::Unban(name) => {
                self.bans.remove(name);
            }
            Cause::Rights(denials) => {
                self.denials = denials.clone();
                self.has_denied |= !denials.is_empty();
                let denials = &self.denials;
                let mut denied = Vec::new();
                for (topic, (_, values)) in &mut self.retained {
                    let may = |retained: &Retained| may(denials, &retained.author, Action::Publish, topic);
                    for value in values.iter_mut().filter(|value| !value.as_ref().is_none_or(may)) {
                        denied.push(value.take());
                    }
                }
                // What came to be retained since a subscription was made may come by it, or be denied and counted.
                for session in self.sessions.values() {
                    for (filter, topics) in &session.replays {
                        let comes = |topic: &&Rc<str>| {
                            matches(filter, topic)
                                && !topics.contains(*topic)
                                && !may(denials, &session.identity, Action::Receive, topic)
                        };
                        self.slack += self.retained.keys().filter(comes).count() as u64;
                    }
                }
                self.remember_retained(denied);
                let forgotten: Vec<_> = (self.retained.iter())
                    .filter(|(_, (_, values))| values.iter().all(Option::is_none))
                    .map(|(topic, _)| topic.clone())
                    .collect();
                for topic in forgotten {
                    self.forget_retained(&topic);
                }
            }
            Cause::Tick => {
                self.kick_in_time(outputs);
                self.pass_deadlines();
            }
            Cause::Health(health) => self.health = *health,
            Cause::Closed
            | Cause::Flushed
            | Cause::Reconfigured
            | Cause::Stored { .. }
            | Cause::Checkpoint
            | Cause::Recalled => {}
        }
        Ok(())
    }

    pub(super) fn hear_packet(&mut self, link: LinkId, packet: &Packet, outputs: &[Output]) -> Held {
        let now = self.now;
        let Some(known) = self.links.get_mut(&link) else {
            return hold(outputs.is_empty(), "T1", || {
                format!("a link nobody knows was heard: {outputs:?}")
            });
        };
        match (&mut known.stage, packet) {
            (Stage::Ended, _) => hold(outputs.is_empty(), "T1", || {
                format!("{packet:?} of a link that ended did {outputs:?}")
            }),
            (Stage::Arrived, Packet::Connect(connect)) => {
                known.version = connect.version;
                known.last_received = now;
                known.packet_bytes_max = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
                self.has_small_clients |= known.packet_bytes_max < u32::MAX;
                let is_checked =
                    |output: &Output| matches!(output, Output::Verify { link: asked, .. } if *asked == link);
                let is_open = known.is_open;
                if outputs.iter().any(is_checked) {
                    known.stage = Stage::Asked(connect.clone(), Vec::new());
                    return Ok(());
                }
                if lets_in(link, outputs) {
                    hold(is_open && connect.user_name.is_none(), "A1", || {
                        format!("{connect:?} came in without a check")
                    })?;
                    return self.admit(link, connect, Vec::new(), outputs);
                }
                known.stage = Stage::Asked(connect.clone(), Vec::new()); // in vain: the refusal follows
                Ok(())
            }
            (Stage::Asked(_, waiting), packet) => {
                if matches!(packet, Packet::Connect(_)) {
                    known.provoked = true;
                }
                waiting.push(packet.clone());
                Ok(())
            }
            (Stage::Arrived, _) => {
                known.provoked = true;
                Ok(())
            }
            (&mut Stage::In(session), _) => {
                known.last_received = now;
                self.hear_client(link, session, packet);
                Ok(())
            }
        }
    }

    pub(super) fn hear_verdict(&mut self, link: LinkId, is_right: bool, outputs: &[Output]) -> Held {
        let Some(known) = self.links.get_mut(&link) else {
            return Ok(());
        };
        if !matches!(known.stage, Stage::Asked(..)) {
            return hold(outputs.is_empty(), "T1", || {
                format!("a late verdict did {outputs:?}")
            });
        }
        if !lets_in(link, outputs) {
            return Ok(());
        }
        hold(is_right, "A1", || "a wrong password let somebody in".into())?;
        match std::mem::replace(&mut known.stage, Stage::Arrived) {
            Stage::Asked(connect, waiting) => self.admit(link, &connect, waiting, outputs),
            _ => Ok(()),
        }
    }

    /// The client is in: the session is attached, and whoever had it before is out.
    pub(super) fn admit(
        &mut self,
        link: LinkId,
        connect: &Connect,
        waiting: Vec<Packet>,
        outputs: &[Output],
    ) -> Held {
        let client = connect.client_id.as_ref().map_or("", |client| client.as_str());
        let client: Rc<str> = Rc::from(client);
        let identity = match &connect.user_name {
            Some(user) => Identity::User(user.clone()),
            None => Identity::Anonymous,
        };
        let names = [
            Some(&*client),
            connect.user_name.as_ref().map(|user| user.as_str()),
        ];
        for name in names.into_iter().flatten() {
            let until = self.bans.get(name);
            hold(until.is_none_or(|&until| until <= self.now), "T2", || {
                format!("{name} came in and is kept out")
            })?;
        }
        let mut known = self.names.get(&client).copied();
        if let Some(session) = known.and_then(|number| self.sessions.get(&number)) {
            hold(session.identity == identity, "A1", || {
                format!("{identity:?} took the session of {:?}", session.identity)
            })?;
            if let Some(old) = session.link {
                self.check_takeover(old, link, outputs)?;
                self.leave(old, true);
                known = self.names.get(&client).copied(); // it may have ended with its connection
            }
        }
        if connect.clean_start
            && let Some(number) = known.take()
        {
            self.end_session(number);
        }
        let was_there = known.is_some();
        let number = known.unwrap_or_else(|| {
            self.last_session += 1;
            let session = Session::new(client.clone(), identity.clone());
            self.sessions.insert(self.last_session, session);
            self.names.insert(client.clone(), self.last_session);
            self.last_session
        });
        let is_v5 = connect.version == ProtocolVersion::V5;
        let asked_secs = match connect.version {
            ProtocolVersion::V5 => connect.properties.session_expiry_secs.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let expiry_secs = asked_secs.min(self.terms.session_expiry_max_secs);
        let (asked_alive, alive_max) = (connect.keep_alive_secs, self.terms.keep_alive_max_secs);
        let keep_alive_secs = match is_v5 && (asked_alive == 0 || asked_alive > alive_max) {
            true => alive_max,
            false => asked_alive,
        };
        let told_expiry = (is_v5 && expiry_secs != asked_secs).then_some(expiry_secs);
        let told_alive = (keep_alive_secs != asked_alive).then_some(keep_alive_secs);
        let will = connect.will.as_ref().map(|will| {
            let mut properties = will.properties.publish.clone();
            let expiry_secs = properties.message_expiry_secs.take();
            let mut message = self.message(
                will.topic.as_str(),
                (&will.payload, will.qos, will.retain),
                properties,
                Some(number),
            );
            if expiry_secs.is_some()
                && let Some(message) = Rc::get_mut(&mut message)
            {
                message.properties.message_expiry_secs = expiry_secs;
            }
            let delay = Duration::from_secs(u64::from(will.properties.delay_secs.unwrap_or(0)));
            model::Testament {
                message,
                expiry_secs,
                delay,
                due: None,
            }
        });
        if let Some(session) = self.sessions.get_mut(&number) {
            session.link = Some(link);
            session.expires_at = None;
            session.expiry_secs = expiry_secs;
            session.is_stored = expiry_secs > 0;
            session.was_stored |= session.is_stored;
            session.will = will; // the one before is not sent: its client is back
        }
        if let Some(known) = self.links.get_mut(&link) {
            known.stage = Stage::In(number);
            known.greeting = Some((was_there, told_expiry, told_alive, self.rests_on));
            known.session = Some(number);
            known.last_received = self.now;
            known.receive_maximum = connect.properties.receive_maximum.unwrap_or(u16::MAX);
            known.silence_max = Duration::from_millis(u64::from(keep_alive_secs) * 1500);
        }
        for packet in &waiting {
            self.batch += 1;
            self.hear_ahead(link, number, packet);
        }
        Ok(())
    }

    /// A packet that its client said behind CONNECT: acknowledgements among them mean what its new connection is sent
    /// first, and that has yet to be seen.
    fn hear_ahead(&mut self, link: LinkId, number: SessionNumber, packet: &Packet) {
        let ack = match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => ack.clone(),
            _ => return self.hear_client(link, number, packet),
        };
        let Some(known) = self.links.get_mut(&link).filter(|known| known.goodbye.is_none()) else {
            return;
        };
        if matches!(packet, Packet::PubRec(_)) && !ack.reason.is_error() {
            known.owe(Answer::PubRel(ack.packet_id.get()), self.rests_on);
        }
        self.said_ahead += 1;
        self.ahead.push(Ahead {
            place: self.said_ahead,
            link,
            number,
            packet: packet.clone(),
            ack,
            flight: None,
        });
    }

    /// What was acknowledged ahead is, of `which`.
    pub(super) fn take_ahead(&mut self, which: impl Fn(LinkId, &Ack) -> bool) {
        loop {
            let next = self.ahead.iter().position(|ahead| which(ahead.link, &ahead.ack));
            let Some(next) = next else { return };
            let ahead = self.ahead.remove(next);
            self.take_one_ahead(ahead);
        }
    }

    fn take_one_ahead(&mut self, mut ahead: Ahead) {
        let (link, number, packet_id) = (ahead.link, ahead.number, ahead.ack.packet_id.get());
        let is_provoked = |oracle: &Self| oracle.links.get(&link).is_some_and(|link| link.provoked);
        let session = self.sessions.get(&number);
        let flights = session.map_or(&[][..], |session| &session.flights);
        let index = flights.iter().position(|flight| flight.packet_id == packet_id);
        ahead.flight = index.map(|index| (index, flights[index].clone()));
        let was_provoked = is_provoked(self);
        match &ahead.packet {
            Packet::PubRec(ack) if !ack.reason.is_error() => _ = self.hear_pubrec(link, number, packet_id),
            packet => self.hear_client(link, number, &packet.clone()),
        }
        if !is_provoked(self) || was_provoked {
            return self.heard_ahead.push(ahead);
        }
        // Nothing it said behind that is heard.
        self.ahead
            .retain(|other| other.link != link || other.place < ahead.place);
        let behind = |other: &mut Ahead| other.link == link && other.place > ahead.place;
        let behind: Vec<_> = self.heard_ahead.extract_if(.., behind).collect();
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        for (index, flight) in behind.into_iter().rev().filter_map(|other| other.flight) {
            session
                .flights
                .retain(|other| other.packet_id != flight.packet_id);
            session.flights.insert(index.min(session.flights.len()), flight);
        }
    }

    /// PUBREC of what was sent, or was not; whether it may be answered.
    fn hear_pubrec(&mut self, link: LinkId, session: SessionNumber, packet_id: u16) -> bool {
        let Some(flight) = self.flight(session, packet_id) else {
            return true;
        };
        // Where it was not sent on this connection, it may have been dropped instead.
        let is_unseen = flight.sent_on != Some(link);
        flight.is_in_doubt |= is_unseen && !flight.released;
        if flight.owed.qos != QoS::ExactlyOnce {
            known_mut(&mut self.links, link, |link| link.provoked = true);
            return is_unseen;
        }
        flight.released = true;
        flight.sent_on = Some(link);
        true
    }

    /// [MQTT-3.1.4-3]: the old connection is closed before the new one is let in, and told why where it can be.
    pub(super) fn check_takeover(&self, old: LinkId, new: LinkId, outputs: &[Output]) -> Held {
        let closed = outputs
            .iter()
            .position(|output| matches!(output, Output::Close { link } if *link == old));
        let greeted = outputs.iter().position(|output| {
            let link = match output {
                Output::Send {
                    link,
                    packet: Packet::ConnAck(_),
                } => link,
                Output::Event(Event::ClientConnected { link, .. }) => link,
                _ => return false,
            };
            *link == new
        });
        hold(closed.is_some() && closed < greeted, "T1", || {
            "a session was taken over and its old connection was not closed before".into()
        })?;
        let version = self.links.get(&old).map(|link| link.version);
        let told = outputs.iter().any(|output| {
            matches!(output, Output::Send { link, packet: Packet::Disconnect(disconnect) }
                if *link == old && disconnect.reason == ReasonCode::SessionTakenOver)
        });
        let is_told =
            version == Some(ProtocolVersion::V5) && self.links.get(&old).is_some_and(|link| link.greeted);
        hold(told == is_told, "T1", || {
            format!("the old connection, of version {version:?}, was told of the takeover: {told}")
        })
    }

    /// A packet of a client that is in.
    pub(super) fn hear_client(&mut self, link: LinkId, session: SessionNumber, packet: &Packet) {
        let Some(known) = self.links.get_mut(&link) else {
            return;
        };
        if known.goodbye.is_some() {
            return;
        }
        let rests_on = self.rests_on;
        match packet {
            Packet::Publish(publish) => self.hear_publish(link, session, publish),
            Packet::Subscribe(subscribe) => self.hear_subscribe(link, session, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.hear_unsubscribe(link, session, unsubscribe),
            Packet::PubAck(ack) => self.hear_end(link, session, ack.packet_id.get(), QoS::AtLeastOnce, false),
            Packet::PubRec(ack) if ack.reason.is_error() => {
                self.hear_end(link, session, ack.packet_id.get(), QoS::ExactlyOnce, false);
            }
            Packet::PubComp(ack) => self.hear_end(link, session, ack.packet_id.get(), QoS::ExactlyOnce, true),
            Packet::PubRec(ack) => {
                let packet_id = ack.packet_id.get();
                if self.hear_pubrec(link, session, packet_id) {
                    known_mut(&mut self.links, link, |link| {
                        link.owe(Answer::PubRel(packet_id), rests_on)
                    });
                }
            }
            Packet::PubRel(ack) => {
                let packet_id = ack.packet_id.get();
                let was_there = (self.sessions.get_mut(&session))
                    .is_some_and(|session| session.receiving.remove(&packet_id));
                let answer = Answer::PubComp(packet_id, was_there);
                known_mut(&mut self.links, link, |link| link.owe(answer, rests_on));
            }
            Packet::PingReq => known.owe(Answer::PingResp, rests_on),
            Packet::Disconnect(disconnect) => {
                let session = self.sessions.get_mut(&session);
                if let (Some(session), Some(secs)) = (session, disconnect.properties.session_expiry_secs) {
                    if session.expiry_secs == 0 && secs != 0 {
                        known.provoked = true; // section 3.14.2.2.2
                        return;
                    }
                    session.expiry_secs = secs.min(self.terms.session_expiry_max_secs);
                }
                known.goodbye = Some(disconnect.reason);
            }
            _ => known.provoked = true,
        }
    }

    pub(super) fn flight(&mut self, session: SessionNumber, packet_id: u16) -> Option<&mut model::Flight> {
        let session = self.sessions.get_mut(&session)?;
        session
            .flights
            .iter_mut()
            .find(|flight| flight.packet_id == packet_id)
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses.
    pub(super) fn hear_end(
        &mut self,
        link: LinkId,
        session: SessionNumber,
        packet_id: u16,
        qos: QoS,
        released: bool,
    ) {
        let Some(flight) = self.flight(session, packet_id) else {
            return; // a late echo harms nobody
        };
        let is_awaited = flight.owed.qos == qos && flight.released == released;
        if is_awaited && let Some(session) = self.sessions.get_mut(&session) {
            session.flights.retain(|flight| flight.packet_id != packet_id);
        }
        known_mut(&mut self.links, link, |link| {
            link.provoked |= !is_awaited;
            link.outstanding.remove(&packet_id);
        });
    }

    pub(super) fn hear_publish(&mut self, link: LinkId, session: SessionNumber, publish: &Publish) {
        let rests_on = self.rests_on;
        let (Some(known), Some(owner)) = (self.links.get_mut(&link), self.sessions.get(&session)) else {
            return;
        };
        let version = known.version;
        let mut properties = publish.properties.as_deref().cloned().unwrap_or_default();
        let topic = match (&publish.topic, properties.topic_alias.take()) {
            (Some(topic), alias) => {
                let topic: Rc<str> = Rc::from(topic.as_str());
                if let Some(alias) = alias {
                    known.aliases[0].insert(alias, topic.clone());
                }
                topic
            }
            (None, alias) => match alias.and_then(|alias| known.aliases[0].get(&alias)) {
                Some(topic) => topic.clone(),
                None => {
                    known.provoked = true;
                    return;
                }
            },
        };
        let packet_id = publish.packet_id.map_or(0, |packet_id| packet_id.get());
        if publish.qos == QoS::ExactlyOnce && owner.receiving.contains(&packet_id) {
            known.owe(Answer::PubRec(packet_id, Reached::Again), rests_on); // [MQTT-4.3.3-10]
            return;
        }
        let identity = owner.identity.clone();
        let may_publish = may(&self.denials, &identity, Action::Publish, &topic);
        if may_publish && publish.qos != QoS::AtMostOnce && !self.may_be_promised(&topic, publish.retain) {
            known_mut(&mut self.links, link, |link| match (link.version, publish.qos) {
                (ProtocolVersion::V5, QoS::AtLeastOnce) => {
                    link.owe(Answer::PubAck(packet_id, Reached::NotStored), rests_on)
                }
                (ProtocolVersion::V5, _) => link.owe(Answer::PubRec(packet_id, Reached::NotStored), rests_on),
                _ => link.provoked = true, // it cannot be told, and is sent away
            });
            return;
        }
        let reached = if may(&self.denials, &identity, Action::Publish, &topic) {
            let parts = (&publish.payload, publish.qos, publish.retain);
            let message = self.message(&topic, parts, properties, Some(session));
            known_mut(&mut self.links, link, |link| {
                link.unanswered.insert(packet_id, message.clone());
            });
            let session = self.sessions.get_mut(&session);
            let may_be_again = session.is_some_and(|session| session.unsure_of.remove(&packet_id));
            // One that is refused for want of room among what is retained goes to nobody at QoS 2.
            if may_be_again || (publish.qos == QoS::ExactlyOnce && publish.retain && self.retains_nothing) {
                self.doubt(message.clone());
            }
            match self.route(message, &identity) {
                true => Reached::Somebody,
                false => Reached::Nobody,
            }
        } else {
            Reached::Denied
        };
        known_mut(&mut self.links, link, |link| match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => link.owe(Answer::PubAck(packet_id, reached), rests_on),
            QoS::ExactlyOnce => link.owe(Answer::PubRec(packet_id, reached), rests_on),
        });
        // [MQTT-4.3.3-9]: one that is refused is not remembered. For want of room that shows in what is stored, long
        // before the answer, which its client may never get.
        let is_cramped = !self.terms.is_roomy
            && self.health != StoreHealth::Failed
            && (self.sessions.get(&session)).is_some_and(|session| self.terms.stores && session.is_stored);
        let is_taken = (reached != Reached::Denied || version != ProtocolVersion::V5)
            && (!is_cramped || self.is_noted(packet_id));
        if publish.qos == QoS::ExactlyOnce
            && is_taken
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.receiving.insert(packet_id);
        }
    }

    /// Whether it was given to be stored, in this step, that a QoS 2 message came by this identifier.
    fn is_noted(&self, packet_id: u16) -> bool {
        let mut received = self.taken.iter().filter_map(|(_, accepted)| accepted.received);
        received.any(|(_, noted)| noted.get() == packet_id)
    }

    /// Whether a message may be taken: not where that is a promise to store it, and that cannot be.
    pub(super) fn may_be_promised(&self, topic: &str, retain: bool) -> bool {
        let is_asked_for = |session: &Session| {
            session.is_promised()
                && session
                    .filters
                    .values()
                    .any(|filter| matches(&filter.matched, topic))
        };
        !self.terms.stores
            || self.health == StoreHealth::Ready
            || !(retain || self.sessions.values().any(is_asked_for))
    }

    pub(super) fn hear_subscribe(&mut self, link: LinkId, number: SessionNumber, subscribe: &Subscribe) {
        let rests_on = self.rests_on;
        let mut before = Vec::new();
        let is_refused = self.terms.stores
            && self.health != StoreHealth::Ready
            && self.sessions.get(&number).is_some_and(Session::is_promised);
        let is_wrong = |subscription: &tidegate::mqtt::Subscription| {
            subscription.no_local && subscription.filter.share().is_some()
        };
        if subscribe.subscriptions.iter().any(is_wrong) {
            return known_mut(&mut self.links, link, |link| link.provoked = true); // [MQTT-3.8.3-4]
        }
        let count = subscribe.subscriptions.len();
        for subscription in &subscribe.subscriptions {
            let Some(session) = self.sessions.get_mut(&number) else {
                return;
            };
            let text: Rc<str> = Rc::from(subscription.filter.as_str());
            let (group, matched) = parts_of(&text);
            if is_refused {
                continue;
            }
            session.ever_as_published |= group.is_some() && subscription.retain_as_published;
            session.groups_ever.extend(group.clone());
            let filter = Filter {
                matched,
                group,
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                id: subscribe.properties.subscription_id.unwrap_or(0),
            };
            let is_wanted = match subscription.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !session.filters.contains_key(&text),
                RetainHandling::DoNotSend => false,
            };
            if is_wanted && filter.group.is_none() {
                let mut topics = BTreeSet::new();
                for (topic, (_, values)) in &self.retained {
                    if !matches(&filter.matched, topic) {
                        continue;
                    }
                    // What has expired may be gone, or be counted when it is found.
                    let is_there = |value: &Option<Retained>| {
                        value
                            .as_ref()
                            .is_some_and(|retained| !retained.message.is_expired(self.now))
                    };
                    match values.iter().all(is_there) {
                        true => _ = topics.insert(topic.clone()),
                        false => self.slack += 1,
                    }
                }
                // Whether what was not brought was dropped before, and counted, nobody can tell.
                self.slack += session.forget_replay(&text);
                session.replays.push((text.clone(), topics));
            }
            let old = session.filters.insert(text.clone(), filter);
            before.push((text, old));
        }
        let packet_id = subscribe.packet_id.get();
        let answer = Answer::SubAck(packet_id, count);
        self.subscribing.push((link, packet_id, before));
        known_mut(&mut self.links, link, |link| link.owe(answer, rests_on));
    }

    pub(super) fn hear_unsubscribe(
        &mut self,
        link: LinkId,
        number: SessionNumber,
        unsubscribe: &Unsubscribe,
    ) {
        let rests_on = self.rests_on;
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let existed = (unsubscribe.filters.iter())
            .map(|filter| {
                self.slack += session.forget_replay(filter.as_str());
                session.filters.remove(filter.as_str()).is_some()
            })
            .collect();
        let answer = Answer::UnsubAck(unsubscribe.packet_id.get(), existed);
        known_mut(&mut self.links, link, |link| link.owe(answer, rests_on));
    }
}

/// Whether the client of `link` is in now; CONNACK may have to wait until that is stored.
fn lets_in(link: LinkId, outputs: &[Output]) -> bool {
    outputs
        .iter()
        .any(|output| matches!(output, Output::Event(Event::ClientConnected { link: to, .. }) if *to == link))
}

fn known_mut(
    links: &mut std::collections::BTreeMap<LinkId, Link>,
    link: LinkId,
    change: impl FnOnce(&mut Link),
) {
    if let Some(known) = links.get_mut(&link) {
        change(known);
    }
}
