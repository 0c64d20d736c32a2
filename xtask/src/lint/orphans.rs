//! Every source file belongs to a crate: one that none includes is neither compiled nor tested.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use super::{Finding, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let targets = tree.packages.iter().flat_map(|package| &package.targets);
    let mut open: Vec<(String, bool)> = targets.map(|t| (t.root.clone(), true)).collect();
    // The fuzz targets are a workspace of their own.
    let fuzz = tree.files.iter().filter(|file| file.path.starts_with("fuzz/fuzz_targets/"));
    open.extend(fuzz.map(|file| (file.path.clone(), true)));
    let mut reached = BTreeSet::new();
    while let Some((path, is_root)) = open.pop() {
        let Some(file) = tree.files.iter().find(|file| file.path == path) else { continue };
        if reached.insert(path.clone()) {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let own =
                if is_root || name == "mod.rs" { folder } else { path.trim_end_matches(".rs") };
            let tokens = file.text.parse().unwrap_or_default();
            open.extend(modules(tokens, own, folder).into_iter().map(|path| (path, false)));
        }
    }
    let orphans = tree.files.iter().filter(|file| file.is_rust() && !reached.contains(&file.path));
    orphans.map(|file| file.at(1, "no crate includes this file")).collect()
}

/// Files that the `mod` items of one file may be in, given the folder of its modules and its own.
fn modules(tokens: TokenStream, folder: &str, beside: &str) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let (mut found, mut named) = (Vec::new(), None);
    for window in tokens.windows(3) {
        if let [TokenTree::Punct(hash), TokenTree::Group(attribute), _] = window
            && hash.as_char() == '#'
        {
            named = path_attribute(&attribute.stream().to_string()).or(named);
        }
        let [TokenTree::Ident(word), TokenTree::Ident(name), after] = window else { continue };
        let inner = format!("{folder}/{name}").trim_start_matches('/').to_owned();
        match (named.take(), after) {
            _ if word != "mod" => {}
            (Some(path), TokenTree::Punct(_)) => found.push(file_in(beside, &path)),
            (None, TokenTree::Punct(_)) => {
                found.extend([format!("{inner}.rs"), format!("{inner}/mod.rs")]);
            }
            (_, TokenTree::Group(body)) => found.extend(modules(body.stream(), &inner, &inner)),
            _ => {}
        }
    }
    found
}

/// The file in `path = "file"`.
fn path_attribute(attribute: &str) -> Option<String> {
    let value = attribute.strip_prefix("path")?.trim_start().strip_prefix('=')?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// The file that a path in `folder` means, which may go up by `..`.
fn file_in(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    #[test]
    fn modules_are_followed_and_a_comment_includes_nothing() {
        let tree = tree(&[
            ("a/src/lib.rs", "pub(crate) mod one; mod two { mod three; } // mod four;"),
            ("a/src/one/mod.rs", "mod five;"),
            ("a/src/one/five.rs", "#[cfg(test)] mod six; #[path = \"7.rs\"] pub(crate) mod seven;"),
            ("a/src/one/7.rs", "#[path = \"../../shared/8.rs\"] mod eight;"),
            ("a/shared/8.rs", ""),
            ("a/src/one/five/six.rs", ""),
            ("a/src/two/three.rs", ""),
            ("a/src/four.rs", ""),
        ]);
        assert_eq!(texts(&check(&tree)), ["a/src/four.rs:1: no crate includes this file"]);
    }
}
