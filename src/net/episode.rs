//! Trouble that repeats, told once.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Trouble that is worth one line, however often it repeats.
#[derive(Debug, Default)]
pub(super) struct Episode {
    last: Cell<Option<Instant>>,
}

impl Episode {
    /// Notes the trouble; true when it begins rather than goes on.
    pub(super) fn begins(&self, now: Instant) -> bool {
        let last = self.last.replace(Some(now));
        last.is_none_or(|last| now.duration_since(last) > EPISODE_GAP)
    }
}

/// Trouble that comes back within this time is the same trouble, and is not told again.
const EPISODE_GAP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_repeats_is_told_once_and_told_again_after_a_quiet_minute() {
        let episode = Episode::default();
        let mut now = Instant::now();
        assert!(episode.begins(now));
        for _ in 0..10 {
            now += EPISODE_GAP / 2;
            assert!(!episode.begins(now));
        }
        now += EPISODE_GAP * 2;
        assert!(episode.begins(now));
    }
}
