//! Interrupts that have been raised and not served, and where they wait.

use std::fmt;

/// An interrupt that waits. `Display` is a sentence without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// What it is called: `IRQ 4 (serial0, serial2)`, `vector 0xec of vCPU 1`.
    pub name: String,
    /// How far it has come.
    pub stage: Stage,
    /// The vector, or arm64's INTID, if it has one yet.
    pub vector: Option<u32>,
}

/// How far an interrupt has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A device raises it, and it is masked in all of these places.
    Masked(Vec<String>),
    /// It waits there for a vCPU to take it, which does not for this reason, if that is known.
    Raised {
        /// Where it waits.
        at: String,
        /// Why it is not taken.
        why: Option<String>,
    },
    /// A vCPU has taken it, and there it has not been ended (EOI).
    InService(String),
    /// A device raises it, but there it is edge triggered, and its edge has been taken: nothing more
    /// comes until the device lets go of its line and raises it again.
    Lost(String),
}

impl Stage {
    /// What programs call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Masked(_) => "masked",
            Self::Raised { .. } => "raised",
            Self::InService(_) => "in-service",
            Self::Lost(_) => "lost",
        }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, stage, .. } = self;
        match stage {
            Stage::Masked(at) => write!(f, "{name} is raised, and masked in {}", at.join(" and ")),
            Stage::Raised { at, why: Some(why) } => {
                write!(f, "{name} is raised and waits in {at}: {why}")
            }
            Stage::Raised { at, why: None } => write!(f, "{name} is raised and waits in {at}"),
            Stage::InService(at) => {
                write!(f, "{name} was taken and has not been ended: no EOI has come to {at}")
            }
            Stage::Lost(at) => write!(
                f,
                "{name} is raised, but {at} takes its edges only, and has taken this one; no other \
                 comes until the device has let go of its line"
            ),
        }
    }
}
