//! Retained messages (section 3.3.1.3): one for each topic, bounded, handed out in slices.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Instant;

use super::budget::{ALLOCATION_BYTES, Account, Charge, RETAINED_BYTES, SHARED_BYTES};
use super::durable::change;
use super::kept::Kept;
use super::limits::Limits;
use super::owners::{Owner, Owners};
use super::session::{Session, SessionKey};
use crate::auth::Identity;
use crate::auth::access::Who;
use crate::auth::groups::Groups;
use crate::mqtt::{ClientId, TopicFilter, TopicName};

/// The retained message of every topic, in the order of their names.
///
/// 1. Each message stands under its own topic.
/// 2. `size_bytes` and `topics_bytes` are the sums over all messages.
/// 3. No message expires before `earliest_expiry`.
#[derive(Debug)]
pub(super) struct Retained {
    messages: BTreeMap<Key, Entry>,
    /// What the sessions that have retained messages are to these.
    authors: BTreeMap<SessionKey, Rc<Author>>,
    size_bytes: usize,
    /// The bytes of all topics.
    topics_bytes: usize,
    earliest_expiry: Option<Instant>,
    /// Topics whose message went, where that is to be known.
    gone: Option<Vec<TopicName>>,
    /// What the table costs; the messages in it are charged for themselves.
    charge: Charge,
}

/// What a look for the next message found.
#[derive(Debug)]
pub(super) enum Next {
    /// This message.
    Message(Kept),
    /// None so far, and enough was looked at for once.
    Pause,
    /// That there is none.
    End,
}

/// Where a walk over retained messages stands: after the topic it holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cursor(Option<TopicName>);

#[derive(Debug, PartialEq, Eq)]
struct Key(TopicName);

/// Who retains messages: shared by all of them, and outlives the session.
#[derive(Debug)]
pub(super) struct Author {
    identity: Rc<Identity>,
    client: Option<ClientId>,
    /// As they were when it published.
    groups: Groups,
    charge: Charge,
}

#[derive(Debug)]
struct Entry {
    message: Kept,
    writer: Writer,
}

/// Who published a message.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    /// For the day that they may not any more.
    pub(super) author: Rc<Author>,
    /// Whom the message counts for; the gateway's own count for nobody.
    pub(super) owner: Option<Owner>,
}

/// What an author costs beside the client identifier: an entry in a table, and text that may outlive its session.
const AUTHOR_BYTES: usize =
    (size_of::<Author>() + size_of::<(SessionKey, Rc<Author>)>()) * 3 / 2 + ALLOCATION_BYTES + SHARED_BYTES;

impl Author {
    /// The gateway itself.
    pub(super) fn gateway() -> Self {
        Self {
            identity: Rc::new(Identity::Gateway),
            client: None,
            groups: Groups::default(),
            charge: Charge::default(),
        }
    }

    fn new(session: &Session, account: &Account) -> Self {
        Self {
            identity: session.identity.clone(),
            client: Some(session.client.clone()),
            groups: session.groups.clone(),
            charge: Charge::new(account, AUTHOR_BYTES + session.client.as_str().len()),
        }
    }

    /// One that retained something before the gateway was stopped.
    pub(super) fn again(identity: Rc<Identity>, author: &change::Author, account: &Account) -> Self {
        let client = author.client.clone();
        let bytes = client
            .as_ref()
            .map_or(0, |client| AUTHOR_BYTES + client.as_str().len());
        Self {
            identity,
            client,
            groups: author.groups.clone(),
            charge: Charge::new(account, bytes),
        }
    }

    /// As it is stored.
    pub(super) fn stored(&self) -> change::Author {
        change::Author {
            identity: (*self.identity).clone(),
            client: self.client.clone(),
            groups: self.groups.clone(),
        }
    }

    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who::new(&self.identity, self.client.as_ref()).in_groups(&self.groups)
    }
}

impl Cursor {
    /// The cursor that stands after `topic`; at the beginning, where that is none.
    pub(super) fn after(topic: &str) -> Self {
        Self(TopicName::try_from(topic).ok())
    }

    /// The cursor that stands after this topic; `None`: at the beginning.
    pub(super) fn behind(topic: Option<TopicName>) -> Self {
        Self(topic)
    }

    /// The topic it stands after.
    pub(super) fn stands_behind(&self) -> &Option<TopicName> {
        &self.0
    }

    /// What it stands after; empty at the beginning.
    pub(super) fn topic(&self) -> &str {
        self.0.as_ref().map_or("", TopicName::as_str)
    }
}

impl Retained {
    pub(super) fn new(account: &Account) -> Self {
        Self {
            messages: BTreeMap::new(),
            authors: BTreeMap::new(),
            size_bytes: 0,
            topics_bytes: 0,
            earliest_expiry: None,
            gone: None,
            charge: Charge::new(account, 0),
        }
    }

    /// Notes from here on which topics lose their message.
    pub(super) fn note_what_goes(&mut self) {
        self.gone = Some(Vec::new());
    }

    /// The topics that have lost a message since this was asked last; some may have another.
    pub(super) fn take_gone(&mut self) -> Vec<TopicName> {
        self.gone.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The message of the first topic after this one, and who published it.
    pub(super) fn next_after(&self, topic: Option<&TopicName>) -> Option<(&Kept, &Author)> {
        let from = match topic {
            Some(topic) => Bound::Excluded(topic.as_str()),
            None => Bound::Unbounded,
        };
        let mut after = self.messages.range::<str, _>((from, Bound::Unbounded));
        let (_, entry) = after.next()?;
        Some((&entry.message, &entry.writer.author))
    }

    /// All messages, and who published each.
    pub(super) fn written(&self) -> impl Iterator<Item = (&Kept, &Author)> {
        (self.messages.values()).map(|entry| (&entry.message, &*entry.writer.author))
    }

    /// Puts a message back that was retained before the gateway was stopped.
    pub(super) fn put_back(&mut self, message: &Kept, writer: Writer, owners: &mut Owners) {
        self.insert(message, writer, owners);
    }

    /// What the message of `topic` costs.
    pub(super) fn cost_bytes(&self, topic: &TopicName) -> usize {
        let known = self.messages.get(topic.as_str());
        known.map_or(0, |entry| {
            entry.message.charged_bytes() + Self::entry_bytes(topic)
        })
    }

    /// What an entry for `topic` costs beside its message.
    pub(super) fn entry_bytes(topic: &TopicName) -> usize {
        RETAINED_BYTES + topic.as_str().len()
    }

    /// What its tables cost.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The message of `topic`, and who published it.
    pub(super) fn get(&self, topic: &TopicName) -> Option<(&Kept, &Rc<Identity>)> {
        let entry = self.messages.get(topic.as_str())?;
        Some((&entry.message, &entry.writer.author.identity))
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Keeps `message` in place of the one its topic had.
    ///
    /// # Errors
    /// The limit that leaves no room for it. The old message goes all the same, for it would be taken for the last one
    /// published.
    pub(super) fn store(
        &mut self,
        message: &Kept,
        writer: Writer,
        now: Instant,
        limits: &Limits,
        owners: &mut Owners,
    ) -> Result<(), &'static str> {
        let topic = message.topic();
        self.clear(&topic, owners);
        if self.bound_in_the_way(message, &writer, limits, owners).is_some() {
            self.drop_expired(now, owners);
            if let Some(limit) = self.bound_in_the_way(message, &writer, limits, owners) {
                return Err(limit);
            }
        }
        self.insert(message, writer, owners);
        Ok(())
    }

    fn insert(&mut self, message: &Kept, writer: Writer, owners: &mut Owners) {
        let topic = message.topic();
        self.size_bytes += message.size_bytes();
        if let Some(owner) = writer.owner {
            owners.change(owner, |usage| {
                usage.retained += 1;
                usage.retained_bytes += message.size_bytes();
            });
        }
        self.earliest_expiry = match (self.earliest_expiry, message.expires_at()) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
        self.topics_bytes += topic.as_str().len();
        let message = message.clone();
        self.messages.insert(Key(topic), Entry { message, writer });
        self.charge_all();
    }

    /// Forgets the message of `topic`.
    pub(super) fn clear(&mut self, topic: &TopicName, owners: &mut Owners) {
        if let Some(entry) = self.messages.remove(topic.as_str()) {
            self.size_bytes -= entry.message.size_bytes();
            self.topics_bytes -= topic.as_str().len();
            entry.take_off(owners);
            self.charge_all();
            if let Some(gone) = &mut self.gone
                && !topic.is_reserved()
            {
                gone.push(topic.detached());
            }
        }
    }

    /// Forgets the messages whose writer and topic are `unwanted`; how many.
    pub(super) fn drop_where(
        &mut self,
        unwanted: impl Fn(&Author, &str) -> bool,
        owners: &mut Owners,
    ) -> u64 {
        let before = self.messages.len();
        self.keep_if(
            |entry| !unwanted(&entry.writer.author, entry.message.topic_str()),
            owners,
        );
        (before - self.messages.len()) as u64
    }

    /// The next message that `filter` matches after `cursor`, which moves on to it, or as far as `looks` went: each
    /// message looked at takes one of them.
    pub(super) fn next(&self, filter: &TopicFilter, cursor: &mut Cursor, looks: &mut usize) -> Next {
        let matched = filter.matched();
        let prefix = matched.split(['+', '#']).next().unwrap_or(matched);
        // "sport/#" matches "sport" too, which comes before everything that starts with "sport/".
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let from = match &cursor.0 {
            Some(topic) => Bound::Excluded(topic.as_str()),
            None => Bound::Included(prefix),
        };
        let candidates = (self.messages.range::<str, _>((from, Bound::Unbounded)))
            .take_while(|(key, _)| key.0.as_str().starts_with(prefix));
        for (key, Entry { message, .. }) in candidates {
            if filter.matches(&key.0) {
                cursor.0 = Some(key.0.clone());
                return Next::Message(message.clone());
            }
            *looks = looks.saturating_sub(1);
            if *looks == 0 {
                cursor.0 = Some(key.0.clone());
                return Next::Pause;
            }
        }
        Next::End
    }

    pub(super) fn drop_expired(&mut self, now: Instant, owners: &mut Owners) {
        if self.earliest_expiry.is_none_or(|at| at > now) {
            return;
        }
        self.keep_if(|entry| !entry.message.is_expired(now), owners);
        self.earliest_expiry = self
            .messages
            .values()
            .filter_map(|entry| entry.message.expires_at())
            .min();
    }

    fn keep_if(&mut self, wanted: impl Fn(&Entry) -> bool, owners: &mut Owners) {
        let (size_bytes, topics_bytes) = (&mut self.size_bytes, &mut self.topics_bytes);
        let gone = &mut self.gone;
        self.messages.retain(|key, entry| {
            let keep = wanted(entry);
            if !keep {
                let topic = &key.0;
                (gone.iter_mut().filter(|_| !topic.is_reserved())).for_each(|gone| gone.push(topic.clone()));
                *size_bytes -= entry.message.size_bytes();
                *topics_bytes -= key.0.as_str().len();
                entry.take_off(owners);
            }
            keep
        });
        self.charge_all();
    }

    fn charge_all(&mut self) {
        self.charge
            .set(self.messages.len() * RETAINED_BYTES + self.topics_bytes);
    }

    /// Which limit leaves no room for `message`: what its writer may have of the whole, or the whole.
    fn bound_in_the_way(
        &self,
        message: &Kept,
        writer: &Writer,
        limits: &Limits,
        owners: &Owners,
    ) -> Option<&'static str> {
        let usage = writer.owner.map(|owner| owners.usage(owner)).unwrap_or_default();
        let with_it = |bytes: usize| bytes.saturating_add(message.size_bytes());
        let is_counted = writer.owner.is_some();
        if is_counted && usage.retained >= limits.retained_per_user_max {
            Some("retained_per_user_max")
        } else if is_counted && with_it(usage.retained_bytes) > limits.retained_bytes_per_user_max {
            Some("retained_bytes_per_user_max")
        } else if self.messages.len() >= limits.retained_max {
            Some("retained_max")
        } else if with_it(self.size_bytes) > limits.retained_bytes_max {
            Some("retained_bytes_max")
        } else {
            None
        }
    }

    /// Whom the messages count for that are there, and the bytes of each.
    pub(super) fn owned(&self) -> impl Iterator<Item = (Owner, usize)> {
        let entries = self.messages.values();
        entries.filter_map(|entry| Some((entry.writer.owner?, entry.message.size_bytes())))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Kept> {
        self.messages.values().map(|entry| &entry.message)
    }

    /// What a session is to the messages it retains.
    pub(super) fn author(&mut self, key: SessionKey, session: &Session, account: &Account) -> Rc<Author> {
        let author = || Rc::new(Author::new(session, account));
        self.authors.entry(key).or_insert_with(author).clone()
    }

    /// The session ends; its messages still know whose they are.
    pub(super) fn forget_author(&mut self, key: SessionKey) {
        self.authors.remove(&key);
    }

    /// Everybody whose messages are retained, or were, often more than once.
    pub(super) fn authors(&self) -> impl Iterator<Item = &Rc<Author>> {
        let writers = self.messages.values().map(|entry| &entry.writer.author);
        self.authors.values().chain(writers)
    }

    pub(super) fn known_authors(&self) -> impl Iterator<Item = SessionKey> {
        self.authors.keys().copied()
    }

    /// Walks over everything the type promises.
    pub(super) fn check(&self) -> Result<(), String> {
        let size_bytes: usize = (self.messages.values())
            .map(|entry| entry.message.size_bytes())
            .sum();
        if size_bytes != self.size_bytes {
            return Err(format!(
                "{size_bytes} bytes are retained, {} are counted",
                self.size_bytes
            ));
        }
        let topics_bytes: usize = self.messages.keys().map(|key| key.0.as_str().len()).sum();
        if topics_bytes != self.topics_bytes {
            return Err(format!(
                "topics of {topics_bytes} bytes, {} are counted",
                self.topics_bytes
            ));
        }
        for (key, Entry { message, .. }) in &self.messages {
            if key.0.as_str() != message.topic_str() || message.payload().is_empty() {
                return Err(format!(
                    "the retained message of {} is not its own, or empty",
                    key.0
                ));
            }
            if let Some(at) = message.expires_at()
                && self.earliest_expiry.is_none_or(|earliest| earliest > at)
            {
                return Err(format!("the retained message of {} expires unnoticed", key.0));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Takes it off what its owner has.
    fn take_off(&self, owners: &mut Owners) {
        if let Some(owner) = self.writer.owner {
            owners.change(owner, |usage| {
                usage.retained -= 1;
                usage.retained_bytes -= self.message.size_bytes();
            });
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}
