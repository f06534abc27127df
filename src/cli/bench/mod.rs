//! `tidegate bench`: measures a broker, or several against each other, from one thread.
//!
//! - `load`: publishers and subscribers.
//! - `ledger`: losses and duplicates. `histogram`: latencies.
//! - `process`: the broker's CPU time and memory, and starting it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::login::{Login, LoginArguments};
use super::publish::seconds;
use super::server::{self, Version};
use super::{UsageError, print, tell};
use crate::client::{Address, Target};
use crate::mqtt::{ProtocolVersion, QoS};
use crate::net::tls::{ClientSettings, Roots};
use load::{Extent, HEADER_BYTES, Outcome, Plan};
use process::{Broker, Observed, PORT};

mod histogram;
mod ledger;
mod load;
mod process;

/// Measure a broker, or several against each other
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Who publishes to whom
    #[arg(long, default_value = "one-to-one", value_enum, help_heading = "Load")]
    scenario: Scenario,
    /// Publishers; the scenario's number where not given
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Load")]
    publishers: Option<usize>,
    /// Subscribers; the scenario's number where not given
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Load")]
    subscribers: Option<usize>,
    /// Payload in bytes, from 20
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = payload_bytes, help_heading = "Load")]
    size: usize,
    /// Quality of service, of publishers and subscribers
    #[arg(short, long, default_value = "0", value_parser = server::qos, help_heading = "Load")]
    qos: QoS,
    /// Unfinished messages of each publisher: those that have not reached every subscriber
    #[arg(
        long,
        default_value = "16",
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000),
        help_heading = "Load"
    )]
    window: u64,
    /// Messages a second of all publishers together; 0: as fast as the window lets
    #[arg(long, default_value = "0", value_name = "PER_SECOND", value_parser = rate, help_heading = "Load")]
    rate: f64,
    /// Seconds to measure, after one second of warm-up
    #[arg(long, default_value = "5", value_name = "SECS", value_parser = seconds, help_heading = "Load")]
    duration: Duration,
    /// Messages of each publisher, all measured, instead of --duration
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "duration",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Load"
    )]
    count: Option<u64>,
    /// Open as many connections instead, that say nothing, and tell what memory each takes
    #[arg(
        long,
        value_name = "N",
        value_parser = count,
        conflicts_with_all = ["scenario", "count", "rate"],
        help_heading = "Load"
    )]
    idle: Option<usize>,
    /// Protocol version
    #[arg(short = 'V', long, default_value = "3.1.1", value_enum, help_heading = "Load")]
    protocol_version: Version,

    /// A broker to start and measure; {port} stands for a free port of its choice. May be given more than once
    #[arg(long, value_name = "NAME=COMMAND", value_parser = broker, help_heading = "Brokers")]
    broker: Vec<(String, String)>,
    /// One broker to start and measure
    #[arg(
        long,
        value_name = "COMMAND",
        conflicts_with = "broker",
        help_heading = "Brokers"
    )]
    spawn: Option<String>,
    /// Another to measure --spawn or --pid against
    #[arg(
        long,
        value_name = "COMMAND",
        conflicts_with = "broker",
        help_heading = "Brokers"
    )]
    against: Option<String>,
    /// Host of a broker that runs already
    #[arg(short = 'h', long, default_value = "127.0.0.1", help_heading = "Brokers")]
    host: String,
    /// Its port
    #[arg(
        short,
        long,
        value_parser = clap::value_parser!(u16).range(1..),
        conflicts_with_all = ["spawn", "broker"],
        help_heading = "Brokers"
    )]
    port: Option<u16>,
    /// Its Unix socket, instead of --host and --port
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with_all = ["host", "port", "tls", "spawn", "broker"],
        help_heading = "Brokers"
    )]
    unix: Option<PathBuf>,
    /// Its process, for CPU time and memory
    #[arg(long, conflicts_with_all = ["spawn", "broker"], help_heading = "Brokers")]
    pid: Option<u32>,
    /// How often each broker is measured, in turn with the others; medians are told [default: 3, or 1 for one broker]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Brokers")]
    rounds: Option<u16>,
    /// Started brokers run on this core, the generator on the other one
    #[arg(long, value_name = "CORE,CORE", value_parser = cores, help_heading = "Brokers")]
    pin: Option<(usize, usize)>,

    #[command(flatten)]
    login: LoginArguments,

    /// Over TLS
    #[arg(long, help_heading = "TLS")]
    tls: bool,
    /// PEM file of the authorities to trust
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "TLS")]
    cafile: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, requires = "tls", help_heading = "TLS")]
    insecure: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// 1 publisher, 1 subscriber
    OneToOne,
    /// 1 publisher, 20 subscribers that all receive all
    FanOut,
    /// 20 publishers, 1 subscriber that receives all
    FanIn,
    /// 20 publishers, each with a subscriber of its own
    Pairs,
}

const EXAMPLES: &str = "Examples:
  tidegate bench -p 1883 --pid $(pidof mosquitto)
  tidegate bench --scenario fan-out --spawn 'tidegate run --listen 127.0.0.1:{port}'
  tidegate bench --scenario fan-in -q 1 --window 1 --rounds 5 --pin 0,1 \\
      --broker 'tidegate=tidegate run --listen 127.0.0.1:{port}' \\
      --broker 'mosquitto=mosquitto -p {port}'
  tidegate bench --unix /run/tidegate/mqtt.sock -u bench --password-file secret
  tidegate bench --idle 5000 --spawn 'tidegate run --listen 127.0.0.1:{port}'

Latencies are from end to end; at full load they tell of the window rather than of the broker.
The CPU time of a broker is user and system time of all its threads; the system counts it in
hundredths of a second, so measure for seconds.

Exit codes:
  0   measured    1   not measured    2   wrong command line";

/// Before a timed measurement begins, in seconds: buffers have grown and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// One broker of the comparison.
enum Candidate {
    Started { name: String, command: String },
    Running { port: u16, observed: Option<Observed> },
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let candidates = arguments.candidates()?;
    let login = arguments.login.find(None, true)?;
    let plan = arguments.plan(login)?;
    raise_open_files();
    match arguments.idle {
        Some(count) => arguments.measure_idle(&candidates, count, &plan.login),
        None => arguments.compare(&candidates, &plan),
    }
}

impl Arguments {
    fn candidates(&self) -> anyhow::Result<Vec<Candidate>> {
        let started = |name: &str, command: &str| {
            if !command.contains(PORT) {
                return Err(UsageError::new(format_args!(
                    "the command {command:?} does not say where the port belongs, expected {PORT} in it"
                )));
            }
            Ok(Candidate::Started {
                name: name.to_owned(),
                command: command.to_owned(),
            })
        };
        let mut candidates = Vec::new();
        for (name, command) in &self.broker {
            candidates.push(started(name, command)?);
        }
        match &self.spawn {
            Some(command) => candidates.push(started("broker", command)?),
            None if self.broker.is_empty() => candidates.push(Candidate::Running {
                port: Address::new(&self.host, self.port, self.tls).port,
                observed: self.pid.map(Observed::new).transpose()?,
            }),
            None => {}
        }
        if let Some(command) = &self.against {
            candidates.push(started("against", command)?);
        }
        Ok(candidates)
    }

    fn plan(&self, login: Login) -> anyhow::Result<Plan> {
        let (publishers, subscribers) = match self.scenario {
            Scenario::OneToOne => (1, 1),
            Scenario::FanOut => (1, 20),
            Scenario::FanIn => (20, 1),
            Scenario::Pairs => (20, 20),
        };
        let paired = self.scenario == Scenario::Pairs;
        let (mut publishers, mut subscribers) = (
            self.publishers.unwrap_or(publishers),
            self.subscribers.unwrap_or(subscribers),
        );
        if paired {
            // One number is enough to say how many pairs.
            publishers = self.publishers.or(self.subscribers).unwrap_or(publishers);
            subscribers = self.subscribers.or(self.publishers).unwrap_or(subscribers);
            if publishers != subscribers {
                return Err(UsageError::new(format_args!(
                    "found {publishers} publishers and {subscribers} subscribers, expected as many of each in pairs"
                )));
            }
        }
        Ok(Plan {
            publishers,
            subscribers,
            paired,
            payload_bytes: self.size,
            qos: self.qos,
            window: self.window,
            rate: self.rate,
            extent: match self.count {
                Some(each) => Extent::Messages { each },
                None => Extent::Lasting {
                    warm_up: WARM_UP,
                    measured: self.duration,
                },
            },
            version: self.version(),
            login,
        })
    }

    fn version(&self) -> ProtocolVersion {
        self.protocol_version.protocol()
    }

    /// Measures each candidate once a round, in turn, so that what else the machine does meets all alike.
    fn compare(&self, candidates: &[Candidate], plan: &Plan) -> anyhow::Result<ExitCode> {
        let rounds = self.rounds.unwrap_or(if candidates.len() == 1 { 1 } else { 3 });
        let mut results: Vec<Vec<Outcome>> = candidates.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for (candidate, outcomes) in candidates.iter().zip(&mut results) {
                if rounds > 1 || candidates.len() > 1 {
                    tell(format_args!("round {round} of {rounds}: {}", candidate.name()));
                }
                let outcome = self.with(candidate, async |target, observed| {
                    load::run(target, plan, observed).await
                });
                outcomes.push(outcome.with_context(|| format!("cannot measure {}", candidate.name()))?);
            }
        }
        let mut table = Table::new(&self.title(plan, rounds));
        for (candidate, outcomes) in candidates.iter().zip(&results) {
            table.add(candidate.name(), outcomes);
        }
        let text = table.finish();
        print(|out| out.write_all(text.as_bytes()))
    }

    fn title(&self, plan: &Plan, rounds: u16) -> String {
        let scenario = self
            .scenario
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default();
        let pace = match plan.rate {
            rate if rate > 0.0 => format!("{rate} messages/s"),
            _ => format!("window {}", plan.window),
        };
        let extent = match plan.extent {
            Extent::Lasting { measured, .. } => format!("{} s", measured.as_secs_f64()),
            Extent::Messages { each } => format!("{each} messages each"),
        };
        let tls = if self.tls { ", TLS" } else { "" };
        let medians = if rounds > 1 {
            format!(", medians of {rounds} rounds")
        } else {
            String::new()
        };
        format!(
            "{scenario}: {} to {}, {} bytes, QoS {}, {pace}, {extent}{tls}, MQTT {}{medians}",
            plan.publishers, plan.subscribers, plan.payload_bytes, plan.qos, plan.version
        )
    }

    fn measure_idle(
        &self,
        candidates: &[Candidate],
        count: usize,
        login: &Login,
    ) -> anyhow::Result<ExitCode> {
        let mut text = format!(
            "{count} idle connections{}\n",
            if self.tls { ", TLS" } else { "" }
        );
        let _ = writeln!(
            text,
            "{:<16}{:>14}{:>14}{:>20}",
            "", "at start", "with them", "bytes each"
        );
        for candidate in candidates {
            let (before, after) = self
                .with(candidate, async |target, observed| {
                    let observed = observed.context("the broker's process is not known, expected --pid")?;
                    // One first: what a broker sets up for its first client belongs to none in particular.
                    let _first = load::open_idle(target, 1, self.version(), login).await?;
                    let before = observed.resident_bytes()?;
                    let links = load::open_idle(target, count, self.version(), login).await?;
                    tokio::time::sleep(WARM_UP).await;
                    let after = observed.resident_bytes()?;
                    drop(links);
                    Ok((before, after))
                })
                .with_context(|| format!("cannot measure {}", candidate.name()))?;
            let each = after.saturating_sub(before) as f64 / count as f64;
            let kib = |bytes: u64| format!("{} KiB", bytes / 1024);
            let _ = writeln!(
                text,
                "{:<16}{:>14}{:>14}{each:>20.0}",
                candidate.name(),
                kib(before),
                kib(after)
            );
        }
        print(|out| out.write_all(text.as_bytes()))
    }

    /// Runs `work` against a candidate, started for it where need be.
    fn with<T>(
        &self,
        candidate: &Candidate,
        work: impl AsyncFnOnce(&Rc<Target>, Option<Observed>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let started = match candidate {
            Candidate::Started { command, .. } => {
                let before = sched_getaffinity(None).context("cannot find out the cores allowed")?;
                // A started process inherits the cores of its parent.
                self.pin_to(|(broker, _)| broker)?;
                let broker = Broker::start(command);
                sched_setaffinity(None, &before).context("cannot return to the cores allowed")?;
                Some(broker?)
            }
            Candidate::Running { .. } => None,
        };
        self.pin_to(|(_, generator)| generator)?;
        let (port, observed) = match (&started, candidate) {
            (Some(broker), _) => (broker.port, Some(broker.observed())),
            (None, Candidate::Running { port, observed }) => (*port, *observed),
            (None, Candidate::Started { .. }) => bail!("the broker was not started"),
        };
        let host = if started.is_some() {
            "127.0.0.1"
        } else {
            &self.host
        };
        let settings = ClientSettings {
            roots: self.cafile.clone().map_or(Roots::System, Roots::File),
            insecure: self.insecure,
            ..ClientSettings::default()
        };
        let address = match &self.unix {
            Some(path) => Address::unix(path),
            None => Address::new(host, Some(port), self.tls),
        };
        let target = Rc::new(Target::new(address, &settings, Duration::from_secs(30))?);
        server::run(async {
            tokio::select! {
                result = work(&target, observed) => result,
                ended = server::asked_to_end() => {
                    ended?;
                    bail!("interrupted")
                }
            }
        })
    }

    fn pin_to(&self, which: impl Fn((usize, usize)) -> usize) -> anyhow::Result<()> {
        let Some(cores) = self.pin else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(which(cores));
        sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {}", which(cores)))
    }
}

impl Candidate {
    fn name(&self) -> &str {
        match self {
            Self::Started { name, .. } => name,
            Self::Running { .. } => "broker",
        }
    }
}

/// The figures of several brokers below each other, and those of the later ones divided by the first one's.
struct Table {
    text: String,
    first: Option<Row>,
    ratios: String,
}

/// Medians over the rounds; losses and duplicates are summed, for one is one too many.
#[derive(Clone, Copy)]
struct Row {
    deliveries_per_second: f64,
    cpu_per_million: Option<f64>,
    /// p50, p99 and p99.9, in microseconds.
    latencies: [f64; 3],
    lost: u64,
    duplicates: u64,
    late: u64,
}

impl Table {
    fn new(title: &str) -> Self {
        let heads = format!(
            "{:<16}{:>14}{:>16}{:>12}{:>12}{:>12}{:>10}{:>12}{:>8}",
            "", "deliveries/s", "CPU s/million", "p50 µs", "p99 µs", "p99.9 µs", "lost", "duplicates", "late"
        );
        Self {
            text: format!("{title}\n{heads}\n"),
            first: None,
            ratios: String::new(),
        }
    }

    fn add(&mut self, name: &str, outcomes: &[Outcome]) {
        let row = Row::new(outcomes);
        let cpu = row
            .cpu_per_million
            .map_or_else(|| "unknown".to_owned(), |cpu| format!("{cpu:.3}"));
        let [p50, p99, p999] = row.latencies;
        let _ = writeln!(
            self.text,
            "{name:<16}{:>14.0}{cpu:>16}{p50:>12.0}{p99:>12.0}{p999:>12.0}{:>10}{:>12}{:>8}",
            row.deliveries_per_second, row.lost, row.duplicates, row.late
        );
        let Some(first) = self.first else {
            self.first = Some(row);
            return;
        };
        let ratio = |mine: f64, other: f64| {
            if other > 0.0 {
                format!("{:.2}x", mine / other)
            } else {
                "-".to_owned()
            }
        };
        let cpu = match (row.cpu_per_million, first.cpu_per_million) {
            (Some(mine), Some(other)) => ratio(mine, other),
            _ => "-".to_owned(),
        };
        let latency = |index: usize| ratio(row.latencies[index], first.latencies[index]);
        let _ = writeln!(
            self.ratios,
            "{:<16}{:>14}{cpu:>16}{:>12}{:>12}{:>12}",
            format!("{name} / first"),
            ratio(row.deliveries_per_second, first.deliveries_per_second),
            latency(0),
            latency(1),
            latency(2),
        );
    }

    fn finish(self) -> String {
        self.text + &self.ratios
    }
}

impl Row {
    fn new(outcomes: &[Outcome]) -> Self {
        let quantile = |share: f64| {
            let micros = |outcome: &Outcome| outcome.latencies.quantile(share) as f64 / 1000.0;
            median(outcomes.iter().map(micros)).unwrap_or_default()
        };
        Self {
            deliveries_per_second: median(outcomes.iter().map(|outcome| outcome.deliveries_per_second))
                .unwrap_or_default(),
            cpu_per_million: median(outcomes.iter().filter_map(|outcome| outcome.cpu_per_million)),
            latencies: [quantile(0.5), quantile(0.99), quantile(0.999)],
            lost: outcomes.iter().map(|outcome| outcome.lost).sum(),
            duplicates: outcomes.iter().map(|outcome| outcome.duplicates).sum(),
            late: outcomes.iter().map(|outcome| outcome.late).sum(),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// Thousands of connections need as many open files; the hard limit is as far as we may go.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

fn count(given: &str) -> Result<usize, String> {
    match given.parse() {
        Ok(number) if (1..=60_000).contains(&number) => Ok(number),
        _ => Err("expected a number from 1 to 60000".to_owned()),
    }
}

fn payload_bytes(given: &str) -> Result<usize, String> {
    match given.parse() {
        Ok(bytes) if (HEADER_BYTES..=10_000_000).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "expected a number from {HEADER_BYTES} to 10000000, because each message carries its number and time"
        )),
    }
}

fn rate(given: &str) -> Result<f64, String> {
    match given.parse() {
        Ok(rate) if (0.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected messages a second, or 0 for as many as possible".to_owned()),
    }
}

fn broker(given: &str) -> Result<(String, String), String> {
    let (name, command) = given.split_once('=').ok_or("expected NAME=COMMAND")?;
    Ok((name.to_owned(), command.to_owned()))
}

fn cores(given: &str) -> Result<(usize, usize), String> {
    let mistake = || "expected two cores, as in 0,1".to_owned();
    let (broker, generator) = given.split_once(',').ok_or_else(mistake)?;
    let core = |text: &str| {
        text.parse()
            .ok()
            .filter(|core| *core < CpuSet::MAX_CPU)
            .ok_or_else(mistake)
    };
    Ok((core(broker)?, core(generator)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn what_cannot_be_measured_is_refused_in_words() {
        assert!(payload_bytes("19").is_err() && payload_bytes("20").is_ok());
        assert!(count("0").is_err() && count("60001").is_err() && count("60000").is_ok());
        assert!(rate("-1").is_err() && rate("NaN").is_err() && rate("0.5").is_ok());
        assert!(broker("mosquitto").is_err());
        assert!(cores("0").is_err() && cores("0,x").is_err() && cores("0,1") == Ok((0, 1)));
    }
}
