//! The reset control register of a PC that has no configuration mechanism #1, whose ports it shares
//! otherwise ([`crate::Conf1`]).

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{Direction, Handler, IoCx, Power, Rules, Size, device_state};

use crate::state::{ResetPortState, ResetPortV1};

/// The register alone, a byte wide.
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
    fn read(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size) -> u64 {
        u64::from(self.state.lock().control.into_bits())
    }

    fn write(&self, _cx: &IoCx<'_>, _offset: u64, _size: Size, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let event = self.state.lock().control.write(value);
        if let Some(event) = event {
            self.power.request(event, "the reset control register (port 0xcf9)");
        }
    }

    fn rules(&self) -> Rules {
        Rules::BYTES
    }

    fn register(&self, _offset: u64, _direction: Direction) -> Option<&'static str> {
        Some("RST_CNT")
    }
}

device_state!(ResetPort, ResetPortV1, state);
