//! What a client sent behind its CONNECT, or behind a packet that waits, kept until it is its turn.

use bytes::Bytes;

use crate::broker::kept;
use crate::mqtt::{
    Ack, Disconnect, DisconnectProperties, Packet, Subscribe, SubscribeProperties, Unsubscribe,
    UserProperties,
};

/// Packets a client may send behind its CONNECT while its password is checked: a SUBSCRIBE and a few
/// messages.
pub(in crate::broker) const WAITING_PACKETS_MAX: usize = 16;

/// The bytes of these packets; small, for nobody has proved anything yet.
pub(in crate::broker) const WAITING_BYTES_MAX: usize = 16 * 1024;

/// A copy of what matters in a packet, free of the read buffer, and its size; `None` where no client that is
/// not in yet may send it.
pub(in crate::broker) fn detached(packet: Packet) -> Option<(Packet, usize)> {
    let plain = |ack: Ack| Ack {
        properties: None,
        ..ack
    };
    let small = size_of::<Packet>();
    Some(match packet {
        Packet::Publish(mut publish) => {
            let properties = publish.properties.as_deref().map(kept::detached_properties);
            publish.topic = publish.topic.map(|topic| topic.detached());
            publish.payload = Bytes::copy_from_slice(&publish.payload);
            let bytes = publish.topic.as_ref().map_or(0, |topic| topic.as_str().len())
                + publish.payload.len()
                + properties.as_ref().map_or(0, kept::properties_bytes);
            publish.properties = properties.map(Box::new);
            (Packet::Publish(publish), small + bytes)
        }
        Packet::Subscribe(subscribe) => {
            let Subscribe {
                packet_id,
                mut subscriptions,
                properties,
            } = *subscribe;
            let mut bytes = 0;
            for subscription in &mut subscriptions {
                subscription.filter = subscription.filter.detached();
                bytes += small + subscription.filter.as_str().len();
            }
            let properties = SubscribeProperties {
                user_properties: UserProperties::new(),
                ..properties
            };
            (
                Packet::Subscribe(Box::new(Subscribe {
                    packet_id,
                    subscriptions,
                    properties,
                })),
                bytes,
            )
        }
        Packet::Unsubscribe(unsubscribe) => {
            let Unsubscribe {
                packet_id,
                mut filters,
                ..
            } = *unsubscribe;
            let mut bytes = 0;
            for filter in &mut filters {
                *filter = filter.detached();
                bytes += small + filter.as_str().len();
            }
            let user_properties = UserProperties::new();
            (
                Packet::Unsubscribe(Box::new(Unsubscribe {
                    packet_id,
                    filters,
                    user_properties,
                })),
                bytes,
            )
        }
        Packet::PubAck(ack) => (Packet::PubAck(plain(ack)), small),
        Packet::PubRec(ack) => (Packet::PubRec(plain(ack)), small),
        Packet::PubRel(ack) => (Packet::PubRel(plain(ack)), small),
        Packet::PubComp(ack) => (Packet::PubComp(plain(ack)), small),
        Packet::PingReq => (Packet::PingReq, small),
        Packet::Auth(auth) => {
            let mut auth = *auth;
            let properties = &mut auth.properties;
            properties.user_properties = UserProperties::new();
            properties.reason_string = None;
            let method = properties.authentication_method.take();
            properties.authentication_method = method.map(|method| method.detached());
            let data = properties.authentication_data.take();
            let bytes = data.as_ref().map_or(0, Bytes::len);
            properties.authentication_data = data.map(|data| Bytes::copy_from_slice(&data));
            (Packet::Auth(Box::new(auth)), small + bytes)
        }
        Packet::Disconnect(disconnect) => {
            let session_expiry_secs = disconnect.properties.session_expiry_secs;
            let properties = DisconnectProperties {
                session_expiry_secs,
                ..DisconnectProperties::default()
            };
            (
                Packet::Disconnect(Box::new(Disconnect {
                    reason: disconnect.reason,
                    properties,
                })),
                small,
            )
        }
        Packet::Connect(_)
        | Packet::ConnAck(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp => return None,
    })
}
