//! Guests that hang, and what `trapline why` says of it: ten hangs that were made up.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::user::{User, await_dot};
use support::{Owned, Pty, Running, TRAPLINE, until, until_state};
use trapline_testkit::realmode::{Asm, UART};

/// The two places where interrupt controllers can be.
const CHIPS: [&str; 2] = ["kernel", "split"];

/// A guest of this program that has printed `.`.
fn start(user: &User, program: &Asm, options: &[&str]) -> Owned {
    let mut child: Owned = user.command("one", program).args(options).spawn().unwrap().into();
    await_dot(&mut child);
    child
}

/// What `why` says as JSON.
fn why(user: &User) -> Value {
    serde_json::from_str(&user.say(&["why", "one", "--json"])).unwrap()
}

/// The kinds of the causes, and the sentence of the first.
fn causes(why: &Value) -> (Vec<&str>, &str) {
    let causes = why["causes"].as_array().unwrap();
    let kinds = causes.iter().map(|cause| cause["kind"].as_str().unwrap()).collect();
    (kinds, causes.first().map_or("", |cause| cause["text"].as_str().unwrap()))
}

/// Starts the guest, asks why it hangs, and ends it; `check` has the kinds, the first sentence and all.
fn hang(program: &Asm, options: &[&str], check: impl FnOnce(&[&str], &str, &Value)) {
    let user = User::new();
    let child = start(&user, program, options);
    let seen = why(&user);
    let (kinds, text) = causes(&seen);
    check(&kinds, text, &seen);
    let told = user.say(&["why", "-n", "one"]);
    assert!(told.starts_with("guest one: it was watched for 1."), "{told}");
    user.say(&["stop", "-n", "one"]);
    drop(child);
}

#[test]
fn a_poll_that_never_ends() {
    // The scratch register never becomes what it is waited for.
    let program = Asm::new().outb(UART + 7, 0x5a).print(b".").forever(Asm::new().inb(UART + 7));
    hang(&program, &[], |kinds, text, seen| {
        assert_eq!(kinds, ["poll"], "{text}");
        assert!(text.starts_with("vCPU 0 polls serial0/uart SCR (pio 0x3ff): 0x5a each time, "));
        let poll = &seen["vcpus"][0]["poll"];
        assert_eq!(
            (poll["register"].as_str(), poll["value"].as_str()),
            (Some("SCR"), Some("0x5a"))
        );
        let counted = |what: &str| poll[what].as_u64().unwrap();
        assert!(counted("reads") >= 8 && counted("reads_per_second") >= 5, "{poll}");
        assert!(counted("for_ns") > 0, "{poll}");
        assert_eq!(seen["vcpus"][0]["doing"], "polls");
    });
}

#[test]
fn a_poll_of_what_nobody_claims() {
    let program = Asm::new().print(b".").forever(Asm::new().inb(0x520));
    hang(&program, &[], |kinds, text, seen| {
        assert_eq!(kinds, ["poll-unclaimed"], "{text}");
        assert!(
            text.starts_with("vCPU 0 polls pio 0x520, which no device claims: 0xff each time, ")
        );
        assert_eq!(seen["unclaimed"][0]["addr"], 0x520, "{seen}");
        assert!(seen["unclaimed"][0]["count"].as_u64().unwrap() > 0, "{seen}");
    });
}

/// The first 8259A with vectors from 8 and the second one with vectors from 0x70, with these masks.
fn pics(masks: [u8; 2]) -> Asm {
    let first = [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, masks[0])];
    let second = [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 2), (0xa1, 1), (0xa1, masks[1])];
    first.into_iter().chain(second).fold(Asm::new(), |asm, (port, value)| asm.outb(port, value))
}

/// A stack, and the serial port's vector (IRQ 4) to a handler that ends the interrupt at the 8259 and
/// does nothing about the port.
fn careless() -> Asm {
    // push ax; push dx; ...; pop dx; pop ax; iret
    let handler = Asm::new().bytes(&[0x50, 0x52]).outb(0x20, 0x20).bytes(&[0x5a, 0x58, 0xcf]);
    let stack = Asm::new().mov_ax(0).bytes(&[0x8e, 0xd0, 0xbc, 0x00, 0x70]).mov_ds(0);
    let (asm, at, _) = stack.embed(&handler.0);
    asm.mov_ax(at).store_ax(12 * 4).mov_ax(0xf000).store_ax(12 * 4 + 2)
}

/// Prints, has the transmitter interrupt, which is empty, and halts for ever with interrupts on.
fn transmits(masks: [u8; 2]) -> Asm {
    let asm = careless().then(&pics(masks)).print(b".");
    let asm = asm.outb(UART + 4, 0x08).outb(UART + 1, 0x02);
    asm.forever(Asm::new().bytes(&[0xfb, 0xf4])) // sti; hlt
}

#[test]
fn a_masked_interrupt() {
    for chips in CHIPS {
        hang(&transmits([0xff, 0xff]), &["--irqchip", chips], |kinds, text, seen| {
            assert_eq!(kinds, ["interrupt-masked"], "{chips}: {seen}");
            let wanted = "IRQ 4 (serial0, serial2) is raised, and masked in the primary 8259A (mask \
                          register, bit 4) and the I/O APIC (redirection entry 4)";
            assert_eq!(text, wanted, "{chips}");
            assert_eq!(seen["vcpus"][0]["doing"], "halted");
            assert_eq!(seen["interrupts"][0]["stage"], "masked");
        });
    }
}

#[test]
fn a_lost_interrupt() {
    for chips in CHIPS {
        hang(&transmits([0xef, 0xff]), &["--irqchip", chips], |kinds, text, seen| {
            assert_eq!(kinds, ["interrupt-lost"], "{chips}: {seen}");
            let wanted =
                "IRQ 4 (serial0, serial2) is raised, but the primary 8259A takes its edges only";
            assert!(text.starts_with(wanted), "{chips}: {text}");
            assert_eq!(seen["interrupts"][0]["vector"], 12);
        });
    }
}

#[test]
fn an_interrupt_that_is_not_ended_keeps_others_waiting() {
    // A handler that returns without an EOI.
    let handler = Asm::new().bytes(&[0xcf]);
    let stack = Asm::new().mov_ax(0).bytes(&[0x8e, 0xd0, 0xbc, 0x00, 0x70]).mov_ds(0);
    let (asm, at, _) = stack.embed(&handler.0);
    let asm = asm.mov_ax(at).store_ax(12 * 4).mov_ax(0xf000).store_ax(12 * 4 + 2);
    let asm = asm.then(&pics([0xef, 0xff])).print(b".").outb(UART + 4, 0x08).outb(UART + 1, 0x02);
    let program = asm.forever(Asm::new().bytes(&[0xfb, 0xf4]));
    for chips in CHIPS {
        hang(&program, &["--irqchip", chips], |kinds, text, seen| {
            assert_eq!(kinds, ["interrupt-not-ended"], "{chips}: {seen}");
            assert!(text.contains("no EOI has come to the primary 8259A"), "{chips}: {text}");
        });
    }
}

#[test]
fn all_processors_halted_with_interrupts_off() {
    let program = Asm::new().print(b".").bytes(&[0xfa]).hlt().spin();
    hang(&program, &["-c", "2"], |kinds, text, seen| {
        assert_eq!(kinds, ["interrupts-off"], "{seen}");
        assert!(text.starts_with("all its vCPUs are halted with interrupts off"), "{text}");
        assert_eq!(seen["vcpus"][0]["takes_interrupts"], false);
        assert_eq!(seen["vcpus"][1]["doing"], "not-started");
    });
}

#[test]
fn a_guest_that_waits_for_nothing_or_runs_is_told_apart_from_one_that_hangs() {
    let idle = Asm::new().print(b".").forever(Asm::new().bytes(&[0xfb, 0xf4]));
    hang(&idle, &[], |kinds, text, _| assert_eq!(kinds, ["idle"], "{text}"));
    let program = Asm::new().print(b".").spin();
    hang(&program, &[], |kinds, text, _| assert_eq!(kinds, ["spins"], "{text}"));
    // Writes other values each time.
    let body = Asm::new().mov_dx(UART + 7).out_al().bytes(&[0xfe, 0xc0]); // inc al
    let program = Asm::new().print(b".").forever(body);
    hang(&program, &[], |kinds, text, _| assert_eq!(kinds, ["busy"], "{text}"));
}

#[test]
fn a_device_process_that_does_not_answer() {
    let user = User::new();
    let path = user.path().join("device");
    let listener = UnixListener::bind(&path).unwrap();
    let region = format!("--ioregion=pio=0x500,len=8,socket={}", path.display());
    let program = Asm::new().print(b".").inb(0x501).spin();
    let child = start(&user, &program, &[&region]);
    let (mut device, _) = listener.accept().unwrap();
    let mut command = [0; 32];
    device.read_exact(&mut command).unwrap();
    for _ in 0..2 {
        let seen = why(&user);
        let (kinds, text) = causes(&seen);
        assert_eq!(kinds, ["device-stalls"], "{text}");
        assert!(text.contains("does not answer: ") && text.contains("(pio 0x501) read"), "{text}");
        assert_eq!(seen["vcpus"][0]["doing"], "waits");
    }
    // It is asked once, whoever looks.
    device.set_nonblocking(true).unwrap();
    assert!(device.read(&mut command).is_err());
    user.say(&["stop", "-n", "one"]);
    drop(child);
}

#[test]
fn a_boot_loop() {
    // A line of output, and a reset by the keyboard controller.
    let program = Asm::new().print(b".\n").outb(0x64, 0xfe).spin();
    let user = User::new();
    let mut command = user.command("one", &program);
    let mut child: Owned = command.arg("--reboot").stderr(Stdio::null()).spawn().unwrap().into();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let mut seen = Value::Null;
    until("three resets", || {
        let (status, out, _) = user.run(&["why", "one", "--json"]);
        seen = serde_json::from_str(&out).unwrap_or_default();
        status == 0 && seen["resets"].as_u64().is_some_and(|resets| resets >= 3)
    });
    let (kinds, text) = causes(&seen);
    assert_eq!(kinds[0], "boot-loop", "{seen}");
    assert!(
        text.contains("it was reset ") && text.ends_with("by the keyboard controller"),
        "{text}"
    );
    user.say(&["stop", "-n", "one"]);
    drop(child);
    reader.join().unwrap().unwrap();
}

#[test]
fn a_kernel_that_waits_for_its_root_disk() {
    let says = b"[    1.234567] Waiting for root device /dev/vda1...\r\n.";
    let program = Asm::new().print(says).forever(Asm::new().bytes(&[0xfb, 0xf4]));
    let user = User::new();
    let mut child: Owned = user.command("one", &program).spawn().unwrap().into();
    let mut seen = vec![0; says.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    let seen = why(&user);
    let (kinds, text) = causes(&seen);
    assert_eq!(kinds, ["root-disk"], "{text}");
    let wanted = "its kernel waits for its root file system: \"[    1.234567] Waiting for root device \
                  /dev/vda1...\"; it has no disk";
    assert_eq!(text, wanted);
    user.say(&["stop", "-n", "one"]);
    drop(child);
}

#[test]
fn a_full_console_pipe() {
    let body = Asm::new().mov_al(b'x').send_al();
    let program = Asm::new().print(b".").forever(body);
    let user = User::new();
    // Nobody reads on.
    let child = start(&user, &program, &[]);
    let mut seen = Value::Null;
    until("the console is full", || {
        seen = why(&user);
        seen["console"]["full"] == true
    });
    let (kinds, text) = causes(&seen);
    assert_eq!(kinds, ["console-blocked"], "{seen}");
    assert!(
        text.starts_with("standard output is a pipe that nobody reads, and it is full"),
        "{text}"
    );
    assert!(text.ends_with("the guest's console has no room for more"), "{text}");
    user.say(&["stop", "-n", "one"]);
    drop(child);
}

/// Starts the guest on a terminal, and waits until it has printed `.`.
fn start_in<'a>(user: &User, pty: &'a Pty, program: &Asm) -> Running<'a> {
    let path = user.path().join("guest.rom");
    std::fs::write(&path, program.rom()).unwrap();
    let path = path.to_str().unwrap();
    let args = ["run", "--firmware", path, "-m", "2", "-c", "1", "--name", "one"];
    let mut guest = pty.spawn_with(TRAPLINE, &args, |command| {
        command.env("XDG_RUNTIME_DIR", user.path());
    });
    // Behind the command line.
    guest.expect("--name one");
    guest.expect(".");
    guest
}

#[test]
fn a_terminal_that_takes_no_output() {
    let body = Asm::new().mov_al(b'x').send_al();
    let (user, pty) = (User::new(), Pty::new());
    let guest = start_in(&user, &pty, &Asm::new().print(b".").forever(body));
    pty.stop_output();
    let mut seen = Value::Null;
    until("the terminal takes nothing", || {
        seen = why(&user);
        causes(&seen).0 == ["console-blocked"]
    });
    let text = causes(&seen).1;
    assert!(text.starts_with("the terminal takes no output: it was stopped (Ctrl-s"), "{text}");
    drop(guest);
}

#[test]
fn a_process_that_was_stopped_by_its_terminals_user() {
    let (user, pty) = (User::new(), Pty::new());
    let guest = start_in(&user, &pty, &Asm::new().print(b".").spin());
    let listed = user.list(&[]);
    let pid = listed.lines().last().unwrap().split_whitespace().next().unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::TSTP).unwrap();
    until_state(pid, 'T');
    let seen = why(&user);
    let (kinds, text) = causes(&seen);
    assert_eq!(kinds, ["process-stopped"], "{text}");
    assert!(text.contains("is stopped, by Ctrl-z") && text.contains("kill -CONT"), "{text}");
    kill_process(pid, Signal::CONT).unwrap();
    user.say(&["stop", "-n", "one"]);
    assert_eq!(guest.wait().0.code(), Some(0));
}

#[test]
fn a_paused_guest_says_so_and_what_it_did_before() {
    let user = User::new();
    let program = Asm::new().print(b".").forever(Asm::new().inb(UART + 7));
    let child = start(&user, &program, &[]);
    user.say(&["pause", "-n", "one"]);
    let seen = why(&user);
    let (kinds, text) = causes(&seen);
    assert_eq!(kinds, ["paused"], "{text}");
    assert_eq!(seen["watched_ns"], 0);
    assert_eq!(seen["vcpus"][0]["doing"], "polls", "{seen}");
    assert_eq!(user.listed()[0].1, "paused", "it stays so");
    user.say(&["stop", "-n", "one"]);
    drop(child);
}

#[test]
fn why_asks_one_guest_and_ctrl_a_w_the_own() {
    let user = User::new();
    assert_eq!(user.run(&["why"]), (128, String::new(), "Fatal: no guest is running\n".to_owned()));
    assert_eq!(user.run(&["why", "nobody"]).0, 128);
    for wrong in [&["a", "b"][..], &["a/b"], &["--wait"]] {
        assert_eq!(user.run(&[&["why"], wrong].concat()).0, 129, "{wrong:?}");
    }
    let pty = Pty::new();
    let program = Asm::new().print(b".").forever(Asm::new().inb(0x520));
    let mut guest = start_in(&user, &pty, &program);
    guest.send(b"\x01w");
    guest.expect("guest one: it was watched for 1.");
    guest.expect("vCPU 0 polls pio 0x520, which no device claims: 0xff each time");
    guest.send(b"\x01x");
    let (status, _) = guest.wait();
    assert_eq!(status.code(), Some(0));
}
