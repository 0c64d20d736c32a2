//! QEMU's monitor beside a machine without a CPU, as QEMU's own tests of virtio use both: the cases
//! of its qos-test for virtio-blk, -rng and -serial that need a monitor, step by step.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says where it failed")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Owned, PATIENCE, TRAPLINE};

/// Bytes of the image.
const LEN: u64 = 1 << 20;

/// A machine in QEMU's place, with a client for it and one for its monitor.
struct Qemu {
    child: Owned,
    folder: tempfile::TempDir,
    qtest: Lines,
    qmp: Lines,
    events: Vec<Value>,
}

struct Lines(BufReader<UnixStream>);

impl Lines {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Qemu {
    /// As QEMU's libqtest starts QEMU: by a shell, which connects to two sockets.
    fn start(arguments: &str) -> Self {
        Self::start_with(arguments, Stdio::null())
    }

    /// With a descriptor 0.
    fn start_with(arguments: &str, stdin: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::File::create(at("image")).unwrap().set_len(LEN).unwrap();
        symlink(TRAPLINE, at("qemu-system-x86_64")).unwrap();
        let (qtest, qmp) = (listen(&at("qtest")), listen(&at("qmp")));
        let command = format!(
            "exec ./qemu-system-x86_64 -qtest unix:qtest -qtest-log /dev/null \
             -chardev socket,path=qmp,id=char0 -mon chardev=char0,mode=control -display none \
             {arguments} -accel qtest"
        );
        let mut shell = Command::new("/bin/sh");
        let shell = shell.args(["-c", &command]).current_dir(folder.path()).stdin(stdin);
        let child = shell.spawn().unwrap().into();
        let (qtest, qmp) = (accept(&qtest), accept(&qmp));
        let mut this = Self { child, folder, qtest, qmp, events: Vec::new() };
        assert_eq!(this.command("endianness"), "OK little");
        let greeting: Value = serde_json::from_str(&this.qmp.line()).unwrap();
        assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64(), "{greeting}");
        assert_eq!(this.execute(json!({ "execute": "qmp_capabilities" })), json!({}));
        this
    }

    fn command(&mut self, text: &str) -> String {
        self.qtest.send(&format!("{text}\n"));
        loop {
            let line = self.qtest.line();
            if !line.starts_with("IRQ") {
                return line;
            }
        }
    }

    fn number(&mut self, text: &str) -> u64 {
        let line = self.command(text);
        let digits = line.strip_prefix("OK 0x").unwrap_or_else(|| panic!("{text}: {line}"));
        u64::from_str_radix(digits, 16).unwrap()
    }

    fn receive(&mut self) -> Value {
        serde_json::from_str(&self.qmp.line()).unwrap()
    }

    /// The answer to a command; events that come first are kept.
    fn answer(&mut self, command: Value) -> Value {
        self.qmp.send(&command.to_string());
        loop {
            let value = self.receive();
            match value.get("event") {
                Some(_) => self.events.push(value),
                None => return value,
            }
        }
    }

    fn execute(&mut self, command: Value) -> Value {
        let answer = self.answer(command);
        answer.get("return").unwrap_or_else(|| panic!("{answer}")).clone()
    }

    fn event(&mut self, name: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return self.events.remove(at);
        }
        loop {
            let value = self.receive();
            if value["event"] == name {
                return value;
            }
            self.events.push(value);
        }
    }

    /// A register of a function, addressed as QEMU's libqos does: all of it in CONFIG_ADDRESS.
    fn config(&mut self, slot: u32, offset: u32, width: char) -> u64 {
        let address = 1 << 31 | slot << 11 | offset;
        assert_eq!(self.command(&format!("outl 0xcf8 {address:#x}")), "OK");
        self.number(&format!("in{width} 0xcfc"))
    }

    fn set_config(&mut self, slot: u32, offset: u32, width: char, value: u32) {
        let address = 1 << 31 | slot << 11 | offset;
        assert_eq!(self.command(&format!("outl 0xcf8 {address:#x}")), "OK");
        assert_eq!(self.command(&format!("out{width} 0xcfc {value:#x}")), "OK");
    }

    fn end(mut self, how: impl FnOnce(&mut Self)) -> Option<i32> {
        how(&mut self);
        self.child.wait().unwrap().code()
    }
}

fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).unwrap()
}

fn accept(listener: &UnixListener) -> Lines {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    support::until("the machine connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    Lines::new(accepted.unwrap().0)
}

const DISK: &str = "-M pc -device virtio-blk-pci,id=drv0,drive=drive0,addr=4.0 \
                    -drive if=none,id=drive0,file=image,format=raw,auto-read-only=off \
                    -drive if=none,id=drive1,file=null-co://,file.read-zeroes=on,format=raw";

#[test]
fn machines_and_devices_are_listed_for_qos_test() {
    let mut qemu = Qemu::start("-machine none");
    let machines = qemu.execute(json!({ "execute": "query-machines" }));
    let names: Vec<_> = machines.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["pc", "none"]);
    // QEMU 7.2's visitor knows these, wants the five, and takes no others.
    let known = ["name", "cpu-max", "hotpluggable-cpus", "numa-mem-supported", "deprecated"];
    assert_eq!(machines[0].as_object().unwrap().len(), known.len());
    assert!(known.iter().all(|member| machines[0].get(member).is_some()), "{machines}");
    let types = json!({ "implements": "device", "abstract": true });
    let types = qemu.execute(json!({ "execute": "qom-list-types", "arguments": types }));
    let names: Vec<_> = types.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    for name in ["virtio-blk-pci", "virtio-serial-pci", "virtserialport"] {
        assert!(names.contains(&&json!(name)), "{name}: {types}");
    }
    let commands = qemu.execute(json!({ "execute": "query-commands" })).to_string();
    assert!(commands.contains("device_add") && commands.contains("qmp_capabilities"));
    let status = qemu.end(|qemu| {
        let pid = Pid::from_raw(qemu.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    });
    assert_eq!(status, Some(0), "libqtest takes anything else for a failure");
}

#[test]
fn devices_come_and_go() {
    let mut qemu = Qemu::start(DISK);
    assert_eq!(qemu.config(4, 0, 'w'), 0x1af4);
    assert_eq!(qemu.config(6, 0, 'w'), 0xffff);
    let add =
        json!({ "driver": "virtio-blk-pci", "id": "drv1", "addr": "06.0", "drive": "drive1" });
    let add = json!({ "execute": "device_add", "arguments": add });
    assert_eq!(qemu.execute(add.clone()), json!({}));
    assert_eq!(qemu.config(6, 0, 'w'), 0x1af4);
    assert_eq!(qemu.number("inl 0xae00"), 1 << 6, "it has come");
    let refused = qemu.answer(add);
    assert_eq!(refused["error"]["desc"], "Drive is already in use by drv1");
    let unknown = json!({ "execute": "device_del", "arguments": { "id": "drv2" } });
    assert_eq!(qemu.answer(unknown)["error"]["class"], "DeviceNotFound");
    let del = json!({ "execute": "device_del", "arguments": { "id": "drv1" } });
    assert_eq!(qemu.execute(del), json!({}));
    assert_eq!(qemu.number("inl 0xae04"), 1 << 6, "it is to go");
    assert_eq!(qemu.config(6, 0, 'w'), 0x1af4, "the guest still has it");
    assert_eq!(qemu.command("outl 0xae08 0x40"), "OK");
    let gone = qemu.event("DEVICE_DELETED");
    assert_eq!(gone["data"], json!({ "device": "drv1", "path": "/machine/peripheral/drv1" }));
    assert_eq!(qemu.config(6, 0, 'w'), 0xffff);
    // Name, slot and drive are free again, many times over.
    for _ in 0..20 {
        let add =
            json!({ "driver": "virtio-blk-pci", "id": "drv1", "addr": "6", "drive": "drive1" });
        qemu.execute(json!({ "execute": "device_add", "arguments": add }));
        qemu.execute(json!({ "execute": "device_del", "arguments": { "id": "drv1" } }));
        assert_eq!(qemu.command("outl 0xae08 0x40"), "OK");
        qemu.event("DEVICE_DELETED");
    }
    let rng = json!({ "driver": "virtio-rng-pci", "id": "rng1" });
    qemu.execute(json!({ "execute": "device_add", "arguments": rng }));
    qemu.execute(json!({ "execute": "device_del", "arguments": { "id": "rng1" } }));
    // What was asked for is given back with a reset at the latest.
    assert_eq!(qemu.execute(json!({ "execute": "system_reset" })), json!({}));
    assert_eq!(qemu.event("DEVICE_DELETED")["data"]["device"], "rng1");
    assert_eq!(qemu.event("RESET")["data"]["guest"], false);
    assert_eq!(qemu.end(|qemu| drop(qemu.execute(json!({ "execute": "quit" })))), Some(0));
}

/// The addresses of the structures in the device's configuration space.
struct Modern {
    common: u64,
    isr: u64,
    device: u64,
}

/// Maps the BAR with virtio's structures, and finds them.
fn modern(qemu: &mut Qemu, slot: u32) -> Modern {
    let mut found = [0; 6];
    let mut at = u32::try_from(qemu.config(slot, 0x34, 'b')).unwrap();
    while at != 0 {
        if qemu.config(slot, at, 'b') == 9 {
            let kind = usize::try_from(qemu.config(slot, at + 3, 'b')).unwrap();
            found[kind] = 0xe000_0000 + qemu.config(slot, at + 8, 'l');
        }
        at = u32::try_from(qemu.config(slot, at + 1, 'b')).unwrap();
    }
    qemu.set_config(slot, 0x20, 'l', 0xe000_0000);
    qemu.set_config(slot, 0x04, 'w', 6);
    Modern { common: found[1], isr: found[3], device: found[4] }
}

/// Has a driver use the device, with no feature but the one of version 1.
fn use_device(qemu: &mut Qemu, common: u64) {
    for (select, features) in [(0, 0), (1, 1)] {
        qemu.command(&format!("writel {:#x} {select}", common + 8));
        qemu.command(&format!("writel {:#x} {features}", common + 12));
    }
    for status in [1, 3, 11, 15] {
        qemu.command(&format!("writeb {:#x} {status}", common + 20));
    }
    assert_eq!(qemu.number(&format!("readb {:#x}", common + 20)), 15);
}

#[test]
fn a_disk_that_gets_another_size_tells_its_driver() {
    let mut qemu = Qemu::start(DISK);
    let Modern { common, isr, device } = modern(&mut qemu, 4);
    use_device(&mut qemu, common);
    assert_eq!(qemu.number(&format!("readq {device:#x}")), LEN / 512);
    assert_eq!(qemu.number(&format!("readb {isr:#x}")), 0);
    let resize = |size: Value| {
        let arguments = json!({ "device": "drive0", "size": size });
        json!({ "execute": "block_resize", "arguments": arguments })
    };
    assert_eq!(qemu.execute(resize(json!(LEN / 2))), json!({}));
    assert_eq!(qemu.number(&format!("readb {isr:#x}")), 3, "the configuration has changed");
    assert_eq!(qemu.number(&format!("readq {device:#x}")), LEN / 1024);
    assert_eq!(qemu.folder.path().join("image").metadata().unwrap().len(), LEN / 2);
    assert!(qemu.answer(resize(json!("x")))["error"]["desc"].is_string());
    let block = qemu.execute(json!({ "execute": "query-block" }));
    assert_eq!(block[0]["inserted"]["image"]["virtual-size"], LEN / 2);
    let nobody = json!({ "execute": "block_resize", "arguments": { "device": "x", "size": 512 } });
    assert_eq!(qemu.answer(nobody)["error"]["class"], "DeviceNotFound");
}

#[test]
fn images_come_and_go_and_a_machine_can_rest() {
    let mut qemu = Qemu::start("-M pc");
    let node = json!({ "driver": "raw", "node-name": "n", "read-only": true,
                       "file": { "driver": "file", "filename": "image" } });
    let add = json!({ "execute": "blockdev-add", "arguments": node });
    assert_eq!(qemu.execute(add.clone()), json!({}));
    assert!(qemu.answer(add)["error"]["desc"].as_str().unwrap().starts_with("Duplicate"));
    let file = json!({ "driver": "file", "filename": "image" });
    for (node, desc) in [
        (json!({ "driver": "raw" }), "Parameter 'file' is missing"),
        (json!({ "driver": "raw", "file": "f" }), "Parameter 'file' expects an object"),
        (json!({ "driver": 1 }), "Parameter 'driver' expects a string"),
        (json!({ "driver": "vdi", "file": file }), "Unknown driver 'vdi'"),
        (
            json!({ "driver": "raw", "file": file, "read-only": "on" }),
            "Parameter 'read-only' expects a boolean",
        ),
        (
            json!({ "driver": "raw", "file": file, "cache": { "direct": 1 } }),
            "Parameter 'direct' expects a boolean",
        ),
    ] {
        let mut node = node;
        node["node-name"] = json!("m");
        let add = json!({ "execute": "blockdev-add", "arguments": node });
        assert_eq!(qemu.answer(add)["error"]["desc"], desc);
    }
    let device = json!({ "driver": "virtio-blk-pci", "drive": "n", "addr": "5" });
    qemu.execute(json!({ "execute": "device_add", "arguments": device }));
    let del = json!({ "execute": "blockdev-del", "arguments": { "node-name": "n" } });
    assert_eq!(qemu.answer(del.clone())["error"]["desc"], "Node n is in use");
    let name = "virtio-05.0";
    qemu.execute(json!({ "execute": "device_del", "arguments": { "id": name } }));
    assert_eq!(qemu.command("outl 0xae08 0x20"), "OK");
    assert_eq!(qemu.event("DEVICE_DELETED")["data"]["device"], name);
    assert_eq!(qemu.execute(del), json!({}));
    qemu.execute(json!({ "execute": "stop" }));
    qemu.event("STOP");
    let status = qemu.execute(json!({ "execute": "query-status" }));
    assert_eq!((&status["running"], &status["status"]), (&json!(false), &json!("paused")));
    assert_eq!(status["singlestep"], false, "which QEMU's schema had until 8.2");
    qemu.execute(json!({ "execute": "cont" }));
    qemu.event("RESUME");
}

/// `device_add` with these properties.
fn add(properties: Value) -> Value {
    json!({ "execute": "device_add", "arguments": properties })
}

/// `device_del`.
fn del(id: &str) -> Value {
    json!({ "execute": "device_del", "arguments": { "id": id } })
}

#[test]
fn ports_come_and_go_at_once() {
    let mut qemu = Qemu::start(
        "-M pc -device virtio-serial-pci,id=vser0,addr=04.0 -device virtconsole,bus=vser0.0 \
         -device virtserialport,bus=vser0.0,id=p0,chardev=c0 -chardev socket,path=port,server=on,id=c0",
    );
    assert_eq!(qemu.config(4, 2, 'w'), 0x1003, "a console device");
    let port = qemu.folder.path().join("port");
    drop(UnixStream::connect(&port).unwrap());
    assert_eq!(qemu.execute(add(json!({ "driver": "virtserialport", "id": "p1" }))), json!({}));
    for (properties, desc) in [
        (json!({ "driver": "virtserialport", "id": "p1" }), "there is a device called p1 already"),
        (json!({ "driver": "virtio-rng-pci", "id": "p1" }), "there is a device called p1 already"),
        (json!({ "driver": "virtserialport", "nr": 2 }), "there is a port 2 already"),
        (json!({ "driver": "virtserialport", "nr": 0 }), "port 0 is a console's"),
        (
            json!({ "driver": "virtserialport", "nr": 31 }),
            "there is no port 31: the last one is 30",
        ),
        (json!({ "driver": "virtconsole", "bus": "x.0" }), "there is no device called x"),
        (json!({ "driver": "virtserialport", "chardev": "c0" }), "chardev=c0: p0 leads there"),
    ] {
        assert_eq!(qemu.answer(add(properties))["error"]["desc"], desc);
    }
    for id in ["p1", "p0"] {
        assert_eq!(qemu.execute(del(id)), json!({}));
        let gone = qemu.event("DEVICE_DELETED");
        assert_eq!(gone["data"]["device"], id, "nobody is asked");
        assert_eq!(qemu.answer(del(id))["error"]["class"], "DeviceNotFound");
    }
    assert!(!port.exists(), "what the port led to has gone");
    // Name, number and socket are free again, many times over.
    for _ in 0..20 {
        let port = json!({ "driver": "virtserialport", "id": "p0", "nr": 1, "chardev": "c0" });
        assert_eq!(qemu.execute(add(port)), json!({}));
        qemu.execute(del("p0"));
        qemu.event("DEVICE_DELETED");
    }
    // With the device its ports go, too.
    qemu.execute(add(json!({ "driver": "virtserialport", "id": "p2" })));
    qemu.execute(del("vser0"));
    assert_eq!(qemu.command("outl 0xae08 0x10"), "OK");
    let names = ["vser0.port0", "p2", "vser0"];
    assert_eq!(names.map(|_| qemu.event("DEVICE_DELETED")["data"]["device"].clone()), names);
    let nowhere = qemu.answer(add(json!({ "driver": "virtserialport" })));
    let desc = "there is no virtio-serial-pci to plug a port into";
    assert_eq!(nowhere["error"]["desc"], desc);
}

#[test]
fn a_balloon_is_blown_up_and_tells_of_what_is_in_it() {
    let mut qemu = Qemu::start("-M pc -m 64");
    let balloon = |value: Value| json!({ "execute": "balloon", "arguments": { "value": value } });
    let query = json!({ "execute": "query-balloon" });
    for command in [query.clone(), balloon(json!(32 << 20))] {
        assert_eq!(qemu.answer(command)["error"]["class"], "DeviceNotActive");
    }
    let device = json!({ "driver": "virtio-balloon-pci", "id": "b0", "addr": "4" });
    qemu.execute(add(device));
    let second = qemu.answer(add(json!({ "driver": "virtio-balloon-pci", "id": "b1" })));
    assert_eq!(second["error"]["desc"], "Only one balloon device is supported");
    let Modern { common, isr, device } = modern(&mut qemu, 4);
    use_device(&mut qemu, common);
    assert_eq!(qemu.execute(query.clone()), json!({ "actual": 64 << 20 }));
    assert_eq!(qemu.execute(balloon(json!(48 << 20))), json!({}));
    assert_eq!(qemu.number(&format!("readl {device:#x}")), (16 << 20) / 4096, "num_pages");
    assert_eq!(qemu.number(&format!("readb {isr:#x}")) & 2, 2, "the configuration has changed");
    assert_eq!(qemu.execute(query.clone()), json!({ "actual": 64 << 20 }), "no page is in it yet");
    assert_eq!(qemu.command(&format!("writel {:#x} 256", device + 4)), "OK");
    assert_eq!(qemu.event("BALLOON_CHANGE")["data"], json!({ "actual": 63 << 20 }));
    assert_eq!(qemu.execute(query.clone()), json!({ "actual": 63 << 20 }));
    // The same again is no change.
    assert_eq!(qemu.command(&format!("writel {:#x} 256", device + 4)), "OK");
    assert_eq!(qemu.execute(query.clone()), json!({ "actual": 63 << 20 }));
    assert!(qemu.events.iter().all(|event| event["event"] != "BALLOON_CHANGE"));
    for (value, desc) in [
        (json!("x"), "Parameter 'value' expects an integer"),
        (json!(0), "Parameter 'target' expects a size"),
        (json!(-1), "Parameter 'target' expects a size"),
    ] {
        assert_eq!(qemu.answer(balloon(value))["error"]["desc"], desc);
    }
    let none = json!({ "execute": "balloon" });
    assert_eq!(qemu.answer(none)["error"]["desc"], "Parameter 'value' is missing");
    qemu.execute(del("b0"));
    assert_eq!(qemu.command("outl 0xae08 0x10"), "OK");
    qemu.event("DEVICE_DELETED");
    assert_eq!(qemu.answer(query)["error"]["class"], "DeviceNotActive");
}

#[test]
fn a_card_announces_itself_and_its_cable_is_plugged_out_and_in() {
    let (theirs, mut wire) = UnixStream::pair().unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut qemu = Qemu::start_with(
        "-M pc -m 64 -netdev socket,fd=0,id=hs0 -device virtio-net-pci,id=n0,netdev=hs0,addr=04.0",
        Stdio::from(std::os::fd::OwnedFd::from(theirs)),
    );
    let second = qemu.answer(add(json!({ "driver": "virtio-net-pci", "netdev": "hs0" })));
    assert_eq!(second["error"]["desc"], "netdev is already in use by n0");
    let announce = |rounds: u32| {
        let arguments = json!({ "initial": 20, "max": 100, "rounds": rounds, "step": 10 });
        json!({ "execute": "announce-self", "arguments": arguments })
    };
    qemu.execute(announce(2));
    let mut packet = [0; 64];
    wire.read_exact(&mut packet).unwrap();
    assert_eq!((&packet[..4], &packet[16..18]), (&[0, 0, 0, 60][..], &[0x80, 0x35][..]));
    assert_eq!(packet[10..16], [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(qemu.command("clock_step 20000000"), "OK 20000000");
    wire.read_exact(&mut packet).unwrap();
    let Modern { common, isr, device } = modern(&mut qemu, 4);
    use_device(&mut qemu, common);
    assert_eq!(qemu.number(&format!("readw {:#x}", device + 6)) & 0xffff, 1, "there is a link");
    let set_link = |name: &str, up: bool| json!({ "execute": "set_link", "arguments": { "name": name, "up": up } });
    for (name, up) in [("hs0", false), ("n0", true)] {
        qemu.execute(set_link(name, up));
        assert_eq!(qemu.number(&format!("readb {isr:#x}")) & 2, 2, "the configuration has changed");
        let status = qemu.number(&format!("readw {:#x}", device + 6)) & 0xffff;
        assert_eq!(status, u64::from(up));
    }
    assert_eq!(qemu.answer(set_link("n1", true))["error"]["class"], "DeviceNotFound");
}

/// Starts `trapline qtest` with these arguments and what there is to read of what it says.
fn qtest(arguments: &[&str]) -> (Owned, BufReader<impl Read + use<>>) {
    let mut command = Command::new(TRAPLINE);
    command.arg("qtest").args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = Owned::from(command.spawn().unwrap());
    let said = BufReader::new(child.stderr.take().unwrap());
    (child, said)
}

/// One client after the other has the machine, whether or not somebody has a monitor.
#[test]
fn a_client_that_goes_is_followed_by_the_next_who_finds_the_machine_as_it_was() {
    for with_monitor in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let qmp = format!("unix:{}", folder.path().join("qmp").display());
        let mut arguments = vec!["--socket", "tcp:127.0.0.1:0"];
        if with_monitor {
            arguments.extend(["--qmp", &qmp]);
        }
        let (mut child, mut said) = qtest(&arguments);
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit_once("tcp:").unwrap_or_else(|| panic!("{line}")).1;
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let answer = |stream: &mut TcpStream| {
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            answer
        };
        let mut first = connect();
        first.write_all(b"writel 0x1000 0x12345678\n").unwrap();
        assert_eq!(answer(&mut first), "OK\n");
        // What it is told is unread when it goes, so the machine's next word to it is refused.
        first.write_all(b"readl 0x1000\nreadl 0x1000\n").unwrap();
        drop(first);
        let mut second = connect();
        second.write_all(b"readl 0x1000\n").unwrap();
        assert_eq!(answer(&mut second), "OK 0x0000000012345678\n");
        if with_monitor {
            let mut monitor = Lines::new(UnixStream::connect(folder.path().join("qmp")).unwrap());
            assert!(monitor.line().contains("QMP"));
            monitor.send(r#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#);
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}
