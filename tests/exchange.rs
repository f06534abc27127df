//! Enhanced authentication as hooks have it: what they are asked and told, what becomes of what they say, at once,
//! later, too late or never, and what else may happen meanwhile. The rules of the exchange itself stand in the chapter
//! before, `authenticate`.

mod conversation;
mod running;
#[path = "../examples/scram.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program")]
mod scram;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use conversation::judge::*;
use conversation::*;
use ring::{digest, hmac, pbkdf2};
use scram::Scram;
use tidegate::auth::access::{Action, Rights};
use tidegate::auth::acl::{Acl, Actions, Effect, Rule, Source, Whom};
use tidegate::auth::groups::Groups;
use tidegate::broker::{
    DetachReason, Event, Input, KickOptions, LinkId, ListenerPolicy, Output, Refusal, Target,
};
use tidegate::gateway::Gateway;
use tidegate::hooks::{
    Answer, Client, DenialReason, ExchangeEnd, ExchangeId, Hook, Interests, Judgement, Later, Login, Message,
    Proved, Step, Verdict,
};
use tidegate::mqtt::{
    Auth, AuthProperties, Connect, ConnectProperties, DecodeError, Packet, QoS, ReasonCode, Utf8String,
};

const ALL_REASONS: std::ops::RangeInclusive<u8> = 0..=u8::MAX;

fn again() -> Packet {
    auth(ReasonCode::Reauthenticate, METHOD, "again")
}

fn answer() -> Packet {
    auth(ReasonCode::ContinueAuthentication, METHOD, "answer")
}

/// A client whose exchange is open, at the door or in it.
fn with_open_exchange(house: &mut Proving, is_in: bool) -> LinkId {
    let link = if is_in {
        let link = let_in(house);
        house.receive(link, again());
        link
    } else {
        let link = house.arrive_at_locked_door();
        house.receive(link, Packet::Connect(Box::new(proving("bill", METHOD))));
        link
    };
    house.judge.heard();
    assert_eq!(house.judge.open(), 1);
    link
}

fn proved(proved: Proved) -> Judgement {
    Judgement::Allow(Box::new(proved))
}

fn identities(outputs: &[Output]) -> Vec<String> {
    (events(outputs).into_iter())
        .filter_map(|event| match event {
            Event::ClientConnected { identity, .. } => Some(identity.to_string()),
            _ => None,
        })
        .collect()
}

fn farewell(is_in: bool, reason: ReasonCode) -> Packet {
    match is_in {
        true => disconnect(reason),
        false => refusal(reason),
    }
}

#[test]
fn a_hook_that_says_it_at_once_lets_a_client_in_within_the_same_input() {
    let mut house = house();
    house.judge.will_say(go_on("?"));
    house.judge.will_say(allow("ann", Some("proof".into())));
    let (link, outputs) = house.connect(proving("bill", METHOD));
    assert_eq!(
        outputs,
        [send(link, auth(ReasonCode::ContinueAuthentication, METHOD, "?"))]
    );
    let outputs = house.receive(link, answer());
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    assert_eq!(identities(&outputs), ["ann"]);
    assert_eq!(house.judge.heard(), ["begin - - hello", "next answer", "Allowed"]);
    assert_eq!(house.judge.open(), 0);
}

#[test]
fn an_answer_that_takes_its_time_holds_up_nobody_but_its_exchange() {
    let mut house = house();
    let waiting = with_open_exchange(&mut house, false);
    let living = house.arrive();
    house.receive(living, Packet::Connect(Box::new(proving("carl", METHOD))));
    house.judge.give_nth(1, allow("carl", None));
    let letters = house.letters.clone();
    assert_eq!(
        connack(&house.take_answers(&letters), living).reason,
        ReasonCode::Success
    );
    house.receive(living, again());
    assert_eq!(
        house.receive(living, Packet::PingReq),
        [send(living, Packet::PingResp)]
    );
    house.subscribe(living, "t", QoS::AtMostOnce);
    let outputs = house.publish(living, message("t", "meanwhile"));
    assert_eq!(payloads(&outputs, living), ["meanwhile"]);
    assert_eq!(house.wait(Duration::from_millis(4999)), []);
    let outputs = answered(&mut house, allow("bill", None));
    assert_eq!(connack(&outputs, waiting).reason, ReasonCode::Success);
    let outputs = answered(&mut house, allow("carl", None));
    let success = Packet::Auth(Box::new(Auth {
        reason: ReasonCode::Success,
        properties: AuthProperties {
            authentication_method: Some(text(METHOD)),
            ..AuthProperties::default()
        },
    }));
    assert_eq!(outputs, [send(living, success)]);
    assert_eq!(house.stats().hook_answers_awaited, 3);
}

#[test]
fn no_answer_in_time_is_a_refusal_and_what_comes_then_finds_nothing() {
    for (is_in, reason) in [
        (false, ReasonCode::ServerUnavailable),
        (true, ReasonCode::ServerBusy),
    ] {
        let mut house = house();
        let link = with_open_exchange(&mut house, is_in);
        assert_eq!(house.wait(Duration::from_millis(4999)), []);
        let outputs = acts(house.wait(Duration::from_millis(1)));
        assert_eq!(outputs, [send(link, farewell(is_in, reason)), close(link)]);
        assert_eq!(house.judge.heard(), ["TimedOut"]);
        assert_eq!(house.stats().hook_timeouts, 1);
        assert_eq!(answered(&mut house, allow("bill", None)), []);
        assert_eq!(house.stats().sessions, u64::from(is_in));
    }
}

#[test]
fn an_answer_that_is_forgotten_and_a_promise_nobody_can_keep_are_refusals() {
    for is_in in [false, true] {
        let mut house = house();
        let link = with_open_exchange(&mut house, is_in);
        house.judge.forget();
        let letters = house.letters.clone();
        let outputs = acts(house.take_answers(&letters));
        let reason = if is_in {
            ReasonCode::ServerBusy
        } else {
            ReasonCode::ServerUnavailable
        };
        assert_eq!(outputs, [send(link, farewell(is_in, reason)), close(link)]);
        assert_eq!(house.judge.heard(), ["Refused"]);
    }
    for late in [false, true] {
        let mut house = house();
        if !late {
            house.judge.will_say(Judgement::Later);
        }
        let (link, mut outputs) = house.connect(proving("bill", METHOD));
        if late {
            outputs = answered(&mut house, Judgement::Later);
        }
        assert_eq!(connack(&outputs, link).reason, ReasonCode::ServerUnavailable);
        assert_eq!(house.judge.open(), 0);
    }
}

#[test]
fn a_hook_that_panics_refuses_one_exchange_is_told_of_its_end_and_is_asked_again() {
    for is_in in [false, true] {
        let mut house = house();
        let link = with_open_exchange(&mut house, is_in);
        answered(&mut house, go_on("?"));
        house.judge.panics(true);
        let outputs = house.receive(link, answer());
        let reason = if is_in {
            ReasonCode::ServerBusy
        } else {
            ReasonCode::ServerUnavailable
        };
        assert_eq!(sent(&outputs, link), [&farewell(is_in, reason)]);
        let hook = "judge".to_owned();
        assert!(events(&outputs).contains(&&Event::HookPanicked { hook }));
        assert_eq!(house.judge.heard(), ["next answer", "Refused"]);
        assert_eq!(house.stats().hook_panics, 1);
        house.judge.panics(false);
        let_in(&mut house);
    }
}

/// A hook that panics when it is told that an exchange is over.
struct BadLoser;

impl Hook for BadLoser {
    fn name(&self) -> &str {
        "bad loser"
    }

    fn interests(&self) -> Interests {
        Interests::NONE
    }

    fn authentication_methods(&self) -> Vec<Utf8String> {
        vec![text(METHOD)]
    }

    fn exchange(&mut self, _: &Step<'_>, _: &mut Later<'_, Judgement>) -> Judgement {
        proved(Proved::default())
    }

    fn exchange_ended(&mut self, _: ExchangeId, _: ExchangeEnd) {
        panic!("as it always does");
    }
}

#[test]
fn a_hook_that_panics_over_the_end_of_an_exchange_changes_nothing() {
    let (mut house, _) = House::hooked(vec![Box::new(BadLoser)]);
    let link = house.join(proving("bill", METHOD));
    let outputs = house.receive(link, again());
    assert!(matches!(sent(&outputs, link)[..], [Packet::Auth(_)]));
    assert_eq!(house.stats().hook_panics, 2);
}

#[test]
fn a_client_that_goes_in_the_middle_leaves_nothing_behind() {
    type End = fn(&mut House, LinkId) -> Vec<Output>;
    let ends: [(&str, End); 8] = [
        ("Gone", |house, link| house.close(link)),
        ("Gone", |house, link| {
            house.receive(link, disconnect(ReasonCode::Success))
        }),
        ("Gone", |house, _| {
            house.step(kick(Target::Listener("door".into())))
        }),
        ("Gone", |house, link| house.step(Input::Untrusted { link })),
        ("Gone", |house, _| house.step(Input::Shutdown)),
        ("Refused", |house, link| {
            let error = DecodeError::ReservedPacketType;
            let version = Some(V5);
            house.step(Input::Malformed { link, version, error })
        }),
        ("Refused", |house, link| house.receive(link, answer())),
        ("Refused", |house, link| {
            house.receive(link, Packet::Connect(Box::new(proving("bill", METHOD))))
        }),
    ];
    for (number, (told, end)) in ends.into_iter().enumerate() {
        for is_in in [false, true] {
            let mut house = house();
            let link = with_open_exchange(&mut house, is_in);
            end(&mut house, link);
            // A certificate that is not trusted any more is a refusal of ours.
            let told = if number == 3 { "Refused" } else { told };
            assert_eq!(house.judge.heard(), [told], "{number}");
            assert_eq!(answered(&mut house, allow("bill", None)), [], "{number}");
            assert_eq!(house.judge.heard(), [""; 0], "{number}");
            assert_eq!((house.stats().links, house.stats().clients_connected), (0, 0));
            assert_eq!(house.stats().sessions, u64::from(is_in), "{number}");
            house.wait(secs(60));
            assert_eq!(house.stats().hook_timeouts, 0);
        }
    }
}

#[test]
fn a_takeover_waits_for_the_end_of_the_exchange_and_ends_that_of_the_one_it_takes_over() {
    let mut house = house();
    let owner = let_in(&mut house);
    house.receive(owner, again());
    let (second, outputs) = house.connect(proving("bill", METHOD));
    assert_eq!(outputs, []);
    house.judge.give_nth(1, go_on("?"));
    let letters = house.letters.clone();
    house.take_answers(&letters);
    house.receive(second, answer());
    assert_eq!(
        house.receive(owner, Packet::PingReq),
        [send(owner, Packet::PingResp)],
        "nobody has noticed anything"
    );
    house.judge.heard();
    house.judge.give_nth(1, allow("bill", None));
    let outputs = house.take_answers(&letters);
    assert_eq!(sent(&outputs, owner), [&disconnect(ReasonCode::SessionTakenOver)]);
    assert!(connack(&outputs, second).session_present);
    assert_eq!(house.judge.heard(), ["Allowed", "Gone"]);
    // What was asked for the old connection is nobody's any more.
    assert_eq!(answered(&mut house, deny()), []);
    assert_eq!(
        house.receive(second, Packet::PingReq),
        [send(second, Packet::PingResp)]
    );
}

#[test]
fn who_has_proved_to_be_somebody_else_does_not_get_a_session() {
    let mut house = house();
    let owner = let_in(&mut house);
    let (thief, _) = house.connect(proving("bill", METHOD));
    let outputs = answered(&mut house, allow("carl", None));
    assert_eq!(
        acts(outputs),
        [
            send(thief, refusal(ReasonCode::ClientIdentifierNotValid)),
            close(thief)
        ]
    );
    assert_eq!(
        house.receive(owner, Packet::PingReq),
        [send(owner, Packet::PingResp)]
    );
}

#[test]
fn whom_a_client_says_it_is_is_not_believed_and_its_certificate_is() {
    for (certificate, user, expected) in [
        (None, None, "anonymous"),
        (Some("pump-7"), None, "pump-7"),
        (Some("pump-7"), Some("ann"), "ann"),
    ] {
        let mut house = house();
        house.judge.will_say(proved(Proved {
            user: user.map(text),
            ..Proved::default()
        }));
        let link = house.arrive_at(ListenerPolicy::new("door", false), certificate);
        let connect = Connect {
            user_name: Some(text("root")),
            password: Some("guessed".into()),
            ..proving("bill", METHOD)
        };
        let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
        assert_eq!(identities(&outputs), [expected]);
        // To be who it was is enough to stay, and the only thing that is.
        for (user, stays) in [
            (None, true),
            (Some(expected), expected != "anonymous"),
            (Some("root"), false),
        ] {
            house.judge.will_say(proved(Proved {
                user: user.map(text),
                ..Proved::default()
            }));
            let outputs = house.receive(link, again());
            match stays {
                true => assert!(matches!(sent(&outputs, link)[..], [Packet::Auth(_)]), "{user:?}"),
                false => {
                    let gone = disconnect(ReasonCode::NotAuthorized);
                    assert_eq!(sent(&outputs, link), [&gone], "{user:?}");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_client_that_is_kept_out_meanwhile_does_not_come_in() {
    for target in [Target::User(text("ann")), known_as("bill")] {
        let mut house = house();
        let link = with_open_exchange(&mut house, false);
        let keep_out = KickOptions {
            keep_out: Some(secs(60)),
            ..KickOptions::default()
        };
        house.step(kick_with(0, target, keep_out));
        let outputs = acts(answered(&mut house, allow("ann", None)));
        assert_eq!(outputs, [send(link, refusal(ReasonCode::Banned)), close(link)]);
        assert_eq!(house.judge.heard(), ["Allowed"]);
        assert_eq!(house.stats().sessions, 0);
        let (link, outputs) = house.connect(proving("bill", METHOD));
        if house.judge.give(allow("ann", None)) {
            continue; // banned by its user, whom CONNECT does not tell
        }
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Banned);
        assert_eq!(
            house.judge.heard(),
            [""; 0],
            "nobody is asked about who is kept out"
        );
    }
}

#[test]
fn a_kick_wins_over_the_answer_that_comes_after_it() {
    let mut house = house();
    let link = with_open_exchange(&mut house, true);
    let outputs = house.step(kick(known_as("bill")));
    assert_eq!(
        sent(&outputs, link),
        [&disconnect(ReasonCode::AdministrativeAction)]
    );
    assert_eq!(house.judge.heard(), ["Gone"]);
    assert_eq!(answered(&mut house, allow("bill", None)), []);
}

#[test]
fn who_cannot_prove_itself_again_loses_the_connection_and_its_session_stays_as_it_was() {
    let mut house = house();
    let link = let_in(&mut house);
    house.subscribe(link, "t", QoS::AtLeastOnce);
    house.receive(link, again());
    // Until there is an answer, nothing has changed.
    assert_eq!(
        payloads(&house.publish(link, message("t", "still here")), link),
        ["still here"]
    );
    let outputs = answered(&mut house, deny());
    assert_eq!(sent(&outputs, link), [&disconnect(ReasonCode::NotAuthorized)]);
    assert!(events(&outputs).contains(&&Event::ClientDisconnected {
        link,
        client: client_id("bill"),
        reason: DetachReason::Refused(Refusal::AuthenticationDenied(DenialReason::NOT_AUTHORIZED)),
    }));
    assert_eq!(
        house.judge.heard(),
        ["begin - - hello", "Allowed", "again bill again", "Refused"]
    );
    house.step(own("t", "while it was away", QoS::AtLeastOnce, false));
    let (link, _) = house.connect(proving("bill", METHOD));
    let outputs = answered(&mut house, allow("bill", None));
    assert!(connack(&outputs, link).session_present);
    assert_eq!(payloads(&outputs, link), ["while it was away"]);
}

#[test]
fn what_a_client_has_proved_holds_until_it_expires_or_is_proved_anew() {
    let until = |house: &House, secs_left| {
        proved(Proved {
            user: Some(text("bill")),
            expires_at: Some(house.now.mono + secs(secs_left)),
            ..Proved::default()
        })
    };
    let mut house = house();
    let (link, _) = house.connect(Connect {
        keep_alive_secs: 0,
        ..proving("bill", METHOD)
    });
    let judgement = until(&house, 20);
    answered(&mut house, judgement);
    house.wait(secs(19));
    // Proved again, it holds for longer.
    house.receive(link, again());
    let judgement = until(&house, 20);
    answered(&mut house, judgement);
    assert_eq!(acts(house.wait(secs(19))), []);
    // And for ever.
    house.receive(link, again());
    answered(&mut house, allow("bill", None));
    assert_eq!(acts(house.wait(secs(60))), []);
    house.receive(link, again());
    let judgement = until(&house, 20);
    answered(&mut house, judgement);
    let outputs = house.wait(secs(20));
    assert_eq!(
        sent(&outputs, link),
        [&disconnect(ReasonCode::MaximumConnectTime)]
    );
    // It may even end in the middle of another exchange.
    let (link, _) = house.connect(proving("bill", METHOD));
    let judgement = until(&house, 2);
    answered(&mut house, judgement);
    house.receive(link, again());
    house.judge.heard();
    let outputs = house.wait(secs(2));
    assert_eq!(
        sent(&outputs, link),
        [&disconnect(ReasonCode::MaximumConnectTime)]
    );
    assert_eq!(house.judge.heard(), ["Refused"]);
    house.judge.forget();

    let (link, _) = house.connect(proving("bill", METHOD));
    let judgement = until(&house, 0);
    let outputs = answered(&mut house, judgement);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
}

/// Rules by which nobody may publish or subscribe but the members of one group each, and everybody may receive.
fn rights_of_groups() -> Rights {
    let mut acl = Acl::new(Effect::Deny);
    let source = Source {
        file: "rules".into(),
        line: 1,
    };
    let rule = |action| Rule {
        effect: Effect::Allow,
        actions: Actions::of(action),
        topics: filter("#").into(),
        client: None,
        source: source.clone(),
    };
    for (group, action) in [("writers", Action::Publish), ("readers", Action::Subscribe)] {
        acl.add_group(group, Vec::new());
        acl.push(&Whom::Group(group.to_owned()), rule(action));
    }
    acl.push(&Whom::Everybody, rule(Action::Receive));
    Rights::within(acl)
}

#[test]
fn the_groups_a_client_has_proved_to_be_in_bind_it_until_it_proves_others() {
    let in_groups = |names: &[&str]| {
        let names = names.iter().map(|&name| text(name)).collect();
        proved(Proved {
            groups: Groups::of(names).expect("few and short"),
            ..Proved::default()
        })
    };
    let (granted, denied) = (ReasonCode::GrantedQos1, ReasonCode::NotAuthorized);
    let may_write = |house: &mut House, link| {
        let outputs = house.publish(link, message1(1, "t", "x"));
        sent(&outputs, link) == [&puback_with(1, ReasonCode::NoMatchingSubscribers)]
    };
    let mut house = house();
    house.step(Input::RightsChanged(rights_of_groups()));
    let (link, _) = house.connect(proving("bill", METHOD));
    answered(&mut house, in_groups(&["readers"]));
    assert_eq!(house.subscribe(link, "a", QoS::AtLeastOnce), granted);
    assert!(!may_write(&mut house, link));

    house.receive(link, again());
    assert!(!may_write(&mut house, link), "nothing is proved yet");
    answered(&mut house, in_groups(&["nobody knows", "writers"]));
    assert!(may_write(&mut house, link));
    assert_eq!(house.subscribe(link, "b", QoS::AtLeastOnce), denied);

    // A session keeps them where the next proof fails, and has those of the one after.
    house.receive(link, again());
    answered(&mut house, deny());
    let (link, _) = house.connect(proving("bill", METHOD));
    answered(&mut house, in_groups(&[]));
    assert!(!may_write(&mut house, link));
    assert_eq!(house.subscribe(link, "b", QoS::AtLeastOnce), denied);
}

#[test]
fn a_hook_refuses_by_the_reasons_that_the_standard_has_for_it() {
    let mut taken = 0;
    for code in ALL_REASONS {
        let Some(reason) = ReasonCode::from_u8(code).and_then(DenialReason::new) else {
            continue;
        };
        taken += 1;
        let mut house = house();
        house.judge.will_say(Judgement::Deny(reason));
        let (link, outputs) = house.connect(proving("bill", METHOD));
        assert_eq!(acts(outputs), [send(link, refusal(reason.code())), close(link)]);
        let link = let_in(&mut house);
        house.judge.will_say(Judgement::Deny(reason));
        let outputs = acts(house.receive(link, again()));
        let told = match reason.code() {
            // DISCONNECT has no word for these.
            ReasonCode::BadUserNameOrPassword | ReasonCode::Banned => ReasonCode::NotAuthorized,
            ReasonCode::ServerUnavailable => ReasonCode::ServerBusy,
            code => code,
        };
        assert_eq!(outputs, [send(link, disconnect(told)), close(link)]);
    }
    assert_eq!(taken, 10);
    for reason in [
        ReasonCode::Success,
        ReasonCode::ProtocolError,
        ReasonCode::SessionTakenOver,
    ] {
        assert_eq!(DenialReason::new(reason), None);
    }
}

#[test]
fn why_a_client_was_refused_is_told_where_it_wants_to_read_it() {
    for (wants, expected) in [(None, Some(text("authentication failed"))), (Some(false), None)] {
        let mut house = house();
        house.tells_reasons = true;
        let connect = || {
            let mut connect = proving("bill", METHOD);
            connect.properties.request_problem_information = wants;
            connect
        };
        house.judge.will_say(deny());
        let (link, outputs) = house.connect(connect());
        assert_eq!(connack(&outputs, link).properties.reason_string, expected);
        house.judge.will_say(allow("bill", None));
        let (link, _) = house.connect(connect());
        house.judge.will_say(go_on("?"));
        let outputs = house.receive(link, again());
        let [Packet::Auth(auth)] = sent(&outputs, link)[..] else {
            panic!("expected AUTH, found {outputs:?}")
        };
        assert_eq!(auth.properties.reason_string, None);
        house.judge.will_say(deny());
        let outputs = house.receive(link, answer());
        let [Packet::Disconnect(goodbye)] = sent(&outputs, link)[..] else {
            panic!("expected DISCONNECT, found {outputs:?}")
        };
        assert_eq!(goodbye.properties.reason_string, expected);
    }
}

#[test]
fn data_that_is_too_long_for_the_client_or_for_mqtt_ends_the_exchange() {
    let long = |bytes: usize| Some(Bytes::from(vec![b'x'; bytes]));
    let go_on = |bytes| Judgement::Continue { data: long(bytes) };
    let allow = |bytes| {
        proved(Proved {
            user: Some(text("bill")),
            data: long(bytes),
            ..Proved::default()
        })
    };
    // Beyond what a length of two bytes can say it is the hook's mistake.
    for (judgement, reason) in [
        (go_on(65_536), ReasonCode::ServerUnavailable),
        (allow(65_536), ReasonCode::ServerUnavailable),
        (go_on(200), ReasonCode::PacketTooLarge),
        (allow(200), ReasonCode::PacketTooLarge),
    ] {
        for is_in in [false, true] {
            let mut house = house();
            let mut connect = proving("bill", METHOD);
            connect.properties.packet_bytes_max = Some(100);
            let (link, mut outputs) = house.connect(connect);
            if is_in {
                answered(&mut house, allow(1));
                outputs = house.receive(link, again());
            }
            assert_eq!(outputs, []);
            let outputs = answered(&mut house, judgement.clone());
            let reason = match (is_in, reason) {
                (true, ReasonCode::ServerUnavailable) => ReasonCode::ServerBusy,
                (_, reason) => reason,
            };
            assert_eq!(sent(&outputs, link), [&farewell(is_in, reason)]);
            assert_eq!(house.judge.open(), 0);
        }
    }
    let mut house = house();
    house.judge.will_say(go_on(65_535));
    let (link, outputs) = house.connect(proving("bill", METHOD));
    let [Packet::Auth(auth)] = sent(&outputs, link)[..] else {
        panic!("expected AUTH, found {outputs:?}")
    };
    assert_eq!(auth.properties.authentication_data, long(65_535));
}

/// A hook that takes its time over every message.
#[derive(Clone, Default)]
struct Pensive(Rc<RefCell<Vec<Answer>>>);

impl Hook for Pensive {
    fn name(&self) -> &str {
        "pensive"
    }

    fn interests(&self) -> Interests {
        Interests::PUBLISH
    }

    fn publish(&mut self, from: &Client<'_>, _: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        assert_eq!(from.identity.to_string(), "ann");
        self.0.borrow_mut().push(later.answer());
        Verdict::Later
    }
}

#[test]
fn what_a_client_has_proved_is_kept_while_its_will_is_asked_about() {
    for (verdict, reason) in [
        (Verdict::Allow, ReasonCode::Success),
        (Verdict::Deny, ReasonCode::NotAuthorized),
    ] {
        let pensive = Pensive::default();
        let mut house = house_with(vec![Box::new(pensive.clone())]);
        let (link, _) = house.connect(Connect {
            will: Some(will("t", "gone")),
            ..proving("bill", METHOD)
        });
        let outputs = answered(&mut house, allow("ann", Some("proof".into())));
        assert_eq!(outputs, [Output::Pause { link }]);
        assert_eq!(house.judge.heard(), ["begin - - hello", "Allowed"]);
        let answer = pensive.0.borrow_mut().pop();
        answer.expect("it was asked").give(verdict);
        let letters = house.letters.clone();
        let outputs = house.take_answers(&letters);
        let connack = connack(&outputs, link);
        assert_eq!(connack.reason, reason);
        let proof = (reason == ReasonCode::Success).then(|| Bytes::from_static(b"proof"));
        assert_eq!(connack.properties.authentication_data, proof);
        assert_eq!(house.judge.heard(), [""; 0]);
    }
}

/// A hook that lets everybody in who names no method.
struct Hospitable;

impl Hook for Hospitable {
    fn name(&self) -> &str {
        "hospitable"
    }

    fn interests(&self) -> Interests {
        Interests::AUTHENTICATE
    }

    fn authenticate(&mut self, login: &Login<'_>, _: &mut Later<'_>) -> Verdict {
        assert!(login.client.is_some_and(|client| client.as_str() != "bill"));
        Verdict::Allow
    }
}

#[test]
fn the_first_hook_that_speaks_the_method_decides_and_no_other_is_asked() {
    let second = Judge::of(&[METHOD, "THIRD"]);
    let mut house = house_with(vec![Box::new(Hospitable)]);
    let hooks: Vec<Box<dyn Hook>> = vec![
        Box::new(Hospitable),
        Box::new(house.judge.clone()),
        Box::new(second.clone()),
    ];
    (house.house, house.letters) = House::hooked(hooks);
    let link = let_in(&mut house);
    assert_eq!(second.heard(), [""; 0]);
    second.will_say(allow("bill", None));
    let (other, outputs) = house.connect(proving("carl", "THIRD"));
    assert_eq!(connack(&outputs, other).reason, ReasonCode::Success);
    assert_eq!(second.heard(), ["begin - - hello", "Allowed"]);
    house.judge.heard();
    house.join(client(V5, "dora"));
    house.receive(link, again());
    assert_eq!(house.judge.heard(), ["again bill again"]);
    assert_eq!(house.stats().hook_panics, 0);
}

#[test]
fn each_exchange_has_a_number_of_its_own() {
    // The judge of the tests finds a number that comes back, and one that is said twice.
    let mut house = house();
    let links: Vec<_> = (0..5)
        .map(|number| house.connect(proving(&format!("bill{number}"), METHOD)).0)
        .collect();
    assert_eq!(house.judge.open(), 5);
    for _ in 0..5 {
        answered(&mut house, allow("bill", None));
    }
    for round in 0..3 {
        for &link in &links {
            house.receive(link, again());
        }
        assert_eq!(house.judge.open(), 5, "{round}");
        for _ in 0..5 {
            answered(&mut house, allow("bill", None));
        }
    }
    assert_eq!(house.judge.open(), 0);
}

/// A gateway with a hook, on a free port, and a story about it.
fn with_hook(hook: Box<dyn Hook>, timeout: Duration, story: impl AsyncFnOnce(&running::Doors)) {
    let builder = Gateway::builder(running::settings()).hook(hook);
    running::with_gateway_of(builder.hook_timeout(timeout), story);
}

async fn stranger(doors: &running::Doors) -> running::Peer {
    running::Peer::stranger(doors.stream().await, V5)
}

fn packet_of(reason: ReasonCode, data: &str) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        properties: AuthProperties {
            authentication_method: Some(text(METHOD)),
            authentication_data: Some(Bytes::copy_from_slice(data.as_bytes())),
            ..AuthProperties::default()
        },
    }))
}

fn connect_with(data: &str) -> Packet {
    Packet::Connect(Box::new(Connect {
        properties: ConnectProperties {
            authentication_method: Some(text(METHOD)),
            authentication_data: Some(Bytes::copy_from_slice(data.as_bytes())),
            ..ConnectProperties::default()
        },
        ..client(V5, "bill")
    }))
}

/// The data of an AUTH that asks for more.
async fn challenge(peer: &mut running::Peer) -> String {
    match peer.hear().await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
            text_of(auth.properties.authentication_data)
        }
        other => panic!("expected AUTH, found {other:?}"),
    }
}

fn text_of(data: Option<Bytes>) -> String {
    String::from_utf8(data.expect("there is data").to_vec()).expect("text")
}

/// The client's end of SCRAM-SHA-256: its last message, and the one it expects then.
fn scram_answer(first: &str, server_first: &str, password: &str) -> (String, String) {
    let attribute = |name: &str| {
        let mut attributes = server_first.split(',');
        let found = attributes.find_map(|attribute| attribute.strip_prefix(name));
        found.expect("the server says it")
    };
    let salt = Base64::decode_vec(attribute("s=")).expect("base64");
    let iterations = attribute("i=").parse().expect("a number above 0");
    let mut salted = [0; 32];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let client_key = sign(&salted, "Client Key");
    let unproved = format!("c=biws,r={}", attribute("r="));
    let signed = format!("{},{server_first},{unproved}", first.trim_start_matches("n,,"));
    let stored = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = sign(stored.as_ref(), &signed);
    let proof: Vec<u8> = (client_key.as_ref().iter().zip(signature.as_ref()))
        .map(|(key, signature)| key ^ signature)
        .collect();
    let verifier = sign(sign(&salted, "Server Key").as_ref(), &signed);
    (
        format!("{unproved},p={}", Base64::encode_string(&proof)),
        format!("v={}", Base64::encode_string(verifier.as_ref())),
    )
}

#[test]
fn a_client_and_the_example_prove_themselves_to_each_other_by_scram_and_do_so_again() {
    let hook = Box::new(Scram::new(&[("ann", "pencil"), ("bob", "pen")]));
    let first = "n,,n=ann,r=fyko+d2lbbFgONRv9qkxdawL";
    with_hook(hook, secs(60), async |doors| {
        let mut peer = stranger(doors).await;
        peer.say(&connect_with(first)).await;
        let (last, expected) = scram_answer(first, &challenge(&mut peer).await, "pencil");
        peer.say(&packet_of(ReasonCode::ContinueAuthentication, &last))
            .await;
        let Some(Packet::ConnAck(connack)) = peer.hear().await else {
            panic!("expected CONNACK")
        };
        assert_eq!(connack.reason, ReasonCode::Success);
        assert_eq!(text_of(connack.properties.authentication_data), expected);

        peer.say(&packet_of(ReasonCode::Reauthenticate, first)).await;
        let (last, expected) = scram_answer(first, &challenge(&mut peer).await, "pencil");
        peer.say(&packet_of(ReasonCode::ContinueAuthentication, &last))
            .await;
        let Some(Packet::Auth(auth)) = peer.hear().await else {
            panic!("expected AUTH")
        };
        assert_eq!(auth.reason, ReasonCode::Success);
        assert_eq!(text_of(auth.properties.authentication_data), expected);

        // It is still ann, and not bob.
        let other = first.replace("ann", "bob");
        peer.say(&packet_of(ReasonCode::Reauthenticate, &other)).await;
        let (last, _) = scram_answer(&other, &challenge(&mut peer).await, "pen");
        peer.say(&packet_of(ReasonCode::ContinueAuthentication, &last))
            .await;
        peer.hear_farewell(ReasonCode::NotAuthorized).await;

        for (name, password) in [("ann", "guessed"), ("nobody", "pencil")] {
            let first = first.replace("ann", name);
            let mut peer = stranger(doors).await;
            peer.say(&connect_with(&first)).await;
            let (last, _) = scram_answer(&first, &challenge(&mut peer).await, password);
            peer.say(&packet_of(ReasonCode::ContinueAuthentication, &last))
                .await;
            let Some(Packet::ConnAck(connack)) = peer.hear().await else {
                panic!("expected CONNACK")
            };
            assert_eq!(connack.reason, ReasonCode::NotAuthorized, "{name}");
            assert_eq!(peer.hear().await, None);
        }
    });
}

/// A hook that does what the client asks for, from threads of its own.
struct Obedient;

impl Hook for Obedient {
    fn name(&self) -> &str {
        "obedient"
    }

    fn interests(&self) -> Interests {
        Interests::NONE
    }

    fn authentication_methods(&self) -> Vec<Utf8String> {
        vec![text(METHOD)]
    }

    fn exchange(&mut self, step: &Step<'_>, later: &mut Later<'_, Judgement>) -> Judgement {
        let judgement = match step.data {
            Some(b"panic") => panic!("as it was told to"),
            Some(b"never") => {
                // Not dropped: that would be an answer.
                std::mem::forget(later.answer());
                return Judgement::Later;
            }
            Some(b"more") => go_on("more"),
            _ => allow("ann", None),
        };
        let answer = later.answer();
        std::thread::spawn(move || answer.give(judgement));
        Judgement::Later
    }
}

#[test]
fn answers_from_other_threads_carry_many_exchanges_at_once() {
    with_hook(Box::new(Obedient), secs(60), async |doors| {
        let mut peers = Vec::new();
        for number in 0..20 {
            let mut peer = stranger(doors).await;
            let mut connect = proving(&format!("bill{number}"), METHOD);
            connect.properties.authentication_data = Some("more".into());
            peer.say(&Packet::Connect(Box::new(connect))).await;
            peers.push(peer);
        }
        for round in 0..3 {
            for peer in &mut peers {
                assert_eq!(challenge(peer).await, "more");
                let data = if round == 2 { "enough" } else { "more" };
                peer.say(&packet_of(ReasonCode::ContinueAuthentication, data))
                    .await;
            }
        }
        for peer in &mut peers {
            let said = peer.hear().await;
            assert!(
                matches!(&said, Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::Success),
                "{said:?}"
            );
        }
    });
}

#[test]
fn a_gateway_whose_hook_never_answers_or_panics_refuses_and_serves_on() {
    with_hook(Box::new(Obedient), Duration::from_millis(100), async |doors| {
        for data in ["never", "panic", "never", "panic"] {
            let mut peer = stranger(doors).await;
            peer.say(&connect_with(data)).await;
            let Some(Packet::ConnAck(connack)) = peer.hear().await else {
                panic!("expected CONNACK")
            };
            assert_eq!(connack.reason, ReasonCode::ServerUnavailable, "{data}");
            assert_eq!(peer.hear().await, None);
        }
        let mut peer = doors.peer(client(V5, "bill")).await;
        peer.say(&Packet::PingReq).await;
        assert_eq!(peer.hear().await, Some(Packet::PingResp));
    });
}

#[test]
fn a_connect_with_more_data_than_strangers_may_send_is_refused_before_anybody_is_asked() {
    let connect_bytes_max = running::settings().limits.connect_bytes_max;
    with_hook(Box::new(Obedient), secs(60), async |doors| {
        let mut peer = stranger(doors).await;
        let long = "x".repeat(usize::try_from(connect_bytes_max).expect("few").min(65_000));
        peer.prepare(&connect_with(&long));
        // It may hang up before all of it is said.
        let _ = peer.finish_saying().await;
        let said = peer.hear().await;
        assert!(
            !matches!(&said, Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::Success),
            "{said:?}"
        );
    });
}
