//! Devices that die, stall and lie, at every state of the protocol; and vCPUs that are called away.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use support::{Fds, KINDS, Kind, Registers, Vmm, channel, serve, until};
use trapline::{Answer, Channel, Forwarded, Requester, Size, Space, Waiter};
use trapline_remote::{
    Death, KvmIoregion, Link, LinkOptions, POSTED_WRITES, WhenFull, wire::Command,
};

const ONES: u64 = 0xffff_ffff;

/// A device's end to do anything with.
struct Device(OwnedFd, OwnedFd);

impl Device {
    fn new(fds: Fds) -> Self {
        let to = fds.to.unwrap_or_else(|| fds.from.try_clone().unwrap());
        Self(fds.from, to)
    }

    fn command(&self) -> Command {
        let mut bytes = [0; 32];
        let mut have = 0;
        while have < 32 {
            let n = rustix::io::read(&self.0, &mut bytes[have..]).unwrap();
            assert_ne!(n, 0, "the VMM has gone");
            have += n;
        }
        Command::decode(&bytes).unwrap().0
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.1, bytes).unwrap(), bytes.len());
    }

    fn respond(&self, data: u64) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&data.to_le_bytes());
        self.send(&bytes);
    }
}

fn vmm(options: LinkOptions) -> (Vmm, KvmIoregion) {
    let args = KvmIoregion { guest_paddr: 0x1000, memory_size: 8, ..KvmIoregion::default() };
    (Vmm::new(options), args)
}

/// What a device does with the first command that is waited for, and what is found of it.
type Misdeed = (&'static str, fn(Device), fn(&Death) -> bool, u64);

/// It has answered before the VMM does anything.
const ANSWERS_FIRST: &str = "answers before it is asked";

const MISDEEDS: [Misdeed; 7] = [
    ("dies before it has read it", drop, |d| *d == Death::Closed, ONES),
    (
        "dies when it has read it",
        |d| assert_eq!(d.command().offset, 0),
        |d| *d == Death::Closed,
        ONES,
    ),
    (
        "dies within the response",
        |d| {
            d.command();
            d.send(&[1; 20]);
        },
        |d| matches!(d, Death::Protocol(what) if what.contains("short")),
        ONES,
    ),
    (
        "dies when it has answered",
        |d| {
            d.command();
            d.respond(0x55);
        },
        |d| *d == Death::Closed,
        0x55,
    ),
    (
        ANSWERS_FIRST,
        |d| {
            let _ = io::copy(&mut std::fs::File::from(d.0), &mut io::sink());
        },
        |d| matches!(d, Death::Protocol(_)),
        ONES,
    ),
    (
        "answers twice",
        |d| {
            d.command();
            // At once: what comes after the next question cannot be told from its answer.
            let mut twice = [0x55; 64];
            twice[32..].fill(0x66);
            d.send(&twice);
            let _ = io::copy(&mut std::fs::File::from(d.0), &mut io::sink());
        },
        |d| matches!(d, Death::Protocol(_)),
        0x5555_5555,
    ),
    (
        "does not answer",
        |d| {
            d.command();
            let _ = io::copy(&mut std::fs::File::from(d.0), &mut io::sink());
        },
        |d| matches!(d, Death::Timeout(_)),
        ONES,
    ),
];

#[test]
fn whatever_a_device_does_the_guest_reads_something_and_one_death_is_reported() {
    for kind in KINDS {
        for (what, misdeed, death, value) in MISDEEDS {
            let (vmm_end, device_end) = channel(kind);
            let patience = Some(Duration::from_millis(200));
            let (vmm, args) =
                vmm(LinkOptions { reply_patience: patience, ..LinkOptions::default() });
            vmm.set(&vmm_end, args);
            drop(vmm_end);
            let device = Device::new(device_end);
            if what == ANSWERS_FIRST {
                device.respond(1);
            }
            let device = thread::spawn(move || misdeed(device));
            let mut handle = vmm.registry.handle(0);
            let read = handle.read_value(Space::Mmio, 0x1000, Size::Dword);
            // Two responses in one message are none.
            let value =
                if what == "answers twice" && kind == Kind::Seqpacket { ONES } else { value };
            assert_eq!(read, value, "{kind:?}: {what}");
            // From the second one on it is known.
            for _ in 0..3 {
                assert_eq!(handle.read_value(Space::Mmio, 0x1000, Size::Dword), ONES, "{what}");
                handle.write_value(Space::Mmio, 0x1000, Size::Dword, 1);
            }
            {
                let deaths = vmm.deaths.lock();
                assert!(
                    matches!(&deaths[..], [only] if death(only)),
                    "{kind:?}: {what}: {deaths:?}"
                );
            }
            drop((handle, vmm));
            device.join().unwrap();
        }
    }
}

/// The answer was sent before the device died, and is read though the socket reports the death first.
#[test]
fn an_answer_that_was_sent_is_read_though_its_sender_died_with_a_command_unread() {
    for kind in [Kind::Stream, Kind::Seqpacket] {
        let (vmm_end, device_end) = channel(kind);
        let (vmm, args) = vmm(LinkOptions::default());
        vmm.set(&vmm_end, KvmIoregion { flags: POSTED_WRITES, ..args });
        drop(vmm_end);
        let device = Device::new(device_end);
        let mut handle = vmm.registry.handle(0);
        let reader = thread::spawn(move || handle.read_value(Space::Mmio, 0x1000, Size::Dword));
        device.command();
        // One more is unread when it dies.
        vmm.registry.handle(1).write_value(Space::Mmio, 0x1000, Size::Dword, 1);
        device.respond(0x77);
        drop(device);
        let read = reader.join().unwrap();
        assert_eq!(read, 0x77, "{kind:?}");
    }
}

#[test]
fn a_full_queue_waits_for_a_while_and_then_does_what_it_was_told() {
    for kind in KINDS {
        for when_full in [WhenFull::Dead, WhenFull::Drop] {
            let (vmm_end, device_end) = channel(kind);
            let post_patience = Duration::from_millis(20);
            let link = Link::new(
                vmm_end.ends(),
                LinkOptions { post_patience, when_full, ..LinkOptions::default() },
            );
            let post = |value| link.write(&access(true), value, None);
            let taken = (0..100_000).take_while(|n| {
                let answer = post(*n);
                answer == Answer::Done(0) && link.stats().dropped == 0
            });
            let taken = taken.count();
            assert!((100..50_000).contains(&taken), "{kind:?}: {taken}");
            match when_full {
                WhenFull::Dead => {
                    assert!(!link.is_alive());
                    assert_eq!(link.stats().deaths, 1);
                }
                WhenFull::Drop => {
                    assert_eq!((link.is_alive(), link.stats().dropped), (true, 1));
                    // What was taken arrives, whole and in order.
                    let device = Device::new(device_end);
                    for n in 0..taken as u64 {
                        assert_eq!(device.command().data, n);
                    }
                    assert_eq!(post(0xabc), Answer::Done(0));
                    assert_eq!(device.command().data, 0xabc);
                }
            }
        }
    }
}

fn access(posted: bool) -> Forwarded {
    Forwarded {
        requester: Requester::Vcpu(0),
        user_data: 3,
        offset: 0,
        size: Some(Size::Dword),
        posted,
        more: false,
    }
}

#[derive(Default)]
struct CalledAway(AtomicBool);

impl Waiter for CalledAway {
    fn is_wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn who_is_called_away_finds_its_command_again_and_half_a_response_is_kept() {
    for kind in [Kind::Stream, Kind::Pipes] {
        let (vmm_end, device_end) = channel(kind);
        let link = Link::new(vmm_end.ends(), LinkOptions::default());
        let device = Device::new(device_end);
        let waiter = CalledAway(AtomicBool::new(true));
        let read = || link.read(&access(false), Some(&waiter));
        assert_eq!(read(), Answer::Interrupted);
        device.command();
        device.send(&[0x12, 0x34]);
        assert_eq!(read(), Answer::Interrupted);
        // Another vCPU waits behind it, and takes its place in looking for responses.
        let other = Forwarded { requester: Requester::Vcpu(1), ..access(false) };
        thread::scope(|scope| {
            let other = scope.spawn(|| link.read(&other, None));
            device.send(&[0; 30]);
            assert_eq!(device.command().user_data, 3);
            device.respond(2);
            assert_eq!(other.join().unwrap(), Answer::Done(2));
        });
        assert_eq!(read(), Answer::Done(0x3412), "it was there all the time");
        assert_eq!(link.stats().responses, 2);
    }
}

#[test]
fn who_comes_back_with_another_access_does_not_get_the_answer_to_the_one_it_left() {
    let (vmm_end, device_end) = channel(Kind::Seqpacket);
    let link = Link::new(vmm_end.ends(), LinkOptions::default());
    let device = Device::new(device_end);
    let away = CalledAway(AtomicBool::new(true));
    assert_eq!(link.read(&access(false), Some(&away)), Answer::Interrupted);
    let other = Forwarded { offset: 4, ..access(false) };
    thread::scope(|scope| {
        let read = scope.spawn(|| link.read(&other, None));
        assert_eq!(device.command().offset, 0);
        device.respond(1);
        assert_eq!(device.command().offset, 4);
        device.respond(2);
        assert_eq!(read.join().unwrap(), Answer::Done(2));
    });
}

#[test]
fn who_does_not_come_back_does_not_get_the_answer_to_what_it_left_the_next_time() {
    let (vmm_end, device_end) = channel(Kind::Seqpacket);
    let link = Link::new(vmm_end.ends(), LinkOptions::default());
    let device = Device::new(device_end);
    let away = CalledAway(AtomicBool::new(true));
    for left in [1, 3] {
        assert_eq!(link.read(&access(false), Some(&away)), Answer::Interrupted);
        link.forget(Requester::Vcpu(1));
        link.forget(Requester::Vcpu(0));
        thread::scope(|scope| {
            let read = scope.spawn(|| link.read(&access(false), None));
            for value in [left, left + 1] {
                assert_eq!(device.command().offset, 0);
                device.respond(value);
            }
            assert_eq!(read.join().unwrap(), Answer::Done(left + 1), "asked anew");
        });
    }
}

/// As when a machine is reset: the guest may begin with the access that it was in the middle of.
#[test]
fn an_access_that_is_given_up_is_made_anew_even_if_it_is_the_same() {
    let (vmm_end, device_end) = channel(Kind::Seqpacket);
    let vmm = Vmm::new(LinkOptions::default());
    vmm.set(&vmm_end, KvmIoregion { memory_size: 8, ..KvmIoregion::default() });
    let device = Device::new(device_end);
    let away = Arc::new(CalledAway(AtomicBool::new(true)));
    let mut handle = vmm.registry.handle(0);
    handle.set_waiter(away.clone());
    let mut write = |is_away, is_given_up| {
        away.0.store(is_away, Ordering::SeqCst);
        if is_given_up {
            handle.forget_interrupted();
        }
        handle.write_value(Space::Mmio, 0, Size::Byte, 0xfe);
        handle.take_interrupted()
    };
    assert!(write(true, false));
    assert_eq!(device.command().data, 0xfe);
    device.respond(0);
    assert!(!write(false, false), "it was answered meanwhile");
    for _ in 0..2 {
        assert!(write(true, false));
        assert_eq!(device.command().data, 0xfe);
        device.respond(0);
        thread::scope(|scope| {
            let another = scope.spawn(|| write(false, true));
            assert_eq!(device.command().data, 0xfe);
            device.respond(0);
            assert!(!another.join().unwrap());
        });
    }
}

#[test]
fn who_waits_for_room_can_be_called_away_and_has_sent_nothing_then() {
    for kind in KINDS {
        let (vmm_end, device_end) = channel(kind);
        let link = Link::new(vmm_end.ends(), LinkOptions::default());
        let away = CalledAway::default();
        let post = |value| link.write(&access(true), value, Some(&away));
        away.0.store(true, Ordering::SeqCst);
        let taken = (0..).take_while(|n| post(*n) == Answer::Done(0)).count() as u64;
        assert_eq!(post(taken), Answer::Interrupted, "still no room");
        let device = Device::new(device_end);
        (0..taken).for_each(|n| assert_eq!(device.command().data, n));
        assert_eq!(post(taken), Answer::Done(0));
        assert_eq!(device.command().data, taken, "once");
    }
}

#[test]
fn a_region_goes_while_somebody_waits_for_it_and_its_answer_is_nobody_elses() {
    for kind in KINDS {
        let (vmm_end, device_end) = channel(kind);
        let (vmm, args) = vmm(LinkOptions::default());
        let other = KvmIoregion { guest_paddr: 0x2000, user_data: 1, ..args };
        vmm.set(&vmm_end, args);
        vmm.set(&vmm_end, other);
        let device = Device::new(device_end);
        thread::scope(|scope| {
            let mut handle = vmm.registry.handle(0);
            let read = scope.spawn(move || handle.read_value(Space::Mmio, 0x1000, Size::Dword));
            device.command();
            let gone = KvmIoregion { read_fd: -1, write_fd: -1, ..args };
            vmm.regions.set_ioregion(&gone).unwrap();
            assert_eq!(read.join().unwrap(), ONES);
            let mut handle = vmm.registry.handle(0);
            let read = scope.spawn(move || handle.read_value(Space::Mmio, 0x2000, Size::Dword));
            device.respond(1);
            assert_eq!(device.command().user_data, 1);
            device.respond(2);
            assert_eq!(read.join().unwrap(), 2);
        });
        assert!(vmm.deaths.lock().is_empty());
    }
}

#[test]
fn another_device_goes_on_in_the_place_of_a_dead_one() {
    let (first, device_end) = channel(Kind::Seqpacket);
    let link = Link::new(first.ends(), LinkOptions::default());
    drop(device_end);
    assert_eq!(link.read(&access(false), None), Answer::Gone);
    let (second, device_end) = channel(Kind::Stream);
    link.replace(second.ends());
    let registers = Registers::new(8);
    registers.bytes.lock()[0] = 0x99;
    let _server = serve(device_end, 3, 8, registers);
    assert_eq!(link.read(&access(false), None), Answer::Done(0x99));
    assert_eq!(link.stats().deaths, 1);
}

#[test]
fn what_is_kept_back_for_more_to_follow_goes_out_in_one_piece() {
    let (vmm_end, device_end) = channel(Kind::Stream);
    let link = Link::new(vmm_end.ends(), LinkOptions::default());
    let more = Forwarded { more: true, ..access(true) };
    (0..50).for_each(|n| assert_eq!(link.write(&more, n, None), Answer::Done(0)));
    let nothing = rustix::net::recv(
        device_end.from.as_fd(),
        &mut [0_u8; 32][..],
        rustix::net::RecvFlags::DONTWAIT,
    );
    assert_eq!(nothing.map(|(n, _)| n), Err(Errno::AGAIN));
    link.flush();
    let mut bytes = [0; 64 * 32];
    let got = rustix::io::read(&device_end.from, &mut bytes).unwrap();
    assert_eq!(got, 50 * 32);
    // Without a flush it goes before whatever is next.
    (0..3).for_each(|n| assert_eq!(link.write(&more, n, None), Answer::Done(0)));
    assert_eq!(link.write(&access(true), 3, None), Answer::Done(0));
    let device = Device::new(device_end);
    (0..4).for_each(|n| assert_eq!(device.command().data, n));
}

#[test]
fn a_device_that_stalls_keeps_no_vcpu_from_another_channel() {
    let (vmm, args) = vmm(LinkOptions::default());
    let (stalled, stalled_device) = channel(Kind::Stream);
    let (lively, lively_device) = channel(Kind::Stream);
    vmm.set(&stalled, args);
    vmm.set(&lively, KvmIoregion { guest_paddr: 0x2000, user_data: 1, ..args });
    let _server = serve(lively_device, 1, 8, Registers::new(8));
    let device = Device::new(stalled_device);
    let mut handle = vmm.registry.handle(0);
    let waits = thread::spawn(move || handle.read_value(Space::Mmio, 0x1000, Size::Dword));
    device.command();
    let mut handle = vmm.registry.handle(1);
    handle.write_value(Space::Mmio, 0x2000, Size::Dword, 5);
    assert_eq!(handle.read_value(Space::Mmio, 0x2000, Size::Dword), 5);
    assert!(!waits.is_finished());
    let mut last = std::fs::File::from(device.1);
    last.write_all(&[1; 32]).unwrap();
    until("the answer", || waits.is_finished());
    assert_eq!(waits.join().unwrap(), 0x0101_0101);
}
