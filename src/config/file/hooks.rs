//! Hooks: what they rename, and whom they ask.

use super::TABLE;
use crate::document::{Key, Section};

/// Hooks.
pub static HOOK: Section = Section {
    name: "hook",
    about: "What is asked before the gateway acts.",
    keys: &[
        Key {
            name: "timeout",
            expects: "a duration such as \"5s\"",
            default: "\"5s\"",
            about: "How long a client waits for an answer; then it is refused.",
        },
        Key {
            name: "rewrite",
            expects: "tables such as [[hook.rewrite]]",
            default: "none",
            about: "Topics that are renamed as clients publish, subscribe and leave wills; the first that fits, once.",
        },
        Key {
            name: "http",
            expects: TABLE,
            default: "none",
            about: "An HTTP server that is asked who may come in and who may do what.",
        },
    ],
};

/// A topic that is renamed.
pub static REWRITE: Section = Section {
    name: "hook.rewrite",
    about: "A topic that is renamed, before rights are asked for the new name.",
    keys: &[
        Key {
            name: "from",
            expects: "a topic filter such as \"a/+/b/#\"",
            default: "must be there",
            about: "The topics that are renamed.",
        },
        Key {
            name: "to",
            expects: "a topic such as \"c/$1/$2\"",
            default: "must be there",
            about: "Their new name; $1 is what the first wildcard stands for, and so on, each a level of its own.",
        },
    ],
};

/// A server that is asked.
pub static HTTP: Section = Section {
    name: "hook.http",
    about: "An HTTP server asked by POST, in JSON; 200 and 204 say yes, 4xx no, all else and silence refuse.",
    keys: &[
        Key {
            name: "url",
            expects: "an address such as \"https://auth.example/mqtt\"",
            default: "must be there",
            about: "Where questions are sent; http:// only to this machine.",
        },
        Key {
            name: "events",
            expects: "a list of \"authenticate\", \"publish\" and \"subscribe\"",
            default: "all three",
            about: "What it is asked about; users of the password file are not asked about as they come.",
        },
        Key {
            name: "request_timeout",
            expects: "a duration such as \"2s\"",
            default: "\"2s\"",
            about: "How long an answer may take; then the client is refused.",
        },
        Key {
            name: "cache_time",
            expects: "a duration such as \"1m\"",
            default: "\"1m\"",
            about: "How long a yes is kept; \"0s\": it is asked each time.",
        },
        Key {
            name: "denied_cache_time",
            expects: "a duration such as \"5s\"",
            default: "\"5s\"",
            about: "How long a no is kept.",
        },
        Key {
            name: "cache_entries_max",
            expects: "an integer",
            default: "1024",
            about: "Answers that are kept, about 100 bytes each.",
        },
        Key {
            name: "ca",
            expects: "the path of a PEM file",
            default: "what the system trusts",
            about: "The authorities of the server's certificate.",
        },
    ],
};
