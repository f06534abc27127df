//! Whether a message is to be refused because one of its receivers has no room for it and may not lose it.
//!
//! It is asked before anything is kept, so that a message that is refused was kept for nobody, and can be sent again
//! without reaching anybody twice.

use std::time::Instant;

use smallvec::SmallVec;

use super::Broker;
use super::deliver::Passing;
use super::hooked::may_receive;
use super::limits::Overflow;
use super::room::Load;
use super::session::SessionKey;
use super::subscriptions::Grant;
use crate::mqtt::QoS;

/// Whose room is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scarce {
    /// That of one session's queue.
    Queue(SessionKey),
    /// What all queues share.
    Shared,
}

/// What a message would take up in the queue of one session.
struct Demand {
    session: SessionKey,
    load: Load,
    /// Whether the message is refused where there is no room.
    rejects: bool,
}

type Demands = SmallVec<[Demand; 8]>;

impl Broker {
    /// Where a message finds no room and is to be refused for it; `None` where it may go on.
    #[inline(never)]
    pub(super) fn lacks_room(
        &mut self,
        now: Instant,
        publisher: Option<SessionKey>,
        passing: &mut Passing,
    ) -> Option<Scarce> {
        let resolved = self.subscriptions.resolve(&passing.topic);
        let mut demands = Demands::new();
        for target in &resolved.targets {
            if let Some(grant) = target.grant(publisher) {
                self.add_demand(&mut demands, target.session, grant, passing);
            }
        }
        for &group in &resolved.groups {
            if let Some((_, member)) = self.best_member(group, passing) {
                self.add_demand(&mut demands, member.session, &Grant::of([member].iter()), passing);
            }
        }
        self.subscriptions.put_back(resolved);
        if !demands.iter().any(|demand| demand.rejects) {
            return None;
        }
        // First what nobody can give way in, so that nobody gives way in vain.
        let own = self.scarce_queue(now, &demands);
        own.or_else(|| self.scarce_share(now, &demands, passing.keeping_bytes()))
    }

    fn add_demand(&mut self, demands: &mut Demands, key: SessionKey, grant: &Grant, passing: &Passing) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        // At QoS 0 nobody is promised anything.
        if passing.qos.min(grant.qos) == QoS::AtMostOnce
            || !may_receive(
                &mut self.hooked,
                &self.rights,
                self.attachments,
                (key, session),
                passing.as_seen(),
            )
            || !session.reaches(&passing.topic)
        {
            return;
        }
        let size_bytes = passing.size_bytes(&grant.subscription_ids);
        // A session may be reached by a subscription of its own and by shared ones.
        match demands.iter_mut().find(|demand| demand.session == key) {
            Some(demand) => {
                demand.load.count += 1;
                demand.load.size_bytes += size_bytes;
            }
            None => demands.push(Demand {
                session: key,
                load: Load {
                    count: 1,
                    size_bytes,
                    keeping_bytes: 0,
                },
                rejects: self.queues.overflow(session.fitting, &passing.topic) == Overflow::Reject,
            }),
        }
    }

    /// The first queue that refuses the message for want of room of its own.
    fn scarce_queue(&mut self, now: Instant, demands: &[Demand]) -> Option<Scarce> {
        for demand in demands.iter().filter(|demand| demand.rejects) {
            let key = demand.session;
            let mut full = self.own_bound(demand);
            if full.is_some() && self.drop_expired(now, key) {
                full = self.own_bound(demand);
            }
            if let Some(full) = full {
                self.tell_full(now, key, full);
                return Some(Scarce::Queue(key));
            }
        }
        None
    }

    fn own_bound(&self, demand: &Demand) -> Option<super::room::Full> {
        self.own_bound_in_the_way(self.sessions.get(demand.session)?, demand.load)
    }

    /// Whether the message is refused for want of room in what all queues share, with all that its other receivers
    /// take up there; whoever has more than its share and can give way does so first.
    fn scarce_share(&mut self, now: Instant, demands: &[Demand], keeping_bytes: usize) -> Option<Scarce> {
        let mut before = Load {
            keeping_bytes,
            ..Load::default()
        };
        for demand in demands {
            let key = demand.session;
            while demand.rejects
                && let Some(session) = self.sessions.get(key)
                && let Some(full) = self.shared_bound_in_the_way(session, demand.load, before)
            {
                if !self.drop_expired(now, key) && !self.displace(key, demand.load) {
                    self.tell_full(now, key, full);
                    return Some(Scarce::Shared);
                }
            }
            before.size_bytes += demand.load.size_bytes;
            let session = self.sessions.get(key);
            before.keeping_bytes += session.map_or(0, |session| session.queue.growth_bytes());
        }
        None
    }
}
