//! The test device, as test guests use it.

use std::array;

use proptest::prelude::*;
use trapline_device::{Device, SaveState, Saved};
use trapline_testkit::{CX, TestLine, TestPower, inb, outb};

use super::*;

#[derive(Clone, Default)]
struct Flushed(Arc<Mutex<Vec<u64>>>);

impl PageFlush for Flushed {
    fn flush(&self, addr: u64) {
        self.0.lock().push(addr);
    }
}

#[derive(Default)]
struct Bench {
    lines: [TestLine; LINES],
    power: TestPower,
    flushed: Flushed,
}

impl Bench {
    fn device(&self) -> Arc<TestDev> {
        let lines = array::from_fn(|at| self.lines[at].line());
        TestDev::new(lines, Arc::new(self.power.clone()), Arc::new(self.flushed.clone()))
    }
}

fn device() -> Arc<TestDev> {
    Bench::default().device()
}

#[test]
fn the_latch_is_seen_whole_and_in_parts_through_both_of_its_windows() {
    let dev = device();
    dev.write(&CX, 0, Size::Dword, 0x1234_5678);
    assert_eq!(dev.read(&CX, 0, Size::Dword), 0x1234_5678);
    outb(&*dev, 1, 0xaa);
    dev.write(&CX, 2, Size::Word, 0xbbcc);
    assert_eq!(dev.read(&CX, 8, Size::Dword), 0xbbcc_aa78);
    dev.write(&CX, 8, Size::Word, 0x0102);
    assert_eq!((dev.read(&CX, 0, Size::Word), inb(&*dev, 11)), (0x0102, 0xbb));
    dev.reset();
    assert_eq!(dev.read(&CX, 0, Size::Dword), 0);
}

#[test]
fn a_page_is_flushed_by_a_whole_write_and_the_register_cannot_be_read() {
    let bench = Bench::default();
    let dev = bench.device();
    dev.write(&CX, 4, Size::Dword, 0x1234_5678);
    dev.write(&CX, 4, Size::Byte, 0x78);
    assert_eq!(*bench.flushed.0.lock(), [0x1234_5000]);
    assert_eq!(dev.read(&CX, 4, Size::Dword), 0xffff_ffff);
    assert_eq!(dev.register(4, Direction::Read), None);
    assert_eq!(dev.register(4, Direction::Write), Some("FLUSH"));
}

#[test]
fn each_line_follows_its_port_and_reset_lets_go_of_them() {
    let bench = Bench::default();
    let dev = bench.device();
    let ports = IrqLines(dev.clone());
    outb(&ports, 14, 1);
    outb(&ports, 23, 0x80);
    outb(&ports, 24, 1);
    assert!(bench.lines[14].level() && bench.lines[23].level());
    outb(&ports, 14, 0);
    assert!(!bench.lines[14].level() && bench.lines[23].level());
    assert_eq!(inb(&ports, 23), 0xff);
    dev.reset();
    assert!(bench.lines.iter().all(|line| !line.level()));
}

#[test]
fn scratch_memory_takes_every_size_up_to_its_end() {
    let scratch = Scratch(device());
    scratch.write(&CX, 0xfff8, Size::Qword, 0x0807_0605_0403_0201);
    scratch.write(&CX, 0xfffe, Size::Word, 0xbbaa);
    assert_eq!(scratch.read(&CX, 0xfff8, Size::Qword), 0xbbaa_0605_0403_0201);
    assert_eq!(scratch.read(&CX, 0xfffc, Size::Dword), 0xbbaa_0605);
    assert_eq!(scratch.read(&CX, 0xffff, Size::Byte), 0xbb);
}

#[test]
fn the_whole_word_and_nothing_else_switches_off() {
    let bench = Bench::default();
    let port = PowerPort(bench.device());
    let say = |text: &[u8]| text.iter().for_each(|byte| outb(&port, 0, *byte));
    say(b"Shutdow shutdown Shut");
    assert_eq!(bench.power.events(), []);
    say(b"Shutdown");
    assert_eq!(bench.power.events(), [PowerEvent::Off]);
    assert_eq!(inb(&port, 0), 0xff);
}

#[test]
fn impossible_states_are_refused_by_what_is_wrong() {
    let dev = device();
    let state = State { shutdown: 8, ..State::default() };
    let text = dev.restore(&Saved::encode(&SavedV1::from(&state))).unwrap_err().to_string();
    assert!(text.contains("the word to switch off is not complete"), "{text}");
    let state = State { scratch: vec![0; 3], ..State::default() };
    let text = dev.restore(&Saved::encode(&SavedV1::from(&state))).unwrap_err().to_string();
    assert!(text.contains("the scratch memory has its size"), "{text}");
}

proptest! {
    #[test]
    fn a_saved_device_goes_on_as_the_original(
        script in proptest::collection::vec((0usize..4, any::<u16>(), any::<u64>()), 0..60),
        rest in proptest::collection::vec((0usize..4, any::<u16>(), any::<u64>()), 0..20),
    ) {
        let (bench, other) = (Bench::default(), Bench::default());
        let (dev, copy) = (bench.device(), other.device());
        let play = |dev: &Arc<TestDev>, script: &[(usize, u16, u64)]| {
            for &(window, at, value) in script {
                let at = u64::from(at);
                match window {
                    0 => dev.write(&CX, at % 12, Size::Byte, value & 0xff),
                    1 => outb(&IrqLines(dev.clone()), at % 24, low_byte(value)),
                    2 => Scratch(dev.clone()).write(&CX, at & !7, Size::Qword, value),
                    _ => outb(&PowerPort(dev.clone()), 0, SHUTDOWN[usize::from(low_byte(value)) % 8]),
                }
            }
        };
        play(&dev, &script);
        prop_assert!(copy.restore(&dev.save()).is_ok());
        play(&dev, &rest);
        play(&copy, &rest);
        prop_assert_eq!(&*dev.state.lock(), &*copy.state.lock());
        let levels = |bench: &Bench| bench.lines.iter().map(TestLine::level).collect::<Vec<_>>();
        prop_assert_eq!(levels(&bench), levels(&other));
    }
}
