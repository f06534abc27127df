//! Changes as the contents of records.
//!
//! Numbers are written seven bits a byte, lowest first, with the eighth bit set on all but the last; texts and payloads
//! have their length before them; what may be missing has a byte before it that says whether it is there. A content is
//! read to its last byte, and one that says anything else is no record: bytes that are damaged and pass for whole by
//! their checksum must still not become a session that nobody had.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::auth::Identity;
use crate::auth::groups::Groups;
use crate::auth::network::Network;
use crate::broker::change::{
    Accepted, Author, Delivery, DeliveryNumber, JournalTime, MessageBody, MessageNumber, SessionNumber,
    StoredSession, StoredSubscription, StoredWill, Terms, Unfinished, UnfinishedDelivery,
};
use crate::broker::{BanSubject, Change, MountPoint};
use crate::mqtt::{ClientId, PacketId, PublishProperties, QoS, TopicFilter, TopicName, Utf8String};

/// What a content is that no change can be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("found a record of the journal that is whole and says nothing, expected a change")
    }
}

impl std::error::Error for Unreadable {}

/// The kinds of records. A number is never given to another.
mod kind {
    pub(super) const CLOCK: u8 = 1;
    pub(super) const SESSION: u8 = 2;
    pub(super) const SESSION_ENDED: u8 = 3;
    pub(super) const SUBSCRIBED: u8 = 4;
    pub(super) const UNSUBSCRIBED: u8 = 5;
    pub(super) const ACCEPTED: u8 = 6;
    pub(super) const SENT: u8 = 7;
    pub(super) const RELEASED: u8 = 8;
    pub(super) const FINISHED: u8 = 9;
    pub(super) const DROPPED: u8 = 10;
    pub(super) const FORGOTTEN: u8 = 11;
    pub(super) const UNFINISHED: u8 = 12;
    pub(super) const WILL_GONE: u8 = 13;
    pub(super) const UNRETAINED: u8 = 14;
    pub(super) const BANNED: u8 = 15;
    pub(super) const UNBANNED: u8 = 16;
    pub(super) const CHECKPOINT_BEGUN: u8 = 17;
    pub(super) const CHECKPOINT_ENDED: u8 = 18;
}

/// The kind of the record of `change`.
pub fn kind_of(change: &Change) -> u8 {
    match change {
        Change::Clock { .. } => kind::CLOCK,
        Change::Session(_) => kind::SESSION,
        Change::SessionEnded { .. } => kind::SESSION_ENDED,
        Change::Subscribed(_) => kind::SUBSCRIBED,
        Change::Unsubscribed { .. } => kind::UNSUBSCRIBED,
        Change::Accepted(_) => kind::ACCEPTED,
        Change::Sent { .. } => kind::SENT,
        Change::Released { .. } => kind::RELEASED,
        Change::Finished { .. } => kind::FINISHED,
        Change::Dropped { .. } => kind::DROPPED,
        Change::Forgotten { .. } => kind::FORGOTTEN,
        Change::Unfinished(_) => kind::UNFINISHED,
        Change::WillGone { .. } => kind::WILL_GONE,
        Change::Unretained { .. } => kind::UNRETAINED,
        Change::Banned { .. } => kind::BANNED,
        Change::Unbanned { .. } => kind::UNBANNED,
        Change::CheckpointBegun => kind::CHECKPOINT_BEGUN,
        Change::CheckpointEnded => kind::CHECKPOINT_ENDED,
    }
}

/// Appends the content of the record of `change`.
pub fn encode(change: &Change, to: &mut Vec<u8>) {
    let mut to = Writer(to);
    match change {
        Change::Clock { at, wall } => {
            to.number(at.0);
            to.wall(*wall);
        }
        Change::Session(session) => to.session(session),
        Change::SessionEnded { session } | Change::WillGone { session } => to.number(session.0),
        Change::Subscribed(subscription) => {
            to.number(subscription.session.0);
            to.text(subscription.filter.as_str());
            to.byte(
                subscription.qos as u8
                    | u8::from(subscription.no_local) << 2
                    | u8::from(subscription.retain_as_published) << 3,
            );
            to.number(subscription.subscription_id.into());
        }
        Change::Unsubscribed { session, filter } => {
            to.number(session.0);
            to.text(filter.as_str());
        }
        Change::Accepted(accepted) => to.accepted(accepted),
        Change::Sent {
            session,
            delivery,
            packet_id,
        } => {
            to.number(session.0);
            to.number(delivery.0);
            to.packet_id(*packet_id);
        }
        Change::Released { session, packet_id }
        | Change::Finished { session, packet_id }
        | Change::Forgotten { session, packet_id } => {
            to.number(session.0);
            to.packet_id(*packet_id);
        }
        Change::Dropped { session, delivery } => {
            to.number(session.0);
            to.number(delivery.0);
        }
        Change::Unfinished(unfinished) => to.unfinished(unfinished),
        Change::Unretained { topic } => to.text(topic.as_str()),
        Change::Banned { subject, until } => {
            to.subject(subject);
            to.option(until.as_ref(), |to, until| to.number(until.0));
        }
        Change::Unbanned { subject } => to.subject(subject),
        Change::CheckpointBegun | Change::CheckpointEnded => {}
    }
}

/// Reads the change of a record of `kind` with `content`.
///
/// # Errors
/// [`Unreadable`] for a content that [`encode`] does not write, and for kinds of later versions of this program.
pub fn decode(kind: u8, content: &[u8]) -> Result<Change, Unreadable> {
    let mut from = Reader(content);
    let change = match kind {
        kind::CLOCK => Change::Clock {
            at: JournalTime(from.number()?),
            wall: from.wall()?,
        },
        kind::SESSION => Change::Session(Box::new(from.session()?)),
        kind::SESSION_ENDED => Change::SessionEnded {
            session: from.session_number()?,
        },
        kind::WILL_GONE => Change::WillGone {
            session: from.session_number()?,
        },
        kind::SUBSCRIBED => Change::Subscribed(Box::new(from.subscription()?)),
        kind::UNSUBSCRIBED => Change::Unsubscribed {
            session: from.session_number()?,
            filter: from.filter()?,
        },
        kind::ACCEPTED => Change::Accepted(Box::new(from.accepted()?)),
        kind::SENT => Change::Sent {
            session: from.session_number()?,
            delivery: DeliveryNumber(from.number()?),
            packet_id: from.packet_id()?,
        },
        kind::RELEASED => Change::Released {
            session: from.session_number()?,
            packet_id: from.packet_id()?,
        },
        kind::FINISHED => Change::Finished {
            session: from.session_number()?,
            packet_id: from.packet_id()?,
        },
        kind::FORGOTTEN => Change::Forgotten {
            session: from.session_number()?,
            packet_id: from.packet_id()?,
        },
        kind::DROPPED => Change::Dropped {
            session: from.session_number()?,
            delivery: DeliveryNumber(from.number()?),
        },
        kind::UNFINISHED => Change::Unfinished(Box::new(from.unfinished()?)),
        kind::UNRETAINED => Change::Unretained { topic: from.topic()? },
        kind::BANNED => Change::Banned {
            subject: from.subject()?,
            until: from.option(Reader::time)?,
        },
        kind::UNBANNED => Change::Unbanned {
            subject: from.subject()?,
        },
        kind::CHECKPOINT_BEGUN => Change::CheckpointBegun,
        kind::CHECKPOINT_ENDED => Change::CheckpointEnded,
        _ => return Err(Unreadable),
    };
    match from.0 {
        [] => Ok(change),
        _ => Err(Unreadable),
    }
}

struct Writer<'b>(&'b mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut number: u64) {
        loop {
            let [low, ..] = (number & 0x7F).to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(value.is_some().into());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn packet_id(&mut self, packet_id: PacketId) {
        self.0.extend(packet_id.get().to_le_bytes());
    }

    fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    fn wall(&mut self, wall: SystemTime) {
        let (is_later, duration) = match wall.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(duration) => (true, duration),
            Err(before) => (false, before.duration()),
        };
        self.byte(is_later.into());
        self.duration(duration);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    fn identity(&mut self, identity: &Identity) {
        match identity {
            Identity::Anonymous => self.byte(0),
            Identity::User(user) => {
                self.byte(1);
                self.text(user.as_str());
            }
            Identity::Gateway => self.byte(2),
        }
    }

    fn groups(&mut self, groups: &Groups) {
        self.list(groups.names(), |to, name| to.text(name.as_str()));
    }

    fn subject(&mut self, subject: &BanSubject) {
        match subject {
            BanSubject::Client(client) => {
                self.byte(0);
                self.text(client.as_str());
            }
            BanSubject::User(user) => {
                self.byte(1);
                self.text(user.as_str());
            }
            BanSubject::Network(network) => {
                self.byte(2);
                self.address(network.address());
                self.byte(network.prefix_bits());
            }
        }
    }

    fn session(&mut self, session: &StoredSession) {
        self.number(session.number.0);
        self.text(session.client.as_str());
        self.identity(&session.identity);
        self.groups(&session.groups);
        self.option(session.mount_point.as_ref(), |to, mount_point| {
            to.text(mount_point.as_str());
        });
        self.option(session.peer, Self::address);
        self.number(session.expiry_secs.into());
        self.option(session.left_at, |to, at| to.number(at.0));
        self.option(session.will.as_deref(), |to, will| {
            to.body(&will.message);
            to.byte(will.retain.into());
            to.duration(will.delay);
            to.option(will.due_at, |to, at| to.number(at.0));
        });
    }

    fn body(&mut self, body: &MessageBody) {
        self.text(body.topic.as_str());
        self.bytes(&body.payload);
        self.byte(body.qos as u8);
        self.option(body.expires_at, |to, at| to.number(at.0));
        self.option(body.properties.as_deref(), Self::properties);
    }

    fn properties(&mut self, properties: &PublishProperties) {
        self.option(properties.payload_is_utf8, |to, is_utf8| to.byte(is_utf8.into()));
        self.option(properties.message_expiry_secs, |to, secs| to.number(secs.into()));
        self.option(properties.response_topic.as_ref(), |to, topic| {
            to.text(topic.as_str())
        });
        self.option(properties.correlation_data.as_ref(), |to, data| to.bytes(data));
        self.option(properties.content_type.as_ref(), |to, text| {
            to.text(text.as_str())
        });
        self.list(&properties.user_properties, |to, (name, value)| {
            to.text(name.as_str());
            to.text(value.as_str());
        });
    }

    fn terms(&mut self, terms: &Terms) {
        self.byte(terms.qos as u8 | u8::from(terms.retain) << 2 | u8::from(terms.is_firm) << 3);
        self.list(&terms.subscription_ids, |to, &id| to.number(id.into()));
        self.option(terms.share.as_ref(), |to, share| to.text(share.as_str()));
    }

    fn accepted(&mut self, accepted: &Accepted) {
        self.number(accepted.message.0);
        self.option(accepted.body.as_deref(), Self::body);
        self.list(&accepted.deliveries, |to, delivery| {
            to.number(delivery.session.0);
            to.number(delivery.number.0);
            to.option(delivery.packet_id, Self::packet_id);
            to.terms(&delivery.terms);
        });
        self.option(accepted.retained_by.as_ref(), |to, author| {
            to.identity(&author.identity);
            to.option(author.client.as_ref(), |to, client| to.text(client.as_str()));
            to.groups(&author.groups);
        });
        self.option(accepted.received, |to, (session, packet_id)| {
            to.number(session.0);
            to.packet_id(packet_id);
        });
        self.option(accepted.will_of, |to, session| to.number(session.0));
    }

    fn unfinished(&mut self, unfinished: &Unfinished) {
        self.number(unfinished.session.0);
        self.list(&unfinished.sent, |to, sent| {
            to.packet_id(sent.packet_id);
            to.option(sent.message.as_ref(), |to, (message, terms)| {
                to.number(message.0);
                to.terms(terms);
            });
        });
        self.list(&unfinished.receiving, |to, &packet_id| to.packet_id(packet_id));
    }
}

/// What is left of a content.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (&byte, rest) = self.0.split_first().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(byte)
    }

    fn flag(&mut self) -> Result<bool, Unreadable> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Unreadable),
        }
    }

    fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(Unreadable);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return match byte {
                    // One number is written in one way.
                    0 if shift > 0 => Err(Unreadable),
                    _ => Ok(number),
                };
            }
        }
        Err(Unreadable)
    }

    fn number32(&mut self) -> Result<u32, Unreadable> {
        u32::try_from(self.number()?).map_err(|_| Unreadable)
    }

    fn bytes(&mut self) -> Result<&'b [u8], Unreadable> {
        let count = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
        self.take(count)
    }

    fn shared(&mut self) -> Result<Bytes, Unreadable> {
        Ok(Bytes::copy_from_slice(self.bytes()?))
    }

    fn text(&mut self) -> Result<Utf8String, Unreadable> {
        Utf8String::from_bytes(self.shared()?).map_err(|_| Unreadable)
    }

    fn client(&mut self) -> Result<ClientId, Unreadable> {
        ClientId::new(self.text()?).ok_or(Unreadable)
    }

    fn topic(&mut self) -> Result<TopicName, Unreadable> {
        TopicName::parse(self.text()?).map_err(|_| Unreadable)
    }

    fn filter(&mut self) -> Result<TopicFilter, Unreadable> {
        TopicFilter::parse(self.text()?).map_err(|_| Unreadable)
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, Unreadable> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Ok(None),
        }
    }

    /// A list, whose items take a byte each at least: no count makes room for more than there is.
    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        let count = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
        if count > self.0.len() {
            return Err(Unreadable);
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn time(&mut self) -> Result<JournalTime, Unreadable> {
        self.number().map(JournalTime)
    }

    fn session_number(&mut self) -> Result<SessionNumber, Unreadable> {
        self.number().map(SessionNumber)
    }

    fn packet_id(&mut self) -> Result<PacketId, Unreadable> {
        let bytes = self.take(2)?.try_into().map_err(|_| Unreadable)?;
        PacketId::new(u16::from_le_bytes(bytes)).ok_or(Unreadable)
    }

    fn quality(bits: u8) -> Result<QoS, Unreadable> {
        match bits {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(Unreadable),
        }
    }

    fn duration(&mut self) -> Result<Duration, Unreadable> {
        let (secs, nanos) = (self.number()?, self.number32()?);
        match nanos < 1_000_000_000 {
            true => Ok(Duration::new(secs, nanos)),
            false => Err(Unreadable),
        }
    }

    fn wall(&mut self) -> Result<SystemTime, Unreadable> {
        let (is_later, duration) = (self.flag()?, self.duration()?);
        let epoch = SystemTime::UNIX_EPOCH;
        let wall = match is_later {
            true => epoch.checked_add(duration),
            false => epoch.checked_sub(duration),
        };
        wall.ok_or(Unreadable)
    }

    fn address(&mut self) -> Result<IpAddr, Unreadable> {
        let bytes = self.bytes()?;
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            return Ok(Ipv4Addr::from(octets).into());
        }
        let octets = <[u8; 16]>::try_from(bytes).map_err(|_| Unreadable)?;
        Ok(Ipv6Addr::from(octets).into())
    }

    fn identity(&mut self) -> Result<Identity, Unreadable> {
        match self.byte()? {
            0 => Ok(Identity::Anonymous),
            1 => Ok(Identity::User(self.text()?)),
            2 => Ok(Identity::Gateway),
            _ => Err(Unreadable),
        }
    }

    fn groups(&mut self) -> Result<Groups, Unreadable> {
        let names = self.list(Self::text)?;
        let count = names.len();
        let groups = Groups::of(names).ok_or(Unreadable)?;
        match groups.names().len() == count {
            true => Ok(groups),
            false => Err(Unreadable),
        }
    }

    fn subject(&mut self) -> Result<BanSubject, Unreadable> {
        match self.byte()? {
            0 => Ok(BanSubject::Client(self.client()?)),
            1 => Ok(BanSubject::User(self.text()?)),
            2 => {
                let (address, prefix_bits) = (self.address()?, self.byte()?);
                let network = Network::around(address, prefix_bits);
                // One that is written otherwise is none of ours.
                match network.address() == address && network.prefix_bits() == prefix_bits {
                    true => Ok(BanSubject::Network(network)),
                    false => Err(Unreadable),
                }
            }
            _ => Err(Unreadable),
        }
    }

    fn session(&mut self) -> Result<StoredSession, Unreadable> {
        Ok(StoredSession {
            number: self.session_number()?,
            client: self.client()?,
            identity: self.identity()?,
            groups: self.groups()?,
            mount_point: self.option(|from| {
                let text = from.text()?;
                MountPoint::parse(text.as_str()).map_err(|_| Unreadable)
            })?,
            peer: self.option(Self::address)?,
            expiry_secs: self.number32()?,
            left_at: self.option(Self::time)?,
            will: self
                .option(|from| {
                    Ok(StoredWill {
                        message: from.body()?,
                        retain: from.flag()?,
                        delay: from.duration()?,
                        due_at: from.option(Self::time)?,
                    })
                })?
                .map(Box::new),
        })
    }

    fn subscription(&mut self) -> Result<StoredSubscription, Unreadable> {
        let (session, filter) = (self.session_number()?, self.filter()?);
        let bits = self.byte()?;
        if bits > 0b1111 {
            return Err(Unreadable);
        }
        Ok(StoredSubscription {
            session,
            filter,
            qos: Self::quality(bits & 0b11)?,
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            subscription_id: self.number32()?,
        })
    }

    fn body(&mut self) -> Result<MessageBody, Unreadable> {
        Ok(MessageBody {
            topic: self.topic()?,
            payload: self.shared()?,
            qos: self.byte().and_then(Self::quality)?,
            expires_at: self.option(Self::time)?,
            properties: self.option(Self::properties)?.map(Box::new),
        })
    }

    fn properties(&mut self) -> Result<PublishProperties, Unreadable> {
        Ok(PublishProperties {
            payload_is_utf8: self.option(Self::flag)?,
            message_expiry_secs: self.option(Self::number32)?,
            response_topic: self.option(Self::topic)?,
            correlation_data: self.option(Self::shared)?,
            content_type: self.option(Self::text)?,
            user_properties: self
                .list(|from| Ok((from.text()?, from.text()?)))?
                .into_iter()
                .collect(),
            ..PublishProperties::default()
        })
    }

    fn terms(&mut self) -> Result<Terms, Unreadable> {
        let bits = self.byte()?;
        if bits > 0b1111 {
            return Err(Unreadable);
        }
        Ok(Terms {
            qos: Self::quality(bits & 0b11)?,
            retain: bits & 0b100 != 0,
            is_firm: bits & 0b1000 != 0,
            subscription_ids: self.list(Self::number32)?.into(),
            share: self.option(Self::filter)?.map(Box::new),
        })
    }

    fn accepted(&mut self) -> Result<Accepted, Unreadable> {
        Ok(Accepted {
            message: MessageNumber(self.number()?),
            body: self.option(Self::body)?.map(Box::new),
            deliveries: self.list(|from| {
                Ok(Delivery {
                    session: from.session_number()?,
                    number: DeliveryNumber(from.number()?),
                    packet_id: from.option(Self::packet_id)?,
                    terms: from.terms()?,
                })
            })?,
            retained_by: self.option(|from| {
                Ok(Author {
                    identity: from.identity()?,
                    client: from.option(Self::client)?,
                    groups: from.groups()?,
                })
            })?,
            received: self.option(|from| Ok((from.session_number()?, from.packet_id()?)))?,
            will_of: self.option(Self::session_number)?,
        })
    }

    fn unfinished(&mut self) -> Result<Unfinished, Unreadable> {
        Ok(Unfinished {
            session: self.session_number()?,
            sent: self.list(|from| {
                Ok(UnfinishedDelivery {
                    packet_id: from.packet_id()?,
                    message: from.option(|from| Ok((MessageNumber(from.number()?), from.terms()?)))?,
                })
            })?,
            receiving: self.list(Self::packet_id)?,
        })
    }
}
