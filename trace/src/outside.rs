//! What crosses the line around the devices, apart from accesses: the kinds of inputs and outputs, by
//! the offset in their records.

/// From this kind of input on the record's value names a blob ([`trapline_access::record::Blob`]);
/// below it is what came.
pub const BLOBS: u16 = 0x100;

/// What comes to a device from outside. The number is the offset in the record of `Op::In`; from
/// [`BLOBS`] up the value names a blob, below it is what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Input {
    /// A back end took this many bytes, fewer than it was offered.
    Accepted = 1,
    /// Whether somebody is at the other end of a back end.
    Connected = 2,
    /// UTC at machine time 0, in nanoseconds since 1970, as the host's clock has it now.
    Utc = 3,
    /// A timer expired, by its number.
    Wake = 4,
    /// A back end has something for its device.
    Poll = 5,
    /// A break on the line.
    Break = 6,
    /// A local APIC says that a level-triggered interrupt of this vector has ended.
    Eoi = 7,
    /// The processor acknowledges an external interrupt: the vector it got and one, or 0.
    Acknowledge = 8,
    /// The event loop, or a back end, calls a handler of a device: its number, and in the two lowest bits
    /// what a descriptor is ready for.
    Event = 9,
    /// What the host answered a back end, in that back end's words.
    Answer = 10,
    /// A frame was lost on the host.
    Lost = 11,
    /// How often before in this step the usual answer came to what is asked for by the kind of input in
    /// the upper half.
    Usual = 12,
    /// What the host and guest memory have exchanged without the device looking at it: a hash.
    Exchanged = 13,
    /// Requests to a disk that have stopped the machine are made again.
    Retry = 14,
    /// Bytes from a back end.
    Received = 0x100,
    /// Keys, in scan code set 2.
    Keys = 0x101,
    /// Movement of the mouse: two `i32` and the buttons.
    Movement = 0x102,
    /// What a back end is done with, in its own words: 8 bytes each.
    Arrived = 0x103,
    /// The bytes of [`Input::Exchanged`].
    Payload = 0x104,
    /// What a device has read from guest memory: the address, 8 bytes, and what was there.
    Memory = 0x105,
    /// The terminal has another size: columns and lines, 2 bytes each.
    Resize = 0x106,
}

impl Input {
    const ALL: [Self; 21] = [
        Self::Accepted,
        Self::Connected,
        Self::Utc,
        Self::Wake,
        Self::Poll,
        Self::Break,
        Self::Eoi,
        Self::Acknowledge,
        Self::Event,
        Self::Answer,
        Self::Lost,
        Self::Usual,
        Self::Exchanged,
        Self::Retry,
        Self::Received,
        Self::Keys,
        Self::Movement,
        Self::Arrived,
        Self::Payload,
        Self::Memory,
        Self::Resize,
    ];

    /// The kind with this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|input| *input as u16 == number)
    }

    /// Whether the record names a blob.
    pub const fn is_blob(self) -> bool {
        self as u16 >= BLOBS
    }

    /// Whether it is what a step begins with, and not what a device asks for in the middle of one.
    pub const fn begins(self) -> bool {
        match self {
            Self::Accepted | Self::Connected | Self::Utc | Self::Answer | Self::Lost => false,
            Self::Usual | Self::Exchanged | Self::Received | Self::Arrived => false,
            Self::Payload | Self::Memory => false,
            Self::Wake | Self::Poll | Self::Break | Self::Eoi | Self::Acknowledge => true,
            Self::Event | Self::Retry | Self::Keys | Self::Movement | Self::Resize => true,
        }
    }

    /// What a device is told by it, in words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Accepted => "how many bytes were taken",
            Self::Connected => "whether somebody is there",
            Self::Utc => "what time it is",
            Self::Wake => "that a timer expires",
            Self::Poll => "that there is something to be had",
            Self::Break => "of a break",
            Self::Eoi => "of the end of an interrupt",
            Self::Acknowledge => "of an acknowledge",
            Self::Event => "that a handler is to run",
            Self::Answer => "what the host answers",
            Self::Lost => "that a frame is lost",
            Self::Usual => "nothing unusual",
            Self::Exchanged => "that bytes were exchanged",
            Self::Retry => "to try again",
            Self::Received => "bytes received",
            Self::Keys => "keys",
            Self::Movement => "a movement",
            Self::Arrived => "what is done",
            Self::Payload => "bytes exchanged",
            Self::Memory => "what is in guest memory",
            Self::Resize => "a terminal's size",
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_number_of_its_own_by_which_it_is_found() {
        for input in Input::ALL {
            assert_eq!(Input::of(input as u16), Some(input));
        }
        for output in [Output::Level, Output::Message, Output::Sent, Output::Written] {
            assert_eq!(Output::of(output as u16), Some(output));
        }
        assert_eq!((Input::of(0), Output::of(0)), (None, None));
        assert!(Input::Received.is_blob() && !Input::Received.begins());
        assert!(!Input::Wake.is_blob() && Input::Wake.begins());
    }
}
