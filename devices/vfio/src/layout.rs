//! A function's configuration space for the guest, made from the device's own: what identifies it, its
//! BARs, and those of its capabilities that mean the same in the guest.
//!
//! Spec: PCI Local Bus Specification 3.0, chapter 6; PCI Express Base 3.0, chapter 7; Linux,
//! `drivers/vfio/pci/vfio_pci_config.c` for what the kernel lets through.

use std::ops::Range;

use trapline_pci::regs::{
    AF_TP_FLR, CAPABILITIES, CLASS_CODE, CONFIG_LEN, DEVICE_ID, EXPRESS_CAPABILITIES,
    EXPRESS_CONTROL_MASK, EXPRESS_DEVICE_CAPABILITIES, EXPRESS_DEVICE_CONTROL, EXPRESS_FLR,
    EXPRESS_LEN, EXTENDED_CAPABILITIES, EXTENDED_CONFIG_LEN, HEADER_TYPE, MSI_64_BIT, MSI_CONTROL,
    MSIX_CONTROL, MSIX_PBA, MSIX_TABLE, REVISION_ID, STATUS, STATUS_CAPABILITIES, SUBSYSTEM_ID,
    SUBSYSTEM_VENDOR_ID, VENDOR_ID,
};
use trapline_pci::{BARS, Bar, CapabilityId, FunctionBuilder, Identity, MsixLayout, Pin, Slot};

use crate::quirks::Quirks;

/// Vital product data, which the kernel reads and writes for its users.
const VPD: CapabilityId = CapabilityId(0x03);
/// Subsystem IDs, of bridges by name.
const SUBSYSTEM: CapabilityId = CapabilityId(0x0d);
/// The most capabilities that 192 bytes have room for.
const CAPABILITIES_MAX: usize = 48;
/// PCI Express capabilities bits 7:4: what kind of port it is (PCI Express Base 3.0, 7.8.2).
const EXPRESS_TYPE: u16 = 0xf0;
/// An endpoint that is part of the root complex, as all are that sit on bus 0.
const EXPRESS_INTEGRATED: u16 = 0x90;
/// Where the registers of the link begin in the PCI Express capability, which such an endpoint has
/// not (7.8.1), and where they end.
const EXPRESS_LINK: Range<usize> = 0x0c..0x14;
/// Extended: advanced error reports, and its length without a header log of TLP prefixes.
const AER: (u16, usize) = (0x0001, 0x38);
/// Extended: the serial number.
const SERIAL_NUMBER: (u16, usize) = (0x0003, 12);

/// A device's configuration space as it was read at the start.
pub(crate) struct DeviceConfig {
    bytes: Vec<u8>,
    /// Length of each BAR's region; 0 for none.
    pub(crate) bar_lens: [u64; BARS],
    /// Length of the expansion ROM.
    pub(crate) rom_len: u64,
    /// Whether there is a pin, an MSI message and MSI-X vectors that the kernel connects.
    pub(crate) has: Interruptions,
    /// Whether it can be reset by itself.
    pub(crate) resets: bool,
}

/// See [`DeviceConfig::has`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interruptions {
    pub(crate) pin: bool,
    pub(crate) msi: bool,
    /// How many.
    pub(crate) msix: u32,
}

/// What of configuration space is whose, once a function is built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// What is the device's own to answer, by offset.
    passed: Vec<Range<u16>>,
    /// Offset of the MSI capability.
    pub(crate) msi: Option<u16>,
    /// Offset of the MSI-X capability, and its vectors.
    pub(crate) msix: Option<(u16, u16)>,
}

impl Layout {
    /// Whether a byte is the device's to answer.
    pub(crate) fn passes(&self, offset: u16) -> bool {
        self.passed.iter().any(|range| range.contains(&offset))
    }
}

impl DeviceConfig {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let bar_lens = [0; BARS];
        Self { bytes, bar_lens, rom_len: 0, has: Interruptions::default(), resets: false }
    }

    fn byte(&self, offset: u16) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or(0)
    }

    fn word(&self, offset: u16) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    fn dword(&self, offset: u16) -> u32 {
        u32::from(self.word(offset + 2)) << 16 | u32::from(self.word(offset))
    }

    /// Vendor, device, and class code.
    pub(crate) fn ids(&self) -> (u16, u16, u32) {
        (self.word(VENDOR_ID), self.word(DEVICE_ID), self.dword(REVISION_ID) >> 8)
    }

    /// Whether it is an endpoint's.
    pub(crate) fn is_endpoint(&self) -> bool {
        self.byte(HEADER_TYPE) & 0x7f == 0
    }

    fn identity(&self) -> Identity {
        debug_assert_eq!(CLASS_CODE, REVISION_ID + 1);
        let (vendor, device, class) = self.ids();
        Identity {
            vendor,
            device,
            revision: self.byte(REVISION_ID),
            class,
            subsystem_vendor: self.word(SUBSYSTEM_VENDOR_ID),
            subsystem: self.word(SUBSYSTEM_ID),
            pin: self.has.pin.then_some(Pin::A),
            // Each function that is assigned has a slot of its own.
            multi_function: false,
        }
    }

    /// What BAR `index` decodes.
    pub(crate) fn bar(&self, index: usize) -> Option<Bar> {
        const IO: u32 = 1;
        const TYPE: u32 = 0b110;
        const MEM64: u32 = 0b100;
        const PREFETCHABLE: u32 = 0b1000;
        const IO_MAX: u32 = 256;
        let len = *self.bar_lens.get(index).filter(|len| len.is_power_of_two())?;
        let register = self.dword(0x10 + 4 * u16::try_from(index).ok()?);
        let (short, prefetchable) = (u32::try_from(len).ok(), register & PREFETCHABLE != 0);
        if register & IO != 0 {
            return short.filter(|len| (4..=IO_MAX).contains(len)).map(|len| Bar::Io { len });
        }
        match register & TYPE {
            MEM64 if len >= 16 && index + 1 < BARS => Some(Bar::Mem64 { len, prefetchable }),
            0 => short.filter(|len| *len >= 16).map(|len| Bar::Mem32 { len, prefetchable }),
            _ => None,
        }
    }

    /// The numbers of all BARs there are.
    pub(crate) fn bars(&self) -> impl Iterator<Item = (usize, Bar)> + '_ {
        (0..BARS).filter_map(|index| Some((index, self.bar(index)?)))
    }

    /// The function to be, with everything but what is behind its BARs.
    pub(crate) fn function<'a>(
        &self,
        slot: Slot<'a>,
        quirks: &Quirks,
    ) -> (FunctionBuilder<'a>, Layout) {
        let mut builder = if self.bytes.len() >= EXTENDED_CONFIG_LEN {
            FunctionBuilder::extended(slot, &self.identity())
        } else {
            FunctionBuilder::new(slot, &self.identity())
        };
        for (index, bar) in self.bars() {
            builder = builder.bar(index, bar);
        }
        let rom = u32::try_from(self.rom_len).ok();
        if let Some(len) = rom.filter(|len| len.is_power_of_two() && *len >= 0x800)
            && self.rom_len <= 0x100_0000
            && !quirks.hides_rom()
        {
            builder = builder.rom(len);
        }
        let mut layout = Layout::default();
        for capability in self.capabilities() {
            builder = self.add(&capability, builder, quirks, &mut layout);
        }
        layout.passed.extend(self.own_registers());
        self.add_extended(&mut builder);
        (builder, layout)
    }

    /// The capabilities, each with what room there is up to the next.
    fn capabilities(&self) -> Vec<Capability> {
        if self.word(STATUS) & STATUS_CAPABILITIES == 0 {
            return Vec::new();
        }
        let mut starts = Vec::new();
        let mut at = self.byte(CAPABILITIES) & !3;
        while at >= 0x40 && !starts.contains(&at) && starts.len() < CAPABILITIES_MAX {
            starts.push(at);
            at = self.byte(u16::from(at) + 1) & !3;
        }
        let room = |start: u8| {
            let next = starts.iter().filter(|other| **other > start).min();
            next.map_or(CONFIG_LEN, |next| usize::from(*next)) - usize::from(start)
        };
        let capability = |start: &u8| {
            let at = u16::from(*start);
            let (id, room) = (CapabilityId(self.byte(at)), room(*start));
            Capability { at, id, len: self.capability_len(at, id).min(room) }
        };
        starts.iter().map(capability).collect()
    }

    /// How long a capability is, by what it is. Of those that are not passed on, their header.
    fn capability_len(&self, at: u16, id: CapabilityId) -> usize {
        match id {
            CapabilityId::POWER_MANAGEMENT | VPD | SUBSYSTEM => 8,
            CapabilityId::MSI => {
                let control = self.word(at + MSI_CONTROL);
                let masks = if control & 0x100 == 0 { 0 } else { 10 };
                if control & MSI_64_BIT == 0 { 10 + masks } else { 14 + masks }
            }
            CapabilityId::MSIX => 12,
            CapabilityId::VENDOR => usize::from(self.byte(at + 2)).max(3),
            CapabilityId::EXPRESS => EXPRESS_LEN,
            CapabilityId::ADVANCED_FEATURES => 6,
            _ => 2,
        }
    }

    fn body(&self, at: u16, len: usize) -> Vec<u8> {
        (at + 2..).take(len - 2).map(|offset| self.byte(offset)).collect()
    }

    /// Adds a capability, if it can mean the same to the guest, where it is.
    fn add<'a>(
        &self,
        capability: &Capability,
        mut builder: FunctionBuilder<'a>,
        quirks: &Quirks,
        layout: &mut Layout,
    ) -> FunctionBuilder<'a> {
        let Capability { at, id, len } = *capability;
        let end = at + u16::try_from(len).unwrap_or(0);
        let whole = len >= self.capability_len(at, id);
        match id {
            _ if !whole => builder,
            CapabilityId::POWER_MANAGEMENT => builder.power_management_at(at),
            CapabilityId::MSI if self.has.msi => {
                layout.msi = Some(at);
                builder.msi_at(at, self.word(at + MSI_CONTROL) & MSI_64_BIT != 0)
            }
            CapabilityId::MSIX => match self.msix(at, quirks) {
                Some(msix) => {
                    layout.msix = Some((at, msix.vectors));
                    builder.msix_at(at, msix)
                }
                None => builder,
            },
            CapabilityId::ADVANCED_FEATURES
                if self.resets && self.byte(at + 3) & AF_TP_FLR == AF_TP_FLR =>
            {
                builder.function_level_reset_at(at)
            }
            CapabilityId::EXPRESS => self.add_express(at, builder),
            CapabilityId::VENDOR | VPD | SUBSYSTEM => {
                builder.config().add_capability_at(at, id, &self.body(at, len));
                if id != SUBSYSTEM {
                    layout.passed.push(at + 2..end);
                }
                builder
            }
            _ => builder,
        }
    }

    /// The PCI Express capability: its capabilities as they are but for the link, of which the guest
    /// sees none; controls are the guest's own, as the host's are tuned to the link there is.
    fn add_express<'a>(&self, at: u16, mut builder: FunctionBuilder<'a>) -> FunctionBuilder<'a> {
        let mut body = self.body(at, EXPRESS_LEN);
        if let Some(link) = body.get_mut(EXPRESS_LINK.start - 2..EXPRESS_LINK.end - 2) {
            link.fill(0);
        }
        let config = builder.config();
        config.add_capability_at(at, CapabilityId::EXPRESS, &body);
        let kind = self.word(at + EXPRESS_CAPABILITIES) & !EXPRESS_TYPE | EXPRESS_INTEGRATED;
        config.set(at + EXPRESS_CAPABILITIES, &kind.to_le_bytes());
        config.allow(at + EXPRESS_DEVICE_CONTROL, &EXPRESS_CONTROL_MASK.to_le_bytes());
        let capabilities = self.dword(at + EXPRESS_DEVICE_CAPABILITIES);
        if capabilities & EXPRESS_FLR != 0 && self.resets {
            return builder.reset_by_express(at);
        }
        let without = capabilities & !EXPRESS_FLR;
        builder.config().set(at + EXPRESS_DEVICE_CAPABILITIES, &without.to_le_bytes());
        builder
    }

    /// Where the table is, if it is where one can be.
    fn msix(&self, at: u16, quirks: &Quirks) -> Option<MsixLayout> {
        let vectors = (self.word(at + MSIX_CONTROL) & 0x7ff) + 1;
        let place = |register: u16| {
            let value = self.dword(at + register);
            (u8::try_from(value & 7).unwrap_or(7), value & !7)
        };
        let ((table_bar, table), (pba_bar, pba)) = (place(MSIX_TABLE), place(MSIX_PBA));
        let pba = quirks.pending_bits().unwrap_or(pba);
        let layout = MsixLayout { vectors, table_bar, table, pba_bar, pba };
        let inside = |bar: u8, range: Range<u64>| {
            let bar = self.bar(usize::from(bar));
            bar.is_some_and(|bar| !matches!(bar, Bar::Io { .. }) && range.end <= bar.len_bytes())
        };
        let (a, b) = (layout.table_range(), layout.pba_range());
        let apart = table_bar != pba_bar || a.end <= b.start || b.end <= a.start;
        let fits = inside(table_bar, a) && inside(pba_bar, b) && apart;
        (fits && self.has.msix >= u32::from(vectors)).then_some(layout)
    }

    /// The registers behind the header that are no capability's. Where capabilities are, those that the
    /// guest is not to see are zeroes.
    fn own_registers(&self) -> Vec<Range<u16>> {
        let mut taken: Vec<Range<u16>> = self
            .capabilities()
            .iter()
            .map(|capability| {
                // One whose length is not known may be as long as there is room.
                let known = self.capability_len(capability.at, capability.id) > 2;
                let after = self.capabilities().into_iter().map(|other| other.at);
                let next = after.filter(|other| *other > capability.at).min().unwrap_or(0x100);
                let end = capability.at + u16::try_from(capability.len).unwrap_or(0);
                capability.at..if known { end } else { next }
            })
            .collect();
        taken.sort_by_key(|range| range.start);
        let (mut own, mut start) = (Vec::new(), 0x40);
        for range in taken.into_iter().chain(std::iter::once(0x100..0x100)) {
            if start < range.start {
                own.push(start..range.start);
            }
            start = start.max(range.end);
        }
        own
    }

    /// Extended capabilities that can only be read: error reports and the serial number.
    fn add_extended(&self, builder: &mut FunctionBuilder<'_>) {
        if self.bytes.len() < EXTENDED_CONFIG_LEN {
            return;
        }
        let mut at = EXTENDED_CAPABILITIES;
        // As many as there is room for, each of two dwords at least.
        for _ in 0..(EXTENDED_CONFIG_LEN - CONFIG_LEN) / 8 {
            let header = self.dword(at);
            let id = u16::try_from(header & 0xffff).unwrap_or(0);
            let version = u8::try_from(header >> 16 & 0xf).unwrap_or(0);
            let known = [AER, SERIAL_NUMBER].into_iter().find(|(known, _)| *known == id);
            if let Some((_, len)) = known.filter(|_| header != 0 && header != u32::MAX) {
                let body: Vec<u8> = (at + 4..).take(len - 4).map(|at| self.byte(at)).collect();
                builder.config().add_extended_capability(id, version, &body);
            }
            at = u16::try_from(header >> 20 & 0xffc).unwrap_or(0);
            if at <= EXTENDED_CAPABILITIES {
                return;
            }
        }
    }
}

/// A capability of the device's.
#[derive(Clone, Copy, Debug)]
struct Capability {
    at: u16,
    id: CapabilityId,
    len: usize,
}
