//! HTTP of arbitrary bytes, the requests at the operator's door and the answers to the callback: any split of them
//! gives the same, and a request that was read is the same when it is written plainly.
//!
//! The first byte of an input says which of the two, the second how the rest is split.

#![no_main]

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use tidegate::admin::http::{BODY_BYTES_MAX, Method, Refusal, Request, Requests};
use tidegate::callback;
use tidegate::hooks::Verdict;
use tidegate::net::link::Stream;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime;

/// Pieces an answer comes in; each costs a turn of the loop.
const PIECES_MAX: usize = 16;

fuzz_target!(|input: &[u8]| {
    let [what, split, bytes @ ..] = input else {
        return;
    };
    let piece = NonZeroUsize::MIN.saturating_add(usize::from(*split));
    if what % 4 == 0 {
        let least = NonZeroUsize::MIN.saturating_add(bytes.len() / PIECES_MAX);
        let whole = answer(bytes, NonZeroUsize::MAX);
        assert_eq!(
            whole,
            answer(bytes, piece.max(least)),
            "another split gives something else"
        );
    } else {
        read_requests(bytes, piece);
    }
});

fn read_requests(bytes: &[u8], piece: NonZeroUsize) {
    let (whole, refusal) = requests(bytes, NonZeroUsize::MAX);
    let split = requests(bytes, piece);
    assert_eq!(
        (&whole, &refusal),
        (&split.0, &split.1),
        "another split gives something else"
    );
    for request in whole {
        assert!(request.body.len() <= BODY_BYTES_MAX);
        if request.method != Method::Other {
            let again = requests(&written(&request), piece);
            assert_eq!(again, (vec![request], None));
        }
    }
}

fn requests(bytes: &[u8], piece: NonZeroUsize) -> (Vec<Request>, Option<Refusal>) {
    let mut reader = Requests::default();
    let mut read = Vec::new();
    for piece in bytes.chunks(piece.get()) {
        reader.feed(piece);
        loop {
            match reader.poll_request() {
                Ok(Some(request)) => read.push(request),
                Ok(None) => break,
                Err(refusal) => {
                    assert!(!reader.is_begun(), "nothing is held of what is not read");
                    return (read, Some(refusal));
                }
            }
        }
    }
    (read, None)
}

/// A request as the plainest client would write it.
fn written(request: &Request) -> Vec<u8> {
    let encode = |text: &str| {
        text.bytes()
            .fold(String::new(), |all, byte| all + &format!("%{byte:02X}"))
    };
    let path: Vec<_> = request.path.iter().map(|level| encode(level)).collect();
    let query: Vec<_> = (request.query.iter())
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let mut head = format!(
        "{} /{}?{} HTTP/1.1\r\n",
        request.method.name(),
        path.join("/"),
        query.join("&")
    );
    let _ = write!(
        head,
        "Host: {}\r\nContent-Length: {}\r\n",
        request.host,
        request.body.len()
    );
    if let Some(token) = &request.token {
        let _ = write!(head, "Authorization: Bearer {token}\r\n");
    }
    head += if request.keeps_alive {
        "\r\n"
    } else {
        "Connection: close\r\n\r\n"
    };
    [head.as_bytes(), &request.body].concat()
}

/// What the callback makes of a server that says `bytes` and goes.
fn answer(bytes: &[u8], piece: NonZeroUsize) -> Option<Verdict> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("a loop").block_on(async {
        let (ours, mut server) = UnixStream::pair().expect("two ends");
        let say = async move {
            for piece in bytes.chunks(piece.get()) {
                // Whoever has read enough is gone before the rest.
                if server.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(callback::verdict_by(Stream::Unix(ours)), say).0
    })
}
