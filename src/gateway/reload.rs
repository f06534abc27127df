//! Reloading: the configuration is read again while the gateway runs, and takes effect as one change or not at all.
//!
//! ```text
//!   asked ─▶ another thread reads the file and every file it names ─▶ new sockets are bound ─▶ the switch
//!                │ a mistake                                             │ an error              one step, in which
//!                └────────────▶ all stays as it was ◀────────────────────┘                       nothing else runs
//! ```
//!
//! Everything that can fail comes before the switch. Then, in one borrow of the core:
//!
//! - **Doors.** One at the same address keeps its socket, and with it whoever waits in the kernel's queue. One that is
//!   gone is closed; clients that came through it stay until they leave, or are kicked by its name. A connection that
//!   was on its way in through a door that is gone or grants other things is ended, and finds the new rules when it
//!   comes again. A handshake that began with one certificate ends with it.
//! - **Users.** Who is gone from the password file, or has another password, is sent away with 0x87, as is an anonymous
//!   client whose door is not anonymous any more. A password that is being checked is checked again.
//! - **Bounds, rights, choices.** All that comes is held to them; see `broker::Reconfiguration`.
//! - **The operator's doors.** Their certificates are replaced like those of the others, and nothing else of them.
//! - **Hooks of the configuration.** Where they changed, others take their place, and remember no answers. What waits
//!   for the answer of one that is gone is asked anew. Who was let in stays.
//! - **Serial ports.** One that changed is closed and opened; the others are not touched.
//!
//! What cannot change without a restart keeps its old value, and a warning names it: [`KEPT`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use rustls::time_provider::TimeProvider;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tracing::{Level, debug, info, warn};

use super::audit::Audit;
use super::own_hooks::OwnHooks;
use super::state::{Core, Hold, now};
use super::{accept, is_no_such_address};
use crate::admin::{self, statistics::Statistics};
use crate::auth::guessing::Guessing;
use crate::broker::{Input, ListenerPolicy, Reconfiguration};
use crate::callback;
use crate::config::{self, Mistake, Settings};
use crate::mqtt::Utf8String;
use crate::net::endpoint::Endpoint;
use crate::net::listener::{Entrance, Listener, NetError};
use crate::net::tls::{self, Connector};
use crate::serial::{self, PortSettings};

pub use crate::admin::operator::Reloaded;

/// The keys whose change needs a restart.
pub const KEPT: [&str; 3] = ["gateway.state_directory", "limits.kick_queue_max", "admin"];

/// How many may wait for one reload; whoever sends signals waits for nothing.
const WAITING_MAX: usize = 64;

/// Turns of the loop in which the tasks of a door that is closed have ended; two are enough.
const TURNS_TO_CLOSE: usize = 16;

/// Asks the gateway to read its configuration again; from any thread.
#[derive(Clone)]
pub struct ReloadHandle(Arc<Desk>);

/// The outcome of a reload that was asked for; dropping it takes nothing back.
#[derive(Debug)]
pub struct PendingReload(oneshot::Receiver<Outcome>);

/// What a reload came to.
pub type Outcome = Result<Reloaded, ReloadError>;

/// Why all stayed as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadError {
    /// These are wrong, each with its place where it has one.
    Rejected(Vec<String>),
    /// Too many wait for a reload already.
    Busy,
    /// The gateway was started without anything to read again.
    NothingToRead,
    /// The gateway has ended, or ends.
    Closed,
}

/// What is read again, and what beside the gateway goes by it.
pub(super) struct Source {
    load: Box<dyn Fn() -> Result<Settings, Vec<Mistake>> + Send + Sync>,
    set_log: Box<dyn Fn(Level) + Send + Sync>,
}

/// Those who wait for a reload.
pub(super) struct Desk {
    /// `None` once nobody reloads any more.
    waiting: Mutex<Option<Vec<oneshot::Sender<Outcome>>>>,
    asked: Notify,
}

/// What runs beside the core and a reload can change.
pub(super) struct Running {
    pub(super) settings: Settings,
    pub(super) entrance: Rc<Entrance>,
    pub(super) clock: Arc<dyn TimeProvider>,
    pub(super) doors: Vec<OpenDoor>,
    pub(super) ports: Vec<OpenPort>,
    /// Doors that were closed, until their sockets are.
    pub(super) closing: Vec<Weak<Listener>>,
    /// What each of the operator's doors listens by, in the order of the settings; `None` for one that is absent.
    pub(super) operators: Vec<Option<Rc<Listener>>>,
    pub(super) own_hooks: OwnHooks,
    /// Those of doors, ports and the HTTP callback.
    pub(super) tasks: JoinSet<()>,
}

/// A door that is open.
pub(super) struct OpenDoor {
    /// As it was written.
    settings: config::Listener,
    listener: Rc<Listener>,
    policy: Rc<ListenerPolicy>,
    entry: Option<Entry>,
}

/// A door's accepting task.
struct Entry {
    task: AbortHandle,
    /// Who has not ended its handshake by then stays outside.
    is_over: Rc<Cell<bool>>,
}

/// A serial port that is driven.
pub(super) struct OpenPort {
    settings: PortSettings,
    task: AbortHandle,
}

/// What was read: complete, and nothing of it in force.
struct Read {
    settings: Settings,
    /// Of each listener.
    servers: Vec<Option<tls::Server>>,
    /// Of each of the operator's doors.
    operator_servers: Vec<Option<tls::Server>>,
    /// What the HTTP server is dialled by that is asked.
    connector: Option<Connector>,
}

/// What is to be; each number is one of a door that is open.
struct Plan {
    settings: Settings,
    doors: Vec<PlannedDoor>,
    /// Of each of the operator's doors.
    operator_servers: Vec<Option<tls::Server>>,
    connector: Option<Connector>,
}

/// A door as it is to be.
struct PlannedDoor {
    settings: config::Listener,
    what: What,
}

enum What {
    /// The open door of this number, with these certificates.
    Keep(usize, Option<tls::Server>),
    /// The socket of the open door of this number.
    Change(usize, Option<tls::Server>),
    /// Another socket.
    Open(Box<Listener>),
}

impl Source {
    pub(super) fn new(
        load: impl Fn() -> Result<Settings, Vec<Mistake>> + Send + Sync + 'static,
        set_log: impl Fn(Level) + Send + Sync + 'static,
    ) -> Self {
        Self {
            load: Box::new(load),
            set_log: Box::new(set_log),
        }
    }

    /// Reads everything; slow, so on a thread of its own.
    fn read(&self, clock: &Arc<dyn TimeProvider>) -> Result<Read, Vec<String>> {
        let settings = (self.load)().map_err(|mistakes| texts_of(&mistakes))?;
        let mut mistakes = Vec::new();
        let mut read = |net| match Listener::tls_of(net, clock.clone()) {
            Ok(server) => server,
            Err(error) => {
                mistakes.push(error.to_string());
                None
            }
        };
        let servers = (settings.listeners.iter()).map(|door| read(&door.net));
        let servers = servers.collect();
        let operator_servers = (settings.admin.doors.iter()).map(|door| read(&door.net));
        let operator_servers = operator_servers.collect();
        let http = settings.hooks.http.as_ref();
        let connector = http.map(|http| callback::connector(http, clock.clone()));
        let connector = connector.transpose().unwrap_or_else(|error| {
            mistakes.push(format!("hook.http: {error}"));
            None
        });
        if mistakes.is_empty() {
            Ok(Read {
                settings,
                servers,
                operator_servers,
                connector: connector.flatten(),
            })
        } else {
            mistakes.dedup(); // the same files may be those of several addresses
            Err(mistakes)
        }
    }
}

impl ReloadHandle {
    pub(super) fn new() -> Self {
        Self(Arc::new(Desk {
            waiting: Mutex::new(Some(Vec::new())),
            asked: Notify::new(),
        }))
    }

    /// Asks for a reload; all who ask before it begins get the same one.
    pub fn ask(&self) -> PendingReload {
        let (answer, pending) = oneshot::channel();
        let refusal = match &mut *self.lock() {
            None => Some((answer, ReloadError::Closed)),
            Some(waiting) if waiting.len() >= WAITING_MAX => Some((answer, ReloadError::Busy)),
            Some(waiting) => {
                waiting.push(answer);
                None
            }
        };
        match refusal {
            // Whether anybody waits for it is their own affair.
            Some((answer, error)) => drop(answer.send(Err(error))),
            None => self.0.asked.notify_one(),
        }
        PendingReload(pending)
    }

    /// Asks for a reload and waits for what it comes to.
    ///
    /// # Errors
    /// [`ReloadError`]; all is as it was.
    pub async fn reload(&self) -> Outcome {
        self.ask().await
    }

    /// Refuses all who ask from here on.
    pub(super) fn close(&self) {
        let waiting = self.lock().take();
        answer(waiting.unwrap_or_default(), &Err(ReloadError::Closed));
    }

    fn take(&self) -> Vec<oneshot::Sender<Outcome>> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<oneshot::Sender<Outcome>>>> {
        // Nothing panics while it is held.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for PendingReload {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let answer = Pin::new(&mut self.0).poll(cx);
        answer.map(|answer| answer.unwrap_or(Err(ReloadError::Closed)))
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(mistakes) => {
                match mistakes.len() {
                    1 => f.write_str("1 mistake, all stays as it was")?,
                    count => write!(f, "{count} mistakes, all stays as it was")?,
                }
                mistakes.iter().try_for_each(|mistake| write!(f, "; {mistake}"))
            }
            Self::Busy => f.write_str("too many wait for a reload already"),
            Self::NothingToRead => f.write_str("there is no configuration to read again"),
            Self::Closed => f.write_str("the gateway ends"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl Running {
    /// The doors by name, each with the address it really has.
    pub(super) fn addresses(&self) -> Vec<(String, Endpoint)> {
        let doors = self.doors.iter();
        doors
            .map(|door| (door.policy.name.clone(), door.listener.endpoint().clone()))
            .collect()
    }

    /// The doors, each with what it grants.
    pub(super) fn granting(&self) -> impl Iterator<Item = (&Listener, &ListenerPolicy)> {
        self.doors.iter().map(|door| (&*door.listener, &*door.policy))
    }

    /// Lets go of the doors, whose tasks have ended: nobody finds one open from here on.
    pub(super) fn close_doors(&mut self) {
        self.doors.clear();
    }

    /// The doors, one for each address.
    pub(super) fn listeners(&self) -> impl Iterator<Item = Rc<Listener>> {
        self.doors.iter().map(|door| door.listener.clone())
    }

    /// Opens all doors and drives all ports that the settings say.
    pub(super) fn begin(&mut self, core: &Hold) {
        for number in 0..self.doors.len() {
            self.admit(core, number);
        }
        for port in self.settings.serial.clone() {
            self.drive(core, port);
        }
    }

    /// Opens what stands behind a door that is bound.
    fn admit(&mut self, core: &Hold, number: usize) {
        let Some(door) = self.doors.get_mut(number) else {
            return;
        };
        let is_over = Rc::new(Cell::new(false));
        let (listener, policy) = (door.listener.clone(), door.policy.clone());
        let task = (self.tasks).spawn_local(accept(core.clone(), listener, policy, is_over.clone()));
        door.entry = Some(Entry { task, is_over });
    }

    /// Drives a serial port.
    fn drive(&mut self, core: &Hold, settings: PortSettings) {
        let (core, port) = (core.clone(), settings.clone());
        let task = self.tasks.spawn_local(async move {
            serial::run(port, |message| {
                core.borrow_mut().input(now(), Input::Publish(message));
            })
            .await;
        });
        self.ports.push(OpenPort { settings, task });
    }

    /// What is told of the serial ports when nobody reads them any more.
    pub(super) fn farewells(&self) -> Vec<crate::broker::Message> {
        let ports = self.ports.iter();
        ports
            .flat_map(|port| serial::offline_messages(&port.settings))
            .collect()
    }

    /// Binds what is new, and does all else that can fail.
    fn plan(&self, read: Read) -> Result<Plan, Vec<String>> {
        let Read {
            settings,
            servers,
            operator_servers,
            connector,
        } = read;
        let mut doors = Vec::new();
        let mut free: Vec<Option<&OpenDoor>> = self.doors.iter().map(Some).collect();
        // Those of the same name first, for where the port is left to the system it is all that tells them apart.
        let mut kept = Vec::new();
        for is_same_name in [true, false] {
            for (number, wanted) in settings.listeners.iter().enumerate() {
                if kept.iter().any(|(known, _)| *known == number) {
                    continue;
                }
                let found = free.iter().position(|door| {
                    door.is_some_and(|door| is_same_place(&door.settings, wanted, is_same_name))
                });
                if let Some(found) = found
                    && let Some(place) = free.get_mut(found)
                {
                    *place = None;
                    kept.push((number, found));
                }
            }
        }
        let closing: Vec<&Listener> = free.iter().flatten().map(|door| &*door.listener).collect();
        let mut mistakes = Vec::new();
        for (number, (wanted, server)) in settings.listeners.iter().zip(servers).enumerate() {
            let found = kept.iter().find(|(known, _)| *known == number);
            let what = match found {
                Some(&(_, found)) => {
                    // A connection is held to the packet size that it found, and its client would be told the new one.
                    let is_same = self.doors.get(found).is_some_and(|door| door.settings == *wanted)
                        && self.settings.limits.packet_bytes_max == settings.limits.packet_bytes_max;
                    match is_same {
                        true => What::Keep(found, server),
                        false => What::Change(found, server),
                    }
                }
                None => {
                    let others: Vec<&Listener> = (closing.iter().copied())
                        .filter(|other| is_same_port(other.endpoint(), &wanted.net.endpoint))
                        .collect();
                    match Listener::open_instead(
                        &self.entrance,
                        wanted.net.clone(),
                        server,
                        self.clock.clone(),
                        &others,
                    ) {
                        Ok(listener) => What::Open(Box::new(listener)),
                        Err(NetError::Listen { source, .. })
                            if wanted.may_be_absent && is_no_such_address(&source) =>
                        {
                            let address = &wanted.net.endpoint;
                            debug!(%address, "this machine has no such address, going on without");
                            continue;
                        }
                        Err(error) => {
                            mistakes.push(error.to_string());
                            continue;
                        }
                    }
                }
            };
            doors.push(PlannedDoor {
                settings: wanted.clone(),
                what,
            });
        }
        if mistakes.is_empty() {
            self.set_permissions(&doors).map_err(|error| vec![error])?;
            Ok(Plan {
                settings,
                doors,
                operator_servers,
                connector,
            })
        } else {
            Err(mistakes)
        }
    }

    /// Gives the files of Unix sockets that stay other permissions; all of them or none.
    fn set_permissions(&self, doors: &[PlannedDoor]) -> Result<(), String> {
        let mut done: Vec<&OpenDoor> = Vec::new();
        for planned in doors {
            let What::Change(found, _) = planned.what else {
                continue;
            };
            let Some(door) = self.doors.get(found) else {
                continue;
            };
            let (old, new) = (&door.settings.net.endpoint, &planned.settings.net.endpoint);
            if old == new || new.ip().is_some() {
                continue;
            }
            done.push(door);
            if let Err(error) = door.listener.set_permissions(new) {
                for door in done {
                    if let Err(error) = door.listener.set_permissions(&door.settings.net.endpoint) {
                        warn!(%error, listener = door.listener.name(), "the old permissions could not be restored");
                    }
                }
                return Err(format!(
                    "listener {:?}, {new}: {error}",
                    planned.settings.net.name
                ));
            }
        }
        Ok(())
    }

    /// The switch: nothing in it waits, and nothing in it fails.
    fn switch(&mut self, core: &Hold, plan: Plan) -> Reloaded {
        let Plan {
            mut settings,
            doors,
            operator_servers,
            connector,
        } = plan;
        let mut reloaded = Reloaded::default();
        if is_same_but_for_certificates(&self.settings.admin, &settings.admin) {
            for (door, server) in self.operators.iter().zip(operator_servers) {
                if let (Some(door), Some(server)) = (door, server) {
                    door.replace_tls(server);
                    reloaded.certificates += 1;
                }
            }
        }
        keep_what_needs_a_restart(&self.settings, &mut settings, &mut reloaded.warnings);
        self.switch_doors(core, doors, &settings, &mut reloaded);
        self.switch_core(core, &settings, connector, &mut reloaded);
        self.switch_ports(core, &settings.serial, &mut reloaded);
        self.settings = settings;
        reloaded
    }

    fn switch_doors(
        &mut self,
        core: &Hold,
        planned: Vec<PlannedDoor>,
        settings: &Settings,
        reloaded: &mut Reloaded,
    ) {
        let mut old: Vec<Option<OpenDoor>> = std::mem::take(&mut self.doors).into_iter().map(Some).collect();
        let mut beginning = Vec::new();
        let sockets_before = old.len();
        for PlannedDoor { settings, what } in planned {
            let mut take = |number: usize| old.get_mut(number).and_then(Option::take);
            let policy = || Rc::new(settings.policy.clone());
            let door = match what {
                What::Keep(number, server) => {
                    let Some(door) = take(number) else { continue };
                    if let Some(server) = server {
                        door.listener.replace_tls(server);
                        reloaded.certificates += 1;
                    }
                    door
                }
                What::Change(number, server) => {
                    let Some(door) = take(number) else { continue };
                    reloaded.certificates += usize::from(server.is_some());
                    reloaded.listeners_changed += usize::from(door.settings != settings);
                    door.end();
                    beginning.push(self.doors.len());
                    OpenDoor {
                        listener: Rc::new(door.listener.changed(settings.net.clone(), server)),
                        policy: policy(),
                        settings,
                        entry: None,
                    }
                }
                What::Open(listener) => {
                    reloaded.listeners_added += 1;
                    info!(listener = listener.name(), address = %listener.endpoint(), "listening");
                    beginning.push(self.doors.len());
                    OpenDoor {
                        listener: Rc::from(listener),
                        policy: policy(),
                        settings,
                        entry: None,
                    }
                }
            };
            self.doors.push(door);
        }
        for door in old.into_iter().flatten() {
            self.closing.push(Rc::downgrade(&door.listener));
            reloaded.listeners_removed += 1;
            info!(listener = door.listener.name(), address = %door.listener.endpoint(), "not listening any more");
            door.end();
        }
        for number in beginning {
            self.admit(core, number);
        }
        // Of a door: its socket, and the spare to close on others with.
        let own = |doors: usize, ports: usize| doors * 2 + ports;
        let room = (self.entrance.descriptors_max())
            .saturating_add(own(sockets_before, self.ports.len()))
            .saturating_sub(own(self.doors.len(), settings.serial.len()));
        self.entrance.resize(settings.limits.connections_max, room.max(1));
    }

    fn switch_core(
        &mut self,
        core: &Hold,
        settings: &Settings,
        connector: Option<Connector>,
        reloaded: &mut Reloaded,
    ) {
        let revoked: Vec<Utf8String> = match (&self.settings.users, &settings.users) {
            (Some(old), new) => (old.revoked_by(new.as_deref()))
                .filter_map(|name| Utf8String::try_from(name).ok())
                .collect(),
            (None, _) => Vec::new(),
        };
        reloaded.users_revoked = revoked.len();
        reloaded.rights_changed = self.settings.rights != settings.rights;
        reloaded.limits_changed =
            self.settings.limits != settings.limits || self.settings.choices != settings.choices;
        reloaded.hooks_changed = self.settings.hooks != settings.hooks;
        let hooks = (self.own_hooks).change(&self.settings, settings, connector, &mut self.tasks);
        let mut core = core.borrow_mut();
        core.users = settings.users.clone();
        core.tokens = settings.tokens.clone();
        if settings.guessing != self.settings.guessing {
            core.guessing = Guessing::new(settings.guessing); // who failed before begins anew
        }
        if settings.audit != self.settings.audit {
            core.audit = Audit::new(settings.audit, Instant::now());
        }
        for user in &revoked {
            core.remembered.forget(user);
        }
        if settings.statistics_interval != self.settings.statistics_interval {
            let statistics = settings.statistics_interval;
            core.statistics = statistics.map(|interval| Statistics::new(interval, Instant::now()));
        }
        let changed = Reconfiguration {
            limits: settings.limits.clone(),
            settings: settings.choices.clone(),
            rights: reloaded.rights_changed.then(|| settings.rights.clone()),
            listeners: self.doors.iter().map(|door| door.policy.clone()).collect(),
            revoked,
            hooks,
        };
        core.input(now(), Input::Reconfigured(Box::new(changed)));
    }

    fn switch_ports(&mut self, core: &Hold, wanted: &[PortSettings], reloaded: &mut Reloaded) {
        let (kept, closed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ports)
            .into_iter()
            .partition(|port| wanted.contains(&port.settings));
        self.ports = kept;
        for port in closed {
            port.task.abort();
            reloaded.ports_closed += 1;
            for message in serial::offline_messages(&port.settings) {
                core.borrow_mut().input(now(), Input::Publish(message));
            }
        }
        for settings in wanted {
            if !self.ports.iter().any(|port| port.settings == *settings) {
                reloaded.ports_opened += 1;
                self.drive(core, settings.clone());
            }
        }
    }
}

impl OpenDoor {
    pub(super) fn new(settings: &config::Listener, listener: Listener) -> Self {
        Self {
            settings: settings.clone(),
            listener: Rc::new(listener),
            policy: Rc::new(settings.policy.clone()),
            entry: None,
        }
    }

    /// Lets nobody in any more.
    fn end(&self) {
        if let Some(Entry { task, is_over }) = &self.entry {
            is_over.set(true);
            task.abort();
        }
    }
}

/// Reloads whenever somebody asks for it, one after the other.
pub(super) async fn reload_when_asked(
    core: Hold,
    running: Rc<RefCell<Running>>,
    handle: ReloadHandle,
    source: Option<Source>,
) {
    let source = source.map(Arc::new);
    loop {
        handle.0.asked.notified().await;
        let waiting = handle.take();
        if let Some(supervisor) = &core.borrow().supervisor {
            supervisor.reloading();
        }
        let outcome = match &source {
            Some(source) => reload(&core, &running, source).await,
            None => Err(ReloadError::NothingToRead),
        };
        let doors = running.borrow().doors.len();
        core.borrow_mut().count_reload(&outcome);
        core.borrow_mut().tell_ready(doors);
        tell(&outcome);
        answer(waiting, &outcome);
    }
}

impl Core {
    fn count_reload(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(_) => self.reloads.done += 1,
            Err(ReloadError::Rejected(_)) => self.reloads.rejected += 1,
            Err(_) => {}
        }
    }
}

async fn reload(core: &Hold, running: &Rc<RefCell<Running>>, source: &Arc<Source>) -> Outcome {
    info!("reloading the configuration");
    let reading = {
        let (source, clock) = (source.clone(), running.borrow().clock.clone());
        tokio::task::spawn_blocking(move || source.read(&clock))
    };
    let read = match reading.await {
        Ok(read) => read.map_err(ReloadError::Rejected)?,
        Err(error) => return Err(ReloadError::Rejected(vec![error.to_string()])),
    };
    let (reloaded, closing) = {
        // Nothing in here waits, so nobody sees a part of it.
        let mut running = running.borrow_mut();
        let plan = running.plan(read).map_err(ReloadError::Rejected)?;
        let mut reloaded = running.switch(core, plan);
        (source.set_log)(running.settings.log);
        reloaded.warnings.extend(texts_of(&running.settings.warnings));
        while running.tasks.try_join_next().is_some() {}
        (reloaded, std::mem::take(&mut running.closing))
    };
    // Whoever is told that it is done finds no closed door open: its tasks end with the next turns.
    for _ in 0..TURNS_TO_CLOSE {
        if closing.iter().all(|door| door.strong_count() == 0) {
            break;
        }
        yield_now().await;
    }
    Ok(reloaded)
}

/// Whether the socket of an open door will do for one that is wanted.
fn is_same_place(open: &config::Listener, wanted: &config::Listener, is_same_name: bool) -> bool {
    let is_place = match (&open.net.endpoint, &wanted.net.endpoint) {
        (Endpoint::Tcp(open), Endpoint::Tcp(wanted)) => open == wanted && (open.port() != 0 || is_same_name),
        (Endpoint::Unix(open), Endpoint::Unix(wanted)) => open.path == wanted.path,
        _ => false,
    };
    is_place && (!is_same_name || open.net.name == wanted.net.name)
}

fn is_same_port(open: &Endpoint, wanted: &Endpoint) -> bool {
    match (open.ip(), wanted.ip()) {
        (Some(open), Some(wanted)) => open.port() == wanted.port() && open.is_ipv4() == wanted.is_ipv4(),
        _ => false,
    }
}

/// Puts back what a running gateway cannot change, and says so.
fn keep_what_needs_a_restart(old: &Settings, new: &mut Settings, warnings: &mut Vec<String>) {
    let [directory, queue_class, admin] = KEPT;
    let mut warn = |key| warnings.push(format!("{key} changes with a restart only, and stays as it was"));
    if old.storage.as_ref().map(|storage| &storage.directory)
        != new.storage.as_ref().map(|storage| &storage.directory)
    {
        warn(directory);
        new.storage.clone_from(&old.storage);
    }
    if old.limits.kick_queue_class != new.limits.kick_queue_class {
        warn(queue_class);
        new.limits.kick_queue_class = old.limits.kick_queue_class;
    }
    if !is_same_but_for_certificates(&old.admin, &new.admin) {
        warn(admin);
        new.admin.clone_from(&old.admin);
    }
}

/// Whether two settings want the same of the operator's doors, whichever files their certificates are in.
fn is_same_but_for_certificates(one: &admin::settings::Settings, other: &admin::settings::Settings) -> bool {
    let plain = |settings: &admin::settings::Settings| {
        let mut doors = settings.doors.clone();
        let had_tls: Vec<bool> = (doors.iter_mut())
            .map(|door| door.net.tls.take().is_some())
            .collect();
        (doors, had_tls)
    };
    plain(one) == plain(other)
}

fn texts_of(mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(ToString::to_string).collect()
}

fn answer(waiting: Vec<oneshot::Sender<Outcome>>, outcome: &Outcome) {
    for answer in waiting {
        // Who has stopped waiting needs none.
        drop(answer.send(outcome.clone()));
    }
}

/// Tells the log what a reload came to, every mistake in a line of its own.
fn tell(outcome: &Outcome) {
    match outcome {
        Ok(reloaded) => {
            for warning in &reloaded.warnings {
                warn!("{warning}");
            }
            info!(
                listeners_added = reloaded.listeners_added,
                listeners_removed = reloaded.listeners_removed,
                listeners_changed = reloaded.listeners_changed,
                certificates = reloaded.certificates,
                users_revoked = reloaded.users_revoked,
                rights_changed = reloaded.rights_changed,
                limits_changed = reloaded.limits_changed,
                hooks_changed = reloaded.hooks_changed,
                ports_opened = reloaded.ports_opened,
                ports_closed = reloaded.ports_closed,
                "configuration reloaded"
            );
        }
        Err(ReloadError::Rejected(mistakes)) => {
            for mistake in mistakes {
                warn!("{mistake}");
            }
            warn!(
                mistakes = mistakes.len(),
                "the configuration was not reloaded, all stays as it was"
            );
        }
        Err(error) => warn!(%error, "the configuration was not reloaded"),
    }
}
