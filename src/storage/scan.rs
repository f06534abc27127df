//! Reading a segment: record by record, past whatever is damaged.

use std::io;

use super::Disk;
use super::segment::{HEAD_BYTES, HEADER_BYTES, Head, RECORD_MAGIC, Seal, next_sector};

/// A file seen through a window, so that a segment need not fit into memory. What cannot be read reads as zeros.
pub(super) struct Window<'a, D: Disk> {
    disk: &'a mut D,
    file: &'a D::File,
    length: u64,
    /// Where the window begins in the file.
    begin: u64,
    bytes: Vec<u8>,
    /// How many reads failed.
    failures: usize,
}

/// How much is read at once.
const WINDOW_BYTES: usize = 64 * 1024;
/// How finely an area is read that could not be read at once: a page, which is what a medium fails by.
const PAGE_BYTES: usize = 4096;
/// How often the disk is asked before what it does not give counts as lost: a bus or a card may err once.
const TRIES_MAX: usize = 3;
/// Where so many pages were not given however often they were asked for, the others are asked for once.
const RETRIED_MAX: usize = 8;
/// A dead medium takes its time for every page it does not give; after this many no more are asked for.
const FAILURES_MAX: usize = 64;

/// Asks the disk, and again where it fails.
pub(super) fn persist<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match ask() {
            Err(_) if tries < TRIES_MAX => tries += 1,
            other => return other,
        }
    }
}

impl<'a, D: Disk> Window<'a, D> {
    pub(super) fn new(disk: &'a mut D, file: &'a D::File) -> io::Result<Self> {
        let length = persist(|| disk.length(file))?;
        Ok(Self {
            disk,
            file,
            length,
            begin: 0,
            bytes: Vec::new(),
            failures: 0,
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether everything asked for could be read.
    pub(super) fn is_readable(&self) -> bool {
        self.failures == 0
    }

    /// The bytes at `offset`; `None` when they go beyond the file's end.
    pub(super) fn slice(&mut self, offset: u64, length: usize) -> Option<&[u8]> {
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        if end > self.length {
            return None;
        }
        let window_end = self.begin.saturating_add(self.bytes.len() as u64);
        if offset < self.begin || end > window_end {
            let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
            self.fill(offset, length.max(WINDOW_BYTES).min(left));
        }
        let at = usize::try_from(offset - self.begin).ok()?;
        self.bytes.get(at..at.checked_add(length)?)
    }

    /// Some bytes from `offset` on, enough for the head of a record; `None` where no record fits any more.
    fn ahead(&mut self, offset: u64) -> Option<&[u8]> {
        let window_end = self.begin.saturating_add(self.bytes.len() as u64);
        let seen = window_end.saturating_sub(offset);
        if offset >= self.begin && seen >= HEAD_BYTES as u64 {
            self.slice(offset, usize::try_from(seen).ok()?)
        } else {
            self.slice(offset, HEAD_BYTES)?;
            let seen = self.length.saturating_sub(offset).min(WINDOW_BYTES as u64);
            self.slice(offset, usize::try_from(seen).ok()?)
        }
    }

    /// Whether zeros follow from `offset` to the end of its sector.
    fn is_filled_up(&mut self, offset: u64) -> bool {
        usize::try_from(next_sector(offset) - offset)
            .ok()
            .and_then(|gap| self.slice(offset, gap))
            .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }

    fn fill(&mut self, offset: u64, length: usize) {
        self.begin = offset;
        self.bytes.clear();
        self.bytes.resize(length, 0);
        let mut at = 0;
        let mut step = usize::MAX;
        let mut tries = 1;
        while at < length && self.failures < FAILURES_MAX {
            let end = at.saturating_add(step).min(length);
            let Some(part) = self.bytes.get_mut(at..end) else {
                return;
            };
            match self.disk.read_at(self.file, offset + at as u64, part) {
                Ok(0) => return,
                Ok(read) => {
                    at += read.min(end - at);
                    tries = 1;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if step > PAGE_BYTES => step = PAGE_BYTES,
                Err(_) if tries < TRIES_MAX && self.failures < RETRIED_MAX => tries += 1,
                Err(_) => {
                    part.fill(0);
                    self.failures += 1;
                    tries = 1;
                    at = end;
                }
            }
        }
    }
}

/// A whole record where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) offset: u64,
}

impl Found {
    pub(super) fn content_offset(self) -> u64 {
        self.offset.saturating_add(HEAD_BYTES as u64)
    }

    pub(super) fn content_bytes(self) -> usize {
        usize::try_from(self.head.length).unwrap_or(usize::MAX)
    }

    pub(super) fn end(self) -> u64 {
        self.content_offset().saturating_add(self.head.length.into())
    }
}

/// What comes next in a segment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Record(Found),
    /// No record holds here; the next step is one that does.
    Damage,
    /// No whole record follows. `is_clean` when there is not even the head of one.
    End {
        is_clean: bool,
    },
}

/// Walks over the records of one segment.
pub(super) struct Scan {
    seal: Seal,
    position: u64,
    /// Found behind damage that was told.
    found: Option<Found>,
    /// There was the head of a record whose content is not there.
    has_torn: bool,
}

impl Scan {
    pub(super) fn new(seal: Seal) -> Self {
        Self::from(seal, HEADER_BYTES as u64)
    }

    /// Goes on behind a record that ends at `position`.
    pub(super) fn from(seal: Seal, position: u64) -> Self {
        Self {
            seal,
            position,
            found: None,
            has_torn: false,
        }
    }

    pub(super) fn step<D: Disk>(&mut self, window: &mut Window<'_, D>) -> Step {
        let next = self.found.take().or_else(|| self.adjoining(window));
        if let Some(found) = next {
            self.position = found.end();
            return Step::Record(found);
        }
        self.found = self.search(window);
        match self.found {
            Some(_) => Step::Damage,
            None => Step::End {
                is_clean: !self.has_torn && window.is_readable(),
            },
        }
    }

    /// The record that begins right here, or, behind the zeros that fill up a sector, at the next.
    fn adjoining<D: Disk>(&mut self, window: &mut Window<'_, D>) -> Option<Found> {
        if let Some(found) = self.whole(window, self.position) {
            return Some(found);
        }
        let sector = next_sector(self.position);
        (sector > self.position && window.is_filled_up(self.position))
            .then(|| self.whole(window, sector))
            .flatten()
    }

    fn search<D: Disk>(&mut self, window: &mut Window<'_, D>) -> Option<Found> {
        let mut offset = self.position;
        loop {
            let bytes = window.ahead(offset)?;
            let candidate = bytes
                .windows(RECORD_MAGIC.len())
                .position(|bytes| bytes == RECORD_MAGIC);
            match candidate {
                // The last of them may be the beginning of one.
                None => offset += (bytes.len() - (RECORD_MAGIC.len() - 1)) as u64,
                Some(at) => {
                    offset += at as u64;
                    if let Some(found) = self.whole(window, offset) {
                        return Some(found);
                    }
                    offset += 1;
                }
            }
        }
    }

    fn whole<D: Disk>(&mut self, window: &mut Window<'_, D>, offset: u64) -> Option<Found> {
        let head_bytes: [u8; HEAD_BYTES] = *window.slice(offset, HEAD_BYTES)?.first_chunk()?;
        let head = self.seal.open_head(offset, &head_bytes)?;
        let found = Found { head, offset };
        let is_whole = window
            .slice(found.content_offset(), found.content_bytes())
            .is_some_and(|content| self.seal.holds(&head_bytes, content));
        self.has_torn |= !is_whole;
        is_whole.then_some(found)
    }
}

/// What a segment's last unit came to, for the segment that was written last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Survey {
    /// The first change that holds.
    pub(super) first: Option<u64>,
    /// Where the last unit begins, if anything of it holds.
    pub(super) unit: Option<u32>,
    /// Where the last unit has its first hole; what is whole behind that does not hold.
    pub(super) cut: Option<u64>,
    /// Where the last record that holds ends.
    pub(super) end: u64,
    /// Nothing of a record follows, so that more can be written behind it.
    pub(super) is_clean: bool,
}

impl Survey {
    pub(super) fn of<D: Disk>(window: &mut Window<'_, D>, seal: Seal) -> Self {
        let mut scan = Scan::new(seal);
        let mut survey = Self {
            first: None,
            unit: None,
            cut: None,
            end: HEADER_BYTES as u64,
            is_clean: false,
        };
        let mut unit = None;
        // Of what lies behind a hole: holds only when a later unit shows that it was once whole.
        let mut doubtful = None;
        let mut is_damaged = false;
        let mut last = 0_u64;
        loop {
            match scan.step(window) {
                Step::Damage => is_damaged = true,
                Step::Record(found) => {
                    // What a sector lost at its end may look like what fills it up.
                    let number = found.head.number;
                    is_damaged |= number != std::mem::replace(&mut last, number).wrapping_add(1);
                    if unit != Some(found.head.unit) {
                        unit = Some(found.head.unit);
                        survey.first = survey.first.or(doubtful.take());
                        survey.cut = None;
                        survey.unit = None;
                        is_damaged = found.offset != u64::from(found.head.unit);
                    }
                    if is_damaged && survey.cut.is_none() {
                        survey.cut = Some(found.offset);
                    }
                    if survey.cut.is_none() {
                        survey.first = survey.first.or(Some(found.head.number));
                        survey.unit = unit;
                        survey.end = found.end();
                    } else {
                        doubtful = doubtful.or(Some(found.head.number));
                    }
                    is_damaged = false;
                }
                Step::End { is_clean } => {
                    // What is left of a torn record must not come to stand in the middle.
                    survey.is_clean = is_clean && survey.cut.is_none() && window.is_filled_up(survey.end);
                    return survey;
                }
            }
        }
    }
}
