//! Who owns what all share: the room each user takes up, so that none takes it all.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU64;

use foldhash::fast::FixedState;

use crate::auth::Identity;

/// Whom sessions, subscriptions and retained messages are counted for: a user, or everybody who gave no name and came
/// from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Owner(NonZeroU64);

/// What is one place of IPv6: whoever has one address there commonly has 2^64.
const NETWORK_MASK: u128 = !0 << 64;

/// What one owner takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) sessions: usize,
    pub(super) subscriptions: usize,
    /// Messages of its own that are retained.
    pub(super) retained: usize,
    /// Their topics, payloads and properties, in bytes.
    pub(super) retained_bytes: usize,
}

/// What each owner takes up.
///
/// 1. An owner that takes up nothing is not in the table.
#[derive(Debug)]
pub(super) struct Owners {
    usage: HashMap<Owner, Usage, FixedState>,
    hasher: FixedState,
}

impl Owners {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            usage: HashMap::with_hasher(FixedState::with_seed(seed)),
            hasher: FixedState::with_seed(!seed),
        }
    }

    /// Whom a client counts for that has proved to be `identity` and came from `peer`.
    pub(super) fn owner(&self, identity: &Identity, peer: Option<IpAddr>) -> Owner {
        let address = peer.map(|address| address.to_canonical());
        let place = match (identity, address) {
            (Identity::Anonymous, Some(IpAddr::V4(address))) => Some(IpAddr::V4(address)),
            (Identity::Anonymous, Some(IpAddr::V6(address))) => {
                Some(IpAddr::V6((address.to_bits() & NETWORK_MASK).into()))
            }
            _ => None,
        };
        Owner(NonZeroU64::MIN | self.hasher.hash_one((identity, place)))
    }

    pub(super) fn usage(&self, owner: Owner) -> Usage {
        self.usage.get(&owner).copied().unwrap_or_default()
    }

    /// Changes what `owner` takes up.
    pub(super) fn change(&mut self, owner: Owner, change: impl FnOnce(&mut Usage)) {
        let usage = self.usage.entry(owner).or_default();
        change(usage);
        if *usage == Usage::default() {
            self.usage.remove(&owner);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Owner, Usage)> {
        self.usage.iter().map(|(&owner, &usage)| (owner, usage))
    }
}
