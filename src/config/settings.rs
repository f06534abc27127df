//! What the program runs on: complete, typed, each part the settings of the module it belongs to.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;

use super::admin::usual_doors;
use super::effective::Written;
use crate::admin;
use crate::auth::access::Rights;
use crate::auth::guessing::GuessingLimits;
use crate::auth::passwords::Users;
use crate::auth::tokens::Tokens;
use crate::board::Board;
use crate::broker::{self, Limits, ListenerPolicy};
use crate::callback;
use crate::document::Mistake;
use crate::hooks::Interests;
use crate::hooks::rewrite::Rule;
use crate::mqtt::TopicName;
use crate::net::endpoint::Endpoint;
use crate::net::listener::ListenerSettings;
use crate::serial::PortSettings;
use crate::storage;

/// Everything the gateway runs on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first level or levels of every topic the gateway itself publishes on.
    pub name: TopicName,
    /// The least urgent message that is logged.
    pub log: Level,
    /// Where state is kept; `None` keeps everything in memory.
    pub storage: Option<storage::Settings>,
    /// The board this is taken for.
    pub board: Board,
    /// What peers may grow: the board's limits with what the configuration says instead.
    pub limits: Limits,
    /// What MQTT leaves to the server.
    pub choices: broker::Settings,
    /// The doors, at least one.
    pub listeners: Vec<Listener>,
    /// Who may come in by password; `None` where there is no password file.
    pub users: Option<Arc<Users>>,
    /// Who may do what.
    pub rights: Rights,
    /// What is asked before the gateway acts.
    pub hooks: Hooks,
    /// Who may come in by a token; `None` where there are no keys for any.
    pub tokens: Option<Arc<Tokens>>,
    /// How those are answered who fail to log in again and again.
    pub guessing: GuessingLimits,
    /// What the audit log tells.
    pub audit: AuditSettings,
    /// How often statistics are published, while somebody reads them; `None`: never.
    pub statistics_interval: Option<Duration>,
    /// The serial ports.
    pub serial: Vec<PortSettings>,
    /// The operator's doors.
    pub admin: admin::settings::Settings,
    /// The file all of it was read from; `None` without one.
    pub written: Option<Arc<Written>>,
    /// What is unwise in the configuration and stops nothing.
    pub warnings: Vec<Mistake>,
}

/// What the audit log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditSettings {
    /// Nothing.
    Off,
    /// Who was refused what, and who was sent away.
    #[default]
    Refusals,
    /// The same, and who came in, gave way to another, or may come back.
    All,
}

/// The hooks that come with the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// How long an answer may take; `None`: the gateway's own limit.
    pub timeout: Option<Duration>,
    /// Topics that are renamed.
    pub rewrite: Vec<Rule>,
    /// The HTTP server that is asked.
    pub http: Option<callback::Settings>,
}

impl Hooks {
    /// Whether one of them says who comes in.
    pub(super) fn ask_users(&self) -> bool {
        let http = self.http.as_ref();
        http.is_some_and(|http| http.events.hold(Interests::AUTHENTICATE))
    }
}

/// A door and what it grants. A listener with several addresses becomes several doors of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What it listens on.
    pub net: ListenerSettings,
    /// What it grants to those who come through.
    pub policy: ListenerPolicy,
    /// Whether the gateway starts without it when its address does not exist: the `[::1]` nobody asked for on a
    /// machine without IPv6.
    pub may_be_absent: bool,
}

/// An address off loopback was asked for without the configuration that would make it safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffLoopback(pub SocketAddr);

/// What mosquitto's `sys_interval` is where nothing is said; dashboards are drawn for it.
pub const STATISTICS_INTERVAL: Duration = Duration::from_secs(10);

/// The port of MQTT without TLS, assigned by IANA.
pub const PLAIN_PORT: u16 = 1883;

/// The path of a WebSocket listener, where nothing else is said: what clients of MQTT ask for by themselves.
pub const WEBSOCKET_PATH: &str = "/mqtt";

/// The name of a gateway that was given none.
pub const NAME: &str = "tidegate";

impl Settings {
    /// What runs without a configuration file: anonymous, in memory, on `listen`, or where that is empty on port
    /// 1883 of the loopback addresses.
    ///
    /// # Errors
    /// [`OffLoopback`] for the first address that others than this machine's programs could reach.
    pub fn local(listen: &[SocketAddr], board: Board) -> Result<Self, OffLoopback> {
        if let Some(address) = listen.iter().find(|address| !Endpoint::Tcp(**address).is_local()) {
            return Err(OffLoopback(*address));
        }
        let limits = board.limits.clone();
        let listeners = local_listeners(listen, true, &limits);
        Ok(Self {
            name: default_name(),
            log: Level::INFO,
            storage: None,
            board,
            limits,
            choices: broker::Settings::default(),
            listeners,
            users: None,
            rights: Rights::default(),
            hooks: Hooks::default(),
            tokens: None,
            guessing: GuessingLimits::default(),
            audit: AuditSettings::default(),
            statistics_interval: Some(STATISTICS_INTERVAL),
            serial: Vec::new(),
            admin: usual_doors(None),
            written: None,
            warnings: Vec::new(),
        })
    }
}

/// The doors of a gateway whose configuration names none.
pub(super) fn local_listeners(listen: &[SocketAddr], anonymous: bool, limits: &Limits) -> Vec<Listener> {
    let usual = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, PLAIN_PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PLAIN_PORT)),
    ];
    let addresses = if listen.is_empty() { &usual[..] } else { listen };
    addresses
        .iter()
        .map(|address| Listener {
            net: ListenerSettings::new("local", *address, limits.connections_max),
            policy: ListenerPolicy::new("local", anonymous),
            may_be_absent: listen.is_empty() && address.is_ipv6(),
        })
        .collect()
}

pub(super) fn default_name() -> TopicName {
    TopicName::try_from(NAME).expect("the default name is a topic name, held to it by a test")
}

impl fmt::Display for OffLoopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is off loopback, and without a configuration anybody who reaches it could read and publish \
             everything; expected a loopback address such as 127.0.0.1:{PLAIN_PORT}, or --config FILE with a \
             [listener.NAME] (see deploy/tidegate.example.toml)",
            self.0
        )
    }
}

impl std::error::Error for OffLoopback {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Boards;

    fn local(listen: &[&str]) -> Result<Settings, OffLoopback> {
        let listen: Vec<SocketAddr> = listen
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect();
        Settings::local(&listen, Boards::compiled_in().base().clone())
    }

    #[test]
    fn without_configuration_only_this_machine_is_served() {
        let settings = local(&[]).expect("loopback");
        let addresses: Vec<String> = settings
            .listeners
            .iter()
            .map(|listener| listener.net.endpoint.to_string())
            .collect();
        assert_eq!(addresses, ["127.0.0.1:1883", "[::1]:1883"]);
        assert!(
            settings
                .listeners
                .iter()
                .all(|listener| listener.policy.anonymous)
        );
        assert!(settings.storage.is_none() && settings.users.is_none());
    }

    #[test]
    fn only_the_ipv6_address_nobody_asked_for_may_be_absent() {
        let absent = |settings: Settings| -> Vec<bool> {
            settings
                .listeners
                .iter()
                .map(|listener| listener.may_be_absent)
                .collect()
        };
        assert_eq!(absent(local(&[]).expect("loopback")), [false, true]);
        assert_eq!(absent(local(&["[::1]:1"]).expect("loopback")), [false]);
    }

    #[test]
    fn an_address_off_loopback_needs_a_configuration() {
        for address in ["0.0.0.0:1883", "[::]:1883", "192.168.1.2:1883", "[fe80::1]:1883"] {
            assert_eq!(
                local(&["127.0.0.1:1", address]).err(),
                address.parse().ok().map(OffLoopback)
            );
        }
        assert!(local(&["127.3.2.1:1", "[::ffff:127.0.0.1]:1"]).is_ok());
    }
}
