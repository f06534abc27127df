//! Bytes to packets: incremental, strict, and bounded before it allocates.

use bytes::Bytes;

use super::ids::ProtocolVersion;
use super::packet::Packet;
use super::reason::ReasonCode;

/// Turns the bytes of one connection, split anywhere, into packets.
#[derive(Debug)]
pub struct Decoder {
    version: Option<ProtocolVersion>,
}

/// Which end of the connection the decoder reads for: some packets and properties go one way only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Reads what clients send; the first packet must be CONNECT [MQTT-3.1.0-1].
    Server,
    /// Reads what servers send.
    Client,
}

/// Why bytes are no packet; one variant for each rule of the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {}

impl Decoder {
    /// A decoder for the server's end; learns the version from CONNECT.
    pub fn server(packet_bytes_max: u32) -> Self {
        let _ = packet_bytes_max;
        todo!()
    }

    /// A decoder for the client's end, which knows the version it asked for.
    pub fn client(version: ProtocolVersion, packet_bytes_max: u32) -> Self {
        let _ = packet_bytes_max;
        Self { version: Some(version) }
    }

    /// The version in force; `None` until the server's end has read a CONNECT.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Changes the largest packet accepted from here on, in bytes with its fixed header.
    pub fn set_packet_bytes_max(&mut self, packet_bytes_max: u32) {
        let _ = packet_bytes_max;
    }

    /// Takes the next bytes of the connection; packets that lie whole in `bytes` will share them.
    pub fn feed(&mut self, bytes: Bytes) {
        let _ = bytes;
    }

    /// The next whole packet, or `None` until more bytes are fed.
    ///
    /// When it returns `None` the decoder holds no reference to what was fed: the head of an unfinished packet is
    /// copied into a buffer of its own, so the caller's read buffer is free again.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection must then be closed, and every further call returns the same error.
    pub fn poll_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        todo!()
    }
}

impl DecodeError {
    /// What the peer is told, in CONNACK before it is connected and in DISCONNECT after.
    pub fn reason(self) -> ReasonCode {
        todo!()
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl std::error::Error for DecodeError {}
