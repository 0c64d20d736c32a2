//! The 8042 itself, without keyboard and mouse: its commands, status and output buffer.

use super::regs::{CommandByte, INPUT_PORT, OutputPort, Status, command};
use super::state::{Output, Poll, State};
use super::translate::translate;

impl State {
    /// Takes the output buffer's byte. Read again, it is still there, but no longer new.
    pub(super) fn read_output(&mut self) -> u8 {
        self.output_full = false;
        self.output.byte
    }

    /// The status register.
    pub(super) fn status(&self) -> u8 {
        let status = Status::new()
            .with_output_full(self.output_full)
            .with_system(self.system)
            .with_command(self.last_was_command)
            .with_unlocked(true)
            .with_aux_output(self.output_full && self.output.aux)
            .into_bits();
        match self.poll {
            Poll::Off => status,
            Poll::Low => status & 0x0f | INPUT_PORT << 4,
            Poll::High => status & 0x0f | INPUT_PORT & 0xf0,
        }
    }

    /// IRQ 1: the output buffer holds something that is not the mouse's.
    pub(super) fn keyboard_interrupt(&self) -> bool {
        self.output_full && !self.output.aux && self.command_byte.keyboard_interrupt()
    }

    /// IRQ 12: the output buffer holds something of the mouse's.
    pub(super) fn aux_interrupt(&self) -> bool {
        self.output_full && self.output.aux && self.command_byte.aux_interrupt()
    }

    /// Moves the next byte there is into the output buffer, if that is empty. Returns whether it
    /// did.
    pub(super) fn fill_output(&mut self) -> bool {
        if self.output_full {
            return false;
        }
        let device = |byte, aux| Output { byte, aux, answer: false };
        let next = self
            .displaced
            .take()
            .or_else(|| self.next_from_keyboard().map(|byte| device(byte, false)))
            .or_else(|| self.next_from_mouse().map(|byte| device(byte, true)));
        if let Some(output) = next {
            self.output = output;
            self.output_full = true;
        }
        next.is_some()
    }

    /// A write to the data port. Returns whether it asks for a reset.
    #[must_use]
    pub(super) fn write_data(&mut self, byte: u8) -> bool {
        self.last_was_command = false;
        self.poll = Poll::Off;
        match self.pending.take() {
            Some(command) => return self.argument(command, byte),
            None => {
                // Sending needs the clock, so it ends a disabled interface, as chips do.
                self.command_byte.set_keyboard_disable(false);
                self.keyboard.receive(byte);
            }
        }
        false
    }

    /// A write to the command port (KBC, "Controller Commands"). Returns whether it asks for a
    /// reset. Commands there are not are taken and ignored.
    #[must_use]
    pub(super) fn write_command(&mut self, byte: u8) -> bool {
        self.last_was_command = true;
        self.poll = Poll::Off;
        self.pending = None;
        match byte {
            command::TEST_PASSWORD => self.reply(command::NO_PASSWORD),
            command::DISABLE_AUX => self.command_byte.set_aux_disable(true),
            command::ENABLE_AUX => self.command_byte.set_aux_disable(false),
            command::TEST_AUX | command::TEST_KEYBOARD => self.reply(command::LINES_OK),
            command::SELF_TEST => {
                // Deviation: KBC has only the command byte set the system flag; chips also set it
                // when the test has passed, and firmware looks for that.
                self.system = true;
                self.reply(command::SELF_TEST_OK);
            }
            command::DISABLE_KEYBOARD => self.command_byte.set_keyboard_disable(true),
            command::ENABLE_KEYBOARD => self.command_byte.set_keyboard_disable(false),
            command::READ_INPUT_PORT => self.reply(INPUT_PORT),
            command::POLL_INPUT_LOW => self.poll = Poll::Low,
            command::POLL_INPUT_HIGH => self.poll = Poll::High,
            command::READ_OUTPUT_PORT => self.reply(self.read_output_port()),
            command::READ_TEST_INPUTS => self.reply(self.test_inputs()),
            _ if command::READ_RAM.contains(&byte) => self.reply(self.read_ram(byte & 0x1f)),
            _ if command::has_argument(byte) => self.pending = Some(byte),
            // Bit 0 is the processor's reset line; a pulse on A20 leaves nothing behind.
            _ if command::PULSE.contains(&byte) => return byte & 1 == 0,
            _ => {}
        }
        false
    }

    fn argument(&mut self, command: u8, byte: u8) -> bool {
        match command {
            command::WRITE_OUTPUT_PORT => return self.write_output_port(byte),
            command::LOOP_KEYBOARD => self.answer(byte, false),
            command::LOOP_AUX => self.answer(byte, true),
            command::WRITE_AUX => {
                self.command_byte.set_aux_disable(false);
                self.mouse.receive(byte);
            }
            _ => self.write_ram(command & 0x1f, byte),
        }
        false
    }

    fn reply(&mut self, byte: u8) {
        self.answer(byte, false);
    }

    /// An answer goes into the output buffer at once, whatever is there (KBC advises to disable
    /// the devices before a command that answers).
    ///
    /// Deviation: a device's byte that was there is not lost, but comes back after the answer.
    fn answer(&mut self, byte: u8, aux: bool) {
        if self.output_full && !self.output.answer {
            self.displaced = Some(self.output);
        }
        self.output = Output { byte, aux, answer: true };
        self.output_full = true;
    }

    fn read_ram(&self, index: u8) -> u8 {
        match index {
            0 => self.command_byte.into_bits(),
            _ => self.ram.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    fn write_ram(&mut self, index: u8, value: u8) {
        match index {
            0 => {
                self.command_byte = CommandByte::from_guest(value);
                self.system = self.command_byte.system();
                self.translating_break &= self.command_byte.translate();
            }
            _ => {
                if let Some(cell) = self.ram.get_mut(usize::from(index)) {
                    *cell = value;
                }
            }
        }
    }

    fn read_output_port(&self) -> u8 {
        let port = self.output_port;
        port.with_irq1(self.keyboard_interrupt()).with_irq12(self.aux_interrupt()).into_bits()
    }

    /// Deviation: A20 reads back as written, but the machine's address line 20 always works.
    fn write_output_port(&mut self, value: u8) -> bool {
        let wanted = OutputPort::from_bits(value);
        // The interrupt bits are the output buffer's, and the processor runs again after a reset.
        self.output_port = wanted.with_irq1(false).with_irq12(false).with_run(true);
        !wanted.run()
    }

    /// The two clocks: low while the interface is disabled.
    fn test_inputs(&self) -> u8 {
        let keyboard = !self.command_byte.keyboard_disable();
        let aux = !self.command_byte.aux_disable();
        u8::from(keyboard) | u8::from(aux) << 1
    }

    fn next_from_keyboard(&mut self) -> Option<u8> {
        if self.command_byte.keyboard_disable() {
            return None;
        }
        if !self.command_byte.translate() {
            return self.keyboard.next_byte();
        }
        // Each turn takes a byte out of a bounded queue.
        while let Some(byte) = self.keyboard.next_byte() {
            let translated = translate(byte, &mut self.translating_break);
            if translated.is_some() {
                return translated;
            }
        }
        None
    }

    fn next_from_mouse(&mut self) -> Option<u8> {
        if self.command_byte.aux_disable() { None } else { self.mouse.next_byte() }
    }
}
