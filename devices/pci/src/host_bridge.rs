//! The host bridge at 00:00.0, an 82441FX (440FX) as far as firmware looks at it.
//!
//! kvmtool has none, which is why Linux distrusts its configuration mechanism 1 unless told
//! `pci=conf1`: its check wants a host bridge, a VGA card, or a device by Intel or Compaq on
//! bus 0.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trapline_device::{Device, Form, SaveState, Saved, Size, StateError};

use crate::config::{ConfigSpace, Identity};
use crate::device::PciDevice;
use crate::function::{Function, FunctionBuilder, Slot};
use crate::regs::{
    CACHE_LINE_SIZE, CLASS_HOST_BRIDGE, COMMAND, Command, INTERRUPT_LINE, LATENCY_TIMER, PAM_LEN,
    PAM_MASK, PAM0, PAM0_MASK, PMC, PMC_COMMAND, PMC_DEVICE_ID, PMC_REVISION, PMC_STATUS,
    PMC_VENDOR_ID, SMRAM, STATUS, Smram,
};

/// The 82441FX's configuration space.
///
/// Deviation: the attribute map (PAM) and SMRAM control are latches. The machine's RAM below
/// 1 MiB is always readable and writable, which is the setting firmware asks for.
#[derive(Clone, Copy, Debug)]
pub struct HostBridge;

impl HostBridge {
    /// A bridge as after power-on.
    pub fn function(slot: Slot<'_>) -> Function {
        let mut builder = FunctionBuilder::new(
            slot,
            &Identity {
                vendor: PMC_VENDOR_ID,
                device: PMC_DEVICE_ID,
                revision: PMC_REVISION,
                class: CLASS_HOST_BRIDGE,
                ..Identity::default()
            },
        );
        let config = builder.config();
        // Parity and SERR# stay writable; the rest of the command register is hard-wired, and the
        // bridge has no cache line size and no interrupt (290549, PCICMD).
        let fixed = Command::new().with_parity(true).with_serr(true);
        config.forbid(COMMAND, &(!fixed.into_bits()).to_le_bytes());
        config.set(COMMAND, &PMC_COMMAND.into_bits().to_le_bytes());
        config.set(STATUS, &PMC_STATUS.to_le_bytes());
        config.forbid(CACHE_LINE_SIZE, &[0xff]);
        config.forbid(INTERRUPT_LINE, &[0xff]);
        // The timer counts in units of eight clocks (290549, MLT).
        config.forbid(LATENCY_TIMER, &[0x07]);
        config.allow(PAM0, &[PAM0_MASK]);
        for pam in PAM0 + 1..PAM0 + PAM_LEN {
            config.allow(pam, &[PAM_MASK]);
        }
        config.set(SMRAM, &[Smram::new().into_bits()]);
        config.allow_update(SMRAM, &[Smram::from_guest(0xff).into_bits()]);
        builder.build(Arc::new(Self))
    }
}

impl PciDevice for HostBridge {
    fn config_write(&self, config: &mut ConfigSpace, offset: u16, size: Size, value: u32) {
        config.write(offset, size, value);
        let smram = usize::from(SMRAM).checked_sub(usize::from(offset));
        let bytes = value.to_le_bytes();
        if let Some(&new) = smram.and_then(|at| bytes.get(..size.bytes())?.get(at)) {
            write_smram(config, Smram::from_guest(new));
        }
    }

    /// Locked SMRAM is closed.
    fn config_possible(&self, config: &ConfigSpace) -> bool {
        let smram = smram(config);
        !smram.open() || !smram.lock()
    }

    fn config_register(&self, offset: u16) -> Option<&'static str> {
        PMC.for_read(u64::from(offset)).map(|row| row.name)
    }
}

impl Device for HostBridge {
    fn reset(&self) {}
}

/// Nothing, version 2: what it remembers is configuration space.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV2 {}

impl Form for SavedV2 {
    const NAME: &'static str = "i440fx";
    const VERSION: u32 = 2;
}

impl SaveState for HostBridge {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2 {})
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|SavedV2 {}| ())
    }
}

fn smram(config: &ConfigSpace) -> Smram {
    let [value, ..] = config.read(SMRAM, Size::Byte).to_le_bytes();
    Smram::from_bits(value)
}

/// Once locked, the register is closed and read-only until the next reset (290549, SMRAM).
fn write_smram(config: &mut ConfigSpace, new: Smram) {
    if !smram(config).lock() {
        let new = new.with_open(new.open() && !new.lock());
        config.update(SMRAM, &[new.into_bits()]);
    }
}
