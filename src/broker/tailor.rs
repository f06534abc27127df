//! How a PUBLISH is made to fit one client that is not like the others: smaller, shorter, or from elsewhere.

use super::aliases::{Naming, OutgoingAliases};
use super::budget::{ALLOCATION_BYTES, Budget, Charge};
use super::policy::MountPoint;
use crate::mqtt::{Packet, ProtocolVersion, Publish, TopicName, encoded_len};

/// What sets the PUBLISH packets of one client apart, so that it cannot be sent the same bytes as others.
#[derive(Debug)]
pub(super) struct Tailoring {
    /// Maximum Packet Size of the client; `u32::MAX`: none.
    pub(super) packet_bytes_max: u32,
    /// What stands before its topics without its noticing.
    pub(super) mount_point: Option<MountPoint>,
    /// For a client that accepts topic aliases.
    pub(super) aliases: Option<OutgoingAliases>,
    charge: Charge,
}

/// The packet is larger than the client's Maximum Packet Size.
#[derive(Debug)]
pub(super) struct TooLarge;

impl Tailoring {
    /// `None` for a client that is like most.
    pub(super) fn new(
        packet_bytes_max: u32,
        mount_point: Option<MountPoint>,
        topic_alias_maximum: u16,
        budget: &Budget,
    ) -> Option<Box<Self>> {
        let aliases = OutgoingAliases::new(topic_alias_maximum, budget);
        let is_special = packet_bytes_max < u32::MAX || mount_point.is_some() || aliases.is_some();
        is_special.then(|| {
            Box::new(Self {
                packet_bytes_max,
                mount_point,
                aliases,
                charge: Charge::new(&budget.account, size_of::<Self>() + ALLOCATION_BYTES),
            })
        })
    }

    /// What it costs.
    pub(super) fn charged_bytes(&self) -> usize {
        self.charge.bytes() + self.aliases.as_ref().map_or(0, OutgoingAliases::charged_bytes)
    }

    /// Makes `publish`, which has roughly `bytes`, one for this client, or says that it is larger than the client
    /// takes [MQTT-3.1.2-24].
    ///
    /// An alias counts as given only where the packet that gives it is sent; one that is not sent `at_once`, behind all
    /// that was before it, has none.
    #[inline(never)]
    pub(super) fn fit(
        &mut self,
        publish: &mut Publish,
        bytes: usize,
        version: ProtocolVersion,
        at_once: bool,
    ) -> Result<(), TooLarge> {
        if let (Some(mount_point), Some(topic)) = (&self.mount_point, &publish.topic) {
            match mount_point.unmounted(topic) {
                Some(topic) => publish.topic = Some(topic),
                None => {
                    debug_assert!(false, "who is out of reach was left out before");
                    return Err(TooLarge);
                }
            }
        }
        let naming = match (&mut self.aliases, &publish.topic) {
            (Some(aliases), Some(topic)) if at_once => aliases.name(topic),
            _ => Naming::Name,
        };
        match naming {
            Naming::Name => {}
            Naming::Alias(alias) => {
                publish.topic = None;
                set_alias(publish, Some(alias));
            }
            Naming::Both(alias) => {
                set_alias(publish, Some(alias));
                if self.takes(publish, bytes, version) {
                    if let (Some(aliases), Some(topic)) = (&mut self.aliases, &publish.topic) {
                        aliases.give(alias, topic);
                    }
                    return Ok(());
                }
                set_alias(publish, None);
            }
        }
        if self.takes(publish, bytes, version) {
            Ok(())
        } else {
            Err(TooLarge)
        }
    }

    /// Whether messages on `topic` are in the part of the tree that the client sees.
    pub(super) fn reaches(&self, topic: &TopicName) -> bool {
        (self.mount_point.as_ref()).is_none_or(|mount_point| mount_point.reaches(topic))
    }

    /// Whether the client takes a packet of this size that is no PUBLISH.
    ///
    /// Acknowledgements are as small as they can be, for none of ours has a Reason String or a User Property
    /// [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2]
    /// [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.15.2-2]
    /// [MQTT-3.15.2-3], whoever asked for them [MQTT-3.1.2-29].
    pub(super) fn takes_packet(&self, packet: &Packet, version: ProtocolVersion) -> bool {
        self.packet_bytes_max == u32::MAX || fits(packet, version, self.packet_bytes_max)
    }

    fn takes(&self, publish: &Publish, bytes: usize, version: ProtocolVersion) -> bool {
        let allowed = usize::try_from(self.packet_bytes_max).unwrap_or(usize::MAX);
        // Room for what an estimate may miss; then only those near the edge are measured.
        bytes.saturating_add(24) <= allowed
            || fits(&Packet::Publish(publish.clone()), version, self.packet_bytes_max)
    }
}

/// Whether `packet` has at most `bytes_max` on the wire [MQTT-3.1.2-24].
pub(super) fn fits(packet: &Packet, version: ProtocolVersion, bytes_max: u32) -> bool {
    encoded_len(packet, version) <= usize::try_from(bytes_max).unwrap_or(usize::MAX)
}

fn set_alias(publish: &mut Publish, alias: Option<u16>) {
    match alias {
        Some(_) => publish.properties.get_or_insert_default().topic_alias = alias,
        None => {
            if let Some(properties) = &mut publish.properties {
                properties.topic_alias = None;
            }
            publish.properties.take_if(|properties| properties.is_empty());
        }
    }
}
