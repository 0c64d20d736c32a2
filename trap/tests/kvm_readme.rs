//! The example people see does what the README says.
#![cfg(not(loom))]

use std::process::Command;

#[test]
fn the_readmes_guest_says_hello_and_is_accounted_for() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut example = Command::new(cargo);
    example.args(["run", "--quiet", "--example", "realmode"]);
    // A sanitizer's flags are for the tests' own target folder.
    example.env_remove("RUSTFLAGS");
    let output = example.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let (said, why) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{why}");
    assert_eq!(said.lines().next(), Some("Hi"));
    let line = said.lines().find(|line| line.contains("serial0/uart")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        fields,
        ["pio", "0x03f8-0x03ff", "serial0/uart", "0", "3", "0", "0", "0", "0", "-", "trap"]
    );
}
