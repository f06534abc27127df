//! The latest time ever seen, for boards whose clock starts in 1970: a floor below which no clock is right.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;

use super::StateDirectory;

/// What the stamp file says: one line, the seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    unix_secs: Option<u64>,
}

/// The stamp's name in the state directory. Where a clock once stood in a far future, deleting it brings the
/// floor back to the date of the release.
pub(super) const FILE: &str = "clock";
/// Between two savings: what the floor lags behind at most after a power cut, and two small writes an hour
/// are nothing to a flash memory.
const SAVE_EVERY: Duration = Duration::from_secs(3600);
/// The longest stamp: the 20 digits of a u64 and a line feed.
const FILE_BYTES_MAX: usize = 21;
/// 2200-01-01 in seconds of Unix time; a stamp beyond it is no time that anybody saw.
const LATEST_UNIX_SECS: u64 = 7_258_118_400;

impl Stamp {
    /// Reads the stamp; one that cannot be read is ignored with a warning, for a floor is a help and not a
    /// need.
    pub(super) fn read(directory: &StateDirectory) -> Self {
        let path = directory.path().join(FILE);
        let unix_secs = match directory.read(FILE, FILE_BYTES_MAX) {
            Ok(None) => None,
            Ok(Some(content)) => {
                let parsed = parse(&content);
                if parsed.is_none() {
                    warn!(file = %path.display(), "ignoring a clock stamp that holds no time");
                }
                parsed
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "ignoring a clock stamp that cannot be read");
                None
            }
        };
        Self { unix_secs }
    }

    pub(super) fn last_seen(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.unix_secs?))
    }

    /// Whether it is time to save `now`.
    pub(super) fn is_due(self, now: SystemTime) -> bool {
        self.last_seen()
            .is_none_or(|saved| now.duration_since(saved).is_ok_and(|since| since >= SAVE_EVERY))
    }

    /// The stamp for `now`; `None` where it says no more than this one.
    pub(super) fn advanced(self, now: SystemTime) -> Option<Self> {
        let unix_secs = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let is_news = unix_secs < LATEST_UNIX_SECS && self.unix_secs.is_none_or(|saved| unix_secs > saved);
        is_news.then_some(Self {
            unix_secs: Some(unix_secs),
        })
    }

    pub(super) fn to_text(self) -> String {
        format!("{}\n", self.unix_secs.unwrap_or(0))
    }
}

fn parse(content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?;
    let unix_secs = text.strip_suffix('\n').unwrap_or(text).parse().ok()?;
    (unix_secs < LATEST_UNIX_SECS).then_some(unix_secs)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn time(unix_secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(unix_secs)
    }

    #[test]
    fn the_time_saved_at_the_end_of_a_run_is_seen_by_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let mut directory = StateDirectory::open(&path).unwrap();
        assert_eq!(directory.last_seen(), None);
        directory.save_time(time(1_800_000_000)).unwrap();
        drop(directory);
        assert_eq!(
            StateDirectory::open(&path).unwrap().last_seen(),
            Some(time(1_800_000_000))
        );
    }

    #[test]
    fn the_stamp_is_written_at_most_hourly_and_never_turned_back() {
        let parent = tempfile::tempdir().unwrap();
        let mut directory = StateDirectory::open(&parent.path().join("state")).unwrap();
        let start = time(1_800_000_000);
        directory.note_time(start).unwrap();
        assert_eq!(directory.last_seen(), Some(start));
        directory
            .note_time(start + HOUR - Duration::from_secs(1))
            .unwrap();
        assert_eq!(directory.last_seen(), Some(start), "not an hour old");
        directory.note_time(start + HOUR).unwrap();
        assert_eq!(directory.last_seen(), Some(start + HOUR));
        directory.note_time(time(0)).unwrap();
        directory.save_time(start).unwrap();
        assert_eq!(directory.last_seen(), Some(start + HOUR));
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert_eq!(text, "1800003600\n");
    }

    #[test]
    fn a_stamp_that_is_no_time_is_ignored_and_written_anew() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        drop(StateDirectory::open(&path).unwrap());
        let long = "1".repeat(10_000);
        let far = LATEST_UNIX_SECS.to_string();
        for garbage in [
            &b""[..],
            b"soon",
            b"-1\n",
            b"1\n2\n",
            b"\xff\0",
            long.as_bytes(),
            far.as_bytes(),
        ] {
            fs::write(path.join(FILE), garbage).unwrap();
            let mut directory = StateDirectory::open(&path).unwrap();
            assert_eq!(
                directory.last_seen(),
                None,
                "{:?}",
                String::from_utf8_lossy(garbage)
            );
            directory.note_time(time(1_800_000_000)).unwrap();
            drop(directory);
            assert_eq!(
                StateDirectory::open(&path).unwrap().last_seen(),
                Some(time(1_800_000_000))
            );
        }
    }
}
