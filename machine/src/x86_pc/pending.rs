//! Which interrupts of a PC have been raised and not served, and where each waits: at the 8259s, at the
//! I/O APIC, at a local APIC or at the processor, whoever emulates the chips.

use trapline_device::PcInput;
use trapline_intc::ioapic::{self, regs::Redirection};
use trapline_intc::pic::regs::Icw4;
use trapline_intc::pic::{self, Phase};
use trapline_kvm::{KernelChips, KernelPic, LocalApic, Vcpu};

use super::layout;
use crate::Error;
use crate::why::{Interrupt, Stage};

/// All interrupt controllers of a PC, whoever emulates them.
#[derive(Clone, Debug, Default)]
pub(super) struct Chips {
    /// The two 8259As.
    pub(super) pics: pic::State,
    /// The I/O APIC.
    pub(super) ioapic: ioapic::State,
}

impl Chips {
    /// Those in the kernel.
    pub(super) fn of_kernel(chips: &KernelChips) -> Self {
        let [primary, secondary] = chips.pics.map(kernel_pic);
        let mut ioapic = ioapic::State { lines: chips.ioapic.requests, ..Default::default() };
        for (entry, bits) in ioapic.entries.iter_mut().zip(&chips.ioapic.entries) {
            *entry = Redirection::from_bits(*bits);
        }
        Self { pics: pic::State { primary, secondary }, ioapic }
    }

    /// An entry of the redirection table.
    fn entry(&self, pin: u8) -> Option<Redirection> {
        self.ioapic.entries.get(usize::from(pin)).copied()
    }
}

fn kernel_pic(chip: KernelPic) -> pic::Chip {
    pic::Chip {
        lines: chip.lines,
        latched: chip.requests,
        imr: chip.masked,
        isr: chip.in_service,
        lowest: chip.highest.wrapping_sub(1) & 7,
        // Vector 0 is for no interrupt.
        phase: if chip.base == 0 { Phase::Off } else { Phase::Ready },
        icw2: chip.base,
        // KVM's gives vectors only.
        icw4: Icw4::new().with_upm(true),
        special_mask: chip.special_mask,
        elcr: chip.level,
        ..pic::Chip::default()
    }
}

/// A processor's side.
#[derive(Clone, Debug, Default)]
pub(super) struct Cpu {
    index: u32,
    apic: LocalApic,
    takes_interrupts: bool,
}

impl Cpu {
    /// That of a stopped vCPU.
    pub(super) fn of(vcpu: &Vcpu) -> Result<Self, Error> {
        let (apic, takes_interrupts) = (vcpu.local_apic()?, vcpu.takes_interrupts()?);
        Ok(Self { index: vcpu.index(), apic, takes_interrupts })
    }

    /// Why it does not take `vector`, if there is a reason that lasts.
    fn refuses(&self, vector: u8) -> Option<String> {
        let Self { index, apic, takes_interrupts } = self;
        let class = |of: u8| of >> 4;
        if !takes_interrupts {
            return Some(format!("vCPU {index} has interrupts off"));
        }
        if !apic.enabled {
            return Some(format!("the local APIC of vCPU {index} is switched off"));
        }
        if class(vector) > class(apic.priority) {
            return None;
        }
        Some(match apic.in_service.last() {
            Some(served) if class(*served) >= class(vector) => {
                format!("vCPU {index} has not ended vector {served:#x}, which comes before it")
            }
            _ => format!("the task priority of vCPU {index} is above it"),
        })
    }
}

/// The 8259's input that reaches the primary chip's from the secondary one.
const CASCADE_BIT: u8 = 1 << pic::regs::CASCADE;

/// All interrupts that wait.
pub(super) fn waiting(chips: &Chips, cpus: &[Cpu]) -> Vec<Interrupt> {
    let lines = 0..u32::from(layout::LINES);
    let mut all: Vec<_> = lines.filter_map(|line| Inputs::of(line).waiting(chips, cpus)).collect();
    for cpu in cpus {
        all.extend(vectors(chips, cpu));
    }
    all
}

/// The vectors that wait in a local APIC, and those that it has not seen the end of, but for those of the
/// I/O APIC's level-triggered inputs, which are known by their lines.
fn vectors(chips: &Chips, cpu: &Cpu) -> Vec<Interrupt> {
    let told = |vector: &u8| {
        chips.ioapic.entries.iter().any(|entry| entry.remote_irr() && entry.vector() == *vector)
    };
    let at = format!("the local APIC of vCPU {}", cpu.index);
    let served = cpu.apic.in_service.iter().map(|vector| (vector, Stage::InService(at.clone())));
    let waits = cpu.apic.requested.iter().filter_map(|vector| {
        let why = Some(cpu.refuses(*vector)?);
        Some((vector, Stage::Raised { at: at.clone(), why }))
    });
    let all = served.chain(waits).filter(|(vector, _)| !told(vector));
    let named = |(vector, stage): (&u8, Stage)| {
        let line = Inputs::all().find(|inputs| {
            let entry = inputs.ioapic.and_then(|pin| chips.entry(pin));
            entry.is_some_and(|entry| !entry.mask() && entry.vector() == *vector)
        });
        let name = match line {
            Some(inputs) => inputs.name(),
            None => format!("vector {vector:#x} of vCPU {}", cpu.index),
        };
        Interrupt { name, stage, vector: Some((*vector).into()) }
    };
    all.map(named).collect()
}

/// What a line is wired to.
struct Inputs {
    line: u32,
    pic: Option<u8>,
    ioapic: Option<u8>,
}

impl Inputs {
    fn of(line: u32) -> Self {
        let (mut pic, mut ioapic) = (None, None);
        for (_, input) in layout::wiring().into_iter().filter(|(of, _)| *of == line) {
            match input {
                PcInput::Pic(pin) => pic = Some(pin),
                PcInput::IoApic(pin) => ioapic = Some(pin),
            }
        }
        Self { line, pic, ioapic }
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..u32::from(layout::LINES)).map(Self::of)
    }

    fn name(&self) -> String {
        match layout::devices_of(self.line) {
            "" => format!("IRQ {}", self.line),
            devices => format!("IRQ {} ({devices})", self.line),
        }
    }

    /// Where it waits, if it does.
    fn waiting(&self, chips: &Chips, cpus: &[Cpu]) -> Option<Interrupt> {
        let pic = self.pic.map(|pin| AtPic::of(chips, cpus, pin));
        let entry = |pin: u8| Some((pin, chips.entry(pin)?));
        let ioapic = self.ioapic.and_then(entry);
        let (stage, vector) = served(pic.as_ref(), ioapic, cpus)
            .or_else(|| raised(pic.as_ref(), cpus))
            .or_else(|| self.stuck(chips, pic.as_ref(), ioapic))?;
        Some(Interrupt { name: self.name(), stage, vector: vector.map(u32::from) })
    }

    /// A line that is high and comes no further.
    fn stuck(
        &self,
        chips: &Chips,
        pic: Option<&AtPic>,
        ioapic: Option<(u8, Redirection)>,
    ) -> Option<(Stage, Option<u8>)> {
        let pin = ioapic.is_some_and(|(pin, _)| chips.ioapic.lines >> pin & 1 == 1);
        let raised = pin || pic.is_some_and(|pic| pic.high);
        // The timer's output is a wave, and not a request that somebody takes back.
        if !raised || self.line == u32::from(layout::irq::TIMER) {
            return None;
        }
        let open_pic = pic.filter(|pic| pic.masked.is_none());
        let open_entry = ioapic.filter(|(_, entry)| !entry.mask());
        if open_pic.is_none() && open_entry.is_none() {
            let at_pic = pic.and_then(|pic| pic.masked.clone());
            let at_entry = ioapic.map(|(pin, _)| format!("the I/O APIC (redirection entry {pin})"));
            return Some((Stage::Masked(at_pic.into_iter().chain(at_entry).collect()), None));
        }
        if let Some((_, entry)) = open_entry {
            let lost = !entry.level();
            return lost.then(|| (Stage::Lost("the I/O APIC".to_owned()), Some(entry.vector())));
        }
        let lost = open_pic.filter(|pic| !pic.requested)?;
        Some((Stage::Lost(format!("the {} 8259A", lost.chip)), Some(lost.vector)))
    }
}

/// An interrupt that a processor has taken, by what has not heard of its end.
fn served(
    pic: Option<&AtPic>,
    ioapic: Option<(u8, Redirection)>,
    cpus: &[Cpu],
) -> Option<(Stage, Option<u8>)> {
    if let Some(pic) = pic.filter(|pic| pic.in_service) {
        let at = format!("the {} 8259A (in-service register, bit {})", pic.chip, pic.input);
        return Some((Stage::InService(at), Some(pic.vector)));
    }
    let (pin, entry) = ioapic.filter(|(_, entry)| entry.remote_irr())?;
    let vector = entry.vector();
    let waits = cpus.iter().find(|cpu| cpu.apic.requested.contains(&vector));
    let stage = match waits {
        Some(cpu) => Stage::Raised {
            at: format!("the local APIC of vCPU {}", cpu.index),
            why: cpu.refuses(vector),
        },
        None => Stage::InService(format!("the I/O APIC (remote IRR of entry {pin})")),
    };
    Some((stage, Some(vector)))
}

/// An interrupt that an 8259 asks the first processor to take.
fn raised(pic: Option<&AtPic>, cpus: &[Cpu]) -> Option<(Stage, Option<u8>)> {
    let pic = pic.filter(|pic| pic.requested && pic.masked.is_none())?;
    let off = cpus.first().filter(|cpu| !cpu.takes_interrupts);
    let why = off.map(|cpu| format!("vCPU {} has interrupts off", cpu.index));
    let served = pic.behind.map(|input| {
        format!("input {input} of the chip, which comes before it, has not been ended")
    });
    let at = format!("the {} 8259A", pic.chip);
    Some((Stage::Raised { at, why: why.or(served) }, Some(pic.vector)))
}

/// An input of an 8259.
struct AtPic {
    chip: &'static str,
    input: u8,
    high: bool,
    requested: bool,
    in_service: bool,
    vector: u8,
    /// Where it is masked, if it is.
    masked: Option<String>,
    /// An input whose interrupt is being served and has a higher priority.
    behind: Option<u8>,
}

impl AtPic {
    fn of(chips: &Chips, cpus: &[Cpu], pin: u8) -> Self {
        let pic::State { primary, secondary } = &chips.pics;
        let is_primary = pin < 8;
        let (chip, pic) = if is_primary { ("primary", primary) } else { ("secondary", secondary) };
        let (input, bit) = (pin & 7, 1 << (pin & 7));
        let ready = pic.phase == Phase::Ready;
        let passes = cpus.first().is_none_or(|cpu| cpu.apic.passes_pic || !cpu.apic.enabled);
        let masked = if !ready {
            Some(format!("the {chip} 8259A, which is not set up"))
        } else if pic.imr & bit != 0 {
            Some(format!("the {chip} 8259A (mask register, bit {input})"))
        } else if !is_primary && primary.imr & CASCADE_BIT != 0 {
            Some("the primary 8259A (mask register, the secondary's bit)".to_owned())
        } else if !passes {
            Some("the local APIC of vCPU 0 (LVT LINT0), which the 8259s are behind".to_owned())
        } else {
            None
        };
        Self {
            chip,
            input,
            high: pic.lines & bit != 0,
            requested: pic.irr() & bit != 0,
            in_service: ready && pic.isr & bit != 0,
            vector: pic.vector(input),
            masked,
            behind: pic.served_before(input),
        }
    }
}

#[cfg(test)]
mod tests {
    use trapline_kvm::KernelIoApic;

    use super::*;

    /// The serial port's line.
    const SERIAL: u8 = layout::irq::SERIAL[0];

    fn chips() -> Chips {
        let pic = |base| KernelPic { masked: 0xff, base, ..KernelPic::default() };
        let entries = vec![Redirection::RESET.into_bits(); layout::LINES.into()];
        let ioapic = KernelIoApic { requests: 0, entries };
        Chips::of_kernel(&KernelChips { pics: [pic(0x30), pic(0x38)], ioapic })
    }

    fn cpu() -> Cpu {
        let apic = LocalApic { enabled: true, passes_pic: true, ..LocalApic::default() };
        Cpu { index: 0, apic, takes_interrupts: true }
    }

    fn told(chips: &Chips, cpu: Cpu) -> Vec<String> {
        waiting(chips, &[cpu]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_waits_where_nothing_is_raised() {
        assert_eq!(told(&chips(), cpu()), [] as [String; 0]);
        let mut chips = chips();
        chips.pics.primary.lines = 1;
        chips.pics.primary.latched = 1;
        assert_eq!(told(&chips, cpu()), [] as [String; 0], "the timer's output is a wave");
        chips.pics.primary.latched = 1 << SERIAL;
        chips.ioapic.entries[usize::from(SERIAL)] = Redirection::new().with_vector(0x41);
        assert_eq!(told(&chips, cpu()), [] as [String; 0], "the 8259 remembers, which nobody uses");
    }

    #[test]
    fn a_masked_interrupt_says_where() {
        let mut chips = chips();
        (chips.pics.primary.lines, chips.pics.primary.latched) = (1 << SERIAL, 1 << SERIAL);
        let wanted = "IRQ 4 (serial0, serial2) is raised, and masked in the primary 8259A (mask \
                      register, bit 4) and the I/O APIC (redirection entry 4)";
        assert_eq!(told(&chips, cpu()), [wanted]);
        chips.pics.primary.imr = !(1 << SERIAL);
        let mut behind = cpu();
        behind.apic.passes_pic = false;
        let told = told(&chips, behind);
        assert!(told[0].contains("masked in the local APIC of vCPU 0 (LVT LINT0)"), "{told:?}");
    }

    #[test]
    fn one_of_the_second_chip_can_be_masked_at_the_first() {
        let mut chips = chips();
        let rtc = 1 << (layout::irq::RTC - 8);
        let secondary = &mut chips.pics.secondary;
        (secondary.lines, secondary.latched, secondary.imr) = (rtc, rtc, 0);
        let told_first = told(&chips, cpu());
        assert!(told_first[0].contains("the primary 8259A (mask register, the secondary's bit)"));
        chips.pics.primary.imr = !CASCADE_BIT;
        assert_eq!(told(&chips, cpu()), ["IRQ 8 (rtc) is raised and waits in the secondary 8259A"]);
    }

    #[test]
    fn one_that_is_raised_says_why_it_is_not_taken() {
        let mut chips = chips();
        chips.pics.primary.latched = 1 << SERIAL;
        chips.pics.primary.imr = 0;
        let off = Cpu { takes_interrupts: false, ..cpu() };
        let wanted = "IRQ 4 (serial0, serial2) is raised and waits in the primary 8259A: vCPU 0 has \
                      interrupts off";
        assert_eq!(told(&chips, off), [wanted]);
        chips.pics.primary.isr = 1 << 1;
        let wanted = told(&chips, cpu());
        assert!(wanted[0].starts_with("IRQ 1 (i8042) was taken and has not been ended"));
        assert!(
            wanted[1].ends_with("input 1 of the chip, which comes before it, has not been ended")
        );
        // Priorities rotated: input 2 has the highest, and input 1 the lowest.
        chips.pics.primary.lowest = 1;
        let wanted = "IRQ 4 (serial0, serial2) is raised and waits in the primary 8259A";
        assert_eq!(told(&chips, cpu())[1], wanted);
    }

    #[test]
    fn an_edge_that_was_taken_is_lost_while_the_line_stays_high() {
        let mut chips = chips();
        (chips.pics.primary.lines, chips.pics.primary.imr) = (1 << SERIAL, 0);
        assert!(told(&chips, cpu())[0].contains("the primary 8259A takes its edges only"));
        chips.pics.primary.elcr = 1 << SERIAL;
        let level = "IRQ 4 (serial0, serial2) is raised and waits in the primary 8259A";
        assert_eq!(told(&chips, cpu()), [level]);
        chips.pics.primary.imr = 0xff;
        chips.ioapic.entries[usize::from(SERIAL)] = Redirection::new().with_vector(0x41);
        assert!(told(&chips, cpu())[0].contains("the I/O APIC takes its edges only"));
    }

    #[test]
    fn a_message_waits_in_a_local_apic_or_for_its_end() {
        let mut chips = chips();
        let entry = Redirection::new().with_vector(0x41).with_level(true).with_remote_irr(true);
        chips.ioapic.entries[11] = entry;
        let told_end = told(&chips, cpu());
        assert!(told_end[0].ends_with("no EOI has come to the I/O APIC (remote IRR of entry 11)"));
        let mut busy = cpu();
        (busy.apic.requested, busy.apic.priority) = (vec![0x41], 0x51);
        busy.apic.in_service = vec![0x51];
        let told_busy = told(&chips, busy.clone());
        assert_eq!(
            told_busy,
            [
                "IRQ 11 (PCI) is raised and waits in the local APIC of vCPU 0: vCPU 0 has not ended \
                 vector 0x51, which comes before it",
                "vector 0x51 of vCPU 0 was taken and has not been ended: no EOI has come to the \
                 local APIC of vCPU 0",
            ]
        );
        busy.apic.in_service.clear();
        assert!(told(&chips, busy)[0].ends_with("the task priority of vCPU 0 is above it"));
        let mut taken = cpu();
        taken.apic.requested = vec![0x61];
        assert_eq!(
            told(&self::chips(), taken.clone()),
            [] as [String; 0],
            "it is about to be taken"
        );
        taken.apic.enabled = false;
        assert!(
            told(&self::chips(), taken)[0].contains("the local APIC of vCPU 0 is switched off")
        );
    }
}
