//! Whether a certificate is in its time.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::time_provider::TimeProvider;
use tracing::warn;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::error::TlsError;

pub(super) fn is_expired(certificate: &X509Certificate<'_>, clock: &dyn TimeProvider) -> bool {
    let not_after = certificate.validity().not_after.timestamp();
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
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| TlsError::bad(file, error))?;
    let validity = certificate.validity();
    let now = clock
        .current_time()
        .map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if is_expired(&certificate, clock) {
        return Err(TlsError::Expired {
            file: file.to_owned(),
            not_after: validity.not_after.to_string(),
            now: ASN1Time::from_timestamp(now).map_or_else(|_| now.to_string(), |now| now.to_string()),
        });
    }
    if now < validity.not_before.timestamp() {
        warn!(file = %file.display(), not_before = %validity.not_before, "certificate is not valid yet");
    }
    Ok(())
}
