//! The shortest history that still breaks the same invariant: parts are left out as long as it does, larger parts
//! first.

use std::time::{Duration, Instant};

use crate::acts::Act;
use crate::oracle::Violation;
use crate::setup::Setup;
use crate::world::run;

/// What is spent on it at most: a longer history is better than none.
const TIME_MAX: Duration = Duration::from_secs(40);

/// A history of `setup` that breaks the same invariant, as short as it was found to get.
pub fn shrink(setup: &Setup, history: &[Act], found: &Violation) -> (Setup, Vec<Act>) {
    let began = Instant::now();
    let breaks = |setup: &Setup, history: &[Act]| {
        began.elapsed() < TIME_MAX
            && run(setup, history, 1, false)
                .held
                .is_err_and(|violation| (violation.id, violation.line) == (found.id, found.line))
    };
    let mut setup = setup.clone();
    let mut history = history.to_vec();
    // Nothing behind the break is needed, unless it shows only when all is healed.
    let steps = run(&setup, &history, 1, false).steps;
    if steps < history.len() {
        let shorter = &history[..=steps];
        if breaks(&setup, shorter) {
            history.truncate(steps + 1);
        }
    }
    let mut part = history.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let before = history.len();
        while at < history.len() {
            let mut shorter = history.clone();
            shorter.drain(at..(at + part).min(history.len()));
            match breaks(&setup, &shorter) {
                true => history = shorter,
                false => at += part,
            }
        }
        let is_done = part == 1 && history.len() == before;
        if is_done {
            break;
        }
        part = if part > 1 { part.div_ceil(2) } else { 1 };
        if part > history.len().max(1) {
            part = history.len().max(1);
        }
    }
    // A network that keeps nothing back makes a shorter story.
    let plainer = Setup {
        delays: false,
        ..setup.clone()
    };
    if breaks(&plainer, &history) {
        setup = plainer;
    }
    (setup, history)
}
