//! One access, or one event beside the accesses, in 16 bytes: what a ring of recent accesses and the
//! file of a recording are made of.
//!
//! ```text
//! word 0   bits 0..7   operation        word 1   value: what was read or written, zero-extended
//!          8..23  slot
//!          24..39 offset in the slot
//!          40..63 time since the previous record of the stream, in ticks of 16 ns
//! ```
//!
//! A record does not say who made the access: that is the stream's to say, of which each vCPU has
//! one. A slot is 64 KiB of a region (or of addresses that nobody has claimed); the recording lists
//! which. Of a string access the elements follow its record, 16 bytes in the place of each record,
//! see [`Record::raw_records`].

use std::fmt;

use crate::{Direction, Size, Space};

/// A tick of [`Record::delta`], in nanoseconds.
pub const TICK_NS: u64 = 16;

/// One record, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub op: Op,
    /// Of an access the slot, of [`Op::Turn`], [`Op::In`] and [`Op::Out`] the device; 0 otherwise.
    pub slot: u16,
    /// Offset in the slot, in bytes. Of inputs and outputs, which kind: the device's to number.
    pub offset: u16,
    /// Time since the previous record of the stream, in ticks of [`TICK_NS`]: below
    /// [`Record::DELTA_END`]. After a longer time an [`Op::Time`] comes first.
    pub delta: u32,
    /// What was read or written, or what [`Op`] says; below [`Record::SHORT_END`] for [`Op::Odd`] and
    /// [`Op::String`].
    pub value: u64,
}

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// An access of 1, 2, 4 or 8 bytes. The value is what was read or written.
    Access(Access),
    /// An access of another length, as KVM hands them out. The value is what was read or written.
    Odd {
        /// Its direction.
        direction: Direction,
        /// Its length in bytes.
        len: OddLen,
        /// The space of its address.
        space: Space,
        /// What became of it.
        outcome: Outcome,
    },
    /// `rep ins` or `rep outs`: the value is its length in bytes, which [`Record::raw_records`]
    /// records of data follow. Its size is that of one element.
    String(Access),
    /// The value is the time in nanoseconds: what the next record counts from. Its own delta is 0.
    Time,
    /// A doorbell in the kernel rang as often as the value says since the last such record.
    Rang,
    /// The map of the generation in the value begins.
    Edit,
    /// The turn at a device (in the slot) came to this stream; the value counts the device's turns.
    Turn,
    /// A device (in the slot) took an input: of kinds (in the offset) from 0x100 up see [`Blob`], of
    /// those below the value is the input.
    In,
    /// A device (in the slot) made an output: as [`Op::In`].
    Out,
    /// The vCPU was stopped.
    Stop,
    /// The machine was reset.
    Reset,
    /// A snapshot was made; the value is its number in the recording.
    Snapshot,
    /// The value is how many records are missing here.
    Lost,
}

/// Direction, width, space and outcome of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// Its direction.
    pub direction: Direction,
    /// Its width, of a string that of one element.
    pub size: Size,
    /// The space of its address.
    pub space: Space,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The handler answered.
    Handled = 0,
    /// A write that had been queued up reached the handler now.
    Coalesced = 1,
    /// A doorbell was rung by this process.
    Rang = 2,
    /// Another process answered.
    Forwarded = 3,
    /// The region had gone when a queued write came.
    Gone = 4,
    /// The region does not take accesses of this shape.
    Refused = 5,
    /// Nobody has claimed the address.
    Unclaimed = 6,
    /// Its parts fared differently.
    Mixed = 7,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Handled,
        Self::Coalesced,
        Self::Rang,
        Self::Forwarded,
        Self::Gone,
        Self::Refused,
        Self::Unclaimed,
        Self::Mixed,
    ];

    /// The outcome of three bits; higher ones are ignored.
    const fn of(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Handled,
            1 => Self::Coalesced,
            2 => Self::Rang,
            3 => Self::Forwarded,
            4 => Self::Gone,
            5 => Self::Refused,
            6 => Self::Unclaimed,
            _ => Self::Mixed,
        }
    }

    /// All outcomes, in the order of their numbers.
    pub const fn all() -> [Self; 8] {
        Self::ALL
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Handled => "handled",
            Self::Coalesced => "coalesced",
            Self::Rang => "rang",
            Self::Forwarded => "forwarded",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unclaimed => "unclaimed",
            Self::Mixed => "mixed",
        })
    }
}

/// The length of an access that is no [`Size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OddLen {
    /// 3 bytes.
    Three = 3,
    /// 5 bytes.
    Five = 5,
    /// 6 bytes.
    Six = 6,
    /// 7 bytes.
    Seven = 7,
}

impl OddLen {
    /// The length of `bytes` bytes, if it is one of these.
    pub const fn new(bytes: usize) -> Option<Self> {
        match bytes {
            3 => Some(Self::Three),
            5 => Some(Self::Five),
            6 => Some(Self::Six),
            7 => Some(Self::Seven),
            _ => None,
        }
    }

    /// Length in bytes.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    const fn code(self) -> u8 {
        match self {
            Self::Three => 0,
            Self::Five => 1,
            Self::Six => 2,
            Self::Seven => 3,
        }
    }

    const fn of(code: u8) -> Self {
        match code & 3 {
            0 => Self::Three,
            1 => Self::Five,
            2 => Self::Six,
            _ => Self::Seven,
        }
    }
}

/// Where the bytes of an input or output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Length in bytes.
    pub len: u32,
    /// The number of the blob in the recording that has them.
    pub number: u32,
}

impl Blob {
    /// As a record's value.
    pub const fn value(self) -> u64 {
        (self.number as u64) << 32 | self.len as u64
    }

    /// Out of a record's value.
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    pub const fn of(value: u64) -> Self {
        Self { len: value as u32, number: (value >> 32) as u32 }
    }
}

/// An operation that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOp(pub u8);

impl fmt::Display for UnknownOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown operation {:#04x}", self.0)
    }
}

impl std::error::Error for UnknownOp {}

// Operations from 0x80 up. Odd lengths and strings have their direction, length and space in the
// low four bits; their outcome is in the highest byte of the value, which they do not need.
const TIME: u8 = 0x80;
const RANG: u8 = 0x81;
const EDIT: u8 = 0x82;
const TURN: u8 = 0x83;
const IN: u8 = 0x84;
const OUT: u8 = 0x85;
const STOP: u8 = 0x86;
const RESET: u8 = 0x87;
const SNAPSHOT: u8 = 0x88;
const LOST: u8 = 0x89;
const ODD: u8 = 0x90;
const STRING: u8 = 0xa0;
/// Where the outcome of odd lengths and strings is in the value.
const OUTCOME_SHIFT: u32 = 56;

impl Record {
    /// Bytes of a record.
    pub const LEN: usize = 16;
    /// What [`Record::delta`] stays below: 2^24 ticks, 268 ms.
    pub const DELTA_END: u32 = 1 << 24;
    /// What the value of odd lengths and strings stays below: 2^56.
    pub const SHORT_END: u64 = 1 << OUTCOME_SHIFT;

    /// The record as two words. Of numbers that are out of their bounds the low bits are kept.
    #[inline]
    pub const fn encode(self) -> [u64; 2] {
        let mut value = self.value;
        let op = match self.op {
            Op::Access(access) => access.shape() | (access.outcome as u8) << 4,
            Op::Odd { direction, len, space, outcome } => {
                value = short(value, outcome);
                ODD | direction as u8 | len.code() << 1 | (space as u8) << 3
            }
            Op::String(access) => {
                value = short(value, access.outcome);
                STRING | access.shape()
            }
            Op::Time => TIME,
            Op::Rang => RANG,
            Op::Edit => EDIT,
            Op::Turn => TURN,
            Op::In => IN,
            Op::Out => OUT,
            Op::Stop => STOP,
            Op::Reset => RESET,
            Op::Snapshot => SNAPSHOT,
            Op::Lost => LOST,
        };
        let place = (self.slot as u64) << 8 | (self.offset as u64) << 24;
        [op as u64 | place | (self.delta as u64) << 40, value]
    }

    /// The record of two words.
    ///
    /// # Errors
    /// When the operation is not one of ours.
    #[expect(clippy::cast_possible_truncation, reason = "the fields of the word")]
    pub const fn decode([word, value]: [u64; 2]) -> Result<Self, UnknownOp> {
        let code = word as u8;
        let mut number = value;
        let op = match code {
            0..=0x7f => Op::Access(Access::of(code, Outcome::of(code >> 4))),
            TIME => Op::Time,
            RANG => Op::Rang,
            EDIT => Op::Edit,
            TURN => Op::Turn,
            IN => Op::In,
            OUT => Op::Out,
            STOP => Op::Stop,
            RESET => Op::Reset,
            SNAPSHOT => Op::Snapshot,
            LOST => Op::Lost,
            0x90..=0xaf => {
                number = value & (Self::SHORT_END - 1);
                let outcome = Outcome::of((value >> OUTCOME_SHIFT) as u8);
                let Access { direction, space, .. } = Access::of(code, outcome);
                if code & 0xf0 == ODD {
                    Op::Odd { direction, len: OddLen::of(code >> 1), space, outcome }
                } else {
                    Op::String(Access::of(code, outcome))
                }
            }
            _ => return Err(UnknownOp(code)),
        };
        let (slot, offset) = ((word >> 8) as u16, (word >> 24) as u16);
        Ok(Self { op, slot, offset, delta: (word >> 40) as u32, value: number })
    }

    /// The record as it is in a file: both words little-endian.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        bytes_of(self.encode())
    }

    /// The record of these bytes.
    ///
    /// # Errors
    /// When the operation is not one of ours.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Result<Self, UnknownOp> {
        Self::decode(words_of(bytes))
    }

    /// How many records' places after this one are data: those of a string's elements.
    #[inline]
    pub const fn raw_records(&self) -> u64 {
        match self.op {
            Op::String(_) => self.value.div_ceil(Self::LEN as u64),
            _ => 0,
        }
    }

    /// Direction, length in bytes, space and outcome, if it is an access. Of a string the length is
    /// that of one element.
    pub const fn access(&self) -> Option<(Direction, usize, Space, Outcome)> {
        match self.op {
            Op::Access(access) | Op::String(access) => {
                Some((access.direction, access.size.bytes(), access.space, access.outcome))
            }
            Op::Odd { direction, len, space, outcome } => {
                Some((direction, len.bytes(), space, outcome))
            }
            _ => None,
        }
    }
}

/// Two words as bytes of a file.
pub fn bytes_of([low, high]: [u64; 2]) -> [u8; Record::LEN] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// Two words out of bytes of a file.
#[expect(clippy::cast_possible_truncation, reason = "its two halves")]
pub const fn words_of(bytes: [u8; Record::LEN]) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes);
    [both as u64, (both >> 64) as u64]
}

impl Access {
    #[inline]
    const fn shape(self) -> u8 {
        let width = match self.size {
            Size::Byte => 0,
            Size::Word => 1,
            Size::Dword => 2,
            Size::Qword => 3,
        };
        self.direction as u8 | width << 1 | (self.space as u8) << 3
    }

    const fn of(code: u8, outcome: Outcome) -> Self {
        let direction = if code & 1 == 0 { Direction::Read } else { Direction::Write };
        let space = if code & 8 == 0 { Space::Mmio } else { Space::Pio };
        let size = match code >> 1 & 3 {
            0 => Size::Byte,
            1 => Size::Word,
            2 => Size::Dword,
            _ => Size::Qword,
        };
        Self { direction, size, space, outcome }
    }
}

#[inline]
const fn short(value: u64, outcome: Outcome) -> u64 {
    value & (Record::SHORT_END - 1) | (outcome as u64) << OUTCOME_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_op() -> Vec<Op> {
        let mut ops = vec![
            Op::Time,
            Op::Rang,
            Op::Edit,
            Op::Turn,
            Op::In,
            Op::Out,
            Op::Stop,
            Op::Reset,
            Op::Snapshot,
            Op::Lost,
        ];
        for direction in [Direction::Read, Direction::Write] {
            for space in [Space::Mmio, Space::Pio] {
                for outcome in Outcome::all() {
                    for size in [Size::Byte, Size::Word, Size::Dword, Size::Qword] {
                        let access = Access { direction, size, space, outcome };
                        ops.extend([Op::Access(access), Op::String(access)]);
                    }
                    for len in [3, 5, 6, 7].into_iter().filter_map(OddLen::new) {
                        ops.push(Op::Odd { direction, len, space, outcome });
                    }
                }
            }
        }
        ops
    }

    #[test]
    fn every_record_comes_back_as_it_was() {
        for op in every_op() {
            let short = matches!(op, Op::String(_) | Op::Odd { .. });
            let value = if short { 0x5a_bcde_f012_3456 } else { 0xf123_4567_89ab_cdef };
            let record = Record { op, slot: 0xfedc, offset: 0xba98, delta: 0xc0_ffee, value };
            assert_eq!(Record::decode(record.encode()), Ok(record));
            assert_eq!(Record::from_bytes(record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn an_operation_has_one_code_and_other_codes_are_refused() {
        let mut codes = std::collections::BTreeSet::new();
        for op in every_op() {
            let [word, _] = Record { op, slot: 0, offset: 0, delta: 0, value: 0 }.encode();
            codes.insert(word);
        }
        assert_eq!(codes.len(), 128 + 10 + 16 + 16);
        for code in 0..=0xff_u8 {
            let known = codes.contains(&u64::from(code));
            let decoded = Record::decode([u64::from(code), 0]);
            assert_eq!(decoded.is_ok(), known, "{code:#x}");
            assert!(known || decoded == Err(UnknownOp(code)));
        }
    }

    #[test]
    fn the_fields_are_where_the_format_has_them() {
        let access = Access {
            direction: Direction::Write,
            size: Size::Dword,
            space: Space::Pio,
            outcome: Outcome::Refused,
        };
        let op = Op::Access(access);
        let record = Record { op, slot: 0x1234, offset: 0x5678, delta: 0x9a_bcde, value: 0xff };
        assert_eq!(record.encode(), [0x9abc_de56_7812_345d, 0xff]);
        assert_eq!(record.to_bytes()[..3], [0x5d, 0x34, 0x12]);
    }

    #[test]
    fn a_string_takes_a_place_for_each_16_bytes_and_others_none() {
        let access = Access {
            direction: Direction::Read,
            size: Size::Word,
            space: Space::Pio,
            outcome: Outcome::Handled,
        };
        let record = |op, value| Record { op, slot: 1, offset: 0, delta: 0, value };
        let places = [0, 1, 16, 17, 4096].map(|len| record(Op::String(access), len).raw_records());
        assert_eq!(places, [0, 1, 1, 2, 256]);
        assert_eq!(record(Op::Access(access), 4096).raw_records(), 0);
    }

    #[test]
    fn a_blob_keeps_length_and_number_apart() {
        let blob = Blob { len: 0xffff_fffe, number: 7 };
        assert_eq!(Blob::of(blob.value()), blob);
        assert_eq!(blob.value(), 0x7_ffff_fffe);
    }
}
