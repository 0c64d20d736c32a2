//! The arm64 board: kvmtool's map, its devices listed one by one. They are the PC's, reached by
//! address instead of by port.

mod frame;
mod gic;
#[cfg(target_arch = "aarch64")]
mod kvm;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "KVM wants the rest"))]
mod layout;
mod qtest;
mod replay;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "KVM's guests read it"))]
mod tree;

use std::sync::{Arc, Weak};

use trapline_device::{
    CharBackend, CharDevice, FdtDevice, FdtNode, Interrupt, Line, MsiController, NullBackend,
};
use trapline_pci::{Bus, EcamWindow, Layout};
use trapline_platform::flash::{Flash, Part, regs};
use trapline_platform::rtc::{CmosConfig, Rtc, WINDOW_LEN};
use trapline_platform::serial::{PAGE_LEN, Serial};

#[cfg(target_arch = "aarch64")]
pub(crate) use kvm::VirtOnKvm;
pub(crate) use qtest::build;
pub(crate) use replay::Replayed;

use crate::Error;
use crate::board::{
    AssignedUntil, Board, Builder, ChosenVirtio, Devices, Lines, NamedVirtio, PciSlots,
    VirtioHandles, Wiring, add_mmio, consoles, serial_backend,
};
use crate::flash::FlashImage;
use crate::isolate::Kind;

/// The first device of the PCI bus; kvmtool's has none with the number 0 either.
const FIRST_DEVICE: u8 = 1;

/// Registers of a UART, one byte each. The rest of its page, up to the next one's, is its own, too.
const SERIAL_LEN: u64 = 8;

/// The arm64 board. Dropping it unmaps everything.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "only KVM wants the rest"))]
pub(crate) struct Arm64Virt {
    /// Before the memory that they reach.
    _assigned: AssignedUntil,
    devices: Devices,
    console: Arc<dyn CharDevice>,
    bus: Arc<Bus>,
    virtio: VirtioHandles,
    /// What the devices with an address of their own say in the device tree.
    nodes: Vec<FdtNode>,
    /// What the PCI host bridge says there.
    pci: FdtNode,
}

impl Board for Arm64Virt {
    fn devices(&self) -> &Devices {
        &self.devices
    }

    fn console(&self) -> Weak<dyn CharDevice> {
        Arc::downgrade(&self.console)
    }

    fn virtio(&self) -> &VirtioHandles {
        &self.virtio
    }
}

/// Interrupt controllers of ours, for a source of traps that has none.
pub(crate) trait Controllers {
    /// Adds them with their registers, at the board's addresses.
    fn add(&self, builder: &mut Builder);
}

/// What differs between the sources of the board's accesses.
pub(crate) struct Source {
    /// The shared peripheral interrupts, counted from 0.
    pub(crate) lines: Lines,
    /// Where PCI functions' messages go, if the interrupt controller takes any.
    pub(crate) messages: Option<Arc<dyn MsiController>>,
    /// The controllers behind both, unless they are the source's.
    pub(crate) controllers: Option<Arc<dyn Controllers>>,
    /// What is in the flash, if there is one.
    pub(crate) flash: Option<Arc<FlashImage>>,
}

impl Arm64Virt {
    /// Makes the devices and maps them, all in one edit.
    pub(crate) fn new(wiring: &Wiring, source: &Source) -> Result<Self, Error> {
        let (mut builder, mut nodes) = (Builder::default(), Vec::new());
        builder.ram(&wiring.ram);
        let console = add_serial_ports(wiring, source, &mut builder, &mut nodes)?;
        add_rtc(wiring, &mut builder, &mut nodes)?;
        if let Some(image) = &source.flash {
            add_flash(image, &mut builder, &mut nodes);
        }
        let virtio = ChosenVirtio::new(wiring)?;
        let names = virtio.names();
        let (on_bus, windows, handles) = virtio.split();
        nodes.extend(add_virtio(windows, wiring, source, &mut builder)?);
        let (bus, pci) = add_pci(on_bus, wiring, source, &mut builder)?;
        if let Some(controllers) = &source.controllers {
            controllers.add(&mut builder);
        }
        let devices = Devices::new(wiring.registry.clone(), wiring.options.spared);
        devices.add(builder)?;
        let is_there = |name: &str| devices.has(name) || names.iter().any(|other| other == name);
        wiring.isolates.check(is_there)?;
        if let Some(image) = &source.flash {
            image.mapped(&wiring.registry, "flash");
        }
        let _assigned = wiring.vfio.start(&bus, &wiring.registry)?;
        let console = consoles(console, &handles);
        Ok(Self { _assigned, devices, console, bus, virtio: handles, nodes, pci })
    }
}

/// Four UARTs, each with a line of its own; the console is on the first.
fn add_serial_ports(
    wiring: &Wiring,
    source: &Source,
    builder: &mut Builder,
    nodes: &mut Vec<FdtNode>,
) -> Result<Arc<dyn CharDevice>, Error> {
    let first = serial_backend(&wiring.options);
    let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
    let mut console: Option<Arc<dyn CharDevice>> = None;
    for (i, (base, spi)) in layout::SERIAL.into_iter().zip(layout::spi::SERIAL).enumerate() {
        let (backend, name) = (if i == 0 { &first } else { &nothing }, format!("serial{i}"));
        let node = |node: FdtNode| tree::interrupt(node.at(base..base + SERIAL_LEN), spi);
        let lines = || vec![source.lines.line(spi)];
        if let Some(serial) = wiring.isolated(&name, Kind::Uart, backend, lines)? {
            let (device, there) = (serial.clone(), Serial::node());
            let part = builder.device(&name, serial.clone()).after_reset(move || device.poll());
            part.mmio(base, PAGE_LEN, (&name, "uart"), serial.clone());
            part.coalesce(0..1).forward(serial.channel());
            nodes.push(node(there));
            console.get_or_insert(serial);
            continue;
        }
        let (line, clock) = (source.lines.line(spi), Arc::clone(&wiring.clock));
        let serial = Serial::new(Arc::clone(backend), line, clock);
        let device = serial.clone();
        builder
            .device(&name, serial.clone())
            .mmio(base, PAGE_LEN, (&name, "uart"), serial.clone())
            .coalesce(0..1)
            .mirror(0..PAGE_LEN, serial.mirror())
            .after_reset(move || device.poll());
        nodes.push(node(serial.fdt_node()));
        console.get_or_insert(serial);
    }
    Ok(console.unwrap_or_else(|| unreachable!("there are four serial ports")))
}

/// The clock, whose interrupt leads nowhere, as on kvmtool's board. No firmware looks for a memory
/// size in its RAM.
fn add_rtc(wiring: &Wiring, builder: &mut Builder, nodes: &mut Vec<FdtNode>) -> Result<(), Error> {
    let cmos = CmosConfig { below_4g: 0, above_4g: 0, cpus: 1 };
    let (at, name) = (layout::RTC..layout::RTC + WINDOW_LEN, ("rtc", "cmos"));
    let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
    if let Some(rtc) = wiring.isolated("rtc", cmos.into(), &nothing, Vec::new)? {
        nodes.push(Rtc::node().at(at));
        let part = builder.device("rtc", rtc.clone());
        part.mmio(layout::RTC, WINDOW_LEN, name, rtc.clone()).coalesce(0..1).forward(rtc.channel());
        return Ok(());
    }
    let rtc = Rtc::new(Line::unconnected(), Arc::clone(&wiring.clock), cmos);
    nodes.push(rtc.fdt_node().at(at));
    let part = builder.device("rtc", rtc.clone());
    part.mmio(layout::RTC, WINDOW_LEN, name, rtc).coalesce(0..1);
    Ok(())
}

/// Virtio devices behind windows of registers, each with a line.
fn add_virtio(
    devices: Vec<NamedVirtio>,
    wiring: &Wiring,
    source: &Source,
    builder: &mut Builder,
) -> Result<Vec<FdtNode>, Error> {
    let mut slots = layout::virtio_slots();
    let nodes = devices.into_iter().map(|device| {
        let (range, spi) = slots.next().ok_or_else(|| Error::NoMmioSlot(device.name.clone()))?;
        let place = (range.start, Interrupt::pin(source.lines.line(spi)));
        let node = add_mmio(device, place, wiring, builder)?;
        Ok(tree::interrupt(node.at(range), spi))
    });
    nodes.collect()
}

/// Bus 0 behind its windows.
fn add_pci(
    virtio: Vec<NamedVirtio>,
    wiring: &Wiring,
    source: &Source,
    builder: &mut Builder,
) -> Result<(Arc<Bus>, FdtNode), Error> {
    let registry = Arc::new(wiring.registry.downgrade());
    let bus = Arc::new(Bus::new(registry, layout::pci_windows().into()));
    let ecam = Arc::new(EcamWindow::new(Arc::clone(&bus), Layout::Ecam));
    let node = tree::host_bridge(ecam.fdt_node(), source.messages.is_some());
    let window = layout::PCI_ECAM;
    let part = builder.device("pci-bus", bus.clone());
    part.mmio(window.start, window.end - window.start, ("pci", "ecam"), ecam.clone());
    if let Some((offsets, mirror)) = ecam.mirror() {
        part.mirror(offsets, mirror);
    }
    let pin = |device, _| source.lines.line(layout::spi::pci(device));
    let slots = PciSlots { bus: &bus, pin: &pin, messages: source.messages.as_deref() };
    let input = |device, _| layout::spi::pci(device);
    slots.plug_chosen(FIRST_DEVICE, virtio, wiring, &input)?;
    Ok((bus, node))
}

/// kvmtool's chips.
const FLASH: &Part = &regs::PAIR_OF_X16;

fn add_flash(image: &Arc<FlashImage>, builder: &mut Builder, nodes: &mut Vec<FdtNode>) {
    let flash = Arc::new(Flash::new(FLASH, image.clone()));
    let (base, len) = (layout::FLASH.start, flash.len_bytes());
    nodes.push(flash.fdt_node().at(base..base + len));
    builder.device("flash", flash.clone()).region(image.region(base, "flash", flash));
}

/// How much RAM goes where, `(guest address, length in bytes)`: all of it from `base`, or from where
/// the board has it.
pub(crate) fn ram_ranges(base: Option<u64>, bytes: u64) -> Result<Vec<(u64, u64)>, Error> {
    let base = base.unwrap_or(layout::RAM);
    if base < layout::RAM {
        return Err(Error::RamAddress { base, lowest: layout::RAM });
    }
    Ok(vec![(base, bytes)])
}
