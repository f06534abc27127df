//! What outlives the process: the state directory and what stands in it.
//!
//! - [`state_directory`]: the folder itself, which belongs to one gateway at a time.
//! - [`clock`]: the latest time ever seen, for boards whose clock starts in 1970.

pub mod clock;
pub mod state_directory;

use std::path::PathBuf;

pub use state_directory::{StateDirectory, StorageError};

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A folder of the gateway's own, on a file system that keeps what is synced to it.
    pub directory: PathBuf,
}
