//! The operator's doors.

use super::TABLE;
use super::listeners::CERTIFICATE;
use crate::document::{Key, Section};

/// The operator's doors.
pub static ADMIN: Section = Section {
    name: "admin",
    about: "The operator's doors: \"tidegate ctl\", REST and metrics.",
    keys: &[
        Key {
            name: "socket",
            expects: "the path of a Unix socket such as \"/run/tidegate/admin.sock\"",
            default: "admin.sock in the folder systemd makes (RuntimeDirectory=), or else in state_directory",
            about: "Where \"tidegate ctl\" finds the gateway; what its file lets in may do everything.",
        },
        Key {
            name: "mode",
            expects: "permissions in octal such as \"0600\"",
            default: "\"0600\", for the gateway's own user and root",
            about: "The permissions of the socket: who may write may do everything.",
        },
        Key {
            name: "owner",
            expects: "the name or number of a user",
            default: "the gateway's own",
            about: "To whom the socket belongs.",
        },
        Key {
            name: "group",
            expects: "the name or number of a group",
            default: "the gateway's own",
            about: "The group the socket belongs to.",
        },
        Key {
            name: "http",
            expects: "an address with port such as \"127.0.0.1:9180\", or a list of them",
            default: "none: the socket only",
            about: "Where it is found by HTTP, too; off loopback it needs [admin.tls].",
        },
        Key {
            name: "token_file",
            expects: "the path of a file that others cannot read, with a word of at least 16 characters",
            default: "must be there with http",
            about: "What who comes by HTTP has to show: Authorization: Bearer WORD.",
        },
        Key {
            name: "tls",
            expects: TABLE,
            default: "none: plain HTTP",
            about: "HTTPS.",
        },
    ],
};

/// HTTPS at the operator's door.
pub static ADMIN_TLS: Section = Section {
    name: "admin.tls",
    about: "HTTPS at the operator's door.",
    keys: &[
        CERTIFICATE,
        Key {
            name: "key",
            expects: "the path of a PEM file",
            default: "must be there",
            about: "The certificate's private key; only the gateway's user may read it.",
        },
    ],
};
