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
//! - [`client`]: the client side of MQTT: its session without I/O, and dialling.
//! - [`storage`]: what outlives the process.
//! - [`cli`]: the command line.

pub mod mqtt;

pub mod auth;

pub mod broker;

pub mod net;

pub mod client;

pub mod storage;

pub mod cli;
