//! The PROXY protocol, versions 1 and 2: what a balancer says of the client it passes on, before the client's bytes.
//!
//! ```text
//!   1   "PROXY TCP4 192.0.2.7 192.0.2.1 51234 8883\r\n"                 at most 107 bytes
//!
//!   2   12 bytes  │ version, command │ family │ length  │ addresses      │ extensions
//!       signature │ 0x20 or 0x21     │ 1 byte │ 2 bytes │ by the family  │ type (1), length (2), value, …
//!                                                       └── as many bytes as the length says ──┘
//! ```
//!
//! [`Reader`] takes bytes and never one too many: what follows the header is TLS or MQTT. Whatever is not wholly right
//! is an error, for a balancer makes no mistakes and a client that writes a header itself is a liar.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::mqtt::Utf8String;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The balancer speaks for itself (its health check), or cannot say for whom: the socket's address holds.
    Local,
    /// A client at this address.
    Client {
        /// Its address.
        address: SocketAddr,
        /// The common name of the certificate it showed the balancer, where that was verified.
        common_name: Option<Utf8String>,
    },
}

/// Why bytes are no header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// They begin otherwise.
    Signature,
    /// More than [`BYTES_MAX`] bytes, or a first line of more than 107.
    TooLong,
    /// The line of version 1 is not one.
    Line,
    /// A version other than 1 and 2.
    Version(u8),
    /// A command of version 2 other than LOCAL and PROXY.
    Command(u8),
    /// A family and protocol of version 2 that no TCP connection has.
    Family(u8),
    /// The length does not hold the addresses of its family.
    Addresses,
    /// An extension that ends after the header does, or is not as long as its kind is.
    Extension(u8),
    /// The checksum is not that of the header.
    Checksum,
    /// The common name is none that MQTT can carry.
    CommonName,
}

/// The longest header, in bytes: addresses, and a client's certificate among the extensions.
pub const BYTES_MAX: usize = 4096;

/// Takes the bytes of a connection until its header is whole.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";
/// The longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// Of version 2, before the addresses.
const FIXED_BYTES: usize = 16;
/// Types of extensions.
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_COMMON_NAME: u8 = 0x22;
/// Bits of the first byte of [`SSL`]: the client used TLS; it showed a certificate, on this connection or in the
/// session it resumed.
const CLIENT_TLS: u8 = 0x01;
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

impl Reader {
    /// Takes of `arrived` what belongs to the header: how many bytes that is, and the header once it is whole.
    ///
    /// Until then all of `arrived` is taken; afterwards nothing more may be given.
    ///
    /// # Errors
    /// [`HeaderError`] at the first byte that shows it; the connection is of no use any more.
    pub fn take(&mut self, arrived: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
        let mut taken = 0;
        loop {
            let rest = arrived.get(taken..).unwrap_or_default();
            let wanted = self.wanted(rest)?;
            if wanted == 0 {
                return Ok((taken, Some(self.parse()?)));
            }
            if rest.is_empty() {
                return Ok((taken, None));
            }
            let (more, _) = rest.split_at(wanted.min(rest.len()));
            self.bytes.extend_from_slice(more);
            taken += more.len();
        }
    }

    /// How many bytes are certainly part of the header, of those that come next and begin with `next`; 0 when it is
    /// whole.
    fn wanted(&self, next: &[u8]) -> Result<usize, HeaderError> {
        let bytes = self.bytes.as_slice();
        let begins_as = |words: &[u8]| bytes.iter().zip(words).all(|(byte, word)| byte == word);
        if bytes.is_empty() {
            return Ok(1);
        }
        if begins_as(SIGNATURE) {
            let Some(Fixed { length, .. }) = Fixed::read(bytes) else {
                return Ok(FIXED_BYTES - bytes.len());
            };
            let whole = FIXED_BYTES + usize::from(length);
            if whole > BYTES_MAX {
                return Err(HeaderError::TooLong);
            }
            return Ok(whole.saturating_sub(bytes.len()));
        }
        if !begins_as(WORD) {
            return Err(HeaderError::Signature);
        }
        if let Some(left) = WORD.len().checked_sub(bytes.len()).filter(|left| *left > 0) {
            return Ok(left);
        }
        if bytes.last() == Some(&b'\n') {
            return Ok(0);
        }
        let room = LINE_BYTES_MAX.saturating_sub(bytes.len());
        if room == 0 {
            return Err(HeaderError::TooLong);
        }
        let line_end = next.iter().position(|byte| *byte == b'\n');
        Ok(line_end.map_or(next.len().max(1), |at| at + 1).min(room))
    }

    fn parse(&self) -> Result<Header, HeaderError> {
        match Fixed::read(&self.bytes) {
            Some(fixed) if self.bytes.starts_with(SIGNATURE) => parse_binary(fixed, &self.bytes),
            _ => parse_line(&self.bytes),
        }
    }
}

fn parse_line(bytes: &[u8]) -> Result<Header, HeaderError> {
    let line = bytes
        .strip_prefix(WORD)
        .and_then(|line| line.strip_suffix(b"\r\n"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(HeaderError::Line)?.split(' ');
    let mut word = || words.next().ok_or(HeaderError::Line);
    let family = word()?;
    if family == "UNKNOWN" {
        return Ok(Header::Local); // Whatever else the line says is to be ignored.
    }
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(HeaderError::Line);
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| {
        let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = digits_only && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    match (
        address(source),
        address(destination),
        port(source_port),
        port(destination_port),
    ) {
        (Some(source), Some(_), Some(port), Some(_)) => Ok(Header::Client {
            address: SocketAddr::new(source, port),
            common_name: None,
        }),
        _ => Err(HeaderError::Line),
    }
}

/// The first 16 bytes of version 2, after the signature.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    version_and_command: u8,
    family: u8,
    length: u16,
}

impl Fixed {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes.get(SIGNATURE.len()..)?);
        Some(Self {
            version_and_command: bytes.byte()?,
            family: bytes.byte()?,
            length: bytes.number()?,
        })
    }
}

fn parse_binary(fixed: Fixed, whole: &[u8]) -> Result<Header, HeaderError> {
    let Fixed {
        version_and_command,
        family,
        ..
    } = fixed;
    if version_and_command >> 4 != 2 {
        return Err(HeaderError::Version(version_and_command >> 4));
    }
    let mut rest = Bytes(whole.get(FIXED_BYTES..).unwrap_or_default());
    let is_proxied = match version_and_command & 0xf {
        0 => false,
        1 => true,
        command => return Err(HeaderError::Command(command)),
    };
    // Who speaks for itself may leave the addresses out, whatever family it names.
    if !is_proxied {
        return Ok(Header::Local);
    }
    let address = match family {
        // Not told, or a Unix socket of the balancer's machine.
        0x00 => None,
        0x31 => {
            rest.take(216).ok_or(HeaderError::Addresses)?;
            None
        }
        0x11 => Some(rest.addresses::<4>().ok_or(HeaderError::Addresses)?),
        0x21 => Some(rest.addresses::<16>().ok_or(HeaderError::Addresses)?),
        family => return Err(HeaderError::Family(family)),
    };
    let common_name = match family {
        // What follows may be addresses of a kind we do not know, so nothing is looked for.
        0x00 => None,
        _ => read_extensions(rest, whole)?,
    };
    Ok(match address {
        Some(address) => Header::Client { address, common_name },
        None => Header::Local,
    })
}

/// Walks over the extensions; the common name of a certificate that the balancer has verified.
fn read_extensions(mut rest: Bytes<'_>, whole: &[u8]) -> Result<Option<Utf8String>, HeaderError> {
    let mut common_name = None;
    while let Some((kind, value)) = rest.extension()? {
        match kind {
            CRC32C => check_sum(value, whole)?,
            SSL => common_name = read_ssl(value)?,
            _ => {}
        }
    }
    Ok(common_name)
}

fn read_ssl(value: &[u8]) -> Result<Option<Utf8String>, HeaderError> {
    let mut value = Bytes(value);
    let short = HeaderError::Extension(SSL);
    let client = value.byte().ok_or(short)?;
    let refusal = value.take(4).ok_or(short)?;
    let is_verified = client & CLIENT_TLS != 0 && client & CLIENT_CERTIFICATE != 0 && refusal == [0; 4];
    let mut common_name = None;
    while let Some((kind, text)) = value.extension()? {
        if kind == SSL_COMMON_NAME && is_verified {
            if common_name.is_some() || text.is_empty() {
                return Err(HeaderError::CommonName);
            }
            let text = bytes::Bytes::copy_from_slice(text);
            common_name = Some(Utf8String::from_bytes(text).map_err(|_| HeaderError::CommonName)?);
        }
    }
    Ok(common_name)
}

/// Compares `told`, a part of `whole`, with the CRC32C of `whole` in which it counts as zeros.
fn check_sum(told: &[u8], whole: &[u8]) -> Result<(), HeaderError> {
    let told_sum = <[u8; 4]>::try_from(told).map_err(|_| HeaderError::Extension(CRC32C))?;
    match checksum_of(whole, told) == u32::from_be_bytes(told_sum) {
        true => Ok(()),
        false => Err(HeaderError::Checksum),
    }
}

/// The CRC32C of `whole`, with zeros where `zeroed` is a part of it.
fn checksum_of(whole: &[u8], zeroed: &[u8]) -> u32 {
    let zeroed = zeroed.as_ptr_range();
    !whole.iter().fold(u32::MAX, |sum, byte| {
        let value = if zeroed.contains(&std::ptr::from_ref(byte)) {
            0
        } else {
            *byte
        };
        (0..8).fold(sum ^ u32::from(value), |sum, _| {
            (sum >> 1) ^ (CASTAGNOLI & (sum & 1).wrapping_neg())
        })
    })
}

/// The polynomial of CRC32C, its bits reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// Bytes that are read from the front.
#[derive(Debug, Clone, Copy)]
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Source and destination of `N` bytes each, then their ports; the source is what matters.
    fn addresses<const N: usize>(&mut self) -> Option<SocketAddr>
    where
        IpAddr: From<[u8; N]>,
    {
        let source = IpAddr::from(self.array::<N>()?);
        let _destination = self.array::<N>()?;
        let port = self.number()?;
        let _destination_port = self.number()?;
        Some(SocketAddr::new(source, port))
    }

    /// The next extension, its type and its value; `None` at the end.
    fn extension(&mut self) -> Result<Option<(u8, &'b [u8])>, HeaderError> {
        let Some(kind) = self.byte() else { return Ok(None) };
        let value = self.number().and_then(|length| self.take(length.into()));
        Ok(Some((kind, value.ok_or(HeaderError::Extension(kind))?)))
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str(
                "the connection does not begin with a PROXY header, which this listener expects (does the balancer \
                 send one?)",
            ),
            Self::TooLong => write!(f, "the PROXY header is longer than {BYTES_MAX} bytes, or its line than 107"),
            Self::Line => f.write_str("the PROXY line is not one of version 1"),
            Self::Version(version) => write!(f, "found version {version} of the PROXY protocol, expected 1 or 2"),
            Self::Command(command) => write!(f, "unknown PROXY command {command}"),
            Self::Family(family) => write!(f, "the PROXY header tells of family {family:#04x}, expected TCP"),
            Self::Addresses => f.write_str("the PROXY header is shorter than its addresses"),
            Self::Extension(kind) => write!(f, "extension {kind:#04x} of the PROXY header has a wrong length"),
            Self::Checksum => f.write_str("the PROXY header does not match its checksum"),
            Self::CommonName => {
                f.write_str("the common name in the PROXY header is no user name, or there are two")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of `bytes` at once: what was taken, and what it says.
    fn read(bytes: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
        Reader::default().take(bytes)
    }

    fn client(address: &str) -> Header {
        Header::Client {
            address: address.parse().unwrap(),
            common_name: None,
        }
    }

    /// A header of version 2 with `body` behind the fixed part.
    fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_and_command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// 192.0.2.7:51234 to 192.0.2.1:8883, and then `extensions`.
    fn ipv4(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![192, 0, 2, 7, 192, 0, 2, 1];
        body.extend(51234_u16.to_be_bytes());
        body.extend(8883_u16.to_be_bytes());
        body.extend(extensions);
        binary(0x21, 0x11, &body)
    }

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
        bytes
    }

    fn ssl(client: u8, refusal: u32, inner: &[u8]) -> Vec<u8> {
        let mut value = vec![client];
        value.extend(refusal.to_be_bytes());
        value.extend(inner);
        extension(SSL, &value)
    }

    fn every_right_header() -> Vec<(Vec<u8>, Header)> {
        let mut ipv6 = vec![0; 36];
        ipv6[..2].copy_from_slice(&[0x20, 0x01]);
        ipv6[15] = 7;
        ipv6[32..34].copy_from_slice(&51234_u16.to_be_bytes());
        let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
            ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        vec![
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 51234 8883\r\n".to_vec(),
                client("192.0.2.7:51234"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 0 8883\r\n".to_vec(),
                client("[2001:db8::7]:0"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
            (longest.to_vec(), Header::Local),
            (ipv4(&[]), client("192.0.2.7:51234")),
            (binary(0x21, 0x21, &ipv6), client("[2001::7]:51234")),
            (ipv4(&extension(4, &[0; 300])), client("192.0.2.7:51234")),
            (binary(0x20, 0x00, &[]), Header::Local),
            (binary(0x20, 0x11, &[1; 12]), Header::Local),
            (binary(0x21, 0x00, &[9; 40]), Header::Local),
            (binary(0x21, 0x31, &[0; 216]), Header::Local),
        ]
    }

    #[test]
    fn a_header_is_read_whole_and_not_one_byte_more() {
        for (bytes, expected) in every_right_header() {
            let mut longer = bytes.clone();
            longer.extend([0x10, b'\n', 0, 0xff]);
            assert_eq!(read(&longer), Ok((bytes.len(), Some(expected))), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_waited_for_and_then_the_same() {
        for (bytes, expected) in every_right_header() {
            for cut in 0..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                let mut reader = Reader::default();
                assert_eq!(reader.take(first), Ok((cut, None)), "{bytes:?} cut at {cut}");
                assert_eq!(
                    reader.take(second),
                    Ok((second.len(), Some(expected.clone()))),
                    "{bytes:?} cut at {cut}"
                );
            }
            let mut reader = Reader::default();
            for (at, byte) in bytes.iter().enumerate() {
                let told = (at + 1 == bytes.len()).then(|| expected.clone());
                assert_eq!(reader.take(&[*byte]), Ok((1, told)), "{bytes:?} at {at}");
            }
        }
    }

    #[test]
    fn what_begins_otherwise_is_refused_at_the_byte_that_shows_it() {
        let mut connect = vec![0x10, 12];
        connect.extend(b"\0\x04MQTT\x04\x02\0\x3c\0\0");
        for (bytes, wrong_at) in [
            (connect.as_slice(), 0),
            (b"GET / HTTP/1.1\r\n\r\n", 0),
            (b"PROXY\tTCP4", 5),
            (b"proxy TCP4", 0),
            (b"\r\n\r\n\0\r\nQUIT\r", 11),
            (b"\x16\x03\x01", 0),
        ] {
            let mut reader = Reader::default();
            for (at, byte) in bytes.iter().enumerate() {
                let expected = match at.cmp(&wrong_at) {
                    std::cmp::Ordering::Less => Ok((1, None)),
                    _ => Err(HeaderError::Signature),
                };
                assert_eq!(reader.take(&[*byte]), expected, "{bytes:?} at {at}");
                if expected.is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn each_lie_of_version_1_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 51234\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 51234 8883 1\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 51234 8883 \r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.1 51234 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 51234 8883\n",
            "PROXY TCP4 2001:db8::7 ::1 51234 8883\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.1 51234 8883\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.1 51234 8883\r\n",
            "PROXY TCP4 192.0.02.7 192.0.2.1 51234 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 65536 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 -1 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +1 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 051234 8883\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 51234 \r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.1 51234 8883\r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 host 192.0.2.1 51234 8883\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(HeaderError::Line), "{line:?}");
        }
        let not_text = b"PROXY TCP4 192.0.2.\xff 192.0.2.1 51234 8883\r\n";
        assert_eq!(read(not_text), Err(HeaderError::Line));
    }

    #[test]
    fn a_line_without_end_is_refused_at_its_108th_byte() {
        let endless = [WORD.as_slice(), &[b' '; 200]].concat();
        assert_eq!(
            read(&endless[..LINE_BYTES_MAX - 1]),
            Ok((LINE_BYTES_MAX - 1, None))
        );
        assert_eq!(read(&endless), Err(HeaderError::TooLong));
        let mut reader = Reader::default();
        assert_eq!(reader.take(&endless[..60]), Ok((60, None)));
        assert_eq!(reader.take(&endless[60..]), Err(HeaderError::TooLong));
    }

    #[test]
    fn each_lie_of_version_2_is_refused() {
        let mut short_length = ipv4(&[]);
        short_length[15] = 11;
        for (bytes, error) in [
            (binary(0x11, 0x11, &[0; 12]), HeaderError::Version(1)),
            (binary(0x31, 0x11, &[0; 12]), HeaderError::Version(3)),
            (binary(0x22, 0x11, &[0; 12]), HeaderError::Command(2)),
            (binary(0x21, 0x12, &[0; 12]), HeaderError::Family(0x12)),
            (binary(0x21, 0x41, &[0; 12]), HeaderError::Family(0x41)),
            (binary(0x21, 0x11, &[]), HeaderError::Addresses),
            (binary(0x21, 0x21, &[0; 35]), HeaderError::Addresses),
            (binary(0x21, 0x31, &[0; 215]), HeaderError::Addresses),
            (short_length, HeaderError::Addresses),
            (ipv4(&[4]), HeaderError::Extension(4)),
            (ipv4(&[4, 0]), HeaderError::Extension(4)),
            (ipv4(&[4, 0, 1]), HeaderError::Extension(4)),
            (ipv4(&[4, 0xff, 0xff, 1]), HeaderError::Extension(4)),
            (ipv4(&extension(CRC32C, &[0; 3])), HeaderError::Extension(CRC32C)),
            (ipv4(&extension(CRC32C, &[0; 4])), HeaderError::Checksum),
            (ipv4(&extension(SSL, &[1, 0, 0, 0])), HeaderError::Extension(SSL)),
            (
                ipv4(&ssl(3, 0, &[SSL_COMMON_NAME, 0, 9, b'a'])),
                HeaderError::Extension(SSL_COMMON_NAME),
            ),
            (
                ipv4(&ssl(3, 0, &extension(SSL_COMMON_NAME, b"a\xff"))),
                HeaderError::CommonName,
            ),
            (
                ipv4(&ssl(3, 0, &extension(SSL_COMMON_NAME, b""))),
                HeaderError::CommonName,
            ),
        ] {
            assert_eq!(read(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_come() {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x21, 0x11]);
        let longest = u16::try_from(BYTES_MAX - FIXED_BYTES).unwrap();
        let with_length = |length: u16| [bytes.as_slice(), &length.to_be_bytes()].concat();
        assert_eq!(read(&with_length(longest)), Ok((FIXED_BYTES, None)));
        assert_eq!(read(&with_length(longest + 1)), Err(HeaderError::TooLong));
        assert_eq!(read(&with_length(u16::MAX)), Err(HeaderError::TooLong));
    }

    #[test]
    fn a_header_of_any_bytes_never_panics() {
        // A walk over headers that are right but for one byte.
        for (bytes, _) in every_right_header() {
            for at in 0..bytes.len() {
                for byte in [0, 1, 0x0a, 0x20, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = byte;
                    let (taken, header) = match read(&changed) {
                        Ok(read) => read,
                        Err(_) => continue,
                    };
                    assert!(taken <= changed.len() && (header.is_some() || taken == changed.len()));
                }
            }
        }
    }

    #[test]
    fn a_checksum_is_that_of_the_header_with_zeros_in_its_place() {
        // The check value of CRC32C for the digits 1 to 9 is 0xe3069283.
        assert_eq!(checksum_of(b"123456789", &[]), 0xe306_9283);

        let mut header = ipv4(&[extension(4, b"pad"), extension(CRC32C, &[0; 4])].concat());
        let at = header.len() - 4;
        let sum = checksum_of(&header, &[]);
        header[at..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(read(&header), Ok((header.len(), Some(client("192.0.2.7:51234")))));
        header[FIXED_BYTES + 3] ^= 1;
        assert_eq!(read(&header), Err(HeaderError::Checksum));
    }

    #[test]
    fn a_common_name_counts_only_where_the_balancer_has_verified_the_certificate() {
        let name = extension(SSL_COMMON_NAME, b"probe-7");
        let inner = [extension(0x21, b"TLSv1.3"), name.clone()].concat();
        for (flags, refusal, expected) in [
            (0x01 | 0x02, 0, Some("probe-7")),
            (0x01 | 0x04, 0, Some("probe-7")),
            (0x01, 0, None),
            (0x02, 0, None),
            (0x00, 0, None),
            (0x01 | 0x02, 1, None),
        ] {
            let Ok((_, Some(Header::Client { common_name, .. }))) = read(&ipv4(&ssl(flags, refusal, &inner)))
            else {
                panic!("the header is right");
            };
            assert_eq!(common_name.as_ref().map(Utf8String::as_str), expected);
        }
        let two = [name.clone(), name].concat();
        assert_eq!(read(&ipv4(&ssl(3, 0, &two))), Err(HeaderError::CommonName));
    }
}
