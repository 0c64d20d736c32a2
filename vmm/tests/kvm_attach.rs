//! Who attaches to a guest that runs: `trapline break` and `trapline trace --follow`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::guest::finish;
use support::user::{User, await_dot};
use support::{Owned, Pty, Running, TRAPLINE, until};
use trapline_testkit::realmode::{Asm, UART};

/// The UART's line control and scratch registers.
const LCR: u16 = UART + 3;
const SCR: u16 = UART + 7;

/// A guest that writes the scratch register and line control over and over, and counts in AL.
fn start(user: &User) -> Owned {
    // mov dx, SCR; out dx, al; inc al; push ax; ...; pop ax
    let body = Asm::new().mov_dx(SCR).out_al().bytes(&[0xfe, 0xc0, 0x50]).outb(LCR, 3);
    let stack = Asm::new().mov_ax(0).bytes(&[0x8e, 0xd0, 0xbc, 0x00, 0x70]);
    let program = stack.print(b".").forever(body.bytes(&[0x58]));
    let mut child: Owned = user.command("one", &program).spawn().unwrap().into();
    await_dot(&mut child);
    child
}

/// How often the guest has written the scratch register.
fn writes(user: &User) -> u64 {
    let json: serde_json::Value =
        serde_json::from_str(&user.say(&["stat", "-n", "one", "--json"])).unwrap();
    let region = json["regions"].as_array().unwrap().iter();
    let uart = region.clone().find(|region| region["region"] == "serial0/uart").unwrap();
    uart["writes"].as_u64().unwrap()
}

#[track_caller]
fn goes_on(user: &User) {
    let before = writes(user);
    until("the guest goes on", || writes(user) > before + 10);
    assert_eq!(user.listed()[0].1, "running");
}

#[test]
fn accesses_are_followed_as_they_happen() {
    let user = User::new();
    let one = start(&user);
    let told = user.say(&["trace", "one", "--follow", "--device", "serial0/uart", "-n", "8"]);
    assert_eq!(told.lines().count(), 8, "{told}");
    assert!(told.lines().all(|line| line.contains("serial0/uart ")), "{told}");
    assert!(told.contains("SCR (pio 0x3ff) write 1 byte"), "{told}");
    assert!(told.contains("LCR (pio 0x3fb) write 1 byte 0x3"), "{told}");
    goes_on(&user);
    let (status, out, err) = user.run(&["trace", "one", "--follow", "--device", "serial9"]);
    assert_eq!((status, out.as_str()), (128, ""), "{err}");
    assert!(err.starts_with("Fatal: serial9: no device or region has that name; there are all, "));
    let (status, _, err) = user.run(&["trace", "nobody", "--follow"]);
    assert_eq!((status, err.as_str()), (128, "Fatal: no guest called nobody is running\n"));
    for (wanted, wrong) in [
        (1, &["one", "--device", "rtc"][..]),
        (129, &["one", "--follow", "-n", "0"]),
        (129, &["--follow"]),
    ] {
        let (status, _, err) = user.run(&[&["trace"], wrong].concat());
        assert_eq!((status, err.lines().count()), (wanted, 1), "{wrong:?}: {err}");
    }
    // It ends with the guest.
    let mut command = Command::new(TRAPLINE);
    command.args(["trace", "one", "--follow"]).env("XDG_RUNTIME_DIR", user.path());
    let mut following: Owned = command.stdout(Stdio::piped()).spawn().unwrap().into();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("serial0/uart"));
    let reading = std::thread::spawn(move || lines.count());
    user.say(&["stop", "-n", "one"]);
    until("it ends with the guest", || following.try_wait().unwrap().is_some());
    assert_eq!(following.wait().unwrap().code(), Some(0));
    reading.join().unwrap();
    finish(one).expect_status(0);
}

#[test]
fn what_is_printed_without_end_ends_with_its_reader() {
    let user = User::new();
    let one = start(&user);
    for args in [
        &["trace", "one", "--follow"][..],
        &["break", "one", "serial0:SCR=w"],
        &["top", "one", "--json", "--delay", "0.1"],
    ] {
        let mut command = Command::new(TRAPLINE);
        command.args(args).env("XDG_RUNTIME_DIR", user.path()).stdin(Stdio::null());
        let mut child: Owned = command.stdout(Stdio::piped()).spawn().unwrap().into();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().unwrap().unwrap();
        drop(lines);
        until("it ends with its reader", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
        goes_on(&user);
    }
    user.say(&["stop", "-n", "one"]);
    finish(one).expect_status(0);
}

#[test]
fn where_nobody_can_be_asked_stops_are_told_and_the_guest_goes_on() {
    let user = User::new();
    let one = start(&user);
    let told = user.say(&["break", "one", "serial0:SCR=w,value=7", "--count", "2"]);
    let stops = told.lines().filter(|line| line.starts_with("vCPU 0 stopped after "));
    assert_eq!(stops.clone().count(), 2, "{told}");
    assert!(stops.clone().all(|stop| stop.contains("SCR (pio 0x3ff) write 1 byte 0x7")), "{told}");
    assert_eq!(told.matches("Its last accesses, oldest first:").count(), 2);
    goes_on(&user);
    let (status, _, err) = user.run(&["break", "one", "serial0:LRC=w", "-c", "1"]);
    let near = "Fatal: serial0:LRC=w: serial0 has no register LRC; the nearest are LCR, ";
    assert_eq!((status, err.starts_with(near)), (128, true), "{err}");
    // It comes to the first one while the second one is looked at.
    for _ in 0..20 {
        assert_eq!(user.run(&["break", "one", "serial0:SCR=w", "rtx", "-c", "1"]).0, 128);
        goes_on(&user);
    }
    assert_eq!(user.run(&["break", "nobody", "rtc", "-c", "1"]).0, 128);
    for wrong in [&[][..], &["one", "-c", "1"], &["one", "rtc", "-c", "0"], &["a/b", "rtc"]] {
        assert_eq!(user.run(&[&["break"], wrong].concat()).0, 129, "{wrong:?}");
    }
    user.say(&["stop", "-n", "one"]);
    finish(one).expect_status(0);
}

#[test]
fn the_guest_is_not_harmed_by_a_thousand_stops() {
    let user = User::new();
    let one = start(&user);
    let told = user.say(&["break", "one", "serial0:SCR=w", "--count", "1000"]);
    let stops = told.lines().filter(|line| line.starts_with("vCPU 0 stopped after "));
    let values: Vec<u8> = stops
        .map(|stop| {
            let value = stop.split(" byte 0x").nth(1).unwrap().split(' ').next().unwrap();
            u8::from_str_radix(value, 16).unwrap()
        })
        .collect();
    assert_eq!(values.len(), 1000);
    assert!(values.windows(2).all(|two| two[1] == two[0].wrapping_add(1)), "{values:?}");
    goes_on(&user);
    user.say(&["stop", "-n", "one"]);
    finish(one).expect_status(0);
}

fn attach<'a>(user: &User, pty: &'a Pty, args: &[&str]) -> Running<'a> {
    let args = [&["break", "one"], args].concat();
    pty.spawn_with(TRAPLINE, &args, |command| {
        command.env("XDG_RUNTIME_DIR", user.path());
    })
}

#[test]
fn at_the_prompt_the_guest_stops_goes_on_and_is_left() {
    let user = User::new();
    let one = start(&user);
    let pty = Pty::new();
    let mut prompt = attach(&user, &pty, &["serial0:SCR=w,value=9"]);
    let told = prompt.expect("(break) ");
    assert!(told.contains("  serial0:SCR=w,value=9"), "{told}");
    assert!(prompt.expect("(break) ").contains("SCR (pio 0x3ff) write 1 byte 0x9 (break "));
    assert_eq!(user.listed()[0].1, "paused");
    prompt.send(b"s\n");
    assert!(prompt.expect("(break) ").contains("LCR (pio 0x3fb) write 1 byte 0x3\r"));
    prompt.send(b"b rtx\n");
    assert!(prompt.expect("(break) ").contains("no device or region is called rtx"));
    prompt.send(b"b serial0:LCR=w\n");
    let told = prompt.expect("(break) ");
    let number = told.split("break ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    prompt.send(b"c\n");
    assert!(prompt.expect("(break) ").contains("LCR (pio 0x3fb) write 1 byte 0x3 (break "));
    prompt.send(format!("n {number}\n").as_bytes());
    prompt.expect("(break) ");
    prompt.send(b"l\n");
    let told = prompt.expect("(break) ");
    assert!(told.contains("value=9") && !told.contains("LCR"), "{told}");
    // Another one has it go on meanwhile.
    user.say(&["resume", "-n", "one"]);
    assert!(prompt.expect("(break) ").contains("write 1 byte 0x9 (break "));
    prompt.send(b"d\n");
    prompt.expect("The guest goes on, without breaks.");
    assert_eq!(prompt.wait().0.code(), Some(0));
    goes_on(&user);
    user.say(&["stop", "-n", "one"]);
    finish(one).expect_status(0);
}

#[test]
fn breaks_go_with_whoever_set_them_and_the_prompt_with_the_guest() {
    let user = User::new();
    let one = start(&user);
    let pty = Pty::new();
    let mut prompt = attach(&user, &pty, &["serial0:SCR=w"]);
    prompt.expect("vCPU 0 stopped after ");
    drop(prompt);
    goes_on(&user);
    let pty = Pty::new();
    // One that never comes.
    let mut prompt = attach(&user, &pty, &["unclaimed"]);
    prompt.expect("(break) ");
    prompt.send(b"c\n");
    prompt.expect("The guest runs, and stops at the next break.");
    user.say(&["stop", "-n", "one"]);
    prompt.expect("Guest one has ended.");
    assert_eq!(prompt.wait().0.code(), Some(0));
    finish(one).expect_status(0);
}
