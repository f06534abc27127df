//! What an operator may see: copies of a bounded part of the state, in an order that stays from page to page.
//!
//! Nothing here changes anything, the order in which shared subscriptions take turns included.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::{Link, LinkId};
use super::losses::Lost;
use super::retained::{Cursor, Next};
use super::session::{Session, SessionKey};
use super::subscriptions::{Grant, Subscriber};
use super::{Broker, ListenerPolicy, Pattern};
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::mqtt::{ClientId, ProtocolVersion, QoS, TopicFilter, TopicName};

/// A part of a longer list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What comes after the cursor that was given, in the list's order.
    pub items: Vec<T>,
    /// The cursor for what follows; `None` at the end of the list.
    pub next: Option<String>,
}

/// How much of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Portion<'a> {
    /// [`Page::next`] of the page before; empty for the first.
    pub after: &'a str,
    /// Items at most; a page may have fewer and still not be the last.
    pub limit: usize,
}

/// Which sessions are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionFilter<'a> {
    /// Those with a connection, or those without.
    pub connected: Option<bool>,
    /// What the client identifier looks like.
    pub client: Option<&'a Pattern>,
    /// The user, exactly; empty for any.
    pub user: &'a str,
    /// The listener of the connection, exactly; empty for any.
    pub listener: &'a str,
}

/// A session, and its connection where it has one.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Its client identifier.
    pub client: ClientId,
    /// To whom it belongs.
    pub identity: Rc<Identity>,
    /// `None` while the client is away.
    pub connection: Option<ConnectionView>,
    /// What stands before every topic of its client.
    pub mount_point: Option<String>,
    /// Topic filters.
    pub subscriptions: usize,
    /// Messages that wait.
    pub queued_messages: usize,
    /// Messages sent and not acknowledged.
    pub inflight_messages: usize,
    /// Bytes of both.
    pub queued_bytes: usize,
    /// Messages that wait beyond the queue, in the journal alone.
    pub spilled_messages: usize,
    /// Bytes of these.
    pub spilled_bytes: usize,
    /// Session Expiry Interval, in seconds; `u32::MAX`: never.
    pub expiry_secs: u32,
    /// Until it ends, while the client is away.
    pub expires_in: Option<Duration>,
    /// Whether a will is owed should the client go.
    pub has_will: bool,
    /// What did not reach its client.
    pub lost: Lost,
}

/// A connected client's connection.
#[derive(Debug, Clone)]
pub struct ConnectionView {
    /// Its key.
    pub link: LinkId,
    /// The door it came through.
    pub listener: Rc<ListenerPolicy>,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// The silence after which it ends; zero: never.
    pub silence_max: Duration,
    /// Since its client was last heard.
    pub silent: Duration,
    /// Whether it is not read for a while, because its client publishes too fast.
    pub is_paused: bool,
    /// Bytes on their way to the client.
    pub unsent_bytes: usize,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionView {
    /// Whose.
    pub client: ClientId,
    /// To what, as it stands in the whole tree: with the mount point and the share name.
    pub filter: String,
    /// The quality granted.
    pub qos: QoS,
    /// Whether its client gets nothing it published itself.
    pub no_local: bool,
    /// Whether RETAIN is passed on as it was published.
    pub retain_as_published: bool,
    /// 0 where there is none.
    pub subscription_id: u32,
}

/// Who would receive a message on a topic, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverView {
    /// Who.
    pub client: ClientId,
    /// Whether its client is there.
    pub connected: bool,
    /// The quality granted.
    pub qos: QoS,
    /// The name of the shared subscription of whose members one receives it; `None` for who receives it for itself.
    pub share: Option<String>,
    /// Whether its rights and its mount point let it; who they do not, receives nothing.
    pub may_receive: bool,
}

/// A retained message.
#[derive(Debug, Clone)]
pub struct RetainedView {
    /// Its topic.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// At which quality it was published.
    pub qos: QoS,
    /// Until it loses its meaning.
    pub expires_in: Option<Duration>,
    /// Who published it.
    pub writer: Rc<Identity>,
}

/// Client identifiers, topics and filters of one page, in bytes: they may be long, and a page is written in one go.
const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Retained messages looked at for one page where few match.
const LOOKS_MAX: usize = 10_000;

impl Broker {
    /// The sessions that `filter` wants, in the order of their client identifiers.
    pub fn view_sessions(
        &self,
        now: Instant,
        filter: &SessionFilter<'_>,
        portion: Portion<'_>,
    ) -> Page<SessionView> {
        let found = self.sessions_after(portion, &|session| self.is_wanted(session, filter));
        let mut page = Paging::new(portion.limit);
        for (&client, &key) in &found {
            if !page.has_room(client.len()) {
                break;
            }
            if let Some(session) = self.sessions.get(key) {
                page.push(client.to_owned(), self.session_view(now, session));
            }
        }
        page.finish(found.len())
    }

    /// The session of one client.
    pub fn view_session(&self, now: Instant, client: &ClientId) -> Option<SessionView> {
        let session = self.sessions.get(self.sessions.find(client)?)?;
        Some(self.session_view(now, session))
    }

    /// Subscriptions in the order of client identifiers and filters; of one client, or of all.
    pub fn view_subscriptions(
        &self,
        client: Option<&ClientId>,
        portion: Portion<'_>,
    ) -> Page<SubscriptionView> {
        let (after_client, after_filter) = split_cursor(portion.after);
        let is_wanted = |session: &Session| {
            !session.places.is_empty()
                && client.is_none_or(|client| *client == session.client)
                && session.client.as_str() != after_client
        };
        let others = Portion {
            after: after_client,
            limit: portion.limit,
        };
        let mut found = self.sessions_after(others, &is_wanted);
        if let Some((name, key)) = self.session_named(after_client)
            && client.is_none_or(|client| client.as_str() == name)
        {
            found.insert(name, key); // part of it was on the page before
        }
        let mut page = Paging::new(portion.limit);
        let mut count = 0;
        for (&name, &key) in &found {
            let Some(session) = self.sessions.get(key) else {
                continue;
            };
            let places = session.places.iter();
            let mut filters: BTreeMap<String, _> = places
                .map(|&place| (self.subscriptions.filter_text(place), place))
                .collect();
            if name == after_client {
                filters.retain(|filter, _| filter.as_str() > after_filter);
            }
            count += filters.len();
            for (filter, place) in filters {
                if !page.has_room(name.len() + filter.len()) {
                    break;
                }
                if let Some(options) = self.subscriptions.options(key, place) {
                    let cursor = format!("{}:{name}{filter}", name.len());
                    let view = SubscriptionView {
                        client: session.client.clone(),
                        filter,
                        qos: options.qos,
                        no_local: options.no_local,
                        retain_as_published: options.retain_as_published,
                        subscription_id: options.subscription_id,
                    };
                    page.push(cursor, view);
                }
            }
            if count > page.page.items.len() {
                break; // the page is full
            }
        }
        page.finish(count)
    }

    /// Who would receive a message that somebody else published on `topic` now, in the order of client identifiers.
    pub fn view_receivers(&self, topic: &TopicName, portion: Portion<'_>) -> Page<ReceiverView> {
        let (mut subscribers, groups) = self.subscriptions.matching(topic);
        subscribers.sort_by_key(|subscriber| subscriber.session);
        let mut receivers = BTreeMap::new();
        let mut add = |subscribers: &[Subscriber], share: &str| {
            let session = subscribers.first().and_then(|one| self.sessions.get(one.session));
            let Some(session) = session else { return };
            let name = session.client.as_str();
            let cursor = format!("{}:{name}{share}", name.len());
            let may_receive = session.reaches(topic)
                && (self.rights).authorize(session.who(), Action::Receive, topic.as_str());
            let view = ReceiverView {
                client: session.client.clone(),
                connected: session.link.is_some(),
                qos: Grant::of(subscribers.iter()).qos,
                share: (!share.is_empty()).then(|| share.to_owned()),
                may_receive,
            };
            if split_cursor(portion.after) < (name, share) {
                receivers.insert((name, share.to_owned()), (cursor, view));
            }
            if receivers.len() > portion.limit.saturating_add(1) {
                receivers.pop_last();
            }
        };
        for of_one_session in subscribers.chunk_by(|a, b| a.session == b.session) {
            add(of_one_session, "");
        }
        for group in groups {
            let (share, members) = self.subscriptions.members(group);
            for member in members {
                add(std::slice::from_ref(member), share);
            }
        }
        let mut page = Paging::new(portion.limit);
        let count = receivers.len();
        for (cursor, view) in receivers.into_values() {
            if !page.has_room(cursor.len()) {
                break;
            }
            page.push(cursor, view);
        }
        page.finish(count)
    }

    /// The retained messages whose topics `filter` matches, in the order of their topics.
    pub fn view_retained(
        &self,
        now: Instant,
        filter: &TopicFilter,
        portion: Portion<'_>,
    ) -> Page<RetainedView> {
        let mut cursor = Cursor::after(portion.after);
        let mut looks = LOOKS_MAX;
        let mut page = Paging::new(portion.limit);
        loop {
            match self.retained.next(filter, &mut cursor, &mut looks) {
                Next::Message(message) if message.is_expired(now) => {}
                Next::Message(message) if !page.has_room(message.topic_str().len()) => {
                    return page.finish(usize::MAX);
                }
                Next::Message(message) => {
                    if let Some(view) = self.view_retained_message(now, &message.topic()) {
                        page.push(message.topic_str().to_owned(), view);
                    }
                }
                Next::Pause => {
                    page.last = cursor.topic().to_owned();
                    return page.finish(usize::MAX);
                }
                Next::End => return page.finish(0),
            }
        }
    }

    /// The retained message of one topic.
    pub fn view_retained_message(&self, now: Instant, topic: &TopicName) -> Option<RetainedView> {
        let (message, writer) = self.retained.get(topic)?;
        (!message.is_expired(now)).then(|| RetainedView {
            topic: message.topic(),
            payload: message.payload(),
            qos: message.qos,
            expires_in: message.expires_at().map(|at| at.saturating_duration_since(now)),
            writer: writer.clone(),
        })
    }

    /// Whether [`super::Input::Shutdown`] came.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn is_wanted(&self, session: &Session, filter: &SessionFilter<'_>) -> bool {
        let listener = || {
            let attachment = session.link.and_then(|link| self.links.get(link)?.attachment());
            attachment.is_some_and(|attachment| attachment.listener.name == filter.listener)
        };
        let user = || matches!(&*session.identity, Identity::User(name) if name.as_str() == filter.user);
        (filter.connected).is_none_or(|connected| connected == session.link.is_some())
            && (filter.client).is_none_or(|pattern| pattern.matches(session.client.as_str()))
            && (filter.user.is_empty() || user())
            && (filter.listener.is_empty() || listener())
    }

    fn session_named(&self, name: &str) -> Option<(&str, SessionKey)> {
        let mut sessions = self.sessions.iter();
        let (key, session) = sessions.find(|(_, session)| session.client.as_str() == name)?;
        Some((session.client.as_str(), key))
    }

    /// The first sessions after a client identifier that are wanted, one more than the portion has, so that it can be
    /// told whether anything follows.
    fn sessions_after(
        &self,
        portion: Portion<'_>,
        wanted: &dyn Fn(&Session) -> bool,
    ) -> BTreeMap<&str, SessionKey> {
        let mut found = BTreeMap::new();
        for (key, session) in self.sessions.iter() {
            let client = session.client.as_str();
            let is_far = || found.last_key_value().is_some_and(|(&last, _)| client > last);
            let is_full = found.len() > portion.limit;
            if client <= portion.after || is_full && is_far() || !wanted(session) {
                continue;
            }
            found.insert(client, key);
            if found.len() > portion.limit.saturating_add(1) {
                found.pop_last();
            }
        }
        found
    }

    fn session_view(&self, now: Instant, session: &Session) -> SessionView {
        let connection = session.link.and_then(|link| {
            let attachment = self.links.get(link).and_then(Link::attachment)?;
            Some(ConnectionView {
                link,
                listener: attachment.listener.clone(),
                version: attachment.version,
                silence_max: attachment.silence_max(),
                silent: now.saturating_duration_since(attachment.last_received),
                is_paused: attachment.pace.paused_until.is_some(),
                unsent_bytes: attachment.booked_bytes(),
            })
        });
        SessionView {
            client: session.client.clone(),
            identity: session.identity.clone(),
            connection,
            mount_point: session.mount_point.as_ref().map(ToString::to_string),
            subscriptions: session.places.len(),
            queued_messages: session.queue.len(),
            inflight_messages: session.inflight.len(),
            queued_bytes: session.held_bytes(),
            spilled_messages: session.spilled.as_ref().map_or(0, |spilled| spilled.count()),
            spilled_bytes: session.spilled.as_ref().map_or(0, |spilled| spilled.size_bytes()),
            expiry_secs: session.expiry_secs,
            expires_in: session.expires_at.map(|at| at.saturating_duration_since(now)),
            has_will: session.will.is_some(),
            lost: session.losses().map_or(Lost::default(), |losses| losses.lost),
        }
    }
}

/// The two parts of a cursor that is made as `LENGTH:FIRSTSECOND`; a broken one is that of the beginning.
fn split_cursor(cursor: &str) -> (&str, &str) {
    let parts = cursor.split_once(':').and_then(|(length, both)| {
        let length: usize = length.parse().ok()?;
        both.split_at_checked(length)
    });
    parts.unwrap_or_default()
}

/// A page that is being filled.
struct Paging<T> {
    page: Page<T>,
    limit: usize,
    bytes: usize,
    /// The cursor of the last item.
    last: String,
}

impl<T> Paging<T> {
    fn new(limit: usize) -> Self {
        Self {
            page: Page {
                items: Vec::new(),
                next: None,
            },
            limit: limit.max(1),
            bytes: 0,
            last: String::new(),
        }
    }

    /// Whether one more item of `bytes` fits; the first one does.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.page.items.is_empty() || self.page.items.len() < self.limit && self.bytes <= PAGE_BYTES_MAX
    }

    fn push(&mut self, cursor: String, item: T) {
        self.last = cursor;
        self.page.items.push(item);
    }

    /// The page, of `count` items that could be on it.
    fn finish(mut self, count: usize) -> Page<T> {
        if count > self.page.items.len() {
            self.page.next = Some(self.last);
        }
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_two_parts_comes_apart_as_it_was_put_together() {
        assert_eq!(split_cursor("2:aba/b"), ("ab", "a/b"));
        assert_eq!(split_cursor("1:a"), ("a", ""));
        assert_eq!(split_cursor("0:a"), ("", "a"));
        for broken in ["", "x", ":", "9:a", "-1:a", "1:ä"] {
            assert_eq!(split_cursor(broken), ("", ""), "{broken}");
        }
    }
}
