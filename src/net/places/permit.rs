//! A connection's place, from accept to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::{Bound, Places};
use crate::net::endpoint::Origin;

/// A connection's place behind its listener, given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    pub(super) places: Rc<Places>,
    pub(super) key: u64,
    pub(super) origin: Cell<Option<Origin>>,
    pub(super) is_pending: Cell<bool>,
}

impl ConnectionPermit {
    /// Tells that the client is in: its CONNECT was accepted, and it no longer counts as pending. Once is
    /// enough.
    pub fn admitted(&self) {
        if self.is_pending.get() {
            self.places.entrance.last_admitted.set(Some(Instant::now()));
            self.leave_pending(false);
        }
    }

    /// Whether its client is on the way in.
    pub fn is_pending(&self) -> bool {
        self.is_pending.get()
    }

    /// Whether it is one of those behind the door of `places`.
    pub(in crate::net) fn is_of(&self, places: &Rc<Places>) -> bool {
        Rc::ptr_eq(&self.places, places)
    }

    /// Ready when the connection has to give way to another.
    pub fn poll_gives_way(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.places.entrance.waiting.borrow_mut();
        match waiting.get_mut(&self.key) {
            Some(waiting) if waiting.gives_way => Poll::Ready(()),
            Some(waiting) => {
                match &mut waiting.task {
                    Some(task) => task.clone_from(cx.waker()),
                    None => waiting.task = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// Says that its client has done its part and waits for us, so that it need not give way.
    pub fn hold(&self) {
        if let Some(waiting) = self.places.entrance.waiting.borrow_mut().get_mut(&self.key) {
            waiting.is_held = true;
        }
    }

    /// Says that the connection is being ended: should its place be wanted, it gives way at once.
    pub fn leave(&self) {
        if let Some(waiting) = self.places.entrance.waiting.borrow_mut().get_mut(&self.key) {
            waiting.is_held = false;
            waiting.is_leaving = true;
        }
    }

    /// Counts it under `origin` from here on: the one that a balancer told.
    pub(in crate::net) fn told(&self, origin: Origin) -> Result<(), Bound> {
        let places = &self.places;
        places.check_origin(Some(origin))?;
        places.uncount_origin(self.origin.get(), true, true);
        places.count_origin(Some(origin));
        self.origin.set(Some(origin));
        if let Some(waiting) = places.entrance.waiting.borrow_mut().get_mut(&self.key) {
            waiting.origin = Some(origin);
        }
        Ok(())
    }

    fn leave_pending(&self, leaves: bool) {
        let places = &self.places;
        let is_pending = self.is_pending.replace(false);
        places.uncount_origin(self.origin.get(), leaves, is_pending);
        if is_pending {
            places.pending.set(places.pending.get() - 1);
            places.entrance.waiting.borrow_mut().remove(&self.key);
        }
        if leaves {
            places.connections.set(places.connections.get() - 1);
            places
                .entrance
                .connections
                .set(places.entrance.connections.get() - 1);
        }
        places.entrance.changed();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.leave_pending(true);
    }
}
