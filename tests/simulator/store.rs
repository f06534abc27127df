//! Where what the core gives is stored: completed late, refused, or cut off by the end of the process.
//!
//! Beside what is stored stands, for every change that is not, what the oracle held after it: when the process ends, as
//! many of them as luck has it were stored, and the oracle goes on from there.

use std::collections::VecDeque;

use tidegate::broker::{Broker, Change, Restored, StoreHealth};

use crate::oracle::{Held, Oracle, hold};

pub struct Store {
    /// What is on disk.
    stored: Restored,
    /// The number of the last change of it.
    committed: u64,
    /// What was given, and is not.
    pending: VecDeque<Change>,
    pub health: StoreHealth,
    /// Whether a checkpoint is on its way that has to end before what is stored is whole again.
    is_healing: bool,
    /// The oracle's mind after so many changes were given; the first is of what is stored.
    minds: VecDeque<(u64, Oracle)>,
}

impl Store {
    pub fn new(oracle: &Oracle) -> Self {
        Self {
            stored: Restored::default(),
            committed: 0,
            pending: VecDeque::new(),
            health: StoreHealth::Ready,
            is_healing: false,
            minds: VecDeque::from([(0, oracle.clone())]),
        }
    }

    pub fn give(&mut self, change: Change) {
        self.pending.push_back(change);
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Remembers what the oracle holds now that `given` changes were given.
    pub fn remember(&mut self, given: u64, oracle: &Oracle) {
        if self.minds.back().is_none_or(|(known, _)| *known < given) {
            self.minds.push_back((given, oracle.clone()));
        }
    }

    /// Whether the process may end here: what is stored is whole.
    pub fn is_whole(&self) -> bool {
        self.health != StoreHealth::Failed && !self.is_healing
    }

    /// Stores the first `count` changes; the number of the last, of `given` in all.
    pub fn commit(&mut self, count: usize, given: u64) -> u64 {
        let count = count.min(self.pending.len());
        for change in self.pending.drain(..count) {
            self.is_healing &= change != Change::CheckpointEnded;
            self.stored.apply(change);
        }
        let upto = given - self.pending.len() as u64;
        self.committed = upto;
        while self.minds.get(1).is_some_and(|(known, _)| *known <= upto) {
            self.minds.pop_front();
        }
        upto
    }

    /// Nothing can be stored any more: what waits is lost, and what comes is not given.
    pub fn fail(&mut self) {
        self.health = StoreHealth::Failed;
        self.is_healing = true;
        self.pending.clear();
    }

    /// The process ends with so many of the changes on disk that the oracle can tell what is: what is found there, how
    /// many changes that were, and what the oracle held.
    pub fn cut(&mut self, pick: usize) -> (Restored, u64, Oracle) {
        let possible: Vec<_> = self.minds.iter().filter(|(last, _)| *last >= self.committed).collect();
        let (last, oracle) = possible.get(pick % possible.len().max(1)).expect("the last was after all that is given");
        let (last, oracle) = (*last, oracle.clone());
        let count = usize::try_from(last - self.committed).unwrap_or(usize::MAX);
        for change in self.pending.drain(..).take(count) {
            self.stored.apply(change);
        }
        self.stored.finish();
        self.committed = last;
        self.health = StoreHealth::Ready;
        self.minds = VecDeque::from([(last, oracle.clone())]);
        (self.stored.clone(), last, oracle)
    }
}

/// R1: what was given comes to what the core holds.
pub fn check(broker: &Broker, store: &Store) -> Held {
    if !store.is_whole() {
        return Ok(());
    }
    let mut all = store.stored.clone();
    for change in &store.pending {
        all.apply(change.clone());
    }
    let image = broker.image();
    let is_like = image.as_ref().is_none_or(|image| all.is_like(image));
    hold(is_like, "R1", || format!("what is stored comes to\n{all:#?}\nand should come to\n{image:#?}"))
}
