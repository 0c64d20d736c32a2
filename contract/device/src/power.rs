//! What a guest can ask of the machine as a whole.

/// A request to the machine, made through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Start over, as after the reset button.
    Reset,
    /// Switch off.
    Off,
    /// End the machine with this exit status (a test device's doing).
    Exit(u8),
}

/// Who hears such requests. Must not block: the vCPU that asks is still inside the device.
pub trait Power: Send + Sync {
    /// `event` was asked for through `device`, which is the device's name in a sentence for the
    /// user: "the keyboard controller".
    fn request(&self, event: PowerEvent, device: &'static str);
}
