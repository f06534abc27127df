//! Wills (section 3.1.2.5): the message a client leaves for the case that it goes without a word.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::budget::Account;
use super::deliver::Passing;
use super::kept::{Kept, expiry};
use super::session::SessionKey;
use super::timers::Timer;
use super::{Broker, Change};
use crate::auth::access::Action;
use crate::mqtt::{PublishProperties, TopicName, Will};

/// The will of one session.
///
/// 1. While the client is connected it has no `due`; afterwards it is sent once, when its delay is over or
///    the session ends, whichever comes first [MQTT-3.1.3-9], or dropped because the client came back or said
///    goodbye.
#[derive(Debug)]
pub(super) struct Testament {
    message: Rc<Kept>,
    pub(super) delay: Duration,
    /// When it is to be sent; [`Timer::Will`] runs until then.
    pub(super) due: Option<Instant>,
}

impl Testament {
    /// Takes a will out of CONNECT, with a copy of its bytes; `topic` is where it is mounted.
    pub(super) fn new(will: &Will, topic: &TopicName, account: &Account) -> Self {
        let properties = &will.properties.publish;
        let properties = (*properties != PublishProperties::default()).then_some(properties);
        Self {
            message: Rc::new(Kept::copy(
                account,
                topic,
                &will.payload,
                properties,
                (will.qos, will.retain),
                None,
            )),
            delay: Duration::from_secs(u64::from(will.properties.delay_secs.unwrap_or(0))),
            due: None,
        }
    }

    /// The same will after the gateway was stopped.
    pub(super) fn again(message: Rc<Kept>, delay: Duration, due: Option<Instant>) -> Self {
        Self { message, delay, due }
    }

    pub(super) fn message(&self) -> &Kept {
        &self.message
    }

    /// Whether it becomes its topic's retained message.
    pub(super) fn retain(&self) -> bool {
        self.message.retain
    }
}

impl Broker {
    /// The client went without a word: its will is sent after its delay, or at once.
    pub(super) fn schedule_will(&mut self, now: Instant, key: SessionKey) {
        let Some(will) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.will.as_mut())
        else {
            return;
        };
        match now.checked_add(will.delay) {
            Some(due) if will.delay > Duration::ZERO => {
                will.due = Some(due);
                self.timers.set(due, Timer::Will(key));
            }
            _ => self.send_will(now, key),
        }
    }

    /// Drops the will: the client said goodbye, or is back [MQTT-3.1.2-10] [MQTT-3.1.3-9].
    pub(super) fn drop_will(&mut self, key: SessionKey) {
        if let Some(will) = self.sessions.get_mut(key).and_then(|session| session.will.take()) {
            self.timers.cancel(will.due, Timer::Will(key));
            self.stats.wills_bytes -= will.message.size_bytes() as u64;
            self.store_change(key, |session| Change::WillGone { session });
        }
    }

    /// The delay of a will is over.
    pub(super) fn handle_will_timer(&mut self, now: Instant, key: SessionKey) {
        if let Some(will) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.will.as_mut())
        {
            will.due = None;
            self.send_will(now, key);
        }
    }

    /// Sends the will, unless the client has lost the right to since [MQTT-3.1.2-8].
    pub(super) fn send_will(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let Some(will) = session.will.take() else {
            return; // [MQTT-3.1.2-12 of 3.1.1]
        };
        self.stats.wills_bytes -= will.message.size_bytes() as u64;
        self.timers.cancel(will.due, Timer::Will(key));
        let topic = will.message.topic_str();
        if !self.rights.authorize(session.who(), Action::Publish, topic) {
            self.stats.publishes_denied += 1;
            self.store_change(key, |session| Change::WillGone { session });
            return;
        }
        self.stats.wills_sent += 1;
        self.store_will_sent(key);
        // The Message Expiry Interval counts from the moment the will is sent.
        let expires_at = expiry(will.message.properties(), now);
        // With its own RETAIN [MQTT-3.1.2-14] [MQTT-3.1.2-15] and properties [MQTT-3.1.3-10].
        self.route(now, Some(key), Passing::of_kept(&will.message, expires_at));
        self.settle();
    }
}
