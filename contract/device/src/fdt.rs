//! How a device describes itself to a guest that reads a device tree (Devicetree Specification
//! v0.4): a node with everything the device knows of itself. Where it is and which interrupts it
//! raises, the board adds.

use std::borrow::Cow;
use std::ops::Range;

/// A node: properties, then nodes below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdtNode {
    /// Its name, with the unit address once it has one.
    pub name: Cow<'static, str>,
    /// Its properties, in order.
    pub properties: Vec<(Cow<'static, str>, FdtValue)>,
    /// The nodes below it, in order.
    pub children: Vec<FdtNode>,
}

/// The value of a property (Devicetree Specification, table 2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdtValue {
    /// `<empty>`: that it is there says it all.
    Empty,
    /// `<u32>`, `<u64>` and arrays of them, in cells of 32 bits, the upper half of 64 first.
    Cells(Vec<u32>),
    /// `<string>` and `<stringlist>`.
    Strings(Vec<String>),
}

/// A device that can describe itself.
pub trait FdtDevice {
    /// Its node, without `reg` and `interrupts`.
    fn fdt_node(&self) -> FdtNode;
}

impl FdtNode {
    /// A node without properties.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), properties: Vec::new(), children: Vec::new() }
    }

    /// Adds a property without a value.
    #[must_use]
    pub fn flag(self, name: &'static str) -> Self {
        self.property(name, FdtValue::Empty)
    }

    /// Adds a property of 32-bit cells.
    #[must_use]
    pub fn cells(self, name: &'static str, cells: impl IntoIterator<Item = u32>) -> Self {
        self.property(name, FdtValue::Cells(cells.into_iter().collect()))
    }

    /// Adds a property of 64-bit numbers, each two cells.
    #[must_use]
    pub fn longs(self, name: &'static str, longs: impl IntoIterator<Item = u64>) -> Self {
        self.cells(name, longs.into_iter().flat_map(split))
    }

    /// Adds a property of one string.
    #[must_use]
    pub fn text(self, name: &'static str, text: &str) -> Self {
        self.texts(name, [text])
    }

    /// Adds a property of several strings.
    #[must_use]
    pub fn texts<'a>(self, name: &'static str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        self.property(name, FdtValue::Strings(texts.into_iter().map(str::to_owned).collect()))
    }

    /// Adds a property.
    #[must_use]
    pub fn property(mut self, name: &'static str, value: FdtValue) -> Self {
        self.properties.push((name.into(), value));
        self
    }

    /// Adds a node below.
    #[must_use]
    pub fn child(mut self, node: Self) -> Self {
        self.children.push(node);
        self
    }

    /// Says where the device is: in two cells each, the guest address and the length of `range`
    /// go into `reg`, after those of an earlier call. The first address is in the node's name.
    #[must_use]
    pub fn at(mut self, range: Range<u64>) -> Self {
        let cells = [range.start, range.end - range.start].into_iter().flat_map(split);
        let reg = self.properties.iter_mut().find(|(name, _)| name == "reg");
        if let Some((_, FdtValue::Cells(reg))) = reg {
            reg.extend(cells);
            return self;
        }
        self.name = format!("{}@{:x}", self.name, range.start).into();
        self.cells("reg", cells)
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<&FdtValue> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// The two cells of a 64-bit number.
fn split(long: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = long.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_adds_the_place_to_what_the_device_says() {
        let node = FdtNode::new("rtc").text("compatible", "motorola,mc146818");
        let node = node.at(0x1_0101_0000..0x1_0101_0002);
        assert_eq!(node.name, "rtc@101010000");
        assert_eq!(node.get("reg"), Some(&FdtValue::Cells(vec![1, 0x101_0000, 0, 2])));
        let node = node.at(0x10..0x20);
        assert_eq!(node.name, "rtc@101010000");
        let reg = FdtValue::Cells(vec![1, 0x101_0000, 0, 2, 0, 0x10, 0, 0x10]);
        assert_eq!(node.get("reg"), Some(&reg));
        assert_eq!(node.get("interrupts"), None);
    }
}
