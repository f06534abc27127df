//! The small values every packet is made of, each a type of its own so that none is taken for another.

use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

/// A UTF-8 Encoded String (section 1.5.4): at most 65,535 bytes, well-formed, without U+0000.
///
/// Holds every other character as it came, U+FEFF at the front included [MQTT-1.5.4-3]. Cheap to clone; may share the
/// bytes of the packet it came in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Utf8String(ByteString);

/// Why bytes are not a UTF-8 Encoded String.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringError {
    /// Not well-formed UTF-8, surrogates included [MQTT-1.5.4-1].
    NotUtf8,
    /// Holds U+0000 [MQTT-1.5.4-2].
    HoldsNull,
    /// Longer than the 65,535 bytes its length field can say.
    TooLong,
}

impl Utf8String {
    /// Takes `bytes` as a string without copying them.
    ///
    /// # Errors
    /// [`StringError`] where section 1.5.4 forbids the content.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, StringError> {
        if bytes.len() > usize::from(u16::MAX) {
            return Err(StringError::TooLong);
        }
        let text = ByteString::try_from(bytes).map_err(|_| StringError::NotUtf8)?; // [MQTT-1.5.4-1]
        if text.as_bytes().contains(&0) {
            return Err(StringError::HoldsNull); // [MQTT-1.5.4-2]
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes behind the text, shared rather than copied.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// A copy that owns exactly its own bytes, for text that outlives the packet it came in.
    pub fn detached(&self) -> Self {
        Self(ByteString::from(self.as_str()))
    }
}

impl TryFrom<&str> for Utf8String {
    type Error = StringError;

    fn try_from(text: &str) -> Result<Self, StringError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Utf8String {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Utf8String {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for StringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "not well-formed UTF-8",
            Self::HoldsNull => "holds the character U+0000",
            Self::TooLong => "longer than 65535 bytes",
        })
    }
}

impl std::error::Error for StringError {}

/// A Client Identifier (section 3.1.3.1): 1 to 65,535 bytes of UTF-8.
///
/// The empty identifier, by which a client asks the server for one, is `None` where it may occur.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Utf8String);

impl ClientId {
    /// Takes `text` as a client identifier; the empty string is none.
    pub fn new(text: Utf8String) -> Option<Self> {
        (!text.as_str().is_empty()).then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as the string the wire carries.
    pub fn as_utf8(&self) -> &Utf8String {
        &self.0
    }

    /// A copy that owns exactly its own bytes.
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A Packet Identifier (section 2.2.1): 1 to 65,535, never 0 [MQTT-2.2.1-3].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The first identifier.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// Takes `value` as an identifier; 0 is none.
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The identifier after this one; after 65,535 comes 1.
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(next) => Self(next),
            None => Self::MIN,
        }
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The Quality of Service of a delivery (section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// 0: sent once, never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// 1: resent until acknowledged; may arrive twice.
    AtLeastOnce = 1,
    /// 2: arrives once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Reads the two bits of the wire; 3 is none [MQTT-3.3.1-4].
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl fmt::Display for QoS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&(*self as u8), f)
    }
}

/// The Protocol Version of CONNECT (section 3.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// `MQIsdp`, level 3.
    V31 = 3,
    /// `MQTT`, level 4.
    V311 = 4,
    /// `MQTT`, level 5.
    V5 = 5,
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}
