//! What keeps a connection out.

use std::fmt;

/// The bound that kept a connection out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `connections_max` of the listener.
    Connections,
    /// `connections_per_address_max` of the listener.
    ConnectionsOfAddress,
    /// `pending_max` of the listener.
    Pending,
    /// `pending_per_address_max` of the listener.
    PendingOfAddress,
    /// `connections_max` of the whole gateway.
    AllConnections,
    /// What the process has descriptors for.
    Descriptors,
}

impl Bound {
    pub(super) fn is_of_origin(self) -> bool {
        matches!(self, Self::ConnectionsOfAddress | Self::PendingOfAddress)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections_max",
            Self::ConnectionsOfAddress => "connections_per_address_max",
            Self::Pending => "pending_max",
            Self::PendingOfAddress => "pending_per_address_max",
            Self::AllConnections => "connections_max of [limits]",
            Self::Descriptors => "open files",
        })
    }
}
