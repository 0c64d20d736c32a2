//! Running other programs: found, quiet, or with their output watched.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::spent::Child;

/// The program's full name if it is on the search path, or in the folders of system programs
/// that a user's search path leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Cargo, as it was called.
pub(crate) fn cargo() -> Result<Command> {
    in_root(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that takes cargo's place, at the root of the repository.
pub(crate) fn in_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    // Set by the cargo that runs xtask, for xtask; a build script or test must not see them.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command.current_dir(crate::paths::root()?);
    Ok(command)
}

/// The command as a user would type it.
pub(crate) fn spelled(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
}

/// Runs to the end and returns standard output. Failure is an error that carries what the
/// program wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let done = collected(start(piped(command))?)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("`{}` failed ({}):\n{}", spelled(command), done.status, said.trim_end());
    }
    Ok(done.stdout)
}

/// Runs with the terminal's output; the answer is whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(status(command.stdin(Stdio::null()))?.success())
}

/// Runs to the end, with the streams the command has.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    Ok(start(command)?.wait()?)
}

fn piped(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// Starts it, with the streams the command has.
pub(crate) fn start(command: &mut Command) -> Result<Child> {
    let child = command.spawn().with_context(|| format!("Cannot run `{}`", spelled(command)))?;
    Ok(Child::new(child))
}

/// Waits for the end of a program, and returns what it wrote into pipes of ours until then.
pub(crate) fn collected(mut child: Child) -> Result<Output> {
    let (out, err) = (child.pipes().stdout.take(), child.pipes().stderr.take());
    let reader = thread::spawn(move || out.map(all).transpose());
    let stderr = err.map(all).transpose();
    let stdout = reader.join();
    let status = child.wait()?;
    // Reading does not panic.
    let stdout = stdout.unwrap_or(Ok(None))?.unwrap_or_default();
    Ok(Output { status, stdout, stderr: stderr?.unwrap_or_default() })
}

fn all(mut pipe: impl Read) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    pipe.read_to_end(&mut all)?;
    Ok(all)
}

/// Runs, with standard output copied to our standard error, and standard error where `show` says so;
/// returns success and all that was said, standard output first.
pub(crate) fn watched(
    command: &mut Command,
    mut show: impl FnMut(&str) -> bool,
) -> Result<(bool, String)> {
    let mut child = start(piped(command))?;
    let (out, err) = (child.pipes().stdout.take(), child.pipes().stderr.take());
    let reader = thread::spawn(move || out.map(|pipe| tee(pipe, |_| true)).unwrap_or_default());
    let err = err.map(|pipe| tee(pipe, &mut show)).unwrap_or_default();
    let out = reader.join().unwrap_or_default();
    let status = child.wait()?;
    Ok((status.success(), out + &err))
}

fn tee(pipe: impl Read, mut show: impl FnMut(&str) -> bool) -> String {
    let mut all = String::new();
    let mut lines = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes).is_ok_and(|len| len > 0) {
        let line = String::from_utf8_lossy(&bytes);
        if show(&line) {
            eprint!("{line}");
        }
        all.push_str(&line);
        bytes.clear();
    }
    all
}
