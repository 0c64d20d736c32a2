//! The list of justified differences.

use serde::Deserialize;

use crate::steps::{Step, number};

/// `differences.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    #[serde(default, rename = "difference")]
    entries: Vec<Entry>,
}

/// One of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) device: String,
    /// What is different, in a few words.
    pub(crate) about: String,
    /// Why ours is right, or at least not wrong.
    reason: String,
    /// Steps from power-on in which the machines must differ.
    #[serde(deserialize_with = "steps")]
    pub(crate) probe: Vec<Step>,
    /// Steps that random sequences begin with.
    #[serde(default, deserialize_with = "steps")]
    first: Vec<Step>,
    /// What the grammar leaves out, where no pattern of one step can say it.
    #[serde(default)]
    grammar: String,
    /// Steps that random sequences make before certain others.
    before: Option<Before>,
    /// Steps that random sequences leave out.
    #[serde(default)]
    never: Vec<Pattern>,
    /// Bits that need not agree.
    #[serde(default)]
    mask: Vec<Mask>,
    /// Interrupts that need not agree.
    #[serde(default)]
    irq: Vec<Irq>,
}

/// A step whose last number may have a mask: `out 0x3fb 0x40/0x40`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Pattern {
    step: Step,
    bits: u8,
}

/// Steps to make before others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    any_of: Vec<Pattern>,
    #[serde(deserialize_with = "steps")]
    make: Vec<Step>,
    times: usize,
}

/// Bits of a register.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mask {
    read: Pattern,
    bits: u8,
}

/// An interrupt, while the last write to a register was such a one; always, without that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Irq {
    number: u32,
    last: Option<Pattern>,
}

impl Table {
    pub(crate) fn read() -> Self {
        let table: Self = toml::from_str(include_str!("differences.toml")).unwrap();
        for entry in &table.entries {
            assert!(entry.reason.len() > 40, "{}: say why", entry.about);
            let Entry { first, grammar, before, never, mask, irq, .. } = entry;
            let avoids =
                !first.is_empty() || !grammar.is_empty() || before.is_some() || !never.is_empty();
            let nothing = !avoids && mask.is_empty() && irq.is_empty();
            assert!(!nothing, "{}: tolerates nothing", entry.about);
        }
        table
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn of(&self, device: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.device == device)
    }

    /// The steps that make the machines alike.
    pub(crate) fn first(&self, device: &str) -> Vec<Step> {
        self.of(device).flat_map(|entry| &entry.first).copied().collect()
    }

    /// The steps to make before one.
    pub(crate) fn before(&self, device: &str, step: Step) -> Vec<Step> {
        let all = self.of(device).filter_map(|entry| entry.before.as_ref());
        all.filter(|before| before.any_of.iter().any(|pattern| pattern.matches(step)))
            .flat_map(|before| before.make.repeat(before.times))
            .collect()
    }

    /// Whether a step is left out.
    pub(crate) fn never(&self, device: &str, step: Step) -> bool {
        self.of(device).flat_map(|entry| &entry.never).any(|pattern| pattern.matches(step))
    }

    /// The bits of a read's result that need not agree.
    pub(crate) fn mask(&self, device: &str, step: Step) -> u8 {
        let masks = self.of(device).flat_map(|entry| &entry.mask);
        masks.filter(|mask| mask.read.matches(step)).fold(0, |bits, mask| bits | mask.bits)
    }

    /// Whether an interrupt need not agree, given the last writes.
    pub(crate) fn any_irq(&self, device: &str, number: u32, last: &[Step]) -> bool {
        let mut irqs = self.of(device).flat_map(|entry| &entry.irq);
        irqs.any(|irq| {
            let holds = |pattern: &Pattern| last.iter().any(|step| pattern.matches(*step));
            irq.number == number && irq.last.as_ref().is_none_or(holds)
        })
    }
}

impl Pattern {
    fn matches(&self, step: Step) -> bool {
        match (self.step, step) {
            (Step::Out(a, v), Step::Out(b, w)) => a == b && (v ^ w) & self.bits == 0,
            (Step::CmosOut(a, v), Step::CmosOut(b, w)) => a == b && (v ^ w) & self.bits == 0,
            (a, b) => a == b,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (step, bits) = text.split_once('/').unwrap_or((&text, "0xff"));
        let bits = u8::try_from(number(bits)?).map_err(|error| error.to_string())?;
        Ok(Self { step: step.parse()?, bits })
    }
}

fn steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
