//! Who answers a trap: [`Handler`], its rules about widths, and the adapter for `&mut` devices.

#![allow(clippy::disallowed_types, reason = "this crate has the standard library's lock only")]

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Direction, Regions, Requester, Size};

/// What a handler is told about the access it answers, besides the access itself.
#[derive(Clone, Copy)]
pub struct IoCx<'a> {
    requester: Requester,
    regions: &'a dyn Regions,
    register: Option<&'a Cell<Option<&'static str>>>,
}

impl<'a> IoCx<'a> {
    /// The context of an access by `requester`.
    pub const fn new(requester: Requester, regions: &'a dyn Regions) -> Self {
        Self { requester, regions, register: None }
    }

    /// The same, with a place for the name of the register that the access reaches.
    #[must_use]
    pub const fn with_register(self, register: &'a Cell<Option<&'static str>>) -> Self {
        Self { register: Some(register), ..self }
    }

    /// Says which register the access reaches, for reports that are made when the device may be in
    /// another state. A handler whose [`Handler::register`] depends on its state calls this with
    /// what that would say, before it changes anything. Of an access in pieces the first one counts.
    pub fn reaches(&self, register: impl FnOnce() -> Option<&'static str>) {
        if let Some(place) = self.register
            && place.get().is_none()
        {
            place.set(register());
        }
    }

    /// Who makes the access.
    pub const fn requester(&self) -> Requester {
        self.requester
    }

    /// The registry the access came through, to edit (to move a PCI BAR, say).
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
        read_elements(size, data, || self.read(cx, offset, size));
    }

    /// Takes `rep outs`: `data` is a whole number of elements of `size`, written in order to the
    /// same `offset`.
    fn write_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &[u8]) {
        write_elements(size, data, |value| self.write(cx, offset, size, value));
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

/// Fills `data` with elements of `size` from one `read` each.
fn read_elements(size: Size, data: &mut [u8], mut read: impl FnMut() -> u64) {
    for element in data.chunks_exact_mut(size.bytes()) {
        element.iter_mut().zip(read().to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}

/// Hands each element of `size` in `data` to `write`.
fn write_elements(size: Size, data: &[u8], mut write: impl FnMut(u64)) {
    for element in data.chunks_exact(size.bytes()) {
        let mut value = [0; 8];
        value.iter_mut().zip(element).for_each(|(to, from)| *to = *from);
        write(u64::from_le_bytes(value));
    }
}

/// A handler that wants `&mut self`; [`Locked`] makes it a [`Handler`].
pub trait HandlerMut: Send {
    /// See [`Handler::read`].
    fn read(&mut self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64;

    /// See [`Handler::write`].
    fn write(&mut self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64);

    /// See [`Handler::read_rep`].
    fn read_rep(&mut self, cx: &IoCx<'_>, offset: u64, size: Size, data: &mut [u8]) {
        read_elements(size, data, || self.read(cx, offset, size));
    }

    /// See [`Handler::write_rep`].
    fn write_rep(&mut self, cx: &IoCx<'_>, offset: u64, size: Size, data: &[u8]) {
        write_elements(size, data, |value| self.write(cx, offset, size, value));
    }

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
    pub fn lock(&self) -> MutexGuard<'_, D> {
        // A handler that panicked leaves its device as it was at that moment, for the report.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: HandlerMut> Handler for Locked<D> {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut device = self.lock();
        cx.reaches(|| device.register(offset, Direction::Read));
        device.read(cx, offset, size)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let mut device = self.lock();
        cx.reaches(|| device.register(offset, Direction::Write));
        device.write(cx, offset, size, value);
    }

    fn read_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &mut [u8]) {
        let mut device = self.lock();
        cx.reaches(|| device.register(offset, Direction::Read));
        device.read_rep(cx, offset, size, data);
    }

    fn write_rep(&self, cx: &IoCx<'_>, offset: u64, size: Size, data: &[u8]) {
        let mut device = self.lock();
        cx.reaches(|| device.register(offset, Direction::Write));
        device.write_rep(cx, offset, size, data);
    }

    fn rules(&self) -> Rules {
        self.lock().rules()
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.lock().register(offset, direction)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoRegions;

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

    const fn cx() -> IoCx<'static> {
        IoCx::new(Requester::Vcpu(0), &NoRegions)
    }

    /// Reads what it counts, and remembers what is written.
    #[derive(Default)]
    struct Counter {
        count: u64,
        written: Vec<(u64, u64)>,
    }

    impl HandlerMut for Counter {
        fn read(&mut self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
            self.count += 1;
            offset << 8 | self.count
        }

        fn write(&mut self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
            self.written.push((offset, value));
        }
    }

    #[test]
    fn a_string_access_is_one_access_for_each_element_where_the_device_does_not_say_otherwise() {
        let device = Locked::new(Counter::default());
        let mut data = [0xee; 6];
        device.read_rep(&cx(), 7, Size::Word, &mut data);
        assert_eq!(data, [1, 7, 2, 7, 3, 7]);
        device.write_rep(&cx(), 9, Size::Dword, &[1, 2, 3, 4, 5, 6, 7, 0x80]);
        device.write_rep(&cx(), 9, Size::Byte, &[]);
        assert_eq!(device.lock().written, [(9, 0x0403_0201), (9, 0x8007_0605)]);
    }

    /// Takes strings as a whole, and never an element alone.
    #[derive(Default)]
    struct Fifo {
        bytes: Vec<u8>,
        strings: u32,
    }

    impl HandlerMut for Fifo {
        fn read(&mut self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
            panic!("an element was read")
        }

        fn write(&mut self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
            panic!("an element was written")
        }

        fn read_rep(&mut self, _cx: &IoCx<'_>, offset: u64, size: Size, data: &mut [u8]) {
            assert_eq!((offset, size), (2, Size::Word));
            self.strings += 1;
            data.iter_mut().zip(self.bytes.drain(..)).for_each(|(to, from)| *to = from);
        }

        fn write_rep(&mut self, _cx: &IoCx<'_>, offset: u64, size: Size, data: &[u8]) {
            assert_eq!((offset, size), (2, Size::Byte));
            self.strings += 1;
            self.bytes.extend_from_slice(data);
        }

        fn register(&self, _offset: u64, direction: Direction) -> Option<&'static str> {
            // As it is before the access.
            let empty = self.bytes.is_empty();
            Some(match (direction, empty) {
                (Direction::Read, true) => "empty FIFO",
                (Direction::Read, false) => "FIFO",
                (Direction::Write, _) => "FIFO in",
            })
        }
    }

    #[test]
    fn a_device_takes_a_string_as_a_whole_and_names_the_register_it_reaches() {
        let device = Locked::new(Fifo::default());
        let (wrote, read) = (Cell::new(None), Cell::new(None));
        device.write_rep(&cx().with_register(&wrote), 2, Size::Byte, b"abcd");
        let mut data = [0; 4];
        device.read_rep(&cx().with_register(&read), 2, Size::Word, &mut data);
        assert_eq!((data, device.lock().strings), (*b"abcd", 2));
        assert_eq!((wrote.get(), read.get()), (Some("FIFO in"), Some("FIFO")));
    }
}
