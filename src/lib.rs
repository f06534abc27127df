//! Tidegate: an MQTT broker for small ARM Linux gateways, with the serial field sensors built in.
//!
//! Bytes become packets in [`net`], packets and readings become inputs, the [`broker`] turns inputs into outputs, and
//! the [`gateway`] carries each output to a link or to whoever asked.
//!
//! # Layout, bottom up
//! Below this line nothing knows tokio, a file, a socket or a clock:
//! - [`mqtt`]: bytes to packets and back; topics, properties, reason codes.
//! - [`auth`]: who may come in, who may do what.
//! - [`broker`]: every MQTT rule; one owner, no I/O.
//!
//! Above it, for any thread:
//! - [`kick`]: the way to a kick from anywhere. [`watch`]: who has published how much.
//!
//! And the adapters:
//! - [`net`]: MQTT over byte streams: TCP and TLS, as server and as client.
//! - [`client`]: the client side of MQTT: a session without I/O, and dialling.
//! - [`serial`]: field sensors on serial lines.
//! - [`storage`]: what outlives the process.
//! - [`admin`]: what people and their tools see of it while it runs.
//!
//! And what joins them:
//! - [`document`]: TOML that tells every mistake with its place.
//! - [`board`]: which board this is, what it has, what it allows.
//! - [`config`]: what a person may write, made into what the program runs on.
//! - [`gateway`]: the loop; read this first.
//! - [`cli`]: the commands.

pub mod mqtt;

pub mod auth;

pub mod broker;

pub mod kick;
pub mod watch;

pub mod net;

pub mod client;

pub mod admin;
pub mod serial;
pub mod storage;

pub mod document;

pub mod board;
pub mod config;

pub mod gateway;

pub mod cli;
