//! The keys by which tokens are verified: public keys in PEM, sets of JSON Web Keys (RFC 7517), or a secret.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use der::asn1::{AnyRef, BitStringRef, IntRef};
use der::{Decode, Reader, SliceReader, Tag, Tagged};
use ring::hmac;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};

use super::tokens::Algorithm;

/// A key, which has one algorithm for good.
#[derive(Clone)]
pub struct TokenKey {
    /// `kid` of a JSON Web Key.
    pub(super) id: Option<String>,
    pub(super) material: Material,
}

/// What a signature is checked with.
#[derive(Clone)]
pub(super) enum Material {
    /// Big-endian, without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// Uncompressed: 4, x, y.
    P256([u8; 65]),
    Ed25519([u8; 32]),
    Secret(hmac::Key),
}

/// What is wrong with a key, or a file of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMistake {
    /// Neither PEM nor JSON Web Keys.
    NoKeys,
    /// A public key that is not DER, or a JSON Web Key without its members.
    Form,
    /// None of those that [`Algorithm`] knows.
    Algorithm,
    /// An RSA key that is too short or too long.
    RsaSize,
    /// A secret that is too short.
    SecretTooShort,
    /// More than [`TokenKey::KEYS_MAX`].
    TooMany,
    /// A private key, which has no place on a gateway that only verifies.
    Private,
}

impl TokenKey {
    /// The most keys of all files together; a token without key identifier may be tried with each.
    pub const KEYS_MAX: usize = 16;

    /// The least bytes of a secret: as many as SHA-256 gives (RFC 7518 section 3.2).
    pub const SECRET_BYTES_MIN: usize = 32;

    /// The sizes of RSA moduli, in bytes: 2,048 to 8,192 bits, as ring verifies them.
    const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

    /// What it verifies.
    pub fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::Secret(_) => Algorithm::Hs256,
        }
    }

    /// The key of HS256 that is `secret`.
    ///
    /// # Errors
    /// [`KeyMistake::SecretTooShort`].
    pub fn secret(secret: &[u8]) -> Result<Self, KeyMistake> {
        if secret.len() < Self::SECRET_BYTES_MIN {
            return Err(KeyMistake::SecretTooShort);
        }
        Ok(Self {
            id: None,
            material: Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)),
        })
    }

    /// The public keys in the text of a file: PEM, a JSON Web Key, or a set of them.
    ///
    /// Of a set, keys of another use or algorithm are left out (RFC 7517 section 5).
    ///
    /// # Errors
    /// The first mistake; also where no key is left.
    pub fn parse(text: &str) -> Result<Vec<Self>, KeyMistake> {
        let keys = if text.trim_start().starts_with('{') {
            parse_jwks(text)?
        } else {
            parse_pem(text)?
        };
        if keys.len() > Self::KEYS_MAX {
            return Err(KeyMistake::TooMany);
        }
        Ok(keys)
    }

    fn rsa(id: Option<String>, modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyMistake> {
        let (modulus, exponent) = (trimmed(modulus), trimmed(exponent));
        if !Self::RSA_BYTES.contains(&modulus.len()) || exponent.is_empty() {
            return Err(KeyMistake::RsaSize);
        }
        let material = Material::Rsa {
            modulus: modulus.to_vec(),
            exponent: exponent.to_vec(),
        };
        Ok(Self { id, material })
    }
}

/// A number without its leading zeros.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn parse_pem(text: &str) -> Result<Vec<TokenKey>, KeyMistake> {
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyMistake::Private);
    }
    let mut keys = Vec::new();
    for found in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
        let der = found.map_err(|_| KeyMistake::Form)?;
        keys.push(parse_spki(&der)?);
    }
    if keys.is_empty() {
        return Err(KeyMistake::NoKeys);
    }
    Ok(keys)
}

/// DER of the object identifiers of RFC 5480 and RFC 8410.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// Of RFC 8017.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

fn parse_spki(der: &[u8]) -> Result<TokenKey, KeyMistake> {
    let KeyInfo {
        algorithm,
        parameters,
        key,
    } = KeyInfo::from_der(der).map_err(|_| KeyMistake::Form)?;
    let material = if algorithm == RSA_ENCRYPTION {
        let (modulus, exponent) = rsa_numbers(key).map_err(|_| KeyMistake::Form)?;
        return TokenKey::rsa(None, modulus, exponent);
    } else if algorithm == EC_PUBLIC_KEY && parameters == Some(PRIME256V1) {
        Material::P256(key.try_into().map_err(|_| KeyMistake::Form)?)
    } else if algorithm == ED25519 {
        Material::Ed25519(key.try_into().map_err(|_| KeyMistake::Form)?)
    } else {
        return Err(KeyMistake::Algorithm);
    };
    Ok(TokenKey { id: None, material })
}

/// A SubjectPublicKeyInfo (RFC 5280 section 4.1).
struct KeyInfo<'a> {
    algorithm: &'a [u8],
    /// Without their tag.
    parameters: Option<&'a [u8]>,
    key: &'a [u8],
}

impl<'a> KeyInfo<'a> {
    fn from_der(der: &'a [u8]) -> der::Result<Self> {
        let mut whole = SliceReader::new(der)?;
        let mut info = SliceReader::new(value(&mut whole, Tag::Sequence)?)?;
        whole.finish()?;
        let mut identifier = SliceReader::new(value(&mut info, Tag::Sequence)?)?;
        let algorithm = value(&mut identifier, Tag::ObjectIdentifier)?;
        let parameters = match identifier.is_finished() {
            true => None,
            false => Some(AnyRef::decode(&mut identifier)?.value()),
        };
        identifier.finish()?;
        let key = BitStringRef::decode(&mut info)?.try_into()?;
        info.finish()?;
        Ok(Self {
            algorithm,
            parameters,
            key,
        })
    }
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017 appendix A.1.1).
fn rsa_numbers(der: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut whole = SliceReader::new(der)?;
    let mut key = SliceReader::new(value(&mut whole, Tag::Sequence)?)?;
    whole.finish()?;
    let (modulus, exponent) = (IntRef::decode(&mut key)?, IntRef::decode(&mut key)?);
    key.finish()?;
    Ok((modulus.as_bytes(), exponent.as_bytes()))
}

/// The content of what comes next, which has to have this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let next = AnyRef::decode(reader)?;
    next.tag().assert_eq(tag)?;
    Ok(next.value())
}

fn parse_jwks(text: &str) -> Result<Vec<TokenKey>, KeyMistake> {
    let Ok(Value::Object(top)) = serde_json::from_str(text) else {
        return Err(KeyMistake::NoKeys);
    };
    let mut keys = Vec::new();
    match top.get("keys") {
        Some(Value::Array(set)) => {
            for key in set {
                let key = key.as_object().ok_or(KeyMistake::Form)?;
                keys.extend(parse_jwk(key)?);
            }
        }
        Some(_) => return Err(KeyMistake::Form),
        None if top.contains_key("kty") => keys.extend(parse_jwk(&top)?),
        None => return Err(KeyMistake::NoKeys),
    }
    if keys.is_empty() {
        return Err(KeyMistake::Algorithm);
    }
    Ok(keys)
}

/// One JSON Web Key; `None` for one that is for something else.
fn parse_jwk(jwk: &Map<String, Value>) -> Result<Option<TokenKey>, KeyMistake> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| -> Result<Vec<u8>, KeyMistake> {
        let text = text(name).ok_or(KeyMistake::Form)?;
        Base64UrlUnpadded::decode_vec(text).map_err(|_| KeyMistake::Form)
    };
    if text("use").is_some_and(|what| what != "sig") {
        return Ok(None);
    }
    if jwk.contains_key("d") {
        return Err(KeyMistake::Private);
    }
    let id = text("kid").map(str::to_owned);
    let key = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => TokenKey::rsa(id, &bytes("n")?, &bytes("e")?)?,
        (Some("EC"), Some("P-256")) => {
            let point = [&[4], &bytes("x")?[..], &bytes("y")?[..]].concat();
            let material = Material::P256(point.try_into().map_err(|_| KeyMistake::Form)?);
            TokenKey { id, material }
        }
        (Some("OKP"), Some("Ed25519")) => {
            let material = Material::Ed25519(bytes("x")?.try_into().map_err(|_| KeyMistake::Form)?);
            TokenKey { id, material }
        }
        (Some("oct"), _) => TokenKey {
            id,
            ..TokenKey::secret(&bytes("k")?)?
        },
        (Some(_), _) => return Ok(None),
        (None, _) => return Err(KeyMistake::Form),
    };
    // A key that says what it is for is for nothing else.
    let is_meant = text("alg").is_none_or(|name| Algorithm::named(name) == Some(key.algorithm()));
    Ok(is_meant.then_some(key))
}

impl fmt::Debug for TokenKey {
    /// Its algorithm; the key may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.algorithm())
    }
}

impl fmt::Display for KeyMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKeys => {
                f.write_str("found no key, expected \"-----BEGIN PUBLIC KEY-----\" or JSON Web Keys")
            }
            Self::Form => f.write_str("found a key that is damaged"),
            Self::Algorithm => f.write_str("found no key for RS256, ES256, EdDSA or HS256"),
            Self::RsaSize => f.write_str("found an RSA key of another size, expected 2048 to 8192 bits"),
            Self::SecretTooShort => {
                write!(
                    f,
                    "the secret is too short, expected at least {} bytes",
                    TokenKey::SECRET_BYTES_MIN
                )
            }
            Self::TooMany => write!(f, "found too many keys, expected at most {}", TokenKey::KEYS_MAX),
            Self::Private => {
                f.write_str("found a private key, expected the public one: keep the other at the issuer")
            }
        }
    }
}

impl std::error::Error for KeyMistake {}

#[cfg(test)]
mod tests {
    use super::super::tokens::{TokenRules, Tokens};
    use super::*;

    /// Keys made by openssl, and tokens it signed with them: `{"sub":"ann","exp":1900000000}`.
    const RSA: &str = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAnLGvlpur5CseoepZ\
                     8qI7\nHb8/Tg/gFkhZVUqV6InnAkObqpFqNlLnMJMFzRbujMBo22TifExItAGeRfVKqCVa\niX21OgqrvXTzqO3C\
                     tFnPEaIm9nSnugRggzBRKEmp7uenD1Zmn4bVhJIn4RTINjv9\nAy7jscDKCHYNo5FWVsCnPbiuXndI7kSIuADbsJ\
                     mTclUlzQ2VUB5Pa0dlSZ6ALh1j\nUyxWErYWy5TpKTVKTtFEn8yZWf8kJ1K44cNwlGpu6VxHSJy+wv0Duh5UBprp\
                     mnbt\nbB7XFeoUsrZmV7uOOgxnvR2UF6/CgCh6Q68ElvcDu7sTNrIUMxJ+Ez7Ua8ZCVkjd\nQwIDAQAB\n-----E\
                     ND PUBLIC KEY-----\n";
    const OF_RSA: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE5MDAwMDAwMDB9.euOOMz8Aoc\
                     iDnFOT3zqXzAchxOKTDDOoALRj-uQPdYXXD57ZymIKgVX3xabM3Zj-L2rpOh3WPPt8ILf5u4_YhVU0sTFrdnU1XD\
                     7ZC4PiPWlfYXK7vMYL07mt_YrC0PHKeaeOfjaTkgBJ9q2IKqE8jAeXfstSpT1p-joBAgsC46bX7OGx_XiR_7H4NV\
                     QFhqsNUnajYmgavVGGjuR3PRcMY4aFIP-naNo2Xg1TDY95mqtX2LUZM6Djoh0VLe-jMzIUGhPaDgqIoFk4n28c6y\
                     kFUPxA8SaGqW5Sb52974C-0h4Ko4Zhv_Fhyxp8mXWp6C67icpKKcm11sec-Fl0YvUSyg";
    const P256: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4g6+6MmRad39RwxkoZEvb4CS\
                     3xKA\nZBYLgffIUd3As7Ktj7H6N+/gapg5jyNGE3E8MCOOuiXt4PxFkr/wnneP+A==\n-----END PUBLIC KEY-\
                     ----\n";
    const OF_P256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE5MDAwMDAwMDB9.u_piDbVQ2G\
                     a76dgppoLzEglMgMUVxRrsF6Jz55HFcDv6Lrf1pn7MpMzpfGQ02H7YkdIVPCYpF3wOHYBT017kng";
    const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAVK72h2YEgkbZkkBiQOI9QlO+qeZxdKoih/x81TyApDc=\
                     \n-----END PUBLIC KEY-----\n";
    const OF_ED25519: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE5MDAwMDAwMDB9.iK118e4GT6\
                     YUqTzZOQMzKcn0NERotcKUrALYgz3l8J4NquB5VdpAmP4wkIv955_NmP4dysrFHiPPYiqzmoStCw";
    const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDWoPcc/z97zLx/XYEJSBvI\
                     YJRT\nOGZNXqH0Ex7d4bNSN9BZ3C4PsyhL30KjCbhfMJSe+mjm0FBh0bEIOq/bTSN0F+fI\n5/ZoI4tsXb8xi1RA\
                     LX/JnqSYFieYjcriyvoM3X43FlRwFhKrWxPjfvjOnd0DaZaU\n7hC+4krSjG2bi2af8wIDAQAB\n-----END PUB\
                     LIC KEY-----\n";
    const P384: &str = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEPhC59ykdt4G0SvlNHbxgyJSGJ4rp\
                     4FVX\ntQ417ZNWhOBEgadWrK77iVisp934DT3WeI6pta0ROJZZcuXQjfUg3NRD6HEEHVkq\nHjIn4lq2maNVVehQ\
                     /SAYhdj/x6G8YGFc\n-----END PUBLIC KEY-----\n";
    /// The modulus of the RSA key, and the coordinates of the others.
    const N: &str = "nLGvlpur5CseoepZ8qI7Hb8_Tg_gFkhZVUqV6InnAkObqpFqNlLnMJMFzRbujMBo22TifExItAGeRfVKqCVaiX21\
                     OgqrvXTzqO3CtFnPEaIm9nSnugRggzBRKEmp7uenD1Zmn4bVhJIn4RTINjv9Ay7jscDKCHYNo5FWVsCnPbiuXndI\
                     7kSIuADbsJmTclUlzQ2VUB5Pa0dlSZ6ALh1jUyxWErYWy5TpKTVKTtFEn8yZWf8kJ1K44cNwlGpu6VxHSJy-wv0D\
                     uh5UBprpmnbtbB7XFeoUsrZmV7uOOgxnvR2UF6_CgCh6Q68ElvcDu7sTNrIUMxJ-Ez7Ua8ZCVkjdQw";
    const X: &str = "4g6-6MmRad39RwxkoZEvb4CS3xKAZBYLgffIUd3As7I";
    const Y: &str = "rY-x-jfv4GqYOY8jRhNxPDAjjrol7eD8RZK_8J53j_g";
    const ED_X: &str = "VK72h2YEgkbZkkBiQOI9QlO-qeZxdKoih_x81TyApDc";

    fn user(keys: Vec<TokenKey>, token: &str) -> Option<String> {
        let tokens = Tokens::new(keys, TokenRules::default());
        let holder = tokens.verify(token.as_bytes(), 1_800_000_000).ok()?;
        Some(holder.user.as_str().to_owned())
    }

    fn jwk_set() -> String {
        format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","n":"{N}","e":"AQAB"}},
                {{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}"}},{{"kty":"OKP","crv":"Ed25519","x":"{ED_X}"}}]}}"#
        )
    }

    #[test]
    fn tokens_that_openssl_signed_are_verified_by_its_public_keys_in_pem() {
        for (pem, token) in [(RSA, OF_RSA), (P256, OF_P256), (ED25519, OF_ED25519)] {
            let keys = TokenKey::parse(pem).expect("a key");
            assert_eq!(user(keys.clone(), token).as_deref(), Some("ann"), "{pem}");
            for other in [OF_RSA, OF_P256, OF_ED25519]
                .into_iter()
                .filter(|other| *other != token)
            {
                assert_eq!(user(keys.clone(), other), None, "{pem}");
            }
        }
        let all = TokenKey::parse(&[RSA, P256, ED25519].concat()).expect("three keys");
        assert_eq!(all.len(), 3);
        assert_eq!(user(all, OF_ED25519).as_deref(), Some("ann"));
    }

    #[test]
    fn the_same_keys_as_a_set_of_json_web_keys_verify_the_same_tokens() {
        let keys = TokenKey::parse(&jwk_set()).expect("three keys");
        assert_eq!(keys.len(), 3);
        for token in [OF_RSA, OF_P256, OF_ED25519] {
            assert_eq!(user(keys.clone(), token).as_deref(), Some("ann"));
        }
        let alone = format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}"}}"#);
        assert_eq!(TokenKey::parse(&alone).map(|keys| keys.len()), Ok(1));
    }

    #[test]
    fn keys_for_something_else_are_left_out_of_a_set() {
        let keys = |text: String| TokenKey::parse(&text).map(|keys| keys.len());
        assert_eq!(keys(jwk_set().replace(r#""use":"sig""#, r#""use":"enc""#)), Ok(2));
        assert_eq!(
            keys(jwk_set().replace(r#""alg":"RS256""#, r#""alg":"RS512""#)),
            Ok(2)
        );
        assert_eq!(
            keys(jwk_set().replace(r#""crv":"P-256""#, r#""crv":"P-521""#)),
            Ok(2)
        );
        assert_eq!(
            keys(r#"{"keys":[{"kty":"FUTURE"}]}"#.to_owned()),
            Err(KeyMistake::Algorithm)
        );
    }

    #[test]
    fn a_file_with_a_key_that_is_wrong_is_refused_with_the_reason() {
        let mistake = |text: &str| TokenKey::parse(text).err();
        assert_eq!(mistake(""), Some(KeyMistake::NoKeys));
        assert_eq!(mistake("hunter2"), Some(KeyMistake::NoKeys));
        assert_eq!(mistake("{}"), Some(KeyMistake::NoKeys));
        assert_eq!(mistake("{\"keys\":7}"), Some(KeyMistake::Form));
        assert_eq!(mistake("{\"keys\":[7]}"), Some(KeyMistake::Form));
        assert_eq!(mistake(RSA_1024), Some(KeyMistake::RsaSize));
        assert_eq!(mistake(P384), Some(KeyMistake::Algorithm));
        assert_eq!(
            mistake(&RSA.replace("PUBLIC", "RSA PRIVATE")),
            Some(KeyMistake::Private)
        );
        assert_eq!(
            mistake(r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}"#),
            Some(KeyMistake::Private)
        );
        assert_eq!(
            mistake(r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#),
            Some(KeyMistake::Form)
        );
        assert_eq!(
            mistake(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#),
            Some(KeyMistake::RsaSize)
        );
        assert_eq!(
            mistake(r#"{"kty":"oct","k":"AAAA"}"#),
            Some(KeyMistake::SecretTooShort)
        );
        assert_eq!(mistake(&ED25519.repeat(17)), Some(KeyMistake::TooMany));
        let secret = TokenKey::secret(&[7; 31]);
        assert_eq!(secret.err(), Some(KeyMistake::SecretTooShort));
    }

    #[test]
    fn a_public_key_that_is_not_whole_is_refused_and_none_makes_it_panic() {
        let form = Some(KeyMistake::Form);
        for pem in [RSA, P256, ED25519] {
            let whole = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).expect("a key");
            assert!(parse_spki(&whole).is_ok());
            for end in 0..whole.len() {
                assert_eq!(parse_spki(&whole[..end]).err(), form, "{end}");
            }
            assert_eq!(parse_spki(&[&whole, &[0][..]].concat()).err(), form);
            for at in 0..whole.len() {
                for byte in 0..=255 {
                    let mut damaged = whole.to_vec();
                    damaged[at] = byte;
                    // Most of them are whole keys that nobody has.
                    let _ = parse_spki(&damaged);
                }
            }
        }
        // A bit too few, a byte too few, a number with a zero too many before it, and a number too many.
        let ed25519 = SubjectPublicKeyInfoDer::from_pem_slice(ED25519.as_bytes()).expect("a key");
        let mut bits = ed25519.to_vec();
        bits[11] = 1;
        assert_eq!(parse_spki(&bits).err(), form);
        let mut short = ed25519.to_vec();
        (short[1], short[10]) = (short[1] - 1, short[10] - 1);
        short.pop();
        assert_eq!(parse_spki(&short).err(), form);
        assert_eq!(
            rsa_numbers(&[0x30, 6, 2, 1, 5, 2, 1, 3]),
            Ok((&[5][..], &[3][..]))
        );
        for wrong in [
            &[0x30, 7, 2, 2, 0, 5, 2, 1, 3][..],
            &[0x30, 9, 2, 1, 5, 2, 1, 3, 2, 1, 3],
            &[0x30, 3, 2, 1, 5],
            &[0x30, 5, 2, 1, 5, 2, 0],
        ] {
            assert!(rsa_numbers(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_does_not_show_its_secret() {
        let key = TokenKey::secret(b"a secret of at least 32 characters").expect("long enough");
        assert_eq!(format!("{key:?}"), "TokenKey(HS256)");
    }
}
