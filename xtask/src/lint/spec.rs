//! Every register map says which document it follows.

use super::{Finding, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let maps = tree.files.iter().filter(|file| file.path.ends_with("/regs.rs"));
    let silent = maps.filter(|file| {
        let mut doc = file.text.lines().map_while(|line| line.strip_prefix("//!"));
        !doc.any(|line| line.trim_start().starts_with("Spec: "))
    });
    silent.map(|file| file.at(1, "the first comment needs a line `//! Spec: …`")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    #[test]
    fn the_line_must_stand_in_the_first_comment() {
        let tree = tree(&[
            ("a/regs.rs", "//! Registers.\n//!\n//! Spec: a data sheet.\nuse b;"),
            ("b/regs.rs", "//! Registers.\n\n//! Spec: too late."),
            ("c/mod.rs", "//! No registers."),
        ]);
        assert_eq!(
            texts(&check(&tree)),
            ["b/regs.rs:1: the first comment needs a line `//! Spec: …`"]
        );
    }
}
