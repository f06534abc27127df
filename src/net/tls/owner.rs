//! Whom a client certificate names.

use std::fmt;

use super::x509::{self, Certificate, Malformed};
use crate::mqtt::{StringError, Utf8String};

/// The field of a certificate that names its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateField {
    /// The subject's common name.
    CommonName,
    /// The first DNS name among the subject's alternative names.
    SanDns,
    /// The first URI among the subject's alternative names.
    SanUri,
    /// The first e-mail address among the subject's alternative names.
    SanEmail,
}

/// Why a verified client certificate gives no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// It cannot be taken apart.
    Unreadable,
    /// It expired after the session that is resumed with it had begun.
    Expired,
    /// It has no such field, or an empty one.
    NoName(CertificateField),
    /// It has two common names, and no rule says which one counts.
    TwoNames,
    /// The name is none that MQTT can carry.
    BadName(CertificateField, StringError),
}

/// The name in `field` of a certificate that was verified.
///
/// # Errors
/// [`CertificateError`]: a name that is missing or cannot be told for certain lets nobody in.
pub(super) fn name_of(
    certificate: &Certificate<'_>,
    field: CertificateField,
) -> Result<Utf8String, CertificateError> {
    let alternative = |kind| {
        let name = certificate.alternative_name(kind)?;
        name.ok_or(CertificateError::NoName(field))
    };
    let bytes: &[u8] = match field {
        CertificateField::CommonName => {
            let names = certificate.common_names()?;
            match names[..] {
                [] => return Err(CertificateError::NoName(field)),
                // Character sets other than those that are a part of UTF-8 are not UTF-8 either.
                [name] => name.ok_or(CertificateError::BadName(field, StringError::NotUtf8))?,
                _ => return Err(CertificateError::TwoNames),
            }
        }
        CertificateField::SanDns => alternative(x509::DNS_NAME)?,
        CertificateField::SanUri => alternative(x509::URI)?,
        CertificateField::SanEmail => alternative(x509::EMAIL)?,
    };
    if bytes.is_empty() {
        return Err(CertificateError::NoName(field));
    }
    Utf8String::from_bytes(bytes::Bytes::copy_from_slice(bytes))
        .map_err(|error| CertificateError::BadName(field, error))
}

impl From<Malformed> for CertificateError {
    fn from(_: Malformed) -> Self {
        Self::Unreadable
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("cannot be taken apart"),
            Self::Expired => f.write_str("expired since its session began"),
            Self::NoName(field) => write!(f, "has no {field} to take the name from"),
            Self::TwoNames => {
                f.write_str("has more than one common name, expected one to take the name from")
            }
            Self::BadName(field, error) => write!(f, "names nobody, its {field} is {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl fmt::Display for CertificateField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommonName => "common name",
            Self::SanDns => "DNS name",
            Self::SanUri => "URI",
            Self::SanEmail => "e-mail address",
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    /// What `field` says in a certificate of which `from` is replaced by `to`, of the same length. That
    /// breaks the signature, which was checked long before anybody asks for the name.
    fn name_in_patched(
        field: CertificateField,
        from: &[u8],
        to: &[u8],
    ) -> Result<Utf8String, CertificateError> {
        assert_eq!(from.len(), to.len());
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "marker");
        params.distinguished_name.push(DnType::OrganizationName, "margin");
        params.subject_alt_names = ["first.example", "other.example"]
            .map(|name| SanType::DnsName(Ia5String::try_from(name).unwrap()))
            .into();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut der = certificate.der().to_vec();
        let places: Vec<_> = (0..der.len() - from.len())
            .filter(|&at| der[at..].starts_with(from))
            .collect();
        assert!(!places.is_empty());
        for at in places {
            der[at..at + to.len()].copy_from_slice(to);
        }
        let certificate = Certificate::from_der(&der).unwrap();
        name_of(&certificate, field)
    }

    #[test]
    fn a_name_that_is_not_utf8_names_nobody() {
        let field = CertificateField::CommonName;
        let expected = Err(CertificateError::BadName(field, StringError::NotUtf8));
        assert_eq!(name_in_patched(field, b"marker", b"mar\xffer"), expected);
        // Not even where a good one stands beside it.
        let field = CertificateField::SanDns;
        let expected = Err(CertificateError::BadName(field, StringError::NotUtf8));
        assert_eq!(
            name_in_patched(field, b"first.example", b"fir\xc3t.example"),
            expected
        );
    }

    /// What each field says in a certificate of this common name and these alternative names.
    fn named(
        common_name: Option<DnValue>,
        others: &[SanType],
        field: CertificateField,
    ) -> Result<Utf8String, CertificateError> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = others.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der().to_vec();
        name_of(&Certificate::from_der(&der).unwrap(), field)
    }

    #[test]
    fn a_common_name_counts_in_the_character_sets_that_are_a_part_of_utf_8() {
        let field = CertificateField::CommonName;
        for (name, expected) in [
            (DnValue::Utf8String("pümp".to_owned()), "pümp"),
            (DnValue::PrintableString("pump".try_into().unwrap()), "pump"),
            (DnValue::Ia5String("p@mp".try_into().unwrap()), "p@mp"),
        ] {
            let named = named(Some(name), &[], field).unwrap();
            assert_eq!(named.as_str(), expected);
        }
        for name in [
            DnValue::TeletexString("pump".try_into().unwrap()),
            DnValue::BmpString("pump".try_into().unwrap()),
            DnValue::UniversalString("pump".try_into().unwrap()),
        ] {
            let expected = Err(CertificateError::BadName(field, StringError::NotUtf8));
            assert_eq!(named(Some(name), &[], field), expected);
        }
        let empty = DnValue::Utf8String(String::new());
        for name in [None, Some(empty)] {
            assert_eq!(named(name, &[], field), Err(CertificateError::NoName(field)));
        }
    }

    #[test]
    fn each_field_takes_the_first_alternative_name_of_its_kind() {
        let [one, two] = ["one", "two"].map(|name| Ia5String::try_from(name).unwrap());
        let all = [
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::Rfc822Name("a@b".try_into().unwrap()),
            SanType::URI("urn:a".try_into().unwrap()),
            SanType::DnsName(one),
            SanType::DnsName(two),
            SanType::URI("urn:b".try_into().unwrap()),
            SanType::Rfc822Name("c@d".try_into().unwrap()),
        ];
        for (field, expected) in [
            (CertificateField::SanDns, "one"),
            (CertificateField::SanUri, "urn:a"),
            (CertificateField::SanEmail, "a@b"),
        ] {
            assert_eq!(named(None, &all, field).unwrap().as_str(), expected);
            for others in [&all[..1], &[]] {
                let nobody = Err(CertificateError::NoName(field));
                assert_eq!(named(Some("pump".into()), others, field), nobody);
            }
        }
    }

    #[test]
    fn alternative_names_that_are_damaged_name_nobody() {
        // Of the second name, its tag or its length.
        for (from, to) in [
            (b"\x82\x0dother", b"\x0c\x0dother"),
            (b"\x82\x0dother", b"\x82\x0eother"),
        ] {
            let named = name_in_patched(CertificateField::SanDns, from, to);
            assert_eq!(named, Err(CertificateError::Unreadable));
            let named = name_in_patched(CertificateField::CommonName, from, to).unwrap();
            assert_eq!(named.as_str(), "marker");
        }
    }

    #[test]
    fn a_certificate_with_two_common_names_names_nobody() {
        // The object identifier of organizationName, 2.5.4.10, made into that of commonName, 2.5.4.3.
        let named = name_in_patched(CertificateField::CommonName, &[0x55, 4, 10], &[0x55, 4, 3]);
        assert_eq!(named, Err(CertificateError::TwoNames));
    }
}
