//! The side of TLS that dials.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tracing::debug;

use super::dates::check_dates;
use super::error::TlsError;
use super::files::{KeyOf, read_certificates, read_key, read_roots};
use super::handshake_error::HandshakeError;
use crate::net::link::Stream;

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

/// Servers a client remembers, to shorten the next handshake.
const CLIENT_SESSIONS_MAX: usize = 8;

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
                    .with_client_auth_cert(chain, read_key(key, KeyOf::Client)?)
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
