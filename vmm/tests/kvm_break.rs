//! Guests that stop at accesses: `--break`, by themselves and with somebody at the prompt.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use support::flat::{Flat, pvh};
use support::guest::{Guest, run};
use support::{Pty, trapline};
use trapline_testkit::realmode::{Asm, UART};

/// The UART's line control and scratch registers.
const LCR: u16 = UART + 3;
const SCR: u16 = UART + 7;
/// The status of a run whose guest writes 0 to the exit port.
const ENDED: i32 = 1;

/// The lines of `text` that say that the guest stopped.
fn stops(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("vCPU 0 stopped ")).collect()
}

#[test]
fn without_a_terminal_what_stopped_is_told_and_the_guest_goes_on() {
    let program = Asm::new().mov_cx(0x77).outb(LCR, 0x03).outb(SCR, 0x55).outb(LCR, 0x83);
    let program = program.outb(LCR, 0x03).print(b"alive\n").exit(0);
    let place = "serial0:lcr=w,value=0x83";
    let ended = run(&program, &["--exit-port", "--break", place]).expect_status(ENDED);
    let told = "vCPU 0 stopped after serial0/uart LCR (pio 0x3fb) write 1 byte 0x83 (break ";
    assert_eq!(stops(&ended.err).len(), 1, "{}", ended.err);
    assert!(ended.err.contains(told) && ended.err.contains(": serial0:lcr=w,value=0x83)\n"));
    assert_eq!(ended.out, b"alive\n");
    // After the access: the instruction behind `out`, with what the guest had in its registers, and
    // the access as the last of those before it.
    assert!(ended.err.contains("  rax   0000000000000083"), "{}", ended.err);
    assert!(ended.err.contains("  rcx   0000000000000077"), "{}", ended.err);
    let accesses = ended.err.split("Its last accesses, oldest first:\n").nth(1).unwrap();
    let accesses: Vec<_> = accesses.lines().take_while(|line| line.starts_with("  ")).collect();
    assert_eq!(
        accesses,
        [
            "  serial0/uart LCR (pio 0x3fb) write 1 byte 0x3",
            "  serial0/uart SCR (pio 0x3ff) write 1 byte 0x55",
            "  serial0/uart LCR (pio 0x3fb) write 1 byte 0x83",
        ]
    );
}

#[test]
fn a_read_stops_with_what_was_read_in_the_guests_register() {
    let program = Asm::new().outb(SCR, 0x5a).inb(SCR).exit(0);
    let options = ["--exit-port", "--break", "serial0:SCR=r,value=0x5a"];
    let ended = run(&program, &options).expect_status(ENDED);
    assert_eq!(stops(&ended.err).len(), 1, "{}", ended.err);
    assert!(ended.err.contains("SCR (pio 0x3ff) read 1 byte 0x5a"), "{}", ended.err);
    let rax = ended.err.split("  rax   ").nth(1).unwrap();
    assert!(rax[..16].ends_with("5a"), "{}", ended.err);
    // Of the other direction and another value it is none.
    for place in ["serial0:SCR=r,value=0x5b", "serial0:LCR", "rtc", "unclaimed"] {
        let ended = run(&program, &["--exit-port", "--break", place]).expect_status(ENDED);
        assert!(stops(&ended.err).is_empty(), "{place}: {}", ended.err);
    }
}

#[test]
fn memory_accesses_stop_as_port_accesses_do_and_so_do_those_nobody_answers() {
    const IOREGSEL: u32 = 0xfec0_0000;
    const IOWIN: u32 = IOREGSEL + 0x10;
    const NO_DEVICE: u32 = 0xd000_0000;
    let code = Flat::new().store_byte(IOREGSEL, 1).load(IOWIN).load(NO_DEVICE).exit(0);
    let guest = Guest::kernel(&pvh(&code));
    let options = ["--exit-port", "--irqchip", "split", "--break", "ioapic", "--break"];
    let ended = guest.with(&options).with(&["unclaimed=r"]).run().expect_status(ENDED);
    let stops = stops(&ended.err);
    assert_eq!(stops.len(), 3, "{}", ended.err);
    for (stop, access) in stops.iter().zip([
        "IOREGSEL (mmio 0xfec00000) write 1 byte 0x1 ",
        "IOAPICVER (mmio 0xfec00010) read 4 bytes 0x170020 ",
        "unclaimed (mmio 0xd0000000) read 4 bytes 0xffffffff ",
    ]) {
        assert!(stop.contains(access), "{stop}");
    }
    // What was read is in EAX by then.
    assert!(ended.err.contains("  rax   0000000000170020"), "{}", ended.err);
    assert!(ended.err.contains("  rax   00000000ffffffff"), "{}", ended.err);
}

#[test]
fn what_the_kernel_would_have_delivered_by_itself_stops_too() {
    // The transmitter's writes are queued, and configuration space in memory is shown.
    let program = Asm::new().print(b"abc").exit(0);
    let ended = run(&program, &["--exit-port", "--break", "serial0:THR=w,value=98"]);
    let ended = ended.expect_status(ENDED);
    assert_eq!(stops(&ended.err).len(), 1, "{}", ended.err);
    assert!(ended.err.contains("THR (pio 0x3f8) write 1 byte 0x62 (break "), "{}", ended.err);
    assert_eq!(ended.out, b"abc");
    const ECAM: u32 = 0xd100_0000;
    let reads = (0..64).fold(Flat::new(), |code, _| code.load(ECAM));
    let guest = Guest::kernel(&pvh(&reads.exit(0)));
    let guest = guest.with(&["--exit-port", "--ecam", "--break", "pci"]);
    let ended = guest.run().expect_status(ENDED);
    assert_eq!(stops(&ended.err).len(), 64, "{}", ended.err);
}

#[test]
fn a_string_instruction_stops_when_it_is_over() {
    let (asm, at, len) = Asm::new().embed(b"string");
    let program = asm.mov_si(at).mov_cx(len).mov_dx(SCR).rep_outsb().outb(LCR, 3).exit(0);
    let options = ["--exit-port", "--break", "serial0:SCR=w", "--break", "serial0:LCR=w"];
    let ended = run(&program, &options).expect_status(ENDED);
    let stops = stops(&ended.err);
    assert!(stops.len() >= 2, "{}", ended.err);
    assert!(stops[0].contains("SCR (pio 0x3ff) write"), "{}", ended.err);
    assert!(stops.last().unwrap().contains("LCR (pio 0x3fb) write 1 byte 0x3"), "{}", ended.err);
    let rcx = ended.err.rsplit("  rcx   ").next().unwrap();
    assert!(rcx.starts_with("0000000000000000"), "{}", ended.err);
}

#[test]
fn a_thousand_stops_leave_the_guest_as_it_was() {
    // Adds up what it reads back: 1,000 times through the scratch register.
    let body = Asm::new().mov_al(7).bytes(&[0x66, 0x01, 0xc3]); // add ebx, eax
    let body = Asm::new().mov_eax(0).mov_dx(SCR).mov_al(7).out_al().mov_al(0).in_al().then(&body);
    let program = Asm::new().bytes(&[0x66, 0x31, 0xdb]).repeat(500, body); // xor ebx, ebx
    let program = program.bytes(&[0x66, 0x89, 0xd8]).send_eax(4).exit(0); // mov eax, ebx
    let options = ["--exit-port", "--break", "serial0:SCR"];
    let ended = run(&program, &options).expect_status(ENDED);
    assert_eq!(stops(&ended.err).len(), 1000);
    assert_eq!(ended.out, 3500_u32.to_le_bytes());
}

#[test]
fn at_the_prompt_the_guest_goes_on_step_by_step_or_without_breaks() {
    let program = Asm::new().outb(SCR, 1).outb(LCR, 3).outb(0x80, 9).outb(SCR, 2).outb(SCR, 3);
    let program = program.outb(SCR, 4).print(b"over").exit(0);
    let guest = Guest::new(&program).with(&["--exit-port", "--break", "serial0:SCR=w"]);
    let pty = Pty::new();
    let mut user = guest.start_in(&pty);
    assert!(user.expect("(break) ").contains("SCR (pio 0x3ff) write 1 byte 0x1 (break "));
    user.send(b"x\x7fs\r");
    assert!(
        user.expect("(break) ").contains("after serial0/uart LCR (pio 0x3fb) write 1 byte 0x3\r")
    );
    // An empty line: the same again.
    user.send(b"\r");
    assert!(user.expect("(break) ").contains("(pio 0x80) write 1 byte 0x9\r"));
    user.send(b"c\r");
    assert!(user.expect("(break) ").contains("write 1 byte 0x2 (break "));
    user.send(b"b rtx\r");
    let told = user.expect("(break) ");
    assert!(told.contains("no device or region is called rtx; the nearest are rtc"), "{told}");
    user.send(b"b serial0:SCR=w,value=4\r");
    let told = user.expect("(break) ");
    let number = told.split("break ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    user.send(b"l\r");
    assert!(user.expect("(break) ").contains(&format!("{number}  serial0:SCR=w,value=4")));
    user.send(b"h\rnonsense\r\x03");
    user.expect("go on, to the next break");
    user.expect("nonsense: no such command");
    user.expect("^C");
    user.expect("(break) ");
    user.send(b"r\r");
    assert!(user.expect("(break) ").contains("write 1 byte 0x2 (break "));
    user.send(format!("n {number}\rc\r").as_bytes());
    user.expect("write 1 byte 0x3 (break ");
    user.expect("(break) ");
    user.send(b"d\r");
    user.expect("goes on, without breaks");
    user.expect("over");
    let (status, _) = user.wait();
    assert_eq!(status.code(), Some(ENDED));
}

#[test]
fn at_the_prompt_ctrl_a_still_pauses_and_quits_and_the_terminal_comes_back() {
    let program = Asm::new().forever(Asm::new().outb(SCR, 1));
    let guest = Guest::new(&program).with(&["--break", "serial0:SCR=w"]);
    let pty = Pty::new();
    let before = pty.settings();
    let mut user = guest.start_in(&pty);
    user.expect("(break) ");
    // Ctrl-a p lets it go on: it comes to the next break.
    user.send(b"\x01p");
    user.expect("The guest goes on");
    user.expect("(break) ");
    user.send(b"\x01x");
    let (status, screen) = user.wait();
    assert_eq!(status.code(), Some(0), "{screen}");
    assert_eq!(pty.settings(), before);
}

#[test]
fn a_break_that_cannot_be_is_one_sentence() {
    let rom = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rom.path(), Asm::new().exit(0).rom()).unwrap();
    let firmware = rom.path().to_str().unwrap();
    for (options, told) in [
        (["--break", "serial0:LRC=w"], "serial0 has no register LRC; the nearest are LCR, "),
        (["--break", "seriel0"], "no device or region is called seriel0; the nearest are serial0"),
        (["--break", "serial0:THR=r"], "THR is never read, only written"),
        (["--break", "serial0=q"], "\"q\" is not r, w or rw; write NAME"),
        (["--symbols", "/nonexistent"], "--symbols /nonexistent: No such file"),
        (["--symbols", firmware], "neither a vmlinux with symbols nor a System.map"),
    ] {
        let args = [&["run", "--firmware", firmware, "-m", "2", "-c", "1"][..], &options].concat();
        let (status, out, err) = trapline(&args);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(told), "{err}");
    }
}
