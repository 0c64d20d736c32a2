//! The device, as firmware uses it.

use proptest::prelude::*;
use trapline_testkit::{CX, inb};

use super::regs::key;
use super::*;

const RAM: u64 = 0x1_0000;
/// Where tests put the structure of an operation.
const ACCESS: u64 = 0x100;

struct Bench {
    dev: FwCfg,
    mem: GuestMem,
}

impl Bench {
    fn new(layout: Layout) -> Self {
        let mut items = Items::new();
        items.set(key::NB_CPUS, 3u16.to_le_bytes());
        items.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes());
        items.add_file("opt/z", b"the last".to_vec()).unwrap();
        items.add_file("etc/e820", vec![0x55; 20]).unwrap();
        items.add_writable_file("etc/written", vec![0; 8]).unwrap();
        let mem = GuestMem::new(&[(0, RAM), (1 << 32, RAM)]).unwrap();
        Self { dev: FwCfg::new(layout, items, mem.clone()), mem }
    }

    fn select(&self, key: u16) {
        match self.dev.layout {
            Layout::Ports => self.dev.write(&CX, 0, Size::Word, key.into()),
            Layout::Mmio => self.dev.write(&CX, 8, Size::Word, key.swap_bytes().into()),
        }
    }

    fn item(&self, key: u16, len: usize) -> Vec<u8> {
        self.select(key);
        let data = if self.dev.layout == Layout::Ports { 1 } else { 0 };
        (0..len).map(|_| inb(&self.dev, data)).collect()
    }

    /// Carries out an operation and returns the control word after it.
    fn operate(&self, at: u64, control: u32, len: u32, address: u64) -> u32 {
        let mut access = control.to_be_bytes().to_vec();
        access.extend(len.to_be_bytes());
        access.extend(address.to_be_bytes());
        self.mem.write(at, &access).unwrap();
        let (high, low) = match self.dev.layout {
            Layout::Ports => (4, 8),
            Layout::Mmio => (16, 20),
        };
        let half =
            |shift: u32| u64::from(u32::try_from(at >> shift & 0xffff_ffff).unwrap().swap_bytes());
        if at >> 32 != 0 {
            self.dev.write(&CX, high, Size::Dword, half(32));
        }
        self.dev.write(&CX, low, Size::Dword, half(0));
        let mut after = [0; 4];
        self.mem.read(at, &mut after).unwrap();
        u32::from_be_bytes(after)
    }

    fn ram(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }
}

fn both(test: impl Fn(Bench)) {
    [Layout::Ports, Layout::Mmio].map(Bench::new).into_iter().for_each(test);
}

#[test]
fn firmware_finds_the_device_by_its_signatures() {
    both(|bench| {
        assert_eq!(bench.item(key::SIGNATURE, 5), *b"QEMU\0");
        assert_eq!(bench.item(key::ID, 4), [3, 0, 0, 0]);
        let at = u64::from(bench.dev.layout.window_len()) - 8;
        let halves = [at, at + 4].map(|at| bench.dev.read(&CX, at, Size::Dword));
        assert_eq!(halves, [*b"QEMU", *b" CFG"].map(|text| u64::from(u32::from_le_bytes(text))));
    });
    let mmio = Bench::new(Layout::Mmio).dev;
    assert_eq!(mmio.read(&CX, 16, Size::Qword), u64::from_le_bytes(*b"QEMU CFG"));
}

#[test]
fn items_are_read_from_their_start_and_are_zero_past_their_end() {
    both(|bench| {
        assert_eq!(bench.item(key::NB_CPUS, 4), [3, 0, 0, 0]);
        assert_eq!(bench.item(key::NB_CPUS | regs::WRITE_CHANNEL, 1), [3]);
        assert_eq!(bench.item(key::IRQ0_OVERRIDE, 1), [1]);
        assert_eq!(bench.item(key::IRQ0_OVERRIDE & 0x7fff, 1), [0], "another item");
        assert_eq!(bench.item(0x3fff, 2), [0, 0]);
        assert_eq!(bench.item(0xffff, 2), [0, 0]);
    });
}

#[test]
fn the_directory_lists_files_by_name_with_their_keys() {
    both(|bench| {
        let directory = bench.item(key::FILE_DIR, 4 + 3 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 3]);
        let entries: Vec<_> = directory[4..].chunks(64).collect();
        let names = ["etc/e820", "etc/written", "opt/z"];
        for ((entry, name), at) in entries.iter().zip(names).zip(0u8..) {
            assert_eq!(entry[4..8], [0, 0x20 + at, 0, 0]);
            assert_eq!(entry[8..8 + name.len()], *name.as_bytes());
            assert!(entry[8 + name.len()..].iter().all(|byte| *byte == 0));
        }
        assert_eq!(entries[2][..4], [0, 0, 0, 8]);
        assert_eq!(bench.item(0x22, 9), *b"the last\0");
    });
}

#[test]
fn a_string_read_is_as_many_reads_and_wide_reads_are_substrings() {
    let bench = Bench::new(Layout::Ports);
    bench.select(0x22);
    let mut text = [0xff; 10];
    bench.dev.read_rep(&CX, 1, Size::Byte, &mut text);
    assert_eq!(text, *b"the last\0\0");
    bench.select(0x22);
    assert_eq!(bench.dev.read(&CX, 0, Size::Word), 0xffff, "nothing is 16 bits wide");
    assert_eq!(inb(&bench.dev, 0), b't', "the selector's port reads data");
    let mut none = [0; 4];
    bench.dev.read_rep(&CX, 2, Size::Word, &mut none);
    assert_eq!(none, [0xff; 4]);

    let bench = Bench::new(Layout::Mmio);
    bench.select(0x22);
    let text = bench.dev.read(&CX, 0, Size::Dword).to_le_bytes();
    assert_eq!(text[..4], *b"the ");
    let mut text = [0xff; 8];
    bench.dev.read_rep(&CX, 0, Size::Word, &mut text);
    assert_eq!(text, *b"last\0\0\0\0");
    bench.select(0x22);
    assert_eq!(bench.dev.read(&CX, 0, Size::Qword).to_le_bytes(), *b"the last");
}

#[test]
fn an_operation_selects_reads_and_skips() {
    both(|bench| {
        bench.mem.write(0x200, &[0xee; 32]).unwrap();
        assert_eq!(bench.operate(ACCESS, 0x22 << 16 | 0b1010, 4, 0x200), 0);
        assert_eq!(bench.ram(0x200, 5), *b"the \xee");
        assert_eq!(bench.operate(ACCESS, 0b100, 2, 0), 0);
        assert_eq!(bench.operate(ACCESS, 0b10, 8, 0x200), 0);
        assert_eq!(bench.ram(0x200, 9), *b"st\0\0\0\0\0\0\xee", "zeros past the end");
        assert_eq!(bench.operate(ACCESS, 0x22 << 16 | 0b1100, 0xffff_ffff, 0), 0);
        assert_eq!(bench.operate(ACCESS, 0b10, 2, 0x200), 0);
        assert_eq!(bench.ram(0x200, 2), [0, 0], "the offset stops at the end");
        assert_eq!(bench.operate(ACCESS, 0x22 << 16 | 0b1000, 0, 0), 0);
        let high = (1 << 32) + 0x40;
        assert_eq!(bench.operate(high, 0b10, 3, (1 << 32) + 0x800), 0);
        assert_eq!(bench.ram((1 << 32) + 0x800, 3), *b"the");
        assert_eq!(bench.operate(ACCESS, 0b10, 1, 0x200), 0, "the upper half is 0 again");
        assert_eq!(bench.ram(0x200, 1), *b" ");
    });
}

#[test]
fn one_wide_write_starts_an_operation_in_memory() {
    let bench = Bench::new(Layout::Mmio);
    bench.operate(ACCESS, 0x22 << 16 | 0b1000, 0, 0);
    let mut access = 0b10u32.to_be_bytes().to_vec();
    access.extend(3u32.to_be_bytes());
    access.extend(0x300u64.to_be_bytes());
    bench.mem.write(ACCESS, &access).unwrap();
    bench.dev.write(&CX, 16, Size::Qword, ACCESS.swap_bytes());
    assert_eq!(bench.ram(0x300, 3), *b"the");
}

#[test]
fn what_is_not_ram_is_refused_with_the_error_bit() {
    both(|bench| {
        let read = 0x22 << 16 | 0b1010;
        for (address, len) in [(RAM, 1), (RAM - 1, 2), (u64::MAX, 8), (0, u32::MAX)] {
            assert_eq!(bench.operate(ACCESS, read, len, address), 1, "{address:#x}");
        }
        assert_eq!(bench.ram(RAM - 1, 1), [0], "nothing was written");
        assert_eq!(bench.operate(ACCESS, read, 0, u64::MAX), 0, "nothing to write");
        // A structure that is not in RAM, or only in part.
        let low = if bench.dev.layout == Layout::Ports { 8 } else { 20 };
        for at in [RAM, RAM - 8, 0xffff_fff0] {
            let at = u32::try_from(at).unwrap();
            bench.dev.write(&CX, low, Size::Dword, at.swap_bytes().into());
        }
        assert_eq!(bench.ram(RAM - 8, 4), [0, 0, 0, 1]);
    });
}

#[test]
fn only_whole_writes_to_writable_items_are_taken() {
    both(|bench| {
        bench.mem.write(0x200, b"abcdefgh").unwrap();
        let write = 0b1_1000;
        assert_eq!(bench.operate(ACCESS, 0x22 << 16 | write, 4, 0x200), 1, "read-only");
        assert_eq!(bench.operate(ACCESS, 0x3f << 16 | write, 1, 0x200), 1, "not there");
        assert_eq!(bench.operate(ACCESS, 0x21 << 16 | write, 9, 0x200), 1, "too long");
        assert_eq!(bench.operate(ACCESS, 0x21 << 16 | write, 8, RAM - 4), 1, "no RAM");
        assert_eq!(bench.operate(ACCESS, 0x21 << 16 | write, 4, 0x200), 0);
        assert_eq!(bench.operate(ACCESS, 0b1_0000, 5, 0x200), 1, "past the end");
        assert_eq!(bench.operate(ACCESS, 0b1_0000, 4, 0x202), 0);
        assert_eq!(bench.item(0x21, 8), *b"abcdcdef");
        bench.dev.reset();
        assert_eq!(inb(&bench.dev, 1), b'Q', "reset selects the signature");
        let data = if bench.dev.layout == Layout::Ports { 1 } else { 0 };
        bench.select(0x21);
        bench.dev.write(&CX, data, Size::Byte, 0xff);
        assert_eq!(bench.item(0x21, 1), *b"a", "the data register cannot be written");
    });
}

#[test]
fn names_are_checked_and_unique() {
    let mut items = Items::new();
    let mut refused = |name: &str| items.add_file(name, vec![]).unwrap_err().to_string();
    assert!(refused("").contains("a name has 1 to 55 printable ASCII characters"));
    assert!(refused(&"x".repeat(56)).contains("1 to 55"));
    assert!(refused("opt/ü").contains("ASCII"));
    assert!(items.add_file(&"x".repeat(55), vec![]).is_ok());
    let twice = items.add_writable_file(&"x".repeat(55), vec![]).unwrap_err();
    assert!(twice.to_string().ends_with("is there already"));
}

#[test]
fn states_of_another_board_are_refused() {
    let bench = Bench::new(Layout::Ports);
    let other = FwCfg::new(Layout::Ports, Items::new(), bench.mem.clone());
    let text = other.restore(&bench.dev.save()).unwrap_err().to_string();
    assert!(text.contains("the board has the same items for the guest to write"), "{text}");
    bench.item(0x22, 8);
    let text = other.restore(&bench.dev.save()).unwrap_err().to_string();
    assert!(text.contains("the offset is inside the selected item"), "{text}");
}

#[test]
fn registers_have_their_names() {
    let bench = Bench::new(Layout::Ports);
    let names = [0, 1, 4, 8].map(|at| bench.dev.register(at, Direction::Write));
    assert_eq!(names, [Some("SELECTOR"), Some("SELECTOR"), Some("DMA_HIGH"), Some("DMA_LOW")]);
    assert_eq!(bench.dev.register(1, Direction::Read), Some("DATA"));
}

proptest! {
    /// No script panics, reads are as wide as asked for, and a restored device goes on the same.
    #[test]
    fn any_script_is_survived_and_saved(
        mmio in any::<bool>(),
        ram in proptest::collection::vec(any::<u8>(), 64),
        script in proptest::collection::vec(
            (0u64..24, any::<u64>(), 0usize..4, any::<bool>(), any::<bool>()), 0..60),
        split in 0usize..60,
    ) {
        let layout = if mmio { Layout::Mmio } else { Layout::Ports };
        let (bench, other) = (Bench::new(layout), Bench::new(layout));
        let play = |bench: &Bench, part: &[(u64, u64, usize, bool, bool)]| {
            part.iter().map(|&(offset, value, size, write, small)| {
                let size = [Size::Byte, Size::Word, Size::Dword, Size::Qword][size];
                let size = size.min(bench.dev.rules().handled.max);
                let offset = offset % u64::from(layout.window_len());
                let offset = offset & !(size.bytes() as u64 - 1);
                let value = if small { value & 0x3f00_0000_3f00_3f3f } else { value } & size.ones();
                if write {
                    bench.dev.write(&CX, offset, size, value);
                    0
                } else {
                    bench.dev.read(&CX, offset, size)
                }
            }).collect::<Vec<_>>()
        };
        for bench in [&bench, &other] {
            bench.mem.write(0, &ram).unwrap();
        }
        let (first, then) = script.split_at(split.min(script.len()));
        let reads = play(&bench, first);
        prop_assert_eq!(&reads, &play(&other, first));
        let fresh = Bench::new(layout);
        prop_assert!(fresh.dev.restore(&bench.dev.save()).is_ok());
        fresh.mem.write(0, &bench.ram(0, usize::try_from(RAM).unwrap())).unwrap();
        let high = bench.ram(1 << 32, usize::try_from(RAM).unwrap());
        fresh.mem.write(1 << 32, &high).unwrap();
        prop_assert_eq!(play(&bench, then), play(&fresh, then));
        prop_assert_eq!(bench.dev.save(), fresh.dev.save());
    }
}
