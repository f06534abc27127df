//! What a broker promises, held against a model that knows nothing of how it is kept: clients lose connections and
//! packets at random, take each other over, answer late; and still every accepted message arrives at QoS 1 at least
//! once, at QoS 2 exactly once, and of each publisher, topic and quality in order.

mod conversation;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use conversation::chance::{Chance, for_seeds};
use conversation::*;
use tidegate::broker::{Event, Input, Limits, LinkId, Output, QueueClass, Verdict};
use tidegate::mqtt::{
    ClientId, Connect, DecodeError, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, Subscription, TopicName, Will, WillProperties,
};

const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// The topics of the walk; the last is read by a shared subscription alone.
const TOPICS: [&str; 6] = ["a/x", "a/y", "a/x/deep", "b/x", "c", "shared/z"];
const SHARED: &str = "shared/z";

/// Who takes part: name, version, and what it reads in all its life.
type Participant = (&'static str, ProtocolVersion, &'static [(&'static str, QoS)]);

const CLIENTS: [Participant; 5] = [
    (
        "ann",
        V311,
        &[("a/#", QoS::ExactlyOnce), ("$share/g/shared/#", QoS::ExactlyOnce)],
    ),
    (
        "bill",
        V5,
        &[
            ("a/#", QoS::AtLeastOnce),
            ("a/+", QoS::ExactlyOnce),
            ("c", QoS::ExactlyOnce),
        ],
    ),
    (
        "carl",
        V31,
        &[("+/x", QoS::AtLeastOnce), ("$share/g/shared/#", QoS::ExactlyOnce)],
    ),
    (
        "dora",
        V5,
        &[
            ("b/+", QoS::ExactlyOnce),
            ("c", QoS::AtMostOnce),
            ("$share/g/shared/#", QoS::AtLeastOnce),
        ],
    ),
    (
        "eve",
        V5,
        &[
            ("a/x", QoS::ExactlyOnce),
            ("c", QoS::ExactlyOnce),
            ("gone/+", QoS::ExactlyOnce),
        ],
    ),
];

/// The most QoS 2 messages a client has unfinished: the least Receive Maximum of the walk.
const WINDOW: usize = 4;

/// The quality at which `reader` gets what `topic_name` carries at the highest; `None`: not at all.
fn granted(reader: usize, topic_name: &str) -> Option<QoS> {
    let filters = CLIENTS[reader]
        .2
        .iter()
        .filter(|(text, _)| filter(text).matches(&topic(topic_name)));
    filters.map(|&(_, qos)| qos).max()
}

/// One message that a client published, as the model knows it.
#[derive(Debug, Clone)]
struct Sent {
    topic_name: &'static str,
    qos: QoS,
    /// Whether it may have lost its meaning on the way.
    may_expire: bool,
    /// Whether the broker was handed it at least once.
    accepted: bool,
}

/// A QoS 1 or 2 message whose publisher has not done with it.
#[derive(Debug, Clone)]
struct Unfinished {
    packet_id: PacketId,
    publish: Publish,
    /// Whether PUBREC came, so that PUBREL is what is repeated.
    released: bool,
}

/// A client that keeps to the standard over any number of connections.
#[derive(Default)]
struct Client {
    link: Option<LinkId>,
    /// Whether CONNACK came on `link`.
    is_in: bool,
    /// The link its session is attached to, as the broker tells it.
    attached: Option<LinkId>,
    /// Whether its session has been made.
    known: bool,
    /// What the network holds for it.
    inbox: VecDeque<Packet>,
    /// Answers it owes.
    answers: VecDeque<Packet>,
    unfinished: Vec<Unfinished>,
    next_id: u16,
    /// Identifiers of QoS 2 messages it was handed and has not been asked to forget.
    receiving: BTreeSet<PacketId>,
    aliases: BTreeMap<u16, TopicName>,
    given_aliases: BTreeSet<u16>,
    /// Links of its own that were taken over, which may still talk.
    stale: Vec<LinkId>,
    /// What it was handed: of each publisher, topic and quality the numbers, each once, in their order.
    received: BTreeMap<(String, String, u8), Vec<u32>>,
    wills: Vec<String>,
}

struct Walk {
    house: House,
    chance: Chance,
    clients: Vec<Client>,
    verifying: Vec<(LinkId, bool)>,
    sent: BTreeMap<(usize, u32), Sent>,
    number: u32,
    connections: u32,
    strangers: Vec<LinkId>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let limits = Limits {
            inflight_max: chance.of(&[1, 2, 5, 32]),
            receive_maximum: chance.of(&[WINDOW as u16, 64]),
            queue_class: QueueClass::N4096,
            queue_bytes_max: 16 * 1024 * 1024,
            queued_bytes_total_max: 64 * 1024 * 1024,
            unsent_bytes_max: chance.of(&[300, 5_000, 1_000_000]),
            ..Limits::default()
        };
        Self {
            house: House::within(limits),
            chance,
            clients: CLIENTS.iter().map(|_| Client::default()).collect(),
            verifying: Vec::new(),
            sent: BTreeMap::new(),
            number: 0,
            connections: 0,
            strangers: Vec::new(),
        }
    }

    /// Everybody comes in for the first time and subscribes.
    fn settle_in(&mut self) {
        for (who, (.., filters)) in CLIENTS.iter().enumerate() {
            self.come(who);
            let (link, _) = self.verifying.pop().expect("it came just now");
            let outputs = self.house.verified(link, Verdict::Allow);
            self.post(outputs);
            self.read(who, 1);
            let subscriptions: Vec<Subscription> = filters
                .iter()
                .map(|&(text, qos)| subscription(text, qos))
                .collect();
            let outputs = self.house.receive(link, subscribe_packet(&subscriptions));
            self.post(outputs);
            self.read(who, 1);
        }
    }

    fn step(&mut self) {
        let who = self.chance.below(CLIENTS.len());
        match self.chance.below(40) {
            0..=2 => self.come(who),
            3..=6 => self.answer_a_verification(),
            7 => self.lose(who),
            8 => self.talk_on_a_stale_link(who),
            9 => self.try_to_steal(who),
            10 => {
                let pause = self.chance.of(&[1, 10, 300, 2_000]);
                let outputs = self.house.wait(Duration::from_millis(pause));
                self.post(outputs);
            }
            11..=22 => self.publish(who),
            23..=31 => self.read(who, 4),
            32..=37 => self.answer(who, 4),
            _ => self.flush(who),
        }
    }

    /// A new connection, whether or not there is one.
    fn come(&mut self, who: usize) {
        if self.clients[who].link.is_some() && !self.chance.one_in(8) {
            return;
        }
        let (name, version, _) = CLIENTS[who];
        self.connections += 1;
        let mut connect = Connect {
            keep_alive_secs: self.chance.of(&[0, 5, 60]),
            user_name: Some(text(name)),
            ..resuming(version, name)
        };
        if version == V5 {
            connect.properties.receive_maximum = self.chance.of(&[None, Some(1), Some(7)]);
            connect.properties.topic_alias_maximum = self.chance.of(&[None, Some(3)]);
            connect.properties.session_expiry_secs = Some(u32::MAX);
        }
        if self.chance.one_in(2) {
            let delay_secs = (version == V5).then(|| self.chance.of(&[0, 1, 3]));
            connect.will = Some(Will {
                qos: QoS::ExactlyOnce,
                properties: WillProperties {
                    delay_secs,
                    ..WillProperties::default()
                },
                ..will(
                    &format!("gone/{name}"),
                    &format!("{name}'s will {}", self.connections),
                )
            });
        }
        let link = self.house.arrive_at_locked_door();
        let outputs = self.house.receive(link, Packet::Connect(Box::new(connect)));
        assert!(matches!(outputs[..], [Output::Verify { .. }]));
        let client = &mut self.clients[who];
        if let Some(old) = client.link.replace(link) {
            client.stale.push(old);
        }
        client.is_in = false;
        client.inbox.clear();
        self.verifying.push((link, true));
    }

    /// Somebody's verdict, not always the first who asked, not always the right one.
    fn answer_a_verification(&mut self) {
        if self.verifying.is_empty() {
            return;
        }
        let index = self.chance.below(self.verifying.len());
        let (link, is_own) = self.verifying.remove(index);
        let verdict = match (is_own, self.chance.below(8)) {
            (_, 0) => Verdict::Deny,
            (_, 1) => Verdict::Unavailable,
            _ => Verdict::Allow,
        };
        let outputs = self.house.verified(link, verdict);
        let came_in = |event: &&Event| matches!(event, Event::ClientConnected { .. });
        assert!(
            is_own || !events(&outputs).iter().any(came_in),
            "a stranger in another's session"
        );
        self.post(outputs);
    }

    /// The connection breaks, with all that was on its way.
    fn lose(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.is_in = false;
        client.inbox.clear();
        if let Some(link) = client.link.take() {
            client.stale.push(link);
            let outputs = match self.chance.below(8) {
                0 => {
                    let (version, error) = (Some(CLIENTS[who].1), DecodeError::Truncated);
                    self.house.step(Input::Malformed { link, version, error })
                }
                1 => self.house.receive(link, disconnect(ReasonCode::Success)),
                _ => self.house.close(link),
            };
            self.post(outputs);
        }
    }

    /// Whatever is said on a link that lost its session, and by those who were refused, does nothing to anybody.
    fn talk_on_a_stale_link(&mut self, who: usize) {
        let links: Vec<_> = self.clients[who]
            .stale
            .iter()
            .chain(&self.strangers)
            .copied()
            .collect();
        if links.is_empty() {
            return;
        }
        let link = self.chance.of(&links);
        let is_alive = self.clients.iter().any(|client| client.attached == Some(link))
            || self.verifying.iter().any(|&(other, _)| other == link);
        if is_alive {
            return;
        }
        let number = 1 + self.chance.below(9) as u16;
        let packet = match self.chance.below(6) {
            0 => puback(number),
            1 => pubrec(number),
            2 => pubcomp(number),
            3 => pubrel(number),
            4 => unsubscribe_packet(&["a/#", "c", "b/+"]),
            _ => Packet::Publish(message2(number, "a/x", "nobody/2/0")),
        };
        assert_eq!(self.house.receive(link, packet), []);
    }

    /// Another user, a certificate or nobody, with a client's identifier.
    fn try_to_steal(&mut self, who: usize) {
        let (name, ..) = CLIENTS[who];
        let version = self.chance.of(&[V31, V311, V5]);
        let connect = Connect {
            clean_start: self.chance.one_in(2),
            will: Some(Will {
                qos: QoS::ExactlyOnce,
                ..will("gone/stolen", "stolen")
            }),
            ..resuming(version, name)
        };
        let link = match self.chance.below(3) {
            0 => self.house.arrive(),
            1 => self.house.arrive_through(false, Some("mallory")),
            _ => {
                let link = self.house.knock("mallory", connect);
                self.strangers.push(link);
                self.verifying.push((link, false));
                let early = subscribe_packet(&[subscription("#", QoS::ExactlyOnce)]);
                assert_eq!(self.house.receive(link, early), []);
                return;
            }
        };
        let outputs = self.house.receive(link, Packet::Connect(Box::new(connect)));
        let refused = [
            send(link, refusal(ReasonCode::ClientIdentifierNotValid)),
            close(link),
        ];
        assert_eq!(acts(outputs), refused);
        self.strangers.push(link);
    }

    fn publish(&mut self, who: usize) {
        let (name, version, _) = CLIENTS[who];
        if !self.clients[who].is_in {
            return;
        }
        let qos = self.chance.of(&QUALITIES);
        let busy = self.clients[who].unfinished.len();
        if qos != QoS::AtMostOnce && busy >= WINDOW {
            return;
        }
        let topic_name = self.chance.of(&TOPICS);
        self.number += 1;
        let mut publish = message(topic_name, &format!("{name}/{}/{}", qos as u8, self.number));
        publish.qos = qos;
        publish.retain = self.chance.one_in(8);
        // At QoS 1 it may be published twice, and what expired the first time come the second, after later ones.
        let may_expire = version == V5 && qos != QoS::AtLeastOnce && self.chance.one_in(12);
        if may_expire {
            publish.properties = Some(Box::new(PublishProperties {
                message_expiry_secs: Some(1),
                ..PublishProperties::default()
            }));
        }
        let sent = Sent {
            topic_name,
            qos,
            may_expire,
            accepted: false,
        };
        self.sent.insert((who, self.number), sent);
        if qos != QoS::AtMostOnce {
            let client = &mut self.clients[who];
            let in_use = |number: u16| client.unfinished.iter().any(|one| one.packet_id.get() == number);
            let mut number = client.next_id % 8 + 1;
            while in_use(number) {
                number = number % 8 + 1;
            }
            client.next_id = number;
            publish.packet_id = Some(id(number));
            let released = false;
            client.unfinished.push(Unfinished {
                packet_id: id(number),
                publish: publish.clone(),
                released,
            });
        }
        if self.chance.one_in(16) {
            return self.lose(who); // and the message with it, on its way
        }
        self.hand_over(who, publish);
    }

    /// Gives the broker a PUBLISH, by an alias where the client likes to.
    fn hand_over(&mut self, who: usize, mut publish: Publish) {
        let (_, version, _) = CLIENTS[who];
        let Some(link) = self.clients[who].link else {
            return;
        };
        let (.., number) = origin(&publish);
        self.sent.get_mut(&(who, number)).expect("it was sent").accepted = true;
        if version == V5 && self.chance.one_in(3) {
            let topic_name = publish.topic.clone().expect("with its topic");
            let place = TOPICS
                .iter()
                .position(|known| *known == topic_name.as_str())
                .expect("a topic of the walk");
            let alias = place as u16 + 1;
            publish.properties.get_or_insert_default().topic_alias = Some(alias);
            if !self.clients[who].given_aliases.insert(alias) {
                publish.topic = None;
            }
        }
        let outputs = self.house.publish(link, publish);
        self.post(outputs);
    }

    /// A client reads what the network brought, and owes answers.
    fn read(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.clients[who].inbox.pop_front() else {
                break;
            };
            match packet {
                Packet::ConnAck(connack) => self.come_in(who, &connack),
                Packet::Publish(publish) => self.clients[who].take(who, publish),
                Packet::PubAck(ack) => self.clients[who].finish(ack.packet_id),
                Packet::PubComp(ack) => self.clients[who].finish(ack.packet_id),
                Packet::PubRec(ack) if ack.reason.is_error() => panic!("refused: {ack:?}"),
                Packet::PubRec(ack) => {
                    let client = &mut self.clients[who];
                    if let Some(one) = client
                        .unfinished
                        .iter_mut()
                        .find(|one| one.packet_id == ack.packet_id)
                    {
                        one.released = true;
                    }
                    client.answers.push_back(pubrel(ack.packet_id.get()));
                }
                Packet::PubRel(ack) => {
                    let client = &mut self.clients[who];
                    client.receiving.remove(&ack.packet_id);
                    client.answers.push_back(pubcomp(ack.packet_id.get()));
                }
                Packet::SubAck(suback) => assert!(suback.reasons.iter().all(|reason| !reason.is_error())),
                Packet::Disconnect(_) => {}
                other => panic!("{} was sent {other:?}", CLIENTS[who].0),
            }
        }
    }

    fn come_in(&mut self, who: usize, connack: &tidegate::mqtt::ConnAck) {
        let client = &mut self.clients[who];
        if connack.reason != ReasonCode::Success {
            return;
        }
        client.is_in = true;
        client.answers.clear();
        client.aliases.clear();
        client.given_aliases.clear();
        // [MQTT-4.4.0-1], by a client: in the order of the first time.
        for one in self.clients[who].unfinished.clone() {
            let Some(link) = self.clients[who].link else {
                return;
            };
            if one.released {
                let outputs = self.house.receive(link, pubrel(one.packet_id.get()));
                self.post(outputs);
            } else {
                self.hand_over(who, repeated(one.publish));
            }
        }
    }

    fn answer(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let client = &mut self.clients[who];
            let (true, Some(link)) = (client.is_in, client.link) else {
                return;
            };
            let Some(answer) = client.answers.pop_front() else {
                return;
            };
            let outputs = self.house.receive(link, answer);
            self.post(outputs);
        }
    }

    fn flush(&mut self, who: usize) {
        if let Some(link) = self.clients[who].link {
            let outputs = self.house.flush(link);
            self.post(outputs);
        }
    }

    /// Puts what the broker sends into the boxes of those it is for.
    fn post(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { link, packet } => {
                    let owner = self.clients.iter_mut().find(|client| client.link == Some(link));
                    match owner {
                        Some(client) => client.inbox.push_back(packet),
                        None => assert!(
                            matches!(packet, Packet::ConnAck(_) | Packet::Disconnect(_))
                                || self.clients.iter().any(|client| client.stale.contains(&link)),
                            "{packet:?} for a stranger"
                        ),
                    }
                }
                Output::Close { link } => {
                    if let Some(client) = self.clients.iter_mut().find(|client| client.link == Some(link)) {
                        (client.link, client.is_in) = (None, false);
                        client.inbox.clear();
                    }
                }
                Output::Event(Event::ClientConnected {
                    link,
                    client,
                    session_present,
                    ..
                }) => {
                    let client = self.client_mut(&client);
                    assert_eq!(
                        session_present, client.known,
                        "a session that is kept is found again"
                    );
                    (client.attached, client.known) = (Some(link), true);
                }
                Output::Event(Event::ClientDisconnected { link, client, .. }) => {
                    let client = self.client_mut(&client);
                    assert_eq!(client.attached.take(), Some(link));
                }
                _ => {}
            }
        }
    }

    fn client_mut(&mut self, id: &ClientId) -> &mut Client {
        let who = CLIENTS.iter().position(|(name, ..)| *name == id.as_str());
        &mut self.clients[who.expect("one of those who take part")]
    }

    /// Everybody comes in, reads all and answers all, until nothing is owed to anybody.
    fn drain(&mut self) {
        self.house.wait(secs(10));
        for who in 0..CLIENTS.len() {
            self.lose(who);
        }
        for (link, _) in std::mem::take(&mut self.verifying) {
            let outputs = self.house.close(link);
            self.post(outputs);
        }
        for _ in 0..20_000 {
            for who in 0..CLIENTS.len() {
                if self.clients[who].link.is_none() {
                    self.come(who);
                    let (link, _) = self.verifying.pop().expect("it came just now");
                    let outputs = self.house.verified(link, Verdict::Allow);
                    self.post(outputs);
                }
                self.read(who, 1_000);
                self.answer(who, 1_000);
                self.flush(who);
            }
            let stats = self.house.stats();
            let quiet = self
                .clients
                .iter()
                .all(|client| client.is_in && client.inbox.is_empty() && client.unfinished.is_empty());
            if quiet && stats.queued_messages == 0 && stats.inflight_messages == 0 {
                return;
            }
        }
        panic!("what is owed is never paid: {:?}", self.house.stats());
    }

    /// Everything that was accepted has arrived, as often as it was to.
    fn settle(&self) -> usize {
        let mut arrived = 0;
        for (&(publisher, number), sent) in &self.sent {
            let key = |qos: QoS| {
                (
                    CLIENTS[publisher].0.to_string(),
                    sent.topic_name.to_string(),
                    qos as u8,
                )
            };
            let count = |reader: usize| {
                let numbers = self.clients[reader].received.get(&key(sent.qos));
                numbers.map_or(0, |numbers| {
                    numbers.iter().filter(|&&other| other == number).count()
                })
            };
            let must = sent.accepted && sent.qos != QoS::AtMostOnce && !sent.may_expire;
            if sent.topic_name == SHARED {
                let total: usize = (0..CLIENTS.len()).map(count).sum();
                assert!(total > 0 || !must, "{sent:?} {number} reached no member");
                continue;
            }
            for (reader, (name, ..)) in CLIENTS.iter().enumerate() {
                let found = count(reader);
                arrived += found;
                match granted(reader, sent.topic_name) {
                    None => assert_eq!(found, 0, "nobody asked for {sent:?} {number}"),
                    Some(QoS::AtMostOnce) => assert!(found <= 1),
                    Some(_) if must => assert_eq!(found, 1, "{sent:?} {number} for {name}"),
                    Some(_) => assert!(found <= 1),
                }
            }
        }
        arrived
    }
}

impl Client {
    fn finish(&mut self, packet_id: PacketId) {
        self.unfinished.retain(|one| one.packet_id != packet_id);
    }

    /// A message arrives, at the application too unless it was there before.
    fn take(&mut self, who: usize, publish: Publish) {
        let alias = publish
            .properties
            .as_deref()
            .and_then(|properties| properties.topic_alias);
        let topic = match (publish.topic.clone(), alias) {
            (Some(topic), alias) => {
                if let Some(alias) = alias {
                    self.aliases.insert(alias, topic.clone());
                }
                topic
            }
            (None, alias) => alias
                .and_then(|alias| self.aliases.get(&alias))
                .expect("a known alias")
                .clone(),
        };
        if let Some(packet_id) = publish.packet_id {
            let answer = match publish.qos {
                QoS::ExactlyOnce => pubrec(packet_id.get()),
                _ => puback(packet_id.get()),
            };
            self.answers.push_back(answer);
            if publish.qos == QoS::ExactlyOnce && !self.receiving.insert(packet_id) {
                assert!(
                    publish.dup,
                    "an identifier in use came with a new message: {publish:?}"
                );
                return;
            }
        }
        if topic.as_str().starts_with("gone/") {
            let payload = String::from_utf8_lossy(&publish.payload).into_owned();
            assert!(
                !self.wills.contains(&payload) && !payload.contains("stolen"),
                "{payload}"
            );
            return self.wills.push(payload);
        }
        let (publisher, qos, number) = origin(&publish);
        let key = (publisher.clone(), topic.as_str().to_string(), qos);
        let numbers = self.received.entry(key).or_default();
        match numbers.iter().max() {
            Some(&last) if number <= last => {
                let is_known = numbers.contains(&number);
                let name = CLIENTS[who].0;
                // Given back by a member that went away; or lost the first time, for nobody keeps it at QoS 0, and
                // published again.
                let may_be_late = topic.as_str() == SHARED || (qos == 1 && publish.qos == QoS::AtMostOnce);
                if may_be_late && !is_known {
                    return numbers.push(number);
                }
                assert!(
                    is_known,
                    "{name} got {publisher}'s {number} on {topic} after {last}"
                );
                let may_repeat = qos == 1 || publish.qos == QoS::AtLeastOnce;
                assert!(may_repeat, "{name} got {publisher}'s {number} on {topic} twice");
            }
            _ => numbers.push(number),
        }
    }
}

/// Who published a message, at which quality, and its number.
fn origin(publish: &Publish) -> (String, u8, u32) {
    let payload = std::str::from_utf8(&publish.payload).expect("text");
    let parts: Vec<_> = payload.split('/').collect();
    let [publisher, qos, number] = parts[..] else {
        panic!("nobody published {payload:?}");
    };
    let (qos, number) = (qos.parse().expect("a quality"), number.parse().expect("a number"));
    (publisher.to_string(), qos, number)
}

#[test]
fn accepted_messages_arrive_as_often_and_in_the_order_that_was_promised() {
    for_seeds(1..=12, |seed| {
        let mut walk = Walk::new(seed);
        walk.settle_in();
        for _ in 0..4_000 {
            walk.step();
        }
        walk.drain();
        let arrived = walk.settle();
        let stats = walk.house.stats().clone();
        assert_eq!(
            (
                stats.dropped_queue_full,
                stats.dropped_session_ended,
                stats.dropped_too_large
            ),
            (0, 0, 0)
        );
        assert_eq!((stats.sessions, stats.clients_connected), (5, 5));
        assert_eq!(
            walk.clients[4].wills.len() as u64,
            stats.wills_sent,
            "each will once"
        );
        assert!(
            arrived > 300 && stats.takeovers > 5 && stats.wills_sent > 5,
            "{arrived} arrived, {stats:?}"
        );
        assert!(
            stats.duplicates_suppressed > 0 && stats.connections_refused > 20,
            "{stats:?}"
        );
    });
}
