//! Virtio over PCI.
//!
//! The registers of drivers of version 1.0 and later are in one BAR, a page for each structure as QEMU
//! has them, those of drivers of before in another, of ports, and MSI-X in a third.
//!
//! Deviation: the notification structure's doorbells can be read, as 0.

mod capabilities;
mod common;
mod interrupts;
mod legacy;
pub mod regs;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Delivery, Device, Direction, EventLoop, IoCx, Limits, Rules, SaveState, Saved, Size,
    StateError, Window, saved_form,
};
use trapline_guestmem::GuestMem;
use trapline_pci::{
    Bar, BarRegions, ConfigSpace, Function, FunctionBuilder, Identity, MsixLayout, PciDevice, Pin,
    Slot,
};

use crate::transport::{Change, Core, CoreState, CoreV1, Interface, Interfaces};
use crate::{DeviceType, VirtioDevice};
use capabilities::ConfigWindow;
use interrupts::{PciInterrupts, Vectors, VectorsV1};
use regs::{
    COMMON_CFG, DEVICE, ISR, LEGACY_BAR, LEGACY_REVISION, MODERN_BAR, MODERN_BAR_LEN,
    MODERN_DEVICE_ID, MODERN_REVISION, MODERN_SUBSYSTEM, MSIX_BAR, NOTIFY, NOTIFY_MULTIPLIER, PAGE,
    VENDOR_ID, legacy_device_id,
};

/// What kinds of drivers a function has registers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PciInterface {
    /// Those of version 1.0 and later.
    #[default]
    Modern,
    /// Those of before.
    Legacy,
    /// Both, of which a driver uses one.
    Transitional,
}

impl PciInterface {
    fn has_modern(self) -> bool {
        self != Self::Legacy
    }

    fn has_legacy(self) -> bool {
        self != Self::Modern
    }
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    core: Core,
    interrupts: Arc<PciInterrupts>,
    /// What only modern drivers have.
    modern: Option<(ConfigWindow, BarRegions)>,
    /// The BAR of legacy drivers.
    legacy: Option<BarRegions>,
    /// Whether the doorbells are switched on. Held while they are switched.
    doorbells: Mutex<bool>,
}

/// A structure in the BAR, with the offset in it.
enum Place {
    Common(u64),
    Isr(u64),
    Device(u64),
    Notify(u64),
}

impl Place {
    fn of(offset: u64) -> Self {
        match offset {
            NOTIFY.. => Self::Notify(offset - NOTIFY),
            DEVICE.. => Self::Device(offset - DEVICE),
            ISR.. => Self::Isr(offset - ISR),
            _ => Self::Common(offset),
        }
    }
}

impl VirtioPci {
    /// A function in `slot` with `device` behind it, whose requests are in `mem`, and whose queues
    /// are processed on `event_loop`.
    ///
    /// # Errors
    /// The operating system has no descriptors left for the doorbells, or legacy drivers know no
    /// such device ([`legacy_device_id`]).
    pub fn function(
        slot: Slot<'_>,
        device: Arc<dyn VirtioDevice>,
        interface: PciInterface,
        mem: &GuestMem,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Function> {
        let identity = identity(device.device_type(), interface)?;
        let queues = device.queue_sizes().len();
        // One for each queue, and one for the configuration.
        let vectors = u16::try_from(queues + 1).unwrap_or(u16::MAX);
        let table = MsixLayout::in_bar(MSIX_BAR, vectors);
        let msix_len = table.pba_range().end.next_power_of_two().max(PAGE);
        let msix_len = u32::try_from(msix_len).unwrap_or(u32::MAX);
        let mut builder = FunctionBuilder::new(slot, &identity);
        if interface.has_legacy() {
            let len = legacy::bar_len(device.config_len());
            builder = builder.bar(LEGACY_BAR.into(), Bar::Io { len });
        }
        builder = builder.bar(MSIX_BAR.into(), Bar::Mem32 { len: msix_len, prefetchable: false });
        if interface.has_modern() {
            let bar = Bar::Mem64 { len: MODERN_BAR_LEN, prefetchable: true };
            builder = builder.bar(MODERN_BAR.into(), bar);
        }
        let mut builder = builder.msix(table);
        let interrupts = Arc::new(PciInterrupts::new(&mut builder, vectors, queues));
        let modern = interface.has_modern().then(|| {
            let window = ConfigWindow::add_all(builder.config());
            (window, builder.bar_regions(MODERN_BAR.into()))
        });
        let legacy = interface.has_legacy().then(|| builder.bar_regions(LEGACY_BAR.into()));
        let interfaces = match interface {
            PciInterface::Modern => Interfaces::Only(Interface::Modern),
            PciInterface::Legacy => Interfaces::Only(Interface::Legacy),
            PciInterface::Transitional => Interfaces::Both,
        };
        let core = Core::new(device, interfaces, mem, event_loop, interrupts.clone())?;
        let doorbells = Mutex::new(false);
        let function = Arc::new(Self { core, interrupts, modern, legacy, doorbells });
        Ok(builder.function_level_reset().build(function))
    }

    fn read(&self, offset: u64, size: Size) -> u64 {
        match Place::of(offset) {
            Place::Common(offset) => self.common_read(offset, size),
            Place::Isr(0) if size == Size::Byte => self.interrupts.take_isr().into(),
            Place::Isr(_) => size.ones(),
            Place::Device(offset) => self.core.config_read(offset, size),
            Place::Notify(_) => 0,
        }
    }

    fn write(&self, offset: u64, size: Size, value: u64) {
        let change = self.modern_write(offset, size, value);
        self.follow(change);
    }

    fn modern_write(&self, offset: u64, size: Size, value: u64) -> Change {
        match Place::of(offset) {
            Place::Common(offset) => self.common_write(offset, size, value),
            Place::Isr(_) => Change::None,
            Place::Device(offset) => {
                self.core.config_write(offset, size, value);
                Change::None
            }
            // A doorbell that is not switched on.
            Place::Notify(offset) => {
                let queue = offset / u64::from(NOTIFY_MULTIPLIER);
                if offset.is_multiple_of(NOTIFY_MULTIPLIER.into())
                    && let Ok(queue) = u16::try_from(queue)
                {
                    self.core.ring(queue);
                }
                Change::None
            }
        }
    }

    fn follow(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Started => self.switch_doorbells(),
            Change::Reset => {
                self.interrupts.reset();
                self.switch_doorbells();
            }
        }
    }

    /// Has doorbells ring without this process while the device is in use.
    fn switch_doorbells(&self) {
        let mut on = self.doorbells.lock();
        let wanted = self.core.state().is_running();
        if *on == wanted {
            return;
        }
        let bars = [
            self.modern.as_ref().map(|(_, bar)| (bar, self.modern_doorbells())),
            self.legacy.as_ref().map(|bar| (bar, self.legacy_doorbells())),
        ];
        for (bar, windows) in bars.into_iter().flatten() {
            let changed = match wanted {
                true => bar.change(Vec::new(), windows),
                false => bar.change(windows, Vec::new()),
            };
            // They trap, and ring all the same.
            if let Err(error) = changed {
                tracing::debug!("doorbells stay as they are: {error}");
            }
        }
        *on = wanted;
    }

    fn modern_doorbells(&self) -> Vec<Window> {
        let window = |queue| {
            let target = self.core.doorbell(queue)?;
            let offset = NOTIFY + u64::from(queue) * u64::from(NOTIFY_MULTIPLIER);
            let delivery = Delivery::Doorbell { target, datamatch: None };
            Some(Window { offset, len: 0, delivery })
        };
        (0..self.core.queue_count()).filter_map(window).collect()
    }
}

/// What configuration space says of a kind of device.
fn identity(kind: DeviceType, interface: PciInterface) -> io::Result<Identity> {
    let (device, revision, subsystem) = match interface {
        PciInterface::Modern => (MODERN_DEVICE_ID + kind as u16, MODERN_REVISION, MODERN_SUBSYSTEM),
        PciInterface::Legacy | PciInterface::Transitional => {
            let why = "legacy drivers know no such device";
            let unknown = || io::Error::new(io::ErrorKind::Unsupported, why);
            let device = legacy_device_id(kind).ok_or_else(unknown)?;
            (device, LEGACY_REVISION, kind as u16)
        }
    };
    Ok(Identity {
        vendor: VENDOR_ID,
        device,
        revision,
        class: class_of(kind),
        subsystem_vendor: VENDOR_ID,
        subsystem,
        pin: Some(Pin::A),
        ..Identity::default()
    })
}

/// Class code of a kind of device (PCI Code and ID Assignment Specification).
const fn class_of(kind: DeviceType) -> u32 {
    /// The base class of what fits no other.
    const OTHER: u32 = 0xff;
    match kind {
        DeviceType::Net => 0x02_0000,
        DeviceType::Block | DeviceType::Scsi => 0x01_0000,
        DeviceType::Console => 0x07_8000,
        DeviceType::Fs => 0x01_8000,
        DeviceType::Vsock => 0x02_8000,
        DeviceType::Rng | DeviceType::Balloon | DeviceType::P9 => OTHER << 16,
    }
}

impl PciDevice for VirtioPci {
    fn bar_read(&self, _cx: &IoCx<'_>, bar: usize, offset: u64, size: Size) -> u64 {
        match bar == usize::from(LEGACY_BAR) {
            true => self.legacy_read(offset, size),
            false => self.read(offset, size),
        }
    }

    fn bar_write(&self, _cx: &IoCx<'_>, bar: usize, offset: u64, size: Size, value: u64) {
        match bar == usize::from(LEGACY_BAR) {
            true => {
                let change = self.legacy_write(offset, size, value);
                self.follow(change);
            }
            false => self.write(offset, size, value),
        }
    }

    /// Every register has a width of its own; qwords are two dwords (4.1.3.1).
    fn bar_rules(&self, _bar: usize) -> Rules {
        let valid = Limits { min: Size::Byte, max: Size::Qword, unaligned: false };
        Rules { valid, handled: Limits { max: Size::Dword, ..valid } }
    }

    fn bar_register(&self, bar: usize, offset: u64, direction: Direction) -> Option<&'static str> {
        if bar == usize::from(LEGACY_BAR) {
            return self.legacy_register(offset, direction);
        }
        match (Place::of(offset), direction) {
            (Place::Common(offset), Direction::Read) => {
                COMMON_CFG.for_read(offset).map(|row| row.name)
            }
            (Place::Common(offset), Direction::Write) => {
                COMMON_CFG.for_write(offset).map(|row| row.name)
            }
            (Place::Isr(_), _) => Some("isr_status"),
            (Place::Device(_), _) => Some("device_cfg"),
            (Place::Notify(_), _) => Some("queue_notify"),
        }
    }

    fn config_read(&self, config: &ConfigSpace, offset: u16, size: Size) -> u32 {
        let through = |offset, size| self.read(offset, size);
        match &self.modern {
            Some((window, _)) => window.read(config, offset, size, through),
            None => config.read(offset, size),
        }
    }

    fn config_write(&self, config: &mut ConfigSpace, offset: u16, size: Size, value: u32) {
        let through = |offset, size, value| self.write(offset, size, value);
        match &self.modern {
            Some((window, _)) => window.write(config, offset, size, value, through),
            None => config.write(offset, size, value),
        }
    }

    fn config_shown(&self, config: &ConfigSpace, bytes: &mut [u8]) -> bool {
        self.modern.as_ref().is_none_or(|(window, _)| window.shown(config, bytes))
    }

    fn config_register(&self, offset: u16) -> Option<&'static str> {
        self.modern.as_ref()?.0.register(offset)
    }
}

impl Device for VirtioPci {
    fn reset(&self) {
        self.core.reset();
        self.interrupts.reset();
        self.switch_doorbells();
    }
}

/// What a snapshot keeps of the function.
#[derive(Clone)]
struct Kept {
    core: CoreState,
    vectors: Vectors,
}

impl Kept {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the function checks it")]
    fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}

saved_form! {
    /// [`Kept`], version 1.
    struct VirtioPciV1 of Kept, "virtio-pci" version 1 {
        core: CoreV1,
        vectors: VectorsV1,
    }
}

impl SaveState for VirtioPci {
    fn save(&self) -> Saved {
        let kept = Kept { core: self.core.save(), vectors: self.interrupts.save() };
        Saved::encode(&VirtioPciV1::from(&kept))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let Kept { core, vectors } = Kept::try_from(saved.decode::<VirtioPciV1>()?)?;
        let check = StateError::check::<VirtioPciV1>;
        check(self.core.can_be(&core), "queues and features are those of the device")?;
        check(self.interrupts.can_be(&vectors), "every vector is one of the table")?;
        // Vectors first: what the queues find to do interrupts by them.
        let before = self.interrupts.save();
        self.interrupts.restore(vectors);
        if let Err(refused) = self.core.restore(core) {
            self.interrupts.restore(before);
            return Err(refused);
        }
        self.switch_doorbells();
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.core.is_at_rest()
    }
}
