//! The simulator: the real core with a network, a clock and clients that are simulated, all from one seed, and an
//! oracle that knows the standard and not the code.
//!
//! ```text
//! cargo test --test simulator                            a fixed few seeds
//! SEED=42 cargo test --test simulator seed               replays one, and tells the shortest history that fails
//! SEED=42 STEPS=20000 cargo test --test simulator seed   with more steps than the 10,000 of every world
//! SIM_SECONDS=120 cargo test --profile quick --test simulator volume
//!                                                        as many seeds as fit so many seconds of each processor, other
//!                                                        ones each time; stops at the first that fails
//! SEEDS=10000 FIRST=1 FAILURES=20 cargo test --profile quick --test simulator volume
//!                                                        these seeds; goes on until so many have failed, a line each
//! ```
//!
//! For volume the profile `quick` is meant: it is near the release profile's speed and keeps its debug assertions with
//! `CARGO_PROFILE_QUICK_DEBUG_ASSERTIONS=true`.
//!
//! A failure of a new seed is looked into before it is believed: the oracle has erred in some worlds of ten thousand.
//! What M1 or R1 name is the core's own word against itself.
//!
//! `setup`: what a seed draws before the first step. `acts`: what a step may be. `world`: core, network, clock and
//! clients together. `network`, `clients`: the two that are simulated. `store`, `disk`: where what outlives the
//! process is kept, in the real journal or a list. `oracle`: what has to hold, by the ids that a failure prints.
//! `shrink`: the shortest history that still fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod acts;
#[path = "../conversation/chance.rs"]
#[allow(dead_code, reason = "shared with chapters that use all of it")]
mod chance;
mod clients;
mod disk;
mod network;
mod oracle;
mod setup;
mod shrink;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use world::{draw, run};

/// What the thread that asks has used of the processor.
fn processor_seconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// Steps of a world.
const STEPS: usize = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Runs one seed; whether it failed is told in a line.
fn try_one(seed: u64, steps: usize, walk_every: u64) -> world::Outcome {
    let (setup, history) = draw(seed, steps);
    let outcome = run(&setup, &history, walk_every, false);
    if let Err(violation) = &outcome.held {
        eprintln!(
            "{}: SEED={seed} after {} steps: {}",
            violation.id, outcome.steps, violation.text
        );
    }
    outcome
}

/// Runs one seed; a failure is told with the shortest history that was found.
fn check(seed: u64, steps: usize, walk_every: u64) -> world::Outcome {
    let outcome = try_one(seed, steps, walk_every);
    let Err(violation) = &outcome.held else {
        return outcome;
    };
    let (setup, history) = draw(seed, steps);
    let (setup, history) = shrink::shrink(&setup, &history, violation);
    let told = run(&setup, &history, 1, true);
    eprintln!("{setup:#?}");
    for line in &told.story {
        eprintln!("{line}");
    }
    match told.held {
        Err(violation) => panic!(
            "{}: SEED={seed}, {} acts: {}",
            violation.id,
            history.len(),
            violation.text
        ),
        Ok(()) => panic!("{}: SEED={seed}, but not when told", violation.id),
    }
}

#[test]
fn worlds_keep_every_promise() {
    for seed in 1..=12 {
        check(seed, 1_500, 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=3 {
        let (setup, history) = draw(seed, 1_000);
        let traces = [(); 2].map(|()| run(&setup, &history, 64, false).trace);
        assert_eq!(traces[0], traces[1], "E1: SEED={seed}");
    }
}

#[test]
fn a_seed_is_replayed() {
    if let Some(seed) = number("SEED") {
        let steps = number("STEPS").map_or(STEPS, |steps| steps as usize);
        let outcome = check(seed, steps, 1);
        eprintln!(
            "SEED={seed}: {} steps, {} delivered, {} accepted; {}",
            outcome.steps, outcome.delivered, outcome.accepted, outcome.summary
        );
    }
}

#[test]
fn a_volume_of_seeds_keeps_every_promise() {
    let (seconds, seeds) = (number("SIM_SECONDS"), number("SEEDS"));
    if seconds.is_none() && seeds.is_none() {
        return;
    }
    let steps = number("STEPS").map_or(STEPS, |steps| steps as usize);
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let first = number("FIRST").unwrap_or(since_1970.as_secs() * 1_000);
    let began = Instant::now();
    let failures_max = number("FAILURES").unwrap_or(1);
    let (next, failures) = (AtomicU64::new(first), AtomicU64::new(0));
    let (done, delivered) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = number("THREADS")
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get() as u64));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failures.load(Ordering::Relaxed) < failures_max {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = seeds.is_some_and(|seeds| seed >= first + seeds)
                        || seconds.is_some_and(|seconds| processor_seconds() >= seconds);
                    if is_over {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| match failures_max {
                        1 => check(seed, steps, 32),
                        _ => try_one(seed, steps, 32),
                    });
                    let Ok(outcome) = outcome.map_err(|_| ()).and_then(held) else {
                        failures.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    done.fetch_add(1, Ordering::Relaxed);
                    delivered.fetch_add(outcome.delivered, Ordering::Relaxed);
                }
            });
        }
    });
    let done = done.into_inner();
    eprintln!(
        "{done} worlds of {steps} steps from SEED={first} in {:.1} s, {} messages delivered",
        began.elapsed().as_secs_f64(),
        delivered.into_inner()
    );
    let failures = failures.into_inner();
    assert_eq!(failures, 0, "worlds failed, see above");
}

/// The outcome of a world that kept every promise.
fn held(outcome: world::Outcome) -> Result<world::Outcome, ()> {
    match outcome.held {
        Ok(()) => Ok(outcome),
        Err(_) => Err(()),
    }
}
