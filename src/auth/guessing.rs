//! Who fails to log in again and again is heard less and less often.
//!
//! From each source some failures are free, as many as people and devices make by mistake. Each further one begins a
//! delay that is twice the last: what comes from there within it is refused unchecked. Time is forgiving: one failure
//! is forgotten after another, but not while a delay runs.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Where somebody comes from who tries to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// A /64 of IPv6, all of which one machine may have for itself.
    V6([u8; 8]),
    /// The programs of this machine that run under this user id, by a Unix socket.
    LocalUser(u32),
}

/// How failures are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuessingLimits {
    /// Failures of one source that are free; 0: all of them, nobody is ever delayed.
    pub failures_max: u32,
    /// The time in which as many are forgotten.
    pub failures_window: Duration,
    /// The longest delay.
    pub delay_max: Duration,
}

/// The sources that failed lately. It is bounded: where it is full, the one that failed longest ago is forgotten.
#[derive(Debug)]
pub struct Guessing {
    limits: GuessingLimits,
    /// By their last failure.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    failures: u32,
    /// From here on failures are forgotten: the last failure or the end of its delay.
    forgets_from: Instant,
}

/// The first delay; each is twice the last.
const DELAY_MIN: Duration = Duration::from_secs(1);

/// Doublings beyond which a delay is the longest that may be configured anyway.
const DOUBLINGS_MAX: u32 = 20;

impl Source {
    /// The source that `address` belongs to.
    pub fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Default for GuessingLimits {
    /// Ten a minute, and up to five minutes: some 300 guesses a day.
    fn default() -> Self {
        Self {
            failures_max: 10,
            failures_window: Duration::from_secs(60),
            delay_max: Duration::from_secs(300),
        }
    }
}

impl Guessing {
    /// How many sources are remembered, some 40 bytes each.
    pub const SOURCES_MAX: usize = 512;

    /// Nobody has failed yet.
    pub fn new(limits: GuessingLimits) -> Self {
        Self {
            limits,
            entries: Vec::new(),
        }
    }

    /// How much longer nothing from `source` is checked; `None`: it is.
    pub fn delay(&self, now: Instant, source: Source) -> Option<Duration> {
        let entry = self.entries.iter().find(|entry| entry.source == source)?;
        let left = entry.forgets_from.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Notes that somebody from `source` has failed; the delay that begins with it.
    pub fn failed(&mut self, now: Instant, source: Source) -> Option<Duration> {
        let limits = self.limits;
        if limits.failures_max == 0 {
            return None;
        }
        let known = self.entries.iter().position(|entry| entry.source == source);
        let mut entry = match known {
            Some(place) => self.entries.remove(place),
            None => Entry {
                source,
                failures: 0,
                forgets_from: now,
            },
        };
        entry.forget(now, limits.failures_window / limits.failures_max);
        entry.failures += 1;
        let delay = entry
            .failures
            .checked_sub(limits.failures_max + 1)
            .map(|doublings| {
                let doubled = DELAY_MIN.saturating_mul(1 << doublings.min(DOUBLINGS_MAX));
                doubled.min(limits.delay_max)
            });
        if let Some(delay) = delay {
            entry.failures = entry.failures.min(limits.failures_max + DOUBLINGS_MAX);
            entry.forgets_from = now.checked_add(delay).unwrap_or(now);
        }
        if self.entries.len() >= Self::SOURCES_MAX {
            self.entries.remove(0);
        }
        self.entries.push(entry);
        delay
    }
}

impl Entry {
    /// Forgets a failure for each `step` that has passed.
    fn forget(&mut self, now: Instant, step: Duration) {
        let passed = now.saturating_duration_since(self.forgets_from);
        let steps = passed
            .as_millis()
            .checked_div(step.as_millis())
            .unwrap_or_default();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if steps >= self.failures {
            self.failures = 0;
            self.forgets_from = now;
        } else {
            self.failures -= steps;
            self.forgets_from += step * steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: Source = Source::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// Three in thirty seconds, up to ten.
    fn guessing() -> Guessing {
        Guessing::new(GuessingLimits {
            failures_max: 3,
            failures_window: secs(30),
            delay_max: secs(10),
        })
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn some_failures_are_free_and_then_the_delay_doubles_up_to_its_maximum() {
        let (mut guessing, mut now) = (guessing(), Instant::now());
        for _ in 0..3 {
            assert_eq!(guessing.failed(now, HERE), None);
            assert_eq!(guessing.delay(now, HERE), None);
        }
        for expected in [1, 2, 4, 8, 10, 10, 10] {
            assert_eq!(guessing.failed(now, HERE), Some(secs(expected)));
            assert_eq!(guessing.delay(now, HERE), Some(secs(expected)));
            assert_eq!(guessing.delay(now, THERE), None, "somebody else");
            now += secs(expected);
            assert_eq!(guessing.delay(now, HERE), None, "it is over");
        }
    }

    #[test]
    fn failures_are_forgotten_one_after_the_other_but_not_while_a_delay_runs() {
        let (mut guessing, start) = (guessing(), Instant::now());
        for _ in 0..4 {
            guessing.failed(start, HERE);
        }
        assert_eq!(guessing.delay(start, HERE), Some(secs(1)));
        // Four failures; one is forgotten every ten seconds from the end of the delay on.
        assert_eq!(guessing.failed(start + secs(1 + 9), HERE), Some(secs(2)));
        let later = start + secs(10 + 2 + 30);
        assert_eq!(
            guessing.failed(later, HERE),
            None,
            "two of five left, and a free one more"
        );
        assert_eq!(guessing.failed(later + secs(3600), HERE), None);
        assert_eq!(
            guessing.entries[0].failures, 1,
            "all that was before is forgotten"
        );
    }

    #[test]
    fn who_fails_now_and_then_is_never_delayed() {
        let (mut guessing, mut now) = (guessing(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(guessing.failed(now, HERE), None);
            now += secs(10);
        }
    }

    #[test]
    fn the_source_that_failed_longest_ago_gives_way() {
        let (mut guessing, now) = (guessing(), Instant::now());
        for _ in 0..4 {
            guessing.failed(now, HERE);
            guessing.failed(now, THERE);
        }
        for user in 0..(Guessing::SOURCES_MAX as u32 - 1) {
            guessing.failed(now, Source::LocalUser(user));
        }
        assert_eq!(guessing.entries.len(), Guessing::SOURCES_MAX);
        assert_eq!(guessing.delay(now, HERE), None);
        assert_eq!(guessing.delay(now, THERE), Some(secs(1)));
    }

    #[test]
    fn no_number_of_failures_makes_it_overflow_and_none_are_told_to_be_none() {
        let mut guessing = Guessing::new(GuessingLimits {
            failures_max: 1000,
            failures_window: secs(1),
            delay_max: secs(3600),
        });
        let now = Instant::now();
        for _ in 0..5000 {
            guessing.failed(now, HERE);
        }
        assert_eq!(guessing.delay(now, HERE), Some(secs(3600)));
        let mut never = Guessing::new(GuessingLimits {
            failures_max: 0,
            ..GuessingLimits::default()
        });
        for _ in 0..100 {
            assert_eq!(never.failed(now, HERE), None);
        }
        assert_eq!(never.delay(now, HERE), None);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_a_mapped_address_as_what_it_stands_for() {
        let of = |text: &str| Source::of_address(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::7"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), HERE);
    }
}
