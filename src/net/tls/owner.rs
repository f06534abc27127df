//! Whom a client certificate names.

use std::fmt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

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
    certificate: &X509Certificate<'_>,
    field: CertificateField,
) -> Result<Utf8String, CertificateError> {
    let bytes: &[u8] = match field {
        CertificateField::CommonName => {
            let mut names = certificate.subject().iter_common_name();
            let name = names.next().ok_or(CertificateError::NoName(field))?;
            if names.next().is_some() {
                return Err(CertificateError::TwoNames);
            }
            // Character sets other than those that are a part of UTF-8 are not UTF-8 either.
            name.as_str()
                .map_err(|_| CertificateError::BadName(field, StringError::NotUtf8))?
                .as_bytes()
        }
        CertificateField::SanDns | CertificateField::SanUri | CertificateField::SanEmail => {
            let names = certificate
                .subject_alternative_name()
                .map_err(|_| CertificateError::Unreadable)?;
            let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
            names
                .iter()
                .find_map(|name| alternative(name, field))
                .ok_or(CertificateError::NoName(field))?
        }
    };
    if bytes.is_empty() {
        return Err(CertificateError::NoName(field));
    }
    Utf8String::from_bytes(bytes::Bytes::copy_from_slice(bytes))
        .map_err(|error| CertificateError::BadName(field, error))
}

/// The bytes of `name` if it is of the kind `field` asks for, well-formed or not.
fn alternative<'a>(name: &GeneralName<'a>, field: CertificateField) -> Option<&'a [u8]> {
    match (name, field) {
        (GeneralName::DNSName(name), CertificateField::SanDns)
        | (GeneralName::URI(name), CertificateField::SanUri)
        | (GeneralName::RFC822Name(name), CertificateField::SanEmail) => Some(name.as_bytes()),
        // RFC 5280, section 4.2.1.6: rfc822Name [1], dNSName [2], uniformResourceIdentifier [6].
        (GeneralName::Invalid(tag, bytes), _) => match (tag.0, field) {
            (1, CertificateField::SanEmail)
            | (2, CertificateField::SanDns)
            | (6, CertificateField::SanUri) => Some(bytes),
            _ => None,
        },
        _ => None,
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
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use x509_parser::prelude::FromDer;

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
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
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

    #[test]
    fn a_certificate_with_two_common_names_names_nobody() {
        // The object identifier of organizationName, 2.5.4.10, made into that of commonName, 2.5.4.3.
        let named = name_in_patched(CertificateField::CommonName, &[0x55, 4, 10], &[0x55, 4, 3]);
        assert_eq!(named, Err(CertificateError::TwoNames));
    }
}
