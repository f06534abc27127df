//! The operator's doors: connections that speak HTTP, who may ask, and how long anything may take.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::api::{self, Call, Done, Found, Reply, Route, Trouble, trouble};
use super::handlers::{kicked_object, reloaded_object};
use super::http::{Answer, Method, Refusal, Request, Requests};
use super::settings::{DoorSettings, Token};
use crate::kick::{KickError, Ticket};
use crate::net::endpoint::{Endpoint, Peer, UnixEndpoint};
use crate::net::link::Stream;
use crate::net::listener::{Incoming, Listener};

/// Whoever answers: called within one turn of the loop.
pub type Desk = Rc<dyn Fn(&Route, &Call<'_>) -> Reply>;

/// One of the operator's doors, open.
#[derive(Debug)]
pub struct Door {
    listener: Rc<Listener>,
    token: Option<Token>,
    /// The user whose programs and root's may come; `None` where the file alone decides.
    only_user: Option<u32>,
    /// Whether a web page could reach it under a name of its own.
    is_rebindable: bool,
}

/// How long who asks is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Between two requests.
    idle_max: Duration,
    /// From the first byte of a request to its last.
    request_max: Duration,
}

const PATIENCE: Patience = Patience {
    idle_max: Duration::from_secs(60),
    request_max: Duration::from_secs(10),
};
/// How long a client may take to read its answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a kick may take before whoever asked is told to look for itself.
const KICK_MAX: Duration = Duration::from_secs(30);
/// How long a connection is read that is refused, so that its client reads the answer rather than a reset.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Bytes of one read.
const READ_BYTES: usize = 4096;

impl Door {
    /// A door as `settings` say, behind `listener`.
    pub fn new(settings: &DoorSettings, listener: Listener) -> Self {
        let is_private = |unix: &UnixEndpoint| unix.mode & 0o077 == 0 && unix.owner.is_none();
        let only_user = match &settings.net.endpoint {
            Endpoint::Unix(unix) if is_private(unix) => Some(rustix::process::geteuid().as_raw()),
            _ => None,
        };
        let is_rebindable = settings.net.endpoint.ip().is_some() && settings.net.endpoint.is_local();
        Self {
            listener: Rc::new(listener),
            token: settings.token,
            only_user,
            is_rebindable,
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }

    /// What it listens by, for whoever replaces its certificate.
    pub fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.listener)
    }

    /// What is wrong with whoever asks; `None` where nothing is.
    fn refuses(&self, peer: Peer, request: &Request, is_open: bool) -> Option<Answer> {
        if let (Some(user), Peer::Unix(credentials)) = (self.only_user, peer)
            && credentials.uid != user
            && credentials.uid != 0
        {
            return Some(trouble(
                403,
                "this socket is for the gateway's own user and for root",
            ));
        }
        // A page of another host may have its name lead here; then that name stands in Host.
        if self.is_rebindable && !is_loopback_name(&request.host) {
            return Some(trouble(421, "expected localhost or a loopback address as Host"));
        }
        let is_known = match (&self.token, &request.token) {
            (None, _) => true,
            (Some(token), Some(given)) => token.is(given),
            (Some(_), None) => false,
        };
        (!is_known && !is_open).then(|| Answer {
            field: Some("WWW-Authenticate: Bearer".to_owned()),
            ..trouble(
                401,
                "expected the token of the gateway: Authorization: Bearer TOKEN",
            )
        })
    }
}

/// Whether a Host is one by which only this machine is meant.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}

/// Serves whoever comes to `door`, for ever.
pub async fn serve(door: Door, desk: Desk) {
    let door = Rc::new(door);
    let mut connections = JoinSet::new();
    loop {
        let accepted = {
            let mut next = pin!(door.listener.accept());
            loop {
                tokio::select! {
                    accepted = &mut next => break accepted,
                    Some(_) = connections.join_next() => {}
                }
            }
        };
        let (served, desk) = (Rc::clone(&door), Rc::clone(&desk));
        connections.spawn_local(async move {
            match accepted.handshake().await {
                Ok(incoming) => talk(&served, &*desk, incoming).await,
                Err(error) => debug!(%error, "handshake with an operator failed"),
            }
        });
    }
}

/// One connection's life: request, answer, and again, in the order they came.
async fn talk(door: &Door, desk: &dyn Fn(&Route, &Call<'_>) -> Reply, incoming: Incoming) {
    let Incoming {
        mut stream,
        peer,
        permit,
        ..
    } = incoming;
    let mut requests = Requests::default();
    let mut out = Vec::new();
    loop {
        let request = tokio::select! {
            biased;
            () = poll_fn(|cx| permit.poll_gives_way(cx)) => return,
            request = next_request(&mut stream, &mut requests, PATIENCE) => request,
        };
        let (answer, is_head, keeps_alive) = match request {
            None => return,
            Some(Err(refusal)) => {
                let (status, message) = refusal.told();
                (trouble(status, message), false, false)
            }
            Some(Ok(request)) => {
                let (answer, is_known) = answer(door, desk, peer, &request).await;
                if is_known {
                    permit.admitted();
                }
                let is_head = request.method == Method::Head;
                (answer, is_head, request.keeps_alive && is_known)
            }
        };
        out.clear();
        answer.write(is_head, keeps_alive, &mut out);
        let sent = timeout(ANSWER_MAX, async {
            stream.write_all(&out).await?;
            stream.flush().await
        });
        if !matches!(sent.await, Ok(Ok(()))) {
            return;
        }
        if !keeps_alive {
            return part(&mut stream).await;
        }
        out = Vec::new(); // who waits holds no buffer
    }
}

/// The answer to `request`, and whether it came from one who may ask.
async fn answer(
    door: &Door,
    desk: &dyn Fn(&Route, &Call<'_>) -> Reply,
    peer: Peer,
    request: &Request,
) -> (Answer, bool) {
    let found = api::find(request);
    let is_open = matches!(&found, Found::Route(route, _) if route.is_open);
    if let Some(refused) = door.refuses(peer, request, is_open) {
        debug!(%peer, status = refused.status, "an operator was refused");
        return (refused, false);
    }
    let reply = match found {
        Found::Nothing => Err(Trouble::new(
            404,
            "there is nothing here, see /api/v1/openapi.json",
        )),
        Found::OtherMethods(allowed) => {
            let answer = Answer {
                field: Some(allowed),
                ..trouble(405, "this is not what can be done here")
            };
            return (answer, true);
        }
        Found::Route(route, call) => {
            let (method, path, chosen) = (route.method.name(), route.path, call.chosen);
            match route.method {
                Method::Get => debug!(%peer, path, chosen, "an operator looks"),
                _ => info!(%peer, method, path, chosen, "an operator acts"),
            }
            desk(route, &call)
        }
    };
    let reply = match reply {
        Ok(Done::Kick(ticket)) => kicked(ticket).await,
        // It ends: at the latest with the gateway, and what it waits for has limits of its own.
        Ok(Done::Reload(reloading)) => reloading.await.map(|view| Done::Json(reloaded_object(view))),
        reply => reply,
    };
    let answer = match reply {
        Ok(done) => done.into(),
        Err(Trouble { status, message }) => trouble(status, &message),
    };
    (answer, true)
}

/// Waits for what becomes of a kick, which the loop carries out in its next tick.
async fn kicked(ticket: Ticket) -> Reply {
    match timeout(KICK_MAX, ticket).await {
        Ok(Ok(outcome)) => Ok(Done::Json(kicked_object(&outcome))),
        Ok(Err(error)) => Err(Trouble::of_kick(error)),
        Err(_) => Err(Trouble::new(503, "the kick takes longer than 30 s, and goes on")),
    }
}

impl Trouble {
    /// Why a kick was not taken, or not carried out.
    pub(super) fn of_kick(error: KickError) -> Self {
        let status = match error {
            KickError::NoBanSubject => 422,
            KickError::Full | KickError::Closed | KickError::OnLoop => 503,
        };
        Self::new(status, error.to_string())
    }
}

/// The next request; `None` where the client has gone, or has been silent for too long.
async fn next_request(
    stream: &mut (impl AsyncRead + Unpin),
    requests: &mut Requests,
    patience: Patience,
) -> Option<Result<Request, Refusal>> {
    let idle_ends = Instant::now() + patience.idle_max;
    let mut request_ends = None;
    let mut bytes = vec![0; READ_BYTES];
    loop {
        match requests.poll_request() {
            Ok(None) => {}
            Ok(Some(request)) => return Some(Ok(request)),
            Err(refusal) => return Some(Err(refusal)),
        }
        if requests.is_begun() && request_ends.is_none() {
            request_ends = Some(Instant::now() + patience.request_max);
        }
        let read = timeout_at(request_ends.unwrap_or(idle_ends), stream.read(&mut bytes));
        match read.await {
            Ok(Ok(0)) | Ok(Err(_)) => return None,
            Ok(Ok(count)) => requests.feed(bytes.get(..count).unwrap_or_default()),
            Err(_) if request_ends.is_some() => return Some(Err(Refusal::TimedOut)),
            Err(_) => return None,
        }
    }
}

/// Ends a connection so that its client can read what it was told last.
async fn part(stream: &mut Stream) {
    let farewell = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = vec![0; READ_BYTES];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    };
    let _: Result<(), _> = timeout(FAREWELL_MAX, farewell).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const IN_VAIN: Duration = Duration::from_secs(120);

    /// What becomes of a request of which only this is said, and nothing more.
    async fn hear(said: &[u8], patience: Patience) -> Option<Result<Request, Refusal>> {
        let (mut client, mut server) = duplex(1024);
        client.write_all(said).await.expect("there is room");
        let mut requests = Requests::default();
        let heard = next_request(&mut server, &mut requests, patience).await;
        drop(client);
        heard
    }

    #[tokio::test]
    async fn half_a_request_is_told_that_it_took_too_long_and_silence_is_told_nothing() {
        let hasty = Patience {
            idle_max: IN_VAIN,
            request_max: SHORT,
        };
        for half in [
            &b"G"[..],
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab",
        ] {
            let refusal = hear(half, hasty)
                .await
                .expect("it is told")
                .expect_err("it is no request");
            assert_eq!(refusal.told().0, 408);
        }
        let bored = Patience {
            idle_max: SHORT,
            request_max: IN_VAIN,
        };
        assert!(hear(b"", bored).await.is_none());
        let whole = hear(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", hasty).await;
        assert!(whole.is_some_and(|request| request.is_ok()));
    }

    #[test]
    fn only_names_of_this_machine_are_loopback_names() {
        for host in [
            "localhost",
            "LOCALHOST:9180",
            "127.0.0.1:9180",
            "127.3.2.1",
            "[::1]",
            "[::1]:9180",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:9180",
            "[::2]:1",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }
}
