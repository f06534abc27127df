//! The walk over all state that tests run after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::authenticate::Turn;
use super::kept::Queued;
use super::link::Stage;
use super::owners::Usage;
use super::subscribe::Replay;
use super::timers::Timer;
use super::{Broker, inflight};
use crate::mqtt::QoS;

impl Broker {
    /// Walks over the whole state: links and sessions know each other, every subscription has its session,
    /// packet identifiers are unique, deadlines run, bytes and counts add up, queues are within their bounds.
    ///
    /// Costs as much as there is state; for tests and simulations.
    ///
    /// # Errors
    /// What was found to disagree.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.sessions.check()?;
        self.subscriptions.check()?;
        self.retained.check()?;
        self.check_links()?;
        self.check_sessions()?;
        self.check_subscriptions()?;
        self.check_everyone()?;
        self.rights.check(self.attachments, &self.sessions)?;
        self.check_timers()?;
        self.check_stats()?;
        self.check_owners()?;
        self.bans.check(self.loosest.bans_max)?;
        self.check_durable()?;
        self.check_account()
    }

    fn check_owners(&self) -> Result<(), String> {
        let mut found: BTreeMap<_, Usage> = BTreeMap::new();
        for (_, session) in self.sessions.iter() {
            let usage = found.entry(session.owner).or_default();
            usage.sessions += 1;
            usage.subscriptions += session.places.len();
        }
        for (owner, bytes) in self.retained.owned() {
            let usage = found.entry(owner).or_default();
            usage.retained += 1;
            usage.retained_bytes += bytes;
        }
        let told: BTreeMap<_, _> = self.owners.iter().collect();
        if told != found {
            return Err(format!("owners: {told:?} told, {found:?} found"));
        }
        if let Some((_, usage)) = found.iter().find(|(_, usage)| {
            usage.sessions > self.loosest.sessions_per_user_max
                || usage.subscriptions > self.loosest.subscriptions_per_user_max
                || usage.retained > self.loosest.retained_per_user_max
                || usage.retained_bytes > self.loosest.retained_bytes_per_user_max
        }) {
            return Err(format!("one owner has {usage:?}, more than the limits allow"));
        }
        Ok(())
    }

    /// The memory account is what everything that is there was charged, each message once.
    fn check_account(&self) -> Result<(), String> {
        let mut bytes = self.subscriptions.charged_bytes() + self.retained.charged_bytes();
        bytes += self.durable.as_ref().map_or(0, |durable| durable.charged_bytes());
        bytes += self.hooked.as_ref().map_or(0, |hooked| hooked.charged_bytes());
        bytes += self.crowd.as_ref().map_or(0, |crowd| crowd.charged_bytes());
        let mut messages: BTreeMap<usize, usize> = BTreeMap::new();
        for message in self.crowd.iter().flat_map(|crowd| crowd.messages()) {
            messages.insert(message.address(), message.charged_bytes());
        }
        for message in self.retained.iter() {
            messages.insert(message.address(), message.charged_bytes());
        }
        for link in self.links.values() {
            bytes += link.charge.bytes();
            match &link.stage {
                Stage::Attached(attachment) => {
                    let aliases = attachment.aliases.as_ref();
                    let tailoring = attachment.tailoring.as_ref();
                    bytes += attachment.booked_bytes()
                        + aliases.map_or(0, |aliases| aliases.charged_bytes())
                        + tailoring.map_or(0, |tailoring| tailoring.charged_bytes());
                }
                Stage::Arrived(arrival) => {
                    let verifying = arrival.verifying.as_ref();
                    bytes += verifying.map_or(0, |verifying| verifying.charge.bytes());
                    if let Some(will) = verifying.and_then(|verifying| verifying.admission.will_message()) {
                        bytes += will.charged_bytes();
                    }
                }
            }
        }
        for (_, session) in self.sessions.iter() {
            bytes += session.charged_bytes()
                + session.queue.charged_bytes()
                + session.inflight.charged_bytes()
                + session.receiving.charged_bytes()
                + (session.spilled.as_ref()).map_or(0, |spilled| spilled.charged_bytes());
            bytes += session.replays.iter().map(Replay::charged_bytes).sum::<usize>();
            let in_flight = session.inflight.iter().filter_map(|entry| match &entry.stage {
                inflight::Stage::Published(queued) => Some(queued),
                inflight::Stage::Released => None,
            });
            for queued in session.queue.iter().chain(in_flight) {
                messages.insert(queued.message.address(), queued.message.charged_bytes());
            }
            if let Some(will) = &session.will {
                messages.insert(will.message().address(), will.message().charged_bytes());
            }
        }
        for message in self.durable.iter().flat_map(|durable| durable.fresh_messages()) {
            messages.insert(message.address(), message.charged_bytes());
        }
        if let Some(key) = (self.retained.known_authors()).find(|&key| self.sessions.get(key).is_none()) {
            return Err(format!("{key:?} is known as an author and is gone"));
        }
        let authors: BTreeMap<_, _> = (self.retained.authors())
            .map(|author| (Rc::as_ptr(author), author.charged_bytes()))
            .collect();
        bytes += messages.values().chain(authors.values()).sum::<usize>();
        let in_flight: usize = (self.sessions.iter())
            .map(|(_, session)| session.inflight.size_bytes())
            .sum();
        if in_flight != self.budget.in_flight.bytes() {
            return Err(format!(
                "{} bytes are in flight by the account, {in_flight} were found",
                self.budget.in_flight.bytes()
            ));
        }
        let told = self.budget.account.bytes();
        if bytes != told {
            return Err(format!(
                "{told} bytes are on the memory account, {bytes} were found"
            ));
        }
        // What waits to be stored has a bound of its own.
        let waiting = (self.durable.as_ref()).map_or(0, |durable| durable.charged_bytes());
        if told - waiting > self.loosest.memory_bytes_max {
            return Err(format!("{told} bytes are held, more than the limits allow"));
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), String> {
        if let Some(crowd) = &self.crowd {
            crowd.check()?;
            let is_in = |link| {
                self.links
                    .get(link)
                    .is_some_and(|link| link.attachment().is_some())
            };
            if let Some(link) = crowd.links().find(|&link| !is_in(link)) {
                return Err(format!(
                    "a message of {link:?} waits for room, and its client is not in"
                ));
            }
        }
        let mut held = self.hooked.iter().flat_map(|hooked| hooked.links());
        if let Some(link) = held.find(|&link| {
            let known = self.links.get(link);
            known.is_none_or(|known| known.attachment().is_none())
        }) {
            return Err(format!(
                "a packet of {link:?} waits for a hook, and its client is not in"
            ));
        }
        for (link, content) in &self.links {
            if let Stage::Attached(attachment) = &content.stage {
                let Some(session) = self.sessions.get(attachment.session) else {
                    return Err(format!("{link:?} is attached to a session that is gone"));
                };
                if session.link != Some(link) {
                    return Err(format!(
                        "{link:?} is attached to {}, which knows another",
                        session.client
                    ));
                }
                let mounted = attachment
                    .tailoring
                    .as_ref()
                    .and_then(|own| own.mount_point.as_ref());
                if mounted != session.mount_point.as_ref()
                    || session.mount_point != attachment.listener.mount_point
                {
                    return Err(format!("{} is not mounted where its session is", session.client));
                }
                if let Some(aliases) = attachment.tailoring.as_ref().and_then(|own| own.aliases.as_ref()) {
                    aliases
                        .check()
                        .map_err(|error| format!("{}: {error}", session.client))?;
                }
                if let Some(exchange) = &attachment.exchange
                    && exchange.due.is_some() != (exchange.turn != Turn::Nobody)
                {
                    return Err(format!("nobody watches the authentication of {}", session.client));
                }
                if usize::from(attachment.unreleased) > session.receiving.len() {
                    return Err(format!("{} owes more than it began", session.client));
                }
                if session.inflight.outstanding() > attachment.send_window {
                    return Err(format!("{} has more in flight than its window", session.client));
                }
                if content.timer_at.is_none() && attachment.silence_max_ms > 0 {
                    return Err(format!("nobody watches the keep-alive of {}", session.client));
                }
                let idle = !session.inflight.owes_resend()
                    && attachment.takes_more(&session.inflight, self.budget.unsent_bytes_promised());
                let next = session.queue.front();
                if !session.inflight.owes_resend()
                    && !attachment.is_stalled(self.budget.unsent_bytes_promised())
                    && next.is_some_and(|queued| queued.qos == QoS::AtMostOnce)
                {
                    return Err(format!(
                        "{} could be sent what waits for it at QoS 0",
                        session.client
                    ));
                }
                let may = |queued: &Queued| self.budget.lets_out(&session.inflight, queued.size_bytes());
                if idle && next.is_some_and(may) {
                    return Err(format!("{} could be sent what waits for it", session.client));
                }
            } else if content.timer_at.is_none() {
                return Err(format!("{link:?} may wait for ever with its CONNECT"));
            }
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        for (key, session) in self.sessions.iter() {
            let client = &session.client;
            session
                .inflight
                .check()
                .map_err(|error| format!("{client}: {error}"))?;
            match session.link {
                Some(link) => {
                    let attached = match self.links.get(link).map(|link| &link.stage) {
                        Some(Stage::Attached(attachment)) => attachment.session == key,
                        _ => false,
                    };
                    if !attached {
                        return Err(format!("{client} knows a link that is not its own"));
                    }
                    if session.expires_at.is_some()
                        || session.will.as_ref().is_some_and(|will| will.due.is_some())
                    {
                        return Err(format!("{client} is connected and expires, or its will is due"));
                    }
                }
                None => {
                    if session.expiry_secs == 0 {
                        return Err(format!("{client} should have ended with its connection"));
                    }
                    if session.expires_at.is_none() && session.expiry_secs != u32::MAX {
                        return Err(format!("{client} is absent and does not expire"));
                    }
                    if session.inflight.outstanding() != 0 {
                        return Err(format!("{client} is absent with deliveries outstanding"));
                    }
                    if session.will.as_ref().is_some_and(|will| will.due.is_none()) {
                        return Err(format!("{client} is absent and its will is not due"));
                    }
                }
            }
            if session.inflight.len() > usize::from(self.loosest.inflight_max.max(1)) {
                return Err(format!(
                    "{client}: more deliveries unfinished than the limits allow"
                ));
            }
            (session.queue.check()).map_err(|error| format!("{client}: {error}"))?;
            if session.fitting != self.queues.fitting(client, &session.identity) {
                return Err(format!("{client} goes by other queue rules than are for it"));
            }
            if session.queue.len() > self.loosest.queue_class.messages()
                || session.held_bytes() > self.loosest.queue_bytes_max
            {
                return Err(format!("{client}: more waits than the limits allow"));
            }
            if session
                .replays
                .iter()
                .any(|replay| !session.places.contains(&replay.place))
            {
                return Err(format!(
                    "{client}: retained messages are owed to a subscription that is gone"
                ));
            }
        }
        Ok(())
    }

    fn check_subscriptions(&self) -> Result<(), String> {
        let mut places = 0;
        for (_, session) in self.sessions.iter() {
            places += session.places.len();
            if session.places.len() > self.loosest.subscriptions_per_client_max {
                return Err(format!(
                    "{} has more subscriptions than the limits allow",
                    session.client
                ));
            }
        }
        for (subscriber, place) in self.subscriptions.iter() {
            match self.sessions.get(subscriber.session) {
                None => return Err("a subscription is left of a session that is gone".into()),
                Some(session) if !session.places.contains(&place) => {
                    return Err(format!(
                        "{} does not know of one of its subscriptions",
                        session.client
                    ));
                }
                Some(_) => {}
            }
        }
        if places != self.subscriptions.len() {
            return Err(format!(
                "sessions know {places} subscriptions, the tree {}",
                self.subscriptions.len()
            ));
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), String> {
        let mut expected: BTreeSet<_> = self.bans.deadlines().collect();
        expected.extend(self.kicks.due.map(|at| (at, Timer::Kicks)));
        expected.extend(self.hooked.iter().flat_map(|hooked| hooked.deadlines()));
        expected.extend(self.crowd.iter().flat_map(|crowd| crowd.deadlines()));
        for (link, content) in &self.links {
            expected.extend(content.timer_at.map(|at| (at, Timer::Link(link))));
            let exchange = (content.attachment()).and_then(|attachment| attachment.exchange.as_ref());
            let due = exchange.and_then(|exchange| exchange.due);
            expected.extend(due.map(|at| (at, Timer::Authentication(link))));
            let expires_at =
                (content.attachment()).and_then(|attachment| attachment.login_expires_at.as_deref());
            expected.extend(expires_at.map(|at| (*at, Timer::LoginExpiry(link))));
        }
        for (key, session) in self.sessions.iter() {
            expected.extend(session.expires_at.map(|at| (at, Timer::SessionExpiry(key))));
            let due = session.will.as_ref().and_then(|will| will.due);
            expected.extend(due.map(|at| (at, Timer::Will(key))));
            let aged_at = session.spilled.as_ref().and_then(|spilled| spilled.timer_at());
            expected.extend(aged_at.map(|at| (at, Timer::Spilled(key))));
        }
        if let Some((_, timer)) = expected
            .iter()
            .find(|&&(at, timer)| !self.timers.contains(at, timer))
        {
            return Err(format!("{timer:?} does not run"));
        }
        if expected.len() != self.timers.len() {
            return Err(format!(
                "{} deadlines run, {} are wanted",
                self.timers.len(),
                expected.len()
            ));
        }
        Ok(())
    }

    fn check_stats(&self) -> Result<(), String> {
        let stats = &self.stats;
        let sum = |of: fn(&super::session::Session) -> usize| {
            self.sessions
                .iter()
                .map(|(_, session)| of(session))
                .sum::<usize>() as u64
        };
        let attached = (self.links.values())
            .filter(|link| matches!(link.stage, Stage::Attached(_)))
            .count() as u64;
        for (name, told, found) in [
            ("links", stats.links, self.links.len() as u64),
            ("clients_connected", stats.clients_connected, attached),
            ("sessions", stats.sessions, self.sessions.len() as u64),
            (
                "subscriptions",
                stats.subscriptions,
                self.subscriptions.len() as u64,
            ),
            (
                "retained_messages",
                stats.retained_messages,
                self.retained.len() as u64,
            ),
            (
                "retained_bytes",
                stats.retained_bytes,
                self.retained.size_bytes() as u64,
            ),
            (
                "wills_bytes",
                stats.wills_bytes,
                sum(|session| {
                    session
                        .will
                        .as_ref()
                        .map_or(0, |will| will.message().size_bytes())
                }),
            ),
            (
                "queued_messages",
                stats.queued_messages,
                sum(|session| session.queue.len()),
            ),
            (
                "inflight_messages",
                stats.inflight_messages,
                sum(|session| session.inflight.len()),
            ),
            (
                "spilled_messages",
                stats.spilled_messages,
                sum(|session| session.spilled.as_ref().map_or(0, |spilled| spilled.count())),
            ),
            (
                "spilled_bytes",
                stats.spilled_bytes,
                sum(|session| session.spilled.as_ref().map_or(0, |spilled| spilled.size_bytes())),
            ),
            (
                "queued_bytes",
                stats.queued_bytes,
                sum(|session| session.held_bytes()),
            ),
        ] {
            if told != found {
                return Err(format!("{name}: {told} told, {found} found"));
            }
        }
        Ok(())
    }
}
