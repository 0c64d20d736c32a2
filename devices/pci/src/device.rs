//! What stands behind a function: the trait its device implements.

use trapline_device::{Device, Direction, IoCx, Rules, SaveState, Size};

use crate::config::ConfigSpace;

/// The device behind a PCI function.
///
/// The bus has the function's configuration space, its BARs and what its interrupts go through;
/// the device has what is behind the BARs, and never learns where they are. [`Device::reset`] is
/// every reset there is: the bus's, the function's own (function-level reset), and the one that
/// leaving the power state D3hot makes. Saved is what the device remembers; configuration space and
/// the MSI-X table are the bus's to save.
pub trait PciDevice: Device + SaveState {
    /// Answers a read of `bar`, at an offset in it.
    fn bar_read(&self, _cx: &IoCx<'_>, _bar: usize, _offset: u64, size: Size) -> u64 {
        size.ones()
    }

    /// Takes a write to `bar`, at an offset in it.
    fn bar_write(&self, _cx: &IoCx<'_>, _bar: usize, _offset: u64, _size: Size, _value: u64) {}

    /// The widths `bar` accepts and codes for.
    fn bar_rules(&self, _bar: usize) -> Rules {
        Rules::ANY
    }

    /// The name of a register in `bar`, for traces.
    fn bar_register(&self, _bar: usize, _offset: u64, _: Direction) -> Option<&'static str> {
        None
    }

    /// Answers a read of configuration space, for a device with registers of its own there that are
    /// no plain bytes; such a device has [`PciDevice::config_shown`], too. The bus's own registers
    /// (command, BARs, capabilities) do not depend on it.
    fn config_read(&self, config: &ConfigSpace, offset: u16, size: Size) -> u32 {
        config.read(offset, size)
    }

    /// Takes a write of configuration space, for a device with registers of its own there that are
    /// more than masks ([`ConfigSpace::allow`]) can say.
    fn config_write(&self, config: &mut ConfigSpace, offset: u16, size: Size, value: u32) {
        config.write(offset, size, value);
    }

    /// Puts right what [`PciDevice::config_read`] would give otherwise than `bytes` say, which are
    /// those of `config`; or `false`, if reading anywhere would change anything, or what it gives
    /// depends on more than `config` or on an access's width. The guest reads the result without
    /// anybody's being asked until `config` changes.
    fn config_shown(&self, _config: &ConfigSpace, _bytes: &mut [u8]) -> bool {
        true
    }

    /// Whether the device can have this configuration space: what is behind
    /// [`PciDevice::config_write`], for snapshots.
    fn config_possible(&self, _config: &ConfigSpace) -> bool {
        true
    }

    /// The name of a register in configuration space past the header, for traces.
    fn config_register(&self, _offset: u16) -> Option<&'static str> {
        None
    }

    /// The function was taken off its bus, and nothing of it is mapped any more. Whoever is inside the
    /// device at this moment may be so for a while, and a registry may keep it for longer: so what has
    /// to go is let go of here.
    fn unplugged(&self) {}

    /// The MSI-X table lets messages through, of vectors below `count` at most: called when the
    /// function's mask or a vector's own has just gone, before anything is sent. `count` grows with
    /// the vectors that have a message. For a device whose interrupts are made elsewhere, and cost
    /// something there from when they are wanted. Called with locks of the bus held, as by
    /// [`PciDevice::config_write`].
    fn vectors_used(&self, _count: usize) {}
}
