//! Tokens and the keys they are verified by, of arbitrary bytes: nobody comes in by a token that was not signed, and of
//! one that was, only whom a plain reading of its claims lets in.
//!
//! The first byte of an input says what is tried. Header and claims of a token that is signed stand in two lines.

#![no_main]

use base64ct::{Base64UrlUnpadded, Encoding};
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use serde_json::Value;
use tidegate::auth::token_keys::TokenKey;
use tidegate::auth::tokens::{TokenError, TokenRules, Tokens};

const SECRET: [u8; 32] = *b"a secret that nobody could guess";
const NOW: u64 = 1_800_000_000;

fuzz_target!(|input: &[u8]| {
    let [what, bytes @ ..] = input else {
        return;
    };
    match (what % 4, std::str::from_utf8(bytes)) {
        (0, Ok(text)) => read_keys(text),
        (1 | 2, Ok(text)) => read_claims(text, what % 4 == 2),
        _ => {
            let verified = tokens(TokenRules::default()).verify(bytes, NOW);
            assert!(verified.is_err(), "nobody signed it");
        }
    }
});

fn tokens(rules: TokenRules) -> Tokens {
    Tokens::new(vec![TokenKey::secret(&SECRET).expect("long enough")], rules)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

fn read_keys(text: &str) {
    let Ok(keys) = TokenKey::parse(text) else {
        return;
    };
    assert!((1..=TokenKey::KEYS_MAX).contains(&keys.len()));
    let headers: Vec<_> = (keys.iter())
        .map(|key| format!(r#"{{"alg":"{}"}}"#, key.algorithm()))
        .collect();
    let tokens = Tokens::new(keys, TokenRules::default());
    for header in headers {
        let token = format!(
            "{}.{}.{}",
            encode(header),
            encode(r#"{"sub":"ann"}"#),
            encode([7; 64])
        );
        let verified = tokens.verify(token.as_bytes(), NOW);
        assert!(
            matches!(verified, Err(TokenError::Signature | TokenError::NoKey)),
            "no claim is read before the signature is right: {verified:?}"
        );
    }
}

fn read_claims(text: &str, is_strict: bool) {
    let (header, claims) = text.split_once('\n').unwrap_or((r#"{"alg":"HS256"}"#, text));
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let signature = hmac::sign(&key, signed.as_bytes());
    let rules = TokenRules {
        issuer: is_strict.then(|| "issuer".to_owned()),
        audience: is_strict.then(|| "gateway".to_owned()),
        client_id_claim: is_strict.then(|| "device".to_owned()),
        ..TokenRules::default()
    };
    let leeway_secs = rules.leeway.as_secs();
    let tokens = tokens(rules);
    let verify = |signature: &[u8]| tokens.verify(format!("{signed}.{}", encode(signature)).as_bytes(), NOW);
    let Ok(holder) = verify(signature.as_ref()) else {
        return;
    };
    let mut forged = signature.as_ref().to_vec();
    forged[text.len() % 32] ^= 1;
    assert_eq!(verify(&forged), Err(TokenError::Signature));
    assert!(verify(&forged[..31]).is_err() && verify(&[]).is_err());

    let header: Value = serde_json::from_str(header).expect("it was read");
    let claims: Value = serde_json::from_str(claims).expect("it was read");
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none());
    let now = NOW as f64;
    let leeway = leeway_secs as f64;
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp + leeway >= now));
    assert!(holder.expires_unix_secs > NOW);
    assert!(
        claims
            .get("nbf")
            .is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf <= now + leeway + 1.0))
    );
    assert_eq!(claims["sub"], holder.user.as_str());
    assert!(!holder.user.as_str().is_empty());
    assert_eq!(holder.client.is_some(), is_strict);
    if is_strict {
        assert_eq!(claims["iss"], "issuer");
        let audience = claims["aud"]
            .as_array()
            .map_or(std::slice::from_ref(&claims["aud"]), Vec::as_slice);
        assert!(audience.iter().any(|one| one == "gateway"));
    }
}
