//! MQTT over byte streams: TCP, TLS and WebSocket, IPv4 and IPv6, as server and as client [MQTT-4.2-1].
//!
//! - [`link`]: one connection: bytes in, packets out, and back.
//! - [`listener`]: accepts connections, within bounds and time limits.
//! - [`tcp`], [`tls`], [`websocket`]: the streams.
//! - [`clock`]: the wall clock certificates are checked against, on boards that may have none.
//!
//! Everything here lives on the loop's thread; nothing is shared between threads but certificates.

pub mod clock;
pub mod link;
pub mod listener;
pub mod tcp;
pub mod tls;
pub mod websocket;
