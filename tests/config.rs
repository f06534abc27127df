//! The configuration file: what it becomes, and what each mistake is told as.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate::auth::Identity;
use tidegate::auth::access::{Action, Who};
use tidegate::auth::passwords::{CheckMemory, Cost, hash};
use tidegate::board::Boards;
use tidegate::broker::{ClientIds, ListenerPolicy, MountPoint, Overflow, QueueClass};
use tidegate::config::{self, Settings};
use tidegate::mqtt::ProtocolVersion;
use tidegate::net::endpoint::{Endpoint, UnixEndpoint};
use tidegate::net::tls::{CertificateField, ClientCertificates, ClientTrust, Doubt};
use tidegate::net::websocket::upgrade::Origins;

/// A folder with a configuration, a password file `users`, and no board profiles of the machine.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("boards")).expect("a folder");
        let made = Self { folder };
        let hash = hash(
            b"tide",
            Cost::new(1024, 1).expect("within bounds"),
            b"sixteen bytes ok",
        )
        .expect("memory");
        made.write("users", &format!("alice:{hash}\n"), 0o600);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).expect("written");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("permitted");
    }

    fn load(&self, text: &str) -> Result<Settings, Vec<String>> {
        self.read(text, config::load)
    }

    fn check(&self, text: &str) -> Result<Settings, Vec<String>> {
        self.read(text, config::check)
    }

    fn read(
        &self,
        text: &str,
        read: impl Fn(&Path, Option<&Path>) -> Result<Settings, Vec<config::Mistake>>,
    ) -> Result<Settings, Vec<String>> {
        let file = self.path("t.toml");
        fs::write(&file, text).expect("written");
        read(&file, Some(&self.path("boards"))).map_err(|mistakes| {
            let folder = format!("{}/", self.folder.path().display());
            mistakes
                .iter()
                .map(|mistake| mistake.to_string().replace(&folder, ""))
                .collect()
        })
    }
}

#[track_caller]
fn settings(text: &str) -> Settings {
    Folder::new()
        .load(text)
        .unwrap_or_else(|told| panic!("{told:#?}"))
}

#[track_caller]
fn told(text: &str) -> Vec<String> {
    match Folder::new().load(text) {
        Ok(_) => panic!("no mistake was told"),
        Err(told) => told,
    }
}

#[test]
fn an_empty_file_is_the_gateway_without_configuration() {
    let settings = settings("[gateway]\nboard = 'base'\n");
    let local = Settings::local(&[], Boards::compiled_in().base().clone()).expect("loopback");
    assert_eq!(settings.listeners, local.listeners);
    assert_eq!(settings.limits, local.limits);
    assert_eq!(settings.name, local.name);
    assert!(settings.storage.is_none() && settings.users.is_none() && settings.serial.is_empty());
}

#[test]
fn every_table_reaches_the_settings_of_its_module() {
    let folder = Folder::new();
    let settings = folder
        .load(
            r#"
            [gateway]
            name = "site/gw7"
            state_directory = "state"
            log = "debug"
            board = "pi-zero-w"

            [authentication]
            password_file = "users"

            [limits]
            packet_bytes_max = "64 KiB"
            keep_alive_max = "5m"
            queue_messages_max = 64

            [listener.here]
            address = ["127.0.0.1:1883", "[::1]:1883"]

            [listener.field]
            address = "0.0.0.0:8883"
            connections_max = 100
            handshake_timeout = "5s"
            [listener.field.tls]
            certificate = "tls/server.pem"
            key = "/etc/key.pem"
            client_certificates = "optional"
            client_ca = "tls/ca.pem"
            user_name = "san-uri"
            "#,
        )
        .expect("right");
    assert_eq!(settings.name.as_str(), "site/gw7");
    assert_eq!(settings.log, tracing::Level::DEBUG);
    assert_eq!(
        settings.storage.map(|storage| storage.directory),
        Some(folder.path("state"))
    );
    assert_eq!(settings.board.name, "pi-zero-w");
    assert!(
        settings
            .users
            .expect("users")
            .verify("alice", b"tide", &mut CheckMemory::default())
    );
    assert_eq!(settings.limits.packet_bytes_max, 64 * 1024);
    assert_eq!(settings.limits.keep_alive_max_secs, 300);
    assert_eq!(settings.limits.queue_class, QueueClass::N64);
    assert_eq!(
        settings.limits.connections_max, 128,
        "the board's, where nothing is said"
    );

    let [first, second, field] = &settings.listeners[..] else {
        panic!("{:#?}", settings.listeners)
    };
    assert_eq!(first.net.endpoint.to_string(), "127.0.0.1:1883");
    assert_eq!(second.net.endpoint.to_string(), "[::1]:1883");
    assert!(!first.policy.anonymous, "there is a password file");
    assert_eq!(
        (first.policy.name.as_str(), first.net.name.as_str()),
        ("here", "here")
    );
    assert_eq!(first.net.connections_max, 128);
    assert_eq!(field.net.connections_max, 100);
    assert_eq!(field.net.handshake_timeout, Duration::from_secs(5));
    let tls = field.net.tls.as_ref().expect("TLS");
    assert_eq!(tls.certificate, folder.path("tls/server.pem"));
    assert_eq!(tls.key, PathBuf::from("/etc/key.pem"));
    assert_eq!(
        tls.client_certificates,
        ClientCertificates::Optional(ClientTrust::of(folder.path("tls/ca.pem")))
    );
    assert_eq!(tls.user_name_from, Some(CertificateField::SanUri));
}

#[test]
fn what_mqtt_leaves_to_the_server_is_said_in_the_gateways_table() {
    let choices = settings(
        "[gateway]\ncheck_payload_format = true\nresponse_topics = \"replies\"\n\
         server_reference = \"other.example:8883\"\n",
    )
    .choices;
    assert!(choices.check_payload_format);
    let replies = choices.response_information.expect("a topic");
    assert_eq!(replies.as_str(), "replies");
    let reference = choices.server_reference.expect("a server");
    assert_eq!(reference.as_str(), "other.example:8883");
    assert_eq!(settings("").choices, tidegate::broker::Settings::default());
    let mistakes = told("[gateway]\nresponse_topics = \"a/+\"\n");
    assert!(mistakes[0].contains("response_topics"), "{mistakes:?}");
}

#[test]
fn queue_rules_are_read_in_their_order() {
    let choices = settings(
        "[gateway]\nloss_property = \"lost\"\n[[queue]]\ntopics = [\"alarm/#\"]\noverflow = \"reject\"\n\
         [[queue]]\nuser = \"plant\"\nclient = [\"meter-*\", \"pump-?\"]\nmessages_max = 4096\n\
         bytes_max = \"4 MiB\"\nqos0 = true\n",
    )
    .choices;
    assert_eq!(
        choices.loss_property.map(|name| name.to_string()).as_deref(),
        Some("lost")
    );
    let [alarms, meters] = &choices.queue_rules[..] else {
        panic!("{:?}", choices.queue_rules);
    };
    assert_eq!((alarms.overflow, alarms.qos0), (Some(Overflow::Reject), None));
    assert_eq!(
        alarms
            .topics
            .iter()
            .map(|filter| filter.as_str())
            .collect::<Vec<_>>(),
        ["alarm/#"]
    );
    assert_eq!(
        (meters.class, meters.bytes_max),
        (Some(QueueClass::N4096), Some(4 << 20))
    );
    assert_eq!((meters.overflow, meters.qos0), (None, Some(true)));
    assert!(meters.users[0].matches("plant") && meters.clients[1].matches("pump-3"));
    let limits =
        settings("[limits]\nqueue_overflow = \"disconnect\"\nqueue_qos0 = true\npublish_wait_max = \"5s\"\n");
    assert_eq!(limits.limits.queue_overflow, Overflow::Disconnect);
    assert!(limits.limits.queue_qos0 && limits.limits.publish_wait_max == Duration::from_secs(5));
}

#[test]
fn a_queue_rule_that_cannot_hold_is_a_mistake() {
    let size = "found 1 KiB, expected at least the packet_bytes_max of [limits], 256 KiB, and at most its \
                queued_bytes_total_max, 32 MiB";
    for (rule, expected) in [
        (
            "overflow = \"drop\"",
            "overflow: found \"drop\", expected \"drop-oldest\"",
        ),
        (
            "client = \"a*\"",
            "sets nothing, expected one of messages_max, bytes_max, spill_bytes_max, overflow, qos0",
        ),
        ("client = []\nqos0 = true", "client: expected at least one"),
        ("topics = \"a/#/b\"\nqos0 = true", "topics: found \"a/#/b\""),
        (
            "topics = \"$share/g/a\"\nqos0 = true",
            "expected a filter that is not shared",
        ),
        (
            "topics = \"a\"\nmessages_max = 64",
            "messages_max: found beside topics",
        ),
        (
            "messages_max = 100",
            "messages_max: found 100, expected 16, 64, 256, 1024 or 4096",
        ),
        ("bytes_max = 1024", size),
        ("overflows = \"reject\"", "did you mean \"overflow\""),
    ] {
        let mistakes = told(&format!("[[queue]]\n{rule}\n"));
        assert!(
            mistakes.iter().any(|told| told.contains(expected)),
            "{rule}: {mistakes:?}"
        );
    }
    let many = "[[queue]]\nqos0 = true\n".repeat(65);
    assert!(told(&many)[0].contains("found 65 tables, expected at most 64"));
}

#[test]
fn every_mistake_of_a_file_is_told() {
    let text = r#"
[gatway]
name = "x"
[gateway]
name = "a/#"
log = 3
board = "pi-4"
[listener.a]
adress = "127.0.0.1:1883"
[listener.b]
address = "localhost:1883"
anonymous = "yes"
tls = true
[limits]
connections_max = 0
session_expiry_max = "1 week"
[authentication]
password_file = "nobody"
"#;
    assert_eq!(
        told(text),
        [
            "t.toml:2: gatway: unknown key, did you mean \"gateway\"?",
            "t.toml:5: gateway.name: found \"a/#\", holds '+' or '#', which only a topic filter may",
            "t.toml:6: gateway.log: found the integer 3, expected \"error\", \"warn\", \"info\", \"debug\" or \
             \"trace\"",
            "t.toml:7: gateway.board: found \"pi-4\", expected \"auto\" or one of base, beaglebone-black, imx6ull, \
             pi-3b, pi-4b, pi-5, pi-zero-w; did you mean \"pi-4b\"?",
            "t.toml:8: listener.a.address: missing, expected an address with port such as \"127.0.0.1:1883\" or \
             \"[::]:8883\", a socket such as \"unix:/run/tidegate/mqtt.sock\", or a list of them",
            "t.toml:9: listener.a.adress: unknown key, did you mean \"address\"?",
            "t.toml:11: listener.b.address: found \"localhost:1883\", expected an address with port such as \
             \"127.0.0.1:1883\" or \"[::]:8883\", or a socket such as \"unix:/run/tidegate/mqtt.sock\"",
            "t.toml:12: listener.b.anonymous: found \"yes\", expected true or false",
            "t.toml:13: listener.b.tls: found true, expected a table",
            "t.toml:15: limits.connections_max: found the integer 0, expected an integer from 1 to 65536",
            "t.toml:16: limits.session_expiry_max: found \"1 week\", expected a duration such as \"10s\"",
            "t.toml:18: authentication.password_file: cannot read nobody: No such file or directory (os error 2); \
             make it with \"tidegate passwd nobody NAME\", or remove this key",
        ]
    );
}

#[test]
fn what_is_no_toml_is_told_with_line_and_column() {
    let told = told("[gateway]\nname = \n[gateway]\nlog = 'info'\n");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("t.toml:2:"), "{}", told[0]);
    assert!(told[1].starts_with("t.toml:3:2: duplicate key"), "{}", told[1]);
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let mistakes = config::load(Path::new("/nonexistent/t.toml"), None).expect_err("not there");
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["/nonexistent/t.toml: cannot be read: No such file or directory (os error 2)"]
    );
}

#[test]
fn a_listener_off_loopback_without_tls_is_refused() {
    assert_eq!(
        told(
            "[authentication]\npassword_file = 'users'\n[listener.lan]\naddress = ['127.0.0.1:1', '0.0.0.0:1883']\n"
        ),
        [
            "t.toml:4: listener.lan.address: 0.0.0.0:1883 is off loopback and has no TLS, so passwords and data could \
             be read and changed on the way; add [listener.lan.tls], listen on 127.0.0.1, or write \
          allow_plaintext_off_loopback = true if that is what you want"
        ]
    );
}

#[test]
fn a_listener_off_loopback_that_asks_nobody_is_refused() {
    let tls = "[listener.lan.tls]\ncertificate = 'c'\nkey = 'k'\n";
    assert_eq!(
        told(&format!(
            "[listener.lan]\naddress = '[::]:8883'\nanonymous = true\n{tls}"
        )),
        [
            "t.toml:3: listener.lan.anonymous: [::]:8883 is off loopback, so everybody who reaches it could read and \
          publish everything; remove this key and set password_file in [authentication], ask for client \
          certificates, or write allow_anonymous_off_loopback = true if that is what you want"
        ]
    );
}

#[test]
fn each_danger_has_its_own_word() {
    let plaintext = "allow_plaintext_off_loopback = true\n";
    let anonymous = "anonymous = true\nallow_anonymous_off_loopback = true\n";
    let listener = "[listener.lan]\naddress = '0.0.0.0:1883'\n";
    assert_eq!(
        told(&format!("{listener}{plaintext}anonymous = true\n")).len(),
        1,
        "still anonymous"
    );
    assert_eq!(told(&format!("{listener}{anonymous}")).len(), 1, "still plain");
    let settings = settings(&format!("{listener}{plaintext}{anonymous}"));
    assert!(settings.listeners[0].policy.anonymous);
}

#[test]
fn a_listener_nobody_could_come_through_is_refused() {
    assert_eq!(
        told("[listener.lan]\naddress = '127.0.0.1:1883'\nanonymous = false\n"),
        [
            "t.toml:1: listener.lan: nobody could come in: it asks for a user name and password and there is no \
          password_file in [authentication]; make one with \"tidegate passwd FILE NAME\", ask for client \
          certificates in its tls table, or set anonymous = true"
        ]
    );
}

#[test]
fn anonymous_is_the_default_only_where_it_can_hurt_nobody() {
    let anonymous = |text: &str| settings(text).listeners[0].policy.anonymous;
    let users = "[authentication]\npassword_file = 'users'\n";
    let tls =
        "[listener.a.tls]\ncertificate = 'c'\nkey = 'k'\nclient_certificates = 'required'\nclient_ca = 'a'\n";
    let loopback = "[listener.a]\naddress = '127.0.0.1:1'\n";
    let lan = "[listener.a]\naddress = '192.168.0.1:1'\n";
    assert!(anonymous(loopback));
    assert!(!anonymous(&format!("{users}{loopback}")));
    assert!(!anonymous(&format!("{loopback}{tls}")));
    assert!(!anonymous(&format!("{lan}{tls}")));
    assert!(!anonymous(users), "the doors nobody named ask for passwords, too");
}

#[test]
fn required_client_certificates_are_proof_enough_for_anonymous_clients_off_loopback() {
    let text = "[listener.a]\naddress = '0.0.0.0:8883'\nanonymous = true\n[listener.a.tls]\ncertificate = 'c'\n\
                key = 'k'\nclient_ca = 'a'\nuser_name = 'none'\nclient_certificates = ";
    assert!(
        settings(&format!("{text}'required'")).listeners[0]
            .policy
            .anonymous
    );
    let told = told(&format!("{text}'optional'"));
    assert_eq!(told.len(), 1, "who shows none has proved nothing: {told:#?}");
}

#[test]
fn client_certificates_name_their_user_by_common_name() {
    let text = "[listener.a]\naddress = '0.0.0.0:8883'\n[listener.a.tls]\ncertificate = 'c'\nkey = 'k'\n\
                client_ca = 'a'\nclient_certificates = 'required'\n";
    let settings = settings(text);
    let tls = settings.listeners[0].net.tls.as_ref().expect("TLS");
    assert_eq!(tls.user_name_from, Some(CertificateField::CommonName));
}

#[test]
fn a_certificate_may_say_which_identifier_its_client_has_where_everybody_shows_one() {
    let text = "[listener.a]\naddress = '127.0.0.1:8883'\nanonymous = false\n[listener.a.tls]\ncertificate = 'c'\n\
                key = 'k'\nclient_ca = ['a', 'b']\ncrl = 'l'\ncrl_expired = 'accept'\nclient_id = 'san-dns'\n\
                client_certificates = ";
    let settings = settings(&format!("{text}'required'"));
    let tls = settings.listeners[0].net.tls.as_ref().expect("TLS");
    assert_eq!(tls.client_id_from, Some(CertificateField::SanDns));
    let ClientCertificates::Required(trust) = &tls.client_certificates else {
        panic!("{:?}", tls.client_certificates);
    };
    assert_eq!((trust.ca.len(), trust.crl.len()), (2, 1));
    assert_eq!(
        (trust.crl_missing, trust.crl_expired),
        (Doubt::Refuse, Doubt::Accept)
    );

    let told = told(&format!("{text}'optional'"));
    assert!(
        told.len() == 1 && told[0].contains("listener.a.tls.client_id: needs"),
        "{told:?}"
    );
}

#[test]
fn keys_about_certificates_that_contradict_each_other_are_mistakes() {
    let tls = "[listener.a.tls]\ncertificate = 'c'\nkey = 'k'\nclient_certificates = 'required'\n";
    let door = "[listener.a]\naddress = '127.0.0.1:8883'\n";
    for (text, expected) in [
        (
            format!("{door}{tls}client_ca = 'a'\ncrl_missing = 'accept'\n"),
            "crl_missing: has no effect without crl",
        ),
        (
            format!("{door}{tls}client_ca = []\n"),
            "client_ca: found a list of 0",
        ),
        (
            format!("{door}client_ids = 'user'\n{tls}client_ca = 'a'\nclient_id = 'common-name'\n"),
            "client_ids: and client_id of the tls table",
        ),
    ] {
        let told = told(&text);
        assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
    }
}

#[test]
fn a_security_key_without_effect_is_a_mistake() {
    let text = "[listener.a]\naddress = '127.0.0.1:8883'\n[listener.a.tls]\ncertificate = 'c'\nkey = 'k'\n\
                client_ca = 'a'\nuser_name = 'san-dns'\n";
    let because = "has no effect while client_certificates is \"none\"; expected client_certificates = \"required\" or \
                   \"optional\" beside it";
    assert_eq!(
        told(text),
        [
            format!("t.toml:6: listener.a.tls.client_ca: {because}"),
            format!("t.toml:7: listener.a.tls.user_name: {because}")
        ]
    );
}

#[test]
fn tls_without_its_files_and_an_unknown_security_key_are_mistakes() {
    let text = "[listener.a]\naddress = '127.0.0.1:8883'\n[listener.a.tls]\ncert = 'c'\n\
                client_certificates = 'requierd'\nverify = true\n";
    assert_eq!(
        told(text),
        [
            "t.toml:3: listener.a.tls.certificate: missing, expected the path of a PEM file",
            "t.toml:3: listener.a.tls.key: missing, expected the path of a PEM file",
            "t.toml:4: listener.a.tls.cert: unknown key, did you mean \"certificate\"?",
            "t.toml:5: listener.a.tls.client_certificates: found \"requierd\", expected \"none\", \"optional\" or \
             \"required\", did you mean \"required\"?",
            "t.toml:6: listener.a.tls.verify: unknown key, expected \"certificate\", \"key\", \"client_certificates\", \
             \"client_ca\", \"crl\", \"crl_missing\", \"crl_expired\", \"crl_depth\", \"user_name\" or \"client_id\"",
        ]
    );
}

#[test]
fn a_websocket_table_reaches_the_settings_of_its_listener() {
    let websocket = |keys: &str| {
        let text = format!("[listener.web]\naddress = '127.0.0.1:9001'\n[listener.web.websocket]\n{keys}\n");
        settings(&text).listeners[0]
            .net
            .websocket
            .clone()
            .expect("there is the table")
    };
    let plain = websocket("");
    assert_eq!(
        (plain.paths, plain.origins),
        (vec!["/mqtt".to_owned()], Origins::SameHost)
    );
    let full =
        websocket("path = ['/', '/ws/mqtt']\norigins = ['https://Page.example', 'http://10.0.0.5:8080']");
    assert_eq!(full.paths, ["/", "/ws/mqtt"]);
    let listed =
        ["https://page.example", "http://10.0.0.5:8080"].map(|text| text.parse().expect("an origin"));
    assert_eq!(full.origins, Origins::Listed(listed.into()));
    assert_eq!(websocket("origins = ['*']").origins, Origins::Any);
    assert_eq!(websocket("origins = []").origins, Origins::Listed(Vec::new()));
    assert!(
        settings("[listener.web]\naddress = '127.0.0.1:9001'\n").listeners[0]
            .net
            .websocket
            .is_none()
    );
}

#[test]
fn every_mistake_of_a_websocket_table_is_told() {
    let text = r#"
[listener.web]
address = "127.0.0.1:9001"
[listener.web.websocket]
path = ["mqtt", "/a b", "/a?b"]
origins = ["*", "dashboard.example", "https://page.example/path"]
orgins = []
[listener.other]
address = "127.0.0.1:9002"
[listener.other.websocket]
path = []
origins = "x"
[listener.third]
address = "127.0.0.1:9003"
websocket = true
"#;
    let origin = "expected an origin such as \"https://dashboard.example\" or \"http://10.0.0.5:8080\", without a path";
    let path = "expected a path such as \"/mqtt\", as it stands in a URL";
    assert_eq!(
        told(text),
        [
            format!("t.toml:5: listener.web.websocket.path: found \"mqtt\", {path}"),
            format!("t.toml:5: listener.web.websocket.path: found \"/a b\", {path}"),
            format!("t.toml:5: listener.web.websocket.path: found \"/a?b\", {path}"),
            "t.toml:6: listener.web.websocket.origins: found \"*\" beside others, which lets every page in; expected \
             it alone, or without it"
                .to_owned(),
            format!("t.toml:6: listener.web.websocket.origins: found \"dashboard.example\", {origin}"),
            format!("t.toml:6: listener.web.websocket.origins: found \"https://page.example/path\", {origin}"),
            "t.toml:7: listener.web.websocket.orgins: unknown key, did you mean \"origins\"?".to_owned(),
            "t.toml:11: listener.other.websocket.path: found an empty list, expected at least one path".to_owned(),
            format!("t.toml:12: listener.other.websocket.origins: found \"x\", {origin}"),
            "t.toml:15: listener.third.websocket: found true, expected a table".to_owned(),
        ]
    );
}

#[test]
fn a_websocket_listener_off_loopback_needs_tls_as_any_other() {
    let told = told("[listener.web]\naddress = '0.0.0.0:9001'\nanonymous = true\n[listener.web.websocket]\n");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(
        told[0].contains("is off loopback and has no TLS") && told[1].contains("anonymous"),
        "{told:#?}"
    );
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let text = "[listener.a]\naddress = '127.0.0.1:1883'\n[listener.b]\n\
                address = ['127.0.0.1:1884', '127.0.0.1:1883']\n";
    assert_eq!(
        told(text),
        [
            "t.toml:4: listener.b.address: 127.0.0.1:1883 is taken, listener.a listens on 127.0.0.1:1883; expected \
          another address or port"
        ]
    );
    let all = "[listener.a]\naddress = ['127.0.0.1:1883', '0.0.0.0:1883']\nallow_plaintext_off_loopback = true\n\
               anonymous = true\nallow_anonymous_off_loopback = true\n";
    assert_eq!(told(all).len(), 1, "0.0.0.0 takes every address");
    assert_eq!(
        settings("[listener.a]\naddress = ['127.0.0.1:0', '127.0.0.1:0', '[::1]:1', '127.0.0.1:1']")
            .listeners
            .len(),
        4
    );
}

#[test]
fn a_listener_cannot_have_more_connections_than_the_gateway() {
    assert_eq!(
        told("[gateway]\nboard = 'base'\n[listener.a]\naddress = '127.0.0.1:1'\nconnections_max = 300\n"),
        ["t.toml:5: listener.a.connections_max: found 300, expected at most the 256 of [limits]"]
    );
}

#[test]
fn limits_that_do_not_fit_the_boards_memory_stop_the_start() {
    let of = |limits: &str| {
        told(&format!(
            "[gateway]\nboard = 'imx6ull'\n[limits]\n{limits}\n[listener.a]\naddress = '127.0.0.1:1'\n"
        ))
    };
    assert_eq!(
        of("memory_bytes_max = '200 MiB'"),
        [
            "t.toml:4: limits.memory_bytes_max: memory_bytes_max is 200 MiB, expected at most 114688 KiB: half of the \
             256 MiB this board has, less 12 MiB for the program and 4 MiB for a password check; lower it, or write a \
             profile of a board with more ram_mib"
        ]
    );
    let [of_numbers] = &of("retained_max = 1000000")[..] else {
        panic!("one mistake");
    };
    assert!(
        of_numbers.starts_with(
            "t.toml:4: limits.retained_max: memory_bytes_max is 48 MiB, and the numbers alone need "
        ),
        "{of_numbers}"
    );
    assert!(
        of_numbers.ends_with("lower one of these, or raise it"),
        "{of_numbers}"
    );
}

#[test]
fn a_listener_that_is_no_table_and_an_empty_list_are_told() {
    assert_eq!(
        told("[listener]\nlan = '0.0.0.0:1883'\n[listener.a]\naddress = []\n"),
        [
            "t.toml:2: listener.lan: found \"0.0.0.0:1883\", expected a table: name it, as in [listener.NAME]",
            "t.toml:4: listener.a.address: found an empty list, expected at least one address",
        ]
    );
    assert_eq!(
        told("[listener]\n"),
        ["t.toml:1: listener: no listener, expected at least one table such as [listener.NAME]"]
    );
}

#[test]
fn a_password_file_that_is_wrong_in_one_line_stops_the_start() {
    let folder = Folder::new();
    let good = fs::read_to_string(folder.path("users")).expect("text");
    folder.write("users", &format!("{good}bob\n"), 0o600);
    let text = "[authentication]\npassword_file = 'users'\n";
    assert_eq!(
        folder.load(text).expect_err("wrong"),
        ["users:2: found no colon, expected NAME:$argon2id$…; add users with \"tidegate passwd FILE NAME\""]
    );
    folder.write("users", "", 0o600);
    assert_eq!(
        folder.load(text).expect_err("empty"),
        [
            "users:1: found no user, expected at least one; add one with \"tidegate passwd FILE NAME\", or remove \
          password_file from the configuration"
        ]
    );
    folder.write("users", &good, 0o666);
    assert_eq!(
        folder.load(text).expect_err("writable"),
        [
            "t.toml:2: authentication.password_file: users has permissions 0666, so others may add users; expected \
             0600 or 0640 (chmod 600)"
        ]
    );
}

#[test]
fn a_weak_hash_of_mosquitto_is_right_and_worth_a_warning() {
    let folder = Folder::new();
    let good = fs::read_to_string(folder.path("users")).expect("text");
    let weak = "old:$6$BtyM5VLKIHrKlsjj$xKTS+OOZqz/4Cn7qzmIgYvWgOeR7OQhzowW9CmaobEy60YUxcVVM5qwvaaIqYa4X5mcPbWnM\
                Wckm9UvYtgRgyw==";
    folder.write("users", &format!("{good}{weak}\n"), 0o600);
    let settings = folder
        .load("[authentication]\npassword_file = 'users'\n")
        .expect("right");
    let told: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("\"old\", line 2 of"), "{told:?}");
    assert!(settings.users.is_some_and(|users| users.contains("old")));
}

#[test]
fn every_mistake_about_tokens_is_told_and_none_lets_the_gateway_start() {
    let folder = Folder::new();
    folder.write("secret", "a secret of more than 32 characters\n", 0o600);
    folder.write("short", "0123456789\n", 0o600);
    folder.write("open", "a secret of more than 32 characters\n", 0o644);
    folder.write("keys", "no keys\n", 0o600);
    let told = |text: &str| {
        let text = format!("[authentication.jwt]\n{text}");
        folder.load(&text).expect_err("wrong").join("; ")
    };
    for (text, expected) in [
        ("", "authentication.jwt.keys"),
        (
            "secret = 'short'\n",
            "short: the secret is too short, expected at least 32 bytes",
        ),
        (
            "secret = 'open'\n",
            "open has permissions 0644, so everybody may read the secret",
        ),
        ("secret = 'nowhere'\n", "cannot read nowhere"),
        ("keys = 'keys'\n", "keys: found no key, expected"),
        ("keys = ['keys', 'nowhere']\n", "cannot read nowhere"),
        (
            "secret = 'secret'\nalgorithms = ['none']\n",
            "found \"none\", expected \"RS256\"",
        ),
        ("secret = 'secret'\nalgorithms = ['ES256']\n", "no key is left"),
        (
            "secret = 'secret'\nissuer = ''\n",
            "authentication.jwt.issuer: found \"\"",
        ),
        ("secret = 'secret'\nleeway = '1h'\n", "authentication.jwt.leeway"),
        ("secret = 'secret'\nkey = 'x'\n", "authentication.jwt.key"),
    ] {
        let told = told(text);
        assert!(told.contains(expected), "{text:?}: {told}");
    }
    let settings = folder
        .load("[authentication.jwt]\nsecret = 'secret'\nalgorithms = ['HS256']\n")
        .expect("right");
    assert_eq!(settings.tokens.map(|tokens| tokens.keys()), Some(1));
    assert!(settings.choices.takes_tokens);
    assert!(
        !settings.listeners[0].policy.anonymous,
        "who can prove who he is has to"
    );
}

#[test]
fn a_password_file_that_cannot_be_read_stops_the_start() {
    let folder = Folder::new();
    let text = "[authentication]\npassword_file = 'users'\n";
    assert!(folder.load(text).is_ok());
    fs::remove_file(folder.path("users")).expect("removed");
    let told = |mistakes: Vec<String>| {
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains("users"), "{mistakes:?}");
    };
    told(folder.load(text).expect_err("not there"));
    fs::create_dir(folder.path("users")).expect("made");
    told(folder.load(text).expect_err("a folder"));
    fs::remove_dir(folder.path("users")).expect("removed");
    fs::write(folder.path("users"), b"alice:\xFF\xFE\n").expect("written");
    fs::set_permissions(folder.path("users"), fs::Permissions::from_mode(0o600)).expect("permitted");
    told(folder.load(text).expect_err("no text"));
}

#[test]
fn check_tries_the_files_that_load_leaves_to_their_users() {
    let folder = Folder::new();
    fs::write(folder.path("state"), "in the way").expect("written");
    let text = "[gateway]\nstate_directory = 'state'\n[listener.a]\naddress = '127.0.0.1:8883'\nanonymous = true\n\
                [listener.a.tls]\ncertificate = 'server.pem'\nkey = 'key.pem'\n";
    assert!(folder.load(text).is_ok());
    assert_eq!(
        folder.check(text).expect_err("no such files"),
        [
            "t.toml:2: gateway.state_directory: state is no folder, expected one or nothing yet",
            "t.toml:6: listener.a.tls: cannot read server.pem: No such file or directory (os error 2)",
        ]
    );
}

const SENSOR: &str = r#"
[serial.climate]
path = "/dev/ttyUSB7"
line = "115200 7E1"
reopen_min = "1s"
reopen_max = "10s"
[serial.climate.lines]
format = "key-value"
device = "hall"
topic = "plant/{device}/{point}"
payload = "json"
stale_after = "10s"
[[serial.climate.lines.point]]
name = "temperature"
key = "t"
unit = "°C"
scale = 0.1
decimals = 1
valid_min = -40
valid_max = 85
[[serial.climate.lines.point]]
name = "state"
kind = "text"
qos = 1
retain = true
payload = "value"
"#;

#[test]
fn a_sensor_reaches_the_settings_of_its_port() {
    let settings = settings(SENSOR);
    let [port] = &settings.serial[..] else {
        panic!("{:#?}", settings.serial)
    };
    assert_eq!(
        (port.name().as_str(), port.path()),
        ("climate", Path::new("/dev/ttyUSB7"))
    );
    assert_eq!(port.line(), "115200 7E1".parse().expect("a line"));
    assert_eq!(port.reopen().min(), Duration::from_secs(1));
    let (device, _) = port.devices().next().expect("one device");
    assert_eq!(device.name().as_str(), "hall");
    let [temperature, state] = device.points() else {
        panic!("{:#?}", device.points())
    };
    assert_eq!(temperature.topic.as_str(), "plant/hall/temperature");
    assert_eq!(temperature.unit.as_deref(), Some("°C"));
    assert_eq!(temperature.stale_after, Some(Duration::from_secs(10)));
    assert!(!temperature.retain && state.retain);
    assert_ne!(temperature.payload, state.payload);
}

#[test]
fn every_mistake_about_a_sensor_is_told_where_it_stands() {
    let text = r#"[serial."a/b"]
path = "ttyUSB0"
line = "9600 9N1"
reopen_min = "1m"
[serial."a/b".lines]
format = "csv"
pattern = "x"
topic = "a/{pont}"
[[serial."a/b".lines.point]]
name = "one"
[[serial."a/b".lines.point]]
column = 0
key = "k"
scale = 0
[[serial."a/b".lines.point]]
name = "two"
column = 2
qos = 3
kind = "text"
unit = ""
decimals = 2
"#;
    assert_eq!(
        told(text),
        [
            "t.toml:1: serial.a/b: the name of the port: '/' found, expected a name without '/', '+', '#' and control \
             characters, not starting with '$' or a space",
            "t.toml:2: serial.a/b.path: found \"ttyUSB0\", expected an absolute path such as \
             \"/dev/serial/by-id/usb-FTDI_...\"",
            "t.toml:3: serial.a/b.line: found \"9600 9N1\", character \"9N1\", expected data bits (5 to 8), parity (N, \
             E or O) and stop bits (1 or 2), such as 8N1 or 7E1",
            "t.toml:4: serial.a/b.reopen_min: reopen_min is longer than reopen_max, expected it to be shorter",
            "t.toml:7: serial.a/b.lines.pattern: has no effect with format \"csv\", expected it with \"regex\" only",
            "t.toml:8: serial.a/b.lines.topic: found \"a/{pont}\", unknown placeholder {pont}, expected {gateway}, \
             {port}, {device} or {point}",
            "t.toml:9: serial.a/b.lines.point.column: missing, expected an integer from 1",
            "t.toml:11: serial.a/b.lines.point.name: missing, expected a name such as \"temperature\"",
            "t.toml:12: serial.a/b.lines.point.column: found the integer 0, expected an integer from 1 to 65535",
            "t.toml:13: serial.a/b.lines.point.key: has no effect with this format, expected column",
            "t.toml:14: serial.a/b.lines.point.scale: expected a finite scale other than 0",
            "t.toml:18: serial.a/b.lines.point.qos: found the integer 3, expected an integer from 0 to 2",
            "t.toml:20: serial.a/b.lines.point.unit: found \"\", expected a text such as \"°C\"",
            "t.toml:21: serial.a/b.lines.point.decimals: has no effect on kind \"text\", expected it with \"number\" \
             only",
        ]
    );
}

#[test]
fn a_capture_the_pattern_does_not_have_is_told_at_its_point() {
    let text = r#"[serial.a]
path = "/dev/ttyUSB7"
[serial.a.lines]
format = "regex"
pattern = "T=(?<temperature>[0-9.]+)"
[[serial.a.lines.point]]
name = "temperature"
[[serial.a.lines.point]]
name = "humidity"
"#;
    assert_eq!(
        told(text),
        [
            "t.toml:8: serial.a.lines.point: point humidity is capture humidity, which the pattern does not have; \
          expected one of temperature"
        ]
    );
}

#[test]
fn points_that_share_a_name_or_a_topic_are_refused() {
    let points = |first: &str, second: &str| {
        format!(
            "[serial.a]\npath = '/dev/ttyUSB7'\n[serial.a.lines]\nformat = 'json'\n\
             [[serial.a.lines.point]]\n{first}\n[[serial.a.lines.point]]\n{second}\n"
        )
    };
    assert_eq!(
        told(&points("name = 'x'", "name = 'x'")),
        ["t.toml:8: serial.a.lines.point.name: \"x\" stands twice, expected a different name"]
    );
    assert_eq!(
        told(&points("name = 'x'", "name = 'y'\ntopic = '{gateway}/a/a/x'")),
        [
            "t.toml:9: serial.a.lines.point.topic: publishes on tidegate/a/a/x, as point x does; expected a topic of \
             its own, with {point} in it"
        ]
    );
}

#[test]
fn two_ports_on_one_device_or_one_topic_are_refused() {
    let second = SENSOR.replace("serial.climate", "serial.second");
    let told = told(&format!("{SENSOR}{second}"));
    assert_eq!(
        told[0],
        "t.toml:28: serial.second: publishes on tidegate/device/hall/status, as [serial.climate] does; \
                         expected another name of the device, or another topic"
    );
    assert_eq!(
        told.last().map(String::as_str),
        Some(
            "t.toml:29: serial.second.path: /dev/ttyUSB7 is the port of [serial.climate] already, expected another one"
        )
    );
}

#[test]
fn parity_on_a_uart_without_it_is_refused_with_the_way_out() {
    let sensor = SENSOR.replace("/dev/ttyUSB7", "/dev/serial0");
    assert_eq!(
        told(&format!("[gateway]\nboard = 'pi-3b'\n{sensor}")),
        [
            "t.toml:6: serial.climate.line: found \"115200 7E1\", expected a line without parity, for /dev/serial0 is \
             the mini-UART of the Raspberry Pi 3 Model B, B+, which has none; with parity take a USB adapter, or \
          /dev/ttyAMA0 (config.txt: dtoverlay=disable-bt)"
        ]
    );
    settings(&format!(
        "[gateway]\nboard = 'pi-3b'\n{}",
        sensor.replace("7E1", "8N1")
    ));
    settings(&format!("[gateway]\nboard = 'base'\n{sensor}"));
    settings(&format!(
        "[gateway]\nboard = 'pi-3b'\n{}",
        SENSOR.replace("ttyUSB7", "ttyAMA0")
    ));
}

#[test]
fn a_topic_longer_than_the_limit_is_refused() {
    let sensor = SENSOR.replace("plant/{device}", &"x".repeat(250));
    let told = told(&format!("[gateway]\nboard = 'base'\n{sensor}"));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].ends_with("has 262 bytes, expected at most the 256 of topic_bytes_max in [limits]"),
        "{}",
        told[0]
    );
}

#[test]
fn mistakes_in_a_board_profile_are_told_with_those_of_the_file() {
    let folder = Folder::new();
    fs::write(folder.path("boards/acme.toml"), "titel = 'x'\n").expect("written");
    assert_eq!(
        folder.load("[gateway]\nnam = 'x'\n").expect_err("wrong"),
        [
            "boards/acme.toml:1: titel: unknown key, did you mean \"title\"?",
            "t.toml:2: gateway.nam: unknown key, did you mean \"name\"?",
        ]
    );
}

#[test]
fn no_cut_and_no_flipped_byte_of_a_file_panics() {
    let folder = Folder::new();
    let text = format!("[gateway]\nname = 'x'\n[listener.a]\naddress = '127.0.0.1:1'\n{SENSOR}");
    for end in (0..text.len()).step_by(3) {
        if let Some(cut) = text.get(..end) {
            let _ = folder.load(cut);
        }
    }
    for at in (0..text.len()).step_by(5) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = b'[' ^ (bytes[at] & 7);
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = folder.load(&text);
        }
    }
    assert!(folder.load(&text).is_ok(), "the whole file is right");
}

/// Runs the program; what it printed, what it complained about, and its exit code.
fn run(arguments: &[&str], input: &str) -> (String, String, Option<i32>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that wants no input may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_check_command_tells_every_mistake_and_exits_with_2() {
    let folder = Folder::new();
    let (file, boards) = (folder.path("t.toml"), folder.path("boards"));
    let (file, boards) = (file.to_str().expect("text"), boards.to_str().expect("text"));
    fs::write(file, "[gateway]\nnam = 'x'\nlog = 'loud'\n").expect("written");
    let (out, err, code) = run(&["check", "--config", file, "--boards", boards], "");
    assert_eq!((out.as_str(), code), ("", Some(2)));
    assert_eq!(
        err,
        format!(
            "{file}:2: gateway.nam: unknown key, did you mean \"name\"?\n\
             {file}:3: gateway.log: found \"loud\", expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\"\n\
             tidegate: 2 mistakes in the configuration\n"
        )
    );
    fs::write(file, "[gateway]\nname = 'x'\n").expect("written");
    let (out, err, code) = run(&["check", "--config", file, "--boards", boards], "");
    assert!(
        out.starts_with(&format!("{file} is right\n  gateway:  x\n")),
        "{out}"
    );
    let queues =
        "\n  queues:   1024 messages or 1 MiB at most for a client; 32 MiB for all: 32 full ones, or ";
    assert!(out.contains(queues), "{out}");
    assert_eq!((err.as_str(), code), ("", Some(0)));
}

#[test]
fn the_passwd_command_adds_checks_changes_and_removes_users() {
    let folder = Folder::new();
    let (file, boards) = (folder.path("new"), folder.path("boards"));
    let (file, boards) = (file.to_str().expect("text"), boards.to_str().expect("text"));
    let passwd = |name: &str, option: &str, input: &str| {
        let (out, _, code) = run(&["passwd", file, name, option, "--boards", boards], input);
        (out, code)
    };
    let said = |text: &str, code| (format!("{text}\n"), Some(code));
    assert_eq!(passwd("alice", "--stdin", "tide\n"), said("added alice", 0));
    assert_eq!(passwd("bob", "--stdin", "ebb\r\n"), said("added bob", 0));
    assert_eq!(passwd("alice", "--stdin", "flood"), said("changed alice", 0));
    let check = |name: &str, password: &str| {
        run(&["passwd", file, name, "--check", "--stdin"], password)
            .2
            .expect("an exit code")
    };
    assert_eq!(
        (
            check("alice", "flood"),
            check("alice", "tide"),
            check("bob", "ebb"),
            check("eve", "ebb")
        ),
        (0, 1, 0, 1)
    );
    assert_eq!(passwd("bob", "--delete", ""), said("removed bob", 0));
    assert_eq!(passwd("alice", "--delete", "").1, Some(1), "the last user stays");
    assert_eq!(
        passwd("eve", "--stdin", "\n").1,
        Some(1),
        "an empty password is none"
    );
    assert_eq!(
        passwd("a:b", "--stdin", "x").1,
        Some(2),
        "a colon would end the name"
    );
    let text = fs::read_to_string(file).expect("text");
    assert!(
        text.starts_with("alice:$argon2id$v=19$m=4096,t=3,p=1$") && text.lines().count() == 1,
        "{text}"
    );
    assert_eq!(
        fs::metadata(file).expect("there").permissions().mode() & 0o777,
        0o600
    );
}

// Doors of every kind.

#[test]
fn a_listener_is_read_with_all_it_grants() {
    let settings = settings(
        "[authentication]\npassword_file = 'users'\n[listener.a]\naddress = ['unix:/run/mqtt.sock', '127.0.0.1:1']\n\
         mode = '0600'\nowner = 'root'\ngroup = '7'\npeer_user_name = true\nconnections_max = 10\n\
         connections_per_address_max = 3\nconnect_rate_max = 50\nversions = ['3.1.1', '5.0']\n\
         strict_client_ids = true\nclient_ids = 'user-prefix'\nmount_point = 'plant1'\n\
         packet_bytes_max = '2 KiB'\nkeep_alive_max = '1m'\n\
         receive_maximum = 5\ntopic_alias_maximum = 0\nsession_expiry_max = '1h'\n\
         [listener.b]\naddress = '127.0.0.1:2'\nproxy_protocol = true\nproxy_from = ['10.0.0.0/8', '::1']\n\
         proxy_user_name = 'common-name'\n",
    );
    let [socket, plain, balanced] = &settings.listeners[..] else {
        panic!("expected three doors: {:#?}", settings.listeners);
    };
    let unix = UnixEndpoint {
        path: "/run/mqtt.sock".into(),
        mode: 0o600,
        owner: Some(0),
        group: Some(7),
    };
    assert_eq!(socket.net.endpoint, Endpoint::Unix(unix));
    assert!(socket.net.peer_user_name && !plain.net.peer_user_name);
    assert_eq!(plain.net.connections_max, 10);
    assert_eq!(plain.net.connections_per_address_max, Some(3));
    assert_eq!(plain.net.connect_rate_max, Some(50));
    assert_eq!(socket.policy, plain.policy);
    let expected = ListenerPolicy {
        versions: [ProtocolVersion::V311, ProtocolVersion::V5].into_iter().collect(),
        mount_point: MountPoint::parse("plant1/").ok(),
        packet_bytes_max: Some(2048),
        keep_alive_max_secs: Some(60),
        receive_maximum: Some(5),
        topic_alias_maximum: Some(0),
        session_expiry_max: Some(Duration::from_secs(3600)),
        strict_client_ids: true,
        client_ids: ClientIds::UserPrefix,
        ..ListenerPolicy::new("a", false)
    };
    assert_eq!(plain.policy, expected);
    let proxy = balanced.net.proxy.as_ref().expect("it stands behind a balancer");
    assert!(proxy.common_name_is_user);
    let from: Vec<String> = proxy.from.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["10.0.0.0/8", "::1/128"]);
}

#[test]
fn identifiers_kept_for_users_and_clients_without_a_user_name_do_not_go_together() {
    assert_eq!(
        told("[listener.a]\naddress = '127.0.0.1:1'\nclient_ids = 'user'\n"),
        [
            "t.toml:3: listener.a.client_ids: keeps out everybody who gives no user name, whom this listener lets in; \
             expected anonymous = false beside it"
        ]
    );
}

#[test]
fn every_mistake_of_a_unix_socket_is_told() {
    assert_eq!(
        told(
            "[listener.a]\naddress = ['unix:run/x', 'unix:/run/a', 'unix:/run/a']\nmode = '0888'\n\
             owner = 'no-such-user'\ngroup = 'no-such-group'\n"
        ),
        [
            "t.toml:2: listener.a.address: found \"unix:run/x\", expected a path from the root to a file such as \
             \"unix:/run/tidegate/mqtt.sock\"",
            "t.toml:2: listener.a.address: unix:/run/a is taken, listener.a listens on unix:/run/a; expected \
             another path",
            "t.toml:3: listener.a.mode: found \"0888\", expected permissions in octal such as \"0660\"",
            "t.toml:4: listener.a.owner: found \"no-such-user\", there is no user \"no-such-user\" in /etc/passwd",
            "t.toml:5: listener.a.group: found \"no-such-group\", there is no group \"no-such-group\" in /etc/group",
        ]
    );
    let no_effect = "has no effect without a Unix socket; expected one such as \"unix:/run/tidegate/mqtt.sock\" \
    in address";
    assert_eq!(
        told(
            "[listener.a]\naddress = '127.0.0.1:1'\nmode = '0600'\npeer_user_name = true\nanonymous = true\n"
        ),
        [
            format!("t.toml:3: listener.a.mode: {no_effect}"),
            format!("t.toml:4: listener.a.peer_user_name: {no_effect}"),
        ]
    );
    let of_tcp = "cannot be had on a Unix socket, which never leaves this machine; expected a listener of its \
    own for the \
                  Unix socket";
    assert_eq!(
        told(
            "[listener.a]\naddress = 'unix:/run/a'\nanonymous = true\nallow_anonymous_off_loopback = true\n\
             proxy_protocol = true\nproxy_from = '10.0.0.1'\n\
             [listener.a.tls]\ncertificate = 'a'\nkey = 'b'\n"
        ),
        [
            format!("t.toml:5: listener.a.proxy_protocol: {of_tcp}"),
            format!("t.toml:7: listener.a.tls: {of_tcp}"),
        ]
    );
}

#[test]
fn a_unix_socket_is_of_this_machine_and_needs_neither_tls_nor_passwords() {
    let settings = settings("[listener.a]\naddress = 'unix:/run/mqtt.sock'\n");
    assert!(settings.listeners[0].policy.anonymous);
    let named = crate::settings("[listener.a]\naddress = 'unix:/run/mqtt.sock'\npeer_user_name = true\n");
    assert!(!named.listeners[0].policy.anonymous, "who comes has a name");
}

#[test]
fn behind_a_balancer_loopback_is_not_this_machine() {
    let text = "[listener.a]\naddress = '127.0.0.1:1'\nproxy_protocol = true\nproxy_from = '127.0.0.1'\n";
    let told_at_once = told(text);
    assert!(
        told_at_once.len() == 1 && told_at_once[0].contains("nobody could come in"),
        "{told_at_once:?}"
    );
    let told_anonymous = told(&format!("{text}anonymous = true\n"));
    assert!(
        told_anonymous.len() == 1
            && told_anonymous[0].contains("127.0.0.1:1 is behind a balancer, so everybody"),
        "{told_anonymous:?}"
    );
    let settings = settings(&format!(
        "{text}anonymous = true\nallow_anonymous_off_loopback = true\n"
    ));
    assert!(settings.listeners[0].policy.anonymous);
}

#[test]
fn every_mistake_of_a_balancer_is_told() {
    assert_eq!(
        told(
            "[listener.a]\naddress = '127.0.0.1:1'\nanonymous = true\nallow_anonymous_off_loopback = true\n\
             proxy_protocol = true\n[listener.b]\naddress = '127.0.0.1:2'\nanonymous = true\n\
             allow_anonymous_off_loopback = true\nproxy_protocol = true\n\
             proxy_from = ['10.0.0.1/8', 'x', '10.0.0.0/33']\n[listener.c]\naddress = '127.0.0.1:3'\n\
             anonymous = true\nproxy_from = '10.0.0.1'\nproxy_user_name \
             = 'name'\n"
        ),
        [
            "t.toml:1: listener.a.proxy_from: missing, expected an address or network such as \"10.0.0.0/8\", \
             or a list \
             of them",
            "t.toml:11: listener.b.proxy_from: found \"10.0.0.1/8\", the address has bits behind the prefix, \
             expected 0 \
             there as in \"10.0.0.0/8\"",
            "t.toml:11: listener.b.proxy_from: found \"x\", expected an address or a network such as \"10.0.0.0/8\"",
            "t.toml:11: listener.b.proxy_from: found \"10.0.0.0/33\", the prefix 33 is longer than the address",
            "t.toml:15: listener.c.proxy_from: has no effect without proxy_protocol = true, expected that beside it",
            "t.toml:16: listener.c.proxy_user_name: has no effect without proxy_protocol = true, expected that \
             beside it",
            "t.toml:16: listener.c.proxy_user_name: found \"name\", expected \"none\" or \"common-name\"",
        ]
    );
}

#[test]
fn a_listener_grants_no_more_than_the_limits_do() {
    assert_eq!(
        told(
            "[gateway]\nboard = 'base'\n[listener.a]\naddress = '127.0.0.1:1'\nconnections_max = 1000\n\
             versions = ['3', '5.0']\nmount_point = '$SYS/x'\npacket_bytes_max = '1 MiB'\nkeep_alive_max = '1h'\n\
             receive_maximum = 65\ntopic_alias_maximum = 17\nsession_expiry_max = '8d'\nconnect_rate_max = 0\n"
        ),
        [
            "t.toml:5: listener.a.connections_max: found 1000, expected at most the 256 of [limits]",
            "t.toml:6: listener.a.versions: found \"3\", expected \"3.1\", \"3.1.1\" or \"5.0\"",
            "t.toml:7: listener.a.mount_point: found \"$SYS/x\", starts with '$', which only topics of the \
             server itself do",
            "t.toml:8: listener.a.packet_bytes_max: found 1 MiB, expected at most the 256 KiB of [limits]",
            "t.toml:9: listener.a.keep_alive_max: found 1h, expected at most the 20m of [limits]",
            "t.toml:10: listener.a.receive_maximum: found 65, expected at most the 64 of [limits]",
            "t.toml:11: listener.a.topic_alias_maximum: found 17, expected at most the 16 of [limits]",
            "t.toml:12: listener.a.session_expiry_max: found 8d, expected at most the 7d of [limits]",
            "t.toml:13: listener.a.connect_rate_max: found the integer 0, expected an integer from 1 to 65536",
        ]
    );
    assert_eq!(
        told("[listener.a]\naddress = '127.0.0.1:1'\nversions = []\n"),
        ["t.toml:3: listener.a.versions: found an empty list, expected at least one version"]
    );
}

#[test]
fn check_looks_at_the_place_of_a_unix_socket_and_a_folder_that_comes_later_is_only_a_warning() {
    let folder = Folder::new();
    let shown = folder.folder.path().display().to_string();
    fs::write(folder.path("file"), "in the way").expect("written");
    let text = format!("[listener.a]\naddress = 'unix:{shown}/file'\n");
    assert_eq!(
        folder.check(&text).expect_err("no socket"),
        ["t.toml:2: listener.a.address: file is there and is no socket; remove it, or choose another path"]
    );
    let text = format!("[listener.a]\naddress = 'unix:{shown}/later/mqtt.sock'\n");
    let settings = folder.check(&text).expect("it may come later");
    let warnings: Vec<String> = settings.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("it must be there when the gateway starts"),
        "{warnings:?}"
    );
    assert!(folder.load(&text).expect("right").warnings.is_empty());
}

#[test]
fn operators_come_through_a_socket_of_the_state_directory_where_nothing_is_said() {
    let doors = |text: &str| {
        let folder = Folder::new();
        folder.write("token", "0123456789abcdef", 0o600);
        let settings = folder.load(text).unwrap_or_else(|told| panic!("{told:#?}"));
        let doors = settings.admin.doors.into_iter().map(|door| {
            let shown = door.net.endpoint.to_string();
            let mode = match &door.net.endpoint {
                Endpoint::Unix(unix) => unix.mode,
                Endpoint::Tcp(_) => 0,
            };
            let shown = shown.replace(&folder.folder.path().display().to_string(), "");
            (
                shown,
                mode,
                door.token.is_some(),
                door.net.tls.is_some(),
                door.may_be_absent,
            )
        });
        doors.collect::<Vec<_>>()
    };
    assert_eq!(doors(""), []);
    let usual = ("unix:/state/admin.sock".to_owned(), 0o600, false, false, true);
    assert_eq!(
        doors("[gateway]\nstate_directory = 'state'\n"),
        std::slice::from_ref(&usual)
    );
    assert_eq!(
        doors("[admin]\nsocket = '/run/x/admin.sock'\nmode = '0660'\n"),
        [("unix:/run/x/admin.sock".to_owned(), 0o660, false, false, false)]
    );
    let http = |address: &str, tls| (address.to_owned(), 0, true, tls, false);
    assert_eq!(
        doors(
            "[gateway]\nstate_directory = 'state'\n\
             [admin]\nhttp = ['127.0.0.1:9180', '[::1]:9180']\ntoken_file = 'token'\n"
        ),
        [usual, http("127.0.0.1:9180", false), http("[::1]:9180", false)]
    );
    assert_eq!(
        doors(
            "[admin]\nhttp = '0.0.0.0:9180'\ntoken_file = 'token'\n\
             [admin.tls]\ncertificate = 'a.pem'\nkey = 'b.pem'\n"
        ),
        [http("0.0.0.0:9180", true)]
    );
}

#[test]
fn every_mistake_of_the_operators_doors_is_told() {
    let told = |token: Option<(&str, u32)>, text: &str| {
        let folder = Folder::new();
        if let Some((token, mode)) = token {
            folder.write("token", token, mode);
        }
        match folder.load(&format!("[admin]\n{text}")) {
            Ok(_) => panic!("no mistake was told of {text}"),
            Err(told) => told.join("\n"),
        }
    };
    let good = Some(("0123456789abcdef\n", 0o600));
    let http = "http = '127.0.0.1:9180'\ntoken_file = 'token'\n";
    for (token, text, said) in [
        (
            good,
            "http = '127.0.0.1:9180'",
            "admin.token_file: missing, expected",
        ),
        (
            good,
            "http = 'localhost'\ntoken_file = 'token'",
            "expected an address with port",
        ),
        (
            good,
            "http = '0.0.0.0:9180'\ntoken_file = 'token'",
            "0.0.0.0:9180 is off loopback and has no TLS",
        ),
        (
            good,
            "token_file = 'token'",
            "admin.token_file: has no effect without http",
        ),
        (
            good,
            "[admin.tls]\ncertificate = 'a'\nkey = 'b'",
            "admin.tls: has no effect without http",
        ),
        (None, http, "cannot read token:"),
        (
            Some(("0123456789abcdef", 0o644)),
            http,
            "token has permissions 0644, so others could learn",
        ),
        (
            Some(("0123456789abcdef", 0o660)),
            http,
            "token has permissions 0660",
        ),
        (
            Some(("short", 0o600)),
            http,
            "token holds no token, expected one word of at least 16",
        ),
        (Some(("", 0o600)), http, "token holds no token"),
        (
            good,
            "socket = 'admin.sock'",
            "expected a path from the root to a file",
        ),
        (good, "mode = '0666x'", "expected permissions in octal"),
        (good, "sockets = 'x'", "unknown key, did you mean \"socket\"?"),
    ] {
        let told = told(token, text);
        assert!(told.contains(said), "{text}: {told}");
    }
}

#[test]
fn access_rules_are_told_every_mistake() {
    let told = told(
        "[access]\nacl = 'x'\n\
         [access.groups]\noperators = 'ann'\nfitters = ['ann', 3]\n\
         [[access.rule]]\nallow = 'reed'\ntopics = 'a/#/b'\n\
         [[access.rule]]\nallow = 'read'\ndeny = 'read'\ntopics = 'a'\n\
         [[access.rule]]\ntopics = 'a'\n\
         [[access.rule]]\ndeny = ['read', 'all']\ngroup = 'nobody'\nuser = 5\n\
         [[access.rule]]\nallow = 'write'\ntopics = ['a/x%u', '$share/g/a', 'fine/%c']\nclient = ''\n",
    );
    let expected = [
        "t.toml:2: access.acl: unknown key, did you mean \"acl_file\"?",
        "t.toml:4: access.groups.operators: found \"ann\", expected a list of strings",
        "t.toml:5: access.groups.fitters: found a list, expected a list of strings",
        "t.toml:7: access.rule.allow: found \"reed\", expected one of publish, write, subscribe, receive, read, \
         readwrite, all; did you mean \"read\"?",
        "t.toml:8: access.rule.topics: found \"a/#/b\", no topic filter: '#' must stand alone in the last level",
        "t.toml:11: access.rule.deny: found beside allow, expected one of the two in a rule",
        "t.toml:13: access.rule.allow: missing, expected",
        "t.toml:17: access.rule.group: found \"nobody\", expected a group of [access.groups]",
        "t.toml:18: access.rule.user: found the integer 5, expected a user name, or a list of them",
        "t.toml:15: access.rule.topics: missing",
        "t.toml:21: access.rule.topics: found \"a/x%u\", %c and %u must stand alone in their level",
        "t.toml:21: access.rule.topics: found \"$share/g/a\", a shared subscription, expected the topic filter behind \
         its share name",
        "t.toml:22: access.rule.client: found \"\", expected a client identifier",
    ];
    for expected in expected {
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{expected}\n{told:#?}"
        );
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn an_acl_file_is_refused_whole_with_every_line_that_is_wrong() {
    let folder = Folder::new();
    folder.write(
        "acl",
        "topic read a\nuser\ntopic\ntopic deny\npattern\npattern raed a/%c\ntopic a/#/b\npattern a/x%c\n\
         alow a\n # a comment\ntopic write $share/g/x\n",
        0o600,
    );
    let told = folder.load("[access]\nacl_file = 'acl'\n").expect_err("wrong");
    assert_eq!(
        told,
        [
            "acl:2: expected a user name after \"user\"",
            "acl:3: expected a topic filter, such as in \"topic read plant/#\"",
            "acl:4: found no topic filter after \"deny\", expected one, such as in \"topic deny plant/#\"",
            "acl:5: expected a topic filter, such as in \"topic read plant/#\"",
            "acl:6: found \"raed\" before a topic filter, expected \"read\", \"write\", \"readwrite\" or \"deny\"",
            "acl:7: found \"a/#/b\", no topic filter: '#' must stand alone in the last level",
            "acl:8: found \"a/x%c\", %c and %u must stand alone in their level",
            "acl:9: found \"alow\", expected \"user\", \"topic\" or \"pattern\"",
            "acl:11: found \"$share/g/x\", a shared subscription, expected the topic filter behind its share name",
        ]
    );
    let told = folder
        .load("[access]\nacl_file = 'none'\n")
        .expect_err("not there");
    assert!(
        told.len() == 1 && told[0].starts_with("t.toml:2: access.acl_file: cannot read none: "),
        "{told:#?}"
    );
    folder.write("acl", "topic read a\n", 0o666);
    let told = folder
        .load("[access]\nacl_file = 'acl'\n")
        .expect_err("anybody's");
    assert!(told[0].contains("others may change the rules"), "{told:#?}");
    folder.write("acl", "topic read \u{ff}\n", 0o600);
    fs::write(folder.path("acl"), b"topic read \xff\n").expect("written");
    assert_eq!(
        folder
            .load("[access]\nacl_file = 'acl'\n")
            .expect_err("no text")
            .len(),
        1
    );
}

#[test]
fn access_without_a_rule_denies_everything_and_check_says_so() {
    let folder = Folder::new();
    folder.write("acl", "# nothing yet\n", 0o600);
    for text in [
        "[access]\n",
        "[access]\nacl_file = 'acl'\n",
        "[access.groups]\ng = ['ann']\n",
    ] {
        let settings = folder.check(text).expect("right");
        assert!(settings.rights.acl().expect("rules hold").is_empty());
        let warning = settings.warnings[0].to_string();
        assert!(
            warning.contains("no client may publish or read anything"),
            "{warning}"
        );
    }
    assert!(folder.check("[gateway]\n").expect("right").rights.acl().is_none());
}

#[test]
fn the_rules_of_the_configuration_come_before_those_of_the_acl_file() {
    let folder = Folder::new();
    folder.write("acl", "pattern read a/#\npattern deny b\n", 0o600);
    let text = "[access]\nacl_file = 'acl'\n\
                [[access.rule]]\ndeny = 'read'\ntopics = 'a/x'\n\
                [[access.rule]]\nallow = 'read'\ntopics = 'b'\n";
    let rights = folder.load(text).expect("right").rights;
    let may = |topic| rights.authorize(Who::new(&Identity::Anonymous, None), Action::Receive, topic);
    assert_eq!(
        [may("a/x"), may("a/y"), may("b"), may("c")],
        [false, true, true, false]
    );
}

#[test]
fn renaming_rules_are_read_and_what_could_make_no_topic_is_told_with_its_place() {
    let settings =
        settings("[hook]\ntimeout = \"2s\"\n[[hook.rewrite]]\nfrom = \"a/+/b/#\"\nto = \"c/$1/$2\"\n");
    assert_eq!(settings.hooks.timeout, Some(Duration::from_secs(2)));
    assert_eq!(settings.hooks.rewrite.len(), 1);
    for (rule, message) in [
        (
            "from = \"a/#/b\"\nto = \"x\"",
            "'#' must stand alone in the last level",
        ),
        (
            "from = \"a/+\"\nto = \"x/$2\"",
            "expected $1 to $1, one for each wildcard of \"from\"",
        ),
        (
            "from = \"a\"\nto = \"$SYS/a\"",
            "topics that start with '$' are the server's, expected another",
        ),
        ("from = \"a\"", "missing, expected a topic such as \"c/$1/$2\""),
    ] {
        let told = told(&format!("[[hook.rewrite]]\n{rule}\n"));
        assert!(told.iter().any(|told| told.contains(message)), "{told:?}");
    }
}

#[test]
fn the_http_callback_is_read_and_stands_for_a_password_file() {
    let settings = settings(
        "[hook.http]\nurl = \"https://auth.example:8443/mqtt\"\nevents = [\"authenticate\"]\n\
         cache_time = \"0s\"\nrequest_timeout = \"1s\"\ncache_entries_max = 7\n",
    );
    let http = settings.hooks.http.expect("it was written");
    assert_eq!(http.url.to_string(), "https://auth.example:8443/mqtt");
    assert_eq!(
        (http.timeout, http.cache_time),
        (Duration::from_secs(1), Duration::ZERO)
    );
    assert_eq!(
        (http.denied_cache_time, http.cache_entries_max),
        (Duration::from_secs(5), 7)
    );
    assert!(
        settings
            .listeners
            .iter()
            .all(|listener| !listener.policy.anonymous)
    );
    for (line, message) in [
        (
            "url = \"http://auth.example/\"",
            "passwords would be read on the way",
        ),
        ("url = \"auth.example\"", "expected an address such as"),
        ("cache_time = \"1m\"", "missing, expected an address such as"),
        (
            "url = \"https://a/\"\nevents = [\"connect\"]",
            "expected \"authenticate\", \"publish\" or \"subscribe\"",
        ),
    ] {
        let told = told(&format!("[hook.http]\n{line}\n"));
        assert!(told.iter().any(|told| told.contains(message)), "{told:?}");
    }
}
