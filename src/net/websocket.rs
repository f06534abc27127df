//! MQTT in WebSocket frames (RFC 6455; MQTT 5.0, section 6), over TCP, TLS or any other byte stream.
//!
//! - [`upgrade`]: the HTTP request it begins with, on either side; `origin`: the web pages that may make it.
//! - `frames`: the frames, without I/O.
//!
//! The frames are our own rather than a library's: those hold a message until it is whole and buffers for every
//! connection. Here the payload of a frame goes to the decoder as it comes, from the buffer all links share, and an
//! idle connection holds neither; the bound on a packet is the decoder's, whatever the length of a frame says.

mod frames;
mod origin;
pub mod upgrade;

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use frames::FrameError;
use frames::{CLOSE_NORMAL, End, FrameReader, HEADER_BYTES_MAX, Kind, Sender, apply_mask, header};

/// The bytes that binary frames carry over `S`: frames split and join them as they like [MQTT-6.0.0-2].
///
/// What it answers by itself (a pong, a close frame) goes out between two frames and before the bytes of whoever
/// writes; where `S` does not take it at once, [`WebSocket::owes`] says so and any poll of reading, writing or
/// flushing tries again.
///
/// **Invariants**
/// 1. Of a frame whose header is out, `frame_left` bytes are still to be written, and nothing comes between.
/// 2. No memory is held while nothing is half read or half written, but by a client for its masks.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    reader: FrameReader,
    /// What came with the end of the upgrade and was not read yet.
    early: Bytes,
    /// The header of the present frame, as far as it is not out.
    header: Waiting<heapless::Vec<u8, HEADER_BYTES_MAX, u8>>,
    frame_left: usize,
    /// Of the present frame, where it stopped.
    mask: [u8; 4],
    /// `None` for a server, which does not mask.
    masks: Option<Box<Masks>>,
    /// A control frame, as far as it is not out.
    control: Waiting<Vec<u8>>,
    close: Close,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
struct Waiting<B> {
    bytes: B,
    sent: usize,
}

/// Our own close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    NotYet,
    /// With this code, or with none.
    Owed(Option<u16>),
    /// Nothing is written any more (section 5.5.1).
    Written,
}

/// Random masks made ahead, for one system call each would cost more than the masking.
#[derive(Debug)]
struct Masks {
    bytes: [u8; 256],
    used: usize,
}

/// The longest frame that is written: small clients do not know lengths beyond, and MQTT packets may be split.
const FRAME_BYTES_MAX: usize = u16::MAX as usize;
/// How much a client masks for one write.
const MASKED_BYTES_MAX: usize = 8 * 1024;
/// Reads that gave no payload before others have their go: pings, empty frames, pieces of headers.
const READS_PER_POLL: usize = 4;

// What a connection through WebSocket costs beyond one through TCP.
const _: () = assert!(size_of::<WebSocket<()>>() <= 224);

impl<S> WebSocket<S> {
    /// The server's end of `stream`, on which `early` was read behind the request; [`upgrade::accept`] comes before it.
    pub fn server(stream: S, early: Bytes) -> Self {
        Self::new(stream, early, Sender::Client, None)
    }

    /// The client's end of `stream`, on which `early` was read behind the answer; see [`upgrade::connect`].
    pub fn client(stream: S, early: Bytes) -> Self {
        Self::new(stream, early, Sender::Server, Some(Box::new(Masks::none_left())))
    }

    fn new(stream: S, early: Bytes, peer: Sender, masks: Option<Box<Masks>>) -> Self {
        Self {
            stream,
            reader: FrameReader::new(peer),
            early,
            header: Waiting::default(),
            frame_left: 0,
            mask: [0; 4],
            masks,
            control: Waiting::default(),
            close: Close::NotYet,
        }
    }

    /// What carries the frames.
    pub fn inner(&self) -> &S {
        &self.stream
    }

    /// What its state costs beside that of the stream within: its own, what came early, and a control frame
    /// half written.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() - size_of::<S>() + self.early.len() + self.control.bytes.capacity()
    }

    /// Whether it has something of its own to write that could be written now.
    pub fn owes(&self) -> bool {
        let is_owed = self.reader.has_ping() || matches!(self.close, Close::Owed(_));
        !self.control.rest().is_empty() || (self.frame_left == 0 && self.close != Close::Written && is_owed)
    }

    /// The next control frame that is owed; only between two frames.
    fn next_control(&mut self) -> Option<(Kind, Vec<u8>)> {
        if self.close == Close::Written {
            return None;
        }
        if let Close::Owed(code) = self.close {
            self.close = Close::Written;
            return Some((
                Kind::Close,
                code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec()),
            ));
        }
        Some((Kind::Pong, self.reader.take_ping()?))
    }

    fn next_mask(&mut self) -> io::Result<Option<[u8; 4]>> {
        self.masks.as_mut().map(|masks| masks.next()).transpose()
    }

    /// Owes the answer to how the peer's frames ended.
    fn note_end(&mut self) {
        if self.close == Close::NotYet {
            self.close = match self.reader.end() {
                None => Close::NotYet,
                Some(End::Closed(code)) => Close::Owed(code),
                Some(End::Failed(error)) => Close::Owed(Some(error.close_code())),
            };
        }
    }
}

impl<S: AsyncWrite + Unpin> WebSocket<S> {
    /// Writes the control frames that are owed, as far as they may be written now.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.control.rest().is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.control.rest()))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.control.advance(written);
            }
            self.control = Waiting::default();
            if self.frame_left > 0 {
                return Poll::Ready(Ok(()));
            }
            let Some((kind, mut payload)) = self.next_control() else {
                return Poll::Ready(Ok(()));
            };
            let mask = self.next_mask()?;
            let mut bytes = header(kind, payload.len(), mask).to_vec();
            if let Some(mut mask) = mask {
                apply_mask(&mut payload, &mut mask);
            }
            bytes.extend(payload);
            self.control = Waiting { bytes, sent: 0 };
        }
    }

    /// The same, and sees it off.
    fn poll_control_off(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Writes some of what is left of the header and of `payload`, which belongs to the present frame; both in one
    /// write, or a frame would cost two system calls, and over TLS two records.
    fn poll_frame(&mut self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        let header = self.header.rest();
        let stream = Pin::new(&mut self.stream);
        if self.masks.is_some() {
            let mut room = [0; HEADER_BYTES_MAX + MASKED_BYTES_MAX];
            let (payload, _) = payload.split_at(payload.len().min(MASKED_BYTES_MAX));
            let length = header.len() + payload.len();
            let (bytes, _) = room.split_at_mut(length);
            let (front, masked) = bytes.split_at_mut(header.len());
            front.copy_from_slice(header);
            masked.copy_from_slice(payload);
            let mut mask = self.mask;
            apply_mask(masked, &mut mask);
            stream.poll_write(cx, bytes)
        } else if header.is_empty() {
            stream.poll_write(cx, payload)
        } else {
            stream.poll_write_vectored(cx, &[IoSlice::new(header), IoSlice::new(payload)])
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    /// Ends where the peer's close frame or the end of `S` does.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] with a [`FrameError`] for a frame that must not be, behind all that came before
    /// it; the peer has been told then, as far as it reads. What `S` says otherwise.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for _ in 0..READS_PER_POLL {
            if this.owes() {
                // Pending or failed, the rest is for the next poll: reading does not wait for it, and tells of a
                // broken stream by itself.
                let _ = this.poll_control_off(cx);
            }
            match this.reader.end() {
                Some(End::Closed(_)) => return Poll::Ready(Ok(())),
                Some(End::Failed(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                None => {}
            }
            let filled = buffer.filled().len();
            if this.early.is_empty() {
                ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            } else {
                let length = this.early.len().min(buffer.remaining());
                buffer.put_slice(&this.early.split_to(length));
                if this.early.is_empty() {
                    this.early = Bytes::new(); // gives the buffer of the upgrade back
                }
            }
            let (_, came) = buffer.filled_mut().split_at_mut(filled);
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let length = this.reader.take_off(came);
            buffer.set_filled(filled + length);
            this.note_end();
            if length > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    /// Writes `bytes` as the payload of binary frames [MQTT-6.0.0-1]. What was pending or was taken in part must be
    /// the beginning of the next call's `bytes`: the frame's length is out.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_control(cx))?;
        if this.frame_left == 0 {
            if this.close == Close::Written {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let length = bytes.len().min(FRAME_BYTES_MAX);
            let mask = this.next_mask()?;
            this.mask = mask.unwrap_or_default();
            this.header = Waiting {
                bytes: header(Kind::Binary, length, mask),
                sent: 0,
            };
            this.frame_left = length;
        }
        let (payload, _) = bytes.split_at(bytes.len().min(this.frame_left));
        loop {
            let written = ready!(this.poll_frame(cx, payload))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_header = written.min(this.header.rest().len());
            this.header.advance(of_header);
            let of_payload = written - of_header;
            this.mask.rotate_left(of_payload % 4);
            this.frame_left -= of_payload;
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_control_off(cx)
    }

    /// Says by a close frame that nothing more will come, then shuts `S` down.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.close == Close::NotYet {
            this.close = Close::Owed(Some(CLOSE_NORMAL));
        }
        ready!(this.poll_control_off(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<B: Deref<Target = [u8]>> Waiting<B> {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
    }
}

impl Masks {
    fn none_left() -> Self {
        let bytes = [0; 256];
        Self {
            used: bytes.len(),
            bytes,
        }
    }

    /// A mask that nobody who sees those before can tell ahead (section 5.3).
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.used >= self.bytes.len() {
            getrandom::fill(&mut self.bytes).map_err(io::Error::other)?;
            self.used = 0;
        }
        let mask = self
            .bytes
            .get(self.used..)
            .and_then(|rest| rest.first_chunk().copied());
        self.used += 4;
        Ok(mask.expect("256 bytes are 64 masks"))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Both ends of a connection over a pipe of `room` bytes.
    fn pair(room: usize) -> (WebSocket<DuplexStream>, WebSocket<DuplexStream>) {
        let (client, server) = duplex(room);
        (
            WebSocket::client(client, Bytes::new()),
            WebSocket::server(server, Bytes::new()),
        )
    }

    /// The server's end, and the wire a client would be at.
    fn server() -> (DuplexStream, WebSocket<DuplexStream>) {
        let (wire, server) = duplex(64 * 1024);
        (wire, WebSocket::server(server, Bytes::new()))
    }

    /// A frame as a client writes it, with the mask of zeros.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = header(Kind::Binary, payload.len(), Some([0; 4])).to_vec();
        frame[0] = first;
        frame.extend_from_slice(payload);
        frame
    }

    fn poll_write(stream: &mut WebSocket<DuplexStream>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn poll_read(stream: &mut WebSocket<DuplexStream>) -> Poll<io::Result<Vec<u8>>> {
        let mut room = [0; 4096];
        let mut buffer = ReadBuf::new(&mut room);
        let read = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
        read.map_ok(|()| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_whatever_the_pipe_takes_at_once() {
        let sent: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        for room in [1, 7, 100, 5000, 1 << 20] {
            for is_upwards in [true, false] {
                let (client, server) = pair(room);
                let (mut from, mut to) = if is_upwards {
                    (client, server)
                } else {
                    (server, client)
                };
                let length = if room < 100 { 3000 } else { sent.len() };
                let send = async {
                    from.write_all(&sent[..length]).await.unwrap();
                    from.shutdown().await.unwrap();
                };
                let mut received = Vec::new();
                let (_, read) = tokio::join!(send, to.read_to_end(&mut received));
                read.unwrap();
                assert!(
                    received == sent[..length],
                    "through {room} bytes, upwards {is_upwards}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_at_once_is_one_frame() {
        let (mut wire, server) = duplex(1 << 20);
        let mut server = WebSocket::server(server, Bytes::new());
        server.write_all(&[1; 500]).await.unwrap();
        server.write_all(&[2; 70_000]).await.unwrap();
        server.flush().await.unwrap();
        let mut frames = vec![0; 4 + 500];
        wire.read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames[..4], [0x82, 126, 1, 0xF4]);
        // No longer than small clients know how to read.
        let mut header = [0; 4];
        wire.read_exact(&mut header).await.unwrap();
        assert_eq!(header, [0x82, 126, 0xFF, 0xFF]);
    }

    #[tokio::test]
    async fn a_frame_that_was_begun_is_finished_before_a_pong() {
        let (mut wire, server) = duplex(64);
        let mut server = WebSocket::server(server, Bytes::new());
        let payload = [7; 100];
        assert!(matches!(poll_write(&mut server, &payload), Poll::Ready(Ok(62))));
        assert!(poll_write(&mut server, &payload[62..]).is_pending());
        wire.write_all(&masked(0x89, b"ping")).await.unwrap();
        assert!(poll_read(&mut server).is_pending());
        assert!(!server.owes(), "nothing that could be written now");
        let mut frame = [0; 64];
        wire.read_exact(&mut frame).await.unwrap();
        server.write_all(&payload[62..]).await.unwrap();
        assert!(server.owes());
        server.flush().await.unwrap();
        let mut rest = [0; 38 + 6];
        wire.read_exact(&mut rest).await.unwrap();
        assert_eq!(frame[..2], [0x82, 100]);
        assert_eq!(rest[38..], *b"\x8A\x04ping");
        assert!(!server.owes());
    }

    #[tokio::test]
    async fn a_ping_is_answered_with_its_payload_by_reading_alone() {
        let (mut wire, mut server) = server();
        wire.write_all(&masked(0x89, b"")).await.unwrap();
        assert!(poll_read(&mut server).is_pending());
        wire.write_all(&masked(0x89, &[9; 125])).await.unwrap();
        assert!(poll_read(&mut server).is_pending());
        let mut pongs = [0; 2 + 127];
        wire.read_exact(&mut pongs).await.unwrap();
        assert_eq!(pongs[..4], [0x8A, 0, 0x8A, 125]);
        assert_eq!(pongs[4..], [9; 125]);
    }

    #[tokio::test]
    async fn a_flood_of_pings_that_are_not_read_gathers_nothing() {
        let (mut wire, server) = duplex(4096);
        let mut server = WebSocket::server(server, Bytes::new());
        for _ in 0..1000 {
            wire.write_all(&masked(0x89, &[9; 125])).await.unwrap();
            let _ = poll_read(&mut server);
            assert!(server.control.bytes.len() <= 127);
        }
        assert!(server.owes());
    }

    #[tokio::test]
    async fn a_close_frame_is_answered_and_is_the_end() {
        let (mut wire, mut server) = server();
        let mut bytes = masked(0x82, b"last");
        bytes.extend(masked(0x88, b"\x03\xE8bye"));
        bytes.extend(masked(0x82, b"nobody hears"));
        wire.write_all(&bytes).await.unwrap();
        assert!(matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes == b"last"));
        assert!(matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes.is_empty()));
        let mut answer = [0; 4];
        wire.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"\x88\x02\x03\xE8");
        assert!(server.write_all(b"more").await.is_err());
    }

    #[tokio::test]
    async fn a_text_frame_is_refused_behind_what_came_before_it() {
        let (mut wire, mut server) = server();
        let mut bytes = masked(0x82, b"before");
        bytes.extend(masked(0x81, b"text"));
        wire.write_all(&bytes).await.unwrap();
        assert!(matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes == b"before"));
        let Poll::Ready(Err(error)) = poll_read(&mut server) else {
            panic!("expected an error");
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.downcast::<FrameError>().unwrap(), FrameError::Text);
        let mut answer = [0; 4];
        wire.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"\x88\x02\x03\xEB");
    }

    #[tokio::test]
    async fn shutting_down_says_close_once_and_then_ends_the_stream() {
        let (mut wire, mut server) = server();
        server.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        let mut rest = Vec::new();
        wire.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\x88\x02\x03\xE8");
    }

    #[tokio::test]
    async fn what_came_with_the_upgrade_is_read_first() {
        let (wire, server) = duplex(64);
        let early = Bytes::from(masked(0x82, b"early"));
        let mut server = WebSocket::server(server, early);
        assert!(matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes == b"early"));
        assert!(poll_read(&mut server).is_pending());
        drop(wire);
        assert!(matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes.is_empty()));
    }

    #[tokio::test]
    async fn frames_without_payload_do_not_keep_the_others_waiting() {
        let (mut wire, server) = duplex(1 << 20);
        let mut server = WebSocket::server(server, Bytes::new());
        let empty: Vec<u8> = (0..50_000).flat_map(|_| masked(0x82, b"")).collect();
        wire.write_all(&empty).await.unwrap();
        let mut polls = 0;
        wire.write_all(&masked(0x82, b"at last")).await.unwrap();
        while !matches!(poll_read(&mut server), Poll::Ready(Ok(bytes)) if bytes == b"at last") {
            polls += 1;
        }
        assert!(polls >= empty.len() / 4096 / READS_PER_POLL, "{polls} polls");
    }

    #[test]
    fn no_mask_is_used_twice() {
        let mut masks = Masks::none_left();
        let mut seen = std::collections::BTreeSet::new();
        let repeated = (0..1000).filter(|_| !seen.insert(masks.next().unwrap())).count();
        assert!(repeated <= 2, "{repeated} of 1000 masks of 32 bits were the same");
    }
}
