//! Where what the core gives is stored: completed late, refused, or cut off by the end of the process; in a list, or by
//! the real journal on a simulated disk.
//!
//! Beside what is stored stands, for every input whose changes are not, what the oracle held after it: when the process
//! ends, as many of them as luck has it were stored, and the oracle goes on from there.

use std::collections::VecDeque;

use tidegate::broker::{Broker, Change, Recall, Recalled, Restored, StoreHealth};
use tidegate::storage::{Batch, Log, LogSettings, Room, record};

use crate::disk::{Faults, SimulatedDisk};
use crate::oracle::{Held, Oracle, Violation, hold};

pub struct Store {
    /// What was committed.
    stored: Restored,
    /// The same as records, where no journal keeps them.
    records: Vec<Change>,
    /// The number of the last change of it.
    committed: u64,
    /// What was given, and is not.
    pending: VecDeque<Change>,
    /// How many of these were written to the journal.
    written: usize,
    pub health: StoreHealth,
    /// Whether a checkpoint is on its way that has to end before what is stored is whole again.
    is_healing: bool,
    /// The oracle's mind after so many changes were given; the first is of what is stored.
    minds: VecDeque<(u64, Oracle)>,
    journal: Option<Journal>,
}

/// The real journal, on a disk that is simulated.
struct Journal {
    disk: SimulatedDisk,
    /// `None` while the process does not run.
    log: Option<Log<SimulatedDisk>>,
    /// The number of the last [`Change::CheckpointBegun`].
    checkpoint: u64,
    /// What a power cut takes that the disk had said to be on it.
    lies: usize,
    rots: usize,
}

/// Small, so that segments come and go.
const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 8 * 1024,
    bytes_max: 512 * 1024,
    free_bytes_min: 0,
};

const CAPACITY: u64 = 4 * 1024 * 1024;

const KEY: u64 = 0x5EED;

/// What the end of a process leaves.
pub struct Left {
    /// What is found, the number of its last change, and the records it comes from.
    pub restored: Restored,
    pub last: u64,
    pub records: Vec<Change>,
    /// What the oracle held when all of it, or all that was promised, had been given.
    pub promised: Oracle,
    /// Whether what is found is what was at one moment.
    pub is_whole: bool,
    /// Whether the disk kept what it had said to be on it.
    pub is_honest: bool,
}

/// What became of an attempt to store something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// All up to this change is.
    Upto(u64),
    /// The disk failed.
    Failed,
}

impl Store {
    /// A store that is a list, or with a seed the journal on a disk with these faults.
    pub fn new(oracle: &Oracle, journal: Option<(u64, Faults)>) -> Self {
        let journal = journal.map(|(seed, faults)| {
            let disk = SimulatedDisk::new(seed, CAPACITY);
            let (log, _) = Log::open(disk.clone(), SETTINGS, KEY, |_, _, _| ()).expect("the disk is new");
            disk.set_faults(faults);
            Journal {
                disk,
                log: Some(log),
                checkpoint: 0,
                lies: faults.lies,
                rots: faults.rots,
            }
        });
        Self {
            stored: Restored::default(),
            records: Vec::new(),
            committed: 0,
            pending: VecDeque::new(),
            written: 0,
            health: StoreHealth::Ready,
            is_healing: false,
            minds: VecDeque::from([(0, oracle.clone())]),
            journal,
        }
    }

    pub fn give(&mut self, change: Change) {
        self.pending.push_back(change);
    }

    /// Remembers what the oracle holds now that `given` changes were given.
    pub fn remember(&mut self, given: u64, oracle: &Oracle) {
        if self.health != StoreHealth::Failed && self.minds.back().is_none_or(|(known, _)| *known < given) {
            self.minds.push_back((given, oracle.clone()));
        }
    }

    /// Whether the process may end here: what is stored is whole.
    pub fn is_whole(&self) -> bool {
        self.health != StoreHealth::Failed && !self.is_healing
    }

    /// What the disk has room for, as the core is told it.
    pub fn room(&mut self) -> StoreHealth {
        match self.log().map(Log::room) {
            Some(Room::ReserveOnly) => StoreHealth::Full,
            Some(Room::None) if self.health != StoreHealth::Failed => StoreHealth::Full,
            _ => self.health,
        }
    }

    pub fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// What the journal takes on its disk.
    pub fn journal_bytes(&self) -> Option<u64> {
        Some(self.journal.as_ref()?.log.as_ref()?.bytes())
    }

    fn log(&mut self) -> Option<&mut Log<SimulatedDisk>> {
        self.journal.as_mut()?.log.as_mut()
    }

    /// Reads again some of what is stored, a few messages at once.
    pub fn read_again(&mut self, recall: Recall) -> Recalled {
        let (first, last) = recall.changes();
        let mut messages = Vec::new();
        let mut upto = last;
        if let Some(log) = self.log() {
            upto = log.read_again(first, last, |number, kind, content| {
                if let Ok(Change::Accepted(accepted)) = record::decode(kind, content)
                    && recall.wants(&accepted)
                {
                    messages.push((number, *accepted));
                }
                messages.len() < 5
            });
        }
        Recalled {
            recall,
            upto,
            messages,
        }
    }

    /// Whether so much is needless that a checkpoint is worth its bytes.
    pub fn wants_checkpoint(&mut self) -> bool {
        self.log().is_some_and(|log| log.wants_checkpoint())
    }

    /// Writes the first `count` changes and syncs; the number of the last of `given` in all.
    pub fn commit(&mut self, count: usize, given: u64) -> Committed {
        // The log syncs what it has taken, all of it.
        let count = count.min(self.pending.len()).max(self.written);
        if !self.write(count, given) {
            return Committed::Failed;
        }
        if let Some(log) = self.log()
            && log.commit().is_err()
        {
            return Committed::Failed;
        }
        let mut ended = None;
        let first = given - self.pending.len() as u64;
        for (place, change) in self.pending.drain(..count).enumerate() {
            let number = first + 1 + place as u64;
            match (&change, &mut self.journal) {
                (Change::CheckpointBegun, Some(journal)) => journal.checkpoint = number,
                (Change::CheckpointEnded, Some(journal)) => ended = Some(journal.checkpoint),
                _ => {}
            }
            self.is_healing &= change != Change::CheckpointEnded;
            if self.journal.is_none() {
                self.records.push(change.clone());
            }
            self.stored.apply_numbered(number, change);
        }
        self.written = 0;
        if let (Some(first), Some(log)) = (ended, self.log()) {
            log.end_checkpoint(first);
        }
        self.tend();
        self.committed = first + count as u64;
        // Until what is stored is whole again, what was promised is what was before.
        while !self.is_healing && (self.minds.get(1)).is_some_and(|(known, _)| *known <= self.committed) {
            self.minds.pop_front();
        }
        Committed::Upto(self.committed)
    }

    /// Writes the first `count` changes, and does not sync; whether the disk took them.
    pub fn write(&mut self, count: usize, given: u64) -> bool {
        let count = count.min(self.pending.len());
        let first = given - self.pending.len() as u64;
        let Some(journal) = &mut self.journal else {
            return true;
        };
        let Some(log) = &mut journal.log else { return true };
        let mut batch = Batch::default();
        for (place, change) in self.pending.iter().enumerate().take(count).skip(self.written) {
            let number = first + 1 + place as u64;
            if *change == Change::CheckpointBegun {
                log.begin_checkpoint();
            }
            let pushed = batch.push(number, record::kind_of(change), |bytes| {
                record::encode(change, bytes)
            });
            pushed.expect("no change of the simulator is so large");
        }
        self.written = self.written.max(count);
        batch.is_empty() || log.append(&mut batch).is_ok()
    }

    fn tend(&mut self) {
        let Some(log) = self.log() else { return };
        for _ in 0..8 {
            if !log.tend().unwrap_or(false) {
                return;
            }
        }
    }

    /// Nothing can be stored any more: what waits is lost, and what comes is not given.
    pub fn fail(&mut self) {
        self.health = StoreHealth::Failed;
        self.is_healing = true;
        self.pending.clear();
        self.written = 0;
        self.minds.truncate(1);
    }

    /// Tries to begin anew after a failure; whether that worked.
    pub fn mend(&mut self) -> bool {
        self.log()
            .is_none_or(|log| !log.is_given_up() || log.begin_anew().is_ok())
    }

    /// From here on the disk does what it should.
    pub fn heal(&mut self) {
        if let Some(journal) = &self.journal {
            journal.disk.set_faults(Faults::default());
        }
    }

    /// The process ends, with the power or without, and so many of the changes are on disk as luck, or `pick`, has it.
    ///
    /// # Errors
    /// R1 or D1: what is found is not what was given, or not all that was promised.
    pub fn cut(&mut self, pick: usize, given: u64) -> Result<Left, Violation> {
        let is_honest = !(pick.is_multiple_of(2) && self.lies());
        let left = match self.is_whole() && is_honest {
            true => self.cut_whole(pick, given)?,
            false => self.cut_amid_failure(pick, given)?,
        };
        let left = Left { is_honest, ..left };
        self.stored = left.restored.clone();
        self.committed = left.last;
        self.written = 0;
        self.pending.clear();
        self.health = StoreHealth::Ready;
        self.is_healing = false;
        self.minds.clear();
        if self.journal.is_none() {
            self.records.clone_from(&left.records);
        }
        Ok(left)
    }

    /// Whether a power cut takes what the disk had said to be on it.
    fn lies(&self) -> bool {
        (self.journal.as_ref()).is_some_and(|journal| journal.lies + journal.rots > 0)
    }

    fn cut_whole(&mut self, pick: usize, given: u64) -> Result<Left, Violation> {
        let (found, mut records) = match self.journal.is_some() {
            true => self.recover(pick.is_multiple_of(2), given)?,
            false => (self.committed, self.records.clone()),
        };
        let possible: Vec<_> = self.minds.iter().filter(|(last, _)| *last >= found).collect();
        let index = match self.journal.is_some() {
            true => 0,
            false => pick % possible.len().max(1),
        };
        let (last, oracle) = possible.get(index).expect("the last was after all that is given");
        let (last, oracle) = (*last, oracle.clone());
        let count = usize::try_from(last - self.committed).unwrap_or(usize::MAX);
        let there = usize::try_from(found - self.committed).unwrap_or(usize::MAX);
        if self.journal.is_some() {
            // The end of an input of which a part is there might as well have been: it is written now.
            self.written = there;
            let has_room = self.log().is_some_and(|log| log.room() == Room::Plenty);
            let written = self.write(count, given);
            let synced = self.log().map(|log| log.commit());
            if !has_room && (!written || matches!(synced, Some(Err(_)))) {
                return self.cut_amid_failure(1, given); // full, until a checkpoint makes room
            }
            hold(written && matches!(synced, Some(Ok(_))), "R1", || {
                format!("a journal that was recovered takes nothing: {written}, {synced:?}")
            })?;
        }
        for (place, change) in self.pending.drain(..).enumerate().take(count) {
            if place >= there {
                records.push(change.clone());
            }
            let number = self.committed + 1 + place as u64;
            self.stored.apply_numbered(number, change);
        }
        self.stored.finish();
        Ok(Left {
            restored: self.stored.clone(),
            last,
            records,
            promised: oracle,
            is_whole: true,
            is_honest: true,
        })
    }

    /// The same while what is stored is not whole, and what is found no moment that ever was.
    fn cut_amid_failure(&mut self, pick: usize, given: u64) -> Result<Left, Violation> {
        let (mut restored, last, records) = match self.journal.is_some() {
            true => self.reopen(pick.is_multiple_of(2), given)?,
            false => {
                let count = pick % (self.pending.len() + 1);
                let last = match count {
                    0 => self.committed,
                    _ => given - (self.pending.len() - count) as u64,
                };
                self.records.extend(self.pending.drain(..).take(count));
                let mut restored = Restored::default();
                for change in &self.records {
                    restored.apply(change.clone());
                }
                (restored, last, self.records.clone())
            }
        };
        restored.finish();
        let (_, promised) = self.minds.pop_front().expect("there always is one");
        Ok(Left {
            restored,
            last,
            records,
            promised,
            is_whole: false,
            is_honest: true,
        })
    }

    /// Opens the journal again after the end of the process: what is found, the last of it, and its records.
    fn reopen(&mut self, with_power: bool, given: u64) -> Result<(Restored, u64, Vec<Change>), Violation> {
        let committed = self.committed;
        let Some(journal) = &mut self.journal else {
            return Ok((self.stored.clone(), committed, Vec::new()));
        };
        journal.log = None;
        let is_honest = !(with_power && journal.lies + journal.rots > 0);
        journal.disk.set_faults(Faults {
            lies: journal.lies,
            rots: journal.rots,
            ..Faults::default()
        });
        match with_power {
            true => journal.disk.cut_power(),
            false => journal.disk.kill(),
        }
        journal.disk.set_faults(Faults::default());
        let (mut found, mut records) = (Restored::default(), Vec::new());
        let mut damaged = None;
        let mut replay = |number: u64, kind: u8, content: &[u8]| match record::decode(kind, content) {
            Ok(change) => {
                records.push(change.clone());
                found.apply_numbered(number, change);
            }
            Err(error) => damaged = Some((number, error)),
        };
        let opened = Log::open(journal.disk.clone(), SETTINGS, KEY, &mut replay);
        let (log, report) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(Violation::new("R1", format!("{error}"))),
        };
        found.finish();
        hold(damaged.is_none(), "R1", || {
            format!("what was written cannot be read: {damaged:?}")
        })?;
        let last = report.last;
        hold(last >= committed || !is_honest, "D1", || {
            format!("{committed} changes were committed, {last} are found: {report:?}")
        })?;
        // What takes a segment may take that the one before was given up.
        let is_possible = last <= given || journal.lies + journal.rots > 0;
        journal.log = Some(log);
        hold(is_possible, "R1", || {
            format!("{given} changes were given, {last} are found")
        })?;
        Ok((found, last, records))
    }

    /// The same where what is stored is whole: the last change that is found, and the records.
    fn recover(&mut self, with_power: bool, given: u64) -> Result<(u64, Vec<Change>), Violation> {
        let committed = self.committed;
        let (found, last, records) = self.reopen(with_power, given)?;
        // Recovering twice is recovering once, and comes to what was given.
        let mut expected = self.stored.clone();
        let count = usize::try_from(last - committed).unwrap_or(usize::MAX);
        for change in self.pending.iter().take(count) {
            expected.apply(change.clone());
        }
        expected.finish();
        hold(found.is_like(&expected), "R1", || {
            format!("what is found comes to\n{found:#?}\nand should come to\n{expected:#?}")
        })?;
        Ok((last, records))
    }

    /// The disk may fail again.
    pub fn set_faults(&mut self, faults: Faults) {
        if let Some(journal) = &self.journal {
            journal.disk.set_faults(faults);
        }
    }
}

/// R1: what was given comes to what the core holds.
pub fn check(broker: &Broker, store: &Store) -> Held {
    if !store.is_whole() {
        return Ok(());
    }
    let mut all = store.stored.clone();
    for change in &store.pending {
        all.apply(change.clone());
    }
    all.finish();
    let image = broker.image();
    let is_like = image.as_ref().is_none_or(|image| all.is_like(image));
    hold(is_like, "R1", || {
        format!("what is stored comes to\n{all:#?}\nand should come to\n{image:#?}")
    })
}
