//! The table of errors of `KVM_SET_IOREGION`, and what it collides with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::io::Errno;
use support::{Kind, Registers, Vmm, channel, serve, with_fds};
use trapline::{EventFd, Region, Size, Space};
use trapline_remote::{
    DATAMATCH, DEASSIGN, FAST_MMIO, KvmIoregion, LinkOptions, PIO, POSTED_WRITES,
};

const NONE: KvmIoregion = KvmIoregion {
    guest_paddr: 0x1000,
    memory_size: 8,
    user_data: 7,
    read_fd: -1,
    write_fd: -1,
    flags: 0,
    pad: 0,
    datamatch: 0,
    pad2: [0; 16],
};

#[test]
fn what_cannot_be_is_refused_as_the_patches_did() {
    let (ends, _device) = channel(Kind::Pipes);
    let vmm = Vmm::new(LinkOptions::default());
    let args = with_fds(&ends, NONE);
    let cases: Vec<(&str, KvmIoregion, Errno)> = vec![
        ("an unknown flag", KvmIoregion { flags: 1 << 5, ..args }, Errno::INVAL),
        ("a fast port", KvmIoregion { flags: PIO | FAST_MMIO, ..args }, Errno::INVAL),
        (
            "a value without data",
            KvmIoregion { flags: DATAMATCH | FAST_MMIO, ..args },
            Errno::INVAL,
        ),
        (
            "a value of three bytes",
            KvmIoregion { flags: DATAMATCH, memory_size: 3, ..args },
            Errno::INVAL,
        ),
        (
            "a value that is too wide",
            KvmIoregion { flags: DATAMATCH, memory_size: 1, datamatch: 0x100, ..args },
            Errno::INVAL,
        ),
        ("an address that wraps", KvmIoregion { guest_paddr: u64::MAX - 6, ..args }, Errno::INVAL),
        (
            "a port past the last",
            KvmIoregion { guest_paddr: 0xfff9, flags: PIO, ..args },
            Errno::INVAL,
        ),
        ("no size, waited for", KvmIoregion { memory_size: 0, ..args }, Errno::INVAL),
        ("one descriptor of two", KvmIoregion { read_fd: -1, ..args }, Errno::INVAL),
        ("the other one", KvmIoregion { write_fd: -1, ..args }, Errno::INVAL),
        ("a closed descriptor", KvmIoregion { read_fd: 1_000_000, ..args }, Errno::BADF),
        ("a descriptor of none", KvmIoregion { write_fd: 1_000_001, ..args }, Errno::BADF),
        ("a negative descriptor", KvmIoregion { write_fd: -2, ..args }, Errno::BADF),
        ("nothing to take away", NONE, Errno::NOENT),
        ("nothing, by the flag", KvmIoregion { flags: DEASSIGN, ..args }, Errno::NOENT),
    ];
    for (what, args, error) in cases {
        assert_eq!(vmm.regions.set_ioregion(&args), Err(error), "{what}");
    }
    assert!(vmm.registry.stats().regions.is_empty());
}

#[test]
fn what_goes_is_what_came_whichever_way_it_is_said() {
    let (ends, _device) = channel(Kind::Seqpacket);
    let vmm = Vmm::new(LinkOptions::default());
    let set = |args: KvmIoregion| vmm.regions.set_ioregion(&args);
    let args = with_fds(&ends, NONE);
    set(args).unwrap();
    assert_eq!(set(KvmIoregion { memory_size: 4, flags: DEASSIGN, ..args }), Err(Errno::NOENT));
    assert_eq!(set(KvmIoregion { guest_paddr: 0x1001, ..NONE }), Err(Errno::NOENT));
    assert_eq!(set(KvmIoregion { flags: PIO, ..NONE }), Err(Errno::NOENT));
    set(KvmIoregion { flags: DEASSIGN, ..args }).unwrap();
    set(args).unwrap();
    set(NONE).unwrap();
    assert_eq!(set(NONE), Err(Errno::NOENT));
    let one = KvmIoregion { flags: DATAMATCH, datamatch: 1, ..args };
    let two = KvmIoregion { datamatch: 2, ..one };
    set(one).unwrap();
    set(two).unwrap();
    set(KvmIoregion { flags: DATAMATCH | DEASSIGN, ..one }).unwrap();
    assert_eq!(vmm.registry.stats().regions.len(), 1);
    set(KvmIoregion { flags: DATAMATCH | DEASSIGN, ..two }).unwrap();
    assert!(vmm.registry.stats().regions.is_empty());
    // Values of more bytes than the first one's, and the shorter one still gets its own.
    for memory_size in [1, 4, 2] {
        set(KvmIoregion { memory_size, ..one }).unwrap();
    }
    assert_eq!(vmm.registry.stats().regions.len(), 1);
    assert_eq!(vmm.registry.stats().regions.first().and_then(|r| r.range), Some((0x1000, 0x1003)));
    for memory_size in [4, 1, 2] {
        set(KvmIoregion { memory_size, flags: DATAMATCH | DEASSIGN, ..one }).unwrap();
    }
    assert!(vmm.registry.stats().regions.is_empty());
    // Half the space, up to its end.
    set(KvmIoregion { guest_paddr: 1 << 63, memory_size: 1 << 63, ..args }).unwrap();
}

#[test]
fn what_is_in_the_way_is_in_the_way() {
    let (ends, _device) = channel(Kind::Stream);
    let vmm = Vmm::new(LinkOptions::default());
    let set = |args: KvmIoregion| vmm.regions.set_ioregion(&args);
    let args = with_fds(&ends, NONE);
    let exists = |args| assert_eq!(set(args), Err(Errno::EXIST), "{args:x?}");
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let event = EventFd::new(event);
    let device = Region::mmio(0x2000, 0x100, "d", "r", Registers::new(0x100));
    let device = device.doorbell(0x50, 4, None, event.clone()).doorbell(0x60, 4, Some(1), event);
    let _device = vmm.registry.map(device.coalesce(0..8)).unwrap();
    set(args).unwrap();
    exists(args);
    exists(KvmIoregion { guest_paddr: 0x1007, memory_size: 1, ..args });
    exists(KvmIoregion { guest_paddr: 0xff9, ..args });
    set(KvmIoregion { guest_paddr: 0xff8, ..args }).unwrap();
    set(KvmIoregion { guest_paddr: 0x1008, ..args }).unwrap();
    // A device's region, whole or in part; its eventfds.
    exists(KvmIoregion { guest_paddr: 0x20fc, ..args });
    exists(KvmIoregion { guest_paddr: 0x1fff, ..args });
    exists(KvmIoregion { guest_paddr: 0x2050, memory_size: 4, ..args });
    let one = KvmIoregion { guest_paddr: 0x2060, memory_size: 4, flags: DATAMATCH, ..args };
    exists(KvmIoregion { datamatch: 1, ..one });
    set(KvmIoregion { datamatch: 2, ..one }).unwrap();
    exists(KvmIoregion { datamatch: 2, ..one });
    set(KvmIoregion { guest_paddr: 0x2080, ..args }).unwrap();
}

#[test]
fn in_front_of_a_device_it_takes_its_place_and_gives_it_back() {
    let ((ends, device_end), here) = (channel(Kind::Stream), Registers::new(0x10));
    let vmm = Vmm::new(LinkOptions::default());
    let local = Region::pio(0x3f8, 0x10, "serial0", "uart", here.clone()).coalesce(0..1);
    let _mapping = vmm.registry.map(local).unwrap();
    let there = Registers::new(8);
    let _server = serve(device_end, 7, 8, there.clone());
    let args = KvmIoregion { guest_paddr: 0x3f8, flags: PIO, ..with_fds(&ends, NONE) };
    let write = |port| vmm.registry.handle(0).write_value(Space::Pio, port, Size::Byte, 1);
    let deliveries = || vmm.registry.stats().to_string();
    vmm.regions.set_ioregion(&args).unwrap();
    assert!(!deliveries().contains("coalesced"), "{}", deliveries());
    [0x3f8, 0x400].into_iter().for_each(write);
    assert_eq!(
        (there.take(), here.take()),
        (vec!["write 0x0/1 0x1".into()], vec!["write 0x8/1 0x1".into()])
    );
    vmm.regions.set_ioregion(&KvmIoregion { flags: PIO | DEASSIGN, ..args }).unwrap();
    assert!(deliveries().contains("coalesced"));
    write(0x3f8);
    assert_eq!((there.take(), here.take()), (vec![], vec!["write 0x0/1 0x1".to_owned()]));
    // What is posted can be queued, too.
    vmm.regions.set_ioregion(&KvmIoregion { flags: PIO | POSTED_WRITES, ..args }).unwrap();
    assert!(deliveries().contains("coalesced"));
}

#[test]
fn regions_of_the_same_descriptors_are_on_one_channel_and_go_with_their_owner() {
    let ((ends, device_end), device) = (channel(Kind::Stream), Registers::new(8));
    let vmm = Vmm::new(LinkOptions::default());
    let twin = ends.from.try_clone().unwrap();
    let args = with_fds(&ends, NONE);
    vmm.regions.set_ioregion(&args).unwrap();
    let twin_fd = twin.as_raw_fd();
    let same = KvmIoregion { guest_paddr: 0x2000, read_fd: twin_fd, write_fd: twin_fd, ..args };
    vmm.regions.set_ioregion(&same).unwrap();
    let server = serve(device_end, 7, 8, device.clone());
    let mut handle = vmm.registry.handle(0);
    handle.write_value(Space::Mmio, 0x1000, Size::Byte, 3);
    assert_eq!(handle.read_value(Space::Mmio, 0x2000, Size::Byte), 3);
    drop((ends, twin));
    let Vmm { registry, regions, deaths } = vmm;
    drop(regions);
    assert!(registry.stats().regions.is_empty());
    server.join().unwrap().unwrap();
    assert!(Arc::strong_count(&deaths) >= 1 && deaths.lock().is_empty());
}
