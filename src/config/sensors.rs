//! `[serial.NAME]`: the ports, the sensors on them, and what they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serialport::Parity;

use super::file;
use crate::board::Board;
use crate::broker::Limits;
use crate::document::Table;
use crate::mqtt::{QoS, TopicName};
use crate::serial::{
    DecoderSettings, Delimiter, DeviceSettings, Format, Framing, JsonPath, LinePoint, LineSettings,
    LinesSettings, Name, Names, Pattern, PayloadForm, Place, PointKind, PointSettings, PortSettings,
    ReopenSettings, Scaling, ScalingError, Separators, TopicTemplate,
};

const TIMES: RangeInclusive<Duration> = PortSettings::TIME_MIN..=PortSettings::TIME_MAX;
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const PAYLOADS: [(&str, PayloadForm); 2] = [("value", PayloadForm::Value), ("json", PayloadForm::Json)];

pub(super) fn read(
    root: &Table<'_>,
    gateway: &TopicName,
    board: &Board,
    limits: &Limits,
) -> Vec<PortSettings> {
    let mut ports: Vec<(PortSettings, Table<'_>)> = Vec::new();
    for (name, table) in root.named_tables("serial", &file::SERIAL) {
        let mistakes_before = table.document().mistake_count();
        match read_port(name, &table, gateway, board, limits) {
            Some(port) => ports.push((port, table)),
            // A sensor must not be lost without a word, whatever reading forgot to say.
            None if table.document().mistake_count() == mistakes_before => {
                table.document().mistake(&table.own_place(), "is not complete");
            }
            None => {}
        }
    }
    refuse_shared(&ports);
    ports.into_iter().map(|(port, _)| port).collect()
}

/// Tells ports that share a device or a topic.
fn refuse_shared(ports: &[(PortSettings, Table<'_>)]) {
    let mut devices: BTreeMap<PathBuf, &Name> = BTreeMap::new();
    let mut topics: BTreeMap<&TopicName, &Name> = BTreeMap::new();
    for (port, table) in ports {
        if let Some(other) = devices.insert(real_path(port.path()), port.name()) {
            let path = port.path().display();
            table.mistake(
                "path",
                format!("{path} is the port of [serial.{other}] already, expected another one"),
            );
        }
        for topic in port.topics() {
            let other = topics.insert(topic, port.name());
            if let Some(other) = other.filter(|other| *other != port.name()) {
                let message = format!(
                    "publishes on {topic}, as [serial.{other}] does; expected another name of the device, or another \
                     topic"
                );
                table.document().mistake(&table.own_place(), message);
            }
        }
    }
}

fn read_port(
    name: &str,
    table: &Table<'_>,
    gateway: &TopicName,
    board: &Board,
    limits: &Limits,
) -> Option<PortSettings> {
    let port: Option<Name> = match name.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            table
                .document()
                .mistake(&table.own_place(), format!("the name of the port: {error}"));
            None
        }
    };
    for key in ["path", "lines"] {
        if !table.has(key) {
            table.missing(key);
        }
    }
    let path = table.text("path").map(PathBuf::from);
    let path = path.filter(|path| {
        if !path.is_absolute() {
            let expected = "expected an absolute path such as \"/dev/serial/by-id/usb-FTDI_...\"";
            table.mistake("path", format!("found {path:?}, {expected}"));
        }
        path.is_absolute()
    });
    let written_line = table.parsed("line", str::parse::<LineSettings>);
    let line = written_line.unwrap_or_default();
    if let Some(path) = &path {
        refuse_parity(table, path, line, board);
    }
    let usual = ReopenSettings::default();
    let reopen_min = table.duration("reopen_min", TIMES).unwrap_or(usual.min());
    let reopen_max = table.duration("reopen_max", TIMES).unwrap_or(usual.max());
    let reopen = ReopenSettings::new(reopen_min, reopen_max);
    if let Err(error) = &reopen {
        let key = if table.has("reopen_min") {
            "reopen_min"
        } else {
            "reopen_max"
        };
        table.mistake(key, error.to_string());
    }
    let lines = table.table("lines", &file::LINES);
    // Without a name of the port the lines are still read, for their own mistakes.
    let stand_in = "port".parse::<Name>().ok()?;
    let reading = lines.map(|lines| Lines {
        table: lines,
        gateway,
        port: port.as_ref().unwrap_or(&stand_in),
        topic_bytes_max: limits.topic_bytes_max,
    });
    let lines = reading.and_then(|lines| lines.read());
    let decoder = DecoderSettings::Lines(lines?);
    match PortSettings::new(gateway, port?, path?, line, reopen.ok()?, decoder) {
        Ok(port) => Some(port),
        Err(error) => {
            table.document().mistake(&table.own_place(), error.to_string());
            None
        }
    }
}

/// Refuses parity on a port whose hardware has none: the sensor would never answer.
fn refuse_parity(table: &Table<'_>, path: &Path, line: LineSettings, board: &Board) {
    // A link such as /dev/serial0 is followed where it exists, for it moves when the system is set up otherwise.
    let real = real_path(path);
    let Some(uart) = board.uart(&real).or_else(|| board.uart(path)) else {
        return;
    };
    if line.parity() == Parity::None || uart.parity {
        return;
    }
    let others: Vec<String> = board
        .uarts
        .iter()
        .filter(|other| other.parity)
        .map(|other| match other.free.first() {
            Some(step) => format!("{} ({step})", other.device.display()),
            None => other.device.display().to_string(),
        })
        .collect();
    table.mistake(
        "line",
        format!(
            "found {:?}, expected a line without parity, for {} is the {} of the {}, which has none; \
             with parity take a USB adapter, or {}",
            table.text("line").unwrap_or_default(),
            path.display(),
            uart.name,
            board.title,
            others.join(", ")
        ),
    );
}

/// What a path leads to; itself where that cannot be found out.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// `[serial.NAME.lines]`, being read.
struct Lines<'a> {
    table: Table<'a>,
    gateway: &'a TopicName,
    port: &'a Name,
    topic_bytes_max: usize,
}

/// What holds for a point that says nothing else.
struct PointDefaults {
    template: TopicTemplate,
    qos: QoS,
    retain: bool,
    payload: PayloadForm,
    stale_after: Option<Duration>,
}

impl Lines<'_> {
    fn read(&self) -> Option<LinesSettings> {
        let table = &self.table;
        let mistakes_before = table.document().mistake_count();
        for key in ["format", "point"] {
            if !table.has(key) {
                table.missing(key);
            }
        }
        let device = table
            .parsed("device", str::parse::<Name>)
            .unwrap_or_else(|| self.port.clone());
        let format = self.read_format();
        let framing = self.read_framing();
        let offline_after = table
            .duration("offline_after", TIMES)
            .unwrap_or(DeviceSettings::OFFLINE_AFTER);
        let defaults = PointDefaults {
            template: table.parsed("topic", str::parse).unwrap_or_default(),
            qos: read_qos(table).unwrap_or(QoS::AtMostOnce),
            retain: table.flag("retain").unwrap_or(false),
            payload: table.choice("payload", &PAYLOADS).unwrap_or_default(),
            stale_after: table.duration("stale_after", TIMES),
        };
        let mut names: BTreeSet<Name> = BTreeSet::new();
        let mut topics: BTreeMap<TopicName, Name> = BTreeMap::new();
        let mut points = Vec::new();
        for point_table in table.tables("point", &file::POINT) {
            let point = self.read_point(&point_table, &device, format.as_ref(), &defaults);
            let Some(point) = point else { continue };
            if !names.insert(point.settings.name.clone()) {
                let name = point.settings.name.as_str();
                point_table.mistake(
                    "name",
                    format!("{name:?} stands twice, expected a different name"),
                );
            } else if let Some(other) =
                topics.insert(point.settings.topic.clone(), point.settings.name.clone())
            {
                let topic = &point.settings.topic;
                point_table.mistake(
                    "topic",
                    format!(
                        "publishes on {topic}, as point {other} does; expected a topic of its own, \
                         with {{point}} in it"
                    ),
                );
            } else if let (Some(format), Some(framing)) = (&format, framing) {
                // One by one, so that each point's mistake is told where it stands.
                let alone = vec![point.clone()];
                if let Err(error) =
                    LinesSettings::new(device.clone(), offline_after, format.clone(), alone, framing)
                {
                    point_table
                        .document()
                        .mistake(&point_table.own_place(), error.to_string());
                }
            }
            points.push(point);
        }
        if table.document().mistake_count() > mistakes_before {
            return None;
        }
        match LinesSettings::new(device, offline_after, format?, points, framing?) {
            Ok(lines) => Some(lines),
            Err(error) => {
                table.document().mistake(&table.own_place(), error.to_string());
                None
            }
        }
    }

    fn read_format(&self) -> Option<Format> {
        let table = &self.table;
        let names = [
            ("json", "json"),
            ("key-value", "key-value"),
            ("csv", "csv"),
            ("regex", "regex"),
        ];
        let name = table.choice("format", &names)?;
        let only = [
            ("pattern", "regex"),
            ("delimiter", "csv"),
            ("pair_separators", "key-value"),
            ("key_separators", "key-value"),
        ];
        for (key, format) in only {
            if table.has(key) && format != name {
                table.mistake(
                    key,
                    format!("has no effect with format {name:?}, expected it with {format:?} only"),
                );
            }
        }
        match name {
            "json" => Some(Format::Json),
            "csv" => {
                let written = table.has("delimiter");
                let delimiter = table.parsed("delimiter", str::parse::<Delimiter>);
                (delimiter.is_some() || !written).then(|| Format::Csv(delimiter.unwrap_or_default()))
            }
            "key-value" => {
                let pairs = table.text("pair_separators").unwrap_or(",; \t");
                let keys = table.text("key_separators").unwrap_or("=:");
                match Separators::new(pairs, keys) {
                    Ok(separators) => Some(Format::KeyValue(separators)),
                    Err(error) => {
                        let key = if table.has("pair_separators") {
                            "pair_separators"
                        } else {
                            "key_separators"
                        };
                        table.mistake(key, error.to_string());
                        None
                    }
                }
            }
            _ => {
                if !table.has("pattern") {
                    table.missing("pattern");
                }
                table.parsed("pattern", str::parse::<Pattern>).map(Format::Regex)
            }
        }
    }

    fn read_framing(&self) -> Option<Framing> {
        let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let bounds = wide(Framing::LINE_BYTES_MIN)..=wide(Framing::LINE_BYTES_MAX);
        let line_bytes = self.table.size("line_bytes_max", bounds);
        let line_bytes = line_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(Framing::LINE_BYTES);
        let idle_gap = self
            .table
            .duration("idle_gap", Framing::IDLE_GAP_MIN..=Framing::IDLE_GAP_MAX);
        match Framing::new(line_bytes, idle_gap) {
            Ok(framing) => Some(framing),
            Err(error) => {
                self.table
                    .document()
                    .mistake(&self.table.own_place(), error.to_string());
                None
            }
        }
    }

    fn read_point(
        &self,
        table: &Table<'_>,
        device: &Name,
        format: Option<&Format>,
        defaults: &PointDefaults,
    ) -> Option<LinePoint> {
        if !table.has("name") {
            table.missing("name");
        }
        let name = table.parsed("name", str::parse::<Name>);
        let place = read_place(table, format);
        let kind = read_kind(table);
        let template = table.parsed("topic", str::parse::<TopicTemplate>);
        let qos = read_qos(table).unwrap_or(defaults.qos);
        let retain = table.flag("retain").unwrap_or(defaults.retain);
        let payload = table.choice("payload", &PAYLOADS).unwrap_or(defaults.payload);
        let unit = table.text("unit").map(str::to_owned);
        let stale_after = table.duration("stale_after", TIMES).or(defaults.stale_after);
        let name = name?;
        let names = Names {
            gateway: self.gateway,
            port: self.port,
            device,
            point: &name,
        };
        let topic = match template.as_ref().unwrap_or(&defaults.template).fill(names) {
            Ok(topic) => topic,
            Err(error) => {
                table.mistake("topic", error.to_string());
                return None;
            }
        };
        if topic.as_str().len() > self.topic_bytes_max {
            let message = format!(
                "{topic} has {} bytes, expected at most the {} of topic_bytes_max in [limits]",
                topic.as_str().len(),
                self.topic_bytes_max
            );
            table.mistake("topic", message);
        }
        let settings = PointSettings {
            name,
            topic,
            qos,
            retain,
            payload,
            kind: kind?,
            unit,
            stale_after,
        };
        Some(LinePoint {
            settings,
            place: place?,
        })
    }
}

/// Where the line holds the point: the outer `None` is a mistake, the inner one where its name says.
fn read_place(table: &Table<'_>, format: Option<&Format>) -> Option<Option<Place>> {
    let wanted = match format? {
        Format::Json => "path",
        Format::KeyValue(_) => "key",
        Format::Csv(_) => "column",
        Format::Regex(_) => "capture",
    };
    let mut is_right = true;
    for key in ["path", "key", "column", "capture"] {
        if key != wanted && table.has(key) {
            table.mistake(key, format!("has no effect with this format, expected {wanted}"));
            is_right = false;
        }
    }
    if !table.has(wanted) {
        if wanted == "column" {
            table.missing(wanted);
            return None;
        }
        return is_right.then_some(None);
    }
    let place = match wanted {
        "path" => table.parsed(wanted, str::parse::<JsonPath>).map(Place::Path),
        "key" => table.text(wanted).map(|key| Place::Key(key.to_owned())),
        "capture" => table
            .text(wanted)
            .map(|capture| Place::Capture(capture.to_owned())),
        _ => {
            let column = table.integer(wanted, 1..=u64::from(u16::MAX));
            column
                .and_then(|column| u16::try_from(column).ok())
                .and_then(NonZeroU16::new)
                .map(Place::Column)
        }
    };
    place.filter(|_| is_right).map(Some)
}

fn read_kind(table: &Table<'_>) -> Option<PointKind> {
    const NUMBER: bool = true;
    let is_number = table
        .choice("kind", &[("number", NUMBER), ("text", !NUMBER)])
        .unwrap_or(NUMBER);
    if !is_number {
        for key in ["scale", "offset", "decimals", "valid_min", "valid_max"] {
            if table.has(key) {
                table.mistake(
                    key,
                    "has no effect on kind \"text\", expected it with \"number\" only",
                );
            }
        }
        return Some(PointKind::Text);
    }
    let decimals = table.integer("decimals", 0..=Scaling::DECIMALS_MAX.into());
    let decimals = decimals.and_then(|decimals| u8::try_from(decimals).ok());
    let (scale, offset) = (
        table.number("scale").unwrap_or(1.0),
        table.number("offset").unwrap_or(0.0),
    );
    let (valid_min, valid_max) = (table.number("valid_min"), table.number("valid_max"));
    match Scaling::new(scale, offset, decimals, valid_min, valid_max) {
        Ok(scaling) => Some(PointKind::Number(scaling)),
        Err(error) => {
            let key = match error {
                ScalingError::Scale => "scale",
                ScalingError::Offset => "offset",
                ScalingError::Decimals => "decimals",
                ScalingError::Range => "valid_min",
            };
            table.mistake(key, error.to_string());
            None
        }
    }
}

fn read_qos(table: &Table<'_>) -> Option<QoS> {
    let level = table.integer("qos", 0..=2)?;
    QUALITIES.get(usize::try_from(level).ok()?).copied()
}
