//! WebSocket under arbitrary bytes: what is read does not depend on how the bytes are split, is what a plain reading of
//! RFC 6455 finds, and is answered by well-formed frames; requests and answers of the upgrade are judged or refused.
//!
//! The first byte of an input says what is tried, the second how the rest is split.

#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate::net::websocket::upgrade::{self, Origins, Place, ServerSettings};
use tidegate::net::websocket::{FrameError, WebSocket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

fuzz_target!(|input: &[u8]| {
    let [setting, split, bytes @ ..] = input else {
        return;
    };
    let state = u32::from(*split);
    match setting % 8 {
        0..=2 => read_frames(bytes, state, true),
        3 => read_frames(bytes, state, false),
        4 => write_frames(bytes, state),
        5 => accept(bytes, state, setting & 8 == 0, setting & 16 == 0),
        6 => accept(
            &[REQUEST, bytes].concat(),
            state,
            setting & 8 == 0,
            setting & 16 == 0,
        ),
        _ => connect(bytes, state),
    }
});

/// A peer that has said `incoming`, split by chance, and takes a few bytes at a time.
struct Peer<'a> {
    incoming: &'a [u8],
    outgoing: Vec<u8>,
    /// `None`: whole.
    state: Option<u32>,
}

impl<'a> Peer<'a> {
    fn new(incoming: &'a [u8], state: Option<u32>) -> Self {
        Self {
            incoming,
            outgoing: Vec::new(),
            state,
        }
    }

    /// 1 to 16 bytes, now and then none at all, for that is what a pending stream is.
    fn next_length(&mut self, most: usize) -> Option<usize> {
        let Some(state) = &mut self.state else {
            return Some(most);
        };
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let random = *state >> 24;
        (random >= 16).then_some((1 + (random & 15) as usize).min(most))
    }
}

impl AsyncRead for Peer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.incoming.len().min(buffer.remaining());
        let Some(length) = self.next_length(most) else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let (now, rest) = self.incoming.split_at(length);
        buffer.put_slice(now);
        self.incoming = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(length) = self.next_length(bytes.len()) else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        self.outgoing.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a stream of frames ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The bytes did, or a close frame came.
    Silent,
    Failed(FrameError),
}

/// Polls until it is ready; the peers here are pending now and then, and never for good.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
    panic!("it waits for nothing that could come");
}

/// Everything that comes through `socket`, how it ended, and how many bytes were written meanwhile.
fn read_all(socket: &mut WebSocket<Peer<'_>>) -> (Vec<u8>, End) {
    let mut payload = Vec::new();
    let mut room = [0; 512];
    loop {
        match finish(socket.read(&mut room)) {
            Ok(0) => return (payload, End::Silent),
            Ok(length) => payload.extend_from_slice(&room[..length]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                let error = error.get_ref().and_then(|error| error.downcast_ref());
                return (payload, End::Failed(*error.expect("a FrameError")));
            }
        }
    }
}

fn read_frames(bytes: &[u8], state: u32, is_server: bool) {
    let read = |state| {
        let peer = Peer::new(bytes, state);
        let mut socket = match is_server {
            true => WebSocket::server(peer, Bytes::new()),
            false => WebSocket::client(peer, Bytes::new()),
        };
        let outcome = read_all(&mut socket);
        // What was owed at the end goes out here, and after a close frame nothing does.
        finish(async {
            socket.flush().await.expect("the peer takes everything");
            socket.shutdown().await.expect("the peer takes everything");
        });
        (outcome, socket.inner().outgoing.clone())
    };
    let (outcome, answers) = read(None);
    let (outcome_of_pieces, answers_to_pieces) = read(Some(state));
    assert_eq!(outcome, outcome_of_pieces, "another split gives something else");

    let expected = reference(bytes, is_server);
    assert_eq!((&outcome.0, &outcome.1), (&expected.payload, &expected.end));

    for answers in [answers, answers_to_pieces] {
        let said = reference(&answers, !is_server);
        assert!(said.payload.is_empty() && said.end == End::Silent, "{answers:?}");
        assert!(said.is_closed && said.behind_close == 0, "{answers:?}");
        // Each pong answers a ping, in their order, and none twice.
        let mut pings = expected.pings.iter();
        for pong in &said.pongs {
            assert!(pings.any(|ping| ping == pong), "a pong to no ping: {pong:?}");
        }
        assert!(said.pings.is_empty());
    }
}

/// What is written reaches the other end.
fn write_frames(bytes: &[u8], state: u32) {
    for is_server in [true, false] {
        let peer = Peer::new(&[], Some(state));
        let mut socket = match is_server {
            true => WebSocket::server(peer, Bytes::new()),
            false => WebSocket::client(peer, Bytes::new()),
        };
        // Repeated, so that frames are longer than one length says.
        let bytes = bytes.repeat(1 + (state % 32) as usize * 16);
        finish(async {
            socket.write_all(&bytes).await.expect("the peer takes everything");
            socket.shutdown().await.expect("the peer takes everything");
        });
        let outgoing = &socket.inner().outgoing;
        let said = reference(outgoing, !is_server);
        assert!(said.payload == bytes && said.end == End::Silent && said.is_closed);
        let peer = Peer::new(outgoing, Some(state));
        let mut other_end = match is_server {
            true => WebSocket::client(peer, Bytes::new()),
            false => WebSocket::server(peer, Bytes::new()),
        };
        assert!(read_all(&mut other_end) == (bytes, End::Silent));
    }
}

/// A request that wants no more than its end, so that not every input has to find it.
const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: gateway.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n";

fn accept(bytes: &[u8], state: u32, any_origin: bool, peer_is_local: bool) {
    let settings = ServerSettings {
        paths: vec!["/mqtt".to_owned(), "/".to_owned()],
        origins: match any_origin {
            true => Origins::Any,
            false => Origins::SameHost,
        },
    };
    let accept = |state| {
        let mut peer = Peer::new(bytes, state);
        let address = peer_is_local.then_some(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let accepted = in_runtime(upgrade::accept(&mut peer, &settings, address));
        let outcome = match accepted {
            Ok(mut socket) => {
                let mut room = [0; 64];
                let mut payload = Vec::new();
                while let Ok(length @ 1..) = finish(socket.read(&mut room)) {
                    payload.extend_from_slice(&room[..length]);
                }
                Ok(payload)
            }
            Err(error) => Err(format!("{error:?}")),
        };
        (outcome, peer.outgoing)
    };
    let (whole, answer) = accept(None);
    let (pieces, answer_to_pieces) = accept(Some(state));
    assert_eq!(whole, pieces, "another split gives something else");
    match whole {
        Ok(_) => {
            assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer_to_pieces.starts_with(b"HTTP/1.1 101 "))
        }
        Err(_) => assert_eq!(answer, answer_to_pieces),
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
}

/// No answer is right by chance, for the key is random.
fn connect(bytes: &[u8], state: u32) {
    let place = Place {
        host: "gateway.example",
        port: 8083,
        tls: false,
        path: "/mqtt",
    };
    let connected = in_runtime(upgrade::connect(
        Peer::new(bytes, Some(state)),
        place,
        Duration::from_secs(60),
    ));
    assert!(connected.is_err());
}

/// With the timers of a runtime, which bound how long a peer may take.
fn in_runtime<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing of the machine");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// What RFC 6455 makes of bytes that are all there.
#[derive(Debug)]
struct Reference {
    payload: Vec<u8>,
    end: End,
    pings: Vec<Vec<u8>>,
    pongs: Vec<Vec<u8>>,
    is_closed: bool,
    /// Bytes behind a close frame.
    behind_close: usize,
}

/// Reads `bytes` frame by frame; each rule in the order in which a frame's bytes can break it.
fn reference(bytes: &[u8], is_from_client: bool) -> Reference {
    let mut found = Reference {
        payload: Vec::new(),
        end: End::Silent,
        pings: Vec::new(),
        pongs: Vec::new(),
        is_closed: false,
        behind_close: 0,
    };
    let mut is_in_message = false;
    let mut rest = bytes;
    loop {
        let (frame, behind) = match next_frame(rest, is_from_client, &mut is_in_message) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                found.end = End::Failed(error);
                break;
            }
        };
        rest = behind;
        match (frame.opcode, frame.is_whole) {
            (0x0 | 0x2, _) => found.payload.extend(frame.payload),
            (0x9, true) => found.pings.push(frame.payload),
            (0xA, true) => found.pongs.push(frame.payload),
            (0x8, true) => {
                found.is_closed = true;
                found.behind_close = behind.len();
                break;
            }
            _ => {}
        }
    }
    found
}

struct Frame {
    opcode: u8,
    /// Without its mask; as much as there is.
    payload: Vec<u8>,
    is_whole: bool,
}

/// The frame at the front of `bytes` and what stands behind it; `None` where its header is not whole.
fn next_frame<'a>(
    bytes: &'a [u8],
    is_from_client: bool,
    is_in_message: &mut bool,
) -> Result<Option<(Frame, &'a [u8])>, FrameError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (is_last, opcode) = (first & 0x80 != 0, first & 0x0F);
    match opcode {
        _ if first & 0x70 != 0 => return Err(FrameError::ReservedBits),
        0x0 if !*is_in_message => return Err(FrameError::Continuation),
        0x1 | 0x2 if *is_in_message => return Err(FrameError::Interrupted),
        0x1 => return Err(FrameError::Text),
        0x0 | 0x2 => *is_in_message = !is_last,
        0x8..=0xA if !is_last => return Err(FrameError::Control),
        0x8..=0xA => {}
        _ => return Err(FrameError::Opcode(opcode)),
    }
    let Some((&second, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let (is_masked, short) = (second & 0x80 != 0, second & 0x7F);
    if is_masked != is_from_client {
        return Err(FrameError::Mask(is_masked));
    }
    if opcode >= 0x8 && short > 125 {
        return Err(FrameError::Control);
    }
    let length_bytes = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((long, rest)) = rest.split_at_checked(length_bytes) else {
        return Ok(None);
    };
    let long = long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    let length = match short {
        126 if long < 126 => return Err(FrameError::Length),
        127 if long < 65_536 || long >= 1 << 63 => return Err(FrameError::Length),
        126 | 127 => long,
        _ => short.into(),
    };
    let Some((mask, rest)) = rest.split_at_checked(if is_masked { 4 } else { 0 }) else {
        return Ok(None);
    };
    let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
    let (payload, behind) = rest.split_at(here);
    let payload = payload.iter().enumerate();
    let payload = payload.map(|(at, byte)| byte ^ mask.get(at % 4).copied().unwrap_or(0));
    let frame = Frame {
        opcode,
        payload: payload.collect(),
        is_whole: here as u64 == length,
    };
    Ok(Some((frame, behind)))
}
