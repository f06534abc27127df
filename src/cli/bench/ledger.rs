//! Which messages of one publisher one subscriber has: losses and duplicates, counted exactly.

use std::collections::BTreeSet;

/// Every sequence number below `next` was received, and those in `ahead`.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next: u64,
    ahead: BTreeSet<u64>,
    /// Messages received a second time.
    pub(super) duplicates: u64,
    /// Messages that came after one with a higher number.
    pub(super) late: u64,
}

impl Ledger {
    /// Notes one message; returns whether it is the first with its number.
    pub(super) fn receive(&mut self, sequence: u64) -> bool {
        if sequence < self.next || self.ahead.contains(&sequence) {
            self.duplicates += 1;
            return false;
        }
        if self.ahead.last().is_some_and(|highest| sequence < *highest) {
            self.late += 1;
        }
        if sequence > self.next {
            self.ahead.insert(sequence);
            return true;
        }
        self.next += 1;
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        true
    }

    /// How many of the first `sent` messages never came.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        sent - (self.next + self.ahead.len() as u64).min(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_and_late_messages_are_told_apart() {
        let mut ledger = Ledger::default();
        for (sequence, is_new) in [
            (0, true),
            (1, true),
            (1, false),
            (4, true),
            (4, false),
            (3, true),
            (6, true),
        ] {
            assert_eq!(ledger.receive(sequence), is_new, "{sequence}");
        }
        assert_eq!(ledger.duplicates, 2);
        assert_eq!(ledger.lost(7), 2, "2 and 5");
        assert_eq!(ledger.late, 1, "3 came after 4");
        ledger.receive(2);
        assert_eq!(ledger.lost(7), 1);
        assert_eq!(ledger.late, 2);
    }
}
