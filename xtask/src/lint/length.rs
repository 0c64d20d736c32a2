//! No source file is longer than somebody can read in one sitting.

use super::{Finding, Tree};

const MOST_LINES: usize = 600;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources = tree.files.iter().filter(|file| file.is_rust());
    let lines = sources.map(|file| (file, file.text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > MOST_LINES);
    long.map(|(file, lines)| file.at(lines, format!("more than {MOST_LINES} lines: split it")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    #[test]
    fn six_hundred_lines_are_enough() {
        let (most, more) = ("\n".repeat(600), "\n".repeat(601));
        let tree = tree(&[("a.rs", &most), ("b.rs", &more), ("c.txt", &more)]);
        assert_eq!(texts(&check(&tree)), ["b.rs:601: more than 600 lines: split it"]);
    }
}
