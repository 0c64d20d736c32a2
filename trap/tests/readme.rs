//! The example people see is the one that is compiled.
#![cfg(not(loom))]

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let (readme, example) = (include_str!("../README.md"), include_str!("../examples/realmode.rs"));
    assert!(readme.contains(example), "copy examples/realmode.rs into README.md");
}
