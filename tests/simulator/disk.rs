//! A disk that does what disks do, all of it from one seed: forget at a power cut what was not synced, or half of it,
//! and in any order; fail; fill up; lie; rot.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "several chapters share this, and none uses all of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use tidegate::storage::Disk;

/// A disk; a clone is another hand on the same one.
#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    medium: Arc<Mutex<Medium>>,
}

/// What goes wrong. Without any of it the disk is honest, and only a power cut takes something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// One in so many syncs fails; what was pending is gone, and the next says that all is well. 0 for never.
    pub sync_fails_one_in: u64,
    /// One in so many writes, names made, changed or removed fails. 0 for never.
    pub write_fails_one_in: u64,
    /// One in so many writes writes less than it was given. 0 for never.
    pub write_is_short_one_in: u64,
    /// One in so many reads fails. 0 for never.
    pub read_fails_one_in: u64,
    /// At a power cut so many of the last syncs of files turn out to have been lies.
    pub lies: usize,
    /// At a power cut so many sectors, wherever they are, have a bit turned.
    pub rots: usize,
}

/// What happens at one call, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// The power goes before it is carried out: it and all that follow fail until [`SimulatedDisk::cut_power`].
    PowerGoes,
    /// It fails with an error of the medium.
    Fails,
    /// It fails for want of room; a call that takes no room fails like [`Trap::Fails`].
    Full,
}

/// What media write whole or, when the power goes, in two parts.
const SECTOR: usize = 512;

#[derive(Debug)]
struct Medium {
    chance: u64,
    faults: Faults,
    calls: u64,
    trap: Option<(Range<u64>, Trap)>,
    has_power: bool,
    capacity: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// The names as programs see them.
    names: BTreeMap<String, u64>,
    /// The names that are on the medium.
    lasting_names: BTreeMap<String, u64>,
    /// What was done to names and not synced.
    pending_names: Vec<NameChange>,
    /// What stood, before the last syncs, where they wrote.
    overwritten: Vec<Vec<(u64, usize, Vec<u8>)>>,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    /// As programs see it.
    bytes: Vec<u8>,
    /// What is on the medium.
    lasting: Vec<u8>,
    /// Sectors that differ, or may.
    pending: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Make(String, u64),
    Change(String, String),
    Remove(String),
}

/// An open file.
#[derive(Debug)]
pub struct SimulatedFile(u64);

impl SimulatedDisk {
    pub fn new(seed: u64, capacity: u64) -> Self {
        let medium = Medium {
            chance: seed,
            faults: Faults::default(),
            calls: 0,
            trap: None,
            has_power: true,
            capacity,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            lasting_names: BTreeMap::new(),
            pending_names: Vec::new(),
            overwritten: Vec::new(),
        };
        Self {
            medium: Arc::new(Mutex::new(medium)),
        }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Changes how much goes onto the disk; it may be less than is on it.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Sets a trap at call `number`, counted from 0 at the disk's making.
    pub fn set_trap(&self, number: u64, trap: Trap) {
        self.set_traps(number..number + 1, trap);
    }

    /// Sets a trap at each of these calls, in place of the one that was set.
    pub fn set_traps(&self, numbers: Range<u64>, trap: Trap) {
        self.lock().trap = Some((numbers, trap));
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    pub fn has_power(&self) -> bool {
        self.lock().has_power
    }

    /// What all files take.
    pub fn bytes(&self) -> u64 {
        self.lock().used()
    }

    /// The power goes and comes back. What was not synced is kept, torn or lost, each sector and each name on its own.
    pub fn cut_power(&self) {
        self.lock().cut_power();
    }

    /// The program ends and the machine does not: everything stays as it was seen.
    pub fn kill(&self) {
        let mut medium = self.lock();
        medium.has_power = true;
        medium.trap = None;
    }

    /// The names there are, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// What a program would read from the file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let medium = self.lock();
        medium.inodes[&medium.names[name]].bytes.clone()
    }

    /// Puts a file there, synced, in place of one that has the name.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut medium = self.lock();
        let inode = medium.take_inode();
        medium.inodes.insert(
            inode,
            Inode {
                bytes: content.to_vec(),
                lasting: content.to_vec(),
                pending: BTreeSet::new(),
            },
        );
        medium.names.insert(name.to_owned(), inode);
        medium.lasting_names.insert(name.to_owned(), inode);
    }

    /// Removes a file for good.
    pub fn lose(&self, name: &str) {
        let mut medium = self.lock();
        medium.names.remove(name);
        medium.lasting_names.remove(name);
    }

    /// Another disk with everything that programs see on this one.
    pub fn copy(&self) -> Self {
        let copy = Self::new(0, self.lock().capacity);
        for (name, content) in self.image() {
            copy.put(&name, &content);
        }
        copy
    }

    /// Everything as programs see it.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let medium = self.lock();
        let content = |inode: &u64| medium.inodes[inode].bytes.clone();
        medium
            .names
            .iter()
            .map(|(name, inode)| (name.clone(), content(inode)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Medium {
    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, bound: u64) -> bool {
        bound > 0 && self.draw().is_multiple_of(bound)
    }

    /// Counts a call; `one_in` says how often its kind fails.
    fn call(&mut self, one_in: u64) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if !self.has_power {
            return Err(failure());
        }
        let trap = self
            .trap
            .as_ref()
            .filter(|(numbers, _)| numbers.contains(&number));
        match trap.map(|(_, trap)| *trap) {
            Some(Trap::PowerGoes) => {
                self.has_power = false;
                return Err(failure());
            }
            Some(Trap::Fails) => return Err(failure()),
            Some(Trap::Full) => return Err(io::ErrorKind::StorageFull.into()),
            None => {}
        }
        if self.one_in(one_in) {
            return Err(failure());
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<_> = self.names.values().chain(self.lasting_names.values()).collect();
        inodes
            .iter()
            .map(|inode| self.inodes[inode].bytes.len() as u64)
            .sum()
    }

    fn take_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    fn inode_of(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, file: &SimulatedFile) -> &mut Inode {
        self.inodes.get_mut(&file.0).expect("inodes stay")
    }

    fn cut_power(&mut self) {
        self.has_power = true;
        self.trap = None;
        for change in std::mem::take(&mut self.pending_names) {
            if self.one_in(2) {
                change.carry_out(&mut self.lasting_names);
            }
        }
        let numbers: Vec<u64> = self.inodes.keys().copied().collect();
        for number in numbers {
            let mut inode = self.inodes.remove(&number).expect("just listed");
            for sector in std::mem::take(&mut inode.pending) {
                let begin = sector * SECTOR;
                let fresh = inode.bytes.get(begin..).unwrap_or_default();
                let fresh = fresh[..fresh.len().min(SECTOR)].to_vec();
                let keep = match self.below(3) {
                    0 => 0,
                    1 => fresh.len(),
                    _ => self.below(fresh.len() + 1),
                };
                if keep == 0 {
                    continue;
                }
                // A torn sector has the old bytes behind the new, or none.
                let has_old = keep == fresh.len() || self.one_in(2);
                inode.lasting.resize(inode.lasting.len().max(begin + keep), 0);
                inode.lasting[begin..begin + keep].copy_from_slice(&fresh[..keep]);
                if !has_old {
                    let end = inode.lasting.len().min(begin + SECTOR);
                    inode.lasting[begin + keep..end].fill(0);
                }
            }
            self.inodes.insert(number, inode);
        }
        self.take_back_lies();
        self.rot();
        for inode in self.inodes.values_mut() {
            inode.bytes.clone_from(&inode.lasting);
        }
        self.names.clone_from(&self.lasting_names);
        let known: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|number, _| known.contains(number));
        self.overwritten.clear();
    }

    fn take_back_lies(&mut self) {
        for _ in 0..self.faults.lies {
            for (number, sector, old) in self.overwritten.pop().unwrap_or_default() {
                if let Some(inode) = self.inodes.get_mut(&number) {
                    let begin = sector * SECTOR;
                    let end = inode.lasting.len().min(begin + SECTOR);
                    if let Some(place) = inode.lasting.get_mut(begin..end) {
                        place.fill(0);
                        let count = place.len().min(old.len());
                        place[..count].copy_from_slice(&old[..count]);
                    }
                }
            }
        }
    }

    fn rot(&mut self) {
        let files: Vec<u64> = self.lasting_names.values().copied().collect();
        for _ in 0..self.faults.rots {
            if files.is_empty() {
                return;
            }
            let number = files[self.below(files.len())];
            let length = self.inodes[&number].lasting.len();
            if length > 0 {
                let (at, bit) = (self.below(length), self.below(8));
                let inode = self.inodes.get_mut(&number).expect("just listed");
                inode.lasting[at] ^= 1 << bit;
            }
        }
    }
}

impl NameChange {
    /// What depends on a change that was lost comes to nothing.
    fn carry_out(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Make(name, inode) => {
                names.insert(name, inode);
            }
            Self::Change(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

fn failure() -> io::Error {
    io::Error::other("the medium does not answer")
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut medium = self.lock();
        medium.call(0)?;
        Ok(medium.names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> io::Result<SimulatedFile> {
        let mut medium = self.lock();
        let one_in = medium.faults.write_fails_one_in;
        medium.call(one_in)?;
        if medium.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = medium.take_inode();
        medium.inodes.insert(inode, Inode::default());
        medium.names.insert(name.to_owned(), inode);
        medium
            .pending_names
            .push(NameChange::Make(name.to_owned(), inode));
        Ok(SimulatedFile(inode))
    }

    fn open(&mut self, name: &str) -> io::Result<SimulatedFile> {
        let mut medium = self.lock();
        let one_in = medium.faults.read_fails_one_in;
        medium.call(one_in)?;
        medium.inode_of(name).map(SimulatedFile)
    }

    fn length(&mut self, file: &SimulatedFile) -> io::Result<u64> {
        let mut medium = self.lock();
        let one_in = medium.faults.read_fails_one_in;
        medium.call(one_in)?;
        Ok(medium.inode(file).bytes.len() as u64)
    }

    fn read_at(&mut self, file: &SimulatedFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut medium = self.lock();
        let one_in = medium.faults.read_fails_one_in;
        medium.call(one_in)?;
        let bytes = medium
            .inode(file)
            .bytes
            .get(offset as usize..)
            .unwrap_or_default();
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_at(&mut self, file: &SimulatedFile, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut medium = self.lock();
        let one_in = medium.faults.write_fails_one_in;
        medium.call(one_in)?;
        let short = medium.faults.write_is_short_one_in;
        let count = if medium.one_in(short) {
            medium.below(bytes.len()) + 1
        } else {
            bytes.len()
        };
        let offset = offset as usize;
        let end = offset + count.min(bytes.len());
        let grows = end.saturating_sub(medium.inode(file).bytes.len()) as u64;
        if grows > 0 && medium.used() + grows > medium.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = medium.inode(file);
        inode.bytes.resize(inode.bytes.len().max(end), 0);
        inode.bytes[offset..end].copy_from_slice(&bytes[..end - offset]);
        inode.pending.extend(offset / SECTOR..end.div_ceil(SECTOR));
        Ok(end - offset)
    }

    fn sync_data(&mut self, file: &SimulatedFile) -> io::Result<()> {
        let mut medium = self.lock();
        let one_in = medium.faults.sync_fails_one_in;
        let fails = medium.call(one_in);
        let has_power = medium.has_power;
        let lies = medium.faults.lies;
        let inode = medium.inode(file);
        if let Err(error) = fails {
            if has_power {
                // The system forgets that these pages were to be written, and shows them as if they had been.
                inode.pending.clear();
            }
            return Err(error);
        }
        let mut overwritten = Vec::new();
        let length = inode.bytes.len();
        inode.lasting.resize(length, 0);
        for sector in std::mem::take(&mut inode.pending) {
            let begin = sector * SECTOR;
            let end = (begin + SECTOR).min(length);
            if begin < end {
                overwritten.push((file.0, sector, inode.lasting[begin..end].to_vec()));
                inode.lasting[begin..end].copy_from_slice(&inode.bytes[begin..end]);
            }
        }
        if lies > 0 {
            medium.overwritten.push(overwritten);
            let old = medium.overwritten.len().saturating_sub(lies);
            medium.overwritten.drain(..old);
        }
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut medium = self.lock();
        let one_in = medium.faults.sync_fails_one_in;
        let called = medium.call(one_in);
        // Where names could not be synced, the next sync that says so makes up for it: systems keep a journal of them.
        called?;
        for change in std::mem::take(&mut medium.pending_names) {
            change.carry_out(&mut medium.lasting_names);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut medium = self.lock();
        let one_in = medium.faults.write_fails_one_in;
        medium.call(one_in)?;
        let inode = medium.inode_of(from)?;
        medium.names.remove(from);
        medium.names.insert(to.to_owned(), inode);
        medium
            .pending_names
            .push(NameChange::Change(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut medium = self.lock();
        let one_in = medium.faults.write_fails_one_in;
        medium.call(one_in)?;
        medium.inode_of(name)?;
        medium.names.remove(name);
        medium.pending_names.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        let mut medium = self.lock();
        medium.call(0)?;
        Ok(medium.capacity.saturating_sub(medium.used()))
    }
}
