//! How many descriptors this process may have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open descriptors as far as the system lets this process, and returns it; for the
/// start.
///
/// # Errors
/// What the system says; the old limit is then still in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Descriptors this process may still open.
pub fn descriptors_left() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // The directory is a descriptor itself while it is read.
    let open =
        std::fs::read_dir("/proc/self/fd").map_or(DESCRIPTORS_OPEN, |open| open.count().saturating_sub(1));
    usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(open)
}

/// What is open at the start of a process like ours, where /proc does not tell: standard streams, the loop's, the
/// state directory's.
const DESCRIPTORS_OPEN: usize = 16;
