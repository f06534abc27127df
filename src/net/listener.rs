//! A door: accepts connections, within bounds and time limits, and never stops doing so.

use std::net::SocketAddr;
use std::time::Duration;

use super::tls;

/// What one door is and whom it lets wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// `None` is plain TCP.
    pub tls: Option<tls::ServerSettings>,
    /// Connections through this door at one time, those on their way in included.
    pub connections_max: usize,
    /// Connections that were accepted and have not sent a CONNECT yet.
    pub pending_max: usize,
    /// The same, from one address; addresses of this very machine are exempt, its programs share one.
    pub pending_per_address_max: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
}
