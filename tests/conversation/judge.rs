//! The hook of a test that takes part in exchanges of AUTH packets: it says later what the test tells it to.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tidegate::broker::{LinkId, Output};
use tidegate::hooks::{
    Answer, DenialReason, ExchangeEnd, ExchangeId, Hook, Interests, Judgement, Later, Moment, Proved, Step,
};
use tidegate::mqtt::{Auth, AuthProperties, Connect, ConnectProperties, Packet, ReasonCode, Utf8String};

use super::{House, Letters, V5, client, connack, text};

/// A hook that speaks some methods.
#[derive(Clone, Default)]
pub struct Judge {
    methods: Rc<[&'static str]>,
    desk: Rc<RefCell<Desk>>,
}

#[derive(Default)]
struct Desk {
    /// What it was asked and told.
    heard: Vec<String>,
    /// What it says at once; where there is nothing, it answers later.
    at_once: VecDeque<Judgement>,
    owed: VecDeque<(ExchangeId, Answer<Judgement>)>,
    /// Exchanges that are not over.
    open: Vec<ExchangeId>,
    panics: bool,
}

impl Judge {
    pub fn of(methods: &[&'static str]) -> Self {
        Self {
            methods: methods.into(),
            ..Self::default()
        }
    }

    /// Has it say this at once, after what it was told before.
    pub fn will_say(&self, judgement: Judgement) {
        self.desk.borrow_mut().at_once.push_back(judgement);
    }

    /// Has it panic from here on, or not any more.
    pub fn panics(&self, panics: bool) {
        self.desk.borrow_mut().panics = panics;
    }

    /// Gives the oldest answer it owes; whether there was one.
    pub fn give(&self, judgement: Judgement) -> bool {
        let owed = self.desk.borrow_mut().owed.pop_front();
        owed.map(|(_, answer)| answer.give(judgement)).is_some()
    }

    /// Gives the newest answer it owes.
    pub fn give_last(&self, judgement: Judgement) {
        let owed = self.desk.borrow_mut().owed.pop_back();
        if let Some((_, answer)) = owed {
            answer.give(judgement);
        }
    }

    /// Gives one of the answers it owes, counted round them from the oldest.
    pub fn give_nth(&self, number: usize, judgement: Judgement) {
        let owed = &mut self.desk.borrow_mut().owed;
        if let Some(at) = number.checked_rem(owed.len())
            && let Some((_, answer)) = owed.remove(at)
        {
            answer.give(judgement);
        }
    }

    /// Forgets the answers it owes, which are "unavailable" then.
    pub fn forget(&self) {
        let owed = std::mem::take(&mut self.desk.borrow_mut().owed);
        drop(owed);
    }

    /// What it was asked and told since.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.desk.borrow_mut().heard)
    }

    /// Exchanges it was asked about that it was not told the end of.
    pub fn open(&self) -> usize {
        self.desk.borrow().open.len()
    }
}

impl Hook for Judge {
    fn name(&self) -> &str {
        "judge"
    }

    fn interests(&self) -> Interests {
        Interests::NONE
    }

    fn authentication_methods(&self) -> Vec<Utf8String> {
        self.methods.iter().map(|&method| text(method)).collect()
    }

    fn exchange(&mut self, step: &Step<'_>, later: &mut Later<'_, Judgement>) -> Judgement {
        let mut desk = self.desk.borrow_mut();
        let is_known = desk.open.contains(&step.exchange);
        let what = match step.moment {
            Moment::Begin(login) => {
                let user = login.user.map_or("-", |user| user.as_str());
                let certificate = login.origin.certificate_user;
                let certificate = certificate.map_or("-", |user| user.as_str());
                format!("begin {user} {certificate}")
            }
            Moment::Again(client) => format!("again {}", client.identity),
            Moment::Next => "next".to_owned(),
        };
        assert_eq!(is_known, matches!(step.moment, Moment::Next), "{what}");
        if !is_known {
            desk.open.push(step.exchange);
        }
        let data = step.data.map(String::from_utf8_lossy);
        desk.heard.push(format!("{what} {}", data.unwrap_or("-".into())));
        assert!(!desk.panics, "as it was told to");
        match desk.at_once.pop_front() {
            Some(judgement) => judgement,
            None => {
                desk.owed.push_back((step.exchange, later.answer()));
                Judgement::Later
            }
        }
    }

    fn exchange_ended(&mut self, exchange: ExchangeId, end: ExchangeEnd) {
        let mut desk = self.desk.borrow_mut();
        let at = desk.open.iter().position(|&open| open == exchange);
        desk.open.remove(at.expect("an exchange ends once"));
        desk.heard.push(format!("{end:?}"));
    }
}

pub const METHOD: &str = "SCRAM-SHA-256";

/// A house with a hook that speaks two methods and takes its time.
pub struct Proving {
    pub house: House,
    pub judge: Judge,
    pub letters: Arc<Letters>,
}

impl Deref for Proving {
    type Target = House;

    fn deref(&self) -> &House {
        &self.house
    }
}

impl DerefMut for Proving {
    fn deref_mut(&mut self) -> &mut House {
        &mut self.house
    }
}

pub fn house() -> Proving {
    house_with(Vec::new())
}

/// The same, where `others` are asked before.
pub fn house_with(others: Vec<Box<dyn Hook>>) -> Proving {
    let judge = Judge::of(&[METHOD, "OTHER"]);
    let mut hooks = others;
    hooks.push(Box::new(judge.clone()));
    let (house, letters) = House::hooked(hooks);
    Proving {
        house,
        judge,
        letters,
    }
}

/// CONNECT of a client that names a method and keeps its session.
pub fn proving(id: &str, method: &str) -> Connect {
    Connect {
        properties: ConnectProperties {
            authentication_method: Some(text(method)),
            authentication_data: Some("hello".into()),
            session_expiry_secs: Some(3600),
            ..ConnectProperties::default()
        },
        clean_start: false,
        ..client(V5, id)
    }
}

pub fn auth(reason: ReasonCode, method: &str, data: &'static str) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        properties: AuthProperties {
            authentication_method: Some(text(method)),
            authentication_data: Some(data.into()),
            ..AuthProperties::default()
        },
    }))
}

/// The hook answers what it was asked first.
pub fn answered(house: &mut Proving, judgement: Judgement) -> Vec<Output> {
    assert!(house.judge.give(judgement), "nothing was asked");
    house.house.take_answers(&house.letters)
}

pub fn go_on(data: &'static str) -> Judgement {
    Judgement::Continue {
        data: Some(data.into()),
    }
}

pub fn allow(user: &str, data: Option<Bytes>) -> Judgement {
    Judgement::Allow(Box::new(Proved {
        user: Some(text(user)),
        data,
        ..Proved::default()
    }))
}

pub fn deny() -> Judgement {
    Judgement::Deny(DenialReason::default())
}

/// A client that came in by one question and one answer.
pub fn let_in(house: &mut Proving) -> LinkId {
    let link = house.arrive_at_locked_door();
    house.receive(link, Packet::Connect(Box::new(proving("bill", METHOD))));
    let outputs = answered(house, allow("bill", None));
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
    link
}
