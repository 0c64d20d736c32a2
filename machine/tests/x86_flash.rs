//! The PC's flash over qtest: where it is, what every command of it answers, and that what the guest
//! was told is done is in the file. The answers are QEMU's (`hw/block/pflash_cfi01.c`, which has one
//! x8 chip below 4 GiB); the test at the end asks it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

#[path = "qemu_differential/client.rs"]
mod client;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use client::Client;
use tempfile::TempDir;
use trapline_device::NullBackend;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::Session;

/// Images as long as those of OVMF with 4 MiB.
const CODE_LEN: usize = 0x37_c000;
const VARS_LEN: usize = 0x8_4000;
/// Where they are.
const CODE: u64 = 0xffc8_4000;
const VARS: u64 = 0xffc0_0000;

/// Two images, each with a text at its start and at its end.
struct Images {
    folder: TempDir,
}

impl Images {
    fn new() -> Self {
        let images = Self { folder: tempfile::tempdir().unwrap() };
        for (name, len) in [("code", CODE_LEN), ("vars", VARS_LEN)] {
            let mut bytes = vec![0xff; len];
            bytes[..4].copy_from_slice(name.as_bytes());
            bytes[len - 4..].copy_from_slice(name.as_bytes());
            std::fs::write(images.path(name), bytes).unwrap();
        }
        images
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A machine with both.
    fn machine(&self) -> Flash {
        ours(Some(self.path("code")), Some(self.path("vars")))
    }
}

/// Our machine, served by a thread that ends with its client.
fn ours(firmware: Option<PathBuf>, flash: Option<PathBuf>) -> Flash {
    let (theirs, mine) = UnixStream::pair().unwrap();
    let config = Config {
        board: BoardKind::X86Pc,
        cpus: 1,
        virtio: trapline_machine::VirtioTransport::Pci.into(),
        rng: false,
        edu: 0,
        disks: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        plugs: false,
        mem_bytes: 16 << 20,
        utc_start_ns: 946_684_800_000_000_000,
        console: Arc::new(NullBackend),
        console_kind: trapline_machine::ConsoleKind::Serial,
        ports: Vec::new(),
        balloon: None,
        nets: Vec::new(),
        exit_port: false,
        flash,
        firmware,
        testdev: false,
        fw_cfg: Vec::new(),
    };
    // Built here, so that the files are open when this returns.
    let machine = Machine::new(&config).unwrap();
    thread::spawn(move || Session::new(&machine).run(&theirs, &theirs).unwrap());
    Flash(Client::new(mine))
}

/// A driver that makes one access of a byte after the other.
struct Flash(Client);

impl Flash {
    fn read(&mut self, addr: u64) -> u8 {
        u8::try_from(self.0.number(&format!("readb {addr:#x}"))).unwrap()
    }

    fn write(&mut self, addr: u64, value: u8) {
        self.0.ask(&format!("writeb {addr:#x} {value:#x}"));
    }

    /// Writes bytes to one address, one after the other.
    fn writes(&mut self, addr: u64, values: &[u8]) {
        values.iter().for_each(|value| self.write(addr, *value));
    }

    /// The four bytes at an address.
    fn text(&mut self, addr: u64) -> String {
        (addr..addr + 4).map(|addr| char::from(self.read(addr))).collect()
    }

    /// What the status register says after these writes; it is cleared then and the array is read.
    fn status_after(&mut self, addr: u64, values: &[u8]) -> u8 {
        self.writes(addr, values);
        self.write(addr, 0x70);
        let status = self.read(addr);
        self.writes(addr, &[0x50, 0xff]);
        status
    }
}

fn file_at(path: &Path, offset: usize) -> u8 {
    std::fs::read(path).unwrap()[offset]
}

#[test]
fn the_code_ends_at_4_gib_and_the_variables_are_below() {
    let images = Images::new();
    let mut flash = images.machine();
    assert_eq!(flash.text(CODE), "code");
    assert_eq!(flash.text(0xffff_fffc), "code");
    assert_eq!(flash.text(VARS), "vars");
    assert_eq!(flash.text(CODE - 4), "vars");
    assert_eq!(flash.0.number("readq 0xffc83ffc"), u64::from_le_bytes(*b"varscode"), "a straddle");
    assert_eq!(flash.read(VARS - 1), 0xff, "nothing below");
    let images = Images::new();
    let mut alone = ours(None, Some(images.path("code")));
    assert_eq!(alone.text(CODE), "code", "an image alone ends at 4 GiB, too");
    alone.writes(CODE, &[0x40, 0, 0xff]);
    assert_eq!(file_at(&images.path("code"), 0), 0, "and can be changed");
}

#[test]
fn what_is_programmed_and_erased_is_in_the_file_and_there_the_next_time() {
    let images = Images::new();
    let vars = images.path("vars");
    let mut flash = images.machine();
    flash.writes(VARS + 0x1004, &[0x10, 0x3c]);
    assert_eq!(flash.read(VARS), 0x80, "done");
    assert_eq!(file_at(&vars, 0x1004), 0x3c);
    flash.writes(VARS, &[0x20, 0xd0]);
    assert_eq!(flash.read(VARS), 0x80, "done");
    assert_eq!((file_at(&vars, 0), file_at(&vars, 0x1004)), (0xff, 0x3c));
    flash.write(VARS, 0xff);
    flash.0.ask("readb 0x0");
    drop(flash);
    // The first machine ends when its client is gone.
    let mut again = wait_for_lock(&images);
    assert_eq!((again.read(VARS), again.read(VARS + 0x1004)), (0xff, 0x3c));
}

/// A machine with both images, as soon as another one has given them up.
fn wait_for_lock(images: &Images) -> Flash {
    let vars = std::fs::File::open(images.path("vars")).unwrap();
    vars.lock_shared().unwrap();
    drop(vars);
    images.machine()
}

#[test]
fn code_above_the_variables_cannot_be_changed() {
    let images = Images::new();
    let mut flash = images.machine();
    assert_eq!(flash.status_after(CODE, &[0x40, 0]), 0x90);
    assert_eq!(flash.status_after(CODE, &[0x20, 0xd0]), 0xa0);
    assert_eq!(flash.status_after(CODE, &[0xe8, 0, 0, 0xd0]), 0x90);
    assert_eq!(flash.text(CODE), "code");
    assert_eq!(file_at(&images.path("code"), 0), b'c');
    assert_eq!(flash.status_after(VARS, &[0x40, 0]), 0x80, "the variables can");
}

#[test]
fn every_chip_has_a_state_of_its_own_and_a_reset_ends_it() {
    let images = Images::new();
    let mut flash = images.machine();
    flash.write(VARS, 0x98);
    assert_eq!(flash.read(VARS + 0x10), b'Q');
    assert_eq!(flash.text(CODE), "code");
    // The keyboard controller's.
    flash.0.ask("outb 0x64 0xfe");
    assert_eq!(flash.text(VARS), "vars");
}

/// One command after the other, with what the data sheet and QEMU answer.
fn every_command(flash: &mut Flash) -> Vec<u8> {
    let mut seen = Vec::new();
    flash.write(VARS, 0x70);
    seen.push(flash.read(VARS));
    flash.write(VARS, 0x98);
    seen.extend((0..0x42).map(|word| flash.read(VARS + word)));
    flash.write(VARS, 0xff);
    flash.write(VARS, 0x90);
    seen.extend((0..4).map(|word| flash.read(VARS + word)));
    // What OVMF looks for: cleared, not busy with anything, and not ready.
    flash.write(VARS, 0x50);
    seen.push(flash.read(VARS));
    flash.write(VARS, 0x70);
    seen.push(flash.read(VARS));
    flash.write(VARS, 0xff);
    for (at, command, value) in [(0x2000, 0x10, 0xfe), (0x2001, 0x40, 0x7c)] {
        seen.push(flash.status_after(VARS + at, &[command, value]));
        seen.push(flash.read(VARS + at));
    }
    // A buffer of one byte and one of all it has.
    seen.push(flash.status_after(VARS + 0x2100, &[0xe8, 0, 0x11, 0xd0]));
    flash.writes(VARS + 0x2200, &[0xe8, 0xff]);
    seen.push(flash.read(VARS + 0x2200));
    (0..=255u8).for_each(|byte| flash.write(VARS + 0x2200 + u64::from(byte), byte));
    seen.push(flash.status_after(VARS + 0x2200, &[0xd0]));
    seen.extend([0x2100, 0x2101, 0x2200, 0x22ff, 0x2300].map(|at| flash.read(VARS + at)));
    // An erase reaches its block, from wherever in it, and no other.
    seen.push(flash.status_after(VARS + 0x2fff, &[0x20, 0xd0]));
    seen.extend([0x2001, 0x2200, 0x0].map(|at| flash.read(VARS + at)));
    // Locking succeeds and locks nothing.
    seen.push(flash.status_after(VARS, &[0x60, 0x01]));
    seen.push(flash.status_after(VARS + 0x10, &[0x40, 0xa5]));
    seen.push(flash.read(VARS + 0x10));
    seen.push(flash.status_after(VARS, &[0x60, 0xd0]));
    // No command of the chip's: the array.
    flash.writes(VARS, &[0xf0]);
    seen.push(flash.read(VARS));
    flash.writes(VARS, &[0x00]);
    seen.push(flash.read(VARS));
    seen
}

#[test]
fn sequences_that_are_none_are_errors_and_change_nothing() {
    let images = Images::new();
    let mut flash = images.machine();
    let before = std::fs::read(images.path("vars")).unwrap();
    assert_eq!(flash.status_after(VARS, &[0x20, 0x20]), 0xb0, "an erase that is not confirmed");
    assert_eq!(flash.status_after(VARS, &[0x60, 0x60]), 0xb0, "nor is a lock");
    assert_eq!(flash.status_after(VARS, &[0xe8, 0, 0, 0xff]), 0xb0, "nor a buffer");
    flash.writes(VARS, &[0xe8, 1, 0]);
    assert_eq!(flash.status_after(VARS + 2, &[0]), 0xb0, "a byte that was not announced");
    flash.writes(VARS, &[0x50, 0x40, 0xff, 0xb0]);
    assert_eq!(flash.read(VARS), 0x80, "there is nothing to suspend");
    flash.writes(VARS, &[0xd0, 0xff]);
    assert_eq!(flash.text(VARS), "vars");
    drop(flash);
    assert_eq!(std::fs::read(images.path("vars")).unwrap(), before);
}

/// QEMU with the same images.
struct Qemu {
    process: Child,
}

impl Qemu {
    fn start(images: &Images) -> Option<(Self, Flash)> {
        let socket = images.path("qtest");
        let listener = UnixListener::bind(&socket).unwrap();
        let drive = |name, unit| {
            let path = images.path(name);
            format!("if=pflash,format=raw,unit={unit},file={}", path.display())
        };
        let process = Command::new("qemu-system-x86_64")
            .args("-M pc -accel tcg -m 16 -S -display none -nodefaults".split(' '))
            .args(["-drive", &format!("{},readonly=on", drive("code", 0))])
            .args(["-drive", &drive("vars", 1)])
            .args(["-qtest", &format!("unix:{}", socket.display()), "-qtest-log", "none"])
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let stream = listener.accept().unwrap().0;
        Some((Self { process }, Flash(Client::new(stream))))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn every_command_answers_as_qemus() {
    let images = Images::new();
    let ours = every_command(&mut images.machine());
    #[rustfmt::skip]
    let expected = [
        // Ready.
        0x80,
        // The query table.
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        b'Q', b'R', b'Y', 0x01, 0x00, 0x31, 0x00, 0x00, 0x00, 0x00, 0x00, 0x45, 0x55, 0x00, 0x00, 0x07,
        0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00, 0x0e, 0x02, 0x00, 0x08, 0x00, 0x01, 0x83, 0x00, 0x10,
        0x00, b'P', b'R', b'I', b'1', b'0', 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
        0x00, 0x00,
        // Identifiers.
        0x00, 0x00, 0x00, 0x00,
        // After a clearing: the array, and not ready.
        b'v', 0x00,
        // Programmed.
        0x80, 0xfe, 0x80, 0x7c,
        // Buffers, and what is there then.
        0x80, 0x80, 0x80, 0x11, 0xff, 0x00, 0xff, 0xff,
        // Erased.
        0x80, 0xff, 0xff, b'v',
        // Locked, programmed all the same, unlocked.
        0x80, 0x80, 0xa5, 0x80,
        // The array.
        b'v', b'v',
    ];
    assert_eq!(ours, expected);
    let images = Images::new();
    match Qemu::start(&images) {
        None => println!("SKIPPED every_command_answers_as_qemus: QEMU cannot be started"),
        Some((_qemu, mut theirs)) => assert_eq!(every_command(&mut theirs), ours),
    }
}
