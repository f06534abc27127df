//! Tidegate: an MQTT broker for small ARM Linux gateways, with the serial field sensors built in.
//!
//! # Layout, bottom up
//! Below this line nothing knows tokio, a file, a socket or a clock:
//! - [`mqtt`]: bytes to packets and back; topics, properties, reason codes.
//! - [`auth`]: who may come in, who may do what.
//! - [`broker`]: every MQTT rule; one owner, no I/O.
//!
//! Above it, everything may:
//! - [`net`]: MQTT over byte streams: TCP and TLS, as server and as client.
//! - [`storage`]: what outlives the process.
//! - [`document`]: a TOML file read with every mistake told; [`board`] and configuration are read with it.
//! - [`board`]: which board this is, what it has, what it allows.

pub mod mqtt;

pub mod auth;

pub mod broker;

pub mod net;

pub mod storage;

pub mod document;

pub mod board;
