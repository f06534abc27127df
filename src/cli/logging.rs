//! The log: one line an event on standard error, as a terminal or as systemd's journal wants it.

use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// Starts logging at `level`; what libraries say is told from warnings up only.
pub(super) fn start(level: LevelFilter) {
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("tidegate", level)
        // Whether there are any such lines is for the configuration to say.
        .with_target("audit", LevelFilter::INFO);
    let lines = layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry();
    // systemd says so where standard error is its journal, which stamps the time itself (systemd.exec(5)).
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let plain = format().with_target(false).with_level(false).without_time();
        registry
            .with(lines.event_format(WithPriority(plain)).with_filter(filter))
            .init();
    } else {
        registry
            .with(
                lines
                    .event_format(format().with_target(false))
                    .with_filter(filter),
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
