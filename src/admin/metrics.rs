//! What the gateway counts, as Prometheus reads it (text exposition format 0.0.4).

use std::fmt::Write as _;

use super::figures::{FIGURES, Figures};
use super::operator::ListenerView;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told of each listener: name, whether it only grows, what it is.
type OfListener = (&'static str, bool, &'static str, fn(&ListenerView) -> u64);

const OF_LISTENERS: &[OfListener] = &[
    (
        "listener_connections",
        false,
        "Connections through this door.",
        |of| of.connections as u64,
    ),
    ("listener_pending", false, "Connections on their way in.", |of| {
        of.pending as u64
    }),
    ("listener_accepted", true, "Connections that got a place.", |of| {
        of.accepted
    }),
    ("listener_refused", true, "Connections closed at once.", |of| {
        of.refused
    }),
];

/// The whole text.
pub fn text(figures: &Figures<'_>, listeners: &[ListenerView], version: &str) -> String {
    let mut text = String::with_capacity(8 * 1024);
    let mut last = "";
    for figure in FIGURES {
        if std::mem::replace(&mut last, figure.name) != figure.name {
            head(&mut text, figure.name, figure.is_counter, figure.about);
        }
        sample(
            &mut text,
            figure.name,
            figure.is_counter,
            figure.label,
            (figure.read)(figures),
        );
    }
    for (name, is_counter, about, read) in OF_LISTENERS {
        head(&mut text, name, *is_counter, about);
        for listener in listeners {
            // A listener with several addresses is several doors of one name.
            let label = format!("{}@{}", listener.name, listener.address);
            sample(
                &mut text,
                name,
                *is_counter,
                Some(("listener", &label)),
                read(listener),
            );
        }
    }
    head(&mut text, "build_info", false, "The version that runs; always 1.");
    sample(&mut text, "build_info", false, Some(("version", version)), 1);
    text
}

fn head(text: &mut String, name: &str, is_counter: bool, about: &str) {
    let (suffix, kind) = if is_counter {
        ("_total", "counter")
    } else {
        ("", "gauge")
    };
    let _ = write!(
        text,
        "# HELP tidegate_{name}{suffix} {about}\n# TYPE tidegate_{name}{suffix} {kind}\n"
    );
}

fn sample(text: &mut String, name: &str, is_counter: bool, label: Option<(&str, &str)>, value: u64) {
    let suffix = if is_counter { "_total" } else { "" };
    let _ = write!(text, "tidegate_{name}{suffix}");
    if let Some((label, content)) = label {
        let _ = write!(text, "{{{label}=\"");
        for character in content.chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '"' | '\\' => text.extend(['\\', character]),
                other => text.push(other),
            }
        }
        text.push_str("\"}");
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut text = String::new();
        sample(&mut text, "x", true, Some(("listener", "a\"b\\c\nd")), 7);
        assert_eq!(text, "tidegate_x_total{listener=\"a\\\"b\\\\c\\nd\"} 7\n");
    }
}
