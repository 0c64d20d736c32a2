//! Programs for another architecture than this machine's: compilers and a linker, from Debian's
//! packages, unpacked into `build/` and not installed.
//!
//! Debian packages the standard library of its newest compiler, `rustc-web`, for every
//! architecture; any other compiler could not use it, so that compiler comes with it. Who has the
//! target's standard library already (by `rustup target add`) uses the compiler it belongs to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::{deb, proc};

/// What cargo has to be told to build for `arch`.
pub(crate) struct Toolchain {
    arch: Arch,
    linker: PathBuf,
    /// The archiver beside it.
    archiver: OsString,
    /// The folder of Debian's compiler, unless the machine's own will do.
    compiler: Option<PathBuf>,
    /// Folders of the shared libraries that the unpacked programs need.
    libraries: Vec<PathBuf>,
}

impl Toolchain {
    /// Finds or fetches one; `arch` is not the host's.
    pub(crate) fn for_arch(arch: Arch) -> Result<Self> {
        let gcc = Gcc::for_arch(arch)?;
        let (archiver, mut libraries) = (gcc.tool("ar"), gcc.libraries);
        let compiler = if has_target(arch) { None } else { Some(compiler(arch)?) };
        libraries.extend(compiler.as_deref().map(libraries_of));
        Ok(Self { arch, linker: gcc.program, archiver, compiler, libraries })
    }

    /// Makes `cargo` build for the architecture.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        let target = self.arch.target();
        let key = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        cargo.args(["--target", target]).env(key, &self.linker);
        // For libraries in C, in the words of their build scripts.
        let names = ["CC", "AR"].map(|tool| format!("{tool}_{}", target.replace('-', "_")));
        cargo.envs(names.iter().zip([self.linker.as_os_str(), &self.archiver]));
        if let Some(folder) = &self.compiler {
            cargo.env("RUSTC", folder.join("usr/bin/rustc"));
            cargo.env("RUSTDOC", folder.join("usr/bin/rustdoc"));
        }
        if !self.libraries.is_empty() {
            cargo.env("LD_LIBRARY_PATH", joined(&self.libraries));
        }
    }

    /// The linter that belongs to the compiler, to be run in cargo's place; `None` for the one cargo
    /// itself finds.
    pub(crate) fn clippy(&self) -> Option<PathBuf> {
        self.compiler.as_ref().map(|folder| folder.join("usr/bin/cargo-clippy"))
    }
}

/// A C compiler, and the assembler and linker it belongs to.
pub(crate) struct Gcc {
    program: PathBuf,
    /// What the names of the other tools begin with.
    prefix: OsString,
    libraries: Vec<PathBuf>,
}

impl Gcc {
    /// The machine's own, installed if need be; for the other architecture one from packages, unless
    /// there is one.
    pub(crate) fn for_arch(arch: Arch) -> Result<Self> {
        if arch == Arch::host() {
            let program = deb::program("gcc", &["gcc"])?;
            return Ok(Self { program, prefix: OsString::new(), libraries: Vec::new() });
        }
        let prefix = format!("{}-", arch.gnu());
        if let Some(program) = proc::find(&format!("{prefix}gcc")) {
            return Ok(Self { program, prefix: prefix.into(), libraries: Vec::new() });
        }
        let folder = gcc(arch)?;
        let program = program(&folder, |name| {
            name.strip_prefix(&format!("{prefix}gcc-"))
                .is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()))
        })?;
        let libraries = vec![libraries_of(&folder)];
        Ok(Self { program, prefix: folder.join("usr/bin").join(prefix).into(), libraries })
    }

    /// One of the other tools that the compiler belongs to.
    fn tool(&self, name: &str) -> OsString {
        let mut tool = self.prefix.clone();
        tool.push(name);
        tool
    }

    /// Makes `make` use them, in the words of Linux's build.
    pub(crate) fn apply(&self, make: &mut Command) {
        for (name, value) in [("CROSS_COMPILE=", &*self.prefix), ("CC=", self.program.as_ref())] {
            let mut word = OsString::from(name);
            word.push(value);
            make.arg(word);
        }
        if !self.libraries.is_empty() {
            make.env("LD_LIBRARY_PATH", joined(&self.libraries));
        }
    }
}

/// Whether the machine's own compiler has the standard library of `arch`.
fn has_target(arch: Arch) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", arch.target()]);
    let Ok(said) = proc::output(&mut command) else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&said).trim());
    std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
}

/// The compiler, its linker and the C library, in one folder as they look for each other in it.
fn gcc(arch: Arch) -> Result<PathBuf> {
    let host = Arch::host();
    // Debian writes no underscores in package names.
    let gnu = arch.gnu().replace('_', "-");
    let gcc = host.package(&deb::dependency(&host.package(&format!("gcc-{gnu}")), "gcc-1")?);
    let cpp = host.package(&deb::dependency(&gcc, "cpp-1")?);
    let libc = format!("-{}-cross", arch.debian());
    let mut packages = vec![
        host.package(&format!("binutils-{gnu}")),
        deb::dependency(&gcc, "libgcc-1")?,
        format!("libc6{libc}"),
        format!("libc6-dev{libc}"),
    ];
    for library in ["libgmp", "libisl", "libmpc", "libmpfr"] {
        packages.push(host.package(&deb::dependency(&cpp, library)?));
    }
    packages.extend([gcc, cpp]);
    deb::unpacked_together(&format!("gcc-{arch}"), &packages)
}

/// Debian's newest compiler with its linter and the standard libraries of the host, for build
/// scripts and macros, and of `arch`.
fn compiler(arch: Arch) -> Result<PathBuf> {
    let host = Arch::host();
    let library = host.package("libstd-rust-web-dev");
    let driver = host.package(&deb::dependency(&library, "libstd-rust-web-")?);
    let llvm = host.package(&deb::dependency(&driver, "libllvm")?);
    let packages = [
        host.package("rustc-web"),
        host.package("rust-web-clippy"),
        library,
        driver,
        llvm,
        arch.package("libstd-rust-web-dev"),
    ];
    let folder = deb::unpacked_together(&format!("rust-{arch}"), &packages)?;
    let mut rustc = Command::new(folder.join("usr/bin/rustc"));
    rustc.arg("--version").env("LD_LIBRARY_PATH", libraries_of(&folder));
    let version = String::from_utf8(proc::output(&mut rustc)?)?;
    ensure!(
        new_enough(&version, env!("CARGO_PKG_RUST_VERSION")),
        "Debian's compiler here, {}, is older than the {} this project needs: add the standard \
         library of {} to your own (rustup target add {})",
        version.trim(),
        env!("CARGO_PKG_RUST_VERSION"),
        arch,
        arch.target()
    );
    Ok(folder)
}

/// Whether `rustc 1.96.0 (…)` is at least `1.95`.
fn new_enough(said: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split('.').map_while(|part| part.parse().ok()).take(2).collect()
    };
    said.split_whitespace().nth(1).is_some_and(|version| numbers(version) >= numbers(least))
}

/// The program of an unpacked folder whose name `is` accepts.
fn program(folder: &Path, is: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder.join("usr/bin"))?;
    let found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| is(&name.to_string_lossy())));
    found.with_context(|| format!("{} lacks a compiler", folder.display()))
}

fn libraries_of(folder: &Path) -> PathBuf {
    folder.join("usr/lib").join(Arch::host().gnu())
}

fn joined(folders: &[PathBuf]) -> OsString {
    // Only a folder with a colon in its name cannot be joined, and then programs say what they miss.
    std::env::join_paths(folders).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(new_enough("rustc 1.96.0 (ac68faa20 2026-05-25)", "1.95"));
        assert!(new_enough("rustc 1.100.0", "1.95"));
        assert!(!new_enough("rustc 1.85.0 (4d91de4e4 2025-02-17)", "1.95"));
        assert!(!new_enough("nothing", "1.95"));
    }
}
