//! One MQTT connection: bytes in, packets out, and back. Nothing is held for a link that is idle.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::websocket::WebSocket;
use crate::mqtt::{DecodeError, Decoder, Packet, ProtocolVersion, encode};

/// One MQTT byte stream with its decoder and the bytes that wait to go out.
///
/// **Invariants**
/// 1. `outgoing` has capacity only while bytes of it wait to go out: an idle link owns no buffer.
/// 2. `sent <= outgoing.len()`; the bytes before it are out.
///
/// How it is driven: when the task of the link wakes up, [`Link::poll_receive`] is called until it is pending
/// or the caller's budget of reads is used up (TLS may hold plaintext that no readiness of the socket
/// announces), and after each read [`Link::poll_packet`] until it has none. [`Link::send`] does no I/O;
/// whoever called it sees to it that [`Link::poll_flush`] is called once when the turn ends, and again when
/// it was pending and the task wakes up.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    decoder: Decoder,
    outgoing: BytesMut,
    sent: usize,
}

// The bound per idle connection is 3 KB, and most of that is the runtime's and the broker's.
const _: () = assert!(size_of::<Link>() <= 256);

/// What carries a link's bytes.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Tcp(TcpStream),
    /// In the clear, and never off this machine.
    Unix(UnixStream),
    /// Encrypted; boxed, because the state of TLS is a kilobyte and more.
    Tls(Box<TlsStream<TcpStream>>),
    /// In frames over another of these; boxed, because few links are.
    WebSocket(Box<WebSocket<Stream>>),
}

/// The buffers all links of one thread share: one to read into, and spare ones for what goes out.
///
/// **Invariant:** `spare_bytes` is the sum of the capacities in `spare`, at most `SPARE_BYTES_MAX`.
#[derive(Debug)]
pub struct Buffers {
    read: BytesMut,
    spare: Vec<BytesMut>,
    spare_bytes: usize,
}

/// Room for one read: what a socket's receive buffer commonly holds at most when a peer sends in bulk.
const READ_BYTES: usize = 64 * 1024;
/// Where packets of an earlier read still share the buffer, the rest behind them is used down to this room,
/// the largest TLS record; then a new buffer takes over.
const READ_BYTES_MIN: usize = 16 * 1024;
/// A buffer for what goes out starts with this, enough for the acknowledgements of a turn.
const OUTGOING_BYTES_MIN: usize = 2 * 1024;
/// A buffer that grew beyond this served a burst and is freed rather than kept.
const OUTGOING_BYTES_KEPT: usize = 64 * 1024;
/// What is kept for the next turn, in bytes: a fan-out to 1,024 links, each with the buffer it started with, or to 32
/// in bulk. A buffer that is made anew grows by copying what it holds, over and over.
const SPARE_BYTES_MAX: usize = 1024 * OUTGOING_BYTES_MIN;

const _: () = assert!(READ_BYTES_MIN <= READ_BYTES);
const _: () = assert!(OUTGOING_BYTES_KEPT <= SPARE_BYTES_MAX);

impl Link {
    /// The server's end of `stream`; a packet is at most `packet_bytes_max` bytes, its fixed header included.
    pub fn server(stream: Stream, packet_bytes_max: u32) -> Self {
        Self::new(stream, Decoder::server(packet_bytes_max))
    }

    /// The client's end of `stream`, speaking `version`.
    pub fn client(stream: Stream, version: ProtocolVersion, packet_bytes_max: u32) -> Self {
        Self::new(stream, Decoder::client(version, packet_bytes_max))
    }

    fn new(stream: Stream, decoder: Decoder) -> Self {
        Self {
            stream,
            decoder,
            outgoing: BytesMut::new(),
            sent: 0,
        }
    }

    /// The version in force; `None` at the server's end until CONNECT was read.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.decoder.version()
    }

    /// What its client proved itself by when TLS began, its own certificate first; `None` without TLS or certificate.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.stream.peer_certificates()
    }

    /// Changes the largest packet accepted from here on, in bytes with its fixed header.
    pub fn set_packet_bytes_max(&mut self, packet_bytes_max: u32) {
        self.decoder.set_packet_bytes_max(packet_bytes_max);
    }

    /// What is held for it beside what waits to go out: a packet of which a part has arrived, and the state of TLS.
    pub fn holding_bytes(&self) -> usize {
        self.decoder.held_bytes() + self.stream.state_bytes()
    }

    /// Reads once and feeds the decoder; returns the number of bytes, 0 at the end of the stream.
    ///
    /// A read that does not fill the buffer makes the next call pending without another system call.
    ///
    /// # Errors
    /// What the socket says; where TLS finds the records forged, [`io::ErrorKind::InvalidData`].
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<usize>> {
        let room = buffers.room_to_read();
        let result = ready!(pin!(self.stream.read_buf(room)).poll(cx));
        Poll::Ready(match result {
            Ok(0) => Ok(0),
            Ok(count) => {
                self.decoder.feed(room.split().freeze());
                Ok(count)
            }
            // TLS without close_notify: DISCONNECT is what tells an orderly end of MQTT, so this is just an
            // end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        })
    }

    /// The next whole packet; it may share the read buffer, so what is kept for long is detached.
    ///
    /// # Errors
    /// [`DecodeError`]; nothing more can be read from the link.
    pub fn poll_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        self.decoder.poll_packet()
    }

    /// Adds `packet`, as the version in force writes it, to what waits to go out.
    pub fn send(&mut self, packet: &Packet, buffers: &mut Buffers) {
        self.make_room(buffers);
        encode(packet, self.version_to_send(), &mut self.outgoing);
    }

    /// Takes bytes for sending that are whole packets already, encoded in [`Link::version_to_send`]; no I/O.
    #[inline]
    pub fn send_encoded(&mut self, packets: &[u8], buffers: &mut Buffers) {
        self.make_room(buffers);
        self.outgoing.extend_from_slice(packets);
    }

    /// The version packets are encoded in.
    pub fn version_to_send(&self) -> ProtocolVersion {
        // A server that could not read CONNECT answers as 3.1.1: every client can tell that CONNACK from a
        // success.
        self.version().unwrap_or(ProtocolVersion::V311)
    }

    #[inline(always)]
    fn make_room(&mut self, buffers: &mut Buffers) {
        if self.outgoing.capacity() == 0 {
            self.outgoing = buffers.take_spare();
        } else if self.sent > self.outgoing.len() / 2 {
            // Each byte is moved at most once for every byte that went out, and a slow reader's buffer does
            // not grow by what it has already taken.
            self.outgoing.copy_within(self.sent.., 0);
            self.outgoing.truncate(self.outgoing.len() - self.sent);
            self.sent = 0;
        }
    }

    /// The bytes that were sent and wait to go out.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// The same; at least 1 while TLS holds some back that it has already taken, or WebSocket owes
    /// an answer of its own.
    pub fn unsent(&self) -> usize {
        self.waiting().max(usize::from(self.stream.holds_back()))
    }

    /// Writes what waits; ready when everything is out, and then the buffer is with `buffers` again.
    ///
    /// # Errors
    /// What the socket says; the link is of no use any more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        if self.outgoing.capacity() > 0 {
            buffers.give_back(std::mem::take(&mut self.outgoing));
            self.sent = 0;
        }
        if self.stream.holds_back() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what waits, then says that nothing more will come: a close frame over WebSocket, close_notify over TLS,
    /// and the end of the TCP stream.
    ///
    /// A socket that is dropped while bytes from the peer lie unread in it is reset, and the peer may lose
    /// what was sent last: after this, [`Link::poll_discard`] for a moment lets the peer read it.
    ///
    /// # Errors
    /// What the socket says; the link is of no use any more.
    pub fn poll_close(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx, buffers))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Reads and forgets; ready when the peer has closed too, or the stream is broken.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<()> {
        loop {
            let room = buffers.room_to_read();
            let result = ready!(pin!(self.stream.read_buf(room)).poll(cx));
            room.clear();
            if matches!(result, Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
    }
}

impl Buffers {
    /// Buffers for the links of one thread.
    pub fn new() -> Self {
        Self {
            read: BytesMut::with_capacity(READ_BYTES),
            spare: Vec::new(),
            spare_bytes: 0,
        }
    }

    /// The empty read buffer, with room behind it: all of it again where no packet shares it any more.
    fn room_to_read(&mut self) -> &mut BytesMut {
        if !self.read.try_reclaim(READ_BYTES) && self.read.capacity() < READ_BYTES_MIN {
            self.read = BytesMut::with_capacity(READ_BYTES);
        }
        &mut self.read
    }

    fn take_spare(&mut self) -> BytesMut {
        match self.spare.pop() {
            Some(buffer) => {
                self.spare_bytes -= buffer.capacity();
                buffer
            }
            None => BytesMut::with_capacity(OUTGOING_BYTES_MIN),
        }
    }

    fn give_back(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        let capacity = buffer.capacity();
        if capacity <= OUTGOING_BYTES_KEPT && self.spare_bytes + capacity <= SPARE_BYTES_MAX {
            self.spare_bytes += capacity;
            self.spare.push(buffer);
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// What the state of TLS costs: its keys, and buffers for the records on their way in and out. Measured: 8 KiB at
/// first, 12 once it has carried some.
const TLS_BYTES: usize = 12 * 1024;

impl Stream {
    /// The certificates that the other end showed. TLS keeps them as long as the connection, so nobody else has to.
    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates(),
            Self::WebSocket(stream) => stream.inner().peer_certificates(),
        }
    }

    /// What its state costs beside the socket.
    fn state_bytes(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Tls(_) => TLS_BYTES,
            Self::WebSocket(stream) => stream.state_bytes() + stream.inner().state_bytes(),
        }
    }

    /// Whether bytes it has taken are not with the socket yet.
    fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
            Self::WebSocket(stream) => stream.owes() || stream.inner().holds_back(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::WebSocket(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::WebSocket(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::WebSocket(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebSocket(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::net::tcp;

    #[tokio::test]
    async fn an_idle_link_owns_no_buffer() {
        let listener = tcp::listen(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut buffers = Buffers::new();
        let mut link = Link::client(Stream::Tcp(stream), ProtocolVersion::V5, 1024);
        for _ in 0..3 {
            link.send(&Packet::PingReq, &mut buffers);
            assert_eq!(link.unsent(), 2);
            poll_fn(|cx| link.poll_flush(cx, &mut buffers)).await.unwrap();
            assert_eq!((link.unsent(), link.outgoing.capacity()), (0, 0));
            assert_eq!(buffers.spare.len(), 1, "the buffer is the next sender's");
        }
    }

    #[test]
    fn the_read_buffer_is_used_again_once_no_packet_shares_it() {
        let mut buffers = Buffers::new();
        let start = buffers.room_to_read().as_ptr();
        buffers.read.extend_from_slice(b"first");
        let packet = buffers.read.split().freeze();
        assert_ne!(
            buffers.room_to_read().as_ptr(),
            start,
            "the packet's bytes must not be written over"
        );
        assert_eq!(packet, "first");
        drop(packet);
        assert_eq!(buffers.room_to_read().as_ptr(), start);
        assert_eq!(buffers.read.capacity(), READ_BYTES);
    }

    #[test]
    fn there_is_always_room_for_a_tls_record_however_many_packets_are_kept() {
        let mut buffers = Buffers::new();
        let mut kept = Vec::new();
        for round in 0_u8..40 {
            let room = buffers.room_to_read();
            assert!(room.is_empty() && room.capacity() >= READ_BYTES_MIN);
            room.extend_from_slice(&[round; 5000]);
            kept.push(buffers.read.split().freeze());
        }
        assert!(
            kept.iter()
                .zip(0_u8..)
                .all(|(bytes, round)| bytes.iter().all(|&byte| byte == round))
        );
    }

    #[test]
    fn the_pool_of_spare_buffers_is_bounded_in_bytes() {
        let mut buffers = Buffers::new();
        for _ in 0..1000 {
            buffers.give_back(BytesMut::with_capacity(OUTGOING_BYTES_KEPT));
        }
        assert_eq!(buffers.spare_bytes, SPARE_BYTES_MAX);
        while buffers.spare_bytes > 0 {
            assert_eq!(buffers.take_spare().capacity(), OUTGOING_BYTES_KEPT);
        }
        assert_eq!(buffers.take_spare().capacity(), OUTGOING_BYTES_MIN);
    }

    #[test]
    fn a_buffer_that_served_a_burst_is_freed() {
        let mut buffers = Buffers::new();
        buffers.give_back(BytesMut::with_capacity(OUTGOING_BYTES_KEPT + 1));
        assert!(buffers.spare.is_empty());
    }
}
