//! Certificates in the long run: their end is told in time, and who is not trusted any more does not stay.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::state::{Hold, is_known, now};
use crate::broker::{Input, LinkId};
use crate::net::listener::Listener;

/// How often what ends soon is told: a line a day finds somebody who reads it.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Clients whose certificates are checked again in one turn of the loop: a few milliseconds each on the slowest boards,
/// which is what everybody else waits.
const CHECKS_PER_TURN: usize = 4;

/// Minds the certificates of a door as long as it is open.
pub(super) async fn watch(core: Hold, listener: Rc<Listener>) {
    let mut days = interval(WARNING_INTERVAL);
    days.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = days.tick() => {}
            () = listener.tls_replaced() => {
                let dropped = drop_revoked(&core, &listener).await;
                info!(listener = listener.name(), dropped, "certificates were replaced");
            }
        }
        for warning in listener.warnings() {
            warn!(listener = listener.name(), "{warning}");
        }
    }
}

/// Ends the connections through `listener` whose client could not come in any more; how many there were.
async fn drop_revoked(core: &Hold, listener: &Listener) -> usize {
    // Who comes in meanwhile is held to the new certificates already.
    let links: Vec<LinkId> = {
        let core = core.borrow();
        let of_door = core
            .links
            .iter()
            .filter(|(_, slot)| listener.is_door_of(&slot.permit));
        of_door.map(|(link, _)| link).collect()
    };
    let mut dropped = 0;
    for few in links.chunks(CHECKS_PER_TURN) {
        for &link in few {
            let refusal = {
                let core = core.borrow();
                let known = is_known(&core.links, link)
                    .then(|| core.links.get(link))
                    .flatten();
                known.and_then(|slot| Some((slot.peer, listener.refusal_of(&slot.link)?)))
            };
            if let Some((peer, error)) = refusal {
                info!(?link, %peer, listener = listener.name(), %error, "client is not trusted any more");
                core.borrow_mut().input(now(), Input::Untrusted { link });
                dropped += 1;
            }
        }
        yield_now().await;
    }
    dropped
}
