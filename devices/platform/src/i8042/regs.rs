//! Spec: IBM Personal System/2 Hardware Interface Technical Reference, Common Interfaces,
//! "Keyboard and Auxiliary Device Controller" (KBC below), "Keyboards (101- and 102-Key)" (KBD)
//! and "Auxiliary device" (AUX); IBM PC AT Technical Reference 6280070, section 1 (AT).
//!
//! Names, offsets and bit fields of the 8042 as IBM programmed it, of system control port B, and
//! of the two devices' commands. No behaviour.

use bitfield_struct::bitfield;
use trapline_regs::Access::{Read, ReadWrite, Write};
use trapline_regs::{Class, RegMap, row};

/// The ports of the controller and its neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Output buffer: what the controller has for the CPU (KBC, "Output Buffer").
    Output,
    /// Input buffer: a byte for a device, or a command's argument (KBC, "Input Buffer").
    Input,
    /// System control port B (AT, "System control", port 61).
    PortB,
    /// Status register (KBC, "Status Register").
    Status,
    /// A command for the controller itself (KBC, "Controller Commands").
    Command,
}

/// Length of the device's offsets: the ports 0x60 to 0x67, of which three exist.
pub const WINDOW_LEN: u32 = 8;

/// The ports, as offsets from 0x60.
#[rustfmt::skip]
pub const MAP: RegMap<Reg> = RegMap::new(WINDOW_LEN, &[
    row(Reg::Output,  "OUTPUT_BUFFER", 0, 1, Read).class(Class::Payload),
    row(Reg::Input,   "INPUT_BUFFER",  0, 1, Write).prompt(),
    row(Reg::PortB,   "PORT_B",        1, 1, ReadWrite).class(Class::Time).prompt(),
    row(Reg::Status,  "STATUS",        4, 1, Read),
    row(Reg::Command, "COMMAND",       4, 1, Write).prompt(),
]);

/// Status register (KBC, "Status Register").
#[bitfield(u8)]
pub struct Status {
    /// Bit 0, OBF: the output buffer holds a byte.
    pub output_full: bool,
    /// Bit 1, IBF: the controller has not taken the last write yet. Always 0 here: it has.
    pub input_full: bool,
    /// Bit 2, SYS: system flag; the command byte's bit 2 when that was last written, 1 after a
    /// self-test.
    pub system: bool,
    /// Bit 3, A2: the last write was a command.
    pub command: bool,
    /// Bit 4: the keyboard is not locked.
    pub unlocked: bool,
    /// Bit 5, AUXOBF: the byte in the output buffer is the auxiliary device's.
    pub aux_output: bool,
    /// Bit 6: a device did not answer in time. Always 0 here: both devices are always there.
    pub timeout: bool,
    /// Bit 7: a byte from a device had bad parity. Always 0 here.
    pub parity: bool,
}

/// The controller's command byte, byte 0 of its RAM (KBC, "Controller Command Byte").
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct CommandByte {
    /// Bit 0: IRQ 1 when the output buffer holds a byte that is not the auxiliary device's.
    pub keyboard_interrupt: bool,
    /// Bit 1: IRQ 12 when the output buffer holds the auxiliary device's byte.
    pub aux_interrupt: bool,
    /// Bit 2: system flag, shown in the status register.
    pub system: bool,
    /// Bit 3: override the keyboard lock (AT). Nothing is locked.
    pub no_lock: bool,
    /// Bit 4: holds the keyboard's clock low.
    pub keyboard_disable: bool,
    /// Bit 5: holds the auxiliary device's clock low.
    pub aux_disable: bool,
    /// Bit 6: translates scan code set 2 to set 1.
    pub translate: bool,
    __: bool,
}

impl CommandByte {
    /// After power-on. KBC leaves it to the firmware.
    ///
    /// Deviation: a kernel may be started without any firmware, so this is what firmware would
    /// leave behind: keyboard on, translated, with its interrupt; auxiliary device off.
    pub const POWER_ON: Self =
        Self::new().with_keyboard_interrupt(true).with_aux_disable(true).with_translate(true);

    /// What stays of `value` in the byte: bit 7 is reserved.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x7f)
    }
}

/// The controller's output port (KBC, "Output Port").
#[bitfield(u8)]
pub struct OutputPort {
    /// Bit 0: 0 holds the processor in reset.
    #[bits(default = true)]
    pub run: bool,
    /// Bit 1: address line 20 is not forced to 0.
    #[bits(default = true)]
    pub a20: bool,
    /// Bit 2: auxiliary device data.
    #[bits(default = true)]
    pub aux_data: bool,
    /// Bit 3: auxiliary device clock.
    #[bits(default = true)]
    pub aux_clock: bool,
    /// Bit 4: IRQ 1.
    pub irq1: bool,
    /// Bit 5: IRQ 12.
    pub irq12: bool,
    /// Bit 6: keyboard clock.
    #[bits(default = true)]
    pub keyboard_clock: bool,
    /// Bit 7: keyboard data.
    #[bits(default = true)]
    pub keyboard_data: bool,
}

/// Input port: both data lines idle high, keyboard not locked (KBC and AT, "Input Port").
pub const INPUT_PORT: u8 = 0x83;

/// System control port B (AT, port 61).
#[bitfield(u8)]
pub struct PortB {
    /// Bit 0: gate of timer 2.
    pub timer2_gate: bool,
    /// Bit 1: timer 2 drives the speaker.
    pub speaker: bool,
    /// Bit 2: RAM parity check off.
    pub parity_check_off: bool,
    /// Bit 3: channel check off.
    pub channel_check_off: bool,
    /// Bit 4, read only: toggles with each memory refresh.
    pub refresh: bool,
    /// Bit 5, read only: output of timer 2.
    pub timer2_output: bool,
    /// Bit 6, read only: channel check. There are no channels.
    pub channel_check: bool,
    /// Bit 7, read only: RAM parity error. There are none.
    pub parity_error: bool,
}

impl PortB {
    /// The bits a guest can write.
    pub const fn from_guest(value: u8) -> Self {
        Self::from_bits(value & 0x0f)
    }
}

/// Time between two memory refreshes, and so between two toggles of port B's bit 4, in ns (AT,
/// "System timers": channel 1 divides 1.19 MHz by 18).
pub const REFRESH_NS: u64 = 15_085;

/// Controller commands, at the command port (KBC, "Controller Commands"; AT where marked).
pub mod command {
    /// Read RAM byte 0 to 31.
    pub const READ_RAM: std::ops::RangeInclusive<u8> = 0x20..=0x3f;
    /// Write RAM byte 0 to 31 with the argument.
    pub const WRITE_RAM: std::ops::RangeInclusive<u8> = 0x60..=0x7f;
    /// Is a password installed?
    pub const TEST_PASSWORD: u8 = 0xa4;
    /// Disable the auxiliary device interface.
    pub const DISABLE_AUX: u8 = 0xa7;
    /// Enable the auxiliary device interface.
    pub const ENABLE_AUX: u8 = 0xa8;
    /// Test the auxiliary device's clock and data lines.
    pub const TEST_AUX: u8 = 0xa9;
    /// Test the controller.
    pub const SELF_TEST: u8 = 0xaa;
    /// Test the keyboard's clock and data lines.
    pub const TEST_KEYBOARD: u8 = 0xab;
    /// Disable the keyboard interface.
    pub const DISABLE_KEYBOARD: u8 = 0xad;
    /// Enable the keyboard interface.
    pub const ENABLE_KEYBOARD: u8 = 0xae;
    /// Read the input port.
    pub const READ_INPUT_PORT: u8 = 0xc0;
    /// Show input port bits 3:0 in status bits 7:4.
    pub const POLL_INPUT_LOW: u8 = 0xc1;
    /// Show input port bits 7:4 in status bits 7:4.
    pub const POLL_INPUT_HIGH: u8 = 0xc2;
    /// Read the output port.
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    /// Write the output port with the argument.
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    /// Put the argument in the output buffer as if the keyboard had sent it.
    pub const LOOP_KEYBOARD: u8 = 0xd2;
    /// Put the argument in the output buffer as if the auxiliary device had sent it.
    pub const LOOP_AUX: u8 = 0xd3;
    /// Send the argument to the auxiliary device.
    pub const WRITE_AUX: u8 = 0xd4;
    /// Read the test inputs: the two clock lines.
    pub const READ_TEST_INPUTS: u8 = 0xe0;
    /// Pulse output port bits 3:0 low where the command's bit is 0.
    pub const PULSE: std::ops::RangeInclusive<u8> = 0xf0..=0xff;

    /// Whether a command is followed by an argument.
    pub fn has_argument(byte: u8) -> bool {
        matches!(byte, WRITE_OUTPUT_PORT | LOOP_KEYBOARD | LOOP_AUX | WRITE_AUX)
            || WRITE_RAM.contains(&byte)
    }

    /// Answer to [`SELF_TEST`]: no error.
    pub const SELF_TEST_OK: u8 = 0x55;
    /// Answer to the line tests: no error.
    pub const LINES_OK: u8 = 0x00;
    /// Answer to [`TEST_PASSWORD`]: none installed.
    pub const NO_PASSWORD: u8 = 0xf1;
}

/// Bytes both devices send and take (KBD and AUX, "Commands from the system").
pub mod ps2 {
    /// Resend the last byte or packet.
    pub const RESEND: u8 = 0xfe;
    /// Reset and self-test.
    pub const RESET: u8 = 0xff;
    /// Default settings, disabled for the keyboard's 0xf5 only.
    pub const SET_DEFAULTS: u8 = 0xf6;
    /// Stop sending of its own accord.
    pub const DISABLE: u8 = 0xf5;
    /// Send of its own accord.
    pub const ENABLE: u8 = 0xf4;
    /// Typematic rate (keyboard) or sample rate (mouse); one argument.
    pub const SET_RATE: u8 = 0xf3;
    /// Say what you are.
    pub const IDENTIFY: u8 = 0xf2;

    /// Answer: taken.
    pub const ACK: u8 = 0xfa;
    /// Answer: the self-test passed.
    pub const TEST_OK: u8 = 0xaa;
}

/// Keyboard commands (KBD, "Commands from the system").
pub mod keyboard {
    use super::ps2;

    /// Set the LEDs; one argument.
    pub const SET_LEDS: u8 = 0xed;
    /// Echo.
    pub const ECHO: u8 = 0xee;
    /// Select scan code set 1, 2 or 3, or ask which (0); one argument.
    pub const SELECT_SET: u8 = 0xf0;
    /// Set 3: no key sends break codes (typematic).
    pub const ALL_TYPEMATIC: u8 = 0xf7;
    /// Set 3: every key sends break codes (make/break).
    pub const ALL_MAKE_BREAK: u8 = 0xf8;
    /// Set 3: no key sends break codes (make).
    pub const ALL_MAKE: u8 = 0xf9;
    /// Set 3: every key sends break codes (typematic, make/break).
    pub const ALL_TYPEMATIC_MAKE_BREAK: u8 = 0xfa;
    /// Set 3: the keys that follow send no break codes (typematic).
    pub const KEY_TYPEMATIC: u8 = 0xfb;
    /// Set 3: the keys that follow send break codes.
    pub const KEY_MAKE_BREAK: u8 = 0xfc;
    /// Set 3: the keys that follow send no break codes (make).
    pub const KEY_MAKE: u8 = 0xfd;

    /// Whether a command is followed by an argument, or several.
    pub const fn has_argument(byte: u8) -> bool {
        matches!(
            byte,
            SET_LEDS | SELECT_SET | ps2::SET_RATE | KEY_TYPEMATIC | KEY_MAKE_BREAK | KEY_MAKE
        )
    }

    /// The keyboard's identity, sent low byte first (KBD, "Read ID").
    pub const ID: [u8; 2] = [0xab, 0x83];
    /// Overrun in sets 2 and 3 (KBD, "Key Detection Error or Overrun").
    pub const OVERRUN: u8 = 0x00;
    /// Overrun in set 1.
    pub const OVERRUN_SET1: u8 = 0xff;
    /// Release, before the key's code, in sets 2 and 3.
    pub const BREAK: u8 = 0xf0;
    /// Prefix of the keys an 84-key keyboard did not have.
    pub const EXTENDED: u8 = 0xe0;
    /// Prefix of the pause key.
    pub const PAUSE: u8 = 0xe1;
    /// Bytes of the longest answer: acknowledgement and identity.
    pub const ANSWER_MAX: usize = 3;
    /// Codes the buffer holds (KBD, "Buffer").
    pub const BUFFER_LEN: usize = 16;
    /// Typematic rate and delay after reset: 10.9 characters/s, 500 ms (KBD, "Set Typematic
    /// Rate/Delay").
    pub const DEFAULT_RATE: u8 = 0x2b;

    /// How long a key is held before it repeats, in ns (KBD, "Set Typematic Rate/Delay": bits 6:5).
    pub const fn delay_ns(rate: u8) -> u64 {
        (1 + (rate >> 5 & 3) as u64) * 250_000_000
    }

    /// The time from one repetition to the next, in ns (KBD, "Set Typematic Rate/Delay": with A in
    /// bits 2:0 and B in bits 4:3 it is (8 + A) * 2^B * 4.17 ms).
    pub const fn period_ns(rate: u8) -> u64 {
        ((8 + (rate & 7)) as u64) * (4_170_000 << (rate >> 3 & 3))
    }
}

/// Mouse commands (AUX, "Commands").
pub mod mouse {
    /// Scaling 1:1.
    pub const SET_SCALING_1: u8 = 0xe6;
    /// Scaling 2:1.
    pub const SET_SCALING_2: u8 = 0xe7;
    /// Resolution: 0 to 3 for 1, 2, 4, 8 counts/mm; one argument.
    pub const SET_RESOLUTION: u8 = 0xe8;
    /// Send three bytes of status.
    pub const STATUS_REQUEST: u8 = 0xe9;
    /// Report when something happens.
    pub const SET_STREAM: u8 = 0xea;
    /// Send a report now.
    pub const READ_DATA: u8 = 0xeb;
    /// Leave wrap mode.
    pub const RESET_WRAP: u8 = 0xec;
    /// Send back everything but [`RESET_WRAP`] and reset.
    pub const SET_WRAP: u8 = 0xee;
    /// Report only when asked.
    pub const SET_REMOTE: u8 = 0xf0;

    /// The identity of a standard mouse.
    pub const ID: u8 = 0x00;
    /// Answer to a second bad byte in a row.
    pub const ERROR: u8 = 0xfc;
    /// Bytes the mouse sends at a time: acknowledgement and report.
    pub const OUT_MAX: usize = 4;
    /// The ends of the movement counters, of nine bits each (AUX, "Data Report").
    pub const COUNTS_MIN: i16 = -256;
    /// The other end.
    pub const COUNTS_MAX: i16 = 255;
    /// Sample rates there are, in reports/s.
    pub const RATES: [u8; 7] = [10, 20, 40, 60, 80, 100, 200];
    /// Sample rate after reset.
    pub const DEFAULT_RATE: u8 = 100;
    /// Resolution after reset: 4 counts/mm.
    pub const DEFAULT_RESOLUTION: u8 = 2;
}

/// First byte of a mouse report (AUX, "Data Report").
#[bitfield(u8)]
pub struct Report {
    /// Bits 2:0: left, right and middle button.
    #[bits(3)]
    pub buttons: u8,
    /// Bit 3.
    #[bits(default = true)]
    pub one: bool,
    /// Bit 4: X is negative.
    pub x_negative: bool,
    /// Bit 5: Y is negative.
    pub y_negative: bool,
    /// Bit 6: there was more movement along X than the counter can say.
    pub x_overflow: bool,
    /// Bit 7: the same along Y.
    pub y_overflow: bool,
}

/// First byte of a mouse's status (AUX, "Status Request").
#[bitfield(u8)]
pub struct MouseStatus {
    /// Bit 0: right button.
    pub right: bool,
    /// Bit 1: middle button.
    pub middle: bool,
    /// Bit 2: left button.
    pub left: bool,
    __: bool,
    /// Bit 4: scaling 2:1.
    pub scaling_2: bool,
    /// Bit 5: enabled.
    pub enabled: bool,
    /// Bit 6: remote mode.
    pub remote: bool,
    __: bool,
}
