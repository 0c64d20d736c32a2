//! Memory that the guest finds where it was put, with a log of what it wrote.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod support;

use support::{Asm, MMIO, MMIO_SEGMENT, Machine, RAM, Recorder, Seen};
use trapline_guestmem::GuestMem;
use trapline_kvm::MemoryWindow;

const PAGES: u64 = 8;

/// A window of eight pages, with two handles on its memory.
fn window(machine: &Machine) -> (MemoryWindow, GuestMem) {
    let mem = GuestMem::new(&[(0, PAGES * 4096)]).unwrap();
    (MemoryWindow::new(&machine.vm, &mem).unwrap(), mem)
}

/// Writes a byte at an offset of the device segment.
fn store(offset: u16, value: u8) -> Asm {
    Asm::new().mov_ds(MMIO_SEGMENT).mov_al(value).store_al(offset)
}

#[test]
fn the_log_names_the_pages_the_guest_wrote_and_no_others() {
    let mut machine = Machine::new();
    let (window, mem) = window(&machine);
    window.place(Some(MMIO)).unwrap();
    assert_eq!(window.take_dirty(), [u64::MAX], "nothing is known of a window that was moved");
    assert_eq!(window.take_dirty(), [0]);
    machine.run_to_halt(&store(0x2345, 0x42).then(&store(0x7fff, 0x43)).hlt());
    assert_eq!(window.take_dirty(), [1 << 2 | 1 << 7]);
    assert_eq!(window.take_dirty(), [0]);
    let mut written = [0];
    mem.read(0x2345, &mut written).unwrap();
    assert_eq!(written, [0x42]);
    machine.run_to_halt(&store(0x2345, 0x44).hlt());
    assert_eq!(window.take_dirty(), [1 << 2], "it is told again");
    window.touch();
    assert_eq!(window.take_dirty(), [u64::MAX]);
}

#[test]
fn a_window_that_is_nowhere_leaves_its_place_to_the_registry() {
    let mut machine = Machine::new();
    let device = Recorder::new();
    machine.memory(MMIO, PAGES * 4096, &device);
    let (window, mem) = window(&machine);
    window.place(Some(MMIO)).unwrap();
    machine.run_to_halt(&store(0x10, 1).hlt());
    assert_eq!(device.seen(), []);
    window.place(Some(MMIO + 0x8000)).unwrap();
    assert_eq!(window.base(), Some(MMIO + 0x8000));
    machine.run_to_halt(&store(0x10, 2).then(&store(0x8011, 3)).hlt());
    assert_eq!(device.seen(), [Seen::Write(0x10, 1, 2)]);
    drop(window);
    machine.run_to_halt(&store(0x8011, 4).hlt());
    let mut kept = [0; 2];
    mem.read(0x10, &mut kept).unwrap();
    assert_eq!(kept, [1, 3], "what was written stays in the memory");
}

#[test]
fn a_place_in_ram_is_refused_and_the_window_is_nowhere() {
    let machine = Machine::new();
    let (window, _) = window(&machine);
    window.place(Some(MMIO)).unwrap();
    let refused = window.place(Some(RAM - 4096)).unwrap_err();
    assert!(refused.to_string().starts_with("KVM refused to move a memory window"), "{refused}");
    assert_eq!(window.base(), None);
    window.place(Some(MMIO)).unwrap();
}
