//! The guests and the table.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::{CpuSet, sched_setaffinity};
use trapline::{Channel, Forwarded, Region, Requester};
use trapline_device::{Handler, IoCx, Size};
use trapline_kvm::Kvm;
use trapline_remote::wire::Features;
use trapline_remote::{
    Ends, IoRegions, KvmIoregion, Link, LinkOptions, PIO, POSTED_WRITES, ServeError, Server,
};
use trapline_testkit::realmode::Asm;

use crate::guest::{Guest, PORT};

/// Accesses of a pass, and passes of a case.
const ACCESSES: u16 = 2000;
const PASSES: usize = 15;
/// What a message socket on the vCPU's processor may cost, as a multiple of an access that is answered
/// in place.
const MOST_SEQPACKET: f64 = 2.5;
/// The same for memory that both ends have mapped, with the device on another processor.
const MOST_RING: f64 = 1.15;
/// Commands a second out of the kernel's queue of coalesced writes.
const LEAST_FEED: f64 = 5e6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inline,
    Stream,
    Seqpacket,
    Pipe,
    /// Memory, and a socket to wake who sleeps.
    Ring,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Posted,
    /// Posted, and queued by the kernel before.
    Coalesced,
}

#[derive(Default)]
struct Device(Mutex<u64>);

impl Handler for Device {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0x5a
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        *self.0.lock() += value;
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("the processor is not ours");
}

fn ends(kind: Kind) -> (Ends, Ends) {
    let sockets = |kind| {
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Ends::socket(a).unwrap(), Ends::socket(b).unwrap())
    };
    match kind {
        Kind::Seqpacket | Kind::Ring => sockets(SocketType::SEQPACKET),
        Kind::Inline | Kind::Stream => sockets(SocketType::STREAM),
        Kind::Pipe => {
            let (commands, to_device) = std::io::pipe().unwrap();
            let (responses, to_vmm) = std::io::pipe().unwrap();
            let pair = |from: OwnedFd, to: OwnedFd| Ends::pair(from, to).unwrap();
            (pair(responses.into(), to_device.into()), pair(commands.into(), to_vmm.into()))
        }
    }
}

/// The VMM's end, of a ring if it is to be one; the device is served already.
fn connected(kind: Kind, ours: Ends, options: LinkOptions) -> Link {
    if kind != Kind::Ring {
        return Link::new(ours, options);
    }
    let (ends, granted) = ours.negotiate(Features::RING, Duration::from_secs(10)).unwrap();
    assert_eq!(granted, Features::RING);
    Link::new(ends, options)
}

/// Serves a device on a thread that runs on this processor.
fn served(theirs: Ends, len: u64, cpu: usize) -> JoinHandle<Result<(), ServeError>> {
    thread::spawn(move || {
        pin(cpu);
        let mut server = Server::new();
        server.region(0, len, Arc::new(Device::default())).unwrap();
        server.serve(&theirs, None)
    })
}

/// Nanoseconds per access: the quickest pass, as all that others do on the host only makes one longer.
fn measure(kvm: &Kvm, kind: Kind, access: Access, device_cpu: usize) -> f64 {
    let mut guest = Guest::new(kvm);
    let ports = Region::pio(PORT, 1, "device", "port", Arc::new(Device::default()));
    let coalesced = access == Access::Coalesced;
    let ports = if coalesced { ports.coalesce(0..1) } else { ports };
    guest.map(ports);
    let regions = IoRegions::new(Arc::new(guest.registry.downgrade()), LinkOptions::default());
    let mut server = None;
    if kind != Kind::Inline {
        let (ours, theirs) = ends(kind);
        let posted =
            if matches!(access, Access::Posted | Access::Coalesced) { POSTED_WRITES } else { 0 };
        let (guest_paddr, memory_size, flags) = (PORT.into(), 1, PIO | posted);
        let args = KvmIoregion { guest_paddr, memory_size, flags, ..KvmIoregion::default() };
        server = Some(served(theirs, 1, device_cpu));
        let link = connected(kind, ours, LinkOptions::default());
        regions.assign(&args, Arc::new(link)).unwrap();
    }
    let body = if access == Access::Read { Asm::new().in_al() } else { Asm::new().out_al() };
    guest.load(ACCESSES, body);
    let quickest = (0..PASSES).map(|_| guest.pass()).fold(f64::INFINITY, f64::min);
    drop((regions, guest));
    if let Some(server) = server {
        server.join().unwrap().unwrap();
    }
    quickest
}

/// Commands a second that a channel takes in batches as they come out of the kernel's queue.
fn feed(kind: Kind, device_cpu: usize) -> f64 {
    /// What a page of the queue has room for, on x86.
    const BATCH: u64 = 85;
    const BATCHES: u64 = 20_000;
    let (ours, theirs) = ends(kind);
    let reader = served(theirs, 8, device_cpu);
    let patience = Duration::from_secs(60);
    let options = LinkOptions { post_patience: patience, ..LinkOptions::default() };
    let link = connected(kind, ours, options);
    let access = Forwarded {
        requester: Requester::Coalesced,
        user_data: 0,
        offset: 0,
        size: Some(Size::Dword),
        posted: true,
        more: true,
    };
    let start = Instant::now();
    for n in 0..BATCHES {
        for m in 0..BATCH {
            link.write(&access, n + m, None);
        }
        link.flush();
    }
    // What is posted has arrived when a read is answered.
    let last = Forwarded { posted: false, more: false, ..access };
    link.read(&last, None);
    let rate = (BATCH * BATCHES) as f64 / start.elapsed().as_secs_f64();
    assert!(link.is_alive());
    drop(link);
    reader.join().unwrap().unwrap();
    rate
}

/// Measures and prints; fails when a goal is missed.
pub(crate) fn main() -> ExitCode {
    let kvm = match Kvm::open("/dev/kvm") {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("SKIPPED ioregion: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    pin(0);
    println!(
        "nanoseconds per access, quickest of {PASSES} passes of {ACCESSES}; in brackets times inline\n"
    );
    let inline = [Access::Read, Access::Write].map(|access| measure(&kvm, Kind::Inline, access, 0));
    println!("{:<26} in {:>8.0}   out {:>8.0}", "inline", inline[0], inline[1]);
    let (mut seqpacket, mut ring) = (f64::NAN, f64::NAN);
    for (place, cpu) in [("same core", 0), ("cross core", 1)].into_iter().take(cpus) {
        for (kind, name) in KINDS {
            let read = row(&kvm, (kind, cpu), &format!("{name}, {place}"), inline);
            match (kind, cpu) {
                (Kind::Seqpacket, 0) => seqpacket = read,
                (Kind::Ring, 1) => ring = read,
                _ => {}
            }
        }
    }
    let mut best: f64 = 0.0;
    for (place, cpu) in [("same core", 0), ("cross core", 1)].into_iter().take(cpus) {
        for (kind, name) in KINDS {
            let rate = feed(kind, cpu);
            println!("batched commands, {name}, {place}: {:.2} million a second", rate / 1e6);
            best = best.max(rate);
        }
    }
    let goals = [
        (
            format!("seqpacket, same core, at most {MOST_SEQPACKET} times inline"),
            seqpacket <= MOST_SEQPACKET,
        ),
        (
            format!("ring, cross core, at most {MOST_RING} times inline"),
            cpus < 2 || ring <= MOST_RING,
        ),
        (format!("{} million batched commands a second", LEAST_FEED / 1e6), best >= LEAST_FEED),
    ];
    println!();
    for (goal, met) in &goals {
        println!("goal: {goal}: {}", if *met { "met" } else { "MISSED" });
    }
    if goals.iter().all(|(_, met)| *met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a channel can be.
const KINDS: [(Kind, &str); 4] = [
    (Kind::Stream, "stream"),
    (Kind::Seqpacket, "seqpacket"),
    (Kind::Pipe, "pipe"),
    (Kind::Ring, "ring"),
];

/// Measures and prints one kind of channel; what a read costs as a multiple of inline.
fn row(kvm: &Kvm, (kind, cpu): (Kind, usize), name: &str, inline: [f64; 2]) -> f64 {
    let of = |access, inline: f64| {
        let time = measure(kvm, kind, access, cpu);
        (time, time / inline)
    };
    let read = of(Access::Read, inline[0]);
    let write = of(Access::Write, inline[1]);
    let posted = of(Access::Posted, inline[1]);
    let coalesced = of(Access::Coalesced, inline[1]);
    let cell = |(time, ratio): (f64, f64)| format!("{time:>8.0} ({ratio:>5.2})");
    let [read_cell, write, posted, coalesced] = [read, write, posted, coalesced].map(cell);
    println!("{name:<26} in {read_cell}   out {write}   posted {posted}   coalesced {coalesced}");
    read.1
}
