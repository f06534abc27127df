//! Which board.
