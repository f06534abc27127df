//! From an address to a byte stream that speaks MQTT.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::Address;
use super::options::Options;
use crate::net::clock::FlooredClock;
use crate::net::link::{Link, Stream};
use crate::net::tcp::{self, ConnectError};
use crate::net::tls::{ClientSettings, Connector, HandshakeError, TlsError};

/// A server and all it takes to reach it, as often as need be.
#[derive(Debug)]
pub struct Target {
    address: Address,
    connector: Option<Connector>,
    timeout: Duration,
}

/// Why a server could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// No TCP connection.
    Connect(ConnectError),
    /// No TLS on it.
    Handshake {
        /// Where.
        address: Address,
        /// Why.
        source: HandshakeError,
    },
}

impl Target {
    /// A target at `address`; `tls` is read where the address asks for TLS, and left alone otherwise.
    ///
    /// `timeout` is for name, TCP and TLS together.
    ///
    /// # Errors
    /// [`TlsError`] when a certificate or key is not what it should be.
    pub fn new(address: Address, tls: &ClientSettings, timeout: Duration) -> Result<Self, TlsError> {
        let connector = match address.tls {
            true => Some(Connector::new(tls, Arc::new(FlooredClock::default()))?),
            false => None,
        };
        Ok(Self {
            address,
            connector,
            timeout,
        })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects, trying every address of the host, and does the TLS handshake.
    ///
    /// # Errors
    /// [`DialError`] when no address answers in time, or the one that does is not trusted.
    pub async fn dial(&self, options: &Options) -> Result<Link, DialError> {
        let begin = Instant::now();
        let Address { host, port, .. } = &self.address;
        let tcp = tcp::connect(host, *port, self.timeout)
            .await
            .map_err(DialError::Connect)?;
        let stream = match &self.connector {
            None => Stream::Tcp(tcp),
            Some(connector) => {
                let left = self.timeout.saturating_sub(begin.elapsed());
                let fails = |source| DialError::Handshake {
                    address: self.address.clone(),
                    source,
                };
                connector.connect(tcp, host, left).await.map_err(fails)?
            }
        };
        Ok(Link::client(stream, options.version, options.packet_bytes_max))
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Handshake { address, source } => write!(f, "no TLS with {address}: {source}"),
        }
    }
}

impl std::error::Error for DialError {}
