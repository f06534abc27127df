//! Who is kept out for a time: client identifiers, users and networks, each until a moment or until it is taken back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slotmap::SlotMap;

use super::timers::Timer;
use super::{Broker, Event, Output};
use crate::auth::network::Network;
use crate::mqtt::{ClientId, Utf8String};

slotmap::new_key_type! {
    /// One ban, by a key that is never used again.
    pub(super) struct BanKey;
}

/// Who is kept out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanSubject {
    /// Whoever comes with this client identifier.
    Client(ClientId),
    /// Whoever comes as this user.
    User(Utf8String),
    /// Whoever comes from one of these addresses.
    Network(Network),
}

/// Somebody is kept out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub subject: BanSubject,
    /// When it ends; `None`: when it is taken back.
    pub until: Option<Instant>,
}

/// All bans.
///
/// 1. A subject has one ban, and while that is to end [`Timer::Ban`] runs.
/// 2. There are at most [`super::Limits::bans_max`], so what they may hold is bounded too.
/// 3. `prefixes` counts the networks by their family and length, so that an address is looked for once for each.
#[derive(Debug, Default)]
pub(super) struct Bans {
    slots: SlotMap<BanKey, Ban>,
    subjects: BTreeMap<BanSubject, BanKey>,
    prefixes: BTreeMap<(bool, u8), usize>,
}

/// What became of a wish to keep somebody out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeptOut {
    /// It was not asked for.
    #[default]
    NotAsked,
    /// The ban stands.
    Banned,
    /// There are [`super::Limits::bans_max`] bans.
    Full,
    /// No such client or user can come in: the name is longer than [`super::Limits::topic_bytes_max`].
    NeedNot,
}

impl BanSubject {
    /// The length of its text.
    fn bytes(&self) -> usize {
        match self {
            Self::Client(client) => client.as_str().len(),
            Self::User(user) => user.as_str().len(),
            Self::Network(_) => 0,
        }
    }
}

impl fmt::Display for BanSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(client) => write!(f, "client {:?}", client.as_str()),
            Self::User(user) => write!(f, "user {:?}", user.as_str()),
            Self::Network(network) => write!(f, "address {network}"),
        }
    }
}

impl Bans {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All of them, in the order of the subjects.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Ban> {
        (self.subjects.values()).filter_map(|&key| self.slots.get(key))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        (self.prefixes.keys()).any(|&(is_v4, prefix_bits)| {
            is_v4 == address.to_canonical().is_ipv4()
                && self.has(&BanSubject::Network(Network::around(address, prefix_bits)))
        })
    }

    fn has(&self, subject: &BanSubject) -> bool {
        self.subjects.contains_key(subject)
    }

    fn count_prefix(&mut self, subject: &BanSubject, is_more: bool) {
        if let BanSubject::Network(network) = subject {
            let prefix = (network.address().is_ipv4(), network.prefix_bits());
            let count = self.prefixes.entry(prefix).or_default();
            *count = if is_more { *count + 1 } else { *count - 1 };
            if *count == 0 {
                self.prefixes.remove(&prefix);
            }
        }
    }

    /// The deadlines that have to run.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (Instant, Timer)> {
        (self.slots.iter()).filter_map(|(key, ban)| Some((ban.until?, Timer::Ban(key))))
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self, bans_max: usize) -> Result<(), String> {
        let networks = (self.slots.values()).filter(|ban| matches!(ban.subject, BanSubject::Network(_)));
        if self.slots.len() != self.subjects.len()
            || networks.count() != self.prefixes.values().sum::<usize>()
            || (self.slots.iter()).any(|(key, ban)| self.subjects.get(&ban.subject) != Some(&key))
        {
            return Err("the tables of bans disagree".into());
        }
        if self.slots.len() > bans_max {
            return Err(format!("{} bans, more than the limits allow", self.slots.len()));
        }
        Ok(())
    }
}

impl Broker {
    /// Everybody who is kept out, in the order of the subjects.
    pub fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.iter()
    }

    /// Whether one of these is kept out.
    pub(super) fn is_banned(
        &self,
        client: Option<&ClientId>,
        user: Option<&Utf8String>,
        peer: Option<IpAddr>,
    ) -> bool {
        if self.bans.is_empty() {
            return false;
        }
        client.is_some_and(|client| self.bans.has(&BanSubject::Client(client.clone())))
            || user.is_some_and(|user| self.bans.has(&BanSubject::User(user.clone())))
            || peer.is_some_and(|peer| self.bans.has_address(peer))
    }

    /// Keeps `subject` out for `duration`; of two bans of one subject the longer counts.
    pub(super) fn ban(&mut self, now: Instant, subject: BanSubject, duration: Duration) -> KeptOut {
        let until = now.checked_add(duration);
        if let Some(&key) = self.bans.subjects.get(&subject) {
            let Some(ban) = self.bans.slots.get_mut(key) else {
                return KeptOut::Full;
            };
            let is_longer = ban
                .until
                .is_some_and(|before| until.is_none_or(|until| until > before));
            if is_longer {
                self.timers.cancel(ban.until, Timer::Ban(key));
                ban.until = until;
                self.set_ban_timer(until, key);
                self.store_ban(&subject, until);
            }
            return KeptOut::Banned;
        }
        if subject.bytes() > self.limits.topic_bytes_max {
            return KeptOut::NeedNot;
        }
        if self.bans.slots.len() >= self.limits.bans_max {
            self.limit_reached(now, "bans_max");
            return KeptOut::Full;
        }
        self.store_ban(&subject, until);
        self.ban_again(subject, until);
        KeptOut::Banned
    }

    /// Keeps somebody out who is not yet, until the moment told.
    pub(super) fn ban_again(&mut self, subject: BanSubject, until: Option<Instant>) {
        self.bans.count_prefix(&subject, true);
        let key = self.bans.slots.insert(Ban {
            subject: subject.clone(),
            until,
        });
        self.bans.subjects.insert(subject, key);
        self.set_ban_timer(until, key);
        self.stats.bans = self.bans.slots.len() as u64;
    }

    fn set_ban_timer(&mut self, until: Option<Instant>, key: BanKey) {
        if let Some(until) = until {
            self.timers.set(until, Timer::Ban(key));
        }
    }

    /// The time of a ban is over.
    pub(super) fn handle_ban_timer(&mut self, key: BanKey) {
        if let Some(ban) = self.bans.slots.get_mut(key) {
            ban.until = None;
            self.lift_ban(key, true);
        }
    }

    /// Takes a ban back; whether there was one.
    pub(super) fn unban(&mut self, subject: &BanSubject) -> bool {
        let key = self.bans.subjects.get(subject).copied();
        if let Some(key) = key {
            self.lift_ban(key, false);
        }
        key.is_some()
    }

    fn lift_ban(&mut self, key: BanKey, is_over: bool) {
        let Some(Ban { subject, until }) = self.bans.slots.remove(key) else {
            return;
        };
        self.timers.cancel(until, Timer::Ban(key));
        self.bans.subjects.remove(&subject);
        self.bans.count_prefix(&subject, false);
        self.stats.bans = self.bans.slots.len() as u64;
        self.store_unbanned(&subject);
        self.outputs
            .push_back(Output::Event(Event::BanLifted { subject, is_over }));
    }
}
