//! The reset control register of a PC that has no configuration mechanism #1, whose ports it shares
//! otherwise ([`crate::Conf1`]).

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{Direction, Handler, IoCx, Power, Rules, Size, device_state};

use crate::conf1::config_rules;
use crate::regs::RESET_CONTROL;
use crate::state::{ResetPortState, ResetPortV1};

/// The eight ports of that mechanism with nothing in them but the register, which bytes reach alone: what
/// is wider is meant for the mechanism, and its bits for the number of a function.
pub struct ResetPort {
    power: Arc<dyn Power>,
    state: Mutex<ResetPortState>,
}

impl ResetPort {
    /// The register; `power` hears of resets.
    pub fn new(power: Arc<dyn Power>) -> Self {
        Self { power, state: Mutex::default() }
    }
}

impl Handler for ResetPort {
    fn read(&self, _cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        match (offset, size) {
            (RESET_CONTROL, Size::Byte) => u64::from(self.state.lock().control.into_bits()),
            _ => u64::MAX,
        }
    }

    fn write(&self, _cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        if (offset, size) != (RESET_CONTROL, Size::Byte) {
            return;
        }
        let [value, ..] = value.to_le_bytes();
        let event = self.state.lock().control.write(value);
        if let Some(event) = event {
            self.power.request(event, "the reset control register (port 0xcf9)");
        }
    }

    fn rules(&self) -> Rules {
        config_rules()
    }

    fn register(&self, offset: u64, _direction: Direction) -> Option<&'static str> {
        (offset == RESET_CONTROL).then_some("RST_CNT")
    }
}

device_state!(ResetPort, ResetPortV1, state);
