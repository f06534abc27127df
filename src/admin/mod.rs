//! What people and their tools see of the gateway while it runs.
//!
//! - [`statistics`]: the counters of the broker as messages below `$SYS`.

pub mod statistics;
