//! The load: publishers and subscribers on one thread, each a task over a bare [`Link`], so that the generator is
//! cheap and what is measured is the broker.
//!
//! Both ends live here, so a publisher's window opens when its message has reached every subscriber, at QoS 0 too:
//! nothing is published faster than it is delivered, and no broker looks quick by dropping.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{BufMut, Bytes, BytesMut};
use smallvec::smallvec;
use tokio::time::{Sleep, sleep};

use super::histogram::Histogram;
use super::ledger::Ledger;
use super::process::Observed;
use crate::cli::login::Login;
use crate::client::{Options, Target};
use crate::mqtt::{
    Ack, ClientId, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, QoS,
    RetainHandling, Subscribe, SubscribeProperties, Subscription, TopicFilter, TopicName, Utf8String,
};
use crate::net::link::{Buffers, Link};

/// Who publishes what to whom.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) publishers: usize,
    pub(super) subscribers: usize,
    /// Whether subscriber n receives publisher n only, rather than everybody everybody.
    pub(super) paired: bool,
    pub(super) payload_bytes: usize,
    pub(super) qos: QoS,
    /// Unfinished messages of one publisher.
    pub(super) window: u64,
    /// Messages a second of all publishers together; 0: as fast as the window lets.
    pub(super) rate: f64,
    pub(super) extent: Extent,
    pub(super) version: ProtocolVersion,
    /// As whom they come.
    pub(super) login: Login,
}

/// How long it goes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extent {
    /// For this long, after a warm-up that does not count.
    Lasting { warm_up: Duration, measured: Duration },
    /// Until each publisher has published as many, which all count.
    Messages { each: u64 },
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) deliveries_per_second: f64,
    /// CPU seconds of the broker per million deliveries; `None` where its process is not known.
    pub(super) cpu_per_million: Option<f64>,
    pub(super) latencies: Histogram,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) late: u64,
}

/// What a payload begins with: publisher (4 bytes), sequence number (8) and time of sending (8).
pub(super) const HEADER_BYTES: usize = 20;

/// After this long without a delivery, what is missing is taken for lost, and the window opens again.
const STALL: Duration = Duration::from_secs(2);

/// Bytes waiting for one socket, after which its publisher pauses.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Unfinished messages of one publisher at a given rate; far beyond any latency worth measuring.
const WINDOW_AT_RATE: u64 = 4096;

/// Connections opened at the same time: enough to be quick, too few for any listener's backlog.
const DIALS: usize = 32;

/// Runs the plan once against `target`.
pub(super) async fn run(
    target: &Rc<Target>,
    plan: &Plan,
    observed: Option<Observed>,
) -> anyhow::Result<Outcome> {
    let shared = Rc::new(Shared::new(plan));
    let mut tasks = tokio::task::JoinSet::new();
    let subscribers = connect(target, plan, "sub", plan.subscribers).await?;
    for (index, mut link) in subscribers.into_iter().enumerate() {
        let filter = if plan.paired {
            format!("bench/{index}")
        } else {
            "bench/+".to_owned()
        };
        subscribe(&mut link, &filter, plan.qos).await?;
        let subscriber = Subscriber {
            link,
            index,
            shared: Rc::clone(&shared),
        };
        tasks.spawn_local(subscriber.run());
    }
    for (index, link) in connect(target, plan, "pub", plan.publishers)
        .await?
        .into_iter()
        .enumerate()
    {
        tasks.spawn_local(Publisher::new(link, index, Rc::clone(&shared), plan)?.run());
    }
    tokio::select! {
        result = measure(&shared, plan, observed) => result,
        Some(ended) = tasks.join_next() => match ended.context("a task of the generator failed")? {
            Err(error) => Err(error),
            Ok(never) => match never {},
        },
    }
}

/// Opens `count` connections that say nothing after CONNECT; returns them to be held.
pub(super) async fn open_idle(
    target: &Rc<Target>,
    count: usize,
    version: ProtocolVersion,
    login: &Login,
) -> anyhow::Result<Vec<Link>> {
    open(target, version, login, "idle", count).await
}

async fn connect(target: &Rc<Target>, plan: &Plan, role: &str, count: usize) -> anyhow::Result<Vec<Link>> {
    open(target, plan.version, &plan.login, role, count).await
}

async fn open(
    target: &Rc<Target>,
    version: ProtocolVersion,
    login: &Login,
    role: &str,
    count: usize,
) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    for first in (0..count).step_by(DIALS) {
        let dials: Vec<_> = (first..count.min(first + DIALS))
            .map(|index| {
                let id = format!("bench-{}-{role}-{index}", std::process::id());
                tokio::task::spawn_local(open_one(Rc::clone(target), version, login.clone(), id))
            })
            .collect();
        for dial in dials {
            links.push(dial.await.context("a task of the generator failed")??);
        }
    }
    Ok(links)
}

async fn open_one(
    target: Rc<Target>,
    version: ProtocolVersion,
    login: Login,
    id: String,
) -> anyhow::Result<Link> {
    let options = Options {
        version,
        ..Options::default()
    };
    let mut link = target.dial(&options).await?;
    let mut buffers = Buffers::new();
    let connect = Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 0,
        client_id: ClientId::new(Utf8String::try_from(id.as_str())?),
        will: None,
        user_name: login.user_name.clone(),
        password: login.password.clone(),
        properties: ConnectProperties::default(),
    };
    link.send(&Packet::Connect(Box::new(connect)), &mut buffers);
    match exchange(&mut link, &mut buffers).await? {
        Packet::ConnAck(ack) if !ack.reason.is_error() => Ok(link),
        Packet::ConnAck(ack) => {
            bail!(
                "the broker refused a connection: {}{}",
                ack.reason,
                login.hint(ack.reason)
            )
        }
        other => bail!("the broker answered CONNECT with {}", other.name()),
    }
}

async fn subscribe(link: &mut Link, filter: &str, qos: QoS) -> anyhow::Result<()> {
    let subscription = Subscription {
        filter: TopicFilter::try_from(filter)?,
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let subscribe = Subscribe {
        packet_id: PacketId::MIN,
        subscriptions: smallvec![subscription],
        properties: SubscribeProperties::default(),
    };
    let mut buffers = Buffers::new();
    link.send(&Packet::Subscribe(Box::new(subscribe)), &mut buffers);
    match exchange(link, &mut buffers).await? {
        Packet::SubAck(ack) if ack.reasons.iter().all(|reason| *reason as u8 == qos as u8) => Ok(()),
        Packet::SubAck(ack) => bail!(
            "the broker answered a subscription at QoS {qos} with {:?}",
            ack.reasons
        ),
        other => bail!("the broker answered SUBSCRIBE with {}", other.name()),
    }
}

/// Sends what waits and returns the first packet that comes.
async fn exchange(link: &mut Link, buffers: &mut Buffers) -> anyhow::Result<Packet> {
    poll_fn(|cx| link.poll_flush(cx, buffers)).await?;
    loop {
        if let Some(packet) = link.poll_packet()? {
            return Ok(packet);
        }
        if poll_fn(|cx| link.poll_receive(cx, buffers)).await? == 0 {
            bail!("the broker closed a connection before answering");
        }
    }
}

/// Lets the plan run and takes the readings at its beginning and end.
async fn measure(shared: &Shared, plan: &Plan, observed: Option<Observed>) -> anyhow::Result<Outcome> {
    let cpu = || observed.map(Observed::cpu_seconds).transpose();
    if let Extent::Messages { each } = plan.extent {
        shared.quota.set(each);
    }
    if let Extent::Lasting { warm_up, .. } = plan.extent {
        shared.start();
        watch(shared, |_| false, warm_up).await;
    }
    shared.tally.borrow_mut().latencies = Histogram::new();
    let (begin, cpu_before, delivered_before) = (Instant::now(), cpu()?, shared.delivered());
    let is_through = |shared: &Shared| shared.is_through();
    match plan.extent {
        Extent::Lasting { measured, .. } => watch(shared, |_| false, measured).await,
        Extent::Messages { .. } => {
            shared.start();
            watch(shared, is_through, Duration::MAX).await;
        }
    }
    let (elapsed, cpu_after) = (begin.elapsed(), cpu()?);
    let delivered = shared.delivered() - delivered_before;
    let latencies = shared.tally.borrow().latencies.clone();

    // What is under way may arrive before it is called lost.
    shared.settling.set(true);
    watch(shared, is_through, Duration::MAX).await;
    let tally = shared.tally.borrow();
    let mut outcome = Outcome {
        deliveries_per_second: delivered as f64 / elapsed.as_secs_f64(),
        cpu_per_million: cpu_before
            .zip(cpu_after)
            .map(|(before, after)| (after - before) / delivered as f64 * 1e6),
        latencies,
        lost: 0,
        duplicates: 0,
        late: 0,
    };
    for (subscriber, ledgers) in tally.ledgers.iter().enumerate() {
        for (publisher, ledger) in ledgers.iter().enumerate() {
            let publisher = if plan.paired { subscriber } else { publisher };
            outcome.lost += ledger.lost(shared.lanes[publisher].sent.get());
            outcome.duplicates += ledger.duplicates;
            outcome.late += ledger.late;
        }
    }
    Ok(outcome)
}

/// Waits until `done` or for as long as `limit`, and opens the windows of publishers whose messages were lost.
async fn watch(shared: &Shared, done: impl Fn(&Shared) -> bool, limit: Duration) {
    let begin = Instant::now();
    let (mut progress, mut since) = (shared.progress(), begin);
    while !done(shared) && begin.elapsed() < limit {
        sleep(Duration::from_millis(5).min(limit.saturating_sub(begin.elapsed()))).await;
        let now = shared.progress();
        if now != progress {
            (progress, since) = (now, Instant::now());
        } else if since.elapsed() > STALL {
            if shared.all_is_sent() {
                return;
            }
            shared.forgive();
            since = Instant::now();
        }
    }
}

/// What the tasks of one run share.
struct Shared {
    buffers: RefCell<Buffers>,
    lanes: Vec<Lane>,
    tally: RefCell<Tally>,
    epoch: Instant,
    /// Subscribers each message reaches.
    receivers: u64,
    paired: bool,
    started: Cell<bool>,
    /// Messages each publisher may publish.
    quota: Cell<u64>,
    /// Whether nothing more is published.
    settling: Cell<bool>,
}

/// What both ends know of one publisher.
#[derive(Default)]
struct Lane {
    sent: Cell<u64>,
    delivered: Cell<u64>,
    acknowledged: Cell<u64>,
    /// Deliveries no longer waited for.
    forgiven: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

struct Tally {
    /// One row for each subscriber, one entry for each publisher it hears.
    ledgers: Vec<Vec<Ledger>>,
    latencies: Histogram,
}

impl Shared {
    fn new(plan: &Plan) -> Self {
        let heard = if plan.paired { 1 } else { plan.publishers };
        let row = || std::iter::repeat_with(Ledger::default).take(heard).collect();
        Self {
            buffers: RefCell::new(Buffers::new()),
            lanes: std::iter::repeat_with(Lane::default)
                .take(plan.publishers)
                .collect(),
            tally: RefCell::new(Tally {
                ledgers: std::iter::repeat_with(row).take(plan.subscribers).collect(),
                latencies: Histogram::new(),
            }),
            epoch: Instant::now(),
            receivers: if plan.paired { 1 } else { plan.subscribers as u64 },
            paired: plan.paired,
            started: Cell::new(false),
            quota: Cell::new(u64::MAX),
            settling: Cell::new(false),
        }
    }

    fn start(&self) {
        self.started.set(true);
        self.lanes.iter().for_each(Lane::wake);
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn delivered(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.delivered.get()).sum()
    }

    fn progress(&self) -> u64 {
        self.lanes
            .iter()
            .map(|lane| lane.delivered.get() + lane.acknowledged.get())
            .sum()
    }

    fn all_is_sent(&self) -> bool {
        self.settling.get() || self.lanes.iter().all(|lane| lane.sent.get() >= self.quota.get())
    }

    /// Whether everything that is to be published was, and has arrived.
    fn is_through(&self) -> bool {
        self.all_is_sent() && self.lanes.iter().all(|lane| lane.unfinished(self.receivers) == 0)
    }

    fn forgive(&self) {
        for lane in &self.lanes {
            lane.forgiven
                .set(lane.sent.get() * self.receivers - lane.delivered.get());
            lane.acknowledged.set(lane.sent.get());
            lane.wake();
        }
    }
}

impl Lane {
    /// Messages that some subscriber, or the acknowledgement, is still owed.
    fn unfinished(&self, receivers: u64) -> u64 {
        let owed = (self.sent.get() * receivers).saturating_sub(self.delivered.get() + self.forgiven.get());
        owed.div_ceil(receivers)
            .max(self.sent.get().saturating_sub(self.acknowledged.get()))
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

struct Publisher {
    link: Link,
    index: usize,
    shared: Rc<Shared>,
    topic: TopicName,
    qos: QoS,
    filling: Vec<u8>,
    window: u64,
    last_packet_id: PacketId,
    /// Payloads are cut from it, which costs one allocation for many.
    arena: BytesMut,
    pace: Option<Pace>,
}

/// When the next message is due.
struct Pace {
    interval: Duration,
    due: Instant,
    timer: std::pin::Pin<Box<Sleep>>,
}

impl Publisher {
    fn new(link: Link, index: usize, shared: Rc<Shared>, plan: &Plan) -> anyhow::Result<Self> {
        let pace = (plan.rate > 0.0).then(|| {
            let interval = Duration::from_secs_f64(plan.publishers as f64 / plan.rate);
            // Spread over the interval, as independent publishers would be.
            let due = Instant::now() + interval.mul_f64(index as f64 / plan.publishers as f64);
            Pace {
                interval,
                due,
                timer: Box::pin(sleep(Duration::ZERO)),
            }
        });
        Ok(Self {
            link,
            index,
            shared,
            topic: TopicName::try_from(format!("bench/{index}").as_str())?,
            qos: plan.qos,
            filling: vec![b'.'; plan.payload_bytes - HEADER_BYTES],
            window: if pace.is_some() {
                WINDOW_AT_RATE.max(plan.window)
            } else {
                plan.window
            },
            last_packet_id: PacketId::MIN,
            arena: BytesMut::new(),
            pace,
        })
    }

    async fn run(mut self) -> anyhow::Result<std::convert::Infallible> {
        poll_fn(|cx| {
            let shared = Rc::clone(&self.shared);
            let result = self.poll(cx, &mut shared.buffers.borrow_mut());
            match result {
                Err(error) => Poll::Ready(Err(error.context(format!("publisher {}", self.index)))),
                Ok(()) => Poll::Pending,
            }
        })
        .await
    }

    /// Takes the acknowledgements and publishes what window and pace allow; then one write.
    fn poll(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> anyhow::Result<()> {
        *self.shared.lanes[self.index].waker.borrow_mut() = Some(cx.waker().clone());
        receive(&mut self.link, cx, buffers, |link, packet, buffers| {
            let lane = &self.shared.lanes[self.index];
            match packet {
                Packet::PubAck(ack) | Packet::PubComp(ack) if !ack.reason.is_error() => {
                    lane.acknowledged.set(lane.acknowledged.get() + 1);
                }
                Packet::PubRec(ack) if !ack.reason.is_error() => {
                    link.send(&Packet::PubRel(Ack::success(ack.packet_id)), buffers);
                }
                Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                    bail!("a message was refused: {}", ack.reason)
                }
                other => bail!("the broker sent {}", other.name()),
            }
            Ok(())
        })?;
        while self.may_publish(cx) {
            let packet = self.next_message();
            self.link.send(&packet, buffers);
            if self.link.unsent() >= UNSENT_BYTES_MAX && self.link.poll_flush(cx, buffers)?.is_pending() {
                return Ok(()); // woken when the socket has room
            }
        }
        let _ = self.link.poll_flush(cx, buffers)?;
        Ok(())
    }

    fn may_publish(&mut self, cx: &mut Context<'_>) -> bool {
        let lane = &self.shared.lanes[self.index];
        let open = self.shared.started.get()
            && !self.shared.settling.get()
            && lane.sent.get() < self.shared.quota.get()
            && lane.unfinished(self.shared.receivers) < self.window
            && self.link.unsent() < UNSENT_BYTES_MAX;
        let Some(pace) = &mut self.pace else { return open };
        let now = Instant::now();
        if open && pace.due <= now {
            pace.due += pace.interval;
            return true;
        }
        pace.timer
            .as_mut()
            .reset(pace.due.max(now + Duration::from_millis(1)).into());
        let _ = pace.timer.as_mut().poll(cx);
        false
    }

    fn next_message(&mut self) -> Packet {
        let lane = &self.shared.lanes[self.index];
        let sequence = lane.sent.get();
        lane.sent.set(sequence + 1);
        let packet_id = match self.qos {
            QoS::AtMostOnce => {
                lane.acknowledged.set(sequence + 1);
                None
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                self.last_packet_id = self.last_packet_id.next();
                Some(self.last_packet_id)
            }
        };
        let bytes = HEADER_BYTES + self.filling.len();
        if self.arena.capacity() < bytes {
            self.arena = BytesMut::with_capacity(bytes.max(32 * 1024));
        }
        self.arena.put_u32(u32::try_from(self.index).unwrap_or(u32::MAX));
        self.arena.put_u64(sequence);
        self.arena.put_u64(self.shared.nanos());
        self.arena.put_slice(&self.filling);
        let payload = self.arena.split().freeze();
        Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: false,
            topic: Some(self.topic.clone()),
            packet_id,
            payload,
            properties: None,
        })
    }
}

struct Subscriber {
    link: Link,
    index: usize,
    shared: Rc<Shared>,
}

impl Subscriber {
    async fn run(mut self) -> anyhow::Result<std::convert::Infallible> {
        poll_fn(|cx| {
            let shared = Rc::clone(&self.shared);
            let result = self.poll(cx, &mut shared.buffers.borrow_mut());
            match result {
                Err(error) => Poll::Ready(Err(error.context(format!("subscriber {}", self.index)))),
                Ok(()) => Poll::Pending,
            }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> anyhow::Result<()> {
        let Self { link, index, shared } = self;
        receive(link, cx, buffers, |link, packet, buffers| {
            match packet {
                Packet::Publish(publish) => {
                    note(shared, *index, &publish.payload)?;
                    match (publish.qos, publish.packet_id) {
                        (QoS::AtLeastOnce, Some(id)) => link.send(&Packet::PubAck(Ack::success(id)), buffers),
                        (QoS::ExactlyOnce, Some(id)) => link.send(&Packet::PubRec(Ack::success(id)), buffers),
                        _ => {}
                    }
                }
                Packet::PubRel(ack) => link.send(&Packet::PubComp(Ack::success(ack.packet_id)), buffers),
                other => bail!("the broker sent {}", other.name()),
            }
            Ok(())
        })?;
        let _ = link.poll_flush(cx, buffers)?;
        Ok(())
    }
}

/// Enters one delivery into the books and opens its publisher's window.
fn note(shared: &Shared, subscriber: usize, payload: &Bytes) -> anyhow::Result<()> {
    let (publisher, sequence, sent_at) =
        read_header(payload).context("a message arrived that nobody here sent")?;
    let mut tally = shared.tally.borrow_mut();
    let Tally { ledgers, latencies } = &mut *tally;
    let lane = shared
        .lanes
        .get(publisher)
        .filter(|lane| sequence < lane.sent.get());
    let column = if shared.paired { 0 } else { publisher };
    let ledger = ledgers.get_mut(subscriber).and_then(|row| row.get_mut(column));
    let (Some(lane), Some(ledger)) = (lane, ledger) else {
        bail!("a message arrived that was never sent");
    };
    if ledger.receive(sequence) {
        lane.delivered.set(lane.delivered.get() + 1);
        latencies.record(shared.nanos().saturating_sub(sent_at));
        lane.wake();
    }
    Ok(())
}

fn read_header(payload: &Bytes) -> Option<(usize, u64, u64)> {
    let (publisher, rest) = payload.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (sent_at, _) = rest.split_first_chunk::<8>()?;
    let publisher = usize::try_from(u32::from_be_bytes(*publisher)).ok()?;
    Some((
        publisher,
        u64::from_be_bytes(*sequence),
        u64::from_be_bytes(*sent_at),
    ))
}

/// Hands every packet that has come to `handle`, until the socket is empty.
fn receive(
    link: &mut Link,
    cx: &mut Context<'_>,
    buffers: &mut Buffers,
    mut handle: impl FnMut(&mut Link, Packet, &mut Buffers) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Poll::Ready(count) = link.poll_receive(cx, buffers)? {
        if count == 0 {
            bail!("the broker closed the connection");
        }
        while let Some(packet) = link.poll_packet()? {
            handle(link, packet, buffers)?;
        }
    }
    Ok(())
}
