//! An assigned function as the guest's bus has it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trapline_device::{
    Delivery, Device, Direction, EventLoop, Form, IoCx, Memory, SaveState, Saved, Size, StateError,
    Window,
};
use trapline_guestmem::GuestMem;
use trapline_pci::regs::{
    COMMAND, Command, MSI_CONTROL, MSI_ENABLE, MSIX_CONTROL, MSIX_ENABLE, STATUS, STATUS_INTERRUPT,
};
use trapline_pci::{BARS, ConfigSpace, Function, FunctionBuilder, PciDevice, ROM_BAR, Slot};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX,
};

use crate::departure::{OnDeparture, Watches};
use crate::hardware::{Hardware, RegionInfo};
use crate::host::OpenGroup;
use crate::interrupts::{Interrupts, PinConnector, Wanted};
use crate::layout::{DeviceConfig, Interruptions, Layout};
use crate::names::Names;
use crate::quirks::Quirks;
use crate::{Address, Error};

/// BARs and expansion ROM.
const REGIONS: usize = BARS + 1;

/// A function of the host that this process has, before the guest has it.
pub struct OpenFunction {
    pub(crate) address: Address,
    pub(crate) hardware: Arc<dyn Hardware>,
    /// All that a reset of its bus may reset.
    pub(crate) groups: Vec<Arc<OpenGroup>>,
    /// BARs to be trapped, all of them.
    pub(crate) trapped: Vec<u8>,
    pub(crate) names: Names,
}

/// What a function is connected to.
pub struct Wires {
    /// Where its pin leads, where that can be.
    pub pin: Option<PinConnector>,
    /// Who takes the signals that the hypervisor does not.
    pub event_loop: Arc<dyn EventLoop>,
    /// Hears when the host wants the function back, or it fails.
    pub on_departure: OnDeparture,
}

impl OpenFunction {
    /// Where it is on the host.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The function, reset, for the guest's bus.
    ///
    /// # Errors
    /// The kernel does not tell what it is, or it is nothing that a guest can have.
    pub fn function(self, slot: Slot<'_>, wires: Wires) -> Result<Function, Error> {
        let (regions, config_at) = self.regions()?;
        let config = self.config(&regions, config_at)?;
        if !config.is_endpoint() {
            return Err(Error::Bridge(self.address));
        }
        self.check_trapped(&config)?;
        let has = config.has;
        if has.pin && !has.msi && has.msix == 0 && wires.pin.is_none() {
            return Err(Error::NoPin(self.address));
        }
        let (vendor, device, class) = config.ids();
        let names = match self.names.is_empty() {
            true => Names::shipped(vendor, device, class),
            false => self.names.clone(),
        };
        let name: Arc<str> = slot.name.into();
        let quirks = Quirks::of(vendor, device);
        let (mut builder, layout) = config.function(slot, &quirks);
        let mut mapped = Vec::new();
        for (bar, region) in regions.iter().enumerate().take(BARS) {
            builder = self.map(bar, region, &config, (builder, &mut mapped));
        }
        let vectors = layout.msix.map_or(u16::from(layout.msi.is_some()), |(_, count)| count);
        let messages = (0..vectors).map(|number| builder.message(number.into())).collect();
        let pin = wires.pin.filter(|_| has.pin);
        let has_pin = pin.is_some();
        let hardware = Arc::clone(&self.hardware);
        let watches = Watches::new(&hardware, &wires.on_departure, &*wires.event_loop);
        let watches = watches.map_err(self.kernel("hear when the host wants it back"))?;
        let interrupts = Interrupts::new(&name, hardware, (pin, messages), wires.event_loop);
        let assigned = Assigned {
            name,
            hardware: self.hardware,
            groups: self.groups,
            regions,
            config_at,
            layout,
            has_pin,
            resets: config.resets,
            names,
            interrupts,
            watches: Mutex::new(Some(watches)),
            mapped,
            command: Mutex::new(None),
        };
        assigned.reset();
        Ok(builder.build(Arc::new(assigned)))
    }

    fn kernel(&self, what: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let address = self.address;
        move |reason| Error::Kernel { address, what, reason }
    }

    /// BARs and ROM, and where configuration space is in the device's file.
    fn regions(&self) -> Result<([RegionInfo; REGIONS], u64), Error> {
        let mut regions = [const { None }; REGIONS];
        debug_assert_eq!(u32::try_from(ROM_BAR), Ok(VFIO_PCI_ROM_REGION_INDEX));
        for (index, region) in (0..).zip(&mut regions) {
            let info = self.hardware.region(index);
            // Those that are not there are none of the kernel's errors, as a rule.
            *region = Some(info.unwrap_or_default());
        }
        let config = self.hardware.region(VFIO_PCI_CONFIG_REGION_INDEX);
        let config = config.map_err(self.kernel("find its configuration space"))?;
        Ok((regions.map(Option::unwrap_or_default), config.offset))
    }

    fn config(&self, regions: &[RegionInfo; REGIONS], at: u64) -> Result<DeviceConfig, Error> {
        let region = self.hardware.region(VFIO_PCI_CONFIG_REGION_INDEX);
        let region = region.map_err(self.kernel("find its configuration space"))?;
        let len = usize::try_from(region.len).unwrap_or(256).clamp(256, 4096);
        let mut bytes = vec![0; len];
        // As drivers do: the kernel emulates a part of it by dwords.
        for (offset, dword) in (at..).step_by(4).zip(bytes.chunks_mut(4)) {
            let read = self.hardware.read(offset, dword);
            read.map_err(self.kernel("read its configuration space"))?;
        }
        let irqs = |index| self.hardware.irqs(index).unwrap_or(0);
        let flags = self.hardware.flags().map_err(self.kernel("ask what it is"))?;
        let mut config = DeviceConfig::new(bytes);
        config.has = Interruptions {
            pin: irqs(VFIO_PCI_INTX_IRQ_INDEX) > 0,
            msi: irqs(VFIO_PCI_MSI_IRQ_INDEX) > 0,
            msix: irqs(VFIO_PCI_MSIX_IRQ_INDEX),
        };
        config.resets = flags & VFIO_DEVICE_FLAGS_RESET != 0;
        let lens = config.bar_lens.iter_mut().chain([&mut config.rom_len]);
        lens.zip(regions).for_each(|(len, region)| *len = region.len);
        Ok(config)
    }

    fn check_trapped(&self, config: &DeviceConfig) -> Result<(), Error> {
        let there = |bar: &u8| config.bar(usize::from(*bar)).is_some();
        let Some(bar) = self.trapped.iter().copied().find(|bar| !there(bar)) else {
            return Ok(());
        };
        let has: Vec<String> = config.bars().map(|(index, _)| index.to_string()).collect();
        let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        Err(Error::NoBar { address: self.address, bar, has })
    }

    /// Has the guest see what of a BAR the kernel can map. The MSI-X table is not among it: that is the
    /// bus's.
    fn map<'a>(
        &self,
        bar: usize,
        region: &RegionInfo,
        config: &DeviceConfig,
        (mut builder, mapped): (FunctionBuilder<'a>, &mut Vec<GuestMem>),
    ) -> FunctionBuilder<'a> {
        let trapped = self.trapped.iter().any(|number| usize::from(*number) == bar);
        if trapped || config.bar(bar).is_none() {
            return builder;
        }
        let page = rustix::param::page_size() as u64;
        for (offset, len) in region.mappable(page) {
            match self.hardware.map(region.offset + offset, len) {
                Ok(registers) => {
                    builder = builder.window(bar, window(&registers, offset, len));
                    mapped.push(registers);
                }
                // Slower, and the same.
                Err(error) => tracing::debug!("{}: BAR{bar} is trapped: {error}", self.address),
            }
        }
        builder
    }
}

/// A part of a BAR that is a device's registers.
fn window(registers: &GuestMem, offset: u64, len: u64) -> Window {
    let pieces = registers.pieces();
    let memory: Option<Arc<dyn Memory>> =
        pieces.into_iter().next().map(|piece| Arc::new(piece) as _);
    let Some(memory) = memory else { unreachable!("a mapping is one piece") };
    Window { offset, len, delivery: Delivery::Memory { memory, offset: 0, readonly: false } }
}

/// The device behind the function.
struct Assigned {
    name: Arc<str>,
    hardware: Arc<dyn Hardware>,
    groups: Vec<Arc<OpenGroup>>,
    regions: [RegionInfo; REGIONS],
    /// Where configuration space is in the device's file.
    config_at: u64,
    layout: Layout,
    has_pin: bool,
    /// Whether it can be reset by itself.
    resets: bool,
    names: Names,
    interrupts: Interrupts,
    /// Until it is given back.
    watches: Mutex<Option<Watches>>,
    /// What is mapped of its BARs.
    mapped: Vec<GuestMem>,
    /// What was last written to the device's command register.
    command: Mutex<Option<u16>>,
}

impl Assigned {
    /// Where an offset of a BAR is in the device's file.
    fn at(&self, bar: usize, offset: u64) -> Option<u64> {
        let region = self.regions.get(bar).filter(|region| offset < region.len)?;
        region.offset.checked_add(offset)
    }

    /// Has the device's command register follow the guest's. The device always decodes: where, the
    /// registry says, and what the guest has mapped must be there until it is unmapped.
    fn set_command(&self, guest: Command) {
        let command = Command::new()
            .with_io(true)
            .with_memory(true)
            .with_master(guest.master())
            .with_parity(guest.parity())
            .with_serr(guest.serr())
            .into_bits();
        let mut last = self.command.lock();
        if last.replace(command) != Some(command) {
            let at = self.config_at + u64::from(COMMAND);
            self.write(at, &command.to_le_bytes());
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        if let Err(error) = self.hardware.write(at, bytes) {
            tracing::debug!("{}: a write was refused: {error}", self.name);
        }
    }

    /// What its registers have switched on of its interrupts.
    fn wanted(&self, config: &ConfigSpace) -> Wanted {
        let control = |at: u16, register: u16| {
            u16::try_from(config.read(at + register, Size::Word)).unwrap_or(0)
        };
        let command = config.command();
        let msix = self.layout.msix.map_or(0, |(at, _)| control(at, MSIX_CONTROL));
        let msi = self.layout.msi.map_or(0, |at| control(at, MSI_CONTROL));
        if msix & MSIX_ENABLE != 0 {
            return Wanted::Msix;
        }
        if msi & MSI_ENABLE != 0 {
            return Wanted::Msi;
        }
        // Nobody waits for the pin of a function that decodes nothing.
        let decodes = command.io() || command.memory();
        if self.has_pin && decodes && !command.interrupt_disable() {
            Wanted::Pin
        } else {
            Wanted::Nothing
        }
    }

    /// Resets the device by its own means, or by its bus's if nothing else is on that.
    fn reset_device(&self) {
        if self.resets {
            match self.hardware.reset() {
                Ok(()) => return,
                // Who takes it away has it locked. The kernel resets it when it is closed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::warn!("{}: it was not reset: {error}", self.name),
            }
        }
        let groups: Vec<_> = self.groups.iter().map(|group| group.as_fd()).collect();
        if let Err(error) = self.hardware.hot_reset(&groups) {
            // Its driver has to do without, as after a warm start of a machine.
            tracing::debug!("{}: neither was its bus: {error}", self.name);
        }
    }
}

impl PciDevice for Assigned {
    fn bar_read(&self, _: &IoCx<'_>, bar: usize, offset: u64, size: Size) -> u64 {
        let mut value = [0; 8];
        let bytes = value.get_mut(..size.bytes()).unwrap_or_default();
        let read = self.at(bar, offset).map(|at| self.hardware.read(at, bytes));
        match read {
            Some(Ok(())) => u64::from_le_bytes(value),
            _ => size.ones(),
        }
    }

    fn bar_write(&self, _: &IoCx<'_>, bar: usize, offset: u64, size: Size, value: u64) {
        let value = value.to_le_bytes();
        if let (Some(at), Some(bytes)) = (self.at(bar, offset), value.get(..size.bytes())) {
            self.write(at, bytes);
        }
    }

    fn bar_register(&self, bar: usize, offset: u64, _: Direction) -> Option<&'static str> {
        self.names.get(u8::try_from(bar).ok()?, offset)
    }

    fn config_read(&self, config: &ConfigSpace, offset: u16, size: Size) -> u32 {
        let mut bytes = config.read(offset, size).to_le_bytes();
        let places = offset..offset + u16::try_from(size.bytes()).unwrap_or(0);
        if places.clone().all(|at| self.layout.passes(at)) {
            let at = self.config_at + u64::from(offset);
            let bytes = bytes.get_mut(..size.bytes()).unwrap_or_default();
            if self.hardware.read(at, bytes).is_err() {
                bytes.fill(0xff);
            }
        } else {
            for (at, byte) in
                places.clone().zip(&mut bytes).filter(|(at, _)| self.layout.passes(*at))
            {
                let read =
                    self.hardware.read(self.config_at + u64::from(at), std::slice::from_mut(byte));
                if read.is_err() {
                    *byte = 0xff;
                }
            }
        }
        let status = usize::from(STATUS.wrapping_sub(offset));
        if self.has_pin
            && let Some(byte) = bytes.get_mut(status).filter(|_| places.contains(&STATUS))
        {
            *byte |= self.interrupt_status();
        }
        u32::from_le_bytes(bytes)
    }

    fn config_write(&self, config: &mut ConfigSpace, offset: u16, size: Size, value: u32) {
        config.write(offset, size, value);
        let bytes = value.to_le_bytes();
        let places = offset..offset + u16::try_from(size.bytes()).unwrap_or(0);
        if places.clone().all(|at| self.layout.passes(at)) {
            let bytes = bytes.get(..size.bytes()).unwrap_or_default();
            return self.write(self.config_at + u64::from(offset), bytes);
        }
        for (at, byte) in places.zip(bytes).filter(|(at, _)| self.layout.passes(*at)) {
            self.write(self.config_at + u64::from(at), &[byte]);
        }
        self.set_command(config.command());
        self.interrupts.want(self.wanted(config));
    }

    fn config_shown(&self, _: &ConfigSpace, _: &mut [u8]) -> bool {
        false
    }

    fn vectors_used(&self, count: usize) {
        self.interrupts.use_vectors(count);
    }

    /// Gives it back: the host may be waiting for it.
    fn unplugged(&self) {
        self.give_back();
    }
}

impl Assigned {
    /// As it was found, once; nothing of it is open afterwards.
    fn give_back(&self) {
        let Some(watches) = self.watches.lock().take() else { return };
        self.interrupts.reset();
        self.set_command(Command::new());
        self.reset_device();
        drop(watches);
        for registers in &self.mapped {
            if let Err(error) = registers.leave_device() {
                tracing::debug!("{}: its registers stay mapped: {error}", self.name);
            }
        }
        self.hardware.close();
    }

    /// The lower byte of the device's status register, as far as it tells of its pin.
    fn interrupt_status(&self) -> u8 {
        let mut status = [0; 2];
        let at = self.config_at + u64::from(STATUS);
        if self.hardware.read(at, &mut status).is_err() {
            return 0;
        }
        let [low, _] = status;
        low & STATUS_INTERRUPT.to_le_bytes()[0]
    }
}

impl Device for Assigned {
    /// Quiet first, and no bus master: what it has begun must not end in a guest that knows nothing of
    /// it.
    fn reset(&self) {
        self.interrupts.reset();
        *self.command.lock() = None;
        self.set_command(Command::new());
        self.reset_device();
        *self.command.lock() = None;
        self.set_command(Command::new());
    }
}

/// What a snapshot has of an assigned device: nothing, as its state is in the device.
#[derive(Serialize, Deserialize)]
struct NothingV1;

impl Form for NothingV1 {
    const NAME: &'static str = "vfio";
    const VERSION: u32 = 1;
}

impl SaveState for Assigned {
    fn save(&self) -> Saved {
        Saved::encode(&NothingV1)
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let NothingV1 = saved.decode()?;
        StateError::check::<NothingV1>(false, "an assigned device's state is in the device alone")
    }
}

impl Drop for Assigned {
    /// If the process is killed the kernel does as much.
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests;
