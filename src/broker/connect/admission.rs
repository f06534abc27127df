//! What is kept of a CONNECT while its client is not in yet.

use std::time::Instant;

use bytes::Bytes;

use crate::auth::groups::Groups;
use crate::broker::Refusal;
use crate::broker::budget::Account;
use crate::broker::kept::Kept;
use crate::broker::policy::MountPoint;
use crate::broker::will::Testament;
use crate::mqtt::{ClientId, Connect, ProtocolVersion, Utf8String};

/// What is kept of a CONNECT: nothing in it shares the read buffer.
#[derive(Debug)]
pub(in crate::broker) struct Admission {
    pub(super) version: ProtocolVersion,
    pub(super) bridge: bool,
    pub(super) clean_start: bool,
    pub(super) keep_alive_secs: u16,
    pub(super) client_id: Option<ClientId>,
    pub(in crate::broker) will: Option<Box<Testament>>,
    /// Whether the hooks have seen the will, or there are none to see it.
    pub(in crate::broker) is_will_asked: bool,
    pub(super) session_expiry_secs: u32,
    pub(super) receive_maximum: u16,
    pub(super) packet_bytes_max: u32,
    pub(super) topic_alias_maximum: u16,
    pub(super) wants_reasons: bool,
    pub(super) wants_response_information: bool,
    /// When what proved its client expires; `None`: never.
    pub(super) login_expires_at: Option<Instant>,
    /// The groups it is in by the word of what proved it.
    pub(in crate::broker) groups: Groups,
}

/// What a client shows to prove who it is.
pub(in crate::broker) struct Credentials {
    /// The user its verified certificate names.
    pub(in crate::broker) certificate_user: Option<Utf8String>,
    /// As CONNECT says it.
    pub(in crate::broker) user: Option<Utf8String>,
    /// As CONNECT says it.
    pub(in crate::broker) password: Option<Bytes>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {:?}", self.user)
    }
}

impl Admission {
    /// The client identifier it asks for.
    pub(in crate::broker) fn client_id(&self) -> Option<&ClientId> {
        self.client_id.as_ref()
    }

    /// Notes that what proved its client expires at `at`.
    pub(in crate::broker) fn expire_at(&mut self, at: Instant) {
        self.login_expires_at = Some(at);
    }

    /// The will it brings.
    pub(in crate::broker) fn will_message(&self) -> Option<&Kept> {
        self.will.as_deref().map(Testament::message)
    }

    /// # Errors
    /// What is wrong with a will that is to be mounted.
    pub(super) fn new(
        connect: &Connect,
        mount_point: Option<&MountPoint>,
        account: &Account,
    ) -> Result<Self, Refusal> {
        let properties = &connect.properties;
        let session_expiry_secs = match connect.version {
            ProtocolVersion::V5 => properties.session_expiry_secs.unwrap_or(0),
            // A session that is not clean is kept as long as we keep any.
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let will = match (&connect.will, mount_point) {
            (None, _) => None,
            (Some(will), None) => Some(Testament::new(will, &will.topic, account)),
            (Some(will), Some(_)) if will.topic.is_reserved() => return Err(Refusal::WillDenied),
            (Some(will), Some(mount_point)) => {
                let topic = mount_point.mounted(&will.topic).ok_or(Refusal::WillTopic)?;
                Some(Testament::new(will, &topic, account))
            }
        };
        Ok(Self {
            version: connect.version,
            bridge: connect.bridge,
            clean_start: connect.clean_start,
            keep_alive_secs: connect.keep_alive_secs,
            client_id: connect.client_id.as_ref().map(ClientId::detached),
            will: will.map(Box::new),
            is_will_asked: false,
            session_expiry_secs,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_bytes_max: properties.packet_bytes_max.unwrap_or(u32::MAX),
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            wants_reasons: properties.request_problem_information != Some(false),
            wants_response_information: properties.request_response_information == Some(true),
            login_expires_at: None,
            groups: Groups::default(),
        })
    }
}
