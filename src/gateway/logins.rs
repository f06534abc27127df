//! Password checks: they are slow, so they wait for each other on a thread of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::warn;

use super::state::{Core, Hold, is_known, now};
use crate::auth::passwords::{CheckMemory, Users};
use crate::broker::{Input, LinkId, Verdict};
use crate::mqtt::Utf8String;

/// Password checks that may wait; more are answered "unavailable" at once. Each takes tens of milliseconds here and
/// near half a second on the smallest board, and only one runs at a time, so longer queues would only time out.
const CHECKS_WAITING_MAX: usize = 64;

/// How long the memory for password checks is kept after the last one: a crowd's next client comes sooner.
const CHECK_MEMORY_KEPT: Duration = Duration::from_secs(5);

pub(super) struct PasswordCheck {
    pub(super) link: LinkId,
    pub(super) user: Utf8String,
    pub(super) password: Bytes,
}

impl Core {
    pub(super) fn verify(&mut self, check: PasswordCheck) {
        // Who was right before does not wait behind those who guess.
        if self.remembered.knows(&check.user, &check.password) {
            self.arisen.push_back(Input::Verified {
                link: check.link,
                verdict: Verdict::Allow,
            });
            return;
        }
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
pub(super) async fn check_passwords(core: Hold) {
    let waiting = core.borrow().check_waiting.clone();
    let mut memory = CheckMemory::default();
    loop {
        let next = core.borrow_mut().checks.pop_front();
        let Some(PasswordCheck { link, user, password }) = next else {
            // Kept for the next of a crowd, given back when it is over.
            if tokio::time::timeout(CHECK_MEMORY_KEPT, waiting.notified())
                .await
                .is_err()
            {
                memory = CheckMemory::default();
                waiting.notified().await;
            }
            continue;
        };
        if !is_known(&core.borrow().links, link) {
            continue; // a check is dear, and nobody wants to know any more
        }
        let users = core.borrow().users.clone();
        let verdict = match &users {
            None => Verdict::NoUsers,
            // Its twin was checked while it waited.
            Some(_) if core.borrow().remembered.knows(&user, &password) => Verdict::Allow,
            Some(users) => {
                let check = {
                    let (users, user, password) = (users.clone(), user.clone(), password.clone());
                    let mut memory = std::mem::take(&mut memory);
                    move || (users.verify(user.as_str(), &password, &mut memory), memory)
                };
                match tokio::task::spawn_blocking(check).await {
                    Ok((is_right, used)) => {
                        memory = used;
                        if !is_same(core.borrow().users.as_ref(), users) {
                            // Others are in force by now, and by them it may be another's.
                            core.borrow_mut()
                                .checks
                                .push_front(PasswordCheck { link, user, password });
                            continue;
                        }
                        if is_right {
                            core.borrow_mut().remembered.remember(&user, &password);
                        }
                        if is_right { Verdict::Allow } else { Verdict::Deny }
                    }
                    Err(_) => Verdict::Unavailable,
                }
            }
        };
        core.borrow_mut().input(now(), Input::Verified { link, verdict });
    }
}

fn is_same(now: Option<&Arc<Users>>, then: &Arc<Users>) -> bool {
    now.is_some_and(|now| Arc::ptr_eq(now, then))
}
