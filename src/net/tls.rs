//! TLS 1.2 and 1.3: certificates from files, peers checked, names taken from client certificates.

use std::path::PathBuf;

/// What a TLS listener shows and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// PEM file: the server's certificate first, then those that lead to its CA.
    pub certificate: PathBuf,
    /// PEM file: the certificate's private key, not encrypted.
    pub key: PathBuf,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// Where in the client's certificate its user name stands; `None` leaves the name to CONNECT.
    pub user_name_from: Option<CertificateField>,
}

/// Whether a TLS listener asks clients for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Does not ask.
    #[default]
    Ignored,
    /// Asks; a client may come without, but what it shows must be right.
    Optional {
        /// PEM file: the authorities whose certificates are accepted.
        ca: PathBuf,
    },
    /// Refuses those who show none.
    Required {
        /// PEM file: the authorities whose certificates are accepted.
        ca: PathBuf,
    },
}

/// The field of a certificate that names its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateField {
    /// The subject's common name.
    CommonName,
    /// The first DNS name among the subject's alternative names.
    SanDns,
    /// The first URI among the subject's alternative names.
    SanUri,
    /// The first e-mail address among the subject's alternative names.
    SanEmail,
}

/// Whom a TLS client trusts and what it shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientSettings {
    /// The authorities whose certificates are accepted.
    pub roots: Roots,
    /// PEM files, certificate and key, for servers that ask.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name the server's certificate must carry and SNI says; `None` takes the host dialled.
    pub server_name: Option<String>,
    /// Accepts any certificate, so that anybody on the way can read and change everything. For trying things out.
    pub insecure: bool,
}

/// Where the authorities come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roots {
    /// What the operating system trusts.
    #[default]
    System,
    /// A PEM file of certificates, and nothing else.
    File(PathBuf),
}
