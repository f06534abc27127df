//! Who is through the doors of a gateway and who is on the way in, and who gives way when there is no more room.
//!
//! This file counts at one door; `entrance` is what all doors share and the order in which connections give way,
//! `permit` is a connection's place, and `bound` what keeps one out.

mod bound;
mod entrance;
mod permit;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::entrance::{CROWD, GRACE_MAX, Room, Turn, Waiting};
use super::endpoint::Origin;

pub use self::bound::Bound;
pub use self::entrance::Entrance;
pub use self::permit::ConnectionPermit;

/// Who is through one door and who is on the way in.
///
/// **Invariants**
/// 1. `connections` is the number of its permits, `pending` of those that are pending.
/// 2. `by_origin` holds the origins of its permits and adds up to no more than both; no entry is empty, so
///    there are never more than `connections_max`.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Cell<Bounds>,
    /// Tells the door's own among all that wait.
    door: u64,
    entrance: Rc<Entrance>,
    connections: Cell<usize>,
    pending: Cell<usize>,
    by_origin: RefCell<HashMap<Origin, OfOrigin>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct OfOrigin {
    connections: usize,
    pending: usize,
}

/// The bounds of one door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) connections_max: usize,
    pub(super) connections_per_address_max: Option<usize>,
    pub(super) pending_max: usize,
    pub(super) pending_per_address_max: usize,
}

/// How long a listener waits for a place before it refuses.
const PATIENCE: Duration = Duration::from_secs(2);

const _: () = assert!(GRACE_MAX.as_millis() * (CROWD as u128) < PATIENCE.as_millis());

impl Places {
    pub(super) fn new(bounds: Bounds, entrance: Rc<Entrance>) -> Rc<Self> {
        let door = entrance.next.replace(entrance.next.get() + 1);
        Rc::new(Self {
            bounds: Cell::new(bounds),
            door,
            entrance,
            connections: Cell::new(0),
            pending: Cell::new(0),
            by_origin: RefCell::default(),
        })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.get()
    }

    /// Holds whoever comes next to other bounds; those who are in stay.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.bounds.set(bounds);
        self.entrance.changed();
    }

    pub(super) fn entrance(&self) -> &Rc<Entrance> {
        &self.entrance
    }

    /// Gives a connection from `origin` a place; where there is none, the oldest of those that have said nothing
    /// gives way, once it has had its time.
    ///
    /// So a crowd of honest clients waits here for its turn, a flood that says nothing makes place for whoever
    /// comes after it, and where everybody who is on the way in has a password under check, the others are refused
    /// until one is through.
    pub(super) async fn admit(self: &Rc<Self>, origin: Option<Origin>) -> Result<ConnectionPermit, Bound> {
        let entrance = &self.entrance;
        let patience_ends = Instant::now() + PATIENCE;
        let mut turn = None;
        loop {
            // Made before the look, so that no place that becomes free after it is missed.
            let mut freed = pin!(entrance.freed.notified());
            let now = Instant::now();
            let bound = match self.take(origin, now) {
                Ok(permit) => return Ok(permit),
                Err(bound) => bound,
            };
            if matches!(bound, Bound::AllConnections | Bound::Descriptors) {
                turn.get_or_insert_with(|| Turn::wait(entrance, self.door));
            }
            if now >= patience_ends {
                entrance.are_turning_over.set(false);
                return Err(bound);
            }
            let until = match self.make_room(bound, origin, now) {
                Room::Made => patience_ends,
                // Who has its share already keeps nobody else waiting.
                Room::At(_) if bound.is_of_origin() => return Err(bound),
                Room::At(at) => at,
                Room::Held if entrance.are_turning_over.get() && !bound.is_of_origin() => patience_ends,
                Room::Held | Room::None => return Err(bound),
            };
            // Whichever comes first, the next look tells.
            let _ = timeout_at(until.min(patience_ends), freed.as_mut()).await;
        }
    }

    /// Tells the oldest connection to give way of those whose place would do.
    fn make_room(&self, bound: Bound, origin: Option<Origin>, now: Instant) -> Room {
        self.entrance.make_room(now, |waiting| match bound {
            Bound::Connections | Bound::Pending => waiting.door == self.door,
            Bound::ConnectionsOfAddress | Bound::PendingOfAddress => {
                waiting.door == self.door && waiting.origin == origin
            }
            Bound::AllConnections | Bound::Descriptors => true,
        })
    }

    fn take(self: &Rc<Self>, origin: Option<Origin>, now: Instant) -> Result<ConnectionPermit, Bound> {
        let (bounds, entrance) = (self.bounds.get(), &self.entrance);
        let is_turn_of_another = entrance
            .turns
            .borrow()
            .front()
            .is_some_and(|&door| door != self.door);
        if is_turn_of_another || entrance.connections.get() >= entrance.descriptors_max.get() {
            return Err(Bound::Descriptors);
        }
        if entrance.connections.get() >= entrance.connections_max.get()
            && !entrance.waiting.borrow().is_empty()
        {
            return Err(Bound::AllConnections);
        }
        if self.connections.get() >= bounds.connections_max {
            return Err(Bound::Connections);
        }
        self.check_origin(origin)?;
        if self.pending.get() >= bounds.pending_max {
            return Err(Bound::Pending);
        }
        self.count_origin(origin);
        let waiting = Waiting {
            door: self.door,
            origin,
            since: now,
            is_held: false,
            is_leaving: false,
            gives_way: false,
            task: None,
        };
        let key = entrance.next.replace(entrance.next.get() + 1);
        entrance.waiting.borrow_mut().insert(key, waiting);
        entrance.connections.set(entrance.connections.get() + 1);
        self.connections.set(self.connections.get() + 1);
        self.pending.set(self.pending.get() + 1);
        Ok(ConnectionPermit {
            places: Rc::clone(self),
            key,
            origin: Cell::new(origin),
            is_pending: Cell::new(true),
        })
    }

    /// Whether one more may come from `origin`.
    fn check_origin(&self, origin: Option<Origin>) -> Result<(), Bound> {
        let Some(origin) = origin else { return Ok(()) };
        let by_origin = self.by_origin.borrow();
        let found = by_origin.get(&origin).copied().unwrap_or_default();
        if self
            .bounds
            .get()
            .connections_per_address_max
            .is_some_and(|most| found.connections >= most)
        {
            return Err(Bound::ConnectionsOfAddress);
        }
        // By TCP the programs of this machine share one address, and whoever floods from inside has easier ways.
        // Addresses of IPv6 count one by one, for a field network's honest devices share a prefix.
        if found.pending >= self.bounds.get().pending_per_address_max && !origin.is_shared() {
            return Err(Bound::PendingOfAddress);
        }
        Ok(())
    }

    fn count_origin(&self, origin: Option<Origin>) {
        if let Some(origin) = origin {
            let mut by_origin = self.by_origin.borrow_mut();
            let found = by_origin.entry(origin).or_default();
            found.connections += 1;
            found.pending += 1;
        }
    }

    /// Takes one connection of `origin` off the count, and with it one that is pending, or only that.
    fn uncount_origin(&self, origin: Option<Origin>, is_connection: bool, is_pending: bool) {
        let Some(origin) = origin else { return };
        let mut by_origin = self.by_origin.borrow_mut();
        if let Some(found) = by_origin.get_mut(&origin) {
            found.connections -= usize::from(is_connection);
            found.pending -= usize::from(is_pending);
            if found.connections == 0 {
                by_origin.remove(&origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::task::{Context, Poll, Waker};

    use super::entrance::GRACE_MIN;
    use super::*;

    fn places(connections_max: usize, pending_max: usize, pending_per_address_max: usize) -> Rc<Places> {
        door(
            &Entrance::unbounded(),
            connections_max,
            pending_max,
            pending_per_address_max,
        )
    }

    fn door(
        entrance: &Rc<Entrance>,
        connections_max: usize,
        pending_max: usize,
        pending_per_address_max: usize,
    ) -> Rc<Places> {
        let bounds = Bounds {
            connections_max,
            connections_per_address_max: None,
            pending_max,
            pending_per_address_max,
        };
        Places::new(bounds, Rc::clone(entrance))
    }

    fn address(last: u8) -> Option<Origin> {
        Some(Origin::Address(IpAddr::from([192, 0, 2, last])))
    }

    /// Whether `permit` was told to give way.
    fn gives_way(permit: &ConnectionPermit) -> bool {
        permit
            .poll_gives_way(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    /// Is for a while what a task that holds `permits` is: gives back those that have to go.
    async fn yielding(permits: &mut Vec<ConnectionPermit>) {
        std::future::poll_fn(|cx| {
            permits.retain(|permit| permit.poll_gives_way(cx).is_pending());
            Poll::<()>::Pending
        })
        .await;
    }

    #[test]
    fn one_address_cannot_take_all_pending_places() {
        let places = places(100, 10, 2);
        let _held = [
            places.take(address(1), Instant::now()).unwrap(),
            places.take(address(1), Instant::now()).unwrap(),
        ];
        assert_eq!(
            places.take(address(1), Instant::now()).unwrap_err(),
            Bound::PendingOfAddress
        );
        assert!(places.take(address(2), Instant::now()).is_ok());
    }

    #[test]
    fn one_user_of_this_machine_cannot_take_all_pending_places_of_a_unix_socket() {
        let places = places(10, 10, 2);
        let user = |uid| Some(Origin::User(uid));
        let permits = [0, 0, 1000].map(|uid| places.take(user(uid), Instant::now()).unwrap());
        assert_eq!(
            places.take(user(0), Instant::now()).unwrap_err(),
            Bound::PendingOfAddress
        );
        let other = places.take(user(1000), Instant::now()).unwrap();
        drop((permits, other));
        assert!(places.by_origin.borrow().is_empty());
    }

    #[test]
    fn one_address_cannot_take_all_connections() {
        let bounds = Bounds {
            connections_max: 100,
            connections_per_address_max: Some(2),
            pending_max: 100,
            pending_per_address_max: 100,
        };
        let places = Places::new(bounds, Entrance::unbounded());
        let local = Some(Origin::Address(IpAddr::from([127, 0, 0, 1])));
        for address in [address(1), local] {
            let held = [
                places.take(address, Instant::now()).unwrap(),
                places.take(address, Instant::now()).unwrap(),
            ];
            held.iter().for_each(ConnectionPermit::admitted);
            assert_eq!(
                places.take(address, Instant::now()).unwrap_err(),
                Bound::ConnectionsOfAddress
            );
            drop(held);
            assert!(places.take(address, Instant::now()).is_ok());
        }
        assert!(places.by_origin.borrow().is_empty());
    }

    #[test]
    fn the_programs_of_this_machine_share_an_address_and_no_bound() {
        let places = places(100, 10, 2);
        let local = Some(Origin::Address(IpAddr::from([127, 0, 0, 1])));
        for address in [local, None] {
            let held: Vec<_> = (0..10)
                .map(|_| places.take(address, Instant::now()).unwrap())
                .collect();
            assert_eq!(places.take(address, Instant::now()).unwrap_err(), Bound::Pending);
            drop(held);
        }
    }

    #[test]
    fn an_admitted_client_frees_its_pending_place_and_keeps_its_connection() {
        let places = places(2, 1, 1);
        let first = places.take(address(1), Instant::now()).unwrap();
        assert_eq!(
            places.take(address(2), Instant::now()).unwrap_err(),
            Bound::Pending
        );
        first.admitted();
        first.admitted();
        let second = places.take(address(1), Instant::now()).unwrap();
        assert_eq!(
            places.take(address(3), Instant::now()).unwrap_err(),
            Bound::Connections
        );
        drop(first);
        drop(second);
        assert_eq!((places.connections.get(), places.pending.get()), (0, 0));
        assert!(places.by_origin.borrow().is_empty());
        assert_eq!(places.entrance.connections(), 0);
        assert!(places.entrance.waiting.borrow().is_empty());
    }

    #[test]
    fn a_connection_counts_under_the_address_a_balancer_told() {
        let places = places(100, 10, 1);
        let balancer = address(9);
        let first = places.take(balancer, Instant::now()).unwrap();
        assert_eq!(first.told(address(1).unwrap()), Ok(()));
        let second = places.take(balancer, Instant::now()).unwrap();
        assert_eq!(second.told(address(1).unwrap()), Err(Bound::PendingOfAddress));
        assert_eq!(second.told(address(2).unwrap()), Ok(()));
        first.admitted();
        drop((first, second));
        assert!(places.by_origin.borrow().is_empty());
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_gives_way_once_it_has_had_its_time() {
        let places = places(100, 3, 100);
        let now = Instant::now();
        let permits: Vec<_> = (0..3).map(|_| places.take(address(1), now).unwrap()).collect();
        let room = |at| places.make_room(Bound::Pending, address(2), at);
        assert_eq!(room(now), Room::At(now + GRACE_MIN));
        assert!(permits.iter().all(|permit| !gives_way(permit)));
        for _ in 0..2 {
            // Who was told so and has not gone yet is not followed by others.
            assert_eq!(room(now + GRACE_MIN), Room::Made);
            let told: Vec<_> = permits.iter().map(gives_way).collect();
            assert_eq!(told, [true, false, false]);
        }
    }

    #[test]
    fn a_crowd_that_comes_in_one_after_the_other_is_left_more_time() {
        let places = places(100, 3, 100);
        let now = Instant::now();
        let crowd: Vec<_> = (0..3).map(|_| places.take(address(1), now).unwrap()).collect();
        crowd[2].admitted();
        let moment = Duration::from_millis(1);
        let room = |at| places.make_room(Bound::Pending, address(2), at);
        assert_eq!(room(now + GRACE_MIN - moment), Room::At(now + GRACE_MIN * CROWD));
        // The last of them came in long ago.
        assert_eq!(room(now + GRACE_MAX), Room::Made);
        assert!(gives_way(&crowd[0]) && !gives_way(&crowd[1]));
    }

    #[test]
    fn a_client_whose_password_is_being_checked_does_not_give_way() {
        let places = places(100, 2, 100);
        let now = Instant::now();
        let permits = [places.take(address(1), now), places.take(address(1), now)].map(Result::unwrap);
        let room = |at| places.make_room(Bound::Pending, address(2), at);
        permits[0].hold();
        assert_eq!(room(now + GRACE_MIN), Room::Made);
        assert!(!gives_way(&permits[0]) && gives_way(&permits[1]));
        let [first, second] = permits;
        drop(second);
        assert_eq!(room(now + GRACE_MIN), Room::Held);

        // Once it was refused, and is only being told so, it gives way before its time.
        first.leave();
        assert_eq!(room(now), Room::Made);
        assert!(gives_way(&first));
    }

    #[test]
    fn an_address_that_has_its_share_gets_another_place_by_leaving_its_oldest() {
        let places = places(100, 10, 2);
        let now = Instant::now();
        let other = places.take(address(2), now).unwrap();
        let permits = [places.take(address(1), now), places.take(address(1), now)].map(Result::unwrap);
        assert_eq!(places.take(address(1), now).unwrap_err(), Bound::PendingOfAddress);
        let room = |at| places.make_room(Bound::PendingOfAddress, address(1), at);
        assert_eq!(room(now + GRACE_MIN), Room::Made);
        assert!(gives_way(&permits[0]) && !gives_way(&permits[1]) && !gives_way(&other));
    }

    #[test]
    fn a_flood_at_one_door_gives_way_to_whoever_comes_to_another() {
        let entrance = Entrance::new(2, 3);
        let (flooded, quiet) = (door(&entrance, 100, 100, 100), door(&entrance, 100, 100, 100));
        let now = Instant::now();
        let flood = [flooded.take(address(1), now), flooded.take(address(1), now)].map(Result::unwrap);
        assert_eq!(quiet.take(address(2), now).unwrap_err(), Bound::AllConnections);
        assert_eq!(
            quiet.make_room(Bound::AllConnections, address(2), now + GRACE_MIN),
            Room::Made
        );
        assert!(gives_way(&flood[0]) && !gives_way(&flood[1]));
        // Its own bounds are no reason to look at other doors.
        assert_eq!(
            quiet.make_room(Bound::Pending, address(2), now + GRACE_MIN),
            Room::None
        );
    }

    #[tokio::test]
    async fn whoever_comes_when_all_places_are_taken_gets_that_of_the_oldest() {
        let places = places(100, 2, 100);
        let now = Instant::now();
        let mut permits = vec![
            places.take(address(1), now).unwrap(),
            places.take(address(1), now).unwrap(),
        ];
        for _ in 0..2 {
            let newest = tokio::select! {
                permit = places.admit(address(2)) => permit.unwrap(),
                () = yielding(&mut permits) => unreachable!("it never ends"),
            };
            assert_eq!(permits.len(), 1, "one gave way");
            permits.push(newest);
        }
    }

    #[tokio::test]
    async fn where_all_are_being_checked_one_waits_in_vain_and_the_next_are_refused_at_once() {
        let places = places(100, 1, 100);
        let busy = places.take(address(1), Instant::now()).unwrap();
        busy.hold();
        assert_eq!(places.admit(address(3)).await.unwrap_err(), Bound::Pending);
        let refused = poll_once(places.admit(address(3)));
        assert!(matches!(refused, Poll::Ready(Err(Bound::Pending))));
        busy.admitted();
        assert!(places.admit(address(3)).await.is_ok());
    }

    fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn when_only_clients_are_in_one_more_may_come_to_be_told_so_as_far_as_descriptors_carry() {
        let entrance = Entrance::new(1, 2);
        let places = door(&entrance, 100, 100, 100);
        let first = places.take(address(1), Instant::now()).unwrap();
        first.admitted();
        let second = places.take(address(1), Instant::now()).unwrap();
        assert_eq!(
            places.take(address(1), Instant::now()).unwrap_err(),
            Bound::Descriptors
        );
        drop(second);
        assert!(places.take(address(1), Instant::now()).is_ok());
    }
}
