//! What a seed draws before the first step: which faults there are at all, how often each, and every size. Swarm
//! testing: a world with few kinds of trouble gets deeper into each than one with all of them.

use std::time::Duration;

use tidegate::broker::{Limits, Overflow, QueueClass};
use tidegate::mqtt::ProtocolVersion;

use crate::acts::Kind;
use crate::chance::Chance;
use crate::disk::Faults;

/// One world's terms.
#[derive(Debug, Clone)]
pub struct Setup {
    pub clients: Vec<Who>,
    pub limits: Limits,
    /// Whether nothing may be dropped for want of room.
    pub is_roomy: bool,
    /// Whether bytes wait in the network until a step carries them.
    pub delays: bool,
    /// How many names a level of a topic has, and how many levels there are.
    pub names: usize,
    pub levels: usize,
    pub payload_bytes_max: usize,
    /// How many steps in a hundred each kind of act gets, as weights.
    pub weights: [u32; Kind::ALL.len()],
    /// How long a step of the clock is, in milliseconds.
    pub pauses_ms: [u64; 3],
    /// Keep-alives and expiries that clients ask for.
    pub keep_alives: [u16; 2],
    pub expiries: [u32; 2],
    pub receive_maxima: [Option<u16>; 2],
    pub wills: bool,
    pub shares: bool,
    pub aliases: bool,
    pub properties: bool,
    /// Whether what has to outlive the process is stored, and whether the process may end.
    pub stores: bool,
    pub crashes: bool,
    /// The real journal stores it, on a disk of this seed, with these faults.
    pub journal_seed: Option<u64>,
    pub disk_faults: Faults,
}

/// One client of a world.
#[derive(Debug, Clone)]
pub struct Who {
    pub name: String,
    pub user: Option<String>,
    pub version: ProtocolVersion,
}

impl Setup {
    pub fn draw(chance: &mut Chance) -> Self {
        let count = match chance.below(10) {
            0 => 1 + chance.below(2),
            1 => 8 + chance.below(33),
            _ => 2 + chance.below(6),
        };
        let versions = chance.of(&[
            &[ProtocolVersion::V5][..],
            &[ProtocolVersion::V311],
            &[
                ProtocolVersion::V31,
                ProtocolVersion::V311,
                ProtocolVersion::V5,
                ProtocolVersion::V5,
            ],
        ]);
        let clients: Vec<Who> = (0..count)
            .map(|index| Who {
                name: format!("client{index}"),
                user: (!chance.one_in(3)).then(|| format!("user{}", index % 3)),
                version: chance.of(versions),
            })
            .collect();
        let is_roomy = !chance.one_in(3);
        let mut clients = clients;
        if !is_roomy {
            // 3.1 has no word for a subscription that finds no room.
            for who in clients
                .iter_mut()
                .filter(|who| who.version == ProtocolVersion::V31)
            {
                who.version = ProtocolVersion::V311;
            }
        }
        let mut weights = [0; Kind::ALL.len()];
        for (weight, kind) in weights.iter_mut().zip(Kind::ALL) {
            let usual = kind.usual_weight();
            *weight = match kind.is_fault() {
                true => chance.of(&[0, 0, usual, usual * 4]),
                false => chance.of(&[usual / 3, usual, usual, usual * 3]).max(1),
            };
        }
        let stores = !chance.one_in(3);
        let weight_of = |kind: Kind| kind as usize;
        weights[weight_of(Kind::Commit)] = if stores { chance.of(&[10, 30, 100]) } else { 0 };
        if !stores {
            for kind in [Kind::Checkpoint, Kind::Health, Kind::Crash] {
                weights[weight_of(kind)] = 0;
            }
        }
        let crashes = weights[weight_of(Kind::Crash)] > 0;
        let mut limits = limits(chance, is_roomy);
        if stores {
            // A SUBACK that tells of a refusal for want of memory may come long after it.
            limits.memory_bytes_max = limits.memory_bytes_max.max(10_000_000);
        }
        let journal_seed = (stores && chance.one_in(2)).then(|| chance.next());
        // What has spilled is read in the journal.
        limits.spill_bytes_max = 0;
        if journal_seed.is_some() {
            // Of sessions that are not stored nothing spills, so in a roomy world queues are long.
            limits.spill_bytes_max = match is_roomy {
                true => 1 << 30,
                false => chance.of(&[0, 500, 50_000]),
            };
            limits.spill_bytes_total_max = limits.spill_bytes_max.max(chance.of(&[1_000, 100_000]));
        }
        let one_in = |chance: &mut Chance| chance.of(&[0, 0, 300, 3_000]);
        let is_bad = crashes && chance.one_in(6);
        let disk_faults = Faults {
            lies: if is_bad { chance.below(4) } else { 0 },
            rots: if is_bad { chance.below(3) } else { 0 },
            sync_fails_one_in: one_in(chance),
            write_fails_one_in: one_in(chance),
            write_is_short_one_in: one_in(chance),
            ..Faults::default()
        };
        Self {
            stores,
            crashes,
            journal_seed,
            disk_faults,
            clients,
            limits,
            is_roomy,
            delays: chance.one_in(2),
            names: 1 + chance.below(3),
            levels: 1 + chance.below(3),
            payload_bytes_max: chance.of(&[10, 60, 300, 3000]),
            weights,
            pauses_ms: chance.of(&[
                [1, 10, 300],
                [1, 300, 3_000],
                [10, 1_000, 20_000],
                [1_000, 20_000, 100_000],
            ]),
            keep_alives: chance.of(&[[0, 0], [0, 60], [2, 60], [1, u16::MAX]]),
            expiries: chance.of(&[[0, 100], [5, 3600], [u32::MAX, u32::MAX], [0, u32::MAX]]),
            receive_maxima: chance.of(&[
                [None, None],
                [Some(1), Some(2)],
                [None, Some(5)],
                [Some(1), Some(u16::MAX)],
            ]),
            wills: chance.one_in(2),
            shares: chance.one_in(3),
            aliases: chance.one_in(2),
            properties: chance.one_in(2),
        }
    }
}

fn limits(chance: &mut Chance, is_roomy: bool) -> Limits {
    let base = Limits {
        connect_timeout: Duration::from_secs(10),
        keep_alive_max_secs: 1200,
        packet_bytes_max: 64 * 1024,
        inflight_max: chance.of(&[1, 2, 8, 32]),
        receive_maximum: chance.of(&[1, 4, 64]),
        topic_alias_maximum: chance.of(&[0, 2, 16]),
        session_expiry_max: Duration::from_secs(chance.of(&[50, 3600, 7 * 24 * 3600])),
        bans_max: 64,
        kicks_per_tick_max: chance.of(&[1, 3, 64]),
        ..Limits::default()
    };
    if is_roomy {
        return Limits {
            connections_max: 10_000,
            queue_class: QueueClass::N4096,
            queue_bytes_max: 64 * 1024 * 1024,
            queued_bytes_total_max: 1024 * 1024 * 1024,
            memory_bytes_max: 1024 * 1024 * 1024,
            unsent_bytes_max: chance.of(&[300, 5_000, 1_000_000]),
            ..base
        };
    }
    Limits {
        // One packet has to fit into what is left when memory is short.
        packet_bytes_max: 2_500,
        connections_max: chance.of(&[6, 64]),
        queue_class: chance.of(&[QueueClass::N16, QueueClass::N64]),
        queue_bytes_max: chance.of(&[300, 2_000, 100_000]),
        queue_overflow: chance.of(&[Overflow::DropOldest, Overflow::DropNewest]),
        queued_bytes_total_max: chance.of(&[800, 5_000, 1_000_000]),
        memory_bytes_max: chance.of(&[30_000, 100_000, 10_000_000]),
        unsent_bytes_max: chance.of(&[200, 1_000, 100_000]),
        sessions_max: chance.of(&[4, 1024]),
        retained_max: chance.of(&[2, 100]),
        retained_bytes_max: chance.of(&[300, 100_000]),
        ..base
    }
}
