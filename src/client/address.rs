//! Where a server is, as a person writes it: `mqtts://user@host:port`, `host:port`, `host`, `wss://host:port/path`,
//! `unix:/path`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// The place of an MQTT server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IPv4 or IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether TLS goes below MQTT.
    pub tls: bool,
    /// Path and query of the WebSocket MQTT goes through, with the leading slash; `None` goes without one.
    pub websocket: Option<String>,
    /// A Unix socket of this machine instead of host and port.
    pub unix: Option<PathBuf>,
    /// The user name before `@`.
    pub user: Option<String>,
}

/// Why text is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressError {
    /// Something before `://` that is none of `mqtt`, `mqtts`, `ws` and `wss`, nor another name of theirs.
    Scheme(String),
    /// No host.
    Host,
    /// The port is no number from 1 to 65535.
    Port(String),
    /// An opening bracket without its closing one, or what stands between them is no IPv6 address.
    Brackets,
    /// A password between user and host.
    Password,
    /// Something after the port where there is no WebSocket, or what cannot stand in a URL's path.
    Path(String),
    /// The path of a Unix socket that does not begin at the root.
    Unix(String),
}

impl Address {
    /// The port of `mqtt` as registered with IANA.
    pub const PORT: u16 = 1883;
    /// The port of `secure-mqtt` as registered with IANA.
    pub const PORT_TLS: u16 = 8883;
    /// The port of `ws`, which is that of HTTP.
    pub const PORT_WEBSOCKET: u16 = 80;
    /// The port of `wss`, which is that of HTTPS.
    pub const PORT_WEBSOCKET_TLS: u16 = 443;
    /// The path of a WebSocket where the address has none, not even a slash: what brokers commonly take.
    pub const WEBSOCKET_PATH: &str = "/mqtt";

    /// A server at `host`, in the clear or over TLS, at the usual port or another.
    pub fn new(host: &str, port: Option<u16>, tls: bool) -> Self {
        let port = port.unwrap_or(if tls { Self::PORT_TLS } else { Self::PORT });
        Self {
            host: host.to_owned(),
            port,
            tls,
            websocket: None,
            unix: None,
            user: None,
        }
    }

    /// A server of this machine, at a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self {
            unix: Some(path.into()),
            ..Self::new("localhost", None, false)
        }
    }
}

/// What stands before the path of a Unix socket, as listeners have it.
const UNIX: &str = "unix:";

/// The same as a URL, in which a user name may stand.
const UNIX_URL: &str = "mqtt+unix://";

fn parse_unix(text: &str) -> Result<Address, AddressError> {
    let (user, path) = match text.find('/').map(|root| text.split_at(root)) {
        Some((user, path)) => (user.strip_suffix('@').unwrap_or(user), path),
        None => return Err(AddressError::Unix(text.to_owned())),
    };
    if user.contains(':') {
        return Err(AddressError::Password);
    }
    let has_user = text.len() > user.len() + path.len();
    if !has_user && !user.is_empty() {
        return Err(AddressError::Unix(text.to_owned()));
    }
    Ok(Address {
        user: (!user.is_empty()).then(|| user.to_owned()),
        ..Address::unix(path)
    })
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix(UNIX_URL) {
            return parse_unix(path);
        }
        if let Some(path) = text.strip_prefix(UNIX) {
            return parse_unix(path.strip_prefix("//").unwrap_or(path));
        }
        let (tls, is_websocket, rest) = match text.split_once("://") {
            None => (false, false, text),
            Some(("mqtt" | "tcp", rest)) => (false, false, rest),
            Some(("mqtts" | "ssl" | "tls", rest)) => (true, false, rest),
            Some(("ws", rest)) => (false, true, rest),
            Some(("wss", rest)) => (true, true, rest),
            Some((scheme, _)) => return Err(AddressError::Scheme(scheme.to_owned())),
        };
        let (rest, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let websocket = match path {
            "" => is_websocket.then(|| Self::WEBSOCKET_PATH.to_owned()),
            path if is_websocket && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => {
                Some(path.to_owned())
            }
            "/" => None,
            path => return Err(AddressError::Path(path.to_owned())),
        };
        let (user, place) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((user, _)) if user.contains(':') => return Err(AddressError::Password),
            Some((user, place)) => ((!user.is_empty()).then(|| user.to_owned()), place),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or(AddressError::Brackets)?;
                let without_zone = host.split_once('%').map_or(host, |(address, _zone)| address);
                without_zone
                    .parse::<Ipv6Addr>()
                    .map_err(|_| AddressError::Brackets)?;
                (host, port)
            }
            // More than one colon is an IPv6 address without brackets, so without a port.
            None if place.parse::<Ipv6Addr>().is_ok() => (place, ""),
            None => place.find(':').map_or((place, ""), |colon| place.split_at(colon)),
        };
        if host.is_empty() {
            return Err(AddressError::Host);
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err(AddressError::Port(port.to_owned())),
            Some(digits) => match digits.parse() {
                Ok(0) | Err(_) => return Err(AddressError::Port(digits.to_owned())),
                Ok(port) => Some(port),
            },
        };
        let usual = match (is_websocket, tls) {
            (false, _) => None,
            (true, false) => Some(Self::PORT_WEBSOCKET),
            (true, true) => Some(Self::PORT_WEBSOCKET_TLS),
        };
        Ok(Self {
            user,
            websocket,
            ..Self::new(host, port.or(usual), tls)
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.unix {
            return write!(f, "{UNIX}{}", path.display());
        }
        let scheme = match (&self.websocket, self.tls) {
            (None, false) => "mqtt",
            (None, true) => "mqtts",
            (Some(_), false) => "ws",
            (Some(_), true) => "wss",
        };
        let path = self.websocket.as_deref().unwrap_or_default();
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(scheme) => write!(
                f,
                "unknown scheme {scheme:?}, expected mqtt://, mqtts://, ws://, wss:// or unix:"
            ),
            Self::Host => f.write_str("no host, expected for example mqtt://gateway.local:1883"),
            Self::Port(port) => write!(f, "found the port {port:?}, expected a number from 1 to 65535"),
            Self::Brackets => {
                f.write_str("expected an IPv6 address between brackets, as in mqtt://[::1]:1883")
            }
            Self::Password => f.write_str(
                "a password in the address can be read by every user of this machine; leave it out and \
                 use a password file",
            ),
            Self::Unix(path) => write!(
                f,
                "found the Unix socket {path:?}, expected a path from the root such as unix:/run/tidegate/mqtt.sock"
            ),
            Self::Path(path) => write!(
                f,
                "found {path:?} after the port, expected nothing, or a path after ws:// and wss:// addresses"
            ),
        }
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_is_understood() {
        for (text, expected) in [
            ("gateway", "mqtt://gateway:1883"),
            ("gateway:1884", "mqtt://gateway:1884"),
            ("mqtt://gateway", "mqtt://gateway:1883"),
            ("mqtts://gateway/", "mqtts://gateway:8883"),
            ("ssl://10.0.0.1:9000", "mqtts://10.0.0.1:9000"),
            ("tcp://[::1]:1884", "mqtt://[::1]:1884"),
            ("[fe80::1%eth0]", "mqtt://[fe80::1%eth0]:1883"),
            ("::1", "mqtt://[::1]:1883"),
            ("ws://gateway", "ws://gateway:80/mqtt"),
            ("ws://gateway/", "ws://gateway:80/"),
            ("wss://gateway", "wss://gateway:443/mqtt"),
            ("wss://gateway:9443/a/b?c=d", "wss://gateway:9443/a/b?c=d"),
            ("ws://[::1]:9001/ws", "ws://[::1]:9001/ws"),
            ("unix:/run/mqtt.sock", "unix:/run/mqtt.sock"),
            ("unix:///run/a:b@c.sock", "unix:/run/a:b@c.sock"),
            ("mqtt+unix:///run/mqtt.sock", "unix:/run/mqtt.sock"),
        ] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        let with_user: Address = "mqtts://probe@gateway".parse().unwrap();
        assert_eq!(with_user.user.as_deref(), Some("probe"));
        let with_user: Address = "mqtt+unix://probe@/run/mqtt.sock".parse().unwrap();
        assert_eq!(with_user.user.as_deref(), Some("probe"));
        assert_eq!(with_user.unix, Some("/run/mqtt.sock".into()));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, error) in [
            ("http://gateway", AddressError::Scheme("http".into())),
            ("", AddressError::Host),
            ("mqtt://:1883", AddressError::Host),
            ("gateway:0", AddressError::Port("0".into())),
            ("gateway:65536", AddressError::Port("65536".into())),
            ("gateway:mqtt", AddressError::Port("mqtt".into())),
            ("[::1]1883", AddressError::Port("1883".into())),
            ("[::1", AddressError::Brackets),
            ("[gateway]:1883", AddressError::Brackets),
            ("mqtt://probe:secret@gateway", AddressError::Password),
            ("mqtt://gateway/a/b", AddressError::Path("/a/b".into())),
            ("ws://gateway/a b", AddressError::Path("/a b".into())),
            ("ws://gateway/a\r\nb", AddressError::Path("/a\r\nb".into())),
            ("ws://gateway:0/a", AddressError::Port("0".into())),
            ("unix:run/mqtt.sock", AddressError::Unix("run/mqtt.sock".into())),
            ("unix:", AddressError::Unix("".into())),
            ("mqtt+unix://probe:secret@/run/mqtt.sock", AddressError::Password),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_displayed_is_read_back_as_the_same() {
        for text in [
            "mqtt://gateway:1883",
            "mqtts://[::1]:8883",
            "wss://[::1]:443/mqtt?a=b",
            "unix:/run/mqtt.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }
}
