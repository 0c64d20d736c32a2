//! The two machines, each behind its socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use trapline_device::NullBackend;
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_qtest::Session;

use crate::client::Client;

const QEMU: &str = "qemu-system-x86_64";
/// 2026-01-01 00:00 UTC, when both machines are switched on.
const UTC_START_NS: u64 = 1_767_225_600_000_000_000;
/// QEMU's ACPI timer is where its firmware would put it.
const PM_TIMER: u16 = 0x608;
const PM_HZ: u64 = 3_579_545;

/// Why QEMU cannot be compared with.
pub(crate) fn missing() -> Option<String> {
    let version = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    match version {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{QEMU} --version ended with {status}")),
        Err(error) => Some(format!("{QEMU} cannot be started: {error}")),
    }
}

/// Our machine, served by a thread that ends with its client.
pub(crate) fn ours() -> Client {
    let (theirs, mine) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let console = Arc::new(NullBackend);
        let config = Config {
            console_kind: trapline_machine::ConsoleKind::Serial,
            ports: Vec::new(),
            balloon: None,
            nets: Vec::new(),
            board: BoardKind::X86Pc,
            cpus: 1,
            virtio: trapline_machine::VirtioTransport::Pci.into(),
            rng: false,
            edu: 0,
            disks: Vec::new(),
            shares: Vec::new(),
            vsock: None,
            plugs: false,
            mem_bytes: 16 << 20,
            utc_start_ns: UTC_START_NS,
            console,
            exit_port: false,
            flash: None,
            firmware: None,
            testdev: false,
            fw_cfg: Vec::new(),
        };
        let machine = Machine::new(&config).unwrap();
        Session::new(&machine).run(&theirs, &theirs).unwrap();
    });
    Client::new(mine)
}

/// QEMU with a processor that halts at once and for good, so that time can pass without anything
/// happening.
pub(crate) struct Qemu {
    process: Child,
    monitor: BufReader<UnixStream>,
    _folder: TempDir,
}

impl Qemu {
    pub(crate) fn start() -> (Self, Client) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let sockets = ["qtest", "qmp"].map(|name| UnixListener::bind(path(name)).unwrap());
        const HLT: u8 = 0xf4;
        std::fs::write(path("bios"), [HLT; 65536]).unwrap();
        let process = Command::new(QEMU)
            .args(
                "-M pc -accel tcg -m 16 -S -display none -nodefaults -serial null -serial null"
                    .split(' '),
            )
            .args(["-rtc", "base=2026-01-01T00:00:00,clock=vm", "-bios", &path("bios")])
            .args(["-qtest", &format!("unix:{}", path("qtest")), "-qtest-log", "none"])
            .args(["-qmp", &format!("unix:{}", path("qmp"))])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let [qtest, monitor] = sockets.map(|socket| socket.accept().unwrap().0);
        let mut qemu = Self { process, monitor: BufReader::new(monitor), _folder: folder };
        qemu.command("qmp_capabilities");
        let mut client = Client::new(qtest);
        // The ACPI timer's ports, and that they answer, are registers 0x40 and 0x80 of the power
        // management function (Intel 82371AB data sheet, PMBA and PMREGMISC).
        for (register, value) in [(0x8000_0b40u32, PM_TIMER & !0xf | 1), (0x8000_0b80, 1)] {
            client.ask(&format!("outl 0xcf8 {register:#x}"));
            client.ask(&format!("outl 0xcfc {value:#x}"));
        }
        (qemu, client)
    }

    /// Lets time pass, and says what time it is then: nanoseconds, rounded up to the next tick of
    /// a timer that has 279 of them.
    pub(crate) fn wait(&mut self, client: &mut Client, time: Duration, now_ns: u64) -> u64 {
        self.command("cont");
        thread::sleep(time);
        self.command("stop");
        let ticks = client.number(&format!("inl {PM_TIMER:#x}"));
        // The timer has 24 bits; no wait is as long as they are.
        const WRAP: u64 = 1 << 24;
        let before = now_ns * PM_HZ / 1_000_000_000;
        let after = before + (ticks + WRAP - before % WRAP) % WRAP;
        (after * 1_000_000_000).div_ceil(PM_HZ)
    }

    /// Where QEMU has its 8259s, and their first input. The primary one is made first.
    pub(crate) fn chips(&mut self) -> [String; 2] {
        const UNATTACHED: &str = "/machine/unattached";
        let list = self.monitor(&format!(
            r#"{{"execute": "qom-list", "arguments": {{"path": "{UNATTACHED}"}}}}"#
        ));
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let items = list["return"].as_array().unwrap().iter();
        let ours = items.filter(|item| item["type"] == "child<isa-i8259>");
        let number = |name: &str| -> u32 {
            name.trim_start_matches("device[").trim_end_matches(']').parse().unwrap()
        };
        let mut names: Vec<&str> = ours.map(|item| item["name"].as_str().unwrap()).collect();
        names.sort_by_key(|name| number(name));
        let paths: Vec<String> =
            names.iter().map(|name| format!("{UNATTACHED}/{name} 0")).collect();
        paths.try_into().unwrap()
    }

    /// A command of QEMU's monitor without arguments.
    fn command(&mut self, name: &str) {
        self.monitor(&format!("{{\"execute\": \"{name}\"}}"));
    }

    /// A command of QEMU's monitor; its answer.
    fn monitor(&mut self, command: &str) -> String {
        let text = format!("{command}\n");
        self.monitor.get_mut().write_all(text.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.monitor.read_line(&mut line).unwrap(), 0, "{command}: no answer");
            assert!(!line.starts_with("{\"error\""), "{command}: {line}");
            if line.starts_with("{\"return\"") {
                return line;
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
