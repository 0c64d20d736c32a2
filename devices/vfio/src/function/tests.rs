//! A function that no machine has, assigned to a guest that is played by hand.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{EventfdFlags, eventfd};
use trapline_device::{Msi, Space};
use trapline_pci::{BridgeWindow, Bus, CapabilityId, Devfn, WindowKind};
use trapline_testkit::virtio::Bench;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_REQ_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use super::*;
use crate::departure::Departure;
use crate::hardware::{Irq, IrqAction};
use crate::interrupts::ResampledPin;

const DEVFN: Devfn = Devfn::from_bits(3 << 3);
/// Distance of the regions in the device's file.
const REGION: u64 = 0x1_0000;
const CONFIG: u64 = REGION * VFIO_PCI_CONFIG_REGION_INDEX as u64;
const BARS_AT: [u64; 2] = [0xe000_0000, 0xc000];
const MESSAGE: Msi = Msi { address: 0xfee0_0000, data: 0x40 };

/// What was asked of the device: interrupts by index and how many, resets.
type Asked = Vec<String>;

/// A device whose registers are a file: BAR0 of memory, 16 KiB with MSI-X in its second page, BAR1 of
/// 32 ports, BAR2 which is no BAR, and a ROM.
struct Fake {
    file: File,
    asked: Mutex<Asked>,
    /// Duplicates of what signals the interrupts.
    events: Mutex<Vec<OwnedFd>>,
    /// And of what signals that the host wants the device back.
    wanted_back: Mutex<Vec<OwnedFd>>,
    pin: bool,
    resets: bool,
    /// The most vectors the host has.
    vectors: u32,
}

impl Fake {
    fn new() -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("device", flags).unwrap());
        file.set_len(16 * REGION).unwrap();
        let fake = Self {
            file,
            asked: Mutex::default(),
            events: Mutex::default(),
            wanted_back: Mutex::default(),
            pin: true,
            resets: true,
            vectors: 4,
        };
        fake.set_config(0x00, &[0x86, 0x80, 0x0e, 0x10, 0, 0, 0x10, 0, 3, 0, 0, 2]);
        fake.set_config(0x10, &[0x04, 0, 0, 0, 0, 0, 0, 0, 0x01, 0, 0, 0]);
        fake.set_config(0x2c, &[0xf4, 0x1a, 0, 0x11]);
        fake.set_config(0x34, &[0x40]);
        fake.set_config(0x3d, &[1]);
        // Power management, MSI with 64 bits, vendor's, MSI-X, an unknown one.
        fake.set_config(0x40, &[0x01, 0x50, 0xff, 0xff]);
        fake.set_config(0x50, &[0x05, 0x60, 0x80, 0]);
        fake.set_config(0x60, &[0x09, 0x70, 0x08, 0x11, 0x22, 0x33, 0x44, 0x55]);
        fake.set_config(0x70, &[0x11, 0x80, 0x03, 0, 0, 0x10, 0, 0, 0, 0x18, 0, 0]);
        fake.set_config(0x80, &[0x07, 0, 0x77]);
        fake
    }

    fn set_config(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, CONFIG + offset).unwrap();
    }

    fn at(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn asked(&self) -> Asked {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Signals the eventfd that interrupt `number` was last connected to.
    fn signal(&self, number: usize) {
        rustix::io::write(&self.events.lock()[number], &1_u64.to_ne_bytes()).unwrap();
    }
}

impl Hardware for Fake {
    fn flags(&self) -> io::Result<u32> {
        Ok(if self.resets { VFIO_DEVICE_FLAGS_RESET } else { 0 })
    }

    fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let (len, mapped) = match index {
            0 => (0x4000, true),
            // Where BAR0 is 64 bits wide there is no BAR1.
            2 => (32, false),
            VFIO_PCI_ROM_REGION_INDEX => (0x800, false),
            VFIO_PCI_CONFIG_REGION_INDEX => (256, false),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let mmap = if mapped { VFIO_REGION_INFO_FLAG_MMAP } else { 0 };
        let flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | mmap;
        let at = u32::try_from(REGION).unwrap() * index;
        Ok(RegionInfo::parse(&[32, flags, index, 0, len, 0, at, 0]))
    }

    fn irqs(&self, index: u32) -> io::Result<u32> {
        Ok(match index {
            VFIO_PCI_INTX_IRQ_INDEX => u32::from(self.pin),
            VFIO_PCI_MSI_IRQ_INDEX => 1,
            VFIO_PCI_MSIX_IRQ_INDEX => 4,
            // Errors are reported by PCI Express functions, which this is not.
            VFIO_PCI_REQ_IRQ_INDEX => 1,
            _ => 0,
        })
    }

    fn set_irqs(&self, irq: &Irq<'_>) -> io::Result<()> {
        let what = match &irq.action {
            IrqAction::Off => "off".to_owned(),
            IrqAction::Trigger(fds) => {
                if fds.len() > usize::try_from(self.vectors).unwrap() {
                    return Err(io::Error::other("few vectors"));
                }
                let own = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
                let wanted_back = irq.index == VFIO_PCI_REQ_IRQ_INDEX;
                *if wanted_back { &self.wanted_back } else { &self.events }.lock() = own;
                format!("{} on", fds.len())
            }
            IrqAction::UnmaskBy(fd) => format!("unmask {}", fd.is_some()),
        };
        self.asked.lock().push(format!("{}: {what}", irq.index));
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        self.asked.lock().push(format!("reset, command {:#x}", self.at(CONFIG + 4) & 0xffff));
        Ok(())
    }

    fn hot_reset(&self, groups: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.asked.lock().push(format!("hot reset of {} groups", groups.len()));
        Err(io::ErrorKind::NotFound.into())
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset - offset / REGION * REGION;
        self.asked.lock().push(format!("write {:#x}+{at:#x} of {}", offset / REGION, data.len()));
        self.file.write_all_at(data, offset)
    }

    fn close(&self) {
        self.asked.lock().push("close".to_owned());
    }

    fn map(&self, offset: u64, len: u64) -> Result<GuestMem, trapline_guestmem::Error> {
        GuestMem::of_device(self.file.as_fd(), offset, len)
    }
}

/// A pin that nobody is at the other end of.
struct Pin(OwnedFd);

impl ResampledPin for Pin {
    fn assert(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn pin() -> PinConnector {
    Arc::new(|| {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Box::new(Pin(fd)) as Box<dyn ResampledPin>)
    })
}

/// A machine with the function.
struct Machine {
    bench: Bench,
    bus: Arc<Bus>,
    fake: Arc<Fake>,
    departures: Arc<Mutex<Vec<Departure>>>,
}

fn opened(fake: &Arc<Fake>, trapped: &[u8]) -> OpenFunction {
    OpenFunction {
        address: "1:0.0".parse().unwrap(),
        hardware: fake.clone(),
        groups: Vec::new(),
        trapped: trapped.to_vec(),
        names: Names::default(),
    }
}

impl Machine {
    fn new() -> Self {
        Self::with(Fake::new(), &[])
    }

    fn with(fake: Fake, trapped: &[u8]) -> Self {
        let (bench, fake) = (Bench::default(), Arc::new(fake));
        let memory = BridgeWindow::identity(WindowKind::Memory, 0xc000_0000..0x1_0000_0000);
        let ports = BridgeWindow::identity(WindowKind::Io, 0..0x1_0000);
        let bus = Arc::new(Bus::new(bench.regions(), vec![ports, memory]));
        let event_loop: Arc<dyn EventLoop> = bench.event_loop.clone();
        let departures = Arc::<Mutex<Vec<Departure>>>::default();
        let (gone, from) = (Arc::clone(&departures), Arc::downgrade(&bus));
        let on_departure: OnDeparture = Arc::new(move |why| {
            gone.lock().push(why);
            drop(from.upgrade().and_then(|bus| bus.remove(DEVFN)));
        });
        let wires = Wires { pin: Some(pin()), event_loop, on_departure };
        let messages = Some(&bench.messages as &dyn trapline_device::MsiController);
        let slot = Slot { name: "vfio0", devfn: DEVFN, pin: None, messages };
        let function = opened(&fake, trapped).function(slot, wires).unwrap();
        bus.insert(DEVFN, function).unwrap();
        Self { bench, bus, fake, departures }
    }

    fn config(&self, offset: u16, size: Size) -> u32 {
        self.bus.config_read(DEVFN, offset, size)
    }

    fn set(&self, offset: u16, size: Size, value: u32) {
        self.bus.config_write(DEVFN, offset, size, value);
    }

    /// Both BARs at their places, and all enabled.
    fn enable(&self) {
        self.set(0x10, Size::Dword, u32::try_from(BARS_AT[0]).unwrap());
        self.set(0x18, Size::Dword, u32::try_from(BARS_AT[1]).unwrap());
        self.set(0x04, Size::Word, 7);
    }

    /// An entry of the table with its message, unmasked.
    fn unmask(&self, entry: u64, data: u64) {
        let at = BARS_AT[0] + 0x1000 + 16 * entry;
        self.bench.write(Space::Mmio, at, Size::Qword, MESSAGE.address);
        self.bench.write(Space::Mmio, at + 8, Size::Dword, data);
        self.bench.write(Space::Mmio, at + 12, Size::Dword, 0);
    }

    /// What was asked but for writes.
    fn asked(&self) -> Asked {
        let asked = self.fake.asked().into_iter();
        asked.filter(|what| !what.starts_with("write")).collect()
    }
}

#[test]
fn the_guest_sees_what_the_device_is_and_what_of_its_capabilities_can_be_passed_on() {
    let machine = Machine::new();
    let dword = |at| machine.config(at, Size::Dword);
    assert_eq!([dword(0x00), dword(0x08), dword(0x2c)], [0x100e_8086, 0x0200_0003, 0x1100_1af4]);
    assert_eq!(machine.config(0x3d, Size::Byte), 1);
    let mut list = Vec::new();
    let mut at = u16::try_from(machine.config(0x34, Size::Byte)).unwrap();
    while at != 0 {
        list.push((at, CapabilityId(u8::try_from(machine.config(at, Size::Byte) & 0xff).unwrap())));
        at = u16::try_from(machine.config(at + 1, Size::Byte) & 0xff).unwrap();
    }
    list.sort_by_key(|(at, _)| *at);
    let same = [
        (0x40, CapabilityId::POWER_MANAGEMENT),
        (0x50, CapabilityId::MSI),
        (0x60, CapabilityId::VENDOR),
        (0x70, CapabilityId::MSIX),
    ];
    assert_eq!(list, same, "each at its place, and not the unknown one");
    assert_eq!(dword(0x80), 0, "of which nothing is to be seen");
    // BARs and the ROM tell their sizes.
    for at in [0x10, 0x14, 0x18, 0x1c, 0x30] {
        machine.set(at, Size::Dword, u32::MAX);
    }
    let sizes = [0x10, 0x14, 0x18, 0x1c, 0x30].map(dword);
    assert_eq!(sizes, [0xffff_c004, 0xffff_ffff, 0xffff_ffe1, 0, 0xffff_f801]);
}

#[test]
fn registers_of_the_vendor_and_of_no_capability_are_the_devices() {
    let machine = Machine::new();
    assert_eq!(machine.config(0x60, Size::Dword), 0x1108_5009, "the list goes on elsewhere");
    machine.fake.set_config(0x64, &[1, 2, 3, 4]);
    assert_eq!(machine.config(0x64, Size::Dword), 0x0403_0201);
    machine.fake.asked();
    machine.set(0x64, Size::Word, 0xbeef);
    assert_eq!(machine.fake.at(CONFIG + 0x64), 0x0403_beef);
    // Half of it is a header, which is ours.
    machine.set(0x60, Size::Dword, 0x1234_5678);
    assert_eq!(
        machine.fake.asked(),
        ["write 0x7+0x64 of 2", "write 0x7+0x62 of 1", "write 0x7+0x63 of 1"]
    );
    assert_eq!(machine.config(0x60, Size::Dword), 0x1234_5009);
    // Those that nobody names.
    machine.set(0x6c, Size::Byte, 0x5a);
    assert_eq!(machine.fake.at(CONFIG + 0x6c), 0x5a);
    // The message's address is the bus's.
    machine.set(0x54, Size::Dword, 0xfee0_0000);
    assert_eq!(machine.fake.at(CONFIG + 0x54), 0);
}

#[test]
fn ports_and_the_rom_are_passed_on_with_exact_sizes() {
    let machine = Machine::new();
    machine.enable();
    let io = REGION * 2;
    machine.fake.asked();
    for (offset, size) in [(0, Size::Byte), (2, Size::Word), (4, Size::Dword), (31, Size::Byte)] {
        machine.bench.write(Space::Pio, BARS_AT[1] + offset, size, 0x8765_4321);
    }
    let exact =
        ["write 0x2+0x0 of 1", "write 0x2+0x2 of 2", "write 0x2+0x4 of 4", "write 0x2+0x1f of 1"];
    assert_eq!(machine.fake.asked(), exact);
    assert_eq!([machine.fake.at(io), machine.fake.at(io + 4)], [0x4321_0021, 0x8765_4321]);
    assert_eq!(machine.bench.read(Space::Pio, BARS_AT[1] + 3, Size::Byte), 0x43);
    machine.fake.file.write_all_at(&[0x55, 0xaa], REGION * 6).unwrap();
    machine.set(0x30, Size::Dword, 0xe100_0001);
    assert_eq!(machine.bench.read(Space::Mmio, 0xe100_0000, Size::Word), 0xaa55);
}

#[test]
fn memory_is_reached_without_the_device_but_for_the_table() {
    let machine = Machine::new();
    machine.enable();
    machine.fake.asked();
    let write = |offset, value| {
        machine.bench.write(Space::Mmio, BARS_AT[0] + offset, Size::Dword, value);
    };
    write(0x10, 0x1234);
    write(0x3ffc, 0x5678);
    // Right behind the table, and right before the pending bits.
    write(0x1040, 0x9abc);
    assert_eq!([0x10, 0x3ffc, 0x1040].map(|at| machine.fake.at(at)), [0x1234, 0x5678, 0x9abc]);
    write(0x1000, 0xfee0_0000);
    assert_eq!(machine.fake.at(0x1000), 0, "the table is the bus's");
    assert_eq!(machine.fake.asked(), [""; 0], "nothing came by way of the device");
}

#[test]
fn a_trapped_bar_comes_to_the_device_register_by_register() {
    let machine = Machine::with(Fake::new(), &[0]);
    machine.enable();
    machine.fake.asked();
    machine.bench.write(Space::Mmio, BARS_AT[0] + 0xd8, Size::Dword, 7);
    assert_eq!(machine.fake.asked(), ["write 0x0+0xd8 of 4"]);
    assert_eq!(machine.bench.read(Space::Mmio, BARS_AT[0] + 0xd8, Size::Dword), 7);
    machine.bench.write(Space::Mmio, BARS_AT[0] + 0x20, Size::Qword, 0x1_0000_0002);
    assert_eq!([machine.fake.at(0x20), machine.fake.at(0x24)], [2, 1]);
}

#[test]
fn what_cannot_be_trapped_or_assigned_is_refused() {
    let refused = |fake: Fake, trapped: &[u8], pin: Option<PinConnector>| {
        let bench = Bench::default();
        let slot = Slot { name: "vfio0", devfn: DEVFN, pin: None, messages: None };
        let event_loop = bench.event_loop.clone();
        let wires = Wires { pin, event_loop, on_departure: Arc::new(|_| {}) };
        opened(&Arc::new(fake), trapped).function(slot, wires).err().map(|error| error.to_string())
    };
    let text = refused(Fake::new(), &[1], Some(pin())).unwrap();
    assert_eq!(text, "PCI function 0000:01:00.0: it has no BAR 1 to trap; it has 0, 2");
    let bridge = Fake::new();
    bridge.set_config(0x0e, &[0x81]);
    assert!(refused(bridge, &[], Some(pin())).unwrap().contains("a bridge is the host's"));
    assert_eq!(refused(Fake::new(), &[], None), None, "there are messages");
}

#[test]
fn the_pin_is_connected_while_it_is_used_and_messages_are_not() {
    let machine = Machine::new();
    assert_eq!(machine.asked(), ["4: 1 on", "reset, command 0x3"], "when it is opened");
    machine.enable();
    assert_eq!(machine.asked(), ["0: 1 on", "0: unmask true"]);
    machine.set(0x04, Size::Word, 0x407);
    assert_eq!(machine.asked(), ["0: unmask false", "0: off"], "interrupts disabled");
    machine.set(0x04, Size::Word, 7);
    machine.asked();
    machine.set(0x54, Size::Dword, 0xfee0_0000);
    machine.set(0x5c, Size::Word, 0x41);
    machine.set(0x52, Size::Word, 1);
    assert_eq!(machine.asked(), ["0: unmask false", "0: off", "1: 1 on"]);
    machine.fake.signal(0);
    machine.bench.settle();
    assert_eq!(machine.bench.messages.take(), [(0xfee0_0000, 0x41)]);
    machine.set(0x52, Size::Word, 0);
    assert_eq!(machine.asked(), ["1: off", "0: 1 on", "0: unmask true"]);
    // The status register tells of the device's own pin.
    machine.fake.set_config(0x06, &[0x18]);
    assert_eq!(machine.config(0x04, Size::Dword) >> 16, 0x18);
    machine.fake.set_config(0x06, &[0x10]);
    assert_eq!(machine.config(0x06, Size::Byte), 0x10);
}

#[test]
fn vectors_are_switched_on_when_the_table_lets_them_through_and_none_is_lost() {
    let machine = Machine::new();
    machine.enable();
    machine.asked();
    // Enabled and masked, as drivers begin.
    machine.set(0x72, Size::Word, 0xc000);
    assert_eq!(machine.asked(), ["0: unmask false", "0: off"]);
    machine.unmask(0, 0x40);
    machine.unmask(1, 0x41);
    assert_eq!(machine.asked(), [""; 0]);
    machine.set(0x72, Size::Word, 0x8000);
    assert_eq!(machine.asked(), ["2: 2 on"], "both at once");
    machine.fake.signal(1);
    machine.bench.settle();
    assert_eq!(machine.bench.messages.take(), [(MESSAGE.address, 0x41)]);
    // Masked: it waits, and the guest can see that.
    let control = BARS_AT[0] + 0x100c;
    machine.bench.write(Space::Mmio, control, Size::Dword, 1);
    machine.fake.signal(0);
    machine.bench.settle();
    assert_eq!(machine.bench.messages.take(), []);
    assert_eq!(machine.bench.read(Space::Mmio, BARS_AT[0] + 0x1800, Size::Dword), 1);
    machine.bench.write(Space::Mmio, control, Size::Dword, 0);
    machine.bench.settle();
    assert_eq!(machine.bench.messages.take(), [(MESSAGE.address, 0x40)]);
    assert_eq!(machine.asked(), [""; 0], "the host has nothing to do with masks");
    // A third one: all go off for a moment, in which anything may have come.
    machine.unmask(2, 0x42);
    assert_eq!(machine.asked(), ["2: off", "2: 3 on"]);
    machine.bench.settle();
    let mut came = machine.bench.messages.take();
    came.sort_unstable();
    assert_eq!(came, [(MESSAGE.address, 0x40), (MESSAGE.address, 0x41)]);
    machine.set(0x72, Size::Word, 0);
    assert_eq!(machine.asked(), ["2: off", "0: 1 on", "0: unmask true"]);
}

#[test]
fn a_host_without_vectors_leaves_those_there_were() {
    let machine = Machine::with(Fake { vectors: 2, ..Fake::new() }, &[]);
    machine.enable();
    machine.set(0x72, Size::Word, 0xc000);
    machine.unmask(0, 0x40);
    machine.unmask(1, 0x41);
    machine.set(0x72, Size::Word, 0x8000);
    machine.asked();
    machine.unmask(3, 0x43);
    assert_eq!(machine.asked(), ["2: off", "2: 2 on"]);
}

#[test]
fn a_reset_makes_it_quiet_first_and_decode_always() {
    let machine = Machine::new();
    machine.enable();
    assert_eq!(machine.fake.at(CONFIG + 4) & 0xffff, 7, "a bus master");
    machine.asked();
    Device::reset(&*machine.bus);
    assert_eq!(machine.asked(), ["0: unmask false", "0: off", "reset, command 0x3"]);
    assert_eq!(machine.config(0x04, Size::Word) & 0xffff, 0);
    machine.enable();
    machine.asked();
    // Into D3hot and out again.
    machine.set(0x44, Size::Word, 3);
    machine.set(0x44, Size::Word, 0);
    assert!(machine.asked().contains(&"reset, command 0x3".to_owned()));
    machine.asked();
    drop(machine.bus.remove(DEVFN));
    assert_eq!(machine.asked(), ["reset, command 0x3", "4: off", "close"], "given back");
}

#[test]
fn a_device_that_cannot_reset_itself_is_reset_with_its_bus_if_that_can_be() {
    let machine = Machine::with(Fake { resets: false, ..Fake::new() }, &[]);
    assert_eq!(machine.asked(), ["4: 1 on", "hot reset of 0 groups"]);
}

#[test]
fn a_function_that_the_host_wants_back_goes_and_the_guest_finds_nobody_there() {
    let machine = Machine::new();
    machine.enable();
    machine.asked();
    let event = machine.fake.wanted_back.lock()[0].try_clone().unwrap();
    for _ in 0..2 {
        rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
        machine.bench.settle();
    }
    assert_eq!(*machine.departures.lock(), [Departure::Requested], "nobody hears it twice");
    let given_back = ["0: unmask false", "0: off", "reset, command 0x3", "4: off", "close"];
    assert_eq!(machine.asked(), given_back);
    assert_eq!(machine.config(0x00, Size::Dword), u32::MAX);
    assert_eq!(machine.bench.read(Space::Mmio, BARS_AT[0], Size::Dword), 0xffff_ffff);
    // Nobody but the test has the device any more: its file is closed.
    assert_eq!(Arc::strong_count(&machine.fake), 1);
}

#[test]
fn its_state_stays_in_the_device() {
    let machine = Machine::new();
    let saved = SaveState::save(&*machine.bus);
    let refused = SaveState::restore(&*machine.bus, &saved).unwrap_err();
    assert!(refused.to_string().contains("in the device alone"), "{refused}");
}

#[test]
fn descriptors_are_what_the_kernel_gets() {
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let irq = Irq { index: 0, action: IrqAction::Trigger(vec![event.as_fd()]) };
    let words = irq.words(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()));
    assert_eq!(words.last().copied(), Some(event.as_raw_fd()));
}
