//! House lints: rules of this project that no compiler knows. One file each, one test at least.

mod dependencies;
mod length;
mod machine_paths;
mod numbers;
mod orphans;
mod spec;
mod unsafety;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::suite::{Tally, Task};
use crate::{paths, proc};

/// A rule broken: where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding(String);

/// A file of the project.
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    fn at(&self, line: usize, message: impl std::fmt::Display) -> Finding {
        Finding(format!("{}:{line}: {message}", self.path))
    }
}

/// A package of the workspace, as cargo describes it.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Names of the packages it depends on, and whether for tests only.
    pub(crate) dependencies: Vec<(String, bool)>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
}

/// Something a package builds.
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, …
    pub(crate) kind: String,
    /// Its root file, relative to the workspace.
    pub(crate) root: String,
}

/// All that a lint may look at.
pub(crate) struct Tree {
    /// Text files that belong to the project.
    pub(crate) files: Vec<Source>,
    /// The workspace's packages.
    pub(crate) packages: Vec<Package>,
}

type Lint = fn(&Tree) -> Vec<Finding>;

const LINTS: [(&str, &str, Lint); 7] = [
    ("lint-dependencies", "crates name only what the picture allows", dependencies::check),
    ("lint-length", "no source file is too long to read", length::check),
    ("lint-machine-paths", "no path of somebody's machine", machine_paths::check),
    ("lint-numbers", "guest addresses and interrupt numbers only in layout.rs", numbers::check),
    ("lint-orphans", "every .rs file belongs to a crate", orphans::check),
    ("lint-spec", "every regs.rs says which document it follows", spec::check),
    ("lint-unsafe", "unsafe code only where the invariant allows it", unsafety::check),
];

/// Every lint as a task.
pub(crate) fn tasks() -> Vec<Task> {
    let task = |(name, about, lint): (&str, &'static str, Lint)| {
        Task::new(name, about, move || {
            let findings = lint(&read_tree()?);
            for Finding(text) in &findings {
                eprintln!("{text}");
            }
            Ok(Tally::of(findings.is_empty()))
        })
    };
    LINTS.into_iter().map(task).collect()
}

fn read_tree() -> Result<Tree> {
    let root = paths::root()?;
    let mut files = Vec::new();
    for path in listed(&root)? {
        // What is no text is no business of a lint; what git lists may be deleted already.
        if let Ok(text) = fs::read_to_string(root.join(&path)) {
            files.push(Source { path, text });
        }
    }
    Ok(Tree { files, packages: metadata()? })
}

/// What git would take into a commit, or, without git, everything outside the ignored folders.
fn listed(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    if let Ok(names) = proc::output(&mut git) {
        let names = String::from_utf8(names)?;
        return Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect());
    }
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            if path.is_dir() && !["build", "target", ".git"].contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file() {
                found.push(name);
            }
        }
    }
    Ok(found)
}

/// The workspace's packages.
pub(crate) fn metadata() -> Result<Vec<Package>> {
    let mut cargo = proc::cargo()?;
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    let json: Value = serde_json::from_slice(&proc::output(&mut cargo)?)?;
    let root = paths::root()?;
    array(&json, "packages").map(|package| parse_package(package, &root)).collect()
}

fn parse_package(json: &Value, root: &Path) -> Result<Package> {
    let dependencies = array(json, "dependencies").map(|dependency| {
        let tests_only = dependency.get("kind").and_then(Value::as_str) == Some("dev");
        Ok((string(dependency, "name")?, tests_only))
    });
    let targets = array(json, "targets").map(|target| {
        let file = string(target, "src_path")?;
        let kind = array(target, "kind").next().and_then(Value::as_str).unwrap_or_default();
        let relative = Path::new(&file).strip_prefix(root)?.to_string_lossy().into_owned();
        Ok(Target { name: string(target, "name")?, kind: kind.to_owned(), root: relative })
    });
    Ok(Package {
        name: string(json, "name")?,
        dependencies: dependencies.collect::<Result<_>>()?,
        targets: targets.collect::<Result<_>>()?,
    })
}

fn array<'a>(json: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    json.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn string(json: &Value, name: &str) -> Result<String> {
    let text = json.get(name).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("cargo metadata without {name}"))
}

#[cfg(test)]
mod testing {
    use super::*;

    /// A tree of these files, with a library whose root is the first of them.
    pub(super) fn tree(files: &[(&str, &str)]) -> Tree {
        let root = files.first().map(|(path, _)| (*path).to_owned()).unwrap_or_default();
        let target = Target { name: "sample".to_owned(), kind: "lib".to_owned(), root };
        let package =
            Package { name: "sample".to_owned(), dependencies: vec![], targets: vec![target] };
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        Tree { files: files.iter().map(source).collect(), packages: vec![package] }
    }

    /// The findings' text.
    pub(super) fn texts(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|Finding(text)| text.as_str()).collect()
    }
}
