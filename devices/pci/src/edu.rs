//! QEMU's educational device: a function that raises interrupts, by pin or by message, when it is
//! told to. For tests of interrupts, and for machines without processors, where something has to
//! play the devices.
//!
//! Spec: QEMU, `docs/specs/edu.rst`. Deviations: it has no DMA; its registers read 0. A factorial
//! takes [`FACTORIAL_NS`]. Beside QEMU's MSI it has MSI-X, in a BAR of its own: raising an interrupt
//! sends the message of one vector, that of the lowest bit raised, counted around [`EDU_VECTORS`].
//!
//! An interrupt that the guest raises comes from the vCPU that makes the access. The message of a
//! factorial comes by its eventfd, from the thread that runs the machine's timers: so come the
//! interrupts of devices whose back end is a thread or the kernel.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Clock, Direction, EventFd, EventLoop, Interrupt, InterruptMode, IoCx, Limits, Rules, Size,
    StateError, Timer, Wake, device_state, saved_form,
};

use crate::config::{Bar, Identity, Pin};
use crate::device::PciDevice;
use crate::function::{Function, FunctionBuilder, Slot};
use crate::msix::MsixLayout;
use crate::regs::{
    EDU, EDU_BAR_LEN, EDU_CLASS, EDU_DEVICE_ID, EDU_DMA, EDU_IDENTIFICATION, EDU_MSIX_BAR_LEN,
    EDU_REVISION, EDU_STATUS_COMPUTING, EDU_STATUS_IRQ, EDU_VECTORS, EDU_VENDOR_ID, EduReg,
    FACTORIAL_IRQ,
};

/// The BAR of the registers.
pub const REGISTERS_BAR: usize = 0;
/// The BAR of the MSI-X table and its pending bits.
pub const MSIX_BAR: usize = 1;

/// How long a factorial takes, in nanoseconds of the machine's time.
pub const FACTORIAL_NS: u64 = 50_000;

/// The device.
pub struct Edu {
    // Wiring.
    pin: Interrupt,
    messages: Vec<Interrupt>,
    /// Sends the message of a factorial.
    done: EventFd,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    // What the guest changes.
    state: Mutex<State>,
}

/// The registers that keep something.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    inverted: u32,
    /// While one is computed: of what.
    factorial: u32,
    /// When the factorial that is computed is done.
    done_ns: Option<u64>,
    status: u32,
    interrupts: u32,
}

impl Edu {
    /// An educational device in `slot`, whose factorials take time of `clock` and send their message
    /// by an eventfd, which `event_loop` takes where the hypervisor does not.
    ///
    /// # Errors
    /// The operating system has no descriptor left.
    pub fn function(
        slot: Slot<'_>,
        clock: &Arc<dyn Clock>,
        event_loop: &dyn EventLoop,
    ) -> io::Result<Function> {
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
        let messages: Vec<Interrupt> = messages.collect();
        let done = builder.message(vector(FACTORIAL_IRQ)).eventfd(event_loop)?;
        Ok(builder.build(Arc::new_cyclic(|this: &Weak<Self>| Self {
            pin,
            messages,
            done,
            clock: Arc::clone(clock),
            timer: clock.timer(this.clone()),
            state: Mutex::default(),
        })))
    }

    /// Drives the pin and the timer as a state that was just set wants them.
    fn settle(&self, state: &State) {
        self.timer.arm(state.done_ns);
        self.sync(state);
    }

    /// Drives the pin with the interrupt status.
    fn sync(&self, state: &State) {
        self.pin.set_level(state.interrupts != 0);
    }

    fn raise(&self, state: &mut State, bits: u32) {
        state.interrupts |= bits;
        self.sync(state);
        let message = self.messages.get(vector(bits)).filter(|_| state.interrupts != 0);
        message.inspect(|message| message.trigger());
    }

    /// Starts to compute the factorial of `n`, unless another one is computed.
    fn compute(&self, state: &mut State, n: u32) {
        if state.done_ns.is_none() {
            state.factorial = n;
            state.done_ns = Some(self.clock.now_ns().saturating_add(FACTORIAL_NS));
            self.timer.arm(state.done_ns);
        }
    }

    /// A factorial is done.
    fn complete(&self, state: &mut State) {
        state.done_ns = None;
        state.factorial = factorial(state.factorial);
        if state.status & EDU_STATUS_IRQ == 0 {
            return;
        }
        state.interrupts |= FACTORIAL_IRQ;
        self.sync(state);
        // A signal that nobody takes would be a message once there are any.
        let message = self.messages.get(vector(FACTORIAL_IRQ));
        if message.is_some_and(|message| message.mode() == InterruptMode::Message) {
            self.done.signal();
        }
    }
}

/// The MSI-X vector of an interrupt with these bits.
fn vector(bits: u32) -> usize {
    usize::try_from(bits.trailing_zeros() % u32::from(EDU_VECTORS)).unwrap_or(0)
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
            Some(EduReg::Status) if state.done_ns.is_some() => state.status | EDU_STATUS_COMPUTING,
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
            Some(EduReg::Factorial) => self.compute(state, value),
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

impl Wake for Edu {
    fn wake(&self) {
        let state = &mut *self.state.lock();
        if state.done_ns.is_some_and(|done| done <= self.clock.now_ns()) {
            self.complete(state);
        }
    }
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let status = self.status & !EDU_STATUS_IRQ == 0;
        StateError::check::<SavedV3>(status, "the status register has one writable bit")
    }
}

saved_form! {
    /// [`State`], version 3: factorials take time.
    struct SavedV3 of State, "edu" version 3 {
        inverted: u32,
        factorial: u32,
        done_ns: Option<u64>,
        status: u32,
        interrupts: u32,
    }
}

device_state!(Edu, SavedV3, state, then settle);
