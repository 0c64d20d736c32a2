//! What a guest reads and writes, to the byte, and how it is counted.

mod support;

use support::flat::{Flat, pvh};
use support::guest::{Guest, run};
use trapline_testkit::realmode::{Asm, UART};

/// A port and a device address nobody answers.
const NO_PORT: u16 = 0x520;
const NO_DEVICE: u32 = 0xd000_0000;

/// B1: kvmtool leaves the bytes of the access before.
#[test]
fn an_unclaimed_port_reads_all_ones_whatever_was_written_before() {
    let before = || Asm::new().outb(0x80, 0x66);
    let program = before()
        .inb(NO_PORT)
        .send_eax(1)
        .then(&before().inw(NO_PORT).send_eax(2))
        .then(&before().inl(NO_PORT).send_eax(4))
        .then(&Asm::new().outl(NO_PORT, 0x6666_6666).inl(NO_PORT).send_eax(4));
    let ended = run(&program.exit(0), &["--exit-port"]).expect_status(1);
    assert_eq!(ended.out, [0xff; 11]);
}

#[test]
fn rep_ins_from_an_unclaimed_port_fills_memory_with_ones() {
    // es = ds = 0; clear what is read over; rep insw; send it.
    let read = Asm::new().mov_eax(0).store_eax(0x600).store_eax(0x604).mov_di(0x600).mov_cx(3);
    let read = read.mov_dx(NO_PORT).rep_insw();
    let program = read.load_eax(0x600).send_eax(4).load_eax(0x604).send_eax(4);
    let ended = run(&program.exit(0), &["--exit-port"]).expect_status(1);
    assert_eq!(ended.out, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
}

/// B1, for memory: kvmtool answers such a read with 0x66.
#[test]
fn an_unclaimed_device_address_reads_all_ones_whatever_was_written_before() {
    let code = Flat::new().store_byte(NO_DEVICE, 0x66).load(NO_DEVICE).send_eax().exit(0);
    let guest = Guest::kernel(&pvh(&code)).with(&["--exit-port", "--debug-mmio"]);
    let ended = guest.run().expect_status(1);
    assert_eq!(ended.out, [0xff; 4]);
    assert!(ended.err.contains("unclaimed: mmio 0xd0000000 write of 1: 1\n"), "{}", ended.err);
    assert!(ended.err.contains("unclaimed: mmio 0xd0000000 read of 4: 1\n"), "{}", ended.err);
}

/// B6: kvmtool takes an access that leaves its region for one that nobody claims.
#[test]
fn an_access_that_leaves_its_region_is_answered_as_far_as_the_region_goes() {
    // The scratch register is the UART's last; nobody has the ports after it.
    let scratch = UART + 7;
    let program = Asm::new()
        .outw(scratch, 0x77a5)
        .inb(scratch)
        .send_eax(1)
        .inw(scratch)
        .send_eax(2)
        .inl(scratch - 1) // modem status, scratch, nobody, nobody
        .bytes(&[0x66, 0xc1, 0xe8, 0x08]) // shr eax, 8
        .send_eax(3);
    let ended = run(&program.exit(0), &["--exit-port"]).expect_status(1);
    assert_eq!(ended.out, [0xa5, 0xa5, 0xff, 0xa5, 0xff, 0xff]);
}

#[test]
fn an_access_across_two_regions_reaches_both() {
    // The POST code at 0x80, DMA page registers from 0x81.
    let program = Asm::new()
        .outw(0x80, 0xbbaa)
        .inb(0x80)
        .send_eax(1)
        .inb(0x81)
        .send_eax(1)
        .outl(0x80, 0x4433_2211)
        .inl(0x80)
        .send_eax(4);
    for option in ["--loglevel=info", "--no-coalesce"] {
        let ended = run(&program.clone().exit(0), &["--exit-port", option]).expect_status(1);
        assert_eq!(ended.out, [0xaa, 0xbb, 0x11, 0x22, 0x33, 0x44], "{option}");
    }
}

/// Some accesses of each kind, none of which is anybody else's.
fn busy() -> Asm {
    let posts = (0..5).fold(Asm::new(), |asm, code| asm.outb(0x80, code));
    let reads = posts.inb(0x92).inb(0x92).inb(0x92);
    // The kernel's own: interrupt controllers, timer, speaker port.
    let kernel = reads.inb(0x20).inb(0x21).inb(0xa1).inb(0x40).outb(0x43, 0).inb(0x61);
    let unclaimed = kernel.inb(NO_PORT).inb(NO_PORT).outw(NO_PORT, 0);
    // Eight bytes at once.
    let bytes = unclaimed.mov_di(0x600).mov_cx(8).mov_dx(0x92).rep_insb();
    // Seven characters to the firmware's console, at once.
    let (asm, text, len) = bytes.embed(b"seven..");
    asm.mov_ds(0xf000).mov_si(text).mov_cx(len).mov_dx(0x402).rep_outsb().exit(0)
}

#[test]
fn the_statistics_are_what_the_guest_did() {
    // Firmware has a console of its own only where its log is wanted.
    let options = ["--exit-port", "--stat=all", "--no-coalesce", "--debug"];
    let ended = run(&busy(), &options).expect_status(1);
    assert_eq!(ended.out, b"seven..");
    for (region, column, count) in [
        ("post/code", "writes", 5),
        ("post/code", "reads", 0),
        ("system/control-a", "writes", 0),
        ("test/exit", "writes", 1),
        ("serial0/uart", "reads", 0),
        ("serial0/uart", "writes", 0),
        ("i8042/port-b", "reads", 0),
    ] {
        assert_eq!(ended.stat(region, column), count, "{region} {column}: {}", ended.err);
    }
    let err = &ended.err;
    // KVM hands over the elements of a string instruction several or one at a time, as it likes.
    let all = |region, each, strings| ended.stat(region, each) + ended.stat(region, strings);
    assert_eq!(all("system/control-a", "reads", "str.in"), 3 + 8, "{err}");
    assert_eq!(all("firmware/debug", "writes", "str.out"), 7, "{err}");
    assert!(err.contains("traps: claimed 24, unclaimed 3, resets 0\n"), "{err}");
    assert!(err.contains(" 0x0520 unclaimed read of 1: 2\n"), "{err}");
    assert!(err.contains(" 0x0520 unclaimed write of 2: 1\n"), "{err}");
    let ports = ["port read", "port write", "port string"].map(|kind| ended.exits(kind));
    let singles = [
        5 + ended.stat("system/control-a", "reads") - 3,
        7 + ended.stat("firmware/debug", "writes"),
    ];
    assert_eq!(ports[..2], singles, "{err}");
    assert_eq!((ended.exits("mmio read"), ended.exits("mmio write")), (0, 0), "{err}");
}

#[test]
fn coalesced_writes_are_counted_all_the_same_and_make_no_exits() {
    let ended = run(&busy(), &["--exit-port", "--stat=all", "--debug"]).expect_status(1);
    assert_eq!(ended.out, b"seven..");
    assert_eq!(ended.stat("post/code", "writes"), 5);
    assert!(ended.err.contains("traps: claimed 24, unclaimed 3, resets 0\n"), "{}", ended.err);
    // What is left: the unclaimed write and the exit port's.
    assert_eq!(ended.exits("port write"), 2, "{}", ended.err);
}

/// B9: kvmtool does not start on such a processor.
#[test]
fn a_processor_that_shows_no_virtualization_is_no_obstacle() {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let shows = |flag: &&str| ["vmx", "svm"].contains(flag);
    if cpuinfo.split_whitespace().any(|word| shows(&word)) {
        let reason = "this processor shows its virtualization, so there is nothing to prove";
        let name = "kvm_accesses a_processor_that_shows_no_virtualization_is_no_obstacle";
        trapline_testkit::skip(name, reason);
        return;
    }
    run(&Asm::new().exit(0), &["--exit-port"]).expect_status(1);
}

/// The names that a crash report has for the last accesses of `program`.
fn reported(program: Asm) -> Vec<String> {
    // An interrupt table of no length, and then an exception.
    let (program, table, _) = program.embed(&[0; 6]);
    let [low, high] = table.to_le_bytes();
    let crash = program.mov_ds(0xf000).bytes(&[0x0f, 0x01, 0x1e, low, high, 0x0f, 0x0b]);
    let ended = run(&crash, &["--fail-on-triple-fault", "--testdev"]);
    let Some((_, accesses)) = ended.err.split_once("oldest first:\n") else {
        panic!("no report: {}", ended.err);
    };
    let lines = accesses.lines().take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_crash_report_names_registers_as_they_were_when_they_were_accessed() {
    // The data port of the clock: register B, and then D is selected. The selections may be late.
    let clock = Asm::new().outb(0x70, 0x0b).inb(0x71).outb(0x70, 0x0d);
    let told = reported(clock);
    let read = told.iter().find(|line| line.contains("0x71")).unwrap();
    assert!(read.starts_with("rtc/cmos Register B (pio 0x71) read 1 byte"), "{told:?}");
    // Those KVM has queued are told, too, in their places.
    let queued = |value| format!("rtc/cmos RTC index (pio 0x70) write 1 byte {value} coalesced");
    assert_eq!((&told[0], told.last()), (&queued("0xb"), Some(&queued("0xd"))), "{told:?}");
    // The serial port's divisor latch, behind the bit that selects it, and what else is there.
    let serial = Asm::new().outb(UART + 3, 0x83).outb(UART + 1, 0).outb(UART + 3, 3).inb(UART + 1);
    let told = reported(serial);
    let names = told.iter().filter(|line| line.contains("(pio 0x3f9)"));
    let names: Vec<_> = names.map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(names, ["serial0/uart DLM", "serial0/uart IER"], "{told:?}");
    // PCI configuration space: the host bridge's device number, and then a function nobody has.
    let pci = Asm::new().outl(0xcf8, 0x8000_0000).inw(0xcfe).outl(0xcf8, 0x8000_f800);
    let told = reported(pci);
    let read = told.iter().find(|line| line.contains("(pio 0xcfe)")).unwrap();
    assert!(read.starts_with("pci/conf1 DEVICE_ID (pio 0xcfe) read 2 bytes"), "{told:?}");
}

/// The lines of a trace.
fn traced(err: &str) -> Vec<&str> {
    err.lines().filter_map(|line| line.strip_prefix("trace: ")).collect()
}

#[test]
fn a_trace_tells_each_access_by_register_as_it_happens() {
    let program = Asm::new()
        .outb(0x70, 0x0b)
        .inb(0x71)
        .outb(UART, b'A')
        .outb(UART + 3, 0x83)
        .outb(UART, 1)
        .outb(UART + 3, 3)
        .inw(NO_PORT)
        .outb(0x80, 9);
    let options = ["--exit-port", "--trace", "rtc,serial0/uart", "--trace=unclaimed"];
    let ended = run(&program.exit(0), &options).expect_status(1);
    assert_eq!(ended.out, b"A");
    let expected = [
        "vcpu 0: rtc/cmos RTC index (pio 0x70) write 1 byte 0xb",
        "vcpu 0: rtc/cmos Register B (pio 0x71) read 1 byte 0x2",
        "vcpu 0: serial0/uart THR (pio 0x3f8) write 1 byte 0x41",
        "vcpu 0: serial0/uart LCR (pio 0x3fb) write 1 byte 0x83",
        "vcpu 0: serial0/uart DLL (pio 0x3f8) write 1 byte 0x1",
        "vcpu 0: serial0/uart LCR (pio 0x3fb) write 1 byte 0x3",
        "vcpu 0: unclaimed (pio 0x520) read 2 bytes 0xffff",
    ];
    assert_eq!(traced(&ended.err), expected);
}

#[test]
fn a_name_nobody_has_ends_the_run_before_it_starts_and_lists_those_there_are() {
    let ended = run(&Asm::new().spin(), &["--trace", "rtc,disk0"]).expect_status(1);
    let expected = "Fatal: --trace disk0: no device or region has that name; there are all, unclaimed, \
                    and ";
    let names = ended.err.lines().last().unwrap().strip_prefix(expected).unwrap();
    let names: Vec<_> = names.split(", ").collect();
    assert!(names.is_sorted(), "{names:?}");
    for name in ["rtc", "i8042", "i8042/data", "serial3"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.contains(&"rtc/cmos"), "a device's only region goes by the device's name");
}

#[test]
fn a_trace_that_nobody_reads_or_can_take_holds_up_no_guest() {
    // More lines than a pipe and the queue before it hold.
    let program = Asm::new().repeat(20_000, Asm::new().outb(0x80, 1)).exit(0);
    let options = ["--exit-port", "--trace", "post", "--loglevel=error"];
    let guest = Guest::new(&program).with(&options);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (closed, write) = std::io::pipe().unwrap();
    drop(closed);
    for err in [std::process::Stdio::from(full), write.into()] {
        let mut command = guest.command();
        let child = command.stdout(std::process::Stdio::null()).stderr(err).spawn().unwrap();
        support::guest::finish(child).expect_status(1);
    }
    let mut child = guest.start();
    // Held open, and not read.
    let err = child.stderr.take().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    drop(err);
}
