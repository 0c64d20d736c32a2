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
    /// Bytes were written to guest memory; the value is their number and that of an address, shifted left by
    /// 32, and CRC-32C of both.
    Written = 4,
}

impl Output {
    /// The kind of this number.
    pub const fn of(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Level),
            2 => Some(Self::Message),
            3 => Some(Self::Sent),
            4 => Some(Self::Written),
            _ => None,
        }
    }
}

/// What a device takes from outside, in words, by the number of the kind.
pub(crate) fn input(kind: u16) -> &'static str {
    match kind {
        1 => "how many bytes were taken",
        2 => "whether somebody is there",
        3 => "what time it is",
        4 => "that a timer expires",
        5 => "that there is something to be had",
        6 => "of a break",
        7 => "of the end of an interrupt",
        8 => "of an acknowledge",
        9 => "that a handler is to run",
        10 => "what the host answers",
        11 => "that a frame is lost",
        12 => "nothing unusual",
        13 => "that bytes were exchanged",
        14 => "to try again",
        0x100 => "bytes received",
        0x101 => "keys",
        0x102 => "a movement",
        0x103 => "what is done",
        0x104 => "bytes exchanged",
        0x105 => "what is in guest memory",
        0x106 => "a terminal's size",
        _ => "something",
    }
}
