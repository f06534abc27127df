//! MQTT over byte streams: TCP and TLS, IPv4 and IPv6, as server and as client.
//!
//! - [`link`]: one connection: bytes in, packets out, and back.
//! - [`listener`]: accepts connections, within bounds and time limits.
//! - [`tcp`], [`tls`]: the streams.
