//! A broker to talk with: inputs in, outputs out, a clock moved by hand, and all invariants checked after
//! each step.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary uses its own part of the house"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod anything;
pub mod chance;
pub mod judge;
mod witness;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use slotmap::SlotMap;
use smallvec::smallvec;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Denial, Rights};
use tidegate::broker::change::Accepted;
use tidegate::broker::{
    Broker, Change, Event, Input, Kick, KickId, KickOptions, KickOutcome, Limits, LinkId, ListenerPolicy,
    Message, MountPoint, Now, Output, Recall, Recalled, Restored, Settings, Stats, StoreHealth, Target,
    Verdict,
};
use tidegate::hooks::{Answered, Hook, Post};
use tidegate::mqtt::{
    Ack, ClientId, ConnAck, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion,
    Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeProperties, Subscription, TopicFilter,
    TopicName, Unsubscribe, Utf8String, Will, WillProperties,
};
use tidegate::storage::record;

pub use ProtocolVersion::{V5, V31, V311};

/// Messages that are read again at once: few, so that there are more readings.
const RECALLED_MAX: usize = 5;

/// A broker, its clock, and the door its links come through.
pub struct House {
    pub broker: Broker,
    pub now: Now,
    /// Whether reason strings, and what the log is told of denials, stay in what the broker says. They are for people;
    /// a test that is not about them compares packets without.
    pub tells_reasons: bool,
    /// What was stored, put together again; `None` where nothing is.
    pub stored: Option<Restored>,
    /// Whether what is given is stored at once; otherwise when [`House::store`] says so.
    pub stores_at_once: bool,
    /// Every change that was given and is not lost.
    pub journal: Vec<Change>,
    /// The number of each.
    pub numbers: Vec<u64>,
    /// Whether what is to be read again is read at once; otherwise when [`House::read_again`] says so.
    pub recalls_at_once: bool,
    recalls: VecDeque<Recalled>,
    /// The number of the last change that was given.
    given: u64,
    /// What is stored is not whole before the checkpoint that goes on has ended.
    pub is_healing: bool,
    keys: SlotMap<LinkId, ()>,
    witness: witness::Witness,
}

/// Answers that hooks gave later.
#[derive(Default)]
pub struct Letters(Mutex<Vec<Answered>>);

impl Post for Letters {
    fn post(&self, answered: Answered) {
        self.0.lock().unwrap().push(answered);
    }
}

/// An output as its links see it: a packet for many links is a packet for each.
pub fn one_by_one(output: Output) -> Vec<Output> {
    match output {
        Output::SendToEach { links, publish } => {
            let packet = Packet::Publish(publish);
            links
                .iter()
                .map(|&link| Output::Send {
                    link,
                    packet: packet.clone(),
                })
                .collect()
        }
        output => vec![output],
    }
}

/// An output without the reason string it may carry.
fn without_reason(mut output: Output) -> Output {
    if let Output::Send { packet, .. } = &mut output {
        match packet {
            Packet::ConnAck(connack) => connack.properties.reason_string = None,
            Packet::Disconnect(disconnect) => disconnect.properties.reason_string = None,
            _ => {}
        }
    }
    output
}

impl House {
    pub fn new() -> Self {
        Self::within(Limits::default())
    }

    /// A house whose operator has decided something.
    pub fn with(settings: Settings) -> Self {
        Self::new().decided(settings)
    }

    /// The same house with what its operator has decided.
    pub fn decided(self, settings: Settings) -> Self {
        Self {
            broker: self.broker.with_settings(settings),
            ..self
        }
    }

    pub fn within(limits: Limits) -> Self {
        let now = Now {
            mono: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        Self {
            broker: Broker::new(limits, Rights::default(), 7),
            now,
            tells_reasons: false,
            stored: None,
            stores_at_once: false,
            journal: Vec::new(),
            numbers: Vec::new(),
            recalls_at_once: true,
            recalls: VecDeque::new(),
            given: 0,
            is_healing: false,
            keys: SlotMap::with_key(),
            witness: witness::Witness::default(),
        }
    }

    /// A house where `denials` hold beside the rules of the standard.
    pub fn denying(denials: &[Denial]) -> Self {
        let mut house = Self::new();
        house.step(Input::RightsChanged(Rights::denying(denials.to_vec())));
        house
    }

    /// A house where `hooks` are asked; what they answer later is to be given by the test, within five seconds.
    pub fn hooked(hooks: Vec<Box<dyn Hook>>) -> (Self, Arc<Letters>) {
        Self::new().asking(hooks)
    }

    /// The same house with hooks.
    pub fn asking(self, hooks: Vec<Box<dyn Hook>>) -> (Self, Arc<Letters>) {
        let letters = Arc::new(Letters::default());
        let now = self.now.mono;
        let broker = self.broker.with_hooks(now, hooks, letters.clone(), secs(5));
        (Self { broker, ..self }, letters)
    }

    /// Hands the broker every answer that hooks have given since.
    pub fn take_answers(&mut self, letters: &Letters) -> Vec<Output> {
        let answers = std::mem::take(&mut *letters.0.lock().unwrap());
        let mut outputs = Vec::new();
        for answered in answers {
            outputs.extend(self.step(Input::Answered(answered)));
        }
        outputs
    }

    /// One input, and everything that follows from it.
    ///
    /// What is sent has to be what each client can read.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        self.witness.hear(&input);
        if let (Input::Store(_), Some(view)) = (&input, self.broker.store()) {
            self.given = view.given; // what was given in vain is numbered, too
        }
        self.broker.handle(self.now, input);
        let mut outputs = self.drain();
        loop {
            if self.stores_at_once
                && let Some(view) = self.broker.store()
                && view.health != StoreHealth::Failed
                && view.stored < view.given
            {
                let before = view.given;
                self.broker.handle(self.now, Input::Stored { upto: before });
                outputs.extend(self.drain());
                if self.broker.store().is_none_or(|view| view.given != before) {
                    continue;
                }
            }
            let recalled = (self.recalls_at_once).then(|| self.recalls.pop_front());
            let Some(recalled) = recalled.flatten() else { break };
            outputs.extend(self.tell_recalled(recalled));
        }
        self.let_go();
        self.witness.read(&outputs);
        if let Some(stored) = &self.stored
            && let Some(view) = self.broker.store()
            && view.health != StoreHealth::Failed
            && !self.is_healing
        {
            let image = self.broker.image().expect("there is a store");
            assert!(
                stored.is_like(&image),
                "stored is\n{stored:#?}\nand should be\n{image:#?}"
            );
        }
        self.broker
            .check_invariants()
            .expect("invariants hold after every step");
        if self.tells_reasons {
            return outputs;
        }
        let is_told = |output: &Output| !matches!(output, Output::Event(Event::Denied(_)));
        outputs.into_iter().filter(is_told).map(without_reason).collect()
    }

    /// Gives the broker all that was read again, and what is read for that.
    pub fn read_again(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(recalled) = self.recalls.pop_front() {
            outputs.extend(self.tell_recalled(recalled));
        }
        self.witness.read(&outputs);
        self.broker
            .check_invariants()
            .expect("invariants hold after what was read again");
        outputs
    }

    /// Lets go of every change that a checkpoint that is stored has made needless, as the journal does.
    fn let_go(&mut self) {
        let stored = self.broker.store().map_or(0, |view| view.stored);
        let is_stored =
            |(change, number): (&Change, &u64)| *change == Change::CheckpointEnded && *number <= stored;
        let ended = self.journal.iter().zip(&self.numbers).rposition(is_stored);
        let begun = ended.and_then(|ended| {
            let before = self.journal.iter().take(ended);
            before
                .rev()
                .position(|change| *change == Change::CheckpointBegun)
                .map(|back| ended - 1 - back)
        });
        if let Some(begun) = begun {
            self.journal.drain(..begun);
            self.numbers.drain(..begun);
        }
    }

    /// How many readings were asked for and not answered.
    pub fn recalls(&self) -> usize {
        self.recalls.len()
    }

    fn read(&mut self, recall: Recall) {
        let (first, last) = recall.changes();
        let (mut messages, mut upto) = (Vec::new(), last);
        for (&number, change) in self.numbers.iter().zip(&self.journal) {
            if let Change::Accepted(accepted) = change
                && (first..=last).contains(&number)
                && recall.wants(accepted)
            {
                messages.push((number, Accepted::clone(accepted)));
                if messages.len() == RECALLED_MAX {
                    upto = number;
                    break;
                }
            }
        }
        self.recalls.push_back(Recalled {
            recall,
            upto,
            messages,
        });
    }

    fn tell_recalled(&mut self, recalled: Recalled) -> Vec<Output> {
        self.broker.handle(self.now, Input::Recalled(Box::new(recalled)));
        self.drain()
    }

    /// What the broker says, without what it gives to be stored, which is put together.
    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Store(change) => {
                    self.is_healing &= change != Change::CheckpointEnded;
                    let mut content = Vec::new();
                    record::encode(&change, &mut content);
                    let read = record::decode(record::kind_of(&change), &content);
                    assert_eq!(read.as_ref(), Ok(&change), "as it is stored");
                    if let Some(stored) = &mut self.stored {
                        stored.apply(change.clone());
                    }
                    self.journal.push(change);
                    self.given += 1;
                    self.numbers.push(self.given);
                }
                Output::Recall(recall) => self.read(recall),
                output => outputs.extend(one_by_one(output)),
            }
        }
        outputs
    }

    /// The same house with a store, in which everything is stored as soon as it is given.
    pub fn with_store(mut self) -> Self {
        self.broker = self.broker.with_store(self.now);
        self.stored = Some(Restored::default());
        self.stores_at_once = true;
        self
    }

    /// The same house, in which what is given is stored when [`House::store`] says so.
    pub fn storing_when_told(mut self) -> Self {
        self.stores_at_once = false;
        self
    }

    /// Has everything stored that was given so far.
    pub fn store(&mut self) -> Vec<Output> {
        let upto = self.broker.store().expect("there is a store").given;
        self.step(Input::Stored { upto })
    }

    /// The same for one change more than is stored.
    pub fn store_one(&mut self) -> Vec<Output> {
        let upto = self.broker.store().expect("there is a store").stored + 1;
        self.step(Input::Stored { upto })
    }

    /// The power goes: what was not stored is lost, and `broker` goes on with what was, after the gateway was `off`.
    ///
    /// What it says before its first input is told.
    pub fn restart(&mut self, broker: Broker, off: Duration, trusted: bool) -> Vec<Output> {
        let stored = self.broker.store().expect("there is a store").stored;
        let count = self.journal.len() - self.unstored();
        self.journal.truncate(count);
        self.numbers.truncate(count);
        self.recalls.clear();
        self.given = stored;
        let (mut restored, mut sparing) = (Restored::default(), Restored::sparing());
        for (&number, change) in self.numbers.iter().zip(&self.journal) {
            restored.apply_numbered(number, change.clone());
            sparing.apply_numbered(number, change.clone());
        }
        restored.finish();
        sparing.finish();
        for number in sparing.wanted() {
            let index = self
                .numbers
                .binary_search(&number)
                .expect("a change that is there");
            if let Some(Change::Accepted(accepted)) = self.journal.get(index) {
                sparing.supply(Accepted::clone(accepted));
            }
        }
        self.now.wall += off;
        self.broker = broker.with_store(self.now);
        self.broker.restore(self.now, sparing, stored, trusted);
        self.stored = Some(restored);
        self.is_healing = false;
        self.witness = witness::Witness::default();
        let mut outputs = self.drain();
        outputs.extend(self.step(Input::Tick));
        outputs
    }

    /// How many changes were given and are not stored.
    fn unstored(&self) -> usize {
        let view = self.broker.store().expect("there is a store");
        usize::try_from(view.given - view.stored).expect("a count of the test")
    }

    /// Has the witness read `outputs`, wherever they come from.
    pub fn witness(&mut self, outputs: &[Output]) {
        self.witness.read(outputs);
    }

    /// Moves the clock, with a tick at each deadline on the way.
    pub fn wait(&mut self, duration: Duration) -> Vec<Output> {
        let until = self.now.mono + duration;
        let mut outputs = Vec::new();
        while let Some(due) = self.broker.poll_timeout().filter(|&due| due <= until) {
            self.now.mono = due.max(self.now.mono);
            outputs.extend(self.step(Input::Tick));
        }
        self.now.mono = until;
        outputs
    }

    pub fn stats(&self) -> &Stats {
        self.broker.stats()
    }

    /// A byte stream through a door that lets everybody in.
    pub fn arrive(&mut self) -> LinkId {
        self.arrive_through(true, None)
    }

    /// A byte stream through a door that asks for a password.
    pub fn arrive_at_locked_door(&mut self) -> LinkId {
        self.arrive_through(false, None)
    }

    pub fn arrive_through(&mut self, anonymous: bool, certificate_user: Option<&str>) -> LinkId {
        self.arrive_at(ListenerPolicy::new("door", anonymous), certificate_user)
    }

    /// A byte stream through a door that grants what `policy` says.
    pub fn arrive_at(&mut self, policy: ListenerPolicy, certificate_user: Option<&str>) -> LinkId {
        let (link, arrival) = self.arrival(policy, certificate_user, None);
        self.broker.handle(self.now, arrival);
        link
    }

    /// A byte stream that comes from `peer`, before the broker has heard of it.
    pub fn arrival(
        &mut self,
        policy: ListenerPolicy,
        certificate_user: Option<&str>,
        peer: Option<IpAddr>,
    ) -> (LinkId, Input) {
        let link = self.keys.insert(());
        let listener = Rc::new(policy);
        let certificate_user = certificate_user.map(text);
        let arrival = Input::Connected {
            link,
            listener,
            peer,
            certificate_user,
            certificate_client: None,
        };
        (link, arrival)
    }

    /// A client that is let in through a door that is mounted.
    pub fn join_at(&mut self, mount_point: &str, connect: Connect) -> LinkId {
        let policy = ListenerPolicy {
            mount_point: Some(MountPoint::parse(mount_point).expect("a mount point of the test")),
            ..ListenerPolicy::new("mounted", true)
        };
        let (link, outputs) = self.connect_at(policy, connect);
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        link
    }

    /// A client that is let in without a name, from `address`.
    pub fn join_from(&mut self, address: &str, connect: Connect) -> (LinkId, Vec<Output>) {
        let link = self.keys.insert(());
        let listener = Rc::new(ListenerPolicy::new("door", true));
        let peer = Some(address.parse().expect("an address of the test"));
        self.step(Input::Connected {
            link,
            listener,
            peer,
            certificate_user: None,
            certificate_client: None,
        });
        let outputs = self.receive(link, Packet::Connect(Box::new(connect)));
        (link, outputs)
    }

    /// A key no link of this house ever had.
    pub fn unknown_link(&mut self) -> LinkId {
        self.keys.insert(())
    }

    pub fn receive(&mut self, link: LinkId, packet: Packet) -> Vec<Output> {
        self.step(Input::Received { link, packet })
    }

    pub fn publish(&mut self, link: LinkId, publish: Publish) -> Vec<Output> {
        self.receive(link, Packet::Publish(publish))
    }

    pub fn flush(&mut self, link: LinkId) -> Vec<Output> {
        self.step(Input::Flushed { link })
    }

    pub fn close(&mut self, link: LinkId) -> Vec<Output> {
        self.step(Input::Closed { link })
    }

    pub fn verified(&mut self, link: LinkId, verdict: Verdict) -> Vec<Output> {
        self.step(Input::Verified { link, verdict })
    }

    /// CONNECT on a new link, whatever comes of it.
    pub fn connect(&mut self, connect: Connect) -> (LinkId, Vec<Output>) {
        let link = self.arrive();
        let outputs = self.receive(link, Packet::Connect(Box::new(connect)));
        (link, outputs)
    }

    /// CONNECT on a new link through a door that grants what `policy` says, whatever comes of it.
    pub fn connect_at(&mut self, policy: ListenerPolicy, connect: Connect) -> (LinkId, Vec<Output>) {
        let link = self.arrive_at(policy, None);
        let outputs = self.receive(link, Packet::Connect(Box::new(connect)));
        (link, outputs)
    }

    /// A client that is let in.
    pub fn join(&mut self, connect: Connect) -> LinkId {
        let (link, outputs) = self.connect(connect);
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        link
    }

    /// A client of a user with a password that is right.
    pub fn join_as(&mut self, user: &str, connect: Connect) -> LinkId {
        let link = self.knock(user, connect);
        let outputs = self.verified(link, Verdict::Allow);
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        link
    }

    /// CONNECT of a user through a door that asks for a password; the verdict is owed.
    pub fn knock(&mut self, user: &str, connect: Connect) -> LinkId {
        let link = self.arrive_at_locked_door();
        let connect = Connect {
            user_name: Some(text(user)),
            password: Some("secret".into()),
            ..connect
        };
        let outputs = self.receive(link, Packet::Connect(Box::new(connect)));
        assert!(matches!(outputs[..], [Output::Verify { .. }]), "{outputs:?}");
        link
    }

    /// CONNECT of a user with a password that is right, on a new link, whatever comes of it.
    pub fn connect_as(&mut self, user: &str, connect: Connect) -> (LinkId, Vec<Output>) {
        let link = self.arrive_at_locked_door();
        let outputs = self.log_in(user, link, connect);
        (link, outputs)
    }

    /// The same on a link that is there.
    pub fn log_in(&mut self, user: &str, link: LinkId, connect: Connect) -> Vec<Output> {
        let connect = Connect {
            user_name: Some(text(user)),
            password: Some("secret".into()),
            ..connect
        };
        self.receive(link, Packet::Connect(Box::new(connect)));
        self.verified(link, Verdict::Allow)
    }

    /// SUBSCRIBE to one filter; what was granted.
    pub fn subscribe(&mut self, link: LinkId, filter: &str, qos: QoS) -> ReasonCode {
        let outputs = self.receive(link, subscribe_packet(&[subscription(filter, qos)]));
        suback(&outputs, link)[0]
    }
}

/// Numbers as the payloads of messages that count.
pub fn texts(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

/// The client comes back and acknowledges all it is sent, whatever its quality; what that was.
pub fn drained(house: &mut House, name: &str) -> Vec<String> {
    let (link, outputs) = house.connect(resuming(V5, name));
    let came = drain(house, link, outputs);
    house.close(link);
    came.iter()
        .map(|publish| String::from_utf8_lossy(&publish.payload).into_owned())
        .collect()
}

/// Acknowledges whatever comes until nothing does; what that was.
pub fn drain(house: &mut House, link: LinkId, mut outputs: Vec<Output>) -> Vec<Publish> {
    let mut came = Vec::new();
    for _ in 0..100_000 {
        let new = messages(&outputs, link);
        if new.is_empty() {
            return came;
        }
        outputs = Vec::new();
        for publish in &new {
            let Some(packet_id) = publish.packet_id else {
                continue;
            };
            let number = packet_id.get();
            if publish.qos == QoS::ExactlyOnce {
                outputs.extend(house.receive(link, pubrec(number)));
                outputs.extend(house.receive(link, pubcomp(number)));
            } else {
                outputs.extend(house.receive(link, puback(number)));
            }
        }
        came.extend(new);
    }
    panic!("it comes to no end");
}

pub fn text(text: &str) -> Utf8String {
    Utf8String::try_from(text).expect("a string of the test")
}

pub fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).expect("a topic of the test")
}

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).expect("a filter of the test")
}

pub fn client_id(id: &str) -> ClientId {
    ClientId::new(text(id)).expect("an identifier of the test")
}

pub fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

/// CONNECT of a client that starts clean and asks for nothing special.
pub fn client(version: ProtocolVersion, id: &str) -> Connect {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: ClientId::new(text(id)),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// CONNECT of a client that resumes its session, which outlives its connection by an hour.
pub fn resuming(version: ProtocolVersion, id: &str) -> Connect {
    let session_expiry_secs = (version == V5).then_some(3600);
    let properties = ConnectProperties {
        session_expiry_secs,
        ..ConnectProperties::default()
    };
    Connect {
        clean_start: false,
        properties,
        ..client(version, id)
    }
}

pub fn will(topic_name: &str, payload: &str) -> Will {
    Will {
        topic: topic(topic_name),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: WillProperties::default(),
    }
}

/// PUBLISH at QoS 0.
pub fn message(topic_name: &str, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic(topic_name)),
        packet_id: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: None,
    }
}

/// PUBLISH at QoS 1.
pub fn message1(number: u16, topic_name: &str, payload: &str) -> Publish {
    Publish {
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(number)),
        ..message(topic_name, payload)
    }
}

/// PUBLISH at QoS 2.
pub fn message2(number: u16, topic_name: &str, payload: &str) -> Publish {
    Publish {
        qos: QoS::ExactlyOnce,
        packet_id: Some(id(number)),
        ..message(topic_name, payload)
    }
}

pub fn retained(publish: Publish) -> Publish {
    Publish {
        retain: true,
        ..publish
    }
}

pub fn repeated(publish: Publish) -> Publish {
    Publish { dup: true, ..publish }
}

/// A message of the gateway's own.
pub fn own(topic_name: &str, payload: &str, qos: QoS, retain: bool) -> Input {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Input::Publish(Message {
        topic: topic(topic_name),
        payload,
        qos,
        retain,
        properties: None,
    })
}

pub fn subscription(text: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: filter(text),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

pub fn subscribe_packet(subscriptions: &[Subscription]) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(1),
        subscriptions: subscriptions.into(),
        properties: SubscribeProperties::default(),
    }))
}

/// SUBSCRIBE with a Subscription Identifier.
pub fn subscribe_with_id(subscription: Subscription, subscription_id: u32) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(1),
        subscriptions: smallvec![subscription],
        properties: SubscribeProperties {
            subscription_id: Some(subscription_id),
            ..Default::default()
        },
    }))
}

pub fn unsubscribe_packet(filters: &[&str]) -> Packet {
    let filters = filters.iter().map(|text| filter(text)).collect();
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id(2),
        filters,
        user_properties: Vec::new(),
    }))
}

pub fn puback(number: u16) -> Packet {
    Packet::PubAck(Ack::success(id(number)))
}

pub fn pubrec(number: u16) -> Packet {
    Packet::PubRec(Ack::success(id(number)))
}

pub fn pubrel(number: u16) -> Packet {
    Packet::PubRel(Ack::success(id(number)))
}

pub fn pubcomp(number: u16) -> Packet {
    Packet::PubComp(Ack::success(id(number)))
}

pub fn puback_with(number: u16, reason: ReasonCode) -> Packet {
    Packet::PubAck(Ack::with_reason(id(number), reason))
}

pub fn pubrec_with(number: u16, reason: ReasonCode) -> Packet {
    Packet::PubRec(Ack::with_reason(id(number), reason))
}

pub fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Box::new(Disconnect {
        reason,
        ..Disconnect::default()
    }))
}

pub fn refusal(reason: ReasonCode) -> Packet {
    Packet::ConnAck(Box::new(ConnAck {
        reason,
        ..ConnAck::default()
    }))
}

pub fn send(link: LinkId, packet: Packet) -> Output {
    Output::Send { link, packet }
}

pub fn send_message(link: LinkId, publish: Publish) -> Output {
    Output::Send {
        link,
        packet: Packet::Publish(publish),
    }
}

pub fn close(link: LinkId) -> Output {
    Output::Close { link }
}

/// A denial of `action` with `topics` to one user, or with `None` to every client.
pub fn denial(user: Option<&str>, action: Action, topics: &str) -> Denial {
    Denial {
        identity: user.map(|name| Identity::User(text(name))),
        action,
        topics: filter(topics),
    }
}

/// A kick with nothing special about it.
pub fn kick(target: Target) -> Input {
    kick_with(0, target, KickOptions::default())
}

pub fn kick_with(number: u64, target: Target, options: KickOptions) -> Input {
    let id = KickId(number);
    Input::Kick(Box::new(Kick { id, target, options }))
}

/// Whoever has this client identifier.
pub fn known_as(id: &str) -> Target {
    Target::Client(client_id(id))
}

/// What kicks came to, in the order in which that was told.
pub fn kicked(outputs: &[Output]) -> Vec<KickOutcome> {
    (outputs.iter())
        .filter_map(|output| match output {
            Output::Kicked { outcome, .. } => Some(*outcome),
            _ => None,
        })
        .collect()
}

/// The outputs without the events.
pub fn acts(outputs: Vec<Output>) -> Vec<Output> {
    outputs
        .into_iter()
        .filter(|output| !matches!(output, Output::Event(_)))
        .collect()
}

pub fn events(outputs: &[Output]) -> Vec<&Event> {
    outputs
        .iter()
        .filter_map(|output| {
            if let Output::Event(event) = output {
                Some(event)
            } else {
                None
            }
        })
        .collect()
}

/// The packets sent on one link.
pub fn sent(outputs: &[Output], to: LinkId) -> Vec<&Packet> {
    (outputs.iter())
        .filter_map(|output| match output {
            Output::Send { link, packet } if *link == to => Some(packet),
            _ => None,
        })
        .collect()
}

/// The PUBLISH packets sent on one link.
pub fn messages(outputs: &[Output], to: LinkId) -> Vec<Publish> {
    (sent(outputs, to).into_iter())
        .filter_map(|packet| {
            if let Packet::Publish(publish) = packet {
                Some(publish.clone())
            } else {
                None
            }
        })
        .collect()
}

/// The payloads sent on one link, as text.
pub fn payloads(outputs: &[Output], to: LinkId) -> Vec<String> {
    (messages(outputs, to).iter())
        .map(|publish| String::from_utf8_lossy(&publish.payload).into_owned())
        .collect()
}

/// The CONNACK sent on one link.
pub fn connack(outputs: &[Output], to: LinkId) -> ConnAck {
    let found = sent(outputs, to).into_iter().find_map(|packet| match packet {
        Packet::ConnAck(connack) => Some((**connack).clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no CONNACK in {outputs:?}"))
}

/// The reason codes of the SUBACK sent on one link.
pub fn suback(outputs: &[Output], to: LinkId) -> Vec<ReasonCode> {
    let found = sent(outputs, to).into_iter().find_map(|packet| match packet {
        Packet::SubAck(suback) => Some(suback.reasons.to_vec()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no SUBACK in {outputs:?}"))
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
