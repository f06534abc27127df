//! The broker's process, seen from outside: its CPU time, its memory, and starting and ending it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A process to watch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observed(u32);

/// A broker started for the measurement; ended with it.
#[derive(Debug)]
pub(super) struct Broker {
    child: Child,
    /// Where it listens.
    pub(super) port: u16,
}

/// Stands in a command where the port belongs.
pub(super) const PORT: &str = "{port}";

/// How long a broker may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Linux tells CPU times in hundredths of a second on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

impl Observed {
    /// The process with this number.
    ///
    /// # Errors
    /// Where there is none, or it is not ours to watch.
    pub(super) fn new(pid: u32) -> anyhow::Result<Self> {
        let observed = Self(pid);
        observed.cpu_seconds()?;
        Ok(observed)
    }

    /// User and system time of all its threads, those that ended included.
    pub(super) fn cpu_seconds(self) -> anyhow::Result<f64> {
        let text = self.read("stat")?;
        let ticks =
            cpu_ticks(&text).with_context(|| format!("cannot make sense of /proc/{}/stat", self.0))?;
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Its resident memory in bytes.
    pub(super) fn resident_bytes(self) -> anyhow::Result<u64> {
        let text = self.read("status")?;
        resident_bytes(&text).with_context(|| format!("cannot make sense of /proc/{}/status", self.0))
    }

    fn read(self, what: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{what}", self.0))
            .with_context(|| format!("cannot watch process {}, is it running?", self.0))
    }
}

impl Broker {
    /// Starts `command` with a free port in the place of [`PORT`], and waits until it listens there.
    ///
    /// # Errors
    /// Where it cannot be started, or does not listen in time.
    pub(super) fn start(command: &str) -> anyhow::Result<Self> {
        let port = free_port()?;
        let command = command.replace(PORT, &port.to_string());
        // The shell makes way for the broker, so that the child's number is the broker's.
        let child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is for us; the broker ends when we have read what we need.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut broker = Self { child, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err() {
            if let Some(status) = broker.child.try_wait().context("cannot watch the broker")? {
                bail!("{command:?} ended at once, {status}; run it by itself to see why");
            }
            if Instant::now() > deadline {
                bail!(
                    "{command:?} does not listen on 127.0.0.1:{port} after {} s",
                    START_TIMEOUT.as_secs()
                );
            }
            // Another program's port opens without telling anybody, so there is nothing to wait on but time.
            sleep(Duration::from_millis(20));
        }
        Ok(broker)
    }

    /// To watch it.
    pub(super) fn observed(&self) -> Observed {
        Observed(self.child.id())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            // std waits for a child for ever or not at all; this waits until the deadline.
            sleep(Duration::from_millis(10));
        }
    }
}

fn free_port() -> anyhow::Result<u16> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(address.context("cannot find a free port")?.port())
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_blanks_and_brackets() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194304 1183 0 0 0 250 50 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"),
            Some(2 << 20)
        );
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn this_very_process_can_be_watched() {
        let observed = Observed::new(std::process::id()).unwrap();
        assert!(observed.resident_bytes().unwrap() > 0);
        assert!(Observed::new(u32::MAX).is_err());
    }
}
