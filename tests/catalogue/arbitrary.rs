//! Strategies for every packet that one end may send in one version.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{
    Ack, AckProperties, Auth, AuthProperties, ClientId, ConnAck, ConnAckProperties, Connect,
    ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeProperties, Subscription,
    TopicFilter, TopicName, UnsubAck, Unsubscribe, UserProperties, Utf8String, Will, WillProperties,
};

use super::Place;

/// A packet and when it comes, as `side` may read it in `version`.
pub fn packet(version: ProtocolVersion, side: Side) -> BoxedStrategy<(Place, Packet)> {
    let v5 = version == ProtocolVersion::V5;
    let later = |strategy: BoxedStrategy<Packet>| strategy.prop_map(|packet| (Place::Later, packet)).boxed();
    let first = |strategy: BoxedStrategy<Packet>| strategy.prop_map(|packet| (Place::First, packet)).boxed();
    let mut kinds = vec![
        later(publish(version, side).prop_map(Packet::Publish).boxed()),
        later(ack(v5, PUBACK).prop_map(Packet::PubAck).boxed()),
        later(ack(v5, PUBACK).prop_map(Packet::PubRec).boxed()),
        later(ack(v5, PUBREL).prop_map(Packet::PubRel).boxed()),
        later(ack(v5, PUBREL).prop_map(Packet::PubComp).boxed()),
    ];
    match side {
        Side::Server => kinds.extend([
            first(
                connect(version)
                    .prop_map(|packet| Packet::Connect(Box::new(packet)))
                    .boxed(),
            ),
            later(
                subscribe(v5)
                    .prop_map(|packet| Packet::Subscribe(Box::new(packet)))
                    .boxed(),
            ),
            later(
                unsubscribe(v5)
                    .prop_map(|packet| Packet::Unsubscribe(Box::new(packet)))
                    .boxed(),
            ),
            later(Just(Packet::PingReq).boxed()),
            later(
                disconnect(v5, side)
                    .prop_map(|packet| Packet::Disconnect(Box::new(packet)))
                    .boxed(),
            ),
        ]),
        Side::Client => kinds.extend([
            first(
                connack(version)
                    .prop_map(|packet| Packet::ConnAck(Box::new(packet)))
                    .boxed(),
            ),
            later(
                suback(v5)
                    .prop_map(|packet| Packet::SubAck(Box::new(packet)))
                    .boxed(),
            ),
            later(
                unsuback(v5)
                    .prop_map(|packet| Packet::UnsubAck(Box::new(packet)))
                    .boxed(),
            ),
            later(Just(Packet::PingResp).boxed()),
        ]),
    }
    if v5 {
        kinds.push(later(
            auth(side)
                .prop_map(|packet| Packet::Auth(Box::new(packet)))
                .boxed(),
        ));
        if side == Side::Client {
            let disconnect = disconnect(v5, side).prop_map(|packet| Packet::Disconnect(Box::new(packet)));
            kinds.push(later(disconnect.boxed()));
        }
    }
    proptest::strategy::Union::new(kinds).boxed()
}

/// Every version with every side.
pub fn version_and_side() -> impl Strategy<Value = (ProtocolVersion, Side)> {
    let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
    (
        proptest::sample::select(versions.to_vec()),
        proptest::sample::select(vec![Side::Server, Side::Client]),
    )
}

const PUBACK: &[u8] = &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL: &[u8] = &[0x00, 0x92];

fn reason(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    proptest::sample::select(codes).prop_map(|code| ReasonCode::from_u8(code).unwrap())
}

fn string() -> impl Strategy<Value = Utf8String> {
    prop_oneof![
        8 => "[\u{1}-\u{10FFFF}]{0,12}",
        1 => "[a-z/]{100,400}",
    ]
    .prop_map(|text| Utf8String::try_from(text.as_str()).unwrap())
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..80),
        1 => vec(any::<u8>(), 100..400),
    ]
    .prop_map(Bytes::from)
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9 $/дё温🌡]{1,24}".prop_map(|text| TopicName::try_from(text.as_str()).unwrap())
}

fn filter(shared: bool) -> impl Strategy<Value = TopicFilter> {
    let levels = vec(prop_oneof!["[a-z0-9$ ]{0,5}", Just("+".to_owned())], 1..5);
    (option::of("[a-z]{1,4}"), levels, any::<bool>()).prop_map(move |(share, levels, hash)| {
        let mut text = levels.join("/");
        if hash {
            text.push_str("/#");
        }
        if text.is_empty() {
            text.push('/');
        }
        match share {
            Some(share) if shared => text = format!("$share/{share}/{text}"),
            _ if text.starts_with("$share") => text.insert(0, 'x'),
            _ => {}
        }
        TopicFilter::try_from(text.as_str()).unwrap()
    })
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn client_id() -> impl Strategy<Value = Option<ClientId>> {
    string().prop_map(ClientId::new)
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((string(), string()), 0..4)
}

/// `strategy` in 5.0, the default before.
fn in_v5<T: std::fmt::Debug + Clone + Default + 'static>(
    v5: bool,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if v5 {
        strategy.boxed()
    } else {
        Just(T::default()).boxed()
    }
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let v5 = version == ProtocolVersion::V5;
    (
        (any::<bool>(), any::<bool>(), any::<u16>()),
        client_id(),
        option::of(will(v5)),
        option::of(string()),
        option::of(binary()),
        in_v5(v5, connect_properties()),
    )
        .prop_map(
            move |(
                (bridge, clean_start, keep_alive_secs),
                client_id,
                will,
                user_name,
                password,
                properties,
            )| {
                Connect {
                    version,
                    bridge: bridge && !v5,
                    clean_start,
                    keep_alive_secs,
                    client_id,
                    will,
                    password: password.filter(|_| v5 || user_name.is_some()),
                    user_name,
                    properties,
                }
            },
        )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    (
        option::of(any::<u32>()),
        option::of(1..=u16::MAX),
        option::of(1..=u32::MAX),
        option::of(any::<u16>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        user_properties(),
        option::of((string(), option::of(binary()))),
    )
        .prop_map(
            |(expiry, receive, bytes, alias, response, problem, user_properties, authentication)| {
                let (method, data) = authentication.unzip();
                ConnectProperties {
                    session_expiry_secs: expiry,
                    receive_maximum: receive,
                    packet_bytes_max: bytes,
                    topic_alias_maximum: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user_properties,
                    authentication_method: method,
                    authentication_data: data.flatten(),
                }
            },
        )
}

fn will(v5: bool) -> impl Strategy<Value = Will> {
    let properties = (option::of(any::<u32>()), message_properties())
        .prop_map(|(delay_secs, publish)| WillProperties { delay_secs, publish });
    (topic(), binary(), qos(), any::<bool>(), in_v5(v5, properties)).prop_map(
        |(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        },
    )
}

/// What PUBLISH and the will share.
fn message_properties() -> impl Strategy<Value = PublishProperties> {
    (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(topic()),
        option::of(binary()),
        user_properties(),
        option::of(string()),
    )
        .prop_map(
            |(utf8, expiry, response_topic, correlation_data, user_properties, content_type)| {
                PublishProperties {
                    payload_is_utf8: utf8,
                    message_expiry_secs: expiry,
                    response_topic,
                    correlation_data,
                    user_properties,
                    content_type,
                    ..PublishProperties::default()
                }
            },
        )
}

/// `side` reads it: only servers send subscription identifiers.
fn publish(version: ProtocolVersion, side: Side) -> impl Strategy<Value = Publish> {
    let ids = if side == Side::Client { 0..4 } else { 0..1 };
    let properties = (
        message_properties(),
        option::of(1..=u16::MAX),
        vec(1_u32..=268_435_455, ids),
    )
        .prop_map(|(mut properties, topic_alias, ids)| {
            properties.topic_alias = topic_alias;
            properties.subscription_ids = ids.into_iter().collect();
            (!properties.is_empty()).then(|| Box::new(properties))
        });
    let v5 = version == ProtocolVersion::V5;
    (
        (any::<bool>(), qos(), any::<bool>(), any::<bool>()),
        topic(),
        packet_id(),
        payload(),
        in_v5(v5, properties),
    )
        .prop_map(
            |((dup, qos, retain, by_alias), topic, packet_id, payload, properties)| {
                let has_alias = properties
                    .as_ref()
                    .is_some_and(|properties| properties.topic_alias.is_some());
                Publish {
                    dup: dup && qos != QoS::AtMostOnce,
                    qos,
                    retain,
                    topic: (!(by_alias && has_alias)).then_some(topic),
                    packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
                    payload,
                    properties,
                }
            },
        )
}

/// `None` as often as not.
fn ack_properties() -> impl Strategy<Value = Option<Box<AckProperties>>> {
    option::of((option::of(string()), user_properties())).prop_map(|properties| {
        let (reason_string, user_properties) = properties?;
        let properties = AckProperties {
            reason_string,
            user_properties,
        };
        (properties != AckProperties::default()).then(|| Box::new(properties))
    })
}

fn ack(v5: bool, codes: &'static [u8]) -> impl Strategy<Value = Ack> {
    (packet_id(), in_v5(v5, reason(codes)), in_v5(v5, ack_properties())).prop_map(
        |(packet_id, reason, properties)| Ack {
            packet_id,
            reason,
            properties,
        },
    )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck> {
    let v5 = version == ProtocolVersion::V5;
    let codes: &[u8] = if v5 {
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ]
    } else {
        &[0x00, 0x84, 0x85, 0x86, 0x87, 0x88]
    };
    (any::<bool>(), reason(codes), in_v5(v5, connack_properties())).prop_map(
        move |(session_present, reason, properties)| ConnAck {
            session_present: session_present && !reason.is_error() && version != ProtocolVersion::V31,
            reason,
            properties,
        },
    )
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(1..=u16::MAX),
        option::of(prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)]),
        option::of(1..=u32::MAX),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
    );
    let flags = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    );
    let texts = (
        client_id(),
        option::of(string()),
        option::of(string()),
        option::of(string()),
        option::of((string(), option::of(binary()))),
        user_properties(),
    );
    (numbers, flags, texts).prop_map(|(numbers, flags, texts)| {
        let (session_expiry_secs, receive_maximum, maximum_qos, packet_bytes_max, alias, keep_alive) =
            numbers;
        let (retain_available, wildcard_available, subscription_ids_available, shared_available) = flags;
        let (
            assigned_client_id,
            reason_string,
            response_information,
            server_reference,
            auth,
            user_properties,
        ) = texts;
        let (method, data) = auth.unzip();
        ConnAckProperties {
            session_expiry_secs,
            receive_maximum,
            maximum_qos,
            retain_available,
            packet_bytes_max,
            assigned_client_id,
            topic_alias_maximum: alias,
            reason_string,
            user_properties,
            wildcard_available,
            subscription_ids_available,
            shared_available,
            server_keep_alive_secs: keep_alive,
            response_information,
            server_reference,
            authentication_method: method,
            authentication_data: data.flatten(),
        }
    })
}

fn subscription(v5: bool) -> impl Strategy<Value = Subscription> {
    let handling = proptest::sample::select(vec![
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (
        filter(true),
        qos(),
        in_v5(v5, (any::<bool>(), any::<bool>())),
        in_v5(v5, handling),
    )
        .prop_map(
            |(filter, qos, (no_local, retain_as_published), retain_handling)| Subscription {
                no_local: no_local && filter.share().is_none(),
                filter,
                qos,
                retain_as_published,
                retain_handling,
            },
        )
}

fn subscribe(v5: bool) -> impl Strategy<Value = Subscribe> {
    let properties = (option::of(1_u32..=268_435_455), user_properties()).prop_map(
        |(subscription_id, user_properties)| SubscribeProperties {
            subscription_id,
            user_properties,
        },
    );
    (packet_id(), vec(subscription(v5), 1..5), in_v5(v5, properties)).prop_map(
        |(packet_id, subscriptions, properties)| Subscribe {
            packet_id,
            subscriptions: subscriptions.into_iter().collect(),
            properties,
        },
    )
}

fn suback(v5: bool) -> impl Strategy<Value = SubAck> {
    let codes: &[u8] = if v5 {
        &[
            0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
        ]
    } else {
        &[0x00, 0x01, 0x02, 0x80]
    };
    (
        packet_id(),
        vec(reason(codes), 1..12),
        in_v5(v5, ack_properties()),
    )
        .prop_map(|(packet_id, reasons, properties)| SubAck {
            packet_id,
            reasons: reasons.into_iter().collect(),
            properties,
        })
}

fn unsubscribe(v5: bool) -> impl Strategy<Value = Unsubscribe> {
    (packet_id(), vec(filter(true), 1..5), in_v5(v5, user_properties())).prop_map(
        |(packet_id, filters, user_properties)| Unsubscribe {
            packet_id,
            filters: filters.into_iter().collect(),
            user_properties,
        },
    )
}

fn unsuback(v5: bool) -> impl Strategy<Value = UnsubAck> {
    let reasons = vec(reason(&[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]), 1..12);
    (packet_id(), in_v5(v5, reasons), in_v5(v5, ack_properties())).prop_map(
        |(packet_id, reasons, properties)| UnsubAck {
            packet_id,
            reasons: reasons.into_iter().collect(),
            properties,
        },
    )
}

fn disconnect(v5: bool, side: Side) -> impl Strategy<Value = Disconnect> {
    let codes: &[u8] = match side {
        Side::Server => &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        ],
        Side::Client => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
            0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
    };
    let properties = (
        option::of(any::<u32>()),
        option::of(string()),
        user_properties(),
        option::of(string()),
    )
        .prop_map(
            move |(expiry, reason_string, user_properties, reference)| DisconnectProperties {
                session_expiry_secs: expiry.filter(|_| side == Side::Server),
                reason_string,
                user_properties,
                server_reference: reference.filter(|_| side == Side::Client),
            },
        );
    (
        in_v5(v5, reason(codes)),
        in_v5(
            v5,
            prop_oneof![Just(DisconnectProperties::default()), properties.boxed()],
        ),
    )
        .prop_map(|(reason, properties)| Disconnect { reason, properties })
}

fn auth(side: Side) -> impl Strategy<Value = Auth> {
    let codes: &[u8] = match side {
        Side::Server => &[0x18, 0x19],
        Side::Client => &[0x00, 0x18],
    };
    (
        reason(codes),
        string(),
        option::of(binary()),
        option::of(string()),
        user_properties(),
    )
        .prop_map(
            |(reason, method, authentication_data, reason_string, user_properties)| Auth {
                reason,
                properties: AuthProperties {
                    authentication_method: Some(method),
                    authentication_data,
                    reason_string,
                    user_properties,
                },
            },
        )
}
