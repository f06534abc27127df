//! From an address to a byte stream that speaks MQTT.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::Address;
use super::options::Options;
use crate::net::clock::FlooredClock;
use crate::net::link::{Link, Stream};
use crate::net::tcp::{self, ConnectError};
use crate::net::tls::{ClientSettings, Connector, HandshakeError, TlsError};
use crate::net::unix;
use crate::net::websocket::upgrade::{self, UpgradeError};

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
    /// No connection to a Unix socket.
    Unix {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// No TLS on it.
    Handshake {
        /// Where.
        address: Address,
        /// Why.
        source: HandshakeError,
    },
    /// No WebSocket on that.
    Upgrade {
        /// Where.
        address: Address,
        /// Why.
        source: UpgradeError,
    },
}

impl Target {
    /// A target at `address`; `tls` is read where the address asks for TLS, and left alone otherwise.
    ///
    /// `timeout` is for name, TCP, TLS and WebSocket together.
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

    /// Connects, trying every address of the host, and does the handshakes of TLS and WebSocket.
    ///
    /// # Errors
    /// [`DialError`] when no address answers in time, or the one that does is not trusted or takes no MQTT.
    pub async fn dial(&self, options: &Options) -> Result<Link, DialError> {
        let begin = Instant::now();
        let stream = self.connect(begin).await?;
        let stream = match &self.address.websocket {
            None => stream,
            Some(path) => self.upgrade(stream, path, begin).await?,
        };
        Ok(Link::client(stream, options.version, options.packet_bytes_max))
    }

    async fn connect(&self, begin: Instant) -> Result<Stream, DialError> {
        let address = || self.address.clone();
        if let Some(path) = &self.address.unix {
            let connected = unix::connect(path, self.timeout).await.map(Stream::Unix);
            return connected.map_err(|source| DialError::Unix {
                address: address(),
                source,
            });
        }
        let Address { host, port, .. } = &self.address;
        let tcp = tcp::connect(host, *port, self.timeout)
            .await
            .map_err(DialError::Connect)?;
        let Some(connector) = &self.connector else {
            return Ok(Stream::Tcp(tcp));
        };
        let left = self.timeout.saturating_sub(begin.elapsed());
        let secured = connector.connect(tcp, host, left).await;
        secured.map_err(|source| DialError::Handshake {
            address: address(),
            source,
        })
    }

    async fn upgrade(&self, stream: Stream, path: &str, begin: Instant) -> Result<Stream, DialError> {
        let Address { host, port, tls, .. } = &self.address;
        let place = upgrade::Place {
            host,
            port: *port,
            tls: *tls,
            path,
        };
        let left = self.timeout.saturating_sub(begin.elapsed());
        match upgrade::connect(stream, place, left).await {
            Ok(websocket) => Ok(Stream::WebSocket(Box::new(websocket))),
            Err(source) => Err(DialError::Upgrade {
                address: self.address.clone(),
                source,
            }),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Unix { address, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => " (is the server running?)",
                    io::ErrorKind::PermissionDenied => {
                        " (its owner, group and mode say who may connect: ls -l shows them)"
                    }
                    _ => "",
                };
                write!(f, "cannot connect to {address}: {source}{hint}")
            }
            Self::Handshake { address, source } => write!(f, "no TLS with {address}: {source}"),
            Self::Upgrade { address, source } => write!(f, "no WebSocket at {address}: {source}"),
        }
    }
}

impl std::error::Error for DialError {}
