//! Reads the data types of section 1.5 off the body of one packet.

use bytes::Bytes;

use super::DecodeError;
use crate::mqtt::ids::{PacketId, StringError, Utf8String};
use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

/// What is left of a packet's body; strings and binary data share the packet's bytes.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    packet: &'a Bytes,
    rest: &'a [u8],
}

/// A Variable Byte Integer (section 1.5.5) as it stood on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VarInt {
    pub(super) value: u32,
    /// How many bytes it took, 1 to 4.
    pub(super) len: usize,
    /// Whether fewer bytes could not have said it [MQTT-1.5.5-1].
    pub(super) minimal: bool,
}

impl VarInt {
    /// Reads one off the front of `bytes`; `None` until its last byte is there.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut value = 0;
        for (index, &byte) in bytes.iter().take(4).enumerate() {
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self {
                    value,
                    len: index + 1,
                    minimal: byte != 0 || index == 0,
                }));
            }
        }
        if bytes.len() >= 4 {
            Err(DecodeError::VarIntTooLong)
        } else {
            Ok(None)
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads `packet` from the byte `from` on, where its body begins.
    pub(super) fn new(packet: &'a Bytes, from: usize) -> Self {
        Self {
            packet,
            rest: packet.get(from..).unwrap_or_default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Confirms that the body holds nothing more than was read.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A Variable Byte Integer inside a packet, which only 5.0 has.
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let read = VarInt::read(self.rest)?.ok_or(DecodeError::Truncated)?;
        if !read.minimal {
            return Err(DecodeError::VarIntNotMinimal); // [MQTT-1.5.5-1]
        }
        self.take(read.len)?;
        Ok(read.value)
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero) // [MQTT-2.2.1-3]
    }

    /// The next `len` bytes, as a reader of their own.
    pub(super) fn section(&mut self, len: u32) -> Result<Self, DecodeError> {
        let len = usize::try_from(len).map_err(|_| DecodeError::Truncated)?;
        Ok(Self {
            packet: self.packet,
            rest: self.take(len)?,
        })
    }

    /// Binary Data (section 1.5.6), borrowed.
    pub(super) fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Binary Data (section 1.5.6).
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let raw = self.raw()?;
        Ok(self.packet.slice_ref(raw))
    }

    pub(super) fn string(&mut self) -> Result<Utf8String, DecodeError> {
        Utf8String::from_bytes(self.binary()?).map_err(|error| match error {
            StringError::NotUtf8 => DecodeError::StringNotUtf8, // [MQTT-1.5.4-1]
            StringError::HoldsNull => DecodeError::StringHoldsNull, // [MQTT-1.5.4-2]
            StringError::TooLong => DecodeError::Truncated,
        })
    }

    /// A UTF-8 String Pair (section 1.5.7): both by the rules of a string [MQTT-1.5.7-1].
    pub(super) fn string_pair(&mut self) -> Result<(Utf8String, Utf8String), DecodeError> {
        Ok((self.string()?, self.string()?))
    }

    pub(super) fn topic_name(&mut self) -> Result<TopicName, DecodeError> {
        self.optional_topic_name()?.ok_or(DecodeError::TopicEmpty) // [MQTT-4.7.3-1]
    }

    /// A topic name, or `None` for the empty string that a topic alias may stand for.
    pub(super) fn optional_topic_name(&mut self) -> Result<Option<TopicName>, DecodeError> {
        match TopicName::parse(self.string()?) {
            Ok(topic) => Ok(Some(topic)),
            Err(TopicError::Empty) => Ok(None),
            Err(_) => Err(DecodeError::TopicHoldsWildcard), // [MQTT-3.3.2-2]
        }
    }

    pub(super) fn topic_filter(&mut self) -> Result<TopicFilter, DecodeError> {
        TopicFilter::parse(self.string()?).map_err(DecodeError::FilterInvalid)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_byte_integer_reads_as_table_1_1_says() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x80, 0x01], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xFF, 0xFF, 0x7F], 2_097_151),
            (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
            (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            assert_eq!(
                VarInt::read(bytes),
                Ok(Some(VarInt {
                    value,
                    len: bytes.len(),
                    minimal: true
                }))
            );
        }
        assert_eq!(VarInt::read(&[0xFF, 0xFF, 0xFF]), Ok(None));
        assert_eq!(
            VarInt::read(&[0xFF, 0xFF, 0xFF, 0xFF]),
            Err(DecodeError::VarIntTooLong)
        );
        assert_eq!(
            VarInt::read(&[0x80, 0x00]),
            Ok(Some(VarInt {
                value: 0,
                len: 2,
                minimal: false
            }))
        );
    }
}
