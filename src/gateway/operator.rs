//! The gateway as an operator sees it, and the operator's doors.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use rustls::time_provider::TimeProvider;
use tracing::warn;

use super::reload::{ReloadError, ReloadHandle, Running};
use super::state::{Core, Hold, now};
use crate::admin::api::{self, Trouble};
use crate::admin::operator::{
    AboutView, JournalView, LinkView, ListenerView, Operator, Reloading, SerialPortView, ValueView,
};
use crate::admin::server::{Desk, Door};
use crate::admin::settings::DoorSettings;
use crate::admin::statistics::{Reloads, Traffic};
use crate::broker::{BanSubject, Broker, Input, LinkId, ListenerPolicy, Message, Now, StoreHealth};
use crate::config::effective;
use crate::kick::KickHandle;
use crate::mqtt::TopicName;
use crate::net::endpoint::Endpoint;
use crate::net::listener::{Listener, NetError};

/// What an operator may ask for that is not the core's.
pub(super) struct Office {
    started: Instant,
    running: Rc<RefCell<Running>>,
    kicks: KickHandle,
    reloads: ReloadHandle,
}

impl Office {
    pub(super) fn new(running: Rc<RefCell<Running>>, kicks: KickHandle, reloads: ReloadHandle) -> Self {
        Self {
            started: Instant::now(),
            running,
            kicks,
            reloads,
        }
    }
}

/// Opens an operator's door; `None` where there is no place for one that nobody asked for.
pub(super) fn open_door(
    settings: &DoorSettings,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Option<Door>, NetError> {
    match Listener::bind(settings.net.clone(), Some(clock.clone())) {
        Ok(listener) => Ok(Some(Door::new(settings, listener))),
        Err(error) if settings.may_be_absent => {
            warn!(%error, "no socket for operators, going on without");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whoever answers operators, over `core`.
pub(super) fn desk(core: Hold, office: Office) -> Desk {
    let office = Rc::new(office);
    Rc::new(move |route, call| {
        let mut core = core.borrow_mut();
        let mut view = View {
            now: now(),
            core: &mut core,
            office: &office,
        };
        api::answer(&mut view, route, call)
    })
}

struct View<'a> {
    now: Now,
    core: &'a mut Core,
    office: &'a Office,
}

impl Operator for View<'_> {
    fn now(&self) -> Now {
        self.now
    }

    fn broker(&self) -> &Broker {
        &self.core.broker
    }

    fn journal(&self) -> JournalView {
        let (Some(view), Some(store)) = (self.core.broker.store(), &self.core.store) else {
            return JournalView::default();
        };
        let counted = store.statistics();
        JournalView {
            health: match view.health {
                StoreHealth::Ready => 0,
                StoreHealth::Full => 1,
                StoreHealth::Failed => 2,
            },
            waiting_changes: view.given - view.stored,
            parked_packets: view.parked as u64,
            records: counted.log.records,
            device_bytes: counted.log.device_bytes,
            device_bytes_today: counted.bytes_today,
            syncs: counted.log.syncs,
            failures: counted.log.failures,
            bytes: counted.bytes,
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.core.traffic
    }

    fn reloads(&self) -> Reloads {
        self.core.reloads
    }

    fn about(&self) -> AboutView {
        let running = self.office.running.borrow();
        AboutView {
            gateway: running.settings.name.to_string(),
            board: running.settings.board.name.clone(),
            uptime: self.now.mono.saturating_duration_since(self.office.started),
        }
    }

    fn link(&self, link: LinkId) -> Option<LinkView> {
        let slot = self.core.links.get(link)?;
        Some(LinkView {
            peer: slot.peer.to_string(),
            age: self.now.mono.saturating_duration_since(slot.since),
            received_bytes: slot.received_bytes,
            sent_bytes: slot.sent_bytes,
        })
    }

    fn listeners(&self) -> Vec<ListenerView> {
        let running = self.office.running.borrow();
        let doors = running.granting();
        doors
            .map(|(listener, policy)| listener_view(listener, policy))
            .collect()
    }

    fn serial_ports(&self) -> Vec<SerialPortView> {
        let retained = |topic: &TopicName| {
            let message = self.core.broker.view_retained_message(self.now.mono, topic)?;
            String::from_utf8(message.payload.to_vec()).ok()
        };
        let running = self.office.running.borrow();
        let ports = running.settings.serial.iter().map(|port| SerialPortView {
            name: port.name().to_string(),
            path: port.path().display().to_string(),
            status: retained(&port.status_topics().status),
            health: retained(&port.status_topics().health),
            devices: port
                .devices()
                .map(|(device, _)| device.name().to_string())
                .collect(),
        });
        ports.collect()
    }

    fn configuration(&self) -> Vec<ValueView> {
        let running = self.office.running.borrow();
        let written = running.settings.written.as_deref();
        let storage = running.settings.storage.as_ref();
        let journal = storage.map_or(running.settings.board.journal, |storage| storage.journal);
        let values = effective::values(written, self.core.broker.limits(), &journal).into_iter();
        let views = values.map(|value| ValueView {
            key: value.key,
            value: value.text,
            source: value.source.name(),
            line: value.line,
        });
        views.collect()
    }

    fn reload(&mut self) -> Reloading {
        let pending = self.office.reloads.ask();
        Box::pin(async move {
            match pending.await {
                Ok(reloaded) => Ok(reloaded),
                Err(error) => {
                    let status = match &error {
                        ReloadError::Rejected(_) => 422,
                        ReloadError::NothingToRead => 409,
                        ReloadError::Busy | ReloadError::Closed => 503,
                    };
                    Err(Trouble::new(status, error.to_string()))
                }
            }
        })
    }

    fn publish(&mut self, message: Message) {
        self.core.input(self.now, Input::Publish(message));
    }

    fn unban(&mut self, subject: BanSubject) {
        self.core.input(self.now, Input::Unban { subject });
    }

    fn kicks(&self) -> &KickHandle {
        &self.office.kicks
    }
}

fn listener_view(listener: &Listener, policy: &ListenerPolicy) -> ListenerView {
    let counters = listener.counters();
    let transport = match (listener.endpoint(), listener.has_tls(), listener.has_websocket()) {
        (Endpoint::Unix(_), _, false) => "unix",
        (_, false, false) => "tcp",
        (_, true, false) => "tls",
        (_, false, true) => "websocket",
        (_, true, true) => "websocket-tls",
    };
    ListenerView {
        name: policy.name.clone(),
        address: listener.endpoint().to_string(),
        transport,
        anonymous: policy.anonymous,
        connections: listener.connections(),
        pending: listener.pending(),
        accepted: counters.accepted,
        refused: counters.refused(),
    }
}
