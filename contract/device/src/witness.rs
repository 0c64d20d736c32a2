//! What the host answers a device's back end, for who writes it down or knows it from before.

/// Calls who is given to it with bytes, piece by piece.
pub type Pieces<'a> = dyn FnMut(&mut dyn FnMut(&[u8])) + 'a;

/// Who hears what the host answers to a back end, and when. One that knows it from a recording answers
/// itself, and the host is not asked.
///
/// It is told while the device is called, by an access or by the event loop, never by other threads.
pub trait Witness: Send + Sync {
    /// What `ask` asks the host. Most answers are the `usual` one.
    fn answer(&self, usual: u64, ask: &mut dyn FnMut() -> u64) -> u64;

    /// What has come from the host since the last call, in the order in which it is taken: `came`, or
    /// what came at this point of the recording.
    fn arrived(&self, came: Vec<u64>) -> Vec<u64>;

    /// `len` bytes that the host and the guest's memory exchange without the device looking at them, for
    /// whoever wants them: `copy` hands copies on, piece by piece, as a guest can have gigabytes exchanged
    /// at once.
    fn payload(&self, len: u64, copy: &mut Pieces<'_>);
}
