//! What each route does: from a call to its answer, over the operator's view of the gateway.

use std::time::Duration;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::api::{self, Call, Done, Object, Reply, Trouble};
use super::figures::{FIGURES, Figures, resident_bytes};
use super::operator::{Operator, Reloaded};
use super::shapes::{self, Shape};
use super::statistics::Sample;
use super::{log_level, metrics as prometheus};
use crate::auth::Identity;
use crate::auth::network::Network;
use crate::broker::{
    BanSubject, ConnectionView, Found, KeptOut, KickOptions, KickOutcome, KickReason, KickedSession,
    KickedWill, Lost, Message, Page, Pattern, Portion, ReceiverView, RetainedView, SessionFilter,
    SessionView, SubscriptionView, Target,
};
use crate::mqtt::{ClientId, QoS, ReasonCode, TopicFilter, TopicName, Utf8String};

/// Items on a page where nothing is said, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

pub(super) fn health(_: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(Object::default().with("status", "ok"))
}

pub(super) fn ready(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    if operator.broker().is_stopping() {
        return Err(Trouble::new(503, "the gateway stops"));
    }
    json(Object::default().with("status", "ready"))
}

pub(super) fn document(_: &mut dyn Operator, _: &Call<'_>) -> Reply {
    Ok(Done::Text(super::http::JSON, api::document()))
}

pub(super) fn metrics(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    let text = prometheus::text(
        &figures(operator),
        &operator.listeners(),
        env!("CARGO_PKG_VERSION"),
    );
    Ok(Done::Text(prometheus::CONTENT_TYPE, text))
}

pub(super) fn about(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(about_object(operator))
}

pub(super) fn statistics(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(statistics_object(operator))
}

pub(super) fn clients(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    json(sessions_object(operator, call, Some(true))?)
}

pub(super) fn sessions(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    json(sessions_object(operator, call, None)?)
}

pub(super) fn client(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    one_session(operator, call, |view| view.connection.is_some())
}

pub(super) fn session(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    one_session(operator, call, |_| true)
}

pub(super) fn subscriptions(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let client = match call.request.parameter("client") {
        None => None,
        Some(text) => Some(client_id(text)?),
    };
    let page = operator
        .broker()
        .view_subscriptions(client.as_ref(), portion(call)?);
    json(page_object(page, |view: SubscriptionView| {
        let id = view.subscription_id;
        Object::default()
            .with("client", view.client.as_str())
            .with("filter", view.filter)
            .with("qos", view.qos as u8)
            .with("no_local", view.no_local)
            .with("retain_as_published", view.retain_as_published)
            .with("subscription_id", (id != 0).then_some(id))
    }))
}

pub(super) fn receivers(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let topic = call.request.parameter("topic").unwrap_or_default();
    let topic = topic_name(topic)?;
    let page = operator.broker().view_receivers(&topic, portion(call)?);
    json(page_object(page, |view: ReceiverView| {
        Object::default()
            .with("client", view.client.as_str())
            .with("connected", view.connected)
            .with("qos", view.qos as u8)
            .with("share", view.share)
            .with("may_receive", view.may_receive)
    }))
}

pub(super) fn retained(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let text = call.request.parameter("filter").unwrap_or("#");
    let filter = TopicFilter::try_from(text).map_err(|error| wrong("filter", text, &error))?;
    let now = operator.now().mono;
    let page = operator.broker().view_retained(now, &filter, portion(call)?);
    json(page_object(page, |view| retained_object(&view)))
}

pub(super) fn retained_message(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let view = retained_view(operator, call)?;
    let text = std::str::from_utf8(&view.payload).ok();
    let base64 = text.is_none().then(|| Base64::encode_string(&view.payload));
    json(
        retained_object(&view)
            .with("payload", text)
            .with("payload_base64", base64),
    )
}

pub(super) fn delete_retained(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let RetainedView { topic, .. } = retained_view(operator, call)?;
    // An empty message to be retained takes the one there is away, and tells subscribers so (section 3.3.1.3).
    operator.publish(Message {
        topic,
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: true,
        properties: None,
    });
    Ok(Done::Empty)
}

pub(super) fn publish(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let body = Body::parse(call, &shapes::MESSAGE)?;
    let topic = topic_name(body.needed("topic")?)?;
    if topic.is_reserved() {
        return Err(unfit(
            "topics that begin with \"$\" are the server's, expected another",
        ));
    }
    let payload = match (body.text("payload")?, body.text("payload_base64")?) {
        (Some(_), Some(_)) => return Err(unfit("found payload and payload_base64, expected one of them")),
        (Some(text), None) => Bytes::copy_from_slice(text.as_bytes()),
        (None, Some(text)) => Base64::decode_vec(text)
            .map_err(|_| unfit("payload_base64 is no base64"))?
            .into(),
        (None, None) => Bytes::new(),
    };
    let qos = match body.integer("qos")?.unwrap_or(0) {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        other => return Err(unfit(format!("found qos {other}, expected 0, 1 or 2"))),
    };
    let retain = body.flag("retain")?;
    let limits = operator.broker().limits();
    let bytes = topic.as_str().len() + payload.len();
    let is_long = topic.as_str().len() > limits.topic_bytes_max
        || topic.levels().count() > limits.topic_levels_max
        || u32::try_from(bytes).map_or(true, |bytes| bytes > limits.packet_bytes_max);
    if is_long {
        return Err(unfit(
            "the message exceeds [limits], which hold for clients as well",
        ));
    }
    operator.publish(Message {
        topic,
        payload,
        qos,
        retain,
        properties: None,
    });
    Ok(Done::Empty)
}

pub(super) fn kick(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let body = Body::parse(call, &shapes::KICK)?;
    let target = target(body.needed("target")?, body.text("value")?)?;
    let reason = match body.integer("reason")? {
        None => KickReason::default(),
        Some(code) => {
            let reason = u8::try_from(code).ok().and_then(ReasonCode::from_u8);
            reason.and_then(KickReason::new).ok_or_else(|| {
                unfit(format!(
                    "reason {code} is none that a server may give, expected one such as 152"
                ))
            })?
        }
    };
    let server_reference = match body.text("server_reference")? {
        None => None,
        Some(text) => {
            Some(Utf8String::try_from(text).map_err(|error| wrong("server_reference", text, &error))?)
        }
    };
    let is_purged = body.flag("purge")?;
    let is_discarded = body.flag("discard_will")?;
    let keep_out = body.integer("keep_out_secs")?.map(|secs| match secs {
        0 => Duration::MAX,
        secs => Duration::from_secs(secs),
    });
    let options = KickOptions {
        reason,
        server_reference,
        will: if is_discarded {
            KickedWill::Discard
        } else {
            KickedWill::Publish
        },
        session: if is_purged {
            KickedSession::Purge
        } else {
            KickedSession::Keep
        },
        keep_out,
    };
    match operator.kicks().kick(target, options) {
        Ok(ticket) => Ok(Done::Kick(ticket)),
        Err(error) => Err(Trouble::of_kick(error)),
    }
}

pub(super) fn bans(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(bans_object(operator))
}

pub(super) fn unban(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let parameter = |name| call.request.parameter(name).unwrap_or_default();
    let subject = target(parameter("kind"), Some(parameter("value")))?.ban_subject();
    let subject = subject.ok_or_else(|| unfit("expected kind client, user or address"))?;
    if !operator.broker().bans().any(|ban| ban.subject == subject) {
        return Err(Trouble::new(404, format!("{subject} is not kept out")));
    }
    operator.unban(subject);
    Ok(Done::Empty)
}

pub(super) fn listeners(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(listeners_object(operator))
}

pub(super) fn serial(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(serial_object(operator))
}

pub(super) fn configuration(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(configuration_object(operator))
}

pub(super) fn reload(operator: &mut dyn Operator, _: &Call<'_>) -> Reply {
    Ok(Done::Reload(operator.reload()))
}

pub(super) fn log(_: &mut dyn Operator, _: &Call<'_>) -> Reply {
    json(Object::default().with("level", log_level::get().0))
}

pub(super) fn set_log(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    let body = Body::parse(call, &shapes::LOG)?;
    let level = body.needed("level")?;
    let level = log_level::named(level)
        .ok_or_else(|| unfit("expected the level \"error\", \"warn\", \"info\", \"debug\" or \"trace\""))?;
    log_level::set(level);
    log(operator, call)
}

pub(super) fn diagnostics(operator: &mut dyn Operator, call: &Call<'_>) -> Reply {
    json(
        Object::default()
            .with("about", about_object(operator))
            .with("statistics", statistics_object(operator))
            .with("listeners", listeners_object(operator))
            .with("serial", serial_object(operator))
            .with("configuration", configuration_object(operator))
            .with("sessions", sessions_object(operator, call, None)?)
            .with("bans", bans_object(operator)),
    )
}

/// What a kick came to.
pub(super) fn kicked_object(outcome: &KickOutcome) -> Object {
    let found = match outcome.found() {
        Found::Online => "online",
        Found::Purged => "purged",
        Found::AlreadyGone => "already_gone",
        Found::Nobody => "nobody",
    };
    Object::default()
        .with("found", found)
        .with("kicked", outcome.kicked)
        .with("pending", outcome.pending)
        .with("purged", outcome.purged)
        .with("away", outcome.away)
        .with("banned", outcome.kept_out == KeptOut::Banned)
}

/// What a reload changed.
pub(super) fn reloaded_object(view: Reloaded) -> Object {
    Object::default()
        .with("listeners_added", view.listeners_added)
        .with("listeners_removed", view.listeners_removed)
        .with("listeners_changed", view.listeners_changed)
        .with("certificates", view.certificates)
        .with("users_revoked", view.users_revoked)
        .with("rights_changed", view.rights_changed)
        .with("limits_changed", view.limits_changed)
        .with("hooks_changed", view.hooks_changed)
        .with("ports_opened", view.ports_opened)
        .with("ports_closed", view.ports_closed)
        .with("warnings", view.warnings)
}

fn json(object: Object) -> Reply {
    Ok(Done::Json(object))
}

fn unfit(message: impl Into<String>) -> Trouble {
    Trouble::new(422, message)
}

fn wrong(name: &str, found: &str, error: &dyn std::fmt::Display) -> Trouble {
    let shown: String = found.chars().take(100).collect();
    unfit(format!("{name}: found {shown:?}, {error}"))
}

fn figures(operator: &dyn Operator) -> Figures<'_> {
    let broker = operator.broker();
    Figures {
        sample: Sample {
            stats: broker.stats(),
            traffic: operator.traffic(),
            shared_subscriptions: broker.shared_subscriptions(),
            reloads: operator.reloads(),
        },
        memory_bytes: broker.memory_bytes(),
        memory_bytes_max: broker.limits().memory_bytes_max,
        resident_bytes: resident_bytes(),
        uptime: operator.about().uptime,
        journal: operator.journal(),
    }
}

fn about_object(operator: &dyn Operator) -> Object {
    let about = operator.about();
    Object::default()
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("gateway", about.gateway)
        .with("board", about.board)
        .with("uptime_secs", about.uptime.as_secs())
        .with("log_level", log_level::get().0)
}

fn statistics_object(operator: &dyn Operator) -> Object {
    let figures = figures(operator);
    let add =
        |object: Object, figure: &super::figures::Figure| object.with(&figure.key(), (figure.read)(&figures));
    Object::default().with("figures", FIGURES.iter().fold(Object::default(), add))
}

fn sessions_object(
    operator: &dyn Operator,
    call: &Call<'_>,
    connected: Option<bool>,
) -> Result<Object, Trouble> {
    let parameter = |name| call.request.parameter(name).unwrap_or_default();
    let pattern = match call.request.parameter("client") {
        None => None,
        Some(text) => Some(Pattern::parse(text).map_err(|error| wrong("client", text, &error))?),
    };
    let filter = SessionFilter {
        connected,
        client: pattern.as_ref(),
        user: parameter("user"),
        listener: parameter("listener"),
    };
    let now = operator.now().mono;
    let page = operator.broker().view_sessions(now, &filter, portion(call)?);
    Ok(page_object(page, |view| session_object(operator, &view)))
}

fn one_session(operator: &mut dyn Operator, call: &Call<'_>, wanted: fn(&SessionView) -> bool) -> Reply {
    let now = operator.now().mono;
    let client = Utf8String::try_from(call.chosen).ok().and_then(ClientId::new);
    let view = client.and_then(|client| operator.broker().view_session(now, &client));
    match view.filter(wanted) {
        Some(view) => json(session_object(operator, &view)),
        None => Err(Trouble::new(404, "there is no such client")),
    }
}

fn session_object(operator: &dyn Operator, view: &SessionView) -> Object {
    let connection = view.connection.as_ref();
    let is_forever = view.expiry_secs == u32::MAX;
    Object::default()
        .with("client", view.client.as_str())
        .with("user", user_of(&view.identity))
        .with(
            "connection",
            connection.map(|connection| Value::from(connection_object(operator, connection))),
        )
        .with("mount_point", view.mount_point.clone())
        .with("subscriptions", view.subscriptions)
        .with("queued_messages", view.queued_messages)
        .with("inflight_messages", view.inflight_messages)
        .with("queued_bytes", view.queued_bytes)
        .with("spilled_messages", view.spilled_messages)
        .with("spilled_bytes", view.spilled_bytes)
        .with("expiry_secs", (!is_forever).then_some(view.expiry_secs))
        .with("expires_in_secs", view.expires_in.map(|left| left.as_secs()))
        .with("has_will", view.has_will)
        .with("lost", Value::from(lost_object(&view.lost)))
}

fn lost_object(lost: &Lost) -> Object {
    Object::default()
        .with("total", lost.total())
        .with("queue_full", lost.queue_full)
        .with("expired", lost.expired)
        .with("too_large", lost.too_large)
        .with("denied", lost.denied)
        .with("offline", lost.offline)
        .with("slow", lost.slow)
        .with("damaged", lost.damaged)
}

fn connection_object(operator: &dyn Operator, view: &ConnectionView) -> Object {
    let link = operator.link(view.link);
    let silence_max_secs = view.silence_max.as_secs();
    let (address, age, received, sent) = match link {
        Some(link) => (
            link.peer,
            link.age.as_secs(),
            link.received_bytes,
            link.sent_bytes,
        ),
        None => (String::new(), 0, 0, 0),
    };
    Object::default()
        .with("address", address)
        .with("listener", view.listener.name.as_str())
        .with("version", view.version.to_string())
        .with("connected_secs", age)
        .with("silent_secs", view.silent.as_secs())
        .with(
            "silence_max_secs",
            (silence_max_secs != 0).then_some(silence_max_secs),
        )
        .with("is_paused", view.is_paused)
        .with("unsent_bytes", view.unsent_bytes)
        .with("received_bytes", received)
        .with("sent_bytes", sent)
}

fn retained_view(operator: &dyn Operator, call: &Call<'_>) -> Result<RetainedView, Trouble> {
    let topic = TopicName::try_from(call.chosen).ok();
    let now = operator.now().mono;
    let view = topic.and_then(|topic| operator.broker().view_retained_message(now, &topic));
    view.ok_or_else(|| Trouble::new(404, "no message is retained there"))
}

fn retained_object(view: &RetainedView) -> Object {
    Object::default()
        .with("topic", view.topic.as_str())
        .with("qos", view.qos as u8)
        .with("payload_bytes", view.payload.len())
        .with("expires_in_secs", view.expires_in.map(|left| left.as_secs()))
        .with("user", user_of(&view.writer))
}

fn bans_object(operator: &dyn Operator) -> Object {
    let now = operator.now().mono;
    let bans = operator.broker().bans().map(|ban| {
        let (kind, value) = match &ban.subject {
            BanSubject::Client(client) => ("client", client.to_string()),
            BanSubject::User(user) => ("user", user.to_string()),
            BanSubject::Network(network) => ("address", network.to_string()),
        };
        let left = ban
            .until
            .map(|until| until.saturating_duration_since(now).as_secs());
        Object::default()
            .with("kind", kind)
            .with("value", value)
            .with("ends_in_secs", left)
    });
    items_object(bans)
}

fn listeners_object(operator: &dyn Operator) -> Object {
    items_object(operator.listeners().into_iter().map(|view| {
        Object::default()
            .with("name", view.name)
            .with("address", view.address)
            .with("transport", view.transport)
            .with("anonymous", view.anonymous)
            .with("connections", view.connections)
            .with("pending", view.pending)
            .with("accepted", view.accepted)
            .with("refused", view.refused)
    }))
}

fn serial_object(operator: &dyn Operator) -> Object {
    items_object(operator.serial_ports().into_iter().map(|view| {
        let health = view
            .health
            .and_then(|text| serde_json::from_str::<Value>(&text).ok());
        Object::default()
            .with("name", view.name)
            .with("path", view.path)
            .with("status", view.status)
            .with("health", health)
            .with("devices", view.devices)
    }))
}

fn configuration_object(operator: &dyn Operator) -> Object {
    items_object(operator.configuration().into_iter().map(|view| {
        Object::default()
            .with("key", view.key)
            .with("value", view.value)
            .with("source", view.source)
            .with("line", view.line)
    }))
}

fn items_object(items: impl Iterator<Item = Object>) -> Object {
    let items: Vec<Value> = items.map(Value::from).collect();
    Object::default().with("items", items)
}

fn page_object<T>(page: Page<T>, each: impl Fn(T) -> Object) -> Object {
    items_object(page.items.into_iter().map(each)).with("next", page.next)
}

fn user_of(identity: &Identity) -> Option<&str> {
    match identity {
        Identity::User(name) => Some(name.as_str()),
        Identity::Anonymous | Identity::Gateway => None,
    }
}

fn portion<'r>(call: &Call<'r>) -> Result<Portion<'r>, Trouble> {
    let limit = match call.request.parameter("limit") {
        None => LIMIT,
        Some(text) => match text.parse() {
            Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
            _ => return Err(wrong("limit", text, &"expected an integer from 1 to 1000")),
        },
    };
    let after = call.request.parameter("after").unwrap_or_default();
    Ok(Portion { after, limit })
}

fn topic_name(text: &str) -> Result<TopicName, Trouble> {
    TopicName::try_from(text).map_err(|error| wrong("topic", text, &error))
}

fn text_of(name: &str, text: &str) -> Result<Utf8String, Trouble> {
    Utf8String::try_from(text).map_err(|error| wrong(name, text, &error))
}

fn client_id(text: &str) -> Result<ClientId, Trouble> {
    let client = ClientId::new(text_of("client", text)?);
    client.ok_or_else(|| unfit("found no client identifier, expected one"))
}

/// Whom a pair of words means.
fn target(kind: &str, value: Option<&str>) -> Result<Target, Trouble> {
    if kind == "everyone" {
        return match value {
            None => Ok(Target::Everyone),
            Some(_) => Err(unfit("found a value beside everyone, expected none")),
        };
    }
    let value = value.filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| unfit(format!("found no value, expected whom {kind:?} means")))?;
    Ok(match kind {
        "client" => Target::Client(client_id(value)?),
        "user" => Target::User(text_of("user", value)?),
        "address" => match value.parse::<Network>() {
            Ok(network) => Target::Network(network),
            Err(error) => return Err(wrong("address", value, &error)),
        },
        "listener" => Target::Listener(value.to_owned()),
        "pattern" => Target::Pattern(Pattern::parse(value).map_err(|error| wrong("pattern", value, &error))?),
        other => {
            let expected = "expected client, user, address, listener, pattern or everyone";
            return Err(wrong("target", other, &expected));
        }
    })
}

/// The body of a request, held to its shape.
struct Body(Map<String, Value>);

impl Body {
    fn parse(call: &Call<'_>, shape: &Shape) -> Result<Self, Trouble> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(&call.request.body) else {
            return Err(unfit("the body is no JSON object"));
        };
        for name in fields.keys() {
            if !shape.fields.iter().any(|known| known.name == name) {
                let known: Vec<&str> = shape.fields.iter().map(|known| known.name).collect();
                let message = format!("unknown field {name:?}, expected {}", known.join(", "));
                return Err(unfit(message));
            }
        }
        Ok(Self(fields))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Trouble> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(unfit(format!("{name}: expected text"))),
        }
    }

    fn needed(&self, name: &str) -> Result<&str, Trouble> {
        let text = self.text(name)?;
        text.ok_or_else(|| unfit(format!("{name} is missing, expected text")))
    }

    fn integer(&self, name: &str) -> Result<Option<u64>, Trouble> {
        match self.value(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(integer) => Ok(Some(integer)),
                None => Err(unfit(format!("{name}: expected a whole number"))),
            },
        }
    }

    /// False where nothing is said.
    fn flag(&self, name: &str) -> Result<bool, Trouble> {
        match self.value(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(unfit(format!("{name}: expected true or false"))),
        }
    }
}
