//! Debian packages: fetched and unpacked into `build/` without root, or installed when they are
//! programs this machine lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, proc};

/// The folder with the unpacked content of `package`, downloaded if it is not there yet. Packages
/// are amd64's, or of the architecture named behind a colon.
///
/// # Errors
///
/// Without apt-get and dpkg, or when the download fails: says what was wanted.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    // Folders end up in lists that are separated by colons.
    unpacked_together(&package.replace(':', "."), &[package.to_owned()])
}

/// The folder `name` with the unpacked content of several packages, for programs that look for each
/// other's files.
///
/// # Errors
///
/// As for one package.
pub(crate) fn unpacked_together(name: &str, packages: &[String]) -> Result<PathBuf> {
    // Boots run side by side and want the same packages.
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let dir = paths::build()?.join("deb").join(name);
    let names = packages.join(" ");
    if dir.is_dir() {
        return Ok(dir);
    }
    for tool in ["apt-get", "apt-cache", "dpkg"] {
        if proc::find(tool).is_none() {
            bail!(
                "This is no Debian-like system ({tool} is missing): unpack the Debian package \
                 {names} (amd64, if nothing else is said) into {} yourself",
                dir.display()
            );
        }
    }
    let scratch = paths::draft(&dir);
    fs::create_dir_all(&scratch)?;
    let all = packages.iter().try_for_each(|package| fetch(package, &scratch));
    let fetched = all.and_then(|()| {
        let content = scratch.join("content");
        // Another process may have been quicker, with the same content.
        fs::rename(&content, &dir)
            .or_else(|error| if dir.is_dir() { Ok(()) } else { Err(error) })
            .with_context(|| format!("Cannot make {}", dir.display()))
    });
    fs::remove_dir_all(&scratch)?;
    fetched.with_context(|| format!("Cannot get the Debian package {names}"))?;
    Ok(dir)
}

/// The package that `package` depends on whose name starts with `prefix`, without its
/// architecture: how a meta package leads to the real one.
pub(crate) fn dependency(package: &str, prefix: &str) -> Result<String> {
    let record = format!("{}.{prefix}depends", package.replace(':', "."));
    let record = paths::build()?.join("deb").join(record);
    if let Ok(name) = fs::read_to_string(&record) {
        return Ok(name);
    }
    refresh()?;
    let said = proc::output(apt("apt-cache")?.args(["depends", package]))?;
    let said = String::from_utf8(said)?;
    let name = parse_depends(&said, prefix)
        .with_context(|| format!("{package} depends on no package named {prefix}…:\n{said}"))?;
    fs::create_dir_all(record.parent().unwrap_or(Path::new("/")))?;
    paths::write_whole(&record, name.as_bytes())?;
    Ok(name)
}

fn parse_depends(said: &str, prefix: &str) -> Option<String> {
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    // What only other packages provide under this name is in angle brackets.
    let names = names.map(|name| name.trim().trim_start_matches('<').trim_end_matches('>'));
    let names = names.map(|name| name.split(':').next().unwrap_or_default());
    names.into_iter().find(|name| name.starts_with(prefix)).map(str::to_owned)
}

fn fetch(package: &str, scratch: &Path) -> Result<()> {
    refresh()?;
    eprintln!("Downloading the Debian package {package}");
    proc::output(apt("apt-get")?.args(["-qq", "download", package]).current_dir(scratch))?;
    let archive = fs::read_dir(scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .context("apt-get download left no file")?;
    eprintln!("Unpacking {package}");
    let mut unpack = Command::new("dpkg");
    proc::output(unpack.arg("-x").arg(&archive).arg(scratch.join("content")))?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// Fetches the package lists, once a process, into `build/apt`: the system's own may be missing or
/// out of date, and changing those would need root.
fn refresh() -> Result<()> {
    static DONE: parking_lot::Mutex<bool> = parking_lot::Mutex::new(false);
    let mut done = DONE.lock();
    if !*done {
        eprintln!("Fetching the lists of Debian packages");
        proc::output(apt("apt-get")?.args(["-qq", "update"]))?;
        *done = true;
    }
    Ok(())
}

fn apt(program: &str) -> Result<Command> {
    let home = paths::build()?.join("apt");
    let lists = home.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(home.join("cache/archives/partial"))?;
    let mut command = Command::new(program);
    for (name, value) in [("Dir::State::Lists=", &lists), ("Dir::Cache=", &home.join("cache"))] {
        command.arg("-o").arg(format!("{name}{}", value.display()));
    }
    // apt's own unprivileged user need not be able to write here.
    if rustix::process::geteuid().is_root() {
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command.args(["-o", "APT::Architecture=amd64"]);
    for arch in ["amd64", "arm64"] {
        command.args(["-o", &format!("APT::Architectures::={arch}")]);
    }
    Ok(command)
}

/// Makes sure that `program` can be run, by installing `packages` if need be; returns its path.
///
/// # Errors
///
/// Where it cannot be installed: names the packages and the command to type.
pub(crate) fn program(program: &str, packages: &[&str]) -> Result<PathBuf> {
    // Tests run side by side and want the same programs.
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    if let Some(path) = proc::find(program) {
        return Ok(path);
    }
    let names = packages.join(" ");
    if proc::find("apt-get").is_none() {
        bail!(
            "{program} is missing, and this is no Debian-like system: install it ({names} there)"
        );
    }
    let root = rustix::process::geteuid().is_root();
    let sudo: &[&str] = if root { &[] } else { &["sudo", "-n"] };
    eprintln!("Installing {names} (for {program})");
    // Somebody else may be installing something, too.
    let install =
        ["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    let tried = installer(sudo, &install, packages).or_else(|_| {
        // The lists may be missing or too old for the archive.
        installer(sudo, &["update", "-qq"], &[])?;
        installer(sudo, &install, packages)
    });
    match (tried, proc::find(program)) {
        (Ok(()), Some(path)) => Ok(path),
        (tried, _) => {
            let reason = tried.err().map(|error| format!("{error:#}\n")).unwrap_or_default();
            bail!("{reason}{program} is missing. Type: sudo apt-get install {names}")
        }
    }
}

fn installer(sudo: &[&str], words: &[&str], packages: &[&str]) -> Result<()> {
    let mut line = sudo.iter().chain(&["apt-get"]).chain(words).chain(packages);
    let mut command = Command::new(line.next().unwrap_or(&"apt-get"));
    command.args(line).env("DEBIAN_FRONTEND", "noninteractive");
    proc::output(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_leads_to_the_real_one() {
        let said = "linux-image-cloud-amd64\n  Depends: linux-base\n  \
                    Depends: linux-image-6.1.0-9-cloud-amd64\n";
        let found = parse_depends(said, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-9-cloud-amd64"));
        assert_eq!(parse_depends(said, "busybox"), None);
        let foreign = "linux-image-arm64:arm64\n  Depends: linux-image-6.1.0-9-arm64:arm64\n";
        let found = parse_depends(foreign, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-9-arm64"));
        let provided = "linux-headers-6.1.0-9-arm64:arm64\n  \
                        Depends: <linux-headers-6.1.0-9-common:arm64>\n    \
                        linux-headers-6.1.0-9-common\n  Depends: linux-kbuild-6.1:arm64\n";
        let found = parse_depends(provided, "linux-headers-");
        assert_eq!(found.as_deref(), Some("linux-headers-6.1.0-9-common"));
    }
}
