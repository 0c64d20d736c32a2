//! A whole exit: a guest in real mode that reads a port again and again.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use parking_lot::Mutex;
use trapline::{Mapping, Region, Registry};
use trapline_device::{Handler, IoCx, Size};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Irqchip, Kvm, Start, Stop, Vcpu, VcpuSet, Vm, VmOptions};
use trapline_testkit::realmode::Asm;

use crate::{Recorded, Recording, goal};

/// Exits of a pass, and passes of each.
const EXITS: u16 = 400;
const PASSES: usize = 300;
/// The device's port, and the one that is written before and after.
const PORT: u16 = 0x500;
const MARK: u16 = 0x510;
const CODE: u16 = 0x1000;
/// What an exit may take, as a multiple of one with nothing recorded.
const MOST_FLIGHT: f64 = 1.01;
const MOST_RECORDING: f64 = 1.02;

struct Register;

impl Handler for Register {
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        0x5a
    }
    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, _value: u64) {}
}

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

struct Guest {
    recording: Recording,
    marks: Arc<Marks>,
    vcpus: Vec<Vcpu>,
    times: Vec<f64>,
    _mappings: Vec<Mapping>,
    _recorded: Recorded,
    _vm: Arc<Vm>,
}

impl Guest {
    fn new(kvm: &Kvm, recording: Recording) -> Self {
        let mem = GuestMem::new(&[(0, 0x10000)]).unwrap();
        let options = VmOptions {
            vcpus: 1,
            tss_addr: 0xfffb_d000,
            identity_map_addr: None,
            irqchip: Irqchip::None,
            wiring: Vec::new(),
            pit: false,
        };
        let vm = Vm::new(kvm, &mem, options).unwrap();
        let registry = Registry::builder().offload(vm.offload()).build();
        let recorded = Recorded::start(&registry, recording);
        let marks = Arc::new(Marks::default());
        let ram = mem
            .pieces()
            .into_iter()
            .map(|piece| registry.map(Region::ram(0, "memory", "ram", Arc::new(piece))).unwrap());
        let mut mappings: Vec<_> = ram.collect();
        let ports = [
            Region::pio(MARK, 1, "marks", "mark", marks.clone()),
            Region::pio(PORT, 1, "device", "port", Arc::new(Register)),
        ];
        mappings.extend(ports.map(|region| registry.map(region).unwrap()));
        let body = Asm::new().in_al();
        let code = Asm::new().outb(MARK, 0).mov_dx(PORT).repeat(EXITS, body).outb(MARK, 1).hlt();
        mem.write(CODE.into(), &code.0).unwrap();
        let vcpus = vec![Vcpu::new(&vm, 0, &registry).unwrap()];
        let times = Vec::new();
        Self { recording, marks, vcpus, times, _mappings: mappings, _recorded: recorded, _vm: vm }
    }

    fn pass(&mut self) {
        self.vcpus[0].set_start(&Start::Real { cs: 0, ip: CODE, ds: 0, sp: 0xf000 }).unwrap();
        let (sender, events) = channel();
        let on_event = Arc::new(move |event| drop(sender.send(event)));
        let set = VcpuSet::start(std::mem::take(&mut self.vcpus), on_event).unwrap();
        assert_eq!(events.recv().unwrap().stop, Stop::Halted);
        self.vcpus = set.stop().unwrap();
        let marks = std::mem::take(&mut *self.marks.0.lock());
        self.times.push((marks[1] - marks[0]).as_secs_f64() * 1e9 / f64::from(EXITS));
    }
}

fn least(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::MAX, f64::min)
}

/// The middle of the ratios of passes that followed one another, which meet the same of whatever else the
/// machine does.
fn middle_ratio(these: &[f64], those: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = these.iter().zip(those).map(|(this, that)| this / that).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Prints nanoseconds an exit; whether the goals are met.
pub(crate) fn measure() -> bool {
    let kvm = match Kvm::open("/dev/kvm") {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("SKIPPED exits: {error}");
            return true;
        }
    };
    let mut guests = Recording::EACH.map(|recording| Guest::new(&kvm, recording));
    for pass in 0..PASSES {
        // Each comes first as often as the others.
        guests.rotate_left(1);
        guests.iter_mut().for_each(Guest::pass);
        if pass < 10 {
            guests.iter_mut().for_each(|guest| guest.times.clear());
        }
    }
    let of = |wanted| guests.iter().find(|guest| guest.recording == wanted).unwrap();
    let off = &of(Recording::Off).times;
    println!(
        "\nnanoseconds an exit, {PASSES} passes of {EXITS} reads of a port, in turns\n{:<18} {:>8} {:>9} {:>9}",
        "", "least", "of least", "of passes"
    );
    let mut met = true;
    for recording in Recording::EACH {
        let times = &of(recording).times;
        let (of_least, of_passes) = (least(times) / least(off), middle_ratio(times, off));
        println!("{:<18} {:>8.0} {of_least:>9.3} {of_passes:>9.3}", recording.name(), least(times));
        // Both say so.
        let within = |most: f64| of_least <= most && of_passes <= most;
        met &= match recording {
            Recording::Off => true,
            Recording::Flight => within(MOST_FLIGHT),
            Recording::All => within(MOST_RECORDING),
        };
    }
    println!();
    goal("the flight recorder at most 1.01 and a recording 1.02 of an exit", met)
}
