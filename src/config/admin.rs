//! `[admin]`: the operator's doors, and the rule that nobody finds one open who was not meant to.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::endpoints::Permissions;
use super::{Depth, file};
use crate::admin::settings::{CONNECTIONS_MAX, DOOR, DoorSettings, Settings, Token};
use crate::document::{Place, Table};
use crate::net::clock::FlooredClock;
use crate::net::endpoint::Endpoint;
use crate::net::listener::ListenerSettings;
use crate::net::tls::{self, ClientCertificates, ServerSettings};
use crate::net::unix;

/// The permissions of the operator's socket: what comes through it may do everything.
const MODE: u32 = 0o600;

/// The socket's file, in the folder where nothing else is said.
const FILE: &str = "admin.sock";

/// Permissions by which others than the owner and the group could read a secret, or anybody but the owner change it.
const OPEN_TO_OTHERS: u32 = 0o027;

/// The folders systemd has made for the gateway, as it tells them (systemd.exec(5)).
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// The doors of a gateway whose configuration says nothing of them: a socket, where there is a place for one.
pub(super) fn usual_doors(state_directory: Option<&Path>) -> Settings {
    let permissions = Permissions {
        mode: MODE,
        owner: None,
        group: None,
    };
    Settings {
        doors: usual_socket(state_directory, permissions).into_iter().collect(),
    }
}

pub(super) fn read(root: &Table<'_>, state_directory: Option<&Path>, depth: Depth) -> Settings {
    let Some(table) = root.table("admin", &file::ADMIN) else {
        return usual_doors(state_directory);
    };
    let permissions = Permissions::read(&table, MODE);
    let mut doors = Vec::new();
    if table.has("socket") {
        doors.extend(read_socket(&table, permissions, depth));
    } else {
        doors.extend(usual_socket(state_directory, permissions));
    }
    read_http(&table, depth, &mut doors);
    Settings { doors }
}

fn usual_socket(state_directory: Option<&Path>, permissions: Permissions) -> Option<DoorSettings> {
    let runtime = std::env::var(RUNTIME_DIRECTORY).ok();
    let runtime = runtime.as_deref().and_then(|folders| folders.split(':').next());
    let folder = match runtime {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        // A socket's path begins at the root.
        _ => std::path::absolute(state_directory?).ok()?,
    };
    let endpoint = permissions.endpoint(folder.join(FILE).to_str()?).ok()?;
    Some(door(endpoint, true))
}

fn read_socket(table: &Table<'_>, permissions: Permissions, depth: Depth) -> Option<DoorSettings> {
    let path = table.text("socket")?;
    let endpoint = match permissions.endpoint(path) {
        Ok(endpoint) => endpoint,
        Err(_) => {
            let message = format!(
                "found {path:?}, expected a path from the root to a file, of at most 107 bytes, such as \
                 \"/run/tidegate/admin.sock\""
            );
            table.mistake("socket", message);
            return None;
        }
    };
    if depth == Depth::Files
        && let Err(error) = unix::check_path(Path::new(path))
    {
        let place = table.place("socket");
        match error.kind() {
            // It may be made when the gateway starts.
            std::io::ErrorKind::NotFound => table.document().warning(&place, error.to_string()),
            _ => table.document().mistake(&place, error.to_string()),
        }
    }
    Some(door(endpoint, false))
}

fn read_http(table: &Table<'_>, depth: Depth, doors: &mut Vec<DoorSettings>) {
    if !table.has("http") {
        for key in ["token_file", "tls"] {
            if table.has(key) {
                table.mistake(key, "has no effect without http, expected that beside it");
            }
        }
        return;
    }
    let tls = table.table("tls", &file::ADMIN_TLS);
    let tls_settings = tls.as_ref().and_then(|tls| read_tls(tls, depth));
    let token = read_token(table);
    let texts: Vec<(&str, Place)> = table.texts("http").unwrap_or_default();
    for (text, place) in texts {
        let Ok(address) = text.parse::<SocketAddr>() else {
            let message = format!("found {text:?}, expected an address with port such as \"127.0.0.1:9180\"");
            table.document().mistake(&place, message);
            continue;
        };
        let endpoint = Endpoint::Tcp(address);
        if !endpoint.is_local() && tls.is_none() {
            let message = format!(
                "{endpoint} is off loopback and has no TLS, so the token could be read on the way; add [admin.tls], \
                 or listen on 127.0.0.1"
            );
            table.document().mistake(&place, message);
        }
        if let Some(token) = token {
            let mut door = door(endpoint, false);
            door.net.tls = tls_settings.clone();
            door.token = Some(token);
            doors.push(door);
        }
    }
}

fn read_tls(table: &Table<'_>, depth: Depth) -> Option<ServerSettings> {
    for key in ["certificate", "key"] {
        if !table.has(key) {
            table.missing(key);
        }
    }
    let settings = ServerSettings {
        certificate: table.path("certificate")?,
        key: table.path("key")?,
        client_certificates: ClientCertificates::Ignored,
        user_name_from: None,
        client_id_from: None,
    };
    if depth == Depth::Files {
        match tls::Server::new(&settings, Arc::new(FlooredClock::default())) {
            Ok(server) => {
                for warning in server.warnings() {
                    table.document().warning(&table.own_place(), warning);
                }
            }
            Err(error) => table.document().mistake(&table.own_place(), error.to_string()),
        }
    }
    Some(settings)
}

/// The token who comes by HTTP has to show; `None` only with a mistake.
fn read_token(table: &Table<'_>) -> Option<Token> {
    if !table.has("token_file") {
        table.missing("token_file");
        return None;
    }
    let path = table.path("token_file")?;
    let shown = path.display();
    let token = fs::metadata(&path)
        .and_then(|found| Ok((found.permissions().mode() & 0o7777, fs::read_to_string(&path)?)));
    let message = match token {
        Err(error) => format!(
            "cannot read {shown}: {error}; make it with (umask 077; head -c 24 /dev/urandom | base64 > {shown})"
        ),
        Ok((mode, _)) if mode & OPEN_TO_OTHERS != 0 => format!(
            "{shown} has permissions {mode:04o}, so others could learn the token; expected 0600 or 0640 (chmod 600)"
        ),
        Ok((_, text)) => match Token::parse(&text) {
            Some(token) => return Some(token),
            None => format!(
                "{shown} holds no token, expected one word of at least {} characters",
                Token::CHARACTERS_MIN
            ),
        },
    };
    table.mistake("token_file", message);
    None
}

fn door(endpoint: Endpoint, may_be_absent: bool) -> DoorSettings {
    DoorSettings {
        net: ListenerSettings::new(DOOR, endpoint, CONNECTIONS_MAX),
        token: None,
        may_be_absent,
    }
}
