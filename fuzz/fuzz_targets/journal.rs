//! The journal's files, whatever came to stand in them: opening never panics and never stops, opening twice finds the
//! same, nothing is given out that was not written, and what is written then is found. And contents of records: any
//! bytes are a change or none, and a change is written and read as the same.

#![no_main]

#[path = "../../tests/simulator/disk.rs"]
mod disk;

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use disk::{Faults, SimulatedDisk};
use libfuzzer_sys::fuzz_target;
use tidegate::storage::{Batch, Log, LogSettings, OpenError, Recovery, record};

/// What one run does; numbers that choose are taken modulo what there is.
#[derive(Debug, Arbitrary)]
struct Script {
    steps: Vec<Step>,
    kind: u8,
    content: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// Appends records and commits them, or leaves them as they are.
    Write {
        lengths: Vec<u16>,
        commits: bool,
    },
    Checkpoint,
    Tend,
    Turn {
        file: u8,
        at: u16,
        bits: u8,
    },
    Cut {
        file: u8,
        length: u16,
    },
    Extend {
        file: u8,
        bytes: Vec<u8>,
    },
    Overwrite {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Lose {
        file: u8,
    },
    Copy {
        from: u8,
        to: u8,
    },
    Put {
        name: u8,
        content: Vec<u8>,
    },
    CutPower {
        faults: u8,
    },
    Fail {
        faults: u8,
    },
}

const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 4096,
    bytes_max: 128 * 1024,
    free_bytes_min: 0,
};

/// Names that mean something, and some that nearly do.
const NAMES: [&str; 6] = [
    "journal-0000000000000000",
    "journal-0000000000000003",
    "journal-7fffffffffffffff",
    "spare-0000000000000002",
    "spare-00000000000000ff",
    "journal-3",
];

type Found = Vec<(u64, u8, Vec<u8>)>;

fuzz_target!(|script: Script| {
    if let Ok(change) = record::decode(script.kind, &script.content) {
        let mut content = Vec::new();
        record::encode(&change, &mut content);
        assert_eq!(record::decode(record::kind_of(&change), &content), Ok(change));
    }
    let disk = SimulatedDisk::new(1, 256 * 1024);
    let mut written = BTreeSet::new();
    for step in script.steps.iter().take(40) {
        if take(step, &disk, &mut written).is_none() {
            return;
        }
        disk.set_faults(Faults::default());
        let Some((found, report, mut log)) = open(&disk) else {
            return;
        };
        for (_, kind, content) in &found {
            // Of what was changed on purpose the seal is broken, whatever it says.
            assert!(written.contains(&(*kind, content.clone())), "made up: {report:?}");
            let _ = record::decode(*kind, content);
        }
        drop(log.take());
        let (again, second, _) = open(&disk).expect("it was opened before");
        assert_eq!(found, again);
        assert_eq!((report.last, report.records), (second.last, second.records));
    }
    // Whatever there is, it can be written on.
    let Some((_, report, Some(mut log))) = open(&disk) else {
        return;
    };
    let number = report.last.saturating_add(1);
    let mut batch = Batch::default();
    if batch
        .push(number, 9, |content| content.extend(b"the last"))
        .is_err()
        || log.append(&mut batch).is_err()
        || log.commit().is_err()
    {
        return;
    }
    drop(log);
    let (found, ..) = open(&disk).expect("it was opened before");
    assert_eq!(found.last(), Some(&(number, 9, b"the last".to_vec())));
});

fn open(disk: &SimulatedDisk) -> Option<(Found, Recovery, Option<Log<SimulatedDisk>>)> {
    let mut found = Vec::new();
    let opened = Log::open(disk.clone(), SETTINGS, 5, |number, kind, content| {
        found.push((number, kind, content.to_vec()));
    });
    match opened {
        Ok((log, report)) => Some((found, report, Some(log))),
        Err(OpenError::Newer { .. }) => None,
        Err(OpenError::Disk(error)) => panic!("the folder can be listed: {error}"),
    }
}

fn take(step: &Step, disk: &SimulatedDisk, written: &mut BTreeSet<(u8, Vec<u8>)>) -> Option<()> {
    let names = disk.names();
    let choose = |file: u8| names.get(usize::from(file) % names.len().max(1)).cloned();
    let change = |file: u8, change: &dyn Fn(&mut Vec<u8>)| {
        if let Some(name) = choose(file) {
            let mut content = disk.content(&name);
            change(&mut content);
            content.truncate(16 * 1024);
            disk.put(&name, &content);
        }
    };
    match step {
        Step::Write { lengths, commits } => {
            write(disk, lengths, *commits, written)?;
        }
        Step::Checkpoint => {
            let (_, report, log) = open(disk)?;
            let mut log = log?;
            log.begin_checkpoint();
            drop(log);
            write(disk, &[30, 30], true, written)?;
            let (_, _, log) = open(disk)?;
            let mut log = log?;
            log.end_checkpoint(report.last.saturating_add(1));
            while let Ok(true) = log.tend() {}
        }
        Step::Tend => {
            let (_, _, log) = open(disk)?;
            let mut log = log?;
            while let Ok(true) = log.tend() {}
        }
        Step::Turn { file, at, bits } => change(*file, &|content| {
            let length = content.len().max(1);
            if let Some(byte) = content.get_mut(usize::from(*at) % length) {
                *byte ^= bits;
            }
        }),
        Step::Cut { file, length } => change(*file, &|content| content.truncate(usize::from(*length))),
        Step::Extend { file, bytes } => change(*file, &|content| content.extend(bytes)),
        Step::Overwrite { file, at, bytes } => change(*file, &|content| {
            let at = usize::from(*at) % content.len().max(1);
            for (place, byte) in content.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        }),
        Step::Lose { file } => {
            if let Some(name) = choose(*file) {
                disk.lose(&name);
            }
        }
        Step::Copy { from, to } => {
            if let Some(from) = choose(*from) {
                let name = NAMES[usize::from(*to) % NAMES.len()];
                disk.put(name, &disk.content(&from));
            }
        }
        Step::Put { name, content } => {
            disk.put(NAMES[usize::from(*name) % NAMES.len()], content);
        }
        Step::CutPower { faults } => {
            disk.set_faults(Faults {
                lies: usize::from(faults % 3),
                rots: usize::from(faults / 3 % 3),
                ..Faults::default()
            });
            disk.cut_power();
        }
        Step::Fail { faults } => {
            disk.set_faults(Faults {
                sync_fails_one_in: u64::from(faults % 4),
                write_fails_one_in: u64::from(faults / 4 % 4) * 3,
                write_is_short_one_in: u64::from(faults / 16 % 4),
                read_fails_one_in: u64::from(faults / 64) * 5,
                ..Faults::default()
            });
            let _ = write(disk, &[40, 900, 2_000, 3_000], true, written);
        }
    }
    Some(())
}

fn write(
    disk: &SimulatedDisk,
    lengths: &[u16],
    commits: bool,
    written: &mut BTreeSet<(u8, Vec<u8>)>,
) -> Option<()> {
    let (_, report, log) = open(disk)?;
    let mut log = log?;
    let mut batch = Batch::default();
    for (length, number) in lengths.iter().take(8).zip(report.last.saturating_add(1)..) {
        let kind = (number % 19) as u8;
        let content = vec![number as u8; usize::from(*length % 5_000)];
        batch.push(number, kind, |to| to.extend(&content)).ok()?;
        written.insert((kind, content));
    }
    if log.append(&mut batch).is_ok() && commits {
        let _ = log.commit();
    }
    while log.is_given_up() {
        disk.set_faults(Faults::default());
        log.begin_anew().ok()?;
    }
    Some(())
}
