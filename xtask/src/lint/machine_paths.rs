//! No file names a place that exists on one machine only.

use super::{Finding, Tree};

/// Folders of build machines, without their slashes, so that this list is no finding itself.
const FOLDERS: [&[&str]; 3] = [&["work"], &["root"], &["tmp", "bash_jobs"]];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let folders = FOLDERS.map(|parts| format!("/{}/", parts.join("/")));
    let mut findings = Vec::new();
    for file in &tree.files {
        for (line, number) in file.text.lines().zip(1..) {
            if let Some(folder) = folders.iter().find(|folder| names(line, folder)) {
                findings.push(file.at(number, format!("{folder} is a path of one machine only")));
            }
        }
    }
    findings
}

/// Whether the folder occurs as an absolute path, not in the middle of a longer path or address.
fn names(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~/$})".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    #[test]
    fn absolute_paths_are_found_and_relative_ones_are_not() {
        let bad = format!("fine\nlet path = \"{0}root{0}x\";", '/');
        let good = "build/work/x https://example.org/root/x $HOME/work/x the /worker";
        let findings = check(&tree(&[("a.rs", &bad), ("b.sh", good)]));
        let folder = ["", "root", ""].join("/");
        assert_eq!(texts(&findings), [format!("a.rs:2: {folder} is a path of one machine only")]);
    }
}
