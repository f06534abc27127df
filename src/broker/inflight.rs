//! Packet identifiers and unfinished deliveries, both ways (sections 2.2.1, 4.3 and 4.4).

use std::collections::VecDeque;

use super::budget::{ALLOCATION_BYTES, Account, Charge};
use super::kept::Queued;
use crate::mqtt::{PacketId, QoS};

/// The unfinished QoS 1 and 2 deliveries to one client.
///
/// 1. Entries stand in the order their PUBLISH was first sent; a resend keeps that order [MQTT-4.6.0-1].
/// 2. No two entries have the same packet identifier.
/// 3. Entries before `resend_next` were sent on the link that is attached now; the others wait for their
///    resend, which happens on resume only [MQTT-4.4.0-1].
/// 4. `outstanding` counts the entries whose PUBLISH was sent on the link that is attached now: what Receive
///    Maximum bounds.
/// 5. `size` is the sum over the messages still held, in bytes.
#[derive(Debug)]
pub(super) struct Inflight {
    entries: VecDeque<Entry>,
    resend_next: u16,
    outstanding: u16,
    last_id: u16,
    /// On the account of what is in flight to all clients.
    size: Charge,
    /// A bit for each identifier, kept only while there are many entries.
    used: Option<Box<UsedIds>>,
    /// What the tables cost; the messages in them are charged for themselves.
    charge: Charge,
}

type UsedIds = [u64; 1024];

/// From how many entries on a bitmap is quicker than looking through them.
const LOOK_THROUGH_MAX: usize = 64;

/// Entries for which room is kept when none is left: those of a client that is sent one message after the other.
const ENTRIES_KEPT: usize = 8;

/// One unfinished delivery.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) packet_id: PacketId,
    pub(super) stage: Stage,
    /// Whether it counts against the window of the link attached now.
    counted: bool,
}

/// How far a delivery has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// PUBLISH was sent; PUBACK or PUBREC is owed [MQTT-4.3.2-3] [MQTT-4.3.3-3].
    Published(Queued),
    /// PUBREL was sent; PUBCOMP is owed [MQTT-4.3.3-5], and the message itself is gone [MQTT-4.3.3-6].
    Released,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acked {
    /// It was awaited.
    Done,
    /// No delivery has that identifier.
    Unknown,
    /// The delivery awaits another packet.
    Unexpected,
}

impl Inflight {
    /// None yet; `in_flight` counts their bytes over all clients.
    pub(super) fn new(account: &Account, in_flight: &Account) -> Self {
        Self {
            entries: VecDeque::new(),
            resend_next: 0,
            outstanding: 0,
            last_id: 0,
            size: Charge::new(in_flight, 0),
            used: None,
            charge: Charge::new(account, 0),
        }
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size.bytes()
    }

    /// PUBLISH packets sent on this link and unfinished.
    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether something sent on an earlier link still has to be sent on this one.
    pub(super) fn owes_resend(&self) -> bool {
        usize::from(self.resend_next) < self.entries.len()
    }

    /// The next entry to send again.
    pub(super) fn next_resend(&self) -> Option<&Entry> {
        self.entries.get(usize::from(self.resend_next))
    }

    /// Notes that [`Inflight::next_resend`] was sent.
    pub(super) fn resent(&mut self) {
        if let Some(entry) = self.entries.get_mut(usize::from(self.resend_next)) {
            if matches!(entry.stage, Stage::Published(_)) {
                entry.counted = true;
                self.outstanding += 1;
            }
            self.resend_next += 1;
        }
    }

    /// Gives [`Inflight::next_resend`] up.
    pub(super) fn drop_resend(&mut self) {
        self.remove(usize::from(self.resend_next));
    }

    /// Takes `queued` as sent for the first time, under an identifier no unfinished delivery has.
    ///
    /// Everything owed must have been resent before. `None` when all 65,535 identifiers are in use.
    pub(super) fn begin(&mut self, queued: Queued) -> Option<PacketId> {
        let packet_id = self.free_id()?;
        self.last_id = packet_id.get();
        self.size.set(self.size.bytes() + queued.size_bytes());
        self.entries.push_back(Entry {
            packet_id,
            stage: Stage::Published(queued),
            counted: true,
        });
        // No more than there are identifiers.
        self.resend_next = u16::try_from(self.entries.len()).unwrap_or(u16::MAX);
        self.outstanding += 1;
        self.mark_begun(packet_id);
        Some(packet_id)
    }

    fn mark_begun(&mut self, packet_id: PacketId) {
        self.mark(packet_id, true);
        if self.entries.len() > LOOK_THROUGH_MAX && self.used.is_none() {
            self.used = Some(Box::new([0; 1024]));
            for index in 0..self.entries.len() {
                self.mark(self.entries[index].packet_id, true);
            }
        }
        self.charge_tables();
    }

    /// Puts a delivery back that was sent before the gateway was stopped: `None` was released.
    pub(super) fn put_back(&mut self, packet_id: PacketId, queued: Option<Queued>) {
        let stage = match queued {
            None => Stage::Released,
            Some(queued) => {
                self.size.set(self.size.bytes() + queued.size_bytes());
                Stage::Published(queued)
            }
        };
        self.entries.push_back(Entry {
            packet_id,
            stage,
            counted: false,
        });
        self.mark_begun(packet_id);
    }

    /// The topic of a delivery that PUBACK or PUBREC is owed for.
    pub(super) fn topic_of(&self, packet_id: PacketId) -> Option<&str> {
        match &self.entries.get(self.position(packet_id)?)?.stage {
            Stage::Published(queued) => Some(queued.message.topic_str()),
            Stage::Released => None,
        }
    }

    /// Takes a delivery back that could not be sent.
    pub(super) fn abandon(&mut self, packet_id: PacketId) {
        if let Some(index) = self.position(packet_id) {
            self.remove(index);
        }
    }

    /// PUBACK.
    pub(super) fn acknowledge(&mut self, packet_id: PacketId) -> Acked {
        self.finish(
            packet_id,
            |stage| matches!(stage, Stage::Published(queued) if queued.qos == QoS::AtLeastOnce),
        )
    }

    /// PUBREC with an error: the delivery ends.
    pub(super) fn reject(&mut self, packet_id: PacketId) -> Acked {
        self.finish(
            packet_id,
            |stage| matches!(stage, Stage::Published(queued) if queued.qos == QoS::ExactlyOnce),
        )
    }

    /// PUBCOMP.
    pub(super) fn complete(&mut self, packet_id: PacketId) -> Acked {
        self.finish(packet_id, |stage| matches!(stage, Stage::Released))
    }

    /// PUBREC: the message is the client's now; PUBREL follows.
    pub(super) fn release(&mut self, packet_id: PacketId) -> Acked {
        let Some(index) = self.position(packet_id) else {
            return Acked::Unknown;
        };
        let Some(entry) = self.entries.get_mut(index) else {
            return Acked::Unknown;
        };
        match &entry.stage {
            Stage::Published(queued) if queued.qos == QoS::ExactlyOnce => {
                self.size.set(self.size.bytes() - queued.size_bytes());
                entry.stage = Stage::Released;
                Acked::Done
            }
            Stage::Published(_) => Acked::Unexpected,
            Stage::Released => Acked::Done,
        }
    }

    /// The link ended: everything unfinished waits for the next one.
    pub(super) fn rewind(&mut self) {
        self.resend_next = 0;
        self.outstanding = 0;
        for entry in &mut self.entries {
            entry.counted = false;
        }
    }

    fn finish(&mut self, packet_id: PacketId, awaited: impl Fn(&Stage) -> bool) -> Acked {
        let Some(index) = self.position(packet_id) else {
            return Acked::Unknown;
        };
        if !self.entries.get(index).is_some_and(|entry| awaited(&entry.stage)) {
            return Acked::Unexpected;
        }
        self.remove(index);
        Acked::Done
    }

    fn remove(&mut self, index: usize) {
        let Some(entry) = self.entries.remove(index) else {
            return;
        };
        self.mark(entry.packet_id, false);
        if entry.counted {
            self.outstanding -= 1;
        }
        if index < usize::from(self.resend_next) {
            self.resend_next -= 1;
        }
        if let Stage::Published(queued) = &entry.stage {
            self.size.set(self.size.bytes() - queued.size_bytes());
        }
        if self.entries.is_empty() {
            self.used = None;
            if self.entries.capacity() > ENTRIES_KEPT {
                self.entries = VecDeque::new();
            }
            self.charge_tables();
        }
    }

    fn charge_tables(&mut self) {
        let entries = self.entries.capacity() * size_of::<Entry>() + ALLOCATION_BYTES;
        let used = if self.used.is_some() {
            size_of::<UsedIds>()
        } else {
            0
        };
        self.charge.set(entries + used);
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        if self.used.is_some() && !self.is_used(packet_id) {
            return None;
        }
        self.entries.iter().position(|entry| entry.packet_id == packet_id)
    }

    fn free_id(&self) -> Option<PacketId> {
        if self.entries.len() >= usize::from(u16::MAX) {
            return None;
        }
        let mut candidate = PacketId::new(self.last_id).map_or(PacketId::MIN, PacketId::next);
        while self.is_used(candidate) {
            candidate = candidate.next(); // [MQTT-2.2.1-4]: ends, for fewer than 65,535 are in use
        }
        Some(candidate)
    }

    fn is_used(&self, packet_id: PacketId) -> bool {
        match &self.used {
            Some(used) => used[word(packet_id)] & bit(packet_id) != 0,
            None => self.entries.iter().any(|entry| entry.packet_id == packet_id),
        }
    }

    fn mark(&mut self, packet_id: PacketId, in_use: bool) {
        if let Some(used) = &mut self.used {
            match in_use {
                true => used[word(packet_id)] |= bit(packet_id),
                false => used[word(packet_id)] &= !bit(packet_id),
            }
        }
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut ids: Vec<_> = self.entries.iter().map(|entry| entry.packet_id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.entries.len() {
            return Err("a packet identifier is in flight twice".into());
        }
        if ids.iter().any(|&id| !self.is_used(id)) {
            return Err("a packet identifier in flight is not marked as used".into());
        }
        if let Some(used) = &self.used
            && used.iter().map(|word| word.count_ones()).sum::<u32>() as usize != ids.len()
        {
            return Err("more packet identifiers are marked as used than are in flight".into());
        }
        let counted = self.entries.iter().filter(|entry| entry.counted).count();
        if counted != usize::from(self.outstanding) {
            return Err(format!(
                "{counted} deliveries are outstanding, {} are counted",
                self.outstanding
            ));
        }
        if self
            .entries
            .iter()
            .skip(usize::from(self.resend_next))
            .any(|entry| entry.counted)
        {
            return Err("a delivery counts as outstanding and waits for its resend".into());
        }
        let size_bytes: usize = (self.entries.iter())
            .map(|entry| match &entry.stage {
                Stage::Published(queued) => queued.size_bytes(),
                Stage::Released => 0,
            })
            .sum();
        if size_bytes != self.size.bytes() {
            return Err(format!(
                "{size_bytes} bytes are in flight, {} are counted",
                self.size.bytes()
            ));
        }
        Ok(())
    }
}

const fn word(packet_id: PacketId) -> usize {
    (packet_id.get() >> 6) as usize
}

const fn bit(packet_id: PacketId) -> u64 {
    1 << (packet_id.get() & 63)
}

/// The packet identifiers of QoS 2 messages that came from one client and were not released yet.
///
/// However many they are, they take 8 KiB at most: clients before 5.0 cannot be told a Receive Maximum, and may
/// have all 65,535 identifiers under way.
#[derive(Debug)]
pub(super) struct Receiving {
    ids: Ids,
    charge: Charge,
}

#[derive(Debug)]
enum Ids {
    /// In their order.
    Few(Vec<PacketId>),
    /// A bit for each.
    Many(Box<ManyIds>),
}

#[derive(Debug)]
struct ManyIds {
    used: UsedIds,
    count: usize,
}

/// From how many identifiers on a bit for each takes no more than twice the room of a list.
const FEW_MAX: usize = 2048;

impl Receiving {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            ids: Ids::Few(Vec::new()),
            charge: Charge::new(account, 0),
        }
    }

    /// What they cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn contains(&self, packet_id: PacketId) -> bool {
        self.ids.contains(packet_id)
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = PacketId> {
        let all = (1..=u16::MAX).filter_map(PacketId::new);
        let (few, many) = match &self.ids {
            Ids::Few(ids) => (ids.as_slice(), None),
            Ids::Many(_) => (&[] as &[PacketId], Some(all.filter(|&id| self.contains(id)))),
        };
        few.iter().copied().chain(many.into_iter().flatten())
    }

    /// Remembers the identifier; whether that took more memory.
    pub(super) fn insert(&mut self, packet_id: PacketId) -> bool {
        let before = self.charge.bytes();
        self.ids.insert(packet_id);
        self.charge.set(self.ids.cost_bytes());
        self.charge.bytes() > before
    }

    /// Forgets the identifier; whether it was there.
    pub(super) fn remove(&mut self, packet_id: PacketId) -> bool {
        let found = self.ids.remove(packet_id);
        self.charge.set(self.ids.cost_bytes());
        found
    }
}

impl Ids {
    fn cost_bytes(&self) -> usize {
        match self {
            Self::Few(ids) if ids.capacity() == 0 => 0,
            Self::Few(ids) => ids.capacity() * size_of::<PacketId>() + ALLOCATION_BYTES,
            Self::Many(_) => size_of::<ManyIds>() + ALLOCATION_BYTES,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many(ids) => ids.count,
        }
    }

    fn contains(&self, packet_id: PacketId) -> bool {
        match self {
            Self::Few(ids) => ids.binary_search(&packet_id).is_ok(),
            Self::Many(ids) => ids.used[word(packet_id)] & bit(packet_id) != 0,
        }
    }

    fn insert(&mut self, packet_id: PacketId) {
        match self {
            Self::Few(ids) => {
                if let Err(index) = ids.binary_search(&packet_id) {
                    if ids.len() < FEW_MAX {
                        ids.insert(index, packet_id);
                    } else {
                        let mut many = ManyIds::of(ids);
                        many.insert(packet_id);
                        *self = Self::Many(many);
                    }
                }
            }
            Self::Many(ids) => ids.insert(packet_id),
        }
    }

    fn remove(&mut self, packet_id: PacketId) -> bool {
        match self {
            Self::Few(ids) => {
                let found = ids.binary_search(&packet_id);
                if let Ok(index) = found {
                    ids.remove(index);
                }
                if ids.is_empty() && ids.capacity() > LOOK_THROUGH_MAX {
                    *ids = Vec::new();
                }
                found.is_ok()
            }
            Self::Many(ids) => {
                let found = ids.remove(packet_id);
                if ids.count == 0 {
                    *self = Self::Few(Vec::new());
                }
                found
            }
        }
    }
}

impl ManyIds {
    fn of(ids: &[PacketId]) -> Box<Self> {
        let mut many = Box::new(Self {
            used: [0; 1024],
            count: 0,
        });
        for &id in ids {
            many.insert(id);
        }
        many
    }

    fn insert(&mut self, packet_id: PacketId) {
        let word = &mut self.used[word(packet_id)];
        if *word & bit(packet_id) == 0 {
            *word |= bit(packet_id);
            self.count += 1;
        }
    }

    fn remove(&mut self, packet_id: PacketId) -> bool {
        let word = &mut self.used[word(packet_id)];
        let found = *word & bit(packet_id) != 0;
        if found {
            *word &= !bit(packet_id);
            self.count -= 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_kept_and_forgotten_alike_whether_few_or_many() {
        let id = |number| PacketId::new(number).expect("not 0");
        let account = Account::default();
        let mut receiving = Receiving::new(&account);
        for round in 0..2 {
            for number in 1..=u16::MAX {
                assert!(!receiving.contains(id(number)), "round {round}");
                receiving.insert(id(number));
                receiving.insert(id(number));
                assert_eq!(receiving.len(), usize::from(number));
                let few = usize::from(number) <= FEW_MAX;
                assert_eq!(matches!(receiving.ids, Ids::Few(_)), few);
            }
            for number in (1..=u16::MAX).rev() {
                assert!(receiving.contains(id(number)));
                assert!(receiving.remove(id(number)));
                assert!(!receiving.remove(id(number)));
            }
            assert!(matches!(&receiving.ids, Ids::Few(ids) if ids.capacity() == 0));
            assert_eq!(account.bytes(), 0);
        }
    }

    #[test]
    fn identifiers_take_little_room_where_they_are_few_and_8_kib_where_they_are_many() {
        assert_eq!(size_of::<Ids>(), size_of::<Vec<PacketId>>());
        assert!(size_of::<ManyIds>() <= 2 * FEW_MAX * size_of::<PacketId>() + 8);
    }
}
