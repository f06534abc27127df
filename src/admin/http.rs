//! The server's side of HTTP/1.1 (RFC 9112), without I/O: bytes become requests, answers become bytes.
//!
//! It speaks what tools at the operator's door need and refuses the rest by name: no chunked bodies, no upgrades, no
//! 100-continue. `httparse` reads the heads, as it does for WebSocket.

use httparse::{EMPTY_HEADER, Header, Status};

/// What one connection has said, up to the request that has not been taken yet.
///
/// 1. What is held is at most [`HEAD_BYTES_MAX`] and [`BODY_BYTES_MAX`] and what one read brings more.
/// 2. After a [`Refusal`] nothing more is read from it: where the next request begins is not known.
#[derive(Debug, Default)]
pub struct Requests {
    bytes: Vec<u8>,
    is_broken: bool,
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Does what GET does, and is answered without the body.
    Head,
    /// Makes something, or has something done.
    Post,
    /// Sets something.
    Put,
    /// Takes something away.
    Delete,
    /// Any other: no route has it.
    Other,
}

/// One request, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// With what: the levels of the path, percent-decoded each for itself.
    pub path: Vec<String>,
    /// The query's names and values, decoded.
    pub query: Vec<(String, String)>,
    /// Host, as the client wrote it, or what stands before the path; empty only of HTTP/1.0.
    pub host: String,
    /// What follows `Bearer` in Authorization.
    pub token: Option<String>,
    /// Whether the connection goes on after the answer.
    pub keeps_alive: bool,
    /// The content.
    pub body: Vec<u8>,
}

/// Why a connection's bytes are no request that is answered; each is one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 400: no HTTP, or in contradiction with itself.
    Malformed,
    /// 408: not whole in time.
    TimedOut,
    /// 413: a body longer than [`BODY_BYTES_MAX`].
    BodyTooLarge,
    /// 417: the client waits for a word before it sends the body.
    Expectation,
    /// 431: a head longer than [`HEAD_BYTES_MAX`], or of more fields than anybody needs.
    HeadTooLarge,
    /// 501: the body's length is not said beforehand.
    TransferCoding,
    /// 505: neither HTTP/1.0 nor HTTP/1.1.
    Version,
}

/// An answer, before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// One more header field, whole, such as `Allow: GET`.
    pub field: Option<String>,
    /// The content.
    pub body: String,
}

/// Request line and header fields; tools need some hundred bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The body of a request: a message to publish is the longest.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// The media type of JSON.
pub const JSON: &str = "application/json";
/// The media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What of a head says how the request goes on.
#[derive(Default)]
struct Fields {
    host: Option<String>,
    token: Option<String>,
    length: Option<usize>,
    closes: bool,
    keeps: bool,
}

impl Requests {
    /// Takes bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.is_broken {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Whether a request has begun and is not whole.
    pub fn is_begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next request, `None` until it is whole. Requests that follow each other without waiting are taken one by
    /// one, in their order.
    ///
    /// # Errors
    /// [`Refusal`]: it is answered, and then the connection ends.
    pub fn poll_request(&mut self) -> Result<Option<Request>, Refusal> {
        if self.is_broken {
            return Ok(None);
        }
        let taken = take(&self.bytes);
        match taken {
            Ok(None) => Ok(None),
            Ok(Some((request, length))) => {
                self.bytes.drain(..length);
                if self.bytes.is_empty() {
                    self.bytes = Vec::new(); // who waits holds no buffer
                }
                Ok(Some(request))
            }
            Err(refusal) => {
                self.is_broken = true;
                self.bytes = Vec::new();
                Err(refusal)
            }
        }
    }
}

/// Reads the first request of `bytes`, and how many of them it takes.
fn take(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    // A line feed too many after a body is forgiven (RFC 9112, section 2.2).
    let blank = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    if blank > 4 {
        return Err(Refusal::Malformed);
    }
    let rest = bytes.get(blank..).unwrap_or_default();
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let head_bytes = match head.parse(rest) {
        Ok(Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(Status::Partial) if rest.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed),
    };
    let is_1_1 = head.version == Some(1);
    let found = Fields::read(head.headers)?;
    let body_bytes = found.length.unwrap_or(0);
    if body_bytes > BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge);
    }
    let Some(body) = rest.get(head_bytes..head_bytes + body_bytes) else {
        return Ok(None);
    };
    let (host, target) = split_target(head.path.unwrap_or_default());
    // One Host, and only one (RFC 9112, section 3.2).
    let host = match (host, found.host) {
        (_, None) if is_1_1 => return Err(Refusal::Malformed),
        (Some(host), _) => host.to_owned(),
        (None, host) => host.unwrap_or_default(),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix('/').ok_or(Refusal::Malformed)?;
    let path: Option<Vec<String>> = path.split('/').map(|level| decoded(level, false)).collect();
    let query: Option<Vec<_>> = (query.split('&').filter(|pair| !pair.is_empty()))
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name, true)?, decoded(value, true)?))
        })
        .collect();
    let (Some(path), Some(query)) = (path, query) else {
        return Err(Refusal::Malformed);
    };
    let request = Request {
        method: Method::from(head.method.unwrap_or_default()),
        path,
        query,
        host,
        token: found.token,
        keeps_alive: !found.closes && (is_1_1 || found.keeps),
        body: body.to_vec(),
    };
    Ok(Some((request, blank + head_bytes + body_bytes)))
}

impl Fields {
    fn read(headers: &[Header<'_>]) -> Result<Self, Refusal> {
        let mut found = Self::default();
        for Header { name, value } in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("content-length") {
                let length = length_from(value).ok_or(Refusal::Malformed)?;
                if found.length.is_some_and(|other| other != length) {
                    return Err(Refusal::Malformed);
                }
                found.length = Some(length);
            } else if is("transfer-encoding") {
                return Err(Refusal::TransferCoding);
            } else if is("expect") {
                return Err(Refusal::Expectation);
            } else if is("host") {
                let host = std::str::from_utf8(value).map_err(|_| Refusal::Malformed)?;
                if found.host.replace(host.to_owned()).is_some() {
                    return Err(Refusal::Malformed);
                }
            } else if is("authorization") {
                let text = std::str::from_utf8(value).unwrap_or_default();
                let (scheme, token) = text.split_once(' ').unwrap_or_default();
                if scheme.eq_ignore_ascii_case("bearer") {
                    found.token = Some(token.trim().to_owned());
                }
            } else if is("connection") {
                let text = std::str::from_utf8(value).unwrap_or_default();
                for option in text.split(',').map(str::trim) {
                    found.closes |= option.eq_ignore_ascii_case("close");
                    found.keeps |= option.eq_ignore_ascii_case("keep-alive");
                }
            }
        }
        Ok(found)
    }
}

/// Digits and nothing else: a sign or a list would be read differently elsewhere.
fn length_from(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The host of a target that names one, as those meant for a proxy do, and the rest.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let absolute = target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"));
    match absolute {
        None => (None, target),
        Some(rest) => match rest.find('/') {
            Some(at) => (rest.get(..at), rest.get(at..).unwrap_or("/")),
            None => (Some(rest), "/"),
        },
    }
}

/// `text` without its percent-encoding; `None` where that is broken, or is no UTF-8 afterwards.
fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl From<&str> for Method {
    fn from(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

impl Method {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Other => "",
        }
    }
}

impl Refusal {
    /// The status, and what is wrong, for a person.
    pub const fn told(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "this is no request of HTTP/1.1"),
            Self::TimedOut => (408, "the request was not whole in time"),
            Self::BodyTooLarge => (413, "the body is too long, expected at most 64 KiB"),
            Self::Expectation => (417, "no expectation is met, expected the body without waiting"),
            Self::HeadTooLarge => (431, "the header is too long, expected at most 8 KiB in 64 fields"),
            Self::TransferCoding => (501, "no transfer coding is known, expected Content-Length"),
            Self::Version => (505, "expected HTTP/1.1"),
        }
    }
}

impl Request {
    /// The value of a name in the query; the first, where there are several.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.iter();
        pairs
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Answer {
    /// An answer in JSON.
    pub fn json(status: u16, body: String) -> Self {
        Self {
            status,
            content_type: JSON,
            field: None,
            body,
        }
    }

    /// Done, and nothing to say.
    pub fn empty() -> Self {
        Self::json(204, String::new())
    }

    /// Writes it; a HEAD is told what a GET would be, without the body.
    pub fn write(&self, request_is_head: bool, keeps_alive: bool, out: &mut Vec<u8>) {
        use std::fmt::Write as _;

        let Self {
            status,
            content_type,
            body,
            ..
        } = self;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(*status));
        // Nobody keeps what was said, and no page of another host shows it.
        head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
        if *status != 204 {
            let length = body.len();
            let _ = write!(
                head,
                "Content-Type: {content_type}\r\nContent-Length: {length}\r\n"
            );
        }
        if let Some(field) = &self.field {
            let _ = write!(head, "{field}\r\n");
        }
        head += if keeps_alive {
            "\r\n"
        } else {
            "Connection: close\r\n\r\n"
        };
        out.extend_from_slice(head.as_bytes());
        if !request_is_head && *status != 204 {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Option<Request>, Refusal> {
        let mut requests = Requests::default();
        requests.feed(text.as_bytes());
        requests.poll_request()
    }

    fn whole(text: &str) -> Request {
        one(text).expect("a request").expect("whole")
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_requests_in_their_order() {
        let text = "POST /a/b%2Fc?x=1&y=a+b%26 HTTP/1.1\r\nHost: h\r\ncontent-length: 3\r\n\r\nabc\
                    GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let mut expected = Vec::new();
        for step in 1..=text.len() {
            let mut requests = Requests::default();
            let mut found = Vec::new();
            for bytes in text.as_bytes().chunks(step) {
                requests.feed(bytes);
                while let Some(request) = requests.poll_request().expect("no refusal") {
                    found.push(request);
                }
            }
            assert!(!requests.is_begun());
            if step == 1 {
                assert_eq!(found.len(), 2);
                assert_eq!(found[0].path, ["a", "b/c"]);
                assert_eq!(found[0].parameter("y"), Some("a b&"));
                assert_eq!(
                    (found[0].body.as_slice(), found[0].keeps_alive),
                    (&b"abc"[..], true)
                );
                assert_eq!((found[1].method, found[1].keeps_alive), (Method::Get, false));
                expected = found;
            } else {
                assert_eq!(found, expected, "in pieces of {step}");
            }
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_name_and_nothing_is_read_after_it() {
        let host = "Host: h\r\n";
        let long = "x".repeat(HEAD_BYTES_MAX);
        let many = "a: b\r\n".repeat(FIELDS_MAX + 1);
        for (text, refusal) in [
            ("\u{16}\u{3}\u{1}\u{0}".to_owned(), Refusal::Malformed),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), Refusal::Malformed),
            (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), Refusal::Malformed),
            (format!("GET x HTTP/1.1\r\n{host}\r\n"), Refusal::Malformed),
            (format!("GET /%zz HTTP/1.1\r\n{host}\r\n"), Refusal::Malformed),
            (format!("GET /%ff HTTP/1.1\r\n{host}\r\n"), Refusal::Malformed),
            (format!("GET /%c HTTP/1.1\r\n{host}\r\n"), Refusal::Malformed),
            (
                format!("GET / HTTP/1.1\r\n{host} folded\r\n\r\n"),
                Refusal::Malformed,
            ),
            ("\r\n\r\n\r\nGET".to_owned(), Refusal::Malformed),
            (format!("GET / HTTP/2.0\r\n{host}\r\n"), Refusal::Version),
            (
                format!("PUT / HTTP/1.1\r\n{host}Content-Length: +1\r\n\r\n"),
                Refusal::Malformed,
            ),
            (
                format!("PUT / HTTP/1.1\r\n{host}Content-Length: 1, 1\r\n\r\n"),
                Refusal::Malformed,
            ),
            (
                format!("PUT / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
                Refusal::Malformed,
            ),
            (
                format!("PUT / HTTP/1.1\r\n{host}Content-Length: 65537\r\n\r\n"),
                Refusal::BodyTooLarge,
            ),
            (
                format!("PUT / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n"),
                Refusal::TransferCoding,
            ),
            (
                format!("PUT / HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
                Refusal::Expectation,
            ),
            (format!("GET /{long}"), Refusal::HeadTooLarge),
            (
                format!("GET / HTTP/1.1\r\n{host}{many}\r\n"),
                Refusal::HeadTooLarge,
            ),
        ] {
            let mut requests = Requests::default();
            requests.feed(text.as_bytes());
            assert_eq!(requests.poll_request(), Err(refusal), "{text:.60}");
            requests.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(requests.poll_request(), Ok(None));
            assert!(!requests.is_begun());
        }
    }

    #[test]
    fn a_request_meant_for_a_proxy_names_its_host_in_the_target() {
        let request = whole("GET http://gateway:9180/a HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(
            (request.host.as_str(), request.path.join("/")),
            ("gateway:9180", "a".to_owned())
        );
        assert_eq!(whole("GET http://gateway HTTP/1.1\r\nHost: x\r\n\r\n").path, [""]);
    }

    #[test]
    fn only_a_bearer_token_is_one() {
        let token = |field: &str| whole(&format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n")).token;
        assert_eq!(token("Authorization: bearer abc"), Some("abc".to_owned()));
        assert_eq!(token("Authorization: Basic abc"), None);
        assert_eq!(token("Authorization: Bearer"), None);
        assert_eq!(token("X: y"), None);
    }

    #[test]
    fn a_client_of_http_1_0_is_kept_only_where_it_asks_to() {
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keeps_alive);
        assert!(whole("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keeps_alive);
        assert!(!whole("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").keeps_alive);
    }

    #[test]
    fn a_head_is_told_the_length_of_what_it_is_spared() {
        let mut out = Vec::new();
        Answer::json(200, "{}".to_owned()).write(true, true, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("\r\n\r\n"));
        let mut out = Vec::new();
        Answer::empty().write(false, false, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(!text.contains("Content-Length") && text.ends_with("Connection: close\r\n\r\n"));
    }
}
