//! What a door grants to those who come through it: never more than the limits of the whole gateway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Limits;
use crate::auth::Identity;
use crate::mqtt::{ClientId, ProtocolVersion, TopicError, TopicFilter, TopicName, Utf8String};

/// What a listener grants to those who come through it.
///
/// Where a bound is `None` that of [`Limits`] holds; one that is larger than that of [`Limits`] has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPolicy {
    /// Its name in the configuration, for logs.
    pub name: String,
    /// Whether a client may come without user name and password.
    pub anonymous: bool,
    /// The protocol versions it speaks; the others get CONNACK 0x01 (3.x) or 0x84 (5.0).
    pub versions: Versions,
    /// The part of the topic tree that its clients take for the whole.
    pub mount_point: Option<MountPoint>,
    /// The largest packet accepted, in bytes with its fixed header.
    pub packet_bytes_max: Option<u32>,
    /// Server Keep Alive for 5.0 clients that ask for more, or for none, in seconds.
    pub keep_alive_max_secs: Option<u16>,
    /// Receive Maximum told to clients.
    pub receive_maximum: Option<u16>,
    /// Topic Alias Maximum told to clients, and the most aliases used towards one.
    pub topic_alias_maximum: Option<u16>,
    /// Session Expiry Interval granted at most.
    pub session_expiry_max: Option<Duration>,
    /// Whether a 3.1 client's identifier of more than 23 characters is refused, as that version asks for; otherwise
    /// it counts as a 3.1.1 client's would.
    pub strict_client_ids: bool,
    /// Which client identifiers its users may take.
    pub client_ids: ClientIds,
}

/// Which client identifiers a user may take.
///
/// A session is kept from everybody but the user it belongs to; but whoever comes first with an identifier has it, and
/// keeps its rightful owner out. Where users may only take what is theirs by name, nobody can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientIds {
    /// Any.
    #[default]
    Any,
    /// The user's name.
    User,
    /// The user's name, a colon, and whatever holds no other colon: so no two users can ask for the same.
    UserPrefix,
}

/// A set of protocol versions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Versions(u8);

/// A topic name that stands before every topic of the clients of a listener, without their noticing.
///
/// 1. It holds no wildcard, does not start with `$`, and ends with `/`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountPoint(Arc<String>);

/// Why text is no mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPointError {
    /// It is not a topic name.
    Topic(TopicError),
    /// It starts with `$`: those topics are the server's.
    Reserved,
    /// It is longer than [`MountPoint::BYTES_MAX`].
    TooLong,
}

impl ListenerPolicy {
    /// A door that grants what the limits grant.
    pub fn new(name: impl Into<String>, anonymous: bool) -> Self {
        Self {
            name: name.into(),
            anonymous,
            versions: Versions::ALL,
            mount_point: None,
            packet_bytes_max: None,
            keep_alive_max_secs: None,
            receive_maximum: None,
            topic_alias_maximum: None,
            session_expiry_max: None,
            strict_client_ids: false,
            client_ids: ClientIds::Any,
        }
    }

    /// The largest packet accepted here, in bytes with its fixed header.
    pub fn packet_bytes_max(&self, limits: &Limits) -> u32 {
        lower(self.packet_bytes_max, limits.packet_bytes_max)
    }

    pub(super) fn keep_alive_max_secs(&self, limits: &Limits) -> u16 {
        lower(self.keep_alive_max_secs, limits.keep_alive_max_secs)
    }

    /// At least 1: 0 is no Receive Maximum [section 3.2.2.3.3].
    pub(super) fn receive_maximum(&self, limits: &Limits) -> u16 {
        lower(self.receive_maximum, limits.receive_maximum).max(1)
    }

    pub(super) fn topic_alias_maximum(&self, limits: &Limits) -> u16 {
        lower(self.topic_alias_maximum, limits.topic_alias_maximum)
    }

    /// The longest Session Expiry Interval, in seconds.
    pub(super) fn session_expiry_max_secs(&self, limits: &Limits) -> u32 {
        let longest = lower(self.session_expiry_max, limits.session_expiry_max);
        u32::try_from(longest.as_secs()).unwrap_or(u32::MAX)
    }
}

impl ClientIds {
    /// What stands between the user's name and the rest.
    const SEPARATOR: char = ':';

    /// Whether a client that has proved to be `identity` may take the identifier `client`.
    pub(super) fn allow(self, identity: &Identity, client: &ClientId) -> bool {
        match (self, identity) {
            (Self::Any, _) => true,
            (_, Identity::Anonymous | Identity::Gateway) => false,
            (Self::User, Identity::User(user)) => client.as_str() == user.as_str(),
            (Self::UserPrefix, Identity::User(user)) => {
                let parts = client.as_str().rsplit_once(Self::SEPARATOR);
                parts.is_some_and(|(name, _)| name == user.as_str())
            }
        }
    }

    /// The identifier of a client that asked for none, from one that nobody has; `None` where it has to ask for its
    /// own.
    pub(super) fn assign(self, identity: &Identity, unused: ClientId) -> Option<ClientId> {
        match (self, identity) {
            (Self::Any, _) => Some(unused),
            (Self::UserPrefix, Identity::User(user)) => {
                let text = format!("{user}{}{unused}", Self::SEPARATOR);
                Utf8String::try_from(text.as_str()).ok().and_then(ClientId::new)
            }
            _ => None,
        }
    }
}

fn lower<T: Ord>(of_listener: Option<T>, of_all: T) -> T {
    match of_listener {
        Some(bound) => bound.min(of_all),
        None => of_all,
    }
}

impl Versions {
    /// 3.1, 3.1.1 and 5.0.
    pub const ALL: Self = Self::NONE
        .with(ProtocolVersion::V31)
        .with(ProtocolVersion::V311)
        .with(ProtocolVersion::V5);

    /// None at all.
    pub const NONE: Self = Self(0);

    /// These and `version`.
    pub const fn with(self, version: ProtocolVersion) -> Self {
        Self(self.0 | 1 << version as u8)
    }

    /// Whether `version` is one of them.
    pub const fn contains(self, version: ProtocolVersion) -> bool {
        self.0 & Self::NONE.with(version).0 != 0
    }

    /// Those in the set, the oldest first.
    pub fn iter(self) -> impl Iterator<Item = ProtocolVersion> {
        [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5]
            .into_iter()
            .filter(move |&version| self.contains(version))
    }
}

impl FromIterator<ProtocolVersion> for Versions {
    fn from_iter<I: IntoIterator<Item = ProtocolVersion>>(versions: I) -> Self {
        versions.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl MountPoint {
    /// The longest mount point, in bytes with its last `/`: it counts in every topic of its clients, which have a
    /// bound of their own.
    pub const BYTES_MAX: usize = 128;

    /// Takes `text` as a mount point, with a `/` after it where it has none.
    ///
    /// # Errors
    /// [`MountPointError`] where it cannot stand before a topic name, or topics that belong to the server.
    pub fn parse(text: &str) -> Result<Self, MountPointError> {
        let topic = TopicName::try_from(text).map_err(MountPointError::Topic)?;
        if topic.is_reserved() {
            return Err(MountPointError::Reserved);
        }
        let text = topic.as_str();
        let slash = if text.ends_with('/') { "" } else { "/" };
        if text.len() + slash.len() > Self::BYTES_MAX {
            return Err(MountPointError::TooLong);
        }
        Ok(Self(Arc::new(format!("{text}{slash}"))))
    }

    /// The text, which ends with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where `topic` of a client stands for everybody else; `None` where the whole is longer than a topic can be.
    pub(super) fn mounted(&self, topic: &TopicName) -> Option<TopicName> {
        let text = Utf8String::try_from(format!("{}{topic}", self.0).as_str()).ok()?;
        TopicName::parse(text).ok()
    }

    /// What `filter` of a client asks for in the whole tree; `None` where that is longer than a filter can be.
    pub(super) fn mounted_filter(&self, filter: &TopicFilter) -> Option<TopicFilter> {
        let matched = filter.matched();
        let text = match filter.share() {
            None => format!("{}{matched}", self.0),
            Some((name, _)) => format!("$share/{name}/{}{matched}", self.0),
        };
        TopicFilter::parse(Utf8String::try_from(text.as_str()).ok()?).ok()
    }

    /// What its clients take `topic` for; `None` where it is out of their reach.
    ///
    /// That is what does not stand below the mount point, its own root included, which "#" matches; and what would
    /// look like one of the server's own topics to them [MQTT-4.7.2-1].
    pub(super) fn unmounted(&self, topic: &TopicName) -> Option<TopicName> {
        let from = topic.as_str().len() - self.rest(topic)?.len();
        let text = Utf8String::from_bytes(topic.as_utf8().as_bytes().slice(from..)).ok()?;
        TopicName::parse(text).ok()
    }

    /// Whether its clients see `topic`.
    pub(super) fn reaches(&self, topic: &TopicName) -> bool {
        self.rest(topic).is_some()
    }

    fn rest<'a>(&self, topic: &'a TopicName) -> Option<&'a str> {
        let rest = topic.as_str().strip_prefix(self.0.as_str())?;
        (!rest.is_empty() && !rest.starts_with('$')).then_some(rest)
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0.as_str(), f)
    }
}

impl fmt::Display for MountPointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => fmt::Display::fmt(error, f),
            Self::Reserved => f.write_str("starts with '$', which only topics of the server itself do"),
            Self::TooLong => write!(f, "longer than {} bytes", MountPoint::BYTES_MAX),
        }
    }
}

impl std::error::Error for MountPointError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::try_from(text).expect("a topic of the test")
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::try_from(text).expect("a filter of the test")
    }

    #[test]
    fn a_mount_point_is_a_topic_prefix_that_ends_with_a_slash() {
        for text in ["site/a", "site/a/"] {
            assert_eq!(
                MountPoint::parse(text).map(|mount| mount.to_string()),
                Ok("site/a/".into())
            );
        }
        for (text, error) in [
            ("", MountPointError::Topic(TopicError::Empty)),
            ("site/+", MountPointError::Topic(TopicError::WildcardInName)),
            ("site/#", MountPointError::Topic(TopicError::WildcardInName)),
            ("$SYS/a", MountPointError::Reserved),
        ] {
            assert_eq!(MountPoint::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(MountPoint::parse(&"x".repeat(128)), Err(MountPointError::TooLong));
        assert!(MountPoint::parse(&"x".repeat(127)).is_ok());
    }

    #[test]
    fn what_is_mounted_comes_back_unmounted_and_nothing_else_does() {
        let mount = MountPoint::parse("site/a").expect("a mount point");
        let mounted = mount.mounted(&topic("t/u")).expect("short enough");
        assert_eq!(mounted, topic("site/a/t/u"));
        assert_eq!(mount.unmounted(&mounted), Some(topic("t/u")));
        for outside in ["site/a", "site/a/", "site/ab", "site/b/t", "t/u", "site/a/$SYS/x"] {
            assert_eq!(mount.unmounted(&topic(outside)), None, "{outside}");
        }
        assert_eq!(mount.mounted(&topic(&"x".repeat(65_530))), None);
    }

    #[test]
    fn a_shared_filter_keeps_its_share_name_before_the_mount_point() {
        let mount = MountPoint::parse("site/a").expect("a mount point");
        assert_eq!(mount.mounted_filter(&filter("#")), Some(filter("site/a/#")));
        assert_eq!(
            mount.mounted_filter(&filter("$share/g/t/+")),
            Some(filter("$share/g/site/a/t/+"))
        );
    }

    #[test]
    fn a_set_of_versions_holds_what_was_put_in() {
        let versions: Versions = [ProtocolVersion::V5].into_iter().collect();
        assert!(versions.contains(ProtocolVersion::V5));
        assert!(!versions.contains(ProtocolVersion::V311) && !versions.contains(ProtocolVersion::V31));
        assert_eq!(Versions::ALL.iter().count(), 3);
        assert_eq!(Versions::NONE.iter().count(), 0);
    }

    #[test]
    fn a_listener_lowers_a_limit_and_never_raises_it() {
        let limits = Limits::default();
        let mut policy = ListenerPolicy::new("door", true);
        assert_eq!(policy.packet_bytes_max(&limits), limits.packet_bytes_max);
        policy.packet_bytes_max = Some(1000);
        assert_eq!(policy.packet_bytes_max(&limits), 1000);
        policy.packet_bytes_max = Some(u32::MAX);
        assert_eq!(policy.packet_bytes_max(&limits), limits.packet_bytes_max);
        policy.receive_maximum = Some(0);
        assert_eq!(policy.receive_maximum(&limits), 1);
    }
}
