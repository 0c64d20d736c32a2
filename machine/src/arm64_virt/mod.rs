//! The arm64 board: kvmtool's map, its devices listed one by one. They are the PC's, reached by
//! address instead of by port.

mod edu;
mod flash;
#[cfg(target_arch = "aarch64")]
mod frame;
mod gic;
#[cfg(target_arch = "aarch64")]
mod kvm;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "KVM wants the rest"))]
mod layout;
mod qtest;
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "KVM's guests read it"))]
mod tree;

use std::sync::{Arc, Weak};

use trapline::{Mapping, Registry};
use trapline_device::{
    CharBackend, CharDevice, Clock, Device, FdtDevice, FdtNode, Line, MsiController, NullBackend,
};
use trapline_display::{Input, NoInput};
use trapline_guestmem::{Backing, GuestMem, Options as MemOptions};
use trapline_pci::{Bus, EcamWindow, Layout};
use trapline_platform::flash::{Flash, FlashArray};
use trapline_platform::rtc::{CmosConfig, Rtc, WINDOW_LEN};
use trapline_platform::serial::Serial;

#[cfg(target_arch = "aarch64")]
pub(crate) use kvm::VirtOnKvm;
pub(crate) use qtest::build;

use crate::Error;
use crate::parts::{Devices, Lines, Parts};
use crate::qtest::OnBench;

/// Registers of a UART, one byte each.
const SERIAL_LEN: u64 = 8;

/// A built board. Dropping it unmaps everything.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "only KVM wants the rest"))]
pub(crate) struct Board {
    devices: Devices,
    console: Arc<Serial>,
    bus: Arc<Bus>,
    /// What the devices with an address of their own say in the device tree.
    nodes: Vec<FdtNode>,
    /// What the PCI host bridge says there.
    pci: FdtNode,
    _mappings: Vec<Mapping>,
}

/// Interrupt controllers of ours, for a source of traps that has none.
pub(crate) trait Controllers {
    /// Adds their registers, at the board's addresses.
    fn add(&self, parts: &mut Parts);
}

/// What the devices are wired to.
#[cfg_attr(not(target_arch = "aarch64"), allow(dead_code, reason = "only KVM wants the rest"))]
pub(crate) struct Wiring<'a> {
    /// The shared peripheral interrupts, counted from 0.
    pub(crate) lines: &'a dyn Lines,
    /// Where PCI functions' messages go, if the interrupt controller takes any.
    pub(crate) msi: Option<&'a dyn MsiController>,
    /// The controllers behind both, unless they are the source's.
    pub(crate) controllers: Option<&'a dyn Controllers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
}

/// What there is to choose about the board.
pub(crate) struct Options {
    pub(crate) console: Arc<dyn CharBackend>,
    /// What is in the flash, if there is one.
    pub(crate) flash: Option<Arc<dyn FlashArray>>,
    pub(crate) coalesce: bool,
}

impl Board {
    /// Makes the devices and maps them, all in one edit.
    pub(crate) fn new(registry: &Registry, wiring: &Wiring<'_>) -> Result<Self, Error> {
        let (mut parts, mut nodes) = (Parts::default(), Vec::new());
        let console = wiring.add_serial_ports(&mut parts, &mut nodes);
        wiring.add_rtc(&mut parts, &mut nodes);
        if let Some(array) = &wiring.options.flash {
            add_flash(Arc::clone(array), &mut parts, &mut nodes);
        }
        let (bus, pci) = wiring.add_pci(&mut parts);
        if let Some(controllers) = wiring.controllers {
            controllers.add(&mut parts);
        }
        let (devices, mappings) = parts.map(registry, wiring.options.coalesce)?;
        Ok(Self { devices, console, bus, nodes, pci, _mappings: mappings })
    }

    /// The first serial port, for its backend to call.
    pub(crate) fn console(&self) -> Weak<dyn CharDevice> {
        let console: Arc<dyn CharDevice> = self.console.clone();
        Arc::downgrade(&console)
    }
}

impl Device for Board {
    fn reset(&self) {
        self.devices.reset();
    }
}

impl OnBench for Board {
    fn devices(&self) -> &Devices {
        &self.devices
    }

    fn console(&self) -> Weak<dyn CharDevice> {
        Self::console(self)
    }

    fn input(&self) -> Arc<dyn Input> {
        Arc::new(NoInput)
    }
}

impl Wiring<'_> {
    /// Four UARTs, each with a line of its own; the console is on the first.
    fn add_serial_ports(&self, parts: &mut Parts, nodes: &mut Vec<FdtNode>) -> Arc<Serial> {
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        let mut console = None;
        for (i, (base, spi)) in layout::SERIAL.into_iter().zip(layout::spi::SERIAL).enumerate() {
            let backend = if i == 0 { &self.options.console } else { &nothing };
            let line = self.lines.line(spi);
            let serial = Serial::new(Arc::clone(backend), line, Arc::clone(&self.clock));
            let name = format!("serial{i}");
            parts.devices.add(&name, serial.clone());
            let device = serial.clone();
            parts.devices.add_follower(move || device.poll());
            parts.mmio(base, SERIAL_LEN, (&name, "uart"), serial.clone());
            parts.coalesce(0..1);
            let node = serial.fdt_node().at(base..base + SERIAL_LEN);
            nodes.push(tree::interrupt(node, spi));
            console.get_or_insert(serial);
        }
        console.unwrap_or_else(|| unreachable!("there are four serial ports"))
    }

    /// The clock, whose interrupt leads nowhere, as on kvmtool's board. No firmware looks for a
    /// memory size in its RAM.
    fn add_rtc(&self, parts: &mut Parts, nodes: &mut Vec<FdtNode>) {
        let cmos = CmosConfig { below_4g: 0, above_4g: 0, cpus: 1 };
        let rtc = Rtc::new(Line::unconnected(), Arc::clone(&self.clock), cmos);
        parts.devices.add("rtc", rtc.clone());
        nodes.push(rtc.fdt_node().at(layout::RTC..layout::RTC + WINDOW_LEN));
        parts.mmio(layout::RTC, WINDOW_LEN, ("rtc", "cmos"), rtc);
        parts.coalesce(0..1);
    }

    /// Bus 0 behind its window.
    fn add_pci(&self, parts: &mut Parts) -> (Arc<Bus>, FdtNode) {
        let bus = parts.device("pci-bus", Bus::new());
        let ecam = Arc::new(EcamWindow::new(Arc::clone(&bus), Layout::Ecam));
        let node = tree::host_bridge(ecam.fdt_node(), self.msi.is_some());
        let window = layout::PCI_ECAM;
        parts.mmio(window.start, window.end - window.start, ("pci", "ecam"), ecam);
        (bus, node)
    }
}

fn add_flash(array: Arc<dyn FlashArray>, parts: &mut Parts, nodes: &mut Vec<FdtNode>) {
    let flash = parts.device("flash", Flash::new(array));
    let (base, len) = (layout::FLASH.start, flash.len_bytes());
    nodes.push(flash.fdt_node().at(base..base + len));
    parts.mmio(base, len, ("flash", "cfi"), flash);
}

/// `bytes` of RAM from `base`.
pub(crate) fn ram(base: u64, bytes: u64, backing: &Backing) -> Result<GuestMem, Error> {
    if base < layout::RAM {
        return Err(Error::RamAddress { base, lowest: layout::RAM });
    }
    let options = MemOptions { backing: backing.clone(), ..MemOptions::default() };
    Ok(GuestMem::with_options(&[(base, bytes)], &options)?)
}
