//! What a crash leaves that came while nothing could be stored: no moment that ever was, but what was stored before,
//! mixed with so much of the checkpoint as had come. The records are read here by the naive definition; all that was
//! promised has to be among them, and the oracle goes on from what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tidegate::broker::change::{
    Accepted, Author, JournalTime, MessageBody, MessageNumber, Owed as StillOwed, StoredSession,
    StoredSubscription, Terms, UnfinishedDelivery,
};
use tidegate::broker::{BanSubject, Change, LinkId};
use tidegate::mqtt::{PublishProperties, QoS};

use super::model::{Filter, Flight, Group, Message, Owed, Session, Testament, matches};
use super::{Held, Oracle, Retained, Shared, hold, parts_of};

/// Everything the records come to.
#[derive(Debug, Default, Clone)]
pub struct Found {
    sessions: BTreeMap<u64, FoundSession>,
    bodies: BTreeMap<u64, MessageBody>,
    retained: BTreeMap<Rc<str>, (u64, Author)>,
    bans: BTreeMap<BanSubject, Option<JournalTime>>,
    /// What time it was by the journal's clock and by the board's, when that was told last.
    clock: Option<(JournalTime, SystemTime)>,
    /// What was given again since a checkpoint began.
    again: Option<Box<Found>>,
}

#[derive(Debug, Clone)]
struct FoundSession {
    head: StoredSession,
    filters: BTreeMap<Rc<str>, StoredSubscription>,
    waiting: BTreeMap<u64, (u64, Terms)>,
    sent: Vec<UnfinishedDelivery>,
    receiving: BTreeSet<u16>,
}

impl Found {
    /// The records in their order.
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut found = Self::default();
        for change in changes {
            match &change {
                // What there is of an earlier one has the same right.
                Change::CheckpointBegun => found.again = Some(Box::default()),
                Change::CheckpointEnded => {
                    if let Some(again) = found.again.take() {
                        let clock = again.clock.or(found.clock); // time goes on where what there is begins anew
                        found = Self { clock, ..*again };
                    }
                }
                _ => {
                    if let Some(again) = &mut found.again {
                        again.apply(change.clone());
                    }
                    found.apply(change);
                }
            }
        }
        found
    }

    /// What the journal's clock shows when the board's shows `wall`: it goes on where it was told last, by the time
    /// since, if that is to be trusted; `None` where it was never told.
    ///
    /// A disk that lies or rots may have lost that it was told: what was told before counts then, and the board's clock
    /// may have been set since.
    pub fn clock_at(&self, wall: SystemTime, is_trusted: bool) -> Option<Duration> {
        let (told_at, told_wall) = self.clock?;
        let since = wall.duration_since(told_wall).unwrap_or_default();
        let since = if is_trusted { since } else { Duration::ZERO };
        Some(Duration::from_millis(told_at.0) + since)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Session(head) => match self.sessions.get_mut(&head.number.0) {
                Some(session) => session.head = *head,
                None => {
                    // That the one before it ended was not recorded.
                    (self.sessions).retain(|_, known| known.head.client != head.client);
                    let session = FoundSession {
                        filters: BTreeMap::new(),
                        waiting: BTreeMap::new(),
                        sent: Vec::new(),
                        receiving: BTreeSet::new(),
                        head: *head,
                    };
                    self.sessions.insert(session.head.number.0, session);
                }
            },
            Change::SessionEnded { session } => _ = self.sessions.remove(&session.0),
            Change::Subscribed(made) => {
                if let Some(session) = self.sessions.get_mut(&made.session.0) {
                    session.filters.insert(Rc::from(made.filter.as_str()), *made);
                }
            }
            Change::Unsubscribed { session, filter } => {
                if let Some(session) = self.sessions.get_mut(&session.0) {
                    session.filters.remove(filter.as_str());
                }
            }
            Change::Accepted(accepted) => self.accept(*accepted),
            Change::Sent {
                session,
                delivery,
                packet_id,
            } => {
                if let Some(session) = self.sessions.get_mut(&session.0)
                    && let Some(message) = session.waiting.remove(&delivery.0)
                {
                    let message = Some((MessageNumber(message.0), message.1));
                    session.send(UnfinishedDelivery { packet_id, message });
                }
            }
            Change::Released { session, packet_id } => {
                let sent = self.sessions.get_mut(&session.0).map(|session| &mut session.sent);
                for sent in sent
                    .into_iter()
                    .flatten()
                    .filter(|sent| sent.packet_id == packet_id)
                {
                    sent.message = None;
                }
            }
            Change::Finished { session, packet_id } => {
                if let Some(session) = self.sessions.get_mut(&session.0) {
                    session.sent.retain(|sent| sent.packet_id != packet_id);
                }
            }
            Change::Dropped { session, delivery } => {
                if let Some(session) = self.sessions.get_mut(&session.0) {
                    session.waiting.remove(&delivery.0);
                }
            }
            Change::Forgotten { session, packet_id } => {
                if let Some(session) = self.sessions.get_mut(&session.0) {
                    session.receiving.remove(&packet_id.get());
                }
            }
            Change::Unfinished(unfinished) => {
                if let Some(session) = self.sessions.get_mut(&unfinished.session.0) {
                    session.sent = unfinished.sent;
                    session.receiving = unfinished.receiving.iter().map(|id| id.get()).collect();
                }
            }
            Change::WillGone { session } => {
                if let Some(session) = self.sessions.get_mut(&session.0) {
                    session.head.will = None;
                }
            }
            Change::Unretained { topic } => _ = self.retained.remove(topic.as_str()),
            Change::Banned { subject, until } => _ = self.bans.insert(subject, until),
            Change::Unbanned { subject } => _ = self.bans.remove(&subject),
            Change::Clock { at, wall } => self.clock = Some((at, wall)),
            Change::CheckpointBegun | Change::CheckpointEnded => {}
        }
    }

    fn accept(&mut self, accepted: Accepted) {
        let number = accepted.message.0;
        if let Some(body) = accepted.body {
            self.bodies.entry(number).or_insert(*body);
        }
        if let Some((session, packet_id)) = accepted.received
            && let Some(session) = self.sessions.get_mut(&session.0)
        {
            session.receiving.insert(packet_id.get());
        }
        if let Some(session) = accepted
            .will_of
            .and_then(|number| self.sessions.get_mut(&number.0))
        {
            session.head.will = None;
        }
        for delivery in accepted.deliveries {
            let Some(session) = self.sessions.get_mut(&delivery.session.0) else {
                continue;
            };
            match delivery.packet_id {
                None => {
                    _ = session
                        .waiting
                        .insert(delivery.number.0, (number, delivery.terms))
                }
                Some(packet_id) => {
                    let message = Some((accepted.message, delivery.terms));
                    session.send(UnfinishedDelivery { packet_id, message });
                }
            }
        }
        if let (Some(author), Some(body)) = (accepted.retained_by, self.bodies.get(&number)) {
            self.retained
                .insert(Rc::from(body.topic.as_str()), (number, author));
        }
    }
}

impl FoundSession {
    /// What has an identifier takes the place of what had it before.
    fn send(&mut self, unfinished: UnfinishedDelivery) {
        self.sent.retain(|sent| sent.packet_id != unfinished.packet_id);
        self.sent.push(unfinished);
    }

    fn owes(&self, found: &Found, message: &Message) -> bool {
        let sent = self
            .sent
            .iter()
            .filter_map(|sent| Some(sent.message.as_ref()?.0.0));
        let waiting = self.waiting.values().map(|(number, _)| *number);
        (sent.chain(waiting)).any(|number| {
            let body = found.bodies.get(&number);
            body.is_some_and(|body| *body.topic.as_str() == *message.topic && body.payload == message.payload)
        })
    }
}

impl Oracle {
    /// D1: what was promised when everything could be stored, and holds still, was found.
    pub fn check_promised(&self, promised: &Self, found: &Found) -> Held {
        let sessions: BTreeMap<&str, &FoundSession> = (found.sessions.values())
            .map(|session| (session.head.client.as_str(), session))
            .collect();
        for (number, then) in promised.sessions.iter().filter(|(_, then)| then.is_stored) {
            let Some(now) = self.sessions.get(number).filter(|now| now.is_stored) else {
                continue; // it may have ended, or not
            };
            let there = sessions.get(&*now.client);
            let Some(there) = there.filter(|there| there.head.identity == now.identity) else {
                return hold(false, "D1", || format!("the session of {} is lost", now.client));
            };
            for (text, _) in then
                .filters
                .iter()
                .filter(|(text, _)| now.filters.contains_key(*text))
            {
                let is_there = there.filters.contains_key(text);
                hold(is_there, "D1", || format!("{} has lost {text}", now.client))?;
            }
            for id in then.receiving.intersection(&now.receiving) {
                let is_there = there.receiving.contains(id);
                hold(is_there, "D2", || {
                    format!("{} has lost that {id} came", now.client)
                })?;
            }
            let may_lose =
                |message: &Message| !self.terms.is_roomy || self.has_denied || message.is_expired(self.now);
            let is_still_owed = |message: &Rc<Message>| {
                now.owed.iter().any(|owed| Rc::ptr_eq(&owed.message, message))
                    || (now.flights.iter()).any(|flight| {
                        !flight.released
                            && flight.sent_on == now.link
                            && Rc::ptr_eq(&flight.owed.message, message)
                    })
            };
            let owed = then
                .owed
                .iter()
                .chain((then.flights.iter().filter(|flight| !flight.released)).map(|flight| &flight.owed));
            for owed in owed.filter(|owed| is_still_owed(&owed.message) && !may_lose(&owed.message)) {
                let is_there = there.owes(found, &owed.message);
                hold(is_there, "D1", || format!("{} has lost {owed:?}", now.client))?;
            }
        }
        for (topic, (_, then)) in &promised.retained {
            let now = (self.retained.get(topic)).map_or(&[][..], |(_, values)| values.as_slice());
            if let ([Some(then)], [Some(now)]) = (&then[..], now)
                && Rc::ptr_eq(&then.message, &now.message)
                && !then.message.is_expired(self.now)
            {
                let there = found.retained.get(topic);
                let there = there.and_then(|(number, _)| found.bodies.get(number));
                hold(
                    there.is_some_and(|body| body.payload == then.message.payload),
                    "D5",
                    || format!("{topic} has lost {:?}", then.message),
                )?;
            }
        }
        Ok(())
    }

    /// Goes on with what was found; `began` is when the journal's clock was 0.
    pub fn go_on_from(&mut self, found: &Found, began: Instant) {
        let at = |at: JournalTime| began + Duration::from_millis(at.0);
        let message_of = |body: &MessageBody| {
            Rc::new(Message {
                topic: Rc::from(body.topic.as_str()),
                payload: body.payload.clone(),
                qos: body.qos,
                retain: body.retain,
                properties: body.properties.as_deref().cloned().unwrap_or_default(),
                expires_at: body.expires_at.map(at),
                publisher: None,
            })
        };
        let messages: BTreeMap<u64, Rc<Message>> = (found.bodies.iter())
            .map(|(&number, body)| (number, message_of(body)))
            .collect();
        self.sessions.clear();
        self.names.clear();
        self.shared.clear();
        (self.lost, self.lost_expired, self.slack) = (0, 0, 0);
        self.stats = tidegate::broker::Stats::default();
        self.credit = 0;
        for known in found.sessions.values() {
            self.last_session += 1;
            let session = self.session_of(known, &messages, began);
            self.names.insert(session.client.clone(), self.last_session);
            self.sessions.insert(self.last_session, session);
        }
        self.retained = (found.retained.iter())
            .filter_map(|(topic, (number, author))| {
                let retained = Retained {
                    message: messages.get(number)?.clone(),
                    author: author.identity.clone(),
                };
                Some((topic.clone(), (self.batch, vec![Some(retained)])))
            })
            .collect();
        // What a subscription has yet to bring may have expired when its turn comes, or be denied, and is counted then.
        for (text, made) in found.sessions.values().flat_map(|known| &known.filters) {
            if made.owed != StillOwed::Nothing {
                let matching = self.retained.keys().filter(|topic| matches(text, topic));
                self.slack += matching.count() as u64;
            }
        }
        self.bans = (found.bans.iter())
            .filter_map(|(subject, until)| {
                let name = match subject {
                    BanSubject::Client(client) => client.as_str(),
                    BanSubject::User(user) => user.as_str(),
                    BanSubject::Network(_) => return None,
                };
                Some((Rc::from(name), at((*until)?)))
            })
            .collect();
    }

    fn session_of(
        &mut self,
        known: &FoundSession,
        messages: &BTreeMap<u64, Rc<Message>>,
        began: Instant,
    ) -> Session {
        let head = &known.head;
        let at = |at: JournalTime| began + Duration::from_millis(at.0);
        let mut session = Session::new(Rc::from(head.client.as_str()), head.identity.clone());
        (session.is_stored, session.was_stored) = (true, true);
        session.stored_as = head.number.0;
        session.expiry_secs = head.expiry_secs;
        match head.left_at {
            None => session.link = Some(LinkId::default()), // nobody's; it has lost its connection
            Some(_) if head.expiry_secs == u32::MAX => {}
            Some(left_at) => {
                session.expires_at = Some(at(left_at) + Duration::from_secs(u64::from(head.expiry_secs)));
            }
        }
        session.will = head.will.as_deref().map(|will| {
            let properties = will.message.properties.as_deref().cloned().unwrap_or_default();
            Testament {
                expiry_secs: properties.message_expiry_secs,
                message: Rc::new(Message {
                    topic: Rc::from(will.message.topic.as_str()),
                    payload: will.message.payload.clone(),
                    qos: will.message.qos,
                    retain: will.message.retain,
                    properties,
                    expires_at: None,
                    publisher: None,
                }),
                delay: will.delay,
                due: will.due_at.map(at),
            }
        });
        session.receiving = known.receiving.clone();
        for (text, made) in &known.filters {
            let (group, matched) = parts_of(text);
            session.ever_as_published |= group.is_some() && made.retain_as_published;
            session.groups_ever.extend(group.clone());
            let filter = Filter {
                matched,
                group,
                qos: made.qos,
                no_local: made.no_local,
                retain_as_published: made.retain_as_published,
                id: made.subscription_id,
            };
            session.filters.insert(text.clone(), filter);
        }
        let group_of = |terms: &Terms| -> Option<Group> { Some(Rc::from(terms.share.as_ref()?.as_str())) };
        for sent in &known.sent {
            let (message, terms) = match &sent.message {
                None => (nothing(), None),
                Some((number, terms)) => match messages.get(&number.0) {
                    Some(message) => (message.clone(), Some(terms)),
                    None => continue,
                },
            };
            self.batch += 1;
            let owed = self.owed_of(message, terms);
            let group = terms.and_then(group_of);
            session.groups_ever.extend(group.clone());
            session.flights.push(Flight {
                packet_id: sent.packet_id.get(),
                owed,
                groups: group.map(|group| Rc::from([group])),
                released: terms.is_none(),
                sent_on: None,
                is_in_doubt: false,
            });
        }
        for (number, terms) in known.waiting.values() {
            let Some(message) = messages.get(number) else {
                continue;
            };
            self.batch += 1;
            match group_of(terms).filter(|group| session.filters.contains_key(group)) {
                Some(group) => self.shared.push(Shared {
                    groups: Rc::from([group.clone()]),
                    group,
                    message: message.clone(),
                    batch: self.batch,
                    is_unsure: false,
                    after: 0,
                    qos: message.qos,
                }),
                None => session.owed.push_back(self.owed_of(message.clone(), Some(terms))),
            }
        }
        session
    }

    fn owed_of(&self, message: Rc<Message>, terms: Option<&Terms>) -> Owed {
        let mut ids = terms.map_or_else(Vec::new, |terms| terms.subscription_ids.clone());
        ids.sort_unstable();
        Owed {
            qos: terms.map_or(QoS::ExactlyOnce, |terms| terms.qos),
            retain: terms.map(|terms| terms.retain),
            ids,
            batch: self.batch,
            after: 0,
            message,
        }
    }
}

/// What stands for a message that its receiver has.
fn nothing() -> Rc<Message> {
    Rc::new(Message {
        topic: Rc::from(""),
        payload: bytes::Bytes::new(),
        qos: QoS::ExactlyOnce,
        retain: false,
        properties: PublishProperties::default(),
        expires_at: None,
        publisher: None,
    })
}
