//! The files of TLS: certificates, authorities and private keys, each wholly what it should be or refused.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

use super::error::TlsError;

/// No file of certificates is longer: what all browsers trust fits in a third of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Permissions by which others could put their own key in place.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Permission by which every program of the machine could take the key.
const READABLE_BY_ALL: u32 = 0o004;

/// The certificates of a PEM file, at least one, every one of them whole.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (text, _) = read_bounded(file)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::bad(file, error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            file: file.to_owned(),
        });
    }
    Ok(chain)
}

/// The authorities of a PEM file, at least one, every one of them usable.
pub(super) fn read_roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::bad(file, error))?;
    }
    Ok(roots)
}

/// A private key that every user of the machine can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExposedKey<'f> {
    file: &'f Path,
    mode: u32,
}

/// Whether every user of the machine can read the private key in `file`; who starts with such a key is told so.
pub fn exposed_key(file: &Path) -> Option<ExposedKey<'_>> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o7777;
    (mode & READABLE_BY_ALL != 0).then_some(ExposedKey { file, mode })
}

impl fmt::Display for ExposedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, mode } = self;
        write!(
            f,
            "the private key file {} has permissions {mode:04o}, so every user can read it; expected 0600 or 0640 \
             (chmod 600)",
            file.display()
        )
    }
}

pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (text, mode) = read_bounded(file)?;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(TlsError::ExposedKey {
            file: file.to_owned(),
            mode,
        });
    }
    if mode & READABLE_BY_ALL != 0 {
        warn!("{}", ExposedKey { file, mode });
    }
    let says = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    if says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey {
            file: file.to_owned(),
        });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey {
            file: file.to_owned(),
        },
        other => TlsError::BadKey {
            file: file.to_owned(),
            reason: other.to_string(),
        },
    })
}

/// A file's content and its permissions.
fn read_bounded(file: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    let mut content = Vec::new();
    let length = opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let reason = format!("longer than {FILE_BYTES_MAX} bytes, expected a PEM file");
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok((content, mode))
}
