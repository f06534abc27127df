//! The options that lead to a server, and staying connected to it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use clap::builder::PossibleValue;

use super::login::{Login, LoginArguments};
use super::{UsageError, tell};
use crate::client::{Address, Client, ClientError, Connected, Disconnection, Options, Target};
use crate::mqtt::{
    ClientId, ProtocolVersion, PublishProperties, QoS, ReasonCode, TopicFilter, TopicName, Utf8String, Will,
    WillProperties,
};
use crate::net::tls::{ClientSettings, Roots};

/// The options of every command that connects.
#[derive(Debug, Args)]
pub(super) struct ServerArguments {
    /// Where the server is, instead of --host, --port and --tls: mqtt[s]://[user@]host[:port], ws[s]://…, unix:/path
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "port", "tls", "unix"], help_heading = "Server")]
    url: Option<String>,
    /// Unix socket of a server on this machine, instead of --host and --port
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port", "tls"], help_heading = "Server")]
    unix: Option<PathBuf>,
    /// Name or address of the server
    #[arg(short = 'h', long, default_value = "localhost", help_heading = "Server")]
    host: String,
    /// TCP port; 1883, or 8883 over TLS, where not given
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Server")]
    port: Option<u16>,
    /// Protocol version
    #[arg(short = 'V', long, default_value = "5", value_enum, help_heading = "Server")]
    protocol_version: Version,
    /// Seconds until a connection attempt is given up
    #[arg(
        long,
        default_value = "10",
        value_name = "SECS",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Server"
    )]
    connect_timeout: u16,
    /// Seconds of silence after which client and server ask whether the other lives; 0 never
    #[arg(
        short,
        long = "keepalive",
        default_value = "60",
        value_name = "SECS",
        help_heading = "Server"
    )]
    keep_alive: u16,

    /// Client identifier; the server chooses one where not given
    #[arg(short, long, value_name = "ID", value_parser = client_id, help_heading = "Client")]
    id: Option<ClientId>,
    #[command(flatten)]
    login: LoginArguments,
    /// Take up the session of an earlier run, and leave this one behind for the next
    #[arg(
        short = 'c',
        long,
        alias = "disable-clean-session",
        requires = "id",
        help_heading = "Client"
    )]
    resume: bool,
    /// Seconds the server keeps the session after the connection; 5.0 only
    #[arg(short = 'x', long, value_name = "SECS", help_heading = "Client")]
    session_expiry: Option<u32>,

    /// Encrypt; any of the options below says so too
    #[arg(long, help_heading = "TLS")]
    tls: bool,
    /// PEM file of the authorities to trust; those of the operating system where not given
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cafile: Option<PathBuf>,
    /// PEM file of the client's own certificate
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "TLS")]
    cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    key: Option<PathBuf>,
    /// The name the server's certificate must carry, where it is not the host's
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    server_name: Option<String>,
    /// Accept any certificate: anybody on the way can then read and change everything
    #[arg(long, help_heading = "TLS")]
    insecure: bool,

    /// Topic of the message the server publishes when the connection breaks
    #[arg(long, value_name = "TOPIC", value_parser = topic_name, help_heading = "Will")]
    will_topic: Option<TopicName>,
    /// Its payload
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "will_topic",
        help_heading = "Will"
    )]
    will_payload: String,
    /// Its quality of service
    #[arg(
        long,
        value_name = "QOS",
        default_value = "0",
        value_parser = qos,
        requires = "will_topic",
        help_heading = "Will"
    )]
    will_qos: QoS,
    /// Make it the topic's retained message
    #[arg(long, requires = "will_topic", help_heading = "Will")]
    will_retain: bool,
    /// Seconds the server waits with it; 5.0 only
    #[arg(long, value_name = "SECS", requires = "will_topic", help_heading = "Will")]
    will_delay: Option<u32>,
}

/// The protocol versions under the names people know them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(ProtocolVersion);

impl ServerArguments {
    /// The server to dial and what to say to it; asks for a password where there is somebody to ask.
    ///
    /// # Errors
    /// Where a file cannot be used, or options contradict each other.
    pub(super) fn prepare(&self, stdin_is_free: bool) -> anyhow::Result<(Target, Options)> {
        self.login.check()?;
        let address = self.address()?;
        let user_of_url = address.user.as_deref().map(Utf8String::try_from).transpose();
        let user_of_url =
            user_of_url.map_err(|error| UsageError::new(format_args!("user name of --url: {error}")))?;
        let Login { user_name, password } = self.login.find(user_of_url, stdin_is_free)?;
        let version = self.protocol_version.0;
        let session_expiry_secs = match self.session_expiry {
            Some(seconds) => seconds,
            // As long as the server keeps it: before 5.0 that is what resuming means.
            None if self.resume => u32::MAX,
            None => 0,
        };
        let timeout = Duration::from_secs(u64::from(self.connect_timeout));
        let options = Options {
            version,
            // 3.1 does not let the server choose.
            client_id: self.id.clone().or_else(|| {
                (version == ProtocolVersion::V31)
                    .then(process_client_id)
                    .flatten()
            }),
            clean_start: !self.resume,
            session_expiry_secs,
            keep_alive_secs: self.keep_alive,
            user_name,
            password,
            will: self.will(),
            answer_timeout: timeout,
            // The person at the shell asked for it, whatever its size.
            packet_bytes_max: PACKET_BYTES_MAX,
            ..Options::default()
        };
        options.check().map_err(UsageError::new)?;
        let settings = ClientSettings {
            roots: self.cafile.clone().map_or(Roots::System, Roots::File),
            certificate: self.cert.clone().zip(self.key.clone()),
            server_name: self.server_name.clone(),
            insecure: self.insecure,
        };
        if self.tls_options() && !address.tls {
            return Err(UsageError::new(format_args!(
                "--cafile, --cert, --key, --server-name and --insecure are of no use to {address}, expected \
                 mqtts:// or wss://"
            )));
        }
        Ok((Target::new(address, &settings, timeout)?, options))
    }

    /// Read here rather than by clap, which would repeat a password that stands in it.
    fn address(&self) -> anyhow::Result<Address> {
        match (&self.url, &self.unix) {
            (Some(url), _) => url
                .parse()
                .map_err(|error| UsageError::new(format_args!("--url: {error}"))),
            (None, Some(path)) => Ok(Address::unix(path)),
            (None, None) => Ok(Address::new(
                &self.host,
                self.port,
                self.tls || self.tls_options(),
            )),
        }
    }

    fn tls_options(&self) -> bool {
        self.cafile.is_some() || self.cert.is_some() || self.server_name.is_some() || self.insecure
    }

    fn will(&self) -> Option<Will> {
        let topic = self.will_topic.clone()?;
        Some(Will {
            topic,
            payload: Bytes::from(self.will_payload.clone()),
            qos: self.will_qos,
            retain: self.will_retain,
            properties: WillProperties {
                delay_secs: self.will_delay,
                publish: PublishProperties::default(),
            },
        })
    }
}

/// What the wire can say at most (section 2.1.4), with the fixed header.
pub(super) const PACKET_BYTES_MAX: u32 = 268_435_455 + 5;

/// Stays with a server: connects again, with pauses that grow while connections do not last.
#[derive(Debug)]
pub(super) struct Persistence {
    pause: Duration,
    connected: Instant,
}

impl Persistence {
    /// To be made when the first connection stands.
    pub(super) fn new() -> Self {
        Self {
            pause: Duration::ZERO,
            connected: Instant::now(),
        }
    }

    /// Connects again after a connection that ended because of `why`.
    ///
    /// # Errors
    /// [`ClientError`] where trying again would meet the same answer.
    pub(super) async fn reconnect(
        &mut self,
        client: &mut Client,
        target: &Target,
        why: Disconnection,
    ) -> Result<Connected, ClientError> {
        if let Disconnection::Ended(reason, _) = &why
            && is_final(*reason)
        {
            return Err(ClientError::Disconnected(why));
        }
        tell(format_args!("{why}; connecting again"));
        if self.connected.elapsed() > PAUSE_MAX {
            self.pause = Duration::ZERO;
        }
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            match client.reconnect(target).await {
                Ok(connected) => {
                    self.connected = Instant::now();
                    tell(format_args!("connected to {} again", target.address()));
                    return Ok(connected);
                }
                Err(ClientError::Disconnected(Disconnection::Refused(reason, text))) if is_final(reason) => {
                    return Err(ClientError::Disconnected(Disconnection::Refused(reason, text)));
                }
                Err(ClientError::Dial(_) | ClientError::Disconnected(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The pauses between attempts: short enough that a restarted server is met at once, and no burden to one that is away
/// for hours.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Whether the same CONNECT would meet the same answer.
fn is_final(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::NotAuthorized
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::Banned
            | ReasonCode::ClientIdentifierNotValid
            | ReasonCode::UnsupportedProtocolVersion
            | ReasonCode::BadAuthenticationMethod
            | ReasonCode::SessionTakenOver
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved
            | ReasonCode::PacketTooLarge
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
    )
}

/// Ready when the person at the terminal, or the service manager, wants us to end.
pub(super) async fn asked_to_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("cannot listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Runs one command's work on this thread.
///
/// # Errors
/// Where the runtime cannot be set up, and the work's own.
pub(super) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::LocalRuntime::new().context("cannot set up the event loop")?;
    let result = runtime.block_on(work);
    // A look-up of a name may still be under way on its own thread; nobody waits for it any more.
    runtime.shutdown_background();
    result
}

/// A value parser for quality of service.
pub(super) fn qos(given: &str) -> Result<QoS, String> {
    match given {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("expected 0, 1 or 2".to_owned()),
    }
}

/// A value parser for the topic of a message.
pub(super) fn topic_name(given: &str) -> Result<TopicName, String> {
    TopicName::try_from(given).map_err(|error| error.to_string())
}

/// A value parser for what to subscribe to.
pub(super) fn topic_filter(given: &str) -> Result<TopicFilter, String> {
    TopicFilter::try_from(given).map_err(|error| error.to_string())
}

/// A value parser for everything else that goes over the wire as text.
pub(super) fn text(given: &str) -> Result<Utf8String, String> {
    Utf8String::try_from(given).map_err(|error| error.to_string())
}

fn client_id(given: &str) -> Result<ClientId, String> {
    ClientId::new(text(given)?).ok_or_else(|| "expected at least one character".to_owned())
}

/// 18 bytes at most, within the 23 that 3.1 allows.
fn process_client_id() -> Option<ClientId> {
    ClientId::new(Utf8String::try_from(format!("tidegate{}", std::process::id()).as_str()).ok()?)
}

impl Version {
    /// The version meant.
    pub(super) fn protocol(self) -> ProtocolVersion {
        self.0
    }
}

impl clap::ValueEnum for Version {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(ProtocolVersion::V5),
            Self(ProtocolVersion::V311),
            Self(ProtocolVersion::V31),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self.0 {
            ProtocolVersion::V5 => PossibleValue::new("5").aliases(["5.0", "mqttv5"]),
            ProtocolVersion::V311 => PossibleValue::new("3.1.1").aliases(["311", "4", "mqttv311"]),
            ProtocolVersion::V31 => PossibleValue::new("3.1").aliases(["31", "3", "mqttv31"]),
        })
    }
}
