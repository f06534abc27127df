//! What has to outlive the process, as records: what the core gives to be stored, and takes back when it starts.
//!
//! Every record is an upsert or the end of something that has a key: a session by its number, a subscription by session
//! and filter, a delivery by session and number, once it was sent by session and packet identifier, a retained message
//! by its topic, a ban by its subject. So a record may be given again without harm, and one whose key is not known has
//! nothing to say.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::auth::Identity;
use crate::auth::groups::Groups;
use crate::broker::bans::BanSubject;
use crate::broker::policy::MountPoint;
use crate::mqtt::{ClientId, PacketId, PublishProperties, QoS, TopicFilter, TopicName};

/// A stored session, by a number that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNumber(pub u64);

/// A stored message, by a number that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageNumber(pub u64);

/// A message on its way to one session, by a number that is never used again; what waits stands in the order of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryNumber(pub u64);

/// A moment on the journal's own clock, which no setting of the board's clock moves: milliseconds that the gateway ran
/// since its state directory was new, with the time it was off as far as the board's clock can tell that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct JournalTime(pub u64);

/// One step of what is stored: all of it holds, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// What time it is, by both clocks.
    Clock {
        /// By the journal's.
        at: JournalTime,
        /// By the board's.
        wall: SystemTime,
    },
    /// A session is there, or its head is another; the rest of it stays.
    Session(Box<StoredSession>),
    /// A session is gone with all that belonged to it.
    SessionEnded {
        /// Which.
        session: SessionNumber,
    },
    /// A subscription is there, or has other options.
    Subscribed(Box<StoredSubscription>),
    /// A subscription is gone.
    Unsubscribed {
        /// Whose.
        session: SessionNumber,
        /// Which.
        filter: TopicFilter,
    },
    /// A message was taken that somebody is owed, with everything that follows from it.
    Accepted(Box<Accepted>),
    /// What waited was sent, and waits for its acknowledgement.
    Sent {
        /// To whom.
        session: SessionNumber,
        /// What.
        delivery: DeliveryNumber,
        /// By this identifier.
        packet_id: PacketId,
    },
    /// PUBREC came: PUBREL follows [MQTT-4.3.3-4].
    Released {
        /// From whom.
        session: SessionNumber,
        /// For what was sent by this identifier.
        packet_id: PacketId,
    },
    /// A delivery has ended that was sent: acknowledged, or given up.
    Finished {
        /// To whom.
        session: SessionNumber,
        /// What was sent by this identifier.
        packet_id: PacketId,
    },
    /// A delivery has ended that was never sent.
    Dropped {
        /// To whom.
        session: SessionNumber,
        /// Which.
        delivery: DeliveryNumber,
    },
    /// PUBREL came: the identifier of a QoS 2 message is free again [MQTT-4.3.3-11].
    Forgotten {
        /// From whom.
        session: SessionNumber,
        /// Which.
        packet_id: PacketId,
    },
    /// What a session has sent and received by halves, in place of what was known of it.
    Unfinished(Box<Unfinished>),
    /// The will of a session will not be sent any more, or was sent and reached nobody whose messages are stored.
    WillGone {
        /// Whose.
        session: SessionNumber,
    },
    /// A topic has no retained message any more.
    Unretained {
        /// Which.
        topic: TopicName,
    },
    /// Somebody is kept out.
    Banned {
        /// Who.
        subject: BanSubject,
        /// Until when; `None`: until it is taken back.
        until: Option<JournalTime>,
    },
    /// Somebody is not kept out any more.
    Unbanned {
        /// Who.
        subject: BanSubject,
    },
    /// From here on everything is given again that is there.
    CheckpointBegun,
    /// Everything that was there at the last [`Change::CheckpointBegun`] was given again.
    CheckpointEnded,
}

/// The head of a session: what changes with its connections.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// Which.
    pub number: SessionNumber,
    /// Its client identifier.
    pub client: ClientId,
    /// Whose it is.
    pub identity: Identity,
    /// The groups its client was in when it came last, by the word of what it came in by.
    pub groups: Groups,
    /// Where its topics stand.
    pub mount_point: Option<MountPoint>,
    /// From where its client came first, where it gave no name.
    pub peer: Option<IpAddr>,
    /// Session Expiry Interval in force, in seconds; `u32::MAX`: never.
    pub expiry_secs: u32,
    /// When its client left; `None` while it is connected.
    pub left_at: Option<JournalTime>,
    /// What its client leaves.
    pub will: Option<Box<StoredWill>>,
}

/// A will that is not sent yet.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWill {
    /// The message.
    pub message: MessageBody,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Will Delay Interval.
    pub delay: Duration,
    /// When it is to be sent; `None` while its client is connected.
    pub due_at: Option<JournalTime>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// Whose.
    pub session: SessionNumber,
    /// The filter as it stands in the tree: mounted, with `$share` and the share name where it is shared.
    pub filter: TopicFilter,
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier; 0: none.
    pub subscription_id: u32,
}

/// The parts of an Application Message.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageBody {
    /// Its topic.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// `None` where there are none; the Message Expiry Interval is the one it came with.
    pub properties: Option<Box<PublishProperties>>,
    /// As published.
    pub qos: QoS,
    /// When it has lost its meaning.
    pub expires_at: Option<JournalTime>,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Which.
    pub message: MessageNumber,
    /// What it says; `None` where that was stored before.
    pub body: Option<Box<MessageBody>>,
    /// Whom it is owed.
    pub deliveries: Vec<Delivery>,
    /// Its topic retains it.
    pub retained_by: Option<Author>,
    /// Whose QoS 2 message it is, and by which identifier it came: one that comes by it again is the same.
    pub received: Option<(SessionNumber, PacketId)>,
    /// Whose will it is, which is sent with it.
    pub will_of: Option<SessionNumber>,
}

/// A message on its way to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub session: SessionNumber,
    /// Which.
    pub number: DeliveryNumber,
    /// The identifier it was sent by at once; `None` where it waits.
    pub packet_id: Option<PacketId>,
    /// How it is delivered.
    pub terms: Terms,
}

/// How a message is delivered to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The lower of what was published and what was granted.
    pub qos: QoS,
    /// RETAIN of the delivery.
    pub retain: bool,
    /// Whether it is not dropped to make room for others.
    pub is_firm: bool,
    /// Subscription Identifiers of the delivery.
    pub subscription_ids: Box<[u32]>,
    /// The shared subscription that chose the session, whole; boxed, because few have one and many terms are held while
    /// a journal is read.
    pub share: Option<Box<TopicFilter>>,
}

/// Who retains a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Who had proved to be this.
    pub identity: Identity,
    /// By this client; `None`: the gateway itself.
    pub client: Option<ClientId>,
    /// In these groups then.
    pub groups: Groups,
}

/// What a session has sent and received by halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Whose.
    pub session: SessionNumber,
    /// What it was sent, in the order it was sent first.
    pub sent: Vec<UnfinishedDelivery>,
    /// The identifiers of its own QoS 2 messages that were not released yet.
    pub receiving: Vec<PacketId>,
}

/// A delivery that was sent and is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedDelivery {
    /// Its identifier.
    pub packet_id: PacketId,
    /// The message while PUBACK or PUBREC is owed; `None` once it was released.
    pub message: Option<(MessageNumber, Terms)>,
}

impl JournalTime {
    /// The moment `later` than this.
    pub fn after(self, later: Duration) -> Self {
        let millis = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero where it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
