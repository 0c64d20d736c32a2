//! The small ports, as guests and firmware use them.

use std::sync::Arc;

use proptest::prelude::*;
use trapline_device::{Device, Direction, Handler, NullBackend, PowerEvent, Size};
use trapline_testkit::{CX, TestPower, TestTerminal, inb, outb};

use super::{
    Crtc, DebugConsole, DebugPort, EmptyAtaChannel, ExitPort, FpuPorts, Latches, PrinterPort,
    SystemControl, dma,
};

#[test]
fn post_delay_and_page_ports_read_back_what_was_written() {
    let post = Latches::post();
    assert_eq!(inb(&post, 0), 0);
    outb(&post, 0, 0x42);
    assert_eq!((inb(&post, 0), post.value(0)), (0x42, Some(0x42)));

    let pages = Latches::dma_pages();
    assert_eq!(pages.len(), 15, "0x81 to 0x8f");
    for port in 0..15 {
        outb(&pages, u64::from(port), 0xf0 | port);
    }
    assert!((0..15).all(|port| inb(&pages, u64::from(port)) == 0xf0 | port));
    assert_eq!(pages.register(0x87 - 0x81, Direction::Write), Some("PAGE0"));
    assert_eq!(inb(&pages, 15), 0xff);
    pages.reset();
    assert_eq!(inb(&pages, 3), 0);
    assert_eq!((Latches::delay().len(), Latches::delay().is_empty()), (1, false));
}

#[test]
fn port_92_has_a20_on_and_resets_once_per_rising_edge() {
    let power = TestPower::default();
    let port = SystemControl::new(Arc::new(power.clone()));
    assert_eq!(inb(&port, 0), 0x02);
    outb(&port, 0, 0x00);
    assert_eq!(inb(&port, 0), 0x00, "the A20 bit reads back");
    outb(&port, 0, 0xff);
    assert_eq!(inb(&port, 0), 0xcb);
    outb(&port, 0, 0x03);
    assert_eq!(inb(&port, 0), 0x0b, "the security lock stays");
    assert_eq!(power.events(), [PowerEvent::Reset]);
    outb(&port, 0, 0x02);
    outb(&port, 0, 0x03);
    assert_eq!(power.events().len(), 2);
    port.reset();
    assert_eq!(inb(&port, 0), 0x02);
}

/// As U-Boot and SeaBIOS probe a channel: choose a drive, wait until it is not busy, see whether it
/// keeps what is written.
#[test]
fn a_channel_without_drives_is_neither_busy_nor_keeps_anything() {
    let (command, control) = (EmptyAtaChannel::CommandBlock, EmptyAtaChannel::ControlBlock);
    outb(&control, 0, 0x0e);
    for drive in [0xa0, 0xb0] {
        outb(&command, 6, drive);
        outb(&command, 2, 0x55);
        assert_eq!((inb(&command, 7), inb(&control, 0)), (0x7f, 0x7f), "not busy");
        assert_eq!((inb(&command, 2), inb(&command, 6)), (0x7f, 0x7f));
    }
    assert_eq!(command.read(&CX, 0, Size::Byte), 0x7f);
    assert_eq!(command.read(&CX, 0, Size::Word), 0xff7f, "a transfer of 16 bits");
    assert_eq!(command.read(&CX, 0, Size::Dword), 0xff7f_ff7f, "two of them");
    assert_eq!(command.read(&CX, 6, Size::Word), 0x7f7f, "two registers");
    let names = |offset| {
        [Direction::Read, Direction::Write].map(|way| command.register(offset, way).unwrap())
    };
    assert_eq!((names(1), names(7)), (["ERROR", "FEATURES"], ["STATUS", "COMMAND"]));
    assert_eq!(control.register(0, Direction::Read), Some("ALTERNATE_STATUS"));
    assert_eq!(control.register(0, Direction::Write), Some("DEVICE_CONTROL"));
    assert_eq!(control.register(1, Direction::Read), None);
}

#[test]
fn the_fpu_ports_take_writes_and_read_all_ones() {
    outb(&FpuPorts, 0, 0);
    outb(&FpuPorts, 1, 0);
    assert_eq!((inb(&FpuPorts, 0), inb(&FpuPorts, 1)), (0xff, 0xff));
    assert_eq!(FpuPorts.register(0, Direction::Write), Some("CLRBUSY"));
}

#[test]
fn a_printer_port_is_there_but_its_printer_is_not() {
    let port = PrinterPort::default();
    outb(&port, 0, 0xaa);
    outb(&port, 1, 0x00);
    outb(&port, 2, 0x0c);
    assert_eq!((inb(&port, 0), inb(&port, 1), inb(&port, 2)), (0xaa, 0x7f, 0xec));
    outb(&port, 2, 0xff);
    assert_eq!(inb(&port, 2) & 0x1f, 0x1f);
    port.reset();
    assert_eq!((inb(&port, 0), inb(&port, 2), inb(&port, 3)), (0, 0xe0, 0xff));
}

#[test]
fn crtc_registers_keep_the_bits_they_have() {
    let crtc = Crtc::default();
    for (index, mask) in [(0x0e, 0x3f), (0x0f, 0xff), (0x0a, 0x7f), (0x10, 0x00), (0x1f, 0x00)] {
        outb(&crtc, 0, index | 0xe0);
        outb(&crtc, 1, 0xff);
        assert_eq!((inb(&crtc, 0), inb(&crtc, 1)), (index, mask));
    }
    crtc.reset();
    outb(&crtc, 0, 0x0f);
    assert_eq!(inb(&crtc, 1), 0);
}

#[test]
fn firmware_finds_the_debug_console_and_prints_to_it() {
    let terminal = TestTerminal::default();
    let console = DebugConsole::new(Arc::new(terminal.clone()));
    assert_eq!(inb(&console, 0), 0xe9);
    outb(&console, 0, b'S');
    console.write_rep(&CX, 0, Size::Byte, b"eaBIOS\n");
    assert_eq!(terminal.screen(), b"SeaBIOS\n");
}

#[test]
fn the_debug_port_tells_its_listener_who_wrote_what() {
    let terminal = TestTerminal::default();
    let port = DebugPort::new(Some(Arc::new(terminal.clone())));
    outb(&port, 0, 0x07);
    port.write(&CX, 0, Size::Dword, 0x1234);
    let text = String::from_utf8(terminal.screen()).unwrap();
    assert_eq!(text, "debug port: vcpu 0 wrote 0x07\ndebug port: vcpu 0 wrote 0x00001234\n");
    assert_eq!(inb(&port, 0), 0x34);
    port.reset();
    assert_eq!(inb(&port, 0), 0);
}

#[test]
fn the_exit_port_ends_the_machine_with_an_odd_status() {
    let power = TestPower::default();
    let port = ExitPort::new(Arc::new(power.clone()));
    assert_eq!(inb(&port, 0), 0);
    outb(&port, 0, 0);
    outb(&port, 0, 0x10);
    port.write(&CX, 0, Size::Dword, 0xffff_ffff);
    outb(&port, 1, 1);
    assert_eq!(power.events(), [1, 0x21, 0xff].map(PowerEvent::Exit));
}

fn every_port() -> Vec<Box<dyn Handler>> {
    let power = Arc::new(TestPower::default());
    vec![
        Box::new(Latches::post()),
        Box::new(Latches::delay()),
        Box::new(Latches::dma_pages()),
        Box::new(SystemControl::new(power.clone())),
        Box::new(FpuPorts),
        Box::new(PrinterPort::default()),
        Box::new(Crtc::default()),
        Box::new(DebugConsole::new(Arc::new(NullBackend))),
        Box::new(DebugPort::new(Some(Arc::new(NullBackend)))),
        Box::new(ExitPort::new(power)),
        Box::new(dma::Dma::bytes()),
        Box::new(dma::Dma::words()),
    ]
}

proptest! {
    /// No panic, no read wider than asked for, and the same script reads the same values on two
    /// sets of devices whatever was done to others in between: nothing stale leaks from one
    /// access into the next.
    #[test]
    fn any_script_reads_defined_values(
        script in proptest::collection::vec(
            (0..12usize, 0..40u64, any::<u64>(), 0..3usize, any::<bool>()), 0..100),
    ) {
        let (together, apart) = (every_port(), every_port());
        let mut reads = Vec::new();
        for &(which, offset, value, size, write) in &script {
            let device = &*together[which];
            let admitted = device.rules().handled.max;
            let size = [Size::Byte, Size::Word, Size::Dword][size].min(admitted);
            let offset = offset & !(size.bytes() as u64 - 1);
            let value = value & size.ones();
            if write {
                device.write(&CX, offset, size, value);
            } else {
                let read = device.read(&CX, offset, size);
                prop_assert!(read <= size.ones());
                reads.push((which, read));
            }
        }
        for (which, device) in apart.iter().enumerate() {
            let mut expected = reads.iter().filter(|(of, _)| *of == which).map(|(_, read)| *read);
            for &(_, offset, value, size, write) in script.iter().filter(|op| op.0 == which) {
                let size = [Size::Byte, Size::Word, Size::Dword][size].min(device.rules().handled.max);
                let offset = offset & !(size.bytes() as u64 - 1);
                if write {
                    device.write(&CX, offset, size, value & size.ones());
                } else {
                    prop_assert_eq!(Some(device.read(&CX, offset, size)), expected.next());
                }
            }
        }
    }
}
