//! Servers that share no code with this crate: one in Python, written from the thread of the patches
//! alone, and the example in C.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use support::{Fds, KINDS, Kind, Vmm, channel};
use trapline::{Size, Space};
use trapline_remote::wire::{Features, Layout};
use trapline_remote::{DATAMATCH, FAST_MMIO, KvmIoregion, Link, LinkOptions, PIO, POSTED_WRITES};

const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];
const VALUE: u64 = 0xf8e7_d6c5_b4a3_9281;

/// Starts a program with the device's end as its standard input and output.
fn start(program: &mut Command, device: Fds) -> Option<Child> {
    let to = device.to.unwrap_or_else(|| device.from.try_clone().unwrap());
    program.stdin(Stdio::from(device.from)).stdout(Stdio::from(to)).spawn().ok()
}

fn here(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The whole matrix: space, posted or not, without data or of one value, every width.
fn drive(vmm: &Vmm, ends: &Fds) {
    let mut user_data = 0x1000;
    for (pio, base) in [(0, 0x1_0000_0000), (PIO, 0x100)] {
        let space = if pio == 0 { Space::Mmio } else { Space::Pio };
        for posted in [0, POSTED_WRITES] {
            for size in SIZES {
                user_data += 1;
                let guest_paddr = base + 0x40 * user_data % 0x4000;
                let memory_size = 0x30;
                let flags = pio | posted;
                let args = KvmIoregion {
                    guest_paddr,
                    memory_size,
                    user_data,
                    flags,
                    ..KvmIoregion::default()
                };
                vmm.set(ends, args);
                let mut handle = vmm.registry.handle(0);
                let at = guest_paddr + 0x10;
                let value = VALUE & size.ones();
                handle.write_value(space, at, size, value);
                assert_eq!(handle.read_value(space, at, Size::Qword), value);
                let len = size.bytes() as u64;
                let flags = flags | DATAMATCH;
                let of_value =
                    KvmIoregion { flags, memory_size: len, guest_paddr: at, datamatch: 5, ..args };
                // In front of the other, and for another register of the device.
                vmm.set(ends, KvmIoregion { user_data: 1, ..of_value });
                handle.write_value(space, at, size, 5);
                handle.write_value(space, at + 8, size, 6);
                assert_eq!(handle.read_value(space, at, size), value, "the other's");
                assert_eq!(handle.read_value(space, at + 8, size), 6);
                if pio == 0 {
                    let flags = FAST_MMIO | posted;
                    let bell = KvmIoregion {
                        flags,
                        guest_paddr: at + 0x20,
                        memory_size: 0,
                        user_data: 2,
                        ..args
                    };
                    vmm.set(ends, bell);
                    handle.write_value(space, at + 0x20, size, VALUE);
                    handle.read_value(space, at + 0x20, size);
                    assert!(handle.take_told_nothing());
                }
            }
        }
    }
    // What a value's window was told, and the bells' nothing.
    let check = KvmIoregion {
        guest_paddr: 0x9000,
        memory_size: 0x40,
        user_data: 1,
        ..KvmIoregion::default()
    };
    vmm.set(ends, check);
    let end = KvmIoregion { guest_paddr: 0xa000, flags: POSTED_WRITES, ..check };
    vmm.set(ends, end);
    let mut handle = vmm.registry.handle(0);
    assert_eq!(handle.read_value(Space::Mmio, 0x9000, Size::Qword), 5);
    handle.write_value(Space::Mmio, 0xa038, Size::Byte, 1);
    assert!(vmm.deaths.lock().is_empty(), "{:?}", vmm.deaths.lock());
}

#[test]
fn a_server_in_python_serves_the_whole_matrix() {
    for kind in KINDS {
        for (layout, name) in [(Layout::V1, "v1"), (Layout::V3, "v3")] {
            let (vmm_end, device_end) = channel(kind);
            let arrival = if kind == Kind::Seqpacket { "packets" } else { "stream" };
            let mut python = Command::new("python3");
            python.arg(here("tests/server.py")).args([name, arrival]);
            let Some(mut server) = start(&mut python, device_end) else {
                println!("SKIPPED a_server_in_python_serves_the_whole_matrix: no python3");
                return;
            };
            let vmm = Vmm::new(LinkOptions { layout, ..LinkOptions::default() });
            drop(python);
            drive(&vmm, &vmm_end);
            assert!(server.wait().unwrap().success(), "{kind:?} {layout:?}");
        }
    }
}

#[test]
fn a_server_in_python_answers_two_vcpus_in_another_order_by_ids() {
    for kind in KINDS {
        let (vmm_end, device_end) = channel(kind);
        let arrival = if kind == Kind::Seqpacket { "packets" } else { "stream" };
        let mut python = Command::new("python3");
        python.arg(here("tests/server.py")).args(["ids", arrival]);
        let Some(mut server) = start(&mut python, device_end) else {
            println!("SKIPPED a_server_in_python_answers_by_ids: no python3");
            return;
        };
        drop(python);
        let wanted = Features::IDS;
        let (ends, granted) = vmm_end.ends().negotiate(wanted, support::PATIENCE).unwrap();
        assert_eq!(granted, wanted);
        let link = Arc::new(Link::new(ends, LinkOptions { ids: true, ..LinkOptions::default() }));
        let vmm = Vmm::new(LinkOptions::default());
        let args = KvmIoregion { guest_paddr: 0x1000, memory_size: 0x40, ..KvmIoregion::default() };
        vmm.regions.assign(&args, Arc::clone(&link)).unwrap();
        let mut handle = vmm.registry.handle(0);
        handle.write_value(Space::Mmio, 0x1030, Size::Dword, 0x11);
        handle.write_value(Space::Mmio, 0x1008, Size::Dword, 0x22);
        assert_eq!(handle.read_value(Space::Mmio, 0x1028, Size::Word), 0xffff, "it fails");
        // The first is answered when the second is there, and after it.
        let mut other = vmm.registry.handle(1);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| handle.read_value(Space::Mmio, 0x1030, Size::Dword));
            support::until("a command", || link.stats().commands == 4);
            while !first.is_finished() {
                assert_eq!(other.read_value(Space::Mmio, 0x1008, Size::Dword), 0x22);
            }
            assert_eq!(first.join().unwrap(), 0x11);
        });
        drop((handle, other, vmm, link));
        assert!(server.wait().unwrap().success(), "{kind:?}");
    }
}

#[test]
fn the_example_in_c_counts() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("counter");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-I"]).arg(here("include"));
    let Ok(status) = cc.arg("-o").arg(&program).arg(here("examples/counter.c")).status() else {
        println!("SKIPPED the_example_in_c_counts: no C compiler (cc)");
        return;
    };
    assert!(status.success());
    for kind in KINDS {
        for layout in [Layout::V1, Layout::V3] {
            let (vmm_end, device_end) = channel(kind);
            let mut command = Command::new(&program);
            let mut server = start(&mut command, device_end).unwrap();
            drop(command);
            let vmm = Vmm::new(LinkOptions { layout, ..LinkOptions::default() });
            let args =
                KvmIoregion { guest_paddr: 0x1000, memory_size: 16, ..KvmIoregion::default() };
            vmm.set(&vmm_end, args);
            let mut handle = vmm.registry.handle(0);
            handle.write_value(Space::Mmio, 0x1000, Size::Qword, 0xff_ffff_fffe);
            assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Dword), 0xffff_fffe);
            assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Qword), 0xff_ffff_ffff);
            handle.write_value(Space::Mmio, 0x1002, Size::Word, 0x1234);
            assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Qword), 0x100_1234_0000);
            assert_eq!(handle.read_value(Space::Mmio, 0x1008, Size::Word), 0xffff);
            drop((handle, vmm, vmm_end));
            assert!(server.wait().unwrap().success());
        }
    }
}
