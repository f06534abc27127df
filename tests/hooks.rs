//! What an embedder's hooks are asked, what the broker does with what they say, and what waits for it.

mod conversation;
mod running;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conversation::*;
use tidegate::auth::access::{Action, Rights};
use tidegate::broker::{
    DetachReason, Event, Found, Input, KickOptions, Output, Refusal, Target, Verdict as Check,
};
use tidegate::gateway::Gateway;
use tidegate::hooks::rewrite::{Rewriting, Rule};
use tidegate::hooks::{
    Answer, Change, Client, Departure, Hook, Interests, Later, Login, Message, Origin, Ruling, Verdict,
};
use tidegate::kick::{KickHandle, Ticket};
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, TopicFilter, TopicName};

/// A hook that says what the test has told it to, and remembers what it was asked.
#[derive(Default, Clone)]
struct Scripted {
    interests: Interests,
    /// What it says next; nothing: it abstains.
    verdicts: Rc<RefCell<VecDeque<Verdict>>>,
    asked: Rc<RefCell<Vec<String>>>,
    answers: Rc<RefCell<VecDeque<Answer>>>,
    /// What it makes of messages on this topic.
    change: Option<(&'static str, Change)>,
    panics_at: Option<&'static str>,
}

impl Scripted {
    fn about(interests: Interests) -> Self {
        Self {
            interests,
            ..Self::default()
        }
    }

    fn saying(interests: Interests, verdicts: &[Verdict]) -> Self {
        let hook = Self::about(interests);
        hook.verdicts.borrow_mut().extend(verdicts.iter().cloned());
        hook
    }

    fn installed(&self) -> (House, Arc<Letters>) {
        House::hooked(vec![Box::new(self.clone())])
    }

    fn heard(&self, what: String) {
        assert!(
            self.panics_at.is_none_or(|at| !what.contains(at)),
            "as it was told to"
        );
        self.asked.borrow_mut().push(what);
    }

    fn judge(&self, what: String, later: &mut Later<'_>) -> Verdict {
        self.heard(what);
        let verdict = self.verdicts.borrow_mut().pop_front().unwrap_or(Verdict::Abstain);
        if verdict == Verdict::Later {
            self.answers.borrow_mut().push_back(later.answer());
        }
        verdict
    }

    /// Gives the oldest answer it owes.
    fn give(&self, verdict: Verdict) {
        let answer = self.answers.borrow_mut().pop_front();
        answer.expect("an answer is owed").give(verdict);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.borrow_mut())
    }
}

fn name(client: &Client<'_>) -> String {
    let id = client.client.map_or("-", |client| client.as_str());
    format!("{}/{id}", client.identity)
}

impl Hook for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn interests(&self) -> Interests {
        self.interests
    }

    fn arrival(&mut self, from: &Origin<'_>) -> Ruling {
        self.heard(format!("arrival at {}", from.listener));
        match self.verdicts.borrow_mut().pop_front() {
            Some(Verdict::Deny) => Ruling::Deny,
            _ => Ruling::Allow,
        }
    }

    fn authenticate(&mut self, login: &Login<'_>, later: &mut Later<'_>) -> Verdict {
        let user = login.user.map_or("-", |user| user.as_str());
        let password = String::from_utf8_lossy(login.password.unwrap_or(b"-"));
        self.judge(format!("login {user} {password}"), later)
    }

    fn message(&mut self, from: &Client<'_>, message: &Message<'_>) -> Change {
        self.heard(format!("message {} {}", name(from), message.topic));
        match &self.change {
            Some((topic, change)) if message.topic.as_str() == *topic => change.clone(),
            _ => Change::Keep,
        }
    }

    fn publish(&mut self, from: &Client<'_>, message: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        self.judge(format!("publish {} {}", name(from), message.topic), later)
    }

    fn subscribe(
        &mut self,
        from: &Client<'_>,
        filter: &TopicFilter,
        _: QoS,
        later: &mut Later<'_>,
    ) -> Verdict {
        self.judge(format!("subscribe {} {filter}", name(from)), later)
    }

    fn delivery(&mut self, to: &Client<'_>, message: &Message<'_>) -> Ruling {
        self.heard(format!("delivery {} {}", name(to), message.topic));
        match message.topic.as_str().ends_with("secret") {
            true => Ruling::Deny,
            false => Ruling::Allow,
        }
    }

    fn connected(&mut self, client: &Client<'_>) {
        self.heard(format!("connected {}", name(client)));
    }

    fn subscribed(&mut self, client: &Client<'_>, filter: &TopicFilter, qos: QoS) {
        self.heard(format!("subscribed {} {filter} {}", name(client), qos as u8));
    }

    fn disconnected(&mut self, client: &Client<'_>, departure: Departure) {
        self.heard(format!("disconnected {} {departure:?}", name(client)));
    }

    fn tick(&mut self, _: Instant) -> Option<Duration> {
        self.heard("tick".into());
        Some(secs(10))
    }
}

fn pause(outputs: &[Output]) -> usize {
    let pauses = outputs
        .iter()
        .filter(|output| matches!(output, Output::Pause { .. }));
    pauses.count()
}

fn resume(outputs: &[Output]) -> usize {
    let resumes = outputs
        .iter()
        .filter(|output| matches!(output, Output::Resume { .. }));
    resumes.count()
}

#[test]
fn who_is_denied_publishing_is_told_where_its_version_has_a_word_for_it() {
    for (version, answer) in [(V5, puback_with(1, ReasonCode::NotAuthorized)), (V311, puback(1))] {
        let hook = Scripted::saying(Interests::PUBLISH, &[Verdict::Deny, Verdict::Allow]);
        let (mut house, _) = hook.installed();
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "#", QoS::AtMostOnce);
        let link = house.join(client(version, "bill"));
        let outputs = house.publish(link, message1(1, "t", "denied"));
        assert_eq!(outputs, [send(link, answer)]);
        let outputs = house.publish(link, message1(2, "t", "allowed"));
        assert_eq!(payloads(&outputs, reader), ["allowed"]);
        assert_eq!(hook.asked(), ["publish anonymous/bill t"; 2]);
        assert_eq!(house.stats().publishes_denied, 1);
    }
}

#[test]
fn a_hook_takes_away_and_gives_nothing_that_the_rights_do_not() {
    let hook = Scripted::saying(
        Interests::PUBLISH | Interests::SUBSCRIBE,
        &[Verdict::Allow, Verdict::Allow],
    );
    let (mut house, _) = hook.installed();
    let denials = [Action::Publish, Action::Subscribe].map(|action| denial(None, action, "secret/#"));
    house.step(Input::RightsChanged(Rights::denying(denials.to_vec())));
    let link = house.join(client(V5, "bill"));
    let outputs = house.publish(link, message1(1, "secret/1", "x"));
    assert_eq!(outputs, [send(link, puback_with(1, ReasonCode::NotAuthorized))]);
    assert_eq!(
        house.subscribe(link, "secret/#", QoS::AtMostOnce),
        ReasonCode::NotAuthorized
    );
    assert_eq!(hook.asked(), [""; 0]);
}

#[test]
fn one_hook_that_denies_is_enough_and_the_next_is_not_asked() {
    let first = Scripted::saying(Interests::PUBLISH, &[Verdict::Allow, Verdict::Deny]);
    let second = Scripted::saying(Interests::PUBLISH, &[Verdict::Deny]);
    let (mut house, _) = House::hooked(vec![Box::new(first.clone()), Box::new(second.clone())]);
    let link = house.join(client(V5, "bill"));
    for number in [1, 2] {
        let outputs = house.publish(link, message1(number, "t", "x"));
        assert_eq!(
            outputs,
            [send(link, puback_with(number, ReasonCode::NotAuthorized))]
        );
    }
    assert_eq!((first.asked().len(), second.asked().len()), (2, 1));
}

#[test]
fn what_a_client_sends_behind_a_message_that_waits_stays_behind_it() {
    let hook = Scripted::saying(Interests::PUBLISH, &[Verdict::Later, Verdict::Later]);
    let (mut house, letters) = hook.installed();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtLeastOnce);
    let link = house.join(client(V5, "bill"));
    assert_eq!(
        house.publish(link, message1(1, "t", "one")),
        [Output::Pause { link }]
    );
    for later in [
        Packet::Publish(message1(2, "t", "two")),
        Packet::Publish(message("t", "three")),
        Packet::PingReq,
    ] {
        assert_eq!(house.receive(link, later), []);
    }
    // Somebody else does not wait.
    let other = house.join(client(V5, "other"));
    assert_eq!(
        house.receive(other, Packet::PingReq),
        [send(other, Packet::PingResp)]
    );

    hook.give(Verdict::Allow);
    let outputs = house.take_answers(&letters);
    assert_eq!(payloads(&outputs, reader), ["one"]);
    assert_eq!(sent(&outputs, link), [&puback(1)]);
    assert_eq!(
        (pause(&outputs), resume(&outputs)),
        (1, 0),
        "the second one waits"
    );

    hook.give(Verdict::Deny);
    let outputs = house.take_answers(&letters);
    assert_eq!(payloads(&outputs, reader), ["three"]);
    assert_eq!(
        sent(&outputs, link),
        [&puback_with(2, ReasonCode::NotAuthorized), &Packet::PingResp]
    );
    assert_eq!((pause(&outputs), resume(&outputs)), (0, 1));
    assert_eq!(house.stats().packets_received, 9);
}

#[test]
fn an_answer_that_does_not_come_in_time_is_a_refusal_and_no_silence_of_the_client() {
    let hook = Scripted::saying(
        Interests::PUBLISH | Interests::SUBSCRIBE,
        &[Verdict::Later, Verdict::Later],
    );
    let (mut house, letters) = hook.installed();
    let link = house.join(Connect {
        keep_alive_secs: 2,
        ..client(V5, "bill")
    });
    house.publish(link, message1(1, "t", "one"));
    assert_eq!(house.wait(Duration::from_millis(4999)), []);
    let outputs = house.wait(Duration::from_millis(1));
    assert_eq!(sent(&outputs, link), [&puback_with(1, ReasonCode::NotAuthorized)]);
    assert_eq!(resume(&outputs), 1);
    // What comes then finds nothing.
    hook.give(Verdict::Allow);
    assert_eq!(house.take_answers(&letters), []);

    house.receive(link, subscribe_packet(&[subscription("t", QoS::AtMostOnce)]));
    let outputs = house.wait(secs(5));
    assert_eq!(suback(&outputs, link), [ReasonCode::NotAuthorized]);
    assert_eq!(house.stats().hook_timeouts, 2);
    // From here on its silence counts again.
    assert_eq!(house.wait(Duration::from_millis(2999)), []);
    let outputs = house.wait(Duration::from_millis(1));
    assert_eq!(sent(&outputs, link), [&disconnect(ReasonCode::KeepAliveTimeout)]);
}

#[test]
fn a_client_that_goes_while_its_message_waits_leaves_no_ghost_behind() {
    type End = fn(&mut House, tidegate::broker::LinkId);
    let ends: [End; 4] = [
        |house, link| drop(house.close(link)),
        |house, _| {
            house.join(client(V5, "bill"));
        },
        |house, _| drop(house.step(kick(known_as("bill")))),
        |house, link| {
            // Said behind the message, so it counts after it.
            house.receive(link, disconnect(ReasonCode::Success));
            house.close(link);
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let hook = Scripted::saying(Interests::PUBLISH | Interests::SUBSCRIBE, &[Verdict::Later]);
        let (mut house, letters) = hook.installed();
        let reader = house.join(client(V5, "reader"));
        hook.verdicts.borrow_mut().push_front(Verdict::Allow);
        house.subscribe(reader, "#", QoS::AtMostOnce);
        let link = house.join(client(V5, "bill"));
        house.publish(link, message("t", "one"));
        end(&mut house, link);
        let there = usize::from(number == 1);
        hook.give(Verdict::Allow);
        assert_eq!(house.take_answers(&letters), [], "{number}");
        assert_eq!(house.stats().sessions, 1 + there as u64);
        assert_eq!(house.stats().publishes_denied, 1);
        house.wait(secs(10));
        assert_eq!(house.stats().hook_timeouts, 0);
    }
}

#[test]
fn what_came_behind_a_message_is_counted_once_though_the_connection_ends_among_it() {
    let hook = Scripted::saying(Interests::PUBLISH, &[Verdict::Later]);
    let (mut house, letters) = hook.installed();
    let link = house.join(client(V5, "bill"));
    house.publish(link, message("t", "waits"));
    house.receive(link, disconnect(ReasonCode::Success));
    house.receive(link, Packet::PingReq);
    assert_eq!(house.stats().packets_received, 4);
    hook.give(Verdict::Allow);
    house.take_answers(&letters);
    assert_eq!((house.stats().packets_received, house.stats().links), (4, 0));
}

#[test]
fn a_client_waits_at_the_door_for_a_hook_and_what_it_sends_waits_with_it() {
    let hook = Scripted::saying(Interests::AUTHENTICATE, &[Verdict::Later]);
    let (mut house, letters) = hook.installed();
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        user_name: Some(text("ann")),
        password: Some("secret".into()),
        ..client(V5, "bill")
    };
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    assert_eq!(outputs, [Output::Pause { link }]);
    assert_eq!(house.receive(link, Packet::PingReq), []);
    assert_eq!(house.stats().sessions, 0);
    hook.give(Verdict::AllowAs(text("ann@example")));
    let outputs = house.take_answers(&letters);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    assert_eq!(sent(&outputs, link).len(), 2);
    assert_eq!(resume(&outputs), 1);
    let names: Vec<_> = (events(&outputs).into_iter())
        .filter_map(|event| match event {
            Event::ClientConnected { identity, .. } => Some(identity.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["ann@example"]);
    assert_eq!(hook.asked(), ["login ann secret"]);
}

#[test]
fn what_a_hook_says_at_the_door_is_what_happens() {
    for (verdict, answer) in [
        (Verdict::Allow, ReasonCode::Success),
        (Verdict::Deny, ReasonCode::BadUserNameOrPassword),
        (Verdict::Unavailable, ReasonCode::ServerUnavailable),
    ] {
        for is_later in [false, true] {
            let first = if is_later { Verdict::Later } else { verdict.clone() };
            let hook = Scripted::saying(Interests::AUTHENTICATE, &[first]);
            let (mut house, letters) = hook.installed();
            let link = house.arrive_at_locked_door();
            let connect = Packet::Connect(Box::new(client(V5, "bill")));
            let mut outputs = house.receive(link, connect);
            if is_later {
                hook.give(verdict.clone());
                outputs = house.take_answers(&letters);
            }
            assert_eq!(connack(&outputs, link).reason, answer, "{verdict:?}");
        }
    }
    // Where it abstains, the password is looked at as ever, and what waited goes on waiting.
    let hook = Scripted::saying(Interests::AUTHENTICATE, &[Verdict::Later]);
    let (mut house, letters) = hook.installed();
    let link = house.arrive_at_locked_door();
    let connect = Connect {
        user_name: Some(text("ann")),
        password: Some("secret".into()),
        ..client(V5, "bill")
    };
    house.receive(link, Packet::Connect(Box::new(connect)));
    house.receive(link, Packet::PingReq);
    hook.give(Verdict::Abstain);
    let outputs = house.take_answers(&letters);
    assert!(matches!(
        outputs[..],
        [Output::Resume { .. }, Output::Verify { .. }]
    ));
    let outputs = house.verified(link, Check::Allow);
    assert_eq!(sent(&outputs, link).len(), 2);
}

#[test]
fn who_goes_or_waits_too_long_at_the_door_touches_nobody() {
    let hook = Scripted::saying(Interests::AUTHENTICATE, &[Verdict::Allow]);
    let (mut house, letters) = hook.installed();
    let owner = house.join(client(V5, "bill"));
    for end in 0..3 {
        hook.verdicts.borrow_mut().push_back(Verdict::Later);
        let (link, _) = house.connect(client(V5, "bill"));
        let outputs = match end {
            0 => house.close(link),
            1 => house.wait(secs(5)),
            _ => house.step(kick(Target::Listener("nowhere".into()))),
        };
        if end == 1 {
            assert_eq!(connack(&outputs, link).reason, ReasonCode::ServerUnavailable);
        }
        if end == 2 {
            house.step(Input::Malformed {
                link,
                version: None,
                error: tidegate::mqtt::DecodeError::ReservedPacketType,
            });
        }
        hook.give(Verdict::Allow);
        assert_eq!(house.take_answers(&letters), []);
        assert_eq!(
            house.receive(owner, Packet::PingReq),
            [send(owner, Packet::PingResp)]
        );
        assert_eq!((house.stats().sessions, house.stats().takeovers), (1, 0));
    }
    // Two wait by one name: who is answered last has it.
    hook.verdicts
        .borrow_mut()
        .extend([Verdict::Later, Verdict::Later]);
    let (first, _) = house.connect(client(V5, "bill"));
    let (second, _) = house.connect(client(V5, "bill"));
    hook.answers.borrow_mut().swap(0, 1);
    hook.give(Verdict::Allow);
    hook.give(Verdict::Allow);
    let outputs = house.take_answers(&letters);
    assert_eq!(sent(&outputs, second).len(), 2, "it came in and was taken over");
    assert_eq!(
        house.receive(first, Packet::PingReq),
        [send(first, Packet::PingResp)]
    );
    assert_eq!((house.stats().sessions, house.stats().links), (1, 1));
}

#[test]
fn filters_are_asked_about_one_by_one() {
    let hook = Scripted::saying(
        Interests::SUBSCRIBE | Interests::SUBSCRIBED,
        &[Verdict::Later, Verdict::Deny, Verdict::Later, Verdict::Allow],
    );
    let (mut house, letters) = hook.installed();
    let link = house.join(client(V5, "bill"));
    let filters = ["a", "b", "c", "d"].map(|filter| subscription(filter, QoS::AtLeastOnce));
    house.receive(link, subscribe_packet(&filters));
    hook.give(Verdict::Allow);
    let outputs = house.take_answers(&letters);
    assert_eq!(sent(&outputs, link), [] as [&Packet; 0]);
    hook.give(Verdict::Deny);
    let outputs = house.take_answers(&letters);
    let (granted, refused) = (ReasonCode::GrantedQos1, ReasonCode::NotAuthorized);
    assert_eq!(suback(&outputs, link), [granted, refused, refused, granted]);
    assert_eq!(house.stats().subscriptions, 2);
    assert_eq!(
        hook.asked()[4..],
        ["subscribed anonymous/bill a 1", "subscribed anonymous/bill d 1"]
    );
}

#[test]
fn a_hook_that_panics_is_contained_counted_and_asked_again() {
    let hook = Scripted {
        panics_at: Some("poison"),
        ..Scripted::about(
            Interests::PUBLISH | Interests::SUBSCRIBE | Interests::DELIVERY | Interests::CONNECTED,
        )
    };
    let (mut house, _) = hook.installed();
    let link = house.join(client(V5, "poison"));
    assert_eq!(
        house.stats().hook_panics,
        1,
        "told that somebody is in, which changes nothing"
    );
    let link2 = house.join(client(V5, "bill"));
    let outputs = house.publish(link2, message1(1, "poison", "x"));
    assert_eq!(
        sent(&outputs, link2),
        [&puback_with(1, ReasonCode::NotAuthorized)]
    );
    let told = Event::HookPanicked {
        hook: "scripted".into(),
    };
    assert!(events(&outputs).contains(&&told));
    assert_eq!(
        house.subscribe(link2, "poison/#", QoS::AtMostOnce),
        ReasonCode::NotAuthorized
    );
    let outputs = house.publish(link2, message1(2, "t", "x"));
    assert_eq!(
        sent(&outputs, link2),
        [&puback_with(2, ReasonCode::NoMatchingSubscribers)]
    );
    house.close(link);
    assert_eq!(house.stats().hook_panics, 3);
}

#[test]
fn a_promise_without_an_answer_to_give_it_by_is_a_refusal() {
    struct Forgetful;
    impl Hook for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }
        fn interests(&self) -> Interests {
            Interests::PUBLISH
        }
        fn publish(&mut self, _: &Client<'_>, message: &Message<'_>, later: &mut Later<'_>) -> Verdict {
            if message.payload == b"drop" {
                drop(later.answer());
            }
            Verdict::Later
        }
    }
    let (mut house, letters) = House::hooked(vec![Box::new(Forgetful)]);
    let link = house.join(client(V5, "bill"));
    let refused = |number| puback_with(number, ReasonCode::NotAuthorized);
    assert_eq!(
        house.publish(link, message1(1, "t", "x")),
        [send(link, refused(1))]
    );
    house.publish(link, message1(2, "t", "drop"));
    let outputs = house.take_answers(&letters);
    assert_eq!(sent(&outputs, link), [&refused(2)]);
}

#[test]
fn a_message_is_changed_dropped_or_sent_elsewhere_before_rights_are_asked() {
    let elsewhere = |topic: &str| Change::Replace {
        topic: TopicName::try_from(topic).ok(),
        payload: None,
    };
    let redacted = Change::Replace {
        topic: None,
        payload: Some(Bytes::from_static(b"***")),
    };
    for (change, payload, answer) in [
        (Change::Keep, Some(("t", "secret")), ReasonCode::Success),
        (Change::Drop, None, ReasonCode::Success),
        (redacted, Some(("t", "***")), ReasonCode::Success),
        (elsewhere("u"), Some(("u", "secret")), ReasonCode::Success),
        (elsewhere("forbidden"), None, ReasonCode::NotAuthorized),
        (elsewhere("$SYS/x"), None, ReasonCode::NotAuthorized),
    ] {
        let hook = Scripted {
            change: Some(("t", change.clone())),
            ..Scripted::about(Interests::MESSAGE)
        };
        let (mut house, _) = hook.installed();
        let rights = Rights::denying(vec![denial(None, Action::Publish, "forbidden")]);
        house.step(Input::RightsChanged(rights));
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "#", QoS::AtMostOnce);
        let link = house.join(client(V5, "bill"));
        let outputs = house.publish(link, message1(1, "t", "secret"));
        let found = messages(&outputs, reader);
        let expected: Vec<_> = payload
            .into_iter()
            .map(|(topic, payload)| message(topic, payload))
            .collect();
        assert_eq!(found, expected, "{change:?}");
        assert_eq!(sent(&outputs, link), [&puback_with(1, answer)]);
        // The gateway's own go the same way, but for its rights.
        let outputs = house.step(own("t", "secret", QoS::AtMostOnce, false));
        let reached = payload.is_some() || matches!(&change, Change::Replace { .. });
        let reserved = change == elsewhere("$SYS/x");
        assert_eq!(
            messages(&outputs, reader).len(),
            usize::from(reached && !reserved)
        );
    }
}

#[test]
fn deliveries_are_asked_about_one_by_one_and_none_goes_round_the_hook() {
    let hook = Scripted::about(Interests::DELIVERY);
    let (mut house, _) = hook.installed();
    let readers = ["one", "two"].map(|id| house.join(client(V5, id)));
    for reader in readers {
        house.subscribe(reader, "#", QoS::AtLeastOnce);
    }
    let link = house.join(client(V5, "bill"));
    for _ in 0..3 {
        let outputs = house.publish(link, message("t", "open"));
        assert!(
            readers
                .iter()
                .all(|&reader| payloads(&outputs, reader) == ["open"])
        );
        let outputs = house.publish(link, message("t/secret", "closed"));
        assert_eq!(outputs, []);
    }
    house.publish(link, retained(message("kept/secret", "closed")));
    assert_eq!(house.stats().deliveries_denied, 8);
    assert_eq!(hook.asked().len(), 14);
    let late = house.join(client(V5, "late"));
    let outputs = house.receive(late, subscribe_packet(&[subscription("#", QoS::AtMostOnce)]));
    assert_eq!(payloads(&outputs, late), [""; 0]);
    // Nor does a shared subscription.
    house.subscribe(late, "$share/g/shared/#", QoS::AtMostOnce);
    let outputs = house.publish(link, message("shared/secret", "closed"));
    assert_eq!(outputs, []);
}

#[test]
fn a_will_is_shown_to_the_hooks_and_asked_about_when_its_client_comes() {
    let with_will = || Connect {
        will: Some(will("t", "gone")),
        ..client(V5, "bill")
    };
    for (verdict, is_in) in [
        (Verdict::Allow, true),
        (Verdict::Deny, false),
        (Verdict::Unavailable, false),
    ] {
        for is_later in [false, true] {
            let first = if is_later { Verdict::Later } else { verdict.clone() };
            let change = Change::Replace {
                topic: TopicName::try_from("u").ok(),
                payload: Some("***".into()),
            };
            let hook = Scripted {
                change: Some(("t", change)),
                ..Scripted::saying(Interests::MESSAGE | Interests::PUBLISH, &[first])
            };
            let (mut house, letters) = hook.installed();
            let reader = house.join(client(V5, "reader"));
            house.subscribe(reader, "#", QoS::AtMostOnce);
            let (link, mut outputs) = house.connect(with_will());
            if is_later {
                house.receive(link, Packet::PingReq);
                hook.give(verdict.clone());
                outputs = house.take_answers(&letters);
            }
            assert_eq!(connack(&outputs, link).reason == ReasonCode::Success, is_in);
            assert_eq!(
                hook.asked(),
                ["message anonymous/bill t", "publish anonymous/bill u"]
            );
            if is_in {
                let outputs = house.close(link);
                assert_eq!(messages(&outputs, reader), [message("u", "***")]);
            }
        }
    }
    // A will that is dropped keeps nobody out.
    let hook = Scripted {
        change: Some(("t", Change::Drop)),
        ..Scripted::about(Interests::MESSAGE)
    };
    let (mut house, _) = hook.installed();
    let link = house.join(with_will());
    house.close(link);
    assert_eq!(house.stats().wills_sent, 0);
}

#[test]
fn a_connection_can_be_refused_before_it_says_anything() {
    let hook = Scripted::saying(Interests::ARRIVAL, &[Verdict::Allow, Verdict::Deny]);
    let (mut house, _) = hook.installed();
    house.join_from("192.0.2.1", client(V5, "bill"));
    let link = house.unknown_link();
    let outputs = house.step(Input::Connected {
        link,
        listener: Rc::new(tidegate::broker::ListenerPolicy::new("door", true)),
        peer: None,
        certificate_user: None,
        certificate_client: None,
    });
    let reason = DetachReason::Refused(Refusal::ByHook);
    assert_eq!(
        outputs,
        [
            close(link),
            Output::Event(Event::ConnectionRefused { link, reason })
        ]
    );
    assert_eq!((house.stats().links, house.stats().connections_refused), (1, 1));
}

#[test]
fn hooks_are_told_who_comes_and_goes_and_what_time_it_is() {
    let hook = Scripted::about(Interests::CONNECTED | Interests::DISCONNECTED | Interests::TICK);
    let (mut house, _) = hook.installed();
    house.wait(secs(20));
    assert_eq!(hook.asked(), ["tick"; 3]);
    let one = house.join(client(V5, "one"));
    let two = house.join(client(V5, "two"));
    house.join(client(V5, "three"));
    house.receive(one, disconnect(ReasonCode::DisconnectWithWillMessage));
    house.close(two);
    house.step(kick(known_as("three")));
    assert_eq!(
        hook.asked(),
        [
            "connected anonymous/one",
            "connected anonymous/two",
            "connected anonymous/three",
            "disconnected anonymous/one Goodbye(DisconnectWithWillMessage)",
            "disconnected anonymous/two Lost",
            "disconnected anonymous/three SentAway",
        ]
    );
}

fn rewriting(from: &str, to: &str) -> Box<dyn Hook> {
    Box::new(Rewriting::new(vec![
        Rule::parse(from, to).expect("a rule of the test"),
    ]))
}

#[test]
fn renamed_topics_are_the_new_ones_to_everybody_and_to_the_rights() {
    let (mut house, _) = House::hooked(vec![rewriting("a/+/b/#", "c/$1/$2")]);
    let old = house.join(client(V5, "old"));
    assert_eq!(
        house.subscribe(old, "a/1/b/#", QoS::AtMostOnce),
        ReasonCode::Success
    );
    let new = house.join(client(V5, "new"));
    house.subscribe(new, "c/+/x", QoS::AtMostOnce);
    for topic in ["a/1/b/x", "c/1/x"] {
        let outputs = house.publish(new, message(topic, "found"));
        for reader in [old, new] {
            assert_eq!(messages(&outputs, reader), [message("c/1/x", "found")]);
        }
    }
    let outputs = house.receive(old, unsubscribe_packet(&["a/1/b/#"]));
    assert!(
        matches!(sent(&outputs, old)[..], [Packet::UnsubAck(ack)] if ack.reasons[0] == ReasonCode::Success)
    );
    let rights = Rights::denying(vec![denial(None, Action::Publish, "c/2/#")]);
    house.step(Input::RightsChanged(rights));
    let outputs = house.publish(new, message1(1, "a/2/b/x", "lost"));
    assert_eq!(outputs, [send(new, puback_with(1, ReasonCode::NotAuthorized))]);
}

#[test]
fn renaming_does_not_lead_out_of_a_mount_point() {
    let (mut house, _) = House::hooked(vec![rewriting("a/#", "b/$1"), rewriting("b/#", "d/$1")]);
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let link = house.join_at("site", client(V5, "bill"));
    // Each hook sees what the one before made of it.
    let outputs = house.publish(link, message("a/x", "found"));
    assert_eq!(messages(&outputs, reader), [message("site/d/x", "found")]);
    house.subscribe(link, "a/#", QoS::AtMostOnce);
    let outputs = house.publish(reader, message("site/d/x", "back"));
    assert_eq!(messages(&outputs, link), [message("d/x", "back")]);
}

/// A hook that sends its clients away by a kick handle, from within.
struct Bouncer {
    kicks: KickHandle,
    interests: Interests,
    tickets: Rc<RefCell<Vec<Ticket>>>,
}

impl Bouncer {
    fn bounce(&self, id: &str) {
        let target = Target::Client(client_id(id));
        let ticket = self.kicks.kick(target, KickOptions::default());
        self.tickets.borrow_mut().push(ticket.expect("there is room"));
    }
}

impl Hook for Bouncer {
    fn name(&self) -> &str {
        "bouncer"
    }

    fn interests(&self) -> Interests {
        self.interests
    }

    fn authenticate(&mut self, login: &Login<'_>, _: &mut Later<'_>) -> Verdict {
        self.bounce(login.client.map_or("", |client| client.as_str()));
        Verdict::Allow
    }

    fn publish(&mut self, from: &Client<'_>, _: &Message<'_>, _: &mut Later<'_>) -> Verdict {
        self.bounce(from.client.map_or("", |client| client.as_str()));
        Verdict::Allow
    }
}

/// A gateway with a hook, on a free port, and a story about it.
fn with_hook(hook: impl FnOnce(KickHandle) -> Box<dyn Hook>, story: impl AsyncFnOnce(&running::Doors)) {
    let builder = Gateway::builder(running::settings());
    let hook = hook(builder.kick_handle());
    running::with_gateway_of(builder.hook(hook), story);
}

#[test]
fn kicks_from_inside_an_authentication_hook_and_from_an_acl_check_find_their_client() {
    for interests in [Interests::AUTHENTICATE, Interests::PUBLISH] {
        let tickets = Rc::new(RefCell::new(Vec::new()));
        let known = tickets.clone();
        let hook = |kicks| -> Box<dyn Hook> {
            Box::new(Bouncer {
                kicks,
                interests,
                tickets: known,
            })
        };
        with_hook(hook, async |doors| {
            for _ in 0..50 {
                let mut peer = doors.peer(client(V5, "bill")).await;
                if interests == Interests::PUBLISH {
                    peer.say(&Packet::Publish(message("t", "x"))).await;
                }
                let farewell = peer.hear().await;
                assert_eq!(farewell, Some(disconnect(ReasonCode::AdministrativeAction)));
                let ticket: Ticket = tickets.borrow_mut().pop().expect("it was kicked");
                let outcome = ticket.await.expect("the gateway runs");
                assert_eq!(outcome.found(), Found::Online);
            }
        });
    }
}

/// A hook whose answers come from threads of their own.
struct Slow;

impl Hook for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn interests(&self) -> Interests {
        Interests::AUTHENTICATE | Interests::PUBLISH
    }

    fn authenticate(&mut self, _: &Login<'_>, later: &mut Later<'_>) -> Verdict {
        let answer = later.answer();
        std::thread::spawn(|| answer.give(Verdict::AllowAs(text("ann"))));
        Verdict::Later
    }

    fn publish(&mut self, _: &Client<'_>, message: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        let is_allowed = !message.payload.ends_with(b"7");
        let answer = later.answer();
        std::thread::spawn(move || answer.give(if is_allowed { Verdict::Allow } else { Verdict::Deny }));
        Verdict::Later
    }
}

#[test]
fn answers_from_other_threads_keep_the_order_of_what_was_sent_in_one_go() {
    with_hook(
        |_| Box::new(Slow),
        async |doors| {
            let mut peer = doors.peer(client(V5, "bill")).await;
            peer.say(&subscribe_packet(&[subscription("t", QoS::AtMostOnce)]))
                .await;
            let said = peer.hear().await;
            assert!(matches!(said, Some(Packet::SubAck(_))), "{said:?}");
            for number in 1..=200 {
                let packet = Packet::Publish(message1(number, "t", &number.to_string()));
                peer.prepare(&packet);
            }
            peer.finish_saying().await.expect("the gateway listens");
            for number in 1..=200_u16 {
                if number % 10 == 7 {
                    let refused = puback_with(number, ReasonCode::NotAuthorized);
                    assert_eq!(peer.hear().await, Some(refused));
                    continue;
                }
                let found = Packet::Publish(message("t", &number.to_string()));
                assert_eq!(peer.hear().await, Some(found));
                assert_eq!(peer.hear().await, Some(puback(number)));
            }
        },
    );
}
