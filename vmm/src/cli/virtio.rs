//! What registers virtio devices have: `--virtio-transport` and `--virtio-legacy`.

use anyhow::bail;
use trapline_machine::VirtioTransport;
use trapline_machine::boot::cmdline::Machine;
use trapline_machine::qtest::BoardKind;

use super::args::DeviceArgs;

/// As the user wants it, on this kind of machine. `--virtio-legacy` is the older version of whatever
/// transport it is.
pub(super) fn transport(args: &DeviceArgs, machine: Machine) -> anyhow::Result<VirtioTransport> {
    let name = args.virtio_transport.as_deref().unwrap_or("pci");
    let board = match machine {
        Machine::Pc => BoardKind::X86Pc,
        Machine::Arm64 => BoardKind::Arm64Virt,
    };
    match (name, args.virtio_legacy) {
        ("pci", true) => for_board("pci-legacy", board),
        ("mmio", true) => for_board("mmio-legacy", board),
        _ => for_board(name, board),
    }
}

/// The transport with this name, on this board.
pub(super) fn for_board(name: &str, board: BoardKind) -> anyhow::Result<VirtioTransport> {
    let wanted = match name {
        "pci" => return Ok(VirtioTransport::Pci),
        "pci-legacy" => {
            bail!("--virtio-transport pci-legacy: legacy PCI does not exist yet in this version")
        }
        "mmio" => VirtioTransport::Mmio,
        "mmio-legacy" => VirtioTransport::MmioLegacy,
        other => {
            bail!("--virtio-transport {other}: not one of pci, pci-legacy, mmio and mmio-legacy")
        }
    };
    if board == BoardKind::X86Pc {
        bail!("--virtio-transport {name}: a PC has virtio devices on the PCI bus only");
    }
    Ok(wanted)
}
