//! The real program as a process, and the witnesses: a publisher and a subscriber that talk on through whatever a
//! story does to the program, and must never notice it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses its own part of what stands here"
)]

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidegate::auth::passwords::{Cost, hash};
use tidegate::client::{Address, Target};
use tidegate::gateway;
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode};
use tidegate::net::link::{Link, Stream};
use tidegate::net::tls::{ClientSettings, Roots};
use tidegate::net::unix;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::running::{IN_VAIN, Papers, Peer, connect, narrow_stream_to, options, publish};

/// A door of the program, and how one comes through it. Every door there is stands here, and all of them are open in
/// every story; [`Program::link`] knows the ways.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What of its configuration is its own.
    configuration: &'static str,
    /// How one comes through it, as URLs say it.
    pub scheme: &'static str,
    /// What a balancer says before its client does; empty where none stands before it.
    pub header: &'static [u8],
}

/// Where a door is.
#[derive(Debug, Clone)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// See [`Door`].
pub const DOORS: [Door; 7] = [
    Door {
        name: "local",
        configuration: "address = '127.0.0.1:0'\n",
        scheme: "mqtt",
        header: b"",
    },
    Door {
        name: "tls",
        configuration: "address = '127.0.0.1:0'\n[listener.tls.tls]\ncertificate = 'SERVER'\nkey = 'KEY'\n",
        scheme: "mqtts",
        header: b"",
    },
    Door {
        name: "ws",
        configuration: "address = '127.0.0.1:0'\n[listener.ws.websocket]\n",
        scheme: "ws",
        header: b"",
    },
    Door {
        name: "wss",
        configuration: "address = '127.0.0.1:0'\n[listener.wss.tls]\ncertificate = 'SERVER'\nkey = 'KEY'\n\
                        [listener.wss.websocket]\n",
        scheme: "wss",
        header: b"",
    },
    Door {
        name: "socket",
        // All who come here are of one user, attackers and honest ones: it may have every place there is.
        configuration: "address = 'unix:FOLDER/mqtt.sock'\npending_per_address_max = 128\n",
        scheme: "unix",
        header: b"",
    },
    Door {
        name: "balanced",
        configuration: BEHIND_BALANCER,
        scheme: "mqtt",
        header: b"PROXY TCP4 127.0.0.9 127.0.0.1 40000 1883\r\n",
    },
    Door {
        name: "balanced2",
        configuration: BEHIND_BALANCER,
        scheme: "mqtt",
        header: b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x09\x7f\0\0\x01\x9c\x40\x07\x5b",
    },
];

const BEHIND_BALANCER: &str = "address = '127.0.0.1:0'\nproxy_protocol = true\nproxy_from = ['127.0.0.1']\n\
                               allow_anonymous_off_loopback = true\n";

/// The topic the witnesses talk on: numbers from 0, two hundred a second.
pub const WITNESSED: &str = "witness/seq";

/// How often the witness speaks.
const WITNESS_PAUSE: Duration = Duration::from_millis(5);

/// How often the system is asked what the program holds, where nothing tells.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// What the program may take beyond what it had before the story: several times what the default bounds let clients
/// make it hold in the stories told here, for an allocator gives back late.
const RESIDENT_KIB_MORE_MAX: u64 = 48 * 1024;

/// How the program is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The table `[limits]`, without its head.
    pub limits: &'static str,
    /// The limit on open descriptors, where it is to be low.
    pub descriptors_max: Option<u32>,
    /// What each password costs with Argon2id: KiB, and passes over them.
    pub password_cost: (u32, u32),
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: "",
            descriptors_max: None,
            password_cost: (Cost::MEMORY_KIB_MIN, 1),
        }
    }
}

/// Starts the program, tells it `story` while the witnesses talk, and asserts what must hold after each: they saw no
/// gap and no duplicate; descriptors, connections, sessions and tasks are as many as before; memory stayed within
/// bounds; and the program lives, and ends as it is told to.
pub fn watched(setup: Setup, story: impl AsyncFnOnce(&Program)) {
    let idle = Program::start(setup.clone());
    let runtime = gateway::runtime().expect("an event queue");
    let tasks = runtime.block_on(in_time(&idle, idle.stop())).tasks;
    let mut program = Program::start(setup);
    let ending = runtime.block_on(in_time(&program, async {
        let witness = Witness::new(&program).await;
        let before = program.footprint();
        let (over, is_over) = oneshot::channel::<()>();
        let told = async {
            story(&program).await;
            program.until_as_before(&before).await;
            drop(over);
        };
        let (witness, ()) = tokio::join!(witness.watch(is_over), told);
        let ending = program.stop().await;
        witness.hear_end().await;
        ending
    }));
    let log = program.log();
    assert_eq!(
        (ending.connections, ending.sessions, ending.tasks),
        (2, 2, tasks + 2),
        "expected the witnesses and nobody else in:\n{log}"
    );
    let code = program.child.wait().expect("a child of ours").code();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Runs `work`; tells the end of the log where it takes forever.
async fn in_time<T>(program: &Program, work: impl Future<Output = T>) -> T {
    match timeout(IN_VAIN, work).await {
        Ok(done) => done,
        Err(_) => panic!(
            "waited in vain; the program has {} descriptors, and its log ends:\n{}",
            program.descriptors(),
            program.log()
        ),
    }
}

/// The program as a process. Dropped, it is killed.
pub struct Program {
    child: Child,
    pid: Pid,
    folder: TempDir,
    papers: Papers,
    places: Vec<(String, Place)>,
    heard: watch::Receiver<Heard>,
}

/// What the program's log has said so far.
#[derive(Debug, Default)]
struct Heard {
    lines: Vec<String>,
    connected: usize,
    disconnected: usize,
    is_over: bool,
}

/// What the program holds, as the system sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    descriptors: usize,
    clients: usize,
    resident_kib: u64,
}

/// What the program held when it was told to end, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub connections: usize,
    pub sessions: usize,
    pub tasks: usize,
}

impl Program {
    /// The users `ann` and `bob` have the password `right`; whoever names nobody comes in as well.
    pub fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let papers = Papers::new();
        let (memory_kib, passes) = setup.password_cost;
        let cost = Cost::new(memory_kib, passes).expect("within bounds");
        let hash = hash(b"right", cost, &[1; 16]).expect("some megabytes");
        write(&folder.path().join("users"), &format!("ann:{hash}\nbob:{hash}\n"));
        let mut text = "[authentication]\npassword_file = 'users'\n".to_owned();
        for door in DOORS {
            let own = door
                .configuration
                .replace("SERVER", papers.server.certificate.to_str().expect("text"))
                .replace("KEY", papers.server.key.to_str().expect("text"));
            let own = own.replace("FOLDER", folder.path().to_str().expect("text"));
            write!(text, "[listener.{}]\nanonymous = true\n{own}", door.name).expect("room");
        }
        write!(text, "[limits]\n{}\n", setup.limits).expect("room");
        let file = folder.path().join("tidegate.toml");
        write(&file, &text);

        let mut command = match setup.descriptors_max {
            None => Command::new(env!("CARGO_BIN_EXE_tidegate")),
            Some(descriptors) => {
                let mut shell = Command::new("sh");
                let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
                shell.args(["-c", &limited, env!("CARGO_BIN_EXE_tidegate")]);
                shell
            }
        };
        command.arg("run").arg("--config").arg(&file);
        command.env_remove("JOURNAL_STREAM");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program is there");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let places = read_places(&mut log);
        let (telling, heard) = watch::channel(Heard::default());
        thread::spawn(move || listen(log, &telling));
        Self {
            child,
            pid: pid.expect("a process has a number"),
            folder,
            papers,
            places,
            heard,
        }
    }

    /// Its configuration, and what stands beside it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What its encrypted doors show.
    pub fn papers(&self) -> &Papers {
        &self.papers
    }

    /// Writes its configuration anew.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder().join("tidegate.toml");
        let text = fs::read_to_string(&file).expect("it was written before");
        write(&file, &change(text));
    }

    /// Asks it to read its configuration again.
    pub fn ask_to_reload(&self) {
        kill_process(self.pid, Signal::HUP).expect("the process lives");
    }

    /// The same, and waits until it has.
    pub async fn reload(&self) {
        let before = self.count_logged(&["configuration reloaded"]);
        self.ask_to_reload();
        self.until_logged(&["configuration reloaded"], before + 1).await;
    }

    /// The same for a configuration it cannot take.
    pub async fn reload_in_vain(&self) {
        let before = self.count_logged(&["was not reloaded"]);
        self.ask_to_reload();
        self.until_logged(&["was not reloaded"], before + 1).await;
    }

    /// The number of its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The address of a door that was opened by a reload.
    pub fn opened(&self, name: &str) -> SocketAddr {
        let heard = self.heard.borrow();
        let named = format!("listener=\"{name}\"");
        let line = heard
            .lines
            .iter()
            .rev()
            .find(|line| line.contains("listening") && line.contains(&named));
        let words = line.expect("it was opened").split_ascii_whitespace();
        let address = words.filter_map(|word| word.strip_prefix("address=")).next();
        address.expect("it says where").parse().expect("an address")
    }

    /// Where the door called `name` is.
    pub fn place(&self, name: &str) -> &Place {
        let door = self.places.iter().find(|(door, _)| door == name);
        &door.expect("there is such a door").1
    }

    /// The address of the door called `name`, which is one of TCP.
    pub fn address(&self, name: &str) -> SocketAddr {
        match self.place(name) {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("expected an address, found {}", path.display()),
        }
    }

    /// A byte stream to the door called `name`, with nothing said on it.
    pub async fn stream_to(&self, name: &str) -> Stream {
        self.place(name).connect().await.expect("the door is open")
    }

    /// A byte stream through the plain door.
    pub async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address("local"))
            .await
            .expect("the door is open")
    }

    /// The same, with so little room to receive that the program soon notices who does not read.
    pub async fn narrow_stream(&self) -> TcpStream {
        narrow_stream_to(self.address("local")).await
    }

    /// A client packet by packet, already let in through the plain door.
    pub async fn peer(&self, connect: Connect) -> Peer {
        Peer::new(self.stream().await, connect).await
    }

    /// Somebody who stands in a door, handshakes and all, and has said nothing of MQTT yet; `None` where the door was
    /// slammed.
    pub async fn stranger_at(&self, door: &Door, connect: &Connect) -> Option<Peer> {
        let place = self.place(door.name);
        if !door.header.is_empty() {
            let mut stream = place.connect().await.ok()?;
            stream.write_all(door.header).await.ok()?;
            return Some(Peer::on(Link::client(stream, connect.version, 1024 * 1024)));
        }
        let options = tidegate::client::Options {
            version: connect.version,
            packet_bytes_max: 1024 * 1024,
            ..options("stranger")
        };
        let settings = ClientSettings {
            roots: Roots::File(self.papers.ca.clone()),
            ..ClientSettings::default()
        };
        let url = match place {
            Place::Tcp(address) => format!("{}://{address}", door.scheme),
            Place::Unix(path) => format!("{}:{}", door.scheme, path.display()),
        };
        let address: Address = url.parse().expect("a URL");
        let target =
            Target::new(address, &settings, IN_VAIN).expect("the authority's certificate is in order");
        let link = target.dial(&options).await.ok()?;
        Some(Peer::on(link))
    }

    /// Bytes on their way to the client that speaks from `client` which the kernel holds: neither does the program
    /// any more, nor has the client read them.
    pub fn bytes_in_kernel(&self, client: SocketAddr) -> usize {
        let server = self.address("local");
        let table = fs::read_to_string("/proc/net/tcp").expect("the system tells");
        let mut held = 0;
        for line in table.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (Some(local), Some(remote), Some(queues)) = (fields.next(), fields.next(), fields.nth(1))
            else {
                panic!("a line of another form: {line}");
            };
            let port = |text: &str| u16::from_str_radix(&text[text.len() - 4..], 16).expect("a port");
            let (sending, receiving) = queues.split_once(':').expect("two queues");
            let bytes = |text| usize::from_str_radix(text, 16).expect("a number");
            match (port(local), port(remote)) {
                (from, to) if (from, to) == (server.port(), client.port()) => held += bytes(sending),
                (from, to) if (from, to) == (client.port(), server.port()) => held += bytes(receiving),
                _ => {}
            }
        }
        held
    }

    /// Runs `meanwhile` while the program stands still, so that all it is sent waits for it.
    pub async fn frozen<T>(&self, meanwhile: impl Future<Output = T>) -> T {
        kill_process(self.pid, Signal::STOP).expect("the process lives");
        let done = meanwhile.await;
        kill_process(self.pid, Signal::CONT).expect("the process lives");
        done
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid);
        fs::read_dir(folder).expect("the process lives").count()
    }

    /// Its resident memory at most, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let line = line.expect("the system tells").trim();
        line.trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// What it holds now.
    pub fn footprint(&self) -> Footprint {
        let heard = self.heard.borrow();
        Footprint {
            descriptors: self.descriptors(),
            clients: heard.connected - heard.disconnected,
            resident_kib: self.resident_kib(),
        }
    }

    /// Waits until it holds as many descriptors and clients as `before`; memory must be within bounds.
    pub async fn until_as_before(&self, before: &Footprint) {
        loop {
            let now = self.footprint();
            if (now.descriptors, now.clients) == (before.descriptors, before.clients) {
                let more_kib = now.resident_kib.saturating_sub(before.resident_kib);
                return assert!(
                    more_kib <= RESIDENT_KIB_MORE_MAX,
                    "the story took {more_kib} KiB more, expected at most {RESIDENT_KIB_MORE_MAX}"
                );
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// The lines of the log that hold all of `words`.
    pub fn count_logged(&self, words: &[&str]) -> usize {
        count(&self.heard.borrow(), words)
    }

    /// Waits until the log has `number` lines that hold all of `words`, or more.
    pub async fn until_logged(&self, words: &[&str], number: usize) {
        let mut heard = self.heard.clone();
        let found = heard.wait_for(|heard| heard.is_over || count(heard, words) >= number);
        let found = found.await.is_ok_and(|heard| count(&heard, words) >= number);
        assert!(
            found,
            "the program ended without {number} lines with {words:?}:\n{}",
            self.log()
        );
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let heard = self.heard.borrow();
        let skipped = heard.lines.len().saturating_sub(40);
        heard.lines[skipped..].concat()
    }

    /// Asks it to end.
    pub fn ask_to_stop(&self) {
        kill_process(self.pid, Signal::TERM).expect("the process lives");
    }

    /// Asks it to end, and hears what it held then.
    pub async fn stop(&self) -> Ending {
        self.ask_to_stop();
        let mut heard = self.heard.clone();
        let line = heard.wait_for(|heard| heard.is_over || count(heard, &["stopping"]) > 0);
        let line = line
            .await
            .ok()
            .and_then(|heard| heard.lines.iter().find(|line| line.contains("stopping")).cloned());
        let line = line.unwrap_or_else(|| panic!("the program is gone:\n{}", self.log()));
        let number = |name: &str| {
            let value = line
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix(name));
            value.and_then(|value| value.parse().ok()).expect("a number")
        };
        Ending {
            connections: number("connections="),
            sessions: number("sessions="),
            tasks: number("tasks="),
        }
    }

    /// Waits until it has ended; its exit code.
    pub async fn until_over(&mut self) -> Option<i32> {
        let mut heard = self.heard.clone();
        heard.wait_for(|heard| heard.is_over).await.ok();
        self.child.wait().expect("a child of ours").code()
    }
}

impl Place {
    /// A byte stream to it.
    pub async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await?),
            Self::Unix(path) => Stream::Unix(unix::connect(path, IN_VAIN).await?),
        })
    }
}

/// Leaves at once and says nothing more, where the system knows such an end.
pub fn slam(stream: &Stream) {
    if let Stream::Tcp(tcp) = stream {
        tcp.set_zero_linger().expect("the option is known");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the folder is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

/// Reads on until every door is known.
fn read_places(log: &mut BufReader<ChildStderr>) -> Vec<(String, Place)> {
    let (mut places, mut said) = (Vec::new(), String::new());
    while places.len() < DOORS.len() {
        let start = said.len();
        let bytes = log.read_line(&mut said).expect("text");
        assert_ne!(bytes, 0, "the program did not start:\n{said}");
        let words = said[start..].split_ascii_whitespace();
        let word = |name: &str| words.clone().find_map(|word| word.strip_prefix(name));
        if let (Some(name), Some(address)) = (word("listener="), word("address=")) {
            let place = match address.strip_prefix("unix:") {
                Some(path) => Place::Unix(path.into()),
                None => Place::Tcp(address.parse().expect("an address")),
            };
            places.push((name.trim_matches('"').to_owned(), place));
        }
    }
    places
}

fn listen(mut log: BufReader<ChildStderr>, telling: &watch::Sender<Heard>) {
    loop {
        let mut line = String::new();
        let is_over = log.read_line(&mut line).is_ok_and(|bytes| bytes == 0);
        telling.send_modify(|heard| {
            heard.connected += usize::from(line.contains(" client connected "));
            heard.disconnected += usize::from(line.contains(" client disconnected "));
            heard.is_over = is_over;
            heard.lines.push(line);
        });
        if is_over {
            return;
        }
    }
}

fn count(heard: &Heard, words: &[&str]) -> usize {
    let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
    heard.lines.iter().filter(has_all).count()
}

/// A publisher and a subscriber, who must never notice anything.
pub struct Witness {
    publisher: Peer,
    subscriber: Peer,
}

impl Witness {
    async fn new(program: &Program) -> Self {
        let publisher = program.peer(connect("witness-publisher")).await;
        let mut subscriber = program.peer(connect("witness-subscriber")).await;
        subscriber.subscribe(WITNESSED, QoS::AtLeastOnce).await;
        program.until_logged(&["client connected"], 2).await;
        Self {
            publisher,
            subscriber,
        }
    }

    /// Passes numbers until it is over: each must be heard before the next is said, and nothing else.
    async fn watch(mut self, mut is_over: oneshot::Receiver<()>) -> Self {
        let mut beat = interval(WITNESS_PAUSE);
        // Behind on a busy machine, it catches up: so many a second, on the whole.
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number: u64 = 0;
        loop {
            tokio::select! {
                _ = &mut is_over => return self,
                _ = beat.tick() => {}
            }
            let packet_id = u16::try_from(number % 65_535).map_or(1, |id| id + 1);
            self.publisher
                .say(&publish(WITNESSED, number.to_string(), Some(packet_id)))
                .await;
            let (acknowledged, heard) = tokio::join!(self.publisher.hear(), self.subscriber.hear_publish());
            match acknowledged {
                Some(Packet::PubAck(ack)) => assert_eq!(ack.packet_id.get(), packet_id),
                other => panic!("the witness expected PUBACK, found {other:?}"),
            }
            assert_eq!(heard.payload, number.to_string(), "a gap or a duplicate");
            self.subscriber.acknowledge(heard.packet_id).await;
            number += 1;
        }
    }

    async fn hear_end(mut self) {
        self.publisher.hear_farewell(ReasonCode::ServerShuttingDown).await;
        self.subscriber
            .hear_farewell(ReasonCode::ServerShuttingDown)
            .await;
    }
}
