//! `unsafe` only where ARCHITECTURE.md's first invariant allows it.

use proc_macro2::{TokenStream, TokenTree};

use super::{Finding, Tree};

/// The last three are programs, not part of the command: two beside the registry's crate, of which
/// one talks to KVM and one needs a fence that only an intrinsic has, and one that makes system calls
/// in guests.
#[rustfmt::skip]
const ALLOWED: [&str; 7] = [
    "contract/guestmem/", "sources/kvm/", "backends/guestio/", "devices/vfio/", "trap/benches/",
    "trap/examples/", "guest-tests/diskload/",
];
const FORBID: &str = "#![forbid(unsafe_code)]";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let roots: Vec<&str> = tree
        .packages
        .iter()
        .flat_map(|package| &package.targets)
        .filter(|target| target.kind == "lib" || target.kind == "bin")
        .map(|target| target.root.as_str())
        .collect();
    let mut findings = Vec::new();
    let walled = |path: &str| !ALLOWED.iter().any(|folder| path.starts_with(folder));
    for file in tree.files.iter().filter(|file| file.is_rust() && walled(&file.path)) {
        if roots.contains(&file.path.as_str()) && !file.text.lines().any(|line| line == FORBID) {
            findings.push(file.at(1, format!("a crate's root needs {FORBID}")));
        }
        match file.text.parse() {
            Ok(tokens) => words(tokens, &mut |line| {
                findings.push(file.at(line, "unsafe code outside the crates that may have it"));
            }),
            Err(error) => findings.push(file.at(1, error)),
        }
    }
    findings
}

/// Calls `found` with the line of every `unsafe`; comments and strings have none.
fn words(tokens: TokenStream, found: &mut impl FnMut(usize)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => words(group.stream(), found),
            TokenTree::Ident(word) if word == "unsafe" => found(word.span().start().line),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    #[test]
    fn the_word_counts_only_as_code_and_only_outside_the_allowed_crates() {
        let code = "// unsafe\nconst A: &str = \"unsafe\";\nfn f() { unsafe { g() } }";
        let tree =
            tree(&[("a/src/lib.rs", FORBID), ("a/src/b.rs", code), ("sources/kvm/src/b.rs", code)]);
        let expected = ["a/src/b.rs:3: unsafe code outside the crates that may have it"];
        assert_eq!(texts(&check(&tree)), expected);
    }

    #[test]
    fn a_root_that_does_not_forbid_is_found() {
        let findings = check(&tree(&[("a/src/lib.rs", "//! Nothing.")]));
        assert_eq!(texts(&findings), [format!("a/src/lib.rs:1: a crate's root needs {FORBID}")]);
    }
}
