//! The operator's interface: one table of what can be asked, and the way from a request to its answer.
//!
//! The OpenAPI document is made from the same table; see `openapi`.

use serde_json::{Map, Value};

use super::handlers;
use super::http::{Answer, Method, Request};
use super::metrics;
use super::openapi;
use super::operator::{Operator, Reloading};
use super::shapes::{self, Shape};
use crate::kick::Ticket;

/// One thing that can be asked.
#[derive(Debug)]
pub struct Route {
    /// With which method.
    pub method: Method,
    /// Under which path; `{name}` is a level of it that the caller chooses.
    pub path: &'static str,
    /// What it does, for a person.
    pub summary: &'static str,
    /// Whether it is answered to who shows no token.
    pub is_open: bool,
    /// What may stand in the query.
    pub parameters: &'static [&'static Parameter],
    /// What the body must be.
    pub takes: Option<&'static Shape>,
    /// What a success is answered with.
    pub gives: Gives,
    /// The statuses of what may be wrong, besides those that every request may meet.
    pub troubles: &'static [u16],
    /// Does it.
    pub handler: fn(&mut dyn Operator, &Call<'_>) -> Reply,
}

/// A name of the query.
#[derive(Debug)]
pub struct Parameter {
    /// As it is written.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// What a success is answered with.
#[derive(Debug, Clone, Copy)]
pub enum Gives {
    /// This object.
    Json(&'static Shape),
    /// Prometheus' text.
    Metrics,
    /// The document on all of it.
    Document,
    /// Nothing but that it is done.
    Nothing,
}

/// A request that has found its route.
#[derive(Debug)]
pub struct Call<'r> {
    /// The request.
    pub request: &'r Request,
    /// The level of its path that the caller chose.
    pub chosen: &'r str,
}

/// What a handler says: done, or what was wrong.
pub type Reply = Result<Done, Trouble>;

/// Something was done.
pub enum Done {
    /// This is the answer.
    Json(Object),
    /// This text is.
    Text(&'static str, String),
    /// There is nothing to say.
    Empty,
    /// The answer is what becomes of a kick.
    Kick(Ticket),
    /// The answer is what becomes of a reload.
    Reload(Reloading),
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The status.
    pub status: u16,
    /// For a person.
    pub message: String,
}

/// An object of JSON that is being written.
#[derive(Debug, Default)]
pub struct Object(Map<String, Value>);

/// Where a request leads.
#[derive(Debug)]
pub enum Found<'r> {
    /// To this route.
    Route(&'static Route, Call<'r>),
    /// To a path that knows other methods only; what the answer names.
    OtherMethods(String),
    /// Nowhere.
    Nothing,
}

static AFTER: Parameter = Parameter {
    name: "after",
    about: "The next of the page before.",
};
static LIMIT: Parameter = Parameter {
    name: "limit",
    about: "Items on the page, from 1 to 1000; 100 where nothing is said.",
};
static CLIENT_PATTERN: Parameter = Parameter {
    name: "client",
    about: "A client identifier; * stands for any characters, ? for one.",
};
static CLIENT: Parameter = Parameter {
    name: "client",
    about: "The client identifier, exactly.",
};
static USER: Parameter = Parameter {
    name: "user",
    about: "The user name, exactly.",
};
static LISTENER: Parameter = Parameter {
    name: "listener",
    about: "The name of the listener, exactly.",
};
static TOPIC: Parameter = Parameter {
    name: "topic",
    about: "A topic name.",
};
static FILTER: Parameter = Parameter {
    name: "filter",
    about: "A topic filter; # where nothing is said.",
};
static KIND: Parameter = Parameter {
    name: "kind",
    about: "client, user or address.",
};
static VALUE: Parameter = Parameter {
    name: "value",
    about: "Who is kept out, as the list of bans tells it.",
};

static OF_SESSIONS: &[&Parameter] = &[&CLIENT_PATTERN, &USER, &LISTENER, &AFTER, &LIMIT];

macro_rules! routes {
    ($(
        $method:ident $path:literal $summary:literal $handler:ident => $gives:expr $(, $field:ident: $value:expr)*;
    )*) => {
        /// Everything that can be asked.
        pub static ROUTES: &[Route] = &[$(Route {
            $($field: $value,)*
            ..Route::plain(Method::$method, $path, $summary, $gives, handlers::$handler)
        },)*];
    };
}

routes! {
    Get "/api/v1/health" "Whether the loop turns." health => Gives::Json(&shapes::HEALTH), is_open: true;
    Get "/api/v1/ready" "Whether clients are served." ready => Gives::Json(&shapes::HEALTH),
        is_open: true, troubles: &[503];
    Get "/api/v1/openapi.json" "This document." document => Gives::Document, is_open: true;
    Get "/metrics" "Counters and gauges for Prometheus." metrics => Gives::Metrics;
    Get "/api/v1/about" "What runs." about => Gives::Json(&shapes::ABOUT);
    Get "/api/v1/statistics" "Counters and gauges." statistics => Gives::Json(&shapes::STATISTICS);
    Get "/api/v1/clients" "Clients that are connected." clients => Gives::Json(&shapes::SESSIONS),
        parameters: OF_SESSIONS, troubles: &[422];
    Get "/api/v1/clients/{client}" "A client that is connected." client => Gives::Json(&shapes::SESSION),
        troubles: &[404];
    Get "/api/v1/sessions" "Sessions, their clients connected or not." sessions => Gives::Json(&shapes::SESSIONS),
        parameters: OF_SESSIONS, troubles: &[422];
    Get "/api/v1/sessions/{client}" "The session of a client." session => Gives::Json(&shapes::SESSION),
        troubles: &[404];
    Get "/api/v1/subscriptions" "Subscriptions, of one client or of all." subscriptions
        => Gives::Json(&shapes::SUBSCRIPTIONS), parameters: &[&CLIENT, &AFTER, &LIMIT], troubles: &[422];
    Get "/api/v1/receivers" "Who would receive a message on a topic." receivers => Gives::Json(&shapes::RECEIVERS),
        parameters: &[&TOPIC, &AFTER, &LIMIT], troubles: &[422];
    Get "/api/v1/retained" "Retained messages, without their payloads." retained
        => Gives::Json(&shapes::RETAINED_LIST), parameters: &[&FILTER, &AFTER, &LIMIT], troubles: &[422];
    Get "/api/v1/retained/{topic}" "A retained message." retained_message
        => Gives::Json(&shapes::RETAINED_MESSAGE), troubles: &[404];
    Delete "/api/v1/retained/{topic}" "Takes a retained message away; its subscribers learn of it." delete_retained
        => Gives::Nothing, troubles: &[404];
    Post "/api/v1/publish" "Publishes a message in the gateway's own name." publish => Gives::Nothing,
        takes: Some(&shapes::MESSAGE), troubles: &[422];
    Post "/api/v1/kicks" "Sends clients away, and keeps them out where that is asked for." kick
        => Gives::Json(&shapes::KICKED), takes: Some(&shapes::KICK), troubles: &[422, 503];
    Get "/api/v1/bans" "Who is kept out." bans => Gives::Json(&shapes::BANS);
    Delete "/api/v1/bans" "Lets somebody in again." unban => Gives::Nothing,
        parameters: &[&KIND, &VALUE], troubles: &[404, 422];
    Get "/api/v1/listeners" "The doors of clients." listeners => Gives::Json(&shapes::LISTENERS);
    Get "/api/v1/serial" "The serial ports." serial => Gives::Json(&shapes::SERIAL_PORTS);
    Get "/api/v1/configuration" "What holds, and where it comes from." configuration
        => Gives::Json(&shapes::CONFIGURATION);
    Post "/api/v1/reload" "Reads the configuration again; all of it holds, or none." reload
        => Gives::Json(&shapes::RELOADED), troubles: &[409, 422, 503];
    Get "/api/v1/log" "How much is logged." log => Gives::Json(&shapes::LOG);
    Put "/api/v1/log" "Changes how much is logged, until the gateway stops." set_log => Gives::Json(&shapes::LOG),
        takes: Some(&shapes::LOG), troubles: &[422];
    Get "/api/v1/diagnostics" "All of that in one, without secrets, for a bug report." diagnostics
        => Gives::Json(&shapes::DIAGNOSTICS);
}

impl Route {
    const fn plain(
        method: Method,
        path: &'static str,
        summary: &'static str,
        gives: Gives,
        handler: fn(&mut dyn Operator, &Call<'_>) -> Reply,
    ) -> Self {
        Self {
            method,
            path,
            summary,
            is_open: false,
            parameters: &[],
            takes: None,
            gives,
            troubles: &[],
            handler,
        }
    }

    /// The level of `path` that the caller chose, empty where there is none to choose; `None` where it is another's.
    fn matches<'r>(&self, path: &'r [String]) -> Option<&'r str> {
        let mut chosen = "";
        let mut levels = self.path.trim_start_matches('/').split('/');
        for level in path {
            let known = levels.next()?;
            if known.starts_with('{') && !level.is_empty() {
                chosen = level;
            } else if known != level {
                return None;
            }
        }
        levels.next().is_none().then_some(chosen)
    }
}

/// Looks for the route of `request`.
pub fn find(request: &Request) -> Found<'_> {
    let method = match request.method {
        Method::Head => Method::Get,
        other => other,
    };
    let mut others = String::new();
    for route in ROUTES {
        let Some(chosen) = route.matches(&request.path) else {
            continue;
        };
        if route.method == method {
            return Found::Route(route, Call { request, chosen });
        }
        others += if others.is_empty() { "Allow: " } else { ", " };
        others += route.method.name();
        if route.method == Method::Get {
            others += ", HEAD";
        }
    }
    match others.is_empty() {
        true => Found::Nothing,
        false => Found::OtherMethods(others),
    }
}

/// Does what `route` is for.
///
/// # Errors
/// [`Trouble`]: what is wrong with the request, or stands in its way.
pub fn answer(operator: &mut dyn Operator, route: &Route, call: &Call<'_>) -> Reply {
    for (name, _) in &call.request.query {
        if !route.parameters.iter().any(|known| known.name == name) {
            let known: Vec<&str> = route.parameters.iter().map(|known| known.name).collect();
            let expected = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            let message = format!("unknown parameter {name:?}, expected {expected}");
            return Err(Trouble::new(422, message));
        }
    }
    (route.handler)(operator, call)
}

/// The answer that says what is wrong.
pub fn trouble(status: u16, message: &str) -> Answer {
    Answer::json(status, Object::default().with("error", message).text())
}

impl Trouble {
    /// Something is wrong.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl Object {
    /// The same with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value.into());
        self
    }

    #[inline(never)]
    fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// As it is sent.
    pub fn text(self) -> String {
        Value::Object(self.0).to_string()
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

impl From<Done> for Answer {
    /// The answer to what is done at once.
    fn from(done: Done) -> Self {
        match done {
            Done::Json(object) => Self::json(200, object.text()),
            Done::Text(content_type, body) => Self {
                content_type,
                ..Self::json(200, body)
            },
            Done::Empty | Done::Kick(_) | Done::Reload(_) => Self::empty(),
        }
    }
}

/// The document on everything that can be asked.
pub fn document() -> String {
    Value::from(openapi::document(ROUTES)).to_string()
}

/// The media type of a success.
pub(super) fn content_type(gives: Gives) -> &'static str {
    match gives {
        Gives::Metrics => metrics::CONTENT_TYPE,
        Gives::Json(_) | Gives::Document | Gives::Nothing => super::http::JSON,
    }
}
