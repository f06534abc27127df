//! The network between clients and gateway: bytes through the real codec, which may be cut anywhere, wait, get lost
//! with their connection, or never be read at the other end.

use bytes::BytesMut;
use tidegate::mqtt::{DecodeError, Decoder, Packet, ProtocolVersion, encode};

/// One connection, with what is on its way in both directions.
pub struct Connection {
    /// Which client opened it; a thief's is the client whose name it takes.
    pub client: usize,
    /// Written by the client, and not read by the gateway.
    up: BytesMut,
    /// Whether the client writes nothing more.
    up_ends: bool,
    /// Written by the gateway, and not read by the client.
    down: BytesMut,
    /// Whether the gateway writes nothing more: it has closed.
    pub down_ends: bool,
    /// The gateway's end.
    gateway: Decoder,
    /// The client's end; there is none once it is gone.
    reader: Option<Decoder>,
    version: ProtocolVersion,
    /// Whether the gateway has been asked not to read.
    pub paused: bool,
    /// Whether the broker still knows it.
    pub known: bool,
    /// Whether the broker is owed the word that everything is out.
    pub owes_flush: bool,
    /// Whether its client wrote what is no MQTT: all that follows may be taken for the rest of it.
    pub is_garbled: bool,
}

/// What the gateway reads.
pub enum Read {
    /// A whole packet.
    Packet(Packet),
    /// No MQTT.
    Malformed(Option<ProtocolVersion>, DecodeError),
    /// The end of the stream.
    End,
    /// All that has arrived was read, and the peer may still send.
    Nothing,
}

impl Connection {
    pub fn new(
        client: usize,
        version: ProtocolVersion,
        packet_bytes_max: u32,
        server_bytes_max: u32,
    ) -> Self {
        Self {
            client,
            up: BytesMut::new(),
            up_ends: false,
            down: BytesMut::new(),
            down_ends: false,
            gateway: Decoder::server(server_bytes_max),
            reader: Some(Decoder::client(version, packet_bytes_max)),
            version,
            paused: false,
            known: true,
            owes_flush: false,
            is_garbled: false,
        }
    }

    /// The client writes a packet.
    pub fn say(&mut self, packet: &Packet) {
        if !self.up_ends {
            encode(packet, self.version, &mut self.up);
        }
    }

    /// The client writes bytes that may be anything.
    pub fn say_bytes(&mut self, bytes: &[u8]) {
        if !self.up_ends {
            self.up.extend_from_slice(bytes);
            self.is_garbled = true;
        }
    }

    /// The client writes nothing more, and goes on reading.
    pub fn half_close(&mut self) {
        self.up_ends = true;
    }

    /// The client is gone: `kept` bytes that it wrote arrive all the same, what was written to it never does.
    pub fn abandon(&mut self, kept: usize) {
        self.up.truncate(kept);
        self.up_ends = true;
        self.reader = None;
        self.down.clear();
    }

    /// Whether its client is still there.
    pub fn has_client(&self) -> bool {
        self.reader.is_some()
    }

    /// Bytes on their way to the gateway.
    pub fn up_bytes(&self) -> usize {
        self.up.len()
    }

    /// Bytes on their way to the client.
    pub fn down_bytes(&self) -> usize {
        self.down.len()
    }

    /// Whether the gateway would find something to read.
    pub fn is_readable(&self) -> bool {
        self.known && !self.paused && (!self.up.is_empty() || self.up_ends)
    }

    /// The gateway takes up to `bytes_max` from the stream.
    pub fn carry_up(&mut self, bytes_max: usize) {
        let count = bytes_max.min(self.up.len());
        if count > 0 {
            self.gateway.feed(self.up.split_to(count).freeze());
        }
    }

    /// What the gateway reads next of what it has taken.
    pub fn read(&mut self) -> Read {
        if !self.known || self.paused {
            return Read::Nothing;
        }
        match self.gateway.poll_packet() {
            Ok(Some(packet)) => Read::Packet(packet),
            Ok(None) if self.up.is_empty() && self.up_ends => Read::End,
            Ok(None) => Read::Nothing,
            Err(error) => Read::Malformed(self.gateway.version(), error),
        }
    }

    /// The version the gateway answers in.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The gateway writes bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        self.owes_flush = true;
        if self.reader.is_some() {
            self.down.extend_from_slice(bytes);
        }
    }

    /// The client reads up to `bytes_max`; its packets, and whether the stream has ended.
    ///
    /// # Errors
    /// What a client cannot read.
    pub fn carry_down(&mut self, bytes_max: usize, packets: &mut Vec<Packet>) -> Result<bool, String> {
        let Some(reader) = &mut self.reader else {
            return Ok(false);
        };
        let count = bytes_max.min(self.down.len());
        if count > 0 {
            reader.feed(self.down.split_to(count).freeze());
            while let Some(packet) = (reader.poll_packet())
                .map_err(|error| format!("a {} client cannot read what it is sent: {error}", self.version))?
            {
                packets.push(packet);
            }
        }
        Ok(self.down_ends && self.down.is_empty())
    }

    /// Whether both ends are done with it.
    pub fn is_over(&self) -> bool {
        !self.known && (self.reader.is_none() || (self.down_ends && self.down.is_empty()))
    }
}
