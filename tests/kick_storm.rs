//! Kicks from many threads at once, against clients that never rest: nothing breaks, everybody is answered, and nothing
//! is left behind.

mod conversation;
mod running;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use conversation::House;
use conversation::chance::Chance;
use tidegate::auth::passwords::{Cost, Users, hash, with_line};
use tidegate::broker::{
    Found, Input, KickOptions, KickQueueClass, KickedSession, KickedWill, Limits, LinkId, Output, Pattern,
    Target, Verdict,
};
use tidegate::kick::{Asked, KickError, KickHandle, KickQueue, Ticket, queue};
use tidegate::mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};

use tokio::sync::Notify;

use running::{Doors, Peer, settings, with_gateway};

const THREADS: usize = 8;
const KICKS: u64 = 100_000;
const CLIENTS: usize = 64;
const USERS: usize = 8;

/// Tickets one thread holds before it waits for the oldest.
const TICKETS_MAX: usize = 4096;

fn client_name(number: usize) -> String {
    format!("client-{number}")
}

fn user_name(number: usize) -> String {
    format!("user-{}", number % USERS)
}

/// What became of one thread's kicks.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    answered: u64,
    dropped: u64,
    full: u64,
    kicked: u64,
}

/// Asks for kicks until all are asked for, and sees that each is answered, or refused at once.
fn ask_for_kicks(handle: &KickHandle, seed: u64) -> Tally {
    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    let mut tickets: VecDeque<Ticket> = VecDeque::new();
    let take = |ticket: Ticket, tally: &mut Tally| {
        let outcome = ticket.wait().expect("the queue is open");
        tally.answered += 1;
        tally.kicked += u64::from(outcome.found() == Found::Online);
    };
    for _ in 0..KICKS {
        let number = chance.below(CLIENTS + 4);
        let target = match chance.below(1000) {
            0 => Target::User(conversation::text(&user_name(number))),
            1 => Target::Pattern(Pattern::parse(&format!("client-?{}", number % 10)).expect("a pattern")),
            2 => Target::Address([127, 0, 0, 1].into()),
            3 => Target::Everyone,
            _ => conversation::known_as(&client_name(number)),
        };
        let options = KickOptions {
            will: chance.of(&[KickedWill::Publish, KickedWill::Discard]),
            session: chance.of(&[KickedSession::Keep, KickedSession::Purge]),
            ..KickOptions::default()
        };
        match handle.kick(target, options) {
            Ok(ticket) if chance.one_in(5) => {
                drop(ticket);
                tally.dropped += 1;
            }
            Ok(ticket) => tickets.push_back(ticket),
            Err(KickError::Full) => {
                tally.full += 1;
                thread::yield_now();
            }
            Err(error) => panic!("expected an outcome, found {error}"),
        }
        if tickets.len() > TICKETS_MAX
            && let Some(ticket) = tickets.pop_front()
        {
            take(ticket, &mut tally);
        }
    }
    for ticket in tickets {
        take(ticket, &mut tally);
    }
    tally
}

/// All the threads.
struct Storm {
    threads: Vec<thread::JoinHandle<Tally>>,
    asking: Arc<AtomicUsize>,
    /// Told when the last of them has its last answer.
    over: Arc<Notify>,
}

impl Storm {
    fn begin(handle: &KickHandle) -> Self {
        let asking = Arc::new(AtomicUsize::new(THREADS));
        let over = Arc::new(Notify::new());
        let threads = (0..THREADS as u64).map(|seed| {
            let (handle, asking, over) = (handle.clone(), asking.clone(), over.clone());
            thread::spawn(move || {
                let tally = ask_for_kicks(&handle, seed);
                if asking.fetch_sub(1, Ordering::Relaxed) == 1 {
                    over.notify_one();
                }
                tally
            })
        });
        let threads = threads.collect();
        Self {
            threads,
            asking,
            over,
        }
    }

    fn is_over(&self) -> bool {
        self.asking.load(Ordering::Relaxed) == 0
    }

    /// Sees that every kick of the storm was answered, and of `others` that came after.
    fn assert_all_answered(self, handle: &KickHandle, others: u64) {
        let mut kicked = 0;
        let mut full = 0;
        for thread in self.threads {
            let tally = thread.join().expect("no thread panicked");
            assert_eq!(tally.answered + tally.dropped + tally.full, KICKS, "{tally:?}");
            kicked += tally.kicked;
            full += tally.full;
        }
        let counts = handle.counts();
        assert_eq!(
            counts.asked + counts.refused_full,
            KICKS * THREADS as u64 + others
        );
        assert_eq!((counts.refused_full, counts.waiting), (full, 0));
        assert!(counts.joined > 0 && kicked > 0, "{counts:?}, {kicked} kicked");
    }
}

fn limits() -> Limits {
    Limits {
        kick_gap_min: Duration::from_millis(1),
        kick_queue_class: KickQueueClass::N64,
        ..Limits::default()
    }
}

/// A broker, its restless clients, and the queue of kicks between them and the threads.
struct Yard {
    house: House,
    queue: KickQueue,
    chance: Chance,
    /// The connection each client has, as far as it knows.
    links: Vec<Option<LinkId>>,
    /// Whether the verdict on its password is owed.
    knocking: Vec<bool>,
}

impl Yard {
    /// One of the clients does something.
    fn stir(&mut self) {
        let number = self.chance.below(CLIENTS);
        let name = client_name(number);
        let outputs = match self.links[number] {
            None => {
                let connect = Connect {
                    user_name: Some(conversation::text(&user_name(number))),
                    password: Some("secret".into()),
                    will: Some(conversation::will("will", &name)),
                    ..conversation::resuming([conversation::V5, conversation::V311][number % 2], &name)
                };
                let link = self.house.arrive_at_locked_door();
                self.links[number] = Some(link);
                self.knocking[number] = true;
                self.house.receive(link, Packet::Connect(Box::new(connect)))
            }
            Some(link) if self.knocking[number] => {
                self.knocking[number] = false;
                self.house.verified(link, Verdict::Allow)
            }
            Some(link) => match self.chance.below(8) {
                0 => {
                    self.links[number] = None;
                    self.house.close(link)
                }
                1 => {
                    // Its next connection takes this one over.
                    self.links[number] = None;
                    Vec::new()
                }
                2 => {
                    let filter = conversation::subscription("t/#", QoS::AtLeastOnce);
                    let packet = conversation::subscribe_packet(&[filter]);
                    self.house.receive(link, packet)
                }
                3 => self.house.flush(link),
                _ => {
                    let topic = format!("t/{number}");
                    self.house
                        .publish(link, conversation::message1(1, &topic, "busy"))
                }
            },
        };
        self.see(&outputs);
    }

    /// Gives the broker what was asked for meanwhile, as the loop does in its tick.
    fn tick(&mut self) {
        let outputs = self.house.wait(Duration::from_millis(1));
        self.see(&outputs);
        while self.house.broker.kicks_taken_at(self.house.now.mono).is_none() {
            let outputs = match self.queue.next(Waker::noop()) {
                Some(Asked::Kick(kick)) => self.house.step(Input::Kick(Box::new(kick))),
                Some(Asked::Unban(subject)) => self.house.step(Input::Unban { subject }),
                None => break,
            };
            self.see(&outputs);
        }
    }

    fn see(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Kicked { id, outcome } => {
                    assert!(
                        self.queue.answer(*id, *outcome).is_some(),
                        "a kick is answered once"
                    );
                }
                Output::Close { link } => {
                    if let Some(at) = self.links.iter().position(|known| *known == Some(*link)) {
                        self.links[at] = None;
                        self.knocking[at] = false;
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn eight_threads_kick_the_clients_of_a_broker_whose_whole_state_is_looked_at_after_every_step() {
    let (handle, queue) = queue(&limits());
    let mut yard = Yard {
        house: House::within(limits()),
        queue,
        chance: Chance(1),
        links: vec![None; CLIENTS],
        knocking: vec![false; CLIENTS],
    };
    let empty = yard.house.broker.memory_bytes();
    let storm = Storm::begin(&handle);
    while !storm.is_over() || handle.counts().waiting > 0 {
        for _ in 0..CLIENTS / 4 {
            yard.stir();
        }
        yard.tick();
    }
    storm.assert_all_answered(&handle, 0);
    let stats = yard.house.stats();
    assert!(stats.clients_kicked > 1000 && stats.takeovers > 0, "{stats:?}");

    let purge = KickOptions {
        session: KickedSession::Purge,
        ..KickOptions::default()
    };
    yard.house
        .step(conversation::kick_with(u64::MAX, Target::Everyone, purge));
    // Links nobody attached, whose time to say CONNECT is over, and slices of what was asked last.
    yard.house.wait(Duration::from_secs(60));
    let stats = yard.house.stats();
    assert_eq!(
        (stats.links, stats.sessions, stats.subscriptions, stats.bans),
        (0, 0, 0, 0)
    );
    assert_eq!(yard.house.broker.memory_bytes(), empty);
    assert_eq!(yard.house.broker.poll_timeout(), None);
}

/// Users whose passwords are looked at quickly; everybody's is "secret".
fn users() -> Arc<Users> {
    let cost = Cost::new(Cost::MEMORY_KIB_MIN, 1).expect("within its bounds");
    let line = hash(b"secret", cost, &[7; 16]).expect("there is memory");
    let text = (0..USERS).fold(String::new(), |text, number| {
        with_line(&text, &user_name(number), Some(&line)).expect("a name")
    });
    Arc::new(Users::parse(&text).expect("lines of our own"))
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// What a client of the storm says first.
fn logs_in(number: usize) -> Connect {
    Connect {
        version: [ProtocolVersion::V5, ProtocolVersion::V311][number % 2],
        user_name: Some(running::text(&user_name(number))),
        password: Some("secret".into()),
        clean_start: number % 3 == 0,
        ..running::connect(&client_name(number))
    }
}

/// Connects, publishes until it is kicked or tired, and comes again, until it is told to rest.
async fn live(doors: &Doors, number: usize, rest: &AtomicBool, connections: &AtomicUsize) {
    let mut chance = Chance(number as u64);
    while !rest.load(Ordering::Relaxed) {
        let connect = logs_in(number);
        let mut peer = Peer::stranger(doors.stream().await, connect.version);
        if !peer.try_enter(connect).await {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        for _ in 0..chance.below(50) {
            let said = peer.try_say(&running::publish("t", "busy", Some(1))).await;
            if said.is_err() || peer.hear().await.is_none() || rest.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

#[test]
fn eight_threads_kick_the_clients_of_a_gateway_that_connect_log_in_publish_and_come_again() {
    let mut settings = settings();
    settings.limits = Limits {
        publish_rate_max: u32::MAX,
        ..limits()
    };
    settings.users = Some(users());
    let mut handle = None;
    with_gateway(settings, async |doors| {
        let kicks = doors.kicks();
        handle = Some(kicks.clone());
        let (rest, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut first = Peer::new(doors.stream().await, logs_in(0)).await;
        first.ping().await;
        let tasks_with_one = tasks();
        let storm = Storm::begin(&kicks);
        let lives = (0..CLIENTS).map(|number| live(doors, number, &rest, &connections));
        let over = async {
            storm.over.notified().await;
            rest.store(true, Ordering::Relaxed);
            // Whoever waits for an answer gets an end.
            let ticket = kicks
                .kick(Target::Everyone, KickOptions::default())
                .expect("there is room");
            ticket.await.expect("it is open");
        };
        futures_util::future::join(over, futures_util::future::join_all(lives)).await;
        storm.assert_all_answered(&kicks, 1);
        assert!(connections.load(Ordering::Relaxed) > CLIENTS);

        let purge = KickOptions {
            session: KickedSession::Purge,
            ..KickOptions::default()
        };
        let ticket = kicks.kick(Target::Everyone, purge).expect("there is room");
        ticket.await.expect("it is open");
        // Each connection has a task; those of the storm end when they have seen the end of their streams.
        while tasks() >= tasks_with_one {
            tokio::task::yield_now().await;
        }

        let mut guest = Peer::new(doors.stream().await, logs_in(0)).await;
        guest
            .subscribe("$SYS/broker/clients/total", QoS::AtMostOnce)
            .await;
        let publish = guest.hear_publish().await;
        assert_eq!(publish.payload, "1", "of all the sessions");
    });
    let handle = handle.expect("the story was told");
    let late = handle.kick(Target::Everyone, KickOptions::default());
    assert_eq!(late.err(), Some(KickError::Closed));
}

#[test]
fn an_idle_gateway_carries_out_a_kick_from_any_thread_and_the_client_reads_why_it_went() {
    with_gateway(settings(), async |doors| {
        for name in ["ann", "bill"] {
            let mut peer = Peer::new(doors.stream().await, running::connect(name)).await;
            let kicks = doors.kicks();
            let asking = thread::spawn(move || {
                let ticket = kicks.kick(conversation::known_as(name), KickOptions::default());
                ticket.expect("there is room").wait()
            });
            peer.hear_farewell(ReasonCode::AdministrativeAction).await;
            let outcome = asking.join().expect("no panic").expect("it is open");
            assert_eq!(outcome.kicked, 1);
        }
    });
}

#[test]
fn another_thread_sees_who_has_published_how_much_until_the_gateway_stops() {
    let mut watch = None;
    with_gateway(settings(), async |doors| {
        let looking = doors.watch();
        watch = Some(looking.clone());
        assert!(
            looking.clients().is_none(),
            "the gateway's own thread cannot wait"
        );
        let mut peer = Peer::new(doors.stream().await, running::connect("ann")).await;
        for number in 1..=3 {
            peer.say(&running::publish("t", "hello", Some(number))).await;
            peer.hear().await;
        }
        let clients = tokio::task::spawn_blocking(move || looking.clients()).await;
        let clients = clients.expect("no panic").expect("the gateway runs");
        let [client] = &clients[..] else {
            panic!("expected one client, found {clients:?}");
        };
        assert_eq!(
            (client.client.as_str(), &client.user, client.messages),
            ("ann", &None, 3)
        );
    });
    let watch = watch.expect("the story was told");
    let late = thread::spawn(move || watch.clients()).join().expect("no panic");
    assert!(late.is_none());
}

#[test]
fn what_a_client_is_owed_reaches_it_before_its_farewell_while_it_still_speaks() {
    with_gateway(settings(), async |doors| {
        let mut peer = Peer::new(doors.stream().await, running::connect("bill")).await;
        for number in 1..=100 {
            peer.prepare(&running::publish("t", vec![7; 1000], Some(number)));
        }
        peer.finish_saying().await.expect("the gateway listens");
        let first = peer.hear().await;
        assert!(matches!(first, Some(Packet::PubAck(_))), "{first:?}");
        let ticket = doors
            .kicks()
            .kick(conversation::known_as("bill"), KickOptions::default());
        // More than the gateway reads before it has told the client; a stream that is cut off would lose the farewell.
        for number in 101..=200 {
            peer.prepare(&running::publish("t", vec![7; 1000], Some(number)));
        }
        let mut acknowledged = 1;
        let reason = loop {
            match peer.hear().await {
                Some(Packet::PubAck(_)) => acknowledged += 1,
                Some(Packet::Disconnect(disconnect)) => break disconnect.reason,
                other => panic!("expected PUBACK or DISCONNECT, found {other:?}"),
            }
        };
        assert_eq!(reason, ReasonCode::AdministrativeAction);
        assert!(
            acknowledged >= 100,
            "{acknowledged} of what was taken in was acknowledged"
        );
        assert_eq!(
            ticket.expect("there is room").await.map(|outcome| outcome.kicked),
            Ok(1)
        );
    });
}

#[test]
fn a_kick_from_where_passwords_are_looked_at_finds_its_target_and_leaves_no_ghost() {
    let mut settings = settings();
    settings.users = Some(users());
    with_gateway(settings, async |doors| {
        let mut victim = Peer::new(doors.stream().await, logs_in(0)).await;
        for round in 0..20 {
            // It takes its own connection over, once its password is found right.
            let mut next = Peer::stranger(doors.stream().await, ProtocolVersion::V5);
            next.say(&Packet::Connect(Box::new(logs_in(0)))).await;
            let kicks = doors.kicks();
            let look = move || {
                let ticket = kicks.kick(conversation::known_as("client-0"), KickOptions::default());
                ticket.expect("there is room").wait()
            };
            let outcome = tokio::task::spawn_blocking(look).await.expect("no panic");
            assert_eq!(outcome.map(|outcome| outcome.kicked), Ok(1), "round {round}");
            assert_eq!(
                victim.hear().await.map(|packet| packet.name()),
                Some("DISCONNECT")
            );
            assert_eq!(victim.hear().await, None);
            victim = next;
            match victim.hear().await {
                Some(Packet::ConnAck(connack)) => assert_eq!(connack.reason, ReasonCode::Success),
                other => panic!("expected CONNACK, found {other:?}"),
            }
            if let Some(Some(packet)) = futures_util::FutureExt::now_or_never(victim.hear()) {
                // The kick came after the takeover, and ended the newer one.
                assert_eq!(packet.name(), "DISCONNECT");
                victim = Peer::new(doors.stream().await, logs_in(0)).await;
            }
        }
        // Within the gateway's own thread nobody can stand still for an outcome; it can be awaited.
        let ticket = doors.kicks().kick(Target::Everyone, KickOptions::default());
        assert_eq!(ticket.expect("there is room").wait(), Err(KickError::OnLoop));
        assert_eq!(
            victim.hear().await.map(|packet| packet.name()),
            Some("DISCONNECT")
        );
    });
}
