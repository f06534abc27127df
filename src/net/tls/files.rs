//! The files of TLS: certificates, authorities and private keys, each wholly what it should be or refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tracing::warn;

use super::error::TlsError;

/// No file of certificates is longer: what all browsers trust fits in a third of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Permissions by which others could put their own key in place.
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Permission by which every program of the machine could take the key.
const READABLE_BY_ALL: u32 = 0o004;

/// The certificates of a PEM file, at least one, every one of them whole.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(file, &read_bounded(file)?.0)
}

fn certificates_in(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(text)
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
    add_roots(file, read_certificates(file)?, &mut roots)?;
    Ok(roots)
}

/// Adds the authorities of a PEM file that holds nothing else.
pub(super) fn read_authorities(file: &Path, roots: &mut RootCertStore) -> Result<(), TlsError> {
    let (text, _) = read_bounded(file)?;
    let certificates = certificates_in(file, &text)?;
    refuse_other_sections(file, &text, certificates.len())?;
    add_roots(file, certificates, roots)
}

fn add_roots(
    file: &Path,
    certificates: Vec<CertificateDer<'static>>,
    roots: &mut RootCertStore,
) -> Result<(), TlsError> {
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| TlsError::bad(file, error))?;
    }
    Ok(())
}

/// The revocation lists of a file, PEM with at least one and nothing else in it, or DER with one.
pub(super) fn read_revocation_lists(
    file: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let (content, _) = read_bounded(file)?;
    // DER of a list is a SEQUENCE; PEM is text.
    if content.first() == Some(&0x30) {
        return Ok(vec![content.into()]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::bad_crl(file, error))?;
    if lists.is_empty() {
        return Err(TlsError::bad_crl(
            file,
            "it holds none, expected PEM with -----BEGIN X509 CRL-----, or DER",
        ));
    }
    refuse_other_sections(file, &content, lists.len())?;
    Ok(lists)
}

/// Refuses a file of which not all was read: a section whose heading is misspelt is skipped by every reader of PEM,
/// and a list of whom to keep out would be shorter by it.
fn refuse_other_sections(file: &Path, text: &[u8], read: usize) -> Result<(), TlsError> {
    const BEGIN: &[u8] = b"-----BEGIN";
    let sections = text.windows(BEGIN.len()).filter(|window| *window == BEGIN);
    let sections = sections.count();
    if sections == read {
        return Ok(());
    }
    let found = format!("of {sections} sections of PEM only {read} are of the right kind");
    Err(TlsError::bad(file, found))
}

/// Whose private key a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOf {
    /// A server: many rely on it.
    Server,
    /// A client, who may be trying something out.
    Client,
}

/// The private key of a PEM file that nobody else may write, nor, a server's, every user of the machine read.
pub(super) fn read_key(file: &Path, owner: KeyOf) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (text, mode) = read_bounded(file)?;
    let is_readable_by_all = mode & READABLE_BY_ALL != 0;
    if mode & WRITABLE_BY_OTHERS != 0 || is_readable_by_all && owner == KeyOf::Server {
        return Err(TlsError::ExposedKey {
            file: file.to_owned(),
            mode,
        });
    }
    if is_readable_by_all {
        warn!(file = %file.display(), "every user of this machine can read the private key, expected mode 0600");
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
