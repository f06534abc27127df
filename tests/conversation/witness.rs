//! The other end of every link: whatever the broker sends has to be what the standard lets this client read.

use bytes::BytesMut;
use slotmap::SecondaryMap;
use tidegate::broker::{Input, LinkId, Output};
use tidegate::mqtt::{Decoder, Packet, ProtocolVersion, encode};

/// Reads what is sent on each link as its client would.
///
/// Its decoder refuses what a server may not send: a packet before CONNACK or a second one, reason codes and
/// properties that are not the packet's, more bytes than the client said it takes.
#[derive(Default)]
pub struct Witness {
    ends: SecondaryMap<LinkId, End>,
}

struct End {
    version: ProtocolVersion,
    decoder: Decoder,
    /// Whether CONNECT named an Authentication Method.
    authenticates: bool,
    closed: bool,
}

impl Witness {
    /// Learns from CONNECT what a client speaks and how much it takes.
    pub fn hear(&mut self, input: &Input) {
        let (link, version, packet_bytes_max, authenticates) = match input {
            Input::Received {
                link,
                packet: Packet::Connect(connect),
            } => {
                let properties = &connect.properties;
                let authenticates = properties.authentication_method.is_some();
                (*link, connect.version, properties.packet_bytes_max, authenticates)
            }
            Input::Malformed {
                link,
                version: Some(version),
                ..
            } => (*link, *version, None, false),
            _ => return,
        };
        if !self.ends.contains_key(link) {
            let end = End {
                version,
                decoder: Decoder::client(version, packet_bytes_max.unwrap_or(u32::MAX)),
                authenticates,
                closed: false,
            };
            self.ends.insert(link, end);
        }
    }

    /// Reads what one input brought.
    pub fn read(&mut self, outputs: &[Output]) {
        let mut farewells = Vec::new();
        for output in outputs {
            match output {
                Output::Send { link, packet } => {
                    let Some(end) = self.ends.get_mut(*link) else {
                        panic!("{packet:?} was sent to a client that had not said CONNECT")
                    };
                    assert!(
                        !end.closed && !farewells.contains(link),
                        "{packet:?} was sent after the end"
                    );
                    let mut bytes = BytesMut::new();
                    encode(packet, end.version, &mut bytes);
                    end.decoder.feed(bytes.freeze());
                    let read = end.decoder.poll_packet();
                    assert!(
                        matches!(read, Ok(Some(_))),
                        "the client cannot read {packet:?}: {read:?}"
                    );
                    let of_authentication = match packet {
                        Packet::Auth(_) => true,
                        Packet::ConnAck(connack) => connack.properties.authentication_method.is_some(),
                        _ => false,
                    };
                    assert!(
                        !of_authentication || end.authenticates,
                        "{packet:?} answers an authentication nobody began"
                    );
                    match packet {
                        Packet::Disconnect(_) => farewells.push(*link),
                        Packet::ConnAck(connack) if connack.reason.is_error() => farewells.push(*link),
                        _ => {}
                    }
                }
                Output::Close { link } => {
                    farewells.retain(|farewell| farewell != link);
                    if let Some(end) = self.ends.get_mut(*link) {
                        end.closed = true;
                    }
                }
                _ => {}
            }
        }
        assert_eq!(
            farewells,
            [],
            "a farewell was sent and the connection stayed open"
        );
    }
}
