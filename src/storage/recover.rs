//! Finding out, at the start, what a journal holds. Nothing is written here.
//!
//! Segments are read from the oldest to the newest. What is there is told from what is not by three rules:
//! - in the segment that was written last, the last unit ends at its first hole, be it only a number that is missing
//!   (see [`super::segment`]);
//! - what an earlier segment has beyond the change a later one says it comes after was told to be lost, and is;
//! - everything else that is whole holds, and what is not is passed over and counted.

use std::fmt;
use std::io;

use super::scan::{Found, Scan, Step, Survey, Window, persist};
use super::segment::{HEADER_BYTES, Header, HeaderFound, Name, Seal};
use super::{Batch, Disk};

/// What was found in a journal. All but the first four count what should not be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// How many records hold.
    pub records: u64,
    /// The number of the last change that holds; 0 when there is none.
    pub last: u64,
    /// How many segments there are.
    pub segments: u64,
    /// The end was torn off: something was being written when the power went. Nothing acknowledged was in it.
    pub is_torn: bool,
    /// Records that were told to be lost when their segment was given up.
    pub given_up: u64,
    /// Stretches of damage that were passed over.
    pub damaged: u64,
    /// Changes that stood in damaged or missing places, as far as the numbers of those around them tell: once a disk
    /// has failed, some may be counted that were told to be lost then.
    pub missing: u64,
    /// Records with a number that was there before: every start writes again what the last one may not have synced.
    pub repeated: u64,
    /// Segments, or parts of them, that the disk did not give, asked more than once.
    pub unreadable: u64,
    /// Files in the folder that are not the journal's. They are left alone.
    pub foreign: u64,
}

/// Why a journal cannot be opened. No byte of it was touched.
#[derive(Debug)]
pub enum OpenError {
    /// A later version of this program wrote it.
    Newer {
        /// The file.
        name: String,
        /// The version of its format.
        version: u16,
    },
    /// The folder cannot be read.
    Disk(io::Error),
}

/// What is known about a journal's files once they were read.
pub(super) struct Recovered<F> {
    pub(super) report: Recovery,
    pub(super) key: u64,
    /// Oldest first.
    pub(super) segments: Vec<Segment>,
    /// No segment's header is whole, so that the key stands only in other files, if anywhere.
    pub(super) is_key_elsewhere: bool,
    /// The numbers of segments that should have gone before.
    pub(super) needless: Vec<u64>,
    /// The numbers of the files to be made segments, each with its length.
    pub(super) spares: Vec<(u64, u64)>,
    /// The segment that was written last.
    pub(super) written_last: Option<F>,
    /// What holds of the last unit. Nobody knows whether it was synced, and a sync that failed leaves it to be read
    /// from the system's memory as if it had been.
    pub(super) unsure: Batch,
    /// Where the newest segment can be written on.
    pub(super) resume: Option<Resume<F>>,
}

/// A segment among the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) length: u64,
    /// The last change before it; `None` while nothing stands in it.
    pub(super) after: Option<u64>,
    /// The disk failed on it, so that it is not used again.
    pub(super) is_suspect: bool,
}

/// A place to write on.
pub(super) struct Resume<F> {
    pub(super) file: F,
    pub(super) position: u64,
    pub(super) has_header: bool,
}

/// A segment while it is read.
struct Candidate {
    number: u64,
    length: u64,
    header: Option<Header>,
    survey: Option<Survey>,
    is_readable: bool,
}

/// How far the changes have come while the segments are read.
#[derive(Default)]
struct Progress {
    /// The last change that was read.
    last: u64,
    has_read: bool,
    /// The last change that a header says there was.
    known: u64,
    /// Nothing was read yet, so what came before is not known and not missed.
    has_begun: bool,
    /// The next record may have any number: those that are missing were told to be lost.
    may_jump: bool,
}

/// Reads the journal and gives every record that holds to `replay`: its number, kind and content.
pub(super) fn recover<D: Disk>(
    disk: &mut D,
    fresh_key: u64,
    mut replay: impl FnMut(u64, u8, &[u8]),
) -> Result<Recovered<D::File>, OpenError> {
    let mut report = Recovery::default();
    let mut candidates = Vec::new();
    let mut spares = Vec::new();
    let mut any_key = None;
    let mut names: Vec<Name> = Vec::new();
    for name in persist(|| disk.list()).map_err(OpenError::Disk)? {
        match Name::parse(&name) {
            Some(name) => names.push(name),
            None => report.foreign += 1,
        }
    }
    names.sort_unstable_by_key(|name| name.number());
    for name in names {
        let (mut candidate, header) = Candidate::look_at(disk, name)?;
        any_key = header.map(|header| header.key).or(any_key);
        match name {
            Name::Segment(number) => {
                // A header from the file's life before says nothing about this one.
                candidate.header = header.filter(|header| header.number == number);
                candidates.push(candidate);
            }
            Name::Spare(number) => spares.push((number, candidate.length)),
        }
    }
    let headers = candidates.iter().filter_map(|candidate| candidate.header);
    let oldest = headers.map(|header| header.oldest).max().unwrap_or(0);
    let needless = candidates
        .extract_if(.., |candidate| candidate.number < oldest)
        .map(|candidate| candidate.number)
        .collect();
    let headers = candidates.iter().filter_map(|candidate| candidate.header);
    let key_of_segments = headers.map(|header| header.key).next_back();
    let key = key_of_segments.or(any_key).unwrap_or(fresh_key);
    report.segments = candidates.len() as u64;

    // The newest in which anything stands was written last. Where a header is gone, only reading tells.
    let mut written_last = None;
    for (index, candidate) in candidates.iter_mut().enumerate().rev() {
        if written_last.is_none() || candidate.header.is_none() {
            candidate.survey(disk, key);
        }
        if written_last.is_none() && candidate.after().is_some() {
            written_last = Some(index);
        }
    }
    // For each segment the least that a later one says it comes after.
    let mut bound = u64::MAX;
    let mut bounds: Vec<u64> = Vec::with_capacity(candidates.len());
    for candidate in candidates.iter().rev() {
        bounds.push(bound);
        bound = bound.min(candidate.after().unwrap_or(u64::MAX));
    }
    bounds.reverse();

    let mut progress = Progress::default();
    let mut unsure = Batch::default();
    for (index, (candidate, bound)) in candidates.iter_mut().zip(bounds).enumerate() {
        progress.enter(candidate, &mut report);
        // Behind the one written last, what was begun may not have come as far as to hold.
        let is_last = Some(index) == written_last || candidate.after().is_none();
        let of_last = candidate.survey.filter(|_| is_last);
        let limits = (bound, of_last.and_then(|survey| survey.cut).unwrap_or(u64::MAX));
        let last_unit = of_last.and_then(|survey| survey.unit);
        let replay = |found: Found, content: &[u8]| {
            replay(found.head.number, found.head.kind, content);
            if Some(found.head.unit) == last_unit {
                // No longer than it was, so it is taken.
                let _ = unsure.push(found.head.number, found.head.kind, |to| {
                    to.extend_from_slice(content);
                });
            }
        };
        candidate.replay(disk, key, limits, &mut progress, &mut report, replay);
        report.unreadable += u64::from(!candidate.is_readable);
        report.is_torn |= of_last.is_some_and(|survey| !survey.is_clean);
    }
    report.last = progress.known();

    let open = |disk: &mut D, candidate: &Candidate| {
        let name = candidate.name();
        persist(|| disk.open(&name)).ok()
    };
    let mut resume = None;
    if let Some(candidate) = candidates.last()
        && let Some(position) = candidate.end()
        && let Some(file) = open(disk, candidate)
    {
        let has_header = candidate.header.is_some();
        resume = Some(Resume {
            file,
            position,
            has_header,
        });
    }
    let written_last = written_last
        .filter(|index| resume.is_none() || index + 1 < candidates.len())
        .and_then(|index| open(disk, candidates.get(index)?));
    Ok(Recovered {
        report,
        key,
        segments: candidates.iter().map(Candidate::to_segment).collect(),
        needless,
        is_key_elsewhere: key_of_segments.is_none() && !candidates.is_empty(),
        spares,
        written_last,
        unsure,
        resume,
    })
}

impl Candidate {
    fn look_at<D: Disk>(disk: &mut D, name: Name) -> Result<(Self, Option<Header>), OpenError> {
        let mut candidate = Self {
            number: name.number(),
            length: 0,
            header: None,
            survey: None,
            is_readable: false,
        };
        let Ok(file) = persist(|| disk.open(&name.to_text())) else {
            return Ok((candidate, None));
        };
        let Ok(mut window) = Window::new(disk, &file) else {
            return Ok((candidate, None));
        };
        candidate.length = window.length();
        let seen = usize::try_from(window.length()).map_or(HEADER_BYTES, |length| length.min(HEADER_BYTES));
        let found = window.slice(0, seen).map(Header::find);
        candidate.is_readable = window.is_readable();
        match found {
            Some(HeaderFound::Whole(header)) => Ok((candidate, Some(header))),
            Some(HeaderFound::Newer(version)) => Err(OpenError::Newer {
                name: name.to_text(),
                version,
            }),
            Some(HeaderFound::Nothing) | None => Ok((candidate, None)),
        }
    }

    fn name(&self) -> String {
        Name::Segment(self.number).to_text()
    }

    fn seal(&self, key: u64) -> Seal {
        Seal::new(self.header.map_or(key, |header| header.key), self.number)
    }

    /// The last change before the segment, where anything stands in it.
    fn after(&self) -> Option<u64> {
        match self.header {
            Some(header) => Some(header.after),
            // What was found first is the most that can be known.
            None => Some(self.survey?.first?.saturating_sub(1)),
        }
    }

    /// Where more can be written, if it can.
    fn end(&self) -> Option<u64> {
        let survey = self.survey.filter(|survey| survey.is_clean)?;
        // Behind records of which the header is gone nothing is written: it would be read by a guess. The same where
        // the header came with the last unit, of which nobody knows whether it is on the medium.
        let is_sound = match self.header {
            Some(_) => survey.unit.is_some_and(|unit| unit > HEADER_BYTES as u32),
            None => survey.first.is_none(),
        };
        (is_sound && self.is_readable).then_some(survey.end)
    }

    fn to_segment(&self) -> Segment {
        Segment {
            number: self.number,
            length: self.length,
            after: self.after(),
            is_suspect: !self.is_readable,
        }
    }

    fn survey<D: Disk>(&mut self, disk: &mut D, key: u64) {
        let seal = self.seal(key);
        self.with_window(disk, |window, candidate| {
            candidate.survey = Some(Survey::of(window, seal));
        });
    }

    /// Gives what holds to `replay`: up to the change and the place in `limits`.
    fn replay<D: Disk>(
        &mut self,
        disk: &mut D,
        key: u64,
        (change_max, cut): (u64, u64),
        progress: &mut Progress,
        report: &mut Recovery,
        mut replay: impl FnMut(Found, &[u8]),
    ) {
        let mut scan = Scan::new(self.seal(key));
        self.with_window(disk, |window, _| {
            let mut damaged = 0;
            loop {
                match scan.step(window) {
                    Step::Damage => {
                        damaged = 1;
                        progress.may_jump = false;
                    }
                    Step::Record(found) if found.offset >= cut => return,
                    Step::Record(found) if found.head.number > change_max => {
                        report.given_up += 1;
                        damaged = 0;
                    }
                    Step::Record(found) => {
                        // Where the next change follows, nothing stood there that does not stand elsewhere.
                        let is_next =
                            progress.has_read && found.head.number == progress.last.saturating_add(1);
                        report.damaged += if is_next { 0 } else { damaged };
                        damaged = 0;
                        if !progress.advance(found.head.number, report) {
                            continue;
                        }
                        let content = window.slice(found.content_offset(), found.content_bytes());
                        if let Some(content) = content {
                            report.records += 1;
                            replay(found, content);
                        }
                    }
                    Step::End { .. } => return,
                }
            }
        });
    }

    fn with_window<D: Disk>(&mut self, disk: &mut D, look: impl FnOnce(&mut Window<'_, D>, &mut Self)) {
        let name = self.name();
        let Ok(file) = persist(|| disk.open(&name)) else {
            self.is_readable = false;
            return;
        };
        match Window::new(disk, &file) {
            Ok(mut window) => {
                look(&mut window, self);
                self.is_readable &= window.is_readable();
            }
            Err(_) => self.is_readable = false,
        }
    }
}

impl Progress {
    /// Goes on to the next segment, which may say that there was more than was read.
    fn enter(&mut self, candidate: &Candidate, report: &mut Recovery) {
        self.may_jump = false;
        if let Some(after) = candidate.header.map(|header| header.after) {
            if self.has_begun {
                report.missing = report.missing.saturating_add(after.saturating_sub(self.known()));
            }
            self.known = self.known.max(after);
            self.has_begun = true;
            self.may_jump = true;
        }
    }

    /// The last change that is known to have been.
    fn known(&self) -> u64 {
        self.known.max(self.last)
    }

    /// Whether the change is news.
    fn advance(&mut self, number: u64, report: &mut Recovery) -> bool {
        if self.has_read && number <= self.last {
            report.repeated += 1;
            return false;
        }
        if self.has_begun && number <= self.known() {
            // It was missed where it stood first, and here it is again.
            report.missing = report.missing.saturating_sub(1);
        } else if self.has_begun && !self.may_jump {
            let between = number.saturating_sub(self.known()).saturating_sub(1);
            report.missing = report.missing.saturating_add(between);
        }
        self.has_begun = true;
        self.has_read = true;
        self.may_jump = false;
        self.last = number;
        true
    }
}

impl Recovery {
    /// Whether nothing but what a power cut leaves was found.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.missing == 0 && self.unreadable == 0
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { name, version } => write!(
                f,
                "the journal's file {name} has format version {version}, expected 1: a later version of this \
                 program wrote it; start that one, or move the journal away to begin without what it holds"
            ),
            Self::Disk(source) => write!(f, "cannot read the journal's folder: {source}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Newer { .. } => None,
            Self::Disk(source) => Some(source),
        }
    }
}
