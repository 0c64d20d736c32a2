//! The wire: commands, responses, and the two layouts of a command.
//!
//! ```text
//!  byte      0        1         2..8        8..16       16..24   24..32
//!  v3        command  size|resp padding     user_data   offset   data
//!  v1, v2    info (32 bits) , padding (32)  user_data   offset   data
//!  response  data (64 bits), padding (192)
//! ```
//!
//! Numbers are little-endian, which is the host's order wherever KVM runs today. A command's layout
//! is known by the command itself: in v1 and v2 all that `info` says is in byte 0, so byte 1 is zero,
//! and where it is zero in v3, too, both mean the same.
//!
//! What is beyond the patches is agreed on first, by a command of its own ([`Hello`]), which nobody sends
//! to a device that was not said to know it:
//!
//! ```text
//!  byte      0        1     2..4     4..8   8..16        16..24   24..32
//!  hello     0xf      0x13  padding  0      0            0        features that are wanted
//!  answer    features that are granted (64 bits), padding (192)
//!  command   as v3, with an id in bytes 4..8
//!  response  data (64 bits), id (32 bits), status (8 bits), padding (152)
//! ```
//!
//! What was written to a region without data (`KVM_IOREGION_FAST_MMIO`) is size 0 and data 0, which
//! is also a write of one zero byte: `user_data` tells the device which region it is.

use core::fmt;

/// Bytes of a command.
pub const COMMAND_LEN: usize = 32;
/// Bytes of a response.
pub const RESPONSE_LEN: usize = 32;

/// `IOREGIONFD_CMD_READ`.
const READ: u8 = 0;
/// `IOREGIONFD_CMD_WRITE`.
const WRITE: u8 = 1;

/// The command that is a [`Hello`].
const HELLO: u8 = 0xf;
/// Where a command has its id, and a response.
const ID: core::ops::Range<usize> = 4..8;
const RESPONSE_ID: core::ops::Range<usize> = 8..12;
const RESPONSE_STATUS: usize = 12;

/// v1, v2: where `info` has the exponent of the size, and whether a response is wanted.
const INFO_SIZE_SHIFT: u32 = 4;
const INFO_RESP: u8 = 1 << 6;
/// v3: the same in byte 1.
const RESP: u8 = 1 << 4;
const EXPONENT: u8 = 0xf;

/// How a command is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Of v1 and v2: a 32-bit `info`.
    V1,
    /// Of v3: a byte for the command and one for size and response.
    #[default]
    V3,
}

/// The width of an access: `IOREGIONFD_SIZE_8BIT` and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Width {
    /// 8 bits; also what was written to a region without data.
    #[default]
    Bits8 = 0,
    /// 16 bits.
    Bits16 = 1,
    /// 32 bits.
    Bits32 = 2,
    /// 64 bits.
    Bits64 = 3,
}

impl Width {
    /// The width of that exponent: 2 to its power is the number of bytes.
    pub const fn new(exponent: u8) -> Option<Self> {
        match exponent {
            0 => Some(Self::Bits8),
            1 => Some(Self::Bits16),
            2 => Some(Self::Bits32),
            3 => Some(Self::Bits64),
            _ => None,
        }
    }

    /// Width in bytes.
    pub const fn bytes(self) -> usize {
        1 << self as u8
    }

    /// All ones of this width.
    pub const fn ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A read, to be answered with its value.
    Read,
    /// A write of [`Command::data`].
    Write,
}

/// One access of the guest (`struct ioregionfd_cmd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Read or write.
    pub op: Op,
    /// How wide.
    pub width: Width,
    /// Whether a response is wanted. A read always wants one, a write unless it is posted.
    pub respond: bool,
    /// What the region was registered with.
    pub user_data: u64,
    /// The offset in the region, in bytes.
    pub offset: u64,
    /// What is written, zero above the width; zero of a read.
    pub data: u64,
}

/// The answer to a command (`struct ioregionfd_resp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Response {
    /// What was read; of no meaning for a write.
    pub data: u64,
}

/// What goes beyond the patches: a set of [`Features::IDS`] and [`Features::RING`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

impl Features {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Commands have ids, and responses say which they answer and whether the device could: several
    /// can be on their way at a time, and be answered in any order.
    pub const IDS: Self = Self(1 << 0);
    /// Commands and responses go through memory that both ends have mapped.
    pub const RING: Self = Self(1 << 1);
    /// Both.
    pub const ALL: Self = Self::IDS.or(Self::RING);

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` are among them.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As they go over the wire.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Those of these bits that are known here.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }
}

/// The first command of a VMM that wants [`Features`]: answered by those it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it wants.
    pub features: Features,
}

impl Hello {
    /// The bytes of the command.
    pub fn encode(self) -> [u8; COMMAND_LEN] {
        let head = u64::from_le_bytes([HELLO, RESP | Width::Bits64 as u8, 0, 0, 0, 0, 0, 0]);
        bytes([head, 0, 0, self.features.bits()])
    }

    /// The hello in `bytes`, if they are one.
    pub fn decode(bytes: &[u8; COMMAND_LEN]) -> Option<Self> {
        let [head, 0, 0, features] = words(bytes) else { return None };
        let is_hello = head.to_le_bytes() == [HELLO, RESP | Width::Bits64 as u8, 0, 0, 0, 0, 0, 0];
        is_hello.then_some(Self { features: Features::from_bits(features) })
    }
}

/// The answer to a command with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Which command it answers.
    pub id: u32,
    /// What was read; of no meaning for a write, and where the device failed.
    pub data: u64,
    /// Whether the device could not do what it was asked: a read gives all ones.
    pub failed: bool,
}

impl Reply {
    /// The bytes of the response.
    pub fn encode(self) -> [u8; RESPONSE_LEN] {
        let status = u64::from(self.failed) << 32;
        bytes([self.data, u64::from(self.id) | status, 0, 0])
    }

    /// The reply in `bytes`. Any status but 0 is a failure.
    pub fn decode(bytes: &[u8; RESPONSE_LEN]) -> Self {
        let [data, ..] = words(bytes);
        let id = number(bytes.get(RESPONSE_ID).unwrap_or_default());
        Self { id, data, failed: bytes.get(RESPONSE_STATUS).is_some_and(|status| *status != 0) }
    }
}

/// Why 32 bytes are no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// There is no such command.
    Command(u8),
    /// There is no such size; its exponent.
    Size(u8),
    /// A bit is set that has no meaning, in this byte.
    Reserved(usize),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(number) => write!(f, "there is no command {number}"),
            Self::Size(exponent) => write!(f, "no access has 2 to the {exponent} bytes"),
            Self::Reserved(byte) => write!(f, "a reserved bit of byte {byte} is set"),
        }
    }
}

impl core::error::Error for WireError {}

impl Command {
    /// The bytes of the command. Data above its width, and of a read, does not go out.
    pub fn encode(&self, layout: Layout) -> [u8; COMMAND_LEN] {
        let number = match self.op {
            Op::Read => READ,
            Op::Write => WRITE,
        };
        let exponent = self.width as u8;
        let (first, second) = match layout {
            Layout::V1 => {
                let respond = if self.respond { INFO_RESP } else { 0 };
                (number | exponent << INFO_SIZE_SHIFT | respond, 0)
            }
            Layout::V3 => (number, exponent | if self.respond { RESP } else { 0 }),
        };
        let data = match self.op {
            Op::Read => 0,
            Op::Write => self.data & self.width.ones(),
        };
        let head = u64::from_le_bytes([first, second, 0, 0, 0, 0, 0, 0]);
        bytes([head, self.user_data, self.offset, data])
    }

    /// The bytes of the command with an id, in v3.
    pub fn encode_with_id(&self, id: u32) -> [u8; COMMAND_LEN] {
        let mut bytes = self.encode(Layout::V3);
        let place = bytes.get_mut(ID).unwrap_or_default();
        place.iter_mut().zip(id.to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The command with an id in `bytes`, and the id.
    ///
    /// # Errors
    /// The bytes are no command of v3.
    pub fn decode_with_id(bytes: &[u8; COMMAND_LEN]) -> Result<(Self, u32), WireError> {
        let mut plain = *bytes;
        plain.get_mut(ID).unwrap_or_default().fill(0);
        let (command, layout) = Self::decode(&plain)?;
        match layout {
            Layout::V3 => Ok((command, number(bytes.get(ID).unwrap_or_default()))),
            Layout::V1 => Err(WireError::Command(bytes.first().copied().unwrap_or_default())),
        }
    }

    /// The command in `bytes`, and how it is laid out: v3 where that makes no difference.
    ///
    /// # Errors
    /// The bytes are no command in either layout.
    pub fn decode(bytes: &[u8; COMMAND_LEN]) -> Result<(Self, Layout), WireError> {
        let [head, user_data, offset, data] = words(bytes);
        let [first, second, padding @ ..] = head.to_le_bytes();
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            return Err(WireError::Reserved(2 + at));
        }
        let v3 = second != 0 || first <= WRITE;
        let (layout, number, exponent, respond, reserved) = if v3 {
            let reserved = (second & !(RESP | EXPONENT) != 0).then_some(1);
            (Layout::V3, first, second & EXPONENT, second & RESP != 0, reserved)
        } else {
            let reserved = (first & 1 << 7 != 0).then_some(0);
            let exponent = first >> INFO_SIZE_SHIFT & 3;
            (Layout::V1, first & EXPONENT, exponent, first & INFO_RESP != 0, reserved)
        };
        if let Some(byte) = reserved {
            return Err(WireError::Reserved(byte));
        }
        let op = match number {
            READ => Op::Read,
            WRITE => Op::Write,
            _ => return Err(WireError::Command(number)),
        };
        let width = Width::new(exponent).ok_or(WireError::Size(exponent))?;
        let data = if op == Op::Read { 0 } else { data & width.ones() };
        Ok((Self { op, width, respond, user_data, offset, data }, layout))
    }
}

impl Response {
    /// The bytes of the response.
    pub fn encode(self) -> [u8; RESPONSE_LEN] {
        let mut bytes = [0; RESPONSE_LEN];
        bytes.iter_mut().zip(self.data.to_le_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The response in `bytes`. What is behind its data is padding, which nobody promised is zero.
    pub fn decode(bytes: &[u8; RESPONSE_LEN]) -> Self {
        let [data, ..] = words(bytes);
        Self { data }
    }
}

/// A little-endian number of 32 bits.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A command or a response of these numbers.
fn bytes(words: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let words = words.map(u64::to_le_bytes);
    bytes.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
    bytes
}

/// The numbers of which a command and a response are made.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    let (eights, _) = bytes.as_chunks::<8>();
    words.iter_mut().zip(eights).for_each(|(to, from)| *to = u64::from_le_bytes(*from));
    words
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;
    use std::vec::Vec;

    use super::*;

    const USER_DATA: u64 = 0x1122_3344_5566_7788;
    const WIDTHS: [Width; 4] = [Width::Bits8, Width::Bits16, Width::Bits32, Width::Bits64];

    fn command(op: Op, width: Width, respond: bool) -> Command {
        let data = if op == Op::Write { 0x8899_aabb_dead_beef & width.ones() } else { 0 };
        Command { op, width, respond, user_data: USER_DATA, offset: 0x10, data }
    }

    fn all() -> Vec<Command> {
        let ops = [Op::Read, Op::Write].into_iter();
        ops.flat_map(|op| WIDTHS.map(|width| (op, width)))
            .flat_map(|(op, width)| [true, false].map(|respond| command(op, width, respond)))
            .collect()
    }

    /// The golden bytes, taken from the structs of the patches as a C compiler lays them out.
    #[test]
    fn commands_are_what_the_patches_structs_are() {
        let tail = |data: [u8; 8]| {
            let mut tail = [0_u8; 24];
            tail[..8].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
            tail[8] = 0x10;
            tail[16..].copy_from_slice(&data);
            tail
        };
        let (read, write) = (tail([0; 8]), tail([0xef, 0xbe, 0xad, 0xde, 0, 0, 0, 0]));
        for (op, respond, layout, head, tail) in [
            (Op::Read, true, Layout::V1, [0x60, 0], read),
            (Op::Write, true, Layout::V1, [0x61, 0], write),
            (Op::Write, false, Layout::V1, [0x21, 0], write),
            (Op::Read, true, Layout::V3, [0x00, 0x12], read),
            (Op::Write, true, Layout::V3, [0x01, 0x12], write),
            (Op::Write, false, Layout::V3, [0x01, 0x02], write),
        ] {
            let bytes = command(op, Width::Bits32, respond).encode(layout);
            assert_eq!(
                (&bytes[..2], &bytes[2..8], &bytes[8..]),
                (&head[..], &[0; 6][..], &tail[..])
            );
        }
        let response = Response { data: 0x0102_0304_0506_0708 }.encode();
        assert_eq!((&response[..8], &response[8..]), (&[8, 7, 6, 5, 4, 3, 2, 1][..], &[0; 24][..]));
        assert_eq!(Response::decode(&response).data, 0x0102_0304_0506_0708);
    }

    #[test]
    fn every_encoding_tells_its_layout_and_the_two_shared_ones_mean_the_same() {
        let mut heads = HashMap::new();
        for command in all() {
            for layout in [Layout::V1, Layout::V3] {
                let bytes = command.encode(layout);
                let (decoded, told) = Command::decode(&bytes).unwrap();
                assert_eq!(decoded, command);
                let shared = bytes[1] == 0 && bytes[0] < 2;
                assert_eq!(told, if shared { Layout::V3 } else { layout }, "{command:?}");
                let head = (bytes[0], bytes[1]);
                let before = heads.insert(head, command);
                assert!(before.is_none_or(|before| before == command), "{head:?} is two commands");
            }
        }
        assert_eq!(heads.len(), 30, "32 encodings, of which two pairs are the same");
    }

    /// All 65,536 beginnings: what is taken is what one of the layouts makes of some command.
    #[test]
    fn a_beginning_that_no_command_has_is_refused() {
        let taken: Vec<[u8; 2]> = all()
            .into_iter()
            .flat_map(|c| [c.encode(Layout::V1), c.encode(Layout::V3)])
            .map(|bytes| [bytes[0], bytes[1]])
            .collect();
        for head in 0..=u16::MAX {
            let head = head.to_le_bytes();
            let mut bytes = [0; COMMAND_LEN];
            bytes[..2].copy_from_slice(&head);
            let decoded = Command::decode(&bytes);
            assert_eq!(decoded.is_ok(), taken.contains(&head), "{head:?}: {decoded:?}");
        }
        let refused = |at: usize, value: u8| {
            let mut bytes = command(Op::Write, Width::Bits32, true).encode(Layout::V3);
            bytes[at] = value;
            Command::decode(&bytes).unwrap_err()
        };
        assert_eq!(refused(0, 2), WireError::Command(2));
        assert_eq!(refused(1, 0x14), WireError::Size(4));
        assert_eq!(refused(1, 0x32), WireError::Reserved(1));
        for at in 2..8 {
            assert_eq!(refused(at, 1), WireError::Reserved(at));
        }
        let mut bytes = command(Op::Write, Width::Bits32, true).encode(Layout::V1);
        bytes[0] |= 0x80;
        assert_eq!(Command::decode(&bytes), Err(WireError::Reserved(0)));
        bytes[0] = 0x62;
        assert_eq!(Command::decode(&bytes), Err(WireError::Command(2)));
    }

    #[test]
    fn data_is_as_wide_as_the_access_and_a_read_has_none() {
        let wide = Command { data: u64::MAX, ..command(Op::Write, Width::Bits16, true) };
        for layout in [Layout::V1, Layout::V3] {
            let mut bytes = wide.encode(layout);
            assert_eq!(bytes[24..], [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
            // Whoever sends more is not believed.
            bytes[24..].fill(0xff);
            assert_eq!(Command::decode(&bytes).unwrap().0.data, 0xffff);
            let read = Command { op: Op::Read, ..wide };
            assert_eq!(read.encode(layout)[24..], [0; 8]);
        }
    }

    #[test]
    fn what_is_beyond_the_patches_has_its_bytes() {
        let hello = Hello { features: Features::ALL };
        let mut golden = [0; COMMAND_LEN];
        (golden[0], golden[1], golden[24]) = (0x0f, 0x13, 3);
        assert_eq!(hello.encode(), golden);
        assert_eq!(Hello::decode(&golden), Some(hello));
        // A device of before knows that it is no command.
        assert_eq!(Command::decode(&golden), Err(WireError::Command(0xf)));
        for at in 0..24 {
            let mut other = golden;
            other[at] ^= 1;
            assert_eq!(Hello::decode(&other), None, "byte {at}");
        }
        // Features of after are not known.
        golden[24] = 0xff;
        assert_eq!(Hello::decode(&golden), Some(hello));

        let id = 0x8899_aabb;
        let bytes = command(Op::Write, Width::Bits32, true).encode_with_id(id);
        assert_eq!(bytes[..8], [1, 0x12, 0, 0, 0xbb, 0xaa, 0x99, 0x88]);
        for command in all() {
            assert_eq!(Command::decode_with_id(&command.encode_with_id(id)), Ok((command, id)));
            let v1 = command.encode(Layout::V1);
            let same = v1 == command.encode(Layout::V3);
            assert_eq!(Command::decode_with_id(&v1).is_ok(), same, "{command:?}");
        }
        let reply = Reply { id, data: 7, failed: true };
        let bytes = reply.encode();
        assert_eq!(bytes[..16], [7, 0, 0, 0, 0, 0, 0, 0, 0xbb, 0xaa, 0x99, 0x88, 1, 0, 0, 0]);
        assert_eq!(bytes[16..], [0; 16]);
        assert_eq!(Reply::decode(&bytes), reply);
        assert!(!Reply::decode(&Reply { failed: false, ..reply }.encode()).failed);
    }
}
