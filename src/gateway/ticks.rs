//! When the tick comes, and what has to come before it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::state::{Hold, TICK_INTERVAL_MIN};

/// How many events the runtime takes from the system at once, unless it is told otherwise.
const EVENTS_AT_ONCE: usize = 1024;

/// So often all is read that has arrived where reading takes so long that the process may have been stopped meanwhile;
/// then who has so much to read is late, and the tick must not wait for ever.
const HEARINGS_MAX: usize = 3;

/// Ticks at the next deadline, whichever it has become, and whenever it is woken.
///
/// **Nobody is judged by a deadline before it is read what had arrived by then.** A process that was stopped while it
/// waited learns of the time when it goes on, and of nothing that has arrived meanwhile.
pub(super) async fn tick(core: Hold) {
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        if core.borrow().has_deadline_come() {
            hear(&core).await;
        }
        let mut has_ticked = false;
        poll_fn(|cx| {
            if has_ticked {
                return Poll::Ready(());
            }
            has_ticked = true;
            let mut core = core.borrow_mut();
            core.tick_task = Some(cx.waker().clone());
            core.armed = core.tick(cx.waker());
            let Some(deadline) = core.armed else {
                return Poll::Pending;
            };
            sleep.as_mut().reset(deadline.into());
            sleep.as_mut().poll(cx)
        })
        .await;
    }
}

/// Has every link read what has arrived for it by now.
async fn hear(core: &Hold) {
    for _ in 0..HEARINGS_MAX {
        let begin = Instant::now();
        let links = core.borrow().links.len();
        for _ in 0..=links / EVENTS_AT_ONCE {
            // It has its turn when the system was asked, and behind those whom the answer has woken. It is a task of
            // its own because this one may be woken by anybody.
            let _ = tokio::task::spawn_local(yield_now()).await;
        }
        if begin.elapsed() < TICK_INTERVAL_MIN {
            break;
        }
    }
}
