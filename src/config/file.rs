//! Everything that may stand in a configuration file; this list feeds the reading, the help and the tests.

use crate::board::{journal, limits};
use crate::document::{Key, Section};

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

/// Who may come in.
pub static AUTHENTICATION: Section = Section {
    name: "authentication",
    about: "Who may come in.",
    keys: &[
        Key {
            name: "password_file",
            expects: "the path of a file written by \"tidegate passwd\" or mosquitto_passwd",
            default: "none",
            about: "Users and the hashes of their passwords.",
        },
        Key {
            name: "failures_max",
            expects: "an integer",
            default: "10",
            about: "Failed logins from one address that are free, or from one /64 of IPv6, or by a Unix socket of one \
                    user; 0: all of them. Further ones delay whoever comes from there. This machine's are not counted.",
        },
        Key {
            name: "failures_window",
            expects: "a duration such as \"1m\"",
            default: "\"1m\"",
            about: "The time in which as many failures are forgotten.",
        },
        Key {
            name: "delay_max",
            expects: "a duration such as \"5m\"",
            default: "\"5m\"",
            about: "The longest delay; the first is a second, and each twice the last.",
        },
        Key {
            name: "jwt",
            expects: TABLE,
            default: "none: no tokens",
            about: "JSON Web Tokens in the place of passwords.",
        },
    ],
};

/// Tokens.
pub static JWT: Section = Section {
    name: "authentication.jwt",
    about: "A client's password may be a JSON Web Token (RFC 7519); when it expires the connection ends.",
    keys: &[
        Key {
            name: "keys",
            expects: "the path of a file with public keys, PEM or a JSON Web Key set, or a list of them",
            default: "must be there without secret",
            about: "What signatures are verified with; RSA keys verify RS256, P-256 ES256, and Ed25519 EdDSA.",
        },
        Key {
            name: "secret",
            expects: "the path of a file with at least 32 characters",
            default: "none",
            about: "The secret shared with the issuer, for HS256.",
        },
        Key {
            name: "algorithms",
            expects: "a list of \"RS256\", \"ES256\", \"EdDSA\" and \"HS256\"",
            default: "those of the keys",
            about: "The algorithms that are allowed; keys of others are left out.",
        },
        Key {
            name: "issuer",
            expects: "a text such as \"https://issuer.example\"",
            default: "none: any",
            about: "What iss must be.",
        },
        Key {
            name: "audience",
            expects: "a text such as \"gateway-7\"",
            default: "none: any",
            about: "What aud must be, or hold.",
        },
        Key {
            name: "user_claim",
            expects: "the name of a claim",
            default: "\"sub\"",
            about: "The claim that is the user name; one that a client says itself must be the same, or empty.",
        },
        Key {
            name: "client_id_claim",
            expects: "the name of a claim",
            default: "none: a token is good for any client identifier",
            about: "The claim that the client identifier must be.",
        },
        Key {
            name: "groups_claim",
            expects: "the name of a claim",
            default: "none: a token says nothing of groups",
            about: "The claim with groups of [access.groups] that the user is in, a list or one.",
        },
        Key {
            name: "leeway",
            expects: "a duration such as \"30s\"",
            default: "\"30s\"",
            about: "By how much the issuer's clock and this one may differ.",
        },
        Key {
            name: "token_bytes_max",
            expects: "a size such as \"4 KiB\"",
            default: "\"4 KiB\"",
            about: "The longest token.",
        },
    ],
};

/// Who may do what.
pub static ACCESS: Section = Section {
    name: "access",
    about: "Who may publish and read what; once this table is there, nothing that no rule allows.",
    keys: &[
        Key {
            name: "acl_file",
            expects: "the path of a file in the form of mosquitto's acl_file",
            default: "none",
            about: "More rules, asked after those of this file.",
        },
        Key {
            name: "groups",
            expects: "a table [access.groups] with lines such as operators = [\"ann\", \"bob\"]",
            default: "none",
            about: "Users that rules name together.",
        },
        Key {
            name: "rule",
            expects: "tables such as [[access.rule]]",
            default: "none",
            about: "The rules in their order; the first that fits decides.",
        },
    ],
};

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

/// A rule.
pub static ACCESS_RULE: Section = Section {
    name: "access.rule",
    about: "A rule: what whoever it binds may do, or may not; it binds every client where it names nobody.",
    keys: &[
        Key {
            name: "allow",
            expects: ACTIONS,
            default: "this or deny must be there",
            about: "What is granted; \"read\" is to subscribe and to receive, \"readwrite\" or \"all\" is everything.",
        },
        Key {
            name: "deny",
            expects: ACTIONS,
            default: "this or allow must be there",
            about: "What is refused.",
        },
        Key {
            name: "topics",
            expects: "a topic filter such as \"plant/%u/#\", or a list of them",
            default: "must be there",
            about: "With which topics; %u alone in a level is the client's user name there, %c its client identifier.",
        },
        Key {
            name: "user",
            expects: "a user name, or a list of them",
            default: "none",
            about: "The users it binds.",
        },
        Key {
            name: "group",
            expects: "a name of [access.groups], or a list of them",
            default: "none",
            about: "The groups whose users it binds.",
        },
        Key {
            name: "anonymous",
            expects: FLAG,
            default: "false",
            about: "Whether it binds clients without a user name.",
        },
        Key {
            name: "client",
            expects: "a client identifier",
            default: "any",
            about: "The one client it is for, among those it binds; who knows the identifier can come with it.",
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

const CERTIFICATE: Key = Key {
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

const TABLE: &str = "a table";
const OF_LIMITS: &str = "that of [limits], which it may not exceed";
const FLAG: &str = "true or false";
const PATTERNS: &str = "a pattern such as \"meter-*\", or a list of them";
const ACTIONS: &str = "\"publish\", \"subscribe\", \"receive\", \"read\", \"readwrite\", or a list of them";
const NUMBER: &str = "a number";
const QOS: &str = "0, 1 or 2";
const PAYLOAD: &str = "\"value\" or \"json\"";

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
