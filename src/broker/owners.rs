//! Who owns what all share: the room each user takes up, so that none takes it all.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use crate::auth::Identity;

/// Whom sessions and subscriptions are counted for: a user, or everybody who gave no name and came from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Owner(u64);

/// What one owner takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) sessions: usize,
    pub(super) subscriptions: usize,
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
        let place = match (identity, peer.map(|address| address.to_canonical())) {
            (Identity::Anonymous, Some(IpAddr::V4(address))) => u64::from(address.to_bits()),
            // A subscriber is commonly given 2^64 of these at once.
            (Identity::Anonymous, Some(IpAddr::V6(address))) => {
                let network = address.to_bits() >> 64;
                u64::try_from(network).unwrap_or(u64::MAX)
            }
            _ => 0,
        };
        let is_v6 = matches!(peer, Some(IpAddr::V6(_)));
        Owner(self.hasher.hash_one((identity, place, is_v6 && place != 0)))
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
