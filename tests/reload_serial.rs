//! Serial ports that come, change and go while the gateway runs; the others do not notice. The sensor's end of a port
//! is the master of a pseudo-terminal.

mod running;

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use running::{Peer, connect, with_gateway};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tidegate::config::{self, Settings};
use tidegate::mqtt::QoS;

/// A sensor, and the device it is read by.
struct Sensor {
    end: OwnedFd,
    device: String,
}

impl Sensor {
    fn plug_in() -> Self {
        let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&end).expect("the terminal is ours");
        unlockpt(&end).expect("the terminal is ours");
        let device = ptsname(&end, Vec::new()).expect("the terminal has a name");
        let device = device.to_str().expect("the name is text").to_owned();
        Self { end, device }
    }

    fn say(&self, text: &str) {
        let written = rustix::io::write(&self.end, text.as_bytes()).expect("the terminal takes a line");
        assert_eq!(written, text.len());
    }
}

/// Settings with these ports: name, sensor, unit.
fn settings(ports: &[(&str, &Sensor, &str)]) -> Settings {
    let folder = tempfile::tempdir().expect("a folder");
    let mut text = "[listener.local]\naddress = '127.0.0.1:0'\nanonymous = true\n".to_owned();
    for (name, sensor, unit) in ports {
        text += &format!(
            "[serial.{name}]\npath = '{}'\nline = '115200 8N1'\nreopen_min = '100ms'\n\
             [serial.{name}.lines]\nformat = 'key-value'\nidle_gap = '60s'\ntopic = 'read/{{device}}/{{point}}'\n\
             payload = 'json'\n\
             [[serial.{name}.lines.point]]\nname = 't'\nunit = '{unit}'\n",
            sensor.device
        );
    }
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, text).expect("the folder is ours");
    config::load(&file, None).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

/// What a subscriber to everything hears of the ports.
struct Listener(Peer);

impl Listener {
    /// Hears on up to what begins with `wanted`; everything before it.
    async fn hear_until(&mut self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let publish = self.0.hear_publish().await;
            let topic = publish.topic.expect("no alias was allowed");
            let said = format!("{topic} {}", String::from_utf8_lossy(&publish.payload));
            if said.starts_with(wanted) {
                return heard;
            }
            heard.push(said);
        }
    }

    /// Has `sensor` say a line again and again, since what comes while a port is being opened is not heard.
    async fn hear_reading(&mut self, sensor: &Sensor, wanted: &str) {
        loop {
            sensor.say("t=1\n");
            let heard = self.hear_until(wanted);
            if tokio::time::timeout(Duration::from_millis(200), heard)
                .await
                .is_ok()
            {
                return;
            }
        }
    }
}

#[test]
fn ports_are_added_changed_and_removed_and_one_that_stays_is_not_closed_for_a_moment() {
    let [stays, changes, comes] = [(); 3].map(|()| Sensor::plug_in());
    let before = [("stays", &stays, "K"), ("changes", &changes, "K")];
    let after = [("comes", &comes, "K"), ("changes", &changes, "F"), before[0]];
    with_gateway(settings(&before), async |doors| {
        let mut listener = Listener(doors.peer(connect("listener")).await);
        listener.0.subscribe("#", QoS::AtMostOnce).await;
        listener.hear_reading(&stays, "read/stays/t {\"v\":1").await;
        listener.hear_reading(&changes, "read/changes/t {\"v\":1").await;
        // Half a line, which a port that is opened anew would know nothing of.
        stays.say("t=2");

        let reloaded = doors.reload(settings(&after)).await.expect("nothing is wrong");
        assert_eq!((reloaded.ports_opened, reloaded.ports_closed), (2, 1));
        stays.say("5\n");
        let mut heard = listener.hear_until("read/stays/t {\"v\":25").await;
        listener.hear_reading(&comes, "read/comes/t {\"v\":1").await;
        listener.0.say(&running::publish("mark", "", None)).await;
        heard.extend(listener.hear_until("mark").await);
        assert!(
            heard.contains(&"tidegate/port/changes/status offline".to_owned()),
            "{heard:?}"
        );
        let of_stays = heard
            .iter()
            .filter(|said| said.starts_with("tidegate/port/stays/status"));
        assert_eq!(of_stays.count(), 0, "{heard:?}");

        let reloaded = doors
            .reload(settings(&after[1..]))
            .await
            .expect("nothing is wrong");
        assert_eq!((reloaded.ports_opened, reloaded.ports_closed), (0, 1));
        listener.hear_until("tidegate/port/comes/status offline").await;
        let reloaded = doors
            .reload(settings(&after[1..]))
            .await
            .expect("nothing is wrong");
        assert_eq!((reloaded.ports_opened, reloaded.ports_closed), (0, 0));
        stays.say("t=3\n");
        let heard = listener.hear_until("read/stays/t {\"v\":3").await;
        assert!(
            !heard.iter().any(|said| said.contains("/stays/status")),
            "{heard:?}"
        );
    });
}

#[test]
fn a_port_is_told_as_offline_when_it_is_removed_and_whoever_comes_later_knows() {
    let sensor = Sensor::plug_in();
    with_gateway(settings(&[("wire", &sensor, "K")]), async |doors| {
        let mut listener = Listener(doors.peer(connect("listener")).await);
        listener.0.subscribe("tidegate/port/#", QoS::AtMostOnce).await;
        listener.hear_until("tidegate/port/wire/status online").await;
        doors.reload(settings(&[])).await.expect("nothing is wrong");
        listener.hear_until("tidegate/port/wire/status offline").await;
        let mut late = Listener(doors.peer(connect("late")).await);
        late.0.subscribe("tidegate/port/+/status", QoS::AtMostOnce).await;
        assert_eq!(
            late.hear_until("tidegate/port/wire/status offline").await,
            [""; 0]
        );
        // Nobody holds it any more, so it can be opened and read by others.
        doors
            .reload(settings(&[("other", &sensor, "K")]))
            .await
            .expect("nothing is wrong");
        listener.hear_until("tidegate/port/other/status online").await;
    });
}
