//! What goes beyond the patches: ids, and a ring in memory, each with a device that behaves and with one
//! that does not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use support::{KINDS, Kind, PATIENCE, Registers, Vmm, channel, serve, until};
use trapline::{Answer, Channel, Forwarded, Handler, IoCx, Requester, Size, Space};
use trapline_remote::wire::{Command, Features, Hello, Op, Reply, Response};
use trapline_remote::{
    Death, Ends, KvmIoregion, Link, LinkOptions, POSTED_WRITES, ServeError, Server,
};

const WANTED: [Features; 4] = [Features::NONE, Features::IDS, Features::RING, Features::ALL];

/// A link whose deaths are remembered.
fn link(
    ends: Ends,
    granted: Features,
    options: LinkOptions,
) -> (Arc<Link>, Arc<Mutex<Vec<Death>>>) {
    let deaths = Arc::<Mutex<Vec<Death>>>::default();
    let log = Arc::clone(&deaths);
    let on_death = Arc::new(move |death: &Death| log.lock().push(death.clone()));
    let ids = granted.has(Features::IDS);
    (Arc::new(Link::new(ends, LinkOptions { on_death, ids, ..options })), deaths)
}

fn access(vcpu: u32, user_data: u64) -> Forwarded {
    Forwarded {
        requester: Requester::Vcpu(vcpu),
        user_data,
        offset: 0,
        size: Some(Size::Qword),
        posted: false,
        more: false,
    }
}

#[test]
fn both_ends_agree_on_what_both_know() {
    for kind in KINDS {
        for wanted in WANTED {
            for offered in WANTED {
                let (ours, theirs) = channel(kind);
                let device = Registers::new(8);
                let served: Arc<dyn Handler> = device.clone();
                let server = thread::spawn(move || {
                    let mut server = Server::new().with_features(offered);
                    server.region(0, 8, served).unwrap();
                    server.serve(&theirs.ends(), None)
                });
                let (ends, granted) = ours.ends().negotiate(wanted, PATIENCE).unwrap();
                let most = if kind == Kind::Pipes { Features::IDS } else { Features::ALL };
                assert_eq!(granted, wanted.and(offered).and(most), "{kind:?}");
                let (link, deaths) = link(ends, granted, LinkOptions::default());
                for n in 0..200 {
                    let posted = Forwarded { posted: n % 3 > 0, ..access(0, 0) };
                    assert_eq!(link.write(&posted, n, None), Answer::Done(0));
                    if n % 7 == 0 {
                        assert_eq!(link.read(&access(0, 0), None), Answer::Done(n));
                    }
                }
                assert!(deaths.lock().is_empty(), "{:?}", deaths.lock());
                drop(link);
                server.join().unwrap().unwrap();
                assert_eq!(device.take().len(), 200 + 29);
            }
        }
    }
}

#[test]
fn a_device_of_before_is_not_asked_twice() {
    // One that takes a hello for no command ends; one that says nothing is given up.
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let ends = Ends::socket(OwnedFd::from(ours)).unwrap();
    let error = ends.negotiate(Features::ALL, PATIENCE).unwrap_err();
    assert!(
        [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::UnexpectedEof].contains(&error.kind())
    );
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let ends = Ends::socket(OwnedFd::from(ours)).unwrap();
    let error = ends.negotiate(Features::ALL, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// Echoes what the region's vCPU wrote last.
struct Echo(AtomicU64, u64);

impl Handler for Echo {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        self.0.load(Ordering::Relaxed) | self.1 << 32
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

#[test]
fn vcpus_on_one_channel_get_their_own_answers_with_ids_and_by_a_ring() {
    for wanted in WANTED {
        let (ours, theirs) = channel(Kind::Seqpacket);
        let server = thread::spawn(move || {
            let mut server = Server::new();
            for vcpu in 0..4 {
                server.region(vcpu, 8, Arc::new(Echo(AtomicU64::new(0), vcpu))).unwrap();
            }
            server.serve(&theirs.ends(), None)
        });
        let (ends, granted) = ours.ends().negotiate(wanted, PATIENCE).unwrap();
        let (link, deaths) = link(ends, granted, LinkOptions::default());
        thread::scope(|scope| {
            for vcpu in 0..4_u32 {
                let link = &link;
                scope.spawn(move || {
                    let mine = access(vcpu, vcpu.into());
                    for n in 0..500 {
                        let write = Forwarded { posted: vcpu == 1, ..mine };
                        assert_eq!(link.write(&write, n, None), Answer::Done(0));
                        let expected = Answer::Done(n | u64::from(vcpu) << 32);
                        assert_eq!(link.read(&mine, None), expected);
                    }
                });
            }
        });
        assert!(deaths.lock().is_empty(), "{:?}", deaths.lock());
        drop(link);
        server.join().unwrap().unwrap();
    }
}

/// A device that is played by hand.
fn by_hand(features: Features) -> (Ends, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ends = Ends::socket(OwnedFd::from(ours)).unwrap();
    let vmm = thread::spawn(move || ends.negotiate(features, PATIENCE).unwrap().0);
    let mut bytes = [0; 32];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(Hello::decode(&bytes), Some(Hello { features }));
    theirs.write_all(&Response { data: features.bits() }.encode()).unwrap();
    (vmm.join().unwrap(), theirs)
}

fn next(device: &mut UnixStream) -> (Command, u32) {
    let mut bytes = [0; 32];
    device.read_exact(&mut bytes).unwrap();
    Command::decode_with_id(&bytes).unwrap()
}

#[test]
fn answers_come_in_any_order_and_a_failure_reads_as_ones() {
    let (ends, mut device) = by_hand(Features::IDS);
    let (link, deaths) = link(ends, Features::IDS, LinkOptions::default());
    thread::scope(|scope| {
        let vcpus: Vec<_> = (0..3_u32)
            .map(|vcpu| {
                let link = Arc::clone(&link);
                scope.spawn(move || link.read(&access(vcpu, vcpu.into()), None))
            })
            .collect();
        // All three are on their way before any is answered.
        let mut commands: Vec<_> = (0..3).map(|_| next(&mut device)).collect();
        commands.sort_by_key(|(command, _)| std::cmp::Reverse(command.user_data));
        for (command, id) in commands {
            assert_eq!(command.op, Op::Read);
            let failed = command.user_data == 1;
            let reply = Reply { id, data: command.user_data * 10, failed };
            device.write_all(&reply.encode()).unwrap();
        }
        let answers: Vec<_> = vcpus.into_iter().map(|vcpu| vcpu.join().unwrap()).collect();
        assert_eq!(answers, [Answer::Done(0), Answer::Done(u64::MAX), Answer::Done(20)]);
    });
    assert!(deaths.lock().is_empty());
}

#[test]
fn an_id_that_nobody_has_and_one_that_was_answered_are_the_end() {
    for (first, second) in [(0_u32, 77_u32), (0, 0)] {
        let (ends, mut device) = by_hand(Features::IDS);
        let (link, deaths) = link(ends, Features::IDS, LinkOptions::default());
        thread::scope(|scope| {
            let vcpu = scope.spawn(|| link.read(&access(0, 0), None));
            let (_, id) = next(&mut device);
            let reply = |id| Reply { id, data: 5, failed: false }.encode();
            let both = [reply(id.wrapping_add(first)), reply(id.wrapping_add(second))].concat();
            device.write_all(&both).unwrap();
            // What came first counts, also where both are found together.
            let answer = vcpu.join().unwrap();
            assert!([Answer::Done(5), Answer::Gone].contains(&answer), "{answer:?}");
        });
        // The other is found by whoever looks next.
        assert_eq!(link.read(&access(0, 0), None), Answer::Gone);
        assert!(matches!(deaths.lock()[..], [Death::Protocol(_)]), "{:?}", deaths.lock());
    }
}

#[test]
fn a_region_that_is_gone_takes_the_answer_of_its_own_id() {
    let (ends, mut device) = by_hand(Features::IDS);
    let (link, deaths) = link(ends, Features::IDS, LinkOptions::default());
    thread::scope(|scope| {
        let lost = scope.spawn(|| link.read(&access(0, 0), None));
        let (_, first) = next(&mut device);
        let kept = scope.spawn(|| link.read(&access(1, 1), None));
        let (_, second) = next(&mut device);
        link.cancel(0);
        assert_eq!(lost.join().unwrap(), Answer::Gone);
        for (id, data) in [(second, 2), (first, 1)] {
            device.write_all(&Reply { id, data, failed: false }.encode()).unwrap();
        }
        assert_eq!(kept.join().unwrap(), Answer::Done(2));
    });
    assert!(deaths.lock().is_empty());
}

/// A device by hand that has the ring's memory.
fn ring_by_hand(features: Features) -> (Ends, UnixStream, std::fs::File) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ends = Ends::socket(OwnedFd::from(ours)).unwrap();
    let vmm = thread::spawn(move || ends.negotiate(features, PATIENCE).unwrap().0);
    let (mut bytes, mut space) =
        ([0; 32], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    recvmsg(&theirs, &mut parts, &mut control, RecvFlags::empty()).unwrap();
    let memory = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (&theirs).write_all(&Response { data: features.bits() }.encode()).unwrap();
    (vmm.join().unwrap(), theirs, memory.unwrap().into())
}

#[test]
fn a_ring_whose_counts_cannot_be_is_the_end() {
    // Where the response's head, or the commands' tail, is set to what.
    for (at, value) in [(128, 257_u32), (128, u32::MAX), (64, 1), (64, 0x8000_0000)] {
        let (ends, socket, memory) = ring_by_hand(Features::RING);
        let (link, deaths) = link(ends, Features::NONE, LinkOptions::default());
        memory.write_all_at(&value.to_le_bytes(), at).unwrap();
        let posted = Forwarded { posted: true, ..access(0, 0) };
        link.write(&posted, 1, None);
        assert_eq!(link.read(&access(0, 0), None), Answer::Gone, "{at} {value:#x}");
        assert!(matches!(deaths.lock()[..], [Death::Protocol(_)]), "{:?}", deaths.lock());
        drop(socket);
    }
}

#[test]
fn a_ring_that_changes_under_its_reader_is_not_believed() {
    // The device writes noise all over the memory, counts included, and never ends.
    let (ends, socket, memory) = ring_by_hand(Features::ALL);
    let patience = Duration::from_millis(200);
    let options = LinkOptions {
        reply_patience: Some(patience),
        post_patience: patience,
        ..LinkOptions::default()
    };
    let (link, deaths) = link(ends, Features::IDS, options);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut noise = [0; 512];
            while link.is_alive() {
                random.fill(&mut noise);
                memory.write_all_at(&noise, random.u64(0..4096 + 16384 - 512)).unwrap();
            }
        });
        while link.is_alive() {
            link.write(&Forwarded { posted: true, ..access(0, 0) }, 1, None);
            link.read(&access(0, 0), None);
        }
    });
    assert_eq!(deaths.lock().len(), 1);
    drop(socket);
}

#[test]
fn the_end_of_a_device_with_a_ring_is_noticed() {
    let (ends, socket, _memory) = ring_by_hand(Features::RING);
    let (link, deaths) = link(ends, Features::NONE, LinkOptions::default());
    let waiting = Arc::clone(&link);
    let vcpu = thread::spawn(move || waiting.read(&access(0, 0), None));
    until("a command", || link.stats().commands == 1);
    drop(socket);
    assert_eq!(vcpu.join().unwrap(), Answer::Gone);
    assert_eq!(*deaths.lock(), [Death::Closed]);
}

#[test]
fn a_full_ring_waits_for_a_slow_device_and_no_longer() {
    let (ends, socket, _memory) = ring_by_hand(Features::RING);
    let post_patience = Duration::from_millis(100);
    let options = LinkOptions { post_patience, ..LinkOptions::default() };
    let (link, deaths) = link(ends, Features::NONE, options);
    let posted = Forwarded { posted: true, ..access(0, 0) };
    for n in 0..256 {
        assert_eq!(link.write(&posted, n, None), Answer::Done(0));
    }
    assert_eq!(link.write(&posted, 256, None), Answer::Gone);
    assert_eq!(*deaths.lock(), [Death::Stalled(post_patience)]);
    drop(socket);
}

#[test]
fn batches_that_are_longer_than_a_ring_arrive_in_order() {
    let (ours, theirs) = channel(Kind::Stream);
    let device = Registers::new(8);
    let server = serve(theirs, 0, 8, device.clone());
    let (ends, granted) = ours.ends().negotiate(Features::RING, PATIENCE).unwrap();
    let (link, deaths) = link(ends, granted, LinkOptions::default());
    let more = Forwarded { posted: true, more: true, ..access(0, 0) };
    for n in 0..5000 {
        assert_eq!(link.write(&more, n, None), Answer::Done(0));
    }
    link.flush();
    assert_eq!(link.read(&access(0, 0), None), Answer::Done(4999));
    assert!(deaths.lock().is_empty(), "{:?}", deaths.lock());
    let log = device.take();
    let writes = (0..5000).map(|n| format!("write 0x0/8 {n:#x}"));
    assert!(writes.eq(log[..5000].iter().cloned()));
    drop(link);
    server.join().unwrap().unwrap();
}

/// Says hello to a server with this memory, and gets its answer.
fn greeted(server: &UnixStream, memory: Option<&OwnedFd>) -> Features {
    let hello = Hello { features: Features::ALL }.encode();
    let fds: Vec<_> = memory.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(server, &[IoSlice::new(&hello)], &mut control, SendFlags::empty()).unwrap();
    let mut bytes = [0; 32];
    (&*server).read_exact(&mut bytes).unwrap();
    Features::from_bits(Response::decode(&bytes).data)
}

#[test]
fn a_server_takes_no_memory_that_could_be_taken_away() {
    let memory = |len: u64, seals: SealFlags| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("ring", flags).unwrap();
        rustix::fs::ftruncate(&memory, len).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        memory
    };
    const LEN: u64 = 4096 + 2 * 256 * 32;
    let good = memory(LEN, SealFlags::SHRINK);
    let no_file: OwnedFd = UnixStream::pair().unwrap().0.into();
    for (memory, expected) in [
        (Some(good), Features::ALL),
        (Some(memory(LEN, SealFlags::empty())), Features::IDS),
        (Some(memory(LEN - 1, SealFlags::SHRINK)), Features::IDS),
        (Some(memory(LEN + 4096, SealFlags::SHRINK)), Features::IDS),
        (Some(no_file), Features::IDS),
        (None, Features::IDS),
    ] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            Server::new().serve(&Ends::socket(OwnedFd::from(theirs)).unwrap(), None)
        });
        assert_eq!(greeted(&ours, memory.as_ref()), expected);
        drop(ours);
        server.join().unwrap().unwrap();
    }
}

#[test]
fn a_server_ends_for_a_vmm_whose_counts_cannot_be() {
    let memory = rustix::fs::memfd_create("ring", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, 4096 + 2 * 256 * 32).unwrap();
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        Server::new().serve(&Ends::socket(OwnedFd::from(theirs)).unwrap(), None)
    });
    assert_eq!(greeted(&ours, Some(&memory)), Features::ALL);
    let memory = std::fs::File::from(memory);
    memory.write_all_at(&1000_u32.to_le_bytes(), 0).unwrap();
    (&ours).write_all(&[0]).unwrap();
    assert!(matches!(server.join().unwrap(), Err(ServeError::Io(_))));
}

#[test]
fn a_region_of_a_registry_goes_by_a_ring() {
    let (ours, theirs) = channel(Kind::Seqpacket);
    let device = Registers::new(0x20);
    let server = serve(theirs, 7, 0x20, device.clone());
    let (ends, granted) = ours.ends().negotiate(Features::ALL, PATIENCE).unwrap();
    let vmm = Vmm::new(LinkOptions::default());
    let (link, _) = link(ends, granted, LinkOptions::default());
    let args = KvmIoregion {
        guest_paddr: 0x1000,
        memory_size: 0x20,
        user_data: 7,
        flags: POSTED_WRITES,
        ..KvmIoregion::default()
    };
    vmm.regions.assign(&args, link).unwrap();
    let mut handle = vmm.registry.handle(0);
    handle.write_value(Space::Mmio, 0x1008, Size::Dword, 0x1234_5678);
    assert_eq!(handle.read_value(Space::Mmio, 0x100a, Size::Word), 0x1234);
    assert_eq!(device.take(), ["write 0x8/4 0x12345678", "read 0xa/2"]);
    drop((handle, vmm));
    server.join().unwrap().unwrap();
}
