//! What the broker counts: everything that passes, and everything that was dropped.

/// Counters since the start, and gauges of what there is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: byte streams open, those without CONNECT included.
    pub links: u64,
    /// Gauge: clients connected.
    pub clients_connected: u64,
    /// The most clients that were connected at one time.
    pub clients_connected_max: u64,
    /// Gauge: sessions, connected or not.
    pub sessions: u64,
    /// Gauge: subscriptions of all sessions.
    pub subscriptions: u64,
    /// Gauge: retained messages.
    pub retained_messages: u64,
    /// Gauge: topic, payload and property bytes of retained messages.
    pub retained_bytes: u64,
    /// Gauge: messages waiting for a client to come back or to acknowledge earlier ones.
    pub queued_messages: u64,
    /// Gauge: messages waiting for a client in the journal alone, beyond its queue.
    pub spilled_messages: u64,
    /// Gauge: topic, payload and property bytes of these, counted once for each client.
    pub spilled_bytes: u64,
    /// Gauge: messages sent to clients and not yet acknowledged.
    pub inflight_messages: u64,
    /// Gauge: topic, payload and property bytes of both, counted once for each client.
    pub queued_bytes: u64,
    /// Gauge: topic, payload and property bytes of all wills.
    pub wills_bytes: u64,
    /// Gauge: clients, users and networks that are kept out.
    pub bans: u64,

    /// Byte streams accepted.
    pub links_accepted: u64,
    /// Clients that came in.
    pub clients_accepted: u64,
    /// Connections that ended before a client came in.
    pub connections_refused: u64,
    /// Of these, those of clients that could not prove who they are, or may not come in as who they say.
    pub logins_refused: u64,
    /// Clients whose connection another one took over.
    pub takeovers: u64,
    /// Clients that were silent for one and a half keep-alives.
    pub keep_alive_timeouts: u64,
    /// Packets received on live links.
    pub packets_received: u64,
    /// Application messages received from clients.
    pub messages_received: u64,
    /// PUBLISH packets sent to clients, repetitions included.
    pub messages_sent: u64,
    /// Wills sent.
    pub wills_sent: u64,
    /// Sessions that ended because nobody came back.
    pub sessions_expired: u64,
    /// Kicks that were begun.
    pub kicks: u64,
    /// Kicks that found neither a connection nor a session.
    pub kicks_in_vain: u64,
    /// Connected clients that a kick sent away.
    pub clients_kicked: u64,
    /// Sessions that a kick forgot.
    pub sessions_purged: u64,
    /// Connections that ended because their client, user or address is kept out.
    pub connections_banned: u64,

    /// Panics of hooks, all contained.
    pub hook_panics: u64,
    /// Packets, and client's parts of an exchange of AUTH packets, that waited for an answer of a hook.
    pub hook_answers_awaited: u64,
    /// Answers of hooks that did not come in time.
    pub hook_timeouts: u64,

    /// Messages of a QoS 2 publisher that had arrived before.
    pub duplicates_suppressed: u64,
    /// Publishes and wills the rights forbade.
    pub publishes_denied: u64,
    /// Deliveries the rights forbade.
    pub deliveries_denied: u64,
    /// Dropped: QoS 0 for a client that is not connected.
    pub dropped_offline: u64,
    /// Dropped: QoS 0 for a client that reads too slowly.
    pub dropped_slow: u64,
    /// Dropped: the client's queue, or the room for all queues, was full.
    pub dropped_queue_full: u64,
    /// Dropped: the message expired before it could be sent.
    pub dropped_expired: u64,
    /// Dropped: larger than the client's Maximum Packet Size.
    pub dropped_too_large: u64,
    /// Dropped: the journal's medium did not give it back.
    pub dropped_damaged: u64,
    /// Dropped: queued or unacknowledged in a session that ended.
    pub dropped_session_ended: u64,
    /// Not kept: the room for retained messages was full.
    pub dropped_retained_full: u64,
    /// Dropped: a hook said so.
    pub dropped_by_hooks: u64,
    /// Sessions that gave way to a newer one of their own user.
    pub sessions_displaced: u64,
    /// Clients refused because there was no room for their session or their will.
    pub sessions_refused: u64,
    /// Topic filters refused because there was no room for them.
    pub subscriptions_refused: u64,
    /// Messages refused because a receiver had no room for them and such messages are not dropped.
    pub publishes_refused: u64,
    /// Messages of clients before 5.0 that had to wait for that room.
    pub publishes_held: u64,
    /// Of these, those that found none in time: their client's connection ended.
    pub publishers_given_up: u64,
    /// Sessions that ended because their queue was full and such readers are to go.
    pub sessions_overflowed: u64,
    /// Times a client was not read for a while because it published too fast.
    pub publishers_paused: u64,
    /// Times something was refused or given up because memory was short.
    pub memory_refusals: u64,
}

impl Stats {
    /// Messages that were dropped, for whatever reason; each has its own counter.
    pub fn dropped(&self) -> u64 {
        self.dropped_offline
            + self.dropped_slow
            + self.dropped_queue_full
            + self.dropped_expired
            + self.dropped_too_large
            + self.dropped_damaged
            + self.dropped_session_ended
            + self.dropped_retained_full
            + self.dropped_by_hooks
    }
}
