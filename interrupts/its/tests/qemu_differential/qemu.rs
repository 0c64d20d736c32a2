//! QEMU's `virt` machine, its processors stopped, behind a qtest socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command as Process, Stdio};

use crate::support::PENDING;

pub(crate) const PROGRAM: &str = "qemu-system-aarch64";
pub(crate) const CPUS: u16 = 3;
pub(crate) const ITS: u64 = 0x0808_0000;
pub(crate) const DISTRIBUTOR: u64 = 0x0800_0000;
pub(crate) const REDISTRIBUTORS: u64 = 0x080a_0000;

/// QEMU behind its qtest socket.
pub(crate) struct Qemu {
    process: Child,
    out: UnixStream,
    answers: BufReader<UnixStream>,
    path: std::path::PathBuf,
    /// Where QEMU logs each processor's highest priority pending interrupt.
    log: BufReader<std::fs::File>,
    highest: Vec<Option<(u32, u8)>>,
}

impl Qemu {
    pub(crate) fn start(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("its-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let process = Process::new(PROGRAM)
            .args(["-M", "virt,gic-version=3", "-accel", "tcg", "-S", "-m", "512"])
            .args(["-nodefaults", "-display", "none", "-smp", &CPUS.to_string()])
            .args(["-qtest", &format!("unix:{}", path.display())])
            .args(["-d", "trace:gicv3_cpuif_update", "-D"])
            .arg(path.with_extension("log"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (out, _) = listener.accept().unwrap();
        let answers = BufReader::new(out.try_clone().unwrap());
        let log = BufReader::new(std::fs::File::open(path.with_extension("log")).unwrap());
        Self { process, out, answers, path, log, highest: vec![None; CPUS.into()] }
    }

    /// Each processor's highest priority pending LPI and its priority.
    pub(crate) fn highest(&mut self) -> &[Option<(u32, u8)>] {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            // "... CPU i/f 0x1 HPPI update: irq 8192 group 2 prio 160"
            let mut words = line.split_whitespace().skip_while(|word| *word != "i/f").skip(1);
            if let Some(cpu) = words.next().and_then(|word| word.strip_prefix("0x")) {
                let cpu = usize::from_str_radix(cpu, 16).unwrap();
                let numbers: Vec<u32> = words.filter_map(|word| word.parse().ok()).collect();
                let (intid, priority) = (numbers[0], u8::try_from(numbers[2]).unwrap());
                self.highest[cpu] = (priority != 0xff).then_some((intid, priority));
            }
            line.clear();
        }
        &self.highest
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.out, "{line}").unwrap();
        loop {
            let mut answer = String::new();
            self.answers.read_line(&mut answer).unwrap();
            if !answer.starts_with("IRQ") {
                let answer = answer.trim().strip_prefix("OK").expect("qtest refused");
                return answer.trim().to_owned();
            }
        }
    }

    pub(crate) fn write(&mut self, address: u64, size: u32, value: u64) {
        let word = match size {
            1 => "writeb",
            2 => "writew",
            4 => "writel",
            _ => "writeq",
        };
        self.ask(&format!("{word} {address:#x} {value:#x}"));
    }

    /// Reads `size` bytes.
    pub(crate) fn read_sized(&mut self, address: u64, size: u32) -> u64 {
        let word = match size {
            1 => "readb",
            2 => "readw",
            4 => "readl",
            _ => "readq",
        };
        let answer = self.ask(&format!("{word} {address:#x}"));
        u64::from_str_radix(answer.trim_start_matches("0x"), 16).unwrap()
    }

    pub(crate) fn read(&mut self, address: u64) -> u64 {
        self.read_sized(address, 8)
    }

    pub(crate) fn ram(&mut self, address: u64, data: &[u8]) {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("write {address:#x} {} 0x{hex}", data.len()));
    }

    /// Which of the 256 LPIs from `first` on are pending, by a table where the tests have them.
    pub(crate) fn pending(&mut self, cpu: u64, first: u32) -> Vec<u32> {
        self.pending_at(PENDING + cpu * 0x1_0000, first)
    }

    /// Which of the 256 LPIs from `first` on are pending by the table at `table`.
    pub(crate) fn pending_at(&mut self, table: u64, first: u32) -> Vec<u32> {
        let hex = self.ask(&format!("read {:#x} 32", table + u64::from(first / 8)));
        let digits = hex.trim_start_matches("0x").as_bytes().as_chunks::<2>().0;
        let bytes = digits
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        (0..256u32)
            .filter(|n| bytes[*n as usize / 8] >> (n % 8) & 1 != 0)
            .map(|n| first + n)
            .collect()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _gone = self.process.kill().and_then(|()| self.process.wait().map(drop));
        let _removed = std::fs::remove_file(&self.path);
        let _removed = std::fs::remove_file(self.path.with_extension("log"));
    }
}
