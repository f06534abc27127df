//! The moment of a reading, as RFC 3339 writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2024-01-01T00:00:00Z: no Tidegate ran before, so an earlier clock is one that nobody has set yet.
const BELIEVED_FROM: Duration = Duration::from_secs(1_704_067_200);
/// 9999-12-31T23:59:59Z: the last second RFC 3339 can write.
const WRITABLE_UNTIL: Duration = Duration::from_secs(253_402_300_799);

/// Writes `wall` in UTC with milliseconds; `None` while the clock cannot be believed.
pub(super) fn timestamp(wall: SystemTime) -> Option<String> {
    let since_epoch = wall.duration_since(UNIX_EPOCH).ok()?;
    if !(BELIEVED_FROM..=WRITABLE_UNTIL).contains(&since_epoch) {
        return None;
    }
    let secs = since_epoch.as_secs();
    let (year, month, day) = civil_date(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    let millis = since_epoch.subsec_millis();
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    ))
}

/// The date `days` after 1970-01-01, for days from then on.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is the last of its year and the months before it have a
    // regular pattern: 153 days for every five. 719,468 days lie between 0000-03-01 and 1970-01-01.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_rfc_3339_has_it() {
        for (millis, text) in [
            (1_704_067_200_000, "2024-01-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_772_323_199_999, "2026-02-28T23:59:59.999Z"),
            (1_772_323_200_000, "2026-03-01T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
        ] {
            let wall = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(timestamp(wall).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_clock_that_nobody_set_is_not_believed() {
        assert_eq!(timestamp(UNIX_EPOCH), None);
        assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(1)), None);
        assert_eq!(
            timestamp(UNIX_EPOCH + BELIEVED_FROM - Duration::from_millis(1)),
            None
        );
        assert_eq!(
            timestamp(UNIX_EPOCH + WRITABLE_UNTIL + Duration::from_secs(1)),
            None
        );
    }

    #[test]
    fn the_days_follow_each_other_for_four_centuries() {
        let mut expected = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(civil_date(days), expected);
            let (year, month, day) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let month_days = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == month_days => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
