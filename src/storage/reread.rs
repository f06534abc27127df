//! Reading again, while the journal is written, what stands in it.

use super::Disk;
use super::log::Log;
use super::scan::{Scan, Step, Window};
use super::segment::{Name, Seal};

/// Where records were read last: whoever reads on from there need not look for the place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    segment: u64,
    /// Where the record that was read last ends in the file.
    position: u64,
    /// Its number.
    number: u64,
}

/// So many readers find their places again: one for each client that comes back at the same time, in a small house.
const MARKS_MAX: usize = 16;

/// How often a file is opened that does not open: a medium may be tired for a moment.
const TRIES: usize = 3;

impl<D: Disk> Log<D> {
    /// Gives the records from change `first` to `last` that hold to `visit`, in order: number, kind and content, until
    /// `visit` says that it has enough. Says up to which change they were given, or would have been had they been
    /// there: what cannot be read is passed over.
    ///
    /// What was appended and not committed is read, too.
    pub fn read_again(
        &mut self,
        first: u64,
        last: u64,
        mut visit: impl FnMut(u64, u8, &[u8]) -> bool,
    ) -> u64 {
        let mut next = first;
        // For each segment, what a later one says was lost of it.
        let mut segments = Vec::with_capacity(self.segments.len());
        let mut bound = u64::MAX;
        for segment in self.segments.iter().rev() {
            segments.push((segment.number, segment.after, bound));
            bound = bound.min(segment.after.unwrap_or(u64::MAX));
        }
        let ends_before = |&(.., bound): &(u64, Option<u64>, u64)| bound < first;
        for &(segment, after, bound) in segments.iter().rev().skip_while(|segment| ends_before(segment)) {
            let Some(after) = after else { continue }; // nothing stands in it
            if after >= last {
                break;
            }
            let upto = bound.min(last);
            if let Some(stopped) = self.read_segment_again(segment, next, upto, &mut visit) {
                return stopped;
            }
            next = next.max(upto.saturating_add(1));
        }
        last
    }

    /// The same of one segment; the change at which `visit` had enough.
    fn read_segment_again(
        &mut self,
        segment: u64,
        first: u64,
        last: u64,
        visit: &mut impl FnMut(u64, u8, &[u8]) -> bool,
    ) -> Option<u64> {
        let name = Name::Segment(segment).to_text();
        let file = (0..TRIES).find_map(|_| self.disk.open(&name).ok())?;
        let mut window = Window::new(&mut self.disk, &file).ok()?;
        let seal = Seal::new(self.key, segment);
        let marks = self.marks.iter();
        let mark = marks
            .filter(|mark| mark.segment == segment && mark.number < first)
            .max_by_key(|mark| mark.number);
        let (mut scan, mut before) = match mark {
            Some(mark) => (Scan::from(seal, mark.position), mark.number),
            None => (Scan::new(seal), 0),
        };
        loop {
            let found = match scan.step(&mut window) {
                Step::End { .. } => return None,
                Step::Damage => continue,
                Step::Record(found) => found,
            };
            let number = found.head.number;
            if number > last {
                return None;
            }
            // A start writes again what was written last; once is enough.
            if number <= before {
                continue;
            }
            before = number;
            let mark = Mark {
                segment,
                position: found.end(),
                number,
            };
            if number < first {
                continue;
            }
            let content = window.slice(found.content_offset(), found.content_bytes());
            let has_enough = content.is_some_and(|content| !visit(number, found.head.kind, content));
            if has_enough || number == last {
                self.marks
                    .retain(|known| known.segment != segment || known.number.saturating_add(1) != first);
                if self.marks.len() >= MARKS_MAX {
                    self.marks.pop_front();
                }
                self.marks.push_back(mark);
            }
            if has_enough {
                return Some(number);
            }
            if number == last {
                return None;
            }
        }
    }
}
