//! What all doors of one gateway share, and who of those on the way in gives way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use crate::net::endpoint::Origin;
use crate::net::episode::Episode;

/// What all doors of one gateway share: the connections it can have, and the order in which those that have not
/// said who they are give way to newer ones.
///
/// **Invariants**
/// 1. `connections` is the number of permits, `waiting` holds those of them that are pending, the oldest first.
#[derive(Debug)]
pub struct Entrance {
    /// Beyond this, connections that are pending give way; where there are none, one more comes in to be told that
    /// it may not stay.
    pub(super) connections_max: Cell<usize>,
    /// Beyond this nobody comes in: what the process has descriptors for.
    pub(super) descriptors_max: Cell<usize>,
    pub(super) connections: Cell<usize>,
    pub(super) waiting: RefCell<BTreeMap<u64, Waiting>>,
    /// The key of the next permit.
    pub(super) next: Cell<u64>,
    /// Doors that wait for a place of the whole gateway, each once, in their order.
    pub(super) turns: RefCell<VecDeque<u64>>,
    pub(super) last_admitted: Cell<Option<Instant>>,
    /// Whether waiting for a place has not been in vain since the last one became free.
    pub(super) are_turning_over: Cell<bool>,
    pub(super) freed: Notify,
    gave_way: Cell<u64>,
    floods: Episode,
}

/// A door's turn to get the next place of the whole gateway: without it, the door that is flooded takes every place
/// that becomes free, because its connections are always there first. Given back when dropped.
pub(super) struct Turn<'a> {
    entrance: &'a Entrance,
    door: u64,
}

impl<'a> Turn<'a> {
    pub(super) fn wait(entrance: &'a Entrance, door: u64) -> Self {
        entrance.turns.borrow_mut().push_back(door);
        Self { entrance, door }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.entrance.turns.borrow_mut().retain(|door| *door != self.door);
        self.entrance.freed.notify_waiters();
    }
}

/// A connection that has not said who it is.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) door: u64,
    pub(super) origin: Option<Origin>,
    pub(super) since: Instant,
    /// Its CONNECT is here and its password is being checked: it has done its part.
    pub(super) is_held: bool,
    /// It was refused, and is only being told so.
    pub(super) is_leaving: bool,
    pub(super) gives_way: bool,
    pub(super) task: Option<Waker>,
}

/// How room can be had for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Somebody was told to give way.
    Made,
    /// Somebody can be told so then.
    At(Instant),
    /// Those who wait have done their part; one of them may be through at any moment.
    Held,
    /// Nobody who could give way.
    None,
}

/// How long a connection is left alone, for each place there is, before it has to give way: the kernel's whole queue,
/// 1,024 connections that say nothing, is through in five seconds however many places there are.
const GRACE_PER_PLACE: Duration = Duration::from_millis(5);
/// The same where there are few places: what a TLS handshake and a CONNECT take over a fair network.
pub(super) const GRACE_MIN: Duration = Duration::from_millis(150);
/// The same where there are many: what they take over a slow mobile one.
pub(super) const GRACE_MAX: Duration = Duration::from_millis(500);
/// How much longer it is while clients come in: a whole site that reconnects is a crowd and no flood, and its
/// handshakes take their time on a small board, 10 ms each.
pub(super) const CROWD: u32 = 3;

const _: () = assert!(GRACE_MIN.as_millis() <= GRACE_MAX.as_millis());

/// How long a connection is left alone where there are `places`.
fn grace(places: usize, is_crowd: bool) -> Duration {
    let places = u32::try_from(places).unwrap_or(u32::MAX);
    let grace = GRACE_PER_PLACE.saturating_mul(places).clamp(GRACE_MIN, GRACE_MAX);
    if is_crowd { grace * CROWD } else { grace }
}

impl Entrance {
    /// Room for `connections_max` connections, as far as `descriptors_max` descriptors carry.
    pub fn new(connections_max: usize, descriptors_max: usize) -> Rc<Self> {
        Rc::new(Self {
            connections_max: Cell::new(connections_max),
            descriptors_max: Cell::new(descriptors_max),
            connections: Cell::new(0),
            waiting: RefCell::default(),
            next: Cell::new(0),
            turns: RefCell::default(),
            last_admitted: Cell::new(None),
            are_turning_over: Cell::new(true),
            freed: Notify::new(),
            gave_way: Cell::new(0),
            floods: Episode::default(),
        })
    }

    /// Without bounds of its own, for a listener that stands alone.
    pub fn unbounded() -> Rc<Self> {
        Self::new(usize::MAX, usize::MAX)
    }

    /// Makes room for more connections or for fewer; those who are in stay.
    pub fn resize(&self, connections_max: usize, descriptors_max: usize) {
        self.connections_max.set(connections_max);
        self.descriptors_max.set(descriptors_max);
        self.changed();
    }

    /// Connections that there are descriptors for.
    pub fn descriptors_max(&self) -> usize {
        self.descriptors_max.get()
    }

    /// Connections through all doors, those on their way in included.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Connections that had to give way before they had said who they are.
    pub fn gave_way(&self) -> u64 {
        self.gave_way.get()
    }

    /// Tells the oldest connection that may give way to do so, or says when there is one.
    pub(super) fn make_room(&self, now: Instant, may: impl Fn(&Waiting) -> bool) -> Room {
        let mut waiting = self.waiting.borrow_mut();
        let last_admitted = self.last_admitted.get();
        let is_crowd = last_admitted.is_some_and(|at| now.saturating_duration_since(at) < GRACE_MAX);
        let grace = grace(waiting.values().filter(|waiting| may(waiting)).count(), is_crowd);
        let mut is_any_held = false;
        for (_, waiting) in waiting.iter_mut().filter(|(_, waiting)| may(waiting)) {
            if waiting.gives_way {
                return Room::Made;
            }
            if waiting.is_held {
                is_any_held = true;
                continue;
            }
            let at = waiting.since + grace;
            if at > now && !waiting.is_leaving {
                return Room::At(at);
            }
            waiting.gives_way = true;
            self.gave_way.set(self.gave_way.get() + 1);
            if !waiting.is_leaving && self.floods.begins(now) {
                warn!("connections that say nothing give way to newer ones");
            }
            if let Some(task) = waiting.task.take() {
                task.wake();
            }
            return Room::Made;
        }
        if is_any_held { Room::Held } else { Room::None }
    }

    /// Descriptors have run out though they should not: the oldest connection that may give way does. Whether there
    /// is one.
    pub(in crate::net) fn relieve(&self) -> bool {
        self.make_room(Instant::now(), |_| true) == Room::Made
    }

    pub(super) fn changed(&self) {
        self.are_turning_over.set(true);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_places_there_are_the_more_time_each_connection_has() {
        for (places, millis, of_crowd) in [
            (1, 150, 450),
            (64, 320, 960),
            (100, 500, 1500),
            (usize::MAX, 500, 1500),
        ] {
            assert_eq!(grace(places, false), Duration::from_millis(millis));
            assert_eq!(grace(places, true), Duration::from_millis(of_crowd));
        }
    }
}
