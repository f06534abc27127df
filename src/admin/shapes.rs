//! What requests and answers look like: one description, from which the OpenAPI document is made, and to which a test
//! holds what is really answered.

/// An object of JSON.
#[derive(Debug)]
pub struct Shape {
    /// Its name in the document.
    pub name: &'static str,
    /// In the order they are written.
    pub fields: &'static [Field],
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may be null, and in a request left out.
    pub is_optional: bool,
    /// What it says.
    pub about: &'static str,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number, never negative.
    Integer,
    /// True or false.
    Flag,
    /// An object.
    Object(&'static Shape),
    /// A list of objects.
    Objects(&'static Shape),
    /// A list of text.
    Texts,
    /// Any JSON.
    Any,
    /// An integer for each of [`super::figures::FIGURES`].
    Figures,
}

use Kind::{Any, Figures, Flag, Integer, Object, Objects, Text, Texts, Word};

macro_rules! shapes {
    ($($constant:ident $name:literal { $($field:ident: $kind:expr, $need:ident, $about:literal;)* })*) => {
        $(
            #[doc = concat!("The object `", $name, "`.")]
            pub static $constant: Shape = Shape {
                name: $name,
                fields: &[$(Field {
                    name: stringify!($field),
                    kind: $kind,
                    is_optional: shapes!(@ $need),
                    about: $about,
                },)*],
            };
        )*
    };
    (@ always) => { false };
    (@ maybe) => { true };
}

/// The levels of the log.
pub static LEVEL_NAMES: &[&str] = &["error", "warn", "info", "debug", "trace"];
/// What a kick may mean, and what a ban may be of.
pub static TARGETS: &[&str] = &["client", "user", "address", "listener", "pattern", "everyone"];
/// What a kick came to.
pub static FOUND: &[&str] = &["online", "purged", "already_gone", "nobody"];

shapes! {
    ERROR "Error" {
        error: Text, always, "What is wrong, for a person.";
    }
    HEALTH "Health" {
        status: Word(&["ok", "ready"]), always, "How it is.";
    }
    ABOUT "About" {
        version: Text, always, "The version that runs.";
        gateway: Text, always, "The gateway's name, which its own topics begin with.";
        board: Text, always, "The board profile.";
        uptime_secs: Integer, always, "Since the start.";
        log_level: Word(LEVEL_NAMES), always, "The least urgent message that is logged.";
    }
    STATISTICS "Statistics" {
        figures: Figures, always, "Every counter and gauge.";
    }
    CONNECTION "Connection" {
        address: Text, always, "Who is at the other end.";
        listener: Text, always, "The door it came through.";
        version: Text, always, "The version of MQTT it speaks.";
        connected_secs: Integer, always, "Since it was accepted.";
        silent_secs: Integer, always, "Since its client was last heard.";
        silence_max_secs: Integer, maybe, "The silence after which it ends; null: never.";
        is_paused: Flag, always, "Whether it is not read for a while, because its client publishes too fast.";
        unsent_bytes: Integer, always, "On their way to the client.";
        received_bytes: Integer, always, "Received, those of TLS and WebSocket not counted.";
        sent_bytes: Integer, always, "Sent, counted the same way.";
    }
    SESSION "Session" {
        client: Text, always, "The client identifier.";
        user: Text, maybe, "To whom it belongs; null: it came without a name.";
        connection: Object(&CONNECTION), maybe, "Null while the client is away.";
        mount_point: Text, maybe, "What stands before every topic of its client.";
        subscriptions: Integer, always, "Topic filters.";
        queued_messages: Integer, always, "Messages that wait.";
        inflight_messages: Integer, always, "Messages sent and not acknowledged.";
        queued_bytes: Integer, always, "Bytes of both.";
        spilled_messages: Integer, always, "Messages that wait beyond the queue, in the journal alone.";
        spilled_bytes: Integer, always, "Bytes of these.";
        expiry_secs: Integer, maybe, "Session Expiry Interval; null: never.";
        expires_in_secs: Integer, maybe, "Until it ends, while the client is away.";
        has_will: Flag, always, "Whether a will is owed should the client go.";
        lost: Object(&LOST), always, "Messages that did not reach the client since the session began.";
    }
    LOST "Lost" {
        total: Integer, always, "All of them.";
        queue_full: Integer, always, "Its queue, or the room for all queues, was full.";
        expired: Integer, always, "They expired before they could be sent.";
        too_large: Integer, always, "They were larger than its Maximum Packet Size.";
        denied: Integer, always, "The rights, or a hook, forbade the delivery.";
        offline: Integer, always, "QoS 0 while it was away.";
        slow: Integer, always, "QoS 0 while it did not read what it had been sent.";
        damaged: Integer, always, "They waited in the journal alone, and its medium did not give them back.";
    }
    SESSIONS "Sessions" {
        items: Objects(&SESSION), always, "In the order of client identifiers.";
        next: Text, maybe, "What to give as after for the next page; null: this was the last.";
    }
    SUBSCRIPTION "Subscription" {
        client: Text, always, "Whose.";
        filter: Text, always, "To what, in the whole tree: with mount point and share name.";
        qos: Integer, always, "The quality granted.";
        no_local: Flag, always, "Whether its client gets nothing it published itself.";
        retain_as_published: Flag, always, "Whether RETAIN is passed on as it was published.";
        subscription_id: Integer, maybe, "The subscription identifier.";
    }
    SUBSCRIPTIONS "Subscriptions" {
        items: Objects(&SUBSCRIPTION), always, "In the order of client identifiers and filters.";
        next: Text, maybe, "What to give as after for the next page; null: this was the last.";
    }
    RECEIVER "Receiver" {
        client: Text, always, "Who.";
        connected: Flag, always, "Whether its client is there.";
        qos: Integer, always, "The quality granted.";
        share: Text, maybe, "The shared subscription of whose members one receives it.";
        may_receive: Flag, always, "Whether its rights and its mount point let it.";
    }
    RECEIVERS "Receivers" {
        items: Objects(&RECEIVER), always, "In the order of client identifiers.";
        next: Text, maybe, "What to give as after for the next page; null: this was the last.";
    }
    RETAINED "Retained" {
        topic: Text, always, "Its topic.";
        qos: Integer, always, "At which quality it was published.";
        payload_bytes: Integer, always, "How long its payload is.";
        expires_in_secs: Integer, maybe, "Until it loses its meaning.";
        user: Text, maybe, "Who published it; null: somebody without a name, or the gateway itself.";
    }
    RETAINED_LIST "RetainedList" {
        items: Objects(&RETAINED), always, "In the order of topics.";
        next: Text, maybe, "What to give as after for the next page; null: this was the last.";
    }
    RETAINED_MESSAGE "RetainedMessage" {
        topic: Text, always, "Its topic.";
        qos: Integer, always, "At which quality it was published.";
        payload_bytes: Integer, always, "How long its payload is.";
        expires_in_secs: Integer, maybe, "Until it loses its meaning.";
        user: Text, maybe, "Who published it; null: somebody without a name, or the gateway itself.";
        payload: Text, maybe, "What it says; null where that is no UTF-8.";
        payload_base64: Text, maybe, "What it says, where it is no UTF-8.";
    }
    MESSAGE "Message" {
        topic: Text, always, "Where it goes; not a topic that begins with $.";
        payload: Text, maybe, "What it says; nothing where neither is given.";
        payload_base64: Text, maybe, "The same, where it is no text.";
        qos: Integer, maybe, "0, 1 or 2; 0 where nothing is said.";
        retain: Flag, maybe, "Whether it becomes the topic's retained message.";
    }
    KICK "Kick" {
        target: Word(TARGETS), always, "What value names; address takes a network such as 10.0.0.0/8 as well.";
        value: Text, maybe, "Whom; not for everyone.";
        reason: Integer, maybe, "The reason code a 5.0 client is told; 152 where nothing is said.";
        server_reference: Text, maybe, "Where it is to go instead, with reason 156 or 157.";
        discard_will: Flag, maybe, "Whether nobody learns of its will.";
        purge: Flag, maybe, "Whether its session is forgotten, too.";
        keep_out_secs: Integer, maybe, "How long a client, user or address is kept out; 0: until the ban is lifted.";
    }
    KICKED "Kicked" {
        found: Word(FOUND), always, "What it came to.";
        kicked: Integer, always, "Connected clients that were sent away.";
        pending: Integer, always, "Connections that were ended before their client was in.";
        purged: Integer, always, "Sessions that were forgotten and would have stayed otherwise.";
        away: Integer, always, "Clients that were meant and had gone by themselves.";
        banned: Flag, always, "Whether they are kept out.";
    }
    BAN "Ban" {
        kind: Word(&["client", "user", "address"]), always, "What value names.";
        value: Text, always, "Who is kept out.";
        ends_in_secs: Integer, maybe, "Until it ends; null: when it is lifted, or the gateway stops.";
    }
    BANS "Bans" {
        items: Objects(&BAN), always, "Everybody who is kept out.";
    }
    LISTENER "Listener" {
        name: Text, always, "Its name in the configuration.";
        address: Text, always, "Where it listens.";
        transport: Word(&["tcp", "tls", "websocket", "websocket-tls", "unix"]), always, "How MQTT comes through it.";
        anonymous: Flag, always, "Whether a client may come without proving who it is.";
        connections: Integer, always, "Connections through it.";
        pending: Integer, always, "Those on their way in.";
        accepted: Integer, always, "Connections that got a place.";
        refused: Integer, always, "Connections that were closed at once.";
    }
    LISTENERS "Listeners" {
        items: Objects(&LISTENER), always, "The doors of clients.";
    }
    SERIAL_PORT "SerialPort" {
        name: Text, always, "Its name in the configuration.";
        path: Text, always, "The device.";
        status: Text, maybe, "online or offline; null: it has said nothing yet.";
        health: Any, maybe, "What it last told of its health.";
        devices: Texts, always, "The sensors on it.";
    }
    SERIAL_PORTS "SerialPorts" {
        items: Objects(&SERIAL_PORT), always, "The serial ports.";
    }
    VALUE "Value" {
        key: Text, always, "The key with its tables.";
        value: Text, always, "The value as it is written, or what holds where nobody has written it.";
        source: Word(&["file", "board", "default"]), always, "Where it comes from.";
        line: Integer, maybe, "The line of the file.";
    }
    CONFIGURATION "Configuration" {
        items: Objects(&VALUE), always, "Every value that holds; of files such as keys, the paths.";
    }
    RELOADED "Reloaded" {
        listeners_added: Integer, always, "Doors that were opened.";
        listeners_removed: Integer, always, "Doors that were closed.";
        listeners_changed: Integer, always, "Doors that stay where they are and grant other things.";
        certificates: Integer, always, "Doors whose certificates were read again.";
        users_revoked: Integer, always, "Users whose password holds no more.";
        rights_changed: Flag, always, "Whether rights are others.";
        limits_changed: Flag, always, "Whether limits, or what MQTT leaves to the server, are others.";
        hooks_changed: Flag, always, "Whether hooks, or the HTTP server that is asked, are others.";
        ports_opened: Integer, always, "Serial ports that were opened.";
        ports_closed: Integer, always, "Serial ports that were closed.";
        warnings: Texts, always, "What is unwise in the configuration, and what needs a restart.";
    }
    LOG "Log" {
        level: Word(LEVEL_NAMES), always, "The least urgent message that is logged.";
    }
    DIAGNOSTICS "Diagnostics" {
        about: Object(&ABOUT), always, "What runs.";
        statistics: Object(&STATISTICS), always, "What it counts.";
        listeners: Object(&LISTENERS), always, "The doors of clients.";
        serial: Object(&SERIAL_PORTS), always, "The serial ports.";
        configuration: Object(&CONFIGURATION), always, "What holds, without secrets.";
        sessions: Object(&SESSIONS), always, "The first hundred sessions.";
        bans: Object(&BANS), always, "Everybody who is kept out.";
    }
}
