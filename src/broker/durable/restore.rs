//! A broker that goes on where another ended.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::change::{Author, JournalTime, MessageBody, MessageNumber, Owed, SessionNumber, Terms};
use super::restored::{Gaps, Restored, RestoredSession, Standing};
use super::{Durable, Stamp};
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::broker::kept::{Kept, Queued};
use crate::broker::limits::QueueClass;
use crate::broker::losses::Loss;
use crate::broker::retained::{self, Writer};
use crate::broker::session::{Session, SessionKey};
use crate::broker::subscribe::Replay;
use crate::broker::subscriptions::Options;
use crate::broker::timers::Timer;
use crate::broker::will::Testament;
use crate::broker::{Broker, Now};
use crate::mqtt::TopicName;

/// The messages that are there, by their numbers.
type Messages = std::collections::BTreeMap<MessageNumber, Found>;

/// A message that was stored.
struct Found {
    /// `None` where it is left where it stands.
    kept: Option<Kept>,
    size_bytes: usize,
    standing: Standing,
}

/// What waits for a session that is put back, in its order.
enum Waiting {
    /// At hand, with the number of its record where it can be read again from there.
    Queued(Queued, Option<u64>),
    /// Left where it stands.
    Left {
        record: u64,
        delivery: u64,
        size_bytes: usize,
    },
}

impl Broker {
    /// Takes over what another broker had stored, `given` changes in all, before the first input; where the board's
    /// clock is not `trusted`, the time the gateway was off counts for nothing.
    ///
    /// Every client has lost its connection at this moment at the latest: wills are due, and sessions expire, as if it
    /// had. What was retained by those who may not any more is dropped. Nothing is dropped because a bound is lower
    /// than it was.
    pub fn restore(&mut self, now: Now, restored: Restored, given: u64, trusted: bool) {
        let Some(mut durable) = self.durable.take() else {
            return;
        };
        let clock = restored.clock.unwrap_or((JournalTime::default(), now.wall));
        durable.since = clock.0.after(off_for(clock.1, now.wall, trusted));
        durable.started = now.mono;
        durable.given = given;
        durable.stored = given;
        durable.given_before = given;
        durable.next_session = restored.highest.0 + 1;
        durable.next_message = restored.highest.1 + 1;
        durable.next_delivery = restored.highest.2 + 1;
        let Restored {
            sessions,
            messages,
            retained,
            bans,
            ..
        } = restored;
        let messages: Messages = messages
            .into_iter()
            .map(|(number, message)| {
                let kept = message.body.map(|body| {
                    let kept = self.keep_again(&durable, *body);
                    kept.stamp.set(Stamp::new(number.0, durable.epoch));
                    kept
                });
                let found = Found {
                    kept,
                    size_bytes: message.size_bytes,
                    standing: message.standing,
                };
                (number, found)
            })
            .collect();
        for (topic, (number, author)) in retained {
            self.retain_again(&topic, &messages, number, &author);
        }
        let mut sessions: Vec<_> = sessions.into_iter().collect();
        // Of those who gave no moment, the one that came first left first.
        sessions.sort_by_key(|(number, session)| (session.head.left_at, *number));
        let mut keys = Vec::new();
        for (number, session) in sessions {
            keys.push(self.put_back(&durable, &messages, number, session));
        }
        self.stats.subscriptions = self.subscriptions.len() as u64;
        for (subject, until) in bans {
            let until = until.map(|until| durable.instant(until));
            self.ban_again(subject, until);
        }
        self.count_retained();
        self.loosen_for_what_is_there();
        self.durable = Some(durable);
        self.begin_input(now);
        for (key, was_connected) in keys {
            self.lose_connection(now, key, was_connected);
        }
        let rights = &self.rights;
        let dropped = self.retained.drop_where(
            |writer, topic| !rights.authorize(writer.who(), Action::Publish, topic),
            &mut self.owners,
        );
        self.stats.publishes_denied += dropped;
        self.count_retained();
        self.end_input();
    }

    pub(super) fn keep_again(&self, durable: &Durable, body: MessageBody) -> Kept {
        Kept::copy(
            &self.budget.account,
            &body.topic,
            &body.payload,
            body.properties.as_deref(),
            (body.qos, body.retain),
            body.expires_at.map(|at| durable.instant(at)),
        )
    }

    fn retain_again(
        &mut self,
        topic: &TopicName,
        messages: &Messages,
        number: MessageNumber,
        author: &Author,
    ) {
        let Some(message) = messages
            .get(&number)
            .and_then(|found| found.kept.as_ref())
            .filter(|message| message.topic_str() == topic.as_str())
        else {
            return;
        };
        let identity = self.shared(&author.identity);
        let owner = (author.client.as_ref()).map(|_| self.owners.owner(&identity, None));
        let author = match author.client {
            None => self.gateway.clone(),
            Some(_) => Rc::new(retained::Author::again(identity, author, &self.budget.account)),
        };
        self.retained
            .put_back(message, Writer { author, owner }, &mut self.owners);
    }

    /// Puts a session back that nobody is connected to; whether somebody was.
    fn put_back(
        &mut self,
        durable: &Durable,
        messages: &Messages,
        number: SessionNumber,
        restored: RestoredSession,
    ) -> (SessionKey, bool) {
        let RestoredSession {
            head,
            subscriptions,
            queue,
            sent,
            receiving,
            gaps,
        } = restored;
        let identity = self.shared(&head.identity);
        let owner = self.owners.owner(&identity, head.peer);
        let mut session = Session::new(
            head.client,
            identity,
            owner,
            head.mount_point,
            &self.budget,
            &self.queues,
        );
        session.set_groups(head.groups);
        session.number = number.0;
        session.peer = head.peer.map(Box::new);
        session.expiry_secs = head.expiry_secs;
        self.departures += 1;
        session.left = self.departures;
        if let (Some(left_at), true) = (head.left_at, head.expiry_secs != u32::MAX) {
            let expires_at = left_at.after(Duration::from_secs(u64::from(head.expiry_secs)));
            session.expires_at = Some(durable.instant(expires_at));
        }
        if let Some(will) = head.will {
            let message = self.keep_again(durable, will.message);
            self.stats.wills_bytes += message.size_bytes() as u64;
            let due = will.due_at.map(|due| durable.instant(due));
            session.will = Some(Box::new(Testament::again(message, will.delay, due)));
        }
        let key = self.sessions.insert(session);
        self.stats.sessions += 1;
        let (mut places, mut replays) = (Vec::new(), Vec::new());
        for (filter, subscription) in subscriptions {
            let options = Options {
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                subscription_id: subscription.subscription_id,
            };
            let place = self.subscriptions.insert(key, &filter, options);
            places.push(place);
            if let Owed::After(topic) = subscription.owed {
                replays.push(Replay::again(&filter, place, topic, &self.budget.account));
            }
        }
        self.owners.change(owner, |usage| {
            usage.sessions += 1;
            usage.subscriptions += places.len();
        });
        let queued_of = |broker: &Self, (number, terms): (MessageNumber, Terms), delivery: u64| {
            let message = messages.get(&number)?.kept.clone()?;
            Some(broker.queued_again(key, message, terms, delivery))
        };
        let mut waiting = Vec::new();
        for (delivery, (message, terms, standing)) in queue {
            let Some(found) = messages.get(&message) else {
                continue;
            };
            // To be read again it has to stand together, delivery and message.
            let is_whole = found.standing.0 == standing.0 && standing.0 != 0;
            let record = is_whole.then_some(standing.0);
            let ids_bytes = size_of_val(terms.subscription_ids.as_slice());
            waiting.extend(match (&found.kept, record) {
                (Some(_), record) => queued_of(self, (message, Terms::clone(&terms)), delivery.0)
                    .map(|queued| Waiting::Queued(queued, record)),
                (None, Some(record)) => Some(Waiting::Left {
                    record,
                    delivery: delivery.0,
                    size_bytes: found.size_bytes + ids_bytes,
                }),
                (None, None) => None, // damaged
            });
        }
        let mut unfinished = Vec::new();
        for sent in sent {
            let queued = match sent.message {
                None => None,
                Some(named) => match queued_of(self, named, 0) {
                    None => continue,
                    queued => queued,
                },
            };
            unfinished.push((sent.packet_id, queued));
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return (key, false);
        };
        session.places = places;
        session.replays = replays;
        for (packet_id, queued) in unfinished {
            session.inflight.put_back(packet_id, queued);
            self.stats.inflight_messages += 1;
        }
        for packet_id in receiving {
            session.receiving.insert(packet_id);
        }
        let expires_at = session.expires_at;
        let due = session.will.as_ref().and_then(|will| will.due);
        self.queue_again(durable.now.mono, key, waiting, &gaps);
        if let Some(at) = expires_at {
            self.timers.set(at, Timer::SessionExpiry(key));
        }
        if let Some(due) = due {
            self.timers.set(due, Timer::Will(key));
        }
        (key, head.left_at.is_none())
    }

    /// Puts back what waits for a session: as much as its queue holds, and the rest where it may stand in the journal
    /// alone and does.
    fn queue_again(&mut self, now: Instant, key: SessionKey, waiting: Vec<Waiting>, gaps: &Gaps) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (class, bytes_max) = self.queues.size(session.fitting);
        let may_spill = self.queues.spill_bytes_max(session.fitting) > 0;
        let is_bound = |waiting: &Waiting| matches!(waiting, Waiting::Queued(_, None));
        let last_bound = waiting.iter().rposition(is_bound);
        for (index, waiting) in waiting.into_iter().enumerate() {
            let must_queue = last_bound.is_some_and(|last| index <= last) || !may_spill && !session.spills();
            let queued = match waiting {
                Waiting::Queued(queued, record) => {
                    let size_bytes = queued.size_bytes();
                    let fits =
                        session.queue.takes(1, class) && session.held_bytes() + size_bytes <= bytes_max;
                    match record.filter(|_| !must_queue && (session.spills() || !fits)) {
                        Some(record) => Err((record, queued.number, size_bytes)),
                        None => Ok(queued),
                    }
                }
                Waiting::Left { .. } if last_bound.is_some_and(|last| index <= last) => {
                    session.lose(&mut self.stats, Loss::Damaged); // or it would have been read by now
                    continue;
                }
                Waiting::Left {
                    record,
                    delivery,
                    size_bytes,
                } => Err((record, delivery, size_bytes)),
            };
            match queued {
                Err((record, delivery, size_bytes)) => {
                    let spilled = session.spilled_mut(&self.budget.account);
                    spilled.add_standing((record, delivery), size_bytes, gaps, now);
                    self.stats.spilled_messages += 1;
                    self.stats.spilled_bytes += size_bytes as u64;
                }
                Ok(queued) => match session.queue.push(queued, QueueClass::N4096) {
                    Ok(()) => self.stats.queued_messages += 1,
                    Err(_) => self.stats.dropped_queue_full += 1,
                },
            }
        }
        self.stats.queued_bytes += session.held_bytes() as u64;
        self.watch_age(key);
    }

    /// A session is back: who was connected has lost its connection now.
    fn lose_connection(&mut self, now: Now, key: SessionKey, was_connected: bool) {
        if !was_connected {
            return;
        }
        if let Some(session) = self.sessions.get_mut(key) {
            self.departures += 1;
            session.left = self.departures;
            let secs = session.expiry_secs;
            if secs == 0 {
                return self.end_session(now.mono, key); // it was stored for what had spilled
            }
            if secs != u32::MAX {
                session.expires_at = now.mono.checked_add(Duration::from_secs(u64::from(secs)));
                if let Some(at) = session.expires_at {
                    self.timers.set(at, Timer::SessionExpiry(key));
                }
            }
        }
        self.schedule_will(now.mono, key);
        self.store_session(key);
    }

    fn shared(&self, identity: &Identity) -> Rc<Identity> {
        match identity {
            Identity::Anonymous => self.anonymous.clone(),
            other => Rc::new(other.clone()),
        }
    }
}

/// How long the gateway was off.
fn off_for(stopped: SystemTime, starts: SystemTime, trusted: bool) -> Duration {
    match trusted {
        true => starts.duration_since(stopped).unwrap_or_default(),
        false => Duration::ZERO,
    }
}
