//! The PC board: kvmtool's map, its devices listed one by one.

mod acpi;
#[cfg(target_arch = "x86_64")]
mod boot;
mod display;
mod flash;
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
#[cfg(target_arch = "x86_64")]
mod pending;
mod qtest;
mod replay;
mod testdev;

use std::sync::{Arc, Weak};

use layout::{irq, port};
use trapline::{Handler, Region};
use trapline_device::{CharBackend, CharDevice, Interrupt, Line, MsiController, NullBackend, Size};
use trapline_display::{Input, Screen};
use trapline_pci::regs::{INTERRUPT_LINE, INTERRUPT_PIN};
use trapline_pci::{Bus, Conf1, Devfn, EcamWindow, HostBridge, Hotplug, Layout, Piix, ResetPort};
use trapline_platform::acpi_pm::{AcpiPm, TimerWidth};
use trapline_platform::i8042::{I8042, NoTimer2, Timer2};
use trapline_platform::legacy::dma::Dma;
use trapline_platform::legacy::{
    Crtc, DebugConsole, DebugPort, EmptyAtaChannel, ExitPort, FpuPorts, Latches, PrinterPort,
    SystemControl,
};
use trapline_platform::rtc::{CmosConfig, Rtc};
use trapline_platform::serial::{PAGE_LEN, Serial};
use trapline_platform::testdev::PageFlush;

use crate::board::{
    AssignedUntil, Board, Builder, ChosenVirtio, Devices, Lines, NamedVirtio, Part, PciSlots,
    Plugs, VirtioHandles, Wiring, add_mmio, consoles, serial_backend,
};
use crate::flash::FlashImage;
use crate::isolate::{Isolated, Kind};
use crate::{ConsoleKind, Error, PcConfigSpace};

pub(crate) use flash::FlashImages;
use intc::Controllers;
use keys::Keys;
#[cfg(target_arch = "x86_64")]
pub(crate) use kvm::PcOnKvm;
pub(crate) use qtest::build;
pub(crate) use replay::Replayed;

/// Guest physical address of a PC's serial port of [`ConsoleKind::Mmio`], and with
/// [`Config::pc_earlycon`](crate::Config::pc_earlycon) of the first one, for whoever tells a kernel.
pub const MMIO_CONSOLE: u32 = layout::SERIAL_MMIO;

/// Adds the page of memory that a serial port's registers begin.
fn add_page(part: &mut Part, serial: &Arc<Serial>, region: &str) {
    let name = ("serial0", region);
    part.mmio(layout::SERIAL_MMIO.into(), PAGE_LEN, name, serial.clone())
        .coalesce(0..1)
        .mirror(0..PAGE_LEN, serial.mirror());
}

/// The PC. Dropping it unmaps everything.
pub(crate) struct X86Pc {
    /// Before the memory that they reach.
    _assigned: AssignedUntil,
    devices: Devices,
    console: Arc<dyn CharDevice>,
    keys: Arc<dyn Input>,
    screen: Option<Arc<Screen>>,
    virtio: VirtioHandles,
    /// How many virtio devices there are behind windows of registers.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "KVM's guests read it"))]
    virtio_windows: u8,
    plugs: Option<Plugs>,
    bus: Arc<Bus>,
}

impl Board for X86Pc {
    fn devices(&self) -> &Devices {
        &self.devices
    }

    fn console(&self) -> Weak<dyn CharDevice> {
        Arc::downgrade(&self.console)
    }

    fn virtio(&self) -> &VirtioHandles {
        &self.virtio
    }

    fn plugs(&self) -> Option<&Plugs> {
        self.plugs.as_ref()
    }

    fn input(&self) -> Option<Arc<dyn Input>> {
        Some(Arc::clone(&self.keys))
    }

    fn screen(&self) -> Option<Arc<Screen>> {
        self.screen.clone()
    }
}

/// What differs between the sources of the PC's accesses.
pub(crate) struct Source {
    /// The global system interrupts.
    pub(crate) lines: Arc<Lines>,
    /// Where PCI functions' messages go.
    pub(crate) messages: Arc<dyn MsiController>,
    /// The controllers behind them, unless they are the source's.
    pub(crate) controllers: Option<Arc<Controllers>>,
    /// Who makes pages of RAM fault, for the test device.
    pub(crate) pages: Arc<dyn PageFlush>,
    /// The flash chips, if there are any, from 4 GiB downwards.
    pub(crate) flash: Vec<Arc<FlashImage>>,
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

impl X86Pc {
    /// Makes the devices and maps them, all in one edit.
    pub(crate) fn new(wiring: &Wiring, source: &Source) -> Result<Self, Error> {
        let mut builder = Builder::default();
        builder.ram(&wiring.ram);
        let maker = Maker { wiring, source };
        let console = maker.add_serial_ports(&mut builder)?;
        let keys = maker.add_platform(&mut builder)?;
        maker.add_legacy(&mut builder)?;
        let virtio = ChosenVirtio::new(wiring)?;
        let names = virtio.names();
        let (on_bus, windows, handles) = virtio.split();
        let virtio_windows = maker.add_virtio(windows, &mut builder)?;
        fw_cfg::add(&mut builder, &wiring.options, &wiring.dma(), virtio_windows)?;
        flash::add(&mut builder, &source.flash);
        if wiring.options.testdev {
            testdev::add(&mut builder, wiring, source);
        }
        let bus = maker.add_pci(on_bus, &mut builder)?;
        let plugs = maker.add_plugs(&bus, names.clone(), &mut builder);
        if let Some(controllers) = &source.controllers {
            controllers.add(&mut builder);
        }
        let devices = Devices::new(wiring.registry.clone(), wiring.options.spared);
        devices.add(builder)?;
        let is_there = |name: &str| devices.has(name) || names.iter().any(|other| other == name);
        wiring.isolates.check(is_there)?;
        flash::mapped(&wiring.registry, &source.flash);
        let _assigned = wiring.vfio.start(&bus, &wiring.registry)?;
        let console = consoles(console, &handles);
        let (screen, virtio) = (None, handles);
        Ok(Self { _assigned, devices, console, keys, screen, virtio, virtio_windows, plugs, bus })
    }
}

impl X86Pc {
    /// Writes into each PCI function which line its pin is on, for a guest that looks neither into
    /// ACPI nor into the MP table (PCI 3.0, section 6.2.4, "Interrupt Line").
    fn tell_interrupt_lines(&self) {
        for devfn in self.bus.occupied() {
            let pin = self.bus.config_read(devfn, INTERRUPT_PIN, Size::Byte);
            // 1 is INTA#; 0 is none.
            if let Ok(pin @ 1..=4) = u8::try_from(pin) {
                let line = irq::pci(devfn.device(), pin - 1);
                self.bus.config_write(devfn, INTERRUPT_LINE, Size::Byte, line.into());
            }
        }
    }
}

/// The ports, and the page, of a UART in a process of its own.
fn add_isolated_ports(
    builder: &mut Builder,
    name: &str,
    base: u16,
    serial: &Arc<Isolated>,
    has_page: bool,
) {
    let device = serial.clone();
    let part = builder.device(name, serial.clone()).after_reset(move || device.poll());
    part.ports(base, 8, (name, "uart"), serial.clone()).coalesce(0..1).forward(serial.channel());
    if has_page {
        let page = (name, "page");
        part.mmio(layout::SERIAL_MMIO.into(), PAGE_LEN, page, serial.clone());
        part.coalesce(0..1).forward(serial.channel());
    }
}

/// Two channels without drives, for firmware that does not look at the PCI bus before it waits for
/// the drives of both (U-Boot, for a minute each).
fn add_ata(builder: &mut Builder) {
    for (i, (command, control)) in port::ATA.into_iter().enumerate() {
        let name = format!("ata{i}");
        let [commands, controls]: [Arc<dyn Handler>; 2] =
            [Arc::new(EmptyAtaChannel::CommandBlock), Arc::new(EmptyAtaChannel::ControlBlock)];
        let part = builder.stateless(&name).ports(command, 8, (&name, "command"), commands);
        part.ports(control, 1, (&name, "control"), controls);
    }
}

/// Makes the PC's devices.
struct Maker<'a> {
    wiring: &'a Wiring,
    source: &'a Source,
}

impl Maker<'_> {
    fn line(&self, irq: u8) -> Line {
        self.source.lines.line(irq.into())
    }

    /// Whether all legacy devices are there.
    fn legacy(&self) -> bool {
        self.wiring.options.legacy || self.wiring.options.firmware.is_some()
    }

    /// The first port of ACPI's fixed registers.
    fn power(&self) -> u16 {
        match self.wiring.options.firmware {
            Some(_) => port::FIRMWARE_ACPI_PM,
            None => port::ACPI_PM,
        }
    }

    /// The page of a UART in memory, for the console alone.
    fn add_mmio_serial(&self, builder: &mut Builder) -> Result<Arc<dyn CharDevice>, Error> {
        let backend = serial_backend(&self.wiring.options);
        let [irq, ..] = irq::SERIAL;
        let line = || vec![self.line(irq)];
        if let Some(serial) = self.wiring.isolated("serial0", Kind::Uart, &backend, line)? {
            let (device, base) = (serial.clone(), layout::SERIAL_MMIO.into());
            let part = builder.device("serial0", serial.clone());
            part.mmio(base, PAGE_LEN, ("serial0", "uart"), serial.clone());
            part.coalesce(0..1).forward(serial.channel()).after_reset(move || device.poll());
            return Ok(serial);
        }
        let serial = Serial::new(backend, self.line(irq), Arc::clone(&self.wiring.clock));
        let device = serial.clone();
        let part = builder.device("serial0", serial.clone());
        add_page(part.after_reset(move || device.poll()), &serial, "uart");
        Ok(serial)
    }

    /// Up to four UARTs on two lines, as on a PC; the console is on the first.
    fn add_serial_ports(&self, builder: &mut Builder) -> Result<Arc<dyn CharDevice>, Error> {
        let kind = self.wiring.options.console_kind;
        if kind == ConsoleKind::Mmio {
            return self.add_mmio_serial(builder);
        }
        let first = serial_backend(&self.wiring.options);
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        let mut console: Option<Arc<dyn CharDevice>> = None;
        let ports = irq::SERIAL.into_iter().zip(port::SERIAL);
        let count = layout::serial_ports(self.legacy(), kind);
        for (i, (line, base)) in ports.enumerate().take(count) {
            let (backend, name) = (if i == 0 { &first } else { &nothing }, format!("serial{i}"));
            let has_page = i == 0 && self.wiring.options.earlycon;
            let lines = || vec![self.line(line)];
            if let Some(serial) = self.wiring.isolated(&name, Kind::Uart, backend, lines)? {
                add_isolated_ports(builder, &name, base, &serial, has_page);
                console.get_or_insert(serial);
                continue;
            }
            let clock = Arc::clone(&self.wiring.clock);
            let serial = Serial::new(Arc::clone(backend), self.line(line), clock);
            let device = serial.clone();
            let part = builder.device(&name, serial.clone()).after_reset(move || device.poll());
            if has_page {
                part.ports(base, 8, (&name, "uart"), serial.at_ports()).coalesce(0..1);
                add_page(part, &serial, "page");
            } else {
                part.ports(base, 8, (&name, "uart"), serial.clone()).coalesce(0..1);
            }
            console.get_or_insert(serial);
        }
        Ok(console.unwrap_or_else(|| unreachable!("there is a serial port")))
    }

    fn add_platform(&self, builder: &mut Builder) -> Result<Arc<dyn Input>, Error> {
        let Wiring { clock, power, .. } = self.wiring;
        let keys = self.add_i8042(builder)?;
        self.add_rtc(builder)?;
        let sci = self.line(irq::SCI);
        let acpi = AcpiPm::new(sci, Arc::clone(clock), Arc::clone(power), TimerWidth::Bits24);
        let len = u64::from(trapline_platform::acpi_pm::regs::WINDOW_LEN);
        builder.device("acpi", acpi.clone()).ports(self.power(), len, ("acpi", "pm"), acpi);
        Ok(keys)
    }

    /// The keyboard controller and what is between its ports, and a timer where there is none.
    fn add_i8042(&self, builder: &mut Builder) -> Result<Arc<dyn Input>, Error> {
        let Wiring { clock, power, .. } = self.wiring;
        let lines = || vec![self.line(irq::KEYBOARD), self.line(irq::MOUSE)];
        let ports = [(0_u8, "data"), (1, "port-b"), (4, "command")];
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        if self.source.controllers.is_some() {
            let reason = "its port B is wired to the timer, which is here with --irqchip split";
            self.wiring.isolates.refuse("i8042", reason)?;
        }
        if let Some(i8042) = self.wiring.isolated("i8042", Kind::I8042, &nothing, lines)? {
            let part = builder.device("i8042", i8042.clone());
            for (offset, region) in ports {
                let base = port::I8042 + u16::from(offset);
                let region = Region::pio(base, 1, "i8042", region, i8042.clone());
                part.region(region.device_offset(offset.into())).forward(i8042.channel());
            }
            return Ok(i8042);
        }
        let timer2 = self.source.controllers.as_ref().map_or_else(
            || -> Box<dyn Timer2> { Box::new(NoTimer2) },
            |_| intc::add_timer(builder, self.line(irq::TIMER), Arc::clone(clock)),
        );
        let (keyboard, mouse) = (self.line(irq::KEYBOARD), self.line(irq::MOUSE));
        let i8042 = I8042::new(keyboard, mouse, Arc::clone(power), Arc::clone(clock), timer2);
        let part = builder.device("i8042", i8042.clone());
        for (offset, region) in ports {
            let base = port::I8042 + u16::from(offset);
            let handler: Arc<dyn Handler> = i8042.clone();
            let region = Region::pio(base, 1, "i8042", region, handler);
            part.region(region.device_offset(offset.into()));
        }
        Ok(Arc::new(Keys(i8042)))
    }

    fn add_rtc(&self, builder: &mut Builder) -> Result<(), Error> {
        let Wiring { clock, options, .. } = self.wiring;
        let ranges = ram_ranges(options.mem_bytes).unwrap_or_default();
        let len = |i: usize| ranges.get(i).map_or(0, |range| range.1);
        let cpus = u8::try_from(options.cpus).unwrap_or(u8::MAX);
        let cmos = CmosConfig { below_4g: len(0), above_4g: len(1), cpus };
        let (name, len) = (("rtc", "cmos"), trapline_platform::rtc::WINDOW_LEN);
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        let lines = || vec![self.line(irq::RTC)];
        if let Some(rtc) = self.wiring.isolated("rtc", cmos.into(), &nothing, lines)? {
            let part = builder.device("rtc", rtc.clone());
            part.ports(port::RTC, len, name, rtc.clone()).coalesce(0..1).forward(rtc.channel());
            return Ok(());
        }
        let rtc = Rtc::new(self.line(irq::RTC), Arc::clone(clock), cmos);
        builder.device("rtc", rtc.clone()).ports(port::RTC, len, name, rtc).coalesce(0..1);
        Ok(())
    }

    fn add_legacy(&self, builder: &mut Builder) -> Result<(), Error> {
        let Wiring { power, options, .. } = self.wiring;
        let dma1 = Arc::new(Dma::bytes());
        builder.device("dma1", dma1.clone()).ports(port::DMA1, 0x20, ("dma1", "8237"), dma1);
        let dma2 = Arc::new(Dma::words());
        builder.device("dma2", dma2.clone()).ports(port::DMA2, 0x20, ("dma2", "8237"), dma2);
        let post = Arc::new(Latches::post());
        let part = builder.device("post", post.clone());
        part.ports(port::POST, 1, ("post", "code"), post).coalesce(0..1);
        let pages = Arc::new(Latches::dma_pages());
        let len = pages.len() as u64;
        let part = builder.device("dma-pages", pages.clone());
        part.ports(port::DMA_PAGES, len, ("dma", "pages"), pages);
        let control = Arc::new(SystemControl::new(Arc::clone(power)));
        let part = builder.device("port92", control.clone());
        part.ports(port::SYSTEM_CONTROL_A, 1, ("system", "control-a"), control);
        // The test device has registers there.
        if !options.testdev {
            let debug = Arc::new(DebugPort::new(None));
            let part = builder.device("kvmtool-debug", debug.clone());
            part.ports(port::KVMTOOL_DEBUG, 1, ("kvmtool", "debug"), debug);
        }
        let delay = Arc::new(Latches::delay());
        let part = builder.device("delay", delay.clone());
        part.ports(port::DELAY, 1, ("delay", "port"), delay).coalesce(0..1);
        builder.stateless("fpu").ports(port::FPU, 2, ("fpu", "busy"), Arc::new(FpuPorts));
        for (i, base) in port::LPT.into_iter().enumerate() {
            let (name, printer) = (format!("lpt{i}"), Arc::new(PrinterPort::default()));
            builder.device(&name, printer.clone()).ports(base, 3, (&name, "spp"), printer);
        }
        self.add_crt(builder)?;
        if options.firmware.is_some() {
            add_ata(builder);
        }
        if let Some(log) = &options.firmware_log {
            let log = Arc::new(DebugConsole::new(Arc::clone(log)));
            let part = builder.stateless("firmware-debug");
            part.ports(port::FIRMWARE_DEBUG, 1, ("firmware", "debug"), log).coalesce(0..1);
        }
        if options.exit_port || options.testdev {
            let exit = Arc::new(ExitPort::new(Arc::clone(power)));
            builder.stateless("exit-port").ports(port::EXIT, 4, ("test", "exit"), exit);
        }
        Ok(())
    }

    /// The ports of a display.
    fn add_crt(&self, builder: &mut Builder) -> Result<(), Error> {
        let name = ("crt", "6845");
        let nothing: Arc<dyn CharBackend> = Arc::new(NullBackend);
        if let Some(crt) = self.wiring.isolated("crt", Kind::Crtc, &nothing, Vec::new)? {
            let part = builder.device("crt", crt.clone());
            part.ports(port::CRT, 2, name, crt.clone()).forward(crt.channel());
            return Ok(());
        }
        let crt = Arc::new(Crtc::default());
        builder.device("crt", crt.clone()).ports(port::CRT, 2, name, crt);
        Ok(())
    }

    /// Virtio devices behind windows of registers, on the lines that the pins of PCI functions share;
    /// how many there are.
    fn add_virtio(&self, devices: Vec<NamedVirtio>, builder: &mut Builder) -> Result<u8, Error> {
        let (mut slots, mut count) = (layout::virtio_slots(), 0);
        for device in devices {
            let slot = slots.next().ok_or_else(|| Error::NoMmioSlot(device.name.clone()))?;
            let place = (slot.base.into(), Interrupt::pin(self.line(slot.irq)));
            add_mmio(device, place, self.wiring, builder)?;
            count += 1;
        }
        Ok(count)
    }

    /// Where devices come and go, if the user wants that, and the registers by which the guest is
    /// told.
    fn add_plugs(&self, bus: &Arc<Bus>, own: Vec<String>, builder: &mut Builder) -> Option<Plugs> {
        if !self.wiring.options.plugs {
            return None;
        }
        let registers = Arc::<Hotplug>::default();
        let part = builder.device("pci-hotplug", registers.clone());
        let len = u64::from(trapline_pci::regs::HOTPLUG_LEN);
        part.ports(port::PCI_HOTPLUG, len, ("pci", "hotplug"), registers.clone());
        let lines = Arc::clone(&self.source.lines);
        let pin = move |device, pin| lines.line(irq::pci(device, pin as u8 - 1).into());
        Some(Plugs::new((bus, &registers), own, pin, &self.source.messages, self.wiring))
    }

    /// Bus 0 behind both of its doors. The address register may be written late; the reset
    /// control register shares its ports, so a reset through 0xcf9 can take a moment too.
    fn add_pci(&self, virtio: Vec<NamedVirtio>, builder: &mut Builder) -> Result<Arc<Bus>, Error> {
        let Wiring { registry, options, .. } = self.wiring;
        let ram = ram_ranges(options.mem_bytes)?;
        let windows = layout::pci_windows(&ram);
        let bus = Arc::new(Bus::new(Arc::new(registry.downgrade()), windows.into()));
        let pin = |device, pin| self.line(irq::pci(device, pin as u8 - 1));
        let messages = Some(&*self.source.messages);
        let slots = PciSlots { bus: &bus, pin: &pin, messages };
        slots.plug("host-bridge", Devfn::from_bits(0), HostBridge::function)?;
        let mut first = 1;
        if options.firmware.is_some() {
            let bridge = Devfn::from_bits(layout::PIIX_ISA_BRIDGE);
            let power = Devfn::from_bits(layout::PIIX_POWER);
            let base = self.power();
            slots.plug("piix-isa", bridge, Piix::isa_bridge)?;
            slots.plug("piix-power", power, |slot| Piix::power_management(slot, base))?;
            first = bridge.device() + 1;
        }
        let input = |device, pin| irq::pci(device, pin as u8 - 1).into();
        slots.plug_chosen(first, virtio, self.wiring, &input)?;
        self.add_config_space(&bus, builder);
        Ok(bus)
    }

    /// The doors to configuration space, and the reset control register, which is in the middle of one.
    fn add_config_space(&self, bus: &Arc<Bus>, builder: &mut Builder) {
        let power = Arc::clone(&self.wiring.power);
        let part = builder.device("pci-bus", bus.clone());
        match self.wiring.options.config_space {
            PcConfigSpace::Ports => {
                let cam = Arc::new(EcamWindow::new(Arc::clone(bus), Layout::Cam));
                part.mmio(layout::PCI_CAM, layout::PCI_CAM_LEN, ("pci", "cam"), cam);
                let conf1 = Arc::new(Conf1::new(Arc::clone(bus), power));
                let part = builder.device("pci-conf1", conf1.clone());
                part.ports(port::PCI_CONF1, 8, ("pci", "conf1"), conf1).coalesce(0..4);
            }
            PcConfigSpace::Ecam => {
                let ecam = Arc::new(EcamWindow::new(Arc::clone(bus), Layout::Ecam));
                let (base, len) = (layout::PCI_ECAM.into(), Layout::Ecam.bus_len());
                part.mmio(base, len, ("pci", "ecam"), ecam.clone());
                if let Some((offsets, mirror)) = ecam.mirror() {
                    part.mirror(offsets, mirror);
                }
                let reset = Arc::new(ResetPort::new(power));
                let part = builder.device("pci-reset", reset.clone());
                part.ports(port::PCI_CONF1, 8, ("pci", "reset"), reset).coalesce(0..4);
            }
        }
    }
}
