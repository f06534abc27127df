//! What belongs to one connection and ends with it.

slotmap::new_key_type! {
    /// One connection, by a key that is never used again: a stale one finds nothing and does nothing.
    pub struct LinkId;
}
