//! How much is logged, changed while it runs.

use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;

/// How much this process logs: its position in [`LEVELS`]. There is one log, so there is one level.
static LEVEL: AtomicU8 = AtomicU8::new(2);

/// Every level there is, with the name it has in the configuration.
pub const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// The least urgent message that is logged now, with its name.
pub fn get() -> (&'static str, LevelFilter) {
    let position = usize::from(LEVEL.load(Ordering::Relaxed));
    LEVELS
        .get(position)
        .copied()
        .unwrap_or(("info", LevelFilter::INFO))
}

/// Logs what is at least as urgent as `level` from now on.
pub fn set(level: LevelFilter) {
    let position = LEVELS.iter().position(|(_, known)| *known == level);
    if let Some(position) = position.and_then(|position| u8::try_from(position).ok()) {
        LEVEL.store(position, Ordering::Relaxed);
        // Each place that logs remembers whether anybody listens.
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The level called `name`.
pub fn named(name: &str) -> Option<LevelFilter> {
    let mut levels = LEVELS.iter();
    levels.find(|(known, _)| *known == name).map(|(_, level)| *level)
}
