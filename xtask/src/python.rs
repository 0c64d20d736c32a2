//! Packages of PyPI, installed into `build/` by pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{deb, paths, proc};

/// Python at the root of the repository, with what pip calls `package==1.2` and what that needs,
/// downloaded if it is not there yet.
///
/// # Errors
///
/// Without Python, or when the download fails: says what was wanted.
pub(crate) fn with(package: &str) -> Result<Command> {
    let python = deb::program("python3", &["python3"])?;
    let dir = folder(&paths::build()?, package);
    if !dir.is_dir() {
        let scratch = paths::draft(&dir);
        eprintln!("Downloading the Python package {package}");
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&scratch).arg(package);
        proc::output(&mut pip)
            .with_context(|| format!("The Python package {package} cannot be had"))?;
        fs::rename(&scratch, &dir).with_context(|| format!("Cannot make {}", dir.display()))?;
    }
    let mut command = proc::in_root(python)?;
    command.env("PYTHONPATH", dir);
    Ok(command)
}

/// Where a package is: each version in a folder of its own.
fn folder(build: &Path, package: &str) -> PathBuf {
    build.join("python").join(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_taken_for_the_one_that_is_wanted() {
        let of = |package| folder(Path::new("/build"), package);
        assert_eq!(of("a==1.2"), Path::new("/build/python/a==1.2"));
        assert_ne!(of("a==1.2"), of("a==1.3"));
    }
}
