//! What is told to whoever watches over the process: systemd's notifications (sd_notify(3)), a datagram each.
//!
//! The sign of life comes from the tick of the loop and from nowhere else: where the loop hangs, it stays away.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

/// The way to whoever watches over the process, and when it wants to hear from it next.
#[derive(Debug)]
pub struct Supervisor {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Half of the silence after which the process is taken for dead; `None` where nobody counts.
    interval: Option<Duration>,
    pub(super) due: Option<Instant>,
}

/// How long a message other than a sign of life may wait for room: it is told once.
const PATIENCE: Duration = Duration::from_millis(200);

impl Supervisor {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`); `None` where nobody
    /// watches.
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let text = |key| std::env::var(key).ok();
        let is_for_us = text("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let silence = text("WATCHDOG_USEC").and_then(|text| text.parse().ok());
        let silence = silence.filter(|_| is_for_us).map(Duration::from_micros);
        match Self::at(name.as_bytes(), silence) {
            Ok(supervisor) => Some(supervisor),
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET cannot be used, nobody is told how it goes");
                None
            }
        }
    }

    /// The one at the socket called `name`, a path or, after an `@`, an abstract one; after `silence` it takes the
    /// process for dead.
    ///
    /// # Errors
    /// What the system says of such a name, or of one more socket.
    pub fn at(name: &[u8], silence: Option<Duration>) -> io::Result<Self> {
        let address = match name.split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let interval = silence.map(|silence| silence / 2).filter(|half| !half.is_zero());
        Ok(Self {
            socket,
            address,
            interval,
            due: None,
        })
    }

    /// Everybody can come in, by the configuration that was read last.
    pub(super) fn ready(&mut self, now: Instant, doors: usize) {
        self.say(&format!("READY=1\nSTATUS=serving, {doors} listeners"));
        self.alive(now);
    }

    /// The configuration is read again; [`Supervisor::ready`] follows whatever comes of it.
    pub(super) fn reloading(&self) {
        let since_boot = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        let micros = since_boot.as_micros();
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration again"
        ));
    }

    /// Nobody comes in any more.
    pub(super) fn stopping(&mut self) {
        self.due = None;
        self.say("STOPPING=1\nSTATUS=telling the clients");
    }

    /// Gives the sign of life that is due, and notes when the next is.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.alive(now);
        }
    }

    fn alive(&mut self, now: Instant) {
        if let Some(interval) = self.interval {
            self.say("WATCHDOG=1");
            self.due = now.checked_add(interval);
        }
    }

    fn say(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.address) {
            debug!(%error, "the supervisor was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor's own end, under an abstract name that nobody else has, and the way to it.
    fn supervised(silence: Option<Duration>) -> (UnixDatagram, Supervisor) {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("notify").into_os_string();
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("short enough");
        let hearing = UnixDatagram::bind_addr(&address).expect("nobody has the name");
        hearing.set_nonblocking(true).expect("a socket");
        let name = [b"@", name.as_bytes()].concat();
        (hearing, Supervisor::at(&name, silence).expect("a name"))
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut text = [0; 256];
        let count = socket.recv(&mut text).ok()?;
        Some(String::from_utf8(text[..count].to_vec()).expect("text"))
    }

    #[test]
    fn a_sign_of_life_is_given_twice_in_the_time_that_is_granted_and_not_before_it_is_due() {
        let (socket, mut supervisor) = supervised(Some(Duration::from_secs(10)));
        let start = Instant::now();
        supervisor.ready(start, 2);
        assert_eq!(
            heard(&socket).as_deref(),
            Some("READY=1\nSTATUS=serving, 2 listeners")
        );
        assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
        let due = start + Duration::from_secs(5);
        assert_eq!(supervisor.due, Some(due));
        supervisor.tick(due - Duration::from_millis(1));
        assert_eq!(heard(&socket), None);
        supervisor.tick(due);
        assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(supervisor.due, Some(due + Duration::from_secs(5)));
        supervisor.stopping();
        assert_eq!(supervisor.due, None);
    }

    #[test]
    fn where_nobody_counts_there_is_no_sign_of_life() {
        let (socket, mut supervisor) = supervised(None);
        supervisor.ready(Instant::now(), 1);
        assert!(heard(&socket).is_some_and(|text| text.starts_with("READY=1")));
        assert_eq!((heard(&socket), supervisor.due), (None, None));
    }

    #[test]
    fn a_reload_says_when_it_began_by_the_clock_that_systemd_compares() {
        let (socket, supervisor) = supervised(None);
        supervisor.reloading();
        let text = heard(&socket).expect("told");
        let line = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let told: i64 = line.expect("it says when").parse().expect("a number");
        let now = clock_gettime(ClockId::Monotonic).tv_sec;
        assert!(
            (0..=60).contains(&(now - told / 1_000_000)),
            "{told}, now {now} s"
        );
    }
}
