//! What waits for one client: a ring that grows by size classes, bounded in messages and gone when empty.

use std::time::Instant;

use heapless::deque::{Deque, DequeView};

use super::budget::{ALLOCATION_BYTES, Account, Charge};
use super::kept::Queued;
use super::limits::QueueClass;
use crate::mqtt::QoS;

/// The messages waiting for one session, in the order they came.
///
/// 1. An empty queue holds no memory.
/// 2. The ring is the smallest class that held what waited so far, and never larger than the class of the
///    limits was when it grew.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Option<Box<Waiting>>,
    /// What the ring costs; the messages in it are charged for themselves.
    charge: Charge,
}

/// What waits in a queue that is not empty.
///
/// 1. The sizes and counts are those of the messages in the ring.
/// 2. Nothing in the ring expires before `expires_first`.
#[derive(Debug)]
struct Waiting {
    ring: Box<DequeView<Queued>>,
    size_bytes: usize,
    /// Of these, of messages that make no room for others.
    firm_bytes: usize,
    /// Messages at QoS 0.
    qos0: usize,
    expires_first: Option<Instant>,
}

impl Queue {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            waiting: None,
            charge: Charge::new(account, 0),
        }
    }

    /// What one more message costs beside itself: a larger ring, where the one there is is full.
    pub(super) fn growth_bytes(&self) -> usize {
        let larger = match &self.waiting {
            Some(waiting) if !waiting.ring.is_full() => return 0,
            Some(waiting) => class_above(waiting.ring.storage_capacity()),
            None => class_above(0),
        };
        ring_bytes(larger.messages())
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
            .as_ref()
            .map_or(0, |waiting| waiting.ring.storage_len())
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.size_bytes)
    }

    /// The bytes of messages that may make room for others.
    pub(super) fn loose_bytes(&self) -> usize {
        let waiting = self.waiting.as_ref();
        waiting.map_or(0, |waiting| waiting.size_bytes - waiting.firm_bytes)
    }

    /// Whether a message at QoS 0 waits.
    pub(super) fn holds_qos0(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.qos0 > 0)
    }

    /// Whether `count` more messages need no ring larger than `class`, or than the one there is: that stays until it is
    /// empty.
    pub(super) fn takes(&self, count: usize, class: QueueClass) -> bool {
        let room = self
            .waiting
            .as_ref()
            .map_or(0, |waiting| waiting.ring.storage_capacity());
        self.len() + count <= class.messages().max(room)
    }

    /// Appends `queued`.
    ///
    /// # Errors
    /// Gives it back when the queue [takes](Queue::takes) no more.
    pub(super) fn push(&mut self, queued: Queued, class: QueueClass) -> Result<(), Queued> {
        if !self.takes(1, class) {
            return Err(queued);
        }
        if self.waiting.as_ref().is_none_or(|waiting| waiting.ring.is_full()) {
            self.grow();
        }
        match &mut self.waiting {
            Some(waiting) => waiting.push(queued),
            None => Err(queued),
        }
    }

    /// What [`Queue::pop`] takes out.
    pub(super) fn front(&self) -> Option<&Queued> {
        self.waiting.as_ref()?.ring.front()
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let waiting = self.waiting.as_mut()?;
        let queued = waiting.ring.pop_front();
        self.taken_out(queued)
    }

    /// Takes out the message that waited longest of those that make room for others.
    pub(super) fn pop_oldest_loose(&mut self) -> Option<Queued> {
        match self.front() {
            Some(queued) if !queued.is_firm => self.pop(),
            _ if self.loose_bytes() == 0 => None,
            _ => {
                let mut is_taken = false;
                let first_loose =
                    |queued: &Queued| !queued.is_firm && !std::mem::replace(&mut is_taken, true);
                self.take_where(first_loose).pop()
            }
        }
    }

    /// Takes out the message that came last of those that make room for others.
    pub(super) fn pop_newest_loose(&mut self) -> Option<Queued> {
        match self.waiting.as_ref()?.ring.back() {
            Some(queued) if !queued.is_firm => {
                let queued = self.waiting.as_mut()?.ring.pop_back();
                self.taken_out(queued)
            }
            _ if self.loose_bytes() == 0 => None,
            _ => {
                let mut left = self.iter().filter(|queued| !queued.is_firm).count();
                let last_loose = |queued: &Queued| {
                    left -= usize::from(!queued.is_firm);
                    !queued.is_firm && left == 0
                };
                self.take_where(last_loose).pop()
            }
        }
    }

    /// Takes out what has expired; looks at the messages only when one of them may have.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Queued> {
        let may_have = |waiting: &Waiting| waiting.expires_first.is_some_and(|at| at <= now);
        if !self.waiting.as_deref().is_some_and(may_have) {
            return Vec::new();
        }
        let expired = self.take_where(|queued| queued.message.is_expired(now));
        let first = self.iter().filter_map(|queued| queued.message.expires_at()).min();
        if let Some(waiting) = &mut self.waiting {
            waiting.expires_first = first;
        }
        expired
    }

    /// Takes out the messages that `is_wanted` names, asked for each once and in their order; the rest keeps its own.
    pub(super) fn take_where(&mut self, mut is_wanted: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        for _ in 0..self.len() {
            let Some(waiting) = &mut self.waiting else { break };
            let Some(queued) = waiting.ring.pop_front() else {
                break;
            };
            if is_wanted(&queued) {
                taken.extend(self.taken_out(Some(queued)));
            } else if waiting.ring.push_back(queued).is_err() {
                debug_assert!(false, "a place was made free before");
            }
        }
        taken
    }

    fn taken_out(&mut self, queued: Option<Queued>) -> Option<Queued> {
        if let (Some(queued), Some(waiting)) = (&queued, &mut self.waiting) {
            waiting.count_out(queued);
        }
        if self.waiting.take_if(|waiting| waiting.ring.is_empty()).is_some() {
            self.charge.set(0);
        }
        queued
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter().flat_map(|waiting| waiting.ring.iter())
    }

    /// Moves to the next larger class.
    fn grow(&mut self) {
        let capacity = self
            .waiting
            .as_ref()
            .map_or(0, |waiting| waiting.ring.storage_capacity());
        let class = class_above(capacity);
        self.charge.set(ring_bytes(class.messages()));
        let mut larger = ring(class);
        match &mut self.waiting {
            None => {
                self.waiting = Some(Box::new(Waiting {
                    ring: larger,
                    size_bytes: 0,
                    firm_bytes: 0,
                    qos0: 0,
                    expires_first: None,
                }));
            }
            Some(waiting) => {
                while let Some(queued) = waiting.ring.pop_front() {
                    larger
                        .push_back(queued)
                        .expect("the larger ring holds all the smaller one held");
                }
                waiting.ring = larger;
            }
        }
    }

    /// Walks over everything the types promise.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(waiting) = &self.waiting else {
            return Ok(());
        };
        let bytes = |is_counted: fn(&Queued) -> bool| -> usize {
            let counted = waiting.ring.iter().filter(|queued| is_counted(queued));
            counted.map(Queued::size_bytes).sum()
        };
        let qos0 = waiting
            .ring
            .iter()
            .filter(|queued| queued.qos == QoS::AtMostOnce)
            .count();
        let found = (bytes(|_| true), bytes(|queued| queued.is_firm), qos0);
        let told = (waiting.size_bytes, waiting.firm_bytes, waiting.qos0);
        if found != told {
            return Err(format!(
                "bytes, firm bytes and QoS 0 that wait: {found:?} found, {told:?} told"
            ));
        }
        if waiting.ring.is_empty() {
            return Err("an empty queue holds memory".into());
        }
        let first = waiting
            .ring
            .iter()
            .filter_map(|queued| queued.message.expires_at())
            .min();
        if first.is_some_and(|first| waiting.expires_first.is_none_or(|told| told > first)) {
            return Err("a message expires before it is looked for".into());
        }
        Ok(())
    }
}

impl Waiting {
    fn push(&mut self, queued: Queued) -> Result<(), Queued> {
        let (size_bytes, is_firm) = (queued.size_bytes(), queued.is_firm);
        let (qos, expires_at) = (queued.qos, queued.message.expires_at());
        self.ring.push_back(queued)?;
        self.size_bytes += size_bytes;
        self.firm_bytes += if is_firm { size_bytes } else { 0 };
        self.qos0 += usize::from(qos == QoS::AtMostOnce);
        self.expires_first = self.expires_first.into_iter().chain(expires_at).min();
        Ok(())
    }

    fn count_out(&mut self, queued: &Queued) {
        let size_bytes = queued.size_bytes();
        self.size_bytes -= size_bytes;
        self.firm_bytes -= if queued.is_firm { size_bytes } else { 0 };
        self.qos0 -= usize::from(queued.qos == QoS::AtMostOnce);
    }
}

fn class_above(messages: usize) -> QueueClass {
    let mut classes = QueueClass::ALL.into_iter();
    classes
        .find(|class| class.messages() > messages)
        .unwrap_or(QueueClass::N4096)
}

fn ring_bytes(messages: usize) -> usize {
    messages * size_of::<Queued>() + size_of::<Waiting>() + 2 * ALLOCATION_BYTES
}

fn ring(class: QueueClass) -> Box<DequeView<Queued>> {
    match class {
        QueueClass::N16 => Box::new(Deque::<Queued, 16>::new()),
        QueueClass::N64 => Box::new(Deque::<Queued, 64>::new()),
        QueueClass::N256 => Box::new(Deque::<Queued, 256>::new()),
        QueueClass::N1024 => Box::new(Deque::<Queued, 1024>::new()),
        QueueClass::N4096 => Box::new(Deque::<Queued, 4096>::new()),
    }
}

#[cfg(test)]
mod tests {

    use bytes::Bytes;

    use super::super::kept::{Kept, SubscriptionIds};
    use super::*;
    use crate::mqtt::{QoS, TopicName};

    fn queued(number: u32) -> Queued {
        queued_for(number, false, None)
    }

    fn queued_for(number: u32, is_firm: bool, expires_at: Option<Instant>) -> Queued {
        let topic = TopicName::try_from("t").unwrap();
        let payload = Bytes::from(number.to_string());
        let message = Kept::copy(
            &Account::default(),
            &topic,
            &payload,
            None,
            (QoS::AtLeastOnce, false),
            expires_at,
        );
        Queued {
            message,
            subscription_ids: SubscriptionIds::default(),
            qos: QoS::AtLeastOnce,
            retain: false,
            group: None,
            is_firm,
            number: 0,
        }
    }

    fn numbers(queue: &Queue) -> Vec<u32> {
        let payloads = queue.iter().map(|queued| queued.message.payload());
        payloads
            .map(|payload| std::str::from_utf8(&payload).unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn what_is_firm_makes_no_room_wherever_it_stands() {
        let mut queue = Queue::new(&Account::default());
        for number in 0..8 {
            queue
                .push(
                    queued_for(number, [0, 1, 4, 7].contains(&number), None),
                    QueueClass::N16,
                )
                .expect("room");
        }
        let taken = |queued: Option<Queued>| queued.map(|queued| queued.message.payload());
        assert_eq!(taken(queue.pop_oldest_loose()).unwrap(), "2");
        assert_eq!(taken(queue.pop_newest_loose()).unwrap(), "6");
        queue.check().unwrap();
        assert_eq!(numbers(&queue), [0, 1, 3, 4, 5, 7]);
        assert_eq!(taken(queue.pop_newest_loose()).unwrap(), "5");
        assert_eq!(taken(queue.pop_oldest_loose()).unwrap(), "3");
        assert!(queue.pop_oldest_loose().is_none() && queue.pop_newest_loose().is_none());
        assert_eq!((numbers(&queue), queue.loose_bytes()), (vec![0, 1, 4, 7], 0));
        queue.check().unwrap();
    }

    #[test]
    fn what_has_expired_is_taken_out_and_looked_for_only_when_it_is_time() {
        let now = Instant::now();
        let secs = |secs| Some(now + std::time::Duration::from_secs(secs));
        let mut queue = Queue::new(&Account::default());
        for (number, expires_at) in [(0, secs(9)), (1, None), (2, secs(5)), (3, secs(7))] {
            queue
                .push(queued_for(number, number == 2, expires_at), QueueClass::N16)
                .expect("room");
        }
        assert!(
            queue
                .take_expired(now + std::time::Duration::from_secs(4))
                .is_empty()
        );
        assert_eq!(
            queue.take_expired(now + std::time::Duration::from_secs(7)).len(),
            2
        );
        queue.check().unwrap();
        assert_eq!(numbers(&queue), [0, 1]);
        assert_eq!(
            queue.take_expired(now + std::time::Duration::from_secs(9)).len(),
            1
        );
        assert!(queue.pop().is_some() && queue.is_empty());
        queue.check().unwrap();
    }

    #[test]
    fn messages_come_out_in_the_order_they_came_through_every_class() {
        let mut queue = Queue::new(&Account::default());
        for number in 0..4096 {
            queue
                .push(queued(number), QueueClass::N4096)
                .expect("room for 4096");
        }
        assert!(queue.push(queued(4096), QueueClass::N4096).is_err());
        for number in 0..4096 {
            assert_eq!(queue.pop().unwrap().message.payload(), number.to_string());
        }
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!(queue.size_bytes(), 0);
    }

    #[test]
    fn a_queue_refuses_what_is_beyond_its_class() {
        let mut queue = Queue::new(&Account::default());
        for number in 0..16 {
            queue.push(queued(number), QueueClass::N16).expect("room for 16");
        }
        assert!(!queue.takes(1, QueueClass::N16));
        assert_eq!(
            queue
                .push(queued(99), QueueClass::N16)
                .unwrap_err()
                .message
                .payload(),
            "99"
        );
        assert_eq!(queue.len(), 16);
    }
}
