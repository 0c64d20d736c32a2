//! The life of a device beyond its accesses.

/// The life of a device beyond its accesses.
pub trait Device: Send + Sync {
    /// Puts the device in its power-on state and its outputs with it. Called with every vCPU
    /// stopped.
    fn reset(&self);
}
