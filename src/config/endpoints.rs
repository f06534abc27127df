//! `address` of a listener: addresses of IP and Unix sockets, and to whom these belong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Depth;
use crate::document::{Place, Table};
use crate::net::endpoint::{Endpoint, UnixEndpoint};
use crate::net::{accounts, unix};

/// Where listeners are already, with their keys.
#[derive(Default)]
pub(super) struct Taken {
    addresses: BTreeMap<SocketAddr, String>,
    paths: BTreeMap<PathBuf, String>,
}

impl Taken {
    /// Takes `endpoint` for `key`; gives the earlier one and its key if the system would refuse to listen on both.
    fn take(&mut self, endpoint: &Endpoint, key: &str) -> Option<(String, String)> {
        match endpoint {
            Endpoint::Tcp(address) => self.take_address(*address, key),
            Endpoint::Unix(unix) => {
                let earlier = self.paths.insert(unix.path.clone(), key.to_owned());
                earlier.map(|earlier| (endpoint.to_string(), earlier))
            }
        }
    }

    fn take_address(&mut self, address: SocketAddr, key: &str) -> Option<(String, String)> {
        if address.port() == 0 {
            return None; // Each gets a free port.
        }
        let clash = self.addresses.iter().find(|(other, _)| {
            let same_family = other.is_ipv4() == address.is_ipv4();
            let all = other.ip().is_unspecified() || address.ip().is_unspecified();
            other.port() == address.port() && same_family && (all || other.ip() == address.ip())
        });
        let clash = clash.map(|(other, key)| (other.to_string(), key.clone()));
        self.addresses.insert(address, key.to_owned());
        clash
    }
}

/// Reads `address`, and with it the keys that belong to Unix sockets.
pub(super) fn read(table: &Table<'_>, taken: &mut Taken, depth: Depth) -> Vec<(Endpoint, Place)> {
    let permissions = Permissions::read(table, UnixEndpoint::MODE);
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
    let mut endpoints = Vec::new();
    let mut is_all_read = true;
    for (text, place) in texts {
        let mistake = |message: String| table.document().mistake(&place, message);
        let read = match text.strip_prefix(UnixEndpoint::SCHEME) {
            Some(path) => permissions.endpoint(path),
            None => text.parse().map(Endpoint::Tcp).map_err(|_| {
                "expected an address with port such as \"127.0.0.1:1883\" or \"[::]:8883\", or a socket such as \
                 \"unix:/run/tidegate/mqtt.sock\""
                    .to_owned()
            }),
        };
        let endpoint = match read {
            Ok(endpoint) => endpoint,
            Err(message) => {
                is_all_read = false;
                mistake(format!("found {text:?}, {message}"));
                continue;
            }
        };
        if let Some((other, key)) = taken.take(&endpoint, table.own_place().key()) {
            let another = endpoint.ip().map_or("path", |_| "address or port");
            mistake(format!(
                "{endpoint} is taken, {key} listens on {other}; expected another {another}"
            ));
        }
        if let (Depth::Files, Endpoint::Unix(unix)) = (depth, &endpoint)
            && let Err(error) = unix::check_path(&unix.path)
        {
            match error.kind() {
                // It may be made when the gateway starts.
                std::io::ErrorKind::NotFound => table.document().warning(
                    &place,
                    format!(
                        "{error}; it must be there when the gateway starts (RuntimeDirectory= of systemd)"
                    ),
                ),
                _ => mistake(error.to_string()),
            }
        }
        endpoints.push((endpoint, place));
    }
    let has_unix = endpoints
        .iter()
        .any(|(endpoint, _)| matches!(endpoint, Endpoint::Unix(_)));
    if !has_unix && is_all_read {
        for key in ["mode", "owner", "group", "peer_user_name"] {
            if table.has(key) {
                let message = "has no effect without a Unix socket; expected one such as \
                               \"unix:/run/tidegate/mqtt.sock\" in address";
                table.mistake(key, message);
            }
        }
    }
    endpoints
}

/// To whom a listener's Unix sockets belong, and who may come through them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permissions {
    pub(super) mode: u32,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

impl Permissions {
    /// Those that `table` says; of the permissions, `usual_mode` where it says none.
    pub(super) fn read(table: &Table<'_>, usual_mode: u32) -> Self {
        Self {
            mode: table.parsed("mode", mode_from).unwrap_or(usual_mode),
            owner: table.parsed("owner", accounts::uid_of),
            group: table.parsed("group", accounts::gid_of),
        }
    }

    pub(super) fn endpoint(&self, path: &str) -> Result<Endpoint, String> {
        let path = PathBuf::from(path);
        let bytes = path.as_os_str().len();
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(
                "expected a path from the root to a file such as \"unix:/run/tidegate/mqtt.sock\"".to_owned(),
            );
        }
        if bytes > UnixEndpoint::PATH_BYTES_MAX {
            let most = UnixEndpoint::PATH_BYTES_MAX;
            return Err(format!("the path has {bytes} bytes, expected at most {most}"));
        }
        Ok(Endpoint::Unix(UnixEndpoint {
            path,
            mode: self.mode,
            owner: self.owner,
            group: self.group,
        }))
    }
}

/// Permissions as chmod(1) takes them.
fn mode_from(text: &str) -> Result<u32, &'static str> {
    let is_octal = matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| is_octal && *mode <= 0o777)
        .ok_or("expected permissions in octal such as \"0660\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_and_of_users_only() {
        for (text, mode) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777), ("0000", 0)] {
            assert_eq!(mode_from(text), Ok(mode));
        }
        for text in ["", "66", "0o660", "4660", "0680", "+660", "06600"] {
            assert!(mode_from(text).is_err(), "{text:?}");
        }
    }
}
