//! One port's life: opened, read, lost, opened again, and what the world is told of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tracing::{debug, info, warn};

use crate::broker::{Message, Now};

use super::arrivals::Arrivals;
use super::device::Device;
use super::points::Quality;
use super::reopen::Reopen;
use super::settings::PortSettings;
use super::status::{Health, status_message};
use super::tty::{Fault, Opened, Tty};
use super::{Content, Driver};

/// Lives the port's life and hands every message to `publish`; never returns, and ends by being dropped.
///
/// Whoever drops it publishes [`offline_messages`], for it can say nothing any more. Needs a tokio runtime with I/O and
/// time.
pub async fn run(settings: PortSettings, mut publish: impl FnMut(Message)) -> Infallible {
    let mut port = Port::new(&settings, now());
    let mut tty: Option<Tty> = None;
    let mut arrivals: Option<Arrivals> = None;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        while let Some(message) = port.poll_message() {
            publish(message);
        }
        if port.poll_open(now()) {
            // Before the try, so that what is plugged in between the try and the wait is noticed.
            arrivals = Arrivals::near(settings.path());
            match open(&settings).await {
                Ok(opened) => {
                    tty = Some(opened);
                    arrivals = None;
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
            // Priority 2: something was plugged in, maybe what is waited for.
            () = arrival(arrivals.as_ref()) => port.handle_arrival(now()),
            // Priority 3: what is due.
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

/// Something new beside the path; never, while the port is open.
async fn arrival(arrivals: Option<&Arrivals>) {
    match arrivals {
        Some(arrivals) => arrivals.next().await,
        None => std::future::pending().await,
    }
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
    health: Health<(Line, u64, u64)>,
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
        port.finish(now);
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

    /// Something was plugged in, and it may be this port.
    fn handle_arrival(&mut self, now: Now) {
        self.reopen.handle_arrival(now.mono);
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
            if let Content::Garbled(garble) = reading.content {
                debug!(port = %self.settings.name(), device = reading.device, ?garble, "reading not understood");
            }
            if let Some(device) = self.devices.get_mut(reading.device) {
                device.handle_content(now, &reading.content, &mut self.messages);
            }
        }
    }

    fn publish_health(&mut self, now: Now) {
        let state = (self.line.clone(), self.bytes, self.opened.saturating_sub(1));
        self.messages.extend(
            self.health
                .handle_state(now.mono, &state, |(line, bytes, reopens)| {
                    let reason = match line {
                        Line::Open => None,
                        Line::Untried => Some("not opened yet".to_owned()),
                        Line::Closed(fault) => Some(fault.to_string()),
                    };
                    json!({ "reason": reason, "bytes": bytes, "reopens": reopens }).to_string()
                }),
        );
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::mqtt::TopicName;
    use crate::serial::{
        DecoderSettings, Format, Framing, LinePoint, LineSettings, LinesSettings, PayloadForm, PointSettings,
        ReopenSettings, Separators,
    };

    fn settings() -> PortSettings {
        let point = PointSettings {
            payload: PayloadForm::Json,
            ..PointSettings::new("t".parse().unwrap(), TopicName::try_from("t").unwrap())
        };
        let lines = LinesSettings::new(
            "d".parse().unwrap(),
            Duration::from_secs(60),
            Format::KeyValue(Separators::default()),
            vec![LinePoint {
                settings: point,
                place: None,
            }],
            Framing::default(),
        );
        PortSettings::new(
            &TopicName::try_from("gw").unwrap(),
            "wire".parse().unwrap(),
            "/dev/wire".into(),
            LineSettings::default(),
            ReopenSettings::default(),
            DecoderSettings::Lines(lines.unwrap()),
        )
        .unwrap()
    }

    fn at(start: Instant, millis: u64) -> Now {
        Now {
            mono: start + Duration::from_millis(millis),
            wall: UNIX_EPOCH,
        }
    }

    fn told(port: &mut Port) -> Vec<String> {
        let show =
            |message: Message| format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload));
        let messages = std::iter::from_fn(|| port.poll_message()).map(show);
        messages
            .filter(|text| !text.starts_with("gw/device/d/health"))
            .collect()
    }

    fn port_health(reason: &str, bytes: u64, reopens: u64) -> String {
        format!(r#"gw/port/wire/health {{"reason":{reason},"bytes":{bytes},"reopens":{reopens}}}"#)
    }

    #[test]
    fn everything_is_told_to_be_offline_before_the_first_opening() {
        let start = Instant::now();
        let mut port = Port::new(&settings(), at(start, 0));
        assert_eq!(
            told(&mut port),
            [
                "gw/port/wire/status offline",
                "gw/device/d/status offline",
                r#"t {"v":null,"q":"stale"}"#,
                &port_health("\"not opened yet\"", 0, 0),
            ]
        );
        assert!(port.poll_open(at(start, 0)));
    }

    #[test]
    fn a_port_opens_carries_a_line_is_unplugged_and_comes_back() {
        let start = Instant::now();
        let mut port = Port::new(&settings(), at(start, 0));
        told(&mut port);
        assert!(port.poll_open(at(start, 0)));
        port.handle_opened(at(start, 10));
        assert_eq!(
            told(&mut port),
            ["gw/port/wire/status online", &port_health("null", 0, 0)]
        );

        port.handle_bytes(at(start, 1000), b"t=21.5\nt=2");
        assert_eq!(
            told(&mut port),
            ["gw/device/d/status online", r#"t {"v":21.5,"q":"good"}"#]
        );

        port.handle_lost(at(start, 2000), &Fault::Unplugged);
        assert_eq!(
            told(&mut port),
            [
                "gw/port/wire/status offline",
                "gw/device/d/status offline",
                r#"t {"v":null,"q":"stale"}"#,
                &port_health("\"unplugged\"", 10, 0),
            ]
        );

        assert!(!port.poll_open(at(start, 2499)));
        assert_eq!(port.poll_timeout(), Some(at(start, 2500).mono));
        assert!(port.poll_open(at(start, 2500)));
        port.handle_lost(at(start, 2501), &Fault::NotFound);
        assert_eq!(told(&mut port), [port_health("\"not found\"", 10, 0)]);

        assert!(port.poll_open(at(start, 3501)));
        port.handle_opened(at(start, 3510));
        port.handle_bytes(at(start, 4000), b"t=22\n");
        assert_eq!(
            told(&mut port),
            [
                "gw/port/wire/status online",
                &port_health("null", 10, 1),
                "gw/device/d/status online",
                r#"t {"v":22,"q":"good"}"#,
            ]
        );
    }

    #[test]
    fn a_line_cut_by_unplugging_is_counted() {
        let start = Instant::now();
        let mut port = Port::new(&settings(), at(start, 0));
        assert!(port.poll_open(at(start, 0)));
        port.handle_opened(at(start, 0));
        port.handle_bytes(at(start, 1000), b"t=21.5\nt=2");
        port.handle_lost(at(start, 2000), &Fault::Unplugged);
        let health = std::iter::from_fn(|| port.poll_message())
            .filter(|message| message.topic.as_str() == "gw/device/d/health")
            .last()
            .unwrap();
        let health: serde_json::Value = serde_json::from_slice(&health.payload).unwrap();
        assert_eq!((&health["good"], &health["fragments"]), (&json!(1), &json!(1)));
    }

    #[test]
    fn a_port_that_stays_away_is_told_once() {
        let start = Instant::now();
        let mut port = Port::new(&settings(), at(start, 0));
        assert!(port.poll_open(at(start, 0)));
        port.handle_lost(at(start, 0), &Fault::NotFound);
        told(&mut port);
        let due = port.poll_timeout().unwrap();
        let now = Now {
            mono: due,
            wall: UNIX_EPOCH,
        };
        assert!(port.poll_open(now));
        port.handle_lost(now, &Fault::NotFound);
        assert_eq!(told(&mut port), [""; 0]);
    }

    #[test]
    fn an_open_port_without_a_device_has_nothing_due() {
        let start = Instant::now();
        let mut port = Port::new(&settings(), at(start, 0));
        assert!(port.poll_open(at(start, 0)));
        port.handle_opened(at(start, 0));
        assert_eq!(port.poll_timeout(), None);
    }

    #[test]
    fn every_status_is_retained() {
        for message in offline_messages(&settings()) {
            assert_eq!(
                message.retain,
                message.topic.as_str().ends_with("/status"),
                "{}",
                message.topic
            );
        }
    }
}
