//! Guests that run, and the commands to them by their control sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use support::guest::{Ended, Guest, finish, off};
use support::user::{User, await_dot};
use support::{Owned, until};
use trapline_testkit::realmode::Asm;

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(name, state)| (name.to_string(), state.to_string())).collect()
}

#[track_caller]
fn ended(child: Owned) -> Ended {
    finish(child).expect_status(0)
}

#[test]
fn a_guest_is_listed_paused_resumed_and_stopped_in_kvmtools_words() {
    let user = User::new();
    assert_eq!(user.listed(), []);
    let one = user.start("one");
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    let pid = one.id().to_string();
    assert!(user.list(&["-i"]).contains(&pid));
    assert!(!user.list(&["-r"]).contains(&pid), "there are no root file systems");
    assert!(user.list(&["--run", "--rootfs"]).contains(&pid));
    assert_eq!(user.say(&["resume", "-n", "one"]), "Guest one is still running.\n");
    assert_eq!(user.say(&["pause", "-n", "one"]), "Guest one paused\n");
    assert_eq!(user.listed(), pairs(&[("one", "paused")]));
    assert_eq!(user.say(&["pause", "--name", "one"]), "Guest one is already paused.\n");
    assert_eq!(user.say(&["resume", "--name=one"]), "Guest one resumed\n");
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    assert_eq!(user.say(&["stop", "-n", "one"]), "");
    assert_eq!(user.listed(), []);
    assert!(ended(one).err.contains("KVM session terminated"));
}

#[test]
fn a_paused_guest_stops() {
    let user = User::new();
    let one = user.start("one");
    user.say(&["pause", "-n", "one"]);
    user.say(&["stop", "-n", "one"]);
    ended(one);
}

/// Four, or as many as `TRAPLINE_GUESTS` says (`cargo xtask test live-guests`).
#[test]
fn several_guests_obey_at_once() {
    let user = User::new();
    let count = std::env::var("TRAPLINE_GUESTS").map_or(4, |count| count.parse().unwrap());
    let names: Vec<String> = (0..count).map(|n| format!("g{n:03}")).collect();
    let children: Vec<Owned> = names.iter().map(|name| user.start_idle(name)).collect();
    let all = |state: &str| -> Vec<(String, String)> {
        names.iter().map(|name| (name.clone(), state.to_owned())).collect()
    };
    let said = |what: &str| -> String {
        names.iter().map(|name| format!("Guest {name} {what}\n")).collect()
    };
    assert_eq!(user.listed(), all("running"));
    user.say(&["pause", "-n", "g001"]);
    let wanted = said("paused").replace("g001 paused", "g001 is already paused.");
    assert_eq!(user.say(&["pause", "--all"]), wanted);
    assert_eq!(user.listed(), all("paused"));
    // As in kvmtool, a name besides says nothing.
    assert_eq!(user.say(&["resume", "-a", "-n", "g001"]), said("resumed"));
    assert_eq!(user.listed(), all("running"));
    assert_eq!(user.say(&["stop", "-a"]), "");
    assert_eq!(user.listed(), []);
    children.into_iter().for_each(|child| drop(ended(child)));
    for command in ["pause", "resume", "stop"] {
        assert_eq!(user.say(&[command, "--all"]), "", "nobody is there");
    }
}

#[test]
fn statuses_are_kvmtools() {
    let user = User::new();
    for command in ["pause", "resume", "stop", "stat", "debug"] {
        let (status, out, err) = user.run(&[command, "-n", "nobody"]);
        assert_eq!((status, out.as_str()), (128, ""), "{command}");
        assert_eq!(err, "Fatal: no guest called nobody is running\n");
        let wrong: [&[&str]; 5] = [&[], &["-n"], &["--colour"], &["one"], &["-n", "a/b"]];
        for args in wrong {
            let args = [&[command], args].concat();
            let (status, out, err) = user.run(&args);
            assert_eq!((status, out.as_str()), (129, ""), "{args:?}: {err}");
            assert_eq!((err.starts_with("Fatal: "), err.lines().count()), (true, 1), "{err}");
        }
    }
    assert_eq!(user.run(&["list", "more"]).0, 129);
    assert!(user.say(&["help", "pause"]).contains("--all"));
}

#[test]
fn a_name_is_one_guests() {
    let user = User::new();
    let one = user.start("one");
    let again = user.command("one", &off()).spawn().unwrap();
    let refused = finish(again).expect_status(1);
    assert_eq!(refused.err, "Fatal: --name: a guest called one is running already\n");
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    user.say(&["stop", "-n", "one"]);
    ended(one);
    // And the next one's.
    let mut again = user.start("one");
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    again.kill().unwrap();
    again.wait().unwrap();
    assert!(user.folder().join("one.sock").exists());
    assert_eq!(user.listed(), []);
    assert!(!user.folder().join("one.sock").exists(), "who has died has left it");
}

#[test]
fn the_name_of_a_dead_guest_is_free() {
    let user = User::new();
    let mut one = user.start("one");
    one.kill().unwrap();
    one.wait().unwrap();
    let (status, _, err) = user.run(&["pause", "-n", "one"]);
    assert_eq!((status, err.as_str()), (128, "Fatal: no guest called one is running\n"));
    let again = user.start("one");
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    user.say(&["stop", "-n", "one"]);
    ended(again);
}

#[test]
fn a_guest_without_a_name_is_called_by_its_process() {
    let user = User::new();
    let guest = Guest::new(&Asm::new().print(b".").spin());
    let mut command = guest.command();
    command.env("XDG_RUNTIME_DIR", user.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Owned = command.spawn().unwrap().into();
    await_dot(&mut child);
    let name = format!("guest-{}", child.id());
    assert_eq!(user.listed(), pairs(&[(&name, "running")]));
    user.say(&["stop", "-n", &name]);
    ended(child);
}

#[test]
fn a_folder_that_is_not_its_users_alone_is_a_reason_not_to_take_a_name() {
    let user = User::new();
    std::fs::create_dir(user.folder()).unwrap();
    set_mode(&user.folder(), 0o755);
    let open = user.command("one", &off()).spawn().unwrap();
    let refused = finish(open).expect_status(1);
    assert!(refused.err.starts_with("Fatal: --name: "), "{}", refused.err);
    assert!(refused.err.contains("is not a folder of this user's alone"), "{}", refused.err);
    let (status, _, err) = user.run(&["list"]);
    assert_eq!(status, 128, "{err}");
    // Who did not ask for a name does without.
    let guest = Guest::new(&off());
    let mut command = guest.command();
    command.env("XDG_RUNTIME_DIR", user.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = finish(command.spawn().unwrap()).expect_status(0);
    assert!(ended.err.contains("Warning: there is no control socket: "), "{}", ended.err);
}

/// A socket that somebody listens on and who never says anything.
#[test]
fn a_guest_that_does_not_answer_is_said_and_keeps_nobody_from_the_others() {
    let user = User::new();
    let one = user.start("one");
    let silent = UnixListener::bind(user.folder().join("a.sock")).unwrap();
    let mut said = (0, String::new(), String::new());
    until("the other one answers", || {
        said = user.run(&["list"]);
        said.1.contains("one")
    });
    assert_eq!((said.0, said.2.as_str()), (255, "  Error: guest a does not answer\n"));
    drop(silent);
    assert_eq!(user.listed(), pairs(&[("one", "running")]));
    user.say(&["stop", "--all"]);
    ended(one);
}

#[test]
fn a_guest_that_ends_by_itself_is_gone() {
    let user = User::new();
    let child = user.command("one", &off()).spawn().unwrap();
    finish(child).expect_status(0);
    assert_eq!(std::fs::read_dir(user.folder()).unwrap().count(), 0);
    let child = user.command("two", &Asm::new().print(b".").spin()).spawn().unwrap();
    let mut child = Owned::from(child);
    await_dot(&mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("the guest has ended", || child.try_wait().unwrap().is_some());
    assert_eq!(std::fs::read_dir(user.folder()).unwrap().count(), 0);
}

/// Reads LSR and writes the scratch register of the first serial port, over and over.
fn busy() -> Asm {
    Asm::new().print(b".").forever(Asm::new().inb(0x3fd).inb(0x3fd).outb(0x3ff, 0x5a))
}

fn start_busy(user: &User, name: &str) -> Owned {
    start_program(user, name, &busy())
}

/// Starts a guest that prints `.`, and waits for that.
fn start_program(user: &User, name: &str, program: &Asm) -> Owned {
    let mut child = user.command(name, program).spawn().unwrap().into();
    await_dot(&mut child);
    child
}

#[test]
fn stat_shows_what_a_guest_did_by_device_and_register() {
    let user = User::new();
    let one = start_busy(&user, "one");
    let first = |table: &str, name: &str| -> Option<u64> {
        let line = table.lines().find(|line| line.trim_start().starts_with(name))?;
        line.split_whitespace().find_map(|word| word.parse().ok())
    };
    let mut table = String::new();
    until("the guest has been busy", || {
        table = user.say(&["stat", "-n", "one"]);
        first(&table, "LSR") > Some(100) && first(&table, "SCR") > Some(50)
    });
    assert!(table.starts_with("guest one\nexits: total "), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(first(&table, "serial0/uart") >= first(&table, "LSR"), "{table}");
    assert!(!table.contains("dma1"), "nobody has touched it: {table}");
    // The time of one access in so many is taken.
    let mut lsr = serde_json::Value::Null;
    until("the time of an access has been taken", || {
        let json: serde_json::Value =
            serde_json::from_str(&user.say(&["stat", "--all", "--json"])).unwrap();
        let mut registers = json["registers"].as_array().unwrap().iter();
        lsr = registers.find(|row| row["register"] == "LSR").unwrap().clone();
        lsr["timed"].as_u64().unwrap() > 0
    });
    assert!(lsr["reads"].as_u64().unwrap() > 100, "{lsr}");
    assert_eq!(lsr["region"], "serial0/uart");
    user.say(&["stop", "-n", "one"]);
    ended(one);
}

#[test]
fn metrics_are_prometheus_text_and_count_what_the_guest_did() {
    let user = User::new();
    let one = start_busy(&user, "one");
    let mut socket = UnixStream::connect(user.folder().join("one.sock")).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(family.split(' ').next().unwrap()), "twice: {line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            assert!(families.contains(name), "{line}");
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        }
    }
    let reads = text.lines().find_map(|line| {
        line.strip_prefix("trapline_accesses_total{region=\"serial0/uart\",kind=\"read\"} ")
    });
    assert!(reads.unwrap().parse::<f64>().unwrap() > 0.0);
    user.say(&["stop", "-n", "one"]);
    ended(one);
}

#[test]
fn metrics_go_to_a_file_as_lines_of_json_one_of_them_at_the_end() {
    let user = User::new();
    let path = user.path().join("metrics");
    let mut command = user.command("one", &Asm::new().inb(0x3fd).then(&off()));
    command.arg("--metrics-path").arg(&path);
    finish(command.spawn().unwrap()).expect_status(0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json["utc_timestamp_ms"].as_u64().unwrap() > 0);
    let registers = json["registers"].as_array().unwrap();
    let lsr = registers.iter().find(|row| row["register"] == "LSR").unwrap();
    assert_eq!((lsr["reads"].as_u64(), lsr["last_value"].as_str()), (Some(1), Some("0x60")));
    for (path, why) in [("/", "Is a directory"), ("/dev/null", "neither a file nor a FIFO")] {
        let mut command = user.command("one", &off());
        let ended =
            finish(command.args(["--metrics-path", path]).spawn().unwrap()).expect_status(1);
        assert!(ended.err.contains(why), "{}", ended.err);
    }
}

#[test]
fn the_statistics_at_the_end_have_registers_or_the_whole_map_or_are_json() {
    let user = User::new();
    let program = Asm::new().inb(0x3fd).inb(0x3fd).outb(0x3ff, 1).inb(0x520).then(&off());
    let told = |form: &str| {
        let mut command = user.command("one", &program);
        finish(command.arg(form).spawn().unwrap()).expect_status(0).err
    };
    let table = told("--stat");
    for line in [
        "serial0/uart                            2          1                     3",
        "  LSR                                   2                                2",
        "  SCR                                              1                     1",
        "(no device)                             1                                1",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    assert!(!table.contains("not told apart"), "{table}");
    assert!(told("--stat=all").contains("dma1/8237"));
    let json = told("--stat=json");
    let json = json.lines().find(|line| line.starts_with('{')).unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["registers_lost"], 0);
}

#[test]
fn top_prints_rates_once_as_table_and_as_json() {
    let user = User::new();
    let one = start_busy(&user, "one");
    // The only guest there is.
    let table = user.say(&["top", "--once", "--delay", "0.2", "--sort=writes"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("one: up 0:00:0") && lines[0].ends_with("by writes"), "{table}");
    assert!(lines[1].starts_with("DEVICE/REGION REGISTER"), "{table}");
    assert!(lines[2].starts_with("serial0/uart SCR") && lines[2].contains("<0x5a"), "{table}");
    let json = user.say(&["top", "one", "--once", "--json", "--delay=0.2"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = &json["registers"][0];
    assert_eq!((json["guest"].as_str(), first["register"].as_str()), (Some("one"), Some("LSR")));
    assert!(first["reads"].as_f64().unwrap() > 0.0 && first["handler_ns"].as_f64().is_some());
    let two = user.start("two");
    let (status, _, err) = user.run(&["top", "--once"]);
    assert_eq!(
        (status, err.as_str()),
        (128, "Fatal: trapline top: which guest? There are one, two\n")
    );
    for wrong in [["--sort", "size"], ["--delay", "0.01"], ["--delay", "x"], ["a", "b"]] {
        assert_eq!(user.run(&[&["top"], &wrong[..]].concat()).0, 129, "{wrong:?}");
    }
    assert_eq!(user.run(&["top", "one"]).0, 128, "without a terminal");
    user.say(&["stop", "--all"]);
    ended(one);
    ended(two);
}

/// An interrupt table at 0 whose entry 2, the non-maskable interrupt's, leads to code that prints `N`
/// and returns; prints `.` and spins.
fn hears_nmis() -> Asm {
    let handler = Asm::new().outb(0x3f8, b'N').bytes(&[0xcf]); // iret
    let (code, at, _) = Asm::new().embed(&handler.rom()[..handler.len16().into()]);
    let stack = code.bytes(&[0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c]); // xor ax, ax; mov ss, ax; mov sp, 0x7c00
    let table = stack.bytes(&[0x8e, 0xd8]).mov_ax(at).store_ax(8); // mov ds, ax
    table.bytes(&[0x8c, 0xc8]).store_ax(10).print(b".").spin() // mov ax, cs
}

#[test]
fn debug_dumps_vcpus_and_gives_nmis_and_sysrq() {
    let user = User::new();
    let mut one = start_program(&user, "one", &hears_nmis());
    let dump = user.say(&["debug", "-n", "one", "-d"]);
    assert!(dump.starts_with("vCPU 0 stopped with the machine\n"), "{dump}");
    assert!(dump.contains("serial0/uart THR (pio 0x3f8) write 1 byte 0x2e"), "{dump}");
    assert_eq!(user.listed(), pairs(&[("one", "running")]), "it goes on");
    assert_eq!(user.say(&["debug", "--all", "--nmi", "0"]), "");
    let mut heard = [0];
    one.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"N");
    assert_eq!(user.run(&["debug", "-n", "one", "-m", "7"]).0, 128, "there is no such vCPU");
    assert_eq!(user.say(&["debug", "-n", "one"]), "");
    // A paused one stays so.
    user.say(&["pause", "-n", "one"]);
    assert!(user.say(&["debug", "-n", "one", "--dump"]).starts_with("vCPU 0 "));
    assert_eq!(user.listed(), pairs(&[("one", "paused")]));
    user.say(&["stop", "-n", "one"]);
    ended(one);
    // Nobody has started the second vCPU, which could take none.
    let mut command = user.command("pair", &Asm::new().print(b".").spin());
    let mut pair: Owned = command.args(["-c", "2"]).spawn().unwrap().into();
    await_dot(&mut pair);
    let (status, _, err) = user.run(&["debug", "-n", "pair", "-m", "1"]);
    assert_eq!((status, err.as_str()), (128, "Fatal: vCPU 1 has not been started\n"));
    assert_eq!(user.listed(), pairs(&[("pair", "running")]));
    user.say(&["stop", "-n", "pair"]);
    ended(pair);
    // The break and then the letter, as a driver reads them.
    let wait = Asm::new().print(b".").wait_for(0x3fd, 0x10).inb(0x3f8);
    let mut two = start_program(&user, "two", &wait.wait_for(0x3fd, 1).inb(0x3f8).send_al().spin());
    user.say(&["debug", "-n", "two", "--sysrq", "t"]);
    two.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"t");
    for wrong in [["--sysrq", ""], ["-m", "x"], ["-s", "\u{e9}"]] {
        assert_eq!(user.run(&[&["debug", "-n", "two"], &wrong[..]].concat()).0, 129, "{wrong:?}");
    }
    user.say(&["stop", "-n", "two"]);
    ended(two);
}

#[test]
fn many_may_look_at_once_and_nobody_hears_of_a_pause() {
    let user = User::new();
    let one = start_busy(&user, "one");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let dump = user.say(&["debug", "-n", "one", "-d"]);
                    assert!(dump.starts_with("vCPU 0 stopped with the machine\n"), "{dump}");
                }
            });
        }
        for _ in 0..20 {
            assert_eq!(user.listed(), pairs(&[("one", "running")]));
        }
    });
    // A pause that comes meanwhile is kept.
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| (0..10).for_each(|_| drop(user.say(&["debug", "-a", "-d"]))));
        user.say(&["pause", "-n", "one"]);
        looking.join().unwrap();
    });
    assert_eq!(user.listed(), pairs(&[("one", "paused")]));
    user.say(&["stop", "-n", "one"]);
    ended(one);
}

#[test]
fn a_balloon_is_told_its_size_and_who_has_none_says_so() {
    let user = User::new();
    let one = user.start("one");
    let (status, _, err) = user.run(&["balloon", "-n", "one", "-i", "1"]);
    assert_eq!((status, err.as_str()), (128, "Fatal: the guest has no balloon (run --balloon)\n"));
    assert_eq!(user.run(&["stat", "-m", "-n", "one"]).0, 128);
    let mut command = user.command("two", &Asm::new().print(b".").spin());
    let mut two: Owned = command.args(["--balloon", "-m", "64"]).spawn().unwrap().into();
    await_dot(&mut two);
    let amount = || {
        let mut socket = UnixStream::connect(user.folder().join("two.sock")).unwrap();
        socket.write_all(b"GET /balloon HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        json["amount_mib"].as_u64().unwrap()
    };
    assert_eq!(user.say(&["balloon", "-n", "two", "-i", "10"]), "");
    assert_eq!(amount(), 10);
    user.say(&["balloon", "-n", "two", "--deflate", "3"]);
    assert_eq!(amount(), 7);
    user.say(&["balloon", "-n", "two", "--deflate=30"]);
    assert_eq!(amount(), 0);
    user.say(&["balloon", "-n", "two", "--inflate=1000"]);
    assert_eq!(amount(), 64, "it has no more");
    let (status, _, err) = user.run(&["stat", "-m", "-n", "two"]);
    let silent = "Fatal: the guest says nothing of its memory\n";
    assert_eq!((status, err.as_str()), (128, silent), "it has no driver");
    for wrong in [
        &["-n", "two"][..],
        &["-i", "1"],
        &["-n", "two", "-i", "0"],
        &["-n", "two", "-i", "1", "-d", "1"],
    ] {
        assert_eq!(user.run(&[&["balloon"], wrong].concat()).0, 129, "{wrong:?}");
    }
    user.say(&["stop", "--all"]);
    ended(one);
    ended(two);
}

/// That each is described is for a test of the API's crate.
#[test]
fn every_end_point_of_the_api_is_answered() {
    let user = User::new();
    let one = user.start("one");
    for &(method, path) in trapline_control::api::ENDPOINTS {
        let mut socket = UnixStream::connect(user.folder().join("one.sock")).unwrap();
        let method = method.name();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let code = answer.split(' ').nth(1).unwrap();
        let wanted = match path {
            // There is none.
            "/balloon" | "/balloon/statistics" if method == "GET" => "409",
            _ if method == "GET" => "200",
            _ => "400",
        };
        assert_eq!(code, wanted, "{method} {path}: {answer}");
    }
    user.say(&["stop", "--all"]);
    ended(one);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
