//! The traits between a hypervisor and interrupt controllers that it does not emulate: INTA cycles
//! (ExtINT), ends of interrupts, and which I/O APIC inputs are level triggered.
//!
//! With the whole interrupt controller in the source (KVM's), none of this is used. With only the
//! local APICs there, the rest of the controller is a device like any other:
//!
//! ```text
//!   8259 pair ──INTR Line──► source ──ExtInt::acknowledge──► 8259 pair    (INTA cycle)
//!   I/O APIC  ──MsiSink────► source ──EoiSink::eoi─────────► I/O APIC     (EOI broadcast)
//!             ──LevelRoutes─►                    (which EOIs are worth an exit)
//! ```

use crate::Msi;

/// An input of a PC's interrupt controllers that a line can be wired to, wherever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PcInput {
    /// Of the 8259 pair: 0 to 7 of the first, 8 to 15 of the second.
    Pic(u8),
    /// Of the I/O APIC, 0 to 23.
    IoApic(u8),
}

/// An external interrupt controller, as the processor's INTR and INTA pins see it.
///
/// The controller also drives a [`crate::Line`] with the level of INTR; the source's end of that
/// line wakes the processor, which then asks here.
pub trait ExtInt: Send + Sync {
    /// The level of INTR. Cheap; asked before every entry into the guest.
    fn pending(&self) -> bool;

    /// One interrupt acknowledge, if INTR is high: the controller marks its most urgent request as
    /// in service and gives its vector. `None` if INTR is low, though it may have been high a moment
    /// ago: a device can take its request back on any thread, and the processor does nothing then.
    /// A chip would have to answer with a spurious interrupt, as its processor has begun by then;
    /// here, looking at INTR and the acknowledge are one.
    ///
    /// To be called only when the processor takes the interrupt next, as nothing can undo it.
    fn acknowledge(&self) -> Option<u8>;
}

/// Hears the local APICs' end-of-interrupt messages.
pub trait EoiSink: Send + Sync {
    /// A level-triggered interrupt with this vector has ended on some processor. Called with no
    /// lock of the source held; may send messages before it returns.
    fn eoi(&self, vector: u8);
}

/// Is told which messages are level-triggered. A source that reports only the EOIs somebody waits
/// for (KVM's split irqchip) learns the vectors here.
pub trait LevelRoutes: Send + Sync {
    /// From now on the I/O APIC's `pin` sends `message` while its input is asserted (`None`: the
    /// pin is masked or edge triggered, and waits for no EOI). Called on changes only, before the
    /// first such message is sent. A leaf: it calls no device.
    fn set_level_route(&self, pin: u8, message: Option<Msi>);
}
