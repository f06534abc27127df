//! What an operator decides about storage.

use std::path::PathBuf;
use std::time::Duration;

/// Where state is kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A folder of the gateway's own, on a file system that keeps what is synced to it.
    pub directory: PathBuf,
    /// What becomes of sessions and messages.
    pub journal: JournalSettings,
}

/// What becomes of what has to outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSettings {
    /// When it counts as stored.
    pub mode: Mode,
    /// How long the journal waits with what nobody is told about, so that more of it goes together.
    pub idle_interval: Duration,
    /// The size of all the journal's files together, in bytes.
    pub bytes_max: u64,
    /// What is left free on the file system for others, in bytes.
    pub free_bytes_min: u64,
    /// From how many bytes written within a day on it is told that the card wears out; 0: never.
    pub bytes_per_day_max: u64,
}

/// When something counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When the medium has it: no acknowledgement before.
    Durable,
    /// At once. The medium has it after this interval at the latest: a power cut loses what was acknowledged since, the
    /// end of the process alone does not.
    Relaxed(Duration),
    /// Nothing is stored.
    Memory,
}

/// What Mosquitto's users know as `autosave_interval`, at a length that nobody misses.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// An SD card writes some ten thousand times its size: at this rate one of 8 GB lasts for over a century, and one
/// of which a tenth is left to us for ten years.
pub const BYTES_PER_DAY_MAX: u64 = 2 * 1024 * 1024 * 1024;

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Durable,
            idle_interval: Duration::from_secs(5),
            bytes_max: 64 * 1024 * 1024,
            free_bytes_min: 4 * 1024 * 1024,
            bytes_per_day_max: BYTES_PER_DAY_MAX,
        }
    }
}
