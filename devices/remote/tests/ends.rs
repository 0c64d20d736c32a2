//! Both ends of a channel together: what the guest does is what the device is asked, in order, by
//! whatever descriptors and layout.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use support::{KINDS, Registers, Vmm, channel, serve};
use trapline::{Handler, IoCx, Ring, Size, Space};
use trapline_remote::wire::Layout;
use trapline_remote::{
    DATAMATCH, FAST_MMIO, KvmIoregion, LinkOptions, PIO, POSTED_WRITES, ServeError, Server,
};

const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];
const VALUE: u64 = 0x8877_6655_4433_2211;

fn options(layout: Layout) -> LinkOptions {
    LinkOptions { layout, ..LinkOptions::default() }
}

#[test]
fn every_width_of_every_kind_of_access_arrives_by_every_descriptor_in_every_layout() {
    for kind in KINDS {
        for layout in [Layout::V1, Layout::V3] {
            for (flags, space, base) in [
                (0, Space::Mmio, 0x1000),
                (POSTED_WRITES, Space::Mmio, 0x1000),
                (PIO, Space::Pio, 0x3f8),
                (PIO | POSTED_WRITES, Space::Pio, 0x3f8),
            ] {
                let ((vmm_end, device_end), device) = (channel(kind), Registers::new(0x20));
                let vmm = Vmm::new(options(layout));
                let (guest_paddr, memory_size, user_data) = (base, 0x20, u64::MAX - 1);
                let args = KvmIoregion {
                    guest_paddr,
                    memory_size,
                    user_data,
                    flags,
                    ..KvmIoregion::default()
                };
                vmm.set(&vmm_end, args);
                let server = serve(device_end, user_data, 0x20, device.clone());
                let mut handle = vmm.registry.handle(0);
                for size in SIZES {
                    handle.write_value(space, base + 8, size, VALUE);
                    assert_eq!(handle.read_value(space, base + 8, size), VALUE & size.ones());
                }
                let expected = SIZES.map(|size| {
                    let value = VALUE & size.ones();
                    [format!("write 0x8/{size} {value:#x}"), format!("read 0x8/{size}")]
                });
                assert_eq!(device.take(), expected.concat(), "{kind:?} {layout:?} {flags:#x}");
                // The channel goes with the regions, whoever may still look.
                drop((vmm, vmm_end));
                server.join().unwrap().unwrap();
            }
        }
    }
}

#[test]
fn a_read_pushes_the_posted_writes_before_it() {
    for kind in KINDS {
        let ((vmm_end, device_end), device) = (channel(kind), Registers::new(8));
        let vmm = Vmm::new(LinkOptions::default());
        let flags = POSTED_WRITES;
        let args =
            KvmIoregion { guest_paddr: 0x1000, memory_size: 8, flags, ..KvmIoregion::default() };
        vmm.set(&vmm_end, args);
        let _server = serve(device_end, 0, 8, device.clone());
        let mut handle = vmm.registry.handle(0);
        for round in 0..300_u64 {
            (0..round).for_each(|n| handle.write_value(Space::Mmio, 0x1000, Size::Qword, n));
            let last = handle.read_value(Space::Mmio, 0x1000, Size::Qword);
            if round > 0 {
                assert_eq!(last, round - 1, "{kind:?}");
            }
            let log = device.take();
            let writes: Vec<String> = (0..round).map(|n| format!("write 0x0/8 {n:#x}")).collect();
            assert_eq!(
                (&log[..log.len() - 1], log.last().unwrap().as_str()),
                (&writes[..], "read 0x0/8")
            );
        }
    }
}

/// Reads as the number of the read, with the vCPU's own mark.
struct Echo(AtomicU64, u64);

impl Handler for Echo {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.0.load(Ordering::Relaxed) | self.1 << 32
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Accesses of each vCPU, posted and waited for in turn.
const ACCESSES: u64 = 3000;

#[test]
fn vcpus_on_one_channel_each_get_the_answers_to_what_they_asked() {
    for kind in KINDS {
        let (vmm_end, device_end) = channel(kind);
        let vmm = Vmm::new(LinkOptions::default());
        let mut server = Server::new();
        for vcpu in 0..3 {
            let flags = if vcpu == 1 { POSTED_WRITES } else { 0 };
            let (guest_paddr, memory_size, user_data) = (0x1000 * (vcpu + 1), 8, vcpu);
            let args = KvmIoregion {
                guest_paddr,
                memory_size,
                user_data,
                flags,
                ..KvmIoregion::default()
            };
            vmm.set(&vmm_end, args);
            server.region(vcpu, 8, Arc::new(Echo(AtomicU64::new(0), vcpu))).unwrap();
        }
        let server = thread::spawn(move || server.serve(&device_end.ends(), None));
        thread::scope(|scope| {
            for vcpu in 0..3_u32 {
                let mut handle = vmm.registry.handle(vcpu);
                scope.spawn(move || {
                    let addr = 0x1000 * (u64::from(vcpu) + 1);
                    for n in 0..ACCESSES {
                        handle.write_value(Space::Mmio, addr, Size::Qword, n);
                        let read = handle.read_value(Space::Mmio, addr, Size::Qword);
                        assert_eq!(read, n | u64::from(vcpu) << 32);
                    }
                });
            }
        });
        drop((vmm, vmm_end));
        server.join().unwrap().unwrap();
    }
}

/// Counts its rings.
#[derive(Default)]
struct Bell(AtomicU64);

impl Ring for Bell {
    fn ring(&self, _cx: &IoCx<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn without_data_every_access_rings() {
    for kind in KINDS {
        for (memory_size, flags) in
            [(0, POSTED_WRITES), (0, FAST_MMIO), (0, FAST_MMIO | POSTED_WRITES), (8, FAST_MMIO)]
        {
            let ((vmm_end, device_end), bell) = (channel(kind), Arc::new(Bell::default()));
            let vmm = Vmm::new(LinkOptions::default());
            let (guest_paddr, user_data) = (0x1000, 5);
            let args = KvmIoregion {
                guest_paddr,
                memory_size,
                user_data,
                flags,
                ..KvmIoregion::default()
            };
            vmm.set(&vmm_end, args);
            let mut server = Server::new();
            server.doorbell(5, bell.clone());
            let server = thread::spawn(move || server.serve(&device_end.ends(), None));
            let mut handle = vmm.registry.handle(0);
            for size in SIZES {
                handle.write_value(Space::Mmio, 0x1000, size, VALUE);
            }
            if flags & POSTED_WRITES == 0 {
                assert_eq!(bell.0.load(Ordering::SeqCst), 4, "it waits for the device");
            }
            handle.read_value(Space::Mmio, 0x1000, Size::Byte);
            assert_eq!(handle.take_told_nothing(), flags & FAST_MMIO != 0);
            drop((handle, vmm, vmm_end));
            server.join().unwrap().unwrap();
            let rings = if flags & FAST_MMIO == 0 { 4 } else { 5 };
            assert_eq!(bell.0.load(Ordering::SeqCst), rings, "{memory_size} {flags:#x}");
        }
    }
}

#[test]
fn one_register_fans_out_by_value() {
    let ((vmm_end, device_end), device) = (channel(KINDS[1]), Registers::new(0x100));
    let vmm = Vmm::new(LinkOptions::default());
    let all = KvmIoregion { guest_paddr: 0x1000, memory_size: 0x100, ..KvmIoregion::default() };
    vmm.set(&vmm_end, all);
    let mut server = Server::new();
    server.region(0, 0x100, device.clone()).unwrap();
    let queues: Vec<_> = (0..3_u64)
        .map(|queue| {
            let flags = DATAMATCH | POSTED_WRITES;
            let (guest_paddr, memory_size, user_data) = (0x1050, 4, queue + 1);
            let args =
                KvmIoregion { guest_paddr, memory_size, user_data, flags, datamatch: queue, ..all };
            vmm.set(&vmm_end, args);
            let registers = Registers::new(4);
            server.region(user_data, 4, registers.clone()).unwrap();
            registers
        })
        .collect();
    let server = thread::spawn(move || server.serve(&device_end.ends(), None));
    let mut handle = vmm.registry.handle(0);
    for value in [2, 0, 1, 3, 2] {
        handle.write_value(Space::Mmio, 0x1050, Size::Dword, value);
    }
    handle.write_value(Space::Mmio, 0x1050, Size::Word, 2);
    drop((handle, vmm, vmm_end));
    server.join().unwrap().unwrap();
    let logs: Vec<_> = queues.iter().map(|queue| queue.take()).collect();
    let write = |value| format!("write 0x0/4 {value:#x}");
    assert_eq!(logs, [vec![write(0)], vec![write(1)], vec![write(2), write(2)]]);
    assert_eq!(device.take(), ["write 0x50/4 0x3", "write 0x50/2 0x2"]);
}

/// Fails in reads of its second byte.
struct Broken;

impl Handler for Broken {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        assert!(offset == 0, "the device is broken");
        7
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

#[test]
fn a_device_that_panics_still_answers_and_then_ends() {
    let (vmm_end, device_end) = channel(KINDS[0]);
    let vmm = Vmm::new(LinkOptions::default());
    vmm.set(&vmm_end, KvmIoregion { memory_size: 8, ..KvmIoregion::default() });
    let server = serve(device_end, 0, 8, Arc::new(Broken));
    let mut handle = vmm.registry.handle(0);
    assert_eq!(handle.read_value(Space::Mmio, 0, Size::Byte), 7);
    assert_eq!(handle.read_value(Space::Mmio, 1, Size::Byte), 0xff);
    assert!(matches!(server.join().unwrap(), Err(ServeError::Panicked)));
    assert_eq!(handle.read_value(Space::Mmio, 0, Size::Byte), 0xff);
    assert_eq!(vmm.deaths.lock().len(), 1);
}
