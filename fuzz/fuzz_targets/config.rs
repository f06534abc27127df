//! The configuration under arbitrary text: it gives settings, or mistakes that stand where they say.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use tidegate::config;

fuzz_target!(|text: &str| {
    // Of this process, so that several may run side by side.
    let path = std::env::temp_dir().join(format!("tidegate-fuzz-{}.toml", std::process::id()));
    fs::write(&path, text).expect("the folder for temporary files takes one");
    let Err(mistakes) = config::load(&path, None) else {
        return;
    };
    assert!(!mistakes.is_empty(), "refused, and nobody is told why");
    let lines = text.lines().count();
    for mistake in mistakes {
        assert!(
            mistake.line <= lines + 1 || mistake.file != path,
            "{mistake} stands in no line"
        );
        assert!(!mistake.message.is_empty());
    }
});
