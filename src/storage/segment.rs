//! The journal's bytes: a segment's header, records, and how they are found again.
//!
//! A segment is a file named `journal-` and its number in 16 hexadecimal digits. All integers are little-endian.
//!
//! ```text
//! 0        512                                                     the file's end, filled ahead with zeros
//! ├────────┼────────┬────────┬────┬─0─┼────────┬─0─┼──────── ··· ──┤  or with what stood there in the file's
//! │ header │ record │ record │ …  │   │ record │   │ old bytes     │  life before (files are used again)
//! └────────┴────────┴────────┴────┴───┴────────┴───┴──────── ··· ──┘
//!            what is written at once begins at a sector of 512 bytes and is filled up to one with zeros
//!
//! header  0  magic "tidelog\n"                 record  0  magic 9D 54 67 E2
//!         8  version, 2 bytes                          4  length of the content, 4 bytes
//!        10  version, every bit turned                 8  number of the change, 8 bytes
//!        12  0, 4 bytes                               16  where its unit begins in the file, 4 bytes
//!        16  number of the segment, 8 bytes           20  kind, 1 byte
//!        24  number of the last change that           21  0, 3 bytes
//!            holds before this segment, 8 bytes       24  CRC-32 of bytes 0 to 23, sealed
//!        32  key, 8 bytes                             28  CRC-32 of the content, sealed
//!        40  number of the oldest segment that        32  content
//!            was needed then, 8 bytes
//!        48  CRC-32 of bytes 0 to 47, 4 bytes
//!        52  0 to the end of the sector
//! ```
//!
//! - **Sealed** means that the CRC begins from the journal's key, and runs over the segment's number and the place in
//!   the file before it runs over the bytes. So a record that was left over from the file's life before is none, and
//!   one that a client wrote into its payload is none either, for it does not know the key.
//! - **A unit** is what was written between two syncs. That there is a later unit proves that the earlier ones were
//!   whole, so damage in those is damage, and what is behind it holds; only of the last one may any part be missing,
//!   and it ends where the first is. No mark says that a unit is complete: every record holds by itself as long as
//!   all before it do, and a mark could not prove that what it follows has reached the medium.
//! - **Sectors** are never written again once they were synced, so no torn write can take what was acknowledged.
//! - The first twelve bytes are the same in every version of the format, and the number of the version stands twice,
//!   so that damage does not make a journal look like one of the future.

use crc32fast::Hasher;

/// What is written at once begins at a multiple of this: the smallest unit that media write whole.
pub(super) const SECTOR_BYTES: u64 = 512;
/// What stands before the content of every record.
pub(super) const HEAD_BYTES: usize = 32;
/// The most a record may hold: beyond the longest packet of MQTT with all that is said about it.
pub const RECORD_BYTES_MAX: usize = 300_000_000;

/// How many bytes a segment's header has.
pub(super) const HEADER_BYTES: usize = 512;
const _: () = assert!(
    HEADER_BYTES as u64 == SECTOR_BYTES,
    "the first unit begins on a sector"
);

/// The format this program reads and writes.
const VERSION: u16 = 1;
const HEADER_MAGIC: [u8; 8] = *b"tidelog\n";
/// The first byte is none of UTF-8's first bytes.
pub(super) const RECORD_MAGIC: [u8; 4] = [0x9D, b'T', b'g', 0xE2];

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The segment's number; one more than the one before it.
    pub(super) number: u64,
    /// The number of the last change that holds before this segment: what stands in earlier ones beyond it was told
    /// to be lost.
    pub(super) after: u64,
    /// The journal's key.
    pub(super) key: u64,
    /// Earlier segments than this one were removed; where one is there all the same, the disk has not kept its word.
    pub(super) oldest: u64,
}

/// What the beginning of a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFound {
    Whole(Header),
    /// Of a format this program does not know.
    Newer(u16),
    /// Empty, damaged or something else.
    Nothing,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut fields = Vec::with_capacity(HEADER_BYTES);
        fields.extend(HEADER_MAGIC);
        fields.extend(VERSION.to_le_bytes());
        fields.extend((!VERSION).to_le_bytes());
        fields.extend([0; 4]);
        fields.extend(self.number.to_le_bytes());
        fields.extend(self.after.to_le_bytes());
        fields.extend(self.key.to_le_bytes());
        fields.extend(self.oldest.to_le_bytes());
        fields.extend(crc32fast::hash(&fields).to_le_bytes());
        let mut bytes = [0; HEADER_BYTES];
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }

    pub(super) fn find(bytes: &[u8]) -> HeaderFound {
        Self::whole_or_newer(bytes).unwrap_or(HeaderFound::Nothing)
    }

    fn whole_or_newer(bytes: &[u8]) -> Option<HeaderFound> {
        if !bytes.starts_with(&HEADER_MAGIC) {
            return None;
        }
        let version = u16::from_le_bytes(field(bytes, 8)?);
        if version != !u16::from_le_bytes(field(bytes, 10)?) {
            return None;
        }
        if version > VERSION {
            return Some(HeaderFound::Newer(version));
        }
        let is_whole = crc32fast::hash(bytes.get(..48)?) == u32::from_le_bytes(field(bytes, 48)?);
        (is_whole && version == VERSION).then_some(HeaderFound::Whole(Self {
            number: u64::from_le_bytes(field(bytes, 16)?),
            after: u64::from_le_bytes(field(bytes, 24)?),
            key: u64::from_le_bytes(field(bytes, 32)?),
            oldest: u64::from_le_bytes(field(bytes, 40)?),
        }))
    }
}

/// What stands before a record's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the change.
    pub(super) number: u64,
    /// What kind of change; its meaning is the caller's.
    pub(super) kind: u8,
    /// Where its unit begins in the file.
    pub(super) unit: u32,
    /// Of the content, in bytes.
    pub(super) length: u32,
}

/// Makes and checks the checks of one segment's records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal {
    key: u64,
    segment: u64,
}

impl Seal {
    pub(super) fn new(key: u64, segment: u64) -> Self {
        Self { key, segment }
    }

    /// The head of a record at `offset` of the file.
    pub(super) fn head(self, head: Head, offset: u64, content: &[u8]) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let fields = RECORD_MAGIC
            .into_iter()
            .chain(head.length.to_le_bytes())
            .chain(head.number.to_le_bytes())
            .chain(head.unit.to_le_bytes())
            .chain([head.kind]);
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        let check = self.check_head(offset, &bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&check.to_le_bytes());
        let check = self.check_content(check, content);
        bytes[CHECKED_BYTES + 4..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// What the head at `offset` says, where it is one of this segment's.
    pub(super) fn open_head(self, offset: u64, bytes: &[u8]) -> Option<Head> {
        if !bytes.starts_with(&RECORD_MAGIC) {
            return None;
        }
        let check = u32::from_le_bytes(field(bytes, CHECKED_BYTES)?);
        (self.check_head(offset, bytes.get(..CHECKED_BYTES)?) == check).then_some(Head {
            length: u32::from_le_bytes(field(bytes, 4)?),
            number: u64::from_le_bytes(field(bytes, 8)?),
            unit: u32::from_le_bytes(field(bytes, 16)?),
            kind: *bytes.get(20)?,
        })
    }

    /// Whether `content` is what stood behind the head in `bytes` when it was written.
    pub(super) fn holds(self, bytes: &[u8], content: &[u8]) -> bool {
        let checks = field(bytes, CHECKED_BYTES).zip(field(bytes, CHECKED_BYTES + 4));
        checks.is_some_and(|(head, of_content)| {
            self.check_content(u32::from_le_bytes(head), content) == u32::from_le_bytes(of_content)
        })
    }

    fn check_head(self, offset: u64, fields: &[u8]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&self.key.to_le_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(fields);
        hasher.finalize()
    }

    fn check_content(self, check_of_head: u32, content: &[u8]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&check_of_head.to_le_bytes());
        hasher.update(&self.key.to_be_bytes());
        hasher.update(content);
        hasher.finalize()
    }
}

/// How much of a head its check covers.
const CHECKED_BYTES: usize = 24;

/// The next place where something may be written: the first sector at `offset` or behind it.
pub(super) fn next_sector(offset: u64) -> u64 {
    offset
        .checked_next_multiple_of(SECTOR_BYTES)
        .unwrap_or(u64::MAX - u64::MAX % SECTOR_BYTES)
}

/// Numbers of files end here; one a microsecond takes 292,000 years.
pub(super) const NUMBERS_MAX: u64 = 1 << 63;

/// What a file in the journal's folder is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// A segment, with its number.
    Segment(u64),
    /// A file to be made a segment, with a number of its own.
    Spare(u64),
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (make, digits): (fn(u64) -> Self, &str) = if let Some(digits) = name.strip_prefix("journal-") {
            (Self::Segment, digits)
        } else {
            (Self::Spare, name.strip_prefix("spare-")?)
        };
        let parsed = make(u64::from_str_radix(digits, 16).ok()?);
        // One number has one name.
        (parsed.to_text() == name && parsed.number() < NUMBERS_MAX).then_some(parsed)
    }

    pub(super) fn to_text(self) -> String {
        match self {
            Self::Segment(number) => format!("journal-{number:016x}"),
            Self::Spare(number) => format!("spare-{number:016x}"),
        }
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Segment(number) | Self::Spare(number) => number,
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        number: 7,
        after: 1_000,
        key: 0x0123_4567_89AB_CDEF,
        oldest: 3,
    };

    #[test]
    fn a_header_is_read_as_it_was_written_and_not_with_any_bit_turned() {
        let bytes = HEADER.to_bytes();
        assert_eq!(Header::find(&bytes), HeaderFound::Whole(HEADER));
        for bit in 0..52 * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::find(&damaged), HeaderFound::Nothing, "bit {bit}");
        }
        for length in 0..52 {
            assert_eq!(Header::find(&bytes[..length]), HeaderFound::Nothing);
        }
    }

    #[test]
    fn a_newer_version_is_known_by_its_first_twelve_bytes() {
        let mut bytes = b"tidelog\n".to_vec();
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend((!2_u16).to_le_bytes());
        assert_eq!(Header::find(&bytes), HeaderFound::Newer(2));
    }

    #[test]
    fn a_record_holds_only_in_its_journal_its_segment_and_its_place() {
        let seal = Seal::new(HEADER.key, 7);
        let head = Head {
            number: 12,
            kind: 3,
            unit: 512,
            length: 5,
        };
        let bytes = seal.head(head, 1024, b"hello");
        assert_eq!(seal.open_head(1024, &bytes), Some(head));
        assert!(seal.holds(&bytes, b"hello"));
        assert!(!seal.holds(&bytes, b"hallo"));
        assert_eq!(seal.open_head(1025, &bytes), None);
        assert_eq!(Seal::new(HEADER.key, 8).open_head(1024, &bytes), None);
        assert_eq!(Seal::new(HEADER.key + 1, 7).open_head(1024, &bytes), None);
        for bit in 0..CHECKED_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open_head(1024, &damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn a_number_has_one_name() {
        for name in [
            Name::Segment(0),
            Name::Segment(NUMBERS_MAX - 1),
            Name::Spare(0x2A),
        ] {
            assert_eq!(Name::parse(&name.to_text()), Some(name));
        }
        for foreign in [
            "",
            "lock",
            "journal-",
            "journal-1",
            "journal-000000000000000A",
            "journal-+00000000000000a",
            "journal-00000000000000000001",
            "journal-0000000000000001.old",
            "journal-8000000000000000",
        ] {
            assert_eq!(Name::parse(foreign), None, "{foreign}");
        }
    }
}
