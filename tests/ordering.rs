//! Order: what one publisher says on one topic at one quality arrives in the order it was said, whatever happens to
//! readers and windows in between.

mod conversation;

use std::collections::BTreeMap;

use conversation::*;
use tidegate::broker::{Limits, LinkId, Output, Overflow, QueueClass};
use tidegate::mqtt::{Connect, Packet, PacketId, ProtocolVersion, Publish, QoS};

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Publisher, topic and quality: what has an order.
type Stream = (usize, usize, u8);

const TOPICS: [&str; 3] = ["site/temperature", "site/pressure", "a"];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A reader and what it has heard.
struct Reader {
    connect: Connect,
    granted: QoS,
    link: Option<LinkId>,
    /// The last number of each stream, ever.
    last: BTreeMap<Stream, u32>,
    /// The same since it last came back.
    last_here: BTreeMap<Stream, u32>,
    /// Deliveries it owes an answer, in the order they came.
    owed: Vec<(PacketId, Owed)>,
    heard: u32,
    repeated: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Owed {
    Ack,
    Rec,
    Comp,
}

impl Reader {
    fn hear(&mut self, publish: &Publish) {
        let text = std::str::from_utf8(&publish.payload).expect("our own payload");
        let mut numbers = text
            .split(' ')
            .map(|number| number.parse::<u32>().expect("a number"));
        let mut number = || numbers.next().expect("four numbers");
        let (publisher, topic, qos) = (number() as usize, number() as usize, number() as u8);
        // What was published at two qualities and is delivered at one is still two streams.
        let stream = (publisher, topic, qos);
        let number = number();
        let before = self.last_here.insert(stream, number);
        assert!(
            before < Some(number),
            "{stream:?}: {number} came after {before:?}"
        );
        if publish.dup {
            self.repeated += 1;
        } else {
            let before = self.last.insert(stream, number);
            assert!(
                before < Some(number),
                "{stream:?}: {number} came after {before:?}, ever"
            );
        }
        self.heard += 1;
        if let Some(packet_id) = publish.packet_id {
            let owed = match publish.qos {
                QoS::ExactlyOnce => Owed::Rec,
                _ => Owed::Ack,
            };
            self.owed.push((packet_id, owed));
        }
    }
}

/// Hands every reader what it was sent.
fn hear(readers: &mut [Reader], outputs: Vec<Output>) {
    for output in outputs {
        match output {
            Output::Send { link, packet } => {
                let Some(reader) = readers.iter_mut().find(|reader| reader.link == Some(link)) else {
                    continue;
                };
                match packet {
                    Packet::Publish(publish) => reader.hear(&publish),
                    Packet::PubRel(ack) => {
                        reader.owed.retain(|(packet_id, _)| *packet_id != ack.packet_id);
                        reader.owed.push((ack.packet_id, Owed::Comp));
                    }
                    _ => {}
                }
            }
            Output::Close { link } => panic!("{link:?} was sent away"),
            _ => {}
        }
    }
}

fn answer(packet_id: PacketId, owed: Owed) -> Packet {
    match owed {
        Owed::Ack => puback(packet_id.get()),
        Owed::Rec => pubrec(packet_id.get()),
        Owed::Comp => pubcomp(packet_id.get()),
    }
}

/// How a reader comes back: with its session, its window and what it says of aliases.
fn returning(name: &str, version: ProtocolVersion, chance: &mut Chance) -> Connect {
    let mut connect = resuming(version, name);
    connect.keep_alive_secs = 0;
    if version == V5 {
        connect.properties.receive_maximum = chance.of(&[None, Some(1), Some(3)]);
        connect.properties.topic_alias_maximum = chance.of(&[None, Some(1), Some(10)]);
    }
    connect
}

fn act(house: &mut House, readers: &mut [Reader], numbers: &mut BTreeMap<Stream, u32>, chance: &mut Chance) {
    let index = chance.below(readers.len());
    let reader = &mut readers[index];
    let outputs = match (chance.below(20), reader.link) {
        (0, Some(link)) => {
            house.close(link);
            reader.link = None;
            return;
        }
        (0..=3, None) => {
            let (link, outputs) = house.connect(reader.connect.clone());
            reader.link = Some(link);
            reader.last_here.clear();
            reader.owed.clear();
            outputs
        }
        (1..=2, Some(link)) => house.flush(link),
        (3..=9, Some(link)) if !reader.owed.is_empty() => {
            // Mostly in order, as the standard asks, and sometimes not.
            let at = match chance.below(6) {
                0 => chance.below(reader.owed.len()),
                _ => 0,
            };
            let (packet_id, owed) = reader.owed.remove(at);
            house.receive(link, answer(packet_id, owed))
        }
        _ => {
            let stream = (chance.below(2), chance.below(TOPICS.len()), chance.below(3) as u8);
            let number = numbers.entry(stream).or_insert(0);
            *number += 1;
            let payload = format!("{} {} {} {number}", stream.0, stream.1, stream.2);
            let qos = QUALITIES[usize::from(stream.2)];
            house.step(own(TOPICS[stream.1], &payload, qos, false))
        }
    };
    hear(readers, outputs);
}

#[test]
fn no_resume_slow_reader_or_opening_window_changes_an_order() {
    let (mut heard, mut repeated) = (0, 0);
    for seed in 0..12 {
        let mut chance = Chance(seed);
        let mut house = House::within(Limits {
            queue_class: chance.of(&[QueueClass::N16, QueueClass::N256]),
            queue_overflow: chance.of(&[Overflow::DropOldest, Overflow::DropNewest]),
            unsent_bytes_max: chance.of(&[60, 400, 100_000]),
            inflight_max: chance.of(&[1, 4, 32]),
            ..Limits::default()
        });
        let mut readers: Vec<_> = (["one", "two", "three", "four"].iter().zip([V5, V311, V5, V31]))
            .map(|(name, version)| Reader {
                connect: returning(name, version, &mut chance),
                granted: chance.of(&QUALITIES),
                link: None,
                last: BTreeMap::new(),
                last_here: BTreeMap::new(),
                owed: Vec::new(),
                heard: 0,
                repeated: 0,
            })
            .collect();
        for reader in &mut readers {
            let link = house.join(reader.connect.clone());
            for filter in ["#", "site/+"] {
                house.subscribe(link, filter, reader.granted);
            }
            reader.link = Some(link);
        }
        let mut numbers = BTreeMap::new();
        for _ in 0..1500 {
            act(&mut house, &mut readers, &mut numbers, &mut chance);
        }
        heard += readers.iter().map(|reader| reader.heard).sum::<u32>();
        repeated += readers.iter().map(|reader| reader.repeated).sum::<u32>();
    }
    assert!(
        heard > 6_000 && repeated > 150,
        "{heard} heard, {repeated} repeated"
    );
}

#[test]
fn a_publishers_messages_are_acknowledged_in_the_order_they_came() {
    let mut house = House::new();
    let link = house.join(client(V5, "publisher"));
    let mut outputs = Vec::new();
    for number in 1..=30 {
        outputs.extend(match number % 2 {
            0 => house.publish(link, message1(number, "t", "x")),
            _ => house.publish(link, message2(number, "t", "x")),
        });
    }
    let answered: Vec<_> = (sent(&outputs, link).into_iter())
        .filter_map(|packet| match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.packet_id.get()),
            _ => None,
        })
        .collect();
    assert_eq!(answered, (1..=30).collect::<Vec<_>>());
}
