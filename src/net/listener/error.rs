//! Why a door stays shut.

use std::fmt;
use std::io;

use crate::net::endpoint::Endpoint;
use crate::net::tls::TlsError;

/// Why a door cannot be opened.
#[derive(Debug)]
pub enum NetError {
    /// The address cannot be had.
    Listen {
        /// The listener's name.
        name: String,
        /// Where it should be.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    Tls {
        /// The listener's name.
        name: String,
        /// Why.
        source: TlsError,
    },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen {
                name,
                endpoint,
                source,
            } => {
                write!(f, "listener {name:?} cannot listen on {endpoint}: ")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse if endpoint.ip().is_none() => {
                        f.write_str("a process that is alive listens there; stop it, or choose another path")
                    }
                    io::ErrorKind::PermissionDenied if endpoint.ip().is_none() => write!(
                        f,
                        "{source}; its folder must belong to the gateway's user, as RuntimeDirectory= of systemd \
                         sees to"
                    ),
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "the port is in use by another program; \
                         stop it (ss -ltnp shows which) or take another port"
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        f.write_str("this machine has no such address (ip address shows which it has)")
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(
                            f,
                            "{source}; ports below 1024 need a privilege, MQTT's are 1883 and 8883"
                        )
                    }
                    _ => write!(f, "{source}"),
                }
            }
            Self::Tls { name, source } => write!(f, "listener {name:?} cannot use TLS: {source}"),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
        }
    }
}
