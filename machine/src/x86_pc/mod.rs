//! The PC board: kvmtool's map, its devices listed one by one.

#[cfg(target_arch = "x86_64")]
mod boot;
#[cfg(target_arch = "x86_64")]
mod display;
mod fw_cfg;
mod intc;
mod keys;
#[cfg(target_arch = "x86_64")]
mod kvm;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "what guests are told is unused")
)]
mod layout;
mod qtest;
mod testdev;

use std::sync::{Arc, Weak};

use layout::{irq, port};
use trapline::{Handler, Mapping, Region, Registry};
use trapline_device::{CharBackend, CharDevice, Clock, Device, Line, NullBackend, Power};
use trapline_display::Input;
use trapline_guestmem::{Backing, GuestMem, Options as MemOptions};
use trapline_pci::{Bus, Conf1, Devfn, EcamWindow, HostBridge, Layout};
use trapline_platform::acpi_pm::{AcpiPm, TimerWidth};
use trapline_platform::i8042::{I8042, NoTimer2, Timer2};
use trapline_platform::legacy::dma::Dma;
use trapline_platform::legacy::{
    Crtc, DebugConsole, DebugPort, ExitPort, FpuPorts, Latches, PrinterPort, SystemControl,
};
use trapline_platform::rtc::{CmosConfig, Rtc};
use trapline_platform::serial::Serial;
use trapline_platform::testdev::PageFlush;

use crate::Error;

use intc::Controllers;
#[cfg(target_arch = "x86_64")]
pub(crate) use kvm::PcOnKvm;
pub(crate) use qtest::build;

use crate::parts::{Devices, Lines, Parts};
use crate::qtest::OnBench;
use testdev::SharedLines;

/// A built board. Dropping it unmaps everything.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only KVM wants the rest"))]
pub(crate) struct Board {
    devices: Devices,
    console: Arc<Serial>,
    i8042: Arc<I8042>,
    bus: Arc<Bus>,
    _mappings: Vec<Mapping>,
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
        Self::input(self)
    }
}

/// What the devices are wired to.
pub(crate) struct Wiring<'a> {
    pub(crate) lines: &'a dyn Lines,
    /// The controllers behind the lines, unless they are the source's.
    pub(crate) controllers: Option<&'a Controllers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) power: Arc<dyn Power>,
    /// The guest's RAM, for devices that reach it by themselves.
    pub(crate) mem: GuestMem,
    /// Who makes pages of it fault, for the test device.
    pub(crate) pages: Arc<dyn PageFlush>,
    pub(crate) options: Options,
}

/// What there is to choose about the board.
pub(crate) struct Options {
    pub(crate) cpus: u32,
    pub(crate) mem_bytes: u64,
    pub(crate) console: Arc<dyn CharBackend>,
    pub(crate) firmware_log: Arc<dyn CharBackend>,
    pub(crate) exit_port: bool,
    pub(crate) testdev: bool,
    /// The user's files for firmware: names and contents.
    pub(crate) fw_cfg: Vec<(String, Vec<u8>)>,
    pub(crate) coalesce: bool,
}

/// How much RAM goes where: `(guest address, length in bytes)`.
pub(crate) fn ram_ranges(bytes: u64) -> Result<Vec<(u64, u64)>, Error> {
    if bytes < layout::HIGH_MEMORY {
        return Err(Error::TooLittleMemory { bytes });
    }
    let low = bytes.min(layout::HOLE_START);
    let mut ranges = vec![(0, low)];
    if bytes > low {
        ranges.push((layout::HOLE_END, bytes - low));
    }
    Ok(ranges)
}

impl Board {
    /// Makes the devices and maps them, all in one edit.
    pub(crate) fn new(registry: &Registry, wiring: Wiring<'_>) -> Result<Self, Error> {
        let mut parts = Parts::default();
        let lines = SharedLines::new(wiring.lines);
        let wiring = Wiring { lines: &lines, ..wiring };
        let console = wiring.add_serial_ports(&mut parts);
        let i8042 = wiring.add_platform(&mut parts);
        wiring.add_legacy(&mut parts);
        fw_cfg::add(&mut parts, &wiring.options, &wiring.mem)?;
        if wiring.options.testdev {
            testdev::add(&mut parts, &wiring);
        }
        let bus = wiring.add_pci(&mut parts)?;
        if let Some(controllers) = wiring.controllers {
            controllers.add_devices(&mut parts.devices);
        }
        let (devices, mappings) = parts.map(registry, wiring.options.coalesce)?;
        Ok(Self { devices, console, i8042, bus, _mappings: mappings })
    }

    /// The first serial port, for its backend to call.
    pub(crate) fn console(&self) -> Weak<dyn CharDevice> {
        let console: Arc<dyn CharDevice> = self.console.clone();
        Arc::downgrade(&console)
    }
}

impl Wiring<'_> {
    fn line(&self, irq: u8) -> Line {
        self.lines.line(irq.into())
    }

    /// Four UARTs on two lines, as on a PC; the console is on the first.
    fn add_serial_ports(&self, parts: &mut Parts) -> Arc<Serial> {
        let [first, second, ..] = irq::SERIAL;
        let (com1, com2) = (self.line(first), self.line(second));
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        let lines = [com1.share(), com2.share(), com1, com2];
        let mut console = None;
        for (i, (line, base)) in lines.into_iter().zip(port::SERIAL).enumerate() {
            let backend = if i == 0 { &self.options.console } else { &nothing };
            let serial = Serial::new(Arc::clone(backend), line, Arc::clone(&self.clock));
            let name = format!("serial{i}");
            parts.devices.add(&name, serial.clone());
            let device = serial.clone();
            parts.devices.add_follower(move || device.poll());
            parts.ports(base, 8, (&name, "uart"), serial.clone());
            parts.coalesce(0..1);
            console.get_or_insert(serial);
        }
        console.unwrap_or_else(|| unreachable!("there are four serial ports"))
    }

    fn add_platform(&self, parts: &mut Parts) -> Arc<I8042> {
        let timer2 = self.controllers.map_or_else(
            || -> Box<dyn Timer2> { Box::new(NoTimer2) },
            |chips| chips.add(parts, self.line(irq::TIMER), Arc::clone(&self.clock)),
        );
        let i8042 = I8042::new(
            self.line(irq::KEYBOARD),
            self.line(irq::MOUSE),
            Arc::clone(&self.power),
            Arc::clone(&self.clock),
            timer2,
        );
        parts.devices.add("i8042", i8042.clone());
        for (offset, region) in [(0u8, "data"), (1, "port-b"), (4, "command")] {
            let base = port::I8042 + u16::from(offset);
            let handler: Arc<dyn Handler> = i8042.clone();
            let region = Region::pio(base, 1, "i8042", region, handler);
            parts.regions.push((region.device_offset(offset.into()), None));
        }

        let ranges = ram_ranges(self.options.mem_bytes).unwrap_or_default();
        let len = |i: usize| ranges.get(i).map_or(0, |range| range.1);
        let cpus = u8::try_from(self.options.cpus).unwrap_or(u8::MAX);
        let cmos = CmosConfig { below_4g: len(0), above_4g: len(1), cpus };
        let rtc = Rtc::new(self.line(irq::RTC), Arc::clone(&self.clock), cmos);
        parts.devices.add("rtc", rtc.clone());
        parts.ports(port::RTC, trapline_platform::rtc::WINDOW_LEN, ("rtc", "cmos"), rtc);
        parts.coalesce(0..1);

        let acpi = AcpiPm::new(
            self.line(irq::SCI),
            Arc::clone(&self.clock),
            Arc::clone(&self.power),
            TimerWidth::Bits24,
        );
        parts.devices.add("acpi", acpi.clone());
        let len = u64::from(trapline_platform::acpi_pm::regs::WINDOW_LEN);
        parts.ports(port::ACPI_PM, len, ("acpi", "pm"), acpi);
        i8042
    }

    fn add_legacy(&self, parts: &mut Parts) {
        let dma1 = parts.device("dma1", Dma::bytes());
        parts.ports(port::DMA1, 0x20, ("dma1", "8237"), dma1);
        let dma2 = parts.device("dma2", Dma::words());
        parts.ports(port::DMA2, 0x20, ("dma2", "8237"), dma2);
        let post = parts.device("post", Latches::post());
        parts.ports(port::POST, 1, ("post", "code"), post);
        parts.coalesce(0..1);
        let pages = parts.device("dma-pages", Latches::dma_pages());
        let len = pages.len() as u64;
        parts.ports(port::DMA_PAGES, len, ("dma", "pages"), pages);
        let control = parts.device("port92", SystemControl::new(Arc::clone(&self.power)));
        parts.ports(port::SYSTEM_CONTROL_A, 1, ("system", "control-a"), control);
        // The test device has registers there.
        if !self.options.testdev {
            let debug = parts.device("kvmtool-debug", DebugPort::new(None));
            parts.ports(port::KVMTOOL_DEBUG, 1, ("kvmtool", "debug"), debug);
        }
        let delay = parts.device("delay", Latches::delay());
        parts.ports(port::DELAY, 1, ("delay", "port"), delay);
        parts.coalesce(0..1);
        parts.ports(port::FPU, 2, ("fpu", "busy"), Arc::new(FpuPorts));
        for (i, base) in port::LPT.into_iter().enumerate() {
            let name = format!("lpt{i}");
            let printer = parts.device(&name, PrinterPort::default());
            parts.ports(base, 3, (&name, "spp"), printer);
        }
        let crt = parts.device("crt", Crtc::default());
        parts.ports(port::CRT, 2, ("crt", "6845"), crt);
        let log = Arc::new(DebugConsole::new(Arc::clone(&self.options.firmware_log)));
        parts.ports(port::FIRMWARE_DEBUG, 1, ("firmware", "debug"), log);
        parts.coalesce(0..1);
        if self.options.exit_port || self.options.testdev {
            let exit = Arc::new(ExitPort::new(Arc::clone(&self.power)));
            parts.ports(port::EXIT, 4, ("test", "exit"), exit);
        }
    }

    /// Bus 0 behind both of its doors. The address register may be written late; the reset
    /// control register shares its ports, so a reset through 0xcf9 can take a moment too.
    fn add_pci(&self, parts: &mut Parts) -> Result<Arc<Bus>, Error> {
        let bus = Arc::new(Bus::new());
        bus.insert(Devfn::from_bits(0), Arc::new(HostBridge::new()))?;
        parts.devices.add("pci-bus", bus.clone());
        let conf1 = Conf1::new(Arc::clone(&bus), Arc::clone(&self.power));
        let conf1 = parts.device("pci-conf1", conf1);
        parts.ports(port::PCI_CONF1, 8, ("pci", "conf1"), conf1);
        parts.coalesce(0..4);
        let cam: Arc<dyn Handler> = Arc::new(EcamWindow::new(Arc::clone(&bus), Layout::Cam));
        let window = Region::mmio(layout::PCI_CAM, layout::PCI_CAM_LEN, "pci", "cam", cam);
        parts.regions.push((window, None));
        Ok(bus)
    }
}

/// The guest's RAM as the board has it.
pub(crate) fn ram(bytes: u64, backing: &Backing) -> Result<GuestMem, Error> {
    let options = MemOptions { backing: backing.clone(), ..MemOptions::default() };
    Ok(GuestMem::with_options(&ram_ranges(bytes)?, &options)?)
}
