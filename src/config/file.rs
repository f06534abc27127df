//! Everything that may stand in a configuration file; this list feeds the reading, the help and the tests.

mod access;
mod admin;
mod hooks;
mod listeners;
mod sensors;

use crate::board::{journal, limits};
use crate::document::{Key, Section};

pub use access::{ACCESS, ACCESS_RULE, AUTHENTICATION, JWT};
pub use admin::{ADMIN, ADMIN_TLS};
pub use hooks::{HOOK, HTTP, REWRITE};
pub use listeners::{LISTENER, TLS, WEBSOCKET};
pub use sensors::{LINES, POINT, SERIAL};

/// Every table, in the order of the help.
pub static SECTIONS: &[&Section] = &[
    &ROOT,
    &GATEWAY,
    &AUTHENTICATION,
    &ACCESS,
    &ACCESS_RULE,
    &HOOK,
    &REWRITE,
    &HTTP,
    &JWT,
    &LISTENER,
    &TLS,
    &WEBSOCKET,
    &limits::SECTION,
    &journal::SECTION,
    &QUEUE,
    &ADMIN,
    &ADMIN_TLS,
    &SERIAL,
    &LINES,
    &POINT,
];

/// The top of the file.
pub static ROOT: Section = Section {
    name: "",
    about: "The tables of the file.",
    keys: &[
        Key {
            name: "gateway",
            expects: TABLE,
            default: "",
            about: "The gateway itself.",
        },
        Key {
            name: "authentication",
            expects: TABLE,
            default: "",
            about: "Who may come in.",
        },
        Key {
            name: "access",
            expects: TABLE,
            default: "none: who is let in may use every topic",
            about: "Who may do what.",
        },
        Key {
            name: "hook",
            expects: TABLE,
            default: "none",
            about: "What is asked before the gateway acts.",
        },
        Key {
            name: "listener",
            expects: "tables such as [listener.NAME]",
            default: "127.0.0.1:1883 and [::1]:1883",
            about: "The doors clients come through.",
        },
        Key {
            name: "limits",
            expects: TABLE,
            default: "the board's",
            about: "What peers may grow.",
        },
        Key {
            name: "journal",
            expects: TABLE,
            default: "the board's",
            about: "How state is kept.",
        },
        Key {
            name: "queue",
            expects: "tables such as [[queue]]",
            default: "none: every queue is as [limits] say",
            about: "Queues, or messages in them, for which something else holds.",
        },
        Key {
            name: "admin",
            expects: TABLE,
            default: "",
            about: "The operator's doors.",
        },
        Key {
            name: "serial",
            expects: "tables such as [serial.NAME]",
            default: "none",
            about: "The serial ports sensors are on.",
        },
    ],
};

/// The gateway itself.
pub static GATEWAY: Section = Section {
    name: "gateway",
    about: "The gateway itself.",
    keys: &[
        Key {
            name: "name",
            expects: "a topic name such as \"site/gateway-7\"",
            default: "\"tidegate\"",
            about: "The first level or levels of every topic the gateway itself publishes on.",
        },
        Key {
            name: "state_directory",
            expects: "a folder such as \"/var/lib/tidegate\"",
            default: "none: everything in memory",
            about: "A folder of the gateway's own for what outlives it.",
        },
        Key {
            name: "log",
            expects: "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
            default: "\"info\"",
            about: "The least urgent message that is logged.",
        },
        Key {
            name: "audit",
            expects: "\"off\", \"refusals\" or \"all\"",
            default: "\"refusals\"",
            about: "Which lines of the audit log are told, whatever log says: who is refused or sent away, or also \
                    who comes in.",
        },
        Key {
            name: "statistics_interval",
            expects: "a duration such as \"10s\"",
            default: "\"10s\"",
            about: "How often statistics that have changed are published below $SYS while somebody reads them; \
                    \"0s\": never.",
        },
        Key {
            name: "board",
            expects: "\"auto\" or the name of a board (tidegate boards list)",
            default: "\"auto\"",
            about: "The board profile, which sets the limits and knows the serial ports.",
        },
        Key {
            name: "check_payload_format",
            expects: "true or false",
            default: "false",
            about: "Whether a payload that says it is UTF-8 is refused where it is not (MQTT 5.0).",
        },
        Key {
            name: "loss_property",
            expects: "a name such as \"lost\"",
            default: "none: they are not told",
            about: "The user property that tells a client with its first message after a loss how many it did not get \
                    since it was told last (MQTT 5.0).",
        },
        Key {
            name: "response_topics",
            expects: "a topic name such as \"replies\"",
            default: "none",
            about: "Below it each client that asks is given a topic for its answers, REPLIES/CLIENT (MQTT 5.0).",
        },
        Key {
            name: "server_reference",
            expects: "a text such as \"other.example:8883\"",
            default: "none",
            about: "Where clients are sent that find the gateway full or stopping (MQTT 5.0).",
        },
    ],
};

/// What holds for some queues.
pub static QUEUE: Section = Section {
    name: "queue",
    about: "What holds for some queues, or some messages in them, instead of [limits]: each setting is that of the \
            first table that fits and says it.",
    keys: &[
        Key {
            name: "user",
            expects: PATTERNS,
            default: "any, or none",
            about: "The users whose clients it is for; * stands for any characters, ? for one.",
        },
        Key {
            name: "client",
            expects: PATTERNS,
            default: "any",
            about: "The client identifiers it is for.",
        },
        Key {
            name: "topics",
            expects: "a topic filter such as \"alarm/#\", or a list of them",
            default: "all",
            about: "The messages it is for, by the topics of the whole tree.",
        },
        Key {
            name: "messages_max",
            expects: limits::QUEUE_EXPECTS.0,
            default: "queue_messages_max",
            about: "Messages waiting for one client; not beside topics.",
        },
        Key {
            name: "bytes_max",
            expects: "a size such as \"4 MiB\"",
            default: "queue_bytes_max",
            about: "Payload and topic bytes waiting for one client; not beside topics.",
        },
        Key {
            name: "spill_bytes_max",
            expects: "a size such as \"8 MiB\"",
            default: "spill_bytes_max",
            about: "The same of what waits beyond its queue, in the journal alone; not beside topics.",
        },
        Key {
            name: "overflow",
            expects: limits::QUEUE_EXPECTS.1,
            default: "queue_overflow",
            about: "What gives way when the queue is full: a message, its publisher, or its reader.",
        },
        Key {
            name: "qos0",
            expects: FLAG,
            default: "queue_qos0",
            about: "Whether messages at QoS 0 wait for a client that is away.",
        },
    ],
};

const TABLE: &str = "a table";
const FLAG: &str = "true or false";
const PATTERNS: &str = "a pattern such as \"meter-*\", or a list of them";

/// The list as text for people: every table, key, what it expects, its default and what it does.
pub fn reference() -> String {
    let mut text = String::new();
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let heading = match section.name {
            "serial.NAME.lines.point" | "access.rule" => format!("[[{}]]", section.name),
            name => format!("[{name}]"),
        };
        text += &format!("{heading}\n  {}\n", section.about);
        for key in section.keys {
            text += &format!("\n  {} = {}", key.name, key.expects);
            text += &format!("\n      {} Default: {}.\n", key.about, key.default);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_it_expects_what_it_does_and_what_holds_without_it() {
        for section in SECTIONS {
            for key in section.keys {
                let full = !key.expects.is_empty() && key.about.ends_with('.');
                assert!(full, "{}.{}", section.name, key.name);
                assert!(
                    section.name.is_empty() || !key.default.is_empty(),
                    "{}.{}",
                    section.name,
                    key.name
                );
            }
        }
    }

    #[test]
    fn the_reference_names_every_key() {
        let text = reference();
        for section in SECTIONS.iter().skip(1) {
            for key in section.keys {
                assert!(
                    text.contains(&format!("\n  {} = ", key.name)),
                    "{}.{}",
                    section.name,
                    key.name
                );
            }
        }
    }
}
