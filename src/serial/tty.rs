//! The serial port as the kernel has it: opened for us alone, set up, read without ever waiting.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::QueueSelector;
use serialport::{SerialPort, TTYPort};
use tokio::net::unix::pipe;

use super::line::LineSettings;

/// An open serial port.
#[derive(Debug)]
pub(super) struct Tty {
    /// Not a pipe; but this is the runtime's one way of watching a descriptor that it owns without `unsafe`, and
    /// it does no more than wait and read.
    descriptor: pipe::Receiver,
    /// Holds the lock and the line settings; closing it gives them up.
    _port: TTYPort,
}

/// A port opened and set up, not yet known to the runtime, so that opening can happen on any thread.
#[derive(Debug)]
pub(super) struct Opened {
    descriptor: OwnedFd,
    port: TTYPort,
}

/// Why a port is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was open, and the device went away.
    Unplugged,
    /// There is nothing at its path.
    NotFound,
    /// Somebody else has it, and who, if that can be seen.
    Busy(Option<Holder>),
    /// The program may not open it.
    Denied,
    /// What is at its path is no serial port.
    NotSerial,
    /// Whatever else the kernel said.
    Other(String),
}

/// The process that has a port open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    process: String,
    name: String,
}

impl Opened {
    /// Opens what `path` leads to now, locks it and sets it up.
    ///
    /// Blocks: a driver may take seconds over an adapter that does not answer.
    pub(super) fn open(path: &Path, line: LineSettings) -> Result<Self, Fault> {
        // The device itself, for a stable path is a link, and the lock and /proc know the device by its own name.
        let device = fs::canonicalize(path).map_err(|error| Fault::of_io(&error))?;
        let name = device
            .to_str()
            .ok_or_else(|| Fault::Other("the path is not UTF-8".to_owned()))?;
        // A descriptor of our own beside that of `TTYPort`: theirs waits for bytes, and ours must never. It comes
        // first, for once theirs has locked the device nobody opens it again.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = match rustix::fs::open(&device, flags, Mode::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::BUSY) => return Err(Fault::Busy(Holder::find(&device))),
            Err(errno) => return Err(Fault::of_io(&errno.into())),
        };
        if !rustix::termios::isatty(&descriptor) {
            return Err(Fault::NotSerial);
        }
        // Our own look at the lock: a refused `TTYPort::open` would take TIOCEXCL away from the one who holds it.
        match rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Self::busy(descriptor, &device)),
            Err(errno) => return Err(Fault::of_io(&errno.into())),
        }
        rustix::fs::flock(&descriptor, FlockOperation::Unlock)
            .map_err(|errno| Fault::of_io(&errno.into()))?;
        let builder = serialport::new(name, line.baud())
            .data_bits(line.data_bits())
            .parity(line.parity())
            .stop_bits(line.stop_bits())
            .flow_control(line.flow())
            .exclusive(true);
        let port = match TTYPort::open(&builder) {
            Ok(port) => port,
            Err(error) if error.kind() == serialport::ErrorKind::NoDevice => {
                return Err(Self::busy(descriptor, &device));
            }
            Err(error) => return Err(Fault::of_io(&error.into())),
        };
        let opened = Self { descriptor, port };
        opened.warn_of_refused_settings(path, line);
        // What came in at other settings is noise.
        rustix::termios::tcflush(&opened.descriptor, QueueSelector::IFlush)
            .map_err(|errno| Fault::of_io(&errno.into()))?;
        Ok(opened)
    }

    /// The descriptor is closed first, so that the holder found is never this very attempt.
    fn busy(descriptor: OwnedFd, device: &Path) -> Fault {
        drop(descriptor);
        Fault::Busy(Holder::find(device))
    }

    /// Some drivers take settings without a word and leave out what they cannot do, such as parity.
    fn warn_of_refused_settings(&self, path: &Path, line: LineSettings) {
        let port = &self.port;
        let taken = port.baud_rate().is_ok_and(|baud| baud == line.baud())
            && port
                .data_bits()
                .is_ok_and(|data_bits| data_bits == line.data_bits())
            && port.parity().is_ok_and(|parity| parity == line.parity())
            && port
                .stop_bits()
                .is_ok_and(|stop_bits| stop_bits == line.stop_bits())
            && port.flow_control().is_ok_and(|flow| flow == line.flow());
        if !taken {
            tracing::warn!(path = %path.display(), wanted = %line, "line settings not taken by the driver as they are");
        }
    }

    /// Makes the runtime watch the port.
    pub(super) fn register(self) -> io::Result<Tty> {
        let descriptor = pipe::Receiver::from_owned_fd_unchecked(self.descriptor)?;
        Ok(Tty {
            descriptor,
            _port: self.port,
        })
    }
}

impl Tty {
    /// Reads what is there, once; waits until there is something. Nothing is lost when the future is dropped.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            self.descriptor
                .readable()
                .await
                .map_err(|error| Fault::of_io(&error))?;
            return match self.descriptor.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // A terminal that hung up is at its end for good.
                Ok(0) => Err(Fault::Unplugged),
                Ok(count) => Ok(count),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::IO | Errno::NXIO | Errno::NODEV) => Err(Fault::Unplugged),
                    _ => Err(Fault::of_io(&error)),
                },
            };
        }
    }
}

impl Fault {
    /// What an error at opening means.
    pub(super) fn of_io(error: &io::Error) -> Self {
        match (error.kind(), Errno::from_io_error(error)) {
            (io::ErrorKind::NotFound, _) | (_, Some(Errno::NXIO | Errno::NODEV)) => Self::NotFound,
            (io::ErrorKind::PermissionDenied, _) => Self::Denied,
            (_, Some(Errno::NOTTY)) => Self::NotSerial,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Holder {
    /// Looks through /proc for a process that has `device` open; sees only what this user may see.
    fn find(device: &Path) -> Option<Self> {
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let process = entry
                .file_name()
                .to_str()
                .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))?
                .to_owned();
            let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
            descriptors
                .find(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == device))?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Self {
                process,
                name: name.trim().to_owned(),
            })
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplugged => f.write_str("unplugged"),
            Self::NotFound => f.write_str("not found"),
            Self::Busy(None) => f.write_str("held by another program"),
            Self::Busy(Some(Holder { process, name })) => write!(f, "held by {name} (process {process})"),
            Self::Denied => {
                f.write_str("permission denied; is the user in the group of the port, such as dialout?")
            }
            Self::NotSerial => f.write_str("not a serial port"),
            Self::Other(why) => f.write_str(why),
        }
    }
}
