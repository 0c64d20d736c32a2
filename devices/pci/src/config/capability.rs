//! The lists of capabilities: of 256 bytes from 0x40 on, and of extended ones from 0x100 on.
//!
//! Spec: PCI Local Bus Specification 3.0, 6.7; PCI Express Base 3.0, 7.9.

use trapline_device::Size;

use super::ConfigSpace;
use crate::regs::{
    CAPABILITIES, CONFIG_LEN, EXTENDED_CAPABILITIES, EXTENDED_CONFIG_LEN, STATUS,
    STATUS_CAPABILITIES,
};

/// What a capability is (PCI 3.0, appendix H, and later ECNs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityId(pub u8);

impl CapabilityId {
    /// PCI power management.
    pub const POWER_MANAGEMENT: Self = Self(0x01);
    /// Message-signalled interrupts.
    pub const MSI: Self = Self(0x05);
    /// Whatever the vendor makes of it.
    pub const VENDOR: Self = Self(0x09);
    /// PCI Express.
    pub const EXPRESS: Self = Self(0x10);
    /// MSI-X.
    pub const MSIX: Self = Self(0x11);
    /// Advanced features of a conventional function.
    pub const ADVANCED_FEATURES: Self = Self(0x13);
}

/// Where capabilities start: behind the header.
const FIRST: usize = 0x40;
/// Identifier and pointer.
const HEADER_LEN: usize = 2;
/// Identifier, version and pointer of an extended one.
const EXTENDED_HEADER_LEN: usize = 4;
/// Bits of an extended pointer, from bit 20 of the header.
const NEXT_SHIFT: u32 = 20;

impl ConfigSpace {
    /// Adds a capability behind those there are: `body` is what follows identifier and pointer, read
    /// only until [`ConfigSpace::allow`] says otherwise. Returns its offset.
    ///
    /// # Panics
    /// When there is no room left in the first 256 bytes.
    pub fn add_capability(&mut self, id: CapabilityId, body: &[u8]) -> u16 {
        let len = HEADER_LEN + body.len();
        let offset = self.free(FIRST..CONFIG_LEN, len);
        let offset = offset.unwrap_or_else(|| panic!("no room for a capability of {len} bytes"));
        self.add_capability_at(offset, id, body)
    }

    /// Adds a capability at `offset`, behind those there are in the list. Returns the offset.
    ///
    /// # Panics
    /// When it does not lie behind the header, at a multiple of 4, within 256 bytes, or when
    /// something is there.
    pub fn add_capability_at(&mut self, offset: u16, id: CapabilityId, body: &[u8]) -> u16 {
        self.take(FIRST..CONFIG_LEN, offset, HEADER_LEN + body.len());
        let [start, _] = offset.to_le_bytes();
        let last = self.capabilities().last();
        let pointer = last.map_or(CAPABILITIES, |(at, _)| at + 1);
        self.set(pointer, &[start]);
        self.set(offset, &[id.0, 0]);
        self.set(offset + 2, body);
        let [low, high, ..] = self.read(STATUS, Size::Word).to_le_bytes();
        let status = u16::from_le_bytes([low, high]) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        offset
    }

    /// Adds a capability at `place`, or where there is room.
    ///
    /// # Panics
    /// As of [`ConfigSpace::add_capability_at`] and [`ConfigSpace::add_capability`].
    pub(crate) fn add_capability_maybe_at(
        &mut self,
        place: Option<u16>,
        id: CapabilityId,
        body: &[u8],
    ) -> u16 {
        match place {
            Some(offset) => self.add_capability_at(offset, id, body),
            None => self.add_capability(id, body),
        }
    }

    /// Adds an extended capability behind those there are: `body` is what follows its header.
    /// Returns its offset.
    ///
    /// # Panics
    /// When the space has no 4,096 bytes, `version` has more than four bits, or there is no room.
    pub fn add_extended_capability(&mut self, id: u16, version: u8, body: &[u8]) -> u16 {
        assert!(self.len_bytes() == EXTENDED_CONFIG_LEN, "this space ends before the first");
        assert!(version < 16, "a version has four bits");
        let len = EXTENDED_HEADER_LEN + body.len();
        let all = usize::from(EXTENDED_CAPABILITIES)..EXTENDED_CONFIG_LEN;
        let last = self.extended_capabilities().last();
        // The list has no pointer to its first entry: it is the first thing there.
        let offset = match last {
            Some(_) => self.free(all.clone(), len),
            None => Some(EXTENDED_CAPABILITIES),
        };
        let offset =
            offset.unwrap_or_else(|| panic!("no room for an extended capability of {len} bytes"));
        self.take(all, offset, len);
        let header = u32::from(id) | u32::from(version) << 16;
        self.set(offset, &header.to_le_bytes());
        self.set(offset + 4, body);
        if let Some((at, _)) = last {
            let linked = self.read(at, Size::Dword) | u32::from(offset) << NEXT_SHIFT;
            self.set(at, &linked.to_le_bytes());
        }
        offset
    }

    /// The offset of the first capability of this kind.
    pub fn capability(&self, id: CapabilityId) -> Option<u16> {
        self.capabilities().find(|(_, found)| *found == id).map(|(at, _)| at)
    }

    /// Offset and identifier of each capability, in the order of the list.
    pub fn capabilities(&self) -> impl Iterator<Item = (u16, CapabilityId)> + '_ {
        let follow = move |pointer: u16| {
            let at = u16::from(self.byte(pointer));
            (at != 0).then_some(at)
        };
        let first = follow(CAPABILITIES);
        std::iter::successors(first, move |at| follow(at + 1))
            .map(|at| (at, CapabilityId(self.byte(at))))
    }

    /// Offset and identifier of each extended capability, in the order of the list.
    pub fn extended_capabilities(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let header = |at: u16| match self.read(at, Size::Dword) {
            0 | u32::MAX => None,
            header => Some((at, header)),
        };
        std::iter::successors(header(EXTENDED_CAPABILITIES), move |(_, linked)| {
            let next = u16::try_from(linked >> NEXT_SHIFT).ok().filter(|next| *next != 0)?;
            header(next)
        })
        .map(|(at, header)| (at, u16::try_from(header & 0xffff).unwrap_or(0)))
    }

    fn byte(&self, offset: u16) -> u8 {
        let [byte, ..] = self.read(offset, Size::Byte).to_le_bytes();
        byte
    }

    /// The first place in `all` with `len` free bytes.
    fn free(&self, all: std::ops::Range<usize>, len: usize) -> Option<u16> {
        let taken = |start: usize| {
            self.capabilities.iter().any(|other| start < other.end && other.start < start + len)
        };
        let mut starts = all.clone().step_by(4).take_while(|start| start + len <= all.end);
        starts.find(|start| !taken(*start)).and_then(|start| u16::try_from(start).ok())
    }

    fn take(&mut self, all: std::ops::Range<usize>, offset: u16, len: usize) {
        let range = usize::from(offset)..usize::from(offset) + len;
        let inside = all.start <= range.start && range.end <= all.end && offset.is_multiple_of(4);
        assert!(inside, "a capability lies at a multiple of 4 in {all:#x?}, not at {range:#x?}");
        let other = self
            .capabilities
            .iter()
            .find(|other| range.start < other.end && other.start < range.end);
        assert!(other.is_none(), "capabilities at {range:#x?} and {other:#x?} overlap");
        self.capabilities.push(range);
    }
}
