//! What crosses the line around the devices, apart from accesses: the kinds of inputs and outputs, by
//! the offset in their records.

/// From this kind of input on the record's value names a blob ([`trapline_access::record::Blob`]);
/// below it is what came.
pub const BLOBS: u16 = 0x100;

/// What a device does to the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Output {
    /// An interrupt line has changed; the value is its number, shifted left by one, and its level.
    Level = 1,
    /// A message-signalled interrupt; the value is a hash of address and data.
    Message = 2,
    /// Bytes were sent to a back end; the value is their number, shifted left by 32, and CRC-32C.
    Sent = 3,
}

impl Output {
    /// The kind of this number.
    pub const fn of(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Level),
            2 => Some(Self::Message),
            3 => Some(Self::Sent),
            _ => None,
        }
    }
}
