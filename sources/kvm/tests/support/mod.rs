//! Small guests on the real `/dev/kvm`: an assembler of a few instructions, a device that
//! remembers, and a machine that runs the one against the other.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use trapline::{Mapping, Region, Registry};
use trapline_device::{Handler, IoCx, Size};
use trapline_guestmem::GuestMem;
use trapline_kvm::{
    CrashReport, Irqchip, Kvm, Start, Stop, Vcpu, VcpuEvent, VcpuSet, Vm, VmOptions,
};

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

/// 16-bit instructions, in order (Intel SDM volume 2 for the encodings).
#[derive(Clone, Default)]
pub(crate) struct Asm(pub(crate) Vec<u8>);

impl Asm {
    pub(crate) fn new() -> Self {
        Self::default()
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    fn op16(self, op: &[u8], operand: u16) -> Self {
        self.bytes(op).bytes(&operand.to_le_bytes())
    }
    pub(crate) fn mov_al(self, value: u8) -> Self {
        self.bytes(&[0xb0, value])
    }
    pub(crate) fn mov_ax(self, value: u16) -> Self {
        self.op16(&[0xb8], value)
    }
    pub(crate) fn mov_eax(self, value: u32) -> Self {
        self.bytes(&[0x66, 0xb8]).bytes(&value.to_le_bytes())
    }
    pub(crate) fn mov_cx(self, value: u16) -> Self {
        self.op16(&[0xb9], value)
    }
    pub(crate) fn mov_dx(self, value: u16) -> Self {
        self.op16(&[0xba], value)
    }
    pub(crate) fn mov_si(self, value: u16) -> Self {
        self.op16(&[0xbe], value)
    }
    pub(crate) fn mov_di(self, value: u16) -> Self {
        self.op16(&[0xbf], value)
    }
    /// `mov ds, ax`, by way of AX.
    pub(crate) fn mov_ds(self, segment: u16) -> Self {
        self.mov_ax(segment).bytes(&[0x8e, 0xd8])
    }
    pub(crate) fn out_al(self) -> Self {
        self.bytes(&[0xee])
    }
    pub(crate) fn out_ax(self) -> Self {
        self.bytes(&[0xef])
    }
    pub(crate) fn out_eax(self) -> Self {
        self.bytes(&[0x66, 0xef])
    }
    pub(crate) fn in_al(self) -> Self {
        self.bytes(&[0xec])
    }
    pub(crate) fn in_ax(self) -> Self {
        self.bytes(&[0xed])
    }
    pub(crate) fn in_eax(self) -> Self {
        self.bytes(&[0x66, 0xed])
    }
    /// `out port, al`, port and value given.
    pub(crate) fn outb(self, port: u16, value: u8) -> Self {
        self.mov_dx(port).mov_al(value).out_al()
    }
    pub(crate) fn outw(self, port: u16, value: u16) -> Self {
        self.mov_dx(port).mov_ax(value).out_ax()
    }
    pub(crate) fn rep_outsb(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6e]) // cld; rep outsb
    }
    pub(crate) fn rep_outsw(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6f])
    }
    pub(crate) fn rep_insb(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6c])
    }
    pub(crate) fn rep_insw(self) -> Self {
        self.bytes(&[0xfc, 0xf3, 0x6d])
    }
    pub(crate) fn load_al(self, addr: u16) -> Self {
        self.op16(&[0xa0], addr) // mov al, [addr]
    }
    pub(crate) fn load_ax(self, addr: u16) -> Self {
        self.op16(&[0xa1], addr)
    }
    pub(crate) fn load_eax(self, addr: u16) -> Self {
        self.op16(&[0x66, 0xa1], addr)
    }
    pub(crate) fn store_al(self, addr: u16) -> Self {
        self.op16(&[0xa2], addr) // mov [addr], al
    }
    pub(crate) fn store_ax(self, addr: u16) -> Self {
        self.op16(&[0xa3], addr)
    }
    pub(crate) fn store_eax(self, addr: u16) -> Self {
        self.op16(&[0x66, 0xa3], addr)
    }
    /// `mov es:[addr], eax`: ES stays at 0 while DS points at a device.
    pub(crate) fn keep_eax(self, addr: u16) -> Self {
        self.op16(&[0x26, 0x66, 0xa3], addr)
    }
    /// `movq mm0, [addr]`
    pub(crate) fn load_mm0(self, addr: u16) -> Self {
        self.op16(&[0x0f, 0x6f, 0x06], addr)
    }
    /// `movq [addr], mm0`
    pub(crate) fn store_mm0(self, addr: u16) -> Self {
        self.op16(&[0x0f, 0x7f, 0x06], addr)
    }
    /// `movq es:[addr], mm0`
    pub(crate) fn keep_mm0(self, addr: u16) -> Self {
        self.op16(&[0x26, 0x0f, 0x7f, 0x06], addr)
    }
    /// Runs `body` CX times: `body; loop body`. The body must keep CX.
    pub(crate) fn repeat(self, times: u16, body: Self) -> Self {
        let back = -(i8::try_from(body.0.len()).unwrap() + 2);
        self.mov_cx(times).bytes(&body.0).bytes(&[0xe2]).bytes(&back.to_le_bytes())
    }
    pub(crate) fn hlt(self) -> Self {
        self.bytes(&[0xf4])
    }
    /// `jmp $`
    pub(crate) fn spin(self) -> Self {
        self.bytes(&[0xeb, 0xfe])
    }
}

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

/// A VM with RAM below 0xa0000 (but for a page),  its registry, and guards of what is mapped.
pub(crate) struct Machine {
    pub(crate) vm: Arc<Vm>,
    pub(crate) mem: GuestMem,
    pub(crate) registry: Registry,
    pub(crate) mappings: Vec<Mapping>,
    vcpus: Vec<Vcpu>,
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

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(1, Irqchip::None)
    }

    pub(crate) fn with(vcpus: u32, irqchip: Irqchip) -> Self {
        let hole = u64::from(HOLE);
        let above = hole + 0x1000;
        let mem = GuestMem::new(&[(0, hole), (above, RAM - above)]).unwrap();
        let options = VmOptions {
            vcpus,
            tss_addr: 0xfffb_d000,
            identity_map_addr: None,
            irqchip,
            pit: irqchip == Irqchip::Kernel,
        };
        let vm = Vm::new(&kvm(), &mem, options).unwrap();
        let registry = Registry::builder()
            .handles(usize::try_from(vcpus).unwrap())
            .offload(vm.offload())
            .build();
        let vcpus = (0..vcpus).map(|index| Vcpu::new(&vm, index, &registry).unwrap()).collect();
        Self { vm, mem, registry, mappings: Vec::new(), vcpus }
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

pub(crate) fn crash(stop: Stop) -> CrashReport {
    match stop {
        Stop::Crash(report) => *report,
        other => panic!("no crash: {other:?}"),
    }
}

fn explain(stop: &Stop) -> String {
    match stop {
        Stop::Crash(report) => report.to_string(),
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
