//! What a session is owed beyond its queue: in the journal, and not in memory.
//!
//! Where a stored session's ring, or the room for all of them, is full, a message is stored like any other and then
//! forgotten but for where it stands. While a session has something there, all that comes for it goes there, so that
//! the order holds; and when half of its ring is empty, the next of it is asked for ([`Output::Recall`]) and comes back
//! ([`Input::Recalled`](super::super::Input::Recalled)).
//!
//! What stands where is told by runs: stretches of records among which a stretch of deliveries is. They cost next to
//! nothing, whatever a day brings. A checkpoint moves them: what they have is read, and given again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Stamp;
use super::change::{Accepted, Change, Delivery, DeliveryNumber, SessionNumber, Terms};
use super::restored::Gaps;
use crate::broker::budget::{ALLOCATION_BYTES, Account, Charge, Use};
use crate::broker::kept::{Kept, Queued, SubscriptionIds};
use crate::broker::limits::Limits;
use crate::broker::losses::Loss;
use crate::broker::room::{Full, Load};
use crate::broker::session::{Session, SessionKey};
use crate::broker::timers::Timer;
use crate::broker::{Broker, Output};

/// Records to be read again, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    purpose: Purpose,
    first: u64,
    last: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// For a session that has room, by its key and the number in its records.
    Session(SessionKey, SessionNumber),
    /// To be given again by the checkpoint that runs.
    Checkpoint,
}

/// What was read again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// What was asked for.
    pub recall: Recall,
    /// The last change that was looked at; the last one asked for, unless enough was found before.
    pub upto: u64,
    /// The messages that were [wanted](Recall::wants), each with the number of its change, in their order.
    pub messages: Vec<(u64, Accepted)>,
}

/// Bytes of messages, roughly, that are enough for one [`Recalled`].
pub const RECALLED_BYTES: usize = 64 * 1024;

/// What waits for one session in the journal alone.
///
/// 1. `runs` are in the order of their deliveries, and no two have one in common.
/// 2. `count` and `size_bytes` are those of the deliveries in them that can be read, and of those not yet stored.
#[derive(Debug)]
pub(in crate::broker) struct Spilled {
    runs: VecDeque<Run>,
    count: usize,
    size_bytes: usize,
    /// Of the count, those that are not stored yet, and are held until they are.
    fresh: usize,
    is_recalling: bool,
    /// The size of the first, where it has come back and found no room.
    first_bytes: usize,
    /// When it is looked at for its age; [`Timer::Spilled`] runs.
    timer_at: Option<Instant>,
    charge: Charge,
}

/// A stretch of records that has a stretch of one session's deliveries, and much else.
#[derive(Debug)]
struct Run {
    records: (u64, u64),
    deliveries: (u64, u64),
    /// Where they stand when the checkpoint that runs has ended.
    moved: Option<(u64, u64)>,
    /// Whether it was there when that checkpoint came to what has spilled.
    is_old: bool,
    /// When its last delivery was taken.
    ended: Instant,
}

/// A message that has spilled and is not stored yet.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) record: u64,
    pub(super) key: SessionKey,
    pub(super) queued: Queued,
}

/// How a checkpoint moves what has spilled.
#[derive(Debug)]
pub(super) struct Carrying {
    /// Stretches of records to be read, the next one last.
    stretches: Vec<(u64, u64)>,
    /// Sessions that have spilled, by their numbers.
    sessions: Vec<(u64, SessionKey)>,
    is_waiting: bool,
}

/// Records of others that a reader passes over rather than remember one more run: what is read in some milliseconds.
const GAP_MAX: u64 = 512;

/// What is too old and could not be read is tried again after so long.
const AGED_READ_WITHIN: Duration = Duration::from_secs(10);

/// Deliveries of one run, so that a long one goes by parts.
const RUN_MAX: u64 = 4096;

impl Recall {
    /// The first and the last change to be read.
    pub fn changes(&self) -> (u64, u64) {
        (self.first, self.last)
    }

    /// Whether a message is among those that are asked for.
    pub fn wants(&self, accepted: &Accepted) -> bool {
        let is_wanted = |delivery: &Delivery| match self.purpose {
            Purpose::Session(_, number) => delivery.session == number,
            Purpose::Checkpoint => true,
        };
        accepted.body.is_some() && accepted.deliveries.iter().any(is_wanted)
    }
}

impl Spilled {
    fn new(account: &Account) -> Self {
        Self {
            runs: VecDeque::new(),
            count: 0,
            size_bytes: 0,
            fresh: 0,
            is_recalling: false,
            first_bytes: 0,
            timer_at: None,
            charge: Charge::new(account, size_of::<Self>() + ALLOCATION_BYTES),
        }
    }

    pub(in crate::broker) fn count(&self) -> usize {
        self.count
    }

    pub(in crate::broker) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(in crate::broker) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(in crate::broker) fn timer_at(&self) -> Option<Instant> {
        self.timer_at
    }

    /// Whether the first of it is too old.
    fn is_aged(&self, now: Instant, age_max: Duration) -> bool {
        self.runs.front().is_some_and(|run| run.is_aged(now, age_max))
    }

    /// The deliveries that stand in runs, first and last of each.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|run| run.deliveries)
    }

    /// One of them stands in this record now.
    fn settle(&mut self, record: u64, delivery: u64, now: Instant) {
        self.fresh = self.fresh.saturating_sub(1);
        self.note(record, delivery, false, now);
    }

    /// The same of one that was never fresh; whether one that waits no more stands between it and the last, so that no
    /// run may have both.
    fn note(&mut self, record: u64, delivery: u64, is_parted: bool, now: Instant) {
        let goes_on = |run: &&mut Run| {
            let gap = record.checked_sub(run.records.1);
            !is_parted
                && !run.is_old
                && gap.is_some_and(|gap| gap <= GAP_MAX)
                && delivery - run.deliveries.0 < RUN_MAX
        };
        match self.runs.back_mut().filter(goes_on) {
            Some(run) => {
                run.records.1 = record;
                run.deliveries.1 = delivery;
                run.ended = now;
            }
            None => {
                self.runs.push_back(Run {
                    records: (record, record),
                    deliveries: (delivery, delivery),
                    moved: None,
                    is_old: false,
                    ended: now,
                });
                self.charge_runs();
            }
        }
    }

    /// A message is found that has spilled and stands in a record.
    pub(super) fn add_standing(&mut self, place: (u64, u64), size_bytes: usize, gaps: &Gaps, now: Instant) {
        let (record, delivery) = place;
        let last = self.runs.back().map(|run| DeliveryNumber(run.deliveries.1));
        let is_parted = last.is_some_and(|last| gaps.part(last, DeliveryNumber(delivery)));
        self.add(size_bytes);
        self.note(record, delivery, is_parted, now);
    }

    fn charge_runs(&mut self) {
        let bytes = self.runs.capacity() * size_of::<Run>();
        self.charge.set(size_of::<Self>() + ALLOCATION_BYTES + bytes);
    }

    fn add(&mut self, size_bytes: usize) {
        self.count += 1;
        self.size_bytes += size_bytes;
    }

    fn take_off(&mut self, size_bytes: usize) {
        self.count = self.count.saturating_sub(1);
        self.size_bytes = self.size_bytes.saturating_sub(size_bytes);
    }

    /// Whether a delivery found in a record is one that still waits there.
    fn has(&mut self, record: u64, delivery: u64) -> Option<&mut Run> {
        let within = |(first, last): (u64, u64), number| first <= number && number <= last;
        self.runs
            .iter_mut()
            .find(|run| within(run.deliveries, delivery) && within(run.records, record))
    }

    /// Walks over what the type promises.
    pub(in crate::broker) fn check(&self) -> Result<(), String> {
        let mut last = 0;
        for run in &self.runs {
            if run.deliveries.0 <= last || run.deliveries.1 < run.deliveries.0 {
                return Err("runs are out of their order".into());
            }
            if run.records.1 < run.records.0 {
                return Err("a run is over and is still there".into());
            }
            last = run.deliveries.1;
        }
        match self.count {
            0 => Err("nothing has spilled, and is remembered".into()),
            count if self.runs.is_empty() && count != self.fresh => Err("what has spilled is nowhere".into()),
            _ => Ok(()),
        }
    }
}

impl Run {
    /// Whether all of it is too old; never, where there is no such age.
    fn is_aged(&self, now: Instant, age_max: Duration) -> bool {
        age_max > Duration::ZERO && now.saturating_duration_since(self.ended) >= age_max
    }
}

impl Session {
    /// Whether something waits for it in the journal alone, and what comes has to go behind.
    pub(in crate::broker) fn spills(&self) -> bool {
        self.spilled.is_some()
    }

    /// The same, to add to it.
    pub(super) fn spilled_mut(&mut self, account: &Account) -> &mut Spilled {
        self.spilled
            .get_or_insert_with(|| Box::new(Spilled::new(account)))
    }
}

impl Broker {
    /// What stands in the way of one more message in the journal, where one in its queue finds `full` in its way; the
    /// ring has given `slack_bytes` of room that are not filled again yet.
    pub(in crate::broker) fn spill_bound(
        &self,
        session: &Session,
        load: Load,
        full: Full,
        slack_bytes: usize,
    ) -> Option<Full> {
        if !self.may_spill(session) {
            return Some(full);
        }
        let Limits {
            spill_bytes_total_max,
            ..
        } = self.limits;
        let own_bytes = session.spilled.as_ref().map_or(0, |spilled| spilled.size_bytes);
        let all_bytes = usize::try_from(self.stats.spilled_bytes).unwrap_or(usize::MAX);
        let own_max = self.queues.spill_bytes_max(session.fitting);
        let (class, bytes_max) = self.queues.size(session.fitting);
        // What is to come back into an empty half of the ring takes up no room here for long.
        let coming_bytes = match session.queue.len() * 2 <= class.messages() {
            true => bytes_max.saturating_sub(session.held_bytes()),
            false => 0,
        };
        let slack_bytes = slack_bytes.max(coming_bytes);
        let exceeds = |bytes: usize, max: usize| {
            bytes.saturating_add(load.size_bytes) > max.saturating_add(slack_bytes)
        };
        // It is held until it is stored, and while nothing can be stored like what waits in a queue.
        let has_failed = self.durable.as_ref().is_some_and(|durable| durable.has_failed());
        let purpose = if has_failed { Use::Queue } else { Use::Packet };
        // What the queue has no room for at all would not come back.
        let fits_queue = load.size_bytes <= bytes_max;
        if !fits_queue || !self.budget.allows(purpose, load.keeping_bytes) {
            Some(full)
        } else if exceeds(own_bytes, own_max) {
            Some(Full::Own("spill_bytes_max"))
        } else if exceeds(all_bytes, spill_bytes_total_max) {
            Some(Full::Shared("spill_bytes_total_max"))
        } else {
            None
        }
    }

    /// Whether what a session is owed may wait in the journal alone.
    pub(in crate::broker) fn may_spill(&self, session: &Session) -> bool {
        session.number != 0 && self.durable.is_some() && self.queues.spill_bytes_max(session.fitting) > 0
    }

    /// Takes a message for a session into the journal alone.
    #[inline(never)]
    pub(in crate::broker) fn spill(&mut self, key: SessionKey, mut queued: Queued) {
        let (Some(session), Some(durable)) = (self.sessions.get_mut(key), &mut self.durable) else {
            return;
        };
        let size_bytes = queued.size_bytes();
        queued.number = durable.number_delivery();
        let number = session.number;
        let outputs = &mut self.outputs;
        durable.note_new(outputs, &self.subscriptions, number, (&queued, None), false);
        durable.note_spilled(key, queued);
        let spilled = session.spilled_mut(&self.budget.account);
        spilled.add(size_bytes);
        spilled.fresh += 1;
        let is_beyond = spilled.size_bytes > self.queues.spill_bytes_max(session.fitting);
        self.stats.spilled_messages += 1;
        self.stats.spilled_bytes += size_bytes as u64;
        if is_beyond {
            self.refill(key);
        }
    }

    /// What has spilled and is stored by now is forgotten but for its place.
    pub(super) fn settle_spilled(&mut self, now: Instant) {
        let mut settled: Vec<SessionKey> = Vec::new();
        while let Some(durable) = &mut self.durable
            && let Some(fresh) = durable.take_settled()
        {
            if let Some(spilled) =
                (self.sessions.get_mut(fresh.key)).and_then(|session| session.spilled.as_mut())
            {
                spilled.settle(fresh.record, fresh.queued.number, now);
                if settled.last() != Some(&fresh.key) {
                    settled.push(fresh.key);
                }
            }
        }
        for key in settled {
            self.watch_age(key);
            self.refill(key);
        }
    }

    /// Has what a session has spilled looked at when the first of it is too old, for it takes up room that others want.
    pub(super) fn watch_age(&mut self, key: SessionKey) {
        let session = self.sessions.get_mut(key);
        let Some(spilled) = session.and_then(|session| session.spilled.as_mut()) else {
            return;
        };
        let age_max = self.limits.spill_age_max;
        if spilled.timer_at.is_none()
            && age_max > Duration::ZERO
            && let Some(run) = spilled.runs.front()
        {
            let at = run.ended + age_max;
            spilled.timer_at = Some(at);
            self.timers.set(at, Timer::Spilled(key));
        }
    }

    pub(in crate::broker) fn handle_spilled_timer(&mut self, now: Instant, key: SessionKey) {
        self.refill(key);
        let session = self.sessions.get_mut(key);
        let Some(spilled) = session.and_then(|session| session.spilled.as_mut()) else {
            return;
        };
        spilled.timer_at = None;
        if spilled.is_aged(now, self.limits.spill_age_max) {
            // It is being read, or cannot be at the moment.
            let at = now + AGED_READ_WITHIN;
            spilled.timer_at = Some(at);
            self.timers.set(at, Timer::Spilled(key));
        } else {
            self.watch_age(key);
        }
    }

    /// Asks for what comes next for a session, where it has room for it.
    pub(in crate::broker) fn refill(&mut self, key: SessionKey) {
        let (Some(session), Some(durable)) = (self.sessions.get(key), &self.durable) else {
            return;
        };
        let Some(spilled) = &session.spilled else {
            return;
        };
        let (class, _) = self.queues.size(session.fitting);
        // What is too old is read to be dropped.
        let is_aged = spilled.is_aged(durable.now.mono, self.limits.spill_age_max);
        let has_room = || {
            session.queue.len() * 2 <= class.messages() && self.has_room_again(session, spilled.first_bytes)
        };
        if spilled.is_recalling || durable.is_moving() || !(is_aged || has_room()) {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(spilled) = &mut session.spilled else {
            return;
        };
        let Some(run) = spilled.runs.front() else { return };
        spilled.is_recalling = true;
        self.outputs.push_back(Output::Recall(Recall {
            purpose: Purpose::Session(key, SessionNumber(session.number)),
            first: run.records.0,
            last: run.records.1,
        }));
    }

    /// What was asked for has been read.
    #[inline(never)]
    pub(in crate::broker) fn handle_recalled(&mut self, now: Instant, recalled: Recalled) {
        match recalled.recall.purpose {
            // What has not gone on by this goes on when its client has acknowledged something.
            Purpose::Session(key, _) => {
                if self.take_recalled(now, key, recalled) {
                    self.pump(now, key);
                    let session = self.sessions.get(key);
                    let spilled = session.and_then(|session| session.spilled.as_ref());
                    if spilled.is_some_and(|spilled| spilled.is_aged(now, self.limits.spill_age_max)) {
                        self.refill(key); // though its client is away
                    }
                }
            }
            Purpose::Checkpoint => self.carry(recalled),
        }
    }

    /// Takes what was read into the queue; whether there may be more to do.
    fn take_recalled(&mut self, now: Instant, key: SessionKey, recalled: Recalled) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        let Some(spilled) = &mut session.spilled else {
            return false;
        };
        spilled.is_recalling = false;
        let count_before = spilled.count;
        let Some(run) = spilled.runs.front() else {
            return false;
        };
        if run.records.0 != recalled.recall.first {
            return true; // it stands elsewhere by now
        }
        let (last, age_max) = (run.deliveries.1, self.limits.spill_age_max);
        let is_aged = run.is_aged(now, age_max);
        let mut next = recalled.upto.saturating_add(1);
        'records: for (record, accepted) in recalled.messages {
            let Accepted {
                message,
                body,
                deliveries: of_all,
                ..
            } = accepted;
            let mut kept = None;
            for delivery in of_all {
                let number = delivery.number.0;
                let (Some(session), Some(durable)) = (self.sessions.get(key), &self.durable) else {
                    return false;
                };
                // A checkpoint that was cut short may have given again what stands there before.
                let is_next = |spilled: &Spilled| {
                    (spilled.runs.front()).is_some_and(|run| (run.deliveries.0..=last).contains(&number))
                };
                let is_due = session.spilled.as_deref().is_some_and(is_next);
                if delivery.session.0 != session.number || !is_due {
                    continue;
                }
                let Some(body) = &body else { continue };
                let message = kept.get_or_insert_with(|| {
                    let kept = self.keep_again(durable, (**body).clone());
                    // Whether a checkpoint that runs has it is not asked.
                    kept.stamp
                        .set(Stamp::new(message.0, durable.epoch.wrapping_sub(1)));
                    kept
                });
                let queued = self.queued_again(key, message.clone(), delivery.terms.clone(), number);
                if is_aged || message.is_expired(now) {
                    self.end_recalled(key, &queued, Some(Loss::Expired));
                } else if self.has_room_for_recalled(key, &queued) {
                    self.queue_recalled(key, queued, delivery);
                } else {
                    next = record;
                    self.note_first(key, queued.size_bytes());
                    break 'records;
                }
            }
        }
        let has_more = next > recalled.recall.first;
        self.end_run(key, next);
        let spilled = |session: &Session| session.spilled.as_ref().map_or(0, |spilled| spilled.count);
        has_more || self.sessions.get(key).map_or(0, spilled) < count_before
    }

    /// Remembers how much room the first message needs, which has none.
    fn note_first(&mut self, key: SessionKey, size_bytes: usize) {
        let session = self.sessions.get_mut(key);
        if let Some(spilled) = session.and_then(|session| session.spilled.as_mut()) {
            spilled.first_bytes = size_bytes;
        }
    }

    /// Whether a message of this size that comes back will find room.
    fn has_room_again(&self, session: &Session, size_bytes: usize) -> bool {
        let load = Load {
            count: 1,
            size_bytes,
            keeping_bytes: size_bytes,
        };
        is_next(session) || self.bound_in_the_ring(session, load).is_none()
    }

    /// Whether a message that comes back may: there is room for it, or nothing else is left to do for its client.
    fn has_room_for_recalled(&mut self, key: SessionKey, queued: &Queued) -> bool {
        let load = Load {
            count: 1,
            size_bytes: queued.size_bytes(),
            keeping_bytes: 0, // it is kept by now
        };
        loop {
            let Some(session) = self.sessions.get(key) else {
                return false;
            };
            let is_next = is_next(session);
            match self.bound_in_the_ring(session, load) {
                None => return true,
                Some(_) if is_next => return true,
                Some(Full::Shared(_)) if session.link.is_some() && self.displace(key, load) => {}
                Some(_) => return false,
            }
        }
    }

    fn queue_recalled(&mut self, key: SessionKey, queued: Queued, delivery: Delivery) {
        self.end_recalled(key, &queued, None);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (class, _) = self.queues.size(session.fitting);
        let (message, size_bytes) = (queued.message.clone(), queued.size_bytes());
        if session.queue.push(queued, class).is_ok() {
            self.stats.queued_messages += 1;
            self.stats.queued_bytes += size_bytes as u64;
            // Alone it goes whatever the limits have become.
            self.loosest.queue_bytes_max = self.loosest.queue_bytes_max.max(size_bytes);
            if let Some(durable) = &mut self.durable {
                durable.give_if_moving(&mut self.outputs, &message, delivery);
            }
        } else {
            debug_assert!(false, "there was room");
            self.note_loss(key, Loss::QueueFull);
        }
    }

    /// A delivery is not in the journal alone any more; it is lost where that is said.
    fn end_recalled(&mut self, key: SessionKey, queued: &Queued, loss: Option<Loss>) {
        let size_bytes = queued.size_bytes();
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if let Some(spilled) = &mut session.spilled {
            spilled.take_off(size_bytes);
            spilled.first_bytes = 0;
            if let Some(run) = spilled.runs.front_mut() {
                run.deliveries.0 = queued.number + 1;
            }
        }
        self.stats.spilled_messages -= 1;
        self.stats.spilled_bytes -= size_bytes as u64;
        if let Some(loss) = loss {
            session.lose(&mut self.stats, loss);
            self.store_dropped(key, queued);
        }
    }

    /// The first run of a session was read up to before record `next`.
    fn end_run(&mut self, key: SessionKey, next: u64) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(spilled) = &mut session.spilled else {
            return;
        };
        if let Some(run) = spilled.runs.front_mut() {
            run.records.0 = next;
        }
        let is_over = |run: &mut Run| run.records.0 > run.records.1 || run.deliveries.0 > run.deliveries.1;
        if spilled.runs.pop_front_if(is_over).is_some() {
            spilled.charge_runs();
        }
        self.end_spilling(key);
    }

    /// Where nothing is left of what has spilled, so it is; what should be there by the count and is not was damaged.
    fn end_spilling(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let is_over = |spilled: &mut Box<Spilled>| spilled.runs.is_empty() && spilled.fresh == 0;
        if let Some(spilled) = session.spilled.take_if(is_over) {
            self.timers.cancel(spilled.timer_at, Timer::Spilled(key));
            self.stats.spilled_messages -= spilled.count as u64;
            self.stats.spilled_bytes -= spilled.size_bytes as u64;
            for _ in 0..spilled.count {
                session.lose(&mut self.stats, Loss::Damaged);
            }
        }
    }

    /// A session ends with all that has spilled.
    pub(in crate::broker) fn forget_spilled(&mut self, key: SessionKey, spilled: &Spilled) {
        self.timers.cancel(spilled.timer_at, Timer::Spilled(key));
        self.stats.spilled_messages -= spilled.count as u64;
        self.stats.spilled_bytes -= spilled.size_bytes as u64;
        self.stats.dropped_session_ended += spilled.count as u64;
    }

    /// A delivery as it was queued, or would have been.
    pub(super) fn queued_again(&self, key: SessionKey, message: Kept, terms: Terms, number: u64) -> Queued {
        let share = terms.share.as_ref();
        let place = share.and_then(|share| self.subscriptions.find(key, share));
        Queued {
            message,
            subscription_ids: SubscriptionIds::new(terms.subscription_ids),
            qos: terms.qos,
            retain: terms.retain,
            is_firm: terms.is_firm,
            group: place.and_then(|place| place.group),
            number,
        }
    }

    /// A checkpoint has given everything else: from here on it moves what has spilled.
    pub(super) fn begin_carrying(&mut self) -> Carrying {
        let mut carrying = Carrying {
            stretches: Vec::new(),
            sessions: Vec::new(),
            is_waiting: false,
        };
        for (key, session) in self.sessions.iter_with_keys_mut() {
            let Some(spilled) = &mut session.spilled else {
                continue;
            };
            carrying.sessions.push((session.number, key));
            for run in &mut spilled.runs {
                (run.is_old, run.moved) = (true, None);
                carrying.stretches.push(run.records);
            }
        }
        carrying.sessions.sort_unstable();
        carrying.stretches.sort_unstable();
        carrying.stretches.dedup_by(|next, before| {
            let touches = next.0 <= before.1.saturating_add(1);
            if touches {
                before.1 = before.1.max(next.1);
            }
            touches
        });
        carrying.stretches.reverse();
        carrying
    }

    /// Gives again what was read for the checkpoint.
    fn carry(&mut self, recalled: Recalled) {
        let Some(durable) = &mut self.durable else { return };
        let Some(carrying) = durable.carrying() else {
            return;
        };
        let is_next = carrying
            .stretches
            .last()
            .is_some_and(|stretch| stretch.0 == recalled.recall.first);
        if !carrying.is_waiting || !is_next {
            return; // of a checkpoint before
        }
        carrying.is_waiting = false;
        if let Some(stretch) = carrying.stretches.last_mut() {
            stretch.0 = recalled.upto.saturating_add(1);
        }
        carrying.stretches.pop_if(|stretch| stretch.0 > stretch.1);
        let sessions = std::mem::take(&mut carrying.sessions);
        let given = durable.given;
        for (record, mut accepted) in recalled.messages {
            let mut runs = Vec::new();
            accepted.deliveries.retain(|delivery| {
                let place = sessions.binary_search_by_key(&delivery.session.0, |(number, _)| *number);
                let key = place.ok().and_then(|place| Some(sessions.get(place)?.1));
                let session = key.and_then(|key| self.sessions.get_mut(key));
                let session = session.filter(|session| session.number == delivery.session.0);
                let spilled = session.and_then(|session| session.spilled.as_mut());
                let is_there =
                    spilled.is_some_and(|spilled| spilled.has(record, delivery.number.0).is_some());
                if is_there {
                    runs.extend(key.map(|key| (key, delivery.number)));
                }
                is_there
            });
            if runs.is_empty() {
                continue;
            }
            let again = Accepted {
                retained_by: None,
                received: None,
                will_of: None,
                ..accepted
            };
            durable.give(&mut self.outputs, Change::Accepted(Box::new(again)));
            let now_in = durable.given;
            for (key, delivery) in runs {
                let session = self.sessions.get_mut(key);
                let spilled = session.and_then(|session| session.spilled.as_mut());
                if let Some(run) = spilled.and_then(|spilled| spilled.has(record, delivery.0)) {
                    let first = run.moved.map_or(now_in, |(first, _)| first);
                    run.moved = Some((first, now_in));
                }
            }
        }
        if let Some(carrying) = durable.carrying() {
            carrying.sessions = sessions;
        }
        if durable.given == given {
            self.go_on_with_checkpoint(); // nothing is stored that it could go on with
        }
    }

    /// The checkpoint is stored, and what came before it may be gone: what has spilled stands where it was moved to.
    pub(super) fn end_moving(&mut self) {
        let mut moved = Vec::new();
        for (key, session) in self.sessions.iter_with_keys_mut() {
            let Some(spilled) = &mut session.spilled else {
                continue;
            };
            spilled.runs.retain_mut(|run| {
                if !std::mem::take(&mut run.is_old) {
                    return true;
                }
                let Some(records) = run.moved.take() else {
                    return false; // damaged
                };
                run.records = records;
                true
            });
            spilled.charge_runs();
            moved.push(key);
        }
        for key in moved {
            self.end_spilling(key);
            self.refill(key);
        }
    }

    /// The checkpoint came to nothing: what has spilled stands where it stood.
    pub(super) fn stop_moving(&mut self) {
        for session in self.sessions.iter_mut() {
            for run in session.spilled.iter_mut().flat_map(|spilled| &mut spilled.runs) {
                (run.is_old, run.moved) = (false, None);
            }
        }
    }
}

/// Whether its client is there and has nothing else to wait for, so that one message goes whatever is full.
fn is_next(session: &Session) -> bool {
    session.link.is_some() && session.queue.is_empty() && session.inflight.len() == 0
}

impl Carrying {
    /// What is to be read next; `None` while that is awaited, and at the end.
    pub(super) fn next(&mut self) -> Option<Recall> {
        if self.is_waiting {
            return None;
        }
        let &(first, last) = self.stretches.last()?;
        self.is_waiting = true;
        Some(Recall {
            purpose: Purpose::Checkpoint,
            first,
            last,
        })
    }

    /// Whether all was moved.
    pub(super) fn is_done(&self) -> bool {
        !self.is_waiting && self.stretches.is_empty()
    }
}
