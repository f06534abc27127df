//! Every packet of the catalogue, and any other a client can send, meets the core.

mod catalogue;
mod conversation;

use catalogue::arbitrary;
use catalogue::{Place, decoder, malformed, valid};
use conversation::*;
use proptest::prelude::*;
use tidegate::broker::{Input, Output};
use tidegate::mqtt::decode::Side;
use tidegate::mqtt::{Packet, QoS, ReasonCode};

#[test]
fn every_malformed_packet_of_the_catalogue_ends_its_connection_as_the_standard_asks() {
    let mut house = House::new();
    let witness = house.join(client(V5, "witness"));
    house.subscribe(witness, "#", QoS::AtMostOnce);
    for entry in malformed().into_iter().filter(|entry| entry.side == Side::Server) {
        let mut decoder = decoder(entry.version, Side::Server, entry.place);
        decoder.feed(entry.bytes.clone());
        let error = loop {
            match decoder.poll_packet() {
                Ok(packet) => assert!(packet.is_some(), "{} was not refused", entry.name),
                Err(error) => break error,
            }
        };
        let link = match entry.place {
            Place::First => house.arrive(),
            Place::Later => house.join(client(entry.version, "c")),
        };
        let version = decoder.version();
        let outputs = acts(house.step(Input::Malformed { link, version, error }));
        let word = match (entry.place, version) {
            (Place::Later, Some(V5)) => Some(disconnect(error.reason())),
            (Place::First, Some(V5)) => Some(refusal(error.reason())),
            // The only malformed CONNECT an older client has a return code for.
            (Place::First, Some(_)) if error.reason() == ReasonCode::UnsupportedProtocolVersion => {
                Some(refusal(error.reason()))
            }
            _ => None,
        };
        let mut expected: Vec<_> = word.map(|packet| send(link, packet)).into_iter().collect();
        expected.push(close(link));
        assert_eq!(outputs, expected, "{}", entry.name);
    }
    assert_eq!(
        payloads(&house.step(own("t", "x", QoS::AtMostOnce, false)), witness),
        ["x"]
    );
    assert_eq!((house.stats().links, house.stats().sessions), (1, 1));
}

#[test]
fn every_valid_packet_of_the_catalogue_is_taken_in_its_place() {
    for entry in valid().into_iter().filter(|entry| entry.side == Side::Server) {
        let mut house = House::new();
        let link = match entry.place {
            Place::First => house.arrive(),
            Place::Later => house.join(client(entry.version, "c")),
        };
        let outputs = house.receive(link, entry.packet.clone());
        for output in &outputs {
            if let Output::Send { packet, .. } = output {
                let from_client = matches!(
                    packet,
                    Packet::Connect(_) | Packet::Subscribe(_) | Packet::PingReq
                );
                assert!(
                    !from_client,
                    "{}: {packet:?} is no packet of a server",
                    entry.name
                );
            }
        }
        house.close(link);
        assert_eq!(house.stats().links, 0, "{}", entry.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_client_sends_the_state_stays_whole(
        packets in prop::collection::vec(arbitrary::packet(V5, Side::Server), 1..40),
        old_packets in prop::collection::vec(arbitrary::packet(V311, Side::Server), 1..40),
    ) {
        let mut house = House::new();
        let mut link = house.join(client(V5, "c"));
        let mut old_link = house.join(resuming(V311, "old"));
        house.subscribe(link, "#", QoS::ExactlyOnce);
        for (_, packet) in packets {
            if house.receive(link, packet).contains(&close(link)) {
                link = house.join(client(V5, "c"));
                house.subscribe(link, "#", QoS::ExactlyOnce);
            }
            house.flush(link);
        }
        for (_, packet) in old_packets {
            if house.receive(old_link, packet).contains(&close(old_link)) {
                old_link = house.join(resuming(V311, "old"));
            }
        }
        house.close(link);
        house.close(old_link);
        prop_assert_eq!(house.stats().links, 0);
    }

    #[test]
    fn whatever_a_client_says_every_answer_is_one_it_can_read(
        packets in prop::collection::vec(arbitrary::packet(V5, Side::Server), 1..40),
        packet_bytes_max in prop_oneof![Just(u32::MAX), 4_u32..80],
    ) {
        let mut house = House::new();
        let taking = |packet_bytes_max| {
            let mut connect = resuming(V5, "c");
            connect.properties.packet_bytes_max = Some(packet_bytes_max);
            connect
        };
        let mut last = None;
        for (_, packet) in packets {
            let mut link = last.unwrap_or_else(|| house.arrive());
            let connect = taking(packet_bytes_max);
            if last.is_none() && house.receive(link, Packet::Connect(Box::new(connect))).contains(&close(link)) {
                link = house.join(client(V5, "c"));
            }
            let ended = house.receive(link, packet).contains(&close(link));
            last = (!ended).then_some(link);
            house.flush(link);
            house.step(own("t", "x", QoS::ExactlyOnce, true));
        }
        prop_assert!(house.stats().links <= 1);
    }
}
