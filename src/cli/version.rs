//! `tidegate version`: what this program is and what it speaks.

use std::env::consts::{ARCH, OS};

use std::process::ExitCode;

/// Print version, target and protocol versions
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> anyhow::Result<ExitCode> {
    let libc = match () {
        () if cfg!(target_env = "musl") => "musl",
        () if cfg!(target_env = "gnu") => "gnu",
        () => "other",
    };
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let text = format!(
        "tidegate {}\ntarget:    {ARCH} {OS} {libc}, {}-bit\nbuild:     {build}\nprotocols: MQTT 3.1, 3.1.1, 5.0 over TCP and TLS 1.2, 1.3\n",
        env!("CARGO_PKG_VERSION"),
        usize::BITS,
    );
    super::print(|out| out.write_all(text.as_bytes()))
}
