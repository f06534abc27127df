//! What a program that embeds the gateway sees of its clients, from any thread: who has published how much.
//!
//! Nothing is counted for it that is not counted anyway, and nothing is copied before somebody asks.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, ThreadId};

use crate::broker::Published;

/// Looks at the clients of a gateway. Cheap to clone, usable from any thread but the gateway's own.
#[derive(Clone)]
pub struct Watch {
    window: Arc<Window>,
}

/// The loop's side of the window: it shows its clients to those who look.
pub struct Shop {
    window: Arc<Window>,
}

struct Window {
    state: Mutex<State>,
    shown: Condvar,
}

/// What those who look and the loop share.
struct State {
    /// How often somebody asked, and which of these times is answered by `clients`.
    asked: u64,
    answered: u64,
    clients: Arc<[Published]>,
    sleeper: Option<Waker>,
    on_loop: Option<ThreadId>,
    is_closed: bool,
}

/// Makes both sides of a window.
pub fn window() -> (Watch, Shop) {
    let window = Arc::new(Window {
        state: Mutex::new(State {
            asked: 0,
            answered: 0,
            clients: Arc::new([]),
            sleeper: None,
            on_loop: None,
            is_closed: false,
        }),
        shown: Condvar::new(),
    });
    let shop = Shop {
        window: window.clone(),
    };
    (Watch { window }, shop)
}

impl Watch {
    /// All connected clients and how much each has published on its connection, in no order anybody should rely on.
    ///
    /// Waits for the gateway's next tick, which comes for it. `None` where the gateway has stopped, and on its own
    /// thread, which could not answer while it waits.
    pub fn clients(&self) -> Option<Arc<[Published]>> {
        let mut state = self.window.lock();
        if state.on_loop == Some(thread::current().id()) {
            return None;
        }
        state.asked += 1;
        let mine = state.asked;
        if let Some(sleeper) = state.sleeper.take() {
            sleeper.wake();
        }
        while !state.is_closed && state.answered < mine {
            let told = self.window.shown.wait(state);
            state = told.unwrap_or_else(PoisonError::into_inner);
        }
        (state.answered >= mine).then(|| state.clients.clone())
    }
}

impl Shop {
    /// Says that this thread is the one that answers.
    pub fn runs_here(&mut self) {
        self.window.lock().on_loop = Some(thread::current().id());
    }

    /// Shows `clients` to all who asked; the next who does wakes `sleeper`.
    pub fn show<I: Iterator<Item = Published>>(&mut self, sleeper: &Waker, clients: impl FnOnce() -> I) {
        let mut state = self.window.lock();
        if state.sleeper.is_none() {
            state.sleeper = Some(sleeper.clone());
        }
        if state.answered < state.asked {
            state.answered = state.asked;
            state.clients = clients().collect();
            drop(state);
            self.window.shown.notify_all();
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        state.is_closed = true;
        state.sleeper = None;
        drop(state); // who has been answered and has not woken up yet still finds its answer
        self.window.shown.notify_all();
    }
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked over it left at worst an old answer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_is_shown_the_clients_of_the_next_tick_and_none_after_the_last() {
        let (watch, mut shop) = window();
        let looking = thread::spawn({
            let watch = watch.clone();
            move || {
                [watch.clients(), watch.clients(), watch.clients()]
                    .map(|clients| clients.map(|all| all.len()))
            }
        });
        for shown in [1, 2] {
            let mut is_shown = false;
            while !is_shown {
                shop.show(Waker::noop(), || {
                    is_shown = true;
                    (0..shown).map(|number| Published {
                        client: crate::mqtt::ClientId::new("a".try_into().expect("text"))
                            .expect("an identifier"),
                        user: None,
                        messages: number,
                    })
                });
                thread::yield_now();
            }
        }
        drop(shop);
        assert_eq!(looking.join().expect("no panic"), [Some(1), Some(2), None]);
    }

    #[test]
    fn the_gateways_own_thread_does_not_wait_for_itself() {
        let (watch, mut shop) = window();
        shop.runs_here();
        assert!(watch.clients().is_none());
    }
}
