//! What is read of certificates and revocation lists (RFC 5280): their dates, and whom they name.
//!
//! Whether they hold is for rustls to say. Of what nobody asks for here, only that it is there is looked at.

use std::fmt;

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, ErrorKind, Reader, SliceReader, Tag, TagNumber, Tagged};

/// A certificate, taken apart as far as it is needed.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// From when on it holds, in seconds of Unix time; -1 for any moment before 1970, here and below.
    pub(super) not_before: i64,
    /// Until when it holds, in seconds of Unix time.
    pub(super) not_after: i64,
    /// The names of its owner, inside of their SEQUENCE.
    subject: &'a [u8],
    /// Other names of its owner: a SEQUENCE if they are well-formed.
    alternative_names: Option<&'a [u8]>,
}

/// The dates of a revocation list, in seconds of Unix time.
#[derive(Debug)]
pub(super) struct ListDates {
    pub(super) this_update: i64,
    pub(super) next_update: Option<i64>,
}

/// Why a certificate or a revocation list cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It is not DER, or not of the fields that it should have.
    Form,
    /// It ends before the bytes do.
    Trailing,
}

/// DER of the object identifier of commonName, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// DER of the object identifier of subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];

/// The strings that are a part of UTF-8. Whether they hold what theirs is only is not looked at, for many do not.
const TEXT: [Tag; 4] = [
    Tag::Utf8String,
    Tag::PrintableString,
    Tag::Ia5String,
    Tag::NumericString,
];

/// The tag of rfc822Name (RFC 5280 section 4.2.1.6).
pub(super) const EMAIL: TagNumber = TagNumber(1);
/// The tag of dNSName.
pub(super) const DNS_NAME: TagNumber = TagNumber(2);
/// The tag of uniformResourceIdentifier.
pub(super) const URI: TagNumber = TagNumber(6);

impl<'a> Certificate<'a> {
    /// Takes apart a certificate in DER.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn from_der(der: &'a [u8]) -> Result<Self, Malformed> {
        read_signed(der, Self::read)
    }

    /// Reads what is signed of it (RFC 5280 section 4.1).
    fn read(fields: &mut SliceReader<'a>) -> der::Result<Self> {
        let version = TagNumber(0);
        if matches!(Tag::peek(fields)?, Tag::ContextSpecific { number, .. } if number == version) {
            AnyRef::decode(fields)?;
        }
        value(fields, Tag::Integer)?; // serialNumber
        value(fields, Tag::Sequence)?; // signature
        value(fields, Tag::Sequence)?; // issuer
        let mut validity = SliceReader::new(value(fields, Tag::Sequence)?)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        validity.finish()?;
        let subject = value(fields, Tag::Sequence)?;
        value(fields, Tag::Sequence)?; // subjectPublicKeyInfo
        let mut alternative_names = None;
        while !fields.is_finished() {
            let field = AnyRef::decode(fields)?;
            match field.tag() {
                Tag::ContextSpecific {
                    number: TagNumber(1 | 2), // issuerUniqueID, subjectUniqueID
                    ..
                } => {}
                Tag::ContextSpecific {
                    number: TagNumber(3), // extensions, which are the last
                    ..
                } if fields.is_finished() => alternative_names = alternative_names_in(field.value())?,
                other => return Err(other.unexpected_error(None).into()),
            }
        }
        Ok(Self {
            not_before,
            not_after,
            subject,
            alternative_names,
        })
    }

    /// The common names of its subject; `None` for one in a character set that is no part of UTF-8. Whether the others
    /// are UTF-8 is not looked at.
    ///
    /// # Errors
    /// [`Malformed`] if any name is.
    pub(super) fn common_names(&self) -> Result<Vec<Option<&'a [u8]>>, Malformed> {
        self.read_common_names().map_err(|_| Malformed::Form)
    }

    /// A name is a SEQUENCE of SETs of attributes, an identifier and a value each (RFC 5280 section 4.1.2.4).
    fn read_common_names(&self) -> der::Result<Vec<Option<&'a [u8]>>> {
        let mut names = Vec::new();
        let mut sets = SliceReader::new(self.subject)?;
        while !sets.is_finished() {
            let mut set = SliceReader::new(value(&mut sets, Tag::Set)?)?;
            while !set.is_finished() {
                let mut attribute = SliceReader::new(value(&mut set, Tag::Sequence)?)?;
                let kind = value(&mut attribute, Tag::ObjectIdentifier)?;
                // Of kinds that `der` does not know, UniversalString for one, none is a name here.
                let text = match Tag::peek(&attribute) {
                    Ok(tag) => {
                        let content = AnyRef::decode(&mut attribute)?.value();
                        attribute.finish()?;
                        TEXT.contains(&tag).then_some(content)
                    }
                    Err(_) => None,
                };
                if kind == COMMON_NAME {
                    names.push(text);
                }
            }
        }
        Ok(names)
    }

    /// The first of its alternative names of the kind that has this tag, whatever its bytes are.
    ///
    /// # Errors
    /// [`Malformed`] if any of them is.
    pub(super) fn alternative_name(&self, kind: TagNumber) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(names) = self.alternative_names else {
            return Ok(None);
        };
        first_of(names, kind).map_err(|_| Malformed::Form)
    }
}

impl ListDates {
    /// Reads the dates of a revocation list in DER.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn from_der(der: &[u8]) -> Result<Self, Malformed> {
        read_signed(der, Self::read)
    }

    /// Reads what is signed of it (RFC 5280 section 5.1).
    fn read(fields: &mut SliceReader<'_>) -> der::Result<Self> {
        if Tag::peek(fields)? == Tag::Integer {
            AnyRef::decode(fields)?; // version
        }
        value(fields, Tag::Sequence)?; // signature
        value(fields, Tag::Sequence)?; // issuer
        let this_update = time(fields)?;
        let has_next = matches!(Tag::peek(fields), Ok(Tag::UtcTime | Tag::GeneralizedTime));
        let next_update = has_next.then(|| time(fields)).transpose()?;
        while !fields.is_finished() {
            AnyRef::decode(fields)?; // revokedCertificates, crlExtensions
        }
        Ok(Self {
            this_update,
            next_update,
        })
    }
}

/// Reads what `read` wants of something that is signed: a SEQUENCE of it, the algorithm and the signature.
fn read_signed<'a, T>(
    der: &'a [u8],
    read: impl FnOnce(&mut SliceReader<'a>) -> der::Result<T>,
) -> Result<T, Malformed> {
    let read_all = || {
        let mut whole = SliceReader::new(der)?;
        let mut fields = SliceReader::new(value(&mut whole, Tag::Sequence)?)?;
        let mut signed = SliceReader::new(value(&mut fields, Tag::Sequence)?)?;
        value(&mut fields, Tag::Sequence)?; // signatureAlgorithm
        value(&mut fields, Tag::BitString)?; // signatureValue
        fields.finish()?;
        let found = read(&mut signed)?;
        signed.finish()?;
        Ok((found, whole.is_finished()))
    };
    match read_all() {
        Ok((found, true)) => Ok(found),
        Ok((_, false)) => Err(Malformed::Trailing),
        Err::<_, der::Error>(_) => Err(Malformed::Form),
    }
}

/// The content of what comes next, which has to have this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let next = AnyRef::decode(reader)?;
    next.tag().assert_eq(tag)?;
    Ok(next.value())
}

/// The moment that comes next, in seconds of Unix time (RFC 5280 section 4.1.2.5).
fn time(reader: &mut SliceReader<'_>) -> der::Result<i64> {
    let time = AnyRef::decode(reader)?;
    let [digits @ .., b'Z'] = time.value() else {
        return Err(ErrorKind::DateTime.into());
    };
    // `der` begins with 1970. That it was earlier is all that has to be known of a moment before.
    let is_earlier = match time.tag() {
        Tag::UtcTime => digits.len() == 12 && matches!(digits.first(), Some(b'5' | b'6')),
        Tag::GeneralizedTime => digits.len() == 14 && digits < &b"1970"[..],
        other => return Err(other.unexpected_error(None).into()),
    };
    if is_earlier && digits.iter().all(u8::is_ascii_digit) {
        return Ok(-1);
    }
    let since_epoch = match time.tag() {
        Tag::UtcTime => time.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => time.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    i64::try_from(since_epoch.as_secs()).map_err(|_| ErrorKind::DateTime.into())
}

/// The alternative names among extensions, each an identifier, whether it is critical, and an OCTET STRING (RFC 5280
/// section 4.2).
fn alternative_names_in(extensions: &[u8]) -> der::Result<Option<&[u8]>> {
    let mut tagged = SliceReader::new(extensions)?;
    let mut list = SliceReader::new(value(&mut tagged, Tag::Sequence)?)?;
    tagged.finish()?;
    let mut names = None;
    while !list.is_finished() {
        let mut extension = SliceReader::new(value(&mut list, Tag::Sequence)?)?;
        let id = value(&mut extension, Tag::ObjectIdentifier)?;
        if Tag::peek(&extension)? == Tag::Boolean {
            AnyRef::decode(&mut extension)?;
        }
        let content = value(&mut extension, Tag::OctetString)?;
        extension.finish()?;
        // Twice would be no answer to who it is.
        if id == SUBJECT_ALT_NAME && names.replace(content).is_some() {
            return Err(ErrorKind::Failed.into());
        }
    }
    Ok(names)
}

/// The first of these names that has this tag; all of them are looked at.
fn first_of(names: &[u8], kind: TagNumber) -> der::Result<Option<&[u8]>> {
    let mut whole = SliceReader::new(names)?;
    let mut names = SliceReader::new(value(&mut whole, Tag::Sequence)?)?;
    whole.finish()?;
    let mut first = None;
    while !names.is_finished() {
        let name = AnyRef::decode(&mut names)?;
        match name.tag() {
            Tag::ContextSpecific { number, .. } if number != kind => {}
            Tag::ContextSpecific {
                constructed: false, ..
            } => first = first.or(Some(name.value())),
            other => return Err(other.unexpected_error(None).into()),
        }
    }
    Ok(first)
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "it cannot be taken apart, expected DER as in RFC 5280",
            Self::Trailing => "something stands behind it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DER of a value with this tag and content.
    fn tlv(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = u16::try_from(content.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let length = match length {
            0..=0x7f => vec![low],
            0x80..=0xff => vec![0x81, low],
            _ => vec![0x82, high, low],
        };
        [vec![tag], length, content].concat()
    }

    fn sequence(content: &[&[u8]]) -> Vec<u8> {
        tlv(0x30, content)
    }

    fn utc(text: &str) -> Vec<u8> {
        tlv(0x17, &[text.as_bytes()])
    }

    fn generalized(text: &str) -> Vec<u8> {
        tlv(0x18, &[text.as_bytes()])
    }

    fn signed(fields: &[&[u8]]) -> Vec<u8> {
        sequence(&[&sequence(fields), &sequence(&[]), &tlv(3, &[&[0, 7]])])
    }

    fn certificate(validity: &[u8], subject: &[u8], last: &[&[u8]]) -> Vec<u8> {
        let empty = sequence(&[]);
        let (version, serial) = (tlv(0xa0, &[&tlv(2, &[&[2]])]), tlv(2, &[&[9]]));
        let first: [&[u8]; 7] = [&version, &serial, &empty, &empty, validity, subject, &empty];
        signed(&[&first[..], last].concat())
    }

    fn between(from: &[u8], until: &[u8]) -> Vec<u8> {
        certificate(&sequence(&[from, until]), &sequence(&[]), &[])
    }

    fn common_name(tag: u8, value: &[u8]) -> Vec<u8> {
        let attribute = sequence(&[&tlv(6, &[COMMON_NAME]), &tlv(tag, &[value])]);
        tlv(0x31, &[&attribute])
    }

    fn named(subject: &[&[u8]], last: &[&[u8]]) -> Vec<u8> {
        let moment = utc("260101000000Z");
        certificate(&sequence(&[&moment, &moment]), &sequence(subject), last)
    }

    fn alternatives(names: &[&[u8]]) -> Vec<u8> {
        let id = tlv(6, &[SUBJECT_ALT_NAME]);
        let critical = tlv(1, &[&[0xff]]);
        sequence(&[&id, &critical, &tlv(4, &[&sequence(names)])])
    }

    fn extensions(of: &[&[u8]]) -> Vec<u8> {
        tlv(0xa3, &[&sequence(of)])
    }

    #[test]
    fn a_moment_is_read_from_either_form_as_the_years_ask() {
        for (text, expected) in [
            ("700101000000Z", 0),
            ("991231235959Z", 946_684_799),
            ("000101000000Z", 946_684_800),
            ("491231235959Z", 2_524_607_999),
            // Anything before 1970 is just that.
            ("500101000000Z", -1),
            ("691231235959Z", -1),
        ] {
            let der = between(&utc(text), &utc(text));
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!((read.not_before, read.not_after), (expected, expected), "{text}");
        }
        for (text, expected) in [
            ("19700101000000Z", 0),
            ("20491231235959Z", 2_524_607_999),
            ("20500101000000Z", 2_524_608_000),
            ("20560229120000Z", 2_719_051_200),
            ("99991231235959Z", 253_402_300_799),
            ("19691231235959Z", -1),
            ("00000101000000Z", -1),
        ] {
            let der = between(&utc("260101000000Z"), &generalized(text));
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!(
                (read.not_before, read.not_after),
                (1_767_225_600, expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_moment_in_any_other_form_is_malformed() {
        for text in [
            "",
            "Z",
            "2601010000Z",
            "260101000000",
            "260101000000+0000",
            "261301000000Z",
            "260230000000Z",
            "260101240000Z",
            "260101000060Z",
            "2601010000x0Z",
            "50010100000xZ",
            "5001010000Z",
            "20260101000000Z",
        ] {
            let der = between(&utc(text), &utc("260101000000Z"));
            assert_eq!(
                Certificate::from_der(&der).unwrap_err(),
                Malformed::Form,
                "{text}"
            );
        }
        for text in [
            "",
            "20260101000000",
            "20260101000000.5Z",
            "20260101000000+0100",
            "202601010000Z",
            "20270229000000Z",
            "1969123123595xZ",
            "1969Z",
        ] {
            let der = between(&utc("260101000000Z"), &generalized(text));
            assert_eq!(
                Certificate::from_der(&der).unwrap_err(),
                Malformed::Form,
                "{text}"
            );
        }
        let (text, moment) = (tlv(0x0c, &[b"19600101000000Z"]), utc("260101000000Z"));
        for validity in [
            sequence(&[&text, &moment]),
            sequence(&[&moment]),
            sequence(&[&moment, &moment, &moment]),
        ] {
            let der = certificate(&validity, &sequence(&[]), &[]);
            assert_eq!(Certificate::from_der(&der).unwrap_err(), Malformed::Form);
        }
    }

    #[test]
    fn a_common_name_counts_in_the_character_sets_that_are_a_part_of_utf_8() {
        // UTF8String, NumericString, PrintableString with a character it must not have, IA5String.
        for (tag, name) in [(0x0c, "pümp"), (0x12, "17"), (0x13, "p*mp_1"), (0x16, "p@mp")] {
            let der = named(&[&common_name(tag, name.as_bytes())], &[]);
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!(read.common_names(), Ok(vec![Some(name.as_bytes())]));
        }
        // TeletexString, VisibleString, UniversalString, BMPString, OCTET STRING, a UTF8String in pieces.
        for tag in [0x14, 0x1a, 0x1c, 0x1e, 0x04, 0x2c] {
            let der = named(&[&common_name(tag, b"pump")], &[]);
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!(read.common_names(), Ok(vec![None]), "{tag:#x}");
        }
    }

    #[test]
    fn every_common_name_is_told_wherever_it_stands() {
        let [first, second] = [b"first", b"other"].map(|name| common_name(0x0c, name));
        let organization = |tag| {
            let attribute = sequence(&[&tlv(6, &[&[0x55, 4, 10]]), &tlv(tag, &[b"works"])]);
            tlv(0x31, &[&attribute])
        };
        let both = tlv(0x31, &[&first[2..], &second[2..]]);
        let read = |subject: &[&[u8]]| -> Vec<Vec<u8>> {
            let der = named(subject, &[]);
            let names = Certificate::from_der(&der).unwrap().common_names().unwrap();
            names.iter().map(|name| name.unwrap().to_vec()).collect()
        };
        assert!(read(&[]).is_empty());
        assert!(read(&[&organization(0x0c)]).is_empty());
        // UniversalString beside it.
        assert_eq!(read(&[&organization(0x1c), &first]), [b"first"]);
        assert_eq!(
            read(&[&first, &organization(0x0c), &second]),
            [b"first", b"other"]
        );
        assert_eq!(read(&[&both]), [b"first", b"other"]);
    }

    #[test]
    fn a_subject_that_is_not_whole_is_malformed_wherever_its_common_name_stands() {
        let name = common_name(0x0c, b"pump");
        let no_value = tlv(0x31, &[&sequence(&[&tlv(6, &[&[0x55, 4, 10]]), &[0x0c, 9]])]);
        let no_id = tlv(0x31, &[&sequence(&[&tlv(0x0c, &[b"works"])])]);
        let more = tlv(
            0x31,
            &[&sequence(&[
                &tlv(6, &[COMMON_NAME]),
                &tlv(0x0c, &[b"a"]),
                &tlv(0x0c, &[b"b"]),
            ])],
        );
        for wrong in [no_value, no_id, more, sequence(&[]), vec![0x31, 0x80, 0, 0]] {
            for subject in [[&wrong[..], &name[..]], [&name, &wrong]] {
                let der = named(&subject, &[]);
                let read = Certificate::from_der(&der).unwrap();
                assert_eq!(read.common_names(), Err(Malformed::Form), "{wrong:?}");
            }
        }
    }

    #[test]
    fn the_first_alternative_name_of_each_kind_is_told_and_the_other_kinds_are_passed() {
        let names = [
            tlv(0x87, &[&[127, 0, 0, 1]]),
            tlv(
                0xa0,
                &[&tlv(6, &[&[0x2a, 3]]), &tlv(0xa0, &[&tlv(0x0c, &[b"x"])])],
            ),
            tlv(0xa4, &[&sequence(&[&common_name(0x0c, b"pump")])]),
            tlv(0x88, &[&[0x2a, 3]]),
            tlv(0x86, &[b"urn:\xff"]),
            tlv(0x82, &[b"pump.example"]),
            tlv(0x81, &[b"pump@example"]),
            tlv(0x82, &[b"other.example"]),
            tlv(0x86, &[b"urn:other"]),
            tlv(0x81, &[b"other@example"]),
        ];
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let usage = sequence(&[&tlv(6, &[&[0x55, 0x1d, 15]]), &tlv(4, &[b"\x03\x02\x05\xa0"])]);
        let [issuer_id, subject_id] = [0x81, 0x82].map(|tag| tlv(tag, &[&[0, 7]]));
        let of = extensions(&[&usage, &alternatives(&names), &usage]);
        let der = named(&[], &[&issuer_id, &subject_id, &of]);
        let read = Certificate::from_der(&der).unwrap();
        assert_eq!(read.alternative_name(DNS_NAME), Ok(Some(&b"pump.example"[..])));
        assert_eq!(read.alternative_name(EMAIL), Ok(Some(&b"pump@example"[..])));
        assert_eq!(read.alternative_name(URI), Ok(Some(&b"urn:\xff"[..])));

        let only = extensions(&[&alternatives(&[&tlv(0x82, &[])])]);
        for (last, dns_name) in [(Some(&only[..]), Some(&b""[..])), (None, None)] {
            let der = named(&[], last.as_slice());
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!(read.alternative_name(DNS_NAME), Ok(dns_name));
            assert_eq!(read.alternative_name(URI), Ok(None));
            assert_eq!(read.alternative_name(EMAIL), Ok(None));
        }
    }

    #[test]
    fn alternative_names_that_are_not_whole_are_malformed_for_whoever_asks_for_them() {
        let good = tlv(0x82, &[b"pump.example"]);
        for wrong in [
            tlv(0x16, &[b"pump.example"]),
            tlv(0xa2, &[&tlv(0x16, &[b"pump.example"])]),
            vec![0x82, 9],
            vec![0x82, 0x81, 1, b'a'],
            vec![0],
        ] {
            let of = extensions(&[&alternatives(&[&good, &wrong])]);
            let der = named(&[&common_name(0x0c, b"pump")], &[&of]);
            let read = Certificate::from_der(&der).unwrap();
            assert_eq!(read.alternative_name(DNS_NAME), Err(Malformed::Form), "{wrong:?}");
            assert_eq!(read.common_names(), Ok(vec![Some(&b"pump"[..])]));
        }
        let id = tlv(6, &[SUBJECT_ALT_NAME]);
        for wrong in [
            extensions(&[&alternatives(&[&good]), &alternatives(&[&good])]),
            extensions(&[&sequence(&[&id])]),
            extensions(&[&sequence(&[&id, &tlv(0x0c, &[b"a"])])]),
            tlv(0xa3, &[&good]),
            tlv(0xa4, &[&good]),
            tlv(0x0c, &[&good]),
            [extensions(&[&alternatives(&[&good])]), extensions(&[])].concat(),
        ] {
            let der = named(&[], &[&wrong]);
            assert_eq!(
                Certificate::from_der(&der).unwrap_err(),
                Malformed::Form,
                "{wrong:?}"
            );
        }
    }

    fn list(last: &[&[u8]]) -> Vec<u8> {
        let empty = sequence(&[]);
        let this_update = utc("260101000000Z");
        let first: [&[u8]; 3] = [&empty, &empty, &this_update];
        signed(&[&first[..], last].concat())
    }

    #[test]
    fn a_revocation_list_tells_when_it_was_made_and_if_it_says_so_when_it_is_due() {
        let revoked = sequence(&[&sequence(&[&tlv(2, &[&[7]]), &utc("251231000000Z")])]);
        let of = tlv(0xa0, &[&sequence(&[])]);
        for (last, due) in [
            (vec![], None),
            (vec![&revoked[..], &of[..]], None),
            (
                vec![&utc("260201000000Z")[..], &revoked, &of],
                Some(1_769_904_000),
            ),
            (vec![&generalized("20500101000000Z")[..]], Some(2_524_608_000)),
        ] {
            let der = list(&last);
            let dates = ListDates::from_der(&der).unwrap();
            assert_eq!((dates.this_update, dates.next_update), (1_767_225_600, due));
        }
        let empty = sequence(&[]);
        let der = signed(&[&tlv(2, &[&[1]]), &empty, &empty, &generalized("20500101000000Z")]);
        assert_eq!(ListDates::from_der(&der).unwrap().this_update, 2_524_608_000);

        let der = list(&[&utc("2602010000Z")]);
        assert_eq!(ListDates::from_der(&der).unwrap_err(), Malformed::Form);
        let der = named(&[], &[]);
        assert_eq!(
            ListDates::from_der(&der).unwrap_err(),
            Malformed::Form,
            "a certificate"
        );
    }

    #[test]
    fn whatever_is_damaged_is_read_without_a_panic_and_what_is_cut_or_longer_is_malformed() {
        let names = alternatives(&[&tlv(0x82, &[b"pump.example"]), &tlv(0x86, &[b"urn:pump"])]);
        let certificate = named(&[&common_name(0x0c, b"pump")], &[&extensions(&[&names])]);
        let list = list(&[&utc("260201000000Z"), &sequence(&[]), &tlv(0xa0, &[])]);
        let read = |der: &[u8]| {
            let certificate = Certificate::from_der(der);
            if let Ok(certificate) = &certificate {
                let _ = certificate.common_names();
                for kind in [DNS_NAME, EMAIL, URI] {
                    let _ = certificate.alternative_name(kind);
                }
            }
            certificate.map(drop).and(ListDates::from_der(der).map(drop))
        };
        for whole in [certificate, list] {
            for end in 0..whole.len() {
                assert_eq!(read(&whole[..end]), Err(Malformed::Form), "{end}");
            }
            for at in 0..whole.len() {
                for byte in 0..=255 {
                    let mut damaged = whole.clone();
                    damaged[at] = byte;
                    // Which of them can still be read is not the point.
                    let _ = read(&damaged);
                }
            }
            let longer = [&whole[..], &[0]].concat();
            let mistakes = [
                Certificate::from_der(&longer).unwrap_err(),
                ListDates::from_der(&longer).unwrap_err(),
            ];
            assert!(mistakes.contains(&Malformed::Trailing), "{mistakes:?}");
        }
    }
}
