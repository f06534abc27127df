//! Why one connection comes to nothing before it speaks MQTT.

use std::fmt;
use std::io;
use std::time::Duration;

use super::error::write_server_name;
use super::owner::CertificateError;
use crate::net::listener::Bound;
use crate::net::proxy::HeaderError;
use crate::net::websocket::upgrade::UpgradeError;

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

impl HandshakeError {
    /// Finds what TLS said inside the I/O error that brought it.
    pub(super) fn from_io(error: io::Error) -> Self {
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
            Self::Refused(Error::InvalidCertificate(Bad::Revoked)) => {
                f.write_str("the peer's certificate is revoked")
            }
            Self::Refused(Error::InvalidCertificate(Bad::UnknownRevocationStatus)) => f.write_str(
                "whether the peer's certificate is revoked is not known: none of the lists in crl is of its issuer \
                 (add it, or set crl_missing = \"accept\")",
            ),
            Self::Refused(Error::InvalidCertificate(
                Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. },
            )) => f.write_str(
                "whether the peer's certificate is revoked is not known: the list of its issuer was to be replaced \
                 (put the next one in its place, or set crl_expired = \"accept\")",
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
