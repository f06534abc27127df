//! Who is sent away, what becomes of what they leave, and who is kept out for a time.

mod conversation;

use std::net::IpAddr;
use std::time::Duration;

use conversation::*;
use tidegate::auth::access::Rights;
use tidegate::broker::{
    BanSubject, DetachReason, Event, Found, Input, KeptOut, KickOptions, KickOutcome, KickReason,
    KickedSession, KickedWill, Limits, LinkId, Output, Pattern, Settings, Target, Verdict,
};
use tidegate::mqtt::{
    Connect, Disconnect, DisconnectProperties, Packet, QoS, ReasonCode, Will, WillProperties,
};

/// How long the house lets pass between two slices of kicks.
const GAP: Duration = Duration::from_millis(10);

fn pattern(text: &str) -> Target {
    Target::Pattern(Pattern::parse(text).expect("a pattern of the test"))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

fn network(text: &str) -> Target {
    Target::Network(text.parse().expect("a network of the test"))
}

fn purge() -> KickOptions {
    KickOptions {
        session: KickedSession::Purge,
        ..KickOptions::default()
    }
}

fn keep_out(secs: u64) -> KickOptions {
    KickOptions {
        keep_out: Some(Duration::from_secs(secs)),
        ..KickOptions::default()
    }
}

/// A kick when the last one is long over.
fn kick_later(house: &mut House, target: Target, options: KickOptions) -> (KickOutcome, Vec<Output>) {
    house.wait(GAP);
    let outputs = house.step(kick_with(1, target, options));
    let [outcome] = kicked(&outputs)[..] else {
        panic!("expected one outcome in {outputs:?}");
    };
    (outcome, outputs)
}

fn closed(outputs: &[Output]) -> Vec<LinkId> {
    (outputs.iter())
        .filter_map(|output| match output {
            Output::Close { link } => Some(*link),
            _ => None,
        })
        .collect()
}

fn outcome(kicked: usize, purged: usize, away: usize) -> KickOutcome {
    KickOutcome {
        kicked,
        purged,
        away,
        ..KickOutcome::default()
    }
}

#[test]
fn each_kind_of_target_means_those_it_names_and_nobody_else() {
    let everybody = ["ann-1", "ann-2", "bill-1", "guest", "*"];
    for (target, expected) in [
        (known_as("ann-1"), vec!["ann-1"]),
        (known_as("*"), vec!["*"]),
        (known_as("ann-?"), vec![]),
        (Target::User(text("ann")), vec!["ann-1", "ann-2"]),
        (Target::User(text("*")), vec![]),
        (Target::User(text("")), vec![]),
        (Target::Address(address("192.0.2.7")), vec!["guest"]),
        (Target::Address(address("::ffff:192.0.2.7")), vec!["guest"]),
        (Target::Address(address("192.0.2.8")), vec![]),
        (network("192.0.2.0/24"), vec!["guest"]),
        (network("::/0"), vec![]),
        (Target::Listener("locked".into()), vec![]),
        (Target::Listener("mounted".into()), vec!["*"]),
        (pattern("ann-*"), vec!["ann-1", "ann-2"]),
        (pattern("*-1"), vec!["ann-1", "bill-1"]),
        (pattern("?"), vec!["*"]),
        (Target::Everyone, everybody.to_vec()),
    ] {
        let mut house = House::new();
        let links = [
            house.join_as("ann", client(V5, "ann-1")),
            house.join_as("ann", client(V311, "ann-2")),
            house.join_as("bill", client(V5, "bill-1")),
            house.join_from("192.0.2.7", client(V5, "guest")).0,
            house.join_at("site", client(V5, "*")),
        ];
        let outputs = house.step(kick(target.clone()));
        let names = everybody.iter().zip(links);
        let gone: Vec<_> = names
            .filter(|(_, link)| closed(&outputs).contains(link))
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(gone, expected, "{target}");
        assert_eq!(kicked(&outputs), [outcome(expected.len(), 0, 0)], "{target}");
        assert_eq!(house.stats().clients_connected, 5 - expected.len() as u64);
        assert_eq!(house.stats().clients_kicked, expected.len() as u64);
        assert_eq!(house.stats().kicks_in_vain, u64::from(expected.is_empty()));
    }
}

#[test]
fn online_offline_and_unknown_clients_are_told_apart() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    house.subscribe(reader, "#", QoS::AtMostOnce);
    let online = house.join(resuming(V5, "online"));
    let offline = house.join(resuming(V5, "offline"));
    house.close(offline);

    let (outcome, outputs) = kick_later(&mut house, known_as("online"), KickOptions::default());
    assert_eq!((outcome.found(), outcome.kicked), (Found::Online, 1));
    assert_eq!(
        sent(&outputs, online),
        [&disconnect(ReasonCode::AdministrativeAction)]
    );

    // Whose session is kept for him is none the worse for it.
    for name in ["online", "offline"] {
        let (outcome, outputs) = kick_later(&mut house, known_as(name), KickOptions::default());
        assert_eq!((outcome.found(), outcome.away), (Found::AlreadyGone, 1));
        assert_eq!(closed(&outputs), []);
        let (link, outputs) = house.connect(resuming(V5, name));
        assert!(connack(&outputs, link).session_present);
        house.close(link);
    }

    let (outcome, outputs) = kick_later(&mut house, known_as("unknown"), KickOptions::default());
    assert_eq!(outcome.found(), Found::Nobody);
    assert_eq!(acts(outputs).len(), 1, "the outcome and nothing else");

    for (name, found) in [
        ("online", Found::Purged),
        ("online", Found::Nobody),
        ("unknown", Found::Nobody),
    ] {
        let (outcome, _) = kick_later(&mut house, known_as(name), purge());
        assert_eq!(outcome.found(), found);
    }
    assert_eq!((house.stats().sessions, house.stats().sessions_purged), (2, 1));
}

#[test]
fn a_kick_that_comes_after_a_takeover_or_a_reconnect_ends_the_newest_connection_and_that_once() {
    let mortal = |name: &str| Connect {
        will: Some(will("will", "gone")),
        ..resuming(V5, name)
    };
    for takes_over in [true, false] {
        let mut house = House::new();
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "will", QoS::AtMostOnce);
        let old = house.join(mortal("bill"));
        let mut wills = Vec::new();
        if !takes_over {
            wills.extend(house.close(old));
        }
        let (new, outputs) = house.connect(mortal("bill"));
        wills.extend(outputs);
        assert_eq!(payloads(&wills, reader), ["gone"], "of the old connection");

        let (outcome, outputs) = kick_later(&mut house, known_as("bill"), KickOptions::default());
        assert_eq!(outcome.kicked, 1);
        assert_eq!(closed(&outputs), [new]);
        assert_eq!(payloads(&outputs, reader), ["gone"], "of the new connection");

        // What the old and the new connection still say is nobody's.
        for link in [old, new] {
            assert_eq!(house.publish(link, message("will", "ghost")), []);
            assert_eq!(house.close(link), []);
        }
        let (outcome, outputs) = kick_later(&mut house, known_as("bill"), KickOptions::default());
        assert_eq!(outcome.found(), Found::AlreadyGone);
        assert_eq!(payloads(&outputs, reader), [""; 0]);
    }
}

#[test]
fn who_comes_back_while_a_long_kick_is_carried_out_stays() {
    let mut house = House::within(Limits {
        kicks_per_tick_max: 3,
        ..Limits::default()
    });
    let links: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|name| house.join(resuming(V5, name)))
        .to_vec();
    let outputs = house.step(kick_with(1, Target::Everyone, purge()));
    // The order itself counts as one.
    assert_eq!(closed(&outputs), links[..2]);
    assert_eq!(kicked(&outputs), []);
    assert_eq!(house.broker.kicks_due(), house.broker.poll_timeout());

    let again = house.join(resuming(V5, "a"));
    let taken_over = house.join(resuming(V5, "d"));
    house.close(links[4]);
    let outputs = house.wait(GAP);
    assert_eq!(closed(&outputs), [links[2]]);
    // "d" has a new connection, and stays as it is; "e" had gone, and its session goes too.
    assert_eq!(
        kicked(&outputs),
        [KickOutcome {
            kicked: 3,
            purged: 4,
            away: 2,
            ..KickOutcome::default()
        }]
    );
    for link in [again, taken_over] {
        assert_eq!(house.publish(link, message("t", "")), []);
        let pong = house.receive(link, Packet::PingReq);
        assert_eq!(pong, [send(link, Packet::PingResp)]);
    }
    assert_eq!((house.stats().sessions, house.stats().clients_connected), (2, 2));
}

#[test]
fn kicks_are_carried_out_in_the_order_asked_a_bounded_number_at_a_time() {
    let mut house = House::within(Limits {
        kicks_per_tick_max: 2,
        ..Limits::default()
    });
    let names = ["a", "b", "c", "d", "e"];
    let links = names.map(|name| house.join(client(V5, name)));
    assert_eq!(house.broker.kicks_taken_at(house.now.mono), None);
    let mut outputs = Vec::new();
    for (name, number) in names.iter().rev().zip(0..) {
        outputs.extend(house.step(kick_with(number, known_as(name), KickOptions::default())));
    }
    assert_eq!(closed(&outputs), [links[4], links[3]]);
    let next = house.now.mono + GAP;
    assert_eq!(house.broker.kicks_taken_at(house.now.mono), Some(next));
    assert_eq!(closed(&house.wait(GAP)), [links[2], links[1]]);
    let outputs = house.wait(GAP);
    assert_eq!(closed(&outputs), [links[0]]);
    assert_eq!(house.stats().kicks, 5);

    // A slice that had room left does not take what is asked before the gap is over.
    house.now.mono += GAP / 2;
    let late = house.join(client(V5, "late"));
    assert_eq!(house.step(kick(known_as("late"))), []);
    assert_eq!(closed(&house.wait(GAP / 2)), [late]);
    assert_eq!(house.broker.kicks_due(), None);
}

#[test]
fn acknowledgements_that_are_owed_leave_before_the_farewell() {
    let mut house = House::new();
    let link = house.join(client(V5, "bill"));
    let mut outputs = house.publish(link, message1(1, "t", "one"));
    outputs.extend(house.publish(link, message2(2, "t", "two")));
    outputs.extend(house.step(kick(known_as("bill"))));
    let names: Vec<_> = sent(&outputs, link).iter().map(|packet| packet.name()).collect();
    assert_eq!(names, ["PUBACK", "PUBREC", "DISCONNECT"]);
}

#[test]
fn a_5_0_client_is_told_why_and_where_to_go_and_an_older_one_is_closed_on() {
    let goodbye = |reason, server_reference: Option<&str>| {
        Packet::Disconnect(Box::new(Disconnect {
            reason,
            properties: DisconnectProperties {
                server_reference: server_reference.map(text),
                ..DisconnectProperties::default()
            },
        }))
    };
    let with = |reason, elsewhere: Option<&str>| KickOptions {
        reason,
        server_reference: elsewhere.map(text),
        ..KickOptions::default()
    };
    for (settings_say, options, expected) in [
        (
            None,
            KickOptions::default(),
            goodbye(ReasonCode::AdministrativeAction, None),
        ),
        (
            Some("settings:1"),
            with(KickReason::default(), Some("order:1")),
            goodbye(ReasonCode::AdministrativeAction, None),
        ),
        (
            Some("settings:1"),
            with(KickReason::USE_ANOTHER_SERVER, Some("order:1")),
            goodbye(ReasonCode::UseAnotherServer, Some("order:1")),
        ),
        (
            Some("settings:1"),
            with(KickReason::SERVER_MOVED, None),
            goodbye(ReasonCode::ServerMoved, Some("settings:1")),
        ),
        (
            None,
            with(KickReason::SERVER_MOVED, None),
            goodbye(ReasonCode::ServerMoved, None),
        ),
        (
            None,
            with(KickReason::MESSAGE_RATE_TOO_HIGH, None),
            goodbye(ReasonCode::MessageRateTooHigh, None),
        ),
    ] {
        for version in [V5, V311, V31] {
            let mut house = House::with(Settings {
                server_reference: settings_say.map(text),
                ..Settings::default()
            });
            let link = house.join(client(version, "bill"));
            let outputs = house.step(kick_with(1, known_as("bill"), options.clone()));
            let farewell = (version == V5).then_some(&expected);
            assert_eq!(sent(&outputs, link), farewell.into_iter().collect::<Vec<_>>());
            assert_eq!(closed(&outputs), [link]);
        }
    }
}

#[test]
fn every_reason_that_may_be_given_can_be_said_to_a_client_that_is_in_and_to_one_that_is_not() {
    let mut count = 0;
    for reason in (0..=u8::MAX)
        .filter_map(ReasonCode::from_u8)
        .filter_map(KickReason::new)
    {
        count += 1;
        let options = KickOptions {
            reason,
            ..KickOptions::default()
        };
        // The witness of the house reads both as the client would.
        let mut house = House::new();
        let link = house.join(client(V5, "in"));
        let knocking = house.knock("ann", client(V5, "not in"));
        let outputs = house.step(kick_with(1, Target::Everyone, options));
        assert_eq!(sent(&outputs, link), [&disconnect(reason.code())]);
        let refused = connack(&outputs, knocking).reason;
        assert!(refused.is_error());
        assert_eq!(
            kicked(&outputs),
            [KickOutcome {
                kicked: 1,
                pending: 1,
                ..KickOutcome::default()
            }]
        );
    }
    assert_eq!(count, 12);
    assert_eq!(KickReason::new(ReasonCode::Success), None);
    assert_eq!(KickReason::new(ReasonCode::Banned), None);
}

#[test]
fn the_will_of_a_kicked_client_is_sent_or_nobody_learns_of_it() {
    let delayed = Will {
        properties: WillProperties {
            delay_secs: Some(30),
            ..WillProperties::default()
        },
        ..will("will", "gone")
    };
    for (testament, waits) in [(will("will", "gone"), false), (delayed, true)] {
        for (choice, session, expected) in [
            (KickedWill::Publish, KickedSession::Keep, 1),
            (KickedWill::Discard, KickedSession::Keep, 0),
            (KickedWill::Publish, KickedSession::Purge, 1),
            (KickedWill::Discard, KickedSession::Purge, 0),
        ] {
            let mut house = House::new();
            let reader = house.join(Connect {
                keep_alive_secs: 60,
                ..client(V311, "reader")
            });
            house.subscribe(reader, "will", QoS::AtMostOnce);
            house.join(Connect {
                will: Some(testament.clone()),
                ..resuming(V5, "bill")
            });
            let options = KickOptions {
                will: choice,
                session,
                ..KickOptions::default()
            };
            let outputs = house.step(kick_with(1, known_as("bill"), options));
            // A session that is purged does not wait: its end is the end of the delay.
            let at_once = if waits && session == KickedSession::Keep {
                0
            } else {
                expected
            };
            assert_eq!(payloads(&outputs, reader).len(), at_once);
            let outputs = house.wait(secs(31));
            assert_eq!(payloads(&outputs, reader).len(), expected - at_once);
            assert_eq!(house.stats().wills_bytes, 0);
            assert_eq!(house.stats().wills_sent, expected as u64);
        }
    }
}

#[test]
fn the_will_of_an_absent_client_goes_with_its_session_when_that_is_purged() {
    for (choice, expected) in [(KickedWill::Publish, 1), (KickedWill::Discard, 0)] {
        let mut house = House::new();
        let reader = house.join(client(V5, "reader"));
        house.subscribe(reader, "will", QoS::AtMostOnce);
        let mut connect = resuming(V5, "bill");
        let mut testament = will("will", "gone");
        testament.properties.delay_secs = Some(30);
        connect.will = Some(testament);
        let link = house.join(connect);
        house.close(link);
        let options = KickOptions {
            will: choice,
            ..purge()
        };
        let (outcome, outputs) = kick_later(&mut house, known_as("bill"), options);
        assert_eq!(outcome.found(), Found::Purged);
        assert_eq!(payloads(&outputs, reader).len(), expected);
        assert_eq!(house.stats().sessions, 1);
    }
}

#[test]
fn a_session_is_kept_or_forgotten_with_all_that_waits() {
    for (options, waits) in [(KickOptions::default(), true), (purge(), false)] {
        let mut house = House::new();
        let link = house.join(resuming(V5, "bill"));
        house.subscribe(link, "t", QoS::AtLeastOnce);
        house.step(kick_with(1, known_as("bill"), options));
        house.step(own("t", "while away", QoS::AtLeastOnce, false));
        assert_eq!(house.stats().queued_messages, u64::from(waits));
        let (link, outputs) = house.connect(resuming(V5, "bill"));
        assert_eq!(connack(&outputs, link).session_present, waits);
        assert_eq!(messages(&outputs, link).len(), usize::from(waits));
        assert_eq!(house.stats().subscriptions, u64::from(waits));
    }
}

#[test]
fn connections_whose_client_is_not_in_are_ended_by_where_they_come_from_and_not_by_what_they_say() {
    for (target, goes) in [
        (known_as("bill"), false),
        (Target::User(text("ann")), false),
        (pattern("*"), false),
        (Target::Listener("door".into()), true),
        (Target::Everyone, true),
    ] {
        let mut house = House::new();
        let silent = house.arrive();
        let knocking = house.knock("ann", client(V5, "bill"));
        let outputs = house.step(kick(target));
        if goes {
            assert_eq!(closed(&outputs), [silent, knocking]);
            assert_eq!(connack(&outputs, knocking).reason, ReasonCode::NotAuthorized);
            // The verdict that was on its way finds nobody.
            assert_eq!(house.verified(knocking, Verdict::Allow), []);
            assert_eq!((house.stats().links, house.stats().sessions), (0, 0));
        } else {
            assert_eq!(kicked(&outputs), [KickOutcome::default()]);
            let outputs = house.verified(knocking, Verdict::Allow);
            assert_eq!(connack(&outputs, knocking).reason, ReasonCode::Success);
        }
    }
}

#[test]
fn a_client_that_gets_in_while_a_kick_of_its_listener_is_carried_out_goes_with_the_connection_that_was_meant()
{
    let mut house = House::within(Limits {
        kicks_per_tick_max: 1,
        ..Limits::default()
    });
    let knocking = house.knock("ann", resuming(V5, "bill"));
    let outputs = house.step(kick_with(1, Target::Listener("door".into()), purge()));
    assert_eq!(closed(&outputs), []);
    house.verified(knocking, Verdict::Allow);
    let outputs = house.wait(GAP);
    assert_eq!(
        sent(&outputs, knocking),
        [&disconnect(ReasonCode::AdministrativeAction)]
    );
    assert_eq!(kicked(&outputs), [outcome(1, 1, 0)]);
    assert_eq!(house.stats().sessions, 0);
}

#[test]
fn a_client_that_is_kept_out_is_told_so_until_its_time_is_over() {
    for (version, answer) in [
        (V5, ReasonCode::Banned),
        (V311, ReasonCode::Banned),
        (V31, ReasonCode::Banned),
    ] {
        let mut house = House::new();
        house.join(client(version, "bill"));
        let (outcome, _) = kick_later(&mut house, known_as("bill"), keep_out(60));
        assert_eq!((outcome.kicked, outcome.kept_out), (1, KeptOut::Banned));
        for _ in 0..3 {
            let (link, outputs) = house.connect(client(version, "bill"));
            assert_eq!(acts(outputs), [send(link, refusal(answer)), close(link)]);
        }
        house.join(client(version, "bob"));
        assert_eq!((house.stats().bans, house.stats().connections_banned), (1, 3));

        let outputs = house.wait(secs(61));
        let lifted = Event::BanLifted {
            subject: BanSubject::Client(client_id("bill")),
            is_over: true,
        };
        assert!(events(&outputs).contains(&&lifted));
        assert_eq!(house.stats().bans, 0);
        house.join(client(version, "bill"));
    }
}

#[test]
fn users_and_addresses_are_kept_out_as_well_and_others_are_not() {
    let mut house = House::new();
    let outputs = [
        house.step(kick_with(1, Target::User(text("ann")), keep_out(60))),
        house.step(kick_with(2, Target::Address(address("192.0.2.7")), keep_out(60))),
        house.step(kick_with(3, network("2001:db8::/32"), keep_out(60))),
    ];
    for outputs in &outputs {
        assert_eq!(kicked(outputs)[0].kept_out, KeptOut::Banned);
        assert_eq!(kicked(outputs)[0].found(), Found::Nobody);
    }

    // No password is looked at, for that is dear.
    let link = house.arrive_at_locked_door();
    let mut connect = client(V5, "any");
    connect.user_name = Some(text("ann"));
    let outputs = house.receive(link, Packet::Connect(Box::new(connect)));
    assert_eq!(
        acts(outputs),
        [send(link, refusal(ReasonCode::Banned)), close(link)]
    );
    house.join_as("bill", client(V5, "any"));
    let by_certificate = house.arrive_through(false, Some("ann"));
    let outputs = house.receive(by_certificate, Packet::Connect(Box::new(client(V5, "other"))));
    assert_eq!(connack(&outputs, by_certificate).reason, ReasonCode::Banned);

    for (from, answer) in [
        ("192.0.2.7", ReasonCode::Banned),
        ("::ffff:192.0.2.7", ReasonCode::Banned),
        ("192.0.2.6", ReasonCode::Success),
        ("2001:db8:1::1", ReasonCode::Banned),
        ("2001:db9::1", ReasonCode::Success),
    ] {
        let (link, outputs) = house.join_from(from, client(V5, "guest"));
        assert_eq!(connack(&outputs, link).reason, answer, "{from}");
    }
    let banned: Vec<_> = house.broker.bans().map(|ban| ban.subject.to_string()).collect();
    assert_eq!(
        banned,
        ["user \"ann\"", "address 192.0.2.7/32", "address 2001:db8::/32"]
    );
}

#[test]
fn who_is_banned_while_the_password_is_looked_at_does_not_come_in() {
    let mut house = House::new();
    let by_name = house.knock("ann", client(V5, "one"));
    let by_client = house.knock("bill", client(V5, "two"));
    house.step(kick_with(1, Target::User(text("ann")), keep_out(60)));
    house.step(kick_with(2, known_as("two"), keep_out(60)));
    for link in [by_name, by_client] {
        let outputs = house.verified(link, Verdict::Allow);
        assert_eq!(
            acts(outputs),
            [send(link, refusal(ReasonCode::Banned)), close(link)]
        );
    }
    assert_eq!((house.stats().sessions, house.stats().clients_accepted), (0, 0));
}

#[test]
fn bans_are_bounded_listed_taken_back_and_outlast_new_rights() {
    let mut house = House::within(Limits {
        bans_max: 2,
        ..Limits::default()
    });
    for (name, kept_out) in [
        ("a", KeptOut::Banned),
        ("b", KeptOut::Banned),
        ("b", KeptOut::Banned),
        ("c", KeptOut::Full),
    ] {
        let (outcome, outputs) = kick_later(&mut house, known_as(name), keep_out(60));
        assert_eq!(outcome.kept_out, kept_out);
        let told = events(&outputs).contains(&&Event::LimitReached {
            limit: "bans_max",
            client: None,
        });
        assert_eq!(told, kept_out == KeptOut::Full);
    }
    house.step(Input::RightsChanged(Rights::default()));
    assert_eq!(house.broker.bans().count(), 2);

    let subject = BanSubject::Client(client_id("a"));
    let outputs = house.step(Input::Unban {
        subject: subject.clone(),
    });
    assert_eq!(
        outputs,
        [Output::Event(Event::BanLifted {
            subject: subject.clone(),
            is_over: false
        })]
    );
    assert_eq!(house.step(Input::Unban { subject }), []);
    house.join(client(V5, "a"));
    let (outcome, _) = kick_later(&mut house, known_as("c"), keep_out(60));
    assert_eq!(outcome.kept_out, KeptOut::Banned);
    house.wait(secs(120));
    assert_eq!((house.broker.bans().count(), house.stats().bans), (0, 0));
}

#[test]
fn of_two_bans_of_one_client_the_longer_counts() {
    for durations in [[10, 60], [60, 10]] {
        let mut house = House::new();
        for duration in durations {
            kick_later(&mut house, known_as("bill"), keep_out(duration));
        }
        house.wait(secs(30));
        let (link, outputs) = house.connect(client(V5, "bill"));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Banned);
        house.wait(secs(31));
        house.join(client(V5, "bill"));
    }
    // One without an end stays until it is taken back.
    let mut house = House::new();
    for keep_out in [Duration::MAX, Duration::from_secs(1)] {
        let options = KickOptions {
            keep_out: Some(keep_out),
            ..KickOptions::default()
        };
        kick_later(&mut house, known_as("bill"), options);
    }
    house.wait(secs(1_000_000));
    assert_eq!(
        house.broker.bans().map(|ban| ban.until).collect::<Vec<_>>(),
        [None]
    );
    let subject = BanSubject::Client(client_id("bill"));
    house.step(Input::Unban { subject });
    house.join(client(V5, "bill"));
}

#[test]
fn targets_that_are_no_subject_of_a_ban_are_kicked_and_not_kept_out() {
    for target in [Target::Everyone, pattern("*"), Target::Listener("door".into())] {
        assert_eq!(target.ban_subject(), None);
        let mut house = House::new();
        house.join(client(V5, "bill"));
        let (outcome, _) = kick_later(&mut house, target, keep_out(60));
        assert_eq!((outcome.kicked, outcome.kept_out), (1, KeptOut::NotAsked));
        house.join(client(V5, "bill"));
    }
}

#[test]
fn everybody_who_is_kicked_and_purged_leaves_nothing_behind() {
    let mut house = House::within(Limits {
        kicks_per_tick_max: 7,
        ..Limits::default()
    });
    let empty = house.broker.memory_bytes();
    for number in 0..100 {
        let name = format!("client-{number}");
        let link = house.join(Connect {
            will: Some(will("will", "gone")),
            ..resuming([V5, V311][number % 2], &name)
        });
        house.subscribe(link, "t/#", QoS::AtLeastOnce);
        if number % 3 == 0 {
            house.close(link);
        }
    }
    house.step(own("t/1", "for all", QoS::AtLeastOnce, false));
    house.arrive();
    house.step(kick_with(1, Target::Everyone, purge()));
    let outputs = house.wait(secs(1));
    assert_eq!(
        kicked(&outputs),
        [KickOutcome {
            kicked: 66,
            pending: 1,
            purged: 100,
            away: 0,
            kept_out: KeptOut::NotAsked,
        }]
    );
    let stats = house.stats();
    assert_eq!((stats.links, stats.sessions, stats.subscriptions), (0, 0, 0));
    assert_eq!(house.broker.memory_bytes(), empty);
    assert_eq!(house.broker.poll_timeout(), None);
}

#[test]
fn the_log_is_told_why_a_kicked_client_went() {
    let mut house = House::new();
    let link = house.join(client(V5, "bill"));
    let outputs = house.step(kick(known_as("bill")));
    let reason = DetachReason::Kicked(KickReason::default());
    assert_eq!(
        events(&outputs),
        [&Event::ClientDisconnected {
            link,
            client: client_id("bill"),
            reason,
        }]
    );
    assert_eq!(reason.to_string(), "kicked: administrative action (0x98)");
}
