//! The hook that asks an HTTP server who may come in and who may do what.
//!
//! ```text
//!   hook ── known? ─▶ verdict at once          workers, each with a connection it keeps
//!     └──── not known: Later ─▶ waiting questions ─▶ POST, JSON ─▶ 200, 204: yes; 4xx: no; else: unavailable
//! ```
//!
//! The body of a yes may say who a client is, and which groups it is in: `{"user": "ann", "groups": ["operators"]}`.
//!
//! Answers are kept for a while, under a keyed hash of all that was asked, password included; the password itself is
//! kept nowhere. A user of the password file, or one whom a certificate names, is not asked about when it comes, so an
//! operator gets in while the server is down; what they may do is asked like everybody's. Everybody else is asked
//! about, also who gives no name.

mod cache;
mod http;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use ring::hmac;
use rustls::time_provider::TimeProvider;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::auth::Identity;
use crate::auth::groups::Groups;
use crate::auth::passwords::Users;
use crate::hooks::{Answer, Client, Hook, Interests, Later, Login, Message, Verdict};
use crate::mqtt::{QoS, TopicFilter, Utf8String};
use crate::net::tls::{ClientSettings, Connector, Roots, TlsError};
use cache::Cache;
use http::{Connection, Failure, Reply};

/// What is asked, and whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where questions are sent.
    pub url: Url,
    /// How long an answer may take, connecting included.
    pub timeout: Duration,
    /// How long a yes is kept.
    pub cache_time: Duration,
    /// How long a no is kept.
    pub denied_cache_time: Duration,
    /// Answers kept at most.
    pub cache_entries_max: usize,
    /// The authorities of the server's certificate; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What is asked about.
    pub events: Interests,
}

/// The address of an HTTP server's page: `https://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    tls: bool,
    path: String,
}

/// Why text is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    /// It begins with neither `https://` nor `http://`, or has a user, a space or no host.
    Form,
    /// The port is no number from 1 to 65535.
    Port,
    /// `http://` to another machine: passwords would be read on the way.
    Plaintext,
}

/// Questions asked at one time; each has a connection, which is kept.
const WORKERS: usize = 8;

/// Questions that wait for a worker; more are answered "unavailable" at once.
const WAITING_MAX: usize = 256;

/// How long a connection is kept that nobody needs: servers close it after about as long.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The hook's end: looks up what is known, and hands on what is not.
pub struct Callback {
    shared: Rc<Shared>,
}

/// The end that asks; it has to run for answers to come.
pub struct Workers {
    shared: Rc<Shared>,
}

/// What can change without another callback, and without forgetting what was answered.
pub struct Controls {
    shared: Rc<Shared>,
}

struct Shared {
    settings: Settings,
    key: hmac::Key,
    users: RefCell<Option<Arc<Users>>>,
    connector: RefCell<Option<Rc<Connector>>>,
    /// How often the connector was replaced: a connection of before is not used any more.
    generation: Cell<u64>,
    waiting: RefCell<VecDeque<Job>>,
    cache: RefCell<Cache>,
    more: Notify,
    is_failing: Cell<bool>,
}

struct Job {
    body: String,
    due: Instant,
    answer: Answer,
}

/// Reads the authorities that the server's certificate is checked by, on any thread; `None` where it shows none.
/// `clock` is what certificates are checked against.
///
/// # Errors
/// [`TlsError`] where they cannot be read.
pub fn connector(settings: &Settings, clock: Arc<dyn TimeProvider>) -> Result<Option<Connector>, TlsError> {
    if !settings.url.tls {
        return Ok(None);
    }
    let roots = settings.ca.clone().map_or(Roots::System, Roots::File);
    let tls = ClientSettings {
        roots,
        ..ClientSettings::default()
    };
    Connector::new(&tls, clock).map(Some)
}

/// The ends of a callback that asks by what [`connector`] made of the same `settings`. `users` are not asked about when
/// they come; `key` must not be guessable.
pub fn callback(
    settings: Settings,
    connector: Option<Connector>,
    users: Option<Arc<Users>>,
    key: &[u8; 32],
) -> (Callback, Workers, Controls) {
    let shared = Rc::new(Shared {
        cache: RefCell::new(Cache::new(settings.cache_entries_max)),
        settings,
        key: hmac::Key::new(hmac::HMAC_SHA256, key),
        users: RefCell::new(users),
        connector: RefCell::new(connector.map(Rc::new)),
        generation: Cell::new(0),
        waiting: RefCell::default(),
        more: Notify::new(),
        is_failing: Cell::new(false),
    });
    let callback = Callback {
        shared: shared.clone(),
    };
    let workers = Workers {
        shared: shared.clone(),
    };
    (callback, workers, Controls { shared })
}

impl Controls {
    /// Has other users be those who are not asked about, and the server be known by other authorities. Connections that
    /// were made by the old ones are not used again.
    pub fn replace(&self, users: Option<Arc<Users>>, connector: Option<Connector>) {
        self.shared.users.replace(users);
        self.shared.connector.replace(connector.map(Rc::new));
        self.shared.generation.set(self.shared.generation.get() + 1);
    }
}

impl Callback {
    fn ask(&self, question: Map<String, Value>, later: &mut Later<'_>) -> Verdict {
        let body = Value::Object(question).to_string();
        let shared = &self.shared;
        let now = Instant::now();
        if let Some(verdict) = shared.cache.borrow_mut().get(&shared.hash(&body), now) {
            return verdict;
        }
        let mut waiting = shared.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            return Verdict::Unavailable;
        }
        waiting.push_back(Job {
            body,
            due: now + shared.settings.timeout,
            answer: later.answer(),
        });
        shared.more.notify_one();
        Verdict::Later
    }
}

impl Hook for Callback {
    fn name(&self) -> &str {
        "http"
    }

    fn interests(&self) -> Interests {
        self.shared.settings.events
    }

    fn authenticate(&mut self, login: &Login<'_>, later: &mut Later<'_>) -> Verdict {
        let users = self.shared.users.borrow().clone();
        let is_of_file =
            |user: &Utf8String| (users.as_ref()).is_some_and(|users| users.contains(user.as_str()));
        if login.origin.certificate_user.is_some() || login.user.is_some_and(is_of_file) {
            return Verdict::Abstain;
        }
        let mut question = Map::new();
        put(&mut question, "action", Some("authenticate"));
        put(&mut question, "user", login.user.map(Utf8String::as_str));
        match login
            .password
            .map(|password| (password, std::str::from_utf8(password)))
        {
            None => {}
            Some((_, Ok(password))) => put(&mut question, "password", Some(password)),
            Some((password, Err(_))) => {
                put(
                    &mut question,
                    "password_base64",
                    Some(&Base64::encode_string(password)),
                );
            }
        }
        put(
            &mut question,
            "client_id",
            login.client.map(|client| client.as_str()),
        );
        put_peer(&mut question, login.origin.peer, Some(login.origin.listener));
        self.ask(question, later)
    }

    fn publish(&mut self, from: &Client<'_>, message: &Message<'_>, later: &mut Later<'_>) -> Verdict {
        let mut question = about("publish", from, message.topic.as_str(), message.qos);
        question.insert("retain".to_owned(), Value::Bool(message.retain));
        self.ask(question, later)
    }

    fn subscribe(
        &mut self,
        from: &Client<'_>,
        filter: &TopicFilter,
        qos: QoS,
        later: &mut Later<'_>,
    ) -> Verdict {
        self.ask(about("subscribe", from, filter.as_str(), qos), later)
    }
}

fn about(action: &str, client: &Client<'_>, topic: &str, qos: QoS) -> Map<String, Value> {
    let mut question = Map::new();
    put(&mut question, "action", Some(action));
    if let Identity::User(user) = client.identity {
        put(&mut question, "user", Some(user.as_str()));
    }
    put(
        &mut question,
        "client_id",
        client.client.map(|client| client.as_str()),
    );
    put_peer(&mut question, client.peer, client.listener);
    put(&mut question, "topic", Some(topic));
    question.insert("qos".to_owned(), Value::from(qos as u8));
    question
}

fn put(question: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        question.insert(name.to_owned(), Value::String(text.to_owned()));
    }
}

fn put_peer(question: &mut Map<String, Value>, peer: Option<std::net::IpAddr>, listener: Option<&str>) {
    put(
        question,
        "peer",
        peer.map(|peer| peer.to_canonical().to_string()).as_deref(),
    );
    put(question, "listener", listener);
}

impl Workers {
    /// Asks what there is to ask, for ever.
    pub async fn run(self) {
        let workers = Rc::new(self);
        let mut tasks = JoinSet::new();
        for _ in 0..WORKERS {
            let workers = workers.clone();
            tasks.spawn_local(async move { workers.work().await });
        }
        tasks.join_all().await;
    }

    async fn work(&self) {
        let shared = &self.shared;
        let mut connection = None;
        let mut generation = 0;
        loop {
            if std::mem::replace(&mut generation, shared.generation.get()) != shared.generation.get() {
                connection = None;
            }
            let job = shared.waiting.borrow_mut().pop_front();
            match job {
                Some(job) => self.answer(&mut connection, job).await,
                None if connection.is_none() => shared.more.notified().await,
                None => {
                    if tokio::time::timeout(IDLE_MAX, shared.more.notified())
                        .await
                        .is_err()
                    {
                        connection = None;
                    }
                }
            }
        }
    }

    async fn answer(&self, connection: &mut Option<Connection>, job: Job) {
        let shared = &self.shared;
        let settings = &shared.settings;
        // Its twin may have been answered while it waited.
        let hash = shared.hash(&job.body);
        let known = shared.cache.borrow_mut().get(&hash, Instant::now());
        if let Some(verdict) = known {
            return job.answer.give(verdict);
        }
        let left = job.due.saturating_duration_since(Instant::now());
        let connector = shared.connector.borrow().clone();
        let asked = http::ask(connection, &settings.url, connector.as_deref(), &job.body, left);
        let outcome = match tokio::time::timeout(left, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut),
        };
        if outcome.is_err() {
            *connection = None;
        }
        let verdict = outcome.and_then(|reply| verdict_of(&reply));
        shared.tell(verdict.as_ref().err());
        let verdict = verdict.unwrap_or(Verdict::Unavailable);
        let keep = match verdict {
            Verdict::Allow | Verdict::AllowAs(_) | Verdict::AllowIn { .. } => settings.cache_time,
            Verdict::Deny => settings.denied_cache_time,
            _ => Duration::ZERO,
        };
        if !keep.is_zero()
            && let Some(until) = Instant::now().checked_add(keep)
        {
            shared.cache.borrow_mut().put(hash, verdict.clone(), until);
        }
        job.answer.give(verdict);
    }
}

impl Shared {
    fn hash(&self, body: &str) -> cache::Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.key, body.as_bytes()).as_ref());
        hash
    }

    /// Tells when the server begins and ends to fail, and not each time.
    fn tell(&self, failure: Option<&Failure>) {
        let was_failing = self.is_failing.replace(failure.is_some());
        match failure {
            Some(failure) if !was_failing => {
                warn!(url = %self.settings.url, %failure, "the HTTP callback fails; who would need it is refused");
            }
            None if was_failing => info!(url = %self.settings.url, "the HTTP callback answers again"),
            _ => {}
        }
    }
}

/// What a reply says; 408 and 429 say nothing about the question.
fn verdict_of(reply: &Reply) -> Result<Verdict, Failure> {
    match reply.status {
        204 => Ok(Verdict::Allow),
        200 => match serde_json::from_slice::<Value>(&reply.body) {
            Ok(Value::Object(said)) => verdict_of_body(&said),
            _ => Ok(Verdict::Allow),
        },
        status @ (408 | 429) => Err(Failure::Status(status)),
        400..=499 => Ok(Verdict::Deny),
        status => Err(Failure::Status(status)),
    }
}

/// What the body of a yes says.
fn verdict_of_body(said: &Map<String, Value>) -> Result<Verdict, Failure> {
    let user = match said.get("user") {
        None | Some(Value::Null) => None,
        Some(user) => {
            let user = user.as_str().filter(|user| !user.is_empty());
            let user = user.and_then(|user| Utf8String::try_from(user).ok());
            Some(user.ok_or(Failure::NoUser)?)
        }
    };
    let groups = match said.get("groups") {
        None | Some(Value::Null) => Groups::default(),
        Some(groups) => Groups::of_json(groups).ok_or(Failure::NoGroups)?,
    };
    Ok(match user {
        user if !groups.is_empty() => Verdict::AllowIn { user, groups },
        Some(user) => Verdict::AllowAs(user),
        None => Verdict::Allow,
    })
}

/// What the callback makes of a server that answers by `stream`; `None` where that is no answer. For `fuzz/`.
#[cfg(fuzzing)]
pub async fn verdict_by(stream: crate::net::link::Stream) -> Option<Verdict> {
    let url = Url {
        host: "localhost".to_owned(),
        port: 80,
        tls: false,
        path: "/".to_owned(),
    };
    let reply = http::exchange(Connection::new(stream), &url, "").await;
    reply.and_then(|(reply, _)| verdict_of(&reply)).ok()
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(UrlError::Form),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_written = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if place.contains(['@', '?']) || !is_written(rest) {
            return Err(UrlError::Form);
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlError::Form)?,
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or(UrlError::Port)?,
            None if port.is_empty() && tls => 443,
            None if port.is_empty() => 80,
            None => return Err(UrlError::Form),
        };
        if host.is_empty() {
            return Err(UrlError::Form);
        }
        let is_here = host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback());
        if !tls && !is_here {
            return Err(UrlError::Plaintext);
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
            path: path.to_owned(),
        })
    }
}

impl Url {
    /// Host and port as the Host field has them.
    fn place(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        let bracketed = self.host.contains(':');
        let host = if bracketed {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port == usual {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        // What stands behind '?' may be a secret.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.place())
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected an address such as \"https://auth.example/mqtt\"",
            Self::Port => "expected a port from 1 to 65535",
            Self::Plaintext => {
                "passwords would be read on the way, expected https://, or a server on this machine"
            }
        })
    }
}

impl std::error::Error for UrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_told_without_their_query() {
        for (text, shown) in [
            ("https://auth.example", "https://auth.example/"),
            (
                "https://auth.example:8443/mqtt?key=secret",
                "https://auth.example:8443/mqtt",
            ),
            ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/x"),
            ("http://localhost/", "http://localhost/"),
        ] {
            assert_eq!(
                text.parse::<Url>().map(|url| url.to_string()),
                Ok(shown.to_owned())
            );
        }
        for (text, error) in [
            ("auth.example", UrlError::Form),
            ("ftp://auth.example", UrlError::Form),
            ("https://", UrlError::Form),
            ("https://user@auth.example", UrlError::Form),
            ("https://auth.example/a b", UrlError::Form),
            ("https://auth.example/a\r\nX: y", UrlError::Form),
            ("https://auth.example:0", UrlError::Port),
            ("https://auth.example:x", UrlError::Port),
            ("http://auth.example/", UrlError::Plaintext),
            ("http://192.0.2.1/", UrlError::Plaintext),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_status_decides_and_the_body_may_name_the_user() {
        let verdict = |status, body: &str| {
            verdict_of(&Reply {
                status,
                body: body.as_bytes().to_vec(),
            })
        };
        let ann = Utf8String::try_from("ann").unwrap();
        assert_eq!(verdict(204, ""), Ok(Verdict::Allow));
        assert_eq!(verdict(200, ""), Ok(Verdict::Allow));
        assert_eq!(verdict(200, "ok"), Ok(Verdict::Allow));
        assert_eq!(verdict(200, "{\"user\": \"ann\"}"), Ok(Verdict::AllowAs(ann)));
        assert_eq!(verdict(200, "{\"user\": 7}"), Err(Failure::NoUser));
        assert_eq!(verdict(200, "{\"user\": \"\"}"), Err(Failure::NoUser));
        let groups = Groups::of(vec![Utf8String::try_from("ops").unwrap()]).unwrap();
        let user = Some(Utf8String::try_from("ann").unwrap());
        for (body, user) in [
            ("{\"groups\": [\"ops\"]}", None),
            ("{\"user\": \"ann\", \"groups\": \"ops\"}", user),
        ] {
            let groups = groups.clone();
            assert_eq!(verdict(200, body), Ok(Verdict::AllowIn { user, groups }));
        }
        assert_eq!(verdict(200, "{\"groups\": []}"), Ok(Verdict::Allow));
        assert_eq!(verdict(200, "{\"groups\": [7]}"), Err(Failure::NoGroups));
        assert_eq!(verdict(403, ""), Ok(Verdict::Deny));
        for status in [201, 301, 408, 429, 500, 503] {
            assert_eq!(verdict(status, ""), Err(Failure::Status(status)));
        }
    }
}
