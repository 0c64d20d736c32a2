//! Guests whose devices are in processes of their own: `--isolate`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::guest::{Ended, Guest, finish};
use support::user::{User, await_dot};
use support::{Owned, Pty, until};
use trapline_testkit::realmode::{Asm, UART};

/// The status of a run whose guest writes 0 to the exit port.
const ENDED: i32 = 1;
/// That of one with an exit port that cannot go on.
const FAILED: i32 = 2;
/// All that can be isolated on this board.
const ALL: &str = "--isolate=serial0,serial1,serial2,serial3,rtc,i8042,crt";

/// The processes of devices that a VMM has: their names and numbers.
fn processes(vmm: &Owned) -> Vec<(String, Pid)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", vmm.id())).unwrap();
    let children =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<String> =
        children.flat_map(|all| all.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter()
        .filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some((name.trim().to_owned(), Pid::from_raw(pid.parse().ok()?)?))
        })
        .collect()
}

/// The process of this device.
fn process(vmm: &Owned, name: &str) -> Pid {
    processes(vmm).into_iter().find(|(other, _)| other == name).unwrap().1
}

/// Waits for the first character of a guest.
fn started(guest: &Guest) -> Owned {
    let mut child = guest.start();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, *b"!");
    child
}

/// Reads and writes of all the devices. Status register D of the clock says that the battery is good;
/// the controller's self-test is 0x55; R14 of the 6845 keeps eight bits.
fn everything() -> Asm {
    let asm = Asm::new().outb(0x70, 0x0d).inb(0x71).send_eax(1);
    let asm = asm.outb(0x64, 0xaa).inb(0x60).send_eax(1);
    let asm = asm.outb(0x2ff, 0x5a).inb(0x2ff).send_eax(1);
    // The divisor's place, and the transmitter's again.
    let asm = asm.outb(0x2fb, 0x83).outb(0x2f8, 12).inb(0x2f8).send_eax(1).outb(0x2fb, 3);
    asm.outb(0x3d4, 14).outb(0x3d5, 7).inb(0x3d5).send_eax(1).exit(0)
}

#[test]
fn devices_answer_from_their_processes() {
    let guest = Guest::new(&everything()).with(&["--exit-port", ALL]);
    let ended = guest.run().expect_status(ENDED);
    assert_eq!(ended.out, [0x80, 0x55, 0x5a, 12, 7], "{}", ended.err);
}

/// The lines of standard error that name a register, without times.
fn named(ended: &Ended) -> BTreeSet<String> {
    let words = |line: &str| {
        let at =
            ["serial", "rtc/", "i8042/", "crt/"].iter().filter_map(|name| line.find(name)).min()?;
        Some(line[at..].trim_end_matches(" forwarded").to_owned())
    };
    ended.err.lines().filter_map(words).collect()
}

#[test]
fn accesses_have_the_names_they_have_without() {
    let run = |options: &[&str]| {
        let guest =
            Guest::new(&everything()).with(&["--exit-port", "--no-coalesce", "--trace=all"]);
        named(&guest.with(options).run().expect_status(ENDED))
    };
    let (here, there) = (run(&[]), run(&[ALL]));
    let shows = |all: &BTreeSet<String>, name: &str| all.iter().any(|line| line.contains(name));
    assert!(
        shows(&here, "Register D") && shows(&here, " DLL ") && shows(&here, " SCR "),
        "{here:?}"
    );
    assert_eq!(there, here);
    // By register, at the end: how often each was reached.
    let table = |options: &[&str]| {
        let guest =
            Guest::new(&everything()).with(&["--exit-port", "--no-coalesce", "--stat=json"]);
        let ended = guest.with(options).run().expect_status(ENDED);
        let at = ended.err.find('{').or_else(|| ended.err.find('[')).unwrap_or_default();
        let names = ["\"RTC index\"", "\"Register D\"", "\"DLL\"", "\"SCR\"", "\"THR\""];
        names.map(|name| ended.err[at..].matches(name).count())
    };
    let here = table(&[]);
    assert!(here.iter().all(|times| *times > 0), "{here:?}");
    assert_eq!(table(&[ALL]), here);
}

#[test]
fn everything_that_is_sent_before_the_end_comes_out_in_order() {
    let text: Vec<u8> = (0..4000).map(|n| b'a' + (n % 26) as u8).collect();
    for options in [&[][..], &["--no-coalesce"], &["--console=virtio"]] {
        let asm = text.chunks(200).fold(Asm::new(), |asm, part| asm.print(part));
        let guest = Guest::new(&asm.exit(0)).with(&["--exit-port", "--isolate=serial0"]);
        let ended = guest.with(options).run().expect_status(ENDED);
        assert!(ended.out == text, "{options:?} {}", ended.err);
    }
}

/// The first 8259A with vectors from 8, the second with vectors from 0x70, `masks` closed.
fn pics(masks: [u8; 2]) -> Asm {
    let words = [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, masks[0])];
    let second = [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, masks[1])];
    words.into_iter().chain(second).fold(Asm::new(), |asm, (port, value)| asm.outb(port, value))
}

/// A guest with a stack that counts interrupts of a vector at 0x500.
fn counting(number: u8, answer: &Asm) -> Asm {
    let asm = Asm::new().mov_ax(0).bytes(&[0x8e, 0xd0, 0xbc, 0x00, 0x70]); // mov ss, ax; mov sp
    let asm = asm.mov_ds(0).mov_al(0).store_al(0x500);
    // push ax; push dx; inc byte [0x500]; ...; pop dx; pop ax; iret
    let count = Asm::new().bytes(&[0x50, 0x52, 0xfe, 0x06, 0x00, 0x05]);
    let handler = count.then(answer).bytes(&[0x5a, 0x58, 0xcf]);
    let (asm, at, _) = asm.embed(&handler.0);
    let entry = u16::from(number) * 4;
    asm.mov_ax(at).store_ax(entry).mov_ax(0xf000).store_ax(entry + 2)
}

/// Halts with interrupts on until the count is `wanted`.
fn until_count(wanted: u8) -> Asm {
    // again: cli; cmp byte [0x500], wanted; jae over; sti; hlt; jmp again; over:
    let asm = Asm::new().bytes(&[0xfa, 0x80, 0x3e, 0x00, 0x05, wanted, 0x73, 0x04]);
    asm.bytes(&[0xfb, 0xf4, 0xeb, 0xf4])
}

#[test]
fn a_clocks_interrupts_come_out_of_its_process() {
    for chip in ["kernel", "split"] {
        // Reading register C lets go of the line.
        let end = Asm::new().outb(0x70, 0x0c).inb(0x71).outb(0xa0, 0x20).outb(0x20, 0x20);
        let asm = counting(0x70, &end).then(&pics([0xfb, 0xfe]));
        // Register A: 1024 Hz; register B: periodic interrupt, BCD, 24 hours.
        let asm = asm.outb(0x70, 0x0a).outb(0x71, 0x26).outb(0x70, 0x0b).outb(0x71, 0x42);
        let asm = asm.outb(0x70, 0x0c).inb(0x71).then(&until_count(20));
        let guest = Guest::new(&asm.load_al(0x500).send_al().exit(0));
        let ended = guest.with(&["--exit-port", "--isolate=rtc,serial0", "--irqchip", chip]).run();
        assert!(ended.expect_status(ENDED).out[0] >= 20, "{chip}");
    }
}

/// The line is where it has to be when an access is over: an interrupt that the guest has answered
/// before it ends it at the controller does not come again.
#[test]
fn a_line_has_changed_when_the_access_that_changes_it_is_over() {
    for chip in ["kernel", "split"] {
        let end = Asm::new().inb(UART + 2).outb(0x20, 0x20);
        let asm = counting(12, &end);
        // Level-triggered (ELCR), as the lines of PCI functions are: a line that is still high after
        // the end of the interrupt asks again.
        let asm = asm.outb(0x4d0, 0x10).then(&pics([0xef, 0xff])).outb(UART + 4, 0x08);
        let once = Asm::new().bytes(&[0x51]).outb(UART + 1, 0).outb(UART + 1, 2).bytes(&[0xfb]);
        let asm = asm.repeat(50, once.inb(0x80).bytes(&[0xfa, 0x59])).outb(UART + 1, 0);
        let guest = Guest::new(&asm.load_al(0x500).send_al().exit(0));
        let ended = guest.with(&["--exit-port", "--isolate=serial0", "--irqchip", chip]).run();
        assert_eq!(ended.expect_status(ENDED).out, [50], "{chip}");
    }
}

#[test]
fn what_is_typed_comes_back() {
    // Ten characters, each echoed as its successor.
    let echo = Asm::new().bytes(&[0x51]).wait_for(UART + 5, 1).inb(UART).bytes(&[0xfe, 0xc0]);
    let asm = Asm::new().mov_al(b'!').send_al().repeat(100, echo.send_al().bytes(&[0x59]));
    let pty = Pty::new();
    let guest = Guest::new(&asm.exit(0)).with(&["--exit-port", "--isolate=serial0"]);
    let mut running = guest.start_in(&pty);
    running.expect("!");
    let typed: String = (0..100).map(|n| char::from(b'a' + n % 25)).collect();
    running.send(typed.as_bytes());
    let expected: String = typed.chars().map(|c| char::from(c as u8 + 1)).collect();
    running.expect(&expected);
}

#[test]
fn a_reset_through_its_process_reaches_the_machine_and_the_device() {
    // Counts in the clock's RAM, which has a battery, and says what the scratch register was.
    let asm = Asm::new().inb(UART + 7).send_al().outb(UART + 7, 0x41);
    let asm = asm.outb(0x70, 0x40).inb(0x71).bytes(&[0xfe, 0xc0]).mov_dx(0x71).out_al();
    let asm = asm.if_al_is(3, Asm::new().exit(0)).print(b"x\n").outb(0x64, 0xfe).spin();
    let guest = Guest::new(&asm).with(&["--exit-port", "--reboot", ALL]);
    let ended = guest.run().expect_status(ENDED);
    assert_eq!(ended.out, b"\0x\n\0x\n\0", "{}", ended.err);
}

/// A guest that reads the clock's register D until it is what `wanted` says, by way of `jne`.
fn reader(options: &[&str], before: u8, after: u8) -> Guest {
    let wait = |value: u8| Asm::new().outb(0x70, 0x0d).mov_dx(0x71).bytes(&[0xec, 0x3c, value]);
    let again = |asm: Asm| {
        let len = u8::try_from(asm.0.len()).unwrap();
        asm.bytes(&[0x75, 0u8.wrapping_sub(len + 2)])
    };
    let asm = Asm::new().then(&again(wait(0x80))).mov_al(b'!').send_al();
    let asm = asm.then(&again(wait(before))).then(&again(wait(after))).mov_al(b'?').send_al();
    Guest::new(&asm.exit(0)).with(&["--exit-port"]).with(options)
}

#[test]
fn a_killed_process_is_replaced_and_the_guest_goes_on() {
    let looping = Guest::new(
        &Asm::new().mov_al(b'!').send_al().forever(Asm::new().outb(0x70, 0x0d).inb(0x71)),
    )
    .with(&["--isolate=rtc,serial0"]);
    let vmm = started(&looping);
    let first = process(&vmm, "rtc");
    kill_process(first, Signal::KILL).unwrap();
    let is_confined = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        status.is_ok_and(|status| status.contains("Seccomp:\t2"))
    };
    let another = || {
        let mut all = processes(&vmm).into_iter();
        all.any(|(name, pid)| name == "rtc" && pid != first && is_confined(&pid))
    };
    until("another process", another);
    // A second time, and a process that does not answer: it is killed for that.
    let second = process(&vmm, "rtc");
    kill_process(second, Signal::STOP).unwrap();
    until("a third process", || {
        processes(&vmm).iter().any(|(name, pid)| name == "rtc" && ![first, second].contains(pid))
    });
    assert_eq!(processes(&vmm).len(), 2);
    kill_process(Pid::from_child(&vmm), Signal::INT).unwrap();
    let ended = finish(vmm);
    assert!(ended.err.contains("rtc is dead: it was killed by signal 9"), "{}", ended.err);
    // Or it was stopped just before it could say that it is there.
    let stopped = ["rtc is dead: it has not answered for 5s", "does not come up"];
    assert!(stopped.iter().any(|said| ended.err.contains(said)), "{}", ended.err);
    assert_eq!(ended.err.matches("rtc has another process").count(), 2, "{}", ended.err);
}

/// How a client of the control socket has a guest pause, and how it hears that this is done.
const PAUSE: &[u8] =
    b"PATCH /vm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}";
const DONE: &str = "HTTP/1.1 204";

/// How often the guest has read the clock.
fn clock_reads(user: &User) -> u64 {
    let json = user.say(&["stat", "-n", "one", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let regions = json["regions"].as_array().unwrap();
    let clock = regions.iter().find(|region| region["region"] == "rtc/cmos").unwrap();
    clock["reads"].as_u64().unwrap()
}

#[test]
fn a_process_that_does_not_answer_holds_up_no_pause() {
    let user = User::new();
    // An access is on its way nearly all the time.
    let reads = Asm::new().repeat(20, Asm::new().bytes(&[0x51]).inb(0x71).bytes(&[0x59]));
    let program = Asm::new().outb(0x70, 0x0d).forever(reads.mov_al(b'.').send_al());
    let mut command = user.command("one", &program);
    let mut vmm = Owned::from(command.arg("--isolate=rtc").spawn().unwrap());
    await_dot(&mut vmm);
    let before = process(&vmm, "rtc");
    for _ in 0..2 {
        // Five seconds after it was asked, the process would be killed: nothing else is started in them.
        let mut control = UnixStream::connect(user.folder().join("one.sock")).unwrap();
        kill_process(before, Signal::STOP).unwrap();
        control.write_all(PAUSE).unwrap();
        let mut answer = [0; DONE.len()];
        control.read_exact(&mut answer).unwrap();
        assert_eq!(answer, DONE.as_bytes());
        assert_eq!(processes(&vmm), [("rtc".to_owned(), before)]);
        kill_process(before, Signal::CONT).unwrap();
        assert_eq!(user.listed()[0].1, "paused");
        let reads = clock_reads(&user);
        assert_eq!(user.say(&["resume", "-n", "one"]), "Guest one resumed\n");
        until("the guest goes on", || clock_reads(&user) > reads + 40);
    }
    assert_eq!(user.say(&["stop", "-n", "one"]), "");
    let ended = finish(vmm);
    assert!(!ended.err.contains("dead"), "{}", ended.err);
}

#[test]
fn a_killed_process_reads_as_ones_if_it_is_to() {
    let vmm = started(&reader(&["--isolate=rtc,serial0,when-dead=ones"], 0xff, 0xff));
    kill_process(process(&vmm, "rtc"), Signal::KILL).unwrap();
    let ended = finish(vmm).expect_status(ENDED);
    assert_eq!(ended.out, b"?", "{}", ended.err);
    assert_eq!(ended.err.matches("is dead").count(), 1, "{}", ended.err);
}

#[test]
fn a_killed_process_ends_the_machine_if_it_is_to() {
    let vmm = started(&reader(&["--isolate=rtc,serial0,when-dead=stop"], 0xff, 0xff));
    kill_process(process(&vmm, "rtc"), Signal::KILL).unwrap();
    let ended = finish(vmm);
    assert_eq!(ended.status, FAILED, "{}", ended.err);
    assert!(
        ended.err.contains("the process of rtc is dead: it was killed by signal 9"),
        "{}",
        ended.err
    );
}

#[test]
fn no_process_outlives_the_vmm() {
    let spin = Asm::new().mov_al(b'!').send_al().spin();
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let vmm = started(&Guest::new(&spin).with(&[ALL]));
        let pids: Vec<Pid> = processes(&vmm).into_iter().map(|(_, pid)| pid).collect();
        assert_eq!(pids.len(), 7);
        kill_process(Pid::from_child(&vmm), signal).unwrap();
        until("the end of all", || pids.iter().all(|pid| test_kill_process(*pid).is_err()));
    }
}

#[test]
fn a_process_has_nothing_but_what_it_needs() {
    let spin = Asm::new().mov_al(b'!').send_al().spin();
    let guest = Guest::new(&spin).with(&[ALL]);
    // A descriptor that whoever started the VMM has left open.
    let mut shell = support::command("sh");
    let command = guest.command();
    shell.args(["-c", "exec 7</dev/null; exec \"$@\"", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).stdin(std::process::Stdio::null());
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut vmm = Owned::from(shell.spawn().unwrap());
    vmm.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(Path::new(&format!("/proc/{}/fd/7", vmm.id())).exists());
    for (name, pid) in processes(&vmm) {
        let of = |file: &str| format!("/proc/{}/{file}", pid.as_raw_nonzero());
        let fds =
            fs::read_dir(of("fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap());
        let mut fds: Vec<String> = fds.map(|to| to.to_string_lossy().into_owned()).collect();
        fds.retain(|to| !to.starts_with("socket:") && !to.starts_with("anon_inode:"));
        assert_eq!(fds, ["/dev/null"], "{name}");
        let status = fs::read_to_string(of("status")).unwrap();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t2"] {
            assert!(status.contains(line), "{name}: {status}");
        }
        let limits = fs::read_to_string(of("limits")).unwrap();
        for (limit, most) in [("Max processes", 0), ("Max file size", 0), ("Max open files", 32)] {
            let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
            let words: Vec<&str> = line[limit.len()..].split_whitespace().collect();
            assert_eq!(&words[..2], [most.to_string(), most.to_string()], "{name}: {line}");
        }
        assert_eq!(fs::read_to_string(of("environ")).unwrap(), "", "{name}");
    }
}

#[test]
fn what_cannot_be_isolated_is_one_sentence() {
    let program = Asm::new().exit(0);
    for (options, said) in [
        (&["--isolate=toaster"][..], "--isolate toaster: this machine has no such device"),
        (&["--isolate=rng", "--rng"], "--isolate rng: it is none of the devices that have to do"),
        (
            &["--isolate=i8042", "--irqchip=split"],
            "--isolate i8042: its port B is wired to the timer",
        ),
        (&["--isolate=rtc,rtc"], "--isolate rtc: it is named twice"),
    ] {
        let ended = Guest::new(&program).with(options).run();
        assert_eq!(ended.status, 1, "{}", ended.err);
        assert!(ended.err.contains(said), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}
