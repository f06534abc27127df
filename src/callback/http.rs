//! One question by HTTP/1.1 on a connection that is kept, and its answer within bounds.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Response, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Url;
use crate::net::link::Stream;
use crate::net::tcp::{self, ConnectError};
use crate::net::tls::{Connector, HandshakeError};

/// The status line and fields of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// An answer's body, in bytes, chunks and all.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Fields of an answer.
const FIELDS_MAX: usize = 64;

/// A connection and what was read of it and not used.
pub(super) struct Connection {
    stream: Stream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Connect(ConnectError),
    Handshake(HandshakeError),
    Stream(io::Error),
    /// The connection ended before the answer did.
    Ended,
    /// What came is no HTTP answer.
    Malformed,
    TooLarge,
    TimedOut,
    Status(u16),
    /// The answer names a user and there is none in it.
    NoUser,
    /// The answer names groups, and they are none.
    NoGroups,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
    ToTheEnd,
}

struct Head {
    status: u16,
    length: Length,
    /// Of the head, in bytes.
    bytes: usize,
    keeps: bool,
}

/// Asks `body` of `url` by `connection`, or a new one that is left in its place where it can be used again.
///
/// # Errors
/// [`Failure`]; the connection is of no use then.
pub(super) async fn ask(
    connection: &mut Option<Connection>,
    url: &Url,
    connector: Option<&Connector>,
    body: &str,
    timeout: Duration,
) -> Result<Reply, Failure> {
    let begin = Instant::now();
    if let Some(kept) = connection.take() {
        // The server may have closed it while nobody looked; then nothing of an answer comes, and it is asked anew.
        match exchange(kept, url, body).await {
            Ok((reply, kept)) => {
                *connection = kept;
                return Ok(reply);
            }
            Err(Failure::Stream(_) | Failure::Ended) => {}
            Err(failure) => return Err(failure),
        }
    }
    let left = || timeout.saturating_sub(begin.elapsed());
    let tcp = tcp::connect(&url.host, url.port, left())
        .await
        .map_err(Failure::Connect)?;
    let stream = match connector {
        None => Stream::Tcp(tcp),
        Some(connector) => {
            let secured = connector.connect(tcp, &url.host, left()).await;
            secured.map_err(Failure::Handshake)?
        }
    };
    let (reply, kept) = exchange(Connection::new(stream), url, body).await?;
    *connection = kept;
    Ok(reply)
}

/// One request and its answer; the connection, where it can be used again.
pub(super) async fn exchange(
    mut connection: Connection,
    url: &Url,
    body: &str,
) -> Result<(Reply, Option<Connection>), Failure> {
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        url.path,
        url.place(),
        body.len(),
    );
    connection
        .stream
        .write_all(request.as_bytes())
        .await
        .map_err(Failure::Stream)?;
    connection.stream.flush().await.map_err(Failure::Stream)?;
    let head = loop {
        match parse_head(&connection.read)? {
            Some(head) => {
                connection.read.drain(..head.bytes);
                // What is only on the way to an answer is followed by one.
                if !(100..200).contains(&head.status) {
                    break head;
                }
            }
            None if connection.read.len() > HEAD_BYTES_MAX => return Err(Failure::TooLarge),
            None if connection.more().await? == 0 => return Err(Failure::Ended),
            None => {}
        }
    };
    let mut keeps = head.keeps;
    let body = match head.length {
        Length::Bytes(bytes) => connection.take(bytes).await?,
        Length::Chunked => connection.take_chunks().await?,
        Length::ToTheEnd => {
            keeps = false;
            while connection.more().await? > 0 {
                if connection.read.len() > BODY_BYTES_MAX {
                    return Err(Failure::TooLarge);
                }
            }
            std::mem::take(&mut connection.read)
        }
    };
    // Bytes nobody asked for are no beginning of the next answer.
    keeps &= connection.read.is_empty();
    let status = head.status;
    Ok((Reply { status, body }, keeps.then_some(connection)))
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        let read = Vec::new();
        Self { stream, read }
    }

    /// Reads once; 0 at the end.
    async fn more(&mut self) -> Result<usize, Failure> {
        self.read.reserve(1024);
        self.stream
            .read_buf(&mut self.read)
            .await
            .map_err(Failure::Stream)
    }

    async fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Failure> {
        if bytes > BODY_BYTES_MAX {
            return Err(Failure::TooLarge);
        }
        while self.read.len() < bytes {
            if self.more().await? == 0 {
                return Err(Failure::Ended);
            }
        }
        let rest = self.read.split_off(bytes);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    async fn take_chunks(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line().await?;
            // httparse takes no digits for a zero, which would end the body here.
            let has_digits = line.first().is_some_and(u8::is_ascii_hexdigit);
            let Ok(Status::Complete((_, bytes))) = httparse::parse_chunk_size(&line) else {
                return Err(Failure::Malformed);
            };
            if !has_digits {
                return Err(Failure::Malformed);
            }
            let bytes = usize::try_from(bytes).map_err(|_| Failure::TooLarge)?;
            if bytes == 0 {
                break;
            }
            if bytes > BODY_BYTES_MAX.saturating_sub(body.len()) {
                return Err(Failure::TooLarge);
            }
            body.extend(self.take(bytes).await?);
            if self.take_line().await? != b"\r\n" {
                return Err(Failure::Malformed);
            }
        }
        // Trailers, up to an empty line.
        for _ in 0..FIELDS_MAX {
            if self.take_line().await? == b"\r\n" {
                return Ok(body);
            }
        }
        Err(Failure::TooLarge)
    }

    /// A line with its end.
    async fn take_line(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                return self.take(end + 1).await;
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(Failure::TooLarge);
            }
            if self.more().await? == 0 {
                return Err(Failure::Ended);
            }
        }
    }
}

/// The head of an answer; `None` while it is not whole.
fn parse_head(read: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    let bytes = match response.parse(read) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Malformed),
    };
    let status = response.code.ok_or(Failure::Malformed)?;
    let mut keeps = response.version == Some(1);
    let mut length = match status {
        100..=199 | 204 | 304 => Length::Bytes(0),
        _ => Length::ToTheEnd,
    };
    let has_body = length == Length::ToTheEnd;
    let mut told: Option<usize> = None;
    let mut is_chunked = false;
    for field in response.headers.iter() {
        let value = std::str::from_utf8(field.value)
            .map_err(|_| Failure::Malformed)?
            .trim();
        if field.name.eq_ignore_ascii_case("connection") {
            let mut words = value.split(',');
            keeps &= !words.any(|word| word.trim().eq_ignore_ascii_case("close"));
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Failure::Malformed);
            }
            is_chunked = true;
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let bytes = value
                .parse()
                .ok()
                .filter(|_| is_number)
                .ok_or(Failure::Malformed)?;
            if told.replace(bytes).is_some_and(|before| before != bytes) {
                return Err(Failure::Malformed);
            }
        }
    }
    if has_body {
        match (is_chunked, told) {
            // Two lengths are a trap for whoever believes one of them.
            (true, Some(_)) => return Err(Failure::Malformed),
            (true, None) => length = Length::Chunked,
            (false, Some(bytes)) => length = Length::Bytes(bytes),
            (false, None) => {}
        }
    }
    Ok(Some(Head {
        status,
        length,
        bytes,
        keeps,
    }))
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Status(one), Self::Status(other)) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => fmt::Display::fmt(error, f),
            Self::Handshake(error) => fmt::Display::fmt(error, f),
            Self::Stream(error) => fmt::Display::fmt(error, f),
            Self::Ended => f.write_str("the connection ended before the answer"),
            Self::Malformed => f.write_str("the answer is no HTTP/1.1"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "status {status}, expected 200, 204 or 4xx"),
            Self::NoGroups => f.write_str("\"groups\" of the answer is no list of names"),
            Self::NoUser => f.write_str("\"user\" of the answer is no user name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const IN_VAIN: Duration = Duration::from_secs(120);

    /// A server on a free port of this machine, and its address.
    async fn server() -> (TcpListener, Url) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        (listener, format!("http://{address}/ask").parse().expect("a URL"))
    }

    /// Hears one question on `stream`: its body is "?".
    async fn hear(stream: &mut TcpStream) {
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n?") {
            let count = stream.read_buf(&mut heard).await.expect("it asks");
            assert_ne!(count, 0, "it hung up");
        }
        assert!(heard.starts_with(b"POST /ask HTTP/1.1\r\n"));
    }

    /// What is made of `said`, which is the server's whole answer, in pieces of at most `piece` bytes, with the end of
    /// the connection behind it; and whether the connection would be used again.
    async fn answered_with(said: &[u8], piece: usize) -> (Result<Reply, Failure>, bool) {
        let (listener, url) = server().await;
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            stream.set_nodelay(true).expect("the option is known");
            hear(&mut stream).await;
            for piece in said.chunks(piece) {
                // Who has heard enough may have hung up.
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let mut connection = None;
        let ask = ask(&mut connection, &url, None, "?", IN_VAIN);
        let (reply, ()) = tokio::join!(ask, serve);
        (reply, connection.is_some())
    }

    fn reply(status: u16, body: &str) -> Result<Reply, Failure> {
        let body = body.as_bytes().to_vec();
        Ok(Reply { status, body })
    }

    #[tokio::test]
    async fn an_answer_is_the_same_however_it_comes_in_pieces() {
        for (said, expected, is_kept) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", reply(204, ""), true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                reply(200, "ok"),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n00A\r\n0123456789\r\n\
                 0\r\nTrailer: 1\r\n\r\n",
                reply(200, "ok0123456789"),
                true,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                 HTTP/1.1 403 Forbidden\r\ncontent-length:0\r\n\r\n",
                reply(403, ""),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 2\r\n\r\nok",
                reply(200, "ok"),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nto the end",
                reply(200, "to the end"),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
                reply(200, "ok"),
                false,
            ),
        ] {
            for piece in [1, 2, 7, said.len()] {
                let found = answered_with(said.as_bytes(), piece).await;
                assert_eq!(found.0, expected, "{said:?}");
                assert_eq!(found.1, is_kept, "{said:?}");
            }
        }
        // What comes with an answer and behind it is no beginning of the next one.
        let two = b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(answered_with(two, two.len()).await, (reply(204, ""), false));
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_short_or_broken_is_none() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (said, failure) in [
            (String::new(), Failure::Ended),
            ("HTTP/1.1 200".to_owned(), Failure::Ended),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok".to_owned(),
                Failure::Ended,
            ),
            (format!("{chunked}2\r\nok\r\n"), Failure::Ended),
            (format!("{chunked}2\r\no"), Failure::Ended),
            (format!("{chunked}2\r\nokay\r\n0\r\n\r\n"), Failure::Malformed),
            (format!("{chunked}-2\r\nok\r\n0\r\n\r\n"), Failure::Malformed),
            (format!("{chunked}\r\n"), Failure::Malformed),
            (format!("{chunked}fffffffffffffffff\r\n"), Failure::Malformed),
            ("HTTP/2 200 OK\r\n\r\n".to_owned(), Failure::Malformed),
            ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), Failure::Malformed),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok".to_owned(),
                Failure::Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok".to_owned(),
                Failure::Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_owned(),
                Failure::Malformed,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
                Failure::Malformed,
            ),
        ] {
            for piece in [3, said.len().max(1)] {
                let (reply, is_kept) = answered_with(said.as_bytes(), piece).await;
                assert_eq!(reply.as_ref(), Err(&failure), "{said:?}");
                assert!(!is_kept, "{said:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_without_bounds_is_not_read_to_its_end() {
        let long = "x".repeat(BODY_BYTES_MAX + HEAD_BYTES_MAX + 1);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunks = "400\r\n".to_owned() + &"x".repeat(0x400) + "\r\n";
        for said in [
            format!("HTTP/1.1 200 OK\r\nX: {long}"),
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                BODY_BYTES_MAX + 1
            ),
            format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
            format!("{chunked}{}", chunks.repeat(BODY_BYTES_MAX / 0x400 + 1)),
            format!("{chunked}{:x}\r\n", BODY_BYTES_MAX + 1),
            format!("{chunked}2;{long}"),
            format!("{chunked}0\r\n{}", "T: x\r\n".repeat(FIELDS_MAX + 1)),
        ] {
            let (reply, is_kept) = answered_with(said.as_bytes(), said.len()).await;
            assert_eq!(reply, Err(Failure::TooLarge), "{}", &said[..60]);
            assert!(!is_kept);
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        let (reply, _) = answered_with(many.as_bytes(), many.len()).await;
        assert_eq!(reply, Err(Failure::Malformed));
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_replaced_and_asked_anew() {
        let (listener, url) = server().await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            for number in [b"1", b"2"] {
                hear(&mut stream).await;
                stream
                    .write_all(&[answer, &number[..]].concat())
                    .await
                    .expect("it listens");
            }
            drop(stream);
            let (mut stream, _) = listener.accept().await.expect("it comes again");
            hear(&mut stream).await;
            stream
                .write_all(&[answer, &b"3"[..]].concat())
                .await
                .expect("it listens");
            // It hangs up on a question; the next connection hears it again.
            hear(&mut stream).await;
            drop(stream);
            let (mut stream, _) = listener.accept().await.expect("it comes again");
            hear(&mut stream).await;
            drop(stream);
        };
        let asking = async {
            let mut connection = None;
            let mut said = Vec::new();
            for _ in 0..4 {
                let reply = ask(&mut connection, &url, None, "?", IN_VAIN).await;
                said.push(reply.map(|reply| reply.body));
            }
            assert!(connection.is_none());
            said
        };
        let (said, ()) = tokio::join!(asking, serve);
        let right = |body: &[u8]| Ok(body.to_vec());
        assert_eq!(
            said,
            [right(b"1"), right(b"2"), right(b"3"), Err(Failure::Ended)],
            "a question is asked on a fresh connection once"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_hangs_up_at_once_is_told_apart() {
        let (listener, url) = server().await;
        let mut connection = None;
        let hang_up = async { drop(listener.accept().await) };
        let (reply, ()) = tokio::join!(ask(&mut connection, &url, None, "?", IN_VAIN), hang_up);
        assert!(
            matches!(reply, Err(Failure::Ended | Failure::Stream(_))),
            "{reply:?}"
        );
        drop(listener);
        let reply = ask(&mut connection, &url, None, "?", IN_VAIN).await;
        assert!(matches!(reply, Err(Failure::Connect(_))), "{reply:?}");
    }
}
