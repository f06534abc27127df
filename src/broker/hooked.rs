//! Hooks: where they are asked, what waits for an answer that is given later, and what becomes of it.
//!
//! A client whose PUBLISH or SUBSCRIBE waits is not read ([`Output::Pause`]), and what it had sent already waits behind
//! it, so that everything happens in its order. A client that waits at the door waits as for its password's check.

mod installation;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::{Key, KeyData, SecondaryMap};

use super::authenticate::Exchange;
use super::budget::{Charge, Use};
use super::connect::{Admission, Credentials, WAITING_BYTES_MAX, WAITING_PACKETS_MAX, detached};
use super::decided::Decided;
use super::kept::{Texts, detached_properties, properties_bytes};
use super::link::{Arrival, Link, LinkId, Proof, Stage, Verifying};
use super::publish::Incoming;
use super::session::{Session, SessionKey, Sessions};
use super::timers::Timer;
use super::will::Testament;
use super::{Broker, DetachReason, Event, Output, Refusal};
use crate::auth::Identity;
use crate::auth::access::{Action, Who};
use crate::auth::groups::Groups;
use crate::hooks::{
    Answered, Change, Client, Departure, ExchangeEnd, ExchangeId, Hook, Interests, Judgement, Later, Login,
    Message, Origin, Post, Question, Ruling, Said, Step, TICK_MIN, Verdict,
};
use crate::mqtt::{
    Packet, PublishProperties, QoS, ReasonCode, Subscribe, TopicFilter, TopicName, Utf8String, Will,
    WillProperties,
};

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

/// A packet that waits for an answer, and what came after it.
struct Held {
    question: Question,
    /// The hook that is asked next.
    next_hook: usize,
    due: Instant,
    what: Asked,
    /// What it costs itself.
    own_bytes: usize,
    behind: VecDeque<Packet>,
    behind_bytes: usize,
    charge: Charge,
}

enum Asked {
    Publish(Incoming),
    /// Whether each of the first filters is refused; the next one is asked about.
    Subscribe(Box<Subscribe>, Vec<bool>),
}

/// A question about a client that is not in yet.
#[derive(Debug)]
pub(super) struct AtDoor {
    question: Question,
    next_hook: usize,
    about: Door,
}

#[derive(Debug)]
enum Door {
    Login(Credentials),
    /// The will of somebody who has proved to be this.
    Will(Rc<Identity>, Option<(Box<Exchange>, Option<Bytes>)>),
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
    rights.allows(
        attachments,
        key,
        session.who(),
        Action::Receive,
        message.topic.as_str(),
    ) && match hooked {
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

    /// Whether the hooks let a connection in that has just come.
    pub(super) fn allows_arrival(&mut self, arrival: &Arrival) -> bool {
        let Some(hooked) = &mut self.hooked else {
            return true;
        };
        let origin = origin_of(arrival);
        let mut allowed = true;
        hooked.call_each(
            Interests::ARRIVAL,
            |hook| hook.arrival(&origin),
            |ruling| {
                allowed = ruling == Some(Ruling::Allow);
                allowed
            },
        );
        allowed
    }

    /// Asks the hooks who a client is, from the hook at `from` on; whoever is to decide where they do not, is asked
    /// after them.
    #[inline(never)]
    pub(super) fn ask_about_login(
        &mut self,
        now: Instant,
        link: LinkId,
        mut verifying: Verifying,
        credentials: Credentials,
        from: usize,
    ) {
        let (Some(hooked), Some(Stage::Arrived(arrival))) =
            (&mut self.hooked, self.links.get(link).map(|link| &link.stage))
        else {
            return;
        };
        let login = Login {
            origin: Origin {
                certificate_user: credentials.certificate_user.as_ref(),
                ..origin_of(arrival)
            },
            client: (verifying.admission.client_id()).or(arrival.certificate_client.as_deref()),
            user: credentials.user.as_ref(),
            password: credentials.password.as_deref(),
        };
        let user = match hooked.ask(link, from, &Matter::Login(&login)) {
            Outcome::Abstain => return self.log_in(now, link, verifying, credentials),
            Outcome::Allow(user, groups) => {
                verifying.admission.groups = groups;
                user.or(credentials.certificate_user).or(credentials.user)
            }
            Outcome::Deny => return self.refuse(now, link, Refusal::BadCredentials),
            Outcome::Unavailable => return self.refuse(now, link, Refusal::CheckUnavailable),
            Outcome::Later(question, next_hook) => {
                verifying.proof = Proof::Hook(Box::new(AtDoor {
                    question,
                    next_hook,
                    about: Door::Login(credentials),
                }));
                return self.wait_at_door(now, link, verifying);
            }
        };
        let identity = self.identity_of(user);
        self.admit_with_all(now, link, verifying, identity);
    }

    /// Who a client is that the hooks let in.
    pub(super) fn identity_of(&self, user: Option<Utf8String>) -> Rc<Identity> {
        match user {
            Some(user) => Rc::new(Identity::User(user.detached())),
            None => self.anonymous.clone(),
        }
    }

    fn wait_at_door(&mut self, now: Instant, link: LinkId, verifying: Verifying) {
        let timeout = self
            .hooked
            .as_ref()
            .map_or(Duration::ZERO, |hooked| hooked.timeout);
        if self.wait_for_proof(now, link, verifying, timeout) {
            self.outputs.push_back(Output::Pause { link });
        }
    }

    /// Shows the will of a client to the hooks, and asks those from the one at `from` on whether it may be published;
    /// then goes on with [`Broker::admit`]. `None` to `from` stands for a will that was not shown yet.
    #[inline(never)]
    pub(super) fn ask_about_will(
        &mut self,
        now: Instant,
        link: LinkId,
        mut admission: Admission,
        identity: Rc<Identity>,
        proved: Option<(Box<Exchange>, Option<Bytes>)>,
        from: Option<usize>,
    ) {
        let (Some(hooked), Some(Stage::Arrived(arrival))) =
            (&mut self.hooked, self.links.get(link).map(|link| &link.stage))
        else {
            return;
        };
        let client_id = admission.client_id().or(arrival.certificate_client.as_deref());
        let client_id = client_id.cloned();
        let client = Client {
            identity: &identity,
            client: client_id.as_ref(),
            peer: arrival.peer,
            listener: Some(&arrival.listener.name),
        };
        let Some(will) = admission.will.take() else {
            return;
        };
        let mount_point = arrival.listener.mount_point.as_ref();
        let shown = match from {
            None => show_will(hooked, &client, *will, mount_point, &self.budget.account),
            Some(_) => Ok(Some(*will)),
        };
        admission.is_will_asked = true;
        let will = match shown {
            Ok(Some(will)) => will,
            Ok(None) => return self.admit(now, link, admission, identity, proved),
            Err(refusal) => return self.refuse(now, link, refusal),
        };
        let kept = will.message();
        let fits = kept.size_bytes() <= self.limits.will_bytes_max
            && super::publish::is_topic_within(&self.limits, kept.topic_str());
        if !fits {
            return self.refuse(now, link, Refusal::WillTooLarge);
        }
        let texts = kept.texts();
        let message = texts.as_seen(kept.qos, will.retain());
        let who = Who::new(client.identity, client.client).in_groups(&admission.groups);
        // What the rights forbid is refused where the client is let in.
        let outcome = match self.rights.authorize(who, Action::Publish, kept.topic_str()) {
            true => hooked.ask(link, from.unwrap_or(0), &Matter::Publish(&client, &message)),
            false => Outcome::Abstain,
        };
        admission.will = Some(Box::new(will));
        match outcome {
            Outcome::Abstain | Outcome::Allow(..) => self.admit(now, link, admission, identity, proved),
            Outcome::Deny | Outcome::Unavailable => {
                self.stats.publishes_denied += 1;
                self.refuse(now, link, Refusal::WillDenied);
            }
            Outcome::Later(question, next_hook) => {
                admission.is_will_asked = false;
                let about = Door::Will(identity, proved);
                let proof = Proof::Hook(Box::new(AtDoor {
                    question,
                    next_hook,
                    about,
                }));
                let verifying = Verifying::new(admission, proof, &self.budget.account);
                self.wait_at_door(now, link, verifying);
            }
        }
    }

    /// A client has published something: shows it to the hooks, and asks them where its rights allow it.
    #[inline(never)]
    pub(super) fn ask_about_publish(&mut self, now: Instant, link: LinkId, mut incoming: Incoming) {
        if let Some(hooked) = &mut self.hooked
            && hooked.interests.hold(Interests::MESSAGE)
            && let Some(client) = client_of(&self.links, &self.sessions, link)
        {
            let marks = (incoming.qos, incoming.retain);
            if !hooked.show(&client, &mut incoming.topic, &mut incoming.payload, marks) {
                self.stats.dropped_by_hooks += 1;
                let Incoming { qos, packet_id, .. } = incoming;
                return self.acknowledge_publish(now, link, qos, packet_id, ReasonCode::Success);
            }
        }
        let Some(known) = self.links.get(link).and_then(Link::attachment) else {
            return;
        };
        if let Some(incoming) = self.checked_publish(now, link, known.session, incoming) {
            self.go_on_publishing(now, link, incoming, 0);
        }
    }

    fn go_on_publishing(&mut self, now: Instant, link: LinkId, incoming: Incoming, from: usize) {
        let outcome = match (&mut self.hooked, client_of(&self.links, &self.sessions, link)) {
            (Some(hooked), Some(client)) => {
                let message = Message {
                    topic: &incoming.topic,
                    payload: &incoming.payload,
                    qos: incoming.qos,
                    retain: incoming.retain,
                };
                hooked.ask(link, from, &Matter::Publish(&client, &message))
            }
            _ => return,
        };
        match outcome {
            Outcome::Abstain | Outcome::Allow(..) => self.finish_publish_of_hooks(now, link, incoming),
            Outcome::Deny | Outcome::Unavailable => self.deny_publish(now, link, &incoming),
            Outcome::Later(question, next_hook) => {
                let incoming = incoming.detached();
                let bytes = incoming.bytes();
                if self.budget.allows(Use::Packet, bytes) {
                    self.hold(now, link, question, next_hook, Asked::Publish(incoming), bytes);
                } else {
                    self.deny_publish(now, link, &incoming);
                }
            }
        }
    }

    fn may_publish(&self, link: LinkId, topic: &TopicName) -> bool {
        let attachment = self.links.get(link).and_then(Link::attachment);
        let session = attachment.and_then(|attachment| self.sessions.get(attachment.session));
        session.is_some_and(|session| {
            self.rights
                .authorize(session.who(), Action::Publish, topic.as_str())
        })
    }

    fn deny_publish(&mut self, now: Instant, link: LinkId, incoming: &Incoming) {
        self.stats.publishes_denied += 1;
        self.reject_publish(
            now,
            link,
            incoming.qos,
            incoming.packet_id,
            Refusal::PublishDenied,
        );
    }

    #[inline(never)]
    fn finish_publish_of_hooks(&mut self, now: Instant, link: LinkId, incoming: Incoming) {
        if let Some(known) = self.links.get(link).and_then(Link::attachment) {
            let whose = (known.session, known.version);
            self.finish_publish(now, link, whose, incoming);
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

    /// A client wants to subscribe: has the filters renamed, and asks the hooks for each where its rights allow it.
    #[inline(never)]
    pub(super) fn ask_about_subscribe(&mut self, now: Instant, link: LinkId, subscribe: &Subscribe) {
        let mut subscribe = Box::new(subscribe.clone());
        for subscription in &mut subscribe.subscriptions {
            if let Some(renamed) = self.renamed(link, &subscription.filter) {
                subscription.filter = renamed;
            }
        }
        self.go_on_subscribing(now, link, subscribe, Vec::new(), 0);
    }

    fn go_on_subscribing(
        &mut self,
        now: Instant,
        link: LinkId,
        subscribe: Box<Subscribe>,
        mut refused: Vec<bool>,
        mut from: usize,
    ) {
        while let Some(subscription) = subscribe.subscriptions.get(refused.len()) {
            let (Some(hooked), Some(client), Some(known)) = (
                &mut self.hooked,
                client_of(&self.links, &self.sessions, link),
                self.links.get(link).and_then(Link::attachment),
            ) else {
                return;
            };
            let mounted = match &known.listener.mount_point {
                None => Some(subscription.filter.clone()),
                Some(mount_point) => mount_point.mounted_filter(&subscription.filter),
            };
            let Some(session) = self.sessions.get(known.session) else {
                return;
            };
            let who = session.who();
            let outcome = match &mounted {
                Some(filter) if self.rights.authorize(who, Action::Subscribe, filter.matched()) => {
                    hooked.ask(link, from, &Matter::Subscribe(&client, filter, subscription.qos))
                }
                _ => Outcome::Abstain, // it is refused in any case
            };
            from = 0;
            match outcome {
                Outcome::Abstain | Outcome::Allow(..) => refused.push(false),
                Outcome::Deny | Outcome::Unavailable => refused.push(true),
                Outcome::Later(question, next_hook) => {
                    let waiting = detached(Packet::Subscribe(subscribe));
                    if let Some((Packet::Subscribe(subscribe), bytes)) = waiting {
                        let asked = Asked::Subscribe(subscribe, refused);
                        self.hold(now, link, question, next_hook, asked, bytes);
                    }
                    return;
                }
            }
        }
        self.finish_subscribe(now, link, &subscribe, &refused);
    }

    /// Keeps a packet until it is answered for.
    fn hold(
        &mut self,
        now: Instant,
        link: LinkId,
        question: Question,
        next_hook: usize,
        what: Asked,
        bytes: usize,
    ) {
        let Some(hooked) = &mut self.hooked else { return };
        let due = now.checked_add(hooked.timeout).unwrap_or(now);
        let held = Held {
            question,
            next_hook,
            due,
            what,
            own_bytes: bytes,
            behind: VecDeque::new(),
            behind_bytes: 0,
            charge: Charge::new(&self.budget.account, bytes),
        };
        hooked.held.insert(link, held);
        self.timers.set(due, Timer::Hook(link));
        self.stats.hook_answers_awaited += 1;
        self.outputs.push_back(Output::Pause { link });
    }

    /// A packet came while there are hooks.
    #[inline(never)]
    pub(super) fn handle_packet_hooked(&mut self, now: Instant, link: LinkId, packet: Packet) {
        let held = (self.hooked.as_mut()).and_then(|hooked| hooked.held.get_mut(&link));
        let Some(held) = held else {
            return self.handle_free_packet(now, link, packet);
        };
        self.stats.packets_received += 1;
        let Some((packet, bytes)) = detached(packet) else {
            // Nothing else may come now, and it is not looked at out of its turn.
            return self.refuse(now, link, Refusal::SecondConnect);
        };
        held.behind.push_back(packet);
        held.behind_bytes += bytes;
        held.charge.set(held.own_bytes + held.behind_bytes);
        if held.behind.len() > WAITING_PACKETS_MAX
            || held.behind_bytes > WAITING_BYTES_MAX
            || !self.budget.allows(Use::Packet, 0)
        {
            self.refuse(now, link, Refusal::TooEager);
        }
    }

    /// Whether a link is not read, for one of its packets waits for an answer, or for room.
    pub(super) fn is_held(&self, link: LinkId) -> bool {
        self.held_until(link).is_some()
    }

    /// Until when that is at the latest.
    pub(super) fn held_until(&self, link: LinkId) -> Option<Instant> {
        let held = (self.hooked.as_ref()).and_then(|hooked| hooked.held.get(&link));
        let crowd = self.crowd.as_ref();
        held.map(|held| held.due)
            .or_else(|| crowd.and_then(|crowd| crowd.unread_until(link)))
    }

    /// A link has ended: whatever waited for an answer is not done.
    #[inline(never)]
    pub(super) fn forget_held(&mut self, link: LinkId) {
        if let Some(held) = self.take_held(link)
            && let Asked::Publish(_) = held.what
        {
            self.stats.publishes_denied += 1;
        }
    }

    fn take_held(&mut self, link: LinkId) -> Option<Held> {
        let held = self.hooked.as_mut()?.held.remove(&link)?;
        self.timers.cancel(Some(held.due), Timer::Hook(link));
        Some(held)
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

    /// No answer came in time.
    pub(super) fn handle_hook_timer(&mut self, now: Instant, link: LinkId) {
        if let Some(held) = self.take_held(link) {
            self.stats.hook_timeouts += 1;
            self.go_on(now, link, held, Verdict::Unavailable);
        }
    }

    /// Does what the answer says with a packet that waited, and then with those behind it.
    fn go_on(&mut self, now: Instant, link: LinkId, held: Held, verdict: Verdict) {
        let Held {
            next_hook,
            what,
            mut behind,
            ..
        } = held;
        let is_allowed = matches!(
            verdict,
            Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. } | Verdict::Abstain
        );
        match what {
            // Its rights may be others since it was asked about.
            Asked::Publish(incoming) if is_allowed && self.may_publish(link, &incoming.topic) => {
                self.go_on_publishing(now, link, incoming, next_hook);
            }
            Asked::Publish(incoming) => self.deny_publish(now, link, &incoming),
            Asked::Subscribe(subscribe, refused) if is_allowed => {
                self.go_on_subscribing(now, link, subscribe, refused, next_hook);
            }
            Asked::Subscribe(subscribe, mut refused) => {
                refused.push(true);
                self.go_on_subscribing(now, link, subscribe, refused, 0);
            }
        }
        // Should one of them have to wait, those after it wait behind it again.
        while let Some(packet) = behind.pop_front().filter(|_| self.links.contains_key(link)) {
            self.stats.packets_received -= 1; // it was counted when it came
            self.handle_packet(now, link, packet);
        }
        if self.is_held(link) {
            return;
        }
        if let Some(attachment) = self.links.get_mut(link).and_then(Link::attachment_mut) {
            attachment.last_received = now; // it was not read
            if attachment.pace.paused_until.is_none() {
                self.outputs.push_back(Output::Resume { link });
            }
        }
    }

    fn go_on_at_door(&mut self, now: Instant, link: LinkId, mut verifying: Verifying, verdict: Verdict) {
        let proof = std::mem::replace(&mut verifying.proof, Proof::Unasked);
        let Proof::Hook(asked) = proof else { return };
        let AtDoor { next_hook, about, .. } = *asked;
        match (about, verdict) {
            (Door::Login(credentials), Verdict::Abstain) => {
                self.ask_about_login(now, link, verifying, credentials, next_hook);
            }
            (
                Door::Login(credentials),
                verdict @ (Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. }),
            ) => {
                let user = match verdict {
                    Verdict::AllowAs(user) => Some(user),
                    Verdict::AllowIn { user, groups } => {
                        verifying.admission.groups = groups;
                        user
                    }
                    _ => None,
                };
                let user = user.or(credentials.certificate_user).or(credentials.user);
                let identity = self.identity_of(user);
                self.admit_with_all(now, link, verifying, identity);
            }
            (Door::Login(_), Verdict::Deny) => self.refuse(now, link, Refusal::BadCredentials),
            (Door::Login(_), Verdict::Unavailable | Verdict::Later) => {
                self.refuse(now, link, Refusal::CheckUnavailable);
            }
            (
                Door::Will(identity, proved),
                Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. } | Verdict::Abstain,
            ) => {
                let Verifying {
                    admission, waiting, ..
                } = verifying;
                self.ask_about_will(now, link, admission, identity, proved, Some(next_hook));
                for packet in waiting {
                    self.handle_packet(now, link, packet);
                }
            }
            (Door::Will(..), Verdict::Deny | Verdict::Unavailable | Verdict::Later) => {
                self.stats.publishes_denied += 1;
                self.refuse(now, link, Refusal::WillDenied);
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

/// Shows a will to the hooks, as the client calls its topic; `None` where they drop it.
///
/// # Errors
/// What is wrong with where it would go.
fn show_will(
    hooked: &mut Hooked,
    client: &Client<'_>,
    will: Testament,
    mount_point: Option<&super::MountPoint>,
    account: &super::budget::Account,
) -> Result<Option<Testament>, Refusal> {
    let kept = will.message();
    let Texts {
        topic: kept_topic,
        payload: kept_payload,
    } = kept.texts();
    let mut payload = kept_payload.clone();
    let own = mount_point.and_then(|mount_point| mount_point.unmounted(&kept_topic));
    let before = own.unwrap_or(kept_topic);
    let mut topic = before.clone();
    if !hooked.show(client, &mut topic, &mut payload, (kept.qos, will.retain())) {
        return Ok(None);
    }
    if topic == before && payload == kept_payload {
        return Ok(Some(will));
    }
    let topic = match mount_point {
        None => topic,
        Some(_) if topic.is_reserved() => return Err(Refusal::WillDenied),
        Some(mount_point) => mount_point.mounted(&topic).ok_or(Refusal::WillTopic)?,
    };
    let changed = Will {
        topic: topic.clone(),
        payload,
        qos: kept.qos,
        retain: will.retain(),
        properties: WillProperties {
            delay_secs: u32::try_from(will.delay.as_secs()).ok(),
            publish: kept.properties().cloned().unwrap_or_default(),
        },
    };
    Ok(Some(Testament::new(&changed, &topic, account)))
}

impl Incoming {
    /// A copy that shares nothing with a read buffer.
    fn detached(self) -> Self {
        Self {
            topic: self.topic.detached(),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: (self.properties.as_deref())
                .map(|properties: &PublishProperties| Box::new(detached_properties(properties))),
            ..self
        }
    }

    fn bytes(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_bytes);
        size_of::<Packet>() + self.topic.as_str().len() + self.payload.len() + properties
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
