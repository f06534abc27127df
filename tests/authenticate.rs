//! Enhanced authentication: the exchange of AUTH packets before a client is in, and again while it is.

mod conversation;

use bytes::Bytes;
use conversation::*;
use tidegate::auth::Identity;
use tidegate::broker::{
    Authentication, Claims, DetachReason, Event, Input, LinkId, ListenerPolicy, Output, Refusal, Settings,
    Verdict,
};
use tidegate::mqtt::{
    Auth, AuthProperties, ConnAckProperties, Connect, ConnectProperties, Packet, QoS, ReasonCode,
};

const METHOD: &str = "SCRAM-SHA-256";

fn house() -> House {
    House::with(Settings {
        authentication_methods: vec![text(METHOD), text("OTHER")],
        ..Settings::default()
    })
}

fn proving(id: &str, method: &str) -> Connect {
    Connect {
        properties: ConnectProperties {
            authentication_method: Some(text(method)),
            authentication_data: Some("hello".into()),
            session_expiry_secs: Some(3600),
            ..ConnectProperties::default()
        },
        clean_start: false,
        ..client(V5, id)
    }
}

fn auth(reason: ReasonCode, method: &str, data: &'static str) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        properties: AuthProperties {
            authentication_method: Some(text(method)),
            authentication_data: Some(data.into()),
            ..AuthProperties::default()
        },
    }))
}

fn asked(link: LinkId, data: &'static str) -> Output {
    Output::Authenticate {
        link,
        method: text(METHOD),
        data: Some(data.into()),
        claims: None,
    }
}

fn answered(house: &mut House, link: LinkId, answer: Authentication) -> Vec<Output> {
    house.step(Input::Authenticated { link, answer })
}

fn go_on(data: &'static str) -> Authentication {
    Authentication::Continue {
        data: Some(data.into()),
    }
}

fn allow(user: &str, data: Option<Bytes>) -> Authentication {
    Authentication::Allow {
        identity: Identity::User(text(user)),
        data,
    }
}

/// A client that came in by one question and one answer.
fn let_in(house: &mut House) -> LinkId {
    let link = house.arrive_at_locked_door();
    house.receive(link, Packet::Connect(Box::new(proving("bill", METHOD))));
    let outputs = answered(house, link, allow("bill", None));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    link
}

#[test]
fn a_method_nobody_answers_for_is_refused() {
    for (mut house, method) in [(House::new(), METHOD), (house(), "PLAIN")] {
        let (link, outputs) = house.connect(proving("bill", method));
        assert_eq!(
            acts(outputs),
            [
                send(link, refusal(ReasonCode::BadAuthenticationMethod)),
                close(link)
            ]
        );
    }
}

#[test]
fn an_exchange_of_several_rounds_ends_in_a_connack_with_its_method_and_last_data() {
    let mut house = house();
    let link = house.arrive_at_locked_door();
    let connect = proving("bill", METHOD);
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    assert_eq!(outputs, [asked(link, "hello")]);
    for round in ["one", "two"] {
        let outputs = answered(&mut house, link, go_on(round));
        assert_eq!(
            outputs,
            [send(
                link,
                auth(ReasonCode::ContinueAuthentication, METHOD, round)
            )]
        );
        let answer = auth(ReasonCode::ContinueAuthentication, METHOD, "answer");
        assert_eq!(house.receive(link, answer), [asked(link, "answer")]);
    }
    let outputs = answered(&mut house, link, allow("bill", Some("proof".into())));
    let properties = ConnAckProperties {
        authentication_method: Some(text(METHOD)),
        authentication_data: Some("proof".into()),
        ..connack(&outputs, link).properties
    };
    assert_eq!(connack(&outputs, link).properties, properties);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    assert!(events(&outputs).iter().any(|event| matches!(
        event,
        Event::ClientConnected { identity: Identity::User(user), .. } if *user == text("bill")
    )));
    assert_eq!(house.subscribe(link, "t", QoS::AtMostOnce), ReasonCode::Success);
}

#[test]
fn the_judge_is_told_the_user_name_and_what_the_certificate_proves() {
    let mut house = house();
    let link = house.arrive_at(ListenerPolicy::new("door", false), Some("pump-7"));
    let connect = Connect {
        user_name: Some(text("bill")),
        ..proving("bill", METHOD)
    };
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    let claims = Claims {
        user: Some(text("bill")),
        certificate_user: Some(text("pump-7")),
    };
    let expected = Output::Authenticate {
        link,
        method: text(METHOD),
        data: Some("hello".into()),
        claims: Some(Box::new(claims)),
    };
    assert_eq!(outputs, [expected]);
}

#[test]
fn who_fails_is_refused_and_touched_nobody() {
    for (answer, reason) in [
        (Authentication::Deny, ReasonCode::NotAuthorized),
        (Authentication::Unavailable, ReasonCode::ServerUnavailable),
    ] {
        let mut house = house();
        let owner = let_in(&mut house);
        let (link, _) = house.connect(proving("bill", METHOD));
        let outputs = answered(&mut house, link, answer);
        assert_eq!(acts(outputs), [send(link, refusal(reason)), close(link)]);
        assert_eq!(house.stats().takeovers, 0);
        assert_eq!(
            house.receive(owner, Packet::PingReq),
            [send(owner, Packet::PingResp)]
        );
    }
}

#[test]
fn before_connack_nothing_but_auth_and_disconnect_is_heard() {
    let publish = Packet::Publish(message("t", "x"));
    for packet in [
        publish,
        Packet::PingReq,
        subscribe_packet(&[subscription("t", QoS::AtMostOnce)]),
    ] {
        let mut house = house();
        let (link, _) = house.connect(proving("bill", METHOD));
        let outputs = acts(house.receive(link, packet));
        assert_eq!(
            outputs,
            [send(link, refusal(ReasonCode::ProtocolError)), close(link)]
        );
    }
    let mut house = house();
    let (link, _) = house.connect(proving("bill", METHOD));
    let outputs = house.receive(link, disconnect(ReasonCode::Success));
    assert_eq!(acts(outputs), [close(link)]);
    assert_eq!(answered(&mut house, link, allow("bill", None)), []);
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn an_auth_out_of_turn_or_of_another_kind_ends_the_exchange() {
    let early = auth(ReasonCode::ContinueAuthentication, METHOD, "early");
    let mut waiting = house();
    let (link, _) = waiting.connect(proving("bill", METHOD));
    let outputs = acts(waiting.receive(link, early));
    assert_eq!(
        outputs,
        [send(link, refusal(ReasonCode::ProtocolError)), close(link)]
    );

    for (packet, reason) in [
        (
            auth(ReasonCode::Reauthenticate, METHOD, ""),
            ReasonCode::ProtocolError,
        ),
        (auth(ReasonCode::Success, METHOD, ""), ReasonCode::ProtocolError),
        (
            auth(ReasonCode::ContinueAuthentication, "OTHER", ""),
            ReasonCode::BadAuthenticationMethod,
        ),
    ] {
        let mut house = house();
        let (link, _) = house.connect(proving("bill", METHOD));
        answered(&mut house, link, go_on("?"));
        let outputs = acts(house.receive(link, packet));
        assert_eq!(outputs, [send(link, refusal(reason)), close(link)]);
    }
}

#[test]
fn an_exchange_that_takes_too_long_ends_the_connection() {
    let mut house = house();
    let (link, _) = house.connect(proving("bill", METHOD));
    assert_eq!(house.wait(secs(9)), []);
    answered(&mut house, link, go_on("?"));
    let outputs = house.wait(secs(2));
    let farewell = send(link, refusal(ReasonCode::ServerUnavailable));
    assert_eq!(acts(outputs), [farewell, close(link)]);
    assert_eq!(answered(&mut house, link, allow("bill", None)), []);
}

#[test]
fn an_answer_nobody_waits_for_changes_nothing() {
    let mut house = house();
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        user_name: Some(text("bill")),
        ..client(V5, "bill")
    };
    house.receive(link, Packet::Connect(Box::new(connect)));
    assert_eq!(answered(&mut house, link, allow("bill", None)), []);
    house.verified(link, Verdict::Allow);
    assert_eq!(answered(&mut house, link, Authentication::Deny), []);

    let (link, _) = house.connect(proving("carl", METHOD));
    assert_eq!(
        house.verified(link, Verdict::Allow),
        [],
        "a password was not asked for"
    );
    answered(&mut house, link, go_on("?"));
    assert_eq!(
        answered(&mut house, link, allow("carl", None)),
        [],
        "it is the client's turn"
    );
    let unknown = house.unknown_link();
    assert_eq!(answered(&mut house, unknown, Authentication::Deny), []);
}

#[test]
fn a_client_may_prove_itself_again_while_its_messages_go_on() {
    let mut house = house();
    let link = let_in(&mut house);
    house.subscribe(link, "t", QoS::AtMostOnce);
    let outputs = house.receive(link, auth(ReasonCode::Reauthenticate, METHOD, "again"));
    assert_eq!(outputs, [asked(link, "again")]);
    let outputs = house.publish(link, message("t", "meanwhile"));
    assert_eq!(payloads(&outputs, link), ["meanwhile"]);
    let outputs = answered(&mut house, link, go_on("?"));
    assert_eq!(
        outputs,
        [send(link, auth(ReasonCode::ContinueAuthentication, METHOD, "?"))]
    );
    house.receive(link, auth(ReasonCode::ContinueAuthentication, METHOD, "!"));
    let outputs = answered(&mut house, link, allow("bill", Some("proof".into())));
    assert_eq!(outputs, [send(link, auth(ReasonCode::Success, METHOD, "proof"))]);
    let outputs = house.wait(secs(30));
    assert_eq!(outputs, [], "the exchange is over and its time limit with it");
    house.receive(link, auth(ReasonCode::Reauthenticate, METHOD, "once more"));
    house.close(link);
}

#[test]
fn who_fails_to_prove_itself_again_is_sent_away() {
    let begin = || auth(ReasonCode::Reauthenticate, METHOD, "again");
    for (answer, reason) in [
        (Authentication::Deny, ReasonCode::NotAuthorized),
        (allow("carl", None), ReasonCode::NotAuthorized),
        // DISCONNECT has no "server unavailable".
        (Authentication::Unavailable, ReasonCode::ServerBusy),
    ] {
        let mut house = house();
        let link = let_in(&mut house);
        house.receive(link, begin());
        let outputs = acts(answered(&mut house, link, answer));
        assert_eq!(outputs, [send(link, disconnect(reason)), close(link)]);
    }
    let mut slow = house();
    let link = let_in(&mut slow);
    slow.receive(link, begin());
    let outputs = slow.wait(secs(11));
    assert_eq!(
        outputs[..2],
        [send(link, disconnect(ReasonCode::NotAuthorized)), close(link)]
    );
    assert!(events(&outputs).contains(&&Event::ClientDisconnected {
        link,
        client: client_id("bill"),
        reason: DetachReason::Refused(Refusal::AuthenticationTimeout)
    }));
}

#[test]
fn proving_again_keeps_the_method_and_its_turns() {
    for (packets, reason) in [
        (
            vec![auth(ReasonCode::Reauthenticate, "OTHER", "")],
            ReasonCode::BadAuthenticationMethod,
        ),
        (
            vec![auth(ReasonCode::ContinueAuthentication, METHOD, "")],
            ReasonCode::ProtocolError,
        ),
        (
            vec![
                auth(ReasonCode::Reauthenticate, METHOD, ""),
                auth(ReasonCode::Reauthenticate, METHOD, ""),
            ],
            ReasonCode::ProtocolError,
        ),
    ] {
        let mut house = house();
        let link = let_in(&mut house);
        let mut outputs = Vec::new();
        for packet in packets {
            outputs = acts(house.receive(link, packet));
        }
        assert_eq!(outputs, [send(link, disconnect(reason)), close(link)]);
    }
}

#[test]
fn a_client_that_named_no_method_may_not_send_auth() {
    let mut house = house();
    let link = house.join(client(V5, "bill"));
    let outputs = acts(house.receive(link, auth(ReasonCode::Reauthenticate, METHOD, "")));
    assert_eq!(
        outputs,
        [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
    );
}
