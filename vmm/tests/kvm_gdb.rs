//! Debian's gdb at small guests: `--gdb`. Without a gdb on the host the protocol is spoken by hand.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::flat::{Flat, pvh};
use support::guest::{Guest, finish};
use support::{Owned, PATIENCE, trapline};
use trapline_testkit::realmode::{EXIT, UART};

/// The UART's scratch register.
const SCR: u16 = UART + 7;
/// Where the kernels of these tests begin.
const START: u64 = 0x10_0000;

/// A guest that goes round: writes 1 to the scratch register, until it reads 9 there; then it ends.
///
/// ```text
///   100000  mov dx, SCR     100004  mov al, 1     100006  out dx, al
///   100007  mov [0x5000], al                      10000f  in al, dx
///   100010  cmp al, 9       100012  jne 100004    100014  the end
/// ```
fn rounds() -> Flat {
    let code = Flat::new().bytes(&[0x66, 0xba, SCR.to_le_bytes()[0], SCR.to_le_bytes()[1]]);
    // mov al, 1; out dx, al; mov [0x5000], al (by a 32-bit address); nop; nop; nop
    let code = code.bytes(&[0xb0, 1, 0xee, 0xa2, 0x00, 0x50, 0, 0, 0x90, 0x90, 0x90]);
    // in al, dx; cmp al, 9; jne back to the mov
    code.bytes(&[0xec, 0x3c, 9, 0x75, 0xf0]).exit(0)
}

/// A guest whose gdb port is known.
struct Debugged {
    child: Owned,
    port: u16,
}

impl Debugged {
    fn start(guest: &Guest) -> Self {
        let mut command = guest.command();
        let mut child: Owned =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap().into();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, place)) = line.split_once("gdb: target remote 127.0.0.1:") {
                break place.trim().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    /// Ends once the guest has: its status.
    fn wait(self) -> i32 {
        finish(self.child).status
    }
}

fn guest() -> Guest {
    Guest::kernel(&pvh(&rounds())).with(&["--exit-port", "--gdb", "0"])
}

/// The protocol by hand.
struct Gdb(TcpStream);

impl Gdb {
    /// Connects, as soon as the guest runs.
    fn connect(port: u16) -> Self {
        let start = Instant::now();
        loop {
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut gdb = Self(stream);
            // One that comes too early is turned away.
            if gdb.try_ask("?").is_some() {
                return gdb;
            }
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, |sum, byte| sum.wrapping_add(byte));
        let _ = write!(self.0, "${packet}#{sum:02x}");
    }

    fn try_ask(&mut self, packet: &str) -> Option<String> {
        self.send(packet);
        self.answer()
    }

    fn answer(&mut self) -> Option<String> {
        let mut byte = [0];
        let mut next = || self.0.read_exact(&mut byte).ok().map(|()| byte[0]);
        while next()? != b'$' {}
        let mut text = Vec::new();
        loop {
            match next()? {
                b'#' => break,
                // So many more of the same.
                b'*' => {
                    let (count, last) = (next()? - 29, *text.last()?);
                    text.extend(std::iter::repeat_n(last, count.into()));
                }
                byte => text.push(byte),
            }
        }
        next().and(next())?;
        self.0.write_all(b"+").ok()?;
        Some(String::from_utf8(text).unwrap())
    }

    fn ask(&mut self, packet: &str) -> String {
        self.try_ask(packet).unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    /// What `monitor` says.
    fn monitor(&mut self, command: &str) -> String {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
        let mut text = String::new();
        loop {
            let answer = self.answer().unwrap();
            let Some(hex) = answer.strip_prefix('O').filter(|rest| *rest != "K") else {
                assert_eq!(answer, "OK");
                return text;
            };
            let bytes = hex.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            text.push_str(
                &String::from_utf8(bytes.map(|pair| byte(pair).unwrap()).collect()).unwrap(),
            );
        }
    }

    /// The instruction pointer: after sixteen registers.
    fn rip(&mut self) -> u64 {
        let all = self.ask("g");
        let hex = &all[16 * 16..17 * 16];
        u64::from_str_radix(hex, 16).unwrap().swap_bytes()
    }

    /// Has it go on, until it stops.
    fn go_on(&mut self, how: &str) -> String {
        let stop = self.ask(how);
        assert!(stop.starts_with('T') || stop.starts_with('S'), "{stop}");
        stop
    }
}

/// What ends the guest: a 9 in the scratch register, put into AL behind the read.
fn end(gdb: &mut Gdb) {
    gdb.ask(&format!("Z0,{:x},1", START + 0x12));
    gdb.go_on("vCont;c");
    gdb.ask(&format!("z0,{:x},1", START + 0x12));
    let mut all = gdb.ask("g");
    all.replace_range(..2, "09");
    assert_eq!(gdb.ask(&format!("G{all}")), "OK");
    // cmp al, 9 is behind us: compare again.
    let rip = format!("{:016x}", (START + 0x10).swap_bytes());
    all.replace_range(16 * 16..17 * 16, &rip);
    assert_eq!(gdb.ask(&format!("G{all}")), "OK");
}

#[test]
fn breakpoints_of_both_kinds_steps_memory_and_registers() {
    let debugged = Debugged::start(&guest());
    let mut gdb = Gdb::connect(debugged.port);
    let code = gdb.ask(&format!("m{:x},6", START + 4));
    assert_eq!(code, "b001eea20050");
    for kind in ["Z0", "Z1"] {
        let at = START + 6;
        // Said twice it is one, which is gone when it is taken away once.
        assert_eq!(gdb.ask(&format!("{kind},{at:x},1")), "OK");
        assert_eq!(gdb.ask(&format!("{kind},{at:x},1")), "OK");
        // The guest's instruction, not ours.
        assert_eq!(gdb.ask(&format!("m{at:x},1")), "ee");
        for _ in 0..3 {
            let stop = gdb.go_on("vCont;c");
            let word = if kind == "Z0" { "swbreak" } else { "hwbreak" };
            assert!(stop.contains(word), "{kind}: {stop}");
            assert_eq!(gdb.rip(), at, "{kind}");
            // As gdb does: without the breakpoint over it.
            assert_eq!(gdb.ask(&format!("{},{at:x},1", kind.replace('Z', "z"))), "OK");
            gdb.go_on("vCont;s:1");
            assert_eq!(gdb.rip(), at + 1, "{kind}: a step is one instruction");
            assert_eq!(gdb.ask(&format!("{kind},{at:x},1")), "OK");
        }
        assert_eq!(gdb.ask(&format!("{},{at:x},1", kind.replace('Z', "z"))), "OK");
    }
    assert_eq!(gdb.ask("M5000,2:abcd"), "OK");
    assert_eq!(gdb.ask("m5000,2"), "abcd");
    assert!(gdb.ask("m4000000,4").starts_with('E'));
    end(&mut gdb);
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(debugged.wait(), 1);
}

/// A KVM that emulates the guest's code does not look at debug registers for accesses.
#[test]
fn a_watchpoint_stops_at_the_write() {
    if !trapline_machine::hardware_virtualization() {
        return eprintln!("no hardware virtualization: nothing to see of watchpoints");
    }
    let debugged = Debugged::start(&guest());
    let mut gdb = Gdb::connect(debugged.port);
    assert_eq!(gdb.ask("Z2,5000,1"), "OK");
    let stop = gdb.go_on("vCont;c");
    assert!(stop.contains("watch:"), "{stop}");
    assert_eq!(gdb.rip(), START + 0xc);
    assert_eq!(gdb.ask("z2,5000,1"), "OK");
    end(&mut gdb);
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(debugged.wait(), 1);
}

#[test]
fn monitor_breaks_stop_at_accesses() {
    let debugged = Debugged::start(&guest());
    let mut gdb = Gdb::connect(debugged.port);
    assert!(gdb.monitor("help").contains("monitor break NAME"));
    assert!(gdb.monitor("break serial0:SRC").contains("the nearest are SCR"));
    let told = gdb.monitor("break serial0:SCR=r");
    assert!(told.starts_with("break "), "{told}");
    for _ in 0..3 {
        gdb.go_on("vCont;c");
        assert_eq!(gdb.rip(), START + 0x10, "behind the read");
    }
    let report = gdb.monitor("report");
    assert!(report.contains("after serial0/uart SCR (pio 0x3ff) read 1 byte 0x1"), "{report}");
    let number = told.trim_start_matches("break ").split(':').next().unwrap().to_owned();
    assert!(gdb.monitor("list").starts_with(&number));
    assert_eq!(gdb.monitor(&format!("delete {number}")).trim(), "");
    assert!(gdb.monitor("list").contains("no breaks"));
    gdb.monitor("step");
    gdb.go_on("vCont;c");
    assert_eq!(gdb.rip(), START + 7, "behind the write");
    end(&mut gdb);
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(debugged.wait(), 1);
}

#[test]
fn a_gdb_that_is_killed_leaves_the_guest_as_it_was_and_another_one_can_come() {
    let debugged = Debugged::start(&guest());
    for _ in 0..3 {
        let mut gdb = Gdb::connect(debugged.port);
        assert_eq!(gdb.ask(&format!("Z0,{:x},1", START + 4)), "OK");
        gdb.go_on("vCont;c");
        assert_eq!(gdb.rip(), START + 4);
        // And one in the middle of its run.
        gdb.send("vCont;c");
    }
    let mut gdb = Gdb::connect(debugged.port);
    assert_eq!(gdb.ask(&format!("m{:x},2", START + 4)), "b001", "nothing is left of it");
    // Ctrl-c.
    gdb.send("vCont;c");
    gdb.0.write_all(&[3]).unwrap();
    let stop = gdb.answer().unwrap();
    assert!(stop.starts_with("T02"), "{stop}");
    end(&mut gdb);
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(debugged.wait(), 1);
}

#[test]
fn vcpus_are_threads_and_kill_ends_the_guest() {
    let debugged = Debugged::start(&guest().with(&["-c", "3"]));
    let mut gdb = Gdb::connect(debugged.port);
    let threads = gdb.ask("qfThreadInfo");
    assert_eq!(threads.matches(',').count() + 1, 3, "{threads}");
    gdb.send("k");
    assert_eq!(debugged.wait(), 0);
}

/// The real one, if there is one.
#[test]
fn debians_gdb_does_what_a_person_would() {
    let Ok(found) = Command::new("gdb").arg("--version").output() else { return };
    assert!(found.status.success());
    let debugged = Debugged::start(&guest());
    drop(Gdb::connect(debugged.port));
    let commands = [
        "set architecture i386:x86-64".to_owned(),
        format!("target remote 127.0.0.1:{}", debugged.port),
        "break *0x100006".to_owned(),
        "continue".to_owned(),
        "stepi".to_owned(),
        "delete".to_owned(),
        "hbreak *0x10000f".to_owned(),
        "continue".to_owned(),
        "delete".to_owned(),
        "monitor break serial0:SCR=w".to_owned(),
        "continue".to_owned(),
        "info threads".to_owned(),
        "x/2xb 0x100004".to_owned(),
        "set $al = 9".to_owned(),
        "set $pc = 0x100010".to_owned(),
        "detach".to_owned(),
    ];
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx"]).stdin(Stdio::null());
    for command in &commands {
        gdb.args(["-ex", command]);
    }
    let told = gdb.output().unwrap();
    let out = String::from_utf8_lossy(&told.stdout);
    let place = |text: &str, from: usize| {
        let at = out[from..].find(text);
        from + at.unwrap_or_else(|| panic!("no {text:?} in {out}{:?}", told.stderr))
    };
    let mut from = 0;
    for text in [
        "Breakpoint 1, 0x0000000000100006",
        "0x0000000000100007",
        "Breakpoint 2, 0x000000000010000f",
        "SIGTRAP",
        "0x0000000000100007",
        "Thread 1",
        "0xb0",
        "0x01",
    ] {
        from = place(text, from);
    }
    assert_eq!(debugged.wait(), 1, "{out}");
}

#[test]
fn an_address_where_nobody_can_listen_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let rom = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rom.path(), trapline_testkit::realmode::Asm::new().outb(EXIT, 0).rom()).unwrap();
    let firmware = rom.path().to_str().unwrap();
    let run = |port: &str| {
        trapline(&["run", "--firmware", firmware, "-m", "2", "-c", "1", "--gdb", port])
    };
    for (port, told) in [(port.as_str(), "Address already in use"), ("x", "--gdb x: not a port")] {
        let (status, _, err) = run(port);
        assert_eq!((status, err.lines().count()), (1, 1), "{err}");
        assert!(err.contains(told), "{err}");
    }
}
