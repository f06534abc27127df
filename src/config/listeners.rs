//! `[listener.NAME]`: the doors, and the rule that none is open by accident.

use std::sync::Arc;
use std::time::Duration;

use super::authentication::WrittenUsers;
use super::endpoints::{self, Taken};
use super::policy::{self, Bounds};
use super::settings::{Listener, WEBSOCKET_PATH, local_listeners};
use super::{Depth, file};
use crate::broker::Limits;
use crate::document::{Place, Table};
use crate::net::clock::FlooredClock;
use crate::net::endpoint::Endpoint;
use crate::net::listener::{ListenerSettings, ProxySettings};
use crate::net::tls::{self, CertificateField, ClientCertificates, ServerSettings};
use crate::net::websocket::upgrade::{self, Origin, Origins};

pub(super) fn read(root: &Table<'_>, limits: &Limits, users: &WrittenUsers, depth: Depth) -> Vec<Listener> {
    if !root.has("listener") {
        return local_listeners(&[], !users.are_meant(), limits);
    }
    let tables = root.named_tables("listener", &file::LISTENER);
    if tables.is_empty() {
        root.mistake(
            "listener",
            "no listener, expected at least one table such as [listener.NAME]",
        );
    }
    let mut listeners = Vec::new();
    let mut taken = Taken::default();
    for (name, table) in &tables {
        let endpoints = endpoints::read(table, &mut taken, depth);
        let tls = table.table("tls", &file::TLS);
        let tls = tls.map(|tls| read_tls(&tls, depth));
        let proxy = read_proxy(table, tls.as_ref());
        let websocket = table.table("websocket", &file::WEBSOCKET);
        let websocket = websocket.map(|websocket| read_websocket(&websocket));
        let door = Door {
            name,
            table,
            endpoints: &endpoints,
            tls: tls.as_ref(),
            proxy: proxy.as_ref(),
            users,
        };
        door.refuse_what_needs_tcp();
        let anonymous = door.anonymous();
        door.refuse_open_doors(anonymous);

        let policy = policy::read(table, name, anonymous, limits);
        let bounds = read_bounds(table, limits);
        let pending_per_address_max = read_count(table, "pending_per_address_max");
        for (endpoint, _) in &endpoints {
            listeners.push(Listener {
                net: ListenerSettings {
                    name: (*name).to_owned(),
                    endpoint: endpoint.clone(),
                    tls: tls.as_ref().and_then(|tls| tls.settings.clone()),
                    websocket: websocket.clone(),
                    proxy: proxy.clone(),
                    peer_user_name: is_unix(endpoint) && door.takes_peer_user_name(),
                    pending_per_address_max: pending_per_address_max
                        .unwrap_or_else(|| ListenerSettings::pending_per_address_max(endpoint)),
                    ..bounds.clone()
                },
                policy: policy.clone(),
                may_be_absent: false,
            });
        }
    }
    listeners
}

fn read_count(table: &Table<'_>, key: &str) -> Option<usize> {
    let count = table.integer(key, 1..=65_536);
    count.and_then(|count| usize::try_from(count).ok())
}

/// How many may come, and how fast.
fn read_bounds(table: &Table<'_>, limits: &Limits) -> ListenerSettings {
    let count = |key| read_count(table, key);
    let connections_max = Bounds { table }.within(
        "connections_max",
        count("connections_max"),
        limits.connections_max,
        |count| count,
    );
    let connections_max = connections_max.unwrap_or(limits.connections_max);
    let anywhere = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let usual = ListenerSettings::new("", anywhere, connections_max);
    let handshake_timeout = table.duration(
        "handshake_timeout",
        Duration::from_secs(1)..=Duration::from_secs(300),
    );
    ListenerSettings {
        connections_per_address_max: count("connections_per_address_max"),
        connect_rate_max: count("connect_rate_max").and_then(|rate| u32::try_from(rate).ok()),
        pending_max: count("pending_max").unwrap_or(usual.pending_max),
        handshake_timeout: handshake_timeout.unwrap_or(usual.handshake_timeout),
        ..usual
    }
}

/// Reads what makes it a door behind a balancer.
fn read_proxy(table: &Table<'_>, tls: Option<&WrittenTls>) -> Option<ProxySettings> {
    let is_wanted = table.flag("proxy_protocol").unwrap_or(false);
    // A misspelt word has its own mistake; what depends on it is then nobody's fault.
    let is_known = table.flag("proxy_protocol").is_some() || !table.has("proxy_protocol");
    if !is_wanted && is_known {
        for key in ["proxy_from", "proxy_user_name"] {
            if table.has(key) {
                table.mistake(
                    key,
                    "has no effect without proxy_protocol = true, expected that beside it",
                );
            }
        }
    }
    if is_wanted && !table.has("proxy_from") {
        table.missing("proxy_from");
    }
    let mut from = Vec::new();
    let texts = table.texts("proxy_from");
    if texts.as_ref().is_some_and(Vec::is_empty) {
        table.mistake(
            "proxy_from",
            "found an empty list, expected the addresses of the balancers",
        );
    }
    for (text, place) in texts.unwrap_or_default() {
        match text.parse() {
            Ok(network) => from.push(network),
            Err(error) => table
                .document()
                .mistake(&place, format!("found {text:?}, {error}")),
        }
    }
    let user_names = [("none", false), ("common-name", true)];
    let common_name_is_user = table.choice("proxy_user_name", &user_names).unwrap_or(false);
    if common_name_is_user && tls.is_some_and(|tls| tls.client_certificates != ClientCertificatesKind::None) {
        let message =
            "client_certificates asks the same clients for a certificate here; expected one of the two";
        table.mistake("proxy_user_name", message);
    }
    is_wanted.then_some(ProxySettings {
        from,
        common_name_is_user,
    })
}

/// `[listener.NAME.tls]`, as far as it could be read.
struct WrittenTls {
    /// `None` where it has mistakes.
    settings: Option<ServerSettings>,
    client_certificates: ClientCertificatesKind,
    takes_user_name: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientCertificatesKind {
    None,
    Optional,
    Required,
}

fn read_tls(table: &Table<'_>, depth: Depth) -> WrittenTls {
    use ClientCertificatesKind as Kind;

    for key in ["certificate", "key"] {
        if !table.has(key) {
            table.missing(key);
        }
    }
    let (certificate, key) = (table.path("certificate"), table.path("key"));
    let kinds = [
        ("none", Kind::None),
        ("optional", Kind::Optional),
        ("required", Kind::Required),
    ];
    let written_kind = table.choice("client_certificates", &kinds);
    let kind = written_kind.unwrap_or(Kind::None);
    // A misspelt word has its own mistake; what depends on it is then nobody's fault.
    let kind_is_known = written_kind.is_some() || !table.has("client_certificates");
    let ca = table.path("client_ca");
    let fields = [
        ("none", None),
        ("common-name", Some(CertificateField::CommonName)),
        ("san-dns", Some(CertificateField::SanDns)),
        ("san-uri", Some(CertificateField::SanUri)),
        ("san-email", Some(CertificateField::SanEmail)),
    ];
    let written_field = table.choice("user_name", &fields);
    if kind != Kind::None && !table.has("client_ca") {
        table.missing("client_ca");
    }
    if kind == Kind::None && kind_is_known {
        for key in ["client_ca", "user_name"] {
            if table.has(key) {
                table.mistake(
                    key,
                    "has no effect while client_certificates is \"none\"; \
                     expected client_certificates = \"required\" or \"optional\" beside it",
                );
            }
        }
    }
    let user_name_from = match kind {
        Kind::None => None,
        Kind::Optional | Kind::Required => written_field.unwrap_or(Some(CertificateField::CommonName)),
    };
    let client_certificates = match (kind, ca) {
        (Kind::None, _) => Some(ClientCertificates::Ignored),
        (Kind::Optional, Some(ca)) => Some(ClientCertificates::Optional { ca }),
        (Kind::Required, Some(ca)) => Some(ClientCertificates::Required { ca }),
        (Kind::Optional | Kind::Required, None) => None,
    };
    let settings = match (certificate, key, client_certificates) {
        (Some(certificate), Some(key), Some(client_certificates)) => Some(ServerSettings {
            certificate,
            key,
            client_certificates,
            user_name_from,
        }),
        _ => None,
    };
    if let (Depth::Files, Some(settings)) = (depth, &settings)
        && let Err(error) = tls::Server::new(settings, Arc::new(FlooredClock::default()))
    {
        table.document().mistake(&table.own_place(), error.to_string());
    }
    if let (Depth::Files, Some(settings)) = (depth, &settings)
        && let Some(exposed) = tls::exposed_key(&settings.key)
    {
        table.document().warning(&table.place("key"), exposed.to_string());
    }
    WrittenTls {
        settings,
        client_certificates: kind,
        takes_user_name: user_name_from.is_some(),
    }
}

/// `[listener.NAME.websocket]`; what is wrong in it is told, and nothing runs then.
fn read_websocket(table: &Table<'_>) -> upgrade::ServerSettings {
    let wrong = |place: &Place, message: String| table.document().mistake(place, message);
    let mut paths = Vec::new();
    match table.texts("path") {
        None => paths.push(WEBSOCKET_PATH.to_owned()),
        Some(texts) if texts.is_empty() => {
            table.mistake("path", "found an empty list, expected at least one path");
        }
        Some(texts) => {
            for (text, place) in texts {
                let is_visible = text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
                if !text.starts_with('/') || !is_visible {
                    let expected = "expected a path such as \"/mqtt\", as it stands in a URL";
                    wrong(&place, format!("found {text:?}, {expected}"));
                }
                paths.push(text.to_owned());
            }
        }
    }
    let mut origins = Origins::SameHost;
    if let Some(texts) = table.texts("origins") {
        let is_any = texts.iter().any(|(text, _)| *text == "*");
        if is_any && texts.len() > 1 {
            table.mistake(
                "origins",
                "found \"*\" beside others, which lets every page in; expected it alone, or without it",
            );
        }
        let mut listed = Vec::new();
        for (text, place) in texts.iter().filter(|(text, _)| *text != "*") {
            match text.parse::<Origin>() {
                Ok(origin) => listed.push(origin),
                Err(error) => wrong(place, format!("found {text:?}, {error}")),
            }
        }
        origins = if is_any {
            Origins::Any
        } else {
            Origins::Listed(listed)
        };
    }
    upgrade::ServerSettings { paths, origins }
}

/// A listener as far as it matters to its safety.
struct Door<'a> {
    name: &'a str,
    table: &'a Table<'a>,
    endpoints: &'a [(Endpoint, Place)],
    tls: Option<&'a WrittenTls>,
    proxy: Option<&'a ProxySettings>,
    users: &'a WrittenUsers,
}

impl Door<'_> {
    /// Whether it lets in who proves nothing: what is written, or else only where that can hurt nobody.
    fn anonymous(&self) -> bool {
        let asks_for_certificates = self
            .tls
            .is_some_and(|tls| tls.client_certificates != ClientCertificatesKind::None);
        let harmless =
            self.reached_from_outside().is_none() && !self.users.are_meant() && !asks_for_certificates;
        self.table
            .flag("anonymous")
            .unwrap_or(harmless && !self.takes_user_name())
    }

    /// Tells every way in which it is more open than the configuration says in so many words.
    fn refuse_open_doors(&self, anonymous: bool) {
        let name = self.name;
        let allows = |key| self.table.flag(key).unwrap_or(false);
        let allows_plaintext = allows("allow_plaintext_off_loopback");
        let allows_anonymous = allows("allow_anonymous_off_loopback");

        if let (Some((endpoint, place)), None, false) = (self.off_loopback(), self.tls, allows_plaintext) {
            let message = format!(
                "{endpoint} is off loopback and has no TLS, so passwords and data could be read and changed on the \
                 way; add [listener.{name}.tls], listen on 127.0.0.1, or write allow_plaintext_off_loopback = true \
                 if that is what you want"
            );
            self.table.document().mistake(place, message);
        }
        let proves_by_certificate = self
            .tls
            .is_some_and(|tls| tls.client_certificates == ClientCertificatesKind::Required);
        if let (Some((endpoint, _)), true, false, false) = (
            self.reached_from_outside(),
            anonymous,
            proves_by_certificate,
            allows_anonymous,
        ) {
            let how = match endpoint.is_local() {
                true => "behind a balancer",
                false => "off loopback",
            };
            let message = format!(
                "{endpoint} is {how}, so everybody who reaches it could read and publish everything; remove \
                 this key and set password_file in [authentication], ask for client certificates, or write \
                 allow_anonymous_off_loopback = true if that is what you want"
            );
            self.table.mistake("anonymous", message);
        }
        let anonymous_is_wrong = self.table.has("anonymous") && self.table.flag("anonymous").is_none();
        if !anonymous && !anonymous_is_wrong && !self.users.are_meant() && !self.takes_user_name() {
            let message = "nobody could come in: it asks for a user name and password and there is no password_file \
                           in [authentication]; make one with \"tidegate passwd FILE NAME\", ask for client \
                           certificates in its tls table, or set anonymous = true";
            self.table.document().mistake(&self.table.own_place(), message);
        }
    }

    /// Tells what a Unix socket cannot have.
    fn refuse_what_needs_tcp(&self) {
        let has_unix = self.endpoints.iter().any(|(endpoint, _)| is_unix(endpoint));
        for (key, is_wanted) in [
            ("tls", self.tls.is_some()),
            ("proxy_protocol", self.proxy.is_some()),
        ] {
            if has_unix && is_wanted {
                let message = "cannot be had on a Unix socket, which never leaves this machine; expected a listener of \
                               its own for the Unix socket";
                self.table.mistake(key, message);
            }
        }
    }

    /// Whether clients can prove who they are without a password, on every one of its addresses.
    fn takes_user_name(&self) -> bool {
        self.tls.is_some_and(|tls| tls.takes_user_name)
            || self.proxy.is_some_and(|proxy| proxy.common_name_is_user)
            || self.takes_peer_user_name() && self.endpoints.iter().all(|(endpoint, _)| is_unix(endpoint))
    }

    fn takes_peer_user_name(&self) -> bool {
        self.table.flag("peer_user_name").unwrap_or(false)
    }

    /// The first address that others than this machine's programs reach.
    fn off_loopback(&self) -> Option<&(Endpoint, Place)> {
        self.endpoints.iter().find(|(endpoint, _)| !endpoint.is_local())
    }

    /// The first one that clients of other machines come through, be it by a balancer on this one.
    fn reached_from_outside(&self) -> Option<&(Endpoint, Place)> {
        let behind_balancer = self.proxy.and(self.endpoints.first());
        self.off_loopback().or(behind_balancer)
    }
}

fn is_unix(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Unix(_))
}
