//! Configuration mechanism #1: ports 0xcf8 to 0xcff (PCI 3.0, 3.2.2.3.2), and the reset control
//! register that shares them at 0xcf9.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_device::{Direction, Handler, IoCx, Limits, Power, Rules, Size, device_state};

use crate::bus::{Bus, Devfn};
use crate::regs::{CONFIG_ADDRESS, CONFIG_DATA, ConfigAddress, RESET_CONTROL};
use crate::state::{Conf1State, Conf1V1};

/// The two registers and the bus behind them. Eight ports: CONFIG_ADDRESS at offset 0,
/// CONFIG_DATA at offset 4.
///
/// Deviation: bits 1:0 of CONFIG_ADDRESS choose a byte of the register, though they read as zeros, as
/// in QEMU; see [`crate::regs::ConfigAddress::byte`].
///
/// Only a dword access reaches CONFIG_ADDRESS; bytes and words in its ports pass on to whatever
/// else is there (PCI 3.0, 3.2.2.3.2), which is the reset control register for a byte at offset 1
/// and nothing for the rest.
pub struct Conf1 {
    // Wiring.
    bus: Arc<Bus>,
    power: Arc<dyn Power>,
    // Everything a snapshot keeps.
    state: Mutex<Conf1State>,
}

impl Conf1 {
    /// The mechanism in front of `bus`; `power` hears of resets.
    pub fn new(bus: Arc<Bus>, power: Arc<dyn Power>) -> Self {
        Self { bus, power, state: Mutex::default() }
    }

    /// The function and register that `len` bytes of CONFIG_DATA stand for at `offset`. None while
    /// disabled, and for buses other than 0: no bridge passes those cycles on.
    fn target(&self, offset: u64, len: usize) -> Option<(Devfn, u16)> {
        let address = self.state.lock().address;
        let byte = u16::try_from(offset.checked_sub(CONFIG_DATA)?).ok().filter(|byte| *byte < 4)?;
        // Whoever writes bits that are no part of the address means a byte by them, if they fit.
        let chosen = u16::from(address.byte()) | byte;
        let byte = if usize::from(chosen).is_multiple_of(len) { chosen } else { byte };
        let register = u16::from(address.dword()) << 2 | byte;
        (address.enable() && address.bus() == 0)
            .then(|| (Devfn::from_bits(address.devfn()), register))
    }

    fn write_reset_control(&self, value: u8) {
        let event = self.state.lock().reset_control.write(value);
        if let Some(event) = event {
            self.power.request(event, "the reset control register (port 0xcf9)");
        }
    }
}

impl Handler for Conf1 {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        cx.reaches(|| self.register(offset, Direction::Read));
        match (offset, size) {
            (CONFIG_ADDRESS, Size::Dword) => u64::from(self.state.lock().address.to_guest()),
            (RESET_CONTROL, Size::Byte) => u64::from(self.state.lock().reset_control.into_bits()),
            _ => self.target(offset, size.bytes()).map_or(u64::MAX, |(devfn, register)| {
                u64::from(self.bus.config_read(devfn, register, size))
            }),
        }
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        cx.reaches(|| self.register(offset, Direction::Write));
        let [low, ..] = value.to_le_bytes();
        let value = u32::try_from(value & Size::Dword.ones()).unwrap_or(u32::MAX);
        match (offset, size) {
            (CONFIG_ADDRESS, Size::Dword) => {
                self.state.lock().address = ConfigAddress::from_guest(value);
            }
            (RESET_CONTROL, Size::Byte) => self.write_reset_control(low),
            _ => {
                if let Some((devfn, register)) = self.target(offset, size.bytes()) {
                    self.bus.config_write(devfn, register, size, value);
                }
            }
        }
    }

    fn rules(&self) -> Rules {
        config_rules()
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        match offset {
            RESET_CONTROL => Some("RST_CNT"),
            0..CONFIG_DATA => Some("CONFIG_ADDRESS"),
            _ => match self.target(offset, 1) {
                Some((devfn, register)) => {
                    self.bus.register(devfn, register, direction).or(Some("CONFIG_DATA"))
                }
                None => Some("CONFIG_DATA"),
            },
        }
    }
}

device_state!(Conf1, Conf1V1, state);

/// Bytes, words and dwords; what is wider or not aligned arrives in such pieces, as a host bridge
/// makes several cycles of it.
pub(crate) const fn config_rules() -> Rules {
    let handled = Limits { min: Size::Byte, max: Size::Dword, unaligned: false };
    Rules { valid: Limits::ANY, handled }
}
