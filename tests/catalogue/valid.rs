//! Packets as they should be.

use bytes::Bytes;
use smallvec::smallvec;
use tidegate::mqtt::ProtocolVersion::{self, V5, V31, V311};
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{
    Ack, AckProperties, Auth, AuthProperties, ConnAck, ConnAckProperties, Connect, ConnectProperties,
    Disconnect, DisconnectProperties, Packet, Publish, PublishProperties, QoS, ReasonCode, RetainHandling,
    SubAck, Subscribe, SubscribeProperties, Subscription, UnsubAck, Unsubscribe, Will, WillProperties,
};

use super::{Place, Valid, client_id, filter, framed, packet_id, text, topic};

/// Every valid packet of the catalogue.
pub fn valid() -> Vec<Valid> {
    let mut all = Vec::new();
    connect(&mut all);
    connack(&mut all);
    publish(&mut all);
    acks(&mut all);
    subscribe(&mut all);
    unsubscribe(&mut all);
    rest(&mut all);
    all
}

fn entry(
    name: &'static str,
    version: ProtocolVersion,
    side: Side,
    place: Place,
    bytes: Bytes,
    packet: Packet,
) -> Valid {
    Valid {
        name,
        version,
        side,
        place,
        bytes,
        packet,
        canonical: true,
    }
}

/// Of a client, after its CONNECT.
fn from_client(name: &'static str, version: ProtocolVersion, bytes: Bytes, packet: Packet) -> Valid {
    entry(name, version, Side::Server, Place::Later, bytes, packet)
}

/// Of a server, after its CONNACK.
fn from_server(name: &'static str, version: ProtocolVersion, bytes: Bytes, packet: Packet) -> Valid {
    entry(name, version, Side::Client, Place::Later, bytes, packet)
}

/// Our encoder says the same in other bytes.
fn unusual(entry: Valid) -> Valid {
    Valid {
        canonical: false,
        ..entry
    }
}

/// A CONNECT with nothing in it.
pub fn plain_connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: Some(client_id("c")),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn connect(all: &mut Vec<Valid>) {
    let mut add = |name, body: &[u8], connect: Connect| {
        let version = connect.version;
        let packet = Packet::Connect(Box::new(connect));
        all.push(entry(
            name,
            version,
            Side::Server,
            Place::First,
            framed(0x10, body),
            packet,
        ));
    };
    add(
        "CONNECT of 3.1",
        b"\0\x06MQIsdp\x03\x02\0\x3C\0\x01c",
        plain_connect(V31),
    );
    add(
        "CONNECT of 3.1 from a bridge",
        b"\0\x06MQIsdp\x83\x02\0\x3C\0\x01c",
        Connect {
            bridge: true,
            ..plain_connect(V31)
        },
    );
    add(
        "CONNECT of 3.1.1",
        b"\0\x04MQTT\x04\x02\0\x3C\0\x01c",
        plain_connect(V311),
    );
    add(
        "CONNECT of 3.1.1 from a bridge",
        b"\0\x04MQTT\x84\x02\0\x3C\0\x01c",
        Connect {
            bridge: true,
            ..plain_connect(V311)
        },
    );
    add(
        "CONNECT of 3.1.1 without a client identifier and with a stored session, for the broker to refuse",
        b"\0\x04MQTT\x04\0\0\x3C\0\0",
        Connect {
            clean_start: false,
            client_id: None,
            ..plain_connect(V311)
        },
    );
    add(
        "CONNECT of 3.1.1 with a will, user name and password",
        b"\0\x04MQTT\x04\xF6\x01\x00\0\x06sensor\0\x04gone\0\x03bye\0\x03ada\0\x04\0\xFF\x01p",
        Connect {
            keep_alive_secs: 256,
            client_id: Some(client_id("sensor")),
            will: Some(Will {
                topic: topic("gone"),
                payload: Bytes::from_static(b"bye"),
                qos: QoS::ExactlyOnce,
                retain: true,
                properties: WillProperties::default(),
            }),
            user_name: Some(text("ada")),
            password: Some(Bytes::from_static(b"\0\xFF\x01p")),
            ..plain_connect(V311)
        },
    );
    add(
        "CONNECT of 3.1.1 with empty user name, password and will payload",
        b"\0\x04MQTT\x04\xC6\0\x3C\0\x01c\0\x01w\0\0\0\0\0\0",
        Connect {
            will: Some(Will {
                topic: topic("w"),
                payload: Bytes::new(),
                qos: QoS::AtMostOnce,
                retain: false,
                properties: WillProperties::default(),
            }),
            user_name: Some(text("")),
            password: Some(Bytes::new()),
            ..plain_connect(V311)
        },
    );
    add(
        "CONNECT of 5.0",
        b"\0\x04MQTT\x05\x02\0\x3C\0\0\x01c",
        plain_connect(V5),
    );
    add(
        "CONNECT of 5.0 that asks for a client identifier",
        b"\0\x04MQTT\x05\0\0\x3C\0\0\0",
        Connect {
            clean_start: false,
            client_id: None,
            ..plain_connect(V5)
        },
    );
    add(
        "CONNECT of 5.0 with a password and no user name",
        b"\0\x04MQTT\x05\x42\0\x3C\0\0\x01c\0\x05token",
        Connect {
            password: Some(Bytes::from_static(b"token")),
            ..plain_connect(V5)
        },
    );
    add(
        "CONNECT of 5.0 with everything",
        b"\0\x04MQTT\x05\xEE\0\x3C\
          \x2D\x11\0\0\x0E\x10\x21\0\x14\x27\0\x01\0\0\x22\0\x0A\x19\x01\x17\0\x15\0\x03GSS\x16\0\x02\0\x01\
          \x26\0\x01k\0\x01v\x26\0\x01k\0\x01w\
          \0\x01c\
          \x29\x18\0\0\0\x05\x01\x01\x02\0\0\0\x1E\x08\0\x05reply\x09\0\x02\xFF\0\x03\0\x04text\x26\0\x02wk\0\x02wv\
          \0\x04will\0\x04gone\0\x03ada\0\x02pw",
        Connect {
            will: Some(Will {
                topic: topic("will"),
                payload: Bytes::from_static(b"gone"),
                qos: QoS::AtLeastOnce,
                retain: true,
                properties: WillProperties {
                    delay_secs: Some(5),
                    publish: PublishProperties {
                        payload_is_utf8: Some(true),
                        message_expiry_secs: Some(30),
                        response_topic: Some(topic("reply")),
                        correlation_data: Some(Bytes::from_static(b"\xFF\0")),
                        content_type: Some(text("text")),
                        user_properties: vec![(text("wk"), text("wv"))],
                        ..PublishProperties::default()
                    },
                },
            }),
            user_name: Some(text("ada")),
            password: Some(Bytes::from_static(b"pw")),
            properties: ConnectProperties {
                session_expiry_secs: Some(3600),
                receive_maximum: Some(20),
                packet_bytes_max: Some(65536),
                topic_alias_maximum: Some(10),
                request_response_information: Some(true),
                request_problem_information: Some(false),
                user_properties: vec![(text("k"), text("v")), (text("k"), text("w"))],
                authentication_method: Some(text("GSS")),
                authentication_data: Some(Bytes::from_static(b"\0\x01")),
            },
            ..plain_connect(V5)
        },
    );

    // Section 3.1 of 3.1: the end of the packet takes precedence over the flags.
    all.push(unusual(entry(
        "CONNECT of 3.1 with the user name flag and no user name",
        V31,
        Side::Server,
        Place::First,
        framed(0x10, b"\0\x06MQIsdp\x03\xC2\0\x3C\0\x01c"),
        Packet::Connect(Box::new(plain_connect(V31))),
    )));
    // 3.1 does not use bit 0 of its connect flags, nor those of a will where there is none.
    for flags in [0x03, 0x0A, 0x1A, 0x22, 0x3B] {
        let body = [b"\0\x06MQIsdp\x03".as_slice(), &[flags], b"\0\x3C\0\x01c"].concat();
        all.push(unusual(entry(
            "CONNECT of 3.1 with flags that say nothing",
            V31,
            Side::Server,
            Place::First,
            framed(0x10, &body),
            Packet::Connect(Box::new(plain_connect(V31))),
        )));
    }
    // 3.1.1 does not ask for the shortest form, and some modems write four bytes always.
    all.push(unusual(entry(
        "CONNECT of 3.1.1 with a remaining length of four bytes",
        V311,
        Side::Server,
        Place::First,
        Bytes::from_static(b"\x10\x8D\x80\x80\0\0\x04MQTT\x04\x02\0\x3C\0\x01c"),
        Packet::Connect(Box::new(plain_connect(V311))),
    )));
}

fn connack(all: &mut Vec<Valid>) {
    let mut add = |name, version, body: &[u8], connack: ConnAck| {
        let packet = Packet::ConnAck(Box::new(connack));
        all.push(entry(
            name,
            version,
            Side::Client,
            Place::First,
            framed(0x20, body),
            packet,
        ));
    };
    let refusal = |reason| ConnAck {
        reason,
        ..ConnAck::default()
    };
    for version in [V31, V311] {
        add("CONNACK that accepts", version, b"\0\0", ConnAck::default());
        add(
            "CONNACK with return code 1",
            version,
            b"\0\x01",
            refusal(ReasonCode::UnsupportedProtocolVersion),
        );
        add(
            "CONNACK with return code 2",
            version,
            b"\0\x02",
            refusal(ReasonCode::ClientIdentifierNotValid),
        );
        add(
            "CONNACK with return code 3",
            version,
            b"\0\x03",
            refusal(ReasonCode::ServerUnavailable),
        );
        add(
            "CONNACK with return code 4",
            version,
            b"\0\x04",
            refusal(ReasonCode::BadUserNameOrPassword),
        );
        add(
            "CONNACK with return code 5",
            version,
            b"\0\x05",
            refusal(ReasonCode::NotAuthorized),
        );
    }
    let resumed = ConnAck {
        session_present: true,
        ..ConnAck::default()
    };
    add(
        "CONNACK of 3.1.1 with session present",
        V311,
        b"\x01\0",
        resumed.clone(),
    );
    add("CONNACK of 5.0 that accepts", V5, b"\0\0\0", ConnAck::default());
    add("CONNACK of 5.0 with session present", V5, b"\x01\0\0", resumed);
    add(
        "CONNACK of 5.0 that refuses",
        V5,
        b"\0\x87\0",
        refusal(ReasonCode::NotAuthorized),
    );
    add(
        "CONNACK of 5.0 with everything",
        V5,
        b"\0\0\x49\x11\0\0\0\x0A\x21\0\x05\x24\x01\x25\0\x27\0\0\x10\0\x12\0\x04auto\x22\0\x03\x1F\0\x02ok\
          \x28\x01\x29\0\x2A\x01\x13\0\x1E\x1A\0\x04resp\x1C\0\x05other\x15\0\x03GSS\x16\0\x01\xFF\x26\0\x01k\0\x01v",
        ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties: ConnAckProperties {
                session_expiry_secs: Some(10),
                receive_maximum: Some(5),
                maximum_qos: Some(QoS::AtLeastOnce),
                retain_available: Some(false),
                packet_bytes_max: Some(4096),
                assigned_client_id: Some(client_id("auto")),
                topic_alias_maximum: Some(3),
                reason_string: Some(text("ok")),
                user_properties: vec![(text("k"), text("v"))],
                wildcard_available: Some(true),
                subscription_ids_available: Some(false),
                shared_available: Some(true),
                server_keep_alive_secs: Some(30),
                response_information: Some(text("resp")),
                server_reference: Some(text("other")),
                authentication_method: Some(text("GSS")),
                authentication_data: Some(Bytes::from_static(b"\xFF")),
            },
        },
    );
    all.push(unusual(entry(
        "CONNACK by which a server of 3.1.1 refuses 5.0",
        V5,
        Side::Client,
        Place::First,
        framed(0x20, b"\0\x01"),
        Packet::ConnAck(Box::new(refusal(ReasonCode::UnsupportedProtocolVersion))),
    )));
    all.push(unusual(entry(
        "CONNACK of 3.1 with something in the byte 3.1 does not use",
        V31,
        Side::Client,
        Place::First,
        framed(0x20, b"\xFF\0"),
        Packet::ConnAck(Box::default()),
    )));
}

/// A PUBLISH at QoS 0 to `a/b` that says `hi`.
pub fn plain_publish() -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic("a/b")),
        packet_id: None,
        payload: Bytes::from_static(b"hi"),
        properties: None,
    }
}

fn publish(all: &mut Vec<Valid>) {
    let at_least_once = Publish {
        qos: QoS::AtLeastOnce,
        packet_id: Some(packet_id(10)),
        ..plain_publish()
    };
    let exactly_once = Publish {
        qos: QoS::ExactlyOnce,
        packet_id: Some(packet_id(0xFFFF)),
        ..plain_publish()
    };
    for version in [V31, V311] {
        for side in [Side::Server, Side::Client] {
            let mut add = |name, first, body: &[u8], publish| {
                let packet = Packet::Publish(publish);
                all.push(entry(
                    name,
                    version,
                    side,
                    Place::Later,
                    framed(first, body),
                    packet,
                ));
            };
            add("PUBLISH at QoS 0", 0x30, b"\0\x03a/bhi", plain_publish());
            add(
                "PUBLISH at QoS 1",
                0x32,
                b"\0\x03a/b\0\x0Ahi",
                at_least_once.clone(),
            );
            add(
                "PUBLISH at QoS 2",
                0x34,
                b"\0\x03a/b\xFF\xFFhi",
                exactly_once.clone(),
            );
            add(
                "PUBLISH, repeated and retained, without payload",
                0x3B,
                b"\0\x03a/b\0\x0A",
                Publish {
                    dup: true,
                    retain: true,
                    payload: Bytes::new(),
                    ..at_least_once.clone()
                },
            );
        }
    }
    for side in [Side::Server, Side::Client] {
        let mut add = |name, first, body: &[u8], publish| {
            let packet = Packet::Publish(publish);
            all.push(entry(name, V5, side, Place::Later, framed(first, body), packet));
        };
        add("PUBLISH of 5.0 at QoS 0", 0x30, b"\0\x03a/b\0hi", plain_publish());
        add(
            "PUBLISH of 5.0 at QoS 1",
            0x32,
            b"\0\x03a/b\0\x0A\0hi",
            at_least_once.clone(),
        );
        add(
            "PUBLISH of 5.0 at QoS 2",
            0x34,
            b"\0\x03a/b\xFF\xFF\0hi",
            exactly_once.clone(),
        );
        add(
            "PUBLISH of 5.0 with a topic alias in place of the topic",
            0x30,
            b"\0\0\x03\x23\0\x07hi",
            Publish {
                topic: None,
                properties: Some(Box::new(PublishProperties {
                    topic_alias: Some(7),
                    ..PublishProperties::default()
                })),
                ..plain_publish()
            },
        );
        add(
            "PUBLISH of 5.0 with all that both ends may send",
            0x30,
            b"\0\x03a/b\x2C\x01\x01\x02\0\0\0\x1E\x08\0\x05reply\x09\0\x02\xFF\0\x03\0\x04text\
              \x26\0\x01k\0\x01v\x26\0\x01k\0\x01v\x23\xFF\xFFhi",
            Publish {
                properties: Some(Box::new(PublishProperties {
                    payload_is_utf8: Some(true),
                    message_expiry_secs: Some(30),
                    topic_alias: Some(0xFFFF),
                    response_topic: Some(topic("reply")),
                    correlation_data: Some(Bytes::from_static(b"\xFF\0")),
                    user_properties: vec![(text("k"), text("v")), (text("k"), text("v"))],
                    content_type: Some(text("text")),
                    ..PublishProperties::default()
                })),
                ..plain_publish()
            },
        );
    }
    all.push(from_server(
        "PUBLISH of 5.0 with subscription identifiers",
        V5,
        framed(0x30, b"\0\x03a/b\x0A\x0B\x01\x0B\xFF\xFF\xFF\x7F\x0B\x80\x01hi"),
        Packet::Publish(Publish {
            properties: Some(Box::new(PublishProperties {
                subscription_ids: smallvec![1, 268_435_455, 128],
                ..PublishProperties::default()
            })),
            ..plain_publish()
        }),
    ));
    all.push(from_client(
        "PUBLISH with a topic of many alphabets",
        V311,
        framed(0x30, "\0\u{16}дом/温度/🌡/\u{FEFF}".as_bytes()),
        Packet::Publish(Publish {
            topic: Some(topic("дом/温度/🌡/\u{FEFF}")),
            payload: Bytes::new(),
            ..plain_publish()
        }),
    ));
    all.push(from_client(
        "PUBLISH of 200 bytes, whose remaining length takes two",
        V311,
        framed(0x30, &[b"\0\x03a/b".as_slice(), &[0x55; 195]].concat()),
        Packet::Publish(Publish {
            payload: Bytes::from_static(&[0x55; 195]),
            ..plain_publish()
        }),
    ));
    all.push(unusual(from_client(
        "PUBLISH of 3.1.1 with a remaining length of two bytes where one would do",
        V311,
        Bytes::from_static(b"\x30\x87\0\0\x03a/bhi"),
        Packet::Publish(plain_publish()),
    )));
}

fn acks(all: &mut Vec<Valid>) {
    type Wrap = fn(Ack) -> Packet;
    let kinds: [(&str, u8, Wrap, u8, ReasonCode); 4] = [
        ("PUBACK", 0x40, Packet::PubAck, 0x97, ReasonCode::QuotaExceeded),
        (
            "PUBREC",
            0x50,
            Packet::PubRec,
            0x91,
            ReasonCode::PacketIdentifierInUse,
        ),
        (
            "PUBREL",
            0x62,
            Packet::PubRel,
            0x92,
            ReasonCode::PacketIdentifierNotFound,
        ),
        (
            "PUBCOMP",
            0x70,
            Packet::PubComp,
            0x92,
            ReasonCode::PacketIdentifierNotFound,
        ),
    ];
    for (name, first, wrap, code, reason) in kinds {
        for side in [Side::Server, Side::Client] {
            let id = packet_id(0x0102);
            for version in [V31, V311, V5] {
                let packet = wrap(Ack::success(id));
                all.push(entry(
                    name,
                    version,
                    side,
                    Place::Later,
                    framed(first, b"\x01\x02"),
                    packet,
                ));
            }
            let mut add = |body: &[u8], canonical, ack| {
                let packet = wrap(ack);
                let entry = entry(name, V5, side, Place::Later, framed(first, body), packet);
                all.push(Valid { canonical, ..entry });
            };
            add(b"\x01\x02\0", false, Ack::success(id));
            add(b"\x01\x02\0\0", false, Ack::success(id));
            add(&[1, 2, code], true, Ack::with_reason(id, reason));
            let properties = Some(Box::new(AckProperties {
                reason_string: Some(text("no")),
                user_properties: vec![(text("k"), text("v"))],
            }));
            let body = [&[1, 2, code][..], b"\x0C\x1F\0\x02no\x26\0\x01k\0\x01v"].concat();
            add(
                &body,
                true,
                Ack {
                    packet_id: id,
                    reason,
                    properties,
                },
            );
        }
    }
    all.push(from_server(
        "PUBACK that nobody subscribed",
        V5,
        framed(0x40, b"\0\x01\x10"),
        Packet::PubAck(Ack::with_reason(packet_id(1), ReasonCode::NoMatchingSubscribers)),
    ));
    // 3.1 has these three at QoS 1 and lets DUP be set; clients of its time also write other flags.
    for flags in [0x0A, 0x00, 0x03, 0x0B] {
        for (name, kind, body, packet) in [
            (
                "PUBREL of 3.1, repeated or with flags of its own",
                0x60,
                b"\0\x01".as_slice(),
                Packet::PubRel(Ack::success(packet_id(1))),
            ),
            (
                "SUBSCRIBE of 3.1, repeated or with flags of its own",
                0x80,
                b"\0\x01\0\x01a\0",
                Packet::Subscribe(Box::new(Subscribe {
                    packet_id: packet_id(1),
                    subscriptions: smallvec![plain_subscription("a", QoS::AtMostOnce)],
                    properties: SubscribeProperties::default(),
                })),
            ),
            (
                "UNSUBSCRIBE of 3.1, repeated or with flags of its own",
                0xA0,
                b"\0\x01\0\x01a",
                Packet::Unsubscribe(Box::new(Unsubscribe {
                    packet_id: packet_id(1),
                    filters: smallvec![filter("a")],
                    user_properties: Vec::new(),
                })),
            ),
        ] {
            all.push(unusual(from_client(
                name,
                V31,
                framed(kind | flags, body),
                packet,
            )));
        }
    }
}

/// A subscription with no option.
pub fn plain_subscription(text: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: filter(text),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn subscribe(all: &mut Vec<Valid>) {
    let packet = |subscriptions, properties| {
        Packet::Subscribe(Box::new(Subscribe {
            packet_id: packet_id(10),
            subscriptions,
            properties,
        }))
    };
    for version in [V31, V311] {
        all.push(from_client(
            "SUBSCRIBE to two",
            version,
            framed(0x82, b"\0\x0A\0\x03a/b\x01\0\x03c/#\x02"),
            packet(
                smallvec![
                    plain_subscription("a/b", QoS::AtLeastOnce),
                    plain_subscription("c/#", QoS::ExactlyOnce)
                ],
                SubscribeProperties::default(),
            ),
        ));
        let granted = smallvec![
            ReasonCode::Success,
            ReasonCode::GrantedQos1,
            ReasonCode::GrantedQos2,
            ReasonCode::UnspecifiedError
        ];
        all.push(from_server(
            "SUBACK with every return code",
            version,
            framed(0x90, b"\0\x0A\0\x01\x02\x80"),
            Packet::SubAck(Box::new(SubAck {
                packet_id: packet_id(10),
                reasons: granted,
                properties: None,
            })),
        ));
    }
    all.push(from_client(
        "SUBSCRIBE of 5.0",
        V5,
        framed(0x82, b"\0\x0A\0\0\x01#\0"),
        packet(
            smallvec![plain_subscription("#", QoS::AtMostOnce)],
            SubscribeProperties::default(),
        ),
    ));
    all.push(from_client(
        "SUBSCRIBE of 5.0 with every option",
        V5,
        framed(
            0x82,
            b"\0\x0A\x0A\x0B\x80\x01\x26\0\x01k\0\x01v\0\x01+\x04\0\x02/+\x09\0\x0C$share/g/+/a\x1A\0\x01b\x2E",
        ),
        packet(
            smallvec![
                Subscription { no_local: true, ..plain_subscription("+", QoS::AtMostOnce) },
                Subscription { retain_as_published: true, ..plain_subscription("/+", QoS::AtLeastOnce) },
                Subscription {
                    retain_as_published: true,
                    retain_handling: RetainHandling::SendIfNew,
                    ..plain_subscription("$share/g/+/a", QoS::ExactlyOnce)
                },
                Subscription {
                    no_local: true,
                    retain_as_published: true,
                    retain_handling: RetainHandling::DoNotSend,
                    ..plain_subscription("b", QoS::ExactlyOnce)
                },
            ],
            SubscribeProperties {
                subscription_id: Some(128),
                user_properties: vec![(text("k"), text("v"))],
            },
        ),
    ));
    all.push(from_server(
        "SUBACK of 5.0",
        V5,
        framed(0x90, b"\0\x0A\0\x01\x8F"),
        Packet::SubAck(Box::new(SubAck {
            packet_id: packet_id(10),
            reasons: smallvec![ReasonCode::GrantedQos1, ReasonCode::TopicFilterInvalid],
            properties: None,
        })),
    ));
    all.push(from_server(
        "SUBACK of 5.0 with properties",
        V5,
        framed(0x90, b"\0\x0A\x0C\x1F\0\x02no\x26\0\x01k\0\x01v\x87"),
        Packet::SubAck(Box::new(SubAck {
            packet_id: packet_id(10),
            reasons: smallvec![ReasonCode::NotAuthorized],
            properties: Some(Box::new(AckProperties {
                reason_string: Some(text("no")),
                user_properties: vec![(text("k"), text("v"))],
            })),
        })),
    ));
}

fn unsubscribe(all: &mut Vec<Valid>) {
    let packet = |user_properties| {
        Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: packet_id(10),
            filters: smallvec![filter("a/b"), filter("c/+")],
            user_properties,
        }))
    };
    let unsuback = |reasons, properties| {
        Packet::UnsubAck(Box::new(UnsubAck {
            packet_id: packet_id(10),
            reasons,
            properties,
        }))
    };
    for version in [V31, V311] {
        let bytes = framed(0xA2, b"\0\x0A\0\x03a/b\0\x03c/+");
        all.push(from_client(
            "UNSUBSCRIBE from two",
            version,
            bytes,
            packet(Vec::new()),
        ));
        let bytes = framed(0xB0, b"\0\x0A");
        all.push(from_server(
            "UNSUBACK",
            version,
            bytes,
            unsuback(smallvec![], None),
        ));
    }
    all.push(from_client(
        "UNSUBSCRIBE of 5.0",
        V5,
        framed(0xA2, b"\0\x0A\0\0\x03a/b\0\x03c/+"),
        packet(Vec::new()),
    ));
    all.push(from_client(
        "UNSUBSCRIBE of 5.0 with a user property",
        V5,
        framed(0xA2, b"\0\x0A\x07\x26\0\x01k\0\x01v\0\x03a/b\0\x03c/+"),
        packet(vec![(text("k"), text("v"))]),
    ));
    all.push(from_server(
        "UNSUBACK of 5.0",
        V5,
        framed(0xB0, b"\0\x0A\0\0\x11"),
        unsuback(
            smallvec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
            None,
        ),
    ));
    all.push(from_server(
        "UNSUBACK of 5.0 with a reason string",
        V5,
        framed(0xB0, b"\0\x0A\x05\x1F\0\x02no\x87\x87"),
        unsuback(
            smallvec![ReasonCode::NotAuthorized, ReasonCode::NotAuthorized],
            Some(Box::new(AckProperties {
                reason_string: Some(text("no")),
                ..AckProperties::default()
            })),
        ),
    ));
}

fn rest(all: &mut Vec<Valid>) {
    for version in [V31, V311, V5] {
        all.push(from_client(
            "PINGREQ",
            version,
            framed(0xC0, b""),
            Packet::PingReq,
        ));
        all.push(from_server(
            "PINGRESP",
            version,
            framed(0xD0, b""),
            Packet::PingResp,
        ));
        let disconnect = Packet::Disconnect(Box::default());
        all.push(from_client("DISCONNECT", version, framed(0xE0, b""), disconnect));
    }
    let disconnect = |reason, properties| Packet::Disconnect(Box::new(Disconnect { reason, properties }));
    let none = DisconnectProperties::default;
    all.push(from_client(
        "DISCONNECT that wants the will published",
        V5,
        framed(0xE0, b"\x04"),
        disconnect(ReasonCode::DisconnectWithWillMessage, none()),
    ));
    all.push(unusual(from_client(
        "DISCONNECT with an empty property section",
        V5,
        framed(0xE0, b"\0\0"),
        disconnect(ReasonCode::Success, none()),
    )));
    all.push(from_client(
        "DISCONNECT of a client with everything",
        V5,
        framed(0xE0, b"\0\x11\x11\0\0\0\x01\x1F\0\x02no\x26\0\x01k\0\x01v"),
        disconnect(
            ReasonCode::Success,
            DisconnectProperties {
                session_expiry_secs: Some(1),
                reason_string: Some(text("no")),
                user_properties: vec![(text("k"), text("v"))],
                server_reference: None,
            },
        ),
    ));
    all.push(from_server(
        "DISCONNECT of a server with everything",
        V5,
        framed(0xE0, b"\x9D\x14\x1F\0\x02no\x1C\0\x05other\x26\0\x01k\0\x01v"),
        disconnect(
            ReasonCode::ServerMoved,
            DisconnectProperties {
                session_expiry_secs: None,
                reason_string: Some(text("no")),
                user_properties: vec![(text("k"), text("v"))],
                server_reference: Some(text("other")),
            },
        ),
    ));
    let auth = |reason, properties| Packet::Auth(Box::new(Auth { reason, properties }));
    let method = || AuthProperties {
        authentication_method: Some(text("GSS")),
        ..AuthProperties::default()
    };
    let exchange = framed(
        0xF0,
        b"\x18\x14\x15\0\x03GSS\x16\0\x02\0\xFF\x1F\0\x01r\x26\0\0\0\0",
    );
    let everything = AuthProperties {
        authentication_data: Some(Bytes::from_static(b"\0\xFF")),
        reason_string: Some(text("r")),
        user_properties: vec![(text(""), text(""))],
        ..method()
    };
    let packet = auth(ReasonCode::ContinueAuthentication, everything);
    all.push(from_client(
        "AUTH of a client",
        V5,
        exchange.clone(),
        packet.clone(),
    ));
    all.push(from_server(
        "AUTH of a server",
        V5,
        exchange.clone(),
        packet.clone(),
    ));
    all.push(entry(
        "AUTH before CONNACK",
        V5,
        Side::Client,
        Place::First,
        exchange,
        packet,
    ));
    all.push(from_client(
        "AUTH that starts again",
        V5,
        framed(0xF0, b"\x19\x06\x15\0\x03GSS"),
        auth(ReasonCode::Reauthenticate, method()),
    ));
    all.push(from_server(
        "AUTH in its shortest form",
        V5,
        framed(0xF0, b""),
        Packet::Auth(Box::default()),
    ));
}
