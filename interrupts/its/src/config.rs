//! What an ITS is built as: identity, and the choices the architecture leaves open.

use core::fmt;

use crate::id_registers::{Component, IdRegisters};
use crate::regs::{BASERS, Baser, KIND_COLLECTION, KIND_DEVICE, Typer};

/// What a command does that meets memory that is not RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryErrors {
    /// It is counted and skipped: a guest's mistake never hangs the guest.
    #[default]
    Skip,
    /// The queue stops at it with `CREADR.Stalled` until the driver writes `CWRITER.Retry`,
    /// rewrites `CBASER`, or enables the ITS again.
    Stall,
}

/// Which bits of what a driver writes to `CBASER` and `BASER<n>` stick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sticky {
    /// All that the architecture allows.
    #[default]
    Architecture,
    /// Those that stick in KVM: 64 KiB pages only, a flat collection table, a queue aligned to
    /// 64 KiB, inner shareable write-back memory.
    Kvm,
}

/// Identity and choices of an [`Its`](crate::Its). Constant over its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// `GITS_TYPER`.
    pub typer: Typer,
    /// `GITS_IIDR`. Bits 15:12, Revision, are the version of the table layout: 0.
    pub iidr: u32,
    /// `PIDR` and `CIDR`.
    pub ids: IdRegisters,
    /// Reset values of `GITS_BASER<n>`; Type and Entry_Size keep them for ever.
    pub basers: [Baser; BASERS],
    /// Which written bits stick.
    pub sticky: Sticky,
    /// What happens on memory errors.
    pub memory_errors: MemoryErrors,
    /// MAPTI refuses LPIs beyond `GICR_PROPBASER.IDbits`, not only beyond 16 bits.
    pub check_propbaser: bool,
    /// MAPD checks its Size also when it takes a table away. For comparisons with QEMU only.
    pub mapd_checks_size_always: bool,
    /// Commands executed in one go, at least 1; see [`Progress`](crate::Progress).
    pub budget: u32,
}

impl Config {
    /// The identity of this model: 8-byte entries, 16-bit DeviceIDs, EventIDs and INTIDs.
    pub const fn new() -> Self {
        let typer = Typer::new()
            .with_physical(true)
            .with_itt_entry_size(7)
            .with_id_bits(15)
            .with_device_bits(15);
        let mut basers = [Baser::new(); BASERS];
        let table = Baser::new().with_entry_size(7).with_page_size(2);
        basers[0] = table.with_kind(KIND_DEVICE);
        basers[1] = table.with_kind(KIND_COLLECTION);
        Self {
            typer,
            // Product 0x54, variant 0, revision (table layout) 0, implementer Arm.
            iidr: 0x5400_043b,
            ids: IdRegisters::new(Component::Its),
            basers,
            sticky: Sticky::Architecture,
            memory_errors: MemoryErrors::Skip,
            check_propbaser: true,
            mapd_checks_size_always: false,
            budget: 64,
        }
    }

    /// The identity and the sticky bits of KVM's ITS, so that state can go there and come back.
    pub const fn kvm() -> Self {
        let mut config = Self::new();
        config.typer = Typer::from_bits(0x1_ef71);
        config.iidr = 0x4b00_043b;
        config.ids.part = Some(0x92);
        config.ids.pidr4 = 0x40;
        config.sticky = Sticky::Kvm;
        config
    }

    /// The identity of QEMU's ITS, for its recordings. Behaviour stays the model's own.
    pub const fn qemu() -> Self {
        let mut config = Self::new();
        config.typer = Typer::from_bits(0x1f_0001_efb1);
        config.iidr = 0x0000_043b;
        // LPIs beyond PROPBASER.IDbits are mapped there and never become pending.
        config.check_propbaser = false;
        config
    }

    /// Checks that the model can be what this says.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let typer = self.typer;
        let kinds = self.basers.map(|baser| baser.kind());
        let count = |wanted| kinds.iter().filter(|kind| **kind == wanted).count();
        let check = |ok: bool, error| if ok { Ok(()) } else { Err(error) };
        check(typer.physical() && !typer.virtual_lpis(), ConfigError::Virtual)?;
        check(!typer.pta() && typer.hcc() == 0, ConfigError::Targets)?;
        check(typer.itt_entry_size() >= 7, ConfigError::EntrySize)?;
        check(
            self.basers.iter().all(|baser| baser.kind() == 0 || baser.entry_size() >= 7),
            ConfigError::EntrySize,
        )?;
        check(typer.id_bits() <= 15 && typer.device_bits() <= 19, ConfigError::Bits)?;
        check(count(KIND_DEVICE) == 1 && count(KIND_COLLECTION) == 1, ConfigError::Tables)?;
        check(self.basers.iter().all(|baser| !baser.valid()), ConfigError::Tables)?;
        check(self.iidr & 0xf000 == 0, ConfigError::Revision)?;
        check(self.budget > 0, ConfigError::Budget)
    }

    /// Bits of a collection number.
    pub(crate) fn collection_bits(&self) -> u32 {
        if self.typer.cil() { u32::from(self.typer.collection_bits()) + 1 } else { 16 }
    }

    /// Which `BASER<n>` is of this kind.
    pub(crate) fn baser_of(&self, kind: u8) -> usize {
        self.basers.iter().position(|baser| baser.kind() == kind).unwrap_or(0)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no ITS with such a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `TYPER` must say Physical and not Virtual.
    Virtual,
    /// `TYPER` must say PTA 0 and HCC 0.
    Targets,
    /// Entries are 8 bytes; `TYPER` and `BASER<n>` must leave room for them.
    EntrySize,
    /// At most 16 EventID bits and 20 DeviceID bits.
    Bits,
    /// There must be one device table and one collection table, both invalid at reset.
    Tables,
    /// `IIDR.Revision` must be 0, the only table layout there is.
    Revision,
    /// The budget must be at least one command.
    Budget,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Virtual => "TYPER must say Physical and not Virtual",
            Self::Targets => "TYPER must say PTA 0 and HCC 0",
            Self::EntrySize => "table entries are at least 8 bytes",
            Self::Bits => "at most 16 EventID bits and 20 DeviceID bits",
            Self::Tables => "one device and one collection table, not valid at reset",
            Self::Revision => "IIDR.Revision must be 0, the only table layout",
            Self::Budget => "the budget is at least one command",
        })
    }
}

impl core::error::Error for ConfigError {}
