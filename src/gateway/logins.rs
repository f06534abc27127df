//! Checks of passwords and tokens: they are slow, so they wait for each other on a thread of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::time_provider::TimeProvider;
use tracing::{debug, warn};

use super::state::{Core, Hold, is_known, now};
use super::turns::Turns;
use crate::auth::guessing::Source;
use crate::auth::passwords::{CheckMemory, Users};
use crate::auth::tokens::{TokenError, TokenHolder, Tokens};
use crate::broker::{Input, LinkId, Verdict, Voucher};
use crate::mqtt::Utf8String;
use crate::net::endpoint::{Origin, Peer};

/// How long the memory for password checks is kept after the last one: a crowd's next client comes sooner.
const CHECK_MEMORY_KEPT: Duration = Duration::from_secs(5);

/// The longest a token's end is waited for: some 136 years, which any clock can add.
const TOKEN_LIFE_SECS_MAX: u64 = u32::MAX as u64;

pub(super) struct PasswordCheck {
    pub(super) link: LinkId,
    pub(super) user: Utf8String,
    pub(super) password: Bytes,
    /// Where it comes from; `None` for programs of this machine that have nothing to do with each other.
    pub(super) source: Option<Source>,
}

/// Whom passwords and tokens are compared with.
#[derive(Clone)]
struct Judge {
    users: Option<Arc<Users>>,
    tokens: Option<Arc<Tokens>>,
    /// What tokens expire by.
    clock: Arc<dyn TimeProvider>,
}

/// What came of a check.
enum Finding {
    Password(bool),
    /// The time it was checked at, in seconds of Unix time, and whom it was given to.
    Token(u64, Result<TokenHolder, TokenError>),
}

impl Core {
    pub(super) fn verify(&mut self, link: LinkId, user: Utf8String, password: Bytes) {
        // Who was right before does not wait behind those who guess, not even behind those of the same address.
        if self.remembered.knows(&user, &password) {
            return self.answer(link, Verdict::Allow);
        }
        let source = self.links.get(link).and_then(|slot| source(&slot.peer));
        if self.is_delayed(source) {
            return self.answer(link, Verdict::TooManyFailures);
        }
        if let Some(slot) = self.links.get(link) {
            slot.permit.hold();
        }
        if self.checks.len() >= Turns::WAITING_MAX {
            let links = &self.links;
            self.checks.retain(|check| is_known(links, check.link));
        }
        let check = PasswordCheck {
            link,
            user,
            password,
            source,
        };
        self.check_later(check);
    }

    /// Has a check wait for its turn.
    fn check_later(&mut self, check: PasswordCheck) {
        if let Some(refused) = self.checks.push(check) {
            self.tell_crowd();
            self.answer(refused.link, Verdict::Unavailable);
        }
        self.check_waiting.notify_one();
    }

    /// Says that there are more checks than can wait, once in a while.
    fn tell_crowd(&mut self) {
        let now = Instant::now();
        if self
            .crowd_told
            .is_none_or(|told| now > told + Duration::from_secs(10))
        {
            self.crowd_told = Some(now);
            warn!(waiting = self.checks.len(), "too many password checks waiting");
        }
    }

    fn answer(&mut self, link: LinkId, verdict: Verdict) {
        self.arisen.push_back(Input::Verified { link, verdict });
    }

    fn is_delayed(&self, source: Option<Source>) -> bool {
        let delay = source.and_then(|source| self.guessing.delay(Instant::now(), source));
        delay.is_some()
    }

    /// What the broker is to know of a check that was made.
    fn found(&mut self, check: &PasswordCheck, finding: Finding) -> Input {
        let link = check.link;
        let is_right = match finding {
            Finding::Password(is_right) => {
                if is_right {
                    self.remembered.remember(&check.user, &check.password);
                }
                is_right
            }
            Finding::Token(unix_secs, Ok(holder))
                if check.user.as_str().is_empty() || check.user == holder.user =>
            {
                let left = holder.expires_unix_secs.saturating_sub(unix_secs);
                let voucher = Box::new(Voucher {
                    user: holder.user,
                    client: holder.client,
                    groups: holder.groups,
                    expires_at: Instant::now() + Duration::from_secs(left.min(TOKEN_LIFE_SECS_MAX)),
                });
                return Input::Vouched { link, voucher };
            }
            Finding::Token(_, outcome) => {
                let why = match outcome {
                    Ok(_) => "the token is another user's".to_owned(),
                    Err(error) => error.to_string(),
                };
                debug!(?link, why, "token refused");
                if let Some(claimed) = self.links.get_mut(link).and_then(|slot| slot.claimed.as_mut()) {
                    claimed.why = Some(why);
                }
                false
            }
        };
        if is_right {
            return Input::Verified {
                link,
                verdict: Verdict::Allow,
            };
        }
        if let Some(source) = check.source
            && let Some(delay) = self.guessing.failed(Instant::now(), source)
        {
            let peer = self.links.get(link).map(|slot| slot.peer.to_string());
            self.audit.tell_delay(peer.as_deref(), delay);
        }
        Input::Verified {
            link,
            verdict: Verdict::Deny,
        }
    }
}

/// What failures of `peer` count for. Programs of this machine that come by TCP cannot be told apart.
fn source(peer: &Peer) -> Option<Source> {
    match peer.origin() {
        origin if origin.is_shared() => None,
        Origin::Address(address) => Some(Source::of_address(address)),
        Origin::User(user) => Some(Source::LocalUser(user)),
    }
}

/// Makes the checks one after the other on a thread of their own; the answers come back as inputs.
pub(super) async fn check_passwords(core: Hold, clock: Arc<dyn TimeProvider>) {
    let waiting = core.borrow().check_waiting.clone();
    let mut memory = CheckMemory::default();
    loop {
        let next = core.borrow_mut().checks.pop();
        let Some(check) = next else {
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
        let link = check.link;
        if !is_known(&core.borrow().links, link) {
            continue; // a check is dear, and nobody wants to know any more
        }
        let judge = Judge::of(&core.borrow(), &clock);
        let at_once = core.borrow().verdict_at_once(&judge, &check);
        if let Some(verdict) = at_once {
            core.borrow_mut().input(now(), Input::Verified { link, verdict });
            continue;
        }
        let work = {
            let (judge, user, password) = (judge.clone(), check.user.clone(), check.password.clone());
            let mut memory = std::mem::take(&mut memory);
            move || (judge.find(user.as_str(), &password, &mut memory), memory)
        };
        let input = match tokio::task::spawn_blocking(work).await {
            Ok((finding, used)) => {
                memory = used;
                if !judge.is_in_force(&core.borrow()) {
                    // Others are in force by now, and by them it may be another's.
                    core.borrow_mut().check_later(check);
                    continue;
                }
                core.borrow_mut().found(&check, finding)
            }
            Err(_) => Input::Verified {
                link,
                verdict: Verdict::Unavailable,
            },
        };
        core.borrow_mut().input(now(), input);
    }
}

impl Core {
    /// The verdict on a check that needs none any more.
    fn verdict_at_once(&self, judge: &Judge, check: &PasswordCheck) -> Option<Verdict> {
        if judge.users.is_none() && judge.tokens.is_none() {
            return Some(Verdict::NoUsers);
        }
        // Its twin was checked while it waited.
        if self.remembered.knows(&check.user, &check.password) {
            return Some(Verdict::Allow);
        }
        // Others from there have failed while it waited.
        self.is_delayed(check.source).then_some(Verdict::TooManyFailures)
    }
}

impl Judge {
    fn of(core: &Core, clock: &Arc<dyn TimeProvider>) -> Self {
        Self {
            users: core.users.clone(),
            tokens: core.tokens.clone(),
            clock: clock.clone(),
        }
    }

    /// Whether users and tokens are still those that a reload may have put in their place.
    fn is_in_force(&self, core: &Core) -> bool {
        is_same(self.users.as_ref(), core.users.as_ref())
            && is_same(self.tokens.as_ref(), core.tokens.as_ref())
    }

    fn find(&self, user: &str, password: &[u8], memory: &mut CheckMemory) -> Finding {
        if let Some(tokens) = &self.tokens
            && Tokens::looks_like_one(password)
        {
            let unix_secs = self.clock.current_time().map_or(u64::MAX, |time| time.as_secs());
            return Finding::Token(unix_secs, tokens.verify(password, unix_secs));
        }
        let users = self.users.as_ref();
        Finding::Password(users.is_some_and(|users| users.verify(user, password, memory)))
    }
}

fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}
