//! News of devices that come, so that a replugged adapter need not wait for the next try.

use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe;

/// A watch on the directory in which a path should appear, or on the nearest one above it that is there.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Not a pipe; see [`super::tty`] for why it is watched as one.
    descriptor: pipe::Receiver,
}

impl Arrivals {
    /// Watches for `path`; `None` where the kernel has no watch left, and then the next try comes when it is due.
    ///
    /// When the last adapter goes, `/dev/serial/by-id` goes with it, so the watch may be two directories up.
    pub(super) fn near(path: &Path) -> Option<Self> {
        let directory = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir())?;
        let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        // ATTRIB: udev hands a device to its group after the device is there.
        add_watch(
            &watch,
            directory,
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB,
        )
        .ok()?;
        Some(Self {
            descriptor: pipe::Receiver::from_owned_fd_unchecked(watch).ok()?,
        })
    }

    /// Waits until something came. What it was does not matter: the next try finds out.
    pub(super) async fn next(&self) {
        let mut events = [0; 4096];
        loop {
            if self.descriptor.readable().await.is_err() {
                return std::future::pending().await;
            }
            match self.descriptor.try_read(&mut events) {
                Ok(count) if count > 0 => return,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // A watch that fails is no watch; the port is tried when it is due.
                Ok(_) | Err(_) => return std::future::pending().await,
            }
        }
    }
}
