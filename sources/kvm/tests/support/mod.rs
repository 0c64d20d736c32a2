//! Small guests on the real `/dev/kvm`: a device that remembers, and a machine that runs a program
//! against it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod flat;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use trapline::{EventFd, Mapping, Offload, Region, Registry, Zone};
use trapline_device::{Handler, IoCx, PcInput, Size};
use trapline_guestmem::GuestMem;
use trapline_kvm::{
    CrashReport, Irqchip, Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm, VmOptions,
};

pub(crate) use trapline_testkit::realmode::Asm;

/// Where programs are loaded and started, in segment 0.
pub(crate) const CODE: u16 = 0x1000;
/// RAM ends here; what lies above, up to 1 MiB, real mode can address and nobody answers.
pub(crate) const RAM: u64 = 0xa_0000;
/// One page below the end of RAM is none, at an address that is a port number too.
pub(crate) const HOLE: u16 = 0x8000;
/// A segment of device addresses, and where it is.
pub(crate) const MMIO_SEGMENT: u16 = 0xd000;
pub(crate) const MMIO: u64 = 0xd_0000;
/// Long enough for everything here; nothing is expected to take it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a device was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Offset, bytes.
    Read(u64, usize),
    /// Offset, bytes, value.
    Write(u64, usize, u64),
}

/// A device that remembers accesses and answers from a list, then with 0x5a in every byte.
#[derive(Default)]
pub(crate) struct Recorder {
    inner: parking_lot::Mutex<(Vec<Seen>, VecDeque<u64>)>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }
    pub(crate) fn answering(values: &[u64]) -> Arc<Self> {
        let recorder = Self::default();
        recorder.inner.lock().1.extend(values);
        Arc::new(recorder)
    }
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.lock().0.clone()
    }
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().0.len()
    }
    /// The values written, in order.
    pub(crate) fn written(&self) -> Vec<u64> {
        let values = |seen| match seen {
            Seen::Write(_, _, value) => Some(value),
            Seen::Read(..) => None,
        };
        self.seen().into_iter().filter_map(values).collect()
    }
}

impl Handler for Recorder {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        let mut inner = self.inner.lock();
        inner.0.push(Seen::Read(offset, size.bytes()));
        inner.1.pop_front().unwrap_or(0x5a5a_5a5a_5a5a_5a5a)
    }
    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.inner.lock().0.push(Seen::Write(offset, size.bytes(), value));
    }
    fn register(
        &self,
        offset: u64,
        _direction: trapline_device::Direction,
    ) -> Option<&'static str> {
        (offset == 0).then_some("THR")
    }
}

/// Who delivers what is not an ordinary trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offloading {
    /// KVM, as far as it can.
    Kernel,
    /// The registry, which has nobody to ask.
    Absent,
    /// The registry, having asked in vain.
    Declining,
}

/// A source that takes nothing over.
struct Declining;

impl Offload for Declining {
    fn install(&self, _zone: &Zone) -> Result<bool, String> {
        Ok(false)
    }
    fn remove(&self, zone: &Zone) {
        panic!("{zone:?} was never taken");
    }
}

/// A VM with RAM below 0xa0000 (but for a page), its registry, and guards of what is mapped.
pub(crate) struct Machine {
    pub(crate) vm: Arc<Vm>,
    pub(crate) mem: GuestMem,
    pub(crate) registry: Registry,
    pub(crate) mappings: Vec<Mapping>,
    vcpus: Vec<Vcpu>,
    _ram: Vec<Mapping>,
    _ram_registry: Registry,
}

/// Running vCPUs and what they report.
pub(crate) struct Running {
    pub(crate) set: VcpuSet,
    pub(crate) events: Receiver<VcpuEvent>,
}

/// Opens `/dev/kvm`; a machine without it must leave these tests out, not pass them.
pub(crate) fn kvm() -> Kvm {
    Kvm::open("/dev/kvm").unwrap_or_else(|error| panic!("this test needs KVM: {error}"))
}

/// Each input goes to the I/O APIC's pin of that number, and the first sixteen to the 8259s'; as KVM
/// would have it by itself, but for input 20, which also is the first 8259's input 4.
fn wiring() -> Vec<(u32, PcInput)> {
    let pics = (0..16).filter(|pin| *pin != 2).map(|pin| (u32::from(pin), PcInput::Pic(pin)));
    let io_apic = (0..24).map(|pin| (u32::from(pin), PcInput::IoApic(pin)));
    pics.chain(io_apic).chain([(20, PcInput::Pic(4))]).collect()
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(1, Irqchip::None)
    }

    pub(crate) fn with(vcpus: u32, irqchip: Irqchip) -> Self {
        Self::built(vcpus, irqchip, Offloading::Kernel)
    }

    pub(crate) fn built(vcpus: u32, irqchip: Irqchip, offloading: Offloading) -> Self {
        let hole = u64::from(HOLE);
        let above = hole + 0x1000;
        let mem = GuestMem::new(&[(0, hole), (above, RAM - above)]).unwrap();
        let pit = irqchip == Irqchip::Kernel;
        let options = VmOptions { irqchip, wiring: wiring(), pit, ..VmOptions::bare(vcpus) };
        let vm = Vm::new(&kvm(), &mem, options).unwrap();
        let builder = Registry::builder();
        let registry = match offloading {
            Offloading::Kernel => builder.offload(vm.offload()).build(),
            Offloading::Absent => builder.build(),
            Offloading::Declining => builder.offload(Arc::new(Declining)).build(),
        };
        // A guest cannot run from memory that KVM has not got.
        let ram_registry = match offloading {
            Offloading::Kernel => registry.clone(),
            _ => Registry::builder().offload(vm.offload()).build(),
        };
        let ram = (mem.pieces().into_iter())
            .map(|piece| (piece.region().guest_addr, Arc::new(piece)))
            .map(|(base, piece)| ram_registry.map(Region::ram(base, "memory", "ram", piece)))
            .collect::<Result<_, _>>()
            .unwrap();
        let vcpus = (0..vcpus).map(|index| Vcpu::new(&vm, index, &registry).unwrap()).collect();
        Self {
            vm,
            mem,
            registry,
            mappings: Vec::new(),
            vcpus,
            _ram: ram,
            _ram_registry: ram_registry,
        }
    }

    pub(crate) fn map(&mut self, region: Region) {
        self.mappings.push(self.registry.map(region).unwrap());
    }

    pub(crate) fn ports(&mut self, base: u16, len: u64, device: &Arc<Recorder>) {
        self.map(Region::pio(base, len, "serial0", "uart", Arc::<Recorder>::clone(device)));
    }

    pub(crate) fn memory(&mut self, base: u64, len: u64, device: &Arc<Recorder>) {
        self.map(Region::mmio(base, len, "card0", "regs", Arc::<Recorder>::clone(device)));
    }

    /// Starts vCPU 0 on `code`, the others waiting for it.
    pub(crate) fn start(&mut self, code: &Asm) -> Running {
        self.start_at(code, &Start::Real { cs: 0, ip: CODE, ds: 0, sp: 0xf000 })
    }

    /// Starts vCPU 0 on `code` in another mode.
    pub(crate) fn start_at(&mut self, code: &Asm, first: &Start) -> Running {
        self.mem.write(CODE.into(), &code.0).unwrap();
        let mut vcpus = std::mem::take(&mut self.vcpus);
        for vcpu in &mut vcpus {
            let start = if vcpu.index() == 0 { first } else { &Start::WaitForSipi };
            vcpu.set_start(start).unwrap();
        }
        let (sender, events) = channel();
        let on_event = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        Running { set: VcpuSet::start(vcpus, on_event).unwrap(), events }
    }

    /// Starts every vCPU in real mode, each on its program.
    pub(crate) fn start_all(&mut self, codes: &[Asm]) -> Running {
        let mut vcpus = std::mem::take(&mut self.vcpus);
        for ((vcpu, code), ip) in vcpus.iter_mut().zip(codes).zip((CODE..).step_by(0x1000)) {
            self.mem.write(ip.into(), &code.0).unwrap();
            vcpu.set_start(&Start::Real { cs: 0, ip, ds: 0, sp: 0xf000 }).unwrap();
        }
        let (sender, events) = channel();
        let on_event = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        Running { set: VcpuSet::start(vcpus, on_event).unwrap(), events }
    }

    /// Starts vCPUs that have stopped.
    pub(crate) fn start_again(vcpus: Vec<Vcpu>) -> Running {
        let (sender, events) = channel();
        let on_event = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        Running { set: VcpuSet::start(vcpus, on_event).unwrap(), events }
    }

    /// Runs `code` on vCPU 0 to its end.
    pub(crate) fn run(&mut self, code: &Asm) -> Stop {
        let running = self.start(code);
        let stop = running.wait();
        self.vcpus = running.set.stop().unwrap();
        stop
    }

    /// Runs `code`, which must end in `hlt`.
    pub(crate) fn run_to_halt(&mut self, code: &Asm) {
        let stop = self.run(&code.clone().hlt());
        assert!(matches!(stop, Stop::Halted), "{}", explain(&stop));
    }

    /// The vCPUs, before they run.
    pub(crate) fn take(&mut self) -> Vec<Vcpu> {
        std::mem::take(&mut self.vcpus)
    }

    /// Takes vCPUs back to run them again.
    pub(crate) fn give_back(&mut self, vcpus: Vec<Vcpu>) {
        self.vcpus = vcpus;
    }

    pub(crate) fn read<const N: usize>(&self, addr: u64) -> [u8; N] {
        let mut data = [0; N];
        self.mem.read(addr, &mut data).unwrap();
        data
    }
}

impl Running {
    /// The first vCPU's end.
    pub(crate) fn wait(&self) -> Stop {
        self.events.recv_timeout(PATIENCE).expect("the guest hangs").stop
    }
}

/// An event nobody has rung.
pub(crate) fn eventfd() -> EventFd {
    let flags = rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC;
    EventFd::new(rustix::event::eventfd(0, flags).unwrap())
}

/// How often it was rung since it was asked last.
pub(crate) fn rung(event: &EventFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event.as_fd(), &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

pub(crate) fn crash(stop: Stop) -> CrashReport {
    match stop {
        Stop::Crash(report) | Stop::TripleFault(report) => *report,
        other => panic!("no crash: {other:?}"),
    }
}

fn explain(stop: &Stop) -> String {
    match stop {
        Stop::Crash(report) | Stop::TripleFault(report) => report.to_string(),
        other => format!("{other:?}"),
    }
}

/// Waits until `done`, or fails.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}
