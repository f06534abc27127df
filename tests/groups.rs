//! Groups that a client is in by the word of its token, or of the server that let it in: the rules of those bind it as
//! well, from one login to the next.

mod conversation;
mod running;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use conversation::*;
use ring::hmac;
use tidegate::auth::access::Rights;
use tidegate::auth::groups::Groups;
use tidegate::broker::{Input, LinkId, Output, Settings, Voucher};
use tidegate::config;
use tidegate::hooks::{Client, Hook, Interests, Later, Login, Message, Verdict};
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, Will};

fn groups(names: &[&str]) -> Groups {
    Groups::of(names.iter().map(|name| text(name)).collect()).expect("few and short")
}

/// The rules of a configuration, in which bob is an operator by name.
fn rights(rules: &str) -> Rights {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tidegate.toml");
    let head = "[access.groups]\noperators = ['bob']\nguests = []\n";
    std::fs::write(&file, format!("{head}{rules}")).expect("written");
    config::load(&file, None)
        .unwrap_or_else(|told| panic!("{told:#?}"))
        .rights
}

fn rule(effect: &str, actions: &str, group: &str, topics: &str) -> String {
    let group = match group {
        "" => String::new(),
        group => format!("group = '{group}'\n"),
    };
    format!("[[access.rule]]\n{effect} = '{actions}'\n{group}topics = '{topics}'\n")
}

/// A house with these rules where tokens are taken.
fn ruled(rules: &[String]) -> House {
    let mut house = House::with(Settings {
        takes_tokens: true,
        ..Settings::default()
    });
    house.step(Input::RightsChanged(rights(&rules.concat())));
    house
}

/// A client of ann's whose token says that she is in `groups`.
fn come(house: &mut House, connect: Connect, groups: &Groups) -> (LinkId, Vec<Output>) {
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        password: Some("a token".into()),
        ..connect
    };
    house.receive(link, Packet::Connect(Box::new(connect)));
    let voucher = Box::new(Voucher {
        user: text("ann"),
        client: None,
        groups: groups.clone(),
        expires_at: house.now.mono + Duration::from_secs(60),
    });
    let outputs = house.step(Input::Vouched { link, voucher });
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    (link, outputs)
}

fn may_publish(house: &mut House, link: LinkId, name: &str) -> bool {
    let outputs = house.publish(link, message1(1, name, "x"));
    match sent(&outputs, link)[..] {
        [Packet::PubAck(ack)] => ack.reason != ReasonCode::NotAuthorized,
        ref other => panic!("expected PUBACK, found {other:?}"),
    }
}

#[test]
fn rules_of_a_group_bind_its_members_by_name_and_by_token_and_in_their_order() {
    let mut house = ruled(&[
        rule("deny", "all", "guests", "plant/secret/#"),
        rule("allow", "all", "", "open/#"),
        rule("allow", "all", "operators", "plant/#"),
        rule("deny", "all", "", "#"),
    ]);
    for (names, expected) in [
        (&[][..], [true, false, false]),
        (&["operators"], [true, true, true]),
        (&["guests"], [true, false, false]),
        (&["guests", "operators"], [true, true, false]),
        (&["strangers", "operators"], [true, true, true]),
        (&["operator", "Operators", "operators "], [true, false, false]),
    ] {
        let (link, _) = come(&mut house, client(V5, "panel"), &groups(names));
        let topics = ["open/x", "plant/x", "plant/secret/x"];
        let found = topics.map(|topic| may_publish(&mut house, link, topic));
        assert_eq!(found, expected, "{names:?}");
    }
    let bob = house.join_as("bob", client(V5, "bobs"));
    assert!(may_publish(&mut house, bob, "plant/secret/x"), "by name, as ever");
}

#[test]
fn a_session_keeps_its_groups_while_its_client_is_away_and_gets_those_of_the_next_login() {
    let mut house = ruled(&[
        rule("allow", "all", "operators", "plant/#"),
        rule("allow", "publish", "", "#"),
    ]);
    let (link, _) = come(&mut house, resuming(V5, "panel"), &groups(&["operators"]));
    assert_eq!(
        house.subscribe(link, "plant/#", QoS::AtLeastOnce),
        ReasonCode::GrantedQos1
    );
    house.close(link);
    let writer = house.join(client(V5, "writer"));
    house.publish(writer, message1(1, "plant/x", "one"));
    let (link, outputs) = come(&mut house, resuming(V5, "panel"), &groups(&["operators"]));
    assert!(connack(&outputs, link).session_present);
    assert_eq!(payloads(&outputs, link), ["one"]);
    // Taken over by a login without the group: it is the same session, with fewer rights.
    let outputs = house.publish(writer, message1(2, "plant/x", "two"));
    assert_eq!(payloads(&outputs, link), ["two"]);
    let (link, outputs) = come(&mut house, resuming(V5, "panel"), &groups(&[]));
    assert!(connack(&outputs, link).session_present);
    let outputs = house.publish(writer, message1(3, "plant/x", "three"));
    assert_eq!(payloads(&outputs, link), [""; 0]);
    assert_eq!(
        house.subscribe(link, "plant/+", QoS::AtMostOnce),
        ReasonCode::NotAuthorized
    );
}

#[test]
fn wills_and_retained_messages_are_held_to_the_groups_of_who_wrote_them() {
    let allowed = [rule("allow", "all", "operators", "plant/#")];
    let mut house = ruled(&allowed);
    let with_will = Connect {
        will: Some(Will {
            topic: topic("plant/gone"),
            payload: "x".into(),
            qos: QoS::AtMostOnce,
            retain: true,
            properties: Default::default(),
        }),
        ..client(V5, "panel")
    };
    let (link, _) = come(&mut house, with_will, &groups(&["operators"]));
    let mut retained = message1(1, "plant/x", "x");
    retained.retain = true;
    house.publish(link, retained);
    house.close(link);
    assert_eq!(house.stats().retained_messages, 2);
    // The rules are read again, and say the same; and then they do not.
    house.step(Input::RightsChanged(rights(&allowed.concat())));
    assert_eq!(house.stats().retained_messages, 2);
    let others = [rule("allow", "all", "guests", "plant/#")];
    house.step(Input::RightsChanged(rights(&others.concat())));
    assert_eq!(house.stats().retained_messages, 0);
}

/// A hook that answers every login the same.
struct Doorman(Verdict, std::rc::Rc<std::cell::RefCell<Vec<String>>>);

impl Hook for Doorman {
    fn name(&self) -> &str {
        "doorman"
    }

    fn interests(&self) -> Interests {
        Interests::AUTHENTICATE | Interests::PUBLISH
    }

    fn authenticate(&mut self, login: &Login<'_>, _: &mut Later<'_>) -> Verdict {
        let client = login.client.map_or("-", |client| client.as_str());
        self.1.borrow_mut().push(format!("login {client}"));
        self.0.clone()
    }

    fn publish(&mut self, from: &Client<'_>, message: &Message<'_>, _: &mut Later<'_>) -> Verdict {
        let client = from.client.map_or("-", |client| client.as_str());
        self.1.borrow_mut().push(format!("{} of {client}", message.topic));
        Verdict::Allow
    }
}

#[test]
fn a_hook_names_groups_with_or_without_another_user() {
    for (user, who) in [(None, "anonymous"), (Some(text("carl")), "carl")] {
        let verdict = Verdict::AllowIn {
            user,
            groups: groups(&["operators"]),
        };
        let (mut house, _) = House::hooked(vec![Box::new(Doorman(verdict, Default::default()))]);
        let rules = rule("allow", "all", "operators", "plant/#");
        house.step(Input::RightsChanged(rights(&rules)));
        let (link, outputs) = house.connect(client(V5, "panel"));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        let identity = outputs.iter().find_map(|output| match output {
            Output::Event(tidegate::broker::Event::ClientConnected { identity, .. }) => {
                Some(identity.to_string())
            }
            _ => None,
        });
        assert_eq!(identity.as_deref(), Some(who));
        assert!(may_publish(&mut house, link, "plant/x"));
        assert!(!may_publish(&mut house, link, "other"));
    }
}

#[test]
fn hooks_are_shown_the_identifier_of_a_certificate_where_connect_has_none() {
    for (said, shown) in [("", "pump-1"), ("pump-1", "pump-1")] {
        let heard = std::rc::Rc::default();
        let doorman = Doorman(Verdict::Allow, std::rc::Rc::clone(&heard));
        let (mut house, _) = House::hooked(vec![Box::new(doorman)]);
        let link = house.unknown_link();
        house.step(Input::Connected {
            link,
            listener: std::rc::Rc::new(tidegate::broker::ListenerPolicy::new("door", true)),
            peer: None,
            certificate_user: None,
            certificate_client: Some(Box::new(client_id("pump-1"))),
        });
        let connect = Connect {
            client_id: tidegate::mqtt::ClientId::new(text(said)),
            will: Some(Will {
                topic: topic("gone"),
                payload: "x".into(),
                qos: QoS::AtMostOnce,
                retain: false,
                properties: Default::default(),
            }),
            ..client(V5, "x")
        };
        let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        assert_eq!(
            *heard.borrow(),
            [format!("login {shown}"), format!("gone of {shown}")]
        );
    }
}

#[test]
fn a_token_for_the_identifier_of_a_certificate_is_good_where_connect_has_none() {
    for (claim, reason) in [
        ("pump-1", ReasonCode::Success),
        ("pump-2", ReasonCode::ClientIdentifierNotValid),
    ] {
        let mut house = ruled(&[rule("allow", "all", "", "#")]);
        let link = house.unknown_link();
        house.step(Input::Connected {
            link,
            listener: std::rc::Rc::new(tidegate::broker::ListenerPolicy::new("door", false)),
            peer: None,
            certificate_user: None,
            certificate_client: Some(Box::new(client_id("pump-1"))),
        });
        let connect = Connect {
            client_id: None,
            password: Some("a token".into()),
            ..client(V5, "x")
        };
        house.receive(link, Packet::Connect(Box::new(connect)));
        let voucher = Box::new(Voucher {
            user: text("ann"),
            client: Some(text(claim)),
            groups: Groups::default(),
            expires_at: house.now.mono + Duration::from_secs(60),
        });
        let outputs = house.step(Input::Vouched { link, voucher });
        assert_eq!(connack(&outputs, link).reason, reason);
    }
}

const SECRET: &str = "a secret of more than 32 characters";

/// A token of ann's with these claims.
fn token(claims: &str) -> bytes::Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let claims = format!(r#"{{"sub":"ann","exp":{}{claims}}}"#, now.as_secs() + 60);
    let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = Base64UrlUnpadded::encode_string(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}").into()
}

#[test]
fn a_gateway_goes_by_the_groups_of_the_claim_it_was_told_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("permitted");
    let file = folder.path().join("tidegate.toml");
    let text = "[authentication.jwt]\nsecret = 'secret'\ngroups_claim = 'roles'\n\
                [access.groups]\noperators = []\n\
                [[access.rule]]\nallow = 'all'\ngroup = 'operators'\ntopics = 'plant/#'\n\
                [listener.local]\naddress = '127.0.0.1:0'\n";
    std::fs::write(&file, text).expect("written");
    let settings = config::load(&file, None).expect("right");
    running::with_gateway(settings, async |doors| {
        let come = async |claims: &str| {
            let connect = Connect {
                password: Some(token(claims)),
                ..running::connect("panel")
            };
            let mut peer = running::Peer::stranger(doors.stream().await, V5);
            let reason = peer.knock(connect).await.reason;
            if reason != ReasonCode::Success {
                return Err(reason);
            }
            peer.say(&running::publish("plant/x", "x", Some(1))).await;
            match peer.hear().await {
                Some(Packet::PubAck(ack)) => Ok(ack.reason != ReasonCode::NotAuthorized),
                other => panic!("expected PUBACK, found {other:?}"),
            }
        };
        assert_eq!(come(r#","roles":["guests","operators"]"#).await, Ok(true));
        assert_eq!(come(r#","roles":"operators""#).await, Ok(true));
        assert_eq!(come(r#","groups":["operators"]"#).await, Ok(false));
        assert_eq!(come("").await, Ok(false));
        let refused = Err(ReasonCode::BadUserNameOrPassword);
        assert_eq!(come(r#","roles":{"operators":true}"#).await, refused);
    });
}
