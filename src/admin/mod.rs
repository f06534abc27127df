//! What people and their tools see of the gateway while it runs.
//!
//! - [`server`]: the operator's doors, and who may ask. [`settings`]: what they are told to be. [`http`]: the
//!   protocol, without I/O.
//! - [`api`]: the table of everything that can be asked; `handlers`: how it is answered; [`shapes`]: what answers look
//!   like; `openapi`: the document on it.
//! - [`operator`]: what all of it asks of the gateway. [`log_level`]: how much is logged.
//! - [`figures`]: everything that is counted; [`metrics`]: the same for Prometheus; [`statistics`]: as messages below
//!   `$SYS`.

pub mod api;
pub mod figures;
mod handlers;
pub mod http;
pub mod log_level;
pub mod metrics;
mod openapi;
pub mod operator;
pub mod server;
pub mod settings;
pub mod shapes;
pub mod statistics;
