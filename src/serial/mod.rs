//! Field sensors on serial lines: bytes become readings, readings become messages for the broker.
//!
//! A [`Driver`] speaks one protocol and does no I/O: `port` opens the line, feeds the driver, and hands what it reads
//! to `device`, which knows what a value is worth. So every rule about lines, points and qualities is tested without
//! a port, and a further protocol is one further file.
//!
//! # Layout
//! - `settings`: everything about one port; `line`: `9600 8N1`; `template`: names and topics.
//! - `port`: one port's life, and the loop that lives it; `tty`: opening and reading; `reopen`, `arrivals`: when to
//!   try again.
//! - `lines`: sensors that send lines of text; `format`: how a line tells its values.
//! - `device`, `points`: who speaks, and what a value is worth; `timestamp`: when it was read.
//! - `status`: online, offline, and the counters.

mod arrivals;
mod device;
mod format;
mod line;
mod lines;
mod points;
mod port;
mod reopen;
mod settings;
mod status;
mod template;
mod timestamp;
mod tty;

use std::time::Instant;

pub use device::DeviceSettings;
pub use format::{Delimiter, Format, FormatError, JsonPath, LinePoint, Pattern, Place, Separators};
pub use line::{LineError, LineSettings};
pub use lines::{Framing, FramingError, Lines, LinesSettings};
pub use points::{PayloadForm, PointKind, PointSettings, Scaling, ScalingError};
pub use port::{offline_messages, run};
pub use settings::{DecoderSettings, PortSettings, ReopenSettings, SettingsError};
pub use status::StatusTopics;
pub use template::{Name, NameError, Names, TemplateError, TopicTemplate};

/// A protocol on a serial line: no I/O, no clock, one owner.
///
/// **After every call that takes `&mut self` and a moment, [`Driver::poll_reading`] until `None`, then wait until
/// [`Driver::poll_timeout`] or the next bytes.** What it makes of the same calls is always the same.
pub trait Driver {
    /// Learns that the line is open; what comes first may be the rest of something that began earlier.
    fn handle_opened(&mut self, now: Instant);

    /// Takes bytes that arrived; any split of them gives the same readings.
    fn feed(&mut self, now: Instant, bytes: &[u8]);

    /// Learns that the line is gone; what was half said is never finished.
    fn handle_lost(&mut self);

    /// Acts on the deadlines that are due.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing a device said, `None` when that was all.
    fn poll_reading(&mut self) -> Option<Reading>;

    /// When [`Driver::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// What a device said at one time: a line, a telegram, a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Which device of the port, in the order of the settings.
    pub device: usize,
    /// What it said.
    pub content: Content,
}

/// What one [`Reading`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Values as they were sent.
    Values(Vec<Sample>),
    /// Something that nobody can read.
    Garbled(Garble),
    /// The end or the beginning of something, cut off because the line opened or went away; nobody's fault.
    Fragment,
}

/// The raw value of one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which point of the device, in the order of the settings.
    pub point: usize,
    /// What was sent for it.
    pub raw: Raw,
}

/// A value as a device sent it.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// A number.
    Number(f64),
    /// Text, which may spell a number.
    Text(String),
    /// The place was there, and nothing useful in it.
    Nothing,
}

/// Why nobody can read what a device said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garble {
    /// Longer than anything it should say.
    Overlong,
    /// Not in the format.
    Malformed,
    /// In the format, and without any of the points.
    NothingKnown,
}
