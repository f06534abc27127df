//! From an accepted connection to one that may speak MQTT: what a balancer says of it, TLS, WebSocket.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsStream;
use tracing::debug;

use super::ProxySettings;
use super::door::Socket;
use crate::mqtt::{ClientId, Utf8String};
use crate::net::endpoint::Peer;
use crate::net::link::Stream;
use crate::net::places::ConnectionPermit;
use crate::net::tls::{self, HandshakeError};
use crate::net::websocket::upgrade;
use crate::net::{accounts, proxy};

/// A connection that has a place and has not done its handshake.
#[derive(Debug)]
pub struct Accepted {
    pub(super) socket: Socket,
    pub(super) peer: Peer,
    pub(super) permit: ConnectionPermit,
    pub(super) way_in: Rc<WayIn>,
    pub(super) deadline: Instant,
}

impl Accepted {
    /// From where it came.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Reads what a balancer says of it and does the handshakes the listener asks for, TLS and then WebSocket. It
    /// belongs in a task of its own: a client may take all the time there is.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is closed and its place free.
    pub async fn handshake(self) -> Result<Incoming, HandshakeError> {
        let Self {
            socket,
            peer,
            permit,
            way_in,
            deadline,
        } = self;
        if way_in.is_open() {
            return Ok(Incoming {
                stream: socket.into(),
                peer,
                certificate_user: way_in.user_of(peer),
                certificate_client: None,
                permit,
            });
        }
        // Boxed, so that the task of a connection that needs none of this does not carry room for it.
        let steps = Box::pin(way_in.enter(socket, peer, &permit));
        let entered = tokio::select! {
            biased;
            () = poll_fn(|cx| permit.poll_gives_way(cx)) => return Err(HandshakeError::GaveWay),
            entered = timeout_at(deadline, steps) => entered,
        };
        let Entered { stream, peer, names } =
            entered.map_err(|_| HandshakeError::TimedOut(way_in.timeout))??;
        Ok(Incoming {
            stream,
            peer,
            certificate_user: names.user,
            certificate_client: names.client,
            permit,
        })
    }
}

/// A connection that may speak MQTT.
#[derive(Debug)]
pub struct Incoming {
    /// Its bytes.
    pub stream: Stream,
    /// From where it came; behind a balancer, from where that says.
    pub peer: Peer,
    /// Who has proved to be this user before CONNECT: by a verified client certificate, or by running as that user
    /// on this machine, where the listener takes the name from there.
    pub certificate_user: Option<Utf8String>,
    /// The client identifier that its verified certificate gives, where the listener takes it from there.
    pub certificate_client: Option<ClientId>,
    /// Its place; to be kept as long as the connection is.
    pub permit: ConnectionPermit,
}

/// What a listener asks of every connection before it speaks MQTT.
#[derive(Debug)]
pub(super) struct WayIn {
    pub(super) name: String,
    /// Replaced as a whole; each handshake ends by what it began with.
    pub(super) tls: RefCell<Option<Rc<tls::Server>>>,
    pub(super) websocket: Option<upgrade::ServerSettings>,
    pub(super) proxy: Option<ProxySettings>,
    pub(super) peer_user_name: bool,
    pub(super) timeout: Duration,
    /// First steps of TLS in one turn of the loop.
    pub(super) turns: Semaphore,
}

/// First steps of TLS handshakes in one turn of the loop: 5 to 10 ms each on the slowest boards, which is
/// what everybody else waits at most.
pub(super) const HANDSHAKES_PER_TURN: usize = 4;

/// What a connection has become before it is known to keep its place.
struct Entered {
    stream: Stream,
    peer: Peer,
    names: tls::Names,
}

impl WayIn {
    /// Whether MQTT may begin at once.
    fn is_open(&self) -> bool {
        self.tls.borrow().is_none() && self.websocket.is_none() && self.proxy.is_none()
    }

    /// All that comes before MQTT, in its order.
    async fn enter(
        &self,
        socket: Socket,
        mut peer: Peer,
        permit: &ConnectionPermit,
    ) -> Result<Entered, HandshakeError> {
        let mut names = tls::Names {
            user: self.user_of(peer),
            client: None,
        };
        let server = self.tls();
        let stream = match socket {
            Socket::Unix(unix) => Stream::Unix(unix),
            Socket::Tcp(mut tcp) => {
                if let Some(proxy) = &self.proxy {
                    (peer, names.user) = self.ask_balancer(&mut tcp, proxy, peer, permit).await?;
                }
                match &server {
                    None => Stream::Tcp(tcp),
                    Some(server) => {
                        let (stream, proved) = secure(tcp, server, &self.turns).await?;
                        names.user = proved.user.or(names.user);
                        names.client = proved.client;
                        Stream::Tls(stream)
                    }
                }
            }
        };
        let stream = match &self.websocket {
            None => stream,
            Some(settings) => {
                let upgraded = upgrade::accept(stream, settings, peer.ip()).await;
                Stream::WebSocket(Box::new(upgraded.map_err(HandshakeError::Upgrade)?))
            }
        };
        // Those who are in are gone over when the certificates are replaced, and this one was not among them.
        if let (Some(began), Some(now)) = (server, self.tls())
            && !Rc::ptr_eq(&began, &now)
            && let Some(error) = now.refusal_of(stream.peer_certificates())
        {
            return Err(HandshakeError::Refused(error));
        }
        Ok(Entered { stream, peer, names })
    }

    /// What TLS is done by from here on.
    pub(super) fn tls(&self) -> Option<Rc<tls::Server>> {
        self.tls.borrow().clone()
    }

    /// Who comes, and as which user, by the word of `balancer`; the connection counts under that address from here on.
    async fn ask_balancer(
        &self,
        tcp: &mut TcpStream,
        settings: &ProxySettings,
        balancer: Peer,
        permit: &ConnectionPermit,
    ) -> Result<(Peer, Option<Utf8String>), HandshakeError> {
        let (peer, user) = match read_proxy_header(tcp).await? {
            // Who speaks for itself counts as what it is.
            proxy::Header::Local => (balancer, None),
            proxy::Header::Client { address, common_name } => (
                address.into(),
                common_name.filter(|_| settings.common_name_is_user),
            ),
        };
        permit.told(peer.origin()).map_err(HandshakeError::Bound)?;
        debug!(listener = self.name, %balancer, %peer, "told by a balancer");
        Ok((peer, user))
    }

    /// The user that a program on a Unix socket runs as, where the listener takes its word for it.
    fn user_of(&self, peer: Peer) -> Option<Utf8String> {
        match peer {
            Peer::Unix(credentials) if self.peer_user_name => {
                let name = accounts::name_of(credentials.uid)?;
                Utf8String::try_from(name.as_str()).ok()
            }
            _ => None,
        }
    }
}

/// Reads the header of a balancer and nothing of what follows it.
async fn read_proxy_header(tcp: &mut TcpStream) -> Result<proxy::Header, HandshakeError> {
    let mut reader = proxy::Reader::default();
    let mut waiting = [0; 512];
    loop {
        let count = tcp.peek(&mut waiting).await.map_err(HandshakeError::Broken)?;
        if count == 0 {
            return Err(HandshakeError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let (taken, header) = reader
            .take(waiting.get(..count).unwrap_or_default())
            .map_err(HandshakeError::Proxy)?;
        let taken = waiting.get_mut(..taken).unwrap_or_default();
        tcp.read_exact(taken).await.map_err(HandshakeError::Broken)?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// The server's side of the handshake.
///
/// A client that says nothing costs no state of TLS. When one does speak, key exchange and signature take
/// milliseconds of a small board in which the loop does nothing else, so only [`HANDSHAKES_PER_TURN`] of
/// these are done before everybody else has had their turn. The place is held over that one turn and not
/// until the client answers, so nobody can keep it.
async fn secure(
    stream: TcpStream,
    server: &tls::Server,
    turns: &Semaphore,
) -> Result<(Box<TlsStream<TcpStream>>, tls::Names), HandshakeError> {
    stream.readable().await.map_err(HandshakeError::Broken)?;
    let turn = turns.acquire().await.expect("the semaphore is never closed");
    let mut handshake = pin!(server.accept(stream));
    let first = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
    if let Poll::Ready(result) = first {
        return result;
    }
    tokio::task::yield_now().await;
    drop(turn);
    handshake.await
}
