//! Serial ports, and the sensors on them.

use super::{FLAG, TABLE};
use crate::document::{Key, Section};

/// A serial port.
pub static SERIAL: Section = Section {
    name: "serial.NAME",
    about: "A serial port; NAME is a level of the topics of its status.",
    keys: &[
        Key {
            name: "path",
            expects: "a path such as \"/dev/serial/by-id/usb-FTDI_...\"",
            default: "must be there",
            about: "The device; one under /dev/serial/by-id/ stays the same when adapters are replugged.",
        },
        Key {
            name: "line",
            expects: "line settings such as \"9600 8N1\"",
            default: "\"9600 8N1\"",
            about: "Speed, data bits, parity and stop bits; then rtscts or xonxoff where it is needed.",
        },
        Key {
            name: "reopen_min",
            expects: "a duration such as \"500ms\"",
            default: "\"500ms\"",
            about: "The first wait before a lost port is opened again; it doubles from try to try.",
        },
        Key {
            name: "reopen_max",
            expects: "a duration such as \"30s\"",
            default: "\"30s\"",
            about: "The longest wait before a lost port is opened again.",
        },
        Key {
            name: "lines",
            expects: TABLE,
            default: "must be there",
            about: "A sensor that sends lines of text.",
        },
    ],
};

/// A sensor that sends lines of text.
pub static LINES: Section = Section {
    name: "serial.NAME.lines",
    about: "A sensor that sends lines of text.",
    keys: &[
        Key {
            name: "device",
            expects: "a name",
            default: "the name of the port",
            about: "The sensor's name, unique within the gateway.",
        },
        Key {
            name: "format",
            expects: "\"json\", \"key-value\", \"csv\" or \"regex\"",
            default: "must be there",
            about: "How a line tells its values.",
        },
        Key {
            name: "pattern",
            expects: "a regular expression with named captures such as \"T=(?<temperature>[0-9.]+)\"",
            default: "must be there with format \"regex\"",
            about: "What a line looks like; each capture can be a point.",
        },
        Key {
            name: "delimiter",
            expects: "one character",
            default: "\",\"",
            about: "What parts the columns of format \"csv\".",
        },
        Key {
            name: "pair_separators",
            expects: "characters",
            default: "comma, semicolon, space and tab",
            about: "What parts the pairs of format \"key-value\"; each character does alone.",
        },
        Key {
            name: "key_separators",
            expects: "characters",
            default: "\"=:\"",
            about: "What parts keys and values of format \"key-value\".",
        },
        Key {
            name: "line_bytes_max",
            expects: "a size such as \"1 KiB\"",
            default: "\"1 KiB\"",
            about: "The longest line; what is longer is garbled.",
        },
        Key {
            name: "idle_gap",
            expects: "a duration such as \"50ms\"",
            default: "none",
            about: "A silence that ends a line, for sensors that send no line end.",
        },
        Key {
            name: "offline_after",
            expects: "a duration such as \"60s\"",
            default: "\"60s\"",
            about: "The silence after which the sensor counts as offline.",
        },
        Key {
            name: "topic",
            expects: "a topic with {gateway}, {port}, {device} and {point}",
            default: "\"{gateway}/{port}/{device}/{point}\"",
            about: "The topic of every point that names no other.",
        },
        Key {
            name: "qos",
            expects: QOS,
            default: "0",
            about: "The quality of every point that names no other.",
        },
        Key {
            name: "retain",
            expects: FLAG,
            default: "false",
            about: "Whether the last reading is retained, for every point that says nothing else.",
        },
        Key {
            name: "payload",
            expects: PAYLOAD,
            default: "\"value\"",
            about: "The form of every point's readings: the value alone, or JSON with time, quality and unit.",
        },
        Key {
            name: "stale_after",
            expects: "a duration such as \"10s\"",
            default: "as long as the sensor is online",
            about: "How long a good value stays fresh, for every point that says nothing else.",
        },
        Key {
            name: "point",
            expects: "tables such as [[serial.NAME.lines.point]]",
            default: "at least one",
            about: "What the sensor tells.",
        },
    ],
};

/// A value a sensor tells.
pub static POINT: Section = Section {
    name: "serial.NAME.lines.point",
    about: "A value the sensor tells.",
    keys: &[
        Key {
            name: "name",
            expects: "a name such as \"temperature\"",
            default: "must be there",
            about: "Unique within the sensor; where nothing else is said it is also the key or capture.",
        },
        Key {
            name: "path",
            expects: "a path such as \"temperature\", \"$.env.temp\" or \"sensors[0].value\"",
            default: "the name",
            about: "The way to the value, with format \"json\".",
        },
        Key {
            name: "key",
            expects: "a text",
            default: "the name",
            about: "The key, with format \"key-value\".",
        },
        Key {
            name: "column",
            expects: "an integer from 1",
            default: "must be there with format \"csv\"",
            about: "The column, with format \"csv\".",
        },
        Key {
            name: "capture",
            expects: "the name of a capture of the pattern",
            default: "the name",
            about: "The capture, with format \"regex\".",
        },
        Key {
            name: "topic",
            expects: "a topic, which may hold {gateway}, {port}, {device} and {point}",
            default: "that of the sensor",
            about: "Where its readings are published; no two points share one.",
        },
        Key {
            name: "kind",
            expects: "\"number\" or \"text\"",
            default: "\"number\"",
            about: "What a value must be to be good.",
        },
        Key {
            name: "unit",
            expects: "a text such as \"°C\"",
            default: "none",
            about: "The unit after scaling, told in payload \"json\".",
        },
        Key {
            name: "scale",
            expects: NUMBER,
            default: "1",
            about: "What the number is multiplied by.",
        },
        Key {
            name: "offset",
            expects: NUMBER,
            default: "0",
            about: "What is added after that.",
        },
        Key {
            name: "decimals",
            expects: "an integer",
            default: "as they come",
            about: "The decimals the result is rounded to.",
        },
        Key {
            name: "valid_min",
            expects: NUMBER,
            default: "none",
            about: "Below it a result is bad.",
        },
        Key {
            name: "valid_max",
            expects: NUMBER,
            default: "none",
            about: "Above it a result is bad.",
        },
        Key {
            name: "qos",
            expects: QOS,
            default: "that of the sensor",
            about: "The quality it is published at.",
        },
        Key {
            name: "retain",
            expects: FLAG,
            default: "that of the sensor",
            about: "Whether the last reading is retained.",
        },
        Key {
            name: "payload",
            expects: PAYLOAD,
            default: "that of the sensor",
            about: "The form of its readings.",
        },
        Key {
            name: "stale_after",
            expects: "a duration such as \"10s\"",
            default: "that of the sensor",
            about: "How long a good value stays fresh.",
        },
    ],
};

const NUMBER: &str = "a number";
const QOS: &str = "0, 1 or 2";
const PAYLOAD: &str = "\"value\" or \"json\"";
