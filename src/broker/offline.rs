//! What waits for one client: a ring that grows by size classes, bounded in messages and gone when empty.

use heapless::deque::{Deque, DequeView};

use super::budget::{ALLOCATION_BYTES, Account, Charge};
use super::kept::Queued;
use super::limits::QueueClass;
use super::subscriptions::GroupKey;

/// The messages waiting for one session, in the order they came.
///
/// 1. An empty queue holds no memory.
/// 2. The ring is the smallest class that held what waited so far, and never larger than the class of the
///    limits was when it grew.
/// 3. `size_bytes` is the sum over the messages in the ring.
#[derive(Debug)]
pub(super) struct Queue {
    ring: Option<Box<DequeView<Queued>>>,
    size_bytes: usize,
    /// What the ring costs; the messages in it are charged for themselves.
    charge: Charge,
}

impl Queue {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            ring: None,
            size_bytes: 0,
            charge: Charge::new(account, 0),
        }
    }

    /// What one more message costs beside itself: a larger ring, where the one there is is full.
    pub(super) fn growth_bytes(&self) -> usize {
        let larger = match &self.ring {
            Some(ring) if !ring.is_full() => return 0,
            Some(ring) => class_above(ring.storage_capacity()),
            None => class_above(0),
        };
        ring_bytes(larger.messages())
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.ring.as_ref().map_or(0, |ring| ring.storage_len())
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Whether one more message would need a ring larger than `class`, and than the one there is: that stays until it
    /// is empty.
    pub(super) fn is_full(&self, class: QueueClass) -> bool {
        let room = self.ring.as_ref().map_or(0, |ring| ring.storage_capacity());
        self.len() >= class.messages().max(room)
    }

    /// Appends `queued`.
    ///
    /// # Errors
    /// Gives it back when the queue [is full](Queue::is_full).
    pub(super) fn push(&mut self, queued: Queued, class: QueueClass) -> Result<(), Queued> {
        if self.is_full(class) {
            return Err(queued);
        }
        let size_bytes = queued.size_bytes();
        if self.ring.as_ref().is_none_or(|ring| ring.is_full()) {
            self.grow();
        }
        match &mut self.ring {
            Some(ring) => ring.push_back(queued)?,
            None => return Err(queued),
        }
        self.size_bytes += size_bytes;
        Ok(())
    }

    /// What [`Queue::pop`] takes out.
    pub(super) fn front(&self) -> Option<&Queued> {
        self.ring.as_ref()?.front()
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let ring = self.ring.as_mut()?;
        let queued = ring.pop_front();
        self.taken_out(queued)
    }

    /// Takes out the message that came last.
    pub(super) fn pop_newest(&mut self) -> Option<Queued> {
        let ring = self.ring.as_mut()?;
        let queued = ring.pop_back();
        self.taken_out(queued)
    }

    fn taken_out(&mut self, queued: Option<Queued>) -> Option<Queued> {
        if self.ring.as_ref().is_some_and(|ring| ring.is_empty()) {
            self.ring = None;
            self.charge.set(0);
        }
        if let Some(queued) = &queued {
            self.size_bytes -= queued.size_bytes();
        }
        queued
    }

    /// Takes out what came by the shared subscription `group`, in its order; the rest keeps its own.
    pub(super) fn take_of(&mut self, group: GroupKey) -> Vec<Queued> {
        let mut taken = Vec::new();
        for _ in 0..self.len() {
            let Some(ring) = &mut self.ring else { break };
            let Some(queued) = ring.pop_front() else { break };
            if queued.group == Some(group) {
                self.size_bytes -= queued.size_bytes();
                taken.push(queued);
            } else if ring.push_back(queued).is_err() {
                debug_assert!(false, "a place was made free before");
            }
        }
        if self.ring.take_if(|ring| ring.is_empty()).is_some() {
            self.charge.set(0);
        }
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.ring.iter().flat_map(|ring| ring.iter())
    }

    /// Moves to the next larger class.
    fn grow(&mut self) {
        let capacity = self.ring.as_ref().map_or(0, |ring| ring.storage_capacity());
        let class = class_above(capacity);
        self.charge.set(ring_bytes(class.messages()));
        let mut larger = ring(class);
        if let Some(mut smaller) = self.ring.take() {
            while let Some(queued) = smaller.pop_front() {
                larger
                    .push_back(queued)
                    .expect("the larger ring holds all the smaller one held");
            }
        }
        self.ring = Some(larger);
    }
}

fn class_above(messages: usize) -> QueueClass {
    let mut classes = QueueClass::ALL.into_iter();
    classes
        .find(|class| class.messages() > messages)
        .unwrap_or(QueueClass::N4096)
}

fn ring_bytes(messages: usize) -> usize {
    messages * size_of::<Queued>() + ALLOCATION_BYTES
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
    use std::rc::Rc;

    use bytes::Bytes;

    use super::super::kept::{Kept, SubscriptionIds};
    use super::*;
    use crate::mqtt::{QoS, TopicName};

    fn queued(number: u32) -> Queued {
        let topic = TopicName::try_from("t").unwrap();
        let payload = Bytes::from(number.to_string());
        let message = Rc::new(Kept::copy(
            &Account::default(),
            &topic,
            &payload,
            None,
            QoS::AtLeastOnce,
            None,
        ));
        Queued {
            message,
            subscription_ids: SubscriptionIds::default(),
            qos: QoS::AtLeastOnce,
            retain: false,
            group: None,
            number: 0,
        }
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
            assert_eq!(queue.pop().unwrap().message.payload, number.to_string());
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
        assert!(queue.is_full(QueueClass::N16));
        assert_eq!(
            queue
                .push(queued(99), QueueClass::N16)
                .unwrap_err()
                .message
                .payload,
            "99"
        );
        assert_eq!(queue.len(), 16);
    }
}
