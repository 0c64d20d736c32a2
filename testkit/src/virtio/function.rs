//! A PCI function as its driver finds it: BARs, capabilities, MSI-X.

use trapline_device::{Size, Space};

use super::Access;

const COMMAND: u16 = 0x04;
/// I/O, memory, bus master.
const COMMAND_ALL: u32 = 7;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const CAP_MSIX: u32 = 0x11;

/// Where a driver puts a function's BARs, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// From this address on, memory.
    pub memory: u64,
    /// From this port on, ports.
    pub ports: u64,
    /// What space ports are in, and what their addresses are there more than their numbers: nothing
    /// in [`Space::Pio`].
    pub ports_at: (Space, u64),
}

impl Room {
    /// Memory from an address on, and ports from a number on, which processors reach as ports.
    pub fn new(memory: u64, ports: u64) -> Self {
        Self { memory, ports, ports_at: (Space::Pio, 0) }
    }
}

/// A function.
pub(super) struct Function<A> {
    pub(super) access: A,
    pub(super) devfn: u8,
    /// The first address of each BAR; port numbers of ports.
    pub(super) bars: [u64; 6],
    /// Offset of the MSI-X capability, and address of its table.
    msix: Option<(u16, u64)>,
}

impl<A: Access> Function<A> {
    /// The function at `devfn`, with its BARs placed and switched on.
    pub(super) fn new(access: A, devfn: u8, room: &Room) -> Self {
        let mut this = Self { access, devfn, bars: [0; 6], msix: None };
        this.bars = this.place_bars(room);
        this.access.config_write(devfn, COMMAND, Size::Word, COMMAND_ALL);
        let msix = |at: &u16| this.config(*at, Size::Byte) & 0xff == CAP_MSIX;
        this.msix = this.capabilities().into_iter().find(msix).map(|at| {
            let table = this.config(at + 4, Size::Dword);
            (at, this.bar_at(table & 7) + u64::from(table & !7))
        });
        this
    }

    pub(super) fn config(&self, offset: u16, size: Size) -> u32 {
        self.access.config_read(self.devfn, offset, size)
    }

    pub(super) fn bar_at(&self, bar: u32) -> u64 {
        self.bars.get(bar as usize & 7).copied().unwrap_or(0)
    }

    /// Places BARs; the first address of each.
    fn place_bars(&self, room: &Room) -> [u64; 6] {
        let (mut bars, mut index) = ([0; 6], 0);
        let (mut memory, mut ports) = (room.memory, room.ports);
        while index < bars.len() {
            let register = BAR0 + 4 * u16::try_from(index).unwrap_or(0);
            self.access.config_write(self.devfn, register, Size::Dword, u32::MAX);
            let mask = self.config(register, Size::Dword);
            let (io, wide) = (mask & 1 != 0, mask & 7 == 4);
            if mask != 0 {
                let (next, flags) = if io { (&mut ports, 3) } else { (&mut memory, 0xf) };
                let len = u64::from(!(mask & !flags)) + 1;
                // Ports beyond the 16th bit are not decoded by every function.
                let len = if io { len & 0xffff } else { len };
                let base = next.next_multiple_of(len);
                let half = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
                self.access.config_write(self.devfn, register, Size::Dword, half(base));
                if wide {
                    self.access.config_write(
                        self.devfn,
                        register + 4,
                        Size::Dword,
                        half(base >> 32),
                    );
                }
                if let Some(bar) = bars.get_mut(index) {
                    *bar = base;
                }
                *next = base + len;
            }
            index += if wide { 2 } else { 1 };
        }
        bars
    }

    /// Offsets of the capabilities.
    pub(super) fn capabilities(&self) -> Vec<u16> {
        let next = |at: u16| {
            let at = self.config(at, Size::Byte) & 0xff;
            u16::try_from(at).ok().filter(|at| *at != 0)
        };
        std::iter::successors(next(CAPABILITIES), |at| next(at + 1)).take(48).collect()
    }

    /// Enables MSI-X, with `messages` as the first vectors' addresses and data, all unmasked.
    ///
    /// # Panics
    /// When the function has none.
    pub(super) fn enable_msix(&self, messages: &[(u64, u32)]) {
        let (at, table) = self.msix.unwrap_or_else(|| panic!("the function has no MSI-X"));
        for (entry, (addr, data)) in (0..).zip(messages) {
            let entry = table + entry * 16;
            let write = |offset, value| {
                self.access.write(Space::Mmio, entry + offset, Size::Dword, value);
            };
            write(0, addr & 0xffff_ffff);
            write(4, addr >> 32);
            write(8, u64::from(*data));
            write(12, 0);
        }
        self.access.config_write(self.devfn, at + 2, Size::Word, 0x8000);
    }

    /// Disables MSI-X.
    pub(super) fn disable_msix(&self) {
        if let Some((at, _)) = self.msix {
            self.access.config_write(self.devfn, at + 2, Size::Word, 0);
        }
    }
}
