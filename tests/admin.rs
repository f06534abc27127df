//! The operator's door: who may ask, what can be asked, and that answers are what the document on them says.

mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::admin::settings::{CONNECTIONS_MAX, DOOR, DoorSettings, Token};
use tidegate::config::Settings;
use tidegate::mqtt::{Connect, Packet, QoS, ReasonCode, Will};
use tidegate::net::endpoint::{Endpoint, UnixEndpoint};
use tidegate::net::listener::ListenerSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use running::{
    Doors, Peer, connect, publish, settings, settings_with_tls, stored, text, topic, with_gateway,
};

const TOKEN: &str = "0123456789abcdefABCDEF";

/// A gateway with one of the operator's doors of TCP, with a token, and a socket.
fn operated(settings: Settings) -> (Settings, Socket) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let mut settings = settings;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let unix = UnixEndpoint {
        path: path.clone(),
        mode: 0o600,
        owner: None,
        group: None,
    };
    let door = |endpoint, token| DoorSettings {
        net: ListenerSettings::new(DOOR, endpoint, CONNECTIONS_MAX),
        token,
        may_be_absent: false,
    };
    settings.admin.doors = vec![
        door(Endpoint::from(anywhere), Token::parse(TOKEN)),
        door(Endpoint::Unix(unix), None),
    ];
    (
        settings,
        Socket {
            _folder: folder,
            path,
        },
    )
}

/// The operator's socket.
struct Socket {
    _folder: TempDir,
    path: PathBuf,
}

/// An answer, read apart.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn items(&self) -> Vec<Value> {
        self.json()["items"].as_array().expect("a list").clone()
    }
}

/// Reads one answer off the front of `bytes`; `is_head` where it has no body whatever it says.
fn read_answer(bytes: &mut Vec<u8>, is_head: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().expect("a status line");
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next())
        .expect("HTTP/1.1");
    let fields: BTreeMap<String, String> = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a field");
            (name.to_lowercase(), value.to_owned())
        })
        .collect();
    let length = fields
        .get("content-length")
        .map_or(0, |length| length.parse().expect("a number"));
    let length = if is_head { 0 } else { length };
    let body = String::from_utf8(bytes.get(end..end + length)?.to_vec()).expect("text");
    bytes.drain(..end + length);
    Some(Answer {
        status: status.parse().expect("a number"),
        fields,
        body,
    })
}

/// Says `said` at the door of TCP and hears everything up to the end of the connection.
async fn say(doors: &Doors, said: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(doors.address(DOOR))
        .await
        .expect("the door is open");
    stream.write_all(said.as_bytes()).await.expect("it listens");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.expect("an end, no reset");
    heard
}

async fn ask_with(doors: &Doors, request: &str, fields: &str, body: &str) -> Answer {
    let length = body.len();
    let said =
        format!("{request} HTTP/1.1\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    let mut heard = say(doors, &said).await;
    let answer = read_answer(&mut heard, request.starts_with("HEAD")).expect("a whole answer");
    assert!(heard.is_empty(), "one answer to one request");
    answer
}

/// Asks as one who has the token.
async fn ask(doors: &Doors, request: &str, body: &str) -> Answer {
    let fields = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    ask_with(doors, request, &fields, body).await
}

async fn get(doors: &Doors, path: &str) -> Answer {
    let answer = ask(doors, &format!("GET {path}"), "").await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}

/// Fills a gateway with a bit of everything.
async fn populate(doors: &Doors) -> Vec<Peer> {
    let with_will = Connect {
        will: Some(Will {
            topic: topic("gone"),
            payload: "x".into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Default::default(),
        }),
        keep_alive_secs: 60,
        ..connect("lamp/1")
    };
    let mut lamp = doors.peer(with_will).await;
    lamp.subscribe("plant/+/t", QoS::AtLeastOnce).await;
    let mut away = doors.peer(stored("away")).await;
    away.subscribe("plant/#", QoS::AtLeastOnce).await;
    away.subscribe("$share/workers/plant/a/t", QoS::AtMostOnce).await;
    away.say(&Packet::Disconnect(Box::default())).await;
    assert_eq!(away.hear().await, None);
    let mut retained = publish("plant/a/t", "21.5", Some(1));
    if let Packet::Publish(publish) = &mut retained {
        publish.retain = true;
    }
    let mut writer = doors.peer(connect("writer")).await;
    writer.say(&retained).await;
    writer.hear().await.expect("PUBACK");
    vec![lamp, writer]
}

/// What of `value` is not as `schema` says, with where.
fn misfits(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference
            .strip_prefix("#/components/schemas/")
            .expect("a schema of ours");
        let target = &document["components"]["schemas"][name];
        assert!(target.is_object(), "{reference} is described");
        return misfits(document, target, value, place);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut tried: Vec<_> = choices
            .iter()
            .map(|one| misfits(document, one, value, place))
            .collect();
        return if tried.iter().any(Vec::is_empty) {
            Vec::new()
        } else {
            tried.swap_remove(0)
        };
    }
    let wrong = |what: &str| vec![format!("{place}: {what}, found {value}")];
    match schema["type"].as_str() {
        None => Vec::new(),
        Some("null") if value.is_null() => Vec::new(),
        Some("boolean") if value.is_boolean() => Vec::new(),
        Some("integer") if value.is_u64() => Vec::new(),
        Some("string") if value.is_string() => match schema["enum"].as_array() {
            Some(words) if !words.contains(value) => wrong("no word of the list"),
            _ => Vec::new(),
        },
        Some("array") if value.is_array() => {
            let items = value.as_array().expect("just looked");
            let of = |item| misfits(document, &schema["items"], item, &format!("{place}[]"));
            items.iter().flat_map(of).collect()
        }
        Some("object") if value.is_object() => {
            let fields = value.as_object().expect("just looked");
            let Some(known) = schema["properties"].as_object() else {
                return Vec::new();
            };
            assert_eq!(schema["additionalProperties"], false);
            let mut found = Vec::new();
            for (name, field) in fields {
                let place = format!("{place}.{name}");
                match known.get(name) {
                    Some(schema) => found.extend(misfits(document, schema, field, &place)),
                    None => found.push(format!("{place}: not described")),
                }
            }
            // Answers say everything; null is where there is nothing to say.
            let missing = known.keys().filter(|name| !fields.contains_key(*name));
            found.extend(missing.map(|name| format!("{place}.{name}: missing")));
            found
        }
        Some(other) => wrong(other),
    }
}

#[test]
fn every_answer_is_as_the_document_says_and_everything_in_it_can_be_asked() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let _clients = populate(doors).await;
        ask(
            doors,
            "POST /api/v1/kicks",
            r#"{"target":"address","value":"10.0.0.0/8","keep_out_secs":60}"#,
        )
        .await;
        let document = get(doors, "/api/v1/openapi.json").await.json();
        let mut tried = BTreeSet::new();
        // What is asked of each, in an order in which every one of them succeeds.
        let bodies = [
            (
                "post /api/v1/publish",
                "",
                r#"{"topic":"a","payload":"x","qos":1,"retain":true}"#,
            ),
            ("put /api/v1/log", "", r#"{"level":"info"}"#),
            (
                "post /api/v1/kicks",
                "",
                r#"{"target":"client","value":"writer","purge":true,"discard_will":true}"#,
            ),
            ("delete /api/v1/bans", "?kind=address&value=10.0.0.0%2F8", ""),
            ("get /api/v1/receivers", "?topic=plant/a/t", ""),
            ("get /api/v1/bans", "", ""),
            ("get /api/v1/clients/{client}", "", ""),
        ];
        let mut requests: Vec<(String, String, String, &Value)> = Vec::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let name = format!("{method} {path}");
                let (query, body) = (bodies.iter().find(|(known, ..)| *known == name))
                    .map_or(("", ""), |(_, query, body)| (*query, *body));
                let path = path
                    .replace("{client}", "lamp%2F1")
                    .replace("{topic}", "plant%2Fa%2Ft");
                requests.push((
                    name,
                    format!("{} {path}{query}", method.to_uppercase()),
                    body.to_owned(),
                    operation,
                ));
            }
        }
        requests.sort_by_key(|(name, ..)| name.starts_with("delete"));
        assert!(requests.len() >= 25, "{}", requests.len());
        for (name, request, body, operation) in requests {
            let answer = ask(doors, &request, &body).await;
            let described = &operation["responses"][answer.status.to_string()];
            assert!(
                described.is_object(),
                "{name} answers {}, which is not described",
                answer.status
            );
            assert!(matches!(answer.status, 200 | 204), "{name}: {}", answer.body);
            match described["content"].as_object() {
                None => assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{name}"),
                Some(content) => {
                    let (media_type, content) = content.iter().next().expect("a media type");
                    assert_eq!(answer.fields.get("content-type"), Some(media_type), "{name}");
                    if media_type == "application/json" {
                        assert_eq!(
                            misfits(&document, &content["schema"], &answer.json(), &name),
                            [""; 0],
                            "{}",
                            answer.body
                        );
                    }
                }
            }
            // Who has no token gets only what is open.
            let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
            let stranger = ask_with(doors, &request, "Host: localhost\r\n", &body).await;
            assert_eq!(stranger.status != 401, is_open, "{name}: {}", stranger.body);
            tried.insert(name);
        }
        let missing = bodies.iter().find(|(name, ..)| !tried.contains(*name));
        assert_eq!(missing, None, "it is not in the document");
    });
}

#[test]
fn what_is_wrong_with_a_request_is_answered_as_the_document_says() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let document = get(doors, "/api/v1/openapi.json").await.json();
        let error = json!({"$ref": "#/components/schemas/Error"});
        for (request, body, status) in [
            ("GET /", "", 404),
            ("GET /api/v2/clients", "", 404),
            ("GET /api/v1/clients/nobody", "", 404),
            ("GET /api/v1/clients/", "", 404),
            ("GET /api/v1/sessions/nobody", "", 404),
            ("GET /api/v1/retained/nothing", "", 404),
            ("DELETE /api/v1/retained/nothing", "", 404),
            ("GET /api/v1/retained/%23", "", 404),
            ("DELETE /api/v1/bans?kind=user&value=x", "", 404),
            ("PUT /api/v1/clients", "", 405),
            ("PATCH /api/v1/log", "", 405),
            ("GET /api/v1/clients?limit=0", "", 422),
            ("GET /api/v1/clients?limit=1001", "", 422),
            ("GET /api/v1/clients?colour=red", "", 422),
            ("GET /api/v1/about?x", "", 422),
            ("GET /api/v1/receivers", "", 422),
            ("GET /api/v1/receivers?topic=a/%23", "", 422),
            ("GET /api/v1/retained?filter=a%23", "", 422),
            ("DELETE /api/v1/bans?kind=listener&value=x", "", 422),
            ("PUT /api/v1/log", r#"{"level":"loud"}"#, 422),
            ("PUT /api/v1/log", r#"{"level":"info","x":1}"#, 422),
            ("PUT /api/v1/log", "info", 422),
            ("PUT /api/v1/log", "[]", 422),
            ("POST /api/v1/publish", r#"{"payload":"x"}"#, 422),
            ("POST /api/v1/publish", r#"{"topic":"a/+"}"#, 422),
            (
                "POST /api/v1/publish",
                r#"{"topic":"$SYS/broker/version","payload":"9"}"#,
                422,
            ),
            (
                "POST /api/v1/publish",
                r#"{"topic":"a","payload":"x","payload_base64":"eA=="}"#,
                422,
            ),
            (
                "POST /api/v1/publish",
                r#"{"topic":"a","payload_base64":"%"}"#,
                422,
            ),
            ("POST /api/v1/publish", r#"{"topic":"a","payload":7}"#, 422),
            ("POST /api/v1/publish", r#"{"topic":"a","qos":3}"#, 422),
            ("POST /api/v1/publish", r#"{"topic":"a","retain":"yes"}"#, 422),
            ("POST /api/v1/kicks", r#"{"target":"client"}"#, 422),
            ("POST /api/v1/kicks", r#"{"target":"everyone","value":"x"}"#, 422),
            ("POST /api/v1/kicks", r#"{"target":"planet","value":"x"}"#, 422),
            (
                "POST /api/v1/kicks",
                r#"{"target":"address","value":"10.0.0.1/8"}"#,
                422,
            ),
            (
                "POST /api/v1/kicks",
                r#"{"target":"client","value":"x","reason":0}"#,
                422,
            ),
            (
                "POST /api/v1/kicks",
                r#"{"target":"client","value":"x","reason":-1}"#,
                422,
            ),
            (
                "POST /api/v1/kicks",
                r#"{"target":"listener","value":"x","keep_out_secs":5}"#,
                422,
            ),
        ] {
            let answer = ask(doors, request, body).await;
            assert_eq!(answer.status, status, "{request} {body}: {}", answer.body);
            assert_eq!(misfits(&document, &error, &answer.json(), request), [""; 0]);
        }
        let deep = "[".repeat(60_000);
        assert_eq!(
            ask(doors, "PUT /api/v1/log", &deep).await.status,
            422,
            "nothing falls over"
        );
        let long = format!(r#"{{"topic":"{}"}}"#, "x".repeat(60_000));
        assert_eq!(ask(doors, "POST /api/v1/publish", &long).await.status, 422);
        let allowed = ask(doors, "POST /api/v1/log", "").await;
        assert_eq!(allowed.fields["allow"], "GET, HEAD, PUT");
    });
}

#[test]
fn who_has_no_token_is_sent_away() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        for field in [
            String::new(),
            "Authorization: Bearer \r\n".to_owned(),
            "Authorization: Bearer 0123456789abcdefABCDEf\r\n".to_owned(),
            format!("Authorization: Basic {TOKEN}\r\n"),
            format!("Authorization: {TOKEN}\r\n"),
            format!("X-Token: {TOKEN}\r\n"),
        ] {
            for path in ["/api/v1/clients", "/metrics", "/api/v1/nothing", "/"] {
                // Without "Connection: close": the gateway closes all the same.
                let said = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n");
                let mut heard = say(doors, &said).await;
                let answer = read_answer(&mut heard, false).expect("an answer");
                assert_eq!((answer.status, heard.len()), (401, 0), "{path} {field}");
                assert_eq!(answer.fields["www-authenticate"], "Bearer");
            }
        }
    });
}

#[test]
fn a_page_that_leads_its_own_name_here_is_told_nothing() {
    let (settings, socket) = operated(settings());
    with_gateway(settings, async |doors| {
        for host in [
            "evil.example",
            "evil.example:9180",
            "localhost.evil.example",
            "192.168.1.7",
        ] {
            let fields = format!("Host: {host}\r\nAuthorization: Bearer {TOKEN}\r\n");
            for path in ["/api/v1/health", "/api/v1/clients"] {
                assert_eq!(
                    ask_with(doors, &format!("GET {path}"), &fields, "").await.status,
                    421
                );
            }
            let absolute = format!("GET http://{host}/api/v1/health");
            assert_eq!(
                ask_with(doors, &absolute, "Host: localhost\r\n", "").await.status,
                421
            );
        }
        // A browser asks before it lets a page of another host do more than that; nobody says yes.
        let preflight = ask(doors, "OPTIONS /api/v1/kicks", "").await;
        assert_eq!(preflight.status, 405);
        assert!(
            !preflight
                .fields
                .keys()
                .any(|name| name.starts_with("access-control"))
        );
        // No page speaks to a socket.
        let answer = ask_socket(
            &socket.path,
            "GET /api/v1/about HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        assert_eq!(answer.await.status, 200);
    });
}

async fn ask_socket(path: &Path, said: &str) -> Answer {
    let mut stream = UnixStream::connect(path).await.expect("the socket is open");
    stream.write_all(said.as_bytes()).await.expect("it listens");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.expect("an end, no reset");
    read_answer(&mut heard, false).expect("an answer")
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_gateway() {
    let (settings, socket) = operated(settings());
    with_gateway(settings, async |_| {
        let mode = std::fs::metadata(&socket.path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    });
    assert!(!socket.path.exists());
}

#[test]
fn what_is_no_http_is_refused_and_the_connection_ends() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let head = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
        for (said, status) in [
            ("\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a\r\n\r\n".to_owned(), 400),
            ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 400),
            (format!("GET /metrics HTTP/2.0\r\n{head}\r\n"), 505),
            (
                format!("PUT /api/v1/log HTTP/1.1\r\n{head}Content-Length: 65537\r\n\r\n"),
                413,
            ),
            (
                format!("PUT /api/v1/log HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                501,
            ),
            (
                format!(
                    "PUT /api/v1/log HTTP/1.1\r\n{head}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
                ),
                417,
            ),
            (format!("GET /{} HTTP/1.1\r\n{head}\r\n", "x".repeat(9000)), 431),
            (
                format!("GET / HTTP/1.1\r\n{head}{}\r\n", "a: b\r\n".repeat(100)),
                431,
            ),
        ] {
            let mut heard = say(doors, &said).await;
            let answer = read_answer(&mut heard, false).expect("an answer");
            assert_eq!((answer.status, heard.len()), (status, 0), "{said:.60}");
            assert_eq!(answer.fields["connection"], "close");
        }
        assert_eq!(get(doors, "/api/v1/ready").await.json()["status"], "ready");
    });
}

#[test]
fn requests_that_do_not_wait_are_answered_in_their_order() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let head = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
        let put = |level: &str| {
            let body = format!(r#"{{"level":"{level}"}}"#);
            format!(
                "PUT /api/v1/log HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let said = format!(
            "{}HEAD /api/v1/log HTTP/1.1\r\n{head}\r\n{}GET /api/v1/log HTTP/1.1\r\n{head}Connection: close\r\n\r\n",
            put("debug"),
            put("warn"),
        );
        let mut heard = say(doors, &said).await;
        let mut levels = Vec::new();
        for is_head in [false, true, false, false] {
            let answer = read_answer(&mut heard, is_head).expect("four answers");
            assert_eq!(answer.status, 200);
            levels.push(if is_head {
                Value::Null
            } else {
                answer.json()["level"].clone()
            });
        }
        assert_eq!(
            levels,
            [json!("debug"), Value::Null, json!("warn"), json!("warn")]
        );
        assert!(heard.is_empty());
    });
}

#[test]
fn a_list_comes_whole_in_pages_of_any_size() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let mut peers = Vec::new();
        for number in 0..23 {
            let mut peer = doors.peer(connect(&format!("client-{number:02}"))).await;
            for filter in ["a/+", "a/#", "$share/g/a/b"] {
                peer.subscribe(filter, QoS::AtMostOnce).await;
            }
            let mut retained = publish(&format!("r/{number:02}"), "x", Some(1));
            if let Packet::Publish(publish) = &mut retained {
                publish.retain = true;
            }
            peer.say(&retained).await;
            while !matches!(peer.hear().await.expect("PUBACK"), Packet::PubAck(_)) {}
            peers.push(peer);
        }
        for (path, name, expected) in [
            ("/api/v1/clients?", "client", 23),
            ("/api/v1/clients?client=client-1*&", "client", 10),
            ("/api/v1/sessions?listener=local&", "client", 23),
            ("/api/v1/sessions?user=ann&", "client", 0),
            ("/api/v1/subscriptions?", "filter", 69),
            ("/api/v1/subscriptions?client=client-07&", "filter", 3),
            ("/api/v1/receivers?topic=a/b&", "client", 46),
            ("/api/v1/receivers?topic=b&", "client", 0),
            ("/api/v1/retained?", "topic", 23),
            ("/api/v1/retained?filter=r/%2B&", "topic", 23),
        ] {
            let whole = match get_all(doors, path, 1000).await {
                (items, 1) => items,
                (_, pages) => panic!("{path} in {pages} pages"),
            };
            assert_eq!(whole.len(), expected, "{path}");
            assert!(whole.iter().all(|item| item[name].is_string()));
            for limit in [1, 2, 7, 23] {
                let (items, pages) = get_all(doors, path, limit).await;
                assert!(pages >= expected.div_ceil(limit), "{path} by {limit}");
                assert_eq!(names(&items), names(&whole), "{path} by {limit}");
            }
        }
    });
}

/// What tells the items of a list apart.
fn names(items: &[Value]) -> Vec<String> {
    let name = |item: &Value| {
        format!(
            "{}{}{}{}",
            item["client"], item["filter"], item["share"], item["topic"]
        )
    };
    items.iter().map(name).collect()
}

async fn get_all(doors: &Doors, path: &str, limit: usize) -> (Vec<Value>, usize) {
    let (mut items, mut after) = (Vec::new(), String::new());
    for page in 1..200 {
        let answer = get(doors, &format!("{path}limit={limit}&after={after}")).await;
        assert!(answer.items().len() <= limit);
        items.extend(answer.items());
        match answer.json()["next"].as_str() {
            Some(next) => {
                after = next
                    .replace('%', "%25")
                    .replace('#', "%23")
                    .replace('+', "%2B")
                    .replace('&', "%26")
            }
            None => return (items, page),
        }
    }
    panic!("{path} never ends");
}

#[test]
fn a_kicked_client_is_told_and_one_who_is_banned_stays_out_until_it_is_lifted() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let mut lamp = doors.peer(connect("lamp")).await;
        let kick = |body: &'static str| ask(doors, "POST /api/v1/kicks", body);
        let outcome = kick(r#"{"target":"client","value":"lamp","keep_out_secs":0,"reason":150}"#)
            .await
            .json();
        assert_eq!(
            outcome,
            json!({"found": "online", "kicked": 1, "pending": 0, "purged": 0, "away": 0, "banned": true})
        );
        lamp.hear_farewell(ReasonCode::MessageRateTooHigh).await;
        let bans = get(doors, "/api/v1/bans").await.items();
        assert_eq!(
            bans,
            [json!({"kind": "client", "value": "lamp", "ends_in_secs": null})]
        );
        let mut again = Peer::stranger(doors.stream().await, tidegate::mqtt::ProtocolVersion::V5);
        assert_eq!(again.knock(connect("lamp")).await.reason, ReasonCode::Banned);
        assert_eq!(
            ask(doors, "DELETE /api/v1/bans?kind=client&value=lamp", "")
                .await
                .status,
            204
        );
        assert_eq!(get(doors, "/api/v1/bans").await.items().len(), 0);
        let mut lamp = doors.peer(connect("lamp")).await;

        let unknown = kick(r#"{"target":"client","value":"nobody"}"#).await.json();
        assert_eq!(
            (&unknown["found"], &unknown["banned"]),
            (&json!("nobody"), &json!(false))
        );
        let all = kick(r#"{"target":"pattern","value":"la?p","reason":156,"server_reference":"b:1"}"#)
            .await
            .json();
        assert_eq!((&all["found"], &all["kicked"]), (&json!("online"), &json!(1)));
        match lamp.hear().await {
            Some(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
                assert_eq!(disconnect.properties.server_reference, Some(text("b:1")));
            }
            other => panic!("expected DISCONNECT, found {other:?}"),
        }
    });
}

#[test]
fn a_message_published_by_an_operator_reaches_who_wants_it_and_is_retained_if_asked() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let mut reader = doors.peer(connect("reader")).await;
        reader.subscribe("plant/#", QoS::AtLeastOnce).await;
        let body = r#"{"topic":"plant/a b","payload_base64":"/wA=","qos":1,"retain":true}"#;
        assert_eq!(ask(doors, "POST /api/v1/publish", body).await.status, 204);
        let heard = reader.hear_publish().await;
        assert_eq!(
            (heard.payload.as_ref(), heard.qos),
            (&[255, 0][..], QoS::AtLeastOnce)
        );
        reader.acknowledge(heard.packet_id).await;

        let kept = get(doors, "/api/v1/retained/plant%2Fa%20b").await.json();
        assert_eq!(
            (&kept["payload"], &kept["payload_base64"]),
            (&Value::Null, &json!("/wA="))
        );
        assert_eq!(
            ask(doors, "DELETE /api/v1/retained/plant%2Fa%20b", "")
                .await
                .status,
            204
        );
        assert_eq!(
            reader.hear_publish().await.payload.len(),
            0,
            "its subscribers learn of it"
        );
        assert_eq!(get(doors, "/api/v1/retained").await.items(), Vec::<Value>::new());
    });
}

#[test]
fn who_would_receive_a_topic_is_told_with_those_who_share_it() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let _clients = populate(doors).await;
        let receivers = get(doors, "/api/v1/receivers?topic=plant/a/t").await.items();
        let receiver = |client: &str, connected: bool, qos: u8, share: Option<&str>| -> Value {
            let mut receiver = json!({"client": client, "connected": connected, "qos": qos});
            receiver["share"] = json!(share);
            receiver["may_receive"] = json!(true);
            receiver
        };
        assert_eq!(
            receivers,
            [
                receiver("away", false, 1, None),
                receiver("away", false, 0, Some("workers")),
                receiver("lamp/1", true, 1, None),
            ]
        );
        let sessions = get(doors, "/api/v1/sessions/away").await.json();
        assert_eq!(
            (&sessions["connection"], &sessions["queued_messages"]),
            (&Value::Null, &json!(1))
        );
        let lamp = get(doors, "/api/v1/clients/lamp%2F1").await.json();
        assert_eq!(
            (&lamp["has_will"], &lamp["inflight_messages"]),
            (&json!(true), &json!(1))
        );
        assert_eq!(lamp["connection"]["silence_max_secs"], 90);
        assert_eq!(
            ask(doors, "GET /api/v1/clients/away", "").await.status,
            404,
            "it is away"
        );
    });
}

#[test]
fn what_a_client_did_not_get_is_told_by_reason() {
    let (settings, _socket) = operated(settings());
    with_gateway(settings, async |doors| {
        let mut away = doors.peer(stored("away")).await;
        away.subscribe("t", QoS::AtLeastOnce).await;
        away.say(&Packet::Disconnect(Box::default())).await;
        assert_eq!(away.hear().await, None, "the gateway knows that it is away");
        let mut writer = doors.peer(connect("writer")).await;
        for _ in 0..3 {
            writer.say(&publish("t", "at QoS 0", None)).await;
        }
        writer.ping().await;
        let session = get(doors, "/api/v1/sessions/away").await.json();
        assert_eq!(
            session["lost"],
            json!({
                "total": 3, "queue_full": 0, "expired": 0, "too_large": 0, "denied": 0, "offline": 3, "slow": 0,
                "damaged": 0,
            })
        );
        let answer = get(doors, "/metrics").await;
        let metrics = read_metrics(&answer.body);
        assert_eq!(
            metrics["tidegate_messages_dropped_total{reason=\"offline\"}"],
            3.0
        );
        assert_eq!(metrics["tidegate_publishes_refused_total"], 0.0);
    });
}

#[test]
fn prometheus_can_read_the_metrics() {
    let papers = running::Papers::new();
    let (settings, _socket) = operated(settings_with_tls(&papers));
    with_gateway(settings, async |doors| {
        let _clients = populate(doors).await;
        assert_eq!(ask(doors, "POST /api/v1/reload", "").await.status, 200);
        doors.reload(None).await.expect_err("nothing can be read");
        assert_eq!(ask(doors, "POST /api/v1/reload", "").await.status, 422);
        let statistics = &get(doors, "/api/v1/statistics").await.json()["figures"];
        assert_eq!(
            (&statistics["reloads"], &statistics["reloads_rejected"]),
            (&json!(1), &json!(2))
        );
        let answer = get(doors, "/metrics").await;
        assert_eq!(
            answer.fields["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        let metrics = read_metrics(&answer.body);
        let value = |name: &str| *metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(value("tidegate_clients_connected"), 2.0);
        assert_eq!(value("tidegate_sessions"), 3.0);
        assert_eq!(value("tidegate_messages_received_total"), 1.0);
        assert_eq!(value("tidegate_messages_dropped_total{reason=\"slow\"}"), 0.0);
        assert_eq!(value("tidegate_reloads_rejected_total"), 2.0);
        assert_eq!(value("tidegate_logins_refused_total"), 0.0);
        assert!(value("tidegate_resident_bytes") > 1e6);
        let label = format!("{{listener=\"local@{}\"}}", doors.address("local"));
        assert_eq!(value(&format!("tidegate_listener_accepted_total{label}")), 3.0);
        assert_eq!(value("tidegate_build_info{version=\"0.1.0\"}"), 1.0);
    });
}

/// Reads the text exposition format as strictly as its description allows.
fn read_metrics(text: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        let mut characters = name.chars();
        characters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && characters.all(|one| one.is_ascii_alphanumeric() || one == '_')
    };
    assert!(text.ends_with('\n'));
    let (mut metrics, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line
            .strip_prefix("# HELP ")
            .unwrap_or_else(|| panic!("no HELP: {line}"));
        let (family, about) = help.split_once(' ').expect("name and help");
        assert!(is_name(family) && family.starts_with("tidegate_") && !about.is_empty());
        assert!(families.insert(family.to_owned()), "{family} twice");
        let kind = lines
            .next()
            .and_then(|line| line.strip_prefix(&format!("# TYPE {family} ")).map(str::to_owned));
        match kind.as_deref() {
            Some("counter") => assert!(family.ends_with("_total"), "{family}"),
            Some("gauge") => assert!(!family.ends_with("_total"), "{family}"),
            other => panic!("{family} is {other:?}"),
        }
        let mut samples = 0;
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            let (bare, labels) = match name.split_once('{') {
                None => (name, None),
                Some((bare, labels)) => (bare, Some(labels.strip_suffix('}').expect("an end"))),
            };
            assert_eq!(bare, family);
            if let Some(labels) = labels {
                let (label, content) = labels.split_once("=\"").expect("a label");
                let content = content.strip_suffix('"').expect("an end");
                assert!(is_name(label) && !content.contains(['"', '\\', '\n']), "{labels}");
            }
            let value: f64 = value.parse().expect("a number");
            assert!(metrics.insert(name.to_owned(), value).is_none(), "{name} twice");
            samples += 1;
        }
        assert!(samples > 0, "{family} says nothing");
    }
    metrics
}

#[test]
fn what_is_gathered_for_a_bug_report_holds_no_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("the folder is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
        path
    };
    write("token", TOKEN);
    let cost = tidegate::auth::passwords::Cost::new(1024, 1).expect("within bounds");
    let hash = tidegate::auth::passwords::hash(b"password", cost, &[1; 16]).expect("memory");
    write("users", &format!("ann:{hash}\n"));
    let file = write(
        "tidegate.toml",
        "[gateway]\nboard = 'base'\nstate_directory = 'state'\n[authentication]\npassword_file = 'users'\n\
         [admin]\nhttp = '127.0.0.1:0'\ntoken_file = 'token'\n[listener.local]\naddress = '127.0.0.1:0'\n",
    );
    let boards = folder.path().join("boards");
    std::fs::create_dir(&boards).expect("the folder is ours");
    let settings = tidegate::config::load(&file, Some(&boards)).expect("right");
    let socket = folder.path().join("state/admin.sock");
    with_gateway(settings, async |_| {
        let question = "GET /api/v1/diagnostics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = ask_socket(&socket, question).await;
        assert_eq!(answer.status, 200);
        for secret in [TOKEN, "$argon2", "password\""] {
            assert!(!answer.body.contains(secret), "{secret} is in it");
        }
        let values = answer.json()["configuration"]["items"]
            .as_array()
            .expect("a list")
            .clone();
        let of = |key: &str| {
            let mut found = values.iter().filter(|value| value["key"] == key);
            found.next().unwrap_or_else(|| panic!("no {key}")).clone()
        };
        let value = json!({"key": "admin.token_file", "value": "'token'", "source": "file", "line": 8});
        assert_eq!(of("admin.token_file"), value);
        assert_eq!(of("limits.retained_max")["source"], "board");
        assert_eq!(of("gateway.log")["source"], "default");
    });
}
