//! What brought other brokers down or let strangers in, class by class, and the tests that answer it here.
//!
//! [`ANSWERS`] is the table; the tests below it answer what no other chapter does. What a class has against doors
//! (bytes before CONNECT, handshakes, descriptors) is answered by the chapters of the doors.

mod conversation;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use conversation::*;
use tidegate::auth::Identity;
use tidegate::auth::passwords::{CheckMemory, Cost, SALT_BYTES, Users, hash};
use tidegate::broker::{Event, LinkId, Output, Verdict};
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, TopicFilter, Utf8String, Will};

/// A class of vulnerabilities, what it was about, and the tests that answer it, by their names.
struct Class {
    letter: char,
    about: &'static str,
    tests: &'static [&'static str],
}

const ANSWERS: [Class; 9] = [
    Class {
        letter: 'A',
        about: "a parser that reads beyond its bytes, or gives up with the whole broker",
        tests: &[
            "every_malformed_packet_of_the_catalogue_is_refused_by_the_rule_it_breaks",
            "every_malformed_packet_of_the_catalogue_ends_its_connection_as_the_standard_asks",
            "a_packet_cut_short_anywhere_is_no_packet_and_its_rest_completes_it",
            "a_malformed_packet_cut_short_anywhere_is_never_a_packet",
            "a_packet_whose_length_is_one_too_small_is_refused_or_says_something_else",
            "any_split_of_arbitrary_bytes_gives_the_same_packets_and_the_same_error",
            "a_valid_packet_with_bytes_changed_is_refused_or_reads_as_a_packet_that_encodes_again",
            "a_variable_byte_integer_reads_as_table_1_1_says",
            "a_packet_only_servers_send_is_a_protocol_error",
            "topics_of_the_server_are_read_and_never_written_whatever_they_look_like",
            "a_cut_line_is_refused_at_every_length",
            "no_cut_and_no_flipped_byte_of_a_file_panics",
            "twenty_thousand_random_inputs_leave_the_state_whole_and_break_no_promise",
        ],
    },
    Class {
        letter: 'B',
        about: "memory or time that grows with what a peer sends, and is never given back",
        tests: &[
            "a_peer_that_announces_a_large_packet_costs_little_until_it_sends_it",
            "an_unfinished_packet_grows_to_its_length_and_no_further",
            "an_idle_decoder_owns_nothing_and_is_small",
            "identifiers_of_qos_2_that_are_never_released_end_at_the_receive_maximum_of_each_connection",
            "more_unfinished_qos_2_than_receive_maximum_ends_the_connection",
            "a_user_property_bomb_is_refused_in_every_packet_that_can_carry_one",
            "topics_of_sixty_five_thousand_slashes_go_nowhere_and_are_kept_nowhere",
            "a_topic_beyond_the_limits_is_given_no_alias",
            "a_client_that_says_too_much_before_the_verdict_is_sent_away",
            "a_client_that_publishes_and_never_reads_its_acknowledgements_is_sent_away",
            "readers_that_never_acknowledge_and_never_read_are_held_to_their_bytes",
            "a_client_that_never_completes_gathers_no_more_with_every_connection",
        ],
    },
    Class {
        letter: 'C',
        about: "places and descriptors held by those who do nothing with them",
        tests: &[
            "a_client_that_does_not_connect_in_time_is_closed_without_a_word",
            "the_check_of_a_password_has_its_own_time",
            "a_connection_too_many_is_told_so_and_a_flood_is_closed_at_once",
            "silence_ends_the_connection_after_one_and_a_half_keep_alives",
            "a_5_0_client_is_held_to_the_keep_alive_the_server_sets",
            "one_address_cannot_take_all_pending_places",
            "silent_tls_clients_keep_nobody_waiting",
            "clients_that_are_in_leave_the_way_in_free_for_others",
            "clients_that_leave_while_their_password_is_checked_hold_up_nobody",
            "without_descriptors_clients_are_closed_on_and_served_again_when_there_are_some",
            "without_even_a_spare_descriptor_a_listener_pauses_longer_and_longer_instead_of_spinning",
            "a_hundred_wrong_passwords_in_a_row_leave_nothing_behind",
        ],
    },
    Class {
        letter: 'D',
        about: "bombs of subscriptions, sessions, retained messages and identifiers",
        tests: &[
            "a_subscription_bomb_ends_at_the_clients_bound_and_at_the_houses",
            "ten_thousand_filters_in_one_packet_are_each_answered_and_few_granted",
            "subscriptions_made_and_taken_back_without_end_leave_nothing",
            "a_retained_bomb_ends_at_the_houses_bound_and_what_was_there_stays",
            "a_thousand_filters_that_match_none_of_four_thousand_retained_messages_are_looked_up_in_slices",
            "sessions_of_made_up_identifiers_end_at_the_houses_bound_and_their_owners_stay_in",
            "wills_beyond_their_bound_and_a_thousand_within_it_harm_nobody",
            "no_identifier_in_use_is_given_out_again_through_all_65535",
            "seventy_thousand_messages_give_no_identifier_out_that_is_still_in_use",
        ],
    },
    Class {
        letter: 'E',
        about: "a way in without the proof that was asked for",
        tests: &[
            "nobody_comes_in_with_less_than_the_whole_proof",
            "a_door_that_asks_for_proof_is_not_opened_by_a_certificate_that_is_not_there",
            "a_user_comes_in_with_the_right_password_only",
            "an_empty_password_lets_nobody_in_whatever_the_file_says",
            "an_unknown_user_is_refused_whatever_the_decoy_says",
            "only_the_password_that_was_right_is_known_and_only_for_its_user",
            "every_wrong_line_is_told_with_its_number",
            "a_file_without_users_is_refused",
            "a_password_file_that_is_wrong_in_one_line_stops_the_start",
            "a_password_file_that_cannot_be_read_stops_the_start",
            "a_security_key_without_effect_is_a_mistake",
            "tls_without_its_files_and_an_unknown_security_key_are_mistakes",
            "a_file_that_is_not_what_it_should_be_stops_the_start_and_is_named",
            "a_required_certificate_that_is_missing_foreign_or_expired_lets_nobody_in",
            "an_optional_certificate_may_be_missing_but_not_wrong",
            "a_session_is_not_resumed_beyond_the_life_of_its_certificate",
            "an_unknown_authentication_method_is_refused",
            "no_answer_in_time_is_a_refusal_and_what_comes_then_finds_nothing",
            "whom_a_client_says_it_is_is_not_believed_and_its_certificate_is",
            "a_listener_off_loopback_that_asks_nobody_is_refused",
        ],
    },
    Class {
        letter: 'F',
        about: "a way round the rights: wills, retained messages, shares, aliases, what waits and what is in flight",
        tests: &[
            "no_way_from_bytes_to_a_reader_goes_round_the_rights",
            "a_publisher_without_the_right_reaches_nobody_and_is_told_where_there_is_a_word",
            "an_alias_is_no_way_past_the_rights",
            "a_right_lost_after_an_alias_was_given_is_lost_for_the_alias",
            "a_will_to_a_topic_its_client_may_not_write_keeps_the_client_out",
            "a_will_whose_right_was_lost_meanwhile_is_never_sent",
            "a_will_of_somebody_refused_for_any_reason_is_never_sent",
            "what_somebody_retained_is_forgotten_with_their_right_to_write_it",
            "a_reader_without_the_right_is_handed_nothing_by_any_way",
            "what_waits_and_what_is_unfinished_is_lost_with_the_right_to_it",
            "a_filter_that_brings_nothing_but_what_is_denied_is_refused",
            "in_a_shared_subscription_the_turn_goes_to_those_who_may",
            "no_share_and_no_leading_wildcard_reaches_a_topic_of_the_server",
            "a_share_that_is_none_is_refused_before_anybody_looks_at_its_filter",
            "topics_of_the_server_are_read_and_never_written_whatever_they_look_like",
            "nobody_but_the_house_writes_what_starts_with_a_dollar",
        ],
    },
    Class {
        letter: 'G',
        about: "a name that is taken for something else: a filter, a pattern, another name",
        tests: &[
            "a_name_that_looks_like_a_filter_is_a_name",
            "clients_with_odd_identifiers_are_clients_like_any_other_and_each_itself",
            "names_that_are_no_text_are_names_of_nobody",
            "a_name_that_is_not_utf8_names_nobody",
            "a_certificate_with_two_common_names_names_nobody",
            "a_certificate_that_names_nobody_for_certain_lets_nobody_in",
            "names_that_would_break_the_file_are_refused",
            "a_name_in_connect_is_nothing_beside_the_name_in_a_certificate",
        ],
    },
    Class {
        letter: 'H',
        about: "somebody else's session, by its client identifier",
        tests: &[
            "a_stored_session_is_as_safe_from_strangers_as_a_living_one",
            "somebody_elses_client_identifier_is_refused_and_its_owner_notices_nothing",
            "who_has_proved_to_be_somebody_else_does_not_get_a_session",
            "a_wrong_password_with_a_living_clients_identifier_touches_nobody",
            "a_wrong_password_is_refused_and_the_client_of_that_name_notices_nothing",
            "an_empty_identifier_is_assigned_one_that_can_be_resumed_by_its_name",
        ],
    },
    Class {
        letter: 'I',
        about: "takeover, authentication and close that cross each other",
        tests: &[
            "verdicts_that_come_late_in_any_order_leave_one_client_and_no_ghost",
            "twins_whose_verdicts_come_in_any_order_leave_the_last_and_one_will_each",
            "whatever_an_old_connection_still_says_after_a_takeover_does_nothing",
            "the_keep_alive_of_an_old_connection_ends_nobody_after_a_takeover",
            "a_refused_clients_words_are_not_read_before_or_after_its_refusal",
            "a_verdict_for_a_link_that_is_gone_is_void",
            "a_client_that_goes_in_the_middle_leaves_nothing_behind",
            "a_takeover_waits_for_the_end_of_the_exchange_and_ends_that_of_the_one_it_takes_over",
            "at_every_end_the_will_is_sent_exactly_when_the_standard_says_and_once",
            "accepted_messages_arrive_as_often_and_in_the_order_that_was_promised",
            "of_twenty_connections_with_one_client_id_one_lives",
            "a_subscriber_that_dies_two_thousand_times_leaves_one_will_each_time_and_nothing_else",
        ],
    },
];

#[test]
fn every_class_is_answered_by_tests_that_exist() {
    let letters: String = ANSWERS.iter().map(|class| class.letter).collect();
    assert_eq!(letters, "ABCDEFGHI");
    let tests = tests_of(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(tests.contains("every_class_is_answered_by_tests_that_exist"));
    for Class {
        letter,
        about,
        tests: named,
    } in &ANSWERS
    {
        assert!(named.len() > 3, "{letter}: {about}");
        let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(
            missing.is_empty(),
            "class {letter} is answered by tests there are not: {missing:?}"
        );
        let distinct: BTreeSet<_> = named.iter().collect();
        assert_eq!(distinct.len(), named.len(), "class {letter} names a test twice");
    }
}

/// The names of all functions marked as tests, in `src/` and `tests/`.
fn tests_of(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(marked(&fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found
}

/// The names of the functions in `source` that `#[test]`, or a test attribute of a runtime, stands before.
fn marked(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if is_marked && let Some((name, _)) = rest.split_once('(') {
                names.push(name.to_string());
            }
            is_marked = false;
        }
    }
    names
}

#[test]
fn only_functions_marked_as_tests_count_as_tests() {
    let source =
        "fn a() {}\n#[test]\nfn b() {}\n    #[tokio::test(flavor = \"x\")]\n    async fn c() {}\nfn d() {}\n";
    assert_eq!(marked(source), ["b", "c"]);
}

#[test]
fn topics_of_the_server_are_read_and_never_written_whatever_they_look_like() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let reader = house.join(client(V5, "reader"));
        for filter in [
            "$SYS/#",
            "$CONTROL/#",
            "$/#",
            "$",
            "$$",
            "$share",
            "$SHARE/a/b",
            "$queue/t",
            "$x/+/z",
        ] {
            assert_eq!(
                house.subscribe(reader, filter, QoS::AtLeastOnce),
                ReasonCode::GrantedQos1,
                "{filter}"
            );
        }
        let writer = house.join(client(version, "writer"));
        for topic_name in [
            "$",
            "$/",
            "$$",
            "$SYS",
            "$SYS/broker/uptime",
            "$CONTROL/dynamic-security/v1",
            "$share",
            "$share/a/b",
            "$SHARE/a/b",
            "$queue/t",
            "$MQTT.sess",
            "$x/y/z",
        ] {
            for publish in [
                message(topic_name, "x"),
                retained(message(topic_name, "x")),
                message1(1, topic_name, "x"),
                message2(2, topic_name, "x"),
            ] {
                let outputs = house.publish(writer, publish);
                assert_eq!(messages(&outputs, reader), [], "{version} {topic_name}");
            }
            house.receive(writer, pubrel(2));
        }
        assert_eq!(
            (house.stats().retained_messages, house.stats().clients_connected),
            (0, 2)
        );
        // The house itself writes them, and a dollar further in is like any other sign.
        assert_eq!(
            payloads(&house.step(own("$SYS/a", "own", QoS::AtMostOnce, false)), reader),
            ["own"]
        );
        house.subscribe(reader, "#", QoS::AtMostOnce);
        assert_eq!(
            payloads(&house.publish(writer, message("a/$SYS", "x")), reader),
            ["x"]
        );
        assert_eq!(
            payloads(&house.publish(writer, message("/$SYS", "x")), reader),
            ["x"]
        );
    }
}

#[test]
fn no_share_and_no_leading_wildcard_reaches_a_topic_of_the_server() {
    let blind = [
        "#",
        "+",
        "+/#",
        "+/+",
        "+/+/+",
        "+/broker/uptime",
        "$share/g/#",
        "$share/g/+/#",
        "$share/g/+/broker/uptime",
        "$share/$SYS/#",
        "$share/$SYS/+/broker/#",
        "$share/g/$share/g/#",
        "$share/g//#",
    ];
    for version in [V31, V311, V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut house = House::new();
            house.step(own("$SYS/broker/uptime", "retained", qos, true));
            let link = house.join(resuming(version, "blind"));
            let mut outputs = Vec::new();
            for filter in blind {
                outputs
                    .extend(house.receive(link, subscribe_packet(&[subscription(filter, QoS::ExactlyOnce)])));
            }
            outputs.extend(house.flush(link));
            for topic_name in ["$SYS/broker/uptime", "$SYS", "$SYS/x"] {
                outputs.extend(house.step(own(topic_name, "live", qos, false)));
            }
            house.close(link);
            house.step(own("$SYS/broker/uptime", "queued", qos, false));
            let (link, more) = house.connect(resuming(version, "blind"));
            outputs.extend(more);
            assert_eq!(messages(&outputs, link), [], "{version} {qos:?}");
            assert_eq!(
                (house.stats().messages_sent, house.stats().queued_messages),
                (0, 0)
            );
            assert_eq!(house.stats().subscriptions, blind.len() as u64);
        }
    }
    // Who asks for it by its name gets it, alone or shared.
    let mut house = House::new();
    let link = house.join(client(V5, "seeing"));
    for filter in ["$SYS/#", "$share/g/$SYS/#"] {
        house.subscribe(link, filter, QoS::AtMostOnce);
    }
    assert_eq!(
        payloads(&house.step(own("$SYS/a", "x", QoS::AtMostOnce, false)), link),
        ["x", "x"]
    );
}

#[test]
fn a_share_that_is_none_is_refused_before_anybody_looks_at_its_filter() {
    for text in [
        "$share/",
        "$share//",
        "$share//x",
        "$share/a",
        "$share/a/",
        "$share/#",
        "$share/+",
        "$share/a+/x",
        "$share/+a/x",
        "$share/a#/x",
        "$share/#/x",
        "$share/+/x",
        "$share/a/x#",
        "$share/a/#/x",
        "$share/a/+x",
        "$share/a/x+/y",
    ] {
        assert!(TopicFilter::try_from(text).is_err(), "{text}");
    }
    for (text, name, matched) in [
        ("$share/a/x", "a", "x"),
        ("$share/a/ /", "a", " /"),
        ("$share/a//", "a", "/"),
        ("$share/$SYS/x", "$SYS", "x"),
        ("$share/a/$share/b/x", "a", "$share/b/x"),
        ("$share/a b/+", "a b", "+"),
    ] {
        let filter = TopicFilter::try_from(text).expect(text);
        assert_eq!(
            (filter.share(), filter.matched()),
            (Some((name, matched)), matched)
        );
    }
    for text in ["$share", "$Share/a/x", "share/a/x", "/$share/a/x"] {
        assert_eq!(TopicFilter::try_from(text).expect(text).share(), None, "{text}");
    }
    // The same filter in two groups and by itself is three subscriptions, and leaving one leaves the others.
    let mut house = House::new();
    let link = house.join(client(V5, "bill"));
    for filter in ["$share/a/x", "$share/A/x", "x"] {
        house.subscribe(link, filter, QoS::AtMostOnce);
    }
    house.receive(
        link,
        unsubscribe_packet(&["$share/A/x", "$share/b/x", "$share/a/X"]),
    );
    assert_eq!(
        payloads(&house.step(own("x", "1", QoS::AtMostOnce, false)), link),
        ["1", "1"]
    );
}

/// A gateway's door with a password file: what the loop answers to [`Output::Verify`].
struct Door {
    house: House,
    users: Users,
}

impl Door {
    fn new() -> Self {
        const CHEAP: Cost = Cost::new(Cost::MEMORY_KIB_MIN, 1).expect("within bounds");
        let line = |name: &str, password: &str| {
            let salt = [7; SALT_BYTES];
            format!(
                "{name}:{}\n",
                hash(password.as_bytes(), CHEAP, &salt).expect("memory")
            )
        };
        let users = Users::parse(&(line("alice", "tide") + &line("nopass", ""))).expect("a right file");
        Self {
            house: House::new(),
            users,
        }
    }

    /// CONNECT at a door that asks for proof; the CONNACK, and who came in.
    fn knock(&mut self, user: Option<&str>, password: Option<&[u8]>) -> (ReasonCode, Option<Identity>) {
        let link = self.house.arrive_at_locked_door();
        let connect = Connect {
            user_name: user.map(text),
            password: password.map(Bytes::copy_from_slice),
            ..client(V5, "alice")
        };
        let mut outputs = self.house.receive(link, Packet::Connect(Box::new(connect)));
        if let Some(Output::Verify { link, user, password }) = outputs.first() {
            let verdict = match self
                .users
                .verify(user.as_str(), password, &mut CheckMemory::default())
            {
                true => Verdict::Allow,
                false => Verdict::Deny,
            };
            let link = *link;
            outputs = self.house.verified(link, verdict);
        }
        let identity = events(&outputs).iter().find_map(|event| match event {
            Event::ClientConnected { identity, .. } => Some(identity.clone()),
            _ => None,
        });
        let reason = connack(&outputs, link).reason;
        self.house.close(link);
        (reason, identity)
    }
}

#[test]
fn nobody_comes_in_with_less_than_the_whole_proof() {
    let mut door = Door::new();
    let attempts: [(Option<&str>, Option<&[u8]>); 20] = [
        (None, None),
        (None, Some(b"tide")),
        (Some(""), None),
        (Some(""), Some(b"")),
        (Some(""), Some(b"tide")),
        (Some("alice"), None),
        (Some("alice"), Some(b"")),
        (Some("alice"), Some(b"tid")),
        (Some("alice"), Some(b"tide\0")),
        (Some("alice"), Some(b"tide\n")),
        (Some("alice"), Some(b"TIDE")),
        (Some("alice"), Some(b"alice")),
        (Some("Alice"), Some(b"tide")),
        (Some("alice "), Some(b"tide")),
        (Some("alice:"), Some(b"tide")),
        (Some("#"), Some(b"tide")),
        (Some("nobody"), Some(b"tide")),
        (Some("nobody"), Some(b"")),
        (Some("nopass"), None),
        (Some("nopass"), Some(b"")),
    ];
    for (user, password) in attempts {
        let (reason, identity) = door.knock(user, password);
        let expected = match user {
            None => ReasonCode::NotAuthorized,
            Some(_) => ReasonCode::BadUserNameOrPassword,
        };
        assert_eq!((reason, identity), (expected, None), "{user:?} with {password:?}");
    }
    let stats = door.house.stats();
    assert_eq!(
        (stats.links, stats.sessions, stats.connections_refused),
        (0, 0, 20)
    );
    let (reason, identity) = door.knock(Some("alice"), Some(b"tide"));
    assert_eq!(
        (reason, identity),
        (ReasonCode::Success, Some(Identity::User(text("alice"))))
    );
}

#[test]
fn a_door_that_asks_for_proof_is_not_opened_by_a_certificate_that_is_not_there() {
    let came_as = |outputs: &[Output]| {
        events(outputs).iter().find_map(|event| match event {
            Event::ClientConnected { identity, .. } => Some(identity.clone()),
            _ => None,
        })
    };
    let named = Connect {
        user_name: Some(text("alice")),
        ..client(V5, "a")
    };
    // Certificates are asked for and may be missing: then it is a password, or nobody where nobody may come.
    let mut house = House::new();
    let link = house.arrive_through(false, None);
    let outputs = house.receive(link, Packet::Connect(Box::new(client(V5, "a"))));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::NotAuthorized);
    let link = house.arrive_through(false, None);
    let outputs = house.receive(link, Packet::Connect(Box::new(named.clone())));
    assert!(matches!(outputs[..], [Output::Verify { .. }]));
    let outputs = house.verified(link, Verdict::NoUsers);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::BadUserNameOrPassword);
    // Where anybody may come, whoever proves nothing is nobody, whatever name they write.
    let link = house.arrive_through(true, None);
    let outputs = house.receive(link, Packet::Connect(Box::new(client(V5, "a"))));
    assert_eq!(came_as(&outputs), Some(Identity::Anonymous));
    house.close(link);
    let link = house.arrive_through(true, None);
    house.receive(link, Packet::Connect(Box::new(named.clone())));
    let outputs = house.verified(link, Verdict::NoUsers);
    assert_eq!(came_as(&outputs), Some(Identity::Anonymous));
    house.close(link);
    // A wrong password is no way to come as nobody.
    let link = house.arrive_through(true, None);
    house.receive(link, Packet::Connect(Box::new(named)));
    let outputs = house.verified(link, Verdict::Deny);
    assert_eq!(connack(&outputs, link).reason, ReasonCode::BadUserNameOrPassword);
    // A certificate counts for its own connection, once.
    let link = house.arrive_through(false, Some("alice"));
    let outputs = house.receive(link, Packet::Connect(Box::new(client(V5, "a"))));
    assert_eq!(came_as(&outputs), Some(Identity::User(text("alice"))));
}

#[test]
fn names_that_are_no_text_are_names_of_nobody() {
    for bytes in [
        &b"bill\0"[..],
        b"\0",
        b"bi\0ll",
        b"\xFF",
        b"bill\xC0\xAF",
        b"\xED\xA0\x80",
        b"\xF4\x90\x80\x80",
    ] {
        assert!(
            Utf8String::from_bytes(Bytes::copy_from_slice(bytes)).is_err(),
            "{bytes:?}"
        );
    }
    // Names that differ in a sign nobody sees are different names, and different owners.
    let mut house = House::new();
    let join = |house: &mut House, user: &str| -> (LinkId, ReasonCode) {
        let link = house.knock(user, resuming(V5, "shared"));
        let outputs = house.verified(link, Verdict::Allow);
        (link, connack(&outputs, link).reason)
    };
    assert_eq!(join(&mut house, "bill").1, ReasonCode::Success);
    for other in [
        "bill\u{200b}",
        "b\u{456}ll",
        "Bill",
        "bill ",
        " bill",
        "bil",
        "billy",
        "\u{feff}bill",
        "bi%6cl",
        "#",
        "anonymous",
    ] {
        assert_eq!(
            join(&mut house, other).1,
            ReasonCode::ClientIdentifierNotValid,
            "{other:?}"
        );
    }
    let (link, outputs) = house.connect(resuming(V5, "shared"));
    assert_eq!(
        connack(&outputs, link).reason,
        ReasonCode::ClientIdentifierNotValid,
        "nobody is not \"anonymous\""
    );
    assert_eq!((house.stats().clients_connected, house.stats().takeovers), (1, 0));
}

#[test]
fn a_will_of_somebody_refused_for_any_reason_is_never_sent() {
    for version in [V31, V311, V5] {
        let mut house = House::new();
        let reader = house.join(Connect {
            keep_alive_secs: 0,
            ..client(V311, "reader")
        });
        house.subscribe(reader, "gone", QoS::AtMostOnce);
        house.join_as("owner", resuming(V311, "owned"));
        let connect = |name: &str| Connect {
            will: Some(Will {
                retain: true,
                ..will("gone", "x")
            }),
            keep_alive_secs: 1,
            ..resuming(version, name)
        };
        let mut refused: Vec<(LinkId, Vec<Output>)> = Vec::new();
        for verdict in [Verdict::Deny, Verdict::Unavailable, Verdict::NoUsers] {
            let link = house.knock("eve", connect("eve"));
            refused.push((link, house.verified(link, verdict)));
        }
        let link = house.knock("eve", connect("owned"));
        refused.push((link, house.verified(link, Verdict::Allow)));
        let link = house.arrive_at_locked_door();
        refused.push((
            link,
            house.receive(link, Packet::Connect(Box::new(connect("eve")))),
        ));
        refused.push(house.connect(connect(&"x".repeat(300))));
        refused.push(house.connect(Connect {
            user_name: Some(text(&"x".repeat(300))),
            ..connect("eve")
        }));
        // Gone, or too slow, before the verdict.
        let link = house.knock("eve", connect("eve"));
        refused.push((link, house.close(link)));
        let late = house.knock("eve", connect("eve"));
        for (link, outputs) in refused {
            assert_eq!(messages(&outputs, reader), []);
            assert_eq!(house.close(link), []);
        }
        let outputs = house.wait(secs(80));
        assert!(outputs.contains(&close(late)), "nobody waits for ever");
        assert_eq!(messages(&outputs, reader), []);
        assert_eq!(house.verified(late, Verdict::Allow), []);
        let stats = house.stats();
        assert_eq!(
            (stats.wills_sent, stats.retained_messages, stats.sessions),
            (0, 0, 2),
            "{version}"
        );
    }
}
