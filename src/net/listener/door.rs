//! The socket of a door, of TCP or Unix, and what comes out of it.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::net::endpoint::{Endpoint, Peer};
use crate::net::link::Stream;
use crate::net::tcp;
use crate::net::unix::{self, UnixDoor};

#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    Unix(UnixDoor),
}

/// A connection nothing has been read from.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Door {
    /// Opens a door where `endpoint` says, and tells where that came to be.
    pub(super) fn open(
        endpoint: &Endpoint,
        needs_tcp: bool,
        is_shared: bool,
    ) -> io::Result<(Endpoint, Self)> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = tcp::listen_beside(*address, is_shared)?;
                Ok((socket.local_addr()?.into(), Self::Tcp(socket)))
            }
            Endpoint::Unix(_) if needs_tcp => {
                let message = "TLS and the PROXY protocol are for TCP, expected neither on a Unix socket";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            Endpoint::Unix(unix) => Ok((endpoint.clone(), Self::Unix(UnixDoor::bind(unix)?))),
        }
    }

    /// Whether another door may be opened at an address that includes this one's; only one of TCP can.
    pub(super) fn set_shared(&self, is_shared: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => tcp::set_shared(socket, is_shared),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Gives a Unix socket the permissions and owner that `endpoint` says.
    pub(super) fn set_permissions(&self, endpoint: &Endpoint) -> io::Result<()> {
        match (self, endpoint) {
            (Self::Unix(_), Endpoint::Unix(endpoint)) => unix::set_permissions(endpoint),
            _ => Ok(()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Socket::Tcp(stream), Peer::Ip(peer)))
            }
            Self::Unix(door) => {
                let (stream, credentials) = door.accept().await?;
                Ok((Socket::Unix(stream), Peer::Unix(credentials)))
            }
        }
    }

    /// Accepts and closes one connection that waits; whether there was one.
    pub(super) async fn shed_one(&self) -> bool {
        let accepted = match self {
            Self::Tcp(socket) => poll_fn(|cx| Poll::Ready(socket.poll_accept(cx).map_ok(drop))).await,
            Self::Unix(door) => poll_fn(|cx| Poll::Ready(door.socket().poll_accept(cx).map_ok(drop))).await,
        };
        matches!(accepted, Poll::Ready(Ok(())))
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(tcp) => Self::Tcp(tcp),
            Socket::Unix(unix) => Self::Unix(unix),
        }
    }
}
