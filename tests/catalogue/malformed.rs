//! Bytes that break a rule, each with the rule.

use bytes::Bytes;
use tidegate::mqtt::ProtocolVersion::{self, V5, V31, V311};
use tidegate::mqtt::decode::Side::{self, Client, Server};
use tidegate::mqtt::{DecodeError, TopicError};

use super::{Malformed, PACKET_BYTES_MAX, Place, framed};

/// Every malformed packet of the catalogue.
pub fn malformed() -> Vec<Malformed> {
    let mut all = Vec::new();
    framing(&mut all);
    order_and_direction(&mut all);
    connect(&mut all);
    connack(&mut all);
    publish(&mut all);
    acks(&mut all);
    subscribe(&mut all);
    rest(&mut all);
    properties(&mut all);
    strings(&mut all);
    announced(&mut all);
    all
}

fn entry(
    name: &'static str,
    (version, side, place): (ProtocolVersion, Side, Place),
    bytes: Bytes,
    error: DecodeError,
) -> Malformed {
    Malformed {
        name,
        version,
        side,
        place,
        bytes,
        error,
    }
}

/// What a client sends after its CONNECT.
fn later(version: ProtocolVersion) -> (ProtocolVersion, Side, Place) {
    (version, Server, Place::Later)
}

/// What a server sends after its CONNACK.
fn served(version: ProtocolVersion) -> (ProtocolVersion, Side, Place) {
    (version, Client, Place::Later)
}

fn framing(all: &mut Vec<Malformed>) {
    let mut add = |name, at, bytes: &'static [u8], error| {
        all.push(entry(name, at, Bytes::from_static(bytes), error));
    };
    for version in [V31, V311, V5] {
        add(
            "packet type 0",
            later(version),
            b"\0\0",
            DecodeError::ReservedPacketType,
        );
        add(
            "packet type 0 from a server",
            served(version),
            b"\0\0",
            DecodeError::ReservedPacketType,
        );
        add(
            "remaining length of five bytes",
            later(version),
            b"\x30\x80\x80\x80\x80\x01",
            DecodeError::VarIntTooLong,
        );
        add(
            "PUBLISH larger than accepted",
            later(version),
            b"\x30\xFE\x0F",
            DecodeError::PacketTooLarge,
        );
        add(
            "PUBLISH of 256 MiB",
            later(version),
            b"\x30\xFF\xFF\xFF\x7F",
            DecodeError::PacketTooLarge,
        );
    }
    const {
        assert!(
            PACKET_BYTES_MAX == 2048,
            "0xFE 0x0F is 2046 and three bytes of header"
        )
    };
    let first = (V5, Server, Place::First);
    add(
        "CONNECT of 256 MiB",
        first,
        b"\x10\xFF\xFF\xFF\x7F",
        DecodeError::PacketTooLarge,
    );
    add(
        "remaining length of 5.0 in two bytes where one would do",
        later(V5),
        b"\xC0\x80\0",
        DecodeError::VarIntNotMinimal,
    );
    add(
        "remaining length of a CONNECT of 5.0 in two bytes where one would do",
        first,
        b"\x10\x8E\0\0\x04MQTT\x05\x02\0\x3C\0\0\x01c",
        DecodeError::VarIntNotMinimal,
    );
    add(
        "property length of 5.0 in two bytes where one would do",
        later(V5),
        b"\x30\x07\0\x03a/b\x80\0",
        DecodeError::VarIntNotMinimal,
    );
    for version in [V311, V5] {
        for bytes in [
            b"\x31\0".as_slice(), // to be refused below, but for its flags a PUBLISH
            b"\x41\x02\0\x01",
            b"\x51\x02\0\x01",
            b"\x60\x02\0\x01",
            b"\x6A\x02\0\x01",
            b"\x72\x02\0\x01",
            b"\x80\x06\0\x01\0\x01a\0",
            b"\x8A\x06\0\x01\0\x01a\0",
            b"\xA0\x05\0\x01\0\x01a",
            b"\xAA\x05\0\x01\0\x01a",
            b"\xC1\0",
            b"\xE8\0",
        ] {
            let (name, error) = match bytes {
                b"\x31\0" => ("PUBLISH with nothing in it", DecodeError::Truncated),
                _ => (
                    "flags that the packet does not have",
                    DecodeError::FixedHeaderFlags,
                ),
            };
            add(name, later(version), bytes, error);
        }
        add(
            "flags that SUBACK does not have",
            served(version),
            b"\x92\0",
            DecodeError::FixedHeaderFlags,
        );
        add(
            "flags that PINGRESP does not have",
            served(version),
            b"\xD1\0",
            DecodeError::FixedHeaderFlags,
        );
    }
    add(
        "flags that CONNECT does not have",
        first,
        b"\x11\0",
        DecodeError::FixedHeaderFlags,
    );
    add(
        "flags that CONNACK does not have",
        (V5, Client, Place::First),
        b"\x28\0",
        DecodeError::FixedHeaderFlags,
    );
    add(
        "flags that AUTH does not have",
        later(V5),
        b"\xF1\0",
        DecodeError::FixedHeaderFlags,
    );
}

fn order_and_direction(all: &mut Vec<Malformed>) {
    let mut add = |name, at, bytes: &'static [u8], error| {
        all.push(entry(name, at, Bytes::from_static(bytes), error));
    };
    for (name, bytes) in [
        ("PUBLISH before CONNECT", b"\x30\x07\0\x03a/bhi".as_slice()),
        ("AUTH before CONNECT", b"\xF0\0"),
        ("a request of HTTP", b"GET / HTTP/1.1\r\n"),
    ] {
        add(
            name,
            (V5, Server, Place::First),
            bytes,
            DecodeError::FirstPacketNotConnect,
        );
    }
    for version in [V31, V311, V5] {
        add(
            "second CONNECT",
            later(version),
            b"\x10\0",
            DecodeError::SecondConnect,
        );
        add(
            "second CONNACK",
            served(version),
            b"\x20\x03\0\0\0",
            DecodeError::SecondConnAck,
        );
        add(
            "PUBLISH before CONNACK",
            (version, Client, Place::First),
            b"\x30\x07\0\x03a/bhi",
            DecodeError::FirstPacketNotConnAck,
        );
        for bytes in [
            b"\x20\x03\0\0\0".as_slice(),
            b"\x90\x03\0\x01\0",
            b"\xB0\x02\0\x01",
            b"\xD0\0",
        ] {
            add(
                "packet of servers from a client",
                later(version),
                bytes,
                DecodeError::WrongDirection,
            );
        }
        for bytes in [
            b"\x10\0".as_slice(),
            b"\x82\x06\0\x01\0\x01a\0",
            b"\xA2\x05\0\x01\0\x01a",
            b"\xC0\0",
        ] {
            add(
                "packet of clients from a server",
                served(version),
                bytes,
                DecodeError::WrongDirection,
            );
        }
    }
    for version in [V31, V311] {
        add(
            "AUTH before 5.0",
            later(version),
            b"\xF0\0",
            DecodeError::ReservedPacketType,
        );
        add(
            "AUTH before 5.0 from a server",
            served(version),
            b"\xF0\0",
            DecodeError::ReservedPacketType,
        );
        add(
            "DISCONNECT before 5.0 from a server",
            served(version),
            b"\xE0\0",
            DecodeError::WrongDirection,
        );
        add(
            "AUTH before 5.0 in place of CONNACK",
            (version, Client, Place::First),
            b"\xF0\0",
            DecodeError::FirstPacketNotConnAck,
        );
    }
}

fn connect(all: &mut Vec<Malformed>) {
    let mut add = |name, version, body: &[u8], error| {
        all.push(entry(
            name,
            (version, Server, Place::First),
            framed(0x10, body),
            error,
        ));
    };
    for (name, body) in [
        (
            "protocol name in lower case",
            b"\0\x04mqtt\x04\x02\0\0\0\x01c".as_slice(),
        ),
        ("empty protocol name", b"\0\0\x04\x02\0\0\0\x01c"),
        (
            "protocol name with more to it",
            b"\0\x05MQTT5\x05\x02\0\0\0\0\x01c",
        ),
    ] {
        add(name, V311, body, DecodeError::UnknownProtocolName);
    }
    for (level, name, body) in [
        (0, "level 0", b"\0\x04MQTT\0\x02\0\0\0\x01c".as_slice()),
        (
            3,
            "level 3 with the name of 3.1.1",
            b"\0\x04MQTT\x03\x02\0\0\0\x01c",
        ),
        (6, "level 6", b"\0\x04MQTT\x06\x02\0\0\0\0\x01c"),
        (0x85, "a bridge of 5.0", b"\0\x04MQTT\x85\x02\0\0\0\0\x01c"),
        (
            4,
            "level 4 with the name of 3.1",
            b"\0\x06MQIsdp\x04\x02\0\0\0\x01c",
        ),
    ] {
        add(name, V311, body, DecodeError::UnsupportedProtocolLevel(level));
    }
    for (version, name, properties) in [
        (V31, b"\0\x06MQIsdp\x03".as_slice(), b"".as_slice()),
        (V311, b"\0\x04MQTT\x04", b""),
        (V5, b"\0\x04MQTT\x05", b"\0"),
    ] {
        let body = |flags: u8, rest: &[u8]| [name, &[flags, 0, 60], properties, b"\0\x01c", rest].concat();
        if version != V31 {
            for (name, flags, error) in [
                ("reserved connect flag", 0x03, DecodeError::ConnectReservedFlag),
                ("will QoS 3 without a will", 0x1A, DecodeError::WillQosThree),
                ("will QoS without a will", 0x0A, DecodeError::WillFlagsWithoutWill),
                (
                    "will retain without a will",
                    0x22,
                    DecodeError::WillFlagsWithoutWill,
                ),
            ] {
                add(name, version, &body(flags, b""), error);
            }
        }
        add(
            "will QoS 3",
            version,
            &body(0x1E, b"\0\x01w\0\0"),
            DecodeError::WillQosThree,
        );
        add(
            "will flag without a will",
            version,
            &body(0x06, b""),
            DecodeError::Truncated,
        );
        add(
            "CONNECT that goes on",
            version,
            &body(0x02, b"\0"),
            DecodeError::TrailingBytes,
        );
        add(
            "CONNECT with a user name nobody announced",
            version,
            &body(0x02, b"\0\x01u"),
            DecodeError::TrailingBytes,
        );
        add(
            "CONNECT with a password nobody announced",
            version,
            &body(0x82, b"\0\x01u\0\x01p"),
            DecodeError::TrailingBytes,
        );
        add(
            "CONNECT that ends in the user name",
            version,
            &body(0x82, b"\0\x05u"),
            DecodeError::Truncated,
        );
        add(
            "user name with a surrogate",
            version,
            &body(0x82, b"\0\x03\xED\xA0\x80"),
            DecodeError::StringNotUtf8,
        );
        add(
            "user name with U+0000",
            version,
            &body(0x82, b"\0\x02a\0"),
            DecodeError::StringHoldsNull,
        );
        let no_properties: &[u8] = if version == V5 { b"\0" } else { b"" };
        let will = |topic: &[u8]| [no_properties, topic, b"\0\0"].concat();
        let (empty, wildcard) = (&will(b"\0\0"), &will(b"\0\x03a/#"));
        add(
            "will with an empty topic",
            version,
            &body(0x06, empty),
            DecodeError::TopicEmpty,
        );
        add(
            "will with a wildcard in its topic",
            version,
            &body(0x06, wildcard),
            DecodeError::TopicHoldsWildcard,
        );
        add(
            "will with a topic that is no UTF-8",
            version,
            &body(0x06, &will(b"\0\x02a\xFF")),
            DecodeError::StringNotUtf8,
        );
        if version != V5 {
            add(
                "password without user name",
                version,
                &body(0x42, b"\0\x01p"),
                DecodeError::PasswordWithoutUserName,
            );
            if version != V31 {
                add(
                    "CONNECT without the user name it announced",
                    version,
                    &body(0x82, b""),
                    DecodeError::Truncated,
                );
                add(
                    "CONNECT without the password it announced",
                    version,
                    &body(0xC2, b"\0\x01u"),
                    DecodeError::Truncated,
                );
            }
        }
    }
    add("CONNECT with nothing in it", V311, b"", DecodeError::Truncated);
    add(
        "CONNECT without a client identifier field",
        V311,
        b"\0\x04MQTT\x04\x02\0\0",
        DecodeError::Truncated,
    );
    add(
        "client identifier with U+0000",
        V311,
        b"\0\x04MQTT\x04\x02\0\0\0\x01\0",
        DecodeError::StringHoldsNull,
    );
    add(
        "client identifier that is no UTF-8",
        V311,
        b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF",
        DecodeError::StringNotUtf8,
    );
    add(
        "properties longer than CONNECT",
        V5,
        b"\0\x04MQTT\x05\x02\0\0\x7F\0\x01c",
        DecodeError::Truncated,
    );
}

fn connack(all: &mut Vec<Malformed>) {
    let mut add = |name, version, body: &[u8], error| {
        all.push(entry(
            name,
            (version, Client, Place::First),
            framed(0x20, body),
            error,
        ));
    };
    for version in [V311, V5] {
        let end: &[u8] = if version == V5 { b"\0" } else { b"" };
        let body = |flags: u8, code: u8| [&[flags, code], end].concat();
        add(
            "reserved acknowledge flag",
            version,
            &body(2, 0),
            DecodeError::ConnAckReservedFlag,
        );
        let refusal = if version == V5 { 0x87 } else { 5 };
        add(
            "refusal with session present",
            version,
            &body(1, refusal),
            DecodeError::SessionPresentOnRefusal,
        );
        add(
            "CONNACK that goes on",
            version,
            &[&body(0, 0)[..], &[0]].concat(),
            DecodeError::TrailingBytes,
        );
        add("CONNACK of one byte", version, &[0], DecodeError::Truncated);
    }
    for version in [V31, V311] {
        add(
            "return code 6",
            version,
            &[0, 6],
            DecodeError::ReasonCodeNotAllowed(6),
        );
        add(
            "reason code of 5.0 in a return code",
            version,
            &[0, 0x87],
            DecodeError::ReasonCodeNotAllowed(0x87),
        );
    }
    for code in [0x01, 0x8B, 0x8E, 0x92, 0x94, 0xFF] {
        add(
            "reason code that CONNACK does not have",
            V5,
            &[0, code, 0],
            DecodeError::ReasonCodeNotAllowed(code),
        );
    }
    add(
        "CONNACK of 5.0 without a property section",
        V5,
        &[0, 0],
        DecodeError::Truncated,
    );
}

fn publish(all: &mut Vec<Malformed>) {
    for version in [V31, V311, V5] {
        for at in [later(version), served(version)] {
            let mut add = |name, first, body: &[u8], error| {
                all.push(entry(name, at, framed(first, body), error));
            };
            add(
                "PUBLISH at QoS 3",
                0x36,
                b"\0\x03a/b\0\x0A\0hi",
                DecodeError::QosThree,
            );
            add("DUP at QoS 0", 0x38, b"\0\x03a/b\0hi", DecodeError::DupAtQosZero);
            add(
                "PUBLISH with packet identifier 0",
                0x32,
                b"\0\x03a/b\0\0\0hi",
                DecodeError::PacketIdZero,
            );
            add(
                "PUBLISH without its packet identifier",
                0x32,
                b"\0\x03a/b\0",
                DecodeError::Truncated,
            );
            add(
                "PUBLISH that ends in its topic",
                0x30,
                b"\0\x09a/b\0hi",
                DecodeError::Truncated,
            );
            add("PUBLISH to no topic", 0x30, b"\0\0\0hi", DecodeError::TopicEmpty);
            add(
                "PUBLISH to #",
                0x30,
                b"\0\x03a/#\0hi",
                DecodeError::TopicHoldsWildcard,
            );
            add(
                "PUBLISH to +",
                0x30,
                b"\0\x03+/b\0hi",
                DecodeError::TopicHoldsWildcard,
            );
            add(
                "PUBLISH to U+0000",
                0x30,
                b"\0\x03a\0b\0hi",
                DecodeError::StringHoldsNull,
            );
            add(
                "PUBLISH to a byte that is no UTF-8",
                0x30,
                b"\0\x03a\xC0b\0hi",
                DecodeError::StringNotUtf8,
            );
            add(
                "PUBLISH to an overlong slash",
                0x30,
                b"\0\x03a\xC0\xAF\0hi",
                DecodeError::StringNotUtf8,
            );
        }
    }
}

fn acks(all: &mut Vec<Malformed>) {
    for (name, first, code) in [
        ("PUBACK", 0x40, 0x92),
        ("PUBREC", 0x50, 0x92),
        ("PUBREL", 0x62, 0x91),
        ("PUBCOMP", 0x70, 0x91),
    ] {
        for version in [V31, V311, V5] {
            all.push(entry(
                name,
                later(version),
                framed(first, b"\0\0"),
                DecodeError::PacketIdZero,
            ));
            all.push(entry(
                name,
                later(version),
                framed(first, b"\0"),
                DecodeError::Truncated,
            ));
            all.push(entry(
                name,
                later(version),
                framed(first, b""),
                DecodeError::Truncated,
            ));
        }
        for version in [V31, V311] {
            all.push(entry(
                name,
                later(version),
                framed(first, b"\0\x01\0"),
                DecodeError::TrailingBytes,
            ));
        }
        let mut add = |body: &[u8], error| all.push(entry(name, later(V5), framed(first, body), error));
        add(&[0, 1, code], DecodeError::ReasonCodeNotAllowed(code));
        add(&[0, 1, 0x18], DecodeError::ReasonCodeNotAllowed(0x18));
        add(b"\0\x01\0\x01", DecodeError::Truncated);
        add(b"\0\x01\0\0\0", DecodeError::TrailingBytes);
    }
    all.push(entry(
        "PUBACK of a client that nobody subscribed",
        later(V5),
        framed(0x40, b"\0\x01\x10"),
        DecodeError::ReasonCodeNotAllowed(0x10),
    ));
}

/// SUBSCRIBE and UNSUBSCRIBE whose last filter is none.
fn broken_filter(all: &mut Vec<Malformed>, version: ProtocolVersion, body: &[u8], error: DecodeError) {
    all.push(entry(
        "SUBSCRIBE with a filter that is none",
        later(version),
        framed(0x82, &[body, b"\0"].concat()),
        error,
    ));
    all.push(entry(
        "UNSUBSCRIBE with a filter that is none",
        later(version),
        framed(0xA2, body),
        error,
    ));
}

fn subscribe(all: &mut Vec<Malformed>) {
    for version in [V31, V311, V5] {
        let section: &[u8] = if version == V5 { b"\0" } else { b"" };
        let body = |id: u16, rest: &[u8]| [&id.to_be_bytes()[..], section, rest].concat();
        let mut add =
            |name, body: &[u8], error| all.push(entry(name, later(version), framed(0x82, body), error));
        add("SUBSCRIBE to nothing", &body(1, b""), DecodeError::NoFilter);
        add(
            "SUBSCRIBE with packet identifier 0",
            &body(0, b"\0\x01a\0"),
            DecodeError::PacketIdZero,
        );
        add(
            "SUBSCRIBE without options",
            &body(1, b"\0\x01a"),
            DecodeError::Truncated,
        );
        add(
            "SUBSCRIBE at QoS 3",
            &body(1, b"\0\x01a\x03"),
            DecodeError::SubscriptionQosThree,
        );
        add(
            "reserved bit 6 of the options",
            &body(1, b"\0\x01a\x40"),
            DecodeError::SubscriptionOptionsReserved,
        );
        add(
            "reserved bit 7 of the options",
            &body(1, b"\0\x01a\x80"),
            DecodeError::SubscriptionOptionsReserved,
        );
        add(
            "the second filter is broken",
            &body(1, b"\0\x01a\0\0\x02b"),
            DecodeError::Truncated,
        );
        if version == V5 {
            add(
                "retain handling 3",
                &body(1, b"\0\x01a\x30"),
                DecodeError::RetainHandlingThree,
            );
            add(
                "no local on a shared subscription",
                &body(1, b"\0\x0A$share/g/a\x04"),
                DecodeError::NoLocalOnShared,
            );
        } else {
            add(
                "no local before 5.0",
                &body(1, b"\0\x01a\x04"),
                DecodeError::SubscriptionOptionsReserved,
            );
        }
        for (filter, error) in [
            (b"\0\0".as_slice(), TopicError::Empty),
            (b"\0\x02a#", TopicError::MisplacedHash),
            (b"\0\x03#/a", TopicError::MisplacedHash),
            (b"\0\x02a+", TopicError::MisplacedPlus),
            (b"\0\x09$share//a", TopicError::MalformedShare),
            (b"\0\x08$share/g", TopicError::MalformedShare),
        ] {
            let error = DecodeError::FilterInvalid(error);
            broken_filter(all, version, &body(1, filter), error);
        }
        for (filter, error) in [
            (b"\0\x02a\xFF".as_slice(), DecodeError::StringNotUtf8),
            (b"\0\x03\xED\xA0\x80", DecodeError::StringNotUtf8),
            (b"\0\x02a\0", DecodeError::StringHoldsNull),
        ] {
            broken_filter(all, version, &body(1, filter), error);
        }
        let mut add =
            |name, body: &[u8], error| all.push(entry(name, later(version), framed(0xA2, body), error));
        add("UNSUBSCRIBE from nothing", &body(1, b""), DecodeError::NoFilter);
        add(
            "UNSUBSCRIBE with packet identifier 0",
            &body(0, b"\0\x01a"),
            DecodeError::PacketIdZero,
        );
        add(
            "UNSUBSCRIBE that ends in its filter",
            &body(1, b"\0\x02a"),
            DecodeError::Truncated,
        );

        let mut add = |name, first, body: &[u8], error| {
            all.push(entry(name, served(version), framed(first, body), error))
        };
        add(
            "SUBACK without a reason code",
            0x90,
            &body(1, b""),
            DecodeError::NoReasonCode,
        );
        add(
            "SUBACK with packet identifier 0",
            0x90,
            &body(0, b"\0"),
            DecodeError::PacketIdZero,
        );
        add(
            "SUBACK with reason code 3",
            0x90,
            &body(1, b"\x03"),
            DecodeError::ReasonCodeNotAllowed(3),
        );
        add(
            "UNSUBACK with packet identifier 0",
            0xB0,
            &body(0, b"\0"),
            DecodeError::PacketIdZero,
        );
        if version == V5 {
            add(
                "UNSUBACK without a reason code",
                0xB0,
                &body(1, b""),
                DecodeError::NoReasonCode,
            );
            add(
                "UNSUBACK that grants QoS 1",
                0xB0,
                &body(1, b"\x01"),
                DecodeError::ReasonCodeNotAllowed(1),
            );
        } else {
            add(
                "SUBACK with a reason code of 5.0",
                0x90,
                &body(1, b"\x87"),
                DecodeError::ReasonCodeNotAllowed(0x87),
            );
            add(
                "UNSUBACK that goes on",
                0xB0,
                &body(1, b"\0"),
                DecodeError::TrailingBytes,
            );
        }
    }
}

fn rest(all: &mut Vec<Malformed>) {
    for version in [V31, V311, V5] {
        all.push(entry(
            "PINGREQ of one byte",
            later(version),
            framed(0xC0, b"\0"),
            DecodeError::TrailingBytes,
        ));
        all.push(entry(
            "PINGRESP of one byte",
            served(version),
            framed(0xD0, b"\0"),
            DecodeError::TrailingBytes,
        ));
        if version != V5 {
            let bytes = framed(0xE0, b"\0");
            all.push(entry(
                "DISCONNECT of one byte before 5.0",
                later(version),
                bytes,
                DecodeError::TrailingBytes,
            ));
        }
    }
    let mut add = |name, at, first, body: &[u8], error| all.push(entry(name, at, framed(first, body), error));
    for code in [0x01, 0x8B, 0x8E, 0x9D] {
        let error = DecodeError::ReasonCodeNotAllowed(code);
        add(
            "DISCONNECT of a client with a code that is not its own",
            later(V5),
            0xE0,
            &[code],
            error,
        );
    }
    for code in [0x04, 0x85, 0x91] {
        let error = DecodeError::ReasonCodeNotAllowed(code);
        add(
            "DISCONNECT of a server with a code that is not its own",
            served(V5),
            0xE0,
            &[code],
            error,
        );
    }
    add(
        "DISCONNECT that goes on",
        later(V5),
        0xE0,
        b"\0\0\0",
        DecodeError::TrailingBytes,
    );
    add(
        "AUTH of a client that says success",
        later(V5),
        0xF0,
        b"",
        DecodeError::ReasonCodeNotAllowed(0),
    );
    let success = b"\0\x06\x15\0\x03GSS";
    add(
        "AUTH of a client that says success in full",
        later(V5),
        0xF0,
        success,
        DecodeError::ReasonCodeNotAllowed(0),
    );
    let again = b"\x19\x06\x15\0\x03GSS";
    add(
        "AUTH of a server that starts again",
        served(V5),
        0xF0,
        again,
        DecodeError::ReasonCodeNotAllowed(0x19),
    );
    add(
        "AUTH without a method",
        later(V5),
        0xF0,
        b"\x18\0",
        DecodeError::AuthenticationMethodMissing,
    );
    add(
        "AUTH with data and no method",
        later(V5),
        0xF0,
        b"\x18\x03\x16\0\0",
        DecodeError::AuthenticationMethodMissing,
    );
    add(
        "AUTH without a property section",
        later(V5),
        0xF0,
        b"\x18",
        DecodeError::Truncated,
    );
}

fn properties(all: &mut Vec<Malformed>) {
    let section = |properties: &[u8]| {
        let len = u8::try_from(properties.len()).expect("short enough for one byte");
        assert!(len < 0x80, "short enough for one byte");
        [&[len], properties].concat()
    };
    let connect = |properties: &[u8]| {
        framed(
            0x10,
            &[b"\0\x04MQTT\x05\x02\0\x3C", &section(properties)[..], b"\0\x01c"].concat(),
        )
    };
    let connack = |properties: &[u8]| framed(0x20, &[b"\0\0", &section(properties)[..]].concat());
    let publish = |properties: &[u8]| framed(0x30, &[b"\0\x03a/b", &section(properties)[..], b"hi"].concat());
    let will = |properties: &[u8]| {
        let body = [
            b"\0\x04MQTT\x05\x06\0\x3C\0\0\x01c",
            &section(properties)[..],
            b"\0\x01w\0\0",
        ]
        .concat();
        framed(0x10, &body)
    };
    let subscribe = |properties: &[u8]| {
        framed(
            0x82,
            &[b"\0\x01", &section(properties)[..], b"\0\x01a\0"].concat(),
        )
    };
    let unsubscribe =
        |properties: &[u8]| framed(0xA2, &[b"\0\x01", &section(properties)[..], b"\0\x01a"].concat());
    let puback = |properties: &[u8]| framed(0x40, &[b"\0\x01\0", &section(properties)[..]].concat());
    let disconnect = |properties: &[u8]| framed(0xE0, &[b"\0", &section(properties)[..]].concat());
    let auth = |properties: &[u8]| framed(0xF0, &[b"\x18", &section(properties)[..]].concat());
    let suback = |properties: &[u8]| framed(0x90, &[b"\0\x01", &section(properties)[..], b"\0"].concat());

    let first = (V5, Server, Place::First);
    let answer = (V5, Client, Place::First);
    let mut add = |name, at, bytes, error| all.push(entry(name, at, bytes, error));

    // Each property of one value, twice.
    for property in [
        b"\x11\0\0\0\x01".as_slice(),
        b"\x21\0\x01",
        b"\x27\0\0\0\x01",
        b"\x22\0\0",
        b"\x19\0",
        b"\x17\x01",
        b"\x15\0\0",
        b"\x16\0\0",
    ] {
        let twice = [property, property].concat();
        add(
            "property of CONNECT twice",
            first,
            connect(&twice),
            DecodeError::PropertyTwice(property[0]),
        );
    }
    for property in [
        b"\x11\0\0\0\x01".as_slice(),
        b"\x21\0\x01",
        b"\x24\0",
        b"\x25\0",
        b"\x27\0\0\0\x01",
        b"\x12\0\x01c",
        b"\x22\0\0",
        b"\x1F\0\0",
        b"\x28\0",
        b"\x29\0",
        b"\x2A\0",
        b"\x13\0\0",
        b"\x1A\0\0",
        b"\x1C\0\0",
        b"\x15\0\0",
        b"\x16\0\0",
    ] {
        let twice = [property, property].concat();
        add(
            "property of CONNACK twice",
            answer,
            connack(&twice),
            DecodeError::PropertyTwice(property[0]),
        );
    }
    for property in [
        b"\x01\0".as_slice(),
        b"\x02\0\0\0\0",
        b"\x23\0\x01",
        b"\x08\0\x01r",
        b"\x09\0\0",
        b"\x03\0\0",
    ] {
        let twice = [property, property].concat();
        add(
            "property of PUBLISH twice",
            later(V5),
            publish(&twice),
            DecodeError::PropertyTwice(property[0]),
        );
        if property[0] != 0x23 {
            add(
                "property of a will twice",
                first,
                will(&twice),
                DecodeError::PropertyTwice(property[0]),
            );
        }
    }
    let delay = b"\x18\0\0\0\0\x18\0\0\0\0";
    add(
        "will delay twice",
        first,
        will(delay),
        DecodeError::PropertyTwice(0x18),
    );
    add(
        "subscription identifier twice",
        later(V5),
        subscribe(b"\x0B\x01\x0B\x02"),
        DecodeError::PropertyTwice(0x0B),
    );
    add(
        "reason string of PUBACK twice",
        later(V5),
        puback(b"\x1F\0\0\x1F\0\0"),
        DecodeError::PropertyTwice(0x1F),
    );
    add(
        "reason string of SUBACK twice",
        served(V5),
        suback(b"\x1F\0\0\x1F\0\0"),
        DecodeError::PropertyTwice(0x1F),
    );
    let twice = disconnect(b"\x11\0\0\0\0\x11\0\0\0\0");
    add(
        "session expiry of DISCONNECT twice",
        later(V5),
        twice,
        DecodeError::PropertyTwice(0x11),
    );
    let twice = disconnect(b"\x1C\0\0\x1C\0\0");
    add(
        "server reference of DISCONNECT twice",
        served(V5),
        twice,
        DecodeError::PropertyTwice(0x1C),
    );
    add(
        "method of AUTH twice",
        later(V5),
        auth(b"\x15\0\0\x15\0\0"),
        DecodeError::PropertyTwice(0x15),
    );

    // What stands in no table, and what stands in another packet's.
    let unknown = DecodeError::PropertyUnknown(0x7F);
    let topic_alias = DecodeError::PropertyNotAllowed(0x23);
    for (at, bytes) in [
        (first, connect(b"\x7F\0")),
        (first, will(b"\x7F\0")),
        (answer, connack(b"\x7F\0")),
        (later(V5), publish(b"\x7F\0")),
        (later(V5), puback(b"\x7F\0")),
        (later(V5), subscribe(b"\x7F\0")),
        (later(V5), unsubscribe(b"\x7F\0")),
        (served(V5), suback(b"\x7F\0")),
        (later(V5), disconnect(b"\x7F\0")),
        (later(V5), auth(b"\x7F\0")),
    ] {
        add("property that no packet has", at, bytes, unknown);
    }
    for (at, bytes) in [
        (first, connect(b"\x23\0\x01")),
        (first, will(b"\x23\0\x01")),
        (answer, connack(b"\x23\0\x01")),
        (later(V5), puback(b"\x23\0\x01")),
        (later(V5), subscribe(b"\x23\0\x01")),
        (later(V5), unsubscribe(b"\x23\0\x01")),
        (served(V5), suback(b"\x23\0\x01")),
        (later(V5), disconnect(b"\x23\0\x01")),
        (later(V5), auth(b"\x23\0\x01")),
    ] {
        add("property of another packet", at, bytes, topic_alias);
    }
    add(
        "will delay in PUBLISH",
        later(V5),
        publish(b"\x18\0\0\0\0"),
        DecodeError::PropertyNotAllowed(0x18),
    );
    add(
        "subscription identifier in a will",
        first,
        will(b"\x0B\x01"),
        DecodeError::PropertyNotAllowed(0x0B),
    );
    add(
        "subscription identifier in UNSUBSCRIBE",
        later(V5),
        unsubscribe(b"\x0B\x01"),
        DecodeError::PropertyNotAllowed(0x0B),
    );
    let two_bytes = publish(b"\x81\x01");
    add(
        "property identifier of two bytes",
        later(V5),
        two_bytes,
        DecodeError::PropertyUnknown(129),
    );
    let not_minimal = publish(b"\x81\0\x01");
    add(
        "property identifier in two bytes where one would do",
        later(V5),
        not_minimal,
        DecodeError::VarIntNotMinimal,
    );

    // One way only.
    let id = DecodeError::PropertyWrongDirection(0x0B);
    add(
        "subscription identifier from a client",
        later(V5),
        publish(b"\x0B\x01"),
        id,
    );
    let expiry = DecodeError::PropertyWrongDirection(0x11);
    add(
        "session expiry from a server",
        served(V5),
        disconnect(b"\x11\0\0\0\0"),
        expiry,
    );
    let reference = DecodeError::PropertyWrongDirection(0x1C);
    add(
        "server reference from a client",
        later(V5),
        disconnect(b"\x1C\0\0"),
        reference,
    );

    // Values.
    for (property, value) in [
        (0x21, b"\x21\0\0".as_slice()),
        (0x27, b"\x27\0\0\0\0"),
        (0x19, b"\x19\x02"),
        (0x17, b"\x17\xFF"),
    ] {
        add(
            "value that CONNECT cannot have",
            first,
            connect(value),
            DecodeError::PropertyOutOfRange(property),
        );
    }
    for (property, value) in [
        (0x21, b"\x21\0\0".as_slice()),
        (0x24, b"\x24\x02"),
        (0x25, b"\x25\x02"),
        (0x27, b"\x27\0\0\0\0"),
        (0x28, b"\x28\x02"),
        (0x29, b"\x29\x02"),
        (0x2A, b"\x2A\x02"),
        (0x12, b"\x12\0\0"),
    ] {
        add(
            "value that CONNACK cannot have",
            answer,
            connack(value),
            DecodeError::PropertyOutOfRange(property),
        );
    }
    add(
        "payload format 2",
        later(V5),
        publish(b"\x01\x02"),
        DecodeError::PropertyOutOfRange(0x01),
    );
    add(
        "payload format 2 of a will",
        first,
        will(b"\x01\x02"),
        DecodeError::PropertyOutOfRange(0x01),
    );
    add(
        "topic alias 0",
        later(V5),
        publish(b"\x23\0\0"),
        DecodeError::TopicAliasZero,
    );
    add(
        "subscription identifier 0",
        later(V5),
        subscribe(b"\x0B\0"),
        DecodeError::PropertyOutOfRange(0x0B),
    );
    add(
        "subscription identifier 0 from a server",
        served(V5),
        publish(b"\x0B\0"),
        DecodeError::PropertyOutOfRange(0x0B),
    );
    let five = b"\x0B\x80\x80\x80\x80\x01";
    add(
        "subscription identifier of five bytes",
        later(V5),
        subscribe(five),
        DecodeError::VarIntTooLong,
    );
    add(
        "response topic with a wildcard",
        later(V5),
        publish(b"\x08\0\x01#"),
        DecodeError::ResponseTopicInvalid,
    );
    add(
        "empty response topic",
        later(V5),
        publish(b"\x08\0\0"),
        DecodeError::ResponseTopicInvalid,
    );
    add(
        "response topic of a will with a wildcard",
        first,
        will(b"\x08\0\x01+"),
        DecodeError::ResponseTopicInvalid,
    );
    add(
        "user property that is no UTF-8",
        later(V5),
        publish(b"\x26\0\x01k\0\x01\xFF"),
        DecodeError::StringNotUtf8,
    );
    add(
        "user property without a value",
        later(V5),
        publish(b"\x26\0\x01k"),
        DecodeError::Truncated,
    );
    add(
        "reason string with U+0000",
        later(V5),
        puback(b"\x1F\0\x01\0"),
        DecodeError::StringHoldsNull,
    );
    add(
        "property without its value",
        later(V5),
        publish(b"\x02\0\0"),
        DecodeError::Truncated,
    );
    let without_method = DecodeError::AuthenticationDataWithoutMethod;
    add(
        "authentication data without a method",
        first,
        connect(b"\x16\0\x01x"),
        without_method,
    );
    add(
        "authentication data without a method from a server",
        answer,
        connack(b"\x16\0\x01x"),
        without_method,
    );

    let alias_only = framed(0x30, b"\0\0\x02\x01\0hi");
    add(
        "PUBLISH to no topic and no alias",
        later(V5),
        alias_only,
        DecodeError::TopicEmpty,
    );
    let overrun = framed(0x30, b"\0\x03a/b\x7Fhi");
    add(
        "properties longer than PUBLISH",
        later(V5),
        overrun,
        DecodeError::Truncated,
    );

    let bomb = [&[0x83, 0x05][..], &b"\x26\0\x01k\0\x01v".repeat(94)[..645]].concat();
    let bomb = framed(0x30, &[b"\0\x03a/b", &bomb[..], b"\x00\x00hi"].concat());
    add(
        "PUBLISH with 94 user properties",
        later(V5),
        bomb,
        DecodeError::TooManyUserProperties,
    );
}

/// Each string of 5.0 that has a rule of its own to be one.
fn strings(all: &mut Vec<Malformed>) {
    let first = (V5, Server, Place::First);
    let connect = |flags: u8, rest: &[u8]| {
        let head = [b"\0\x04MQTT\x05".as_slice(), &[flags], b"\0\x3C\0"].concat();
        framed(0x10, &[&head, rest].concat())
    };
    for (name, at, bytes) in [
        (
            "client identifier of 5.0 that is no UTF-8",
            first,
            connect(0x02, b"\0\x01\xFF"),
        ),
        (
            "will topic that is no UTF-8",
            first,
            connect(0x06, b"\0\x01c\0\0\x02a\xFF\0\x01x"),
        ),
        (
            "user name of 5.0 that is no UTF-8",
            first,
            connect(0x82, b"\0\x01c\0\x02a\xFF"),
        ),
        (
            "response topic that is no UTF-8",
            later(V5),
            framed(0x30, b"\0\x03a/b\x05\x08\0\x02a\xFFhi"),
        ),
        (
            "content type that is no UTF-8",
            later(V5),
            framed(0x30, b"\0\x03a/b\x05\x03\0\x02a\xFFhi"),
        ),
        (
            "user property whose name is no UTF-8",
            later(V5),
            framed(0x30, b"\0\x03a/b\x07\x26\0\x01\xFF\0\x01vhi"),
        ),
        (
            "filter of SUBSCRIBE that is no UTF-8",
            later(V5),
            framed(0x82, b"\0\x01\0\0\x02a\xFF\0"),
        ),
        (
            "filter of UNSUBSCRIBE that is no UTF-8",
            later(V5),
            framed(0xA2, b"\0\x01\0\0\x02a\xFF"),
        ),
    ] {
        all.push(entry(name, at, bytes, DecodeError::StringNotUtf8));
    }
    all.push(entry(
        "filter with U+0000",
        later(V5),
        framed(0x82, b"\0\x01\0\0\x02a\0\0"),
        DecodeError::StringHoldsNull,
    ));
}

/// What the flags of a CONNECT of 5.0 announce and what follows.
fn announced(all: &mut Vec<Malformed>) {
    let mut add = |name, flags: u8, rest: &[u8], error| {
        let head = [b"\0\x04MQTT\x05".as_slice(), &[flags], b"\0\x3C\0"].concat();
        let bytes = framed(0x10, &[&head, rest].concat());
        all.push(entry(name, (V5, Server, Place::First), bytes, error));
    };
    let (cut, more) = (DecodeError::Truncated, DecodeError::TrailingBytes);
    add(
        "CONNECT of 5.0 without the user name it announced",
        0x82,
        b"\0\x01c",
        cut,
    );
    add("CONNECT without the password it announced", 0x42, b"\0\x01c", cut);
    add(
        "CONNECT with a password nobody announced",
        0x82,
        b"\0\x01c\0\x01u\0\x01p",
        more,
    );
    add("CONNECT without the will it announced", 0x06, b"\0\x01c", cut);
    add(
        "CONNECT with the will's topic and no payload",
        0x06,
        b"\0\x01c\0\0\x01w",
        cut,
    );
    add(
        "CONNECT with a will nobody announced",
        0x02,
        b"\0\x01c\0\0\x01w\0\x01x",
        more,
    );
    add("CONNECT of 5.0 without a client identifier field", 0x02, b"", cut);
}
