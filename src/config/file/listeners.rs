//! The doors of clients.

use super::{FLAG, TABLE};
use crate::document::{Key, Section};

/// A door.
pub static LISTENER: Section = Section {
    name: "listener.NAME",
    about: "A door clients come through; NAME is yours to choose and stands in the log.",
    keys: &[
        Key {
            name: "address",
            expects: "an address with port such as \"127.0.0.1:1883\" or \"[::]:8883\", a socket such as \
                      \"unix:/run/tidegate/mqtt.sock\", or a list of them",
            default: "must be there",
            about: "Where it listens; off loopback it needs [listener.NAME.tls].",
        },
        Key {
            name: "mode",
            expects: "permissions in octal such as \"0660\"",
            default: "\"0660\"",
            about: "The permissions of its Unix sockets: who may write may connect.",
        },
        Key {
            name: "owner",
            expects: "the name or number of a user",
            default: "the gateway's own",
            about: "To whom its Unix sockets belong.",
        },
        Key {
            name: "group",
            expects: "the name or number of a group",
            default: "the gateway's own",
            about: "The group its Unix sockets belong to.",
        },
        Key {
            name: "peer_user_name",
            expects: FLAG,
            default: "false",
            about: "Whether who comes through a Unix socket is, without a password, the user its program runs as.",
        },
        Key {
            name: "tls",
            expects: TABLE,
            default: "none: plain TCP",
            about: "TLS, and client certificates.",
        },
        Key {
            name: "websocket",
            expects: TABLE,
            default: "none: MQTT without it",
            about: "WebSocket around MQTT, for web pages; an empty table is enough.",
        },
        Key {
            name: "anonymous",
            expects: FLAG,
            default: "true on loopback while there is neither a password file nor client certificates, else false",
            about: "Whether a client may come without proving who it is.",
        },
        Key {
            name: "allow_plaintext_off_loopback",
            expects: FLAG,
            default: "false",
            about: "Accepts the danger that passwords and data are read and changed on the way.",
        },
        Key {
            name: "allow_anonymous_off_loopback",
            expects: FLAG,
            default: "false",
            about: "Accepts the danger that everybody who reaches the address may read and publish everything.",
        },
        Key {
            name: "connections_max",
            expects: "an integer",
            default: "that of [limits]",
            about: "Connections through this door at one time.",
        },
        Key {
            name: "connections_per_address_max",
            expects: "an integer",
            default: "none: that of the door",
            about: "The same, from one address, behind a balancer one that it tells, or by a Unix socket of one user.",
        },
        Key {
            name: "connect_rate_max",
            expects: "an integer",
            default: "none: as fast as they come",
            about: "Connections accepted in a second; what comes faster waits its turn, outside.",
        },
        Key {
            name: "pending_max",
            expects: "an integer",
            default: "64",
            about: "Connections that have not said who they are yet; beyond, the oldest of them gives way.",
        },
        Key {
            name: "pending_per_address_max",
            expects: "an integer",
            default: "8, on a Unix socket 32",
            about: "The same, from one address other than this machine's, or by a Unix socket of one of its users.",
        },
        Key {
            name: "handshake_timeout",
            expects: "a duration such as \"10s\"",
            default: "\"10s\"",
            about: "From accept to the end of the TLS handshake, the header of a balancer included.",
        },
        Key {
            name: "proxy_protocol",
            expects: FLAG,
            default: "false",
            about: "Whether a balancer stands before it that says by the PROXY protocol, 1 or 2, who comes.",
        },
        Key {
            name: "proxy_from",
            expects: "an address or network such as \"10.0.0.0/8\", or a list of them",
            default: "must be there with proxy_protocol",
            about: "The balancers; nobody else gets in here.",
        },
        Key {
            name: "proxy_user_name",
            expects: "\"none\" or \"common-name\"",
            default: "\"none\"",
            about: "Whether the common name of a certificate that the balancer has verified is the user name.",
        },
        Key {
            name: "versions",
            expects: "a list of \"3.1\", \"3.1.1\" and \"5.0\"",
            default: "all three",
            about: "The versions of MQTT it speaks.",
        },
        Key {
            name: "strict_client_ids",
            expects: FLAG,
            default: "false",
            about: "Whether 3.1 clients are held to the 23 characters which that version grants an identifier.",
        },
        Key {
            name: "client_ids",
            expects: "\"any\", \"user\" or \"user-prefix\"",
            default: "\"any\": whoever comes first has it",
            about: "The client identifiers of a user: its name, or its name with a colon and a rest behind it.",
        },
        Key {
            name: "mount_point",
            expects: "a topic such as \"plant1/\"",
            default: "none: the whole tree",
            about: "What stands before every topic of its clients without their noticing.",
        },
        Key {
            name: "packet_bytes_max",
            expects: "a size such as \"64 KiB\"",
            default: OF_LIMITS,
            about: "The largest packet accepted here.",
        },
        Key {
            name: "keep_alive_max",
            expects: "a duration such as \"20m\"",
            default: OF_LIMITS,
            about: "The keep-alive told to 5.0 clients that ask for more, or for none.",
        },
        Key {
            name: "receive_maximum",
            expects: "an integer",
            default: OF_LIMITS,
            about: "Unfinished QoS 2 deliveries from one client.",
        },
        Key {
            name: "topic_alias_maximum",
            expects: "an integer",
            default: OF_LIMITS,
            about: "Topic aliases of one client.",
        },
        Key {
            name: "session_expiry_max",
            expects: "a duration such as \"7d\"",
            default: OF_LIMITS,
            about: "How long a session outlives its connection at most.",
        },
    ],
};

pub(super) const CERTIFICATE: Key = Key {
    name: "certificate",
    expects: "the path of a PEM file",
    default: "must be there",
    about: "The server's certificate, followed by those that lead to its authority.",
};

/// TLS of a door.
pub static TLS: Section = Section {
    name: "listener.NAME.tls",
    about: "TLS 1.2 and 1.3 on this door; try it with \"tidegate cert\".",
    keys: &[
        CERTIFICATE,
        Key {
            name: "key",
            expects: "the path of a PEM file",
            default: "must be there",
            about: "The certificate's private key; refused where every user of the machine may read it.",
        },
        Key {
            name: "client_certificates",
            expects: "\"none\", \"optional\" or \"required\"",
            default: "\"none\"",
            about: "Whether clients show a certificate.",
        },
        Key {
            name: "client_ca",
            expects: "the path of a PEM file, or a list of them",
            default: "must be there with client certificates",
            about: "The authorities whose client certificates are accepted; old and new while one follows the other.",
        },
        Key {
            name: "crl",
            expects: "the path of a PEM or DER file, or a list of them",
            default: "none: nothing is revoked",
            about: "The revocation lists of those authorities.",
        },
        Key {
            name: "crl_missing",
            expects: "\"refuse\" or \"accept\"",
            default: "\"refuse\"",
            about: "What becomes of a certificate whose issuer has no list in crl.",
        },
        Key {
            name: "crl_expired",
            expects: "\"refuse\" or \"accept\"",
            default: "\"refuse\"",
            about: "What becomes of a certificate whose issuer's list was to be replaced by now.",
        },
        Key {
            name: "crl_depth",
            expects: "\"chain\" or \"client\"",
            default: "\"chain\"",
            about: "Whether the certificates between the client's and its authority are looked up, too.",
        },
        Key {
            name: "user_name",
            expects: "\"none\", \"common-name\", \"san-dns\", \"san-uri\" or \"san-email\"",
            default: "\"common-name\" with client certificates",
            about: "Where in a client's certificate its user name stands; it then needs no password.",
        },
        Key {
            name: "client_id",
            expects: "\"none\", \"common-name\", \"san-dns\", \"san-uri\" or \"san-email\"",
            default: "\"none\"",
            about: "Where in a client's certificate its client identifier stands; it can take no other.",
        },
    ],
};

/// WebSocket at a door.
pub static WEBSOCKET: Section = Section {
    name: "listener.NAME.websocket",
    about: "MQTT over WebSocket on this door, secure where it has TLS.",
    keys: &[
        Key {
            name: "path",
            expects: "a path such as \"/mqtt\", or a list of them",
            default: "\"/mqtt\"",
            about: "Where clients find it; any other path is answered 404.",
        },
        Key {
            name: "origins",
            expects: "a list of origins such as [\"https://dashboard.example\"], or [\"*\"] for any",
            default: "the host a page connects to, and only localhost for pages on this machine",
            about: "The web pages whose scripts may connect; clients that are no browsers are not asked.",
        },
    ],
};

const OF_LIMITS: &str = "that of [limits], which it may not exceed";
