//! The side of TLS that is dialled.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::dates::{check_dates, is_expired};
use super::error::TlsError;
use super::files::{read_certificates, read_key, read_roots};
use super::handshake_error::HandshakeError;
use super::owner::{CertificateError, CertificateField, name_of};
use crate::mqtt::Utf8String;

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
    pub(in crate::net) async fn accept(
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
