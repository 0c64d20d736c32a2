//! The direction of dependencies, as ARCHITECTURE.md draws it: nothing points up.

use super::{Finding, Tree};

/// Package, and the packages of ours that it may name.
#[rustfmt::skip]
const MAY_NAME: &[(&str, &[&str])] = &[
    ("trapline-access", &[]),
    ("trapline-regs", &[]),
    ("trapline-guestmem", &["trapline-access"]),
    ("trapline-device", &["trapline-access", "trapline-guestmem"]),
    ("trapline", &["trapline-access"]),
    ("trapline-trace", &["trapline-access", "trapline-regs"]),
    ("trapline-symbols", &[]),
    ("trapline-kvm", &["trapline", "trapline-device", "trapline-guestmem"]),
    ("trapline-qtest", &["trapline", "trapline-device", "trapline-guestmem"]),
    ("trapline-backends", &["trapline-device"]),
    ("trapline-guestio", &["trapline-access", "trapline-device", "trapline-guestmem"]),
    ("trapline-block", &["trapline-device", "trapline-guestio"]),
    ("trapline-usernet", &["trapline-device"]),
    ("trapline-net", &["trapline-device", "trapline-guestio", "trapline-usernet"]),
    ("trapline-ninep", &[]),
    ("trapline-vsock", &["trapline-backends", "trapline-device"]),
    ("trapline-platform", &["trapline-regs", "trapline-device", "trapline-guestmem"]),
    ("trapline-pci", &["trapline-regs", "trapline-device", "trapline-guestmem"]),
    ("trapline-display", &["trapline-device", "trapline-guestmem", "trapline-pci",
        "trapline-regs"]),
    ("trapline-remote", &["trapline", "trapline-access"]),
    ("trapline-vfio", &["trapline-device", "trapline-guestmem", "trapline-pci"]),
    ("trapline-virtio", &["trapline-regs", "trapline-block", "trapline-device", "trapline-guestio",
        "trapline-guestmem", "trapline-net", "trapline-ninep", "trapline-pci", "trapline-vsock"]),
    ("gicv3-its", &["trapline-regs"]),
    ("trapline-intc", &["gicv3-its", "trapline-regs", "trapline-device", "trapline-guestmem"]),
    ("trapline-boot", &["trapline-guestmem", "trapline-device"]),
    ("trapline-machine", &["gicv3-its", "trapline", "trapline-access", "trapline-backends",
        "trapline-block", "trapline-boot", "trapline-device", "trapline-display",
        "trapline-guestio", "trapline-guestmem", "trapline-intc", "trapline-kvm", "trapline-net", "trapline-ninep",
        "trapline-pci", "trapline-platform", "trapline-qtest", "trapline-regs", "trapline-remote",
        "trapline-symbols", "trapline-trace", "trapline-vfio", "trapline-virtio", "trapline-vsock"]),
    ("trapline-control", &[]),
    ("trapline-vmm", &["trapline", "trapline-control", "trapline-device", "trapline-machine",
        "trapline-qtest",
        "trapline-trace"]),
    (
        "trapline-testkit",
        &[
            "trapline",
            "trapline-backends",
            "trapline-device",
            "trapline-guestmem",
            "trapline-regs",
        ],
    ),
    ("trapline-diskload", &[]),
    ("trapline-fileload", &[]),
    ("trapline-metronome", &[]),
    ("trapline-netload", &[]),
    ("trapline-sockload", &[]),
    ("xtask", &[]),
];

/// What tests and benches may name besides: what they drive their crate with.
const TESTS_MAY_NAME: [&str; 2] = ["trapline-testkit", "trapline-guestmem"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let ours = |name: &str| tree.packages.iter().any(|package| package.name == name);
    let mut findings = Vec::new();
    for package in &tree.packages {
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == package.name) else {
            findings.push(Finding(format!("{}: give it a row in {}", package.name, file!())));
            continue;
        };
        for (name, tests_only) in package.dependencies.iter().filter(|(name, _)| ours(name)) {
            let testing = *tests_only && TESTS_MAY_NAME.contains(&name.as_str());
            if !testing && !allowed.contains(&name.as_str()) {
                findings.push(Finding(format!("{} must not depend on {name}", package.name)));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Package;
    use super::super::testing::texts;
    use super::*;

    #[test]
    fn a_device_may_not_name_the_registry_but_its_tests_may_name_the_testkit() {
        let package = |name: &str, dependencies: &[(&str, bool)]| Package {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(|(name, dev)| ((*name).into(), *dev)).collect(),
            targets: vec![],
        };
        let platform = [
            ("serde", false),
            ("trapline", false),
            ("trapline-testkit", true),
            ("trapline-regs", false),
        ];
        let testkit = package("trapline-testkit", &[]);
        let packages = vec![
            package("trapline-platform", &platform),
            package("trapline", &[]),
            testkit,
            package("trapline-regs", &[("trapline-testkit", false)]),
        ];
        let findings = check(&Tree { files: vec![], packages });
        assert_eq!(
            texts(&findings),
            [
                "trapline-platform must not depend on trapline",
                "trapline-regs must not depend on trapline-testkit",
            ]
        );
    }
}
