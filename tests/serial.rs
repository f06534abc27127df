//! What a user sees of a serial port: readings, an unplugged adapter, somebody else on the line. The sensor's end is
//! the master of a pseudo-terminal; the gateway's end is opened as any serial port is.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tidegate::broker::Message;
use tidegate::mqtt::TopicName;
use tidegate::serial::{
    DecoderSettings, Format, Framing, LinePoint, LinesSettings, PayloadForm, PointSettings, PortSettings,
    ReopenSettings, Separators, run,
};
use tokio::sync::Notify;

/// Far more than anything here takes: a test that waits in vain ends with a message instead of never.
const IN_VAIN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn readings_of_a_sensor_arrive_as_messages() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |told| {
        told.wait_for("gw/port/wire/status online").await;
        told.say_until(
            &sensor,
            "t=21.5;h=48\r\n",
            r#"gw/t {"v":21.5,"q":"good","unit":"°C"}"#,
        )
        .await;
        told.wait_for("gw/h 48").await;
    })
    .await;
}

#[tokio::test]
async fn everything_is_offline_before_it_is_online() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |told| {
        told.say_until(&sensor, "t=21.5;h=48\n", "gw/device/sensor/status online")
            .await;
        let all = told.all();
        let position = |text: &str| all.iter().position(|told| told == text).expect("it was told");
        assert!(position("gw/port/wire/status offline") < position("gw/port/wire/status online"));
        assert!(position("gw/device/sensor/status offline") < position("gw/device/sensor/status online"));
        assert!(position("gw/device/sensor/status online") < position("gw/h 48"));
    })
    .await;
}

#[tokio::test]
async fn a_garbled_line_is_told_as_bad_and_repeats_no_old_value() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |told| {
        told.say_until(&sensor, "t=21.5;h=48\n", "gw/h 48").await;
        say(&sensor, "t=2\u{1}1.5;h\n");
        let bad = r#"gw/t {"v":null,"q":"bad","unit":"°C"}"#;
        told.wait_for(bad).await;
        say(&sensor, "t=21.6;h=49\n");
        told.wait_for("gw/h 49").await;
        let all = told.all();
        let mut after = all.iter().skip_while(|text| *text != bad).skip(1);
        assert_eq!(
            after.next().map(String::as_str),
            Some(r#"gw/t {"v":21.6,"q":"good","unit":"°C"}"#)
        );
        assert_eq!(after.next().map(String::as_str), Some("gw/h 49"));
    })
    .await;
}

#[tokio::test]
async fn an_unplugged_adapter_is_offline_and_comes_back_under_another_name() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |told| {
        told.say_until(&sensor, "t=21.5;h=48\n", "gw/h 48").await;
        told.forget();
        drop(sensor);
        told.wait_for("gw/port/wire/status offline").await;
        told.wait_for("gw/device/sensor/status offline").await;
        told.wait_for(r#"gw/t {"v":null,"q":"stale","unit":"°C"}"#).await;

        told.forget();
        let sensor = place.plug_in();
        told.wait_for("gw/port/wire/status online").await;
        told.say_until(&sensor, "t=22;h=50\n", "gw/h 50").await;
        told.wait_for("gw/device/sensor/status online").await;
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_not_there_yet_is_opened_when_it_comes() {
    let place = Place::new();
    within(place.port(), async |told| {
        told.wait_for(r#"gw/port/wire/health {"reason":"not found","bytes":0,"reopens":0}"#)
            .await;
        let _sensor = place.plug_in();
        told.wait_for("gw/port/wire/status online").await;
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_plugged_in_is_opened_without_waiting_for_the_next_try() {
    let place = Place::new();
    let hour = Duration::from_secs(3600);
    let reopen = ReopenSettings::new(hour, hour).expect("in order");
    within(place.port_with(reopen), async |told| {
        told.wait_for(r#"gw/port/wire/health {"reason":"not found","bytes":0,"reopens":0}"#)
            .await;
        let _sensor = place.plug_in();
        told.wait_for("gw/port/wire/status online").await;
    })
    .await;
}

#[tokio::test]
async fn no_descriptor_is_left_behind_by_a_hundred_unplugged_adapters() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |told| {
        told.wait_for("gw/port/wire/status online").await;
        drop(sensor);
        told.wait_for("gw/port/wire/status offline").await;
        for _ in 0..100 {
            told.forget();
            let sensor = place.plug_in();
            told.wait_for("gw/port/wire/status online").await;
            drop(sensor);
            told.wait_for("gw/port/wire/status offline").await;
        }
        // The kernel gives a terminal's name away again once nobody holds either end. The other tests hold a few.
        assert!(place.devices.borrow().len() < 50, "{:?}", place.devices);
    })
    .await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_to_the_second_who_wants_it_and_said_by_whom_it_is_held() {
    let place = Place::new();
    let sensor = place.plug_in();
    within(place.port(), async |first| {
        first.wait_for("gw/port/wire/status online").await;
        within(place.port(), async |second| {
            let holder = format!("(process {})", std::process::id());
            second.wait_for_part(&holder).await;
            assert!(
                !second
                    .all()
                    .iter()
                    .any(|text| text == "gw/port/wire/status online")
            );
        })
        .await;
        // The first did not notice.
        first.say_until(&sensor, "t=21.5;h=48\n", "gw/h 48").await;
    })
    .await;
}

#[tokio::test]
async fn what_is_no_serial_port_is_named_so() {
    let place = Place::new();
    fs::write(&place.path, "").expect("the directory is ours");
    within(place.port(), async |told| {
        told.wait_for(r#"gw/port/wire/health {"reason":"not a serial port","bytes":0,"reopens":0}"#)
            .await;
    })
    .await;
}

/// Runs the port until `story` has been told.
async fn within(settings: PortSettings, story: impl AsyncFnOnce(&Told)) {
    let told = Told::default();
    let port = run(settings, |message| told.take(message));
    let told_in_time = tokio::time::timeout(IN_VAIN, async {
        tokio::select! {
            never = port => match never {},
            () = story(&told) => {}
        }
    });
    assert!(
        told_in_time.await.is_ok(),
        "waited in vain after {:#?}",
        told.all()
    );
}

/// What the port told, each message as its topic and its payload without the time.
#[derive(Default)]
struct Told {
    texts: RefCell<Vec<String>>,
    news: Notify,
}

impl Told {
    fn take(&self, message: Message) {
        let mut payload = String::from_utf8(message.payload.to_vec()).expect("every payload is text");
        if let Some((before, after)) = payload.split_once(r#","ts":""#) {
            let (_, after) = after.split_once('"').expect("a string ends");
            payload = format!("{before}{after}");
        }
        self.texts
            .borrow_mut()
            .push(format!("{} {payload}", message.topic));
        self.news.notify_one();
    }

    fn all(&self) -> Vec<String> {
        self.texts.borrow().clone()
    }

    fn forget(&self) {
        self.texts.borrow_mut().clear();
    }

    async fn wait_for(&self, text: &str) {
        while !self.texts.borrow().iter().any(|told| told == text) {
            self.news.notified().await;
        }
    }

    async fn wait_for_part(&self, part: &str) {
        while !self.texts.borrow().iter().any(|told| told.contains(part)) {
            self.news.notified().await;
        }
    }

    /// Says a line again and again, as sensors do, since what comes in while a port is being opened is not heard.
    async fn say_until(&self, sensor: &OwnedFd, line: &str, text: &str) {
        while tokio::time::timeout(Duration::from_millis(50), self.wait_for(text))
            .await
            .is_err()
        {
            say(sensor, line);
        }
    }
}

fn say(sensor: &OwnedFd, line: &str) {
    let written = rustix::io::write(sensor, line.as_bytes()).expect("the terminal takes a line");
    assert_eq!(written, line.len());
}

/// A place where adapters are plugged in: a link to whatever terminal is there at the time.
struct Place {
    _directory: TempDir,
    path: PathBuf,
    devices: RefCell<BTreeSet<PathBuf>>,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory for the link");
        let path = directory.path().join("usb-sensor");
        Self {
            _directory: directory,
            path,
            devices: RefCell::default(),
        }
    }

    /// Plugs a sensor in; it is unplugged by dropping what it speaks through.
    fn plug_in(&self) -> OwnedFd {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let sensor = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&sensor).expect("the terminal is ours");
        unlockpt(&sensor).expect("the terminal is ours");
        let name = ptsname(&sensor, Vec::new()).expect("the terminal has a name");
        let device = Path::new(name.to_str().expect("the name is text")).to_owned();
        let fresh = self.path.with_extension("new");
        symlink(&device, &fresh).expect("the directory is ours");
        fs::rename(&fresh, &self.path).expect("the directory is ours");
        self.devices.borrow_mut().insert(device);
        sensor
    }

    fn port(&self) -> PortSettings {
        let millis = Duration::from_millis;
        self.port_with(ReopenSettings::new(millis(1), millis(10)).expect("in order"))
    }

    fn port_with(&self, reopen: ReopenSettings) -> PortSettings {
        let point = |name: &str, payload, unit: Option<&str>| LinePoint {
            settings: PointSettings {
                payload,
                unit: unit.map(str::to_owned),
                ..PointSettings::new(name.parse().expect("a name"), topic(&format!("gw/{name}")))
            },
            place: None,
        };
        let lines = LinesSettings::new(
            "sensor".parse().expect("a name"),
            Duration::from_secs(60),
            Format::KeyValue(Separators::default()),
            vec![
                point("t", PayloadForm::Json, Some("°C")),
                point("h", PayloadForm::Value, None),
            ],
            Framing::default(),
        );
        PortSettings::new(
            &topic("gw"),
            "wire".parse().expect("a name"),
            self.path.clone(),
            "115200 8N1".parse().expect("a line setting"),
            reopen,
            DecoderSettings::Lines(lines.expect("the points fit the format")),
        )
        .expect("settings that go together")
    }
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).expect("a topic name")
}
