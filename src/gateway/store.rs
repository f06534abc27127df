//! The way to the journal: what the broker gives to be stored, and what the journal says of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::StartError;
use super::state::{Core, Hold, now};
use crate::broker::{Broker, Change, Input, Recall, Restored, StoreHealth};
use crate::net::clock::released;
use crate::storage::{
    Answer, JournalSettings, JournalStatistics, JournalWriter, Log, LogSettings, OpenError, StateDirectory,
    WriterSettings, record,
};

/// A journal that was read, before the gateway runs.
pub(super) struct Opened {
    settings: JournalSettings,
    restored: Restored,
    /// The number of the last change in it.
    last: u64,
    writer: JournalWriter,
    news: Arc<Notify>,
}

/// The journal of a gateway that runs.
pub(super) struct Store {
    writer: JournalWriter,
    /// Told whenever the writer has something to say.
    pub(super) news: Arc<Notify>,
    idle_interval: Duration,
    /// The number of the last change that was given.
    given: u64,
}

impl Opened {
    /// Reads the journal in `directory`.
    ///
    /// # Errors
    /// What stops the start; nothing was touched.
    pub(super) fn read(
        directory: &StateDirectory,
        settings: JournalSettings,
        may_spill: bool,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Journal(OpenError::Disk(source));
        let disk = directory.journal().map_err(failed)?;
        let log_settings = LogSettings {
            bytes_max: settings.bytes_max,
            free_bytes_min: settings.free_bytes_min,
            ..LogSettings::default()
        };
        let fresh_key = u64::from_ne_bytes(super::random_bytes());
        let mut restored = match may_spill {
            true => Restored::sparing(),
            false => Restored::default(),
        };
        let mut unreadable = 0;
        let (mut log, found) =
            Log::open(
                disk,
                log_settings,
                fresh_key,
                |number, kind, content| match record::decode(kind, content) {
                    Ok(change) => restored.apply_numbered(number, change),
                    Err(_) => unreadable += 1,
                },
            )
            .map_err(StartError::Journal)?;
        restored.finish();
        for number in restored.wanted() {
            log.read_again(number, number, |_, kind, content| {
                if let Ok(Change::Accepted(accepted)) = record::decode(kind, content) {
                    restored.supply(*accepted);
                }
                false
            });
        }
        let (sessions, messages, retained) = restored.counts();
        info!(
            sessions,
            messages,
            retained,
            records = found.records,
            segments = found.segments,
            "journal read"
        );
        if found.is_torn {
            info!(
                "the journal ends in the middle of a write, as after a power cut; nothing acknowledged was in it"
            );
        }
        if found.damaged + found.missing + found.unreadable + unreadable > 0 {
            warn!(
                damaged = found.damaged,
                missing = found.missing,
                unreadable_segments = found.unreadable,
                unreadable_records = unreadable,
                "the journal is damaged; what was hit is lost, the rest is there"
            );
        }
        if found.foreign > 0 {
            warn!(
                files = found.foreign,
                "files in the journal's folder that are not the journal's are left alone"
            );
        }
        let news = Arc::new(Notify::new());
        let wake = news.clone();
        let writer = JournalWriter::start(log, WriterSettings::from(settings), move || wake.notify_one())
            .map_err(StartError::JournalThread)?;
        Ok(Self {
            settings,
            restored,
            last: found.last,
            writer,
            news,
        })
    }

    /// The same broker with all that was stored, and the journal that goes on from there. `is_right`: whether the
    /// board's clock may be believed.
    pub(super) fn begin(self, broker: Broker, is_right: bool) -> (Broker, Store) {
        let now = now();
        let trusted = is_right && self.restored.told_at().is_some_and(|wall| wall >= released());
        if !trusted && self.last > 0 {
            warn!("the clock does not tell how long the gateway was off: nothing expires by that");
        }
        let mut broker = broker.with_store(now);
        broker.restore(now, self.restored, self.last, trusted);
        let store = Store {
            writer: self.writer,
            news: self.news,
            idle_interval: self.settings.idle_interval,
            given: self.last,
        };
        (broker, store)
    }
}

impl Store {
    /// What was counted.
    pub(super) fn statistics(&self) -> JournalStatistics {
        self.writer.statistics()
    }
}

impl Core {
    /// Takes a change to be stored at the end of the turn.
    #[inline(never)]
    pub(super) fn store(&mut self, change: &Change) {
        let Some(store) = &mut self.store else { return };
        store.given += 1;
        if let Err(error) = store.writer.push(store.given, change) {
            // No packet is so large.
            error!(%error, "a change cannot be stored");
        }
        if let Some(task) = &self.flush_task {
            task.wake_by_ref();
        }
    }

    /// Has some of what is stored read again.
    #[inline(never)]
    pub(super) fn recall(&mut self, recall: Recall) {
        if let Some(store) = &mut self.store {
            store.writer.recall(recall);
        }
    }

    /// The turn ends: all that it gave goes to the journal together, at once where somebody waits for it.
    pub(super) fn pass_on_changes(&mut self) {
        let Some(store) = &mut self.store else { return };
        let within = match self.broker.waits_for_store() {
            true => Duration::ZERO,
            false => store.idle_interval,
        };
        store.writer.note_kept(self.broker.kept_bytes());
        store.writer.flush(within);
    }

    /// The same with nothing put off.
    fn hurry_changes(&mut self) {
        if let Some(store) = &mut self.store {
            store.writer.flush(Duration::ZERO);
        }
    }

    /// Hands the broker what the journal has to say.
    fn hear_journal(&mut self) {
        while let Some(store) = &mut self.store
            && let Some(answer) = store.writer.poll()
        {
            let input = match answer {
                Answer::Stored { upto } => Input::Stored { upto },
                Answer::CheckpointDue => {
                    debug!("everything is written to the journal again, so that it may forget");
                    Input::Checkpoint
                }
                Answer::Recalled(recalled) => Input::Recalled(recalled),
                Answer::Health(health) => {
                    match health {
                        StoreHealth::Ready => info!("the journal takes everything"),
                        StoreHealth::Full => {
                            warn!("the journal is full: nothing new is promised until there is room")
                        }
                        StoreHealth::Failed => warn!("the journal has failed: nothing new is promised"),
                    }
                    // What the broker does meanwhile is numbered, too, and comes with the checkpoint.
                    store.given = self.broker.store().map_or(store.given, |view| view.given);
                    Input::Store(health)
                }
            };
            self.input(now(), input);
        }
    }
}

/// Hears the journal as long as the gateway runs.
pub(super) async fn hear(core: Hold, news: Arc<Notify>) {
    loop {
        core.borrow_mut().hear_journal();
        news.notified().await;
    }
}

/// Has everything stored that was given so far, as far as that comes within `patience`.
pub(super) async fn settle(core: &Hold, patience: Duration) {
    let Some(news) = core.borrow().store.as_ref().map(|store| store.news.clone()) else {
        return;
    };
    let given = core.borrow().broker.store().map_or(0, |view| view.given);
    let is_stored = || {
        let mut core = core.borrow_mut();
        core.pass_on_changes();
        core.hear_journal();
        (core.broker.store()).is_none_or(|view| view.stored >= given || view.health == StoreHealth::Failed)
    };
    let settled = async {
        // What nobody waits for may have been put off; here everybody does.
        core.borrow_mut().hurry_changes();
        while !is_stored() {
            news.notified().await;
        }
    };
    if tokio::time::timeout(patience, settled).await.is_err() {
        warn!("the journal has not stored everything in time; what is not acknowledged will be sent again");
    }
}

/// Ends the journal with what was given last, as far as that comes within `patience`.
pub(super) async fn close(core: &Hold, patience: Duration) {
    settle(core, patience).await;
    let store = core.borrow_mut().store.take();
    let Some(store) = store else { return };
    let closed = tokio::task::spawn_blocking(move || store.writer.close());
    if tokio::time::timeout(patience, closed).await.is_err() {
        warn!("the disk does not answer; the journal ends with what it has");
    }
}
