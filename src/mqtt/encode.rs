//! Packets to bytes.

use bytes::BytesMut;

use super::ids::ProtocolVersion;
use super::packet::Packet;

/// Appends `packet` to `out` as `version` writes it; leaves out what the version cannot say.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) {
    let _ = (packet, version, out);
    todo!()
}

/// The length in bytes, fixed header included, that [`encode`] would append.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> usize {
    let _ = (packet, version);
    todo!()
}
