//! `tidegate ctl`, as a person and a program meet it: against the real program, through its socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The program, running, with a client called `lamp` that has subscribed to `plant/#`.
struct Gateway {
    folder: TempDir,
    child: Child,
    log: BufReader<ChildStderr>,
    lamp: TcpStream,
}

/// What a command printed, and what it exited with.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The lines of a table as words, without the heading.
    fn rows(&self) -> Vec<Vec<&str>> {
        assert_eq!(self.code, Some(0), "{self:?}");
        let rows = self.out.lines().skip(1);
        rows.map(|line| line.split_whitespace().collect()).collect()
    }

    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).expect("JSON")
    }
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        let text = "[gateway]\nstate_directory = \"state\"\n[listener.local]\naddress = \"127.0.0.1:0\"\n";
        std::fs::write(&file, text).expect("the folder is ours");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("JOURNAL_STREAM")
            .env_remove("RUNTIME_DIRECTORY")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let address = address_of(&mut log, "local");
        assert!(address_of(&mut log, "admin").starts_with("unix:"));
        let mut lamp = TcpStream::connect(address).expect("the door is open");
        // CONNECT of 5.0 without keep-alive, SUBSCRIBE.
        let said = b"\x10\x11\0\x04MQTT\x05\x02\0\0\0\0\x04lamp\x82\x0d\0\x01\0\0\x07plant/#\0";
        lamp.write_all(said).expect("it listens");
        hear(&mut lamp, 0x20);
        hear(&mut lamp, 0x90);
        Self {
            folder,
            child,
            log,
            lamp,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("state/admin.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["ctl", "--socket"])
            .arg(self.socket())
            .args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().expect("the program is there"))
    }

    /// Stops it, and waits until it has gone.
    fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has a number"), Signal::TERM).expect("it lives");
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("text");
        assert!(self.child.wait().expect("it ends").success(), "{rest}");
        assert!(!self.socket().exists());
    }
}

/// Reads the log up to where the listener called `name` is.
fn address_of(log: &mut impl BufRead, name: &str) -> String {
    for line in log.lines() {
        let line = line.expect("text");
        if let Some((_, address)) = line.split_once(&format!("listener=\"{name}\" address=")) {
            return address.to_owned();
        }
    }
    panic!("there is no {name}");
}

/// Hears one short packet, which begins with `first`.
fn hear(stream: &mut TcpStream, first: u8) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a packet");
    assert_eq!(head[0], first);
    let mut rest = vec![0; usize::from(head[1])];
    stream.read_exact(&mut rest).expect("the rest of it");
    rest
}

#[test]
fn each_list_is_a_table_for_people_and_json_for_programs() {
    let gateway = Gateway::start();
    let clients = gateway.ctl(&["clients"]);
    let row = &clients.rows()[0];
    assert_eq!(
        (row[0], row[3], row[4], row[6]),
        ("lamp", "local", "5.0", "1"),
        "{}",
        clients.out
    );
    assert_eq!(gateway.ctl(&["clients", "--json"]).json()[0]["client"], "lamp");
    assert_eq!(gateway.ctl(&["clients", "--client", "l*p"]).rows().len(), 1);
    assert_eq!(gateway.ctl(&["clients", "--client", "x*"]).rows().len(), 0);
    assert_eq!(gateway.ctl(&["sessions"]).rows()[0][0], "lamp");
    assert_eq!(gateway.ctl(&["subs"]).rows()[0][..3], ["lamp", "plant/#", "0"]);
    assert_eq!(
        gateway.ctl(&["subs", "--topic", "plant/a"]).rows()[0],
        ["lamp", "yes", "0", "-", "yes"]
    );
    assert_eq!(gateway.ctl(&["subs", "--topic", "other"]).rows().len(), 0);
    assert_eq!(gateway.ctl(&["listeners"]).rows()[0][0], "local");
    assert_eq!(gateway.ctl(&["serial"]).rows().len(), 0);
    assert_eq!(gateway.ctl(&["retained"]).rows().len(), 0);
    let config = gateway.ctl(&["config"]);
    assert!(
        config
            .rows()
            .contains(&vec!["gateway.state_directory", "file", "2", "\"state\""])
    );
    let statistics = gateway.ctl(&["stats", "--json"]).json();
    assert_eq!(statistics["clients_connected"], 1);
    assert!(gateway.ctl(&["stats"]).out.contains("\nclients_connected "));
    let top = gateway.ctl(&["top", "--interval", "1"]);
    assert!(
        top.rows().iter().any(|row| row.first() == Some(&"lamp")),
        "{}",
        top.out
    );
    gateway.stop();
}

#[test]
fn a_kick_says_whom_it_found_and_fails_where_that_is_nobody() {
    let mut gateway = Gateway::start();
    let unknown = gateway.ctl(&["kick", "nobody"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), "nobody found\n"));
    let kicked = gateway.ctl(&["kick", "lamp", "--ban", "10m", "--purge", "--reason", "0x96"]);
    assert_eq!(
        (kicked.code, kicked.out.as_str()),
        (Some(0), "1 sent away, kept out\n"),
        "{}",
        kicked.err
    );
    assert_eq!(hear(&mut gateway.lamp, 0xe0)[0], 0x96);
    let bans = gateway.ctl(&["ban"]);
    assert_eq!(bans.rows()[0][..2], ["client", "lamp"]);
    assert_eq!(gateway.ctl(&["ban", "--lift", "lamp"]).code, Some(0));
    let again = gateway.ctl(&["ban", "--lift", "lamp"]);
    assert_eq!(again.code, Some(1));
    assert!(
        again.err.contains("client \"lamp\" is not kept out"),
        "{}",
        again.err
    );
    assert_eq!(
        gateway
            .ctl(&["ban", "--address", "10.0.0.0/8", "--for", "1h"])
            .code,
        Some(0)
    );
    assert_eq!(gateway.ctl(&["ban", "--json"]).json()[0]["value"], "10.0.0.0/8");
    gateway.stop();
}

#[test]
fn a_command_line_that_means_nobody_exits_with_2() {
    for arguments in [
        &["kick"][..],
        &["kick", "a", "--everyone"],
        &["kick", "a", "--ban", "soon"],
        &["ban", "a", "--for", "0s"],
        &["ban", "--lift"],
        &["subs", "--client", "a", "--topic", "b"],
        &["top", "--interval", "0"],
        &["clients", "--limit", "0"],
        &[],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("ctl")
            .args(arguments)
            .args(["--socket", "/nowhere/admin.sock"]);
        let said = Said::of(
            command
                .stdin(Stdio::null())
                .output()
                .expect("the program is there"),
        );
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn where_no_gateway_is_found_the_way_out_is_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let said = Said::of(
        command
            .args(["ctl", "--socket", "/nowhere/admin.sock", "clients"])
            .output()
            .expect("the program is there"),
    );
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("/nowhere/admin.sock") && said.err.contains("--socket"),
        "{}",
        said.err
    );
}

#[test]
fn the_log_tells_more_from_the_moment_that_is_asked_for() {
    let mut gateway = Gateway::start();
    assert_eq!(gateway.ctl(&["log"]).out, "level: info\n");
    assert_eq!(gateway.ctl(&["log", "debug"]).out, "level: debug\n");
    assert_eq!(gateway.ctl(&["listeners"]).code, Some(0));
    let told = (gateway.log.by_ref().lines())
        .map(|line| line.expect("text"))
        .find(|line| line.contains("DEBUG"))
        .expect("it goes on");
    assert!(
        told.contains("an operator looks") && told.contains("/api/v1/listeners"),
        "{told}"
    );
    let loud = gateway.ctl(&["log", "loud"]);
    assert_eq!(loud.code, Some(1));
    assert!(loud.err.contains("trace"), "{}", loud.err);
    gateway.stop();
}

#[test]
fn a_bug_report_goes_into_a_new_file_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt;

    let gateway = Gateway::start();
    let path = gateway.folder.path().join("report.json");
    let arguments = ["diag", "--output", path.to_str().expect("text")];
    assert_eq!(gateway.ctl(&arguments).code, Some(0));
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let report: Value = serde_json::from_slice(&std::fs::read(&path).expect("ours")).expect("JSON");
    assert_eq!(report["sessions"]["items"][0]["client"], "lamp");
    assert_eq!(gateway.ctl(&arguments).code, Some(1), "nothing is written over");
    gateway.stop();
}

#[test]
fn a_reload_tells_what_has_changed_and_a_mistake_changes_nothing() {
    let gateway = Gateway::start();
    let file = gateway.folder.path().join("tidegate.toml");
    let before = std::fs::read_to_string(&file).expect("ours");
    let more = format!("{before}[listener.second]\naddress = \"127.0.0.1:0\"\n");
    std::fs::write(&file, &more).expect("ours");
    let reloaded = gateway.ctl(&["reload", "--json"]).json();
    assert_eq!(
        (&reloaded["listeners_added"], &reloaded["listeners_removed"]),
        (&1.into(), &0.into())
    );
    let listeners = gateway.ctl(&["listeners"]);
    let names: Vec<&str> = listeners.rows().iter().map(|row| row[0]).collect();
    assert_eq!(names, ["local", "second"]);
    assert_eq!(gateway.ctl(&["clients"]).rows().len(), 1, "nobody was dropped");

    std::fs::write(&file, format!("{more}anonimous = true\n")).expect("ours");
    let refused = gateway.ctl(&["reload"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("anonymous") && refused.err.contains("7"),
        "{}",
        refused.err
    );
    assert_eq!(gateway.ctl(&["listeners"]).rows().len(), 2);
    gateway.stop();
}
