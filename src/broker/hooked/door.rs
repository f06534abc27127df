//! What the hooks are asked about a client that is not in yet: who it is, and what it leaves.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Hooked, Matter, Outcome, origin_of};
use crate::auth::Identity;
use crate::auth::access::{Action, Who};
use crate::broker::authenticate::Exchange;
use crate::broker::budget::Account;
use crate::broker::connect::{Admission, Credentials};
use crate::broker::kept::Texts;
use crate::broker::link::{Arrival, LinkId, Proof, Stage, Verifying};
use crate::broker::publish::is_topic_within;
use crate::broker::will::Testament;
use crate::broker::{Broker, MountPoint, Output, Refusal};
use crate::hooks::{Client, Interests, Login, Origin, Question, Ruling, Verdict};
use crate::mqtt::{ClientId, Utf8String, Will, WillProperties};

/// A question about a client that is not in yet.
#[derive(Debug)]
pub(in crate::broker) struct AtDoor {
    pub(super) question: Question,
    pub(super) next_hook: usize,
    about: Door,
}

#[derive(Debug)]
enum Door {
    Login(Credentials),
    /// The will of somebody who has proved to be this.
    Will(Rc<Identity>, Option<(Box<Exchange>, Option<Bytes>)>),
}

impl Broker {
    /// Whether the hooks let a connection in that has just come.
    pub(in crate::broker) fn allows_arrival(&mut self, arrival: &Arrival) -> bool {
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
    pub(in crate::broker) fn ask_about_login(
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
        let login = login_of(arrival, verifying.admission.client_id(), &credentials);
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
    pub(in crate::broker) fn identity_of(&self, user: Option<Utf8String>) -> Rc<Identity> {
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
    pub(in crate::broker) fn ask_about_will(
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
            && is_topic_within(&self.limits, kept.topic_str());
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

    pub(super) fn go_on_at_door(
        &mut self,
        now: Instant,
        link: LinkId,
        mut verifying: Verifying,
        verdict: Verdict,
    ) {
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
}

/// A client that asks to be let in by what it shows, as hooks see it.
pub(in crate::broker) fn login_of<'a>(
    arrival: &'a Arrival,
    client: Option<&'a ClientId>,
    credentials: &'a Credentials,
) -> Login<'a> {
    Login {
        origin: Origin {
            certificate_user: credentials.certificate_user.as_ref(),
            ..origin_of(arrival)
        },
        client: client.or(arrival.certificate_client.as_deref()),
        user: credentials.user.as_ref(),
        password: credentials.password.as_deref(),
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
    mount_point: Option<&MountPoint>,
    account: &Account,
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
