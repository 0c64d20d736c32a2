//! Virtio over MMIO: a window of registers and one level-triggered interrupt, in version 2 and, for
//! drivers of before 1.0, version 1.
//!
//! A reset and a queue's end are over when their write returns: drivers do not ask.

mod access;
pub mod regs;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use trapline_device::{
    Delivery, Device, Direction, EventLoop, FdtDevice, FdtNode, Handler, Interrupt, IoCx, Limits,
    RegionEdit, RegionId, Regions, Rules, SaveState, Saved, Size, StateError, Window, saved_form,
};
use trapline_guestmem::GuestMem;

use crate::VirtioDevice;
use crate::transport::{Change, Core, CoreState, CoreV1, Interface, Interfaces, Interrupts};
use regs::{CONFIG, INTERRUPT_CONFIG, INTERRUPT_QUEUE, LEGACY, MODERN, MmioReg};

/// Offset of `QueueNotify`.
const NOTIFY: u64 = 0x50;

/// A virtio device behind a window of registers.
pub struct VirtioMmio {
    core: Core,
    interface: Interface,
    interrupt: Arc<MmioInterrupt>,
    /// What a legacy driver has said of its pages.
    pages: Mutex<LegacyPages>,
    /// Where the window is mapped.
    region: OnceLock<(Arc<dyn Regions>, RegionId)>,
    /// Whether the doorbells are switched on. Held while they are switched.
    doorbells: Mutex<bool>,
}

/// How a legacy driver tells where a queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LegacyPages {
    size: u32,
    /// Of each queue's used ring.
    aligns: Vec<u32>,
}

/// The interrupt, whose level says whether anything is in the status.
struct MmioInterrupt {
    interrupt: Interrupt,
    status: Mutex<u32>,
}

impl MmioInterrupt {
    fn raise(&self, bits: u32) {
        let mut status = self.status.lock();
        *status |= bits;
        self.interrupt.set_level(true);
    }

    fn acknowledge(&self, bits: u32) {
        let mut status = self.status.lock();
        *status &= !bits;
        self.interrupt.set_level(*status != 0);
    }

    fn set(&self, bits: u32) {
        let mut status = self.status.lock();
        *status = bits;
        self.interrupt.set_level(bits != 0);
    }
}

impl Interrupts for MmioInterrupt {
    fn queue(&self, _queue: u16) {
        self.raise(INTERRUPT_QUEUE);
    }

    fn config(&self) {
        self.raise(INTERRUPT_CONFIG);
    }
}

impl VirtioMmio {
    /// The registers of `device`, in version 1 if `legacy`. Its requests are in `mem`, and its
    /// queues are processed on `event_loop`.
    ///
    /// # Errors
    /// The operating system has no descriptors left for the doorbells.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        legacy: bool,
        interrupt: Interrupt,
        mem: &GuestMem,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Arc<Self>> {
        let interface = if legacy { Interface::Legacy } else { Interface::Modern };
        let interrupt = Arc::new(MmioInterrupt { interrupt, status: Mutex::new(0) });
        let core =
            Core::new(device, Interfaces::Only(interface), mem, event_loop, interrupt.clone())?;
        let pages = Mutex::new(LegacyPages::new(core.queue_count()));
        let (region, doorbells) = (OnceLock::new(), Mutex::new(false));
        Ok(Arc::new(Self { core, interface, interrupt, pages, region, doorbells }))
    }

    /// Says where the window is mapped, so that its doorbells can be switched on and off. Without,
    /// they trap.
    pub fn mapped(&self, registry: Arc<dyn Regions>, region: RegionId) {
        self.region.get_or_init(|| (registry, region));
        self.switch_doorbells();
    }

    /// Has doorbells ring without this process while the device is in use: one for each queue's
    /// number.
    fn switch_doorbells(&self) {
        let mut on = self.doorbells.lock();
        let wanted = self.core.state().is_running();
        let Some((registry, region)) = self.region.get().filter(|_| *on != wanted) else { return };
        let window = |queue| {
            let target = self.core.doorbell(queue)?;
            let delivery = Delivery::Doorbell { target, datamatch: Some(queue.into()) };
            let window = Window { offset: NOTIFY, len: 4, delivery };
            Some(match wanted {
                true => RegionEdit::AddWindow(*region, window),
                false => RegionEdit::RemoveWindow(*region, window),
            })
        };
        match registry.edit((0..self.core.queue_count()).filter_map(window).collect()) {
            Ok(_) => *on = wanted,
            // They trap, and ring all the same.
            Err(error) => tracing::debug!("doorbells stay as they are: {error}"),
        }
    }

    fn is_legacy(&self) -> bool {
        self.interface == Interface::Legacy
    }

    fn follow(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Started => self.switch_doorbells(),
            Change::Reset => {
                self.interrupt.set(0);
                // The size of pages stays: Linux says it once, before the first reset.
                let mut pages = self.pages.lock();
                *pages =
                    LegacyPages { size: pages.size, ..LegacyPages::new(self.core.queue_count()) };
                drop(pages);
                self.switch_doorbells();
            }
        }
    }
}

impl LegacyPages {
    fn new(queues: u16) -> Self {
        Self { size: 0, aligns: vec![0; queues.into()] }
    }
}

impl Handler for VirtioMmio {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        match offset.checked_sub(CONFIG) {
            Some(offset) => self.core.config_read(offset, size),
            None if size == Size::Dword => self.register_read(offset).into(),
            None => size.ones(),
        }
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        match offset.checked_sub(CONFIG) {
            Some(offset) => self.core.config_write(offset, size, value),
            None if size == Size::Dword => {
                let change = self.register_write(offset, u32::try_from(value).unwrap_or(0));
                self.follow(change);
            }
            None => {}
        }
    }

    /// Registers are dwords; the configuration is whatever it is. Nothing is split into pieces that
    /// would then be whole registers.
    fn rules(&self) -> Rules {
        let valid = Limits { min: Size::Byte, max: Size::Qword, unaligned: false };
        Rules { valid, handled: valid }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        if offset >= CONFIG {
            return Some("Config");
        }
        let map = if self.is_legacy() { &LEGACY } else { &MODERN };
        let row = match direction {
            Direction::Read => map.for_read(offset),
            Direction::Write => map.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl FdtDevice for VirtioMmio {
    /// Linux `Documentation/devicetree/bindings/virtio/mmio.yaml`.
    fn fdt_node(&self) -> FdtNode {
        FdtNode::new("virtio").text("compatible", "virtio,mmio").flag("dma-coherent")
    }
}

impl Device for VirtioMmio {
    fn reset(&self) {
        self.core.reset();
        self.pages.lock().size = 0;
        self.follow(Change::Reset);
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
struct Kept {
    core: CoreState,
    interrupts: u32,
    page_size: u32,
    aligns: Vec<u32>,
}

impl Kept {
    fn check(&self) -> Result<(), StateError> {
        let known = self.interrupts & !(INTERRUPT_QUEUE | INTERRUPT_CONFIG) == 0;
        StateError::check::<VirtioMmioV1>(known, "there are two reasons to interrupt")
    }
}

saved_form! {
    /// [`Kept`], version 1.
    struct VirtioMmioV1 of Kept, "virtio-mmio" version 1 {
        core: CoreV1,
        interrupts: u32,
        page_size: u32,
        aligns: Vec<u32> => list,
    }
}

impl SaveState for VirtioMmio {
    fn save(&self) -> Saved {
        let LegacyPages { size: page_size, aligns } = self.pages.lock().clone();
        let interrupts = *self.interrupt.status.lock();
        let kept = Kept { core: self.core.save(), interrupts, page_size, aligns };
        Saved::encode(&VirtioMmioV1::from(&kept))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let kept = Kept::try_from(saved.decode::<VirtioMmioV1>()?)?;
        let Kept { core, interrupts, page_size, aligns } = kept;
        let check = StateError::check::<VirtioMmioV1>;
        let same = aligns.len() == usize::from(self.core.queue_count());
        check(same && self.core.can_be(&core), "queues and features are those of the device")?;
        self.core.restore(core)?;
        *self.pages.lock() = LegacyPages { size: page_size, aligns };
        self.interrupt.set(interrupts);
        self.switch_doorbells();
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.core.is_at_rest()
    }
}

/// What registers that there are not read as.
const NOTHING: u32 = 0;

impl VirtioMmio {
    /// The register at `offset`, if it is one from its first byte on.
    fn reg(&self, offset: u64, direction: Direction) -> Option<MmioReg> {
        let map = if self.is_legacy() { &LEGACY } else { &MODERN };
        let row = match direction {
            Direction::Read => map.for_read(offset),
            Direction::Write => map.for_write(offset),
        };
        row.map(|row| row.reg)
    }
}
