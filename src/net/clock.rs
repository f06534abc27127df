//! The wall clock certificates are checked against, on boards that may have none.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tracing::warn;

/// A wall clock that never shows a time before its floor.
///
/// A board without a clock battery starts in 1970, where no certificate is valid yet. Below the floor this
/// clock runs on from the floor by the monotonic clock: an expired certificate stays expired, a fresh one can
/// be used, and checking is never switched off. At or above the floor it shows the system's time.
#[derive(Debug)]
pub struct FlooredClock {
    floor: SystemTime,
    started: Instant,
}

/// 2026-11-01 00:00 UTC in seconds of Unix time: this program did not exist before, so no clock that shows
/// less is right. Raised at every release.
const BUILT_AFTER_UNIX_SECS: u64 = 1_793_491_200;

/// When this release was made: a clock that shows less is wrong.
pub fn released() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BUILT_AFTER_UNIX_SECS)
}

impl FlooredClock {
    /// A clock whose floor is `last_seen`, or the date of this release where that is later or nothing was
    /// seen. Tells the log where the system's clock lies below it.
    pub fn new(last_seen: Option<SystemTime>) -> Self {
        let floor = last_seen.map_or(released(), |seen| seen.max(released()));
        let system = SystemTime::now();
        if system < floor {
            warn!(
                system_unix_secs = unix_secs(system),
                floor_unix_secs = unix_secs(floor),
                "system clock is behind, checking certificates against the latest time known"
            );
        }
        Self {
            floor,
            started: Instant::now(),
        }
    }

    /// The time: the system's, or the floor and what has passed since where the system's lies below it.
    pub fn now(&self) -> SystemTime {
        self.reading(SystemTime::now(), self.started.elapsed())
    }

    /// Whether the system's clock shows less than the floor, so that certificates are checked against the
    /// floor.
    pub fn is_behind(&self) -> bool {
        SystemTime::now() < self.floor
    }

    /// The earliest time this clock shows.
    pub fn floor(&self) -> SystemTime {
        self.floor
    }

    fn reading(&self, system: SystemTime, elapsed: Duration) -> SystemTime {
        if system >= self.floor {
            system
        } else {
            self.floor.checked_add(elapsed).unwrap_or(self.floor)
        }
    }
}

impl Default for FlooredClock {
    /// A clock that has nothing but the date of this release to go by.
    fn default() -> Self {
        Self::new(None)
    }
}

impl TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = self.now().duration_since(UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since_epoch| since_epoch.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    #[test]
    fn a_board_that_wakes_up_in_1970_reads_the_floor_and_runs_on_from_there() {
        let clock = FlooredClock::default();
        let elapsed = Duration::from_secs(90);
        assert_eq!(clock.reading(UNIX_EPOCH, elapsed), clock.floor() + elapsed);
    }

    #[test]
    fn a_clock_above_the_floor_is_believed() {
        let clock = FlooredClock::default();
        let later = clock.floor() + YEAR;
        assert_eq!(clock.reading(later, Duration::from_secs(90)), later);
    }

    #[test]
    fn the_floor_is_the_later_of_release_and_last_stamp() {
        let release = FlooredClock::default().floor();
        assert_eq!(FlooredClock::new(Some(UNIX_EPOCH)).floor(), release);
        assert_eq!(FlooredClock::new(Some(release + YEAR)).floor(), release + YEAR);
    }
}
