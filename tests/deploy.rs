//! `deploy/tidegate.example.toml` is held to the code: it starts, and it shows every key there is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tidegate::auth::passwords::{Cost, hash};
use tidegate::board::limits;
use tidegate::broker::Limits;
use tidegate::cli::cert::Certificates;
use tidegate::config::{self, file};
use tidegate::net::listener::ListenerSettings;

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/tidegate.example.toml");
    fs::read_to_string(path).expect("the example is there")
}

/// A folder with `text` and the files it names, made as the head of the example says.
fn folder(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permitted");
        path
    };
    fs::create_dir(folder.path().join("tls")).expect("a folder");
    fs::create_dir(folder.path().join("boards")).expect("a folder");
    let made = Certificates::make(&["localhost".to_owned()], SystemTime::now()).expect("certificates");
    write("tls/ca.pem", &made.ca);
    write("tls/server.pem", &made.server);
    write("tls/server-key.pem", &made.server_key);
    let hash = hash(
        b"tide",
        Cost::new(1024, 1).expect("within bounds"),
        b"sixteen bytes ok",
    )
    .expect("memory");
    write("users", &format!("alice:{hash}\n"));
    let file = write("tidegate.example.toml", text);
    (folder, file)
}

#[track_caller]
fn check(text: &str) -> config::Settings {
    let (folder, file) = folder(text);
    config::check(&file, Some(&folder.path().join("boards"))).unwrap_or_else(|mistakes| {
        panic!(
            "{:#?}",
            mistakes.iter().map(ToString::to_string).collect::<Vec<_>>()
        )
    })
}

#[test]
fn the_example_is_right_once_the_two_things_it_names_are_made() {
    let settings = check(&example());
    assert_eq!(settings.name.as_str(), "site/gateway-1");
    assert!(settings.storage.is_some() && settings.users.is_some());
    let doors: Vec<(&str, bool, bool)> = settings
        .listeners
        .iter()
        .map(|door| {
            (
                door.net.name.as_str(),
                door.net.tls.is_some(),
                door.policy.anonymous,
            )
        })
        .collect();
    assert_eq!(
        doors,
        [
            ("local", false, false),
            ("local", false, false),
            ("field", true, false),
            ("web", false, false),
            ("web", false, false),
        ]
    );
    assert_eq!(settings.serial.len(), 1);
}

#[test]
fn the_example_shows_every_key_live_or_commented_out() {
    let text = example();
    for section in file::SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let heading = section.name.replacen(
            "NAME",
            match section.name {
                "listener.NAME.websocket" => "web",
                name if name.starts_with("serial") => "climate",
                _ => "field",
            },
            1,
        );
        let live = [format!("\n[{heading}]"), format!("\n[[{heading}]]")];
        let start = live
            .iter()
            // Operators are let in without a table, HTTP is only for who asks for it, and tokens need a key that
            // somebody else has to make.
            .chain([&format!("\n#[{heading}]")])
            .find_map(|heading| text.find(heading));
        let start = start.unwrap_or_else(|| panic!("no table [{heading}] in the example"));
        let body = &text[start + 1..];
        let body = body.split("\n[").next().expect("a first part");
        for key in section.keys {
            if matches!(
                key.name,
                "tls" | "jwt" | "websocket" | "lines" | "point" | "groups" | "rule" | "rewrite" | "http"
            ) {
                continue; // Tables, with headings of their own.
            }
            let live = format!("\n{} = ", key.name);
            let commented = format!("\n#{} = ", key.name);
            // The tables of other listeners, and other rules, show what this one has no use for.
            let is_elsewhere = section.name == "access.rule"
                || ["anonymous", "mode", "owner", "group", "peer_user_name"].contains(&key.name);
            let elsewhere = is_elsewhere && text.contains(&commented);
            assert!(
                body.contains(&live) || body.contains(&commented) || elsewhere,
                "{}.{}",
                section.name,
                key.name
            );
        }
    }
}

#[test]
fn no_commented_key_of_the_example_is_unknown_to_the_code() {
    let text = example();
    let known = |name: &str| {
        file::SECTIONS
            .iter()
            .flat_map(|section| section.keys)
            .any(|key| key.name == name)
    };
    let commented: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| !name.contains(' '))
        .collect();
    assert!(commented.len() > 30, "{commented:?}");
    for name in commented {
        assert!(known(name), "{name}");
    }
}

#[test]
fn the_commented_limits_of_the_example_are_those_of_the_base() {
    let text = example();
    for (key, value) in limits::shown(&Limits::default()) {
        assert!(
            text.contains(&format!("\n#{key} = {value}")),
            "expected #{key} = {value}"
        );
    }
}

#[test]
fn the_commented_defaults_of_the_example_change_nothing() {
    // Keys that go with another format or another file, with client certificates or with a balancer cannot be live
    // beside the others, and some have no value that changes nothing.
    let alone = [
        "acl_file",
        "mount_point",
        "origins",
        "connect_rate_max",
        "connections_per_address_max",
        "proxy_from",
        "proxy_user_name",
        "pattern",
        "delimiter",
        "path",
        "column",
        "capture",
        "client_ca",
        "crl",
        "crl_missing",
        "crl_expired",
        "crl_depth",
        "user_name",
        "client_id",
        "idle_gap",
        "qos",
        "retain",
        "payload",
        "stale_after",
        "topic",
        "board",
    ];
    let text = example();
    // A table that is commented out as a whole ends with the next empty line.
    let mut is_table_out = false;
    let uncommented: String = text
        .lines()
        .map(|line| {
            is_table_out = line.starts_with("#[") || is_table_out && !line.is_empty();
            if is_table_out {
                return format!("{line}\n");
            }
            match line
                .strip_prefix('#')
                .and_then(|rest| Some((rest, rest.split_once(" = ")?.0)))
            {
                Some((rest, name)) if !name.contains(' ') && !alone.contains(&name) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            }
        })
        .collect();
    let text = format!("{text}\n").replace("#board = \"auto\"", "board = \"base\"");
    let uncommented = uncommented.replace("#board = \"auto\"", "board = \"base\"");
    assert_ne!(text, uncommented);
    let (plain, live) = (check(&text), check(&uncommented));
    assert_eq!(plain.limits, live.limits);
    let doors = |settings: &config::Settings| -> Vec<_> {
        let listeners = settings.listeners.iter();
        listeners
            .map(|door| {
                // Its certificates stand in another folder each time.
                let net = ListenerSettings {
                    tls: None,
                    ..door.net.clone()
                };
                (door.policy.clone(), net)
            })
            .collect()
    };
    assert_eq!(doors(&plain), doors(&live));
    let points = |settings: &config::Settings| -> Vec<_> {
        let devices = settings.serial.iter().flat_map(|port| port.devices());
        devices.map(|(device, _)| device.clone()).collect()
    };
    assert_eq!(points(&plain), points(&live));
}
