//! Shared subscriptions: one message, one member.

mod conversation;

use conversation::*;
use tidegate::broker::{Limits, LinkId, Output};
use tidegate::mqtt::{Connect, QoS, ReasonCode, Subscription};

fn members(house: &mut House, version: tidegate::mqtt::ProtocolVersion, names: &[&str]) -> Vec<LinkId> {
    (names.iter())
        .map(|name| {
            let link = house.join(resuming(version, name));
            house.subscribe(link, "$share/team/jobs/#", QoS::AtLeastOnce);
            link
        })
        .collect()
}

#[test]
fn each_message_goes_to_one_member_in_turn() {
    for version in [V311, V5] {
        let mut house = House::new();
        let links = members(&mut house, version, &["one", "two", "three"]);
        let mut counts = [0; 3];
        for _ in 0..9 {
            let outputs = house.step(own("jobs/a", "x", QoS::AtMostOnce, false));
            assert_eq!(outputs.len(), 1);
            for (count, link) in counts.iter_mut().zip(&links) {
                *count += messages(&outputs, *link).len();
            }
        }
        assert_eq!(counts, [3, 3, 3]);
    }
}

#[test]
fn members_who_are_connected_come_first() {
    let mut house = House::new();
    let links = members(&mut house, V5, &["one", "two"]);
    house.close(links[0]);
    for _ in 0..4 {
        let outputs = house.step(own("jobs/a", "x", QoS::AtMostOnce, false));
        assert_eq!(payloads(&outputs, links[1]), ["x"]);
    }
}

#[test]
fn when_all_are_away_one_of_them_finds_the_message_waiting() {
    let mut house = House::new();
    let links = members(&mut house, V5, &["one", "two"]);
    for link in links {
        house.close(link);
    }
    house.step(own("jobs/a", "x", QoS::AtLeastOnce, false));
    assert_eq!(house.stats().queued_messages, 1);
    let (one, first) = house.connect(resuming(V5, "one"));
    let (two, second) = house.connect(resuming(V5, "two"));
    assert_eq!(payloads(&first, one).len() + payloads(&second, two).len(), 1);
}

#[test]
fn two_groups_and_a_plain_subscription_each_get_their_own() {
    let mut house = House::new();
    let link = house.join(client(V5, "all"));
    for filter in ["$share/a/t", "$share/b/t", "t"] {
        assert_eq!(
            house.subscribe(link, filter, QoS::AtMostOnce),
            ReasonCode::Success
        );
    }
    assert_eq!(
        payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), link),
        ["x", "x", "x"]
    );
    house.receive(link, unsubscribe_packet(&["$share/a/t"]));
    assert_eq!(
        payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), link),
        ["x", "x"]
    );
}

#[test]
fn a_shared_subscription_brings_no_retained_messages() {
    let mut house = House::new();
    house.step(own("jobs/a", "x", QoS::AtMostOnce, true));
    let link = house.join(client(V5, "one"));
    let outputs = house.receive(
        link,
        subscribe_packet(&[subscription("$share/team/jobs/#", QoS::AtMostOnce)]),
    );
    assert_eq!(messages(&outputs, link), []);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut house = House::new();
    let link = house.join(client(V5, "one"));
    let filter = Subscription {
        no_local: true,
        ..subscription("$share/team/a", QoS::AtMostOnce)
    };
    let outputs = acts(house.receive(link, subscribe_packet(&[filter])));
    assert_eq!(
        outputs,
        [send(link, disconnect(ReasonCode::ProtocolError)), close(link)]
    );
}

#[test]
fn a_group_goes_on_when_members_leave_and_join() {
    let mut house = House::new();
    let mut links = members(&mut house, V5, &["one", "two", "three"]);
    house.step(own("jobs/a", "x", QoS::AtMostOnce, false));
    house.receive(links[1], unsubscribe_packet(&["$share/team/jobs/#"]));
    for _ in 0..10 {
        let outputs = house.step(own("jobs/a", "x", QoS::AtMostOnce, false));
        assert_eq!((outputs.len(), messages(&outputs, links[1]).len()), (1, 0));
    }
    house.receive(links[0], unsubscribe_packet(&["$share/team/jobs/#"]));
    house.receive(links[2], unsubscribe_packet(&["$share/team/jobs/#"]));
    assert_eq!(house.step(own("jobs/a", "x", QoS::AtMostOnce, false)), []);
    links.extend(members(&mut house, V5, &["four"]));
    assert_eq!(
        payloads(&house.step(own("jobs/a", "x", QoS::AtMostOnce, false)), links[3]),
        ["x"]
    );
}

#[test]
fn each_member_gets_its_message_at_its_own_quality() {
    let mut house = House::new();
    for (name, qos) in [("one", QoS::AtMostOnce), ("two", QoS::ExactlyOnce)] {
        let link = house.join(client(V5, name));
        house.subscribe(link, "$share/team/t", qos);
        let outputs = house.step(own("t", "x", QoS::AtLeastOnce, false));
        let found = messages(&outputs, link);
        assert_eq!((found.len(), found[0].qos), (1, qos.min(QoS::AtLeastOnce)));
        house.close(link);
    }
}

/// A message of `qos` on its way to one of two members; that one, and the other.
fn on_its_way(house: &mut House, qos: QoS) -> (LinkId, &'static str, LinkId) {
    let names = ["one", "two"];
    let links = names.map(|name| {
        let link = house.join(resuming(V5, name));
        house.subscribe(link, "$share/team/t", QoS::ExactlyOnce);
        link
    });
    let outputs = house.step(own("t", "x", qos, false));
    match messages(&outputs, links[0]).len() {
        1 => (links[0], names[0], links[1]),
        _ => (links[1], names[1], links[0]),
    }
}

#[test]
fn a_qos_2_message_halfway_to_one_member_is_finished_with_that_member() {
    let mut house = House::new();
    let (chosen, name, other) = on_its_way(&mut house, QoS::ExactlyOnce);
    let outputs = house.close(chosen);
    assert_eq!(messages(&outputs, other), []);
    let (chosen, outputs) = house.connect(resuming(V5, name));
    assert_eq!(messages(&outputs, chosen), [repeated(message2(1, "t", "x"))]);
    assert_eq!(house.receive(chosen, pubrec(1)), [send(chosen, pubrel(1))]);
    house.close(chosen);
    let (chosen, outputs) = house.connect(resuming(V5, name));
    assert_eq!(sent(&outputs, chosen)[1..], [&pubrel(1)]);
    assert_eq!(house.receive(chosen, pubcomp(1)), []);
}

#[test]
fn a_qos_2_message_halfway_to_a_member_whose_session_ends_goes_to_nobody_else() {
    let mut house = House::new();
    let (chosen, _, other) = on_its_way(&mut house, QoS::ExactlyOnce);
    house.close(chosen);
    let outputs = house.wait(secs(3600));
    assert_eq!(
        (messages(&outputs, other), house.stats().sessions_expired),
        (vec![], 1)
    );
}

#[test]
fn a_message_one_member_refuses_is_offered_to_no_other() {
    for (qos, refusal) in [
        (QoS::AtLeastOnce, puback_with(1, ReasonCode::QuotaExceeded)),
        (QoS::ExactlyOnce, pubrec_with(1, ReasonCode::QuotaExceeded)),
    ] {
        let mut house = House::new();
        let (chosen, _, _) = on_its_way(&mut house, qos);
        assert_eq!(house.receive(chosen, refusal), []);
        assert_eq!(acts(house.close(chosen)), []);
        assert_eq!(house.stats().inflight_messages, 0);
    }
}

#[test]
fn each_copy_carries_the_identifier_of_its_own_subscription() {
    let mut house = House::new();
    let link = house.join(client(V5, "all"));
    for (filter, number) in [("t", 1), ("$share/a/t", 2), ("$share/b/+", 3)] {
        house.receive(
            link,
            subscribe_with_id(subscription(filter, QoS::AtMostOnce), number),
        );
    }
    let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
    let mut ids: Vec<_> = (messages(&outputs, link).iter())
        .map(|publish| publish.properties.clone().unwrap().subscription_ids.to_vec())
        .collect();
    ids.sort();
    assert_eq!(ids, [vec![1], vec![2], vec![3]]);
}

/// A member with a window of one.
fn member_with_window_of_one(house: &mut House, name: &str) -> LinkId {
    let mut connect = resuming(V5, name);
    connect.properties.receive_maximum = Some(1);
    let link = house.join(connect);
    house.subscribe(link, "$share/team/jobs/#", QoS::ExactlyOnce);
    link
}

/// A client that may be silent for as long as it likes.
fn patient(name: &str) -> Connect {
    Connect {
        keep_alive_secs: 0,
        ..client(V311, name)
    }
}

fn job(house: &mut House, payload: &str, qos: QoS) -> Vec<Output> {
    house.step(own("jobs/a", payload, qos, false))
}

#[test]
fn members_whose_window_is_open_come_before_those_who_are_busy() {
    let mut house = House::new();
    let busy = member_with_window_of_one(&mut house, "busy");
    let free = house.join(client(V5, "free"));
    house.subscribe(free, "$share/team/jobs/#", QoS::AtLeastOnce);
    let mut outputs = Vec::new();
    for number in 0..6 {
        outputs.extend(job(&mut house, &number.to_string(), QoS::AtLeastOnce));
    }
    assert_eq!(payloads(&outputs, busy), ["0"]);
    assert_eq!(payloads(&outputs, free), ["1", "2", "3", "4", "5"]);
    assert_eq!(house.stats().queued_messages, 0);
}

#[test]
fn when_all_members_are_busy_they_take_turns_in_waiting() {
    let mut house = House::new();
    let links = ["one", "two"].map(|name| member_with_window_of_one(&mut house, name));
    for number in 0..6 {
        job(&mut house, &number.to_string(), QoS::AtLeastOnce);
    }
    assert_eq!(house.stats().queued_messages, 4);
    for (link, next) in links.into_iter().zip(["2", "3"]) {
        let outputs = house.receive(link, puback(1));
        assert_eq!(payloads(&outputs, link), [next]);
    }
}

#[test]
fn a_member_that_reads_too_slowly_is_passed_over_at_qos_0() {
    let mut house = House::within(Limits {
        unsent_bytes_max: 100,
        ..Limits::default()
    });
    let slow = house.join(client(V5, "slow"));
    let quick = house.join(client(V5, "quick"));
    for link in [slow, quick] {
        house.subscribe(link, "$share/team/jobs/#", QoS::AtMostOnce);
    }
    let mut counts = [0, 0];
    for _ in 0..40 {
        let outputs = job(&mut house, "0123456789", QoS::AtMostOnce);
        counts[0] += payloads(&outputs, slow).len();
        counts[1] += payloads(&outputs, quick).len();
        house.flush(quick);
    }
    assert_eq!(counts[0] + counts[1], 40);
    assert!(counts[0] < 10, "{counts:?}");
    assert_eq!(house.stats().dropped_slow, 0);
}

#[test]
fn each_member_is_served_at_its_own_quality() {
    let mut house = House::new();
    let one = house.join(client(V5, "one"));
    let two = house.join(client(V5, "two"));
    house.subscribe(one, "$share/team/jobs/#", QoS::AtMostOnce);
    house.subscribe(two, "$share/team/jobs/#", QoS::ExactlyOnce);
    let mut qualities = Vec::new();
    for _ in 0..2 {
        let outputs = job(&mut house, "x", QoS::ExactlyOnce);
        for link in [one, two] {
            qualities.extend(messages(&outputs, link).iter().map(|publish| publish.qos));
        }
    }
    assert_eq!(qualities, [QoS::AtMostOnce, QoS::ExactlyOnce]);
}

#[test]
fn what_a_member_had_not_acknowledged_goes_to_another_when_its_session_ends() {
    let mut house = House::new();
    let leaving = member_with_window_of_one(&mut house, "leaving");
    for payload in ["sent", "waiting", "waiting too"] {
        job(&mut house, payload, QoS::AtLeastOnce);
    }
    let staying = house.join(patient("staying"));
    house.subscribe(staying, "$share/team/jobs/#", QoS::AtLeastOnce);
    assert_eq!(acts(house.close(leaving)), [], "it may come back");
    let outputs = house.wait(secs(3601));
    assert_eq!(payloads(&outputs, staying), ["sent", "waiting", "waiting too"]);
    assert!(messages(&outputs, staying).iter().all(|publish| !publish.dup));
    assert_eq!(house.stats().dropped_session_ended, 0);
}

#[test]
fn what_goes_to_another_member_has_retain_as_published_where_that_one_asks_for_it() {
    let mut house = House::new();
    let leaving = member_with_window_of_one(&mut house, "leaving");
    let outputs = house.step(own("jobs/a", "sent", QoS::AtLeastOnce, true));
    assert!(!messages(&outputs, leaving)[0].retain);
    let staying = house.join(client(V5, "staying"));
    let filter = Subscription {
        retain_as_published: true,
        ..subscription("$share/team/jobs/#", QoS::AtLeastOnce)
    };
    house.receive(staying, subscribe_packet(&[filter]));
    let (_, outputs) = house.connect(client(V5, "leaving"));
    assert_eq!(payloads(&outputs, staying), ["sent"]);
    assert!(messages(&outputs, staying)[0].retain);
}

#[test]
fn a_qos_2_message_that_was_sent_to_a_member_is_nobody_elses() {
    let mut house = House::new();
    let leaving = member_with_window_of_one(&mut house, "leaving");
    job(&mut house, "sent", QoS::ExactlyOnce);
    job(&mut house, "waiting", QoS::ExactlyOnce);
    let staying = house.join(patient("staying"));
    house.subscribe(staying, "$share/team/jobs/#", QoS::ExactlyOnce);
    house.close(leaving);
    let outputs = house.wait(secs(3601));
    assert_eq!(payloads(&outputs, staying), ["waiting"]);
    assert_eq!(house.stats().dropped_session_ended, 1);
}

#[test]
fn what_the_last_member_leaves_is_dropped_and_counted() {
    let mut house = House::new();
    let leaving = member_with_window_of_one(&mut house, "leaving");
    for payload in ["sent", "waiting"] {
        job(&mut house, payload, QoS::AtLeastOnce);
    }
    house.close(leaving);
    house.wait(secs(3601));
    assert_eq!(house.stats().dropped_session_ended, 2);
}

#[test]
fn a_member_that_unsubscribes_leaves_what_it_was_not_sent_to_the_others() {
    let mut house = House::new();
    let leaving = member_with_window_of_one(&mut house, "leaving");
    house.subscribe(leaving, "news", QoS::AtLeastOnce);
    job(&mut house, "sent", QoS::AtLeastOnce);
    job(&mut house, "first", QoS::AtLeastOnce);
    house.step(own("news", "mine", QoS::AtLeastOnce, false));
    job(&mut house, "second", QoS::AtLeastOnce);
    let staying = house.join(client(V5, "staying"));
    house.subscribe(staying, "$share/team/jobs/#", QoS::AtLeastOnce);
    let outputs = house.receive(leaving, unsubscribe_packet(&["$share/team/jobs/#"]));
    assert_eq!(payloads(&outputs, staying), ["first", "second"]);
    let outputs = house.receive(leaving, puback(1));
    assert_eq!(payloads(&outputs, leaving), ["mine"]);
}

#[test]
fn a_message_a_member_refuses_is_given_to_nobody_else() {
    let mut house = House::new();
    let links = ["one", "two"].map(|name| member_with_window_of_one(&mut house, name));
    job(&mut house, "x", QoS::AtLeastOnce);
    let outputs = house.receive(links[0], puback_with(1, ReasonCode::NotAuthorized));
    assert_eq!(outputs, []);
    assert_eq!(house.stats().inflight_messages, 0);
}

#[test]
fn many_share_names_on_one_filter_are_told_apart_in_whatever_order_they_come_and_go() {
    let mut house = House::new();
    let reader = house.join(client(V5, "reader"));
    let names: Vec<String> = (0..50)
        .map(|number| format!("$share/{}/t", number * 37 % 50))
        .collect();
    for name in &names {
        assert_eq!(
            house.subscribe(reader, name, QoS::AtMostOnce),
            ReasonCode::Success
        );
    }
    assert_eq!(house.stats().subscriptions, 50);
    let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
    assert_eq!(messages(&outputs, reader).len(), 50);
    house.flush(reader);
    for name in names.iter().step_by(2) {
        house.receive(reader, unsubscribe_packet(&[name.as_str()]));
        house.flush(reader);
    }
    assert_eq!(house.stats().subscriptions, 25);
    let outputs = house.step(own("t", "x", QoS::AtMostOnce, false));
    assert_eq!(messages(&outputs, reader).len(), 25);
}
