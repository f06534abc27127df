//! When to try a lost port again.

use std::time::{Duration, Instant};

use super::settings::ReopenSettings;

/// The state of a port's line, and the wait before the next try.
///
/// The wait doubles with every failure. It starts over only when a line has shown its worth: it carried a byte, or it
/// stayed open as long as the longest wait. A port that opens and hangs up at once is a failure like any other.
#[derive(Debug)]
pub(super) struct Reopen {
    settings: ReopenSettings,
    state: State,
    wait: Duration,
}

/// The shortest time between two tries, whatever is plugged in: devices come in swarms when a hub is.
const ARRIVAL_REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum State {
    Closed { since: Instant, due: Instant },
    Opening,
    Open { since: Instant, carried: bool },
}

impl Reopen {
    /// A closed line, to be opened at once.
    pub(super) fn new(settings: ReopenSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Closed { since: now, due: now },
            wait: settings.min(),
        }
    }

    /// Whether the line is to be opened now; says so once, and then waits for the outcome.
    pub(super) fn poll_attempt(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { due, .. } if due <= now => {
                self.state = State::Opening;
                true
            }
            _ => false,
        }
    }

    /// The line is open.
    pub(super) fn handle_opened(&mut self, now: Instant) {
        self.state = State::Open {
            since: now,
            carried: false,
        };
    }

    /// The line carried a byte.
    pub(super) fn handle_carried(&mut self) {
        if let State::Open { carried, .. } = &mut self.state {
            *carried = true;
        }
    }

    /// The line is gone, or could not be opened.
    pub(super) fn handle_lost(&mut self, now: Instant) {
        if let State::Open { since, carried } = self.state
            && (carried || now.saturating_duration_since(since) >= self.settings.max())
        {
            self.wait = self.settings.min();
        }
        self.state = State::Closed {
            since: now,
            due: now + self.wait,
        };
        self.wait = (self.wait * 2).min(self.settings.max());
    }

    /// Something was plugged in: the line is tried at once, and the waits start over.
    pub(super) fn handle_arrival(&mut self, now: Instant) {
        if let State::Closed { since, due } = &mut self.state {
            *due = (*due).min(now.max(*since + ARRIVAL_REST));
            self.wait = self.settings.min();
        }
    }

    /// When [`Reopen::poll_attempt`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Closed { due, .. } => Some(due),
            State::Opening | State::Open { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(4);

    fn reopen(now: Instant) -> Reopen {
        Reopen::new(ReopenSettings::new(MIN, MAX).unwrap(), now)
    }

    /// Fails to open when it is due, and tells how long the wait had been.
    fn fail(reopen: &mut Reopen, now: &mut Instant) -> Duration {
        let due = reopen.poll_timeout().unwrap();
        let wait = due - *now;
        *now = due;
        assert!(reopen.poll_attempt(due));
        reopen.handle_lost(due);
        wait
    }

    #[test]
    fn the_wait_doubles_from_the_shortest_to_the_longest() {
        let mut now = Instant::now();
        let mut reopen = reopen(now);
        let waits: Vec<u128> = (0..6).map(|_| fail(&mut reopen, &mut now).as_millis()).collect();
        assert_eq!(waits, [0, 500, 1000, 2000, 4000, 4000]);
    }

    #[test]
    fn nothing_is_tried_before_its_time_nor_twice() {
        let now = Instant::now();
        let mut reopen = reopen(now);
        assert!(reopen.poll_attempt(now));
        assert!(!reopen.poll_attempt(now));
        assert_eq!(reopen.poll_timeout(), None);
        reopen.handle_lost(now);
        assert!(!reopen.poll_attempt(now + MIN - Duration::from_millis(1)));
        assert!(reopen.poll_attempt(now + MIN));
    }

    #[test]
    fn a_line_that_carried_a_byte_starts_over() {
        let mut now = Instant::now();
        let mut reopen = reopen(now);
        for _ in 0..4 {
            fail(&mut reopen, &mut now);
        }
        now = reopen.poll_timeout().unwrap();
        assert!(reopen.poll_attempt(now));
        reopen.handle_opened(now);
        reopen.handle_carried();
        reopen.handle_lost(now);
        assert_eq!(reopen.poll_timeout(), Some(now + MIN));
    }

    #[test]
    fn a_line_that_stayed_open_long_enough_starts_over() {
        let mut now = Instant::now();
        let mut reopen = reopen(now);
        fail(&mut reopen, &mut now);
        now = reopen.poll_timeout().unwrap();
        assert!(reopen.poll_attempt(now));
        reopen.handle_opened(now);
        reopen.handle_lost(now + MAX);
        assert_eq!(reopen.poll_timeout(), Some(now + MAX + MIN));
    }

    #[test]
    fn a_line_that_hangs_up_at_once_is_waited_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut reopen = reopen(now);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let due = reopen.poll_timeout().unwrap();
            waits.push((due - now).as_millis());
            now = due;
            assert!(reopen.poll_attempt(now));
            reopen.handle_opened(now);
            reopen.handle_lost(now);
        }
        assert_eq!(waits, [0, 500, 1000, 2000]);
    }

    #[test]
    fn when_something_is_plugged_in_the_line_is_tried_at_once_but_not_without_rest() {
        let mut now = Instant::now();
        let mut reopen = reopen(now);
        for _ in 0..5 {
            fail(&mut reopen, &mut now);
        }
        reopen.handle_arrival(now + Duration::from_millis(1));
        assert_eq!(reopen.poll_timeout(), Some(now + ARRIVAL_REST));
        reopen.handle_arrival(now + Duration::from_secs(1));
        assert_eq!(reopen.poll_timeout(), Some(now + ARRIVAL_REST));
        assert!(reopen.poll_attempt(now + Duration::from_secs(1)));
        reopen.handle_lost(now + Duration::from_secs(1));
        assert_eq!(reopen.poll_timeout(), Some(now + Duration::from_secs(1) + MIN));
    }

    #[test]
    fn what_is_plugged_in_beside_an_open_line_changes_nothing() {
        let now = Instant::now();
        let mut reopen = reopen(now);
        assert!(reopen.poll_attempt(now));
        reopen.handle_opened(now);
        reopen.handle_arrival(now);
        assert_eq!(reopen.poll_timeout(), None);
    }
}
