//! Who answers a trap: [`Handler`], its rules about widths, and the adapter for `&mut` devices.

use parking_lot::Mutex;

use crate::{Direction, Regions, Size};

/// What a handler is told about the access it answers, besides the access itself.
#[derive(Clone, Copy)]
pub struct IoCx<'a> {
    vcpu: u32,
    regions: &'a dyn Regions,
}

impl<'a> IoCx<'a> {
    /// The context of an access by `vcpu` (an index; sources without vCPUs use 0).
    pub const fn new(vcpu: u32, regions: &'a dyn Regions) -> Self {
        Self { vcpu, regions }
    }

    /// The index of the vCPU that made the access.
    pub const fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// The registry the access came through, to move regions in (a PCI BAR, say).
    pub const fn regions(&self) -> &'a dyn Regions {
        self.regions
    }
}

/// Answers accesses to one region.
///
/// `offset` counts from the region's start (plus the region's own device offset, where one device
/// answers several regions); `size` is one of those [`Rules::handled`] admits, at a multiple of
/// itself. Values are little-endian numbers: bits above `size` are ignored on reads and zero on
/// writes. No value may panic, block, or grow anything without bound.
pub trait Handler: Send + Sync {
    /// Answers a guest read.
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64;

    /// Takes a guest write.
    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64);

    /// Answers `rep ins`: fills `data`, a whole number of elements of `size`, in order, all read
    /// from the same `offset`.
    fn read_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &mut [u8]) {
        for element in data.chunks_exact_mut(size.bytes()) {
            let value = self.read(cx, offset, size).to_le_bytes();
            element.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    /// Takes `rep outs`: `data` is a whole number of elements of `size`, written in order to the
    /// same `offset`.
    fn write_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &[u8]) {
        for element in data.chunks_exact(size.bytes()) {
            let mut value = [0; 8];
            value.iter_mut().zip(element).for_each(|(to, from)| *to = *from);
            self.write(cx, offset, size, u64::from_le_bytes(value));
        }
    }

    /// The widths this handler accepts and codes for.
    fn rules(&self) -> Rules {
        Rules::ANY
    }

    /// The data sheet's name of the register an access would reach now, for traces and reports.
    /// Must not change any state.
    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        None
    }
}

/// A handler that wants `&mut self`; [`Locked`] makes it a [`Handler`].
pub trait HandlerMut: Send {
    /// See [`Handler::read`].
    fn read(&mut self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64;

    /// See [`Handler::write`].
    fn write(&mut self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64);

    /// See [`Handler::rules`]; constant, as it is asked without the lock's protection in mind.
    fn rules(&self) -> Rules {
        Rules::ANY
    }

    /// See [`Handler::register`].
    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        None
    }
}

/// A device behind its own lock. The registry holds none while a device runs; this one is the
/// device's business, shared by its regions and its back end.
#[derive(Debug, Default)]
pub struct Locked<D>(Mutex<D>);

impl<D> Locked<D> {
    /// Puts `device` behind a lock.
    pub const fn new(device: D) -> Self {
        Self(Mutex::new(device))
    }

    /// Locks the device, for its back end or its timer.
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, D> {
        self.0.lock()
    }
}

impl<D: HandlerMut> Handler for Locked<D> {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.0.lock().read(cx, offset, size)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.0.lock().write(cx, offset, size, value);
    }

    fn rules(&self) -> Rules {
        self.0.lock().rules()
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.0.lock().register(offset, direction)
    }
}

/// Smallest and largest width, and whether an access may sit off its natural alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The narrowest access.
    pub min: Size,
    /// The widest access.
    pub max: Size,
    /// Whether an access at an offset that is no multiple of its width is let through.
    pub unaligned: bool,
}

impl Limits {
    /// Every width at every offset.
    pub const ANY: Self = Self { min: Size::Byte, max: Size::Qword, unaligned: true };

    /// Exactly `size`, naturally aligned.
    pub const fn only(size: Size) -> Self {
        Self { min: size, max: size, unaligned: false }
    }

    /// Whether `len` bytes at `offset` are within these limits. Lengths that are no power of two
    /// have no natural alignment, so they need `unaligned`.
    pub const fn admit(self, offset: u64, len: usize) -> bool {
        let aligned = len.is_power_of_two() && offset.is_multiple_of(len as u64);
        self.min.bytes() <= len && len <= self.max.bytes() && (self.unaligned || aligned)
    }
}

/// What happens to an access that is not of the shape the device is written for, as in QEMU's
/// memory API (`valid` and `impl`).
///
/// An access outside `valid` never reaches the handler: a read is all ones, a write vanishes, and
/// the region counts it as refused. A valid access wider than `handled.max` is split, lowest
/// address first; one narrower than `handled.min` reads the aligned unit around it and, for a
/// write, writes that unit back with the new bytes in place. A handler whose registers have side
/// effects on reads therefore says so in `valid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What the device accepts on its bus.
    pub valid: Limits,
    /// What its code handles (QEMU: `impl`).
    pub handled: Limits,
}

impl Rules {
    /// Accepts anything, handles anything; unaligned accesses arrive as aligned pieces.
    pub const ANY: Self =
        Self { valid: Limits::ANY, handled: Limits { unaligned: false, ..Limits::ANY } };

    /// An 8-bit device: wider accesses become byte accesses to consecutive offsets, as an ISA bus
    /// splits them for an 8-bit card.
    pub const BYTES: Self = Self { valid: Limits::ANY, handled: Limits::only(Size::Byte) };
}

/// The life of a device beyond its accesses.
pub trait Device: Send + Sync {
    /// Puts the device in its power-on state and its outputs with it. Called with every vCPU
    /// stopped.
    fn reset(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_judge_width_and_alignment() {
        let dwords = Limits::only(Size::Dword);
        assert!(dwords.admit(8, 4));
        assert!(!dwords.admit(9, 4));
        assert!(!dwords.admit(8, 2));
        assert!(!dwords.admit(8, 8));
        assert!(Limits::ANY.admit(5, 3));
        assert!(!Limits { unaligned: false, ..Limits::ANY }.admit(4, 3));
    }
}
