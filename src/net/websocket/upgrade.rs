//! The HTTP request by which a connection becomes a WebSocket that speaks MQTT (RFC 6455, section 4), on either side.
//!
//! A browser lets every page open a WebSocket to any address its machine can reach, and only says by `Origin` which
//! page it was. So without a list of origins a door takes requests that carry no `Origin`, which no browser sends, and
//! those of pages of the very host they ask for; on this machine's own addresses that host must also be this machine
//! by name, for a page's name may have been made to lead here.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use bytes::{BufMut, BytesMut};
use httparse::{EMPTY_HEADER, Header, Request, Response, Status};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::WebSocket;

/// What a WebSocket listener answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// The paths it is found at, such as `/mqtt`; every other is answered 404.
    pub paths: Vec<String>,
    /// The pages whose scripts may connect.
    pub origins: Origins,
}

/// The web pages whose scripts may connect; programs that are no browsers send no origin and are not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host they connect to, whatever their port.
    SameHost,
    /// These and no others.
    Listed(Vec<Origin>),
    /// Every page there is.
    Any,
}

/// Where a web page comes from: `https://dashboard.example`, with a port where it is not the scheme's own, or `null`
/// for a page that comes from nowhere, such as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// In lower case and without the scheme's own port.
    text: String,
}

/// Text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginError;

/// Why a connection does not become a WebSocket.
#[derive(Debug)]
pub enum UpgradeError {
    /// It broke or ended.
    Broken(io::Error),
    /// It took longer than this.
    TimedOut(Duration),
    /// The client's request was refused, and the client told why.
    Refused(Refusal),
    /// The server's answer is none to a WebSocket.
    Answer(BadAnswer),
    /// Host or path cannot stand in a request.
    Target,
}

/// What is wrong with a request, as it is answered; each is one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: not HTTP 1.1, or not in order.
    Malformed,
    /// 431: more bytes or more header fields than anybody needs.
    TooLarge,
    /// 405: not GET.
    Method,
    /// 404: this path is none of the listener's.
    Path(String),
    /// 426: plain HTTP, as of a browser's address bar.
    NoUpgrade,
    /// 426: another version of WebSocket than 13.
    Version,
    /// 403: a page whose scripts may not connect.
    Origin(String),
    /// 400: MQTT is not among the subprotocols offered [MQTT-6.0.0-3].
    Subprotocol,
}

/// What is wrong with a server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadAnswer {
    /// It is no HTTP, or too long.
    Malformed,
    /// Another status than 101.
    Status(u16),
    /// It is no answer to this request, or agrees to what was not offered.
    Upgrade,
    /// The server does not say that it speaks MQTT [MQTT-6.0.0-4].
    Subprotocol,
}

/// The subprotocol of MQTT in every version (MQTT 5.0, section 6).
const SUBPROTOCOL: &str = "mqtt";
/// What clients of MQTT 3.1 called it before it was registered.
const SUBPROTOCOL_OLD: &str = "mqttv3.1";
/// A request or an answer with all its header fields; cookies of other pages of the host may come along.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The first read; most requests are shorter.
const HEAD_BYTES_MIN: usize = 512;
/// Header fields of a request or an answer.
const FIELDS_MAX: usize = 64;
/// What is read of a refused client, so that it reads its answer rather than a reset, and for how long.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;
const FAREWELL: Duration = Duration::from_secs(1);
/// What is shown of a path or an origin that was refused, in characters.
const SHOWN_MAX: usize = 100;
/// What the key is joined with (RFC 6455, section 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

/// Reads the request on an accepted connection and answers it; the time it may take is the caller's to bound. `peer` is
/// `None` on a Unix socket, which no browser reaches by itself.
///
/// # Errors
/// [`UpgradeError`]; the connection is closed.
pub(in crate::net) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    settings: &ServerSettings,
    peer: Option<IpAddr>,
) -> Result<WebSocket<S>, UpgradeError> {
    let mut head = BytesMut::new();
    let judged = match read_head(&mut stream, &mut head, is_like_a_request).await {
        Ok(()) => judge(
            &head,
            settings,
            peer.is_some_and(|peer| peer.to_canonical().is_loopback()),
        ),
        Err(HeadError::Broken(error)) => return Err(UpgradeError::Broken(error)),
        Err(HeadError::Malformed) => Err(Refusal::Malformed),
        Err(HeadError::TooLarge) => Err(Refusal::TooLarge),
    };
    match judged {
        Ok(Judged { length, answer }) => {
            stream
                .write_all(answer.as_bytes())
                .await
                .map_err(UpgradeError::Broken)?;
            stream.flush().await.map_err(UpgradeError::Broken)?;
            let early = head.split_off(length.min(head.len()));
            Ok(WebSocket::server(stream, early.freeze()))
        }
        Err(refusal) => {
            let answer = refusal.answer();
            // Whoever has gone meanwhile needs no answer.
            let _ = timeout(FAREWELL, say_farewell(&mut stream, answer.as_bytes())).await;
            Err(UpgradeError::Refused(refusal))
        }
    }
}

/// Asks the server at the other end of `stream` for `path`; `host` and `port` are what was dialled, `tls` whether
/// `stream` is encrypted.
///
/// # Errors
/// [`UpgradeError`]; the connection is closed.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    at: Place<'_>,
    limit: Duration,
) -> Result<WebSocket<S>, UpgradeError> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| UpgradeError::Broken(io::Error::other(error)))?;
    let key = encoded(&key);
    let request = at.request(&key).ok_or(UpgradeError::Target)?;
    let upgrade = async {
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(UpgradeError::Broken)?;
        stream.flush().await.map_err(UpgradeError::Broken)?;
        let mut head = BytesMut::new();
        let read = read_head(&mut stream, &mut head, |head| is_prefix(head, b"HTTP/1.")).await;
        read.map_err(|error| match error {
            HeadError::Broken(error) => UpgradeError::Broken(error),
            HeadError::Malformed | HeadError::TooLarge => UpgradeError::Answer(BadAnswer::Malformed),
        })?;
        let length = check_answer(&head, &key).map_err(UpgradeError::Answer)?;
        Ok(head.split_off(length.min(head.len())).freeze())
    };
    let early = timeout(limit, upgrade)
        .await
        .map_err(|_| UpgradeError::TimedOut(limit))??;
    Ok(WebSocket::client(stream, early))
}

/// What a client asks for, and where.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// A name, or an IPv4 or IPv6 address without brackets.
    pub host: &'a str,
    /// The TCP port.
    pub port: u16,
    /// Whether TLS goes below, which decides whether the port needs to be said.
    pub tls: bool,
    /// Path and query, with the leading slash.
    pub path: &'a str,
}

impl Place<'_> {
    /// The request; `None` where host or path would end it early or add to it.
    fn request(&self, key: &str) -> Option<String> {
        let Self {
            host,
            port,
            tls,
            path,
        } = *self;
        let (host, _zone) = host.split_once('%').unwrap_or((host, "")); // the zone is this machine's business
        if host.is_empty() || !is_visible(host) || !path.starts_with('/') || !is_visible(path) {
            return None;
        }
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let port = if port == if tls { 443 } else { 80 } {
            String::new()
        } else {
            format!(":{port}")
        };
        // [MQTT-6.0.0-3]
        Some(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        ))
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

enum HeadError {
    Broken(io::Error),
    Malformed,
    TooLarge,
}

/// Reads until the empty line that ends a head; what was sent behind it may come along. Each byte is looked at once,
/// however they trickle in, and gives up as soon as `is_possible` says that this is no such head.
async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    head: &mut BytesMut,
    is_possible: impl Fn(&[u8]) -> bool,
) -> Result<(), HeadError> {
    head.reserve(HEAD_BYTES_MIN);
    loop {
        let before = head.len();
        let room = HEAD_BYTES_MAX - before;
        if room == 0 {
            return Err(HeadError::TooLarge);
        }
        let count = stream
            .read_buf(&mut (&mut *head).limit(room))
            .await
            .map_err(HeadError::Broken)?;
        if count == 0 {
            return Err(HeadError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        if !is_possible(head) {
            return Err(HeadError::Malformed);
        }
        // "\r\n\r\n", or "\n\n" of somebody who types; either may have begun with the read before.
        let fresh = head.get(before.saturating_sub(2)..).unwrap_or_default();
        let ends =
            fresh.windows(2).any(|two| two == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n");
        if ends {
            return Ok(());
        }
    }
}

/// A method, as far as it has come: so that a client that speaks MQTT or TLS to this door is told at once.
fn is_like_a_request(head: &[u8]) -> bool {
    let method = head.iter().take_while(|&&byte| byte != b' ');
    method.clone().count() <= 16 && method.clone().all(u8::is_ascii_uppercase) && head.first() != Some(&b' ')
}

fn is_prefix(head: &[u8], of: &[u8]) -> bool {
    head.iter().zip(of).all(|(found, expected)| found == expected)
}

async fn say_farewell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut room = [0; 1024];
    let mut read = 0;
    while read < FAREWELL_BYTES_MAX {
        match stream.read(&mut room).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}

/// A request that is granted.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    /// Of the head, in bytes.
    length: usize,
    answer: String,
}

/// What `head` asks for, and what it is answered.
fn judge(head: &[u8], settings: &ServerSettings, peer_is_local: bool) -> Result<Judged, Refusal> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    let length = match request.parse(head) {
        Ok(Status::Complete(length)) => length,
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Ok(Status::Partial) | Err(_) => return Err(Refusal::Malformed),
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return Err(Refusal::Malformed);
    };
    let fields = Fields(request.headers);
    let host = fields.only("host").ok_or(Refusal::Malformed)?;
    if method != "GET" {
        return Err(Refusal::Method);
    }
    let (path, _query) = target.split_once('?').unwrap_or((target, ""));
    if !settings.paths.iter().any(|known| known == path) {
        return Err(Refusal::Path(shown(path)));
    }
    if !fields.lists("upgrade", |word| word.eq_ignore_ascii_case("websocket")) {
        return Err(Refusal::NoUpgrade);
    }
    if !fields.lists("connection", |word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(Refusal::Malformed);
    }
    if fields.only("sec-websocket-version") != Some("13") {
        return Err(Refusal::Version);
    }
    let key = fields
        .only("sec-websocket-key")
        .filter(|key| is_key(key))
        .ok_or(Refusal::Malformed)?;
    for origin in fields.all("origin") {
        let allowed = origin.is_some_and(|origin| settings.origins.allow(origin, host, peer_is_local));
        if !allowed {
            return Err(Refusal::Origin(shown(origin.unwrap_or_default())));
        }
    }
    // The new name first [MQTT-6.0.0-4].
    let subprotocol = [SUBPROTOCOL, SUBPROTOCOL_OLD]
        .into_iter()
        .find(|known| fields.lists("sec-websocket-protocol", |word| word == *known))
        .ok_or(Refusal::Subprotocol)?;
    let accept = accept_of(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    );
    Ok(Judged { length, answer })
}

/// Whether `head` says that the request with `key` is granted; the length of the head.
fn check_answer(head: &[u8], key: &str) -> Result<usize, BadAnswer> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let Ok(Status::Complete(length)) = response.parse(head) else {
        return Err(BadAnswer::Malformed);
    };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(BadAnswer::Status(status)),
        None => return Err(BadAnswer::Malformed),
    }
    let fields = Fields(response.headers);
    let is_answer = fields.lists("upgrade", |word| word.eq_ignore_ascii_case("websocket"))
        && fields.lists("connection", |word| word.eq_ignore_ascii_case("upgrade"))
        && fields.only("sec-websocket-accept") == Some(&accept_of(key))
        && fields.all("sec-websocket-extensions").next().is_none();
    if !is_answer {
        return Err(BadAnswer::Upgrade);
    }
    if fields.only("sec-websocket-protocol") != Some(SUBPROTOCOL) {
        return Err(BadAnswer::Subprotocol);
    }
    Ok(length)
}

/// The header fields of a request or an answer.
struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    /// The values of every field called `name`; `None` for one that is no text.
    fn all(&self, name: &str) -> impl Iterator<Item = Option<&'a str>> {
        let named = self
            .0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).ok().map(str::trim))
    }

    /// The value of the only field called `name`.
    fn only(&self, name: &str) -> Option<&'a str> {
        let mut all = self.all(name);
        let only = all.next()?;
        if all.next().is_none() { only } else { None }
    }

    /// Whether a field called `name` lists, between commas, a word that is `wanted`.
    fn lists(&self, name: &str, wanted: impl Fn(&str) -> bool) -> bool {
        self.all(name)
            .flatten()
            .any(|list| list.split(',').any(|word| wanted(word.trim())))
    }
}

fn is_key(key: &str) -> bool {
    let mut bytes = [0; KEY_BYTES];
    Base64::decode(key, &mut bytes).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

/// What proves that the request with `key` was understood (section 4.2.2, step 5.4).
fn accept_of(key: &str) -> String {
    encoded(digest(&SHA1_FOR_LEGACY_USE_ONLY, [key, KEY_SUFFIX].concat().as_bytes()).as_ref())
}

fn encoded(bytes: &[u8]) -> String {
    let mut room = [0; 32];
    let text = Base64::encode(bytes, &mut room).expect("20 bytes are 28 characters");
    text.to_owned()
}

/// What is repeated of something a peer chose; the rest of a long text is not worth a log line.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

impl Origins {
    /// Whether a page of `origin` may connect to what it calls `host`, on one of this machine's own addresses where
    /// `peer_is_local`.
    fn allow(&self, origin: &str, host: &str, peer_is_local: bool) -> bool {
        let origin = match self {
            Self::Any => return true,
            Self::Listed(_) | Self::SameHost => origin.parse::<Origin>(),
        };
        match (self, origin) {
            (_, Err(OriginError)) => false,
            (Self::Listed(listed), Ok(origin)) => listed.contains(&origin),
            (Self::Any | Self::SameHost, Ok(origin)) => origin.host().is_some_and(|page| {
                let is_same = page.eq_ignore_ascii_case(without_port(host));
                is_same && (!peer_is_local || is_this_machine(page))
            }),
        }
    }
}

impl Origin {
    /// The host, an IPv6 address in its brackets; `None` for the page from nowhere.
    fn host(&self) -> Option<&str> {
        let (_, place) = self.text.split_once("://")?;
        Some(without_port(place))
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self { text });
        }
        let (scheme, place) = text.split_once("://").ok_or(OriginError)?;
        let host = without_port(place);
        let port = place.get(host.len()..).unwrap_or_default();
        let is_scheme = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_host =
            !host.is_empty() && is_visible(host) && !host.contains(['/', '?', '#', '@', '*', ',', '"']);
        let is_port = port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|port| port.parse::<u16>().is_ok());
        if !(is_scheme && is_host && is_port) {
            return Err(OriginError);
        }
        let is_usual = matches!((scheme, port), ("http", ":80") | ("https", ":443"));
        let text = format!("{scheme}://{host}{}", if is_usual { "" } else { port });
        Ok(Self { text })
    }
}

/// `place` without the port behind it.
fn without_port(place: &str) -> &str {
    match place.rfind(']') {
        Some(bracket) => place.get(..=bracket).unwrap_or(place),
        None => place.split_once(':').map_or(place, |(host, _port)| host),
    }
}

/// Whether `host` leads to this machine wherever it is looked up.
fn is_this_machine(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let is_name = bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost");
    is_name || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Refusal {
    /// The HTTP response that says so.
    fn answer(&self) -> String {
        let (status, field) = match self {
            Self::Malformed | Self::Subprotocol => ("400 Bad Request", ""),
            Self::Origin(_) => ("403 Forbidden", ""),
            Self::Path(_) => ("404 Not Found", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::NoUpgrade => ("426 Upgrade Required", "Upgrade: websocket\r\n"),
            Self::Version => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Self::TooLarge => ("431 Request Header Fields Too Large", ""),
        };
        let connection = if field.starts_with("Upgrade") {
            "Upgrade, close"
        } else {
            "close"
        };
        // What was refused is not repeated: a browser would show it as a page of this host's.
        let text = match self {
            Self::Origin(_) => "this page's scripts may not connect here\n".to_owned(),
            Self::Path(_) => "there is nothing at this path\n".to_owned(),
            other => format!("{other}\n"),
        };
        format!(
            "HTTP/1.1 {status}\r\nConnection: {connection}\r\n{field}Content-Type: text/plain\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => {
                f.write_str("no request for a WebSocket (RFC 6455), expected one that asks for MQTT")
            }
            Self::TooLarge => write!(
                f,
                "a request of more than {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} header fields"
            ),
            Self::Method => f.write_str("another method than GET, which a WebSocket begins with"),
            Self::Path(path) => write!(
                f,
                "nothing at the path {path:?}; the listener's websocket table names its own"
            ),
            Self::NoUpgrade => f.write_str(
                "this is the WebSocket door of an MQTT broker, expected an MQTT client rather than a browser",
            ),
            Self::Version => f.write_str("another version of WebSocket than 13"),
            Self::Origin(origin) => write!(
                f,
                "scripts of {origin:?} may not connect; add it to origins in the listener's websocket table if they \
                 should"
            ),
            Self::Subprotocol => f.write_str("the subprotocol \"mqtt\" is not offered"),
        }
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed during the WebSocket handshake")
            }
            Self::Broken(error) => write!(f, "the connection broke during the WebSocket handshake: {error}"),
            Self::TimedOut(limit) => write!(f, "no WebSocket handshake within {} s", limit.as_secs_f32()),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Answer(answer) => answer.fmt(f),
            Self::Target => f.write_str("host or path has characters that cannot stand in an HTTP request"),
        }
    }
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the answer is no HTTP (is it a port without WebSocket?)"),
            Self::Status(404) => f.write_str("the server has nothing at this path (HTTP status 404)"),
            Self::Status(status) => write!(f, "the server answers with HTTP status {status}, expected 101"),
            Self::Upgrade => f.write_str("the answer does not agree to what was asked for"),
            Self::Subprotocol => f.write_str("the server does not agree to the subprotocol \"mqtt\""),
        }
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected an origin such as \"https://dashboard.example\" or \"http://10.0.0.5:8080\", without a path",
        )
    }
}

impl std::error::Error for UpgradeError {}
impl std::error::Error for OriginError {}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: gateway.local:9001\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\r\n";

    fn settings(origins: Origins) -> ServerSettings {
        let paths = vec!["/mqtt".to_owned(), "/".to_owned()];
        ServerSettings { paths, origins }
    }

    fn judged(request: &str) -> Result<Judged, Refusal> {
        judge(request.as_bytes(), &settings(Origins::SameHost), false)
    }

    /// The request with one thing changed.
    fn with(from: &str, to: &str) -> Result<Judged, Refusal> {
        assert!(REQUEST.contains(from), "{from:?}");
        judged(&REQUEST.replacen(from, to, 1))
    }

    #[test]
    fn a_request_for_mqtt_is_granted_with_proof_that_it_was_understood() {
        let judged = judged(&[REQUEST, "early"].concat()).unwrap();
        assert_eq!(judged.length, REQUEST.len());
        // The example of RFC 6455, section 1.3.
        assert!(
            judged
                .answer
                .contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
        );
        assert!(judged.answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
        assert!(judged.answer.starts_with("HTTP/1.1 101 ") && judged.answer.ends_with("\r\n\r\n"));
    }

    #[test]
    fn names_of_fields_and_words_are_read_in_any_case_and_a_query_is_none_of_the_path() {
        for (from, to) in [
            ("Upgrade: websocket", "UPGRADE: WebSocket"),
            ("Connection: keep-alive, Upgrade", "connection: UPGRADE"),
            ("/mqtt", "/mqtt?token=1"),
            ("/mqtt", "/"),
            (
                "Sec-WebSocket-Protocol: chat, mqtt",
                "Sec-WebSocket-Protocol: chat\r\nsec-websocket-protocol:mqtt",
            ),
        ] {
            assert!(with(from, to).is_ok(), "{to}");
        }
    }

    #[test]
    fn the_old_name_of_the_subprotocol_is_taken_where_the_new_one_is_not_offered() {
        let protocol =
            |offer: &str| with("chat, mqtt", offer).map(|judged| judged.answer.contains(": mqttv3.1\r\n"));
        assert_eq!(protocol("mqttv3.1"), Ok(true));
        assert_eq!(protocol("mqttv3.1, mqtt"), Ok(false));
        for none in ["", "chat", "MQTT", "mqttv5"] {
            assert_eq!(protocol(none), Err(Refusal::Subprotocol), "{none}");
        }
        assert_eq!(
            with("Sec-WebSocket-Protocol", "X-Protocol"),
            Err(Refusal::Subprotocol)
        );
    }

    #[test]
    fn each_fault_of_a_request_has_its_answer() {
        let too_many = "X: y\r\n".repeat(FIELDS_MAX) + "Host";
        for (from, to, refusal, status) in [
            ("GET", "POST", Refusal::Method, "405"),
            ("/mqtt", "/other", Refusal::Path("/other".to_owned()), "404"),
            ("/mqtt", "/mqtt/", Refusal::Path("/mqtt/".to_owned()), "404"),
            ("Upgrade: websocket\r\n", "", Refusal::NoUpgrade, "426"),
            ("Upgrade: websocket", "Upgrade: h2c", Refusal::NoUpgrade, "426"),
            (
                "Connection: keep-alive, Upgrade",
                "Connection: close",
                Refusal::Malformed,
                "400",
            ),
            ("Version: 13", "Version: 8", Refusal::Version, "426"),
            ("Sec-WebSocket-Version: 13\r\n", "", Refusal::Version, "426"),
            ("Sec-WebSocket-Key", "X-Key", Refusal::Malformed, "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", Refusal::Malformed, "400"),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "not base64 at all!!",
                Refusal::Malformed,
                "400",
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZXh4eHh4eHh4",
                Refusal::Malformed,
                "400",
            ),
            ("Host: gateway.local:9001\r\n", "", Refusal::Malformed, "400"),
            ("HTTP/1.1", "HTTP/1.0", Refusal::Malformed, "400"),
            ("HTTP/1.1", "HTTP/2", Refusal::Malformed, "400"),
            ("Upgrade:", "Upgrade", Refusal::Malformed, "400"),
            ("Host", &too_many, Refusal::TooLarge, "431"),
            (
                "Host",
                "Origin: https://evil.example\r\nHost",
                Refusal::Origin("https://evil.example".to_owned()),
                "403",
            ),
            ("chat, mqtt", "chat", Refusal::Subprotocol, "400"),
        ] {
            let found = with(from, to).unwrap_err();
            assert_eq!(found, refusal, "{to}");
            let answer = refusal.answer();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}", text.len())),
                "{answer}"
            );
            assert!(!text.contains("/other") && !text.contains("evil"), "{answer}");
        }
    }

    #[test]
    fn a_request_cut_or_changed_anywhere_does_not_panic() {
        for length in 0..REQUEST.len() {
            assert!(judged(&REQUEST[..length]).is_err());
            for byte in [0, b'\n', b' ', b':', 0x80, 0xFF] {
                let mut changed = REQUEST.as_bytes().to_vec();
                changed[length] = byte;
                let _ = judge(&changed, &settings(Origins::SameHost), true);
            }
        }
    }

    #[test]
    fn without_a_list_a_page_may_connect_to_its_own_host_only() {
        for (origin, host, is_allowed) in [
            ("http://gateway.local", "gateway.local:9001", true),
            ("https://GATEWAY.local:8443", "gateway.local:9001", true),
            ("http://[fe80::1]:80", "[fe80::1]:9001", true),
            ("http://10.0.0.5", "10.0.0.5", true),
            ("http://evil.example", "gateway.local:9001", false),
            ("http://gateway.local.evil.example", "gateway.local:9001", false),
            ("http://evil.example:gateway.local", "gateway.local", false),
            ("http://[fe80::2]", "[fe80::1]:9001", false),
            ("null", "gateway.local", false),
            ("", "gateway.local", false),
            ("http://", "", false),
        ] {
            assert_eq!(
                Origins::SameHost.allow(origin, host, false),
                is_allowed,
                "{origin} to {host}"
            );
        }
    }

    #[test]
    fn on_this_machine_the_page_must_be_this_machines_by_name() {
        for (host, is_allowed) in [
            ("localhost", true),
            ("app.localhost", true),
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("rebound.example", false),
            ("localhost.example", false),
            ("10.0.0.5", false),
        ] {
            let origin = format!("http://{host}:8080");
            let found = Origins::SameHost.allow(&origin, &format!("{host}:9001"), true);
            assert_eq!(found, is_allowed, "{host}");
        }
    }

    #[test]
    fn a_list_of_origins_is_the_whole_truth() {
        let listed = ["https://Dashboard.example", "http://10.0.0.5:8080", "null"];
        let listed = Origins::Listed(listed.iter().map(|text| text.parse().unwrap()).collect());
        for (origin, is_allowed) in [
            ("https://dashboard.example", true),
            ("https://dashboard.example:443", true),
            ("http://10.0.0.5:8080", true),
            ("null", true),
            ("http://dashboard.example", false),
            ("https://dashboard.example:8443", false),
            ("http://10.0.0.5", false),
            ("http://localhost", false),
        ] {
            assert_eq!(listed.allow(origin, "localhost", true), is_allowed, "{origin}");
        }
        assert!(Origins::Any.allow("whatever it says", "localhost", true));
    }

    #[test]
    fn text_that_is_no_origin_is_told() {
        for text in [
            "",
            "*",
            "dashboard.example",
            "https://",
            "https://a/b",
            "https://a/",
            "https://a:x",
            "https://a:70000",
            "https://a b",
            "://a",
            "https://user@a",
            "https://*.example",
            "https://a,https://b",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError), "{text:?}");
        }
    }

    #[test]
    fn only_the_answer_to_this_very_request_is_taken() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let answer = judged(REQUEST).unwrap().answer;
        let check = |answer: &str| check_answer(answer.as_bytes(), key);
        assert_eq!(check(&[&answer, "early"].concat()), Ok(answer.len()));
        for (from, to, wrong) in [
            ("101 Switching Protocols", "404 Not Found", BadAnswer::Status(404)),
            ("Upgrade: websocket", "Upgrade: h2c", BadAnswer::Upgrade),
            ("Connection: Upgrade", "Connection: close", BadAnswer::Upgrade),
            ("s3pPLMBi", "S3pPLMBi", BadAnswer::Upgrade),
            (
                "Upgrade: websocket",
                "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate",
                BadAnswer::Upgrade,
            ),
            (": mqtt\r\n", ": mqttv3.1\r\n", BadAnswer::Subprotocol),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "", BadAnswer::Subprotocol),
            ("HTTP/1.1", "MQTT/1.1", BadAnswer::Malformed),
        ] {
            assert!(answer.contains(from), "{from:?}");
            assert_eq!(check(&answer.replacen(from, to, 1)), Err(wrong), "{to}");
        }
    }

    #[test]
    fn nothing_can_be_slipped_into_a_request() {
        let place = |host, path| Place {
            host,
            port: 9001,
            tls: false,
            path,
        };
        let request = |host, path| place(host, path).request("key");
        assert!(
            request("gateway", "/mqtt")
                .unwrap()
                .contains("\r\nHost: gateway:9001\r\n")
        );
        assert!(
            request("fe80::1%eth0", "/mqtt")
                .unwrap()
                .contains("\r\nHost: [fe80::1]:9001\r\n")
        );
        let usual = Place {
            port: 443,
            tls: true,
            ..place("gateway", "/mqtt")
        };
        assert!(usual.request("key").unwrap().contains("\r\nHost: gateway\r\n"));
        for (host, path) in [
            ("gateway\r\nX: y", "/mqtt"),
            ("", "/mqtt"),
            ("gateway", "mqtt"),
            ("gateway", "/mqtt HTTP/1.1\r\nX: y"),
            ("gate way", "/mqtt"),
            ("gateway", "/größe"),
        ] {
            assert_eq!(request(host, path), None, "{host:?} {path:?}");
        }
    }

    #[tokio::test]
    async fn a_head_is_found_however_it_trickles_in_and_bounded() {
        for step in 1..REQUEST.len() {
            let mut reader = trickle(REQUEST.as_bytes(), step);
            let mut head = BytesMut::new();
            assert!(
                read_head(&mut reader, &mut head, is_like_a_request).await.is_ok(),
                "in steps of {step}"
            );
            assert_eq!(head, REQUEST);
        }
        let endless = "GET / HTTP/1.1\r\nCookie: ".to_owned() + &"x".repeat(2 * HEAD_BYTES_MAX);
        let mut head = BytesMut::new();
        let read = read_head(&mut endless.as_bytes(), &mut head, is_like_a_request).await;
        assert!(matches!(read, Err(HeadError::TooLarge)));
        assert_eq!(head.len(), HEAD_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_is_no_http_is_told_by_its_first_bytes() {
        for bytes in [
            &b"\x10\x0E\x00\x04MQTT"[..],
            b"\x16\x03\x01\x02",
            b"  GET",
            b"hello",
            b"AAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            let mut head = BytesMut::new();
            let read = read_head(&mut &bytes[..], &mut head, is_like_a_request).await;
            assert!(matches!(read, Err(HeadError::Malformed)), "{bytes:?}");
        }
    }

    /// A reader that gives `step` bytes at a time.
    fn trickle(bytes: &[u8], step: usize) -> impl AsyncRead + Unpin {
        struct Trickle<'a>(std::slice::Chunks<'a, u8>);
        impl AsyncRead for Trickle<'_> {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                buffer.put_slice(self.0.next().unwrap_or_default());
                std::task::Poll::Ready(Ok(()))
            }
        }
        Trickle(bytes.chunks(step))
    }
}
