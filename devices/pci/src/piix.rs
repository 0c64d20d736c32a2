//! The parts of the PIIX that firmware written for it looks for: the ISA bridge of the PIIX3 as
//! function 0, and the power management of the PIIX4 as function 3.
//!
//! Spec: Intel 290550 (82371SB, PIIX3) and 290562 (82371AB, PIIX4).
//!
//! Firmware finds the serial ports by the bridge, and ACPI's timer by the base address of function
//! 3. The registers of both, behind ports, are devices of the board's own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trapline_device::{Device, Form, SaveState, Saved, StateError};

use crate::config::{Identity, Pin};
use crate::device::PciDevice;
use crate::function::{Function, FunctionBuilder, Slot};
use crate::regs::{COMMAND, Command, PIIX, PMC_VENDOR_ID};

/// The ISA bridge of the PIIX3 (290550, DID).
const ISA_DEVICE_ID: u16 = 0x7000;
/// Class code of an ISA bridge (PCI 3.0, appendix D).
const CLASS_ISA_BRIDGE: u32 = 0x06_0100;
/// PIRQ route control: bits 3:0 the interrupt, bit 7 none (290550, PIRQRC). Four of them.
const PIRQ_ROUTES: u16 = 0x60;
const PIRQ_ROUTE_NONE: u8 = 0x80;
const PIRQ_ROUTE_MASK: u8 = 0x8f;

/// The power management of the PIIX4 (290562, DID).
const PM_DEVICE_ID: u16 = 0x7113;
/// Class code of a bridge of no other class.
const CLASS_OTHER_BRIDGE: u32 = 0x06_8000;
/// The base of the power management's ports (290562, PMBA). Bit 0: it is a port.
const PM_BASE: u16 = 0x40;
const PM_BASE_PORT: u32 = 1;
/// Device activity B (290562, DEVACTB). Bit 25: a write of port 0xb2 is a system management
/// interrupt, which SeaBIOS takes for system management having been set up before.
const DEVICE_ACTIVITY_B: u16 = 0x58;
const APMC_ENABLE: u32 = 1 << 25;
/// Power management region (290562, PMREGMISC). Bit 0: [`PM_BASE`] is decoded.
const PM_REGION: u16 = 0x80;
const PM_REGION_ENABLE: u8 = 1;

/// One function of the PIIX. Neither decodes anything: configuration space is all there is.
#[derive(Clone, Copy, Debug)]
pub struct Piix;

impl Piix {
    /// The bridge to the ISA bus.
    ///
    /// Deviation: the routes of the PCI interrupts are latches; the board has wired them.
    pub fn isa_bridge(slot: Slot<'_>) -> Function {
        let identity = Identity {
            vendor: PMC_VENDOR_ID,
            device: ISA_DEVICE_ID,
            class: CLASS_ISA_BRIDGE,
            multi_function: true,
            ..Identity::default()
        };
        let mut builder = FunctionBuilder::new(slot, &identity);
        let config = builder.config();
        let decoding = Command::new().with_io(true).with_memory(true).with_master(true);
        config.set(COMMAND, &decoding.into_bits().to_le_bytes());
        config.allow(COMMAND, &decoding.into_bits().to_le_bytes());
        config.set(PIRQ_ROUTES, &[PIRQ_ROUTE_NONE; 4]);
        config.allow(PIRQ_ROUTES, &[PIRQ_ROUTE_MASK; 4]);
        builder.build(Arc::new(Self))
    }

    /// The power management, whose ports begin at `base`.
    ///
    /// Deviation: the base is fixed, and decoded from the start: firmware takes it as set up. There
    /// is no system management mode, which bit 25 of DEVACTB keeps SeaBIOS from setting up.
    pub fn power_management(slot: Slot<'_>, base: u16) -> Function {
        let identity = Identity {
            vendor: PMC_VENDOR_ID,
            device: PM_DEVICE_ID,
            revision: 0x03,
            class: CLASS_OTHER_BRIDGE,
            pin: Some(Pin::A),
            ..Identity::default()
        };
        let mut builder = FunctionBuilder::new(slot, &identity);
        let config = builder.config();
        config.set(PM_BASE, &(u32::from(base) | PM_BASE_PORT).to_le_bytes());
        config.set(DEVICE_ACTIVITY_B, &APMC_ENABLE.to_le_bytes());
        config.set(PM_REGION, &[PM_REGION_ENABLE]);
        config.allow(COMMAND, &Command::new().with_io(true).into_bits().to_le_bytes());
        builder.build(Arc::new(Self))
    }
}

impl PciDevice for Piix {
    fn config_register(&self, offset: u16) -> Option<&'static str> {
        PIIX.for_read(u64::from(offset)).map(|row| row.name)
    }
}

impl Device for Piix {
    fn reset(&self) {}
}

/// Nothing, version 2: what it remembers is configuration space.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV2 {}

impl Form for SavedV2 {
    const NAME: &'static str = "piix";
    const VERSION: u32 = 2;
}

impl SaveState for Piix {
    fn save(&self) -> Saved {
        Saved::encode(&SavedV2 {})
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        saved.decode().map(|SavedV2 {}| ())
    }
}

#[cfg(test)]
mod tests {
    use trapline_device::Size;

    use super::*;
    use crate::tests::Log;

    fn read(piix: &Function, offset: u16) -> u32 {
        piix.config_read(offset, Size::Dword)
    }

    fn write(piix: &Function, offset: u16, value: u32) {
        piix.config_write(offset, Size::Dword, value);
    }

    #[test]
    fn firmware_finds_the_timer_where_the_board_has_it() {
        let power = Arc::<Log>::default().slot(1, |slot| Piix::power_management(slot, 0xb000));
        assert_eq!(read(&power, 0), 0x7113_8086);
        // SeaBIOS writes its own address, and OVMF one if bit 0 of PMREGMISC is clear.
        write(&power, 0x40, 0x1234_5601);
        write(&power, 0x80, 0);
        assert_eq!((read(&power, 0x40), read(&power, 0x80) & 0xff), (0xb001, 1));
        assert_eq!(read(&power, 0x58) >> 25, 1);
    }

    #[test]
    fn the_bridge_has_functions_beside_it_and_latches_the_routes() {
        let bridge = Arc::<Log>::default().slot(1, Piix::isa_bridge);
        assert_eq!((read(&bridge, 0), read(&bridge, 8)), (0x7000_8086, 0x0601_0000));
        assert_eq!(read(&bridge, 0x0c) >> 16 & 0xff, 0x80);
        assert_eq!(read(&bridge, 0x60), 0x8080_8080);
        write(&bridge, 0x60, 0xff0b_0a0b);
        assert_eq!(read(&bridge, 0x60), 0x8f0b_0a0b);
        let saved = bridge.save();
        bridge.reset();
        assert_eq!(read(&bridge, 0x60), 0x8080_8080);
        bridge.restore(&saved).unwrap();
        assert_eq!(read(&bridge, 0x60), 0x8f0b_0a0b);
    }
}
