//! What there is to say of a vCPU that stands still.

use std::fmt::{self, Write as _};

use serde::Serialize;
use trapline::{Direction, Space};
use trapline_kvm::{Activity, Vcpu};
use trapline_symbols::{Virtual, unwind};

use super::{Cause, Hit, Standing, Stopped, cpu};
use crate::Error;
use crate::kvm::HostBoard;
use crate::why::Interrupt;

/// A vCPU that stands still: where it is, who called, its registers and its last accesses. `Display` is
/// several lines.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StopReport {
    /// The vCPU.
    pub vcpu: u32,
    /// Why it stands still, if it is for a reason of its own.
    pub cause: Option<String>,
    /// Where it is, and who called, innermost first.
    pub frames: Vec<FrameReport>,
    /// Where the kernel that it runs is, if that is known.
    pub kernel: Option<u64>,
    /// Its registers, ready to print.
    pub registers: String,
    /// Its last accesses to devices, oldest first.
    pub accesses: Vec<String>,
}

/// One place in a call chain. `Display` is a line.
#[derive(Clone, Debug, Serialize)]
pub struct FrameReport {
    /// The next instruction there.
    pub pc: u64,
    /// The guest's symbol and the distance from it.
    pub symbol: Option<String>,
    /// It is known to be a caller, and not only found on the stack.
    pub sure: bool,
}

impl fmt::Display for FrameReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.sure { "" } else { "? " };
        let symbol = self.symbol.as_deref().unwrap_or("(no symbol)");
        write!(f, "{:016x} {mark}{symbol}", self.pc)
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpu = self.vcpu;
        match &self.cause {
            Some(cause) => writeln!(f, "vCPU {vcpu} stopped {cause}")?,
            None => writeln!(f, "vCPU {vcpu} stopped with the machine")?,
        }
        for (n, frame) in self.frames.iter().enumerate() {
            writeln!(f, "  #{n:<2} {frame}")?;
        }
        write!(f, "{}", self.registers)?;
        if self.accesses.is_empty() {
            return writeln!(f, "It had not accessed any device.");
        }
        writeln!(f, "Its last accesses, oldest first:")?;
        self.accesses.iter().try_for_each(|access| writeln!(f, "  {access}"))
    }
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use trapline_kvm::DebugStop;
        match &self.cause {
            Cause::Access { access, place: Some((id, place)) } => {
                write!(f, "after {access} (break {id}: {place})")
            }
            Cause::Access { access, place: None } => write!(f, "after {access}"),
            Cause::Instruction(DebugStop::Step) => f.write_str("after an instruction"),
            Cause::Instruction(DebugStop::Software(at) | DebugStop::Hardware(at)) => {
                write!(f, "at {at:#x}")
            }
            Cause::Instruction(DebugStop::Watch(at)) => write!(f, "at an access to {at:#x}"),
        }
    }
}

impl Standing<'_> {
    /// All there is to say of what stopped the machine; of the first vCPU, if nothing did.
    pub fn tell(&self, stopped: &Stopped) -> String {
        let mut text = String::new();
        let hits = stopped.hits.iter().map(Some);
        let nothing = stopped.hits.is_empty().then_some(None);
        for hit in hits.chain(nothing) {
            // A device's own access is told with the first vCPU.
            match self.report(hit.and_then(|hit| hit.vcpu).unwrap_or(0), hit) {
                Ok(report) => text.extend(report.map(|report| report.to_string())),
                Err(error) => {
                    let cause = hit.map(|hit| format!("{hit}: ")).unwrap_or_default();
                    let _ = writeln!(text, "{cause}{error}");
                }
            }
        }
        if stopped.more > 0 {
            let _ = writeln!(text, "It came to breaks {} times more.", stopped.more);
        }
        text
    }

    /// What there is to say of vCPU `index`, which may have stopped for `hit`. `None`: there is none of
    /// that index.
    ///
    /// # Errors
    /// KVM does not tell its registers.
    pub fn report(&self, index: u32, hit: Option<&Hit>) -> Result<Option<StopReport>, Error> {
        let Some(vcpu) = self.vcpus.iter().find(|vcpu| vcpu.index() == index) else {
            return Ok(None);
        };
        let (frames, kernel) = self.frames(&cpu::of(&vcpu.processor()?));
        Ok(Some(StopReport {
            vcpu: index,
            cause: hit.map(ToString::to_string),
            frames,
            kernel,
            registers: vcpu.registers(),
            accesses: vcpu.recent(),
        }))
    }

    /// The call chain of a processor, and where its kernel is.
    pub(crate) fn frames(&self, cpu: &trapline_symbols::Cpu) -> (Vec<FrameReport>, Option<u64>) {
        let kernel = self.debug.kernel(self, cpu);
        let virt = Virtual::of(self, cpu);
        let chain = unwind::chain(&virt, cpu, kernel.as_deref());
        let frames = chain.iter().map(|frame| {
            let symbol = kernel.as_ref().and_then(|kernel| kernel.name(frame.place()));
            // The distance is that of the address that is shown.
            let symbol = symbol.map(|symbol| {
                let offset = symbol.offset + u64::from(frame.returns);
                trapline_symbols::Symbol { offset, ..symbol }.to_string()
            });
            FrameReport { pc: frame.pc, symbol, sure: frame.sure }
        });
        (frames.collect(), kernel.and_then(|kernel| kernel.base()))
    }

    /// What an access to `addr` reaches, by name.
    pub(crate) fn name_at(&self, space: Space, addr: u64, direction: Direction) -> String {
        let registry = self.debug.registry();
        let name = registry.and_then(|registry| registry.name_at(space, addr, direction));
        name.unwrap_or_else(|| "unclaimed".to_owned())
    }

    /// What a vCPU goes on with.
    pub(crate) fn activity(&self, vcpu: &Vcpu) -> Result<Activity, Error> {
        match vcpu.activity()? {
            Activity::Runs if self.is_behind_wfi(vcpu)? => Ok(Activity::Halted),
            activity => Ok(activity),
        }
    }

    /// Whether the instruction before the next one waits for an interrupt, which only arm64's KVM
    /// does not tell by itself. It has come back out of it, to stand still.
    fn is_behind_wfi(&self, vcpu: &Vcpu) -> Result<bool, Error> {
        const WFI: [u8; 4] = 0xd503_207f_u32.to_le_bytes();
        if cfg!(not(target_arch = "aarch64")) {
            return Ok(false);
        }
        let processor = vcpu.processor()?;
        let before = processor.pc().wrapping_sub(4);
        let mut instruction = [0; 4];
        let read = Virtual::of(self, &cpu::of(&processor)).read(before, &mut instruction);
        Ok(read && instruction == WFI)
    }

    /// Interrupts that wait.
    pub(crate) fn interrupts(&self) -> Result<Vec<Interrupt>, Error> {
        self.host.interrupts(self.vm, self.vcpus)
    }

    /// Where vCPU `index` has the `len` bytes at the virtual address `virt`, page by page: guest
    /// physical addresses and lengths, up to the first byte that is nowhere.
    ///
    /// # Errors
    /// KVM does not tell its registers.
    pub fn pieces(&self, index: usize, virt: u64, len: usize) -> Result<Vec<(u64, usize)>, Error> {
        let Some(vcpu) = self.vcpus.get(index) else { return Ok(Vec::new()) };
        let cpu = cpu::of(&vcpu.processor()?);
        let memory = Virtual::of(self, &cpu);
        let pieces = memory.pieces(virt, len);
        Ok(pieces.map_while(|(phys, len)| Some((phys?, len))).collect())
    }
}
