//! Shared subscriptions: one message, one member.

mod conversation;

use conversation::*;
use tidegate::broker::LinkId;
use tidegate::mqtt::{QoS, ReasonCode, Subscription};

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
