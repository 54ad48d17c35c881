//! How long work tells how far it is.

/// Hears of a work's steps; called from several threads at once.
pub trait Progress: Sync {
    /// A step of `total` parts begins; `unit` says what is done to them (`files hashed`).
    fn begin(&self, unit: &'static str, total: u64);

    /// One part more of the current step is done.
    fn advance(&self);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self) {}
}
