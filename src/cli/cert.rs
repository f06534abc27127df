//! `tidegate cert`: an authority of one's own and a server certificate from it, for trying TLS and for small sites.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Make a certificate authority and a server certificate from it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate cert --dir tls                                     for this machine only
  tidegate cert --dir tls --name gw7.example.org --name 192.168.1.7

Makes ca.pem (give it to clients), ca-key.pem (keep it away from the gateway), server.pem and server-key.pem (for \
[listener.NAME.tls]). Keys are readable by you alone. The authority is good for ten years, the server's certificate \
for two.")]
pub(super) struct Arguments {
    /// The folder they are written to; made where there is none
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// A DNS name or address by which clients reach the gateway; repeat it for each
    #[arg(long = "name", value_name = "HOST", default_values = ["localhost", "127.0.0.1", "::1"])]
    names: Vec<String>,

    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

/// An authority and a server certificate from it, all as PEM.
pub struct Certificates {
    /// What clients trust.
    pub ca: String,
    /// What further certificates are signed with.
    pub ca_key: String,
    /// What the server shows.
    pub server: String,
    /// What the server proves itself with.
    pub server_key: String,
}

/// The authority's certificate, for clients.
pub(super) const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";
/// The server's certificate.
pub(super) const SERVER_FILE: &str = "server.pem";
/// The server's private key.
pub(super) const SERVER_KEY_FILE: &str = "server-key.pem";

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_DAYS: u32 = 3650;
/// Clients of some systems refuse server certificates that are good for more than 825 days.
const SERVER_DAYS: u32 = 730;

impl Certificates {
    /// Makes both for a server that is reached by `names`, DNS names or IP addresses, valid from a day before `now`:
    /// the clocks of small boards are late.
    ///
    /// # Errors
    /// A name that is no DNS name, or no random numbers.
    pub fn make(names: &[String], now: SystemTime) -> Result<Self, rcgen::Error> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name
            .push(DnType::CommonName, "Tidegate authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.not_before = (now - DAY).into();
        ca.not_after = (now + DAY * CA_DAYS).into();
        let ca_key = KeyPair::generate()?;
        let ca_certificate = ca.self_signed(&ca_key)?;

        let mut server = CertificateParams::new(names.to_vec())?;
        let common_name = names.first().map_or("localhost", String::as_str);
        server.distinguished_name.push(DnType::CommonName, common_name);
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        server.not_before = (now - DAY).into();
        server.not_after = (now + DAY * SERVER_DAYS).into();
        let server_key = KeyPair::generate()?;
        let ca_key_pem = ca_key.serialize_pem();
        let server_certificate = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
        Ok(Self {
            ca: ca_certificate.pem(),
            ca_key: ca_key_pem,
            server: server_certificate.pem(),
            server_key: server_key.serialize_pem(),
        })
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    write_files(&arguments.dir, &arguments.names, arguments.force)?;
    let (dir, names) = (arguments.dir.display(), arguments.names.join(", "));
    let text = format!(
        "made {dir}/ca.pem, {dir}/ca-key.pem, {dir}/server.pem and {dir}/server-key.pem for {names}\n"
    );
    super::print(|out| out.write_all(text.as_bytes()))
}

/// Makes authority and server certificate for `names` and writes them to `dir`, over older ones only with `force`.
pub(super) fn write_files(dir: &Path, names: &[String], force: bool) -> anyhow::Result<()> {
    let made = Certificates::make(names, SystemTime::now())
        .with_context(|| format!("no certificate can be made for {}", names.join(", ")))?;
    const OPEN: u32 = 0o644;
    const SECRET: u32 = 0o600;
    let files = [
        (CA_FILE, made.ca, OPEN),
        (CA_KEY_FILE, made.ca_key, SECRET),
        (SERVER_FILE, made.server, OPEN),
        (SERVER_KEY_FILE, made.server_key, SECRET),
    ];
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let there: Vec<&str> = files
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| dir.join(name).exists())
        .collect();
    if !there.is_empty() && !force {
        bail!(
            "{} has {} already; take another folder, or --force to write over them",
            dir.display(),
            there.join(", ")
        );
    }
    for (name, text, mode) in files {
        let path = dir.join(name);
        let cannot = || format!("cannot write {}", path.display());
        if path.exists() {
            // Made anew, so that the permissions are those of a new file.
            fs::remove_file(&path).with_context(cannot)?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .with_context(cannot)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(cannot)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock::FlooredClock;
    use crate::net::tls::{ClientCertificates, ClientTrust, Server, ServerSettings};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    fn write_files(dir: &Path, force: bool) -> anyhow::Result<()> {
        super::write_files(dir, &["localhost".to_owned(), "127.0.0.1".to_owned()], force)
    }

    #[test]
    fn a_listener_takes_what_is_made() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().join("tls");
        write_files(&dir, false).expect("made");
        let settings = ServerSettings {
            certificate: dir.join("server.pem"),
            key: dir.join("server-key.pem"),
            client_certificates: ClientCertificates::Required(ClientTrust::of(dir.join("ca.pem"))),
            user_name_from: None,
            client_id_from: None,
        };
        let server = Server::new(&settings, Arc::new(FlooredClock::default()));
        assert!(server.is_ok(), "{:?}", server.err());
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_files(folder.path(), false).expect("made");
        for (name, mode) in [("server-key.pem", 0o600), ("ca-key.pem", 0o600)] {
            let found = fs::metadata(folder.path().join(name))
                .expect("there")
                .permissions()
                .mode()
                & 0o777;
            assert_eq!(found, mode, "{name}");
        }
    }

    #[test]
    fn files_that_are_there_stay_unless_forced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, "mine").expect("written");
        let told = write_files(folder.path(), false)
            .expect_err("in the way")
            .to_string();
        assert!(
            told.ends_with("has ca.pem already; take another folder, or --force to write over them"),
            "{told}"
        );
        assert_eq!(fs::read_to_string(&ca).expect("text"), "mine");
        write_files(folder.path(), true).expect("forced");
        assert!(
            fs::read_to_string(&ca)
                .expect("text")
                .contains("BEGIN CERTIFICATE")
        );
    }

    #[test]
    fn a_name_that_is_none_is_told() {
        let names = ["gar\u{e7}on".to_owned()];
        assert!(Certificates::make(&names, SystemTime::now()).is_err());
    }
}
