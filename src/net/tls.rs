//! TLS 1.2 and 1.3: certificates from files, peers checked, names taken from client certificates.
//!
//! A server answers no ALPN: rustls refuses a client whose offers do not overlap with a server's list, and
//! clients offer `mqtt`, a vendor's word, or nothing. Without a list the offer is ignored, which RFC 7301
//! lets a client take for an answer.
//!
//! `server` and `client` are the two sides; `files` is what both read, `dates` when a certificate holds, `trust` which
//! certificates of clients are accepted, and `owner` whom they name.

mod client;
mod dates;
mod error;
mod files;
mod handshake_error;
mod owner;
mod server;
mod trust;
mod x509;

pub use self::client::{ClientSettings, Connector, Roots};
pub use self::error::TlsError;
pub use self::handshake_error::HandshakeError;
pub use self::owner::{CertificateError, CertificateField};
pub(in crate::net) use self::server::Names;
pub use self::server::{ClientCertificates, Server, ServerSettings};
pub use self::trust::{ClientTrust, CrlDepth, Doubt, TRUST_FILES_MAX};
