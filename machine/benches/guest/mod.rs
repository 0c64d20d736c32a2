//! A guest in real mode that makes the same access again and again, between two writes that tell when.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use parking_lot::Mutex;
use trapline::{Mapping, Region, Registry};
use trapline_device::{Handler, IoCx, Size};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, Start, Stop, Vcpu, VcpuSet, Vm, VmOptions};
use trapline_testkit::realmode::Asm;

/// The port that the guest accesses.
pub(crate) const PORT: u16 = 0x500;
/// The one that it writes to before and after.
const MARK: u16 = 0x510;
const CODE: u16 = 0x1000;

#[derive(Default)]
struct Marks(Mutex<Vec<Instant>>);

impl Handler for Marks {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {
        self.0.lock().push(Instant::now());
    }
}

pub(crate) struct Guest {
    pub(crate) registry: Registry,
    accesses: u16,
    marks: Arc<Marks>,
    vcpus: Vec<Vcpu>,
    mappings: Vec<Mapping>,
    mem: GuestMem,
    vm: Arc<Vm>,
}

impl Guest {
    /// One with memory, and nothing at its port yet.
    pub(crate) fn new(kvm: &Kvm) -> Self {
        let mem = GuestMem::new(&[(0, 0x10000)]).unwrap();
        let vm = Vm::new(kvm, &mem, VmOptions::bare(1)).unwrap();
        let registry = Registry::builder().offload(vm.offload()).build();
        let marks = Arc::new(Marks::default());
        let (vcpus, mappings) = (Vec::new(), Vec::new());
        let mut guest =
            Self { registry, accesses: 0, marks: marks.clone(), vcpus, mappings, mem, vm };
        for piece in guest.mem.pieces() {
            guest.map(Region::ram(0, "memory", "ram", Arc::new(piece)));
        }
        guest.map(Region::pio(MARK, 1, "marks", "mark", marks));
        guest
    }

    pub(crate) fn map(&mut self, region: Region) {
        self.mappings.push(self.registry.map(region).unwrap());
    }

    /// Has it do this so many times in each pass.
    pub(crate) fn load(&mut self, accesses: u16, access: Asm) {
        let all = Asm::new().outb(MARK, 0).mov_dx(PORT).repeat(accesses, access);
        self.mem.write(CODE.into(), &all.outb(MARK, 1).hlt().0).unwrap();
        self.vcpus = vec![Vcpu::new(&self.vm, 0, &self.registry).unwrap()];
        self.accesses = accesses;
    }

    /// Nanoseconds an access of one pass.
    pub(crate) fn pass(&mut self) -> f64 {
        self.vcpus[0].set_start(&Start::Real { cs: 0, ip: CODE, ds: 0, sp: 0xf000 }).unwrap();
        let (sender, events) = channel();
        let on_event = Arc::new(move |event| drop(sender.send(event)));
        let set = VcpuSet::start(std::mem::take(&mut self.vcpus), on_event).unwrap();
        assert_eq!(events.recv().unwrap().stop, Stop::Halted);
        self.vcpus = set.stop().unwrap();
        let marks = std::mem::take(&mut *self.marks.0.lock());
        (marks[1] - marks[0]).as_secs_f64() * 1e9 / f64::from(self.accesses)
    }
}
