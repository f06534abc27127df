//! One command a file.

pub mod exit;
