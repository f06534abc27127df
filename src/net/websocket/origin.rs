//! The web pages whose scripts may connect.
//!
//! A browser lets every page open a WebSocket to any address its machine can reach, and only says by `Origin` which
//! page it was. So without a list of origins a door takes requests that carry no `Origin`, which no browser sends, and
//! those of pages of the very host they ask for. On a loopback address both must be this machine by name instead, for
//! any other name may have been made to lead here.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustix::system::uname;

/// The web pages whose scripts may connect; programs that are no browsers send no origin and are not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host they connect to, whatever their port.
    SameHost,
    /// These and no others.
    Listed(Vec<Origin>),
    /// Every page there is.
    Any,
}

/// Where a web page comes from: `https://dashboard.example`, with a port where it is not the scheme's own, or `null`
/// for a page that comes from nowhere, such as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// In lower case and without the scheme's own port.
    text: String,
}

/// Text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginError;

impl Origins {
    /// Whether a page of `origin` may connect to what it calls `host`, on one of this machine's own addresses where
    /// `peer_is_local`.
    pub(super) fn allow(&self, origin: &str, host: &str, peer_is_local: bool) -> bool {
        let origin = match self {
            Self::Any => return true,
            Self::Listed(_) | Self::SameHost => origin.parse::<Origin>(),
        };
        match (self, origin) {
            (_, Err(OriginError)) => false,
            (Self::Listed(listed), Ok(origin)) => listed.contains(&origin),
            (Self::Any | Self::SameHost, Ok(origin)) => origin.host().is_some_and(|page| {
                let host = without_port(host);
                match peer_is_local {
                    true => is_this_machine(page) && is_this_machine(host),
                    false => page.eq_ignore_ascii_case(host),
                }
            }),
        }
    }
}

impl Origin {
    /// The host, an IPv6 address in its brackets; `None` for the page from nowhere.
    fn host(&self) -> Option<&str> {
        let (_, place) = self.text.split_once("://")?;
        Some(without_port(place))
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self { text });
        }
        let (scheme, place) = text.split_once("://").ok_or(OriginError)?;
        let host = without_port(place);
        let port = place.get(host.len()..).unwrap_or_default();
        let is_scheme = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_host = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic())
            && !host.contains(['/', '?', '#', '@', '*', ',', '"']);
        let is_port = port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|port| port.parse::<u16>().is_ok());
        if !(is_scheme && is_host && is_port) {
            return Err(OriginError);
        }
        let is_usual = matches!((scheme, port), ("http", ":80") | ("https", ":443"));
        let text = format!("{scheme}://{host}{}", if is_usual { "" } else { port });
        Ok(Self { text })
    }
}

/// `place` without the port behind it.
fn without_port(place: &str) -> &str {
    match place.rfind(']') {
        Some(bracket) => place.get(..=bracket).unwrap_or(place),
        None => place.split_once(':').map_or(place, |(host, _port)| host),
    }
}

/// Whether `host` leads to this machine wherever it is looked up, or is its own name.
fn is_this_machine(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .to_ascii_lowercase();
    let is_own = || {
        uname()
            .nodename()
            .to_str()
            .is_ok_and(|own| own.eq_ignore_ascii_case(&bare))
    };
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || is_own()
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected an origin such as \"https://dashboard.example\" or \"http://10.0.0.5:8080\", without a path",
        )
    }
}

impl std::error::Error for OriginError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_list_a_page_may_connect_to_its_own_host_only() {
        for (origin, host, is_allowed) in [
            ("http://gateway.local", "gateway.local:9001", true),
            ("https://GATEWAY.local:8443", "gateway.local:9001", true),
            ("http://[fe80::1]:80", "[fe80::1]:9001", true),
            ("http://10.0.0.5", "10.0.0.5", true),
            ("http://evil.example", "gateway.local:9001", false),
            ("http://gateway.local.evil.example", "gateway.local:9001", false),
            ("http://evil.example:gateway.local", "gateway.local", false),
            ("http://[fe80::2]", "[fe80::1]:9001", false),
            ("null", "gateway.local", false),
            ("", "gateway.local", false),
            ("http://", "", false),
        ] {
            assert_eq!(
                Origins::SameHost.allow(origin, host, false),
                is_allowed,
                "{origin} to {host}"
            );
        }
    }

    #[test]
    fn on_this_machine_page_and_host_must_be_this_machine_by_name() {
        let system = uname();
        let own = system.nodename().to_str().unwrap();
        for (page, host, is_allowed) in [
            ("localhost", "localhost", true),
            ("localhost", "127.0.0.1", true),
            ("app.localhost", "[::1]", true),
            ("127.1.2.3", "LOCALHOST", true),
            ("[::1]", "[::1]", true),
            (own, own, true),
            ("rebound.example", "rebound.example", false),
            ("localhost", "rebound.example", false),
            ("evil.example", "localhost", false),
            ("localhost.example", "localhost.example", false),
            ("10.0.0.5", "10.0.0.5", false),
        ] {
            let origin = format!("http://{page}:8080");
            let found = Origins::SameHost.allow(&origin, &format!("{host}:9001"), true);
            assert_eq!(found, is_allowed, "{page} to {host}");
        }
    }

    #[test]
    fn a_list_of_origins_is_the_whole_truth() {
        let listed = ["https://Dashboard.example", "http://10.0.0.5:8080", "null"];
        let listed = Origins::Listed(listed.iter().map(|text| text.parse().unwrap()).collect());
        for (origin, is_allowed) in [
            ("https://dashboard.example", true),
            ("https://dashboard.example:443", true),
            ("http://10.0.0.5:8080", true),
            ("null", true),
            ("http://dashboard.example", false),
            ("https://dashboard.example:8443", false),
            ("http://10.0.0.5", false),
            ("http://localhost", false),
        ] {
            assert_eq!(listed.allow(origin, "localhost", true), is_allowed, "{origin}");
        }
        assert!(Origins::Any.allow("whatever it says", "localhost", true));
    }

    #[test]
    fn text_that_is_no_origin_is_told() {
        for text in [
            "",
            "*",
            "dashboard.example",
            "https://",
            "https://a/b",
            "https://a/",
            "https://a:x",
            "https://a:70000",
            "https://a b",
            "://a",
            "https://user@a",
            "https://*.example",
            "https://a,https://b",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text:?}");
        }
    }
}
