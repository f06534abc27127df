//! How fast connections may come.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Connections in a second: a second's worth may come at once, and then they come evenly.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// The moment at which everything accepted so far is paid for.
    paid_at: Cell<Option<Instant>>,
}

impl Pace {
    const BURST: Duration = Duration::from_secs(1);

    pub(super) fn new(per_second: u32) -> Self {
        Self {
            interval: Self::BURST / per_second.max(1),
            paid_at: Cell::new(None),
        }
    }

    /// When the next connection may be accepted; `None` for now.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let debt = self.paid_at.get()?.saturating_duration_since(now) + self.interval;
        let wait = debt.saturating_sub(Self::BURST);
        (!wait.is_zero()).then(|| now + wait)
    }

    pub(super) fn take(&self, now: Instant) {
        let paid_at = self.paid_at.get().map_or(now, |paid_at| paid_at.max(now));
        self.paid_at.set(Some(paid_at + self.interval));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_of_connections_may_come_at_once_and_then_they_come_evenly() {
        let pace = Pace::new(4);
        let mut now = Instant::now();
        for _ in 0..4 {
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        for _ in 0..10 {
            let quarter = Duration::from_millis(250);
            assert_eq!(pace.next(now), Some(now + quarter));
            now += quarter;
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        now += Duration::from_secs(3600);
        for _ in 0..4 {
            assert_eq!(pace.next(now), None);
            pace.take(now);
        }
        assert!(
            pace.next(now).is_some(),
            "a quiet hour saves up one second's worth"
        );
    }
}
