//! Durations and sizes as a person writes them: `"500ms"`, `"64 KiB"`.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 3600 * 1000),
    ("d", 24 * 3600 * 1000),
];

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// The duration `text` says: an integer and `ms`, `s`, `m`, `h` or `d`.
pub fn duration_from(text: &str) -> Option<Duration> {
    Some(Duration::from_millis(scaled(text, &DURATION_UNITS)?))
}

/// The bytes `text` says: an integer and `B`, `KiB`, `MiB` or `GiB`.
pub fn size_from(text: &str) -> Option<u64> {
    scaled(text, &SIZE_UNITS)
}

/// `duration` in the largest unit that says it whole; finer than a millisecond is cut.
pub fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, scale) = largest_unit(millis, &DURATION_UNITS);
    format!("{}{unit}", millis / scale)
}

/// `bytes` in the largest unit that says it whole.
pub fn size_text(bytes: u64) -> String {
    let (unit, scale) = largest_unit(bytes, &SIZE_UNITS);
    format!("{} {unit}", bytes / scale)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(digits_end)?;
    let scale = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

fn largest_unit(value: u64, units: &[(&'static str, u64)]) -> (&'static str, u64) {
    let fits = |unit: &&(&str, u64)| value != 0 && value.is_multiple_of(unit.1);
    units
        .iter()
        .rev()
        .find(fits)
        .or(units.first())
        .copied()
        .unwrap_or(("", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_the_same_form() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration_from(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration_from("10 s"), Some(Duration::from_secs(10)));
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::ZERO), "0ms");
    }

    #[test]
    fn sizes_are_read_and_written_in_the_same_form() {
        for (text, bytes) in [
            ("512 B", 512),
            ("64 KiB", 65_536),
            ("1 MiB", 1 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(size_from(text), Some(bytes), "{text}");
            assert_eq!(size_text(bytes), text);
        }
        assert_eq!(size_from("64KiB"), Some(65_536));
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in [
            "",
            "s",
            "10",
            "-1s",
            "1.5s",
            "10 sec",
            "ms10",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(duration_from(text), None, "{text}");
        }
        for text in ["64", "64 KB", "64k", "KiB", "18446744073709551615 KiB", "1 kib"] {
            assert_eq!(size_from(text), None, "{text}");
        }
    }
}
