//! Conversations with a server that exists only as the packets written here, on a clock moved by hand.

use bytes::Bytes;
use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};

use super::*;
use crate::mqtt::{
    Ack, ConnAckProperties, Connect, PublishProperties, RetainHandling, SubAck, SubscribeProperties,
    Subscription, TopicFilter, TopicName, UnsubAck, Utf8String,
};

/// A session and the moment it lives in.
struct Talk {
    session: Session,
    now: Instant,
}

impl Talk {
    fn new(options: Options) -> Self {
        Self {
            session: Session::new(options).unwrap(),
            now: Instant::now(),
        }
    }

    fn online(options: Options) -> Self {
        let mut talk = Self::new(options);
        talk.reconnect(false);
        talk
    }

    /// A new byte stream, on which the server answers CONNECT; returns what CONNECT said.
    fn reconnect(&mut self, session_present: bool) -> Connect {
        self.session.handle_closed();
        self.session.handle_opened(self.now);
        let packets = self.packets();
        let [Packet::Connect(connect)] = packets.as_slice() else {
            panic!("CONNECT alone, got {packets:?}")
        };
        self.hear(Packet::ConnAck(Box::new(ConnAck {
            session_present,
            ..ConnAck::default()
        })));
        *connect.clone()
    }

    fn hear(&mut self, packet: Packet) {
        self.session.handle_packet(self.now, packet);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.session.handle_timeout(self.now);
    }

    fn packets(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.session.poll_packet()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn publish(&mut self, text: &'static str, qos: QoS) -> Token {
        self.session.publish(message(text, qos)).unwrap()
    }
}

fn v311() -> Options {
    let client_id = ClientId::new(Utf8String::try_from("probe").unwrap());
    Options {
        version: ProtocolVersion::V311,
        clean_start: false,
        client_id,
        ..Options::default()
    }
}

fn resuming() -> Options {
    Options {
        session_expiry_secs: 600,
        ..Options::default()
    }
}

fn message(text: &'static str, qos: QoS) -> Message {
    Message {
        topic: TopicName::try_from("a/b").unwrap(),
        payload: Bytes::from_static(text.as_bytes()),
        qos,
        retain: false,
        properties: None,
    }
}

fn sent(text: &'static str, qos: QoS, packet_id: u16, dup: bool) -> Packet {
    super::sending::publish(message(text, qos), PacketId::new(packet_id), dup)
}

fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).unwrap()
}

fn ack(packet_id: u16) -> Ack {
    Ack::success(id(packet_id))
}

fn published(token: Token) -> Event {
    Event::Published(Published {
        token,
        reason: ReasonCode::Success,
        reason_string: None,
    })
}

fn subscription(filter: &str) -> Subscription {
    Subscription {
        filter: TopicFilter::try_from(filter).unwrap(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Box::new(Disconnect {
        reason,
        ..Disconnect::default()
    }))
}

const QOS_0: QoS = QoS::AtMostOnce;
const QOS_1: QoS = QoS::AtLeastOnce;
const QOS_2: QoS = QoS::ExactlyOnce;

#[test]
fn connect_says_what_the_options_say() {
    let mut talk = Talk::new(Options {
        session_expiry_secs: 60,
        receive_maximum: 7,
        ..Options::default()
    });
    talk.session.handle_opened(talk.now);
    let packets = talk.packets();
    let [Packet::Connect(connect)] = packets.as_slice() else {
        panic!("{packets:?}")
    };
    assert!(connect.clean_start);
    assert_eq!(connect.properties.session_expiry_secs, Some(60));
    assert_eq!(connect.properties.receive_maximum, Some(7));
    assert_eq!(connect.keep_alive_secs, 60);
}

#[test]
fn connack_makes_the_session_go_online_and_tells_the_assigned_identifier() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    assert!(!talk.session.is_online());
    let assigned = ClientId::new(Utf8String::try_from("auto-1").unwrap());
    let properties = ConnAckProperties {
        assigned_client_id: assigned.clone(),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    assert!(talk.session.is_online());
    let events = talk.events();
    let [Event::Connected(connected)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(connected.client_id, assigned);
    assert_eq!(
        talk.reconnect(false).client_id,
        assigned,
        "the next connection asks for the same session"
    );
}

#[test]
fn a_refusal_ends_the_connection_with_its_reason() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        reason: ReasonCode::NotAuthorized,
        ..ConnAck::default()
    })));
    assert_eq!(
        talk.events(),
        [Event::Disconnected(Disconnection::Refused(
            ReasonCode::NotAuthorized,
            None
        ))]
    );
    assert_eq!(talk.packets(), []);
}

#[test]
fn silence_after_connect_ends_the_connection() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    assert_eq!(
        talk.session.poll_timeout(),
        Some(talk.now + Duration::from_secs(20))
    );
    talk.pass(20);
    assert_eq!(
        talk.events(),
        [Event::Disconnected(Disconnection::ConnectTimeout)]
    );
    assert_eq!(talk.session.poll_timeout(), None);
}

#[test]
fn a_packet_before_connack_is_a_violation() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    talk.hear(Packet::PingResp);
    assert!(matches!(
        talk.events().as_slice(),
        [Event::Disconnected(Disconnection::Violation { .. })]
    ));
    assert_eq!(talk.packets(), [disconnect(ReasonCode::ProtocolError)]);
}

#[test]
fn a_session_present_after_a_clean_start_is_a_violation() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        session_present: true,
        ..ConnAck::default()
    })));
    assert!(matches!(
        talk.events().as_slice(),
        [Event::Disconnected(Disconnection::Violation { .. })]
    ));
}

#[test]
fn in_5_0_only_the_first_connection_starts_clean() {
    let mut talk = Talk::new(resuming());
    assert!(talk.reconnect(false).clean_start);
    assert!(!talk.reconnect(true).clean_start);
    let mut talk = Talk::new(Options {
        clean_start: true,
        ..v311()
    });
    assert!(talk.reconnect(false).clean_start);
    assert!(
        talk.reconnect(false).clean_start,
        "Clean Session also says when the session ends"
    );
}

#[test]
fn qos_0_is_through_once_it_is_handed_out() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let token = talk.publish("x", QOS_0);
    assert_eq!(talk.events(), []);
    assert_eq!(
        talk.packets(),
        [super::sending::publish(message("x", QOS_0), None, false)]
    );
    assert_eq!(talk.events(), [published(token)]);
    assert_eq!(talk.session.unfinished(), 0);
}

#[test]
fn qos_1_is_through_with_its_puback() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let token = talk.publish("x", QOS_1);
    assert_eq!(talk.packets(), [sent("x", QOS_1, 2, false)]);
    assert_eq!(talk.events(), []);
    talk.hear(Packet::PubAck(ack(2)));
    assert_eq!(talk.events(), [published(token)]);
}

#[test]
fn qos_2_is_through_with_its_pubcomp() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let token = talk.publish("x", QOS_2);
    assert_eq!(talk.packets(), [sent("x", QOS_2, 2, false)]);
    talk.hear(Packet::PubRec(ack(2)));
    assert_eq!(talk.packets(), [Packet::PubRel(ack(2))]);
    assert_eq!(talk.events(), []);
    talk.hear(Packet::PubComp(ack(2)));
    assert_eq!(talk.events(), [published(token)]);
}

#[test]
fn a_pubrec_with_an_error_ends_the_message_without_pubrel() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let token = talk.publish("x", QOS_2);
    talk.packets();
    talk.hear(Packet::PubRec(Ack::with_reason(id(2), ReasonCode::QuotaExceeded)));
    assert_eq!(talk.packets(), []);
    let refused = Published {
        token,
        reason: ReasonCode::QuotaExceeded,
        reason_string: None,
    };
    assert_eq!(talk.events(), [Event::Published(refused)]);
}

#[test]
fn messages_beyond_the_receive_maximum_wait_for_their_turn() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        receive_maximum: Some(2),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    for text in ["1", "2", "3"] {
        talk.publish(text, QOS_1);
    }
    assert_eq!(
        talk.packets(),
        [sent("1", QOS_1, 2, false), sent("2", QOS_1, 3, false)]
    );
    talk.hear(Packet::PubAck(ack(2)));
    assert_eq!(talk.packets(), [sent("3", QOS_1, 4, false)]);
}

#[test]
fn what_waits_is_bounded() {
    let mut talk = Talk::new(Options {
        waiting_max: 2,
        ..Options::default()
    });
    talk.publish("1", QOS_1);
    talk.publish("2", QOS_1);
    assert_eq!(talk.session.publish(message("3", QOS_1)), Err(RequestError::Full));
    talk.reconnect(false);
    assert_eq!(
        talk.packets().len(),
        2,
        "what waited goes out when a connection comes"
    );
    talk.publish("3", QOS_1);
}

#[test]
fn what_the_server_does_not_allow_comes_back_unsent() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        maximum_qos: Some(QOS_1),
        retain_available: Some(false),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    talk.events();
    let too_high = talk.publish("x", QOS_2);
    let retained = talk
        .session
        .publish(Message {
            retain: true,
            ..message("y", QOS_0)
        })
        .unwrap();
    assert_eq!(talk.packets(), []);
    let refused = |token, reason| {
        Event::Published(Published {
            token,
            reason,
            reason_string: None,
        })
    };
    assert_eq!(
        talk.events(),
        [
            refused(too_high, ReasonCode::QosNotSupported),
            refused(retained, ReasonCode::RetainNotSupported)
        ]
    );
}

#[test]
fn a_resumed_session_sends_the_unacknowledged_again_in_their_order() {
    let mut talk = Talk::online(resuming());
    for (text, qos) in [("1", QOS_1), ("2", QOS_2), ("3", QOS_1), ("4", QOS_2)] {
        talk.publish(text, qos);
    }
    talk.packets();
    talk.hear(Packet::PubRec(ack(3)));
    talk.hear(Packet::PubAck(ack(2)));
    talk.packets();
    talk.reconnect(true);
    assert_eq!(
        talk.packets(),
        [
            Packet::PubRel(ack(3)),
            sent("3", QOS_1, 4, true),
            sent("4", QOS_2, 5, true)
        ]
    );
}

#[test]
fn messages_sent_again_keep_within_the_new_window() {
    let mut talk = Talk::online(resuming());
    talk.publish("1", QOS_1);
    talk.publish("2", QOS_1);
    talk.packets();
    talk.session.handle_closed();
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        receive_maximum: Some(1),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        session_present: true,
        properties,
        ..ConnAck::default()
    })));
    assert_eq!(talk.packets(), [sent("1", QOS_1, 2, true)]);
    talk.hear(Packet::PubAck(ack(2)));
    assert_eq!(talk.packets(), [sent("2", QOS_1, 3, true)]);
}

#[test]
fn a_forgotten_session_sends_qos_1_anew_and_gives_qos_2_back_to_its_owner() {
    let mut talk = Talk::online(resuming());
    talk.publish("1", QOS_1);
    let lost = talk.publish("2", QOS_2);
    talk.publish("3", QOS_1);
    talk.packets();
    talk.events();
    talk.reconnect(false);
    assert_eq!(
        talk.packets(),
        [sent("1", QOS_1, 5, false), sent("3", QOS_1, 6, false)]
    );
    let events = talk.events();
    assert!(events.contains(&Event::Forgotten { token: lost }), "{events:?}");
}

#[test]
fn a_message_is_acknowledged_when_it_is_taken() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    talk.hear(sent("x", QOS_1, 9, false));
    assert_eq!(talk.packets(), []);
    assert_eq!(
        talk.session.poll_event(),
        Some(Event::Message(message("x", QOS_1)))
    );
    assert_eq!(talk.packets(), [Packet::PubAck(ack(9))]);
}

#[test]
fn an_acknowledgement_stays_with_the_connection_its_message_came_by() {
    let mut talk = Talk::online(resuming());
    talk.events();
    talk.hear(sent("x", QOS_1, 9, false));
    talk.reconnect(true);
    assert!(talk.events().contains(&Event::Message(message("x", QOS_1))));
    assert_eq!(talk.packets(), [], "the server will send it again");
}

#[test]
fn a_qos_2_message_sent_again_is_given_away_once() {
    let mut talk = Talk::online(resuming());
    talk.events();
    talk.hear(sent("x", QOS_2, 9, false));
    assert_eq!(talk.events(), [Event::Message(message("x", QOS_2))]);
    assert_eq!(talk.packets(), [Packet::PubRec(ack(9))]);
    talk.reconnect(true);
    talk.events();
    talk.hear(sent("x", QOS_2, 9, true));
    assert_eq!(talk.events(), []);
    assert_eq!(talk.packets(), [Packet::PubRec(ack(9))]);
    talk.hear(Packet::PubRel(ack(9)));
    assert_eq!(talk.packets(), [Packet::PubComp(ack(9))]);
    talk.hear(sent("y", QOS_2, 9, false));
    assert_eq!(
        talk.events(),
        [Event::Message(message("y", QOS_2))],
        "the identifier is free again"
    );
}

#[test]
fn a_qos_2_message_sent_again_before_it_was_taken_is_acknowledged_when_it_is() {
    let mut talk = Talk::online(resuming());
    talk.events();
    talk.hear(sent("x", QOS_2, 9, false));
    talk.reconnect(true);
    talk.hear(sent("x", QOS_2, 9, true));
    assert_eq!(talk.packets(), []);
    let messages = talk
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Message(_)));
    assert_eq!(messages.count(), 1);
    assert_eq!(talk.packets(), [Packet::PubRec(ack(9))]);
}

#[test]
fn a_release_of_the_unknown_is_completed_and_says_so() {
    let mut talk = Talk::online(Options::default());
    talk.hear(Packet::PubRel(ack(5)));
    let unknown = Ack::with_reason(id(5), ReasonCode::PacketIdentifierNotFound);
    assert_eq!(talk.packets(), [Packet::PubComp(unknown)]);
}

#[test]
fn more_unacknowledged_messages_than_announced_are_a_violation() {
    let mut talk = Talk::online(Options {
        receive_maximum: 2,
        ..Options::default()
    });
    talk.events();
    talk.hear(sent("1", QOS_1, 1, false));
    talk.hear(sent("2", QOS_2, 2, false));
    talk.hear(sent("3", QOS_1, 3, false));
    assert_eq!(talk.packets(), [disconnect(ReasonCode::ReceiveMaximumExceeded)]);
}

#[test]
fn qos_0_messages_nobody_takes_are_dropped_and_counted() {
    let mut talk = Talk::online(Options {
        events_max: 2,
        ..Options::default()
    });
    talk.events();
    for text in ["1", "2", "3"] {
        talk.hear(super::sending::publish(message(text, QOS_0), None, false));
    }
    assert_eq!(talk.session.dropped(), 1);
    assert_eq!(
        talk.events(),
        [
            Event::Message(message("1", QOS_0)),
            Event::Message(message("2", QOS_0))
        ]
    );
    talk.hear(super::sending::publish(message("4", QOS_0), None, false));
    assert_eq!(talk.events().len(), 1);
}

#[test]
fn a_topic_alias_is_a_violation_because_none_is_allowed() {
    let mut talk = Talk::online(Options::default());
    let Packet::Publish(mut aliased) = super::sending::publish(message("x", QOS_0), None, false) else {
        unreachable!()
    };
    aliased.topic = None;
    talk.hear(Packet::Publish(aliased));
    assert_eq!(talk.packets(), [disconnect(ReasonCode::TopicAliasInvalid)]);
}

#[test]
fn subscribe_and_unsubscribe_bring_one_reason_for_each_filter() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let asked = talk
        .session
        .subscribe(
            [subscription("a/#"), subscription("b")],
            SubscribeProperties::default(),
        )
        .unwrap();
    assert!(matches!(talk.packets().as_slice(), [Packet::Subscribe(_)]));
    let reasons: SmallVec<[ReasonCode; 8]> = smallvec![ReasonCode::GrantedQos2, ReasonCode::NotAuthorized];
    let answer = SubAck {
        packet_id: id(2),
        reasons: reasons.clone(),
        properties: None,
    };
    talk.hear(Packet::SubAck(Box::new(answer)));
    assert_eq!(
        talk.events(),
        [Event::Subscribed {
            token: asked,
            reasons
        }]
    );

    let asked = talk
        .session
        .unsubscribe([TopicFilter::try_from("b").unwrap()])
        .unwrap();
    talk.packets();
    let reasons: SmallVec<[ReasonCode; 8]> = smallvec![ReasonCode::NoSubscriptionExisted];
    let answer = UnsubAck {
        packet_id: id(3),
        reasons: reasons.clone(),
        properties: None,
    };
    talk.hear(Packet::UnsubAck(Box::new(answer)));
    assert_eq!(
        talk.events(),
        [Event::Unsubscribed {
            token: asked,
            reasons
        }]
    );
}

#[test]
fn a_suback_with_another_number_of_reasons_is_a_violation() {
    let mut talk = Talk::online(Options::default());
    talk.session
        .subscribe([subscription("a")], SubscribeProperties::default())
        .unwrap();
    talk.packets();
    let answer = SubAck {
        packet_id: id(2),
        reasons: SmallVec::new(),
        properties: None,
    };
    talk.hear(Packet::SubAck(Box::new(answer)));
    assert_eq!(talk.packets(), [disconnect(ReasonCode::ProtocolError)]);
}

#[test]
fn before_5_0_an_unsuback_means_success_for_every_filter() {
    let mut talk = Talk::online(v311());
    talk.events();
    let token = talk
        .session
        .unsubscribe([TopicFilter::try_from("b").unwrap()])
        .unwrap();
    talk.packets();
    talk.hear(Packet::UnsubAck(Box::new(UnsubAck {
        packet_id: id(2),
        reasons: SmallVec::new(),
        properties: None,
    })));
    assert_eq!(
        talk.events(),
        [Event::Unsubscribed {
            token,
            reasons: smallvec![ReasonCode::Success]
        }]
    );
}

#[test]
fn requests_are_refused_without_a_connection_without_a_filter_and_beyond_their_bound() {
    let mut talk = Talk::new(Options::default());
    let ask = |talk: &mut Talk| {
        talk.session
            .subscribe([subscription("a")], SubscribeProperties::default())
    };
    assert_eq!(ask(&mut talk), Err(RequestError::Offline));
    talk.reconnect(false);
    assert_eq!(talk.session.unsubscribe([]), Err(RequestError::Empty));
    for _ in 0..REQUESTS_MAX {
        ask(&mut talk).unwrap();
    }
    assert_eq!(ask(&mut talk), Err(RequestError::Full));
}

#[test]
fn a_ping_goes_out_within_the_keep_alive_and_its_answer_keeps_the_connection() {
    let mut talk = Talk::online(Options {
        keep_alive_secs: 40,
        ..Options::default()
    });
    talk.events();
    assert_eq!(
        talk.session.poll_timeout(),
        Some(talk.now + Duration::from_secs(30))
    );
    talk.pass(30);
    assert_eq!(talk.packets(), [Packet::PingReq]);
    talk.hear(Packet::PingResp);
    talk.pass(29);
    assert_eq!(talk.packets(), []);
    talk.pass(1);
    assert_eq!(talk.packets(), [Packet::PingReq]);
    assert_eq!(talk.events(), []);
}

#[test]
fn a_ping_without_an_answer_ends_the_connection() {
    let mut talk = Talk::online(Options {
        keep_alive_secs: 40,
        ..Options::default()
    });
    talk.events();
    talk.pass(30);
    talk.pass(20);
    assert_eq!(
        talk.events(),
        [Event::Disconnected(Disconnection::KeepAliveTimeout)]
    );
}

#[test]
fn the_servers_keep_alive_goes_before_ours() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        server_keep_alive_secs: Some(4),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    assert_eq!(
        talk.session.poll_timeout(),
        Some(talk.now + Duration::from_secs(3))
    );
}

#[test]
fn without_a_keep_alive_there_is_nothing_to_wait_for() {
    let talk = Talk::online(Options {
        keep_alive_secs: 0,
        ..Options::default()
    });
    assert_eq!(talk.session.poll_timeout(), None);
}

#[test]
fn a_message_passed_on_leaves_behind_what_belonged_to_its_delivery() {
    let mut talk = Talk::online(Options::default());
    let properties = PublishProperties {
        topic_alias: Some(3),
        subscription_ids: smallvec![7],
        content_type: Some(Utf8String::try_from("text/plain").unwrap()),
        ..PublishProperties::default()
    };
    let kept = PublishProperties {
        topic_alias: None,
        subscription_ids: SmallVec::new(),
        ..properties.clone()
    };
    let with = |properties| Message {
        properties: Some(Box::new(properties)),
        ..message("x", QOS_0)
    };
    talk.session.publish(with(properties)).unwrap();
    assert_eq!(talk.packets(), [super::sending::publish(with(kept), None, false)]);
}

#[test]
fn nothing_larger_than_the_server_takes_goes_out() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        packet_bytes_max: Some(20),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    let long = "a/".repeat(10);
    let ask = |talk: &mut Talk, filter: &str| {
        talk.session
            .subscribe([subscription(filter)], SubscribeProperties::default())
    };
    assert_eq!(ask(&mut talk, &long), Err(RequestError::TooLarge));
    let gone = TopicFilter::try_from(long.as_str()).unwrap();
    assert_eq!(talk.session.unsubscribe([gone]), Err(RequestError::TooLarge));
    talk.publish("far too long for such a server", QOS_0);
    assert_eq!(talk.packets(), []);
    ask(&mut talk, "a").unwrap();
    assert_eq!(talk.packets().len(), 1);
}

#[test]
fn a_full_window_holds_back_nothing_but_messages() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    let properties = ConnAckProperties {
        receive_maximum: Some(1),
        ..ConnAckProperties::default()
    };
    talk.hear(Packet::ConnAck(Box::new(ConnAck {
        properties,
        ..ConnAck::default()
    })));
    talk.publish("1", QOS_1);
    talk.publish("2", QOS_1);
    assert_eq!(talk.packets(), [sent("1", QOS_1, 2, false)]);
    talk.hear(sent("theirs", QOS_1, 9, false));
    talk.events();
    talk.session
        .subscribe([subscription("a")], SubscribeProperties::default())
        .unwrap();
    talk.hear(Packet::PubRel(ack(5)));
    talk.pass(45);
    let found: Vec<_> = talk.packets().iter().map(Packet::name).collect();
    assert_eq!(found, ["PUBACK", "SUBSCRIBE", "PUBCOMP", "PINGREQ"]);
}

#[test]
fn acknowledgements_go_out_in_the_order_of_what_they_answer() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    for (packet_id, qos) in [(9, QOS_1), (4, QOS_2), (7, QOS_1), (2, QOS_2)] {
        talk.hear(sent("x", qos, packet_id, false));
    }
    talk.events();
    assert_eq!(
        talk.packets(),
        [
            Packet::PubAck(ack(9)),
            Packet::PubRec(ack(4)),
            Packet::PubAck(ack(7)),
            Packet::PubRec(ack(2))
        ]
    );
    for text in ["1", "2", "3"] {
        talk.publish(text, QOS_2);
    }
    talk.packets();
    for packet_id in [4, 2, 3] {
        talk.hear(Packet::PubRec(ack(packet_id)));
    }
    assert_eq!(
        talk.packets(),
        [
            Packet::PubRel(ack(4)),
            Packet::PubRel(ack(2)),
            Packet::PubRel(ack(3))
        ]
    );
}

#[test]
fn auth_from_a_server_nobody_asked_for_it_is_a_violation() {
    for online in [false, true] {
        let mut talk = Talk::new(Options::default());
        talk.session.handle_opened(talk.now);
        talk.packets();
        if online {
            talk.hear(Packet::ConnAck(Box::default()));
        }
        talk.hear(Packet::Auth(Box::default()));
        assert_eq!(talk.packets(), [disconnect(ReasonCode::ProtocolError)]);
    }
}

#[test]
fn nothing_goes_out_before_connack_and_nothing_after_disconnect() {
    let mut talk = Talk::new(Options::default());
    talk.session.handle_opened(talk.now);
    talk.packets();
    talk.publish("x", QOS_0);
    assert_eq!(talk.packets(), []);
    talk.hear(Packet::ConnAck(Box::default()));
    assert_eq!(talk.packets().len(), 1);
    talk.session.disconnect(ReasonCode::Success);
    talk.publish("y", QOS_0);
    talk.hear(sent("z", QOS_1, 1, false));
    talk.pass(600);
    assert_eq!(talk.packets(), [disconnect(ReasonCode::Success)]);
}

#[test]
fn disconnect_goes_out_after_the_acknowledgements_due() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    talk.hear(sent("x", QOS_1, 9, false));
    talk.events();
    talk.session.disconnect(ReasonCode::Success);
    assert_eq!(
        talk.packets(),
        [Packet::PubAck(ack(9)), disconnect(ReasonCode::Success)]
    );
    assert_eq!(talk.events(), [Event::Disconnected(Disconnection::Requested)]);
    talk.session.handle_closed();
    assert_eq!(talk.events(), [], "the end is told once");
}

#[test]
fn before_5_0_a_violation_is_answered_by_hanging_up() {
    let mut talk = Talk::online(v311());
    talk.events();
    talk.hear(Packet::PingReq);
    assert!(matches!(
        talk.events().as_slice(),
        [Event::Disconnected(Disconnection::Violation { .. })]
    ));
    assert_eq!(talk.packets(), []);
}

#[test]
fn a_disconnect_from_the_server_is_told_with_its_reason() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    talk.hear(disconnect(ReasonCode::SessionTakenOver));
    assert_eq!(
        talk.events(),
        [Event::Disconnected(Disconnection::Ended(
            ReasonCode::SessionTakenOver,
            None
        ))]
    );
}

#[test]
fn an_outcome_can_be_taken_before_the_messages_in_front_of_it() {
    let mut talk = Talk::online(Options::default());
    talk.events();
    let token = talk.publish("x", QOS_1);
    talk.packets();
    talk.hear(sent("y", QOS_1, 9, false));
    talk.hear(Packet::PubAck(ack(2)));
    assert_eq!(talk.session.take_outcome(token), Some(published(token)));
    assert_eq!(
        talk.packets(),
        [],
        "the message before it is not taken, so not acknowledged"
    );
    assert_eq!(talk.events(), [Event::Message(message("y", QOS_1))]);
}

/// Two sessions facing each other: once CONNACK is through, both ends of MQTT deliver by the same rules, so each is
/// the other's server. Between them the connection breaks wherever the test says.
struct Pair {
    ends: [Talk; 2],
    /// Under way to each end.
    wires: [VecDeque<Packet>; 2],
    received: [Vec<Bytes>; 2],
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish { end: usize, qos: QoS },
    Carry { to: usize },
    Take { end: usize },
    Break,
}

impl Pair {
    fn new() -> Self {
        let options = Options {
            inflight_max: 3,
            receive_maximum: 3,
            ..v311()
        };
        let ends = [Talk::online(options.clone()), Talk::online(options)];
        Self {
            ends,
            wires: Default::default(),
            received: Default::default(),
        }
    }

    fn step(&mut self, step: Step, number: u32) {
        match step {
            Step::Publish { end, qos } => {
                let payload = Bytes::copy_from_slice(&number.to_be_bytes());
                self.ends[end]
                    .session
                    .publish(Message {
                        payload,
                        ..message("", qos)
                    })
                    .unwrap();
            }
            Step::Carry { to } => {
                if let Some(packet) = self.wires[to].pop_front() {
                    self.ends[to].hear(packet);
                }
            }
            Step::Take { end } => {
                for event in self.ends[end].events() {
                    match event {
                        Event::Message(message) => self.received[end].push(message.payload),
                        Event::Disconnected(Disconnection::Violation { found, .. }) => panic!("{found}"),
                        _ => {}
                    }
                }
            }
            Step::Break => {
                self.wires = Default::default();
                for end in &mut self.ends {
                    end.reconnect(true);
                }
            }
        }
        for from in 0..2 {
            let packets = self.ends[from].packets();
            self.wires[1 - from].extend(packets);
        }
    }

    fn settle(&mut self) {
        for end in 0..2 {
            self.step(Step::Take { end }, 0);
        }
        while self.wires.iter().any(|wire| !wire.is_empty()) {
            for end in 0..2 {
                self.step(Step::Carry { to: end }, 0);
                self.step(Step::Take { end }, 0);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..2_usize, prop_oneof![Just(QOS_1), Just(QOS_2)]).prop_map(|(end, qos)| Step::Publish { end, qos }),
        12 => (0..2_usize).prop_map(|to| Step::Carry { to }),
        4 => (0..2_usize).prop_map(|end| Step::Take { end }),
        1 => Just(Step::Break),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn however_often_the_connection_breaks_qos_1_arrives_and_qos_2_arrives_once(steps in steps()) {
        let mut pair = Pair::new();
        let mut expected: [Vec<(Bytes, QoS)>; 2] = Default::default();
        for (number, step) in (0_u32..).zip(&steps) {
            if let Step::Publish { end, qos } = step {
                expected[1 - end].push((Bytes::copy_from_slice(&number.to_be_bytes()), *qos));
            }
            pair.step(*step, number);
        }
        pair.step(Step::Break, 0);
        pair.settle();
        for end in 0..2 {
            for (payload, qos) in &expected[end] {
                let times = pair.received[end].iter().filter(|received| *received == payload).count();
                match qos {
                    QoS::ExactlyOnce => prop_assert_eq!(times, 1),
                    _ => prop_assert!(times >= 1),
                }
            }
            let known = |payload: &Bytes| expected[end].iter().any(|(expected, _)| expected == payload);
            prop_assert!(pair.received[end].iter().all(known));
            prop_assert_eq!(pair.ends[end].session.unfinished(), 0);
        }
    }

    #[test]
    fn each_quality_arrives_in_the_order_it_was_published_where_nothing_breaks(steps in steps()) {
        let mut pair = Pair::new();
        let mut expected: [Vec<Bytes>; 2] = Default::default();
        for (number, step) in (0_u32..).zip(&steps) {
            match step {
                Step::Break => continue,
                Step::Publish { end, .. } => {
                    expected[1 - end].push(Bytes::copy_from_slice(&number.to_be_bytes()));
                }
                _ => {}
            }
            pair.step(*step, number);
        }
        pair.settle();
        prop_assert_eq!(&pair.received, &expected);
    }
}
