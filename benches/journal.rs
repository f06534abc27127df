//! What a commit of one record costs: bytes that the kernel gave to the device, and time, on the disk that holds the
//! folder given (by default that of temporary files, which must not be a tmpfs).
//!
//! ```text
//! cargo bench --bench journal -- /var/lib/somewhere
//! ```
//!
//! For 200 such commits a plain log that was filled ahead costs about 4.4 KB of device writes each, SQLite with its
//! write-ahead log 12 KB.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidegate::storage::{Batch, Log, LogSettings, StateDirectory};

const COMMITS: u32 = 200;
/// A message of 64 bytes with its topic, and what is said about it.
const RECORD_BYTES: usize = 110;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let parent = tempfile::tempdir_in(&folder).expect("a folder that can be written to");
    let directory = StateDirectory::open(&parent.path().join("state")).expect("a new folder");
    let disk = directory.journal().expect("a new folder");
    let (mut log, _) = Log::open(disk, LogSettings::default(), 1, |_, _, _| ()).expect("an empty journal");
    // The first commit makes the segment; filling files ahead is done when nobody waits.
    commit(&mut log, 1);
    while log.tend().expect("the disk works") {}

    let (device_before, before) = (device_bytes(), log.statistics());
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for number in 2..2 + u64::from(COMMITS) {
        let began = Instant::now();
        commit(&mut log, number);
        slowest = slowest.max(began.elapsed());
    }
    let took = began.elapsed();
    let (device, after) = (device_bytes() - device_before, log.statistics());
    let commits = u64::from(COMMITS);
    println!(
        "{COMMITS} commits of one record of {RECORD_BYTES} bytes in {}",
        folder.display()
    );
    println!("  bytes written by the kernel  {:6} a commit", device / commits);
    println!(
        "  pages by our own count       {:6} a commit",
        (after.device_bytes - before.device_bytes) / commits
    );
    println!(
        "  bytes given to the kernel    {:6} a commit",
        (after.bytes_written - before.bytes_written) / commits
    );
    println!(
        "  time                         {:6} µs a commit",
        (took / COMMITS).as_micros()
    );
    println!("  the slowest                  {:6} µs", slowest.as_micros());
}

fn commit(log: &mut Log<tidegate::storage::RealDisk>, number: u64) {
    let mut batch = Batch::default();
    batch
        .push(number, 6, |content| content.extend([0x5A; RECORD_BYTES]))
        .expect("it is small");
    log.append(&mut batch).expect("the disk works");
    log.commit().expect("the disk works");
}

/// What this process made the kernel write to devices so far.
fn device_bytes() -> u64 {
    let figures = fs::read_to_string("/proc/self/io").expect("Linux");
    figures
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|bytes| bytes.parse().ok())
        .expect("the kernel counts")
}
