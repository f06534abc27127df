//! The hooks of the configuration change while the broker runs: nothing that waits for an answer is lost.

mod conversation;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use conversation::*;
use tidegate::auth::access::{Action, Rights};
use tidegate::broker::{Input, Installation, LinkId, ListenerPolicy, Output, Reconfiguration, Settings};
use tidegate::hooks::{Answer, Change, Client, Hook, Interests, Later, Login, Message, Verdict};
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, TopicFilter, Will};

/// A hook that answers everything later, and remembers what it was asked.
#[derive(Clone, Default)]
struct Slow {
    asked: Rc<RefCell<Vec<String>>>,
    answers: Rc<RefCell<Vec<Answer>>>,
}

impl Slow {
    fn ask(&self, what: String, later: &mut Later<'_>) -> Verdict {
        self.asked.borrow_mut().push(what);
        self.answers.borrow_mut().push(later.answer());
        Verdict::Later
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.borrow_mut())
    }

    /// Gives every answer it owes.
    fn give(&self, verdict: &Verdict) {
        for answer in self.answers.borrow_mut().drain(..) {
            answer.give(verdict.clone());
        }
    }
}

impl Hook for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn interests(&self) -> Interests {
        Interests::AUTHENTICATE | Interests::PUBLISH | Interests::SUBSCRIBE | Interests::MESSAGE
    }

    fn authenticate(&mut self, login: &Login<'_>, later: &mut Later<'_>) -> Verdict {
        match login.user {
            Some(user) => self.ask(format!("login {user}"), later),
            None => Verdict::Abstain,
        }
    }

    fn message(&mut self, _: &Client<'_>, message: &Message<'_>) -> Change {
        self.asked.borrow_mut().push(format!("message {}", message.topic));
        Change::Keep
    }

    fn publish(&mut self, _: &Client<'_>, message: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        self.ask(format!("publish {}", message.topic), later)
    }

    fn subscribe(&mut self, _: &Client<'_>, filter: &TopicFilter, _: QoS, later: &mut Later<'_>) -> Verdict {
        self.ask(format!("subscribe {filter}"), later)
    }
}

/// A house with one door, whose configuration names hooks.
struct Scene {
    house: House,
    letters: Arc<Letters>,
    door: Rc<ListenerPolicy>,
}

impl Scene {
    fn with(configured: &[&Slow], own: &[&Slow]) -> Self {
        let own = own.iter().map(|&hook| Box::new(hook.clone()) as Box<dyn Hook>);
        let (house, letters) = House::hooked(own.collect());
        let mut scene = Self {
            house,
            letters,
            door: Rc::new(ListenerPolicy::new("door", true)),
        };
        scene.install(configured);
        scene
    }

    fn install(&mut self, configured: &[&Slow]) -> Vec<Output> {
        let hooks = configured
            .iter()
            .map(|&hook| Box::new(hook.clone()) as Box<dyn Hook>);
        let installation = Installation {
            hooks: hooks.collect(),
            post: self.letters.clone(),
            timeout: secs(5),
        };
        self.reconfigure(None, Some(installation))
    }

    fn reconfigure(&mut self, rights: Option<Rights>, hooks: Option<Installation>) -> Vec<Output> {
        let limits = self.house.broker.limits().clone();
        self.house.step(Input::Reconfigured(Box::new(Reconfiguration {
            limits,
            settings: Settings::default(),
            rights,
            listeners: vec![self.door.clone()],
            revoked: Vec::new(),
            hooks,
        })))
    }

    fn connect(&mut self, connect: Connect) -> (LinkId, Vec<Output>) {
        let link = self.house.unknown_link();
        self.house.step(Input::Connected {
            link,
            listener: self.door.clone(),
            peer: None,
            certificate_user: None,
            certificate_client: None,
        });
        let outputs = self.house.receive(link, Packet::Connect(Box::new(connect)));
        (link, outputs)
    }

    fn join(&mut self, name: &str) -> LinkId {
        let (link, outputs) = self.connect(client(V5, name));
        assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
        link
    }

    fn take_answers(&mut self) -> Vec<Output> {
        self.house.take_answers(&self.letters)
    }
}

fn resumes(outputs: &[Output]) -> usize {
    let resumes = outputs.iter();
    resumes
        .filter(|output| matches!(output, Output::Resume { .. }))
        .count()
}

fn as_user(user: &str) -> Connect {
    Connect {
        user_name: Some(text(user)),
        password: Some("secret".into()),
        ..client(V5, user)
    }
}

#[test]
fn what_waits_for_a_hook_that_is_replaced_is_asked_anew_and_the_old_answer_is_void() {
    let (old, new) = (Slow::default(), Slow::default());
    let mut scene = Scene::with(&[&old], &[]);
    let (ann, _) = scene.connect(as_user("ann"));
    let writer = scene.join("writer");
    scene.house.publish(writer, message1(1, "t", "x"));
    scene.house.receive(writer, Packet::PingReq);
    let reader = scene.join("reader");
    let filter = subscription("f", QoS::AtMostOnce);
    scene.house.receive(reader, subscribe_packet(&[filter]));
    old.asked();

    let outputs = scene.install(&[&new]);
    assert_eq!(sent(&outputs, writer), [&Packet::PingReq; 0]);
    let mut asked = new.asked();
    asked.sort();
    assert_eq!(asked, ["login ann", "publish t", "subscribe f"]);

    old.give(&Verdict::Deny);
    assert_eq!(scene.take_answers(), []);
    new.give(&Verdict::Allow);
    let outputs = scene.take_answers();
    assert_eq!(connack(&outputs, ann).reason, ReasonCode::Success);
    let no_reader = puback_with(1, ReasonCode::NoMatchingSubscribers);
    assert_eq!(sent(&outputs, writer), [&no_reader, &Packet::PingResp]);
    assert_eq!(suback(&outputs, reader), [ReasonCode::Success]);
    assert_eq!(resumes(&outputs), 3);
}

#[test]
fn what_waits_for_a_hook_that_is_gone_goes_on_as_without_hooks() {
    let old = Slow::default();
    let mut scene = Scene::with(&[&old], &[]);
    let (ann, _) = scene.connect(as_user("ann"));
    let writer = scene.join("writer");
    scene.house.publish(writer, message1(1, "t", "x"));
    let outputs = scene.install(&[]);
    assert!(outputs.contains(&Output::Verify {
        link: ann,
        user: text("ann"),
        password: "secret".into(),
    }));
    let no_reader = puback_with(1, ReasonCode::NoMatchingSubscribers);
    assert_eq!(sent(&outputs, writer), [&no_reader]);
    // Answers to questions of before find no question of now.
    let new = Slow::default();
    scene.install(&[&new]);
    scene.house.publish(writer, message1(2, "t", "x"));
    old.give(&Verdict::Allow);
    assert_eq!(scene.take_answers(), []);
    new.give(&Verdict::Deny);
    let outputs = scene.take_answers();
    assert_eq!(
        sent(&outputs, writer),
        [&puback_with(2, ReasonCode::NotAuthorized)]
    );
}

#[test]
fn what_waits_for_a_hook_of_the_embedders_own_is_waited_for() {
    let (own, configured) = (Slow::default(), Slow::default());
    let mut scene = Scene::with(&[], &[&own]);
    let writer = scene.join("writer");
    scene.house.publish(writer, message1(1, "t", "x"));
    assert_eq!(own.asked(), ["message t", "publish t"]);
    assert_eq!(scene.install(&[&configured]), []);
    assert_eq!(scene.install(&[]), []);
    own.give(&Verdict::Allow);
    let outputs = scene.take_answers();
    let no_reader = puback_with(1, ReasonCode::NoMatchingSubscribers);
    assert_eq!(sent(&outputs, writer), [&no_reader]);
    assert_eq!((own.asked().len(), configured.asked().len()), (0, 0));
    // From here on both are asked, those of the configuration first.
    scene.install(&[&configured]);
    scene.house.publish(writer, message1(2, "t", "x"));
    assert_eq!(own.asked(), ["message t"]);
    assert_eq!(configured.asked(), ["message t", "publish t"]);
}

#[test]
fn a_will_that_waits_is_asked_about_anew_and_shown_once() {
    let (old, new) = (Slow::default(), Slow::default());
    let mut scene = Scene::with(&[&old], &[]);
    let will = Will {
        topic: topic("w"),
        payload: "gone".into(),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Default::default(),
    };
    let (link, outputs) = scene.connect(Connect {
        will: Some(will),
        ..client(V5, "bill")
    });
    assert_eq!(sent(&outputs, link), [&Packet::PingReq; 0]);
    assert_eq!(old.asked(), ["message w", "publish w"]);
    scene.install(&[&new]);
    assert_eq!(new.asked(), ["publish w"]);
    new.give(&Verdict::Allow);
    let outputs = scene.take_answers();
    assert_eq!(connack(&outputs, link).reason, ReasonCode::Success);
}

#[test]
fn a_message_that_waited_while_its_client_lost_the_right_goes_nowhere() {
    let hook = Slow::default();
    let mut scene = Scene::with(&[&hook], &[]);
    let writer = scene.join("writer");
    scene.house.publish(writer, message1(1, "t", "x"));
    let denials = vec![denial(None, Action::Publish, "t")];
    scene.reconfigure(Some(Rights::denying(denials)), None);
    hook.give(&Verdict::Allow);
    let outputs = scene.take_answers();
    assert_eq!(
        sent(&outputs, writer),
        [&puback_with(1, ReasonCode::NotAuthorized)]
    );
}
