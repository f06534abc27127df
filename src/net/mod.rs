//! MQTT over byte streams: TCP, TLS and WebSocket, IPv4 and IPv6, as server [MQTT-7.1.1-1 of 3.1.1] and as
//! client [MQTT-7.1.2-1 of 3.1.1].
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
