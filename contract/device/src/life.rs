//! [`Device`], the trait of every device with state: reset.

/// A device with state, which can be reset.
pub trait Device: Send + Sync {
    /// Puts the device in its power-on state and its outputs with it. Called with every vCPU
    /// stopped.
    fn reset(&self);
}
