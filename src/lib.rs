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
//! - [`serial`]: field sensors on serial lines.
//! - [`document`]: a TOML file read with every mistake told; [`board`] and [`config`] are read with it.
//! - [`board`]: which board this is, what it has, what it allows.
//! - [`config`]: what a person may write, and what the program runs on.
//! - [`cli`]: one command a file.

pub mod mqtt;

pub mod auth;

pub mod broker;

pub mod net;

pub mod client;

pub mod storage;

pub mod serial;

pub mod document;

pub mod board;

pub mod config;

pub mod cli;
