//! `tidegate demo`: the gateway's main job, with nothing installed and no hardware.

mod sensor;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use self::sensor::Sensor;
use super::run::stop_signal;
use super::{cert, logging};
use crate::client::{Address, Client, ClientError, Disconnection, Message, Options, Target};
use crate::config;
use crate::gateway::{self, Gateway};
use crate::mqtt::{QoS, TopicFilter};
use crate::net::tls::{ClientSettings, Roots};

/// How often the sensor speaks.
const SENSOR_INTERVAL: Duration = Duration::from_secs(1);

/// What the subscriber asks for: every reading and every status of the demonstration.
const FILTER: &str = "demo/#";

/// The arguments of `tidegate demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
The demonstration plays a field sensor on a pseudo-terminal, opens its other end as a serial port, serves the readings \
over TLS with certificates made for the occasion, subscribes to them, and prints what arrives. Ctrl-C ends it.

Examples:
  tidegate demo
  tidegate demo --readings 10")]
pub(super) struct Arguments {
    /// End after so many readings instead of running until Ctrl-C
    #[arg(long, value_name = "COUNT")]
    readings: Option<u64>,
    /// Log more: -v the turns off the usual path, -vv every packet
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs until Ctrl-C, SIGTERM, the end of the terminal or of whoever reads the output, or enough readings.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    logging::start(logging::level(LevelFilter::WARN, arguments.verbose));
    let folder = Folder::new()?;
    let played = gateway::runtime()
        .context("cannot start the event loop")?
        .block_on(play(arguments, &folder.path));
    match played {
        // Whoever stopped reading has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        played => played.map(|()| ExitCode::SUCCESS),
    }
}

async fn play(arguments: &Arguments, folder: &Path) -> anyhow::Result<()> {
    let sensor = Sensor::new().context("cannot make a pseudo-terminal for the sensor")?;
    let doors = Doors::choose()?;
    cert::write_files(folder, &["localhost".to_owned(), "127.0.0.1".to_owned()], false)?;
    let configuration = folder.join("tidegate.toml");
    fs::write(&configuration, configuration_text(sensor.port(), &doors))
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    let settings = config::load(&configuration, None).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(
            "the demonstration's own configuration is wrong:\n{}",
            lines.join("\n")
        )
    })?;

    let gateway = Gateway::bind(settings)?;
    introduce(folder, sensor.port(), &doors)?;
    let (stop_gateway, stopped) = tokio::sync::oneshot::channel::<()>();
    let gateway = tokio::task::spawn_local(gateway.run(async {
        // Whether it was told or everybody who could tell is gone comes to the same.
        let _ = stopped.await;
    }));
    let speaking = tokio::task::spawn_local(sensor.speak(SENSOR_INTERVAL));

    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let outcome = tokio::select! {
        outcome = listen(arguments, folder, &doors) => outcome,
        () = stop_signal()? => Ok(()),
        // The terminal is closed: the folder, keys and all, goes as with Ctrl-C.
        _ = hang_up.recv() => Ok(()),
    };
    speaking.abort();
    drop(stop_gateway);
    gateway.await.context("the gateway broke down")?;
    outcome?;
    say(format_args!("\nStopped; {} is removed.", folder.display()))
}

/// Subscribes over TLS and prints what arrives.
async fn listen(arguments: &Arguments, folder: &Path, doors: &Doors) -> anyhow::Result<()> {
    let trust = ClientSettings {
        roots: Roots::File(folder.join(cert::CA_FILE)),
        ..ClientSettings::default()
    };
    let address = Address::new("localhost", Some(doors.tls.port()), true);
    let target = Target::new(address, &trust, Duration::from_secs(5))?;
    let mut client = Client::connect(&target, Options::default()).await?;
    let filter = TopicFilter::try_from(FILTER).context("the demonstration's filter")?;
    client.subscribe_to(filter, QoS::AtLeastOnce).await?;
    let mut readings = 0;
    loop {
        let message = match client.next_message().await {
            Ok(message) => message,
            Err(Disconnection::Closed) => bail!("the gateway closed the connection"),
            Err(why) => return Err(ClientError::Disconnected(why).into()),
        };
        show(&message)?;
        readings += u64::from(is_reading(&message));
        if arguments.readings.is_some_and(|wanted| readings >= wanted) {
            return Ok(());
        }
    }
}

/// Where the demonstration listens: the usual ports, or free ones where those are taken.
struct Doors {
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Doors {
    fn choose() -> anyhow::Result<Self> {
        Ok(Self {
            plain: free(1883)?,
            tls: free(8883)?,
        })
    }
}

/// `port` on loopback, or one that is free where `port` is taken, said aloud.
fn free(port: u16) -> anyhow::Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(usual).is_ok() {
        return Ok(usual);
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let free = free.context("cannot find a free port on 127.0.0.1")?;
    say(format_args!(
        "Port {port} is taken, so port {} it is.",
        free.port()
    ))?;
    Ok(free)
}

/// A folder of the demonstration's own, removed at the end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, folder = %self.path.display(), "the demonstration's folder stays");
        }
    }
}

fn configuration_text(port: &Path, doors: &Doors) -> String {
    format!(
        r#"[gateway]
name = "demo"

[listener.local]
address = "{plain}"

[listener.tls]
address = "{tls}"
anonymous = true
tls = {{ certificate = "{certificate}", key = "{key}" }}

[serial.field]
path = "{port}"
line = "9600 8N1"

[serial.field.lines]
device = "greenhouse"
format = "key-value"
payload = "json"
topic = "{{gateway}}/{{device}}/{{point}}"

[[serial.field.lines.point]]
name = "temperature"
unit = "°C"
decimals = 1

[[serial.field.lines.point]]
name = "humidity"
unit = "%"
decimals = 0
"#,
        plain = doors.plain,
        tls = doors.tls,
        certificate = cert::SERVER_FILE,
        key = cert::SERVER_KEY_FILE,
        port = port.display(),
    )
}

/// Says what runs and how to join in.
fn introduce(folder: &Path, port: &Path, doors: &Doors) -> anyhow::Result<()> {
    let ca = folder.join(cert::CA_FILE);
    let ca = ca.display();
    say(format_args!(
        "A sensor speaks on {port}; its readings are served on
  {tls}  TLS 1.2 and 1.3, certificates made for the occasion
  {plain}  in the clear, this machine only
Configuration and certificates: {folder}

Join in from another terminal:
  mosquitto_sub -h localhost -p {tls_port} --cafile {ca} -t '{FILTER}' -v
  mosquitto_sub -h 127.0.0.1 -p {plain_port} -t 'demo/greenhouse/temperature'
  tidegate sub --url mqtts://localhost:{tls_port} --cafile {ca} -t '{FILTER}' -v

What a subscriber over TLS receives (Ctrl-C ends it):",
        port = port.display(),
        tls = doors.tls,
        plain = doors.plain,
        folder = folder.display(),
        tls_port = doors.tls.port(),
        plain_port = doors.plain.port(),
    ))
}

fn show(message: &Message) -> anyhow::Result<()> {
    say(format_args!(
        "  {:<30} {}",
        message.topic.as_str(),
        String::from_utf8_lossy(&message.payload)
    ))
}

/// Whether the message is a reading, not a status.
fn is_reading(message: &Message) -> bool {
    message.topic.as_str().starts_with("demo/greenhouse/")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints a line; a reader that went away ends the demonstration.
fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot write the output")
}
