//! rumqttc, a client library of Rust that others wrote: in both its versions of MQTT over all its transports.

mod running;

use std::path::Path;
use std::time::Duration;

use rumqttc::Transport;
use running::{Doors, IN_VAIN, Papers, with_gateway};
use tidegate::config;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

/// What a client hears, in words that both versions share.
#[derive(Debug, PartialEq)]
enum Heard {
    /// CONNACK.
    Entered { session_present: bool },
    /// SUBACK that grants.
    Subscribed,
    /// PUBACK or PUBCOMP.
    Acknowledged,
    /// PUBLISH.
    Message {
        topic: String,
        text: String,
        qos: u8,
        retain: bool,
    },
}

/// Where a client knocks, and how.
struct Way {
    name: &'static str,
    /// A host, an address for a browser or a path, as rumqttc wants it for the transport.
    host: String,
    port: u16,
    transport: Transport,
}

/// A gateway with every door rumqttc knows; `story` is told through each.
fn through_every_door(story: impl AsyncFn(&Way)) {
    let papers = Papers::new();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("mqtt.sock");
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, configuration(&papers, &socket)).expect("the folder is ours");
    let settings = config::load(&file, None).expect("the configuration is in order");
    let ca = std::fs::read(&papers.ca).expect("the authority's certificate");
    with_gateway(settings, async |doors| {
        for way in ways(doors, &socket, &ca) {
            story(&way).await;
        }
    });
}

fn configuration(papers: &Papers, socket: &Path) -> String {
    let tls = format!(
        "certificate = {:?}\nkey = {:?}",
        papers.server.certificate, papers.server.key
    );
    format!(
        "[listener.tcp]\naddress = \"127.0.0.1:0\"\n\
         [listener.tls]\naddress = \"127.0.0.1:0\"\n[listener.tls.tls]\n{tls}\n\
         [listener.ws]\naddress = \"127.0.0.1:0\"\n[listener.ws.websocket]\n\
         [listener.wss]\naddress = \"127.0.0.1:0\"\n[listener.wss.websocket]\n[listener.wss.tls]\n{tls}\n\
         [listener.unix]\naddress = \"unix:{}\"\n",
        socket.display()
    )
}

fn ways(doors: &Doors, socket: &Path, ca: &[u8]) -> Vec<Way> {
    let way = |name, transport| {
        let (host, port) = match name {
            "unix" => (socket.display().to_string(), 1),
            "ws" | "wss" => (format!("{name}://{}/mqtt", doors.address(name)), 1),
            _ => ("127.0.0.1".to_owned(), doors.address(name).port()),
        };
        Way {
            name,
            host,
            port,
            transport,
        }
    };
    vec![
        way("tcp", Transport::Tcp),
        way("tls", Transport::tls(ca.to_vec(), None, None)),
        way("ws", Transport::Ws),
        way("wss", Transport::wss(ca.to_vec(), None, None)),
        way("unix", Transport::Unix),
    ]
}

/// The same client and the same stories in the types of one version, which have the same names in both.
macro_rules! speak {
    ($version:ident, $($api:ident)::+, $($packets:ident)::+, $will:expr, $keep:expr) => {
        mod $version {
            use $($api)::+::{AsyncClient, Event, EventLoop, MqttOptions, mqttbytes::QoS};
            use $($packets)::+::{LastWill, Packet};

            use super::*;

            struct Client {
                inner: AsyncClient,
                heard: mpsc::UnboundedReceiver<Heard>,
                driver: JoinHandle<()>,
            }

            impl Client {
                /// Connects, and hears whether there was a session.
                async fn connect(way: &Way, id: &str, prepare: impl FnOnce(&mut MqttOptions)) -> (Self, bool) {
                    let mut options = MqttOptions::new(id, &way.host, way.port);
                    options.set_transport(way.transport.clone());
                    options.set_keep_alive(Duration::from_secs(60));
                    prepare(&mut options);
                    let (inner, events) = AsyncClient::new(options, 10);
                    let (tell, heard) = mpsc::unbounded_channel();
                    let driver = spawn_local(drive(events, tell));
                    let mut client = Self { inner, heard, driver };
                    let Heard::Entered { session_present } = client.next().await else {
                        panic!("CONNACK comes first");
                    };
                    (client, session_present)
                }

                async fn fresh(way: &Way, id: &str) -> Self {
                    Self::connect(way, id, |_| {}).await.0
                }

                async fn next(&mut self) -> Heard {
                    let next = tokio::time::timeout(IN_VAIN, self.heard.recv());
                    next.await.expect("waited in vain").expect("the connection stands")
                }

                async fn hear(&mut self, text: &str, qos: u8, retain: bool) {
                    let topic = "a/topic/with/a/name".to_owned();
                    let text = text.to_owned();
                    assert_eq!(self.next().await, Heard::Message { topic, text, qos, retain });
                }

                async fn subscribe(&mut self, filter: &str) {
                    let asked = self.inner.subscribe(filter, QoS::ExactlyOnce);
                    asked.await.expect("the client runs");
                    assert_eq!(self.next().await, Heard::Subscribed);
                }

                /// Publishes, and waits until the gateway has it.
                async fn publish(&mut self, text: &str, qos: QoS, retain: bool) {
                    let asked = self
                        .inner
                        .publish("a/topic/with/a/name", qos, retain, text.to_owned());
                    asked.await.expect("the client runs");
                    if qos != QoS::AtMostOnce {
                        assert_eq!(self.next().await, Heard::Acknowledged);
                    }
                }

                /// Says goodbye, and returns when the connection is over.
                async fn leave(self) {
                    self.inner.disconnect().await.expect("the client runs");
                    self.driver.await.expect("the client does not panic");
                }

                /// Drops the socket without a word.
                async fn vanish(self) {
                    self.driver.abort();
                    let _ = self.driver.await;
                }
            }

            async fn drive(mut events: EventLoop, tell: mpsc::UnboundedSender<Heard>) {
                while let Ok(event) = events.poll().await {
                    let heard = match event {
                        Event::Incoming(Packet::ConnAck(connack)) => Heard::Entered {
                            session_present: connack.session_present,
                        },
                        Event::Incoming(Packet::SubAck(_)) => Heard::Subscribed,
                        Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => Heard::Acknowledged,
                        Event::Incoming(Packet::Publish(publish)) => Heard::Message {
                            topic: String::from_utf8(publish.topic.into()).expect("a topic is text"),
                            text: String::from_utf8(publish.payload.into()).expect("we send text"),
                            qos: publish.qos as u8,
                            retain: publish.retain,
                        },
                        _ => continue,
                    };
                    if tell.send(heard).is_err() {
                        return;
                    }
                }
            }

            #[test]
            fn messages_pass_at_every_quality_over_every_transport() {
                through_every_door(async |way| {
                    let mut reader = Client::fresh(way, "reader").await;
                    let mut writer = Client::fresh(way, "writer").await;
                    reader.subscribe("a/+/with/#").await;
                    for text in ["once", "again", "and again"] {
                        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                            writer.publish(text, qos, false).await;
                            reader.hear(text, qos as u8, false).await;
                        }
                    }
                    reader.leave().await;
                    writer.leave().await;
                });
            }

            #[test]
            fn what_is_retained_is_marked_and_goes_when_it_is_cleared() {
                through_every_door(async |way| {
                    let mut writer = Client::fresh(way, "writer").await;
                    writer.publish("kept", QoS::AtLeastOnce, true).await;
                    let mut reader = Client::fresh(way, "reader").await;
                    reader.subscribe("a/#").await;
                    reader.hear("kept", 1, true).await;
                    writer.publish("", QoS::AtLeastOnce, true).await;
                    reader.hear("", 1, false).await;
                    let mut late = Client::fresh(way, "late").await;
                    late.subscribe("a/#").await;
                    writer.publish("news", QoS::AtLeastOnce, false).await;
                    late.hear("news", 1, false).await;
                    for client in [reader, writer, late] {
                        client.leave().await;
                    }
                });
            }

            #[test]
            fn a_will_is_sent_for_who_vanishes_and_not_for_who_leaves() {
                through_every_door(async |way| {
                    let mut witness = Client::fresh(way, "witness").await;
                    witness.subscribe("a/#").await;
                    let with_will = |text: &'static str| {
                        let will: LastWill = $will(text);
                        move |options: &mut MqttOptions| {
                            options.set_last_will(will);
                        }
                    };
                    let (leaver, _) = Client::connect(way, "leaver", with_will("never")).await;
                    leaver.leave().await;
                    let (victim, _) = Client::connect(way, "victim", with_will("gone")).await;
                    victim.vanish().await;
                    witness.hear("gone", 1, false).await;
                    witness.leave().await;
                });
            }

            #[test]
            fn a_session_gets_what_came_while_its_client_was_away() {
                through_every_door(async |way| {
                    let id = format!("sleeper-{}", way.name);
                    let (mut sleeper, present) = Client::connect(way, &id, $keep).await;
                    assert!(!present, "the session is new");
                    sleeper.subscribe("a/#").await;
                    sleeper.vanish().await;
                    let mut writer = Client::fresh(way, "writer").await;
                    for text in ["first", "second", "third"] {
                        writer.publish(text, QoS::ExactlyOnce, false).await;
                    }
                    let (mut sleeper, present) = Client::connect(way, &id, $keep).await;
                    assert!(present, "the session was kept");
                    for text in ["first", "second", "third"] {
                        sleeper.hear(text, 2, false).await;
                    }
                    let fresh = Client::connect(way, &id, |_| {});
                    // Whoever takes a session over and starts anew finds none.
                    assert!(!fresh.await.1, "the session is over");
                    writer.leave().await;
                });
            }
        }
    };
}

speak!(
    v311,
    rumqttc,
    rumqttc::mqttbytes::v4,
    |text: &str| LastWill::new("a/topic/with/a/name", text, QoS::AtLeastOnce, false),
    |options: &mut MqttOptions| {
        options.set_clean_session(false);
    }
);

// No topic aliases from the gateway: rumqttc 0.25 takes them and then hands messages over with an empty topic.
speak!(
    v5,
    rumqttc::v5,
    rumqttc::v5::mqttbytes::v5,
    |text: &str| LastWill::new(
        "a/topic/with/a/name",
        text.to_owned(),
        QoS::AtLeastOnce,
        false,
        None
    ),
    |options: &mut MqttOptions| {
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(60));
    }
);
