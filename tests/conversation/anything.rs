//! Hooks that say anything at all, and access rules of any kind, out of bytes: from a seed, or from a fuzzer.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tidegate::auth::access::Rights;
use tidegate::auth::acl::{Acl, Actions, Effect, Rule, Source, Topics, Whom};
use tidegate::hooks::{
    Answer, Change, Client, Departure, Hook, Interests, Later, Login, Message, Origin, Ruling, Verdict,
};
use tidegate::mqtt::{QoS, TopicFilter};

use super::{client_id, filter, text, topic};

/// A hook that has a whim each time it is asked: at once, later, never, or it panics. Its clones are the same.
///
/// In two things it can be relied on: nobody called `bill` is handed what stands at [`Whims::SECRET`], and a filter is
/// renamed to the same each time.
#[derive(Clone)]
pub struct Whims {
    interests: Interests,
    inner: Rc<RefCell<Inner>>,
}

struct Inner {
    next: Box<dyn FnMut() -> u8>,
    panics: bool,
    owed: VecDeque<Answer>,
    ticks_left: u32,
    seen: BTreeSet<&'static str>,
}

impl Whims {
    /// What user `bill` is not handed.
    pub const SECRET: &str = "a//c";
    /// No whim: it lets things be.
    pub const NONE: u8 = 12;
    /// Answers it owes at most; it forgets the oldest.
    const OWED_MAX: usize = 8;

    /// One that asks `next` for its whims, and panics where that is contained.
    pub fn new(interests: Interests, panics: bool, next: impl FnMut() -> u8 + 'static) -> Self {
        let inner = Inner {
            next: Box::new(next),
            panics,
            owed: VecDeque::new(),
            ticks_left: 5,
            seen: BTreeSet::new(),
        };
        Self {
            interests,
            inner: Rc::new(RefCell::new(inner)),
        }
    }

    /// All that a hook can be asked and told.
    pub fn all() -> Interests {
        [
            Interests::ARRIVAL,
            Interests::AUTHENTICATE,
            Interests::MESSAGE,
            Interests::PUBLISH,
            Interests::FILTER,
            Interests::SUBSCRIBE,
            Interests::DELIVERY,
            Interests::CONNECTED,
            Interests::SUBSCRIBED,
            Interests::DISCONNECTED,
            Interests::TICK,
        ]
        .into_iter()
        .fold(Interests::NONE, Interests::with)
    }

    /// Gives one of the answers it owes; `None` forgets it.
    pub fn answer(&self, which: u8, verdict: Option<Verdict>) {
        let mut inner = self.inner.borrow_mut();
        let which = usize::from(which).checked_rem(inner.owed.len());
        let answer = which.and_then(|which| inner.owed.remove(which));
        if let (Some(answer), Some(verdict)) = (answer, verdict) {
            answer.give(verdict);
        }
    }

    /// What it has done at least once.
    pub fn seen(&self) -> BTreeSet<&'static str> {
        self.inner.borrow().seen.clone()
    }

    fn whim(&self) -> u8 {
        let mut inner = self.inner.borrow_mut();
        let whim = (inner.next)() % 16;
        if whim == 15 && inner.panics {
            inner.seen.insert("a hook that panics");
            drop(inner);
            // Without a word on standard error.
            std::panic::resume_unwind(Box::new("a whim"));
        }
        whim
    }

    fn judge(&self, later: &mut Later<'_>) -> Verdict {
        let whim = self.whim();
        let mut inner = self.inner.borrow_mut();
        match whim {
            0 => Verdict::Deny,
            1 => Verdict::Unavailable,
            2..=4 => {
                inner.seen.insert("a hook that answers later");
                inner.owed.push_back(later.answer());
                if inner.owed.len() > Self::OWED_MAX {
                    inner.owed.pop_front();
                }
                Verdict::Later
            }
            // It keeps no way to answer.
            5 => Verdict::Later,
            6 => Verdict::AllowAs(text("ann")),
            7 => Verdict::AllowAs(text("bill")),
            8..=9 => Verdict::Allow,
            _ => Verdict::Abstain,
        }
    }
}

/// What a hook may say later, by a byte; `None`: nothing.
pub fn verdict(byte: u8) -> Option<Verdict> {
    match byte % 8 {
        0 => Some(Verdict::Deny),
        1 => Some(Verdict::Unavailable),
        2 => Some(Verdict::Abstain),
        3 => Some(Verdict::Later),
        4 => Some(Verdict::AllowAs(text("bill"))),
        5 => None,
        _ => Some(Verdict::Allow),
    }
}

impl Hook for Whims {
    fn name(&self) -> &str {
        "whims"
    }

    fn interests(&self) -> Interests {
        self.interests
    }

    fn arrival(&mut self, _: &Origin<'_>) -> Ruling {
        match self.whim() {
            0 => Ruling::Deny,
            _ => Ruling::Allow,
        }
    }

    fn authenticate(&mut self, _: &Login<'_>, later: &mut Later<'_>) -> Verdict {
        self.judge(later)
    }

    fn message(&mut self, _: &Client<'_>, _: &Message<'_>) -> Change {
        let (topic, payload) = match self.whim() {
            0 => return Change::Drop,
            1 => (Some(topic("c")), None),
            2 => (Some(topic("$SYS/a")), None),
            3 => (None, Some("hook".into())),
            _ => return Change::Keep,
        };
        Change::Replace { topic, payload }
    }

    fn publish(&mut self, _: &Client<'_>, _: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        self.judge(later)
    }

    fn filter(&mut self, _: &Client<'_>, found: &TopicFilter) -> Option<TopicFilter> {
        match found.as_str() {
            "b" => Some(filter("c")),
            "a/+/c" => Some(filter("$share/g/a/b/c")),
            _ => None,
        }
    }

    fn subscribe(&mut self, _: &Client<'_>, _: &TopicFilter, _: QoS, later: &mut Later<'_>) -> Verdict {
        self.judge(later)
    }

    fn delivery(&mut self, to: &Client<'_>, message: &Message<'_>) -> Ruling {
        match message.topic.as_str() == Self::SECRET && to.identity.to_string() == "bill" {
            true => Ruling::Deny,
            false => Ruling::Allow,
        }
    }

    fn connected(&mut self, _: &Client<'_>) {
        self.whim();
    }

    fn subscribed(&mut self, _: &Client<'_>, _: &TopicFilter, _: QoS) {
        self.whim();
    }

    fn disconnected(&mut self, _: &Client<'_>, _: Departure) {
        self.whim();
    }

    fn tick(&mut self, _: Instant) -> Option<Duration> {
        let mut inner = self.inner.borrow_mut();
        inner.ticks_left = inner.ticks_left.checked_sub(1)?;
        Some(Duration::from_secs(50))
    }
}

/// Access rules, each out of four bytes: whom it binds, what it does, with which topics, and for which client.
pub fn rights(otherwise: Effect, rules: &[[u8; 4]]) -> Rights {
    let mut acl = Acl::new(otherwise);
    acl.add_group("both", vec![text("ann"), text("bill")]);
    for (line, &[whom, what, topics, client]) in (1..).zip(rules) {
        let whom = match whom % 6 {
            0 => Whom::Anonymous,
            1 => Whom::User(text("ann")),
            2 => Whom::User(text("+/#")),
            3 => Whom::Group("both".to_owned()),
            _ => Whom::Everybody,
        };
        let topics = [
            "#", "a/#", "a/b", "+/b", "b/c", "a/%u", "%c/#", "site/#", "$SYS/#", "c",
        ][usize::from(topics) % 10];
        let (_, actions) = Actions::WORDS[usize::from(what >> 1) % Actions::WORDS.len()];
        acl.push(
            &whom,
            Rule {
                effect: [Effect::Allow, Effect::Deny][usize::from(what & 1)],
                actions,
                topics: Topics::pattern(topics).expect("topics of the test"),
                client: (client % 4 == 0).then(|| client_id("ann")),
                source: Source {
                    file: "rules".into(),
                    line,
                },
            },
        );
    }
    Rights::within(acl)
}
