//! What a door is told to be.

use std::time::Duration;

use crate::auth::network::Network;
use crate::net::endpoint::{Endpoint, Peer};
use crate::net::tls;
use crate::net::websocket::upgrade;

/// What one door is and whom it lets wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// `None` is plain TCP, and the only choice on a Unix socket.
    pub tls: Option<tls::ServerSettings>,
    /// `None` is MQTT without frames around it.
    pub websocket: Option<upgrade::ServerSettings>,
    /// `None` where clients come by themselves.
    pub proxy: Option<ProxySettings>,
    /// Whether a client on a Unix socket is, without a password, the user its program runs as.
    pub peer_user_name: bool,
    /// Connections through this door at one time, those on their way in included.
    pub connections_max: usize,
    /// The same, from one address, or on a Unix socket of one user of this machine; `None` leaves it to
    /// `connections_max`.
    pub connections_per_address_max: Option<usize>,
    /// Connections accepted in one second, in the long run; what comes faster waits its turn in the kernel's queue.
    /// `None` is as fast as they come.
    pub connect_rate_max: Option<u32>,
    /// Connections that were accepted and have not sent a CONNECT yet.
    pub pending_max: usize,
    /// The same, from one address, or on a Unix socket of one user of this machine; addresses of this very machine are
    /// exempt, its programs share one.
    pub pending_per_address_max: usize,
    /// From accept to the end of the handshakes: the header of a balancer, TLS and WebSocket together.
    pub handshake_timeout: Duration,
}

/// How a listener behind a balancer learns who comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    /// The balancers: nobody else gets in, and nobody else is believed.
    pub from: Vec<Network>,
    /// Whether the common name of a certificate that the balancer has verified is the user name.
    pub common_name_is_user: bool,
}

impl ListenerSettings {
    /// A door at `endpoint` for `connections_max` connections, in the clear, with the usual bounds.
    pub fn new(name: impl Into<String>, endpoint: impl Into<Endpoint>, connections_max: usize) -> Self {
        let endpoint = endpoint.into();
        Self {
            name: name.into(),
            pending_per_address_max: Self::pending_per_address_max(&endpoint),
            endpoint,
            tls: None,
            websocket: None,
            proxy: None,
            peer_user_name: false,
            connections_max,
            connections_per_address_max: None,
            connect_rate_max: None,
            pending_max: Self::PENDING_MAX,
            handshake_timeout: Self::HANDSHAKE_TIMEOUT,
        }
    }

    /// Connections that have not sent a CONNECT yet, where nothing else is said.
    pub const PENDING_MAX: usize = 64;

    /// The same, from one address.
    pub const PENDING_PER_ADDRESS_MAX: usize = 8;

    /// The same, of one user by a Unix socket: many a machine runs all its programs under one, and starts them at once.
    pub const PENDING_PER_USER_MAX: usize = 32;

    /// The bound on those that come from one place to `endpoint`, where nothing else is said.
    pub fn pending_per_address_max(endpoint: &Endpoint) -> usize {
        match endpoint {
            Endpoint::Tcp(_) => Self::PENDING_PER_ADDRESS_MAX,
            Endpoint::Unix(_) => Self::PENDING_PER_USER_MAX,
        }
    }

    /// From accept to the end of the handshakes, where nothing else is said.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
}

impl ProxySettings {
    /// Whether `peer` is one of the balancers.
    pub(super) fn believes(&self, peer: Peer) -> bool {
        peer.ip()
            .is_some_and(|address| self.from.iter().any(|network| network.contains(address)))
    }
}
