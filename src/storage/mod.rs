//! What outlives the process: the state directory and what stands in it.

use std::path::PathBuf;

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A folder of the gateway's own, on a file system that keeps what is synced to it.
    pub directory: PathBuf,
}
