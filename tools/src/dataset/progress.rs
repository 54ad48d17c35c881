//! How long work tells how far it is.

/// Hears of a work's steps; called from several threads at once.
pub trait Progress: Sync {
    /// A step begins: `what` is done to `total` things.
    fn begin(&self, what: &'static str, total: u64);

    /// One thing more of the current step is done.
    fn advance(&self);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self) {}
}
