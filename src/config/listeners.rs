//! `[listener.NAME]`: the doors, and the rule that none is open by accident.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::gateway::WrittenUsers;
use super::settings::{
    HANDSHAKE_TIMEOUT, Listener, PENDING_MAX, PENDING_PER_ADDRESS_MAX, WEBSOCKET_PATH, is_loopback,
    local_listeners,
};
use super::{Depth, file};
use crate::broker::{Limits, ListenerPolicy};
use crate::document::{Place, Table};
use crate::net::clock::FlooredClock;
use crate::net::listener::ListenerSettings;
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
        let addresses = read_addresses(table, &mut taken);
        let tls = table.table("tls", &file::TLS);
        let tls = tls.map(|tls| read_tls(&tls, depth));
        let websocket = table.table("websocket", &file::WEBSOCKET);
        let websocket = websocket.map(|websocket| read_websocket(&websocket));
        let door = Door {
            name,
            table,
            addresses: &addresses,
            tls: tls.as_ref(),
            users,
        };
        let anonymous = door.anonymous();
        door.refuse_open_doors(anonymous);

        let count = |key, otherwise: usize| {
            let count = table.integer(key, 1..=65_536);
            count
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(otherwise)
        };
        let connections_max = count("connections_max", limits.connections_max);
        if connections_max > limits.connections_max {
            table.mistake(
                "connections_max",
                format!(
                    "found {connections_max}, expected at most the {} of [limits]",
                    limits.connections_max
                ),
            );
        }
        let pending_max = count("pending_max", PENDING_MAX);
        let pending_per_address_max = count("pending_per_address_max", PENDING_PER_ADDRESS_MAX);
        let handshake_timeout = table.duration(
            "handshake_timeout",
            Duration::from_secs(1)..=Duration::from_secs(300),
        );
        for (address, _) in &addresses {
            listeners.push(Listener {
                net: ListenerSettings {
                    name: (*name).to_owned(),
                    address: *address,
                    tls: tls.as_ref().and_then(|tls| tls.settings.clone()),
                    websocket: websocket.clone(),
                    connections_max,
                    pending_max,
                    pending_per_address_max,
                    handshake_timeout: handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT),
                },
                policy: ListenerPolicy::new(*name, anonymous),
                may_be_absent: false,
            });
        }
    }
    listeners
}

/// Addresses that have a listener, with the listener's key.
#[derive(Default)]
struct Taken(BTreeMap<SocketAddr, String>);

impl Taken {
    /// Takes `address` for `key`; gives the earlier key if the system would refuse to listen on both.
    fn take(&mut self, address: SocketAddr, key: &str) -> Option<(SocketAddr, String)> {
        if address.port() == 0 {
            return None; // Each gets a free port.
        }
        let clash = self.0.iter().find(|(other, _)| {
            let same_family = other.is_ipv4() == address.is_ipv4();
            let all = other.ip().is_unspecified() || address.ip().is_unspecified();
            other.port() == address.port() && same_family && (all || other.ip() == address.ip())
        });
        let clash = clash.map(|(other, key)| (*other, key.clone()));
        self.0.insert(address, key.to_owned());
        clash
    }
}

fn read_addresses(table: &Table<'_>, taken: &mut Taken) -> Vec<(SocketAddr, Place)> {
    if !table.has("address") {
        table.missing("address");
        return Vec::new();
    }
    let Some(texts) = table.texts("address") else {
        return Vec::new();
    };
    if texts.is_empty() {
        table.mistake("address", "found an empty list, expected at least one address");
    }
    let mut addresses = Vec::new();
    for (text, place) in texts {
        let Ok(address) = text.parse::<SocketAddr>() else {
            let expected = "expected an address with port such as \"127.0.0.1:1883\" or \"[::]:8883\"";
            table
                .document()
                .mistake(&place, format!("found {text:?}, {expected}"));
            continue;
        };
        if let Some((other, key)) = taken.take(address, table.own_place().key()) {
            let message =
                format!("{address} is taken, {key} listens on {other}; expected another address or port");
            table.document().mistake(&place, message);
        }
        addresses.push((address, place));
    }
    addresses
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
    addresses: &'a [(SocketAddr, Place)],
    tls: Option<&'a WrittenTls>,
    users: &'a WrittenUsers,
}

impl Door<'_> {
    /// Whether it lets in who proves nothing: what is written, or else only where that can hurt nobody.
    fn anonymous(&self) -> bool {
        let asks_for_certificates = self
            .tls
            .is_some_and(|tls| tls.client_certificates != ClientCertificatesKind::None);
        let harmless = self.off_loopback().is_none() && !self.users.are_meant() && !asks_for_certificates;
        self.table.flag("anonymous").unwrap_or(harmless)
    }

    /// Tells every way in which it is more open than the configuration says in so many words.
    fn refuse_open_doors(&self, anonymous: bool) {
        let name = self.name;
        let allows = |key| self.table.flag(key).unwrap_or(false);
        let allows_plaintext = allows("allow_plaintext_off_loopback");
        let allows_anonymous = allows("allow_anonymous_off_loopback");

        if let (Some((address, place)), None, false) = (self.off_loopback(), self.tls, allows_plaintext) {
            let message = format!(
                "{address} is off loopback and has no TLS, so passwords and data could be read and changed on the \
                 way; add [listener.{name}.tls], listen on 127.0.0.1, or write allow_plaintext_off_loopback = true \
                 if that is what you want"
            );
            self.table.document().mistake(place, message);
        }
        let proves_by_certificate = self
            .tls
            .is_some_and(|tls| tls.client_certificates == ClientCertificatesKind::Required);
        if let (Some((address, _)), true, false, false) = (
            self.off_loopback(),
            anonymous,
            proves_by_certificate,
            allows_anonymous,
        ) {
            let message = format!(
                "{address} is off loopback, so everybody who reaches it could read and publish everything; remove \
                 this key and set password_file in [authentication], ask for client certificates, or write \
                 allow_anonymous_off_loopback = true if that is what you want"
            );
            self.table.mistake("anonymous", message);
        }
        let takes_user_name = self.tls.is_some_and(|tls| tls.takes_user_name);
        let anonymous_is_wrong = self.table.has("anonymous") && self.table.flag("anonymous").is_none();
        if !anonymous && !anonymous_is_wrong && !self.users.are_meant() && !takes_user_name {
            let message = "nobody could come in: it asks for a user name and password and there is no password_file \
                           in [authentication]; make one with \"tidegate passwd FILE NAME\", ask for client \
                           certificates in its tls table, or set anonymous = true";
            self.table.document().mistake(&self.table.own_place(), message);
        }
    }

    /// The first address that others than this machine's programs reach.
    fn off_loopback(&self) -> Option<&(SocketAddr, Place)> {
        self.addresses.iter().find(|(address, _)| !is_loopback(address))
    }
}
