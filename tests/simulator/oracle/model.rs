//! What the oracle remembers: sessions, connections and messages, as the standard describes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::auth::Identity;
use tidegate::broker::LinkId;
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, Publish, PublishProperties, QoS};

/// A session, by a number that never comes back.
pub type SessionNumber = u32;

/// A shared subscription: its name and what it subscribes to.
pub type Group = Rc<str>;

/// An Application Message, as it was published.
#[derive(Debug)]
pub struct Message {
    pub topic: Rc<str>,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// Without topic alias; the life it has left is in `expires_at`.
    pub properties: PublishProperties,
    pub expires_at: Option<Instant>,
    /// Whose it is: No Local keeps it from this session.
    pub publisher: Option<SessionNumber>,
}

impl Message {
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether `publish`, which goes to `topic`, says the same; identifiers and what is left of its life are looked at
    /// elsewhere.
    pub fn says_the_same(&self, topic: &str, publish: &Publish, version: ProtocolVersion) -> bool {
        if *self.topic != *topic || self.payload != publish.payload {
            return false;
        }
        match (version, publish.properties.as_deref()) {
            (ProtocolVersion::V5, Some(theirs)) => {
                let ours = &self.properties;
                ours.payload_is_utf8 == theirs.payload_is_utf8
                    && ours.response_topic == theirs.response_topic
                    && ours.correlation_data == theirs.correlation_data
                    && ours.user_properties == theirs.user_properties
                    && ours.content_type == theirs.content_type
                    && ours.message_expiry_secs.is_some() == theirs.message_expiry_secs.is_some()
            }
            (ProtocolVersion::V5, None) => self.properties.is_empty(),
            (_, theirs) => theirs.is_none(),
        }
    }
}

/// A delivery that is owed to a session.
#[derive(Debug, Clone)]
pub struct Owed {
    pub message: Rc<Message>,
    pub qos: QoS,
    /// The RETAIN flag it has to have; `None` where its subscriptions disagree.
    pub retain: Option<bool>,
    /// Subscription Identifiers, in ascending order.
    pub ids: Vec<u32>,
    /// What was routed later has a higher number; what may come in any order has the same.
    pub batch: u64,
    /// The last change that has to be stored before it may be seen; 0: none.
    pub after: u64,
}

/// A delivery that was sent and not finished.
#[derive(Debug, Clone)]
pub struct Flight {
    pub packet_id: u16,
    pub owed: Owed,
    /// The shared subscriptions it may have come by.
    pub groups: Option<Rc<[Group]>>,
    /// Whether PUBREC came.
    pub released: bool,
    /// On which connection it was sent last.
    pub sent_on: Option<LinkId>,
    /// Whether PUBREC came on a connection it was not sent on: it may have been dropped there instead.
    pub is_in_doubt: bool,
}

/// One topic filter of a session.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Without the share name.
    pub matched: Rc<str>,
    pub group: Option<Group>,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub id: u32,
}

/// The will of a session.
#[derive(Debug, Clone)]
pub struct Testament {
    pub message: Rc<Message>,
    pub expiry_secs: Option<u32>,
    pub delay: Duration,
    pub due: Option<Instant>,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub client: Rc<str>,
    pub identity: Identity,
    pub link: Option<LinkId>,
    pub expiry_secs: u32,
    /// Whether it outlives the process, where anything does: it may outlive its connection.
    pub is_stored: bool,
    /// Whether it ever did, and is found until it is told to have ended.
    pub was_stored: bool,
    /// By which number in records.
    pub stored_as: u64,
    /// Whether the process has ended since it began.
    pub was_found: bool,
    pub expires_at: Option<Instant>,
    pub will: Option<Testament>,
    pub filters: BTreeMap<Rc<str>, Filter>,
    pub owed: VecDeque<Owed>,
    pub flights: Vec<Flight>,
    /// QoS 2 messages of its client that were not released.
    pub receiving: BTreeSet<u16>,
    /// Of these, those that may not have been taken: what comes again by them may or may not be new.
    pub unsure_of: BTreeSet<u16>,
    /// Retained messages that its subscriptions have yet to bring: by filter, in the order they were made, the topics.
    pub replays: Vec<(Rc<str>, BTreeSet<Rc<str>>)>,
    /// Every shared subscription it was a member of, and whether any was to pass RETAIN on as published.
    pub groups_ever: BTreeSet<Group>,
    pub ever_as_published: bool,
}

impl Session {
    pub fn new(client: Rc<str>, identity: Identity) -> Self {
        Self {
            client,
            identity,
            link: None,
            expiry_secs: 0,
            is_stored: false,
            was_stored: false,
            stored_as: 0,
            was_found: false,
            expires_at: None,
            will: None,
            filters: BTreeMap::new(),
            owed: VecDeque::new(),
            flights: Vec::new(),
            receiving: BTreeSet::new(),
            unsure_of: BTreeSet::new(),
            replays: Vec::new(),
            groups_ever: BTreeSet::new(),
            ever_as_published: false,
        }
    }

    /// Whether what it is told is a promise for longer than its connection.
    pub fn is_promised(&self) -> bool {
        self.is_stored && self.expiry_secs > 0
    }

    /// A subscription brings nothing any more; how many messages it had yet to bring.
    pub fn forget_replay(&mut self, filter: &str) -> u64 {
        let forgotten = self.replays.extract_if(.., |(text, _)| **text == *filter);
        forgotten.map(|(_, topics)| topics.len() as u64).sum()
    }
}

/// How far a connection has come.
#[derive(Debug, Clone)]
pub enum Stage {
    Arrived,
    /// CONNECT came, and the password is being checked; what came behind it waits.
    Asked(Box<Connect>, Vec<Packet>),
    In(SessionNumber),
    Ended,
}

/// An answer that the broker owes on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Of PUBACK, PUBREC: with success, with 0x10, or with the refusal that was earned.
    PubAck(u16, Reached),
    PubRec(u16, Reached),
    PubRel(u16),
    PubComp(u16, bool),
    SubAck(u16, usize),
    UnsubAck(u16, Vec<bool>),
    PingResp,
}

/// What became of a message that a client published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    Somebody,
    Nobody,
    /// It was not taken.
    Denied,
    /// It was not taken, for it could not be stored.
    NotStored,
    /// It came before.
    Again,
}

#[derive(Debug, Clone)]
pub struct Link {
    pub stage: Stage,
    /// Whether its door asks for no password.
    pub is_open: bool,
    pub version: ProtocolVersion,
    pub receive_maximum: u16,
    pub packet_bytes_max: u32,
    pub last_received: Instant,
    pub silence_max: Duration,
    /// What is owed, and the change that has to be stored before.
    pub answers: VecDeque<(Answer, u64)>,
    /// What its client published and has no answer to, by packet identifier; at QoS 0, by 0, the last in this step.
    pub unanswered: BTreeMap<u16, Rc<Message>>,
    /// CONNACK is owed: Session Present, Session Expiry Interval, Server Keep Alive; and was it said.
    pub greeting: Option<(bool, Option<u32>, Option<u16>, u64)>,
    pub greeted: bool,
    /// What the client's aliases stand for, and the broker's.
    pub aliases: [BTreeMap<u16, Rc<str>>; 2],
    /// Deliveries that were sent on this connection and not acknowledged.
    pub outstanding: BTreeSet<u16>,
    /// What its client did that no client may do; the broker may end it for that.
    pub provoked: bool,
    /// DISCONNECT came, with this reason.
    pub goodbye: Option<tidegate::mqtt::ReasonCode>,
    /// Whether the last word was said, and the stream closed.
    pub farewell: bool,
    pub closed: bool,
    /// In which step it ended.
    pub ended_in: u64,
    /// Its session, also after its end.
    pub session: Option<SessionNumber>,
}

impl Link {
    /// An answer is owed, once the change it rests on is stored.
    pub fn owe(&mut self, answer: Answer, rests_on: u64) {
        self.answers.push_back((answer, rests_on));
    }

    pub fn new(is_open: bool, now: Instant) -> Self {
        Self {
            stage: Stage::Arrived,
            is_open,
            version: ProtocolVersion::V311,
            receive_maximum: u16::MAX,
            packet_bytes_max: u32::MAX,
            last_received: now,
            silence_max: Duration::ZERO,
            answers: VecDeque::new(),
            unanswered: BTreeMap::new(),
            greeting: None,
            greeted: false,
            aliases: [BTreeMap::new(), BTreeMap::new()],
            outstanding: BTreeSet::new(),
            provoked: false,
            goodbye: None,
            farewell: false,
            closed: false,
            ended_in: 0,
            session: None,
        }
    }
}

/// Whether a topic name is what a filter asks for (section 4.7), level by level.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut wanted, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_filter_asks_for_what_the_standards_examples_say() {
        for (filter, topic, is_match) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a", true),
            ("#", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("+", "a", true),
            ("+", "a/b", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/a", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, topic), is_match, "{filter} {topic}");
        }
    }
}
