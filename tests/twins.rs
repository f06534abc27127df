//! Many connections that claim one client identifier: one of them is the client.

mod running;
mod witness;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tidegate::mqtt::{
    Connect, Packet, PacketId, ProtocolVersion, QoS, ReasonCode, Unsubscribe, UserProperties,
};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use running::{Peer, connect, farewell_for_good, filter, publish, stored};
use witness::{Program, Setup, watched};

/// Twins that live in the same time.
const TWINS: usize = 20;

/// CONNECTs of all of them together: whoever was sent away comes again as soon as it is his turn.
const CONNECTS: usize = 1000;

/// One twin's CONNECT follows another's in this time: 200 a second, as far as the machine allows.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// Where the traffic is; between the first level and the last, each may be a wildcard.
const FOUGHT_OVER: &str = "fight/a/b/c/d/e/f/seq";

/// Filters that match it beside its own name: the session is large, and a message still comes once, at the highest
/// QoS of them.
const OVERLAPPING: usize = 63;

#[test]
fn of_twenty_sockets_that_fight_for_a_session_one_lives_and_the_session_loses_nothing() {
    watched(Setup::default(), async |program| {
        let mut first = Peer::stranger(program.stream().await, ProtocolVersion::V5);
        assert!(!first.enter(twin()).await);
        first.subscribe(FOUGHT_OVER, QoS::AtMostOnce).await;
        for number in 1..=OVERLAPPING {
            first.subscribe(&overlapping(number), QoS::AtLeastOnce).await;
        }
        let fight = Rc::new(Fight::default());
        let mut beat = interval(CONNECT_PAUSE);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let beat = Rc::new(tokio::sync::Mutex::new(beat));
        let (address, mut twins) = (program.address("local"), JoinSet::new());
        for _ in 0..TWINS {
            let (fight, beat) = (fight.clone(), beat.clone());
            twins.spawn_local(async move {
                loop {
                    beat.lock().await.tick().await;
                    if fight.begun.get() == CONNECTS {
                        return;
                    }
                    fight.begun.set(fight.begun.get() + 1);
                    let stream = tokio::net::TcpStream::connect(address).await.expect("open");
                    let mut twin = Peer::stranger(stream, ProtocolVersion::V5);
                    fight.enter(&mut twin).await;
                    fight.listen(&mut twin).await;
                }
            });
        }
        let publish_through_the_fight = publish_until(program, &fight);
        let fight_on = async {
            let mut ended = first.hear().await;
            while let Some(Packet::Publish(_)) = ended {
                ended = first.hear().await; // heard and not acknowledged: it comes again
            }
            assert_farewell(ended);
            assert_eq!(first.hear().await, None);
            // The last of them wins, and lives until somebody sends it away.
            while fight.entered.get() < CONNECTS {
                tokio::select! {
                    Some(twin) = twins.join_next() => twin.expect("no twin fails"),
                    () = fight.news.notified() => {}
                }
            }
            fight.is_over.set(true);
            fight.news.notify_waiters();
        };
        let ((), published) = tokio::join!(fight_on, publish_through_the_fight);

        let mut last = Peer::stranger(program.stream().await, ProtocolVersion::V5);
        fight.enter(&mut last).await;
        while let Some(twin) = twins.join_next().await {
            twin.expect("no twin fails");
        }
        assert_eq!(
            fight.taken_over.get(),
            CONNECTS,
            "one lives, and all others were told"
        );
        // What waits for it, and what others heard whose acknowledgement came too late.
        last.say(&Packet::PingReq).await;
        let mut is_up_to_date = false;
        while !is_up_to_date || fight.heard.borrow().len() < published {
            match last.hear().await {
                Some(Packet::Publish(publish)) => {
                    fight.heard.borrow_mut().insert(number_of(&publish.payload));
                    last.acknowledge(publish.packet_id).await;
                }
                other => {
                    assert_eq!(other, Some(Packet::PingResp));
                    is_up_to_date = true;
                }
            }
        }
        assert_eq!(
            fight.heard.borrow().len(),
            published,
            "something nobody published"
        );

        // Every subscription is still there, and ends.
        for number in 1..=OVERLAPPING {
            assert_eq!(
                unsubscribe(&mut last, &overlapping(number)).await,
                ReasonCode::Success
            );
        }
        assert_eq!(unsubscribe(&mut last, FOUGHT_OVER).await, ReasonCode::Success);
        last.say(&farewell_for_good()).await;
        let connected = program.count_logged(&["client connected", "\"twin\""]);
        assert_eq!(connected, CONNECTS + 2);
        program
            .until_logged(&["client disconnected", "\"twin\""], connected)
            .await;
        let taken_over = ["client disconnected", "\"twin\"", "session taken over"];
        assert_eq!(program.count_logged(&taken_over), connected - 1);
    });
}

#[test]
fn a_storm_of_twins_leaves_one_of_them_and_nothing_else() {
    watched(Setup::default(), async |program| {
        let mut survivor = program.peer(connect("twin")).await;
        for _ in 0..50 {
            let mut twins = Vec::new();
            for _ in 0..TWINS {
                let mut twin = Peer::stranger(program.stream().await, ProtocolVersion::V5);
                twin.say(&Packet::Connect(Box::new(connect("twin")))).await;
                twins.push(twin);
            }
            for twin in &mut twins {
                assert!(matches!(twin.hear().await, Some(Packet::ConnAck(_))));
            }
            let mut alive = Vec::new();
            for mut twin in twins {
                // Those who were taken over may have lost the stream already.
                twin.try_say(&Packet::PingReq).await.ok();
                match twin.hear().await {
                    Some(Packet::PingResp) => alive.push(twin),
                    ended => assert_farewell(ended),
                }
            }
            assert_eq!(alive.len(), 1);
            survivor = alive.remove(0);
        }
        survivor.ping().await;
    });
}

/// What the twins know together.
#[derive(Default)]
struct Fight {
    begun: Cell<usize>,
    entered: Cell<usize>,
    taken_over: Cell<usize>,
    heard: RefCell<BTreeSet<u32>>,
    is_over: Cell<bool>,
    news: tokio::sync::Notify,
}

impl Fight {
    async fn enter(&self, twin: &mut Peer) {
        assert!(twin.enter(twin_connect()).await, "the session is gone");
        self.entered.set(self.entered.get() + 1);
        self.news.notify_waiters();
    }

    /// Hears and acknowledges until another twin comes. On one connection the numbers follow each other, wherever it
    /// begins: first what the one before left unacknowledged, then what waited, then what is new.
    async fn listen(&self, twin: &mut Peer) {
        let mut before = None;
        loop {
            match twin.hear().await {
                Some(Packet::Publish(publish)) => {
                    let number = number_of(&publish.payload);
                    assert!(
                        before.is_none_or(|before| before + 1 == number),
                        "{number} after {before:?}"
                    );
                    before = Some(number);
                    self.heard.borrow_mut().insert(number);
                    self.news.notify_waiters();
                    let ack = tidegate::mqtt::Ack::success(publish.packet_id.expect("QoS 1"));
                    // Whoever was taken over may have lost the stream already.
                    twin.try_say(&Packet::PubAck(ack)).await.ok();
                }
                ended => {
                    assert_farewell(ended);
                    assert_eq!(twin.hear().await, None);
                    return self.taken_over.set(self.taken_over.get() + 1);
                }
            }
        }
    }
}

/// Publishes numbers until the fight is over, and not further ahead of the twins than their queue is long; how many.
async fn publish_until(program: &Program, fight: &Fight) -> usize {
    let mut publisher = program.peer(connect("publisher")).await;
    let mut number = 0;
    while !fight.is_over.get() {
        publisher
            .say(&publish(FOUGHT_OVER, number.to_string(), Some(1)))
            .await;
        assert!(matches!(publisher.hear().await, Some(Packet::PubAck(_))));
        number += 1;
        let is_ahead = || fight.heard.borrow().len() + 500 < number;
        while is_ahead() && !fight.is_over.get() {
            fight.news.notified().await;
        }
    }
    number
}

fn assert_farewell(packet: Option<Packet>) {
    match packet {
        Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver),
        other => panic!("expected DISCONNECT, found {other:?}"),
    }
}

fn number_of(payload: &[u8]) -> u32 {
    let text = std::str::from_utf8(payload).expect("text");
    text.parse().expect("a number")
}

/// The filter in which the levels that are the ones of `number` are wildcards.
fn overlapping(number: usize) -> String {
    let level = |(place, name): (usize, &'static str)| match number >> place & 1 {
        0 => name,
        _ => "+",
    };
    let levels: Vec<_> = ["a", "b", "c", "d", "e", "f"]
        .into_iter()
        .enumerate()
        .map(level)
        .collect();
    format!("fight/{}/seq", levels.join("/"))
}

fn twin() -> Connect {
    Connect {
        clean_start: true,
        ..twin_connect()
    }
}

fn twin_connect() -> Connect {
    stored("twin")
}

async fn unsubscribe(peer: &mut Peer, name: &str) -> ReasonCode {
    let filters = [filter(name)].into_iter().collect();
    peer.say(&Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: PacketId::new(7).expect("not zero"),
        filters,
        user_properties: UserProperties::new(),
    })))
    .await;
    match peer.hear().await {
        Some(Packet::UnsubAck(unsuback)) => unsuback.reasons[0],
        other => panic!("expected UNSUBACK, found {other:?}"),
    }
}
