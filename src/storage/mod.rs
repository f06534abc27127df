//! What outlives the process: the state directory and what stands in it.
//!
//! - [`state_directory`]: the folder itself, which belongs to one gateway at a time.
//! - [`clock`]: the latest time ever seen, for boards whose clock starts in 1970.

pub mod clock;
pub mod record;
pub mod settings;
pub mod state_directory;

pub use settings::{JournalSettings, Mode, Settings};
pub use state_directory::{StateDirectory, StorageError};
