//! Hashes that mosquitto's `mosquitto_passwd` writes, so that its password files can be taken over as they are.
//!
//! ```text
//! bob:$7$ITERATIONS$SALT$HASH     PBKDF2 with HMAC-SHA512
//! old:$6$SALT$HASH                SHA-512 of password and salt, once: weak
//! ```
//!
//! Salt and hash are in Base64 with padding. Tidegate makes no such hashes itself.

use std::fmt;
use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use ring::{digest, pbkdf2};

/// A hash of PBKDF2 or of SHA-512 as mosquitto writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct ImportedHash {
    /// `None`: SHA-512, once.
    iterations: Option<NonZeroU32>,
    salt: Vec<u8>,
    hash: [u8; HASH_BYTES],
}

/// Why text is no such hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportError {
    /// It has another form.
    Form,
    /// It asks for more than [`ImportedHash::ITERATIONS_MAX`].
    TooCostly,
}

/// What SHA-512 gives.
const HASH_BYTES: usize = digest::SHA512_OUTPUT_LEN;

/// Salts of mosquitto have 12 bytes, and 64 since 2.0; a shorter one than this repeats.
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

impl ImportedHash {
    /// The most iterations: what OWASP recommends for PBKDF2-SHA512, a quarter of a second on a PC and some seconds on
    /// the smallest board. `mosquitto_passwd` takes 101 where it is told nothing, 1,000 since 2.1.
    pub const ITERATIONS_MAX: u32 = 210_000;

    /// Takes what follows the colon of a line; `None` where it does not begin like one of these.
    pub fn parse(text: &str) -> Option<Result<Self, ImportError>> {
        let (is_weak, rest) = match (text.strip_prefix("$6$"), text.strip_prefix("$7$")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return None,
        };
        Some(Self::parse_fields(is_weak, rest))
    }

    fn parse_fields(is_weak: bool, rest: &str) -> Result<Self, ImportError> {
        let mut fields = rest.split('$');
        let mut field = || fields.next().ok_or(ImportError::Form);
        let iterations = match is_weak {
            true => None,
            false => Some(parse_iterations(field()?)?),
        };
        let salt = Base64::decode_vec(field()?).map_err(|_| ImportError::Form)?;
        let mut hash = [0; HASH_BYTES];
        let hash_bytes = Base64::decode(field()?, &mut hash).map_or(0, <[u8]>::len);
        if fields.next().is_some() || hash_bytes != HASH_BYTES || !SALT_BYTES.contains(&salt.len()) {
            return Err(ImportError::Form);
        }
        Ok(Self {
            iterations,
            salt,
            hash,
        })
    }

    /// Whether `password` is the one that was hashed; the comparison takes the same time wherever they differ.
    pub fn matches(&self, password: &[u8]) -> bool {
        match self.iterations {
            Some(iterations) => pbkdf2::verify(
                pbkdf2::PBKDF2_HMAC_SHA512,
                iterations,
                &self.salt,
                password,
                &self.hash,
            )
            .is_ok(),
            None => {
                let mut hashing = digest::Context::new(&digest::SHA512);
                hashing.update(password);
                hashing.update(&self.salt);
                let made = hashing.finish();
                let differences = made.as_ref().iter().zip(&self.hash);
                differences.fold(0, |all, (made, kept)| all | (made ^ kept)) == 0
            }
        }
    }

    /// Whether a graphics card tries billions of passwords a second against it.
    pub fn is_weak(&self) -> bool {
        self.iterations.is_none()
    }

    /// How often it hashes.
    pub fn iterations(&self) -> u32 {
        self.iterations.map_or(1, NonZeroU32::get)
    }
}

fn parse_iterations(text: &str) -> Result<NonZeroU32, ImportError> {
    // What parse() would take beside digits is a sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ImportError::Form);
    }
    // So many digits that it is no u32 any more are too many iterations, too.
    let iterations: u32 = text.parse().map_err(|_| ImportError::TooCostly)?;
    if iterations > ImportedHash::ITERATIONS_MAX {
        return Err(ImportError::TooCostly);
    }
    NonZeroU32::new(iterations).ok_or(ImportError::Form)
}

impl fmt::Debug for ImportedHash {
    /// Without salt and hash, which do not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedHash").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by mosquitto_passwd 2.0.11 for `water mark`, with its default and with `-H sha512`.
    const PBKDF2: &str = "$7$101$zKBniu2Qn9b0oPRC$fFKbdn9+D/NM/9+VtTHXh1yymsN3nrxuhNSrEZPo7fazdw\
                        DY2jfH8GjiQpMzXBNoz1viU88ZfMmAyHS4pdX+aA==";
    const SHA512: &str = "$6$BtyM5VLKIHrKlsjj$xKTS+OOZqz/4Cn7qzmIgYvWgOeR7OQhzowW9CmaobEy60YUxcV\
                        VM5qwvaaIqYa4X5mcPbWnMWckm9UvYtgRgyw==";
    /// The same for `Grüße`.
    const GREETING: &str = "$7$101$R1h2BdpB1jbneaaz$eLW3tqaNF2TS+lMpX6bpR7FXGDSOsmrDdn/w+J+L6OOwB+\
                        k9W4Fk8naXvtF1f7a5v3/gogJLmMCZJe63Zhu+nQ==";

    fn parse(text: &str) -> Result<ImportedHash, ImportError> {
        ImportedHash::parse(text).expect("it begins like one")
    }

    #[test]
    fn what_mosquitto_wrote_is_matched_by_its_password_only() {
        for (text, password) in [
            (PBKDF2, "water mark"),
            (SHA512, "water mark"),
            (GREETING, "Gr\u{fc}\u{df}e"),
        ] {
            let hash = parse(text).expect("right");
            assert!(hash.matches(password.as_bytes()), "{text}");
            for wrong in ["", "water mar", "water mark ", "Water mark"] {
                assert!(!hash.matches(wrong.as_bytes()), "{text} by {wrong:?}");
            }
        }
        assert_eq!(
            parse(PBKDF2).map(|hash| (hash.iterations(), hash.is_weak())),
            Ok((101, false))
        );
        assert_eq!(
            parse(SHA512).map(|hash| (hash.iterations(), hash.is_weak())),
            Ok((1, true))
        );
    }

    #[test]
    fn a_hash_that_another_program_computed_is_matched() {
        // Python: hashlib.pbkdf2_hmac("sha512", b"water mark", b"saltsaltsalt", 1000).
        let text = "$7$1000$c2FsdHNhbHRzYWx0$Pho8sz9R0W0kj+HMBp0JuNQ9D0DhlneelHNHG8gaJXti89ySLYYvYZYbi/\
                    2gU7ObvC4O535cex0LLvaeGCy6lA==";
        assert!(parse(text).expect("right").matches(b"water mark"));
    }

    #[test]
    fn iterations_out_of_bounds_are_refused() {
        let with = |iterations: &str| parse(&PBKDF2.replacen("101", iterations, 1)).err();
        for form in ["0", "", "+101", "-1", "1e3", " 101", "0x65"] {
            assert_eq!(with(form), Some(ImportError::Form), "{form:?}");
        }
        for dear in ["210001", "4294967295", "4294967296", "99999999999999999999999"] {
            assert_eq!(with(dear), Some(ImportError::TooCostly), "{dear:?}");
        }
        assert_eq!(with("210000"), None);
    }

    #[test]
    fn a_line_that_was_cut_or_changed_in_form_is_refused_at_every_length() {
        for whole in [PBKDF2, SHA512] {
            for length in "$7$".len()..whole.len() {
                assert!(parse(&whole[..length]).is_err(), "{}", &whole[..length]);
            }
            for more in ["=", "A", "$", "$x", " ", "\n"] {
                assert!(parse(&format!("{whole}{more}")).is_err(), "{more:?}");
            }
        }
        // A salt of four bytes.
        let salt = PBKDF2.split('$').nth(3).expect("a salt");
        assert_eq!(
            parse(&PBKDF2.replacen(salt, "AAAAAA==", 1)).err(),
            Some(ImportError::Form)
        );
    }

    #[test]
    fn other_hashes_are_none_of_these() {
        for text in [
            "",
            "$",
            "$5$a$b",
            "$argon2id$v=19$m=1024,t=1,p=1$a$b",
            "7$101$a$b",
            "$77$1$a$b",
        ] {
            assert_eq!(ImportedHash::parse(text), None, "{text}");
        }
    }
}
