//! JSON Web Tokens (RFC 7519) in the place of a password: who the token was given to comes in, until it expires.
//!
//! ```text
//! BASE64URL({"alg": …, "kid": …}) . BASE64URL({"sub": …, "exp": …, …}) . BASE64URL(SIGNATURE)
//! ```
//!
//! 1. A key has one algorithm, and a token is held to the algorithm of the key that verifies it: what its header says
//!    only chooses among the keys. `none` is the algorithm of no key.
//! 2. No claim is read before the signature is found right.
//! 3. A token without an end is refused.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use ring::{digest, hmac};
use serde_json::{Map, Value};

use super::groups::Groups;
use super::token_keys::{Material, TokenKey};
use crate::mqtt::Utf8String;

/// Checks tokens by a set of keys and rules.
pub struct Tokens {
    keys: Vec<TokenKey>,
    rules: TokenRules,
}

/// What a token must say, beside being signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be this, or hold it.
    pub audience: Option<String>,
    /// The claim that is the user name.
    pub user_claim: String,
    /// The claim that is the client identifier, where a token is for one client only.
    pub client_id_claim: Option<String>,
    /// The claim that names groups of the user, a list or one, which a token may leave out.
    pub groups_claim: Option<String>,
    /// By how much clocks may differ: `exp` is that much later, `nbf` that much earlier.
    pub leeway: Duration,
    /// The longest token, in bytes.
    pub token_bytes_max: usize,
}

/// How a token is signed (RFC 7518 section 3, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// RSA with PKCS #1 1.5 and SHA-256, keys of at least 2,048 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256: whoever can check a token can make one.
    Hs256,
}

/// What a token that is right says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHolder {
    /// The user it was given to; not empty.
    pub user: Utf8String,
    /// The one client identifier it is good for; `None`: any.
    pub client: Option<Utf8String>,
    /// The groups that the user is in by its word.
    pub groups: Groups,
    /// When it ends, the leeway included, in seconds of Unix time.
    pub expires_unix_secs: u64,
}

/// Why a token lets nobody in; for the log, the client is only told that it is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Longer than [`TokenRules::token_bytes_max`].
    TooLong,
    /// No three parts of Base64url, or no JSON objects in them.
    Form,
    /// The header asks for an extension (`crit`), and none is known.
    Extension,
    /// No key for the algorithm and key identifier of the header.
    NoKey,
    /// The signature is not that of any key it could be.
    Signature,
    /// `exp` is missing or no number.
    NoExpiry,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYet,
    /// `iss` is another or missing.
    Issuer,
    /// `aud` is another or missing.
    Audience,
    /// The claim with the user name is missing, empty or no text.
    User,
    /// The claim with the client identifier is missing, empty or no text.
    Client,
    /// The claim with the groups is no list of names, or a longer one than [`Groups`] takes.
    Groups,
}

impl TokenRules {
    /// The user's claim where nothing else is said.
    pub const USER_CLAIM: &'static str = "sub";
    /// The leeway where nothing else is said: clocks that are set by NTP differ by less.
    pub const LEEWAY: Duration = Duration::from_secs(30);
    /// The longest token where nothing else is said; with RS256 and a dozen claims they have about 1 KiB.
    pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            user_claim: Self::USER_CLAIM.to_owned(),
            client_id_claim: None,
            groups_claim: None,
            leeway: Self::LEEWAY,
            token_bytes_max: Self::TOKEN_BYTES_MAX,
        }
    }
}

impl Algorithm {
    /// Each, by the name it has in a header.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("RS256", Self::Rs256),
        ("ES256", Self::Es256),
        ("EdDSA", Self::EdDsa),
        ("HS256", Self::Hs256),
    ];

    /// The one called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name)?;
        Some(found.1)
    }
}

impl Tokens {
    /// A check by `keys` and `rules`; without a key it lets nobody in.
    pub fn new(keys: Vec<TokenKey>, rules: TokenRules) -> Self {
        Self { keys, rules }
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Whether `password` looks like a token, right or wrong: three parts, and the first of them a JSON object's
    /// beginning. What does not is a password.
    pub fn looks_like_one(password: &[u8]) -> bool {
        // The first character of Base64 of "{" is "e", the second holds its last two bits.
        let begins = matches!(password, [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..]);
        begins && password.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Who `token` was given to; slow as signatures are, so off the loop. `now_unix_secs` is the time on a clock that
    /// is not behind.
    ///
    /// # Errors
    /// Why it lets nobody in.
    pub fn verify(&self, token: &[u8], now_unix_secs: u64) -> Result<TokenHolder, TokenError> {
        if token.len() > self.rules.token_bytes_max {
            return Err(TokenError::TooLong);
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenError::Form)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        let header = object(header)?;
        let signature = decode(signature)?;
        self.verify_signature(&header, signed.as_bytes(), &signature)?;
        self.rules.holder(&object(claims)?, now_unix_secs)
    }

    fn verify_signature(
        &self,
        header: &Map<String, Value>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        // RFC 7515 section 4.1.11: who does not know what must be understood refuses.
        if header.contains_key("crit") {
            return Err(TokenError::Extension);
        }
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(Algorithm::named);
        let algorithm = algorithm.ok_or(TokenError::NoKey)?;
        let id = header.get("kid").and_then(Value::as_str);
        let mut error = TokenError::NoKey;
        for key in &self.keys {
            let is_meant = match (id, &key.id) {
                (Some(asked), Some(known)) => asked == known,
                _ => true,
            };
            if key.algorithm() != algorithm || !is_meant {
                continue;
            }
            if is_signed_by(key, signed, signature) {
                return Ok(());
            }
            error = TokenError::Signature;
        }
        Err(error)
    }
}

fn is_signed_by(key: &TokenKey, signed: &[u8], signature: &[u8]) -> bool {
    match &key.material {
        Material::Rsa { modulus, exponent } => {
            let key = RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            };
            key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature)
                .is_ok()
        }
        Material::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
            .verify(signed, signature)
            .is_ok(),
        Material::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key)
            .verify(signed, signature)
            .is_ok(),
        Material::Secret(key) => {
            signature.len() == digest::SHA256_OUTPUT_LEN && hmac::verify(key, signed, signature).is_ok()
        }
    }
}

impl TokenRules {
    /// What the claims of a signed token say.
    fn holder(&self, claims: &Map<String, Value>, now_unix_secs: u64) -> Result<TokenHolder, TokenError> {
        let exp = claims
            .get("exp")
            .and_then(numeric_date)
            .ok_or(TokenError::NoExpiry)?;
        let expires_unix_secs = exp.saturating_add(self.leeway.as_secs());
        if now_unix_secs >= expires_unix_secs {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = claims.get("nbf") {
            let nbf = numeric_date(nbf).ok_or(TokenError::NotYet)?;
            if now_unix_secs.saturating_add(self.leeway.as_secs()) < nbf {
                return Err(TokenError::NotYet);
            }
        }
        let is = |claim: &Value, wanted: &str| claim.as_str() == Some(wanted);
        if let Some(issuer) = &self.issuer
            && !claims.get("iss").is_some_and(|claim| is(claim, issuer))
        {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience {
            let holds = match claims.get("aud") {
                Some(Value::Array(each)) => each.iter().any(|claim| is(claim, audience)),
                Some(claim) => is(claim, audience),
                None => false,
            };
            if !holds {
                return Err(TokenError::Audience);
            }
        }
        let text = |name: &str| -> Option<Utf8String> {
            let text = claims.get(name)?.as_str().filter(|text| !text.is_empty())?;
            Utf8String::try_from(text).ok()
        };
        let client = match &self.client_id_claim {
            Some(name) => Some(text(name).ok_or(TokenError::Client)?),
            None => None,
        };
        // A token with fewer groups than it should have might be denied less.
        let groups = match self.groups_claim.as_ref().and_then(|name| claims.get(name)) {
            None | Some(Value::Null) => Groups::default(),
            Some(claim) => Groups::of_json(claim).ok_or(TokenError::Groups)?,
        };
        Ok(TokenHolder {
            user: text(&self.user_claim).ok_or(TokenError::User)?,
            client,
            groups,
            expires_unix_secs,
        })
    }
}

/// Seconds of Unix time, whole or not (RFC 7519 section 2); what is before 1970 is 0.
fn numeric_date(value: &Value) -> Option<u64> {
    match value.as_u64() {
        Some(secs) => Some(secs),
        // From a float, `as` cuts off the fraction and stays within bounds.
        None => value.as_f64().map(|secs| secs as u64),
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    Base64UrlUnpadded::decode_vec(part).map_err(|_| TokenError::Form)
}

/// The JSON object in a part. It nests no deeper than serde_json follows, which is 128.
fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    match serde_json::from_slice(&decode(part)?) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(TokenError::Form),
    }
}

impl fmt::Debug for Tokens {
    /// Without the keys, one of which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("keys", &self.keys.len())
            .field("rules", &self.rules)
            .finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMES.iter().find(|(_, known)| known == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the token is too long",
            Self::Form => "the token is malformed",
            Self::Extension => "the token asks for an extension",
            Self::NoKey => "no key for the token's algorithm and key identifier",
            Self::Signature => "the token's signature is wrong",
            Self::NoExpiry => "the token has no exp",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token does not hold yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for another audience",
            Self::User => "the token names no user",
            Self::Client => "the token names no client identifier",
            Self::Groups => "the token's groups are no list of names",
        })
    }
}

impl std::error::Error for TokenError {}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    /// Somebody who gives out tokens.
    enum Issuer {
        P256(Box<EcdsaKeyPair>),
        Ed25519(Ed25519KeyPair),
        Secret([u8; 32]),
    }

    impl Issuer {
        fn p256() -> Self {
            let (random, algorithm) = (SystemRandom::new(), &signature::ECDSA_P256_SHA256_FIXED_SIGNING);
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("random numbers");
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("its own");
            Self::P256(Box::new(pair))
        }

        fn ed25519() -> Self {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random numbers");
            Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("its own"))
        }

        fn algorithm(&self) -> &'static str {
            match self {
                Self::P256(_) => "ES256",
                Self::Ed25519(_) => "EdDSA",
                Self::Secret(_) => "HS256",
            }
        }

        fn key(&self) -> TokenKey {
            let material = match self {
                Self::P256(pair) => Material::P256(pair.public_key().as_ref().try_into().expect("65 bytes")),
                Self::Ed25519(pair) => {
                    Material::Ed25519(pair.public_key().as_ref().try_into().expect("32 bytes"))
                }
                Self::Secret(secret) => return TokenKey::secret(secret).expect("long enough"),
            };
            TokenKey { id: None, material }
        }

        fn sign(&self, header: &str, claims: &str) -> String {
            let encode = |text: &[u8]| Base64UrlUnpadded::encode_string(text);
            let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
            let signature = match self {
                Self::P256(pair) => pair
                    .sign(&SystemRandom::new(), signed.as_bytes())
                    .expect("random numbers")
                    .as_ref()
                    .to_vec(),
                Self::Ed25519(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
                Self::Secret(secret) => {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                    hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
                }
            };
            format!("{signed}.{}", encode(&signature))
        }

        fn token(&self, claims: &str) -> String {
            self.sign(&format!(r#"{{"alg":"{}"}}"#, self.algorithm()), claims)
        }
    }

    fn right() -> String {
        format!(r#"{{"sub":"ann","exp":{}}}"#, NOW + 60)
    }

    /// The outcome of `claims` under `rules`.
    fn claims(rules: TokenRules, claims: &str) -> Result<TokenHolder, TokenError> {
        let issuer = Issuer::Secret([7; 32]);
        Tokens::new(vec![issuer.key()], rules).verify(issuer.token(claims).as_bytes(), NOW)
    }

    #[test]
    fn a_token_of_each_algorithm_lets_its_user_in() {
        for issuer in [Issuer::p256(), Issuer::ed25519(), Issuer::Secret([7; 32])] {
            let tokens = Tokens::new(vec![issuer.key()], TokenRules::default());
            let token = issuer.token(&right());
            assert!(Tokens::looks_like_one(token.as_bytes()));
            let holder = tokens.verify(token.as_bytes(), NOW).expect("right");
            assert_eq!((holder.user.as_str(), holder.client), ("ann", None));
            assert_eq!(holder.expires_unix_secs, NOW + 60 + 30);
        }
    }

    #[test]
    fn the_example_of_rfc_7515_is_verified_until_it_expires() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let secret = decode(secret).expect("Base64url");
        let token =
            b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0\
                      dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let rules = TokenRules {
            user_claim: "iss".to_owned(),
            ..TokenRules::default()
        };
        let tokens = Tokens::new(vec![TokenKey::secret(&secret).expect("long enough")], rules);
        let user = |now| {
            tokens
                .verify(token, now)
                .map(|holder| holder.user.as_str().to_owned())
        };
        assert_eq!(user(1_300_819_379), Ok("joe".to_owned()));
        assert_eq!(user(1_300_819_380 + 29), Ok("joe".to_owned()), "the leeway");
        assert_eq!(user(1_300_819_380 + 30), Err(TokenError::Expired));
    }

    #[test]
    fn what_the_header_says_makes_no_key_one_of_another_algorithm() {
        let (ours, theirs) = (Issuer::p256(), Issuer::ed25519());
        let tokens = Tokens::new(vec![ours.key(), theirs.key()], TokenRules::default());
        let verify = |token: String| tokens.verify(token.as_bytes(), NOW).err();
        // The public key of ours as if it were a secret.
        let Material::P256(point) = ours.key().material else {
            panic!("a point")
        };
        let as_secret = Issuer::Secret(point[..32].try_into().expect("32 bytes"));
        assert_eq!(verify(as_secret.token(&right())), Some(TokenError::NoKey));
        assert_eq!(
            verify(ours.sign(r#"{"alg":"EdDSA"}"#, &right())),
            Some(TokenError::Signature)
        );
        for none in ["none", "None", "NONE", "", "es256", "ES384"] {
            let header = format!(r#"{{"alg":"{none}"}}"#);
            let token = ours.sign(&header, &right());
            assert_eq!(verify(token.clone()), Some(TokenError::NoKey), "{none}");
            let unsigned = token[..=token.rfind('.').expect("a dot")].to_owned();
            assert_eq!(verify(unsigned), Some(TokenError::NoKey), "{none}");
        }
        for header in [
            "{}",
            r#"{"alg":null}"#,
            r#"{"alg":["ES256"]}"#,
            r#"{"ALG":"ES256"}"#,
        ] {
            assert_eq!(
                verify(ours.sign(header, &right())),
                Some(TokenError::NoKey),
                "{header}"
            );
        }
        let critical = ours.sign(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, &right());
        assert_eq!(verify(critical), Some(TokenError::Extension));
    }

    #[test]
    fn a_key_identifier_chooses_among_keys_that_have_one() {
        let (ours, theirs) = (Issuer::p256(), Issuer::p256());
        let mut keys = vec![ours.key(), theirs.key()];
        keys[0].id = Some("ours".to_owned());
        keys[1].id = Some("theirs".to_owned());
        let tokens = Tokens::new(keys, TokenRules::default());
        let verify = |id: &str| {
            let token = ours.sign(&format!(r#"{{"alg":"ES256"{id}}}"#), &right());
            tokens.verify(token.as_bytes(), NOW).err()
        };
        assert_eq!(verify(r#","kid":"ours""#), None);
        assert_eq!(verify(""), None);
        assert_eq!(verify(r#","kid":"theirs""#), Some(TokenError::Signature));
        assert_eq!(verify(r#","kid":"nobody's""#), Some(TokenError::NoKey));
    }

    #[test]
    fn a_token_with_any_byte_changed_or_cut_lets_nobody_in() {
        let issuer = Issuer::Secret([7; 32]);
        let tokens = Tokens::new(vec![issuer.key()], TokenRules::default());
        let token = issuer.token(&right()).into_bytes();
        for place in 0..token.len() {
            assert!(tokens.verify(&token[..place], NOW).is_err(), "cut at {place}");
            for byte in [b'.', b'A', b'=', b'\n', b'"', 0, 0xff] {
                let mut changed = token.clone();
                if changed[place] == byte {
                    continue;
                }
                changed[place] = byte;
                assert!(tokens.verify(&changed, NOW).is_err(), "{byte} at {place}");
            }
        }
        for more in ["=", "A", "\n", ".", ".AA"] {
            let longer = [&token[..], more.as_bytes()].concat();
            assert!(tokens.verify(&longer, NOW).is_err(), "{more:?}");
        }
    }

    #[test]
    fn tokens_that_are_too_long_or_nest_too_deeply_are_refused() {
        let long = format!(r#"{{"sub":"ann","exp":{},"x":"{}"}}"#, NOW + 60, "x".repeat(3000));
        assert_eq!(
            claims(TokenRules::default(), &long).err(),
            Some(TokenError::TooLong)
        );
        for nested in [
            "[".repeat(1000),
            format!("{}{}", "[".repeat(1000), "]".repeat(1000)),
        ] {
            let deep = format!(r#"{{"sub":"ann","exp":{},"x":{nested}}}"#, NOW + 60);
            assert_eq!(claims(TokenRules::default(), &deep).err(), Some(TokenError::Form));
        }
        let issuer = Issuer::Secret([7; 32]);
        let tokens = Tokens::new(vec![issuer.key()], TokenRules::default());
        let header = format!(
            r#"{{"alg":"HS256","x":{}{}}}"#,
            "[".repeat(1000),
            "]".repeat(1000)
        );
        let token = issuer.sign(&header, &right());
        assert_eq!(tokens.verify(token.as_bytes(), NOW).err(), Some(TokenError::Form));
    }

    #[test]
    fn the_times_of_a_token_are_held_to_within_the_leeway() {
        let outcome =
            |times: String| claims(TokenRules::default(), &format!(r#"{{"sub":"ann"{times}}}"#)).err();
        assert_eq!(outcome(format!(r#","exp":{}"#, NOW - 29)), None);
        assert_eq!(outcome(format!(r#","exp":{}.75"#, NOW - 29)), None);
        assert_eq!(
            outcome(format!(r#","exp":{}"#, NOW - 30)),
            Some(TokenError::Expired)
        );
        for past in ["-1", "0", "-1e300"] {
            assert_eq!(
                outcome(format!(r#","exp":{past}"#)),
                Some(TokenError::Expired),
                "{past}"
            );
        }
        for none in [
            "",
            r#","exp":null"#,
            r#","exp":"1900000000""#,
            r#","exp":[]"#,
            r#","exp":true"#,
        ] {
            assert_eq!(outcome(none.to_owned()), Some(TokenError::NoExpiry), "{none}");
        }
        for future in ["18446744073709551615", "1e300"] {
            assert_eq!(outcome(format!(r#","exp":{future}"#)), None, "{future}");
        }
        let later = |nbf: String| outcome(format!(r#","exp":{},"nbf":{nbf}"#, NOW + 60));
        assert_eq!(later((NOW + 30).to_string()), None);
        assert_eq!(later((NOW + 31).to_string()), Some(TokenError::NotYet));
        assert_eq!(later("\"0\"".to_owned()), Some(TokenError::NotYet));
    }

    #[test]
    fn issuer_and_audience_are_held_to_where_they_are_asked_for() {
        let rules = || TokenRules {
            issuer: Some("https://issuer.example".to_owned()),
            audience: Some("gateway-7".to_owned()),
            ..TokenRules::default()
        };
        let outcome = |more: &str| {
            let text = format!(r#"{{"sub":"ann","exp":{}{more}}}"#, NOW + 60);
            claims(rules(), &text).err()
        };
        let issuer = r#","iss":"https://issuer.example""#;
        assert_eq!(outcome(&format!(r#"{issuer},"aud":"gateway-7""#)), None);
        assert_eq!(
            outcome(&format!(r#"{issuer},"aud":["gateway-6","gateway-7"]"#)),
            None
        );
        assert_eq!(
            outcome(r#","iss":"https://issuer.example/","aud":"gateway-7""#),
            Some(TokenError::Issuer)
        );
        assert_eq!(outcome(r#","aud":"gateway-7""#), Some(TokenError::Issuer));
        for aud in [
            "",
            r#","aud":"gateway-70""#,
            r#","aud":[]"#,
            r#","aud":{"gateway-7":1}"#,
        ] {
            assert_eq!(
                outcome(&format!("{issuer}{aud}")),
                Some(TokenError::Audience),
                "{aud}"
            );
        }
    }

    #[test]
    fn the_names_are_taken_from_the_claims_that_are_configured() {
        let rules = || TokenRules {
            user_claim: "name".to_owned(),
            client_id_claim: Some("device".to_owned()),
            ..TokenRules::default()
        };
        let outcome = |more: &str| {
            let text = format!(r#"{{"sub":"ann","exp":{}{more}}}"#, NOW + 60);
            claims(rules(), &text)
        };
        let holder = outcome(r#","name":"bob","device":"pump-7""#).expect("right");
        assert_eq!(holder.user.as_str(), "bob");
        assert_eq!(holder.client.as_ref().map(Utf8String::as_str), Some("pump-7"));
        for user in ["", r#","name":"""#, r#","name":7"#, r#","name":"a\u0000b""#] {
            let told = outcome(&format!(r#"{user},"device":"pump-7""#)).err();
            assert_eq!(told, Some(TokenError::User), "{user}");
        }
        assert_eq!(outcome(r#","name":"bob""#).err(), Some(TokenError::Client));
        assert_eq!(
            outcome(r#","name":"bob","device":"""#).err(),
            Some(TokenError::Client)
        );
    }

    #[test]
    fn a_password_is_not_taken_for_a_token() {
        for password in [
            "",
            "hunter2",
            "a.b.c",
            "eyJ",
            "eyJ.a",
            "e.g.x",
            "{}.{}.x",
            "www.example.org",
        ] {
            assert!(!Tokens::looks_like_one(password.as_bytes()), "{password}");
        }
        assert!(Tokens::looks_like_one(b"eyJh.x.y") && Tokens::looks_like_one(b"ewog.x.y"));
    }
}
