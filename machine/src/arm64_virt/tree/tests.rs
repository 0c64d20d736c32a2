use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::Deserialize;
use trapline::Registry;
use trapline_backends::{NoQueuedWrites, PolledLoop};
use trapline_device::{FdtValue, MsiController, MsiSink, NullBackend};
use trapline_guestmem::GuestMem;
use trapline_pci::{Devfn, Edu, Slot};
use trapline_testkit::{TestClock, TestLine, TestPower, skip};

use super::*;
use crate::VirtioTransport;
use crate::arm64_virt::{FLASH, Source};
use crate::board::{EntropyFrom, Lines, Options, Spared, Vfio, Wiring};
use crate::flash::{Access, FlashFile, FlashImage};

struct Nowhere;

impl MsiController for Nowhere {
    fn sink(&self, _requester: u16) -> Arc<dyn MsiSink> {
        Arc::new(Self)
    }
}

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

/// Flash with nothing in it.
fn blank() -> Arc<FlashImage> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    FlashImage::new(FlashFile::open(file.path(), FLASH, Access::ReadWrite).unwrap())
}

/// The board's tree, with flash and a PCI device where there is something to see.
fn tree(facts: &Facts<'_>, flash: bool, edu: bool) -> FdtNode {
    tree_with(facts, flash, edu, None)
}

/// The same, with an entropy source behind these registers.
fn tree_with(
    facts: &Facts<'_>,
    flash: bool,
    edu: bool,
    virtio: Option<VirtioTransport>,
) -> FdtNode {
    let irqchip = facts.irqchip;
    let msi = matches!(irqchip, Irqchip::Gicv2m | Irqchip::Gicv3Its);
    let wiring = Wiring {
        isolates: Arc::default(),
        vfio: Vfio::default(),
        registry: Registry::builder().build(),
        clock: Arc::new(TestClock::default()),
        host_clock: Arc::new(TestClock::default()),
        event_loop: PolledLoop::new(NoQueuedWrites).unwrap(),
        power: Arc::new(TestPower::default()),
        ram: GuestMem::new(&[(0x8000_0000, 0x1000)]).unwrap(),
        journal: None,
        options: Options {
            cpus: 1,
            mem_bytes: 0x1000,
            console: Arc::new(NullBackend),
            console_kind: crate::ConsoleKind::Serial,
            ports: Vec::new(),
            balloon: None,
            nets: Vec::new(),
            firmware_log: None,
            exit_port: false,
            testdev: false,
            fw_cfg: Vec::new(),
            firmware: None,
            legacy: true,
            config_space: crate::PcConfigSpace::Ports,
            earlycon: false,
            virtio: virtio.unwrap_or_default().into(),
            rng: virtio.map(|_| EntropyFrom::Sequence),
            edu: 0,
            disks: Vec::new(),
            plugs: false,
            shares: Vec::new(),
            vsock: None,
            stand_ins: None,
            awaits_files: true,
            spared: Spared { writes: false, reads: false },
        },
    };
    let source = Source {
        lines: Lines::new(|_| TestLine::default().line()),
        messages: msi.then(|| -> Arc<dyn MsiController> { Arc::new(Nowhere) }),
        controllers: None,
        flash: flash.then(blank),
    };
    let board = Arm64Virt::new(&wiring, &source).unwrap();
    if edu {
        let devfn = Devfn::from_bits(0);
        let slot = Slot { name: "edu", devfn, pin: None, messages: None };
        let edu = Edu::function(slot, &wiring.clock, &*wiring.event_loop).unwrap();
        board.bus.insert(devfn, edu).unwrap();
    }
    board.describe(facts)
}

/// The machine of kvmtool's recorded tree.
fn facts() -> Facts<'static> {
    Facts {
        ram: 0x8000_0000..0x9000_0000,
        affinities: &[0x8000_0000, 0x8000_0001],
        irqchip: Irqchip::Gicv3Its,
        aarch32: false,
        pmu: false,
        timer_hz: None,
        kaslr_seed: 0,
        bootargs: Some(" console=ttyS0 root=/dev/vda rw  console=ttyS0"),
        initrd: Some(0x8fd0_ed44..0x8fdf_fffc),
    }
}

/// Machines as different as they can be.
fn variants() -> Vec<Facts<'static>> {
    let mut variants = Vec::new();
    for irqchip in Irqchip::ORDER {
        variants.push(Facts { irqchip, ..facts() });
        variants.push(Facts {
            irqchip,
            ram: 0x1_0000_0000..0x11_0000_0000,
            affinities: &[0x8000_0000],
            pmu: true,
            aarch32: true,
            timer_hz: Some(24_000_000),
            kaslr_seed: 0x0123_4567_89ab_cdef,
            bootargs: None,
            initrd: None,
        });
    }
    variants
}

/// The tree as a person reads it.
fn source(node: &FdtNode, depth: usize, out: &mut String) {
    let indent = "    ".repeat(depth);
    for (name, value) in &node.properties {
        let _ = match value {
            FdtValue::Empty => writeln!(out, "{indent}{name};"),
            FdtValue::Cells(cells) => {
                let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:#x}")).collect();
                writeln!(out, "{indent}{name} = <{}>;", cells.join(" "))
            }
            FdtValue::Strings(strings) => {
                let strings: Vec<String> = strings.iter().map(|text| format!("{text:?}")).collect();
                writeln!(out, "{indent}{name} = {};", strings.join(", "))
            }
        };
    }
    for child in &node.children {
        let _ = writeln!(out, "{indent}{} {{", child.name);
        source(child, depth + 1, out);
        let _ = writeln!(out, "{indent}}};");
    }
}

fn text(tree: &FdtNode) -> String {
    let mut out = String::new();
    source(tree, 0, &mut out);
    out
}

#[test]
fn the_tree_of_a_gicv3_with_an_its() {
    insta::assert_snapshot!(text(&tree(&facts(), false, false)));
}

#[test]
fn the_tree_of_a_32_bit_machine_with_gicv2m_and_everything_else() {
    let facts =
        variants().into_iter().find(|facts| facts.aarch32 && facts.irqchip == Irqchip::Gicv2m);
    insta::assert_snapshot!(text(&tree(&facts.unwrap(), true, true)));
}

/// The device tree compiler has an eye for what is not as the specification wants it.
#[test]
fn the_device_tree_compiler_has_nothing_to_say() {
    if Command::new("dtc").arg("--version").output().is_err() {
        return skip("the_device_tree_compiler_has_nothing_to_say", "dtc is missing");
    }
    let variants = variants();
    let trees = variants.iter().flat_map(|facts| [false, true].map(|more| (facts, more)));
    for (facts, more) in trees {
        let blob = trapline_boot::fdt::flatten(&tree(facts, more, more)).unwrap();
        let mut dtc = Command::new("dtc")
            .args(["-I", "dtb", "-O", "dts", "-o", "/dev/null", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        dtc.stdin.take().unwrap().write_all(&blob).unwrap();
        let output = dtc.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{facts:?}: {said}");
    }
}

#[derive(Deserialize)]
struct Kvmtool {
    node: Vec<Node>,
    difference: Vec<Difference>,
}

#[derive(Deserialize)]
struct Node {
    kvmtool: String,
    ours: String,
    #[serde(flatten)]
    properties: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Cells(Vec<u32>),
    Strings(Vec<String>),
}

#[derive(Deserialize)]
struct Difference {
    /// Nodes with another name, and `NODE PROPERTY` with another value.
    what: Vec<String>,
    why: String,
}

impl Value {
    fn is(&self, ours: &FdtValue) -> bool {
        match (self, ours) {
            (Self::Cells(cells), FdtValue::Empty) => cells.is_empty(),
            (Self::Cells(theirs), FdtValue::Cells(ours)) => theirs == ours,
            (Self::Strings(theirs), FdtValue::Strings(ours)) => theirs == ours,
            _ => false,
        }
    }
}

/// Every node below `node` by its path.
fn paths<'a>(node: &'a FdtNode, path: &str, all: &mut BTreeMap<String, &'a FdtNode>) {
    all.insert(if path.is_empty() { "/".to_owned() } else { path.to_owned() }, node);
    for child in &node.children {
        paths(child, &format!("{path}/{}", child.name), all);
    }
}

#[test]
fn kvmtool_tells_its_guest_the_same_but_for_what_is_listed() {
    let kvmtool: Kvmtool = toml::from_str(include_str!("kvmtool.toml")).unwrap();
    // It had a network card in place of our device.
    let root = tree(&facts(), false, true);
    let mut ours = BTreeMap::new();
    paths(&root, "", &mut ours);
    let mut found = Vec::new();
    for node in &kvmtool.node {
        let Some(same) = ours.remove(&node.ours) else { panic!("we have no {}", node.ours) };
        // A child's path differs with its parent's name, which counts once.
        if node.kvmtool.rsplit('/').next() != node.ours.rsplit('/').next() {
            found.push(node.ours.clone());
        }
        let mut properties: BTreeMap<_, _> = same.properties.iter().cloned().collect();
        for (name, value) in &node.properties {
            let ours = properties.remove(name.as_str());
            if !ours.is_some_and(|ours| value.is(&ours)) {
                found.push(format!("{} {name}", node.ours));
            }
        }
        found.extend(properties.keys().map(|name| format!("{} {name}", node.ours)));
    }
    found.extend(ours.into_keys());
    assert!(kvmtool.difference.iter().all(|difference| !difference.why.is_empty()));
    let mut listed: Vec<String> =
        kvmtool.difference.into_iter().flat_map(|difference| difference.what).collect();
    found.sort();
    listed.sort();
    assert_eq!(found, listed);
}

#[test]
fn a_virtio_device_has_a_window_and_an_interrupt_unless_it_is_on_the_bus() {
    let pci = tree_with(&facts(), false, false, Some(VirtioTransport::Pci));
    let node =
        |tree: &FdtNode| tree.children.iter().find(|node| node.name == "virtio@3000000").cloned();
    assert_eq!(node(&pci), None);
    for virtio in [VirtioTransport::Mmio, VirtioTransport::MmioLegacy] {
        let node = node(&tree_with(&facts(), false, false, Some(virtio))).unwrap();
        let strings = FdtValue::Strings(vec!["virtio,mmio".to_owned()]);
        assert_eq!(node.get("compatible"), Some(&strings));
        assert_eq!(node.get("reg"), Some(&FdtValue::Cells(vec![0, 0x300_0000, 0, 0x200])));
        assert_eq!(node.get("interrupts"), Some(&FdtValue::Cells(vec![0, 36, 4])));
    }
}
