//! A vCPU: its descriptor, its `kvm_run` page, and the loop around `KVM_RUN` that makes the guest's
//! accesses in the registry.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::VcpuFd;
use trapline::{Handle, Mode, Registry};
use trapline_device::{Direction, Size, Space};

use crate::CountedClock;
use crate::again::Again;
use crate::arch::{Pins, PowerOn, Start};
use crate::cause::{TRIPLE_FAULT, entry_failure, internal_error, system_event, undecoded};
use crate::counted::SinceStart;
use crate::crash::hex;
use crate::debug::{DebugStop, Traps};
use crate::exit::{Exit, Io, PIO_BYTES_MAX, RunPage};
use crate::kick::Kick;
use crate::run::Stop;
use crate::stats::{ExitCounters, ExitKind};
use crate::vm::Vm;
use crate::{CrashReport, Error, arch, kick};

/// One vCPU and its way into the registry. It runs in a [`crate::VcpuSet`], which hands it back
/// when it has stopped; then it can be started again.
pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
    page: RunPage,
    kick: Kick,
    pub(crate) handle: Handle,
    power_on: PowerOn,
    /// Its side of interrupt controllers outside the kernel: what is injected, whose ends are told.
    pub(crate) pins: Pins,
    counters: Arc<ExitCounters>,
    again: Again,
    /// Whether it has run before.
    has_run: bool,
    /// The elements of a string access on their way between device and guest.
    elements: Box<[u8; PIO_BYTES_MAX]>,
    /// What it stops at for who debugs it.
    pub(crate) traps: Traps,
    /// An access that waited for somebody outside when the vCPU was stopped, to be made first.
    pub(crate) unfinished: Option<Exit>,
    /// Last: the VM keeps the guest's memory mapped as long as a vCPU might run.
    vm: Arc<Vm>,
}

impl Vcpu {
    /// Makes vCPU `index` (below [`crate::VmOptions::vcpus`], also its APIC id), whose accesses go
    /// to `registry`. [`Vcpu::set_start`] says what it does when it runs.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn new(vm: &Arc<Vm>, index: u32, registry: &Registry) -> Result<Self, Error> {
        kick::prepare()?;
        // Whoever has a better clock has started it before.
        let clock = CountedClock::new(Arc::new(SinceStart(Instant::now())));
        registry.start_recorder(Arc::new(clock), Mode::Flight);
        let mut handle = registry.handle(index);
        let fd = vm.fd().create_vcpu(index.into()).map_err(Error::ioctl("create a vCPU"))?;
        vm.map_ring(&fd)?;
        let page = RunPage::new(&fd, vm.fd().run_size())
            .map_err(|reason| Error::Ioctl { what: "map a vCPU's kvm_run", reason })?;
        vm.cpu_model().give_to(&fd, vm, index)?;
        let power_on = PowerOn::of(&fd, vm, index)?;
        let kick = Kick::new(page.immediate_exit());
        vm.add_vcpu(&kick);
        handle.set_waiter(Arc::new(kick.clone()));
        Ok(Self {
            index,
            kick,
            fd,
            page,
            handle,
            power_on,
            pins: Pins::default(),
            counters: Arc::default(),
            again: Again::default(),
            has_run: false,
            elements: Box::new([0; PIO_BYTES_MAX]),
            traps: Traps::default(),
            unfinished: None,
            vm: Arc::clone(vm),
        })
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its affinity, as the guest reads it from MPIDR_EL1.
    ///
    /// # Errors
    /// KVM's refusal.
    #[cfg(target_arch = "aarch64")]
    pub fn mpidr(&self) -> Result<u64, Error> {
        arch::mpidr(&self.fd)
    }

    /// Puts it in its power-on state, and then where `start` says.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn set_start(&mut self, start: &Start) -> Result<(), Error> {
        self.unfinished = None;
        self.handle.forget_interrupted();
        self.complete();
        self.handle.forget_recent();
        self.power_on.restore(&self.fd, &self.vm)?;
        self.pins.restart(&self.page);
        start.apply(&self.fd)
    }

    /// Tells the guest, if it uses kvmclock, that the vCPU was paused on purpose, so that the guest
    /// takes the time that has passed for no lockup. To be called on a stopped vCPU before it goes
    /// on.
    pub fn tell_of_pause(&self) {
        arch::tell_of_pause(&self.fd);
    }

    /// Its counters, readable while it runs.
    pub fn counters(&self) -> Arc<ExitCounters> {
        Arc::clone(&self.counters)
    }

    /// Gives a stopped vCPU a non-maskable interrupt, which it takes when it goes on. Whether it has
    /// been started; one that has not takes none.
    ///
    /// # Errors
    /// Its architecture has none, or KVM refuses.
    pub fn nmi(&self) -> Result<bool, Error> {
        arch::nmi(&self.fd)
    }

    /// KVM's registers of a stopped vCPU, ready to print.
    pub fn registers(&self) -> String {
        arch::describe_registers(&self.fd)
    }

    pub(crate) fn kick(&self) -> &Kick {
        &self.kick
    }

    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Runs the guest until something ends it, on the calling thread.
    pub(crate) fn run(&mut self) -> Stop {
        arch::prepare_thread(self.vm.options());
        if self.traps.held {
            return self.stand_still();
        }
        self.has_run = true;
        if let Some(exit) = self.unfinished.take()
            && let Some(stop) = self.access(exit)
        {
            return stop;
        }
        loop {
            let stop = match self.enter() {
                Ok(exit) => self.handle_exit(exit),
                Err(error) => Some(self.crash(format!("KVM could not run it: {error}"))),
            };
            if let Some(stop) = stop {
                return stop;
            }
        }
    }

    fn enter(&mut self) -> io::Result<Exit> {
        if let Some(defect) = self.vm.defect() {
            return Err(io::Error::other(defect));
        }
        self.pins.before_entry(&self.fd, &self.page, &self.kick)?;
        let exit = self.page.run(&self.fd)?;
        match exit {
            Exit::Interrupted => {}
            Exit::Again if self.again.is_too_often(Instant::now()) => {
                return Err(io::Error::other(
                    "it was asked again and again, and wants to be asked again (EAGAIN)",
                ));
            }
            Exit::Again => {}
            _ => self.pins.has_run(),
        }
        Ok(exit)
    }

    /// Has KVM complete the port or memory access of the last exit, by `KVM_RUN` with
    /// `immediate_exit`, which runs nothing of the guest. Registers can not be set before
    /// (`Documentation/virt/kvm/api.rst`, `KVM_RUN`). A vCPU that was stopped has no such access left,
    /// as `EINTR` means that KVM has completed it; one whose device panicked in it has.
    fn complete(&self) {
        // Before its first run it has no access; and on arm64 the first run makes the VM final, to
        // which something may still be added.
        if !self.has_run {
            return;
        }
        // To complete one access of a string instruction can take it to the next one's exit. The
        // limit is for a KVM that never ends.
        const ROUNDS_MAX: u32 = 64;
        self.kick.come_back_at_once();
        for _ in 0..ROUNDS_MAX {
            if !matches!(self.page.run(&self.fd), Ok(Exit::Io(_) | Exit::Mmio { .. })) {
                break;
            }
        }
        self.kick.forget();
    }

    fn handle_exit(&mut self, exit: Exit) -> Option<Stop> {
        // The registry delivers coalesced writes before each access. Before any other exit, like a
        // halt, they are delivered here.
        if !matches!(exit, Exit::Io(_) | Exit::Mmio { .. }) {
            self.handle.drain();
        }
        self.counters.count(kind_of(&exit));
        match exit {
            Exit::Io(_) | Exit::Mmio { .. } => self.access(exit),
            Exit::Interrupted | Exit::Again => self.interrupted(),
            // `KVM_EXIT_IRQ_WINDOW_OPEN`: before the next entry the interrupt that waits is injected.
            Exit::InterruptWindow => None,
            Exit::Eoi { vector } => {
                self.pins.eoi(vector);
                None
            }
            Exit::Halt => Some(Stop::Halted),
            Exit::Debug(exit) => self.debugged(&exit),
            Exit::Shutdown => Some(Stop::TripleFault(self.report(TRIPLE_FAULT.to_owned()))),
            Exit::FailEntry { reason, cpu } => Some(self.crash(entry_failure(reason, cpu))),
            Exit::InternalError { suberror, data } => {
                let stop = self.at_breakpoint();
                stop.or_else(|| Some(self.crash(internal_error(suberror, &data))))
            }
            Exit::SystemEvent { kind, data } => self.system_event(kind, &data),
            Exit::Undecoded { addr } => Some(self.crash(undecoded(addr))),
            Exit::Unexpected(reason) => {
                Some(self.crash(format!(
                    "KVM came back for exit reason {reason}, which nobody asked for"
                )))
            }
        }
    }

    fn system_event(&self, kind: u32, data: &[u64]) -> Option<Stop> {
        match arch::system_event(&self.fd, &self.vm, kind) {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(self.crash(error.to_string())),
            None => Some(system_event(kind, data).unwrap_or_else(|cause| self.crash(cause))),
        }
    }

    fn interrupted(&mut self) -> Option<Stop> {
        let stop = self.kick.acknowledge();
        if self.kick.take_brake() {
            let step = self.traps.step;
            return Some(if step { Stop::Debug(DebugStop::Step) } else { Stop::Braked });
        }
        // A vector that `KVM_INTERRUPT` has queued and the guest has not taken can not be withdrawn,
        // and would interrupt the guest right after a reset. So the vCPU is entered again, to take
        // it, and stops when it is kicked the next time.
        (stop && !self.pins.may_hold_vector(&self.page)).then_some(Stop::Requested)
    }

    /// Makes the access of an exit in the registry. One that is interrupted, as the vCPU is to stop
    /// while somebody outside is to answer, goes on when it runs again: KVM has not completed it.
    fn access(&mut self, exit: Exit) -> Option<Stop> {
        match &exit {
            Exit::Io(io) => self.io(io),
            Exit::Mmio { addr, direction, len } => self.mmio(*addr, *direction, *len),
            _ => return None,
        }
        if self.handle.take_interrupted() {
            self.unfinished = Some(exit);
            self.kick.acknowledge();
            return Some(Stop::Requested);
        }
        self.handle.forget_interrupted();
        // A KVM that emulates the instruction may not stop behind it.
        if self.traps.step {
            self.kick.pull_brake();
        }
        if self.handle.take_told_nothing() && matches!(exit, Exit::Mmio { .. }) {
            return self.keep_registers();
        }
        None
    }

    /// Has KVM complete a read of memory that nobody was to answer, and leaves the guest's registers
    /// as they were: the instruction is over, and that is all.
    fn keep_registers(&mut self) -> Option<Stop> {
        let before = match arch::GeneralRegisters::of(&self.fd) {
            Ok(registers) => registers,
            Err(error) => {
                return Some(self.crash(format!("KVM does not tell its registers: {error}")));
            }
        };
        self.kick.come_back_at_once();
        match self.page.run(&self.fd) {
            Ok(Exit::Interrupted) => {
                if let Err(error) = before.keep(&self.fd) {
                    return Some(self.crash(format!("KVM does not take its registers: {error}")));
                }
                self.interrupted()
            }
            // Another part of the same instruction.
            Ok(exit) => self.interrupted().or_else(|| self.handle_exit(exit)),
            Err(error) => Some(self.crash(format!("KVM could not run it: {error}"))),
        }
    }

    fn io(&mut self, io: &Io) {
        if io.count == 1 { self.port(io) } else { self.port_string(io) }
    }

    /// Makes a port access of one element.
    fn port(&mut self, io: &Io) {
        let port = io.port.into();
        match io.direction {
            Direction::Write => {
                let value = self.page.io_value(io);
                self.handle.write_value(Space::Pio, port, io.size, value);
            }
            Direction::Read => {
                let value = self.handle.read_value(Space::Pio, port, io.size);
                self.page.set_io_value(io, value);
            }
        }
    }

    /// Makes a port access of a string instruction.
    fn port_string(&mut self, io: &Io) {
        let Some(data) = self.elements.get_mut(..io.data.len()) else { return };
        match io.direction {
            Direction::Write => {
                self.page.io_data(io, data);
                self.handle.write_rep(io.port, io.size, data);
            }
            Direction::Read => {
                self.handle.read_rep(io.port, io.size, data);
                self.page.set_io_data(io, data);
            }
        }
    }

    fn mmio(&mut self, addr: u64, direction: Direction, len: usize) {
        match (direction, Size::new(len)) {
            (Direction::Write, Some(size)) => {
                let value = u64::from_le_bytes(self.page.mmio_data()) & size.ones();
                self.handle.write_value(Space::Mmio, addr, size, value);
            }
            (Direction::Read, Some(size)) => {
                let value = self.handle.read_value(Space::Mmio, addr, size);
                self.page.set_mmio_data(value.to_le_bytes());
            }
            (_, None) => self.odd_mmio(addr, direction, len),
        }
    }

    /// Makes a memory access of 3, 5, 6 or 7 bytes.
    fn odd_mmio(&mut self, addr: u64, direction: Direction, len: usize) {
        let mut bytes = self.page.mmio_data();
        let Some(data) = bytes.get_mut(..len) else { return };
        match direction {
            Direction::Write => self.handle.write(Space::Mmio, addr, data),
            Direction::Read => self.handle.read(Space::Mmio, addr, data),
        }
        if direction == Direction::Read {
            self.page.set_mmio_data(bytes);
        }
    }

    /// Everything that is known about the vCPU now, and that it is over.
    pub(crate) fn crash(&self, cause: String) -> Stop {
        Stop::Crash(self.report(cause))
    }

    /// Everything that is known about the vCPU now.
    fn report(&self, cause: String) -> Box<CrashReport> {
        Box::new(CrashReport {
            vcpu: self.index,
            cause,
            registers: self.registers(),
            code: self.code(),
            accesses: self.recent(),
        })
    }

    /// The bytes at the instruction pointer.
    fn code(&self) -> Option<String> {
        let addr = arch::code_address(&self.fd)?;
        let mut bytes = [0; 16];
        self.vm.slots().peek(addr, &mut bytes).then(|| hex(&bytes))
    }
}

fn kind_of(exit: &Exit) -> ExitKind {
    match exit {
        Exit::Io(io) if io.count > 1 => ExitKind::PortString,
        Exit::Io(Io { direction: Direction::Read, .. }) => ExitKind::PortRead,
        Exit::Io(Io { direction: Direction::Write, .. }) => ExitKind::PortWrite,
        Exit::Mmio { direction: Direction::Read, .. } => ExitKind::MmioRead,
        Exit::Mmio { direction: Direction::Write, .. } => ExitKind::MmioWrite,
        Exit::Halt => ExitKind::Halt,
        Exit::Interrupted | Exit::Again => ExitKind::Interrupted,
        Exit::InterruptWindow => ExitKind::InterruptWindow,
        Exit::Eoi { .. } => ExitKind::Eoi,
        Exit::Debug(_) => ExitKind::Debug,
        Exit::Shutdown => ExitKind::Shutdown,
        Exit::FailEntry { .. } => ExitKind::EntryFailed,
        Exit::InternalError { .. } => ExitKind::InternalError,
        Exit::SystemEvent { .. } => ExitKind::SystemEvent,
        Exit::Undecoded { .. } | Exit::Unexpected(_) => ExitKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::DebugExit;

    #[test]
    fn every_exit_is_counted_as_what_it_is() {
        let io = |direction, count| {
            Exit::Io(Io { port: 0, direction, size: Size::Byte, count, data: 4096..4097 })
        };
        let mmio = |direction| Exit::Mmio { addr: 0, direction, len: 1 };
        for (exit, kind) in [
            (io(Direction::Read, 1), ExitKind::PortRead),
            (io(Direction::Write, 1), ExitKind::PortWrite),
            (io(Direction::Read, 2), ExitKind::PortString),
            (io(Direction::Write, 2), ExitKind::PortString),
            (mmio(Direction::Read), ExitKind::MmioRead),
            (mmio(Direction::Write), ExitKind::MmioWrite),
            (Exit::Halt, ExitKind::Halt),
            (Exit::Interrupted, ExitKind::Interrupted),
            (Exit::Again, ExitKind::Interrupted),
            (Exit::InterruptWindow, ExitKind::InterruptWindow),
            (Exit::Eoi { vector: 1 }, ExitKind::Eoi),
            (Exit::Debug(DebugExit::default()), ExitKind::Debug),
            (Exit::Shutdown, ExitKind::Shutdown),
            (Exit::FailEntry { reason: 0, cpu: 0 }, ExitKind::EntryFailed),
            (Exit::InternalError { suberror: 1, data: Vec::new() }, ExitKind::InternalError),
            (Exit::SystemEvent { kind: 1, data: Vec::new() }, ExitKind::SystemEvent),
            (Exit::Undecoded { addr: 0 }, ExitKind::Other),
            (Exit::Unexpected(99), ExitKind::Other),
        ] {
            assert_eq!(kind_of(&exit), kind, "{exit:?}");
        }
    }
}
