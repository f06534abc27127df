//! The journal: what was committed is there after whatever happened to the disk, and nothing else is made up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "simulator/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use disk::{Faults, SimulatedDisk, Trap};
use tidegate::broker::change::SessionNumber;
use tidegate::broker::{Change, StoreHealth};
use tidegate::storage::{
    Answer, Batch, Disk, Failure, JournalWriter, Log, LogSettings, Mode, OpenError, Recovery, Room,
    StateDirectory, WriterSettings, record,
};

const KEY: u64 = 0x5EED;
const CAPACITY: u64 = 1 << 20;

const SMALL: LogSettings = LogSettings {
    segment_bytes: 4096,
    bytes_max: 256 * 1024,
    free_bytes_min: 0,
};

type Record = (u64, u8, Vec<u8>);

/// A log on a simulated disk, and what must be found when it is opened again.
struct Writer {
    disk: SimulatedDisk,
    settings: LogSettings,
    log: Option<Log<SimulatedDisk>>,
    next: u64,
    /// Everything appended that was not told to be lost, by number.
    history: BTreeMap<u64, (u8, Vec<u8>)>,
    /// Of what was appended, what was told to be lost.
    told_lost: BTreeSet<u64>,
    /// Up to here it was promised.
    promised: u64,
    /// Before this, what a checkpoint has made needless may be gone.
    needed_from: u64,
    /// The log was begun anew and no checkpoint has come to its end.
    owes_checkpoint: bool,
}

impl Writer {
    fn new(disk: SimulatedDisk, settings: LogSettings) -> Self {
        let mut writer = Self {
            disk,
            settings,
            log: None,
            next: 1,
            history: BTreeMap::new(),
            told_lost: BTreeSet::new(),
            promised: 0,
            needed_from: 1,
            owes_checkpoint: false,
        };
        writer.open();
        writer
    }

    fn open(&mut self) {
        let opened = Log::open(self.disk.clone(), self.settings, KEY, |_, _, _| ());
        self.log = opened.ok().map(|(log, _)| log);
    }

    /// Appends records of these lengths and commits.
    fn commit(&mut self, lengths: &[usize]) -> Result<(), Failure> {
        self.append(lengths)?;
        let log = self.log.as_mut().ok_or(Failure::GivenUp)?;
        let upto = log.commit()?;
        if !self.owes_checkpoint {
            self.promised = upto;
        }
        Ok(())
    }

    fn append(&mut self, lengths: &[usize]) -> Result<(), Failure> {
        let log = self.log.as_mut().ok_or(Failure::GivenUp)?;
        if log.is_given_up() {
            return Err(Failure::GivenUp);
        }
        let mut batch = Batch::default();
        for length in lengths {
            let (number, kind, content) = record(self.next, *length);
            batch
                .push(number, kind, |bytes| bytes.extend_from_slice(&content))
                .unwrap();
            self.history.insert(number, (kind, content));
            self.told_lost.remove(&number);
            self.next += 1;
        }
        log.append(&mut batch)
    }

    /// Gives everything again, as two records, and lets go what stood before.
    fn checkpoint(&mut self) -> Result<(), Failure> {
        let log = self.log.as_mut().ok_or(Failure::GivenUp)?;
        log.begin_checkpoint();
        let first = self.next;
        self.commit(&[300])?;
        self.commit(&[20, 20])?;
        let log = self.log.as_mut().ok_or(Failure::GivenUp)?;
        log.end_checkpoint(first);
        self.promised = log.committed();
        self.owes_checkpoint = false;
        self.needed_from = first;
        self.tend();
        Ok(())
    }

    fn tend(&mut self) {
        let Some(log) = self.log.as_mut() else { return };
        for _ in 0..1_000 {
            match log.tend() {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
        panic!("tending comes to no end");
    }

    /// Begins anew where the log was given up; what was not committed is lost from then on.
    fn mend(&mut self) -> Result<(), Failure> {
        let log = self.log.as_mut().ok_or(Failure::GivenUp)?;
        if !log.is_given_up() {
            return Ok(());
        }
        log.begin_anew()?;
        let holds = log.committed();
        let lost = self.history.split_off(&(holds + 1));
        self.told_lost.extend(lost.into_keys());
        self.owes_checkpoint = true;
        self.checkpoint()
    }

    /// Opens the log twice, holds what is found against what must be, and goes on with the second.
    fn recover(&mut self) -> Recovery {
        self.log = None;
        let (found, report) = self.read();
        let (again, second) = self.read();
        assert_eq!(found, again, "recovering twice is recovering once");
        assert_eq!((report.last, report.records), (second.last, second.records));
        self.hold_against(&found, &report);
        self.history = found
            .into_iter()
            .map(|(number, kind, content)| (number, (kind, content)))
            .collect();
        self.next = report.last + 1;
        self.promised = report.last;
        self.owes_checkpoint = false;
        report
    }

    /// Reads again, while the log is written, all that has to be there, `count` records at a time.
    fn read_again(&mut self, count: usize) {
        let Some(log) = self.log.as_mut() else { return };
        let owed: Vec<_> = (self.history.range(self.needed_from..))
            .map(|(&number, (kind, content))| (number, *kind, content.clone()))
            .collect();
        let (Some((mut next, ..)), Some(&(last, ..))) = (owed.first().cloned(), owed.last()) else {
            return;
        };
        let mut found = Vec::new();
        while next <= last {
            let mut left = count;
            let upto = log.read_again(next, last, |number, kind, content| {
                found.push((number, kind, content.to_vec()));
                left -= 1;
                left > 0
            });
            assert!(upto >= next, "it goes on");
            next = upto + 1;
        }
        let numbers = |records: &[Record]| records.iter().map(|(number, ..)| *number).collect::<Vec<_>>();
        assert_eq!(numbers(&found), numbers(&owed));
        assert_eq!(found, owed);
    }

    fn read(&mut self) -> (Vec<Record>, Recovery) {
        self.log = None;
        let mut found = Vec::new();
        let (log, report) = Log::open(self.disk.clone(), self.settings, KEY, |number, kind, content| {
            found.push((number, kind, content.to_vec()));
        })
        .unwrap();
        self.log = Some(log);
        (found, report)
    }

    fn hold_against(&self, found: &[Record], report: &Recovery) {
        for (number, kind, content) in found {
            let written = self.history.get(number);
            assert_eq!(
                written,
                Some(&(*kind, content.clone())),
                "change {number} was made up: {report:?}"
            );
        }
        let Some((first, ..)) = found.first() else {
            let is_owed = |number: &&u64| **number >= self.needed_from && **number <= self.promised;
            assert_eq!(self.history.keys().find(is_owed), None, "{report:?}");
            return;
        };
        let last = found.last().map_or(0, |(number, ..)| *number);
        let first_owed = self
            .history
            .range(self.needed_from..)
            .next()
            .map_or(u64::MAX, |(number, _)| *number);
        assert!(
            *first <= first_owed || first_owed > self.promised,
            "{first} is the first: {first_owed}"
        );
        assert!(
            last >= self.promised,
            "{last} is the last, {} was promised: {report:?}",
            self.promised
        );
        let expected: Vec<u64> = self
            .history
            .range(first..=&last)
            .map(|(number, _)| *number)
            .collect();
        let numbers: Vec<u64> = found.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, expected, "there is a hole: {report:?}");
        // Where all that followed a gap was written again, what is left does not tell that the gap was told.
        assert!(report.missing <= self.told_lost.len() as u64, "{report:?}");
        assert_eq!((report.damaged, report.unreadable), (0, 0), "{report:?}");
        assert_eq!(report.last, last);
        assert_eq!(report.records, found.len() as u64);
    }
}

/// What change `number` says: nothing of it can be mistaken for another.
fn record(number: u64, length: usize) -> Record {
    let content = (0..length)
        .map(|at| (number.wrapping_mul(31).wrapping_add(at as u64) % 251) as u8)
        .collect();
    (number, (number % 7) as u8, content)
}

/// A life of a journal, in which everything happens that can. What fails is mended and the story goes on.
fn live(writer: &mut Writer, script: usize) {
    let step = |writer: &mut Writer, lengths: &[usize]| {
        let _ = writer.commit(lengths);
        let _ = writer.mend();
    };
    match script {
        // Small commits over several segments, a checkpoint, and some more.
        0 => {
            for _ in 0..9 {
                step(writer, &[40, 3]);
            }
            writer.tend();
            let _ = writer.checkpoint();
            let _ = writer.mend();
            for _ in 0..12 {
                step(writer, &[100]);
            }
            let _ = writer.checkpoint();
            step(writer, &[0]);
        }
        // Batches that fill sectors, span segments, and one that is larger than a segment.
        1 => {
            step(writer, &[480]);
            step(writer, &[479, 1, 0, 500, 2_000]);
            step(writer, &[3_000, 3_000, 10]);
            step(writer, &[9_000]);
            step(writer, &[5, 5]);
            let _ = writer.checkpoint();
            let _ = writer.mend();
            writer.tend();
            step(writer, &[60; 40]);
            step(writer, &[1]);
        }
        // Several batches between two syncs, as in the relaxed mode.
        _ => {
            for round in 0..6 {
                let _ = writer.append(&[200, 700]);
                let _ = writer.append(&[30]);
                let _ = writer.append(&[600, 600]);
                step(writer, &[10]);
                if round == 3 {
                    let _ = writer.checkpoint();
                    let _ = writer.mend();
                }
            }
        }
    }
}

const SCRIPTS: usize = 3;

/// So many seeds, or `JOURNAL_SEEDS` times as many.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("JOURNAL_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    0..count * times.unwrap_or(1)
}

/// How many calls a script makes when nothing fails.
fn calls_of(script: usize) -> u64 {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    live(&mut writer, script);
    assert!(writer.log.as_ref().is_some_and(|log| !log.is_given_up()));
    writer.recover();
    disk.calls()
}

#[test]
fn what_was_committed_survives_a_power_cut_at_any_call() {
    for script in 0..SCRIPTS {
        for call in 0..calls_of(script) {
            for seed in seeds(1) {
                let disk = SimulatedDisk::new(seed * 1_000 + call, CAPACITY);
                disk.set_trap(call, Trap::PowerGoes);
                let mut writer = Writer::new(disk.clone(), SMALL);
                live(&mut writer, script);
                disk.cut_power();
                writer.recover();
                writer.read_again(3);
                // What is written on what was found holds as well.
                for _ in 0..3 {
                    writer.commit(&[50, 600]).unwrap();
                }
                writer.read_again(100);
                writer.checkpoint().unwrap();
                writer.commit(&[7]).unwrap();
                writer.read_again(2);
                disk.cut_power();
                writer.recover();
            }
        }
    }
}

#[test]
fn what_was_committed_survives_any_call_that_fails() {
    for trap in [Trap::Fails, Trap::Full] {
        for script in 0..SCRIPTS {
            for call in 0..calls_of(script) {
                let disk = SimulatedDisk::new(call, CAPACITY);
                disk.set_trap(call, trap);
                let mut writer = Writer::new(disk.clone(), SMALL);
                if writer.log.is_none() {
                    // The folder could not be listed; the next start may.
                    writer.open();
                }
                live(&mut writer, script);
                writer.mend().unwrap();
                disk.set_trap(u64::MAX - 1, trap);
                writer.read_again(5);
                disk.cut_power();
                writer.recover();
                writer.commit(&[8, 1_000]).unwrap();
                disk.cut_power();
                writer.recover();
            }
        }
    }
}

#[test]
fn what_stands_in_the_journal_is_read_again_while_it_is_written() {
    for script in 0..SCRIPTS {
        for count in [1, 2, 7, 1_000] {
            let mut writer = Writer::new(SimulatedDisk::new(1, CAPACITY), SMALL);
            for _ in 0..3 {
                live(&mut writer, script);
                writer.read_again(count);
                // Some of it is not committed yet.
                writer.append(&[20, 300, 20]).unwrap();
                writer.read_again(count);
            }
            writer.tend();
            writer.read_again(count);
        }
    }
}

#[test]
fn what_cannot_be_read_again_is_passed_over() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    for _ in 0..30 {
        writer.commit(&[400]).unwrap();
    }
    let name = segments(&disk).into_iter().nth(1).unwrap();
    disk.lose(&name);
    let mut found = Vec::new();
    let log = writer.log.as_mut().unwrap();
    let upto = log.read_again(1, 30, |number, _, _| {
        found.push(number);
        true
    });
    assert_eq!((upto, found.first(), found.last()), (30, Some(&1), Some(&30)));
    assert!(found.len() < 30 && found.is_sorted());
}

#[test]
fn what_was_committed_survives_any_mixture_of_failures_and_power_cuts() {
    for seed in seeds(60) {
        println!("seed {seed}");
        let disk = SimulatedDisk::new(seed, CAPACITY);
        let mut writer = Writer::new(disk.clone(), SMALL);
        let one_in = 5 + seed % 60;
        let harsh = Faults {
            sync_fails_one_in: one_in,
            write_fails_one_in: one_in * 2,
            write_is_short_one_in: 4,
            ..Faults::default()
        };
        for round in 0..6 {
            disk.set_faults(harsh);
            disk.set_trap(disk.calls() + seed % 97 + 5, Trap::PowerGoes);
            live(&mut writer, (seed as usize + round) % SCRIPTS);
            disk.set_faults(Faults::default());
            if disk.has_power() && seed % 2 == 0 {
                disk.kill();
            } else {
                disk.cut_power();
            }
            writer.recover();
        }
        writer.mend().unwrap();
        writer.commit(&[1]).unwrap();
        disk.cut_power();
        writer.recover();
    }
}

#[test]
fn a_dead_or_rotten_sector_costs_what_stood_there_and_nothing_else() {
    for seed in seeds(200) {
        let disk = SimulatedDisk::new(seed, CAPACITY);
        let mut writer = Writer::new(disk.clone(), SMALL);
        for round in 0..20 {
            writer.commit(&[30, 400, round * 20]).unwrap();
        }
        // What is behind the last sync proves that all before it was whole.
        writer.commit(&[0]).unwrap();
        disk.set_faults(Faults {
            rots: 1 + seed as usize % 3,
            read_fails_one_in: (seed % 2) * 40,
            ..Faults::default()
        });
        disk.cut_power();
        let history = writer.history.clone();
        let (found, report) = writer.read();
        for (number, kind, content) in &found {
            assert_eq!(
                history.get(number),
                Some(&(*kind, content.clone())),
                "damaged content was given out"
            );
        }
        assert!(found.is_sorted_by_key(|(number, ..)| *number));
        if seed % 2 == 0 {
            let lost = history.len() - found.len();
            assert!(lost <= 3, "{lost} lost by three bits: {report:?}");
            // The last record has nobody behind it to miss it.
            let is_last_lost = !found.iter().any(|(number, ..)| *number == 61);
            assert!(
                report.missing >= lost as u64 - u64::from(is_last_lost),
                "{report:?}"
            );
        }
        disk.set_faults(Faults::default());
        let next = report.last + 1;
        writer.next = next.max(100);
        let (_, report) = writer.read();
        assert!(
            report.last >= 40 || seed % 2 == 1,
            "what was read once is still there: {report:?}"
        );
        writer.commit(&[9]).unwrap();
        let (found, _) = writer.read();
        assert_eq!(
            found.last(),
            Some(&record(next.max(100), 9)),
            "it can be written on"
        );
    }
}

#[test]
fn a_disk_that_lied_about_its_last_syncs_costs_those_and_nothing_else() {
    for seed in seeds(100) {
        let disk = SimulatedDisk::new(seed, CAPACITY);
        disk.set_faults(Faults {
            lies: 3,
            ..Faults::default()
        });
        let mut writer = Writer::new(disk.clone(), SMALL);
        let rounds = 5 + seed % 20;
        for _ in 0..rounds {
            writer.commit(&[100, 100]).unwrap();
        }
        disk.cut_power();
        let (found, report) = writer.read();
        let count = found.len() as u64;
        assert!(
            count + 3 * 2 >= rounds * 2,
            "{count} of {}: {report:?}",
            rounds * 2
        );
        for (index, (number, kind, content)) in found.iter().enumerate() {
            assert_eq!(
                *number,
                index as u64 + 1,
                "what is left is the beginning: {report:?}"
            );
            assert_eq!(writer.history[number], (*kind, content.clone()));
        }
    }
}

#[test]
fn a_disk_that_fails_once_or_twice_while_it_is_read_costs_nothing() {
    let (disk, mut writer) = sample();
    let (all, _) = writer.read();
    let before = disk.calls();
    writer.read();
    let calls = disk.calls() - before;
    // Calls that fail, from the first.
    for failing in [1, 2] {
        for call in 0..calls {
            let disk = disk.copy();
            writer.disk = disk.clone();
            disk.set_traps(call..call + failing, Trap::Fails);
            let (found, report) = writer.read();
            assert_eq!(found, all, "call {call}");
            assert!(report.is_sound(), "call {call}: {report:?}");
        }
    }
}

/// A journal of some segments, closed.
fn sample() -> (SimulatedDisk, Writer) {
    let disk = SimulatedDisk::new(7, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    for _ in 0..12 {
        writer.commit(&[500, 400]).unwrap();
    }
    writer.tend();
    writer.recover();
    writer.log = None;
    (disk, writer)
}

/// The names of the segments, oldest first.
fn segments(disk: &SimulatedDisk) -> Vec<String> {
    let mut names = disk.names();
    names.retain(|name| name.starts_with("journal-"));
    names
}

#[test]
fn a_lost_segment_is_told_and_what_is_around_it_holds() {
    let (disk, mut writer) = sample();
    let names = segments(&disk);
    assert!(names.len() >= 4, "{names:?}");
    let (all, _) = writer.read();
    disk.lose(&names[2]);
    let (found, report) = writer.read();
    assert_eq!(report.missing, (all.len() - found.len()) as u64);
    assert!(report.missing > 0 && !report.is_sound());
    assert_eq!(found.first(), all.first());
    assert_eq!(found.last(), all.last());
}

#[test]
fn segments_that_are_empty_zeroed_or_cut_short_are_passed_over() {
    for (count, spoil) in [
        (0, (|_: &mut Vec<u8>| ()) as fn(&mut Vec<u8>)),
        (6, |content| content.clear()),
        (6, |content| content.fill(0)),
        (6, |content| content.truncate(100)),
        (5, |content| content.truncate(1_200)),
        (0, |content| content[..512].fill(0)),
        (6, |content| content.fill(0xFF)),
    ] {
        let (disk, mut writer) = sample();
        let (all, _) = writer.read();
        let names = segments(&disk);
        let mut content = disk.content(&names[1]);
        spoil(&mut content);
        disk.put(&names[1], &content);
        let (found, report) = writer.read();
        assert_eq!(all.len() - found.len(), count, "{report:?}");
        assert_eq!(report.missing, count as u64, "{report:?}");
        assert_eq!(found.last(), all.last());
    }
}

#[test]
fn every_cut_of_the_last_segment_leaves_the_records_before_it() {
    let (disk, mut writer) = sample();
    let (all, _) = writer.read();
    let last = segments(&disk).pop().unwrap();
    let content = disk.content(&last);
    for length in (0..content.len()).step_by(7) {
        writer.disk = disk.copy();
        writer.disk.put(&last, &content[..length]);
        let (found, report) = writer.read();
        assert_eq!(found, all[..found.len()], "cut at {length}");
        assert!(all.len() - found.len() <= 6 && report.damaged == 0);
    }
}

#[test]
fn what_a_sector_lost_at_its_end_is_not_taken_for_what_fills_it_up() {
    let disk = SimulatedDisk::new(7, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    writer.commit(&[20]).unwrap();
    // Written and not synced: three in one sector, and one in the next.
    writer.append(&[20, 20, 20]).unwrap();
    writer.append(&[20]).unwrap();
    writer.log = None;
    writer.disk = disk.copy(); // every start writes the last again
    let (all, _) = writer.read();
    assert_eq!(all.len(), 5);
    let last = segments(&disk).pop().unwrap();
    let mut content = disk.content(&last);
    let position = |content: &[u8], record: &Record| {
        (content.windows(record.2.len()))
            .position(|bytes| bytes == record.2)
            .unwrap()
    };
    let lost = position(&content, &all[1]) + all[1].2.len()..position(&content, &all[4]) / 512 * 512;
    content[lost].fill(0);
    writer.disk = disk.copy();
    writer.disk.put(&last, &content);
    let (found, _) = writer.read();
    assert_eq!(found, all[..2]);
}

#[test]
fn files_of_others_are_left_alone() {
    let (disk, mut writer) = sample();
    let (all, _) = writer.read();
    for name in ["README", "journal-1", "journal-000000000000000G", "spare-"] {
        disk.put(name, b"not ours");
    }
    let (found, report) = writer.read();
    assert_eq!(found, all);
    assert_eq!(report.foreign, 4);
    writer.next = report.last + 1;
    writer.commit(&[3_000, 3_000]).unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(disk.content("README"), b"not ours");
}

#[test]
fn a_segment_that_is_there_twice_counts_once() {
    let (disk, mut writer) = sample();
    let (all, _) = writer.read();
    let names = segments(&disk);
    // Under another number it is sealed for another place.
    disk.put("journal-00000000000000f0", &disk.content(&names[1]));
    let (found, report) = writer.read();
    assert_eq!(found, all);
    assert_eq!(report.segments, names.len() as u64 + 1);
}

#[test]
fn nothing_is_promised_in_a_file_with_a_number_that_would_not_be_found_again() {
    for stray in [
        "journal-7fffffffffffffff",
        "spare-7fffffffffffffff",
        "journal-7ffffffffffffffb",
    ] {
        let disk = SimulatedDisk::new(1, CAPACITY);
        disk.put(stray, b"");
        let mut writer = Writer::new(disk.clone(), SMALL);
        let failure = (0..20)
            .find_map(|_| writer.commit(&[900]).err())
            .expect("numbers end");
        assert!(failure.to_string().contains("last number"), "{failure}");
        let failure = writer.log.as_mut().and_then(|log| log.begin_anew().err());
        assert!(matches!(failure, Some(Failure::Disk(_))), "{failure:?}");
        let promised = writer.promised;
        disk.cut_power();
        assert_eq!(writer.recover().last, promised);
        if stray.ends_with('b') {
            assert!(promised > 0, "what could be stored is");
        }
        // The way out that the message names.
        for name in disk.names() {
            if name.contains("-7ffffffff") {
                disk.lose(&name);
            }
        }
        let mut writer = Writer::new(disk.clone(), SMALL);
        writer.commit(&[900]).unwrap();
        disk.cut_power();
        writer.recover();
    }
}

#[test]
fn a_record_in_a_payload_is_never_taken_for_one_of_the_journals() {
    let (disk, mut writer) = sample();
    let stolen = disk.content(&segments(&disk)[1])[512..1_700].to_vec();
    let number = writer.next;
    let mut batch = Batch::default();
    batch
        .push(number, 1, |bytes| bytes.extend_from_slice(&stolen))
        .unwrap();
    batch.push(number + 1, 1, |_| ()).unwrap();
    let (_, report) = writer.read();
    assert_eq!(report.last + 1, number);
    let log = writer.log.as_mut().unwrap();
    log.append(&mut batch).unwrap();
    log.commit().unwrap();
    let name = segments(&disk).pop().unwrap();
    let mut content = disk.content(&name);
    let at = content
        .windows(stolen.len())
        .position(|bytes| bytes == stolen)
        .unwrap();
    // The record around it is damaged, so its payload is searched for records.
    content[at - 20] ^= 1;
    disk.put(&name, &content);
    let (found, _) = writer.read();
    assert!(found.iter().all(|(found, ..)| *found < number));
}

#[test]
fn a_journal_of_a_later_version_is_refused_without_touching_a_byte() {
    let (disk, _writer) = sample();
    let mut header = b"tidelog\n".to_vec();
    header.extend(2_u16.to_le_bytes());
    header.extend((!2_u16).to_le_bytes());
    header.extend([0xAB; 4_084]);
    for name in ["journal-00000000000000f0", "spare-00000000000000f0"] {
        disk.put(name, &header);
        let before = disk.image();
        let refused = Log::open(disk.clone(), SMALL, KEY, |_, _, _| ()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Newer { name: told, version: 2 } if told == name),
            "{refused}"
        );
        assert_eq!(disk.image(), before);
        disk.lose(name);
    }
}

#[test]
fn a_disk_that_fills_up_keeps_its_reserve_for_acknowledgements() {
    let disk = SimulatedDisk::new(3, 40_000);
    let mut writer = Writer::new(disk.clone(), SMALL);
    writer.commit(&[100]).unwrap();
    writer.tend();
    assert_eq!(writer.log.as_mut().unwrap().room(), Room::Plenty);
    // Others fill the disk.
    disk.put("film", &vec![0; 40_000 - disk.bytes() as usize]);
    let mut promises = 0;
    while writer.log.as_mut().unwrap().room() == Room::Plenty {
        writer.commit(&[400]).unwrap();
        promises += 1;
    }
    assert_eq!(writer.log.as_mut().unwrap().room(), Room::ReserveOnly);
    let mut acknowledgements = 0;
    while writer.log.as_mut().unwrap().room() == Room::ReserveOnly {
        writer.commit(&[20]).unwrap();
        acknowledgements += 1;
    }
    assert!(
        promises > 0 && acknowledgements >= 6,
        "{promises}, {acknowledgements}"
    );
    while writer.commit(&[20]).is_ok() {}
    assert!(writer.log.as_ref().unwrap().is_given_up());
    assert!(writer.mend().is_err(), "there is still no room");
    disk.cut_power();
    writer.recover();
    // There is room again, and nothing has to be started again for it.
    disk.lose("film");
    let _ = writer.commit(&[20]);
    writer.mend().unwrap();
    writer.tend();
    writer.commit(&[400]).unwrap();
    assert_eq!(writer.log.as_mut().unwrap().room(), Room::Plenty);
    disk.cut_power();
    writer.recover();
}

#[test]
fn the_journal_asks_for_a_checkpoint_before_it_is_half_full_and_then_lets_go() {
    let disk = SimulatedDisk::new(3, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    let mut checkpoints = 0;
    for _ in 0..600 {
        writer.commit(&[300, 300]).unwrap();
        writer.tend();
        let log = writer.log.as_mut().unwrap();
        assert_eq!(log.room(), Room::Plenty);
        if log.wants_checkpoint() {
            writer.checkpoint().unwrap();
            checkpoints += 1;
        }
        assert!(disk.bytes() <= SMALL.bytes_max);
    }
    assert!(checkpoints > 5);
    let log = writer.log.as_ref().unwrap();
    assert!(log.segments() <= 8, "{} segments", log.segments());
    // Files are used again rather than filled anew: what is written is what was asked for, in whole sectors, and a
    // header for each segment.
    let statistics = log.statistics();
    assert!(
        statistics.bytes_written < statistics.commits * 1_024 + 250 * 512,
        "{statistics:?}"
    );
    disk.cut_power();
    writer.recover();
}

/// Nothing new was promised any more until acknowledgements had filled a segment, and where all was acknowledged
/// already, not before the next start.
#[test]
fn a_journal_that_is_full_asks_for_a_checkpoint_when_what_was_kept_has_gone() {
    let disk = SimulatedDisk::new(3, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    let is_full = |writer: &mut Writer| writer.log.as_mut().unwrap().room() == Room::ReserveOnly;
    let wants_checkpoint = |writer: &mut Writer, kept: u64| {
        let log = writer.log.as_mut().unwrap();
        log.note_kept(kept);
        log.wants_checkpoint()
    };
    // All of it is kept, so a checkpoint writes as much again.
    let mut kept = 0;
    while writer.log.as_ref().unwrap().segments() < 26 {
        writer.commit(&[1000]).unwrap();
        writer.tend();
        kept += 1000;
    }
    assert!(wants_checkpoint(&mut writer, kept));
    assert!(!is_full(&mut writer), "it is about to make room");
    writer.log.as_mut().unwrap().begin_checkpoint();
    let first = writer.next;
    for _ in 0..kept / 1000 {
        writer.commit(&[1000]).unwrap();
    }
    writer.log.as_mut().unwrap().end_checkpoint(first);
    writer.needed_from = first;
    writer.tend();
    assert!(is_full(&mut writer));
    assert!(!wants_checkpoint(&mut writer, kept), "it would make no room");
    // What ends all that is kept takes less than a segment.
    writer.commit(&[20]).unwrap();
    assert!(!wants_checkpoint(&mut writer, kept - kept / 10));
    assert!(wants_checkpoint(&mut writer, kept / 2));
    writer.checkpoint().unwrap();
    assert!(!is_full(&mut writer));
    disk.cut_power();
    writer.recover();
}

/// What checkpoints had written when they were cut short, and all they were to replace, left no room for the next one:
/// the journal was given up, and each attempt to begin anew ended the same way.
#[test]
fn checkpoints_that_were_cut_short_leave_room_for_the_next() {
    let disk = SimulatedDisk::new(3, CAPACITY);
    let mut writer = Writer::new(disk.clone(), SMALL);
    let mut kept = 0;
    while writer.log.as_ref().unwrap().segments() < 26 {
        writer.commit(&[1000]).unwrap();
        writer.tend();
        kept += 1;
    }
    let cuts = ["power cut"; 5];
    for ends in cuts.into_iter().chain(["full disk", "well"]) {
        writer.log.as_mut().unwrap().begin_checkpoint();
        let first = writer.next;
        for _ in 0..kept {
            writer
                .commit(&[1000])
                .unwrap_or_else(|failure| panic!("{failure}, before a {ends}"));
            writer.tend();
        }
        match ends {
            "power cut" => {
                disk.cut_power();
                writer.recover();
            }
            "full disk" => {
                disk.put("film", &vec![0; (CAPACITY - disk.bytes()) as usize]);
                while writer.commit(&[1000]).is_ok() {}
                disk.lose("film");
                disk.cut_power();
                writer.recover();
            }
            _ => {
                writer.log.as_mut().unwrap().end_checkpoint(first);
                writer.needed_from = first;
                writer.tend();
            }
        }
    }
    assert!(disk.bytes() <= SMALL.bytes_max, "{}", disk.bytes());
    disk.cut_power();
    writer.recover();
}

/// A writer on its thread, and what wakes the gateway.
struct Running {
    writer: JournalWriter,
    woken: mpsc::Receiver<()>,
    number: u64,
}

const AT_ONCE: WriterSettings = WriterSettings {
    mode: Mode::Durable,
    bytes_per_day_max: 0,
    retry_pause: Duration::from_millis(1),
};
/// So long that nothing happens by itself within a test.
const AGES: Duration = Duration::from_secs(3600);

impl Running {
    fn start<D>(disk: D, settings: WriterSettings) -> Self
    where
        D: Disk + Send + 'static,
        D::File: Send,
    {
        let (log, report) = Log::open(disk, SMALL, KEY, |_, _, _| ()).unwrap();
        let (wake, woken) = mpsc::channel();
        let writer = JournalWriter::start(log, settings, move || wake.send(()).unwrap_or_default()).unwrap();
        Self {
            writer,
            woken,
            number: report.last,
        }
    }

    fn push(&mut self, change: &Change) {
        self.number += 1;
        self.writer.push(self.number, change).unwrap();
    }

    fn wait_for(&mut self, wanted: Answer) {
        loop {
            match self.writer.poll() {
                Some(answer) if answer == wanted => return,
                Some(_) => {}
                None => self
                    .woken
                    .recv_timeout(Duration::from_secs(60))
                    .unwrap_or_else(|_| panic!("waited for {wanted:?}")),
            }
        }
    }

    fn checkpoint(&mut self) {
        self.push(&Change::CheckpointBegun);
        self.push(&ending(999));
        self.push(&Change::CheckpointEnded);
        self.writer.flush(Duration::ZERO);
        self.wait_for(Answer::Stored { upto: self.number });
    }
}

fn ending(session: u64) -> Change {
    Change::SessionEnded {
        session: SessionNumber(session),
    }
}

/// The changes in the journal, by their numbers.
fn changes(disk: impl Disk) -> Vec<(u64, Change)> {
    let mut changes = Vec::new();
    Log::open(disk, SMALL, KEY, |number, kind, content| {
        changes.push((number, record::decode(kind, content).unwrap()));
    })
    .unwrap();
    changes
}

#[test]
fn what_is_told_to_be_stored_survives_a_power_cut_and_goes_together() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut running = Running::start(disk.clone(), AT_ONCE);
    for session in 1..=50 {
        running.push(&ending(session));
        running.writer.flush(AGES);
    }
    assert_eq!(running.writer.poll(), None, "nobody was in a hurry");
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Stored { upto: 50 });
    disk.cut_power();
    let statistics = running.writer.statistics();
    assert_eq!((statistics.log.commits, statistics.log.records), (1, 50));
    assert!(statistics.bytes_today >= statistics.log.bytes_written);
    running.writer.close();
    let expected: Vec<_> = (1..=50).map(|number| (number, ending(number))).collect();
    assert_eq!(changes(disk), expected);
}

#[test]
fn closing_stores_what_was_pushed_and_not_asked_for() {
    for mode in [Mode::Durable, Mode::Relaxed(AGES)] {
        let disk = SimulatedDisk::new(1, CAPACITY);
        let mut running = Running::start(disk.clone(), WriterSettings { mode, ..AT_ONCE });
        running.push(&ending(1));
        running.push(&ending(2));
        running.writer.close();
        disk.cut_power();
        assert_eq!(changes(disk), [(1, ending(1)), (2, ending(2))]);
    }
}

#[test]
fn relaxed_means_stored_before_the_medium_has_it_and_safe_from_the_end_of_the_process() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let settings = WriterSettings {
        mode: Mode::Relaxed(AGES),
        ..AT_ONCE
    };
    let mut running = Running::start(disk.clone(), settings);
    running.push(&ending(1));
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Stored { upto: 1 });
    assert_eq!(running.writer.statistics().log.commits, 0);
    // As after kill -9: the machine still has what was written.
    assert_eq!(changes(disk.copy()), [(1, ending(1))]);
    // A checkpoint lets older segments go, so that it is on the medium first.
    running.checkpoint();
    assert!(running.writer.statistics().log.commits > 0);
}

#[test]
fn when_the_disk_fails_it_is_told_and_when_it_works_again_a_checkpoint_makes_everything_hold() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut running = Running::start(disk.clone(), AT_ONCE);
    running.push(&ending(1));
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Stored { upto: 1 });
    disk.set_faults(Faults {
        sync_fails_one_in: 1,
        ..Faults::default()
    });
    running.push(&ending(2));
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Health(StoreHealth::Failed));
    disk.set_faults(Faults::default());
    running.wait_for(Answer::Health(StoreHealth::Ready));
    // Some were given to nobody meanwhile.
    running.number += 5;
    running.checkpoint();
    running.push(&ending(3));
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Stored { upto: 11 });
    running.writer.close();
    disk.cut_power();
    let found = changes(disk);
    assert!(
        !found.contains(&(2, ending(2))),
        "it was told to be lost: {found:?}"
    );
    assert_eq!(found.last(), Some(&(11, ending(3))));
}

#[test]
fn what_was_pushed_before_a_failure_was_told_is_not_taken_for_part_of_what_follows() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut running = Running::start(disk.clone(), AT_ONCE);
    disk.set_faults(Faults {
        sync_fails_one_in: 1,
        ..Faults::default()
    });
    running.push(&ending(1));
    running.writer.flush(Duration::ZERO);
    running
        .woken
        .recv_timeout(Duration::from_secs(60))
        .expect("it fails");
    disk.set_faults(Faults::default());
    // The gateway has not looked yet, and goes on.
    running.push(&ending(2));
    running.writer.flush(Duration::ZERO);
    running.wait_for(Answer::Health(StoreHealth::Failed));
    running.wait_for(Answer::Health(StoreHealth::Ready));
    running.checkpoint();
    running.writer.close();
    let numbers: Vec<u64> = changes(disk).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [3, 4, 5]);
}

#[test]
fn the_writer_asks_for_checkpoints_and_lets_go_what_they_replace() {
    let disk = SimulatedDisk::new(1, CAPACITY);
    let mut running = Running::start(disk.clone(), AT_ONCE);
    for _ in 0..4 {
        let mut is_due = false;
        for session in 0..1_000 {
            running.push(&ending(session));
            running.writer.flush(Duration::ZERO);
            running.wait_for(Answer::Stored { upto: running.number });
            // It may be told a moment later, with the next.
            is_due |=
                std::iter::from_fn(|| running.writer.poll()).any(|answer| answer == Answer::CheckpointDue);
            if is_due {
                break;
            }
        }
        assert!(is_due);
        running.checkpoint();
        assert_eq!(running.writer.statistics().log.failures, 0);
    }
    let last = running.number;
    running.writer.close();
    assert!(disk.bytes() < SMALL.bytes_max / 2);
    assert_eq!(changes(disk).last(), Some(&(last, Change::CheckpointEnded)));
}

/// It looked for room when something was written, and nothing is written while nothing new is promised.
#[test]
fn room_that_others_made_is_found_though_nothing_is_written() {
    let disk = SimulatedDisk::new(3, 40_000);
    disk.put("film", &vec![0; 40_000]);
    let mut running = Running::start(disk.clone(), AT_ONCE);
    running.wait_for(Answer::Health(StoreHealth::Full));
    disk.lose("film");
    running.wait_for(Answer::Health(StoreHealth::Ready));
    running.writer.close();
}

#[test]
fn a_journal_in_a_real_folder_is_there_at_the_next_start() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state");
    let directory = StateDirectory::open(&path).unwrap();
    for round in 1..=3 {
        let mut running = Running::start(directory.journal().unwrap(), AT_ONCE);
        assert_eq!(running.number, (round - 1) * 100);
        for session in 0..100 {
            running.push(&ending(session));
        }
        running.writer.flush(Duration::ZERO);
        running.wait_for(Answer::Stored { upto: round * 100 });
    }
    assert_eq!(changes(directory.journal().unwrap()).len(), 300);
}
