//! One question to a running gateway through its socket, and the answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use httparse::{EMPTY_HEADER, Response, Status};
use serde_json::Value;

/// How long an answer may take; a kick of everybody is the slowest.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The longest answer: a page of the longest names there may be, several times.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Header fields of an answer.
const FIELDS_MAX: usize = 32;

/// Asks and waits for the answer; null where there is none to read.
///
/// # Errors
/// What keeps the gateway from being asked, and what it says is wrong.
pub(super) fn ask(socket: &Path, method: &str, target: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!("cannot reach a gateway at {shown}; is it running, and is this its socket (--socket FILE)?")
    })?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    stream
        .write_all((head + &body).as_bytes())
        .and_then(|()| stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer))
        .with_context(|| format!("the gateway at {shown} did not answer"))?;
    let (status, body) = read(&answer).with_context(|| format!("what is at {shown} does not speak HTTP"))?;
    let value = match body {
        b"" => Value::Null,
        body => serde_json::from_slice(body).context("the gateway's answer is cut off, or no JSON")?,
    };
    if !(200..300).contains(&status) {
        let message = value
            .get("error")
            .and_then(Value::as_str)
            .unwrap_or("it says no more");
        bail!("the gateway refuses ({status}): {message}");
    }
    Ok(value)
}

/// The status and the body of an answer.
fn read(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut head = Response::new(&mut fields);
    match head.parse(answer) {
        Ok(Status::Complete(length)) => Some((head.code?, answer.get(length..)?)),
        _ => None,
    }
}

/// Every item of a list that comes in pages, at most `most` of them.
pub(super) fn ask_pages(socket: &Path, target: &str, query: &str, most: usize) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let limit = (most - items.len()).clamp(1, 1000);
        let target = format!("{target}?limit={limit}&after={}{query}", encoded(&after));
        let mut page = ask(socket, "GET", &target, None)?;
        if let Some(found) = page.get_mut("items").and_then(Value::as_array_mut) {
            items.append(found);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) if items.len() < most && next != after => after = next.to_owned(),
            _ => return Ok(items),
        }
    }
}

/// `text` as a level of a path, or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_as_part_of_a_url_is_encoded() {
        assert_eq!(encoded("a/b c&d=é~"), "a%2Fb%20c%26d%3D%C3%A9~");
    }

    #[test]
    fn an_answer_is_status_and_body() {
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"),
            Some((200, &b"{}"[..]))
        );
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nA: b"), None);
        assert_eq!(read(b"\x10\x00"), None);
    }
}
