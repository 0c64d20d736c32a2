//! QEMU's educational device: a function that raises interrupts, by pin or by message, when it is
//! told to. For tests of interrupts, and for machines without processors, where something has to
//! play the devices.
//!
//! Spec: QEMU, `docs/specs/edu.rst`. Deviations: it has no DMA; its registers read 0. Beside QEMU's
//! MSI it has MSI-X, in a BAR of its own: raising an interrupt sends the message of one vector, that
//! of the lowest bit raised, counted around [`EDU_VECTORS`].

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{
    Direction, Interrupt, IoCx, Limits, Rules, Size, StateError, device_state, saved_form,
};

use crate::config::{Bar, Identity, Pin};
use crate::device::PciDevice;
use crate::function::{Function, FunctionBuilder, Slot};
use crate::msix::MsixLayout;
use crate::regs::{
    EDU, EDU_BAR_LEN, EDU_CLASS, EDU_DEVICE_ID, EDU_DMA, EDU_IDENTIFICATION, EDU_MSIX_BAR_LEN,
    EDU_REVISION, EDU_STATUS_IRQ, EDU_VECTORS, EDU_VENDOR_ID, EduReg, FACTORIAL_IRQ,
};

/// The BAR of the registers.
pub const REGISTERS_BAR: usize = 0;
/// The BAR of the MSI-X table and its pending bits.
pub const MSIX_BAR: usize = 1;

/// The device.
pub struct Edu {
    // Wiring.
    pin: Interrupt,
    messages: Vec<Interrupt>,
    // What the guest changes.
    state: Mutex<State>,
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
    /// An educational device in `slot`.
    pub fn function(slot: Slot<'_>) -> Function {
        let identity = Identity {
            vendor: EDU_VENDOR_ID,
            device: EDU_DEVICE_ID,
            revision: EDU_REVISION,
            class: EDU_CLASS,
            pin: Some(Pin::A),
            ..Identity::default()
        };
        let mut builder = FunctionBuilder::new(slot, &identity)
            .bar(REGISTERS_BAR, Bar::Mem32 { len: EDU_BAR_LEN, prefetchable: false })
            .bar(MSIX_BAR, Bar::Mem32 { len: EDU_MSIX_BAR_LEN, prefetchable: false })
            .msi()
            .msix(MsixLayout { pba: EDU_MSIX_BAR_LEN / 2, ..MsixLayout::in_bar(1, EDU_VECTORS) });
        let pin = builder.pin();
        let messages = (0..usize::from(EDU_VECTORS)).map(|number| builder.message(number));
        let messages = messages.collect();
        builder.build(Arc::new(Self { pin, messages, state: Mutex::default() }))
    }

    /// Drives the pin with the interrupt status.
    fn sync(&self, state: &State) {
        self.pin.set_level(state.interrupts != 0);
    }

    fn raise(&self, state: &mut State, bits: u32) {
        state.interrupts |= bits;
        self.sync(state);
        let vector = bits.trailing_zeros() % u32::from(EDU_VECTORS);
        let vector = usize::try_from(vector).ok().and_then(|vector| self.messages.get(vector));
        if let Some(vector) = vector.filter(|_| state.interrupts != 0) {
            vector.trigger();
        }
    }
}

fn factorial(n: u32) -> u32 {
    // From 34 on the product of 32 bits is 0.
    (1..=n.min(34)).fold(1, u32::wrapping_mul)
}

impl PciDevice for Edu {
    fn bar_read(&self, _cx: &IoCx<'_>, _bar: usize, offset: u64, _size: Size) -> u64 {
        let state = *self.state.lock();
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

    fn bar_write(&self, _cx: &IoCx<'_>, _bar: usize, offset: u64, _size: Size, value: u64) {
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let state = &mut *self.state.lock();
        match EDU.for_write(offset).map(|row| row.reg) {
            Some(EduReg::Liveness) => state.inverted = !value,
            Some(EduReg::Factorial) => {
                state.factorial = factorial(value);
                if state.status & EDU_STATUS_IRQ != 0 {
                    self.raise(state, FACTORIAL_IRQ);
                }
            }
            Some(EduReg::Status) => state.status = value & EDU_STATUS_IRQ,
            Some(EduReg::Raise) => self.raise(state, value),
            Some(EduReg::Acknowledge) => {
                state.interrupts &= !value;
                self.sync(state);
            }
            _ => {}
        }
    }

    /// Registers are 32 bits wide.
    fn bar_rules(&self, _bar: usize) -> Rules {
        Rules { valid: Limits::only(Size::Dword), handled: Limits::only(Size::Dword) }
    }

    fn bar_register(&self, _: usize, offset: u64, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => EDU.for_read(offset),
            Direction::Write => EDU.for_write(offset),
        };
        row.map(|row| row.name)
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let status = self.status & !EDU_STATUS_IRQ == 0;
        StateError::check::<SavedV2>(status, "the status register has one writable bit")
    }
}

saved_form! {
    /// [`State`], version 2: without configuration space.
    struct SavedV2 of State, "edu" version 2 {
        inverted: u32,
        factorial: u32,
        status: u32,
        interrupts: u32,
    }
}

device_state!(Edu, SavedV2, state, then sync);
