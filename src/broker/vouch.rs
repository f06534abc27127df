//! Clients that come in by a token: who they are stands in it, and they are let in until it expires.

use std::rc::Rc;
use std::time::Instant;

use super::link::{Link, LinkId, Stage};
use super::session::Session;
use super::{Broker, Denied, Event, Refusal};
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::auth::groups::Groups;
use crate::mqtt::Utf8String;

/// What a token says of the client that brought it, by whoever verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// Who it is; a user name that CONNECT says was compared with it before.
    pub user: Utf8String,
    /// The one client identifier it is good for; `None`: any.
    pub client: Option<Utf8String>,
    /// The groups it is in by the token's word.
    pub groups: Groups,
    /// When it expires, and the connection ends with 0xA0.
    pub expires_at: Instant,
}

impl Broker {
    /// The answer to [`super::Output::Verify`] for a token.
    #[inline(never)]
    pub(super) fn handle_vouched(&mut self, now: Instant, link: LinkId, voucher: Voucher) {
        let Some((mut asked, _, _)) = self.take_asked(link) else {
            return;
        };
        if voucher.expires_at <= now {
            return self.refuse(now, link, Refusal::BadCredentials);
        }
        let own = (self.links.get(link)).and_then(|link| match &link.stage {
            Stage::Arrived(arrival) => arrival.certificate_client.as_deref(),
            Stage::Attached(_) => None,
        });
        let client = asked.admission.client_id().or(own).map(|client| client.as_utf8());
        if voucher.client.is_some() && voucher.client.as_ref() != client {
            return self.refuse(now, link, Refusal::ClientIdOfOther); // [MQTT-3.1.3-8]
        }
        let identity = Rc::new(Identity::User(voucher.user));
        asked.admission.expire_at(voucher.expires_at);
        asked.admission.groups = voucher.groups;
        self.admit_with_all(now, link, asked, identity);
    }

    /// The time of a client's token is over.
    #[inline(never)]
    pub(super) fn handle_login_expiry(&mut self, now: Instant, link: LinkId) {
        if let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) {
            attachment.login_expires_at = None;
            self.refuse(now, link, Refusal::LoginExpired);
        }
    }
}

impl Session {
    /// What is told where the rights forbid `action`; `None` for a text that cannot be told.
    #[inline(never)]
    pub(super) fn denied(&self, link: LinkId, action: Action, topic: &str) -> Option<Event> {
        Some(Event::Denied(Box::new(Denied {
            link,
            client: self.client.clone(),
            identity: (*self.identity).clone(),
            action,
            topic: Utf8String::try_from(topic).ok()?,
        })))
    }
}
