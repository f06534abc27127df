//! What outlives the process: the state directory and what stands in it.
//!
//! - [`state_directory`]: the folder itself, which belongs to one gateway at a time.
//! - [`clock`]: the latest time ever seen, for boards whose clock starts in 1970.
//!
//! And the journal, from the bottom up:
//! - [`disk`]: what is wanted of a file system, and the real one.
//! - [`segment`]: the bytes; drawn there.
//! - [`batch`]: records on their way. [`scan`]: records found again. [`recover`]: what holds, at the start.
//! - [`log`]: appending, committing, and letting go.

pub mod batch;
pub mod clock;
pub mod disk;
pub mod log;
pub mod recover;
mod scan;
pub mod segment;
pub mod state_directory;

use std::path::PathBuf;

pub use batch::{Batch, RecordTooLarge};
pub use disk::{Disk, RealDisk};
pub use log::{Failure, Log, LogSettings, LogStatistics, Room};
pub use recover::{OpenError, Recovery};
pub use segment::RECORD_BYTES_MAX;
pub use state_directory::{StateDirectory, StorageError};

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A folder of the gateway's own, on a file system that keeps what is synced to it.
    pub directory: PathBuf,
}
