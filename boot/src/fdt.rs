//! The flattened device tree (Devicetree Specification v0.4, chapter 5) of nodes that devices and
//! boards have described.

use trapline_device::{FdtNode, FdtValue};
use trapline_guestmem::GuestMem;
use vm_fdt::FdtWriter;

use crate::error::{Error, placing};

/// The most bytes a tree may have here (kvmtool's `FDT_MAX_SIZE`). arm64 Linux takes up to 2 MiB.
pub const FDT_MAX: u64 = 0x1_0000;

/// Flattens the tree below `root`, whose own name does not count.
///
/// # Errors
/// A name is not one the specification allows, two nodes have one phandle, or a string contains
/// a NUL.
pub fn flatten(root: &FdtNode) -> Result<Vec<u8>, Error> {
    let refused = |error: vm_fdt::Error| Error::DeviceTree { reason: error.to_string() };
    let mut writer = FdtWriter::new().map_err(refused)?;
    node(&mut writer, "", root).map_err(refused)?;
    writer.finish().map_err(refused)
}

fn node(writer: &mut FdtWriter, name: &str, node_: &FdtNode) -> Result<(), vm_fdt::Error> {
    let begun = writer.begin_node(name)?;
    for (name, value) in &node_.properties {
        match value {
            FdtValue::Empty => writer.property_null(name)?,
            // What others refer to by number must not come twice; the writer watches over it.
            FdtValue::Cells(cells) if name == "phandle" => match cells.as_slice() {
                [phandle] => writer.property_phandle(*phandle)?,
                _ => writer.property_array_u32(name, cells)?,
            },
            FdtValue::Cells(cells) => writer.property_array_u32(name, cells)?,
            FdtValue::Strings(strings) => {
                writer.property_string_list(name, strings.clone())?;
            }
        }
    }
    for child in &node_.children {
        node(writer, &child.name, child)?;
    }
    writer.end_node(begun)
}

/// Puts a flattened tree to guest address `addr`, where there is room for [`FDT_MAX`] bytes.
///
/// # Errors
/// It is longer, or that is not RAM.
pub fn write(mem: &GuestMem, addr: u64, blob: &[u8]) -> Result<(), Error> {
    let need = blob.len() as u64;
    if need > FDT_MAX {
        return Err(Error::NoRoom { what: "the device tree", need, room: FDT_MAX });
    }
    mem.write(addr, blob).map_err(placing("device tree"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_flattened_in_order() {
        let root = FdtNode::new("")
            .text("compatible", "linux,dummy-virt")
            .child(FdtNode::new("cpus").cells("#size-cells", [0]).flag("empty"));
        let blob = flatten(&root).unwrap();
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0xd00d_feed, "magic");
        assert_eq!(word(4) as usize, blob.len(), "totalsize");
        let structure = word(8) as usize;
        assert_eq!((word(structure), word(structure + 4)), (1, 0), "FDT_BEGIN_NODE, no name");
        assert_eq!(word(structure + 8), 3, "FDT_PROP");
        assert_eq!(&blob[structure + 20..structure + 36], b"linux,dummy-virt");
    }

    #[test]
    fn what_no_tree_can_have_is_refused() {
        let nul = FdtNode::new("").text("bootargs", "a\0b");
        assert!(matches!(flatten(&nul), Err(Error::DeviceTree { .. })));
        let handle = || FdtNode::new("a").cells("phandle", [1]);
        let same = FdtNode::new("").child(handle()).child(FdtNode { name: "b".into(), ..handle() });
        assert!(flatten(&same).is_err());
    }

    #[test]
    fn a_tree_that_is_too_long_is_refused() {
        let mem = GuestMem::new(&[(0, 0x4_0000)]).unwrap();
        write(&mem, 0x1_0000, &vec![1; 0x1_0000]).unwrap();
        assert!(matches!(write(&mem, 0, &vec![1; 0x1_0001]), Err(Error::NoRoom { .. })));
    }
}
