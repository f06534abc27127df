//! A gateway that runs in the test's own thread, and the people at its doors.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses its own part of what stands here"
)]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tidegate::board::Boards;
use tidegate::client::{Address, Client, Message, Options, Target};
use tidegate::config::{Listener, Settings};
use tidegate::gateway::reload::{Outcome, ReloadHandle};
use tidegate::gateway::{self, Builder, Gateway};
use tidegate::kick::KickHandle;
use tidegate::mqtt::{
    Ack, ClientId, ConnAck, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId,
    ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeProperties, Subscription,
    TopicFilter, TopicName, Utf8String,
};
use tidegate::net::endpoint::Endpoint;
use tidegate::net::link::{Buffers, Link, Stream};
use tidegate::net::listener::NetError;
use tidegate::net::tls::{ClientCertificates, ClientSettings, Roots, ServerSettings};
use tidegate::watch::Watch;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};

/// Far more than anything here takes: a test that waits in vain ends with a message instead of never.
pub const IN_VAIN: Duration = Duration::from_secs(120);

/// A byte stream with so little room to receive that the other end soon notices who does not read.
pub async fn narrow_stream_to(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("the smallest buffer");
    socket.connect(address).await.expect("the door is open")
}

/// Runs a gateway until `story` is told, and then stops it.
pub fn with_gateway(settings: Settings, story: impl AsyncFnOnce(&Doors)) {
    let builder = Gateway::builder(settings.clone());
    with_gateway_that_reads(builder, Some(settings), story);
}

/// The same for a gateway that was put together from parts.
pub fn with_gateway_of(builder: Builder, story: impl AsyncFnOnce(&Doors)) {
    with_gateway_that_reads(builder, None, story);
}

/// The same, where a reload finds these settings.
fn with_gateway_that_reads(builder: Builder, settings: Option<Settings>, story: impl AsyncFnOnce(&Doors)) {
    let told = async {
        let next = Arc::new(Mutex::new(settings));
        let read = next.clone();
        let gateway = builder.bind().expect("the gateway can start").reloading(
            move || read.lock().expect("nobody panicked").clone().ok_or_else(Vec::new),
            |_| {},
        );
        let (stop, stopped) = oneshot::channel();
        let doors = Doors {
            addresses: gateway.addresses(),
            kicks: gateway.kick_handle(),
            watch: gateway.watch(),
            reloads: gateway.reload_handle(),
            next,
            listeners: gateway
                .listeners()
                .map(|listener| Rc::downgrade(&listener))
                .collect(),
            stop: RefCell::new(Some(stop)),
            over: Notify::new(),
            is_over: Cell::new(false),
        };
        let mut running = tokio::task::spawn_local(gateway.run(async { stopped.await.unwrap_or_default() }));
        let mut story = pin!(story(&doors));
        tokio::select! {
            biased;
            ended = &mut running => {
                ended.expect("the gateway does not panic");
                assert!(doors.stop.borrow().is_none(), "the gateway ended by itself");
                doors.is_over.set(true);
                doors.over.notify_one();
                story.await;
            }
            () = &mut story => {
                doors.stop.take();
                running.await.expect("the gateway does not panic");
            }
        }
    };
    let runtime = gateway::runtime().expect("an event queue");
    runtime.block_on(async {
        tokio::time::timeout(IN_VAIN, told).await.expect("waited in vain");
    });
}

/// The way to a running gateway.
pub struct Doors {
    addresses: Vec<(String, Endpoint)>,
    kicks: KickHandle,
    watch: Watch,
    reloads: ReloadHandle,
    /// What a reload is to find.
    next: Arc<Mutex<Option<Settings>>>,
    /// Not held, so that they close when the gateway ends.
    listeners: Vec<Weak<tidegate::net::listener::Listener>>,
    stop: RefCell<Option<oneshot::Sender<()>>>,
    over: Notify,
    is_over: Cell<bool>,
}

impl Doors {
    /// Where the door called `name` is.
    pub fn address(&self, name: &str) -> SocketAddr {
        let door = self.addresses.iter().find(|(door, _)| door == name);
        let (_, endpoint) = door.expect("there is such a door");
        endpoint.ip().expect("the door is one of TCP")
    }

    /// What its clients are sent away by.
    pub fn kicks(&self) -> KickHandle {
        self.kicks.clone()
    }

    /// What its clients are watched by.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Has the gateway run on `settings` from here on; without any, on what it cannot read.
    pub async fn reload(&self, settings: impl Into<Option<Settings>>) -> Outcome {
        *self.next.lock().expect("nobody panicked") = settings.into();
        self.reloads.reload().await
    }

    /// Has the door called `name` do TLS by other files from here on.
    pub fn reload_tls(&self, name: &str, settings: &ServerSettings) -> Result<(), NetError> {
        let mut listeners = self.listeners.iter().filter_map(Weak::upgrade);
        let listener = listeners.find(|listener| listener.name() == name);
        listener.expect("there is such a door").reload_tls(settings)
    }

    /// Asks the gateway to stop.
    pub fn ask_to_stop(&self) {
        self.stop.take();
    }

    /// Waits until the gateway that was asked to stop has done so.
    pub async fn until_over(&self) {
        if !self.is_over.get() {
            self.over.notified().await;
        }
    }

    /// A client of the library's own, through the plain door.
    pub async fn client(&self, options: Options) -> Client {
        let target = self.target();
        Client::connect(&target, options)
            .await
            .expect("the gateway lets the client in")
    }

    /// The plain door, for clients.
    pub fn target(&self) -> Target {
        let address = Address::new("127.0.0.1", Some(self.address("local").port()), false);
        Target::new(address, &ClientSettings::default(), IN_VAIN).expect("nothing to be read")
    }

    /// The encrypted door, for clients.
    pub fn tls_target(&self, papers: &Papers) -> Target {
        let address = Address::new("127.0.0.1", Some(self.address("tls").port()), true);
        let roots = Roots::File(papers.ca.clone());
        let settings = ClientSettings {
            roots,
            ..ClientSettings::default()
        };
        Target::new(address, &settings, IN_VAIN).expect("the authority's certificate is in order")
    }

    /// A byte stream through the plain door.
    pub async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address("local"))
            .await
            .expect("the door is open")
    }

    /// The same, with so little room to receive that the gateway soon notices who does not read.
    pub async fn narrow_stream(&self) -> TcpStream {
        narrow_stream_to(self.address("local")).await
    }

    /// A client packet by packet, already let in.
    pub async fn peer(&self, connect: Connect) -> Peer {
        Peer::new(self.stream().await, connect).await
    }

    /// The same over a narrow stream.
    pub async fn narrow_peer(&self, connect: Connect) -> Peer {
        Peer::new(self.narrow_stream().await, connect).await
    }
}

/// A client that says and hears packet by packet, and nothing by itself.
pub struct Peer {
    link: Link,
    buffers: Buffers,
    /// How the stream ended, if it has.
    end: Option<std::io::Result<()>>,
}

impl Peer {
    /// Says `connect` and hears that it may stay.
    pub async fn new(stream: TcpStream, connect: Connect) -> Self {
        let mut peer = Self::stranger(stream, connect.version);
        peer.enter(connect).await;
        peer
    }

    /// Says `connect` and hears that it may stay; whether there was a session already.
    pub async fn enter(&mut self, connect: Connect) -> bool {
        let connack = self.knock(connect).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        connack.session_present
    }

    /// Says `connect`; whether it may stay. The door may be slammed at any moment.
    pub async fn try_enter(&mut self, connect: Connect) -> bool {
        let said = self.try_say(&Packet::Connect(Box::new(connect))).await;
        let answer = match said {
            Ok(()) => self.hear().await,
            Err(_) => None,
        };
        matches!(answer, Some(Packet::ConnAck(connack)) if connack.reason == ReasonCode::Success)
    }

    /// Says `connect` and hears the answer, whatever it is.
    pub async fn knock(&mut self, connect: Connect) -> ConnAck {
        self.say(&Packet::Connect(Box::new(connect))).await;
        match self.hear().await {
            Some(Packet::ConnAck(connack)) => *connack,
            other => panic!("expected CONNACK, found {other:?}"),
        }
    }

    /// Somebody who has said nothing yet.
    pub fn stranger(stream: TcpStream, version: ProtocolVersion) -> Self {
        Self::on(Link::client(Stream::Tcp(stream), version, 1024 * 1024))
    }

    /// The same on a link that stands already.
    pub fn on(link: Link) -> Self {
        Self {
            link,
            buffers: Buffers::new(),
            end: None,
        }
    }

    /// Says `packet`, and returns when the operating system has it.
    pub async fn say(&mut self, packet: &Packet) {
        self.link.send(packet, &mut self.buffers);
        self.finish_saying().await.expect("the gateway listens");
    }

    /// The same, where the gateway may have hung up.
    pub async fn try_say(&mut self, packet: &Packet) -> std::io::Result<()> {
        self.link.send(packet, &mut self.buffers);
        self.finish_saying().await
    }

    /// Makes `packet` the last of those that wait to be said.
    pub fn prepare(&mut self, packet: &Packet) {
        self.link.send(packet, &mut self.buffers);
    }

    /// Says what waits, as far as the operating system takes it at once; whether it took all.
    pub async fn say_rest_now(&mut self) -> bool {
        poll_fn(|cx| match self.link.poll_flush(cx, &mut self.buffers) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
            Poll::Pending => Poll::Ready(Ok(false)),
        })
        .await
        .expect("the gateway listens")
    }

    /// Says what waits.
    pub async fn finish_saying(&mut self) -> std::io::Result<()> {
        poll_fn(|cx| self.link.poll_flush(cx, &mut self.buffers)).await
    }

    /// The next packet; `None` when the gateway has closed the stream or reset it. Says what waits meanwhile.
    pub async fn hear(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.link.poll_packet().expect("the gateway speaks MQTT") {
                return Some(packet);
            }
            if self.end.is_some() {
                return None;
            }
            let received = poll_fn(|cx| {
                // Where the stream is broken, receiving tells.
                let _ = self.link.poll_flush(cx, &mut self.buffers);
                self.link.poll_receive(cx, &mut self.buffers)
            });
            match received.await {
                Ok(0) => self.end = Some(Ok(())),
                Ok(_) => {}
                Err(error) => self.end = Some(Err(error)),
            }
        }
    }

    /// The next PUBLISH; any other packet is a surprise.
    pub async fn hear_publish(&mut self) -> Publish {
        match self.hear().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("expected PUBLISH, found {other:?}"),
        }
    }

    /// Hears DISCONNECT for `reason` and then the end, whatever comes before.
    pub async fn hear_farewell(&mut self, reason: ReasonCode) {
        loop {
            match self.hear().await {
                Some(Packet::Disconnect(disconnect)) => {
                    assert_eq!(disconnect.reason, reason);
                    assert_eq!(self.hear().await, None, "DISCONNECT is the last packet");
                    return assert!(
                        matches!(self.end, Some(Ok(()))),
                        "expected an end, found {:?}",
                        self.end
                    );
                }
                Some(_) => {}
                None => panic!("expected DISCONNECT for {reason:?}, found {:?}", self.end),
            }
        }
    }

    /// Subscribes to `filter`, and hears that it may.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.say(&subscribe(filter, qos)).await;
        match self.hear().await {
            Some(Packet::SubAck(suback)) => assert!(suback.reasons.iter().all(|reason| !reason.is_error())),
            other => panic!("expected SUBACK, found {other:?}"),
        }
    }

    /// Says PUBACK.
    pub async fn acknowledge(&mut self, packet_id: Option<PacketId>) {
        let packet_id = packet_id.expect("a message of QoS 1 has an identifier");
        self.say(&Packet::PubAck(Ack::success(packet_id))).await;
    }

    /// Waits until the gateway has done all it was told before.
    pub async fn ping(&mut self) {
        self.say(&Packet::PingReq).await;
        assert_eq!(self.hear().await, Some(Packet::PingResp));
    }
}

/// An authority and the certificate of a gateway on 127.0.0.1, in files.
pub struct Papers {
    folder: TempDir,
    pub ca: PathBuf,
    pub server: ServerSettings,
}

impl Papers {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("the folder is ours");
            set_private(&path);
            path
        };
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new([]).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = write(
            "ca.pem",
            authority
                .self_signed(&authority_key)
                .expect("a certificate")
                .pem(),
        );
        let key = KeyPair::generate().expect("a key");
        let mut server = CertificateParams::new([]).expect("no names");
        server.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let signed = server
            .signed_by(&key, &Issuer::new(authority, authority_key))
            .expect("a certificate");
        let server = ServerSettings {
            certificate: write("server.pem", signed.pem()),
            key: write("server-key.pem", key.serialize_pem()),
            client_certificates: ClientCertificates::Ignored,
            user_name_from: None,
            client_id_from: None,
        };
        Self { folder, ca, server }
    }
}

fn set_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

/// A gateway with one plain door called `local`, that anybody may come through as often as they like.
pub fn settings() -> Settings {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut settings = Settings::local(&[anywhere], Boards::compiled_in().base().clone()).expect("loopback");
    settings.limits.publish_rate_max = u32::MAX;
    settings
}

/// The same with a second door called `tls`.
pub fn settings_with_tls(papers: &Papers) -> Settings {
    let mut settings = settings();
    let Listener {
        mut net, mut policy, ..
    } = settings.listeners[0].clone();
    net.name = "tls".to_owned();
    net.tls = Some(papers.server.clone());
    policy.name = "tls".to_owned();
    settings.listeners.push(Listener {
        net,
        policy,
        may_be_absent: false,
    });
    settings
}

/// What a 5.0 client called `id` says first: a new session that ends with the connection, and no keep-alive.
pub fn connect(id: &str) -> Connect {
    Connect {
        version: ProtocolVersion::V5,
        bridge: false,
        clean_start: true,
        keep_alive_secs: 0,
        client_id: client_id(id),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// The same for a session that was there before, or will be after: kept for five minutes.
pub fn stored(id: &str) -> Connect {
    Connect {
        clean_start: false,
        properties: ConnectProperties {
            session_expiry_secs: Some(300),
            ..ConnectProperties::default()
        },
        ..connect(id)
    }
}

/// DISCONNECT that ends such a session.
pub fn farewell_for_good() -> Packet {
    Packet::Disconnect(Box::new(Disconnect {
        properties: DisconnectProperties {
            session_expiry_secs: Some(0),
            ..DisconnectProperties::default()
        },
        ..Disconnect::default()
    }))
}

pub fn options(id: &str) -> Options {
    Options {
        client_id: client_id(id),
        ..Options::default()
    }
}

pub fn client_id(id: &str) -> Option<ClientId> {
    ClientId::new(text(id))
}

pub fn text(text: &str) -> Utf8String {
    Utf8String::try_from(text).expect("text")
}

pub fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).expect("a topic name")
}

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).expect("a topic filter")
}

pub fn message(name: &str, payload: impl Into<Bytes>, qos: QoS) -> Message {
    Message {
        topic: topic(name),
        payload: payload.into(),
        qos,
        retain: false,
        properties: None,
    }
}

pub fn publish(name: &str, payload: impl Into<Bytes>, packet_id: Option<u16>) -> Packet {
    let packet_id = packet_id.and_then(PacketId::new);
    Packet::Publish(Publish {
        dup: false,
        qos: if packet_id.is_some() {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        },
        retain: false,
        topic: Some(topic(name)),
        packet_id,
        payload: payload.into(),
        properties: None,
    })
}

pub fn subscribe(name: &str, qos: QoS) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::new(1).expect("not zero"),
        subscriptions: [Subscription {
            filter: filter(name),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }]
        .into_iter()
        .collect(),
        properties: SubscribeProperties::default(),
    }))
}
