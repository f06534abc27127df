//! The audit log: who was refused what, who came in, who was sent away. A line is a fixed phrase with fields; what
//! clients say of themselves stands in quotes with all that is not printable escaped, so no client can write a line of
//! its own. No line holds a password, a token or a payload.
//!
//! Lines are told at the target `audit`, whatever the level of the log is otherwise. They are bounded: a flood of
//! refusals neither fills a memory card nor holds up the loop; what is left out is counted.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::info;

use super::state::Core;
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::broker::{BanSubject, Denied, DetachReason, LinkId, ListenerPolicy, Refusal};
use crate::config::settings::AuditSettings;
use crate::mqtt::{ClientId, Connect};

/// The bounded audit log.
pub(super) struct Audit {
    settings: AuditSettings,
    /// Lines that may be told at once.
    left: u32,
    refilled: Instant,
    /// Lines left out since the last one.
    left_out: u64,
}

/// Who a client says it is, as far as it is told where it is refused; forgotten when it is in.
pub(super) struct Claimed {
    listener: Rc<ListenerPolicy>,
    user: Option<Box<str>>,
    client: Option<Box<str>>,
    /// More than the client is told.
    pub(super) why: Option<String>,
}

/// Lines that are told at once, however many come.
const LINES_AT_ONCE_MAX: u32 = 100;

/// How fast more may follow: ten lines a second.
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// What is told of a name: enough to know whose it is.
const NAME_BYTES_MAX: usize = 128;

impl Audit {
    pub(super) fn new(settings: AuditSettings, now: Instant) -> Self {
        Self {
            settings,
            left: LINES_AT_ONCE_MAX,
            refilled: now,
            left_out: 0,
        }
    }

    /// Whether a line may be told now; a refusal's, or with `is_more` one that only [`AuditSettings::All`] asks for.
    fn lets(&mut self, is_more: bool) -> bool {
        match self.settings {
            AuditSettings::Off => return false,
            AuditSettings::Refusals if is_more => return false,
            AuditSettings::Refusals | AuditSettings::All => {}
        }
        let lets = self.lets_at(Instant::now());
        if lets && self.left_out > 0 {
            info!(target: "audit", lines = self.left_out, "audit: left out");
            self.left_out = 0;
        }
        lets
    }

    fn lets_at(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled);
        let lines = passed.as_millis() / LINE_INTERVAL.as_millis();
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        if lines >= LINES_AT_ONCE_MAX {
            self.left = LINES_AT_ONCE_MAX;
            self.refilled = now;
        } else {
            self.left = self.left.saturating_add(lines).min(LINES_AT_ONCE_MAX);
            self.refilled += LINE_INTERVAL * lines;
        }
        let lets = self.left > 0;
        self.left -= u32::from(lets);
        self.left_out += u64::from(!lets);
        lets
    }

    /// Failures from one source are answered late from now on.
    pub(super) fn tell_delay(&mut self, peer: Option<&str>, delay: Duration) {
        if self.lets(false) {
            info!(target: "audit", peer, ?delay, "audit: logins delayed");
        }
    }

    /// What was left out is told at the end at the latest.
    pub(super) fn tell_end(&self) {
        if self.left_out > 0 {
            info!(target: "audit", lines = self.left_out, "audit: left out");
        }
    }
}

impl Claimed {
    pub(super) fn new(listener: Rc<ListenerPolicy>) -> Box<Self> {
        Box::new(Self {
            listener,
            user: None,
            client: None,
            why: None,
        })
    }

    /// Notes who CONNECT says the client is.
    pub(super) fn note(&mut self, connect: &Connect) {
        self.user = connect.user_name.as_ref().map(|user| begin_of(user.as_str()));
        self.client = connect.client_id.as_ref().map(|client| begin_of(client.as_str()));
    }
}

fn begin_of(name: &str) -> Box<str> {
    let end = name.floor_char_boundary(NAME_BYTES_MAX);
    name.get(..end).unwrap_or_default().into()
}

impl Core {
    /// Somebody is in.
    pub(super) fn audit_login(&mut self, link: LinkId, client: &ClientId, identity: &Identity) {
        let Self { audit, links, .. } = self;
        // Nobody asks who it said it was from here on.
        let Some((slot, claimed)) = links
            .get_mut(link)
            .and_then(|slot| slot.claimed.take().map(|claimed| (slot, claimed)))
        else {
            return;
        };
        if audit.lets(true) {
            let (peer, listener) = (&slot.peer, claimed.listener.name.as_str());
            info!(target: "audit", user = user_of(identity), client = client.as_str(), %peer, listener, "audit: login");
        }
    }

    /// Somebody was refused before it was in, whose name is of interest.
    pub(super) fn audit_refusal(&mut self, link: LinkId, refusal: Refusal) {
        let Self { audit, links, .. } = self;
        if !refusal.is_of_identity() || !audit.lets(false) {
            return;
        }
        let slot = links.get(link);
        let peer = slot.map(|slot| slot.peer.to_string());
        let claimed = slot.and_then(|slot| slot.claimed.as_deref());
        let user = claimed.and_then(|claimed| claimed.user.as_deref());
        let client = claimed.and_then(|claimed| claimed.client.as_deref());
        let listener = claimed.map(|claimed| claimed.listener.name.as_str());
        let why = claimed.and_then(|claimed| claimed.why.as_deref());
        info!(target: "audit", reason = %refusal, why, user, client, peer, listener, "audit: connection refused");
    }

    /// The rights forbade something.
    pub(super) fn audit_denial(&mut self, denied: &Denied) {
        if !self.audit.lets(false) {
            return;
        }
        let peer = self.links.get(denied.link).map(|slot| slot.peer.to_string());
        let action = match denied.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::Receive => "receive",
        };
        let (client, topic) = (denied.client.as_str(), denied.topic.as_str());
        let topic = topic.get(..topic.floor_char_boundary(NAME_BYTES_MAX));
        let user = user_of(&denied.identity);
        info!(target: "audit", action, topic, user, client, peer, "audit: denied");
    }

    /// Somebody who was in was sent away, or gave way to another.
    pub(super) fn audit_end(&mut self, link: LinkId, client: &ClientId, reason: DetachReason) {
        let phrase = match reason {
            DetachReason::Kicked(_) => "audit: kicked",
            DetachReason::TakenOver => "audit: taken over",
            DetachReason::Refused(Refusal::LoginExpired) => "audit: login expired",
            _ => return,
        };
        if self.audit.lets(reason == DetachReason::TakenOver) {
            let peer = self.links.get(link).map(|slot| slot.peer.to_string());
            info!(target: "audit", client = client.as_str(), peer, %reason, "{phrase}");
        }
    }

    /// A ban has ended.
    pub(super) fn audit_ban_lifted(&mut self, subject: &BanSubject, why: &str) {
        if self.audit.lets(true) {
            let who = subject.to_string();
            info!(target: "audit", who = who.as_str(), why, "audit: ban lifted");
        }
    }
}

fn user_of(identity: &Identity) -> Option<&str> {
    match identity {
        Identity::User(user) => Some(user.as_str()),
        Identity::Anonymous | Identity::Gateway => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_in_bursts_and_then_ten_a_second_and_those_left_out_are_counted() {
        let start = Instant::now();
        let mut audit = Audit::new(AuditSettings::Refusals, start);
        let told = |audit: &mut Audit, at| (0..1000).filter(|_| audit.lets_at(at)).count();
        assert_eq!(told(&mut audit, start), 100);
        assert_eq!(audit.left_out, 900);
        assert_eq!(told(&mut audit, start + Duration::from_millis(950)), 9);
        assert_eq!(told(&mut audit, start + Duration::from_millis(1000)), 1);
        assert_eq!(told(&mut audit, start + Duration::from_secs(3600)), 100);
    }

    #[test]
    fn what_is_not_asked_for_is_not_told_and_not_left_out() {
        let mut audit = Audit::new(AuditSettings::Off, Instant::now());
        assert!(!audit.lets(false));
        let mut audit = Audit::new(AuditSettings::Refusals, Instant::now());
        assert!(!audit.lets(true) && audit.lets(false));
        assert_eq!(audit.left_out, 0);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        assert_eq!(begin_of(&"ü".repeat(100)).len(), NAME_BYTES_MAX);
        assert_eq!(
            begin_of(&format!("x{}", "ü".repeat(100))).len(),
            NAME_BYTES_MAX - 1
        );
    }
}
