//! The journal: an append-only log in segments, on any [`Disk`].

use std::collections::VecDeque;
use std::fmt;
use std::io;

use super::batch::Entry;
use super::recover::{OpenError, Recovered, Recovery, Segment, recover};
use super::reread::Mark;
use super::segment::{
    HEAD_BYTES, HEADER_BYTES, Head, Header, NUMBERS_MAX, Name, SECTOR_BYTES, Seal, next_sector,
};
use super::{Batch, Disk};

/// Changes in the order they were given, of which those that were committed survive.
///
/// The caller appends batches, commits, and every so often gives everything that is to be kept again (a checkpoint),
/// after which the log lets go what stood before it. When the disk fails, the segment that was written is given up for
/// good: nothing more is accepted until [`begin_anew`](Self::begin_anew) has made a new one, and the caller owes it a
/// checkpoint.
///
/// **Invariants**
/// 1. A segment's file has its name, and the name is on the medium, before anything is written to it.
/// 2. Segments go from the oldest to the newest, each for good before the next, so that what is left is always all
///    that was written from some change on. Only what a later segment says was lost goes otherwise.
/// 3. A file's number is greater than those of all files before it, so nothing that was left in it can hold again.
/// 4. What was synced is never written again, and a file whose sync failed is never synced again.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) disk: D,
    settings: LogSettings,
    pub(super) key: u64,
    /// Oldest first; the last one is the one that is written, if any is.
    pub(super) segments: VecDeque<Segment>,
    writing: Option<Writing<D::File>>,
    /// Files to be made segments; the last one left is the reserve.
    spares: Vec<u64>,
    growing: Option<Growing<D::File>>,
    /// The number of the next file.
    next_file: u64,
    appended: u64,
    committed: u64,
    is_given_up: bool,
    /// Since a failure, until a checkpoint has come to its end.
    anew: Option<Anew>,
    checkpoint: Checkpoint,
    /// Where records were read again last.
    pub(super) marks: VecDeque<Mark>,
    /// What is kept, by the caller's measure.
    kept: u64,
    statistics: LogStatistics,
}

/// How large the journal may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Of a segment; a record that is larger gets a larger one. A multiple of 512, from 4,096 up.
    pub segment_bytes: u64,
    /// Of all the journal's files together. What is kept takes two fifths of it at most, for a checkpoint needs as
    /// much again. One that follows others that were cut short finds what they left, too: as long as it runs, and after
    /// a failure, there may be so much more than before.
    pub bytes_max: u64,
    /// What is left free on the disk for others.
    pub free_bytes_min: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            // An erase block of an SD card or a few: what goes together when one breaks.
            segment_bytes: 1024 * 1024,
            bytes_max: 64 * 1024 * 1024,
            free_bytes_min: 4 * 1024 * 1024,
        }
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// For anything.
    Plenty,
    /// For acknowledgements and deletions, which make room again; not for new promises.
    ReserveOnly,
    /// For nothing.
    None,
}

/// Why nothing was written, or what was cannot be believed. All that was not committed is lost, and the log takes
/// nothing more until [`Log::begin_anew`].
#[derive(Debug)]
pub enum Failure {
    /// There is no room, the reserve included.
    Full,
    /// The disk failed.
    Disk(io::Error),
    /// The log was given up before.
    GivenUp,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStatistics {
    /// Bytes given to the disk, with everything around the records.
    pub bytes_written: u64,
    /// What the medium was given: pages of 4,096 bytes, each as often as it was synced.
    pub device_bytes: u64,
    /// Of the bytes written, contents of records.
    pub content_bytes: u64,
    /// How often the disk was asked to sync a file or the folder.
    pub syncs: u64,
    /// Records appended.
    pub records: u64,
    /// Commits that had something to commit.
    pub commits: u64,
    /// How often the disk failed or was full.
    pub failures: u64,
}

/// The segment that is written.
#[derive(Debug)]
struct Writing<F> {
    file: F,
    number: u64,
    /// A multiple of a sector.
    length: u64,
    /// Where the next batch goes; a multiple of a sector.
    position: u64,
    /// Where what was not synced begins.
    unit: u64,
    has_header: bool,
}

/// Where the log began anew after a failure.
#[derive(Debug, Clone, Copy)]
struct Anew {
    /// The first segment since.
    segment: u64,
    /// The last change that was committed before.
    committed: u64,
}

/// A file on its way to being a spare: filled with zeros bit by bit.
#[derive(Debug)]
struct Growing<F> {
    file: F,
    number: u64,
    filled: u64,
}

/// How it stands with giving everything again.
#[derive(Debug, Clone, Copy, Default)]
struct Checkpoint {
    is_running: bool,
    /// Segments that end before this change may go.
    before: u64,
    /// What the segments took when the last one had let go what it could.
    bytes: u64,
    /// The most that was kept at any moment since the last one began, as [`Log::note_kept`] was told.
    kept_max: u64,
    /// What there may be while it runs, and until the log has begun anew.
    bytes_max: u64,
}

/// What is written at once when a file is filled ahead: it holds up others for no longer than a batch does.
const FILL_BYTES: u64 = 128 * 1024;
/// The file that is used when there is no room for a new one, and one at hand so that nobody waits for it.
const SPARES: usize = 2;
/// So many files are kept for being used again, as many as a checkpoint of a small journal lets go; what is freed
/// beyond goes back to the disk.
const SPARES_MAX: usize = 8;
/// Below so much room in the last segment it is full for the caller.
const LEFT_BYTES_MIN: u64 = 1024;
/// Fewer segments than these in all leave nothing to let go.
const SEGMENTS_MIN: u64 = 16;
/// The least settings: a header and some records.
const SEGMENT_BYTES_MIN: u64 = 4096;
/// A segment's places are told in four bytes.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// What is kept, in hundredths of all there may be, up to which new promises are taken. What is kept is written again
/// by a checkpoint before it can go, and meanwhile acknowledgements go on.
const PROMISES_PERCENT: u64 = 40;
/// From here on a checkpoint must not wait: before new promises end, so that one that makes room has begun by then.
const CHECKPOINT_PERCENT: u64 = 35;
const _: () = assert!(CHECKPOINT_PERCENT < PROMISES_PERCENT);
/// In how many parts what was kept is counted to see whether one has gone.
const KEPT_PARTS: u64 = 8;
/// The same while a checkpoint runs.
const CHECKPOINTING_PERCENT: u64 = 90;
/// Below so many segments a checkpoint is not worth its bytes.
const CHECKPOINT_SEGMENTS_MIN: u64 = 4;

/// What systems write to a medium at once.
const PAGE_BYTES: u64 = 4096;
static ZEROS: [u8; 4096] = [0; 4096];

impl<D: Disk> Log<D> {
    /// Opens the journal on `disk`, which may be empty, and gives every record that holds to `replay` in order: number,
    /// kind and content. `fresh_key` is any number nobody can guess, for a journal that is new.
    ///
    /// What holds is not touched, and nothing that is damaged stops it. What was written last is written once more, as
    /// it may never have been synced. Where the disk fails on what was
    /// found, the log is given up from the start (see [`is_given_up`](Self::is_given_up)).
    ///
    /// # Errors
    /// [`OpenError`]; no byte was touched.
    pub fn open(
        mut disk: D,
        settings: LogSettings,
        fresh_key: u64,
        replay: impl FnMut(u64, u8, &[u8]),
    ) -> Result<(Self, Recovery), OpenError> {
        let recovered = recover(&mut disk, fresh_key, replay)?;
        let report = recovered.report;
        let segment_bytes = settings
            .segment_bytes
            .min(settings.bytes_max / SEGMENTS_MIN)
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            / SECTOR_BYTES
            * SECTOR_BYTES;
        let mut log = Self {
            disk,
            settings: LogSettings {
                segment_bytes,
                ..settings
            },
            key: recovered.key,
            segments: VecDeque::new(),
            writing: None,
            spares: Vec::new(),
            growing: None,
            next_file: 1,
            appended: report.last,
            committed: report.last,
            is_given_up: false,
            anew: None,
            checkpoint: Checkpoint::default(),
            marks: VecDeque::new(),
            kept: 0,
            statistics: LogStatistics::default(),
        };
        log.go_on(recovered);
        Ok((log, report))
    }

    /// Goes on where the last run ended. What it left unsynced is synced before anything is built on it.
    fn go_on(&mut self, recovered: Recovered<D::File>) {
        let numbers = recovered.segments.iter().map(|segment| segment.number);
        let others = recovered.spares.iter().map(|(number, _)| number);
        let others = others.chain(&recovered.needless).copied();
        self.next_file = numbers.chain(others).max().unwrap_or(0).saturating_add(1);
        self.segments = recovered.segments.into();
        let mut unsure = recovered.unsure;
        let mut synced = Ok(());
        if let Some(file) = recovered.written_last {
            synced = self.sync(&file);
        }
        if let Some(resume) = recovered.resume
            && let Some(segment) = self.segments.back().copied()
        {
            synced = synced.and(self.sync(&resume.file));
            let position = next_sector(resume.position);
            let length = segment.length.min(SEGMENT_BYTES_MAX) / SECTOR_BYTES * SECTOR_BYTES;
            // A file that was cut short on its way, or one almost full, is left as it is.
            if length >= self.settings.segment_bytes && position.saturating_add(LEFT_BYTES_MIN) <= length {
                self.writing = Some(Writing {
                    file: resume.file,
                    number: segment.number,
                    length,
                    position,
                    unit: position,
                    has_header: resume.has_header,
                });
            }
        }
        if !self.segments.is_empty() {
            synced = synced.and(self.sync_directory());
        }
        if synced.is_err() {
            self.give_up();
        }
        for number in recovered.needless {
            let _ = self.disk.remove(&Name::Segment(number).to_text());
        }
        for (number, length) in recovered.spares {
            // One that was being filled when the power went is of no use, and its name is free.
            if length == self.settings.segment_bytes && self.spares.len() < SPARES_MAX {
                self.spares.push(number);
            } else if !recovered.is_key_elsewhere {
                let _ = self.disk.remove(&Name::Spare(number).to_text());
            }
        }
        if !unsure.is_empty() {
            // It may be part of a checkpoint that was cut short, and then needs the room that one has.
            self.widen();
            self.checkpoint.is_running = true;
            if self.append(&mut unsure).is_ok() {
                // What it fails by it is given up by.
                let _ = self.commit();
            }
            self.checkpoint.is_running = false;
        }
    }

    /// Writes the batch behind what is there. It survives from the next [`commit`](Self::commit) on, and may before.
    ///
    /// # Errors
    /// [`Failure`]; the log is given up.
    pub fn append(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        if self.is_given_up {
            return Err(Failure::GivenUp);
        }
        let appended = self.append_all(batch);
        self.or_give_up(appended)
    }

    fn append_all(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        let mut entries = batch.records.as_slice();
        let mut bytes = batch.bytes.as_mut_slice();
        while let Some(first) = entries.first() {
            let room = self.writing.as_ref().map_or(0, Writing::room);
            let (count, fitting) = fitting(entries, room);
            if count == 0 {
                self.roll_over(first.bytes() as u64)?;
                continue;
            }
            let (these, rest) = entries.split_at_checked(count).unwrap_or((entries, &[]));
            let (run, rest_bytes) = bytes.split_at_mut_checked(fitting).unwrap_or_default();
            self.write_run(these, run)?;
            (entries, bytes) = (rest, rest_bytes);
        }
        Ok(())
    }

    /// Seals the records of a run, which fits, and writes it.
    fn write_run(&mut self, entries: &[Entry], run: &mut [u8]) -> Result<(), Failure> {
        let (key, after) = (self.key, self.committed);
        let Some(writing) = &mut self.writing else {
            return Err(Failure::GivenUp);
        };
        let seal = Seal::new(key, writing.number);
        let unit = u32::try_from(writing.unit).map_err(|_| Failure::Full)?;
        let mut offset = writing.position;
        let mut rest = &mut *run;
        for entry in entries {
            let Some((record, behind)) = rest.split_at_mut_checked(entry.bytes()) else {
                break;
            };
            if let Some((room, content)) = record.split_first_chunk_mut::<HEAD_BYTES>() {
                let head = Head {
                    number: entry.number,
                    kind: entry.kind,
                    unit,
                    length: entry.length,
                };
                *room = seal.head(head, offset, content);
            }
            offset = offset.saturating_add(entry.bytes() as u64);
            rest = behind;
            self.statistics.content_bytes += u64::from(entry.length);
        }
        let position = writing.position;
        writing.position = next_sector(offset);
        let padding = usize::try_from(writing.position.saturating_sub(offset)).unwrap_or(0);
        let written = &mut self.statistics.bytes_written;
        let disk = &mut self.disk;
        if !writing.has_header {
            let number = writing.number;
            let header = Header {
                number,
                after,
                key,
                oldest: self.segments.front().map_or(number, |oldest| oldest.number),
            };
            write_all(disk, &writing.file, 0, &header.to_bytes(), written)?;
            writing.has_header = true;
            if let Some(segment) = self.segments.back_mut() {
                segment.after = Some(after);
            }
        }
        let first_page = position / PAGE_BYTES;
        let pages = writing.position.div_ceil(PAGE_BYTES).saturating_sub(first_page);
        self.statistics.device_bytes += pages * PAGE_BYTES;
        write_all(disk, &writing.file, position, run, written)?;
        write_all(
            disk,
            &writing.file,
            offset,
            ZEROS.get(..padding).unwrap_or_default(),
            written,
        )?;
        self.statistics.records += entries.len() as u64;
        self.appended = entries.last().map_or(self.appended, |entry| entry.number);
        Ok(())
    }

    /// Waits until everything appended is on the medium, and says up to which change that is.
    ///
    /// # Errors
    /// [`Failure`]; the log is given up.
    pub fn commit(&mut self) -> Result<u64, Failure> {
        if self.is_given_up {
            return Err(Failure::GivenUp);
        }
        let committed = self.commit_all();
        self.or_give_up(committed)?;
        Ok(self.committed)
    }

    fn commit_all(&mut self) -> Result<(), Failure> {
        if let Some(writing) = &mut self.writing
            && writing.unit != writing.position
        {
            self.statistics.syncs += 1;
            self.disk.sync_data(&writing.file).map_err(Failure::Disk)?;
            writing.unit = writing.position;
            self.statistics.commits += 1;
        }
        self.committed = self.appended;
        Ok(())
    }

    /// Commits what is in the segment and takes another with room for a record of `bytes`.
    fn roll_over(&mut self, bytes: u64) -> Result<(), Failure> {
        self.commit_all()?;
        self.writing = None;
        let needed = next_sector(bytes.saturating_add(HEADER_BYTES as u64));
        let length = needed.max(self.settings.segment_bytes);
        if length > SEGMENT_BYTES_MAX {
            return Err(Failure::Full);
        }
        let number = self.take_file_number().map_err(Failure::Disk)?;
        let spare = self.take_spare(length)?;
        let name = Name::Segment(number).to_text();
        if let Err(error) = self.disk.rename(&Name::Spare(spare).to_text(), &name) {
            if error.kind() != io::ErrorKind::NotFound {
                self.spares.push(spare);
            }
            return Err(of_disk(error));
        }
        self.segments.push_back(Segment {
            number,
            length,
            after: None,
            // Until its name is there for good: a name that is not sure must not be given on.
            is_suspect: true,
        });
        self.sync_directory().map_err(Failure::Disk)?;
        if let Some(segment) = self.segments.back_mut() {
            segment.is_suspect = false;
        }
        let file = self.disk.open(&name).map_err(Failure::Disk)?;
        self.writing = Some(Writing {
            file,
            number,
            length,
            position: HEADER_BYTES as u64,
            unit: HEADER_BYTES as u64,
            has_header: false,
        });
        Ok(())
    }

    /// A file of `length`, filled: one at hand, else a new one, else the reserve.
    fn take_spare(&mut self, length: u64) -> Result<u64, Failure> {
        let is_common = length == self.settings.segment_bytes;
        if is_common
            && self.spares.len() >= SPARES
            && let Some(spare) = self.spares.pop()
        {
            return Ok(spare);
        }
        let made = if self.has_room_for(length) {
            self.make_spare(length)
        } else {
            Err(Failure::Full)
        };
        match made {
            Err(failure) if is_common => self.spares.pop().ok_or(failure),
            made => made,
        }
    }

    fn make_spare(&mut self, length: u64) -> Result<u64, Failure> {
        let mut growing = match self.growing.take() {
            Some(growing) if length == self.settings.segment_bytes => growing,
            other => {
                self.growing = other;
                self.begin_spare().map_err(of_disk)?
            }
        };
        while growing.filled < length {
            self.grow(&mut growing, length).map_err(of_disk)?;
        }
        Ok(growing.number)
    }

    fn begin_spare(&mut self) -> io::Result<Growing<D::File>> {
        let number = self.take_file_number()?;
        Ok(Growing {
            file: self.disk.create(&Name::Spare(number).to_text())?,
            number,
            filled: 0,
        })
    }

    /// Fills the next part; with the last one the file is there for good. After an error it is forgotten.
    fn grow(&mut self, growing: &mut Growing<D::File>, length: u64) -> io::Result<()> {
        let grown = self.grow_a_part(growing, length);
        if grown.is_err() {
            // What is left over is found and removed at the next start.
            let _ = self.disk.remove(&Name::Spare(growing.number).to_text());
        }
        grown
    }

    fn grow_a_part(&mut self, growing: &mut Growing<D::File>, length: u64) -> io::Result<()> {
        let end = length.min(growing.filled.saturating_add(FILL_BYTES));
        while growing.filled < end {
            let count =
                usize::try_from(end - growing.filled).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            let zeros = ZEROS.get(..count).unwrap_or_default();
            let written = &mut self.statistics.bytes_written;
            write_all_io(&mut self.disk, &growing.file, growing.filled, zeros, written)?;
            growing.filled += count as u64;
            self.statistics.device_bytes += count as u64;
        }
        let mut synced = self.sync(&growing.file);
        if growing.filled >= length {
            synced = synced.and_then(|()| self.sync_directory());
        }
        synced
    }

    /// Does a little of what need not be done at once: lets go what a checkpoint has made needless, gets files ready.
    /// Says whether there is more to do; after an error it is for the caller to say when it is tried again.
    ///
    /// # Errors
    /// What the disk says. The journal itself is as before.
    pub fn tend(&mut self) -> io::Result<bool> {
        if self.is_given_up {
            return Ok(false);
        }
        if self.remove_oldest()? {
            return Ok(true);
        }
        let length = self.settings.segment_bytes;
        if self.spares.len() >= SPARES || (self.growing.is_none() && !self.has_room_for(length)) {
            return Ok(false);
        }
        let mut growing = match self.growing.take() {
            Some(growing) => growing,
            None => self.begin_spare()?,
        };
        self.grow(&mut growing, length)?;
        if growing.filled < length {
            self.growing = Some(growing);
        } else {
            self.spares.push(growing.number);
        }
        Ok(true)
    }

    /// Lets the oldest segment go if a checkpoint stands behind it. One at a time, each for good before the next: a
    /// deletion must not go before what it deletes.
    fn remove_oldest(&mut self) -> io::Result<bool> {
        let ends_before = |next: &Segment| next.after.is_some_and(|after| after < self.checkpoint.before);
        let is_needless = self.segments.iter().skip(1).any(ends_before);
        let Some(oldest) = self.segments.front().copied().filter(|_| is_needless) else {
            if self.checkpoint.before > 0 {
                self.checkpoint.before = 0;
                self.checkpoint.bytes = self.bytes_of_segments();
            }
            return Ok(false);
        };
        let is_common = oldest.length == self.settings.segment_bytes && !oldest.is_suspect;
        let name = Name::Segment(oldest.number).to_text();
        let is_within = self.bytes() <= self.settings.bytes_max;
        let mut is_used_again = is_common && is_within && self.spares.len() < SPARES_MAX;
        if is_used_again {
            match self.disk.rename(&name, &Name::Spare(oldest.number).to_text()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_used_again = false,
                renamed => renamed?,
            }
        } else {
            self.remove_if_there(&name)?;
        }
        self.segments.pop_front();
        if let Err(error) = self.sync_directory() {
            // Whether it has gone is not known. The next header says that it should have.
            self.give_up();
            return Err(error);
        }
        if is_used_again {
            self.spares.insert(0, oldest.number);
        }
        Ok(true)
    }

    /// Says that the caller gives everything again, from its next change on.
    pub fn begin_checkpoint(&mut self) {
        self.widen();
        self.checkpoint.is_running = true;
        self.checkpoint.kept_max = self.kept;
    }

    /// Says how much is kept, by any measure that follows what a checkpoint would write: where there is no room for new
    /// promises, it shows when a checkpoint would make some.
    pub fn note_kept(&mut self, kept: u64) {
        self.kept = kept;
        self.checkpoint.kept_max = self.checkpoint.kept_max.max(kept);
    }

    /// Says that everything there is stands, committed, from change `first` on: all segments that end before it go, by
    /// and by, as [`tend`](Self::tend) is called.
    pub fn end_checkpoint(&mut self, first: u64) {
        if self.is_given_up {
            return;
        }
        self.checkpoint.is_running = false;
        self.checkpoint.before = first.min(self.committed.saturating_add(1));
        self.anew = None;
    }

    /// Whether it is time for a checkpoint, which is to begin at once: there is so much in the journal that half of it
    /// must be needless, or the room for one will be needed soon.
    pub fn wants_checkpoint(&self) -> bool {
        if self.checkpoint.is_running || self.checkpoint.before > 0 || self.is_given_up {
            return false;
        }
        let bytes = self.bytes_of_segments();
        let step = self.settings.segment_bytes;
        let last = self.checkpoint.bytes;
        let is_worth_it = bytes
            >= last
                .saturating_mul(2)
                .max(step.saturating_mul(CHECKPOINT_SEGMENTS_MIN));
        // Once nothing new is promised little may be written any more: where a checkpoint makes room, it must not wait
        // for that. The eighths see to it that one that does not help is not followed by another.
        let kept_max = self.checkpoint.kept_max;
        let is_pressing = bytes > percent(self.settings.bytes_max, CHECKPOINT_PERCENT)
            && (bytes >= last.saturating_add(step.max(last / 8))
                || self.kept < kept_max - kept_max / KEPT_PARTS);
        is_worth_it || is_pressing
    }

    /// What there is room for.
    pub fn room(&mut self) -> Room {
        if self.is_given_up {
            return Room::None;
        }
        let has_next = self.spares.len() >= SPARES || self.has_room_for(self.settings.segment_bytes);
        let left = self.writing.as_ref().map_or(0, Writing::room);
        if !has_next && self.spares.is_empty() && left < LEFT_BYTES_MIN {
            return Room::None;
        }
        // One that is asked for begins at once, and whoever comes meanwhile need not be refused.
        let is_making_room =
            self.checkpoint.is_running || self.checkpoint.before > 0 || self.wants_checkpoint();
        let share = if is_making_room {
            CHECKPOINTING_PERCENT
        } else {
            PROMISES_PERCENT
        };
        let is_within = self.bytes_of_segments() <= percent(self.settings.bytes_max, share);
        if has_next && is_within {
            Room::Plenty
        } else {
            Room::ReserveOnly
        }
    }

    /// Whether the disk has failed and nothing is accepted until [`begin_anew`](Self::begin_anew).
    pub fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// The number of the last change that survives.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Tries, after a failure, to begin a new segment. When that works, changes are accepted again, and the caller owes
    /// a checkpoint, which runs from now on, for some are missing. Until [`end_checkpoint`](Self::end_checkpoint) a
    /// commit is no promise: where the disk fails again before, all since goes and the next attempt begins where this
    /// one did.
    ///
    /// # Errors
    /// [`Failure`]; it can be tried again later.
    pub fn begin_anew(&mut self) -> Result<(), Failure> {
        if !self.is_given_up {
            return Ok(());
        }
        self.checkpoint.before = 0;
        let begun = self.begin_segment_anew();
        if begun.is_err() {
            self.give_up();
        }
        begun
    }

    fn begin_segment_anew(&mut self) -> Result<(), Failure> {
        match self.anew {
            Some(anew) => self.committed = anew.committed,
            None => self.widen(),
        }
        self.appended = self.committed;
        match self.roll_over(0) {
            Err(Failure::Full) if self.anew.is_some() => {
                self.drop_unfinished().map_err(Failure::Disk)?;
                self.roll_over(0)?;
            }
            rolled => rolled?,
        }
        // Written and synced at once: that shows whether the disk works, and tells what was lost.
        self.write_run(&[], &mut [])?;
        let Some(writing) = &self.writing else {
            return Err(Failure::GivenUp);
        };
        self.statistics.syncs += 1;
        self.disk.sync_data(&writing.file).map_err(Failure::Disk)?;
        let segment = writing.number;
        if self.drop_superseded(segment).is_ok() {
            let committed = self.committed;
            self.anew = Some(Anew { segment, committed });
        }
        self.is_given_up = false;
        self.checkpoint.is_running = true;
        Ok(())
    }

    /// Makes room for another attempt to begin anew by what came of the last one, of which the checkpoint was not
    /// finished: from the newest, so that no hole comes about, and not the first, which tells what was lost.
    fn drop_unfinished(&mut self) -> io::Result<()> {
        let first = self.anew.map_or(u64::MAX, |anew| anew.segment);
        while let Some(newest) = self.segments.back().filter(|newest| newest.number > first) {
            self.remove_if_there(&Name::Segment(newest.number).to_text())?;
            self.sync_directory()?;
            self.segments.pop_back();
        }
        Ok(())
    }

    /// Lets go what came of earlier attempts to begin anew: nothing of it holds since segment `newest` begins where
    /// they did.
    fn drop_superseded(&mut self, newest: u64) -> io::Result<()> {
        let Some(first) = self.anew.map(|anew| anew.segment) else {
            return Ok(());
        };
        while let Some(place) = self
            .segments
            .iter()
            .position(|segment| segment.number >= first && segment.number < newest)
        {
            let number = self.segments.get(place).map_or(0, |segment| segment.number);
            self.remove_if_there(&Name::Segment(number).to_text())?;
            self.segments.remove(place);
        }
        self.sync_directory()
    }

    /// What was counted.
    pub fn statistics(&self) -> LogStatistics {
        self.statistics
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// What all of the journal's files take on the disk, in bytes.
    pub fn bytes(&self) -> u64 {
        let spares = (self.spares.len() as u64).saturating_mul(self.settings.segment_bytes);
        let growing = self.growing.as_ref().map_or(0, |growing| growing.filled);
        self.bytes_of_segments()
            .saturating_add(spares)
            .saturating_add(growing)
    }

    fn bytes_of_segments(&self) -> u64 {
        self.segments
            .iter()
            .fold(0, |sum, segment| sum.saturating_add(segment.length))
    }

    fn has_room_for(&mut self, length: u64) -> bool {
        let needed = length.saturating_add(self.settings.free_bytes_min);
        let bytes_max = match self.checkpoint.is_running || self.is_given_up {
            true => self.checkpoint.bytes_max.max(self.settings.bytes_max),
            false => self.settings.bytes_max,
        };
        self.bytes().saturating_add(length) <= bytes_max
            && self.disk.free_bytes().is_ok_and(|free| free >= needed)
    }

    /// What makes room must not be kept from it by the very bound, whatever others left that were cut short.
    fn widen(&mut self) {
        self.checkpoint.bytes_max = self.bytes().saturating_add(self.settings.bytes_max);
    }

    fn remove_if_there(&mut self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Fails at the last number, which nothing but a file that others named so leads to: a segment with a number
    /// beyond would not be found again.
    fn take_file_number(&mut self) -> io::Result<u64> {
        let number = self.next_file;
        if number >= NUMBERS_MAX {
            return Err(io::Error::other(
                "a file of it has the last number there is: move that file away and start again",
            ));
        }
        self.next_file = number.saturating_add(1);
        Ok(number)
    }

    fn sync(&mut self, file: &D::File) -> io::Result<()> {
        self.statistics.syncs += 1;
        self.disk.sync_data(file)
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        self.statistics.syncs += 1;
        self.disk.sync_directory()
    }

    fn or_give_up<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            self.give_up();
        }
        result
    }

    fn give_up(&mut self) {
        self.statistics.failures += 1;
        self.is_given_up = true;
        // Its name may not be there for good.
        if let Some(growing) = self.growing.take() {
            let _ = self.disk.remove(&Name::Spare(growing.number).to_text());
        }
        self.checkpoint.is_running = false;
        if self.writing.take().is_some()
            && let Some(segment) = self.segments.back_mut()
        {
            segment.is_suspect = true;
        }
    }
}

impl<F> Writing<F> {
    fn room(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }
}

/// How many of the records go into `room`, and their bytes.
fn fitting(entries: &[Entry], room: u64) -> (usize, usize) {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bytes = 0_usize;
    for (count, entry) in entries.iter().enumerate() {
        let with = bytes.saturating_add(entry.bytes());
        if with > room {
            return (count, bytes);
        }
        bytes = with;
    }
    (entries.len(), bytes)
}

fn write_all<D: Disk>(
    disk: &mut D,
    file: &D::File,
    offset: u64,
    bytes: &[u8],
    written: &mut u64,
) -> Result<(), Failure> {
    write_all_io(disk, file, offset, bytes, written).map_err(of_disk)
}

fn write_all_io<D: Disk>(
    disk: &mut D,
    file: &D::File,
    mut offset: u64,
    mut bytes: &[u8],
    written: &mut u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write_at(file, offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *written += count as u64;
                offset = offset.saturating_add(count as u64);
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn of_disk(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Full,
        _ => Failure::Disk(error),
    }
}

fn percent(whole: u64, hundredths: u64) -> u64 {
    (whole / 100).saturating_mul(hundredths)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("there is no room for the journal, not even in its reserve"),
            Self::Disk(source) => write!(f, "the disk failed under the journal: {source}"),
            Self::GivenUp => f.write_str("the journal was given up after the disk had failed"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk(source) => Some(source),
            _ => None,
        }
    }
}
