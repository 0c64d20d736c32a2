//! The devices that can be in a process of their own: those that need no memory of the guest's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};
use trapline_device::{
    CharBackend, CharDevice, Clock, Direction, Handler, Line, NullBackend, Power, PowerEvent, Saved,
};
use trapline_platform::i8042::{self, I8042, NoTimer2};
use trapline_platform::legacy;
use trapline_platform::legacy::Crtc;
use trapline_platform::rtc::{self, CmosConfig, Rtc};
use trapline_platform::serial::regs::Lcr;
use trapline_platform::serial::{self, PAGE_LEN, Serial, Uart};

use crate::board::BoardDevice;

/// A device, and what it is to know of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A 16550A UART.
    Uart,
    /// A clock with CMOS RAM, an MC146818.
    Rtc {
        /// See [`CmosConfig`].
        below_4g: u64,
        /// See [`CmosConfig`].
        above_4g: u64,
        /// See [`CmosConfig`].
        cpus: u8,
    },
    /// A keyboard controller, with port B of a machine whose timer is in the kernel.
    I8042,
    /// The ports of a display, a 6845.
    Crtc,
}

/// What a device is connected to.
pub(crate) struct Wired {
    /// Its interrupts, as many as [`Kind::lines`].
    pub(crate) lines: Vec<Line>,
    /// Behind it, if it has characters.
    pub(crate) backend: Arc<dyn CharBackend>,
    /// Who hears that the guest wants a reset.
    pub(crate) power: Arc<dyn Power>,
    /// Machine time.
    pub(crate) clock: Arc<dyn Clock>,
}

/// A device that has been made.
pub(crate) struct Made {
    /// Its registers.
    pub(crate) handler: Arc<dyn Handler>,
    /// How it is reset and saved.
    pub(crate) device: Arc<dyn BoardDevice>,
    /// Who is called when there are characters for it.
    pub(crate) chars: Option<Arc<dyn CharDevice>>,
    /// Whose keys and mouse it has.
    pub(crate) input: Option<Arc<I8042>>,
}

impl From<CmosConfig> for Kind {
    fn from(CmosConfig { below_4g, above_4g, cpus }: CmosConfig) -> Self {
        Self::Rtc { below_4g, above_4g, cpus }
    }
}

impl Kind {
    /// Bytes of registers. A UART's are those of its page.
    pub(crate) const fn len(self) -> u64 {
        match self {
            Self::Uart => PAGE_LEN,
            Self::Rtc { .. } => rtc::WINDOW_LEN,
            Self::I8042 => 5,
            Self::Crtc => 2,
        }
    }

    /// How many interrupt lines it has.
    pub(crate) const fn lines(self) -> usize {
        match self {
            Self::Uart | Self::Rtc { .. } => 1,
            Self::I8042 => 2,
            Self::Crtc => 0,
        }
    }

    /// The device after power-on.
    pub(crate) fn make(self, wired: Wired) -> Made {
        let Wired { lines, backend, power, clock } = wired;
        let mut lines = lines.into_iter();
        let mut line = || lines.next().unwrap_or_else(Line::unconnected);
        match self {
            Self::Uart => {
                let uart = Serial::new(backend, line(), clock);
                Made { chars: Some(uart.clone()), ..made(&uart) }
            }
            Self::Rtc { below_4g, above_4g, cpus } => {
                made(&Rtc::new(line(), clock, CmosConfig { below_4g, above_4g, cpus }))
            }
            Self::I8042 => {
                let (keyboard, mouse) = (line(), line());
                let i8042 = I8042::new(keyboard, mouse, power, clock, Box::new(NoTimer2));
                Made { input: Some(i8042.clone()), ..made(&i8042) }
            }
            Self::Crtc => made(&Arc::new(Crtc::default())),
        }
    }

    /// The state after power-on.
    pub(crate) fn power_on(self, clock: &Arc<dyn Clock>) -> Saved {
        let (backend, power) = (Arc::new(NullBackend), Arc::new(Nobody));
        let clock = Arc::clone(clock);
        self.make(Wired { lines: Vec::new(), backend, power, clock }).device.save()
    }
}

fn made<D: Handler + BoardDevice + 'static>(device: &Arc<D>) -> Made {
    Made { handler: device.clone(), device: device.clone(), chars: None, input: None }
}

struct Nobody;

impl Power for Nobody {
    fn request(&self, _event: PowerEvent, _device: &'static str) {}
}

/// What the registers of a device are called, for who sees its accesses and not its state: of the state
/// it keeps what names depend on.
pub(crate) struct Names {
    kind: Kind,
    /// A UART's line control register, a clock's address latch, a CRT controller's address register.
    latch: AtomicU8,
}

impl Names {
    /// After power-on.
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, latch: AtomicU8::new(0) }
    }

    /// The device is in its power-on state again.
    pub(crate) fn reset(&self) {
        self.latch.store(0, Ordering::Relaxed);
    }

    /// The guest writes this.
    pub(crate) fn write(&self, offset: u64, value: u64) {
        let [value, ..] = value.to_le_bytes();
        let has_latch = match self.kind {
            Kind::Uart => {
                let row = serial::regs::MAP.for_write(offset);
                row.is_some_and(|row| matches!(row.reg, serial::regs::Reg::Lcr))
            }
            Kind::Rtc { .. } => rtc::regs::INDEX == offset,
            Kind::Crtc => {
                let row = legacy::regs::CRT.for_write(offset);
                row.is_some_and(|row| row.reg == legacy::regs::Crt::Index)
            }
            Kind::I8042 => false,
        };
        if has_latch {
            self.latch.store(value, Ordering::Relaxed);
        }
    }

    /// The name of the register that an access reaches now.
    pub(crate) fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        let latch = self.latch.load(Ordering::Relaxed);
        let row = |write, read| if direction == Direction::Write { write } else { read };
        match self.kind {
            Kind::Uart => Uart::register_of(Lcr::from_bits(latch), offset, direction),
            Kind::Rtc { .. } => Rtc::register_of(latch, offset),
            Kind::I8042 => {
                let map = &i8042::regs::MAP;
                row(map.for_write(offset), map.for_read(offset)).map(|row| row.name)
            }
            Kind::Crtc => Crtc::register_of(latch, offset, direction),
        }
    }
}
