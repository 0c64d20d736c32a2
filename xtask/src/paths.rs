//! Where things are: the repository, its build folder, cargo's target folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// The repository's root: the folder above this crate, or above the current directory when the
/// program was started without cargo.
pub(crate) fn root() -> Result<PathBuf> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => env::current_dir().context("The current directory is gone")?,
    };
    for dir in start.ancestors() {
        let manifest = dir.join("Cargo.toml");
        if fs::read_to_string(manifest).is_ok_and(|text| text.contains("[workspace]")) {
            return Ok(dir.to_path_buf());
        }
    }
    bail!("{} is not inside a clone of Trapline", start.display())
}

/// What xtask fetches and makes, apart from cargo's output. Ignored by git.
pub(crate) fn build() -> Result<PathBuf> {
    let dir = root()?.join("build");
    fs::create_dir_all(&dir).with_context(|| format!("Cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Cargo's target folder for this workspace.
pub(crate) fn target() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Ok(env::current_dir()?.join(dir)),
        None => Ok(root()?.join("target")),
    }
}

/// A file of `guest-tests/`.
pub(crate) fn guest_test(name: &str) -> Result<String> {
    let path = root()?.join("guest-tests").join(name);
    fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))
}

/// The content of a script of `guest-tests/` that runs trapline, behind what all of them have.
///
/// # Errors
///
/// When there is none, or it cannot be read.
pub(crate) fn host_script(name: &str) -> Result<String> {
    Ok(guest_test("host-prepare.sh")? + &guest_test(name)?)
}

/// A name beside `path` that nobody else uses, thread or process.
pub(crate) fn draft(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".draft{}-{count}", std::process::id()));
    path.with_file_name(name)
}

/// Writes `content` so that a reader, or a second xtask, sees the old file or the new one and
/// never half of it.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let draft = draft(path);
    fs::write(&draft, content).with_context(|| format!("Cannot write {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("Cannot write {}", path.display()))
}
