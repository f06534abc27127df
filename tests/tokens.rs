//! JSON Web Tokens in the place of passwords: whoever brings one is who it says, until it expires.

mod conversation;
mod running;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use bytes::Bytes;
use conversation::{House, V5, V311, close, connack, refusal, send};
use ring::hmac;
use tidegate::auth::groups::Groups;
use tidegate::broker::{Input, LinkId, Output, Settings, Voucher};
use tidegate::config;
use tidegate::mqtt::{Connect, Disconnect, Packet, ProtocolVersion, ReasonCode};

use running::{Peer, connect, text, with_gateway};

const SECRET: &str = "a secret of more than 32 characters";

/// A house where tokens are taken, and a client at its locked door that has brought one without naming itself.
fn with_token(version: ProtocolVersion, client: &str) -> (House, LinkId) {
    let mut house = House::with(Settings {
        takes_tokens: true,
        ..Settings::default()
    });
    let link = knock(&mut house, version, client);
    (house, link)
}

fn knock(house: &mut House, version: ProtocolVersion, client: &str) -> LinkId {
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        user_name: (version != V5).then(|| text("")),
        password: Some(Bytes::from_static(b"a token")),
        keep_alive_secs: 0,
        ..conversation::client(version, client)
    };
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    let asked = Output::Verify {
        link,
        user: text(""),
        password: Bytes::from_static(b"a token"),
    };
    assert_eq!(outputs, [asked]);
    link
}

/// It was given to ann, and expires in a minute.
fn vouch(house: &mut House, link: LinkId, client: Option<&str>) -> Vec<Output> {
    let voucher = Box::new(Voucher {
        user: text("ann"),
        client: client.map(text),
        groups: Groups::default(),
        expires_at: house.now.mono + Duration::from_secs(60),
    });
    house.step(Input::Vouched { link, voucher })
}

#[test]
fn a_connection_ends_when_its_token_expires_and_a_5_0_client_is_told_why() {
    for version in [V5, V311] {
        let (mut house, link) = with_token(version, "pump");
        let outputs = vouch(&mut house, link, None);
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        assert_eq!(house.wait(Duration::from_secs(59)), []);
        let outputs = house.wait(Duration::from_secs(1));
        let farewell = Packet::Disconnect(Box::new(Disconnect {
            reason: ReasonCode::MaximumConnectTime,
            ..Disconnect::default()
        }));
        assert_eq!(
            outputs.contains(&send(link, farewell)),
            version == V5,
            "{outputs:?}"
        );
        assert!(outputs.contains(&close(link)), "{outputs:?}");
    }
}

#[test]
fn a_connection_that_ends_before_its_token_leaves_no_deadline_behind() {
    let (mut house, link) = with_token(V5, "pump");
    vouch(&mut house, link, None);
    assert!(house.broker.poll_timeout().is_some());
    // By another connection of the same user first.
    let again = knock(&mut house, V5, "pump");
    let outputs = vouch(&mut house, again, None);
    assert!(outputs.contains(&close(link)), "{outputs:?}");
    house.close(again);
    assert_eq!(house.broker.poll_timeout(), None);
}

#[test]
fn a_token_for_one_client_identifier_is_good_for_no_other() {
    for (claim, reason) in [
        ("pump", ReasonCode::Success),
        ("valve", ReasonCode::ClientIdentifierNotValid),
    ] {
        let (mut house, link) = with_token(V5, "pump");
        let outputs = vouch(&mut house, link, Some(claim));
        assert_eq!(connack(&outputs, link).reason, reason, "{claim}");
    }
}

#[test]
fn a_voucher_that_comes_after_its_time_lets_nobody_in() {
    let (mut house, link) = with_token(V5, "pump");
    let voucher = Box::new(Voucher {
        user: text("ann"),
        client: None,
        groups: Groups::default(),
        expires_at: house.now.mono,
    });
    let outputs = house.step(Input::Vouched { link, voucher });
    assert!(outputs.contains(&send(link, refusal(ReasonCode::BadUserNameOrPassword))));
    assert_eq!(house.stats().clients_accepted, 0);
}

#[test]
fn a_password_without_a_name_is_no_proof_where_no_tokens_are_taken() {
    let mut house = House::new();
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        password: Some(Bytes::from_static(b"a token")),
        ..conversation::client(V5, "pump")
    };
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    assert!(
        outputs.contains(&send(link, refusal(ReasonCode::NotAuthorized))),
        "{outputs:?}"
    );
}

/// A gateway as configured, with a user of a password file beside the tokens.
fn settings() -> config::Settings {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permitted");
        path
    };
    write("secret", &format!("{SECRET}\n"));
    // Of mosquitto_passwd, for "water mark".
    write(
        "users",
        "bob:$7$101$zKBniu2Qn9b0oPRC$fFKbdn9+D/NM/9+VtTHXh1yymsN3nrxuhNSrEZPo7fazdwDY2jfH8GjiQpMzXBNoz1viU88ZfMmA\
         yHS4pdX+aA==\n",
    );
    let file = write(
        "tidegate.toml",
        "[authentication]\npassword_file = 'users'\n[authentication.jwt]\nsecret = 'secret'\naudience = 'gw7'\n\
         leeway = '0s'\n[listener.local]\naddress = '127.0.0.1:0'\n",
    );
    config::load(&file, None).expect("right")
}

/// A token of ann's that lives for so many seconds.
fn token(claims: &str, life_secs: u64) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let claims = format!(r#"{{"sub":"ann","exp":{}{claims}}}"#, now.as_secs() + life_secs);
    let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256","typ":"JWT"}"#), encode(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!(
        "{signed}.{}",
        Base64UrlUnpadded::encode_string(signature.as_ref())
    )
    .into()
}

const OURS: &str = r#","aud":["gw6","gw7"]"#;

fn with(user: Option<&str>, password: Bytes) -> Connect {
    Connect {
        user_name: user.map(text),
        password: Some(password),
        ..connect("pump")
    }
}

#[test]
fn a_gateway_lets_in_who_brings_a_token_or_a_password_and_nobody_else() {
    let good = ReasonCode::Success;
    let bad = ReasonCode::BadUserNameOrPassword;
    with_gateway(settings(), async |doors| {
        for (user, password, expected) in [
            (None, token(OURS, 60), good),
            (Some(""), token(OURS, 60), good),
            (Some("ann"), token(OURS, 60), good),
            (Some("bob"), "water mark".into(), good),
            (Some("bob"), token(OURS, 60), bad),
            (Some("ann"), token(r#","aud":"gw70""#, 60), bad),
            (None, token(OURS, 0), bad),
            (None, [&token(OURS, 60)[..], b"A"].concat().into(), bad),
            (Some("bob"), "water".into(), bad),
            (None, "water mark".into(), bad),
        ] {
            let mut peer = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
            let connect = Connect {
                client_id: running::client_id(&format!("of-{}", user.unwrap_or_default())),
                ..with(user, password)
            };
            let answer = peer.knock(connect).await;
            assert_eq!(answer.reason, expected, "{user:?}");
        }
    });
}

#[test]
fn a_gateway_ends_a_connection_when_its_token_expires() {
    with_gateway(settings(), async |doors| {
        let mut peer = doors.peer(with(None, token(OURS, 2))).await;
        match peer.hear().await {
            Some(Packet::Disconnect(farewell)) => assert_eq!(farewell.reason, ReasonCode::MaximumConnectTime),
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
        assert_eq!(peer.hear().await, None);
    });
}
