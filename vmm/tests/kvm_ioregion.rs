//! Guests whose devices are in other processes: `--ioregion` and `device serve`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::flat::{Flat, pvh};
use support::guest::{Ended, Guest, finish};
use support::{Owned, PATIENCE, TRAPLINE, command};
use trapline_testkit::realmode::Asm;

/// The status of a run whose guest writes 0 to the exit port.
const ENDED: i32 = 1;
/// That of one with an exit port that cannot go on.
const FAILED: i32 = 2;

/// What a device was asked: `write`, bytes, `user_data`, offset, data, and whether it answered.
type Asked = (bool, usize, u64, u64, u64, bool);

/// A device that answers with what it counts, and remembers; it shares no code with the command.
fn device(path: &Path) -> JoinHandle<Vec<Asked>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut vmm, _) = listener.accept().unwrap();
        let (mut asked, mut bytes, mut reads) = (Vec::new(), [0; 32], 0_u64);
        while vmm.read_exact(&mut bytes).is_ok() {
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            assert_eq!((bytes[0] & !1, bytes[1] & !0x13, &bytes[2..8]), (0, 0, &[0; 6][..]));
            let (write, responds) = (bytes[0] == 1, bytes[1] & 0x10 != 0);
            asked.push((write, 1 << (bytes[1] & 3), word(8), word(16), word(24), responds));
            if responds {
                let mut response = [0; 32];
                if !write {
                    reads += 1;
                    response[..8].copy_from_slice(&(reads * 0x11).to_le_bytes());
                }
                vmm.write_all(&response).unwrap();
            }
        }
        asked
    })
}

/// Runs a guest with regions, each of them on the socket at `path`.
fn with_regions(guest: Guest, path: &Path, regions: &[&str]) -> Guest {
    let socket = path.to_str().unwrap();
    let options: Vec<String> =
        regions.iter().map(|region| format!("--ioregion={region},socket={socket}")).collect();
    guest.with(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn ports_of_every_kind_and_width_reach_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    let device = device(&path);
    let program = Asm::new().outb(0x500, 1).outw(0x502, 2).outl(0x504, 3).inb(0x501).send_eax(1);
    let program = program.inw(0x502).send_eax(2).inl(0x504).send_eax(4);
    let program = program.outb(0x510, 4).outw(0x512, 5).outl(0x514, 6).inb(0x517).send_eax(1);
    // A value of each width; others, and reads, are nobody's.
    let program = program.outb(0x520, 7).outb(0x520, 8).outw(0x520, 9).outl(0x520, 10);
    let program = program.outw(0x520, 7).inb(0x520).send_eax(1).exit(0);
    let guest = Guest::new(&program).with(&["--exit-port", "--stat=all"]);
    let regions = [
        "pio=0x500,len=8,user_data=1",
        "pio=0x510,len=8,user_data=2,posted",
        "pio=0x520,len=1,user_data=3,datamatch=7",
        "pio=0x520,len=2,user_data=4,datamatch=9,posted",
        "pio=0x520,len=4,user_data=5,datamatch=10",
    ];
    let ended = with_regions(guest, &path, &regions).run().expect_status(ENDED);
    assert_eq!(ended.out, [0x11, 0x22, 0, 0x33, 0, 0, 0, 0x44, 0xff], "{}", ended.err);
    let (read, write) = (false, true);
    let expected = [
        (write, 1, 1, 0, 1, true),
        (write, 2, 1, 2, 2, true),
        (write, 4, 1, 4, 3, true),
        (read, 1, 1, 1, 0, true),
        (read, 2, 1, 2, 0, true),
        (read, 4, 1, 4, 0, true),
        (write, 1, 2, 0, 4, false),
        (write, 2, 2, 2, 5, false),
        (write, 4, 2, 4, 6, false),
        (read, 1, 2, 7, 0, true),
        (write, 1, 3, 0, 7, true),
        (write, 2, 4, 0, 9, false),
        (write, 4, 5, 0, 10, true),
    ];
    assert_eq!(device.join().unwrap(), expected);
}

/// `mov [addr], value` of `size` bytes, 32-bit code.
fn store(code: Flat, addr: u32, size: usize, value: u64) -> Flat {
    let (addr, value) = (addr.to_le_bytes(), value.to_le_bytes());
    match size {
        1 => code.bytes(&[0xc6, 0x05]).bytes(&addr).bytes(&value[..1]),
        2 => code.bytes(&[0x66, 0xc7, 0x05]).bytes(&addr).bytes(&value[..2]),
        4 => code.bytes(&[0xc7, 0x05]).bytes(&addr).bytes(&value[..4]),
        // Eight bytes go by way of the stack's place in memory: push high; push low; movq mm0, [esp];
        // movq [addr], mm0.
        _ => code
            .bytes(&[0x68])
            .bytes(&value[4..])
            .bytes(&[0x68])
            .bytes(&value[..4])
            .bytes(&[0x0f, 0x6f, 0x04, 0x24, 0x0f, 0x7f, 0x05])
            .bytes(&addr),
    }
}

/// A device address nobody has.
const BASE: u32 = 0xd000_0000;

#[test]
fn memory_of_every_kind_and_width_reaches_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    let device = device(&path);
    // mov esp, 0x90000
    let mut code = Flat::new().bytes(&[0xbc, 0, 0, 9, 0]);
    let mut expected = Vec::new();
    let mut regions = Vec::new();
    for (number, posted) in [(1, false), (2, true)] {
        let at = BASE + 0x1000 * number;
        let option = if posted { ",posted" } else { "" };
        regions.push(format!("mmio={at:#x},len=0x10,user_data={number}{option}"));
        regions.push(format!("mmio={:#x},len=8,user_data={},fast{option}", at + 0x40, number + 10));
        regions.push(format!("mmio={:#x},len=0,user_data={},fast{option}", at + 0x60, number + 20));
        for size in [1, 2, 4, 8] {
            let (value, number, wide) = (0x8877_6655_4433_2211_u64, u64::from(number), size as u64);
            let data = value & u64::MAX >> (64 - 8 * size);
            code = store(code, at + 8, size, value);
            expected.push((true, size, number, 8, data, !posted));
            // Without data, in the middle of the region and at its only address.
            code = store(code, at + 0x40, size, value);
            expected.push((true, 1, number + 10, 0, 0, !posted));
            code = store(code, at + 0x60, size, value);
            expected.push((true, 1, number + 20, 0, 0, !posted));
            let matched = at + 0x80;
            let user_data = number + 30 + wide;
            regions.push(format!(
                "mmio={matched:#x},len={size},user_data={user_data},datamatch={:#x}{option}",
                wide + 1
            ));
            code = store(code, matched, size, wide + 1);
            expected.push((true, size, user_data, 0, wide + 1, !posted));
            code = store(code, matched, size, wide + 2);
        }
        // mov eax, 0x5a5a5a5a; a load without data leaves it.
        code = code.bytes(&[0xb8, 0x5a, 0x5a, 0x5a, 0x5a]).load(at + 0x44).send_eax();
        expected.push((true, 1, u64::from(number) + 10, 4, 0, !posted));
        code = code.load(at + 4).send_eax();
        expected.push((false, 4, u64::from(number), 4, 0, true));
    }
    let guest = Guest::kernel(&pvh(&code.exit(0))).with(&["--exit-port"]);
    let regions: Vec<&str> = regions.iter().map(String::as_str).collect();
    let ended = with_regions(guest, &path, &regions).run().expect_status(ENDED);
    let kept = 0x5a5a_5a5a_u32.to_le_bytes();
    let out = [kept, 0x11_u32.to_le_bytes(), kept, 0x22_u32.to_le_bytes()].concat();
    assert_eq!(ended.out, out, "{}", ended.err);
    assert_eq!(device.join().unwrap(), expected);
}

/// One of our devices in a process of its own, which listens.
fn serve(device: &str, path: &Path, options: &[&str]) -> Owned {
    let mut server = command(TRAPLINE);
    server.args(["device", "serve", device, "--socket"]).arg(path).args(options);
    server.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let server = Owned::from(server.spawn().unwrap());
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < PATIENCE, "nobody listens");
        thread::sleep(Duration::from_millis(1));
    }
    server
}

/// Kills a server and returns what it wrote.
fn output(mut server: Owned) -> Vec<u8> {
    server.kill().unwrap();
    let mut out = Vec::new();
    server.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    out
}

#[test]
fn the_consoles_uart_is_in_another_process() {
    for (kind, features) in
        [("stream", ""), ("seqpacket", ""), ("stream", ",ids"), ("seqpacket", ",ring,ids")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uart");
        let server = serve("uart", &path, &["--type", kind]);
        // The loopback of the modem control register: the chip is all there.
        let program = Asm::new().print(b"hello, outside").outb(0x3fc, 0x1a).inb(0x3fe);
        let program = program.send_eax(1).exit(0);
        let region = format!("pio=0x3f8,len=8,type={kind}{features}");
        let guest = Guest::new(&program).with(&["--exit-port", "--stat=all"]);
        let ended = with_regions(guest, &path, &[&region]).run().expect_status(ENDED);
        assert_eq!(ended.out, b"", "{}", ended.err);
        assert!(ended.err.contains("forward"), "{}", ended.err);
        let out = output(server);
        assert!(out.starts_with(b"hello, outside"), "{out:?}");
        // In loopback what is sent comes back, so the last byte did not go out.
        assert_eq!(out.len(), 14);
    }
}

#[test]
fn a_clock_and_a_keyboard_controller_are_in_other_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (rtc, keys) = (dir.path().join("rtc"), dir.path().join("i8042"));
    let _rtc = serve("rtc", &rtc, &[]);
    let _keys = serve("i8042", &keys, &["--type", "seqpacket"]);
    // Status register D says that the battery is good; the controller's self-test, 0x55.
    let program = Asm::new().outb(0x70, 0x0d).inb(0x71).send_eax(1);
    let program = program.outb(0x64, 0xaa).inb(0x60).send_eax(1).exit(0);
    let guest = Guest::new(&program).with(&["--exit-port"]);
    let guest = with_regions(guest, &rtc, &["pio=0x70,len=2"]);
    let guest = with_regions(
        guest,
        &keys,
        &["pio=0x60,len=1,type=seqpacket", "pio=0x64,len=1,user_data=4,type=seqpacket"],
    );
    let ended = guest.run().expect_status(ENDED);
    assert_eq!(ended.out, [0x80, 0x55], "{}", ended.err);
}

/// A guest that reads a port again and again, and says so after each thousand reads, until it reads
/// another value than that of a register that is not there.
fn reader(path: &Path, policy: &str, count: u16) -> Guest {
    let program = Asm::new().mov_al(b'!').send_al();
    let program = program.repeat(count, Asm::new().bytes(&[0x51]).inb(0x500).bytes(&[0x59]));
    let program = program.inb(0x500).send_eax(1).exit(0);
    let guest = Guest::new(&program).with(&["--exit-port"]);
    with_regions(guest, path, &[&format!("pio=0x500,len=1{policy}")])
}

/// Starts a guest and waits until it has said its first word.
fn started(guest: &Guest) -> Owned {
    let mut child = guest.start();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, *b"!");
    child
}

fn killed_while_read(policy: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uart");
    let server = serve("uart", &path, &[]);
    let guest = reader(&path, policy, 20_000);
    let child = started(&guest);
    drop(server);
    finish(child)
}

#[test]
fn a_killed_device_reads_as_ones_and_is_reported_once() {
    let ended = killed_while_read("").expect_status(ENDED);
    assert_eq!(ended.out, [0xff]);
    assert_eq!(ended.err.matches("is dead").count(), 1, "{}", ended.err);
}

#[test]
fn a_killed_device_ends_the_machine_if_it_is_told_to() {
    let ended = killed_while_read(",when-dead=stop");
    assert_eq!(ended.status, FAILED, "{}", ended.err);
    assert_eq!(ended.out, b"");
    let last = ended.err.lines().last().unwrap_or_default();
    assert!(last.contains("uart is dead: it has ended"), "{}", ended.err);
}

#[test]
fn another_device_goes_on_for_one_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    let listener = UnixListener::bind(&path).unwrap();
    let program = Asm::new().mov_al(b'!').send_al();
    // Until it reads 0x42: l: in al, dx; cmp al, 0x42; jne l
    let program = program.mov_dx(0x500).bytes(&[0xec, 0x3c, 0x42, 0x75, 0xfb]).exit(0);
    let guest = Guest::new(&program).with(&["--exit-port"]);
    let guest = with_regions(guest, &path, &["pio=0x500,len=1,when-dead=reconnect"]);
    let answer = |vmm: &mut UnixStream, value: u8| {
        let mut command = [0; 32];
        let whole = vmm.read_exact(&mut command).is_ok();
        let mut response = [0; 32];
        response[0] = value;
        whole && vmm.write_all(&response).is_ok()
    };
    let devices = thread::spawn(move || {
        // Each of them dies in another state of the protocol.
        for state in 0..8 {
            let (mut vmm, _) = listener.accept().unwrap();
            (0..state).for_each(|_| assert!(answer(&mut vmm, 1)));
            if state % 2 == 1 {
                vmm.read_exact(&mut [0; 32]).unwrap();
            }
            if state % 3 == 1 {
                vmm.write_all(&[1; 7]).unwrap();
            }
        }
        let (mut vmm, _) = listener.accept().unwrap();
        while answer(&mut vmm, 0x42) {}
    });
    let ended = guest.run().expect_status(ENDED);
    assert_eq!(ended.err.matches("is dead").count(), 8, "{}", ended.err);
    devices.join().unwrap();
}

#[test]
fn what_cannot_be_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nobody");
    let program = Asm::new().exit(0);
    let refused = |regions: &[&str]| {
        let ended = with_regions(Guest::new(&program), &path, regions).run();
        assert_eq!(ended.status, 1);
        ended.err
    };
    let err = refused(&["pio=0x500,len=1"]);
    assert!(err.contains("nobody: ") && err.contains("No such file"), "{err}");
    let _listener = UnixListener::bind(&path).unwrap();
    let err = refused(&["pio=0x500,len=8", "pio=0x507,len=1"]);
    assert!(err.contains("pio 0x507: something is in the way"), "{err}");
    let err = refused(&["pio=0x500,len=8", "pio=0x508,len=1,when-dead=stop"]);
    assert!(err.contains("the regions on it do not agree"), "{err}");
    let serve = |args: &[&str]| {
        let mut server = command(TRAPLINE);
        server.args(["device", "serve"]).args(args).stderr(Stdio::piped());
        finish(server.spawn().unwrap())
    };
    let path = path.to_str().unwrap();
    for (args, said) in [
        (vec!["toaster", "--socket", "/x"], "device serve toaster: not one of uart, rtc and i8042"),
        (
            vec!["rtc", "--socket", "/x", "--type", "dgram"],
            "--type dgram: not one of stream and seqpacket",
        ),
        (vec!["rtc", "--socket", "/x", "--chardev", "pty"], "--chardev: only a UART has one"),
        (
            vec!["uart", "--socket", "/x", "--chardev", "tcp"],
            "--chardev tcp: not one of file=, pty, pty= and socket=",
        ),
        (vec!["uart", "--socket", path], "Address already in use"),
    ] {
        let ended = serve(&args);
        assert_eq!(ended.status, 1);
        assert!(ended.err.contains(said) && ended.err.lines().count() == 1, "{}", ended.err);
    }
}
