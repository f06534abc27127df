//! One port's life: opened, read, lost, opened again, and what the world is told of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tracing::{debug, info, warn};

use crate::broker::{Message, Now};

use super::Driver;
use super::device::Device;
use super::points::Quality;
use super::reopen::Reopen;
use super::settings::PortSettings;
use super::status::{Health, status_message};
use super::tty::{Fault, Opened, Tty};

/// Lives the port's life and hands every message to `publish`; never returns, and ends by being dropped.
///
/// Whoever drops it publishes [`offline_messages`], for it can say nothing any more. Needs a tokio runtime with I/O and
/// time.
pub async fn run(settings: PortSettings, mut publish: impl FnMut(Message)) -> Infallible {
    let mut port = Port::new(&settings, now());
    let mut tty: Option<Tty> = None;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        while let Some(message) = port.poll_message() {
            publish(message);
        }
        if port.poll_open(now()) {
            match open(&settings).await {
                Ok(opened) => {
                    tty = Some(opened);
                    port.handle_opened(now());
                }
                Err(fault) => port.handle_lost(now(), &fault),
            }
            continue;
        }
        let timeout = port.poll_timeout();
        tokio::select! {
            // Priority 1: what the line says. At most one buffer of it a turn, so that no port starves the others.
            read = read(tty.as_ref(), &mut buffer) => match read {
                Ok(bytes) => {
                    port.handle_bytes(now(), bytes);
                    tokio::task::yield_now().await;
                }
                // Closed at once: an adapter that comes back while its old descriptor is open gets another name.
                Err(fault) => {
                    tty = None;
                    port.handle_lost(now(), &fault);
                }
            },
            // Priority 2: what is due.
            () = sleep_until(timeout) => port.handle_timeout(now()),
        }
    }
}

/// What is true once nobody reads the port any more: it and its devices are offline, their points stale.
///
/// Also what is published before a port is opened for the first time, since what was retained earlier may be a lie.
pub fn offline_messages(settings: &PortSettings) -> Vec<Message> {
    let mut messages = vec![status_message(settings.status_topics(), false)];
    for (device, topics) in settings.devices() {
        messages.push(status_message(topics, false));
        messages.extend(
            device
                .points()
                .iter()
                .filter_map(|point| point.without_value(Quality::Stale, None)),
        );
    }
    messages
}

/// The bytes taken in one turn: four hundred milliseconds of a line at 115,200 baud.
const READ_BYTES: usize = 4096;

fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: SystemTime::now(),
    }
}

/// Opens the port on a thread that may be kept waiting.
async fn open(settings: &PortSettings) -> Result<Tty, Fault> {
    let (path, line) = (settings.path().to_owned(), settings.line());
    let opening = tokio::task::spawn_blocking(move || Opened::open(&path, line));
    let opened = opening.await.map_err(|error| Fault::Other(error.to_string()))??;
    opened.register().map_err(|error| Fault::of_io(&error))
}

/// What arrived; never, while the port is closed.
async fn read<'a>(tty: Option<&Tty>, buffer: &'a mut [u8]) -> Result<&'a [u8], Fault> {
    let Some(tty) = tty else {
        return std::future::pending().await;
    };
    let count = tty.read(buffer).await?;
    Ok(buffer.get(..count).unwrap_or_default())
}

async fn sleep_until(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}

/// A port without its I/O: which messages follow from what happened to the line.
///
/// **One call, then drain:** any `handle_*`, then [`Port::poll_message`] until `None`.
struct Port {
    settings: PortSettings,
    driver: Box<dyn Driver>,
    devices: Vec<Device>,
    reopen: Reopen,
    line: Line,
    bytes: u64,
    opened: u64,
    health: Health,
    messages: VecDeque<Message>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// Nobody tried yet.
    Untried,
    Open,
    Closed(Fault),
}

impl Port {
    /// A port to be opened at once.
    fn new(settings: &PortSettings, now: Now) -> Self {
        let mut port = Self {
            settings: settings.clone(),
            driver: settings.decoder().driver(settings.line()),
            devices: settings
                .devices()
                .map(|(device, topics)| Device::new(device, topics))
                .collect(),
            reopen: Reopen::new(settings.reopen(), now.mono),
            line: Line::Untried,
            bytes: 0,
            opened: 0,
            health: Health::new(settings.status_topics().health.clone()),
            messages: offline_messages(settings).into(),
        };
        port.publish_health(now);
        port
    }

    /// Whether the port is to be opened now; the outcome is told by `handle_opened` or `handle_lost`.
    fn poll_open(&mut self, now: Now) -> bool {
        self.reopen.poll_attempt(now.mono)
    }

    fn handle_opened(&mut self, now: Now) {
        info!(port = %self.settings.name(), path = %self.settings.path().display(), "serial port opened");
        self.line = Line::Open;
        self.opened += 1;
        self.reopen.handle_opened(now.mono);
        self.driver.handle_opened(now.mono);
        self.messages
            .push_back(status_message(self.settings.status_topics(), true));
        self.health.hurry();
        self.finish(now);
    }

    fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.reopen.handle_carried();
        self.driver.feed(now.mono, bytes);
        self.finish(now);
    }

    /// The line is gone, or could not be opened.
    fn handle_lost(&mut self, now: Now, fault: &Fault) {
        let (name, path) = (self.settings.name(), self.settings.path().display());
        self.reopen.handle_lost(now.mono);
        let closed = Line::Closed(fault.clone());
        if self.line == closed {
            debug!(port = %name, %path, %fault, "serial port still closed");
        } else {
            warn!(port = %name, %path, %fault, "serial port closed, trying again until it opens");
            if self.line == Line::Open {
                self.driver.handle_lost();
                self.messages
                    .push_back(status_message(self.settings.status_topics(), false));
            }
            self.line = closed;
            self.health.hurry();
        }
        self.drain_readings(now);
        for device in &mut self.devices {
            device.handle_lost(now, &mut self.messages);
        }
        self.publish_health(now);
    }

    fn handle_timeout(&mut self, now: Now) {
        self.driver.handle_timeout(now.mono);
        self.finish(now);
    }

    /// What follows from every input: readings, then the deadlines that are due.
    fn finish(&mut self, now: Now) {
        self.drain_readings(now);
        for device in &mut self.devices {
            device.handle_timeout(now, &mut self.messages);
        }
        self.publish_health(now);
    }

    fn drain_readings(&mut self, now: Now) {
        while let Some(reading) = self.driver.poll_reading() {
            if let Some(device) = self.devices.get_mut(reading.device) {
                device.handle_content(now, &reading.content, &mut self.messages);
            }
        }
    }

    fn publish_health(&mut self, now: Now) {
        let (status, reason) = match &self.line {
            Line::Open => ("online", None),
            Line::Untried => ("offline", Some("not opened yet".to_owned())),
            Line::Closed(fault) => ("offline", Some(fault.to_string())),
        };
        let text = json!({
            "status": status,
            "reason": reason,
            "bytes": self.bytes,
            "reopens": self.opened.saturating_sub(1),
        });
        self.messages
            .extend(self.health.handle_text(now.mono, text.to_string()));
    }

    /// The next message to publish, `None` when that was all.
    fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// When `poll_open` or `handle_timeout` is due.
    fn poll_timeout(&self) -> Option<Instant> {
        let devices = self.devices.iter().filter_map(Device::poll_timeout);
        let port = [
            self.reopen.poll_timeout(),
            self.driver.poll_timeout(),
            self.health.poll_timeout(),
        ];
        devices.chain(port.into_iter().flatten()).min()
    }
}
