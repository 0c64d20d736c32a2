//! A user's guests, and the commands to them.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use trapline_testkit::realmode::Asm;

use super::{Owned, TRAPLINE, shell_status, until};

/// A user's runtime folder, with no guests of others in it.
pub struct User(TempDir);

impl User {
    /// Its runtime folder, which the environment names.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// One.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the sockets are.
    pub fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("trapline")
    }

    /// `trapline` with these arguments, and what has come of it.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(TRAPLINE);
        command.args(args).env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (shell_status(output.status), text(output.stdout), text(output.stderr))
    }

    /// What a command that works says.
    #[track_caller]
    pub fn say(&self, args: &[&str]) -> String {
        let (status, out, err) = self.run(args);
        assert_eq!((status, err.as_str()), (0, ""), "{args:?}: {out}");
        out
    }

    /// Starts a guest that prints `.` and halts, and waits for that.
    pub fn start_idle(&self, name: &str) -> Owned {
        // again: sti; hlt; jmp again
        let program = Asm::new().print(b".").forever(Asm::new().bytes(&[0xfb, 0xf4]));
        let mut child = self.command(name, &program).spawn().unwrap().into();
        await_dot(&mut child);
        child
    }

    /// Starts a guest that prints `.`, and waits for that.
    pub fn start(&self, name: &str) -> Owned {
        let mut child = self.command(name, &Asm::new().print(b".").spin()).spawn().unwrap().into();
        await_dot(&mut child);
        child
    }

    /// Runs `program` as a guest of this name.
    pub fn command(&self, name: &str, program: &Asm) -> Command {
        let path = self.0.path().join(format!("{name}.rom"));
        std::fs::write(&path, program.rom()).unwrap();
        let mut command = super::command(TRAPLINE);
        let path = path.to_str().unwrap();
        command.args(["run", "--firmware", path, "-m", "2", "-c", "1", "--name", name]);
        command.env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What `trapline list` says with these options. It gives a guest five seconds to answer, and a busy
    /// host may keep the guest waiting for longer.
    #[track_caller]
    pub fn list(&self, options: &[&str]) -> String {
        let args = [&["list"], options].concat();
        let mut said = (0, String::new(), String::new());
        until("every guest answers", || {
            said = self.run(&args);
            !said.2.ends_with(" does not answer\n")
        });
        let (status, out, err) = said;
        assert_eq!((status, err.as_str()), (0, ""), "{args:?}: {out}");
        out
    }

    /// Names and states of the guests that are listed.
    pub fn listed(&self) -> Vec<(String, String)> {
        let out = self.list(&[]);
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("   PID NAME                 STATE"));
        assert_eq!(lines.next(), Some("------------------------------------"));
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(line, format!("{:>5} {:<20} {}", words[0], words[1], words[2]));
            (words[1].to_owned(), words[2].to_owned())
        };
        lines.map(row).collect()
    }
}

/// Waits until a guest has printed `.`.
pub fn await_dot(child: &mut Owned) {
    let mut dot = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut dot).unwrap();
    assert_eq!(&dot, b".");
}
