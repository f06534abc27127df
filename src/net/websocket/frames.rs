//! The frames of RFC 6455: taken off in place where bytes were read, and written before bytes that go out.
//!
//! ```text
//!  7 6 5 4 3 2 1 0   7 6 5 4 3 2 1 0
//! ┌─┬─────┬───────┐ ┌─┬─────────────┐ ┌────────────────────┐ ┌──────────┐ ┌─────────┐
//! │F│ 0 0 0│ opcode│ │M│ length      │ │ 126: 2, 127: 8 more│ │ M: 4, key│ │ payload │
//! └─┴─────┴───────┘ └─┴─────────────┘ └────────────────────┘ └──────────┘ └─────────┘
//! ```

use std::fmt;

/// Takes the frames off a byte stream and keeps what is not data: the last ping, and how the stream ended.
///
/// **Invariants**
/// 1. Nothing is held but the header of a frame or the payload of a control frame, at most 125 bytes, until the rest
///    of it comes: a data frame of any length passes through.
/// 2. Any split of the bytes gives the same payload, and the same end behind the same byte.
#[derive(Debug)]
pub(super) struct FrameReader {
    /// Whose frames these are.
    sender: Sender,
    header: heapless::Vec<u8, HEADER_BYTES_MAX, u8>,
    /// The payload of the present frame that has not come yet; `None` while its header has not.
    payload_left: Option<u64>,
    mask: [u8; 4],
    kind: Kind,
    /// Whether the next data frame must continue a message.
    is_in_message: bool,
    /// What came of a control frame.
    control: Vec<u8>,
    ping: Option<Vec<u8>>,
    end: Option<End>,
}

/// The end of a connection that wrote a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Server,
}

/// How the frames of a peer came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By a close frame; this is the code to answer it with, `None` where it had none.
    Closed(Option<u16>),
    /// By a frame that must not be.
    Failed(FrameError),
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Text, which MQTT is not.
    Text,
    /// One of the three bits is set that belong to extensions, and none was agreed on.
    ReservedBits,
    /// An opcode the standard does not define.
    Opcode(u8),
    /// A client's frame without a mask, or a server's with one.
    Mask(bool),
    /// A length written in more bytes than it needs, or of 2^63 and more.
    Length,
    /// A control frame in fragments, or with more than 125 bytes.
    Control,
    /// A continuation of nothing.
    Continuation,
    /// A new message before the last one has ended.
    Interrupted,
}

/// The close code for: all is said (RFC 6455, section 7.4.1, as the other two).
pub(super) const CLOSE_NORMAL: u16 = 1000;
/// The close code for: that is no WebSocket.
const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// The close code for: that is no MQTT.
const CLOSE_UNSUPPORTED_DATA: u16 = 1003;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Continuation = 0x0,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// The longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

impl FrameReader {
    pub(super) fn new(sender: Sender) -> Self {
        Self {
            sender,
            header: heapless::Vec::new(),
            payload_left: None,
            mask: [0; 4],
            kind: Kind::Binary,
            is_in_message: false,
            control: Vec::new(),
            ping: None,
            end: None,
        }
    }

    /// Moves the payload of the data frames in `bytes` to their beginning and returns its length. What stands behind
    /// the end is left alone.
    pub(super) fn take_off(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() && self.end.is_none() {
            let Some(left) = self.payload_left else {
                if let Err(error) = self.take_header_byte(bytes[read]) {
                    self.end = Some(End::Failed(error));
                }
                read += 1;
                continue;
            };
            let here = usize::try_from(left).map_or(bytes.len() - read, |left| left.min(bytes.len() - read));
            let payload = &mut bytes[read..read + here];
            if self.sender == Sender::Client {
                apply_mask(payload, &mut self.mask);
            }
            if self.kind.is_control() {
                self.control.extend_from_slice(payload);
            } else {
                bytes.copy_within(read..read + here, kept);
                kept += here;
            }
            read += here;
            self.advance(left - here as u64);
        }
        kept
    }

    /// The payload of the last ping that was not taken yet. Of several only the last wants an answer (section 5.5.3),
    /// so that nobody can make pongs gather.
    pub(super) fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    pub(super) fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    fn take_header_byte(&mut self, byte: u8) -> Result<(), FrameError> {
        self.header
            .push(byte)
            .expect("a header that is whole is taken and cleared");
        match self.header.as_slice() {
            // Told by their first bytes, so that nobody waits for the rest of what is wrong already.
            [first] => self.check_first(*first),
            [_, second] => {
                self.check_second(*second)?;
                self.begin_when_whole()
            }
            _ => self.begin_when_whole(),
        }
    }

    fn check_first(&mut self, first: u8) -> Result<(), FrameError> {
        if first & RESERVED != 0 {
            return Err(FrameError::ReservedBits);
        }
        let is_last = first & FIN != 0;
        self.kind = match first & 0x0F {
            0x0 if self.is_in_message => Kind::Continuation,
            0x0 => return Err(FrameError::Continuation),
            0x1 | 0x2 if self.is_in_message => return Err(FrameError::Interrupted),
            0x1 => return Err(FrameError::Text), // [MQTT-6.0.0-1]
            0x2 => Kind::Binary,
            0x8 => Kind::Close,
            0x9 => Kind::Ping,
            0xA => Kind::Pong,
            opcode => return Err(FrameError::Opcode(opcode)),
        };
        match self.kind.is_control() {
            true if !is_last => Err(FrameError::Control),
            true => Ok(()),
            false => {
                self.is_in_message = !is_last;
                Ok(())
            }
        }
    }

    fn check_second(&self, second: u8) -> Result<(), FrameError> {
        let is_masked = second & MASKED != 0;
        if is_masked != (self.sender == Sender::Client) {
            return Err(FrameError::Mask(is_masked));
        }
        if self.kind.is_control() && u64::from(second & !MASKED) > CONTROL_BYTES_MAX {
            return Err(FrameError::Control);
        }
        Ok(())
    }

    fn begin_when_whole(&mut self) -> Result<(), FrameError> {
        let Some((&[_, second], rest)) = self.header.split_first_chunk() else {
            return Ok(());
        };
        let (length, mask) = match second & !MASKED {
            126 => match rest.split_first_chunk() {
                None => return Ok(()),
                Some((length, mask)) => (u64::from(u16::from_be_bytes(*length)), mask),
            },
            127 => match rest.split_first_chunk() {
                None => return Ok(()),
                Some((length, mask)) => (u64::from_be_bytes(*length), mask),
            },
            length => (u64::from(length), rest),
        };
        let is_minimal = match second & !MASKED {
            126 => length > CONTROL_BYTES_MAX,
            127 => length > u64::from(u16::MAX) && length >> 63 == 0,
            _ => true,
        };
        if !is_minimal {
            return Err(FrameError::Length);
        }
        if self.sender == Sender::Client {
            let Some((&mask, _)) = mask.split_first_chunk() else {
                return Ok(());
            };
            self.mask = mask;
        }
        self.header.clear();
        self.advance(length);
        Ok(())
    }

    /// Notes how much of the present frame's payload is still to come, and ends the frame where that is nothing.
    fn advance(&mut self, payload_left: u64) {
        if payload_left > 0 {
            self.payload_left = Some(payload_left);
            return;
        }
        self.payload_left = None;
        match self.kind {
            Kind::Ping => self.ping = Some(std::mem::take(&mut self.control)),
            Kind::Close => self.end = Some(End::Closed(answer_to_close(&self.control))),
            // Nobody asked for it, or it answers a ping that was asked over and over; both are in order.
            Kind::Pong => self.control = Vec::new(),
            Kind::Continuation | Kind::Binary => {}
        }
    }
}

/// The code that answers a close frame with this payload: the same, or that it is none (section 7.4).
fn answer_to_close(payload: &[u8]) -> Option<u16> {
    match payload.split_first_chunk() {
        None if payload.is_empty() => None,
        None => Some(CLOSE_PROTOCOL_ERROR),
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            let is_for_the_wire = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let is_right = is_for_the_wire && std::str::from_utf8(reason).is_ok();
            Some(if is_right { code } else { CLOSE_PROTOCOL_ERROR })
        }
    }
}

/// The header of a whole message of `length` bytes, or of a control frame; with a mask where a client sends it.
pub(super) fn header(
    kind: Kind,
    length: usize,
    mask: Option<[u8; 4]>,
) -> heapless::Vec<u8, HEADER_BYTES_MAX, u8> {
    let mut header = heapless::Vec::new();
    let mut put = |bytes: &[u8]| {
        header
            .extend_from_slice(bytes)
            .expect("a header is at most 14 bytes")
    };
    let masked = if mask.is_some() { MASKED } else { 0 };
    put(&[FIN | kind as u8]);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => put(&[masked | length]),
        (_, Ok(length)) => {
            put(&[masked | 126]);
            put(&length.to_be_bytes());
        }
        _ => {
            put(&[masked | 127]);
            put(&(length as u64).to_be_bytes());
        }
    }
    put(mask.as_ref().map_or(&[], |mask| mask));
    header
}

/// Masks what is plain and makes plain what is masked; `mask` goes on where it stopped.
pub(super) fn apply_mask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let length = bytes.len();
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(length % 4);
}

impl Kind {
    fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

impl FrameError {
    /// The code of the close frame that tells the peer.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Text => CLOSE_UNSUPPORTED_DATA,
            _ => CLOSE_PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("found a WebSocket text frame, expected binary ones: MQTT is no text"),
            Self::ReservedBits => {
                f.write_str("found a WebSocket frame of an extension, and no extension was agreed on")
            }
            Self::Opcode(opcode) => write!(f, "found a WebSocket frame with the unknown opcode {opcode}"),
            Self::Mask(false) => f.write_str("found a WebSocket frame of a client without a mask"),
            Self::Mask(true) => f.write_str("found a WebSocket frame of a server with a mask"),
            Self::Length => {
                f.write_str("found a WebSocket length of 2^63 or more, or in more bytes than it needs")
            }
            Self::Control => {
                f.write_str("found a WebSocket control frame in fragments, or with more than 125 bytes")
            }
            Self::Continuation => f.write_str("found a WebSocket frame that continues nothing"),
            Self::Interrupted => f.write_str("found a new WebSocket message before the end of the last"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client writes it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x5A, 0x00, 0xFF, 0x37];
        let mut frame = header(Kind::Binary, payload.len(), Some(mask)).to_vec();
        frame[0] = first;
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        frame
    }

    /// What `bytes` carry, read `step` bytes at a time.
    fn read(bytes: &[u8], step: usize) -> (Vec<u8>, FrameReader) {
        let mut reader = FrameReader::new(Sender::Client);
        let mut payload = Vec::new();
        for chunk in bytes.chunks(step) {
            let mut chunk = chunk.to_vec();
            let length = reader.take_off(&mut chunk);
            payload.extend_from_slice(&chunk[..length]);
        }
        (payload, reader)
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_payload_ping_and_end() {
        let mut bytes = masked(0x82, b"one");
        bytes.extend(masked(0x02, &[7; 200]));
        bytes.extend(masked(0x89, b"are you there"));
        bytes.extend(masked(0x00, b""));
        bytes.extend(masked(0x80, &[9; 70_000]));
        bytes.extend(masked(0x8A, b"unasked"));
        bytes.extend(masked(0x88, &[0x03, 0xE8]));
        bytes.extend(masked(0x82, b"behind the end"));
        let mut expected = b"one".to_vec();
        expected.extend([7; 200]);
        expected.extend([9; 70_000]);
        for step in (1..20).chain([126, 4096, 65_536, bytes.len()]) {
            let (payload, mut reader) = read(&bytes, step);
            assert!(payload == expected, "in steps of {step}");
            assert_eq!(reader.take_ping().as_deref(), Some(&b"are you there"[..]));
            assert_eq!(reader.end(), Some(End::Closed(Some(1000))));
        }
    }

    #[test]
    fn each_frame_that_must_not_be_is_told_by_its_first_bytes() {
        for (bytes, error) in [
            (&[0x81][..], FrameError::Text),
            (&[0x01], FrameError::Text),
            (&[0xC2], FrameError::ReservedBits),
            (&[0xA2], FrameError::ReservedBits),
            (&[0x92], FrameError::ReservedBits),
            (&[0x83], FrameError::Opcode(3)),
            (&[0x8B], FrameError::Opcode(11)),
            (&[0x80], FrameError::Continuation),
            (&[0x09], FrameError::Control),
            (&[0x89, 0xFE], FrameError::Control),
            (&[0x82, 0x01], FrameError::Mask(false)),
            (&[0x82, 0xFE, 0, 125], FrameError::Length),
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], FrameError::Length),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
            (&[0x02, 0x80, 1, 2, 3, 4, 0x82], FrameError::Interrupted),
        ] {
            let (_, reader) = read(bytes, 1);
            assert_eq!(reader.end(), Some(End::Failed(error)), "{bytes:02X?}");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(read(before, 1).1.end(), None, "{before:02X?}");
        }
        let mut server = FrameReader::new(Sender::Server);
        server.take_off(&mut [0x82, 0x80]);
        assert_eq!(server.end(), Some(End::Failed(FrameError::Mask(true))));
    }

    #[test]
    fn a_length_that_lies_is_believed_by_nobody_and_holds_no_memory() {
        let mut bytes = vec![
            0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0,
        ];
        bytes.extend([1; 5000]);
        let (payload, reader) = read(&bytes, 1000);
        assert_eq!(payload, [1; 5000]);
        assert_eq!((reader.end(), reader.control.capacity()), (None, 0));
    }

    #[test]
    fn what_came_before_a_frame_that_must_not_be_is_not_lost() {
        let mut bytes = masked(0x82, b"before");
        bytes.extend(masked(0x81, b"text"));
        bytes.extend(masked(0x82, b"after"));
        let (payload, reader) = read(&bytes, bytes.len());
        assert_eq!(payload, b"before");
        assert_eq!(reader.end(), Some(End::Failed(FrameError::Text)));
    }

    #[test]
    fn of_many_pings_the_last_is_answered_and_only_that_is_kept() {
        let bytes: Vec<u8> = (0..100).flat_map(|round| masked(0x89, &[round; 125])).collect();
        let (_, mut reader) = read(&bytes, 700);
        assert_eq!(reader.take_ping(), Some(vec![99; 125]));
        assert_eq!((reader.take_ping(), reader.control.capacity()), (None, 0));
    }

    #[test]
    fn a_close_frame_is_answered_with_its_code_or_with_that_it_is_none() {
        for (payload, answer) in [
            (&b""[..], None),
            (b"\x03", Some(1002)),
            (b"\x03\xE8", Some(1000)),
            (b"\x03\xE9away", Some(1001)),
            (b"\x0F\xA0", Some(4000)),
            (b"\x03\xED", Some(1002)),
            (b"\x00\x00", Some(1002)),
            (b"\x03\xE8\xFF", Some(1002)),
        ] {
            let (_, reader) = read(&masked(0x88, payload), 1);
            assert_eq!(reader.end(), Some(End::Closed(answer)), "{payload:02X?}");
        }
    }

    #[test]
    fn a_header_is_as_short_as_its_length_allows_and_read_back_as_it_was_written() {
        for (length, bytes) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(header(Kind::Binary, length, None).len(), bytes);
            let mut written = header(Kind::Binary, length, Some([1, 2, 3, 4])).to_vec();
            assert_eq!(written.len(), bytes + 4);
            let mut reader = FrameReader::new(Sender::Client);
            assert_eq!(reader.take_off(&mut written), 0);
            assert_eq!(reader.payload_left, (length > 0).then_some(length as u64));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_a_control_frame() {
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = [0; 24];
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            bytes[0] = if bytes[0] & 1 == 0 { 0x82 } else { bytes[0] & 0x8F };
            bytes[1] |= MASKED;
            let (payload, reader) = read(&bytes, 5);
            assert!(payload.len() <= bytes.len() && reader.control.len() <= 125);
        }
    }
}
