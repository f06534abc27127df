//! What the access rules have decided lately: most messages go where others of the same client went before.
//!
//! Without access rules nothing is remembered, and nothing is asked but whether there are any.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use slotmap::Key;

use super::session::{SessionKey, Sessions};
use crate::auth::access::{Action, Rights, Who};

/// The rights in force, with what they have decided.
///
/// 1. An answer holds while [`Broker::attachments`](super::Broker) is what it was, which changes with the rules and
///    whenever a client comes or goes: until then nothing that rules go by changes about a session.
/// 2. There are [`ENTRIES`] answers at most, one for each place; the newer takes the place of the older.
pub(super) struct Decided {
    rights: Rights,
    /// Empty until there is something to remember.
    entries: RefCell<Vec<Entry>>,
}

/// What is asked: whether `who`, whose session is `session`, may do `action` on `topic`.
pub(super) struct Asked<'a> {
    pub(super) session: SessionKey,
    pub(super) who: Who<'a>,
    pub(super) action: Action,
    pub(super) topic: &'a str,
}

/// One answer.
#[derive(Clone)]
struct Entry {
    attachments: u64,
    session: SessionKey,
    action: Action,
    allowed: bool,
    topic_bytes: u8,
    topic: [u8; TOPIC_BYTES_MAX],
}

/// Answers that are remembered: some 90 KB, enough for the topics of a few hundred clients.
const ENTRIES: usize = 1 << ENTRIES_BITS;
const ENTRIES_BITS: u32 = 10;

/// What is asked about longer topics is not remembered, so that what a peer makes us hold is the same for all.
const TOPIC_BYTES_MAX: usize = 64;

impl Decided {
    pub(super) fn new(rights: Rights) -> Self {
        Self {
            rights,
            entries: RefCell::default(),
        }
    }

    /// What [`Rights::authorize`] says, in the state that `attachments` counts.
    #[inline(always)]
    pub(super) fn allows(&self, attachments: u64, asked: &Asked<'_>) -> bool {
        match self.rights.acl() {
            None => self.rights.authorize(asked.who, asked.action, asked.topic),
            Some(_) => self.allows_by_rules(attachments, asked),
        }
    }

    #[inline(never)]
    fn allows_by_rules(&self, attachments: u64, asked: &Asked<'_>) -> bool {
        let mut entries = self.entries.borrow_mut();
        if entries.is_empty() {
            entries.resize(ENTRIES, Entry::nobodys());
        }
        let entry = entries.get_mut(place(asked));
        if let Some(entry) = &entry
            && entry.attachments == attachments
            && entry.session == asked.session
            && entry.action == asked.action
            && entry.topic() == asked.topic.as_bytes()
        {
            return entry.allowed;
        }
        let allowed = self.rights.authorize(asked.who, asked.action, asked.topic);
        if let Some(entry) = entry {
            entry.set(attachments, asked, allowed);
        }
        allowed
    }

    /// Checks that the rights would say the same again.
    pub(super) fn check(&self, attachments: u64, sessions: &Sessions) -> Result<(), String> {
        for entry in self.entries.borrow().iter() {
            let Some(session) = sessions.get(entry.session) else {
                continue;
            };
            let topic = std::str::from_utf8(entry.topic()).map_err(|error| error.to_string())?;
            let holds = entry.attachments == attachments;
            if holds && self.rights.authorize(session.who(), entry.action, topic) != entry.allowed {
                return Err(format!("{topic}: remembered is {}", entry.allowed));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Nobody's: as many have never come and gone.
    fn nobodys() -> Self {
        Self {
            attachments: u64::MAX,
            session: SessionKey::null(),
            action: Action::Publish,
            allowed: false,
            topic_bytes: 0,
            topic: [0; TOPIC_BYTES_MAX],
        }
    }

    fn topic(&self) -> &[u8] {
        self.topic.get(..self.topic_bytes.into()).unwrap_or_default()
    }

    fn set(&mut self, attachments: u64, asked: &Asked<'_>, allowed: bool) {
        let topic = asked.topic;
        let (Some(room), Ok(topic_bytes)) = (self.topic.get_mut(..topic.len()), topic.len().try_into())
        else {
            return;
        };
        room.copy_from_slice(topic.as_bytes());
        self.topic_bytes = topic_bytes;
        self.attachments = attachments;
        self.session = asked.session;
        self.action = asked.action;
        self.allowed = allowed;
    }
}

/// Where an answer is looked for. Whoever finds topics that share a place makes the rules be asked, and no more.
fn place(asked: &Asked<'_>) -> usize {
    let topic = asked.topic;
    let mut hash = asked.session.data().as_ffi() ^ (asked.action as u64) << 56;
    // Of long ones the beginning and the length are enough: they are not remembered.
    let (eights, rest) = topic.as_bytes().as_chunks::<8>();
    let words = eights
        .iter()
        .take(TOPIC_BYTES_MAX / 8)
        .map(|eight| u64::from_le_bytes(*eight));
    let last = rest
        .iter()
        .fold(topic.len() as u64, |word, &byte| word << 8 | u64::from(byte));
    for word in words.chain([last]) {
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
    (hash >> (u64::BITS - ENTRIES_BITS)) as usize
}

impl Deref for Decided {
    type Target = Rights;

    fn deref(&self) -> &Rights {
        &self.rights
    }
}

impl fmt::Debug for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rights.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slotmap::SlotMap;

    use super::*;
    use crate::auth::Identity;
    use crate::auth::acl::{Acl, Actions, Effect, Rule, Source, Topics, Whom};
    use crate::mqtt::Utf8String;

    fn user(name: &str) -> Identity {
        Identity::User(Utf8String::try_from(name).unwrap())
    }

    fn who(identity: &Identity) -> Who<'_> {
        Who {
            identity,
            ..Who::GATEWAY
        }
    }

    fn asked<'a>(session: SessionKey, identity: &'a Identity, action: Action, topic: &'a str) -> Asked<'a> {
        Asked {
            session,
            who: who(identity),
            action,
            topic,
        }
    }

    /// Everybody may read, and publish on topics of their own name.
    fn rights() -> Rights {
        let mut acl = Acl::new(Effect::Deny);
        for (actions, topics) in [(Actions::READ, "#"), (Actions::PUBLISH, "of/%u/#")] {
            let rule = Rule {
                effect: Effect::Allow,
                actions,
                topics: Topics::pattern(topics).unwrap(),
                client: None,
                source: Source {
                    file: Arc::from(""),
                    line: 1,
                },
            };
            acl.push(&Whom::Everybody, rule);
        }
        Rights::within(acl)
    }

    #[test]
    fn what_is_remembered_is_what_the_rights_say_however_many_ask_for_however_much() {
        let decided = Decided::new(rights());
        let mut keys = SlotMap::with_key();
        let clients = ["ann", "bill", "carl"].map(|name| (keys.insert(()), user(name)));
        let long = "x".repeat(TOPIC_BYTES_MAX);
        let numbers = (0..700).chain(0..700);
        let topics = numbers.flat_map(|number| {
            ["ann", "bill"].map(|name| match number % 7 {
                0 => format!("of/{name}/{long}/{number}"),
                1 => format!(
                    "of/{name}/{}",
                    long.get(..TOPIC_BYTES_MAX - 4 - name.len()).unwrap()
                ),
                _ => format!("of/{name}/{number}"),
            })
        });
        let mut granted = 0;
        for topic in topics {
            for (key, identity) in &clients {
                for action in [Action::Publish, Action::Receive] {
                    let expected = decided.authorize(who(identity), action, &topic);
                    let found = decided.allows(1, &asked(*key, identity, action, &topic));
                    assert_eq!(found, expected, "{identity} {action:?} {topic}");
                    granted += usize::from(found);
                }
            }
        }
        assert_eq!(granted, 2 * 700 * (2 * 3 + 2), "all may read and two may publish");
        assert_eq!(decided.entries.borrow().len(), ENTRIES);
    }

    #[test]
    fn an_answer_is_remembered_until_somebody_comes_or_goes() {
        let decided = Decided::new(rights());
        let key = SlotMap::with_key().insert(());
        let (ann, bill) = (user("ann"), user("bill"));
        let ask = |attachments, identity| {
            decided.allows(attachments, &asked(key, identity, Action::Publish, "of/ann/x"))
        };
        assert!(ask(1, &ann));
        assert!(
            ask(1, &bill),
            "a session is one user's, so the user is not looked at"
        );
        assert!(!ask(2, &bill));
        assert!(!ask(2, &ann));
    }

    #[test]
    fn without_rules_there_is_nothing_to_remember() {
        let decided = Decided::new(Rights::default());
        let key = SlotMap::with_key().insert(());
        assert!(decided.allows(1, &asked(key, &user("ann"), Action::Publish, "a")));
        assert!(!decided.allows(1, &asked(key, &user("ann"), Action::Publish, "$SYS/a")));
        assert!(decided.entries.borrow().is_empty());
    }
}
