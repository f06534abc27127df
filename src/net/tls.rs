//! TLS 1.2 and 1.3: certificates from files, peers checked, names taken from client certificates.
//!
//! A server answers no ALPN: rustls refuses a client whose offers do not overlap with a server's list, and
//! clients offer `mqtt`, a vendor's word, or nothing. Without a list the offer is ignored, which RFC 7301
//! lets a client take for an answer.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, InconsistentKeys, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, warn};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::link::Stream;
use super::listener::Bound;
use super::proxy::HeaderError;
use super::websocket::upgrade::UpgradeError;
use crate::mqtt::{StringError, Utf8String};

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
    /// Accepts any certificate, so that anybody on the way can read and change everything. For trying things
    /// out.
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

/// The server's side of TLS, ready to take connections.
///
/// The whole configuration stands behind one handle, sessions to resume and the keys of tickets included: a
/// new certificate or authority means a new `Server`, so that nobody resumes what the old one let in.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    user_name_from: Option<CertificateField>,
}

impl Server {
    /// Reads the files `settings` names; `clock` is what certificates are checked against.
    ///
    /// # Errors
    /// [`TlsError`] when any of the files is not wholly what it should be.
    pub fn new(settings: &ServerSettings, clock: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (ca, is_optional) = match &settings.client_certificates {
            ClientCertificates::Ignored => (None, false),
            ClientCertificates::Optional { ca } => (Some(ca), true),
            ClientCertificates::Required { ca } => (Some(ca), false),
        };
        if ca.is_none() && settings.user_name_from.is_some() {
            return Err(TlsError::NameWithoutCertificate);
        }
        let verifier: Arc<dyn ClientCertVerifier> = match ca {
            None => Arc::new(NoClientAuth),
            Some(file) => {
                let roots = Arc::new(read_roots(file)?);
                let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                let builder = if is_optional {
                    builder.allow_unauthenticated()
                } else {
                    builder
                };
                builder.build().map_err(|error| TlsError::bad(file, error))?
            }
        };
        let chain = read_certificates(&settings.certificate)?;
        check_dates(&settings.certificate, &chain, clock.as_ref())?;
        let key = read_key(&settings.key)?;
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::unusable(&settings.certificate, &settings.key, error))?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
        config.send_tls13_tickets = 1; // A client that resumes gets its next ticket by doing so.
        Ok(Self {
            config: Arc::new(config),
            user_name_from: settings.user_name_from,
        })
    }

    /// Does the handshake on an accepted connection and finds the name its client certificate gives.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed.
    pub(super) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<(Box<TlsStream<TcpStream>>, Option<Utf8String>), HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let stream = Box::pin(acceptor.accept(tcp))
            .await
            .map_err(HandshakeError::from_io)?;
        let user = self
            .certificate_user(stream.get_ref().1)
            .map_err(HandshakeError::Certificate)?;
        Ok((Box::new(TlsStream::Server(stream)), user))
    }

    /// The user the client's verified certificate names; `None` where there is no certificate, or nobody
    /// asked.
    fn certificate_user(
        &self,
        connection: &ServerConnection,
    ) -> Result<Option<Utf8String>, CertificateError> {
        let Some([leaf, ..]) = connection.peer_certificates() else {
            return Ok(None);
        };
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Unreadable)?;
        // Whoever resumes a session shows the certificate of that time, and nothing has looked at its dates
        // since.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && is_expired(&certificate, self.config.time_provider.as_ref())
        {
            return Err(CertificateError::Expired);
        }
        self.user_name_from
            .map(|field| name_of(&certificate, field))
            .transpose()
    }
}

/// The client's side of TLS, ready to dial.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads the files `settings` names; `clock` is what certificates are checked against.
    ///
    /// # Errors
    /// [`TlsError`] when any of the files is not wholly what it should be.
    pub fn new(settings: &ClientSettings, clock: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let server_name = match &settings.server_name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| TlsError::ServerName { name: name.clone() })?,
            ),
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&clock))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions");
        let builder = if settings.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        } else {
            builder.with_root_certificates(match &settings.roots {
                Roots::System => system_roots()?,
                Roots::File(file) => read_roots(file)?,
            })
        };
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate)?;
                check_dates(certificate, &chain, clock.as_ref())?;
                builder
                    .with_client_auth_cert(chain, read_key(key)?)
                    .map_err(|error| TlsError::unusable(certificate, key, error))?
            }
        };
        let sessions = Arc::new(ClientSessionMemoryCache::new(CLIENT_SESSIONS_MAX));
        config.resumption = Resumption::store(sessions);
        Ok(Self {
            config: Arc::new(config),
            server_name,
        })
    }

    /// Does the handshake on a connection to `host`, a name or an IP address.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        host: &str,
        timeout: Duration,
    ) -> Result<Stream, HandshakeError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError::ServerName {
                name: host.to_owned(),
            })?,
        };
        let connecting = Box::pin(TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp));
        match tokio::time::timeout(timeout, connecting).await {
            Err(_) => Err(HandshakeError::TimedOut(timeout)),
            Ok(Err(error)) => Err(HandshakeError::from_io(error)),
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(TlsStream::Client(stream)))),
        }
    }
}

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
    /// Others than the key file's owner may change it.
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
    /// User names are to come from client certificates, and nobody asks for those.
    NameWithoutCertificate,
    /// The server's name is neither a DNS name nor an IP address.
    ServerName {
        /// What was given.
        name: String,
    },
    /// No random numbers to make ticket keys of.
    Setup(rustls::Error),
}

/// Why a handshake came to nothing.
#[derive(Debug)]
pub enum HandshakeError {
    /// It took longer than this.
    TimedOut(Duration),
    /// The connection broke.
    Broken(io::Error),
    /// What should be the header of a balancer is none.
    Proxy(HeaderError),
    /// The client that the balancer brought is one too many.
    Bound(Bound),
    /// It took so long that it had to give way to a newer connection.
    GaveWay,
    /// One side refused the other, or the peer speaks no TLS.
    Refused(rustls::Error),
    /// The client's certificate is in order, the name in it is not.
    Certificate(CertificateError),
    /// The host dialled can be in no certificate.
    ServerName {
        /// What was given.
        name: String,
    },
    /// What comes above TLS, or stands without it, did not become a WebSocket.
    Upgrade(UpgradeError),
}

/// Why a verified client certificate gives no user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// It cannot be taken apart.
    Unreadable,
    /// It expired after the session that is resumed with it had begun.
    Expired,
    /// It has no such field, or an empty one.
    NoName(CertificateField),
    /// It has two common names, and no rule says which one counts.
    TwoNames,
    /// The name is none that MQTT can carry.
    BadName(CertificateField, StringError),
}

/// Sessions of TLS 1.2 clients that resume without tickets, each some hundred bytes.
const SESSIONS_MAX: usize = 64;
/// Servers a client remembers, to shorten the next handshake.
const CLIENT_SESSIONS_MAX: usize = 8;
/// No file of certificates is longer: what all browsers trust fits in a third of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Permissions by which others could put their own key in place.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Permission by which every program of the machine could take the key.
const READABLE_BY_ALL: u32 = 0o004;

impl TlsError {
    fn bad(file: &Path, reason: impl fmt::Display) -> Self {
        Self::BadCertificate {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// What rustls has against a certificate and its key, told by the file at fault.
    fn unusable(certificate: &Path, key: &Path, error: rustls::Error) -> Self {
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
                "the private key file {} has permissions {mode:04o}, so others may change it; \
                 expected 0600 or 0640 (chmod 600)",
                file.display()
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
            Self::NameWithoutCertificate => f.write_str(
                "user names are to be taken from client certificates, but clients are not asked for any; \
                 make client certificates optional or required",
            ),
            Self::ServerName { name } => write_server_name(f, name),
            Self::Setup(error) => write!(f, "cannot set up TLS: {error}"),
        }
    }
}

// Without a source: the message holds it already, and who prints the whole chain would say it twice.
impl std::error::Error for TlsError {}

impl HandshakeError {
    /// Finds what TLS said inside the I/O error that brought it.
    fn from_io(error: io::Error) -> Self {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(refusal) => Self::Refused(refusal.clone()),
            None => Self::Broken(error),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::{AlertDescription, CertificateError as Bad, Error, InvalidMessage};
        match self {
            Self::TimedOut(limit) => write!(f, "no handshake within {} s", limit.as_secs_f32()),
            Self::Proxy(error) => fmt::Display::fmt(error, f),
            Self::Bound(bound) => write!(f, "{bound} is reached"),
            Self::GaveWay => f.write_str("it gave way to a newer connection"),
            Self::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed during the TLS handshake (is it a port without TLS?)")
            }
            Self::Broken(error) => write!(f, "the connection broke during the TLS handshake: {error}"),
            Self::Refused(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                f.write_str("the peer does not speak TLS, which this port expects")
            }
            Self::Refused(Error::NoCertificatesPresented) => {
                f.write_str("the client shows no certificate, and one is required")
            }
            Self::Refused(Error::InvalidCertificate(Bad::UnknownIssuer)) => {
                f.write_str("the peer's certificate is not from a trusted authority (check the CA file)")
            }
            Self::Refused(Error::InvalidCertificate(Bad::BadSignature)) => f.write_str(
                "the peer's certificate is not from the trusted authority, only from one of the same name \
                 (check the CA file)",
            ),
            Self::Refused(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
                f.write_str("the peer requires a client certificate")
            }
            Self::Refused(Error::AlertReceived(AlertDescription::UnknownCA)) => {
                f.write_str("the peer does not trust the authority of our certificate")
            }
            Self::Refused(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
                f.write_str("the peer takes our certificate for expired")
            }
            Self::Refused(error) => write!(f, "TLS refused: {error}"),
            Self::Certificate(error) => write!(f, "the client's certificate {error}"),
            Self::ServerName { name } => write_server_name(f, name),
            Self::Upgrade(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Certificate(error) => Some(error),
            Self::Proxy(error) => Some(error),
            Self::TimedOut(_)
            | Self::ServerName { .. }
            | Self::Upgrade(_)
            | Self::Bound(_)
            | Self::GaveWay => None,
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("cannot be taken apart"),
            Self::Expired => f.write_str("expired since its session began"),
            Self::NoName(field) => write!(f, "has no {field} to take the user name from"),
            Self::TwoNames => {
                f.write_str("has more than one common name, expected one to take the user name from")
            }
            Self::BadName(field, error) => write!(f, "names no user, its {field} is {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl fmt::Display for CertificateField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommonName => "common name",
            Self::SanDns => "DNS name",
            Self::SanUri => "URI",
            Self::SanEmail => "e-mail address",
        })
    }
}

fn write_server_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(
        f,
        "{name:?} can be in no certificate, expected a DNS name or an IP address"
    )
}

/// The name in `field` of a certificate that was verified.
///
/// # Errors
/// [`CertificateError`]: a name that is missing or cannot be told for certain lets nobody in.
fn name_of(
    certificate: &X509Certificate<'_>,
    field: CertificateField,
) -> Result<Utf8String, CertificateError> {
    let bytes: &[u8] = match field {
        CertificateField::CommonName => {
            let mut names = certificate.subject().iter_common_name();
            let name = names.next().ok_or(CertificateError::NoName(field))?;
            if names.next().is_some() {
                return Err(CertificateError::TwoNames);
            }
            // Character sets other than those that are a part of UTF-8 are not UTF-8 either.
            name.as_str()
                .map_err(|_| CertificateError::BadName(field, StringError::NotUtf8))?
                .as_bytes()
        }
        CertificateField::SanDns | CertificateField::SanUri | CertificateField::SanEmail => {
            let names = certificate
                .subject_alternative_name()
                .map_err(|_| CertificateError::Unreadable)?;
            let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
            names
                .iter()
                .find_map(|name| alternative(name, field))
                .ok_or(CertificateError::NoName(field))?
        }
    };
    if bytes.is_empty() {
        return Err(CertificateError::NoName(field));
    }
    Utf8String::from_bytes(bytes::Bytes::copy_from_slice(bytes))
        .map_err(|error| CertificateError::BadName(field, error))
}

/// The bytes of `name` if it is of the kind `field` asks for, well-formed or not.
fn alternative<'a>(name: &GeneralName<'a>, field: CertificateField) -> Option<&'a [u8]> {
    match (name, field) {
        (GeneralName::DNSName(name), CertificateField::SanDns)
        | (GeneralName::URI(name), CertificateField::SanUri)
        | (GeneralName::RFC822Name(name), CertificateField::SanEmail) => Some(name.as_bytes()),
        // RFC 5280, section 4.2.1.6: rfc822Name [1], dNSName [2], uniformResourceIdentifier [6].
        (GeneralName::Invalid(tag, bytes), _) => match (tag.0, field) {
            (1, CertificateField::SanEmail)
            | (2, CertificateField::SanDns)
            | (6, CertificateField::SanUri) => Some(bytes),
            _ => None,
        },
        _ => None,
    }
}

fn is_expired(certificate: &X509Certificate<'_>, clock: &dyn TimeProvider) -> bool {
    let not_after = certificate.validity().not_after.timestamp();
    // A clock that cannot be read lets nobody in.
    clock
        .current_time()
        .is_none_or(|now| i64::try_from(now.as_secs()).is_ok_and(|now| now > not_after))
}

/// Refuses a certificate of our own that has expired; one that is not valid yet may only mean that the clock
/// is behind, so that is told and no more.
fn check_dates(
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

/// The certificates of a PEM file, at least one, every one of them whole.
fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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
fn read_roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::bad(file, error))?;
    }
    Ok(roots)
}

/// What the operating system trusts; single certificates of its list may be of a kind nobody reads any more.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, "loaded the system's certificate authorities");
    if roots.is_empty() {
        let reason = found
            .errors
            .first()
            .map_or_else(String::new, |error| format!(" ({error})"));
        return Err(TlsError::NoSystemRoots { reason });
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

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
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

/// Takes any certificate for that of the server; for [`ClientSettings::insecure`] only.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    /// What `field` says in a certificate of which `from` is replaced by `to`, of the same length. That
    /// breaks the signature, which was checked long before anybody asks for the name.
    fn name_in_patched(
        field: CertificateField,
        from: &[u8],
        to: &[u8],
    ) -> Result<Utf8String, CertificateError> {
        assert_eq!(from.len(), to.len());
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "marker");
        params.distinguished_name.push(DnType::OrganizationName, "margin");
        params.subject_alt_names = ["first.example", "other.example"]
            .map(|name| SanType::DnsName(Ia5String::try_from(name).unwrap()))
            .into();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut der = certificate.der().to_vec();
        let places: Vec<_> = (0..der.len() - from.len())
            .filter(|&at| der[at..].starts_with(from))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            der[at..at + to.len()].copy_from_slice(to);
        }
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        name_of(&certificate, field)
    }

    #[test]
    fn a_name_that_is_not_utf8_names_nobody() {
        let field = CertificateField::CommonName;
        let expected = Err(CertificateError::BadName(field, StringError::NotUtf8));
        assert_eq!(name_in_patched(field, b"marker", b"mar\xffer"), expected);
        // Not even where a good one stands beside it.
        let field = CertificateField::SanDns;
        let expected = Err(CertificateError::BadName(field, StringError::NotUtf8));
        assert_eq!(
            name_in_patched(field, b"first.example", b"fir\xc3t.example"),
            expected
        );
    }

    #[test]
    fn a_certificate_with_two_common_names_names_nobody() {
        // The object identifier of organizationName, 2.5.4.10, made into that of commonName, 2.5.4.3.
        let named = name_in_patched(CertificateField::CommonName, &[0x55, 4, 10], &[0x55, 4, 3]);
        assert_eq!(named, Err(CertificateError::TwoNames));
    }
}
