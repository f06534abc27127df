//! What outlives a connection (section 4.1).

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use slotmap::SlotMap;

use super::budget::{ALLOCATION_BYTES, Budget, Charge, SESSION_BYTES};
use super::durable::spill::Spilled;
use super::inflight::{Inflight, Receiving, Stage};
use super::link::{self, Link, LinkId};
use super::losses::Losses;
use super::offline::Queue;
use super::owners::Owner;
use super::policy::MountPoint;
use super::queue_rules::{Fitting, QueueRules};
use super::subscribe::Replay;
use super::subscriptions::Place;
use super::timers::Timer;
use super::will::Testament;
use super::{Broker, DetachReason, Event, Output, Refusal};
use crate::auth::Identity;
use crate::auth::access::Who;
use crate::auth::groups::Groups;
use crate::mqtt::{ClientId, Disconnect, QoS, ReasonCode, TopicName};

slotmap::new_key_type! {
    /// One session, by a key that is never used again: a stale one finds nothing and does nothing.
    pub(super) struct SessionKey;
}

/// A client's session: everything about it that is not about one connection.
///
/// 1. It belongs to one identity, one mount point and one client identifier for as long as it lives.
/// 2. While no link is attached and its expiry is finite, `expires_at` is set and [`Timer::SessionExpiry`]
///    runs.
/// 3. Its `places` are exactly its subscriptions in the tree.
/// 4. What waits in `queue` and `inflight` is within the limits in bytes and in number.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: ClientId,
    pub(super) identity: Rc<Identity>,
    /// The groups its client is in by the word of what it came in by last.
    pub(super) groups: Groups,
    pub(super) owner: Owner,
    /// Where its topics stand in the tree; like the identity it never changes.
    pub(super) mount_point: Option<MountPoint>,
    /// How many clients had left before its own did; of two absent sessions the lower one is absent longer.
    pub(super) left: u64,
    /// By which it is stored; 0 where it is not.
    pub(super) number: u64,
    /// From where its client came first, where it is stored and gave no name.
    pub(super) peer: Option<Box<IpAddr>>,
    /// The connection of the moment.
    pub(super) link: Option<LinkId>,
    /// Session Expiry Interval in force, in seconds; `u32::MAX`: never.
    pub(super) expiry_secs: u32,
    pub(super) expires_at: Option<Instant>,
    pub(super) will: Option<Box<Testament>>,
    pub(super) places: Vec<Place>,
    pub(super) inflight: Inflight,
    pub(super) receiving: Receiving,
    pub(super) queue: Queue,
    /// What waits beyond the queue, in the journal alone.
    pub(super) spilled: Option<Box<Spilled>>,
    /// Retained messages still owed to new subscriptions.
    pub(super) replays: Vec<Replay>,
    /// The queue rules that are for its client.
    pub(super) fitting: Fitting,
    /// What its client did not get; `None` where it got everything.
    losses: Option<Box<Losses>>,
    /// What it costs beside what its parts are charged for.
    charge: Charge,
}

// An idle client costs these two and its entries in the tables: around 1 KiB.
const _: () = assert!(size_of::<Session>() + size_of::<Link>() <= 576);

/// All sessions, found by key or by client identifier.
///
/// 1. A client identifier names one session, whoever it belongs to.
#[derive(Debug)]
pub(super) struct Sessions {
    slots: SlotMap<SessionKey, Session>,
    names: HashMap<ClientId, SessionKey, FixedState>,
}

impl Session {
    pub(super) fn new(
        client: ClientId,
        identity: Rc<Identity>,
        owner: Owner,
        mount_point: Option<MountPoint>,
        budget: &Budget,
        queues: &QueueRules,
    ) -> Self {
        let account = &budget.account;
        Self {
            charge: Charge::new(account, Self::cost_bytes(&client)),
            fitting: queues.fitting(&client, &identity),
            client,
            identity,
            groups: Groups::default(),
            owner,
            mount_point,
            left: 0,
            number: 0,
            peer: None,
            link: None,
            expiry_secs: 0,
            expires_at: None,
            will: None,
            places: Vec::new(),
            inflight: Inflight::new(account, &budget.in_flight),
            receiving: Receiving::new(account),
            queue: Queue::new(account),
            spilled: None,
            replays: Vec::new(),
            losses: None,
        }
    }

    /// What a session of `client` costs with nothing in it.
    pub(super) fn cost_bytes(client: &ClientId) -> usize {
        SESSION_BYTES + client.as_str().len()
    }

    /// Who it is to the rights.
    #[inline(always)]
    pub(super) fn who(&self) -> Who<'_> {
        Who::client(&self.identity, &self.client).in_groups(&self.groups)
    }

    /// Has its client be in other groups.
    pub(super) fn set_groups(&mut self, groups: Groups) {
        self.charge.set(Self::cost_bytes(&self.client) + groups.bytes());
        self.groups = groups;
    }

    /// What it costs beside what its parts are charged for.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// What its client did not get; `None` where it got everything.
    pub(super) fn losses(&self) -> Option<&Losses> {
        self.losses.as_deref()
    }

    /// How many messages its client did not get and was not told of.
    pub(super) fn untold_losses(&self) -> u64 {
        self.losses().map_or(0, Losses::untold)
    }

    /// The same, to change it.
    pub(super) fn losses_mut(&mut self) -> &mut Losses {
        let charge = &mut self.charge;
        self.losses.get_or_insert_with(|| {
            charge.set(charge.bytes() + size_of::<Losses>() + ALLOCATION_BYTES);
            Box::default()
        })
    }

    /// Whether what its client is told is a promise for longer than the connection. What is stored may be more: while
    /// something of a session has spilled, it is.
    pub(super) fn is_promised(&self) -> bool {
        self.number != 0 && self.expiry_secs > 0
    }

    /// Whether there is nothing that could be sent now or later but for new messages.
    pub(super) fn owes_nothing(&self) -> bool {
        self.queue.is_empty()
            && self.spilled.is_none()
            && self.replays.is_empty()
            && !self.inflight.owes_resend()
    }

    /// Whether messages on `topic` are in the part of the tree that its client sees.
    pub(super) fn reaches(&self, topic: &TopicName) -> bool {
        (self.mount_point.as_ref()).is_none_or(|mount_point| mount_point.reaches(topic))
    }

    /// What it holds for its client, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.queue.size_bytes() + self.inflight.size_bytes()
    }
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: SlotMap::with_key(),
            names: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.slots.get(key)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.slots.get_mut(key)
    }

    pub(super) fn find(&self, client: &ClientId) -> Option<SessionKey> {
        self.names.get(client).copied()
    }

    pub(super) fn insert(&mut self, session: Session) -> SessionKey {
        let client = session.client.clone();
        let key = self.slots.insert(session);
        self.names.insert(client, key);
        key
    }

    fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.slots.remove(key)?;
        self.names.remove(&session.client);
        Some(session)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.slots.iter()
    }

    pub(super) fn iter_with_keys_mut(&mut self) -> impl Iterator<Item = (SessionKey, &mut Session)> {
        self.slots.iter_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.values_mut()
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.names.len() != self.slots.len() {
            return Err(format!(
                "{} names for {} sessions",
                self.names.len(),
                self.slots.len()
            ));
        }
        match self
            .slots
            .iter()
            .find(|(key, session)| self.find(&session.client) != Some(*key))
        {
            Some((_, session)) => Err(format!(
                "the session of {} is not found by its name",
                session.client
            )),
            None => Ok(()),
        }
    }
}

impl Broker {
    pub(super) fn handle_disconnect(&mut self, now: Instant, link: LinkId, disconnect: &Disconnect) {
        let Some(Link {
            stage: link::Stage::Attached(attachment),
            ..
        }) = self.links.get(link)
        else {
            return;
        };
        let expiry_max = attachment.listener.session_expiry_max_secs(&self.limits);
        if let Some(session) = self.sessions.get_mut(attachment.session)
            && let Some(secs) = disconnect.properties.session_expiry_secs
        {
            if session.expiry_secs == 0 && secs != 0 {
                return self.refuse(now, link, Refusal::ExpiryAfterNone); // section 3.14.2.2.2
            }
            session.expiry_secs = secs.min(expiry_max);
        }
        self.detach(now, link, DetachReason::ClientDisconnect(disconnect.reason));
    }

    /// The link of a session ended: decides what becomes of its will and of itself.
    pub(super) fn leave(&mut self, now: Instant, link: LinkId, key: SessionKey, reason: DetachReason) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.link = None;
        self.departures += 1;
        session.left = self.departures;
        session.inflight.rewind();
        self.stats.clients_connected -= 1;
        let client = session.client.clone();
        self.outputs
            .push_back(Output::Event(Event::ClientDisconnected { link, client, reason }));
        if reason == DetachReason::ClientDisconnect(ReasonCode::Success) {
            self.drop_will(key); // [MQTT-3.1.2-10] [MQTT-3.14.4-3]
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        // [MQTT-3.1.2-23] [MQTT-4.1.0-2]
        match session.expiry_secs {
            0 => return self.end_session(now, key),
            u32::MAX => {}
            secs => {
                session.expires_at = now.checked_add(Duration::from_secs(u64::from(secs)));
                if let Some(at) = session.expires_at {
                    self.timers.set(at, Timer::SessionExpiry(key));
                }
            }
        }
        self.schedule_will(now, key);
        self.store_session(key);
    }

    /// The client is back before its session expired, which it cannot do while the client is here
    /// [MQTT-4.1.0-1].
    pub(super) fn resume_session(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            self.timers
                .cancel(session.expires_at.take(), Timer::SessionExpiry(key));
        }
        self.drop_will(key); // [MQTT-3.1.3-9]
    }

    /// Nobody came back in time.
    pub(super) fn handle_session_expiry(&mut self, now: Instant, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.expires_at = None;
            self.stats.sessions_expired += 1;
            self.end_session(now, key);
        }
    }

    /// Ends a session that has no link: sends its will if one is owed, and forgets all the rest, also what was on
    /// its way through a shared subscription [MQTT-4.8.2-5]. What it had retained is its topics' and stays
    /// [MQTT-3.1.2-7 of 3.1.1].
    pub(super) fn end_session(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        debug_assert!(session.link.is_none(), "a session ends after its link");
        self.timers
            .cancel(session.expires_at.take(), Timer::SessionExpiry(key));
        let filters = session.places.len();
        for place in std::mem::take(&mut session.places) {
            self.subscriptions.remove(key, place);
        }
        self.send_will(now, key);
        self.retained.forget_author(key);
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        self.stats.queued_messages -= session.queue.len() as u64;
        self.stats.inflight_messages -= session.inflight.len() as u64;
        self.stats.queued_bytes -= session.held_bytes() as u64;
        self.stats.subscriptions = self.subscriptions.len() as u64;
        self.stats.sessions -= 1;
        self.owners.change(session.owner, |usage| {
            usage.sessions -= 1;
            usage.subscriptions -= filters;
        });
        let Session {
            inflight,
            queue,
            spilled,
            number,
            ..
        } = session;
        if let Some(spilled) = spilled {
            self.forget_spilled(key, &spilled);
        }
        // A QoS 2 message that was sent is nobody else's [MQTT-4.8.2-5]; the others another member may have.
        for entry in inflight.iter() {
            match &entry.stage {
                Stage::Published(queued) if queued.qos == QoS::AtLeastOnce => self.give_back(now, queued),
                Stage::Published(_) => self.stats.dropped_session_ended += 1,
                Stage::Released => {}
            }
        }
        for queued in queue.iter() {
            self.give_back(now, queued);
        }
        if number != 0 {
            // Last: what others took was given before.
            self.store_end(number);
        }
    }
}
