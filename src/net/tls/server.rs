//! The side of TLS that is dialled.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ServerSessionMemoryCache};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError as Bad, Error, HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::dates::{Term, TermKind, check_dates, end_of_chain, is_expired};
use super::error::TlsError;
use super::files::{KeyOf, read_certificates, read_key};
use super::handshake_error::HandshakeError;
use super::owner::{CertificateError, CertificateField, name_of};
use super::trust::{ClientTrust, Doubt, Reading};
use super::x509::Certificate;
use crate::mqtt::{ClientId, Utf8String};

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
    /// Where in the client's certificate its client identifier stands; `None` leaves that to CONNECT. Only with
    /// [`ClientCertificates::Required`], for otherwise whoever shows none could take any.
    pub client_id_from: Option<CertificateField>,
}

/// Whether a TLS listener asks clients for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Does not ask.
    #[default]
    Ignored,
    /// Asks; a client may come without, but what it shows must be right.
    Optional(ClientTrust),
    /// Refuses those who show none.
    Required(ClientTrust),
}

impl ServerSettings {
    /// A certificate and its key, and nothing asked of clients.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_certificates: ClientCertificates::Ignored,
            user_name_from: None,
            client_id_from: None,
        }
    }
}

/// What a verified client certificate says of its client, where the listener asks it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::net) struct Names {
    pub(in crate::net) user: Option<Utf8String>,
    pub(in crate::net) client: Option<ClientId>,
}

/// Sessions of TLS 1.2 clients that resume without tickets, each some hundred bytes.
const SESSIONS_MAX: usize = 64;

/// The server's side of TLS, ready to take connections.
///
/// The whole configuration stands behind one handle, sessions to resume and the keys of tickets included: a
/// new certificate or authority means a new `Server`, so that nobody resumes what the old one let in.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    user_name_from: Option<CertificateField>,
    client_id_from: Option<CertificateField>,
    /// `None` where clients are not asked for a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// What has to be replaced in time.
    terms: Vec<Term>,
    /// From here on a revocation list is too old to go by, in seconds of Unix time.
    lists_end_at: Option<i64>,
}

impl Server {
    /// Reads the files `settings` names; `clock` is what certificates are checked against.
    ///
    /// # Errors
    /// [`TlsError`] when any of the files is not wholly what it should be.
    pub fn new(settings: &ServerSettings, clock: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (trust, is_optional) = match &settings.client_certificates {
            ClientCertificates::Ignored => (None, false),
            ClientCertificates::Optional(trust) => (Some(trust), true),
            ClientCertificates::Required(trust) => (Some(trust), false),
        };
        let client_id_needs_more = settings.client_id_from.is_some() && (trust.is_none() || is_optional);
        if trust.is_none() && settings.user_name_from.is_some() || client_id_needs_more {
            return Err(TlsError::NameWithoutCertificate);
        }
        let reading = trust
            .map(|trust| trust.read(&provider, is_optional))
            .transpose()?;
        let chain = read_certificates(&settings.certificate)?;
        check_dates(&settings.certificate, &chain, clock.as_ref())?;
        let key = read_key(&settings.key, KeyOf::Server)?;
        let mut terms: Vec<Term> = end_of_chain(&settings.certificate, &chain)?.into_iter().collect();
        let mut lists_end_at = None;
        let mut verifier = None;
        if let Some(Reading { verifier: read, due }) = reading {
            if trust.is_some_and(|trust| trust.crl_expired == Doubt::Refuse) {
                lists_end_at = due.iter().map(|(_, due_at)| *due_at).min();
            }
            terms.extend(due.into_iter().map(|(file, ends_at_unix_secs)| Term {
                file,
                ends_at_unix_secs,
                kind: TermKind::RevocationList,
            }));
            verifier = Some(read);
        }
        let asked: Arc<dyn ClientCertVerifier> = match &verifier {
            None => Arc::new(NoClientAuth),
            Some(verifier) => Arc::clone(verifier),
        };
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for both versions")
            .with_client_cert_verifier(asked)
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::unusable(&settings.certificate, &settings.key, error))?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
        config.send_tls13_tickets = 1; // A client that resumes gets its next ticket by doing so.
        Ok(Self {
            config: Arc::new(config),
            user_name_from: settings.user_name_from,
            client_id_from: settings.client_id_from,
            verifier,
            terms,
            lists_end_at,
        })
    }

    /// What ends soon or has ended, a sentence for each; by the clock it was made with.
    pub fn warnings(&self) -> Vec<String> {
        let now = self.now().map_or(0, unix_secs);
        self.terms.iter().filter_map(|term| term.warning(now)).collect()
    }

    /// Does the handshake on an accepted connection and finds the name its client certificate gives.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed.
    pub(in crate::net) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<(Box<TlsStream<TcpStream>>, Names), HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let stream = Box::pin(acceptor.accept(tcp))
            .await
            .map_err(HandshakeError::from_io)?;
        let names = self.names(stream.get_ref().1)?;
        Ok((Box::new(TlsStream::Server(stream)), names))
    }

    /// What the client's verified certificate says; nothing where there is no certificate, or nobody asked.
    fn names(&self, connection: &ServerConnection) -> Result<Names, HandshakeError> {
        let Some(chain @ [leaf, ..]) = connection.peer_certificates() else {
            return Ok(Names::default());
        };
        let bad = HandshakeError::Certificate;
        let certificate = Certificate::from_der(leaf).map_err(|_| bad(CertificateError::Unreadable))?;
        // Whoever resumes a session shows the certificate of that time, and nothing has looked at any dates since.
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            if is_expired(&certificate, self.config.time_provider.as_ref()) {
                return Err(bad(CertificateError::Expired));
            }
            let lists_ended = |end: i64| self.now().is_none_or(|now| unix_secs(now) > end);
            if self.lists_end_at.is_some_and(lists_ended) {
                self.verify(chain, self.now()).map_err(HandshakeError::Refused)?;
            }
        }
        let name = |field: Option<CertificateField>| {
            let name = field.map(|field| name_of(&certificate, field));
            name.transpose().map_err(bad)
        };
        Ok(Names {
            user: name(self.user_name_from)?,
            client: name(self.client_id_from)?.and_then(ClientId::new),
        })
    }

    /// Why a client that came in with these certificates, by what was in force then, is not to stay; `None` where
    /// it may.
    ///
    /// It is held to what a new client is, with one exception: that a revocation list is missing or too old says
    /// nothing against somebody who is in already.
    pub(in crate::net) fn refusal_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Error> {
        let chain = chain.unwrap_or_default();
        let refusal = self.verify(chain, self.now()).err()?;
        match refusal {
            Error::InvalidCertificate(Bad::UnknownRevocationStatus) => None,
            Error::InvalidCertificate(
                Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. },
            ) => {
                // An old list is no proof of innocence, but what it says against somebody still holds.
                let then = u64::try_from(self.lists_end_at?).ok()?;
                let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(then.saturating_sub(1)));
                let refusal = self.verify(chain, Some(then)).err();
                refusal.filter(|error| matches!(error, Error::InvalidCertificate(Bad::Revoked)))
            }
            refusal => Some(refusal),
        }
    }

    /// Checks a chain as that of a client that comes at `now`.
    fn verify(&self, chain: &[CertificateDer<'_>], now: Option<UnixTime>) -> Result<(), Error> {
        let Some(verifier) = &self.verifier else {
            return Ok(());
        };
        let [leaf, intermediates @ ..] = chain else {
            return match verifier.client_auth_mandatory() {
                true => Err(Error::NoCertificatesPresented),
                false => Ok(()),
            };
        };
        let now = now.ok_or(Error::FailedToGetCurrentTime)?;
        verifier.verify_client_cert(leaf, intermediates, now).map(drop)
    }

    fn now(&self) -> Option<UnixTime> {
        self.config.time_provider.current_time()
    }
}

fn unix_secs(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
