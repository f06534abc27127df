//! A gateway whose clients prove themselves by SCRAM-SHA-256 (RFC 5802, RFC 7677), in the AUTH packets of MQTT 5.0: no
//! password goes over the wire, what the gateway keeps is not enough to log in with, and it proves to know it as well.
//! Try it: `cargo run --example scram -- ann pencil`, with a client that names the method `SCRAM-SHA-256`.

use std::collections::HashMap;
use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use tidegate::board::Boards;
use tidegate::config::Settings;
use tidegate::gateway::{self, Gateway};
use tidegate::hooks::{
    DenialReason, ExchangeEnd, ExchangeId, Hook, Interests, Judgement, Later, Moment, Proved, Step,
};
use tidegate::mqtt::Utf8String;

/// As clients name it.
pub const METHOD: &str = "SCRAM-SHA-256";

/// What RFC 7677 asks for at least. Only the client's processor has to do it at each login.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not 0");

/// Far more than a name and a nonce take: nothing longer is kept for somebody who has proved nothing.
const FIRST_MESSAGE_BYTES_MAX: usize = 512;

/// The hook.
pub struct Scram {
    users: HashMap<String, Record>,
    /// What users are made of that there are not.
    secret: hmac::Key,
    random: SystemRandom,
    begun: HashMap<ExchangeId, Begun>,
}

/// What is kept of a user in the place of its password.
#[derive(Clone)]
struct Record {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// An exchange of which the client's last message is owed.
struct Begun {
    user: String,
    record: Record,
    /// What stood before the client's first message: that it binds no channel.
    header: String,
    nonce: String,
    /// Both first messages, as the proof covers them.
    so_far: String,
}

impl Record {
    /// Of names and passwords beyond ASCII, SASLprep (RFC 4013) would have to be made before.
    fn new(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        Self {
            salt: salt.to_vec(),
            iterations,
            stored_key: sha256(&sign(&salted, "Client Key")),
            server_key: sign(&salted, "Server Key"),
        }
    }
}

impl Scram {
    /// Nobody but `users`, each with its password.
    pub fn new(users: &[(&str, &str)]) -> Self {
        let random = SystemRandom::new();
        let bytes: [u8; 32] = random_bytes(&random);
        let users = users.iter().map(|(name, password)| {
            let salt: [u8; 16] = random_bytes(&random);
            ((*name).to_owned(), Record::new(password, &salt, ITERATIONS))
        });
        Self {
            users: users.collect(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            random,
            begun: HashMap::new(),
        }
    }

    /// The client's first message, and our own part of the nonce, to our first message.
    fn begin(&mut self, exchange: ExchangeId, message: &str, nonce: &str) -> Option<String> {
        if message.len() > FIRST_MESSAGE_BYTES_MAX {
            return None;
        }
        // "n" and "y" bind no channel, "p=" would. Who wants to act for somebody else says so between the commas.
        let (header, bare) = message
            .split_at_checked(3)
            .filter(|(header, _)| matches!(*header, "n,," | "y,,"))?;
        let mut attributes = bare.split(',');
        let user = unescaped(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = format!("{}{nonce}", attributes.next()?.strip_prefix("r=")?);
        let record = self
            .users
            .get(&user)
            .cloned()
            .unwrap_or_else(|| self.nobody(&user));
        let salt = Base64::encode_string(&record.salt);
        let answer = format!("r={nonce},s={salt},i={}", record.iterations);
        let begun = Begun {
            user,
            record,
            header: header.to_owned(),
            nonce,
            so_far: format!("{bare},{answer}"),
        };
        self.begun.insert(exchange, begun);
        Some(answer)
    }

    /// The client's last message to whom it has proved to be, and our last message, which proves that we know it.
    fn finish(&mut self, exchange: ExchangeId, message: &str) -> Option<(String, String)> {
        let Begun {
            user,
            record,
            header,
            nonce,
            so_far,
        } = self.begun.remove(&exchange)?;
        let (unproved, proof) = message.rsplit_once(",p=")?;
        let mut attributes = unproved.split(',');
        let is_of_this_exchange = attributes.next()?.strip_prefix("c=")?
            == Base64::encode_string(header.as_bytes())
            && attributes.next()?.strip_prefix("r=")? == nonce;
        let signed = format!("{so_far},{unproved}");
        let mut client_key = sign(&record.stored_key, &signed);
        let proof = Base64::decode_vec(proof)
            .ok()
            .filter(|proof| proof.len() == client_key.len())?;
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        // Under a key that nobody knows, how long the comparison takes says nothing.
        let expected = hmac::sign(&self.secret, &record.stored_key);
        let is_right = hmac::verify(&self.secret, &sha256(&client_key), expected.as_ref()).is_ok();
        let answer = format!("v={}", Base64::encode_string(&sign(&record.server_key, &signed)));
        (is_right && is_of_this_exchange).then_some((user, answer))
    }

    /// A user that there is not: the same whenever it is asked for, and with keys that nobody has a password for.
    fn nobody(&self, name: &str) -> Record {
        let made = |what: &str| hmac::sign(&self.secret, format!("{what} {name}").as_bytes());
        let key = |what| made(what).as_ref().try_into().unwrap_or_default();
        Record {
            salt: made("salt").as_ref().iter().take(16).copied().collect(),
            iterations: ITERATIONS,
            stored_key: key("stored"),
            server_key: key("server"),
        }
    }
}

impl Hook for Scram {
    fn name(&self) -> &str {
        "scram"
    }

    fn interests(&self) -> Interests {
        Interests::NONE
    }

    fn authentication_methods(&self) -> Vec<Utf8String> {
        Utf8String::try_from(METHOD).into_iter().collect()
    }

    fn exchange(&mut self, step: &Step<'_>, _: &mut Later<'_, Judgement>) -> Judgement {
        let message = step.data.and_then(|data| std::str::from_utf8(data).ok());
        let judgement = message.and_then(|message| match step.moment {
            Moment::Begin(_) | Moment::Again(_) => {
                let nonce = Base64::encode_string(&random_bytes::<18>(&self.random));
                let answer = self.begin(step.exchange, message, &nonce)?;
                Some(Judgement::Continue {
                    data: Some(answer.into()),
                })
            }
            Moment::Next => {
                let (user, answer) = self.finish(step.exchange, message)?;
                Some(Judgement::Allow(Box::new(Proved {
                    user: Some(Utf8String::try_from(user.as_str()).ok()?),
                    data: Some(answer.into()),
                    ..Proved::default()
                })))
            }
        });
        judgement.unwrap_or(Judgement::Deny(DenialReason::NOT_AUTHORIZED))
    }

    fn exchange_ended(&mut self, exchange: ExchangeId, _: ExchangeEnd) {
        self.begun.remove(&exchange);
    }
}

/// A name, in which "=2C" stands for a comma and "=3D" for "=".
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(2)?;
        plain.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        plain.push_str(rest);
    }
    (!plain.is_empty()).then_some(plain)
}

fn sign(key: &[u8], text: &str) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn random_bytes<const N: usize>(random: &SystemRandom) -> [u8; N] {
    let mut bytes = [0; N];
    random
        .fill(&mut bytes)
        .expect("the operating system has randomness");
    bytes
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(user), Some(password)) = (arguments.next(), arguments.next()) else {
        return Err("found no user and password, expected both: scram USER PASSWORD".into());
    };
    let settings = Settings::local(&[], Boards::compiled_in().base().clone())?;
    gateway::runtime()?.block_on(async {
        let scram = Scram::new(&[(&user, &password)]);
        let gateway = Gateway::builder(settings).hook(Box::new(scram)).bind()?;
        for (name, endpoint) in gateway.addresses() {
            println!("{name}: {endpoint}");
        }
        gateway.run(std::future::pending()).await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// The user of RFC 7677, section 3.
    fn scram() -> Scram {
        let salt = Base64::decode_vec("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let mut scram = Scram::new(&[]);
        scram
            .users
            .insert("user".into(), Record::new("pencil", &salt, ITERATIONS));
        scram
    }

    fn number(number: u64) -> ExchangeId {
        ExchangeId::new(number)
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_had_to_the_letter() {
        let mut scram = scram();
        let answer = scram.begin(number(1), FIRST, NONCE).expect("a message");
        let expected =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(answer, expected);
        let (user, answer) = scram.finish(number(1), LAST).expect("the proof is right");
        assert_eq!(user, "user");
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(scram.finish(number(1), LAST), None, "it was good for once");
    }

    #[test]
    fn a_proof_is_good_for_its_exchange_and_nothing_else() {
        let wrong = [
            LAST.replace("p=dH", "p=dI"),
            LAST.replace("c=biws", "c=eSws"),
            LAST.replace("k0,p", "k1,p"),
            LAST.replace("VQ=", "VQ"),
            LAST.replace(",p=", ",q="),
            String::new(),
        ];
        for last in wrong {
            let mut scram = scram();
            scram.begin(number(1), FIRST, NONCE).expect("a message");
            assert_eq!(scram.finish(number(1), &last), None, "{last}");
        }
        let mut scram = scram();
        scram.begin(number(1), FIRST, "another nonce").expect("a message");
        assert_eq!(
            scram.finish(number(1), LAST),
            None,
            "it was heard in another exchange"
        );
        assert_eq!(scram.finish(number(2), LAST), None, "nobody began it");
    }

    #[test]
    fn a_user_that_there_is_not_is_answered_like_any_other() {
        let mut scram = scram();
        let ask = |scram: &mut Scram| scram.begin(number(1), "n,,n=nobody,r=x", "y").expect("a message");
        let answer = ask(&mut scram);
        assert_eq!(ask(&mut scram), answer, "the salt stays");
        assert!(
            answer.starts_with("r=xy,s=") && answer.ends_with("==,i=4096"),
            "{answer}"
        );
        assert_eq!(scram.finish(number(1), &LAST.replace("rOpr", "xy")), None);
    }

    #[test]
    fn a_first_message_of_another_form_is_refused() {
        let long = format!("n,,n={},r=x", "u".repeat(600));
        for first in [
            "",
            "n,",
            "p=tls-unique,,n=user,r=x",
            "n,a=ann,n=user,r=x",
            "n,,m=new,n=user,r=x",
            "n,,n=,r=x",
            "n,,n=a=2,r=x",
            "n,,n=user",
            "n,ü,n=user,r=x",
            &long,
        ] {
            assert_eq!(scram().begin(number(1), first, NONCE), None, "{first}");
        }
        assert_eq!(unescaped("a=2Cb=3D"), Some("a,b=".into()));
    }
}
