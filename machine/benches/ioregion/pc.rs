//! The guests and the table.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::{CpuSet, sched_setaffinity};
use trapline::{Channel, Forwarded, Region, Requester};
use trapline_device::{Handler, IoCx, Size};
use trapline_kvm::Kvm;
use trapline_remote::{
    Ends, IoRegions, KvmIoregion, Link, LinkOptions, PIO, POSTED_WRITES, Server,
};
use trapline_testkit::realmode::Asm;

use crate::guest::{Guest, PORT};

/// Accesses of a pass, and passes of a case.
const ACCESSES: u16 = 2000;
const PASSES: usize = 7;
/// What a message socket on the vCPU's processor may cost, as a multiple of an access that is answered
/// in place.
const MOST_SEQPACKET: f64 = 2.5;
/// Commands a second out of the kernel's queue of coalesced writes.
const LEAST_FEED: f64 = 5e6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inline,
    Stream,
    Seqpacket,
    Pipe,
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
        Kind::Seqpacket => sockets(SocketType::SEQPACKET),
        Kind::Inline | Kind::Stream => sockets(SocketType::STREAM),
        Kind::Pipe => {
            let (commands, to_device) = std::io::pipe().unwrap();
            let (responses, to_vmm) = std::io::pipe().unwrap();
            let pair = |from: OwnedFd, to: OwnedFd| Ends::pair(from, to).unwrap();
            (pair(responses.into(), to_device.into()), pair(commands.into(), to_vmm.into()))
        }
    }
}

/// Nanoseconds per access: the median of the passes.
fn measure(kvm: &Kvm, kind: Kind, access: Access, device_cpu: usize) -> f64 {
    let mut guest = Guest::new(kvm);
    let ports = Region::pio(PORT, 1, "device", "port", Arc::new(Device::default()));
    let coalesced = access == Access::Coalesced;
    let ports = if coalesced { ports.coalesce(0..1) } else { ports };
    guest.map(ports);
    let regions = IoRegions::new(Arc::new(guest.registry.downgrade()), LinkOptions::default());
    let mut served = None;
    if kind != Kind::Inline {
        let (ours, theirs) = ends(kind);
        let posted =
            if matches!(access, Access::Posted | Access::Coalesced) { POSTED_WRITES } else { 0 };
        let (guest_paddr, memory_size, flags) = (PORT.into(), 1, PIO | posted);
        let args = KvmIoregion { guest_paddr, memory_size, flags, ..KvmIoregion::default() };
        regions.assign(&args, Arc::new(Link::new(ours, LinkOptions::default()))).unwrap();
        served = Some(thread::spawn(move || {
            pin(device_cpu);
            let mut server = Server::new();
            server.region(0, 1, Arc::new(Device::default())).unwrap();
            server.serve(&theirs, None)
        }));
    }
    let body = if access == Access::Read { Asm::new().in_al() } else { Asm::new().out_al() };
    guest.load(ACCESSES, body);
    let mut times: Vec<f64> = (0..PASSES).map(|_| guest.pass()).collect();
    drop((regions, guest));
    if let Some(served) = served {
        served.join().unwrap().unwrap();
    }
    times.sort_by(f64::total_cmp);
    times[PASSES / 2]
}

/// Commands a second that a channel takes in batches as they come out of the kernel's queue.
fn feed(device_cpu: usize) -> f64 {
    /// What a page of the queue has room for, on x86.
    const BATCH: u64 = 85;
    const BATCHES: u64 = 20_000;
    let (ours, theirs) = ends(Kind::Stream);
    let reader = thread::spawn(move || {
        pin(device_cpu);
        let mut server = Server::new();
        server.region(0, 8, Arc::new(Device::default())).unwrap();
        server.serve(&theirs, None)
    });
    let link = Link::new(
        ours,
        LinkOptions { post_patience: Duration::from_secs(60), ..LinkOptions::default() },
    );
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
        "nanoseconds per access, median of {PASSES} passes of {ACCESSES}; in brackets times inline\n"
    );
    let inline = [Access::Read, Access::Write].map(|access| measure(&kvm, Kind::Inline, access, 0));
    println!("{:<26} in {:>8.0}   out {:>8.0}", "inline", inline[0], inline[1]);
    let mut seqpacket = f64::NAN;
    for (place, cpu) in [("same core", 0), ("cross core", 1)].into_iter().take(cpus) {
        for (kind, name) in
            [(Kind::Stream, "stream"), (Kind::Seqpacket, "seqpacket"), (Kind::Pipe, "pipe")]
        {
            let of = |access, inline: f64| {
                let time = measure(&kvm, kind, access, cpu);
                (time, time / inline)
            };
            let read = of(Access::Read, inline[0]);
            let write = of(Access::Write, inline[1]);
            let posted = of(Access::Posted, inline[1]);
            let coalesced = of(Access::Coalesced, inline[1]);
            if (kind, cpu) == (Kind::Seqpacket, 0) {
                seqpacket = read.1;
            }
            let cell = |(time, ratio): (f64, f64)| format!("{time:>8.0} ({ratio:>5.2})");
            println!(
                "{:<26} in {}   out {}   posted {}   coalesced {}",
                format!("{name}, {place}"),
                cell(read),
                cell(write),
                cell(posted),
                cell(coalesced)
            );
        }
    }
    let feeds: Vec<f64> = (0..cpus.min(2)).map(feed).collect();
    let best = feeds.iter().copied().fold(0.0, f64::max);
    for (place, rate) in ["same core", "cross core"].iter().zip(&feeds) {
        println!("batched commands, {place}: {:.2} million a second", rate / 1e6);
    }
    let verdict = |met| if met { "met" } else { "MISSED" };
    let met = [seqpacket <= MOST_SEQPACKET, best >= LEAST_FEED];
    println!(
        "\ngoal: seqpacket, same core, at most {MOST_SEQPACKET} times inline: {}",
        verdict(met[0])
    );
    println!("goal: {} million batched commands a second: {}", LEAST_FEED / 1e6, verdict(met[1]));
    if met == [true; 2] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
