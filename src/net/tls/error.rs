//! Why TLS cannot be set up.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::InconsistentKeys;

use super::files::WRITABLE_BY_OTHERS;

/// Why TLS cannot be set up: a file is not what it should be.
#[derive(Debug)]
pub enum TlsError {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no certificate.
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
    /// A certificate in the file cannot be used.
    BadCertificate {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A revocation list in the file cannot be used.
    BadRevocationList {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate's time is over.
    Expired {
        /// Which.
        file: PathBuf,
        /// Its last moment.
        not_after: String,
        /// What the clock shows, which may be what is wrong.
        now: String,
    },
    /// The file holds no private key.
    NoKey {
        /// Which.
        file: PathBuf,
    },
    /// The private key is encrypted, and nobody is there to type its password.
    EncryptedKey {
        /// Which.
        file: PathBuf,
    },
    /// The private key cannot be used.
    BadKey {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others than the key file's owner may change it, or everybody read it.
    ExposedKey {
        /// Which.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Certificate and key do not belong together.
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The operating system has no list of authorities.
    NoSystemRoots {
        /// What it said.
        reason: String,
    },
    /// A listener without TLS was to be given another certificate.
    NotInUse,
    /// User names or client identifiers are to come from client certificates, and nobody asks for those.
    NameWithoutCertificate,
    /// The server's name is neither a DNS name nor an IP address.
    ServerName {
        /// What was given.
        name: String,
    },
    /// No random numbers to make ticket keys of.
    Setup(rustls::Error),
}

impl TlsError {
    pub(super) fn bad(file: &Path, reason: impl fmt::Display) -> Self {
        Self::BadCertificate {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn bad_crl(file: &Path, reason: impl fmt::Display) -> Self {
        Self::BadRevocationList {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// What rustls has against a certificate and its key, told by the file at fault.
    pub(super) fn unusable(certificate: &Path, key: &Path, error: rustls::Error) -> Self {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Self::KeyMismatch {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            },
            rustls::Error::InvalidCertificate(reason) => Self::bad(certificate, reason),
            other => Self::BadKey {
                file: key.to_owned(),
                reason: other.to_string(),
            },
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => write!(f, "cannot read {}: {source}", file.display()),
            Self::NoCertificate { file } => write!(
                f,
                "{} holds no certificate, expected PEM with -----BEGIN CERTIFICATE-----",
                file.display()
            ),
            Self::BadCertificate { file, reason } => {
                write!(f, "a certificate in {} cannot be used: {reason}", file.display())
            }
            Self::BadRevocationList { file, reason } => {
                write!(
                    f,
                    "a revocation list in {} cannot be used: {reason}",
                    file.display()
                )
            }
            Self::Expired { file, not_after, now } => write!(
                f,
                "the certificate in {} expired on {not_after}; \
                 it is {now} by the clock it is checked against, renew it or set the clock",
                file.display()
            ),
            Self::NoKey { file } => write!(
                f,
                "{} holds no private key, expected PEM with -----BEGIN PRIVATE KEY-----",
                file.display()
            ),
            Self::EncryptedKey { file } => write!(
                f,
                "the private key in {} is encrypted, expected one without password \
                 (openssl pkey -in KEY -out PLAIN), readable by the gateway's user only",
                file.display()
            ),
            Self::BadKey { file, reason } => {
                write!(
                    f,
                    "the private key in {} cannot be used: {reason}",
                    file.display()
                )
            }
            Self::ExposedKey { file, mode } => write!(
                f,
                "the private key file {} has permissions {mode:04o}, so {}; \
                 expected 0600 or 0640 (chmod 600)",
                file.display(),
                match mode & WRITABLE_BY_OTHERS {
                    0 => "every user can read it",
                    _ => "others may change it",
                }
            ),
            Self::KeyMismatch { certificate, key } => write!(
                f,
                "the private key in {} does not belong to the certificate in {} \
                 (the first certificate of the file must be the server's or client's own)",
                key.display(),
                certificate.display()
            ),
            Self::NoSystemRoots { reason } => write!(
                f,
                "the system trusts no certificate authority{reason}; \
                 install ca-certificates or name a CA file"
            ),
            Self::NotInUse => f.write_str("it has none, expected a listener that began with it"),
            Self::NameWithoutCertificate => f.write_str(
                "names are to be taken from client certificates, but clients are not asked for any; \
                 make client certificates optional or required",
            ),
            Self::ServerName { name } => write_server_name(f, name),
            Self::Setup(error) => write!(f, "cannot set up TLS: {error}"),
        }
    }
}

// Without a source: the message holds it already, and who prints the whole chain would say it twice.
impl std::error::Error for TlsError {}

pub(super) fn write_server_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(
        f,
        "{name:?} can be in no certificate, expected a DNS name or an IP address"
    )
}
