//! Records on their way to the journal.

use std::fmt;

use super::segment::{HEAD_BYTES, RECORD_BYTES_MAX};

/// Records in their order, written by whoever has them and sealed by the log when it knows their place.
///
/// **Invariants**
/// 1. `bytes` is a row of records: the room for a head, then the content.
/// 2. `records` has an entry for each of them, in order.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Entry>,
}

/// One record of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) number: u64,
    /// Of the content, in bytes.
    pub(super) length: u32,
    pub(super) kind: u8,
}

impl Entry {
    /// What it takes in the file.
    pub(super) fn bytes(self) -> usize {
        HEAD_BYTES.saturating_add(usize::try_from(self.length).unwrap_or(usize::MAX))
    }
}

/// A record had more than [`RECORD_BYTES_MAX`] bytes; it is not in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTooLarge {
    /// How many it had.
    pub bytes: usize,
}

impl Batch {
    /// Adds the record of change `number`, which is greater than all before it, with the content that `write` appends
    /// to what it is given.
    ///
    /// # Errors
    /// [`RecordTooLarge`]; the batch is as before.
    pub fn push(
        &mut self,
        number: u64,
        kind: u8,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), RecordTooLarge> {
        debug_assert!(self.last().is_none_or(|last| last < number), "changes go up");
        let before = self.bytes.len();
        self.bytes.extend([0; HEAD_BYTES]);
        let begin = self.bytes.len();
        write(&mut self.bytes);
        let bytes = self.bytes.len().saturating_sub(begin);
        match u32::try_from(bytes) {
            Ok(length) if bytes <= RECORD_BYTES_MAX => {
                self.records.push(Entry { number, length, kind });
                Ok(())
            }
            _ => {
                self.bytes.truncate(before);
                Err(RecordTooLarge { bytes })
            }
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// How many bytes they take in the journal, without what fills up the last sector.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The number of the last change.
    pub fn last(&self) -> Option<u64> {
        self.records.last().map(|entry| entry.number)
    }

    /// Empties it for the next, and keeps up to `bytes_max` of memory.
    pub fn clear(&mut self, bytes_max: usize) {
        self.bytes.clear();
        self.records.clear();
        self.bytes.shrink_to(bytes_max);
        self.records.shrink_to(bytes_max / size_of::<Entry>());
    }
}

impl fmt::Display for RecordTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a record of the journal has {} bytes, expected {RECORD_BYTES_MAX} at most",
            self.bytes
        )
    }
}

impl std::error::Error for RecordTooLarge {}
