//! Hooks: where they are asked, what waits for an answer that is given later, and what becomes of it.
//!
//! A client whose PUBLISH or SUBSCRIBE waits is not read ([`Output::Pause`]), and what it had sent already waits behind
//! it, so that everything happens in its order. A client that waits at the door waits as for its password's check.

mod door;
mod held;
mod installation;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::{Key, KeyData, SecondaryMap};

use super::decided::{Asked, Decided};
use super::link::{Arrival, Link, LinkId, Proof, Stage, Verifying};
use super::session::{Session, SessionKey, Sessions};
use super::timers::Timer;
use super::{Broker, DetachReason, Event, Output};
use crate::auth::Identity;
use crate::auth::access::Action;
use crate::auth::groups::Groups;
use crate::hooks::{
    Answered, Change, Client, Departure, ExchangeEnd, ExchangeId, Hook, Interests, Judgement, Later, Login,
    Message, Origin, Post, Question, Ruling, Said, Step, TICK_MIN, Verdict,
};
use crate::mqtt::{QoS, TopicFilter, TopicName, Utf8String};

pub(super) use door::{AtDoor, login_of};
use held::Held;
pub use installation::Installation;

/// The hooks, and what waits for their answers.
///
/// 1. Only a link whose client is in has a packet held, and then [`Timer::Hook`] runs for it.
pub(super) struct Hooked {
    hooks: Vec<Installed>,
    /// How many of the first are those of the configuration.
    configured: usize,
    /// What any of them is interested in.
    interests: Interests,
    post: Arc<dyn Post>,
    /// How long an answer may take.
    timeout: Duration,
    questions: u64,
    exchanges: u64,
    held: BTreeMap<LinkId, Held>,
    pub(super) tick_due: Option<Instant>,
    /// Hooks that panicked since it was told, by their place.
    panicked: Vec<usize>,
}

struct Installed {
    hook: Box<dyn Hook>,
    interests: Interests,
    /// The authentication methods it speaks.
    methods: Vec<Utf8String>,
    tick_at: Option<Instant>,
}

/// What is asked.
enum Matter<'a> {
    Login(&'a Login<'a>),
    Publish(&'a Client<'a>, &'a Message<'a>),
    Subscribe(&'a Client<'a>, &'a TopicFilter, QoS),
}

/// What all hooks together say.
enum Outcome {
    /// None of them had anything to say, or to say against it.
    Abstain,
    /// Authentication only: the user, where another than the client says, and groups it is in.
    Allow(Option<Utf8String>, Groups),
    Deny,
    Unavailable,
    /// The answer comes later; then this hook is asked.
    Later(Question, usize),
}

impl Hooked {
    fn new(now: Instant, hooks: Vec<Box<dyn Hook>>, post: Arc<dyn Post>, timeout: Duration) -> Self {
        let hooks = hooks.into_iter().map(|hook| Installed::new(hook, now));
        let hooks: Vec<Installed> = hooks.collect();
        let interests = (hooks.iter()).fold(Interests::NONE, |all, hook| all | hook.interests);
        let tick_due = hooks.iter().filter_map(|installed| installed.tick_at).min();
        Self {
            hooks,
            configured: 0,
            interests,
            post,
            timeout,
            questions: 0,
            exchanges: 0,
            held: BTreeMap::new(),
            tick_due,
            panicked: Vec::new(),
        }
    }

    /// Calls every hook that is interested in `what`; `None` to `then` stands for a panic. Ends where `then` says so.
    fn call_each<T>(
        &mut self,
        what: Interests,
        mut call: impl FnMut(&mut dyn Hook) -> T,
        mut then: impl FnMut(Option<T>) -> bool,
    ) {
        for (index, installed) in self.hooks.iter_mut().enumerate() {
            if installed.interests.hold(what) {
                let said = contained(&mut self.panicked, index, || call(&mut *installed.hook));
                if !then(said) {
                    return;
                }
            }
        }
    }

    /// Asks the hooks from the one at `from` on.
    fn ask(&mut self, about: LinkId, from: usize, matter: &Matter<'_>) -> Outcome {
        let what = match matter {
            Matter::Login(_) => Interests::AUTHENTICATE,
            Matter::Publish(..) => Interests::PUBLISH,
            Matter::Subscribe(..) => Interests::SUBSCRIBE,
        };
        for (index, installed) in self.hooks.iter_mut().enumerate().skip(from) {
            if !installed.interests.hold(what) {
                continue;
            }
            self.questions += 1;
            let question = question_about(about, self.questions);
            let mut later = Later::new(question, &self.post);
            let hook = &mut installed.hook;
            let verdict = contained(&mut self.panicked, index, || match matter {
                Matter::Login(login) => hook.authenticate(login, &mut later),
                Matter::Publish(client, message) => hook.publish(client, message, &mut later),
                Matter::Subscribe(client, filter, qos) => hook.subscribe(client, filter, *qos, &mut later),
            });
            let decides = matches!(matter, Matter::Login(_));
            match verdict {
                Some(Verdict::Abstain) => {}
                Some(Verdict::Allow) if decides => return Outcome::Allow(None, Groups::default()),
                Some(Verdict::AllowAs(user)) if decides => {
                    return Outcome::Allow(Some(user), Groups::default());
                }
                Some(Verdict::AllowIn { user, groups }) if decides => return Outcome::Allow(user, groups),
                Some(Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. }) => {}
                Some(Verdict::Deny) => return Outcome::Deny,
                Some(Verdict::Later) if later.is_taken() => return Outcome::Later(question, index + 1),
                // A panic, or a promise that nobody could keep.
                Some(Verdict::Unavailable | Verdict::Later) | None => return Outcome::Unavailable,
            }
        }
        Outcome::Abstain
    }

    /// Whether any hook speaks an authentication method.
    pub(super) fn speaks(&self, method: &Utf8String) -> bool {
        self.hooks
            .iter()
            .any(|installed| installed.methods.contains(method))
    }

    /// Calls the hook that speaks `method`, of several the first; `None` where it panicked or there is none.
    fn call_speaker<T>(&mut self, method: &Utf8String, call: impl FnOnce(&mut dyn Hook) -> T) -> Option<T> {
        let mut hooks = self.hooks.iter_mut().enumerate();
        let (index, speaker) = hooks.find(|(_, installed)| installed.methods.contains(method))?;
        contained(&mut self.panicked, index, || call(&mut *speaker.hook))
    }

    /// A number for another exchange.
    pub(super) fn next_exchange(&mut self) -> ExchangeId {
        self.exchanges += 1;
        ExchangeId::new(self.exchanges)
    }

    /// A number for another question.
    pub(super) fn next_question(&mut self, about: LinkId) -> Question {
        self.questions += 1;
        question_about(about, self.questions)
    }

    /// How long an answer may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Has the hook that speaks the method judge a client's part of an exchange.
    #[inline(never)]
    pub(super) fn judge(&mut self, question: Question, step: &Step<'_>) -> Judgement {
        let post = self.post.clone();
        let mut later = Later::new(question, &post);
        match self.call_speaker(step.method, |hook| hook.exchange(step, &mut later)) {
            Some(Judgement::Later) if !later.is_taken() => Judgement::Unavailable, // nobody could keep that promise
            Some(judgement) => judgement,
            None => Judgement::Unavailable, // it panicked
        }
    }

    /// Tells the hook that speaks `method` that an exchange is over.
    #[inline(never)]
    pub(super) fn end_exchange(&mut self, method: &Utf8String, exchange: ExchangeId, end: ExchangeEnd) {
        self.call_speaker(method, |hook| hook.exchange_ended(exchange, end));
    }

    /// Shows a message to all hooks; whether it goes on, as what it has become.
    fn show(
        &mut self,
        client: &Client<'_>,
        topic: &mut TopicName,
        payload: &mut Bytes,
        (qos, retain): (QoS, bool),
    ) -> bool {
        for (index, installed) in self.hooks.iter_mut().enumerate() {
            if !installed.interests.hold(Interests::MESSAGE) {
                continue;
            }
            let message = Message {
                topic,
                payload,
                qos,
                retain,
            };
            let hook = &mut installed.hook;
            match contained(&mut self.panicked, index, || hook.message(client, &message)) {
                Some(Change::Keep) => {}
                Some(Change::Replace {
                    topic: new_topic,
                    payload: new_payload,
                }) => {
                    if let Some(new_topic) = new_topic {
                        *topic = new_topic;
                    }
                    if let Some(new_payload) = new_payload {
                        *payload = new_payload;
                    }
                }
                Some(Change::Drop) | None => return false,
            }
        }
        true
    }

    /// What `filter` is renamed to; `None` where it stays.
    fn rename(&mut self, client: &Client<'_>, filter: &TopicFilter) -> Option<TopicFilter> {
        let mut renamed: Option<TopicFilter> = None;
        for (index, installed) in self.hooks.iter_mut().enumerate() {
            if installed.interests.hold(Interests::FILTER) {
                let filter = renamed.as_ref().unwrap_or(filter);
                let hook = &mut installed.hook;
                let next = contained(&mut self.panicked, index, || hook.filter(client, filter)).flatten();
                renamed = next.or(renamed);
            }
        }
        renamed
    }

    #[inline(never)]
    fn allow_delivery(&mut self, session: &Session, message: &Message<'_>) -> bool {
        if !self.interests.hold(Interests::DELIVERY) {
            return true;
        }
        let client = Client {
            identity: &session.identity,
            client: Some(&session.client),
            peer: None,
            listener: None,
        };
        let mut allowed = true;
        self.call_each(
            Interests::DELIVERY,
            |hook| hook.delivery(&client, message),
            |ruling| {
                allowed = ruling == Some(Ruling::Allow);
                allowed
            },
        );
        allowed
    }

    pub(super) fn charged_bytes(&self) -> usize {
        self.held.values().map(|held| held.charge.bytes()).sum()
    }

    /// The deadlines that have to run.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (Instant, Timer)> {
        let held = self.held.iter();
        let held = held.map(|(&link, held)| (held.due, Timer::Hook(link)));
        held.chain(self.tick_due.map(|at| (at, Timer::HookTick)))
    }

    /// The links of which a packet is held.
    pub(super) fn links(&self) -> impl Iterator<Item = LinkId> {
        self.held.keys().copied()
    }
}

impl Installed {
    fn new(hook: Box<dyn Hook>, now: Instant) -> Self {
        let interests = hook.interests();
        Self {
            methods: hook.authentication_methods(),
            hook,
            interests,
            tick_at: interests.hold(Interests::TICK).then_some(now),
        }
    }
}

fn question_about(link: LinkId, number: u64) -> Question {
    Question::new(link.data().as_ffi(), number)
}

/// Calls a hook, and notes where it panics. What the hook itself looks like then is its own affair.
fn contained<T>(panicked: &mut Vec<usize>, index: usize, call: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(said) => Some(said),
        Err(_) => {
            panicked.push(index);
            None
        }
    }
}

/// Whether `session` may be handed `message`: by the rights, and by the hooks.
#[inline(always)]
pub(super) fn may_receive(
    hooked: &mut Option<Box<Hooked>>,
    rights: &Decided,
    attachments: u64,
    (key, session): (SessionKey, &Session),
    message: Message<'_>,
) -> bool {
    let asked = Asked {
        session: key,
        who: session.who(),
        action: Action::Receive,
        topic: message.topic.as_str(),
    };
    rights.allows(attachments, &asked)
        && match hooked {
            None => true,
            Some(hooked) => hooked.allow_delivery(session, &message),
        }
}

/// A client that is in, as hooks see it.
pub(super) fn client_of<'a>(
    links: &'a SecondaryMap<LinkId, Link>,
    sessions: &'a Sessions,
    link: LinkId,
) -> Option<Client<'a>> {
    let attachment = links.get(link)?.attachment()?;
    let session = sessions.get(attachment.session)?;
    Some(Client {
        identity: &session.identity,
        client: Some(&session.client),
        peer: attachment.peer,
        listener: Some(&attachment.listener.name),
    })
}

pub(super) fn origin_of(arrival: &Arrival) -> Origin<'_> {
    Origin {
        peer: arrival.peer,
        listener: &arrival.listener.name,
        certificate_user: arrival.certificate_user.as_ref(),
    }
}

impl Broker {
    /// The same broker with `hooks`, in the order they are asked. Answers that are given later go to `post`, and
    /// have to come back as [`Input::Answered`](super::Input::Answered) within `timeout`.
    pub fn with_hooks(
        mut self,
        now: Instant,
        hooks: Vec<Box<dyn Hook>>,
        post: Arc<dyn Post>,
        timeout: Duration,
    ) -> Self {
        if hooks.is_empty() {
            return self;
        }
        let hooked = Hooked::new(now, hooks, post, timeout);
        if let Some(at) = hooked.tick_due {
            self.timers.set(at, Timer::HookTick);
        }
        self.hooked = Some(Box::new(hooked));
        self
    }

    /// Whether any hook wants to be asked or told `what`.
    #[inline(always)]
    pub(super) fn has_hooks_for(&self, what: Interests) -> bool {
        self.hooked
            .as_ref()
            .is_some_and(|hooked| hooked.interests.hold(what))
    }

    /// Counts and tells the panics of hooks since the last input.
    #[inline(never)]
    pub(super) fn note_panics(&mut self) {
        let Some(hooked) = &mut self.hooked else { return };
        for index in hooked.panicked.drain(..) {
            self.stats.hook_panics += 1;
            if let Some(installed) = hooked.hooks.get(index) {
                let hook = contained(&mut Vec::new(), index, || installed.hook.name().to_owned());
                let hook = hook.unwrap_or_default();
                self.outputs
                    .push_back(Output::Event(Event::HookPanicked { hook }));
            }
        }
    }

    /// Shows a message of the gateway's own to the hooks; whether it goes on.
    #[inline(never)]
    pub(super) fn show_own_message(&mut self, message: &mut super::Message) -> bool {
        let Some(hooked) = &mut self.hooked else {
            return true;
        };
        let client = Client {
            identity: &Identity::Gateway,
            client: None,
            peer: None,
            listener: None,
        };
        let marks = (message.qos, message.retain);
        let goes_on = hooked.show(&client, &mut message.topic, &mut message.payload, marks);
        self.stats.dropped_by_hooks += u64::from(!goes_on);
        goes_on
    }

    /// What the hooks rename a filter of a client to; `None` where it stays.
    pub(super) fn renamed(&mut self, link: LinkId, filter: &TopicFilter) -> Option<TopicFilter> {
        let hooked = self.hooked.as_mut()?;
        let client = client_of(&self.links, &self.sessions, link)?;
        hooked.rename(&client, filter)
    }

    /// The link a question is about.
    pub(super) fn link_of(question: Question) -> LinkId {
        LinkId::from(KeyData::from_ffi(question.about()))
    }

    /// An answer came; void where nobody waits for it any more.
    #[inline(never)]
    pub(super) fn handle_answered(&mut self, now: Instant, answered: Answered) {
        let Answered { question, said } = answered;
        let verdict = match said {
            Said::Verdict(verdict) => verdict,
            Said::Judgement(judgement) => return self.handle_late_judgement(now, question, judgement),
        };
        let link = Self::link_of(question);
        let Some(known) = self.links.get_mut(link) else {
            return;
        };
        match &mut known.stage {
            Stage::Attached(_) => {
                let held = (self.hooked.as_ref()).and_then(|hooked| hooked.held.get(&link));
                if held.is_some_and(|held| held.question == question)
                    && let Some(held) = self.take_held(link)
                {
                    self.go_on(now, link, held, verdict);
                }
            }
            Stage::Arrived(arrival) => {
                let is_asked = |verifying: &mut Verifying| match &verifying.proof {
                    Proof::Hook(asked) => asked.question == question,
                    _ => false,
                };
                if let Some(verifying) = arrival.verifying.take_if(is_asked) {
                    self.outputs.push_back(Output::Resume { link });
                    self.go_on_at_door(now, link, verifying, verdict);
                }
            }
        }
    }

    /// Tells the hooks that a client is in.
    #[inline(never)]
    pub(super) fn tell_connected(&mut self, link: LinkId) {
        if let Some(hooked) = &mut self.hooked
            && let Some(client) = client_of(&self.links, &self.sessions, link)
        {
            hooked.call_each(Interests::CONNECTED, |hook| hook.connected(&client), |_| true);
        }
    }

    /// Tells the hooks that a client has subscribed.
    #[inline(never)]
    pub(super) fn tell_subscribed(&mut self, link: LinkId, filter: &TopicFilter, qos: QoS) {
        if let Some(hooked) = &mut self.hooked
            && let Some(client) = client_of(&self.links, &self.sessions, link)
        {
            let tell = |hook: &mut dyn Hook| hook.subscribed(&client, filter, qos);
            hooked.call_each(Interests::SUBSCRIBED, tell, |_| true);
        }
    }

    /// Tells the hooks that a client is out.
    #[inline(never)]
    pub(super) fn tell_disconnected(&mut self, key: SessionKey, door: &Origin<'_>, reason: DetachReason) {
        if let Some(hooked) = &mut self.hooked
            && let Some(session) = self.sessions.get(key)
        {
            let client = Client {
                identity: &session.identity,
                client: Some(&session.client),
                peer: door.peer,
                listener: Some(door.listener),
            };
            let departure = match reason {
                DetachReason::ClientDisconnect(reason) => Departure::Goodbye(reason),
                DetachReason::ConnectionLost => Departure::Lost,
                _ => Departure::SentAway,
            };
            let tell = |hook: &mut dyn Hook| hook.disconnected(&client, departure);
            hooked.call_each(Interests::DISCONNECTED, tell, |_| true);
        }
    }

    /// Ticks the hooks whose time has come.
    pub(super) fn handle_hook_tick(&mut self, now: Instant) {
        let Some(hooked) = &mut self.hooked else { return };
        for (index, installed) in hooked.hooks.iter_mut().enumerate() {
            if installed.tick_at.is_some_and(|at| at <= now) {
                let hook = &mut installed.hook;
                // One that panicked is not called again by the clock alone.
                let after = contained(&mut hooked.panicked, index, || hook.tick(now)).flatten();
                installed.tick_at = after.and_then(|after| now.checked_add(after.max(TICK_MIN)));
            }
        }
        hooked.tick_due = hooked.hooks.iter().filter_map(|hook| hook.tick_at).min();
        if let Some(at) = hooked.tick_due {
            self.timers.set(at, Timer::HookTick);
        }
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked")
            .field("hooks", &self.hooks.len())
            .field("interests", &self.interests)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}
