//! The host bridge at 00:00.0, an 82441FX (440FX) as far as firmware looks at it.
//!
//! kvmtool has none, which is why Linux distrusts its configuration mechanism 1 unless told
//! `pci=conf1`: its check wants a host bridge, a VGA card, or a device by Intel or Compaq on
//! bus 0.

use parking_lot::Mutex;
use trapline_device::{Device, IoCx, SaveState, Saved, Size, StateError, saved_form};

use crate::bus::Function;
use crate::config::{ConfigSpace, Identity};
use crate::regs::{
    CACHE_LINE_SIZE, CLASS_HOST_BRIDGE, COMMAND, Command, INTERRUPT_LINE, LATENCY_TIMER, PAM_LEN,
    PAM_MASK, PAM0, PAM0_MASK, PMC, PMC_COMMAND, PMC_DEVICE_ID, PMC_REVISION, PMC_STATUS,
    PMC_VENDOR_ID, SMRAM, STATUS, Smram,
};
use crate::state::{ConfigState, ConfigV1};

/// The 82441FX's configuration space.
///
/// Deviation: the attribute map (PAM) and SMRAM control are latches. The machine's RAM below
/// 1 MiB is always readable and writable, which is the setting firmware asks for.
pub struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl HostBridge {
    /// A bridge as after power-on.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: PMC_VENDOR_ID,
            device: PMC_DEVICE_ID,
            revision: PMC_REVISION,
            class: CLASS_HOST_BRIDGE,
            ..Identity::default()
        });
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
        Self { config: Mutex::new(config) }
    }
}

impl Function for HostBridge {
    fn config_read(&self, _cx: &IoCx<'_>, offset: u16, size: Size) -> u32 {
        self.config.lock().read(offset, size)
    }

    fn config_write(&self, _cx: &IoCx<'_>, offset: u16, size: Size, value: u32) {
        let mut config = self.config.lock();
        config.write(offset, size, value);
        let smram = usize::from(SMRAM).checked_sub(usize::from(offset));
        let bytes = value.to_le_bytes();
        if let Some(&new) = smram.and_then(|at| bytes.get(..size.bytes())?.get(at)) {
            write_smram(&mut config, Smram::from_guest(new));
        }
    }

    fn config_register(&self, offset: u16) -> Option<&'static str> {
        PMC.for_read(u64::from(offset)).map(|row| row.name)
    }
}

impl Device for HostBridge {
    fn reset(&self) {
        self.config.lock().reset();
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
struct State {
    config: ConfigState,
}

impl State {
    fn check(&self) -> Result<(), StateError> {
        let smram = self.config.bytes.get(usize::from(SMRAM)).copied().unwrap_or_default();
        let smram = Smram::from_bits(smram);
        let closed = !smram.open() || !smram.lock();
        StateError::check::<SavedV1>(closed, "locked SMRAM is closed")
    }
}

saved_form! {
    /// [`State`], version 1.
    struct SavedV1 of State, "i440fx" version 1 {
        config: ConfigV1,
    }
}

impl SaveState for HostBridge {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV1::from(&State { config: self.config.lock().state() }))
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let State { config: state } = State::try_from(saved.decode::<SavedV1>()?)?;
        let mut config = self.config.lock();
        StateError::check::<SavedV1>(config.can_be(&state), "hard-wired bits are what they are")?;
        config.restore(state);
        Ok(())
    }
}

/// Once locked, the register is closed and read-only until the next reset (290549, SMRAM).
fn write_smram(config: &mut ConfigSpace, new: Smram) {
    let [old, ..] = config.read(SMRAM, Size::Byte).to_le_bytes();
    if !Smram::from_bits(old).lock() {
        let new = new.with_open(new.open() && !new.lock());
        config.update(SMRAM, &[new.into_bits()]);
    }
}
