//! The thread that waits for the disk, so that the gateway does not.
//!
//! What is pushed gathers while the thread writes and syncs what came before; then all of it goes together. So the
//! slower the medium, the more goes with one sync, and nobody waits for more than two.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{Batch, Disk, Failure, JournalSettings, Log, LogStatistics, Mode, RecordTooLarge, Room, record};
use crate::broker::{Change, RECALLED_BYTES, Recall, Recalled, StoreHealth};

/// The journal's end on the gateway's thread; none of its methods waits for the disk, but for
/// [`close`](Self::close).
#[derive(Debug)]
pub struct JournalWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// How many failures the gateway was told about. What was pushed before belongs to nothing any more.
    generation: u64,
    health: StoreHealth,
    stored: u64,
    was_asked: bool,
    /// The number of the checkpoint's first change, while one is given.
    checkpoint_begun: Option<u64>,
}

/// How the writer goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterSettings {
    /// When something counts as stored. [`Mode::Memory`] has no writer; here it counts as relaxed, with a second.
    pub mode: Mode,
    /// From how many bytes written within a day on a warning is logged; 0: never.
    pub bytes_per_day_max: u64,
    /// How long after a failure the disk is tried again the first time; then twice as long each time, up to 64 times.
    /// While there is no room, it is looked for as often as the first time.
    pub retry_pause: Duration,
}

impl From<JournalSettings> for WriterSettings {
    fn from(settings: JournalSettings) -> Self {
        Self {
            mode: settings.mode,
            bytes_per_day_max: settings.bytes_per_day_max,
            retry_pause: Duration::from_secs(1),
        }
    }
}

/// What the gateway hears, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// All changes up to this one are stored.
    Stored {
        /// Its number.
        upto: u64,
    },
    /// It stands otherwise with storing. After [`StoreHealth::Failed`] everything that was pushed and not stored is
    /// gone, and [`StoreHealth::Ready`] or [`StoreHealth::Full`] asks for a whole checkpoint.
    Health(StoreHealth),
    /// It is time for a checkpoint.
    CheckpointDue,
    /// What was asked for was read.
    Recalled(Box<Recalled>),
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalStatistics {
    /// By the log.
    pub log: LogStatistics,
    /// What the medium was given within the running day, in bytes. Days begin with the process.
    pub bytes_today: u64,
    /// The same of the day before.
    pub bytes_yesterday: u64,
    /// How many segments there are.
    pub segments: usize,
    /// What all of the journal's files take, in bytes.
    pub bytes: u64,
}

/// Why a thread could not be started.
pub type StartError = io::Error;

/// Much more than a turn of the gateway makes; what a large batch took beyond is given back.
const BATCH_BYTES_KEPT: usize = 64 * 1024;
/// The pause between attempts grows no further than this many times.
const RETRY_TIMES_MAX: u32 = 64;
/// When what need not be done at once failed, it is tried again after this.
const TEND_PAUSE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// It waits for the disk and keeps a few locals.
const STACK_BYTES: usize = 256 * 1024;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    has_work: Condvar,
    /// As [`Log::note_kept`] is to be told.
    kept: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// What comes with the next write, and to which generation it belongs.
    gathering: Batch,
    gathering_of: u64,
    /// When it is to be written; `None`: nobody has asked yet.
    due: Option<Instant>,
    /// The checkpoint of which a part is in the batch.
    has_begun: bool,
    has_ended: Option<Ended>,
    is_closing: bool,
    /// What is to be read again.
    recalls: VecDeque<Recall>,

    // Written by the thread:
    generation: u64,
    health: StoreHealth,
    stored: u64,
    wants_checkpoint: bool,
    statistics: JournalStatistics,
    recalled: VecDeque<Recalled>,
}

/// The first and the last change of a checkpoint.
#[derive(Debug, Clone, Copy)]
struct Ended {
    first: u64,
    last: u64,
}

impl JournalWriter {
    /// Starts the thread. `wake` is called on it whenever there may be something to [`poll`](Self::poll).
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start<D>(
        log: Log<D>,
        settings: WriterSettings,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Self, StartError>
    where
        D: Disk + Send + 'static,
        D::File: Send,
    {
        let stored = log.committed();
        let state = State {
            gathering: Batch::default(),
            gathering_of: 0,
            due: None,
            has_begun: false,
            has_ended: None,
            is_closing: false,
            recalls: VecDeque::new(),
            recalled: VecDeque::new(),
            generation: 0,
            health: StoreHealth::Ready,
            stored,
            wants_checkpoint: false,
            statistics: JournalStatistics::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            has_work: Condvar::new(),
            kept: AtomicU64::new(0),
        });
        let runner = Runner::new(log, settings, shared.clone(), Box::new(wake));
        let thread = thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || runner.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            generation: 0,
            health: StoreHealth::Ready,
            stored,
            was_asked: false,
            checkpoint_begun: None,
        })
    }

    /// Adds a change, by its number, which is greater than all before it. It is written when
    /// [`flush`](Self::flush) has asked for it.
    ///
    /// # Errors
    /// [`RecordTooLarge`]; the change was not added, and none after it may be.
    pub fn push(&mut self, number: u64, change: &Change) -> Result<(), RecordTooLarge> {
        let mut state = self.shared.lock();
        state.gathering_of = self.generation;
        match change {
            Change::CheckpointBegun => {
                self.checkpoint_begun = Some(number);
                state.has_begun = true;
            }
            Change::CheckpointEnded => {
                state.has_ended = self
                    .checkpoint_begun
                    .take()
                    .map(|first| Ended { first, last: number });
            }
            _ => {}
        }
        let kind = record::kind_of(change);
        state
            .gathering
            .push(number, kind, |content| record::encode(change, content))
    }

    /// Asks for all that was pushed to be stored, `within` some time, so that what is not urgent goes with what comes.
    pub fn flush(&mut self, within: Duration) {
        let mut state = self.shared.lock();
        if state.gathering.is_empty() {
            return;
        }
        let due = Instant::now() + within;
        if state.due.is_none_or(|before| due < before) {
            state.due = Some(due);
            self.shared.has_work.notify_one();
        }
    }

    /// Asks for what is stored already to be read again; answered by [`Answer::Recalled`], whatever can be read.
    pub fn recall(&mut self, recall: Recall) {
        self.shared.lock().recalls.push_back(recall);
        self.shared.has_work.notify_one();
    }

    /// Says how much is kept; see [`Log::note_kept`].
    pub fn note_kept(&self, kept: u64) {
        self.shared.kept.store(kept, Ordering::Relaxed);
    }

    /// What is new, until `None`.
    pub fn poll(&mut self) -> Option<Answer> {
        let mut state = self.shared.lock();
        if state.stored > self.stored {
            self.stored = state.stored;
            return Some(Answer::Stored { upto: self.stored });
        }
        if state.generation != self.generation {
            self.generation = state.generation;
            self.health = StoreHealth::Failed;
            self.checkpoint_begun = None;
            // It was pushed before the gateway knew.
            state.forget();
            return Some(Answer::Health(self.health));
        }
        if state.health != self.health {
            self.health = state.health;
            return Some(Answer::Health(self.health));
        }
        if let Some(recalled) = state.recalled.pop_front() {
            return Some(Answer::Recalled(Box::new(recalled)));
        }
        let is_asked_anew = state.wants_checkpoint && !self.was_asked;
        self.was_asked = state.wants_checkpoint;
        is_asked_anew.then_some(Answer::CheckpointDue)
    }

    /// What was counted.
    pub fn statistics(&self) -> JournalStatistics {
        self.shared.lock().statistics
    }

    /// Stores what was pushed, and ends the thread. Waits for the disk.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.has_work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self) {
        self.gathering.clear(BATCH_BYTES_KEPT);
        self.due = None;
        self.has_begun = false;
        self.has_ended = None;
    }
}

/// What the thread has.
struct Runner<D: Disk> {
    log: Log<D>,
    settings: WriterSettings,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
    batch: Batch,
    stored: u64,
    health: StoreHealth,
    generation: u64,
    ended: Option<Ended>,
    /// When what was appended is to be synced.
    sync_at: Option<Instant>,
    /// When the disk is tried again.
    retry_at: Option<Instant>,
    retry_times: u32,
    /// When what need not be done at once goes on.
    tend_at: Option<Instant>,
    /// When it is looked again whether there is room: nothing that is written may tell, for nothing new is.
    look_at: Option<Instant>,
    day: Day,
}

/// How much was written since when.
struct Day {
    began: Instant,
    /// What had been written by then.
    bytes_before: u64,
    bytes_yesterday: u64,
    was_told: bool,
}

/// What the thread does next.
enum Work {
    Read(Recall),
    Write(Taken),
    Sync,
    Retry,
    Tend,
    Look,
    End,
}

/// What came with a batch.
#[derive(Clone, Copy)]
struct Taken {
    generation: u64,
    has_begun: bool,
    has_ended: Option<Ended>,
}

impl<D: Disk> Runner<D> {
    fn new(log: Log<D>, settings: WriterSettings, shared: Arc<Shared>, wake: Box<dyn Fn() + Send>) -> Self {
        let now = Instant::now();
        let is_given_up = log.is_given_up();
        Self {
            stored: log.committed(),
            log,
            settings,
            shared,
            wake,
            batch: Batch::default(),
            health: StoreHealth::Ready,
            generation: u64::from(is_given_up),
            ended: None,
            sync_at: None,
            retry_at: is_given_up.then_some(now),
            retry_times: 1,
            // Files are got ready before anybody needs them.
            tend_at: Some(now),
            look_at: None,
            day: Day {
                began: now,
                bytes_before: 0,
                bytes_yesterday: 0,
                was_told: false,
            },
        }
    }

    fn run(mut self) {
        loop {
            match self.next_work() {
                Work::Read(recall) => self.read(recall),
                Work::Write(taken) => self.write(taken),
                Work::Sync => self.sync(),
                Work::Retry => self.retry(),
                Work::Tend => self.tend(),
                Work::Look => {} // for what it tells then
                Work::End => break,
            }
            self.tell();
        }
        self.sync();
        self.tell();
    }

    /// Waits for something to do. What somebody waits for comes first.
    fn next_work(&mut self) -> Work {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            // What ends a checkpoint lets go what may have been asked for before it.
            if state.has_ended.is_some()
                && let Some(recall) = state.recalls.pop_front()
            {
                return Work::Read(recall);
            }
            if !state.gathering.is_empty() && (is_due(state.due) || state.is_closing) {
                self.batch.clear(BATCH_BYTES_KEPT);
                std::mem::swap(&mut self.batch, &mut state.gathering);
                let taken = Taken {
                    generation: state.gathering_of,
                    has_begun: state.has_begun,
                    has_ended: state.has_ended,
                };
                state.forget();
                return Work::Write(taken);
            }
            if state.is_closing {
                return Work::End;
            }
            if let Some(recall) = state.recalls.pop_front() {
                return Work::Read(recall);
            }
            if is_due(self.sync_at) {
                return Work::Sync;
            }
            if is_due(self.retry_at) {
                return Work::Retry;
            }
            if is_due(self.tend_at) {
                return Work::Tend;
            }
            if is_due(self.look_at) {
                return Work::Look;
            }
            let times = [state.due, self.sync_at, self.retry_at, self.tend_at, self.look_at];
            state = match times.into_iter().flatten().min() {
                None => shared
                    .has_work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let pause = at.saturating_duration_since(now);
                    let waited = shared.has_work.wait_timeout(state, pause);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn read(&mut self, recall: Recall) {
        let (first, last) = recall.changes();
        let (mut messages, mut bytes) = (Vec::new(), 0_usize);
        let upto = self.log.read_again(first, last, |number, kind, content| {
            if record::is_message(kind)
                && let Ok(Change::Accepted(accepted)) = record::decode(kind, content)
                && recall.wants(&accepted)
            {
                bytes = bytes.saturating_add(content.len());
                messages.push((number, *accepted));
            }
            bytes < RECALLED_BYTES
        });
        self.shared.lock().recalled.push_back(Recalled {
            recall,
            upto,
            messages,
        });
        (self.wake)();
    }

    fn write(&mut self, taken: Taken) {
        if taken.generation != self.generation || self.log.is_given_up() {
            debug!(
                records = self.batch.records(),
                "records that came too late for the journal"
            );
            return;
        }
        if taken.has_begun {
            self.log.begin_checkpoint();
            self.ended = None;
        }
        self.ended = taken.has_ended.or(self.ended);
        if let Err(failure) = self.log.append(&mut self.batch) {
            return self.fail(&failure);
        }
        match self.settings.mode {
            Mode::Durable => self.sync(),
            // What a checkpoint replaces goes only when it is on the medium itself.
            _ if self.ended.is_some() => self.sync(),
            Mode::Relaxed(_) | Mode::Memory => {
                self.stored = self.batch.last().unwrap_or(self.stored);
                let interval = match self.settings.mode {
                    Mode::Relaxed(interval) => interval,
                    _ => Duration::from_secs(1),
                };
                self.sync_at = self.sync_at.or_else(|| Some(Instant::now() + interval));
            }
        }
        if self.tend_at.is_none() {
            self.tend_at = Some(Instant::now());
        }
    }

    fn sync(&mut self) {
        self.sync_at = None;
        if self.log.is_given_up() {
            return;
        }
        match self.log.commit() {
            Err(failure) => self.fail(&failure),
            Ok(upto) => {
                self.stored = self.stored.max(upto);
                if let Some(ended) = self.ended.filter(|ended| ended.last <= upto) {
                    self.ended = None;
                    self.retry_times = 1;
                    self.log.end_checkpoint(ended.first);
                }
            }
        }
    }

    fn fail(&mut self, failure: &Failure) {
        warn!(%failure, stored = self.stored, "the journal is given up until the disk works again");
        self.generation += 1;
        self.ended = None;
        self.sync_at = None;
        self.tend_at = None;
        self.retry_at = Some(Instant::now() + self.settings.retry_pause * self.retry_times);
    }

    fn retry(&mut self) {
        self.retry_at = None;
        match self.log.begin_anew() {
            Ok(()) => {
                info!("the disk works again; everything is written to the journal anew");
                self.tend_at = Some(Instant::now());
            }
            Err(failure) => {
                debug!(%failure, "the disk still fails");
                self.retry_at = Some(Instant::now() + self.settings.retry_pause * self.retry_times);
            }
        }
        // Also when it worked: it may fail again at once. The checkpoint's end brings it back.
        self.retry_times = (self.retry_times * 2).min(RETRY_TIMES_MAX);
    }

    fn tend(&mut self) {
        self.tend_at = match self.log.tend() {
            Ok(true) => Some(Instant::now()),
            Ok(false) => None,
            Err(error) => {
                if self.log.is_given_up() {
                    return self.fail(&Failure::Disk(error));
                }
                warn!(%error, "cannot get a file of the journal ready or let one go");
                Some(Instant::now() + TEND_PAUSE)
            }
        };
    }

    /// Shows the gateway how it stands.
    fn tell(&mut self) {
        self.log.note_kept(self.shared.kept.load(Ordering::Relaxed));
        let log = self.log.statistics();
        self.health = match self.log.room() {
            _ if self.log.is_given_up() => StoreHealth::Failed,
            Room::Plenty => StoreHealth::Ready,
            Room::ReserveOnly | Room::None => StoreHealth::Full,
        };
        let is_full = self.health == StoreHealth::Full;
        self.look_at = is_full.then(|| Instant::now() + self.settings.retry_pause);
        let statistics = JournalStatistics {
            log,
            bytes_today: self.day.count(log.device_bytes, self.settings.bytes_per_day_max),
            bytes_yesterday: self.day.bytes_yesterday,
            segments: self.log.segments(),
            bytes: self.log.bytes(),
        };
        let wants_checkpoint = self.log.wants_checkpoint();
        let mut state = self.shared.lock();
        let is_news = state.stored != self.stored
            || state.health != self.health
            || state.generation != self.generation
            || (wants_checkpoint && !state.wants_checkpoint);
        state.stored = self.stored;
        state.health = self.health;
        state.generation = self.generation;
        state.wants_checkpoint = wants_checkpoint;
        state.statistics = statistics;
        drop(state);
        if is_news {
            (self.wake)();
        }
    }
}

impl Day {
    /// What was written today, of `bytes` in all.
    fn count(&mut self, bytes: u64, bytes_max: u64) -> u64 {
        let today = bytes.saturating_sub(self.bytes_before);
        if self.began.elapsed() >= DAY {
            self.began = Instant::now();
            self.bytes_before = bytes;
            self.bytes_yesterday = today;
            self.was_told = false;
            return 0;
        }
        if bytes_max > 0 && today > bytes_max && !self.was_told {
            self.was_told = true;
            warn!(
                bytes = today,
                bytes_max, "the journal has written more within a day than the card is meant to bear"
            );
        }
        today
    }
}
