//! Both machines in step, and what to say when they are not.

use std::collections::BTreeSet;

use crate::client::{Change, Client};
use crate::differences::Table;
use crate::machines::{Qemu, ours};
use crate::steps::Step;

/// How many steps a report shows.
const SHOWN: usize = 40;

/// Counts that may lie between the two timers: three pulses, by two in mode 3.
const COUNTS: u64 = 6;

pub(crate) struct Pair<'a> {
    table: &'a Table,
    device: &'a str,
    ours: Client,
    theirs: Client,
    qemu: Qemu,
    /// Where the inputs of the 8259s are: ours behind the I/O APIC's, QEMU's at both chips.
    inputs: [[String; 2]; 2],
    now_ns: u64,
    /// The last write to each port.
    last: Vec<Step>,
    /// The lines that are high: ours, QEMU's.
    high: [BTreeSet<u32>; 2],
    history: Vec<String>,
}

/// What a step did.
#[derive(PartialEq, Eq)]
struct Effect {
    value: Option<u64>,
    changes: Vec<Change>,
}

impl<'a> Pair<'a> {
    pub(crate) fn start(table: &'a Table, device: &'a str) -> Self {
        let (mut qemu, mut theirs) = Qemu::start();
        let inputs = [["ioapic 0", "ioapic 8"].map(str::to_owned), qemu.chips()];
        let mut ours = ours();
        for client in [&mut ours, &mut theirs] {
            client.ask("irq_intercept_in ioapic");
        }
        Self {
            table,
            device,
            ours,
            theirs,
            qemu,
            inputs,
            now_ns: 0,
            last: Vec::new(),
            high: Default::default(),
            history: Vec::new(),
        }
    }

    /// Makes the steps that make the machines alike.
    pub(crate) fn begin(&mut self) -> Result<(), String> {
        self.table.first(self.device).into_iter().try_for_each(|step| self.step(step))
    }

    /// Makes a step, and whatever has to come before it.
    pub(crate) fn step(&mut self, step: Step) -> Result<(), String> {
        for step in self.table.before(self.device, step) {
            self.step(step)?;
        }
        let (mut ours, mut theirs) = self.perform(step);
        let note = format!("{step}: ours {ours}, QEMU {theirs}");
        self.history.push(note);
        // QEMU's time is known to a third of a pulse, and both count from another one's beginning.
        if let (Step::PitCount(_), Some(a), Some(b)) = (step, ours.value, theirs.value)
            && a.abs_diff(b) <= COUNTS
        {
            ours.value = theirs.value;
        }
        // The same goes for an output that is about to change or has just done so.
        if let (Step::PitOut(_), Some(a), Some(b)) = (step, ours.value, theirs.value)
            && outputs_agree(a, b)
        {
            ours.value = theirs.value;
        }
        let care = !u64::from(self.table.mask(self.device, step));
        for effect in [&mut ours, &mut theirs] {
            effect.value = effect.value.map(|value| value & care);
        }
        if ours.value == theirs.value && self.interrupts_agree(step, &ours, &theirs) {
            return Ok(());
        }
        let shown = self.history.len().saturating_sub(SHOWN);
        Err(self.history[shown..].join("\n"))
    }

    /// A line that must agree before and after a step must do the same in it; one that must agree
    /// only now must have the same level.
    fn interrupts_agree(&mut self, step: Step, ours: &Effect, theirs: &Effect) -> bool {
        let before = self.last.clone();
        if let Step::Out(port, _) = step {
            self.last.retain(|step| !matches!(step, Step::Out(other, _) if *other == port));
            self.last.push(step);
        }
        for (high, effect) in self.high.iter_mut().zip([ours, theirs]) {
            for (number, level) in &effect.changes {
                if *level {
                    high.insert(*number)
                } else {
                    high.remove(number)
                };
            }
        }
        let [a, b] = &self.high;
        let any = |number: u32, last: &[Step]| self.table.any_irq(self.device, number, last);
        let levels = a.symmetric_difference(b).all(|number| any(*number, &self.last));
        let of = |effect: &Effect| -> Vec<Change> {
            let must = |number| !any(number, &before) && !any(number, &self.last);
            effect.changes.iter().copied().filter(|(number, _)| must(*number)).collect()
        };
        levels && of(ours) == of(theirs)
    }

    /// Whether these steps have different effects.
    pub(crate) fn differs(&mut self, steps: &[Step]) -> bool {
        let mut differ = false;
        for step in steps {
            let (ours, theirs) = self.perform(*step);
            differ |= ours != theirs;
        }
        differ
    }

    fn perform(&mut self, step: Step) -> (Effect, Effect) {
        if let Step::Wait(us) = step {
            let time = Step::duration(us);
            self.now_ns = self.qemu.wait(&mut self.theirs, time, self.now_ns);
            self.ours.ask(&format!("clock_set {}", self.now_ns));
        }
        let [ours, theirs] = &self.inputs;
        (Effect::of(&mut self.ours, ours, step), Effect::of(&mut self.theirs, theirs, step))
    }
}

/// Whether two outputs and counts (the output is bit 16) are the same to within the time between
/// the timers.
fn outputs_agree(a: u64, b: u64) -> bool {
    let about_to_change = |value: u64| !(COUNTS..=0xffff - COUNTS).contains(&(value & 0xffff));
    a.abs_diff(b) <= COUNTS || about_to_change(a) || about_to_change(b)
}

impl Effect {
    fn of(client: &mut Client, inputs: &[String; 2], step: Step) -> Self {
        let value = match step {
            Step::In(port) => Some(client.number(&format!("inb {port:#x}"))),
            Step::Out(port, value) => {
                client.ask(&format!("outb {port:#x} {value:#x}"));
                None
            }
            Step::CmosIn(index) => {
                client.ask(&format!("outb 0x70 {index:#x}"));
                Some(client.number("inb 0x71"))
            }
            Step::CmosOut(index, value) => {
                client.ask(&format!("outb 0x70 {index:#x}"));
                client.ask(&format!("outb 0x71 {value:#x}"));
                None
            }
            Step::PitCount(channel) => {
                client.ask(&format!("outb 0x43 {:#x}", channel << 6));
                let mut byte = || client.number(&format!("inb {:#x}", 0x40 + channel));
                Some(byte() | byte() << 8)
            }
            Step::PitOut(channel) => {
                client.ask(&format!("outb 0x43 {:#x}", 0xc0 | 2 << channel));
                let mut byte = || client.number(&format!("inb {:#x}", 0x40 + channel));
                let (status, count) = (byte(), byte() | byte() << 8);
                Some((status & 0x80) << 9 | count)
            }
            Step::Poll => {
                let mut poll = |port| {
                    client.ask(&format!("outb {port:#x} 0x0c"));
                    client.number(&format!("inb {port:#x}"))
                };
                const CASCADE: u64 = 0x82;
                let primary = poll(0x20);
                let secondary = if primary == CASCADE { poll(0xa0) } else { 0 };
                Some(secondary << 8 | primary)
            }
            Step::Line(irq, level) => {
                let input = &inputs[usize::from(irq / 8)];
                let (device, first) = input.split_once(' ').unwrap();
                let number = first.parse::<u8>().unwrap() + irq % 8;
                client.ask(&format!(
                    "set_irq_in {device} unnamed-gpio-in {number} {}",
                    u8::from(level)
                ));
                None
            }
            Step::Wait(_) => None,
        };
        // Interrupt 0 is the timer's, which is not the same chip's in both machines; and of a line
        // that the client drives, only we tell.
        let mut changes = client.changes();
        let driven = |number| matches!(step, Step::Line(irq, _) if u32::from(irq) == number);
        changes.retain(|(number, _)| *number != 0 && !driven(*number));
        Self { value, changes }
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value {
            Some(value) => write!(f, "{value:#04x}")?,
            None => write!(f, "ok")?,
        }
        for (number, level) in &self.changes {
            write!(f, " {}{number}", if *level { '+' } else { '-' })?;
        }
        Ok(())
    }
}
