//! Whether a certificate is in its time, and for how long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use der::DateTime;
use rustls::pki_types::CertificateDer;
use rustls::time_provider::TimeProvider;
use tracing::warn;

use super::error::TlsError;
use super::x509::Certificate;

pub(super) fn is_expired(certificate: &Certificate<'_>, clock: &dyn TimeProvider) -> bool {
    let not_after = certificate.not_after;
    // A clock that cannot be read lets nobody in.
    clock
        .current_time()
        .is_none_or(|now| i64::try_from(now.as_secs()).is_ok_and(|now| now > not_after))
}

/// Refuses a certificate of our own that has expired; one that is not valid yet may only mean that the clock
/// is behind, so that is told and no more.
pub(super) fn check_dates(
    file: &Path,
    chain: &[CertificateDer<'static>],
    clock: &dyn TimeProvider,
) -> Result<(), TlsError> {
    let Some(leaf) = chain.first() else {
        return Err(TlsError::NoCertificate {
            file: file.to_owned(),
        });
    };
    let certificate = Certificate::from_der(leaf).map_err(|error| TlsError::bad(file, error))?;
    let now = clock
        .current_time()
        .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if is_expired(&certificate, clock) {
        return Err(TlsError::Expired {
            file: file.to_owned(),
            not_after: date(certificate.not_after),
            now: date(now),
        });
    }
    if now < certificate.not_before {
        let not_before = date(certificate.not_before);
        warn!(file = %file.display(), %not_before, "certificate is not valid yet");
    }
    Ok(())
}

/// A moment as in `Mar  1 09:05:00 2027 +00:00`.
fn date(unix_secs: i64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // How long before is not known; see `Certificate`.
    let Ok(since_epoch) = u64::try_from(unix_secs) else {
        return "a day before 1970".to_owned();
    };
    // After the year 9999, which no certificate can say but a clock.
    let Ok(date) = DateTime::from_unix_duration(Duration::from_secs(since_epoch)) else {
        return unix_secs.to_string();
    };
    let month = usize::from(date.month()).checked_sub(1);
    let month = month.and_then(|month| MONTHS.get(month)).unwrap_or(&"");
    let (day, year) = (date.day(), date.year());
    let (hour, minute, second) = (date.hour(), date.minutes(), date.seconds());
    format!("{month} {day:>2} {hour:02}:{minute:02}:{second:02} {year} +00:00")
}

/// How long before the end of a certificate a person is told, in seconds: some renewals go through many hands.
const TOLD_BEFORE_SECS: i64 = 30 * DAY_SECS;
/// From here on it is urgent, in seconds.
const URGENT_BEFORE_SECS: i64 = 7 * DAY_SECS;
const DAY_SECS: i64 = 24 * 3600;

const _: () = assert!(URGENT_BEFORE_SECS <= TOLD_BEFORE_SECS);

/// Something that holds until a moment and has to be replaced by then.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) file: PathBuf,
    pub(super) ends_at_unix_secs: i64,
    pub(super) kind: TermKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TermKind {
    Certificate,
    RevocationList,
}

/// The end of the certificate in a chain that ends first.
pub(super) fn end_of_chain(file: &Path, chain: &[CertificateDer<'static>]) -> Result<Option<Term>, TlsError> {
    let mut first = None;
    for der in chain {
        let certificate = Certificate::from_der(der).map_err(|error| TlsError::bad(file, error))?;
        let end = certificate.not_after;
        first = Some(first.map_or(end, |first: i64| first.min(end)));
    }
    Ok(first.map(|ends_at_unix_secs| Term {
        file: file.to_owned(),
        ends_at_unix_secs,
        kind: TermKind::Certificate,
    }))
}

impl Term {
    /// What a person has to know of it at `now`; `None` while there is time.
    pub(super) fn warning(&self, now_unix_secs: i64) -> Option<String> {
        let left_secs = self.ends_at_unix_secs.saturating_sub(now_unix_secs);
        let file = self.file.display();
        let date = date(self.ends_at_unix_secs);
        let days = left_secs / DAY_SECS;
        match self.kind {
            // Lists are short-lived, and whoever makes them does so by a clock: only a late one is worth a word.
            TermKind::RevocationList => (left_secs < 0).then(|| {
                format!("the revocation list in {file} was to be replaced by {date}, put the next one in its place")
            }),
            TermKind::Certificate if left_secs > TOLD_BEFORE_SECS => None,
            TermKind::Certificate if left_secs < 0 => {
                Some(format!("the certificate in {file} ended on {date}, clients refuse it; renew it"))
            }
            TermKind::Certificate if left_secs > URGENT_BEFORE_SECS => {
                Some(format!("the certificate in {file} ends in {days} days, on {date}; renew it"))
            }
            TermKind::Certificate => Some(format!(
                "the certificate in {file} ends within a week, in {days} days, on {date}, and clients will refuse it; \
                 renew it now"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_by_the_calendar() {
        for (unix_secs, expected) in [
            (0, "Jan  1 00:00:00 1970 +00:00"),
            (951_827_696, "Feb 29 12:34:56 2000 +00:00"),
            (1_798_761_599, "Dec 31 23:59:59 2026 +00:00"),
            (4_107_542_400, "Mar  1 00:00:00 2100 +00:00"),
            (253_402_300_799, "Dec 31 23:59:59 9999 +00:00"),
            (253_402_300_800, "253402300800"),
            (i64::MAX, "9223372036854775807"),
            (-1, "a day before 1970"),
            (i64::MIN, "a day before 1970"),
        ] {
            assert_eq!(date(unix_secs), expected);
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_told_a_month_ahead_and_more_urgently_in_its_last_week() {
        let term = |kind| Term {
            file: "server.pem".into(),
            ends_at_unix_secs: 1_800_000_000,
            kind,
        };
        let told = |kind, days: i64| term(kind).warning(1_800_000_000 - days * DAY_SECS);
        assert_eq!(told(TermKind::Certificate, 31), None);
        for (days, expected) in [
            (30, "ends in 30 days"),
            (8, "ends in 8 days"),
            (7, "ends within a week"),
            (0, "in 0 days"),
            (-1, "ended on"),
        ] {
            let told = told(TermKind::Certificate, days).unwrap();
            assert!(told.contains(expected) && told.contains("server.pem"), "{told}");
        }
        assert_eq!(told(TermKind::RevocationList, 1), None);
        let late = told(TermKind::RevocationList, -1).unwrap();
        assert!(late.contains("was to be replaced"), "{late}");
    }
}
