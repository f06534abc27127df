//! The log: one line an event on standard error, as a terminal or as systemd's journal wants it.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format, layer};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::admin::log_level;

/// Starts logging at `level`; what libraries say is told from warnings up only.
pub(super) fn start(level: LevelFilter) {
    log_level::set(level);
    let lines = layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry();
    // systemd says so where standard error is its journal, which stamps the time itself (systemd.exec(5)).
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let plain = format().with_target(false).with_level(false).without_time();
        registry
            .with(lines.event_format(WithPriority(plain)).with_filter(UrgentEnough))
            .init();
    } else {
        registry
            .with(
                lines
                    .event_format(format().with_target(false))
                    .with_filter(UrgentEnough),
            )
            .init();
    }
}

/// The level that `-v` repeated `times` asks for, above `configured`.
pub(super) fn level(configured: LevelFilter, times: u8) -> LevelFilter {
    match times {
        0 => configured,
        1 => configured.max(LevelFilter::DEBUG),
        _ => LevelFilter::TRACE,
    }
}

/// Lets pass what is urgent enough for [`log_level`] at the moment.
struct UrgentEnough;

impl<S> Filter<S> for UrgentEnough {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        is_urgent_enough(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_urgent_enough(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The audit is told at every level.
        Some(log_level::get().1.max(LevelFilter::INFO))
    }
}

fn is_urgent_enough(metadata: &Metadata<'_>) -> bool {
    let (_, level) = log_level::get();
    let most_told = match metadata.target().split("::").next() {
        Some("tidegate") => level,
        // Whether there are any such lines is for the configuration to say.
        Some("audit") => LevelFilter::INFO,
        _ => level.min(LevelFilter::WARN),
    };
    *metadata.level() <= most_told
}

/// Puts the priority before each line, by which the journal sorts (sd-daemon(3)).
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(cx, writer, event)
    }
}
