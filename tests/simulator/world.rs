//! One world: the real core, and a network, a clock and clients that are simulated, all from one seed.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use slotmap::SlotMap;
use tidegate::auth::access::{Denial, Rights};
use tidegate::broker::{
    Broker, Change, Input, LinkId, ListenerPolicy, Message, Now, Output, Recalled, StoreHealth, Verdict,
};
use tidegate::mqtt::{
    ClientId, Connect, Packet, ProtocolVersion, QoS, Subscribe, SubscribeProperties, TopicName, encode,
};

use crate::acts::{Act, text};
use crate::chance::Chance;
use crate::clients::Client;
use crate::network::{Connection, Read};
use crate::oracle::found::Found;
use crate::oracle::{Cause, Held, Oracle, Progress, Terms, Violation, hold};
use crate::setup::Setup;
use crate::store::{self, Committed, Left, Store};

/// Everything there is.
pub struct World {
    pub setup: Setup,
    pub broker: Broker,
    pub oracle: Oracle,
    pub now: Now,
    /// When the journal's clock was 0.
    began: Instant,
    pub connections: SlotMap<LinkId, Connection>,
    pub clients: Vec<Client>,
    pub doors: [Rc<ListenerPolicy>; 2],
    /// Whose passwords are being checked.
    pub verifying: Vec<LinkId>,
    /// The number of the last message, and of the last kick.
    pub number: u32,
    pub kicks: u64,
    /// Everything that was sent, as one number.
    pub trace: u64,
    /// What happened, where somebody wants to read it.
    pub story: Option<Vec<String>>,
    /// How many inputs pass between two walks over the whole state.
    walk_every: u64,
    /// Where what is given is stored, in a world that stores anything.
    pub store: Option<Store>,
    /// What was read again and is not told yet.
    recalled: VecDeque<Recalled>,
    pub denials: Vec<Denial>,
    inputs: u64,
    outputs: Vec<Output>,
    bytes: BytesMut,
}

/// The other name under which the world itself looks at the outcome.
const AUDITOR: &str = "auditor";

/// The widest window that a seed draws, or an operator sets.
const WINDOW_MAX: usize = 32;

/// Retained messages that go to one client before others have their turn.
const SLICE_MAX: usize = 64;

/// Rounds without anything being delivered or acknowledged after which nothing more is to be expected.
const IDLE_ROUNDS_MAX: usize = 200;

/// Rounds of that kind after which who has got all there is leaves for others.
const IDLE_ROUNDS_OF_A_TURN: usize = 10;

/// How long kicks that wait for their turn may take at the end, in seconds.
const KICKS_WAIT_SECS_MAX: usize = 600;

impl World {
    pub fn of(setup: Setup) -> Self {
        let now = Now {
            mono: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let terms = Terms {
            is_roomy: setup.is_roomy,
            session_expiry_max_secs: u32::try_from(setup.limits.session_expiry_max.as_secs())
                .unwrap_or(u32::MAX),
            keep_alive_max_secs: setup.limits.keep_alive_max_secs,
            connect_timeout: setup.limits.connect_timeout,
            stores: setup.stores,
            window_max: WINDOW_MAX,
            slice_max: SLICE_MAX,
            changes_max: 1024,
        };
        let clients = (setup.clients.iter())
            .map(|who| Client::new(who.name.clone(), who.user.clone(), who.version))
            .collect();
        let broker = Broker::new(setup.limits.clone(), Rights::default(), 7);
        let oracle = Oracle::new(terms, now.mono);
        Self {
            broker: if setup.stores {
                broker.with_store(now)
            } else {
                broker
            },
            store: (setup.stores)
                .then(|| Store::new(&oracle, setup.journal_seed.map(|seed| (seed, setup.disk_faults)))),
            recalled: VecDeque::new(),
            oracle,
            denials: Vec::new(),
            began: now.mono,
            now,
            connections: SlotMap::with_key(),
            clients,
            doors: [false, true].map(|is_open| {
                let name = if is_open { "open" } else { "locked" };
                Rc::new(ListenerPolicy::new(name, is_open))
            }),
            verifying: Vec::new(),
            number: 0,
            kicks: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            story: None,
            walk_every: 1,
            inputs: 0,
            outputs: Vec::new(),
            bytes: BytesMut::new(),
            setup,
        }
    }

    /// The same world, where the walk over the whole state comes only after every so many inputs.
    pub fn walking_every(self, walk_every: u64) -> Self {
        Self { walk_every, ..self }
    }

    /// One input, judged by all that follows from it.
    pub fn input(&mut self, cause: Cause, input: Input) -> Held {
        self.broker.handle(self.now, input);
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.clear();
        outputs.extend(std::iter::from_fn(|| self.broker.poll_output()));
        if let Some(story) = &mut self.story {
            story.push(format!("    {cause:?}"));
            story.extend(outputs.iter().map(|output| format!("        {output:?}")));
        }
        self.oracle.judge(
            self.now.mono,
            &cause,
            &outputs,
            (self.broker.stats(), self.progress()),
        )?;
        self.inputs += 1;
        if self.inputs.is_multiple_of(self.walk_every) {
            self.walk()?;
        }
        for output in outputs.drain(..) {
            self.carry_out(output);
        }
        self.outputs = outputs;
        let given = self.progress().given;
        if let Some(store) = self.store.as_mut().filter(|_| self.setup.crashes) {
            store.remember(given, &self.oracle);
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        let view = self.broker.store().unwrap_or_default();
        Progress {
            given: view.given,
            stored: view.stored,
        }
    }

    /// Some of what was given is stored, or the disk fails.
    pub fn commit(&mut self, count: usize) -> Held {
        let given = self.progress().given;
        let Some(store) = self
            .store
            .as_mut()
            .filter(|store| store.health != StoreHealth::Failed)
        else {
            return Ok(());
        };
        let upto = match store.commit(count, given) {
            Committed::Upto(upto) => upto,
            Committed::Failed => return self.fail(),
        };
        let is_all = store.is_whole() && upto == given;
        self.input(Cause::Stored { is_all }, Input::Stored { upto })?;
        if let Some(store) = &self.store
            && self.inputs.is_multiple_of(8)
        {
            store::check(&self.broker, store)?;
        }
        let Some(store) = self.store.as_mut().filter(|store| store.has_journal()) else {
            return Ok(());
        };
        if store.wants_checkpoint() {
            return self.input(Cause::Checkpoint, Input::Checkpoint);
        }
        let (health, room) = (store.health, store.room());
        if room != health {
            self.set_health(room)
        } else {
            Ok(())
        }
    }

    /// The core is told some of what it asked to be read again.
    pub fn tell_recalled(&mut self, count: usize) -> Held {
        for _ in 0..count {
            let Some(recalled) = self.recalled.pop_front() else {
                break;
            };
            self.input(Cause::Recalled, Input::Recalled(Box::new(recalled)))?;
        }
        Ok(())
    }

    /// Some of what was given is written, and not synced.
    pub fn write(&mut self, count: usize) -> Held {
        let given = self.progress().given;
        let Some(store) = self
            .store
            .as_mut()
            .filter(|store| store.health != StoreHealth::Failed)
        else {
            return Ok(());
        };
        match store.write(count, given) {
            true => Ok(()),
            false => self.fail(),
        }
    }

    fn fail(&mut self) -> Held {
        if let Some(store) = &mut self.store {
            store.fail();
        }
        let health = StoreHealth::Failed;
        self.input(Cause::Health(health), Input::Store(health))
    }

    pub fn set_health(&mut self, health: StoreHealth) -> Held {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        if health == StoreHealth::Failed {
            // The journal fails by its disk alone.
            return if store.has_journal() { Ok(()) } else { self.fail() };
        }
        if !store.mend() {
            return Ok(());
        }
        store.health = health;
        self.input(Cause::Health(health), Input::Store(health))
    }

    /// The process ends at once, and another one goes on with what was stored, `off` later.
    pub fn crash(&mut self, pick: usize, off: Duration) -> Held {
        let given = self.progress().given;
        let Some(store) = self.store.as_mut() else {
            return Ok(());
        };
        let left = store.cut(pick, given)?;
        let given = left.last;
        for who in 0..self.clients.len() {
            self.clients[who].end();
        }
        self.connections.clear();
        self.verifying.clear();
        self.recalled.clear();
        let told = left.records.iter().rev().find_map(|change| match change {
            Change::Clock { at, wall } => Some((Duration::from_millis(at.0), *wall)),
            _ => None,
        });
        // How long the process was off is known by a clock that nobody has set since it was told.
        let is_trusted = told.is_none_or(|told| !self.was_set_since(told));
        self.now.wall += off;
        if is_trusted {
            self.now.mono += off;
        }
        if told.is_none() {
            self.began = self.now.mono;
        }
        if !left.is_honest {
            // What a client knows and the gateway has forgotten comes twice, or not at all.
            for client in &mut self.clients {
                client.strays = true;
            }
        }
        let oracle = match left.is_whole && is_trusted {
            true => left.promised,
            false => self.oracle_of(&left, is_trusted)?,
        };
        let rights = Rights::denying(self.denials.clone());
        let limits = self.broker.limits().clone();
        self.broker = Broker::new(limits, rights, 7).with_store(self.now);
        self.broker.restore(self.now, left.restored, given, is_trusted);
        let (seen, accepted) = (self.oracle.delivered, self.oracle.accepted);
        self.oracle = oracle;
        if let Some(store) = &mut self.store {
            store.remember(given, &self.oracle);
        }
        (self.oracle.delivered, self.oracle.accepted) = (seen, accepted);
        let outputs: Vec<_> = std::iter::from_fn(|| self.broker.poll_output()).collect();
        if let Some(story) = &mut self.story {
            story.push(format!("    crash, {given} changes are there"));
            story.extend(outputs.iter().map(|output| format!("        {output:?}")));
        }
        let progress = self.progress();
        (self.oracle).recover(
            self.now.mono,
            self.denials.clone(),
            (self.broker.stats(), progress),
        )?;
        for output in outputs {
            self.carry_out(output);
        }
        if let Some(store) = &mut self.store {
            store.remember(progress.given, &self.oracle);
            store.set_faults(self.setup.disk_faults);
        }
        self.walk()
    }

    /// What the oracle holds after a crash that left no moment that ever was, or no idea of the time since.
    fn oracle_of(&mut self, left: &Left, is_trusted: bool) -> Result<Oracle, Violation> {
        let found = Found::of(left.records.iter().cloned());
        let mut oracle = match left.is_whole {
            true => left.promised.clone(),
            false => self.oracle.clone(),
        };
        if left.is_honest {
            oracle.check_promised(&left.promised, &found)?;
        }
        let shows = found.clock_at(self.now.wall, is_trusted).unwrap_or_default();
        self.began = self.now.mono.checked_sub(shows).unwrap_or(self.now.mono);
        oracle.go_on_from(&found, self.began);
        Ok(oracle)
    }

    /// Whether somebody has set the board's clock since it was told, with the journal's.
    fn was_set_since(&self, (told_at, told_wall): (Duration, SystemTime)) -> bool {
        let since = (self.now.mono.saturating_duration_since(self.began)).saturating_sub(told_at);
        let shows = told_wall + since;
        let by = (shows.duration_since(self.now.wall)).unwrap_or_else(|error| error.duration());
        by > Duration::from_millis(2) // whole ones are told
    }

    /// Moves both clocks.
    pub fn advance(&mut self, duration: Duration) {
        self.now.mono += duration;
        self.now.wall += duration;
    }

    fn walk(&self) -> Held {
        self.broker
            .check_invariants()
            .map_err(|text| Violation::new("M1", text))
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Recall(recall) => {
                let recalled = self.store.as_mut().map(|store| store.read_again(recall));
                self.recalled.extend(recalled);
            }
            Output::Send { link, packet } => {
                if let Some(connection) = self.connections.get_mut(link) {
                    self.bytes.clear();
                    encode(&packet, connection.version(), &mut self.bytes);
                    connection.write(&self.bytes);
                    self.note();
                }
            }
            Output::SendToEach { links, publish } => {
                let packet = Packet::Publish(publish);
                let version = (links.first())
                    .and_then(|&link| self.connections.get(link))
                    .map_or(ProtocolVersion::V311, Connection::version);
                self.bytes.clear();
                encode(&packet, version, &mut self.bytes);
                for &link in links.iter() {
                    if let Some(connection) = self.connections.get_mut(link) {
                        connection.write(&self.bytes);
                    }
                    self.note();
                }
            }
            Output::Close { link } => {
                if let Some(connection) = self.connections.get_mut(link) {
                    connection.known = false;
                    connection.down_ends = true;
                }
                self.bytes.clear();
                self.note();
            }
            Output::Pause { link } | Output::Resume { link } => {
                let is_pause = matches!(output, Output::Pause { .. });
                if let Some(connection) = self.connections.get_mut(link) {
                    connection.paused = is_pause;
                }
            }
            Output::Verify { link, .. } => self.verifying.push(link),
            Output::Store(change) => {
                if let Some(store) = &mut self.store {
                    store.give(change);
                }
            }
            Output::Kicked { .. } | Output::Event(_) => {}
        }
    }

    /// Puts what was just sent on record (E1).
    fn note(&mut self) {
        for chunk in self.bytes.chunks(8).chain([&[0xA5][..]]) {
            let word = chunk
                .iter()
                .fold(0_u64, |word, &byte| (word << 8) | u64::from(byte));
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x0000_0100_0000_01B3)
                .rotate_left(17);
        }
    }

    pub fn knows(&self, link: LinkId) -> bool {
        self.connections
            .get(link)
            .is_some_and(|connection| connection.known)
    }

    /// A client opens a connection and says CONNECT.
    pub fn open(&mut self, who: usize, connect: Connect) -> Held {
        let link = self.dial(who, &connect)?;
        let lasts = match connect.version {
            ProtocolVersion::V5 => connect.properties.session_expiry_secs.unwrap_or(0) > 0,
            _ => !connect.clean_start,
        };
        self.clients[who].begin(link, connect.clean_start, lasts);
        self.greet(link, connect);
        Ok(())
    }

    /// Somebody else does, with a client's identifier.
    pub fn open_as_thief(&mut self, who: usize, connect: Connect) -> Held {
        let link = self.dial(who, &connect)?;
        self.greet(link, connect);
        Ok(())
    }

    fn dial(&mut self, who: usize, connect: &Connect) -> Result<LinkId, Violation> {
        let packet_bytes_max = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
        let server_bytes_max = self.setup.limits.packet_bytes_max;
        let connection = Connection::new(who, connect.version, packet_bytes_max, server_bytes_max);
        let link = self.connections.insert(connection);
        let is_open = connect.user_name.is_none();
        let listener = self.doors[usize::from(is_open)].clone();
        let peer = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1 + who as u8)));
        let input = Input::Connected {
            link,
            listener,
            peer,
            certificate_user: None,
            certificate_client: None,
        };
        self.input(Cause::Arrived { link, is_open }, input)?;
        Ok(link)
    }

    fn greet(&mut self, link: LinkId, connect: Connect) {
        if let Some(connection) = self.connections.get_mut(link) {
            connection.say(&Packet::Connect(Box::new(connect)));
        }
    }

    /// A client writes a packet, if it is connected.
    pub fn say(&mut self, who: usize, packet: Packet) -> Held {
        let connection = self.clients[who]
            .link
            .and_then(|link| self.connections.get_mut(link));
        if let Some(connection) = connection {
            connection.say(&packet);
        }
        Ok(())
    }

    pub fn say_bytes(&mut self, who: usize, bytes: &[u8]) {
        let connection = self.clients[who]
            .link
            .and_then(|link| self.connections.get_mut(link));
        if let Some(connection) = connection {
            connection.say_bytes(bytes);
        }
        self.clients[who].strays = true;
    }

    /// A client says what it owes, as far as `count` goes.
    pub fn answer(&mut self, who: usize, count: usize) -> Held {
        for _ in 0..count {
            if !self.clients[who].is_in {
                break;
            }
            match self.clients[who].answers.pop_front() {
                Some(answer) => self.say(who, answer)?,
                None => break,
            }
        }
        Ok(())
    }

    /// What a client does that cannot do what it was to.
    pub fn speak(&mut self, who: usize) -> Held {
        self.answer(who, 3)
    }

    /// How it stands with the core, for whoever wants to know what a world was like.
    pub fn summary(&self) -> String {
        let stats = self.broker.stats();
        format!(
            "{} connections, {} clients let in, {} messages came, {} went",
            stats.links_accepted, stats.clients_accepted, stats.messages_received, stats.messages_sent
        )
    }

    /// A client that has said goodbye closes.
    pub fn leave(&mut self, who: usize, at_once: bool) {
        if let Some(link) = self.clients[who].link {
            match (at_once, self.connections.get_mut(link)) {
                (true, Some(connection)) => connection.abandon(usize::MAX),
                (false, Some(connection)) => connection.half_close(),
                (_, None) => {}
            }
        }
        self.clients[who].end();
    }

    pub fn half_close(&mut self, who: usize) {
        let connection = self.clients[who]
            .link
            .and_then(|link| self.connections.get_mut(link));
        if let Some(connection) = connection {
            connection.half_close();
        }
    }

    pub fn abandon(&mut self, link: LinkId, kept: usize) {
        if let Some(connection) = self.connections.get_mut(link) {
            connection.abandon(kept);
        }
    }

    /// What one of the connections has on its way goes to the gateway, or a part of it.
    pub fn carry_some_up(&mut self, chance: &mut Chance) -> Held {
        let ready: Vec<_> = (self.connections.iter())
            .filter(|(_, connection)| connection.is_readable())
            .map(|(link, _)| link)
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let link = chance.of(&ready);
        let bytes_max = chance.of(&[usize::MAX, usize::MAX, 1, 7, 50]);
        self.carry_up(link, bytes_max)
    }

    pub fn carry_some_down(&mut self, chance: &mut Chance) -> Held {
        let ready: Vec<_> = (self.connections.iter())
            .filter(|(_, connection)| {
                connection.down_bytes() > 0
                    || connection.owes_flush
                    || connection.down_ends
                    || !connection.has_client()
            })
            .map(|(link, _)| link)
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let link = chance.of(&ready);
        let bytes_max = chance.of(&[usize::MAX, usize::MAX, 1, 7, 50]);
        self.carry_down(link, bytes_max)
    }

    fn carry_up(&mut self, link: LinkId, bytes_max: usize) -> Held {
        match self.connections.get_mut(link) {
            Some(connection) if connection.is_readable() => connection.carry_up(bytes_max),
            _ => return Ok(()),
        }
        while let Some(connection) = self.connections.get_mut(link) {
            match connection.read() {
                Read::Packet(packet) => {
                    let cause = Cause::Received {
                        link,
                        packet: packet.clone(),
                    };
                    self.input(cause, Input::Received { link, packet })?;
                }
                Read::Malformed(version, error) => {
                    self.input(
                        Cause::Provoked { link },
                        Input::Malformed { link, version, error },
                    )?;
                    hold(!self.knows(link), "P2", || "malformed bytes were forgiven".into())?;
                }
                Read::End => {
                    connection.known = false;
                    connection.down_ends = true;
                    self.input(Cause::Closed, Input::Closed { link })?;
                }
                Read::Nothing => break,
            }
        }
        Ok(())
    }

    fn carry_down(&mut self, link: LinkId, bytes_max: usize) -> Held {
        let Some(connection) = self.connections.get_mut(link) else {
            return Ok(());
        };
        let who = connection.client;
        let is_own = self.clients[who].link == Some(link);
        if is_own && !self.clients[who].reads {
            return Ok(());
        }
        let mut packets = Vec::new();
        let has_ended =
            (connection.carry_down(bytes_max, &mut packets)).map_err(|text| Violation::new("P1", text))?;
        let flushes = connection.owes_flush && connection.down_bytes() == 0;
        connection.owes_flush &= !flushes;
        let is_known = connection.known;
        if has_ended {
            connection.abandon(0);
        }
        if is_own {
            for packet in packets {
                self.clients[who].take(packet)?;
            }
            if has_ended {
                self.clients[who].end();
            }
        }
        if flushes && is_known {
            self.input(Cause::Flushed, Input::Flushed { link })?;
        }
        if self.connections.get(link).is_some_and(Connection::is_over) {
            self.connections.remove(link);
        }
        Ok(())
    }

    /// What follows each act: without delays the network carries everything at once.
    pub fn after_act(&mut self) -> Held {
        if self.setup.delays {
            return Ok(());
        }
        self.carry_all()
    }

    fn carry_all(&mut self) -> Held {
        let links: Vec<_> = self.connections.keys().collect();
        for &link in &links {
            self.carry_up(link, usize::MAX)?;
        }
        for link in links {
            self.carry_down(link, usize::MAX)?;
        }
        Ok(())
    }

    /// Moves the clock, with a tick at each deadline on the way.
    pub fn wait(&mut self, duration: Duration) -> Held {
        let until = self.now.mono + duration;
        for _ in 0..100_000 {
            match self.broker.poll_timeout() {
                Some(due) if due <= until => {
                    self.advance(due.saturating_duration_since(self.now.mono));
                    self.input(Cause::Tick, Input::Tick)?;
                }
                _ => {
                    self.advance(until.saturating_duration_since(self.now.mono));
                    return Ok(());
                }
            }
        }
        hold(false, "L1", || "deadlines follow each other without end".into())
    }

    /// The end of every world: all faults are over, everybody comes, reads and answers; then nothing is owed, what is
    /// retained is what was, and an empty house is empty.
    pub fn heal(&mut self) -> Held {
        if let Some(store) = &mut self.store {
            store.heal();
            if store.health != StoreHealth::Ready {
                self.set_health(StoreHealth::Ready)?;
            }
        }
        self.make_room()?;
        self.set_rights(Vec::new())?;
        self.wait(Duration::from_secs(11))?; // whoever has not come to an end of its CONNECT is gone
        for _ in 0..KICKS_WAIT_SECS_MAX {
            if self.broker.kicks_due().is_none() {
                break;
            }
            self.wait(Duration::from_secs(1))?;
        }
        self.unban_all()?; // when nobody is kept out any more by a kick that waits
        self.part_from_the_lost();
        for client in &mut self.clients {
            client.reads = true;
        }
        self.drain()?;
        self.oracle.check_final()?;
        self.audit()?;
        self.leave_empty()
    }

    /// Thieves go, and who cannot be understood any more.
    fn part_from_the_lost(&mut self) {
        for (link, connection) in &mut self.connections {
            let client = &mut self.clients[connection.client];
            let is_own = client.link == Some(link);
            if !is_own || connection.is_garbled {
                connection.abandon(0);
            }
            if is_own && connection.is_garbled {
                client.end();
            }
        }
    }

    /// Everybody comes who has a session, until nothing is owed to anybody.
    ///
    /// Where memory is too short for all at one time, a broker may refuse whom it has no room for; so they take turns:
    /// who has come and is owed nothing leaves for those outside, who have to be let in then.
    fn drain(&mut self) -> Held {
        let mut came = vec![false; self.clients.len()];
        let (mut idle, mut before) = (0, None);
        while idle < IDLE_ROUNDS_MAX {
            let stats = self.broker.stats();
            let now = Some((
                self.oracle.delivered,
                self.oracle.accepted,
                stats.queued_messages + stats.inflight_messages + stats.spilled_messages,
                came.iter().filter(|came| **came).count(),
                self.clients
                    .iter()
                    .map(|client| client.unfinished.len())
                    .sum::<usize>(),
            ));
            idle = if now == before { idle + 1 } else { 0 };
            before = now;
            for (who, came) in came.iter().enumerate() {
                if self.clients[who].link.is_none() && self.wants_in(who, *came) {
                    let connect = self.lasting_connect(who);
                    self.open(who, connect)?;
                }
                self.answer(who, usize::MAX)?;
            }
            for link in std::mem::take(&mut self.verifying) {
                let verdict = Verdict::Allow;
                self.input(
                    Cause::Verified { link, is_right: true },
                    Input::Verified { link, verdict },
                )?;
            }
            self.carry_all()?;
            self.mend_store()?;
            self.commit(usize::MAX)?;
            self.tell_recalled(usize::MAX)?;
            self.wait(Duration::from_millis(20))?;
            for (came, client) in came.iter_mut().zip(&self.clients) {
                *came |= client.is_in;
            }
            if self.is_quiet(&came) {
                return Ok(());
            }
            if !self.setup.is_roomy && idle >= IDLE_ROUNDS_OF_A_TURN {
                self.take_turns(&came)?;
            }
        }
        let (stats, view) = (self.broker.stats(), self.broker.store());
        hold(false, "L1", || {
            let health = self.store.as_ref().map(|store| store.health);
            let bytes = self.store.as_ref().map(|store| store.journal_bytes());
            format!(
                "what is owed is never paid: {view:?}, the store is {health:?} with {bytes:?} bytes; {stats:?}"
            )
        })
    }

    /// Whether a client that is away has something to come for.
    fn wants_in(&self, who: usize, came: bool) -> bool {
        self.oracle.has_session(&self.clients[who].name) && !(came && self.is_done_with(who))
    }

    /// Whether neither a client nor the broker is owed anything by the other.
    fn is_done_with(&self, who: usize) -> bool {
        let client = &self.clients[who];
        let id = ClientId::new(text(&client.name)).expect("it has a name");
        let view = self.broker.view_session(self.now.mono, &id);
        client.answers.is_empty()
            && (client.unfinished.is_empty() || client.strays)
            && view
                .is_none_or(|view| view.queued_messages + view.inflight_messages + view.spilled_messages == 0)
    }

    /// Who is done with leaves, if anybody is outside and wants in.
    fn take_turns(&mut self, came: &[bool]) -> Held {
        let is_outside = |who: usize| self.clients[who].link.is_none() && self.wants_in(who, came[who]);
        if !(0..came.len()).any(is_outside) {
            return Ok(());
        }
        for who in 0..came.len() {
            if self.clients[who].is_in && self.is_done_with(who) {
                self.say(who, Packet::Disconnect(Box::default()))?;
                self.leave(who, false);
            }
        }
        self.carry_all()
    }

    /// A journal that found no room, or failed before the faults were over, is tried again.
    fn mend_store(&mut self) -> Held {
        match &self.store {
            Some(store) if store.health == StoreHealth::Failed => self.set_health(StoreHealth::Ready),
            _ => Ok(()),
        }
    }

    /// CONNECT of a client that wants all it is owed.
    fn lasting_connect(&self, who: usize) -> Connect {
        let mut connect = self.plain_connect(who);
        if connect.version == ProtocolVersion::V5 {
            connect.properties.session_expiry_secs = Some(u32::MAX);
        }
        connect
    }

    fn is_quiet(&self, came: &[bool]) -> bool {
        let stats = self.broker.stats();
        let is_done = |who: usize| {
            let client = &self.clients[who];
            match client.link {
                None => !self.wants_in(who, came[who]),
                Some(_) => {
                    client.is_in
                        && client.answers.is_empty()
                        && (client.unfinished.is_empty() || client.strays)
                }
            }
        };
        stats.queued_messages == 0
            && stats.inflight_messages == 0
            && self.verifying.is_empty()
            && self
                .broker
                .store()
                .is_none_or(|view| view.stored == view.given && view.parked == 0)
            && (0..self.clients.len()).all(is_done)
            && (self.connections.values())
                .all(|connection| connection.down_bytes() == 0 && connection.up_bytes() == 0)
    }

    /// The gateway retains more than goes to anybody at once, where there is room (L2).
    fn retain_much(&mut self) -> Held {
        for number in 0..2 * SLICE_MAX {
            let own = Message {
                topic: TopicName::try_from(&*format!("much/{number}")).expect("a topic"),
                payload: Bytes::from_static(b"much"),
                qos: QoS::AtMostOnce,
                retain: true,
                properties: None,
            };
            self.input(Cause::Own(own.clone()), Input::Publish(own))?;
        }
        Ok(())
    }

    /// Somebody new is told exactly what is retained (D5).
    fn audit(&mut self) -> Held {
        if self.setup.is_roomy {
            self.retain_much()?;
        }
        let user = Some(AUDITOR.to_string());
        self.clients
            .push(Client::new(AUDITOR.into(), user, ProtocolVersion::V5));
        let who = self.clients.len() - 1;
        self.clients[who].kept = Some(Default::default());
        let connect = self.plain_connect(who);
        self.open(who, connect)?;
        self.drain_one(who)?;
        if !self.clients[who].is_in {
            return hold(!self.setup.is_roomy, "L1", || {
                "there is room, and a new client is not let in".into()
            });
        }
        let refused_before = self.broker.stats().subscriptions_refused;
        let packet_id = self.clients[who].free_id();
        self.clients[who].requests.insert(packet_id);
        let subscription = tidegate::mqtt::Subscription {
            filter: tidegate::mqtt::TopicFilter::try_from("#").expect("a filter"),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: Default::default(),
        };
        let subscribe = Subscribe {
            packet_id,
            subscriptions: [subscription].into_iter().collect(),
            properties: SubscribeProperties::default(),
        };
        self.say(who, Packet::Subscribe(Box::new(subscribe)))?;
        self.drain_one(who)?;
        if self.broker.stats().subscriptions_refused > refused_before {
            return hold(!self.setup.is_roomy, "L1", || {
                "there is room, and a new client may not subscribe".into()
            });
        }
        if !self.clients[who].is_in {
            return hold(!self.setup.is_roomy, "L1", || {
                "there is room, and a new client is sent away".into()
            });
        }
        let kept = self.clients[who].kept.take().unwrap_or_default();
        for (topic, payload) in self.oracle.retained() {
            hold(kept.get(topic) == Some(payload), "D5", || {
                format!(
                    "{topic} retains {payload:?}, and a new subscriber got {:?}",
                    kept.get(topic)
                )
            })?;
        }
        Ok(())
    }

    fn drain_one(&mut self, who: usize) -> Held {
        for _ in 0..100 {
            for link in std::mem::take(&mut self.verifying) {
                let verdict = Verdict::Allow;
                self.input(
                    Cause::Verified { link, is_right: true },
                    Input::Verified { link, verdict },
                )?;
            }
            self.carry_all()?;
            self.commit(usize::MAX)?;
            self.answer(who, usize::MAX)?;
        }
        Ok(())
    }

    /// Everybody goes for good, and nothing of anybody is left (M2).
    fn leave_empty(&mut self) -> Held {
        for link in self.connections.keys().collect::<Vec<_>>() {
            self.abandon(link, 0);
        }
        for client in &mut self.clients {
            client.end();
        }
        self.carry_all()?;
        self.wait(self.setup.limits.session_expiry_max + Duration::from_secs(1))?;
        self.walk()?;
        let stats = self.broker.stats();
        let left = [
            stats.links,
            stats.sessions,
            stats.subscriptions,
            stats.queued_messages,
            stats.queued_bytes,
            stats.inflight_messages,
            stats.wills_bytes,
        ];
        hold(left == [0; 7], "M2", || {
            format!("everybody has gone, and there is left {stats:?}")
        })
    }
}

/// What a whole run came to.
pub struct Outcome {
    pub held: Held,
    /// The number of acts until it ended.
    pub steps: usize,
    pub trace: u64,
    pub delivered: u64,
    pub accepted: u64,
    pub story: Vec<String>,
    pub summary: String,
}

/// Runs a history to its end, and heals; a panic of the broker is an outcome like any other.
pub fn run(setup: &Setup, history: &[Act], walk_every: u64, tells: bool) -> Outcome {
    let mut world = World::of(setup.clone()).walking_every(walk_every);
    world.story = tells.then(Vec::new);
    let mut steps = 0;
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for &act in history {
            if let Some(story) = &mut world.story {
                story.push(format!("{:?}", act.kind));
            }
            world.act(act)?;
            steps += 1;
        }
        if let Some(story) = &mut world.story {
            story.push("heal".into());
        }
        world.heal()
    }));
    let held = run.unwrap_or_else(|panic| {
        let text = (panic.downcast_ref::<String>().cloned())
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_default();
        Err(Violation::new("PANIC", text))
    });
    Outcome {
        held,
        steps,
        trace: world.trace,
        delivered: world.oracle.delivered,
        accepted: world.oracle.accepted,
        summary: world.summary(),
        story: world.story.take().unwrap_or_default(),
    }
}

/// The history that a seed stands for, and the terms of its world.
pub fn draw(seed: u64, steps: usize) -> (Setup, Vec<Act>) {
    let mut chance = Chance(seed);
    let setup = Setup::draw(&mut chance);
    let history = (0..steps)
        .map(|_| Act::draw(&mut chance, &setup.weights))
        .collect();
    (setup, history)
}
