//! Drivers for devices that Linux has none for: modules in `guest-tests/`, built for a Debian kernel
//! with the headers Debian made from it.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::cross::Gcc;
use crate::kernel::Kernel;
use crate::{deb, paths, proc};

/// A kernel module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// Its name, without the `.ko` of its file.
    pub(crate) name: &'static str,
    /// The file.
    pub(crate) file: PathBuf,
}

/// The module in the folder `name` of `guest-tests/`, built if that was not done yet for this kernel
/// and this source.
///
/// # Errors
///
/// When the headers cannot be had or the module does not build: carries what the compiler said.
pub(crate) fn module(name: &'static str, kernel: &Kernel) -> Result<Module> {
    // Groups of guests run side by side and want the same module.
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let source = source(name)?;
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let file = format!("{name}-{}-{:016x}.ko", kernel.release, hasher.finish());
    let file = paths::build()?.join(file);
    if !file.is_file() {
        let scratch = paths::draft(&file);
        fs::create_dir_all(&scratch)?;
        let built = build(name, kernel, &source, &scratch);
        let built = built.and_then(|built| paths::write_whole(&file, &built));
        fs::remove_dir_all(&scratch)?;
        built.with_context(|| format!("Cannot build the module {name} of guest-tests"))?;
    }
    Ok(Module { name, file })
}

/// Modules that the kernel's package has, ready to be loaded.
///
/// # Errors
///
/// When one is not there or cannot be unpacked.
pub(crate) fn all_shipped(
    names: impl IntoIterator<Item = &'static str>,
    kernel: &Kernel,
) -> Result<Vec<Module>> {
    names.into_iter().map(|name| shipped(name, kernel)).collect()
}

/// Those of these modules that the kernel's package has, as a kernel has some built in.
///
/// # Errors
///
/// When one cannot be unpacked.
pub(crate) fn if_shipped(
    names: impl IntoIterator<Item = &'static str>,
    kernel: &Kernel,
) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for name in names {
        if let Some(content) = kernel.module(name)? {
            modules.push(kept(name, &content, kernel)?);
        }
    }
    Ok(modules)
}

/// A module that the kernel's package has, ready to be loaded.
///
/// # Errors
///
/// When it is not there or cannot be unpacked.
pub(crate) fn shipped(name: &'static str, kernel: &Kernel) -> Result<Module> {
    let content = kernel.module(name)?;
    let content = content.with_context(|| format!("{} has no module {name}", kernel.release))?;
    kept(name, &content, kernel)
}

/// A module in a file of its own.
fn kept(name: &'static str, content: &[u8], kernel: &Kernel) -> Result<Module> {
    let file = paths::build()?.join(format!("{name}-{}.ko", kernel.release));
    paths::write_whole(&file, content)?;
    Ok(Module { name, file })
}

/// The files it is made of: their names and contents.
fn source(name: &str) -> Result<[(String, String); 2]> {
    let [code, rules] = [format!("{name}.c"), "Kbuild".to_owned()].map(|file| {
        let content = paths::guest_test(&format!("{name}/{file}"))?;
        anyhow::Ok((file, content))
    });
    Ok([code?, rules?])
}

/// Builds it in a folder of its own and returns what is in the module's file.
fn build(
    name: &str,
    kernel: &Kernel,
    source: &[(String, String)],
    scratch: &Path,
) -> Result<Vec<u8>> {
    for (file, content) in source {
        fs::write(scratch.join(file), content)?;
    }
    let headers = headers(kernel)?;
    let mut make = Command::new(deb::program("make", &["make"])?);
    // The Makefile among the kernel's own headers names this one by where it would be installed.
    make.arg("-C").arg(&headers.own).arg("-f").arg(headers.common.join("Makefile"));
    make.arg(format!("M={}", scratch.display())).arg(format!("ARCH={}", kernel.arch.linux()));
    Gcc::for_arch(kernel.arch)?.apply(&mut make);
    eprintln!("Building the module {name} for {}", kernel.release);
    proc::output(make.arg("modules"))?;
    Ok(fs::read(scratch.join(format!("{name}.ko")))?)
}

/// What modules for a kernel are built with.
struct Headers {
    /// The configuration and the symbols of this kernel.
    own: PathBuf,
    /// The headers, shared by all of one version.
    common: PathBuf,
}

fn headers(kernel: &Kernel) -> Result<Headers> {
    let own = format!("linux-headers-{}", kernel.release);
    let package = kernel.arch.package(&own);
    let common = deb::dependency(&package, "linux-headers-")?;
    // Programs, which run here.
    let kbuild = Arch::host().package(&deb::dependency(&package, "linux-kbuild-")?);
    // They find each other by relative links.
    let folder =
        deb::unpacked_together(&own, &[package, common.clone(), kbuild]).with_context(|| {
            let release = &kernel.release;
            format!("No headers for {release} (if Debian has a newer kernel, remove build/deb)")
        })?;
    let sources = folder.join("usr/src");
    Ok(Headers { own: sources.join(own), common: sources.join(common) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_its_source_and_its_rules() {
        let [(code, _), (rules, content)] = source("edu").unwrap();
        assert_eq!((code.as_str(), rules.as_str()), ("edu.c", "Kbuild"));
        assert_eq!(content, "obj-m := edu.o\n");
    }
}
