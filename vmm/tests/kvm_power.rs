//! How guests end: by the exit port, switching themselves off, resetting and crashing.

mod support;

use std::io::Read;

use rustix::process::{Pid, Signal, kill_process};

use support::flat::{Flat, pvh};
use support::guest::{Guest, finish, off, run};
use trapline_testkit::realmode::{Asm, EXIT};

/// Battery-backed bytes nobody claims.
const BOOTS: u8 = 0x50;

/// Counts its boots in CMOS RAM and says how many and the last POST code; switches off after the
/// third, before that resets by `reset`.
fn counter(reset: &Asm) -> Asm {
    let count = Asm::new().outb(0x70, BOOTS).inb(0x71).bytes(&[0xfe, 0xc0, 0x88, 0xc3]); // inc al; mov bl, al
    let keep = count.send_al().outb(0x70, BOOTS).bytes(&[0x88, 0xd8]).mov_dx(0x71).out_al();
    let post = keep.inb(0x80).send_al().outb(0x80, 0xaa);
    post.bytes(&[0x88, 0xd8]).if_al_is(3, off().spin()).then(reset).spin()
}

#[test]
fn the_exit_port_ends_the_run_with_twice_the_value_and_one() {
    for value in [0, 1, 42, 127] {
        let ended = run(&Asm::new().exit(value), &["--exit-port"]);
        ended.expect_status(i32::from(value) * 2 + 1);
    }
}

#[test]
fn vcpus_that_nobody_started_do_not_keep_the_machine_running() {
    let ended = run(&Asm::new().print(b"alone").then(&off()), &["-c", "3"]).expect_status(0);
    assert_eq!(ended.out, b"alone");
}

#[test]
fn what_was_printed_before_the_exit_port_is_written() {
    let ended = run(&Asm::new().print(b"last words").exit(0), &["--exit-port"]).expect_status(1);
    assert_eq!(ended.out, b"last words");
}

/// B2: kvmtool ends the vCPU at the first unclaimed port when it is to list them.
#[test]
fn without_its_option_the_exit_port_is_a_port_like_any_other_and_listed() {
    let program = Asm::new().outb(EXIT, 7).inw(0x520).print(b"on").then(&off());
    let ended = run(&program, &["--debug-ioport"]).expect_status(0);
    assert_eq!(ended.out, b"on");
    let unclaimed: Vec<&str> =
        ended.err.lines().filter(|line| line.starts_with("unclaimed: ")).collect();
    let expected = ["unclaimed: pio 0xf4 write of 1: 1", "unclaimed: pio 0x520 read of 2: 1"];
    assert_eq!(unclaimed, expected);
    assert!(!run(&program, &[]).expect_status(0).err.contains("unclaimed"));
}

/// The instructions after the one that switches off are not executed.
#[test]
fn acpi_switches_the_machine_off_at_once() {
    let ended = run(&Asm::new().print(b"bye").then(&off()).print(b" and on").spin(), &[]);
    let ended = ended.expect_status(0);
    assert_eq!(ended.out, b"bye");
    assert!(ended.err.contains("# KVM session ended normally."), "{}", ended.err);
}

/// The devices that reset, with what the last line calls them.
fn ways() -> [(&'static str, Asm); 3] {
    [
        ("the keyboard controller", Asm::new().outb(0x64, 0xfe)),
        ("port 92", Asm::new().outb(0x92, 0x01)),
        ("the reset control register (port 0xcf9)", Asm::new().outb(0xcf9, 0x02).outb(0xcf9, 0x06)),
    ]
}

/// As in kvmtool, whose guests have `reboot=k panic=1` for it.
#[test]
fn each_way_to_reset_ends_the_run_with_a_line_that_names_it() {
    for (name, reset) in ways() {
        for options in [&[][..], &["--reboot", "--no-reboot"]] {
            let ended = run(&counter(&reset), options).expect_status(0);
            assert_eq!(ended.out, [1, 0], "{name}: {}", ended.err);
            let end =
                format!("\n  # The guest was reset by {name}.\n  # KVM session ended normally.\n");
            assert!(ended.err.ends_with(&end), "{name}: {}", ended.err);
        }
        let quiet = run(&counter(&reset), &["--loglevel=error"]).expect_status(0);
        assert_eq!(quiet.err, "", "{name}");
    }
}

#[test]
fn each_way_to_reset_boots_again_with_cmos_ram_kept_and_devices_at_power_on() {
    for (name, reset) in ways() {
        let ended = run(&counter(&reset), &["--reboot", "--stat=all"]).expect_status(0);
        assert_eq!(ended.out, [1, 0, 2, 0, 3, 0], "{name}: {}", ended.err);
        assert!(ended.err.contains(", resets 2\n"), "{name}: {}", ended.err);
        let told = format!("  Info: the guest was reset by {name}: booting it again\n");
        assert_eq!(ended.err.matches(&told).count(), 2, "{name}: {}", ended.err);
    }
}

#[test]
fn a_guest_that_resets_ten_times_without_a_line_is_given_up() {
    let reset = Asm::new().outb(0x64, 0xfe);
    let ended = run(&Asm::new().print(b"no line").then(&reset).spin(), &["--reboot"]);
    let ended = ended.expect_status(1);
    assert_eq!(ended.out, b"no line".repeat(10));
    let last = ended.err.lines().last().unwrap();
    let expected = "Fatal: the guest was reset 10 times without a line of output, the last time \
                    by the keyboard controller";
    assert_eq!(last, expected);
}

/// Nobody reads hundreds of lines that say the same.
#[test]
fn a_guest_that_prints_and_resets_for_ever_is_reported_ten_times() {
    let reset = Asm::new().outb(0x64, 0xfe);
    let guest = Guest::new(&Asm::new().print(b"x\n").then(&reset).spin()).with(&["--reboot"]);
    let mut child = guest.start();
    let mut seen = [0; 60];
    child.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = finish(child).expect_status(143);
    assert_eq!(ended.err.matches("the guest was reset by").count(), 10, "{}", ended.err);
}

/// A guest that crashes: ud2 in protected mode without an interrupt table.
fn crasher() -> Guest {
    let code = Flat::new().outb(0x92, 2).outb(0x3f9, 0).outb(0x520, 3).bytes(&[0x0f, 0x0b]);
    Guest::kernel(&pvh(&code))
}

#[test]
fn a_triple_fault_is_a_failure_on_request_only() {
    let report = "vCPU 0 stopped: triple fault";
    let err = crasher().run().expect_status(0).err;
    let end = "\n  # The guest was reset by a triple fault.\n  # KVM session ended normally.\n";
    assert!(err.matches(report).count() == 1 && err.ends_with(end), "{err}");
    assert_eq!(crasher().with(&["--loglevel", "error"]).run().expect_status(0).err, "");
    let err = crasher().with(&["--fail-on-triple-fault"]).run().expect_status(1).err;
    let last = err.lines().last().unwrap();
    assert!(last.starts_with("Fatal: the guest cannot go on: triple fault"), "{err}");
    assert_eq!(err.matches(report).count(), 1, "{err}");
    let ended = crasher().with(&["--reboot"]).run().expect_status(1);
    assert_eq!(ended.err.matches(report).count(), 9, "{}", ended.err);
}

#[test]
fn a_triple_fault_is_reported_with_registers_and_accesses_by_name() {
    let err = crasher().run().expect_status(0).err;
    for part in [
        "vCPU 0 stopped: triple fault",
        "  rip ",
        "  cs ",
        "  cr0 ",
        "  system/control-a PORTA (pio 0x92) write 1 byte 0x2\n",
        "  serial0/uart IER (pio 0x3f9) write 1 byte 0x0\n",
        "  unclaimed (pio 0x520) write 1 byte 0x3\n",
    ] {
        assert!(err.contains(part), "no {part:?}: {err}");
    }
}

/// The function that answered has moved away since, and another has come.
#[test]
fn a_report_names_what_an_access_reached_then() {
    const PLACE: u32 = 0xd200_0000;
    let place = |code: Flat, device: u32, base: u32| {
        let select = |code: Flat, offset| code.outl(0xcf8, 1 << 31 | device << 11 | offset);
        let code = select(code, 0x10).outl(0xcfc, base);
        select(code, 0x04).outl(0xcfc, 2)
    };
    let code = place(place(Flat::new(), 1, PLACE), 2, PLACE + 0x10_0000);
    let code = code.load(PLACE);
    let code = place(place(code, 1, PLACE + 0x20_0000), 2, PLACE).load(PLACE);
    let code = place(code, 2, PLACE + 0x10_0000).bytes(&[0x0f, 0x0b]);
    let err = Guest::kernel(&pvh(&code)).with(&["--edu", "2"]).run().expect_status(0).err;
    let line = |name: &str| {
        let lines = err.lines().filter(|line| line.contains("(mmio 0xd2000000) read 4 bytes"));
        lines.filter(|line| line.trim_start().starts_with(name)).count()
    };
    assert_eq!((line("edu0/bar0 "), line("edu1/bar0 "), line("")), (1, 1, 2), "{err}");
}

#[test]
fn a_jump_to_where_nothing_is_is_reported() {
    // jmp ffff:fff0 is above 1 MiB, where the RAM of a machine with 1 MiB ends.
    let program = Asm::new().bytes(&[0xea, 0xf0, 0xff, 0xff, 0xff]);
    let ended = Guest::new(&program).with(&["-m", "1"]).run().expect_status(1);
    assert!(
        ended.err.contains("Fatal: the guest cannot go on: KVM internal error"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("It had not accessed any device."), "{}", ended.err);
}
