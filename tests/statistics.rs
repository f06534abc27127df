//! `$SYS`: what the gateway tells about itself.

mod running;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidegate::broker::{KickOptions, Target};
use tidegate::mqtt::{ClientId, Packet, QoS, ReasonCode};

use running::{Doors, Peer, connect, options, publish, settings, text, with_gateway};

/// Subscribes to `filter` and reads what comes, up to the answer to a PINGREQ that was sent behind it.
async fn read(peer: &mut Peer, filter: &str) -> BTreeMap<String, Bytes> {
    peer.subscribe(filter, QoS::AtMostOnce).await;
    let mut told = BTreeMap::new();
    peer.say(&Packet::PingReq).await;
    loop {
        match peer.hear().await.expect("the connection stands") {
            Packet::Publish(publish) => {
                let topic = publish.topic.expect("no alias was allowed");
                told.insert(topic.as_str().to_owned(), publish.payload);
            }
            Packet::PingResp => return told,
            other => panic!("{other:?} came"),
        }
    }
}

async fn reader(doors: &Doors) -> Peer {
    doors.peer(connect("dashboard")).await
}

#[test]
fn a_dashboard_finds_the_figures_of_the_moment_under_the_names_it_knows() {
    with_gateway(settings(), async |doors| {
        let mut reader = reader(doors).await;
        let mut writer = doors.peer(connect("sensor")).await;
        writer.subscribe("a", QoS::AtMostOnce).await;
        for _ in 0..3 {
            writer.say(&publish("a", "21.5", None)).await;
            writer.hear_publish().await;
        }
        let told = read(&mut reader, "$SYS/broker/#").await;
        for (name, expected) in [
            ("clients/connected", "2"),
            ("clients/total", "2"),
            ("clients/maximum", "2"),
            ("clients/disconnected", "0"),
            ("subscriptions/count", "1"),
            ("shared_subscriptions/count", "0"),
            ("publish/messages/received", "3"),
            ("publish/messages/sent", "3"),
            ("publish/messages/dropped", "0"),
            ("publish/messages/dropped/queue_full", "0"),
            ("publish/messages/dropped/offline", "0"),
            ("publish/messages/refused", "0"),
            ("publish/bytes/received", "12"),
            ("publish/bytes/sent", "12"),
            ("connections/socket/count", "2"),
            // Two CONNECTs, a SUBSCRIBE and three PUBLISH packets.
            ("messages/received", "6"),
            ("retained messages/count", "0"),
        ] {
            let found = told.get(&format!("$SYS/broker/{name}"));
            let found = found.map(|value| String::from_utf8_lossy(value).into_owned());
            assert_eq!(found.as_deref(), Some(expected), "{name}");
        }
        assert!(told["$SYS/broker/version"].starts_with(b"tidegate version "));
        assert!(told["$SYS/broker/uptime"].ends_with(b" seconds"));
        assert!(told.contains_key("$SYS/broker/load/bytes/sent/15min"));
    });
}

#[test]
fn a_wildcard_that_leads_does_not_reach_the_statistics() {
    with_gateway(settings(), async |doors| {
        let mut dashboard = reader(doors).await;
        assert!(!read(&mut dashboard, "$SYS/#").await.is_empty());
        let mut other = doors.peer(connect("other")).await;
        for filter in ["#", "+/broker/#", "+/broker/uptime"] {
            assert_eq!(read(&mut other, filter).await, BTreeMap::new(), "{filter}");
        }
    });
}

#[test]
fn statistics_are_told_again_as_they_change_while_somebody_reads_them() {
    let settings = tidegate::config::Settings {
        statistics_interval: Some(Duration::from_millis(1)),
        ..settings()
    };
    with_gateway(settings, async |doors| {
        let mut dashboard = reader(doors).await;
        dashboard
            .subscribe("$SYS/broker/clients/connected", QoS::AtMostOnce)
            .await;
        assert_eq!(dashboard.hear_publish().await.payload, "1");
        let _second = doors.client(options("second")).await;
        assert_eq!(dashboard.hear_publish().await.payload, "2");
    });
}

#[test]
fn where_statistics_are_not_wanted_there_are_none() {
    let settings = tidegate::config::Settings {
        statistics_interval: None,
        ..settings()
    };
    with_gateway(settings, async |doors| {
        let mut dashboard = reader(doors).await;
        assert_eq!(read(&mut dashboard, "$SYS/#").await, BTreeMap::new());
    });
}

#[test]
fn kicks_bans_refused_logins_and_reloads_are_told_below_a_branch_of_our_own() {
    let open = settings();
    let mut locked = open.clone();
    locked.listeners[0].policy.anonymous = false;
    with_gateway(open.clone(), async |doors| {
        let _unlucky = doors.peer(connect("unlucky")).await;
        let kicks = doors.kicks();
        for name in ["unlucky", "nobody"] {
            let client = ClientId::new(text(name)).expect("not empty");
            let options = KickOptions {
                keep_out: (name == "unlucky").then_some(Duration::from_secs(60)),
                ..KickOptions::default()
            };
            let ticket = kicks
                .kick(Target::Client(client), options)
                .expect("there is room");
            ticket.await.expect("it is carried out");
        }
        let mut banned = Peer::stranger(doors.stream().await, connect("unlucky").version);
        assert_eq!(banned.knock(connect("unlucky")).await.reason, ReasonCode::Banned);
        doors.reload(locked).await.expect("nothing is wrong");
        let mut nameless = Peer::stranger(doors.stream().await, connect("x").version);
        assert_eq!(
            nameless.knock(connect("x")).await.reason,
            ReasonCode::NotAuthorized
        );
        doors.reload(None).await.expect_err("there is nothing to be read");
        doors.reload(open).await.expect("nothing is wrong");
        let mut reader = reader(doors).await;
        let told = read(&mut reader, "$SYS/tidegate/#").await;
        let told: Vec<(&str, &[u8])> = (told.iter())
            .map(|(topic, value)| {
                (
                    topic.strip_prefix("$SYS/tidegate/").expect("below it"),
                    &value[..],
                )
            })
            .collect();
        let expected: [(&str, &[u8]); 9] = [
            ("bans", b"1"),
            ("clients_kicked", b"1"),
            ("connections_banned", b"1"),
            ("kicks", b"2"),
            ("kicks_in_vain", b"1"),
            ("logins_refused", b"2"),
            ("reloads", b"2"),
            ("reloads_rejected", b"1"),
            ("sessions_purged", b"0"),
        ];
        assert_eq!(told, expected);
    });
}
