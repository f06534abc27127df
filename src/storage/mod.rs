//! What outlives the process: the state directory and what stands in it.
//!
//! - [`state_directory`]: the folder itself, which belongs to one gateway at a time.
//! - [`clock`]: the latest time ever seen, for boards whose clock starts in 1970.
//!
//! And the journal, from the bottom up:
//! - [`settings`]: what an operator decides. [`disk`]: what is wanted of a file system, and the real one.
//! - [`segment`]: the bytes; drawn there.
//! - [`record`]: changes as contents of records. [`batch`]: records on their way. [`scan`]: records found again.
//!   [`recover`]: what holds, at the start.
//! - [`log`]: appending, committing, and letting go. `reread`: reading again meanwhile. [`writer`]: the thread that
//!   waits for the disk.

pub mod batch;
pub mod clock;
pub mod disk;
pub mod log;
pub mod record;
pub mod recover;
mod reread;
mod scan;
pub mod segment;
pub mod settings;
pub mod state_directory;
pub mod writer;

pub use batch::{Batch, RecordTooLarge};
pub use disk::{Disk, RealDisk};
pub use log::{Failure, Log, LogSettings, LogStatistics, Room};
pub use recover::{OpenError, Recovery};
pub use segment::RECORD_BYTES_MAX;
pub use settings::{JournalSettings, Mode, Settings};
pub use state_directory::{StateDirectory, StorageError};
pub use writer::{Answer, JournalStatistics, JournalWriter, WriterSettings};
