//! MQTT over byte streams: TCP, TLS and WebSocket, IPv4, IPv6 and Unix sockets, as server
//! [MQTT-7.1.1-1 of 3.1.1] and as client [MQTT-7.1.2-1 of 3.1.1] [MQTT-4.2-1].
//!
//! - [`link`]: one connection: bytes in, packets out, and back.
//! - [`listener`]: accepts connections, within bounds and time limits; `places`: who gives way when there is no room;
//!   `episode`: what is told once however often it happens.
//! - [`endpoint`]: where a listener is, and who came.
//! - [`tcp`], [`tls`], [`websocket`], [`unix`]: the streams. [`proxy`]: what a balancer says before them.
//! - [`accounts`]: users and groups of the operating system, to whom a Unix socket may belong.
//! - [`clock`]: the wall clock certificates are checked against, on boards that may have none.
//!
//! Everything here lives on the loop's thread; nothing is shared between threads but certificates.

pub mod accounts;
pub mod clock;
pub mod endpoint;
mod episode;
pub mod link;
pub mod listener;
mod places;
pub mod proxy;
pub mod tcp;
pub mod tls;
pub mod unix;
pub mod websocket;
