//! The broker as a whole, without I/O: whatever several clients, an operator and the clock do in whatever order, the
//! state holds together after every step, each client is sent only what it can read, and in the end nothing is left.
//!
//! What clients say goes through the codec, so that the broker sees what it could see from a wire.

#![no_main]

#[path = "../../tests/conversation/mod.rs"]
mod conversation;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use conversation::anything::{self, Whims};
use conversation::judge::Judge;
use conversation::{House, Letters, V5, V311, client_id, filter, text, topic};
use libfuzzer_sys::fuzz_target;
use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Denial, Rights};
use tidegate::auth::acl::Effect;
use tidegate::auth::network::Network;
use tidegate::broker::{
    BanSubject, Input, KickOptions, KickedSession, KickedWill, Limits, LinkId, ListenerPolicy, Message,
    MountPoint, Output, Overflow, Pattern, QueueClass, QueueRule, Settings, Target, Verdict, Versions,
};
use tidegate::hooks::{DenialReason, Hook, Judgement, Proved};
use tidegate::mqtt::{
    Ack, AckProperties, Auth, AuthProperties, ClientId, Connect, ConnectProperties, Decoder, Disconnect,
    DisconnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscribeProperties, Subscription, Unsubscribe, Will, WillProperties, encode,
};

/// What one run does; numbers that choose from a list are taken modulo its length.
#[derive(Debug, Arbitrary)]
struct Script {
    limits: u8,
    /// Two bits for each of three clients that are there from the beginning: whether it is, and whether it reads all.
    /// One more says that no hook speaks an authentication method.
    residents: u8,
    /// What a hook says, over and over; without them there is none.
    whims: Option<[u8; 12]>,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Arrive {
        door: u8,
        certificate_user: Option<u8>,
        address: Option<u8>,
    },
    Join {
        hello: Hello,
    },
    Connect {
        at: u8,
        hello: Hello,
    },
    Publish {
        at: u8,
        message: Said,
    },
    Subscribe {
        at: u8,
        packet_id: u8,
        wishes: [Option<Wish>; 3],
        subscription_id: Option<u8>,
    },
    Unsubscribe {
        at: u8,
        packet_id: u8,
        filters: [u8; 2],
    },
    /// The oldest acknowledgement that is owed, or all of them.
    Answer {
        at: u8,
        all: bool,
        is_error: bool,
    },
    /// An acknowledgement that perhaps nobody waits for.
    Acknowledge {
        at: u8,
        kind: u8,
        packet_id: u8,
        reason: u8,
        tells: bool,
    },
    Ping {
        at: u8,
    },
    Disconnect {
        at: u8,
        reason: u8,
        expiry_secs: Option<u32>,
    },
    Prove {
        at: u8,
        reason: u8,
        method: u8,
        data: Option<u8>,
    },
    Bytes {
        at: u8,
        bytes: Vec<u8>,
    },
    Verdict {
        at: u8,
        verdict: u8,
    },
    Judge {
        at: u8,
        answer: u8,
        user: u8,
    },
    Flushed {
        at: u8,
    },
    AllFlushed,
    Closed {
        at: u8,
    },
    /// Something of a link that has ended already.
    Stale {
        at: u8,
        kind: u8,
    },
    Kick {
        client: u8,
        target: u8,
        options: u8,
    },
    Unban {
        client: u8,
        subject: u8,
    },
    /// The hook answers one of the questions it was asked, or forgets it.
    Reply {
        which: u8,
        verdict: u8,
    },
    Own {
        message: Said,
    },
    Rights {
        denials: [Option<(u8, u8, u8)>; 2],
    },
    Rules {
        allows_the_rest: bool,
        rules: [Option<[u8; 4]>; 3],
    },
    /// The clock goes on, with a tick at every deadline.
    Wait {
        pause: u8,
    },
    /// The clock goes on, and whoever ticks comes late or not at all.
    Oversleep {
        pause: u8,
        tick: bool,
    },
    Shutdown,
}

#[derive(Debug, Arbitrary)]
struct Hello {
    version: u8,
    client: u8,
    clean_start: bool,
    keep_alive_secs: u8,
    user: Option<u8>,
    has_password: bool,
    will: Option<LastWords>,
    more: Option<More>,
}

#[derive(Debug, Arbitrary)]
struct LastWords {
    delay_secs: Option<u16>,
    message: Said,
}

/// What only 5.0 can say.
#[derive(Debug, Arbitrary)]
struct More {
    expiry_secs: Option<u32>,
    receive_maximum: Option<u8>,
    packet_bytes_max: Option<u16>,
    topic_alias_maximum: Option<u8>,
    request_response_information: Option<bool>,
    request_problem_information: Option<bool>,
    method: Option<u8>,
}

#[derive(Debug, Arbitrary)]
struct Said {
    topic: u8,
    qos: u8,
    retain: bool,
    dup: bool,
    packet_id: u8,
    payload_bytes: u8,
    more: Option<SaidMore>,
}

/// What only 5.0 can say.
#[derive(Debug, Arbitrary)]
struct SaidMore {
    topic_alias: Option<u8>,
    by_alias_only: bool,
    expiry_secs: Option<u16>,
    response_topic: Option<u8>,
    payload_is_utf8: Option<bool>,
    user_properties: u8,
}

#[derive(Debug, Arbitrary)]
struct Wish {
    filter: u8,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    retain_handling: u8,
}

/// One client at its end of a link.
struct Peer {
    link: LinkId,
    version: ProtocolVersion,
    /// The gateway's end.
    decoder: Decoder,
    owed: VecDeque<Packet>,
}

struct World {
    house: House,
    judge: Judge,
    whims: Option<Whims>,
    letters: Arc<Letters>,
    peers: Vec<Peer>,
    gone: Vec<LinkId>,
}

const STEPS_MAX: usize = 200;
const PEERS_MAX: usize = 10;
const VERSIONS: [ProtocolVersion; 4] = [
    ProtocolVersion::V5,
    ProtocolVersion::V311,
    ProtocolVersion::V31,
    ProtocolVersion::V5,
];
const CLIENTS: [&str; 7] = [
    "ann",
    "bill",
    "carl",
    "+/#",
    "$SYS",
    "longer than 23 characters",
    "eve",
];
const USERS: [&str; 4] = ["ann", "bill", "+/#", "anonymous"];
const METHODS: [&str; 3] = ["METHOD", "METHOD", "OTHER"];
const TOPICS: [&str; 14] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "b/c",
    "$SYS/a",
    "a//c",
    "/",
    "site/temperature",
    "site/m/pressure",
    "site/$SYS/a",
    "$SYS/broker/connection/x/state",
    "1/2/3/4/5/6/7/8/9",
    "a topic that is longer than the limit on topics is, which counts sixty-four bytes",
];
const FILTERS: [&str; 18] = [
    "#",
    "a/#",
    "+/b",
    "a/+/c",
    "b",
    "+",
    "a",
    "$SYS/#",
    "$share/g/a/#",
    "$share/h/#",
    "$share/g/+/b",
    "a/b/c",
    "+/+/#",
    "/",
    "/+",
    "site/#",
    "1/2/3/4/5/6/7/8/9/#",
    "$share/g/$SYS/#",
];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const PAUSES_MS: [u64; 8] = [0, 1, 100, 2_000, 20_000, 100_000, 600_000, 86_400_000];
const RETAIN_HANDLINGS: [RetainHandling; 3] = [
    RetainHandling::Send,
    RetainHandling::SendIfNew,
    RetainHandling::DoNotSend,
];
const ACK_REASONS: [ReasonCode; 4] = [
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::PacketIdentifierNotFound,
];
const FAREWELLS: [ReasonCode; 3] = [
    ReasonCode::Success,
    ReasonCode::DisconnectWithWillMessage,
    ReasonCode::UnspecifiedError,
];
const AUTH_REASONS: [ReasonCode; 3] = [
    ReasonCode::ContinueAuthentication,
    ReasonCode::Reauthenticate,
    ReasonCode::Success,
];

fn kick(client: u8, target: u8, options: u8) -> Input {
    let name = of(&CLIENTS, client);
    let target = match target % 10 {
        0 => Target::Everyone,
        1 => Target::Listener("door".into()),
        2 => Target::User(text(of(&USERS, client))),
        3 => Target::Pattern(Pattern::parse("*?").expect("a pattern")),
        4 => Target::Address(address(client)),
        5 => Target::Network(Network::around(address(client), 30)),
        _ => Target::Client(client_id(name)),
    };
    let options = KickOptions {
        will: [KickedWill::Publish, KickedWill::Discard][usize::from(options & 1)],
        session: [KickedSession::Keep, KickedSession::Purge][usize::from(options >> 1 & 1)],
        keep_out: (options & 0x1C == 0).then(|| Duration::from_secs(u64::from(options >> 5))),
        ..KickOptions::default()
    };
    conversation::kick_with(0, target, options)
}

/// Few of them, in two networks.
fn address(number: u8) -> IpAddr {
    [10, 0, 0, number % 8].into()
}

fn of<T: Copy>(choices: &[T], number: u8) -> T {
    choices[usize::from(number) % choices.len()]
}

/// Few of them, so that they meet.
fn packet_id(number: u8) -> PacketId {
    conversation::id(u16::from(number % 6) + 1)
}

fuzz_target!(|script: Script| {
    let mut world = World::new(script.limits, script.residents & 0x40 == 0, script.whims);
    world.settle(script.residents);
    for step in script.steps.into_iter().take(STEPS_MAX) {
        world.take(step);
    }
    world.end();
});

impl World {
    fn new(choice: u8, proves: bool, whims: Option<[u8; 12]>) -> Self {
        let bit = |bit: u8| choice & 1 << bit != 0;
        let limits = Limits {
            connections_max: 8,
            topic_bytes_max: 64,
            topic_levels_max: 8,
            subscriptions_per_client_max: 5,
            subscriptions_max: 12,
            user_properties_max: 2,
            will_bytes_max: 200,
            packet_bytes_max: 2048,
            inflight_max: if bit(0) { 1 } else { 4 },
            receive_maximum: if bit(1) { 1 } else { 4 },
            topic_alias_maximum: 2,
            queue_class: QueueClass::N16,
            queue_bytes_max: if bit(2) { 300 } else { 2000 },
            queue_overflow: match (bit(3), bit(6)) {
                (true, true) => Overflow::DropOldest,
                (false, true) => Overflow::DropNewest,
                (true, false) => Overflow::Reject,
                (false, false) => Overflow::Disconnect,
            },
            queue_qos0: bit(1),
            publish_wait_max: Duration::from_secs(5),
            queued_bytes_total_max: if bit(4) { 800 } else { 5000 },
            unsent_bytes_max: if bit(5) { 200 } else { 2000 },
            sessions_max: if bit(6) { 3 } else { 6 },
            session_expiry_max: Duration::from_secs(500),
            retained_max: 5,
            retained_bytes_max: 300,
            retained_per_user_max: 3,
            retained_bytes_per_user_max: 200,
            publish_rate_max: if bit(7) { 5 } else { 1000 },
            kicks_per_tick_max: if bit(7) { 1 } else { 64 },
            bans_max: 2,
            ..Limits::default()
        };
        let settings = Settings {
            takes_tokens: false,
            server_reference: Some(text("other.example")),
            response_information: Some(topic("replies")),
            check_payload_format: true,
            queue_rules: vec![QueueRule {
                topics: vec![filter("a/#")],
                overflow: Some(Overflow::Reject),
                ..QueueRule::default()
            }],
            loss_property: bit(2).then(|| text("lost")),
        };
        let judge = Judge::of(&["METHOD"]);
        let whims = whims.map(|bytes| {
            let mut bytes = bytes.into_iter().cycle();
            // A panic would be the end of the fuzzer.
            Whims::new(Whims::all(), false, move || bytes.next().unwrap_or(Whims::NONE))
        });
        let mut hooks = Vec::from_iter(proves.then(|| -> Box<dyn Hook> { Box::new(judge.clone()) }));
        hooks.extend(
            whims
                .iter()
                .map(|whims| -> Box<dyn Hook> { Box::new(whims.clone()) }),
        );
        let (house, letters) = House::within(limits).decided(settings).asking(hooks);
        Self {
            house,
            judge,
            whims,
            letters,
            peers: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Lets clients in, so that not every script has to find out how that is done.
    fn settle(&mut self, residents: u8) {
        for (number, (version, name)) in [(V5, "ann"), (V311, "bill"), (V5, "carl")]
            .into_iter()
            .enumerate()
        {
            let bits = residents >> (2 * number);
            let Some(at) = (bits & 1 != 0).then(|| self.arrive(0, None, None)).flatten() else {
                continue;
            };
            self.say(
                at,
                &Packet::Connect(Box::new(conversation::resuming(version, name))),
            );
            if bits & 2 != 0 {
                let everything = conversation::subscription("#", of(&QUALITIES, number as u8 + 1));
                self.say(at, &conversation::subscribe_packet(&[everything]));
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive {
                door,
                certificate_user,
                address,
            } => {
                self.arrive(door, certificate_user, address);
            }
            Step::Join { hello } => {
                if let Some(at) = self.arrive(0, None, None) {
                    self.say(at, &hello.packet());
                }
            }
            Step::Connect { at, hello } => self.say(at, &hello.packet()),
            Step::Publish { at, message } => self.say(at, &Packet::Publish(message.publish())),
            Step::Subscribe {
                at,
                packet_id: id,
                wishes,
                subscription_id,
            } => {
                let wishes = wishes.into_iter().flatten();
                self.say(
                    at,
                    &Packet::Subscribe(Box::new(Subscribe {
                        packet_id: packet_id(id),
                        subscriptions: wishes.map(|wish| wish.subscription()).collect(),
                        properties: SubscribeProperties {
                            subscription_id: subscription_id.map(|id| u32::from(id) + 1),
                            ..SubscribeProperties::default()
                        },
                    })),
                );
            }
            Step::Unsubscribe {
                at,
                packet_id: id,
                filters,
            } => {
                let packet = Unsubscribe {
                    packet_id: packet_id(id),
                    filters: filters
                        .into_iter()
                        .map(|number| filter(of(&FILTERS, number)))
                        .collect(),
                    user_properties: Vec::new(),
                };
                self.say(at, &Packet::Unsubscribe(Box::new(packet)));
            }
            Step::Answer { at, all, is_error } => self.answer(at, all, is_error),
            Step::Acknowledge {
                at,
                kind,
                packet_id: id,
                reason,
                tells,
            } => {
                let ack = Ack {
                    packet_id: packet_id(id),
                    reason: of(&ACK_REASONS, reason),
                    properties: tells.then(|| {
                        Box::new(AckProperties {
                            reason_string: Some(text("why")),
                            ..AckProperties::default()
                        })
                    }),
                };
                let wraps: [fn(Ack) -> Packet; 4] =
                    [Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp];
                let wrap = of(&wraps, kind);
                self.say(at, &wrap(ack));
            }
            Step::Ping { at } => self.say(at, &Packet::PingReq),
            Step::Disconnect {
                at,
                reason,
                expiry_secs,
            } => {
                let properties = DisconnectProperties {
                    session_expiry_secs: expiry_secs,
                    ..DisconnectProperties::default()
                };
                let reason = of(&FAREWELLS, reason);
                self.say(
                    at,
                    &Packet::Disconnect(Box::new(Disconnect { reason, properties })),
                );
            }
            Step::Prove {
                at,
                reason,
                method,
                data,
            } => {
                let properties = AuthProperties {
                    authentication_method: Some(text(of(&METHODS, method))),
                    authentication_data: data.map(|byte| Bytes::from(vec![byte])),
                    ..AuthProperties::default()
                };
                let reason = of(&AUTH_REASONS, reason);
                self.say(at, &Packet::Auth(Box::new(Auth { reason, properties })));
            }
            Step::Bytes { at, bytes } => self.send(at, bytes.into()),
            Step::Verdict { at, verdict } => {
                let verdict = of(
                    &[
                        Verdict::Allow,
                        Verdict::Allow,
                        Verdict::Deny,
                        Verdict::NoUsers,
                        Verdict::Unavailable,
                    ],
                    verdict,
                );
                self.step_at(at, |link| Input::Verified { link, verdict });
            }
            Step::Judge { at, answer, user } => {
                let data = Some(Bytes::from_static(b"proof"));
                let judgement = match answer % 6 {
                    0 => Judgement::Deny(DenialReason::default()),
                    1 => Judgement::Unavailable,
                    2 => Judgement::Continue { data },
                    answer => Judgement::Allow(Box::new(Proved {
                        user: Some(text(of(&USERS, user))),
                        expires_at: (answer == 5).then(|| self.house.now.mono + Duration::from_secs(30)),
                        data,
                        ..Proved::default()
                    })),
                };
                self.judge.give_nth(usize::from(at), judgement);
                let outputs = self.house.take_answers(&self.letters);
                self.see(outputs);
                let connections = usize::try_from(self.house.stats().links).expect("few");
                assert!(
                    self.judge.open() <= connections,
                    "an exchange outlived its connection"
                );
            }
            Step::Flushed { at } => self.step_at(at, |link| Input::Flushed { link }),
            Step::AllFlushed => {
                let links: Vec<_> = self.peers.iter().map(|peer| peer.link).collect();
                for link in links {
                    self.step(Input::Flushed { link });
                }
            }
            Step::Closed { at } => self.close(at),
            Step::Stale { at, kind } => self.say_too_late(at, kind),
            Step::Kick {
                client,
                target,
                options,
            } => self.step(kick(client, target, options)),
            Step::Unban { client, subject } => self.step(Input::Unban {
                subject: match subject % 4 {
                    0 => BanSubject::User(text(of(&USERS, client))),
                    1 => BanSubject::Network(Network::of(address(client))),
                    2 => BanSubject::Network(Network::around(address(client), 30)),
                    _ => BanSubject::Client(client_id(of(&CLIENTS, client))),
                },
            }),
            Step::Reply { which, verdict } => {
                if let Some(whims) = &self.whims {
                    whims.answer(which, anything::verdict(verdict));
                    let outputs = self.house.take_answers(&self.letters);
                    self.see(outputs);
                }
            }
            Step::Own { message } => self.step(Input::Publish(message.message())),
            Step::Rights { denials } => {
                let denials = denials
                    .into_iter()
                    .flatten()
                    .map(|(whom, action, topics)| Denial {
                        identity: (whom % 4 > 0).then(|| Identity::User(text(of(&USERS, whom)))),
                        action: of(&[Action::Publish, Action::Subscribe, Action::Receive], action),
                        topics: filter(of(&["a/#", "b", "#", "site/#", "$SYS/#"], topics)),
                    });
                self.step(Input::RightsChanged(Rights::denying(denials.collect())));
            }
            Step::Rules {
                allows_the_rest,
                rules,
            } => {
                let otherwise = if allows_the_rest {
                    Effect::Allow
                } else {
                    Effect::Deny
                };
                let rules: Vec<_> = rules.into_iter().flatten().collect();
                self.step(Input::RightsChanged(anything::rights(otherwise, &rules)));
            }
            Step::Wait { pause } => {
                let outputs = self.house.wait(Duration::from_millis(of(&PAUSES_MS, pause)));
                self.see(outputs);
            }
            Step::Oversleep { pause, tick } => {
                self.house.now.mono += Duration::from_millis(of(&PAUSES_MS, pause));
                if tick {
                    self.step(Input::Tick);
                }
            }
            Step::Shutdown => self.step(Input::Shutdown),
        }
    }

    /// A byte stream through one of the doors; which peer it is.
    fn arrive(&mut self, door: u8, certificate_user: Option<u8>, from: Option<u8>) -> Option<u8> {
        if self.peers.len() >= PEERS_MAX {
            return None;
        }
        let open = ListenerPolicy::new("open", true);
        let policy = match door % 4 {
            0 => open,
            1 => ListenerPolicy::new("locked", false),
            2 => ListenerPolicy {
                mount_point: MountPoint::parse("site").ok(),
                ..open
            },
            _ => ListenerPolicy {
                versions: Versions::NONE
                    .with(ProtocolVersion::V31)
                    .with(ProtocolVersion::V5),
                packet_bytes_max: Some(100),
                keep_alive_max_secs: Some(10),
                receive_maximum: Some(1),
                topic_alias_maximum: Some(0),
                session_expiry_max: Some(Duration::from_secs(5)),
                strict_client_ids: true,
                ..open
            },
        };
        let packet_bytes_max = policy.packet_bytes_max(self.house.broker.limits());
        let certificate_user = certificate_user.map(|user| of(&USERS, user));
        let (link, arrival) = self.house.arrival(policy, certificate_user, from.map(address));
        self.peers.push(Peer {
            link,
            version: ProtocolVersion::V5,
            decoder: Decoder::server(packet_bytes_max),
            owed: VecDeque::new(),
        });
        let at = u8::try_from(self.peers.len() - 1).ok();
        self.step(arrival);
        self.step(Input::Flushed { link });
        at.filter(|_| self.peers.last().is_some_and(|peer| peer.link == link))
    }

    fn index(&self, at: u8) -> Option<usize> {
        usize::from(at).checked_rem(self.peers.len())
    }

    fn say(&mut self, at: u8, packet: &Packet) {
        let Some(peer) = self.index(at).and_then(|at| self.peers.get_mut(at)) else {
            return;
        };
        if let Packet::Connect(connect) = packet {
            peer.version = connect.version;
        }
        let mut bytes = BytesMut::new();
        encode(packet, peer.version, &mut bytes);
        self.send(at, bytes.freeze());
    }

    /// Bytes of a client, as far as its link lives.
    fn send(&mut self, at: u8, bytes: Bytes) {
        let Some(index) = self.index(at) else {
            return;
        };
        let link = self.peers[index].link;
        self.peers[index].decoder.feed(bytes);
        while let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) {
            match peer.decoder.poll_packet() {
                Ok(Some(packet)) => self.step(Input::Received { link, packet }),
                Ok(None) => return,
                Err(error) => {
                    let version = peer.decoder.version();
                    self.step(Input::Malformed { link, version, error });
                    assert!(self.gone.contains(&link), "{error:?} leaves the link open");
                }
            }
        }
    }

    fn answer(&mut self, at: u8, all: bool, is_error: bool) {
        let Some(peer) = self.index(at).and_then(|at| self.peers.get_mut(at)) else {
            return;
        };
        let link = peer.link;
        let count = if all { peer.owed.len() } else { 1 };
        for _ in 0..count {
            let Some(at) = self.peers.iter().position(|peer| peer.link == link) else {
                return;
            };
            let Some(mut packet) = self.peers[at].owed.pop_front() else {
                return;
            };
            if let (true, Packet::PubAck(ack) | Packet::PubRec(ack)) = (is_error, &mut packet) {
                ack.reason = ReasonCode::UnspecifiedError;
            }
            self.say(u8::try_from(at).unwrap_or(0), &packet);
        }
    }

    fn close(&mut self, at: u8) {
        if let Some(index) = self.index(at) {
            let link = self.peers.remove(index).link;
            self.gone.push(link);
            self.step(Input::Closed { link });
        }
    }

    fn say_too_late(&mut self, at: u8, kind: u8) {
        let Some(&link) = usize::from(at)
            .checked_rem(self.gone.len())
            .and_then(|at| self.gone.get(at))
        else {
            return;
        };
        self.step(match kind % 5 {
            0 => Input::Flushed { link },
            1 => Input::Closed { link },
            2 => Input::Verified {
                link,
                verdict: Verdict::Allow,
            },
            3 => Input::Holding { link, bytes: 1 },
            _ => Input::Received {
                link,
                packet: Packet::PingReq,
            },
        });
    }

    fn step_at(&mut self, at: u8, input: impl FnOnce(LinkId) -> Input) {
        if let Some(index) = self.index(at) {
            self.step(input(self.peers[index].link));
        }
    }

    fn step(&mut self, input: Input) {
        let outputs = self.house.step(input);
        self.see(outputs);
    }

    fn see(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { link, packet } => {
                    let peer = self.peers.iter_mut().find(|peer| peer.link == link);
                    let peer = peer.expect("nothing is sent on a link that has ended");
                    peer.owed.extend(answer_to(&packet));
                }
                Output::Close { link } => {
                    let at = self.peers.iter().position(|peer| peer.link == link);
                    self.peers.remove(at.expect("a link is closed once"));
                    self.gone.push(link);
                }
                Output::Verify { link, .. } => {
                    assert!(
                        self.peers.iter().any(|peer| peer.link == link),
                        "asked for a link that ended"
                    );
                }
                Output::SendToEach { .. }
                | Output::Pause { .. }
                | Output::Resume { .. }
                | Output::Kicked { .. }
                | Output::Store(_)
                | Output::Recall(_)
                | Output::Event(_) => {}
            }
        }
    }

    /// Everybody leaves, and nobody comes back.
    fn end(mut self) {
        while !self.peers.is_empty() {
            self.close(0);
        }
        let outputs = self.house.wait(Duration::from_secs(1_000_000));
        self.see(outputs);
        let stats = self.house.stats();
        let left = [
            stats.links,
            stats.clients_connected,
            stats.sessions,
            stats.subscriptions,
            stats.queued_messages,
            stats.inflight_messages,
            stats.queued_bytes,
        ];
        assert_eq!(left, [0; 7], "something is left of those who went");
        assert_eq!(self.house.broker.poll_timeout(), None, "a deadline of nobody");
    }
}

/// What a client that keeps to the standard says to a packet.
fn answer_to(packet: &Packet) -> Option<Packet> {
    match packet {
        Packet::Publish(publish) => {
            let ack = Ack::success(publish.packet_id?);
            Some(match publish.qos {
                QoS::ExactlyOnce => Packet::PubRec(ack),
                _ => Packet::PubAck(ack),
            })
        }
        Packet::PubRec(ack) if !ack.reason.is_error() => Some(Packet::PubRel(Ack::success(ack.packet_id))),
        Packet::PubRel(ack) => Some(Packet::PubComp(Ack::success(ack.packet_id))),
        _ => None,
    }
}

impl Hello {
    fn packet(self) -> Packet {
        let version = of(&VERSIONS, self.version);
        let properties = self
            .more
            .map_or_else(ConnectProperties::default, |more| ConnectProperties {
                session_expiry_secs: more.expiry_secs,
                receive_maximum: more.receive_maximum.map(|maximum| u16::from(maximum % 8) + 1),
                packet_bytes_max: more.packet_bytes_max.map(|bytes| u32::from(bytes % 2048) + 1),
                topic_alias_maximum: more.topic_alias_maximum.map(u16::from),
                request_response_information: more.request_response_information,
                request_problem_information: more.request_problem_information,
                user_properties: Vec::new(),
                authentication_method: more.method.map(|method| text(of(&METHODS, method))),
                authentication_data: None,
            });
        Packet::Connect(Box::new(Connect {
            version,
            bridge: self.client & 0x80 != 0,
            clean_start: self.clean_start,
            keep_alive_secs: self.keep_alive_secs.into(),
            client_id: ClientId::new(text(of(&CLIENTS, self.client))).filter(|_| self.client & 0x40 == 0),
            will: self.will.map(LastWords::will),
            password: (self.has_password && self.user.is_some()).then(|| Bytes::from_static(b"secret")),
            user_name: self.user.map(|user| text(of(&USERS, user))),
            properties,
        }))
    }
}

impl LastWords {
    fn will(self) -> Will {
        let Message {
            topic,
            payload,
            qos,
            retain,
            properties,
        } = self.message.message();
        let publish = properties.map_or_else(PublishProperties::default, |properties| *properties);
        Will {
            topic,
            payload,
            qos,
            retain,
            properties: WillProperties {
                delay_secs: self.delay_secs.map(u32::from),
                publish,
            },
        }
    }
}

impl Said {
    fn publish(self) -> Publish {
        let qos = of(&QUALITIES, self.qos);
        let alias = self.more.as_ref().and_then(|more| more.topic_alias);
        let by_alias_only = self.more.as_ref().is_some_and(|more| more.by_alias_only);
        let (dup, id) = (self.dup && qos != QoS::AtMostOnce, packet_id(self.packet_id));
        let Message {
            topic,
            payload,
            retain,
            properties,
            ..
        } = self.message();
        let properties = properties.map(|mut properties| {
            properties.topic_alias = alias.map(|alias| u16::from(alias % 4) + 1);
            properties
        });
        Publish {
            dup,
            qos,
            retain,
            topic: (!by_alias_only || alias.is_none()).then_some(topic),
            packet_id: (qos != QoS::AtMostOnce).then_some(id),
            payload,
            properties,
        }
    }

    fn message(self) -> Message {
        let properties = self.more.map(|more| {
            let user_property = (text("name"), text("value"));
            Box::new(PublishProperties {
                payload_is_utf8: more.payload_is_utf8,
                message_expiry_secs: more.expiry_secs.map(u32::from),
                response_topic: more.response_topic.map(|number| topic(of(&TOPICS, number))),
                user_properties: vec![user_property; usize::from(more.user_properties % 4)],
                ..PublishProperties::default()
            })
        });
        Message {
            topic: topic(of(&TOPICS, self.topic)),
            payload: Bytes::from(vec![self.payload_bytes; usize::from(self.payload_bytes)]),
            qos: of(&QUALITIES, self.qos),
            retain: self.retain,
            properties,
        }
    }
}

impl Wish {
    fn subscription(self) -> Subscription {
        Subscription {
            filter: filter(of(&FILTERS, self.filter)),
            qos: of(&QUALITIES, self.qos),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: of(&RETAIN_HANDLINGS, self.retain_handling),
        }
    }
}
