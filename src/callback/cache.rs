//! Answers that are kept for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::hooks::Verdict;

/// A keyed hash of all that was asked.
pub(super) type Hash = [u8; 32];

/// A bounded memory of answers; the one that was put in first gives way.
///
/// 1. `order` holds the keys of `entries`, each once.
pub(super) struct Cache {
    entries: HashMap<Hash, (Verdict, Instant)>,
    order: VecDeque<Hash>,
    entries_max: usize,
}

impl Cache {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            entries_max,
        }
    }

    /// What was answered, where that still holds.
    pub(super) fn get(&mut self, hash: &Hash, now: Instant) -> Option<Verdict> {
        let (verdict, until) = self.entries.get(hash)?;
        (*until > now).then(|| verdict.clone())
    }

    pub(super) fn put(&mut self, hash: Hash, verdict: Verdict, until: Instant) {
        if self.entries_max == 0 {
            return;
        }
        if self.entries.insert(hash, (verdict, until)).is_some() {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > self.entries_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_is_known_for_its_time_and_while_there_is_room() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut cache = Cache::new(2);
        for number in 0..3 {
            cache.put([number; 32], Verdict::Allow, until);
        }
        assert_eq!(cache.get(&[0; 32], now), None);
        assert_eq!(cache.get(&[1; 32], now), Some(Verdict::Allow));
        assert_eq!(cache.get(&[1; 32], until), None);
        cache.put([1; 32], Verdict::Deny, until + Duration::from_secs(1));
        assert_eq!(cache.get(&[1; 32], until), Some(Verdict::Deny));
        assert_eq!(cache.entries.len(), 2);
    }
}
