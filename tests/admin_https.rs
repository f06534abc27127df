//! The operator's door by HTTPS: what it shows, and how that is replaced in time.

mod running;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tidegate::admin::settings::{CONNECTIONS_MAX, DOOR, DoorSettings, Token};
use tidegate::config::Settings;
use tidegate::net::listener::ListenerSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use running::{Papers, settings, with_gateway};

const TOKEN: &str = "0123456789abcdefABCDEF";

/// A gateway with one door for operators, by HTTPS.
fn operated(papers: &Papers) -> Settings {
    let mut settings = settings();
    let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut net = ListenerSettings::new(DOOR, anywhere, CONNECTIONS_MAX);
    net.tls = Some(papers.server.clone());
    settings.admin.doors = vec![DoorSettings {
        net,
        token: Token::parse(TOKEN),
        may_be_absent: false,
    }];
    settings
}

/// Asks for who is connected, as somebody who trusts the authority in `ca`; the first line of the answer.
async fn ask(address: SocketAddr, ca: &Path) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(ca).expect("it is there");
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("PEM")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has both")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(address.ip().to_string()).expect("an address is a name");
    let tcp = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let question = format!(
        "GET /api/v1/clients HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).expect("text");
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_reload_replaces_the_certificate_of_the_operators_door_and_nothing_else_of_it() {
    let (old, new) = (Papers::new(), Papers::new());
    let settings = operated(&old);
    with_gateway(settings.clone(), async |doors| {
        let address = doors.address(DOOR);
        let first_line = ask(address, &old.ca).await.expect("its certificate is in order");
        assert_eq!(first_line, "HTTP/1.1 200 OK");

        fs::copy(&new.server.certificate, &old.server.certificate).expect("the folder is ours");
        assert!(
            doors.reload(settings.clone()).await.is_err(),
            "it does not fit the key"
        );
        ask(address, &old.ca).await.expect("all stays as it was");

        fs::copy(&new.server.key, &old.server.key).expect("the folder is ours");
        let reloaded = doors.reload(settings.clone()).await.expect("it fits");
        assert_eq!((reloaded.certificates, reloaded.warnings), (1, Vec::new()));
        ask(address, &new.ca).await.expect("the new one holds");
        ask(address, &old.ca).await.expect_err("the old one does not");

        // The files may be others as well; the token may not.
        let third = Papers::new();
        let mut moved = operated(&third);
        let reloaded = doors.reload(moved.clone()).await.expect("nothing is wrong");
        assert_eq!((reloaded.certificates, reloaded.warnings), (1, Vec::new()));
        ask(address, &third.ca).await.expect("the third one holds");
        moved.admin.doors[0].token = Token::parse("another-token-of-an-operator");
        moved.admin.doors[0].net.tls = Some(new.server.clone());
        let reloaded = doors.reload(moved).await.expect("nothing is wrong");
        assert_eq!(reloaded.certificates, 0);
        assert_eq!(reloaded.warnings.len(), 1, "{:?}", reloaded.warnings);
        assert!(reloaded.warnings[0].starts_with("admin changes with a restart only"));
        let first_line = ask(address, &third.ca).await.expect("all of it stays");
        assert_eq!(first_line, "HTTP/1.1 200 OK", "the token, too");
    });
}

/// The program, with a certificate for operators that ends in `days`.
struct Program {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    folder: TempDir,
}

impl Program {
    fn start(days: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "token", TOKEN);
        write_certificate(folder.path(), days);
        let text = "[listener.local]\naddress = '127.0.0.1:0'\n[admin]\nhttp = '127.0.0.1:0'\n\
                    token_file = 'token'\n[admin.tls]\ncertificate = 'server.pem'\nkey = 'key.pem'\n";
        write(folder.path(), "tidegate.toml", text);
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(folder.path().join("tidegate.toml"))
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, log, folder }
    }

    /// Reads its log up to a line with all of these words.
    fn until_logged(&mut self, words: &[&str]) {
        let mut heard = String::new();
        loop {
            let start = heard.len();
            let bytes = self.log.read_line(&mut heard).expect("text");
            assert_ne!(bytes, 0, "it ended without {words:?}:\n{heard}");
            let line = &heard[start..];
            if words.iter().all(|word| line.contains(word)) {
                return;
            }
        }
    }

    fn reload(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a number"), Signal::HUP).expect("the process lives");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

fn write_certificate(folder: &Path, days: u64) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = (SystemTime::now() + Duration::from_secs((days * 24 + 1) * 3600)).into();
    let certificate = params.self_signed(&key).expect("a certificate");
    write(folder, "server.pem", &certificate.pem());
    write(folder, "key.pem", &key.serialize_pem());
}

#[test]
fn the_end_of_the_operators_certificate_is_told_at_the_start_after_a_reload_and_by_check() {
    let mut program = Program::start(20);
    program.until_logged(&["WARN", "listener=\"admin\"", "ends in 20 days"]);
    write_certificate(program.folder.path(), 3);
    program.reload();
    program.until_logged(&["WARN", "listener=\"admin\"", "within a week"]);
    let checked = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["check", "--config"])
        .arg(program.folder.path().join("tidegate.toml"))
        .output()
        .expect("the program is there");
    let told = String::from_utf8(checked.stderr).expect("text");
    assert!(
        told.contains("admin.tls: ") && told.contains("within a week"),
        "{told}"
    );
    assert!(checked.status.success());
}
