//! Password checks: they are slow, so they wait for each other on a thread of their own.

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::random_bytes;
use super::state::{Core, Hold, is_known, now};
use crate::auth::passwords::Users;
use crate::auth::remembered::Remembered;
use crate::broker::{Input, LinkId, Verdict};
use crate::mqtt::Utf8String;

/// Password checks that may wait; more are answered "unavailable" at once. Each takes tens of milliseconds here and
/// near half a second on the smallest board, and only one runs at a time, so longer queues would only time out.
const CHECKS_WAITING_MAX: usize = 64;

pub(super) struct PasswordCheck {
    pub(super) link: LinkId,
    pub(super) user: Utf8String,
    pub(super) password: Bytes,
}

impl Core {
    pub(super) fn verify(&mut self, check: PasswordCheck) {
        if let Some(slot) = self.links.get(check.link) {
            slot.permit.hold();
        }
        if self.checks.len() == CHECKS_WAITING_MAX {
            let links = &self.links;
            self.checks.retain(|check| is_known(links, check.link));
        }
        if self.checks.len() < CHECKS_WAITING_MAX {
            self.checks.push_back(check);
            self.check_waiting.notify_one();
        } else {
            warn!(waiting = self.checks.len(), "too many password checks waiting");
            self.arisen.push_back(Input::Verified {
                link: check.link,
                verdict: Verdict::Unavailable,
            });
        }
    }
}

/// Checks passwords one after the other on a thread of their own; the answers come back as inputs.
pub(super) async fn check_passwords(core: Hold, users: Option<Arc<Users>>) {
    let waiting = core.borrow().check_waiting.clone();
    let mut remembered = Remembered::new(&random_bytes());
    loop {
        let Some(PasswordCheck { link, user, password }) = core.borrow_mut().checks.pop_front() else {
            waiting.notified().await;
            continue;
        };
        if !is_known(&core.borrow().links, link) {
            continue; // a check is dear, and nobody wants to know any more
        }
        let verdict = match &users {
            None => Verdict::NoUsers,
            Some(_) if remembered.knows(&user, &password) => Verdict::Allow,
            Some(users) => {
                let check = {
                    let (users, user, password) = (users.clone(), user.clone(), password.clone());
                    move || users.verify(user.as_str(), &password)
                };
                match tokio::task::spawn_blocking(check).await {
                    Ok(true) => {
                        remembered.remember(&user, &password);
                        Verdict::Allow
                    }
                    Ok(false) => Verdict::Deny,
                    Err(_) => Verdict::Unavailable,
                }
            }
        };
        core.borrow_mut().input(now(), Input::Verified { link, verdict });
    }
}
