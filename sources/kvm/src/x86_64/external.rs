//! Interrupt controllers outside the kernel, with the local APICs inside (`KVM_CAP_SPLIT_IRQCHIP`,
//! Linux `Documentation/virt/kvm/api.rst`).
//!
//! ```text
//!   I/O APIC ──MsiSink────► KVM_SIGNAL_MSI
//!            ──LevelRoutes─► KVM_SET_GSI_ROUTING     (whose EOIs are reported)
//!            ◄─EoiSink────── KVM_EXIT_IOAPIC_EOI
//!   8259A    ──Line────────► kick ─► KVM_INTERRUPT   (when the vCPU is ready for it)
//!            ◄─ExtInt───────                         (the INTA cycle)
//! ```
//!
//! INTR is the first vCPU's. Whether it listens is its local APIC's decision: switched off, or with
//! LVT0 unmasked in ExtINT mode (virtual wire mode), and KVM's `ready_for_interrupt_injection` says
//! no otherwise.
//!
//! Deviation: a message in ExtINT mode, which an I/O APIC sends when its pin 0 is set up for the
//! 8259As, does nothing, as KVM's local APICs know ExtINT from LVT0 only.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use trapline_device::{EoiSink, ExtInt, LevelRoutes, LineSink, Msi, MsiController, MsiSink};

use super::chips::IOAPIC_INPUTS;
use crate::exit::RunPage;
use crate::kick::Kick;
use crate::messages::SignalMsi;
use crate::routing::{self, Route};
use crate::{Vcpu, Vm, ioctl};

/// The local APICs of a VM with [`crate::Irqchip::Split`], as an I/O APIC on the board sees them.
pub struct LocalApics {
    messages: SignalMsi,
}

impl LocalApics {
    /// Those of `vm`. There is one I/O APIC, so this is asked for once.
    pub fn new(vm: &Arc<Vm>) -> Arc<Self> {
        Arc::new(Self { messages: SignalMsi { vm: Arc::clone(vm), device_id: None } })
    }
}

impl MsiSink for LocalApics {
    fn send(&self, address: u64, data: u32) {
        self.messages.send(address, data);
    }
}

impl LevelRoutes for LocalApics {
    fn set_level_route(&self, pin: u8, message: Option<Msi>) {
        let gsi = u32::from(pin);
        if gsi >= IOAPIC_INPUTS {
            return;
        }
        let vm = &self.messages.vm;
        vm.routing().stage(gsi, message.map(|message| Route::Message { message, device_id: None }));
        if let Err(error) = vm.routing().commit(vm.fd()) {
            // The end of the guest's next interrupt at that pin is not reported.
            routing::report(&error);
        }
    }
}

impl Vm {
    /// Where messages of PCI functions go: the local APICs.
    pub fn messages(self: &Arc<Self>) -> Arc<dyn MsiController> {
        Arc::new(self.kernel_messages(false))
    }
}

impl Vcpu {
    /// The end of a line at its INTR pin: when the line rises, the vCPU asks the controller of
    /// [`Vcpu::connect_intr`], wherever it is.
    pub fn intr(&self) -> impl LineSink + use<> {
        Intr(self.kick().clone())
    }

    /// The controller behind its INTR pin. Only the first vCPU of a PC has one.
    pub fn connect_intr(&mut self, controller: Arc<dyn ExtInt>) {
        self.pins.controller = Some(controller);
    }

    /// Who hears the end-of-interrupt messages of its local APIC.
    pub fn connect_eoi(&mut self, sink: Arc<dyn EoiSink>) {
        self.pins.eoi = Some(sink);
    }
}

struct Intr(Kick);

impl LineSink for Intr {
    fn set_level(&self, level: bool) {
        if level {
            self.0.wake();
        }
    }
}

/// Kicks may come in a row, and each of them can catch the vCPU on its way in.
const TRIES: u8 = 100;

/// What a vCPU has to do with interrupt controllers outside the kernel.
#[derive(Default)]
pub(crate) struct Pins {
    controller: Option<Arc<dyn ExtInt>>,
    eoi: Option<Arc<dyn EoiSink>>,
    /// Nonzero: a vector was handed to KVM, and the guest has not been seen to run since. How many
    /// more entries are worth a try until it has.
    untaken: u8,
}

impl Pins {
    /// Before another life: nothing that KVM said of the last one counts.
    pub(crate) fn restart(&mut self, page: &RunPage) {
        page.forget_readiness();
        self.untaken = 0;
    }

    /// Injects an external interrupt that waits, or has KVM come back when it can be.
    pub(crate) fn before_entry(
        &mut self,
        fd: &VcpuFd,
        page: &RunPage,
        kick: &Kick,
    ) -> io::Result<()> {
        let Some(controller) = &self.controller else { return Ok(()) };
        let mut waits = controller.pending();
        // The acknowledge cannot be undone, so it is not begun on the way to a stop.
        if waits && page.ready_for_interrupt() && !kick.is_stopping() {
            // A request that was taken back since interrupts nobody.
            if let Some(vector) = controller.acknowledge() {
                ioctl::interrupt(fd, vector)?;
                page.forget_readiness();
                self.untaken = TRIES;
            }
            waits = controller.pending();
        }
        page.request_interrupt_window(waits);
        Ok(())
    }

    /// The guest has run: it has taken what it was given.
    pub(crate) fn has_run(&mut self) {
        self.untaken = 0;
    }

    /// Whether KVM may hold a vector that the guest has not taken, so that another entry is due.
    pub(crate) fn may_hold_vector(&mut self, page: &RunPage) -> bool {
        let more = self.untaken.checked_sub(1);
        self.untaken = more.unwrap_or(0);
        more.is_some() && page.may_hold_vector()
    }

    /// A level-triggered interrupt has ended.
    pub(crate) fn eoi(&self, vector: u8) {
        if let Some(sink) = &self.eoi {
            sink.eoi(vector);
        }
    }
}
