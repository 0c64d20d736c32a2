//! QEMU's educational device: a function that raises interrupts, by message or by pin, when it is
//! told to. For machines without processors, where something has to play the devices.
//!
//! Spec: QEMU, `docs/specs/edu.rst`. Deviation: it has no DMA; its registers read 0.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use trapline_device::{
    Device, Direction, Handler, IoCx, Limits, Line, MsiSink, RegionId, Rules, SaveState, Saved,
    Size, StateError, saved_form,
};

use crate::bus::Function;
use crate::config::{Bar, ConfigSpace, Identity, Pin};
use crate::msi::MsiCapability;
use crate::regs::{
    EDU, EDU_BAR_LEN, EDU_CLASS, EDU_DEVICE_ID, EDU_DMA, EDU_IDENTIFICATION, EDU_MSI_OFFSET,
    EDU_REVISION, EDU_STATUS_IRQ, EDU_VENDOR_ID, EduReg, FACTORIAL_IRQ,
};
use crate::state::{ConfigState, ConfigV1};

/// The BAR of the registers.
pub const BAR: usize = 0;

/// The function.
pub struct Edu {
    // Wiring.
    messages: Option<Arc<dyn MsiSink>>,
    pin: Line,
    msi: MsiCapability,
    region: OnceLock<RegionId>,
    // What the guest changes.
    inner: Mutex<Inner>,
}

struct Inner {
    config: ConfigSpace,
    state: State,
}

/// The registers that keep something.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    inverted: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
}

impl Edu {
    /// A function whose INTA# is `pin`, and whose messages go to `messages` where there is
    /// somebody to take them.
    pub fn new(pin: Line, messages: Option<Arc<dyn MsiSink>>) -> Self {
        let identity = Identity {
            vendor: EDU_VENDOR_ID,
            device: EDU_DEVICE_ID,
            revision: EDU_REVISION,
            class: EDU_CLASS,
            pin: Some(Pin::A),
            ..Identity::default()
        };
        let bar = Bar::Mem32 { len: EDU_BAR_LEN, prefetchable: false };
        let mut config = ConfigSpace::new(&identity).with_bar(BAR, bar);
        let msi = MsiCapability::add(&mut config, EDU_MSI_OFFSET);
        let inner = Mutex::new(Inner { config, state: State::default() });
        Self { messages, pin, msi, region: OnceLock::new(), inner }
    }

    /// Names the region of the registers, which is moved with the BAR from then on. The first name
    /// counts.
    pub fn connect(&self, region: RegionId) {
        // Naming it twice is the board's mistake, and harmless.
        let _ = self.region.set(region);
    }

    /// Where the region belongs now; after a reset, nowhere.
    pub fn place(&self) -> Option<(RegionId, Option<u64>)> {
        let base = base(&self.inner.lock().config);
        self.region.get().map(|id| (*id, base))
    }

    /// Drives the pin with the interrupt status, unless messages are in use.
    fn sync(&self, inner: &Inner) {
        let level = inner.state.interrupts != 0 && !inner.config.command().interrupt_disable();
        self.pin.set(level && !self.msi.enabled(&inner.config));
    }

    fn raise(&self, inner: &mut Inner, bits: u32) {
        inner.state.interrupts |= bits;
        if inner.state.interrupts != 0
            && let Some(message) = self.msi.message(&inner.config)
            && let Some(sink) = &self.messages
        {
            sink.send(message.address, message.data);
        }
        self.sync(inner);
    }
}

fn base(config: &ConfigSpace) -> Option<u64> {
    let [window, ..] = config.windows();
    window.map(|window| window.base)
}

fn factorial(n: u32) -> u32 {
    // From 34 on the product of 32 bits is 0.
    (1..=n.min(34)).fold(1, u32::wrapping_mul)
}

impl Function for Edu {
    fn config_read(&self, _cx: &IoCx<'_>, offset: u16, size: Size) -> u32 {
        self.inner.lock().config.read(offset, size)
    }

    fn config_write(&self, cx: &IoCx<'_>, offset: u16, size: Size, value: u32) {
        let mut inner = self.inner.lock();
        let before = base(&inner.config);
        inner.config.write(offset, size, value);
        let after = base(&inner.config);
        self.sync(&inner);
        if let Some(id) = self.region.get().filter(|_| before != after)
            && cx.regions().place(&[(*id, after)]).is_err()
        {
            // On top of something else it is nowhere.
            let _ = cx.regions().place(&[(*id, None)]);
        }
    }
}

impl Handler for Edu {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, _size: Size) -> u64 {
        let state = self.inner.lock().state;
        let value = match EDU.for_read(offset).map(|row| row.reg) {
            Some(EduReg::Identification) => EDU_IDENTIFICATION,
            Some(EduReg::Liveness) => state.inverted,
            Some(EduReg::Factorial) => state.factorial,
            Some(EduReg::Status) => state.status,
            Some(EduReg::InterruptStatus) => state.interrupts,
            None if EDU_DMA.contains(&offset) => 0,
            Some(EduReg::Raise | EduReg::Acknowledge) | None => u32::MAX,
        };
        value.into()
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, _size: Size, value: u64) {
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let mut inner = self.inner.lock();
        match EDU.for_write(offset).map(|row| row.reg) {
            Some(EduReg::Liveness) => inner.state.inverted = !value,
            Some(EduReg::Factorial) => {
                inner.state.factorial = factorial(value);
                if inner.state.status & EDU_STATUS_IRQ != 0 {
                    self.raise(&mut inner, FACTORIAL_IRQ);
                }
            }
            Some(EduReg::Status) => inner.state.status = value & EDU_STATUS_IRQ,
            Some(EduReg::Raise) => self.raise(&mut inner, value),
            Some(EduReg::Acknowledge) => {
                inner.state.interrupts &= !value;
                self.sync(&inner);
            }
            _ => {}
        }
    }

    /// Registers are 32 bits wide.
    fn rules(&self) -> Rules {
        Rules { valid: Limits::only(Size::Dword), handled: Limits::only(Size::Dword) }
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => EDU.for_read(offset),
            Direction::Write => EDU.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl Device for Edu {
    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.config.reset();
        inner.state = State::default();
        self.sync(&inner);
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
struct Kept {
    config: ConfigState,
    registers: State,
}

impl Kept {
    fn check(&self) -> Result<(), StateError> {
        let status = self.registers.status & !EDU_STATUS_IRQ == 0;
        StateError::check::<SavedV1>(status, "the status register has one writable bit")
    }
}

saved_form! {
    /// [`Kept`], version 1.
    struct SavedV1 of Kept, "edu" version 1 {
        config: ConfigV1,
        registers: RegistersV1,
    }
}

saved_form! {
    struct RegistersV1 of State {
        inverted: u32,
        factorial: u32,
        status: u32,
        interrupts: u32,
    }
}

impl SaveState for Edu {
    fn save(&self) -> Saved {
        let inner = self.inner.lock();
        let Inner { config, state } = &*inner;
        Saved::encode(&SavedV1::from(&Kept { config: config.state(), registers: *state }))
    }

    /// [`Edu::place`] says where the region belongs afterwards.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let Kept { config, registers } = Kept::try_from(saved.decode::<SavedV1>()?)?;
        let mut inner = self.inner.lock();
        let possible = inner.config.can_be(&config);
        StateError::check::<SavedV1>(possible, "hard-wired bits are what they are")?;
        inner.config.restore(config);
        inner.state = registers;
        self.sync(&inner);
        Ok(())
    }
}
