//! Enhanced authentication: the exchange of AUTH packets before a client is in, and again while it is.

mod conversation;

use conversation::judge::*;
use conversation::*;
use slotmap::Key;
use tidegate::auth::Identity;
use tidegate::broker::{DetachReason, Event, Input, LinkId, ListenerPolicy, Refusal, Verdict as Check};
use tidegate::hooks::{Answered, Judgement, Question, Said, Verdict};
use tidegate::mqtt::{ConnAckProperties, Connect, Packet, QoS, ReasonCode};

#[test]
fn a_method_nobody_answers_for_is_refused() {
    for (mut house, method) in [(House::new(), METHOD), (house().house, "PLAIN")] {
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
    assert_eq!(outputs, []);
    assert_eq!(house.judge.heard(), ["begin - - hello"]);
    for round in ["one", "two"] {
        let outputs = answered(&mut house, go_on(round));
        assert_eq!(
            outputs,
            [send(
                link,
                auth(ReasonCode::ContinueAuthentication, METHOD, round)
            )]
        );
        let answer = auth(ReasonCode::ContinueAuthentication, METHOD, "answer");
        assert_eq!(house.receive(link, answer), []);
        assert_eq!(house.judge.heard(), ["next answer"]);
    }
    let outputs = answered(&mut house, allow("bill", Some("proof".into())));
    assert_eq!(house.judge.heard(), ["Allowed"]);
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
fn the_hook_is_told_the_user_name_and_what_the_certificate_proves() {
    let mut house = house();
    let link = house.arrive_at(ListenerPolicy::new("door", false), Some("pump-7"));
    let connect = Connect {
        user_name: Some(text("bill")),
        ..proving("bill", METHOD)
    };
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    assert_eq!(outputs, []);
    assert_eq!(house.judge.heard(), ["begin bill pump-7 hello"]);
}

#[test]
fn who_fails_is_refused_and_touched_nobody() {
    for (answer, reason) in [
        (deny(), ReasonCode::NotAuthorized),
        (Judgement::Unavailable, ReasonCode::ServerUnavailable),
    ] {
        let mut house = house();
        let owner = let_in(&mut house);
        let (link, _) = house.connect(proving("bill", METHOD));
        let outputs = answered(&mut house, answer);
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
    assert_eq!(answered(&mut house, allow("bill", None)), []);
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
        answered(&mut house, go_on("?"));
        let outputs = acts(house.receive(link, packet));
        assert_eq!(outputs, [send(link, refusal(reason)), close(link)]);
    }
}

#[test]
fn an_exchange_that_takes_too_long_ends_the_connection() {
    let mut house = house();
    let (link, _) = house.connect(proving("bill", METHOD));
    assert_eq!(house.wait(secs(4)), []);
    answered(&mut house, go_on("?"));
    assert_eq!(house.wait(secs(5)), []);
    house.receive(link, auth(ReasonCode::ContinueAuthentication, METHOD, "!"));
    // The hook has its own time for each answer, the client one for all of its own together.
    assert_eq!(house.wait(secs(3)), []);
    let outputs = answered(&mut house, go_on("?"));
    let farewell = send(link, refusal(ReasonCode::NotAuthorized));
    assert_eq!(acts(outputs), [farewell, close(link)]);
    assert_eq!(house.judge.heard(), ["begin - - hello", "next !", "TimedOut"]);

    let (link, _) = house.connect(proving("bill", METHOD));
    answered(&mut house, go_on("?"));
    assert_eq!(house.wait(secs(9)), []);
    let outputs = house.wait(secs(1));
    let farewell = send(link, refusal(ReasonCode::NotAuthorized));
    assert_eq!(acts(outputs), [farewell, close(link)]);
    assert_eq!(house.judge.heard(), ["begin - - hello", "TimedOut"]);
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
    let said = |link: LinkId, number, said: Said| {
        let question = Question::new(link.data().as_ffi(), number);
        Input::Answered(Answered { question, said })
    };
    for number in 0..3 {
        assert_eq!(house.step(said(link, number, allow("bill", None).into())), []);
    }
    house.verified(link, Check::Allow);
    for number in 0..3 {
        assert_eq!(house.step(said(link, number, deny().into())), []);
    }

    // The first question there was.
    let (link, _) = house.connect(proving("carl", METHOD));
    assert_eq!(
        house.verified(link, Check::Allow),
        [],
        "a password was not asked for"
    );
    assert_eq!(
        house.step(said(link, 1, Verdict::Allow.into())),
        [],
        "an answer of another kind"
    );
    assert_eq!(
        house.step(said(link, 2, allow("carl", None).into())),
        [],
        "it was not asked"
    );
    answered(&mut house, go_on("?"));
    assert_eq!(
        house.step(said(link, 1, allow("carl", None).into())),
        [],
        "it is the client's turn"
    );
    let unknown = house.unknown_link();
    assert_eq!(house.step(said(unknown, 1, deny().into())), []);
}

#[test]
fn a_client_may_prove_itself_again_while_its_messages_go_on() {
    let mut house = house();
    let link = let_in(&mut house);
    house.subscribe(link, "t", QoS::AtMostOnce);
    let outputs = house.receive(link, auth(ReasonCode::Reauthenticate, METHOD, "again"));
    assert_eq!(outputs, []);
    assert_eq!(
        house.judge.heard(),
        ["begin - - hello", "Allowed", "again bill again"]
    );
    let outputs = house.publish(link, message("t", "meanwhile"));
    assert_eq!(payloads(&outputs, link), ["meanwhile"]);
    let outputs = answered(&mut house, go_on("?"));
    assert_eq!(
        outputs,
        [send(link, auth(ReasonCode::ContinueAuthentication, METHOD, "?"))]
    );
    house.receive(link, auth(ReasonCode::ContinueAuthentication, METHOD, "!"));
    let outputs = answered(&mut house, allow("bill", Some("proof".into())));
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
        (deny(), ReasonCode::NotAuthorized),
        (allow("carl", None), ReasonCode::NotAuthorized),
        // DISCONNECT has no "server unavailable".
        (Judgement::Unavailable, ReasonCode::ServerBusy),
    ] {
        let mut house = house();
        let link = let_in(&mut house);
        house.receive(link, begin());
        let outputs = acts(answered(&mut house, answer));
        assert_eq!(outputs, [send(link, disconnect(reason)), close(link)]);
    }
    let mut slow = house();
    let link = let_in(&mut slow);
    slow.receive(link, begin());
    answered(&mut slow, go_on("?"));
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
