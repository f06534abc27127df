//! How connections, sessions and wills end.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tidegate::auth::access::{Action, Denial};
use tidegate::broker::{
    DetachReason, KeptOut, Kick, KickOutcome, KickedSession, KickedWill, LinkId, Output, Refusal, Stats,
    StoreHealth, Target,
};
use tidegate::mqtt::{QoS, ReasonCode};

use super::model::{Group, Message, Session, SessionNumber, Stage};
use super::{Held, Oracle, Progress, Shared, hold, may, means};

impl Oracle {
    /// A connection of a client that was in has ended, as the broker tells it.
    pub(super) fn left(&mut self, link: LinkId, reason: DetachReason) -> Held {
        self.take_ahead(|to, _| to == link);
        let Some(known) = self.links.get(&link) else {
            return hold(false, "T1", || "a link nobody knows has ended".into());
        };
        let Stage::In(number) = known.stage else {
            let is_takeover = reason == DetachReason::TakenOver && known.ended_in == self.step;
            return hold(is_takeover, "T1", || format!("it ended twice, now as {reason}"));
        };
        match reason {
            DetachReason::ClientDisconnect(code) => hold(known.goodbye == Some(code), "P2", || {
                format!("it said {:?} and not {code}", known.goodbye)
            })?,
            DetachReason::ConnectionLost => {}
            DetachReason::KeepAliveTimeout => {
                let due = known.last_received + known.silence_max;
                hold(!known.silence_max.is_zero() && due <= self.now, "P2", || {
                    format!(
                        "its keep-alive ends in {:?}",
                        due.saturating_duration_since(self.now)
                    )
                })?;
            }
            DetachReason::TakenOver => hold(false, "T1", || "taken over by nobody".into())?,
            DetachReason::Malformed(_) | DetachReason::Refused(Refusal::Untrusted) => {
                hold(known.provoked, "P2", || {
                    format!("it did no wrong and was sent away: {reason}")
                })?;
            }
            DetachReason::Refused(_) => {
                hold(known.provoked || !self.terms.is_roomy, "P2", || {
                    format!("it did no wrong and was sent away: {reason}")
                })?;
            }
            DetachReason::Kicked(_) => {
                let session = self.sessions.get(&number);
                let kick = self.kicks.front().map(|(kick, _)| kick);
                let is_meant = session
                    .zip(kick)
                    .is_some_and(|(session, kick)| means(&kick.target, session));
                hold(is_meant, "T2", || {
                    format!("nobody asked for its kick; the next is {kick:?}")
                })?;
            }
            DetachReason::ConnectTimeout | DetachReason::Shutdown => {
                hold(false, "P2", || format!("it was in, and was sent away: {reason}"))?;
            }
        }
        if reason == DetachReason::Refused(Refusal::MemoryShort)
            && let Some(known) = self.links.get(&link)
            && let Some(session) = self.sessions.get_mut(&number)
        {
            // Whether memory ended before it took what came last, or by that, nobody can tell.
            for packet_id in known.unanswered.keys() {
                if session.receiving.remove(packet_id) {
                    session.unsure_of.insert(*packet_id);
                }
            }
        }
        let mut ends_session = false;
        if let (DetachReason::Kicked(_), Some((kick, _))) = (reason, self.kicks.front()) {
            ends_session = kick.options.session == KickedSession::Purge;
            if kick.options.will == KickedWill::Discard
                && let Some(session) = self.sessions.get_mut(&number)
            {
                session.will = None;
            }
        }
        let sends_will = reason != DetachReason::ClientDisconnect(ReasonCode::Success);
        self.leave(link, sends_will);
        if ends_session {
            self.end_session(number);
        }
        Ok(())
    }

    /// A connection has ended before its client was in.
    pub(super) fn refused(&mut self, link: LinkId, reason: DetachReason) -> Held {
        let (step, now) = (self.step, self.now);
        let Some(known) = self.links.get_mut(&link) else {
            return hold(false, "T1", || "a link nobody knows was refused".into());
        };
        known.ended_in = step;
        let asked = match std::mem::replace(&mut known.stage, Stage::Ended) {
            Stage::Arrived => None,
            Stage::Asked(connect, _) => Some(connect),
            stage => {
                return hold(false, "T1", || {
                    format!("{stage:?} ended as if it had not been in: {reason}")
                });
            }
        };
        match reason {
            DetachReason::Refused(Refusal::Banned) => {
                let client = asked.as_ref().and_then(|connect| connect.client_id.as_ref());
                let user = asked.as_ref().and_then(|connect| connect.user_name.as_ref());
                let names = [
                    client.map(|client| client.as_str()),
                    user.map(|user| user.as_str()),
                ];
                let is_kept_out = |name: &str| self.bans.contains_key(name);
                hold(names.into_iter().flatten().any(is_kept_out), "T2", || {
                    format!("nobody asked to keep out {asked:?}")
                })
            }
            DetachReason::Refused(
                Refusal::ConnectionsFull
                | Refusal::SessionsFull
                | Refusal::SessionsOfUserFull
                | Refusal::WillsFull
                | Refusal::MemoryShort,
            ) => hold(!self.terms.is_roomy, "P2", || {
                format!("there is room, and {asked:?} was refused: {reason}")
            }),
            DetachReason::Refused(Refusal::NotStored) => {
                let may_be_stored = !self.terms.stores || self.health == StoreHealth::Ready;
                hold(!may_be_stored, "P2", || {
                    format!("it could be stored, and {asked:?} was refused")
                })
            }
            DetachReason::ConnectTimeout => {
                let due = known.last_received + self.terms.connect_timeout;
                hold(due <= now, "A2", || "it had more time for its CONNECT".into())
            }
            _ => Ok(()),
        }
    }

    /// A link is done with: its session stays, ends or waits, and its will is sent, waits or is forgotten.
    pub(super) fn leave(&mut self, link: LinkId, sends_will: bool) {
        let (step, now) = (self.step, self.now);
        let Some(known) = self.links.get_mut(&link) else {
            return;
        };
        let Stage::In(number) = std::mem::replace(&mut known.stage, Stage::Ended) else {
            return;
        };
        known.ended_in = step;
        for message in std::mem::take(&mut known.unanswered).into_values() {
            self.doubt(message);
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        session.link = None;
        if !sends_will {
            session.will = None; // [MQTT-3.14.4-3]
        }
        match session.expiry_secs {
            0 => return self.end_session(number),
            u32::MAX => {}
            secs => session.expires_at = Some(now + Duration::from_secs(u64::from(secs))),
        }
        self.fall_due(number);
    }

    /// Ends a session that nobody is attached to: its will is sent, and all else is forgotten.
    pub(super) fn end_session(&mut self, number: SessionNumber) {
        let filters = match self.sessions.get_mut(&number) {
            Some(session) => std::mem::take(&mut session.filters),
            None => return,
        };
        self.send_will(number);
        let Some(mut session) = self.sessions.remove(&number) else {
            return;
        };
        self.names.remove(&session.client);
        self.slack += (session.replays.iter())
            .map(|(_, topics)| topics.len() as u64)
            .sum::<u64>();
        for owed in session.owed.drain(..) {
            if owed.batch == self.batch {
                self.slack += 1; // perhaps it ended before that was routed
                continue;
            }
            self.lose(&owed.message);
        }
        for flight in session.flights.drain(..) {
            match flight.groups {
                _ if flight.released => {}
                // [MQTT-4.8.2-5]: what was not acknowledged at QoS 1 another member may have.
                Some(groups) if flight.owed.qos == QoS::AtLeastOnce && self.has_members(&groups) => {
                    self.shared.push(Shared {
                        group: groups.first().cloned().unwrap_or_else(|| Rc::from("")),
                        groups,
                        batch: self.batch,
                        is_unsure: false,
                        after: flight.owed.after,
                        qos: flight.owed.message.qos,
                        message: flight.owed.message,
                    });
                }
                _ => self.lose(&flight.owed.message),
            }
        }
        session.filters = filters;
        self.just_ended.push(session);
    }

    fn has_members(&self, groups: &[Group]) -> bool {
        let is_member = |session: &Session| groups.iter().any(|group| session.filters.contains_key(group));
        self.sessions.values().any(is_member)
    }

    pub(super) fn lose(&mut self, message: &Message) {
        if self.is_unsure(message) {
            self.slack += 1;
            return;
        }
        self.lost += 1;
        self.lost_expired += u64::from(message.is_expired(self.now));
    }

    fn send_will(&mut self, number: SessionNumber) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let Some(will) = session.will.take() else {
            return;
        };
        let identity = session.identity.clone();
        let Message {
            topic,
            payload,
            qos,
            retain,
            properties,
            ..
        } = &*will.message;
        if !may(&self.denials, &identity, Action::Publish, topic) {
            return;
        }
        self.wills_sent += 1;
        let life = will.expiry_secs.map(|secs| Duration::from_secs(u64::from(secs)));
        let message = Message {
            topic: topic.clone(),
            payload: payload.clone(),
            qos: *qos,
            retain: *retain,
            properties: properties.clone(),
            expires_at: life.map(|life| self.now + life),
            publisher: Some(number),
        };
        self.route(Rc::new(message), &identity);
    }

    /// The process ended and another went on with what was stored: connections and what was not stored are gone, and
    /// clients that were connected have left at this moment.
    pub fn recover(
        &mut self,
        now: Instant,
        denials: Vec<Denial>,
        (stats, progress): (&Stats, Progress),
    ) -> Held {
        self.now = now;
        self.step += 1;
        self.batch += 1;
        self.credit = (super::dropped(&self.stats) + self.credit).saturating_sub(self.lost);
        self.lost = 0;
        self.stats = Stats::default();
        self.wills_sent = 0;
        self.rests_on = 0;
        self.retains_nothing = stats.dropped_retained_full > 0;
        self.progress = progress;
        self.health = StoreHealth::Ready;
        self.kicks.clear();
        self.instant.clear();
        self.subscribing.clear();
        self.just_ended.clear();
        for link in self.links.values_mut() {
            link.stage = Stage::Ended;
            link.ended_in = self.step;
        }
        let gone: Vec<_> = (self.sessions.iter())
            .filter(|(_, session)| !session.is_stored || session.expiry_secs == 0)
            .map(|(&number, _)| number)
            .collect();
        self.denials = denials.clone();
        let mut may_send_wills = Vec::new();
        for number in gone {
            let Some(session) = self.sessions.remove(&number) else {
                continue;
            };
            self.names.remove(&session.client);
            for shared in &mut self.shared {
                shared.is_unsure |= shared
                    .groups
                    .iter()
                    .any(|group| session.groups_ever.contains(group));
            }
            if session.was_stored {
                // It may be found, and what it was owed is counted when it ends.
                let replays = session.replays.iter().map(|(_, topics)| topics.len());
                self.slack += (session.owed.len() + session.flights.len() + replays.sum::<usize>()) as u64;
            }
            if session.was_stored && session.will.is_some() {
                let filters = Default::default();
                may_send_wills.push((number, Session { filters, ..session }));
            }
        }
        let mut left = Vec::new();
        for (&number, session) in &mut self.sessions {
            session.was_found = true;
            for (text, topics) in &mut session.replays {
                let is_firm = session
                    .filters
                    .get(text)
                    .is_some_and(|filter| filter.qos > QoS::AtMostOnce);
                topics.retain(|topic| {
                    let values = self.retained.get(topic).map_or(&[][..], |(_, values)| values);
                    is_firm
                        && values
                            .iter()
                            .flatten()
                            .all(|retained| retained.message.qos > QoS::AtMostOnce)
                });
            }
            if session.link.take().is_some() {
                let secs = session.expiry_secs;
                let life = Duration::from_secs(u64::from(secs));
                session.expires_at = (secs != u32::MAX).then(|| now + life);
                left.push(number);
            }
        }
        for number in left {
            self.fall_due(number);
        }
        // One that was stored before it was to end with its connection may be found, and ends now.
        let more = stats.wills_sent.saturating_sub(self.wills_sent);
        for (number, session) in may_send_wills.into_iter().take(more as usize) {
            self.sessions.insert(number, session);
            self.send_will(number);
            self.sessions.remove(&number);
        }
        self.hear(&super::Cause::Rights(denials), &[])?;
        self.settle(&super::Cause::Flushed, stats)
    }

    /// The will of a client that has left is sent, or falls due.
    fn fall_due(&mut self, number: SessionNumber) {
        let now = self.now;
        match self
            .sessions
            .get_mut(&number)
            .and_then(|session| session.will.as_mut())
        {
            Some(will) if will.delay.is_zero() => self.send_will(number),
            Some(will) => will.due = Some(now + will.delay),
            None => {}
        }
    }

    /// Sends the wills and ends the sessions whose time has come, in the order of their deadlines.
    pub(super) fn pass_deadlines(&mut self) {
        let mut due = Vec::new();
        for (&number, session) in &self.sessions {
            let will_at = session.will.as_ref().and_then(|will| will.due);
            due.extend(will_at.filter(|&at| at <= self.now).map(|at| (at, false, number)));
            due.extend(
                session
                    .expires_at
                    .filter(|&at| at <= self.now)
                    .map(|at| (at, true, number)),
            );
        }
        due.sort_unstable();
        for (_, ends, number) in due {
            match ends {
                false => self.send_will(number),
                true => self.end_session(number),
            }
        }
    }

    /// After a tick nobody is there whose time was over.
    pub(super) fn check_deadlines(&self) -> Held {
        for link in self.links.values() {
            let due = match link.stage {
                Stage::In(_) if !link.silence_max.is_zero() => link.last_received + link.silence_max,
                Stage::Arrived | Stage::Asked(..) => link.last_received + self.terms.connect_timeout,
                Stage::In(_) | Stage::Ended => continue,
            };
            let id = if matches!(link.stage, Stage::In(_)) {
                "P2"
            } else {
                "A2"
            };
            hold(due > self.now, id, || {
                format!("a connection outlived its deadline: {link:?}")
            })?;
        }
        Ok(())
    }

    /// Carries out the kicks among `outputs` that were asked for before the deadlines that pass with them.
    pub(super) fn kick_in_time(&mut self, outputs: &[Output]) {
        for (kick, asked_at) in self.kicks.clone() {
            let Some(session) = self.meant(&kick).and_then(|number| self.sessions.get(&number)) else {
                continue;
            };
            let will_at = session.will.as_ref().and_then(|will| will.due);
            let mut deadlines = will_at.into_iter().chain(session.expires_at);
            if deadlines.all(|due| asked_at <= due) {
                self.purge_if_told(&kick, outputs);
            }
        }
    }

    /// Ends the session that the next kick purges, if its client is away and the kick is among `outputs`: what follows
    /// from its end is told before the kick is.
    pub(super) fn purge_ahead(&mut self, outputs: &[Output]) {
        if let Some((kick, _)) = self.kicks.front().cloned() {
            self.purge_if_told(&kick, outputs);
        }
    }

    /// The session of the one client that a kick means.
    fn meant(&self, kick: &Kick) -> Option<SessionNumber> {
        match &kick.target {
            Target::Client(client) => self.names.get(client.as_str()).copied(),
            _ => None,
        }
    }

    fn purge_if_told(&mut self, kick: &Kick, outputs: &[Output]) {
        let is_told = |output: &Output| matches!(output, Output::Kicked { id, .. } if *id == kick.id);
        if kick.options.session != KickedSession::Purge || !outputs.iter().any(is_told) {
            return;
        }
        let Some(number) = self.meant(kick) else { return };
        let sends_will = kick.options.will == KickedWill::Publish;
        if let Some(session) = self
            .sessions
            .get_mut(&number)
            .filter(|session| session.link.is_none())
        {
            session.will = session.will.take().filter(|_| sends_will);
            self.end_session(number);
        }
    }

    /// A kick was carried out.
    pub(super) fn kicked(&mut self, id: tidegate::broker::KickId, outcome: &KickOutcome) -> Held {
        let kick = self.kicks.pop_front();
        let Some((kick, _)) = kick.filter(|(kick, _)| kick.id == id) else {
            return hold(false, "T2", || format!("{id:?} was told out of turn"));
        };
        let subject = match &kick.target {
            Target::Client(client) => Some(client.as_str()),
            Target::User(user) => Some(user.as_str()),
            _ => None,
        };
        if let (Some(duration), Some(subject), KeptOut::Banned) =
            (kick.options.keep_out, subject, outcome.kept_out)
        {
            let until = self.now + duration;
            let known = self.bans.entry(Rc::from(subject)).or_insert(until);
            *known = until.max(*known);
        }
        let Target::Client(client) = &kick.target else {
            return Ok(());
        };
        let number = self.names.get(client.as_str()).copied();
        let session = number.and_then(|number| self.sessions.get(&number));
        let is_gone = session
            .is_none_or(|session| session.link.is_none() && kick.options.session == KickedSession::Keep);
        hold(is_gone, "T2", || {
            format!("{client} is still there after its kick")
        })
    }
}
