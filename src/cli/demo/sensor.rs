//! A field sensor that is not there: it speaks at one end of a pseudo-terminal, and the gateway opens the other.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// One of so many lines is broken, as happens on long cables.
const BROKEN_EVERY: u32 = 8;

/// The sensor's end of the line.
pub(super) struct Sensor {
    master: OwnedFd,
    port: PathBuf,
}

impl Sensor {
    /// Makes the pair of line ends.
    ///
    /// # Errors
    /// Where the system has no pseudo-terminal left, or none at all.
    pub(super) fn new() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        // Nobody listens at times, and the sensor does not wait for them: a full line loses what is said next.
        fcntl_setfl(&master, OFlags::NONBLOCK)?;
        let port = ptsname(&master, Vec::new())?;
        let port = PathBuf::from(port.to_str().map_err(io::Error::other)?);
        Ok(Self { master, port })
    }

    /// The device file of the gateway's end.
    pub(super) fn port(&self) -> &Path {
        &self.port
    }

    /// Speaks a line every `interval`, for ever.
    pub(super) async fn speak(self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        for number in 0_u32.. {
            ticks.tick().await;
            let mut line = line(number);
            if number % BROKEN_EVERY == BROKEN_EVERY - 1 {
                line = broken(&line);
            }
            if let Err(error) = rustix::io::write(&self.master, line.as_bytes()) {
                tracing::debug!(%error, "the sensor was not heard");
            }
        }
    }
}

/// What a slow day looks like: a temperature around 21.5 °C, a humidity around 46 %.
fn line(number: u32) -> String {
    let phase = f64::from(number) * 0.35;
    let temperature = 21.5 + 1.8 * phase.sin();
    let humidity = 46.0 - 4.0 * (phase * 0.7).sin();
    format!("temperature={temperature:.2} humidity={humidity:.1}\r\n")
}

/// The same line after a bad moment on the cable: its middle is noise.
fn broken(line: &str) -> String {
    line.replace("ature=", "at#re~").replace("humi", "\u{7f}um;")
}
