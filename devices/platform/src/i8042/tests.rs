use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use trapline_device::{Device, Direction, Handler, PowerEvent, SaveState};
use trapline_testkit::{TestClock, TestLine, TestPower, inb, outb};

use super::{I8042, NoTimer2, Timer2};

mod devices;

const DATA: u64 = 0;
const PORT_B: u64 = 1;
const STATUS: u64 = 4;
const COMMAND: u64 = 4;

const OBF: u8 = 0x01;
const AUXOBF: u8 = 0x20;

struct Pc {
    chip: Arc<I8042>,
    irq1: TestLine,
    irq12: TestLine,
    power: TestPower,
    clock: TestClock,
}

fn pc_with(timer2: Box<dyn Timer2>) -> Pc {
    let (irq1, irq12) = (TestLine::default(), TestLine::default());
    let (power, clock) = (TestPower::default(), TestClock::default());
    let shared = (Arc::new(power.clone()), Arc::new(clock.clone()));
    let chip = I8042::new(irq1.line(), irq12.line(), shared.0, shared.1, timer2);
    Pc { chip, irq1, irq12, power, clock }
}

fn pc() -> Pc {
    pc_with(Box::new(NoTimer2))
}

impl Pc {
    fn status(&self) -> u8 {
        inb(&*self.chip, STATUS)
    }

    fn command(&self, command: u8) {
        assert_eq!(self.status() & 0x02, 0, "input buffer full");
        outb(&*self.chip, COMMAND, command);
    }

    fn command_with(&self, command: u8, argument: u8) {
        self.command(command);
        self.data(argument);
    }

    fn data(&self, byte: u8) {
        outb(&*self.chip, DATA, byte);
    }

    fn ask(&self, command: u8) -> u8 {
        self.command(command);
        self.answer()
    }

    fn answer(&self) -> u8 {
        assert_eq!(self.status() & OBF, OBF, "no byte in the output buffer");
        inb(&*self.chip, DATA)
    }

    /// Reads until the output buffer stays empty, as Linux' i8042_flush() does.
    fn flush(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.status() & OBF != 0 {
            bytes.push(inb(&*self.chip, DATA));
            assert!(bytes.len() <= 64, "the output buffer never empties");
        }
        bytes
    }

    fn keyboard(&self, byte: u8) -> Vec<u8> {
        self.data(byte);
        self.flush()
    }

    fn mouse(&self, byte: u8) -> Vec<u8> {
        self.command_with(0xd4, byte);
        let mut bytes = Vec::new();
        while self.status() & OBF != 0 {
            assert_eq!(self.status() & AUXOBF, AUXOBF);
            bytes.push(inb(&*self.chip, DATA));
        }
        bytes
    }

    fn aux_loop(&self, byte: u8) -> u8 {
        self.command_with(0xd3, byte);
        assert_eq!(self.status() & (OBF | AUXOBF), OBF | AUXOBF);
        inb(&*self.chip, DATA)
    }

    /// The keyboard as it was built: set 2, not translated.
    fn untranslated(self) -> Self {
        self.command_with(0x60, 0x01);
        self
    }
}

/// The part of Linux' i8042_probe() that both command lines run. Returns the command byte.
fn linux_controller_check_and_init(pc: &Pc, direct: bool) -> u8 {
    assert!(pc.flush().len() < 16, "i8042_controller_check");
    assert_eq!(pc.ask(0xaa), 0x55, "i8042_controller_selftest");
    let first = pc.ask(0x20);
    assert_eq!(pc.ask(0x20), first, "two equal reads of CTR");
    assert_eq!(pc.status() & 0x10, 0x10, "keylock");
    let mut ctr = (first | 0x10) & !0x01;
    if direct {
        ctr &= !0x40;
    }
    pc.command_with(0x60, ctr);
    assert_eq!(pc.ask(0x20), ctr);
    pc.flush();
    ctr
}

/// Linux' i8042_enable_kbd_port(), and the keyboard answering through its interrupt.
fn linux_enable_keyboard(pc: &Pc, ctr: u8) {
    let ctr = ctr & !0x10 | 0x01;
    pc.command_with(0x60, ctr);
    assert_eq!(pc.ask(0x20), ctr);
    let before = pc.irq1.rises();
    pc.chip.key(&[0x1c]);
    assert!(pc.irq1.level());
    assert_eq!(pc.irq1.rises(), before + 1);
}

#[test]
fn linux_probes_with_kvmtools_options() {
    let pc = pc();
    let ctr = linux_controller_check_and_init(&pc, true);
    linux_enable_keyboard(&pc, ctr);
    assert_eq!(pc.answer(), 0x1c, "untranslated");
    assert!(!pc.irq1.level());
    assert_eq!(pc.irq12.rises(), 0);
}

#[test]
fn linux_probes_keyboard_and_mouse_without_options() {
    let pc = pc();
    let ctr = linux_controller_check_and_init(&pc, false);
    // i8042_check_aux()
    assert_eq!(pc.aux_loop(0x5a), 0x5a);
    pc.command(0xa7);
    assert_eq!(pc.ask(0x20) & 0x20, 0x20);
    pc.command(0xa8);
    assert_eq!(pc.ask(0x20) & 0x20, 0);
    assert_eq!(pc.ask(0xa9), 0x00);
    let ctr = ctr & !0x20 | 0x02;
    pc.command_with(0x60, ctr);
    pc.command_with(0xd3, 0xa5);
    assert!(pc.irq12.level(), "the loop test's interrupt");
    assert_eq!(pc.status() & AUXOBF, AUXOBF);
    assert_eq!(pc.answer(), 0xa5);
    assert!(!pc.irq12.level());
    // i8042_check_mux(): a plain controller echoes, and is thereby known not to be one.
    for byte in [0xf0, 0x56, 0xa4] {
        assert_eq!(pc.aux_loop(byte), byte);
    }
    linux_enable_keyboard(&pc, ctr);
    assert_eq!(pc.answer(), 0x1e, "translated");
    // atkbd_probe() and psmouse_probe()
    assert_eq!(pc.keyboard(0xff), [0xfa, 0xaa]);
    assert_eq!(pc.keyboard(0xf2), [0xfa, 0xab, 0x41]);
    assert_eq!(pc.keyboard(0xed), [0xfa]);
    assert_eq!(pc.keyboard(0x00), [0xfa]);
    assert_eq!(pc.keyboard(0xf4), [0xfa]);
    assert_eq!(pc.mouse(0xf2), [0xfa, 0x00]);
    assert_eq!(pc.mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(pc.mouse(0xf4), [0xfa]);
}

#[test]
fn the_reset_commands_reset_and_others_do_not() {
    let pc = pc();
    pc.command(0xfe);
    assert_eq!(pc.power.events(), [PowerEvent::Reset]);
    for pulse in [0xff, 0xfd, 0xf1, 0x00, 0xef] {
        pc.command(pulse);
    }
    pc.command_with(0xd1, 0xdf);
    assert_eq!(pc.power.events().len(), 1);
    pc.command_with(0xd1, 0xde);
    assert_eq!(pc.power.events().len(), 2);
    pc.command(0xf0);
    assert_eq!(pc.power.events().len(), 3);
}

#[test]
fn a20_reads_back_as_written() {
    let pc = pc();
    assert_eq!(pc.ask(0xd0), 0xcf);
    pc.command_with(0xd1, 0xdd);
    assert_eq!(pc.ask(0xd0) & 0x02, 0);
    pc.command_with(0xd1, 0xdf);
    assert_eq!(pc.ask(0xd0) & 0x02, 0x02);
}

#[test]
fn ports_and_ram_can_be_read() {
    let pc = pc();
    assert_eq!(pc.ask(0x20), 0x61);
    pc.command_with(0x60, 0xff);
    assert_eq!(pc.ask(0x20), 0x7f, "bit 7 is reserved");
    for index in 1..32u8 {
        pc.command_with(0x60 + index, 0xa0 ^ index);
    }
    for index in 1..32u8 {
        assert_eq!(pc.ask(0x20 + index), 0xa0 ^ index);
    }
    assert_eq!(pc.ask(0xc0), 0x83);
    assert_eq!(pc.ask(0xe0), 0x00, "both clocks are held low");
    pc.command(0xae);
    pc.command(0xa8);
    assert_eq!(pc.ask(0xe0), 0x03);
    assert_eq!(pc.ask(0xa4), 0xf1);
    assert_eq!(pc.ask(0xab), 0x00);
    pc.command(0xc1);
    assert_eq!(pc.status() & 0xf0, 0x30);
    pc.command(0xc2);
    assert_eq!(pc.status() & 0xf0, 0x80);
    pc.command(0xad);
    assert_eq!(pc.status() & 0xf0, 0x10);
}

#[test]
fn status_tells_commands_from_data_and_shows_the_system_flag() {
    let pc = pc();
    assert_eq!(pc.status(), 0x18);
    pc.command(0xad);
    assert_eq!(pc.status() & 0x08, 0x08);
    pc.command_with(0x60, 0x65);
    assert_eq!(pc.status() & 0x0c, 0x04);
    pc.command_with(0x60, 0x61);
    assert_eq!(pc.status() & 0x0c, 0x00);
    assert_eq!(pc.ask(0xaa), 0x55);
    assert_eq!(pc.status() & 0x04, 0x04);
}

#[test]
fn a_self_test_sets_the_system_flag_and_leaves_the_command_byte_alone() {
    let pc = pc();
    pc.command_with(0x60, 0x61);
    assert_eq!(pc.ask(0xaa), 0x55);
    assert_eq!(pc.status() & 0x04, 0x04);
    assert_eq!(pc.ask(0x20), 0x61);
}

#[test]
fn keys_wait_while_the_interface_is_off_and_sending_switches_it_on() {
    let pc = pc().untranslated();
    pc.command(0xad);
    pc.chip.key(&[0x1c, 0xf0, 0x1c]);
    assert_eq!(pc.status() & OBF, 0);
    assert_eq!(pc.irq1.rises(), 0);
    pc.command(0xae);
    assert_eq!(pc.flush(), [0x1c, 0xf0, 0x1c]);
    assert_eq!(pc.irq1.rises(), 3, "an edge for each byte");
    pc.command(0xad);
    assert_eq!(pc.keyboard(0xee), [0xee]);
    assert_eq!(pc.ask(0x20) & 0x10, 0);
}

#[test]
fn an_answer_goes_first_and_loses_no_key() {
    let pc = pc().untranslated();
    pc.chip.key(&[0x1c, 0x32]);
    pc.command(0x20);
    pc.command(0xaa);
    assert_eq!(pc.flush(), [0x55, 0x1c, 0x32], "the unread answer is gone, the key is not");
    assert_eq!(inb(&*pc.chip, DATA), 0x32, "the buffer keeps its last byte");
    assert_eq!(pc.irq1.rises(), 3);
}

#[test]
fn loops_look_like_the_device() {
    let pc = pc();
    pc.command_with(0x60, 0x33);
    pc.command_with(0xd2, 0x12);
    assert!(pc.irq1.level() && !pc.irq12.level());
    assert_eq!(pc.status() & (OBF | AUXOBF), OBF);
    assert_eq!(pc.answer(), 0x12);
    assert_eq!(pc.aux_loop(0x34), 0x34);
    assert_eq!((pc.irq1.rises(), pc.irq12.rises()), (1, 1));
}

#[test]
fn the_command_byte_masks_interrupts_at_once() {
    let pc = pc().untranslated();
    pc.chip.key(&[0x1c]);
    assert!(pc.irq1.level());
    pc.command_with(0x60, 0x00);
    assert!(!pc.irq1.level());
    pc.command_with(0x60, 0x01);
    assert!(pc.irq1.level());
    pc.chip.reset();
    assert!(!pc.irq1.level());
    assert_eq!(pc.flush(), []);
}

#[test]
fn the_refresh_bit_toggles_with_time() {
    let pc = pc();
    let mut toggles = 0;
    let mut last = inb(&*pc.chip, PORT_B) & 0x10;
    for _ in 0..1000 {
        pc.clock.step_ns(1_000);
        let now = inb(&*pc.chip, PORT_B) & 0x10;
        toggles += u32::from(now != last);
        last = now;
    }
    assert_eq!(toggles, 66, "one per 15.085 us in 1 ms");
}

#[test]
fn port_b_reaches_timer_2() {
    #[derive(Clone, Default)]
    struct Channel(Arc<AtomicBool>);
    impl Timer2 for Channel {
        fn gate(&self, on: bool) {
            self.0.store(on, Ordering::Relaxed);
        }
        fn output(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let channel = Channel::default();
    let pc = pc_with(Box::new(channel.clone()));
    assert_eq!(inb(&*pc.chip, PORT_B), 0x00);
    outb(&*pc.chip, PORT_B, 0xf1);
    assert_eq!(inb(&*pc.chip, PORT_B), 0x21, "only bits 3:0 are written");
    pc.chip.reset();
    assert!(!channel.output());
    let plain = self::pc();
    outb(&*plain.chip, PORT_B, 0x03);
    assert_eq!(inb(&*plain.chip, PORT_B), 0x23);
}

#[test]
fn registers_have_names_and_holes_read_all_ones() {
    let pc = pc();
    let name = |offset| {
        let both = [Direction::Read, Direction::Write];
        both.map(|direction| pc.chip.register(offset, direction))
    };
    assert_eq!(name(0), [Some("OUTPUT_BUFFER"), Some("INPUT_BUFFER")]);
    assert_eq!(name(1), [Some("PORT_B"), Some("PORT_B")]);
    assert_eq!(name(4), [Some("STATUS"), Some("COMMAND")]);
    assert_eq!(name(2), [None, None]);
    assert_eq!(inb(&*pc.chip, 2), 0xff);
}

#[test]
fn a_snapshot_goes_on_where_it_was_taken() {
    let pc = pc().untranslated();
    pc.chip.key(&[0x1c, 0x32]);
    pc.command(0x60);
    let copy = self::pc();
    copy.chip.restore(&pc.chip.save()).unwrap();
    assert!(copy.irq1.level());
    copy.data(0x41);
    assert_eq!(copy.flush(), [0x1c, 0x30], "the second byte is translated");
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    Read(u64),
    Key(Vec<u8>),
    Move(i32, i32, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop_oneof![Just(0u64), Just(4), 0u64..8], any::<u8>())
            .prop_map(|(offset, value)| Step::Write(offset, value)),
        2 => (0u64..8).prop_map(Step::Read),
        1 => prop::collection::vec(any::<u8>(), 0..8).prop_map(Step::Key),
        1 => (any::<i32>(), any::<i32>(), any::<u8>()).prop_map(|(x, y, b)| Step::Move(x, y, b)),
    ]
}

proptest! {
    #[test]
    fn no_access_breaks_the_rules(script in prop::collection::vec(step(), 1..300)) {
        let pc = pc();
        for step in script {
            match step {
                Step::Write(offset, value) => outb(&*pc.chip, offset, value),
                Step::Read(offset) => { inb(&*pc.chip, offset); }
                Step::Key(codes) => pc.chip.key(&codes),
                Step::Move(dx, dy, buttons) => pc.chip.movement(dx, dy, buttons),
            }
            let state = pc.chip.state();
            prop_assert!(state.keyboard.codes.len() <= 17);
            prop_assert!(state.keyboard.answers.len() <= 3);
            prop_assert!(state.mouse.out.len() <= 4);
            prop_assert!(state.mouse.last.len() <= 4);
            prop_assert!(state.output_full || state.displaced.is_none());
            // Each line is up exactly while its byte is there and its interrupt on.
            let byte = state.command_byte;
            let (full, aux) = (state.output_full, state.output.aux);
            prop_assert_eq!(pc.irq1.level(), full && !aux && byte.keyboard_interrupt());
            prop_assert_eq!(pc.irq12.level(), full && aux && byte.aux_interrupt());
        }
        // Whatever happened, a driver can start over.
        pc.command(0xad);
        pc.command(0xa7);
        pc.flush();
        prop_assert_eq!(pc.ask(0xaa), 0x55);
        pc.command_with(0x60, 0x00);
        pc.flush();
        prop_assert_eq!(pc.keyboard(0xff), vec![0xfa, 0xaa]);
        prop_assert_eq!(pc.mouse(0xff), vec![0xfa, 0xaa, 0x00]);
    }
}
