//! What the operator's door asks of the gateway: a small trait, which the loop implements over its own state.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::api::Trouble;
use super::statistics::{Reloads, Traffic};
use crate::broker::{BanSubject, Broker, LinkId, Message, Now};
use crate::kick::KickHandle;

/// The gateway as an operator sees it; all of it within one turn of the loop.
pub trait Operator {
    /// The moment of the request.
    fn now(&self) -> Now;

    /// The core, to look at.
    fn broker(&self) -> &Broker;

    /// What passed all links.
    fn traffic(&self) -> &Traffic;

    /// How often the configuration was read again.
    fn reloads(&self) -> Reloads;

    /// How it stands with what outlives the process; nothing of it where nothing does.
    fn journal(&self) -> JournalView;

    /// What runs here.
    fn about(&self) -> AboutView;

    /// What the loop knows of a connection; `None` when it is gone.
    fn link(&self, link: LinkId) -> Option<LinkView>;

    /// The doors of clients.
    fn listeners(&self) -> Vec<ListenerView>;

    /// The serial ports.
    fn serial_ports(&self) -> Vec<SerialPortView>;

    /// Every value that holds, with where it comes from.
    fn configuration(&self) -> Vec<ValueView>;

    /// Publishes in the gateway's own name.
    fn publish(&mut self, message: Message);

    /// Asks for the configuration to be read again.
    fn reload(&mut self) -> Reloading;

    /// Lets somebody in again who is kept out.
    fn unban(&mut self, subject: BanSubject);

    /// Where kicks are asked for.
    fn kicks(&self) -> &KickHandle;
}

/// How it stands with the journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct JournalView {
    /// Whether it takes what comes: 0: it does; 1: it is full, 2: it has failed, and nothing new is promised.
    pub health: u64,
    /// Changes that were given to it and are not stored yet.
    pub waiting_changes: u64,
    /// Packets that wait for that.
    pub parked_packets: u64,
    /// Records written since the start.
    pub records: u64,
    /// Bytes the medium was given since the start.
    pub device_bytes: u64,
    /// The same within the running day; days begin with the process.
    pub device_bytes_today: u64,
    /// How often it waited for the medium since the start.
    pub syncs: u64,
    /// How often the disk failed or was full since the start.
    pub failures: u64,
    /// What all its files take, in bytes.
    pub bytes: u64,
}

/// A reload that is under way.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, Trouble>>>>;

/// What a reload changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Doors that were opened.
    pub listeners_added: usize,
    /// Doors that were closed.
    pub listeners_removed: usize,
    /// Doors that stay where they are and grant other things.
    pub listeners_changed: usize,
    /// Doors whose certificates were read again.
    pub certificates: usize,
    /// Users whose password holds no more.
    pub users_revoked: usize,
    /// Whether rights are others.
    pub rights_changed: bool,
    /// Whether limits, or what MQTT leaves to the server, are others.
    pub limits_changed: bool,
    /// Whether hooks, or the HTTP server that is asked, are others.
    pub hooks_changed: bool,
    /// Serial ports that were opened.
    pub ports_opened: usize,
    /// Serial ports that were closed.
    pub ports_closed: usize,
    /// What is unwise in the configuration, and what needs a restart.
    pub warnings: Vec<String>,
}

/// What runs here.
#[derive(Debug, Clone)]
pub struct AboutView {
    /// The gateway's name, which its own topics begin with.
    pub gateway: String,
    /// The board profile.
    pub board: String,
    /// Since the start.
    pub uptime: Duration,
}

/// A connection as the loop knows it.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// Who is at its other end.
    pub peer: String,
    /// Since it was accepted.
    pub age: Duration,
    /// Bytes received, those of TLS and WebSocket not counted.
    pub received_bytes: u64,
    /// Bytes sent, counted the same way.
    pub sent_bytes: u64,
}

/// A door of clients.
#[derive(Debug, Clone)]
pub struct ListenerView {
    /// Its name in the configuration.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// How MQTT comes through it: `tcp`, `tls`, `websocket`, `websocket-tls` or `unix`.
    pub transport: &'static str,
    /// Whether a client may come without proving who it is.
    pub anonymous: bool,
    /// Connections through it.
    pub connections: usize,
    /// Those on their way in.
    pub pending: usize,
    /// Connections that got a place.
    pub accepted: u64,
    /// Connections that were closed at once, for whatever reason.
    pub refused: u64,
}

/// A serial port.
#[derive(Debug, Clone)]
pub struct SerialPortView {
    /// Its name in the configuration.
    pub name: String,
    /// The device.
    pub path: String,
    /// What it last said of itself, `online` or `offline`; `None` where it has said nothing yet.
    pub status: Option<String>,
    /// What it last told of its health, as JSON.
    pub health: Option<String>,
    /// The sensors on it.
    pub devices: Vec<String>,
}

/// A value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueView {
    /// The key with its tables: `listener.lan.address`.
    pub key: String,
    /// The value as it is written, or where nobody has written it, what holds.
    pub value: String,
    /// Where it comes from: `file`, `board` or `default`.
    pub source: &'static str,
    /// The line of the file.
    pub line: Option<usize>,
}
