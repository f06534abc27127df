//! The way to a kick from anywhere: any thread, a hook, the admin door. Asking never waits for the loop, and touches
//! nothing but a small table; the loop takes the orders out in its tick.
//!
//! ```text
//!   any thread:  KickHandle::kick ─▶ table of orders, hashed by target, in the order asked ─▶ wakes the tick
//!   the tick:    KickQueue::next ─▶ Input::Kick ─▶ Output::Kicked ─▶ KickQueue::answer ─▶ every Ticket
//! ```
//!
//! The table is bounded, and full is an error at once. A target that is asked for twice before its turn is one order
//! with one outcome; how, see [`KickHandle::kick`].

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};

use foldhash::fast::RandomState;
use heapless::index_map::IndexMap;

use crate::broker::{BanSubject, Kick, KickId, KickOptions, KickOutcome, KickQueueClass, Limits, Target};

/// Asks the gateway to send clients away. Cheap to clone, usable from any thread and from within a hook.
#[derive(Clone)]
pub struct KickHandle {
    desk: Arc<Desk>,
}

/// The outcome of a kick, to be awaited on any runtime, waited for, looked at, or dropped: the kick goes on without it.
#[must_use = "a dropped ticket drops the outcome; say so with `drop`"]
pub struct Ticket {
    order: Arc<Order>,
    desk: Arc<Desk>,
    /// Its place among the tasks that await the order.
    waker: Option<usize>,
}

/// The loop's end of the queue: whoever owns it carries out the orders. Dropped, it answers all that are open.
pub struct KickQueue {
    desk: Arc<Desk>,
    /// Orders taken out of the table at one time.
    slice_max: usize,
    /// What was taken out of the table and not given to the broker yet.
    slice: VecDeque<Arc<Order>>,
    /// What the broker was given and has not answered, in its order.
    begun: VecDeque<Arc<Order>>,
}

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KickError {
    /// As many kicks wait as may; ask again later.
    Full,
    /// The gateway has stopped, or is about to.
    Closed,
    /// A ban was asked for a target that is no subject of one; see [`Target::ban_subject`].
    NoBanSubject,
    /// The thread that waits is the one that would have to carry it out.
    OnLoop,
}

/// What was asked for since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KickCounts {
    /// Kicks that were taken.
    pub asked: u64,
    /// Of these: joined to one of the same target that waited.
    pub joined: u64,
    /// Refused because as many waited as may.
    pub refused_full: u64,
    /// Gauge: waiting for their turn.
    pub waiting: u64,
}

/// What the loop takes out of the queue.
#[derive(Debug)]
pub enum Asked {
    /// To be given to the broker, and to be answered.
    Kick(Kick),
    /// A ban to be taken back; nothing is owed.
    Unban(BanSubject),
}

/// Makes both ends of a queue that `limits` bound.
pub fn queue(limits: &Limits) -> (KickHandle, KickQueue) {
    let desk = Arc::new(Desk {
        state: Mutex::new(State {
            table: table(limits.kick_queue_class),
            next_id: 0,
            counts: KickCounts::default(),
            is_closed: false,
            sleeper: None,
            on_loop: None,
        }),
    });
    let queue = KickQueue {
        desk: desk.clone(),
        slice_max: limits.kicks_per_tick_max,
        slice: VecDeque::new(),
        begun: VecDeque::new(),
    };
    (KickHandle { desk }, queue)
}

impl KickHandle {
    /// Asks for `target` to be sent away, at the loop's next tick, in the order asked.
    ///
    /// While a kick of the same target waits for its turn, the two are one: both tickets get its outcome, and of the
    /// options the stronger hold, as [`KickOptions::merged`] says. One whose turn has come is another kick.
    ///
    /// # Errors
    /// [`KickError::Full`] and [`KickError::Closed`], at once; [`KickError::NoBanSubject`] where
    /// [`KickOptions::keep_out`] is set for a target that cannot be kept out.
    pub fn kick(&self, target: Target, options: KickOptions) -> Result<Ticket, KickError> {
        if options.keep_out.is_some() && target.ban_subject().is_none() {
            return Err(KickError::NoBanSubject);
        }
        let options = KickOptions {
            server_reference: options.server_reference.map(|text| text.detached()),
            ..options
        };
        let (order, sleeper) = self
            .desk
            .lock()
            .ask(Subject::Target(target.detached()), options)?;
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(Ticket {
            order,
            desk: self.desk.clone(),
            waker: None,
        })
    }

    /// Asks for a ban to be taken back, in its turn among the kicks.
    ///
    /// # Errors
    /// [`KickError::Full`] and [`KickError::Closed`], at once.
    pub fn unban(&self, subject: BanSubject) -> Result<(), KickError> {
        let subject = match subject {
            BanSubject::Client(client) => BanSubject::Client(client.detached()),
            BanSubject::User(user) => BanSubject::User(user.detached()),
            network => network,
        };
        let (_, sleeper) = self
            .desk
            .lock()
            .ask(Subject::Ban(subject), KickOptions::default())?;
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// What was asked for so far.
    pub fn counts(&self) -> KickCounts {
        let state = self.desk.lock();
        KickCounts {
            waiting: state.table.len() as u64,
            ..state.counts
        }
    }
}

impl Ticket {
    /// The outcome, if there is one yet.
    ///
    /// # Errors
    /// [`KickError::Closed`] where the gateway stopped before.
    pub fn outcome(&self) -> Option<Result<KickOutcome, KickError>> {
        self.order.lock().outcome
    }

    /// Waits for the outcome, and this thread does nothing else meanwhile.
    ///
    /// # Errors
    /// [`KickError::Closed`] where the gateway stopped before; [`KickError::OnLoop`] at once where this is the thread
    /// the gateway runs on, as it is within a hook: there it can be awaited or looked at, or somebody else waits.
    pub fn wait(self) -> Result<KickOutcome, KickError> {
        let is_on_loop = self.desk.lock().on_loop == Some(thread::current().id());
        let mut answer = self.order.lock();
        loop {
            match answer.outcome {
                Some(outcome) => return outcome,
                None if is_on_loop => return Err(KickError::OnLoop),
                None => {
                    let told = self.order.told.wait(answer);
                    answer = told.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Future for Ticket {
    type Output = Result<KickOutcome, KickError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let order = self.order.clone();
        let mut answer = order.lock();
        if let Some(outcome) = answer.outcome {
            return Poll::Ready(outcome);
        }
        match self.waker.and_then(|at| answer.wakers.get_mut(at)) {
            Some(waker) => *waker = Some(cx.waker().clone()),
            None => {
                let free = answer.wakers.iter().position(Option::is_none);
                let at = free.unwrap_or(answer.wakers.len());
                match answer.wakers.get_mut(at) {
                    Some(place) => *place = Some(cx.waker().clone()),
                    None => answer.wakers.push(Some(cx.waker().clone())),
                }
                self.waker = Some(at);
            }
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(at) = self.waker
            && let Some(waker) = self.order.lock().wakers.get_mut(at)
        {
            *waker = None;
        }
    }
}

impl KickQueue {
    /// The next order, in the order asked; `None` while there is none. Then `sleeper` is woken by the next kick.
    pub fn next(&mut self, sleeper: &Waker) -> Option<Asked> {
        if self.slice.is_empty() {
            let mut state = self.desk.lock();
            self.slice = state.table.take(self.slice_max);
            if self.slice.is_empty() {
                state.sleeper = Some(sleeper.clone());
            }
        }
        let order = self.slice.pop_front()?;
        match &order.subject {
            Subject::Ban(subject) => {
                order.answer(Ok(KickOutcome::default()));
                Some(Asked::Unban(subject.clone()))
            }
            Subject::Target(target) => {
                let kick = Kick {
                    id: order.id,
                    target: target.clone(),
                    options: order.lock().options.clone(),
                };
                self.begun.push_back(order);
                Some(Asked::Kick(kick))
            }
        }
    }

    /// Tells every ticket of an order what it came to; the target, for the log. `None` where it is not known.
    pub fn answer(&mut self, id: KickId, outcome: KickOutcome) -> Option<(Target, KickOptions)> {
        let at = self.begun.iter().position(|begun| begun.id == id)?;
        let order = self.begun.remove(at)?;
        order.answer(Ok(outcome));
        match &order.subject {
            Subject::Target(target) => Some((target.clone(), order.lock().options.clone())),
            Subject::Ban(_) => None,
        }
    }

    /// Says that this thread is the one that carries out the orders.
    pub fn runs_here(&mut self) {
        self.desk.lock().on_loop = Some(thread::current().id());
    }

    /// Takes no more orders, and answers [`KickError::Closed`] to all that are open.
    pub fn close(&mut self) {
        let mut state = self.desk.lock();
        state.is_closed = true;
        state.sleeper = None;
        let waiting = state.table.take(usize::MAX);
        drop(state);
        for order in self.begun.drain(..).chain(self.slice.drain(..)).chain(waiting) {
            order.answer(Err(KickError::Closed));
        }
    }
}

impl fmt::Debug for KickHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KickHandle").finish_non_exhaustive()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?})", self.outcome())
    }
}

impl fmt::Display for KickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "as many kicks wait as may (kick_queue_max), ask again later",
            Self::Closed => "the gateway has stopped",
            Self::NoBanSubject => {
                "only a client, a user, an address or a network can be kept out, expected one of them or no keep_out"
            }
            Self::OnLoop => "the gateway's own thread cannot wait for it, await the ticket or ask it for its outcome",
        })
    }
}

impl std::error::Error for KickError {}

impl Drop for KickQueue {
    fn drop(&mut self) {
        self.close();
    }
}

/// What handles, tickets and the queue share.
struct Desk {
    state: Mutex<State>,
}

/// 1. Where it is closed the table is empty, and stays so.
/// 2. While `sleeper` is set the table is empty: the first order takes it and wakes the loop, the others need not.
struct State {
    table: Box<dyn Table>,
    next_id: u64,
    counts: KickCounts,
    is_closed: bool,
    /// Woken by the next order.
    sleeper: Option<Waker>,
    /// The thread that carries out the orders.
    on_loop: Option<ThreadId>,
}

/// One order and all who asked for it.
struct Order {
    id: KickId,
    subject: Subject,
    answer: Mutex<Answer>,
    told: Condvar,
}

struct Answer {
    options: KickOptions,
    outcome: Option<Result<KickOutcome, KickError>>,
    /// Of tickets that are awaited, a place for each.
    wakers: Vec<Option<Waker>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    Target(Target),
    Ban(BanSubject),
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts an order into the table or joins the one that is there; whoever has to be woken is woken by the caller,
    /// who does not hold the lock.
    fn ask(
        &mut self,
        subject: Subject,
        options: KickOptions,
    ) -> Result<(Arc<Order>, Option<Waker>), KickError> {
        if self.is_closed {
            return Err(KickError::Closed);
        }
        if let Some(order) = self.table.find(&subject) {
            self.counts.asked += 1;
            self.counts.joined += 1;
            let mut answer = order.lock();
            answer.options = std::mem::take(&mut answer.options).merged(options);
            drop(answer);
            return Ok((order, None));
        }
        let order = Arc::new(Order {
            id: KickId(self.next_id),
            subject,
            answer: Mutex::new(Answer {
                options,
                outcome: None,
                wakers: Vec::new(),
            }),
            told: Condvar::new(),
        });
        if !self.table.add(order.clone()) {
            self.counts.refused_full += 1;
            return Err(KickError::Full);
        }
        self.next_id += 1;
        self.counts.asked += 1;
        Ok((order, self.sleeper.take()))
    }
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, Answer> {
        // Nothing panics while it is held.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, outcome: Result<KickOutcome, KickError>) {
        let mut answer = self.lock();
        answer.outcome = Some(outcome);
        let wakers = std::mem::take(&mut answer.wakers);
        drop(answer);
        self.told.notify_all();
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }
}

/// The orders that wait, by subject, in the order asked; its capacity is chosen at the start.
trait Table: Send {
    fn len(&self) -> usize;
    fn find(&self, subject: &Subject) -> Option<Arc<Order>>;
    /// Puts an order behind all others; whether there was room. There is none of the same subject.
    fn add(&mut self, order: Arc<Order>) -> bool;
    /// Takes out the first `count` orders and leaves the others as they are.
    fn take(&mut self, count: usize) -> VecDeque<Arc<Order>>;
}

fn table(class: KickQueueClass) -> Box<dyn Table> {
    match class {
        KickQueueClass::N64 => Box::new(Waiting::<64>::default()),
        KickQueueClass::N256 => Box::new(Waiting::<256>::default()),
        KickQueueClass::N1024 => Box::new(Waiting::<1024>::default()),
    }
}

/// Targets come from anywhere, so their places in the table must not be guessed.
type Waiting<const N: usize> = IndexMap<Entry, (), RandomState, N>;

/// An order under its subject.
struct Entry(Arc<Order>);

impl Borrow<Subject> for Entry {
    fn borrow(&self) -> &Subject {
        &self.0.subject
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.subject == other.0.subject
    }
}

impl Eq for Entry {}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.subject.hash(state);
    }
}

impl<const N: usize> Table for Waiting<N> {
    fn len(&self) -> usize {
        self.len()
    }

    fn find(&self, subject: &Subject) -> Option<Arc<Order>> {
        let at = self.get_index_of(subject)?;
        self.get_index(at).map(|(entry, ())| entry.0.clone())
    }

    fn add(&mut self, order: Arc<Order>) -> bool {
        self.insert(Entry(order), ()).is_ok()
    }

    fn take(&mut self, count: usize) -> VecDeque<Arc<Order>> {
        let first = self
            .keys()
            .take(count)
            .map(|entry| entry.0.clone())
            .collect::<VecDeque<_>>();
        // Not one by one: to remove an entry moves the last one into its place.
        let mut left = first.len();
        self.retain(|_, ()| {
            let stays = left == 0;
            left = left.saturating_sub(1);
            stays
        });
        first
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::broker::{KickReason, KickedSession, KickedWill};
    use crate::mqtt::ClientId;

    /// Counts how often somebody was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn limits(class: KickQueueClass) -> Limits {
        Limits {
            kick_queue_class: class,
            kicks_per_tick_max: 16,
            ..Limits::default()
        }
    }

    fn client(name: &str) -> Target {
        let text = name.try_into().expect("a string of the test");
        Target::Client(ClientId::new(text).expect("an identifier of the test"))
    }

    fn ask(handle: &KickHandle, name: &str) -> Result<Ticket, KickError> {
        handle.kick(client(name), KickOptions::default())
    }

    fn kick(queue: &mut KickQueue) -> Option<Kick> {
        match queue.next(Waker::noop())? {
            Asked::Kick(kick) => Some(kick),
            Asked::Unban(subject) => panic!("expected a kick, found {subject}"),
        }
    }

    const KICKED: KickOutcome = KickOutcome {
        kicked: 1,
        pending: 0,
        purged: 0,
        away: 0,
        kept_out: crate::broker::KeptOut::NotAsked,
    };

    #[test]
    fn a_target_that_is_asked_for_twice_is_one_order_and_both_hear_of_it() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let tickets = [ask(&handle, "a"), ask(&handle.clone(), "a"), ask(&handle, "b")];
        let counts = handle.counts();
        assert_eq!((counts.asked, counts.joined, counts.waiting), (3, 1, 2));
        let first = kick(&mut queue).expect("a kick waits");
        assert_eq!(first.target, client("a"));
        assert_eq!(
            queue.answer(first.id, KICKED).map(|(target, _)| target),
            Some(client("a"))
        );
        assert_eq!(queue.answer(first.id, KICKED), None);
        let outcomes = tickets.map(|ticket| ticket.expect("there is room").outcome());
        assert_eq!(outcomes, [Some(Ok(KICKED)), Some(Ok(KICKED)), None]);
    }

    #[test]
    fn one_whose_turn_has_come_is_another_kick() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let old = ask(&handle, "a").expect("there is room");
        let first = kick(&mut queue).expect("a kick waits");
        let new = ask(&handle, "a").expect("there is room");
        queue.answer(first.id, KICKED);
        assert_eq!((old.outcome(), new.outcome()), (Some(Ok(KICKED)), None));
        let second = kick(&mut queue).expect("the second waits");
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn orders_come_out_in_the_order_asked_whatever_was_taken_before() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let name = |number: usize| format!("client-{number}");
        let mut asked = 0;
        let mut taken = 0;
        for round in 0..50 {
            for _ in 0..round % 7 + 20 {
                if ask(&handle, &name(asked)).is_ok() {
                    asked += 1;
                }
            }
            for _ in 0..round % 5 + 20 {
                if let Some(kick) = kick(&mut queue) {
                    assert_eq!(kick.target, client(&name(taken)));
                    queue.answer(kick.id, KICKED);
                    taken += 1;
                }
            }
        }
        assert!(taken > 900 && asked - taken <= 64, "{asked} asked, {taken} taken");
    }

    #[test]
    fn a_full_queue_says_so_at_once_and_takes_what_it_has_already() {
        for class in KickQueueClass::ALL {
            let (handle, mut queue) = queue(&limits(class));
            for number in 0..class.kicks() {
                drop(ask(&handle, &number.to_string()).expect("there is room"));
            }
            assert_eq!(ask(&handle, "more").err(), Some(KickError::Full));
            assert!(ask(&handle, "0").is_ok());
            assert_eq!(handle.counts().refused_full, 1);
            assert!(kick(&mut queue).is_some());
            assert!(ask(&handle, "more").is_ok());
        }
    }

    #[test]
    fn a_queue_that_is_gone_answers_all_who_wait_and_takes_nobody() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let tickets: Vec<_> = (0..20)
            .map(|number| ask(&handle, &number.to_string()).expect("there is room"))
            .collect();
        // One the broker has, some that were taken out with it, the others wait.
        kick(&mut queue).expect("a kick waits");
        let waiting = std::thread::spawn({
            let ticket = ask(&handle, "19").expect("it is there");
            move || ticket.wait()
        });
        drop(queue);
        for ticket in tickets {
            assert_eq!(ticket.wait(), Err(KickError::Closed));
        }
        assert_eq!(waiting.join().expect("no panic"), Err(KickError::Closed));
        assert_eq!(ask(&handle, "a").err(), Some(KickError::Closed));
        assert_eq!(handle.counts().waiting, 0);
    }

    #[test]
    fn of_two_wishes_the_stronger_holds_and_the_first_reason() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let wish = |reason, will, session, secs: Option<u64>| KickOptions {
            reason,
            will,
            session,
            keep_out: secs.map(Duration::from_secs),
            server_reference: None,
        };
        let reasons = [KickReason::SERVER_MOVED, KickReason::default()];
        for options in [
            wish(reasons[0], KickedWill::Publish, KickedSession::Purge, Some(5)),
            wish(reasons[1], KickedWill::Discard, KickedSession::Keep, Some(9)),
            wish(reasons[1], KickedWill::Publish, KickedSession::Keep, None),
        ] {
            drop(handle.kick(client("a"), options).expect("there is room"));
        }
        let strongest = wish(reasons[0], KickedWill::Discard, KickedSession::Purge, Some(9));
        assert_eq!(kick(&mut queue).expect("a kick waits").options, strongest);
        assert!(kick(&mut queue).is_none());
    }

    #[test]
    fn a_ban_of_what_cannot_be_banned_is_refused_at_once() {
        let (handle, _queue) = queue(&limits(KickQueueClass::N64));
        let options = KickOptions {
            keep_out: Some(Duration::from_secs(1)),
            ..KickOptions::default()
        };
        assert_eq!(
            handle.kick(Target::Everyone, options).err(),
            Some(KickError::NoBanSubject)
        );
    }

    #[test]
    fn a_ban_is_taken_back_in_its_turn() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        drop(ask(&handle, "a").expect("there is room"));
        let subject = client("a").ban_subject().expect("a client can be banned");
        handle.unban(subject.clone()).expect("there is room");
        assert!(kick(&mut queue).is_some());
        assert!(matches!(queue.next(Waker::noop()), Some(Asked::Unban(found)) if found == subject));
    }

    #[test]
    fn only_the_first_of_many_kicks_wakes_the_loop() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let bell = Arc::new(Bell::default());
        for round in 1..4 {
            assert!(queue.next(&bell.clone().into()).is_none());
            for name in ["a", "b", "a"] {
                drop(ask(&handle, name).expect("there is room"));
            }
            assert_eq!(bell.0.load(Ordering::Relaxed), round);
            while let Some(kick) = kick(&mut queue) {
                queue.answer(kick.id, KICKED);
            }
        }
    }

    #[test]
    fn whoever_awaits_an_outcome_is_woken_and_who_does_not_is_forgotten() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        let bells: [Arc<Bell>; 3] = Default::default();
        let mut tickets: Vec<_> = bells
            .iter()
            .map(|_| ask(&handle, "a").expect("there is room"))
            .collect();
        for _ in 0..3 {
            for (ticket, bell) in tickets.iter_mut().zip(&bells) {
                let waker = bell.clone().into();
                assert!(
                    Pin::new(ticket)
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
        }
        drop(tickets.remove(1));
        let first = kick(&mut queue).expect("a kick waits");
        queue.answer(first.id, KICKED);
        let rung = bells.each_ref().map(|bell| bell.0.load(Ordering::Relaxed));
        assert_eq!(rung, [1, 0, 1]);
        for ticket in &mut tickets {
            let waker = Waker::noop();
            let outcome = Pin::new(ticket).poll(&mut Context::from_waker(waker));
            assert_eq!(outcome, Poll::Ready(Ok(KICKED)));
        }
    }

    #[test]
    fn the_thread_that_carries_them_out_cannot_wait_for_one() {
        let (handle, mut queue) = queue(&limits(KickQueueClass::N64));
        queue.runs_here();
        let ticket = ask(&handle, "a").expect("there is room");
        assert_eq!(ticket.wait(), Err(KickError::OnLoop));
        assert!(kick(&mut queue).is_some(), "it is carried out all the same");
    }
}
